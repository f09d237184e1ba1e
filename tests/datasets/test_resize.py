"""Sizes by hand, and image, depth and intrinsics still describing the same rays after resizing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pictures

from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.errors import ConfigError, DataError
from lingbot_eval.prepare import SizeSettings, crop_notes, input_notes, prepare, refuse_faulty_images, size_plan
from lingbot_eval.settings import validated
from lingbot_eval.types import Frame

K = np.array([[500.0, 0.0, 310.0], [0.0, 510.0, 235.0], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("source", "options", "resized", "size"),
    [
        # round(480*518/640 / 14) = round(27.75) = 28 rows of patches; floor gives 27
        ((640, 480), {}, (518, 392), (518, 392)),
        ((640, 480), {"height_rounding": "floor"}, (518, 378), (518, 378)),
        # portrait: round(640*518/480 / 14) = round(49.33) = 49 rows, cut to a square
        ((480, 640), {}, (518, 686), (518, 518)),
        ((480, 640), {"max_height": 700}, (518, 686), (518, 686)),
        # Python rounds a half to even: 35 * 28/28 / 14 = 2.5 becomes 2
        ((28, 35), {"width": 28, "max_height": 280}, (28, 28), (28, 28)),
        # 838 * 518/1554 = 279.33 is 279 whole pixels, one short of 20 rows of patches
        ((1554, 838), {"height_rounding": "pixel_floor"}, (518, 266), (518, 266)),
        # a panorama keeps at least one row of patches
        ((4000, 10), {}, (518, 14), (518, 14)),
        ((4000, 10), {"height_rounding": "floor"}, (518, 14), (518, 14)),
        ((4000, 10), {"height_rounding": "pixel_floor"}, (518, 14), (518, 14)),
        # KITTI: 280/376 > 504/1241, so the height decides; 1241*280/376 = 924.1
        ((1241, 376), {"mode": "cover", "width": 504, "height": 280}, (924, 280), (504, 280)),
        ((640, 480), {"mode": "cover", "width": 504, "height": 280}, (504, 378), (504, 280)),
        # 104 * 28/100 = 29.12 is 29, of which 15 rows go: one more below than above
        ((100, 104), {"mode": "cover", "width": 28, "height": 14}, (28, 29), (28, 14)),
        ((641, 479), {"mode": "exact", "width": 224, "height": 168}, (224, 168), (224, 168)),
    ],
)
def test_sizes_worked_out_by_hand(
    source: tuple[int, int], options: dict[str, object], resized: tuple[int, int], size: tuple[int, int]
) -> None:
    plan = size_plan(*source, SizeSettings.model_validate(options))
    assert (plan.resized, plan.size) == (resized, size)
    assert (plan.left, plan.top) == ((resized[0] - size[0]) // 2, (resized[1] - size[1]) // 2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"width": 500}, "width: expected a multiple of 14, found 500; use 490 or 504"),
        ({"mode": "exact", "width": 224}, "height: is required"),
        ({"mode": "exact", "width": 224, "height": 100}, "use 98 or 112"),
        ({"height": 280}, "mode 'width'"),
        ({"mode": "cover", "width": 504, "height": 280, "max_height": 280}, "max_height"),
        (
            {"mode": "exact", "width": 504, "height": 280, "height_rounding": "floor"},
            "height_rounding: has a meaning in mode 'width' only, found with mode 'exact'",
        ),
        ({"width": 8204}, "less than or equal to 8192"),
        ({"mode": "cover", "height": 0}, "greater than or equal to 14"),
        ({"wdth": 504}, "did you mean 'width'"),
        ({"filter": "nearest"}, "filter"),
        ({"width": 0}, "width"),
    ],
)
def test_settings_that_cannot_be_used(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validated(SizeSettings, options, "size")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def ramp_frame(width: int, height: int, axis: int) -> Frame:
    """An image whose value is the column (axis 0) or row, scaled to 8 bits, and depth that is the coordinate itself."""
    v, u = np.indices((height, width), dtype=np.float64)
    coordinate = u if axis == 0 else v
    grey = np.rint(coordinate * 255 / max(width, height)).astype(np.uint8)
    return Frame(0, 0.0, np.repeat(grey[..., None], 3, 2), "ramp", None, coordinate.astype(np.float32) + 1, K)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    "options",
    [
        {"width": 322},
        {"width": 518, "filter": "lanczos"},
        {"width": 322, "max_height": 140},
        {"mode": "cover", "width": 280, "height": 252},
        {"mode": "exact", "width": 224, "height": 350},
        {"mode": "exact", "width": 896, "height": 672},
    ],
)
def test_colours_and_depth_stay_on_their_rays(axis: int, options: dict[str, object]) -> None:
    """Resizing keeps a linear ramp linear: its value tells from which source pixel each new pixel's colour came."""
    width, height = 640, 480
    prepared = prepare(ramp_frame(width, height, axis), SizeSettings.model_validate(options))
    assert prepared.image is not None
    assert prepared.depth is not None
    assert prepared.intrinsics is not None
    inner = (slice(12, -12), slice(12, -12))  # away from where the filter meets the border
    v, u = np.indices(prepared.image.shape[:2])
    new = (u if axis == 0 else v)[inner]
    ray = (new - prepared.intrinsics[axis, 2]) / prepared.intrinsics[axis, axis]
    expected_source = ray * K[axis, axis] + K[axis, 2]
    grey = prepared.image[inner][..., 0].astype(float)
    error = grey * max(width, height) / 255 - expected_source
    assert abs(error.mean()) < 0.05  # a shift of half a pixel would show
    assert np.abs(error).max() < 3.0  # 8 bits are 2.5 columns
    from_depth = prepared.depth[inner] - 1 - expected_source
    assert np.abs(from_depth).max() <= 0.5 + 1e-3
    assert (prepared.depth == np.rint(prepared.depth)).all()  # measurements, never mixtures


def test_preparing_equals_rendering_at_the_prepared_size() -> None:
    def first(width: int, height: int) -> Frame:
        options = {"width": width, "height": height}
        return next(open_adapter("synthetic", None, options).open("room-1", Selection(start=20)).frames())

    large, small = first(448, 336), first(224, 168)
    prepared = prepare(large, SizeSettings(mode="exact", width=224, height=168))
    assert prepared.intrinsics is not None
    assert small.intrinsics is not None
    assert prepared.depth is not None
    assert prepared.image is not None
    np.testing.assert_allclose(prepared.intrinsics, small.intrinsics, atol=1e-9)
    assert np.median(np.abs(prepared.depth - small.depth) / small.depth) < 2e-3
    assert np.abs(prepared.image.astype(int) - small.image).mean() < 8


def test_depth_of_another_camera_is_looked_up_along_the_rays() -> None:
    """A tilted plane z = 2 + 0.5 x, seen by both cameras from one place: x = ray * z, so z = 2 / (1 - 0.5 ray)."""
    depth_k = np.array([[585.0, 0, 320.0], [0, 585.0, 240.0], [0, 0, 1]])
    colour_k = np.array([[525.0, 0, 320.0], [0, 525.0, 240.0], [0, 0, 1]])

    def plane(k: np.ndarray, width: int, height: int) -> np.ndarray:
        ray = (np.arange(width) - k[0, 2]) / k[0, 0]
        return np.tile(2 / (1 - 0.5 * ray), (height, 1))

    image = np.zeros((480, 640, 3), np.uint8)
    depth = plane(depth_k, 640, 480).astype(np.float32)
    frame = Frame(0, 0.0, image, "plane", None, depth, colour_k, depth_k)
    prepared = prepare(frame, SizeSettings(width=322))
    assert prepared.depth_intrinsics is None
    assert prepared.depth is not None
    assert prepared.intrinsics is not None
    expected = plane(prepared.intrinsics, 322, 238)
    seen = prepared.depth > 0
    # One depth pixel is 1/585 of the ray's slope: z changes by at most 0.5 z²/2 times half of that.
    assert np.abs(prepared.depth - expected)[seen].max() < 0.25 * expected.max() ** 2 / 585
    # The colour camera sees more: what the depth camera cannot see is no measurement. 320/585 of 320/525.
    assert seen[119].mean() == pytest.approx(525 / 585, abs=0.01)
    assert not seen[:, 0].any()
    assert not seen[0].any()
    assert seen[119, 161]


def test_depth_of_another_camera_ends_with_its_last_pixels() -> None:
    """Half the resolution: columns are looked up at u/2 − 4, rows at v/2 − 6; the map fills a part of the picture."""
    depth = 1 + np.arange(16 * 20, dtype=np.float32).reshape(16, 20)
    colour_k = np.array([[40.0, 0, 28.0], [0, 40.0, 28.0], [0, 0, 1]])
    depth_k = np.array([[20.0, 0, 10.0], [0, 20.0, 8.0], [0, 0, 1]])
    frame = Frame(0, 0.0, np.zeros((56, 56, 3), np.uint8), "half", None, depth, colour_k, depth_k)
    expected = np.zeros((56, 56), np.float32)
    expected[12:44, 8:48] = depth.repeat(2, axis=0).repeat(2, axis=1)
    found = prepare(frame, SizeSettings(mode="exact", width=56, height=56)).depth
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=60)
@given(
    st.integers(8, 900),
    st.integers(8, 900),
    st.sampled_from(["width", "cover", "exact"]),
    st.integers(1, 20),
    st.integers(1, 20),
)
def test_any_size_becomes_what_was_asked_for(width: int, height: int, mode: str, columns: int, rows: int) -> None:
    options = {"mode": mode, "width": 14 * columns} | ({} if mode == "width" else {"height": 14 * rows})
    asked = SizeSettings.model_validate(options)
    image = np.zeros((height, width, 3), np.uint8)
    depth = np.ones((height, width), np.float32)
    prepared = prepare(Frame(0, 0.0, image, "any", None, depth, K), asked)
    assert prepared.image is not None
    assert prepared.depth is not None
    assert prepared.image.shape[:2] == prepared.depth.shape
    assert prepared.image.shape[1] == 14 * columns
    assert prepared.image.shape[0] % 14 == 0
    assert (prepared.depth == 1).all()


def test_parts_that_are_not_there_stay_so() -> None:
    depth_only = Frame(0, 0.0, None, "d", None, np.ones((480, 640), np.float32), K)
    prepared = prepare(depth_only, SizeSettings(width=322))
    assert prepared.image is None
    assert prepared.depth is not None
    assert prepared.depth.shape == (238, 322)
    assert prepared.intrinsics is not None
    nowhere = Frame(3, 1.5, None, "n", np.eye(4), None, K, 1.5 * K, np.ones((480, 640), np.bool_))
    nothing = prepare(nowhere, SizeSettings())
    assert (nothing.depth_intrinsics, nothing.left_out) == (None, None)
    assert (nothing.index, nothing.timestamp, nothing.intrinsics, nothing.depth) == (3, 1.5, None, None)
    assert nothing.camera_to_world is not None


def test_depth_of_another_camera_beside_an_unknown_one_keeps_its_place() -> None:
    """Nothing tells where the rays of the image lie: the depth map is taken for its picture."""
    frame = ramp_frame(64, 48, 0)
    asked = SizeSettings(mode="exact", width=28, height=14)
    plain, other = (
        prepare(replace(frame, intrinsics=None, depth_intrinsics=camera), asked) for camera in (None, 1.5 * K)
    )
    np.testing.assert_array_equal(other.depth, plain.depth)
    assert (other.intrinsics, other.depth_intrinsics) == (None, None)


def test_every_fault_of_the_images_is_said() -> None:
    refuse_faulty_images({"image_faults": []})
    with pytest.raises(DataError, match=r"^a\.png: truncated; b\.png: of another size$"):
        refuse_faulty_images({"image_faults": ["a.png: truncated", "b.png: of another size"]})


def test_a_mask_is_of_the_images_pixels_whatever_camera_the_depth_is_of() -> None:
    frame = ramp_frame(64, 48, 0)
    left_out = np.arange(64 * 48).reshape(48, 64) % 5 == 0
    asked = SizeSettings(mode="cover", width=56, height=56)
    plain = prepare(replace(frame, left_out=left_out, intrinsics=K, depth_intrinsics=None), asked).left_out
    other = prepare(replace(frame, left_out=left_out, intrinsics=K, depth_intrinsics=1.5 * K), asked).left_out
    assert plain is not None
    assert plain.shape == (56, 56)
    np.testing.assert_array_equal(other, plain)
    # Covered by 75 × 56, of which the 56 columns in the middle are kept; the first of two that are as near.
    rows = [np.argmin(np.abs((row + 0.5) * 48 / 56 - 0.5 - np.arange(48))) for row in range(56)]
    columns = [np.argmin(np.abs((column + 9 + 0.5) * 64 / 75 - 0.5 - np.arange(64))) for column in range(56)]
    np.testing.assert_array_equal(plain, left_out[rows][:, columns])


def test_half_way_between_two_measurements_the_first_is_taken() -> None:
    halved = prepare(ramp_frame(56, 28, 0), SizeSettings(mode="exact", width=28, height=14))
    assert halved.depth is not None
    assert halved.depth[3].tolist() == list(range(1, 57, 2))


@pytest.mark.parametrize(
    ("asked", "filter"),
    [
        ({}, Pictures.Resampling.BICUBIC),
        ({"filter": "bicubic"}, Pictures.Resampling.BICUBIC),
        ({"filter": "lanczos"}, Pictures.Resampling.LANCZOS),
    ],
)
def test_colours_are_filtered_as_asked(asked: dict[str, object], filter: Pictures.Resampling) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    settings = SizeSettings.model_validate({"mode": "exact", "width": 42, "height": 28} | asked)
    prepared = prepare(Frame(0, 0.0, image, "noise"), settings)
    np.testing.assert_array_equal(prepared.image, np.asarray(Pictures.fromarray(image).resize((42, 28), filter)))


def test_what_is_cut_off_is_said_of_the_worst() -> None:
    """Resized to 518 columns, and cut around the centre to 518 rows."""
    sizes = [(100, 200, 10), (100, 400, 3), (400, 100, 9)]
    assert crop_notes(sizes, SizeSettings()) == [
        "13 of 22 images lose up to 75% of the picture: 100x400 is resized to 518x2072 and cut around its centre to"
        " 518x518; to keep all of it, set size.max_height: 2072"
    ]
    assert crop_notes(sizes[:1], SizeSettings(mode="cover", width=518, height=518)) == [
        "10 of 10 images lose 50% of the picture: 100x200 is resized to 518x1036 and cut around its centre to 518x518;"
        " to keep all of it, set size: {mode: width, width: 518}"
    ]
    assert crop_notes(sizes[2:], SizeSettings()) == []
    # What was left out comes first.
    facts = {"notes": ["one", "two"], "image_sizes": sizes}
    assert input_notes(facts, SizeSettings()) == ["one", "two", *crop_notes(sizes, SizeSettings())]
    assert input_notes({}, SizeSettings()) == []
    # A tenth is little, and more than that is said.
    assert crop_notes([(10, 10, 1)], SizeSettings(width=140, max_height=126)) == []
    (note,) = crop_notes([(10, 10, 1)], SizeSettings(width=126, max_height=112))
    assert note.startswith("1 of 1 images lose 11% of the picture: 10x10 is resized to 126x126 and cut")


@pytest.mark.parametrize(("width", "height"), [(64, 48), (56, 42)], ids=["resized", "as it comes"])
def test_the_frame_given_is_left_alone(width: int, height: int) -> None:
    frame = ramp_frame(width, height, 0)
    image = np.asfortranarray(frame.image)
    image.setflags(write=False)
    prepared = prepare(replace(frame, image=image), SizeSettings(mode="exact", width=56, height=42))
    assert prepared.image is not None
    assert prepared.image.shape == (42, 56, 3)
    assert prepared.image.flags.writeable
    assert prepared.image.flags.c_contiguous
    assert not np.shares_memory(prepared.image, image)


def test_droid_w_rounds_to_pixels_before_it_rounds_down() -> None:
    """protocol.md section 2: height round(518 H / W) floored to a multiple of 14."""
    # 518 * 335 / 591 = 293.6: to pixels 294 = 21 * 14, while flooring at once gives 20 * 14.
    pixel, floor = (
        size_plan(591, 335, SizeSettings(height_rounding=rounding)).size for rounding in ("pixel_floor", "floor")
    )
    assert (pixel, floor) == ((518, 294), (518, 280))
