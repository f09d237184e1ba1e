"""``lingbot-eval``: one sub-command a module; the only place that catches the project's errors."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from lingbot_eval import __version__
from lingbot_eval.cli import output
from lingbot_eval.errors import LingbotEvalError

# name -> one-line help. The module lingbot_eval.cli.NAME_command has add_arguments(parser) and run(args) -> exit code,
# and imports what is heavy (torch, matplotlib, evo) inside run, so that --help is instant.
COMMANDS = {
    "run": "run an experiment file: stream, score, store",
    "report": "tables and plots of a run",
    "score": "score a trajectory file against a reference",
    "verify": "rebuild the reference cases and compare: can this machine be trusted?",
}


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"lingbot_eval.cli.{command}_command")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="lingbot-eval", description="Evaluate streaming 3D reconstruction.")
    parser.add_argument("--version", action="version", version=f"lingbot-eval {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        _module(name).add_arguments(sub)
        sub.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 the command's own "no" (a failed case or scene), 2 bad input or environment."""
    args = build_parser().parse_args(argv)
    try:
        return int(_module(args.command).run(args))
    except LingbotEvalError as error:
        output.note(f"error: {error}")
        if args.json:
            output.as_json({"error": str(error), "kind": type(error).__name__})
        return 2
    except BrokenPipeError:
        # The reader (head, less) went away: that is its right, and there is nobody left to tell.
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        output.note("interrupted; run the same command again to continue")
        return 130


if __name__ == "__main__":
    sys.exit(main())
