"""Turns a raw sequence of Oxford Spires into the prepared layout: undistorted images, camera-to-world poses.

Raw: ``RAW/SCENE/raw/cam0/TIME.jpg`` (seconds), ``RAW/SCENE/processed/trajectory/gt-tum.txt`` (poses of the base) and
``RAW/sensor.yaml`` (or ``RAW/SCENE/sensor.yaml``) with cameras of model OPENCV_FISHEYE and the transformations.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from pydantic import BaseModel, ConfigDict, Field

from lingbot_eval.datasets.listing import existing_folder, folders_in, names_in, shown
from lingbot_eval.errors import ConfigError, DataError
from lingbot_eval.files.atomic import atomic_path, write_text, writing
from lingbot_eval.files.images import read_image
from lingbot_eval.files.times import Clock, pair_times
from lingbot_eval.files.trajectories import read_tum
from lingbot_eval.files.yaml_documents import load_mapping
from lingbot_eval.geometry.cameras import LensCamera, undistorted
from lingbot_eval.geometry.poses import inverse, pose_matrix, rotation_from_quaternion
from lingbot_eval.types import FloatArray
from lingbot_eval.validation import validated

MAX_TIME_DIFFERENCE = 0.025  # seconds between an image and its pose, as in the dataset's own tools
CAMERA = "cam0"

_IMAGE = re.compile(r"(\d+(?:\.\d+)?)\.(?:jpg|jpeg|png)", re.IGNORECASE)

Seven = tuple[float, float, float, float, float, float, float]
Four = tuple[float, float, float, float]


class _Camera(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    label: str
    image_width: int = Field(ge=16, le=8192)
    image_height: int = Field(ge=16, le=8192)
    intrinsics: Four
    extra_params: Four
    T_cam_lidar_t_xyz_q_xyzw: Seven


class _Sensor(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    camera_model: str
    cameras: tuple[_Camera, ...] = Field(min_length=1)
    T_base_lidar_t_xyz_q_xyzw: Seven


def read_front_camera(path: Path) -> tuple[LensCamera, FloatArray]:
    """The first camera of a ``sensor.yaml`` called like the front one, and its (4, 4) pose in the base's frame.

    Raises ConfigError with the key.
    """
    document = load_mapping(path)
    sensor = validated(_Sensor, document.get("sensor", document), str(path))
    if sensor.camera_model != "OPENCV_FISHEYE":
        raise ConfigError(f"{path}: camera_model: expected OPENCV_FISHEYE, found {sensor.camera_model[:40]!r}")
    cameras = [camera for camera in sensor.cameras if camera.label == "cam_front"]
    if not cameras:
        labels = shown(camera.label for camera in sensor.cameras)
        raise ConfigError(f"{path}: cameras: expected one labelled cam_front, found {labels}")
    camera = cameras[0]
    size = camera.image_width, camera.image_height
    lens = LensCamera(sensor.camera_model, size, (*camera.intrinsics, *camera.extra_params))
    # base ← lidar ← camera
    from_lidar = inverse(_transformation(camera.T_cam_lidar_t_xyz_q_xyzw, path))
    return lens, _transformation(sensor.T_base_lidar_t_xyz_q_xyzw, path) @ from_lidar


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
    off is no scene for the adapter. Raises DataError, ConfigError and StoreError.
    """
    folder = raw / scene
    sensors = [path for path in (folder / "sensor.yaml", raw / "sensor.yaml") if path.is_file()]
    if not sensors:
        raise DataError(f"oxford_spires: expected sensor.yaml in {folder} or {raw}, found neither; download it")
    lens, on_base = read_front_camera(sensors[0])
    images, times = _images(folder / "raw" / CAMERA)
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


def _images(folder: Path) -> tuple[list[Path], FloatArray]:
    stamped = sorted(
        (float(match[1]), name)
        for name in names_in(existing_folder(folder, "images of oxford_spires"))
        if (match := _IMAGE.fullmatch(name)) is not None
    )
    if not stamped:
        raise DataError(f"oxford_spires: expected images called by their time (TIME.jpg) in {folder}, found none")
    return [folder / name for _, name in stamped], np.array([time for time, _ in stamped])


def _transformation(values: Seven, path: Path) -> FloatArray:
    if np.linalg.norm(values[3:]) < 1e-6 or not np.isfinite(values).all():
        raise ConfigError(f"{path}: expected translation and unit quaternion (x y z qx qy qz qw), found {list(values)}")
    return pose_matrix(rotation_from_quaternion(np.array(values[3:])), np.array(values[:3]))
