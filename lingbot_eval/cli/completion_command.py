"""``lingbot-eval completion SHELL``: a script that completes commands, options and file names."""

from __future__ import annotations

import argparse

from lingbot_eval.cli import output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The shell."""
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help='as in: eval "$(lingbot-eval completion bash)"')


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    from lingbot_eval.cli.main import build_parser

    output.line(shtab.complete(build_parser(), args.shell))
    return 0
