"""Units per hour on one and on two GPUs of a host, in turn in one call: does a second worker double the rate?

    python benchmarks/two_gpus.py --units 12 --frames 600

Scenes are photographs of noise on the disk, so that decoding is as in a real run; weights are untrained, which costs
the same time. Each row has the rate of the whole run, with the start of its processes and the drawing of the weights,
and the rate from the first frame on, which is what a long run has. Kernels are compiled before. Standard output is one
JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import lingbot_eval as lb
from lingbot_eval.runs.execute import Observer, Parallel
from lingbot_eval.runs.workers import gpus

WIDTH, HEIGHT = 518, 378


class Clock(Observer):
    """An observer that keeps when frames came and units ended."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.first: float | None = None
        self.last = self.begun
        self.failures: list[str] = []

    def frame(self) -> None:
        self.first = self.first or time.perf_counter()

    def finished(self, unit: Any, record: Any) -> None:
        self.last = time.perf_counter()
        if record.status == "failed":
            self.failures.append(str(record.reason))
        print(f"{'/'.join(unit.names)}: {record.seconds:.1f} s", file=sys.stderr, flush=True)

    def left_out(self, unit: Any, reason: str) -> None:
        print(f"left out: {reason}", file=sys.stderr, flush=True)


def write_scenes(folder: Path, scenes: int, frames: int) -> None:
    """``SCENE/FRAME.jpg``; all scenes have the same photographs."""
    rng = np.random.default_rng(0)
    first = folder / "scene-00"
    first.mkdir(parents=True)
    for index in range(frames):
        coarse = rng.integers(0, 256, (HEIGHT // 14, WIDTH // 14, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((WIDTH, HEIGHT)).save(first / f"{index:06d}.jpg", quality=90)
    for number in range(1, scenes):
        other = folder / f"scene-{number:02d}"
        other.mkdir()
        for path in first.iterdir():
            os.link(path, other / path.name)


def measured(
    scenes: Path, units: int, frames: int, workers: int, config: str, device: str, out: Path
) -> dict[str, Any]:
    """A run of so many scenes on so many GPUs."""
    experiment = {
        "name": "two-gpus",
        "datasets": [
            {
                "name": "folder",
                "root": str(scenes),
                "scenes": [f"scene-{number:02d}" for number in range(units)],
                "selection": {"count": frames},
                "size": {"mode": "exact", "width": WIDTH, "height": HEIGHT},
            }
        ],
        "methods": [{"kind": "lingbot", "model": {"config": config}, "device": device, "precision": "bfloat16"}],
        "keep": {"cloud": False},
    }
    clock = Clock()
    lb.run(experiment, out=out, observer=clock, parallel=Parallel(workers=workers, share_host=True))
    whole, streaming = clock.last - clock.begun, clock.last - (clock.first or clock.begun)
    return {
        "workers": workers,
        "units": units,
        "frames": frames,
        "failures": clock.failures,
        "seconds": round(whole, 1),
        "units_per_hour": round(3600 * units / whole, 1),
        "seconds_from_first_frame": round(streaming, 1),
        "units_per_hour_from_first_frame": round(3600 * units / streaming, 1),
        "frames_per_second_from_first_frame": round(units * frames / streaming, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=12)
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--config", default="full")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    devices = gpus()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        scenes = Path(folder) / "scenes"
        write_scenes(scenes, args.units, args.frames)
        warm = Path(folder) / "warm"
        print("kernels are compiled", file=sys.stderr, flush=True)
        measured(scenes, 1, min(args.frames, 100), 1, args.config, args.device, warm)
        for workers in args.workers:
            # The same number of GPUs as workers, also where there are more.
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices[:workers])
            print(f"{workers} workers", file=sys.stderr, flush=True)
            out = Path(folder) / f"workers-{workers}"
            rows.append(measured(scenes, args.units, args.frames, workers, args.config, args.device, out))
    first, last = rows[0], rows[-1]
    ratio = {name: round(last[name] / first[name], 3) for name in ("units_per_hour", "units_per_hour_from_first_frame")}
    print(json.dumps({"gpus": devices, "rows": rows, "ratio": ratio}, indent=2))


if __name__ == "__main__":
    main()
