"""Checkpoint files: tensors out of every form, nothing run, and one line for what is no checkpoint."""

from __future__ import annotations

import argparse
import builtins
import bz2
import collections
import functools
import importlib
import json
import lzma
import operator
import os
import pathlib
import pickle
import random
import runpy
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from lingbot_eval.errors import CheckpointError
from lingbot_eval.model.checkpoint_files import Content, read_content, read_shards

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(2.5)}


class Runs:
    """What a hostile file holds: unpickled by Python it calls ``function``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.made_by = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.made_by


class Setting:
    """Somebody's settings with a state that Python would hand to ``__setstate__``."""

    def __init__(self) -> None:
        self.rate = 0.1

    def __setstate__(self, state: object) -> None:
        raise AssertionError("a class of the file was looked up and its state set")


class Sorted(dict[str, Any]):
    """A dictionary of somebody's own."""


def archive(path: Path, pickled: bytes, storages: dict[str, bytes] | None = None, **extra: bytes) -> Path:
    """A file as torch.save writes it, with this pickle in it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in ({f"data/{key}": value for key, value in (storages or {}).items()} | extra).items():
            file.writestr(f"archive/{name}", content)
    return path


def values(content: Content) -> dict[str, torch.Tensor]:
    return {name: load() for name, load in content.tensors.items()}


def is_weights(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == WEIGHTS.keys() and all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


def refusal(path: Path) -> str:
    """The one line that a file is refused with, at reading or at the first use of a tensor."""
    with pytest.raises(CheckpointError) as caught:
        values(read_shards(path))
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text or path.parent.name in text
    return text


BESIDE: dict[str, tuple[Any, dict[str, int]]] = {
    "settings": ({"args": argparse.Namespace(rate=0.1), "epoch": 3}, {"argparse.Namespace": 1}),
    "a class with a state": ({"cfg": [Setting(), Setting()]}, {f"{__name__}.Setting": 2}),
    "a path": ({"path": pathlib.PurePosixPath("/tmp")}, {"pathlib.PurePosixPath": 1}),
    "a mention": ({"class": Setting, "function": os.getcwd}, {f"{__name__}.Setting": 1, "posix.getcwd": 1}),
    "a number of numpy": ({"best": np.float64(0.3)}, {"numpy._core.multiarray.scalar": 1, "numpy.dtype": 1}),
    "a dictionary of its own": ({"log": Sorted(a=1)}, {f"{__name__}.Sorted": 1}),
    "plain values": (
        {
            "sizes": torch.Size([2, 3]),
            "dtype": torch.float16,
            "set": {1, 2},
            "bytes": b"ab",
            "complex": 3j,
            "default": collections.defaultdict(list, {"a": [1]}),
            "counted": collections.Counter("aab"),
            "device": torch.device("cpu"),
            "layout": torch.strided,
            "frozen": frozenset({1}),
            "range": range(3),
            "types": (collections.defaultdict(int, {"a": 1}), str, list),
            "big": 2**80,
            "nothing": None,
            3: "a number as a key",
            (1, 2): "a tuple as a key",
        },
        {},
    ),
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("form", ["zip", "legacy", "protocol 5", "legacy in protocol 4"])
def test_tensors_are_taken_whatever_lies_beside_them(tmp_path: Path, name: str, form: str) -> None:
    beside, left_out = BESIDE[name]
    content = {"model": collections.OrderedDict(WEIGHTS), **beside}
    options: dict[str, Any] = {
        "zip": {},
        "legacy": {"_use_new_zipfile_serialization": False},
        "protocol 5": {"pickle_protocol": 5},
        "legacy in protocol 4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
    }
    torch.save(content, tmp_path / "x.ckpt", **options[form])
    found = read_content(tmp_path / "x.ckpt")
    assert is_weights({name.removeprefix("model."): value for name, value in values(found).items()})
    assert found.left_out == left_out


class InPairs:
    """Weights as an ordered dictionary of Python 2 was written, and as others write one: made of pairs."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return collections.OrderedDict, ([self.kind(pair) for pair in WEIGHTS.items()],)


@pytest.mark.parametrize("kind", [list, tuple])
def test_an_ordered_dictionary_may_be_made_of_pairs(tmp_path: Path, kind: type) -> None:
    torch.save(InPairs(kind), tmp_path / "x.ckpt")
    assert is_weights(values(read_content(tmp_path / "x.ckpt")))


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_of_every_kind_are_read_as_torch_reads_them(tmp_path: Path, legacy: bool) -> None:
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    content = {
        **{
            str(kind): (10 * base).abs().to(kind)
            for kind in (
                *(torch.float16, torch.bfloat16, torch.float64, torch.complex128, torch.bool),
                *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
            )
        },
        **{
            f"late {kind}": (10 * base).abs().to(kind)
            for kind in (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64)
        },
        "transposed": base.t(),
        "a part": base[1:3, 2:5],
        "shared": base,
        "expanded": torch.ones(1).expand(5),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(4.0),
        "parameter": torch.nn.Parameter(base.clone()),
        "complex": torch.complex(base, base),
    }
    if legacy:
        # Those came later than the format.
        content = {name: tensor for name, tensor in content.items() if not name.startswith("late ")}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    expected, found = torch.load(tmp_path / "x.pt", weights_only=True), values(read_content(tmp_path / "x.pt"))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert torch.equal(found[name].to(torch.complex128), tensor.to(torch.complex128)), name


def test_safetensors_of_every_kind_are_read_as_their_library_reads_them(tmp_path: Path) -> None:
    base = torch.randint(0, 100, (3, 4), generator=torch.Generator().manual_seed(1))
    kinds = (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
    safetensors.torch.save_file({str(kind): base.to(kind) for kind in kinds}, tmp_path / "x.safetensors")
    expected, found = safetensors.torch.load_file(tmp_path / "x.safetensors"), read_content(tmp_path / "x.safetensors")
    assert found.tensors.keys() == expected.keys()
    for name, tensor in values(found).items():
        assert str(tensor.dtype) == name
        assert torch.equal(tensor.double(), expected[name].double()), name


def test_types_that_no_weight_has_and_words_beside_the_weights_hide_none(tmp_path: Path) -> None:
    state = WEIGHTS | {"counts": torch.zeros(3, dtype=torch.uint16)}
    safetensors.torch.save_file(state, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = read_content(tmp_path / "x.safetensors").tensors
    assert found.keys() == state.keys()
    assert not found.pop("counts").floating
    assert is_weights({name: load() for name, load in found.items()})


def test_tensors_in_lists_go_by_their_number_and_the_first_of_a_name_counts(tmp_path: Path) -> None:
    content = {"a": {"b": torch.ones(1)}, "a.b": torch.zeros(1), "layers": [torch.ones(2), (torch.ones(3),)]}
    torch.save(content, tmp_path / "x.pt")
    found = values(read_content(tmp_path / "x.pt"))
    assert {name: len(tensor) for name, tensor in found.items()} == {"a.b": 1, "layers.0": 2, "layers.1.0": 3}
    assert found["a.b"].tolist() == [0], "nearer to the top"


def test_a_pickle_of_more_names_than_a_byte_counts_is_read(tmp_path: Path) -> None:
    """What comes again is named by its number, which takes four bytes from the 256th thing on."""
    content = {f"layer {index}": {"weight": torch.full((2,), float(index))} for index in range(100)}
    content["shared"] = dict(content["layer 99"])
    torch.save(content, tmp_path / "x.pt")
    found = values(read_content(tmp_path / "x.pt"))
    assert found.pop("shared.weight").tolist() == [99, 99]
    assert len(found) == 100
    assert all(found[f"layer {index}.weight"].tolist() == [index, index] for index in range(100))


def test_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    """Not copies: a checkpoint of gigabytes must fit beside the network that it fills."""
    torch.save({"a": torch.zeros(1 << 20), "b": torch.zeros(1 << 20)}, tmp_path / "x.pt")
    content = read_content(tmp_path / "x.pt")
    loads = [content.tensors["a"] for _ in range(2)]
    assert loads[0]().data_ptr() == loads[1]().data_ptr()


@pytest.mark.parametrize("save", [torch.save, safetensors.torch.save_file])
def test_the_memory_of_a_tensor_can_be_let_go_of(tmp_path: Path, save: Callable[..., object]) -> None:
    """A checkpoint of gigabytes goes to a GPU through a few megabytes; what is read again is the same."""
    there = {"a": torch.rand(1 << 21), "b": torch.rand(1 << 21)}
    save(there, tmp_path / "x.pt")
    loads = read_content(tmp_path / "x.pt").tensors

    def of_files() -> int:
        return next(
            int(line.split()[1])
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("RssFile:")
        )

    begin = of_files()
    tensor = loads["a"]()
    assert torch.equal(tensor, there["a"])
    assert of_files() - begin >= 4_000
    loads["a"].forget()
    assert of_files() - begin < 1_000
    assert torch.equal(tensor, there["a"])
    assert torch.equal(loads["b"](), there["b"])


GADGETS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "os.system": (os.system, ("touch {proof}",)),
    "popen": (subprocess.Popen, (["touch", "{proof}"],)),
    "eval": (builtins.eval, ("open('{proof}', 'w')",)),
    "exec": (builtins.exec, ("open('{proof}', 'w')",)),
    "open": (builtins.open, ("{proof}", "w")),
    "getattr": (builtins.getattr, (Runs(importlib.import_module, "os"), "system")),
    "import": (importlib.import_module, ("planted_module",)),
    "__import__": (builtins.__import__, ("planted_module",)),
    "partial": (functools.partial, (os.system, "touch {proof}")),
    "a call of a call": (operator.methodcaller("system", "touch {proof}"), (Runs(importlib.import_module, "os"),)),
    "runpy": (runpy.run_path, ("{planted}",)),
    "torch.load": (torch.load, ("{inner}",)),
    "torch.jit": (torch.jit.load, ("{inner}",)),
    "torch.hub": (torch.hub.load, ("{folder}", "x")),
    "torch bytes": (torch.storage._load_from_bytes, (b"",)),
    "mkdir": (pathlib.Path.mkdir, (pathlib.PurePosixPath("{proof}"),)),
}


def filled(value: Any, words: dict[str, str]) -> Any:
    if isinstance(value, str):
        return value.format(**words) if "{" in value else value
    if isinstance(value, list | tuple):
        return type(value)(filled(item, words) for item in value)
    return value


@pytest.mark.parametrize("name", GADGETS)
def test_planted_code_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    proof, planted = tmp_path / "proof", tmp_path / "planted_module.py"
    planted.write_text(f"open({str(proof)!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    inner = tmp_path / "inner.pt"
    inner.write_bytes(pickle.dumps(Runs(os.system, f"touch {proof}")))
    function, arguments = GADGETS[name]
    words = {"proof": str(proof), "planted": str(planted), "inner": str(inner), "folder": str(tmp_path)}
    evil = Runs(function, *filled(arguments, words))
    places: dict[str, Any] = {
        "beside": {"model": WEIGHTS, "other": evil},
        "as a tensor": {"model": WEIGHTS | {"evil": evil}},
        "as the key": {"model": WEIGHTS, evil: 1},
        "in the rebuilding": {"model": WEIGHTS, "other": Runs(torch._utils._rebuild_tensor_v2, evil, 0, (1,), (1,))},
        "alone": evil,
    }
    for place, content in places.items():
        torch.save(content, tmp_path / "evil.pt")
        found = read_content(tmp_path / "evil.pt")
        assert not proof.exists(), place
        assert "planted_module" not in sys.modules, place
        assert found.left_out, place
        taken = {key.removeprefix("model."): value for key, value in values(found).items()}
        assert place == "alone" or is_weights(taken), place


def test_the_gadgets_would_run_if_python_read_them(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    pickle.loads(pickle.dumps(Runs(os.system, f"touch {proof}")))
    assert proof.exists()


SYSTEM = b"cposix\nsystem\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
TOUCH = b"(X\x05\x00\x00\x00falset"  # ("false",), a command that does nothing
OPCODES: dict[str, bytes] = {
    "a state with slots on a function": b"\x80\x02" + REBUILD + b"}}(X\x0c\x00\x00\x00__defaults__)u\x86b.",
    "a state on a class": b"\x80\x02ccollections\nOrderedDict\n}(X\x01\x00\x00\x00xK\x01ub.",
    "a state on a state": b"\x80\x02" + SYSTEM + TOUCH + b"R}b}b.",
    "a call of what a call gave": b"\x80\x02" + SYSTEM + TOUCH + b"R" + TOUCH + b"R" + TOUCH + b"R.",
    "inst": b"(X\x05\x00\x00\x00falseiposix\nsystem\n.",
    "obj": b"(" + SYSTEM + b"X\x05\x00\x00\x00falseo.",
    "new object with keywords": b"\x80\x04" + SYSTEM + b")}\x92.",
    "a dotted name": b"\x80\x04\x8c\x05torch\x8c\x10_utils.os.system\x93" + TOUCH + b"R.",
    "an extension": b"\x80\x02\x82\x01" + TOUCH + b"R.",
    "as Python 2 made objects": b"ccopy_reg\n_reconstructor\n(" + SYSTEM + SYSTEM + b"NtR.",
    "a memo overwritten": b"\x80\x02" + REBUILD + b"q\x000" + SYSTEM + b"q\x000h\x00" + TOUCH + b"R.",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "a dictionary in itself": b"\x80\x02}q\x00X\x01\x00\x00\x00xh\x00s.",
    "buffers of protocol 5": b"\x80\x05\x97\x98.",
    "a bytearray": b"\x80\x05\x96\x03\x00\x00\x00\x00\x00\x00\x00abc.",
    "a text reference": b"Pposix.system\n.",
    "a reference that is none": b"\x80\x02(X\x05\x00\x00\x00falsetQ.",
    "a storage of a made-up type": b"\x80\x02(X\x07\x00\x00\x00storage" + SYSTEM + b"X\x01\x00\x00\x000NK\x01tQ.",
    "a key deep enough to overrun the stack": b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s.",
    "tuples that double": b"\x80\x02)" + b"q\x00h\x00\x86" * 200 + b".",
}


def tensor_of(rebuild: bytes, described: bytes = b"K\x00K\x02\x85K\x01\x85") -> bytes:
    """A pickle of one tensor over storage 0, rebuilt by these opcodes around its storage, offset, size and stride."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ"
    return b"\x80\x02}X\x01\x00\x00\x00w" + rebuild.replace(b"TENSOR", storage + described) + b"s."


REBUILT = {
    "as torch 0.1 wrote it": b"ctorch._utils\n_rebuild_tensor\n(TENSORtR",
    "as of now": REBUILD + b"(TENSOR\x89}tR",
    "behind a mark that was taken back": b"(0" + REBUILD + b"(TENSOR\x89}tR",
    "behind a value that was taken back": b"K\x070" + REBUILD + b"(TENSOR\x89}tR",
    "and named again in text": REBUILD + b"(TENSOR\x89}tRp5\nsX\x01\x00\x00\x00wg5\n",
    "a parameter": b"ctorch._utils\n_rebuild_parameter\n(" + REBUILD + b"(TENSOR\x89}tR\x88}tR",
    "a parameter with a state": b"ctorch._utils\n_rebuild_parameter_with_state\n("
    + REBUILD
    + b"(TENSOR\x89}tR\x88}}tR",
    "with attributes of its own": b"ctorch._tensor\n_rebuild_from_type_v2\n("
    + REBUILD
    + b"ctorch\nTensor\n(TENSOR\x89}t}tR",
}


@pytest.mark.parametrize("name", REBUILT)
def test_tensors_are_read_however_torch_wrote_them(tmp_path: Path, name: str) -> None:
    content = read_content(archive(tmp_path / "x.pt", tensor_of(REBUILT[name]), {"0": struct.pack("<2f", 3, 4)}))
    assert {key: tensor.tolist() for key, tensor in values(content).items()} == {"w": [3, 4]}
    assert not content.left_out


@pytest.mark.parametrize("module", ["torch", "torch.cuda", "torch.storage"])
def test_a_storage_goes_by_its_name_wherever_torch_kept_it(tmp_path: Path, module: str) -> None:
    """Old torch had those of a GPU in a module of their own."""
    pickled = tensor_of(REBUILT["as of now"]).replace(b"ctorch\nFloat", b"c" + module.encode() + b"\nFloat")
    content = read_content(archive(tmp_path / "x.pt", pickled, {"0": struct.pack("<2f", 3, 4)}))
    assert values(content)["w"].tolist() == [3, 4]
    assert not content.left_out


def test_a_module_that_was_stored_whole_gives_its_tensors(tmp_path: Path) -> None:
    """As torch 0.3 wrote it: with its source beside it, which is not run."""
    inner = tensor_of(REBUILT["as of now"]).removeprefix(b"\x80\x02").removesuffix(b".")
    module = b"\x80\x02(X\x06\x00\x00\x00module" + inner + b"X\x04\x00\x00\x00a.pyX\x04\x00\x00\x00codetQ."
    content = read_content(archive(tmp_path / "x.pt", module, {"0": struct.pack("<2f", 3, 4)}))
    assert values(content)["w"].tolist() == [3, 4]


NAMED: dict[str, dict[str, int]] = {
    **{name: {"posix.system": 1} for name in ("a state on a state", "inst", "obj", "new object with keywords")},
    **{name: {"posix.system": 1} for name in ("a memo overwritten", "as Python 2 made objects")},
    **{name: {"a persistent reference": 1} for name in ("a text reference", "a reference that is none")},
    "a call of what a call gave": {"posix.system": 3},
    "a dotted name": {"torch._utils.os.system": 1},
    "an extension": {"copyreg.extension 1": 1},
    "buffers of protocol 5": {"pickle.PickleBuffer": 1},
    "a storage of a made-up type": {"posix.system": 1, "a persistent reference": 1},
}


@pytest.mark.parametrize("name", OPCODES)
def test_opcodes_that_a_hostile_file_may_hold(tmp_path: Path, name: str) -> None:
    defaults = torch._utils._rebuild_tensor_v2.__defaults__
    content = read_content(archive(tmp_path / "x.pt", OPCODES[name]))
    assert not values(content)
    assert content.left_out == NAMED.get(name, {})
    assert torch._utils._rebuild_tensor_v2.__defaults__ == defaults
    assert not hasattr(collections.OrderedDict, "x")


CLAIMS: dict[str, bytes] = {
    "bytes": b"\x80\x05\x8e" + struct.pack("<Q", 2**40) + b"abc.",
    "text": b"\x80\x05\x8d" + struct.pack("<Q", 2**62) + b"abc.",
    "more than can be": b"\x80\x05\x8e" + struct.pack("<Q", 2**64 - 1) + b"abc.",
    "a long": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"abc.",
    "a negative long": b"\x80\x02\x8b" + struct.pack("<i", -5) + b"abc.",
    "decimals": b"L" + b"9" * 100_000 + b"L\n.",
    "nothing to take": b"\x80\x02R.",
    "no mark": b"\x80\x02t.",
    "no memo": b"\x80\x02h\x07.",
    "no end": b"\x80\x02}",
    "an opcode of another time": b"\x80\x02\xff.",
    "half a pair": b"\x80\x02}(X\x01\x00\x00\x00au.",
    "nothing": b"",
}


@pytest.mark.parametrize("name", CLAIMS)
def test_pickles_that_promise_more_than_there_is(tmp_path: Path, name: str) -> None:
    assert "damaged or truncated" in refusal(archive(tmp_path / "x.pt", CLAIMS[name]))


def test_a_memo_number_costs_no_memory(tmp_path: Path) -> None:
    """Python's own unpickler makes a table of that many entries."""
    assert not values(read_content(archive(tmp_path / "x.pt", b"\x80\x02}r\xff\xff\xff\xff.")))


def tensor_pickle(offset: int, size: tuple[int, ...], stride: tuple[int, ...], count: int) -> bytes:
    """A pickle of one float tensor over storage 0, whatever it says of its size."""

    class Reference(pickle.Pickler):
        def persistent_id(self, thing: object) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", count) if thing is reference else None

    import io

    reference = object()
    stream = io.BytesIO()
    hooks: dict[str, Any] = {}
    rebuilt = Runs(torch._utils._rebuild_tensor_v2, reference, offset, size, stride, False, hooks)
    Reference(stream, protocol=2).dump({"w": rebuilt})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("offset", "size", "stride", "count"),
    [
        (0, (5,), (1,), 4),
        (1, (4,), (1,), 4),
        (0, (2, 2), (3, 1), 4),
        (0, (4,), (1,), 2**40),
        (0, (4,), (1,), 5),
        (0, (2**61,), (1,), 4),
        (0, (2**70,), (0,), 4),
        (0, (-1,), (1,), 4),
        (-1, (1,), (1,), 4),
        (0, (1,), (-1,), 4),
        (0, (2**40, 2**40), (0, 0), 4),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(
    tmp_path: Path, offset: int, size: tuple[int, ...], stride: tuple[int, ...], count: int
) -> None:
    pickled = tensor_pickle(offset, size, stride, count)
    assert "damaged" in refusal(archive(tmp_path / "x.pt", pickled, {"0": b"\0" * 16}))


def test_a_tensor_within_its_storage_is_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pt", tensor_pickle(1, (3,), (1,), 4), {"0": struct.pack("<4f", 1, 2, 3, 4)})
    assert values(read_content(path))["w"].tolist() == [2, 3, 4]


def test_a_storage_that_is_not_there(tmp_path: Path) -> None:
    assert "it lacks archive/data/0" in refusal(archive(tmp_path / "x.pt", tensor_pickle(0, (4,), (1,), 4)))


def test_a_flipped_byte_among_the_weights_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"w": torch.arange(100.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(100.0).numpy().tobytes()) + 40] ^= 1
    path.write_bytes(content)
    assert "the checksum of x/data/0 is another" in refusal(path)


def test_a_file_written_without_checksums_is_read(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(WEIGHTS, tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    assert is_weights(values(read_content(tmp_path / "x.pt")))


FOREIGN: dict[str, tuple[bytes, str]] = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4630000000\n", "a Git LFS pointer"),
    "annex": (b"/annex/objects/SHA256E-s3--x.pt\n", "a git-annex pointer"),
    "html": (b"\xef\xbb\xbf\n<!DOCTYPE html><html><head><title>Log in</title>", "a web page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "a web page"),
    "json": (b'{"error": "Repository not found"}', 'JSON text .*"Repository not found"'),
    "text": (b"Not Found", "text: Not Found"),
    "empty": (b"", "is empty"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(40), r"compressed \(gzip\); unpack it"),
    "bzip2": (bz2.compress(b"weights"), r"compressed \(bzip2\); unpack it"),
    "xz": (lzma.compress(b"weights"), r"compressed \(xz\); unpack it"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x00" + bytes(40), r"compressed \(zstd\); unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(40), "a 7z archive; unpack it"),
    "rar": (b"Rar!\x1a\x07\x01\x00" + bytes(40), "a RAR archive; unpack it"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "an HDF5 file; convert it"),
    "numpy": (b"\x93NUMPY\x01\x00" + bytes(40), "a NumPy array; convert it"),
    "jpeg": (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(40), "a picture"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
    "json list": (b'\n ["no", "weights"]', r'JSON text .*\["no", "weights"\]'),
    "tar": (b"a.pt" + bytes(253) + b"ustar\x0000" + bytes(300), "a tar archive"),
    "gguf": (b"GGUF\x03\0\0\0" + bytes(40), "a GGUF file"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(40), "a picture"),
    "zeros": (bytes(1000), "not a checkpoint"),
    "noise": (bytes(range(256)) * 4, "not a checkpoint"),
    "pickle": (pickle.dumps({"a": 1}), "a pickle that torch.save did not write"),
    "hostile pickle": (pickle.dumps(Runs(os.system, "false")), "a pickle that torch.save did not write; none of it"),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path: Path, name: str, suffix: str) -> None:
    content, words = FOREIGN[name]
    (tmp_path / f"x{suffix}").write_bytes(content)
    import re

    assert re.search(words, refusal(tmp_path / f"x{suffix}"))


def test_other_archives_are_called_what_they_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    assert "a NumPy archive" in refusal(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "release.zip", "w") as file:
        file.writestr("readme.txt", "x")
        file.writestr("weights/model.pt", "x")
    assert "unpack it and give weights/model.pt" in refusal(tmp_path / "release.zip")
    zipfile.ZipFile(tmp_path / "hollow.zip", "w").close()
    assert refusal(tmp_path / "hollow.zip").endswith("not a checkpoint but a zip archive of 0 other files")
    with zipfile.ZipFile(tmp_path / "letter.zip", "w") as file:
        file.writestr("readme.txt", "x")
    assert "a zip archive of 1 other files (readme.txt …)" in refusal(tmp_path / "letter.zip")
    assert refusal(tmp_path / "nowhere.pt").endswith("expected a file, found none")
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as file:
        for name in ("program/data.pkl", "program/constants.pkl", "program/code/__torch__.py"):
            file.writestr(name, b"\x80\x02}.")
    assert "a TorchScript program" in refusal(tmp_path / "program.pt")
    with zipfile.ZipFile(tmp_path / "two.pt", "w") as file:
        for name in ("data.pkl", "second/data.pkl"):
            file.writestr(name, b"\x80\x02}.")
    assert "not a checkpoint but a zip archive of 2 other files" in refusal(tmp_path / "two.pt")
    with zipfile.ZipFile(tmp_path / "again.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\x02}.")
    assert "is compressed" in refusal(tmp_path / "again.pt")
    assert "other byte order" in refusal(archive(tmp_path / "big.pt", b"\x80\x02}.", byteorder=b"big"))
    assert "expected a file, found something else" in refusal_of_pipe(tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("order", ["little", "big"])
def test_numbers_of_the_other_byte_order_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, legacy: bool
) -> None:
    with monkeypatch.context() as there:
        there.setattr(sys, "byteorder", order)
        torch.save(WEIGHTS, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    if order == "little":
        assert is_weights(values(read_content(tmp_path / "x.pt")))
    else:
        assert "of the other byte order; save it again as safetensors" in refusal(tmp_path / "x.pt")


def refusal_of_pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe.pt")
    return refusal(folder / "pipe.pt")


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "x.safetensors")
    safetensors.torch.save_file(WEIGHTS, tmp_path / "y.bin")
    assert is_weights(values(read_content(tmp_path / "x.safetensors")))
    assert is_weights(values(read_content(tmp_path / "y.bin")))


def shards(folder: Path, **changes: Any) -> Path:
    """A checkpoint in two files and its index, as large ones are published."""
    folder.mkdir(exist_ok=True)
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name, key in zip(names, WEIGHTS, strict=True):
        safetensors.torch.save_file({key: WEIGHTS[key]}, folder / name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict(zip(WEIGHTS, names, strict=True)) | changes}))
    return index


def test_a_checkpoint_in_parts(tmp_path: Path) -> None:
    index = shards(tmp_path / "parts")
    assert is_weights(values(read_shards(index)))
    assert is_weights(values(read_shards(index.parent)))


def test_what_the_parts_of_a_checkpoint_leave_out_is_counted_together(tmp_path: Path) -> None:
    index = {"weight_map": {"a.weight": "1.bin", "b": "2.bin"}}
    for name, file in index["weight_map"].items():
        torch.save({name: WEIGHTS[name], "cfg": Setting(), "path": [Setting()] * (file == "1.bin")}, tmp_path / file)
    (tmp_path / "x.bin.index.json").write_text(json.dumps(index))
    found = read_shards(tmp_path)
    assert is_weights(values(found))
    assert found.left_out == {f"{__name__}.Setting": 3}


@pytest.mark.parametrize(
    "name",
    [
        "../x.pt",
        "/etc/passwd",
        "a/../../x.pt",
        "..\\x.pt",
        "C:\\x.pt",
        "C:x.pt",
        600 * "a/" + "x",
        "",
        "a\0b",
        "x" * 400,
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    torch.save(WEIGHTS, tmp_path / "x.pt")
    assert "refused, it names" in refusal(shards(tmp_path / "parts", other=name))


def test_an_index_and_its_files_must_agree(tmp_path: Path) -> None:
    assert "1 of its 3 files are not beside it: gone.pt" in refusal(shards(tmp_path / "a", other="gone.pt"))
    lacking = shards(tmp_path / "b", other="model-00001-of-00002.safetensors")
    for asked in (lacking, lacking.parent):
        assert "lists 1 tensors that its files lack: other" in refusal(asked)
    twice = shards(tmp_path / "c")
    safetensors.torch.save_file(WEIGHTS, twice.parent / "model-00002-of-00002.safetensors")
    assert "holds a.weight again" in refusal(twice)
    for text in ("<html>", "[]", '{"weight_map": {}}', '{"weight_map": {"a": 3}}', "[" * 100_000):
        lacking.write_text(text)
        assert "index" in refusal(lacking)


def test_a_folder_names_its_one_checkpoint(tmp_path: Path) -> None:
    assert "holds no checkpoint" in refusal(tmp_path)
    torch.save(WEIGHTS, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    assert is_weights(values(read_shards(tmp_path)))
    torch.save(WEIGHTS, tmp_path / "other.bin")
    assert "holds 2 checkpoints (other.bin, pytorch_model.bin …); name the file" in refusal(tmp_path)
    for name in "abc":
        torch.save(WEIGHTS, tmp_path / f"{name}.bin")
    assert "holds 5 checkpoints (a.bin, b.bin, c.bin, other.bin …); name the file" in refusal(tmp_path)
    # Safetensors are trusted more, however many others there are.
    safetensors.torch.save_file({"safe": torch.ones(1)}, tmp_path / "z.safetensors")
    assert values(read_shards(tmp_path)).keys() == {"safe"}


@pytest.mark.parametrize(("containers", "found"), [(8, True), (9, False)])
def test_tensors_are_looked_for_eight_containers_deep(tmp_path: Path, containers: int, found: bool) -> None:
    nested: dict[str, Any] = {"w": torch.ones(2)}
    for _ in range(containers):
        nested = {"x": nested}
    torch.save(nested, tmp_path / "x.pt")
    assert list(values(read_content(tmp_path / "x.pt"))) == (["x." * 8 + "w"] if found else [])


def test_a_name_too_long_for_a_weight_hides_no_other(tmp_path: Path) -> None:
    torch.save({501 * "x": torch.ones(1), 500 * "y": torch.ones(2), "w": torch.ones(3)}, tmp_path / "x.pt")
    assert list(values(read_content(tmp_path / "x.pt"))) == [500 * "y", "w"]


SAVERS: dict[str, Callable[[Any, Path], object]] = {
    "zip": torch.save,
    "legacy": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "safetensors": safetensors.torch.save_file,
}


@pytest.mark.parametrize("form", SAVERS)
def test_mutated_files_load_or_are_one_line(tmp_path: Path, form: str) -> None:
    path, other = tmp_path / "x.pt", tmp_path / "mutated.pt"
    SAVERS[form](WEIGHTS, path)
    whole, chance = path.read_bytes(), random.Random(form)
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 8))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        if chance.random() < 0.2:
            del content[chance.randrange(len(content)) :]
        other.write_bytes(content)
        with suppress(CheckpointError):
            values(read_content(other))
