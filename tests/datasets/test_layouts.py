"""Datasets in the exact layouts of their releases: read back, and carried from frame to frame."""

from __future__ import annotations

from pathlib import Path

import layout_trees as trees
import numpy as np
import pytest

from lingbot_eval.datasets.protocol import Selection
from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import FileSequence
from lingbot_eval.types import Frame


def opened(layout: trees.Layout, root: Path) -> FileSequence:
    layout.write(root, layout.view)
    adapter = open_adapter(layout.dataset, root, layout.options)
    assert layout.scene in adapter.scenes()
    sequence = adapter.open(layout.scene, Selection())
    assert isinstance(sequence, FileSequence)
    return sequence


def carried(first: Frame, second: Frame, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(H, W) columns, rows and depths of the first frame's pixels in the second."""
    assert first.intrinsics is not None
    assert second.intrinsics is not None
    assert first.camera_to_world is not None
    assert second.camera_to_world is not None
    points = trees.rays(first.intrinsics, depth.shape[::-1]) * depth[..., None]
    motion = np.linalg.inv(second.camera_to_world) @ first.camera_to_world
    moved = points @ motion[:3, :3].T + motion[:3, 3]
    pixels = moved @ second.intrinsics.T
    return pixels[..., 0] / moved[..., 2], pixels[..., 1] / moved[..., 2], moved[..., 2]


@pytest.mark.parametrize("name", trees.LAYOUTS)
def test_poses_depth_and_intrinsics_agree_by_reprojection(name: str, tmp_path: Path) -> None:
    layout = trees.LAYOUTS[name]
    sequence = opened(layout, tmp_path)
    frames = list(sequence.frames())
    assert len(frames) == len(layout.frames)
    assert {"poses", "depth", "intrinsics", "timestamps", "licence"} <= set(sequence.facts())
    has_pose = [frame.camera_to_world is not None for frame in frames]
    assert has_pose == [k in layout.posed and k in layout.frames for k in layout.frames]
    # The room as the walk has it, whatever the world of the file: motion from the first frame.
    for k, frame in zip(layout.frames, frames, strict=True):
        assert frame.image is not None
        if frame.intrinsics is not None:  # undistorted pictures are those of a pinhole camera
            directions = trees.rays(frame.intrinsics, frame.image.shape[1::-1])
            expected = trees.paint(trees.hit(trees.pose(k), directions)[1]).astype(int)
            inner = np.s_[4:-4, 4:-4]
            channels = 1 if layout.view.grey else 3
            wrong = np.abs(frame.image[inner][..., :channels] - expected[inner][..., :channels])
            assert np.median(wrong) <= 3, (name, k)
            assert np.percentile(wrong, 95) <= 12, (name, k)
        if layout.has_depth:
            camera = frame.intrinsics if frame.depth_intrinsics is None else frame.depth_intrinsics
            assert frame.depth is not None
            assert camera is not None
            truth = trees.hit(trees.pose(k), trees.rays(camera, frame.depth.shape[::-1]))[0]
            measured = frame.depth > 0
            assert measured.mean() > 0.99
            np.testing.assert_allclose(frame.depth[measured], truth[measured], rtol=layout.depth_error)
        else:
            assert frame.depth is None
    posed = [k for k in layout.posed if k in layout.frames]
    for k in posed[1:]:
        first, second = frames[layout.frames.index(posed[0])], frames[layout.frames.index(k)]
        assert first.camera_to_world is not None
        assert second.camera_to_world is not None
        motion = np.linalg.inv(first.camera_to_world) @ second.camera_to_world
        np.testing.assert_allclose(motion, np.linalg.inv(trees.pose(posed[0])) @ trees.pose(k), atol=2e-5)
    if len(posed) < 2:
        return
    first, second = frames[layout.frames.index(posed[0])], frames[layout.frames.index(posed[1])]
    size = first.image.shape[1::-1]  # type: ignore[union-attr]
    if layout.has_depth and first.depth_intrinsics is None:
        depth = np.asarray(first.depth, float)
    else:
        depth = trees.hit(trees.pose(posed[0]), trees.rays(first.intrinsics, size))[0]  # type: ignore[arg-type]
    columns, rows, far = carried(first, second, depth)
    column, row = np.rint(columns).astype(int), np.rint(rows).astype(int)
    inside = (column >= 2) & (column < size[0] - 2) & (row >= 2) & (row < size[1] - 2) & (depth > 0)
    assert inside.mean() > 0.4
    seen = second.image[row[inside], column[inside]].astype(int)  # type: ignore[index]
    assert np.median(np.abs(seen - first.image[inside])) < 6  # type: ignore[index]
    if layout.has_depth and second.depth_intrinsics is None:
        there = second.depth[row[inside], column[inside]]  # type: ignore[index]
        close = np.abs(far[inside] / np.maximum(there, 1e-6) - 1) < 0.03
        assert close.mean() > 0.9
