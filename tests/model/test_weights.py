"""Checkpoints: what loads, and the one clear line for everything that must not."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import safetensors.torch
import torch
from pydantic import ValidationError

import lingbot_eval
from lingbot_eval.errors import CheckpointError, ConfigError, DependencyError
from lingbot_eval.methods.lingbot_config import ModelSettings
from lingbot_eval.model import weights
from lingbot_eval.model.build import build_model, check_checkpoint, empty_model, ready
from lingbot_eval.model.config import CONFIGS
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.model.weights import (
    checkpoint_sha256,
    draw_untrained,
    file_sha256,
    load_checkpoint,
    resolve_checkpoint,
)
from lingbot_eval.resources import PUBLIC, shipped_weights
from tests.streaming.networks import TINY


def network(*, point_head: bool = False, seed: int = 1) -> GeometricContextTransformer:
    model = GeometricContextTransformer(TINY, point_head=point_head)
    draw_untrained(model, seed)
    return model


def same(a: GeometricContextTransformer, b: GeometricContextTransformer) -> bool:
    mine = a.state_dict()
    return all(torch.equal(mine[key], value) for key, value in b.state_dict().items())


SAVERS: dict[str, Callable[[dict[str, Any], Path], object]] = {
    "plain.pt": torch.save,
    "under_model.pt": lambda state, path: torch.save({"model": state, "epoch": 3}, path),
    "before_1.6.pth": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "weights.safetensors": safetensors.torch.save_file,
}

NOTES = {"under_model.pt": ("the weights' names stand behind 'model.' in the file, which is taken off",)}


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
    assert loaded.notes == NOTES.get(name, ())


def test_weights_of_a_head_that_is_off_are_skipped_with_one_line(tmp_path: Path) -> None:
    torch.save(network(point_head=True).state_dict(), tmp_path / "points.pt")
    loaded = load_checkpoint(network(), str(tmp_path / "points.pt"))
    count = sum(name.startswith("point_head.") for name in network(point_head=True).state_dict())
    assert loaded.notes == (f"point_head is switched off: {count} of its weights skipped",)


def test_a_head_that_is_on_must_be_in_the_file(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "no_points.pt")
    names = [name for name in network(point_head=True).state_dict() if name.startswith("point_head.")]
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(network(point_head=True), str(tmp_path / "no_points.pt"))
    listed = f"{len(names)} missing: {', '.join(names[:8])} and {len(names) - 8} more. Choose the configuration"
    assert f"not a checkpoint of this configuration; {listed}" in str(caught.value)


def test_missing_unknown_and_misshaped_keys_are_all_listed(tmp_path: Path) -> None:
    state = network().state_dict()
    del state["camera_head.token_norm.bias"]
    state["somebody.elses"] = torch.zeros(1)
    state["two\nlines" + 90 * "x"] = torch.zeros(1)
    state["red\x1b[31m"] = torch.zeros(1)
    state["camera_head.trunk_norm.weight"] = torch.zeros(7)
    turned = state["camera_head.embed_pose.weight"].t().contiguous()
    state["camera_head.embed_pose.weight"] = turned
    torch.save(state, tmp_path / "other.pt")
    target = network(seed=2)
    before = network(seed=2)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(target, str(tmp_path / "other.pt"))
    text = str(caught.value)
    assert "1 missing: camera_head.token_norm.bias" in text
    # A name out of a file is 80 characters at most, on one line.
    assert "3 unknown: somebody.elses, two\\nlines" + 69 * "x" + "…, red\\x1b[31m; 2 misshaped" in text
    assert (
        "2 misshaped: camera_head.trunk_norm.weight (expected (128,), found (7,)), "
        "camera_head.embed_pose.weight (expected (128, 9), found (9, 128)). Choose" in text
    )
    assert "\n" not in text
    assert same(target, before)  # nothing half-loaded


@pytest.mark.parametrize(("count", "end"), [(8, "k7"), (9, "k7 and 1 more")])
def test_eight_keys_are_named_and_the_others_counted(tmp_path: Path, count: int, end: str) -> None:
    torch.save(network().state_dict() | {f"k{key}": torch.zeros(1) for key in range(count)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=rf"{count} unknown: k0, k1, k2, k3, k4, k5, k6, {end}\. Choose"):
        load_checkpoint(network(), str(tmp_path / "x.pt"))


State = dict[str, Any]
WRAPPED: dict[str, tuple[Callable[[State], Any], str]] = {
    "state_dict": (lambda s: {"state_dict": s}, "stand behind 'state_dict.'"),
    "model_state_dict": (lambda s: {"model_state_dict": s, "epoch": 1}, "stand behind 'model_state_dict.'"),
    "net": (lambda s: {"net": s}, "stand behind 'net.'"),
    "ema alone": (lambda s: {"ema": s}, "stand behind 'ema.'"),
    "two containers": (lambda s: {"model": {"state_dict": s}}, "stand behind 'model.state_dict.'"),
    "module.": (lambda s: prefixed(s, "module."), "stand behind 'module.'"),
    "lightning": (
        lambda s: {"state_dict": prefixed(s, "model.") | {"loss.scale": torch.ones(2)}, "loops": {"fit": 3}},
        "stand behind 'state_dict.model.'.* 1 tensors elsewhere .* not read, such as state_dict.loss.scale",
    ),
    "compiled and parallel": (lambda s: prefixed(s, "_orig_mod.module."), r"stand behind '_orig_mod\.module\.'"),
    "a part compiled": (
        lambda s: {k.replace("camera_head.", "camera_head._orig_mod."): v for k, v in s.items()},
        r"_orig_mod is taken out of the names of \d+ weights",
    ),
    "modules apart": (
        lambda s: {
            part: {k.partition(".")[2]: v for k, v in s.items() if k.startswith(f"{part}.")}
            for part in ("aggregator", "camera_head", "depth_head")
        },
        "^$",
    ),
    "averaged": (
        lambda s: prefixed(s, "module.") | {"n_averaged": torch.tensor(7)},
        "stand behind 'module.'.* 1 tensors elsewhere in the file are not read, such as n_averaged",
    ),
    "an optimizer beside": (
        lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1.0}]}},
        "1 tensors elsewhere in the file are not read, such as optimizer.state.0.exp_avg",
    ),
    "somebody's settings": (
        lambda s: {"model": s, "args": argparse.Namespace(lr=0.1)},
        "1 object of other kinds left out, none of their code was run: argparse.Namespace",
    ),
    "settings of two kinds": (
        lambda s: {"model": s, "args": argparse.Namespace(lr=0.1), "paths": [PurePosixPath("a"), PurePosixPath("b")]},
        r"3 objects of other kinds left out, .* was run: pathlib\S*\.PurePosixPath, argparse\.Namespace$",
    ),
    "an average of all beside a part": (
        lambda s: {"ema": s, "model": {"camera_head.token_norm.bias": torch.ones(128)}},
        "stand behind 'ema.'.* 1 tensors elsewhere .* not read, such as model.camera_head.token_norm.bias",
    ),
}


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize("name", WRAPPED)
def test_weights_are_found_behind_containers_and_wrappers_and_it_is_said(tmp_path: Path, name: str) -> None:
    wrap, words = WRAPPED[name]
    source, target = network(seed=1), network(seed=2)
    torch.save(wrap(dict(source.state_dict())), tmp_path / "x.ckpt")
    loaded = load_checkpoint(target, str(tmp_path / "x.ckpt"))
    assert same(source, target)
    assert re.search(words, " | ".join(loaded.notes)), loaded.notes


@pytest.mark.parametrize("words", ["ema", "model_average", "avg", "SWA", "teacher"])
def test_the_weights_come_before_their_average(tmp_path: Path, words: str) -> None:
    source, average, target = network(seed=1), network(seed=3), network(seed=2)
    torch.save({words: average.state_dict(), "net": source.state_dict()}, tmp_path / "x.pt")
    loaded = load_checkpoint(target, str(tmp_path / "x.pt"))
    assert same(source, target)
    assert f"as many weights stand behind '{words}.', which are not read" in loaded.notes


def test_a_key_beside_the_weights_that_nobody_knows_is_refused_behind_a_prefix_too(tmp_path: Path) -> None:
    torch.save({"model": {**network().state_dict(), "somebody.elses": torch.zeros(1)}}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"; 1 unknown: somebody\.elses\."):
        load_checkpoint(network(), str(tmp_path / "x.pt"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name_and_count(tmp_path: Path, value: float) -> None:
    state = dict(network().state_dict())
    state["camera_head.token_norm.bias"] = torch.full((128,), value)
    state["camera_head.trunk_norm.weight"] = (
        state["camera_head.trunk_norm.weight"].clone().index_fill(0, torch.tensor([3, 4]), value)
    )
    safetensors.torch.save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(network(), str(tmp_path / "x.safetensors"))
    assert (
        f"130 weights in 2 of {len(state)} tensors are NaN or infinite: camera_head.token_norm.bias (128 of 128), "
        "camera_head.trunk_norm.weight (2 of 128)" in str(caught.value)
    )


def test_what_float32_cannot_hold_is_not_finite(tmp_path: Path) -> None:
    state = {key: value.double() for key, value in network().state_dict().items()}
    state["camera_head.token_norm.bias"][5] = 1e300
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"1 weights in 1 of \d+ tensors are NaN or infinite"):
        load_checkpoint(network(), str(tmp_path / "x.pt"))


def test_a_checkpoint_in_parts_has_one_hash_over_its_files(tmp_path: Path) -> None:
    source, target = network(seed=1), network(seed=2)
    state = source.state_dict()
    files = {f"model-0000{part + 1}-of-00002.safetensors": list(state)[part::2] for part in (0, 1)}
    for name, keys in files.items():
        safetensors.torch.save_file({key: state[key] for key in keys}, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: name for name, keys in files.items() for key in keys}}))
    loaded = load_checkpoint(target, str(tmp_path))
    assert same(source, target)
    lines = "".join(f"{file_sha256(tmp_path / name)}  {name}\n" for name in sorted(files))
    assert loaded.sha256 == hashlib.sha256(lines.encode()).hexdigest() == checkpoint_sha256(index)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate")])
def test_too_little_memory_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    torch.save(network().state_dict(), tmp_path / "x.pt")

    def refuse(*_: object, **__: object) -> None:
        raise error

    target = network()
    monkeypatch.setattr(GeometricContextTransformer, "load_state_dict", refuse)
    with pytest.raises(DependencyError, match=r"x\.pt: this machine has too little memory to load it"):
        load_checkpoint(target, str(tmp_path / "x.pt"))


def test_what_is_no_lack_of_memory_is_not_called_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(network().state_dict(), tmp_path / "x.pt")

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("a fault of another kind")

    target = network()
    monkeypatch.setattr(GeometricContextTransformer, "load_state_dict", refuse)
    monkeypatch.setattr(GeometricContextTransformer, "to_empty", refuse)
    with pytest.raises(RuntimeError, match="a fault of another kind"):
        load_checkpoint(target, str(tmp_path / "x.pt"))
    with pytest.raises(RuntimeError, match="a fault of another kind"):
        empty_model(TINY, point_head=False)


def test_a_network_larger_than_the_memory_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**30))
    with pytest.raises(DependencyError, match=r"the network takes 4\.3 GiB, and this machine has 1\.0 GiB"):
        empty_model(CONFIGS["full"], point_head=False)
    with pytest.raises(DependencyError, match=r"the network takes 2\.6 GiB, and this machine has 1\.0 GiB"):
        built("full", precision="bfloat16")
    monkeypatch.undo()

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes")

    monkeypatch.setattr(GeometricContextTransformer, "to_empty", refuse)
    with pytest.raises(DependencyError, match="this machine refuses them to this process"):
        empty_model(TINY, point_head=False)


def built(config: Any, precision: str, checkpoint: str | None = None) -> GeometricContextTransformer:
    settings = {"checkpoint": checkpoint, "seed": 3, "point_head": False, "device": torch.device("cpu")}
    return build_model(config, precision=precision, **settings)[0]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_that_come_one_by_one_are_those_that_were_filled_cast_and_moved(tmp_path: Path, precision: str) -> None:
    """The network is made without memory; each weight comes in its own precision, and every constant is there."""
    whole = empty_model(CONFIGS["ci"], point_head=False)
    draw_untrained(whole, 3)
    torch.save(whole.state_dict(), tmp_path / "x.pt")
    ready(whole, torch.device("cpu"), precision)
    for found in (built("ci", precision), built("ci", precision, str(tmp_path / "x.pt"))):
        for (name, expected), tensor in zip(whole.state_dict().items(), found.state_dict().values(), strict=True):
            assert (tensor.dtype, tensor.stride()) == (expected.dtype, expected.stride()), name
            assert torch.equal(tensor, expected), name
        assert [torch.equal(*pair) for pair in zip(whole.buffers(), found.buffers(), strict=True)] == [True, True]
        assert not any(parameter.requires_grad for parameter in found.parameters())
        assert found.tf32_heads is whole.tf32_heads is (precision != "float32")
        assert not found.training


def test_a_network_keeps_its_weights_when_the_file_changes(tmp_path: Path) -> None:
    source, target = network(seed=1), network(seed=2)
    path = tmp_path / "x.pt"
    torch.save(source.state_dict(), path)
    load_checkpoint(target, str(path))
    with path.open("r+b") as stream:
        stream.write(bytes(path.stat().st_size))
    assert same(source, target)


class Cache:
    """The user's cache, and how often a file was read for its hash."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file, self.reads, self._digest = folder / "x.bin", 0, hashlib.file_digest
        self.file.write_bytes(b"a" * 1000)
        os.utime(self.file, ns=(0, 0))
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        monkeypatch.setattr(weights, "_REMEMBERED_FROM", 1000)
        monkeypatch.setattr(weights, "_SETTLED_NS", -1)
        monkeypatch.setattr(hashlib, "file_digest", self._counted)

    def _counted(self, *arguments: Any) -> Any:
        self.reads += 1
        return self._digest(*arguments)

    def hash_of_new_process(self) -> str:
        weights._sha256.cache_clear()
        return file_sha256(self.file)

    @property
    def entry(self) -> Path:
        (found,) = self.file.parent.glob("cache/lingbot-eval/hashes/*.json")
        return found


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    return Cache(tmp_path, monkeypatch)


def test_the_hash_of_a_large_file_is_remembered_until_the_file_changes(cache: Cache) -> None:
    first = cache.hash_of_new_process()
    assert (cache.hash_of_new_process(), cache.reads) == (first, 1)
    # Another content of the same size, and the old time put back.
    cache.file.write_bytes(b"b" * 1000)
    os.utime(cache.file, ns=(0, 0))
    assert cache.hash_of_new_process() == hashlib.sha256(b"b" * 1000).hexdigest()
    assert cache.reads == 2


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"sha256": "0"}', b"\xff"])
def test_a_damaged_memory_of_a_hash_is_no_answer(cache: Cache, content: bytes) -> None:
    first = cache.hash_of_new_process()
    cache.entry.write_bytes(content)
    assert (cache.hash_of_new_process(), cache.reads) == (first, 2)


def test_a_hash_that_was_cut_short_is_no_answer(cache: Cache) -> None:
    first = cache.hash_of_new_process()
    kept = json.loads(cache.entry.read_text())
    assert kept["sha256"] == first
    cache.entry.write_text(json.dumps(kept | {"sha256": first[:63]}))
    assert (cache.hash_of_new_process(), cache.reads) == (first, 2)
    # And what was remembered of a file of another name is none of this one's.
    cache.entry.write_text(json.dumps(kept | {"path": "/another/x.bin", "sha256": "0" * 64}))
    assert (cache.hash_of_new_process(), cache.reads) == (first, 3)


def test_the_hash_of_a_small_file_is_not_remembered(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_REMEMBERED_FROM", 1001)
    assert cache.hash_of_new_process() == cache.hash_of_new_process()
    assert cache.reads == 2
    assert not list(cache.file.parent.glob("cache/**/*.json"))


def test_a_file_that_changes_as_it_is_read_is_not_remembered(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def growing(*arguments: Any) -> Any:
        found = hashlib.sha256(b"whatever was there")
        with cache.file.open("ab") as stream:
            stream.write(b"more")
        return found

    monkeypatch.setattr(hashlib, "file_digest", growing)
    cache.hash_of_new_process()
    assert not list(cache.file.parent.glob("cache/**/*.json"))


def test_a_file_that_was_written_just_now_is_not_remembered(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could be written again within the grain of the clock that its times are of."""
    monkeypatch.setattr(weights, "_SETTLED_NS", 2_000_000_000)
    cache.hash_of_new_process()
    cache.hash_of_new_process()
    assert cache.reads == 2


class Hub:
    """Stands in for the hub: files by (repository, revision, name), and what was asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, str, str | None]] = []

    def fetch(self, repository: str, name: str, *, repo_type: None = None, revision: str | None = None) -> str:
        self.asked.append((repository, name, revision))
        if not (self.folder / name).is_file():
            raise ConnectionError("Cannot reach the hub.\nPlease check your connection.")
        return str(self.folder / name)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    module = pytest.importorskip("huggingface_hub")
    found = Hub(tmp_path)
    monkeypatch.setattr(module, "hf_hub_download", found.fetch)
    return found


REVISION = "204754b72bb24f561f8d7e7e1e4e4cd9e809adf9"


@pytest.mark.parametrize("name", ["lingbot-map", "lingbot-map-long"])
def test_a_public_name_means_one_file_of_one_revision(hub: Hub, name: str) -> None:
    (hub.folder / f"{name}.pt").write_bytes(b"another file")
    with pytest.raises(CheckpointError, match=f"{name}: expected .*; remove that file and fetch it again"):
        resolve_checkpoint(name)
    assert hub.asked == [("robbyant/lingbot-map", f"{name}.pt", REVISION)]


def test_a_public_file_is_taken_when_size_and_hash_are_right(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"the published weights"
    (hub.folder / "lingbot-map.pt").write_bytes(content)
    right = replace(PUBLIC["lingbot-map"], size=len(content), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(PUBLIC, "lingbot-map", right)
    assert resolve_checkpoint("lingbot-map").read_bytes() == content
    for size in (20, 22):
        monkeypatch.setitem(PUBLIC, "lingbot-map", replace(right, size=size))
        says = rf"expected the {size} bytes of hf://robbyant/lingbot-map@\w+/.* found 21 in"
        with pytest.raises(CheckpointError, match=says):
            resolve_checkpoint("lingbot-map")
    monkeypatch.setitem(PUBLIC, "lingbot-map", replace(right, sha256="0" * 64))
    with pytest.raises(CheckpointError, match=r"expected SHA-256 0{64} of .*, found [0-9a-f]{64} in"):
        resolve_checkpoint("lingbot-map")


def test_a_sky_model_is_fetched_and_checked_alike(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"the published sky"
    (hub.folder / "skyseg.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match="skyseg: expected the 175,997,079 bytes"):
        lingbot_eval.fetch("skyseg")
    right = replace(PUBLIC["skyseg"], size=len(content), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(PUBLIC, "skyseg", right)
    assert lingbot_eval.fetch("skyseg").read_bytes() == content
    assert hub.asked[-1][:2] == ("JianyuanWang/skyseg", "skyseg.onnx")
    with pytest.raises(ConfigError, match=r"'skysegg' is published \(did you mean 'skyseg'\?\)"):
        lingbot_eval.fetch("skysegg")


def test_the_hub_out_of_reach_is_one_line(hub: Hub) -> None:
    for name in ("lingbot-map-long", "hf://owner/repo/w.pt"):
        with pytest.raises(
            CheckpointError, match=r"could not be fetched from the hub \(Cannot reach the hub\.\)"
        ) as met:
            resolve_checkpoint(name)
        assert "\n" not in str(met.value)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_revision_in_the_address_and_the_files_of_an_index_are_fetched(hub: Hub, suffix: str) -> None:
    index, part = f"m.{suffix}.index.json", f"p1.{suffix}"
    (hub.folder / index).write_text(json.dumps({"weight_map": {"a": part}}))
    (hub.folder / part).write_bytes(b"x")
    assert resolve_checkpoint(f"hf://owner/repo@v2/{index}") == hub.folder / index
    assert hub.asked == [("owner/repo", index, "v2"), ("owner/repo", part, "v2")]


def test_the_published_checkpoints_are_as_the_protocol_pins_them() -> None:
    long = PUBLIC["lingbot-map-long"]
    assert (long.size, long.config) == (4_632_303_465, "full")
    assert long.sha256.startswith("832bc82cbae0")
    assert PUBLIC["lingbot-map"].sha256.startswith("ee665103348e")
    assert long.address == f"hf://robbyant/lingbot-map@{REVISION}/lingbot-map-long.pt"


@pytest.mark.parametrize("name", SAVERS)
@pytest.mark.parametrize("kept", [0.3, 0.97])
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


SETTINGS = argparse.Namespace(lr=0.1)


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"a": 3}, torch.zeros(2), [3], "text", {"args": SETTINGS}])
def test_something_else_in_a_pt_file(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "odd.pt")
    beside = "; 1 object of other kinds left out, none of their code was run: argparse.Namespace"
    settings = isinstance(content, dict) and "args" in content
    ends = f"found none{beside if settings else ''}$"
    with pytest.raises(CheckpointError, match=f"expected a state dict of tensors, {ends}"):
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


def test_a_link_that_leads_nowhere_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "map.pt").symlink_to("blobs/1a2b")
    with pytest.raises(CheckpointError, match=r"map\.pt is a link to blobs/1a2b, which does not exist; mend it"):
        resolve_checkpoint(str(tmp_path / "map.pt"))


def test_an_index_whose_files_are_not_there_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    index = tmp_path / "x.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    (tmp_path / "1.safetensors").touch()
    for path in (index, tmp_path):
        with pytest.raises(CheckpointError, match=r"1 of its 2 files are not beside it: 2\.safetensors"):
            resolve_checkpoint(str(path))


def test_a_mistyped_file_is_told_from_those_beside_it(tmp_path: Path) -> None:
    for name in ("weights.pt", "weigths.txt"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint(str(tmp_path / "weigths.pt"))
    assert f"no such checkpoint file (did you mean '{tmp_path / 'weights.pt'}'?); give a file" in str(caught.value)


def test_paths_and_addresses() -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        resolve_checkpoint("nowhere.pt")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        resolve_checkpoint("~nobody-of-this-name/x.pt")
    with pytest.raises(
        CheckpointError, match=r"lingbot_map: .*\(did you mean 'lingbot-map'\?\).*one of shipped, lingbot-map"
    ):
        resolve_checkpoint("lingbot_map")
    with pytest.raises(CheckpointError, match="hf://owner/repo/file"):
        resolve_checkpoint("hf://owner/repo")


def test_a_seed_is_the_same_network_everywhere() -> None:
    assert same(network(seed=5), network(seed=5))
    assert not same(network(seed=5), network(seed=6))
    # Independent of what else is in the network, and of torch's own generator.
    torch.manual_seed(99)
    assert same(network(seed=5, point_head=True), network(seed=5))


def test_untrained_weights_are_drawn_by_what_they_are_for() -> None:
    """Norms do nothing, residual branches little; a product keeps the size of what comes in."""
    drawn = network().state_dict()
    for name, value in drawn.items():
        if name.endswith((".gamma", ".bias")) or (name.endswith(".weight") and value.ndim == 1):
            constant = 0.1 if name.endswith(".gamma") else float(name.endswith(".weight"))
            assert torch.equal(value, torch.full_like(value, constant)), name
    for name, spread in (
        ("camera_head.embed_pose.weight", 1 / 3),  # of nine numbers
        ("aggregator.patch_embed.patch_embed.proj.weight", 1 / 588**0.5),  # of 14 by 14 pixels in three colours
        ("aggregator.patch_embed.pos_embed", 0.02),
    ):
        assert float(drawn[name].std()) == pytest.approx(spread, rel=0.1), name
        assert float(drawn[name].mean()) == pytest.approx(0, abs=0.2 * spread), name


@pytest.mark.parametrize(("name", "millions"), [("full", 1157.94), ("mini", 33.27)])
def test_parameter_counts(name: Any, millions: float) -> None:
    with torch.device("meta"):
        model = GeometricContextTransformer(CONFIGS[name])
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_the_shipped_weights_are_there_and_fit() -> None:
    model = empty_model(CONFIGS["ci"], point_head=False)
    source = load_checkpoint(model, "shipped")
    assert source.trained
    assert source.name == "shipped", "as it was asked for"
    with pytest.raises(CheckpointError, match=r"of this configuration; \d+ missing: point_head\."):
        check_checkpoint("ci", shipped_weights(), point_head=True)
    check_checkpoint("ci", shipped_weights(), point_head=False)
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    assert shipped_weights().stat().st_size < 30e6


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("shipped", {"config": "full"}),
        ("shipped", {"config": "ci", "point_head": True}),
        ("lingbot-map", {"config": "mini"}),
        ("lingbot-map-long", {"point_head": True}),
    ],
)
def test_weights_of_another_network_are_refused_with_a_way_out(name: str, other: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="null for untrained"):
        ModelSettings(checkpoint=name, **other)
    assert ModelSettings(checkpoint="lingbot-map").config == "full"
