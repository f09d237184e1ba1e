"""Captures with cameras by structure from motion: nerfstudio's transforms.json, or COLMAP's model beside images; Tanks
and Temples, whose poses are such ones in a log."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lingbot_eval.datasets.calibration import numbers_of, read_document, refuse_focal_lengths
from lingbot_eval.datasets.file_dataset import FileDataset
from lingbot_eval.datasets.listing import IMAGE, NUMBER, inside, names_listed, natural_key
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles
from lingbot_eval.errors import DataError, at
from lingbot_eval.files.images import Size, image_size
from lingbot_eval.files.pose_documents import has_model, nerfstudio_poses, read_model
from lingbot_eval.files.trajectories import read_trajectory
from lingbot_eval.geometry.cameras import MODELS, LensCamera
from lingbot_eval.geometry.poses import finite_poses
from lingbot_eval.types import FloatArray

TRANSFORMS = "transforms.json"
MODEL_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse", "colmap")
MASKS = "masks"
SCALES = ("images", "images_2", "images_4", "images_8")
"""Folders of the same images, the largest first."""

_NO_SUFFIX = (".png", ".jpg", ".jpeg", ".JPG", ".PNG")


@dataclass(frozen=True, eq=False)
class _Entry:
    """What a model says of one image. name: its path as the model has it, in ``folders``, the first that has it.

    masks: names that its mask may have; the first that is there is it.
    """

    name: str
    pose: FloatArray | None
    camera: LensCamera | None
    depth: str | None = None
    masks: tuple[str, ...] = ()


class TanksAndTemplesAdapter(FileDataset):
    """ROOT/SCENE/{NNNNNN.jpg, SCENE_COLMAP_SfM.log}: objects and rooms (protocol.md section 2)."""

    name = "tanks_and_temples"
    layout = "ROOT/SCENE folders with SCENE_COLMAP_SfM.log"
    licence = "CC BY-NC-SA 3.0 (Tanks and Temples training data); see the dataset's page"
    nesting = 1

    def is_scene(self, folder: Path) -> bool:
        return self._log(folder).is_file()

    def read(self, scene: str) -> FileSequence:
        """One scene. Raises DataError when images and log do not fit together."""
        folder = self.folders[scene]
        images, log = self.numbered(folder, NUMBER + IMAGE), self._log(folder)
        # Images count from 1, the log from 0.
        trajectory = read_trajectory(log, "log")
        poses = {entry + 1: pose for entry, pose in trajectory.by_row().items()}
        stray = [n for n in poses if n not in images] if images else []
        if stray:
            line = int(trajectory.lines[list(poses).index(stray[0])])
            raise DataError(
                f"{at(log, line)}: a pose for image {stray[0]:06d}, which is not in {folder}; {len(stray)} in all have"
                " no image: is the set of images complete, and counted from 1?"
            )
        return self.by_number(
            scene,
            images,
            {
                "poses": "COLMAP, camera-to-world, in COLMAP's own unit of length, not metres; entry n for image n + 1",
                "timestamps": "number of the image - 1; the dataset has none",
            },
            times={n: n - 1 for n in images},
            poses=poses,
            trajectory=trajectory,
        )

    @staticmethod
    def _log(scene: Path) -> Path:
        return scene / f"{scene.name}_COLMAP_SfM.log"


class CaptureAdapter(FileDataset):
    """SCENE/{transforms.json, images} or SCENE/{sparse/0, images}, or such a folder itself; images_2 … are copies."""

    name = "capture"
    layout = "SCENE/transforms.json, or SCENE/sparse/0 beside SCENE/images"
    licence = "that of your data"
    nesting = 1

    def is_scene(self, folder: Path) -> bool:
        return (folder / TRANSFORMS).is_file() or any(has_model(folder / inner) for inner in MODEL_FOLDERS)

    def read(self, scene: str) -> FileSequence:
        """Images that the model has, in natural order of their names. Raises DataError when it is malformed."""
        folder = self.folders[scene]
        finder = _Finder(folder, from_root=(folder / TRANSFORMS).is_file())
        if (folder / TRANSFORMS).is_file():
            index_files: tuple[Path, ...] = (folder / TRANSFORMS,)
            entries = _of_nerfstudio(folder / TRANSFORMS, finder)
            what = "OpenGL axes in the file, columns y and z negated"
        else:
            model = read_model(next(folder / inner for inner in MODEL_FOLDERS if has_model(folder / inner)))
            # COLMAP calls the mask of a.jpg a.jpg.png (colmap.github.io/faq.html#mask-image-regions).
            masks = f"{MASKS}/{{}}.png" if (folder / MASKS).is_dir() else ""
            entries = [
                _Entry(name, model.poses.get(name), model.cameras[n], masks=(masks.format(name),) if masks else ())
                for name, n in model.camera_of.items()
            ]
            index_files, what = model.files, "world-to-camera in the model, inverted"
        entries.sort(key=lambda entry: natural_key(entry.name))
        there: dict[str, _Entry] = {}
        missing: list[str] = []
        for entry in entries:
            found = finder.image(entry.name)
            if found is None:
                missing.append(entry.name)
            else:
                there.setdefault(found, entry)
        if not there:
            raise DataError(
                f"{self.name}: scene {scene}: none of the {len(entries)} images of {index_files[-1]} is there, such as"
                f" {entries[0].name[:80]}; are images and model of one capture?"
            )
        cameras = _Cameras(scene)
        files = []
        for position, (found, entry) in enumerate(there.items()):
            path = finder.path(found)
            pinhole, bent = cameras.of(entry.camera, found.rpartition("/")[0], path)
            depth = None if entry.depth is None else finder.first(entry.depth)
            mask = finder.first(*entry.masks) if entry.masks else None
            files.append(FrameFiles(path, float(position), entry.pose, depth, pinhole, None, bent, bent, mask))
        twice = len(entries) - len(missing) - len(there)
        notes = [f"{len(missing)} of {len(entries)} entries have no file, such as {missing[0]}"] if missing else []
        notes += [f"{twice} entries have the image of another one: left out"] if twice else []
        masked = sum(file.mask is not None for file in files)
        if masked < len(files) and any(entry.masks for entry in entries):
            notes.append(f"{len(files) - masked} of {len(files)} images have no mask; all of them is kept")
        return self.sequence(
            scene,
            files,
            None,
            {
                "poses": f"structure from motion, camera-to-world, in a unit of its own; {what}",
                "depth": "uint16 millimetres or NumPy arrays" if any(entry.depth for entry in entries) else "none",
                "intrinsics": "of each image's camera; lens distortion is removed, at the same focal length",
                "timestamps": "position in the capture; it has no times",
                "masks": "0 = left out of what is kept" if masked else "none",
                "found": {
                    "entries": len(entries),
                    "entries_without_file": len(missing),
                    "images_with_pose": sum(file.pose is not None for file in files),
                },
            },
            index_files=index_files,
            notes=notes,
            one_size=False,
        )


class _Finder:
    """Files of a capture by the names that its model has; folders are listed once."""

    def __init__(self, folder: Path, *, from_root: bool) -> None:
        """from_root: whether names begin at the folder, as nerfstudio's do, or at its images."""
        self._folder, self._from_root = folder, from_root
        self._listed: dict[str, tuple[Path, frozenset[str]]] = {}

    def image(self, name: str) -> str | None:
        """`file` of an image, or of its largest smaller copy; None where there is neither."""
        name = _tidy(name)
        if self._from_root:
            first, _, rest = name.partition("/")
            tried = (name, *(f"{scale}/{rest}" for scale in SCALES)) if first in SCALES else (name,)
        else:
            tried = (*(f"{scale}/{name}" for scale in SCALES), name)
        return next((found for path in tried if (found := self.file(path)) is not None), None)

    def file(self, name: str) -> str | None:
        """The name of a file in the folder, with the suffix where ``name`` lacks it; None where there is none.

        Raises DataError for a path that leads out.
        """
        head, _, tail = name.rpartition("/")
        if head not in self._listed:
            folder = inside(self._folder, head or ("." if tail == name else "/"), str(self._folder))
            self._listed[head] = folder, names_listed(folder)
        names = self._listed[head][1]
        return next((name + suffix for suffix in ("", *_NO_SUFFIX) if tail + suffix in names), None)

    def first(self, *names: str) -> Path | None:
        """The path of the first of these that is there. Raises DataError for a path that leads out."""
        return next((self.path(found) for name in names if (found := self.file(_tidy(name))) is not None), None)

    def path(self, found: str) -> Path:
        """The path of what `image` or `file` found."""
        head, _, tail = found.rpartition("/")
        return self._listed[head][0] / tail


def _tidy(name: str) -> str:
    """One spelling for each file: of Windows' slashes, doubled ones and ``./``; ``..`` stays, to be refused."""
    return PurePosixPath(name.replace("\\", "/")).as_posix()


class _Cameras:
    """Cameras in the pixels of the images, which may be smaller copies of those that a model was made of."""

    def __init__(self, scene: str) -> None:
        self._scene = scene
        self._sizes: dict[tuple[Size, str], Size] = {}
        self._known: dict[tuple[int, str], tuple[FloatArray, LensCamera | None]] = {}

    def of(self, camera: LensCamera | None, folder: str, image: Path) -> tuple[FloatArray | None, LensCamera | None]:
        """(3, 3) of an image in a folder, and its lens where that bends it.

        Raises DataError where the image is of another shape.
        """
        if camera is None:
            return None, None
        key = id(camera), folder
        if key not in self._known:
            alike = camera.size, folder
            if alike not in self._sizes:  # one image stands for all: each has its header read when it is decoded
                self._sizes[alike] = image_size(image, f"capture: {self._scene}")
            lens = _resized(camera, self._sizes[alike], image)
            self._known[key] = lens.intrinsics, lens if lens.bends else None
        return self._known[key]


def _resized(camera: LensCamera, size: Size, image: Path) -> LensCamera:
    if camera.size == size or 0 in camera.size:
        return dataclasses.replace(camera, size=size)
    along, across = size[0] / camera.size[0], size[1] / camera.size[1]
    if abs(along / across - 1) > 0.02:
        raise DataError(
            f"{image}: expected {camera.size[0]}x{camera.size[1]} pixels as its camera, or a smaller copy, found"
            f" {size[0]}x{size[1]}; is it of this capture?"
        )
    numbers = []
    for name, value in zip(MODELS[camera.model], camera.numbers, strict=True):
        scale = across if name in ("fy", "cy") else along
        centred = name in ("cx", "cy")
        numbers.append((value + 0.5) * scale - 0.5 if centred else value * scale if name[0] == "f" else value)
    return LensCamera(camera.model, size, tuple(numbers))


def _of_nerfstudio(path: Path, finder: _Finder) -> list[_Entry]:
    """Entries of a transforms.json, those of ``test_frames`` among them. Raises DataError with the frame."""
    document = read_document(path)
    frames = [frame for key in ("frames", "test_frames") for frame in document.get(key) or []]
    wrong = [n for n, frame in enumerate(frames) if not isinstance(frame, dict) or not _is_named(frame)]
    if not frames or wrong:
        place = f": frame {wrong[0]}" if wrong else ""
        raise DataError(f"{path}{place}: expected a list 'frames' of file_path and transform_matrix, found other JSON")
    if "fl_x" not in document and "camera_angle_x" in document and not {"w", "h"} <= document.keys():
        first = next((found for frame in frames if (found := finder.image(frame["file_path"])) is not None), None)
        width, height = (0, 0) if first is None else image_size(finder.path(first), str(path))
        document = {**document, "w": width, "h": height} if width else document
    shared = _camera(document, path)
    entries = []
    poses = nerfstudio_poses(frames, path)
    for frame, pose, is_known in zip(frames, poses, finite_poses(poses).tolist(), strict=True):
        own = _camera({**document, **frame}, path) if "fl_x" in frame else shared
        depth = frame.get("depth_file_path")
        mask = frame.get("mask_path")
        entries.append(
            _Entry(
                frame["file_path"],
                pose if is_known else None,
                own,
                depth if isinstance(depth, str) else None,
                (mask,) if isinstance(mask, str) else (),
            )
        )
    return entries


def _is_named(frame: dict[str, Any]) -> bool:
    return isinstance(frame.get("file_path"), str) and bool(frame["file_path"])


def _camera(document: Mapping[str, Any], path: Path) -> LensCamera | None:
    """The camera of a transforms.json, or of one of its frames; None where it says none.

    Pixels count from the corner of the image there, and from the first one's centre here.
    """
    # Instant NGP has a word of its own for COLMAP's.
    model = str(document.get("camera_model", "OPENCV_FISHEYE" if document.get("is_fisheye") is True else "OPENCV"))
    if "fl_x" not in document and "camera_angle_x" in document and "w" in document:
        width, height, angle = (numbers_of(document, key, 1, path)[0] for key in ("w", "h", "camera_angle_x"))
        if not 0 < angle < math.pi or width < 1 or height < 1:
            raise DataError(
                f"{path}: expected a field of view between 0 and pi and a size, found {angle:g} and {width:g}"
            )
        focal = 0.5 * width / math.tan(0.5 * angle)
        return LensCamera("SIMPLE_PINHOLE", (int(width), int(height)), (focal, (width - 1) / 2, (height - 1) / 2))
    if "fl_x" not in document:
        return None
    if model not in MODELS:
        raise DataError(f"{path}: expected camera_model as one of {', '.join(MODELS)}, found {model[:40]!r}")
    named = {"f": "fl_x", "fx": "fl_x", "fy": "fl_y" if "fl_y" in document else "fl_x"}
    if model in ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"):
        model = "OPENCV"  # which has all of their numbers
    further = [
        numbers_of(document, key, 1, path)[0] if key in document else 0.0 for key in ("k3", "k4") if model == "OPENCV"
    ]
    if any(further):
        if further[1]:
            raise DataError(
                f"{path}: expected a perspective camera of k1, k2, k3, p1, p2, found k4 {further[1]:g}, too"
            )
        model = "FULL_OPENCV"
    numbers = []
    for name in MODELS[model]:
        key = named.get(name, name)
        value = numbers_of(document, key, 1, path)[0] if key in document or name[0] in "fc" else 0.0
        numbers.append(value - 0.5 if name in ("cx", "cy") else value)
    size = [int(numbers_of(document, key, 1, path)[0]) if key in document else 0 for key in ("w", "h")]
    refuse_focal_lengths(numbers, path)
    return LensCamera(model, (size[0], size[1]), tuple(numbers))
