"""``lingbot-eval compare A B``: two backends on the same frames, or two runs."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lingbot_eval.cli import output
from lingbot_eval.errors import ConfigError, LingbotEvalError
from lingbot_eval.streaming.settings import BACKENDS
from lingbot_eval.validation import nearest

if TYPE_CHECKING:
    from lingbot_eval.tables import Table

DONE, SOME_FAILED = 0, 1
EXPERIMENT, ROUNDS = "smoke", 5
RUN_FILE = "run.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
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


def run(args: argparse.Namespace) -> int:
    """0 compared, 1 something could not be compared to the end."""
    backends = [_is_backend(args.a), _is_backend(args.b)]
    if all(backends):
        return _backends(args)
    runs = [(Path(given) / RUN_FILE).is_file() for given in (args.a, args.b)]
    if all(runs):
        return _runs(args)
    found = " and ".join(
        f"{given} ({'a backend' if backend else 'a run' if run else 'neither'})"
        f"{'' if backend or run else nearest(given, BACKENDS)}"
        for given, backend, run in zip((args.a, args.b), backends, runs, strict=True)
    )
    raise ConfigError(
        f"expected two run directories (with {RUN_FILE}) or two backends ({', '.join(BACKENDS)}), found {found}"
    )


def _backends(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from lingbot_eval.api import compare_backends
    from lingbot_eval.comparison.page import document, failures, prepare_folder, tables, title, write_backends
    from lingbot_eval.runs.disk import missing_folders, remove_empty

    out = args.out or Path(f"compare-{_slug(args.a)}-{_slug(args.b)}")
    # disable=None: tqdm shows itself on a terminal only.
    bar = tqdm(unit="frame", file=sys.stderr, leave=False, disable=True if args.json else None)

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
        _show(title(found), tables(found), files)
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
        _show(title(found), tables(found), files)
    for line in remarks(found):
        output.note(f"note: {line}")
    for line in found.failures:
        output.note(f"error: {line}")
    return SOME_FAILED if found.failures else DONE


def _show(title: str, tables: tuple[Table, ...], files: tuple[Path, ...]) -> None:
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
