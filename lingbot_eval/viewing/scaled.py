"""One reconstruction as it is exported: in one unit, of one confidence rule, with words that say both."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import lingbot_eval
from lingbot_eval.errors import ConfigError, DataError, UnscorableError
from lingbot_eval.files.times import associate
from lingbot_eval.files.trajectories import TrajectoryFile
from lingbot_eval.geometry.alignment import umeyama
from lingbot_eval.types import DepthMap, FloatArray, Image, Trajectory
from lingbot_eval.viewing.cloud import CONFIDENT_SHARE, VoxelCloud, confidence_words
from lingbot_eval.viewing.kept import Cameras, DepthFrame, Reconstruction, add_frame, pixel_step

SAME_FRAME_S = 1e-6
_SAME_SCALE = 0.01  # relative: poses from elsewhere within it keep the depth as it is

Images = Callable[[], Iterator[tuple[int, Image]]]
"""Prepared images by frame index, ascending; each call begins anew."""
TwoPoints = tuple[tuple[float, float, float], tuple[float, float, float], float]
Scale = float | TwoPoints | Literal["truth"]


@dataclass(frozen=True, eq=False)
class ScaledScene:
    """What formats are written from, in units of the export.

    title: dataset, scene and method in words. poses: of the frames, indices those of the frames. cloud: None where none
    was kept; it and the depth are in the method's own unit until they are asked for. cameras, images: None where there
    are none. depth_frame: gives kept depth of one of depth_indices. scale: what the method's lengths are multiplied by.
    unit: ``metre`` or ``unitless``. scale_words: where the scale is from. share: of the voxels that is exported.
    """

    title: str
    poses: Trajectory
    cloud: VoxelCloud | None = None
    cameras: Cameras | None = None
    depth_frame: Callable[[int], DepthFrame] | None = None
    depth_indices: tuple[int, ...] = ()
    images: Images | None = None
    scale: float = 1.0
    unit: Literal["metre", "unitless"] = "unitless"
    scale_words: str = "none: lengths are the method's own"
    share: float = CONFIDENT_SHARE
    notes: tuple[str, ...] = ()
    made_by: str = field(default=f"lingbot_eval {lingbot_eval.__version__}")

    def points(self) -> tuple[DepthMap, Image, DepthMap, NDArray[np.int32]]:
        """What the confidence rule leaves of the voxels: positions (M, 3) float32 in the export's unit, colours (M, 3)
        uint8, confidence (M,), first frame (M,) int32. Raises DataError where there is no cloud."""
        if self.cloud is None or not len(self.cloud):
            raise DataError(
                f"{self.title}: expected a kept cloud, found none; run it again with keep.cloud=true and a method that"
                " gives depth, poses and intrinsics"
            )
        chosen = self.cloud.confident(self.share)
        positions = (self.cloud.positions[chosen] * np.float64(self.scale)).astype(np.float32)
        cloud = self.cloud
        return positions, cloud.colours[chosen], cloud.confidence[chosen], cloud.first_frame[chosen]

    def conventions(
        self, axes: str = "camera: x right, y down, z forward (OpenCV); world: that of the method"
    ) -> dict[str, str]:
        """What a file states of itself, by key."""
        facts = {
            "made_by": self.made_by,
            "scene": self.title,
            "axes": axes,
            "handedness": "right",
            "poses": "camera-to-world",
            "unit": self.unit,
            "scale": f"{self.scale!r} ({self.scale_words})",
        }
        if self.cloud is not None and self.cloud.voxel_size is not None:
            facts["confidence"] = confidence_words(self.share)
            facts["voxel_size"] = repr(self.cloud.voxel_size * self.scale)
        return facts

    def need_cameras(self) -> Cameras:
        """The cameras. Raises DataError where none were kept."""
        if self.cameras is None:
            raise DataError(
                f"{self.title}: expected intrinsics of the frames, found none; the method gives none, or an older"
                " version stored the run: run it again"
            )
        return self.cameras

    def depth_of(self, index: int) -> DepthFrame | None:
        """Depth of a frame in the export's unit; None where none was kept."""
        if self.depth_frame is None or index not in self.depth_indices:
            return None
        found = self.depth_frame(index)
        return found if self.scale == 1.0 else replace(found, depth=found.depth * np.float32(self.scale))

    def need_depth(self) -> Iterator[DepthFrame]:
        """Kept depth in the export's unit, frame by frame. Raises DataError where none was kept."""
        if not self.depth_indices:
            raise DataError(
                f"{self.title}: expected kept depth, found none; set keep.depth (all, kept or n), run again"
            )
        return (found for index in self.depth_indices if (found := self.depth_of(index)) is not None)


def stated(facts: Mapping[str, str], mark: str = "# ") -> list[str]:
    """Facts as comments of a file, a line each: what comes from names of files is on one line, too."""
    return [f"{mark}{key}: {''.join(c if c.isprintable() else '?' for c in text)}" for key, text in facts.items()]


def numbers(row: Iterable[float]) -> str:
    """Numbers for a line of a file, each the shortest text that reads back as the same one."""
    return " ".join(repr(float(value)) for value in row)


def make_scaled(
    kept: Reconstruction,
    title: str,
    *,
    scale: Scale | None = None,
    poses: Trajectory | None = None,
    images: Images | None = None,
    share: float = CONFIDENT_SHARE,
    done: Callable[[], object] = lambda: None,
) -> ScaledScene:
    """A stored reconstruction, ready to be exported.

    Args:
        kept: what a run kept.
        title: of it, in words.
        scale: a factor from the method's unit to metres; two points in the method's world and their distance in
            metres; ``truth`` for that of the Sim(3) between estimate and reference. None: the unit is not known.
        poses: in place of the estimate; the cloud is then made anew from kept depth. Frames meet by their times, of
            files without any by the names of exported images, or row by row.
        images: the prepared images, where they can still be had.
        share: of the voxels that is exported, by confidence.
        done: called after each frame of a cloud that is made anew.

    Returns:
        The scene.

    Raises:
        DataError: there are no poses, no truth or no depth where they are needed, or poses that meet no frame.
        ConfigError: a scale that is none.
        StoreError: a kept file that is damaged.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"expected a share of the voxels above 0 and at most 1, found {share:g}")
    estimate = kept.poses
    if estimate is None or not len(estimate):
        raise DataError(f"{title}: expected poses, found none; the method gave none, or its run failed")
    scene = ScaledScene(
        title=title,
        poses=estimate,
        cloud=kept.cloud(),
        cameras=kept.cameras(),
        depth_frame=kept.depth_frame,
        depth_indices=kept.depth_indices(),
        images=images,
        share=share,
    )
    if poses is not None:
        scene = _on_poses(scene, poses, done)
    if scene.cloud is None or not len(scene.cloud):
        scene = replace(scene, notes=(*scene.notes, "no cloud was kept (keep.cloud, or a method without depth)"))
    return scene if scale is None else _scaled(scene, *_factor(scene, kept.reference, scale))


def _factor(scene: ScaledScene, reference: Trajectory | None, scale: Scale) -> tuple[float, str]:
    """The factor to metres, and where it is from."""
    if scale == "truth":
        if reference is None:
            raise DataError(f"{scene.title}: expected true poses to scale by, found none; give a factor or two points")
        try:
            true, own = associate(reference.timestamps, scene.poses.timestamps, SAME_FRAME_S)
            found = umeyama(scene.poses.positions[own], reference.positions[true], with_scale=True).scale
        except (UnscorableError, DataError, ValueError) as error:
            raise DataError(f"{scene.title}: no scale from the truth: {error}; give a factor or two points") from error
        return _checked(found), f"Sim(3) of the estimate onto the truth, {len(own)} frames"
    if isinstance(scale, tuple):
        first, second, metres = scale
        length = float(np.linalg.norm(np.subtract(first, second)))
        if not (np.isfinite(length) and length > 0):
            raise ConfigError(f"expected two different points to scale by, found {first} and {second}")
        return _checked(metres / length), f"two points {length:g} apart are {metres:g} m apart"
    return _checked(float(scale)), "given"


def _checked(factor: float) -> float:
    if not 0 < factor < np.inf:
        raise ConfigError(f"expected a scale above 0, found {factor:g}")
    return factor


def _scaled(scene: ScaledScene, factor: float, words: str) -> ScaledScene:
    poses = scene.poses.camera_to_world.copy()
    poses[:, :3, 3] *= factor
    moved = replace(scene.poses, camera_to_world=poses)
    return replace(scene, poses=moved, scale=factor, unit="metre", scale_words=words)


def _on_poses(scene: ScaledScene, poses: Trajectory, done: Callable[[], object]) -> ScaledScene:
    """The scene at poses of an optimiser elsewhere, its cloud made of kept depth."""
    if not scene.depth_indices or scene.depth_frame is None:
        raise DataError(
            f"{scene.title}: expected kept depth to make the cloud anew on other poses, found none; set keep.depth"
            " (all, kept or n) and run again"
        )
    if not poses.has_orientation:
        raise DataError(f"{scene.title}: expected poses with orientation, found positions alone")
    own, given = _same_frames(scene, poses)
    old = scene.poses
    matched = Trajectory(old.indices[own], old.timestamps[own], poses.camera_to_world[given])
    factor, notes = 1.0, [f"poses from a file: {len(own)} of {len(old)} frames"]
    try:
        factor = umeyama(old.positions[own], matched.positions, with_scale=True).scale
    except UnscorableError as error:
        notes.append(f"scale of the poses not compared with the estimate's: {error}")
    if abs(factor - 1) > _SAME_SCALE:
        notes.append(f"the poses are {factor:.4g} times as large as the estimate: depth was multiplied by it")
    else:
        factor = 1.0
    kept_depth = scene.depth_frame

    def depth_frame(index: int) -> DepthFrame:
        found = kept_depth(index)
        return found if factor == 1.0 else replace(found, depth=found.depth * np.float32(factor))

    words = "none: lengths are those of the poses that were given"
    made = replace(scene, poses=matched, depth_frame=depth_frame, scale_words=words, notes=(*scene.notes, *notes))
    return replace(made, cloud=_fused(made, scene.cloud, done))


def _same_frames(scene: ScaledScene, poses: Trajectory) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions in the estimate and in ``poses`` that are of one frame: by time; of a file without times by the names
    of the images, as they are exported, or row by row where there are as many. Raises DataError where none is.
    """
    old, title = scene.poses, scene.title
    if not isinstance(poses, TrajectoryFile) or poses.timed:
        own, given = associate(old.timestamps, poses.timestamps, _tolerance(old.timestamps))
        expected = f"at the times of its frames ({old.timestamps[0]:g} to {old.timestamps[-1]:g} s)"
        found = f"{poses.timestamps[0]:g} to {poses.timestamps[-1]:g} s"
    else:
        if poses.names is not None:
            stems = [PurePosixPath(name).stem for name in poses.names]
            other = next((stem for stem in stems if not re.fullmatch(r"[0-9]{1,12}", stem)), None)
            if other is not None:
                raise DataError(
                    f"{title}: expected images named as they are exported (000012.png), found {other!r}; rename them,"
                    " or give poses with times (TUM)"
                )
            numbers = np.array([int(stem) for stem in stems], np.int64)
        elif poses.rows == len(old):
            numbers = old.indices[poses.indices]
        else:
            raise DataError(
                f"{title}: expected a pose for each of its {len(old)} frames, as the file has neither times nor names"
                f" of images, found {poses.rows}; give poses with times (TUM)"
            )
        _, own, given = np.intersect1d(old.indices, numbers, return_indices=True)
        expected = f"of its frames ({old.indices[0]} to {old.indices[-1]})"
        found = f"{numbers.min()} to {numbers.max()}"
    if not len(own):
        raise DataError(f"{title}: expected poses {expected}, found none within {found}")
    return own, given


def _tolerance(times: FloatArray) -> float:
    """Half the shortest interval: optimisers round times, but never to another frame."""
    return float(np.diff(times).min()) * 0.499 if len(times) > 1 else 0.01


def _fused(scene: ScaledScene, old: VoxelCloud | None, done: Callable[[], object]) -> VoxelCloud:
    """A cloud of kept depth at the scene's poses."""
    cloud = VoxelCloud(limit=old.limit) if old is not None else VoxelCloud()
    at = {int(index): pose for index, pose in zip(scene.poses.indices, scene.poses.camera_to_world, strict=True)}
    images = iter(() if scene.images is None else scene.images())
    ahead = next(images, None)
    for frame in scene.need_depth():
        while ahead is not None and ahead[0] < frame.index:
            ahead = next(images, None)
        image = ahead[1] if ahead is not None and ahead[0] == frame.index else None
        pose = at.get(frame.index)
        if pose is not None and np.isfinite(pose).all():
            step = pixel_step(frame.depth.shape[1], frame.depth.shape[0], len(at))
            add_frame(cloud, frame.depth, frame.confidence, image, frame.intrinsics, pose, frame.index, step)
        done()
    return cloud
