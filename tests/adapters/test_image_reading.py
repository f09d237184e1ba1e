"""Images from anywhere: orientation, alpha, grey, and refusals of what cannot be read as 8 bits."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lingbot_eval.adapters.readers import image_size, read_depth, read_image
from lingbot_eval.errors import DataError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 9, 3)).astype(np.uint8)

# What a viewer does for each EXIF orientation, by the standard's table: row 0 and column 0 of the stored image are …
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[::-1].transpose(1, 0, 2),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a[:, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("orientation", list(UPRIGHT))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(COLOUR).save(path, exif=exif)
    expected = UPRIGHT[orientation](COLOUR)
    np.testing.assert_array_equal(read_image(path, "here"), expected)
    assert image_size(path, "here") == expected.shape[1::-1]


def test_alpha_is_composited_over_white(tmp_path: Path) -> None:
    path = tmp_path / "clear.png"
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [(200, 100, 0, 255), (200, 100, 0, 0), (200, 100, 0, 51)]
    Image.fromarray(rgba).save(path)
    np.testing.assert_allclose(read_image(path, "here")[0], [(200, 100, 0), (255, 255, 255), (244, 224, 204)], atol=1)


def test_a_transparent_palette_is_composited_too(tmp_path: Path) -> None:
    path = tmp_path / "palette.png"
    indexed = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    indexed.putpalette([10, 20, 30, 40, 50, 60])
    indexed.save(path, transparency=0)
    np.testing.assert_array_equal(read_image(path, "here"), [[(255, 255, 255), (40, 50, 60)]])


def test_grey_is_repeated(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.fromarray(COLOUR[..., 0]).save(path)
    np.testing.assert_array_equal(read_image(path, "here"), np.repeat(COLOUR[..., :1], 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".jpg"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    smooth = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (48, 1, 3))
    path = tmp_path / f"image{suffix}"
    Image.fromarray(smooth).save(path)
    assert np.abs(read_image(path, "here", (64, 48)).astype(int) - smooth).max() <= 8


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG from its definition: signature, IHDR, IDAT, IEND."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_refused_in_every_colour_type(tmp_path: Path, colour_type: int, channels: int) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(png(2, 2, 16, colour_type, 2 * (b"\0" + b"\1" * 4 * channels)))
    with pytest.raises(DataError, match=r"scene frame 3: image .*deep\.png: expected 8-bit .*found 16-bit"):
        read_image(path, "scene frame 3")


@pytest.mark.parametrize("mode", ["I;16", "F", "I"])
def test_deep_tiff_is_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "deep.tif"
    Image.new(mode, (4, 4)).save(path)
    with pytest.raises(DataError, match="expected 8-bit"):
        read_image(path, "here")


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (10_000, 10_000), (9_000, 8_000)])
def test_decompression_bombs_are_refused_without_unpacking(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(width, height, 8, 2, b"\0"))
    with pytest.raises(DataError, match=r"bomb\.png claims .* pixels") as caught:
        read_image(path, "here")
    assert "\n" not in str(caught.value)


def test_other_sizes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    Image.fromarray(COLOUR).save(path)
    with pytest.raises(DataError, match=r"here: .*expected 10x6 pixels as the first frame, found 9x6"):
        read_image(path, "here", (10, 6))


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png does not exist"):
        read_image(tmp_path / "none.png", "here")
    with pytest.raises(DataError, match="here: image"):
        read_image(tmp_path, "here")
    with pytest.raises(DataError, match=r"none\.png does not exist"):
        read_depth(tmp_path / "none.png", "here", 1000.0, (4, 4))


def encoded(suffix: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 50, 3)).astype(np.uint8)).save(buffer, suffix)
    return buffer.getvalue()


GOOD = {suffix: encoded(suffix) for suffix in ("PNG", "JPEG", "WEBP", "BMP", "TIFF")}


@pytest.mark.parametrize("suffix", list(GOOD))
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9])
def test_cut_off_files_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / "cut"
    path.write_bytes(GOOD[suffix][: int(len(GOOD[suffix]) * share)])
    with pytest.raises(DataError, match=r"scene frame 7: image .*cut"):
        read_image(path, "scene frame 7")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from(list(GOOD)),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8),
    near_start=st.booleans(),
)
def test_damaged_files_give_an_image_or_one_clear_error(
    tmp_path: Path, suffix: str, changes: list[tuple[float, int]], near_start: bool
) -> None:
    content = bytearray(GOOD[suffix])
    reach = min(len(content), 200) if near_start else len(content)
    for place, value in changes:
        content[int(place * reach)] = value
    path = tmp_path / "damaged"
    path.write_bytes(content)
    image, complaint = None, ""
    try:
        image = read_image(path, "here")
    except DataError as error:
        complaint = str(error)
    if image is not None:
        assert (image.dtype, image.shape[2]) == (np.uint8, 3)
    else:
        assert "damaged" in complaint
        assert "\n" not in complaint


def test_depth_is_read_in_metres(tmp_path: Path) -> None:
    path = tmp_path / "depth.png"
    raw = np.array([[0, 5000, 65535], [1, 65534, 250]], np.uint16)
    Image.fromarray(raw).save(path)
    depth = read_depth(path, "here", 5000.0, (3, 2))
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, [[0, 1, 0], [0.0002, 13.1068, 0.05]], rtol=1e-6)
