"""``lingbot-eval report``: pages, tables, plots and a notebook of one or more runs."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from lingbot_eval.cli import output
from lingbot_eval.errors import ConfigError

if TYPE_CHECKING:
    from lingbot_eval.reports.report import WrittenReport

DONE, SOME_MISSING = 0, 1
RUNS = Path("runs")
_NOTES = 20  # that a terminal shows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="*",
        type=Path,
        help=f"run directory (the one with run.json); several are set side by side; none: the latest under {RUNS}/",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="where the report goes (RUN/report; of several runs report-N-runs-KEY)"
    )
    parser.add_argument(
        "--label", dest="labels", metavar="TEXT", action="append", default=[], help="what to call a run, once for each"
    )
    parser.add_argument(
        "--html", action=argparse.BooleanOptionalAction, default=True, help="one page with everything inside it"
    )
    parser.add_argument(
        "--notebook",
        action="store_true",
        help="a notebook, executed, to go on from (extra notebook)",
    )
    parser.add_argument(
        "--interactive", action="store_true", help="each scene in three dimensions, a page beside it (extra view)"
    )
    parser.add_argument("--notebook-html", action="store_true", help="the notebook, and it as a page too")


def run(args: argparse.Namespace) -> int:
    """Write the report; says which files, and shows the summary.

    1 when records could not be read and were left out, or are missing and nobody writes them any more.
    """
    runs = [_run_directory(given) for given in args.runs] or [_latest()]
    written = _write(args, runs)
    content = written.content
    for reason in content.left_out:
        output.note(f"error: left out: {reason}")
    for each in content.runs:
        if each.results.unchecked:
            output.note(f"note: {each.label} could not be checked for damage: {each.results.unchecked}")
        if each.incomplete:
            output.note(f"{each.label} is incomplete: {each.incomplete}")
    _show(runs, written, as_json=args.json)
    gone = any(each.planned and each.incomplete and each.writer is None for each in content.runs)
    return SOME_MISSING if content.left_out or gone else DONE


def _write(args: argparse.Namespace, runs: Sequence[Path]) -> WrittenReport:
    from lingbot_eval.api import report

    out = args.out if args.out is not None else _default_folder(runs)
    # disable=None: tqdm shows itself on a terminal only.
    with tqdm(desc="drawing", unit="scene", file=sys.stderr, leave=False, disable=True if args.json else None) as bar:
        return report(
            runs,
            out,
            labels=args.labels,
            html=args.html,
            notebook=args.notebook,
            notebook_page=args.notebook_html,
            interactive=args.interactive,
            drawn=bar.update,
        )


def _show(runs: Sequence[Path], written: WrittenReport, *, as_json: bool) -> None:
    from lingbot_eval.reports.rendering import table_data, text_table

    tables = written.content.tables
    notes = written.content.notes
    if as_json:
        output.as_json(
            {
                "runs": [str(path) for path in runs],
                "files": [str(file) for file in written.files],
                "incomplete": {run.label: run.incomplete for run in written.content.runs if run.incomplete},
                "left_out": list(written.content.left_out),
                "notes": list(notes),
                "tables": [table_data(table) for table in tables],
            }
        )
        return
    if tables:
        output.line(text_table(written.content.page_tables[0]))
    for note in notes[:_NOTES]:
        output.line(f"note: {note}")
    if more := len(notes[_NOTES:]):
        output.line(f"note: {more} more remarks are on the page")
    output.line(f"report: {written.files[0]} ({len(written.files) - 1} more files beside it)")


def _default_folder(runs: Sequence[Path]) -> Path:
    from lingbot_eval.runs.store import REPORT

    if len(runs) == 1:
        return runs[0] / REPORT
    # The same runs again are the same report; others have another folder.
    digest = hashlib.sha256("\0".join(str(path.resolve()) for path in runs).encode(errors="surrogateescape"))
    return Path(f"report-{len(runs)}-runs-{digest.hexdigest()[:8]}")


def _latest() -> Path:
    """The run under ``runs/`` whose record was written last. Raises ConfigError when there is none."""
    from lingbot_eval.runs.store import RUN_FILE, find_runs

    found = find_runs(RUNS)
    if not found:
        raise ConfigError(
            f"expected a run directory, or runs under {RUNS}/ to take the latest of; found none: "
            "name one, or start one with: lingbot-eval run"
        )
    return max(found, key=lambda path: ((path / RUN_FILE).stat().st_mtime_ns, path.name))


def _run_directory(given: Path) -> Path:
    """The run directory meant. Raises ConfigError that lists the runs near what was given."""
    from lingbot_eval.runs.store import RUN_FILE, find_runs

    if (given / RUN_FILE).is_file():
        return given
    # Somebody may well give the folder of all runs, or the experiment's name.
    near = find_runs(given) or tuple(
        path for folder in (given.parent, RUNS) for path in find_runs(folder) if path.name.startswith(given.stem)
    )
    near = tuple(dict.fromkeys(near))
    hint = f"give one of: {', '.join(str(path) for path in near)}" if near else "start one with: lingbot-eval run"
    found = "a folder without it" if given.is_dir() else "no such folder"
    raise ConfigError(f"expected a run directory (with {RUN_FILE}), found {found}: {given}; {hint}")
