"""A rendered room written into the layouts of the field's datasets, with their encodings and conventions.

One world and one walk, so that one test can read any of them back and carry pixels from frame to frame. Layouts are
written from their documentation, not with the code that reads them; lenses are OpenCV's.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

FRAMES = 5
LOW, HIGH = np.array([-3.0, -2.0, -3.0]), np.array([3.0, 2.0, 5.0])  # corners of the room
SIZE = (96, 72)
CAMERA = np.array([[80.0, 0, 47.0], [0, 82.0, 36.5], [0, 0, 1]])
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def pose(index: float) -> np.ndarray:
    """Camera-to-world, OpenCV axes, metres."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("yxz", [0.03 * index, 0.012 * index, -0.02 * index]).as_matrix()
    matrix[:3, 3] = (0.05 * index, 0.02 * index, 0.06 * index + 0.004 * index**2)
    return matrix


def rays(camera: np.ndarray, size: tuple[int, int], lens: tuple[str, tuple[float, ...]] | None = None) -> np.ndarray:
    """(H, W, 3) directions with z = 1 of the pixels' centres; lens: ``radtan`` or ``fisheye`` and its numbers."""
    return _rays(tuple(camera.ravel().tolist()), size, lens)


@cache
def _rays(numbers: tuple[float, ...], size: tuple[int, int], lens: tuple[str, tuple[float, ...]] | None) -> np.ndarray:
    camera = np.array(numbers).reshape(3, 3)
    u, v = np.meshgrid(np.arange(size[0], dtype=float), np.arange(size[1], dtype=float))
    x, y = (u - camera[0, 2]) / camera[0, 0], (v - camera[1, 2]) / camera[1, 1]
    bent = np.stack([x, y], axis=-1)
    if lens is not None and lens[0] == "fisheye":
        points = np.stack([u, v], axis=-1).reshape(-1, 1, 2)
        x, y = np.moveaxis(cv2.fisheye.undistortPoints(points, camera, np.array(lens[1])).reshape(bent.shape), -1, 0)
    elif lens is not None:
        straight = bent.copy()
        for _ in range(60):  # OpenCV's model forward; its inverse stops early
            points = np.concatenate([straight, np.ones_like(straight[..., :1])], axis=-1).reshape(-1, 1, 3)
            seen = cv2.projectPoints(points, np.zeros(3), np.zeros(3), np.eye(3), np.array(lens[1]))[0]
            straight += bent - seen.reshape(bent.shape)
        x, y = np.moveaxis(straight, -1, 0)
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def hit(camera_to_world: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth along z and world points where rays of a camera inside the room meet its walls."""
    world = directions @ camera_to_world[:3, :3].T
    origin = camera_to_world[:3, 3]
    world = np.where(world == 0, 1e-12, world)
    reach = np.where(world > 0, HIGH - origin, LOW - origin) / world
    depth = reach.min(axis=-1)
    return depth, origin + depth[..., None] * world


def paint(points: np.ndarray) -> np.ndarray:
    """uint8 RGB that changes smoothly along the walls."""
    x, y, z = np.moveaxis(points, -1, 0)
    waves = np.stack([np.sin(2 * x + y), np.sin(2 * y + 1.5 * z), np.sin(2 * z - 1.5 * x)], axis=-1)
    return np.rint(128 + 100 * waves).astype(np.uint8)


@dataclass(frozen=True)
class View:
    """A camera: (3, 3) and (width, height), of colour and, where it is another, of depth; its lens; grey pictures."""

    camera: np.ndarray = field(default_factory=lambda: CAMERA)
    size: tuple[int, int] = SIZE
    lens: tuple[str, tuple[float, ...]] | None = None
    depth_camera: np.ndarray | None = None
    depth_size: tuple[int, int] | None = None
    grey: bool = False

    def picture(self, index: int) -> np.ndarray:
        colours = paint(hit(pose(index), rays(self.camera, self.size, self.lens))[1])
        return np.repeat(colours[..., :1], 3, axis=-1) if self.grey else colours

    def depth(self, index: int) -> np.ndarray:
        if self.depth_camera is not None and self.depth_size is not None:
            return hit(pose(index), rays(self.depth_camera, self.depth_size))[0]
        return hit(pose(index), rays(self.camera, self.size, self.lens))[0]


def save(path: Path, view: View, index: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = view.picture(index)
    image = Image.fromarray(picture[..., 0] if view.grey else picture)
    image.save(path, **({"quality": 98, "subsampling": 0} if path.suffix.lower() == ".jpg" else {"compress_level": 1}))


def save_depth(path: Path, metres: np.ndarray, units: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = np.rint(metres * units).clip(0, 65534).astype(np.uint16)
    raw[0, 0] = 0  # no measurement
    Image.fromarray(raw).save(path, compress_level=1)


def text(path: Path, content: str, newline: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.replace("\n", newline).encode())


def row(values: np.ndarray, form: str = ".9e") -> str:
    return " ".join(f"{value:{form}}" for value in np.ravel(values))


def rows(matrix: np.ndarray, form: str = ".9f") -> str:
    return "".join(row(line, form) + "\n" for line in matrix)


def tum(camera_to_world: np.ndarray) -> str:
    return f"{row(camera_to_world[:3, 3], '.6f')} {row(Rotation.from_matrix(camera_to_world[:3, :3]).as_quat(), '.9f')}"


def write_tum(root: Path, scene: str, view: View, truth: Callable[[int], np.ndarray] = pose) -> None:
    """rgb.txt, depth.txt, groundtruth.txt; depth 7 ms after colour, poses at 100 Hz between which colour lies."""
    folder, start = root / scene, 1548266470.01
    lists = {"rgb": "# color images\n# file: 'x.bag'\n# timestamp filename\n", "depth": "# depth maps\n#\n#\n"}
    poses = "# ground truth trajectory\n# file: 'x.bag'\n# timestamp tx ty tz qx qy qz qw\n"
    for k in range(FRAMES):
        time = start + k / 30
        save(folder / "rgb" / f"{time:.5f}.png", view, k)
        save_depth(folder / "depth" / f"{time + 0.007:.5f}.png", view.depth(k), 5000)
        lists["rgb"] += f"{time:.5f} rgb/{time:.5f}.png\n"
        lists["depth"] += f"{time + 0.007:.5f} depth/{time + 0.007:.5f}.png\n"
        poses += f"{time + 0.002:.4f} {tum(truth(k))}\n"
    for name, lines in lists.items():
        text(folder / f"{name}.txt", lines)
    text(folder / "groundtruth.txt", poses)


FREIBURG3 = np.array([[535.4, 0, 320.1], [0, 539.2, 247.6], [0, 0, 1]])
BONN = np.array([[542.822841, 0, 315.593520], [0, 542.576870, 237.756098], [0, 0, 1]])
# Of www.ipb.uni-bonn.de/data/rgbd-dynamic-dataset
BONN_ROS = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
BONN_MARKERS = np.array(
    [[1.0157, 0.1828, -0.2389, 0.0113], [0.0009, -0.8431, -0.6413, -0.0098], [-0.3009, 0.6147, -0.8085, 0.0111]]
)


def bonn_truth(index: int) -> np.ndarray:
    """The pose of the markers as the file has it: T_ROS⁻¹ T T_m⁻¹ T_ROS⁻¹."""
    u, _, vt = np.linalg.svd(BONN_MARKERS[:, :3])
    markers = np.eye(4)
    markers[:3] = np.column_stack([u @ vt, BONN_MARKERS[:, 3]])
    return np.linalg.inv(BONN_ROS) @ pose(index) @ np.linalg.inv(markers) @ np.linalg.inv(BONN_ROS)


def write_sintel(root: Path, view: View) -> None:
    tag = struct.pack("<f", 202021.25)
    for k in range(FRAMES):
        stem = f"frame_{k + 1:04d}"
        save(root / f"training/final/alley_2/{stem}.png", view, k)
        depth = view.depth(k).astype("<f4")
        depth_file = root / f"training/depth/alley_2/{stem}.dpt"
        depth_file.parent.mkdir(parents=True, exist_ok=True)
        depth_file.write_bytes(tag + struct.pack("<ii", *view.size) + depth.tobytes())
        camera_file = root / f"training/camdata_left/alley_2/{stem}.cam"
        camera_file.parent.mkdir(parents=True, exist_ok=True)
        numbers = view.camera.astype("<f8").tobytes() + np.linalg.inv(pose(k))[:3].astype("<f8").tobytes()
        camera_file.write_bytes(tag + numbers)
    save(root / "test/final/ambush_1/frame_0001.png", view, 0)


SCANNET_COLOUR = np.array([[117.0, 0, 64.7], [0, 116.5, 48.3], [0, 0, 1]])
SCANNET = View(SCANNET_COLOUR, (130, 97), depth_camera=CAMERA, depth_size=SIZE)


def four(matrix: np.ndarray) -> np.ndarray:
    whole = np.eye(4)
    whole[:3, :3] = matrix
    return whole


def write_scannet(root: Path, view: View) -> None:
    folder = root / "scene0000_00"
    for k in range(FRAMES):
        save(folder / f"color/{k}.jpg", view, k)
        save_depth(folder / f"depth/{k}.png", view.depth(k), 1000)
        text(folder / f"pose/{k}.txt", rows(pose(k), ".6f") if k != 3 else "-inf -inf -inf -inf\n" * 4)
    for kind, camera in (("color", view.camera), ("depth", view.depth_camera)):
        text(folder / f"intrinsic/intrinsic_{kind}.txt", rows(four(camera), ".6f"))
        text(folder / f"intrinsic/extrinsic_{kind}.txt", rows(np.eye(4), ".6f"))


def write_scannetpp(root: Path, view: View) -> None:
    folder = root / "data/0a5c013435/iphone"
    entries = {}
    for k in range(FRAMES):
        name = f"frame_{10 * k:06d}"
        save(folder / f"rgb/{name}.jpg", view, k)
        save_depth(folder / f"depth/{name}.png", view.depth(k), 1000)
        entries[name] = {
            "timestamp": 100.5 + k / 6,
            "pose": (four(Rotation.from_euler("x", 1).as_matrix()) @ pose(k)).tolist(),
            "intrinsic": view.camera.tolist(),
            "aligned_pose": pose(k).tolist(),
        }
    text(folder / "pose_intrinsic_imu.json", json.dumps(entries | {"frame_000001": entries["frame_000000"]}))


FISHEYE = View(CAMERA, SIZE, ("fisheye", (0.02, -0.01, 0.004, -0.001)))


def colmap_images(names: Mapping[int, str], extra: str = "") -> str:
    lines = (
        "# Image list with two lines of data per image:\n#   IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME\n"
    )
    for k, name in sorted(names.items(), reverse=True):
        moved = np.linalg.inv(pose(k))
        x, y, z, w = Rotation.from_matrix(moved[:3, :3]).as_quat()
        lines += f"{k + 1} {w:.12f} {x:.12f} {y:.12f} {z:.12f} {row(moved[:3, 3], '.12f')} 1 {name}\n"
        lines += "10.5 20.25 -1 30 40 7 1 2 3 4 5 6\n"
    return lines + extra


def corner(camera: np.ndarray) -> str:
    """fx fy cx cy where pixels count from the corner of the image."""
    return f"{camera[0, 0]} {camera[1, 1]} {camera[0, 2] + 0.5} {camera[1, 2] + 0.5}"


def write_scannetpp_dslr(root: Path, view: View) -> None:
    folder = root / "data/0a5c013435/dslr"
    assert view.lens is not None
    for k in range(FRAMES):
        save(folder / f"resized_images/DSC{k + 1752:05d}.JPG", view, k)
    lens = " ".join(map(str, view.lens[1]))
    text(
        folder / "colmap/cameras.txt", f"# Camera list\n1 OPENCV_FISHEYE {SIZE[0]} {SIZE[1]} {corner(CAMERA)} {lens}\n"
    )
    names = {k: f"DSC{k + 1752:05d}.JPG" for k in range(FRAMES)}
    text(folder / "colmap/images.txt", colmap_images(names, "99 1 0 0 0 0 0 0 1 DSC09999.JPG\n\n"))


RADTAN = (-0.28340811, 0.07395907, 0.00019359, 1.76187114e-05)
EUROC = View(CAMERA, SIZE, ("radtan", RADTAN), grey=True)
BODY = np.array(  # T_BS of EuRoC's cam0
    [
        [0.0148655429818, -0.999880929698, 0.00414029679422, -0.0216401454975],
        [0.999557249008, 0.0149672133247, 0.025715529948, -0.064676986768],
        [-0.0257744366974, 0.00375618835797, 0.999660727178, 0.00981073058949],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


def write_euroc(root: Path, view: View) -> None:
    folder, start = root / "MH_01_easy/mav0", 1403636579763555584
    images = "#timestamp [ns],filename\n"
    truth = (
        "#timestamp, p_RS_R_x [m], p_RS_R_y [m], p_RS_R_z [m], q_RS_w [], q_RS_x [], q_RS_y [], q_RS_z [],"
        " v_RS_R_x [m s^-1], v_RS_R_y [m s^-1], v_RS_R_z [m s^-1], b_w_RS_S_x [rad s^-1], b_w_RS_S_y [rad s^-1],"
        " b_w_RS_S_z [rad s^-1], b_a_RS_S_x [m s^-2], b_a_RS_S_y [m s^-2], b_a_RS_S_z [m s^-2]\n"
    )
    for k in range(FRAMES):
        time = start + k * 50_000_000
        save(folder / f"cam0/data/{time}.png", view, k)
        images += f"{time},{time}.png\n"
        body = pose(k) @ np.linalg.inv(BODY)
        x, y, z, w = Rotation.from_matrix(body[:3, :3]).as_quat()
        position = ",".join(f"{value:.6f}" for value in body[:3, 3])
        truth += f"{time + 1_000_000},{position},{w:.9f},{x:.9f},{y:.9f},{z:.9f}{',0.01' * 9}\n"
    images += f"{start + 10**12},{start + 10**12}.png\n"  # a picture that the release lacks
    text(folder / "cam0/data.csv", images, "\r\n")
    text(folder / "state_groundtruth_estimate0/data.csv", truth, "\r\n")
    data = ",\n         ".join(", ".join(map(str, line)) for line in BODY.tolist())
    camera = f"[{CAMERA[0, 0]}, {CAMERA[1, 1]}, {CAMERA[0, 2]}, {CAMERA[1, 2]}]"
    text(
        folder / "cam0/sensor.yaml",
        "# General sensor definitions.\nsensor_type: camera\ncomment: VI-Sensor cam0 (MT9M034)\n\n"
        f"T_BS:\n  cols: 4\n  rows: 4\n  data: [{data}]\n\nrate_hz: 20\nresolution: [{SIZE[0]}, {SIZE[1]}]\n"
        f"camera_model: pinhole\nintrinsics: {camera} #fu, fv, cu, cv\ndistortion_model: radial-tangential\n"
        f"distortion_coefficients: [{', '.join(map(str, RADTAN))}]\n",
    )


def kitti_packet(body: np.ndarray) -> str:
    """latitude, longitude, altitude, roll, pitch, yaw and 24 more, whose Mercator projection is ``body``."""
    scale = np.cos(np.radians(49.015)) * 6378137.0
    east, north, up = body[:3, 3] + (scale * np.radians(8.43), scale * np.log(np.tan(np.radians(45 + 49.015 / 2))), 116)
    latitude = 2 * np.degrees(np.arctan(np.exp(north / scale))) - 90
    yaw, pitch, roll = Rotation.from_matrix(body[:3, :3]).as_euler("ZYX")
    return row(np.array([latitude, np.degrees(east / scale), up, roll, pitch, yaw, *[0.05] * 24]), ".14g") + "\n"


IMU_TO_VELO = Rotation.from_euler("xyz", [0.001, -0.002, 0.015]), np.array([-0.81, 0.32, -0.8])
VELO_TO_CAM = Rotation.from_euler("xyz", [0.01, -0.005, 0.003]), np.array([-0.004, -0.076, -0.27])
AXES = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])  # velodyne (x forward, z up) to camera
KITTI_LENS = (-0.37, 0.2, 0.001, 0.0007, -0.07)


def write_kitti_raw(root: Path, view: View, kind: str = "sync") -> None:
    """Camera 2; rectified for ``sync``, its own picture and unsynchronised packets for ``extract``."""
    date = root / "2011_09_26"
    drive = date / f"2011_09_26_drive_0001_{kind}"
    rectify, beside = Rotation.from_euler("xyz", [0.01, 0.008, -0.004]), np.array([0.06, 0.0003, 0.0027])
    own = Rotation.from_euler("xyz", [-0.003, 0.02, 0.001]), np.array([0.0599, 0.0002, 0.0037])
    projection = np.column_stack([CAMERA, CAMERA @ beside])
    lines = ["calib_time: 09-Jan-2012 13:57:47", "corner_dist: 9.950000e-02", f"R_rect_00: {row(rectify.as_matrix())}"]
    lines += [f"S_02: {row(np.array(SIZE))}", f"K_02: {row(CAMERA)}", f"D_02: {row(np.array(KITTI_LENS))}"]
    lines += [f"R_02: {row(own[0].as_matrix())}", f"T_02: {row(own[1])}", f"S_rect_02: {row(np.array(SIZE))}"]
    lines += [f"P_rect_02: {row(projection)}"]
    text(date / "calib_cam_to_cam.txt", "\n".join(lines) + "\n")
    to_camera0 = np.eye(4)
    to_camera0[:3, :3], to_camera0[:3, 3] = VELO_TO_CAM[0].as_matrix() @ AXES, VELO_TO_CAM[1]
    to_velo = np.eye(4)
    to_velo[:3, :3], to_velo[:3, 3] = IMU_TO_VELO[0].as_matrix(), IMU_TO_VELO[1]
    for name, matrix in (("velo_to_cam", to_camera0), ("imu_to_velo", to_velo)):
        text(
            date / f"calib_{name}.txt", f"calib_time: 15-Mar-2012\nR: {row(matrix[:3, :3])}\nT: {row(matrix[:3, 3])}\n"
        )
    last = np.eye(4)
    if kind == "sync":
        last[:3, :3], last[:3, 3] = rectify.as_matrix(), beside
    else:
        last[:3, :3], last[:3, 3] = own[0].as_matrix(), own[1]
    to_camera = last @ to_camera0 @ to_velo
    level = np.eye(4)
    level[:3, :3] = AXES.T  # the room stands upright in the world of GPS
    stamps, packets = "", ""
    for k in range(FRAMES):
        save(drive / f"image_02/data/{k:010d}.png", view, k)
        stamps += f"2011-09-26 13:02:25.{100_000_000 * k + 964_389_4:09d}\n"
        number = k if kind == "sync" else 10 * k + 3
        text(drive / f"oxts/data/{number:010d}.txt", kitti_packet(level @ pose(k) @ to_camera))
    for number in range(10 * FRAMES):
        packets += f"2011-09-26 13:02:25.{10_000_000 * (number - 3) + 11_000_000 if number > 2 else number:09d}\n"
    text(drive / "image_02/timestamps.txt", stamps)
    text(drive / "oxts/timestamps.txt", stamps if kind == "sync" else packets)


def write_kitti_depth(root: Path, view: View) -> None:
    folder, drive = root / "depth_selection/val_selection_cropped", "2011_09_26_drive_0002_sync"
    for k in range(FRAMES):
        tail = f"{8 * k + 8:010d}_image_02"
        save(folder / f"image/{drive}_image_{tail}.png", view, k)
        save_depth(folder / f"groundtruth_depth/{drive}_groundtruth_depth_{tail}.png", view.depth(k), 256)
        text(folder / f"intrinsics/{drive}_image_{tail}.txt", row(view.camera, ".6f"))
    for other in (f"{drive}_image_0000000010_image_03", f"{drive.replace('0002', '0013')}_image_0000000010_image_03"):
        save(folder / f"image/{other}.png", view, 0)


def write_vkitti2(root: Path, view: View) -> None:
    folder = root / "Scene01/15-deg-left"
    moves = "frame cameraID r1,1 r1,2 r1,3 t1 r2,1 r2,2 r2,3 t2 r3,1 r3,2 r3,3 t3 0 0 0 1\n"
    cameras = "frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]\n"
    for k in range(FRAMES):
        save(folder / f"frames/rgb/Camera_0/rgb_{k:05d}.jpg", view, k)
        save(folder / f"frames/rgb/Camera_1/rgb_{k:05d}.jpg", view, k)
        save_depth(folder / f"frames/depth/Camera_0/depth_{k:05d}.png", view.depth(k), 100)
        for other in (0, 1):
            shift = np.eye(4)
            shift[0, 3] = -0.532725 * other
            moves += f"{k} {other} {row(shift @ np.linalg.inv(pose(k)), '.12g')}\n"
            cameras += f"{k} {other} {CAMERA[0, 0]} {CAMERA[1, 1]} {CAMERA[0, 2]} {CAMERA[1, 2]}\n"
    text(folder / "extrinsic.txt", moves)
    text(folder / "intrinsic.txt", cameras)


def write_replica(root: Path, view: View) -> None:
    for k in range(FRAMES):
        save(root / f"Replica/room0/results/frame{k:06d}.jpg", view, k)
        save_depth(root / f"Replica/room0/results/depth{k:06d}.png", view.depth(k), 6553.5)
    text(root / "Replica/room0/traj.txt", "".join(f"{row(pose(k), '.18e')}\n" for k in range(FRAMES)))
    numbers = {"w": SIZE[0], "h": SIZE[1], "fx": 80.0, "fy": 82.0, "cx": 47.0, "cy": 36.5, "scale": 6553.5}
    text(root / "Replica/cam_params.json", json.dumps({"camera": numbers}))


TARTANAIR = np.array([[320.0, 0, 320], [0, 320, 240], [0, 0, 1]])
NED = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # OpenCV axes to x forward, y right, z down


def ned_row(index: int) -> str:
    return tum(NED @ pose(index) @ np.linalg.inv(NED)) + "\n"


def write_tartanair(root: Path, view: View) -> None:
    folder = root / "abandonedfactory/abandonedfactory/Easy/P001"
    for k in range(FRAMES):
        save(folder / f"image_left/{k:06d}_left.png", view, k)
        (folder / "depth_left").mkdir(exist_ok=True)
        np.save(folder / f"depth_left/{k:06d}_left_depth.npy", view.depth(k).astype(np.float32))
    text(folder / "pose_left.txt", "".join(map(ned_row, range(FRAMES))))


def write_tartanair_v2(root: Path, view: View) -> None:
    folder = root / "AbandonedCable/Data_easy/P000"
    for k in range(FRAMES):
        save(folder / f"image_lcam_front/{k:06d}_lcam_front.png", view, k)
        (folder / "depth_lcam_front").mkdir(exist_ok=True)
        four_bytes = np.ascontiguousarray(view.depth(k).astype("<f4"))[..., None].view("<u1")
        cv2.imwrite(str(folder / f"depth_lcam_front/{k:06d}_lcam_front_depth.png"), four_bytes)
    text(folder / "pose_lcam_front.txt", "".join(map(ned_row, range(FRAMES))))


def write_long3d(root: Path, view: View) -> None:
    for k in range(FRAMES):
        save(root / f"Classroom/images/scan_images/{1760000000.05 + k / 10:.6f}.jpg", view, k)
    text(root / "Classroom/dense_cloud_map.pcd", "# .PCD v0.7\n")


WAYMO = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # OpenCV axes to x forward, z up


def write_waymo(root: Path, view: View, own_axes: bool = True) -> None:
    folder = root / "training/023"
    on_car = four(Rotation.from_euler("xyz", [0.01, 0.005, -0.01]).as_matrix())
    on_car[:3, 3] = (1.54, -0.02, 2.11)
    opencv = on_car @ WAYMO
    for k in range(FRAMES):
        for camera in range(3):
            save(folder / f"images/{k:03d}_{camera}.jpg", view, k)
        text(folder / f"ego_pose/{k:03d}.txt", rows(pose(k) @ np.linalg.inv(opencv)))
    text(folder / "extrinsics/0.txt", rows(on_car if own_axes else opencv))
    numbers = "".join(f"{v:.9e}\n" for v in (80.0, 82.0, 47.0, 36.5, 0.03, -0.3, 1e-3, -4e-4, 0))
    # Some exporters write Waymo's own numbers, others a matrix.
    text(folder / "intrinsics/0.txt", numbers if own_axes else rows(view.camera))


VBR_BODY = np.array(
    [
        [0.005617112780309785, -0.0012881145325502978, 0.9999832905520013, 0.07073856167431194],
        [-0.9999833070153535, -0.0013285236613379636, 0.005615378227348316, 0.23435089305558293],
        [0.001321217132003304, -0.9999982616209818, -0.0012955402899334433, -0.6660491439765341],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
VBR = View(CAMERA, SIZE, ("radtan", (-0.05, 0.03, 0.0004, -0.0003)))


def write_vbr_full(root: Path, view: View) -> None:
    scene = root / "spagna/spagna_train0"
    images, stamps = root / "spagna/spagna_train0_kitti/camera_left", ""
    truth = "#timestamp tx ty tz qx qy qz qw\n"
    assert view.lens is not None
    for k in range(FRAMES):
        save(images / f"data/{k:010d}.png", view, k)
        stamps += f"1970-01-01T00:06:06.{560_458_140 + 100_000_000 * k:09d}\n"
        truth += f"{366.56 + 0.1 * k:.6f} {tum(pose(k) @ np.linalg.inv(VBR_BODY))}\n"
    text(images / "timestamps.txt", stamps)
    text(scene / "spagna_train0_gt.txt", truth)
    numbers = f"[{CAMERA[0, 0]}, {CAMERA[1, 1]}, {CAMERA[0, 2]}, {CAMERA[1, 2]}]"
    body = "".join(f"    - {line}\n" for line in VBR_BODY.tolist())
    text(
        scene / "vbr_calib.yaml",
        f"cam_l:\n  distortion_coeffs: {list(view.lens[1])}\n  distortion_model: radtan\n  intrinsics: {numbers}\n"
        f"  resolution: [{SIZE[0]}, {SIZE[1]}]\n  rostopic: /camera_left/image_raw\n  T_b:\n{body}",
    )


CAPTURE = View(CAMERA, SIZE, ("radtan", (0.05, -0.02, 0.03, -0.04)))


def write_nerfstudio(root: Path, view: View) -> None:
    """As ns-process-data writes it: images and smaller copies, entries in no order, one whose image is gone."""
    folder = root / "garden"
    assert view.lens is not None
    frames = []
    for k in (3, 0, 4, 1, 2):
        save(folder / f"images/frame_{k + 1:05d}.png", view, k)
        frames.append({"file_path": f"images/frame_{k + 1:05d}.png", "transform_matrix": (pose(k) @ OPENGL).tolist()})
    frames.append({"file_path": "images/frame_00099.png", "transform_matrix": pose(0).tolist()})
    (folder / "images_2").mkdir()
    Image.new("RGB", (48, 36)).save(folder / "images_2/frame_00001.png")
    lens = dict(zip(("k1", "k2", "p1", "p2"), view.lens[1], strict=True))
    camera = {"fl_x": CAMERA[0, 0], "fl_y": CAMERA[1, 1], "cx": CAMERA[0, 2] + 0.5, "cy": CAMERA[1, 2] + 0.5}
    document = {"w": SIZE[0], "h": SIZE[1], **camera, **lens, "camera_model": "OPENCV", "frames": frames}
    text(folder / "transforms.json", json.dumps(document, indent=4))


def write_colmap(root: Path, view: View, binary: bool = True) -> None:
    """sparse/0 beside images; the third image was never registered."""
    folder = root / "bicycle"
    assert view.lens is not None
    for k in range(FRAMES):
        save(folder / f"images/_DSC{8679 + k}.JPG", view, k)
    names = {k: f"_DSC{8679 + k}.JPG" for k in range(FRAMES) if k != 2}
    lens = " ".join(map(str, view.lens[1]))
    if not binary:
        text(folder / "sparse/0/cameras.txt", f"1 OPENCV {SIZE[0]} {SIZE[1]} {corner(CAMERA)} {lens}\n")
        text(folder / "sparse/0/images.txt", colmap_images(names))
        return
    model = folder / "sparse/0"
    model.mkdir(parents=True)
    numbers = [*map(float, corner(CAMERA).split()), *view.lens[1]]
    (model / "cameras.bin").write_bytes(struct.pack("<Q", 1) + struct.pack("<iiQQ8d", 1, 4, *SIZE, *numbers))
    data = struct.pack("<Q", len(names))
    for k, name in names.items():
        moved = np.linalg.inv(pose(k))
        x, y, z, w = Rotation.from_matrix(moved[:3, :3]).as_quat()
        data += struct.pack("<i7di", k, w, x, y, z, *moved[:3, 3], 1) + name.encode() + b"\0"
        data += struct.pack("<Q", 2) + struct.pack("<ddq", 1.5, 2.5, -1) + struct.pack("<ddq", 3.5, 4.5, 7)
    (model / "images.bin").write_bytes(data)


@dataclass(frozen=True)
class Layout:
    """A dataset's tree. posed: frames that have a pose; frames: of the walk, in order."""

    dataset: str
    scene: str
    write: Callable[[Path, View], None]
    view: View = field(default_factory=View)
    options: Mapping[str, Any] = field(default_factory=dict)
    frames: tuple[int, ...] = tuple(range(FRAMES))
    posed: tuple[int, ...] = tuple(range(FRAMES))
    has_depth: bool = True
    depth_error: float = 0.002


NONE: tuple[int, ...] = ()
LAYOUTS = {
    "tum_dynamics": Layout(
        "tum_dynamics",
        "rgbd_dataset_freiburg3_walking_xyz",
        lambda root, view: write_tum(root, "rgbd_dataset_freiburg3_walking_xyz", view),
        View(FREIBURG3),
    ),
    "bonn": Layout(
        "bonn",
        "rgbd_bonn_balloon2",
        lambda root, view: write_tum(root / "rgbd_bonn_dataset", "rgbd_bonn_balloon2", view, bonn_truth),
        View(BONN),
    ),
    "sintel": Layout("sintel", "alley_2", write_sintel, depth_error=1e-6),
    "scannet": Layout("scannet", "scene0000_00", write_scannet, SCANNET, posed=(0, 1, 2, 4)),
    "scannetpp": Layout(
        "scannetpp",
        "0a5c013435",
        write_scannetpp,
        View(depth_camera=np.array([[20.0, 0, 11.375], [0, 20.5, 8.75], [0, 0, 1]]), depth_size=(24, 18)),
    ),
    "scannetpp dslr": Layout(
        "scannetpp", "0a5c013435", write_scannetpp_dslr, FISHEYE, {"camera": "dslr"}, has_depth=False
    ),
    "euroc": Layout("euroc", "MH_01_easy", write_euroc, EUROC, has_depth=False),
    "kitti_raw": Layout("kitti_raw", "2011_09_26_drive_0001_sync", write_kitti_raw, has_depth=False),
    "kitti_raw extract": Layout(
        "kitti_raw",
        "2011_09_26_drive_0001_extract",
        lambda root, view: write_kitti_raw(root, view, "extract"),
        View(lens=("radtan", KITTI_LENS)),
        has_depth=False,
    ),
    "kitti_depth": Layout(
        "kitti_depth", "2011_09_26_drive_0002_sync_02", write_kitti_depth, posed=NONE, depth_error=0.004
    ),
    "vkitti2": Layout("vkitti2", "Scene01/15-deg-left", write_vkitti2, depth_error=0.006),
    "replica": Layout("replica", "room0", write_replica),
    "tartanair": Layout("tartanair", "abandonedfactory/Easy/P001", write_tartanair, View(TARTANAIR), depth_error=1e-6),
    "tartanair v2": Layout(
        "tartanair",
        "AbandonedCable/Data_easy/P000",
        write_tartanair_v2,
        View(np.array([[320.0, 0, 320], [0, 320, 320], [0, 0, 1]])),
        depth_error=1e-6,
    ),
    "long3d": Layout("long3d", "Classroom", write_long3d, posed=NONE, has_depth=False),
    "waymo": Layout("waymo", "023", write_waymo, has_depth=False),
    "waymo opencv": Layout("waymo", "023", lambda root, view: write_waymo(root, view, own_axes=False), has_depth=False),
    "vbr_full": Layout("vbr_full", "spagna_train0", write_vbr_full, VBR, has_depth=False),
    "capture": Layout("capture", "garden", write_nerfstudio, CAPTURE, has_depth=False),
    "capture colmap": Layout("capture", "bicycle", write_colmap, CAPTURE, frames=(0, 1, 3, 4), has_depth=False),
}
