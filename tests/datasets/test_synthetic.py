"""Synthetic scenes: depth against an independent ray caster, poses that never touch anything, equal bits."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.datasets.synthetic.adapter import SyntheticSequence
from lingbot_eval.datasets.synthetic.plans import PLANS, contains, walls_around
from lingbot_eval.datasets.synthetic.render import Renderer
from lingbot_eval.datasets.synthetic.scene import CameraPath, Faces, Scene, Walk, build_scene
from lingbot_eval.errors import ConfigError, DataError
from lingbot_eval.types import Frame, FrameSequence

KINDS = tuple(PLANS)
SHORT = ("room", "corridor", "loop", "office")


def sequence(scene: str, selection: Selection | None = None, **options: object) -> SyntheticSequence:
    opened = open_adapter("synthetic", None, options).open(scene, selection or Selection())
    assert isinstance(opened, SyntheticSequence)
    return opened


def frames_of(scene: str, indices: list[int], **options: object) -> list[Frame]:
    """Single frames, each from a sequence of its own."""
    return [next(sequence(scene, Selection(start=i), **options).frames()) for i in indices]


def cast_rays(faces: Faces, frame: Frame, pixels: np.ndarray) -> np.ndarray:
    """Depth at (N, 2) pixels by intersecting each ray with every rectangle, in float64, one formula for all."""
    assert frame.intrinsics is not None
    assert frame.camera_to_world is not None
    homogeneous = np.column_stack([pixels, np.ones(len(pixels))])
    rays = homogeneous @ np.linalg.inv(frame.intrinsics).T @ frame.camera_to_world[:3, :3].T  # unit depth
    origin = frame.camera_to_world[:3, 3]
    normal = np.cross(faces.right, faces.down)  # away from who sees the face
    with np.errstate(divide="ignore", invalid="ignore"):
        z = ((faces.origin - origin) * normal).sum(axis=1) / (rays @ normal.T)
    z[rays @ normal.T <= 0] = np.inf  # seen from behind
    points = origin + z[..., None] * rays[:, None, :]
    with np.errstate(invalid="ignore"):
        local = points - faces.origin
        s, t = (local * faces.right).sum(axis=-1), (local * faces.down).sum(axis=-1)
        hit = (z > 0) & (s >= 0) & (s <= faces.size[:, 0]) & (t >= 0) & (t <= faces.size[:, 1])
    return np.where(hit, z, np.inf).min(axis=1)


@pytest.mark.parametrize("kind", SHORT)
def test_depth_equals_an_independent_ray_caster(kind: str) -> None:
    rng = np.random.default_rng(3)
    opened = sequence(f"{kind}-4", Selection(stride=60), frames=300, laps=1)
    for frame in opened.frames():
        assert frame.depth is not None
        assert frame.depth.max() < 40  # no gap between two faces that a ray slips through
        pixels = np.column_stack([rng.integers(0, 224, 400), rng.integers(0, 168, 400)])
        expected = cast_rays(opened.place.faces, frame, pixels)
        found = frame.depth[pixels[:, 1], pixels[:, 0]]
        assert np.isfinite(expected).all()
        # A pixel whose centre lies on an edge to rounding may fall on either side of it.
        wrong = np.abs(found - expected) > 2e-5 * expected
        assert wrong.sum() <= 1


def test_depth_of_a_tilted_plane_is_the_closed_form() -> None:
    """One wall 3 m ahead, the camera turned by 20 degrees: z = 3 / (cos a - x sin a) for the ray (x, y, 1)."""
    place = build_scene("room", 0)
    wall = Faces(
        origin=np.array([[-50.0, -50.0, 3.0]]),
        right=np.array([[1.0, 0.0, 0.0]]),
        down=np.array([[0.0, 1.0, 0.0]]),
        size=np.array([[100.0, 100.0]]),
        texture=np.zeros(1, np.int32),
        tiling=np.array([[0.5, 0.0, 0.5, 0.0]]),
        tint=np.ones((1, 3), np.float32),
        glow=np.zeros(1, bool),
    )
    intrinsics = np.array([[100.0, 0, 60.0], [0, 100.0, 40.0], [0, 0, 1]])
    angle = np.radians(20.0)
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    depth = Renderer(dataclasses.replace(place, faces=wall), intrinsics, (120, 80)).depth(pose)
    x = (np.arange(120) - 60.0) / 100.0
    expected = 3.0 / (np.cos(angle) - x * np.sin(angle))
    np.testing.assert_allclose(depth, np.tile(expected, (80, 1)), rtol=1e-5)


@pytest.mark.parametrize("kind", SHORT)
def test_frames_agree_when_one_is_projected_into_the_other(kind: str) -> None:
    a, b = frames_of(f"{kind}-2", [40, 44], frames=100)
    assert a.image is not None
    assert b.image is not None
    assert a.depth is not None
    assert b.depth is not None
    assert a.camera_to_world is not None
    assert b.camera_to_world is not None
    assert a.intrinsics is not None
    v, u = np.indices(a.depth.shape)
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(a.intrinsics).T
    world = (rays * a.depth[..., None]) @ a.camera_to_world[:3, :3].T + a.camera_to_world[:3, 3]
    in_b = (world - b.camera_to_world[:3, 3]) @ b.camera_to_world[:3, :3]
    pixel = in_b[..., :2] / in_b[..., 2:] * a.intrinsics[[0, 1], [0, 1]] + a.intrinsics[:2, 2]
    column, row = np.rint(pixel[..., 0]).astype(int), np.rint(pixel[..., 1]).astype(int)
    inside = (in_b[..., 2] > 0) & (column >= 0) & (column < 224) & (row >= 0) & (row < 168)
    assert inside.mean() > 0.6
    z, seen = in_b[..., 2][inside], b.depth[row[inside], column[inside]]
    same_surface = np.abs(z - seen) < 0.03 * z
    assert same_surface.mean() > 0.9
    difference = np.abs(a.image[inside].astype(int) - b.image[row[inside], column[inside]])[same_surface]
    assert np.median(difference) <= 4
    assert difference.mean() < 12
    # The same comparison with a wrong pose must be worse, or it would show nothing.
    unmoved = np.abs(a.image.astype(int) - b.image).mean()
    assert unmoved > 1.5 * difference.mean()


def distance_to_faces(faces: Faces, points: np.ndarray) -> np.ndarray:
    """(N, F) distance of points to rectangles."""
    local = points[:, None, :] - faces.origin
    s, t = (local * faces.right).sum(-1), (local * faces.down).sum(-1)
    ds = s - s.clip(0, faces.size[:, 0])
    dt = t - t.clip(0, faces.size[:, 1])
    normal = (local * np.cross(faces.right, faces.down)).sum(-1)
    return np.sqrt(ds**2 + dt**2 + normal**2)


@pytest.mark.parametrize(
    ("kind", "seed"), [*((kind, seed) for kind in SHORT for seed in (0, 2, 4)), ("long_corridor", 0)]
)
def test_the_camera_comes_near_nothing(kind: str, seed: int) -> None:
    place = build_scene(kind, seed)
    path = CameraPath(place.walk, seed)
    poses = np.stack([path.camera_to_world(d) for d in np.linspace(0, 1.5 * place.walk.length, 250)])
    assert distance_to_faces(place.faces, poses[:, :3, 3]).min() > 0.25


def rotation_step(poses: np.ndarray) -> np.ndarray:
    """Degrees between consecutive poses."""
    relative = np.swapaxes(poses[:-1, :3, :3], 1, 2) @ poses[1:, :3, :3]
    return np.degrees(np.arccos(((np.trace(relative, axis1=1, axis2=2) - 1) / 2).clip(-1, 1)))


@pytest.mark.parametrize("kind", SHORT)
def test_motion_is_smooth_and_rigid(kind: str) -> None:
    poses = sequence(kind, frames=800, step=0.03).reference().camera_to_world
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    assert steps.max() < 0.06
    assert steps.min() > 0.01
    assert rotation_step(poses).max() < 6.0
    gram = poses[:, :3, :3] @ np.swapaxes(poses[:, :3, :3], 1, 2)
    assert np.abs(gram - np.eye(3)).max() < 1e-12
    np.testing.assert_allclose(np.linalg.det(poses[:, :3, :3]), 1.0)
    # Upright: the camera's down axis points down in the world.
    assert (poses[:, 2, 1] < -0.7).all()


@pytest.mark.parametrize("kind", SHORT)
def test_a_lap_ends_where_it_began(kind: str) -> None:
    positions = sequence(kind, frames=400, laps=1).reference().positions
    gap = np.linalg.norm(positions[-1] - positions[0])
    travelled = np.linalg.norm(np.diff(positions, axis=0), axis=1).sum()
    assert gap < 0.5
    assert np.linalg.norm(positions - positions[0], axis=1).max() > 1.5
    assert travelled > 5.0


def test_frames_do_not_depend_on_each_other() -> None:
    whole = list(sequence("room", frames=12, width=64, height=48).frames())
    part = list(sequence("room", Selection(start=3, stride=4, count=2), frames=12, width=64, height=48).frames())
    assert [frame.timestamp for frame in part] == [3 / 30, 7 / 30]
    assert [frame.index for frame in part] == [0, 1]
    for frame, other in zip(part, (whole[3], whole[7]), strict=True):
        assert np.array_equal(frame.image, other.image)
        assert np.array_equal(frame.depth, other.depth)
        assert np.array_equal(frame.camera_to_world, other.camera_to_world)


def test_loaders_render_in_any_order_and_thread() -> None:
    rooms = sequence("room", frames=6, width=64, height=48)
    with ThreadPoolExecutor(3) as threads:
        backwards = list(threads.map(lambda load: load(), reversed(list(rooms.loaders()))))
    for frame, other in zip(rooms.frames(), reversed(backwards), strict=True):
        assert frame.index == other.index
        assert np.array_equal(frame.image, other.image)
        assert np.array_equal(frame.depth, other.depth)


DIGEST = """
import hashlib, sys
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.datasets.registry import open_adapter
digest = hashlib.sha256()
adapter = open_adapter("synthetic", None, {"frames": 40, "width": 96, "height": 72})
for frame in adapter.open("office-5", Selection(stride=13)).frames():
    digest.update(frame.image.tobytes() + frame.depth.tobytes() + frame.camera_to_world.tobytes())
sys.stdout.write(digest.hexdigest())
"""


def test_another_process_renders_the_same_bits() -> None:
    done = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True, timeout=60)
    digest = hashlib.sha256()
    for frame in sequence("office-5", Selection(stride=13), frames=40, width=96, height=72).frames():
        assert frame.image is not None
        assert frame.depth is not None
        assert frame.camera_to_world is not None
        digest.update(frame.image.tobytes() + frame.depth.tobytes() + frame.camera_to_world.tobytes())
    assert done.stdout == digest.hexdigest()


def test_seeds_and_kinds_look_different() -> None:
    pictures = [frames_of(scene, [0], width=64, height=48)[0].image for scene in ("room-0", "room-1", "loop-0")]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert pictures[i] is not None
        assert np.abs(pictures[i].astype(int) - pictures[j]).mean() > 10  # type: ignore[union-attr]


def test_pictures_have_texture_to_follow() -> None:
    for scene in SHORT:
        image = frames_of(scene, [10])[0].image
        assert image is not None
        grey = image.mean(axis=2)
        assert grey.std() > 12
        assert 40 < grey.mean() < 220
        assert (np.abs(np.diff(grey, axis=1)) > 4).mean() > 0.1


def test_exposure_changes_the_picture_only() -> None:
    plain, varied = (frames_of("room", [50], exposure_variation=e)[0] for e in (0.0, 0.6))
    assert np.array_equal(plain.depth, varied.depth)
    assert plain.image is not None
    assert varied.image is not None
    dark = (plain.image > 10) & (plain.image < 120)
    ratio = varied.image[dark] / plain.image[dark]
    assert abs(np.median(ratio) - 1) > 0.02
    assert ratio.std() < 0.1


def test_the_camera_is_that_of_its_field_of_view() -> None:
    """Half the width is seen under half the angle; heights that differ from widths change the centre alone."""
    frame = next(sequence("room", width=64, height=40, fov=90.0).frames(images=False, depth=False))
    assert frame.intrinsics is not None
    np.testing.assert_allclose(frame.intrinsics, [[32, 0, 31.5], [0, 32, 19.5], [0, 0, 1]], rtol=1e-12)
    narrow = sequence("room", width=64, height=40, fov=60.0).intrinsics
    assert narrow[0, 0] == narrow[1, 1] == pytest.approx(32 * np.sqrt(3))


def poses_of(scene: str, **options: object) -> np.ndarray:
    return sequence(scene, **options).reference().camera_to_world


def test_steps_and_laps_are_distances_along_the_walk() -> None:
    every = poses_of("room", frames=9, step=0.1)
    np.testing.assert_allclose(poses_of("room", frames=5, step=0.2), every[::2], atol=1e-12)
    place = sequence("room").place
    two_laps = poses_of("room", frames=8, laps=2)
    step = 2 * place.walk.length / 8
    np.testing.assert_allclose(two_laps, poses_of("room", frames=8, step=step), atol=1e-12)
    path = CameraPath(place.walk, 0)
    np.testing.assert_allclose(two_laps[3], path.camera_to_world(3 * step), atol=1e-12)
    # The feet are back after a lap, whatever the head does.
    walked = np.array([path.camera_to_world(distance)[:2, 3] for distance in (0.0, place.walk.length)])
    assert np.linalg.norm(walked[1] - walked[0]) < 2 * 0.09 + 1e-9
    # A seed of the options is that of a scene that names none.
    assert sequence("room", seed=4).fingerprint() == sequence("room-4").fingerprint()


def test_each_motion_goes_where_it_says() -> None:
    """Of 13 frames the middle third begins with frame 4 and ends with frame 8."""
    walk = poses_of("room", frames=13)
    still = poses_of("room", frames=13, motion="standstill")
    expected = [0, 1, 2, 3, 4, 4, 4, 4, 4, 5, 6, 7, 8]
    np.testing.assert_allclose(still, walk[expected], atol=1e-12)
    turned = poses_of("room", frames=13, motion="rotation")
    np.testing.assert_allclose(turned[:, :3, 3], still[:, :3, 3], atol=1e-12)
    for frame, quarters in enumerate([0, 0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0]):
        turn = np.linalg.matrix_power(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), quarters)
        np.testing.assert_allclose(turned[frame, :3, :3], turn @ still[frame, :3, :3], atol=1e-9)
    there_and_back = poses_of("room", frames=13, motion="revisit")
    np.testing.assert_allclose(there_and_back, walk[[*range(7), *range(5, -1, -1)]], atol=1e-12)


def test_brightness_goes_by_the_time_and_stays_within_what_was_asked() -> None:
    size = {"width": 32, "height": 24, "exposure_variation": 0.5}
    fast = sequence("room", Selection(start=60, count=1), fps=30, step=0.05, **size)
    slow = sequence("room", Selection(start=20, count=1), fps=10, step=0.15, **size)
    (a,), (b,) = fast.frames(), slow.frames()
    assert a.timestamp == b.timestamp == 2.0
    np.testing.assert_array_equal(a.image, b.image)
    factors = [fast._exposure(number) for number in range(0, 3000, 7)]
    assert 0.5 <= min(factors) < 0.7
    assert 1.3 < max(factors) <= 1.5


def test_depth_without_images_is_the_same_depth() -> None:
    opened = sequence("room", Selection(count=2))
    with_images, without = list(opened.frames()), list(opened.frames(images=False))
    assert all(frame.image is None for frame in without)
    assert all(np.array_equal(a.depth, b.depth) for a, b in zip(with_images, without, strict=True))
    assert all(frame.depth is None for frame in opened.frames(depth=False))


def test_a_sequence_says_what_it_is() -> None:
    opened: FrameSequence = sequence("corridor-3", Selection(start=10, stride=5), frames=100, fps=10)
    assert (opened.dataset, opened.scene, opened.length) == ("synthetic", "corridor-3", 18)
    times, reference = opened.timestamps(), opened.reference()
    assert times is not None
    assert reference is not None
    np.testing.assert_allclose(times, np.arange(10, 100, 5) / 10)
    np.testing.assert_array_equal(reference.indices, np.arange(18))
    facts = opened.facts()
    assert facts["source"] == "generated: corridor, seed 3, generator version 1"
    assert facts["timestamps"] == "frame number / 10 Hz"
    assert (facts["options"]["frames"], facts["options"]["fps"], "motion" in facts["options"]) == (100, 10, False)
    assert sequence("room", motion="revisit").facts()["options"]["motion"] == "revisit"
    frame = list(opened.frames(images=False, depth=False))[1]
    assert (frame.index, frame.timestamp, frame.source) == (1, 1.5, "synthetic/corridor-3 frame 15")


def test_fingerprints_follow_the_settings() -> None:
    def mark(scene: str, stride: int = 1, **options: object) -> str:
        return sequence(scene, Selection(stride=stride), **options).fingerprint()

    assert mark("room") == mark("room-0") == mark("room", variants=3)
    others = {
        mark("room"),
        mark("room-1"),
        mark("loop"),
        mark("room", 2),
        mark("room", width=56),
        mark("room", step=0.1),
        mark("room", fps=10),
        mark("room", frames=200),
        mark("room", motion="revisit"),
        mark("room", height=56),
        mark("room", fov=60.0),
        mark("room", laps=1),
        mark("room", exposure_variation=0.1),
        sequence("room", Selection(start=1, count=7)).fingerprint(),
        sequence("room", Selection(count=7)).fingerprint(),
        sequence("room", Selection(count=7, stride=3)).fingerprint(),
    }
    assert len(others) == 16


def test_opening_a_long_sequence_builds_nothing() -> None:
    opened = sequence("long_corridor", frames=1_000_000)
    assert opened.length == 1_000_000
    assert "place" not in vars(opened)


def test_scenes_are_listed_by_kind_and_seed() -> None:
    assert open_adapter("synthetic", None, {}).scenes() == KINDS
    assert open_adapter("synthetic", None, {"variants": 2, "seed": 5}).scenes()[:3] == (
        "room-5",
        "room-6",
        "corridor-5",
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"widht": 100}, "did you mean 'width'"),
        ({"frames": 0}, "frames"),
        ({"fov": "wide"}, "fov"),
        ({"laps": 1, "step": 0.1}, "laps"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        open_adapter("synthetic", None, options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scene", ["rom", "room-", "room-x", "", "../room", "room-1-2"])
def test_unknown_scenes_list_the_known(scene: str) -> None:
    with pytest.raises(DataError, match="long_corridor"):
        open_adapter("synthetic", None, {}).open(scene, Selection())


def test_a_selection_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="starts at 300"):
        sequence("room", Selection(start=300))


def test_a_root_is_refused(tmp_path: object) -> None:
    with pytest.raises(ConfigError, match="leave it out"):
        open_adapter("synthetic", tmp_path, {})  # type: ignore[arg-type]


def test_walls_of_an_l_shape() -> None:
    walls = set(walls_around(((0.0, 0.0, 4.0, 2.0), (0.0, 0.0, 2.0, 5.0))))
    # Walking each wall with the interior on the left hand of the back turned to it: by hand from a drawing.
    assert walls == {
        ((0.0, 0.0), (0.0, 5.0)),
        ((0.0, 5.0), (2.0, 5.0)),
        ((2.0, 5.0), (2.0, 2.0)),
        ((2.0, 2.0), (4.0, 2.0)),
        ((4.0, 2.0), (4.0, 0.0)),
        ((4.0, 0.0), (0.0, 0.0)),
    }


def test_what_lies_in_an_l_shape() -> None:
    points = np.array(
        [[3.0, 1.0], [1.0, 4.5], [3.0, 3.0], [-0.1, 1.0], [4.1, 1.0], [1.0, -0.1], [1.0, 5.1], [4.0, 2.0]]
    )
    inside = contains(((0.0, 0.0, 4.0, 2.0), (0.0, 0.0, 2.0, 5.0)), points)
    assert inside.tolist() == [True, True, False, False, False, False, False, True]


@pytest.mark.parametrize("kind", ["room", "office"])
def test_furniture_stands_on_the_floor_of_the_place(kind: str) -> None:
    place = build_scene(kind, 2)
    faces = place.faces
    chosen = np.isin(faces.texture, place.textures.groups["furniture"])
    assert chosen.sum() > 10
    corners = np.concatenate([(faces.origin + k * faces.right * faces.size[:, :1])[chosen] for k in (0, 1)])
    x, y, z = corners.T
    x0, y0, x1, y1 = np.array(place.plan.free).T
    beyond = np.maximum(np.maximum(x0 - x[:, None], x[:, None] - x1), np.maximum(y0 - y[:, None], y[:, None] - y1))
    assert beyond.min(axis=1).max() < 1e-9
    assert z.min() > 0.3
    assert z.max() < place.plan.height


def test_what_hangs_and_lies_in_a_place_is_where_people_have_it() -> None:
    place = build_scene("office", 2)
    faces, height = place.faces, place.plan.height

    def of(group: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Heights of upper and lower edges, and the directions that the faces look to."""
        chosen = np.isin(faces.texture, place.textures.groups[group])
        assert chosen.any()
        top = faces.origin[chosen, 2]
        return top, top + (faces.down[chosen, 2] * faces.size[chosen, 1]), faces.normal[chosen]

    top, bottom, looks = of("door")
    np.testing.assert_allclose(bottom, 0, atol=1e-9)
    np.testing.assert_allclose(top, 2.05)
    top, bottom, _ = of("window")
    np.testing.assert_allclose(top, 2.15)
    assert bottom.min() > 0.9
    top, bottom, looks = of("picture")
    assert top.max() < height
    assert bottom.min() > 0.5
    assert ((top + bottom) / 2).min() > 1 - 1e-9
    np.testing.assert_allclose(looks[:, 2], 0, atol=1e-9)
    hung = np.isin(faces.texture, [k for group in ("door", "window", "picture") for k in place.textures.groups[group]])
    for end in (0, 1):  # in front of the walls, not behind them
        assert contains(place.plan.free, (faces.origin + end * faces.right * faces.size[:, :1])[hung, :2]).all()
    # Rooms are 16 cm apart: narrower pieces of floor are doorways, and each has a lintel over it.
    gaps = [r for r in place.plan.free if min(r[2] - r[0], r[3] - r[1]) < 0.2]
    assert len(gaps) >= 4
    below = np.isclose(faces.origin[:, 2], 2.1) & (faces.normal[:, 2] < -0.9)
    middles = (faces.origin + (faces.right * faces.size[:, :1] + faces.down * faces.size[:, 1:]) / 2)[below, :2]
    np.testing.assert_allclose(
        sorted(middles.tolist()), sorted([(x0 + x1) / 2, (y0 + y1) / 2] for x0, y0, x1, y1 in gaps)
    )
    for group, level, towards in (("light", height - 0.03, -1), ("rug", 0.01, 1), ("ceiling", height, -1)):
        top, bottom, looks = of(group)
        np.testing.assert_allclose([top, bottom], level)
        np.testing.assert_allclose(looks, np.tile([0, 0, towards], (len(looks), 1)), atol=1e-9)
    np.testing.assert_array_equal(faces.glow, np.isin(faces.texture, place.textures.groups["light"]))
    # Lamps stand apart, along the walk.
    lamps = (faces.origin + (faces.right * faces.size[:, :1] + faces.down * faces.size[:, 1:]) / 2)[faces.glow][:, :2]
    apart = np.linalg.norm(lamps[:, None] - lamps, axis=-1)[np.triu_indices(len(lamps), 1)]
    assert apart.min() > place.plan.light_spacing
    assert np.linalg.norm(place.walk.points[:, None] - lamps, axis=-1).min(axis=0).max() < 1e-6


def test_each_level_of_a_texture_is_the_mean_of_the_finer_one() -> None:
    textures = build_scene("room", 1).textures
    count = sum(map(len, textures.groups.values()))
    ends = [*textures.level_offset[1:], len(textures.texels)]
    sizes = [256, 128, 64, 32, 16, 8, 4, 2]
    levels = [
        textures.texels[first:last, :3].reshape(count, size, size, 3).astype(float)
        for first, last, size in zip(textures.level_offset, ends, sizes, strict=True)
    ]
    for finer, coarser in itertools.pairwise(levels):
        four = (finer[:, ::2, ::2], finer[:, 1::2, ::2], finer[:, ::2, 1::2], finer[:, 1::2, 1::2])
        assert np.abs(sum(four) / 4 - coarser).max() <= 1  # each is rounded by itself


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.0, 5000.0))
def test_poses_are_rigid_at_any_distance(seed: int, distance: float) -> None:
    walk = Walk.along(np.array([[0.0, 0.0], [6.0, 0.0], [6.0, 4.0], [0.0, 4.0]]), 0.4)
    pose = CameraPath(walk, seed).camera_to_world(distance)
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1.0)
    assert -0.2 < pose[0, 3] < 6.2
    assert -0.2 < pose[1, 3] < 4.2


def test_the_camera_sways_across_the_way_and_not_along_it() -> None:
    """On a circle, where every way is another: the direction from the middle goes as far as the feet do."""
    turns = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    walk = Walk.along(5 * np.stack([np.cos(turns), np.sin(turns)], axis=1), 0.05)
    path = CameraPath(walk, 1)
    shares = np.arange(0.01, 1, 0.03)
    at = np.stack([path.camera_to_world(share * walk.length)[:2, 3] for share in shares])
    np.testing.assert_allclose(np.unwrap(np.arctan2(at[:, 1], at[:, 0])), 2 * np.pi * shares, atol=1e-3)
    off = np.linalg.norm(at, axis=1) - 5
    assert off.min() < -0.02
    assert off.max() > 0.02
    assert np.abs(off).max() < 0.1


def test_a_scene_is_what_it_says() -> None:
    place = build_scene("room", 1)
    assert isinstance(place, Scene)
    np.testing.assert_allclose(np.linalg.norm(place.faces.right, axis=1), 1.0)
    np.testing.assert_allclose((place.faces.right * place.faces.down).sum(axis=1), 0.0, atol=1e-9)
