"""Page and figure of a scaling run, made from what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lingbot_eval.files.atomic import write_text
from lingbot_eval.plots import save
from lingbot_eval.runs.store import StoredUnit
from lingbot_eval.scaling.page import case_labels, page, title
from lingbot_eval.scaling.records import CaseRecord, ScaleRecord, ScaleStore

PAGE, FIGURE = "scale.md", "scale.png"


def write_scaling(store: ScaleStore, record: ScaleRecord, cases: Sequence[CaseRecord]) -> tuple[Path, ...]:
    """Write the page, and the figure where any case has samples; returns the files, page first.

    For the holder of the lock. Raises StoreError.
    """
    from lingbot_eval.scaling.figure import Curve, scaling_figure

    curves = [
        Curve(label, case, store.read_table(StoredUnit(store.folder(case.name), case)))
        for label, case in zip(case_labels(cases), cases, strict=True)
        if case.predictions
    ]
    # The page comes last: what it shows is there.
    files = [store.path / PAGE]
    if curves:
        save(scaling_figure(title(record), curves), store.path / FIGURE)
        files.append(store.path / FIGURE)
    write_text(store.path / PAGE, page(record, cases, FIGURE if curves else None))
    return tuple(files)
