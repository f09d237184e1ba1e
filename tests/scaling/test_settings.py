"""A study file: which cases it means, and what it refuses."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from studies import case_record, study

from lingbot_eval.errors import ConfigError
from lingbot_eval.methods.base import Method
from lingbot_eval.methods.lingbot_config import ModelSettings
from lingbot_eval.methods.model import LingbotMethod
from lingbot_eval.model.config import CONFIGS
from lingbot_eval.runs.attempt import Attempt
from lingbot_eval.runs.stream import Output, Pace
from lingbot_eval.scaling import execute as execute_module
from lingbot_eval.scaling.execute import CaseScorer, CaseTask, in_order, model_of
from lingbot_eval.scaling.settings import Case, NoiseInput, Study, Sweep, load_study
from lingbot_eval.settings import validated
from lingbot_eval.streaming.estimate import NetworkSize
from lingbot_eval.streaming.settings import StreamSettings
from lingbot_eval.types import Frame, Prediction

MEASURED = Path(__file__).parents[2] / "reports" / "measurements" / "h200_scale.json"
SMALL = """
kind: scale
name: mine
model: {config: ci}
defaults: {frames: 50, size: [56, 42]}
cases:
  - {frames: 20}
  - {keyframe_interval: 1}
sweep:
  backend: [sdpa, paged]
  precision: [float32, bfloat16]
"""


def test_every_case_with_every_combination(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SMALL, encoding="utf-8")
    cases = list(load_study(str(path)).all_cases())
    found = [(case.frames, case.keyframe_interval, case.backend, case.precision) for case in cases]
    pairs = [(backend, precision) for backend in ("sdpa", "paged") for precision in ("float32", "bfloat16")]
    assert found == [(20, "auto", *pair) for pair in pairs] + [(50, 1, *pair) for pair in pairs]
    assert {case.size for case in cases} == {(56, 42)}


def test_cases_that_share_a_network_run_together(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SMALL, encoding="utf-8")
    precisions = [case.precision for case in in_order(load_study(str(path)))]
    assert precisions == ["float32"] * 4 + ["bfloat16"] * 4


def test_every_axis_of_a_case_and_every_setting_of_a_study_reaches_the_method() -> None:
    axes: dict[str, Any] = {"backend": "paged", "keyframe_interval": 3, "window": 9, "cache_precision": 8}
    given = study(
        model={"config": "ci", "camera_iterations": 2, "point_head": True, "seed": 5},
        streaming={"scale_frames": 4, "windowed": {"size": 30}},
        defaults={
            **axes,
            "precision": "bfloat16",
            "scenario": "camera",
            "camera_hz": 20.0,
            "limit_s": 7.5,
            "frames": 30,
        },
    )
    (case,) = given.all_cases()
    method = model_of(given, case)
    assert {name: getattr(method.streaming, name) for name in axes} == axes
    assert (method.streaming.scale_frames, method.streaming.windowed) == (4, given.streaming.windowed)
    assert (method.model, method.device, method.precision, method.heads) == (given.model, "cpu", "bfloat16", "float32")
    task = CaseTask(given, case, lambda case: pytest.fail("not opened"))
    assert (task.names, task.method) == ((case.name,), method)
    assert task.pace == Pace(hertz=20.0, frames=30, limit_s=7.5)
    # A camera does not wait for a state to be saved.
    assert (task.saves, method.overlapped, method.leaves_the_cpu_free) == (False, False, False)
    for scenario, overlapped in (("single_stream", False), ("offline", True)):
        other = case.model_copy(update={"scenario": scenario, "limit_s": None})
        task = CaseTask(given, other, lambda case: pytest.fail("not opened"))
        assert task.pace == Pace(hertz=None, frames=30, limit_s=None)
        assert (task.saves, model_of(given, other).overlapped) == (True, overlapped)


def guest(**method: Any) -> Study:
    whole = {"kind": "scale", "name": "guest", "input": {"kind": "noise"}, "defaults": {"frames": 9, "size": [28, 14]}}
    return validated(Study, {**whole, "sample_every": 5, "method": method}, "test")


@pytest.mark.parametrize(
    ("method", "repeatable", "here"),
    [
        ({"kind": "motionless"}, True, True),
        ({"kind": "external", "command": ["p"]}, False, False),
        ({"kind": "external", "command": ["p"], "version": "2"}, True, False),
    ],
)
def test_whether_a_result_stands_and_whose_memory_is_looked_at(
    method: dict[str, Any], repeatable: bool, here: bool
) -> None:
    """A program of which nobody knows the version runs anew; its memory is not this process's."""
    given = guest(**method)
    (case,) = given.all_cases()
    task = CaseTask(given, case, lambda case: pytest.fail("not opened"))
    assert task.is_done(case_record(case.name)) is repeatable
    looked = {"every 5 frames and at checkpoints": "process"} if here else {}
    attempt = Attempt(started="2026-01-01T00:00:00+00:00", begun=0.0)
    assert task.record(attempt).sampling == {"every frame": "forward and interval times", **looked}
    scorer = CaseScorer(given, case, cast(Method, object()))
    rows = [
        scorer.add(Output(Frame(i, 0.0, None, ""), Prediction(i, 0.0, None), interval_s=1.0, latency_s=1.0, backlog=0))
        for i in range(5)
    ]
    assert ["process_bytes" in row for row in rows] == [False] * 4 + [here]


@pytest.mark.parametrize(
    ("given", "workers"),
    [
        (study(), 0),
        (study(device="cuda:1"), 4),
        (guest(kind="motionless"), 0),
        (guest(kind="external", command=["p"], gpu=1), 4),
    ],
)
def test_frames_are_decoded_beside_what_computes_elsewhere(
    given: Study, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def opened(settings: Any, size: tuple[int, int], workers: int, each_frame: object) -> Any:
        asked.append(workers)
        return SimpleNamespace(first=lambda count: count)

    monkeypatch.setattr(execute_module, "open_source", opened)
    (case,) = given.all_cases()
    _, task_of = execute_module.reopen(tmp_path, given.model_dump_json(exclude_unset=True))
    assert (task_of(case.names).open(), asked) == (case.frames, [workers])


@pytest.mark.parametrize(("device", "on_cpu"), [("cpu", True), ("cuda:1", False)])
def test_what_was_resolved_is_what_the_formula_is_of(
    device: str, on_cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what was asked for: auto is an interval of every frame for the first frames of a long stream."""
    monkeypatch.setattr(execute_module, "MemoryProbe", lambda name: SimpleNamespace(device=name))
    given = study(
        model={"config": "ci", "camera_iterations": 2, "point_head": True},
        defaults={"keyframe_interval": "auto", "backend": "auto", "frames": 900, "precision": "bfloat16", "window": 5},
    )
    (case,) = given.all_cases()
    told = {"device": device, "keyframe_interval": 3, "backend": "paged", "attention": "x", "weights": "w"}
    told |= {"trained": False, "precision": "bfloat16", "window": 5, "unasked": 1}

    class Described(LingbotMethod):
        """Nothing but what it says of itself."""

        weights_bytes = 77

        def __init__(self) -> None:
            pass

        def describe(self) -> dict[str, Any]:
            return told

    scorer = CaseScorer(given, case, Described())
    setting = scorer.setting
    assert setting is not None
    assert (setting.streaming.keyframe_interval, setting.streaming.backend) == (3, "paged")
    assert (setting.window, setting.on_cpu, scorer.probe.device) == (5, on_cpu, device)  # type: ignore[attr-defined]
    assert setting.network == NetworkSize(CONFIGS["ci"], "bfloat16", 2, True)
    told.pop("unasked")
    assert scorer.facts(told) == told | {
        "config": "ci",
        "weights_bytes": 77,
        "scale_frames": 8,
        "scenario": "frames are given as fast as they are taken, one step in flight while the next is prepared",
    }


def test_what_is_left_out_is_as_the_documentation_says() -> None:
    assert Case().model_dump() == {
        "frames": 10_000,
        "scenario": "offline",
        "backend": "auto",
        "keyframe_interval": "auto",
        "window": None,
        "precision": "float32",
        "cache_precision": None,
        "size": (518, 378),
        "camera_hz": 30.0,
        "limit_s": None,
    }
    bare = validated(Study, {"kind": "scale", "name": "x"}, "test")
    assert bare.model_dump(exclude={"model", "streaming", "defaults", "cases", "sweep"}) == {
        "method": None,
        "kind": "scale",
        "name": "x",
        "device": "auto",
        "input": {"kind": "synthetic", "scene": "room", "pool": 128, "seed": 0, "step": 0.05},
        "checkpoints": (100, 320, 1_000, 3_840, 10_000, 25_000),
        "sample_every": 20,
    }
    assert (bare.defaults, bare.cases, bare.sweep) == (Case(), (Case(),), Sweep())
    assert (bare.model, bare.streaming) == (ModelSettings(), StreamSettings())
    assert NoiseInput(kind="noise").model_dump() == {"kind": "noise", "pool": 64, "seed": 0}


def test_axes_of_a_sweep_are_swept_in_their_order_the_last_one_fastest() -> None:
    swept = {
        "size": [[28, 14], [14, 28]],
        "frames": [5, 6],
        "scenario": ["offline", "single_stream"],
        "window": [None, 3],
        "cache_precision": [None, 8],
    }
    cases = list(study(sweep=swept, defaults={"backend": "sdpa"}).all_cases())
    assert [
        tuple(getattr(case, name) for name in ("frames", "scenario", "window", "cache_precision")) for case in cases
    ][::2] == list(itertools.product([5, 6], ["offline", "single_stream"], [None, 3], [None, 8]))
    assert [case.size for case in cases[:2]] == [(28, 14), (14, 28)]


def test_the_shipped_study_reaches_its_length() -> None:
    shipped = load_study("scaling")
    assert max(case.frames for case in shipped.all_cases()) >= 10_000
    assert {100, 320, 1_000, 3_840, 10_000, 25_000} <= set(shipped.checkpoints)


def test_every_case_of_the_measured_study_is_one_of_the_shipped_study() -> None:
    """The record of the measurements' table was made from another file: its cases and settings are these, too."""
    shipped = load_study("scaling_full")
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    # The record is of the time when FlashInfer's kernel was part of the name.
    cases = [
        Case.model_validate(each["case"] | {"backend": each["case"]["backend"].removesuffix("-fa3")})
        for each in measured["cases"]
    ]
    offered = list(shipped.all_cases())
    assert len(set(cases)) == len(cases) == len(offered) - 1
    assert set(cases) < set(offered)
    # A setting that came after the record stood as it does unless it is told otherwise.
    study = measured["scale"]["study"]
    assert ModelSettings.model_validate(study["model"]) == shipped.model
    assert StreamSettings.model_validate(study["streaming"]) == shipped.streaming
    for part in ("input", "checkpoints", "sample_every"):
        assert shipped.model_dump(mode="json")[part] == study[part], part
    assert (shipped.device, study["device"]) == ("cuda", "cuda:0")


def test_8_bit_caches_are_an_axis() -> None:
    loaded = load_study("scaling", ["sweep.cache_precision=[null, 8]", "sweep.backend=[sdpa]"])
    names = [case.name for case in loaded.all_cases()]
    assert [name.rpartition("-float32")[2] for name in names] == ["-224x168", "-cache8-224x168"]
    assert [model_of(loaded, case).streaming.cache_precision for case in loaded.all_cases()] == [None, 8]
    with pytest.raises(ConfigError, match="FlashInfer reads no 8-bit numbers"):
        load_study("scaling", ["sweep.backend=[sdpa, flashinfer]", "defaults.cache_precision=8"])


def test_what_a_case_gives_wins_over_the_defaults_though_it_is_what_stands_without_them() -> None:
    given = study(
        defaults={"frames": 30, "keyframe_interval": 1, "window": 9, "scenario": "camera"},
        cases=[{"keyframe_interval": "auto", "window": None}, {"scenario": "offline"}],
    )
    found = [(case.keyframe_interval, case.window, case.scenario) for case in given.all_cases()]
    assert found == [("auto", None, "camera"), (1, 9, "offline")]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cases": [{"window": None}], "sweep": {"window": [8]}}, "cases.0.window: the sweep sets it, too"),
        ({"streaming": {"backend": "auto"}}, "backend belongs into defaults, cases or sweep, found under streaming"),
        ({"cases": [{"window": None}]}, "cases.0.window: is the streaming model's, and the study streams 'motionless'"),
        ({"device": "auto"}, "device: is the streaming model's, and the study streams 'motionless'"),
    ],
)
def test_what_is_given_twice_is_refused_though_it_changes_nothing(changes: dict[str, Any], says: str) -> None:
    whole: dict[str, Any] = {"kind": "scale", "name": "s", "input": {"kind": "noise"}}
    if "motionless" in says:
        whole["method"] = {"kind": "motionless"}
    with pytest.raises(ConfigError) as refused:
        validated(Study, {**whole, **changes}, "test")
    assert says in str(refused.value)


def test_overrides_reach_lists_and_sections() -> None:
    changed = load_study("scaling", ["cases.0.frames=7", "sweep.window=[8, null]", "input={kind: noise}"])
    assert [(case.frames, case.window) for case in changed.all_cases()] == [(7, 8), (7, None)]
    assert changed.input.kind == "noise"


def test_the_default_of_the_shipped_study_can_be_set_as_the_help_says() -> None:
    (case,) = load_study("scaling", ["defaults.frames=2000"]).all_cases()
    assert case.frames == 2000


def test_a_default_reaches_the_cases_that_do_not_set_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SMALL, encoding="utf-8")
    assert [case.frames for case in load_study(str(path), ["defaults.frames=60"]).all_cases()] == [20] * 4 + [60] * 4


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "defaults.frames=30",
            "frames=30: changes nothing, as every case sets frames; use --set cases.0.",
        ),
        ("defaults.backend=sdpa", "changes nothing, as the sweep sets backend; use --set sweep.backend=…"),
        ("defaults.keyframe_interval=2", "cases.0.keyframe_interval=… --set cases.1.keyframe_interval=…"),
        ("sweep.frames=[10]", "cases.0.frames: the sweep sets it, too"),
    ],
)
def test_an_override_that_changes_nothing_is_refused(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_study("scaling_full", [override])
    assert says in str(caught.value)


def test_names_say_every_difference() -> None:
    base = Case()
    changes = {
        "frames": 5,
        "scenario": "camera",
        "backend": "paged",
        "keyframe_interval": 3,
        "window": 9,
        "precision": "bfloat16",
        "cache_precision": 8,
        "size": (28, 14),
        "limit_s": 4.0,
    }
    names = {base.model_copy(update={key: value}).name for key, value in changes.items()}
    names |= {base.name, base.model_copy(update={"scenario": "camera", "camera_hz": 10.0}).name}
    assert set(changes) | {"camera_hz"} == set(Case.model_fields)
    assert len(names) == len(changes) + 2
    assert all(re.fullmatch(r"[\w.-]+", name) for name in names)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("sweep.backend=[sdpx]", "sweep.backend.0: expected 'auto', 'sdpa'"),
        ("cases.0.frmaes=3", "unknown key 'frmaes' (did you mean 'frames'?)"),
        ("sweep.keyframe_intervals=[1]", "did you mean 'keyframe_interval'?"),
        ("streaming.window=3", "window belongs into defaults, cases or sweep"),
        ("cases=[{frames: 5}, {frames: 5}]", "is there more than once"),
        ("defaults.size=[518, 377]", "multiple of 14"),
        ("checkpoints=[100, 100]", "rising"),
        ("input={kind: dataset, dataset: {name: tum, root: /x}}", "expected a list of one scene"),
        (
            "input={kind: dataset, dataset: {name: tum, root: /x, scenes: [a], lengths: [5]}}",
            "a study has checkpoints along one stream",
        ),
        ("input.pool=1", "greater than or equal to 2"),
        ("defaults.size=[8204, 14]", "less than or equal to 8192"),
        ("defaults.frames=0", "greater than or equal to 1"),
        ("defaults.camera_hz=0", "greater than 0"),
        ("defaults.limit_s=0", "greater than 0"),
        ("defaults.size=[0, 14]", "greater than or equal to 14"),
        ("defaults.frames=10000001", "less than or equal to 10000000"),
        ("defaults.camera_hz=10001", "less than or equal to 10000"),
        ("defaults.window=0", "greater than or equal to 1"),
        ("sample_every=0", "greater than or equal to 1"),
        ("checkpoints=[0, 5]", "greater than or equal to 1"),
        ("input={kind: synthetic, step: 0}", "greater than 0"),
        ("input={kind: noise, pool: 100001}", "less than or equal to 100000"),
        ("device=gpu", "device"),
        ("name=a/b", "name"),
        (
            "input={kind: dataset, dataset: {name: tum, root: /x, scenes: [a], strides: [2]}}",
            "a study has checkpoints along one stream",
        ),
        ("checkpoints=[300, 100]", "rising"),
        ("sweep.frames=[]", "at least 1"),
        (
            "input={kind: dataset, dataset: {name: tum, scenes: [a], size: {mode: exact, width: 14, height: 14}}}",
            "the cases say the size",
        ),
        ("input={kind: dataset, dataset: {name: tum, root: /x, scenes: [a, b]}}", "expected a list of one scene"),
    ],
)
def test_what_cannot_be_used_is_one_line(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_study("scaling", [override])
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_experiment_is_no_study() -> None:
    with pytest.raises(ConfigError, match="kind"):
        load_study("smoke")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        study().name = "other"  # type: ignore[misc]
    assert isinstance(study(), Study)
