"""Records the timing samples of tests/gate/data: repeats of one streamed scene, some with a planted slow-down, in turn.

    python tests/gate/record_timing.py OUT.json --rounds 24 --planted 12 --percent 15

Every round is a run of its own in a fresh process, as a user's are; planted rounds wait, busily, for a share of each
step's own time inside the step. No test runs this.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FRAMES = 96
OVERRIDES = (f"datasets.0.options.frames={FRAMES}", "metrics.depth=null", "metrics.auc=null", "metrics.drift=null")
CHILD = """
import sys, time
from lingbot_eval.streaming.session import StreamingSession
share, step = float(sys.argv[1]), StreamingSession.step

def slowed(*args, **kwargs):
    start = time.perf_counter()
    result = step(*args, **kwargs)
    until = time.perf_counter() + share * (time.perf_counter() - start)
    while time.perf_counter() < until:
        pass
    return result

if share:
    StreamingSession.step = slowed
from lingbot_eval.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


def one_round(share: float) -> list[float]:
    """Milliseconds of each step of one run, scale frames left out."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", "smoke", "--no-report", "--json", "--out", folder]
        for override in OVERRIDES:
            words += ["--set", override]
        subprocess.run([sys.executable, "-c", CHILD, str(share), *words], check=True, stdout=subprocess.DEVNULL)
        (table,) = Path(folder).rglob("frames.csv")
        with table.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    return [round(float(row["forward_ms"]), 2) for row in rows if row["frame_type"] != "scale"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--planted", type=int, default=12)
    parser.add_argument("--percent", type=float, default=15.0)
    args = parser.parse_args()
    every = args.rounds / max(1, args.planted)
    found: list[dict[str, object]] = []
    planted = 0
    for number in range(args.rounds):
        found.append({"planted_percent": 0.0, "step_ms": one_round(0.0)})
        if planted < args.planted and number + 1 >= every * (planted + 1):
            planted += 1
            found.append({"planted_percent": args.percent, "step_ms": one_round(args.percent / 100)})
        sys.stderr.write(f"round {number + 1} of {args.rounds}\n")
        head = {"threads": os.environ.get("OMP_NUM_THREADS", "default"), "load": os.getloadavg()[0]}
        lines = ",\n ".join(json.dumps(entry, separators=(",", ":")) for entry in found)
        args.out.write_text(f'{{"last": {json.dumps(head)}, "rounds": [\n {lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
