"""``lingbot-eval``: its commands by name; the only place that catches the project's errors."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, NoReturn

from lingbot_eval import __version__
from lingbot_eval.cli import output
from lingbot_eval.errors import ConfigError, LingbotEvalError, StoreError, one_line, reason, shortage, shortened
from lingbot_eval.machine.environment import threads_that_share
from lingbot_eval.machine.wait import WAIT, process_age_s
from lingbot_eval.registry import load_plugins, place_in_plugin
from lingbot_eval.settings import nearest

# name -> module of lingbot_eval.cli, one-line help. The module has NAME_arguments(parser), which puts under ``do`` what
# takes the parsed words and returns the exit code; what is heavy (torch, matplotlib, evo) is imported there, so that
# --help is instant.
COMMANDS = {
    "run": ("run_command", "run an experiment file: stream, score, store"),
    "report": ("result_commands", "pages, tables, plots and a notebook of runs"),
    "render": ("scene_commands", "films and pictures of what a run reconstructed"),
    "export": ("scene_commands", "clouds, cameras, trajectories and depth of a run, for other programs"),
    "view": ("scene_commands", "look at a reconstruction in the browser"),
    "scale": ("scale_command", "speed, memory and error against the length of the stream"),
    "compare": ("result_commands", "two backends on the same frames, or two runs: agreement, speed, memory"),
    "datasets": ("datasets_command", "list, show, fetch, check or prepare datasets"),
    "score": ("score_command", "score a trajectory file against a reference"),
    "gate": ("result_commands", "hold a run against a baseline: accuracy, speed, memory"),
    "external": ("tool_commands", "check a wrapper of another method"),
    "env": ("tool_commands", "show what this machine is, as every record says it"),
    "schema": ("tool_commands", "the JSON schema of experiment files, for editors"),
    "completion": ("tool_commands", "a script that completes commands and options in your shell"),
    "verify": ("tool_commands", "rebuild the reference cases and compare: can this machine be trusted?"),
}


TRACEBACK_VARIABLE = "LINGBOT_EVAL_TRACEBACK"


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line like all others; sub-commands are of the same class."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")

    def parse_args(  # type: ignore[override]  # of the stubs' three overloads this is the one that is called
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """As of the base class, with the nearest option for one that does not exist."""
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            *_, innermost = parsers = self._in_use(args or ())
            word = rest[0].partition("=")[0]
            options = [option for parser in parsers for option in parser._option_string_actions]
            if word.startswith("-"):
                # What an outer command knows is right, but not here: it is no mistake of spelling.
                innermost.error(f"unknown option {word!r}{'' if word in options else nearest(word, options)}")
            innermost.error(f"unknown argument {word!r}")
        return found

    def _in_use(self, args: Sequence[str]) -> list[argparse.ArgumentParser]:
        """This parser and those of the commands that the words name."""
        parsers: list[argparse.ArgumentParser] = [self]
        for word in args:
            for action in parsers[-1]._actions:
                if isinstance(action, argparse._SubParsersAction) and word in action.choices:
                    parsers.append(action.choices[word])
                    break
        return parsers

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As of the base class, with the nearest choice."""
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        hint = nearest(str(value), choices)
        if isinstance(action, argparse._SubParsersAction):
            self.error(f"unknown {str(action.metavar).lower()} {value!r}{hint}; there are: {', '.join(choices)}")
        raise argparse.ArgumentError(action, f"expected {' or '.join(choices)}, found {value!r}{hint}")


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The command line. Its ``parse_args`` raises ConfigError.

    Args:
        only: the command whose options are wanted; the others are there by name. None: all of them.
    """
    parser = _Parser(prog="lingbot-eval", description="Evaluate streaming 3D reconstruction.")
    parser.add_argument("--version", action="version", version=f"lingbot-eval {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if only not in (None, name):
            continue
        getattr(importlib.import_module(f"lingbot_eval.cli.{module}"), f"{name}_arguments")(sub)
        sub.add_argument("--json", action="store_true", help="print one JSON document instead of text")
        sub.add_argument(
            "--plugin",
            metavar="FILE_OR_MODULE",
            action="append",
            default=[],
            help="run this Python file or module first: it adds datasets, methods or metrics (may be given again)",
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    0 done, 1 the command's own "no" (a failed case or scene), 2 bad input or environment, 3 a fault of the program
    itself, 130 interrupted. Whatever went wrong is one line on standard error, with ``--json`` also a document.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        WAIT.begin("start", process_age_s())
    try:
        # The first word that is no option: options before it take none.
        args = build_parser(next((word for word in words if not word.startswith("-")), "")).parse_args(words)
        with _libraries_hushed(), threads_that_share(), output.results_alone() if args.json else nullcontext():
            if args.plugin:
                load_plugins(args.plugin)
            try:
                code = int(args.do(args))
            except SystemExit as error:
                # Whatever of a plugin runs where nobody expects it to: its exit is not the command's, and not silent.
                raise ConfigError(f"code of a plugin failed: {one_line(error)}{place_in_plugin(error)}") from error
        output.finish()
        return code
    except LingbotEvalError as error:
        return _refused(2, shortened(str(error)), type(error).__name__, as_json="--json" in words)
    except BrokenPipeError:
        # The reader (head, less) went away: that is its right, and there is nobody left to tell.
        output.abandon()
        return 0
    except KeyboardInterrupt:
        output.note(text := "interrupted; run the same command again to continue")
        if "--json" in words:
            with suppress(StoreError, BrokenPipeError):
                output.as_json({"error": text, "kind": "KeyboardInterrupt"})
        return 130
    except Exception as error:  # the last resort: a user should not meet a traceback
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        lacking = shortage(error)
        if lacking is not None:
            text = f"the machine ran out of {lacking} ({reason(error)}); give the command more, or less to do"
            return _refused(2, text, type(error).__name__, as_json="--json" in words)
        if isinstance(error, OSError) and error.errno is not None:
            # A path that is too long, a folder that is not ours to read, a disk that fails: not the program's fault.
            text = f"{shortened(str(error.filename or 'the system'))}: {reason(error)}; check the path and the disk"
            return _refused(2, text, type(error).__name__, as_json="--json" in words)
        if place := place_in_plugin(error):
            text = f"code of a plugin failed: {one_line(error)}{place}; mend it there"
            return _refused(2, text, type(error).__name__, as_json="--json" in words)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = f"a fault of lingbot-eval itself, {type(error).__name__} in {frame.filename}:{frame.lineno}: {error}"
        hint = f"set {TRACEBACK_VARIABLE}=1 to see all of it, and report it"
        return _refused(3, f"{shortened(text)}; {hint}", type(error).__name__, as_json="--json" in words)


def _refused(code: int, text: str, kind: str, *, as_json: bool) -> int:
    output.note(f"error: {text}")
    # Standard output itself may be what failed.
    with suppress(StoreError, BrokenPipeError):
        if as_json:
            output.as_json({"error": text, "kind": kind})
        output.finish()
        return code
    output.abandon()
    return code


@contextmanager
def _libraries_hushed() -> Iterator[None]:
    """Keeps warnings of libraries (a picture's odd EXIF block) off the terminal, unless Python was asked for them."""
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.showwarning = lambda *_args, **_kwargs: None
            # Without a handler its errors go to standard error; what matters of them is in the exception as well.
            logging.getLogger("PIL").addHandler(logging.NullHandler())
        yield


if __name__ == "__main__":
    sys.exit(main())
