"""Nested settings opened into dotted names, and where two of them differ."""

from __future__ import annotations

from pathlib import Path

from lingbot_eval.settings import differing, differing_in_both, flattened, short

FACTS = {"a": {"b": 1, "c": {}}, "d": [{"e": 2}, 3], "f": (4, 5)}


def test_leaves_by_dotted_name() -> None:
    assert flattened(FACTS) == {"a.b": 1, "a.c": {}, "d": [{"e": 2}, 3], "f": [4, 5]}
    assert flattened(FACTS, lists=True) == {"a.b": 1, "a.c": {}, "d.0.e": 2, "d.1": 3, "f": [4, 5]}


def test_what_differs() -> None:
    other = {"a": {"b": 2}, "f": [4, 5], "g": None}
    assert differing(FACTS, other) == {"a.b": (1, 2), "a.c": ({}, None), "d": ([{"e": 2}, 3], None)}
    assert differing_in_both(FACTS, other) == {"a.b": (1, 2)}
    assert differing({"a": None}, {"a": 0}) == differing_in_both({"a": None}, {"a": 0}) == {"a": (None, 0)}


def test_in_short() -> None:
    assert short({"a": "ü"}) == '{"a": "ü"}'
    assert short("x" * 200, 10) == '"xxxxxxxx…'
    assert short("x" * 8, 10) == '"xxxxxxxx"'
    assert short("x" * 98) == f'"{"x" * 98}"'
    assert short("x" * 99) == f'"{"x" * 98}…'
    assert len(short("x" * 200, None)) == 202
    assert short({"a": Path("b/c"), "d": None}) == '{"a": "b/c", "d": null}'
