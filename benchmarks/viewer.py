"""What looking costs: frames a second of a stream with and without a viewer and somebody who looks, and film rates.

    python -m benchmarks.viewer --config ci --frames 120 --pairs 5             # CPU time decides on shared cores
    python -m benchmarks.viewer --config full --device cuda --frames 300 --pairs 3
    python -m benchmarks.viewer --films cpu cuda --threads 2

Streams take turns: ``alone`` gives its predictions to nobody, ``watched`` fills a layer that a page shows and a client
reads, which is a process of its own, takes all that a browser is sent, and turns its camera ten times a second. Depth
and path are made up, so that untrained weights bring as many new points a frame as a walk through rooms.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

VARIANTS = ("alone", "watched")
SHAPES = {"ci": (168, 224), "mini": (168, 224), "full": (378, 518)}


async def look(address: str) -> None:
    """Read all that the page's server sends, as its browser client does, until it closes. Prints bytes and messages."""
    import msgspec
    import viser
    import zstandard
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    total, messages = 0, 0
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

        turning = asyncio.create_task(turn())
        turning.add_done_callback(lambda done: done.cancelled() or sys.exit(str(done.exception())))
        try:
            async for found in socket:
                assert isinstance(found, bytes)
                size = int.from_bytes(found[8:16], "little")
                inner = zstandard.ZstdDecompressor().decompress(
                    found[16 : 16 + size], max_output_size=int.from_bytes(found[:8], "little")
                )
                total, messages = total + len(found), messages + len(msgspec.msgpack.decode(inner)["messages"])
        except ConnectionClosed:
            pass
        finally:
            turning.cancel()
            print(f"client: {total / 1e6:.2f} MB, {messages} messages", flush=True)


class Walk:
    """Images, and the depth and poses that are put in place of the predicted ones: a walk along a wavy wall."""

    def __init__(self, shape: tuple[int, int], frames: int) -> None:
        height, width = shape
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 255, (frames, 8, 10, 3), dtype=np.uint8)
        self.images = [
            image.repeat(-(-height // 8), 0)[:height].repeat(-(-width // 10), 1)[:, :width] for image in coarse
        ]
        v, u = np.mgrid[:height, :width]
        self._waves = [(2.5 + np.sin(u / width * 6 + phase) + v / height).astype(np.float32) for phase in range(7)]
        self._intrinsics = np.array([[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2], [0, 0, 1.0]])

    def put(self, prediction: Any) -> Any:
        """The prediction with them."""
        pose = np.eye(4)
        pose[:3, 3] = 0.05 * prediction.index, 0, 0
        depth = self._waves[prediction.index % len(self._waves)]
        sure = np.ones_like(depth) if prediction.depth_confidence is None else prediction.depth_confidence
        given = {"camera_to_world": pose, "depth": depth, "intrinsics": self._intrinsics, "depth_confidence": sure}
        return replace(prediction, **given)


def stream(model: Any, walk: Walk, variant: str) -> tuple[float, float, str]:
    """Seconds of wall and of the process's CPU for all frames, and words on what was shown."""
    from lingbot_eval.datasets.prepare import prefetch
    from lingbot_eval.viewing.cloud import VoxelCloud
    from lingbot_eval.viewing.layers import Layer, LayeredScene
    from lingbot_eval.viewing.live import Filling
    from lingbot_eval.viewing.page import Viewer

    frames = len(walk.images)
    session = model.session(frames=frames, keyframe_interval="auto")

    def pairs() -> Iterator[tuple[Any, Any]]:
        with closing(session.with_frames(walk.images)) as given:
            for frame, prediction in given:
                yield frame, walk.put(prediction)

    if variant == "alone":
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in pairs():
            pass
        return time.perf_counter() - wall, time.process_time() - cpu, ""
    layer = Layer("m", VoxelCloud(), length=frames)
    viewer = Viewer("t", {"t": lambda: LayeredScene("t", [layer], live=True)}, port=0)
    client = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.viewer", "--look", viewer.address], stdout=subprocess.PIPE, text=True
    )
    while not viewer.clients:
        if client.poll() is not None:
            raise RuntimeError("the client ended before the stream began")
        time.sleep(0.1)
    time.sleep(0.5)  # what it reads at first is of no stream
    wall, cpu = time.perf_counter(), time.process_time()
    filling = Filling(layer, prefetch(pairs(), 2))
    filling.wait()
    spent = time.perf_counter() - wall, time.process_time() - cpu
    time.sleep(1.5)  # the last of it is sent
    shown = f"{viewer._nodes.points:,} points in {len(viewer._nodes._sent)} blocks"
    viewer.stop()
    said = client.communicate(timeout=60)[0].strip()
    if filling.error is not None:
        raise filling.error
    return *spent, f"{shown}; {said}"


def compare(args: argparse.Namespace) -> None:
    """Streams in turn, and their ratios."""
    from lingbot_eval.methods.model import load_model

    weights = "shipped" if args.config == "ci" else None
    model = load_model(weights, config=args.config, device=args.device, precision=args.precision)
    walk = Walk(SHAPES[args.config], args.frames)
    stream(model, Walk(SHAPES[args.config], 24), "watched")  # imports, kernels
    ratios: dict[str, list[float]] = {"frames a second": [], "CPU": []}
    for number in range(args.pairs):
        found = {}
        for variant in VARIANTS if number % 2 else VARIANTS[::-1]:
            wall, cpu, words = found[variant] = stream(model, walk, variant)
            print(f"{variant}: {args.frames / wall:.2f} frames/s, {cpu:.2f} s of CPU {words}", flush=True)
        ratios["frames a second"].append(found["alone"][0] / found["watched"][0])
        ratios["CPU"].append(found["watched"][1] / found["alone"][1])
    for name, values in ratios.items():
        listed = " ".join(f"{value:.3f}" for value in values)
        print(f"watched over alone, {name}: median {statistics.median(values):.3f} ({listed})", flush=True)


def films(devices: list[str], threads: int) -> None:
    """Pictures a second of clouds of three sizes, 960×540, the best of a turn and the median."""
    import torch

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
