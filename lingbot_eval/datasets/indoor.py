"""Indoor scans: 7-Scenes by Kinect; ScanNet, as its own reader exports frames, and ScanNet++, by phone and camera."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lingbot_eval.datasets.calibration import checked_pinhole, numbers_of, read_document, read_numbers
from lingbot_eval.datasets.file_dataset import FileDataset
from lingbot_eval.datasets.listing import IMAGE, NUMBER, existing_folder, folders_in, names_in, root_hint, shown
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles
from lingbot_eval.errors import DataError, at
from lingbot_eval.files.depth_maps import opened_depth
from lingbot_eval.files.images import image_size
from lingbot_eval.files.pose_documents import image_stem, read_model
from lingbot_eval.files.pose_tables import checked_matrices
from lingbot_eval.files.reading import numbered_lines
from lingbot_eval.geometry.cameras import pinhole, resized_intrinsics
from lingbot_eval.settings import StrictModel
from lingbot_eval.types import FloatArray

COLOUR_INTRINSICS = pinhole(525.0, 525.0, 320.0, 240.0)
DEPTH_INTRINSICS = pinhole(585.0, 585.0, 320.0, 240.0)  # of frame-*.depth.png, the sensor's own view
FRAMES_PER_SECOND = 30.0  # the sensor's rate; the dataset itself has no timestamps

_SPLIT_LINE = re.compile(r"sequence\s*(\d{1,9})", re.IGNORECASE)
_SEQUENCE = re.compile(r"seq-\d+")


class SevenScenesOptions(StrictModel):
    """split: which sequences ``scenes: all`` means; ``all`` takes every sequence on disk, split files or not."""

    split: Literal["test", "train", "all"] = "test"


class SevenScenesAdapter(FileDataset):
    """ROOT/SCENE/seq-NN; each sequence is a scene called ``SCENE/seq-NN``."""

    name = "seven_scenes"
    layout = "ROOT/SCENE/seq-NN folders"
    licence = "Microsoft Research 7-Scenes licence: research use only"
    Options = SevenScenesOptions

    def scenes(self) -> tuple[str, ...]:
        """Sequences of the split. Raises DataError for a root of another shape and for missing or wrong split files."""
        found = [
            f"{place}/{sequence}"
            for place in self._places()
            for sequence in (self._on_disk(place) if self.options.split == "all" else self._in_split(place))
        ]
        if not found:
            raise DataError(
                f"seven_scenes: no sequence in split '{self.options.split}' under {self.root}; set options.split to"
                " another split, or to all"
            )
        return tuple(found)

    def known_scenes(self) -> list[str]:
        return [f"{place}/{sequence}" for place in self._places() for sequence in self._on_disk(place)]

    def read(self, scene: str) -> FileSequence:
        """One sequence, in whichever split it is. Raises DataError when it has no frames."""
        folder = self.root / scene
        images, registered, own, poses = (
            self.numbered(folder, rf"frame-{NUMBER}\.{kind}")
            for kind in (f"color{IMAGE}", r"depth\.proj\.png", r"depth\.png", r"pose\.txt")
        )
        if not images:
            raise DataError(
                f"seven_scenes: scene {scene} in {folder} has no frames (frame-NNNNNN.color.png or .jpg);"
                f" it holds {shown(names_in(folder), 6)}"
            )
        numbered = images.keys() | registered.keys() | own.keys() | poses.keys()
        files = [
            FrameFiles(
                image,
                n / FRAMES_PER_SECOND,
                poses.get(n),
                registered.get(n, own.get(n)),
                depth_intrinsics=DEPTH_INTRINSICS if n in own and n not in registered else None,
            )
            for n, image in images.items()
        ]
        return self.sequence(
            scene,
            files,
            COLOUR_INTRINSICS,
            {
                "poses": "KinectFusion, camera-to-world, metres, as in the files (rotations orthogonal to about 1e-3)",
                "depth": "uint16 millimetres, 0 and 65535 invalid",
                "depth_registered_frames": sum(n in registered for n in images),
                "depth_registration": "frame-*.depth.proj.png as it is; frame-*.depth.png (K = 585) looked up along the"
                " colour camera's rays, the distance between the sensors not corrected",
                "intrinsics": "nominal, of the colour camera: 525, 525, 320, 240 (585 is the depth camera's)",
                "intrinsics_source": "nominal",
                "timestamps": f"frame number / {FRAMES_PER_SECOND:g} Hz (nominal)",
                "frames_without_image": len(numbered) - len(images),
            },
            numbers=list(images),
        )

    def _places(self) -> list[str]:
        root = existing_folder(self.root, "root of dataset seven_scenes")
        places = [name for name in folders_in(root) if self._on_disk(name)]
        if places:
            return places
        hint = root_hint(root, lambda folder: any(_sequences(folder / name) for name in folders_in(folder)))
        raise DataError(f"seven_scenes: expected {self.layout} (their seq-NN.zip unpacked, too) under {root}, {hint}")

    def _on_disk(self, place: str) -> list[str]:
        return _sequences(self.root / place)

    def _in_split(self, place: str) -> Iterator[str]:
        path = self.root / place / f"{self.options.split.capitalize()}Split.txt"
        there = self._on_disk(place)
        seen: dict[str, int] = {}
        for number, line in numbered_lines(path, "split file"):
            match = _SPLIT_LINE.fullmatch(line)
            if match is None:
                raise DataError(f"{at(path, number)}: expected 'sequenceN', found {line[:60]!r}")
            name = f"seq-{int(match[1]):02d}"
            if name not in there:
                raise DataError(
                    f"{at(path, number)}: {name} is listed but {self.root / place} holds only {shown(there)};"
                    " unpack or download it, name the scenes you want, or set options.split to all"
                )
            if name in seen:
                raise DataError(f"{at(path, number)}: {name} is in line {seen[name]} already; keep one of the lines")
            seen[name] = number
            yield name


def _sequences(folder: Path) -> list[str]:
    return [name for name in folders_in(folder) if _SEQUENCE.fullmatch(name)]


SCANNET_COLOUR = (1296, 968)  # pixels of the images that intrinsic_color.txt is of

_COLOUR = rf"(?:frame[-_])?{NUMBER}(?:\.color)?{IMAGE}"
_DEPTH = rf"(?:frame[-_])?{NUMBER}(?:\.depth)?\.png"
_POSE = rf"(?:frame[-_])?{NUMBER}(?:\.pose)?\.txt"
_UNDISTORTED = ("resized_undistorted_images", "undistorted_images", "image_undistorted")


class ScanNetAdapter(FileDataset):
    """SCENE/{color/N.jpg, depth/N.png, pose/N.txt, intrinsic/intrinsic_{color,depth}.txt}, also under SCENE/frames."""

    name = "scannet"
    layout = "SCENE/color/N.jpg, depth/N.png, pose/N.txt, intrinsic/"
    licence = "ScanNet Terms of Use: non-commercial research"
    nesting = 2

    def is_scene(self, folder: Path) -> bool:
        return _exported(folder) is not None

    def read(self, scene: str) -> FileSequence:
        """One scan. Raises DataError when its calibration is malformed."""
        folder = _exported(self.folders[scene]) or self.folders[scene]
        images = self.numbered(folder / "color", _COLOUR)
        depths = self.numbered(folder / "depth", _DEPTH, optional=True)
        poses = self.numbered(folder / "pose", _POSE, optional=True)
        calibrations = [_intrinsics_file(folder, kind) for kind in ("color", "depth")]
        colour, depth = map(_intrinsics, calibrations)
        notes: list[str] = []
        if colour is not None and images:
            size = image_size(next(iter(images.values())), f"{self.name}: {scene}")
            if abs(2 * colour[0, 2] / size[0] - 1) > 0.2:  # no camera's axis is so far off: of images before resizing
                colour = resized_intrinsics(colour, SCANNET_COLOUR, size)
                notes = [f"intrinsics of {SCANNET_COLOUR[0]}x{SCANNET_COLOUR[1]} pixels are scaled to the images'"]
        return self.sequence(
            scene,
            [
                FrameFiles(
                    image,
                    n / self.frames_per_second,
                    poses.get(n),
                    depths.get(n),
                    depth_intrinsics=depth if n in depths else None,
                )
                for n, image in images.items()
            ],
            colour,
            {
                "poses": "BundleFusion, camera-to-world, metres; -inf in the file = lost",
                "depth": "uint16 millimetres, of its own camera and size, looked up along the colour camera's rays"
                if depth is not None
                else "uint16 millimetres",
                "intrinsics": "none" if colour is None else "intrinsic/intrinsic_color.txt",
                "timestamps": self.nominal_times,
            },
            numbers=list(images),
            index_files=[path for path in calibrations if path is not None],
            notes=notes,
            depth_has_own_size=True,
        )


def _exported(folder: Path) -> Path | None:
    """Where the frames of a scan are: in it, or in its ``frames`` or ``exported``; None for no scan."""
    return next((f for f in (folder, folder / "frames", folder / "exported") if (f / "color").is_dir()), None)


def _intrinsics_file(folder: Path, kind: str) -> Path | None:
    places = (folder / "intrinsic", folder / "intrinsics", folder)
    names = (f"intrinsic_{kind}.txt", f"intrinsics_{kind}.txt")  # the latter in scannet_frames_25k
    return next((path for place in places for name in names if (path := place / name).is_file()), None)


def _intrinsics(path: Path | None) -> FloatArray | None:
    """(3, 3) of a 4×4 file; None for none."""
    if path is None:
        return None
    names = [f"{row}{column}" for row in "1234" for column in "1234"]
    matrix = np.array(read_numbers(path, names)).reshape(4, 4)[:3, :3]
    matrix[0, 1] = 0.0  # a skew of a thousandth of a pixel in some
    return checked_pinhole(matrix, str(path))


class ScanNetPPOptions(StrictModel):
    """camera: the telephone's video frames, or the photographs of the camera with a fisheye lens."""

    camera: Literal["iphone", "dslr"] = "iphone"


class ScanNetPPAdapter(FileDataset):
    """[data/]SCENE/{iphone, dslr}, as downloaded and, for the iPhone, its frames extracted by the toolkit."""

    name = "scannetpp"
    layout = "[data/]SCENE/iphone/rgb/frame_NNNNNN.jpg or SCENE/dslr/resized_images/*.JPG"
    licence = "ScanNet++ Terms of Use: non-commercial research"
    Options = ScanNetPPOptions
    nesting = 2

    def is_scene(self, folder: Path) -> bool:
        return (folder / str(self.options.camera)).is_dir()

    def read(self, scene: str) -> FileSequence:
        """One scene. Raises DataError when it is malformed, or its frames are still in a video."""
        folder = self.folders[scene] / self.options.camera
        return self._photographs(scene, folder) if self.options.camera == "dslr" else self._video(scene, folder)

    def _video(self, scene: str, folder: Path) -> FileSequence:
        if not (folder / "rgb").is_dir():
            raise DataError(
                f"{self.name}: expected frames in {folder / 'rgb'}, found {shown(names_in(folder))}; extract them from"
                " the video with the dataset's toolkit (iphone.prepare_iphone_data)"
            )
        images = self.numbered(folder / "rgb", _COLOUR)
        depths = self.numbered(folder / "depth", _DEPTH, optional=True)
        path = folder / "pose_intrinsic_imu.json"
        entries = {image_stem(name): entry for name, entry in read_document(path).items()}
        known = {n: entries[image.stem] for n, image in images.items() if isinstance(entries.get(image.stem), dict)}
        poses = _aligned(known, path)
        scale = None
        if images and depths:
            with opened_depth(next(iter(depths.values())), scene) as picture:
                scale = image_size(next(iter(images.values())), scene), picture.size
        files = []
        for n, image in images.items():
            matrix = own = time = None
            if n in known:
                numbers = np.array(numbers_of(known[n], "intrinsic", 9, path))
                matrix = checked_pinhole(numbers.reshape(3, 3), f"{path}: frame {n}")
                own = resized_intrinsics(matrix, *scale) if scale is not None and n in depths else None
                time = known[n].get("timestamp")
            seconds = float(time) if isinstance(time, int | float) else n / 60.0
            files.append(FrameFiles(image, seconds, poses.get(n), depths.get(n), matrix, own))
        return self.sequence(
            scene,
            files,
            None,
            {
                "poses": "ARKit, aligned with the laser scan (aligned_pose), camera-to-world, metres",
                "depth": "LiDAR of the telephone, uint16 millimetres, smaller than the images, looked up along rays",
                "intrinsics": "of each frame, in pose_intrinsic_imu.json",
                "timestamps": "pose_intrinsic_imu.json, seconds",
                "found": {"entries": len(entries), "images_with_pose": len(poses)},
            },
            numbers=list(images),
            index_files=(path,),
            depth_has_own_size=True,
        )

    def _photographs(self, scene: str, folder: Path) -> FileSequence:
        plain = next((folder / name for name in _UNDISTORTED if (folder / name).is_dir()), None)
        images = self.numbered(plain or folder / "resized_images", rf"\D*{NUMBER}{IMAGE}")
        model = read_model(folder / "colmap")
        poses, lenses = model.by_stem()
        files: list[FrameFiles] = []
        index_files = list(model.files)
        shared: FloatArray | None = None
        if plain is not None:
            path = folder / "nerfstudio" / "transforms_undistorted.json"
            shared = _centred(read_document(path), path)
            index_files.append(path)
        for position, image in enumerate(images.values()):
            lens = lenses.get(image.stem)
            own = shared if shared is not None else None if lens is None else lens.intrinsics
            bent = lens if shared is None else None
            files.append(FrameFiles(image, float(position), poses.get(image.stem), intrinsics=own, lens=bent))
        how = "as the toolkit did" if plain is not None else "here, to a pinhole camera of the same focal length"
        return self.sequence(
            scene,
            files,
            None,
            {
                "poses": "COLMAP, aligned with the laser scan, world-to-camera in the file, inverted; metres",
                "intrinsics": f"colmap/cameras.txt; the fisheye lens's distortion is removed {how}",
                "timestamps": "position in the scene; photographs have no times",
                "found": {
                    "entries": len(lenses),
                    "entries_without_file": len(lenses.keys() - {image.stem for image in images.values()}),
                    "images_with_pose": sum(file.pose is not None for file in files),
                },
            },
            index_files=index_files,
        )


def _aligned(entries: dict[int, dict[str, Any]], path: Path) -> dict[int, FloatArray]:
    """Poses of frames, aligned with the scan where the file has such; lost ones left out."""
    if not entries:
        return {}
    key = "aligned_pose" if any("aligned_pose" in entry for entry in entries.values()) else "pose"
    there = [n for n, entry in entries.items() if key in entry]
    matrices = np.array([numbers_of(entries[n], key, 16, path, lost=True) for n in there]).reshape(-1, 4, 4)
    poses = checked_matrices(matrices, [f"{path}: frame {n}" for n in there])
    return {n: pose for n, pose in zip(there, poses, strict=True) if np.isfinite(pose).all()}


def _centred(document: dict[str, Any], path: Path) -> FloatArray:
    """(3, 3) intrinsics of a transforms.json, whose pixels count from the corner of the image."""
    fx, fy, cx, cy = (numbers_of(document, name, 1, path)[0] for name in ("fl_x", "fl_y", "cx", "cy"))
    return checked_pinhole(pinhole(fx, fy, cx - 0.5, cy - 0.5), str(path))
