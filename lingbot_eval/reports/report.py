"""Writes the report of one or more runs: HTML, Markdown, tables as CSV and LaTeX, figures as PNG, a notebook."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lingbot_eval.errors import ConfigError, StoreError
from lingbot_eval.files.atomic import staged, write_text, writing
from lingbot_eval.reports.drawing import FOLDER, draw_agreement, draw_sweeps, draw_units, slug, write_spaces
from lingbot_eval.reports.pages import html_page, markdown_page
from lingbot_eval.reports.reading import open_readable
from lingbot_eval.reports.rendering import csv_table, measurements_csv, shown
from lingbot_eval.reports.sections import Content, make_content
from lingbot_eval.reports.two_runs import RunComparison, compare_opened
from lingbot_eval.stored.disk import refuse_links
from lingbot_eval.stored.unit_files import Columns

HTML_FILE, MARKDOWN_FILE, NOTEBOOK_FILE, NOTEBOOK_PAGE = "report.html", "report.md", "report.ipynb", "notebook.html"
MEASUREMENTS_FILE = "tables/measurements.csv"

_LATEX_HEAD = "% Needs \\usepackage{booktabs} and \\usepackage{graphicx}; with other letters than ASCII: XeLaTeX.\n\n"


@dataclass(frozen=True)
class WrittenReport:
    """files: all of them, the page that a reader opens first. content: what they say."""

    files: tuple[Path, ...]
    content: Content


def write_report(
    runs: Sequence[Path],
    out_dir: Path,
    labels: Sequence[str] = (),
    *,
    html: bool = True,
    notebook: bool = False,
    notebook_page: bool = False,
    interactive: bool = False,
    drawn: Callable[[], object] = lambda: None,
) -> WrittenReport:
    """Write the report of the run directories ``runs`` into ``out_dir`` (made when missing): Markdown, tables, figures.

    labels: of the runs, else they are called by name. html: also one page with everything inside. notebook: also an
    executed notebook; notebook_page: it as a page, too. interactive: also scenes in three dimensions, a page each.

    Reads stored records only, so it works while a run goes on and after a part of it failed or was damaged: those
    scenes are in the tables with their reasons, and among several runs one that cannot be read is named and left out.
    Nothing is seen in ``out_dir`` before all of it is written. ``drawn`` is called after each scene and method.
    Raises StoreError when no run can be read, the disk refuses or a link stands in a run's folder, ConfigError for
    labels that do not fit, DependencyError when a notebook or scenes in three dimensions are wanted and their libraries
    are missing.
    """
    if notebook or notebook_page:
        from lingbot_eval.reports.notebook import require

        require()
    if interactive:
        from lingbot_eval.viewing.page import need_viser

        need_viser()
    opened = open_readable(runs, labels)
    if not opened.runs:
        raise StoreError("; ".join(opened.skipped))
    for run in runs:
        if out_dir.absolute().is_relative_to(run.absolute()):
            refuse_links(run.absolute(), out_dir.absolute())
    with staged(out_dir) as stage:
        for name in (FOLDER, "tables"):
            with writing(out_dir):
                (stage / name).mkdir()
        content = make_content(opened)
        scenes, units, tables = draw_units(opened.runs, stage, drawn, content.few)
        content = replace(content, scenes=scenes, units=units)
        if (pair := _pair(content, tables)) is not None:
            content = replace(content, pair=pair, agreement=draw_agreement(pair, stage, content.few))
        content = replace(content, sweeps=draw_sweeps(content.runs, stage))
        if interactive:
            content = replace(content, spaces=write_spaces(content.runs, stage))
        texts = _tables(content)
        if content.few is None:
            texts[MEASUREMENTS_FILE] = measurements_csv([(run.label, run.results) for run in opened.runs])
        texts[MARKDOWN_FILE] = markdown_page(content, MEASUREMENTS_FILE if content.few is None else None)
        if html:
            texts[HTML_FILE] = html_page(content, texts.get(MEASUREMENTS_FILE), stage)
        for name, text in texts.items():
            write_text(stage / name, text)
        if notebook or notebook_page:
            from lingbot_eval.reports.notebook import write_notebook

            page = stage / NOTEBOOK_PAGE if notebook_page else None
            write_notebook(content.runs, stage / NOTEBOOK_FILE, page)
        found = sorted(file.relative_to(stage) for file in stage.rglob("*") if file.is_file())
    # False comes before True: the page that a reader opens, then the rest by name.
    files = sorted(found, key=lambda name: (name.name != HTML_FILE, name.name != MARKDOWN_FILE, name))
    return WrittenReport(tuple(out_dir / name for name in files), content)


def _pair(content: Content, tables: Mapping[Path, Columns]) -> RunComparison | None:
    """One run against the other, where there are two that have something in common."""
    if len(content.runs) != 2:
        return None
    try:
        return compare_opened(*content.runs, tables)
    except ConfigError:
        # Two runs of different scenes stand beside each other in the tables.
        return None


def _tables(content: Content) -> dict[str, str]:
    """Texts by path below the report's folder."""
    texts = {f"tables/{slug(table.key)}.csv": csv_table(table) for table in content.tables}
    latex = "\n".join(shown(table).latex() for table in content.page_tables)
    return texts | {"tables/tables.tex": _LATEX_HEAD + latex}
