"""``lingbot-eval render``: films and pictures of what a run reconstructed, without a browser or a GPU."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lingbot_eval.cli import output
from lingbot_eval.errors import LingbotEvalError

DONE, SOME_MISSING = 0, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run directory (the one with run.json)")
    parser.add_argument(
        "-o",
        "--out",
        metavar="PATH",
        type=Path,
        required=True,
        help="the film (.mp4) or picture (.png) of one scene and method; else a folder for all of them",
    )
    parser.add_argument(
        "--settings",
        metavar="NAME_OR_FILE",
        default="default",
        help="default, indoor, outdoor, or a YAML file with what to change (docs, viewing)",
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="one setting, such as camera.0.mode=orbit, size=[1920,1080], beside=[image,depth] (may be given again)",
    )
    parser.add_argument(
        "--units", metavar="PATTERN", default="*", help="only what fits dataset/scene/method, as in '*/office/*'"
    )
    parser.add_argument("--still", metavar="FRAME", type=int, help="one picture at this frame (-1: the last), no film")
    parser.add_argument("--device", metavar="DEVICE", default="cpu", help="cpu, or cuda to draw the points there")


def run(args: argparse.Namespace) -> int:
    """Draw, and say which files; 1 when something that was asked for could not be drawn."""
    from lingbot_eval.api import render
    from lingbot_eval.runs.disk import component

    files: list[Path] = []
    notes: list[str] = []
    for path in args.runs:
        # Of several runs each has a folder of its own name.
        out = args.out if len(args.runs) == 1 else args.out / component(path.resolve().name)
        with _Bar(quiet=args.json) as bar:
            try:
                done = render(
                    path,
                    out,
                    args.settings,
                    set=args.overrides,
                    units=args.units,
                    still=args.still,
                    device=args.device,
                    on_frame=bar.drawn,
                )
            except LingbotEvalError as error:
                if len(args.runs) == 1:
                    raise
                notes.append(f"left out: {path}: {error}")
                continue
        files += done.files
        notes += done.notes
    for text in notes:
        output.note(f"error: {text}")
    if args.json:
        output.as_json({"files": [str(file) for file in files], "notes": notes})
    else:
        for file in files:
            output.line(str(file))
    return SOME_MISSING if notes else DONE


class _Bar:
    """A bar for each film on a terminal; nothing elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._name: str | None = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def drawn(self, name: str, number: int, total: int) -> None:
        """One picture more of the film of ``name``."""
        from tqdm import tqdm

        if name != self._name:
            if self._bar is not None:
                self._bar.close()
            # disable=None: tqdm shows itself on a terminal only.
            self._name, self._bar = (
                name,
                tqdm(
                    total=total,
                    desc=output.printable(name),
                    unit="frame",
                    file=sys.stderr,
                    leave=False,
                    disable=True if self._quiet else None,
                ),
            )
        self._bar.update(number - self._bar.n)
