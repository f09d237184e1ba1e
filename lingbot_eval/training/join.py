"""``python -m lingbot_eval.training.join FOLDER FILE``: the parts that a run exported become one file of weights."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lingbot_eval.training.command import reported
from lingbot_eval.training.travel import join_parts


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m lingbot_eval.training.join", description=__doc__)
    parser.add_argument("folder", type=Path, help="what --export wrote")
    parser.add_argument("file", type=Path, help="weights to write, for instance ci.safetensors")
    given = parser.parse_args(arguments)

    def work() -> str:
        join_parts(given.folder, given.file)
        return f"weights: {given.file}"

    return reported(work)


if __name__ == "__main__":
    sys.exit(main())
