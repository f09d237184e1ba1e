"""Examines a dataset on disk, scene by scene: what its card promises against what is there; videos by decoding them."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lingbot_eval.datasets.cards import Card
from lingbot_eval.datasets.check.convention import ConventionVerdict, convention_of
from lingbot_eval.datasets.check.scene_checks import (
    Finding,
    check_depth_range,
    check_files,
    check_poses,
    check_step,
    check_times,
    gathered,
)
from lingbot_eval.datasets.listing import shown
from lingbot_eval.datasets.sequence import Adapter, FileSequence, Selection
from lingbot_eval.datasets.video import VideoSequence
from lingbot_eval.errors import DataError
from lingbot_eval.prepare import SizeSettings, input_notes

LITTLE_DISK = 1 << 30  # bytes
FRAMES_TRIED = 1800
"""Decoded of a video without being asked to: a minute at 30 frames a second."""

_MIXED = 0.05  # of the median interval: what rounding to a container's ticks makes


DecodingProgress = Callable[[str, int, int | None], object]
"""Told which scene is decoded, how many of its frames are done, and how many there are (None: not known)."""


@dataclass(frozen=True)
class SceneCheck:
    """Everything found about one scene. frames: None when it could not be opened. seconds: of the metadata checks."""

    scene: str
    frames: int | None
    findings: tuple[Finding, ...]
    seconds: float
    convention: ConventionVerdict | None = None


@dataclass(frozen=True)
class DatasetCheck:
    """Everything found about a dataset under one root. findings: of the dataset as a whole."""

    dataset: str
    root: str
    findings: tuple[Finding, ...]
    scenes: tuple[SceneCheck, ...]

    @property
    def problems(self) -> int:
        """How many findings are problems."""
        every = [*self.findings, *(finding for scene in self.scenes for finding in scene.findings)]
        return sum(finding.level == "problem" for finding in every)


def examine(
    card: Card, adapter: Adapter, root: Path, scenes: Sequence[str] = (), decoding: DecodingProgress | None = None
) -> DatasetCheck:
    """Check everything; what is wrong is in the result, nothing is raised for bad data.

    scenes: names; () for all on disk that the protocol does not leave out. decoding: given, every image and depth
    map is read whole, and this hears how far it is.
    """
    findings = _disk(root)
    try:
        chosen = tuple(scenes) or tuple(scene for scene in adapter.scenes() if scene not in card.scenes_left_out)
    except DataError as error:
        return DatasetCheck(card.name, str(root), (*findings, Finding("problem", "layout", str(error))), ())
    if not scenes:
        findings += _against_card(card, chosen)
    checks = tuple(_scene(card, adapter, scene, decoding) for scene in chosen)
    return DatasetCheck(card.name, str(root), tuple(findings), checks)


def _disk(root: Path) -> list[Finding]:
    try:
        free = shutil.disk_usage(root).free
    except OSError:
        return []  # the root is not there: the layout check says so
    text = f"{free / 2**30:.1f} GiB free where the dataset lies"
    return [Finding("warning" if free < LITTLE_DISK else "note", "disk", text)]


def _against_card(card: Card, scenes: Sequence[str]) -> list[Finding]:
    if not card.expected_scenes:
        return []
    missing = [scene for scene in card.expected_scenes if scene not in scenes]
    further = [scene for scene in scenes if scene not in card.expected_scenes]
    findings = []
    if missing:
        text = (
            f"{len(missing)} of the protocol's {len(card.expected_scenes)} scenes are not there: {shown(missing, 20)}"
        )
        findings.append(Finding("warning", "scenes", f"{text}; means over the others are not the published ones"))
    if further:
        text = f"scenes that the protocol does not have: {shown(further, 20)}; name the protocol's in the experiment"
        findings.append(Finding("warning", "scenes", text))
    return findings


def _scene(card: Card, adapter: Adapter, scene: str, decoding: DecodingProgress | None) -> SceneCheck:
    started = time.perf_counter()
    try:
        sequence = adapter.open(scene, Selection())
    except DataError as error:
        return SceneCheck(scene, None, (Finding("problem", "layout", str(error)),), time.perf_counter() - started)
    findings = _count(card, scene, sequence.length)
    if isinstance(sequence, VideoSequence):
        seconds = time.perf_counter() - started
        findings += check_video(sequence, card.protocol.size, decoding)
        return SceneCheck(scene, sequence.length, tuple(findings), seconds)
    assert isinstance(sequence, FileSequence), "nothing else is read from disk"
    findings += check_files(sequence) + check_poses(sequence) + check_times(sequence)
    seconds = time.perf_counter() - started
    found, convention = _convention(sequence, card.protocol.max_depth)
    findings += found
    if decoding is not None:
        findings += _decoded(sequence, decoding)
    findings += [Finding("warning", "scene", text) for text in input_notes(sequence.facts(), card.protocol.size)]
    return SceneCheck(scene, sequence.length, tuple(findings), seconds, convention)


def _count(card: Card, scene: str, frames: int | None) -> list[Finding]:
    expected = card.expected_scenes.get(scene)
    if expected is None or frames == expected:
        return []
    text = f"{frames} frames, the release has {expected}"
    return [Finding("warning", "count", f"{text}: the card's stride is meant for the whole sequence")]


def _convention(sequence: FileSequence, farthest: float) -> tuple[list[Finding], ConventionVerdict | None]:
    try:
        verdict = convention_of(sequence)
    except DataError as error:
        return [Finding("problem", "convention", f"cannot be tested: {error}")], None
    if isinstance(verdict, str):
        note = Finding("note", "convention", f"not tested: {verdict}")
        return [note, *check_step(sequence), *check_depth_range(sequence, farthest)], None
    found = [*convention_findings(verdict, sequence.depth_scale), *_out_of_step(verdict, sequence)]
    doubtful = not verdict.clear and verdict.depth_factor is None and not verdict.shift
    return [*found, *(check_depth_range(sequence, farthest) if doubtful else ())], verdict


def _out_of_step(verdict: ConventionVerdict, sequence: FileSequence) -> list[Finding]:
    if not verdict.shift:
        return []
    step = float(np.median(np.diff(sequence.timestamps())))
    now, then = verdict.shift_shares
    side = "later" if verdict.shift > 0 else "earlier"
    return [
        Finding(
            "problem",
            "poses",
            f"poses and images are out of step: with the poses of {abs(verdict.shift)} frames {side}"
            f" ({abs(verdict.shift) * step:.3g} s) {then:.0%} of the depth fits closely, as they are {now:.0%}; shift"
            " the times of the poses, or check which row is of which image",
        )
    ]


def convention_findings(verdict: ConventionVerdict, depth_scale: float | None = None) -> tuple[Finding, ...]:
    """The verdict in words: of the poses, then of the depth maps' focal length.

    depth_scale: units a metre in which depth is read, where an option of the dataset says so.
    """
    best = verdict.best
    factor = verdict.depth_factor
    if factor is not None:
        text = f"depth fits the poses when it is {factor:.4g} times what is read"
        if depth_scale is None:
            text += ": its unit is not the one that this dataset is read in; is it the dataset's own?"
        else:
            units = depth_scale / factor
            looks = "depth looks like millimetres: " if round(units) == 1000 else ""
            text = f"{looks}{text} at {depth_scale:g} units a metre; set options.depth_scale to {units:.5g}"
        return (Finding("problem", "depth", text),)
    if not verdict.clear:
        second = verdict.fits[1]
        shares = f"{best.name} with {best.share:.0%} of the pixels, {second.name} with {second.share:.0%}"
        text = f"no convention stands out: best fit {shares}; are depth and poses of this scene?"
        return (Finding("warning", "convention", text),)
    second = verdict.runner_up
    shares = f"{best.share:.0%} of the pixels fit, the runner-up ({second.name}) {second.share:.0%}"
    if verdict.ties:
        shares += f"; this motion cannot tell it from: {' or '.join(tie.name for tie in verdict.ties)}"
    if not verdict.is_expected:
        text = f"poses are {best.name} ({shares}); expected camera-to-world, OpenCV axes: convert them"
        return (Finding("problem", "convention", text),)
    found = [Finding("note", "convention", f"poses are {best.name} ({shares})")]
    fitted, declared, image = verdict.fitted_focal, verdict.declared_focal, verdict.image_focal
    if fitted is None:
        return tuple(found)
    if not verdict.focal_agrees:
        text = (
            f"depth fits a focal length of {fitted:.0f} px, not {declared:.0f} as it is read:"
            " is it registered to the image? are the intrinsics right?"
        )
        found.append(Finding("problem", "registration", text))
    else:
        registered = "registered to the image" if declared == image else "not registered to the image, read as such"
        text = (
            f"depth fits a focal length of {fitted:.0f} px (read with {declared:.0f}, image {image:.0f}): {registered}"
        )
        found.append(Finding("note", "registration", text))
    return tuple(found)


def _decoded(sequence: FileSequence, decoding: DecodingProgress) -> list[Finding]:
    problems: list[str] = []
    frames = 0
    for index in range(sequence.length):
        try:
            sequence.frame(index)
            frames += 1
        except DataError as error:
            problems.append(str(error))
        decoding(sequence.scene, index + 1, sequence.length)
    note = Finding("note", "decode", f"{frames} frames decoded")
    # A first image without a size is the fault of every frame, in the same words.
    return [*gathered("problem", "decode", list(dict.fromkeys(problems))), note]


def check_video(sequence: VideoSequence, size: SizeSettings, decoding: DecodingProgress | None) -> list[Finding]:
    """What the header says, and damage in the first minute; with ``decoding``, in the whole file.

    size: what the protocol prepares frames to.
    """
    findings = [Finding("note", "video", _header(sequence)), Finding("note", "picture", _picture(sequence))]
    findings += check_times(sequence, "was the recording paused, or are frames missing?")
    problems, count = _played(sequence, decoding)
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


def _played(sequence: VideoSequence, decoding: DecodingProgress | None) -> tuple[list[str], int]:
    """What is wrong, and how many frames were decoded."""
    count = 0
    problems = []
    try:
        for _ in itertools.islice(sequence.frames(), FRAMES_TRIED if decoding is None else None):
            count += 1
            if decoding is not None:
                decoding(sequence.scene, count, sequence.length)
    except DataError as error:
        problems.append(str(error))
    if sequence.damage is not None:
        problems.append(sequence.damage)
    return problems, count
