"""Temporary files and folders: gone with their writers, and what a killed one left goes with the next of its kind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lingbot_eval.errors import StoreError
from lingbot_eval.files.atomic import REPLACED, atomic_path, remove_abandoned, staged, temporary_folder, write_text

KILLED = """
import os, signal, sys
from pathlib import Path
from lingbot_eval.files.atomic import atomic_path, temporary_folder
with atomic_path(Path(sys.argv[1])) as temporary, temporary_folder(Path(sys.argv[1]).parent) as folder:
    temporary.write_text("half")
    (folder / "page").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def leave(target: Path) -> None:
    """What a process leaves that is killed while it writes ``target``."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(target)], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL


def test_what_a_killed_process_left_goes_with_the_next_writer_and_a_living_ones_stays(tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    write_text(target, "old")
    leave(target)
    assert len(hidden(tmp_path)) == 2
    with atomic_path(target) as living, temporary_folder(tmp_path) as stage:
        living.write_text("living")
        assert (
            hidden(tmp_path) == sorted([living.name, stage.name, ".lingbot-eval.0.tmp"])[:2]
            or len(hidden(tmp_path)) == 2
        )
        write_text(target, "new")
        remove_abandoned(tmp_path)
        assert living.read_text() == "living"
        assert stage.is_dir()
        assert target.read_text() == "new"
        assert len(hidden(tmp_path)) == 2
    assert target.read_text() == "living"
    assert hidden(tmp_path) == []


def test_a_report_removes_what_killed_ones_left_and_no_living_ones(tmp_path: Path) -> None:
    out = tmp_path / "report"
    for home in (tmp_path, out):
        home.mkdir(exist_ok=True)
        leave(home / "x")
        (home / ".lingbot-eval.7.tmp" / "half").mkdir(parents=True)  # of several that ran at once
    with staged(out) as first:
        (first / "report.md").write_text("first")
        with staged(out) as second:
            (second / "report.md").write_text("second")
            assert first.is_dir()
        assert (out / "report.md").read_text() == "second"
    assert (out / "report.md").read_text() == "first"
    assert [name for home in (out, tmp_path) for name in hidden(home) if "lingbot-eval" in name] == []


def test_a_fresh_report_appears_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    out = tmp_path / "report"
    rename = os.rename

    def watching(source: Path, target: Path) -> None:
        seen.append({path.name for path in out.iterdir()} if out.exists() else set())
        rename(source, target)
        seen.append({path.name for path in out.iterdir()})

    monkeypatch.setattr(os, "rename", watching)
    with staged(out) as stage:
        (stage / "figures").mkdir()
        (stage / "figures" / "one.png").write_bytes(b"png")
        (stage / "report.md").write_text("![](figures/one.png)")
    assert seen == [set(), {"figures", "report.md"}]


def test_pages_say_so_while_what_they_refer_to_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At no moment does an old page show a new figure, or a new page an old one. Pages with all inside come first."""
    for name in ("report.md", "a.png", "mine.txt", "z.html", "z.ipynb"):
        (tmp_path / name).write_text("old")
    replace, seen = os.replace, []

    def watching(source: Path, target: Path) -> None:
        replace(source, target)
        seen.append({path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()})

    with staged(tmp_path) as stage:
        for name in ("report.md", "a.png", "z.html", "z.ipynb"):
            (stage / name).write_text("new")
        monkeypatch.setattr(os, "replace", watching)
    assert {now.pop("mine.txt") for now in seen} == {"old"}
    assert [[now[name] for name in ("z.html", "z.ipynb", "report.md", "a.png")] for now in seen] == [
        ["new", "old", "old", "old"],
        ["new", "new", "old", "old"],
        ["new", "new", REPLACED, "old"],
        ["new", "new", REPLACED, "new"],
        ["new", "new", "new", "new"],
    ]


def test_a_file_in_place_of_a_report_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    out = tmp_path / "report"
    out.write_text("mine")
    with pytest.raises(StoreError, match=r"cannot write .*report: Not a directory"), staged(out):
        pytest.fail("began")
    assert out.read_text() == "mine"
    assert hidden(tmp_path) == []


def test_a_report_that_another_one_was_faster_than_replaces_its_files_alone(tmp_path: Path) -> None:
    out = tmp_path / "report"
    with staged(out) as stage:
        (stage / "figures").mkdir()
        for name in ("figures/a.png", "report.md"):
            (stage / name).write_text("mine")
        out.mkdir()
        for name in ("report.md", "other.csv"):
            (out / name).write_text("another's")
    found = {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}
    assert found == {"figures/a.png": "mine", "report.md": "mine", "other.csv": "another's"}
    assert hidden(tmp_path) == []


def test_where_nothing_can_be_locked_files_are_written_and_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system without locks nobody can tell whose a temporary folder is."""
    tries = []

    def refuse(descriptor: int, operation: int) -> None:
        tries.append(descriptor)
        assert len(tries) < 9
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / ".lingbot-eval.0.tmp").mkdir()
    with staged(tmp_path) as stage:
        (stage / "report.md").write_text("new")
    assert (tmp_path / "report.md").read_text() == "new"
    assert hidden(tmp_path) == [".lingbot-eval.0.tmp"]


def test_a_name_that_is_no_utf_8_is_written_with_its_codes(tmp_path: Path) -> None:
    write_text(tmp_path / "a.md", "b\udcff\u00e9")
    assert (tmp_path / "a.md").read_bytes() == b"b\\udcff\xc3\xa9"


@pytest.mark.parametrize("suffix", [".png", ".tar.gz"])
def test_the_suffix_stays_last(tmp_path: Path, suffix: str) -> None:
    with atomic_path(tmp_path / f"name{suffix}") as temporary:
        assert temporary.suffix == Path(f"name{suffix}").suffix
        temporary.write_text("x")
    assert (tmp_path / f"name{suffix}").read_text() == "x"


def test_a_link_with_the_temporary_name_is_not_written_through(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / ".page.0.tmp.html").symlink_to(mine)
    write_text(tmp_path / "page.html", "new")
    assert (tmp_path / "page.html").read_text() == "new"
    assert mine.read_text() == "mine"
    assert hidden(tmp_path) == [".page.0.tmp.html"]


def test_a_folder_that_takes_nothing_is_an_error_and_no_endless_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc, or a working directory that somebody removed: it is there, and what is made in it is not found."""
    tries = []

    def refuse(path: Path, mode: int = 0o777, **_: object) -> None:
        tries.append(path)
        assert len(tries) < 9
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(FileNotFoundError), temporary_folder(tmp_path):
        pass


def test_a_folder_that_is_not_there_is_to_be_made(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match=r"cannot write .*gone/page.html: No such .*; make the folder .*gone or choose"
    ):
        write_text(tmp_path / "gone" / "page.html", "new")
