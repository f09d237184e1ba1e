"""Is a wrapper of an outside method right? Ten made-up frames, whose truth is known, go through it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.errors import LingbotEvalError, UnscorableError
from lingbot_eval.geometry.alignment import umeyama
from lingbot_eval.geometry.poses import spread
from lingbot_eval.methods.external_config import ExternalConfig
from lingbot_eval.metrics.matching import MatchedPoses, match_poses
from lingbot_eval.metrics.meaning import pose_notes
from lingbot_eval.prepare import SizeSettings, prepare
from lingbot_eval.settings import validated
from lingbot_eval.types import DepthMap, Frame, FrameSequence, Prediction, Trajectory

Mode = Literal["pipe", "job"]
MODES: tuple[Mode, ...] = ("pipe", "job")

SCENE = "room"
SIDE = 224
OPTIONS = {"frames": 10, "width": SIDE, "height": SIDE, "step": 0.2}
"""Of the synthetic dataset. Sides that every patch size in use divides; a path of 2 m that turns."""

_FITS = 0.2
"""Share of the path's spread that may be left by an alignment from which a scale is read."""

_UNITS = {1000.0: "millimetres", 100.0: "centimetres", 0.001: "kilometres"}
_LIKE = 1.1
"""Factor within which a scale is taken for that of a unit."""


@dataclass(frozen=True)
class WrapperCheck:
    """What one way of talking to a wrapper showed.

    mode: ``pipe`` or ``job``. frames: given. poses: that came back. problems: what is wrong, a line each; notes: what
    may be meant so. log: the last lines of the program's log.
    """

    mode: Mode
    frames: int
    poses: int
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    log: tuple[str, ...] = ()


def check_wrapper(
    command: Sequence[str], modes: Sequence[Mode] = MODES, timeout_s: float = 600
) -> Iterator[WrapperCheck]:
    """Run the wrapper once for each mode. Raises ConfigError for a program that is not there."""
    for mode in modes:
        given = {
            "kind": "external",
            "command": list(command),
            "mode": mode,
            "timeout_s": timeout_s,
            "frame_timeout_s": timeout_s,
        }
        yield _checked(validated(ExternalConfig, given, "external check").on_this_machine())


def _checked(config: ExternalConfig) -> WrapperCheck:
    sequence = open_adapter("synthetic", None, OPTIONS).open(SCENE, Selection())
    size = SizeSettings(mode="exact", width=SIDE, height=SIDE)
    frames = [prepare(frame, size) for frame in sequence.frames()]
    predictions: list[Prediction] = []
    problems: list[str] = []
    with closing(config.create()) as method:
        try:
            method.open(sequence)
            method.warm_up(frames[0])
            predictions += method.predict(frames)
        except LingbotEvalError as error:
            problems.append(str(error))
        found = method.describe().get("found", {})
    if found.get("left_running"):
        problems.append(f"processes that ran on after the program had ended: {found['left_running']}")
    notes: list[str] = []
    if not problems:
        problems += _missing(frames, predictions)
        problems += _out_of_order(predictions)
    if len(predictions) > 1:
        wrong, notes = _geometry(sequence, frames, predictions)
        problems += wrong
    return WrapperCheck(
        config.mode,
        len(frames),
        len(predictions),
        tuple(problems),
        () if problems else tuple(notes),
        tuple(found.get("log_tail", ())),
    )


def _missing(frames: Sequence[Frame], predictions: Sequence[Prediction]) -> list[str]:
    lacking = sorted({frame.index for frame in frames} - {prediction.index for prediction in predictions})
    if not lacking:
        return []
    return [
        f"{len(lacking)} of {len(frames)} frames have no pose: {', '.join(map(str, lacking))}; answer each frame of"
        " which the method has one, at the latest in finish"
    ]


def _out_of_order(predictions: Sequence[Prediction]) -> list[str]:
    indices = [prediction.index for prediction in predictions]
    if indices == sorted(indices):
        return []
    return [f"poses must come in frame order, found {', '.join(map(str, indices))}; sort them"]


def _geometry(
    sequence: FrameSequence, frames: Sequence[Frame], predictions: Sequence[Prediction]
) -> tuple[list[str], list[str]]:
    """What the poses and depths mean, held against the truth: problems, notes."""
    reference = sequence.reference()
    ordered = sorted(predictions, key=lambda prediction: prediction.index)
    estimate = Trajectory(
        np.array([each.index for each in ordered], dtype=np.int64),
        np.array([each.timestamp for each in ordered]),
        np.array([each.camera_to_world for each in ordered], dtype=np.float64),
    )
    if reference is None:
        raise TypeError("the made-up scenes have poses")
    matched = match_poses(reference, estimate)
    # What a score would have to be told instead does not help whoever writes the wrapper.
    problems = [f"{note.partition('; --est-')[0]}; turn them in the wrapper" for note in pose_notes(matched)]
    depths = [(each.depth, frames[each.index]) for each in ordered if each.depth is not None]
    try:
        units, share = _units_in_a_metre(matched)
        off = f"poses are off by {100 * share:.0f} % of the path after alignment"
    except UnscorableError as error:
        units, share, off = 0.0, np.inf, f"poses cannot be aligned with the true ones: {error}"
    if problems or share > _FITS:
        unclear = f"{off}: what they mean cannot be told"
        return [*problems, *_depth_problems(depths)], [] if problems else [unclear]
    notes = [f"poses are {100 * share:.1f} % of the path off after alignment"]
    unit = _unit(units)
    if unit is not None:
        problems.append(
            f"positions look like {unit} ({units:.4g} times the metres); give metres, or a scale of your own"
        )
    else:
        notes.append(f"one metre is {units:.4g} of the poses' units; a scale of the method's own is fine")
    return [*problems, *_depth_problems(depths, units)], notes


def _units_in_a_metre(matched: MatchedPoses) -> tuple[float, float]:
    """Units of the estimate in a metre, and the RMSE that the alignment leaves as a share of the path's spread.

    Raises UnscorableError for positions that no alignment has one answer for.
    """
    truth, guess = matched.reference[:, :3, 3], matched.estimate[:, :3, 3]
    extent = spread(truth)
    aligned = umeyama(guess, truth, with_scale=True)
    left = float(np.sqrt(np.mean(np.sum((aligned.apply_points(guess) - truth) ** 2, axis=1))))
    return (1 / aligned.scale if aligned.scale > 0 else 0.0), left / extent


def _unit(units: float) -> str | None:
    return next((name for factor, name in _UNITS.items() if factor / _LIKE < units < factor * _LIKE), None)


def _depth_problems(depths: Sequence[tuple[DepthMap, Frame]], units: float | None = None) -> list[str]:
    """What is wrong with depth. units: of the poses in a metre, where they tell."""
    guesses, truths, rays = [], [], []
    for depth, frame in depths:
        if frame.depth is None or frame.intrinsics is None:
            continue
        there = (depth > 0) & (frame.depth > 0)
        rows, columns = np.nonzero(there)
        matrix = frame.intrinsics
        across, down = (columns - matrix[0, 2]) / matrix[0, 0], (rows - matrix[1, 2]) / matrix[1, 1]
        guesses.append(np.asarray(depth[there], dtype=np.float64))
        truths.append(np.asarray(frame.depth[there], dtype=np.float64))
        rays.append(np.sqrt(1 + across**2 + down**2))
    guess = np.concatenate([np.zeros(0), *guesses])
    if not depths:
        return []
    if not len(guess):
        return ["depth is 0 everywhere; leave it out where the method has none"]
    truth, ray = np.concatenate(truths), np.concatenate(rays)
    # Of logarithms: the inverse is the same line falling.
    logs, true_logs = np.log(guess), np.log(truth)
    if logs.std() > 1e-6 and np.corrcoef(logs, true_logs)[0, 1] < -0.5:
        return ["depth falls where the truth grows: it looks like inverse depth (disparity); give depth along z"]
    along_z, along_ray = (float(np.std(logs - true_logs - np.log(factor))) for factor in (1.0, ray))
    if along_ray < along_z / 3:
        return ["depth looks like the distance along the ray; give depth along z, the camera's third coordinate"]
    times = float(np.median(guess / truth))
    if units is not None and not 1 / 1.5 < times / units < 1.5:
        unit = _unit(times)
        return [
            f"depth is {times / units:.4g} times the scale of the poses{f' and looks like {unit}' if unit else ''};"
            " give both in one scale"
        ]
    return []
