"""A dense head through torch.compile: an option. Where that fails the head runs as it is, and says why.

The trunk stays as it is: compiled by the same compiler, on an H100 its 24 frame blocks take 2.55 ms instead of 2.24 and
its backbone 2.20 instead of 2.23 (README, Speed).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch._dynamo import config as dynamo
from torch._dynamo.backends.registry import lookup_backend
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from lingbot_eval.errors import one_line
from lingbot_eval.model.dense_head import DenseHead

COMPILER: str | Callable[..., Any] = "inductor"
"""A name that torch knows, or a function of a graph and its inputs."""
MOST_PROGRAMS = 256
"""Of one function, in a process: more than the image sizes that anybody waits for. The default is 8."""


@dataclass(frozen=True)
class Compilation:
    """What compiling took so far. reason: why a head runs as it is, None while each is compiled where it has run."""

    programs: int
    seconds: float
    reason: str | None


class CompiledHead:
    """One dense head, every image size a program of its own, as it is a captured pass of its own.

    name: of the head, for the reason.
    """

    def __init__(self, head: DenseHead, name: str) -> None:
        self._head = head
        self._name = name
        self._programs = _Counted(COMPILER)
        self._seconds = 0.0
        self._reason: str | None = None
        # Whole or not at all: a part that ran as it is would do so unsaid.
        self._compiled = torch.compile(head.decode, backend=self._programs, fullgraph=True, dynamic=False)

    @property
    def compilation(self) -> Compilation:
        """So far."""
        return Compilation(self._programs.made, self._seconds, self._reason)

    def __call__(self, tokens: list[Tensor], height: int, width: int) -> Tensor:
        """See `DenseHead`. A call that makes a program is timed; memory that runs out in it is raised as such."""
        positions = self._head.positions(height, width)
        if self._reason is not None:
            return self._head.decode(tokens, positions)
        programs, start = self._programs.made, time.perf_counter()
        try:
            # Both heads and all sizes are programs of one function.
            with dynamo.patch(recompile_limit=MOST_PROGRAMS):
                out = self._compiled(tokens, positions)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            self._seconds += time.perf_counter() - start
            self._reason = f"{self._name}: {_why(error)}"
            return self._head.decode(tokens, positions)
        if self._programs.made > programs:
            self._seconds += time.perf_counter() - start
        return out


class _Counted:
    """A compiler; whenever torch makes a program, for whatever reason, it comes by here.

    Apart from the head, which torch would otherwise keep with all its weights as long as the process lasts.
    """

    def __init__(self, compiler: str | Callable[..., Any]) -> None:
        self.made = 0
        self._compiler = lookup_backend(compiler) if isinstance(compiler, str) else compiler
        # What torch calls it by when it fails.
        self.__name__ = compiler if isinstance(compiler, str) else compiler.__name__

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        program = self._compiler(graph, inputs)
        self.made += 1
        return cast(Callable[..., Any], program)


def together(found: list[Compilation]) -> Compilation:
    """Of all heads of a network; the reason is the first that there is."""
    return Compilation(
        sum(each.programs for each in found),
        sum(each.seconds for each in found),
        next((each.reason for each in found if each.reason is not None), None),
    )


def _why(error: Exception) -> str:
    """In a line. Raises what the compiler met instead where that is memory that ran out."""
    memory = _out_of_memory(error)
    if memory is not None:
        raise memory from None
    if isinstance(error, FailOnRecompileLimitHit):
        return f"this process has compiled dense heads {MOST_PROGRAMS} times, for different sizes or settings"
    # What follows is advice on torch's own logs.
    return one_line(error).partition(" Set TORCHDYNAMO_VERBOSE")[0]


def _out_of_memory(error: BaseException) -> BaseException | None:
    """What there was no memory for is no fault of the compiler; the caller deals with it as ever."""
    found: BaseException | None = None
    at: BaseException | None = error
    while at is not None:
        # The host's allocator has no class for it; whoever wraps an error repeats its words.
        if isinstance(at, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(at):
            found = at
        at = at.__cause__ or at.__context__
    return found
