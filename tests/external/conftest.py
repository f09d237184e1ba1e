"""Runs of the tests' wrapper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import pytest
from guests import DATASET, experiment, unit, wrapped

import lingbot_eval as lb
from lingbot_eval.stored.records import UnitRecord


class RunWrapper(Protocol):
    def __call__(self, fault: str, **settings: Any) -> UnitRecord: ...


@pytest.fixture(scope="session")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The poses of the scene as the wrapper reads them."""
    reference = lb.open_dataset("synthetic", **DATASET["options"]).scene("room").reference()
    assert reference is not None
    path = tmp_path_factory.mktemp("truth") / "truth.json"
    path.write_text(json.dumps(reference.camera_to_world.tolist()))
    return path


@pytest.fixture
def run_wrapper(truth: Path, tmp_path: Path) -> RunWrapper:
    """Runs one unit with the wrapper; gives its record."""

    def run(fault: str, **settings: Any) -> UnitRecord:
        method = wrapped(truth, fault, name="guest", **settings)
        return unit(lb.run(experiment(method), out=tmp_path / "runs", allow_commands=True), "guest")

    return run
