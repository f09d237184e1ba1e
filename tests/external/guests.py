"""A scene whose poses the wrapper of these tests knows, and runs of it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

import lingbot_eval as lb
from lingbot_eval.reports.reading import Run
from lingbot_eval.stored.records import UnitRecord

FRAMES = 10
WRAPPER = Path(__file__).with_name("wrap.py")
DATASET = {
    "name": "synthetic",
    "scenes": ["room"],
    "options": {"frames": FRAMES, "width": 56, "height": 42},
    "size": {"mode": "exact", "width": 56, "height": 42},
}


def experiment(*methods: dict[str, Any]) -> dict[str, Any]:
    """The methods on the one scene, with the few metrics that are looked at."""
    off = {"drift": None, "auc": None, "points": None}
    return {"name": "guests", "datasets": [DATASET], "methods": list(methods), "metrics": off}


def wrapped(truth: Path, fault: str = "none", **settings: Any) -> dict[str, Any]:
    """The wrapper as a method."""
    return {
        "kind": "external",
        "command": [sys.executable, str(WRAPPER), fault],
        "env": {"TRUTH": str(truth), "OUTSIDE": str(truth), "PYTHONPATH": str(Path(lb.__file__).parents[1])},
        "gpu": 0,
        "frame_timeout_s": 30,
        **settings,
    }


def unit(run: Run, method: str) -> UnitRecord:
    (found,) = [unit.record for unit in run.results.units if unit.record.method == method]
    return found


def wrappers_alive() -> list[str]:
    """Command lines of wrappers, and of what they start, that run and that this process of pytest began."""
    found = []
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    for process in psutil.process_iter(["cmdline", "status"]):
        words = " ".join(process.info["cmdline"] or ())
        if process.info["status"] != psutil.STATUS_ZOMBIE and (str(WRAPPER) in words or "time.sleep(300)" in words):
            with suppress(psutil.Error):
                if process.environ().get("PYTEST_XDIST_WORKER") == worker:
                    found.append(words)
    return found
