"""Writes the report of a run: one Markdown page, its tables as CSV and LaTeX, its figures as PNG."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lingbot_eval.formats.atomic import write_text
from lingbot_eval.reports.published import published_section
from lingbot_eval.reports.rendering import (
    csv_table,
    latex_table,
    markdown_table,
    markdown_text,
    method_label,
)
from lingbot_eval.reports.tables import Names, RunResults, Table, long_table, read_results, wide_tables
from lingbot_eval.reports.unit_data import UnitData, read_unit_data
from lingbot_eval.runs.disk import writing
from lingbot_eval.runs.store import RunStore, StoredUnit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LATEX_HEAD = "% Needs \\usepackage{booktabs} and \\usepackage{graphicx}; with other letters than ASCII: XeLaTeX.\n\n"


@dataclass(frozen=True)
class _Figures:
    """Figure files of one unit, by what they show, and what could not be drawn."""

    files: Mapping[str, Path]
    problems: tuple[str, ...]


def write_report(run_path: Path, out_dir: Path) -> list[Path]:
    """Write the report of the run at ``run_path`` into ``out_dir`` (made when missing); returns the files, page first.

    Reads stored records only, so it works while the run goes on and after a part of it failed or was damaged: those
    scenes are in the tables with their reasons. Raises StoreError when there is no run or the disk refuses.
    """
    store = RunStore.open(run_path)
    results = read_results(store)
    tables = wide_tables(results)
    with writing(out_dir):
        for folder in (out_dir / "figures", out_dir / "tables"):
            folder.mkdir(parents=True, exist_ok=True)
    written = _write_tables(results, tables, out_dir / "tables")
    figures: dict[Names, _Figures] = {}
    for number, names in enumerate(results.names(), start=1):
        unit = results.by_names().get(names)
        if unit is None:
            continue
        # Numbered by the plan, so that a later report of the same run overwrites the same files.
        stem = "-".join([f"{number:03d}", *(_slug(name) for name in names)])
        figures[names] = _draw_unit(store, unit, results.untrained, out_dir / "figures" / stem)
        written += figures[names].files.values()
    page = out_dir / "report.md"
    write_text(page, _page(results, tables, figures, out_dir))
    return [page, *written]


def _write_tables(results: RunResults, tables: tuple[Table, ...], folder: Path) -> list[Path]:
    texts = {"measurements.csv": long_table(results).to_csv(index=False, na_rep="n/a")}
    texts |= {f"{_slug(table.key)}.csv": csv_table(table) for table in tables}
    texts["tables.tex"] = _LATEX_HEAD + "\n".join(latex_table(table) for table in tables)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _draw_unit(store: RunStore, unit: StoredUnit, untrained: tuple[str, ...], stem: Path) -> _Figures:
    # matplotlib is slow to load, and a report of failures only needs none.
    from lingbot_eval.reports.drift_figure import drift_figure
    from lingbot_eval.reports.figure_style import save
    from lingbot_eval.reports.figures import cost_figure, depth_figure, error_figure, trajectory_figure

    data: UnitData = read_unit_data(store, unit)
    record = unit.record
    title = f"{record.dataset} / {record.scene} · {method_label(record.method, untrained)}"
    draw: dict[str, Callable[[], Figure | None]] = {
        "trajectory": lambda: trajectory_figure(data.paths, title) if data.paths is not None else None,
        "error": lambda: error_figure(data.frames, title) if data.frames is not None else None,
        "drift": lambda: drift_figure(data.drift, title) if data.drift is not None else None,
        "depth": lambda: depth_figure(data.panels, title) if data.panels is not None else None,
        "cost": lambda: cost_figure(data.frames, title) if data.frames is not None else None,
    }
    files: dict[str, Path] = {}
    for kind, make in draw.items():
        figure = make()
        if figure is not None:
            files[kind] = stem.with_name(f"{stem.name}-{kind}.png")
            save(figure, files[kind])
    return _Figures(files, data.problems)


_CAPTIONS = {
    "trajectory": "Trajectory",
    "error": "Error along the sequence",
    "drift": "Drift along the sequence",
    "depth": "Depth",
    "cost": "Time and memory along the sequence",
}


def _page(results: RunResults, tables: tuple[Table, ...], figures: Mapping[Names, _Figures], out_dir: Path) -> str:
    record = results.record
    scored = sum(1 for names in results.names() if results.failure(names) is None)
    lines = [f"# {markdown_text(record.name)}{' — untrained weights' if results.untrained else ''}", ""]
    if results.untrained:
        lines += [
            f"**Untrained weights:** {markdown_text(', '.join(results.untrained))}. "
            "Accuracy figures of these methods say nothing about the trained model.",
            "",
        ]
    lines += [
        f"- run {markdown_text(record.key)}, {record.status}: "
        f"{scored} of {len(results.names())} pairs of scene and method scored",
        f"- started {markdown_text(record.started)}, finished {markdown_text(record.finished or 'not yet')}",
        *(
            f"- weights of {markdown_text(method)}: {markdown_text(weights)}"
            for method, weights in record.weights.items()
        ),
        "",
        "Repeat it:",
        "",
        *_fenced(record.command, "sh"),
    ]
    lines += _failures(results, figures)
    summary, details = tables[:1], tables[1:]
    lines += ["## Results", ""]
    lines += [markdown_table(table) for table in summary] or ["Nothing was planned.", ""]
    lines += ["All figures at full precision, one a row: [tables/measurements.csv](tables/measurements.csv)", ""]
    lines += published_section(results, tables)
    lines += _figure_sections(results, figures, out_dir)
    lines += ["## All tables", "", *(markdown_table(table) for table in details)] if details else []
    lines += ["## Environment", "", *_fenced(_json(record.environment), "json")]
    lines += ["## Experiment", "", *_fenced(_json(_settings(record.experiment)), "json")]
    lines += _facts(results)
    return "\n".join(lines)


def _settings(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment without the cards stored with it, which `lingbot-eval datasets show` prints."""
    return {key: value for key, value in experiment.items() if key != "cards"}


def _failures(results: RunResults, figures: Mapping[Names, _Figures]) -> list[str]:
    lines = []
    for names in results.names():
        reason = results.failure(names)
        problems = figures[names].problems if names in figures else ()
        lines += [
            f"- {markdown_text(' / '.join(names))}: {markdown_text(text)}"
            for text in (*((reason,) if reason else ()), *problems)
        ]
    return ["## Failures and remarks", "", *lines, ""] if lines else []


def _figure_sections(results: RunResults, figures: Mapping[Names, _Figures], out_dir: Path) -> list[str]:
    lines = ["## Figures", "", "Every series is in the run directory, in `frames.csv` and `drift.npz` of its unit.", ""]
    for (dataset, scene, method), drawn in figures.items():
        if not drawn.files:
            continue
        label = markdown_text(f"{dataset} / {scene} · {method_label(method, results.untrained)}")
        lines += [f"### {label}", ""]
        for kind, file in drawn.files.items():
            lines += [f"![{_CAPTIONS[kind]}: {label}]({quote(file.relative_to(out_dir).as_posix())})", ""]
    return lines


def _facts(results: RunResults) -> list[str]:
    """What methods and sequences say of themselves: settings, sources of poses and depth, association counts."""
    records = [unit.record for unit in results.units]
    methods = {record.method: record.method_facts for record in reversed(records)}
    sequences = {f"{record.dataset} / {record.scene}": record.sequence for record in records}
    lines = []
    for title, facts in (("Methods", methods), ("Sequences", sequences)):
        lines += [f"## {title}", "", *_fenced(_json(facts), "json")] if facts else []
    return lines


def _fenced(text: str, language: str) -> list[str]:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [
        f"{fence}{language}",
        *("".join(c if c.isprintable() else " " for c in line) for line in text.splitlines()),
        fence,
        "",
    ]


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40] or "unnamed"
