"""JSON files read strictly: what json.loads lets pass in silence, and what would break later, is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from lingbot_eval.errors import reason
from lingbot_eval.files.reading import read_file

MAX_BYTES = 1 << 28
"""A record of ten thousand scenes has 1 MB."""
MAX_DEPTH = 64
"""Our documents are a tenth of it deep; writers and readers of nested values recurse."""


def read_json(path: Path) -> Any:
    """The value in a UTF-8 file (with or without byte order mark).

    Raises:
        OSError: When the file cannot be opened; ``strerror`` is the reason.
        ValueError: In words that fit into one line, when it is no JSON, gives a key twice, holds a number that is not
            finite or an integer beyond 64 bits, or is too large or nested too deeply for any document of ours.
    """
    return parse_json(read_file(path, MAX_BYTES))


def parse_json(content: bytes) -> Any:
    """The value of a JSON text in UTF-8. Raises ValueError as :func:`read_json` does."""
    try:
        value = json.loads(
            content.decode("utf-8-sig"),
            parse_constant=_refuse,
            parse_int=_integer,
            parse_float=_real,
            object_pairs_hook=_each_once,
        )
    except RecursionError as error:
        raise ValueError("values nested too deeply") from error
    except ValueError as error:
        raise ValueError(reason(error)) from error
    if depth(value) > MAX_DEPTH:
        raise ValueError(f"values nested more than {MAX_DEPTH} deep")
    return value


def depth(value: Any) -> int:
    """Levels of lists and mappings in a plain value."""
    levels, level = 0, [value]
    while level:
        level = [
            inner
            for holder in level
            if isinstance(holder, dict | list)
            for inner in (holder.values() if isinstance(holder, dict) else holder)
        ]
        levels += 1
    return levels


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _integer(digits: str) -> int:
    value = int(digits) if len(digits) < 25 else 1 << 64
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"the integer {digits[:25]} is beyond 64 bits")
    return value


def _real(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:25]} is beyond float64")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:60]!r} is given twice")
    return found
