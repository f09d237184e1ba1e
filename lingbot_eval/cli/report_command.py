"""``lingbot-eval report``: tables and plots of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from lingbot_eval.cli import output
from lingbot_eval.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory (the one with run.json)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where the report goes (default: RUN/report)")


def run(args: argparse.Namespace) -> int:
    """Write the report; says which files, and shows the summary."""
    from lingbot_eval.reports.rendering import table_data, text_table
    from lingbot_eval.reports.report import write_report
    from lingbot_eval.reports.tables import read_results, wide_tables
    from lingbot_eval.runs.store import RunStore

    path = _run_directory(args.run)
    files = write_report(path, args.out if args.out is not None else path / "report")
    tables = wide_tables(read_results(RunStore.open(path)))
    if args.json:
        output.as_json(
            {
                "run": str(path),
                "files": [str(file) for file in files],
                "tables": [table_data(table) for table in tables],
            }
        )
        return 0
    if tables:
        output.line(text_table(tables[0]))
    output.line(f"report: {files[0]} ({len(files) - 1} more files beside it)")
    return 0


def _run_directory(given: Path) -> Path:
    """The run directory meant. Raises ConfigError that lists the runs near what was given."""
    from lingbot_eval.runs.store import RUN_FILE, find_runs

    if (given / RUN_FILE).is_file():
        return given
    # Somebody may well give the folder of all runs, or the experiment's name.
    near = find_runs(given) or tuple(
        path
        for folder in (given.parent, Path("runs"))
        for path in find_runs(folder)
        if path.name.startswith(given.stem)
    )
    near = tuple(dict.fromkeys(near))
    hint = f"give one of: {', '.join(str(path) for path in near)}" if near else "start one with: lingbot-eval run"
    found = "a folder without it" if given.is_dir() else "no such folder"
    raise ConfigError(f"expected a run directory (with {RUN_FILE}), found {found}: {given}; {hint}")
