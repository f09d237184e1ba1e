"""Films of what a run kept: as long, as large and as full as they should be; refused in one line else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image as Pictures
from scipy.spatial import cKDTree

from lingbot_eval.errors import ConfigError, StoreError
from lingbot_eval.settings import validated
from lingbot_eval.types import Frame, Prediction
from lingbot_eval.viewing import film as film_module
from lingbot_eval.viewing.camera_paths import Segment, camera_path, look_from
from lingbot_eval.viewing.film import PRESETS, FilmSettings, Renderer, render_film, save_still, spacing
from lingbot_eval.viewing.kept import Keeper, KeepSettings, Reconstruction
from lingbot_eval.viewing.splats import View

K = np.array([[40.0, 0, 15.5], [0, 40.0, 11.5], [0, 0, 1]])
SMALL = {"size": (96, 64), "trail": False, "frustum": False, "tag": False, "eye_dome": 0}
FRAMES = 12


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Reconstruction:
    """Twelve frames sideways along a wall two units away, red at first, green in the end; depth of every third."""
    folder = tmp_path_factory.mktemp("kept")
    keeper = Keeper(KeepSettings(depth=3), folder.joinpath, FRAMES)
    rows = []
    for index in range(FRAMES):
        pose = np.eye(4)
        pose[0, 3] = 0.5 * index
        share = index / (FRAMES - 1)
        image = np.full((24, 32, 3), (255 * (1 - share), 255 * share, 0), np.uint8)
        depth = np.full((24, 32), 2.0, np.float32)
        keeper.add(
            Frame(index, index / 10, image, f"{index}.png"),
            Prediction(index, index / 10, camera_to_world=pose, depth=depth, intrinsics=K),
        )
        rows.append(f"{index / 10} {0.5 * index} 0 0 0 0 0 1\n")
    keeper.finish()
    (folder / "estimate.tum").write_text("".join(rows))
    return Reconstruction(folder, [file.name for file in folder.iterdir()])


def settings(**changes: object) -> FilmSettings:
    return validated(FilmSettings, {**SMALL, "camera": [{"mode": "birdeye"}], **changes}, "film")


def covered(image: np.ndarray) -> float:
    return float((image.reshape(-1, 3) != 0).any(axis=1).mean())


def test_a_film_is_as_long_and_large_as_it_says(kept: Reconstruction, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    seen: list[tuple[int, int]] = []
    wanted = settings(frames=(2, -1, 3), fps=10)
    render_film(kept, tmp_path / "film.mp4", wanted, on_frame=lambda number, total: seen.append((number, total)))
    with av.open(str(tmp_path / "film.mp4")) as film:
        stream = film.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
        assert (stream.codec_context.name, float(stream.average_rate)) == ("h264", 10)
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 4
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]
    render_film(kept, tmp_path / "SHORT.MP4", settings(frames=(0, 0, 1)))
    assert (tmp_path / "SHORT.MP4").stat().st_size > 0


def test_the_same_input_gives_the_same_film(kept: Reconstruction, tmp_path: Path) -> None:
    pytest.importorskip("av")
    for name in ("a.mp4", "b.mp4"):
        render_film(kept, tmp_path / name, settings(camera=[{"mode": "follow"}]))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_the_cloud_grows_with_the_stream(kept: Reconstruction) -> None:
    renderer = Renderer(kept, settings(camera=[{"mode": "static", "eye": [3, 0, -3], "look_at": [3, 0, 2]}]))
    pictures = [renderer.picture(position) for position in renderer.positions]
    shares = [covered(picture) for picture in pictures]
    assert shares == sorted(shares)
    assert shares[-1] > 3 * shares[0] > 0
    # The wall's start is at the left and red, its end at the right and green.
    columns = np.flatnonzero(pictures[-1].any(axis=(0, 2)))
    left, right = pictures[-1][:, columns[0]].max(axis=0), pictures[-1][:, columns[-1]].max(axis=0)
    assert left[0] > 200 > 60 > left[1]
    assert right[1] > 200 > 60 > right[0]
    assert not pictures[0][:, columns[-1]].any()


def test_what_a_frame_saw_is_in_its_own_picture(kept: Reconstruction) -> None:
    """Each frame sees a strip that no other has seen before it."""
    first_frame = Renderer(kept, settings(confidence=1.0))
    cloud = kept.cloud()
    assert cloud is not None
    seen = [first_frame.voxels_at(position) for position in first_frame.positions]
    assert seen == [int((cloud.first_frame <= index).sum()) for index in range(FRAMES)]
    assert 0 < seen[0] < seen[-1] == len(cloud)


def test_near_and_far_have_the_colours_of_their_labels(kept: Reconstruction, tmp_path: Path) -> None:
    """Depth beside the cloud: near is red, far is blue; the picture is the newest one up to the frame."""
    files = {file.name: file for file in kept.folder.iterdir()}
    for name, file in files.items():
        (tmp_path / name).write_bytes(file.read_bytes())
    keeper = Keeper(KeepSettings(depth=1, cloud=False), tmp_path.joinpath, 1)
    depth = np.full((24, 32), 1.0, np.float32)
    depth[:, 16:] = 9.0
    depth[:4, :8] = 0
    picture = np.full((24, 32, 3), 7, np.uint8)
    keeper.add(Frame(0, 0.0, picture, ""), Prediction(0, 0.0, np.eye(4), depth, intrinsics=K))
    keeper.finish()
    beside = Renderer(Reconstruction(tmp_path, list(files)), settings(beside=("depth",))).picture(0)[:, 96:]
    near, far = beside[32, 4].astype(int), beside[32, 27].astype(int)
    # The ends of turbo.
    np.testing.assert_allclose(near, (122, 4, 3), atol=8)
    np.testing.assert_allclose(far, (48, 18, 59), atol=8)
    assert (beside[20 + 1, 4] == 0).all()  # where there is no depth, below twenty rows of nothing
    assert (beside[20 + 1, 12] != 0).any()
    images = Renderer(kept, settings(beside=("image",)))
    greens = [int(images.picture(position)[32, 112, 1]) for position in (0, 5, 11)]
    assert greens[0] < 30
    assert greens[1] == pytest.approx(255 * 5 / 11, abs=12)
    assert greens[2] > 225


def test_what_goes_over_the_picture_can_be_left_out(kept: Reconstruction) -> None:
    plain = Renderer(kept, settings()).picture(8)
    for name in ("trail", "frustum", "tag"):
        image = Renderer(kept, settings(**{name: True})).picture(8)
        assert (image != plain).any(), name
    tagged = Renderer(kept, settings(tag=True)).picture(8)
    rows, columns = np.nonzero((tagged != plain).any(axis=2))
    assert rows.max() < 32
    assert columns.max() < 96


def test_a_film_of_which_nothing_is_said_and_those_with_names() -> None:
    plain = {
        "size": (1280, 720),
        "fps": 30,
        "angle": 60.0,
        "frames": (0, -1, 1),
        "camera": (Segment(),),
        "transition": 30,
        "background": (0, 0, 0),
        "eye_dome": 0.1,
        "point_scale": 1.0,
        "near": None,
        "far": None,
        "confidence": 0.7,
        "trail": True,
        "frustum": True,
        "tag": True,
        "beside": (),
    }
    grey = (43, 43, 43)
    outdoor = Segment(back=0.2, up=0.05, look=0.5, smooth=60), Segment(mode="birdeye", frames=(3000, -1))
    assert {name: dict(preset) for name, preset in PRESETS.items()} == {
        "default": plain,
        "indoor": {**plain, "camera": (Segment(mode="birdeye"),), "background": grey},
        "outdoor": {**plain, "camera": outdoor, "transition": 40, "background": grey, "point_scale": 0.7},
    }


def test_what_is_drawn_begins_at_a_fiftieth_of_the_scene_and_the_view_has_the_pictures_sides(
    kept: Reconstruction,
) -> None:
    cloud, poses = kept.cloud(), kept.poses
    assert cloud is not None
    assert poses is not None
    shown = cloud.positions[cloud.confident()]
    low, high = np.percentile(shown.astype(np.float64), (1, 99), axis=0)
    plain, all_of_it = Renderer(kept, settings()), Renderer(kept, settings(near=0.0))
    assert (plain._style.near, plain._style.far) == (pytest.approx(0.02 * np.linalg.norm(high - low)), np.inf)
    assert all_of_it._style.near == 0
    above = camera_path([Segment(mode="birdeye")], poses.camera_to_world, shown, angle=60.0, aspect=96 / 64)
    np.testing.assert_allclose(plain._path, above)


def test_a_later_segment_of_a_longer_stream_is_left_out_and_one_alone_is_refused(kept: Reconstruction) -> None:
    late = {"mode": "birdeye", "frames": (FRAMES, -1)}
    one, other = (Renderer(kept, settings(camera=camera)) for camera in ([STANDING, late], [STANDING]))
    np.testing.assert_array_equal(one._path, other._path)
    with pytest.raises(ConfigError, match="camera birdeye: expected frames within 0 to 11, found 12 to -1"):
        Renderer(kept, settings(camera=[late]))


def lines_drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[tuple[float, float]], tuple[int, ...]]]:
    """Ends and colour of each line that is drawn from now on."""
    drawn: list[tuple[list[tuple[float, float]], tuple[int, ...]]] = []
    monkeypatch.setattr("PIL.ImageDraw.ImageDraw.line", lambda _, ends, fill, width: drawn.append((ends, fill)))
    return drawn


def test_the_trail_is_of_the_last_poses_in_the_colours_of_their_place(
    kept: Reconstruction, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = lines_drawn(monkeypatch)
    renderer = Renderer(kept, settings(camera=[STANDING], trail=True))
    view = View.of_angle(look_from(np.array([3.0, 0, -3]), np.array([3.0, 0, 2]), np.array([0, -1.0, 0])), 60, 96, 64)
    pixels, _ = view.project(np.array([[0.5 * index, 0, 0] for index in range(FRAMES)]))
    assert film_module._TAIL == 50
    for longest, first in ((50, 0), (3, 5)):
        monkeypatch.setattr(film_module, "_TAIL", longest)
        drawn.clear()
        renderer.picture(8)
        assert np.array([ends for ends, _ in drawn]) == pytest.approx(
            np.stack([pixels[first:8], pixels[first + 1 : 9]], 1)
        )
        turbo = [colormaps["turbo"](number / (FRAMES - 1), bytes=True)[:3] for number in range(first, 8)]
        assert np.array([colour for _, colour in drawn]) == pytest.approx(np.array(turbo), abs=1)


def test_the_frustum_has_the_angles_of_the_camera(kept: Reconstruction, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = lines_drawn(monkeypatch)
    renderer = Renderer(kept, settings(camera=[STANDING], frustum=True))
    assert renderer._cameras is not None
    matrices = renderer._cameras.intrinsics.copy()
    matrices[8, 1, 1] = 20
    renderer._cameras = replace(renderer._cameras, intrinsics=matrices)
    renderer.picture(8)
    # Half of 32 pixels by 40 across, half of 24 by 20 down; a twentieth of the distance between the cameras deep.
    size = 0.05 * np.hypot(3 - 4, 3)
    corners = size * np.array([[x, y, 1] for x, y in ((-0.4, -0.6), (0.4, -0.6), (0.4, 0.6), (-0.4, 0.6))]) + [4, 0, 0]
    view = View.of_angle(look_from(np.array([3.0, 0, -3]), np.array([3.0, 0, 2]), np.array([0, -1.0, 0])), 60, 96, 64)
    pixels, _ = view.project(np.vstack([[4, 0, 0], corners]))
    found = {tuple(np.round(np.sort(np.array(ends), axis=0).ravel(), 6)) for ends, _ in drawn}
    pairs = [(0, n) for n in (1, 2, 3, 4)] + [(1, 2), (2, 3), (3, 4), (4, 1)]
    assert found == {tuple(np.round(np.sort(pixels[list(pair)], axis=0).ravel(), 6)) for pair in pairs}


def test_a_frame_without_a_pose_is_no_position_and_the_others_keep_their_numbers(
    kept: Reconstruction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in kept.folder.iterdir():
        lines = file.read_text().splitlines(keepends=True) if file.suffix == ".tum" else []
        (tmp_path / file.name).write_bytes("".join(lines[:4] + lines[5:]).encode() if lines else file.read_bytes())
    renderer = Renderer(Reconstruction(tmp_path, [file.name for file in tmp_path.iterdir()]), settings(tag=True))
    assert [renderer.position_of(frame) for frame in (3, 5, 11, -1)] == [3, 4, 10, 10]
    with pytest.raises(ConfigError, match="a frame with a pose within 0 to 11, found 4"):
        renderer.position_of(4)
    said: list[str] = []
    monkeypatch.setattr("PIL.ImageDraw.ImageDraw.text", lambda self, at, text, *_, **__: said.append(text))
    renderer.picture(4)
    assert said == ["6 / 12 frames"]


def test_the_tag_counts_frames_from_one(kept: Reconstruction, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("PIL.ImageDraw.ImageDraw.text", lambda self, at, text, *_, **__: said.append(text))
    renderer = Renderer(kept, settings(tag=True))
    for position in (0, 7, FRAMES - 1):
        renderer.picture(position)
    assert said == ["1 / 12 frames", "8 / 12 frames", "12 / 12 frames"]


def test_pictures_beside_the_cloud(kept: Reconstruction) -> None:
    renderer = Renderer(kept, settings(beside=("image", "depth")))
    image = renderer.picture(FRAMES - 1)
    assert image.shape == (64, 96 + 32, 3) == (renderer.size[1], renderer.size[0], 3)
    top, bottom = image[16, 112].astype(int), image[48, 112].astype(int)
    assert top[1] > 200 > 60 > top[0]  # the last thumbnail is green
    assert bottom.sum() > 100


def test_presets_draw_short_streams(kept: Reconstruction) -> None:
    for name, preset in PRESETS.items():
        assert Renderer(kept, preset.model_copy(update={"size": (96, 64)})).picture(FRAMES - 1).any(), name


def test_a_still_is_the_picture(kept: Reconstruction, tmp_path: Path) -> None:
    image = Renderer(kept, settings()).picture(3)
    save_still(image, tmp_path / "still.png")
    with Pictures.open(tmp_path / "still.png") as found:
        assert np.array_equal(np.asarray(found), image)


def test_a_still_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "still.png").write_bytes(b"old")
    monkeypatch.setattr(Pictures.Image, "save", full)
    with pytest.raises(StoreError, match="No space left on device"):
        save_still(np.zeros((4, 4, 3), np.uint8), tmp_path / "still.png")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("still.png", b"old")]


def test_frames_and_positions(kept: Reconstruction) -> None:
    renderer = Renderer(kept, settings(frames=(3, 7, 2)))
    assert list(renderer.positions) == [3, 5, 7]
    assert (renderer.position_of(-1), renderer.position_of(4)) == (FRAMES - 1, 4)
    for frames, expected in (
        ((0, -1, 1), range(12)),
        ((0, 11, 1), range(12)),
        ((0, 5, 1), range(6)),
        ((4, 50, 3), (4, 7, 10)),
        ((11, 11, 1), (11,)),
    ):
        assert list(Renderer(kept, settings(frames=frames)).positions) == list(expected)
    with pytest.raises(ConfigError, match="a frame with a pose within 0 to 11, found 12"):
        renderer.position_of(12)
    with pytest.raises(ConfigError, match="expected some within 0 to 11, found 12"):
        _ = Renderer(kept, settings(frames=(12, -1, 1))).positions


@pytest.mark.parametrize(
    ("without", "words"),
    [
        ("estimate.tum", "expected poses with orientations to film, found none"),
        ("cloud.npz", "expected a cloud, found none"),
        ("thumbnails.npz", "beside: expected pictures in .*found none; see keep.cloud"),
        ("depth-", "beside: expected depth in .*found none; see keep.depth"),
    ],
)
def test_what_was_not_kept_is_said(kept: Reconstruction, tmp_path: Path, without: str, words: str) -> None:
    files = [file.name for file in kept.folder.iterdir() if not file.name.startswith(without)]
    with pytest.raises(ConfigError, match=words):
        render_film(
            Reconstruction(kept.folder, files), tmp_path / "films" / "a.mp4", settings(beside=("image", "depth"))
        )
    assert not list(tmp_path.iterdir())


def test_nothing_is_half_written(kept: Reconstruction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Renderer, position: int) -> np.ndarray:
        if position == 5:
            raise StoreError("no space left on the device")
        return np.zeros((64, 96, 3), np.uint8)

    monkeypatch.setattr(Renderer, "picture", full)
    with pytest.raises(StoreError, match="no space"):
        render_film(kept, tmp_path / "film.mp4", settings())
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"a name that ends with \.mp4, found .*film\.gif"):
        render_film(kept, tmp_path / "film.gif", settings())


@pytest.mark.parametrize(
    "wrong",
    [{"size": (95, 64)}, {"size": (96, 32)}, {"camera": []}, {"background": (1, 2)}, {"fps": 0}, {"confidence": 0}],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        settings(**wrong)


STANDING = {"mode": "static", "eye": [3, 0, -3], "look_at": [3, 0, 2]}
LOOK: dict[str, object] = {
    "size": (128, 64),
    "angle": 80.0,
    "camera": [{"mode": "orbit"}],
    "transition": 2,
    "background": (9, 8, 7),
    "eye_dome": 5.0,
    "point_scale": 4.0,
    "near": 5.5,
    "far": 4.0,
    "confidence": 0.2,
    "trail": True,
    "frustum": True,
    "tag": True,
    "beside": ["image"],
}


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Reconstruction:
    """The same way along a wall with a step, whose points are sure or unsure."""
    folder = tmp_path_factory.mktemp("uneven")
    keeper = Keeper(KeepSettings(), folder.joinpath, FRAMES)
    rng = np.random.default_rng(0)
    for index in range(FRAMES):
        pose = np.eye(4)
        pose[0, 3] = 0.5 * index
        image = rng.integers(50, 255, (24, 32, 3)).astype(np.uint8)
        depth = np.where(np.arange(24)[:, None] < 12, 2.0, 3.0) * np.ones((24, 32))
        sure = rng.uniform(1, 5, (24, 32)).astype(np.float32)
        prediction = Prediction(index, index / 10, pose, depth.astype(np.float32), sure, K)
        keeper.add(Frame(index, index / 10, image, f"{index}.png"), prediction)
    keeper.finish()
    (folder / "estimate.tum").write_text("".join(f"{n / 10} {0.5 * n} 0 0 0 0 0 1\n" for n in range(FRAMES)))
    return Reconstruction(folder, [file.name for file in folder.iterdir()])


@pytest.mark.parametrize("name", LOOK)
def test_every_setting_changes_the_picture(uneven: Reconstruction, name: str) -> None:
    segments = [STANDING, {"mode": "birdeye", "frames": (6, -1)}] if name == "transition" else [STANDING]
    plain = settings(camera=segments, confidence=0.9)
    changed = settings(**{"camera": segments, "confidence": 0.9, name: LOOK[name]})
    one, other = (Renderer(uneven, each).picture(7) for each in (plain, changed))
    assert one.shape != other.shape or (one != other).any()


def test_every_setting_of_a_film_is_here() -> None:
    assert set(FilmSettings.model_fields) == {*LOOK, "fps", "frames"}  # both of which a film as a whole shows


@pytest.mark.parametrize("count", [2, 3, 40, 7001])
def test_the_spacing_is_that_of_a_search_through_all_pairs(count: int) -> None:
    rng = np.random.default_rng(count)
    positions = np.concatenate([rng.normal(size=(count - 1, 3)), [[900.0, 0, 0]]]).astype(np.float32)
    asked = positions[:: -(-count // 5000)].astype(np.float64)
    distances, _ = cKDTree(positions.astype(np.float64)).query(asked, k=[2])
    for voxel in (1e-3, 0.3):
        assert spacing(positions, voxel) == pytest.approx(2 * np.median(distances), rel=1e-12)
    assert spacing(positions[:1], 0.1) == 0
