"""A report is made whole in a hidden folder and moved into place at the end, so that none is ever half-written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lingbot_eval.errors import StoreError
from lingbot_eval.files.atomic import remove_abandoned, temporary_folder, write_text, writing

_WHOLE_PAGES = (".html", ".ipynb")  # hold their figures
_PAGES = (".md",)  # show files beside them

REPLACED = "The report in this folder was being replaced when its writer ended. Repeat the command that makes it.\n"
"""What stands in a page's place while what it shows is replaced; a reader sees it only after a kill."""


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A fresh folder whose files are moved to the same places in ``out`` at the end.

    Where there was no ``out``, it appears at once, whole. Where there was one its other files stay. Pages that hold
    all that they show are replaced first, in one rename each; in the place of one that shows files beside it a line
    says so until these are there (``REPLACED``): there is always a page, and never one beside another report's
    figures. When the block raises,
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
    first = [name for name in files if name.suffix in _WHOLE_PAGES]
    last = [name for name in files if name.suffix in _PAGES]
    for name in first:
        (stage / name).replace(out / name)
    for name in last:
        if (out / name).exists():
            write_text(out / name, REPLACED)
    for name in (*(name for name in files if name not in (*first, *last)), *last):
        (stage / name).replace(out / name)
