"""Verdicts: what is a regression, what cannot be judged, and that the second never passes for held."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lingbot_eval.gating.judge import Finding, Verdict, judge
from lingbot_eval.gating.sides import FAMILIES, Meaning, Side
from lingbot_eval.gating.tolerances import Absolute, Relative, Shown, Tolerance, default_tolerances
from tests.gate.sides import (
    ATE,
    AUC,
    INPUT,
    LATENCY,
    MACHINE,
    NAMES,
    RSS,
    SETTINGS,
    UNITS,
    VALUES,
    WEIGHTS,
    rounds,
    side,
    unit,
)


def finding(verdict: Verdict, metric: str) -> Finding:
    (found,) = [each for each in verdict.findings if each.metric == metric]
    return found


def gate(run: Side, baseline: Side | None = None, **options: Any) -> Verdict:
    return judge(baseline or side(), run, options.pop("tolerances", default_tolerances()), **options)


def changed(metric: str, factor: float) -> Side:
    return side({NAMES: unit(VALUES | {metric: VALUES[metric] * factor}, rounds={LATENCY: rounds(5, 1)})})


def test_the_same_numbers_hold() -> None:
    verdict = gate(changed(ATE, 1.0))
    assert verdict.exit_code == 0
    assert [verdict.of(family) for family in FAMILIES] == ["held"] * 3
    assert verdict.required == FAMILIES


@pytest.mark.parametrize(
    ("metric", "factor", "family"),
    [(ATE, 1.02, "accuracy"), (AUC, 0.98, "accuracy"), (RSS, 1.1, "memory"), (WEIGHTS, 1.01, "memory")],
)
def test_two_percent_worse_is_a_regression_of_its_family_alone(metric: str, factor: float, family: str) -> None:
    verdict = gate(changed(metric, factor))
    assert verdict.exit_code == 1
    assert {each: verdict.of(each) for each in FAMILIES} == {
        each: "regression" if each == family else "held" for each in FAMILIES
    }
    better = gate(changed(metric, 1 / factor))
    assert better.exit_code == 0
    assert finding(better, metric).status == "better"


def test_fifteen_percent_slower_is_a_regression_of_speed() -> None:
    run = side({NAMES: unit(rounds={LATENCY: rounds(5, 1, factor=1.15)})})
    verdict = gate(run)
    assert verdict.exit_code == 1
    assert (verdict.of("speed"), verdict.of("accuracy")) == ("regression", "held")
    assert "slower" in finding(verdict, LATENCY).reason


def machine(**changes: Any) -> dict[str, Any]:
    return MACHINE | changes


@pytest.mark.parametrize(
    "environment",
    [
        machine(cpu_model="another"),
        machine(cpu_usable=4),
        machine(torch=MACHINE["torch"] | {"threads": 1}),
        machine(torch=MACHINE["torch"] | {"gpus": [{"name": "H100", "memory_gib": 80}]}),
        machine(variables={"CUDA_LAUNCH_BLOCKING": "1"}),
        # What somebody else's file may say.
        machine(torch=MACHINE["torch"] | {"gpus": 5}),
    ],
)
def test_other_hardware_leaves_accuracy_and_counted_bytes(environment: dict[str, Any]) -> None:
    worse = VALUES | {RSS: 9000.0, ATE: 0.6}
    run = side({NAMES: unit(worse, rounds={LATENCY: rounds(5, 1, factor=2.0)})}, environment=environment)
    verdict = gate(run)
    assert [verdict.of(family) for family in FAMILIES] == ["regression", "incomparable", "incomparable"]
    assert "different hardware" in finding(verdict, LATENCY).reason
    assert finding(verdict, WEIGHTS).status == "held"
    equal = side(environment=environment)
    assert gate(equal).exit_code == 2
    assert gate(equal, required=["accuracy"]).exit_code == 0


@pytest.mark.parametrize("metric", ["memory/cache_window", "memory/cache_allocated", WEIGHTS])
def test_bytes_counted_from_shapes_are_judged_on_any_machine(metric: str) -> None:
    baseline = side({NAMES: unit(VALUES | {metric: 1000.0})})
    run = side({NAMES: unit(VALUES | {metric: 1002.0})}, environment=machine(cpu_model="another"))
    assert finding(gate(run, baseline), metric).status == "regression"


def test_libraries_and_thread_variables_are_a_note_only() -> None:
    run = side(environment=machine(libraries={"torch": "2.14.0"}, variables={"OMP_NUM_THREADS": "2"}))
    verdict = gate(run)
    assert verdict.exit_code == 0
    assert 'torch: baseline "2.13.0", run "2.14.0"' in verdict.notes


def test_another_driver_is_a_note() -> None:
    driven = [machine(torch=MACHINE["torch"] | {"driver": version}) for version in ("575.57", "580.65")]
    verdict = judge(side(environment=driven[0]), side(environment=driven[1]), default_tolerances())
    assert verdict.exit_code == 0
    assert 'driver: baseline "575.57", run "580.65"' in verdict.notes


def test_other_arithmetic_makes_accuracy_incomparable() -> None:
    run = side(environment=machine(torch=MACHINE["torch"] | {"float32_matmul_precision": "high"}))
    verdict = gate(run)
    assert [verdict.of(family) for family in FAMILIES] == ["incomparable", "held", "held"]
    assert verdict.exit_code == 2


@pytest.mark.parametrize(("before", "now"), [("cuda:0", "cuda:1"), ("cuda", "cuda:1"), ("cuda:1", "cuda:0")])
def test_which_gpu_of_a_host_it_was_is_no_difference(before: str, now: str) -> None:
    sides = [side({NAMES: unit(settings=SETTINGS | {"device": device})}) for device in (before, now)]
    verdict = judge(*sides, default_tolerances())
    assert verdict.exit_code == 0
    assert finding(verdict, ATE).status == "held"


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": SETTINGS | {"checkpoint_sha256": "cd"}},
        {"settings": SETTINGS | {"streaming": {"window": 8}}},
        {"settings": SETTINGS | {"device": "cuda:0"}},
        {"input": INPUT | {"selection": {"stride": 5}}},
    ],
)
def test_another_experiment_is_incomparable_however_good(changes: dict[str, Any]) -> None:
    best = {ATE: 0.0, AUC: 100.0, LATENCY: 1.0, RSS: 1.0, WEIGHTS: 1.0}
    verdict = gate(side({NAMES: unit(best, **changes)}))
    assert verdict.exit_code == 2
    assert {each.status for each in verdict.findings} == {"incomparable"}


def test_where_a_checkpoint_lies_is_no_difference() -> None:
    old, new = (SETTINGS | {"model": {"checkpoint": path}, "weights": f"{path}, sha"} for path in ("/a", "/b"))
    assert gate(side({NAMES: unit(settings=new)}), side({NAMES: unit(settings=old)})).exit_code == 0


def test_what_a_run_counted_is_no_setting() -> None:
    """One more unused pose in a replayed file, one more row in a scene's ground truth: the numbers stay comparable."""
    old, new = ({"poses_in_file": count, "poses_matched": 100} for count in (100, 101))
    sides = [
        side({NAMES: unit(settings=SETTINGS | {"found": found}, input=INPUT | {"found": found, "notes": [str(found)]})})
        for found in (new, old)
    ]
    verdict = gate(*sides)
    assert verdict.exit_code == 0
    assert not any("found" in note for note in verdict.notes)


def test_a_fact_that_only_one_side_knows_is_a_note() -> None:
    verdict = gate(side({NAMES: unit(settings=SETTINGS | {"graph": True})}))
    assert verdict.exit_code == 0
    assert "settings recorded on one side only: graph" in verdict.notes


def test_another_convention_is_incomparable_and_says_both() -> None:
    meanings = dict(unit().meanings) | {ATE: Meaning("m", "after SE(3)")}
    verdict = gate(side({NAMES: unit(meanings=meanings)}))
    assert verdict.exit_code == 2
    assert finding(verdict, ATE).status == "incomparable"
    assert "after SE(3)" in finding(verdict, ATE).reason
    assert finding(verdict, AUC).status == "held"


@pytest.mark.parametrize(("kernel", "exit_code"), [("fa3", 0), ("fa2", 2)])
def test_a_baseline_of_the_time_when_backends_named_the_kernel_still_holds(kernel: str, exit_code: int) -> None:
    """Its backend is today's; which kernel ran, ``attention`` says in both."""
    ran = {"attention": "flashinfer-fa3"}
    now = SETTINGS | ran | {"backend": "flashinfer", "streaming": {"backend": "flashinfer"}}
    once = SETTINGS | {
        "attention": f"flashinfer-{kernel}",
        "backend": f"flashinfer-{kernel}",
        "streaming": {"backend": f"flashinfer-{kernel}"},
    }
    verdict = gate(side({NAMES: unit(settings=now)}), side({NAMES: unit(settings=once)}))
    assert verdict.exit_code == exit_code, verdict.findings


def test_a_metric_that_is_not_there_is_incomparable() -> None:
    less = {metric: value for metric, value in VALUES.items() if metric != AUC}
    verdict = gate(side({NAMES: unit(less)}))
    assert (verdict.exit_code, finding(verdict, AUC).status) == (2, "incomparable")


def test_a_score_that_became_impossible_is_a_regression() -> None:
    less = {metric: value for metric, value in VALUES.items() if metric not in (ATE, RSS)}
    meanings = {metric: Meaning(UNITS[metric], f"convention of {metric}") for metric in VALUES}
    reasons = {ATE: "2 matched frames", RSS: "not told"}
    verdict = gate(side({NAMES: unit(less, meanings=meanings, reasons=reasons)}))
    assert finding(verdict, ATE).status == "regression"
    assert finding(verdict, RSS).status == "incomparable"
    assert "2 matched frames" in finding(verdict, ATE).reason


def test_a_new_metric_and_a_new_scene_are_noted() -> None:
    other = ("tum", "floor", "lingbot")
    run = side({NAMES: unit(VALUES | {"depth/abs_rel/lstsq": 0.1}), other: unit()})
    verdict = gate(run)
    assert verdict.exit_code == 0
    assert {(each.metric, each.names) for each in verdict.findings if each.status == "new"} == {
        ("depth/abs_rel/lstsq", NAMES),
        ("scene", other),
    }


def test_a_scene_that_fails_now_is_a_regression_everywhere() -> None:
    verdict = gate(side({NAMES: unit({}, failure="failed in stage stream: CUDA out of memory")}))
    assert verdict.exit_code == 1
    assert [verdict.of(family) for family in FAMILIES] == ["regression"] * 3
    assert "out of memory" in verdict.findings[0].reason


def test_a_scene_that_always_failed_is_shown_and_one_that_works_again_is_new() -> None:
    broken = side({NAMES: unit({}, failure="crash"), ("tum", "floor", "lingbot"): unit()})
    assert gate(broken, broken).exit_code == 0
    assert "new" in {each.status for each in gate(side({**broken.units, NAMES: unit()}), broken).findings}


@pytest.mark.parametrize("gaps", [{}, {NAMES: "damaged: result.json"}])
def test_a_missing_scene_cannot_be_judged(gaps: dict[Any, str]) -> None:
    run = side({("tum", "floor", "lingbot"): unit()}, gaps=gaps)
    verdict = gate(run)
    assert verdict.exit_code == 2
    assert gaps.get(NAMES, "does not have") in verdict.findings[0].reason


def test_what_the_other_run_lacks_is_no_pass_either() -> None:
    incomplete = side({NAMES: unit()}, gaps={("tum", "floor", "lingbot"): "damaged"})
    assert gate(side({NAMES: unit(), ("tum", "floor", "lingbot"): unit()}), incomplete).exit_code == 2


def test_a_damaged_record_that_nobody_asked_for_is_a_note() -> None:
    run = side({NAMES: unit()}, gaps={("tum", "extra", "x"): "damaged"}, problems=("damaged record skipped: extra",))
    verdict = gate(run)
    assert verdict.exit_code == 0
    assert "damaged record skipped: extra" in verdict.notes


def test_families_that_do_not_decide_are_shown() -> None:
    run = changed(ATE, 2.0)
    assert gate(run, required=["memory", "speed"]).exit_code == 0
    assert gate(run, required=["memory", "speed"]).of("accuracy") == "regression"
    assert gate(run, required=["accuracy"]).exit_code == 1


def test_a_certain_regression_goes_before_what_cannot_be_judged() -> None:
    run = side({NAMES: unit(VALUES | {ATE: 9.0})}, environment=machine(cpu_model="another"))
    assert gate(run).exit_code == 1


def test_what_is_only_shown_never_decides() -> None:
    shown: list[Tolerance] = [Shown(kind="shown", match=f"{group}/*") for group in ("throughput", "memory", "auc")]
    shown.append(Relative(kind="relative", match="trajectory/*", worse_by=0.01))
    verdict = gate(changed(RSS, 5.0), tolerances=shown)
    assert (verdict.exit_code, verdict.required) == (0, ("accuracy",))
    assert gate(changed(RSS, 5.0), tolerances=shown, required=["memory"]).exit_code == 2


def test_a_metric_without_direction_is_judged_only_when_told_how() -> None:
    path = "trajectory/path_length"
    old, new = (side({NAMES: unit({path: value, ATE: 1.0})}) for value in (10.0, 9.0))
    assert finding(gate(new, old), path).status == "shown"
    told = [Absolute(kind="absolute", match=path, worse_by=0.5, better="same"), *default_tolerances()]
    assert finding(gate(new, old, tolerances=told), path).status == "regression"


def test_a_pattern_that_fits_nothing_is_named() -> None:
    slip = [Absolute(kind="absolute", match="trajectory/ate_rsme/*", worse_by=0.5), *default_tolerances()]
    assert any("ate_rsme" in note for note in gate(side(), tolerances=slip).notes)
    assert not any("tolerance" in note for note in gate(side()).notes)


@pytest.mark.parametrize(
    ("baseline", "run", "expected"),
    [
        ((0, 2, 4), (1, 3, 5), False),
        ((0, 3, 4), (1, 2, 5), False),
        ((0, 1, 2), (3, 4, 5), True),
        ((0, 2, 4), (1, 3), True),
        ((0,), (1, 2, 3), False),
    ],
)
def test_sides_that_were_not_measured_in_turn(baseline: Any, run: Any, expected: bool) -> None:
    times = [tuple(f"2026-01-01T00:00:0{second}" for second in seconds) for seconds in (baseline, run)]
    verdict = gate(side(started=times[1]), side(started=times[0]))
    assert any("in turn" in note for note in verdict.notes) == expected


@given(
    st.dictionaries(st.sampled_from(sorted(VALUES)), st.floats(0.5, 2.0), min_size=1),
    st.sampled_from([MACHINE, machine(cpu_model="another")]),
    st.lists(st.sampled_from(FAMILIES), min_size=1, unique=True),
)
def test_nothing_incomparable_ever_passes(factors: dict[str, float], environment: Any, required: Any) -> None:
    run = side(
        {NAMES: unit({m: VALUES[m] * f for m, f in factors.items()}, rounds={LATENCY: rounds(5, 1)})},
        environment=environment,
    )
    verdict = gate(run, required=required)
    statuses = {each.status for each in verdict.findings if each.family in required}
    expected = 1 if "regression" in statuses else 2 if "incomparable" in statuses else 0
    assert verdict.exit_code == expected
