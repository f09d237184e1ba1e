"""A report is made whole in a hidden folder and moved into place at the end, so that none is ever half-written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lingbot_eval.errors import StoreError
from lingbot_eval.files.atomic import remove_abandoned, temporary_folder
from lingbot_eval.runs.disk import writing

_PAGES = (".html", ".md", ".ipynb")


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A fresh folder whose files are moved to the same places in ``out`` at the end.

    Where there was no ``out``, it appears at once, whole. Where there was one its other files stay, and its pages are
    away while what they refer to is replaced: a page and its figures are always of one report. When the block raises,
    or the disk refuses while it writes, ``out`` is as it was; moving takes no space. What killed processes left is
    removed. Raises StoreError when the disk refuses or a folder of ``out`` is a link.
    """
    with ExitStack() as stack:
        with writing(out):
            if out.exists() and not out.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            home = out if out.is_dir() else out.parent
            home.mkdir(parents=True, exist_ok=True)
            for folder in {home, out.parent}:
                remove_abandoned(folder)
            stage = stack.enter_context(temporary_folder(home))
        yield stage
        with writing(out):
            if home == out or not _appeared(stage, out):
                _move(stage, out)


def _appeared(stage: Path, out: Path) -> bool:
    try:
        stage.rename(out)
    except OSError as error:
        # Somebody else's report of this moment is there, with something in it.
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _move(stage: Path, out: Path) -> None:
    found = [path.relative_to(stage) for path in sorted(stage.rglob("*"))]
    folders = [name for name in found if (stage / name).is_dir()]
    files = [name for name in found if name not in folders]
    for name in folders:
        if (out / name).is_symlink():
            raise StoreError(f"{out / name}: expected a folder of the report, found a symbolic link; remove it")
        (out / name).mkdir(exist_ok=True)
    pages = [name for name in files if name.suffix in _PAGES]
    for name in pages:
        (out / name).unlink(missing_ok=True)
    for name in (*(name for name in files if name not in pages), *pages):
        (stage / name).replace(out / name)
