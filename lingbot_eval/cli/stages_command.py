"""``lingbot-eval stages``: where the milliseconds of one streaming step go, beside the least the machine allows."""

from __future__ import annotations

import argparse
import re

from lingbot_eval.cli import output
from lingbot_eval.errors import ConfigError
from lingbot_eval.model.compilation import Compilation
from lingbot_eval.streaming.backends import BACKENDS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--config", choices=("full", "mini", "ci"), default="ci", help="network (default: ci)")
    parser.add_argument("--size", default="224x168", metavar="WxH", help="image size (default: 224x168)")
    parser.add_argument("--frame", type=int, default=200, help="frame of the stream, every one kept (default: 200)")
    parser.add_argument("--backend", choices=BACKENDS, default="auto")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--compile-heads", action="store_true", help="run the dense heads through torch.compile")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def run(args: argparse.Namespace) -> int:
    """Prints the table; 0."""
    from dataclasses import asdict

    import torch

    from lingbot_eval.hardware import on_device
    from lingbot_eval.model.build import build_model, choose_device
    from lingbot_eval.profiling.environment import environment
    from lingbot_eval.stages.bench import StreamBench
    from lingbot_eval.stages.measure import measure
    from lingbot_eval.stages.table import markdown
    from lingbot_eval.streaming.settings import StreamSettings
    from lingbot_eval.streaming.stores import resolve_backend

    size = _size(args.size)
    settings = StreamSettings(backend=args.backend)
    if args.frame <= settings.scale_frames:
        raise ConfigError(f"--frame {args.frame}: expected more than the {settings.scale_frames} scale frames")
    device = choose_device(args.device)
    model, _ = build_model(args.config, checkpoint=None, seed=0, point_head=False, device=device, precision=args.dtype)
    if args.compile_heads:
        model = model.with_compiled_heads()
    with torch.inference_mode(), on_device(device):
        bench = StreamBench(model, settings, size, args.frame)
        times = measure(bench, args.dtype)
    backend = resolve_backend(args.backend, model.trunk_dtype, device)
    compilation = model.head_compilation
    if args.json:
        document = {"backend": backend, "head_compilation": compilation and asdict(compilation), **asdict(times)}
        output.as_json({**document, "environment": environment()})
        return 0
    where = f"{args.config}, {args.size}, {args.dtype}, frame {args.frame}, {backend}, {device}"
    output.line(f"{where}{heads_text(compilation)}; untrained weights")
    output.line("")
    output.line(markdown(times))
    return 0


def heads_text(compilation: Compilation | None) -> str:
    """For the table's caption; nothing where nobody asked for compiled heads."""
    if compilation is None:
        return ""
    if compilation.reason is not None:
        return f", heads not (all) compiled ({compilation.reason})"
    return f", compiled heads ({compilation.seconds:.1f} s)"


def _size(text: str) -> tuple[int, int]:
    """(height, width), multiples of 14."""
    match = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", text)
    if not match or any(int(side) % 14 or not int(side) for side in match.groups()):
        raise ConfigError(f"--size {text}: expected WIDTHxHEIGHT in multiples of 14, such as 518x378")
    return int(match[2]), int(match[1])
