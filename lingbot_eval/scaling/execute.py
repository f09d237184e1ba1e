"""Runs a study case by case: finished ones are kept, failed ones recorded, cut ones run again from their start."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from lingbot_eval.datasets.protocol import Selection
from lingbot_eval.errors import CheckpointError, StoreError
from lingbot_eval.machine.environment import environment
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.model.build import choose_device
from lingbot_eval.runs.plan import adapter_of, content_key
from lingbot_eval.runs.records import utc_now
from lingbot_eval.runs.store import LeftOutUnit, run_directory
from lingbot_eval.scaling.attempt import CaseAttempt
from lingbot_eval.scaling.inputs import FrameSource, Size, open_source
from lingbot_eval.scaling.networks import Networks
from lingbot_eval.scaling.records import CaseRecord, ScaleRecord, ScaleStore
from lingbot_eval.scaling.settings import Case, DatasetInput, Study, case_name
from lingbot_eval.scaling.write import write_scaling

LOADING = 4
"""Threads that decode while a GPU computes."""


class Observer(Protocol):
    """Watches a study go by."""

    def preparing(self, case: Case, frames: int | None) -> None:
        """Frames of this case's size are made ready, so many of them where that is known."""
        ...

    def started(self, case: Case) -> None:
        """The case's stream is about to begin."""
        ...

    def frame(self) -> None:
        """One frame further."""
        ...

    def left_out(self, reason: str) -> None:
        """A case's stored result is not used and the case is run again, or the study has no such case."""
        ...

    def finished(self, record: CaseRecord, *, before: bool) -> None:
        """The case has its result; before: it had it when the run began."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a study ended. records: of all cases, in their order. files: its page, and its figure where it has one.
    lost_record: a line where the study's record was gone and is written anew."""

    path: Path
    record: ScaleRecord
    records: tuple[CaseRecord, ...]
    files: tuple[Path, ...]
    lost_record: str | None = None

    @property
    def failed(self) -> tuple[CaseRecord, ...]:
        """Cases without a whole result."""
        return tuple(record for record in self.records if record.status == "failed")


def in_order(study: Study) -> tuple[Case, ...]:
    """All cases, those of one precision together: they share a network."""
    cases = tuple(study.all_cases())
    seen = list(dict.fromkeys(case.precision for case in cases))
    return tuple(sorted(cases, key=lambda case: seen.index(case.precision)))


def execute(study: Study, out: Path, command: str, observer: Observer) -> Outcome:
    """Do what is not done yet of ``study``, under ``out``; ``command`` repeats it.

    A stream cannot go on in its middle, since its caches are gone: a case that was cut by a kill is run again from its
    first frame. Raises StoreError, CheckpointError, ConfigError and DataError for what no case could survive.
    """
    device = choose_device(study.device)
    record = _record(study, device, command)
    store = ScaleStore(run_directory(out, record))
    store.begin(record)
    with store.lock():
        record = record.model_copy(update={"started": store.read_run().started})
        store.write_run(record)
        try:
            records = _all(study, device, store, observer)
        except BaseException as error:
            refused = isinstance(error, CheckpointError)
            if not (refused and store.discard()):
                # Best effort: the same full disk may refuse this, too, and what stopped the run is what must be told.
                with suppress(StoreError):
                    store.write_run(_ended(record, complete=False))
            raise
        # What is on the disk and sound counts, not what was done here.
        stored = store.read_units()
        sound = sum(unit.record.status == "ok" for unit in stored.units)
        record = _ended(record, complete=sound == len(record.cases))
        store.write_run(record)
        for unit in stored.left_out:
            observer.left_out(unit.reason)
        files = write_scaling(store, record, records)
    return Outcome(store.path, record, records, files, store.lost_record)


def _all(study: Study, device: torch.device, store: ScaleStore, observer: Observer) -> tuple[CaseRecord, ...]:
    records = []
    networks = Networks(study.model, device)
    sources = _Sources(study, observer, workers=LOADING if device.type == "cuda" else 0)
    try:
        for case in in_order(study):
            name = case_name(case)
            found = store.find_unit(name)
            if isinstance(found, LeftOutUnit):
                observer.left_out(found.reason)
            elif found is not None and found.is_result_of(""):
                observer.finished(found.record, before=True)
                records.append(found.record)
                continue
            with store.unit_writer(name) as writer:
                attempt = CaseAttempt(study, case, device, networks, sources.opener(case), writer)
                attempt.run(observer.frame)
                done = attempt.record()
                writer.finish(done)
            observer.finished(done, before=False)
            records.append(done)
    finally:
        networks.close()
    return tuple(records)


class _Sources:
    """The frames of the size used last: cases of one size share their pool."""

    def __init__(self, study: Study, observer: Observer, workers: int) -> None:
        self._study = study
        self._workers = workers
        self._observer = observer
        self._held: tuple[Size, FrameSource] | None = None

    def opener(self, case: Case) -> Callable[[], FrameSource]:
        """Opens the frames of a case when it is called, and says when the stream may begin."""

        def opened() -> FrameSource:
            if self._held is None or self._held[0] != case.size:
                self._held = None
                settings = self._study.input
                self._observer.preparing(case, settings.pool)
                self._held = case.size, open_source(settings, case.size, self._workers, self._observer.frame)
            self._observer.started(case)
            return self._held[1]

        return opened


def _record(study: Study, device: torch.device, command: str) -> ScaleRecord:
    weights = LingbotConfig(kind="lingbot", model=study.model).weights()
    resolved = study.model_copy(update={"device": str(device)}).model_dump(mode="json")
    label = weights.label if weights is not None else ""
    block = environment()
    # Times and memory of another machine, or of another torch, are another run's: one record states one environment.
    machine = {name: block[name] for name in ("cpu_model", "libraries", "torch")}
    content = {"scale": resolved, "weights": label, "input": _input_fingerprint(study), "machine": machine}
    return ScaleRecord(
        key=content_key(content, of_study=True),
        name=study.name,
        command=command,
        study=resolved,
        cases=[case_name(case) for case in in_order(study)],
        weights=label,
        environment=block,
        started=utc_now(),
    )


def _input_fingerprint(study: Study) -> str | None:
    """Of the files that are read; what is generated is in the settings."""
    if not isinstance(study.input, DatasetInput):
        return None
    dataset = study.input.dataset
    return adapter_of(dataset).open(dataset.scenes[0], Selection()).fingerprint()


def _ended(record: ScaleRecord, *, complete: bool) -> ScaleRecord:
    return record.model_copy(update={"finished": utc_now(), "status": "complete" if complete else "incomplete"})
