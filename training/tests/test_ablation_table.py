"""The table says of every ablated score what the gate says of a run's, by one rule; scores from files are checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lingbot_eval.errors import ConfigError
from lingbot_eval.gating.judge import Absolute, Relative, default_tolerances, judge_values, judged_by
from lingbot_eval.metrics.declarations import declaration
from training.ablations import AS_TRAINED, METRICS, markdown, read_scores, regressions
from training.card import TARGETS

SHARES = st.floats(0.001, 1)


def scores(**changed: float) -> dict[str, float]:
    return {"ate_share_of_motionless": 0.1, "ate_share_of_path": 0.02, "auc_30": 0.5, "delta_125": 0.9} | changed


def test_the_metrics_are_those_that_the_card_reads_of_a_run() -> None:
    assert set(METRICS.values()) == {"/".join(filter(None, (t.family, t.name, t.variant))) for t in TARGETS}
    assert {metric: declaration(*metric.split("/", 2)).better for metric in METRICS.values()} == {
        "/".join(filter(None, (t.family, t.name, t.variant))): t.better for t in TARGETS
    }


@given(metric=st.sampled_from(list(METRICS)), before=SHARES, now=SHARES)
def test_a_verdict_is_that_of_the_gates_tolerance(metric: str, before: float, now: float) -> None:
    found = {AS_TRAINED: {"a": scores(**{metric: before})}, "other": {"a": scores(**{metric: now})}}
    rule = judged_by(METRICS[metric], {}, default_tolerances())
    better = declaration(*METRICS[metric].split("/", 2)).better
    assert isinstance(rule, Absolute | Relative)
    assert better is not None
    expected = judge_values(100 * before, 100 * now, rule, better) == "regression"
    assert [finding.metric for finding in regressions(found, "other")] == [METRICS[metric]] * expected


def test_a_scene_is_caught_once_however_much_is_worse() -> None:
    found = {
        AS_TRAINED: {"a": scores(), "b": scores(), "c": scores()},
        # Worse in two, worse within the tolerance, better.
        "other": {
            "a": scores(ate_share_of_motionless=0.2, auc_30=0.4),
            "b": scores(auc_30=0.499),
            "c": scores(auc_30=0.7),
        },
    }
    table = markdown(found).splitlines()
    assert table[2] == f"| {AS_TRAINED} | 10.0 % | 2.0 % | 50.0 % | 90.0 % | – |"
    assert table[3] == (
        "| other | 10.0 % (worse in 1 of 3) | 2.0 % (worse in 0 of 3) | 49.9 % (worse in 1 of 3)"
        " | 90.0 % (worse in 0 of 3) | in 1 of 3 scenes |"
    )
    assert len({line.count("|") for line in table}) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found.pop(AS_TRAINED),
        lambda found: found["other"].pop("a"),
        lambda found: found["other"]["a"].pop("auc_30"),
        lambda found: found["other"]["a"].update(auc_30=float("nan")),
        lambda found: found["other"]["a"].update(auc_30="much"),
        lambda found: found.update({"<b>|": found["other"]}),
    ],
    ids=["none as trained", "a scene less", "a metric less", "not a number", "a word", "markup"],
)
def test_scores_that_make_no_table_are_refused_in_one_line(tmp_path: Path, spoil: Callable[[Any], object]) -> None:
    found = {AS_TRAINED: {"a": scores(), "b": scores()}, "other": {"a": scores(), "b": scores()}}
    path = tmp_path / "found.json"
    path.write_text(json.dumps(found))
    assert read_scores(path) == found
    spoil(found)
    path.write_text(json.dumps(found))
    with pytest.raises(ConfigError, match=r"found\.json") as refused:
        read_scores(path)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read scores"):
        read_scores(tmp_path / "none.json")
