"""What the page's controls show and hide, node by node: a stand-in takes what would be sent to a browser."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from lingbot_eval.types import Frame, Prediction, Trajectory
from lingbot_eval.viewing import layers, page_nodes
from lingbot_eval.viewing.cloud import LEAST_VOXELS, VoxelCloud
from lingbot_eval.viewing.layers import METHOD_COLOURS, RANGES, SURENESS, Layer, LayeredScene
from lingbot_eval.viewing.page_nodes import Look, Nodes

FRAMES, POINTS = 12, 200
LAST = FRAMES - 1


class Page:
    """Takes nodes by name, as viser's scene does."""

    def __init__(self) -> None:
        self.nodes: dict[str, Any] = {}

    def _add(self, name: str, **properties: Any) -> Any:
        node = SimpleNamespace(name=name, visible=properties.pop("visible", True), **properties)
        node.remove = lambda: [self.nodes.pop(each) for each in list(self.nodes) if f"{each}/".startswith(f"{name}/")]
        self.nodes[name] = node
        return node

    def add_frame(self, name: str, **properties: Any) -> Any:
        return self._add(name, **properties)

    def add_point_cloud(self, name: str, points: Any, colors: Any, **properties: Any) -> Any:
        return self._add(name, points=np.asarray(points) + properties["position"], colors=colors, **properties)

    def add_line_segments(self, name: str, points: Any, colors: Any, **properties: Any) -> Any:
        return self._add(name, points=points, colors=colors, **properties)

    def add_camera_frustum(self, name: str, fov: float, aspect: float, **properties: Any) -> Any:
        return self._add(name, fov=fov, aspect=aspect, **properties)

    def seen(self, part: str) -> list[Any]:
        """Nodes with this in their name that are visible with all that is above them."""

        def shown(name: str) -> bool:
            above = name.rpartition("/")[0]
            return (name not in self.nodes or self.nodes[name].visible) and (not above or shown(above))

        return [node for name, node in self.nodes.items() if part in name and shown(name)]

    def points(self) -> np.ndarray:
        return np.concatenate([np.empty((0, 3)), *(node.points for node in self.seen("/block "))])


def layer(label: str) -> Layer:
    """A camera that steps along y; of a point x is the confidence, y the frame, z (nearly) the distance."""
    made = Layer(label, VoxelCloud(100_000, 1e-5), length=FRAMES, complete=True)
    rng = np.random.default_rng(len(label))
    for index in range(FRAMES):
        pose = np.eye(4)
        pose[1, 3] = index
        picture = np.full((6, 8, 3), index, np.uint8)
        made.add(Frame(index, index / 10, picture, ""), Prediction(index, index / 10, pose))
        points = rng.uniform([0, 0, 1], [0.01, 0.001, 9], (POINTS, 3)) + np.array([0, index, 0])
        colours = rng.integers(0, 255, (POINTS, 3)).astype(np.uint8)
        made.cloud.add(points.astype(np.float32), colours, points[:, 0].astype(np.float32), index)
    return made


@pytest.fixture
def page() -> Page:
    return Page()


@pytest.fixture
def nodes(page: Page) -> Nodes:
    return Nodes(page, LayeredScene("s", [layer("a"), layer("bb")]))  # type: ignore[arg-type]


def total() -> int:
    return 2 * FRAMES * POINTS


@pytest.mark.parametrize("least", range(len(SURENESS)))
def test_a_choice_of_confidence_hides_the_share_that_it_says(page: Page, nodes: Nodes, least: int) -> None:
    nodes.draw(Look(LAST, sureness=0))
    every = page.points()
    assert len(every) == total()
    nodes.draw(Look(LAST, sureness=least))
    shown = page.points()
    assert len(shown) / total() == pytest.approx(1 - SURENESS[least], abs=0.02)
    # The least sure are those that go.
    assert shown[:, 0].min() >= np.quantile(every[:, 0], SURENESS[least]) - 2e-4


@pytest.mark.parametrize("ranges", [(0, 3), (0, 0), (1, 2), (3, 3), (0, 2)])
def test_a_range_of_depth_shows_what_lies_in_it(page: Page, nodes: Nodes, ranges: tuple[int, int]) -> None:
    ends = (*RANGES, 1.0)
    nodes.draw(Look(LAST, sureness=0))
    depth = page.points()[:, 2]
    nodes.draw(Look(LAST, sureness=0, ranges=ranges))
    shown = page.points()[:, 2]
    low, high = ends[ranges[0]], ends[ranges[1] + 1]
    assert len(shown) / total() == pytest.approx(high - low, abs=0.02)
    assert shown.min() >= np.quantile(depth, low) - 0.1
    assert shown.max() <= np.quantile(depth, high) + 0.1


@pytest.mark.parametrize(("now", "history", "first"), [(LAST, 0, 0), (4, 0, 0), (4, 2, 3), (LAST, 5, 7), (0, 5, 0)])
def test_time_shows_what_was_seen_until_the_frame_and_how_long_before(
    page: Page, nodes: Nodes, now: int, history: int, first: int
) -> None:
    nodes.draw(Look(LAST, sureness=0))
    nodes.draw(Look(now, history, sureness=0))
    assert sorted(set(np.floor(page.points()[:, 1]))) == list(range(first, now + 1))
    assert [int(node.name.rpartition("/")[2]) for node in page.seen("/0 a/cameras/") if node.image is not None] == list(
        range(first, now + 1)
    )
    paths = list(page.seen("/0 a/path/"))
    ends = [float(y) for node in paths for y in np.asarray(node.points)[..., 1].ravel()]
    assert (not paths) if now == first else (min(ends), max(ends)) == (first, now)


def test_a_hidden_method_goes_whole_and_the_truth_by_itself(page: Page) -> None:
    layers = [layer("a"), layer("bb")]
    for each in layers:  # off the line, for an alignment
        for index in range(FRAMES):
            each.poses[16 * index + 3] = np.sin(index)
    truth = layers[0].trajectory()
    nodes = Nodes(page, LayeredScene("s", layers, Trajectory(truth.indices, truth.timestamps, truth.camera_to_world)))  # type: ignore[arg-type]
    for hidden, roots in (((), "/0 /1 /g"), (("a",), "/1 /g"), (("bb", ""), "/0")):
        nodes.draw(Look(LAST, hidden=frozenset(hidden)))
        assert sorted({node.name[:2] for node in page.seen("")}) == sorted(roots.split())


def test_path_pictures_colours_and_sizes_follow_their_controls(page: Page, nodes: Nodes) -> None:
    nodes.draw(Look(LAST))
    size = page.seen("/block ")[0].point_size
    scale = page.seen("/0 a/cameras/3")[0].scale
    nodes.draw(Look(LAST, trail=False, frusta=False, size=2.5, frustum=0.06, colouring="method"))
    assert not list(page.seen("/path/"))
    assert not page.seen("/cameras/3")
    assert page.seen("/block ")[0].point_size == pytest.approx(2.5 * size)
    for number in (0, 1):
        blocks = page.seen(f"/{number} ")
        colours = np.concatenate([node.colors for node in blocks if "/block " in node.name])
        assert (colours == METHOD_COLOURS[number]).all()
    nodes.draw(Look(LAST, frustum=0.06))
    assert page.seen("/0 a/cameras/3")[0].scale == pytest.approx(2 * scale)


def test_voxels_that_doubled_since_the_last_look_are_not_asked_by_their_old_numbers(page: Page) -> None:
    made = Layer("a", VoxelCloud(LEAST_VOXELS, 0.01), length=2)
    rng = np.random.default_rng(0)

    def grow(index: int, count: int) -> None:
        made.add(Frame(index, index / 10, None, ""), Prediction(index, index / 10, np.eye(4)))
        points = rng.uniform([0, 0, 3], [1, 1, 4], (count, 3)).astype(np.float32)
        made.cloud.add(points, np.zeros((count, 3), np.uint8), points[:, 0], index)

    nodes = Nodes(page, LayeredScene("s", [made]))  # type: ignore[arg-type]
    made.sky.add(np.array([[0, -9, 99]], np.float32), np.zeros((1, 3), np.uint8), np.ones(1, np.float32), 0)
    grow(0, LEAST_VOXELS - 1)
    nodes.draw(Look(0, sureness=0))
    assert nodes.nearest(np.zeros(3), np.array([0, 0, 1.0])) is not None
    grow(1, LEAST_VOXELS)
    assert made.cloud.generation > 0
    assert nodes.nearest(np.zeros(3), np.array([0, 0, 1.0])) is None
    nodes.draw(Look(0, sureness=0, colouring="confidence", sky=True))
    assert all(node.colors.any() for node in page.seen("/block ") if "/cloud" in node.name)
    (sky,) = page.seen("/sky/block ")  # its own voxels are as they were
    assert sky.points == pytest.approx(np.array([[0, -9, 99]]), abs=0.01)
    assert nodes.nearest(np.zeros(3), np.array([0, 0, 1.0])) is not None


def test_a_click_takes_the_nearest_of_what_lies_by_its_ray_else_what_is_least_aside(page: Page) -> None:
    """In front the surface, a little beside the ray; behind it a point on the ray itself; far aside a third."""
    made = Layer("a", VoxelCloud(1000, 1e-3), length=1, complete=True)
    made.add(Frame(0, 0.0, None, ""), Prediction(0, 0.0, np.eye(4)))
    points = np.array([[0.01, 0, 4], [0, 0, 9], [3, 0, 1]], np.float32)
    made.cloud.add(points, np.zeros((3, 3), np.uint8), np.ones(3, np.float32), 0)
    nodes = Nodes(page, LayeredScene("s", [made]))  # type: ignore[arg-type]
    nodes.draw(Look(0, sureness=0))
    ahead = np.array([0, 0, 1.0])
    for eye, expected in (((0, 0, 0), points[0]), ((0, 0, 5), points[1]), ((3.1, 0, 0.5), points[2])):
        assert nodes.nearest(np.array(eye, np.float64), ahead) == pytest.approx(expected, abs=2e-3)


def test_of_two_methods_a_click_takes_what_lies_by_its_ray_else_what_is_least_aside(page: Page) -> None:
    every = [Layer(label, VoxelCloud(1000, 1e-3), length=1, complete=True) for label in ("a", "bb")]
    a, b = np.array([[0, 0, 9]], np.float32), np.array([[1, 0, 2]], np.float32)
    for made, points in zip(every, (a, b), strict=True):
        made.add(Frame(0, 0.0, None, ""), Prediction(0, 0.0, np.eye(4)))
        made.cloud.add(points, np.zeros((1, 3), np.uint8), np.ones(1, np.float32), 0)
    for order in (every, every[::-1]):
        nodes = Nodes(page, LayeredScene("s", order))  # type: ignore[arg-type]
        nodes.draw(Look(0, sureness=0))
        # By the ray of the first lies a, far off; the second meets neither, and a is less aside though farther.
        for eye, expected in ((0.0, a), (0.2, a), (0.98, b), (0.999, b)):
            found = nodes.nearest(np.array([eye, 0, 0]), np.array([0, 0, 1.0]))
            assert found == pytest.approx(expected[0], abs=2e-3)


EDGE, SIDE = 0.05, 100


@pytest.fixture
def walls(page: Page, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    """Two walls of SIDE × SIDE voxels that are full, ten metres apart, and a sky; a wall has one frame."""
    monkeypatch.setattr(layers, "_LEAST_SPLIT", 1)
    made = Layer("wall", VoxelCloud(100_000, EDGE), length=2, complete=True)
    made.sky = VoxelCloud(1000, 0.5)
    rng = np.random.default_rng(0)
    for index in range(2):
        made.add(Frame(index, index / 10, None, ""), Prediction(index, index / 10, np.eye(4)))
        x, y = (axis.reshape(-1) for axis in np.meshgrid(*2 * [(np.arange(SIDE) + 0.5) * EDGE]))
        points = np.stack([x, y, np.full(len(x), 10.025 * (index + 1))], axis=1).astype(np.float32)
        made.cloud.add(points, np.zeros((len(x), 3), np.uint8), rng.uniform(1, 5, len(x)).astype(np.float32), index)
    above = rng.uniform([0, -60, 90], [90, -40, 99], (500, 3)).astype(np.float32)
    made.sky.add(above, np.zeros((500, 3), np.uint8), np.full(500, 0.1, np.float32), 0)
    return Nodes(page, LayeredScene("s", [made]))  # type: ignore[arg-type]


def largest_hole(page: Page) -> float:
    """Of both walls, in voxels: how far the farthest place of either is from the next point that is shown."""
    x, y = (axis.reshape(-1) for axis in np.meshgrid(*2 * [np.arange(SIDE) * EDGE]))
    places = np.concatenate([np.stack([x, y, np.full(len(x), z)], axis=1) for z in (10.025, 20.05)])
    return float(KDTree(page.points()).query(places)[0].max() / EDGE)


@pytest.mark.parametrize(
    ("budget", "least", "size", "hole"),
    [(10**5, 20_000, 1, 1), (19_000, 14_000, 1.1, 3), (5000, 5000, 2, 3), (1250, 1250, 4, 6), (338, 338, 8, 12)],
)
def test_a_budget_thins_evenly_with_larger_points_and_sends_none_again(
    page: Page, walls: Nodes, budget: int, least: int, size: float, hole: float
) -> None:
    walls.draw(Look(1, sureness=0))
    sent = {name: node.points for name, node in page.nodes.items() if "/block " in name}
    assert walls.shown == len(page.points()) == 2 * SIDE**2
    walls.draw(Look(1, sureness=0, budget=budget, size=1.5))
    assert least <= walls.shown == len(page.points()) <= budget
    blocks = page.seen("/block ")
    sizes = np.repeat([node.point_size for node in blocks], [len(node.points) for node in blocks])
    assert sizes.mean() / EDGE / 1.5 == pytest.approx(size, rel=0.1)
    assert largest_hole(page) < hole
    walls.draw(Look(1, sureness=0))
    assert len(page.points()) == 2 * SIDE**2
    assert {name: node.points for name, node in page.nodes.items() if "/block " in name} == sent


@pytest.mark.parametrize(("z", "near", "far"), [(10.0, SIDE**2, SIDE**2), (-85.0, SIDE**2, 2500), (-185.0, 2500, 625)])
def test_what_is_farther_away_is_coarser(page: Page, walls: Nodes, z: float, near: int, far: int) -> None:
    """Where every second point would do, a thousandth of the distance apart: 0.1 m from 100 m on."""
    walls.draw(Look(1, sureness=0), eyes=[(2.5, 2.5, z)])
    depth = page.points()[:, 2]
    assert ((depth < 15).sum(), (depth > 15).sum()) == (near, far)


def test_with_a_small_budget_the_nearest_is_shown_finest_to_whoever_looks(page: Page, walls: Nodes) -> None:
    for z, first_is_finer in ((0.0, True), (30.0, False)):
        walls.draw(Look(1, sureness=0, budget=12_000), eyes=[(2.5, 2.5, z)])
        depth = page.points()[:, 2]
        assert ((depth < 15).sum() > (depth > 15).sum()) == first_is_finer
        assert 11_000 < len(depth) <= 12_000
    walls.draw(Look(1, sureness=0), eyes=[(2.5, 2.5, z) for z in (-85.0, 2000.0)])
    assert len(page.points()) == SIDE**2 + 2500


def test_what_is_hidden_takes_nothing_of_the_budget(page: Page, nodes: Nodes) -> None:
    for look in (Look(LAST, sureness=0, budget=1000, hidden=frozenset({"a"})), Look(LAST, sureness=3, budget=1000)):
        nodes.draw(look)
        assert 900 < nodes.shown == len(page.points()) <= 1000
    far_off = np.array([0.0, 5.5, -100.0]), np.array([0.0, 0, 1])
    for hidden in ("a", "bb"):
        nodes.draw(Look(LAST, sureness=0, hidden=frozenset({hidden})))
        found = nodes.nearest(*far_off)
        assert found is not None
        assert np.abs(page.points() - found).sum(axis=1).min() < 1e-3


def test_sky_is_shown_where_it_is_asked_for_whatever_the_other_filters_say(page: Page, walls: Nodes) -> None:
    walls.draw(Look(1, sureness=0))
    assert walls.has_sky
    sent = set(page.nodes)
    for look, count in ((Look(1, sky=True, sureness=4, ranges=(0, 0)), 500), (Look(1, ranges=(0, 0)), 0)):
        walls.draw(look)
        assert (page.points()[:, 1] < -30).sum() == count
    assert set(page.nodes) == sent


def steps_of(page: Page) -> list[tuple[float, float]]:
    """Where each piece of the path that is seen begins and ends."""
    ends = [np.asarray(node.points)[..., 1] for node in page.seen("/0 a/path/")]
    return [(float(one), float(other)) for one, other in np.concatenate([np.empty((0, 2)), *ends])]


@pytest.mark.parametrize("history", [0, 3])
def test_the_pieces_of_a_long_path_are_each_step_once(
    page: Page, nodes: Nodes, history: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole pieces go with their last frame; of a history that begins within one, that piece is still there."""
    monkeypatch.setattr(page_nodes, "_PIECE", 4)
    for now in (LAST, 0, 3, 4, 6, 8, 11, 5):
        nodes.draw(Look(now, history))
        found = steps_of(page)
        assert len(found) == len(set(found))
        whole = {(n, n + 1) for n in range(now)}
        assert set(found) <= whole
        assert {step for step in whole if not history or step[0] > now - history} <= set(found)
        if not history:
            assert set(found) == whole


def test_cameras_stand_and_look_as_their_poses_say_and_the_newest_is_larger(page: Page) -> None:
    made = Layer("a", VoxelCloud(1000, 0.01), length=4, complete=True)
    turns = Rotation.from_euler("xyz", [[0, 0, 0], [10, 20, 30], [-40, 5, 60], [0, 90, 0]], degrees=True)
    for index, turn in zip((2, 3, 5, 8), turns.as_matrix(), strict=True):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = turn, (index, np.sin(index), np.cos(3 * index))
        matrix = np.array([[30.0, 0, 20], [0, 10.0 + index, 15], [0, 0, 1]])
        image = np.full((30, 40, 3), index, np.uint8)
        made.add(Frame(index, index / 10, image, ""), Prediction(index, index / 10, pose, intrinsics=matrix))
    nodes = Nodes(page, LayeredScene("s", [made]))  # type: ignore[arg-type]
    for now, newest in ((8, 3), (7, 2), (3, 1), (2, 0)):
        nodes.draw(Look(now, frustum=0.05))
        for number, index in enumerate((2, 3, 5, 8)):
            small = page.nodes[f"/0 a/cameras/{index}"]
            assert small.visible is (index <= now)
            assert (small.fov, small.aspect) == (pytest.approx(2 * np.arctan(15 / (10 + index))), pytest.approx(4 / 3))
            assert np.roll(small.wxyz, -1) == pytest.approx(turns[number].as_quat(canonical=True))
            assert small.position == pytest.approx([index, np.sin(index), np.cos(3 * index)])
            assert (small.scale, (small.image == index).all()) == (
                pytest.approx(0.05 * nodes.surroundings.extent),
                True,
            )
        head, index = page.nodes["/0 a/now"], (2, 3, 5, 8)[newest]
        assert head.visible
        assert head.scale == pytest.approx(2 * 0.05 * nodes.surroundings.extent)
        assert np.roll(head.wxyz, -1) == pytest.approx(turns[newest].as_quat(canonical=True))
        assert head.position[0] == pytest.approx(index)
    nodes.draw(Look(1))
    assert not page.nodes["/0 a/now"].visible


def test_of_many_pictures_some_are_shown_and_a_path_is_coloured_by_its_error(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_nodes, "_MOST_FRUSTA", 5)
    monkeypatch.setattr(page_nodes, "_PIECE", 4)
    monkeypatch.setattr(page_nodes, "_TRUTH_POINTS", 6)
    every = [layer("a"), layer("bb")]
    for number, each in enumerate(every):
        for index in range(FRAMES):
            each.poses[16 * index + 3] = np.sin(index) + 0.3 * number * (index == 7)
            each.poses[16 * index + 11] = np.cos(2 * index)
    truth = every[0].trajectory()
    scene = LayeredScene("s", every, Trajectory(truth.indices, truth.timestamps, truth.camera_to_world))
    nodes = Nodes(page, scene)  # type: ignore[arg-type]
    nodes.draw(Look(LAST))
    assert [name for name in page.nodes if "/0 a/cameras/" in name] == [f"/0 a/cameras/{n}" for n in (0, 4, 8)]
    true = np.asarray(page.nodes["/ground truth"].points)
    assert true[:, 0, 1].tolist() == [0, 2, 4, 6, 8]  # each second of twelve
    for colouring in ("error", "picture", "error"):
        nodes.draw(Look(LAST, colouring=colouring))  # type: ignore[arg-type]
        for number, placed in enumerate(nodes.placed):
            for node in page.seen(f"/{number} {placed.layer.label}/path/"):
                ends = np.rint(np.asarray(node.points)[..., 1]).astype(int)
                share = placed.error[ends] / nodes.placed[1].error.max()
                by_error = layers.ramp(share, "turbo")
                expected = by_error if colouring == "error" else np.full((*ends.shape, 3), METHOD_COLOURS[number])
                np.testing.assert_array_equal(node.colors, expected)
    nodes.remove()
    assert page.nodes == {}


def test_a_scene_that_is_moved_has_voxels_of_its_size(page: Page) -> None:
    """A method's world at a third of the truth's size: points are three voxels large in its own."""
    made, wide = layer("a"), layer("a")
    made.cloud = VoxelCloud(1000, 0.5)
    made.cloud.add(np.array([[0, 0, 3]], np.float32), np.zeros((1, 3), np.uint8), np.ones(1, np.float32), 0)
    for index in range(FRAMES):
        made.poses[16 * index + 3], made.poses[16 * index + 11] = np.sin(index), np.cos(2 * index)
        for row in (3, 7, 11):
            wide.poses[16 * index + row] = 3 * made.poses[16 * index + row]
    truth = wide.trajectory()
    nodes = Nodes(page, LayeredScene("s", [made], Trajectory(truth.indices, truth.timestamps, truth.camera_to_world)))  # type: ignore[arg-type]
    nodes.draw(Look(LAST, sureness=0, size=2.0))
    (block,) = page.seen("/block ")
    assert block.point_size == pytest.approx(2 * 3 * 0.5)
    assert block.points == pytest.approx(np.array([[0, 0, 9]]))


def test_every_control_is_asked_for_here() -> None:
    assert {field.name for field in fields(Look)} == {
        *("now", "history", "sureness", "ranges", "sky", "budget", "hidden"),
        *("trail", "frusta", "size", "frustum", "colouring"),
    }
