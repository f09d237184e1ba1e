"""A layer that fills while it is looked at, and cameras as a source."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from lingbot_eval.errors import DataError
from lingbot_eval.types import Frame, Prediction
from lingbot_eval.viewing import live
from lingbot_eval.viewing.layers import Cutter, Layer
from lingbot_eval.viewing.live import Camera, Filling, is_camera, numbered

K = np.array([[30.0, 0, 19.5], [0, 30.0, 14.5], [0, 0, 1]])


def pairs(count: int, fail_at: int = -1) -> Iterator[tuple[Frame, Prediction]]:
    for index in range(count):
        if index == fail_at:
            raise DataError("frame 3: expected an image, found none")
        pose = np.eye(4)
        pose[0, 3] = 0.1 * index
        image = np.full((30, 40, 3), index, np.uint8)
        depth = np.full((30, 40), 2.0, np.float32)
        yield Frame(index, index / 10, image, ""), Prediction(index, index / 10, pose, depth, None, K)


def test_a_layer_fills_in_its_own_thread() -> None:
    layer = Layer("a", length=6)
    filling = Filling(layer, pairs(6))
    assert filling.wait(20)
    assert (filling.frames, filling.error, layer.complete) == (6, None, True)
    assert layer.index.tolist() == list(range(6))
    assert layer.status == "6 frames, complete"
    assert len(layer.cloud) > 1000
    assert layer.newest is not None
    assert layer.newest.index == 5
    assert sum(len(block.voxels) for block in Cutter().cut(layer, layer.cloud, whole=True)) == len(layer.cloud)


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
    layer = Layer("a")
    filling = Filling(layer, pairs(6, fail_at=3))
    assert filling.wait(20)
    assert filling.frames == 3
    assert isinstance(filling.error, DataError)
    assert layer.status == "ended after 3 frames: frame 3: expected an image, found none"
    assert layer.complete


def test_a_viewer_that_holds_the_layer_for_long_only_delays_one_frame() -> None:
    """The viewer's copy of new points is all that a stream can wait for."""
    layer = Layer("a")
    started = threading.Event()

    def slowly() -> Iterator[tuple[Frame, Prediction]]:
        for pair in pairs(4):
            yield pair
            started.set()

    filling = Filling(layer, slowly())
    assert started.wait(10)
    with layer.lock:
        before = filling.frames
        time.sleep(0.2)
        assert filling.frames <= before + 1
    assert filling.wait(10)
    assert filling.frames == 4


def test_it_stops_when_it_is_told() -> None:
    layer = Layer("a")
    filling = Filling(layer, pairs(10**9))
    time.sleep(0.1)
    filling.stop()
    assert filling.wait(0)
    assert layer.complete
    assert layer.status.endswith("frames, stopped")


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
        if len(taken) == 1:
            time.sleep(0.3)  # a slow method: meanwhile the whole film goes by
    assert taken[0] < taken[1] == 19
    assert len(taken) + camera.dropped == 20


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
