"""``render``, ``export``, ``view``: films, files and pages of what a run reconstructed."""

from __future__ import annotations

import argparse
import re
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from lingbot_eval.cli import output
from lingbot_eval.errors import LingbotEvalError, one_line

if TYPE_CHECKING:
    from lingbot_eval.viewing.scaled import Scale


DONE, SOME_MISSING = 0, 1


def render_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.set_defaults(do=render)
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
        help="default, indoor, outdoor, or a YAML file with what to change (docs, films)",
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


def render(args: argparse.Namespace) -> int:
    """Draw, and say which files; 1 when something that was asked for could not be drawn."""
    from lingbot_eval.api import render as draw
    from lingbot_eval.stored.disk import component

    files: list[Path] = []
    notes: list[str] = []
    for path in args.runs:
        # Of several runs each has a folder of its own name.
        out = args.out if len(args.runs) == 1 else args.out / component(path.resolve().name)
        with output.Bars("frame", quiet=args.json) as drawn:
            try:
                done = draw(
                    path,
                    out,
                    args.settings,
                    set=args.overrides,
                    units=args.units,
                    still=args.still,
                    device=args.device,
                    on_frame=drawn,
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


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_POINT = rf"({_NUMBER}),({_NUMBER}),({_NUMBER})"
_TWO_POINTS = re.compile(rf"{_POINT}:{_POINT}=({_NUMBER})", re.ASCII)


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.set_defaults(do=export)
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


def export(args: argparse.Namespace) -> int:
    """Write the files and say which; 1 when something that was asked for could not be written."""
    from lingbot_eval.api import export as write_files

    with output.bar(None, "exporting", "format", quiet=args.json) as bar:
        done = write_files(
            args.run,
            args.out,
            args.formats or ("ply", "tum"),
            units=args.units,
            scale=args.scale,
            poses=args.poses,
            share=args.share,
            written=lambda what: bar.update(),
        )
    code = SOME_MISSING if done.left_out else DONE
    for text in done.notes:
        output.note(f"{'error' if text in done.left_out else 'note'}: {text}")
    if args.json:
        output.as_json({"out": str(args.out), "files": [str(file) for file in done.files], "notes": list(done.notes)})
        return code
    folders: dict[Path, list[Path]] = {}
    for file in done.files:
        folders.setdefault(file.parent, []).append(file)
    for folder, files in folders.items():
        some = ", ".join(file.name for file in files[:4])
        output.line(f"{folder}: {some}{f' and {len(files) - 4} more' if len(files) > 4 else ''}")
    return code


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


_COLOURS = ("picture", "error", "confidence", "height", "frame", "method")


def view_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``view``."""
    parser.set_defaults(do=view)
    parser.add_argument(
        "what",
        metavar="WHAT",
        help="a run directory; or images that are streamed while you look: a folder, a video, camera:0, rtsp://…,"
        " DATASET/SCENE",
    )
    parser.add_argument("--root", type=Path, metavar="PATH", help="of the dataset, where it is read from disk")
    parser.add_argument(
        "--checkpoint", default="shipped", metavar="WEIGHTS", help="for images: as of run photos (default: shipped)"
    )
    parser.add_argument("--config", choices=("full", "mini", "ci"), help="for images: of the network")
    parser.add_argument("--device", default="auto", help="for images: cpu, cuda … (default: auto)")
    parser.add_argument("--frames", type=int, metavar="N", help="of images, at most so many")
    parser.add_argument("--stride", type=int, metavar="K", help="of images, every K-th")
    parser.add_argument("--sky", default="heuristic", metavar="MODEL", help="of images: an ONNX network (heuristic)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one HTML file that needs no network instead")
    parser.add_argument("--colour", choices=_COLOURS, default="picture", help="of points (default: picture)")
    parser.add_argument("--points", type=int, metavar="N", help="points of each method at most (default: 2000000)")
    parser.add_argument("--port", type=int, default=8080, help="of the page; the next free one if taken (8080)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser of this machine")


def view(args: argparse.Namespace) -> int:
    """Show until interrupted. Returns 0."""
    from lingbot_eval.api import view as show

    viewer = show(
        args.what,
        root=args.root,
        model=None if args.checkpoint == "none" else args.checkpoint,
        config=args.config,
        device=args.device,
        frames=args.frames,
        stride=args.stride,
        sky=args.sky,
        html=args.html,
        colour=args.colour,
        points=args.points,
        port=args.port,
    )
    if viewer is None:
        if args.json:
            output.as_json({"html": str(args.html)})
        else:
            output.line(f"page: {args.html}")
        return 0
    if viewer.moved:
        output.note(f"port {viewer.moved} is in use; the next free one is taken")
    port = viewer.address.rpartition(":")[2]
    forward = f"ssh -L {port}:127.0.0.1:{port} THIS_MACHINE"
    if args.json:
        output.as_json({"address": viewer.address, "ssh": forward})
    else:
        output.line(f"page: {viewer.address}")
        output.line(f"from another machine: {forward}   then open the same address there")
    output.finish()
    if args.open and not webbrowser.open(viewer.address):
        output.note("no browser could be opened here: open the address yourself")
    told = False
    try:
        while not viewer.wait(1):
            filling = viewer.filling
            if filling is not None and not told and filling.wait(0):
                told = True
                words = f"{filling.frames} frames" if filling.error is None else one_line(filling.error)
                output.note(f"the stream ended: {words}; the page stays until you press Ctrl-C")
    except KeyboardInterrupt:
        output.note("ended")
    finally:
        viewer.stop()
    return 2 if viewer.filling is not None and viewer.filling.error is not None else 0
