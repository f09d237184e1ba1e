"""``python -m training``: one command trains the checkpoint of configuration ``ci``, or goes on with it.

Not a command of ``lingbot-eval``: who evaluates has no need of it, and the evaluation imports nothing of this room.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from training import reported


def build_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of state, log, curve and weights")
    parser.add_argument("--minutes", type=float, help="length of the whole run, preparation apart")
    parser.add_argument("--steps", type=int, help="or: length of the whole run in steps")
    parser.add_argument("--within", type=float, help="or: minutes of this call, preparation and all")
    parser.add_argument("--start-from", type=Path, help="weights of an earlier run: a file, or what it exported")
    parser.add_argument("--export", type=Path, help="folder for what the next machine starts from")
    parser.add_argument("--call-minutes", type=float, help="stop this call then, saved; call again to go on")
    parser.add_argument("--recipe", default="gpu", choices=("gpu", "gpu-more", "tiny"))
    parser.add_argument("--learning-rate", type=float, help="peak; default: the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2), help="processes for scenes")
    parser.add_argument("--json", action="store_true", help="one JSON object a log line")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 2 bad input."""
    given = build_parser().parse_args(arguments)
    # Imported here: the worker processes import this file and need neither.
    from lingbot_eval.model.build import choose_device
    from training.trainer import TrainingSettings, train

    def report(row: dict[str, float]) -> None:
        text = json.dumps(row) if given.json else "  ".join(f"{key} {value:.4g}" for key, value in row.items())
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    settings = TrainingSettings(
        out=given.out,
        recipe=given.recipe,
        seed=given.seed,
        learning_rate=given.learning_rate,
        minutes=given.minutes,
        steps=given.steps,
        within_minutes=given.within,
        start_from=given.start_from,
        export=given.export,
        call_minutes=given.call_minutes,
        workers=given.workers,
    )
    return reported(lambda: f"weights: {train(settings, choose_device(given.device), report)}")


if __name__ == "__main__":
    sys.exit(main())
