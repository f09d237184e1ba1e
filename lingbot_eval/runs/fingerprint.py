"""What a unit's result was made from: a digest that changes when any file does that was read for it."""

from __future__ import annotations

import hashlib
import os
import uuid

from lingbot_eval.files.file_state import file_state
from lingbot_eval.runs.plan import Unit
from lingbot_eval.types import FrameSequence


def input_fingerprint(unit: Unit, sequence: FrameSequence) -> str:
    """Hex digest over the scene's files and, for a replayed method, over what its saved predictions hold.

    The settings are not in it: they are in the run's key. Of a method that cannot tell whether it changed it is another
    one each time.
    """
    digest = hashlib.sha256(sequence.fingerprint().encode())
    dataset, scene, _ = unit.names
    files = "\n".join(f"{path}: {file_state(path)}" for path in unit.method.input_files(dataset, scene))
    digest.update(os.fsencode(files))
    if not unit.method.repeatable:
        digest.update(uuid.uuid4().bytes)
    return digest.hexdigest()
