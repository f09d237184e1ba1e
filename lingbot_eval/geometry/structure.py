"""Structure from motion by COLMAP: poses of a whole sequence of images at once, not causal."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from PIL import Image as PillowImage

from lingbot_eval.errors import DependencyError, UnscorableError
from lingbot_eval.geometry.poses import inverse, orthogonalised, pose_matrix
from lingbot_eval.types import FloatArray, Image

Mapper = Literal["global", "incremental"]

FEATURES = 4096  # of an image
NEIGHBOURS = 10  # images after it, and those 2, 4, 8, 16 … after it, that an image is matched with


@dataclass(frozen=True, eq=False)
class Structure:
    """What COLMAP made of a sequence.

    camera_to_world: (4, 4) by position in the sequence, of the largest model's images, in a scale of its own.
    intrinsics: (3, 3) likewise, pixel (0, 0) being the centre of the top left pixel. models: images of each model, the
    largest first; those of the others have no pose, as nothing tells where one model is seen from another. points,
    reprojection_px: of the largest model.
    """

    camera_to_world: Mapping[int, FloatArray]
    intrinsics: Mapping[int, FloatArray]
    models: tuple[int, ...]
    points: int
    reprojection_px: float


def pycolmap() -> ModuleType:
    """COLMAP's module. Raises DependencyError, one line, where it is missing."""
    try:
        import pycolmap as module
    except ImportError as error:
        raise DependencyError(
            "structure from motion needs pycolmap, which is not installed: pip install 'lingbot-eval[sfm]'"
        ) from error
    found: ModuleType = module
    return found


class Images:
    """Images on their way to COLMAP, kept in a folder that is gone at the end."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lingbot-eval-sfm-")
        self._root = Path(self._folder.name)
        (self._root / "images").mkdir()
        self._names: list[str] = []

    def __enter__(self) -> Images:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def __len__(self) -> int:
        return len(self._names)

    def add(self, image: Image) -> None:
        """Take the next image, (H, W, 3) uint8, all of one size."""
        name = f"{len(self._names):06d}.png"
        PillowImage.fromarray(np.ascontiguousarray(image)).save(self._root / "images" / name, compress_level=1)
        self._names.append(name)

    def structure(
        self, intrinsics: FloatArray | None, *, refine: bool, mapper: Mapper = "global", seed: int = 0
    ) -> Structure:
        """Map the images.

        Args:
            intrinsics: (3, 3) of all of them, pixel (0, 0) being the centre of the top left pixel; None: not known.
            refine: whether the focal lengths are estimated, too.
            mapper: all poses at once, or image by image.
            seed: of the random samples. Mapping takes one thread, so that the same images give the same poses.

        Returns:
            The largest model's poses, and how many images each model has.

        Raises:
            UnscorableError: no model was found.
            DependencyError: pycolmap is missing.
        """
        colmap = pycolmap()
        if len(self) < 2:
            raise UnscorableError(f"structure from motion: expected two images at least, found {len(self)}")
        database, images = self._root / "database.db", self._root / "images"
        quiet, colmap.logging.minloglevel = colmap.logging.minloglevel, int(colmap.logging.FATAL)
        try:
            colmap.set_random_seed(seed)
            _match(colmap, database, images, intrinsics, seed)
            models = _mapped(colmap, database, images, self._root / "models", mapper, refine, seed)
        finally:
            colmap.logging.minloglevel = quiet
        models.sort(key=lambda model: (-model.num_reg_images(), -model.num_points3D()))
        if not models:
            raise UnscorableError(
                f"structure from motion: no model of the {len(self)} images; they share too little or do not move"
            )
        best = models[0]
        poses, cameras = {}, {}
        for image in best.images.values():
            if image.has_pose:
                number = self._names.index(image.name)
                pose = np.asarray(image.cam_from_world().matrix())
                poses[number] = inverse(orthogonalised(pose_matrix(pose[:, :3], pose[:, 3])))
                # COLMAP's pixel (0, 0) is the corner of the top left pixel.
                camera = np.array(best.cameras[image.camera_id].calibration_matrix())
                camera[:2, 2] -= 0.5
                cameras[number] = camera
        return Structure(
            dict(sorted(poses.items())),
            cameras,
            tuple(model.num_reg_images() for model in models),
            best.num_points3D(),
            float(best.compute_mean_reprojection_error()),
        )


def structure_of(
    images: Iterable[Image],
    intrinsics: FloatArray | None,
    *,
    refine: bool,
    mapper: Mapper = "global",
    seed: int = 0,
) -> Structure:
    """`Images.structure` of images that are decoded as they are asked for."""
    with Images() as kept:
        for image in images:
            kept.add(image)
        return kept.structure(intrinsics, refine=refine, mapper=mapper, seed=seed)


def _match(colmap: ModuleType, database: Path, images: Path, intrinsics: FloatArray | None, seed: int) -> None:
    reader = colmap.ImageReaderOptions()
    if intrinsics is not None:
        reader.camera_model = "PINHOLE"
        values = (intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2] + 0.5, intrinsics[1, 2] + 0.5)
        reader.camera_params = ",".join(f"{value:.17g}" for value in values)
    extraction = colmap.FeatureExtractionOptions()
    extraction.use_gpu, extraction.num_threads = False, 1
    extraction.sift.max_num_features = FEATURES
    colmap.extract_features(
        database,
        images,
        camera_mode=colmap.CameraMode.SINGLE,
        reader_options=reader,
        extraction_options=extraction,
        device=colmap.Device.cpu,
    )
    matching = colmap.FeatureMatchingOptions()
    matching.use_gpu, matching.num_threads = False, 1
    pairs = colmap.SequentialPairingOptions()
    pairs.overlap, pairs.quadratic_overlap = NEIGHBOURS, True
    verification = colmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = seed
    colmap.match_sequential(
        database,
        matching_options=matching,
        pairing_options=pairs,
        verification_options=verification,
        device=colmap.Device.cpu,
    )


def _mapped(
    colmap: ModuleType, database: Path, images: Path, models: Path, mapper: Mapper, refine: bool, seed: int
) -> list[Any]:
    models.mkdir()
    if mapper == "global":
        options = colmap.GlobalPipelineOptions()
        options.mapper.bundle_adjustment.ceres.solver_options.num_threads = 1
        options.mapper.bundle_adjustment.refine_focal_length = refine
        options.mapper.bundle_adjustment.refine_extra_params = refine
        options.mapper.global_positioning.random_seed = seed
        options.mapper.rotation_averaging.random_seed = seed
    else:
        options = colmap.IncrementalPipelineOptions()
        options.ba_refine_focal_length = options.ba_refine_extra_params = refine
        options.min_model_size = 3
    options.mapper.random_seed = options.random_seed = seed
    options.mapper.num_threads = options.num_threads = 1
    run = colmap.global_mapping if mapper == "global" else colmap.incremental_mapping
    return list(run(database, images, models, options).values())
