"""What waiting threads cost on a machine that others use: frames a second by setting, quiet and beside busy processes.

    python benchmarks/busy_machine.py --busy 0 3 --rounds 20

One process a setting, since OpenMP reads its variables once. They take turns, a second each, so that whatever else the
machine does meets all of them alike; a rate is told in shares of one thread's in the same round. Settings are those of
``SETTINGS``; ``ours`` is what the command line sets.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

SETTINGS: dict[str, dict[str, str]] = {
    "one thread": {"OMP_NUM_THREADS": "1"},
    "default": {},
    "ours": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 30": {"GOMP_SPINCOUNT": "30"},
    "spin 100": {"GOMP_SPINCOUNT": "100"},
    "spin 300": {"GOMP_SPINCOUNT": "300"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "spin 3000": {"GOMP_SPINCOUNT": "3000"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
}
MINE = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MKL_NUM_THREADS")
WINDOW_S = 1.0


def worker(setting: str) -> None:
    """Streams frames for a window whenever a line comes in, and answers with the frames a second."""
    if setting == "ours":
        from lingbot_eval.machine.environment import threads_that_share

        with threads_that_share():
            import torch
    import torch

    from lingbot_eval.model.build import build_model
    from lingbot_eval.streaming.session import StreamingSession
    from lingbot_eval.streaming.settings import StreamSettings

    device = torch.device("cpu")
    model, _ = build_model("ci", checkpoint=None, seed=0, point_head=False, device=device, precision="float32")
    session = StreamingSession(model, StreamSettings(keyframe_interval=1))
    images = torch.rand(8, 3, 168, 224, generator=torch.Generator().manual_seed(0))
    for frame in range(10):
        session.step(images[frame % 8])
    print(torch.get_num_threads(), flush=True)
    for _ in sys.stdin:
        start, frames = time.perf_counter(), 0
        while time.perf_counter() - start < WINDOW_S:
            session.step(images[frames % 8])
            frames += 1
        print(frames / (time.perf_counter() - start), flush=True)


def answer(process: subprocess.Popen[str], asked: str = "") -> str:
    """The next line of a worker, which is asked before, or begins on its own."""
    if process.stdin is None or process.stdout is None:
        raise TypeError("workers have pipes")
    process.stdin.write(asked)
    return process.stdout.readline()


def main() -> None:
    """Measure every setting in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker")
    parser.add_argument("--busy", type=int, nargs="*", default=[0, 3], help="busy processes beside, one table each")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    args = parser.parse_args()
    if args.worker:
        worker(args.worker)
        return
    for busy in args.busy:
        spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"], text=True) for _ in range(busy)]
        workers: dict[str, subprocess.Popen[str]] = {}
        try:
            for name in args.settings:
                environment = {key: value for key, value in os.environ.items() if key not in MINE} | SETTINGS[name]
                command = [sys.executable, __file__, "--worker", name]
                workers[name] = subprocess.Popen(
                    command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
                )
            threads = {name: int(answer(process)) for name, process in workers.items()}
            rates: dict[str, list[float]] = {name: [] for name in workers}
            for turn in range(args.rounds):
                names = list(workers)
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    rates[name].append(float(answer(workers[name], "\n")))
        finally:
            for process in [*spinning, *workers.values()]:
                process.kill()
                process.wait()
        print(f"{busy} busy processes beside, load {os.getloadavg()[0]:.1f}, {args.rounds} rounds")
        print(f"{'setting':12s} threads  fps median  share of one thread: median (quartiles)")
        for name, found in rates.items():
            shares = sorted(mine / one for mine, one in zip(found, rates["one thread"], strict=True))
            low, middle, high = statistics.quantiles(shares, n=4) if len(shares) > 1 else shares * 3
            print(
                f"{name:12s} {threads[name]:7d} {statistics.median(found):11.2f}  {middle:.2f} ({low:.2f}–{high:.2f})"
            )


if __name__ == "__main__":
    main()
