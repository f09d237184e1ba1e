"""What a run keeps of a scene beside its numbers: a cloud, cameras, thumbnails, depth; written while it streams.

Files, all in the folder of one scene and method::

    cloud.npz          the fused cloud (`lingbot_eval.viewing.cloud.VoxelCloud`)
    sky.npz            another, of what ``keep.sky`` leaves out of that: the viewer shows it where it is asked for
    cameras.npz        intrinsics, size and kind of every frame
    thumbnails.npz     small JPEG pictures of kept frames, at most MAX_THUMBNAILS
    depth-000012.npz   depth and confidence of frame 12, where ``keep.depth`` asks for it
"""

from __future__ import annotations

import io
import math
import re
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lingbot_eval.errors import DataError, StoreError, reason
from lingbot_eval.files.arrays import load_arrays
from lingbot_eval.files.atomic import atomic_open
from lingbot_eval.files.trajectories import read_tum
from lingbot_eval.geometry.cameras import world_points
from lingbot_eval.types import DepthMap, FloatArray, Frame, FrameType, Image, Prediction, Trajectory
from lingbot_eval.viewing.cloud import LEAST_VOXELS, MAX_VOXELS, VoxelCloud
from lingbot_eval.viewing.masks import HEURISTIC, LeftOut, heuristic_sky

CLOUD_FILE = "cloud.npz"
SKY_FILE = "sky.npz"
CAMERAS_FILE = "cameras.npz"
THUMBNAILS_FILE = "thumbnails.npz"
ESTIMATE_FILE = "estimate.tum"
REFERENCE_FILE = "reference.tum"
_DEPTH_FILE = re.compile(r"depth-(\d{6,12})\.npz")

MAX_THUMBNAILS = 200
THUMBNAIL_HEIGHT = 200  # pixels at most
_JPEG_QUALITY = 80

POINTS_A_FRAME = 3000
"""Points that each frame gives to the cloud, about; a few hundred frames fill it. More cost more time than 5 % of the
small model's frame rate on a CPU."""
POINTS_OF_A_SHORT_STREAM = 400_000
"""What all frames of a short stream give together: eight photographs give every second pixel."""

GREY = 128  # the colour of points without an image
_UNTYPED = 255
_LARGEST_HALF = float(np.finfo(np.float16).max)
_MAX_SKY_VOXELS = 100_000
_BYTES_OF_A_VOXEL = 31
_BYTES_OF_A_HEADER = 2048  # of the arrays in one file, about

Place = Callable[[str], Path]
T = TypeVar("T")


class KeepSettings(BaseModel):
    """What is kept of each scene, beside poses and measurements.

    depth: depth and confidence of ``all`` frames, of those that the method keeps in its memory (``kept``), of every
    n-th frame (a number n), or of ``none``. precision: ``lossless`` (float32) or ``half`` (float16: 3 digits).
    cloud: whether to fuse a cloud, of at most ``voxels`` voxels, and to keep thumbnails. sky: leave the sky out of
    cloud and depth, as ``heuristic`` or an ONNX network says. masks: folder of masks, named as the images, of what
    else to leave out (people, cars). scored: whether the scores of depth and points take ``all`` pixels, or those
    ``kept`` alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    depth: Literal["all", "kept", "none"] | Annotated[int, Field(ge=1)] = "none"
    precision: Literal["lossless", "half"] = "lossless"
    cloud: bool = True
    voxels: Annotated[int, Field(ge=LEAST_VOXELS, le=50_000_000)] = MAX_VOXELS
    sky: str | None = None
    masks: Path | None = None
    scored: Literal["all", "kept"] = "all"

    def left_out(self) -> LeftOut:
        """What decides which pixels are not kept. Raises ConfigError, DependencyError."""
        return LeftOut(self.sky, self.masks)

    def input_files(self) -> Iterator[Path]:
        """Files that decide which pixels are not kept: a changed one makes what was kept stale."""
        if self.sky not in (None, HEURISTIC):
            yield Path(str(self.sky)).expanduser()
        if self.masks is not None:
            yield from sorted(self.masks.expanduser().iterdir())

    def keeps_depth_of(self, index: int, frame_type: FrameType | None) -> bool:
        """Whether this frame's depth is kept; without a kind it counts as kept by the method."""
        if isinstance(self.depth, int):
            return index % self.depth == 0
        return self.depth == "all" or (self.depth == "kept" and frame_type is not FrameType.UNKEPT)

    def predicted_bytes(self, width: int, height: int, frames: int, kept: int) -> dict[str, int]:
        """What will lie on the disk of one scene, by kind: ``depth`` exactly but for headers, ``cloud`` at most.

        Args:
            width: of the prepared image.
            height: likewise.
            frames: of the stream.
            kept: frames that the method keeps.
        """
        step = self.depth if isinstance(self.depth, int) else 1
        files = {"none": 0, "kept": kept}.get(str(self.depth), -(-frames // step))
        number = 2 if self.precision == "half" else 4
        points = frames * (width * height // pixel_step(width, height, frames) ** 2 + 1)
        sky = 0 if self.sky is None else min(_MAX_SKY_VOXELS, points)
        return {
            "depth": files * (2 * number * width * height + _BYTES_OF_A_HEADER),
            "cloud": (min(self.voxels, points) + sky) * _BYTES_OF_A_VOXEL if self.cloud else 0,
        }


def sky_cloud() -> VoxelCloud:
    """An empty cloud for what is taken for sky."""
    return VoxelCloud(_MAX_SKY_VOXELS)


def pixel_step(width: int, height: int, frames: int | None) -> int:
    """Every how many pixels, in both directions, a frame of a stream of ``frames`` gives a point to the cloud."""
    points = max(POINTS_A_FRAME, POINTS_OF_A_SHORT_STREAM // max(frames or POINTS_OF_A_SHORT_STREAM, 1))
    return max(1, round(math.sqrt(width * height / points)))


def pixels_of(frame: int, step: int) -> tuple[slice, slice]:
    """Rows and columns of the pixels of a frame that give points: over the frames every pixel has its turn."""
    start = int(frame * 0.6180339887 % 1 * step * step)  # steps of the golden ratio
    return slice(start // step, None, step), slice(start % step, None, step)


@dataclass(frozen=True, eq=False)
class Cameras:
    """Pinhole cameras of frames. index: (N,) int64, increasing. timestamps: (N,) seconds.

    intrinsics: (N, 3, 3) in pixels of the prepared image; pixel (0, 0) is the centre of the first. size: (N, 2) int64
    width and height of that image. frame_type: (N,) uint8, `FrameType` or 255 where a method has none.
    predicted: (N,) whether the method said the intrinsics; else they are the dataset's.
    """

    index: NDArray[np.int64]
    timestamps: FloatArray
    intrinsics: FloatArray
    size: NDArray[np.int64]
    frame_type: NDArray[np.uint8]
    predicted: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, eq=False)
class DepthFrame:
    """Depth of one frame as the method gave it.

    depth: (H, W) float32 along z in the method's unit, 0 or not finite = none. confidence: (H, W) float32 or None.
    intrinsics: (3, 3) in pixels of it.
    """

    index: int
    timestamp: float
    depth: DepthMap
    confidence: DepthMap | None
    intrinsics: FloatArray


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A small picture of a frame. jpeg: the file's bytes."""

    index: int
    jpeg: bytes

    @property
    def image(self) -> Image:
        """(h, w, 3) uint8 RGB. Raises DataError when the bytes are no such picture."""
        from PIL import Image as Pictures

        try:
            with Pictures.open(io.BytesIO(self.jpeg), formats=["JPEG"]) as picture:
                if picture.height > THUMBNAIL_HEIGHT or picture.width > 100 * THUMBNAIL_HEIGHT:
                    raise ValueError(f"{picture.width}x{picture.height} pixels")
                return np.asarray(picture.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Pictures.DecompressionBombError) as error:
            raise DataError(f"thumbnail of frame {self.index} cannot be read: {reason(error)}") from error


class Keeper:
    """Takes the predictions of one scene as they leave, and keeps what the settings ask for; memory stays bounded.

    Args:
        settings: what is kept.
        place: where a file of a name goes.
        frames: length of the stream where it is known; a short one gives more points a frame.

    Raises:
        ConfigError, DependencyError: masks or a sky network that cannot be used.
    """

    def __init__(self, settings: KeepSettings, place: Place, frames: int | None = None) -> None:
        self.left_out = settings.left_out()
        self._settings = settings
        self._place = place
        self._frames = frames
        self._cloud = VoxelCloud(settings.voxels) if settings.cloud else None
        self._sky = sky_cloud()
        self._thumbnails: SmallPictures[bytes] = SmallPictures()
        self._rows: dict[str, array[Any]] = {name: array(kind) for name, (kind, _) in _CAMERA_ROWS.items()}
        self._without: dict[str, int] = {}
        self._wanted = 0  # frames whose depth was to go into the cloud or a file
        self._seen = 0

    @property
    def cloud(self) -> VoxelCloud | None:
        """The cloud as it is now."""
        return self._cloud

    def add(self, frame: Frame, prediction: Prediction) -> None:
        """Take a frame, as the method saw it, and its prediction.

        Raises StoreError when the disk refuses, DataError for a mask that cannot be used.
        """
        depth = prediction.depth
        shape = frame.image.shape[:2] if frame.image is not None else None if depth is None else depth.shape
        intrinsics = prediction.intrinsics
        if intrinsics is None and shape is not None:
            intrinsics = frame.intrinsics
        if intrinsics is not None and (shape is None or not np.isfinite(intrinsics).all()):
            intrinsics = None
        if intrinsics is not None and shape is not None:
            self._add_camera(prediction, intrinsics, shape)
        if depth is not None:
            self._add_depth(frame, prediction, intrinsics)
        if self._cloud is not None and frame.image is not None and prediction.frame_type is not FrameType.UNKEPT:
            self._thumbnails.offer(prediction.index, frame.image, _jpeg)
        self._seen += 1

    def finish(self) -> tuple[str, ...]:
        """Write what was gathered. Returns notes on what is not in it. Raises StoreError when the disk refuses."""
        if len(self._rows["index"]):
            arrays = {
                name: np.frombuffer(self._rows[name], kind).reshape(-1, *shape)
                for name, (kind, shape) in _CAMERA_ROWS.items()
            }
            _save(self._place(CAMERAS_FILE), arrays)
        if self._cloud is not None and len(self._cloud):
            self._cloud.save(self._place(CLOUD_FILE))
        if len(self._sky):
            self._sky.save(self._place(SKY_FILE))
        if self._thumbnails:
            jpegs = list(self._thumbnails.values())
            _save(
                self._place(THUMBNAILS_FILE),
                {
                    "index": np.array(list(self._thumbnails), np.int64),
                    "length": np.array([len(jpeg) for jpeg in jpegs], np.int64),
                    "jpeg": np.frombuffer(b"".join(jpegs), np.uint8),
                },
            )
        return (*self.left_out.notes(self._settings.scored), *self._lacking())

    def _lacking(self) -> Iterator[str]:
        kept = "kept depth" if self._cloud is None else "cloud"
        for what, count in self._without.items():
            every = count == self._wanted
            yield f"no {kept}: no frame has {what}" if every else f"the {kept} lacks {count} frames without {what}"

    def _add_camera(self, prediction: Prediction, intrinsics: FloatArray, shape: tuple[int, ...]) -> None:
        kind = prediction.frame_type
        self._rows["index"].append(prediction.index)
        self._rows["timestamps"].append(prediction.timestamp)
        self._rows["intrinsics"].frombytes(np.ascontiguousarray(intrinsics, np.float64).tobytes())
        self._rows["size"].extend((shape[1], shape[0]))
        self._rows["frame_type"].append(_UNTYPED if kind is None else int(kind))
        self._rows["predicted"].append(int(prediction.intrinsics is not None))

    def _add_depth(self, frame: Frame, prediction: Prediction, intrinsics: FloatArray | None) -> None:
        depth, pose = prediction.depth, prediction.camera_to_world
        assert depth is not None
        wanted = self._settings.keeps_depth_of(prediction.index, prediction.frame_type)
        if self._cloud is None and not wanted:
            return
        self._wanted += 1
        if intrinsics is None:
            self._lack("intrinsics")
            return
        mask = self.left_out.mask(frame, prediction)
        if mask is not None:
            depth = np.where(mask, np.float32(0), depth)
        if wanted:
            self._write_depth(prediction, depth, intrinsics)
        if self._cloud is None:
            return
        if pose is None or not prediction.has_orientation or not np.isfinite(pose).all():
            self._lack("a pose")
            return
        step = pixel_step(depth.shape[1], depth.shape[0], self._frames)
        above, sky = self.left_out.sky(prediction), None
        if above is not None and prediction.depth is not None:
            depth, sky = np.where(above, prediction.depth, depth), self._sky
        given = depth, prediction.depth_confidence, frame.image, intrinsics, pose, prediction.index, step
        add_frame(self._cloud, *given, sky, above)

    def _lack(self, what: str) -> None:
        self._without[what] = self._without.get(what, 0) + 1

    def _write_depth(self, prediction: Prediction, depth: DepthMap, intrinsics: FloatArray) -> None:
        kind = np.float16 if self._settings.precision == "half" else np.float32

        def stored(values: DepthMap) -> NDArray[Any]:
            if kind is np.float16:
                values = np.clip(values, -_LARGEST_HALF, _LARGEST_HALF)
            return values.astype(kind, copy=False)

        arrays: dict[str, NDArray[Any]] = {
            "index": np.array(prediction.index, np.int64),
            "timestamp": np.array(prediction.timestamp, np.float64),
            "depth": stored(depth),
            "intrinsics": np.asarray(intrinsics, np.float64),
        }
        if prediction.depth_confidence is not None:
            arrays["confidence"] = stored(prediction.depth_confidence)
        _save(self._place(depth_file(prediction.index)), arrays)


def add_frame(
    cloud: VoxelCloud,
    depth: DepthMap,
    confidence: DepthMap | None,
    image: Image | None,
    intrinsics: FloatArray,
    camera_to_world: FloatArray,
    frame: int,
    step: int = 1,
    sky: VoxelCloud | None = None,
    above: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Put a frame's depth into a cloud.

    Args:
        cloud: it grows.
        depth: (H, W) along z; pixels that are 0 or not finite give no point.
        confidence: (H, W); None counts as 1 everywhere.
        image: (H, W, 3) RGB; None is grey.
        intrinsics: (3, 3) in pixels of the depth.
        camera_to_world: (4, 4).
        frame: its index.
        step: every how many pixels, in both directions; each frame begins at another pixel.
        sky: a cloud that takes the points of the sky, or None: they go with the others.
        above: (H, W) where the sky is; None: where the heuristic finds it.

    Returns:
        Numbers of the new voxels, as `VoxelCloud.add`.
    """

    def put(cloud: VoxelCloud, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
        points = world_points(depth, pixels, intrinsics, camera_to_world)
        colours = np.full((len(pixels), 3), GREY, np.uint8)
        if image is not None and image.shape[:2] == depth.shape:
            colours = image.reshape(-1, 3)[pixels]
        sure = np.ones(len(pixels), np.float32) if confidence is None else confidence.reshape(-1)[pixels]
        return cloud.add(points, colours, sure, frame)

    height, width = depth.shape
    rows, columns = pixels_of(frame, step)
    pixels = np.arange(height)[rows, None] * width + np.arange(width)[columns]
    values = depth.reshape(-1)[pixels]
    usable = np.isfinite(values) & (values > 0)
    if sky is not None:
        if above is None:
            # Of the pixels that are taken alone: of all of them it would cost more than the cloud.
            is_sky = heuristic_sky(values, None if confidence is None else confidence.reshape(-1)[pixels])
        else:
            is_sky = above.reshape(-1)[pixels]
        put(sky, pixels[usable & is_sky])
        usable &= ~is_sky
    return put(cloud, pixels[usable])


def depth_file(index: int) -> str:
    """Name of the file of a frame's depth."""
    return f"depth-{index:06d}.npz"


class Reconstruction:
    """What there is to see of one scene and method: poses, cameras, a cloud, depth, thumbnails.

    Args:
        folder: where the files lie.
        files: names of those that are of it; whatever else lies there is not read.
    """

    def __init__(self, folder: Path, files: Collection[str]) -> None:
        self.folder = folder
        self._files = frozenset(files)

    @property
    def poses(self) -> Trajectory | None:
        """The estimate, with the frames' indices where cameras were kept; None without one. Raises DataError."""
        return self._trajectory(ESTIMATE_FILE)

    @property
    def reference(self) -> Trajectory | None:
        """The true poses, metres, likewise."""
        return self._trajectory(REFERENCE_FILE)

    def cloud(self, file: str = CLOUD_FILE) -> VoxelCloud | None:
        """The fused cloud, or that of the sky; None where none was kept. Raises StoreError when it is damaged."""
        path = self._path(file)
        return None if path is None else VoxelCloud.load(path)

    def cameras(self) -> Cameras | None:
        """Intrinsics of the frames; None where none were kept. Raises StoreError when they are damaged."""
        path = self._path(CAMERAS_FILE)
        return None if path is None else load_arrays(path, _CAMERA_ROWS, "cameras", _cameras)

    def depth_indices(self) -> tuple[int, ...]:
        """Frames whose depth was kept, ascending."""
        return tuple(sorted(int(found[1]) for name in self._files if (found := _DEPTH_FILE.fullmatch(name))))

    def depth_frame(self, index: int) -> DepthFrame:
        """The depth of one of `depth_indices`. Raises StoreError when it is damaged or not there."""
        path = self._path(depth_file(index))
        if path is None:
            raise StoreError(f"{self.folder}: expected the depth of frame {index}, found none; see keep.depth")
        found = load_arrays(path, None, "depth", _depth_frame)
        if found.index != index:
            raise StoreError(f"{path} is damaged: it holds frame {found.index}; run that scene again")
        return found

    def depth_frames(self) -> Iterator[DepthFrame]:
        """Every kept depth, one at a time. Raises StoreError when one is damaged."""
        return (self.depth_frame(index) for index in self.depth_indices())

    def thumbnails(self) -> tuple[Thumbnail, ...]:
        """Small pictures of kept frames, by index; none where none were kept. Raises StoreError when damaged."""
        path = self._path(THUMBNAILS_FILE)
        return () if path is None else load_arrays(path, ("index", "length", "jpeg"), "thumbnails", _thumbnails)

    def _path(self, name: str) -> Path | None:
        return self.folder / name if name in self._files else None

    def _trajectory(self, name: str) -> Trajectory | None:
        path = self._path(name)
        if path is None:
            return None
        found = read_tum(path)
        cameras = self.cameras()
        indices = found.indices
        if cameras is not None:
            # A pose without a camera keeps its place between its neighbours; times are the frames' own in both files.
            at = np.searchsorted(cameras.timestamps, found.timestamps).clip(max=len(cameras) - 1)
            if np.array_equal(cameras.timestamps[at], found.timestamps):
                indices = cameras.index[at]
        return Trajectory(indices, found.timestamps, found.camera_to_world, found.has_orientation)


class SmallPictures(dict[int, T]):
    """Small pictures by frame, at most MAX_THUMBNAILS, evenly: each time it is full, every other one goes."""

    _every = 1
    _offered = 0

    def offer(self, index: int, image: Image, made: Callable[[Image], T]) -> None:
        """Take what is made of the small picture, if it is this frame's turn."""
        if self._offered % self._every == 0:
            if len(self) == MAX_THUMBNAILS:
                for other in list(self)[1::2]:
                    del self[other]
                self._every *= 2
            # When it is full, the frame at hand is an even multiple of the old spacing: one of the new spacing.
            self[index] = made(shrunk(image, THUMBNAIL_HEIGHT))
        self._offered += 1


def shrunk(image: Image, height: int) -> Image:
    """The picture at most so many pixels high."""
    if image.shape[0] <= height:
        return image
    from PIL import Image as Pictures

    width = max(1, round(image.shape[1] * height / image.shape[0]))
    picture = Pictures.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((width, height), Pictures.Resampling.BILINEAR, reducing_gap=2.0))


def _jpeg(image: Image) -> bytes:
    from PIL import Image as Pictures

    stream = io.BytesIO()
    Pictures.fromarray(np.ascontiguousarray(image)).save(stream, "JPEG", quality=_JPEG_QUALITY)
    return stream.getvalue()


# Array of cameras.npz -> kind of number, shape of a row.
_CAMERA_ROWS: dict[str, tuple[str, tuple[int, ...]]] = {
    "index": ("q", ()),
    "timestamps": ("d", ()),
    "intrinsics": ("d", (3, 3)),
    "size": ("q", (2,)),
    "frame_type": ("B", ()),
    "predicted": ("B", ()),
}


def _save(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    with atomic_open(path, "wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def _cameras(arrays: Mapping[str, NDArray[Any]]) -> Cameras:
    count = arrays["index"].size
    for name, (kind, shape) in _CAMERA_ROWS.items():
        _expect(name, arrays[name], np.dtype(kind), (count, *shape))
    if (np.diff(arrays["index"]) <= 0).any() or (np.diff(arrays["timestamps"]) < 0).any():
        raise ValueError("frames that are out of order")
    if not np.isfinite(arrays["intrinsics"]).all() or (arrays["size"] < 1).any():
        raise ValueError("intrinsics or sizes that no camera has")
    return Cameras(**{**arrays, "predicted": arrays["predicted"] > 0})


def _depth_frame(arrays: Mapping[str, NDArray[Any]]) -> DepthFrame:
    missing = {"index", "timestamp", "depth", "intrinsics"} - arrays.keys()
    if missing:
        raise ValueError(f"no array {', '.join(sorted(missing))}")
    depth = arrays["depth"]
    _expect("index", arrays["index"], np.dtype(np.int64), ())
    _expect("timestamp", arrays["timestamp"], np.dtype(np.float64), ())
    _expect("intrinsics", arrays["intrinsics"], np.dtype(np.float64), (3, 3))
    if depth.ndim != 2 or not depth.size or depth.dtype not in (np.float16, np.float32):
        raise ValueError(f"depth of {depth.dtype}, shape {depth.shape}")
    confidence = arrays.get("confidence")
    if confidence is not None:
        _expect("confidence", confidence, depth.dtype, depth.shape)
        confidence = confidence.astype(np.float32, copy=False)
    return DepthFrame(
        int(arrays["index"]),
        float(arrays["timestamp"]),
        depth.astype(np.float32, copy=False),
        confidence,
        arrays["intrinsics"],
    )


def _thumbnails(arrays: Mapping[str, NDArray[Any]]) -> tuple[Thumbnail, ...]:
    count = arrays["index"].size
    for name in ("index", "length"):
        _expect(name, arrays[name], np.dtype(np.int64), (count,))
    ends = np.cumsum(arrays["length"])
    if (arrays["length"] < 1).any() or (np.diff(arrays["index"]) <= 0).any():
        raise ValueError("pictures that are empty or out of order")
    _expect("jpeg", arrays["jpeg"], np.dtype(np.uint8), (int(ends[-1]) if count else 0,))
    content = arrays["jpeg"].tobytes()
    starts = ends - arrays["length"]
    return tuple(
        Thumbnail(index, content[start:end])
        for index, start, end in zip(arrays["index"].tolist(), starts.tolist(), ends.tolist(), strict=True)
    )


def _expect(name: str, found: NDArray[Any], kind: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if found.dtype != kind or found.shape != shape:
        raise ValueError(f"{name} of {found.dtype}, shape {found.shape}; expected {kind}, {shape}")
