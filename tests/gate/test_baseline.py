"""The baseline file: there and back, tolerances kept, history grown, and refusals that name the place."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lingbot_eval.errors import ConfigError, StoreError
from lingbot_eval.files.yaml_documents import MAX_BYTES
from lingbot_eval.gating.baseline import (
    Baseline,
    baseline_text,
    given_up,
    load_baseline,
    save_baseline,
    side_of,
    updated,
)
from lingbot_eval.gating.judge import Shown, default_tolerances, judge
from lingbot_eval.gating.sides import Meaning
from tests.gate.sides import ATE, AUC, LATENCY, MACHINE, NAMES, VALUES, WEIGHTS, side, unit

FLOOR = ("tum", "floor <script>&", "lingbot")
BROKEN = ("tum", "room", "lingbot")


def first() -> Baseline:
    other = dict(unit().meanings) | {ATE: Meaning("m", "of this scene alone")}
    return updated(None, side({NAMES: unit(), FLOOR: unit(meanings=other)}), "somebody", "the first")


def test_a_side_survives_the_file(tmp_path: Path) -> None:
    """All of it but what only a run has: gaps, problems, times."""
    odd = {
        ATE: Meaning("m", "of this scene alone", "lower"),
        AUC: Meaning("%", "convention of auc/auc_30", "higher"),
        "depth/abs_rel/lstsq": Meaning("1", "relative", "lower"),
    }
    fields: dict[str, Any] = {"input": {"source": "another"}, "settings": {"device": "cuda"}, "rounds": {}}
    reasons = {"depth/abs_rel/lstsq": "no depth"}
    given = side(
        {
            NAMES: unit(),
            FLOOR: unit({ATE: 0.25, AUC: 70.0}, meanings=odd, reasons=reasons, **fields),
            BROKEN: unit({}, failure="failed in stage stream: crash", rounds={}),
        },
        name="runs/x",
    )
    path = tmp_path / "b.yaml"
    save_baseline(path, updated(None, given, "somebody", "the first"))
    back = side_of(load_baseline(path))
    assert (back.name, back.environment, back.code, back.gaps) == ("made up", MACHINE, given.code, {})
    assert list(back.units) == [NAMES, FLOOR, BROKEN]
    for names, was in given.units.items():
        read = back.units[names]
        for fact in ("failure", "values", "reasons", "meanings", "input", "settings"):
            assert getattr(read, fact) == getattr(was, fact), (names, fact)
        assert read.rounds.keys() == was.rounds.keys()
        for metric, rounds_of_it in was.rounds.items():
            for stored, timed in zip(read.rounds[metric], rounds_of_it, strict=True):
                assert np.allclose(stored, timed, rtol=6e-4)
    assert judge(back, back, default_tolerances()).exit_code == 0


def test_the_code_of_a_baseline_is_that_of_its_last_update() -> None:
    new = updated(first(), side(code={"run": "made up", "key": "later"}), "me", "why")
    assert [entry.code["key"] for entry in new.history] == ["k", "later"]
    assert side_of(new).code["key"] == "later"


def test_an_update_keeps_tolerances_and_history() -> None:
    edited = first().model_copy(update={"tolerances": (Shown(kind="shown", match="auc/*"), *default_tolerances())})
    better = side({NAMES: unit(VALUES | {ATE: 0.4})}, started=("2026-01-01", "2026-01-02"))
    new = updated(edited, better, "me", "a better head")
    assert new.tolerances == edited.tolerances
    assert [entry.reason for entry in new.history] == ["the first", "a better head"]
    # What is only shown changes with every run: it is not kept.
    judged = {metric: value for metric, value in VALUES.items() if metric != AUC}
    assert new.history[-1].replaced == {"/".join(NAMES): {ATE: 0.5}, "/".join(FLOOR): judged}
    assert [entry.rounds for entry in new.history] == [1, 2]
    assert new.history[-1].who == "me"
    assert new.history[0] == edited.history[0]
    age = datetime.now(UTC) - datetime.fromisoformat(new.history[-1].when)
    assert timedelta(seconds=-1) < age < timedelta(minutes=5)
    assert new.history[-1].code["key"] == "k"


def test_what_an_update_gives_up_is_named() -> None:
    old = first()
    fewer = {metric: value for metric, value in VALUES.items() if metric != ATE}
    new = updated(old, side({NAMES: unit(fewer)}), "me", "another experiment by mistake")
    one, other = given_up(old, new)
    assert one == f"tum/desk/lingbot has no number of {ATE}, which was judged until now"
    assert other == f"{'/'.join(FLOOR)} is not in the run and leaves the baseline"
    assert given_up(old, old) == ()
    none = updated(old, side({NAMES: unit({WEIGHTS: 24.0}), FLOOR: unit({})}), "me", "why")
    assert given_up(old, none)[0] == f"tum/desk/lingbot has no number of {ATE} and 3 more, which was judged until now"
    # A reason in a number's place is a loss as well.
    why = {ATE: "too few poses"}
    reasoned = updated(old, side({NAMES: unit(fewer, reasons=why, meanings=unit().meanings), FLOOR: unit()}), "me", "x")
    assert given_up(old, reasoned) == (f"tum/desk/lingbot has no number of {ATE}, which was judged until now",)
    # What was only shown is no loss.
    shown = old.model_copy(update={"tolerances": (Shown(kind="shown", match="trajectory/*"), *old.tolerances)})
    assert len(given_up(shown, updated(shown, side({NAMES: unit(fewer), FLOOR: unit()}), "me", "why"))) == 0


def test_values_of_long_ago_go_and_the_reasons_stay() -> None:
    baseline = first()
    for number in range(13):
        baseline = updated(baseline, side({NAMES: unit(VALUES | {ATE: 1.0 + number})}), "me", f"change {number}")
    assert [bool(entry.replaced) for entry in baseline.history] == [False] * 4 + [True] * 10


def test_a_baseline_needs_a_whole_run() -> None:
    whole, again = "a baseline needs a whole run; tum/desk/lingbot: damaged: x", "; run it again, then --update"
    for given, words in (
        (side({}, gaps={NAMES: "damaged: x", FLOOR: "y"}), f"{whole} (and 1 more){again}"),
        (side(gaps={NAMES: "damaged: x"}), f"{whole}{again}"),
        (
            side({NAMES: unit({}, failure="crash")}),
            "a baseline needs a run that measured something; every scene of this one failed",
        ),
    ):
        with pytest.raises(ConfigError) as refused:
            updated(None, given, "me", "why")
        assert str(refused.value) == words
    # One that fails is in the baseline as it is, beside one that works.
    assert len(updated(None, side({NAMES: unit(), FLOOR: unit({}, failure="crash")}), "me", "why").units) == 2


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
        ({"schema_version": None, "datasets": []}, "found an experiment; give the baseline a file of its own"),
        ({"schema_version": None, "methods": []}, "found an experiment; give the baseline a file of its own"),
        ({"tolerance": []}, "unknown key 'tolerance' (did you mean 'tolerances'?)"),
        ({"tolerances": [{"match": "*", "kind": "relativ", "worse_by": 1}]}, "tolerances.0.kind"),
        ({"tolerances": [{"match": "*", "kind": "relative", "worse_by": -1}]}, "tolerances.0.worse_by"),
        ({"tolerances": [{"match": "*", "kind": "relative", "worse_by": 11}]}, "tolerances.0.worse_by"),
        ({"tolerances": [{"match": "*", "kind": "relative", "worse_by": 1, "floor": -1}]}, "tolerances.0.floor"),
        ({"tolerances": [{"match": "*", "kind": "absolute", "worse_by": -1}]}, "tolerances.0.worse_by"),
        ({"tolerances": [{"match": "*", "kind": "statistical", "alpha": 0.5}]}, "tolerances.0.alpha"),
        ({"tolerances": [{"match": "*", "kind": "statistical", "alpha": 0}]}, "tolerances.0.alpha"),
        ({"tolerances": [{"match": "*", "kind": "statistical", "min_effect": 0}]}, "tolerances.0.min_effect"),
        ({"tolerances": [{"match": "*", "kind": "statistical", "min_effect": 11}]}, "tolerances.0.min_effect"),
        ({"tolerances": [{"match": "*", "kind": "absolute", "worse_by": float("inf")}]}, "tolerances.0.worse_by"),
        (
            {"tolerances": [{"match": "*", "kind": "relative", "worse_by": 1, "floor": float("inf")}]},
            "tolerances.0.floor",
        ),
        ({"tolerances": [{"match": "", "kind": "shown"}]}, "tolerances.0.match"),
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
    for line in ("1.0 x", "1.0 -2.0", "inf 1.0"):
        document["units"][0]["samples"] = {LATENCY: ["1.0 2.0", line]}
        with pytest.raises(ConfigError, match=r"units\.0\.samples"):
            load_baseline(edited(tmp_path, units=document["units"]))
    document["units"][0]["samples"] = {ATE: ["1.0"]}
    with pytest.raises(ConfigError, match=rf"{ATE} has no samples; those that have: {LATENCY}, "):
        load_baseline(edited(tmp_path, units=document["units"]))
    document["units"][0] = document["units"][1]
    with pytest.raises(ConfigError, match="is there twice"):
        load_baseline(edited(tmp_path, units=document["units"]))


def test_what_has_a_reason_needs_its_meaning_as_well(tmp_path: Path) -> None:
    document = yaml.safe_load(baseline_text(first()))
    document["units"][0]["reasons"] = {"points/chamfer": "no points"}
    with pytest.raises(ConfigError, match="points/chamfer of tum/desk/lingbot has no unit and convention"):
        load_baseline(edited(tmp_path, units=document["units"]))
    document["units"][0]["metrics"] = {"points/chamfer": {"unit": "m", "convention": "c"}}
    assert side_of(load_baseline(edited(tmp_path, units=document["units"]))).units[NAMES].meanings[
        "points/chamfer"
    ] == Meaning("m", "c")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    with pytest.raises(ConfigError) as refused:
        load_baseline(path)
    how = f'lingbot-eval gate RUN --baseline {path} --update --reason "first"'
    assert str(refused.value) == f"{path}: no such baseline; write it from a run that is as it should be: {how}"
    with pytest.raises(ConfigError, match=r"expected a file, found a folder|is a folder|cannot be read"):
        load_baseline(tmp_path)


def test_the_largest_file_that_can_be_read_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes count, of which a letter may have two."""
    named = updated(None, side(code={"run": "größer"}), "Jörg", "für später")
    size = len(baseline_text(named).encode())
    assert size > len(baseline_text(named))
    monkeypatch.setattr("lingbot_eval.gating.baseline.MAX_BYTES", size)
    save_baseline(tmp_path / "b.yaml", named)
    assert (tmp_path / "b.yaml").stat().st_size == size
    monkeypatch.setattr("lingbot_eval.gating.baseline.MAX_BYTES", size - 1)
    with pytest.raises(ConfigError, match=f"would have {size} bytes, more than the {size - 1} "):
        save_baseline(tmp_path / "c.yaml", named)


def test_what_is_too_large_to_read_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    save_baseline(path, first())
    before = path.read_bytes()
    huge = updated(None, side({NAMES: unit(failure=None, input={"text": "x" * MAX_BYTES})}), "me", "why")
    with pytest.raises(ConfigError) as refused:
        save_baseline(path, huge)
    start, _, rest = str(refused.value).partition(" bytes, ")
    assert start.rpartition(" ")[0] == f"{path}: the baseline would have"
    assert MAX_BYTES < int(start.rpartition(" ")[2]) < MAX_BYTES + 10_000
    what = f"more than the {MAX_BYTES} of a file that people edit"
    assert rest == f"{what}; give fewer runs, or gate a smaller experiment"
    with pytest.raises(StoreError):
        save_baseline(tmp_path / "no folder" / "b.yaml", first())
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["b.yaml"]


def test_tolerances_are_one_line_each() -> None:
    """With all that can be edited, usual values as well."""
    text = baseline_text(first())
    lines = [line for line in text.splitlines() if line.startswith("- {match:")]
    assert len(lines) == len(first().tolerances)
    for line in (
        f"- {{match: {LATENCY}, kind: statistical, min_effect: 0.08, alpha: 0.01}}",
        "- {match: '*', kind: relative, worse_by: 0.01, floor: 1.0e-06}",
        "- {match: trajectory/ate_max/*, kind: relative, worse_by: 0.02, floor: 0.0}",
    ):
        assert line in lines, lines
    assert text.startswith(
        "# A baseline of lingbot-eval gate. Edit the tolerances by hand; let `lingbot-eval gate RUN --baseline FILE "
        "--update\n"
        '# --reason "why"` write the rest. Tolerances: the first whose match fits counts. kind: absolute or relative '
        "(worse_by),\n"
        "# statistical (min_effect, alpha), shown (never judged); better: lower, higher or same overrides a metric's "
        "direction.\n"
        "schema_version: 1\nname: made up\n"
    )


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_what_is_no_number_is_no_value(tmp_path: Path, number: float) -> None:
    document = yaml.safe_load(baseline_text(first()))
    document["units"][0]["values"][ATE] = number
    with pytest.raises(ConfigError, match=rf"units\.0\.values\.{ATE}"):
        load_baseline(edited(tmp_path, units=document["units"]))
    document = yaml.safe_load(baseline_text(first()))
    document["history"][0]["replaced"] = {"a/b/c": {ATE: number}}
    with pytest.raises(ConfigError, match=r"history\.0\.replaced"):
        load_baseline(edited(tmp_path, history=document["history"]))
