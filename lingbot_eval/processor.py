"""What the CPU says of itself. Imports no torch."""

from __future__ import annotations

import functools
from pathlib import Path

DESCRIPTION = Path("/proc/cpuinfo")


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
