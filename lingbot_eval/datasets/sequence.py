"""The frames of a scene: which of them are selected, and a scene made of files, one image a frame."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lingbot_eval.datasets.listing import and_more
from lingbot_eval.errors import DataError
from lingbot_eval.files.depth_maps import MILLIMETRES, DepthReader
from lingbot_eval.files.images import COLOURS, Size, checked_file, image_header, image_size, read_image, read_mask
from lingbot_eval.files.pose_tables import read_pose
from lingbot_eval.files.reading import file_state
from lingbot_eval.geometry.cameras import LensCamera, carried, undistorted
from lingbot_eval.settings import StrictModel
from lingbot_eval.types import FloatArray, Frame, FrameSequence, Trajectory

MAX_FRAMES = 10**9
"""A year of video at 30 Hz; start + stride · count still fits the machine's integers."""


class Selection(StrictModel):
    """Which frames of a scene are used: every ``stride``-th from ``start``, at most ``count``."""

    start: Annotated[int, Field(ge=0, le=MAX_FRAMES)] = 0
    stride: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 1
    count: Annotated[int, Field(ge=1, le=MAX_FRAMES)] | None = None

    def indices(self, total: int) -> range:
        """Source indices of the selected frames of ``total``."""
        stop = total if self.count is None else min(total, self.start + self.stride * self.count)
        return range(min(self.start, total), stop, self.stride)


class Adapter(Protocol):
    """One dataset on disk (or generated). Reads only: never resizes, never scores."""

    @property
    def name(self) -> str: ...

    def scenes(self) -> tuple[str, ...]:
        """Scenes found under the root, in order. Raises DataError when the root is missing, saying what is there."""
        ...

    def open(self, scene: str, selection: Selection) -> FrameSequence:
        """Raises DataError for an unknown scene (listing those there are) or a malformed one (file and line)."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class FrameFiles:
    """Where one frame comes from.

    timestamp: seconds. pose: a 4×4 camera-to-world text file, the (4, 4) matrix itself, or None.
    intrinsics: (3, 3) where this frame has its own. depth_intrinsics: (3, 3) where this depth map is not registered
    to the image; it may then be of another size. lens: of the camera that took the image, where it bends the picture:
    the frame's image is what a pinhole camera of the lens's ``intrinsics`` sees, which ``intrinsics`` must be.
    depth_lens: of the camera whose pixels the depth map has; it is carried over to the image's. mask: an image of the
    same shape, 0 where nothing is to be kept (as COLMAP and nerfstudio have it), or None.
    """

    image: Path
    timestamp: float
    pose: Path | FloatArray | None = None
    depth: Path | None = None
    intrinsics: FloatArray | None = None
    depth_intrinsics: FloatArray | None = None
    lens: LensCamera | None = None
    depth_lens: LensCamera | None = None
    mask: Path | None = None

    def camera_to_world(self) -> FloatArray | None:
        """(4, 4) pose, read where it is in a file of its own; None for none, and for one that is lost."""
        return read_pose(self.pose) if isinstance(self.pose, Path) else self.pose


@dataclass(frozen=True)
class Headers:
    """Sizes of the images that can be read; why a method that sees them cannot run, and what to know, a line each."""

    sizes: Counter[Size]
    faults: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class FileSequence:
    """Frames of files in order (a FrameSequence).

    files: the selected frames. root: paths in the fingerprint are relative to it. index_files: further files that
    decided what the frames are. depth_reader: of the depth maps. one_size: whether images of different sizes are
    refused (ETH3D's differ by a few pixels after undistortion). notes: what the user must know of how the frames were
    chosen, a line each. has_orientation: False where the poses are positions only. depth_scale: units of the depth
    maps a metre, where the dataset has an option of this name. depth_has_own_size: whether depth maps that are not
    registered to the images may be of another size than they.
    """

    dataset: str
    scene: str
    root: Path
    files: Sequence[FrameFiles]
    intrinsics: FloatArray | None
    conventions: Mapping[str, Any]
    index_files: tuple[Path, ...] = ()
    depth_reader: DepthReader = MILLIMETRES
    one_size: bool = True
    notes: tuple[str, ...] = ()
    has_orientation: bool = True
    depth_scale: float | None = None
    depth_has_own_size: bool = False

    poses_come_later: ClassVar[bool] = False
    """Whether reference poses are computed when they are asked for, and are in no file."""

    def __post_init__(self) -> None:
        if not self.files:
            raise DataError(
                f"{self.dataset}: scene {self.scene} has no frames: expected images, found none; is the scene complete?"
            )
        times = self.timestamps()
        wrong = np.flatnonzero(~(np.diff(times) > 0))
        if len(wrong):
            index = int(wrong[0]) + 1
            raise DataError(
                f"{self._place(index)}: {self.files[index].image}: expected timestamps to increase, found"
                f" {times[index]:.6f} s after {times[index - 1]:.6f} s; put the frames in order of time"
            )

    @property
    def length(self) -> int:
        return len(self.files)

    def frames(self, *, images: bool = True, depth: bool = True) -> Iterator[Frame]:
        """Frames in order; raises DataError at the frame whose image, depth or pose cannot be read."""
        for load in self.loaders(images=images, depth=depth):
            yield load()

    def loaders(self, *, images: bool = True, depth: bool = True) -> Iterator[Callable[[], Frame]]:
        """Files of different frames are read independently."""
        size = None
        for index in range(len(self.files)):
            if (size is None or not self.one_size) and (images or depth):
                size = image_size(self.files[index].image, self._place(index))
            yield partial(self._frame, index, size, images=images, depth=depth)

    def frame(self, index: int) -> Frame:
        """One frame with image and depth, read by itself. Raises DataError."""
        first = index if not self.one_size else 0
        return self._frame(index, image_size(self.files[first].image, self._place(first)), images=True, depth=True)

    def _frame(self, index: int, size: Size | None, *, images: bool, depth: bool) -> Frame:
        source, place = self.files[index], self._place(index)
        intrinsics = self.intrinsics if source.intrinsics is None else source.intrinsics
        depth_map = None
        if depth and source.depth is not None and size is not None:
            own = source.depth_lens
            expected = size if own is None else own.size
            free = self.depth_has_own_size and source.depth_intrinsics is not None
            depth_map = self.depth_reader(source.depth, place, None if free else expected)
            if own is not None and intrinsics is not None:
                depth_map = carried(depth_map, own, intrinsics, size)
        image = read_image(source.image, place, size) if images else None
        if image is not None and source.lens is not None:
            image = undistorted(image, source.lens)
        return Frame(
            index=index,
            timestamp=source.timestamp,
            image=image,
            source=str(source.image),
            camera_to_world=source.camera_to_world(),
            depth=depth_map,
            intrinsics=intrinsics,
            depth_intrinsics=source.depth_intrinsics if depth_map is not None else None,
            left_out=None if source.mask is None or size is None else _left_out(source.mask, place, size, source.lens),
        )

    def reference(self) -> Trajectory | None:
        """Poses of the frames that have one; None where no frame has."""
        poses = {
            index: pose for index, source in enumerate(self.files) if (pose := source.camera_to_world()) is not None
        }
        if not poses:
            return None
        indices = list(poses)
        return Trajectory(
            np.array(indices, np.int64),
            self.timestamps()[indices],
            np.stack(list(poses.values())),
            self.has_orientation,
        )

    def timestamps(self) -> FloatArray:
        """(length,) seconds."""
        return np.array([source.timestamp for source in self.files], np.float64)

    def fingerprint(self) -> str:
        """Digest over every file that is read: lists and poses by content, images by name, size and time of change."""
        digest = hashlib.sha256(os.fsencode(f"{self.dataset} {self.scene}"))
        lists = {*self.index_files, *(source.pose for source in self.files if isinstance(source.pose, Path))}
        for path in self._paths():
            try:
                status = path.stat()
            except OSError as error:
                checked_file(path, f"{self.dataset}:")  # says what is wrong, as whoever reads it would
                raise DataError(f"{self.dataset}: {path} cannot be looked at: {error.strerror or error}") from error
            name = path.relative_to(self.root) if path.is_relative_to(self.root) else path
            state = file_state(path) if path in lists else f"{status.st_size}\0{status.st_mtime_ns}"
            digest.update(os.fsencode(f"\0{name}\0{state}"))
        return digest.hexdigest()

    def facts(self) -> Mapping[str, Any]:
        """The adapter's conventions, and how many frames have a pose and a depth map; reads the images' headers.

        image_sizes: [width, height, images] of each size. notes: what the user must know, a line each.
        image_faults: why a method that sees the images cannot run, a line each.
        """
        headers = self.headers
        return {
            **self.conventions,
            "images": COLOURS,
            "image_sizes": [[*size, count] for size, count in headers.sizes.most_common()],
            "notes": [*self.conventions.get("notes", ()), *self.notes, *headers.notes],
            "image_faults": list(headers.faults),
            "frames": self.length,
            "frames_with_pose": sum(source.pose is not None for source in self.files),
            "frames_with_depth": sum(source.depth is not None for source in self.files),
        }

    @cached_property
    def headers(self) -> Headers:
        """What the headers of all images say. Nothing is raised: what is wrong is in ``faults``."""
        sizes: Counter[Size] = Counter()
        first: dict[Size, int] = {}
        unreadable: list[str] = []
        views: list[str] = []
        for index, source in enumerate(self.files):
            try:
                size, further = image_header(source.image, self._place(index))
            except DataError as error:
                unreadable.append(str(error))
                continue
            if further:
                views.append(source.image.name)
            sizes[size] += 1
            first.setdefault(size, index)
        faults = [] if not unreadable else [unreadable[0] + and_more(len(unreadable) - 1)]
        if self.one_size and len(sizes) > 1:
            counts = [f"{count} of {size[0]}x{size[1]}" for size, count in sizes.most_common(4)]
            shapes = {(size[0] > size[1]) - (size[0] < size[1]) for size in sizes}
            mixed = ", portrait and landscape mixed" if {-1, 1} <= shapes else ""
            usual, other = list(first)[:2]
            faults.append(
                f"{self.dataset}: {self.scene}: expected images of one size, found {', '.join(counts)}"
                f"{' …' if len(sizes) > len(counts) else ''}{mixed} (give each size a folder of its own):"
                f" {self.files[first[other]].image} has {other[0]}x{other[1]} pixels, the first image"
                f" {usual[0]}x{usual[1]}"
            )
        notes = []
        if views:
            notes.append(
                f"{len(views)} of {self.length} image files hold several pictures, such as {views[0]}: of each the main"
                " one is read, the others are not"
            )
        return Headers(sizes, tuple(faults), tuple(notes))

    def _paths(self) -> Iterator[Path]:
        yield from self.index_files
        for source in self.files:
            yield source.image
            if isinstance(source.pose, Path):
                yield source.pose
            if source.depth is not None:
                yield source.depth
            if source.mask is not None:
                yield source.mask

    def _place(self, index: int) -> str:
        return f"{self.dataset}: {self.scene} frame {index}"


def _left_out(mask: Path, place: str, size: Size, lens: LensCamera | None) -> NDArray[np.bool_]:
    """(H, W) True where a mask is 0, and where a pinhole camera sees what the lens did not."""
    kept = read_mask(mask, f"{place}: mask", size) > 0
    if lens is not None:
        kept = undistorted(np.repeat(kept[..., None], 3, axis=-1).astype(np.uint8) * 255, lens)[..., 0] > 127
    return ~kept


def selected(dataset: str, scene: str, selection: Selection, total: int) -> range:
    """Positions of the selected frames of ``total``. Raises DataError when none is left."""
    if total == 0:
        raise DataError(f"{dataset}: scene {scene} has no frames: expected images, found none; is the scene complete?")
    chosen = selection.indices(total)
    if not chosen:
        raise DataError(
            f"{dataset}: scene {scene} has {total} frames and the selection starts at {selection.start}:"
            " no frame is left; start earlier"
        )
    return chosen
