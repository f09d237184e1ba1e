"""What the figures of one unit are drawn from; whatever cannot be read becomes a line for the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from lingbot_eval.errors import LingbotEvalError, UnscorableError
from lingbot_eval.files.times import associate
from lingbot_eval.files.trajectories import read_tum
from lingbot_eval.geometry.alignment import Sim3, umeyama
from lingbot_eval.runs.panels import DepthPanels
from lingbot_eval.runs.store import RunStore, StoredUnit
from lingbot_eval.runs.unit_writer import ESTIMATE_FILE, REFERENCE_FILE
from lingbot_eval.types import DriftSeries, FloatArray
from lingbot_eval.viewing.film import ShownVoxels, shown_voxels

if TYPE_CHECKING:
    import pandas as pd

# Both files carry the frames' own timestamps, with all their digits.
_SAME_FRAME_S = 1e-6

T = TypeVar("T")
_Stored = tuple[FloatArray, FloatArray, FloatArray]


@dataclass(frozen=True, eq=False)
class Paths:
    """Camera positions of one unit.

    estimate: (N, 3), moved onto the reference, or in its own world and scale. alignment: in words; "" for none.
    reference: (M, 3) metres, or None when there is none.
    error: (N,) metres to the reference's position of the same frame, NaN where it has none; None without a reference.
    to_reference: what moved the estimate; None where nothing did.
    down: (3,) the world's direction in which the cameras' y axes point on average; None where it is not known. Only of
    a path without a reference: the model's world is that of the first camera, whose y axis points down.
    """

    estimate: FloatArray
    reference: FloatArray | None
    alignment: str = ""
    error: FloatArray | None = None
    to_reference: Sim3 | None = None
    down: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class KeptScene:
    """The cloud that a method built, and its cameras: (N, 4, 4) camera-to-world, in the method's world as the cloud."""

    voxels: ShownVoxels
    camera_to_world: FloatArray


@dataclass(frozen=True, eq=False)
class UnitData:
    """One unit's stored series. problems: one line for each thing that is there and could not be used; damaged: those
    of them that are files which cannot be read."""

    frames: pd.DataFrame | None
    paths: Paths | None
    panels: DepthPanels | None
    drift: DriftSeries | None
    kept: KeptScene | None
    problems: tuple[str, ...]
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Line:
    """What one method of one run did on a scene, to be drawn beside others; None where it left nothing."""

    label: str
    frames: pd.DataFrame | None
    drift: DriftSeries | None
    paths: Paths | None = None


def read_unit_data(store: RunStore, unit: StoredUnit) -> UnitData:
    """Everything of a unit that figures need. Raises nothing for damaged files: see ``problems``."""
    damaged: list[str] = []

    def attempt(read: Callable[[], T]) -> T | None:
        try:
            return read()
        except LingbotEvalError as error:
            damaged.append(str(error))
            return None

    frames = attempt(lambda: store.read_frames(unit))
    panels = attempt(lambda: store.read_panels(unit))
    drift = attempt(lambda: store.read_drift(unit))
    estimate = attempt(lambda: _positions(unit.file(ESTIMATE_FILE)))
    reference = attempt(lambda: _positions(unit.file(REFERENCE_FILE)))
    kept = attempt(lambda: _kept(unit))
    paths = None
    problems = list(damaged)
    if estimate is not None:
        try:
            paths = _paths(estimate, reference)
        except UnscorableError as error:
            problems.append(f"trajectory drawn without the reference: {error}")
            paths = _alone(estimate)
    return UnitData(frames, paths, panels, drift, kept, tuple(problems), tuple(damaged))


def _positions(path: Path | None) -> _Stored | None:
    """Timestamps (N,), positions (N, 3) and mean camera y axis (3,) of a trajectory file; None without a file."""
    if path is None:
        return None
    stored = read_tum(path)
    poses = stored.camera_to_world
    return stored.timestamps, poses[:, :3, 3], poses[:, :3, 1].mean(axis=0)


def _kept(unit: StoredUnit) -> KeptScene | None:
    """What was kept to be looked at; None without a cloud or without poses that look somewhere."""
    cloud, poses = unit.reconstruction.cloud(), unit.reconstruction.poses
    if cloud is None or not len(cloud) or poses is None or not len(poses) or not poses.has_orientation:
        return None
    return KeptScene(shown_voxels(cloud), poses.camera_to_world)


def _paths(estimate: _Stored, reference: _Stored | None) -> Paths:
    times, positions, _ = estimate
    if reference is None:
        return _alone(estimate)
    in_reference, in_estimate = associate(reference[0], times, _SAME_FRAME_S)
    if len(in_reference) < 3:
        raise UnscorableError(f"only {len(in_reference)} frames have both poses")
    move = umeyama(positions[in_estimate], reference[1][in_reference], with_scale=True)
    moved = move.apply_points(positions)
    if not np.isfinite(moved).all():
        raise UnscorableError("the aligned positions are not finite")
    error = np.full(len(moved), np.nan)
    error[in_estimate] = np.linalg.norm(moved[in_estimate] - reference[1][in_reference], axis=1)
    return Paths(moved, reference[1], "Sim(3)-aligned", error, move)


def _alone(estimate: _Stored) -> Paths:
    _, positions, down = estimate
    return Paths(positions, None, down=down)
