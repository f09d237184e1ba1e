"""TUM RGB-D: hand-held sequences with motion-capture poses (protocol.md section 2)."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lingbot_eval.datasets.listing import existing_folder, folders_in, inside, names_in, shown, unknown_scene
from lingbot_eval.datasets.protocol import Selection
from lingbot_eval.datasets.readers import png_depth
from lingbot_eval.datasets.reference_poses import facts_of, poses_by_time
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles, pinhole
from lingbot_eval.errors import DataError, at
from lingbot_eval.files.association import associate
from lingbot_eval.files.text import parse_number, read_text
from lingbot_eval.files.trajectories import read_tum
from lingbot_eval.types import FloatArray

MAX_TIME_DIFFERENCE = 0.02  # seconds between an image and its pose or depth map
DEPTH_UNITS = 5000.0  # a metre

INTRINSICS = {
    "freiburg1": pinhole(517.306408, 516.469215, 318.643040, 255.313989),
    "freiburg2": pinhole(520.908620, 521.007327, 325.141442, 249.701764),
    "freiburg3": pinhole(535.4, 539.2, 320.1, 247.6),
}

_CAMERA = re.compile(r"freiburg\d")


Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class TumOptions(BaseModel):
    """camera: of the sequences that ``scenes: all`` means. Validation sequences (no ground truth) are never meant.

    For recordings of one's own in this layout: intrinsics: fx, fy, cx, cy in pixels instead of the calibration that
    the folder's name stands for; every folder is then a scene. depth_scale: units of the depth maps a metre, 1000 for
    millimetres (the dataset's own are 5000).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    camera: Literal["freiburg1", "freiburg2", "freiburg3", "all"] = "freiburg1"
    intrinsics: tuple[Positive, Positive, float, float] | None = None
    depth_scale: Positive = DEPTH_UNITS


class TumAdapter:
    """ROOT/rgbd_dataset_freiburgN_NAME; each folder is a scene."""

    name = "tum"
    Options = TumOptions

    def __init__(self, root: Path, options: TumOptions) -> None:
        self._root = root
        self._options = options

    def scenes(self) -> tuple[str, ...]:
        """Sequences of the chosen camera. Raises DataError for a root of another shape or without such sequences."""
        there = self._sequences()
        wanted = "all" if self._options.intrinsics is not None else self._options.camera
        scenes = [s for s in there if (wanted == "all" or wanted in s) and not s.endswith("_validation")]
        if not scenes:
            raise DataError(
                f"tum: no sequence of camera '{wanted}' under {self._root}, which holds {shown(there)};"
                " set options.camera to another camera, or to all"
            )
        return tuple(scenes)

    def open(self, scene: str, selection: Selection) -> FileSequence:
        """One sequence, of whichever camera. Raises DataError when it is not there or its lists are not right."""
        there = self._sequences()
        if scene not in there:
            raise unknown_scene("tum", scene, there)
        folder = self._root / scene
        intrinsics, calibration = self._intrinsics(scene)
        times, images = _listed(folder, folder / "rgb.txt")
        poses, pose_facts = _poses(folder / "groundtruth.txt", times)
        depths, depth_counts = _depths(folder, times)
        chosen = selection.indices(len(images))
        if not chosen:
            raise DataError(
                f"tum: scene {scene} has {len(images)} frames and the selection starts at {selection.start}:"
                " no frame is left; start earlier"
            )
        options = self._options
        files = [FrameFiles(images[i], float(times[i]), poses.get(i), depths.get(i)) for i in chosen]
        index_files = [path for n in ("rgb", "depth", "groundtruth") if (path := folder / f"{n}.txt").is_file()]
        return FileSequence(
            dataset="tum",
            scene=scene,
            root=self._root,
            files=files,
            intrinsics=intrinsics,
            conventions={
                "poses": "motion capture, camera-to-world, metres; nearest in time to the image, one to one, within"
                f" {MAX_TIME_DIFFERENCE} s",
                "depth": f"uint16 / {options.depth_scale:g} metres, registered to colour; associated like the poses",
                "intrinsics": calibration,
                "timestamps": "of the colour images, seconds",
                **pose_facts,
                "found": {**pose_facts["found"], **depth_counts},
                "licence": "CC BY 4.0 (Technical University of Munich)",
            },
            index_files=tuple(index_files),
            depth_reader=png_depth(options.depth_scale),
            depth_scale=options.depth_scale,
        )

    def _intrinsics(self, scene: str) -> tuple[FloatArray, str]:
        if self._options.intrinsics is not None:
            return pinhole(*self._options.intrinsics), "given in the options"
        camera = _CAMERA.search(scene)
        if camera is None or camera[0] not in INTRINSICS:
            raise DataError(
                f"tum: the folder's name decides the calibration: expected one of {', '.join(INTRINSICS)} in it, found"
                f" {scene!r}; keep the dataset's own folder names, or give options.intrinsics (fx, fy, cx, cy)"
            )
        return INTRINSICS[camera[0]], f"calibrated, {camera[0]}; lens distortion is not removed"

    def _sequences(self) -> list[str]:
        root = existing_folder(self._root, "root of dataset tum")
        sequences = [name for name in folders_in(root) if (root / name / "rgb.txt").is_file()]
        if sequences:
            return sequences
        if (root / "rgb.txt").is_file():
            hint = f"found rgb.txt directly in it: the root is one level too low, use {root.parent}"
        else:
            below = [
                n for n in folders_in(root) if any((root / n / m / "rgb.txt").is_file() for m in folders_in(root / n))
            ]
            archives = [name for name in names_in(root) if name.endswith((".tgz", ".tar.gz"))]
            if below:
                hint = f"found them under {below[0]}: the root is one level too high, use {root / below[0]}"
            elif archives:
                hint = f"found archives ({shown(archives, 4)}): unpack them"
            else:
                hint = f"found {shown(names_in(root))}"
        raise DataError(f"tum: expected ROOT/rgbd_dataset_freiburg*/rgb.txt under {root}, {hint}")


def _listed(folder: Path, index: Path) -> tuple[FloatArray, list[Path]]:
    """Timestamps and files of an ``rgb.txt`` or ``depth.txt``: ``time path`` lines, times increasing."""
    times: list[float] = []
    files: list[Path] = []
    for number, text in enumerate(read_text(index, "list of images").split("\n"), start=1):
        fields = text.split()
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) != 2:
            raise DataError(f"{at(index, number)}: expected 'timestamp filename', found {text.strip()[:60]!r}")
        try:
            time = parse_number(fields[0])
        except ValueError:
            time = math.nan
        if not math.isfinite(time):
            raise DataError(f"{at(index, number)}: expected a timestamp in seconds, found {fields[0][:40]!r}")
        if times and time <= times[-1]:
            raise DataError(
                f"{at(index, number)}: expected increasing timestamps, found {time:.6f} after {times[-1]:.6f};"
                " sort the list by time and keep each time once"
            )
        times.append(time)
        files.append(inside(folder, fields[1], at(index, number)))
    if not files:
        raise DataError(f"{index}: expected 'timestamp filename' lines, found none; the scene has no frames")
    return np.array(times), files


def _poses(path: Path, times: FloatArray) -> tuple[dict[int, FloatArray], dict[str, Any]]:
    if not path.is_file():  # the validation sequences have none
        return {}, {"found": {"poses_in_file": 0, "images_with_pose": 0}}
    trajectory = read_tum(path)
    matched = poses_by_time(trajectory, times, MAX_TIME_DIFFERENCE, "rgb.txt")
    return matched, facts_of(trajectory, len(matched))


def _depths(folder: Path, times: FloatArray) -> tuple[dict[int, Path], dict[str, int]]:
    index = folder / "depth.txt"
    if not index.is_file():
        return {}, {"depth_maps_in_list": 0, "images_with_depth": 0}
    depth_times, files = _listed(folder, index)
    depth_index, image_index = _pairs(depth_times, times)
    matched = {int(i): files[d] for d, i in zip(depth_index, image_index, strict=True)}
    return matched, {"depth_maps_in_list": len(files), "images_with_depth": len(matched)}


def _pairs(reference: FloatArray, times: FloatArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return associate(reference, times, MAX_TIME_DIFFERENCE)
