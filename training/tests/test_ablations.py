"""Every ablation changes what it says, and nothing else; the table says of each score what the gate says of a run's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lingbot_eval.declarations import declaration
from lingbot_eval.errors import ConfigError
from lingbot_eval.files.yaml_documents import load_mapping
from lingbot_eval.gating.judge import Absolute, Relative, default_tolerances, judge_values, judged_by
from lingbot_eval.model.build import empty_model
from lingbot_eval.model.config import CONFIGS
from lingbot_eval.resources import shared_file
from tests.streaming.networks import tiny_network
from training import ablations
from training.ablations import (
    ABLATIONS,
    AS_TRAINED,
    FIRST_SEED,
    METRICS,
    Ablation,
    held_out,
    main,
    markdown,
    read_scores,
    regressions,
    run_ablation,
)
from training.card import TARGETS
from training.forward import HIDDEN, SPECIALS, WHOLE, StreamShape, visibility
from training.learner import draw_initial
from training.scene_jobs import TEST_SEEDS
from training.state import export_weights

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


SEEN = visibility(StreamShape(frames=12, scale_frames=3, window=4, interval=1))


def test_no_anchor_hides_the_scale_frames_from_all_later_ones() -> None:
    found = ablations.without_anchor(SEEN)
    assert (found.seen[3:, :3] == HIDDEN).all()
    assert np.array_equal(found.seen[:3], SEEN.seen[:3])
    assert np.array_equal(found.seen[3:, 3:], SEEN.seen[3:, 3:])
    assert (SEEN.seen[3:, :3] == WHOLE).all()


def test_no_memory_hides_what_left_the_window() -> None:
    found = ablations.without_memory(SEEN)
    assert (SEEN.seen == SPECIALS).sum() > 0
    assert (found.seen[SEEN.seen == SPECIALS] == HIDDEN).all()
    assert np.array_equal(found.seen == WHOLE, SEEN.seen == WHOLE)


def test_the_frozen_clock_stays_at_zero() -> None:
    found = ablations.frozen_clock(SEEN)
    assert found.clocks.tolist() == [0] * 12
    assert SEEN.clocks.tolist() == list(range(12))
    assert np.array_equal(found.seen, SEEN.seen)


def test_every_ablation_changes_late_frames_and_none_leaves_the_order() -> None:
    model = tiny_network()
    ((_, clips),) = held_out(1, 14, (28, 42))
    # A window that the clip outgrows, so that there is a memory to lose.
    given = {
        name: Ablation(ablation.window or 3, ablation.iterations, ablation.change, ablation.shuffled)
        for name, ablation in ABLATIONS.items()
    }
    whole, scored = run_ablation(model, clips, given["as trained"])
    assert scored.tolist() == list(range(14))
    for name, ablation in given.items():
        out, _ = run_ablation(model, clips, ablation)
        late = (out.poses[-1][0, 12:] - whole.poses[-1][0, 12:]).abs().max()
        assert (float(late) == 0) == (name == "as trained"), name
    # The first frame is not moved, and what is not shuffled does not touch the frames that open the stream.
    for name in ("window of 1", "no anchor frames", "no trajectory memory"):
        out, _ = run_ablation(model, clips, given[name])
        torch.testing.assert_close(out.poses[-1][0, :8], whole.poses[-1][0, :8])


def test_shuffled_frames_come_back_in_order() -> None:
    """A network that looks at single frames alone says the same of each, whenever it comes."""
    model = tiny_network()
    ((_, clips),) = held_out(1, 6, (28, 42))

    def alone(seen: ablations.Visibility) -> ablations.Visibility:
        matrix = np.where(np.eye(6, dtype=bool), WHOLE, HIDDEN).astype(np.uint8)
        return ablations.replace(ablations.frozen_clock(seen), seen=matrix)

    straight, _ = run_ablation(model, clips, Ablation(change=alone))
    mixed, _ = run_ablation(model, clips, Ablation(change=alone, shuffled=True))
    torch.testing.assert_close(mixed.poses[-1], straight.poses[-1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mixed.log_depth, straight.log_depth, atol=1e-5, rtol=1e-4)


def test_the_scenes_are_those_of_the_experiment_and_of_no_training() -> None:
    (dataset,) = load_mapping(shared_file("experiments", "ci_heldout"))["datasets"]
    assert dataset["options"]["seed"] == FIRST_SEED
    seeds = range(FIRST_SEED, FIRST_SEED + dataset["options"]["variants"])
    assert all(seed in TEST_SEEDS for seed in seeds)
    assert 5 * dataset["options"]["variants"] == 20


def test_a_table_of_untrained_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = empty_model(CONFIGS["ci"], point_head=False)
    draw_initial(model, 4, 0)
    export_weights(tmp_path / "w.safetensors", model, {})
    given = [
        str(tmp_path / "w.safetensors"),
        "--scenes",
        "2",
        "--frames",
        "10",
        "--size",
        "28",
        "42",
        "--device",
        "cpu",
    ]
    assert main([*given, "--json", str(tmp_path / "found.json")]) == 0
    text = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert text == markdown(found)
    assert read_scores(tmp_path / "found.json") == found
    assert list(found) == list(ABLATIONS)
    assert all(f"| {name} |" in text for name in ABLATIONS)
    assert list(found["as trained"]) == ["room-100", "corridor-100"]
    assert main([str(tmp_path / "none.safetensors"), "--device", "cpu"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
