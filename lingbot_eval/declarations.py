"""What is declared of each measurement by whoever makes it, found by its family and names.

A family's own file says which way its metrics are better, which of them readers ask for first, and how much worse the
gate lets them become. Everything that shows or judges measurements asks here, and lists none of them itself.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase

from lingbot_eval.registry import Registry
from lingbot_eval.types import Declaration, Measurement

# In the order in which they are measured; loaded when asked for.
_DECLARED: Registry[tuple[Declaration, ...]] = Registry(
    "family of measurements",
    {
        "trajectory": "lingbot_eval.metrics.trajectory:DECLARED",
        "drift": "lingbot_eval.metrics.drift:DECLARED",
        "auc": "lingbot_eval.metrics.pair_auc:DECLARED",
        "depth": "lingbot_eval.metrics.depth:DECLARED",
        "points": "lingbot_eval.metrics.points:DECLARED",
        "probes": "lingbot_eval.metrics.probes:DECLARED",
        "throughput": "lingbot_eval.profiling.timing:DECLARED",
        "memory": "lingbot_eval.profiling.memory:DECLARED",
    },
)
Key = tuple[str, str, str]
"""Family, name and variant of a measurement."""
_NOTHING = Declaration("*", None)
_BEHIND = 1_000


def declarations() -> Iterator[tuple[str, Declaration]]:
    """Every built-in declaration, with its family."""
    return ((family, declared) for family in _DECLARED.names() for declared in _DECLARED.get(family))


def headlines() -> tuple[Declaration, ...]:
    """What readers ask for first, in that order."""
    wanted = (declared for _, declared in declarations() if declared.headline)
    return tuple(sorted(wanted, key=lambda declared: declared.headline))


def headline_place(family: str, name: str, variant: str) -> int:
    """Where a measurement stands among the headlines; those of plugins stand behind."""
    return declaration(family, name, variant).headline or _BEHIND


def titles() -> dict[Key, str]:
    """What the first table of a report's page calls measurements, in its order: by family, headlines first."""
    return {
        (family, declared.name, declared.variant or ""): declared.title
        for family in _DECLARED.names()
        for declared in sorted(_DECLARED.get(family), key=lambda declared: declared.headline or _BEHIND)
        if declared.title
    }


def published_as(name: str) -> tuple[Key, str] | None:
    """The measurement that cards call ``name``, and which average over scenes: ``mean`` or, of all scenes' samples
    pooled, ``micro``; None for what no metric declares.
    """
    stem = name.removesuffix("_micro")
    average = "mean" if stem == name else "micro"
    stem = stem.removesuffix("_macro")
    for family, declared in declarations():
        if declared.published and fnmatchcase(stem, declared.published):
            return (family, stem if "*" in declared.published else declared.name, declared.variant or ""), average
    return None


@functools.lru_cache(4096)
def declaration(family: str, name: str, variant: str = "") -> Declaration:
    """What the family's file says of a measurement: the first declaration that fits, else one of nothing."""
    own = _DECLARED.get(family) if family in _DECLARED.names() else ()
    return next((declared for declared in own if declared.fits(name, variant)), _NOTHING)


def with_declaration(measured: Measurement) -> Measurement:
    """The measurement with its direction and its place among the headlines, where it does not state them itself.

    Records written before built-in metrics declared themselves read so, too.
    """
    declared = declaration(measured.family, measured.name, measured.variant)
    better, headline = measured.better or declared.better, measured.headline or declared.headline > 0
    if (better, headline) == (measured.better, measured.headline):
        return measured
    return replace(measured, better=better, headline=headline)
