"""Dense heads through torch.compile: an option. Where it fails they run as they are, and say why."""

from __future__ import annotations

import time
from typing import cast

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from lingbot_eval.errors import one_line
from lingbot_eval.model.dense_head import DenseHead

MOST_PROGRAMS = 256
"""More than the image sizes that anybody waits for."""


class CompiledHead:
    """One dense head. seconds: that its calls spent compiling. reason: why it runs as it is, None where it does not."""

    def __init__(self, head: DenseHead) -> None:
        self.seconds = 0.0
        self.reason: str | None = None
        self._head = head
        # Every image size is a program of its own, as it is a captured pass of its own.
        self._compiled = torch.compile(head, dynamic=False)
        self._sizes: set[tuple[int, int]] = set()

    def __call__(self, tokens: list[Tensor], height: int, width: int) -> Tensor:
        """See `DenseHead`. The first call of a size compiles."""
        size = height, width
        if self.reason is None and size not in self._sizes:
            self._compile(tokens, size)
        run = self._compiled if self.reason is None else self._head
        return cast(Tensor, run(tokens, height, width))

    def _compile(self, tokens: list[Tensor], size: tuple[int, int]) -> None:
        self._head(tokens, *size)  # makes what the head keeps for the size, which is then no part of the program
        start = time.perf_counter()
        try:
            # Both heads and all sizes are programs of one function, and beyond the limit it would run as it is unsaid.
            with torch._dynamo.config.patch(recompile_limit=MOST_PROGRAMS):
                self._compiled(tokens, *size)
        except TorchDynamoException as error:
            self.reason = one_line(error)
        self.seconds += time.perf_counter() - start
        self._sizes.add(size)
