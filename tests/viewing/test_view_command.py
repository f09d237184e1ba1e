"""``lingbot-eval view`` and ``lb.view``: what they take, what they refuse in one line, what an HTML page holds."""

from __future__ import annotations

import base64
import json
import re
import socket
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zstandard
from PIL import Image

import lingbot_eval as lb
from lingbot_eval.cli.main import main
from lingbot_eval.errors import ConfigError, DataError, LingbotEvalError, StoreError
from lingbot_eval.viewing.kept import Reconstruction
from lingbot_eval.viewing.layers import Layer, LayeredScene
from lingbot_eval.viewing.page import Viewer, write_page

EXPERIMENT = {
    "name": "seen",
    "datasets": [
        {
            "name": "synthetic",
            "scenes": ["room"],
            "options": {"frames": 14, "width": 112, "height": 84},
            "size": {"mode": "exact", "width": 112, "height": 84},
        }
    ],
    "methods": [
        {"kind": "lingbot", "name": "<b>one</b>/é", "model": {"config": "ci", "checkpoint": "shipped"}},
    ],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lb.run(EXPERIMENT, out=tmp_path_factory.mktemp("runs")).path


def test_a_page_is_one_file_that_names_everything_it_shows(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "out.html"
    assert main(["view", str(run), "--html", str(page), "--colour", "height", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["html"] == str(page)
    text = page.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["out.html"]
    # Names from outside are text, wherever they stand.
    assert "<b>one</b>" not in text
    assert "&lt;b&gt;one&lt;/b&gt;/é · colour: height · m · the 30 % of points" in text
    assert "(scene tree) · blue low to red high</div>" in text
    assert "<title>seen: synthetic/room</title>" in text
    recording = recording_of(text)
    assert b"/0 <b>one<_b>" in recording
    assert b"durationSeconds" in recording


def recording_of(page: str) -> bytes:
    found = re.search(r'__VISER_EMBED_DATA__="([^"]+)"', page)
    assert found
    content = base64.b64decode(found[1])
    return zstandard.ZstdDecompressor().decompress(content[8:], max_output_size=int.from_bytes(content[:8], "little"))


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize(
    ("settings", "sources"),
    [({}, range(9)), ({"frames": 4}, range(4)), ({"stride": 3}, (0, 3, 6)), ({"frames": 2, "stride": 4}, (0, 4))],
)
def test_of_images_those_that_are_asked_for_are_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, int], sources: Sequence[int], by_name: bool
) -> None:
    """Of a folder, and of a scene of a dataset."""
    for number in range(9):
        (tmp_path / "walk").mkdir(exist_ok=True)
        Image.fromarray(np.full((6, 8, 3), number, np.uint8)).save(tmp_path / "walk" / f"{number}.png")
    asked: list[Any] = []

    class Model:
        config, weights = "ci", "none"

        def session(self, **given: Any) -> Any:
            asked.append(given["frames"])
            return SimpleNamespace(with_frames=lambda frames: asked.append([Path(each.source).stem for each in frames]))

    monkeypatch.setattr("lingbot_eval.methods.model.load_model", lambda *_, **__: Model())
    monkeypatch.setattr("lingbot_eval.viewing.live.LiveViewer", lambda *_, **__: None)
    if by_name:
        lb.view("folder/walk", root=tmp_path, **settings)
    else:
        lb.view(tmp_path / "walk", **settings)
    assert asked == [len(sources), [str(number) for number in sources]]


@pytest.mark.parametrize(("frames", "taken"), [(4, 4), (None, 9), (20, 9)])
def test_of_a_camera_as_many_frames_are_streamed_as_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, frames: int | None, taken: int
) -> None:
    """Counted from 0, whatever the camera has dropped; nobody knows its truth."""
    given = [lb.Frame(7 + 2 * number, number / 10, None, f"c{number}") for number in range(9)]
    shown: list[Any] = []
    model = SimpleNamespace(
        config="ci", weights="W", session=lambda **_: SimpleNamespace(with_frames=lambda frames: list(frames))
    )
    monkeypatch.setattr("lingbot_eval.methods.model.load_model", lambda *_, **__: model)
    monkeypatch.setattr("lingbot_eval.viewing.live.Camera", lambda address: iter(given))
    monkeypatch.setattr("lingbot_eval.viewing.live.LiveScene", lambda *words: words)
    monkeypatch.setattr("lingbot_eval.viewing.live.LiveViewer", lambda *words, **_: shown.extend(words))
    lb.view("camera:0", frames=frames)
    scene, streamed, camera = shown
    assert scene[:4] == ("camera:0", "ci, W", frames, None)
    assert [(each.index, each.source) for each in streamed] == [(number, f"c{number}") for number in range(taken)]
    assert camera is not None


def test_a_scene_that_streams_has_its_own_name_and_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    session = SimpleNamespace(with_frames=lambda frames: ())
    model = SimpleNamespace(config="ci", weights="W", session=lambda **_: session)
    monkeypatch.setattr("lingbot_eval.methods.model.load_model", lambda *_, **__: model)
    monkeypatch.setattr("lingbot_eval.viewing.live.LiveScene", lambda *words: shown.extend(words))
    monkeypatch.setattr("lingbot_eval.viewing.live.LiveViewer", lambda *_, **__: None)
    lb.view("synthetic/room", frames=3, stride=5)
    truth = lb.open_dataset("synthetic").scene("room", stride=5, count=3).reference()
    assert (shown[0], shown[2]) == ("room (synthetic/room)", 3)
    np.testing.assert_array_equal(shown[3].camera_to_world, truth.camera_to_world)
    (tmp_path / "walk").mkdir()
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "walk" / "0.png")
    monkeypatch.chdir(tmp_path)
    shown.clear()
    lb.view("walk")
    assert (shown[0], shown[3]) == ("walk", None)


@pytest.mark.parametrize("what", ["camera:0", "folder", "run"])
@pytest.mark.parametrize(("html", "frames"), [(None, None), ("page.html", None), (None, 9), ("page.html", 2)])
def test_what_is_asked_of_a_page_reaches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, html: str | None, frames: int | None
) -> None:
    """Every argument that is not about which images are streamed; of a camera nobody knows the end."""
    seen: dict[str, Any] = {}

    def recorded(name: str, result: Any = None) -> Any:
        return lambda *given, **more: seen.update({name: (given, more)}) or result

    layer = SimpleNamespace(add=lambda *_: None, complete=False)
    scene = SimpleNamespace(layer=lambda: layer, layered=lambda of: ("layered", of.complete))
    session = SimpleNamespace(with_frames=lambda frames: (each for each in ()))
    model = SimpleNamespace(config="mini", weights="W", session=recorded("session", session))
    monkeypatch.setattr("lingbot_eval.methods.model.load_model", recorded("model", model))
    monkeypatch.setattr("lingbot_eval.viewing.live.Camera", lambda address: iter(()))
    monkeypatch.setattr("lingbot_eval.viewing.live.LiveScene", recorded("scene", scene))
    monkeypatch.setattr("lingbot_eval.viewing.live.LiveViewer", recorded("page"))
    monkeypatch.setattr("lingbot_eval.viewing.page.Viewer", recorded("page"))
    monkeypatch.setattr("lingbot_eval.viewing.page.write_page", recorded("file"))
    monkeypatch.setattr(
        "lingbot_eval.api._scenes_of", lambda run: ("title", {"a": lambda: "of a", "b": lambda: "of b"})
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").touch()
    (tmp_path / "folder").mkdir()
    for number in range(3):
        Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "folder" / f"{number}.png")
    given = what if ":" in what else tmp_path / what
    out = None if html is None else tmp_path / html
    asked: dict[str, Any] = {"model": "W", "config": "mini", "device": "cuda", "sky": "S", "colour": "height"}
    lb.view(given, html=out, points=7000, port=81, frames=frames, **asked)
    if what != "run":
        assert seen["model"] == (("W",), {"config": "mini", "device": "cuda"})
        # There are three images in the folder, however many are asked for.
        length = {None: 3, 9: 3, 2: 2}[frames] if what == "folder" else frames
        assert seen["session"][1] == {"frames": length, "keyframe_interval": "auto" if length else 10}
        title = f"folder ({given})" if what == "folder" else what
        assert seen["scene"][0] == (title, "mini, W", length, None, "S", 7000)
    if html is not None:
        shown = "of a" if what == "run" else ("layered", True)
        assert seen["file"] == ((out, shown), {"colouring": "height", "points": 7000})
        assert "page" not in seen
    else:
        assert seen["page"][1] == {"port": 81, "colouring": "height"} | ({"points": 7000} if what == "run" else {})
        assert "file" not in seen


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ({"points": 1000}, True),
        ({"points": 999}, False),
        ({"points": 50_000_000}, True),
        ({"points": 50_000_001}, False),
        ({"port": 0}, True),
        ({"port": -1}, False),
        ({"port": 65535}, True),
        ({"port": 65536}, False),
    ],
)
def test_how_many_points_and_which_ports_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, int], fits: bool
) -> None:
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr("lingbot_eval.viewing.page.Viewer", lambda *_, **given: shown.append(given))
    monkeypatch.setattr("lingbot_eval.api._scenes_of", lambda run: ("title", {}))
    (tmp_path / "run.json").touch()
    if fits:
        lb.view(tmp_path, **asked)
        assert shown == [{"port": 8080, "colouring": "picture", "points": 2_000_000} | asked]
        return
    (name,) = asked
    with pytest.raises(ConfigError, match=f"{name}: expected .* to .*, found {asked[name]}$"):
        lb.view(tmp_path, **asked)


@pytest.mark.parametrize(
    ("files", "named", "dataset"),
    [
        (["a.MP4"], "", "video"),
        (["a.mp4", "notes.txt"], "", "video"),
        (["a.mp4", "b.PNG"], "", "folder"),
        (["a.mp4", "b.heic"], "", "folder"),
        (["notes.txt"], "", "folder"),
        ([], "", "folder"),
        (["a.mp4"], "a.mp4", "video"),
    ],
)
def test_a_folder_of_films_alone_is_one_of_films(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], named: str, dataset: str
) -> None:
    for file in files:
        (tmp_path / file).touch()

    told = asked_for(monkeypatch, tmp_path / named, frames=5, stride=3)
    assert told == (dataset, tmp_path / named, (), {"stride": 3, "count": 5})


@pytest.mark.parametrize(
    ("text", "root", "dataset", "scene"),
    [
        ("tum/desk", "data", "tum", "desk"),
        ("tum/a/b", "data", "tum", "a/b"),
        ("tum", "data", "tum", None),
        ("synthetic/room-1", None, "synthetic", "room-1"),
        ("~/film.mp4", "data", None, None),
    ],
)
def test_a_scene_of_a_dataset_is_named_with_its_folder_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, root: str | None, dataset: str | None, scene: str | None
) -> None:
    """Where a folder is given the words name a dataset, even if there is a file of that name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "film.mp4").touch()
    (tmp_path / "tum" / "desk").mkdir(parents=True)
    if dataset is None:
        with pytest.raises(
            ConfigError, match=r"^view: expected a run directory, a folder of images, a video, .*DATASET"
        ):
            asked_for(monkeypatch, text, root=root)
        return
    folder = None if root is None else tmp_path / root
    told = asked_for(monkeypatch, text, root=None if root is None else f"~/{root}", frames=5, stride=3)
    assert told == (dataset, folder, (scene,), {"stride": 3, "count": 5})


def asked_for(monkeypatch: pytest.MonkeyPatch, what: Path | str, **given: Any) -> tuple[Any, ...]:
    """Of which dataset and folder a page of images is made, and of which of their frames."""
    told: list[tuple[Any, ...]] = []

    def opened(dataset: str, root: Path | None) -> SimpleNamespace:
        def scene(*name: str | None, **cut: int | None) -> None:
            told.append((dataset, root, name, cut))
            raise DataError("far enough")

        return SimpleNamespace(scene=scene)

    monkeypatch.setattr("lingbot_eval.datasets.cards.open_dataset", opened)
    with pytest.raises(DataError, match="far enough"):
        lb.view(what, **given)
    (only,) = told
    return only


@pytest.mark.parametrize(
    ("error", "moved", "as_json", "code"),
    [(None, None, False, 0), (DataError("frame 3: no\nimage"), 80, False, 2), (None, None, True, 0)],
)
def test_what_the_command_says_and_returns_of_a_page(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    moved: int,
    as_json: bool,
    code: int,
) -> None:
    """How to look from elsewhere, how the stream ended, and 2 where it broke."""
    ended: list[bool] = []
    waits = iter([False, False, True])
    filling = SimpleNamespace(frames=7, error=error, wait=lambda seconds: True)
    viewer = SimpleNamespace(
        address="http://127.0.0.1:81",
        moved=moved,
        filling=filling,
        wait=lambda _: next(waits),
        stop=lambda: ended.append(True),
    )
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or error is None)
    monkeypatch.setattr("lingbot_eval.api.view", lambda *_, **__: viewer)
    assert main(["view", "images", *(["--json"] if as_json else ["--open"])]) == code
    said = capsys.readouterr()
    assert ended == [True]
    assert opened == ([] if as_json else ["http://127.0.0.1:81"])
    ssh = "ssh -L 81:127.0.0.1:81 THIS_MACHINE"
    if as_json:
        found = json.loads(said.out)
        assert (found["address"], found["ssh"]) == ("http://127.0.0.1:81", ssh)
        return
    assert "page: http://127.0.0.1:81" in said.out
    assert ssh in said.out
    words = "7 frames" if error is None else "frame 3: no image"
    assert said.err.count(f"the stream ended: {words}; the page stays") == 1
    assert ("port 80 is in use" in said.err) is (moved is not None)
    assert ("no browser could be opened here" in said.err) is (error is not None)


def test_a_page_that_died_ends_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def died(seconds: float) -> bool:
        raise LingbotEvalError("the page's process ended with signal 9; start it again")

    ended: list[bool] = []
    viewer = SimpleNamespace(address="http://127.0.0.1:81", moved=None, wait=died, stop=lambda: ended.append(True))
    monkeypatch.setattr("lingbot_eval.api.view", lambda *_, **__: viewer)
    assert main(["view", "images"]) == 2
    assert ended == [True]
    assert capsys.readouterr().err == "error: the page's process ended with signal 9; start it again\n"


def test_a_server_is_told_to_listen_to_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = []

    class Server:
        def __init__(self, *, host: str, **_: object) -> None:
            hosts.append(host)
            raise ConfigError("as far as this")

    monkeypatch.setattr("viser.ViserServer", Server)
    scene = LayeredScene("s", [])
    for serve in (lambda: Viewer("t", {"a": lambda: scene}), lambda: write_page(Path("x.html"), scene)):
        with pytest.raises(ConfigError, match="as far as this"):
            serve()
    assert hosts == ["127.0.0.1"] * 2


@pytest.fixture
def viewer(run: Path) -> Iterator[Viewer]:
    found = lb.view(run, port=0)
    assert found is not None
    yield found
    found.stop()


def test_the_page_is_of_this_machine_alone(viewer: Viewer, capsys: pytest.CaptureFixture[str]) -> None:
    assert viewer.address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(viewer.address, timeout=20) as answer:
        assert b"<title>Viser</title>" in answer.read()
    port = int(viewer.address.rpartition(":")[2])
    with socket.socket() as other:
        other.bind(("127.0.0.2", port))  # nobody listens at the machine's other addresses
    assert viewer._server.request_share_url() is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 101),  # a program that is no browser
        ({"Origin": "http://HOST"}, 101),
        ({"Host": "localhost:9000", "Origin": "http://localhost:9000"}, 101),  # through a tunnel
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),  # a file, a sandboxed frame
        ({"Origin": "http://127.0.0.1:1"}, 403),  # another server of this machine
        ({"Origin": "http://HOST.elsewhere.example"}, 403),  # a name that begins as this one
        ({"Host": "elsewhere.example", "Origin": "http://elsewhere.example"}, 403),  # a name that leads here
        ({"Host": "localhost.elsewhere.example", "Origin": "http://localhost.elsewhere.example"}, 403),  # as well
    ],
)
def test_only_its_own_page_may_talk_to_the_server(viewer: Viewer, headers: dict[str, str], status: int) -> None:
    host = viewer.address.removeprefix("http://")
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
    sent = {"Host": host, "Upgrade": "websocket", "Connection": "Upgrade", **key, **headers}
    lines = [f"{name}: {value.replace('HOST', host)}" for name, value in sent.items()]
    with socket.create_connection(("127.0.0.1", int(host.rpartition(":")[2])), 20) as raw:
        raw.sendall("\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode())
        assert raw.recv(100).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_port_in_use_gives_the_next_free_one(run: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = lb.view(run, port=port)
        assert found is not None
        try:
            assert found.moved == port
            assert not found.address.endswith(f":{port}")
        finally:
            found.stop()


def test_it_says_what_is_wrong_in_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no film")
    for words, said in (
        ([str(tmp_path / "nothing")], "there is no "),
        ([str(tmp_path / "empty")], "expected images"),
        ([str(tmp_path / "text.mp4")], "video"),
        (["camera:x"], "expected the number of a camera"),
        (["synthetic/nowhere"], "nowhere"),
        ([str(run), "--points", "5"], "points: expected 1000 to"),
        ([str(run), "--port", "99999"], "port: expected 0"),
        ([str(run), "--html", str(tmp_path / "no" / "folder.html")], "cannot write"),
    ):
        assert main(["view", *words]) == 2, words
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert said in lines[0], lines
    assert not (tmp_path / "no").exists()


def test_runs_that_kept_little(run: Path, tmp_path: Path) -> None:
    """Without a cloud there are still paths; with neither there is nothing to see."""
    folder = next((run / "units").glob("*/*/*/result.json")).parent
    layer = Layer.stored("one", Reconstruction(folder, ["estimate.tum"]))
    assert layer.notes == ["no cloud was kept (keep.cloud, or a method without depth)"]
    write_page(tmp_path / "thin.html", LayeredScene("</title><b>thin", [layer]))
    text = (tmp_path / "thin.html").read_text()
    assert "<b>thin" not in text
    assert text.count("&lt;/title&gt;&lt;b&gt;thin") == 2  # the title and the caption
    recording = recording_of(text)
    assert b"/0 one/path/now" in recording
    assert b"/0 one/cloud" not in recording
    pathless = Layer.stored("one", Reconstruction(folder, ["cloud.npz"]))
    assert pathless.notes == ["no poses were kept"]
    write_page(tmp_path / "thin.html", LayeredScene("thin", [pathless]))
    assert b"/0 one/cloud" in recording_of((tmp_path / "thin.html").read_text())
    # Nothing is measured without a path: no scale is promised.
    write_page(tmp_path / "thin.html", LayeredScene("thin", [pathless]), colouring="error")
    assert "· grey: no distance from the truth is known</div>" in (tmp_path / "thin.html").read_text()
    with pytest.raises(StoreError, match="expected poses or a cloud to show, found neither"):
        Layer.stored("one", Reconstruction(folder, []))


def test_a_run_of_another_version(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((run / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**record, "schema_version": 999}))
    assert main(["view", str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip()
    assert "run.json" in said
    assert len(said.splitlines()) == 1


def test_photographs_stream_into_a_page(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(9):
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{number}.png")
    found = lb.view(tmp_path / "photos", port=0)
    assert found is not None
    try:
        assert found.filling is not None
        assert found.filling.wait(120)
        assert (found.filling.frames, found.filling.error) == (9, None)
    finally:
        found.stop()
    lb.view(tmp_path / "photos", html=tmp_path / "photos.html")
    assert b"/0 ci, shipped/cloud" in recording_of((tmp_path / "photos.html").read_text())
    with pytest.raises(ConfigError, match="colour: expected picture"):
        lb.view(tmp_path / "photos", colour="pink")  # type: ignore[arg-type]
