"""Any folder of images; its reference is a trajectory file, or computed by structure from motion and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, FiniteFloat, ValidationError, model_validator

from lingbot_eval.datasets.file_dataset import FileDataset, poses_by_time
from lingbot_eval.datasets.image_folder import (
    Numbering,
    capture_folders,
    folders_beside,
    gap_notes,
    has_images,
    images_in,
    numbering,
    time_notes,
)
from lingbot_eval.datasets.listing import existing_folder, folders_in, names_in, shown
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles
from lingbot_eval.errors import DataError, StoreError, UnscorableError, reason
from lingbot_eval.files.atomic import write_text
from lingbot_eval.files.images import HEIF_SUFFIXES, IMAGE_SUFFIXES, image_size, read_image
from lingbot_eval.files.pose_documents import image_stem
from lingbot_eval.files.reading import finite_number, open_file
from lingbot_eval.files.trajectories import TrajectoryFile, TrajectoryFormat, read_trajectory
from lingbot_eval.geometry.cameras import pinhole
from lingbot_eval.geometry.structure import FEATURES, NEIGHBOURS, Mapper, pycolmap, structure_of
from lingbot_eval.resources import user_cache
from lingbot_eval.settings import StrictModel
from lingbot_eval.types import FloatArray, Frame, Image, Trajectory

_FORMAT = 1  # of the kept file, and of how COLMAP is called
_MAPPER: Mapper = "global"
_SEED = 0

Entry = Annotated[tuple[FiniteFloat, ...], Field(min_length=16, max_length=16)]


class _Kept(StrictModel):
    """A computed structure as the cache has it. poses: 16 numbers, row by row, by position of the image."""

    poses: dict[int, Entry]
    models: tuple[int, ...]
    points: int
    reprojection_px: FiniteFloat


def structure_in_words() -> str:
    """What computes the poses, for every convention. Raises DependencyError where pycolmap is missing."""
    return f"structure from motion (pycolmap {pycolmap().__version__}, {_MAPPER} mapper, seed {_SEED})"


@dataclass(frozen=True, eq=False)
class StructureSequence(FileSequence):
    """Files whose reference poses COLMAP computes from the selected images, when they are first asked for.

    The poses are in a unit of their own and no ground truth; images that COLMAP does not register have none. They are
    kept in the user's cache by the content of the images, what is known of the camera, settings and COLMAP's version.
    `reference` computes them, and a run asks for it first; frames, facts and fingerprint compute nothing.
    """

    poses_come_later: ClassVar[bool] = True

    @classmethod
    def of(cls, sequence: FileSequence) -> StructureSequence:
        """The same frames, whose poses are computed."""
        return cls(**{field.name: getattr(sequence, field.name) for field in fields(sequence)})

    def reference(self) -> Trajectory | None:
        """The poses, computed now unless they are kept.

        Raises:
            DataError: an image cannot be read, or COLMAP finds no model.
            DependencyError: pycolmap is missing.
            StoreError: the cache cannot be written.
        """
        found = self._posed.reference()
        return None if found is None else replace(found, computed_by=structure_in_words())

    def loaders(self, *, images: bool = True, depth: bool = True) -> Iterator[Callable[[], Frame]]:
        """Frames have their reference poses from when `reference` was asked for."""
        if self._computed_already:
            return self._posed.loaders(images=images, depth=depth)
        return super().loaders(images=images, depth=depth)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{super().fingerprint()} {self._settings()}".encode()).hexdigest()

    def facts(self) -> Mapping[str, Any]:
        """As of any files; once the poses are there, with their number and COLMAP's models."""
        if self._computed_already:
            return self._posed.facts()
        return super().facts()

    @property
    def _computed_already(self) -> bool:
        return "_posed" in self.__dict__

    @cached_property
    def _posed(self) -> FileSequence:
        """The same frames with their poses."""
        found = self._found()
        own = {field.name: getattr(self, field.name) for field in fields(FileSequence)}
        poses = {number: np.array(pose).reshape(4, 4) for number, pose in found.poses.items()}
        own["files"] = [replace(file, pose=poses.get(number)) for number, file in enumerate(self.files)]
        counts = {
            "images_with_pose": len(poses),
            "models": list(found.models),
            "points": found.points,
            "reprojection_px": round(found.reprojection_px, 4),
        }
        own["conventions"] = {**self.conventions, "found": counts}
        return FileSequence(**own)

    def _found(self) -> _Kept:
        file = user_cache("structure") / f"{self._key()}.json"
        kept = _read(file, self.length)
        if kept is None:
            kept = self._computed()
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(
                    f"{file.parent}: {reason(error)}; set XDG_CACHE_HOME to a folder to write to"
                ) from error
            write_text(file, kept.model_dump_json())
        return kept

    def _computed(self) -> _Kept:
        try:
            found = structure_of(
                self._images(), self.intrinsics, refine=self.intrinsics is None, mapper=_MAPPER, seed=_SEED
            )
        except UnscorableError as error:
            raise DataError(f"{self.dataset}: scene {self.scene}: reference sfm: {error}") from error
        return _Kept(
            poses={number: tuple(pose.ravel().tolist()) for number, pose in found.camera_to_world.items()},
            models=found.models,
            points=found.points,
            reprojection_px=found.reprojection_px,
        )

    def _images(self) -> Iterator[Image]:
        size = image_size(self.files[0].image, self._place(0))
        for number, file in enumerate(self.files):
            yield read_image(file.image, self._place(number), size)

    def _key(self) -> str:
        """By content: the same images elsewhere have the same poses."""
        digest = hashlib.sha256(self._settings().encode())
        for number, file in enumerate(self.files):
            try:
                with open_file(file.image) as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
            except OSError as error:
                raise DataError(f"{self._place(number)}: {file.image}: {reason(error)}") from error
        return digest.hexdigest()

    def _settings(self) -> str:
        camera = None if self.intrinsics is None else self.intrinsics.tolist()
        return f"{_FORMAT} {structure_in_words()} {FEATURES} {NEIGHBOURS} {camera}"


def _read(file: Path, length: int) -> _Kept | None:
    """A kept structure; None where there is none, or one that is damaged: it is computed again."""
    try:
        with open_file(file) as stream:
            kept = _Kept.model_validate_json(stream.read())
    except (OSError, ValidationError):
        return None
    return kept if kept.poses and all(0 <= number < length for number in kept.poses) else None


Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]

_NAME_UNITS = {"seconds_in_names": 1.0, "nanoseconds_in_names": 1e9}
_TIMES_ALONE = "times go by number, so that the others keep theirs"
_TIMES_AND_POSES = "times go by number, and so do poses unless their file has one row for each image that is there"


class FolderOptions(StrictModel):
    """How images become frames.

    timestamps: ``fps`` (position / fps, where a number missing among numbered names keeps its place), or the number
    that is the image's name, in seconds (TUM) or nanoseconds (EuRoC). trajectory: reference poses, a path relative to
    the scene's folder. trajectory_format: found from the content unless it is named; KITTI rows go with images one by
    one, where numbers are missing by number, COLMAP's and nerfstudio's poses by the images' names; poses with times go
    with the image nearest in time, within ``max_time_difference`` seconds. intrinsics: fx, fy, cx, cy in pixels of the
    images. reference: ``sfm`` takes the poses that structure from motion finds in the selected images where there is no
    trajectory (`lingbot_eval.datasets.folder`): a reference in a unit of its own, and no ground truth.
    """

    fps: Positive = 30.0
    timestamps: Literal["fps", "seconds_in_names", "nanoseconds_in_names"] = "fps"
    trajectory: str | None = None
    trajectory_format: TrajectoryFormat = "auto"
    max_time_difference: Positive = 0.02
    intrinsics: tuple[Positive, Positive, float, float] | None = None
    reference: Literal["sfm"] | None = None

    @model_validator(mode="after")
    def _needed_together(self) -> FolderOptions:
        for name in ("trajectory_format", "max_time_difference"):
            if self.trajectory is None and name in self.model_fields_set:
                raise ValueError(f"{name}: has a meaning with 'trajectory' only; give the trajectory file too")
        if self.trajectory is not None and self.reference is not None:
            raise ValueError(
                "reference: sfm is for images without a trajectory, and one is given; leave one of them out"
            )
        return self


class FolderAdapter(FileDataset):
    """Images directly in the root are one scene, named like the root; otherwise each capture in it is one.

    Which files are frames, and which folders captures: `lingbot_eval.datasets.image_folder`.
    """

    name = "folder"
    licence = "the user's own data"
    Options = FolderOptions

    def __init__(self, root: Path, options: FolderOptions) -> None:
        super().__init__(root, options)
        # Where the trajectory is looked for, where the images are, and what was left out beside them.
        self._places: dict[str, tuple[Path, Path, list[str]]] = {}
        # Now, so that whoever plans a run hears that pycolmap is missing.
        self._structure = structure_in_words() if options.reference == "sfm" else None

    def scenes(self) -> tuple[str, ...]:
        """Raises DataError when there is no image in the root nor in any folder in it."""
        self._found = frozenset()  # as in `scenes_on_disk`
        self._places = self._folders()
        return tuple(self._places)

    def read(self, scene: str) -> FileSequence:
        """One folder of images in natural order (``2.png`` before ``10.png``)."""
        folder, inside, notes = self._places[scene]
        names, left_out = images_in(inside)
        options = self.options
        by_position = options.timestamps == "fps"
        if not by_position:  # natural order is not that of numbers with a fraction
            names.sort(key=lambda name: _number_in_name(Path(name)))
        numbered = numbering(names) if by_position else None
        images = [inside / name for name in names]
        times = self._times(images, numbered)
        trajectory = None
        if options.trajectory is not None:
            trajectory = read_trajectory(folder / options.trajectory, options.trajectory_format)
        poses: dict[int, FloatArray] = {}
        words = "none"
        if trajectory is not None:
            poses, words = self._poses(trajectory, folder, images, times, numbered)
        elif self._structure is not None:
            words = f"reference: {self._structure}, scale free, not ground truth; camera-to-world"
        whole = self.sequence(
            scene,
            [FrameFiles(image, float(times[i]), poses.get(i)) for i, image in enumerate(images)],
            None if options.intrinsics is None else pinhole(*options.intrinsics),
            {
                "poses": words,
                "intrinsics": "none" if options.intrinsics is None else "given in the options",
                "timestamps": f"position / {options.fps:g} Hz" if by_position else options.timestamps.replace("_", " "),
            },
            trajectory=trajectory,
            notes=(
                *notes,
                *left_out,
                *gap_notes(numbered, _TIMES_ALONE if trajectory is None else _TIMES_AND_POSES),
                *(time_notes(names) if by_position else ()),
                *(() if self._structure is None else (_of_structure(self._structure),)),
            ),
            has_orientation=trajectory is None or trajectory.has_orientation,
        )
        return whole if self._structure is None else StructureSequence.of(whole)

    def _folders(self) -> dict[str, tuple[Path, Path, list[str]]]:
        root = existing_folder(self.root, "root of dataset folder").resolve()
        if has_images(root):
            return {root.name or "images": (root, root, folders_beside(root))}
        captures, notes = capture_folders(root)
        if captures:
            # The trajectory lies in the scene's folder, beside images/ where there is such a folder in it.
            return {name: (root / name, inside, notes) for name, inside in captures.items()}
        for name in folders_in(root):
            if any(has_images(root / name / inner) for inner in folders_in(root / name)):
                hint = f"found some under {name}: the root is one level too high, use {root / name}"
                break
        else:
            hint = f"found {shown(names_in(root))}"
        kinds = ", ".join((*IMAGE_SUFFIXES, *HEIF_SUFFIXES))
        raise DataError(f"folder: expected images ({kinds}) in {root} or its folders, {hint}")

    def _times(self, images: list[Path], numbered: Numbering | None) -> FloatArray:
        """Seconds of each image; a number that is missing among numbered images keeps its place in time."""
        if self.options.timestamps == "fps":
            positions = np.arange(len(images)) if numbered is None else np.array(numbered.positions, np.float64)
            seconds: FloatArray = positions / self.options.fps
            return seconds
        unit = _NAME_UNITS[self.options.timestamps]
        times = np.array([_number_in_name(image) / unit for image in images])
        wrong = np.flatnonzero(~(np.diff(times) > 0))
        if len(wrong):
            later = images[int(wrong[0]) + 1]
            raise DataError(
                f"folder: {later}: expected timestamps in the names to increase, found that of"
                f" {images[int(wrong[0])].name} again; remove one of them, or use timestamps: fps"
            )
        return times

    def _poses(
        self,
        trajectory: TrajectoryFile,
        folder: Path,
        images: list[Path],
        times: FloatArray,
        numbered: Numbering | None,
    ) -> tuple[dict[int, FloatArray], str]:
        """Poses by image, and what they are, in words."""
        poses, within = trajectory.camera_to_world, self.options.max_time_difference
        if trajectory.timed:
            advice = "set options.timestamps or options.fps"
            matched = poses_by_time(trajectory, times, within, f"images in {folder.name}", advice)
            how = f"nearest in time to the image, one to one, within {within:g} s"
        elif trajectory.names is not None:
            row_of = {image_stem(name): row for row, name in enumerate(trajectory.names)}
            stems = [image_stem(image.name) for image in images]
            matched = {i: poses[row_of[stem]] for i, stem in enumerate(stems) if stem in row_of}
            how = "by the images' names"
        else:
            rows, how = _rows(trajectory.path, trajectory.rows, len(times), numbered)
            of_row = trajectory.by_row()
            matched = {i: of_row[row] for i, row in enumerate(rows) if row in of_row}
        if not matched:
            raise DataError(
                f"{trajectory.path}: none of its {len(poses)} poses is of an image in {folder}; is it of this scene?"
            )
        return matched, f"{trajectory.format} file, {how}; taken as camera-to-world, metres"


def _of_structure(words: str) -> str:
    return (
        f"the reference is {words}, scale free, not ground truth: its lengths are in a unit of its own, so errors"
        " without alignment or after SE(3) have no result; a run computes it once, and it is kept in the user's cache"
    )


def _rows(path: Path, rows: int, images: int, numbered: Numbering | None) -> tuple[Sequence[int], str]:
    """Which row of a file without times is the pose of each image, and how that was decided."""
    if rows == images:
        return range(images), "row by row"
    if numbered is not None and rows == numbered.last + 1:
        return numbered.positions, "rows by the numbers in the names, the first image's first"
    if numbered is not None and numbered.step == 1 and rows == numbered.first + numbered.last + 1:
        return [numbered.first + position for position in numbered.positions], "rows by the numbers in the names"
    gaps = f" (whose numbers run over {numbered.last + 1})" if numbered is not None else ""
    raise DataError(
        f"{path}: expected one row for each of the {images} images{gaps} in {path.parent}, found {rows};"
        " give the trajectory of these images"
    )


def _number_in_name(image: Path) -> float:
    return finite_number(image.stem, f"folder: {image}", "a timestamp as the image's name")
