"""Every ablation changes what it says, and nothing else; the table is made from what was scored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lingbot_eval.files.yaml_documents import load_mapping
from lingbot_eval.model.build import empty_model
from lingbot_eval.model.config import CONFIGS
from lingbot_eval.resources import shared_file
from tests.streaming.networks import tiny_network
from training import ablations
from training.ablations import ABLATIONS, FIRST_SEED, Ablation, held_out, main, markdown, read_scores, run_ablation
from training.forward import HIDDEN, SPECIALS, WHOLE, StreamShape, visibility
from training.learner import draw_initial
from training.scene_jobs import TEST_SEEDS
from training.state import export_weights

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
