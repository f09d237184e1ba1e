"""Videos: every frame in order, the chosen rate, rotation, and one error for what is no video."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from lingbot_eval.adapters.protocol import Adapter, Selection
from lingbot_eval.adapters.registry import open_adapter
from lingbot_eval.errors import DataError

WIDTH, HEIGHT = 64, 48


def brightness(number: int) -> int:
    return 20 + 3 * number


def picture(number: int) -> np.ndarray:
    """Grey that tells the frame's number, with a bright top left quarter that tells its orientation."""
    image = np.full((HEIGHT, WIDTH, 3), brightness(number), np.uint8)
    image[: HEIGHT // 2, : WIDTH // 2] = 255
    return image


def write_video(path: Path, frames: int = 60, **options: str) -> Path:
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 2_000_000
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())
    return path


def number_in(image: np.ndarray | None) -> int:
    assert image is not None
    return round((float(np.median(image)) - 20) / 3)


def adapter(root: Path, **options: object) -> Adapter:
    return open_adapter("video", root, options)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_every_frame_in_order(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"walk{suffix}")
    opened = adapter(path)
    assert opened.scenes() == (f"walk{suffix}",)
    sequence = opened.open(f"walk{suffix}", Selection())
    frames = list(sequence.frames())
    assert [number_in(frame.image) for frame in frames] == list(range(60))
    assert [frame.index for frame in frames] == list(range(60))
    np.testing.assert_allclose([frame.timestamp for frame in frames], np.arange(60) / 30, atol=2e-3)
    assert sequence.length is None
    assert sequence.reference() is None
    assert sequence.timestamps() is None
    assert frames[0].camera_to_world is None
    image = frames[0].image
    assert image is not None
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image[5, 5].min() > 200
    assert image[40, 5].max() < 60
    assert image[5, 60].max() < 60


def test_loaders_may_be_called_late_and_in_any_order(tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.mp4", frames=12)
    loaders = list(adapter(path).open("walk.mp4", Selection()).loaders())
    assert [number_in(load().image) for load in reversed(loaders)] == list(reversed(range(12)))


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (10.0, [0, 3, 6, 9, 12]),
        (15.0, [0, 2, 4, 6, 8]),
        (30.0, [0, 1, 2, 3, 4]),
        (60.0, [0, 1, 2, 3, 4]),  # no frame twice
        (20.0, [0, 2, 3, 5, 6]),  # the first at or after 0, 50, 100, 150, 200 ms
    ],
)
def test_the_chosen_rate(tmp_path: Path, fps: float, expected: list[int]) -> None:
    path = write_video(tmp_path / "walk.mp4", 30)
    sequence = adapter(path, fps=fps).open("walk.mp4", Selection(count=5))
    frames = list(sequence.frames())
    assert [number_in(frame.image) for frame in frames] == expected
    np.testing.assert_allclose([frame.timestamp for frame in frames], np.array(expected) / 30, atol=1e-6)


def test_selection_counts_frames_of_the_chosen_rate(tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.mp4")
    sequence = adapter(path, fps=10).open("walk.mp4", Selection(start=2, stride=3, count=4))
    assert [number_in(frame.image) for frame in sequence.frames()] == [6, 15, 24, 33]
    assert all(frame.image is None for frame in sequence.frames(images=False))


# Display matrices of the MP4 standard: phones turn the sensor's picture clockwise by this many degrees.
MATRICES = {
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
}


@pytest.mark.parametrize("clockwise", list(MATRICES))
def test_rotation_in_the_header_is_applied(tmp_path: Path, clockwise: int) -> None:
    path = write_video(tmp_path / "phone.mp4", 3)
    content = bytearray(path.read_bytes())
    # In the track header (version 0) the matrix a b u c d v x y w follows 40 bytes after the type and its version.
    matrix = content.index(b"tkhd") + 4 + 40
    a, b, c, d = MATRICES[clockwise]
    fixed = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    assert content[matrix : matrix + 36] == struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    content[matrix : matrix + 36] = struct.pack(">9i", *fixed)
    path.write_bytes(content)
    image = next(adapter(path).open("phone.mp4", Selection()).frames()).image
    assert image is not None
    bright = np.argwhere(image.min(axis=2) > 200).mean(axis=0)
    rows, columns = image.shape[:2]
    assert (rows, columns) == ((HEIGHT, WIDTH) if clockwise == 180 else (WIDTH, HEIGHT))
    # The top left corner goes to the top right, bottom right, bottom left.
    assert bool(bright[0] > rows / 2) == (clockwise in (180, 270))
    assert bool(bright[1] > columns / 2) == (clockwise in (90, 180))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.97])
def test_cut_off_files_are_refused_at_once(tmp_path: Path, suffix: str, share: float) -> None:
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}  # the index first, so that FFmpeg opens it
    path = write_video(tmp_path / f"walk{suffix}", **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=rf"walk{suffix} is cut off: its headers announce \d+ bytes, found \d+"):
        adapter(path).open(path.name, Selection())


def test_blocks_that_cameras_append_are_not_taken_for_a_cut(tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.mp4", 5)
    path.write_bytes(path.read_bytes() + b"\xff\xff\xff\xffSEFH" + b"\0" * 50)
    assert len(list(adapter(path).open("walk.mp4", Selection()).frames())) == 5


@pytest.mark.parametrize("content", [b"", b"hello" * 100, b"\0" * 5000, b"\x1a\x45\xdf\xa3", b"\0\0\0\x08ftyp"])
def test_what_is_no_video(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "walk.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"walk\.mp4") as caught:
        list(adapter(path).open("walk.mp4", Selection()).frames())
    assert "\n" not in str(caught.value)


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.mp4", 30)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start + 100 : start + 400] = b"\0" * 300
    path.write_bytes(content)
    try:
        frames = list(adapter(path).open("walk.mp4", Selection()).frames())
    except DataError as error:
        complaint = str(error)
    else:
        complaint = "" if len(frames) == 30 else "silently shorter"
    assert complaint == "" or ("walk.mp4" in complaint and "\n" not in complaint)


def test_sound_without_picture(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(DataError, match=r"sound\.mp4: expected a video stream, found none"):
        adapter(path).open("sound.mp4", Selection())


def test_folders_of_videos(tmp_path: Path) -> None:
    for name in ("b10.mp4", "b9.mp4"):
        write_video(tmp_path / name, 3)
    (tmp_path / "notes.txt").touch()
    opened = adapter(tmp_path)
    assert opened.scenes() == ("b9.mp4", "b10.mp4")
    with pytest.raises(DataError, match=r"did you mean 'b9\.mp4'.*b9\.mp4, b10\.mp4"):
        opened.open("b8.mp4", Selection())


def test_nothing_to_play(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"found notes\.txt"):
        adapter(tmp_path).scenes()
    with pytest.raises(DataError, match=r"walk\.mp4 does not exist; .*holds notes\.txt"):
        adapter(tmp_path / "walk.mp4").scenes()
    path = write_video(tmp_path / "walk.mp4", 3)
    with pytest.raises(DataError, match="no frame in the selection"):
        list(adapter(path).open("walk.mp4", Selection(start=10)).frames())


def test_the_fingerprint_follows_file_and_rate(tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.mp4", 3)
    marks = [adapter(path, fps=fps).open("walk.mp4", Selection()).fingerprint() for fps in (None, None, 10)]
    assert marks[0] == marks[1] != marks[2]


def test_stopping_early_frees_the_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.mp4", 30)
    frames = adapter(path).open("walk.mp4", Selection()).frames()
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    with pytest.raises(StopIteration):
        next(frames)
