"""``lingbot-eval external check COMMAND``: is a wrapper of an outside method right?"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from lingbot_eval.cli import output

if TYPE_CHECKING:
    from lingbot_eval.verification.wrapper import WrapperCheck

FINE, PROBLEMS = 0, 1
_SHOWN_LINES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sub-commands and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check", help="run a wrapper on ten made-up frames and say what is wrong: poses, scale, times, messages"
    )
    check.add_argument(
        "words",
        metavar="COMMAND",
        nargs="+",
        help="program and arguments, as under 'command' of the experiment; put -- before it where it has options",
    )
    check.add_argument("--mode", choices=("pipe", "job"), help="only this way of talking to it (default: both)")
    check.add_argument(
        "--timeout", type=float, default=600, metavar="SECONDS", help="what it may take, loading included (600)"
    )
    check.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON document")


def run(args: argparse.Namespace) -> int:
    """0 nothing wrong, 1 problems; a program that is not there is bad input."""
    from lingbot_eval.api import check_wrapper

    checks = []
    for check in check_wrapper(args.words, mode=args.mode, timeout_s=args.timeout):
        checks.append(check)
        if not args.json:
            _print(check)
    if args.json:
        output.as_json({"command": args.words, "checks": [asdict(check) for check in checks]})
    return PROBLEMS if any(check.problems for check in checks) else FINE


def _print(check: WrapperCheck) -> None:
    verdict = "PROBLEMS" if check.problems else "fine"
    output.line(f"{check.mode}: {verdict}: {check.poses} of {check.frames} frames have a pose")
    for problem in check.problems:
        output.line(f"  PROBLEM {problem}")
    for note in check.notes:
        output.line(f"          {note}")
    if check.problems and check.log:
        output.line("  its log ends:")
        for line in check.log[-_SHOWN_LINES:]:
            output.line(f"    {line}")
