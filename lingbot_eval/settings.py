"""What settings are; nested settings and facts, opened into dotted names, and where two of them differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

LONGEST = 100


class StrictModel(BaseModel):
    """Settings or a record: nothing in it changes once it is made, and a key that it does not know is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def flattened(facts: Mapping[str, Any], *, lists: bool = False) -> dict[str, Any]:
    """The leaves of nested mappings by dotted name, as ``--set`` takes them; an empty mapping is a leaf.

    lists: whether lists of mappings are opened, too, by number.
    """
    return dict(_leaves(facts, "", lists=lists))


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Both values by dotted name where they differ; None for what one of the two lacks (and for a value of None)."""
    one, other = flattened(a), flattened(b)
    pairs = {key: (one.get(key), other.get(key)) for key in dict.fromkeys((*one, *other))}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def differing_in_both(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """As `differing`, of the names that both have."""
    shared = flattened(a).keys() & flattened(b).keys()
    return {key: pair for key, pair in differing(a, b).items() if key in shared}


def short(value: Any, longest: int | None = LONGEST) -> str:
    """A value as JSON in one line of at most ``longest`` characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if longest is None or len(text) <= longest else text[: longest - 1] + "…"


def _leaves(value: Any, name: str, *, lists: bool) -> Iterator[tuple[str, Any]]:
    inner: Mapping[Any, Any] = {}
    if isinstance(value, Mapping):
        inner = value
    elif lists and isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        inner = dict(enumerate(value))
    if inner:
        for key, item in inner.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key), lists=lists)
    elif name:
        # A tuple in memory is a list in a file.
        yield name, list(value) if isinstance(value, tuple) else value
