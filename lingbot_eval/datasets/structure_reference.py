"""Reference poses of images that have none, by structure from motion: computed once, then kept in the user's cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, FiniteFloat, ValidationError

from lingbot_eval.datasets.sequence import FileSequence
from lingbot_eval.errors import DataError, StoreError, UnscorableError, reason
from lingbot_eval.files.atomic import write_text
from lingbot_eval.files.images import image_size, read_image
from lingbot_eval.files.opening import open_file
from lingbot_eval.geometry.structure import FEATURES, NEIGHBOURS, Mapper, pycolmap, structure_of
from lingbot_eval.resources import user_cache
from lingbot_eval.settings import StrictModel
from lingbot_eval.types import Frame, Image, Trajectory

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
