"""``lingbot-eval view``: a reconstruction in the browser, or as one HTML file."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from lingbot_eval.cli import output
from lingbot_eval.errors import one_line

_COLOURS = ("picture", "error", "confidence", "height", "frame", "method")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``view``."""
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


def run(args: argparse.Namespace) -> int:
    """Show until interrupted. Returns 0."""
    from lingbot_eval.api import view

    viewer = view(
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
    if args.open:
        webbrowser.open(viewer.address)
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
