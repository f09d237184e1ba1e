"""``python -m benchmarks.precision``: how far each precision is from float32, and what a step costs in it.

Distances: one scene through every side and through torch's attention in float32, frame by frame. Steps, on a GPU: every
side at one frame of a stream whose caches are full of random keys, in turn in one process; untrained weights.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.stages.__main__ import _size
from benchmarks.stages.bench import StreamBench
from lingbot_eval.cli import output
from lingbot_eval.comparison.backends import lockstep
from lingbot_eval.comparison.contenders import (
    Bench,
    Contender,
    PreparedFrames,
    parse_contender,
    reference_contender,
    select,
)
from lingbot_eval.errors import LingbotEvalError
from lingbot_eval.machine.gpu import on_device
from lingbot_eval.model.build import choose_device
from lingbot_eval.runs.experiment import load_experiment
from lingbot_eval.tables import Table, columns

SIDES = ("triton:bfloat16", "triton:float16", "triton:bfloat16:8", "triton:float16:8")
ROUNDS, STEPS, WARM_UP = 6, 15, 4
GIGABYTE = 1e9


def main(words: Sequence[str] | None = None) -> int:
    """0 done, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("sides", nargs="*", default=SIDES, metavar="SIDE", help=f"({' '.join(SIDES)})")
    parser.add_argument("--experiment", default="smoke", help="where frames and model come from (smoke)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY.PATH=VALUE")
    parser.add_argument("--frames", type=int, help="only the first so many")
    parser.add_argument("--step-at", type=int, metavar="FRAME", help="time steps at this frame instead")
    parser.add_argument("--size", default="518x378", help="of the images of the steps (518x378)")
    args = parser.parse_args(words)
    try:
        selected = select(load_experiment(args.experiment, args.overrides), None, args.frames)
        device = choose_device(selected.method.device)
        sides = [
            parse_contender(f"{place + 1}", text, selected.method, device) for place, text in enumerate(args.sides)
        ]
        if args.step_at is None:
            images = PreparedFrames(selected.unit)
            table = distances(Bench(selected.method, device, images.sequence.length), sides, images)
        else:
            bench = Bench(selected.method, device, None)
            with torch.inference_mode(), on_device(device):
                table = steps(bench, sides, _size(args.size), args.step_at)
    except LingbotEvalError as error:
        output.note(f"error: {error}")
        return 2
    for line in (table.text(), *table.legend):
        output.line(line)
    return 0


def distances(bench: Bench, sides: list[Contender], images: PreparedFrames) -> Table:
    """Median, 99th percentile, and the median of the second half over that of the first."""
    reference = reference_contender()
    pairs = lockstep(bench, [*sides, reference], [(side, reference) for side in sides], images, lambda: None)
    rows = []
    for pair in pairs:
        found = pair.differences
        cells = [pair.first.label]
        for values in (found.rotation_deg, found.position, found.depth):
            series = np.asarray(values, np.float64)
            halves = [np.nanmedian(half) for half in np.array_split(series, 2)]
            typical, high = np.nanmedian(series), np.nanpercentile(series, 99)
            cells.append(f"{typical:.3g}, {high:.3g} ({halves[1] / halves[0]:.2f})")
        rows.append(cells)
    header = ("side", "rotation, degrees", "position / extent", "depth, relative")
    legend = ["median, 99th percentile (median of the second half of the frames / of the first) against float32"]
    return Table("Distance from float32", columns(header), rows, legend=legend)


def steps(bench: Bench, sides: list[Contender], size: tuple[int, int], frame: int) -> Table:
    """Milliseconds of a step, each waited for, and bytes that the stream holds."""
    streams, held = [], []
    for side in sides:
        network = bench.model(side).network
        before = torch.cuda.memory_allocated()
        changes = {"backend": side.backend, "cache_precision": side.cache_precision}
        stream = StreamBench(network, bench.method.streaming.model_copy(update=changes), size, frame)
        for index in range(WARM_UP):
            stream.step(index)
        streams.append(stream)
        held.append(torch.cuda.memory_allocated() - before)
    times: list[list[float]] = [[] for _ in sides]
    for number in range(ROUNDS):
        order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
        for place in order:
            for index in range(STEPS):
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
                begin.record()
                streams[place].step(index)
                end.record()
                end.synchronize()
                times[place].append(begin.elapsed_time(end))
    medians = [statistics.median(each) for each in times]
    rows = [
        (side.label, f"{median:.2f}", f"{median / medians[0]:.3f}", f"{size_held / GIGABYTE:.2f}")
        for side, median, size_held in zip(sides, medians, held, strict=True)
    ]
    header = ("side", "ms a step", "times the first", "held by the stream, GB")
    return Table(f"Steps from frame {frame} on", columns(header), rows)


if __name__ == "__main__":
    sys.exit(main())
