"""Which pose convention do depth and poses agree with? Depth of one frame, moved into another, has to fit there.

For every hypothesis the depth of a frame is carried into a later one and compared with what was measured there. The
right convention makes surfaces coincide; a wrong one does so only by chance. Nothing is assumed of the scene.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as PillowImage

from lingbot_eval.datasets.sequence import FileSequence
from lingbot_eval.geometry.cameras import project
from lingbot_eval.geometry.poses import inverse, orthogonalised, relative, rotation_angle
from lingbot_eval.plots import BLACK, BLUE, GREY, SKY, VERMILION, new_figure, save, style
from lingbot_eval.types import DepthMap, FloatArray, Frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAIRS = 12
SAMPLES = 6000  # pixels of a frame
TOLERANCE = 0.03  # relative difference of depth that counts as the same surface
LEAST_SHARE = 0.10  # of the pixels must fit before anything is said
LEAST_LEAD = 1.5  # times the runner-up's share
FOCAL_TOLERANCE = 0.05
_EQUAL = 0.97  # shares nearer to each other are equal
_MOST_TIES = 3
_ANGLES = (np.radians(8.0), np.radians(25.0))  # between the frames of a pair: enough to tell, not too much to overlap
_LOOK_AHEAD = 200
# How far depth in one of the usual units (m, cm, mm, 0.1 mm; TUM's 5000, KITTI's 256, Replica's 6553.5 a metre) is off
# when it is read in another.
_DEPTH_FACTORS = (1e-3, 1e-2, 0.1, 1 / 6.5535, 0.2, 0.256, 0.5, 2.0, 1 / 0.256, 5.0, 6.5535, 10.0, 100.0, 1e3)

_SHIFTS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30)  # frames by which poses may be out of step
_CLOSE = 0.01  # relative difference of depth: finer than TOLERANCE, since a step is a small motion
_BETTER = 1.15  # times the share as they are, from which on a shift is believed

_SIGNS = {
    "OpenCV axes": (1, 1, 1),
    "OpenGL axes (y and z flipped)": (1, -1, -1),
    "x and z flipped": (-1, 1, -1),
    "x and y flipped": (-1, -1, 1),
    "x flipped": (-1, 1, 1),
    "y flipped": (1, -1, 1),
    "z flipped": (1, 1, -1),
    "all axes flipped": (-1, -1, -1),
}
AXES: dict[str, FloatArray] = {
    **{name: np.diag([*map(float, signs), 1.0]) for name, signs in _SIGNS.items()},
    "robot axes (x forward, z up)": np.array(
        [[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    ),
}
"""Name → the matrix that turns points in OpenCV camera axes into points in the named ones."""
EXPECTED = ("camera-to-world", "OpenCV axes")


# Of the figure.
_FIT, _MISS, _OTHER, _BEST = SKY, VERMILION, GREY, BLUE
_SHOWN_WIDTH = 640  # pixels of the photograph in the picture
_SHOWN_POINTS = 4000
_BARS = 8


@dataclass(frozen=True)
class Fit:
    """How well one hypothesis fits. share: of sampled pixels, those that land on a surface at their own depth."""

    direction: str
    axes: str
    share: float

    @property
    def name(self) -> str:
        return f"{self.direction}, {self.axes}"


@dataclass(frozen=True, eq=False)
class Pair:
    """Two frames. points: (3, N) rays of pixels of the first at unit depth, before the focal length; depth: (N,)."""

    first: Frame
    second: Frame
    points: FloatArray
    depth: FloatArray


@dataclass(frozen=True, eq=False)
class ConventionVerdict:
    """What the test says. fits: best first. clear: whether the best one stands out.

    ties: hypotheses that this motion cannot tell from the best (a camera that never leaves a plane moves the same
    way in its mirror image).
    focal_scales, focal_shares: share of fitting pixels when the depth map's focal length is multiplied so.
    declared_focal, image_focal, fitted_focal: pixels; fitted_focal is None where the test cannot tell.
    depth_factor: what depth must be multiplied with to fit the poses, where it is clearly of another unit.
    shown: the pair of frames for the figure, which tells the poses as they are read from another hypothesis.
    shift: frames later than their own whose poses fit the frames clearly better (negative: earlier); 0 for none.
    shift_shares: share of pixels that fit closely with the poses as they are, and shifted so.
    """

    fits: tuple[Fit, ...]
    ties: tuple[Fit, ...]
    clear: bool
    pairs: int
    declared_focal: float
    image_focal: float
    focal_scales: tuple[float, ...] = ()
    focal_shares: tuple[float, ...] = ()
    fitted_focal: float | None = None
    shown: Pair | None = None
    depth_factor: float | None = None
    shift: int = 0
    shift_shares: tuple[float, float] = (0.0, 0.0)

    @property
    def best(self) -> Fit:
        return self.fits[0]

    @property
    def runner_up(self) -> Fit:
        """The best of those that the test can tell from the best."""
        return next(fit for fit in self.fits[1:] if fit not in self.ties)

    @property
    def other(self) -> Fit:
        """What the poses as they are read are shown against: the best fit, or the runner-up where that is they."""
        return self.runner_up if self.is_expected else self.best

    @property
    def is_expected(self) -> bool:
        """Whether the poses are camera-to-world in OpenCV axes, as everything here takes them."""
        return (self.best.direction, self.best.axes) == EXPECTED

    @property
    def focal_agrees(self) -> bool:
        """Whether depth was measured with the focal length that it is declared to have."""
        fitted = self.fitted_focal
        return fitted is None or abs(fitted / self.declared_focal - 1) <= FOCAL_TOLERANCE


def convention_of(sequence: FileSequence) -> ConventionVerdict | str:
    """Test a scene; the reason, as a sentence, where there is not enough to test. Raises DataError for broken files."""
    pairs = _pairs(sequence)
    if isinstance(pairs, str):
        return pairs
    fits = sorted(
        (
            Fit(direction, axes, float(np.mean([_share(pair, direction, axes) for pair in pairs])))
            for direction in ("camera-to-world", "world-to-camera")
            for axes in AXES
        ),
        key=lambda fit: -fit.share,
    )
    # Of equals the expected one is meant.
    equal = _EQUAL * fits[0].share
    fits.sort(key=lambda fit: not (fit.share >= equal and (fit.direction, fit.axes) == EXPECTED))
    best = fits[0]
    ties = tuple(fit for fit in fits[1:] if LEAST_LEAD * fit.share > best.share)
    doubtful = any((fit.direction, fit.axes) == EXPECTED for fit in ties)
    clear = best.share >= LEAST_SHARE and len(ties) <= _MOST_TIES and not doubtful
    first = pairs[0].first
    declared = _depth_camera(first)[0, 0]
    assert first.intrinsics is not None
    image_focal = float(first.intrinsics[0, 0])
    factor = _depth_factor(pairs, best.share)
    # Depth in another unit, or poses of another convention, fit no better one step on.
    expected = (best.direction, best.axes) == EXPECTED or not clear
    shift, shift_shares = _shift(pairs, sequence) if expected and factor is None else (0, (0.0, 0.0))
    clear = clear and factor is None
    verdict = ConventionVerdict(
        tuple(fits),
        ties,
        clear,
        len(pairs),
        float(declared),
        image_focal,
        depth_factor=factor,
        shift=shift,
        shift_shares=shift_shares,
    )
    if not clear:
        return verdict
    scales = np.exp(np.linspace(-0.24, 0.24, 25))
    # Within 3 % a twentieth of the focal length hardly counts in a room seen whole; within 1 % coarse pixels do.
    found: list[tuple[float, list[float]]] = []
    for close in (TOLERANCE, _CLOSE):
        shares = [
            float(np.mean([_share(pair, best.direction, best.axes, scale, close=close) for pair in pairs]))
            for scale in scales
        ]
        peak = _peak(scales, shares, float(declared))
        found += [] if peak is None else [(peak, shares)]
    # Another one is believed where both say so.
    fitted, shares = min(found, key=lambda each: abs(each[0] - declared)) if len(found) == 2 else (None, shares)
    return dataclasses.replace(
        verdict,
        focal_scales=tuple(map(float, scales)),
        focal_shares=tuple(shares),
        fitted_focal=fitted,
        shown=_shown(pairs, verdict.other),
    )


def _depth_factor(pairs: Sequence[Pair], as_read: float) -> float | None:
    """The factor under which depth fits poses read as expected, far better than anything does as it is; else None."""

    def share(factor: float, close: float) -> float:
        return float(np.mean([_share(pair, *EXPECTED, depth_factor=factor, close=close) for pair in pairs]))

    # Small motions fit neighbouring factors, too: the closest fit names it.
    factor = max(_DEPTH_FACTORS, key=lambda candidate: share(candidate, _CLOSE))
    return factor if share(factor, TOLERANCE) >= max(LEAST_SHARE, LEAST_LEAD * as_read) else None


def _shift(pairs: Sequence[Pair], sequence: FileSequence) -> tuple[int, tuple[float, float]]:
    """By how many frames the poses are out of step with the images, 0 for none; shares as they are, and shifted.

    A pair is judged with the poses of the frames so many later. Where the motion never changes all shifts fit alike,
    and none is believed.
    """
    reference = sequence.reference()
    assert reference is not None
    poses = dict(zip(reference.indices.tolist(), orthogonalised(reference.camera_to_world), strict=True))
    # A quarter of the pixels: twenty shifts are tried.
    few = [dataclasses.replace(pair, points=pair.points[:, ::4], depth=pair.depth[::4]) for pair in pairs]
    as_they_are = [_share(pair, *EXPECTED, close=_CLOSE) for pair in few]
    best, shares = 0, (0.0, 0.0)
    for shift in (*_SHIFTS, *(-shift for shift in _SHIFTS)):
        now, then = [], []
        for pair, share in zip(few, as_they_are, strict=True):
            first, second = poses.get(pair.first.index + shift), poses.get(pair.second.index + shift)
            if first is not None and second is not None:
                now.append(share)
                then.append(_share(_with_poses(pair, first, second), *EXPECTED, close=_CLOSE))
        if 2 * len(now) < len(pairs):
            continue
        before, after = float(np.mean(now)), float(np.mean(then))
        if after > max(_BETTER * before, before + LEAST_SHARE / 2, shares[1]):
            best, shares = shift, (before, after)
    return best, shares


def _with_poses(pair: Pair, first: FloatArray, second: FloatArray) -> Pair:
    return dataclasses.replace(
        pair,
        first=dataclasses.replace(pair.first, camera_to_world=first),
        second=dataclasses.replace(pair.second, camera_to_world=second),
    )


def _pairs(sequence: FileSequence) -> list[Pair] | str:
    there = not sequence.poses_come_later and any(file.depth is not None for file in sequence.files)
    reference = sequence.reference() if there else None
    posed = [] if reference is None else reference.indices.tolist()  # a file of a pose may say that it is lost
    usable = np.array([i for i in posed if sequence.files[i].depth is not None])
    if reference is None or len(usable) < 2:
        return "needs frames that have both a pose and a depth map; this scene has none"
    poses = orthogonalised(reference.camera_to_world)[np.searchsorted(reference.indices, usable)]
    pairs = []
    for first in np.unique(np.linspace(0, len(usable) - 2, PAIRS).astype(int)).tolist():
        ahead = poses[first + 1 : first + 1 + _LOOK_AHEAD]
        # Conventions do not change this angle: inverse and flipped poses have the same.
        angles = rotation_angle(relative(poses[first], ahead))
        good = np.flatnonzero((angles >= _ANGLES[0]) & (angles <= _ANGLES[1]))
        second = int(good[0]) if len(good) else int(np.argmax(np.where(angles <= _ANGLES[1], angles, -1.0)))
        if np.allclose(poses[first], ahead[second], atol=1e-4):
            continue
        a, b = (sequence.frame(int(usable[k])) for k in (first, first + 1 + second))
        if a.intrinsics is None:
            return "needs intrinsics; this dataset has none"
        points, depth = _sampled(a)
        if len(depth):
            pairs.append(Pair(a, b, points, depth))
    return pairs or "needs frames between which the camera moves and depth is measured; this scene has none"


def _sampled(frame: Frame) -> tuple[FloatArray, FloatArray]:
    assert frame.depth is not None
    rows, columns = np.nonzero(frame.depth)
    step = max(1, len(rows) // SAMPLES)
    rows, columns = rows[::step], columns[::step]
    camera = _depth_camera(frame)
    rays = np.stack([(columns - camera[0, 2]) / camera[0, 0], (rows - camera[1, 2]) / camera[1, 1], np.ones(len(rows))])
    return rays, frame.depth[rows, columns].astype(np.float64)


def _depth_camera(frame: Frame) -> FloatArray:
    camera = frame.intrinsics if frame.depth_intrinsics is None else frame.depth_intrinsics
    assert camera is not None
    return camera


def _share(
    pair: Pair,
    direction: str,
    axes: str,
    focal_scale: float = 1.0,
    depth_factor: float = 1.0,
    close: float = TOLERANCE,
) -> float:
    camera = _depth_camera(pair.second).copy()
    camera[0, 0] *= focal_scale
    camera[1, 1] *= focal_scale
    rays = pair.points / np.array([[focal_scale], [focal_scale], [1.0]])
    moved = _moved(pair, rays, direction, axes, depth_factor)
    return float(_fits(moved, camera, pair.second.depth, close).mean())


def _moved(pair: Pair, rays: FloatArray, direction: str, axes: str, depth_factor: float = 1.0) -> FloatArray:
    """(N, 3) points of the first frame in the second's OpenCV camera axes, if the poses are what is said.

    In units of depth as it is read, which is ``depth_factor`` times too small.
    """
    first, second = pair.first.camera_to_world, pair.second.camera_to_world
    assert first is not None
    assert second is not None
    poses = orthogonalised(np.stack([first, second]))
    if direction == "world-to-camera":
        poses = inverse(poses)
    into = AXES[axes]
    motion = np.linalg.inv(into) @ relative(poses[1], poses[0]) @ into
    return np.asarray((rays * pair.depth).T @ motion[:3, :3].T + motion[:3, 3] / depth_factor)


def _fits(points: FloatArray, camera: FloatArray, depth: DepthMap | None, close: float = TOLERANCE) -> FloatArray:
    """(N,) 1.0 where a point lies on the surface that the depth map has there, else 0.0."""
    assert depth is not None
    height, width = depth.shape
    # A column at a time: a comparison along the short axis takes most of the time of a check.
    across, down = project(points, camera).T
    ahead = points[:, 2]
    with np.errstate(invalid="ignore"):
        there = (ahead > 0) & (across > -0.5) & (down > -0.5) & (across < width - 0.5) & (down < height - 0.5)
    inside = np.flatnonzero(there)
    rows, columns = np.rint(down[inside]).astype(int), np.rint(across[inside]).astype(int)
    measured = depth[rows, columns].astype(np.float64)
    fits = np.zeros(len(points))
    fits[inside] = (measured > 0) & (np.abs(ahead[inside] - measured) <= close * measured)
    return fits


def _peak(scales: FloatArray, shares: Sequence[float], declared: float) -> float | None:
    """Focal length with the most fitting pixels (a parabola through the three best places); None without a peak."""
    top = int(np.argmax(shares))
    if top in (0, len(shares) - 1) or shares[top] < 1.15 * min(shares):
        return None
    left, middle, right = shares[top - 1 : top + 2]
    bend = left - 2 * middle + right
    offset = 0.5 * (left - right) / bend if bend < 0 else 0.0
    step = float(np.log(scales[1] / scales[0]))
    return declared * float(scales[top]) * float(np.exp(offset * step))


def _shown(pairs: Sequence[Pair], other: Fit) -> Pair:
    """Neither the easiest pair nor the hardest: the middle one of those that tell the two apart."""
    apart = sorted(pairs, key=lambda pair: abs(_share(pair, *EXPECTED) - _share(pair, other.direction, other.axes)))
    return apart[len(apart) // 2]


def write_convention_figure(path: Path, title: str, verdict: ConventionVerdict) -> None:
    """Write the picture, whole or not at all. Raises StoreError."""
    said = f"poses are {verdict.best.name}" if verdict.clear else "no convention stands out"
    figure = new_figure(13, 8.6, f"{title}: {said}")
    (bars, focal), (as_read, as_best) = figure.subplots(2, 2)
    _draw_bars(bars, verdict)
    _draw_focal(focal, verdict)
    if verdict.shown is None:
        for axes in (as_read, as_best):
            axes.set_axis_off()
    else:
        other, word = verdict.other, "runner-up" if verdict.is_expected else "best fit"
        _draw_landing(as_read, verdict.shown, *EXPECTED, f"as the poses are read: {', '.join(EXPECTED)}")
        _draw_landing(as_best, verdict.shown, other.direction, other.axes, f"{word}: {other.name}")
    save(figure, path)


def _draw_bars(axes: Axes, verdict: ConventionVerdict) -> None:
    fits = list(verdict.fits[:_BARS])
    expected = next(fit for fit in verdict.fits if (fit.direction, fit.axes) == EXPECTED)
    if expected not in fits:
        fits[-1] = expected
    fits = fits[::-1]
    colors = [_BEST if fit is verdict.best else _OTHER for fit in fits]
    drawn = axes.barh([fit.name for fit in fits], [100 * fit.share for fit in fits], color=colors)
    axes.bar_label(drawn, fmt="%.0f %%", padding=3, fontsize=9)
    for label, fit in zip(axes.get_yticklabels(), fits, strict=True):
        label.set_fontsize(9)
        label.set_fontweight("bold" if fit is expected else "normal")
    axes.set_xlim(0, 1.15 * max(100 * verdict.best.share, 1.0))
    style(
        axes,
        f"pixels that land on a surface at their own depth (%), {verdict.pairs} pairs of frames",
        title="Which convention do depth and poses agree with? (bold: expected)",
    )


def _draw_focal(axes: Axes, verdict: ConventionVerdict) -> None:
    style(
        axes,
        "focal length of the depth map (pixels)",
        "pixels that fit (%)",
        "Which focal length does the depth map have?",
    )
    if not verdict.focal_scales:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "not asked: no convention stands out", ha="center", transform=axes.transAxes)
        return
    focal = verdict.declared_focal * np.array(verdict.focal_scales)
    axes.plot(focal, 100 * np.array(verdict.focal_shares), color=_BEST, marker=".")
    axes.axvline(verdict.declared_focal, color=BLACK, linestyle="--", label=f"as read: {verdict.declared_focal:.0f}")
    if verdict.image_focal != verdict.declared_focal:
        axes.axvline(verdict.image_focal, color=GREY, linestyle=":", label=f"image: {verdict.image_focal:.0f}")
    if verdict.fitted_focal is not None:
        axes.axvline(verdict.fitted_focal, color=_MISS, label=f"fits best: {verdict.fitted_focal:.0f}")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=9, frameon=False)


def _draw_landing(axes: Axes, pair: Pair, direction: str, convention: str, title: str) -> None:
    """The pair's second picture, with the first's pixels where a hypothesis carries them."""
    image, intrinsics = pair.second.image, pair.second.intrinsics
    assert image is not None
    assert intrinsics is not None
    moved = _moved(pair, pair.points, direction, convention)
    fits = _fits(moved, _depth_camera(pair.second), pair.second.depth)
    pixels = project(np.where(moved[:, 2:] > 0, moved, np.nan), intrinsics)
    height, width = image.shape[:2]
    scale = min(1.0, _SHOWN_WIDTH / width)
    small = PillowImage.fromarray(image).convert("L").resize((round(width * scale), round(height * scale)))
    axes.imshow(small, cmap="gray", vmin=-120, vmax=300, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    inside = np.isfinite(pixels).all(axis=1) & (pixels >= 0).all(axis=1) & (pixels < [width, height]).all(axis=1)
    share = float(fits.mean())
    step = max(1, int(inside.sum()) // _SHOWN_POINTS)
    for value, color, word in ((0.0, _MISS, "elsewhere"), (1.0, _FIT, "on a surface")):
        chosen = pixels[inside & (fits == value)][::step]
        axes.scatter(chosen[:, 0], chosen[:, 1], s=2.5, color=color, linewidths=0, label=word)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(fontsize=9, markerscale=5, loc="lower right")
    frames = f"frame {pair.first.index} carried into frame {pair.second.index}"
    axes.set_title(f"{title}\n{frames}: {share:.0%} fit", fontsize=10, loc="left")
