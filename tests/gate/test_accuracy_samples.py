"""Recorded accuracy of the same code on other arithmetic: no alarm; a planted change of 2 % is caught on each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lingbot_eval.gating.baseline import load_baseline
from lingbot_eval.gating.judge import default_tolerances, judge
from lingbot_eval.gating.sides import Meaning, Side
from tests.gate.sides import ATE, NAMES, side, unit

DEFAULTS = default_tolerances()
RECORDED: dict[str, dict[str, float]] = json.loads(
    (Path(__file__).parent / "data" / "other_arithmetic.json").read_text(encoding="utf-8")
)["repeats"]
BASELINE = load_baseline(Path(__file__).parents[2] / "reports" / "baselines" / "ci_gate.yaml")


def side_of(values: dict[str, float]) -> Side:
    return side({NAMES: unit(values, meanings={metric: Meaning("1", "") for metric in values}, rounds={})})


@pytest.mark.parametrize("tolerances", [DEFAULTS, BASELINE.tolerances], ids=["defaults", "the project's own"])
@pytest.mark.parametrize("before", RECORDED)
def test_other_arithmetic_raises_no_alarm(before: str, tolerances: object) -> None:
    for now in RECORDED.values():
        verdict = judge(side_of(RECORDED[before]), side_of(now), tolerances)  # type: ignore[arg-type]
        assert verdict.exit_code == 0
        assert {finding.status for finding in verdict.findings} <= {"held", "shown"}


@pytest.mark.parametrize("tolerances", [DEFAULTS, BASELINE.tolerances], ids=["defaults", "the project's own"])
@pytest.mark.parametrize("now", RECORDED)
def test_two_percent_of_ate_are_caught(now: str, tolerances: object) -> None:
    planted = RECORDED[now] | {ATE: 1.02 * RECORDED[now][ATE]}
    for before in RECORDED.values():
        verdict = judge(side_of(before), side_of(planted), tolerances)  # type: ignore[arg-type]
        assert verdict.exit_code == 1
        assert [finding.metric for finding in verdict.findings if finding.status == "regression"] == [ATE]


def test_the_recorded_arithmetic_differs_at_all() -> None:
    assert len({values[ATE] for values in RECORDED.values()}) > 1
