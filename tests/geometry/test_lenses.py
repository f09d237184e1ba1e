"""Lenses against OpenCV's and COLMAP's own."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lingbot_eval.geometry.cameras import MODELS, LensCamera, carried, undistorted

CENTRE = (300.0, 310.0, 158.0, 121.0)
LENSES = {
    "OPENCV": (-0.28, 0.07, 0.01, -0.02),
    "FULL_OPENCV": (-0.28, 0.07, 0.01, -0.02, 0.03, 0.01, -0.02, 0.005),
    "OPENCV_FISHEYE": (0.05, -0.02, 0.01, -0.003),
}


def camera(model: str, size: tuple[int, int] = (320, 240)) -> LensCamera:
    return LensCamera(model, size, (*CENTRE, *LENSES[model]))


@pytest.mark.parametrize("model", LENSES)
def test_rays_land_where_opencv_has_them(model: str) -> None:
    rays = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 2))
    lens = camera(model)
    points = np.column_stack([rays, np.ones(50)]).reshape(-1, 1, 3)
    module = cv2.fisheye if model == "OPENCV_FISHEYE" else cv2
    expected = module.projectPoints(points, np.zeros(3), np.zeros(3), lens.intrinsics, np.array(LENSES[model]))[0]
    np.testing.assert_allclose(np.column_stack(lens.project(*rays.T)), expected.reshape(-1, 2), atol=1e-6)


@pytest.mark.parametrize("model", LENSES)
def test_pictures_are_undistorted_as_opencv_does(model: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (240, 320, 3)).astype(np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 2.0)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    lens, numbers = camera(model), np.array(LENSES[model])
    if model == "OPENCV_FISHEYE":
        maps = cv2.fisheye.initUndistortRectifyMap(
            lens.intrinsics, numbers, np.eye(3), lens.intrinsics, (320, 240), cv2.CV_32FC1
        )
    else:
        maps = cv2.initUndistortRectifyMap(lens.intrinsics, numbers, None, lens.intrinsics, (320, 240), cv2.CV_32FC1)
    expected = cv2.remap(image, *maps, cv2.INTER_LINEAR)
    inner = np.s_[8:-8, 8:-8]
    difference = np.abs(undistorted(image, lens)[inner].astype(int) - expected[inner])
    assert difference.max() <= 3  # OpenCV takes steps of a thirty-second of a pixel
    grey = np.repeat(image[..., :1], 3, axis=-1)
    np.testing.assert_array_equal(undistorted(grey, lens)[..., 2], undistorted(image, lens)[..., 0])


def test_what_the_lens_does_not_see_is_black_and_without_depth() -> None:
    lens = LensCamera("OPENCV", (320, 240), (*CENTRE, 0.6, 0.0, 0.0, 0.0))  # bends outward: the corners see farther
    picture = undistorted(np.full((240, 320, 3), 200, np.uint8), lens)
    assert (picture[0, 0] == 0).all()
    assert (picture[120, 160] == 200).all()
    depth = carried(np.full((240, 320), 2.0, np.float32), lens, lens.intrinsics, (320, 240))
    np.testing.assert_array_equal(depth == 0, picture[..., 0] == 0)


def test_models_agree_where_one_is_a_case_of_the_other() -> None:
    x, y = np.random.default_rng(2).uniform(-0.6, 0.6, (2, 40))
    fx, _, cx, cy = CENTRE

    def landed(model: str, *numbers: float) -> np.ndarray:
        return np.stack(LensCamera(model, (320, 240), numbers).project(x, y))

    straight = landed("PINHOLE", fx, fx, cx, cy)
    np.testing.assert_allclose(straight, landed("SIMPLE_PINHOLE", fx, cx, cy))
    np.testing.assert_allclose(straight, [fx * x + cx, fx * y + cy])
    radial = landed("OPENCV", fx, fx, cx, cy, 0.1, -0.05, 0, 0)
    np.testing.assert_allclose(radial, landed("RADIAL", fx, cx, cy, 0.1, -0.05))
    np.testing.assert_allclose(landed("SIMPLE_RADIAL", fx, cx, cy, 0.1), landed("RADIAL", fx, cx, cy, 0.1, 0))
    fish = landed("OPENCV_FISHEYE", fx, fx, cx, cy, 0.1, -0.05, 0, 0)
    np.testing.assert_allclose(fish, landed("RADIAL_FISHEYE", fx, cx, cy, 0.1, -0.05))
    np.testing.assert_allclose(fish, landed("THIN_PRISM_FISHEYE", fx, fx, cx, cy, 0.1, -0.05, 0, 0, 0, 0, 0, 0))
    assert {model for model in MODELS if LensCamera(model, (1, 1), (1.0,) * len(MODELS[model])).bends} == {
        model for model in MODELS if not model.endswith("PINHOLE")
    }


def test_a_thin_prism_by_hand() -> None:
    """COLMAP's ThinPrismFisheyeCameraModel: the angle in place of the radius, then all the rest on top of it."""
    k1, k2, p1, p2, k3, k4, sx, sy = 0.1, -0.05, 0.01, -0.02, 0.03, -0.04, 0.005, -0.007
    lens = LensCamera("THIN_PRISM_FISHEYE", (320, 240), (*CENTRE, k1, k2, p1, p2, k3, k4, sx, sy))
    angle = np.arctan(0.5)  # of the ray (0.3, 0.4, 1)
    u, v, r2 = angle * 0.6, angle * 0.8, angle**2
    radial = k1 * r2 + k2 * r2**2 + k3 * r2**3 + k4 * r2**4
    expected_u = u + u * radial + 2 * p1 * u * v + p2 * (r2 + 2 * u * u) + sx * r2
    expected_v = v + v * radial + 2 * p2 * u * v + p1 * (r2 + 2 * v * v) + sy * r2
    column, row = lens.project(np.array([0.3, 0.0]), np.array([0.4, 0.0]))
    fx, fy, cx, cy = CENTRE
    np.testing.assert_allclose(column, [fx * expected_u + cx, cx])
    np.testing.assert_allclose(row, [fy * expected_v + cy, cy])
    short = LensCamera("SIMPLE_RADIAL_FISHEYE", (320, 240), (300.0, 158.0, 121.0, 0.1))
    longer = LensCamera("RADIAL_FISHEYE", (320, 240), (300.0, 158.0, 121.0, 0.1, 0.0))
    np.testing.assert_allclose(short.project(*np.ones((2, 1))), longer.project(*np.ones((2, 1))))


def test_a_lens_without_numbers_bends_nothing_unless_it_is_a_fisheye() -> None:
    assert not LensCamera("OPENCV", (320, 240), (*CENTRE, 0.0, 0.0, 0.0, 0.0)).bends
    assert LensCamera("OPENCV", (320, 240), (*CENTRE, 0.0, 0.0, 0.0, 1e-3)).bends
    assert LensCamera("OPENCV_FISHEYE", (320, 240), (*CENTRE, 0.0, 0.0, 0.0, 0.0)).bends
    for position in range(8):
        numbers = [0.0] * 8
        numbers[position] = 1e-3
        assert LensCamera("FULL_OPENCV", (320, 240), (*CENTRE, *numbers)).bends


def test_a_picture_is_grey_where_all_three_channels_agree() -> None:
    """Red and green may be alike alone, or red and blue."""
    lens = camera("OPENCV")
    grey = np.random.default_rng(3).integers(0, 256, (240, 320, 1)).astype(np.uint8)
    for odd in range(3):
        image = np.repeat(grey, 3, axis=-1)
        image[..., odd] = 255 - image[..., odd]
        found = undistorted(image, lens)
        others = [channel for channel in range(3) if channel != odd]
        np.testing.assert_array_equal(found[..., others[0]], found[..., others[1]])
        np.testing.assert_array_equal(
            found[..., odd], undistorted(np.repeat(255 - grey, 3, axis=-1), lens)[..., 0], str(odd)
        )
