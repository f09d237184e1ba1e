"""The one place that writes to the terminal: lines for people, JSON for machines."""

from __future__ import annotations

import json
import sys
from typing import Any


def line(text: str = "") -> None:
    """One line of result on standard output."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """One line of progress or warning on standard error, so that standard output stays clean for pipes."""
    sys.stderr.write(text + "\n")


def as_json(value: Any) -> None:
    """One JSON document on standard output; anything that is not JSON is a fault of ours, so NaN is refused."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
