"""Exports read back by other people's readers: plyfile, trimesh, pycolmap, evo, OpenCV, json."""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pictures
from scipy.spatial.transform import Rotation

from lingbot_eval.errors import ConfigError, DataError, DependencyError, StoreError
from lingbot_eval.files.trajectories import TrajectoryFile, write_tum
from lingbot_eval.types import Frame, FrameType, Image, Prediction, Trajectory
from lingbot_eval.viewing import export as export_module
from lingbot_eval.viewing.cloud import VoxelCloud
from lingbot_eval.viewing.export import FORMATS, known_formats, write_formats
from lingbot_eval.viewing.kept import DepthFrame, Keeper, KeepSettings, Reconstruction
from lingbot_eval.viewing.scaled import ScaledScene, make_scaled

WIDTH, HEIGHT, FRAMES = 48, 36, 12
K = np.array([[40.0, 0, 23.5], [0, 42.0, 17.5], [0, 0, 1]])
FACTOR = 2.5


def pose_at(index: int) -> np.ndarray:
    angle = 0.02 * index
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    pose[:3, 3] = [0.1 * index, 0.02 * index**1.5, 0.05 * np.sin(index)]
    return pose


def picture(index: int) -> Image:
    return np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def depth_of(pose: np.ndarray) -> np.ndarray:
    """Of the wall z = 4 in the world, with a hole."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    rays = np.stack([(columns - 23.5) / 40, (rows - 17.5) / 42, np.ones_like(rows)], axis=-1) @ pose[:3, :3].T
    depth = (4 - pose[2, 3]) / rays[..., 2]
    depth[:3, :3] = 0
    return depth.astype(np.float32)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Reconstruction:
    folder = tmp_path_factory.mktemp("unit")
    keeper = Keeper(KeepSettings(depth=3), folder.joinpath, FRAMES)
    poses = np.stack([pose_at(index) for index in range(FRAMES)])
    times = np.arange(FRAMES) / 10
    for index in range(FRAMES):
        confidence = np.full((HEIGHT, WIDTH), 1.0 + index, np.float32)
        depth = depth_of(poses[index])
        keeper.add(
            Frame(index, times[index], picture(index), ""),
            Prediction(index, times[index], poses[index], depth, confidence, K, frame_type=FrameType.KEPT),
        )
    assert keeper.finish() == ()
    write_tum(folder / "estimate.tum", Trajectory(np.arange(FRAMES), times, poses))
    truth = poses.copy()
    truth[:, :3, 3] *= FACTOR
    write_tum(folder / "reference.tum", Trajectory(np.arange(FRAMES), times, truth))
    return Reconstruction(folder, [file.name for file in folder.iterdir()])


def images() -> Iterator[tuple[int, Image]]:
    return ((index, picture(index)) for index in range(FRAMES))


@pytest.fixture
def scene(kept: Reconstruction) -> ScaledScene:
    return make_scaled(kept, "made/up/one", images=images)


@pytest.fixture
def metric(kept: Reconstruction) -> ScaledScene:
    return make_scaled(kept, "made/up/one", scale="truth", images=images, share=1.0)


def written(scene: ScaledScene, folder: Path, *formats: str) -> Path:
    for error in write_formats(scene, folder, formats, lambda name: None).values():
        raise error
    return folder


def test_ply_is_what_plyfile_reads(scene: ScaledScene, metric: ScaledScene, tmp_path: Path) -> None:
    plyfile = pytest.importorskip("plyfile")
    read = plyfile.PlyData.read(written(scene, tmp_path, "ply") / "cloud.ply")
    points = read["vertex"]
    positions, colours, confidence, first_frame = scene.points()
    np.testing.assert_array_equal(np.stack([points[axis] for axis in "xyz"], axis=1), positions)
    np.testing.assert_array_equal(np.stack([points[c] for c in ("red", "green", "blue")], axis=1), colours)
    np.testing.assert_array_equal(points["confidence"], confidence)
    np.testing.assert_array_equal(points["first_frame"], first_frame)
    np.testing.assert_allclose(points["z"], 4, atol=1e-4)
    # Seven tenths of the voxels and those as confident as the last of them.
    assert len(positions) / len(scene.cloud) == pytest.approx(0.7, abs=0.06)  # type: ignore[arg-type]
    assert "unit: unitless" in read.comments
    assert "handedness: right" in read.comments
    assert any(line.startswith("confidence: the 70 % of the run's voxels") for line in read.comments)
    scaled = plyfile.PlyData.read(written(metric, tmp_path / "m", "ply") / "cloud.ply")
    np.testing.assert_allclose(scaled["vertex"]["z"], 4 * FACTOR, atol=1e-3)
    assert "unit: metre" in scaled.comments
    assert len(scaled["vertex"]) == len(metric.cloud)  # type: ignore[arg-type]


def test_glb_is_what_trimesh_reads_with_y_up(scene: ScaledScene, tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    file = written(scene, tmp_path, "glb") / "cloud.glb"
    (points,) = trimesh.load(file).geometry.values()
    positions, colours, _, _ = scene.points()
    np.testing.assert_allclose(points.vertices, positions * [1, -1, -1], atol=1e-6)
    np.testing.assert_array_equal(np.asarray(points.colors)[:, :3], colours)
    content = file.read_bytes()
    length = struct.unpack("<I", content[12:16])[0]
    facts = json.loads(content[20 : 20 + length])["asset"]["extras"]
    assert facts["axes"].startswith("world: x right, y up, z backward")
    assert facts["unit"] == "unitless"


@pytest.mark.parametrize("name", ["colmap", "colmap-binary"])
def test_colmap_models_pass_pycolmap(metric: ScaledScene, tmp_path: Path, name: str) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    cv2 = pytest.importorskip("cv2")
    home = written(metric, tmp_path, name) / name.replace("-", "_")
    model = pycolmap.Reconstruction(home / "sparse" / "0")
    assert len(model.images) == len(model.cameras) == FRAMES
    assert {len(point.track.elements) for point in model.points3D.values()} <= set(range(2, 10))
    assert len(model.points3D) > 500
    centres = np.stack([model.images[number].projection_center() for number in sorted(model.images)])
    np.testing.assert_allclose(centres, metric.poses.positions, atol=1e-9)
    # A track names the places of its point among those of each image.
    ids = {number: [seen.point3D_id for seen in view.points2D] for number, view in model.images.items()}
    for number, point in list(model.points3D.items())[::10]:
        assert {ids[seen.image_id][seen.point2D_idx] for seen in point.track.elements} == {number}
    worst = 0.0
    for view in model.images.values():
        camera = model.cameras[view.camera_id]
        assert (camera.model.name, camera.width, camera.height) == ("PINHOLE", WIDTH, HEIGHT)
        assert camera.params.tolist() == [40.0, 42.0, 24.0, 18.0]
        assert view.num_points3D > 0
        for seen in view.points2D:
            point = model.points3D[seen.point3D_id].xyz
            found = view.project_point(point)
            worst = max(worst, float(np.abs(found - seen.xy).max()))
            assert point[2] == pytest.approx(4 * FACTOR, abs=1e-3)
    assert worst < 2e-3
    # The images are those that were streamed.
    image = cv2.imread(str(home / "images" / model.images[5].name))
    np.testing.assert_array_equal(image[:, :, ::-1], picture(4))
    facts = json.loads((home / "conventions.json").read_text())
    assert (facts["unit"], facts["pixels"]) == ("metre", "centre of the first at (0.5, 0.5)")


def test_colmap_text_has_an_even_number_of_lines(scene: ScaledScene, tmp_path: Path) -> None:
    lines = (written(scene, tmp_path, "colmap") / "colmap/sparse/0/images.txt").read_text().splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert len(comments) % 2 == 0
    assert len(lines) - len(comments) == 2 * FRAMES
    assert "# unit: unitless" in comments


def test_what_hides_a_point_is_no_observation(kept: Reconstruction, tmp_path: Path) -> None:
    scene = make_scaled(kept, "made/up/one")
    assert scene.cloud is not None
    behind = np.array([[0.3, 0, 9], [0.4, 0.1, 9], [0.5, 0.2, 9]], np.float32)
    behind = np.concatenate([behind, -behind])  # the wall, and all cameras
    scene.cloud.add(behind, np.zeros((6, 3), np.uint8), np.full(6, 99, np.float32), FRAMES)
    for depth in (scene.depth_indices, ()):
        seen = dataclasses.replace(scene, depth_indices=depth)
        home = written(seen, tmp_path / str(len(depth)), "colmap") / "colmap/sparse/0"
        points = [line.split() for line in (home / "points3D.txt").read_text().splitlines() if line[0] != "#"]
        assert all(float(point[3]) == pytest.approx(4, abs=1e-3) for point in points)


def test_kept_depth_hides_what_the_cloud_alone_would_show(kept: Reconstruction, tmp_path: Path) -> None:
    """Of a cloud that lacks the wall: frames whose depth was kept see nothing behind it, the others all."""
    scene = make_scaled(kept, "made/up/one")
    behind = VoxelCloud(1000, 0.01)
    behind.add(
        np.array([[0.3, 0, 9], [0.4, 0.1, 9]], np.float32), np.zeros((2, 3), np.uint8), np.full(2, 9, np.float32), 0
    )
    for name in ("colmap", "colmap-binary"):
        home = written(replace(scene, cloud=behind), tmp_path, name) / name.replace("-", "_")
        pycolmap = pytest.importorskip("pycolmap")
        views = pycolmap.Reconstruction(home / "sparse" / "0").images.values()
        seeing = {view.name for view in views if view.num_points3D}
        assert seeing == {f"{index:06d}.png" for index in range(FRAMES) if index % 3}


def test_transforms_give_the_wall_back(metric: ScaledScene, tmp_path: Path) -> None:
    plyfile = pytest.importorskip("plyfile")
    home = written(metric, tmp_path, "nerfstudio") / "nerfstudio"
    document = json.loads((home / "transforms.json").read_text())
    points = plyfile.PlyData.read(home / document["ply_file_path"])["vertex"]
    cloud = np.stack([points[axis] for axis in "xyz"], axis=1)
    assert document["conventions"]["axes"].startswith("camera: x right, y up, z backward (OpenGL)")
    assert len(document["frames"]) == FRAMES
    for index, frame in enumerate(document["frames"]):
        assert frame["file_path"] == f"images/{index:06d}.png"
        assert (home / frame["file_path"]).is_file()
        camera = [frame[name] for name in ("w", "h", "fl_x", "fl_y", "cx", "cy")]
        assert camera == [WIDTH, HEIGHT, 40.0, 42.0, 24.0, 18.0]
        pose = pose_at(index) @ np.diag([1, -1, -1, 1])
        pose[:3, 3] *= FACTOR
        np.testing.assert_allclose(frame["transform_matrix"], pose, atol=1e-6)
        matrix = np.array(frame["transform_matrix"])
        # As nerfstudio makes rays: the camera looks along -z, pixel (0.5, 0.5) is the centre of the first.
        inside = (cloud - matrix[:3, 3]) @ matrix[:3, :3]
        column = frame["fl_x"] * inside[:, 0] / -inside[:, 2] + frame["cx"]
        row = -frame["fl_y"] * inside[:, 1] / -inside[:, 2] + frame["cy"]
        assert (inside[:, 2] < 0).all()
        if index == 0:  # its own points are at pixels' centres
            own = points["first_frame"] == 0
            # (but for voxels that hold points of later frames as well).
            assert np.median(np.abs(column[own] % 1 - 0.5)) < 1e-3
            assert np.median(np.abs(row[own] % 1 - 0.5)) < 1e-3


def test_trajectories_are_what_evo_reads(metric: ScaledScene, tmp_path: Path) -> None:
    file_interface = pytest.importorskip("evo.tools.file_interface")
    home = written(metric, tmp_path, "tum", "kitti", "euroc")
    for found in (
        file_interface.read_tum_trajectory_file(home / "trajectory.tum"),
        file_interface.read_euroc_csv_trajectory(home / "trajectory_euroc.csv"),
        file_interface.read_kitti_poses_file(home / "trajectory_kitti.txt"),
    ):
        np.testing.assert_allclose(np.stack(found.poses_se3), metric.poses.camera_to_world, atol=1e-12)
    tum = (home / "trajectory.tum").read_text()
    assert "# unit: metre" in tum
    assert f"Sim(3) of the estimate onto the truth, {FRAMES} frames" in tum
    assert "#handedness: right" in (home / "trajectory_euroc.csv").read_text()
    frames = [line for line in (home / "trajectory_kitti_frames.txt").read_text().splitlines() if line[0] != "#"]
    assert frames[3] == "3 0.3"


def test_text_formats_number_by_number(tmp_path: Path) -> None:
    """One pose of which every component is another number, read by nobody's reader."""
    turn, centre = Rotation.from_quat([0.1, -0.3, 0.5, 0.8]), np.array([1.5, -2.25, 3.125])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn.as_matrix(), centre
    poses = Trajectory(np.array([7]), np.array([12.5]), pose[None])
    x, y, z, w = turn.as_quat()
    home = written(ScaledScene("made/up", poses), tmp_path, "tum", "euroc", "kitti")

    def row(name: str, comma: str | None = None) -> list[float]:
        (line,) = [line for line in (home / name).read_text().splitlines() if not line.startswith("#")]
        return [float(word) for word in line.split(comma)]

    assert row("trajectory.tum") == pytest.approx([12.5, *centre, x, y, z, w])
    assert row("trajectory_euroc.csv", ",") == pytest.approx([12.5e9, *centre, w, x, y, z])
    header = (home / "trajectory_euroc.csv").read_text().splitlines()[-2]
    assert header == "#timestamp [ns], p_x, p_y, p_z, q_w, q_x, q_y, q_z"
    assert row("trajectory_kitti.txt") == pytest.approx(pose[:3].ravel())
    assert row("trajectory_kitti_frames.txt") == [7, 12.5]


def test_nanoseconds_are_those_nearest_to_the_time(tmp_path: Path) -> None:
    """Which is no whole number of them as a float: 4.1 s are a little less than 4,100,000,000."""
    times = np.array([0.0, 0.29, 4.1, 1403636579.7635555])
    poses = Trajectory(np.arange(4), times, np.tile(np.eye(4), (4, 1, 1)))
    lines = (written(ScaledScene("made/up", poses), tmp_path, "euroc") / "trajectory_euroc.csv").read_text().split("\n")
    said = [int(line.split(",")[0]) for line in lines if line and not line.startswith("#")]
    assert said[:3] == [0, 290_000_000, 4_100_000_000]
    assert said[3] == pytest.approx(1403636579763555500, abs=300)


def test_a_lost_pose_is_in_neither_of_kittis_files(scene: ScaledScene, tmp_path: Path) -> None:
    poses = scene.poses.camera_to_world.copy()
    poses[2] = np.nan
    lost = replace(scene, poses=replace(scene.poses, camera_to_world=poses))
    folder = written(lost, tmp_path / "out", "kitti")
    rows = (folder / "trajectory_kitti.txt").read_text().splitlines()
    frames = (folder / "trajectory_kitti_frames.txt").read_text().splitlines()
    numbers = [int(line.split()[0]) for line in frames if not line.startswith("#")]
    assert numbers == [index for index in range(FRAMES) if index != 2]
    assert len(rows) == len(numbers)


def test_a_lost_pose_is_no_camera_of_a_model(scene: ScaledScene, tmp_path: Path) -> None:
    poses = scene.poses.camera_to_world.copy()
    poses[3] = np.nan
    lost = replace(scene, poses=replace(scene.poses, camera_to_world=poses), images=None)
    home = written(lost, tmp_path, "nerfstudio", "colmap")
    names = [f"{index:06d}.png" for index in range(FRAMES) if index != 3]
    frames = json.loads((home / "nerfstudio" / "transforms.json").read_text())["frames"]
    assert [frame["file_path"] for frame in frames] == [f"images/{name}" for name in names]
    lines = (home / "colmap/sparse/0/images.txt").read_text().splitlines()
    assert [line.split()[-1] for line in lines if line.endswith(".png")] == names


def test_a_frame_without_intrinsics_is_no_camera_of_a_model(scene: ScaledScene, tmp_path: Path) -> None:
    there = [index for index in range(FRAMES) if index != 4]
    assert scene.cameras is not None
    fields = dataclasses.fields(scene.cameras)
    cameras = type(scene.cameras)(**{field.name: getattr(scene.cameras, field.name)[there] for field in fields})
    home = written(replace(scene, cameras=cameras), tmp_path, "nerfstudio", "colmap")
    names = [f"{index:06d}.png" for index in there]
    frames = json.loads((home / "nerfstudio" / "transforms.json").read_text())["frames"]
    assert [frame["file_path"] for frame in frames] == [f"images/{name}" for name in names]
    lines = (home / "colmap/sparse/0/images.txt").read_text().splitlines()
    assert [line.split()[-1] for line in lines if line.endswith(".png")] == names
    for format in ("nerfstudio", "colmap"):
        assert sorted(file.name for file in (home / format / "images").iterdir()) == names


def test_points_of_a_colmap_model_are_as_many_as_it_may_have_and_of_all_frames(
    scene: ScaledScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lingbot_eval.viewing.export_colmap.MAX_POINTS", 200)
    home = written(scene, tmp_path, "colmap") / "colmap/sparse/0"
    found = [line.split() for line in (home / "points3D.txt").read_text().splitlines() if line[0] != "#"]
    assert 150 < len(found) <= 200
    positions, _, _, first_frame = scene.points()
    of = {tuple(map(float, point)): int(frame) for point, frame in zip(positions, first_frame, strict=True)}
    frames = [of[float(x), float(y), float(z)] for _, x, y, z, *_ in found]
    share = np.mean(np.array(frames) > np.median(first_frame))
    assert share == pytest.approx(np.mean(first_frame > np.median(first_frame)), abs=0.15)


def test_a_point_of_a_colmap_model_is_seen_by_no_more_images_than_it_may(
    scene: ScaledScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lingbot_eval.viewing.export_colmap.LONGEST_TRACK", 3)
    monkeypatch.setattr("lingbot_eval.viewing.export_colmap.LEAST_OBSERVATIONS", 0)
    home = written(scene, tmp_path, "colmap") / "colmap/sparse/0"
    found = [line.split() for line in (home / "points3D.txt").read_text().splitlines() if line[0] != "#"]
    assert {len(row[8:]) // 2 for row in found} == {2, 3}


def test_one_image_alone_makes_a_model(scene: ScaledScene, tmp_path: Path) -> None:
    first = replace(scene.poses, indices=np.arange(1), timestamps=np.zeros(1), camera_to_world=np.eye(4)[None])
    home = written(replace(scene, poses=first), tmp_path, "colmap") / "colmap/sparse/0"
    points = [line for line in (home / "points3D.txt").read_text().splitlines() if line[0] != "#"]
    assert len(points) > 100


@pytest.mark.parametrize("none", [0.0, -1.0, np.nan, np.inf])
def test_depth_that_is_none_is_nought_in_every_file(scene: ScaledScene, tmp_path: Path, none: float) -> None:
    def depth_frame(index: int) -> DepthFrame:
        return replace(kept_depth(scene, index), depth=np.array([[none, none], [none, 4.0 if index else none]], "f4"))

    holes = replace(scene, depth_frame=depth_frame)
    home = written(holes, tmp_path, "depth-png", "depth-exr")
    for index in (0, 3):
        with Pictures.open(home / "depth_png" / f"{index:06d}.png") as picture:
            assert np.asarray(picture).tolist() == [[0, 0], [0, 40_000 if index else 0]]
        content = (home / "depth_exr" / f"{index:06d}.exr").read_bytes()
        # Two lines of two numbers, each line behind its row and its size; before them where in the file each begins.
        assert struct.unpack("<2Q", content[-48:-32]) == (len(content) - 32, len(content) - 16)
        assert struct.unpack("<2i2f2i2f", content[-32:]) == (0, 8, 0, 0, 1, 8, 0, 4 if index else 0)
    empty = written(replace(holes, depth_indices=(0,)), tmp_path / "empty", "depth-png") / "depth_png"
    assert json.loads((empty / "depth.json").read_text())["factor"] == 1.0


def test_a_title_of_several_lines_is_one_comment(kept: Reconstruction, tmp_path: Path) -> None:
    scene = make_scaled(kept, "a scene\nelement vertex 9")
    home = written(scene, tmp_path, "ply", "tum", "euroc")
    head = (home / "cloud.ply").read_bytes().partition(b"end_header")[0].decode().splitlines()
    assert "comment scene: a scene?element vertex 9" in head
    assert "element vertex 9" not in head
    for name, mark in (("trajectory.tum", "# "), ("trajectory_euroc.csv", "#")):
        assert f"{mark}scene: a scene?element vertex 9" in (home / name).read_text().splitlines()


def test_poses_that_say_no_scale_are_refused_or_noted(kept: Reconstruction, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(kept.folder, tmp_path / "kept"))
    old = kept.poses
    assert old is not None
    still = np.tile(np.eye(4), (FRAMES, 1, 1))
    write_tum(folder / "reference.tum", Trajectory(np.arange(FRAMES), old.timestamps, still))
    names = [file.name for file in folder.iterdir()]
    with pytest.raises(DataError, match=r"x: no scale from the truth: .*; give a factor or two points"):
        make_scaled(Reconstruction(folder, names), "x", scale="truth")
    one = make_scaled(kept, "x", poses=Trajectory(old.indices[:1], old.timestamps[:1], old.camera_to_world[:1]))
    assert one.notes[0] == "poses from a file: 1 of 12 frames"
    assert one.notes[1].startswith("scale of the poses not compared with the estimate's: ")
    bare = replace(old, has_orientation=False)
    with pytest.raises(DataError, match="x: expected poses with orientation, found positions alone"):
        make_scaled(kept, "x", poses=bare)


def test_the_voxel_size_is_said_in_the_files_unit(scene: ScaledScene, metric: ScaledScene) -> None:
    own, metres = (float(each.conventions()["voxel_size"]) for each in (scene, metric))
    assert metres == pytest.approx(FACTOR * own)


def test_a_colmap_model_number_by_number(scene: ScaledScene, tmp_path: Path) -> None:
    """The world of camera 5 seen from it, pixels from the corner of the first, tracks that point both ways."""
    home = written(scene, tmp_path, "colmap") / "colmap/sparse/0"

    def rows(name: str) -> list[list[str]]:
        return [line.split() for line in (home / name).read_text().splitlines() if not line.startswith("#")]

    assert {tuple(row[1:]) for row in rows("cameras.txt")} == {("PINHOLE", "48", "36", "40.0", "42.0", "24.0", "18.0")}
    images = rows("images.txt")
    number, *numbers, camera, name = images[10]
    assert (number, camera, name) == ("6", "6", "000005.png")
    w, x, y, z, *translation = map(float, numbers)
    inverse = np.linalg.inv(pose_at(5))
    np.testing.assert_allclose(Rotation.from_quat([x, y, z, w]).as_matrix(), inverse[:3, :3], atol=1e-9)
    np.testing.assert_allclose(translation, inverse[:3, 3], atol=1e-9)
    seen = np.array(images[11], float).reshape(-1, 3)
    points = {int(row[0]): row for row in rows("points3D.txt")}
    for place, (u, v, point) in enumerate(seen[::20]):
        position = inverse[:3, :3] @ np.array(points[int(point)][1:4], float) + inverse[:3, 3]
        assert [u, v] == pytest.approx((K @ position / position[2])[:2] + 0.5, abs=1e-3)
        track = points[int(point)][8:]
        assert ("6", str(20 * place)) in list(zip(track[::2], track[1::2], strict=True))
    # The binary file has the same points and tracks.
    content = (written(scene, tmp_path, "colmap-binary") / "colmap_binary/sparse/0/points3D.bin").read_bytes()
    (count,), at = struct.unpack_from("<Q", content), 8
    assert count == len(points)
    for row in points.values():
        *head, length = struct.unpack_from("<Q3d3BdQ", content, at)
        at += struct.calcsize("<Q3d3BdQ") + 8 * length
        assert head == [float(word) for word in row[:8]]
        assert struct.unpack_from(f"<{2 * length}I", content, at - 8 * length) == tuple(map(int, row[8:]))
    assert at == len(content)


def test_depth_is_what_opencv_reads(metric: ScaledScene, scene: ScaledScene, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    home = written(metric, tmp_path, "depth-png", "depth-exr")
    assert sorted(file.name for file in (home / "depth_png").glob("*.png")) == [
        f"{index:06d}.png" for index in (0, 3, 6, 9)
    ]
    expected = FACTOR * depth_of(pose_at(3))
    facts = json.loads((home / "depth_png" / "depth.json").read_text())
    assert (facts["factor"], facts["unit"]) == (1000.0, "metre")
    pixels = cv2.imread(str(home / "depth_png" / "000003.png"), cv2.IMREAD_UNCHANGED)
    assert pixels.dtype == np.uint16
    np.testing.assert_allclose(pixels / facts["factor"], expected, atol=6e-4)
    assert pixels[0, 0] == 0
    unitless = written(scene, tmp_path / "u", "depth-png") / "depth_png"
    facts = json.loads((unitless / "depth.json").read_text())
    assert (facts["factor"], facts["unit"]) == (10_000.0, "unitless")
    read = cv2.imread(str(unitless / "000003.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_allclose(read / facts["factor"], depth_of(pose_at(3)), atol=6e-5)


def test_exr_is_what_openexr_reads(metric: ScaledScene, tmp_path: Path) -> None:
    openexr = pytest.importorskip("OpenEXR")
    read = openexr.File(str(written(metric, tmp_path, "depth-exr") / "depth_exr" / "000003.exr"))
    expected = metric.depth_of(3)
    assert expected is not None
    np.testing.assert_array_equal(read.channels()["Z"].pixels, expected.depth)
    assert "unit: metre; scale: " in read.header()["comments"]


def test_scale_by_two_points_and_by_a_factor(kept: Reconstruction) -> None:
    by_points = make_scaled(kept, "x", scale=((0, 0, 0), (0, 0, 4), 10.0))
    assert by_points.scale == 2.5
    np.testing.assert_allclose(by_points.poses.positions, 2.5 * np.stack([pose_at(i)[:3, 3] for i in range(FRAMES)]))
    assert make_scaled(kept, "x", scale=0.5).conventions()["scale"] == "0.5 (given)"
    with pytest.raises(ConfigError, match="two different points"):
        make_scaled(kept, "x", scale=((1, 1, 1), (1, 1, 1), 2.0))
    for factor in (-1.0, 0.0, np.inf):
        with pytest.raises(ConfigError, match=f"expected a scale above 0, found {factor:g}"):
            make_scaled(kept, "x", scale=factor)
    assert by_points.conventions()["scale"] == "2.5 (two points 4 apart are 10 m apart)"


def test_improved_poses_make_the_cloud_anew(kept: Reconstruction) -> None:
    """An optimiser moved the world by a similarity: the wall follows, and depth with it."""
    old = kept.poses
    assert old is not None
    poses = old.camera_to_world.copy()
    poses[:, :3, 3] = 3 * poses[:, :3, 3] + [0, 0, 1]
    moved = Trajectory(np.arange(FRAMES), old.timestamps + 1e-3, poses)
    scene = make_scaled(kept, "x", poses=moved, images=images)
    assert scene.cloud is not None
    np.testing.assert_allclose(scene.cloud.positions[:, 2], 3 * 4 + 1, atol=1e-3)
    assert set(scene.cloud.first_frame) == {0, 3, 6, 9}
    assert any("3 times as large" in note for note in scene.notes)
    assert scene.conventions()["scale"] == "1.0 (none: lengths are those of the poses that were given)"
    first = scene.cloud.first_frame == 0
    assert len(np.unique(scene.cloud.colours[first], axis=0)) > 1000  # of the pictures, not grey
    for index in (3, 6, 9):  # each kept depth meets its own picture, though there are three for one
        of_frame = scene.cloud.colours[scene.cloud.first_frame == index]
        assert (of_frame == 128).all(axis=1).mean() < 0.1
    assert scene.cloud.confidence.max() == 10  # of frame 9
    poses = old.camera_to_world.copy()
    poses[:, :3, 3] *= 0.5
    half = make_scaled(kept, "x", poses=Trajectory(np.arange(5), old.timestamps[:5], poses[:5]))
    assert half.notes == (
        "poses from a file: 5 of 12 frames",
        "the poses are 0.5 times as large as the estimate: depth was multiplied by it",
    )
    assert half.cloud is not None
    np.testing.assert_allclose(half.cloud.positions[:, 2], 2, atol=1e-3)
    # A scale that is nearly the same leaves the depth as it was kept.
    poses = old.camera_to_world.copy()
    poses[:, :3, 3] *= 1.005
    same = make_scaled(kept, "x", poses=Trajectory(np.arange(FRAMES), old.timestamps, poses))
    assert not any("times as large" in note for note in same.notes)
    found = same.depth_of(3)
    assert found is not None
    np.testing.assert_array_equal(found.depth, kept.depth_frame(3).depth)
    late = Trajectory(np.arange(3), np.array([50.0, 51, 52]), poses[:3])
    with pytest.raises(DataError, match="expected poses at the times of its frames"):
        make_scaled(kept, "x", poses=late)


def test_poses_within_a_gap_of_the_stream_are_of_no_frame(kept: Reconstruction, tmp_path: Path) -> None:
    folder, old = Path(shutil.copytree(kept.folder, tmp_path / "kept")), kept.poses
    assert old is not None
    times = old.timestamps + 5.0 * (np.arange(FRAMES) > 5)  # 0.5 s, and then 5.6
    write_tum(folder / "estimate.tum", replace(old, timestamps=times))
    gapped = Reconstruction(folder, [file.name for file in folder.iterdir()])
    some = Trajectory(np.arange(3), np.array([0.34, 2.0, 5.64]), old.camera_to_world[[3, 5, 6]])
    found = make_scaled(gapped, "x", poses=some)
    assert found.poses.indices.tolist() == [3, 6]
    assert found.poses.timestamps == pytest.approx([0.3, 5.6])
    assert found.notes[0] == "poses from a file: 2 of 12 frames"


def test_rows_without_times_are_those_of_the_frames_whatever_their_numbers(tmp_path: Path) -> None:
    """A method that leaves every second frame out, and a row that is lost: the others stay with their frames."""
    keeper, indices = Keeper(KeepSettings(depth="all"), tmp_path.joinpath, 8), np.array([0, 2, 4, 6])
    poses = np.stack([pose_at(index) for index in indices])
    for index, pose in zip(indices.tolist(), poses, strict=True):
        frame = Frame(index, index / 10, picture(index), "")
        keeper.add(frame, Prediction(index, index / 10, pose, depth_of(pose), intrinsics=K))
    keeper.finish()
    write_tum(tmp_path / "estimate.tum", Trajectory(indices, indices / 10, poses))
    skipping = Reconstruction(tmp_path, [file.name for file in tmp_path.iterdir()])
    rows = np.array([0, 2, 3])
    given = TrajectoryFile(rows, rows.astype(np.float64), poses[rows], format="kitti", timed=False, rows=4, lost=1)
    found = make_scaled(skipping, "x", poses=given)
    assert found.poses.indices.tolist() == [0, 4, 6]
    np.testing.assert_array_equal(found.poses.camera_to_world, poses[rows])
    assert found.cloud is not None
    assert set(found.cloud.first_frame) == {0, 4, 6}


def test_a_cloud_that_is_made_anew_is_as_large_as_it_was_meant(kept: Reconstruction, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(kept.folder, tmp_path / "kept"))
    small = VoxelCloud(5000)
    small.add(np.ones((1, 3), np.float32), np.zeros((1, 3), np.uint8), np.ones(1, np.float32), 0)
    small.save(folder / "cloud.npz")
    old = kept.poses
    assert old is not None
    some = Trajectory(np.arange(5), old.timestamps[:5], old.camera_to_world[:5])
    told: list[int] = []
    again = Reconstruction(folder, [file.name for file in folder.iterdir()])
    scene = make_scaled(again, "x", poses=some, share=1.0, done=lambda: told.append(1))
    assert len(told) == 4  # every kept depth, though two have no pose any more
    assert scene.cloud is not None
    assert scene.cloud.limit == 5000
    assert set(scene.cloud.first_frame) == {0, 3}
    assert scene.conventions()["confidence"] == "all voxels, whatever their confidence"


def test_what_is_lacking_is_said(kept: Reconstruction, tmp_path: Path) -> None:
    def without(*names: str) -> Reconstruction:
        return Reconstruction(kept.folder, {file.name for file in kept.folder.iterdir()} - set(names))

    some = [f"depth-{index:06d}.npz" for index in (0, 3, 6, 9)]
    with pytest.raises(DataError, match="made/up: expected poses, found none"):
        make_scaled(without("estimate.tum"), "made/up")
    with pytest.raises(DataError, match="expected true poses to scale by, found none"):
        make_scaled(without("reference.tum"), "x", scale="truth")
    no_depth = make_scaled(without(*some), "x")
    for name in ("depth-png", "depth-exr"):
        with pytest.raises(DataError, match=r"expected kept depth, found none; set keep\.depth"):
            written(no_depth, tmp_path / name, name)
    with pytest.raises(DataError, match="expected kept depth to make the cloud anew"):
        make_scaled(without(*some), "x", poses=kept.poses)
    for name in ("ply", "glb", "colmap"):
        with pytest.raises((DataError, DependencyError), match=r"expected a kept cloud, found none|trimesh"):
            written(make_scaled(without("cloud.npz"), "x"), tmp_path / f"no cloud {name}", name)
    # Of a method without depth the cameras are what can be had.
    bare = make_scaled(without("cloud.npz"), "x")
    assert "no cloud was kept" in " ".join(bare.notes)
    for name, scene in (("bare", bare), ("empty", replace(bare, cloud=VoxelCloud()))):
        home = written(scene, tmp_path / name, "nerfstudio") / "nerfstudio"
        document = json.loads((home / "transforms.json").read_text())
        assert (len(document["frames"]), "ply_file_path" in document) == (12, False)
        assert "voxel_size" not in document["conventions"]
        assert not (home / "points.ply").exists()
    with pytest.raises(DataError, match="expected intrinsics of the frames, found none"):
        written(make_scaled(without("cameras.npz"), "x"), tmp_path / "no cameras", "colmap")
    with pytest.raises(ConfigError, match=r"unknown format 'colmapp' \(did you mean 'colmap'\?\)"):
        known_formats(("colmapp",))
    for share in (0, 1.01):
        with pytest.raises(ConfigError, match=f"share of the voxels above 0 and at most 1, found {share:g}"):
            make_scaled(kept, "x", share=share)
    with pytest.raises(ConfigError, match="expected a format at least; there are: ply, glb"):
        known_formats(())
    assert known_formats(("tum", "ply", "tum")) == ("tum", "ply")


def test_what_is_lacking_leaves_no_part_and_the_others_are_told(kept: Reconstruction, tmp_path: Path) -> None:
    names = {file.name for file in kept.folder.iterdir() if not file.name.startswith(("depth", "cameras"))}
    scene, told = make_scaled(Reconstruction(kept.folder, names), "x"), list[str]()
    lacking = write_formats(scene, tmp_path / "far" / "out", ("colmap", "tum", "depth-png", "ply"), told.append)
    assert (list(lacking), told) == (["colmap", "depth-png"], ["tum", "ply"])
    assert sorted(file.name for file in (tmp_path / "far" / "out").iterdir()) == ["cloud.ply", "trajectory.tum"]


def test_files_of_depth_say_what_they_hold(metric: ScaledScene, tmp_path: Path) -> None:
    home = written(metric, tmp_path, "depth-png", "depth-exr")
    for name in ("png", "exr"):
        facts = json.loads((home / f"depth_{name}" / "depth.json").read_text())
        assert (facts["unit"], facts["confidence"], "voxel_size" in facts) == ("metre", "not filtered", False)
        assert float(facts["scale"].partition(" (")[0]) == pytest.approx(FACTOR)
    with Pictures.open(home / "depth_png" / "000009.png") as picture:
        assert {"factor": "1000.0", "unit": "metre", "confidence": "not filtered"}.items() <= picture.info.items()
    # Of what is farther than 65 m in millimetres the factor falls.
    far = replace(metric, depth_frame=lambda index: replace(kept_depth(metric, index), depth=np.full((2, 2), 70.0)))
    facts = json.loads((written(far, tmp_path / "far", "depth-png") / "depth_png" / "depth.json").read_text())
    assert facts["factor"] == 100.0
    with Pictures.open(tmp_path / "far" / "depth_png" / "000009.png") as picture:
        assert (np.asarray(picture) == 17_500).all()  # 70 of the method's units are 175 m


def kept_depth(scene: ScaledScene, index: int) -> DepthFrame:
    assert scene.depth_frame is not None
    return scene.depth_frame(index)


def test_images_of_frames_without_a_pose_are_not_written(scene: ScaledScene, tmp_path: Path) -> None:
    some = np.array([0, 1, 5])
    poses = scene.poses
    few = replace(scene, poses=Trajectory(some, poses.timestamps[some], poses.camera_to_world[some]))
    home = written(few, tmp_path, "nerfstudio") / "nerfstudio"
    assert sorted(file.name for file in (home / "images").iterdir()) == [f"{index:06d}.png" for index in (0, 1, 5)]
    frames = json.loads((home / "transforms.json").read_text())["frames"]
    assert [frame["file_path"] for frame in frames] == [f"images/{index:06d}.png" for index in (0, 1, 5)]


def test_images_of_another_size_are_refused(kept: Reconstruction, tmp_path: Path) -> None:
    scene = make_scaled(kept, "x", images=lambda: iter([(0, np.zeros((10, 10, 3), np.uint8))]))
    with pytest.raises(DataError, match="frame 0: expected an image of 48x36 as it was streamed, found 10x10"):
        written(scene, tmp_path, "colmap")


def test_a_full_disk_is_one_line(scene: ScaledScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "FORMATS", {**FORMATS, "ply": refuse})
    with pytest.raises(StoreError, match="cannot write the export: No space left on device; free space"):
        written(scene, tmp_path, "ply")
