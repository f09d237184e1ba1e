"""A known walk through a known room, and a method that is wrong about both in known ways.

The walk has three straight stretches of four frames, a metre a frame. The method's world is another one: turned,
moved and GAIN times as large. Within each stretch its positions are off upwards by +, −, −, + one amount: such an error
is orthogonal to everything linear along the stretch, so that every least-squares alignment finds the true rotation,
and the scale in closed form. Its cameras are turned about their world's vertical by YAW_ERROR.

Depth has bands of 1, 2 and 4 m: the method's is a ratio of it that changes at frame SWITCH, and half too far in the
last band. One column has no truth, one no prediction, and one lies beyond the depth range that the experiment sets.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel

from lingbot_eval.methods.base import BaseMethod, method
from lingbot_eval.types import FloatArray, Frame, FrameType, Measurement, Prediction, StepCost

SCENE = "rgbd_dataset_freiburg1_walk"
FRAMES = 12
WIDTH, HEIGHT = 56, 42
START_S, RATE = 100.0, 30

POSITIONS = np.array(
    [[0, 0], [1, 0], [2, 0], [3, 0], [3, 1], [3, 2], [3, 3], [3, 4], [2, 4], [1, 4], [0, 4], [-1, 4]], dtype=np.float64
)
YAW = np.radians(10.0 * np.arange(FRAMES))
HEIGHT_ERROR = np.concatenate([amount * np.array([1, -1, -1, 1]) for amount in (0.01, 0.03, 0.08)])
# No difference of two is a whole number of degrees, where rounding would decide which bin of the AUC it is in.
YAW_STEPS_DEG = np.array([0, 1.3, 0, 0, 3.4, 0, 0, 0, 7.7, 0, 0])
YAW_ERROR_DEG = np.concatenate([[0], np.cumsum(YAW_STEPS_DEG)])
GAIN = 0.45  # the method's metres for each true one

BANDS = np.repeat([1.0, 2.0, 4.0], [10, 22, 10])  # metres of each row
RATIOS = np.repeat([0.5, 0.25], [5, 7])  # of each frame; exact in binary, so that equal errors are equal
TOO_FAR = 1.5  # in the last band
NO_TRUTH, NO_PREDICTION, TOO_DEEP = 0, 1, 2  # columns
DEPTH_RANGE = [0.5, 6.0]

STEP_MS = np.array([200, 200, 10, 12, 14, 16, 18, 20, 22, 24, 26, 90], dtype=np.float64)
SCALE_FRAMES = 2
MIB = 2**20
BROKEN_AT, EARLY_END = 5, 9
WORSE = 1.5


def about_z(angle: FloatArray | float) -> FloatArray:
    """(..., 3, 3) rotations."""
    cosine, sine = np.cos(angle), np.sin(angle)
    zero, one = np.zeros_like(cosine), np.ones_like(cosine)
    return np.stack(
        [
            np.stack([cosine, -sine, zero], -1),
            np.stack([sine, cosine, zero], -1),
            np.stack([zero, zero, one], -1),
        ],
        -2,
    )


def true_poses() -> FloatArray:
    """(FRAMES, 4, 4) camera-to-world, metres."""
    poses = np.tile(np.eye(4), (FRAMES, 1, 1))
    poses[:, :3, :3] = about_z(YAW)
    poses[:, :2, 3] = POSITIONS
    return poses


def estimated_poses(worse: float = 1.0) -> FloatArray:
    """(FRAMES, 4, 4) camera-to-world, in the method's world. worse: factor of the errors of position."""
    poses = true_poses()
    poses[:, 2, 3] += worse * HEIGHT_ERROR
    poses[:, :3, :3] = about_z(YAW + np.radians(YAW_ERROR_DEG))
    world = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])  # its axes are called otherwise
    poses[:, :3, :3] = world @ poses[:, :3, :3]
    poses[:, :3, 3] = GAIN * (poses[:, :3, 3] @ world.T + [5.0, -3.0, 2.0])
    return poses


def true_depth() -> FloatArray:
    """(HEIGHT, WIDTH) metres, the same in each frame."""
    depth = np.repeat(BANDS[:, None], WIDTH, axis=1)
    depth[:, NO_TRUTH] = 0
    depth[:, TOO_DEEP] = 10.0
    return depth


def estimated_depth(index: int) -> FloatArray:
    """(HEIGHT, WIDTH), in the method's unit."""
    depth = RATIOS[index] * np.repeat((BANDS * np.where(BANDS == 4.0, TOO_FAR, 1.0))[:, None], WIDTH, axis=1)
    depth[:, NO_PREDICTION] = 0
    return depth


def confidence() -> FloatArray:
    """(HEIGHT, WIDTH): least where the depth is wrong."""
    return np.repeat(np.where(BANDS == 4.0, 1.0, 2.0)[:, None], WIDTH, axis=1) + np.arange(WIDTH) / 1000


def write_room(root: Path) -> Path:
    """The walk in the layout of TUM RGB-D."""
    folder = root / SCENE
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    colour, depth, truth = [], [], []
    for index, pose in enumerate(true_poses()):
        stamp = f"{START_S + index / RATE:.6f}"
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 20 * index, np.uint8)).save(folder / "rgb" / f"{stamp}.png")
        Image.fromarray(np.round(5000 * true_depth()).astype(np.uint16)).save(folder / "depth" / f"{stamp}.png")
        colour.append(f"{stamp} rgb/{stamp}.png\n")
        depth.append(f"{stamp} depth/{stamp}.png\n")
        x, y, z = pose[:3, 3]
        half = YAW[index] / 2
        truth.append(f"{stamp} {x:g} {y:g} {z:g} 0 0 {np.sin(half):.12f} {np.cos(half):.12f}\n")
    for name, lines in (("rgb", colour), ("depth", depth), ("groundtruth", truth)):
        (folder / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    return root


class WalkerSettings(BaseModel):
    """does: everything; or it stops early, gives no cost, or only of some frames; or it breaks, or is
    WORSE times as wrong, as long as the file ``while_there`` is there."""

    does: Literal["everything", "stops_early", "no_cost", "some_cost", "breaks", "is_worse"] = "everything"
    while_there: str = ""


@method("walker")
class Walker(BaseMethod):
    """Walks as this module says."""

    Settings = WalkerSettings

    def warm_up(self, frame: Frame) -> float:
        """A second and a half, says it."""
        return 1.5

    def predict(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        """Its idea of each frame."""
        trouble = Path(self.settings.while_there).is_file()
        poses = estimated_poses(WORSE if self.settings.does == "is_worse" and trouble else 1.0)
        for frame in frames:
            k = frame.index
            if self.settings.does == "stops_early" and k == EARLY_END:
                return
            if self.settings.does == "breaks" and k == BROKEN_AT and trouble:
                raise ArithmeticError("the walker lost its way")
            cost = StepCost(
                STEP_MS[k] / 1000,
                {
                    "anchor": 1 * MIB,
                    "window": (2 + k) * MIB,
                    "memory": (20 + 2 * k) * MIB,
                    "camera_head": (50 + 3 * k) * MIB,
                },
                device_bytes=(500 + 5 * k) * MIB,
            )
            untold = self.settings.does == "some_cost" and k % 3 == 0
            time.sleep(0.002)  # so that end to end is no time at all on no clock
            yield Prediction(
                k,
                frame.timestamp,
                camera_to_world=poses[k],
                depth=estimated_depth(k).astype(np.float32),
                depth_confidence=confidence().astype(np.float32),
                frame_type=FrameType.SCALE if k < SCALE_FRAMES else (FrameType.KEPT if k % 2 else FrameType.UNKEPT),
                cost=None if self.settings.does == "no_cost" or untold else cost,
            )

    def resources(self) -> tuple[Measurement, ...]:
        """Its size."""
        return (Measurement("memory", "weights", "", 24.0, "MiB", "parameters"),)


def experiment(root: Path, methods: dict[str, dict[str, str]]) -> dict[str, Any]:
    """The walk under walkers, settings by name."""
    dataset = {"name": "tum", "root": str(root), "scenes": [SCENE], "depth_range": DEPTH_RANGE}
    return {
        "name": "walk",
        "datasets": [{**dataset, "size": {"mode": "exact", "width": WIDTH, "height": HEIGHT}}],
        "methods": [{"kind": "walker", "name": name, **settings} for name, settings in methods.items()],
        "metrics": {"drift": {"segment_every": 3, "rpe_frames": [1, 4], "rpe_metres": [2.0]}},
    }
