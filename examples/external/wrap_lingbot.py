"""LingBot-Map as an outside method: what a wrapper of any model looks like, around one whose answer is known.

lingbot-eval external check python examples/external/wrap_lingbot.py
"""

from functools import partial

from lingbot_eval.external import Pose, Wrapper, serve  # in an environment without it: the one file, copied beside this


class LingbotMap(Wrapper):
    name, version = "lingbot-map", "shipped"

    def start(self, scene):
        """Load the model, in no frame's time."""
        import lingbot_eval as lb  # here it stands for your own model's package

        size = {"mode": "exact", "width": scene.width, "height": scene.height}
        self.open = partial(lb.load_model("shipped", device="auto").session, frames=scene.length, size=size)
        self.session = self.open()

    def warm_up(self, frame):
        """Touch everything once, in a session that is thrown away."""
        session = self.open()
        for _ in range(11):
            session.step(frame.image())

    def step(self, frame):
        """The poses that are ready: none while the scale frames gather, then all of theirs, then one a frame."""
        return [as_pose(prediction) for prediction in self.session.step(frame.image(), frame.time)]

    def finish(self):
        """Those that were held back."""
        return [as_pose(prediction) for prediction in self.session.finish()]


def as_pose(prediction):
    """Camera-to-world, OpenCV axes, depth along z: as the protocol wants it. Other models need turning here."""
    return Pose(
        prediction.index,
        prediction.camera_to_world,
        prediction.depth,
        prediction.depth_confidence,
        prediction.frame_type.name.lower(),
    )


if __name__ == "__main__":
    serve(LingbotMap())
