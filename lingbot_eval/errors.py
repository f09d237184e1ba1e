"""Every exception of the project; the command line is the only place that catches the base class.

A message is one line that says what was expected, what was found (file, line, frame) and what to do.
"""

from __future__ import annotations

import errno
from pathlib import Path

_LONGEST_LINE = 1000
_LONGEST_REASON = 200


class LingbotEvalError(Exception):
    """Base of everything the project raises on purpose; the command line exits with code 2 on it."""


class ConfigError(LingbotEvalError):
    """A setting, experiment file, dataset card or command-line value that cannot be used."""


class DataError(LingbotEvalError):
    """A dataset, image, depth map, pose or trajectory file that cannot be read as what it should be."""


class UnknownSceneError(DataError):
    """A scene that the dataset does not have: a mistake in the settings, where others are faults of the data."""


class CheckpointError(LingbotEvalError):
    """A weight file that is unsafe, damaged, or of another model."""


class DependencyError(LingbotEvalError):
    """An optional library or device that this command needs is not there."""


class StoreError(LingbotEvalError):
    """A run directory that cannot be written, is locked by another run, or holds a damaged record."""


class BusyError(StoreError):
    """A run directory that another process writes."""


class StreamError(LingbotEvalError):
    """A frame that the streaming session cannot take, such as a change of image size inside a stream."""


class UnscorableError(LingbotEvalError):
    """A metric that is not defined on the given data; the text is the reason that the result carries."""


def at(path: Path | str, line: int | None = None) -> str:
    """Name a place for an error message: ``poses.txt:12`` (lines count from 1), or the path alone."""
    return f"{path}:{line}" if line is not None else str(path)


def one_line(error: BaseException) -> str:
    """What a record says of an error: the project's own messages as they are, of others the kind and the text."""
    text = " ".join(str(error).split())
    if isinstance(error, SystemExit):
        return f"it ended the program: sys.exit({error.code!r})"
    if is_out_of_memory(error) and text:
        # The first sentence; a CPU's begins with a place in torch's sources.
        text = f"out of memory: {text.rpartition('DefaultCPUAllocator: ')[2].partition('. ')[0]}"
    elif not isinstance(error, LingbotEvalError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return shortened(text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of the device or of the host, is what was missing.

    torch has a class for it in its own pool on a device alone: what the driver or a CPU refuses is a RuntimeError that
    says so, and one that ends the recording of a CUDA graph covers the one before it.
    """
    at: BaseException | None = error
    while isinstance(at, RuntimeError):
        text = str(at)
        # Told by its name: whoever has no torch has no such error.
        if type(at).__name__ == "OutOfMemoryError" or "out of memory" in text or "DefaultCPUAllocator" in text:
            return True
        at = at.__cause__ or at.__context__
    return isinstance(at, MemoryError)


def shortened(text: str) -> str:
    """A message of bearable length. Its end says what to do; what is long is a path or a name before it."""
    return text if len(text) <= _LONGEST_LINE else f"{text[: _LONGEST_LINE - 301]}…{text[-300:]}"


def shortage(error: BaseException) -> str | None:
    """What the machine ran out of, in words; None where that is not what happened.

    It is nobody's fault here: a program whose libraries do not fit into the memory that it may use says so in an
    ImportError, torch in a RuntimeError.
    """
    text = str(error)
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return "memory"
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return "file descriptors (ulimit -n)"
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        return "threads (ulimit -u)"
    if isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in text or "std::bad_alloc" in text):
        return "memory"
    if isinstance(error, ImportError) and ("failed to map segment" in text or "cannot allocate memory" in text.lower()):
        return "memory"
    return None


def reason(error: BaseException) -> str:
    """What a foreign error says, for the middle of a message: in one short line, whatever it quotes from a file."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = "".join(character if character.isprintable() else "?" for character in " ".join(said.split()))
    text = text or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 1]}…"
