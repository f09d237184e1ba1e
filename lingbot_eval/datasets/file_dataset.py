"""What a dataset of files on disk has to say of itself, and what it is given: the base of users' own datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from lingbot_eval.datasets.listing import existing_folder, folders_in, names_in, shown, unknown_scene
from lingbot_eval.datasets.protocol import Selection
from lingbot_eval.datasets.readers import DepthReader, Size, array_depth, png_depth
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles, selected
from lingbot_eval.errors import DataError
from lingbot_eval.types import DepthMap, FloatArray


class NoOptions(BaseModel):
    """A dataset with nothing to choose."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileDataset:
    """A dataset whose frames are image files. A subclass says how it lies on disk and which files make a frame.

    Attributes:
        name: given by the decorator ``dataset``.
        layout: in words, for messages: ``SCENE/images/NNNN.png beside poses.txt``.
        Options: a pydantic model of the dataset's own options; an instance is ``self.options``.
        card: what a card may say (title, licence as ``source: {licence: …}``, ``protocol``, ``published`` …); what is
            left out has the card's defaults.
        depth_units_per_metre: of 16-bit PNG depth; ``.npy`` depth is in metres.
        root: the folder that the experiment names.
    """

    name: ClassVar[str] = ""
    layout: ClassVar[str] = "a folder of images for each scene"
    Options: ClassVar[type[BaseModel]] = NoOptions
    card: ClassVar[Mapping[str, Any]] = {}
    depth_units_per_metre: ClassVar[float] = 1000.0

    def __init__(self, root: Path, options: BaseModel) -> None:
        self.root = root
        self.options: Any = options

    def scenes(self) -> Sequence[str]:
        """Names of the scenes under the root: its folders, unless a subclass knows better."""
        existing_folder(self.root, f"root of dataset {self.name}")
        found = folders_in(self.root)
        if not found:
            raise DataError(f"{self.name}: expected {self.layout} under {self.root}, found no folder")
        return tuple(found)

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

    def open(self, scene: str, selection: Selection) -> FileSequence:
        """The selected frames of one scene. Raises DataError for an unknown scene or one without frames."""
        scenes = self.scenes()
        if scene not in scenes:
            raise unknown_scene(self.name, scene, scenes)
        files = list(self.frames(scene))
        wrong = [file for file in files if not isinstance(file, FrameFiles)]
        if wrong:
            raise DataError(
                f"{self.name}: {scene}: expected frames(scene) to list FrameFiles, found {type(wrong[0]).__name__};"
                " give each frame as lingbot_eval.FrameFiles(image, timestamp, …)"
            )
        posed = any(file.pose is not None for file in files)
        return FileSequence(
            dataset=self.name,
            scene=scene,
            root=self.root,
            files=[files[i] for i in selected(self.name, scene, selection, len(files))],
            intrinsics=self.intrinsics(scene),
            conventions={
                "poses": "camera-to-world, OpenCV axes, metres, as the dataset's reader says" if posed else "none",
                "layout": self.layout,
                "licence": str(dict(self.card.get("source", {})).get("licence", "not stated")),
            },
            depth_reader=self._depth_reader(),
        )

    def _depth_reader(self) -> DepthReader:
        of_png = png_depth(self.depth_units_per_metre)

        def read(path: Path, place: str, expected: Size) -> DepthMap:
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
