"""Pictures of points: where they land, which one wins, how large they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lingbot_eval.viewing import splats as module
from lingbot_eval.viewing.splats import Picture, Splats, Style, View

PLAIN = Style(eye_dome=0)
FRONT = View(np.eye(4), 50.0, 41, 31)  # the optical axis goes through pixel (20, 15)
RED, GREEN = (255, 0, 0), (0, 255, 0)


def drawn(points: list[tuple[float, float, float]], colours: list[tuple[int, int, int]], **options: object) -> Picture:
    view, style, count = (
        options.get(key, other) for key, other in (("view", FRONT), ("style", PLAIN), ("count", None))
    )
    positions = np.array(points, np.float32).reshape(-1, 3)
    made = Splats(positions, np.array(colours, np.uint8).reshape(-1, 3), float(options.get("edge", 1e-3)))  # type: ignore[arg-type]
    return made.draw(view, style, count)  # type: ignore[arg-type]


def covered(picture: Picture) -> list[tuple[int, int]]:
    return [(int(column), int(row)) for row, column in np.argwhere(np.isfinite(picture.depth))]


def test_a_point_lands_where_the_pinhole_says() -> None:
    picture = drawn([(0.4, -0.2, 2.0)], [RED])
    assert covered(picture) == [(20 + 10, 15 - 5)]
    assert tuple(picture.image[10, 30]) == RED
    assert picture.depth[10, 30] == np.float32(2.0)
    assert (picture.image[15, 20] == 0).all()


def test_a_moved_and_turned_camera_sees_the_point_elsewhere() -> None:
    camera = np.eye(4)
    camera[:3, :3] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]  # it looks along the world's x
    camera[:3, 3] = [1, 0, 0]
    picture = drawn([(3.0, 0.2, 0.4)], [RED], view=View(camera, 50.0, 41, 31))
    assert covered(picture) == [(20 - 10, 15 + 5)]
    pixels, depth = View(camera, 50.0, 41, 31).project(np.array([[3.0, 0.2, 0.4]]))
    assert pixels[0] == pytest.approx([10, 20])
    assert depth[0] == pytest.approx(2)


@pytest.mark.parametrize("order", [1, -1])
def test_the_nearest_point_wins_in_either_order(order: int) -> None:
    points, colours = [(0.0, 0.0, 2.0), (0.0, 0.0, 1.0)], [RED, GREEN]
    picture = drawn(points[::order], colours[::order])
    assert tuple(picture.image[15, 20]) == GREEN
    assert picture.depth[15, 20] == 1.0


def test_of_two_points_at_one_place_the_earlier_wins() -> None:
    assert tuple(drawn([(0, 0, 1), (0, 0, 1)], [RED, GREEN]).image[15, 20]) == RED


def test_only_the_first_points_are_drawn_when_asked() -> None:
    points, colours = [(0.0, 0.0, 2.0), (0.0, 0.0, 1.0)], [RED, GREEN]
    assert tuple(drawn(points, colours, count=1).image[15, 20]) == RED
    assert not covered(drawn(points, colours, count=0))
    assert not covered(drawn([], []))


def test_of_a_style_of_which_nothing_is_said() -> None:
    assert Style() == Style((0, 0, 0), eye_dome=0.1, radius=2, point_scale=1.0, near=0.0, far=np.inf)
    grey = drawn([(0, 0, 1.0)], [RED], style=Style(background=(1, 2, 3), eye_dome=0))
    assert tuple(grey.image[0, 0]) == (1, 2, 3)


def test_what_is_behind_too_near_or_too_far_is_not_drawn() -> None:
    style = Style(eye_dome=0, near=0.5, far=3.0)
    for distance in (-1.0, 0.0, 0.4, 3.5):
        assert not covered(drawn([(0, 0, distance)], [RED], style=style))
    assert covered(drawn([(0, 0, 1.0)], [RED], style=style))


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize(("pixels", "side"), [(0.3, 1), (1.0, 1), (2.0, 3), (4.5, 5), (8.0, 9), (16.0, 17), (30.0, 33)])
def test_a_voxel_covers_as_much_as_it_spans(pixels: float, side: int, scale: float) -> None:
    view = View(np.eye(4), 50.0, 81, 61)
    style = Style(eye_dome=0, point_scale=scale)
    picture = drawn([(0, 0, 2.0)], [RED], view=view, style=style, edge=pixels * 2.0 / 50.0 / scale)
    half = side // 2
    assert covered(picture) == [
        (column, row) for row in range(30 - half, 31 + half) for column in range(40 - half, 41 + half)
    ]


def test_a_square_reaches_in_from_outside_the_picture() -> None:
    # The centre lies four pixels left of the picture, the square is nine wide.
    picture = drawn([(-24 * 2 / 50, 0, 2.0)], [RED], edge=9 * 2 / 50)
    assert covered(picture) == [(0, row) for row in range(15 - 4, 15 + 5)]


@pytest.mark.parametrize(("strength", "radius"), [(0.1, 2), (0.001, 1), (0.002, 3)])
def test_the_depth_of_neighbours_darkens_an_edge_and_no_flat_wall(strength: float, radius: int) -> None:
    rows, columns = np.mgrid[-15:16, -20:21]
    wall = np.stack([columns * 2 / 50, rows * 2 / 50, np.full(rows.shape, 2.0)], axis=-1).reshape(-1, 3)
    near = wall.copy()
    near[columns.reshape(-1) < 0] /= 2  # the left half stands at half the distance
    colours = np.full((len(wall), 3), 200, np.uint8)
    style = Style(eye_dome=strength, radius=radius)
    flat = Splats(wall.astype(np.float32), colours, 1e-3).draw(FRONT, style)
    assert (flat.image == 200).all()
    stepped = Splats(near.astype(np.float32), colours, 1e-3).draw(FRONT, style).image[..., 0]
    # Three of eight neighbours are one doubling nearer.
    assert (stepped[radius:-radius, 20 : 20 + radius] == round(200 * np.exp(-300 * strength * 3 / 8))).all()
    assert (stepped[:, :20] == 200).all()
    assert (stepped[:, 20 + radius :] == 200).all()


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.floats(0.001, 0.4))
def test_every_pixel_shows_the_nearest_square_over_it(seed: int, count: int, edge: float) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform((-1.2, -1.0, -0.5), (1.2, 1.0, 3.0), (count, 3)).astype(np.float32)
    colours = rng.integers(0, 256, (count, 3), dtype=np.uint8)
    picture = Splats(points, colours, edge).draw(FRONT, PLAIN)
    best = np.full((31, 41), np.inf)
    for x, y, z in points.astype(np.float64):
        if z <= 1e-6:
            continue
        side = next((each for each in module._EDGES if edge * 50 / z <= each), module._EDGES[-1])
        column, row = np.floor(50 * x / z + 20.5), np.floor(50 * y / z + 15.5)
        if abs(50 * x / z + 20.5 - column - 0.5) > 0.499 or abs(50 * y / z + 15.5 - row - 0.5) > 0.499:
            return  # on the border between two pixels rounding decides
        left, top = max(0, int(column) - side // 2), max(0, int(row) - side // 2)
        part = best[top : max(0, int(row) + side // 2 + 1), left : max(0, int(column) + side // 2 + 1)]
        np.minimum(part, z, out=part)
    assert np.array_equal(np.isfinite(best), np.isfinite(picture.depth))
    assert np.allclose(best[np.isfinite(best)], picture.depth[np.isfinite(best)], rtol=1e-5)


def test_torch_draws_the_same_picture() -> None:
    rng = np.random.default_rng(3)
    points = rng.uniform((-1, -1, 0.2), (1, 1, 3), (3000, 3)).astype(np.float32)
    colours = rng.integers(0, 256, (3000, 3), dtype=np.uint8)
    one, other = Splats(points, colours, 0.05), Splats(points, colours, 0.05, "cpu")
    other._arrays = module._TorchArrays("cpu")
    other._positions = other._arrays.take(np.ascontiguousarray(points.T))
    ours, theirs = one.draw(FRONT, PLAIN), other.draw(FRONT, PLAIN)
    # Products may be summed in another order: a point on the border between two pixels may change sides.
    assert (ours.depth == theirs.depth).mean() > 0.98
    assert np.array_equal(np.isfinite(ours.depth), np.isfinite(theirs.depth))
