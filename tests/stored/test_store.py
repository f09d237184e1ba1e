"""The run store: names, atomic units, reading back, damaged records."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_records import NAMES, make_run_record, make_unit_record

from lingbot_eval.errors import BusyError, StoreError
from lingbot_eval.files.atomic import temporary_folder
from lingbot_eval.stored import store as store_module
from lingbot_eval.stored.disk import component
from lingbot_eval.stored.records import FRAME_COLUMNS, StoredFile, canonical_json, write_record
from lingbot_eval.stored.store import LeftOutUnit, RunStore, StoredUnit, find_runs
from lingbot_eval.stored.unit_files import PANELS_FILE, DepthPanels, load_panels, save_panels
from lingbot_eval.types import FrameType, Measurement


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore.create(tmp_path / "runs", make_run_record())


def write_unit(store: RunStore, names: tuple[str, str, str] = NAMES, **changes: object) -> None:
    with store.unit_writer(*names) as writer:
        for index in range(3):
            writer.append_row({"index": index, "timestamp": index / 30, "frame_type": "kept", "forward_ms": 5.0})
        writer.finish(make_unit_record(names, **changes))


def is_done(store: RunStore, input_fingerprint: str, names: tuple[str, str, str] = NAMES) -> bool:
    found = store.find_unit(*names)
    return (
        isinstance(found, StoredUnit)
        and found.record.status == "ok"
        and found.record.input_fingerprint == input_fingerprint
    )


def everything_under(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# Names


@pytest.mark.parametrize(
    "name",
    ["../x", "/", "a/b", "..", ".", ".lock", "küche 日本", "a%2Fb", "x" * 5000, "é" * 400, "\udcff", "\udcff" * 400],
)
def test_any_name_is_one_component_that_the_file_system_takes(tmp_path: Path, name: str) -> None:
    store = RunStore(tmp_path)
    for place, folder in (("units", store.folder(name, name, name)), ("states", store.state_folder(name, name, name))):
        assert len(folder.relative_to(tmp_path).parts) == 4
        assert folder.resolve().is_relative_to(tmp_path.resolve() / place)
        folder.mkdir(parents=True)
        assert not any(part.startswith(".") for part in folder.relative_to(tmp_path).parts)


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.text(st.characters(codec="utf-8"), min_size=1))
def test_two_names_never_share_a_component(one: str, other: str) -> None:
    assert (component(one) == component(other)) == (one == other)
    assert "/" not in component(one)
    assert len(component(one).encode()) < 200


def test_long_names_with_one_beginning_stay_apart() -> None:
    assert component("x" * 500 + "a") != component("x" * 500 + "b")
    assert component("x" * 180) == "x" * 180
    # As runs are filed since the first version: the beginning, and the digest of the whole name.
    digest = hashlib.sha256(b"x" * 181).hexdigest()
    assert component("x" * 181) == f"{'x' * 154}%~{digest[:24]}"


@pytest.mark.parametrize("name", ["", "\ud800"])
def test_a_name_that_cannot_be_written_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match="expected a name"):
        component(name)


# Units


def test_a_unit_comes_back_as_written(store: RunStore) -> None:
    panels = DepthPanels(
        index=np.array([0, 2]),
        image=np.full((2, 4, 5, 3), 7, np.uint8),
        truth=np.ones((2, 4, 5), np.float32),
        prediction=np.full((2, 4, 5), 2, np.float32),
    )
    with store.unit_writer(*NAMES) as writer:
        writer.append_row({"index": 0, "timestamp": 0.1, "frame_type": FrameType.SCALE, "position_error_m": None})
        nothing = {"forward_ms": np.float32("nan"), "interval_ms": -math.inf}
        writer.append_row({"index": 2, "timestamp": 0.3, "device_bytes": np.int64(5), **nothing})
        writer.path("estimate.tum").write_text("0.1 0 0 0 0 0 0 1\n")
        save_panels(writer.path(PANELS_FILE), panels)
        writer.finish(make_unit_record())
    (unit,) = store.read_units().units
    content = {path.name: path.read_bytes() for path in unit.folder.iterdir() if path.name != "result.json"}
    assert set(content) == {"estimate.tum", "frames.csv", "panels.npz"}
    files = {
        name: StoredFile(bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in content.items()
    }
    assert unit.record == make_unit_record(files=files, run_key=store.read_run().key)
    assert list(unit.record.files) == sorted(content)
    (unit.folder / "leftover.txt").write_text("of somebody else")
    assert (unit.file("frames.csv"), unit.file("leftover.txt")) == (unit.folder / "frames.csv", None)
    # The first records listed nothing: what lies there is theirs.
    first = StoredUnit(unit.folder, make_unit_record(schema_version=1))
    assert (first.file("frames.csv"), first.file("drift.npz")) == (unit.folder / "frames.csv", None)
    frames = store.read_table(unit)
    assert tuple(frames.columns) == FRAME_COLUMNS
    assert frames["index"].tolist() == [0, 2]
    assert frames["timestamp"].tolist() == [0.1, 0.3]
    assert frames["frame_type"].tolist() == ["scale", ""]
    assert frames["device_bytes"][1] == 5
    assert frames[["position_error_m", *nothing]].isna().all(axis=None)
    assert (unit.folder / "estimate.tum").read_text() == "0.1 0 0 0 0 0 0 1\n"
    stored = store.read_panels(unit)
    assert stored is not None
    np.testing.assert_array_equal(stored.image, panels.image)
    np.testing.assert_array_equal(stored.prediction, panels.prediction)
    np.testing.assert_array_equal(stored.truth, panels.truth)
    assert stored.index.tolist() == [0, 2]


def test_columns_known_at_the_end_are_filled_without_touching_the_rest(store: RunStore) -> None:
    with store.unit_writer(*NAMES) as writer:
        for index in (0, 3, 4):
            writer.append_row({"index": index, "timestamp": index / 7, "forward_ms": 1 / (index + 3)})
        writer.fill_columns({"position_error_m": {0: 0.5, 4: 0.25}, "rotation_error_deg": {3: math.nan}})
        writer.append_row({"index": 9, "timestamp": 2.0})
        writer.finish(make_unit_record())
    frames = store.read_table(store.read_unit(*NAMES))
    assert frames["index"].tolist() == [0, 3, 4, 9]
    assert frames["forward_ms"].tolist()[:3] == [1 / 3, 1 / 6, 1 / 7]
    assert frames["position_error_m"].isna().tolist() == [False, True, False, True]
    assert frames["position_error_m"].dropna().tolist() == [0.5, 0.25]
    assert frames["rotation_error_deg"].isna().all()
    assert "frames.csv.filled" not in {path.name for path in store.read_unit(*NAMES).folder.iterdir()}


def test_an_empty_frame_table_has_its_columns(store: RunStore) -> None:
    with store.unit_writer(*NAMES) as writer:
        writer.finish(make_unit_record(frames=0, predictions=0))
    frames = store.read_table(store.read_unit(*NAMES))
    assert tuple(frames.columns) == FRAME_COLUMNS
    assert len(frames) == 0


def test_a_misspelt_column_is_the_callers_fault(store: RunStore) -> None:
    with pytest.raises(ValueError, match="forward_sm"), store.unit_writer(*NAMES) as writer:
        writer.append_row({"index": 0, "forward_sm": 1.0})
    with pytest.raises(ValueError, match=r"unknown columns \['forward_sm'\]"), store.unit_writer(*NAMES) as writer:
        writer.fill_columns({"forward_ms": {0: 1.0}, "forward_sm": {0: 1.0}})


def test_a_unit_that_is_finished_twice_stays_as_it_was(store: RunStore) -> None:
    with pytest.raises(ValueError, match="is finished already"), store.unit_writer(*NAMES) as writer:  # noqa: PT012
        writer.finish(make_unit_record())
        writer.finish(make_unit_record(input_fingerprint="input-2"))
    assert is_done(store, "input-1")


def test_done_means_ok_and_made_from_this_input(store: RunStore) -> None:
    assert not is_done(store, "input-1")
    write_unit(store)
    assert is_done(store, "input-1")
    assert not is_done(store, "input-2")
    write_unit(store, status="failed", reason="out of memory", stage="stream", measurements=[])
    assert not is_done(store, "input-1")


@pytest.mark.parametrize("left", [None, 40])
def test_a_unit_with_files_gone_or_cut_off_is_not_done(store: RunStore, left: int | None) -> None:
    """Reports say "run that scene again" of a damaged table: then running again must do it."""
    write_unit(store)
    unit = store.read_unit(*NAMES)
    assert is_done(store, unit.record.input_fingerprint)
    table = unit.folder / "frames.csv"
    content = table.read_bytes()
    table.unlink()
    if left is not None:
        table.write_bytes(content[:left])
    assert not is_done(store, unit.record.input_fingerprint)


def test_an_older_result_is_replaced_whole(store: RunStore) -> None:
    write_unit(store, status="failed", reason="out of memory", stage="stream", measurements=[])
    folder = store.read_unit(*NAMES).folder
    (folder / "leftover.txt").write_text("old")
    write_unit(store)
    assert store.read_unit(*NAMES).record.status == "ok"
    assert {path.name for path in folder.iterdir()} == {"frames.csv", "result.json"}
    assert {path.name for path in folder.parent.iterdir()} == {"lingbot"}


def test_an_exception_leaves_nothing_and_the_older_result_in_place(store: RunStore) -> None:
    write_unit(store)
    before = everything_under(store.path)
    with pytest.raises(KeyError), store.unit_writer(*NAMES) as writer:  # noqa: PT012 - the failing block is the test
        writer.append_row({"index": 0})
        raise KeyError("method failed")
    assert everything_under(store.path) == before
    assert is_done(store, "input-1")


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_link_that_comes_while_a_run_goes_on_is_not_written_through(
    store: RunStore, tmp_path: Path, depth: int
) -> None:
    """Of the folder of units, of a dataset, of a scene, of the unit itself."""
    (tmp_path / "outside").mkdir()
    link = store.path.joinpath("units", *NAMES[: depth - 1])
    with store.lock():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(tmp_path / "outside")
        with pytest.raises(StoreError) as refused, store.unit_writer(*NAMES):
            pass
    assert str(refused.value) == (
        f"{link}: expected a folder or file of {store.path} itself, found a symbolic link to {tmp_path / 'outside'}; "
        "nothing is written through links: remove it, then run again"
    )
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_unit_never_finished_is_a_fault(store: RunStore) -> None:
    with pytest.raises(RuntimeError, match="never finished"), store.unit_writer(*NAMES) as writer:
        writer.append_row({"index": 0})
    assert store.read_units().units == ()


def test_a_record_of_another_unit_is_refused(store: RunStore) -> None:
    with pytest.raises(ValueError, match="desk2"), store.unit_writer(*NAMES) as writer:
        writer.finish(make_unit_record(("tum", "desk2", "lingbot")))


def test_a_partial_unit_is_invisible_and_removed_at_the_next_start(store: RunStore) -> None:
    stale = store.folder(*NAMES).with_name(".partial-dead")
    stale.mkdir(parents=True)
    (stale / "result.json").write_text("{}")
    assert store.read_units().units == ()
    assert store.read_units().left_out == ()
    with store.lock():
        assert not stale.exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_is_never_stored(store: RunStore, value: float) -> None:
    with (
        pytest.raises(StoreError, match=r"cannot store result\.json"),
        store.unit_writer(*NAMES) as writer,
    ):
        writer.finish(make_unit_record(sequence={"fps": value}))
    assert store.read_units().units == ()
    with pytest.raises(ValueError, match="is not a result; give a reason"):
        Measurement(family="depth", name="abs_rel", variant="", value=value, unit="1", convention="")


# Reading


def test_units_come_in_the_order_of_the_plan_and_missing_ones_are_named(tmp_path: Path) -> None:
    plan = [["b", "z", "m"], ["a", "y", "m"], ["a", "x", "m"]]
    store = RunStore.create(tmp_path, make_run_record(units=plan))
    write_unit(store, ("a", "y", "m"))
    write_unit(store, ("b", "z", "m"))
    units = store.read_units()
    assert [unit.record.scene for unit in units.units] == ["z", "y"]
    assert units.missing == (("a", "x", "m"),)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, "null", "[1]", '{"schema_version": 1}', b"\xff\xfe".decode("latin-1"), '{"a": NaN}'],
)
def test_a_damaged_record_is_listed_and_the_others_are_read(tmp_path: Path, text: str) -> None:
    store = RunStore.create(tmp_path, make_run_record(units=[["a", "x", "m"], ["a", "y", "m"]]))
    write_unit(store, ("a", "x", "m"))
    write_unit(store, ("a", "y", "m"))
    file = store.folder("a", "x", "m") / "result.json"
    file.write_text(text, encoding="latin-1")
    units = store.read_units()
    assert [unit.record.scene for unit in units.units] == ["y"]
    (damaged,) = units.left_out
    assert str(file) in damaged.reason
    assert "\n" not in damaged.reason
    assert units.missing == (("a", "x", "m"),)
    assert not is_done(store, "input-1", ("a", "x", "m"))


def test_a_record_copied_to_another_scene_is_damaged(store: RunStore) -> None:
    write_unit(store)
    store.folder(*NAMES).rename(store.folder("tum", "desk", "other"))
    assert "tum/desk/lingbot" in store.read_units().left_out[0].reason


@pytest.mark.parametrize("version", [0, 3, 99])
def test_a_record_of_another_version_says_so(store: RunStore, version: int) -> None:
    file = store.path / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": version, "new": 1}))
    with pytest.raises(StoreError, match=f"schema version 1 to 2, found {version};"):
        store.read_run()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema_version": 1, "files": {}, "run_key": ""}, "unit of run 0123456789ab, found one of an older"),
        ({"run_key": "f" * 16}, "expected a unit of run 0123456789ab, found one of run ffffffffffff; run the scene"),
        ({"run_key": ""}, "expected a unit of run 0123456789ab, found one of an older version; run the scene again"),
        ({"files": {"frames.csv": {"bytes": 1}}}, "expected the SHA-256 of each file of the unit, found none"),
        ({"files": {}}, "does not list frames.csv"),
        ({"files": {"../frames.csv": {"bytes": 1, "sha256": "0"}}}, "is damaged: expected a stored record"),
        ({"files": {".hidden": {"bytes": 1, "sha256": "0"}}}, "is damaged: expected a stored record"),
    ],
)
def test_a_unit_that_proves_too_little_is_left_out(store: RunStore, changes: dict[str, object], words: str) -> None:
    write_unit(store)
    file = store.folder(*NAMES) / "result.json"
    content = json.loads(file.read_text()) | changes
    del content["sha256"]
    if content["schema_version"] > 1:
        content["sha256"] = hashlib.sha256(canonical_json(content).encode()).hexdigest()
    file.write_text(json.dumps(content))
    units = store.read_units()
    assert (units.units, units.missing) == ((), (NAMES,))
    (left_out,) = units.left_out
    assert left_out.reason.startswith(str(file))
    assert words in left_out.reason


@pytest.mark.parametrize("indent", [None, 2])
def test_a_record_that_lacks_its_checksum_is_not_believed(store: RunStore, indent: int | None) -> None:
    """Whether or not anything else was changed: who changes a number may take the checksum out, too."""
    write_unit(store)
    file = store.folder(*NAMES) / "result.json"
    content = json.loads(file.read_text())
    del content["sha256"]
    file.write_text(json.dumps(content, indent=indent))
    (left_out,) = store.read_units().left_out
    assert "found a content that its checksum is not of: it was changed after it was written" in left_out.reason


def test_a_number_that_was_changed_in_a_record_is_not_believed(store: RunStore) -> None:
    """In the one line that was written, byte for byte but for a digit."""
    write_unit(store)
    file = store.folder(*NAMES) / "result.json"
    assert b'"value":0.25' in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(b'"value":0.25', b'"value":0.15'))
    (left_out,) = store.read_units().left_out
    assert "found a content that its checksum is not of: it was changed after it was written" in left_out.reason


@pytest.mark.parametrize(
    ("line", "text", "words"),
    [
        (1, "index,when", r"columns \['index', 'when'\]"),
        (2, "0,0.0,kept", "line 2 has 3 cells, not 14"),
        (4, "2,0.0,kept", "line 4 has 3 cells, not 14"),
        (3, "one" + 13 * ",", "one"),
    ],
)
def test_a_damaged_table_names_its_line(store: RunStore, line: int, text: str, words: str) -> None:
    write_unit(store)
    unit = store.read_unit(*NAMES)
    table = unit.folder / "frames.csv"
    lines = table.read_text().splitlines()
    lines[line - 1] = text
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(
        StoreError, match=rf"table of frames of a scene in .*frames\.csv, found a damaged one \(.*{words}"
    ):
        store.read_table(unit)


def test_the_sizes_of_a_table_that_was_cut_are_those_of_then_and_now(store: RunStore) -> None:
    write_unit(store)
    table = store.folder(*NAMES) / "frames.csv"
    whole = table.stat().st_size
    table.write_bytes(table.read_bytes()[:40])
    assert f"{table} is damaged: it has 40 bytes, not {whole}" in store.read_units().left_out[0].reason


def test_of_a_unit_every_damaged_file_is_named(store: RunStore) -> None:
    with store.unit_writer(*NAMES) as writer:
        for name in ("estimate.tum", "log.txt", "reference.tum"):
            writer.path(name).write_text("0 0 0\n")
        writer.finish(make_unit_record())
    folder = store.folder(*NAMES)
    (folder / "estimate.tum").write_text("0 0 1\n")
    (folder / "reference.tum").unlink()
    # The same bytes, which are no part of the run any more.
    (folder / "log.txt").rename(store.path / "log.txt")
    (folder / "log.txt").symlink_to(store.path / "log.txt")
    (left_out,) = store.read_units().left_out
    assert left_out.reason == (
        f"{folder}/estimate.tum is damaged: its content is not what was written (SHA-256); "
        f"{folder}/log.txt cannot be read: it is a symbolic link, expected a file; "
        f"{folder}/reference.tum cannot be read: No such file or directory; run the scene again"
    )


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_a_link_in_a_folder_s_place_is_told_and_not_followed(store: RunStore, tmp_path: Path, depth: int) -> None:
    write_unit(store)
    folder = store.path.joinpath("units", *NAMES[: depth - 1])
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    units = store.read_units()
    assert units.units == ()
    assert [each.folder for each in units.left_out] == [folder]
    assert "found a symbolic link" in units.left_out[0].reason


def test_a_link_to_nowhere_is_something_in_a_unit_s_place(store: RunStore) -> None:
    assert store.find_unit(*NAMES) is None
    folder = store.folder(*NAMES)
    folder.parent.mkdir(parents=True)
    folder.symlink_to("nowhere")
    found = store.find_unit(*NAMES)
    assert isinstance(found, LeftOutUnit)
    assert found.folder == folder
    assert "found a symbolic link to nowhere" in found.reason


def test_the_next_to_lock_removes_what_killed_reports_left(store: RunStore) -> None:
    """Beside a report as it was made, and in it as it was put in its place."""
    report = store.path / "report"
    report.mkdir()
    for folder in (store.path, report):
        with temporary_folder(folder) as made:
            name = made.name
        (folder / name).mkdir()
        (folder / name / "report.md").write_text("half")
        (folder / "mine.tmp").mkdir()
    with store.lock():
        pass
    assert sorted(path.name for path in store.path.iterdir()) == [".lock", "mine.tmp", "report", "run.json"]
    assert [path.name for path in report.iterdir()] == ["mine.tmp"]


def test_a_file_in_the_place_of_all_units_is_told(store: RunStore) -> None:
    (store.path / "units").write_text("")
    assert [store.find_unit(*NAMES), store.has_result(*NAMES)] == [None, False]
    for reading in (store.read_units, lambda: store.lock().__enter__()):
        with pytest.raises(StoreError) as refused:
            reading()
        assert str(refused.value) == f"cannot read {store.path}/units: Not a directory"


def test_a_folder_that_cannot_be_read_is_told_and_no_run_without_units(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_unit(store)
    listed = os.scandir

    def scandir(path: Path) -> object:
        if Path(path) == store.path / "units" / "tum":
            raise PermissionError(errno.EACCES, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(StoreError) as refused:
        store.read_units()
    assert str(refused.value) == f"cannot read {store.path}/units/tum: Permission denied"


def test_what_is_left_out_comes_by_name_in_whatever_order_the_disk_has_it(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [store.folder("tum", scene, "lingbot") for scene in "abc"]
    for folder in folders:
        folder.mkdir(parents=True)
    for backwards in (False, True):
        with monkeypatch.context() as patch:
            listed = {path: list(os.scandir(path)) for path in (store.path / "units", folders[0].parents[1])}
            listed |= {folder.parent: list(os.scandir(folder.parent)) for folder in folders}
            ordered = {
                path: sorted(each, key=lambda entry: entry.name, reverse=backwards) for path, each in listed.items()
            }
            patch.setattr(os, "scandir", lambda path, ordered=ordered: nullcontext(ordered[path]))
            assert [each.folder for each in store.read_units().left_out] == folders


def test_what_another_process_plans_is_looked_at_again(store: RunStore) -> None:
    """Though its record has as many bytes as the last one."""
    write_unit(store)
    assert isinstance(store.find_unit(*NAMES), StoredUnit)
    before = (store.path / "run.json").stat().st_size
    RunStore(store.path).write_run(make_run_record(units=[[*NAMES[:2], "lingbat"]]))
    assert (store.path / "run.json").stat().st_size == before
    found = store.find_unit(*NAMES)
    assert isinstance(found, LeftOutUnit)
    assert "tum/desk/lingbot is not in the plan of this run" in found.reason


@pytest.mark.parametrize("table", ["", "index\n1\n", None, "TOO LONG", "CUT", "WORDS"])
def test_a_damaged_frame_table_names_its_file(store: RunStore, table: str | None) -> None:
    write_unit(store)
    unit = store.read_unit(*NAMES)
    file = unit.folder / "frames.csv"
    if table is None:
        file.unlink()
    else:
        head = ",".join(FRAME_COLUMNS) + "\n"
        long = head + "1," * 40 + "\n"
        words = head + ",".join("w" for _ in FRAME_COLUMNS) + "\n"
        file.write_text({"TOO LONG": long, "CUT": head + "0,0.1,ke", "WORDS": words}.get(table, table))
    with pytest.raises(StoreError, match=r"frames\.csv"):
        store.read_table(unit)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"garbage" * 50])
def test_damaged_panels_name_their_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "panels.npz").write_bytes(content)
    with pytest.raises(StoreError, match=r"panels\.npz"):
        load_panels(tmp_path / "panels.npz")


@pytest.mark.parametrize(
    "spoilt",
    [
        {"image": np.array([{"code": 1}], dtype=object)},
        {"image": np.zeros((1, 2, 3, 3), "u1")},
        {"image": np.zeros((1, 2, 2, 3), "f4")},
        {"prediction": np.ones((1, 2, 3), "f4")},
        {"truth": np.ones((1, 2, 2), "i4")},
        {"index": np.array([0, 1])},
        {"index": np.array([0.0])},
    ],
    ids=str,
)
def test_panels_with_pickled_or_misshaped_arrays_are_refused(tmp_path: Path, spoilt: dict[str, Any]) -> None:
    good: dict[str, Any] = {name: np.ones((1, 2, 2), "f4") for name in ("truth", "prediction")}
    good |= {"index": np.array([0]), "image": np.zeros((1, 2, 2, 3), "u1")}
    path = tmp_path / "panels.npz"
    np.savez(path, **good)
    assert load_panels(path).index.tolist() == [0]
    np.savez(path, **{**good, **spoilt})
    with pytest.raises(StoreError, match=r"panels\.npz"):
        load_panels(path)


# Runs


def test_creating_again_finds_the_run_and_keeps_its_record(tmp_path: Path) -> None:
    first = RunStore.create(tmp_path, make_run_record(status="complete"))
    again = RunStore.create(tmp_path, make_run_record())
    assert again.path == first.path
    assert again.read_run().status == "complete"
    assert find_runs(tmp_path) == (first.path,)
    assert first.path.name == "smoke-0123456789ab"
    others = [RunStore.create(tmp_path, make_run_record(name=name)).path for name in ("z", "a", "m")]
    assert find_runs(tmp_path) == tuple(sorted([first.path, *others]))
    with pytest.raises(StoreError, match=f"give one of: {others[1]}, {others[2]}, {first.path}, {others[0]}$"):
        RunStore.open(tmp_path)


@pytest.mark.parametrize("written", [True, False])
def test_whoever_comes_while_another_begins_the_run_finds_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    def taken(run: Path) -> None:
        if written:
            write_record(run / "run.json", make_run_record(started="by the other"), indent=2)
        raise BusyError("being written by the other")

    monkeypatch.setattr(store_module, "directory_lock", taken)
    if written:
        assert RunStore.create(tmp_path, make_run_record()).read_run().started == "by the other"
    else:
        with pytest.raises(BusyError, match="by the other"):
            RunStore.create(tmp_path, make_run_record())


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    RunStore.create(tmp_path, make_run_record(key="0123456789ab" + "c" * 20))
    with pytest.raises(StoreError, match="choose another folder"):
        RunStore.create(tmp_path, make_run_record(key="0123456789ab" + "d" * 20))


def test_folders_without_a_result_are_no_lost_run(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path, make_run_record())
    (store.path / "run.json").unlink()
    store.folder(*NAMES).mkdir(parents=True)
    assert RunStore.create(tmp_path, make_run_record()).lost_record is None
    (store.path / "run.json").unlink()
    (store.folder(*NAMES) / "result.json").touch()
    lost = RunStore.create(tmp_path, make_run_record()).lost_record
    assert lost is not None
    assert lost.startswith(f"{store.path / 'run.json'} was not there beside results of this run")


def test_a_run_may_be_reached_through_a_link_of_whoever_names_it(store: RunStore, tmp_path: Path) -> None:
    write_unit(store)
    (tmp_path / "latest").symlink_to(store.path)
    linked = RunStore.open(tmp_path / "latest")
    units = linked.read_units()
    assert ([unit.record.names for unit in units.units], units.left_out) == ([NAMES], ())
    with linked.lock():
        write_unit(linked, notes=["again"])
    assert store.read_unit(*NAMES).record.notes == ["again"]


def test_what_is_no_run_directory_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"run\.json"):
        RunStore.open(tmp_path)
    assert find_runs(tmp_path / "nowhere") == ()
    for name in "abcdefghi":
        RunStore.create(tmp_path, make_run_record(name=name))
    with pytest.raises(StoreError, match=r"give one of: \S+/a-\w+, .*/h-\w+$"):
        RunStore.open(tmp_path)
