"""A dataset of files on disk: what it has to say of itself, and what it is given; built-in ones and users' own."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel

from lingbot_eval.datasets.image_folder import gap_notes, numbering_of
from lingbot_eval.datasets.listing import (
    existing_folder,
    names_in,
    names_listed,
    natural_key,
    scene_folders,
    shown,
    unknown_scene,
)
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles, Selection, selected
from lingbot_eval.errors import DataError
from lingbot_eval.files.depth_maps import DepthReader, array_depth, png_depth
from lingbot_eval.files.images import Size
from lingbot_eval.files.times import Clock, pair_times
from lingbot_eval.files.trajectories import TrajectoryFile
from lingbot_eval.geometry.cameras import LensCamera
from lingbot_eval.settings import StrictModel
from lingbot_eval.types import DepthMap, FloatArray

_SHAPES: dict[str, tuple[int, ...] | None] = {
    "image": None,
    "depth": None,
    "mask": None,
    "pose": (4, 4),
    "intrinsics": (3, 3),
    "depth_intrinsics": (3, 3),
}
"""Of the parts of FrameFiles; None: a path."""


def _refuse_part(where: str, part: str, given: Any) -> None:
    """Raises DataError for what a user's own reader gave in another form than FrameFiles has."""
    shape = _SHAPES[part]
    if (given is None and part != "image") or (isinstance(given, Path) and (shape is None or part == "pose")):
        return
    found = given.shape if isinstance(given, np.ndarray) else type(given).__name__
    if shape is None or found != shape:
        form = "pathlib.Path" if shape is None else f"numpy array {shape}"
        raise DataError(f"{where}: expected its {part} as a {form}, found {found}")


def poses_by_time(
    trajectory: TrajectoryFile,
    times: FloatArray,
    max_difference: float,
    images: str,
    advice: str = "is it the ground truth of this scene?",
) -> dict[int, FloatArray]:
    """Image → (4, 4) pose nearest in time, one to one. times: (N,) seconds of the images. images: what they are called.
    advice: the end of the message.

    Raises DataError, one line with both spans, when nothing pairs.
    """
    clock = Clock(images, times, "frames")
    image_index, pose_index = pair_times(clock, trajectory.clock(str(trajectory.path)), max_difference, advice)
    poses = trajectory.camera_to_world
    return {int(i): poses[p] for i, p in zip(image_index.tolist(), pose_index.tolist(), strict=True)}


def poses_by_number(trajectory: TrajectoryFile, last: int) -> dict[int, FloatArray]:
    """Number of an image, from 0 → its (4, 4) pose, which is the row of this number.

    Raises DataError where images up to number ``last`` have no row.
    """
    if trajectory.rows <= last:
        raise DataError(
            f"{trajectory.path}: expected a row for each image up to number {last}, found {trajectory.rows} rows; are"
            " poses and images of one sequence?"
        )
    return trajectory.by_row()


def moved(
    poses: Mapping[int, FloatArray], body: FloatArray | None, into_world: FloatArray | None = None
) -> dict[int, FloatArray]:
    """Poses of a camera on a body, from those of the body.

    body: (4, 4) camera-to-body; None: the poses are the camera's. into_world: (4, 4) from the world of the poses to
    another, or None.
    """
    if not poses:
        return {}
    stacked = np.stack(list(poses.values()))
    stacked = stacked if body is None else stacked @ body
    return dict(zip(poses, stacked if into_world is None else into_world @ stacked, strict=True))


def facts_of(trajectory: TrajectoryFile, used: int) -> dict[str, Any]:
    """What a scene records of its trajectory file: counts, and the reader's notes where there are any."""
    found: dict[str, Any] = {"poses_in_file": trajectory.rows, "images_with_pose": used}
    if trajectory.lost:
        found["lost_poses"] = trajectory.lost
    if trajectory.repeated:
        found["repeated_stamps"] = trajectory.repeated
    return {"found": found, **({"notes": list(trajectory.notes)} if trajectory.notes else {})}


class FileDataset:
    """A dataset whose frames are image files. A subclass says how it lies on disk and which files make a frame.

    Attributes:
        name: given by the decorator ``dataset``.
        layout: in words, for messages: ``SCENE/images/NNNN.png beside poses.txt``.
        Options: a pydantic model of the dataset's own options; an instance is ``self.options``; by
            default there are none.
        card: what a card may say (title, licence as ``source: {licence: …}``, ``protocol``, ``published`` …); what is
            left out has the card's defaults.
        depth_units_per_metre: of 16-bit PNG depth; ``.npy`` depth is in metres.
        marks: what lies in each folder that is a scene, as ``("images/", "poses.txt")``, folders with a slash behind.
        licence: in a few words, for the record; by default that of ``card``.
        levels: how many of the last folders of a scene's path are its name.
        frames_per_second: nominal, where images have numbers and no times.
        nesting: how many folders more than ``levels`` copies may have between the root and the scenes.
        root: the folder that the experiment names.
        folders: path of each scene by its name, once ``scenes`` has looked.
    """

    name: ClassVar[str] = ""
    layout: ClassVar[str] = "a folder of images for each scene"
    Options: ClassVar[type[BaseModel]] = StrictModel
    card: ClassVar[Mapping[str, Any]] = {}
    depth_units_per_metre: ClassVar[float] = 1000.0
    marks: ClassVar[tuple[str, ...]] = ()
    licence: ClassVar[str] = ""
    levels: ClassVar[int] = 1
    nesting: ClassVar[int] = 0
    frames_per_second: ClassVar[float] = 30.0

    def __init__(self, root: Path, options: BaseModel) -> None:
        self.root = root
        self.options: Any = options
        self.folders: dict[str, Path] = {}
        self._found: frozenset[str] = frozenset()

    def is_scene(self, folder: Path) -> bool:
        """Whether a folder is a scene: every one with all of ``marks``, unless a subclass knows better."""
        return all((folder / m).is_dir() if m.endswith("/") else (folder / m).is_file() for m in self.marks)

    def scenes(self) -> Sequence[str]:
        """Names of the scenes under the root. Raises DataError for a root of another shape."""
        return self.scenes_on_disk()

    def known_scenes(self) -> Sequence[str]:
        """Names of the scenes that can be opened; more than ``scenes`` where an option chooses among them."""
        return self.scenes()

    def scenes_on_disk(self) -> tuple[str, ...]:
        """Names of all folders that are scenes; afterwards ``folders`` has their paths.

        Where copies may be nested otherwise, a root that is a scene itself is one, too.
        """
        self._found = frozenset()  # of another listing, whose folders may be gone
        if self.nesting and self.root.is_dir() and self.is_scene(self.root.absolute()):
            self.root = self.root.absolute()  # its own name counts
            self.folders = {"/".join(self.root.parts[-self.levels :]): self.root}
            return tuple(self.folders)
        found = scene_folders(self.root, self.name, self.layout, self.is_scene, self.levels + self.nesting)
        short = {name: "/".join(name.split("/")[-self.levels :]) for name in found}
        count = Counter(short.values())
        # Two scenes of one name under different folders keep their whole paths.
        self.folders = {short[name] if count[short[name]] == 1 else name: path for name, path in found.items()}
        return tuple(self.folders)

    @property
    def nominal_times(self) -> str:
        """Where times are from, in words, when images have numbers alone."""
        return f"number in the name / {self.frames_per_second:g} Hz (nominal)"

    def frames(self, scene: str) -> Sequence[FrameFiles]:
        """Every frame of a scene, in order of time.

        Args:
            scene: one of ``scenes()``.

        Returns:
            For each frame its image file and time in seconds, and, where there are, its 4×4 camera-to-world pose
            (OpenCV axes, metres), its depth file and its 3×3 intrinsics in pixels.
        """
        raise NotImplementedError(f"{type(self).__name__}.frames(scene) lists the files of a scene's frames")

    def intrinsics(self, scene: str) -> FloatArray | None:
        """(3, 3) pinhole matrix in pixels of the images, where all frames of a scene share one; else None."""
        return None

    def read(self, scene: str) -> FileSequence:
        """Every frame of a scene with what the record says of it; by default of ``frames`` and ``intrinsics``."""
        listed: Any = self.frames(scene)
        files = list(listed) if isinstance(listed, Iterable) else [listed]
        wrong = [file for file in files if not isinstance(file, FrameFiles)]
        if wrong:
            raise DataError(
                f"{self.name}: {scene}: expected frames(scene) to list FrameFiles, found {type(wrong[0]).__name__};"
                " give each frame as lingbot_eval.FrameFiles(image, timestamp, …)"
            )
        for number, file in enumerate(files):
            for part in _SHAPES:
                _refuse_part(f"{self.name}: {scene} frame {number}", part, getattr(file, part))
        intrinsics = self.intrinsics(scene)
        _refuse_part(f"{self.name}: {scene}", "intrinsics", intrinsics)
        posed = any(file.pose is not None for file in files)
        poses = "camera-to-world, OpenCV axes, metres, as the dataset's reader says" if posed else "none"
        return self.sequence(scene, files, intrinsics, {"poses": poses, "layout": self.layout})

    def open(self, scene: str, selection: Selection) -> FileSequence:
        """The selected frames of one scene. Raises DataError for an unknown scene or one without frames."""
        # Looked for once, not for each of ten thousand scenes; what came since is found.
        if scene not in self._found:
            scenes = self.known_scenes()
            self._found = frozenset(scenes)
            if scene not in self._found:
                raise unknown_scene(self.name, scene, scenes)
        whole = self.read(scene)
        chosen = selected(self.name, scene, selection, len(whole.files))
        return dataclasses.replace(whole, files=[whole.files[i] for i in chosen])

    def sequence(
        self,
        scene: str,
        files: Sequence[FrameFiles],
        intrinsics: FloatArray | None,
        conventions: Mapping[str, Any],
        *,
        trajectory: TrajectoryFile | None = None,
        numbers: Sequence[int] = (),
        index_files: Sequence[Path] = (),
        notes: Sequence[str] = (),
        depth_reader: DepthReader | None = None,
        **more: Any,
    ) -> FileSequence:
        """A scene's frames with what is known of them.

        Args:
            scene: its name.
            files: of all frames, in order of time.
            intrinsics: (3, 3) of all images, or None.
            conventions: ``poses``, ``depth``, ``intrinsics``, ``timestamps`` in words; ``found``: counts.
            trajectory: the file that the poses are from: counted, and part of the fingerprint.
            numbers: of the images, whose gaps are said.
            index_files: further files that decided what the frames are.
            notes: what a user must know, a line each.
            depth_reader: where ``depth_units_per_metre`` is not enough.
            more: of `FileSequence`.

        Raises:
            DataError: there is no frame, or times do not increase.
        """
        of_poses = {} if trajectory is None else facts_of(trajectory, sum(file.pose is not None for file in files))
        found = {**of_poses.get("found", {}), **conventions.get("found", {})}
        return FileSequence(
            dataset=self.name,
            scene=scene,
            root=self.root,
            files=files,
            intrinsics=intrinsics,
            conventions={
                "poses": "none",
                "depth": "none",
                "intrinsics": "none",
                **conventions,
                **of_poses,
                **({"found": found} if found else {}),
                "licence": self.licence or str(dict(self.card.get("source", {})).get("licence", "not stated")),
            },
            index_files=(*index_files, *(() if trajectory is None else (trajectory.path,))),
            notes=(*notes, *gap_notes(numbering_of(list(numbers)))),
            depth_reader=self._depth_reader() if depth_reader is None else depth_reader,
            **more,
        )

    def numbered(self, folder: Path, pattern: str, *, optional: bool = False) -> dict[int, Path]:
        """Number → file, in order of the numbers, of the names in ``folder`` that match ``pattern``, in any case.

        Hidden files are none of them: ``._1.png`` is what macOS leaves of ``1.png``.

        Args:
            folder: of the files.
            pattern: a regular expression whose group 1 is the number.
            optional: whether the folder may be missing.

        Raises:
            DataError: two files have one number, as ``1.png`` beside ``000001.PNG``.
        """
        if optional and not folder.is_dir():
            return {}
        found: dict[int, str] = {}
        wanted = re.compile(pattern, re.IGNORECASE)
        for name in names_listed(existing_folder(folder, f"folder of {self.name}")):
            match = wanted.fullmatch(name)
            if match is None or name.startswith("."):
                continue
            number = int(match[1])
            if number in found:
                twice = sorted((found[number], name), key=natural_key)
                raise DataError(
                    f"{self.name}: {folder}: two files for number {number}: {shown(twice)}; remove one of them"
                )
            found[number] = name
        return {number: folder / found[number] for number in sorted(found)}

    def by_number(
        self,
        scene: str,
        images: Mapping[int, Path],
        conventions: Mapping[str, Any],
        *,
        times: Mapping[int, float] | FloatArray | None = None,
        poses: Mapping[int, Path] | Mapping[int, FloatArray] | None = None,
        depths: Mapping[int, Path] | None = None,
        cameras: Mapping[int, FloatArray] | None = None,
        intrinsics: FloatArray | None = None,
        lens: LensCamera | None = None,
        **more: Any,
    ) -> FileSequence:
        """`sequence` of images with numbers, and of what goes with them by number.

        Args:
            scene: its name.
            images: by number, in order.
            conventions: as of `sequence`; times are nominal where they say nothing of these.
            times: seconds; the number over ``frames_per_second`` if None.
            poses: (4, 4) camera-to-world, or their files.
            depths: files.
            cameras: (3, 3) of each image, where they have no ``intrinsics`` in common.
            intrinsics: (3, 3) of all images, or None.
            lens: of all images, where it bends them.
            more: of `sequence`.

        Raises:
            DataError: there is no frame, or times do not increase.
        """
        poses, depths, cameras = poses or {}, depths or {}, cameras or {}
        files = [
            FrameFiles(
                image,
                n / self.frames_per_second if times is None else float(times[n]),
                poses.get(n),
                depths.get(n),
                intrinsics=cameras.get(n),
                lens=lens,
            )
            for n, image in images.items()
        ]
        said = {"timestamps": self.nominal_times, **conventions}
        return self.sequence(scene, files, intrinsics, said, numbers=list(images), **more)

    def _depth_reader(self) -> DepthReader:
        of_png = png_depth(self.depth_units_per_metre)

        def read(path: Path, place: str, expected: Size | None) -> DepthMap:
            return (array_depth if path.suffix == ".npy" else of_png)(path, place, expected)

        return read


def listed(folder: Path, pattern: str = "*") -> list[Path]:
    """Files of a folder that match a pattern, in natural order (``2.png`` before ``10.png``).

    Raises:
        DataError: the folder is not there, or nothing in it matches.
    """
    names = names_in(existing_folder(folder, "folder"))
    found = [folder / name for name in names if Path(name).match(pattern) and not name.startswith(".")]
    if not found:
        raise DataError(f"expected files {pattern} in {folder}, found {shown(names)}")
    return found
