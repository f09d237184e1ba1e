"""TUM RGB-D: hand-held sequences with motion-capture poses (protocol.md section 2); Bonn, laid out alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from lingbot_eval.datasets.file_dataset import FileDataset, moved, poses_by_time
from lingbot_eval.datasets.listing import inside, names_listed, shown
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles
from lingbot_eval.errors import DataError, at
from lingbot_eval.files.depth_maps import png_depth
from lingbot_eval.files.reading import finite_number, numbered_lines
from lingbot_eval.files.times import associate
from lingbot_eval.files.trajectories import read_tum
from lingbot_eval.geometry.cameras import pinhole
from lingbot_eval.geometry.poses import orthogonalised
from lingbot_eval.settings import StrictModel
from lingbot_eval.types import FloatArray

MAX_TIME_DIFFERENCE = 0.02  # seconds between an image and its pose or depth map
DEPTH_UNITS = 5000.0  # a metre

INTRINSICS = {
    "freiburg1": pinhole(517.306408, 516.469215, 318.643040, 255.313989),
    "freiburg2": pinhole(520.908620, 521.007327, 325.141442, 249.701764),
    "freiburg3": pinhole(535.4, 539.2, 320.1, 247.6),
}

BONN_INTRINSICS = pinhole(542.822841, 542.576870, 315.593520, 237.756098)
# Of the page of the dataset: axes of ROS, and the camera in those of the markers (with a scale of 1.06).
_ROS = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
_MARKERS = np.array(
    [
        [1.0157, 0.1828, -0.2389, 0.0113],
        [0.0009, -0.8431, -0.6413, -0.0098],
        [-0.3009, 0.6147, -0.8085, 0.0111],
        [0.0, 0.0, 0.0, 1.0],
    ]
)

_CAMERA = re.compile(r"freiburg\d")
_DYNAMIC = re.compile(r"rgbd_dataset_freiburg3_(?:sitting|walking)_.*(?<!_validation)")


Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class TumOptions(StrictModel):
    """camera: of the sequences that ``scenes: all`` means. Validation sequences (no ground truth) are never meant.

    For recordings of one's own in this layout: intrinsics: fx, fy, cx, cy in pixels instead of the calibration that
    the folder's name stands for; every folder is then a scene. depth_scale: units of the depth maps a metre, 1000 for
    millimetres (the dataset's own are 5000).
    """

    camera: Literal["freiburg1", "freiburg2", "freiburg3", "all"] = "freiburg1"
    intrinsics: tuple[Positive, Positive, float, float] | None = None
    depth_scale: Positive = DEPTH_UNITS


class TumLayout(FileDataset):
    """SCENE/{rgb.txt, rgb/, depth.txt, depth/, groundtruth.txt}."""

    marks = ("rgb.txt",)

    def recording(
        self,
        scene: str,
        intrinsics: FloatArray,
        conventions: Mapping[str, str],
        body: FloatArray | None = None,
        into_world: FloatArray | None = None,
        complete: bool = True,
        **more: Any,
    ) -> FileSequence:
        """A recording in this layout: lists of images and depth maps with times, and poses with times.

        body: (4, 4), the camera on what the poses are of; None where they are the camera's. into_world: (4, 4), from
        the world of the poses to another. complete: False leaves out images that are listed and not there, and says so.
        """
        folder = self.folders[scene]
        times, images = _listed(folder, folder / "rgb.txt")
        listed = len(images)
        if not complete:
            there = _present(times, images)
            if not there[1]:
                raise DataError(f"{folder / 'rgb.txt'}: none of its {listed} images is there, such as {images[0]}")
            times, images = there
        missing = listed - len(images)
        truth = folder / "groundtruth.txt"
        trajectory = read_tum(truth) if truth.is_file() else None  # the validation sequences have none
        poses: dict[int, FloatArray] = {}
        if trajectory is not None and images:
            poses = poses_by_time(trajectory, times, MAX_TIME_DIFFERENCE, "rgb.txt")
        poses = moved(poses, body, into_world)
        depths, depth_counts = _depths(folder, times, complete=complete)
        counted = {} if trajectory is not None else {"poses_in_file": 0, "images_with_pose": 0}
        index_files = [path for n in ("rgb", "depth") if (path := folder / f"{n}.txt").is_file()]
        said = dict(conventions)
        said["poses"] += f"; nearest in time to the image, one to one, within {MAX_TIME_DIFFERENCE} s"
        return self.sequence(
            scene,
            [FrameFiles(image, float(times[i]), poses.get(i), depths.get(i)) for i, image in enumerate(images)],
            intrinsics,
            {**said, "timestamps": "of the colour images, seconds", "found": {**counted, **depth_counts}},
            trajectory=trajectory,
            index_files=index_files,
            notes=[f"{missing} images of rgb.txt are not there: left out"] if missing else [],
            **more,
        )


class TumAdapter(TumLayout):
    """ROOT/rgbd_dataset_freiburgN_NAME; each folder is a scene."""

    name = "tum"
    layout = "ROOT/rgbd_dataset_freiburg*/rgb.txt"
    licence = "CC BY 4.0 (Technical University of Munich)"
    Options = TumOptions
    nesting = 1

    def scenes(self) -> tuple[str, ...]:
        """Sequences of the chosen camera. Raises DataError for a root of another shape or without such sequences."""
        there = self.scenes_on_disk()
        wanted = "all" if self.options.intrinsics is not None else self.options.camera
        scenes = [s for s in there if (wanted == "all" or wanted in s) and not s.endswith("_validation")]
        if not scenes:
            raise DataError(
                f"tum: no sequence of camera '{wanted}' under {self.root}, which holds {shown(there)};"
                " set options.camera to another camera, or to all"
            )
        return tuple(scenes)

    def known_scenes(self) -> tuple[str, ...]:
        return self.scenes_on_disk()

    def read(self, scene: str) -> FileSequence:
        """One sequence, of whichever camera. Raises DataError when its lists are not right."""
        intrinsics, calibration = self._intrinsics(scene)
        scale = self.options.depth_scale
        return self.recording(
            scene,
            intrinsics,
            {
                "poses": "motion capture, camera-to-world, metres",
                "depth": f"uint16 / {scale:g} metres, registered to colour; associated like the poses",
                "intrinsics": calibration,
            },
            depth_reader=png_depth(scale),
            depth_scale=scale,
        )

    def _intrinsics(self, scene: str) -> tuple[FloatArray, str]:
        if self.options.intrinsics is not None:
            return pinhole(*self.options.intrinsics), "given in the options"
        camera = _CAMERA.search(scene)
        if camera is None or camera[0] not in INTRINSICS:
            raise DataError(
                f"tum: the folder's name decides the calibration: expected one of {', '.join(INTRINSICS)} in it, found"
                f" {scene!r}; keep the dataset's own folder names, or give options.intrinsics (fx, fy, cx, cy)"
            )
        return INTRINSICS[camera[0]], f"calibrated, {camera[0]}; lens distortion is not removed"


class TumDynamicsAdapter(TumLayout):
    """The sequences of freiburg3 in which people sit or walk, as the field's tables of dynamic scenes take them."""

    name = "tum_dynamics"
    layout = "ROOT/rgbd_dataset_freiburg3_{sitting,walking}_*/rgb.txt"
    licence = TumAdapter.licence
    nesting = 1

    def is_scene(self, folder: Path) -> bool:
        return _DYNAMIC.fullmatch(folder.name) is not None and super().is_scene(folder)

    def read(self, scene: str) -> FileSequence:
        """One sequence. Raises DataError when its lists are not right."""
        return self.recording(
            scene,
            INTRINSICS["freiburg3"],
            {
                "poses": "motion capture, camera-to-world, metres",
                "depth": f"uint16 / {DEPTH_UNITS:g} metres, registered to colour; associated like the poses",
                "intrinsics": "calibrated, freiburg3; images are undistorted",
            },
            complete=False,
            depth_reader=png_depth(DEPTH_UNITS),
        )


class BonnAdapter(TumLayout):
    """ROOT/rgbd_bonn_NAME, TUM's lists; the poses are of markers on the camera, in the axes of its driver."""

    name = "bonn"
    layout = "ROOT/rgbd_bonn_*/rgb.txt"
    licence = "see the dataset's page; not redistributed here"
    nesting = 2

    def read(self, scene: str) -> FileSequence:
        """One recording. Raises DataError when its lists are not right."""
        return self.recording(
            scene,
            BONN_INTRINSICS,
            {
                "poses": "motion capture of markers, camera-to-world, metres: T_ROS T T_ROS T_m of the dataset's page"
                " (the rotation of T_m made one)",
                "depth": f"uint16 / {DEPTH_UNITS:g} metres, registered to colour; associated like the poses",
                "intrinsics": "of the dataset's page; lens distortion is not removed",
            },
            into_world=_ROS,
            body=_ROS @ orthogonalised(_MARKERS),
            complete=False,
            depth_reader=png_depth(DEPTH_UNITS),
        )


def _listed(folder: Path, index: Path) -> tuple[FloatArray, list[Path]]:
    """Timestamps and files of an ``rgb.txt`` or ``depth.txt``: ``time path`` lines, times increasing."""
    times: list[float] = []
    files: list[Path] = []
    for number, text in numbered_lines(index, "list of images"):
        fields = text.split()
        if text.startswith("#"):
            continue
        if len(fields) != 2:
            raise DataError(f"{at(index, number)}: expected 'timestamp filename', found {text[:60]!r}")
        time = finite_number(fields[0], at(index, number), "a timestamp in seconds")
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


def _present(times: FloatArray, files: list[Path]) -> tuple[FloatArray, list[Path]]:
    """The files that are there, and their times."""
    folders = {folder: names_listed(folder) for folder in {path.parent for path in files}}
    there = np.array([path.name in folders[path.parent] for path in files])
    return times[there], [path for path, kept in zip(files, there.tolist(), strict=True) if kept]


def _depths(folder: Path, times: FloatArray, *, complete: bool) -> tuple[dict[int, Path], dict[str, int]]:
    index = folder / "depth.txt"
    if not index.is_file():
        return {}, {"depth_maps_in_list": 0, "images_with_depth": 0}
    depth_times, files = _listed(folder, index)
    if not complete:
        depth_times, files = _present(depth_times, files)
    depth_index, image_index = associate(depth_times, times, MAX_TIME_DIFFERENCE)
    matched = {int(i): files[d] for d, i in zip(depth_index, image_index, strict=True)}
    return matched, {"depth_maps_in_list": len(files), "images_with_depth": len(matched)}
