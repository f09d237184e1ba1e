"""``python -m benchmarks.stages``: where the milliseconds of a streaming step go, and the least the machine allows."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from lingbot_eval.cli import output
from lingbot_eval.errors import ConfigError, LingbotEvalError
from lingbot_eval.streaming.backends import BACKENDS


def main(words: Sequence[str] | None = None) -> int:
    """0 done, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    _add_arguments(parser)
    try:
        return run(parser.parse_args(words))
    except LingbotEvalError as error:
        output.note(f"error: {error}")
        return 2


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", choices=("full", "mini", "ci"), default="ci", help="network (default: ci)")
    parser.add_argument("--size", default="224x168", metavar="WxH", help="image size (default: 224x168)")
    parser.add_argument("--frame", type=int, default=200, help="frame of the stream, every one kept (default: 200)")
    parser.add_argument("--backend", choices=BACKENDS, default="auto")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def run(args: argparse.Namespace) -> int:
    """Prints the table; 0."""
    from dataclasses import asdict

    import torch

    from benchmarks.stages.bench import StreamBench
    from benchmarks.stages.measure import measure
    from benchmarks.stages.table import markdown
    from lingbot_eval.machine.environment import environment
    from lingbot_eval.machine.gpu import on_device
    from lingbot_eval.model.build import build_model, choose_device
    from lingbot_eval.streaming.settings import StreamSettings
    from lingbot_eval.streaming.stores import resolve_backend

    size = _size(args.size)
    settings = StreamSettings(backend=args.backend)
    if args.frame <= settings.scale_frames:
        raise ConfigError(f"--frame {args.frame}: expected more than the {settings.scale_frames} scale frames")
    device = choose_device(args.device)
    model, _ = build_model(args.config, checkpoint=None, seed=0, point_head=False, device=device, precision=args.dtype)
    with torch.inference_mode(), on_device(device):
        bench = StreamBench(model, settings, size, args.frame)
        times = measure(bench, args.dtype)
    backend = resolve_backend(args.backend, model.trunk_dtype, device)
    if args.json:
        output.as_json({"backend": backend, **asdict(times), "environment": environment()})
        return 0
    where = f"{args.config}, {args.size}, {args.dtype}, frame {args.frame}, {backend}, {device}"
    output.line(f"{where}; untrained weights")
    output.line("")
    output.line(markdown(times))
    return 0


def _size(text: str) -> tuple[int, int]:
    """(height, width), multiples of 14."""
    match = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", text)
    if not match or any(int(side) % 14 or not int(side) for side in match.groups()):
        raise ConfigError(f"--size {text}: expected WIDTHxHEIGHT in multiples of 14, such as 518x378")
    return int(match[2]), int(match[1])


if __name__ == "__main__":
    sys.exit(main())
