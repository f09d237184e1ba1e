"""Tolerances: limits in both directions, symmetry and monotonicity, first match wins, every metric has a direction."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lingbot_eval.gating.judge import (
    Absolute,
    Relative,
    Shown,
    Status,
    default_tolerances,
    judge_values,
    tolerance_for,
)

values = st.floats(-1e6, 1e6)
tolerances = st.one_of(
    st.builds(Absolute, kind=st.just("absolute"), match=st.just("*"), worse_by=st.floats(0, 1e3)),
    st.builds(
        Relative, kind=st.just("relative"), match=st.just("*"), worse_by=st.floats(0, 10), floor=st.floats(0, 10)
    ),
)
RANK: dict[Status, int] = {"better": 0, "held": 1, "regression": 2}


@given(values, values, tolerances)
def test_lower_and_higher_mirror_each_other(baseline: float, run: float, tolerance: Absolute | Relative) -> None:
    assert judge_values(baseline, run, tolerance, "lower") == judge_values(-baseline, -run, tolerance, "higher")


@given(values, values, values, tolerances, st.sampled_from(["lower", "higher"]))
def test_a_worse_number_never_gets_a_better_verdict(
    baseline: float, one: float, other: float, tolerance: Absolute | Relative, better: str
) -> None:
    good, bad = sorted((one, other), reverse=better == "higher")
    verdicts = [judge_values(baseline, value, tolerance, better) for value in (good, bad)]  # type: ignore[arg-type]
    assert RANK[verdicts[0]] <= RANK[verdicts[1]]


@given(values, values, tolerances)
def test_same_refuses_what_either_way_refuses(baseline: float, run: float, tolerance: Absolute | Relative) -> None:
    either = {judge_values(baseline, run, tolerance, way) for way in ("lower", "higher")}
    assert (judge_values(baseline, run, tolerance, "same") == "regression") == ("regression" in either)


@given(values, tolerances, st.sampled_from(["lower", "higher", "same"]))
def test_the_same_number_holds(value: float, tolerance: Absolute | Relative, better: str) -> None:
    assert judge_values(value, value, tolerance, better) == "held"  # type: ignore[arg-type]


@given(st.floats(1e-3, 1e3), st.floats(-0.5, 0.5), st.floats(0, 0.4), st.sampled_from([2.0**-10, 2.0**10]))
def test_relative_knows_no_units(baseline: float, change: float, worse_by: float, factor: float) -> None:
    tolerance = Relative(kind="relative", match="*", worse_by=worse_by)
    run = baseline * (1 + change)
    scaled = judge_values(baseline * factor, run * factor, tolerance, "lower")
    assert judge_values(baseline, run, tolerance, "lower") == scaled


@given(values, values, st.floats(0, 100), st.floats(0, 100), st.sampled_from(["lower", "higher", "same"]))
def test_a_wider_tolerance_never_makes_a_regression(
    baseline: float, run: float, one: float, other: float, better: str
) -> None:
    assume(one != other)
    narrow, wide = (
        judge_values(baseline, run, Absolute(kind="absolute", match="*", worse_by=limit), better)  # type: ignore[arg-type]
        for limit in sorted((one, other))
    )
    assert not (narrow == "held" and wide == "regression")


@pytest.mark.parametrize(
    ("run", "expected"), [(1.0, "held"), (1.01, "held"), (1.02, "regression"), (0.99, "held"), (0.98, "better")]
)
def test_one_percent(run: float, expected: Status) -> None:
    assert judge_values(1.0, run, Relative(kind="relative", match="*", worse_by=0.0101), "lower") == expected


@pytest.mark.parametrize("better", ["lower", "higher", "same"])
@pytest.mark.parametrize("change", [-0.5, 0.5])
def test_exactly_at_the_limit_holds_either_way(better: str, change: float) -> None:
    for tolerance in (
        Absolute(kind="absolute", match="*", worse_by=0.5),
        Relative(kind="relative", match="*", worse_by=0.25),
        Relative(kind="relative", match="*", worse_by=0.125, floor=0.5),
    ):
        assert judge_values(2.0, 2.0 + change, tolerance, better) == "held"  # type: ignore[arg-type]


def test_the_floor_leaves_room_above_nothing() -> None:
    tight = Relative(kind="relative", match="*", worse_by=0.5)
    assert judge_values(0.0, 1e-9, tight, "lower") == "regression"
    assert judge_values(0.0, 1e-9, tight.model_copy(update={"floor": 1e-6}), "lower") == "held"


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        ("forward_latency/p50", "statistical"),
        ("end_to_end_interval/p50", "statistical"),
        ("forward_latency/p95", "shown"),
        ("forward_latency/p99", "shown"),
        ("end_to_end_interval/p95", "shown"),
        ("forward_fps", "shown"),
        ("end_to_end_fps", "shown"),
        ("harness_overhead", "shown"),
        ("first_output_latency", "shown"),
        ("warm_up", "shown"),
    ],
)
def test_of_speed_the_two_medians_with_samples_are_judged(metric: str, kind: str) -> None:
    found = tolerance_for(f"throughput/{metric}", default_tolerances())
    assert found is not None
    assert found.kind == kind


def test_the_first_match_counts() -> None:
    rules = (Shown(kind="shown", match="depth/*"), Absolute(kind="absolute", match="depth/abs_rel/*", worse_by=1))
    assert tolerance_for("depth/abs_rel/lstsq", rules) is rules[0]
    assert tolerance_for("depth/abs_rel/lstsq", rules[::-1]) is rules[1]
    assert tolerance_for("depth/abs_rel/lstsq", ()) is None


def test_the_defaults_judge_every_metric() -> None:
    assert tolerance_for("a family/of tomorrow", default_tolerances()) is not None


@pytest.mark.parametrize(
    ("metric", "baseline", "held", "worse"),
    [
        ("memory/weights", 1000.0, 1000.9, 1001.1),
        ("memory/cache_window", 1000.0, 1000.9, 1001.1),
        ("memory/process_peak_rss", 1000.0, 1049.0, 1051.0),
        ("memory/process_peak_rss", 100.0, 115.9, 116.1),
        ("auc/auc_30", 60.0, 59.81, 59.79),
        ("depth/delta_1_25/lstsq", 60.0, 59.81, 59.79),
        ("trajectory/ate_max/sim3", 1.0, 1.019, 1.021),
        ("drift/largest_step_error/sim3", 1.0, 1.019, 1.021),
        ("depth/confidence_rank_correlation", -0.5, -0.491, -0.489),
        ("trajectory/ate_rmse/sim3", 1.0, 1.0099, 1.0101),
        ("depth/abs_rel/lstsq", 1.0, 1.0099, 1.0101),
        ("trajectory/ate_rmse/sim3", 0.0, 0.9e-6, 1.1e-6),
    ],
)
def test_how_much_worse_each_number_may_be(metric: str, baseline: float, held: float, worse: float) -> None:
    tolerance = tolerance_for(metric, default_tolerances())
    assert isinstance(tolerance, Absolute | Relative)
    better = "higher" if metric.startswith(("auc", "depth/delta")) else "lower"
    assert judge_values(baseline, held, tolerance, better) == "held"
    assert judge_values(baseline, worse, tolerance, better) == "regression"
