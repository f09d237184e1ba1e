"""The public way to read stored runs, for reports, notebooks and your own scripts; reads only, changes nothing.

::

    from lingbot_eval.reports.reading import measurements, open_runs, series

    runs = open_runs(["runs/smoke-eb97a20adbb4"])
    table = measurements(runs)                             # pandas: every number, its unit, convention and reason
    data = series(runs[0], "synthetic", "room", "lingbot-ci")
    data.frames                                            # pandas, one row a frame (runs.records.FRAME_COLUMNS)
    data.paths, data.panels, data.drift                    # trajectories, depth panels, growth of the error
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lingbot_eval.errors import ConfigError, LingbotEvalError, StoreError, UnscorableError
from lingbot_eval.files.times import associate
from lingbot_eval.files.trajectories import read_tum
from lingbot_eval.geometry.alignment import Sim3, umeyama
from lingbot_eval.reports.rendering import method_label
from lingbot_eval.reports.tables import (
    MEASUREMENT_COLUMNS,
    Names,
    RunResults,
    Table,
    measurement_rows,
    merged,
    read_results,
)
from lingbot_eval.settings import flattened
from lingbot_eval.stored.lock import writer_of
from lingbot_eval.stored.store import RunStore, StoredUnit
from lingbot_eval.stored.unit_files import ESTIMATE_FILE, REFERENCE_FILE, Columns, DepthPanels
from lingbot_eval.types import DriftSeries, FloatArray
from lingbot_eval.viewing.film import ShownVoxels, shown_voxels

if TYPE_CHECKING:
    import pandas as pd

    from lingbot_eval.stored.store import Outcome

SHORT_KEY = 6  # digits of a run's key that tell runs of one name apart
SAME_FRAME_S = 1e-6
"""Files of one unit, and of the same frames in two runs, carry the frames' own timestamps with all their digits."""
_LONGEST_VALUE = 160

T = TypeVar("T")
_Stored = tuple[FloatArray, FloatArray, FloatArray]


@dataclass(frozen=True)
class Run:
    """A stored run as it was when it was read.

    label: short, and of no other run opened with it. writer: the process that was writing it, in words, or None.
    outcome: what was done, skipped and failed, where this process ran it.
    """

    label: str
    store: RunStore
    results: RunResults
    writer: str | None
    outcome: Outcome | None = None

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.store.path

    def measurements(self) -> pd.DataFrame:
        """Every measurement: value, unit, convention, samples, and the reason where there is no value."""
        return measurements([self]).drop(columns="run")

    def frames(self, dataset: str, scene: str, method: str) -> pd.DataFrame:
        """One row a frame of a unit: times, errors, cache (columns: docs, file formats). Raises StoreError."""
        return self.store.read_table(self.store.read_unit(dataset, scene, method))

    def report(self, out: str | os.PathLike[str] | None = None) -> Path:
        """Write the report of this run into ``out`` (default: ``report`` in the run); returns the page."""
        from lingbot_eval.reports.report import write_report

        return write_report([self.path], self.path / "report" if out is None else Path(out)).files[0]

    @property
    def scored(self) -> int:
        """Pairs of scene and method that have scores."""
        return sum(1 for names in self.results.names() if self.results.failure(names) is None)

    @property
    def planned(self) -> int:
        """Pairs of scene and method that the run is made of."""
        return len(self.results.names())

    @property
    def incomplete(self) -> str | None:
        """Why more results may come, or should have; None for a run that ended, whatever failed in it."""
        gaps = len(self.results.gaps)
        there = f"{self.planned - gaps} of {self.planned} pairs of scene and method are stored"
        if self.writer is not None:
            return f"it is still being written, by {self.writer}; {there}"
        if not self.planned:
            return "it is empty: nothing was planned"
        if not gaps:
            # What is on the disk decides: a process may die between its last result and the word that it is done.
            return None
        if self.results.record.status == "running":
            return f"it was interrupted, no process writes it any more; {there}; run its command again to go on"
        if self.results.record.status == "complete" and gaps > len(self.results.left_out):
            return f"it was complete, and results are not there any more: {there}; run its command again for the others"
        return f"{there}; run its command again for the others"

    @property
    def state(self) -> str:
        """The run's state in words."""
        if self.incomplete is not None:
            return f"incomplete: {self.incomplete}"
        return "complete" if self.scored == self.planned else "ended, with failed scenes"

    def unit_label(self, names: Names) -> str:
        """``dataset / scene · method``, the method marked when its weights are untrained."""
        dataset, scene, method = names
        return f"{dataset} / {scene} · {method_label(method, self.results.untrained)}"


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
    """One unit's stored series; None for what it has not. columns: the table of frames. problems: one line for each
    thing that is there and could not be used; damaged: those of them that are files which cannot be read."""

    columns: Columns | None = None
    paths: Paths | None = None
    panels: DepthPanels | None = None
    drift: DriftSeries | None = None
    kept: KeptScene | None = None
    problems: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()

    @property
    def frames(self) -> pd.DataFrame | None:
        """The table of frames, one row a frame."""
        import pandas as pd

        return None if self.columns is None else pd.DataFrame(self.columns)


@dataclass(frozen=True)
class Opened:
    """Runs that could be read, and one line for each that could not."""

    runs: tuple[Run, ...]
    skipped: tuple[str, ...]


def open_run(path: str | os.PathLike[str]) -> Run:
    """One run. Raises StoreError when it is none, or its ``run.json`` is damaged or of another schema version."""
    return _read(Path(path), label=None)


def open_runs(paths: Iterable[str | os.PathLike[str]], labels: Sequence[str] = ()) -> tuple[Run, ...]:
    """Runs to be set side by side, labelled by ``labels`` or by name, with as much of the key as tells them apart.

    Raises StoreError as :func:`open_run` does, ConfigError for labels that are too few, too many or alike.
    """
    given = [Path(path) for path in paths]
    _check_labels(labels, len(given))
    named: Sequence[str | None] = labels or [None] * len(given)
    return _told_apart([_read(path, label) for path, label in zip(given, named, strict=True)], fixed=bool(labels))


def open_readable(paths: Iterable[Path], labels: Sequence[str] = ()) -> Opened:
    """As :func:`open_runs`, but a run that cannot be read is left out and named. Raises ConfigError for labels."""
    given = list(paths)
    _check_labels(labels, len(given))
    runs: list[Run] = []
    skipped: list[str] = []
    for position, path in enumerate(given):
        try:
            runs.append(_read(path, labels[position] if labels else None))
        except StoreError as error:
            skipped.append(str(error))
    return Opened(_told_apart(runs, fixed=bool(labels)), tuple(skipped))


def measurements(runs: Sequence[Run]) -> pd.DataFrame:
    """Every stored measurement of all runs, one a row, first column ``run``: value, unit, convention, samples, and
    the reason where there is no value; a failed or missing scene is a row of its own."""
    import pandas as pd

    rows = [(run.label, *row) for run in runs for row in measurement_rows(run.results)]
    # As objects: a name from a file system need not be UTF-8, which pandas' own strings refuse where pyarrow is there.
    table = pd.DataFrame(rows, columns=["run", *MEASUREMENT_COLUMNS], dtype=object)
    return table.astype({"value": "float64", "samples": "Int64"})


def overview(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run: label, name, state, scored and planned pairs, times, command."""
    import pandas as pd

    rows = [
        {
            "run": run.label,
            "state": run.state,
            "scored": run.scored,
            "planned": run.planned,
            "untrained": ", ".join(run.results.untrained),
            "started": run.results.record.started,
            "finished": run.results.record.finished or "not yet",
            "command": run.results.record.command,
        }
        for run in runs
    ]
    return pd.DataFrame(rows, dtype=object)


def failures(runs: Sequence[Run]) -> pd.DataFrame:
    """Columns run, dataset, scene, method, reason: every pair without scores, damaged and missing ones included."""
    import pandas as pd

    rows = [
        (run.label, *names, reason)
        for run in runs
        for names in run.results.names()
        if (reason := run.results.failure(names)) is not None
    ]
    return pd.DataFrame(rows, columns=["run", "dataset", "scene", "method", "reason"], dtype=object)


def series(run: Run, dataset: str, scene: str, method: str) -> UnitData:
    """What a unit stored along its sequence; what cannot be read is None and named in ``problems``.

    Raises StoreError when there is no such unit, or its record is damaged.
    """
    return read_unit_data(run.store, run.store.read_unit(dataset, scene, method))


@dataclass(frozen=True)
class Setting:
    """One setting or fact: its dotted name, and its value in every run, as short text; "–" where it has none."""

    name: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs have more than one value."""
        return len(set(self.values)) > 1


def settings(runs: Sequence[RunResults]) -> tuple[Setting, ...]:
    """Every setting of the resolved experiments, without the cards stored with them (``datasets show`` prints them)."""
    shown = [{key: value for key, value in run.record.experiment.items() if key != "cards"} for run in runs]
    return _rows(shown)


def environments(runs: Sequence[RunResults]) -> tuple[Setting, ...]:
    """Every fact of the machines and libraries that the runs ran on."""
    return _rows([run.record.environment for run in runs])


def differing_cards(runs: Sequence[RunResults]) -> tuple[str, ...]:
    """Names of the dataset cards that changed between two runs which both used them."""
    cards = [run.record.experiment.get("cards", {}) for run in runs]
    names = dict.fromkeys(name for given in cards for name in given)
    return tuple(name for name in names if len({_short(given[name], None) for given in cards if name in given}) > 1)


def tables(runs: Sequence[Run]) -> tuple[Table, ...]:
    """The report's tables; of several runs the same tables, in which every row says its run."""
    made = [(run.label, run.results.tables) for run in runs]
    return made[0][1] if len(made) == 1 else merged(made)


def _read(path: Path, label: str | None) -> Run:
    store = RunStore.open(path)
    # The writer is asked for first: a run that ends in between is then called unfinished, never wrongly complete.
    writer = writer_of(path)
    results = read_results(store)
    return Run(results.record.name if label is None else label, store, results, writer)


def _told_apart(runs: Sequence[Run], *, fixed: bool) -> tuple[Run, ...]:
    """Names that occur twice get a part of the key, and the same run in two places the folder it is in."""
    if fixed:
        return tuple(runs)
    for addition in (lambda run: run.results.record.key[:SHORT_KEY], lambda run: str(run.store.path)):
        often = Counter(run.label for run in runs)
        runs = [replace(run, label=f"{run.label} {addition(run)}") if often[run.label] > 1 else run for run in runs]
    return tuple(runs)


def _check_labels(labels: Sequence[str], runs: int) -> None:
    if labels and (len(labels) != runs or len(set(labels)) != runs):
        raise ConfigError(f"expected {runs} labels, one for each run and all different; found {list(labels)}")


def read_unit_data(store: RunStore, unit: StoredUnit) -> UnitData:
    """Everything of a unit that figures need. Raises nothing for damaged files: see ``problems``."""
    damaged: list[str] = []

    def attempt(read: Callable[[], T]) -> T | None:
        try:
            return read()
        except LingbotEvalError as error:
            damaged.append(str(error))
            return None

    columns = attempt(lambda: store.read_columns(unit))
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
    return UnitData(columns, paths, panels, drift, kept, tuple(problems), tuple(damaged))


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
    in_reference, in_estimate = associate(reference[0], times, SAME_FRAME_S)
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


def _rows(documents: Sequence[Mapping[str, Any]]) -> tuple[Setting, ...]:
    flat = [flattened(document, lists=True) for document in documents]
    names = dict.fromkeys(name for document in flat for name in document)
    return tuple(
        Setting(name, tuple(_short(document[name]) if name in document else "–" for document in flat)) for name in names
    )


def _short(value: Any, longest: int | None = _LONGEST_VALUE) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if longest is None or len(text) <= longest else text[: longest - 1] + "…"
