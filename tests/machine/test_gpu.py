"""What is asked of a GPU or CPU before a kernel is chosen, without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lingbot_eval.machine import environment as processor
from lingbot_eval.machine import gpu as hardware
from lingbot_eval.machine.gpu import has_triton, on_device, tf32_products
from lingbot_eval.streaming import contiguous
from lingbot_eval.streaming.contiguous import ProductAttention, SlicedAttention, sdpa_attention, triton_why_not
from lingbot_eval.streaming.stores import attention_name, resolve_backend

GPU = torch.device("cuda", 1)


@pytest.fixture(autouse=True)
def _ask_again() -> Iterator[None]:
    has_triton.cache_clear()
    yield
    has_triton.cache_clear()


def test_a_folder_called_triton_is_no_triton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "triton" / "language").mkdir(parents=True)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert not has_triton()
    (tmp_path / "triton" / "__init__.py").touch()
    has_triton.cache_clear()
    monkeypatch.setattr("sys.path_importer_cache", {})
    assert has_triton()


@pytest.mark.parametrize("capability", [(7, 0), (7, 5)])
def test_before_ampere_torch_serves_half_precision(
    capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither Triton nor flash attention runs there; ``auto`` must find what does."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(contiguous, "has_triton", lambda: True)
    monkeypatch.setattr(hardware, "has_triton", lambda: True)
    assert resolve_backend("auto", torch.float16, GPU) == "sdpa"
    monkeypatch.setattr(contiguous, "multiplies_bfloat16", lambda: True)
    for dtype in (torch.float16, torch.bfloat16):
        assert type(sdpa_attention(dtype, GPU)) is SlicedAttention
    line = triton_why_not(torch.float16, GPU)
    assert line is not None
    assert f"needs compute capability 8.0, cuda:1 has {capability[0]}.{capability[1]}" in line
    assert not hardware.runs_triton.__wrapped__(GPU)


def test_from_ampere_on_triton_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(contiguous, "has_triton", lambda: True)
    assert resolve_backend("auto", torch.float16, GPU) == "triton"
    assert resolve_backend("auto", torch.float32, GPU) == "sdpa"


def test_work_goes_to_the_device_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    made_current: list[torch.device] = []

    @contextmanager
    def current(device: torch.device) -> Iterator[None]:
        made_current.append(device)
        yield

    monkeypatch.setattr(torch.cuda, "device", current)
    with on_device(torch.device("cpu")):
        assert made_current == []
    with on_device(GPU):
        assert made_current == [GPU]


def test_products_round_as_asked_within_the_block_alone() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    for allowed in (True, False):
        with tf32_products(allowed=allowed):
            assert matmul.allow_tf32 is allowed
        assert matmul.allow_tf32 is before
        with pytest.raises(KeyError), tf32_products(allowed=allowed):
            raise KeyError
        assert matmul.allow_tf32 is before


def test_a_gpu_is_asked_by_its_own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert (hardware.capability(cpu), hardware.multiprocessors(cpu)) == ((0, 0), 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, device.index))
    properties = {GPU: SimpleNamespace(multi_processor_count=132)}
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.get)
    assert (hardware.capability(GPU), hardware.multiprocessors(GPU)) == ((9, 1), 132)
    runs = hardware.runs_triton.__wrapped__
    for installed in (True, False):
        monkeypatch.setattr(hardware, "has_triton", lambda installed=installed: installed)
        assert (runs(GPU), runs(cpu)) == (installed, False)
    monkeypatch.setattr(hardware, "has_triton", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert runs(GPU)


@pytest.mark.parametrize(
    ("flags", "dtype", "kernel"),
    [
        ("fpu avx512f avx512_bf16", torch.bfloat16, ProductAttention),
        ("fpu avx512f avx512_bf16", torch.float32, SlicedAttention),
        ("fpu avx512f avx512_bf16", torch.float16, SlicedAttention),
        ("fpu avx512f", torch.bfloat16, SlicedAttention),
        (None, torch.bfloat16, SlicedAttention),
    ],
)
def test_products_need_instructions_of_the_cpu(
    flags: str | None, dtype: torch.dtype, kernel: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them a product of bfloat16 takes up to sixteen times as long as torch's own attention (measured)."""
    monkeypatch.setattr(processor, "processor_field", {"flags": flags}.get)
    cpu = torch.device("cpu")
    assert type(sdpa_attention(dtype, cpu)) is kernel
    # What a record says, so that the gate holds no arithmetic against another.
    assert attention_name("sdpa", dtype, cpu) == ("products" if kernel is ProductAttention else "torch")
    assert attention_name("paged", dtype, cpu) == "paged"


def test_a_field_of_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = tmp_path / "cpuinfo"
    described.write_text("processor\t: 0\nmodel name\t: One: of two\nflags\t\t: fpu sse\n\nprocessor\t: 1\nflags\t: x")
    monkeypatch.setattr(processor, "DESCRIPTION", described)
    read = processor.processor_field.__wrapped__
    assert (read("model name"), read("flags"), read("bugs")) == ("One: of two", "fpu sse", None)
    monkeypatch.setattr(processor, "DESCRIPTION", tmp_path / "none")
    assert read("flags") is None
