"""A film of a reconstruction as it grew, drawn in software: no browser, no graphics library, no program beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lingbot_eval.errors import ConfigError, StoreError, reason
from lingbot_eval.files.atomic import atomic_path, writing
from lingbot_eval.types import DepthMap, FloatArray, Image
from lingbot_eval.viewing.camera_paths import Segment, camera_path
from lingbot_eval.viewing.cloud import CONFIDENT_SHARE, VoxelCloud
from lingbot_eval.viewing.kept import Cameras, Reconstruction, Thumbnail
from lingbot_eval.viewing.splats import Splats, Style, View

if TYPE_CHECKING:
    from collections.abc import Callable

_CRF = "18"  # quality of the encoder: visually without loss
_TAIL = 50  # frames of the trail behind the camera
_HEAD = 8  # pixels of the point where the camera is
_RAMP = "turbo"
_ASKED = 5000  # voxels whose nearest neighbour is looked for
_SAMPLES = 16  # depth maps that decide the colours of all
_SHARES = (1.0, 99.0)  # percent: of depth that the colours span, of the cloud that counts as the scene
_NEAR = 0.02

Panel = Literal["image", "depth"]
Even = Annotated[int, Field(ge=64, le=8192, multiple_of=2)]


class FilmSettings(BaseModel):
    """What a film shows.

    size: width and height of the picture of the cloud, even. fps: frames of the film per second. angle: vertical, in
    degrees. frames: first and last frame of the stream (-1 = last), and every how many. camera: segments in order;
    transition: frames between them. background: RGB. eye_dome: strength of the shading, 0 for none. point_scale: of a
    voxel's edge. near, far: depths that are drawn, in the cloud's unit; None: from
    a fiftieth of the scene's extent, and without an end. confidence: share of the voxels that is shown, those of
    highest mean confidence over the run. trail, frustum, tag: the path so far, the camera, the number of the frame.
    beside: pictures at the right.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[Even, Even] = (1280, 720)
    fps: Annotated[int, Field(ge=1, le=240)] = 30
    angle: Annotated[float, Field(gt=1, lt=170)] = 60.0
    frames: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=-1)], Annotated[int, Field(ge=1)]] = (0, -1, 1)
    camera: tuple[Segment, ...] = (Segment(),)
    transition: Annotated[int, Field(ge=0)] = 30
    background: tuple[Annotated[int, Field(ge=0, le=255)], ...] = (0, 0, 0)
    eye_dome: Annotated[float, Field(ge=0)] = 0.1
    point_scale: Annotated[float, Field(gt=0)] = 1.0
    near: Annotated[float, Field(ge=0)] | None = None
    far: Annotated[float, Field(gt=0)] | None = None
    confidence: Annotated[float, Field(gt=0, le=1)] = CONFIDENT_SHARE
    trail: bool = True
    frustum: bool = True
    tag: bool = True
    beside: tuple[Panel, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.camera:
            raise ValueError("expected at least one segment of camera")
        if len(self.background) != 3:
            raise ValueError("expected red, green and blue as background")
        return self


_DARK = (43, 43, 43)
PRESETS: dict[str, FilmSettings] = {
    "default": FilmSettings(),
    "indoor": FilmSettings(camera=(Segment(mode="birdeye"),), background=_DARK),
    "outdoor": FilmSettings(
        camera=(
            Segment(mode="follow", back=0.2, up=0.05, look=0.5, smooth=60),
            Segment(mode="birdeye", frames=(3000, -1)),
        ),
        transition=40,
        background=_DARK,
        point_scale=0.7,
    ),
}
"""Settings by name."""


@dataclass(frozen=True)
class Films:
    """What was drawn. files: films or pictures. notes: what is missing, a line each."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]


class Renderer:
    """Draws single pictures of a reconstruction at any frame; a film is all of them in order.

    Args:
        kept: what a run kept of a scene.
        settings: what to show.
        device: ``cpu``, or a torch device that draws the points.

    Raises:
        ConfigError: no cloud or no poses were kept, what is asked to stand beside was not, or a segment lies outside.
        StoreError: a file is damaged.
    """

    def __init__(self, kept: Reconstruction, settings: FilmSettings, device: str = "cpu") -> None:
        poses, cloud = kept.poses, kept.cloud()
        if poses is None or not len(poses) or not poses.has_orientation:
            raise ConfigError(f"{kept.folder}: expected poses with orientations to film, found none")
        if cloud is None or not len(cloud):
            raise ConfigError(
                f"{kept.folder}: expected a cloud, found none: its method gives no depth, or keep.cloud was off"
            )
        self.settings = settings
        self._poses, self._kept = poses, kept
        self._cloud = shown_voxels(cloud, settings.confidence)
        width, height = settings.size
        self._path = camera_path(
            _within(settings.camera, len(poses)),
            poses.camera_to_world,
            self._cloud.positions,
            angle=settings.angle,
            aspect=width / height,
            transition=settings.transition,
        )
        self._splats = Splats(self._cloud.positions, self._cloud.colours, self._cloud.edge, device)
        self._style = Style(
            background=(settings.background[0], settings.background[1], settings.background[2]),
            eye_dome=settings.eye_dome,
            point_scale=settings.point_scale,
            near=_NEAR * _extent(self._cloud.positions) if settings.near is None else settings.near,
            far=np.inf if settings.far is None else settings.far,
        )
        self._panels = _Panels(kept, settings) if settings.beside else None
        self._cameras = kept.cameras()

    @property
    def positions(self) -> range:
        """Positions in the trajectory that the film shows. Raises ConfigError when there is none."""
        first, last, step = self.settings.frames
        end = len(self._poses) if last < 0 else min(last + 1, len(self._poses))
        if first >= end:
            raise ConfigError(f"frames: expected some within 0 to {len(self._poses) - 1}, found {first} to {last}")
        return range(first, end, step)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a whole picture, panels included."""
        width, height = self.settings.size
        return (width + (_panel_width(width) if self._panels else 0), height)

    def position_of(self, frame: int) -> int:
        """Where a frame of the stream stands in the trajectory; -1 is the last. Raises ConfigError."""
        indices = self._poses.indices
        if frame == -1:
            return len(indices) - 1
        at = int(np.searchsorted(indices, frame))
        if at == len(indices) or indices[at] != frame:
            raise ConfigError(f"expected a frame with a pose within {indices[0]} to {indices[-1]}, found {frame}")
        return at

    def voxels_at(self, position: int) -> int:
        """How many voxels are there at a position of the trajectory."""
        return int(np.searchsorted(self._cloud.first_frame, self._poses.indices[position], side="right"))

    def picture(self, position: int) -> Image:
        """(H, W, 3) uint8: the cloud as it is at this position of the trajectory, and all that goes over and beside."""
        width, height = self.settings.size
        view = View.of_angle(self._path[position], self.settings.angle, width, height)
        image = self._splats.draw(view, self._style, self.voxels_at(position)).image
        image = self._overlaid(image, view, position)
        if self._panels is None:
            return image
        return np.concatenate([image, self._panels.column(int(self._poses.indices[position]))], axis=1)

    def _overlaid(self, image: Image, view: View, position: int) -> Image:
        from PIL import Image as Pictures
        from PIL import ImageDraw, ImageFont

        settings = self.settings
        picture = Pictures.fromarray(image)
        draw = ImageDraw.Draw(picture)
        centres = self._poses.camera_to_world[:, :3, 3]
        if settings.trail:
            start = max(0, position - _TAIL)
            _draw_lines(draw, view, centres[start : position + 1], _ramp(start, position, len(centres)))
        if settings.frustum:
            _draw_frustum(draw, view, self._poses.camera_to_world[position], self._corners(position))
        if settings.trail:
            pixels, depth = view.project(centres[position][None])
            if depth[0] > 0 and np.abs(pixels).max() < 1e5:
                x, y = pixels[0]
                draw.ellipse((x - _HEAD / 2, y - _HEAD / 2, x + _HEAD / 2, y + _HEAD / 2), fill=(255, 255, 255))
        if settings.tag:
            size = max(12, settings.size[1] // 36)
            text = f"{self._poses.indices[position] + 1} / {self._poses.indices[-1] + 1} frames"
            font = ImageFont.load_default(size)
            draw.text((size, size / 2), text, "white", font, stroke_width=1, stroke_fill="black")
        return np.asarray(picture)

    def _corners(self, position: int) -> FloatArray:
        """(4, 3) directions of the picture's corners in the camera, z = 1; of a usual camera where none was kept."""
        cameras: Cameras | None = self._cameras
        across, down = 0.6, 0.45
        if cameras is not None and len(cameras):
            at = min(int(np.searchsorted(cameras.index, self._poses.indices[position])), len(cameras) - 1)
            matrix, (width, height) = cameras.intrinsics[at], cameras.size[at]
            across, down = width / 2 / matrix[0, 0], height / 2 / matrix[1, 1]
        return np.array([[-across, -down, 1], [across, -down, 1], [across, down, 1], [-across, down, 1]])


def render_film(
    kept: Reconstruction,
    path: Path,
    settings: FilmSettings | None = None,
    *,
    device: str = "cpu",
    on_frame: Callable[[int, int], object] | None = None,
) -> None:
    """Write a film (MP4, H.264) of a reconstruction; the same input gives the same pictures.

    Args:
        kept: what a run kept of a scene.
        path: of the file, ``.mp4``; it appears whole or not at all.
        settings: what to show.
        device: ``cpu``, or a torch device that draws the points.
        on_frame: called with the number of frames written and of all.

    Raises:
        ConfigError: as `Renderer`, or another ending than ``.mp4``.
        StoreError: a file is damaged, or the film cannot be written.
    """
    if path.suffix.lower() != ".mp4":
        raise ConfigError(f"film: expected a name that ends with .mp4, found {path}")
    renderer = Renderer(kept, settings or FilmSettings(), device)
    positions = renderer.positions
    _make_folder(path)
    with atomic_path(path) as temporary:
        _encode(temporary, _counted(renderer, positions, on_frame), renderer.size, renderer.settings.fps, path)


def save_still(image: Image, path: Path) -> None:
    """Write a picture as PNG, whole or not at all. Raises StoreError."""
    from PIL import Image as Pictures

    _make_folder(path)
    with atomic_path(path) as temporary:
        Pictures.fromarray(image).save(temporary, format="PNG")


def _make_folder(path: Path) -> None:
    """Once there is something to write, and not before: what cannot be drawn leaves no empty folder."""
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)


def _counted(renderer: Renderer, positions: range, on_frame: Callable[[int, int], object] | None) -> Iterator[Image]:
    for number, position in enumerate(positions, start=1):
        yield renderer.picture(position)
        if on_frame is not None:
            on_frame(number, len(positions))


def _encode(temporary: Path, images: Iterator[Image], size: tuple[int, int], fps: int, path: Path) -> None:
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(temporary), "w", format="mp4") as container:
            # Its tree of macroblocks, over small and flat pictures, has no two results alike now and then.
            options = {"crf": _CRF, "threads": "2", "x264-params": "mbtree=0"}
            stream = container.add_stream("libx264", rate=Fraction(fps), options=options)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            for image in images:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    except FFmpegError as error:
        raise StoreError(f"cannot write {path}: {reason(error)}; free space or choose another folder") from error


@dataclass(frozen=True, eq=False)
class ShownVoxels:
    """The voxels of a cloud that are shown, in the order in which they were seen.

    positions: (N, 3) float32. colours: (N, 3) uint8. first_frame: (N,). edge: of each, so that surfaces have no holes.
    """

    positions: DepthMap
    colours: Image
    first_frame: Any
    edge: float


def shown_voxels(cloud: VoxelCloud, share: float = CONFIDENT_SHARE) -> ShownVoxels:
    """The share of a cloud, not empty, that the confidence rule leaves."""
    mask = cloud.confident(share)
    assert cloud.voxel_size is not None
    positions = cloud.positions[mask]
    edge = max(cloud.voxel_size, spacing(positions, cloud.voxel_size))
    return ShownVoxels(positions, cloud.colours[mask], cloud.first_frame[mask], edge)


def _extent(positions: DepthMap) -> float:
    """Diagonal of the box around the middle 98 % of the voxels."""
    low, high = np.percentile(positions.astype(np.float64), _SHARES, axis=0)
    return float(np.linalg.norm(high - low))


def spacing(positions: DepthMap, voxel: float) -> float:
    """Distance between neighbours on a surface: small images leave voxels empty, and squares have to close the gaps.

    Cells of a grid are looked through, larger ones until most points have met a neighbour: a tree of scipy's takes
    twice as long to build, and more to load.

    Args:
        positions: (N, 3) of voxels.
        voxel: their edge, with which the search begins.

    Returns:
        Twice the median distance to the nearest other one, of an even sample; 0 for fewer than two.
    """
    if len(positions) < 2:
        return 0.0
    asked = np.arange(0, len(positions), -(-len(positions) // _ASKED))
    nearest = np.full(len(asked), np.inf)
    edge = 1.5 * voxel
    # Those that are nearer than an edge are sure, and once they are more than half, so is the median.
    while 2 * np.count_nonzero(nearest <= edge) < len(asked) + 2:
        edge *= 2
        cells = ((positions - positions.min(axis=0)) / edge).astype(np.int64) + 1
        _, wide, deep = cells.max(axis=0) + 2
        keys = (cells[:, 0] * wide + cells[:, 1]) * deep + cells[:, 2]
        order = np.argsort(keys)
        ascending = keys[order]
        for row in ((x * wide + y) * deep for x in (-1, 0, 1) for y in (-1, 0, 1)):
            # Three cells in a row are neighbours among the sorted keys, too.
            first = np.searchsorted(ascending, keys[asked] + row - 1)
            end = np.searchsorted(ascending, keys[asked] + row + 1, side="right")
            for number in range(int((end - first).max())):
                some = np.flatnonzero(first + number < end)
                others = order[first[some] + number]
                apart = np.linalg.norm(positions[others].astype(np.float64) - positions[asked[some]], axis=1)
                nearest[some] = np.fmin(nearest[some], np.where(others == asked[some], np.inf, apart))
    # The nearest of points strewn over a plane is half a grid's spacing away.
    return 2 * float(np.median(nearest))


def _within(segments: tuple[Segment, ...], count: int) -> tuple[Segment, ...]:
    """Segments that begin before the stream ends: a preset's later ones are for longer streams."""
    return tuple(segment for segment in segments if segment.frames[0] < count) or segments


class _Panels:
    """The pictures at the right: the newest thumbnail and depth map up to a frame."""

    def __init__(self, kept: Reconstruction, settings: FilmSettings) -> None:
        self._kept, self._settings = kept, settings
        self._thumbnails: tuple[Thumbnail, ...] = kept.thumbnails() if "image" in settings.beside else ()
        self._depths = kept.depth_indices() if "depth" in settings.beside else ()
        if "image" in settings.beside and not self._thumbnails:
            raise ConfigError(f"beside: expected pictures in {kept.folder}, found none; see keep.cloud")
        if "depth" in settings.beside and not self._depths:
            raise ConfigError(f"beside: expected depth in {kept.folder}, found none; see keep.depth")
        self._span = self._depth_span()
        self._last: dict[Panel, tuple[int, Image]] = {}

    def column(self, index: int) -> Image:
        width, height = self._settings.size
        count = len(self._settings.beside)
        rows = [height * number // count for number in range(count + 1)]
        column = np.zeros((height, _panel_width(width), 3), np.uint8)
        for panel, top, bottom in zip(self._settings.beside, rows, rows[1:], strict=False):
            column[top:bottom] = _fitted(self._picture(panel, index), column.shape[1], bottom - top)
        return column

    def _picture(self, panel: Panel, index: int) -> Image:
        indices = [picture.index for picture in self._thumbnails] if panel == "image" else self._depths
        at = max(0, int(np.searchsorted(indices, index, side="right")) - 1)
        if panel not in self._last or self._last[panel][0] != at:
            image = self._thumbnails[at].image if panel == "image" else self._coloured(self._depths[at])
            self._last[panel] = (at, image)
        return self._last[panel][1]

    def _coloured(self, index: int) -> Image:
        depth = self._kept.depth_frame(index).depth
        low, high = self._span
        usable = np.isfinite(depth) & (depth > 0)
        nearness = np.where(usable, (1 / np.where(usable, depth, 1) - low) / (high - low), 0)
        image = _coloured(np.clip(nearness, 0, 1))
        image[~usable] = 0
        return image

    def _depth_span(self) -> tuple[float, float]:
        """Of 1/depth, over some of the maps: one colour means one distance throughout the film."""
        step = max(1, -(-len(self._depths) // _SAMPLES))
        values = [np.ravel(self._kept.depth_frame(index).depth)[::7] for index in self._depths[::step]]
        joined = np.concatenate(values) if values else np.ones(1)
        joined = joined[np.isfinite(joined) & (joined > 0)]
        if not len(joined):
            return 0.0, 1.0
        low, high = np.percentile(1 / joined.astype(np.float64), _SHARES)
        return float(low), float(high if high > low else low + 1)


def _panel_width(width: int) -> int:
    return width // 3 // 2 * 2


def _fitted(image: Image, width: int, height: int) -> Image:
    """The whole image in a box, black around it."""
    from PIL import Image as Pictures

    share = min(width / image.shape[1], height / image.shape[0])
    size = (max(1, round(image.shape[1] * share)), max(1, round(image.shape[0] * share)))
    box = np.zeros((height, width, 3), np.uint8)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    box[top : top + size[1], left : left + size[0]] = np.asarray(Pictures.fromarray(image).resize(size))
    return box


def _ramp(first: int, last: int, count: int) -> Image:
    """(last - first, 3) a colour for each piece of the trail, by its place in the whole stream."""
    return _coloured(np.arange(first, last) / max(count - 1, 1))


def _coloured(values: FloatArray) -> Image:
    """(..., 3) colours of values from 0 to 1."""
    from matplotlib import colormaps

    colours: FloatArray = np.asarray(colormaps[_RAMP](values))
    return np.rint(255 * colours[..., :3]).astype(np.uint8)


def _draw_lines(draw: Any, view: View, points: FloatArray, colours: Image) -> None:
    pixels, depth = view.project(points)
    for number, colour in enumerate(colours):
        ends = pixels[number : number + 2]
        # A piece with an end behind the camera has no picture; one far outside is not worth its overflow.
        if (depth[number : number + 2] > 0).all() and np.abs(ends).max() < 1e5:
            draw.line([tuple(end) for end in ends], fill=tuple(int(value) for value in colour), width=2)


def _draw_frustum(draw: Any, view: View, camera: FloatArray, corners: FloatArray) -> None:
    """The camera as a pyramid as deep as a twentieth of how far the film's camera is from it."""
    size = 0.05 * float(np.linalg.norm(view.camera_to_world[:3, 3] - camera[:3, 3]))
    if size <= 0:
        return
    edge = size * corners @ camera[:3, :3].T + camera[:3, 3]
    white = np.full((1, 3), 255, np.uint8)
    for number in range(4):
        _draw_lines(draw, view, np.stack([camera[:3, 3], edge[number]]), white)
        _draw_lines(draw, view, np.stack([edge[number], edge[(number + 1) % 4]]), white)
