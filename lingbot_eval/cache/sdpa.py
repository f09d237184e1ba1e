"""The contiguous store: preallocated buffers whose visible part is always one prefix, attended to by torch's SDPA.

Layout of a layer's tokens, S scale frames, window of W, T tokens a frame::

    [ anchor: S·T | window slots: W·T | memory: 6 a frame, in chunks ]

The memory gets its first frame exactly when the window is full, so there is never a hole before what is visible. The
window is a ring: a kept frame takes the slot of the one that leaves, whose special tokens go to the end of the memory.
A frame that is not kept is written behind the visible prefix, where the next pass overwrites it: it leaves no trace.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lingbot_eval.cache.buffers import LayerBuffers
from lingbot_eval.cache.policy import Step, View
from lingbot_eval.cache.protocol import CacheShape
from lingbot_eval.errors import StreamError

MEMORY_CHUNK_FRAMES = 256
"""Memory frames added at a time: 151 MB of the full model in bfloat16, one reallocation in as many kept frames."""

KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Not cuDNN: it is the fastest at a length it knows, but plans for 50 to 125 ms (measured, H100) at every new one, and
a growing memory is a new length at every kept frame."""

EMPTY = View(range(0), range(0), range(0))


def attend_prefix(buffers: LayerBuffers, layer: int, query: Tensor, visible: int) -> Tensor:
    """Attention of (N, heads, head_dim) queries over the first ``visible`` tokens; order of keys does not matter."""
    key, value = buffers.prefix(layer, visible)
    with sdpa_kernel(KERNELS):
        out = F.scaled_dot_product_attention(
            query.transpose(0, 1)[None], key.transpose(0, 1)[None], value.transpose(0, 1)[None]
        )
    return out[0].transpose(0, 1)


class SdpaStore:
    """Keys and values of the global blocks in contiguous memory (a `CacheStore`)."""

    def __init__(self, shape: CacheShape, window: int) -> None:
        self._shape = shape
        self._window = window
        self._buffers = LayerBuffers(shape)
        self._view = EMPTY
        self._step: Step | None = None
        self._start = 0
        self._visible = 0

    def begin(self, step: Step) -> None:
        """Decide where the pass is written and how long the visible prefix is. See `CacheStore`."""
        shape = self._shape
        prefix = step.view.tokens(shape.frame_tokens, shape.special_tokens)
        self._step, self._view = step, step.view
        self._visible = prefix if step.kept else prefix + shape.frame_tokens
        self._start = self._slot(step) if step.kept else prefix
        self._reserve(step.view)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `lingbot_eval.model.protocols.KVCache`."""
        step = self._require_step()
        if step.evicted is not None and step.kept:
            self._remember(layer, step)
        self._buffers.write(layer, self._start, key, value)
        return attend_prefix(self._buffers, layer, query, self._visible)

    def keep_last(self, step: Step) -> None:
        """Move the frame behind the prefix to its window slot. See `CacheStore`."""
        last = self._require_step()
        if last.kept:
            raise StreamError("the last frame of the stream is kept already")
        source, slot = self._start, self._slot(step)
        if source != slot:
            # The window is full. The scratch frame and the memory's end are the same place, so the frame leaves first
            # and the special tokens of the evicted one wait behind it.
            waiting = source + self._shape.frame_tokens
            for layer in range(self._shape.layers):
                self._buffers.move(layer, slot, waiting, self._shape.special_tokens)
                self._buffers.move(layer, source, slot, self._shape.frame_tokens)
                self._buffers.move(layer, waiting, source, self._shape.special_tokens)
        self._step, self._view = step, step.view

    def capture_key(self) -> None:
        """The visible prefix has another length at every kept frame. See `CacheStore`."""

    def used_bytes(self) -> dict[str, int]:
        """See `CacheStore`."""
        return self._shape.bytes_in_view(self._view)

    def allocated_bytes(self) -> int:
        """See `CacheStore`."""
        return self._buffers.allocated_bytes()

    def _slot(self, step: Step) -> int:
        """First token of the place of the step's frame: anchor frames in a row, then the window's ring."""
        if step.clock < len(step.view.anchor):
            return step.clock * self._shape.frame_tokens
        scale = len(step.view.anchor)
        return (scale + (step.clock - scale) % self._window) * self._shape.frame_tokens

    def _remember(self, layer: int, step: Step) -> None:
        """The slot that is about to be overwritten is the evicted frame's: keep its special tokens."""
        special = self._shape.special_tokens
        self._buffers.move(layer, self._start, self._visible - special, special)

    def _reserve(self, view: View) -> None:
        shape = self._shape
        fixed = (len(view.anchor) + self._window) * shape.frame_tokens
        # One frame that is not kept, and while it is being kept after the fact the special tokens it displaces.
        scratch = shape.frame_tokens + shape.special_tokens
        needed = fixed + len(view.memory) * shape.special_tokens + scratch
        if needed > self._buffers.capacity:
            chunks = -(-len(view.memory) // MEMORY_CHUNK_FRAMES)
            self._buffers.reserve(fixed + chunks * MEMORY_CHUNK_FRAMES * shape.special_tokens + scratch)

    def _require_step(self) -> Step:
        if self._step is None:
            raise StreamError("begin must come before attend")
        return self._step
