"""``lingbot-eval gate RUN --baseline FILE``: did anything get worse?"""

from __future__ import annotations

import argparse
import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from lingbot_eval.cli import output
from lingbot_eval.errors import ConfigError

if TYPE_CHECKING:
    from lingbot_eval.gating.judge import Verdict

UPDATED = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
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


def run(args: argparse.Namespace) -> int:
    """0 held (or updated), 1 regression, 2 could not be judged."""
    from lingbot_eval.api import gate

    _check(args)
    if args.update:
        return _update(args)
    verdict = gate(args.runs, baseline=args.baseline, against=args.against, require=args.require)
    _write(args, verdict)
    return verdict.exit_code


def _check(args: argparse.Namespace) -> None:
    """Raises ConfigError for options that do not go together."""
    if args.update and args.baseline is None:
        raise ConfigError("--update writes a baseline: give --baseline FILE, not --against")
    if args.update and not (args.reason and args.reason.strip()):
        raise ConfigError('--update needs --reason "…": the history says why the numbers changed')
    idle = [name for name in ("reason", "who") if getattr(args, name) is not None and not args.update]
    idle += [name for name in ("junit", "markdown", "require") if getattr(args, name) is not None and args.update]
    if idle:
        raise ConfigError(f"--{idle[0]} has no meaning {'with' if args.update else 'without'} --update")


def _write(args: argparse.Namespace, verdict: Verdict) -> None:
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


def _update(args: argparse.Namespace) -> int:
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
