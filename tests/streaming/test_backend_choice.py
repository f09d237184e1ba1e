"""Choosing a backend where there is no GPU: one line that says what is missing, and what works meanwhile."""

from __future__ import annotations

import pytest
import torch

from lingbot_eval.errors import ConfigError, DependencyError
from lingbot_eval.settings import validated
from lingbot_eval.streaming import paged
from lingbot_eval.streaming.cache import CacheShape
from lingbot_eval.streaming.paged import FlashInferExecutor, flashinfer_why_not
from lingbot_eval.streaming.session import StreamingSession
from lingbot_eval.streaming.settings import StreamSettings
from lingbot_eval.streaming.stores import attention_name, resolve_backend
from tests.streaming.networks import tiny_network

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("version", "line"),
    [
        (None, "FlashInfer is not installed: pip install 'lingbot-eval[flashinfer]'; backend sdpa works meanwhile"),
        ("0.5.9", "FlashInfer 0.5.9 is too old: pip install 'flashinfer-python>=0.6'; backend sdpa works meanwhile"),
        ("0.6.0", "FlashInfer needs a CUDA device, the model is on cpu; backend sdpa works meanwhile"),
        ("0.6.13", "FlashInfer needs a CUDA device, the model is on cpu; backend sdpa works meanwhile"),
        ("0.10.1", "FlashInfer needs a CUDA device, the model is on cpu; backend sdpa works meanwhile"),
        ("1.0.0rc1", "FlashInfer needs a CUDA device, the model is on cpu; backend sdpa works meanwhile"),
    ],
)
def test_why_flashinfer_cannot_serve(monkeypatch: pytest.MonkeyPatch, version: str | None, line: str) -> None:
    monkeypatch.setattr(paged, "flashinfer_version", lambda: version)
    assert flashinfer_why_not(torch.bfloat16, CPU) == line


def test_float32_is_no_precision_of_flashinfer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged, "flashinfer_version", lambda: "0.6.13")
    line = flashinfer_why_not(torch.float32, torch.device("cuda", 0))
    assert line is not None
    assert "needs precision bfloat16 or float16, found torch.float32" in line
    # A setting is wrong, not the installation.
    with pytest.raises(ConfigError, match="needs precision bfloat16 or float16"):
        FlashInferExecutor(CacheShape(1, 1, 64, 10, 6, torch.float32, torch.device("cuda", 0)))


def test_auto_on_a_cpu_is_sdpa() -> None:
    assert resolve_backend("auto", torch.float32, CPU) == "sdpa"
    assert resolve_backend("paged", torch.float32, CPU) == "paged"


@pytest.mark.parametrize(("card", "kernel"), [((8, 0), "fa2"), ((8, 9), "fa2"), ((9, 0), "fa3"), ((10, 0), "fa2")])
def test_the_card_chooses_the_kernel_of_flashinfer(
    monkeypatch: pytest.MonkeyPatch, card: tuple[int, int], kernel: str
) -> None:
    """The record's ``attention`` says which one ran; nobody else can choose."""
    monkeypatch.setattr(paged, "capability", lambda device: card)
    device = torch.device("cuda", 0)
    assert resolve_backend("flashinfer", torch.bfloat16, device) == "flashinfer"
    assert attention_name("flashinfer", torch.bfloat16, device) == f"flashinfer-{kernel}"


@pytest.mark.parametrize("name", ["flashinfer-fa2", "flashinfer-fa3"])
def test_a_kernel_is_no_backend(name: str) -> None:
    with pytest.raises(ConfigError, match=f"backend.*{name}.*flashinfer"):
        validated(StreamSettings, {"backend": name}, "streaming")


def test_asking_for_it_anyway_is_one_line() -> None:
    settings = StreamSettings(scale_frames=1, keyframe_interval=1, backend="flashinfer")
    session = StreamingSession(tiny_network(), settings)
    with pytest.raises(DependencyError, match="backend sdpa works meanwhile"):
        session.step(torch.rand(3, 28, 42))
