"""Verdicts: what is a regression, what cannot be judged, and that the second never passes for held."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from lingbot_eval.gating.judge import (
    Absolute,
    Finding,
    Relative,
    Shown,
    Statistical,
    Tolerance,
    Verdict,
    default_tolerances,
    judge,
)
from lingbot_eval.gating.sides import FAMILIES, Meaning, Side
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

FLOOR = ("tum", "floor", "lingbot")


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


@pytest.mark.parametrize(
    ("factor", "rule", "in_turn", "status", "words"),
    [
        (1.15, {}, False, "regression", "14.3% slower, by chance +13.0% to +15.7% (10 rounds before, 5 now)"),
        (1.15, {"min_effect": 0.2}, False, "held", "14.3% slower"),
        (1.06, {}, False, "held", "5.4% slower, by chance +4.1% to +6.7%"),
        (1.06, {"min_effect": 0.02}, False, "regression", "5.4% slower"),
        (1.06, {"alpha": 0.3}, False, "held", "by chance +5.1% to +5.7%"),
        (1.15, {}, True, "regression", "14.9% slower, by chance +13.0% to +16.0% (10 rounds before, 10 now)"),
    ],
)
def test_speed_is_judged_as_its_tolerance_says(
    factor: float, rule: dict[str, float], in_turn: bool, status: str, words: str
) -> None:
    """Of sides measured in turn the k-th rounds are compared with each other: a load that comes and goes meets both."""
    load = np.repeat([1.0, 3.0, 1.5, 2.5, 1.0], 2) if in_turn else np.ones(10)
    sides = []
    for seed, count, share, offset in ((0, 10, 1.0, 0), (1, 10 if in_turn else 5, factor, 1)):
        times = tuple(each * k for each, k in zip(rounds(count, seed, share), load, strict=False))
        started = tuple(f"2026-01-01T00:{2 * number + offset:02}" for number in range(count)) if in_turn else ()
        sides.append(side({NAMES: unit(rounds={LATENCY: times})}, started=started))
    tolerance = Statistical(kind="statistical", match=LATENCY, **rule)  # type: ignore[arg-type]
    found = finding(gate(sides[1], sides[0], tolerances=[tolerance]), LATENCY)
    assert found.status == status
    assert words in found.reason


@pytest.mark.parametrize(
    ("baseline", "run", "started", "status", "words"),
    [
        (0, 5, (), "incomparable", "the baseline has no timing samples of it: choose a tolerance that needs none"),
        (5, 0, (), "incomparable", "the run has no timing samples of it: choose a tolerance that needs none"),
        (2, 5, (), "shown", "not judged: the baseline has 2 rounds of timings, 3 are needed"),
        # Of two sides measured live speed was asked for, and could not be told.
        (2, 5, ("2026-01-01", "2026-01-02"), "incomparable", "the baseline has 2 rounds of timings, 3 are needed"),
    ],
)
def test_speed_without_the_rounds_for_it(
    baseline: int, run: int, started: tuple[str, ...], status: str, words: str
) -> None:
    old, new = (
        side({names: unit(rounds={LATENCY: rounds(count, 1)} if count else {}) for names in (NAMES, FLOOR)})
        for count in (baseline, run)
    )
    verdict = gate(replace(new, started=("2026-02-01",)), replace(old, started=started))
    found, _ = [each for each in verdict.findings if each.metric == LATENCY]
    assert (found.status, found.reason.partition(" to know")[0]) == (status, words)
    # Once for all scenes.
    assert [note for note in verdict.notes if note.startswith("speed is not judged")] == (
        [f"speed is {found.reason}"] if status == "shown" else []
    )


@pytest.mark.parametrize(
    ("tolerance", "unit_of_it", "words"),
    [
        ({"kind": "relative", "worse_by": 0.02}, "m", "may be worse by 2 %"),
        ({"kind": "relative", "worse_by": 0.001, "floor": 0.001}, "m", "may be worse by 0.1 %"),
        ({"kind": "relative", "worse_by": 0.05, "floor": 0.01}, "m", "may be worse by 5 %, or by 0.01"),
        ({"kind": "absolute", "worse_by": 0.2}, "%", "may be worse by 0.2 percentage points"),
        ({"kind": "absolute", "worse_by": 0.25}, "1", "may be worse by 0.25"),
        ({"kind": "absolute", "worse_by": 3}, "ms", "may be worse by 3 ms"),
    ],
)
def test_a_limit_in_words(tolerance: dict[str, Any], unit_of_it: str, words: str) -> None:
    one = side({NAMES: unit({ATE: 1.0}, meanings={ATE: Meaning(unit_of_it, "c")})})
    found = finding(
        gate(one, one, tolerances=[TypeAdapter(Tolerance).validate_python({"match": "*", **tolerance})]), ATE
    )
    assert (found.status, found.reason, found.unit) == ("held", words, unit_of_it)


@pytest.mark.parametrize(
    ("metric", "stored", "override", "factor", "status"),
    [
        (ATE, None, None, 2.0, "regression"),
        (ATE, "higher", None, 2.0, "better"),  # as it was stored with the metric, whatever is declared today
        (ATE, None, "higher", 2.0, "better"),  # as the file's editor says, whatever is stored
        (ATE, "higher", "lower", 2.0, "regression"),
        (ATE, None, "same", 0.5, "regression"),
        (AUC, None, None, 2.0, "better"),
        (AUC, "lower", None, 2.0, "regression"),
    ],
)
def test_which_way_is_better(metric: str, stored: Any, override: Any, factor: float, status: str) -> None:
    old, new = (
        side({NAMES: unit({metric: value}, meanings={metric: Meaning("1", "c", stored)})}) for value in (1.0, factor)
    )
    rule = Relative(kind="relative", match="*", worse_by=0.01, better=override)
    assert finding(gate(new, old, tolerances=[rule]), metric).status == status


@pytest.mark.parametrize(
    ("before", "now", "status"),
    [
        (-10.0, -9.9, "held"),
        (-10.0, -9.8, "regression"),
        (-10.0, -10.1, "held"),
        (-10.0, -10.2, "better"),
        (0.0, 0.5, "held"),
        (0.0, 0.75, "regression"),
    ],
)
def test_a_share_is_of_the_baseline_s_size_whatever_its_sign(before: float, now: float, status: str) -> None:
    """Lower is better; 1.5 % of ten are 0.15, and of nothing the floor is left."""
    old, new = (
        side({NAMES: unit({ATE: value}, meanings={ATE: Meaning("1", "c", "lower")})}) for value in (before, now)
    )
    floor = 0.5 if before == 0 else 0.0
    rule = Relative(kind="relative", match="*", worse_by=0.015, floor=floor)
    assert finding(gate(new, old, tolerances=[rule]), ATE).status == status


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
    assert all("different hardware: " in each.reason for each in verdict.findings if each.status == "incomparable")
    equal = side(environment=environment)
    assert gate(equal).exit_code == 2
    assert gate(equal, required=["accuracy"]).exit_code == 0


def test_all_that_differs_between_two_machines_is_said() -> None:
    other = machine(cpu_model="another", cpu_usable=4)
    reason = 'different hardware: cpu_model: baseline "made up", run "another"; cpu_usable: baseline 2, run 4'
    assert finding(gate(side(environment=other)), LATENCY).reason == reason
    other = machine(torch=MACHINE["torch"] | {"float32_matmul_precision": "high", "cudnn_tf32": True})
    said = finding(gate(side(environment=other)), ATE).reason
    assert said == (
        'different arithmetic: float32_matmul_precision: baseline "highest", run "high"; '
        'cudnn_tf32: baseline "no GPU", run true'
    )


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


@pytest.mark.parametrize("name", ["driver", "cudnn", "cuda_build", "python"])
def test_another_driver_or_python_is_a_note(name: str) -> None:
    sides = [
        side(environment=machine(**({name: text} if name == "python" else {"torch": MACHINE["torch"] | {name: text}})))
        for text in ("575.57", "580.65")
    ]
    verdict = judge(*sides, default_tolerances())
    assert verdict.exit_code == 0
    assert verdict.notes == (f'{name}: baseline "575.57", run "580.65"',)


@pytest.mark.parametrize(
    ("state", "variables", "words"),
    [
        ({"float32_matmul_precision": "high"}, {}, 'float32_matmul_precision: baseline "highest", run "high"'),
        ({"cudnn_tf32": True}, {}, 'cudnn_tf32: baseline "no GPU", run true'),
        ({}, {"NVIDIA_TF32_OVERRIDE": "0"}, 'NVIDIA_TF32_OVERRIDE: baseline "not set", run "0"'),
    ],
)
def test_other_arithmetic_makes_accuracy_incomparable(
    state: dict[str, Any], variables: dict[str, str], words: str
) -> None:
    other = machine(torch=MACHINE["torch"] | state)
    verdict = gate(side(environment=other | {"variables": variables}), required=["accuracy"])
    assert (verdict.of("accuracy"), verdict.exit_code) == ("incomparable", 2)
    assert finding(verdict, ATE).reason == f"different arithmetic: {words}"
    assert gate(side(environment=other)).of("memory") == "held"
    # A score that is gone may be gone for the arithmetic: no regression of the code.
    less = {metric: value for metric, value in VALUES.items() if metric != ATE}
    gone = unit(less, meanings=unit().meanings, reasons={ATE: "2 matched frames"})
    lost = finding(gate(side({NAMES: gone}, environment=other | {"variables": variables})), ATE)
    assert (lost.status, lost.reason) == ("incomparable", "no number in the run: 2 matched frames")


@pytest.mark.parametrize(("before", "now"), [("cuda:0", "cuda:1"), ("cuda", "cuda:1"), ("cuda:1", "cuda:0")])
def test_which_gpu_of_a_host_it_was_is_no_difference(before: str, now: str) -> None:
    sides = [side({NAMES: unit(settings=SETTINGS | {"device": device})}) for device in (before, now)]
    verdict = judge(*sides, default_tolerances())
    assert verdict.exit_code == 0
    assert finding(verdict, ATE).status == "held"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"settings": SETTINGS | {"checkpoint_sha256": "cd"}}, 'settings: checkpoint_sha256: baseline "ab", run "cd"'),
        ({"settings": SETTINGS | {"streaming": {"window": 8}}}, "settings: streaming.window: baseline 16, run 8"),
        ({"settings": SETTINGS | {"device": "cuda:0"}}, 'settings: device: baseline "cpu", run "cuda"'),
        ({"input": INPUT | {"selection": {"stride": 5}}}, "input: selection.stride: baseline 1, run 5"),
        (
            {"input": INPUT | {"selection": {"stride": 5}}, "settings": SETTINGS | {"streaming": {"window": 8}}},
            "input: selection.stride: baseline 1, run 5; settings: streaming.window: baseline 16, run 8",
        ),
    ],
)
def test_another_experiment_is_incomparable_however_good(changes: dict[str, Any], words: str) -> None:
    best = {ATE: 0.0, AUC: 100.0, LATENCY: 1.0, RSS: 1.0, WEIGHTS: 1.0}
    verdict = gate(side({NAMES: unit(best, **changes)}))
    assert verdict.exit_code == 2
    assert {each.status for each in verdict.findings} == {"incomparable"}
    assert {each.reason for each in verdict.findings} == {words}


def test_where_a_checkpoint_lies_is_no_difference() -> None:
    old, new = (SETTINGS | {"model": {"checkpoint": path}, "weights": f"{path}, sha"} for path in ("/a", "/b"))
    assert gate(side({NAMES: unit(settings=new)}), side({NAMES: unit(settings=old)})).exit_code == 0


@pytest.mark.parametrize("key", ["notes", "name", "licence", "found"])
def test_what_a_run_counted_or_wrote_freely_is_no_setting(key: str) -> None:
    """One more unused pose in a replayed file, another wording of a licence: the numbers stay comparable."""
    old, new = ({"text": text, "poses": count} for text, count in (("a", 100), ("b", 101)))
    sides = [
        side({NAMES: unit(settings=SETTINGS | {key: facts}, input=INPUT | {key: facts, "source": "a file"})})
        for facts in (new, old)
    ]
    verdict = gate(*sides)
    assert verdict.exit_code == 0
    assert verdict.notes == ()
    alone = side({NAMES: unit(settings=SETTINGS | {key: old}, input=INPUT | {key: old})})
    assert gate(alone).notes == ()


def test_a_fact_that_only_one_side_knows_is_a_note() -> None:
    verdict = gate(side({NAMES: unit(settings=SETTINGS | {"graph": True}, input=INPUT | {"fps": 30})}))
    assert verdict.exit_code == 0
    assert verdict.notes == ("input recorded on one side only: fps", "settings recorded on one side only: graph")
    # Of many scenes the same is said once.
    scenes = [(*NAMES[:1], scene, *NAMES[2:]) for scene in ("a", "b")]
    several = gate(
        side({names: unit(settings=SETTINGS | {"graph": True}) for names in scenes}),
        side({names: unit() for names in scenes}),
    )
    assert several.notes == ("settings recorded on one side only: graph",)
    # A unit that failed has recorded nothing, which is no news.
    broken = side({NAMES: unit({}, failure="crash", settings={}, input={})})
    assert gate(broken).notes == gate(side(), broken).notes == ()


@pytest.mark.parametrize("other", ["after SE(3)", f"convention of {ATE}; of every second frame"])
def test_another_convention_is_incomparable_and_says_both(other: str) -> None:
    meanings = dict(unit().meanings) | {ATE: Meaning("m", other)}
    verdict = gate(side({NAMES: unit(meanings=meanings)}))
    assert verdict.exit_code == 2
    assert finding(verdict, ATE).status == "incomparable"
    reason = f"conventions differ: baseline: convention of {ATE}; run: {other}"
    assert finding(verdict, ATE).reason == reason
    assert finding(verdict, AUC).status == "held"


def test_another_unit_is_incomparable_and_says_both() -> None:
    meanings = dict(unit().meanings) | {ATE: Meaning("mm", f"convention of {ATE}")}
    found = finding(gate(side({NAMES: unit(VALUES | {ATE: 500.0}, meanings=meanings)})), ATE)
    assert (found.status, found.reason) == ("incomparable", "units differ: baseline m, run mm")
    assert (found.baseline, found.run, found.unit) == (0.5, 500.0, "m"), "as the baseline has it"


@pytest.mark.parametrize(("kernel", "today", "exit_code"), [("fa3", "fa3", 0), ("fa2", "fa3", 2), ("fa2", "fa2", 0)])
def test_a_baseline_of_the_time_when_backends_named_the_kernel_still_holds(
    kernel: str, today: str, exit_code: int
) -> None:
    """Its backend is today's; which kernel ran, ``attention`` says in both."""
    ran = {"attention": f"flashinfer-{today}"}
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
    assert finding(verdict, ATE).reason == "was scored, cannot be now: 2 matched frames"
    assert finding(verdict, RSS).reason == "no number in the run: not told"


def test_a_new_metric_and_a_new_scene_are_noted() -> None:
    other = ("tum", "floor", "lingbot")
    depth, drift = "depth/abs_rel/lstsq", "drift/translation/sim3"
    old = unit(meanings={**unit().meanings, drift: Meaning("%", "c")}, reasons={drift: "too short"})
    run = side({NAMES: unit(VALUES | {depth: 0.1, drift: 2.0}), other: unit()})
    verdict = gate(run, side({NAMES: old}))
    assert verdict.exit_code == 0
    assert {(each.metric, each.names, each.run, each.reason) for each in verdict.findings if each.status == "new"} == {
        (depth, NAMES, 0.1, "not in the baseline"),
        (drift, NAMES, 2.0, "not in the baseline; before: too short"),
        ("scene", other, None, "not in the baseline: --update takes it in"),
    }


def test_what_is_new_and_what_is_a_note_come_in_the_run_s_order() -> None:
    """The same two sides give the same page, whatever order sets have that day."""
    metrics = [f"depth/made_up_{number}" for number in (5, 2, 7, 0, 3, 6, 1, 4)]
    scenes = [("tum", f"scene {number}", "lingbot") for number in (3, 7, 1, 5, 0, 6, 2, 4)]
    known = [("tum", name, "lingbot") for name in "dbeacf"]
    old = side({names: unit() for names in known[::-1]} | {NAMES: unit()})
    more = unit(VALUES | dict.fromkeys(metrics, 1.0))
    facts = {names: unit(settings=SETTINGS | {names[1]: 1}) for names in known}
    verdict = gate(side(facts | {NAMES: more} | {names: unit() for names in scenes}), old)
    new = [each for each in verdict.findings if each.status == "new"]
    assert [each.metric for each in new if each.names == NAMES] == metrics
    assert [each.names for each in new if each.names != NAMES] == scenes
    assert verdict.notes == tuple(f"settings recorded on one side only: {name}" for name in "dbeacf")


def test_a_scene_that_fails_now_is_a_regression_everywhere() -> None:
    verdict = gate(side({NAMES: unit({}, failure="failed in stage stream: CUDA out of memory")}))
    assert verdict.exit_code == 1
    assert [verdict.of(family) for family in FAMILIES] == ["regression"] * 3
    assert {each.reason for each in verdict.findings} == {"failed in stage stream: CUDA out of memory"}
    # Of what it was judged by before.
    verdict = gate(side({NAMES: unit({}, failure="crash")}), side({NAMES: unit({RSS: 900.0, WEIGHTS: 24.0})}))
    assert [(each.family, each.status) for each in verdict.findings] == [("memory", "regression")]


@pytest.mark.parametrize(
    ("now", "status", "reason"),
    [
        (unit({}, failure="another crash"), "shown", "failed before, too: crash"),
        (unit(), "new", "works now; before: crash"),
    ],
)
def test_a_scene_that_always_failed_is_shown_and_one_that_works_again_is_new(
    now: Any, status: str, reason: str
) -> None:
    """Nothing of it is judged: the other scene decides."""
    broken = side({NAMES: unit({}, failure="crash"), FLOOR: unit()})
    verdict = gate(side({**broken.units, NAMES: now}), broken)
    assert verdict.exit_code == 0
    found = [(each.family, each.status, each.reason) for each in verdict.findings if each.names == NAMES]
    assert found == [("accuracy", status, reason)]


@pytest.mark.parametrize("gaps", [{}, {NAMES: "damaged: result.json"}])
def test_a_missing_scene_cannot_be_judged(gaps: dict[Any, str]) -> None:
    run = side({("tum", "floor", "lingbot"): unit()}, gaps=gaps)
    verdict = gate(run)
    assert verdict.exit_code == 2
    found = [(each.family, each.status, each.reason) for each in verdict.findings if each.names == NAMES]
    reason = gaps.get(NAMES, "the run does not have this scene and method")
    assert found == [(family, "incomparable", reason) for family in FAMILIES]
    # Of a scene that has failed there was accuracy alone to judge, of one with a single metric that one's family.
    for old, families in ((unit({}, failure="crash"), ["accuracy"]), (unit({RSS: 900.0}), ["memory"])):
        assert [each.family for each in gate(side({}, gaps=gaps), side({NAMES: old})).findings] == families


def test_what_the_other_run_lacks_is_no_pass_either() -> None:
    incomplete = side({NAMES: unit()}, gaps={FLOOR: "damaged"})
    verdict = gate(side({NAMES: unit(), FLOOR: unit()}), incomplete)
    assert verdict.exit_code == 2
    found = [(each.family, each.status, each.reason) for each in verdict.findings if each.names == FLOOR]
    assert found == [(family, "incomparable", "the baseline has no result: damaged") for family in FAMILIES]


def test_what_both_sides_left_out_and_what_the_run_says_of_its_numbers_are_notes() -> None:
    baseline = side({NAMES: unit(notes=("of the past",))}, problems=("damaged record skipped: old",), name="before")
    run = side({NAMES: unit(notes=("3 matches", "poses look inverse"))}, gaps={("tum", "extra", "x"): "damaged"})
    verdict = gate(replace(run, problems=("damaged record skipped: extra",), name="now"), baseline)
    assert (verdict.exit_code, verdict.run, verdict.baseline) == (0, "now", "before")
    assert verdict.notes == (
        "damaged record skipped: old",
        "damaged record skipped: extra",
        "tum/desk/lingbot: 3 matches",
        "tum/desk/lingbot: poses look inverse",
    )


def test_families_that_do_not_decide_are_shown() -> None:
    run = changed(ATE, 2.0)
    assert gate(run, required=["memory", "speed"]).exit_code == 0
    assert gate(run, required=["memory", "speed"]).required == ("speed", "memory"), "in one order, as all else"
    assert gate(run, required=["memory", "speed"]).of("accuracy") == "regression"
    assert gate(run, required=["accuracy"]).exit_code == 1


def test_a_certain_regression_goes_before_what_cannot_be_judged() -> None:
    run = side({NAMES: unit(VALUES | {ATE: 9.0})}, environment=machine(cpu_model="another"))
    assert gate(run).exit_code == 1


def test_a_family_that_is_nothing_but_better_has_held() -> None:
    old, new = (side({NAMES: unit({ATE: value})}) for value in (1.0, 0.5))
    verdict = gate(new, old)
    assert (verdict.of("accuracy"), verdict.required, verdict.exit_code) == ("held", ("accuracy",), 0)


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
    # One that fits a metric which could not be scored is no slip, nor is a default behind one that fits as well.
    unscored = side(
        {NAMES: unit({AUC: 1.0}, meanings={m: Meaning("1", "c") for m in (AUC, ATE)}, reasons={ATE: "few"})}
    )
    assert gate(unscored, unscored, tolerances=[Shown(kind="shown", match=ATE), *default_tolerances()]).notes == ()
    # One that fits a metric of the last scene alone is none either.
    last = side({NAMES: unit({ATE: 1.0}), FLOOR: unit({AUC: 1.0})})
    assert gate(last, last, tolerances=[Shown(kind="shown", match=AUC), *default_tolerances()]).notes == ()
    rules = [Shown(kind="shown", match="auc/*"), Shown(kind="shown", match=AUC), *default_tolerances()]
    assert gate(side(), tolerances=rules).notes == (
        "tolerance 'auc/auc_30' is used for no metric: none fits, or an earlier one is taken",
    )


@pytest.mark.parametrize(
    ("baseline", "run", "expected"),
    [
        ((0, 2, 4), (1, 3, 5), False),
        ((0, 3, 4), (1, 2, 5), False),
        ((0, 1, 2), (3, 4, 5), True),
        ((0, 2, 4), (1, 3), True),
        ((0,), (1, 2, 3), False),
        ((0, 1, 2), (3,), False),
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
