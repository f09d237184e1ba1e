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

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lingbot_eval.errors import ConfigError, StoreError
from lingbot_eval.reports.rendering import method_label
from lingbot_eval.reports.side_by_side import merged
from lingbot_eval.reports.tables import Names, RunResults, Table, long_table, read_results
from lingbot_eval.reports.unit_data import UnitData, read_unit_data
from lingbot_eval.runs.lock import writer_of
from lingbot_eval.runs.store import RunStore

if TYPE_CHECKING:
    import pandas as pd

    from lingbot_eval.runs.execute import Outcome

SHORT_KEY = 6  # digits of a run's key that tell runs of one name apart


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
        return self.store.read_frames(self.store.read_unit(dataset, scene, method))

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

    parts = [long_table(run.results).assign(run=run.label) for run in runs]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return table[["run", *(name for name in table.columns if name != "run")]] if parts else table


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
