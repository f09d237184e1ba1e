"""The sections of the HTML page, in their order: each a small function and a template of the same name.

A further section is one more function in SECTIONS and its file in ``templates/sections``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lingbot_eval.reports import content as say
from lingbot_eval.reports.content import Content
from lingbot_eval.reports.side_by_side import environments, settings


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading. key: its anchor. template: file in templates/sections. values: for it."""

    key: str
    title: str
    template: str
    values: Mapping[str, Any] = field(default_factory=dict)


def runs(content: Content) -> Section:
    """What was run, and how far it came."""
    return Section("runs", "Runs" if content.several else "Run", "runs", {"lines": _run_lines(content)})


def failures(content: Content) -> Section | None:
    """Everything without scores, with its reason."""
    found = say.failures(content)
    return Section("failures", "Failures and remarks", "failures", {"failures": found}) if found else None


def results(content: Content) -> Section:
    """The summary."""
    values = {"tables": content.tables[:1], "differing": say.convention_differences(content)}
    return Section("results", "Results", "results", values)


def published(content: Content) -> Section | None:
    """Published numbers beside ours."""
    rows = say.published(content)
    return Section("published", "Beside published numbers", "published", {"rows": rows}) if rows else None


def differences(content: Content) -> Section | None:
    """Settings and environment in which the runs differ."""
    if not content.several:
        return None
    rows = [row for row in (*settings(content.results), *environments(content.results)) if row.differs]
    return Section("differences", "Where the runs differ", "differences", {"rows": rows})


def figures(content: Content) -> Section | None:
    """Scenes side by side, then every unit."""
    units = [unit for unit in (*content.together, *content.units) if unit.figures]
    return Section("figures", "Figures", "figures", {"units": units}) if units else None


def tables(content: Content) -> Section | None:
    """Every table but the summary."""
    found = content.tables[1:]
    return Section("tables", "All tables", "tables", {"tables": found}) if found else None


def facts(content: Content) -> Section | None:
    """What methods and sequences say of themselves."""
    found = list(say.facts(content))
    return Section("facts", "Methods and sequences", "facts", {"facts": found}) if found else None


def experiment(content: Content) -> Section:
    """Every setting."""
    return Section("settings", "Settings", "settings", {"rows": settings(content.results), "unfolded": False})


def environment(content: Content) -> Section:
    """Machines and libraries."""
    return Section("environment", "Environment", "settings", {"rows": environments(content.results), "unfolded": True})


def repeat(content: Content) -> Section:
    """The commands."""
    return Section("repeat", "Repeat it", "repeat")


SECTIONS: tuple[Callable[[Content], Section | None], ...] = (
    runs,
    failures,
    results,
    published,
    differences,
    figures,
    tables,
    facts,
    experiment,
    environment,
    repeat,
)


def _run_lines(content: Content) -> list[tuple[str, list[str]]]:
    """Names of the lines that any run has, each with its value in every run."""
    columns = [dict(say.run_lines(run)) for run in content.runs]
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, [column.get(name, "–") for column in columns]) for name in names]
