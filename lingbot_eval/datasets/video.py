"""Video files, decoded as they are asked for, at the rate that was asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lingbot_eval.datasets.listing import names_in, shown, unknown_scene
from lingbot_eval.datasets.sequence import Selection, selected
from lingbot_eval.datasets.video_picture import Pictures, RawPicture
from lingbot_eval.datasets.video_stream import UNCHECKED, Listing, Tally, decoded, faults_of, listing
from lingbot_eval.errors import DataError
from lingbot_eval.settings import StrictModel
from lingbot_eval.types import FloatArray, Frame

# What cameras, phones and editors write; any other file can be given as the root itself.
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m2v", ".vob", ".ts"),
    *(".mts", ".m2ts", ".m2t", ".mxf", ".wmv", ".asf", ".flv", ".ogv", ".gif", ".insv", ".lrv", ".h264", ".hevc"),
)


ROUNDING_S = 1e-3
"""Matroska and WebM write times in whole milliseconds: every other frame of 30 a second comes at 0, 67, 133, 200."""


class VideoOptions(StrictModel):
    """fps: frames taken a second, by the stream's own timestamps; null takes every frame."""

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
        """Lists the file's frames and decodes the first.

        Raises DataError for an unknown scene, a file that is no video, and a selection without a frame.
        """
        files = self._files()
        if scene not in files:
            raise unknown_scene("video", scene, files)
        rate = self._options.fps
        last = None if selection.count is None else selection.start + selection.stride * selection.count
        listed = listing(files[scene], last if rate is None else None)
        taken = np.arange(len(listed.times)) if rate is None else at_rate(listed.times, rate)
        chosen = taken[np.asarray(selected("video", scene, selection, len(taken)))]
        return VideoSequence(scene, files[scene], self._options, selection, listed, chosen)

    def _files(self) -> dict[str, Path]:
        root = self._root
        if root.is_dir():
            # Hidden files are leftovers of other systems (._name.mp4), never videos.
            names = [n for n in names_in(root) if n.lower().endswith(VIDEO_SUFFIXES) and not n.startswith(".")]
            files = {name: root / name for name in names if not (root / name).is_dir()}
            if not files:
                raise DataError(
                    f"video: expected a video file or a folder of them ({', '.join(VIDEO_SUFFIXES)}), found"
                    f" {shown(names_in(root))} in {root}"
                )
            return files
        if not root.exists():
            beside = names_in(root.parent) if root.parent.is_dir() else []
            raise DataError(f"video: {root} does not exist; {root.parent} holds {shown(beside)}")
        return {root.name: root}


def at_rate(times: FloatArray, rate: float) -> NDArray[np.int64]:
    """Positions of the first frame at or after each tick of a clock of ``rate`` ticks a second, none twice.

    A frame that is early by no more than containers round is in time. A gap in the times makes no hurry afterwards:
    ticks without a frame of their own are over.
    """
    early = min(ROUNDING_S * rate, 0.25)  # of a tick
    chosen = []
    tick = 0
    for position, seconds in enumerate(times.tolist()):
        if seconds * rate >= tick - early:
            chosen.append(position)
            tick = max(tick, int(np.floor(seconds * rate + early))) + 1
    return np.array(chosen, np.int64)


@dataclass(frozen=True, eq=False)
class VideoSequence:
    """Frames of one video file (a FrameSequence).

    listed: what the file says of them. chosen: positions in it of the frames that are taken.
    """

    scene: str
    path: Path
    options: VideoOptions
    selection: Selection
    listed: Listing
    chosen: NDArray[np.int64]
    _passes: list[Tally] = field(default_factory=list)

    @property
    def dataset(self) -> str:
        return "video"

    @property
    def length(self) -> int:
        """Frames that the file lists, of those chosen; damaged files may give fewer."""
        return len(self.chosen)

    def frames(self, *, images: bool = True, depth: bool = True) -> Iterator[Frame]:
        """Frames in order; decoding happens either way, ``images=False`` only leaves the pictures out.

        The index of a frame is its place among those that were chosen: one that is missing leaves a gap.
        Raises DataError for a change of size and for a file that cannot be read any further or gives no frame.
        """
        for load in self.loaders(images=images, depth=depth):
            yield load()

    def loaders(self, *, images: bool = True, depth: bool = True) -> Iterator[Callable[[], Frame]]:
        """A frame is decoded from those before it, so it is there before its loader is called.

        What is left to the loader is work on its pixels alone, such as bringing HDR to SDR.
        """
        del depth  # a video has none
        self._passes[:] = [tally := Tally(self.listed)]
        index_of = {int(position): index for index, position in enumerate(self.chosen)}
        pictures = Pictures(self.listed.aspect, self.listed.colours)
        size = None
        given = False
        for position, frame in decoded(self.listed, tally):
            if position > self.chosen[-1]:
                break
            if position not in index_of:
                continue
            with faults_of(self.path):
                picture = pictures.raw(frame) if images else None
            if picture is not None:
                size = size or picture.size
                if picture.size != size:
                    raise DataError(
                        f"video: {self.path} frame {position}: expected {size[0]}x{size[1]} pixels as the first frame,"
                        f" found {picture.size[0]}x{picture.size[1]}; one sequence has one size"
                    )
            given = True
            yield partial(self._frame, index_of[position], float(self.listed.times[position]), picture)
            if position == self.chosen[-1]:
                break
        if not given:
            raise DataError(
                f"video: scene {self.scene}: no chosen frame of {self.path} can be decoded (start"
                f" {self.selection.start}); is the file damaged? copy or download it again"
            )

    def _frame(self, index: int, seconds: float, picture: RawPicture | None) -> Frame:
        image = None if picture is None else picture.developed()
        return Frame(index, seconds, image, f"{self.path} at {seconds:.3f} s")

    def reference(self) -> None:
        """A video has no poses."""
        return

    def timestamps(self) -> FloatArray:
        """(length,) seconds from the stream's first frame, as the file lists them."""
        return self.listed.times[self.chosen]

    def fingerprint(self) -> str:
        """Digest over name, size and modification time of the file, and what is taken of it."""
        status = self.path.stat()
        key = (self.path.name, status.st_size, status.st_mtime_ns, self.options.fps, self.selection.model_dump_json())
        return hashlib.sha256(repr(key).encode()).hexdigest()

    @property
    def damage(self) -> str | None:
        """What the last pass over the frames found damaged or missing, in one line; None for nothing, or no pass."""
        return self._passes[0].damage if self._passes else None

    def facts(self) -> Mapping[str, Any]:
        """Conventions, what the file says and how it is shown, for the record; damage after a pass over the frames."""
        listed, rate, aspect = self.listed, self.options.fps, self.listed.aspect
        notes = [*self._doubts(), *([self.damage] if self.damage else [])]
        return {
            "codec": listed.codec,
            "stream": f"{listed.stream}, of {listed.streams} that could be played",
            "coded_size": list(listed.coded_size),
            "picture_size": list(listed.picture_size),
            "pixels": "square" if aspect == 1 else f"{aspect.numerator}:{aspect.denominator}, made square",
            "display_matrix": listed.turn.words,
            "colours": listed.colours.words,
            "pixel_format": listed.pixel_format,
            "fields": "interlaced: woven by bwdif, one picture a frame" if self._interlaced else "progressive",
            "announced_rate": listed.announced_rate,
            "announced_frames": listed.announced_frames,
            "frames": self.length,
            "found": self._counts(),
            "poses": "none",
            "depth": "none",
            "intrinsics": "none",
            "timestamps": "of the stream, seconds from its first frame"
            if listed.stamps is not None
            else "frames counted at the stream's own rate: the file has no times of showing",
            "rate": "every frame" if rate is None else f"the first frame at or after every 1/{rate:g} s",
            "damaged_frames": "kept as decoded and counted; what cannot be decoded is missing and counted",
            "licence": "the user's own data",
            "image_sizes": [[*listed.picture_size, self.length]],
            "notes": notes,
        }

    def _doubts(self) -> list[str]:
        """What a reader must know of this file beside damage, a line each."""
        listed, lines = self.listed, []
        if listed.streams > 1:
            width, height = listed.coded_size
            lines.append(
                f"the file has {listed.streams} video streams: stream {listed.stream} ({width}x{height}) is played,"
                " the default one, of these the largest"
            )
        if not listed.turn.exact:
            lines.append(f"the display matrix is no turn by quarters: pictures are {listed.turn.words}")
        if listed.doubted_aspect is not None:
            doubted = listed.doubted_aspect
            lines.append(f"pixels of {doubted.numerator}:{doubted.denominator} cannot be: they are taken as square")
        if listed.colours.transfer is not None:
            lines.append(
                f"HDR video ({listed.colours.transfer}): brought to SDR here (BT.709, highlights rolled off), which"
                " another player does otherwise"
            )
        elif listed.colours.wide:
            lines.append("colours of BT.2020 without HDR: they are taken as BT.709 and look a little pale")
        if listed.colours.unknown is not None:
            lines.append(
                f"the stream's colour matrix (H.273 code {listed.colours.unknown}) is not known here: colours are read"
                f" as {listed.colours.matrix} and may be wrong"
            )
        if self._interlaced:
            lines.append("interlaced video: its fields are woven into whole pictures (bwdif)")
        if listed.cut:
            lines.append("the file ends in the middle of a packet: is it cut off?")
        if listed.missing_end is not None:
            lines.append(
                f"the file says that it lasts {listed.missing_end:.3g} s longer than it has frames: is it damaged or"
                " cut off?"
            )
        if listed.holes is not None:
            frames, places, first = listed.holes
            lines.append(
                f"{frames} frames seem to be missing: the times have {places} hole{'s' * (places != 1)}, the first"
                f" after {first:.3f} s; were packets lost, or did the camera leave frames out?"
            )
        if listed.codec in UNCHECKED:
            lines.append(
                f"{listed.codec} carries no checksums: frames whose coded data was altered may be decoded, smeared,"
                " without a sign of it"
            )
        if listed.repeated:
            lines.append(f"{listed.repeated} frames have the time of another frame: they are left out")
        if listed.restarts:
            times = "once" if listed.restarts == 1 else f"{listed.restarts} times"
            lines.append(f"the clock jumps back {times}: times go on from there")
        return lines

    @property
    def _interlaced(self) -> bool:
        return self.listed.interlaced or any(tally.interlaced for tally in self._passes)

    def _counts(self) -> dict[str, int]:
        if not self._passes:
            return {}
        tally = self._passes[0]
        return {
            "frames_decoded": tally.decoded,
            "frames_marked_damaged": tally.marked,
            "frames_after_damage": tally.after_damage,
            "frames_missing": tally.lost,
        }
