"""``lingbot-eval view``: a reconstruction in the browser, or as one HTML file."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from lingbot_eval.cli import output

_COLOURS = ("picture", "error", "confidence", "height", "frame", "method")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``view``."""
    parser.add_argument("what", metavar="WHAT", help="a run directory")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one HTML file that needs no network instead")
    parser.add_argument("--colour", choices=_COLOURS, default="picture", help="of points (default: picture)")
    parser.add_argument("--points", type=int, metavar="N", help="points of each method at most (default: 2000000)")
    parser.add_argument("--port", type=int, default=8080, help="of the page; the next free one if taken (8080)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser of this machine")


def run(args: argparse.Namespace) -> int:
    """Show until interrupted. Returns 0."""
    from lingbot_eval.api import view

    viewer = view(args.what, html=args.html, colour=args.colour, points=args.points, port=args.port)
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
    try:
        while not viewer.wait(3600):
            pass
    except KeyboardInterrupt:
        pass
    finally:
        viewer.stop()
    return 0
