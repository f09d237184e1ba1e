"""The one implementation of messages that both sides share, held against the msgpack library."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from lingbot_eval import external
from lingbot_eval.external import Pose, ProtocolError, pack, read_png, unpack, write_png

msgpack = pytest.importorskip("msgpack")

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=300)
)
messages = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@settings(max_examples=40)
@given(st.dictionaries(st.text(), messages, max_size=4))
def test_the_library_reads_what_we_write_and_we_what_it_writes(message: dict[str, Any]) -> None:
    assert msgpack.unpackb(pack(message)) == message
    assert unpack(msgpack.packb(message)) == message
    assert unpack(pack(message)) == message


@pytest.mark.parametrize("length", [15, 16, 31, 32, 255, 256, 65535, 65536])
def test_every_length_has_its_head(length: int) -> None:
    for value in ("x" * length, b"x" * length, [0] * length, dict.fromkeys(map(str, range(min(length, 300))), 0)):
        assert msgpack.unpackb(pack(value)) == value
        assert unpack(msgpack.packb(value)) == value


BITS = (7, 8, 15, 16, 31, 32, 63, 64)
ENDS = {0, -1, -32, -33, *(2**n for n in BITS[:-1]), *(2**n - 1 for n in BITS)}
ENDS |= {-(2**n) - below for n in BITS[::2] for below in (0, 1) if n + below < 64}


@pytest.mark.parametrize("number", sorted(ENDS))
def test_every_kind_of_whole_number_has_its_ends(number: int) -> None:
    assert msgpack.unpackb(pack(number)) == unpack(msgpack.packb(number)) == number


def test_a_message_is_nested_eight_deep_and_no_deeper() -> None:
    assert str(unpack(b"\x91" * 8 + b"\xc0")) == "[[[[[[[[None]]]]]]]]"
    with pytest.raises(ProtocolError, match="nested more than 8 deep"):
        unpack(b"\x91" * 9 + b"\xc0")


def test_what_python_has_besides_is_sent_as_what_it_is_like() -> None:
    assert unpack(pack((1, (2,)))) == [1, [2]]
    for content in (bytearray(b"ab"), memoryview(b"ab")):
        assert unpack(pack({"image": content})) == {"image": b"ab"}
        assert unpack(type(content)(pack([b"ab"]))) == [b"ab"]


def test_numbers_of_other_programs_are_read() -> None:
    assert unpack(msgpack.packb(0.5, use_single_float=True)) == 0.5
    assert math.isnan(unpack(msgpack.packb(math.nan)))


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    try:
        unpack(data)
    except ProtocolError as error:
        assert "\n" not in str(error)  # noqa: PT017 - most bytes are refused, a few are a message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut"),
        (b"\xc0\xc0", "ends after 1"),
        (b"\xdd\xff\xff\xff\xff", "promises 4294967295 more"),
        (b"\xc6\x7f\xff\xff\xff", "promises"),
        (b"\x91" * 20 + b"\xc0", "nested"),
        (b"\x81\x01\x02", "keys are text"),
        (b"\x82\xa1a\x01\xa1a\x02", "each once"),
        (b"\xa1\xff", "UTF-8"),
        (b"\xd4\x00\x00", "0xd4"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        unpack(data)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, object(), {1, 2}])
def test_what_a_message_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(ProtocolError, match="cannot hold"):
        pack(value)


def test_images_are_png_for_everybody(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    path = tmp_path / "image.png"
    write_png(path, pixels.tobytes(), 7, 5)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)
    assert read_png(path, 7, 5) == pixels.tobytes()
    for width, height in ((5, 7), (7, 4)):  # as large as is said, and no less
        with pytest.raises(ProtocolError, match=f"expected an unfiltered PNG of {width}x{height}"):
            read_png(path, width, height)
    Image.fromarray(np.tile(pixels, (9, 9, 1))).save(path)
    with pytest.raises(ProtocolError, match="read it with a library"):
        read_png(path, 63, 45)


def test_rotations_of_a_job_are_quaternions_of_the_same_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """About each axis both ways, by little, much and half a turn: what another library reads is what was meant."""
    axes = [*np.eye(3), *-np.eye(3), [0.6, -0.64, 0.48], [-0.48, 0.6, 0.64], [0.64, 0.48, -0.6]]
    turns = Rotation.from_rotvec([np.multiply(angle, axis) for axis in axes for angle in (1e-3, 1.0, 2.5, math.pi)])
    poses = np.tile(np.eye(4), (len(turns), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = turns.as_matrix(), np.arange(3 * len(turns)).reshape(-1, 3)

    loaded: list[float] = []

    class Known(external.Wrapper):
        def start(self, scene: external.Scene) -> None:
            loaded.append(time.monotonic())

        def step(self, frame: external.Frame) -> Pose:
            return Pose(frame.index, poses[frame.index])

    write_job(tmp_path, [n / 8 for n in range(len(turns))])
    monkeypatch.setenv(external.JOB_VARIABLE, str(tmp_path))
    begun = time.monotonic()
    external.serve(Known())
    # Each pose's event is of the second in which it was there; the model is loaded before the time of the first begins.
    first, *events = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert (first["event"], {event["event"] for event in events}) == ("start", {"pose"})
    assert [event["frame"] for event in events] == list(range(len(turns)))
    moments = [begun, *loaded, first["t"], *(event["t"] for event in events), time.monotonic()]
    assert len(loaded) == 1
    assert moments == sorted(moments)
    rows = np.loadtxt(tmp_path / "t.tum")
    np.testing.assert_allclose(rows[:, 0], np.arange(len(turns)) / 8)
    np.testing.assert_allclose(rows[:, 1:4], poses[:, :3, 3])
    assert (Rotation.from_quat(rows[:, 4:]) * turns.inv()).magnitude().max() < 1e-6


@pytest.mark.parametrize(("times", "rigid"), [(1.004, True), (0.996, True), (1.006, False), (0.994, False)])
def test_a_pose_of_a_job_is_rigid_to_a_hundredth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: float, rigid: bool
) -> None:
    """Of its axes' squared lengths; the status says what was wrong."""

    class Scaled(external.Wrapper):
        def finish(self) -> Pose:
            return Pose(0, np.diag([times, times, times, 1.0]))

        def step(self, frame: external.Frame) -> None:
            return None

    write_job(tmp_path, [0.5])
    monkeypatch.setenv(external.JOB_VARIABLE, str(tmp_path))
    if rigid:
        external.serve(Scaled())
        assert np.loadtxt(tmp_path / "t.tum").tolist() == [0.5, 0, 0, 0, 0, 0, 0, 1]
    else:
        with pytest.raises(ValueError, match="no rigid motion"):
            external.serve(Scaled())
        assert not (tmp_path / "t.tum").exists()
    status = json.loads((tmp_path / "s.json").read_text())
    assert (status["protocol"], status["status"]) == (1, "ok" if rigid else "failed")
    assert status.get("reason", "").startswith("" if rigid else "ValueError: frame 0: the pose is no rigid motion")


@pytest.mark.parametrize("what", ["depth", "confidence"])
def test_maps_of_a_job_have_the_size_of_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    class Turned(external.Wrapper):
        def step(self, frame: external.Frame) -> Pose:
            shape = (frame.height, frame.width) if frame.index == 0 else (frame.height, frame.width + 1)
            return Pose(frame.index, np.eye(4), **{what: np.ones(shape, np.float32)})

    write_job(tmp_path, [0.0, 0.5])
    monkeypatch.setenv(external.JOB_VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match="expected depth and confidence of 8x6, found 216 bytes"):
        external.serve(Turned())
    assert np.load(tmp_path / "0").shape == (6, 8)
    assert not (tmp_path / "1").exists()


@pytest.mark.parametrize("from_file", [False, True])
def test_an_image_is_rows_of_pixels_that_may_be_written_to(tmp_path: Path, from_file: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_png(tmp_path / "a.png", pixels.tobytes(), 7, 5)
    said = {"index": 3, "time": 0.5, "intrinsics": None, "image": "a.png" if from_file else pixels.tobytes()}
    frame = external.Frame(said, 7, 5, tmp_path)
    assert (frame.index, frame.time, frame.width, frame.height) == (3, 0.5, 7, 5)
    image = frame.image()
    np.testing.assert_array_equal(image, pixels)
    image[:] = 0
    np.testing.assert_array_equal(frame.image(), pixels)


def test_a_job_of_another_protocol_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_job(tmp_path, [0.0], protocol=2)
    monkeypatch.setenv(external.JOB_VARIABLE, str(tmp_path))
    with pytest.raises(ProtocolError):
        external.serve(external.Wrapper())
    status = json.loads((tmp_path / "s.json").read_text())
    assert status["reason"] == "ProtocolError: expected protocol 1, found 2; renew this file"


def write_job(folder: Path, times: list[float], **changes: Any) -> None:
    output = {"trajectory": "t.tum", "events": "e.jsonl", "status": "s.json", "depth": "%d", "confidence": "%d"}
    said = [{"index": n, "time": time, "image": "", "intrinsics": None} for n, time in enumerate(times)]
    job = {"protocol": external.PROTOCOL, "width": 8, "height": 6, "dataset": "d", "scene": "s", "causal": True}
    (folder / "job.json").write_text(json.dumps({**job, "frames": said, "output": output, **changes}))


WRAPPER = """
import external
eye = [[float(row == column) for column in range(4)] for row in range(4)]
class Mine(external.Wrapper):
    name, version = "mine", "7"
    def start(self, scene):
        print("starts", scene.name, scene.length, scene.causal, scene.width, scene.height)
    def warm_up(self, frame):
        print("warms up on", frame.index, frame.time, len(frame.pixels()))
    def step(self, frame):
        return [external.Pose(0, eye), external.Pose(1, eye)] if frame.index else None
    def finish(self):
        return (external.Pose(number, eye) for number in (2, 3))
external.serve(Mine())
"""
HELLO = {"type": "hello", "protocol": 1, "dataset": "d", "scene": "s", "length": None, "causal": True}
HELLO |= {"width": 2, "height": 1}
FRAME = {"type": "frame", "index": 0, "time": 0.5, "intrinsics": None, "image": b"abcdef"}


def spoken(folder: Path, sent: bytes) -> tuple[list[dict[str, Any]], subprocess.CompletedProcess[bytes]]:
    """What a wrapper answers over its pipe, which holds nothing else."""
    (folder / "external.py").write_text(Path(external.__file__).read_text())
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{WRAPPER}"]
    done = subprocess.run(command, input=sent, capture_output=True, check=False, timeout=60)
    answers, rest = [], done.stdout
    while rest:
        size = int.from_bytes(rest[:4], "big")
        answers.append(msgpack.unpackb(rest[4 : 4 + size]))
        rest = rest[4 + size :]
    return answers, done


def framed(*messages: Any) -> bytes:
    return b"".join(len(data).to_bytes(4, "big") + data for data in map(msgpack.packb, messages))


def test_a_wrapper_answers_each_message_once_and_its_words_go_to_the_log(tmp_path: Path) -> None:
    sent = framed(HELLO, {**FRAME, "type": "warm_up"}, FRAME, {**FRAME, "index": 1}, {"type": "finish"})
    (ready, *answers), done = spoken(tmp_path, sent)
    assert ready == {"type": "ready", "protocol": 1, "name": "mine", "version": "7"}
    assert [[pose["frame"] for pose in answer["poses"]] for answer in answers] == [[], [], [0, 1], [2, 3]]
    assert all(answer["type"] == "poses" and 0 <= answer["seconds"] < 60 for answer in answers)
    assert answers[2]["poses"][0]["camera_to_world"] == np.eye(4).ravel().tolist()
    assert done.stderr.decode().splitlines() == ["starts s None True 2 1", "warms up on 0 0.5 6"]
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (framed({**HELLO, "protocol": 2}), "expected protocol 1, found 2; renew this file"),
        (framed(HELLO, {"type": "hi"}), "unknown message 'hi'"),
        (framed(HELLO, [1]), "expected a dict as a message, found list"),
        (framed(HELLO) + b"\0\0", "the stream ends in the middle of a message"),
        (framed(HELLO) + framed(FRAME)[:-1], "the stream ends in the middle of a message"),
    ],
)
def test_a_wrapper_that_is_told_nonsense_says_so_and_fails(tmp_path: Path, sent: bytes, reason: str) -> None:
    answers, done = spoken(tmp_path, sent)
    assert answers[-1] == {"type": "error", "reason": f"ProtocolError: {reason}"}
    assert [answer["type"] for answer in answers[:-1]] == ["ready"] * ("protocol 1" not in reason)
    assert done.returncode == 1


def test_depth_must_be_what_it_is_said_to_be() -> None:
    assert len(Pose(0, np.eye(4), depth=np.ones((3, 4), np.float32)).depth or b"") == 48
    for wrong in (np.ones((3, 4)), np.ones(12, np.float32)):
        with pytest.raises(ValueError, match="float32"):
            Pose(0, np.eye(4), depth=wrong)
    with pytest.raises(ValueError, match="4 rows of 4"):
        Pose(0, np.eye(3))


def test_the_file_stands_alone(tmp_path: Path) -> None:
    """Copied beside somebody's code, it needs nothing but Python."""
    (tmp_path / "external.py").write_text(Path(external.__file__).read_text())
    code = "import external, sys; assert external.unpack(external.pack({'a': 1.5})) == {'a': 1.5}; print(*sys.modules)"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert not {"numpy", "lingbot_eval", "msgpack"} & set(done.stdout.split())
