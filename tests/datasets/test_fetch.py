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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import dataset_trees
import field_trees
import layout_trees
import pytest
import test_eth3d_release
import yaml

import lingbot_eval
from lingbot_eval import resources
from lingbot_eval.cli.main import main
from lingbot_eval.datasets import fetch as fetching
from lingbot_eval.datasets.cards import Card, DownloadFile, card_names, load_card
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


def packed(folder: Path, name: str = "") -> bytes:
    """A folder, called ``name``, as a compressed tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(folder, name or folder.name)
    return buffer.getvalue()


def zipped(folder: Path, name: str = "") -> bytes:
    """What is in a folder, under ``name``, as a zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, Path(name) / path.relative_to(folder))
    return buffer.getvalue()


def seven_zipped(folder: Path, name: str) -> bytes:
    py7zr = pytest.importorskip("py7zr")
    buffer = io.BytesIO()
    with py7zr.SevenZipFile(buffer, "w") as archive:
        archive.writeall(folder, name)
    return buffer.getvalue()


PACKERS = {"zip": zipped, "tar": packed, "7z": seven_zipped}


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


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
    assert names(root / fetching.WORK) == [fetching.RECORD]


def nest_sequences(release: Path) -> None:
    """Each sequence of 7-Scenes is an archive with its folder, in the archive of its place."""
    for folder in sorted(release.glob("*/seq-*")):
        (release / "one").mkdir()
        folder.rename(release / "one" / folder.name)
        folder.with_suffix(".zip").write_bytes(zipped(release / "one"))
        shutil.rmtree(release / "one")


def nest_flights(release: Path) -> None:
    """Each flight of EuRoC is an archive of its mav0, beside a bag, in the archive of its room."""
    for folder in release.iterdir():
        content = zipped(folder)
        shutil.rmtree(folder / "mav0")
        (folder / f"{folder.name}.zip").write_bytes(content)
        (folder / f"{folder.name}.bag").write_bytes(b"#ROSBAG V2.0")


def written(layout: str, below: str = "") -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        layout_trees.LAYOUTS[layout].write(root, layout_trees.LAYOUTS[layout].view)
        return root / below

    return write


@dataclass(frozen=True)
class Release:
    """A made-up one: the folder with its parts, a scene, the part that has it, and what is an archive inside."""

    write: Callable[[Path], Path]
    scene: str
    part: str
    nest: Callable[[Path], None] = lambda release: None


RELEASES = {
    "tum": Release(dataset_trees.write_tum, dataset_trees.TUM_SCENE, dataset_trees.TUM_SCENE),
    "seven_scenes": Release(dataset_trees.write_seven_scenes, "redkitchen/seq-03", "redkitchen", nest_sequences),
    "neural_rgbd": Release(field_trees.write_neural_rgbd, "kitchen", "kitchen"),
    "droid_w": Release(field_trees.write_droid_w, "downtown1", "downtown1"),
    "eth3d": Release(lambda root: test_eth3d_release.write_release(root).parent, "courtyard", "courtyard"),
    "bonn": Release(written("bonn", "rgbd_bonn_dataset"), "rgbd_bonn_balloon2", "rgbd_bonn_balloon2"),
    "euroc": Release(written("euroc"), "MH_01_easy", "MH_01_easy", nest_flights),
    "sintel": Release(written("sintel"), "alley_2", "training"),
    "replica": Release(written("replica"), "room0", "Replica"),
    "vkitti2": Release(written("vkitti2"), "Scene01/15-deg-left", "Scene01"),
    "tum_dynamics": Release(
        written("tum_dynamics"), "rgbd_dataset_freiburg3_walking_xyz", "rgbd_dataset_freiburg3_walking_xyz"
    ),
}


def test_every_dataset_that_is_fetched_is_tried() -> None:
    fetched = {name for name in card_names() if (found := load_card(name).download) is not None and found.files}
    assert fetched == set(RELEASES)


@pytest.mark.parametrize("name", RELEASES)
def test_the_shipped_cards_lay_out_what_their_adapters_read(server: FileServer, tmp_path: Path, name: str) -> None:
    """Releases packed as each card says that they are; only address and size are the test's."""
    known = RELEASES[name]
    release = known.write(tmp_path / "release")
    read = tree(release / known.part)
    known.nest(release)
    shipped = load_card(name).download
    assert shipped is not None
    files = []
    for number, file in enumerate(shipped.files):
        url = file.url.replace(file.url.rpartition("/")[0], f"{server.address}/{number}")
        files.append(file.model_dump(mode="json") | {"url": url, "size": None, "checksum": None})
        if known.part in file.parts:
            content = PACKERS[file.kind or "zip"](release / known.part, f"{file.inside or '.'}/{known.part}")
            server.files[url.removeprefix(server.address).replace("{part}", known.part)] = Served(content)
    cards = card(tmp_path / "cards", name, *files)
    root = tmp_path / "root"
    lingbot_eval.fetch_dataset(name, root, [known.scene], card=cards)
    assert names(root) == sorted([fetching.WORK, known.part])
    assert tree(root / known.part) == read
    assert known.scene in lingbot_eval.open_dataset(name, root).scenes


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
    "hash": ((XYZ,), {"checksum": {XYZ: "md5:" + "0" * 32}}, DataError, "expected MD5 0000"),
    "size": ((XYZ,), {"size": {XYZ: 1}}, DataError, "expected 1 bytes as the card says"),
    "another archive": ((XYZ,), {"into": "elsewhere"}, DataError, "expected this folder in the files of the card"),
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
    file = {"url": "hf://datasets/owner/data@v1/in/a.zip", "parts": ["a"], "checksum": f"sha256:{sha256}"}
    lingbot_eval.fetch_dataset("folder", tmp_path / "root", card=card(tmp_path / "cards", "folder", file))
    assert asked == [("owner/data", "in/a.zip", "dataset", "v1")]
    assert (tmp_path / "root" / "a" / "x.txt").read_text() == "x"
    assert (tmp_path / "cached.zip").is_file()
    cards = card(tmp_path / "cards", "folder", {**file, "checksum": "sha256:" + "0" * 64})
    with pytest.raises(DataError, match=r"expected SHA-256 0+ of hf://.*; remove that file and fetch it again"):
        lingbot_eval.fetch_dataset("folder", tmp_path / "other", card=cards)


def halls(*files: dict[str, object], scenes: dict[str, int | None] | None = None, hosts: tuple[str, ...] = ()) -> Card:
    """A made-up card with these files."""
    return Card.model_validate(
        {
            **dict.fromkeys(("title", "description", "layout", "scenes"), "any"),
            "name": "halls",
            "source": {"licence": "CC0"},
            "protocol": {},
            "expected_scenes": scenes or {},
            "download": {"page": "https://a.org", "files": files, "hosts": hosts},
        }
    )


@pytest.mark.parametrize(
    ("scenes", "expected", "parts"),
    [
        (("west/rain",), {}, ("west",)),
        (("west", "east/1/left"), {}, ("east", "west")),  # in the card's order
        ((), {"west/rain": 4, "elsewhere": None}, ("west",)),
        ((), {}, ("east", "west", "far/north")),
        (("far/north/2",), {"east": 3}, ("far/north",)),
    ],
)
def test_a_scene_is_in_the_part_that_its_name_begins_with(
    tmp_path: Path, scenes: tuple[str, ...], expected: dict[str, int | None], parts: tuple[str, ...]
) -> None:
    sizes = {"east": 1000, "west": 200, "far/north": 30}
    file = {"url": "https://a.org/{part}.zip", "parts": list(sizes), "size": sizes}
    licence = {"url": "https://a.org/licence.txt", "parts": ["west"], "size": 4}
    plan = fetching.plan_fetch(halls(file, licence, scenes=expected), tmp_path, scenes)
    assert plan.parts == parts
    assert plan.size == sum(sizes[part] for part in parts) + 4 * ("west" in parts)
    assert (plan.unknown, plan.there) == (0, ())
    assert [source.url for source in plan.sources if source.part] == [f"https://a.org/{part}.zip" for part in parts]


def test_a_scene_whose_name_only_looks_like_a_part_is_none(tmp_path: Path) -> None:
    two = halls({"url": "https://a.org/all.zip", "parts": ["east", "west"], "size": 1})
    with pytest.raises(ConfigError, match="halls has no scene 'west2' to fetch"):
        fetching.plan_fetch(two, tmp_path, ["west2"])
    one = halls({"url": "https://a.org/all.zip", "parts": ["all"], "size": 1})
    assert fetching.plan_fetch(one, tmp_path, ["whatever"]).parts == ("all",)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file is a file, expected a folder"):
        fetching.plan_fetch(one, tmp_path / "file")


@pytest.mark.parametrize(
    ("wanted", "path", "placed"),
    [
        ("a", "release/a/x.png", "a/data/x.png"),
        ("a", "release/a/x.txt", None),  # "without" is of the paths under the root
        ("a", "x.txt", None),
        ("a", "release/a/deep/x.png", "a/data/deep/x.png"),
        ("a", "release/b/x.png", "a/data/release/b/x.png"),  # not inside what is left out of the paths
        ("b", "release/a/x.png", None),
    ],
)
def test_where_an_entry_goes(wanted: str, path: str, placed: str | None) -> None:
    inside = {"inside": "release/{part}", "into": "{part}/data", "without": "a/data/*.txt"}
    file = DownloadFile.model_validate({"url": "https://a.org/{part}.zip", "parts": ["a", "b"], **inside})
    found = fetching.Source(file, "https://a.org/a.zip", ("a", "b"), None, None, "a").place([wanted])(
        PurePosixPath(path)
    )
    assert found == (None if placed is None else PurePosixPath(placed))


def test_what_comes_is_told_recorded_and_compared(
    server: FileServer, tum: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "_CHUNK", 500)
    root, url = tmp_path / "root", f"{server.address}/{XYZ}.tgz"
    (root / fetching.WORK).mkdir(parents=True)
    (root / fetching.WORK / "tmpleft").touch()  # of a process that was killed
    told: list[tuple[str, int, int | None]] = []
    before = datetime.now(UTC).replace(microsecond=0)
    lingbot_eval.fetch_dataset("tum", root, [XYZ], card=tum, progress=lambda *each: told.append(each))
    assert names(root / fetching.WORK) == [fetching.RECORD]
    content, files = server.files[f"/{XYZ}.tgz"].content, tree(root / XYZ)
    size, unpacked = len(content), sum(map(len, files.values()))
    record = json.loads((root / fetching.WORK / fetching.RECORD).read_text())
    when = datetime.fromisoformat(record["files"][url].pop("when"))
    assert before <= when <= datetime.now(UTC)
    assert record == {
        "schema_version": 1,
        "files": {url: {"size": size, "sha256": hashlib.sha256(content).hexdigest()}},
        "parts": {XYZ: {"files": len(files), "bytes": unpacked}},
    }
    steps = {what: [each[1:] for each in told if each[0] == what] for what, *_ in told}
    assert list(steps) == [f"{XYZ}.tgz", f"hashing {XYZ}.tgz", f"unpacking {XYZ}.tgz"]
    downloaded, hashed, laid_out = steps.values()
    assert (downloaded[-1], hashed, laid_out[-1]) == ((size, size), [(0, size)], (unpacked, None))
    assert downloaded == [(min(500 * piece, size), size) for piece in range(1, len(downloaded) + 1)]
    assert [done for done, _ in laid_out] == sorted(done for done, _ in laid_out)
    # More than was fetched is the user's own; a byte less is a loss.
    (root / XYZ / "notes.txt").write_text("mine")
    assert fetching.plan_fetch(load_card("tum", tum), root, [XYZ]).there == (XYZ,)
    (root / XYZ / "notes.txt").write_text("")
    (root / XYZ / "groundtruth.txt").write_bytes(files["groundtruth.txt"][:-1])
    with pytest.raises(DataError, match=rf"expected the {len(files)} files .{unpacked:,} bytes. that were fetched"):
        fetching.plan_fetch(load_card("tum", tum), root, [XYZ])
    (root / fetching.WORK / fetching.RECORD).write_text("{")
    with pytest.raises(DataError, match=r"record\.json: expected the record of what was fetched"):
        fetching.plan_fetch(load_card("tum", tum), root, [XYZ])


def test_each_file_has_its_own_size_hash_hosts_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parts at addresses that end alike, and one file of both."""
    given: dict[str, dict[str, object]] = {}
    places: set[Path] = set()

    def bring(url: str, path: Path, **more: object) -> None:
        del more["progress"]
        given[url] = more
        places.add(path)
        path.write_bytes(b"text")

    asked: list[tuple[str, tuple[str, ...]]] = []
    monkeypatch.setattr(fetching, "download", bring)
    monkeypatch.setattr(fetching, "stated_size", lambda url, hosts: asked.append((url, tuple(hosts))) or 4)
    by_part = {"size": {"a": 4}, "checksum": {"b": "md5:" + "b" * 32}, "into": "{part}"}
    files = [
        {"url": "https://x.org/{part}/data.txt", "parts": ["a", "b"], **by_part},
        {"url": "https://x.org/more/data.txt", "parts": ["a"], "checksum": "md5:" + "c" * 32, "into": "a/more"},
    ]
    plan = fetching.plan_fetch(halls(*files, hosts=("y.org",)), tmp_path / "root")
    assert asked == [("https://x.org/b/data.txt", ("y.org",)), ("https://x.org/more/data.txt", ("y.org",))]
    fetching.fetch(plan)
    shared = {"size": 4, "hosts": ("y.org",)}
    assert given == {
        "https://x.org/a/data.txt": {**shared, "checksum": None},
        "https://x.org/b/data.txt": {**shared, "checksum": "md5:" + "b" * 32},
        "https://x.org/more/data.txt": {**shared, "checksum": "md5:" + "c" * 32},
    }
    assert len(places) == 3
    assert sorted(tree(tmp_path / "root")) == [
        f"{fetching.WORK}/{fetching.RECORD}",
        "a/data.txt",
        "a/more/data.txt",
        "b/data.txt",
    ]


def test_archives_inside_an_archive_share_its_limit_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "x.bin").write_bytes(bytes(range(250)) * 4)
    release = tmp_path / "release" / "a"
    release.mkdir(parents=True)
    for name in ("one", "two"):
        (release / f"{name}.zip").write_bytes(zipped(inner, name))
    (release / "kept.zip").write_bytes(b"no archive of ours")
    whole = tmp_path / "whole.zip"
    whole.write_bytes(zipped(tmp_path / "release"))
    monkeypatch.setattr(fetching, "from_hub", lambda url: whole)
    outer = sum(path.stat().st_size for path in release.iterdir())
    file = {"url": "hf://datasets/o/r/whole.zip", "parts": ["a"]}
    size = whole.stat().st_size
    for limit, more, refused in (
        (outer - 1, {}, "unpacks to more than"),
        (outer + 1999, {"inner": "a/*o*.zip"}, "unpacks to more than"),
        (outer + 2000, {"size": size + 1}, "expected the .* bytes of hf://datasets/o/r/whole"),
        (outer + 2000, {"size": size, "inner": "a/*o*.zip"}, None),
    ):
        monkeypatch.setattr(fetching, "unpacked_limit", lambda packed, most=limit: most)
        plan = fetching.plan_fetch(halls({**file, **more}), tmp_path / "root")
        if refused is None:
            fetching.fetch(plan)
        else:
            with pytest.raises(DataError, match=refused):
                fetching.fetch(plan)
    assert sorted(tree(tmp_path / "root" / "a")) == ["kept.zip", "one/x.bin", "two/x.bin"]
    assert whole.is_file()  # the hub's own copy stays


def test_there_must_be_room_for_all_and_the_largest_archive_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(url: str) -> Path:
        raise DataError("there is room")

    monkeypatch.setattr(fetching, "from_hub", reached)
    file = {"url": "hf://datasets/o/r/{part}.zip", "parts": ["a", "b", "c"], "size": {"a": 100, "b": 3000, "c": 20}}
    plan = fetching.plan_fetch(halls(file), tmp_path)
    for here, needed in ((0, 6120), (500, 5620)):
        (tmp_path / fetching.WORK).mkdir(exist_ok=True)
        (tmp_path / fetching.WORK / "came").write_bytes(b"x" * here)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=needed - 1: SimpleNamespace(free=free))
        with pytest.raises(StoreError, match=f"expected {needed:,} bytes of room .*, found {needed - 1:,}; free space"):
            fetching.fetch(plan)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=needed: SimpleNamespace(free=free))
        with pytest.raises(DataError, match="there is room"):
            fetching.fetch(plan)


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
