"""Writes tiny copies of the field's datasets in their exact layouts: a textured wall seen by a moving camera.

The wall is the plane z = 4 in the world; depth, colour and poses of every frame follow from the camera alone, so that
a test can carry a pixel from one frame into another and know what must be there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
FOCAL = 60.0
WALL = 4.0
FRAMES = 6
INTRINSICS = np.array([[FOCAL, 0, 32.0], [0, FOCAL, 24.0], [0, 0, 1]])


def pose(index: int) -> np.ndarray:
    """Camera-to-world, OpenCV axes: sideways, turning a little."""
    angle = 0.05 * index
    matrix = np.eye(4)
    matrix[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    matrix[:3, 3] = (0.1 * index, 0.02 * index, -0.05 * index)
    return matrix


def depth(index: int, intrinsics: np.ndarray = INTRINSICS, size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    """(H, W) float64 metres along z of the wall."""
    u, v = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(intrinsics).T
    world = rays @ pose(index)[:3, :3].T
    return (WALL - pose(index)[2, 3]) / world[..., 2]


def picture(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def save(path: Path, index: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(index)).save(path, format="JPEG" if path.suffix.lower() == ".jpg" else None)


def save_millimetres(path: Path, metres: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.round(1000 * metres).astype(np.uint16)).save(path)


def numbers(matrix: np.ndarray) -> str:
    return " ".join(f"{value:.9e}" for value in np.ravel(matrix))


def tum_line(time: str, index: int) -> str:
    half = 0.025 * index  # half of pose()'s angle, about y
    position = " ".join(f"{value:.9f}" for value in pose(index)[:3, 3])
    return f"{time} {position} 0 {np.sin(half):.12f} 0 {np.cos(half):.12f}\n"


def write_kitti(root: Path, scene: str = "00") -> Path:
    folder = root / "sequences" / scene
    for index in range(FRAMES):
        save(folder / "image_2" / f"{index:06d}.png", index)
    camera = np.hstack([INTRINSICS, [[2.5], [0.1], [0.002]]])
    lines = [f"P{k}: {numbers(camera if k == 2 else np.zeros((3, 4)))}\n" for k in range(4)]
    (folder / "calib.txt").write_text("".join([*lines, f"Tr: {numbers(np.eye(4)[:3])}\n"]))
    (folder / "times.txt").write_text("".join(f"{0.1037 * k:.6e}\n" for k in range(FRAMES)))
    if int(scene) <= 10:
        (root / "poses").mkdir(exist_ok=True)
        (root / "poses" / f"{scene}.txt").write_text("".join(f"{numbers(pose(k)[:3])}\n" for k in range(FRAMES)))
    return root


def write_neural_rgbd(root: Path, scene: str = "kitchen") -> Path:
    folder = root / scene
    # At its real size: the principal point is not in any file.
    camera = np.array([[10 * FOCAL, 0, 320.0], [0, 10 * FOCAL, 240.0], [0, 0, 1]])
    lines = []
    (folder / "images").mkdir(parents=True)
    for index in range(FRAMES):
        Image.fromarray(picture(index)).resize((640, 480)).save(folder / "images" / f"img{index}.png", compress_level=1)
        save_millimetres(folder / "depth" / f"depth{index}.png", depth(index, camera, (640, 480)))
        opengl = pose(index) @ np.diag([1.0, -1, -1, 1])
        lines += ["nan nan nan nan\n"] * 4 if index == 4 else [f"{numbers(row)}\n" for row in opengl]
    (folder / "poses.txt").write_text("".join(lines))
    (folder / "focal.txt").write_text(f"{10 * FOCAL}\n")
    return root


def write_eth3d(root: Path, scene: str = "electro", first: int = 9288) -> Path:
    folder = root / scene
    for index in range(FRAMES):
        name = f"DSC_{first + index:04d}"
        save(folder / "images" / "custom_undistorted" / f"{name}.JPG", index)
        raw = folder / "ground_truth_depth" / "custom_undistorted" / f"{name}.JPG"
        raw.parent.mkdir(parents=True, exist_ok=True)
        metres = depth(index).astype("<f4")
        metres[0, 0] = np.inf
        metres.tofile(raw)
        calibration = folder / "custom_undistorted_cam" / f"{name}.npz"
        calibration.parent.mkdir(exist_ok=True)
        np.savez(calibration, intrinsics=INTRINSICS, extrinsics=np.linalg.inv(pose(index)))
    return root


def write_oxford_spires(root: Path, scene: str = "keble-college-02") -> Path:
    folder = root / scene
    for index in range(FRAMES):
        save(folder / "images" / f"{index:06d}.png", index)
        (folder / "depth").mkdir(exist_ok=True)
        np.save(folder / "depth" / f"{index:06d}.npy", depth(index).astype(np.float32))
    (folder / "poses_c2w.txt").write_text("".join(f"{numbers(pose(k))}\n" for k in range(FRAMES)))
    (folder / "intrinsics.txt").write_text(f"{FOCAL} {FOCAL} 32 24 {WIDTH} {HEIGHT}\n")
    return root


def write_tanks_and_temples(root: Path, scene: str = "Ignatius") -> Path:
    folder = root / scene
    lines = []
    for index in range(FRAMES):
        save(folder / f"{index + 1:06d}.jpg", index)
        lines += [f"{index} {index} 0\n", *(f"{numbers(row)}\n" for row in pose(index))]
    (folder / f"{scene}_COLMAP_SfM.log").write_text("".join(lines))
    return root


def write_vbr(root: Path, scene: str = "spagna_train0") -> Path:
    folder = root / f"{scene}_processed_aligned"
    for index in range(FRAMES):
        save(folder / "rgb" / f"{index:06d}.png", index)
    (folder / "intrinsics.txt").write_text("".join(f"{numbers(row)}\n" for row in INTRINSICS))
    (root / "processed_gt").mkdir(exist_ok=True)
    lines = [tum_line(f"{index:.1f}", index) for index in range(FRAMES) if index != 2]
    (root / "processed_gt" / f"{scene}_gt.txt").write_text("".join(lines))
    return root


def write_droid_w(root: Path, scene: str = "downtown1") -> Path:
    folder = root / scene
    for index in range(FRAMES):
        save(folder / "images_anonymized" / f"{1700000000.1 + index / 10:.6f}.jpg", index)
    times = [1700000000.1 + index / 10 + 0.02 for index in range(FRAMES - 1)]
    lines = [tum_line(f"{time:.6f}", index) for index, time in enumerate(times)]
    (folder / "traj_gt.txt").write_text("".join(lines))
    return root


WRITERS = {
    "kitti": write_kitti,
    "neural_rgbd": write_neural_rgbd,
    "eth3d": write_eth3d,
    "oxford_spires": write_oxford_spires,
    "tanks_and_temples": write_tanks_and_temples,
    "vbr": write_vbr,
    "droid_w": write_droid_w,
}
SCENES = {
    "kitti": "00",
    "neural_rgbd": "kitchen",
    "eth3d": "electro",
    "oxford_spires": "keble-college-02",
    "tanks_and_temples": "Ignatius",
    "vbr": "spagna_train0",
    "droid_w": "downtown1",
}
