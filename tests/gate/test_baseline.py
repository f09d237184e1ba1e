"""The baseline file: there and back, tolerances kept, history grown, and refusals that name the place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lingbot_eval.errors import ConfigError, StoreError
from lingbot_eval.files.yaml_documents import MAX_BYTES
from lingbot_eval.gating.baseline import Baseline, baseline_text, load_baseline, save_baseline, side_of
from lingbot_eval.gating.judge import judge
from lingbot_eval.gating.sides import Meaning
from lingbot_eval.gating.tolerances import Shown, default_tolerances
from lingbot_eval.gating.update import KEPT_VALUES, given_up, updated
from tests.gate.sides import ATE, AUC, LATENCY, NAMES, VALUES, side, unit

FLOOR = ("tum", "floor <script>&", "lingbot")


def first() -> Baseline:
    other = dict(unit().meanings) | {ATE: Meaning("m", "of this scene alone")}
    return updated(None, side({NAMES: unit(), FLOOR: unit(meanings=other)}), "somebody", "the first")


def test_a_side_survives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    save_baseline(path, first())
    read = load_baseline(path)
    assert read == first().model_copy(update={"history": read.history})
    back = side_of(read)
    assert set(back.units) == {NAMES, FLOOR}
    assert back.units[FLOOR].meanings[ATE].convention == "of this scene alone"
    assert back.units[NAMES].values == VALUES
    for stored, given in zip(back.units[NAMES].rounds[LATENCY], unit().rounds[LATENCY], strict=True):
        assert np.allclose(stored, given, rtol=6e-4)
    assert judge(back, back, read.tolerances).exit_code == 0


def test_an_update_keeps_tolerances_and_history() -> None:
    edited = first().model_copy(update={"tolerances": (Shown(kind="shown", match="auc/*"), *default_tolerances())})
    better = side({NAMES: unit(VALUES | {ATE: 0.4})}, started=("2026-01-01", "2026-01-02"))
    new = updated(edited, better, "me", "a better head")
    assert new.tolerances == edited.tolerances
    assert [entry.reason for entry in new.history] == ["the first", "a better head"]
    # What is only shown changes with every run: it is not kept.
    judged = {metric: value for metric, value in VALUES.items() if metric != AUC}
    assert new.history[-1].replaced == {"/".join(NAMES): {ATE: 0.5}, "/".join(FLOOR): judged}
    assert (new.history[-1].who, new.history[-1].rounds) == ("me", 2)
    assert new.history[-1].code["key"] == "k"


def test_what_an_update_gives_up_is_named() -> None:
    old = first()
    fewer = {metric: value for metric, value in VALUES.items() if metric != ATE}
    new = updated(old, side({NAMES: unit(fewer)}), "me", "another experiment by mistake")
    one, other = given_up(old, new)
    assert one == f"tum/desk/lingbot has no number of {ATE}, which was judged until now"
    assert other == f"{'/'.join(FLOOR)} is not in the run and leaves the baseline"
    assert given_up(old, old) == ()


def test_values_of_long_ago_go_and_the_reasons_stay() -> None:
    baseline = first()
    for number in range(KEPT_VALUES + 3):
        baseline = updated(baseline, side({NAMES: unit(VALUES | {ATE: 1.0 + number})}), "me", f"change {number}")
    assert len(baseline.history) == KEPT_VALUES + 4
    assert [bool(entry.replaced) for entry in baseline.history] == [False] * 4 + [True] * KEPT_VALUES


def test_a_baseline_needs_a_whole_run() -> None:
    with pytest.raises(ConfigError, match=r"tum/desk/lingbot: damaged: x .and 1 more"):
        updated(None, side({}, gaps={NAMES: "damaged: x", FLOOR: "y"}), "me", "why")
    with pytest.raises(ConfigError, match="every scene of this one failed"):
        updated(None, side({NAMES: unit({}, failure="crash")}), "me", "why")


def edited(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "b.yaml"
    document = yaml.safe_load(baseline_text(first())) | changes
    path.write_text(yaml.safe_dump({key: value for key, value in document.items() if value is not None}))
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema_version": 2}, "schema version 1, found 2"),
        ({"schema_version": None}, "schema version 1, found none"),
        ({"tolerance": []}, "unknown key 'tolerance' (did you mean 'tolerances'?)"),
        ({"tolerances": [{"match": "*", "kind": "relativ", "worse_by": 1}]}, "tolerances.0.kind"),
        ({"tolerances": [{"match": "*", "kind": "relative", "worse_by": -1}]}, "tolerances.0.worse_by"),
        ({"tolerances": [{"match": "*", "kind": "relative", "worse_by": 0.1, "better": "bigger"}]}, "better"),
        ({"units": []}, "units"),
        ({"history": []}, "history"),
        ({"metrics": {}}, "has no unit and convention"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = edited(tmp_path, **changes)
    with pytest.raises(ConfigError) as refused:
        load_baseline(path)
    assert words in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_broken_samples_and_doubled_scenes_are_refused(tmp_path: Path) -> None:
    document = yaml.safe_load(baseline_text(first()))
    document["units"][0]["samples"] = {LATENCY: ["1.0 x"]}
    with pytest.raises(ConfigError, match=r"units\.0\.samples"):
        load_baseline(edited(tmp_path, units=document["units"]))
    document["units"][0] = document["units"][1]
    with pytest.raises(ConfigError, match="is there twice"):
        load_baseline(edited(tmp_path, units=document["units"]))


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such baseline.*--update"):
        load_baseline(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"expected a file, found a folder|is a folder|cannot be read"):
        load_baseline(tmp_path)


def test_what_is_too_large_to_read_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    save_baseline(path, first())
    before = path.read_bytes()
    huge = updated(None, side({NAMES: unit(failure=None, input={"text": "x" * MAX_BYTES})}), "me", "why")
    with pytest.raises(ConfigError, match="more than"):
        save_baseline(path, huge)
    with pytest.raises(StoreError):
        save_baseline(tmp_path / "no folder" / "b.yaml", first())
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["b.yaml"]


def test_tolerances_are_one_line_each() -> None:
    lines = [line for line in baseline_text(first()).splitlines() if line.startswith("- {match:")]
    assert len(lines) == len(first().tolerances)
