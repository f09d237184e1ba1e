"""A decoded frame becomes the picture that a player shows: orientation, square pixels, colours, fields."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.datasets.videos import HEIGHT, WIDTH, opened, picture, set_matrix, write_planes, write_video


def corners(number: int) -> np.ndarray:
    """Four quarters of different brightness: no turn and no mirror makes it itself."""
    del number
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    half, middle = HEIGHT // 2, WIDTH // 2
    image[:half, :middle], image[:half, middle:], image[half:, :middle], image[half:, middle:] = 40, 90, 140, 190
    return image


# A pixel (x, y) is shown at (a·x + c·y, b·x + d·y), y downwards.
MATRICES = {
    (1, 0, 0, 1): ("as stored", lambda image: image),
    (0, 1, -1, 0): ("turned by 90 degrees clockwise", lambda image: np.rot90(image, -1)),
    (-1, 0, 0, -1): ("turned by 180 degrees", lambda image: np.rot90(image, 2)),
    (0, -1, 1, 0): ("turned by 90 degrees counter-clockwise", lambda image: np.rot90(image, 1)),
    (-1, 0, 0, 1): ("mirrored left to right", lambda image: image[:, ::-1]),
    (1, 0, 0, -1): ("mirrored top to bottom", lambda image: image[::-1]),
    (0, 1, 1, 0): ("turned by 90 degrees clockwise and mirrored left to right", lambda image: image.swapaxes(0, 1)),
    (0, -1, -1, 0): (
        "turned by 90 degrees counter-clockwise and mirrored left to right",
        lambda image: image[::-1, ::-1].swapaxes(0, 1),
    ),
}


@pytest.mark.parametrize("matrix", list(MATRICES))
def test_the_whole_display_matrix_is_applied(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    words, expected = MATRICES[matrix]
    path = write_video(tmp_path / "phone.mp4", 2, draw=corners)
    if matrix != (1, 0, 0, 1):
        set_matrix(path, *matrix)
    sequence = opened(path)
    image = next(sequence.frames()).image
    assert image is not None
    shown = expected(corners(0))
    assert image.shape == shown.shape
    assert np.abs(image.astype(int) - shown).max() < 30  # at edges; the quarters are 50 apart
    assert np.abs(image.astype(int) - shown).mean() < 2
    facts = sequence.facts()
    assert facts["display_matrix"] == words
    assert facts["picture_size"] == [shown.shape[1], shown.shape[0]]
    assert [note for note in facts["notes"] if "carries no checksums" not in note] == []


@pytest.mark.parametrize(("degrees", "said"), [(0.4, False), (2.0, True)])
def test_a_slant_by_rounding_is_none(tmp_path: Path, degrees: float, said: bool) -> None:
    turn = math.radians(degrees)
    path = write_video(tmp_path / "phone.mp4", 2, draw=corners)
    set_matrix(path, math.cos(turn), math.sin(turn), -math.sin(turn), math.cos(turn))
    assert any("no turn by quarters" in note for note in opened(path).facts()["notes"]) is said


def test_a_slanted_matrix_is_read_as_the_nearest_turn_and_said(tmp_path: Path) -> None:
    turn = math.radians(80)
    path = write_video(tmp_path / "phone.mp4", 2, draw=corners)
    set_matrix(path, math.cos(turn), math.sin(turn), -math.sin(turn), math.cos(turn))
    sequence = opened(path)
    assert sequence.facts()["display_matrix"] == "turned by 90 degrees clockwise"
    assert sequence.facts()["notes"] == [
        "the display matrix is no turn by quarters: pictures are turned by 90 degrees clockwise"
    ]


@pytest.mark.parametrize(
    ("aspect", "size"),
    [(Fraction(4, 3), (85, 48)), (Fraction(63, 50), (81, 48)), (Fraction(7, 9), (64, 62)), (Fraction(1), (64, 48))],
)
@pytest.mark.parametrize("turned", [False, True])
def test_pixels_become_square_before_they_are_turned(
    tmp_path: Path, aspect: Fraction, size: tuple[int, int], turned: bool
) -> None:
    def squeezed(stream: object) -> None:
        stream.codec_context.sample_aspect_ratio = aspect  # type: ignore[attr-defined]

    path = write_video(tmp_path / "old.mp4", 2, setup=squeezed)
    if turned:
        matrix = path.read_bytes().index(b"tkhd") + 44
        content = bytearray(path.read_bytes())
        content[matrix : matrix + 20] = b"".join(
            int(value).to_bytes(4, "big", signed=True) for value in (0, 1 << 16, 0, -(1 << 16), 0)
        )
        path.write_bytes(content)
    sequence = opened(path)
    image = next(sequence.frames()).image
    assert image is not None
    width, height = size[::-1] if turned else size
    assert image.shape == (height, width, 3)
    facts = sequence.facts()
    assert facts["coded_size"] == [WIDTH, HEIGHT]
    assert facts["picture_size"] == [width, height]
    assert facts["image_sizes"] == [[width, height, 2]]
    assert facts["pixels"] == ("square" if aspect == 1 else f"{aspect.numerator}:{aspect.denominator}, made square")
    bright = np.argwhere(image.min(axis=2) > 200)
    # The bright quarter stays a quarter, at the top left or, turned clockwise, at the top right.
    np.testing.assert_allclose(np.ptp(bright, axis=0) + 1, [height / 2, width / 2], atol=2)
    assert bright[:, 1].min() == pytest.approx(width / 2 if turned else 0, abs=1.5)


@pytest.mark.parametrize(
    ("aspect", "size", "notes"),
    [
        (Fraction(8), [8 * WIDTH, HEIGHT], []),
        (Fraction(1, 8), [WIDTH, 8 * HEIGHT], []),
        (Fraction(9), [WIDTH, HEIGHT], ["pixels of 9:1 cannot be: they are taken as square"]),
        (Fraction(1, 9), [WIDTH, HEIGHT], ["pixels of 1:9 cannot be: they are taken as square"]),
    ],
)
def test_a_pixel_that_cannot_be_is_taken_as_square_and_said(
    tmp_path: Path, aspect: Fraction, size: list[int], notes: list[str]
) -> None:
    def odd(stream: object) -> None:
        stream.codec_context.sample_aspect_ratio = aspect  # type: ignore[attr-defined]

    sequence = opened(write_video(tmp_path / "odd.mp4", 2, setup=odd))
    assert sequence.facts()["picture_size"] == size
    assert sequence.facts()["notes"] == notes


COLOUR = (200, 60, 30)
LUMA = {  # H.273 matrix: of red and blue
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
NAMES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}


def stored(matrix: int, full: bool) -> tuple[int, int, int]:
    """The colour in 8-bit YUV, by the formulas of BT.601, BT.709 and BT.2020."""
    of_red, of_blue = LUMA[matrix]
    red, green, blue = (value / 255 for value in COLOUR)
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    differences = (blue - luma) / (2 - 2 * of_blue), (red - luma) / (2 - 2 * of_red)
    if full:
        return round(255 * luma), *(round(128 + 255 * value) for value in differences)  # type: ignore[return-value]
    return round(16 + 219 * luma), *(round(128 + 224 * value) for value in differences)  # type: ignore[return-value]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", list(LUMA))
def test_matrix_and_range_are_those_that_the_stream_states(tmp_path: Path, matrix: int, full: bool) -> None:
    path = write_planes(tmp_path / "flat.mkv", stored(matrix, full), colorspace=matrix, color_range=2 if full else 1)
    sequence = opened(path)
    image = next(sequence.frames()).image
    assert image is not None
    assert np.abs(image.reshape(-1, 3).astype(int) - COLOUR).max() <= 2
    assert sequence.facts()["colours"] == f"{NAMES[matrix]}, {'full' if full else 'limited'} range, SDR"


@pytest.mark.parametrize(
    ("size", "matrix"), [((1024, 16), "bt601"), ((1026, 16), "bt709"), ((16, 576), "bt601"), ((16, 578), "bt709")]
)
def test_a_matrix_that_is_not_stated_is_that_of_the_size(tmp_path: Path, size: tuple[int, int], matrix: str) -> None:
    grey = np.full((size[1], size[0], 3), 90, np.uint8)
    path = write_video(tmp_path / "plain.mkv", 1, "ffv1", draw=lambda number: grey)
    assert opened(path).facts()["colours"] == f"{matrix} (taken by size), range not stated, SDR"


def pq(nits: float) -> float:
    """The code of an amount of light (SMPTE ST 2084), 0 to 1."""
    power = (nits / 10000) ** (2610 / 16384)
    return float(((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32))


def srgb(light: float) -> int:
    return round(255 * (1.055 * light ** (1 / 2.4) - 0.055))


HLG_OF_REFERENCE_WHITE = 0.75
HDR = {
    # Below 0.7 of diffuse white (203 nits) light is kept; white itself becomes 0.7 + 0.3 / 2.
    "PQ dark": (16, pq(0.0), 0),
    "PQ middle": (16, pq(100.0), srgb(100 / 203)),
    "PQ white": (16, pq(203.0), srgb(0.85)),
    "PQ highlight": (16, pq(1000.0), srgb(0.7 + 0.3 * 14.087 / 15.087)),
    "HLG middle": (18, 0.5, srgb(1000 / 203 * (0.5**2 / 3) ** 1.2)),
    "HLG white": (18, HLG_OF_REFERENCE_WHITE, srgb(0.85)),
}


@pytest.mark.parametrize("case", list(HDR))
def test_hdr_is_brought_to_sdr_and_said(tmp_path: Path, case: str) -> None:
    transfer, code, expected = HDR[case]
    luma = round(64 + 876 * code)  # 10 bits, limited range
    path = write_planes(
        tmp_path / "hdr.mkv",
        (luma, 512, 512),
        pixels="yuv444p10le",
        colorspace=9,
        color_range=1,
        color_trc=transfer,
        color_primaries=9,
    )
    sequence = opened(path)
    image = next(sequence.frames()).image
    assert image is not None
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - expected).max() <= 2
    facts = sequence.facts()
    assert facts["colours"] == f"bt2020, limited range, {case.split()[0]}, BT.2020 primaries"
    (note,) = facts["notes"]
    assert note.startswith(f"HDR video ({case.split()[0]}): brought to SDR here")


def test_a_saturated_colour_of_bt2020_keeps_its_hue(tmp_path: Path) -> None:
    from lingbot_eval.datasets.video_picture import to_sdr

    codes = np.array([[[pq(100.0), pq(10.0), pq(10.0)]]]) * 65535
    red, green, blue = to_sdr(codes.round().astype(np.uint16), "PQ", wide=True)[0, 0].astype(int)
    assert red > 180
    assert green < 60
    assert blue < 70


def test_colours_of_hdr_by_the_formulas_of_the_standards() -> None:
    """Below the roll-off each channel is its own light; above it all three are scaled alike."""
    from lingbot_eval.datasets.video_picture import to_sdr

    def shown(codes: list[float], transfer: str, *, wide: bool) -> list[int]:
        pixel = np.round(np.array([[codes]]) * 65535).astype(np.uint16)
        return [int(value) for value in to_sdr(pixel, transfer, wide=wide)[0, 0]]

    to_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
    for nits in ([60.0, 30.0, 10.0], [20.0, 60.0, 40.0], [60.0, 0.0, 0.0]):
        codes = [pq(value) for value in nits]
        expected = [srgb(max(light, 0.0) / 203) for light in to_709 @ nits]
        np.testing.assert_allclose(shown(codes, "PQ", wide=True), np.maximum(expected, 0), atol=1)
        expected = [srgb(light / 203) if light else 0 for light in nits]
        np.testing.assert_allclose(shown(codes, "PQ", wide=False), expected, atol=1)
    rolled = 0.7 + 0.3 * (1000 / 203 - 0.7) / (1000 / 203 - 0.4)
    expected = [srgb(rolled), srgb(0.5 * rolled), srgb(0.1 * rolled)]
    np.testing.assert_allclose(shown([pq(1000), pq(500), pq(100)], "PQ", wide=False), expected, atol=1)
    scene = np.array([0.5, 0.25, 0.4]) ** 2 / 3
    expected = [srgb(light) for light in scene * 1000 / 203 * (scene @ [0.2627, 0.6780, 0.0593]) ** 0.2]
    np.testing.assert_allclose(shown([0.5, 0.25, 0.4], "HLG", wide=False), expected, atol=1)


def test_ten_bits_without_hdr_are_eight_bits_of_the_same_grey(tmp_path: Path) -> None:
    path = write_planes(tmp_path / "ten.mkv", (64 + 438, 512, 512), pixels="yuv444p10le", color_range=1)
    image = next(opened(path).frames()).image
    assert image is not None
    assert np.abs(image.astype(int) - 128).max() <= 1


@pytest.mark.parametrize(
    ("tag", "code", "note"),
    [
        ("color_primaries", 9, "colours of BT.2020 without HDR: they are taken as BT.709"),
        ("colorspace", 8, "the stream's colour matrix (H.273 code 8) is not known here: colours are read as bt601"),
    ],
)
def test_colours_that_are_not_brought_over_are_said(tmp_path: Path, tag: str, code: int, note: str) -> None:
    def tagged(stream: object) -> None:
        setattr(stream.codec_context, tag, code)  # type: ignore[attr-defined]

    sequence = opened(write_video(tmp_path / "odd.mkv", 2, "libx264", setup=tagged))
    assert next(sequence.frames()).image is not None
    (said,) = sequence.facts()["notes"]
    assert said.startswith(note)


def test_tags_that_no_standard_has_stop_no_frame() -> None:
    """A scaler of FFmpeg 8 refuses a frame whose transfer it does not know; damaged headers have such."""
    from lingbot_eval.datasets.video_picture import Colours, Pictures

    frame = av.VideoFrame.from_ndarray(picture(3), format="rgb24").reformat(format="yuv420p")
    frame.pts, frame.time_base = 0, Fraction(1, 30)
    frame.color_trc, frame.color_primaries, frame.colorspace = 19, 17, 65
    raw = Pictures(Fraction(1), Colours("bt601", False, False, None, False)).raw(frame)
    assert np.abs(raw.developed().astype(int) - picture(3)).mean() < 2


def moving(number: int) -> np.ndarray:
    """A bar that moves 4 pixels a field: even rows are half a frame older than odd ones."""
    image = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    for row in range(HEIGHT):
        left = 2 + 8 * number + 4 * (row % 2)
        image[row, left : left + 12] = 220
    return image


def combing(image: np.ndarray) -> float:
    """How much neighbouring rows differ more than rows two apart."""
    rows = image[..., 1].astype(float)
    return float(np.abs(rows[1:] - rows[:-1]).mean() - np.abs(rows[2:] - rows[:-2]).mean())


def interlaced(stream: object) -> None:
    stream.codec_context.flags |= 0x20040000  # type: ignore[attr-defined]  # interlaced DCT and motion estimation


@pytest.mark.parametrize(("suffix", "codec"), [(".MTS", "libx264"), (".mpg", "mpeg2video")])
def test_fields_are_woven_one_picture_a_frame(tmp_path: Path, suffix: str, codec: str) -> None:
    form = "mpegts" if suffix == ".MTS" else None
    options = {"x264-params": "tff=1:bframes=0:qp=10"} if codec == "libx264" else {"qmin": "1", "qmax": "3", "bf": "0"}
    path = write_video(
        tmp_path / f"camcorder{suffix}",
        6,
        codec,
        rate=25,
        form=form,
        draw=moving,
        setup=interlaced,
        codec_options=options,
    )
    sequence = opened(path)
    assert sequence.facts()["fields"] == "interlaced: woven by bwdif, one picture a frame"
    frames = list(sequence.frames())
    assert [frame.index for frame in frames] == list(range(6))
    np.testing.assert_allclose([frame.timestamp for frame in frames], np.arange(6) / 25, atol=1e-4)
    assert combing(moving(2)) >= 20
    for number, frame in enumerate(frames):
        assert frame.image is not None
        assert combing(frame.image) < 10
        # Still the same moment: the field that the stream calls the first is kept as it is.
        kept = [np.abs(frame.image[row::2].astype(float) - moving(number)[row::2]).mean() for row in (0, 1)]
        assert min(kept) < 3
    assert sequence.facts()["fields"] == "interlaced: woven by bwdif, one picture a frame"
    assert sequence.facts()["notes"] == ["interlaced video: its fields are woven into whole pictures (bwdif)"]


def test_fields_that_come_later_are_woven_and_said(tmp_path: Path) -> None:
    options = {"x264-params": "bframes=0:qp=10"}
    parts = [write_video(tmp_path / "a.ts", 4, "libx264", rate=25, draw=moving, codec_options=options)]
    options = {"x264-params": "tff=1:bframes=0:qp=10"}
    parts += [
        write_video(tmp_path / "b.ts", 4, "libx264", rate=25, draw=moving, setup=interlaced, codec_options=options)
    ]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    sequence = opened(path)
    assert sequence.facts()["fields"] == "progressive"
    frames = list(sequence.frames())
    assert [frame.index for frame in frames] == list(range(8))
    assert [combing(frame.image) > 15 for frame in frames if frame.image is not None] == [True] * 4 + [False] * 4
    assert sequence.facts()["fields"] == "interlaced: woven by bwdif, one picture a frame"


def test_transparency_shows_white(tmp_path: Path) -> None:
    path = tmp_path / "clear.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "rgba"
        image = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        image[:, : WIDTH // 2] = (100, 50, 200, 255)
        image[:, WIDTH // 2 :] = (100, 50, 200, 50)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgba")))
        container.mux(stream.encode())
    found = next(opened(path).frames()).image
    assert found is not None
    np.testing.assert_array_equal(found[5, 5], (100, 50, 200))
    np.testing.assert_array_equal(found[5, -5], (225, 215, 244))  # 50 / 255 of the colour, rounded


def test_the_same_picture_as_the_encoder_was_given(tmp_path: Path) -> None:
    path = write_video(tmp_path / "walk.mkv", 2, "ffv1", pixels="bgr0")
    image = next(opened(path).frames()).image
    np.testing.assert_array_equal(image, picture(0))
