"""Checks of one scene: by its files and headers, which decodes no image; and whether poses and images are in step."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from lingbot_eval.datasets.listing import and_more
from lingbot_eval.datasets.sequence import FileSequence
from lingbot_eval.datasets.video import VideoSequence
from lingbot_eval.errors import DataError
from lingbot_eval.files.depth_maps import check_depth_file
from lingbot_eval.geometry.poses import orthogonalised, path_length, relative, rotation_angle, rotation_faults
from lingbot_eval.statistics import stretches
from lingbot_eval.types import FloatArray

ROTATION_WARNING = 1e-2  # deviation of R R^T from the identity; KinectFusion's poses stay below
_NEAREST_DEPTH, _FARTHEST_DEPTH = 0.7, 8.0  # metres: where the middle of what a depth camera sees indoors lies
_NEAREST_ANYWHERE = 0.1  # metres: half of a picture is never nearer
_LONGEST_STILL = 10  # frames in a row with one and the same pose, from which on it is said
_DEPTH_MAPS_LOOKED_AT = 5
_LONG_GAP = 10.0  # times the median interval


Level = Literal["problem", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One line. level: ``problem`` makes numbers wrong or impossible, ``warning`` may, ``note`` is for the record.

    check: its kind in a word, e.g. ``images``, ``poses``, ``convention``.
    """

    level: Level
    check: str
    text: str


def gathered(level: Level, check: str, texts: Sequence[str]) -> list[Finding]:
    """One finding for many of a kind: the first, and how many more there are; none for none."""
    if not texts:
        return []
    return [Finding(level, check, texts[0] + and_more(len(texts) - 1))]


def check_files(sequence: FileSequence) -> list[Finding]:
    """Images that cannot be opened or differ in size, depth that is missing or empty, links, mixed kinds of file."""
    broken: list[str] = []
    headers = sequence.headers
    sizes = headers.sizes
    for index, source in enumerate(sequence.files):
        if source.depth is not None:
            try:
                check_depth_file(source.depth, f"frame {index}")
            except DataError as error:
                broken.append(str(error))
    kinds = Counter(source.image.suffix for source in sequence.files)
    findings = [Finding("problem", "images", fault) for fault in headers.faults]
    findings += gathered("problem", "depth", broken) + _links(sequence)
    if len(kinds) > 1:
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        findings.append(Finding("warning", "images", f"images of several kinds: {listed}; were two copies mixed?"))
    missing = np.array([source.depth is None for source in sequence.files])
    if missing.any() and not missing.all():
        findings.append(Finding("warning", "depth", _gaps(missing, "depth map")))
    if sizes:
        width, height = sizes.most_common(1)[0][0]
        several = f" and {len(sizes) - 1} other sizes" if len(sizes) > 1 else ""
        depth = "no depth" if missing.all() else f"{int((~missing).sum())} with depth"
        findings.append(Finding("note", "images", f"{width}x{height}{several}, {depth}"))
    return findings


def check_poses(sequence: FileSequence) -> list[Finding]:
    """Poses that cannot be read or are no rotations, and stretches of frames without any."""
    broken: list[str] = []
    poses: list[FloatArray] = []
    lost = 0
    missing = np.array([source.pose is None for source in sequence.files])
    for source in sequence.files:
        try:
            pose = source.camera_to_world()
            if pose is not None:
                poses.append(pose)
            elif source.pose is not None:
                lost += 1
        except DataError as error:
            broken.append(str(error))
    findings = gathered("problem", "poses", broken)
    if missing.all():
        none = "no reference poses: trajectories cannot be scored here"
        text = f"{sequence.conventions['poses']}; not looked at here" if sequence.poses_come_later else none
        return [*findings, Finding("note", "poses", text)]
    if missing.any():
        findings.append(Finding("warning", "poses", _gaps(missing, "pose")))
    if lost:
        findings.append(Finding("warning", "poses", f"{lost} poses are not finite: lost frames, which are not scored"))
    if poses:
        findings += _rotations(np.stack(poses))
    return findings


def check_depth_range(sequence: FileSequence, farthest: float = math.inf) -> list[Finding]:
    """Depth that nothing measures: its unit is probably another; and maps of another kind than the dataset's.

    farthest: metres up to which the protocol scores. Raises nothing.
    """
    scale = sequence.depth_scale
    with_depth = [index for index, source in enumerate(sequence.files) if source.depth is not None]
    if not with_depth:
        return []
    chosen = sorted({with_depth[round(k)] for k in np.linspace(0, len(with_depth) - 1, _DEPTH_MAPS_LOOKED_AT)})
    maps = []
    broken = []
    for index in chosen:
        try:
            depth = sequence.frame(index).depth
        except DataError as error:
            broken.append(str(error))
        else:
            maps.append(np.empty(0) if depth is None else depth[depth > 0])
    measured = np.concatenate(maps) if maps else np.empty(0)
    found = gathered("problem", "depth", broken)
    if not len(measured):
        return found
    half = float(np.median(measured.astype(np.float64)))
    if scale is None:
        return [*found, *_implausible(half, farthest)]
    if half < _NEAREST_DEPTH:
        what, other, name = "nearer", 1000.0, "millimetres"
    elif half > _FARTHEST_DEPTH:
        what, other, name = "farther", 5000.0, "TUM's own 5000 a metre"
    else:
        return found
    if other == scale:
        return found
    return [
        *found,
        Finding(
            "warning",
            "depth",
            f"half of the depth is {what} than {half:.2g} m, read at {scale:g} units a metre: depth looks like {name};"
            f" if so, set options.depth_scale to {other:g}",
        ),
    ]


def _implausible(half: float, farthest: float) -> list[Finding]:
    """What to say of depth half of which is nearer than ``half`` metres, in a dataset that has one unit."""
    if _NEAREST_ANYWHERE <= half <= farthest:
        return []
    away = f"nearer than {half:.2g} m" if half < _NEAREST_ANYWHERE else f"farther than {half:.3g} m"
    text = f"half of the depth is {away}: its unit is not the one that this dataset is read in; is it its own?"
    return [Finding("warning", "depth", text)]


def check_times(sequence: FileSequence | VideoSequence, question: str = "are frames missing?") -> list[Finding]:
    """Holes in time. (Timestamps out of order are refused when the scene is opened.)

    question: what a reader may ask himself about a hole.
    """
    steps = np.diff(sequence.timestamps())
    if len(steps) < 2:
        return []
    usual = float(np.median(steps))
    holes = np.flatnonzero(steps > _LONG_GAP * usual)
    if not len(holes):
        return []
    worst = int(holes[np.argmax(steps[holes])])
    return [
        Finding(
            "warning",
            "timestamps",
            f"{len(holes)} holes of more than {_LONG_GAP:g} times the usual {usual:.4g} s; the longest,"
            f" {steps[worst]:.4g} s, is after frame {worst}: {question}",
        )
    ]


def _rotations(poses: FloatArray) -> list[Finding]:
    deviation, flipped = rotation_faults(poses[:, :3, :3])
    worst, mirrored = int(np.argmax(deviation)), int(flipped.sum())
    path = path_length(poses[:, :3, 3])
    still = (np.diff(poses, axis=0) == 0).all(axis=(1, 2))
    starts, ends = stretches(still).T
    longest = int((ends - starts).max(initial=0)) + 1
    findings = [
        Finding(
            "note",
            "poses",
            f"{len(poses)} poses, path {path:.4g} long, rotations orthogonal to {deviation[worst]:.1e}",
        )
    ]
    if longest == len(poses) > 1:
        findings.append(Finding("problem", "poses", f"all {len(poses)} poses are the same: is this the trajectory?"))
    elif longest >= _LONGEST_STILL:
        first = int(starts[np.argmax(ends - starts)])
        text = (
            f"the pose is exactly the same {longest} times from pose {first} on ({int(still.sum())} in all repeat the"
            " one before): was tracking lost, and the last pose kept?"
        )
        findings.append(Finding("warning", "poses", text))
    if mirrored:
        findings.append(Finding("problem", "poses", f"{mirrored} rotation matrices are mirror images (determinant -1)"))
    if deviation[worst] > ROTATION_WARNING:
        text = (
            f"{int((deviation > ROTATION_WARNING).sum())} rotation matrices are off by more than {ROTATION_WARNING:g}"
        )
        findings.append(Finding("warning", "poses", f"{text}, the worst by {deviation[worst]:.3g} (pose {worst})"))
    return findings


def _gaps(missing: NDArray[np.bool_], what: str) -> str:
    starts, ends = stretches(missing).T
    longest = int(np.argmax(ends - starts))
    return (
        f"{int(missing.sum())} of {len(missing)} frames have no {what}, in {len(starts)} gaps; the longest has"
        f" {ends[longest] - starts[longest]} frames from frame {starts[longest]}"
    )


def _links(sequence: FileSequence) -> list[Finding]:
    """Links that lead out of the root: the numbers would hang on files that nobody sees."""
    root = os.path.realpath(sequence.root)
    files = [path for source in sequence.files for path in _paths(source.image, source.depth, source.pose)]
    outside = [
        f"{path} is a link that leads out of the root, to {target}; copy the file"
        for path in files
        if path.is_symlink() and not _within(target := os.path.realpath(path), root)
    ]
    folders = sorted({path.parent for path in files})
    away = [
        f"folder {folder} lies outside the root, in {target}: a link leads there; is that meant?"
        for folder in folders
        if not _within(target := os.path.realpath(folder), root)
    ]
    return gathered("problem", "links", outside) + gathered("warning", "links", away)


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _paths(*candidates: object) -> list[Path]:
    return [path for path in candidates if isinstance(path, Path)]


_FRAMES = 160  # looked at, in a row
_FEWEST = 60  # of which something can be concluded
_LATEST = 15  # frames by which poses are tried
_THUMBNAIL = (48, 36)
_MOST_PIXELS = 4_000_000  # of an image: larger ones take too long
_CLEAR, _LEAD = 0.6, 0.2  # correlation of the best shift, and how far ahead of none it is


def check_step(sequence: FileSequence) -> list[Finding]:
    """Poses some frames later or earlier than the images, by how fast both change. Raises nothing.

    Motion that is even tells nothing, and nothing is said of it.
    """
    try:
        # Poses that come later would be computed, which takes as long as a run does.
        reference = None if sequence.poses_come_later else sequence.reference()
        first = None if reference is None else _liveliest(reference.camera_to_world, np.diff(reference.indices) == 1)
        sizes = sequence.headers.sizes
        if reference is None or first is None or any(width * height > _MOST_PIXELS for width, height in sizes):
            return []
        rows = slice(first, first + _FRAMES)
        moved = _speeds(reference.camera_to_world[rows])
        changed = _changes(sequence, reference.indices[rows].tolist())
    except DataError:
        return []  # found elsewhere
    shifts = range(-_LATEST, _LATEST + 1)
    fits = [_correlation(moved, changed, shift) for shift in shifts]
    best = int(np.argmax(fits))
    if fits[best] < _CLEAR or fits[best] < fits[_LATEST] + _LEAD:
        return []
    shift = shifts[best]
    seconds = abs(shift) * float(np.median(np.diff(sequence.timestamps())))
    text = (
        f"poses and images look out of step: pictures change as the poses of {abs(shift)} frames"
        f" {'later' if shift > 0 else 'earlier'} ({seconds:.3g} s) move (correlation {fits[best]:.2f}, as they are"
        f" {fits[_LATEST]:.2f}); check which pose is of which image"
    )
    return [Finding("warning", "poses", text)]


def _liveliest(poses: FloatArray, next_to: FloatArray) -> int | None:
    """Where the stretch of frames begins whose speed varies most; None where none is long enough."""
    length = min(_FRAMES, len(poses))
    if length < _FEWEST:
        return None
    speeds = _speeds(poses)
    starts = [s for s in range(0, len(poses) - length + 1, max(1, length // 2)) if next_to[s : s + length - 1].all()]
    return max(starts, key=lambda start: float(np.std(speeds[start : start + length - 1])), default=None)


def _speeds(poses: FloatArray) -> FloatArray:
    """(N - 1,) how much each pose differs from the one before: angle and distance, each by its mean."""
    found = np.zeros(len(poses) - 1)
    rigid = orthogonalised(poses)
    distances = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    for steps in (rotation_angle(relative(rigid[:-1], rigid[1:])), distances):
        mean = float(steps.mean())
        found += steps / mean if mean > 0 else 0.0
    return found


def _changes(sequence: FileSequence, indices: list[int]) -> FloatArray:
    """(N - 1,) mean difference of the pictures of frames, small and grey, their brightness taken off."""
    small = []
    for index in indices:
        image = sequence.frame(index).image
        assert image is not None
        grey = np.asarray(PillowImage.fromarray(image).convert("L").resize(_THUMBNAIL, PillowImage.Resampling.BOX))
        small.append(grey - float(grey.mean()))
    return np.asarray(np.abs(np.diff(np.stack(small), axis=0)).mean(axis=(1, 2)), np.float64)


def _correlation(moved: FloatArray, changed: FloatArray, shift: int) -> float:
    """Pearson's, of the changes with the speeds ``shift`` steps later."""
    a = moved[max(0, shift) : len(moved) + min(0, shift)]
    b = changed[max(0, -shift) : len(changed) + min(0, -shift)]
    spread = float(a.std() * b.std())
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 0 else 0.0
