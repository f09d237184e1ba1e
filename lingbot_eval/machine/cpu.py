"""What the CPU says of itself, and how threads share it with others. Imports no torch."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

DESCRIPTION = Path("/proc/cpuinfo")
GROUPS = Path("/sys/fs/cgroup")

SPIN_COUNT = 3000
"""Turns that a thread of OpenMP waits for the next piece of work before it sleeps: some 150 µs, as long as most pauses
between two operators of a network. libgomp's own 300,000 are 14 ms, in which it keeps a core from whoever the thread
waits for; none at all costs a wake-up at every operator. Configuration ci on two quiet cores: 17.9 frames a second,
with libgomp's own 19.6, with one thread 11.9; beside three busy processes 5.0, 2.1 and 6.2
(benchmarks/busy_machine.py)."""
_OF_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "KMP_LIBRARY")
_OF_COUNT = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC")
_chosen: dict[str, str] = {}


@functools.cache
def processor_field(name: str) -> str | None:
    """A field of the first processor as Linux describes it (``model name``, ``flags`` …), or None."""
    try:
        lines = DESCRIPTION.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    fields = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in fields if key.strip() == name), None)


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16; those with AMX have these, too.

    Not known of a CPU of another system than Linux or of another make than x86: there it is no.
    """
    return "avx512_bf16" in (processor_field("flags") or "").split()


def usable_cores() -> int:
    """Cores that this process may use: by affinity, and by the quota of its container, a part of one counting whole."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota = _quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _quota() -> float | None:
    """Cores' worth of time that a container's control group allows; None where there is no limit."""
    try:
        if (GROUPS / "cpu.max").is_file():
            limit, period = (GROUPS / "cpu.max").read_text(encoding="ascii").split()
        else:
            limit = (GROUPS / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (GROUPS / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii")
        return int(limit) / int(period) if int(limit) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None  # another system, or "max"


@contextmanager
def threads_that_share() -> Iterator[None]:
    """Lets OpenMP's threads go to sleep soon when they wait, and be no more than the cores that a container has.

    Only for what is loaded within the block, as OpenMP reads its variables once; of no effect when torch is there
    already. Variables that the user has set stay as they are, and the environment is as before at the end.
    """
    wanted = {}
    if "torch" not in sys.modules:
        if not any(name in os.environ for name in _OF_WAITING):
            wanted["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
        if _quota() is not None and not any(name in os.environ for name in _OF_COUNT):
            wanted["OMP_NUM_THREADS"] = str(usable_cores())
    _chosen.update(wanted)
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in wanted:
            os.environ.pop(name, None)
        if "torch" not in sys.modules:
            _chosen.clear()  # nobody has read them


def chosen_variables() -> Mapping[str, str]:
    """Variables that `threads_that_share` has chosen for OpenMP in this process, in the user's place."""
    return dict(_chosen)
