"""A report is made whole in a hidden folder and moved into place at the end, so that none is ever half-written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lingbot_eval.runs.disk import writing


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A fresh folder inside ``out`` (made when missing); its files move to the same places in ``out`` at the end.

    Other files of ``out`` stay. When the block raises, or the disk refuses while it writes, ``out`` is as it was;
    moving takes no space. Raises StoreError when the disk refuses.
    """
    made = not out.exists()
    stage = out / f".report.{os.getpid()}.tmp"
    with writing(out):
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
    try:
        yield stage
        with writing(out):
            for folder, _, names in os.walk(stage):
                place = out / Path(folder).relative_to(stage)
                place.mkdir(exist_ok=True)
                for name in names:
                    (Path(folder) / name).replace(place / name)
        made = False
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if made:
            with suppress(OSError):
                out.rmdir()
