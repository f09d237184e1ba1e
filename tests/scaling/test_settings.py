"""A study file: which cases it means, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from studies import study

from lingbot_eval.errors import ConfigError
from lingbot_eval.methods.lingbot_config import ModelSettings
from lingbot_eval.scaling.case import case_method
from lingbot_eval.scaling.execute import in_order
from lingbot_eval.scaling.settings import Case, Study, case_name, load_study
from lingbot_eval.streaming.settings import StreamSettings

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
    names = [case_name(case) for case in loaded.all_cases()]
    assert [name.rpartition("-float32")[2] for name in names] == ["-224x168", "-cache8-224x168"]
    assert [case_method(loaded, case).streaming.cache_precision for case in loaded.all_cases()] == [None, 8]
    with pytest.raises(ConfigError, match="FlashInfer reads no 8-bit numbers"):
        load_study("scaling", ["sweep.backend=[sdpa, flashinfer]", "defaults.cache_precision=8"])


def test_overrides_reach_lists_and_sections() -> None:
    changed = load_study("scaling", ["cases.0.frames=7", "sweep.window=[8, null]", "input={kind: noise}"])
    assert [(case.frames, case.window) for case in changed.all_cases()] == [(7, 8), (7, None)]
    assert changed.input.kind == "noise"


def test_the_default_of_the_shipped_study_can_be_set_as_the_help_says() -> None:
    (case,) = load_study("scaling", ["defaults.frames=2000"]).all_cases()
    assert case.frames == 2000


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
    names = {case_name(base.model_copy(update={key: value})) for key, value in changes.items()}
    names |= {case_name(base), case_name(base.model_copy(update={"scenario": "camera", "camera_hz": 10.0}))}
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
