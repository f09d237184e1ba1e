"""A dense head through torch.compile: an option. Where that fails the head runs as it is, and says why.

The trunk stays as it is: its small operations are fused already, and through the same compiler its blocks took longer
(README, "Backends, measured").
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._dynamo import config as dynamo
from torch._dynamo.backends.registry import lookup_backend
from torch._dynamo.exc import BackendCompilerFailed, FailOnRecompileLimitHit

from lingbot_eval.errors import one_line
from lingbot_eval.hardware import is_out_of_memory
from lingbot_eval.model.compilation import Compilation
from lingbot_eval.model.dense_head import DenseHead

COMPILER: str | Callable[..., Any] = "inductor"
"""A name that torch knows, or a function of a graph and its inputs."""
MOST_PROGRAMS = 256
"""Of one function, in a process: more than the image sizes that anybody waits for. The default is 8."""


class CompiledHead:
    """One dense head, every image size a program of its own, as it is a captured pass of its own.

    name: of the head, for the reason. A size that could not be compiled is not tried again; others are.
    """

    def __init__(self, head: DenseHead, name: str) -> None:
        self._head = head
        self._name = name
        self._programs = _Counted(COMPILER)
        self._seconds = 0.0
        self._calls = self._plain_calls = 0
        self._reasons: dict[tuple[int, int], str] = {}
        self._reason: str | None = None
        # Whole or not at all: a part that ran as it was would do so unsaid.
        self._compiled = torch.compile(head.decode, backend=self._programs, fullgraph=True, dynamic=False)

    @property
    def compilation(self) -> Compilation:
        """So far."""
        return Compilation(self._programs.made, self._seconds, self._calls, self._plain_calls, self._reason)

    def __call__(self, tokens: list[Tensor], height: int, width: int) -> Tensor:
        """See `DenseHead`. A call that makes a program is timed; memory that runs out in it is raised as such."""
        positions, size = self._head.positions(height, width), (height, width)
        self._calls += 1
        if size not in self._reasons:
            out = self._try(tokens, positions, size)
            if out is not None:
                return out
        self._plain_calls += 1
        self._reason = self._reasons[size]
        return self._head.decode(tokens, positions)

    def _try(self, tokens: list[Tensor], positions: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor | None:
        """None, with the reason noted, where no program ran."""
        made, ran, start = self._programs.made, self._programs.ran, time.perf_counter()
        out: Tensor | None = None
        try:
            # Both heads and all sizes are programs of one function.
            with dynamo.patch(recompile_limit=MOST_PROGRAMS):
                out = self._compiled(tokens, positions)
        except (RuntimeError, FailOnRecompileLimitHit) as error:
            self._note(size, _why(error))
        finally:
            if out is None or self._programs.made > made:
                self._seconds += time.perf_counter() - start
        if out is not None and self._programs.ran == ran:
            self._note(size, "torch.compile ran no program and said nothing; is it switched off in the environment?")
            return None
        return out

    def _note(self, size: tuple[int, int], why: str) -> None:
        self._reasons[size] = f"the {self._name} ran as it was at {size[1]}×{size[0]}: {why}"


class _Counted:
    """A compiler; whenever torch makes or runs a program, for whatever reason, it comes by here.

    Apart from the head, which torch would otherwise keep with all its weights as long as the process lasts.
    """

    def __init__(self, compiler: str | Callable[..., Any]) -> None:
        self.made = self.ran = 0
        self._compiler = lookup_backend(compiler) if isinstance(compiler, str) else compiler
        # What torch calls it by when it fails.
        self.__name__ = compiler if isinstance(compiler, str) else compiler.__name__

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        program = self._compiler(graph, inputs)
        self.made += 1

        def run(*arguments: Any) -> Any:
            self.ran += 1
            return program(*arguments)

        return run


def _why(error: Exception) -> str:
    """In a line. Raises what the compiler met instead where that is memory that ran out, which is no fault of it."""
    met: Exception = error
    while isinstance(met, BackendCompilerFailed):
        met = met.inner_exception
    if is_out_of_memory(met):
        raise met from None
    if isinstance(error, FailOnRecompileLimitHit):
        return f"this process has compiled dense heads {MOST_PROGRAMS} times, for different sizes or settings"
    # What follows is advice on torch's own logs, or a list of its own files.
    return re.split(r" (?:Set TORCHDYNAMO_VERBOSE|Skipped frames:)", one_line(error))[0]
