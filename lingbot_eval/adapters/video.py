"""Video files, decoded as they are asked for, at the rate that was asked for."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from lingbot_eval.adapters.listing import names_in, shown, unknown_scene
from lingbot_eval.adapters.protocol import Selection
from lingbot_eval.adapters.readers import MAX_PIXELS
from lingbot_eval.adapters.video_containers import announced_size
from lingbot_eval.errors import DataError
from lingbot_eval.types import Frame, Image

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts")


class VideoOptions(BaseModel):
    """fps: frames taken a second, by the stream's own timestamps; null takes every frame."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fps: Annotated[float, Field(gt=0.0, le=1000.0)] | None = None


class VideoAdapter:
    """The root is a video file, or a folder whose video files are the scenes; a scene is called like its file."""

    name = "video"
    Options = VideoOptions

    def __init__(self, root: Path, options: VideoOptions) -> None:
        self._root = root
        self._options = options

    def scenes(self) -> tuple[str, ...]:
        """Names of the video files. Raises DataError when there is none."""
        return tuple(self._files())

    def open(self, scene: str, selection: Selection) -> VideoSequence:
        """Reads the header. Raises DataError for an unknown scene and a file that is no video."""
        files = self._files()
        if scene not in files:
            raise unknown_scene("video", scene, files)
        path = files[scene]
        _refuse_cut_off(path)
        with _opened(path) as container:
            stream = container.streams.video[0]
            header = {
                "codec": stream.codec_context.name,
                "coded_size": [stream.codec_context.width, stream.codec_context.height],
                "announced_rate": None if stream.average_rate is None else float(stream.average_rate),
                "announced_frames": stream.frames or None,
            }
        return VideoSequence(scene, path, self._options, selection, header)

    def _files(self) -> dict[str, Path]:
        root = self._root
        if root.is_file():
            return {root.name: root}
        if not root.is_dir():
            beside = names_in(root.parent) if root.parent.is_dir() else []
            raise DataError(f"video: {root} does not exist; {root.parent} holds {shown(beside)}")
        files = {name: root / name for name in names_in(root) if name.lower().endswith(VIDEO_SUFFIXES)}
        if not files:
            raise DataError(
                f"video: expected a video file or a folder of them ({', '.join(VIDEO_SUFFIXES)}), found"
                f" {shown(names_in(root))} in {root}"
            )
        return files


@dataclass(frozen=True, eq=False)
class VideoSequence:
    """Frames of one video file (a FrameSequence); how many there are is known when they have been decoded."""

    scene: str
    path: Path
    options: VideoOptions
    selection: Selection
    header: Mapping[str, Any]

    @property
    def dataset(self) -> str:
        return "video"

    @property
    def length(self) -> None:
        """Not known: containers announce a number of frames that the stream need not have."""
        return None

    def frames(self, *, images: bool = True, depth: bool = True) -> Iterator[Frame]:
        """Frames in order; decoding happens either way, ``images=False`` only leaves the pictures out.

        Raises DataError for damaged data, a change of size, timestamps that do not increase, and a file without
        a frame in the selection.
        """
        del depth  # a video has none
        selection = self.selection
        stop = None if selection.count is None else selection.start + selection.stride * selection.count
        chosen = itertools.islice(self._at_rate(), selection.start, stop, selection.stride)
        size = None
        index = -1
        for index, (seconds, decoded) in enumerate(chosen):
            image = _upright(decoded) if images else None
            if image is not None:
                size = size or image.shape
                if image.shape != size:
                    raise DataError(
                        f"{self._place(index)}: expected {size[1]}x{size[0]} pixels as the first frame, found"
                        f" {image.shape[1]}x{image.shape[0]}; one sequence has one size"
                    )
            yield Frame(index, seconds, image, f"{self.path} at {seconds:.3f} s")
        if index < 0:
            raise DataError(
                f"video: scene {self.scene}: {self.path} has no frame in the selection (start {selection.start});"
                " is the file cut off?"
            )

    def loaders(self, *, images: bool = True, depth: bool = True) -> Iterator[Callable[[], Frame]]:
        """See `FrameSequence`; a frame is decoded from those before it, so it is there before its loader is called."""
        for frame in self.frames(images=images, depth=depth):
            yield partial(_itself, frame)

    def reference(self) -> None:
        """A video has no poses."""
        return

    def timestamps(self) -> None:
        """Only decoding tells."""
        return

    def fingerprint(self) -> str:
        """Digest over name, size and modification time of the file, and what is taken of it."""
        status = self.path.stat()
        key = (self.path.name, status.st_size, status.st_mtime_ns, self.options.fps, self.selection.model_dump_json())
        return hashlib.sha256(repr(key).encode()).hexdigest()

    def facts(self) -> Mapping[str, Any]:
        """Conventions and the file's header for the record."""
        rate = self.options.fps
        return {
            **self.header,
            "poses": "none",
            "depth": "none",
            "intrinsics": "none",
            "timestamps": "of the stream, seconds from its first frame",
            "rate": "every frame" if rate is None else f"the first frame at or after every 1/{rate:g} s",
            "rotation": "applied as the file says",
            "licence": "the user's own data",
        }

    def _at_rate(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """The first frame at or after each tick of the chosen rate, none twice."""
        rate = self.options.fps
        tick = 0
        for seconds, decoded in self._decoded():
            if rate is None:
                yield seconds, decoded
            elif seconds * rate >= tick - 1e-3:
                yield seconds, decoded
                tick = max(tick + 1, int(np.floor(seconds * rate + 1e-3)) + 1)

    def _decoded(self) -> Iterator[tuple[float, av.VideoFrame]]:
        first = previous = None
        with _opened(self.path) as container:
            for number, decoded in enumerate(container.decode(video=0)):
                if decoded.time is None:
                    raise DataError(f"{self._place(number)}: the stream gives no time; convert it, e.g. to .mp4")
                if previous is not None and decoded.time <= previous:
                    raise DataError(
                        f"{self._place(number)}: expected increasing timestamps, found {decoded.time:.6f} s after"
                        f" {previous:.6f} s; convert the video anew"
                    )
                previous = decoded.time
                first = decoded.time if first is None else first
                yield decoded.time - first, decoded

    def _place(self, number: int) -> str:
        return f"video: {self.path} frame {number}"


def _itself(frame: Frame) -> Frame:
    return frame


def _refuse_cut_off(path: Path) -> None:
    try:
        announced, found = announced_size(path), path.stat().st_size
    except OSError as error:
        raise DataError(f"video: {path} cannot be read: {error.strerror or error}") from error
    if announced is not None and found < announced:
        raise DataError(
            f"video: {path} is cut off: its headers announce {announced} bytes, found {found};"
            " copy or download it again"
        )


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    """The container, with one DataError for whatever FFmpeg finds wrong while the block runs."""
    import av

    try:
        with av.open(str(path), mode="r", metadata_errors="replace") as container:
            if not container.streams.video:
                raise DataError(f"video: {path}: expected a video stream, found none; is it an audio file?")
            context = container.streams.video[0].codec_context
            if context.width * context.height > MAX_PIXELS:
                raise DataError(
                    f"video: {path} claims {context.width}x{context.height} pixels, at most {MAX_PIXELS} are read"
                )
            container.streams.video[0].thread_type = "AUTO"
            yield container
    except av.FFmpegError as error:
        raise DataError(
            f"video: {path} cannot be read as a video ({error.strerror or error}); is it complete, and a video?"
        ) from error


def _upright(decoded: av.VideoFrame) -> Image:
    """(H, W, 3) uint8 RGB, turned as the file's display matrix asks (``rotation``: degrees counter-clockwise)."""
    image = decoded.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, round(decoded.rotation / 90) % 4))
