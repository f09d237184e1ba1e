"""Names of the places where keys and values can live. Imports nothing heavy: the command line lists them."""

from __future__ import annotations

from typing import Literal, get_args

Backend = Literal["auto", "sdpa", "triton", "paged", "flashinfer"]
"""``sdpa``: contiguous keys, torch's attention. ``triton``: contiguous keys, this project's kernel (CUDA). ``paged``:
pages, gathered by torch (any device; the oracle). ``flashinfer``: pages, FlashInfer's kernels, fa3 on a Hopper GPU and
fa2 on others. ``auto``: the fastest that can be had (`lingbot_eval.streaming.stores.resolve_backend`)."""

BACKENDS: tuple[Backend, ...] = get_args(Backend)
