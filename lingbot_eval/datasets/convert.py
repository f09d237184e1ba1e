"""Turns a raw sequence of Oxford Spires into the prepared layout: undistorted images, camera-to-world poses.

Raw: ``RAW/SCENE/raw/cam0/TIME.jpg`` (seconds), ``RAW/SCENE/processed/trajectory/gt-tum.txt`` (poses of the base) and
``RAW/sensor.yaml`` (or ``RAW/SCENE/sensor.yaml``) with cameras of model OPENCV_FISHEYE and the transformations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from lingbot_eval.datasets.calibration import numbers_of, read_yaml, refuse_focal_lengths
from lingbot_eval.datasets.listing import existing_folder, folders_in, names_in, shown, timed_files
from lingbot_eval.errors import DataError
from lingbot_eval.files.atomic import atomic_path, write_text, writing
from lingbot_eval.files.images import read_image
from lingbot_eval.files.times import Clock, pair_times
from lingbot_eval.files.trajectories import read_tum
from lingbot_eval.geometry.cameras import LensCamera, undistorted
from lingbot_eval.geometry.pose_reading import camera_in_body
from lingbot_eval.geometry.poses import inverse
from lingbot_eval.types import FloatArray

MAX_TIME_DIFFERENCE = 0.025  # seconds between an image and its pose, as in the dataset's own tools
CAMERA = "cam0"


def read_front_camera(path: Path) -> tuple[LensCamera, FloatArray]:
    """The first camera of a ``sensor.yaml`` called like the front one, and its (4, 4) pose in the base's frame.

    Raises DataError with the key.
    """
    document = read_yaml(path)
    sensor = document.get("sensor", document)
    listed = sensor.get("cameras") if isinstance(sensor, dict) else None
    cameras = [camera for camera in listed or () if isinstance(camera, dict)] if isinstance(listed, list) else []
    model = str(sensor.get("camera_model")) if isinstance(sensor, dict) else "none"
    if model != "OPENCV_FISHEYE":
        raise DataError(f"{path}: camera_model: expected OPENCV_FISHEYE, found {model[:40]!r}")
    camera = next((camera for camera in cameras if camera.get("label") == "cam_front"), None)
    if camera is None:
        labels = shown(str(camera.get("label")) for camera in cameras)
        raise DataError(f"{path}: cameras: expected one labelled cam_front, found {labels}")
    width, height = (int(numbers_of(camera, f"image_{side}", 1, path)[0]) for side in ("width", "height"))
    if not (16 <= width <= 8192 and 16 <= height <= 8192):
        raise DataError(f"{path}: expected images of 16 to 8192 pixels a side, found {width}x{height}")
    numbers = [number for key in ("intrinsics", "extra_params") for number in numbers_of(camera, key, 4, path)]
    refuse_focal_lengths(numbers, path)
    # base ← lidar ← camera
    from_lidar = inverse(_transformation(camera, "T_cam_lidar_t_xyz_q_xyzw", path))
    on_base = _transformation(sensor, "T_base_lidar_t_xyz_q_xyzw", path) @ from_lidar
    return LensCamera(model, (width, height), tuple(numbers)), on_base


def scenes_in(raw: Path) -> list[str]:
    """Folders with ``raw/cam0``. Raises DataError when there is none."""
    existing_folder(raw, "raw release of oxford_spires")
    scenes = [name for name in folders_in(raw) if (raw / name / "raw" / CAMERA).is_dir()]
    if not scenes:
        raise DataError(f"oxford_spires: expected RAW/SCENE/raw/{CAMERA} under {raw}, found {shown(names_in(raw))}")
    return scenes


def prepare_scene(raw: Path, scene: str, out: Path, each: Callable[[], None]) -> int:
    """Write ``out/SCENE``; returns how many images it has. each: called after every image.

    Images that an earlier call finished stay; poses and intrinsics are written last, so that a scene that was broken
    off is no scene for the adapter. Raises DataError and StoreError.
    """
    folder = raw / scene
    sensors = [path for path in (folder / "sensor.yaml", raw / "sensor.yaml") if path.is_file()]
    if not sensors:
        raise DataError(f"oxford_spires: expected sensor.yaml in {folder} or {raw}, found neither; download it")
    lens, on_base = read_front_camera(sensors[0])
    images, times = timed_files(folder / "raw" / CAMERA, "oxford_spires")
    if not images:
        raise DataError(f"oxford_spires: expected images called by their time (TIME.jpg) in {folder}, found none")
    truth = folder / "processed" / "trajectory" / "gt-tum.txt"
    trajectory = read_tum(truth)
    clock = Clock(f"images in {folder / 'raw' / CAMERA}", times, "frames")
    image_index, pose_index = pair_times(
        clock, trajectory.clock(str(truth)), MAX_TIME_DIFFERENCE, "is it of this scene?"
    )
    poses = trajectory.camera_to_world[pose_index] @ on_base
    target = out / scene
    with writing(target):
        (target / "images").mkdir(parents=True, exist_ok=True)
    for number, index in enumerate(image_index.tolist()):
        path = target / "images" / f"{number:06d}.png"
        if not path.is_file():
            image = read_image(images[index], f"oxford_spires: {scene}", lens.size)
            with atomic_path(path) as temporary:
                PillowImage.fromarray(undistorted(image, lens)).save(temporary, format="PNG", compress_level=3)
        each()
    write_text(target / "intrinsics.txt", " ".join(map(repr, (*lens.numbers[:4], *lens.size))) + "\n")
    write_text(
        target / "poses_c2w.txt", "".join(" ".join(map(repr, pose)) + "\n" for pose in poses.reshape(-1, 16).tolist())
    )
    return len(poses)


def _transformation(document: Mapping[str, Any], key: str, path: Path) -> FloatArray:
    values = tuple(numbers_of(document, key, 7, path))
    if np.linalg.norm(values[3:]) < 1e-6:
        raise DataError(
            f"{path}: {key}: expected translation and unit quaternion (x y z qx qy qz qw), found {list(values)}"
        )
    return camera_in_body(values)
