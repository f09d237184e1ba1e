"""The one place that writes to the terminal: lines for people, JSON for machines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from lingbot_eval.errors import StoreError

if TYPE_CHECKING:
    from tqdm import tqdm


_RESULTS: ContextVar[TextIO | None] = ContextVar("results", default=None)


@contextmanager
def results_alone() -> Iterator[None]:
    """Keeps standard output to what goes through here: what else prints, as a plugin's code does, is on standard error.

    A reader of JSON would stumble over it.
    """
    token = _RESULTS.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _RESULTS.reset(token)


def line(text: str = "") -> None:
    """A result on standard output: one line, or a table of them."""
    _result(text + "\n")


def note(text: str) -> None:
    """One line of progress or warning on standard error, so that standard output stays clean for pipes."""
    # One line whatever a file name holds. Where standard error refuses it, nobody is left to be told.
    with suppress(OSError):
        _write(sys.stderr, text.replace("\n", r"\n") + "\n")


SCHEMA_VERSION = 1
"""Of every JSON document that a command prints: raised when a key changes its meaning or goes."""


def as_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """One JSON document on standard output, an object with its ``schema_version``; a list is under ``items``."""
    plain_json({"schema_version": SCHEMA_VERSION, **(value if isinstance(value, Mapping) else {"items": list(value)})})


def plain_json(value: Any) -> None:
    """One JSON document as it is; anything that is not JSON is a fault of ours, so NaN is refused."""
    _result(json.dumps(value, indent=2, allow_nan=False) + "\n")


def finish() -> None:
    """Bring out what is still buffered. Raises StoreError, or BrokenPipeError when the reader went away."""
    _result("", flush=True)


def abandon() -> None:
    """Give up standard output: the interpreter would try, and complain, once more on its way out."""
    with suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _result(text: str, *, flush: bool = False) -> None:
    try:
        stream = _RESULTS.get() or sys.stdout
        _write(stream, text)
        if flush and stream is not None:
            stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StoreError(
            f"cannot write to standard output: {error.strerror or error}; free space or send it elsewhere"
        ) from error


def _write(stream: TextIO | None, text: str) -> None:
    """Write text from anywhere: what does not print, or not in the terminal's encoding, is shown by its code."""
    if stream is None:  # closed by whoever started the program
        return
    shown = "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))
    encoding = stream.encoding or "utf-8"
    stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))


def bar(total: int | None, label: str, unit: str, *, quiet: bool = False, **more: Any) -> tqdm[Any]:
    """A bar on standard error, gone at its end; quiet, or where that is no terminal, nothing is shown."""
    from tqdm import tqdm

    # disable=None: tqdm shows itself on a terminal only.
    shown = True if quiet else None
    return tqdm(total=total, desc=printable(label), unit=unit, file=sys.stderr, leave=False, disable=shown, **more)


class Bars:
    """A bar for each thing that is done, one after the other; a context, at whose end the last one goes."""

    def __init__(self, unit: str, *, quiet: bool = False, **more: Any) -> None:
        self._unit, self._quiet, self._more = unit, quiet, more
        self._label: str | None = None
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, label: str, done: int, total: int | None) -> None:
        """So much of ``label`` is done."""
        if label != self._label or self._bar is None:
            if self._bar is not None:
                self._bar.close()
            self._label = label
            self._bar = bar(total, label, self._unit, quiet=self._quiet, initial=done, **self._more)
        self._bar.update(done - self._bar.n)


def printable(text: str) -> str:
    """Text from anywhere for a terminal: what moves its cursor, colours it or turns its direction is shown by its code.

    For what others print, such as the label of a bar; what goes through here needs it not.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
