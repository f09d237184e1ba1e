"""A method, a metric and a dataset in one file: lingbot-eval run examples/arc.yaml --plugin examples/plugin_arc.py"""

import numpy as np

import lingbot_eval as lb


@lb.method("arc")
class Arc(lb.Method):
    """Walks along an arc, whatever it sees."""

    needs_images = False
    gives_depth = False

    class Settings(lb.Settings):
        radius: float = 1.0  # metres
        turn: float = 0.05  # radians a frame

    def predict(self, frames):
        for frame in frames:
            angle = self.settings.turn * frame.index
            pose = np.eye(4)
            pose[:3, 3] = self.settings.radius * np.array([1 - np.cos(angle), 0, np.sin(angle)])
            yield lb.Prediction(frame.index, frame.timestamp, pose)


@lb.metric("trajectory", unit="m", better="lower", convention="distance of the last positions, after Sim(3)")
def final_gap(reference, estimate):
    return np.linalg.norm(reference.positions[-1] - estimate.positions[-1])


@lb.dataset("recordings")
class Recordings(lb.FileDataset):
    """ROOT/SCENE/rgb/N.png, and poses.txt with a 4x4 camera-to-world matrix of 16 numbers a line."""

    layout = "SCENE/rgb/N.png beside SCENE/poses.txt"

    def frames(self, scene):
        poses = np.loadtxt(self.root / scene / "poses.txt").reshape(-1, 4, 4)
        images = lb.listed(self.root / scene / "rgb", "*.png")
        return [lb.FrameFiles(image, i / 30, pose) for i, (image, pose) in enumerate(zip(images, poses, strict=True))]
