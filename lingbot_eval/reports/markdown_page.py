"""The report as one Markdown page, with its figures and full table beside it."""

from __future__ import annotations

from urllib.parse import quote

from lingbot_eval.reports import content as say
from lingbot_eval.reports.content import Content
from lingbot_eval.reports.drawing import UnitFigures
from lingbot_eval.reports.published import delta_text
from lingbot_eval.reports.rendering import markdown_table, method_label
from lingbot_eval.reports.side_by_side import Setting, environments, settings
from lingbot_eval.tables import MISSING, fenced, markdown_grid, markdown_text, number_text


def markdown_page(content: Content, measurements: str) -> str:
    """The page, with links relative to the report's folder. measurements: file of all numbers there."""
    lines = [f"# {markdown_text(content.title)}", ""]
    for warning in say.warnings(content):
        lines += [f"**{markdown_text(warning.heading)}:** {markdown_text(warning.text)}", ""]
    lines += _runs(content) + _failures(content)
    lines += ["## Results", ""]
    lines += [markdown_table(table) for table in content.tables[:1]] or ["Nothing was planned.", ""]
    lines += [f"All figures at full precision, one a row: [{measurements}]({quote(measurements)})", ""]
    lines += _conventions(content) + _published(content)
    if content.several:
        differing = [setting for setting in settings(content.results) if setting.differs]
        lines += ["## Settings that differ", "", *(_settings(content, differing) or ["None.", ""])]
    lines += _figures(content)
    if content.tables[1:]:
        lines += ["## All tables", "", *(markdown_table(table) for table in content.tables[1:])]
    for title, found in say.facts(content):
        lines += [f"## {markdown_text(title)}", "", *fenced(say.pretty(found), "json")]
    lines += ["## Settings", "", *_settings(content, settings(content.results))]
    lines += ["## Environment", "", *_settings(content, environments(content.results))]
    lines += ["## Repeat it", ""]
    for run in content.runs:
        lines += [f"{markdown_text(run.label)}:", ""] if content.several else []
        lines += fenced(run.results.record.command, "sh")
    return "\n".join(lines)


def _runs(content: Content) -> list[str]:
    lines = []
    for run in content.runs:
        lines += [f"**{markdown_text(run.label)}**", ""] if content.several else []
        lines += [f"- {markdown_text(name)}: {markdown_text(value)}" for name, value in say.run_lines(run)]
        lines.append("")
    return lines


def _failures(content: Content) -> list[str]:
    lines = [f"- {markdown_text(place)}: {markdown_text(reason)}" for place, reason in say.failures(content)]
    return ["## Failures and remarks", "", *lines, ""] if lines else []


def _conventions(content: Content) -> list[str]:
    labels = say.convention_differences(content)
    text = "Computed by more than one convention (the legends say which), so not to be compared across rows:"
    return [f"{text} {markdown_text(', '.join(labels))}.", ""] if labels else []


def _published(content: Content) -> list[str]:
    """Published numbers beside ours; nothing where nothing was published."""
    rows = say.published(content)
    if not rows:
        return []
    header = [
        "dataset",
        "method",
        *(["run"] if content.several else []),
        "metric",
        "ours",
        "published",
        "delta",
        "source",
    ]
    right = ("ours", "published", "delta")
    grid = [header]
    for run, row in rows:
        ours = MISSING if row.ours is None else number_text(row.ours, row.unit)
        scored = "" if row.scored is None else f" ({row.scored[0]} of {row.scored[1]})"
        cells = [
            row.dataset,
            method_label(row.method, run.results.untrained),
            *([run.label] if content.several else []),
        ]
        cells += [row.metric, ours + scored, f"{row.published:g}", delta_text(row), row.source]
        grid.append([markdown_text(cell) for cell in cells])
    lines = markdown_grid(grid, ["right" if name in right else "left" for name in header], padded=False)
    return [
        "## Beside published numbers",
        "",
        *lines,
        "",
        "Delta is ours less the published number, in the metric's unit.",
        "",
    ]


def _figures(content: Content) -> list[str]:
    lines = ["## Figures", "", "Every series is in the run directory, in `frames.csv` and `drift.npz` of its unit.", ""]
    for unit in (*content.together, *content.units):
        lines += _unit(unit)
    return lines


def _unit(unit: UnitFigures) -> list[str]:
    if not unit.figures:
        return []
    lines = [f"### {markdown_text(unit.label)}", ""]
    for figure in unit.figures:
        lines += [f"![{markdown_text(figure.caption)}]({quote(figure.file.as_posix())})", ""]
    return lines


def _settings(content: Content, rows: list[Setting] | tuple[Setting, ...]) -> list[str]:
    if not rows:
        return []
    header = ["", *(run.label if content.several else "value" for run in content.runs)]
    grid = [[markdown_text(cell) for cell in row] for row in (header, *((each.name, *each.values) for each in rows))]
    return [*markdown_grid(grid, ["left"] * len(header), padded=False), ""]
