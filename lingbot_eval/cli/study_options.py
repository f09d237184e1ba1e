"""Options that commands share which run a settings file into a run directory, and how they are repeated."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lingbot_eval.errors import ConfigError

if TYPE_CHECKING:
    from lingbot_eval.runs.execute import Parallel

RUNS = Path("runs")


def add_study_options(parser: argparse.ArgumentParser, example: str) -> None:
    """``--set``, ``--out`` and how units are spread; example: an override worth showing."""
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY.PATH=VALUE",
        action="append",
        default=[],
        help=f"override a setting, e.g. {example} (may be given again)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="do units in so many processes of this machine, one a GPU where there are several; the same command may"
        " run several times, on other hosts, too, that share the folder",
    )
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="do the I-th of N shares (from 1), as one task of a job array",
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="have the workers of a Dask cluster do the units")
    parser.add_argument(
        "--share-host",
        action="store_true",
        help="with one of these: let timed units run beside others; their times are marked, and no gate takes them",
    )
    parser.add_argument("--out", type=Path, default=RUNS, metavar="DIR", help=f"where run directories go ({RUNS})")


def study_words(args: argparse.Namespace) -> list[str]:
    """The words that give these options again; what is as it is without them is left out."""
    words = [word for override in args.overrides for word in ("--set", override)]
    words += [word for plugin in args.plugin for word in ("--plugin", plugin)]
    return words if args.out == RUNS else [*words, "--out", str(args.out)]


def parallel_of(args: argparse.Namespace) -> Parallel | None:
    """How the options spread the units; None for one after the other in this process. Raises ConfigError."""
    from lingbot_eval.runs.execute import Parallel

    if args.workers is None and args.shard is None and args.scheduler is None:
        if args.share_host:
            raise ConfigError("--share-host has no meaning without --workers, --shard or --scheduler")
        return None
    shard = None
    if args.shard is not None:
        words = args.shard.split("/")
        if len(words) != 2 or not all(word.isascii() and word.isdecimal() for word in words):
            raise ConfigError(f"--shard: expected I/N such as 1/8, found {args.shard!r}")
        shard = int(words[0]), int(words[1])
    return Parallel(1 if args.workers is None else args.workers, shard, args.scheduler, args.share_host)
