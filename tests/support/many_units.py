"""A run of many units at the cost of one: a stored unit under new names, its other files linked."""

from __future__ import annotations

import os
from pathlib import Path

from lingbot_eval.stored.records import write_record
from lingbot_eval.stored.store import RunStore

DATASETS = 4


def multiply(run: Path, out: Path, count: int) -> Path:
    """Write the first unit of a run under other names, as the engine would have written it.

    Args:
        run: Directory of a run.
        out: That of the new one, which has its record, dataset and method.
        count: Units; scenes are called ``s00000`` …, and are of `DATASETS` datasets in turn.

    Returns:
        ``out``.
    """
    store = RunStore.open(run)
    unit, record = store.read_units().units[0], store.read_run()
    names = [(f"set{number % DATASETS}", f"s{number:05d}", unit.record.method) for number in range(count)]
    (dataset,) = record.experiment.get("datasets", [{}])
    datasets = [
        dataset | {"label": label, "scenes": [scene for own, scene, _ in names if own == label]}
        for label in dict.fromkeys(label for label, _, _ in names)
    ]
    out.mkdir(parents=True)
    made = RunStore(out)
    made.write_run(
        record.model_copy(
            update={"units": [list(each) for each in names], "experiment": record.experiment | {"datasets": datasets}}
        )
    )
    for label, scene, method in names:
        folder = made.folder(label, scene, method)
        folder.mkdir(parents=True)
        for file in unit.record.files:
            os.link(unit.folder / file, folder / file)
        own = unit.record.model_copy(update={"dataset": label, "scene": scene})
        write_record(folder / made.layout.unit_file, own)
    return out
