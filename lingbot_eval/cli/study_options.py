"""Options that commands share which run a settings file into a run directory, and how they are repeated."""

from __future__ import annotations

import argparse
from pathlib import Path

RUNS = Path("runs")


def add_study_options(parser: argparse.ArgumentParser, example: str) -> None:
    """``--set`` and ``--out``; example: an override worth showing."""
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY.PATH=VALUE",
        action="append",
        default=[],
        help=f"override a setting, e.g. {example} (may be given again)",
    )
    parser.add_argument("--out", type=Path, default=RUNS, metavar="DIR", help=f"where run directories go ({RUNS})")


def study_words(args: argparse.Namespace) -> list[str]:
    """The words that give these options again; what is as it is without them is left out."""
    words = [word for override in args.overrides for word in ("--set", override)]
    words += [word for plugin in args.plugin for word in ("--plugin", plugin)]
    return words if args.out == RUNS else [*words, "--out", str(args.out)]
