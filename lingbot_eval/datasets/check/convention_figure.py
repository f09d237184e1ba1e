"""The convention test as a picture: which hypothesis fits, where pixels land, and which focal length the depth has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from PIL import Image as PillowImage

from lingbot_eval.datasets.check.convention import EXPECTED, ConventionVerdict, Evidence
from lingbot_eval.plots import BLACK, BLUE, GREY, SKY, VERMILION, new_figure, save, style
from lingbot_eval.types import FloatArray

_FIT, _MISS, _OTHER, _BEST = SKY, VERMILION, GREY, BLUE
_SHOWN_WIDTH = 640  # pixels of the photograph in the picture
_SHOWN_POINTS = 4000
_BARS = 8


def write_convention_figure(path: Path, title: str, verdict: ConventionVerdict) -> None:
    """Write the picture, whole or not at all. Raises StoreError."""
    said = f"poses are {verdict.best.name}" if verdict.clear else "no convention stands out"
    figure = new_figure(13, 8.6, f"{title}: {said}")
    (bars, focal), (as_read, as_best) = figure.subplots(2, 2)
    _draw_bars(bars, verdict)
    _draw_focal(focal, verdict)
    if verdict.evidence is None:
        for axes in (as_read, as_best):
            axes.set_axis_off()
    else:
        found = verdict.evidence
        _draw_landing(as_read, found, found.pixels, found.fits, f"as the poses are read: {', '.join(EXPECTED)}")
        word = "runner-up" if verdict.is_expected else "best fit"
        _draw_landing(as_best, found, found.other_pixels, found.other_fits, f"{word}: {found.other.name}")
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


def _draw_landing(axes: Axes, evidence: Evidence, pixels: FloatArray, fits: FloatArray, title: str) -> None:
    image = evidence.second.image
    assert image is not None
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
    frames = f"frame {evidence.first.index} carried into frame {evidence.second.index}"
    axes.set_title(f"{title}\n{frames}: {share:.0%} fit", fontsize=10, loc="left")
