"""What is left out of clouds, depth, exports and films: sky, by a network or a heuristic, and masks of the user's.

In every mask True means leave out.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import ConfigError, DataError, DependencyError, StoreError, reason
from lingbot_eval.files.atomic import atomic_path
from lingbot_eval.files.images import read_mask
from lingbot_eval.files.reading import kind_of_bytes, open_file
from lingbot_eval.resources import user_cache
from lingbot_eval.types import DepthMap, Frame, Image, Prediction

HEURISTIC = "heuristic"
"""Name of the rule that needs no network: see `heuristic_sky`."""

_VERSION = 1  # of the cached masks: 255 is sky
_SKY = 0.5  # raw score above which a pixel is sky
_LEAST_BYTES = 1000  # no network is smaller
_MOST_BYTES = 2**31
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
_FARTHEST, _LEAST_SURE = 0.98, 0.1  # quantiles of an image that the heuristic takes for sky
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

Mask = NDArray[np.bool_]


class SkyMasks(Protocol):
    """Where the sky is in an image."""

    def mask(self, image: Image, depth: DepthMap, confidence: DepthMap | None) -> Mask:
        """(H, W) True where there is sky, of an image (H, W, 3) and its depth and confidence (H, W)."""
        ...

    def words(self) -> str:
        """What decides, for records and files."""
        ...


def open_sky(given: str) -> SkyMasks:
    """The heuristic by its name, else a network in an ONNX file.

    Raises:
        ConfigError: no such file, or it is no network that takes an image and gives a score for each pixel.
        DependencyError: onnxruntime is not installed.
    """
    return _Heuristic() if given == HEURISTIC else _open_network(Path(given).expanduser().resolve())


class _Heuristic:
    def mask(self, image: Image, depth: DepthMap, confidence: DepthMap | None) -> Mask:
        return heuristic_sky(depth, confidence)

    def words(self) -> str:
        return "the heuristic (far or unsure pixels that hang together with the upper edge)"


def heuristic_sky(depth: DepthMap, confidence: DepthMap | None) -> Mask:
    """Pixels among the farthest 2 % or the least sure 10 % that hang together with the upper edge; an image without
    sky loses little, one whose sky is near by the depth keeps it.

    Args:
        depth: (H, W) along z; pixels without depth count as far.
        confidence: (H, W), or None.
    """
    from scipy.ndimage import label

    usable = np.isfinite(depth) & (depth > 0)
    if not usable.any():
        return np.zeros(depth.shape, dtype=bool)
    doubtful = ~usable | (depth > np.quantile(depth[usable], _FARTHEST))
    if confidence is not None:
        sure = confidence[np.isfinite(confidence)]
        # Where everything is equally sure nothing is unsure.
        if len(sure) and sure.min() < sure.max():
            doubtful |= ~(confidence >= np.quantile(sure, _LEAST_SURE))
    parts, _ = label(doubtful)
    at_top = np.unique(parts[0])
    return np.asarray(np.isin(parts, at_top[at_top > 0]))


@functools.lru_cache(maxsize=2)
def _open_network(path: Path) -> _Network:
    return _Network(path)


class _Network:
    """An ONNX network of one input, images (1, 3, H, W) normalised as for ImageNet, and a score for each pixel."""

    def __init__(self, path: Path) -> None:
        content = _content(path)
        try:
            import onnxruntime
        except ImportError as error:
            raise DependencyError(
                "sky masks of a network need onnxruntime; install it: pip install 'lingbot-eval[sky]', "
                f"or set sky: {HEURISTIC}"
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        # onnxruntime's own exceptions share no base class below this one.
        except Exception as error:
            raise ConfigError(
                f"{path}: expected a network in ONNX, found a damaged or other file ({reason(error)})"
            ) from error
        inputs = session.get_inputs()
        shape = inputs[0].shape if inputs else []
        if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3 or inputs[0].type != "tensor(float)":
            found = ", ".join(f"{each.name} {each.shape} {each.type}" for each in inputs)
            raise ConfigError(f"{path}: expected one input of an image (1, 3, H, W) in float32, found {found}")
        self._session: Any = session
        self._input = inputs[0].name
        # The published networks say 320×320 or leave it open.
        self._size = (shape[2], shape[3]) if all(isinstance(side, int) for side in shape[2:]) else (320, 320)
        self._batch = shape[0] if isinstance(shape[0], int) else 1
        self._path = path
        self._sha256 = hashlib.sha256(content).hexdigest()
        self._cache = user_cache("sky") / f"v{_VERSION}-{self._sha256[:16]}"

    def words(self) -> str:
        return f"{self._path.name} (SHA-256 {self._sha256[:16]}, raw score above {_SKY})"

    def mask(self, image: Image, depth: DepthMap, confidence: DepthMap | None) -> Mask:
        height, width = image.shape[:2]
        file = self._cache / f"{hashlib.sha256(image.tobytes()).hexdigest()}-{width}x{height}.png"
        cached = _read_mask(file, (height, width)) if file.is_file() else None
        if cached is not None:
            return cached
        found = self._score(image) > _SKY
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            _write_mask(found, file)
        except (OSError, StoreError):
            # A cache that cannot be written costs time, no result.
            pass
        return found

    def _score(self, image: Image) -> DepthMap:
        """(H, W) raw score, from the network's size to the image's."""
        from PIL import Image as Pictures

        picture = Pictures.fromarray(image).resize((self._size[1], self._size[0]), Pictures.Resampling.BILINEAR)
        values = ((np.asarray(picture, np.float32) / 255 - _MEAN) / _DEVIATION).transpose(2, 0, 1)
        batch = np.ascontiguousarray(np.broadcast_to(values, (self._batch, *values.shape)))
        try:
            scores = np.squeeze(self._session.run(None, {self._input: batch})[0][:1])
        # As above.
        except Exception as error:
            raise DataError(f"{self._path} failed on an image: {reason(error)}") from error
        if scores.ndim != 2 or not np.isfinite(scores).all():
            raise DataError(f"{self._path}: expected a finite score for each pixel, found shape {scores.shape}")
        height, width = image.shape[:2]
        resized = Pictures.fromarray(scores.astype(np.float32)).resize((width, height), Pictures.Resampling.BILINEAR)
        return np.asarray(resized, np.float32)


class MaskFolder:
    """Masks of the user's, one a frame, named as its image: ``0001.png`` of ``0001.jpg``; 0 stays, else it is left out.

    Args:
        folder: where they lie.

    Raises:
        ConfigError: there is no such folder, or no image in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.expanduser()
        if not self._folder.is_dir():
            raise ConfigError(f"masks: expected a folder of images, found none at {self._folder}")
        self._files = {path.stem: path for path in sorted(self._folder.iterdir()) if path.suffix.lower() in _SUFFIXES}
        if not self._files:
            raise ConfigError(f"masks: expected images in {self._folder}, found none")

    def words(self) -> str:
        """What decides, for records and files."""
        return f"masks of {self._folder}"

    def mask(self, frame: Frame, size: tuple[int, int]) -> Mask | None:
        """The frame's mask; None where it has none.

        Args:
            frame: whose image it is, by its file's name.
            size: height and width that the method sees.

        Raises:
            DataError: a file that is no image, or of another shape than the image: sides in another proportion.
        """
        path = self._files.get(Path(frame.source).stem)
        return None if path is None else read_mask(path, "mask", (size[1], size[0])) > 0


@dataclass(frozen=True, eq=False)
class _Found:
    prediction: Prediction
    mask: Mask


class LeftOut:
    """Decides what of each frame is left out, and counts it; what the dataset's own masks say is, too.

    Args:
        sky: ``heuristic``, an ONNX file, or None for no sky masks.
        masks: folder of the user's, or None.

    Raises:
        ConfigError, DependencyError: as `open_sky` and `MaskFolder`.
    """

    def __init__(self, sky: str | None, masks: Path | None) -> None:
        self._sky = None if sky is None else open_sky(sky)
        self._masks = None if masks is None else MaskFolder(masks)
        self._pixels = self._left_out = self._without_mask = 0
        self._last: _Found | None = None
        self._last_sky: Mask | None = None
        self._lacks_own = False  # a mask of the user's, of the last prediction
        self._of_dataset = False  # whether a frame came with a mask

    def mask(self, frame: Frame, prediction: Prediction) -> Mask | None:
        """(H, W) of the depth, True where nothing is kept; None where all is; counted. Raises DataError."""
        found = self.found(frame, prediction)
        if found is not None:
            self._pixels += found.size
            self._left_out += int(np.count_nonzero(found))
            self._without_mask += self._lacks_own
        return found

    def found(self, frame: Frame, prediction: Prediction) -> Mask | None:
        """As `mask`, and not counted: worked out once for a prediction, whoever asks. Raises DataError."""
        depth = prediction.depth
        of_dataset = None if frame.left_out is None or depth is None else frame.left_out
        if depth is None or (self._sky is None and self._masks is None and of_dataset is None):
            return None
        if self._last is not None and self._last.prediction is prediction:
            return self._last.mask
        found = np.zeros(depth.shape, dtype=bool)
        self._lacks_own = False
        self._last_sky = None
        if self._sky is not None and frame.image is not None and frame.image.shape[:2] == depth.shape:
            self._last_sky = self._sky.mask(frame.image, depth, prediction.depth_confidence)
            found |= self._last_sky
        if of_dataset is not None and of_dataset.shape == depth.shape:
            found |= of_dataset
            self._of_dataset = True
            if self._last_sky is not None:
                self._last_sky = self._last_sky & ~of_dataset
        if self._masks is not None:
            own = self._masks.mask(frame, (depth.shape[0], depth.shape[1]))
            self._lacks_own = own is None
            if own is not None:
                found |= own
                if self._last_sky is not None:
                    self._last_sky = self._last_sky & ~own
        self._last = _Found(prediction, found)
        return found

    def sky(self, prediction: Prediction) -> Mask | None:
        """(H, W) of what `mask` left out of this prediction, the sky alone; None where no sky was looked for."""
        return self._last_sky if self._last is not None and self._last.prediction is prediction else None

    def words(self) -> str:
        """Who decides; "" where nothing is left out."""
        words = [each.words() for each in (self._sky, self._masks) if each is not None]
        return " and ".join([*words, *(["the dataset's masks"] if self._of_dataset else [])])

    def notes(self, scored: str) -> tuple[str, ...]:
        """Who decided and how much it was, and how many frames have no mask; scored: pixels, ``all`` or ``kept``."""
        if not self._pixels:
            return ()
        share = self._left_out / self._pixels
        said = f"{share:.1%} of the pixels are left out of cloud and kept depth by {self.words()}"
        found = [f"{said}; scores take {scored} pixels{' alone' * (scored == 'kept')}"]
        if self._without_mask:
            found.append(f"{self._without_mask} frames have no mask of their own; all of them is kept")
        return tuple(found)


def _content(path: Path) -> bytes:
    try:
        with open_file(path) as stream:
            content = stream.read(_MOST_BYTES)
    except OSError as error:
        raise ConfigError(f"sky: expected {HEURISTIC} or an ONNX file, found {path}: {reason(error)}") from error
    other = kind_of_bytes(content[:512])
    if other is not None:
        raise ConfigError(f"{path}: expected a network in ONNX, found {other}")
    if len(content) < _LEAST_BYTES:
        raise ConfigError(f"{path}: expected a network in ONNX, found a file of {len(content)} bytes")
    return content


def _read_mask(file: Path, shape: tuple[int, int]) -> Mask | None:
    """A cached mask; None where it is damaged or of another size: it is made again."""
    from PIL import Image as Pictures

    try:
        with open_file(file) as stream, Pictures.open(stream, formats=["PNG"]) as picture:
            values = np.asarray(picture.convert("L"))
    except (OSError, ValueError, SyntaxError, Pictures.DecompressionBombError):
        return None
    return values == 255 if values.shape == shape and np.isin(values, (0, 255)).all() else None


def _write_mask(mask: Mask, file: Path) -> None:
    from PIL import Image as Pictures

    with atomic_path(file) as temporary:
        Pictures.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(temporary, format="PNG")
