"""Where a film's camera stands: behind, above, around, and in between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lingbot_eval.errors import ConfigError
from lingbot_eval.settings import validated
from lingbot_eval.viewing.camera_paths import Segment, camera_path, look_from, world_up
from lingbot_eval.viewing.splats import View

COUNT = 61
UP = np.array([0.0, -1.0, 0.0])  # OpenCV axes: y points down
POINTS = np.random.default_rng(0).uniform((-2, -1, -2), (2, 1, 8), (5000, 3)).astype(np.float32)


def straight(count: int = COUNT) -> np.ndarray:
    """Cameras that go six units along z and look there."""
    cameras = np.repeat(np.eye(4)[None], count, axis=0)
    cameras[:, 2, 3] = np.linspace(0, 6, count)
    return cameras


def path(*segments: Segment, cameras: np.ndarray | None = None, **options: float) -> np.ndarray:
    options = {"angle": 60.0, "aspect": 16 / 9, **options}
    return camera_path(segments, straight() if cameras is None else cameras, POINTS, **options)  # type: ignore[arg-type]


def test_following_stands_behind_and_above_and_looks_ahead() -> None:
    found = path(Segment(mode="follow", back=0.5, up=0.2, look=0.5, scale_frames=0))
    middle = found[30]
    assert middle[:3, 3] == pytest.approx([0, -0.2 * 6, 3 - 0.5 * 6])
    ahead = np.array([0, 0, 3 + 0.5 * 6]) - middle[:3, 3]
    assert middle[:3, 2] == pytest.approx(ahead / np.linalg.norm(ahead))


def test_following_keeps_its_heading_while_the_camera_looks_down() -> None:
    cameras = straight()
    cameras[20:40, :3, :3] = Rotation.from_euler("x", -90, degrees=True).as_matrix()  # along +y: down
    found = path(Segment(mode="follow", smooth=1, scale_frames=0), cameras=cameras)
    # It moves on along z, so that is where it heads.
    assert found[30, 2, 3] == pytest.approx(3 - 0.4 * 6)


def test_following_stands_behind_where_the_camera_looks_and_not_where_it_goes() -> None:
    """To the right of its way and 30 degrees down: the view stands level behind, and looks where the camera does."""
    cameras = straight()
    cameras[:, :3, :3] = Rotation.from_euler("Y", 90, degrees=True).as_matrix()
    cameras[20:40, :3, :3] = Rotation.from_euler("YX", [90, -30], degrees=True).as_matrix()
    found = path(Segment(mode="follow", back=0.5, up=0, look=0.5, smooth=1, scale_frames=0), cameras=cameras)[30]
    assert found[:3, 3] == pytest.approx([-0.5 * 6, 0, 3])
    forward = np.array([np.cos(np.radians(30)), 0.5, 0])
    ahead = np.array([0, 0, 3]) + 0.5 * 6 * forward - found[:3, 3]
    assert found[:3, 2] == pytest.approx(ahead / np.linalg.norm(ahead))


def test_a_camera_that_looks_down_is_followed_where_it_goes() -> None:
    cameras = straight()
    cameras[30:50, :3, :3] = Rotation.from_euler("x", -90, degrees=True).as_matrix()
    cameras[30:, 0, 3] = np.arange(31) / 10
    cameras[30:, 2, 3] = 3
    found = path(Segment(mode="follow", smooth=1, back=0.5, up=0, scale_frames=0), cameras=cameras)
    length = np.hypot(3, 3)
    assert found[10, :3, 3] == pytest.approx([0, 0, 1 - 0.5 * length])
    assert found[40, :3, 3] == pytest.approx([1 - 0.5 * length, 0, 3])


@pytest.mark.parametrize("aspect", [16 / 9, 9 / 16])
@pytest.mark.parametrize("mode", ["birdeye", "orbit"])
def test_views_from_outside_hold_the_scene(mode: str, aspect: float) -> None:
    found = path(validated(Segment, {"mode": mode}, "segment"), aspect=aspect)
    for camera in found[::10]:
        view = View.of_angle(camera, 60.0, round(900 * aspect), 900)
        pixels, depth = view.project(POINTS)
        inside = (depth > 0) & (pixels > 0).all(axis=1) & (pixels < (view.width, view.height)).all(axis=1)
        assert inside.mean() > 0.95


@pytest.mark.parametrize("aspect", [2.0, 1.0, 0.5])
def test_a_birds_eye_of_a_tall_scene_stands_above_it(aspect: float) -> None:
    """Towers about a yard: the upper end of the middle of the points just fills the picture, times the margin."""
    points = np.random.default_rng(1).uniform((-1, -40, -1), (3, 0, 7), (4000, 3)).astype(np.float32)
    for margin in (1.0, 1.5):
        segment = Segment(mode="birdeye", margin=margin)
        camera = camera_path([segment], straight(), points, angle=60, aspect=aspect)[0]
        low, high = np.percentile(points, (1, 99), axis=0)
        low, high = np.minimum(low, 0), np.maximum(high, [0, low[1], 5.94])  # the middle of the cameras' way, too
        across, along = (high - low)[[0, 2]] / 2
        wide, upright = (along, across) if aspect >= 1 else (across, along)
        above = margin * max(upright, wide / aspect) / np.tan(np.radians(30))
        assert camera[:3, 3] == pytest.approx([(low + high)[0] / 2, low[1] - above, (low + high)[2] / 2], abs=1e-3)


@pytest.mark.parametrize("mode", ["birdeye", "orbit"])
def test_views_from_outside_hold_a_few_cameras_far_from_many_points(mode: str) -> None:
    """Ten photographs of what is some way off: their way would lie outside the picture."""
    cameras = straight(10)
    cameras[:, :3, 3] += [-40, 0, 0]
    for camera in path(validated(Segment, {"mode": mode}, "segment"), cameras=cameras):
        view = View.of_angle(camera, 60.0, 1600, 900)
        pixels, depth = view.project(cameras[:, :3, 3])
        assert ((depth > 0) & (pixels > 0).all(axis=1) & (pixels < (view.width, view.height)).all(axis=1)).all()


def test_a_birds_eye_looks_down_with_the_way_across_the_picture() -> None:
    camera = path(Segment(mode="birdeye"))[0]
    assert camera[:3, 2] == pytest.approx(-UP)
    assert abs(camera[:3, 0] @ [0, 0, 1]) == pytest.approx(1)
    square = path(Segment(mode="birdeye"), aspect=1.0)[0]
    assert abs(square[:3, 0] @ [0, 0, 1]) == pytest.approx(1)
    portrait = path(Segment(mode="birdeye"), aspect=0.5)[0]
    assert abs(portrait[:3, 1] @ [0, 0, 1]) == pytest.approx(1)


def test_an_orbit_goes_round_once_at_one_distance() -> None:
    found = path(Segment(mode="orbit", elevation=20))
    middle = (np.percentile(POINTS, 1, axis=0) + np.percentile(POINTS, 99, axis=0)) / 2
    away = found[:, :3, 3] - middle
    distance = np.linalg.norm(away, axis=1)
    assert distance == pytest.approx(distance[0], rel=1e-3)
    diagonal = np.linalg.norm(np.percentile(POINTS, 99, axis=0) - np.percentile(POINTS, 1, axis=0))
    assert distance[0] == pytest.approx(1.15 * diagonal / 2 / np.tan(np.radians(30)), rel=1e-3)
    assert found[0, :3, 3] == pytest.approx(found[-1, :3, 3])
    # From the right of the world by its far side to the left: against the clock as it is seen from above.
    level = away / distance[:, None] / np.cos(np.radians(20))
    assert level[[0, 15, 30, 45]][:, [0, 2]] == pytest.approx(np.array([[1, 0], [0, 1], [-1, 0], [0, -1]]), abs=0.02)
    assert np.degrees(np.arcsin(away @ UP / distance)) == pytest.approx(20, abs=1)
    assert np.linalg.norm(found[0, :3, 3] - found[30, :3, 3]) == pytest.approx(
        2 * distance[0] * np.cos(np.radians(20)), rel=0.02
    )


def test_a_segments_own_frames_are_its_time(tmp_path: Path) -> None:
    """An orbit turns once, and a path is flown, from the segment's first frame to its last."""
    whole = path(Segment(mode="orbit"))
    found = path(Segment(mode="orbit", frames=(10, 40)))
    assert found[[10, 15, 25, 40]] == pytest.approx(whole[[0, 10, 30, 60]], abs=1e-9)
    file = tmp_path / "flight.tum"
    file.write_text("".join(f"{n} {x} 0 0 0 0 0 1\n" for n, x in enumerate((0, 1, 3))))
    flown = path(Segment(mode="path", file=file, frames=(20, 40)))
    assert flown[[0, 20, 25, 30, 35, 40, 60], 0, 3] == pytest.approx([0, 0, 0.5, 1, 2, 3, 3])


@pytest.mark.parametrize(("frames", "length"), [(0, 36.0), (1, 36.0), (11, 1.0), (31, 9.0)])
def test_a_scenes_scale_is_of_its_first_frames(frames: int, length: float) -> None:
    """Faster and faster: the first ten steps are one long, all are 36. One place has no scale: it is that of all."""
    cameras = straight()
    cameras[:, 2, 3] = (np.arange(COUNT) / 10) ** 2
    followed = path(Segment(mode="follow", back=0.5, up=0.25, smooth=1, scale_frames=frames), cameras=cameras)
    if frames == 1:  # then it is that of the box of all that there is to see
        low, high = np.percentile(POINTS, (1, 99), axis=0)
        box = np.maximum(high, np.percentile(cameras[:, :3, 3], 99, axis=0)) - np.minimum(low, 0)
        length = float(np.linalg.norm(box))
    assert followed[20, :3, 3] == pytest.approx([0, -0.25 * length, 4 - 0.5 * length])


@pytest.mark.parametrize("smooth", [1, 2, 9])
def test_smoothing_is_a_mean_over_a_centred_window(smooth: int) -> None:
    """So many frames (an even number counts as the next odd one), fewer at both ends, so that nothing lags."""
    cameras = straight()
    cameras[:, 0, 3] = np.where(np.arange(COUNT) % 7 == 0, 7.0, 0.0)
    reach = np.minimum(np.minimum(np.arange(COUNT), np.arange(COUNT)[::-1]), smooth // 2)
    mean = [cameras[n - r : n + r + 1, :3, 3].mean(axis=0) for n, r in enumerate(reach)]
    eye = (0.0, -2.0, -5.0)
    turning = path(Segment(mode="pivot", eye=eye, smooth=smooth), cameras=cameras)
    followed = path(Segment(mode="follow", back=0, up=0, smooth=smooth), cameras=cameras)
    for n in (0, 1, 7, 30, 58, COUNT - 1):
        towards = mean[n] + [0, 0, 0.5] - eye  # half a unit ahead of the camera
        assert turning[n, :3, 2] == pytest.approx(towards / np.linalg.norm(towards))
        assert followed[n, :3, 3] == pytest.approx(mean[n])


def test_standing_and_turning_cameras() -> None:
    still = path(Segment(mode="static", eye=(1, -2, -3), look_at=(0, 0, 3)))
    assert (still == still[0]).all()
    assert still[0, :3, 3] == pytest.approx([1, -2, -3])
    assert path(Segment(mode="static"))[7] == pytest.approx(np.eye(4))
    aside = path(Segment(mode="static", eye=(5, -2, 0)))[7]  # as the first camera looks, from elsewhere
    assert (aside[:3, 3], aside[:3, :3]) == (pytest.approx([5, -2, 0]), pytest.approx(np.eye(3)))
    turning = path(Segment(mode="pivot", eye=(5, 0, 3), smooth=1))
    assert turning[:, :3, 3] == pytest.approx(np.tile([5, 0, 3], (COUNT, 1)))
    towards = np.array([0, 0, 0.5]) - [5, 0, 3]
    assert turning[0, :3, 2] == pytest.approx(towards / np.linalg.norm(towards))


def test_a_path_from_a_file_is_flown_over_its_segment(tmp_path: Path) -> None:
    file = tmp_path / "flight.tum"
    file.write_text("0 0 0 0 0 0 0 1\n1 0 -4 0 0 0.7071067811865476 0 0.7071067811865476\n")
    found = path(Segment(mode="path", file=file))
    assert found[30, :3, 3] == pytest.approx([0, -2, 0])
    assert Rotation.from_matrix(found[30, :3, :3]).as_euler("yxz", degrees=True) == pytest.approx([45, 0, 0])
    assert found[-1, :3, 3] == pytest.approx([0, -4, 0])


def test_between_two_poses_of_a_file_it_turns_from_the_one_to_the_other(tmp_path: Path) -> None:
    """It looks ahead from the first to the second, and turns by a right angle from the second to the third."""
    file = tmp_path / "flight.tum"
    file.write_text("0 0 0 0 0 0 0 1\n1 0 0 1 0 0 0 1\n2 0 0 2 0 0.7071067811865476 0 0.7071067811865476\n")
    found = path(Segment(mode="path", file=file))
    turned = Rotation.from_matrix(found[[0, 20, 30, 40, 60], :3, :3]).as_euler("yxz", degrees=True)
    assert turned == pytest.approx(np.array([[0, 0, 0], [0, 0, 0], [0, 0, 0], [30, 0, 0], [90, 0, 0]]), abs=1e-6)


def test_segments_follow_each_other_and_blend() -> None:
    first = Segment(mode="static", frames=(0, 29), eye=(0, 0, 0), look_at=(0, 0, 1))
    second = Segment(mode="static", frames=(30, -1), eye=(8, 0, 0), look_at=(8, 0, 1))
    found = path(first, second, transition=7)
    assert (found[:30, 0, 3] == 0).all()
    assert found[33, 0, 3] == pytest.approx(4)
    share = 2 / 8
    assert found[31, 0, 3] == pytest.approx(8 * (3 * share**2 - 2 * share**3))
    assert (found[37:, 0, 3] == 8).all()
    assert (path(first, second, transition=0)[30:, 0, 3] == 8).all()
    unsaid, said = path(first, second), path(first, second, transition=30)
    assert (unsaid == said).all()


def test_what_moved_before_a_change_goes_on_while_it_turns_into_the_next() -> None:
    """A camera that follows (a tenth a frame) and one that stands: half way it is between where both are by then."""
    followed = Segment(mode="follow", frames=(0, 29), back=0, up=0, smooth=1)
    still = Segment(mode="static", frames=(30, -1), eye=(8, 0, 0), look_at=(8, 0, 1))
    found = path(followed, still, transition=7)
    assert found[[29, 33, 37], :3, 3] == pytest.approx(np.array([[0, 0, 2.9], [4, 0, 1.65], [8, 0, 0]]))
    back = path(
        still.model_copy(update={"frames": (0, 29)}), followed.model_copy(update={"frames": (30, -1)}), transition=7
    )
    assert back[[29, 33, 37], :3, 3] == pytest.approx(np.array([[8, 0, 0], [4, 0, 1.65], [0, 0, 3.7]]))


def test_a_segment_shorter_than_the_transition_ends_with_it() -> None:
    eyes = [
        Segment(mode="static", frames=(10 * n, 10 * n + 9), eye=(8.0 * n, 0, 0), look_at=(8.0 * n, 0, 1))
        for n in range(3)
    ]
    found = path(*eyes, transition=30)[:, 0, 3]
    shares = np.arange(1, 11) / 11  # the whole of the middle segment
    assert found[10:20] == pytest.approx(8 * (3 * shares**2 - 2 * shares**3))
    # The last one has all of its frames for it: what is after its end is nearest to it.
    shares = np.arange(1, 31) / 31
    assert found[20:50] == pytest.approx(8 + 8 * (3 * shares**2 - 2 * shares**3))
    assert (found[50:] == 16).all()
    # One that is said to end after the stream ends with it.
    still = Segment(mode="static", eye=(0, 0, 0), look_at=(0, 0, 1))
    turning = [path(still, Segment(mode="orbit", frames=(30, last)), transition=0) for last in (COUNT - 1, 500, -1)]
    assert (turning[0] == turning[1]).all()
    assert (turning[0] == turning[2]).all()


def test_a_camera_that_stands_and_looks_down_keeps_the_heading_that_it_had() -> None:
    cameras = np.repeat(np.eye(4)[None], COUNT, axis=0)
    cameras[:, 2, 3] = np.minimum(np.arange(COUNT) / 10, 2)  # along z, where it looks, and then no further
    cameras[25:31, :3, :3] = Rotation.from_euler("x", -90, degrees=True).as_matrix()
    found = path(Segment(mode="follow", smooth=1, back=0.5, up=0.25), cameras=cameras)
    assert found[:, :3, 3] == pytest.approx(cameras[:, :3, 3] + [0, -0.5, -1])


def test_segments_outside_the_stream_and_settings_without_what_they_need_are_refused() -> None:
    for first, last in ((61, -1), (40, 20)):
        with pytest.raises(ConfigError, match=f"camera orbit: expected frames within 0 to 60, found {first} to {last}"):
            path(Segment(mode="orbit", frames=(first, last)))
    for wrong, words in (({"mode": "path"}, "needs file"), ({"mode": "pivot"}, "needs eye"), ({"turn": 2}, "'turns'")):
        with pytest.raises(ConfigError, match=words):
            validated(Segment, wrong, "segment")


@pytest.mark.parametrize("target", [(0, 0, 1), (0, -1, 0), (0, 1, 0), (1e-9, -1, 0), (0, 0, 0)])
def test_a_camera_is_a_rotation_wherever_it_looks(target: tuple[float, float, float]) -> None:
    found = look_from(np.zeros(3), np.array(target), UP)[:3, :3]
    assert found.T @ found == pytest.approx(np.eye(3), abs=1e-9)
    assert np.linalg.det(found) == pytest.approx(1)


def test_up_is_what_most_cameras_say() -> None:
    cameras = straight(5)
    cameras[0, :3, :3] = Rotation.from_euler("z", 180, degrees=True).as_matrix()
    assert world_up(cameras) == pytest.approx(UP)
    # A camera that is tilted about two axes: up is where its own y axis comes from, not a row of its rotation.
    cameras[:, :3, :3] = Rotation.from_euler("YX", [90, -30], degrees=True).as_matrix()
    assert world_up(cameras) == pytest.approx([0.5, -np.cos(np.radians(30)), 0])
    # Of cameras that lean to both sides it is still as long as any direction.
    cameras[:, :3, :3] = Rotation.from_euler("z", [[45], [-45], [45], [-45], [0]], degrees=True).as_matrix()
    assert world_up(cameras[:4]) == pytest.approx(UP)
    cameras = straight(5)
    cameras[0, :3, :3] = Rotation.from_euler("z", 180, degrees=True).as_matrix()
    # Of as many that stand on their heads the first one decides.
    assert world_up(cameras[:2]) == pytest.approx(-UP)
    assert world_up(cameras[1::-1]) == pytest.approx(UP)


def test_one_frame_has_a_path(tmp_path: Path) -> None:
    for mode in ("follow", "birdeye", "orbit", "static"):
        assert np.isfinite(path(validated(Segment, {"mode": mode}, "s"), cameras=straight(1))).all()
    # Of one place, and nothing else in the world, the scale is one.
    nothing = np.zeros((0, 3), np.float32)
    (alone,) = camera_path([Segment(back=0.5, up=0.25)], straight(1), nothing, angle=60, aspect=1)
    assert alone[:3, 3] == pytest.approx([0, -0.25, -0.5])
    (around,) = camera_path([Segment(mode="orbit", elevation=0)], straight(1), nothing, angle=90, aspect=1)
    assert (around[:3, 3], around[:3, 2]) == (pytest.approx([1.15, 0, 0]), pytest.approx([-1, 0, 0]))
    (above,) = camera_path([Segment(mode="birdeye")], straight(1), nothing, angle=90, aspect=1)
    assert above[:3, 2] == pytest.approx([0, 1, 0])
    file = tmp_path / "one.tum"
    file.write_text("0 1 2 3 0 0 0 1\n")
    flown = path(Segment(mode="path", file=file))
    assert (flown[:, :3, 3] == [1, 2, 3]).all()


def test_a_segment_of_which_nothing_is_said_follows_the_whole_stream() -> None:
    assert Segment().model_dump() == {
        "mode": "follow",
        "frames": (0, -1),
        "back": 0.4,
        "up": 0.1,
        "look": 0.4,
        "smooth": 40,
        "scale_frames": 100,
        "margin": 1.15,
        "turns": 1.0,
        "elevation": 35.0,
        "eye": None,
        "look_at": None,
        "file": None,
    }


SETTINGS: dict[str, tuple[str, object]] = {
    "frames": ("birdeye", (20, -1)),
    "back": ("follow", 0.9),
    "up": ("follow", 0.5),
    "look": ("follow", 1.2),
    "smooth": ("follow", 3),
    "scale_frames": ("follow", 10),
    "margin": ("orbit", 2.0),
    "turns": ("orbit", 0.5),
    "elevation": ("orbit", 60.0),
    "eye": ("static", (1.0, -2.0, -3.0)),
    "look_at": ("static", (4.0, 0.0, 2.0)),
    "file": ("path", None),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_of_a_segment_moves_the_camera(tmp_path: Path, name: str) -> None:
    mode, value = SETTINGS[name]
    cameras = straight()
    cameras[:, 0, 3] = np.sin(np.linspace(0, 6, COUNT))
    for number in (1, 2):
        rows = [f"{n} {number} 0 {n} 0 0 0 1" for n in range(4)]
        (tmp_path / f"{number}.txt").write_text("\n".join(rows))
    base: dict[str, object] = {"mode": mode}
    if mode == "static":
        base |= {"eye": (0.0, 0.0, -5.0), "look_at": (0.0, 0.0, 4.0)}
    if mode == "path":
        base["file"], value = str(tmp_path / "1.txt"), str(tmp_path / "2.txt")
    first = Segment(mode="static", eye=(9.0, 0, 0), look_at=(0.0, 0, 0))
    plain, changed = (validated(Segment, each, "segment") for each in (base, {**base, name: value}))
    one, other = (path(first, each, cameras=cameras, transition=1) for each in (plain, changed))
    assert np.abs(one - other).max() > 1e-3
    assert set(Segment.model_fields) == {*SETTINGS, "mode"}, "a setting is not asked for here"
