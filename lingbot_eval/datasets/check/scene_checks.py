"""Checks of one scene by its metadata: no image is decoded, only headers are read."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.datasets.check.findings import Finding, gathered
from lingbot_eval.datasets.readers import check_depth_file
from lingbot_eval.datasets.sequence import FileSequence
from lingbot_eval.datasets.video import VideoSequence
from lingbot_eval.errors import DataError
from lingbot_eval.files.pose_tables import read_pose
from lingbot_eval.geometry.poses import path_length
from lingbot_eval.statistics import stretches
from lingbot_eval.types import FloatArray

ROTATION_WARNING = 1e-2  # deviation of R R^T from the identity; KinectFusion's poses stay below
_NEAREST_DEPTH, _FARTHEST_DEPTH = 0.7, 8.0  # metres: where the middle of what a depth camera sees indoors lies
_NEAREST_ANYWHERE = 0.1  # metres: half of a picture is never nearer
_LONGEST_STILL = 10  # frames in a row with one and the same pose, from which on it is said
_DEPTH_MAPS_LOOKED_AT = 5
_LONG_GAP = 10.0  # times the median interval


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
            pose = read_pose(source.pose) if isinstance(source.pose, Path) else source.pose
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
    rotations = poses[:, :3, :3]
    deviation = np.abs(rotations @ np.swapaxes(rotations, 1, 2) - np.eye(3)).max(axis=(1, 2))
    worst = int(np.argmax(deviation))
    mirrored = int((np.linalg.det(rotations) < 0).sum())
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
        for path, target in _leaving(files, root)
    ]
    folders = sorted({path.parent for path in files})
    away = [
        f"folder {folder} lies outside the root, in {target}: a link leads there; is that meant?"
        for folder in folders
        if not _within(target := os.path.realpath(folder), root)
    ]
    return gathered("problem", "links", outside) + gathered("warning", "links", away)


def _leaving(files: Sequence[Path], root: str) -> list[tuple[Path, str]]:
    links = [path for path in files if path.is_symlink()]
    return [(path, target) for path in links if not _within(target := os.path.realpath(path), root)]


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _paths(*candidates: object) -> list[Path]:
    return [path for path in candidates if isinstance(path, Path)]
