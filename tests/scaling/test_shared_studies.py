"""A study that several processes share: each finds the same cases."""

from __future__ import annotations

from pathlib import Path

import pytest

import lingbot_eval.scaling.execute as module
from lingbot_eval.runs.execute import Parallel
from lingbot_eval.scaling.settings import Study
from lingbot_eval.settings import validated

SETTINGS = {
    "kind": "scale",
    "name": "shared",
    "device": "cpu",
    "model": {"config": "ci"},
    "input": {"kind": "noise", "pool": 4},
    "defaults": {"frames": 6, "size": [56, 42]},
    "cases": [{}, {"window": 8}],
    "sweep": {"backend": ["sdpa", "paged"]},
}


class Quiet:
    def __getattr__(self, name: str) -> object:
        return lambda *given: None


def test_another_process_finds_the_same_cases(tmp_path: Path) -> None:
    study = validated(Study, SETTINGS, "test").model_copy(update={"device": "cpu"})
    _, find = module.reopen(tmp_path, study.model_dump_json(exclude_unset=True))
    for case in module.in_order(study):
        task = find((case.name,))
        assert task.unit == case
        assert module.CaseTask(study, case, task.opened).method == task.method


@pytest.mark.slow
def test_a_study_in_a_child(tmp_path: Path) -> None:
    study = validated(Study, SETTINGS, "test")
    outcome = module.execute(study, tmp_path, "test", Quiet(), Parallel())  # type: ignore[arg-type]
    assert (outcome.done, outcome.failed, outcome.pending) == (4, 0, 0)
    assert [record.host.beside for record in outcome.records if record.host is not None] == [0] * 4
