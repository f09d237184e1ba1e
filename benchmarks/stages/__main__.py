"""``python -m benchmarks.stages``: where the milliseconds of a streaming step go, and the least the machine allows."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict

import torch

from benchmarks.stages.bench import StreamBench
from benchmarks.stages.measure import Rates, StageTimes, measure
from benchmarks.stages.work import Work
from lingbot_eval.cli import output
from lingbot_eval.errors import ConfigError, LingbotEvalError
from lingbot_eval.machine.environment import environment
from lingbot_eval.machine.gpu import on_device
from lingbot_eval.model.build import build_model, choose_device
from lingbot_eval.streaming.settings import BACKENDS, StreamSettings
from lingbot_eval.streaming.stores import resolve_backend
from lingbot_eval.tables import Align, markdown_grid

MILLI, GIGA = 1e3, 1e9


def floor_seconds(work: Work, rates: Rates) -> tuple[float, str]:
    """The longer of counted operations over the measured matrix rate and counted bytes over the copy rate."""
    computing = work.flops / rates.flops[work.arithmetic]
    moving = work.bytes / rates.copy_bytes
    return max((computing, "operations"), (moving, "bytes"))


def markdown(times: StageTimes) -> str:
    """One row a stage, their sum, and the whole step, for a terminal and for docs/measurements.md."""
    rows = [["stage", "measured ms", "floor ms", "floor / measured", "bound by", "10⁹ operations", "GB"]]
    floors = {name: floor_seconds(work, times.rates) for name, work in times.work.items()}
    for name, work in times.work.items():
        rows.append(_row(name, times.stages[name], *floors[name], work.flops, work.bytes))
    floor, bytes_moved = sum(floor for floor, _ in floors.values()), sum(work.bytes for work in times.work.values())
    flops = sum(work.flops for work in times.work.values())
    rows.append(_row("sum", sum(times.stages.values()), floor, "", flops, bytes_moved))
    pass_ms = "not captured" if times.device is None else f"{MILLI * times.device:.2f} ms on the device"
    rates = ", ".join(f"{kind} {rate / 1e12:.3g} TFLOP/s" for kind, rate in times.rates.flops.items())
    aligns: list[Align] = ["left", "right", "right", "right", "right", "right", "right"]
    lines = [
        *markdown_grid(rows, aligns, padded=False),
        "",
        f"Whole step, heads side by side: {pass_ms}; waited for {MILLI * times.step:.2f} ms "
        f"({1 / times.step:.1f} frames/s); one after the other {MILLI * times.pace:.2f} ms ({1 / times.pace:.1f} "
        "frames/s).",
        f"Rates of this machine: {rates}, copy {times.rates.copy_bytes / 1e12:.3g} TB/s.",
    ]
    return "\n".join(lines)


def _row(name: str, seconds: float, floor: float, bound: str, flops: float, moved: float) -> list[str]:
    times_ms = [f"{MILLI * seconds:.2f}", f"{MILLI * floor:.2f}", f"{floor / seconds:.0%}"]
    return [name, *times_ms, bound, count(flops / GIGA), f"{moved / GIGA:.3g}"]


def count(value: float) -> str:
    """Four digits, whole numbers from a thousand on: large counts have no exponent."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


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
