"""Frames on their way to the method: decoded ahead in background threads, and resized in the one place that does so.

Pixel (0, 0) is the centre of the top left pixel, before and after (types.py). A pixel therefore goes from u to
(u + 0.5)·scale − 0.5 − crop, and so does the principal point: a point of the scene projects with the prepared
intrinsics exactly where resizing moved its colour.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from pydantic import Field, model_validator

from lingbot_eval.errors import DataError
from lingbot_eval.geometry.cameras import resized_intrinsics
from lingbot_eval.settings import StrictModel
from lingbot_eval.types import DepthMap, FloatArray, Frame, Image

S = TypeVar("S")
T = TypeVar("T")

_END: Any = object()


def prefetch(source: Iterable[T], ahead: int) -> Generator[T, None, None]:
    """The elements of ``source`` in order, up to ``ahead`` of them made before they are asked for.

    One thread runs the source, so it needs no locks. It starts with the first element asked for; what the source
    raises is raised in place of the element that it failed to make. When the consumer stops early (``close()``, or
    the generator is dropped) the thread finishes the element in its hands and ends before ``close`` returns, and
    the source is closed if it is a generator. At most ``ahead`` elements wait besides the one that was handed out.
    Raises ValueError when ``ahead`` is less than 1.
    """
    return prefetch_mapped(lambda element: element, source, ahead, 0)


def prefetch_mapped(
    function: Callable[[S], T], source: Iterable[S], ahead: int, workers: int
) -> Generator[T, None, None]:
    """``function`` of the elements of ``source`` in order; the rest is as :func:`prefetch` has it.

    One thread runs the source, ``workers`` others the function, several elements at a time; together they have no more
    than ``ahead`` elements in hand. With no workers the thread of the source does both, for machines whose cores have
    other work. Raises ValueError when ``ahead`` is less than 1 or ``workers`` less than 0.
    """
    if ahead < 1:
        raise ValueError(f"expected to decode at least 1 element ahead, found {ahead}")
    if workers < 0:
        raise ValueError(f"expected 0 workers or more, found {workers}")
    return _prefetched(function, iter(source), ahead, workers)


def _prefetched(
    function: Callable[[S], T], iterator: Iterator[S], ahead: int, workers: int
) -> Generator[T, None, None]:
    pending: deque[Future[Any]] = deque()
    with ExitStack() as threads:
        # Shut down in this order: whoever waits for a read that will not come any more is told so first.
        if workers:
            appliers = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
            threads.callback(appliers.shutdown, wait=True)
        reader = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        threads.callback(reader.shutdown, wait=True, cancel_futures=True)

        def read() -> Any:
            return next(iterator, _END)

        def apply(made: Callable[[], Any]) -> Any:
            element = made()
            return element if element is _END else function(element)

        def order_one() -> None:
            pending.append(
                appliers.submit(apply, reader.submit(read).result) if workers else reader.submit(apply, read)
            )

        try:
            for _ in range(ahead):
                order_one()
            while (element := pending.popleft().result()) is not _END:
                order_one()
                yield element
                # Not kept while the next one is awaited: a frame may be large.
                del element
        finally:
            for future in pending:
                future.cancel()
            # Leaving the threads waits for the element in the making; only then may the source be closed.
            threads.close()
            if isinstance(iterator, Generator):
                iterator.close()


PATCH = 14  # the model's patches: every side is a multiple (model.md section 1)

MUCH_CUT = 0.1  # share of the picture whose loss is said

Side = Annotated[int, Field(ge=PATCH, le=8192)]

_FILTERS = {"bicubic": PillowImage.Resampling.BICUBIC, "lanczos": PillowImage.Resampling.LANCZOS}


class SizeSettings(StrictModel):
    """How large the method sees a frame (model.md section 1, protocol.md section 2).

    mode ``width``: resize to ``width``, the height follows the shape of the image and is rounded to a multiple of 14
    (``height_rounding``; ``pixel_floor``: to whole pixels first, then down, as DROID-W's protocol), then cut around
    the centre to ``max_height`` (default: ``width``) where it is larger.
    mode ``cover``: the smallest scale that covers ``width`` × ``height``, then cut around the centre.
    mode ``exact``: resize each axis to ``width``, ``height``, whatever that does to the shape.
    """

    mode: Literal["width", "cover", "exact"] = "width"
    width: Side = 518
    height: Side | None = None
    max_height: Side | None = None
    height_rounding: Literal["nearest", "floor", "pixel_floor"] = "nearest"
    filter: Literal["bicubic", "lanczos"] = "bicubic"

    @model_validator(mode="after")
    def _consistent(self) -> SizeSettings:
        for name in ("width", "height", "max_height"):
            side = getattr(self, name)
            if side is not None and side % PATCH:
                lower = side // PATCH * PATCH
                raise ValueError(
                    f"{name}: expected a multiple of {PATCH}, found {side}; use {lower} or {lower + PATCH}"
                )
        if self.mode == "width":
            if self.height is not None:
                raise ValueError("height: follows from the image in mode 'width'; leave it out, or use mode 'exact'")
        else:
            if self.height is None:
                raise ValueError(f"height: is required in mode '{self.mode}'")
            for name in ("max_height", "height_rounding"):
                # A record states every setting: the default asks for nothing.
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name}: has a meaning in mode 'width' only, found with mode '{self.mode}'")
        return self


@dataclass(frozen=True)
class SizePlan:
    """What happens to images of one size: resized to (width, height), then cut to ``size`` from ``left``, ``top``."""

    resized: tuple[int, int]
    left: int
    top: int
    size: tuple[int, int]


def size_plan(width: int, height: int, settings: SizeSettings) -> SizePlan:
    """The plan for images of ``width`` × ``height`` pixels."""
    if settings.mode == "exact":
        resized = size = (settings.width, settings.height or 0)
    elif settings.mode == "cover":
        size = (settings.width, settings.height or 0)
        scale = max(size[0] / width, size[1] / height)
        # The axis that decides the scale must not lose a pixel to rounding.
        resized = (max(size[0], round(width * scale)), max(size[1], round(height * scale)))
    else:
        patches = height * settings.width / width / PATCH
        if settings.height_rounding == "pixel_floor":
            rows = round(height * settings.width / width) // PATCH
        else:
            rows = math.floor(patches) if settings.height_rounding == "floor" else round(patches)
        resized = (settings.width, max(rows, 1) * PATCH)
        size = (settings.width, min(resized[1], settings.max_height or settings.width))
    return SizePlan(resized, (resized[0] - size[0]) // 2, (resized[1] - size[1]) // 2, size)


def crop_notes(sizes: Iterable[Sequence[int]], settings: SizeSettings) -> list[str]:
    """A line about images that lose more than a tenth of the picture when they are prepared; none for none.

    sizes: (width, height, images) of each size, as a sequence's ``image_sizes``.
    """
    listed = [(width, height, count) for width, height, count in sizes]
    plans = {(width, height): size_plan(width, height, settings) for width, height, _ in listed}
    lost = {size: 1 - math.prod(plan.size) / math.prod(plan.resized) for size, plan in plans.items()}
    cut = [entry for entry in listed if lost[entry[:2]] > MUCH_CUT]
    if not cut:
        return []
    width, height, _ = worst = max(cut, key=lambda entry: lost[entry[:2]])
    plan = plans[width, height]
    images = sum(entry[2] for entry in cut)
    whole = (
        f"set size.max_height: {plan.resized[1]}"
        if settings.mode == "width"
        else f"set size: {{mode: width, width: {settings.width}}}"
    )
    return [
        f"{images} of {sum(entry[2] for entry in listed)} images lose {'up to ' if len(cut) > 1 else ''}"
        f"{lost[worst[:2]]:.0%} of the picture: {width}x{height} is resized to {plan.resized[0]}x{plan.resized[1]} and"
        f" cut around its centre to {plan.size[0]}x{plan.size[1]}; to keep all of it, {whole}"
    ]


def prepare(frame: Frame, settings: SizeSettings) -> Frame:
    """The frame as the method sees it: sides multiples of 14, depth in the image's own pixel grid.

    Image: Pillow's filter. Depth and mask: the nearest at each new pixel's centre, never a mixture. Depth that is
    not registered to the image (``depth_intrinsics``) is looked up along each pixel's ray, which corrects focal
    length and principal point but not the distance between the two sensors; ``depth_intrinsics`` is None after it.
    A frame without an image takes its size from the depth; with neither, its intrinsics cannot be scaled and are
    dropped.
    """
    pixels = frame.image if frame.image is not None else frame.depth
    if pixels is None:
        return dataclasses.replace(frame, intrinsics=None, depth_intrinsics=None, left_out=None)
    height, width = pixels.shape[:2]
    plan = size_plan(width, height, settings)
    intrinsics = None
    if frame.intrinsics is not None:
        intrinsics = resized_intrinsics(frame.intrinsics, (width, height), plan.resized, plan.left, plan.top)
    depth = frame.depth
    if depth is not None:
        columns, rows = _source_pixels(frame, intrinsics, (width, height), plan)
        depth = _sample(depth, columns, rows)
    left_out = frame.left_out
    if left_out is not None:
        columns, rows = _source_pixels(dataclasses.replace(frame, depth_intrinsics=None), None, (width, height), plan)
        left_out = left_out[_nearest(rows)[:, None], _nearest(columns)[None, :]]
    return dataclasses.replace(
        frame,
        image=None if frame.image is None else _resized(frame.image, plan, settings),
        depth=depth,
        intrinsics=intrinsics,
        depth_intrinsics=None,
        left_out=left_out,
    )


def _resized(image: Image, plan: SizePlan, settings: SizeSettings) -> Image:
    if (image.shape[1], image.shape[0]) != plan.resized:
        picture = PillowImage.fromarray(np.ascontiguousarray(image))
        image = np.asarray(picture.resize(plan.resized, _FILTERS[settings.filter]))
    width, height = plan.size
    # A copy: arrays from elsewhere may be read-only, of any order, or written to later.
    return np.array(image[plan.top : plan.top + height, plan.left : plan.left + width], order="C")


def _source_pixels(
    frame: Frame, intrinsics: FloatArray | None, source: tuple[int, int], plan: SizePlan
) -> tuple[FloatArray, FloatArray]:
    """Where the centres of the new columns and rows lie in the depth map, in its pixels."""
    centres = []
    for axis, cut in ((0, plan.left), (1, plan.top)):
        new = np.arange(plan.size[axis], dtype=np.float64)
        if frame.depth_intrinsics is not None and intrinsics is not None:
            ray = (new - intrinsics[axis, 2]) / intrinsics[axis, axis]
            centres.append(ray * frame.depth_intrinsics[axis, axis] + frame.depth_intrinsics[axis, 2])
        else:
            centres.append((new + cut + 0.5) * source[axis] / plan.resized[axis] - 0.5)
    return centres[0], centres[1]


def _sample(depth: DepthMap, columns: FloatArray, rows: FloatArray) -> DepthMap:
    """Nearest measurement at every (row, column); 0 outside the map."""
    column, row = _nearest(columns), _nearest(rows)
    sampled = depth[row.clip(0, depth.shape[0] - 1)[:, None], column.clip(0, depth.shape[1] - 1)[None, :]]
    sampled[(row < 0) | (row >= depth.shape[0])] = 0.0
    sampled[:, (column < 0) | (column >= depth.shape[1])] = 0.0
    return np.asarray(sampled, np.float32)


def _nearest(positions: FloatArray) -> NDArray[np.int64]:
    # Half way between two pixels the first is taken, whatever the last bits of the division say.
    return np.ceil(np.round(positions, 6) - 0.5).astype(np.int64)


def input_notes(facts: Mapping[str, Any], size: SizeSettings) -> list[str]:
    """A line for each thing that the user must know of the frames: what was left out of them, what is cut off.

    facts: of the sequence; its ``notes`` are lines, its ``image_sizes`` [width, height, images] of each size.
    """
    return [*facts.get("notes", ()), *crop_notes(facts.get("image_sizes", ()), size)]


def refuse_faulty_images(facts: Mapping[str, Any]) -> None:
    """Raises DataError where a method that sees the images could not reach the end (``image_faults`` of the facts)."""
    faults = facts.get("image_faults", ())
    if faults:
        raise DataError("; ".join(faults))
