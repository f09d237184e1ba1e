"""The look that all figures share, and how one becomes a PNG, SVG or PDF. Imports matplotlib when it draws."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.errors import ConfigError
from lingbot_eval.files.atomic import atomic_path
from lingbot_eval.tables import plain
from lingbot_eval.types import CACHE_KINDS, FloatArray

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

# Okabe and Ito's palette without its yellow, too light for a line: told apart with every common form of colour
# blindness, and in grey print by lightness.
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GREY = "#8A8A8A"
LINE_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
"""Of several lines in one panel, in this order."""
CACHE_COLOURS = dict(zip(CACHE_KINDS, (BLUE, SKY, ORANGE, PURPLE), strict=True))

DPI = 110  # of a PNG
_LONGEST_TITLE = 110
_FEW = 300  # up to here every value can be followed by eye
MOST_POINTS = 4000  # more than twice the pixels of a line's width: drawn as an envelope from here on


def new_figure(width: float, height: float, title: str, *, arranged: bool = True) -> Figure:
    """A figure of its own (no pyplot, no global state), inches; the title is taken as text, never as a formula.

    arranged: whether matplotlib finds the room for its panels when it is saved.
    """
    # The object interface, not pyplot: no window system is looked for and no global state is left behind.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained" if arranged else None, facecolor="white")
    FigureCanvasAgg(figure)
    place: dict[str, Any] = {} if arranged else {"y": 1 - 0.08 / height, "va": "top"}
    figure.suptitle(plain(title, _LONGEST_TITLE), fontsize=12, parse_math=False, **place)
    return figure


def stacked_panels(
    width: float, height: float, count: int, title: str, *, below: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """A figure of panels one below the other along one x axis.

    Every figure of a kind has its panels at the same places: matplotlib's search for room takes as long as all else.

    Args:
        width: of the figure, inches.
        height: likewise.
        count: of panels.
        title: as of `new_figure`.
        below: inches kept free under the panels, for a legend.

    Returns:
        The figure, and its panels from top to bottom.
    """
    figure = new_figure(width, height, title, arranged=False)
    top, bottom, gap = 0.66, 0.52 + below, 0.36  # inches
    panel = (height - top - bottom - (count - 1) * gap) / count
    figure.subplots_adjust(
        left=0.85 / width, right=1 - 0.2 / width, top=1 - top / height, bottom=bottom / height, hspace=gap / panel
    )
    panels = list(figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0])
    for axes in panels:
        axes.xaxis.set_label_coords(0.5, -0.34 / panel)
        axes.yaxis.set_label_coords(-0.62 / (width - 1.05), 0.5)
    return figure, panels


def style(axes: Axes, x: str = "", y: str = "", title: str = "") -> None:
    """Labels, a quiet grid and no frame on two sides."""
    axes.set_xlabel(x, fontsize=10, parse_math=False)
    axes.set_ylabel(y, fontsize=10, parse_math=False)
    if title:
        # Where it is told to be: matplotlib would go through all tick labels for it. A power of ten stands beside it.
        axes.set_title(title, fontsize=10, loc="left", parse_math=False, y=1.0)
        axes.yaxis.get_offset_text().set_horizontalalignment("right")
    axes.tick_params(labelsize=9)
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend_above(axes: Axes, handles: Sequence[Artist] | None = None) -> None:
    """A legend in the line of the panel's title, where it hides no data; of what was drawn, or of ``handles``."""
    handles = axes.get_legend_handles_labels()[0] if handles is None else handles
    legend = axes.legend(
        handles=handles,
        fontsize=8,
        frameon=False,
        loc="lower right",
        bbox_to_anchor=(1.0, 0.99),
        ncols=max(1, len(handles)),
        borderaxespad=0.1,
        columnspacing=1.2,
    )
    names_as_they_are(legend)


def names_as_they_are(legend: Legend) -> None:
    """Names come from anywhere: what stands between two dollars may be no formula."""
    for entry in legend.get_texts():
        entry.set_parse_math(False)


# By the ending of a file's name: what keeps the library's version and the time of day out of the file.
_METADATA: dict[str, dict[str, None]] = {
    ".png": {},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}


def check_ending(path: Path, option: str) -> None:
    """Raises ConfigError unless the name of the picture that ``option`` asks for ends in a format there is."""
    if path.suffix.lower() not in _METADATA:
        raise ConfigError(f"{option} {path}: expected a file name ending in {', '.join(_METADATA)}")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, SVG or PDF, as the path's ending says; whole or not at all, and the same figure as the same bytes.

    Raises StoreError.
    """
    from matplotlib import rc_context

    ending = path.suffix.lower()
    # Names inside an SVG are random without a salt.
    with atomic_path(path) as temporary, warnings.catch_warnings(), rc_context({"svg.hashsalt": "lingbot_eval"}):
        # A scene's name in a script that the font lacks is drawn as boxes: no reason to alarm anybody.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        layout = figure.get_layout_engine()
        if layout is not None:
            # Here: savefig would draw all of the figure once more for it.
            layout.execute(figure)
            figure.set_layout_engine(None)
        if ending == ".png":
            temporary.write_bytes(_png(painted(figure), figure.dpi))
        else:
            figure.savefig(temporary, format=ending[1:], metadata=_METADATA[ending])


def painted(figure: Figure) -> NDArray[np.uint8]:
    """(H, W, 3) pixels of a figure whose parts have their places."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.get_renderer().buffer_rgba())[:, :, :3]


def _png(pixels: NDArray[np.uint8], dpi: float) -> bytes:
    """(H, W, 3) pixels as a PNG, each row as its difference from the row above.

    Pillow tries five ways for each row and takes nearly three times as long, for files no smaller.
    """
    height, width, channels = pixels.shape
    rows = np.empty((height, 1 + width * channels), np.uint8)
    rows[:, 0] = 2  # the difference from above
    flat = pixels.reshape(height, -1)
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    a_metre = round(dpi / 0.0254)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"pHYs", struct.pack(">IIB", a_metre, a_metre, 1)),
        (b"IDAT", zlib.compress(rows.data, 1)),
        (b"IEND", b""),
    )
    framed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def draw_series(axes: Axes, x: FloatArray, y: FloatArray, label: str, color: str) -> None:
    """A series along the sequence: raw values thin, a rolling median bold where there are many.

    From MOST_POINTS on, the raw values become the band between the smallest and largest of each stretch, so that
    no spike is lost to decimation. x (N,), y (N,): NaN in y is left out.
    """
    measured = np.isfinite(y)
    x, y = x[measured], y[measured]
    if len(y) <= _FEW:
        marks: dict[str, Any] = {"marker": "."} if len(y) <= 30 else {}
        axes.plot(x, y, color=color, linewidth=1.2, label=label, **marks)
        return
    stretch = max(9, len(y) // 200)
    if len(y) <= MOST_POINTS:
        axes.plot(x, y, color=color, linewidth=0.7, alpha=0.45, label=label)
    else:
        starts = np.arange(0, len(y), -(-len(y) // (MOST_POINTS // 4)))
        axes.fill_between(
            x[starts],
            np.minimum.reduceat(y, starts),
            np.maximum.reduceat(y, starts),
            color=color,
            alpha=0.3,
            linewidth=0,
            step="post",
            label=f"{label}, range",
        )
    centres, medians = rolling_median(x, y, stretch)
    axes.plot(centres, medians, color=color, linewidth=1.6, label=f"median of {stretch}")


def thinned(count: int) -> NDArray[np.int64]:
    """Positions of about MOST_POINTS of so many points, evenly; the last one is always among them."""
    every = max(1, -(-count // MOST_POINTS))
    return np.unique(np.append(np.arange(0, count - 1, every), count - 1)) if count else np.arange(0)


def rolling_median(x: FloatArray, y: FloatArray, width: int) -> tuple[FloatArray, FloatArray]:
    """Medians over ``width`` neighbours, at about a thousand places: ``(x, median)``. N has to be at least width."""
    windows = np.lib.stride_tricks.sliding_window_view(y, width)
    every = max(1, len(windows) // 1000)
    middle = x[width // 2 : width // 2 + len(windows)]
    return middle[::every], np.median(windows[::every], axis=1)


def limit_to_bulk(axes: Axes, values: FloatArray, unit: str) -> None:
    """Start the y axis at 0 and end it above the bulk; says in the corner how many values are out of sight."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return
    largest = float(finite.max())
    top = 1.6 * float(np.percentile(finite, 98))
    if largest <= 1.5 * top or top <= 0:
        axes.set_ylim(0, 1.08 * largest if largest > 0 else 1)
        return
    axes.set_ylim(0, top)
    count = int(np.count_nonzero(finite > top))
    axes.text(
        0.995,
        0.97,
        f"{count} of {len(finite)} values above the axis, largest {largest:.4g} {unit}",
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontsize=8,
        color="#555555",
    )
