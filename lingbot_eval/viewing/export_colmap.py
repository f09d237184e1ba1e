"""A COLMAP model, as text or binary: cameras of the sizes written, poses, points with tracks, and the images.

Points are the cloud's; an observation is the projection of a point into an image in which nothing lies before it (kept
depth says so, else the cloud itself). No feature was matched.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import DataError
from lingbot_eval.geometry.cameras import project
from lingbot_eval.geometry.poses import inverse, orthogonalised, quaternion_from_rotation
from lingbot_eval.types import DepthMap, FloatArray, Image
from lingbot_eval.viewing.scaled import ScaledScene, numbers, stated

MAX_POINTS = 100_000
LONGEST_TRACK = 8
LEAST_OBSERVATIONS = 300  # of an image, though its points have long tracks: without any it could not be adjusted
_CELL = 8  # pixels of the coarse depth image that says what hides what
_BEHIND = 1.05  # a point so many times as far as what lies before it is hidden
_PINHOLE = 1
_SEED = 0

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _View:
    """An image of the model. seen: (K,) points, by number. pixels: (K, 2), the centre of the first at (0.5, 0.5)."""

    name: str
    size: tuple[int, int]
    camera: tuple[float, float, float, float]  # fx, fy, cx, cy
    world_to_camera: FloatArray
    seen: Indices
    pixels: FloatArray

    @property
    def quaternion(self) -> list[float]:
        """w, x, y, z."""
        x, y, z, w = quaternion_from_rotation(self.world_to_camera[:3, :3]).tolist()
        return [w, x, y, z]


@dataclass(frozen=True, eq=False)
class _Model:
    views: tuple[_View, ...]
    positions: DepthMap
    colours: Image

    def tracks(self) -> tuple[tuple[NDArray[np.int32], ...], Indices]:
        """Image number (from 1) and place in it of every observation, sorted by point; where each point's begin."""
        points = np.concatenate([view.seen for view in self.views]) if self.views else np.empty(0, np.int64)
        images = np.repeat(np.arange(1, len(self.views) + 1), [len(view.seen) for view in self.views])
        places = np.concatenate([np.arange(len(view.seen)) for view in self.views]) if self.views else points
        order = np.argsort(points, kind="stable")
        starts = np.searchsorted(points[order], np.arange(len(self.positions) + 1))
        return (images[order].astype(np.int32), places[order].astype(np.int32)), starts


def write_colmap_text(scene: ScaledScene, folder: Path) -> None:
    """``colmap/sparse/0/*.txt``, ``colmap/images``."""
    home, model, comments = _prepared(scene, folder / "colmap")
    cameras, images, points = list(comments), list(comments), list(comments)
    cameras.append("# CAMERA_ID MODEL WIDTH HEIGHT FX FY CX CY")
    images.append("# IMAGE_ID QW QX QY QZ TX TY TZ (world to camera) CAMERA_ID NAME, then X Y POINT3D_ID of each point")
    if len(images) % 2:
        # Some readers take lines by twos and count these, too.
        images.append(f"# {len(model.views)} images")
    points.append("# POINT3D_ID X Y Z R G B ERROR, then IMAGE_ID POINT2D_IDX of each observation")
    for number, view in enumerate(model.views, start=1):
        cameras.append(f"{number} PINHOLE {view.size[0]} {view.size[1]} {numbers(view.camera)}")
        images.append(f"{number} {numbers([*view.quaternion, *view.world_to_camera[:3, 3]])} {number} {view.name}")
        seen = zip(view.pixels.tolist(), view.seen.tolist(), strict=True)
        images.append(" ".join(f"{x:.3f} {y:.3f} {point + 1}" for (x, y), point in seen))
    (image_of, place_of), starts = model.tracks()
    for point, (position, colour) in enumerate(zip(model.positions.tolist(), model.colours.tolist(), strict=True)):
        own = slice(starts[point], starts[point + 1])
        track = zip(image_of[own].tolist(), place_of[own].tolist(), strict=True)
        words = " ".join(f"{image} {place}" for image, place in track)
        points.append(f"{point + 1} {numbers(position)} {colour[0]} {colour[1]} {colour[2]} 0 {words}")
    for name, lines in (("cameras", cameras), ("images", images), ("points3D", points)):
        text = "".join(line + "\n" for line in lines)
        (home / f"{name}.txt").write_text(text, encoding="utf-8", errors="backslashreplace")


def write_colmap_binary(scene: ScaledScene, folder: Path) -> None:
    """``colmap_binary/sparse/0/*.bin``, ``colmap_binary/images``; conventions in ``conventions.json`` beside them."""
    home, model, _ = _prepared(scene, folder / "colmap_binary")
    with (home / "cameras.bin").open("wb") as stream:
        stream.write(struct.pack("<Q", len(model.views)))
        for number, view in enumerate(model.views, start=1):
            stream.write(struct.pack("<IiQQ4d", number, _PINHOLE, *view.size, *view.camera))
    observation = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<i8")])
    with (home / "images.bin").open("wb") as stream:
        stream.write(struct.pack("<Q", len(model.views)))
        for number, view in enumerate(model.views, start=1):
            pose = (*view.quaternion, *view.world_to_camera[:3, 3].tolist())
            stream.write(struct.pack("<I7dI", number, *pose, number))
            stream.write(view.name.encode() + b"\0" + struct.pack("<Q", len(view.seen)))
            seen = np.empty(len(view.seen), observation)
            seen["x"], seen["y"], seen["point"] = view.pixels[:, 0], view.pixels[:, 1], view.seen + 1
            stream.write(seen.tobytes())
    (image_of, place_of), starts = model.tracks()
    track = np.stack([image_of, place_of], axis=1).astype("<u4")
    with (home / "points3D.bin").open("wb") as stream:
        stream.write(struct.pack("<Q", len(model.positions)))
        for point, (position, colour) in enumerate(zip(model.positions.tolist(), model.colours.tolist(), strict=True)):
            own = track[starts[point] : starts[point + 1]]
            stream.write(struct.pack("<Q3d3BdQ", point + 1, *position, *colour, 0.0, len(own)))
            stream.write(own.tobytes())


def write_images(scene: ScaledScene, home: Path) -> Callable[[int], str]:
    """``home/images/NNNNNN.png`` of every frame with a pose, where the images can still be had.

    Returns:
        The name of a frame's image, relative to ``home``, whether it was written or not.

    Raises:
        DataError: an image of another size than its camera.
    """
    if scene.images is not None:
        from PIL import Image as Pictures

        cameras = scene.need_cameras()
        sizes = {int(index): tuple(size) for index, size in zip(cameras.index, cameras.size.tolist(), strict=True)}
        wanted = sizes.keys() & set(scene.poses.indices.tolist())
        (home / "images").mkdir()
        for index, image in scene.images():
            if index not in wanted:
                continue
            if (image.shape[1], image.shape[0]) != sizes[index]:
                raise DataError(
                    f"{scene.title}: frame {index}: expected an image of {sizes[index][0]}x{sizes[index][1]} as it was"
                    f" streamed, found {image.shape[1]}x{image.shape[0]}; the source has changed"
                )
            Pictures.fromarray(np.ascontiguousarray(image)).save(home / "images" / f"{index:06d}.png", compress_level=1)
    return lambda index: f"images/{index:06d}.png"


def _prepared(scene: ScaledScene, home: Path) -> tuple[Path, _Model, list[str]]:
    """The folder of the model with the images beside it, the model, and what its files state."""
    model = _model(scene)
    inner = home / "sparse" / "0"
    inner.mkdir(parents=True)
    write_images(scene, home)
    axes = "camera: x right, y down, z forward (OpenCV, as COLMAP's); world: that of the method"
    facts = {
        **scene.conventions(axes),
        "poses": "world-to-camera in images, as COLMAP has them",
        "pixels": "centre of the first at (0.5, 0.5)",
        "observations": "projections of the cloud's points where nothing hides them; no feature was matched",
    }
    (home / "conventions.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return inner, model, stated(facts)


def _model(scene: ScaledScene) -> _Model:
    cameras = scene.need_cameras()
    positions, colours, _, _ = scene.points()
    # A front part would be the first frames alone.
    chosen = np.sort(np.random.default_rng(_SEED).permutation(len(positions))[:MAX_POINTS])
    positions, colours = positions[chosen], colours[chosen]
    row_of = {int(index): row for row, index in enumerate(cameras.index)}
    frames = [
        (index, row_of[index], inverse(orthogonalised(pose)))
        for index, pose in zip(scene.poses.indices.tolist(), scene.poses.camera_to_world, strict=True)
        if index in row_of and np.isfinite(pose).all()
    ]
    if not frames:
        raise DataError(f"{scene.title}: expected poses with intrinsics, found none of both; run it again")
    count = np.zeros(len(positions), np.int64)
    views: list[_View | None] = [None] * len(frames)
    # In no order, so that the images of a track lie far apart and not one after the other.
    for place in np.random.default_rng(_SEED).permutation(len(frames)).tolist():
        index, row, world_to_camera = frames[place]
        size = int(cameras.size[row, 0]), int(cameras.size[row, 1])
        kept_depth = scene.depth_of(index)
        depth = None if kept_depth is None else kept_depth.depth
        seen, pixels = _visible(positions, world_to_camera, cameras.intrinsics[row], size, depth)
        wanted = count[seen] < LONGEST_TRACK
        if np.count_nonzero(wanted) < LEAST_OBSERVATIONS:
            wanted[:: max(1, len(seen) // LEAST_OBSERVATIONS)] = True
        seen, pixels = seen[wanted], pixels[wanted]
        count[seen] += 1
        intrinsics = cameras.intrinsics[row]
        # There the first pixel's centre is at (0.5, 0.5), here at (0, 0).
        camera = (*intrinsics[[0, 1], [0, 1]].tolist(), *(intrinsics[:2, 2] + 0.5).tolist())
        views[place] = _View(f"{index:06d}.png", size, camera, world_to_camera, seen, pixels + 0.5)
    kept = count >= min(2, len(frames))
    if not kept.any():
        raise DataError(
            f"{scene.title}: expected points that two images see, found none; the poses do not fit the cloud"
        )
    number = np.cumsum(kept) - 1
    final = []
    for view in views:
        assert view is not None
        stays = kept[view.seen]
        seen = number[view.seen[stays]]
        final.append(_View(view.name, view.size, view.camera, view.world_to_camera, seen, view.pixels[stays]))
    return _Model(tuple(final), positions[kept], colours[kept])


def _visible(
    positions: DepthMap,
    world_to_camera: FloatArray,
    intrinsics: FloatArray,
    size: tuple[int, int],
    depth: DepthMap | None,
) -> tuple[Indices, FloatArray]:
    """Points that an image shows, and where: in it, before the camera, and nothing before them."""
    inside = positions @ world_to_camera[:3, :3].T.astype(np.float32) + world_to_camera[:3, 3].astype(np.float32)
    z = inside[:, 2]
    ahead = np.flatnonzero(z > 0)
    pixels = project(inside[ahead].astype(np.float64), intrinsics)
    within = ((pixels >= -0.5) & (pixels < np.array(size) - 0.5)).all(axis=1)
    ahead, pixels = ahead[within], pixels[within]
    distance = z[ahead]
    if depth is not None and depth.shape == (size[1], size[0]):
        columns, rows = np.rint(pixels).astype(np.int64).T
        nearest = depth[rows.clip(0, size[1] - 1), columns.clip(0, size[0] - 1)]
        open_ = (distance < nearest * _BEHIND) & (nearest > 0)
    else:
        across = size[0] // _CELL + 1
        columns, rows = ((pixels + 0.5) // _CELL).astype(np.int64).T
        cells = rows * across + columns
        nearest = np.full(across * (size[1] // _CELL + 1), np.inf, np.float32)
        np.minimum.at(nearest, cells, distance)
        open_ = distance < nearest[cells] * _BEHIND
    return ahead[open_], pixels[open_]
