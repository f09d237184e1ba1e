"""Videos: every frame in order, known before it is decoded, the chosen rate, and one error for what is no video."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from lingbot_eval.datasets import video_stream
from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import Adapter, Selection
from lingbot_eval.datasets.video import at_rate
from lingbot_eval.errors import DataError
from tests.datasets.videos import HEIGHT, WIDTH, brightness, number_in, opened, set_matrix, write_video


def adapter(root: Path, **options: object) -> Adapter:
    return open_adapter("video", root, options)


def small(number: int) -> np.ndarray:
    return np.full((16, 16, 3), brightness(number), np.uint8)


# Suffix, codec, settings of the codec, of the container. B-frames come out of their order in the file.
KINDS: dict[str, tuple[str, str, dict[str, str], dict[str, str]]] = {
    "mpeg4 mp4": (".mp4", "mpeg4", {"bf": "2"}, {}),
    "h264 mp4": (".mp4", "libx264", {}, {}),
    "h264 fragments": (".mp4", "libx264", {}, {"movflags": "frag_keyframe+empty_moov"}),
    "h264 mov": (".mov", "libx264", {}, {}),
    "h264 3gp": (".3gp", "libx264", {"bf": "0"}, {}),
    "h264 mkv": (".mkv", "libx264", {}, {}),
    "h264 avi": (".avi", "libx264", {}, {}),  # AVI has no times of showing
    "mpeg4 avi": (".AVI", "mpeg4", {}, {}),
    "h264 ts": (".ts", "libx264", {}, {}),
    "h264 mts": (".MTS", "libx264", {}, {}),
    "h264 flv": (".flv", "libx264", {}, {}),
    "h264 raw": (".h264", "libx264", {}, {}),  # no times at all
    "hevc mp4": (".mp4", "libx265", {"x265-params": "log-level=none"}, {}),
    "mpeg2 mpg": (".mpg", "mpeg2video", {"bf": "2"}, {}),
    "vp9 webm": (".webm", "libvpx-vp9", {"cpu-used": "8", "lag-in-frames": "10", "auto-alt-ref": "1"}, {}),
    "vp8 webm": (".webm", "libvpx", {"cpu-used": "8", "lag-in-frames": "10", "auto-alt-ref": "1"}, {}),
    "gif": (".gif", "gif", {}, {}),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_length_and_times_are_known_before_and_come_true(tmp_path: Path, kind: str) -> None:
    suffix, codec, settings, container = KINDS[kind]
    form = "mpegts" if suffix == ".MTS" else None
    path = write_video(
        tmp_path / f"walk{suffix}",
        40,
        codec,
        pixels="rgb8" if codec == "gif" else "yuv420p",
        rate=25,
        form=form,
        codec_options=settings,
        **container,
    )
    (scene,) = adapter(tmp_path).scenes()
    sequence = opened(path)
    assert sequence.scene == scene == path.name
    assert sequence.length == 40
    frames = list(sequence.frames())
    assert [frame.index for frame in frames] == list(range(40))
    if codec != "gif":  # its palette has other greys
        assert np.abs(np.array([number_in(frame.image) for frame in frames]) - np.arange(40)).max() <= 1
    np.testing.assert_allclose([frame.timestamp for frame in frames], np.arange(40) / 25, atol=1e-3)
    np.testing.assert_array_equal(sequence.timestamps(), [frame.timestamp for frame in frames])
    facts = sequence.facts()
    assert [note for note in facts["notes"] if "carries no checksums" not in note] == []
    assert (facts["frames"], facts["found"]["frames_decoded"], facts["found"]["frames_missing"]) == (40, 40, 0)
    part = opened(path, Selection(start=3, stride=2, count=5))
    assert part.length == 5
    assert [frame.timestamp for frame in part.frames(images=False)] == pytest.approx(part.timestamps())
    np.testing.assert_allclose(part.timestamps(), (3 + 2 * np.arange(5)) / 25, atol=1e-3)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_every_frame_in_order(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"walk{suffix}")
    sequence = opened(path)
    frames = list(sequence.frames())
    assert [number_in(frame.image) for frame in frames] == list(range(60))
    assert [frame.index for frame in frames] == list(range(60))
    np.testing.assert_allclose([frame.timestamp for frame in frames], np.arange(60) / 30, atol=2e-3)
    assert sequence.length == 60
    assert sequence.reference() is None
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


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
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
def test_the_chosen_rate(tmp_path: Path, fps: float, expected: list[int], ending: str) -> None:
    path = write_video(tmp_path / f"walk.{ending}", 30)
    sequence = adapter(path, fps=fps).open(path.name, Selection(count=5))
    frames = list(sequence.frames())
    assert [number_in(frame.image) for frame in frames] == expected
    # Matroska has whole milliseconds.
    atol = 1e-6 if ending == "mp4" else 6e-4
    np.testing.assert_allclose([frame.timestamp for frame in frames], np.array(expected) / 30, atol=atol)


@pytest.mark.parametrize(
    ("times", "rate", "expected"),
    [
        ([0.0, 0.0091, 0.02], 100.0, [0, 1, 2]),  # nine tenths of a millisecond early are in time
        ([0.0, 0.0089, 0.011, 0.02], 100.0, [0, 2, 3]),  # eleven are not
        ([0.0, 0.57, 0.575, 0.58], 100.0, [0, 1, 3]),  # 0.57 · 100 is 56.99999999999999 in float64
        ([0.0, 0.0007, 0.001, 0.002], 1000.0, [0, 2, 3]),  # a quarter of a tick at most
        ([0.0, 0.033, 0.067, 0.1, 0.133, 0.167, 0.2, 0.233, 0.267], 15.0, [0, 2, 4, 6, 8]),  # Matroska's of 30 a second
        ([0.0, 0.033, 0.067, 0.1, 0.133, 0.167, 0.2], 30.0, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_rounding_neither_costs_a_frame_nor_makes_one(times: list[float], rate: float, expected: list[int]) -> None:
    assert at_rate(np.array(times), rate).tolist() == expected


def test_of_a_long_video_all_that_is_chosen_is_listed(tmp_path: Path) -> None:
    """Further than the packets that a decoder may hold back: 64."""
    path = write_video(tmp_path / "long.mp4", 180, draw=lambda n: small(n % 70), codec_options={"bf": "2"})
    expected = {
        (5, 110, 2, None): [5, 115],
        (0, 1, 3, None): [0, 1, 2],
        (170, 4, 9, None): [170, 174, 178],
        (0, 1, 5, 1.0): [0, 30, 60, 90, 120],
        (1, 2, 2, 1.0): [30, 90],
    }
    for (start, stride, count, fps), chosen in expected.items():
        sequence = opened(path, Selection(start=start, stride=stride, count=count), fps=fps)
        np.testing.assert_allclose(sequence.timestamps(), np.array(chosen) / 30, atol=1e-6)
        frames = list(sequence.frames())
        assert [number_in(frame.image) for frame in frames] == [number % 70 for number in chosen]
        assert [frame.source for frame in frames] == [f"{path} at {number / 30:.3f} s" for number in chosen]


def test_selection_counts_frames_of_the_chosen_rate(tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.mp4")
    sequence = adapter(path, fps=10).open("walk.mp4", Selection(start=2, stride=3, count=4))
    assert [number_in(frame.image) for frame in sequence.frames()] == [6, 15, 24, 33]
    assert all(frame.image is None for frame in sequence.frames(images=False))


def test_a_gap_in_the_times_makes_no_hurry_afterwards(tmp_path: Path) -> None:
    """30 frames a second with two seconds without any: 10 a second are taken after the gap as before it."""
    path = write_video(tmp_path / "paused.mkv", 30, times=lambda number: number + 60 * (number >= 15))
    sequence = opened(path, fps=10)
    expected = [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]
    assert sequence.length == len(expected)
    frames = list(sequence.frames())
    assert [number_in(frame.image) for frame in frames] == expected
    times = [number / 30 + 2 * (number >= 15) for number in expected]
    np.testing.assert_allclose([frame.timestamp for frame in frames], times, atol=1e-3)
    assert min(np.diff(times)) == pytest.approx(0.1, abs=1e-3)


def test_a_rate_between_uneven_frames(tmp_path: Path) -> None:
    ticks = [0, 1, 5, 6, 7, 20, 21, 22, 23, 30]
    path = write_video(tmp_path / "uneven.mkv", 10, times=ticks.__getitem__)
    assert [frame.index for frame in opened(path).frames()] == list(range(10))
    np.testing.assert_allclose(opened(path).timestamps(), np.array(ticks) / 30, atol=1e-3)
    # The first at or after 0, 5, 10 … thirtieths of a second, none twice: 20 is for 15 and 20, then 30 for 25 and 30.
    np.testing.assert_allclose(opened(path, fps=6).timestamps(), np.array([0, 5, 20, 30]) / 30, atol=1e-3)


def test_what_an_edit_list_cuts_is_neither_counted_nor_shown(tmp_path: Path) -> None:
    path = write_video(tmp_path / "cut.mp4", 30, "libx264", codec_options={"bf": "0", "g": "30"})
    content = bytearray(path.read_bytes())
    # One entry: 4 bytes of type, 4 of version, 4 of count, then duration and start in the media.
    entry = content.index(b"elst") + 12
    with av.open(str(path)) as container:
        tick = container.streams.video[0].time_base
    assert tick is not None
    content[entry + 4 : entry + 8] = round(10 / 30 / tick).to_bytes(4, "big")
    path.write_bytes(content)
    sequence = opened(path)
    assert sequence.length == 20
    assert [number_in(frame.image) for frame in sequence.frames()] == list(range(10, 30))
    np.testing.assert_allclose(sequence.timestamps(), np.arange(20) / 30, atol=1e-3)


def test_recordings_one_behind_the_other_go_on(tmp_path: Path) -> None:
    parts = [write_video(tmp_path / f"{name}.ts", 20, "libx264") for name in ("first", "second")]
    whole = tmp_path / "both.MTS"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    sequence = opened(whole)
    assert sequence.length == 40
    frames = list(sequence.frames())
    assert [number_in(frame.image) for frame in frames] == [*range(20), *range(20)]
    np.testing.assert_allclose([frame.timestamp for frame in frames], np.arange(40) / 30, atol=1e-3)
    assert sequence.facts()["notes"] == ["the clock jumps back once: times go on from there"]
    whole.write_bytes(b"".join(part.read_bytes() for part in (*parts, parts[0])))
    assert opened(whole).facts()["notes"] == ["the clock jumps back 2 times: times go on from there"]


def test_a_video_of_two_sizes_is_refused_where_the_size_changes(tmp_path: Path) -> None:
    parts = [
        write_video(tmp_path / "first.ts", 6, "libx264", codec_options={"bf": "0"}),
        write_video(tmp_path / "second.ts", 6, "libx264", draw=small, codec_options={"bf": "0"}),
    ]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = opened(both).frames()
    assert [next(frames).index for _ in range(6)] == list(range(6))
    with pytest.raises(DataError, match="frame 6: expected 64x48 pixels as the first frame, found 16x16; one sequence"):
        next(frames)


def test_the_stream_that_a_player_takes(tmp_path: Path) -> None:
    """A thumbnail comes first, then a small film, then two large ones, then one that is larger, but not the default."""
    path = tmp_path / "several.mp4"
    with av.open(str(path), "w") as container:
        streams = []
        for size, disposition, grey in (
            (200, "attached_pic", 200),
            (32, "default", 32),
            (64, "default", 64),
            (64, "default", 250),
            (128, None, 128),
        ):
            stream = container.add_stream("mjpeg" if disposition == "attached_pic" else "mpeg4", rate=30)
            stream.width = stream.height = size
            stream.pix_fmt = "yuvj420p" if disposition == "attached_pic" else "yuv420p"
            stream.disposition = Disposition[disposition] if disposition else Disposition(0)
            streams.append((stream, size, grey))
        for _ in range(3):
            for stream, size, grey in streams:
                frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), grey, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
        for stream, *_ in streams:
            container.mux(stream.encode())
    sequence = opened(path)
    assert sequence.length == 3
    image = next(sequence.frames()).image
    assert image is not None
    assert image.shape == (64, 64, 3)
    assert abs(float(np.median(image)) - 64) < 10  # of the two the first
    assert sequence.facts()["stream"] == "1, of 4 that could be played"
    (note,) = sequence.facts()["notes"]
    assert note.startswith("the file has 4 video streams: stream 1 (64x64) is played")


def test_a_song_with_a_cover_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=30)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuvj420p"
        stream.disposition = Disposition.attached_pic
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(DataError, match=r"song\.mp4: expected a video stream, found only a cover picture"):
        opened(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.97])
def test_cut_off_files_are_refused_at_once(tmp_path: Path, suffix: str, share: float) -> None:
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}  # the index first, so that FFmpeg opens it
    path = write_video(tmp_path / f"walk{suffix}", **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=rf"walk{suffix} is cut off: its headers announce \d+ bytes, found \d+"):
        adapter(path).open(path.name, Selection())


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_single_byte_that_is_missing_is_a_cut(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"walk{suffix}", 5)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=f"announce {len(content)} bytes, found {len(content) - 1};"):
        opened(path)
    path.write_bytes(content)
    assert opened(path).length == 5


def test_a_length_of_64_bits_is_read_and_one_that_is_unknown_is_no_cut(tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.mp4", 5)
    content = path.read_bytes()
    # Before the media FFmpeg leaves an empty box, whose place the longer length takes.
    free = content.index(b"free") - 4
    media = int.from_bytes(content[free + 8 : free + 12], "big")
    assert content[free + 12 : free + 16] == b"mdat"
    content = content[:free] + b"\0\0\0\1mdat" + (media + 8).to_bytes(8, "big") + content[free + 16 :]
    path.write_bytes(content)
    assert opened(path).length == 5
    path.write_bytes(content[: free + media])
    with pytest.raises(DataError, match=f"announce {free + 8 + media} bytes, found {free + media};"):
        opened(path)
    assert opened(write_video(tmp_path / "live.mkv", 5, live="1")).length == 5
    path = write_video(tmp_path / "walk.avi", 5)
    for unknown in (0, 0xFFFFFFFF):
        path.write_bytes(path.read_bytes()[:4] + unknown.to_bytes(4, "little") + path.read_bytes()[8:])
        assert opened(path).length == 5


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
    (tmp_path / "._b9.mp4").write_bytes(b"\0\5\x16\7")  # another system's leftover
    (tmp_path / "b11.mp4").mkdir()
    found = adapter(tmp_path)
    assert found.scenes() == ("b9.mp4", "b10.mp4")
    kinds = (
        "3g2 3gp asf avi flv gif h264 hevc insv lrv m2t m2ts m2v m4v mkv mov mp4 mpeg mpg mts mxf ogv qt ts vob webm"
    )
    others = tmp_path / "others"
    others.mkdir()
    names = [f"a.{kind.upper() if number % 2 else kind}" for number, kind in enumerate([*kinds.split(), "wmv"])]
    for name in (*names, "a.mp3", "amp4"):
        (others / name).touch()
    assert sorted(adapter(others).scenes()) == sorted(names)
    with pytest.raises(DataError, match=r"did you mean 'b9\.mp4'.*b9\.mp4, b10\.mp4"):
        found.open("b8.mp4", Selection())


def test_nothing_to_play(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"found notes\.txt"):
        adapter(tmp_path).scenes()
    with pytest.raises(DataError, match=r"walk\.mp4 does not exist; .*holds notes\.txt"):
        adapter(tmp_path / "walk.mp4").scenes()
    with pytest.raises(DataError, match=r"nowhere/walk\.mp4 does not exist; .*nowhere holds nothing"):
        adapter(tmp_path / "nowhere/walk.mp4").scenes()
    path = write_video(tmp_path / "walk.mp4", 3)
    with pytest.raises(DataError, match="has 3 frames and the selection starts at 10: no frame is left"):
        adapter(path).open("walk.mp4", Selection(start=10))


def test_the_fingerprint_follows_file_rate_and_selection(tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.mp4", 3)
    marks = [adapter(path, fps=fps).open("walk.mp4", Selection()).fingerprint() for fps in (None, None, 10)]
    assert marks[0] == marks[1] != marks[2]
    chosen = [Selection(), Selection(start=1), Selection(stride=2), Selection(count=2)]
    assert len({adapter(path).open("walk.mp4", selection).fingerprint() for selection in chosen}) == len(chosen)
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert opened(path).fingerprint() != marks[0]
    path.write_bytes(path.read_bytes() + b"\0" * 8)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert opened(path).fingerprint() != marks[0]


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.mp4", 3)
    before = path.stat()
    assert (opened(path).length, opened(path).facts()["display_matrix"]) == (3, "as stored")
    set_matrix(path, 0, 1, -1, 0)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert path.stat().st_size == before.st_size
    assert opened(path).facts()["display_matrix"] == "turned by 90 degrees clockwise"
    write_video(path, 5)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert opened(path).length == 5


def test_what_the_file_says_is_in_the_record(tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.mp4", 12, "libx264", rate=25)
    expected = {
        "codec": "h264",
        "stream": "0, of 1 that could be played",
        "pixel_format": "yuv420p",
        "announced_rate": 25.0,
        "announced_frames": 12,
        "rate": "every frame",
        "timestamps": "of the stream, seconds from its first frame",
        "image_sizes": [[64, 48, 12]],
    }
    facts = opened(path).facts()
    assert {key: facts[key] for key in expected} == expected
    facts = opened(path, fps=5).facts()
    assert (facts["rate"], facts["frames"]) == ("the first frame at or after every 1/5 s", 3)
    assert (facts["announced_frames"], facts["image_sizes"]) == (12, [[64, 48, 3]])
    facts = opened(write_video(tmp_path / "walk.h264", 12, "libx264", pixels="yuv422p")).facts()
    assert (facts["announced_frames"], facts["pixel_format"]) == (None, "yuv422p")
    assert facts["timestamps"] == "frames counted at the stream's own rate: the file has no times of showing"


@pytest.mark.parametrize(("rate", "said"), [(1, 1.0), (1000, 1000.0), (2000, None)])
def test_a_rate_that_no_camera_has_is_not_believed(tmp_path: Path, rate: int, said: float | None) -> None:
    assert opened(write_video(tmp_path / "walk.mp4", 4, rate=rate, draw=small)).facts()["announced_rate"] == said


def test_frames_of_one_time_are_one_frame_and_counted(tmp_path: Path) -> None:
    """Matroska counts in milliseconds: of two frames each the times are one."""
    path = write_video(tmp_path / "fast.mkv", 10, "ffv1", pixels="bgr0", rate=2000, draw=small)
    sequence = opened(path)
    repeated = 10 - sequence.length
    assert 3 <= repeated <= 5
    assert f"{repeated} frames have the time of another frame: they are left out" in sequence.facts()["notes"]


def test_more_pixels_than_an_image_may_have_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def squeezed(stream: object) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(2)  # type: ignore[attr-defined]

    plain, wide = write_video(tmp_path / "a.mp4", 2), write_video(tmp_path / "b.mp4", 2, setup=squeezed)
    monkeypatch.setattr(video_stream, "MAX_PIXELS", WIDTH * HEIGHT)
    assert opened(plain).length == 2
    with pytest.raises(DataError, match="64x48 pixels of 2:1, which is 128x48 square ones; at most 3072 are read"):
        opened(wide)
    monkeypatch.setattr(video_stream, "MAX_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.raises(DataError, match=r"c\.mp4 claims 64x48 pixels, at most 3071 are read"):
        opened(write_video(tmp_path / "c.mp4", 2))


def test_stopping_early_frees_the_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.mp4", 30)
    frames = adapter(path).open("walk.mp4", Selection()).frames()
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    with pytest.raises(StopIteration):
        next(frames)
