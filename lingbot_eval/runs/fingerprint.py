"""What a unit's result was made from: a digest that changes when any file does that was read for it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from lingbot_eval.runs.plan import Unit
from lingbot_eval.types import FrameSequence


def input_fingerprint(unit: Unit, sequence: FrameSequence) -> str:
    """Hex digest over the scene's files and, for a replayed method, over the saved predictions.

    The settings are not in it: they are in the run's key.
    """
    digest = hashlib.sha256(sequence.fingerprint().encode())
    dataset, scene, _ = unit.names
    files = "\n".join(_file_state(path) for path in unit.method.input_files(dataset, scene))
    digest.update(os.fsencode(files))
    return digest.hexdigest()


def _file_state(path: Path) -> str:
    """Name, size and time of a file; what a missing one says is for the method to judge."""
    try:
        stat = path.stat()
    except (OSError, ValueError):  # ValueError: a path with a NUL in it
        return f"{path}: none"
    return f"{path}: {stat.st_size} bytes, {stat.st_mtime_ns}"
