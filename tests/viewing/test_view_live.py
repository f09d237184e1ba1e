"""A layer that fills while it is looked at, and cameras as a source."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from lingbot_eval.errors import ConfigError, DataError, DependencyError, LingbotEvalError
from lingbot_eval.types import Frame, Prediction, Trajectory
from lingbot_eval.viewing import live
from lingbot_eval.viewing.cloud import VoxelCloud
from lingbot_eval.viewing.layers import Layer
from lingbot_eval.viewing.live import Camera, Filling, LiveScene, LiveViewer, is_camera, numbered, thinned

K = np.array([[30.0, 0, 19.5], [0, 30.0, 14.5], [0, 0, 1]])


def pairs(count: int, fail_at: int = -1) -> Iterator[tuple[Frame, Prediction]]:
    for index in range(count):
        if index == fail_at:
            raise DataError("frame 3: expected an image, found none")
        pose = np.eye(4)
        pose[0, 3] = 0.1 * index
        image = np.full((30, 40, 3), index % 256, np.uint8)
        depth = np.full((30, 40), 2.0, np.float32)
        yield Frame(index, index / 10, image, ""), Prediction(index, index / 10, pose, depth, None, K)


class Taken:
    """Takes what a stream gives away."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.indices: list[int] = []

    def __call__(self, status: str, pair: tuple[Frame, Prediction] | None) -> None:
        self.said.append(status)
        self.indices += [] if pair is None else [pair[0].index]


def test_a_stream_goes_by_in_its_own_thread() -> None:
    taken = Taken()
    filling = Filling(pairs(6), taken, length=6)
    assert filling.wait(20)
    assert (filling.frames, filling.error) == (6, None)
    assert taken.indices == list(range(6))
    assert taken.said[0] == "live: 1 of 6 frames"
    assert taken.said[-1] == "6 frames, complete"


def test_the_rate_is_that_of_the_last_twenty_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty at four a second, then at two; of a camera it is said what was dropped."""
    moments = iter([*(index / 4 for index in range(30)), *(30 + index / 2 for index in range(40))])
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    taken = Taken()
    source = SimpleNamespace(dropped=7, close=lambda: None)
    assert Filling(pairs(60), taken, source=source).wait(20)  # type: ignore[arg-type]
    dropped = "; the camera's newest frame is taken, 7 were dropped"
    assert taken.said[:2] == [f"live: 1 frames{dropped}", f"live: 2 frames, 4.0 a second{dropped}"]
    assert taken.said[29] == f"live: 30 frames, 4.0 a second{dropped}"
    assert taken.said[50] == f"live: 51 frames, 2.0 a second{dropped}"
    assert taken.said[49] != f"live: 50 frames, 2.0 a second{dropped}"


def test_a_page_that_grows_has_what_its_scene_says() -> None:
    truth = Trajectory(np.arange(1), np.zeros(1), np.eye(4)[None])
    scene = LiveScene("t", "m", length=6, truth=truth, points=5000)
    layer = scene.layer()
    assert (layer.label, layer.length, layer.cloud.limit, layer.network) == ("m", 6, 5000, None)
    layered = scene.layered(layer)
    assert (layered.title, layered.layers, layered.live) == ("t", [layer], True)
    assert layered.truth is truth
    assert (LiveScene("t", "m").points, LiveScene("t", "m").sky) == (2_000_000, "heuristic")


@pytest.mark.parametrize(
    ("text", "camera"),
    [
        *((f"{kind}://host/x", True) for kind in ("rtsp", "rtsps", "http", "https")),
        ("camera:0", True),
        ("cameras/x.mp4", False),
        ("ftp://host/x", False),
        ("images/camera:0", False),
    ],
)
def test_what_is_a_camera(text: str, camera: bool) -> None:
    assert is_camera(text) is camera


class Upper:
    """A network that takes the upper third for sky."""

    def mask(self, image: np.ndarray, depth: np.ndarray, confidence: object) -> np.ndarray:
        return np.arange(len(depth))[:, None] + np.zeros(depth.shape) < 10

    def words(self) -> str:
        return "the upper third"


@pytest.mark.parametrize("network", [None, Upper()])
def test_of_images_that_stream_the_sky_is_apart(network: Upper | None) -> None:
    layer = Layer("a", length=6, network=network)
    for frame, prediction in pairs(6):
        assert prediction.depth is not None
        prediction.depth[:1, 10:30] = 50  # far away, and at the upper edge
        prediction.depth[20, 20] = 50  # as far, in the middle
        layer.add(frame, prediction)
    of_a_frame = 20 if network is None else 10 * 40
    assert layer.sky.counts.sum() == 6 * of_a_frame
    assert layer.cloud.counts.sum() == 6 * (30 * 40 - of_a_frame)
    assert layer.cloud.positions[:, 2].max() == pytest.approx(50)


def test_what_ends_the_stream_is_kept_and_said() -> None:
    taken = Taken()
    filling = Filling(pairs(6, fail_at=3), taken)
    assert filling.wait(20)
    assert filling.frames == 3
    assert isinstance(filling.error, DataError)
    assert taken.said[-1] == "ended after 3 frames: frame 3: expected an image, found none"


def test_a_model_that_ends_the_program_ends_the_stream_and_that_is_said() -> None:
    taken = Taken()
    filling = Filling((sys.exit(3) for _ in [0]), taken)
    assert filling.wait(20)
    assert isinstance(filling.error, SystemExit)
    assert taken.said == ["ended after 0 frames: it ended the program: sys.exit(3)"]


def test_it_stops_when_it_is_told() -> None:
    taken = Taken()
    filling = Filling(pairs(10**9), taken)
    filling.stop()
    assert filling.wait(0)
    assert taken.said[-1].endswith("frames, stopped")


def test_what_is_handed_over_arrives_as_it_was() -> None:
    """Through a pipe that holds a part of a frame, as of large arrays and of small ones."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (378, 518, 3), dtype=np.uint8)
    depth = rng.uniform(0, 5, (378, 518)).astype(np.float32)
    given = ("words", (Frame(3, 0.3, image, ""), Prediction(3, 0.3, np.eye(4), depth, depth[::2, ::2].T, K)))
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream:

        def write() -> None:
            for message in (given, ("the end", None)):
                live._write(writing, message)
            os.write(writing, struct.pack("2q", 0, 100) + b"broken off")
            os.close(writing)

        thread = threading.Thread(target=write)
        thread.start()
        status, (frame, prediction) = live._read(stream)
        assert status == "words"
        np.testing.assert_array_equal(frame.image, image)
        np.testing.assert_array_equal(prediction.depth, depth)
        np.testing.assert_array_equal(prediction.depth_confidence, depth[::2, ::2].T)
        np.testing.assert_array_equal(prediction.intrinsics, K)
        assert live._read(stream) == ("the end", None)
        with pytest.raises(EOFError):
            live._read(stream)
        thread.join()


def test_the_page_fills_in_a_process_that_loads_no_torch_and_no_key_ends() -> None:
    begin, more = threading.Event(), threading.Event()

    def slowly() -> Iterator[tuple[Frame, Prediction]]:
        begin.wait(60)
        yield from pairs(6)
        more.wait(60)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        viewer = LiveViewer(LiveScene("t", "m", length=6), slowly(), port=port)
    process = viewer._process
    try:
        assert viewer.moved == port
        with urllib.request.urlopen(viewer.address, timeout=20) as answer:
            assert b"<title>Viser</title>" in answer.read()
        loaded = " ".join(each.path for each in psutil.Process(process.pid).memory_maps())
        assert "numpy" in loaded
        assert "libtorch" not in loaded
        # What a first frame needs is there before it.
        assert "_ni_label" in loaded
        assert "matplotlib" in loaded
        begin.set()
        # Where cores are few it gives way; of another session its nice would count for nothing.
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 16
        assert (os.getsid(process.pid), os.getpgid(process.pid)) == (os.getsid(0), process.pid)
        process.send_signal(signal.SIGINT)
        assert not viewer.wait(0.5)
        more.set()
        assert viewer.filling.wait(20)
        # Nobody else ended it: that is told in one line, and nothing waits for it.
        process.kill()
        with pytest.raises(LingbotEvalError, match=r"^the page's process ended with signal 9; start it again$"):
            viewer.wait(20)
    finally:
        begin.set()
        more.set()
        viewer.stop()


def test_what_the_pages_process_cannot_use_is_raised_here() -> None:
    with pytest.raises(ConfigError, match=r"expected heuristic or an ONNX file, found .*absent.onnx"):
        LiveViewer(LiveScene("t", "m", sky="absent.onnx"), pairs(0), port=0)


def test_a_fault_of_the_page_is_told_in_one_line() -> None:
    viewer = LiveViewer(LiveScene("t", "m"), pairs(0), port=0)
    try:
        viewer._waiting.put(("", [None, None], True))  # which no stream sends
        with pytest.raises(LingbotEvalError, match=r"^the page's process failed: AttributeError: 'NoneType' object"):
            viewer.wait(20)
    finally:
        viewer.stop()


def test_what_cannot_be_handed_to_the_page_ends_it_with_one_line() -> None:
    viewer = LiveViewer(LiveScene("t", "m"), pairs(0), port=0)
    try:
        viewer._waiting.put(lambda: None)  # as where memory for a copy is missing
        with pytest.raises(LingbotEvalError, match=r"^a frame cannot be handed to the page: [A-Z]\w+Error: .*lambda"):
            viewer.wait(20)
    finally:
        viewer.stop()


def test_what_waits_for_a_page_that_is_behind_is_thin_and_none_is_left_out() -> None:
    viewer = LiveViewer(LiveScene("t", "m"), pairs(0), port=0)
    try:
        viewer._process.send_signal(signal.SIGSTOP)
        for index in range(100):
            large = np.zeros((600, 800), np.float32)
            frame = Frame(index, index / 10, np.zeros((600, 800, 3), np.uint8), "")
            viewer._give("", (frame, Prediction(index, index / 10, np.eye(4), large, large, K)))
        waiting = [viewer._waiting.get() for _ in range(viewer._waiting.qsize())]
        viewer._process.send_signal(signal.SIGCONT)
    finally:
        viewer.stop()
    assert viewer.left_out == 0
    held = [pair[1].depth for _, pair, pictured in waiting if not pictured]
    assert len(held) > 80
    assert all(depth.base is None for depth in held)  # a view would hold the whole frame
    assert max(depth.size for depth in held) == 47 * 62
    assert viewer._put_bytes >= 80 * 46 * 61 * (3 + 4 + 4)


def test_a_page_that_is_far_behind_gets_poses_alone_and_says_so_and_the_stream_does_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lingbot_eval.viewing.live._BACKLOG", 1 << 20)
    viewer = LiveViewer(LiveScene("t", "m"), pairs(0), port=0)
    try:
        viewer._process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        large = np.zeros((600, 800), np.float32)
        for index in range(200):
            frame = Frame(index, index / 10, np.zeros((600, 800, 3), np.uint8), "")
            viewer._give(f"frame {index}", (frame, Prediction(index, index / 10, np.eye(4), large, large, K)))
        viewer._give("the end", None)
        assert time.monotonic() - began < 5
        viewer._process.send_signal(signal.SIGCONT)
        waiting = []
        while not viewer._waiting.empty():
            waiting.append(viewer._waiting.get())
    finally:
        viewer.stop()
    assert waiting[-1] == ("the end" + waiting[-3][0].removeprefix("frame 199"), None, False)
    _, (frame, prediction), pictured = waiting[-2]
    assert pictured
    assert (frame.index, prediction.camera_to_world) == (199, None)
    assert prediction.depth is not None
    del waiting[-2:]
    assert waiting[-1][0].startswith("frame 199; this page was behind: of 19")
    assert [pair[1].index for _, pair, _ in waiting] == list(range(200 - len(waiting), 200))
    bare = [pair for _, pair, _ in waiting if pair[1].depth is None]
    assert len(bare) > 180
    assert all(frame.image is None and prediction.camera_to_world is not None for frame, prediction in bare)


@pytest.mark.parametrize(("length", "step"), [(None, 8), (40, 4), (1, 1)])
def test_a_thinned_frame_gives_the_points_of_the_whole_one(length: int | None, step: int) -> None:
    rng = np.random.default_rng(0)
    whole, thin = Layer("a", VoxelCloud(voxel_size=0.001), length=length), Layer("a", VoxelCloud(voxel_size=0.001))
    thin.length = length
    matrix = np.array([[300.0, 2, 255], [0, 310, 187], [0, 0, 1]])
    for index in range(2):
        image = rng.integers(0, 255, (388, 520, 3), dtype=np.uint8)
        depth = rng.uniform(1, 5, (388, 520)).astype(np.float32)
        pair = (
            Frame(index, index / 10, image, ""),
            Prediction(index, index / 10, np.eye(4), depth, depth / 9, matrix),
        )
        whole.add(*pair)
        smaller = thinned(*pair, length)
        thin.add(*smaller, pictured=False)
        assert smaller[1].depth is not None
        assert smaller[1].depth.size == pytest.approx(depth.size / step**2, rel=0.03)
        np.testing.assert_array_equal(thinned(*smaller, length)[1].depth, smaller[1].depth)
    for name in ("positions", "colours", "confidence", "first_frame"):
        for cloud, other in ((whole.cloud, thin.cloud), (whole.sky, thin.sky)):
            np.testing.assert_allclose(getattr(cloud, name), getattr(other, name), rtol=1e-5, atol=1e-6)
    assert not thin.pictures
    assert thin.newest is None


def test_a_pose_alone_is_on_the_path_and_the_picture_stays() -> None:
    layer = Layer("a", length=6)
    for frame, prediction in pairs(3):
        alone = frame.index == 2
        frame = replace(frame, image=None) if alone else frame
        layer.add(frame, replace(prediction, depth=None) if alone else prediction, pictured=not alone)
    assert layer.index.tolist() == [0, 1, 2]
    assert layer.views[2] == layer.views[1]
    assert layer.newest is not None
    assert layer.newest.index == 1


def test_no_page_outlives_a_stream_that_was_killed() -> None:
    """Whose own process had no time for anything; one that it forked has, and holds the pipe to the page."""
    words = (
        "import time; from lingbot_eval.viewing.live import *\n"
        "viewer = LiveViewer(LiveScene('t', 'm'), (time.sleep(60) for _ in [0]), port=0)\n"
        "forked = subprocess.Popen(['sleep', '60'], pass_fds=[viewer._process.stdin.fileno()])\n"
        "print(viewer._process.pid, forked.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        page, forked = map(psutil.Process, map(int, parent.stdout.readline().split()))
        parent.kill()
        try:
            page.wait(20)
        finally:
            forked.kill()


def test_the_page_ends_by_word_though_another_process_holds_its_pipe() -> None:
    viewer = LiveViewer(LiveScene("t", "m"), pairs(0), port=0)
    assert viewer._process.stdin is not None
    held = os.dup(viewer._process.stdin.fileno())
    viewer.stop()
    os.close(held)
    assert viewer._process.returncode == 0


def test_the_page_imports_as_its_parent_does_and_what_python_prints_there_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"print('hello', flush=True)\nopen({str(tmp_path / 'seen')!r}, 'w')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))))
    (tmp_path / "queue.py").write_text("raise ImportError('no library')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    viewer = LiveViewer(LiveScene("t", "m"), pairs(0), port=0)
    viewer.stop()
    assert (tmp_path / "seen").exists()
    assert viewer._process.returncode == 0


def test_a_disk_that_has_no_room_for_the_pages_words_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(live.tempfile, "TemporaryFile", full)
    with pytest.raises(DependencyError, match=r"^cannot start a process for the page: No space left on device$"):
        LiveViewer(LiveScene("t", "m"), pairs(0), port=0)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    av = pytest.importorskip("av")
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 64, 48, "yuv420p", Fraction(1, 30)
        for index in range(20):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * index, np.uint8), format="rgb24")
            for packet in stream.encode(picture):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def test_a_camera_gives_the_newest_frame_and_counts_the_others(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av")
    monkeypatch.setattr(live, "_opened", lambda address: av.open(str(film)))
    camera = Camera("camera:0")
    taken = []
    for frame in camera:
        assert frame.image is not None
        taken.append(round(frame.image.mean() / 10))
        assert frame.index == taken[-1]
        assert frame.timestamp == pytest.approx(frame.index / 30)
        assert frame.source == f"camera:0 at {frame.index / 30:.3f} s"
        if len(taken) == 1:
            time.sleep(0.3)  # a slow method: meanwhile the whole film goes by
    assert taken[0] < taken[1] == 19
    assert len(taken) + camera.dropped == 20


@pytest.mark.parametrize("closed", [False, True])
def test_a_camera_is_free_again_at_the_end_of_its_stream(
    film: Path, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    """Whether the stream ended or was closed: a device serves one program."""
    av = pytest.importorskip("av")
    free = threading.Event()

    class Opened:
        def __init__(self) -> None:
            self._inner = av.open(str(film))
            self.streams, self.decode = self._inner.streams, self._inner.decode

        def close(self) -> None:
            self._inner.close()
            free.set()

    monkeypatch.setattr(live, "_opened", lambda address: Opened())
    camera = Camera("camera:0")
    for _ in camera:
        if closed:
            camera.close()
    assert free.wait(10)


def test_a_camera_that_breaks_off_says_so_after_its_last_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av")

    def decode(**_: int) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(time=None, to_ndarray=lambda format: np.zeros((4, 4, 3), np.uint8))
        raise av.error.TimeoutError(110, "Connection timed out")

    container = SimpleNamespace(streams=SimpleNamespace(video=[1]), decode=decode, close=lambda: None)
    monkeypatch.setattr(live, "_opened", lambda address: container)
    taken = []
    with pytest.raises(DataError, match=r"^rtsp://there/x: Connection timed out; the stream ended$"):
        taken.extend(Camera("rtsp://there/x"))
    assert [(frame.index, frame.timestamp) for frame in taken] == [(0, 0.0)]


def test_a_stream_that_is_stopped_ends_its_source_and_its_model() -> None:
    ended: list[str] = []
    begun = threading.Event()

    def streaming() -> Iterator[tuple[Frame, Prediction]]:
        try:
            for pair in pairs(10**9):
                yield pair
                begun.set()
        finally:
            ended.append("model")

    source = SimpleNamespace(dropped=0, close=lambda: ended.append("source"))
    filling = Filling(streaming(), Taken(), source=source)  # type: ignore[arg-type]
    assert begun.wait(20)
    filling.stop()
    assert sorted(ended) == ["model", "source"]


def test_a_stream_of_the_network_goes_the_way_of_a_camera(film: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=film.parent)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/{film.name}"
        assert is_camera(address)
        camera = Camera(address)
        taken = list(camera)
        with pytest.raises(DataError, match=r"absent.mp4: expected a camera or stream .* 404"):
            Camera(address.replace(film.name, "absent.mp4"))
        server.shutdown()
    assert taken[-1].image is not None
    assert round(taken[-1].image.mean() / 10) == 19
    assert len(taken) + camera.dropped == 20


def test_indices_of_a_camera_count_what_was_taken() -> None:
    frames = [Frame(index, index / 30, None, "") for index in (0, 4, 9)]
    assert [(frame.index, frame.timestamp) for frame in numbered(frames)] == [(0, 0), (1, 4 / 30), (2, 0.3)]


@pytest.mark.parametrize("address", ["camera:", "camera:x", "camera:-1", "camera:0/../../etc", "camera:1234"])
def test_words_that_name_no_camera(address: str) -> None:
    assert is_camera(address)
    with pytest.raises(DataError, match="expected the number of a camera"):
        Camera(address)


def test_a_camera_that_is_not_there() -> None:
    pytest.importorskip("av")
    with pytest.raises(DataError, match=r"camera:987: expected a camera or stream that can be opened"):
        Camera("camera:987")


def test_a_stream_without_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
    monkeypatch.setattr(live, "_opened", lambda address: av.open(str(path)))
    with pytest.raises(DataError, match="expected a video stream, found none"):
        Camera("camera:0")
