"""Runs a study: an experiment whose units are cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from lingbot_eval.datasets.registry import DATASETS
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.files.atomic import write_text
from lingbot_eval.files.reading import file_state
from lingbot_eval.machine.environment import environment
from lingbot_eval.methods.base import METHODS
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.model.build import choose_device
from lingbot_eval.plots import save
from lingbot_eval.registry import Plugin
from lingbot_eval.runs import execute as engine
from lingbot_eval.runs.execute import Outcome, Parallel, refuse_commands, run_tasks
from lingbot_eval.runs.plan import adapter_of, content_key
from lingbot_eval.runs.records import Names, utc_now
from lingbot_eval.runs.store import StoredUnit, run_directory
from lingbot_eval.scaling.case import CaseTask
from lingbot_eval.scaling.inputs import DATASET, SCENE, CaseFrames, FrameSource, Size, open_source
from lingbot_eval.scaling.page import case_labels, page, title
from lingbot_eval.scaling.records import CaseRecord, ScaleRecord, ScaleStore
from lingbot_eval.scaling.settings import Case, DatasetInput, Study
from lingbot_eval.validation import validated

LOADING = 4
"""Threads that decode while a GPU computes."""
PAGE, FIGURE = "scale.md", "scale.png"


class Observer(engine.Observer[Case, CaseRecord], Protocol):
    """Watches a study go by."""

    def preparing(self, case: Case, frames: int | None) -> None:
        """Frames of this case's size are made ready, so many of them where that is known; then `frame` for each."""
        ...


def in_order(study: Study) -> tuple[Case, ...]:
    """All cases, those of one precision together: they share a network."""
    cases = tuple(study.all_cases())
    seen = list(dict.fromkeys(case.precision for case in cases))
    return tuple(sorted(cases, key=lambda case: seen.index(case.precision)))


def execute(
    study: Study,
    out: Path,
    command: str,
    observer: Observer,
    parallel: Parallel | None = None,
    *,
    allow_commands: bool = False,
) -> Outcome[ScaleRecord, CaseRecord]:
    """Do what is not done yet of ``study``, under ``out``; ``command`` repeats it.

    parallel, allow_commands: as of `lingbot_eval.runs.execute.execute`.

    A case that was cut by a kill goes on from its last saved state. Raises StoreError, CheckpointError, ConfigError and
    DataError for what no case could survive.
    """
    method = study.method
    if method is None:
        study = study.model_copy(update={"device": str(choose_device(study.device))})
    else:
        refuse_commands({} if method.runs_command is None else {method.name: method.runs_command}, allow_commands)
        study = study.model_copy(update={"method": method.on_this_machine()})
    record = _record(study, command)
    store = ScaleStore(run_directory(out, record))
    store.begin(record)
    tasks = tuple(_tasks(study, observer).values())
    # As it was given: what was left out is what sweeps and defaults fill in.
    settings = study.model_dump_json(exclude_unset=True)
    return run_tasks(store, record, tasks, observer, parallel, f"{__name__}:reopen", settings)


def reopen(path: Path, settings: str) -> tuple[ScaleStore, Callable[[Names], CaseTask]]:
    """As `lingbot_eval.runs.scene.reopen`, of a study."""
    tasks = _tasks(validated(Study, json.loads(settings), str(path)), None)
    return ScaleStore(path), lambda names: tasks[names]


def _tasks(study: Study, observer: Observer | None) -> dict[Names, CaseTask]:
    free = study.device.startswith("cuda") if study.method is None else study.method.leaves_the_cpu_free
    sources = _Sources(study, observer, workers=LOADING if free else 0)
    return {(case.name,): CaseTask(study, case, sources.open) for case in in_order(study)}


def write_scaling(path: Path) -> tuple[Path, ...]:
    """Write the page of a study that was run, and the figure where any case has samples; returns them, page first.

    Raises StoreError.
    """
    from lingbot_eval.scaling.figure import Curve, scaling_figure

    store = ScaleStore(path)
    with store.lock():
        record, cases = store.read_run(), [unit.record for unit in store.read_units().units]
        curves = [
            Curve(label, case, store.read_table(StoredUnit(store.folder(case.name), case)))
            for label, case in zip(case_labels(cases), cases, strict=True)
            if case.predictions
        ]
        # The page comes last: what it shows is there.
        files = [store.path / PAGE]
        if curves:
            save(scaling_figure(title(record), curves), store.path / FIGURE)
            files.append(store.path / FIGURE)
        write_text(store.path / PAGE, page(record, cases, FIGURE if curves else None))
    return tuple(files)


class _Sources:
    """The frames of the size used last: cases of one size share their pool."""

    def __init__(self, study: Study, observer: Observer | None, workers: int) -> None:
        self._study = study
        self._workers = workers
        self._observer = observer
        self._held: tuple[Size, FrameSource] | None = None

    def open(self, case: Case) -> CaseFrames:
        """The frames of a case."""
        if self._held is None or self._held[0] != case.size:
            self._held = None
            settings = self._study.input
            if self._observer is not None:
                self._observer.preparing(case, settings.pool)
            ready = (lambda: None) if self._observer is None else self._observer.frame
            self._held = case.size, open_source(settings, case.size, self._workers, ready)
        return CaseFrames(self._held[1], case.frames)


def _record(study: Study, command: str) -> ScaleRecord:
    method = study.method
    found = (method or LingbotConfig(kind="lingbot", model=study.model)).weights()
    weights = "none" if found is None else found.label
    if method is not None:
        weights = f"of {method.name}: {weights}"
    files = () if method is None else method.input_files(DATASET, SCENE)
    resolved = study.model_dump(mode="json")
    block = environment()
    # Times and memory of another machine, or of another torch, are another run's: one record states one environment.
    machine = {name: block[name] for name in ("cpu_model", "libraries", "torch")}
    content = {
        "scale": resolved,
        "weights": [weights, None if found is None else found.sha256],
        "input": _input_fingerprint(study),
        "plugins": [[plugin.name, plugin.sha256] for plugin in _plugins_of(study)],
        "files": [[str(path), file_state(path)] for path in files],
        "machine": machine,
    }
    return ScaleRecord(
        key=content_key(content, of_study=True),
        name=study.name,
        command=command,
        study=resolved,
        cases=[case.name for case in in_order(study)],
        weights=weights,
        environment=block,
        started=utc_now(),
    )


def _plugins_of(study: Study) -> list[Plugin]:
    """Those that bring its dataset or its method."""
    found = [DATASETS.plugin(study.input.dataset.name)] if isinstance(study.input, DatasetInput) else []
    found += [] if study.method is None else [METHODS.plugin(study.method.kind)]
    return [plugin for plugin in found if plugin is not None]


def _input_fingerprint(study: Study) -> str | None:
    """Of the files that are read; what is generated is in the settings."""
    if not isinstance(study.input, DatasetInput):
        return None
    dataset = study.input.dataset
    return adapter_of(dataset).open(dataset.scenes[0], Selection()).fingerprint()
