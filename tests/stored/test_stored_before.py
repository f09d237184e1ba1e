"""Folders that an earlier version of this package stored (schema 2, in tests/golden/stored) are read still."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lingbot_eval.scaling.records import scale_store
from lingbot_eval.stored.store import RunStore
from lingbot_eval.stored.unit_files import load_drift

STORED = Path(__file__).parents[1] / "golden" / "stored"


def test_a_run() -> None:
    store = RunStore.open(STORED / "a")
    run, stored = store.read_run(), store.read_units()
    assert (run.schema_version, run.status) == (2, "complete")
    assert run.planned == (("synthetic", "room", "saved"), ("synthetic", "room", "model"))
    assert (stored.left_out, stored.missing, stored.unchecked) == ((), (), None)
    for unit, ate in zip(stored.units, (0.016307988, 0.060722148), strict=True):
        values = [m.value for m in unit.record.measurements if (m.name, m.variant) == ("ate_rmse", "sim3")]
        assert values == [pytest.approx(ate, rel=1e-6)]
        table = store.read_table(unit)
        assert table["index"].tolist() == list(range(unit.record.predictions))
        assert len(load_drift(unit.folder / "drift.npz").frame) == 24


def test_a_study() -> None:
    store = scale_store(STORED / "study")
    run, stored = store.read_run(), store.read_units()
    assert (run.schema_version, run.status, len(run.planned)) == (2, "complete", 2)
    assert (stored.left_out, stored.missing, stored.unchecked) == ((), (), None)
    for unit, name in zip(stored.units, run.cases, strict=True):
        case = unit.record
        assert (case.name, case.predictions) == (name, 90)
        assert [point.frames for point in case.checkpoints] == [10, 30, 90]
        assert case.growth[0].value == case.growth[0].expected == 61440
        table = store.read_table(unit)
        assert table["frame_type"].tolist()[:5] == ["scale"] * 4 + ["kept"]
        assert table["kept"].iloc[-1] == case.checkpoints[-1].kept


@pytest.mark.parametrize(("kind", "table"), [("a", "frames.csv"), ("study", "samples.csv")])
def test_a_changed_number_of_theirs_is_seen(tmp_path: Path, kind: str, table: str) -> None:
    shutil.copytree(STORED / kind, tmp_path / kind)
    file = next((tmp_path / kind).rglob(table))
    file.write_text(file.read_text().replace("1", "2", 1))
    store = RunStore(tmp_path / kind) if kind == "a" else scale_store(tmp_path / kind)
    (left,) = store.read_units().left_out
    assert f"{file} is damaged: its content is not what was written (SHA-256)" in left.reason
