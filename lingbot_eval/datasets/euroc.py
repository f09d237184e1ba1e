"""EuRoC: a micro aerial vehicle in halls and rooms, poses by laser tracker and motion capture (ASL's raw layout)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lingbot_eval.datasets.calibration import numbers_of, read_yaml
from lingbot_eval.datasets.file_dataset import FileDataset
from lingbot_eval.datasets.listing import names_listed, shown
from lingbot_eval.datasets.reference_poses import moved, poses_by_time
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles
from lingbot_eval.errors import DataError, at
from lingbot_eval.files.pose_tables import checked_rigid
from lingbot_eval.files.text import numbered_lines
from lingbot_eval.files.times import read_stamps
from lingbot_eval.files.trajectories import read_trajectory
from lingbot_eval.geometry.cameras import LensCamera
from lingbot_eval.types import FloatArray

MAX_TIME_DIFFERENCE = 0.01  # seconds between an image and its pose

_TRUTH = ("state_groundtruth_estimate0", "mocap0")  # EuRoC, and TUM VI in its layout
# How Kalibr, ROS and others call them, by their first letters.
_LENSES = {"rad": "OPENCV", "plumb": "OPENCV", "equi": "OPENCV_FISHEYE", "fisheye": "OPENCV_FISHEYE"}


class EurocAdapter(FileDataset):
    """SCENE/mav0/{cam0/{data.csv, data/*.png, sensor.yaml}, state_groundtruth_estimate0/data.csv}."""

    name = "euroc"
    layout = "SCENE/mav0/cam0/data.csv"
    licence = "In Copyright, non-commercial use permitted; see the dataset's page"
    marks = ("mav0/cam0/data.csv",)
    nesting = 2

    def read(self, scene: str) -> FileSequence:
        """One flight. Raises DataError when its lists or its calibration are malformed."""
        folder = self.folders[scene] / "mav0"
        index, sensor = folder / "cam0" / "data.csv", folder / "cam0" / "sensor.yaml"
        images, times, missing = listed_images(index)
        lens, on_body = sensor_of(read_yaml(sensor), sensor, "T_BS", "distortion_coefficients")
        truth = next((path for name in _TRUTH if (path := folder / name / "data.csv").is_file()), None)
        trajectory = None if truth is None else read_trajectory(truth, "euroc")
        poses = {}
        if trajectory is not None and images:
            poses = moved(poses_by_time(trajectory, times, MAX_TIME_DIFFERENCE, "cam0/data.csv"), on_body)
        bent = lens if lens.bends else None
        how = "nearest in time to the image, one to one, within"
        return self.sequence(
            scene,
            [FrameFiles(image, float(times[i]), poses.get(i), lens=bent) for i, image in enumerate(images)],
            lens.intrinsics,
            {
                "poses": f"of the camera: {truth.parent.name if truth else 'none'}, body-to-world, times T_BS of"
                f" sensor.yaml; metres; {how} {MAX_TIME_DIFFERENCE:g} s",
                "intrinsics": "sensor.yaml; lens distortion is removed, bilinearly, at the same focal length",
                "timestamps": "cam0/data.csv, nanoseconds",
                "found": {"entries": len(images) + missing, "entries_without_file": missing},
            },
            trajectory=trajectory,
            index_files=(index, sensor),
            notes=[f"{missing} entries of {index.name} have no image: left out"] if missing else [],
        )


def listed_images(index: Path) -> tuple[list[Path], FloatArray, int]:
    """Images of a ``data.csv`` (nanoseconds,file) that are there, their times in seconds, and how many are not.

    Raises DataError with file and line.
    """
    folder = index.parent / "data"
    there = names_listed(folder)
    words: list[str] = []
    names: list[str] = []
    lines: list[int] = []
    missing = 0
    for number, line in numbered_lines(index, "list of images"):
        fields = [field.strip() for field in line.split(",")]
        if not fields[0] or fields[0].startswith("#"):
            continue
        if not fields[0].isdecimal():
            raise DataError(f"{at(index, number)}: expected 'nanoseconds,filename', found {line[:60]!r}")
        name = fields[1] if len(fields) > 1 and fields[1] else f"{fields[0]}.png"
        if name not in there:
            missing += 1
            continue
        words.append(fields[0])
        names.append(name)
        lines.append(number)
    if not words and missing:
        raise DataError(f"{index}: none of its {missing} images is in {folder}, which holds {shown(sorted(there), 4)}")
    if not words:
        return [], np.empty(0), missing
    times = read_stamps(words, "ns").seconds
    wrong = np.flatnonzero(~(np.diff(times) > 0))
    if len(wrong):
        raise DataError(f"{at(index, lines[int(wrong[0]) + 1])}: expected increasing times; sort the list")
    return [folder / name for name in names], times, missing


def sensor_of(document: dict[str, Any], path: Path, key: str, coefficients: str) -> tuple[LensCamera, FloatArray]:
    """The camera that a calibration describes, and its (4, 4) pose on the body.

    key: of the pose. coefficients: key of the lens's numbers. Raises DataError.
    """
    said = str(document.get("distortion_model", "radial-tangential")).lower()
    model = next((name for start, name in _LENSES.items() if said.startswith(start)), None)
    if model is None:
        raise DataError(f"{path}: expected distortion_model radial-tangential or equidistant, found {said[:40]!r}")
    width, height = numbers_of(document, "resolution", 2, path)
    numbers = [*numbers_of(document, "intrinsics", 4, path), *_coefficients(document, coefficients, path)]
    if min(numbers[:2]) <= 0:
        raise DataError(f"{path}: expected positive focal lengths, found {numbers[:2]}")
    lens = LensCamera(model, (int(width), int(height)), tuple(numbers))
    pose = checked_rigid(np.array(numbers_of(document, key, 16, path)).reshape(4, 4), f"{path}: {key}")
    return lens, pose


def _coefficients(document: dict[str, Any], key: str, path: Path) -> list[float]:
    """Four numbers of a lens; a fifth that is 0, which some write, is passed over."""
    listed = document.get(key)
    if isinstance(listed, list) and len(listed) == 5 and listed[4] == 0:
        document = {key: listed[:4]}
    return numbers_of(document, key, 4, path)
