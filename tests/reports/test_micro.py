"""Pooled pairs: the micro row of the AUC table is what counting the pairs of all scenes together gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_run import DESK, LINGBOT, OFFICE, drifted, run_record, unit_record, walk, write_failed

from lingbot_eval.metrics.pair_auc import PairAucSettings, count_pairs, pair_measurements
from lingbot_eval.reports.rendering import legend
from lingbot_eval.reports.tables import read_results
from lingbot_eval.stored.store import RunStore
from lingbot_eval.types import Measurement


def test_micro_pools_the_pairs(tmp_path: Path) -> None:
    record = run_record().model_copy(
        update={"units": [[*OFFICE, LINGBOT], [*DESK, LINGBOT], ["indoor", "hall", LINGBOT]]}
    )
    store = RunStore.create(tmp_path, record)
    scenes = {OFFICE: walk(90, 1), DESK: walk(40, 2)}
    pooled, pairs = 0.0, 0
    with store.lock():
        for scene, reference in scenes.items():
            estimate = drifted(reference, 1, len(reference))
            found = pair_measurements(reference, estimate, PairAucSettings(thresholds_deg=(3,)))
            counts = count_pairs(reference.camera_to_world, estimate.camera_to_world)
            pooled += counts.area(3) * counts.pairs
            pairs += counts.pairs
            with store.unit_writer(*scene, LINGBOT) as writer:
                writer.finish(unit_record(scene, LINGBOT, len(reference), list(found)))
        write_failed(store, ("indoor", "hall"), LINGBOT)
    table = next(table for table in read_results(store).tables if table.key == "auc")
    rows = {row.kind: row.cells[0] for row in table.rows if row.kind != "scene"}
    assert list(rows) == ["mean", "median", "micro"]
    assert rows["micro"].value == pytest.approx(pooled / pairs)
    assert rows["micro"].samples == pairs
    assert rows["mean"].value == pytest.approx(
        np.mean([r.cells[0].value for r in table.rows if r.cells[0].note is None][:2])
    )
    assert rows["micro"].value != pytest.approx(rows["mean"].value, rel=1e-4)
    assert rows["mean"].scored == (2, 3)
    assert any("over survivors" in entry for entry in legend(table))


def test_depth_is_pooled_by_all_pixels_of_a_scene_wherever_a_sample_of_them_was_looked_at(tmp_path: Path) -> None:
    """Of abs_rel alone samples are pixels; the largest of its numbers is of all."""
    record = run_record().model_copy(update={"units": [["d", scene, "m"] for scene in "ab"], "weights": {}})
    store = RunStore.create(tmp_path, record)
    for scene, value, pixels in (
        ("a", 20.0, {"none": 100, "sequence_scale": 10}),
        ("b", 40.0, {"none": 7, "lstsq": 300}),
    ):
        found = [Measurement("depth", "abs_rel", each, value, "1", "words", samples=n) for each, n in pixels.items()]
        found.append(Measurement("depth", "delta_1_25", "none", value, "%", "words", samples=5000))
        with store.unit_writer("d", scene, "m") as writer:
            writer.finish(unit_record(("d", scene), "m", 5, found))
    (table,) = [table for table in read_results(store).tables if table.key == "depth-video"]
    (micro,) = [row for row in table.rows if row.kind == "micro"]
    named = {(column.name, column.variant): cell for column, cell in zip(table.columns, micro.cells, strict=True)}
    for name in ("abs_rel", "delta_1_25"):
        assert (named[name, "none"].value, named[name, "none"].samples) == (pytest.approx(35.0), 400)
    assert (named["abs_rel", "sequence_scale"].value, named["abs_rel", "sequence_scale"].scored) == (20.0, (1, 2))


def test_scenes_whose_number_of_pairs_is_not_stored_are_not_pooled(tmp_path: Path) -> None:
    record = run_record().model_copy(update={"units": [["d", scene, "m"] for scene in "ab"], "weights": {}})
    store = RunStore.create(tmp_path, record)
    for scene, samples in (("a", None), ("b", 0)):
        auc = Measurement("auc", "auc_30", "", 50.0, "%", "words", samples=samples)
        with store.unit_writer("d", scene, "m") as writer:
            writer.finish(unit_record(("d", scene), "m", 5, [auc]))
    table = next(table for table in read_results(store).tables if table.key == "auc")
    cells = {row.kind: row.cells[0] for row in table.rows}
    assert (cells["mean"].value, cells["micro"].value) == (50.0, None)
    assert table.notes[(cells["micro"].note or 0) - 1] == "how much each scene rests on is not stored"
