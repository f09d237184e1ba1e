"""``lingbot-eval export``: clouds, cameras, trajectories and depth of a run, for other programs."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lingbot_eval.cli import output

if TYPE_CHECKING:
    from lingbot_eval.viewing.scaled import Scale

DONE = 0
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_POINT = rf"({_NUMBER}),({_NUMBER}),({_NUMBER})"
_TWO_POINTS = re.compile(rf"{_POINT}:{_POINT}=({_NUMBER})", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory (the one with run.json)")
    parser.add_argument("-o", "--out", metavar="DIR", type=Path, required=True, help="where the files go")
    parser.add_argument(
        "--format",
        dest="formats",
        metavar="NAME",
        nargs="+",
        action="extend",
        help="ply, glb, colmap, colmap-binary, nerfstudio (transforms.json), tum, kitti, euroc, depth-png, depth-exr, "
        "rerun; several may be given (ply tum)",
    )
    parser.add_argument(
        "--units", metavar="PATTERN", default="*", help="only what fits dataset/scene/method, as in '*/office/*'"
    )
    parser.add_argument(
        "--scale",
        metavar="SCALE",
        type=_scale,
        help="to metres: a factor, X,Y,Z:X,Y,Z=METRES for two points of the cloud, or truth; without it "
        "lengths are the method's own",
    )
    parser.add_argument(
        "--poses",
        metavar="FILE",
        type=Path,
        help="make the cloud anew on these poses (any trajectory), from kept depth",
    )
    parser.add_argument(
        "--share", metavar="SHARE", type=float, help="of the cloud, those of the highest confidence (0.7; 1 is all)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the files and say which."""
    from tqdm import tqdm

    from lingbot_eval.api import export

    # disable=None: tqdm shows itself on a terminal only.
    with tqdm(
        desc="exporting", unit="format", file=sys.stderr, leave=False, disable=True if args.json else None
    ) as bar:
        done = export(
            args.run,
            args.out,
            args.formats or ("ply", "tum"),
            units=args.units,
            scale=args.scale,
            poses=args.poses,
            share=args.share,
            written=lambda what: bar.update(),
        )
    for text in done.notes:
        output.note(f"note: {text}")
    if args.json:
        output.as_json({"out": str(args.out), "files": [str(file) for file in done.files], "notes": list(done.notes)})
        return DONE
    folders: dict[Path, list[Path]] = {}
    for file in done.files:
        folders.setdefault(file.parent, []).append(file)
    for folder, files in folders.items():
        some = ", ".join(file.name for file in files[:4])
        output.line(f"{folder}: {some}{f' and {len(files) - 4} more' if len(files) > 4 else ''}")
    return DONE


def _scale(text: str) -> Scale:
    if text == "truth":
        return "truth"
    found = _TWO_POINTS.fullmatch(text)
    if found is not None:
        x1, y1, z1, x2, y2, z2, metres = map(float, found.groups())
        return (x1, y1, z1), (x2, y2, z2), metres
    try:
        if re.fullmatch(_NUMBER, text, re.ASCII):
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected a factor, X,Y,Z:X,Y,Z=METRES or truth, found {text!r}")
