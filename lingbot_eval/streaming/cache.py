"""What every store of keys and values is: it follows the policy's steps, and layer after layer attends to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from lingbot_eval.streaming.buffers import CacheShape, LayerBuffers
from lingbot_eval.streaming.policy import EMPTY, Step, View


class CacheReader(Protocol):
    """How attention over the keys of a layer is computed: planned by its store once a pass, run once a layer."""

    def capture_key(self) -> Hashable | None:
        """Changes when ``run`` would read what was planned from other memory; None: not to be captured."""
        ...

    def run(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(N, heads, head_dim) queries over (capacity, heads, head_dim) keys and values → as the queries."""
        ...


class CacheStore(ABC):
    """Keys and values of one stream. Where a pass is written and what it sees, each store decides in ``begin``."""

    def __init__(self, shape: CacheShape, reader: CacheReader) -> None:
        self._shape = shape
        self._reader = reader
        self._buffers = LayerBuffers(shape)
        self._view: View = EMPTY

    @abstractmethod
    def begin(self, step: Step) -> None:
        """Make room for a pass; must precede its ``attend`` calls."""

    @abstractmethod
    def keep_last(self, step: Step) -> None:
        """Keep the last pass's frame after the fact; ``step`` is the policy's answer to it."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The pass is remembered first: it sees itself, too."""
        self.remember(layer, key, value)
        keys, values = self._buffers.layer(layer)
        return self._reader.run(query, keys, values)

    def remember(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Store the pass's (N, heads, head_dim) keys and values of a layer, as ``attend`` does before it attends."""
        self._buffers.write(layer, key, value)

    def capture_key(self) -> Hashable | None:
        """What a captured pass depends on; None where a pass cannot be captured.

        While the key is the same, ``attend`` touches the same memory in the same way and only its content changes:
        while the buffers do not grow, they and the places in them stay.
        """
        key = self._reader.capture_key()
        return None if key is None else (key, self._buffers.capacity)

    def state(self) -> dict[str, Any]:
        """All that later passes rest on: plain values, and the tensors themselves, which the next pass changes."""
        return {"capacity": self._buffers.capacity, "tensors": self._buffers.tensors()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where another store of the same shape was. tensors: functions that give their bytes, flat."""
        self._buffers.reserve(state["capacity"])
        for mine, content in zip(self._buffers.tensors(), state["tensors"], strict=True):
            mine.copy_(content().view(mine.dtype).view(mine.shape))

    @property
    def dtype(self) -> torch.dtype:
        """Of the keys and values that come."""
        return self._shape.dtype

    def cast(self, dtype: torch.dtype) -> None:
        """Go on with what comes in another precision; what is there is cast, unless it is in 8 bits."""
        self._shape = replace(self._shape, dtype=dtype)
        self._buffers.cast(self._shape)

    def used_bytes(self) -> dict[str, int]:
        """Bytes in view by kind: ``anchor``, ``window`` and ``memory``, or ``camera_head``."""
        return self._shape.bytes_in_view(self._view)

    def allocated_bytes(self) -> int:
        """Bytes that the store holds on the device, headroom included."""
        return self._buffers.capacity * self._shape.token_bytes
