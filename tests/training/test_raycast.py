"""The ray caster shows what the evaluation's renderer shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lingbot_eval.adapters.protocol import Selection
from lingbot_eval.adapters.synthetic.adapter import SyntheticAdapter, SyntheticOptions
from lingbot_eval.adapters.synthetic.scene import build_scene
from lingbot_eval.training.raycast import RayCaster
from lingbot_eval.training.scene_arrays import scene_arrays

CPU = torch.device("cpu")


@pytest.mark.parametrize(("kind", "seed"), [("room", 3), ("corridor", 4), ("office", 5), ("loop", 6)])
def test_pictures_and_depths_are_those_of_the_evaluation(kind: str, seed: int) -> None:
    options = SyntheticOptions(frames=60, width=112, height=84, fov=70.0, step=0.2, seed=seed)
    sequence = SyntheticAdapter(None, options).open(kind, Selection(stride=20))
    frames = list(sequence.frames())
    poses = torch.from_numpy(np.stack([frame.camera_to_world for frame in frames]))
    caster = RayCaster(scene_arrays(build_scene(kind, seed)), CPU)
    images, depths = caster.render(poses, float(sequence.intrinsics[0, 0]), (112, 84))
    for frame, image, depth in zip(frames, images, depths, strict=True):
        off = np.abs(depth.numpy() / frame.depth - 1.0)
        # Where two faces meet, rounding may decide for the other one.
        assert np.quantile(off, 0.995) < 1e-4
        difference = np.abs(image.permute(1, 2, 0).numpy().astype(int) - frame.image.astype(int)).max(axis=-1)
        assert np.quantile(difference, 0.99) <= 1
