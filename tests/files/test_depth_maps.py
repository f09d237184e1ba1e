"""Saved depth maps: what is read, and what is refused with its file's name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lingbot_eval.errors import DataError
from lingbot_eval.files import depth_maps, images
from lingbot_eval.files.depth_maps import read_depth_map


def test_npy_and_png(tmp_path: Path) -> None:
    depth = np.array([[0.5, 1.25, 0.0], [2.0, 65.535, 3.0]])
    np.save(tmp_path / "0.npy", depth)
    Image.fromarray((depth * 1000).round().astype(np.uint16)).save(tmp_path / "0.png")
    for name in ("0.npy", "0.png"):
        read = read_depth_map(tmp_path / name, 1000.0)
        assert read.dtype == np.float32
        np.testing.assert_allclose(read, depth, rtol=1e-6)


def test_what_is_no_depth_map_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "integers.npy", np.zeros((2, 2), dtype=np.uint16))
    np.save(tmp_path / "colour.npy", np.zeros((2, 2, 3)))
    np.save(tmp_path / "code.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1_000_000, 1_000_000)}
    )
    (tmp_path / "huge.npy").write_bytes(header.getvalue() + b"\0" * 64)
    np.save(tmp_path / "cut.npy", np.zeros((50, 50)))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:1000])
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    Image.new("L", (4, 4)).save(tmp_path / "eight.png")
    noise = np.random.default_rng(0).integers(0, 65535, (50, 50), dtype=np.uint16)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:300])
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(DataError) as caught:
            read_depth_map(path, 1000.0)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("units", [1000.0, 5000.0, 256.0])
def test_a_png_is_divided_by_its_unit(tmp_path: Path, units: float) -> None:
    stored = np.array([[0, 1, 65535], [256, 1000, 5000]], np.uint16)
    Image.fromarray(stored).save(tmp_path / "0.png")
    np.save(tmp_path / "0.npy", stored.astype(np.float64))
    np.testing.assert_allclose(read_depth_map(tmp_path / "0.png", units), stored / units, rtol=1e-6)
    np.testing.assert_array_equal(read_depth_map(tmp_path / "0.npy", units), stored)  # metres already


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".tif", ".TIFF", ".npy"])
def test_the_check_of_a_map_looks_for_the_end_of_an_image(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"0{suffix}"
    noise = np.random.default_rng(0).integers(0, 65535, (50, 50), dtype=np.uint16)
    Image.fromarray(noise).save(path, "TIFF" if "tif" in suffix.lower() else "PNG")
    depth_maps.check_depth_file(path, "frame 3")
    path.write_bytes(path.read_bytes()[:-500])
    if suffix == ".npy":
        depth_maps.check_depth_file(path, "frame 3")  # no image: what is in it shows when it is read
        return
    with pytest.raises(DataError, match=f"^frame 3: depth map {path} is (damaged or )?cut off"):
        depth_maps.check_depth_file(path, "frame 3")


def test_sizes_beyond_any_camera_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert depth_maps.MAX_PIXELS == images.MAX_PIXELS == 64_000_000
    np.save(tmp_path / "0.npy", np.ones((2, 3), np.float32))
    Image.fromarray(np.ones((2, 3), np.uint16)).save(tmp_path / "0.png")
    for most, fine in ((6, True), (5, False)):
        monkeypatch.setattr(depth_maps, "MAX_PIXELS", most)
        monkeypatch.setattr(images, "MAX_PIXELS", most)
        for name, says in (("0.npy", r"found float32 of shape \(2, 3\)"), ("0.png", "claims 3x2 pixels")):
            if fine:
                assert read_depth_map(tmp_path / name, 1.0).shape == (2, 3)
                continue
            with pytest.raises(DataError, match=says):
                read_depth_map(tmp_path / name, 1.0)


def test_a_map_of_another_size_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "depth.png"
    Image.fromarray(np.ones((3, 4), np.uint16)).save(file)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda picture: pytest.fail("decoded"))
    with pytest.raises(DataError, match="expected 2x2 pixels as the image, found 4x3"):
        depth_maps.png_depth(1000.0)(file, "frame 0", (2, 2))
