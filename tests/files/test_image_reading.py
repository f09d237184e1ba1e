"""Images from anywhere: orientation, alpha, grey, and refusals of what cannot be read as 8 bits."""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lingbot_eval.errors import DataError
from lingbot_eval.files.depth_maps import array_depth, png_depth, raw_float_depth
from lingbot_eval.files.images import image_header, image_size, read_image, read_mask

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


def heif_is_here() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()


@pytest.mark.parametrize("orientation", list(UPRIGHT))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp", ".heic", ".avif"])
def test_orientation_is_one_rule_for_size_and_pixels(tmp_path: Path, suffix: str, orientation: int) -> None:
    if suffix == ".heic":
        heif_is_here()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned{suffix}"
    coarse = np.repeat(np.repeat(COLOUR // 128 * 255, 32, axis=0), 32, axis=1).astype(np.uint8)  # survives a JPEG
    Image.fromarray(coarse).save(path, exif=exif.tobytes())
    expected = UPRIGHT[orientation](coarse)
    read = read_image(path, "here")
    assert read.shape == expected.shape
    assert np.mean(np.abs(read.astype(int) - expected) > 100) < 0.02
    assert image_size(path, "here") == expected.shape[1::-1]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_an_orientation_that_is_none_turns_nothing(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    path = tmp_path / f"turned{suffix}"
    Image.fromarray(COLOUR).save(path, exif=exif)
    assert read_image(path, "here").shape == COLOUR.shape
    assert image_size(path, "here") == (9, 6)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate"])
def test_a_turned_tiff_whatever_its_compression(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "turned.tif"
    Image.fromarray(COLOUR).save(path, tiffinfo={0x0112: 6}, compression=compression)
    np.testing.assert_array_equal(read_image(path, "here"), UPRIGHT[6](COLOUR))
    assert image_size(path, "here") == (6, 9)


def test_an_exif_block_behind_the_pixels_of_a_png_counts_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    block = exif.tobytes()[6:]
    whole = png(9, 6, 8, 2, b"".join(b"\0" + row.tobytes() for row in COLOUR))
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    path = tmp_path / "late.png"
    path.write_bytes(whole[:-12] + chunk + whole[-12:])
    np.testing.assert_array_equal(read_image(path, "here"), UPRIGHT[8](COLOUR))
    assert image_size(path, "here") == (6, 9)


def both_refuse(path: Path, says: str) -> None:
    """Whoever asks for the size alone is told what whoever reads the pixels is told."""
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=says) as caught:
            read(path, "scene frame 3")
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(("suffix", "kind"), [(".gif", "GIF"), (".tif", "TIFF"), (".webp", "WEBP"), (".png", "PNG")])
def test_several_pictures_in_one_file_are_refused(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"stack{suffix}"
    pictures = [Image.fromarray(COLOUR + np.uint8(40 * k)) for k in range(3)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    both_refuse(path, f"expected one picture, found 3 in this {kind}")


def test_one_gif_is_read_and_so_is_the_main_picture_of_an_mpo(tmp_path: Path) -> None:
    flat = np.tile(np.array([[[200, 100, 0]]], np.uint8), (6, 9, 1))
    Image.fromarray(flat).save(tmp_path / "one.gif")
    np.testing.assert_array_equal(read_image(tmp_path / "one.gif", "here"), flat)
    other = Image.fromarray(np.zeros((6, 9, 3), np.uint8))
    Image.fromarray(flat).save(tmp_path / "phone.mpo", save_all=True, append_images=[other], quality=95)
    (tmp_path / "phone.mpo").rename(tmp_path / "phone.jpg")
    assert np.abs(read_image(tmp_path / "phone.jpg", "here").astype(int) - flat).max() < 4


_THUMBNAIL, _PANORAMA, _STEREO, _MAIN = 0x010001, 0x020001, 0x020002, 0x030000  # of the standard of MPO files


@pytest.mark.parametrize(
    ("kinds", "further"),
    [
        ((_STEREO, _STEREO), 1),
        ((_MAIN, _THUMBNAIL), 0),
        ((_PANORAMA, _PANORAMA, _PANORAMA, _THUMBNAIL), 2),
        ((_STEREO, _THUMBNAIL), 0),
        ((_MAIN, 0), 0),
    ],
)
def test_views_of_an_mpo_that_are_not_read_are_counted(tmp_path: Path, kinds: tuple[int, ...], further: int) -> None:
    first, *others = (Image.fromarray(COLOUR) for _ in kinds)
    first.save(tmp_path / "a.mpo", save_all=True, append_images=others)
    content = bytearray((tmp_path / "a.mpo").read_bytes())
    table = content.rindex(
        struct.pack("<L", _MAIN), 0, content.index(b"\xff\xdb")
    )  # 16 bytes a picture, its kind first
    for number, kind in enumerate(kinds):
        struct.pack_into("<L", content, table + 16 * number, kind)
    (tmp_path / "a.mpo").write_bytes(content)
    assert image_header(tmp_path / "a.mpo", "here") == ((9, 6), further)


@pytest.mark.parametrize(("kind", "reduced"), [(1, True), (3, True), (2, False)])
def test_a_tiff_with_its_thumbnail_is_one_picture(tmp_path: Path, kind: int, reduced: bool) -> None:
    """Bits of the tag: 1 for a smaller version of another picture, 2 for a page of several."""
    path = tmp_path / "with_thumbnail.tif"
    small = Image.fromarray(COLOUR[::2, ::2])
    small.encoderinfo = {"tiffinfo": {254: kind}}
    Image.fromarray(COLOUR).save(path, save_all=True, append_images=[small])
    if not reduced:
        both_refuse(path, "expected one picture, found 2 in this TIFF")
        return
    np.testing.assert_array_equal(read_image(path, "here"), COLOUR)


def test_heif_without_its_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif_is_here()
    path = tmp_path / "phone.jpg"  # phones' files are often renamed, not converted
    Image.fromarray(np.repeat(np.repeat(COLOUR, 16, 0), 16, 1)).save(path, format="HEIF")
    assert image_size(path, "here") == (144, 96)
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    both_refuse(path, "begins as HEIF and is damaged or cut off; copy or download it again")
    path.write_bytes(whole)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    both_refuse(path, r"is HEIF, which needs the library pillow-heif: pip install 'lingbot-eval\[heic\]'")


def test_what_is_no_image_is_called_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    both_refuse(path, "is a Git LFS pointer, not the image itself: run 'git lfs pull'")
    path.write_bytes(b"<!DOCTYPE html><html><body>404</body></html>")
    both_refuse(path, "is a web page, not an image")
    path.write_bytes(b"")
    both_refuse(path, r"is empty \(0 bytes\)")


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    both_refuse(tmp_path / "pipe.png", "is a named pipe, expected a file")
    (tmp_path / "folder.jpg").mkdir()
    both_refuse(tmp_path / "folder.jpg", "is a folder, expected a file")
    (tmp_path / "link.jpg").symlink_to("nowhere.jpg")
    both_refuse(tmp_path / "link.jpg", r"is a link to nowhere\.jpg, which does not exist")
    for reader in (raw_float_depth, array_depth, png_depth(1000.0)):
        with pytest.raises(DataError, match=r"depth map .*pipe\.png is a named pipe, expected a file"):
            reader(tmp_path / "pipe.png", "here", (4, 4))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "locked.png"
    Image.fromarray(COLOUR).save(path)
    path.chmod(0)
    both_refuse(path, "cannot be read: Permission denied")


def test_alpha_is_composited_over_white(tmp_path: Path) -> None:
    path = tmp_path / "clear.png"
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [(200, 100, 0, 255), (200, 100, 0, 0), (200, 100, 0, 51)]
    Image.fromarray(rgba).save(path)
    np.testing.assert_allclose(read_image(path, "here")[0], [(200, 100, 0), (255, 255, 255), (244, 224, 204)], atol=1)


def test_grey_with_alpha_is_composited_too(tmp_path: Path) -> None:
    path = tmp_path / "clear.png"
    Image.fromarray(np.array([[(100, 255), (0, 0), (100, 51)]], np.uint8), mode="LA").save(path)
    expected = np.repeat([[[100], [255], [224]]], 3, axis=2)
    np.testing.assert_allclose(read_image(path, "here"), expected, atol=1)


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
    both_refuse(path, r"scene frame 3: image .*deep\.png: expected 8-bit .*found 16-bit")
    if colour_type:  # of grey it is depth
        says = f"depth map .*deep.png: expected a 16-bit grey PNG, found 16-bit PNG of colour type {colour_type}$"
        with pytest.raises(DataError, match=says):
            png_depth(1000.0)(path, "here", (2, 2))


@pytest.mark.parametrize("mode", ["I;16", "F", "I", "CMYK"])
def test_deep_tiff_is_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "deep.tif"
    Image.new(mode, (4, 4)).save(path)
    both_refuse(path, "expected 8-bit")


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
        png_depth(1000.0)(tmp_path / "none.png", "here", (4, 4))


def encoded(suffix: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 50, 3)).astype(np.uint8)).save(buffer, suffix)
    return buffer.getvalue()


GOOD = {suffix: encoded(suffix) for suffix in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")}


@pytest.mark.parametrize("suffix", list(GOOD))
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9])
def test_cut_off_files_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / "cut"
    path.write_bytes(GOOD[suffix][: int(len(GOOD[suffix]) * share)])
    with pytest.raises(DataError, match=r"scene frame 7: image .*cut"):
        read_image(path, "scene frame 7")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    depth = png_depth(5000.0)(path, "here", (3, 2))
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, [[0, 1, 0], [0.0002, 13.1068, 0.05]], rtol=1e-6)
    # What is as near or as far as can be is measured.
    of_some = png_depth(250.0, nearest=1.0, farthest=20.0)(path, "here", (3, 2))
    np.testing.assert_allclose(of_some, [[0, 20, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("mask", "fits"),
    [((40, 30), True), ((20, 15), True), ((80, 62), True), ((80, 63), False), ((82, 60), True), ((84, 60), False)],
)
def test_a_mask_may_be_a_pixel_of_the_image_longer(tmp_path: Path, mask: tuple[int, int], fits: bool) -> None:
    Image.new("L", mask, 200).save(tmp_path / "mask.png")
    if fits:
        assert read_mask(tmp_path / "mask.png", "mask", (40, 30)).tolist() == [[200] * 40] * 30
        return
    with pytest.raises(DataError, match=rf"image as the method sees it, 40x30, found {mask[0]}x{mask[1]}$"):
        read_mask(tmp_path / "mask.png", "mask", (40, 30))


@pytest.mark.parametrize(
    ("size", "row"),
    [((2, 1), [0, 255]), ((8, 4), [0, 0, 0, 0, 255, 255, 255, 255]), ((4, 2), [0, 0, 255, 255])],
)
def test_a_coloured_mask_of_another_size_keeps_its_border_sharp(
    tmp_path: Path, size: tuple[int, int], row: list[int]
) -> None:
    Image.fromarray(np.array([[0, 0, 255, 255]] * 2, np.uint8)).convert("RGB").save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", "mask", size).tolist() == [row] * size[1]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_a_cut_off_image_is_told_without_decoding_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind.lower()}"
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, kind)
    assert image_header(path, "frame 0")[0] == (60, 40)
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(DataError, match="cut off") as found:
        image_header(path, "frame 0")
    assert str(path) in str(found.value)
    assert image_size(path, "frame 0") == (60, 40)  # for the other images of its sequence


def test_a_cut_off_tiff_in_tiles_is_told(tmp_path: Path) -> None:
    """One tile of 16x16 bytes of grey behind its ten tags, whose values are in the order of their numbers."""
    tags = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1, 322: 16, 323: 16, 324: 134, 325: 256}
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags.items())
    path = tmp_path / "x.tif"
    path.write_bytes(b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + bytes(4) + bytes(range(256)))
    assert read_image(path, "frame 0")[..., 0].ravel().tolist() == list(range(256))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"is cut off \(its pixels reach to byte 390, the file to 389\)"):
        image_header(path, "frame 0")


@pytest.mark.parametrize("padding", [b"", b"\xff\xff"], ids=["plain", "padded"])
def test_what_phones_append_to_a_jpeg_is_no_damage(tmp_path: Path, padding: bytes) -> None:
    """Whether or not its segments begin with more bytes of 0xFF than they need."""
    path = tmp_path / "x.jpg"
    Image.new("RGB", (60, 40), "red").save(path)
    content = path.read_bytes()
    path.write_bytes(content[:2] + padding + content[2:] + b"\0" * 500)
    assert image_header(path, "frame 0")[0] == (60, 40)
    assert read_image(path, "frame 0").shape == (40, 60, 3)


def test_a_thumbnail_inside_does_not_end_a_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, comment=b"thumbnail \xff\xd8 \xff\xd9")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="no end marker behind its pixels"):
        image_header(path, "frame 0")


def test_zeroed_pixels_of_a_jpeg_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 512] = bytes(512)
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"is damaged: its coded pixels are zero bytes from byte {middle}"):
        read_image(path, "frame 0")


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}])
@pytest.mark.parametrize("shade", [0, 128, 255])
def test_even_surfaces_of_a_jpeg_are_no_damage(tmp_path: Path, options: dict[str, bool], shade: int) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(np.full((600, 800, 3), shade, np.uint8)).save(path, **options)  # type: ignore[arg-type]
    assert read_image(path, "frame 0").shape == (600, 800, 3)
