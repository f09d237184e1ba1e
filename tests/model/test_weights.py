"""Checkpoints: what loads, and the one clear line for everything that must not."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from pydantic import ValidationError

from lingbot_eval.errors import CheckpointError, DependencyError
from lingbot_eval.methods.lingbot_config import ModelSettings
from lingbot_eval.model.build import empty_model
from lingbot_eval.model.config import CONFIGS
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.model.weights import draw_untrained, file_sha256, load_checkpoint, resolve_checkpoint
from lingbot_eval.resources import shipped_weights
from tests.streaming.networks import TINY


def network(*, point_head: bool = False, seed: int = 1) -> GeometricContextTransformer:
    model = GeometricContextTransformer(TINY, point_head=point_head)
    draw_untrained(model, seed)
    return model


def same(a: GeometricContextTransformer, b: GeometricContextTransformer) -> bool:
    return all(torch.equal(a.state_dict()[key], value) for key, value in b.state_dict().items())


SAVERS: dict[str, Callable[[dict[str, Any], Path], object]] = {
    "plain.pt": torch.save,
    "under_model.pt": lambda state, path: torch.save({"model": state, "epoch": 3}, path),
    "weights.safetensors": safetensors.torch.save_file,
}


@pytest.mark.parametrize("name", SAVERS)
def test_every_form_loads_to_the_same_numbers(tmp_path: Path, name: str) -> None:
    source, target = network(seed=1), network(seed=2)
    path = tmp_path / name
    SAVERS[name](source.state_dict(), path)
    assert not same(source, target)
    loaded = load_checkpoint(target, str(path))
    assert same(source, target)
    assert loaded.trained
    assert loaded.sha256 == file_sha256(path)
    assert loaded.notes == ()


def test_weights_of_a_head_that_is_off_are_skipped_with_one_line(tmp_path: Path) -> None:
    torch.save(network(point_head=True).state_dict(), tmp_path / "points.pt")
    loaded = load_checkpoint(network(), str(tmp_path / "points.pt"))
    assert len(loaded.notes) == 1
    assert loaded.notes[0].startswith("point_head is switched off: ")


def test_a_head_that_is_on_must_be_in_the_file(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "no_points.pt")
    with pytest.raises(CheckpointError, match=r"missing: point_head\.norm\.weight.* and \d+ more"):
        load_checkpoint(network(point_head=True), str(tmp_path / "no_points.pt"))


def test_missing_unknown_and_misshaped_keys_are_all_listed(tmp_path: Path) -> None:
    state = network().state_dict()
    del state["camera_head.token_norm.bias"]
    state["somebody.elses"] = torch.zeros(1)
    state["camera_head.trunk_norm.weight"] = torch.zeros(7)
    torch.save(state, tmp_path / "other.pt")
    target = network(seed=2)
    before = network(seed=2)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(target, str(tmp_path / "other.pt"))
    text = str(caught.value)
    assert "1 missing: camera_head.token_norm.bias" in text
    assert "1 unknown: somebody.elses" in text
    assert "1 misshaped: camera_head.trunk_norm.weight (expected (128,), found (7,))" in text
    assert "\n" not in text
    assert same(target, before)  # nothing half-loaded


class _Malicious:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.proof}",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    torch.save({"model": _Malicious(proof)}, tmp_path / "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(_Malicious(proof)))
    for name in ("evil.pt", "raw.pt"):
        with pytest.raises(CheckpointError, match="could run code"):
            load_checkpoint(network(), str(tmp_path / name))
    assert not proof.exists()


@pytest.mark.parametrize("name", SAVERS)
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.97])
def test_a_truncated_file_is_one_line(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    SAVERS[name](network().state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(CheckpointError, match="damaged or truncated") as caught:
        load_checkpoint(network(), str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["noise.pt", "noise.safetensors"])
def test_noise_is_not_a_checkpoint(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bytes(range(256)) * 40)
    with pytest.raises(CheckpointError):
        load_checkpoint(network(), str(tmp_path / name))


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"a": 3}, torch.zeros(2), [torch.zeros(2)]])
def test_something_else_in_a_pt_file(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match="expected a state dict"):
        load_checkpoint(network(), str(tmp_path / "odd.pt"))


def test_integers_are_not_weights(tmp_path: Path) -> None:
    state = network().state_dict()
    state["camera_head.token_norm.bias"] = torch.zeros(128, dtype=torch.int64)
    torch.save(state, tmp_path / "ints.pt")
    with pytest.raises(CheckpointError, match=r"not floating point: camera_head\.token_norm\.bias"):
        load_checkpoint(network(), str(tmp_path / "ints.pt"))


def test_half_precision_files_load_into_float32(tmp_path: Path) -> None:
    source = network()
    torch.save({k: v.half() for k, v in source.state_dict().items()}, tmp_path / "half.pt")
    target = network(seed=2)
    load_checkpoint(target, str(tmp_path / "half.pt"))
    assert all(p.dtype is torch.float32 for p in target.parameters())
    torch.testing.assert_close(target.state_dict(), source.state_dict(), rtol=1e-3, atol=1e-4)


def test_paths_and_addresses() -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        resolve_checkpoint("nowhere.pt")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        resolve_checkpoint("~nobody-of-this-name/x.pt")
    with pytest.raises(CheckpointError, match=r"expected a \.pt or \.safetensors"):
        resolve_checkpoint("weights.bin")
    with pytest.raises(CheckpointError, match="hf://owner/repo/file"):
        resolve_checkpoint("hf://owner/repo")
    with pytest.raises((DependencyError, CheckpointError), match=r"hf://nobody/nothing/w\.pt"):
        resolve_checkpoint("hf://nobody/nothing/w.pt")


def test_a_seed_is_the_same_network_everywhere() -> None:
    assert same(network(seed=5), network(seed=5))
    assert not same(network(seed=5), network(seed=6))
    # Independent of what else is in the network, and of torch's own generator.
    torch.manual_seed(99)
    assert same(network(seed=5, point_head=True), network(seed=5))


@pytest.mark.parametrize(("name", "millions"), [("full", 1157.94), ("mini", 33.27)])
def test_parameter_counts(name: Any, millions: float) -> None:
    with torch.device("meta"):
        model = GeometricContextTransformer(CONFIGS[name])
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_the_shipped_weights_are_there_and_fit() -> None:
    model = empty_model(CONFIGS["ci"], point_head=False)
    source = load_checkpoint(model, "shipped")
    assert source.trained
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    assert shipped_weights().stat().st_size < 30e6


@pytest.mark.parametrize("other", [{"config": "full"}, {"config": "ci", "point_head": True}])
def test_shipped_weights_of_another_network_are_refused_with_a_way_out(other: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="null for untrained"):
        ModelSettings(checkpoint="shipped", **other)
