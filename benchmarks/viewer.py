"""What looking costs: frames a second of a stream with and without a viewer and somebody who looks, and film rates.

    python -m benchmarks.viewer --config ci --frames 120 --pairs 5             # CPU time decides on shared cores
    python -m benchmarks.viewer --config full --device cuda --frames 300 --pairs 3
    python -m benchmarks.viewer --stand-in 20 --frames 300 --pairs 5           # no model: 20 ms of small calls a frame
    python -m benchmarks.viewer --films cpu cuda --threads 2

Streams take turns: ``alone`` gives its predictions to nobody, in a thread of its own as a page's stream has, and which
ends with it: where OpenMP's threads are more than the cores, all sleep at each barrier; ``watched`` is what
``lingbot-eval view FOLDER`` does, while a client takes all that a browser is sent, and turns its camera ten times a
second. It stands for a browser on another machine, so it counts bytes and looks at none of them, and has a core when
nobody else wants one; what the page's server does for it counts. Depth and path are made up, so that untrained weights
bring as many new points a frame as a walk through rooms.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image as Pictures

import lingbot_eval as lb
from lingbot_eval.methods.model import AHEAD, Model
from lingbot_eval.prepare import prefetch
from lingbot_eval.types import Frame, FrameType, Prediction
from lingbot_eval.viewing.live import LiveViewer

VARIANTS = ("alone", "watched")
SHAPES = {"ci": (168, 224), "mini": (168, 224), "full": (378, 518)}


async def look(address: str) -> None:
    """Read all that the page's server sends, as its browser client does, until it closes. Prints bytes and packets."""
    import msgspec
    import viser
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    os.nice(19)
    total, packets = 0, 0
    protocol: Any = f"viser-v{viser.__version__}"
    async with connect(address.replace("http", "ws"), subprotocols=[protocol], max_size=None) as socket:

        async def turn() -> None:
            angle = 0.0
            while True:
                position = 5 * math.sin(angle), -1.0, 5 * math.cos(angle)
                camera = {"wxyz": (1.0, 0.0, 0.0, 0.0), "position": position, "look_at": (0.0, 0.0, 0.0), "fov": 1.0}
                view = {"near": 0.01, "far": 1e3, "image_height": 800, "image_width": 1280}
                message = {"type": "ViewerCameraMessage", **camera, **view, "up_direction": (0.0, -1.0, 0.0)}
                await socket.send(msgspec.msgpack.encode(message))
                angle += 0.02
                await asyncio.sleep(0.1)

        async def read() -> None:
            nonlocal total, packets
            async for found in socket:
                total, packets = total + len(found), packets + 1

        print("connected", flush=True)
        turning = asyncio.create_task(turn())
        with suppress(ConnectionClosed):
            await asyncio.wait({turning, asyncio.create_task(read())}, return_when=asyncio.FIRST_COMPLETED)
            if turning.done():
                turning.result()
        turning.cancel()
        print(f"client: {total / 1e6:.2f} MB in {packets} packets", flush=True)


class Walk(Model):
    """Stands where the model would: a walk along a wavy wall, whose depth and poses take the place of the predicted
    ones. Of no network a step is that many small calls, as of a thread that launches the kernels of a GPU.

    Attributes:
        begin: the stream waits for it.
        took: seconds of the stream: by the wall; less those in which its thread was ready and others had the cores;
            and of CPU, of all threads of this process.
    """

    def __init__(self, network: Model | None, shape: tuple[int, int], calls: int) -> None:
        self.config, self.weights = ("ci", "a walk") if network is None else (network.config, network.weights)
        self.begin = threading.Event()
        self.took: tuple[float, float, float] = 0.0, 0.0, 0.0
        self._network, self._calls = network, calls
        height, width = shape
        v, u = np.mgrid[:height, :width]
        self._waves = [(2.5 + np.sin(u / width * 6 + phase) + v / height).astype(np.float32) for phase in range(7)]
        self._sure = np.ones((height, width), np.float32)
        self._intrinsics = np.array([[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2], [0, 0, 1.0]])

    def session(self, **_: Any) -> Any:
        """Itself: it streams once."""
        return self

    def with_frames(self, frames: Any) -> Iterator[tuple[Frame, Prediction]]:
        """As a session of a model does it."""
        self.begin.wait()
        before = clocks()
        with closing(self._pairs(frames)) as pairs:
            for frame, prediction in pairs:
                yield frame, self._put(prediction)
        wall, delayed, cpu = (now - then for now, then in zip(clocks(), before, strict=True))
        self.took = wall, wall - delayed, cpu

    def _pairs(self, frames: Any) -> Generator[tuple[Frame, Prediction], None, None]:
        if self._network is not None:
            yield from self._network.session(frames=frames.length, keyframe_interval="auto").with_frames(frames)
            return
        with closing(prefetch(frames, AHEAD)) as ahead:
            for frame in ahead:
                small_calls(self._calls)
                kind = FrameType.UNKEPT if frame.index % 10 else FrameType.KEPT
                yield frame, Prediction(frame.index, frame.timestamp, frame_type=kind)

    def _put(self, prediction: Prediction) -> Prediction:
        pose = np.eye(4)
        pose[:3, 3] = 0.05 * prediction.index, 0, 0
        depth = self._waves[prediction.index % len(self._waves)]
        sure = self._sure if prediction.depth_confidence is None else prediction.depth_confidence
        given = {"camera_to_world": pose, "depth": depth, "intrinsics": self._intrinsics, "depth_confidence": sure}
        return replace(prediction, **given)


def clocks() -> tuple[float, float, float]:
    """Seconds of the wall, of this thread's waiting for a core, which Linux tells, and of the process's CPU."""
    schedule = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
    delayed = int(schedule.read_text().split()[1]) / 1e9 if schedule.exists() else 0.0
    return time.perf_counter(), delayed, time.process_time()


def small_calls(count: int) -> None:
    """Calls that take and give the interpreter's lock, and compute next to nothing."""
    a, b = torch.zeros(16), torch.ones(16)
    for _ in range(count):
        torch.add(a, b, out=a)


def write_images(folder: Path, shape: tuple[int, int], frames: int) -> None:
    """Pictures in coarse squares of random colours."""
    height, width = shape
    rng = np.random.default_rng(0)
    for number, coarse in enumerate(rng.integers(0, 255, (frames, 8, 10, 3), dtype=np.uint8)):
        image = coarse.repeat(-(-height // 8), 0)[:height].repeat(-(-width // 10), 1)[:, :width]
        Pictures.fromarray(image).save(folder / f"{number:05d}.png")


def stream(walk: Walk, folder: Path, frames: int, variant: str) -> str:
    """Stream once; ``walk`` says what it took. Returns words on what was shown."""
    if variant == "alone":
        walk.begin.set()
        pairs = walk.with_frames(lb.open_dataset("folder", folder).scene(count=frames))
        with ThreadPoolExecutor(1) as own:
            own.submit(deque, pairs, 0).result()
        return ""
    viewer = lb.view(folder, model=walk, frames=frames, port=0)
    if not isinstance(viewer, LiveViewer):
        raise TypeError("images are streamed into a page")
    client = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.viewer", "--look", viewer.address], stdout=subprocess.PIPE, text=True
    )
    if client.stdout is None or not client.stdout.readline():
        raise RuntimeError("the client ended before the stream began")
    time.sleep(0.5)  # what it reads at first is of no stream
    others = [each for each in psutil.Process().children() if each.pid != client.pid]
    before = sum(sum(each.cpu_times()[:2]) for each in others)
    walk.begin.set()
    viewer.filling.wait()
    in_child = sum(sum(each.cpu_times()[:2]) for each in others) - before
    time.sleep(1.5)  # the last of it is sent
    error = viewer.filling.error
    viewer.stop()
    said = client.communicate(timeout=60)[0].strip()
    if error is not None:
        raise error
    return f"and {in_child:.2f} s in its child, which left out {viewer.left_out} frames; {said}"


def compare(args: argparse.Namespace) -> None:
    """Streams in turn, and their ratios."""
    if args.stand_in:
        network, shape, calls = None, SHAPES["full"], 1000
        times = []
        for _ in range(50):
            start = time.thread_time()
            small_calls(calls)
            times.append(time.thread_time() - start)
        calls = round(calls * args.stand_in / 1000 / statistics.median(times))
    else:
        weights = "shipped" if args.config == "ci" else None
        network = lb.load_model(weights, config=args.config, device=args.device, precision=args.precision)
        shape, calls = SHAPES[args.config], 0
    ratios: dict[str, list[float]] = {"time": [], "time without waiting for a core": [], "CPU of the process": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, shape, args.frames)
        stream(Walk(network, shape, calls), folder, 24, "watched")  # imports, kernels
        for number in range(args.pairs):
            found = {}
            for variant in VARIANTS if number % 2 else VARIANTS[::-1]:
                walk = found[variant] = Walk(network, shape, calls)
                words = stream(walk, folder, args.frames, variant)
                wall, ready, cpu = walk.took
                rates = f"{args.frames / wall:.2f} frames/s, with a core always {args.frames / ready:.2f}"
                print(f"{variant}: {rates}; {cpu:.2f} s of CPU {words}", flush=True)
            for values, watched, alone in zip(ratios.values(), found["watched"].took, found["alone"].took, strict=True):
                values.append(watched / alone)
    for name, values in ratios.items():
        listed = " ".join(f"{value:.3f}" for value in values)
        print(f"watched over alone, {name}: median {statistics.median(values):.3f} ({listed})", flush=True)


def films(devices: list[str], threads: int) -> None:
    """Pictures a second of clouds of three sizes, 960×540, the best of a turn and the median."""
    from lingbot_eval.viewing.splats import Splats, Style, View

    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    view = View.of_angle(np.eye(4), 60, 960, 540)
    for count in (300_000, 1_000_000, 4_000_000):
        u, v = rng.uniform(-3, 3, (2, count)).astype(np.float32)
        points = np.stack([u, 0.6 * v, 4 + np.sin(u * 3) + 0.3 * np.cos(v * 9)], axis=1)
        colours = rng.integers(0, 255, (count, 3), dtype=np.uint8)
        for device in devices:
            splats = Splats(points, colours, 6 / np.sqrt(count), device)
            times = []
            for _ in range(12):
                start = time.perf_counter()
                splats.draw(view, Style())
                times.append(time.perf_counter() - start)
            best, median = 1000 * min(times), 1000 * statistics.median(times[2:])
            print(f"{count / 1e6:g} M points, {device}: median {median:.1f} ms, best {best:.1f} ms", flush=True)


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=tuple(SHAPES), default="ci")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--stand-in", type=float, metavar="MS", help="no model; small calls that take so long a frame")
    parser.add_argument("--films", nargs="+", metavar="DEVICE")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--look", metavar="ADDRESS")
    args = parser.parse_args()
    if args.look:
        asyncio.run(look(args.look))
    elif args.films:
        films(args.films, args.threads)
    else:
        compare(args)


if __name__ == "__main__":
    main()
