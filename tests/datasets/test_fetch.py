"""``datasets fetch`` from a server on this machine: a part is laid out as its adapter reads, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import dataset_trees
import pytest
import yaml

import lingbot_eval
from lingbot_eval import resources
from lingbot_eval.cli.main import main
from lingbot_eval.datasets import fetch as fetching
from lingbot_eval.datasets.cards import card_names, load_card
from lingbot_eval.errors import ConfigError, DataError, StoreError
from lingbot_eval.files import downloads
from tests.support.file_server import FileServer, Served, file_server

pytest.importorskip("pooch")

XYZ, DESK = "rgbd_dataset_freiburg1_xyz", "rgbd_dataset_freiburg1_desk"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(downloads, "PAUSE_S", 0.0)
    with file_server() as found:
        yield found


def packed(folder: Path) -> bytes:
    """A folder as a compressed tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(folder, folder.name)
    return buffer.getvalue()


def zipped(folder: Path, top: str = "") -> bytes:
    """What is in a folder, under ``top``, as a zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, Path(top) / path.relative_to(folder))
    return buffer.getvalue()


def card(folder: Path, name: str, *files: dict[str, object], **more: object) -> Path:
    """The shipped card with a download section of its own."""
    text = (resources.shared_folder("datasets") / f"{name}.yaml").read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    document["download"] = {"page": "https://example.org", "files": list(files), **more}
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return folder


@pytest.fixture
def tum(server: FileServer, tmp_path: Path) -> Path:
    """A card of two scenes of TUM RGB-D on the server."""
    for name in (XYZ, DESK):
        dataset_trees.write_tum(tmp_path / "release", name)
        server.files[f"/{name}.tgz"] = Served(packed(tmp_path / "release" / name))
    file = {"url": f"{server.address}/{{part}}.tgz", "parts": [XYZ, DESK]}
    return card(tmp_path / "cards", "tum", {**file, "size": {XYZ: len(server.files[f"/{XYZ}.tgz"].content)}})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_fetched_scene_passes_the_check(
    server: FileServer, tum: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    words = ["datasets", "fetch", "tum", XYZ, "--root", str(root), "--card", str(tum)]
    assert main([*words, "--yes"]) == 0
    said = capsys.readouterr().out
    assert "licence: CC BY 4.0" in said
    assert f"{server.address}/{XYZ}.tgz" in said
    assert f"next: lingbot-eval datasets check tum --root {root}" in said
    assert names(root) == [fetching.WORK, XYZ]
    assert names(root / fetching.WORK) == [fetching.RECORD]
    assert main(["datasets", "check", "tum", "--root", str(root)]) == 0
    assert "no problems" in capsys.readouterr().out
    # A second fetch asks the server for nothing.
    server.asked.clear()
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["there"], document["parts"], document["fetched"]) == ([XYZ], [], False)
    assert server.asked == []


def test_without_a_terminal_and_yes_nothing_is_fetched(
    server: FileServer, tum: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    words = ["datasets", "fetch", "tum", "--root", str(root), "--card", str(tum)]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "expected a terminal to ask whether to download" in error
    assert error.count("\n") == 1
    assert main([*words, "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(file["url"], file["bytes"]) for file in document["files"]] == [
        (f"{server.address}/{name}.tgz", len(server.files[f"/{name}.tgz"].content)) for name in (XYZ, DESK)
    ]
    assert document["licence"] == "CC BY 4.0"
    assert not root.exists()
    # The card has one of the two sizes; the server was asked for the other, and for nothing else.
    assert {(method, path) for method, path, _ in server.asked} == {("HEAD", f"/{DESK}.tgz")}


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("\n", 1)])
def test_a_person_is_asked(
    tum: Path,
    tmp_path: Path,
    answer: str,
    code: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert main(["datasets", "fetch", "tum", XYZ, "--root", str(tmp_path / "root"), "--card", str(tum)]) == code
    assert "under the licence above? [y/N]" in capsys.readouterr().err
    assert (tmp_path / "root").exists() == (code == 0)


def test_a_scene_appears_whole_or_not_at_all(server: FileServer, tum: Path, tmp_path: Path) -> None:
    """A damaged archive after a good one: the good scene stays, the other is fetched again when it is mended."""
    root = tmp_path / "root"
    good = server.files[f"/{DESK}.tgz"].content
    server.files[f"/{DESK}.tgz"] = Served(good[: len(good) // 2])
    with pytest.raises(DataError, match="damaged tar archive"):
        lingbot_eval.fetch_dataset("tum", root, card=tum)
    assert names(root) == [fetching.WORK, XYZ]
    assert names(root / fetching.WORK) == [fetching.RECORD]
    server.files[f"/{DESK}.tgz"] = Served(good)
    plan = lingbot_eval.fetch_dataset("tum", root, card=tum)
    assert (plan.parts, plan.there) == ((DESK,), (XYZ,))
    assert names(root / DESK) == names(tmp_path / "release" / DESK)


def test_what_changed_since_the_first_fetch_is_refused(server: FileServer, tum: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    lingbot_eval.fetch_dataset("tum", root, [DESK], card=tum)
    (root / DESK / "groundtruth.txt").unlink()
    with pytest.raises(DataError, match=r"expected the \d+ files .* that were fetched, found \d+"):
        lingbot_eval.fetch_dataset("tum", root, [DESK], card=tum)
    shutil.rmtree(root / DESK)
    (tmp_path / "release" / DESK / "new.txt").write_text("new")
    server.files[f"/{DESK}.tgz"] = Served(packed(tmp_path / "release" / DESK))
    with pytest.raises(DataError, match=r"expected the file of .*, found .*: the publisher changed it"):
        lingbot_eval.fetch_dataset("tum", root, [DESK], card=tum)
    assert names(root) == [fetching.WORK]
    shutil.rmtree(root / fetching.WORK)
    lingbot_eval.fetch_dataset("tum", root, [DESK], card=tum)
    assert (root / DESK / "new.txt").read_text() == "new"


def test_a_scene_of_the_user_is_left_alone(server: FileServer, tum: Path, tmp_path: Path) -> None:
    (tmp_path / "root" / XYZ).mkdir(parents=True)
    plan = lingbot_eval.fetch_dataset("tum", tmp_path / "root", [XYZ], card=tum)
    assert (plan.there, names(tmp_path / "root" / XYZ), server.asked) == ((XYZ,), [], [])


@pytest.mark.parametrize("moment", ["downloading", "unpacking"])
def test_a_kill_leaves_no_half_scene(server: FileServer, tum: Path, tmp_path: Path, moment: str) -> None:
    root = tmp_path / "root"
    begin = f"{XYZ}.tgz" if moment == "downloading" else "unpacking"
    code = (
        "import os, signal, sys, lingbot_eval\n"
        f"def kill(what, done, total): what.startswith({begin!r}) and os.kill(os.getpid(), signal.SIGKILL)\n"
        f"lingbot_eval.fetch_dataset('tum', sys.argv[1], [{XYZ!r}], card=sys.argv[2], progress=kill)"
    )
    words = [sys.executable, "-c", code, str(root), str(tum)]
    assert subprocess.run(words, timeout=60, check=False).returncode == -9
    assert names(root) == [fetching.WORK]
    lingbot_eval.fetch_dataset("tum", root, [XYZ], card=tum)
    assert names(root / XYZ) == names(tmp_path / "release" / XYZ)
    assert names(root) == [fetching.WORK, XYZ]
    assert not [name for name in names(root / fetching.WORK) if name.endswith((".part", ".tgz"))]


def test_archives_in_archives_become_the_layout_of_seven_scenes(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = dataset_trees.write_seven_scenes(tmp_path / "release")
    for place in ("redkitchen", "chess"):
        for sequence in sorted((release / place).glob("seq-*")):
            (tmp_path / "one").mkdir()
            sequence.rename(tmp_path / "one" / sequence.name)
            sequence.with_suffix(".zip").write_bytes(zipped(tmp_path / "one"))
            shutil.rmtree(tmp_path / "one")
        server.files[f"/{place}.zip"] = Served(zipped(release / place, place))
    shipped = load_card("seven_scenes").download
    assert shipped is not None
    file = shipped.files[0].model_dump(mode="json") | {"url": f"{server.address}/{{part}}.zip", "size": None}
    cards = card(tmp_path / "cards", "seven_scenes", file)
    root = tmp_path / "root"
    lingbot_eval.fetch_dataset("seven_scenes", root, ["redkitchen/seq-03", "chess"], card=cards)
    assert names(root / "redkitchen") == ["TestSplit.txt", "TrainSplit.txt", "seq-01", "seq-02", "seq-03"]
    assert main(["datasets", "check", "seven_scenes", "--root", str(root)]) == 0
    assert "no problems" in capsys.readouterr().out


def test_several_files_make_one_scene_and_one_file_several(server: FileServer, tmp_path: Path) -> None:
    for name in ("images", "depth"):
        for scene in ("attic", "cellar"):
            (tmp_path / name / scene / name).mkdir(parents=True)
            (tmp_path / name / scene / name / "0.txt").write_text(f"{scene} {name}")
        server.files[f"/{name}.zip"] = Served(zipped(tmp_path / name, "release/v1"))
    (tmp_path / "depth" / "cellar" / "depth" / "0.txt").unlink()
    server.files["/attic.txt"] = Served(b"calibration")
    inside = {"parts": ["attic", "cellar"], "inside": "release/v1"}
    cards = card(
        tmp_path / "cards",
        "folder",
        *({"url": f"{server.address}/{name}.zip", **inside} for name in ("images", "depth")),
        {"url": f"{server.address}/{{part}}.txt", "parts": ["attic"], "into": "{part}/calibration"},
    )
    root = tmp_path / "root"
    lingbot_eval.fetch_dataset("folder", root, ["attic"], card=cards)
    found = {str(path.relative_to(root)): path.read_text() for path in (root / "attic").rglob("*") if path.is_file()}
    assert found == {
        "attic/images/0.txt": "attic images",
        "attic/depth/0.txt": "attic depth",
        "attic/calibration/attic.txt": "calibration",
    }
    assert names(root) == [fetching.WORK, "attic"]
    lingbot_eval.fetch_dataset("folder", root, card=cards)
    assert names(root / "cellar") == ["depth", "images"]


REFUSED = {
    "no such scene": ((DESK[:-1],), {}, ConfigError, f"has no scene .*did you mean '{DESK}'"),
    "hash": ((XYZ,), {"sha256": {XYZ: "0" * 64}}, DataError, "expected SHA-256 0000"),
    "size": ((XYZ,), {"size": {XYZ: 1}}, DataError, "expected 1 bytes as the card says"),
    "another archive": ((XYZ,), {"inside": "elsewhere"}, DataError, "expected this folder in the files of the card"),
    "full disk": ((XYZ,), {"size": {XYZ: 1 << 60}}, StoreError, "expected [0-9,]+ bytes of room"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_leaves_no_scene(server: FileServer, tum: Path, tmp_path: Path, name: str) -> None:
    scenes, more, error, says = REFUSED[name]
    file = {"url": f"{server.address}/{{part}}.tgz", "parts": [XYZ, DESK]}
    cards = card(tmp_path / "cards", "tum", {**file, **more})
    with pytest.raises(error, match=says) as refusal:
        lingbot_eval.fetch_dataset("tum", tmp_path / "root", scenes, card=cards)
    assert "\n" not in str(refusal.value)
    assert set(names(tmp_path / "root")) <= {fetching.WORK}


def test_two_fetches_into_one_folder_do_not_meet(tum: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"

    def again(what: str, done: int, total: int | None) -> None:
        with pytest.raises(StoreError, match="another process fetches into it"):
            lingbot_eval.fetch_dataset("tum", root, [DESK], card=tum)

    lingbot_eval.fetch_dataset("tum", root, [XYZ], card=tum, progress=again)


def test_the_hub_serves_a_file_of_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    (tmp_path / "release" / "a").mkdir(parents=True)
    (tmp_path / "release" / "a" / "x.txt").write_text("x")
    (tmp_path / "cached.zip").write_bytes(zipped(tmp_path / "release"))
    asked: list[tuple[str, str, str, str]] = []

    def serve(repository: str, name: str, *, repo_type: str, revision: str) -> str:
        asked.append((repository, name, repo_type, revision))
        return str(tmp_path / "cached.zip")

    monkeypatch.setattr(hub, "hf_hub_download", serve)
    sha256 = hashlib.sha256((tmp_path / "cached.zip").read_bytes()).hexdigest()
    file = {"url": "hf://datasets/owner/data@v1/in/a.zip", "parts": ["a"], "sha256": sha256}
    lingbot_eval.fetch_dataset("folder", tmp_path / "root", card=card(tmp_path / "cards", "folder", file))
    assert asked == [("owner/data", "in/a.zip", "dataset", "v1")]
    assert (tmp_path / "root" / "a" / "x.txt").read_text() == "x"
    assert (tmp_path / "cached.zip").is_file()
    cards = card(tmp_path / "cards", "folder", {**file, "sha256": "0" * 64})
    with pytest.raises(DataError, match=r"expected SHA-256 0+ of hf://.*; remove that file and fetch it again"):
        lingbot_eval.fetch_dataset("folder", tmp_path / "other", card=cards)


BY_HAND = [name for name in card_names() if (found := load_card(name).download) is not None and not found.files]


@pytest.mark.parametrize("name", BY_HAND)
def test_what_takes_a_person_says_how(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = load_card(name)
    assert known.download is not None
    assert main(["datasets", "fetch", name, "--root", str(tmp_path / "root")]) == 2
    captured = capsys.readouterr()
    assert f"error: {name} cannot be fetched by a command" in captured.err
    assert captured.err.count("\n") == 1
    for text in (known.download.page, *known.download.steps, known.layout):
        assert text in captured.out
    assert not (tmp_path / "root").exists()


def test_what_is_made_or_brought_has_nothing_to_fetch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "fetch", "synthetic", "--root", str(tmp_path)]) == 2
    assert "synthetic is nothing that can be fetched" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []  # noqa: PTH208
