"""Damage to what is stored: named by every command, in one line, never printed as a result; the next run mends it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lingbot_eval.cli.main import main
from lingbot_eval.stored.disk import file_digest
from lingbot_eval.stored.store import RunStore
from tests.support.tiny import SCENES, run_folder, write_experiment

FILES = ("result.json", "frames.csv", "estimate.tum", "reference.tum", "drift.npz")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment, its run, and a baseline of it; tests work on copies."""
    folder = tmp_path_factory.mktemp("original")
    experiment = write_experiment(folder)
    assert main(["run", str(experiment), "--out", str(folder / "runs"), "--no-report"]) == 0
    run = run_folder(folder / "runs")
    baseline = ["--baseline", str(folder / "baseline.yaml"), "--update", "--reason", "test"]
    assert main(["gate", str(run), *baseline]) == 0
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original / "runs", tmp_path / "runs")
    return tmp_path


def unit(folder: Path, scene: str = "room") -> Path:
    return run_folder(folder / "runs") / "units" / "synthetic" / scene / "saved"


def flip(path: Path) -> None:
    """One byte, in the middle, of the same size and times."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    # A digit stays a digit: the file reads as well as before.
    where = next(k for k in range(len(content) // 2, len(content)) if chr(content[k]) in "12345678")
    content[where] += 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Exit code, and all that a reader sees."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    return code, shown.out + shown.err


def commands(original: Path, folder: Path) -> dict[str, list[object]]:
    run = run_folder(folder / "runs")
    return {
        "report": ["report", run, "--out", folder / "report"],
        "compare": ["compare", run, run_folder(original / "runs"), "--out", folder / "compare"],
        "gate": ["gate", run, "--baseline", original / "baseline.yaml"],
        "update": ["gate", run, "--baseline", folder / "new.yaml", "--update", "--reason", "test"],
    }


CODES = {"report": 1, "compare": 1, "gate": 2, "update": 2}


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_byte_is_damage_and_is_mended(
    original: Path, folder: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    path = unit(folder) / file
    flip(path)
    sound = unit(folder, "corridor") / "result.json"
    before = sound.read_bytes()
    run = run_folder(folder / "runs")
    (left_out,) = RunStore.open(run).read_units().left_out
    assert left_out.folder == unit(folder)
    assert f"{path} is damaged" in left_out.reason
    shown = call(capsys, "run", original / "tiny.yaml", "--out", folder / "runs", "--no-report")
    assert shown[0] == 0
    assert f"synthetic/room/saved begins anew: {path} is damaged" in shown[1]
    assert "complete: 1 done, 1 done before, 0 failed" in shown[1]
    assert not RunStore.open(run).read_units().left_out
    assert sound.read_bytes() == before


@pytest.mark.parametrize("command", CODES)
def test_every_command_names_damage_and_shows_the_rest(
    original: Path, folder: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path = unit(folder) / "frames.csv"
    words = commands(original, folder)[command]
    sound = call(capsys, *words)
    assert sound[0] == 0
    assert "is damaged" not in sound[1]
    flip(path)
    code, shown = call(capsys, *words)
    assert code == CODES[command]
    assert "is damaged" in shown
    # Markdown breaks no name: it escapes what would be markup.
    assert "frames.csv" in shown.replace("\\", "")
    if command == "report":
        text = (folder / "report" / "report.md").read_text()
        assert "frames.csv is damaged" in text.replace("\\", "")
        assert "corridor" in text
    if command == "update":
        assert "a baseline needs a whole run" in shown


def another_run(original: Path, folder: Path, *overrides: str) -> Path:
    out = folder / "others"
    words = [word for override in overrides for word in ("--set", override)]
    assert main(["run", str(original / "tiny.yaml"), *words, "--out", str(out), "--no-report"]) == 0
    return run_folder(out)


@pytest.mark.parametrize("command", CODES)
def test_a_unit_of_another_run_is_named_and_left_out(
    original: Path, folder: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    other = another_run(original, folder, "datasets.0.selection.count=6")
    shutil.rmtree(unit(folder))
    shutil.copytree(other / "units" / "synthetic" / "room" / "saved", unit(folder))
    code, shown = call(capsys, *commands(original, folder)[command])
    assert code == CODES[command]
    keys = [json.loads((run / "run.json").read_text())["key"][:12] for run in (run_folder(folder / "runs"), other)]
    assert f"expected a unit of run {keys[0]}, found one of run {keys[1]}" in shown
    if command == "report":
        shown = call(capsys, "run", original / "tiny.yaml", "--out", folder / "runs", "--no-report")[1]
        assert "complete: 1 done, 1 done before, 0 failed" in shown


def test_a_unit_that_was_never_planned_is_named_and_left_out(
    original: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(original / "estimates" / "room.txt", original / "estimates" / "loop.txt")
    other = another_run(original, folder, "datasets.0.scenes=[loop]")
    shutil.copytree(other / "units" / "synthetic" / "loop", unit(folder).parents[1] / "loop")
    wanted = commands(original, folder)
    for command, code in {"report": 1, "compare": 1, "gate": 0, "update": 0}.items():
        found, shown = call(capsys, *wanted[command])
        assert (command, found) == (command, code)
        assert "synthetic/loop/saved is not in the plan of this run" in shown
    tables = (folder / "report" / "tables" / "measurements.csv").read_text()
    assert "synthetic,loop," not in tables
    assert "scene: loop" not in (folder / "new.yaml").read_text()
    code, shown = call(capsys, "run", original / "tiny.yaml", "--out", folder / "runs", "--no-report")
    assert (code, "loop/saved is not in the plan" in shown) == (0, True)
    assert (unit(folder).parents[1] / "loop").is_dir()


def older(folder: Path) -> Path:
    """The run as b5cf192 stored it: schema 1, sizes of files alone, no checksums and no keys."""
    run = run_folder(folder / "runs")
    for path in (run / "run.json", *run.glob("units/*/*/*/result.json")):
        record = json.loads(path.read_text())
        del record["sha256"]
        record["schema_version"] = 1
        record.pop("run_key", None)
        record.pop("notes", None)
        if "files" in record:
            record["files"] = {name: file["bytes"] for name, file in record["files"].items()}
        path.write_text(json.dumps(record))
    return run


def test_records_of_schema_1_are_read_and_said_to_be_unchecked(
    original: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = older(folder)
    stored = RunStore.open(run).read_units()
    assert [unit.record.scene for unit in stored.units] == list(SCENES)
    for command, words in commands(original, folder).items():
        code, shown = call(capsys, *words)
        assert (command, code) == (command, 0)
        assert "stored by an older version, without checksums" in shown
    # What can be seen of damage there is still seen, with its file.
    (unit(folder) / "drift.npz").write_bytes(bytes((unit(folder) / "drift.npz").stat().st_size))
    code, shown = call(capsys, *commands(original, folder)["report"])
    assert code == 1
    assert "drift.npz" in shown
    table = unit(folder) / "frames.csv"
    whole = table.read_text()
    for text in ("short", f"{whole}9\n"):
        table.write_text(text)
        code, shown = call(capsys, *commands(original, folder)["report"])
        assert code == 1
        assert f"it has {len(text)} bytes, not {len(whole)}" in shown


def test_a_newer_unit_in_an_older_run_and_the_other_way_round(folder: Path, original: Path) -> None:
    run = older(folder)
    shutil.rmtree(unit(folder))
    shutil.copytree(unit(original), unit(folder))
    # Of the same key: its checksums hold.
    assert not RunStore.open(run).read_units().left_out
    shutil.rmtree(run)
    shutil.copytree(run_folder(original / "runs"), run)
    copy = unit(folder, "corridor")
    older_record = json.loads((copy / "result.json").read_text())
    del older_record["sha256"]
    older_record |= {"schema_version": 1, "files": {}}
    (copy / "result.json").write_text(json.dumps(older_record))
    (left_out,) = RunStore.open(run).read_units().left_out
    assert "expected a unit of run" in left_out.reason


# What a record may hold instead of what it should. Schema 1, where no checksum tells.
ODD: dict[str, Callable[[dict[str, object]], object]] = {
    "list for record": lambda record: [record],
    "list for mapping": lambda record: record | {"sequence": []},
    "mapping for list": lambda record: record | {"measurements": {}},
    "missing": lambda record: {key: value for key, value in record.items() if key != "frames"},
    "text for number": lambda record: record | {"frames": "12"},
    "truth for number": lambda record: record | {"predictions": True},
    "huge integer": lambda record: record | {"frames": 10**30},
    "negative": lambda record: record | {"frames": -1},
    "huge time": lambda record: record | {"seconds": 1e308 * 10},
    "deep": lambda record: record | {"sequence": nested(900)},
    "outside file": lambda record: record | {"files": {"../../../../run.json": 3}},
    "null": lambda record: record | {"method_facts": None},
    "status": lambda record: record | {"status": "fine"},
    "unknown key": lambda record: record | {"more": 1},
    "version": lambda record: record | {"schema_version": "1"},
}


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize("name", ODD)
def test_an_odd_record_is_one_line_and_the_others_are_read(folder: Path, name: str) -> None:
    run = older(folder)
    path = unit(folder) / "result.json"
    path.write_text(json.dumps(ODD[name](json.loads(path.read_text()))))
    stored = RunStore.open(run).read_units()
    assert [found.record.scene for found in stored.units] == ["corridor"]
    (left_out,) = stored.left_out
    assert str(path) in left_out.reason
    assert "\n" not in left_out.reason
    assert len(left_out.reason) < 1000


@pytest.mark.parametrize(
    "odd",
    [
        {"environment": []},
        {"environment": {"torch": 3, "libraries": [], "variables": 1}},
        {"environment": {"torch": {"gpus": 5}}},
        {"experiment": {"cards": {"synthetic": []}}},
        {"experiment": {"datasets": 5}},
        {"experiment": {"metrics": {"trajectory": 3}}},
        {"experiment": {"cards": {"synthetic": {"published": [{"method": "x"}]}}}},
        {"units": [["synthetic", "room"]]},
        {"weights": {"saved": 3}},
        {"status": 3},
    ],
    ids=str,
)
def test_an_odd_run_record_ends_nothing_with_a_fault(
    original: Path, folder: Path, capsys: pytest.CaptureFixture[str], odd: dict[str, object]
) -> None:
    run = older(folder)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | odd))
    for words in commands(original, folder).values():
        code, shown = call(capsys, *words)
        assert code in (0, 1, 2)
        assert code == 0 or "run.json is damaged" in shown or "different hardware" in shown


def test_a_run_record_that_was_changed_is_refused(
    original: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(run_folder(folder / "runs") / "run.json")
    for words in commands(original, folder).values():
        code, shown = call(capsys, *words)
        assert code == 2
        assert "run.json is damaged: expected a stored record, found a content that its checksum is not of" in shown
        assert len(shown.splitlines()) == 1


def test_what_the_record_does_not_list_is_not_read(folder: Path, original: Path) -> None:
    (unit(folder) / "panels.npz").write_bytes(b"planted")
    run = RunStore.open(run_folder(folder / "runs"))
    found = run.read_unit("synthetic", "room", "saved")
    assert found.file("panels.npz") is None
    assert run.read_panels(found) is None


def test_every_file_has_its_digest_in_the_record(original: Path) -> None:
    record = json.loads((unit(original) / "result.json").read_text())
    there = {path.name for path in unit(original).iterdir()} - {"result.json"}
    assert there == set(FILES) - {"result.json"}
    for name in there:
        size, digest = file_digest(unit(original) / name)
        assert record["files"][name] == {"bytes": size, "sha256": digest}
    assert record["run_key"] == json.loads((run_folder(original / "runs") / "run.json").read_text())["key"]


# Links, pipes and folders where files of the run should be


def outside(folder: Path) -> Path:
    """A folder that is nobody's business, with a unit of the same names and a partial one."""
    place = folder / "outside"
    shutil.copytree(run_folder(folder / "runs") / "units", place / "units")
    (place / "units" / "synthetic" / "room" / ".partial-mine").mkdir()
    (place / "report").mkdir()
    (place / "report" / "report.md").write_text("mine")
    (place / "lock").write_text("mine")
    return place


def content(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("link", "target"),
    [
        (".lock", "lock"),
        ("units", "units"),
        ("units/synthetic", "units/synthetic"),
        ("units/synthetic/room", "units/synthetic/room"),
        ("units/synthetic/room/saved", "units/synthetic/room/saved"),
        ("report", "report"),
        ("run.json", "lock"),
    ],
)
def test_a_link_in_the_run_directory_is_refused_and_nothing_behind_it_is_touched(
    original: Path, folder: Path, capsys: pytest.CaptureFixture[str], link: str, target: str
) -> None:
    place = outside(folder)
    before = content(place)
    run = run_folder(folder / "runs")
    path = run / link
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(place / target)
    code, shown = call(capsys, "run", original / "tiny.yaml", "--out", folder / "runs")
    assert code == 2
    assert "symbolic link" in shown
    assert str(path) in shown
    assert content(place) == before
    if link == "report":
        code, shown = call(capsys, "report", run)
        assert (code, "symbolic link" in shown) == (2, True)
    if link.startswith("units"):
        for words in commands(original, folder).values():
            code, shown = call(capsys, *words)
            assert code in (1, 2)
            assert "symbolic link" in shown
    assert content(place) == before


def test_a_link_in_the_report_is_refused(original: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = outside(folder)
    before = content(place)
    report = run_folder(folder / "runs") / "report"
    report.mkdir()
    (report / "tables").symlink_to(place / "units")
    (report / "report.md").symlink_to(place / "lock")
    code, shown = call(capsys, "report", report.parent)
    assert code == 2
    assert "tables: expected a folder of the report, found a symbolic link" in shown
    (report / "tables").unlink()
    assert call(capsys, "report", report.parent)[0] == 0
    # A page takes the place of a link, not of what it leads to.
    assert not (report / "report.md").is_symlink()
    assert content(place) == before


@pytest.mark.parametrize("relative", ["run", "out", "both", "neither"])
def test_a_link_on_the_way_to_the_report_is_refused_however_both_are_named(
    original: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    relative: str,
) -> None:
    run = run_folder(folder / "runs")
    (run / "reports").symlink_to(outside(folder))
    monkeypatch.chdir(folder)
    named = {"run": run, "out": run / "reports" / "first"}
    words = [path.relative_to(folder) if relative in (each, "both") else path for each, path in named.items()]
    code, shown = call(capsys, "report", words[0], "--out", words[1])
    assert (code, "reports: expected a folder or file of" in shown) == (2, True)


def test_a_lock_with_another_name_is_not_written_to(
    original: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = folder / "mine"
    mine.write_text("mine")
    lock = run_folder(folder / "runs") / ".lock"
    lock.unlink()
    lock.hardlink_to(mine)
    code, shown = call(capsys, "run", original / "tiny.yaml", "--out", folder / "runs")
    assert (code, ".lock" in shown) == (2, True)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
@pytest.mark.parametrize("file", ["result.json", "drift.npz"])
def test_a_pipe_or_folder_in_a_files_place_is_damage(
    original: Path, folder: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], None], file: str
) -> None:
    path = unit(folder) / file
    path.unlink()
    make(path)
    code, shown = call(capsys, *commands(original, folder)["compare"])
    assert (code, str(path) in shown) == (1, True)
    code, shown = call(capsys, "run", original / "tiny.yaml", "--out", folder / "runs", "--no-report")
    assert (code, "1 done, 1 done before" in shown) == (0, True)


def test_a_temporary_name_that_is_a_link_is_not_written_through(
    original: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = folder / "mine"
    mine.write_text("mine")
    (run_folder(folder / "runs") / ".run.0.tmp.json").symlink_to(mine)
    assert call(capsys, "run", original / "tiny.yaml", "--out", folder / "runs", "--no-report")[0] == 0
    assert mine.read_text() == "mine"


def test_a_report_of_removed_results_ends_with_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_folder(folder / "runs")
    shutil.rmtree(run / "units")
    code, shown = call(capsys, "report", run, "--out", folder / "report")
    assert code == 1
    assert "it was complete, and results are not there any more: 0 of 2 pairs" in shown


def test_a_removed_record_is_said_and_written_anew(
    original: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run_folder(folder / "runs") / "run.json"
    record.unlink()
    words = ["run", original / "tiny.yaml", "--out", folder / "runs", "--no-report"]
    code, shown = call(capsys, *words)
    assert code == 1
    assert f"error: {record} was not there beside results" in shown
    assert call(capsys, *words)[0] == 0
