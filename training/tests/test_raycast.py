"""The ray caster shows what the evaluation's renderer shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.datasets.synthetic.adapter import SyntheticAdapter, SyntheticOptions
from training import scene_jobs
from training.raycast import RayCaster

CPU = torch.device("cpu")


@pytest.mark.parametrize(("kind", "seed"), [("room", 3), ("corridor", 4), ("office", 5), ("loop", 6)])
def test_pictures_and_depths_are_those_of_the_evaluation(kind: str, seed: int) -> None:
    options = SyntheticOptions(frames=60, width=112, height=84, fov=70.0, step=0.2, seed=seed)
    sequence = SyntheticAdapter(None, options).open(kind, Selection(stride=20))
    frames = list(sequence.frames())
    poses = torch.from_numpy(np.stack([frame.camera_to_world for frame in frames]))
    caster = RayCaster(scene_jobs.scene_arrays(scene_jobs.build_scene(kind, seed)), CPU)
    images, depths = caster.render(poses, float(sequence.intrinsics[0, 0]), (112, 84))
    for frame, image, depth in zip(frames, images, depths, strict=True):
        off = np.abs(depth.numpy() / frame.depth - 1.0)
        # Where two faces meet, rounding may decide for the other one.
        assert np.quantile(off, 0.995) < 1e-4
        difference = np.abs(image.permute(1, 2, 0).numpy().astype(int) - frame.image.astype(int)).max(axis=-1)
        assert np.quantile(difference, 0.99) <= 1


def level_views(kind: str, seed: int, focal: float, size: tuple[int, int]) -> tuple[RayCaster, torch.Tensor]:
    """Cameras that look straight at a wall, as high above the floor as puts its edge in the middle of a row of pixels:
    there rounding decides which side of the edge a pixel is on."""
    scene = scene_jobs.build_scene(kind, seed)
    caster = RayCaster(scene_jobs.scene_arrays(scene), CPU)
    poses = []
    for point in scene.walk.points[:: len(scene.walk.points) // 8]:
        for forward in np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]]):
            pose = np.eye(4)
            down = np.array([0.0, 0.0, -1.0])
            pose[:3, 0], pose[:3, 1], pose[:3, 2] = np.cross(down, forward), down, forward
            pose[:3, 3] = [*point, 1.5]
            poses.append(pose)
    level = torch.from_numpy(np.stack(poses))
    ahead = caster.render(level, focal, size)[1][:, size[1] // 2, size[0] // 2].double()
    placed = []
    for row in range(1, size[1] // 2):
        height = (row - 0.5) / focal * ahead
        moved = level.clone()
        moved[:, 2, 3] = height
        placed.append(moved[(height > 0.4) & (height < 2.0)])
    return caster, torch.cat(placed)


@pytest.mark.parametrize(("kind", "seed"), [("room", 3), ("corridor", 4), ("office", 5), ("loop", 6)])
def test_no_ray_slips_between_two_rectangles(kind: str, seed: int) -> None:
    focal, size = 40.0, (56, 42)
    caster, poses = level_views(kind, seed, focal, size)
    assert len(poses) > 50
    _, depths = caster.render(poses, focal, size)
    assert float(depths.max()) < 100.0
