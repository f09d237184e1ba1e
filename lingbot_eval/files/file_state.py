"""What a file is at this moment, in a line that is another one when its content is."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

from lingbot_eval.files.opening import open_file

WHOLE_BYTES = 8 << 20
"""Files up to this size are read whole; of larger ones both ends are, and their time of change counts."""

_END_BYTES = 1 << 20


def file_state(path: Path) -> str:
    """Size and SHA-256 of a file's content; what a missing one means is for its reader to judge.

    Size and time of change alone do not tell a file from another that was copied over it with its times.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return "no file"
        with open_file(path) as stream:
            if found.st_size <= WHOLE_BYTES:
                digest = hashlib.sha256(stream.read(WHOLE_BYTES))
                return f"{found.st_size} bytes, {digest.hexdigest()}"
            digest = hashlib.sha256(stream.read(_END_BYTES))
            stream.seek(-_END_BYTES, 2)
            digest.update(stream.read(_END_BYTES))
    except (OSError, ValueError):  # ValueError: a path with a NUL in it
        return "none"
    return f"{found.st_size} bytes, {found.st_mtime_ns}, {digest.hexdigest()}"
