"""Damaged videos: what is marked or missing is counted and said, and nothing ends without the file's name."""

from __future__ import annotations

from pathlib import Path

import av
import av.logging
import numpy as np
import pytest

from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.errors import DataError
from tests.datasets.videos import altered, noisy, number_in, opened, packets_of, picture, write_video


@pytest.mark.parametrize("kind", ["libx264 mp4", "libx264 mkv", "mpeg4 avi"])
def test_damage_inside_a_packet_is_counted_and_said(tmp_path: Path, kind: str) -> None:
    codec, suffix = kind.split()
    path = write_video(tmp_path / f"walk.{suffix}", 24, codec, rate=25, draw=noisy, codec_options={"g": "8", "bf": "0"})
    assert opened(path).facts()["notes"] == []
    altered(path, 11, 0.3)
    sequence = opened(path)
    assert sequence.damage is None  # not known before decoding
    frames = list(sequence.frames())
    facts = sequence.facts()
    assert facts["found"]["frames_marked_damaged"] + facts["found"]["frames_missing"] >= 1
    assert len(frames) == 24 - facts["found"]["frames_missing"]
    # Frames 12 to 15 hang on it; the next key frame is number 16.
    assert facts["found"]["frames_after_damage"] == 4
    (note,) = facts["notes"]
    assert note == sequence.damage
    assert "the first at 0.440 s" in note
    assert "after them up to the next key frame may be smeared" in note
    list(sequence.frames())
    assert sequence.damage == note  # of a pass, not of all passes


@pytest.mark.parametrize("lost", [(10,), (10, 11, 12, 17)])
def test_frames_keep_their_places_where_some_are_missing(tmp_path: Path, lost: tuple[int, ...]) -> None:
    path = write_video(tmp_path / "walk.mp4", 24, "libx264", codec_options={"g": "1", "bf": "0"})
    content = bytearray(path.read_bytes())
    for number in lost:
        position, _ = packets_of(path)[number]
        content[position : position + 4] = b"\xff" * 4  # a length that no packet has
    path.write_bytes(content)
    sequence = opened(path)
    frames = list(sequence.frames())
    rest = [number for number in range(24) if number not in lost]
    assert [frame.index for frame in frames] == rest
    assert [number_in(frame.image) for frame in frames] == rest
    np.testing.assert_allclose([frame.timestamp for frame in frames], np.array(rest) / 30, atol=1e-6)
    assert sequence.length == 24
    assert sequence.damage == (
        f"{len(lost)} frames that the file lists could not be decoded (the first at 0.333 s): they are missing"
    )


def test_frames_after_a_missing_one_may_be_smeared_up_to_the_next_key_frame(tmp_path: Path) -> None:
    """Key frames are 0, 8 and 16: after frame 10 come five that hang on it, after frame 21 two."""
    path = write_video(tmp_path / "walk.mp4", 24, "mpeg4", codec_options={"g": "8", "bf": "0"})
    content = bytearray(path.read_bytes())
    for number in (10, 21):
        position, size = packets_of(path)[number]
        content[position : position + size] = b"\xff" * size
    path.write_bytes(content)
    sequence = opened(path)
    assert [frame.index for frame in sequence.frames()] == [k for k in range(24) if k not in (10, 21)]
    assert sequence.facts()["found"]["frames_after_damage"] == 7
    assert sequence.damage == (
        "2 frames that the file lists could not be decoded (the first at 0.333 s): they are missing, and the 7 after"
        " them up to the next key frame may be smeared"
    )


def test_lost_packets_of_a_broadcast_are_counted(tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.ts", 24, "mpeg2video", rate=25, draw=noisy, codec_options={"bf": "0", "g": "8"})
    content = bytearray(path.read_bytes())
    lost = len(content) // 2 // 188 * 188
    del content[lost : lost + 3 * 188]
    path.write_bytes(content)
    sequence = opened(path)
    frames = list(sequence.frames())
    assert len(frames) >= 22
    facts = sequence.facts()
    assert 1 <= facts["found"]["frames_marked_damaged"] + facts["found"]["frames_missing"] <= 3
    assert facts["notes"] == [sequence.damage]


@pytest.mark.parametrize("packet", [188, 192])
def test_a_broadcast_that_is_cut_off_gives_what_it_has_and_says_so(tmp_path: Path, packet: int) -> None:
    options = {"mpegts_m2ts_mode": "1"} if packet == 192 else {}
    path = write_video(
        tmp_path / "walk.MTS", 24, "libx264", rate=25, form="mpegts", draw=noisy, codec_options={"bf": "0"}, **options
    )
    content = path.read_bytes()
    assert len(content) % packet == 0
    assert opened(path).facts()["notes"] == []
    path.write_bytes(content[: int(len(content) * 0.6) // packet * packet + 50])
    sequence = opened(path)
    assert 5 <= len(list(sequence.frames())) < 20
    assert "the file ends in the middle of a packet: is it cut off?" in sequence.facts()["notes"]


def test_damage_that_h264_decodes_without_a_contradiction_is_found(tmp_path: Path) -> None:
    """Eleven of twelve packets whose middle is altered; the decoder alone marks half of them."""
    path = write_video(tmp_path / "walk.mp4", 24, "libx264", draw=noisy, codec_options={"g": "8", "bf": "0"})
    whole = path.read_bytes()
    found = 0
    draw = np.random.default_rng(1)
    for position, size in packets_of(path)[1:13]:
        content = bytearray(whole)
        content[position + size // 3 : position + 2 * size // 3] = draw.bytes(2 * size // 3 - size // 3)
        path.write_bytes(content)
        sequence = opened(path)
        for _ in sequence.frames(images=False):
            pass
        found += sequence.damage is not None
    assert found >= 10


SOUND = {
    "plain": {},
    "without arithmetic coding": {"profile": "baseline"},
    "slices": {"slices": "3"},
    "slices in threads": {"x264-params": "sliced-threads=1:threads=3"},
    "many references": {"refs": "5", "bf": "6", "x264-params": "b-pyramid=normal:direct=temporal"},
    "no key frames": {"x264-params": "intra-refresh=1"},
    "lossless": {"qp": "0"},
    "very coarse": {"qp": "51"},
    "parameters in the packets": {"x264-params": "repeat-headers=1"},
    "scaling lists": {"x264-params": "cqm=jvt"},
    "filler": {"x264-params": "nal-hrd=cbr:vbv-maxrate=300:vbv-bufsize=300:bitrate=300"},
    "interlaced": {"x264-params": "interlaced=1"},
}


@pytest.mark.parametrize(
    ("kind", "pixels"),
    [
        *((kind, "yuv420p") for kind in SOUND),
        *((kind, "yuv422p10le") for kind in ("plain", "slices", "scaling lists")),
        ("scaling lists", "yuv444p"),
    ],
)
def test_a_sound_h264_file_is_not_called_damaged(tmp_path: Path, kind: str, pixels: str) -> None:
    path = write_video(tmp_path / "walk.mp4", 20, "libx264", pixels=pixels, draw=noisy, codec_options=SOUND[kind])
    sequence = opened(path)
    assert len(list(sequence.frames(images=False))) == 20
    assert sequence.damage is None


CONTAINERS = {
    "mp4": ("libx264", {}),
    "fragments.mp4": ("libx264", {"movflags": "frag_keyframe+empty_moov"}),
    "mkv": ("libx264", {}),
    "avi": ("mpeg4", {}),
    "ts": ("mpeg2video", {}),
    "webm": ("libvpx-vp9", {}),
    "gif": ("gif", {}),
}
MUTATIONS = 60


@pytest.mark.parametrize("kind", list(CONTAINERS))
def test_a_mutated_file_is_read_or_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    codec, options = CONTAINERS[kind]
    source = write_video(
        tmp_path / f"whole.{kind}",
        4,
        codec,
        pixels="rgb8" if codec == "gif" else "yuv420p",
        rate=25,
        codec_options={"cpu-used": "8"} if "vp9" in codec else {},
        **options,
    )
    whole = source.read_bytes()
    draw = np.random.default_rng(7)
    # Names of boxes and elements decide how the rest is read: half of the changes are made near the index.
    index = max(whole.find(b"moov"), 0)
    for number in range(MUTATIONS):
        content = bytearray(whole)
        for _ in range(int(draw.integers(1, 5))):
            begin = index if draw.random() < 0.5 else 0
            content[int(draw.integers(begin, len(content)))] = int(draw.choice([0, 1, 127, 128, 255]))
        if number % 10 == 0:
            del content[int(draw.integers(1, len(content))) :]
        path = tmp_path / f"mutated{number}.{kind}"
        path.write_bytes(content)
        refusal = path.name
        try:
            sequence = opened(path)
            frames = list(sequence.frames())
            assert len(frames) == sequence.length or sequence.damage is not None
        except DataError as error:
            refusal = str(error)
        assert path.name in refusal
        assert "\n" not in refusal
        path.unlink()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", "is a Git LFS pointer, not the video"),
        (b"  <!DOCTYPE html><html><body>Sign in</body></html>", "is a web page, not a video: the download failed"),
        (b"hello" * 100, "cannot be read as a video"),
    ],
)
def test_what_stands_in_place_of_a_video_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "walk.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        opened(path)
    assert str(path) in str(caught.value)


def test_an_image_with_the_name_of_a_video(tmp_path: Path) -> None:
    from PIL import Image

    for kind in ("PNG", "JPEG"):
        path = tmp_path / f"{kind}.mp4"
        Image.fromarray(noisy(0)).save(path, format=kind)
        with pytest.raises(DataError, match=rf"{kind}\.mp4 is a single picture .*, not a video"):
            opened(path)


def test_text_is_no_video_of_text(tmp_path: Path) -> None:
    (tmp_path / "poses.txt").write_text("0.0 1 2 3 0 0 0 1\n" * 60)
    with pytest.raises(DataError, match=r"poses\.txt: expected a video, found text"):
        opened(tmp_path / "poses.txt")


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "walk.mp4")
    with pytest.raises(DataError, match="is a named pipe, expected a file"):
        opened(tmp_path / "walk.mp4")


def test_a_video_with_the_suffix_of_another_kind_and_odd_names(tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.mkv", 5)
    for name in ("walk.avi", "http:walk.mp4", "concat:a|b.mp4", "%03d walk.mp4"):
        other = tmp_path / name
        other.write_bytes(path.read_bytes())
        assert [number_in(frame.image) for frame in opened(other, Selection()).frames()] == list(range(5))


def test_the_lost_end_of_a_webm_is_said(tmp_path: Path) -> None:
    """Matroska lists no frames: behind a damaged cluster there is nothing, and only the length in the header tells."""
    path = write_video(tmp_path / "walk.webm", 60, "libvpx", codec_options={"g": "15"}, cluster_time_limit="300")
    (unchecked,) = opened(path).facts()["notes"]
    content = path.read_bytes()
    third = [at for at in range(len(content)) if content.startswith(b"\x1f\x43\xb6\x75", at)][2]
    path.write_bytes(content[:third] + bytes(len(content) - third))
    sequence = opened(path)
    assert 0 < sequence.length < 60
    (note,) = set(sequence.facts()["notes"]) - {unchecked}
    missing = 2.0 - sequence.length / 30
    assert note == (f"the file says that it lasts {missing:.3g} s longer than it has frames: is it damaged or cut off?")


@pytest.mark.parametrize(
    ("rate", "lasts", "longer"),
    [
        (30, b"00:00:01.090", None),  # less than three frames
        (30, b"00:00:01.120", "0.12"),
        (100, b"00:00:01.045", None),  # less than a twentieth of the film
        (100, b"00:00:01.250", "0.25"),
        (30, b"00:02:01.000", "120"),
        (30, b"01:00:01.000", "3.6e+03"),
    ],
)
def test_a_longer_film_than_its_frames_is_said(tmp_path: Path, rate: int, lasts: bytes, longer: str | None) -> None:
    path = write_video(tmp_path / "walk.mkv", rate, "ffv1", rate=rate, draw=lambda number: noisy(number % 2)[:16])
    content = path.read_bytes()
    place = content.index(b"00:00:0", content.rindex(b"DURATION"))
    path.write_bytes(content[:place] + lasts + content[place + len(lasts) :])
    said = [note for note in opened(path).facts()["notes"] if note.startswith("the file says that it lasts")]
    expected = f"the file says that it lasts {longer} s longer than it has frames: is it damaged or cut off?"
    assert said == ([] if longer is None else [expected])


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("ffv1 mkv", False),
        ("libx264 mkv", False),
        ("libx265 mp4", True),
        ("libvpx webm", True),
        ("libvpx-vp9 webm", True),
        ("mjpeg avi", True),
    ],
)
def test_a_codec_without_checksums_is_named(tmp_path: Path, kind: str, says: bool) -> None:
    codec, suffix = kind.split()
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_video(tmp_path / f"walk.{suffix}", 6, codec, pixels=pixels)
    assert any("carries no checksums" in note for note in opened(path).facts()["notes"]) == says


def test_ffv1_tells_every_altered_packet(tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.mkv", 12, "ffv1", draw=noisy, codec_options={"level": "3", "slicecrc": "1"})
    whole = path.read_bytes()
    for number in (1, 5, 9):
        position, size = packets_of(path)[number]
        content = bytearray(whole)
        content[position + size // 2 : position + size // 2 + 20] = np.random.default_rng(number).bytes(20)
        path.write_bytes(content)
        sequence = opened(path)
        assert len(list(sequence.frames())) == 12
        assert sequence.facts()["found"]["frames_marked_damaged"] == 1
        assert f"the first at {number / 30:.3f} s" in (sequence.damage or "")
        path.write_bytes(whole)
    content = bytearray(whole)
    for number in (3, 4, 8):
        position, size = packets_of(path)[number]
        content[position + size // 2 : position + size // 2 + 20] = np.random.default_rng(number).bytes(20)
    path.write_bytes(content)
    sequence, level = opened(path), av.logging.get_level()
    list(sequence.frames())
    assert "3 of 12 frames are damaged (found by the decoder, the first at 0.100 s)" in (sequence.damage or "")
    assert av.logging.get_level() == level


def test_frames_that_a_file_does_not_list_leave_a_hole_that_is_said(tmp_path: Path) -> None:
    lost = (*range(12, 19), 21, 22)
    kept = [number for number in range(30) if number not in lost]
    path = write_video(
        tmp_path / "walk.mkv", len(kept), "ffv1", times=lambda n: kept[n], draw=lambda n: picture(kept[min(n, 20)])
    )
    (note,) = opened(path).facts()["notes"]
    assert note.startswith("9 frames seem to be missing: the times have 2 holes, the first after 0.367 s")
    slides = write_video(tmp_path / "slides.mkv", 8, "ffv1", times=lambda n: n * n * 5)
    assert opened(slides).facts()["notes"] == []
