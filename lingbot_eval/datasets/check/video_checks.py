"""Checks of one video: what it is, how it is shown, and what decoding finds damaged."""

from __future__ import annotations

import itertools

import numpy as np

from lingbot_eval.datasets.check.findings import Finding, Watcher
from lingbot_eval.datasets.check.scene_checks import check_times
from lingbot_eval.datasets.prepare.resize import SizeSettings, input_notes
from lingbot_eval.datasets.video import VideoSequence
from lingbot_eval.errors import DataError

FRAMES_TRIED = 1800
"""Decoded without being asked to: a minute of video at 30 frames a second."""

_MIXED = 0.05  # of the median interval: what rounding to a container's ticks makes


def check_video(sequence: VideoSequence, size: SizeSettings, watcher: Watcher | None) -> list[Finding]:
    """What the header says, and damage in the first minute; with a ``watcher``, in the whole file.

    size: what the protocol prepares frames to.
    """
    findings = [Finding("note", "video", _header(sequence)), Finding("note", "picture", _picture(sequence))]
    findings += check_times(sequence, "was the recording paused, or are frames missing?")
    problems, count = _decoded(sequence, watcher)
    # After decoding: interlaced frames may come later than the first.
    said = [text for text in input_notes(sequence.facts(), size) if text != sequence.damage]
    findings += [Finding("warning", "video", text) for text in said]
    findings += [Finding("problem", "decode", text) for text in problems]
    part = "" if count >= sequence.length or problems else f" of {sequence.length}; --decode reads them all"
    return [*findings, Finding("note", "decode", f"{count} frames decoded{part}")]


def _header(sequence: VideoSequence) -> str:
    listed, times = sequence.listed, sequence.timestamps()
    width, height = listed.picture_size
    rate = ""
    if len(times) > 1:
        steps = np.diff(times)
        constant = float(np.abs(steps - np.median(steps)).max()) <= max(_MIXED * float(np.median(steps)), 1.1e-3)
        rate = f", {(len(times) - 1) / (times[-1] - times[0]):.4g} frames a second{'' if constant else ' on average'}"
    return (
        f"{len(times)} frames of {width}x{height}{rate}, {times[-1]:.2f} s, {listed.codec} ({listed.pixel_format}),"
        f" {listed.colours.words}"
    )


def _picture(sequence: VideoSequence) -> str:
    listed = sequence.listed
    width, height = listed.coded_size
    pixels = "square pixels" if listed.aspect == 1 else f"pixels {listed.aspect.numerator}:{listed.aspect.denominator}"
    made = "" if listed.aspect == 1 else ", made square"
    return f"stored as {width}x{height}, {pixels}{made}; display matrix: {listed.turn.words}"


def _decoded(sequence: VideoSequence, watcher: Watcher | None) -> tuple[list[str], int]:
    """What is wrong, and how many frames were decoded."""
    count = 0
    if watcher is not None:
        watcher.scene(sequence.scene, sequence.length)
    problems = []
    try:
        for _ in itertools.islice(sequence.frames(), FRAMES_TRIED if watcher is None else None):
            count += 1
            if watcher is not None:
                watcher.frame()
    except DataError as error:
        problems.append(str(error))
    if watcher is not None:
        watcher.done()
    if sequence.damage is not None:
        problems.append(sequence.damage)
    return problems, count
