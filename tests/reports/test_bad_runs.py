"""Reports of runs that are not whole: empty, being written, damaged, of another version; and of disks that fill."""

from __future__ import annotations

import contextlib
import errno
import gc
import html
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_run import (
    DESK,
    LINGBOT,
    OFFICE,
    REPLAY,
    build_failures,
    build_run,
    run_record,
    unit_record,
    write_failed,
    write_replay,
)
from page_reader import read_page

from lingbot_eval.cli.main import main
from lingbot_eval.errors import StoreError
from lingbot_eval.files.atomic import REPLACED, staged
from lingbot_eval.reports import sections as sections_module
from lingbot_eval.reports.drawing import UnitFigures
from lingbot_eval.reports.pages import html_page, markdown_page
from lingbot_eval.reports.reading import Opened, Run, open_readable, open_run, open_runs, overview, settings
from lingbot_eval.reports.report import write_report
from lingbot_eval.reports.sections import Code, Content, Folded, Listing, Text, make_content, sections, state, warnings
from lingbot_eval.reports.tables import RunResults
from lingbot_eval.stored.store import RunStore, StoredUnit
from lingbot_eval.tables import Table
from lingbot_eval.types import Measurement

pytestmark = pytest.mark.usefixtures("coarse_pictures")


def pages(out: Path) -> tuple[str, str]:
    """Text of the HTML page and of the Markdown page."""
    return read_page(out / "report.html").text, (out / "report.md").read_text()


def test_an_empty_run_is_said_to_be_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = RunStore.create(tmp_path, run_record().model_copy(update={"units": [], "weights": {}}))
    assert main(["report", str(store.path), "--out", str(tmp_path / "out")]) == 0
    assert "fake is incomplete: it is empty: nothing was planned" in capsys.readouterr().err
    for text in pages(tmp_path / "out"):
        assert "fake — incomplete" in text
        assert "nothing was planned" in text


def test_a_run_without_any_result_has_every_scene_with_its_reason(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path, run_record())
    write_report([store.path], tmp_path / "out")
    for text in pages(tmp_path / "out"):
        assert "0 of 6 pairs of scene and method are stored" in text
        assert text.count("not run yet: run the same command again") >= 6


def test_a_run_being_written_is_marked_incomplete_with_its_writer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = build_failures(tmp_path)
    store.write_run(store.read_run().model_copy(update={"status": "running", "finished": None}))
    with store.lock():
        assert main(["report", str(store.path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert f"still being written, by process {os.getpid()}" in document["incomplete"]["fake"]
    for text in pages(store.path / "report"):
        assert f"still being written, by process {os.getpid()}" in text
        assert "1 of 6 pairs of scene and method are stored" in text
        assert "fake — untrained weights, incomplete" in text


def test_an_interrupted_run_is_not_called_running(tmp_path: Path) -> None:
    store = build_failures(tmp_path)
    store.write_run(store.read_run().model_copy(update={"status": "running", "finished": None}))
    write_report([store.path], tmp_path / "out")
    for text in pages(tmp_path / "out"):
        assert "it was interrupted, no process writes it any more" in text
        assert "being written" not in text


def test_a_whole_run_is_not_called_incomplete(tmp_path: Path) -> None:
    write_report([build_run(tmp_path, frames=30).path], tmp_path / "out")
    for text in pages(tmp_path / "out"):
        assert "ncomplete" not in text


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[: len(text) // 2], "text that is not JSON"),
        (lambda text: text.replace('"schema_version":2', '"schema_version":99'), "schema version 1 to 2, found 99"),
        (lambda text: text.replace('"value":', '"value":"much","x":', 1), "expected a stored record"),
        (lambda _: "[]", "expected a stored record"),
    ],
)
def test_a_damaged_record_is_named_skipped_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[str], str], says: str
) -> None:
    store = build_run(tmp_path, frames=30)
    file = store.read_unit(*OFFICE, LINGBOT).folder / "result.json"
    file.write_text(damage(file.read_text()))
    assert main(["report", str(store.path), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert str(file) in error
    for text in pages(tmp_path / "out"):
        assert "a part of the run is not used" in text
        assert says in text
        assert "result.json" in text
        assert REPLAY in text  # the rest is there


def test_among_several_runs_an_unreadable_one_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = build_failures(tmp_path / "a").path, build_failures(tmp_path / "b").path
    record = json.loads((bad / "run.json").read_text())
    (bad / "run.json").write_text(json.dumps(record | {"schema_version": 99}))
    opened = open_readable([bad, good], ["bad", "good"])
    assert [run.label for run in opened.runs] == ["good"]  # whichever comes first
    words = [str(good), str(bad), "--label", "good", "--label", "bad", "--out", str(tmp_path / "out"), "--json"]
    assert main(["report", *words]) == 1
    (left_out,) = json.loads(capsys.readouterr().out)["left_out"]
    assert "schema version 1 to 2, found 99" in left_out
    for text in pages(tmp_path / "out"):
        assert "a run could not be read" in text
        assert "schema version 1 to 2, found 99" in text
        assert "CUDA out of memory" in text


def test_a_run_of_another_version_alone_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = build_failures(tmp_path).path
    record = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(record | {"schema_version": 99}))
    assert main(["report", str(path)]) == 2
    error = capsys.readouterr().err
    assert "schema version 1 to 2, found 99" in error
    assert error.count("\n") == 1
    assert not (path / "report").exists()
    with pytest.raises(StoreError, match="schema version 1 to 2, found 99"):
        write_report([path], tmp_path / "out")


# A disk that fills


class FullAfter:
    """Lets ``count`` writes to disk through, then refuses every one, as a full disk does."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self, descriptor: int) -> None:
        if self.left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.left -= 1


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# Every file of a report is forced to disk once before it is moved; the failures' report has five.
@pytest.mark.parametrize("files", range(5))
def test_a_disk_that_fills_is_one_line_and_leaves_the_old_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], files: int
) -> None:
    path = build_failures(tmp_path).path
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    (out / "report.md").write_text("the old report")
    before = content_of(out)
    monkeypatch.setattr("lingbot_eval.files.atomic.os.fsync", FullAfter(files))
    assert main(["report", str(path), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "No space left on device; free space or choose another folder" in error
    assert content_of(out) == before
    assert [entry.name for entry in out.iterdir() if entry.name.startswith(".")] == []


def test_the_writes_of_that_test_are_all_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, disk = build_failures(tmp_path).path, FullAfter(5)
    monkeypatch.setattr("lingbot_eval.files.atomic.os.fsync", disk)
    written = write_report([path], tmp_path / "out")
    assert disk.left == 0
    assert len(written.files) == 5


def test_a_disk_that_fills_while_folders_are_made_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build_failures(tmp_path).path
    make = Path.mkdir

    def refuse(folder: Path, *args: object, **keywords: object) -> None:
        if folder.name == "tables":
            raise OSError(errno.ENOSPC, "No space left on device")
        make(folder, *args, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreError, match="No space left"):
        write_report([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_report_leaves_nothing(tmp_path: Path) -> None:
    def half_way() -> Iterator[None]:
        with staged(tmp_path / "out") as stage:
            (stage / "page").write_text("half")
            yield

    writer = half_way()
    next(writer)
    assert list(tmp_path.rglob("page"))
    with pytest.raises(KeyboardInterrupt):
        writer.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert not (tmp_path / "out").exists()


def test_what_is_staged_replaces_files_of_its_name_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "other.csv").write_text("stays")
    (tmp_path / "page").write_text("old")
    with staged(tmp_path) as stage:
        (stage / "tables").mkdir()
        (stage / "tables" / "new.csv").write_text("new")
        (stage / "page").write_text("new")
        assert (tmp_path / "page").read_text() == "old"
    assert content_of(tmp_path) == {"page": b"new", "tables/new.csv": b"new", "tables/other.csv": b"stays"}


def test_the_latest_run_is_taken_when_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report"]) == 2
    assert "found none" in capsys.readouterr().err
    record = run_record().model_copy(update={"units": [[*DESK, REPLAY]]})
    stores = [
        RunStore.create(Path("runs"), record.model_copy(update={"name": name, "key": key}))
        for name, key in (("b-older", "1" * 12), ("a-newer", "2" * 12), ("c-oldest", "3" * 12))
    ]
    for store, seconds in zip(stores, (200, 300, 100), strict=True):
        os.utime(store.path / "run.json", (seconds, seconds))
    assert main(["report"]) == 1  # nothing of it is stored
    assert "a-newer" in capsys.readouterr().out
    assert [store.path.name for store in stores if (store.path / "report").exists()] == ["a-newer-222222222222"]


def ended_run(root: Path, failed: bool) -> Path:
    """A run whose one or two units are all stored, with or without a failed one."""
    units = [[*OFFICE, REPLAY], *([[*DESK, LINGBOT]] if failed else [])]
    store = RunStore.create(root, run_record().model_copy(update={"units": units}))
    with store.lock():
        write_replay(store, OFFICE, 30, 1)
        if failed:
            write_failed(store, DESK, LINGBOT)
    return store.path


@pytest.mark.parametrize(("failed", "state"), [(False, "complete"), (True, "ended, with failed scenes")])
def test_a_run_with_failed_scenes_is_not_called_complete(tmp_path: Path, failed: bool, state: str) -> None:
    assert open_run(ended_run(tmp_path, failed)).state == state


def test_a_run_writes_its_report_beside_itself_and_gives_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[Path], Path]] = []

    def write(runs: list[Path], out: Path) -> Any:
        asked.append((runs, out))
        return SimpleNamespace(files=(out / "report.html", out / "report.md"))

    monkeypatch.setattr("lingbot_eval.reports.report.write_report", write)
    run = open_run(build_failures(tmp_path).path)
    assert run.report() == run.path / "report" / "report.html"
    assert run.report(str(tmp_path / "x")) == tmp_path / "x" / "report.html"
    assert asked == [([run.path], run.path / "report"), ([run.path], tmp_path / "x")]


@pytest.mark.parametrize(
    ("given", "shown"), [("y" * 160, "y" * 160), ("y" * 161, "y" * 159 + "…"), (["b", {"d": 1, "c": 2}], None)]
)
def test_a_long_setting_is_cut_where_it_is_shown(given: object, shown: str | None) -> None:
    run = read_run(experiment={"x": given, "cards": {"d": {"n": 1}}})
    found = {row.name: row.values for row in settings([run.results])}
    expected = {"x": (shown,)} if shown is not None else {"x.0": ("b",), "x.1.d": ("1",), "x.1.c": ("2",)}
    assert found == expected


def test_one_incomplete_run_among_several_marks_the_title(tmp_path: Path) -> None:
    runs = open_runs([ended_run(tmp_path / "a", False), build_failures(tmp_path / "b").path], ["whole", "part"])
    assert make_content(Opened(runs, ())).title == "whole, part — untrained weights, incomplete"
    assert "incomplete" not in make_content(Opened(runs[:1], ())).title


def test_a_kill_between_old_and_new_leaves_a_page_and_no_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = {"report.html": "old", "report.md": "old", "figure.png": "old"}
    for name, text in old.items():
        (tmp_path / name).write_text(text)
    replace = Path.replace
    moved = 0

    def killed(path: Path, target: Path) -> Path:
        nonlocal moved
        if path.parent.name.startswith(".lingbot-eval."):
            moved += 1
            if moved > allowed:
                raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    for allowed in range(4):
        moved = 0
        with contextlib.suppress(KeyboardInterrupt), staged(tmp_path) as stage:
            for name in old:
                (stage / name).write_text(f"new {allowed}")
        found = {name: (tmp_path / name).read_text() for name in old}
        assert found["report.md"] in (REPLACED, found["figure.png"])
        assert (found["report.md"] == f"new {allowed}") == (allowed == 3)


def read_run(label: str = "x", *, planned: int = 3, gaps: int = 0, writer: str | None = None, **changes: Any) -> Run:
    """A run as it was read, of scenes a, b, …, the last of which have no result; units: those that have."""
    names = [("d", scene, "m") for scene in "abcdefgh"[:planned]]
    left_out = changes.pop("left_out", ())
    unchecked = changes.pop("unchecked", None)
    units = tuple(StoredUnit(Path("nowhere"), unit) for unit in changes.pop("stored", ()))
    record = run_record().model_copy(
        update={"units": [list(each) for each in names], "weights": {"m": "w.pt"}, **changes}
    )
    found = dict.fromkeys(names[planned - gaps :], "not run yet")
    store = RunStore(Path("nowhere"))
    return Run(label, store, RunResults(record, units, found, tuple(left_out), unchecked), writer)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, None),
        ({"status": "running"}, None),  # what is on the disk decides
        ({"gaps": 2, "writer": "process 7"}, "it is still being written, by process 7; 1 of 3 {pairs}"),
        ({"writer": "process 7"}, "it is still being written, by process 7; 3 of 3 {pairs}"),
        ({"planned": 0}, "it is empty: nothing was planned"),
        (
            {"gaps": 2, "status": "running"},
            "it was interrupted, no process writes it any more; 1 of 3 {pairs}; run its command again to go on",
        ),
        (
            {"gaps": 2, "status": "complete", "left_out": ["one"]},
            "it was complete, and results are not there any more: 1 of 3 {pairs}; run its command again for the others",
        ),
        (
            {"gaps": 2, "status": "complete", "left_out": ["one", "two"]},
            "1 of 3 {pairs}; run its command again for the others",
        ),
        ({"gaps": 3, "status": "incomplete"}, "0 of 3 {pairs}; run its command again for the others"),
    ],
)
def test_why_a_run_is_not_whole(given: dict[str, Any], why: str | None) -> None:
    run = read_run(**given)
    words = None if why is None else why.format(pairs="pairs of scene and method are stored")
    assert run.incomplete == words
    assert run.state == ("complete" if words is None else f"incomplete: {words}")
    assert (run.planned, run.scored) == (given.get("planned", 3), given.get("planned", 3) - given.get("gaps", 0))
    if given.get("planned", 3):
        (row,) = overview([run]).to_dict("records")
        assert row == {
            "run": "x",
            "state": run.state,
            "scored": run.scored,
            "planned": run.planned,
            "untrained": "",
            "started": "2026-01-01T00:00:00+00:00",
            "finished": "2026-01-01T01:00:00+00:00",
            "command": run.results.record.command,
        }


def test_what_a_reader_is_warned_of_before_any_number() -> None:
    """Each of its own run, in this order; of one run alone nobody needs its name."""
    environments = ({"cpu_model": "one"}, {"torch": {"gpus": [{"name": "A"}]}})
    cards = ({"cards": {"d": {"n": 1}}}, {"cards": {"d": {"n": 2}}})
    a = read_run("a", left_out=["a part"], weights={"m": "untrained (seed 0)"}, environment=environments[0])
    b = read_run("b", gaps=1, unchecked="older", status="incomplete", environment=environments[1])
    a, b = (
        replace(run, results=replace(run.results, record=run.results.record.model_copy(update={"experiment": card})))
        for run, card in zip((a, b), cards, strict=True)
    )
    content = make_content(Opened((a, b), ("c is damaged",)))
    assert [(text.lead, text.text) for text in warnings(content) if text.warning] == [
        ("Left out", "a run could not be read: c is damaged"),
        ("Left out", "a: a part of the run is not used: a part"),
        ("Not checked", "b: for damage: older"),
        (
            "Incomplete",
            "b: 2 of 3 pairs of scene and method are stored; run its command again for the others",
        ),
        ("Untrained weights", "a: m. Accuracy figures of these methods say nothing about the trained model."),
        ("Different datasets", "the card of d changed between these runs: scenes or protocol may differ"),
    ]
    assert content.title == "a, b — untrained weights, incomplete"
    assert content.left_out == ("c is damaged", "a part")
    assert state(content) == (
        "a: 3 of 3 pairs of scene and method scored, 2026-01-01, on one; "
        "b: 2 of 3 pairs of scene and method scored, 2026-01-01, on A"
    )
    # Of the runs' facts those in which they differ, first of all.
    (differing,) = [section for section in sections(content) if section.key == "differences"]
    (table,) = [block for block in differing.blocks if isinstance(block, Table)]
    assert ["cpu_model", "one", "–"] in [[cell.text for cell in row] for row in table.cells]
    alone = make_content(Opened((b,), ()))
    assert [text.text.partition(":")[0] for text in warnings(alone)] == [
        "for damage",
        "2 of 3 pairs of scene and method are stored; run its command again for the others",
    ]
    assert (alone.title, state(alone)[:6]) == ("b — incomplete", "2 of 3")
    (rows,) = [section for section in sections(alone) if section.key == "runs"]
    (folded,) = rows.blocks
    assert isinstance(folded, Folded)
    assert folded.summary == "6 entries"
    (facts,) = folded.blocks
    assert isinstance(facts, Table)
    assert [[cell.text for cell in row] for row in facts.cells] == [
        ["key", "5f0c2d7e91ab4433"],
        ["state", b.state],
        ["scored", "2 of 3 pairs of scene and method"],
        ["started", "2026-01-01T00:00:00+00:00"],
        ["finished", "2026-01-01T01:00:00+00:00"],
        ["weights of m", "w.pt"],
    ]


def blocks_of(content: Content, key: str) -> tuple[Any, ...]:
    """What a section of the report is made of."""
    return next((section.blocks for section in sections(content) if section.key == key), ())


def test_of_what_went_wrong_some_is_seen_some_folded_and_of_very_much_the_rest_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections_module, "_LISTED", 6)
    run = read_run(planned=8, gaps=8, left_out=[f"part {number}" for number in range(9)])
    content = make_content(Opened((run,), ()))
    lost = [(f"d / {scene} / m", "not run yet") for scene in "abcdefgh"]
    rest = "2 more: each failure is in tables/, each remark in its unit's result.json"
    assert blocks_of(content, "failures") == (
        Listing(tuple(lost[:4])),
        Folded("2 more", (Listing(tuple(lost[4:6])),)),
        Text(rest),
    )
    assert [text.text for text in warnings(content) if text.lead == "Left out"] == [
        *(f"a part of the run is not used: part {number}" for number in range(6)),
        "3 more parts of the run are not used",
    ]
    markdown = markdown_page(content, None)
    folded = "<summary>2 more</summary>\n\n- d / e / m: not run yet\n- d / f / m: not run yet\n\n</details>"
    assert f"<details>\n{folded}\n\n{rest}\n" in markdown
    page = html_page(content, None, tmp_path)
    assert '<p class="warning" role="note"><strong>Left out:</strong> 3 more parts of the run are not used</p>' in page
    assert page.index("<li><strong>d / d / m</strong> not run yet</li>") < page.index("<summary>2 more</summary>")
    assert page.index("<summary>2 more</summary>") < page.index("<li><strong>d / e / m</strong> not run yet</li>")
    assert f"<p>{html.escape(rest)}</p>".replace("&#x27;", "&#39;") in page
    # As many as are seen at once need no fold.
    four = make_content(Opened((read_run(planned=4, gaps=4),), ()))
    assert blocks_of(four, "failures") == (Listing(tuple(lost[:4])),)


def test_problems_and_remarks_are_told_of_their_unit_and_run() -> None:
    remarks = {"a": ["dark"], "b": []}
    stored = [unit_record(("d", scene), "m", 5, []).model_copy(update={"notes": remarks[scene]}) for scene in "ab"]
    runs = (read_run("x", planned=2, stored=stored), read_run("y", planned=1, gaps=1))
    drawn = UnitFigures("d / b · m", (), ("no reference", "table damaged"), ("table damaged",))
    content = replace(make_content(Opened(runs, ("z is gone",))), units=(drawn,))
    assert blocks_of(content, "failures") == (
        Listing(
            (
                ("y: d / a / m", "not run yet"),
                ("d / b · m", "no reference"),
                ("d / b · m", "table damaged"),
                ("Note", "x: d / a · m: dark"),
            )
        ),
    )
    assert content.left_out == ("z is gone", "table damaged")
    assert blocks_of(content, "repeat") == (
        Text("x"),
        Code(runs[0].results.record.command, "sh"),
        Text("y"),
        Code(runs[1].results.record.command, "sh"),
    )


def test_what_methods_and_sequences_say_is_shown_once_each_and_of_very_many_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a method what its first scene says."""
    stored = [
        unit_record(("d", scene), "m", 5, []).model_copy(
            update={"method_facts": {"window": scene}, "sequence": {"poses": f"of {scene}"}}
        )
        for scene in "abc"
    ]
    content = make_content(Opened((read_run(stored=stored),), ()))

    def facts() -> list[tuple[str, Any]]:
        return [
            (block.summary, {block.blocks[0].language: json.loads(block.blocks[0].text)})
            for block in blocks_of(content, "facts")
        ]

    methods = ("Methods", {"json": {"m": {"window": "a"}}})
    sequences = {f"d / {scene}": {"poses": f"of {scene}"} for scene in "abc"}
    assert facts() == [methods, ("Sequences", {"json": sequences})]
    monkeypatch.setattr(sections_module, "_LISTED", 2)
    del sequences["d / c"]
    assert facts() == [methods, ("Sequences, the first 2 of 3", {"json": sequences})]
    content = replace(content, opened=Opened((read_run("x", stored=stored), read_run("y")), ()))
    assert [summary for summary, _ in facts()] == ["x: Methods", "x: Sequences, the first 2 of 3"]


def test_the_first_table_of_the_page_in_full(tmp_path: Path) -> None:
    """A unit below its name, a number with its digits and in full, a gap with its reason, a mean with its share."""
    ates: dict[str, float | None] = {"a_b": 0.123456, "c": None}
    stored = []
    for scene, ate in ates.items():
        measured = [
            Measurement("trajectory", "ate_rmse", "sim3", ate, "m", "RMSE", reason=None if ate else "too short"),
            Measurement("throughput", "forward_fps", "", 12.0, "fps", "words"),
        ]
        stored.append(unit_record(("d", scene), "m", 5, measured))
    run = read_run(units=[["d", scene, "m"] for scene in ates], stored=stored)
    page = html_page(make_content(Opened((run,), ())), None, tmp_path)
    text = page[page.index('<section id="results"') : page.index('<ol class="notes">')]
    assert re.findall(r'<th scope="col"(.*?)</th>', text)[:3] == [
        '><span class="name">scene</span>',
        '><span class="name">method</span>',
        ' class="number"><span class="name">ATE</span> <span class="unit">m</span>',
    ]
    (group,) = re.findall(r'<tr class="group">(.*?)</tr>', text)
    # Scene, method and two numbers.
    assert group == '<th scope="rowgroup" colspan="4">d</th>'
    rows = {
        name: (kind, " ".join(cells.split()))
        for kind, name, cells in re.findall(r'<tr class="(\w+)">\s*<th scope="row">(.*?)</th>(.*?)</tr>', text, re.S)
    }
    (note,) = re.findall(r'<li id="(table-\d+-note-1)" value="1">too short</li>', page.partition("</section>")[0])
    number = '<td class="number{}" data-label="ATE (m)"{}>{}</td>'
    full = ' data-value="0.123456" title="0.123456"'
    gap = f'n/a<sup><a href="#{note}" aria-label="reason 1">1</a></sup>'
    assert {
        name: (kind, cells.partition("</td> ")[2].partition("</td>")[0] + "</td>")
        for name, (kind, cells) in rows.items()
    } == {
        "mean": ("mean", number.format("", full, '0.1235<span class="share">1 of 2</span>')),
        "a_<wbr>b": ("scene", number.format("", full, "0.1235")),
        "c": ("scene", number.format(" missing", "", gap)),
    }
    assert all(cells.startswith("<td>m</td> ") for _, cells in rows.values())
    assert "<li>ATE (m): ate_rmse sim3; RMSE</li>" in page


@pytest.mark.parametrize("second", [{"seed": 2, "new": True}, {"seed": 1}])
def test_settings_stand_in_a_column_a_run_and_those_that_differ_stand_out(
    tmp_path: Path, second: dict[str, Any]
) -> None:
    runs = tuple(
        read_run(label, experiment={"name": "n", **given}, environment={"cpu_model": "c"})
        for label, given in (("x", {"seed": 1}), ("y", second))
    )
    content = make_content(Opened(runs, ()))
    differs = [["seed", "1", "2"], ["new", "–", "true"]] if "new" in second else []
    for key, rows in (
        ("settings", [["name", "n", "n"], *(differs or [["seed", "1", "1"]])]),
        ("environment", [["cpu_model", "c", "c"]]),
    ):
        (folded,) = blocks_of(content, key)
        number = "1 entry" if len(rows) == 1 else f"{len(rows)} entries"
        assert folded.summary == f"{number}, those that differ between runs marked"
        (table,) = folded.blocks
        assert [column.title for column in table.columns] == ["", "x", "y"]
        assert [[cell.text for cell in row] for row in table.cells] == rows
        assert [[cell.text for cell in row if cell.strong] for row in table.cells] == [
            row[1:] if row in differs else [] for row in rows
        ]
    (differences,) = blocks_of(content, "differences")
    if not differs:
        assert differences == Text("In none of their settings, and not in their environment.")
        assert 'class="differs"' not in html_page(content, None, tmp_path)
        return
    assert [[cell.text for cell in row] for row in differences.cells] == differs
    page = html_page(content, None, tmp_path)
    assert page.count('<td class="differs">2</td>') == page.count('<td class="differs">true</td>') == 2
    assert "<td>n</td>" in page
    assert "| seed | **1** | **2** |" in markdown_page(content, None)
    alone = make_content(Opened(runs[:1], ()))
    assert [
        (block.summary, [column.title for column in block.blocks[0].columns]) for block in blocks_of(alone, "settings")
    ] == [("2 entries", ["", "value"])]
    assert blocks_of(alone, "differences") == ()
    page = html_page(alone, None, tmp_path).partition("</style>")[2]
    assert "differs" not in page
    assert "<thead>" not in page[page.index('id="runs"') :]  # of one run nothing has to head its values
    nothing = make_content(Opened((read_run(experiment={}),), ()))
    assert blocks_of(nothing, "settings") == (Text("None were stored."),)


def test_a_report_that_fails_leaves_the_collection_of_garbage_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = gc.get_threshold()
    meanwhile: list[tuple[int, int, int]] = []

    def failing(*given: object, **named: object) -> None:
        meanwhile.append(gc.get_threshold())
        raise StoreError("the disk is full")

    monkeypatch.setattr("lingbot_eval.api.report", failing)
    assert main(["report", str(build_failures(tmp_path).path), "--out", str(tmp_path / "out")]) == 2
    assert gc.get_threshold() == usual
    assert meanwhile
    assert meanwhile != [usual]
