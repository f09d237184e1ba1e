"""Rotary embeddings: against the formula written out pair by pair, and what makes them useful."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lingbot_eval.model.blocks import StreamRotary, frame_rotation

CPU = torch.device("cpu")


def test_frame_rotation_is_the_formula() -> None:
    rows, columns = 2, 3
    x = torch.randn(6 + rows * columns, 1, 64, dtype=torch.float64)
    out = frame_rotation(rows, columns, CPU)(x.float())
    for token, (row, column) in enumerate([(0, 0)] * 6 + [(r + 1, c + 1) for r in range(rows) for c in range(columns)]):
        for half, position in enumerate((row, column)):
            for i in range(16):
                angle = position * 100.0 ** (-2 * i / 32)
                a, b = x[token, 0, 32 * half + i], x[token, 0, 32 * half + 16 + i]
                assert out[token, 0, 32 * half + i] == pytest.approx(
                    float(a * math.cos(angle) - b * math.sin(angle)), abs=1e-6
                )
                assert out[token, 0, 32 * half + 16 + i] == pytest.approx(
                    float(b * math.cos(angle) + a * math.sin(angle)), abs=1e-6
                )


@pytest.mark.parametrize("clock", [0, 5, 1023, 1024, 123_456])
def test_stream_rotary_is_the_formula_at_any_clock(clock: int) -> None:
    rows, columns = 2, 2
    tokens = 6 + rows * columns
    x = torch.randn(2 * tokens, 1, 64, dtype=torch.float64)
    out = StreamRotary(rows, columns, CPU).at(clock, 2)(x.float())
    places = [(i, i) for i in range(6)] + [(6 + r, 6 + c) for r in range(rows) for c in range(columns)]
    for index in range(2 * tokens):
        row, column = places[index % tokens]
        angles = [
            *((clock + index // tokens) * 10000.0 ** (-2 * i / 20) for i in range(10)),
            *(row * 10000.0 ** (-2 * i / 22) for i in range(11)),
            *(column * 10000.0 ** (-2 * i / 22) for i in range(11)),
        ]
        for pair, angle in enumerate(angles):
            a, b = x[index, 0, 2 * pair], x[index, 0, 2 * pair + 1]
            assert out[index, 0, 2 * pair] == pytest.approx(float(a * math.cos(angle) - b * math.sin(angle)), abs=1e-6)
            assert out[index, 0, 2 * pair + 1] == pytest.approx(
                float(a * math.sin(angle) + b * math.cos(angle)), abs=1e-6
            )


@settings(max_examples=30)
@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 2000))
def test_scores_depend_on_the_distance_in_time_alone(first: int, second: int, shift: int) -> None:
    rotary = StreamRotary(1, 1, CPU)
    q, k = torch.randn(7, 1, 64), torch.randn(7, 1, 64)

    def score(a: int, b: int) -> torch.Tensor:
        return (rotary.at(a, 1)(q) * rotary.at(b, 1)(k)).sum()

    torch.testing.assert_close(score(first, second), score(first + shift, second + shift), rtol=0, atol=1e-3)


def test_low_precision_keeps_its_dtype() -> None:
    x = torch.randn(7, 2, 64, dtype=torch.bfloat16)
    assert StreamRotary(1, 1, CPU).at(3, 1)(x).dtype is torch.bfloat16
    assert frame_rotation(1, 1, CPU)(x).dtype is torch.bfloat16
