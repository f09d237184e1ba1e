"""What a user writes on the first day: a dataset, a method and a metric in one file."""

import numpy as np

import lingbot_eval as lb


@lb.dataset("mine")
class Mine(lb.FileDataset):
    """Folders of pictures with one pose a line."""

    layout = "SCENE/rgb/N.png beside SCENE/poses.txt"
    card = {"source": {"licence": "CC0"}, "protocol": {"metrics": ["trajectory"], "max_depth": 10}}  # noqa: RUF012 - users write it so

    def frames(self, scene):
        poses = np.loadtxt(self.root / scene / "poses.txt").reshape(-1, 4, 4)
        images = lb.listed(self.root / scene / "rgb", "*.png")
        depths = lb.listed(self.root / scene / "depth", "*.png")
        return [
            lb.FrameFiles(image, index / 10, pose, depth=depth)
            for index, (image, pose, depth) in enumerate(zip(images, poses, depths, strict=True))
        ]


@lb.method("droid")
class Droid(lb.Method):
    class Settings(lb.Settings):
        step: float = 0.5
        stop_after: int | None = None

    def predict(self, frames):
        print("as one does while it is new")  # noqa: T201
        for frame in frames:
            if frame.index == self.settings.stop_after:
                return
            pose = np.eye(4)
            # Twice as far as the truth, a bend that the truth does not have.
            pose[:3, 3] = (self.settings.step * frame.index, 0.1 * frame.index**2, 0)
            height, width = frame.image.shape[:2]
            yield lb.Prediction(frame.index, frame.timestamp, pose, depth=np.full((height, width), 3.0, np.float32))


@lb.metric("trajectory", unit="m", better="lower", convention="distance of the last positions", align="none")
def final_gap(reference, estimate):
    if len(reference) < 2:
        raise lb.UnscorableError("one pose has no end")
    return np.linalg.norm(reference.positions[-1] - estimate.positions[-1])


@lb.metric("depth", unit="m", better="lower", convention="mean distance of depths, mean over frames", align="none")
def depth_gap(truth, prediction):
    return np.abs(truth - prediction).mean()
