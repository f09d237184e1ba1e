"""``report``, ``gate``, ``compare``: what stored runs say, by themselves, against a baseline, against each other."""

from __future__ import annotations

import argparse
import gc
import getpass
import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lingbot_eval.cli import output
from lingbot_eval.errors import ConfigError, LingbotEvalError
from lingbot_eval.settings import nearest
from lingbot_eval.streaming.settings import BACKENDS

if TYPE_CHECKING:
    from lingbot_eval.gating.judge import Verdict
    from lingbot_eval.reports.report import WrittenReport
    from lingbot_eval.tables import Table


DONE, SOME_MISSING = 0, 1
RUNS = Path("runs")
_NOTES = 20  # that a terminal shows


def report_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.set_defaults(do=report)
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


def report(args: argparse.Namespace) -> int:
    """Write the report; says which files, and shows the summary.

    1 when records could not be read and were left out, or are missing and nobody writes them any more.
    """
    with _seldom_collected():
        runs = [_run_directory(given) for given in args.runs] or [_latest()]
        written = _write_report(args, runs)
    content = written.content
    for reason in content.left_out:
        output.note(f"error: left out: {reason}")
    for each in content.runs:
        if each.results.unchecked:
            output.note(f"note: {each.label} could not be checked for damage: {each.results.unchecked}")
        if each.incomplete:
            output.note(f"{each.label} is incomplete: {each.incomplete}")
    _show_report(runs, written, as_json=args.json)
    gone = any(each.planned and each.incomplete and each.writer is None for each in content.runs)
    return SOME_MISSING if content.left_out or gone else DONE


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Libraries that load and figures that are drawn are many small objects, few of them garbage: to look for it as
    often as usual takes a twelfth of the time of a report of one scene. Of several, some figures that are done wait."""
    usual = gc.get_threshold()
    gc.set_threshold(50_000, 2, 2)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _write_report(args: argparse.Namespace, runs: Sequence[Path]) -> WrittenReport:
    from lingbot_eval.api import report as write

    out = args.out if args.out is not None else _default_folder(runs)
    with output.bar(None, "drawing", "scene", quiet=args.json) as bar:
        return write(
            runs,
            out,
            labels=args.labels,
            html=args.html,
            notebook=args.notebook,
            notebook_page=args.notebook_html,
            interactive=args.interactive,
            drawn=bar.update,
        )


def _show_report(runs: Sequence[Path], written: WrittenReport, *, as_json: bool) -> None:
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
    from lingbot_eval.stored.store import REPORT

    if len(runs) == 1:
        return runs[0] / REPORT
    # The same runs again are the same report; others have another folder.
    digest = hashlib.sha256("\0".join(str(path.resolve()) for path in runs).encode(errors="surrogateescape"))
    return Path(f"report-{len(runs)}-runs-{digest.hexdigest()[:8]}")


def _latest() -> Path:
    """The run under ``runs/`` whose record was written last. Raises ConfigError when there is none."""
    from lingbot_eval.stored.store import RUN_FILE, find_runs

    found = find_runs(RUNS)
    if not found:
        raise ConfigError(
            f"expected a run directory, or runs under {RUNS}/ to take the latest of; found none: "
            "name one, or start one with: lingbot-eval run"
        )
    return max(found, key=lambda path: ((path / RUN_FILE).stat().st_mtime_ns, path.name))


def _run_directory(given: Path) -> Path:
    """The run directory meant. Raises ConfigError that lists the runs near what was given."""
    from lingbot_eval.stored.store import RUN_FILE, find_runs

    if (given / RUN_FILE).is_file():
        return given
    # Somebody may well give the folder of all runs, or the experiment's name.
    near = find_runs(given) or tuple(
        path for folder in (given.parent, RUNS) for path in find_runs(folder) if path.name.startswith(given.stem)
    )
    near = tuple(dict.fromkeys(near))
    hint = f"give one of: {', '.join(str(path) for path in near)}" if near else "start one with: lingbot-eval run"
    found = "a folder without it" if given.is_dir() else "a file" if given.exists() else "no such folder"
    raise ConfigError(f"expected a run directory (with {RUN_FILE}), found {found}: {given}; {hint}")


UPDATED = 0


def gate_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.set_defaults(do=gate)
    parser.add_argument(
        "runs", metavar="RUN", type=Path, nargs="+", help="run directories, or folders of them: repeats of one run"
    )
    against = parser.add_mutually_exclusive_group(required=True)
    against.add_argument("--baseline", metavar="FILE", type=Path, help="the baseline (YAML)")
    against.add_argument(
        "--against",
        metavar="RUN",
        type=Path,
        nargs="+",
        help="repeats of another run instead of a baseline, measured in turn with the first: live A/B",
    )
    parser.add_argument(
        "--require",
        metavar="FAMILY",
        nargs="+",
        choices=("accuracy", "speed", "memory"),
        help="families whose verdict decides the exit code (default: all that are judged); the others are shown",
    )
    parser.add_argument("--update", action="store_true", help="make the run the baseline; needs --reason")
    parser.add_argument("--reason", metavar="TEXT", help="with --update: why the numbers changed, for the history")
    parser.add_argument("--who", metavar="NAME", help="with --update: for the history (default: the login name)")
    parser.add_argument("--junit", metavar="FILE", type=Path, help="write JUnit XML for CI")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the summary as Markdown")


def gate(args: argparse.Namespace) -> int:
    """0 held (or updated), 1 regression, 2 could not be judged."""
    from lingbot_eval.api import gate

    _check_options(args)
    if args.update:
        return _update_baseline(args)
    verdict = gate(args.runs, baseline=args.baseline, against=args.against, require=args.require)
    _write_verdict(args, verdict)
    return verdict.exit_code


def _check_options(args: argparse.Namespace) -> None:
    """Raises ConfigError for options that do not go together."""
    if args.update and args.baseline is None:
        raise ConfigError("--update writes a baseline: give --baseline FILE, not --against")
    if args.update and not (args.reason and args.reason.strip()):
        raise ConfigError('--update needs --reason "…": the history says why the numbers changed')
    idle = [name for name in ("reason", "who") if getattr(args, name) is not None and not args.update]
    idle += [name for name in ("junit", "markdown", "require") if getattr(args, name) is not None and args.update]
    if idle:
        raise ConfigError(f"--{idle[0]} has no meaning {'with' if args.update else 'without'} --update")


def _write_verdict(args: argparse.Namespace, verdict: Verdict) -> None:
    from lingbot_eval.files.atomic import write_text
    from lingbot_eval.gating.summary import document, junit_xml, markdown

    if args.junit is not None:
        write_text(args.junit, junit_xml(verdict))
    if args.markdown is not None:
        write_text(args.markdown, markdown(verdict))
    if args.json:
        output.as_json(document(verdict))
    else:
        output.line(markdown(verdict).rstrip("\n"))


def _update_baseline(args: argparse.Namespace) -> int:
    from lingbot_eval.api import update_baseline
    from lingbot_eval.gating.baseline import given_up
    from lingbot_eval.gating.judge import Statistical
    from lingbot_eval.statistics import FEWEST_ROUNDS

    old, new = update_baseline(
        args.runs,
        args.baseline,
        reason=args.reason.strip(),
        who=args.who or _login(),
        left_out=lambda line: output.note(f"note: {line}"),
    )
    change = new.history[-1]
    replaced = sum(len(values) for values in change.replaced.values())
    if args.json:
        output.as_json({"baseline": str(args.baseline), "updates": len(new.history), **change.model_dump(mode="json")})
    else:
        words = "written" if old is None else f"updated, {replaced} values replaced (the old ones are in its history)"
        output.line(f"{args.baseline}: {words}; {len(new.units)} scenes, rounds of timings: {change.rounds}")
    for line in () if old is None else given_up(old, new):
        output.note(f"note: {line}")
    for unit in new.units:
        if unit.failure is not None:
            output.note(f"note: {unit.dataset}/{unit.scene}/{unit.method} is in the baseline as it is: {unit.failure}")
    by_rounds = any(isinstance(tolerance, Statistical) for tolerance in new.tolerances)
    if by_rounds and change.rounds < FEWEST_ROUNDS:
        output.note(f"note: speed needs {FEWEST_ROUNDS} rounds to be judged, better 10: give repeats of the run")
    return UPDATED


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        # A container may have no such user: Python 3.13 raises OSError, earlier ones what pwd raises.
        return "unknown"


DONE, SOME_FAILED = 0, 1
EXPERIMENT, ROUNDS = "smoke", 5
RUN_FILE = "run.json"


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.set_defaults(do=compare)
    names = ", ".join(BACKENDS)
    parser.add_argument(
        "a", metavar="A", help=f"a run directory, or a backend ({names}), as in sdpa:bfloat16 or triton:float16:8"
    )
    parser.add_argument("b", metavar="B", help="what it is compared with: another of the same kind")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where page and figures go (compare-A-B)")
    group = parser.add_argument_group("comparing backends")
    group.add_argument("--experiment", metavar="EXPERIMENT", help=f"where frames and model come from ({EXPERIMENT})")
    group.add_argument("--scene", metavar="NAME", help="one of its scenes (the first)")
    group.add_argument("--frames", type=_positive, metavar="N", help="only the first N frames")
    group.add_argument("--rounds", type=_positive, metavar="N", help=f"timed passes of each side ({ROUNDS})")
    group.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY.PATH=VALUE",
        action="append",
        help="override a setting of the experiment (may be given again)",
    )
    group.add_argument(
        "--no-reference",
        action="store_true",
        default=None,
        help="do not hold both against torch's attention in float32",
    )


def compare(args: argparse.Namespace) -> int:
    """0 compared, 1 something could not be compared to the end."""
    backends = [_is_backend(args.a), _is_backend(args.b)]
    if all(backends):
        return _backends(args)
    runs = [(Path(given) / RUN_FILE).is_file() for given in (args.a, args.b)]
    if all(runs):
        return _runs(args)
    for given, backend in zip((args.a, args.b), backends, strict=True):
        if not backend and Path(given).exists():
            _run_directory(Path(given))
    found = " and ".join(
        f"{given} ({'a backend' if backend else 'a run' if run else 'neither'})"
        f"{'' if backend or run else nearest(given, BACKENDS)}"
        for given, backend, run in zip((args.a, args.b), backends, runs, strict=True)
    )
    raise ConfigError(
        f"expected two run directories (with {RUN_FILE}) or two backends ({', '.join(BACKENDS)}), found {found}"
    )


def _backends(args: argparse.Namespace) -> int:
    from lingbot_eval.api import compare_backends
    from lingbot_eval.comparison.page import document, failures, prepare_folder, tables, title, write_backends
    from lingbot_eval.stored.disk import missing_folders, remove_empty

    out = args.out or Path(f"compare-{_slug(args.a)}-{_slug(args.b)}")
    bar = output.bar(None, "", "frame", quiet=args.json)

    def frame(total: int | None) -> None:
        bar.total = total
        bar.update()

    made = missing_folders(out)
    try:
        with bar:
            found = compare_backends(
                args.a,
                args.b,
                experiment=args.experiment or EXPERIMENT,
                set=args.overrides or (),
                scene=args.scene,
                frames=args.frames,
                rounds=args.rounds or ROUNDS,
                with_reference=not args.no_reference,
                prepared=lambda: prepare_folder(out),
                each_frame=frame,
            )
    except LingbotEvalError:
        remove_empty(made)
        raise
    files = write_backends(found, out)
    if args.json:
        output.as_json({**document(found), "files": [str(file) for file in files]})
    else:
        _show_comparison(title(found), tables(found), files)
    for line in failures(found):
        output.note(f"error: {line}")
    return SOME_FAILED if failures(found) else DONE


def _runs(args: argparse.Namespace) -> int:
    from lingbot_eval.api import compare
    from lingbot_eval.reports.two_runs import document, remarks, tables, title, write_runs

    given = ("experiment", "scene", "frames", "rounds", "overrides", "no_reference")
    meaningless = [name for name in given if getattr(args, name) is not None]
    if meaningless:
        option = "--set" if meaningless[0] == "overrides" else f"--{meaningless[0].replace('_', '-')}"
        raise ConfigError(f"{option} has a meaning for backends only; two runs are compared as they are stored")
    found = compare(args.a, args.b)
    out = args.out or Path(f"compare-{_slug(Path(args.a).name)}-{_slug(Path(args.b).name)}")
    files = write_runs(found, out)
    if args.json:
        output.as_json({**document(found), "files": [str(file) for file in files]})
    else:
        _show_comparison(title(found), tables(found), files)
    for line in remarks(found):
        output.note(f"note: {line}")
    for line in found.failures:
        output.note(f"error: {line}")
    return SOME_FAILED if found.failures else DONE


def _show_comparison(title: str, tables: tuple[Table, ...], files: tuple[Path, ...]) -> None:
    output.line(title)
    output.line()
    for table in tables:
        output.line(table.markdown())
    output.line(f"written: {', '.join(str(file) for file in files)}")


def _is_backend(given: str) -> bool:
    return given.partition(":")[0] in BACKENDS


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:60] or "unnamed"


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return value
