"""The pair errors of pair_auc.py on a torch device, in blocks of rows: for sequences of tens of thousands of frames."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lingbot_eval.errors import DependencyError
from lingbot_eval.types import FloatArray

_BINS = 181
_BLOCK_ELEMENTS = 1 << 22  # of float64: about ten such arrays are alive at once, a third of a gigabyte


def count_on_device(
    turns: FloatArray, truth: FloatArray, guess: FloatArray, device: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Histograms of rotation, translation and pair error, and of whole errors, (181,) each (see PairCounts).

    turns: (N, 3, 3) E_k. truth, guess: (3, N) positions. Raises DependencyError when the device is not there.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise DependencyError(f"metrics.auc.device: expected a CUDA device for '{device}', found none; set it to cpu")
    on_device = tuple(
        torch.as_tensor(values, dtype=torch.float64, device=device) for values in (turns, truth.T, guess.T)
    )
    count = len(turns)
    totals = torch.zeros((4, _BINS), dtype=torch.int64, device=device)
    block = max(1, _BLOCK_ELEMENTS // count)
    for start in range(0, count - 1, block):
        totals += _block(on_device, start, min(start + block, count - 1))
    rotation, translation, error, whole = totals.cpu().numpy()
    return rotation, translation, error, whole


def _block(on_device: tuple[Tensor, ...], start: int, stop: int) -> Tensor:
    """(4, 181) counts of the pairs i < j with start ≤ i < stop."""
    turns, truth, guess = on_device
    rows = turns.reshape(len(turns), 9)
    later = (
        torch.arange(start, len(turns), device=turns.device)[None]
        > torch.arange(start, stop, device=turns.device)[:, None]
    )
    rotation = _degrees((rows[start:stop] @ rows[start:].T - 1.0) / 2.0)[later]
    step = truth[None, start:] - truth[start:stop, None]
    turned = (guess[None, start:] - guess[start:stop, None]) @ turns[start:stop]
    lengths = (step.norm(dim=-1) * turned.norm(dim=-1))[later]
    dots = (step * turned).sum(dim=-1).abs()[later]
    # A pair without a direction counts 90°.
    translation = _degrees(torch.where(lengths > 0, dots / lengths, torch.zeros_like(dots)))
    error = torch.maximum(rotation, translation)
    whole = error[error == error.floor()]
    return torch.stack(
        [torch.bincount(values.to(torch.int64), minlength=_BINS) for values in (rotation, translation, error, whole)]
    )


def _degrees(cosine: Tensor) -> Tensor:
    return torch.rad2deg(torch.arccos(cosine.clamp(-1.0, 1.0)))
