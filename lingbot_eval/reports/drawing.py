"""Draws a report's figures and says in words what each shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lingbot_eval.errors import LingbotEvalError
from lingbot_eval.files.atomic import writing
from lingbot_eval.plots import save
from lingbot_eval.reports.figures import cost_figure, depth_figure, drift_figure, error_figure
from lingbot_eval.reports.reading import Run, UnitData, read_unit_data
from lingbot_eval.reports.rendering import method_label
from lingbot_eval.reports.scene_figures import cloud_figure, together_figure, trajectory_figure
from lingbot_eval.reports.sweep_figure import sweep_figure, sweeps
from lingbot_eval.reports.tables import FewOfMany, Names
from lingbot_eval.reports.two_runs import RunComparison, figure_of
from lingbot_eval.stored.unit_files import Columns
from lingbot_eval.viewing.kept import CLOUD_FILE, Reconstruction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER, SPACES = "figures", "3d"  # below the report's
CAPTIONS = {
    "trajectory": "Paths",
    "cloud": "From above",
    "error": "Error along the sequence",
    "drift": "Drift along the sequence",
    "depth": "Depth",
    "cost": "Time and memory along the sequence",
    "together": "Side by side",
    "agreement": "Agreement and time along the sequence",
    "lengths": "Error against the number of frames",
    "densities": "Error against the density of frames",
    "budget": "Error against the memory of the cache",
}
PATHS = ("trajectory", "cloud")
"""Kinds of figures that show where the camera went."""
# For those who cannot see them: what is drawn. The numbers are in the tables.
DESCRIPTIONS = {
    "trajectory": "Paths of the camera from above, coloured by their distance to the ground truth where there is one.",
    "cloud": "The cloud from above and the way of the camera, coloured by its distance to the ground truth.",
    "error": "Position, rotation and depth error of each frame against the frame's number.",
    "drift": "Growing, anchored and segment errors, local scale and step error against the frame's number.",
    "depth": "For up to four frames in a row: image, true depth, predicted depth and their difference.",
    "cost": "Milliseconds, bytes of the key/value cache by kind, and memory against the frame's number.",
    "together": "Growing error, position error, depth error and milliseconds against the frame's number, a line each.",
    "agreement": "Angle and distance between the two runs' cameras, and milliseconds, against the frame's number.",
    "lengths": "Absolute trajectory and depth error against the number of frames, a line each method.",
    "densities": "Absolute trajectory and depth error against the stride of the frames, a line each method.",
    "budget": "Absolute trajectory and depth error against the memory of keys and values, a line each interval.",
}


@dataclass(frozen=True)
class Drawn:
    """A figure on disk. kind: a key of CAPTIONS. label: of which scene and method. file: below the report's folder."""

    kind: str
    label: str
    file: Path

    @property
    def caption(self) -> str:
        """What it is and of what."""
        return f"{CAPTIONS[self.kind]}: {self.label}"

    @property
    def is_path(self) -> bool:
        """Whether it shows where the camera went, which is what a reader looks at first."""
        return self.kind in PATHS

    @property
    def description(self) -> str:
        """What is to be seen in it, as a sentence."""
        return DESCRIPTIONS[self.kind]


@dataclass(frozen=True)
class UnitFigures:
    """Figures of one scene, or of one method on it (of one run where there are several), and what could not be drawn;
    damaged: for files which cannot be read."""

    label: str
    figures: tuple[Drawn, ...]
    problems: tuple[str, ...]
    damaged: tuple[str, ...] = ()


def unit_figures(run: Run, names: Names) -> dict[str, Figure]:
    """Matplotlib figures of one unit, by kind (keys of CAPTIONS). Raises StoreError when it is not there."""
    data = read_unit_data(run.store, run.store.read_unit(*names))
    label = run.unit_label(names)
    return dict((*_scene_figures([(label, data)], label), *_cloud_figure(data, label), *_figures(data, label)))


def draw_units(
    runs: Sequence[Run], folder: Path, drawn: Callable[[], object] = lambda: None, few: FewOfMany | None = None
) -> tuple[tuple[UnitFigures, ...], tuple[UnitFigures, ...], dict[Path, Columns]]:
    """Draw every stored unit of every run into ``folder/figures``: scene by scene, unit by unit; and the tables of
    frames that were read, by the unit's folder.

    A scene's figures show all its methods and runs. File names are numbered by the plan,
    so that a later report of the same runs gives the same ones. ``drawn`` is called after each unit. few: of very many
    units those to be drawn. Raises StoreError when the disk refuses; damaged files are problems of their unit.
    """
    scenes: dict[tuple[str, str], list[tuple[str, UnitData]]] = {}
    clouds: dict[tuple[str, str], list[Drawn]] = {}
    single: list[UnitFigures] = []
    tables: dict[Path, Columns] = {}
    for run_number, run in enumerate(runs, start=1):
        prefix = [f"{run_number:02d}"] if len(runs) > 1 else []
        for number, names in enumerate(run.results.names(), start=1):
            unit = run.results.by_names().get(names)
            if unit is None or (few is not None and (*names, run.label if prefix else "") not in few.rows):
                continue
            data = read_unit_data(run.store, unit)
            label = run.unit_label(names) + (f" · {run.label}" if prefix else "")
            stem = "-".join([*prefix, f"{number:03d}", *(slug(name) for name in names)])
            figures = _save(_figures(data, label), label, folder, stem)
            clouds.setdefault(names[:2], []).extend(_save(_cloud_figure(data, label), label, folder, stem))
            single.append(UnitFigures(label, figures, data.problems, data.damaged))
            line = method_label(names[2], run.results.untrained) + (f" · {run.label}" if prefix else "")
            # Pictures and clouds are drawn, and too large to be kept of all.
            scenes.setdefault(names[:2], []).append((line, replace(data, panels=None, kept=None)))
            if data.columns is not None:
                tables[unit.folder] = data.columns
            drawn()
    found = [
        _scene(number, names, scenes[names], clouds[names], folder) for number, names in enumerate(scenes, start=1)
    ]
    return tuple(found), tuple(single), tables


def draw_agreement(found: RunComparison, folder: Path, few: FewOfMany | None = None) -> tuple[Drawn, ...]:
    """Draw how far two runs agree on each scene, into ``folder/figures``.

    few: of very many units those to be drawn, of either run. Raises StoreError when the disk refuses.
    """
    drawn: list[Drawn] = []
    for number, unit in enumerate(found.units, start=1):
        sides = zip(unit.methods, found.labels, strict=True)
        if few is not None and few.rows.isdisjoint((unit.dataset, unit.scene, *side) for side in sides):
            continue
        figure = figure_of(found, unit)
        if figure is not None:
            drawn += _save(iter([("agreement", figure)]), unit.label, folder, f"{number:03d}-{slug(unit.label)}")
    return tuple(drawn)


def draw_sweeps(runs: Sequence[Run], folder: Path) -> tuple[Drawn, ...]:
    """Draw errors against what the runs sweep, into ``folder/figures``. Raises StoreError when the disk refuses."""
    drawn: list[Drawn] = []
    for number, sweep in enumerate(sweeps(runs), start=1):
        figure = sweep_figure(sweep)
        if figure is not None:
            drawn += _save(iter([(sweep.kind, figure)]), sweep.label, folder, f"{number:03d}-{slug(sweep.title)}")
    return tuple(drawn)


@dataclass(frozen=True)
class Space:
    """A scene in three dimensions. file: its page, below the report's folder."""

    label: str
    file: Path


def write_spaces(runs: Sequence[Run], folder: Path) -> tuple[Space, ...]:
    """Write a page for each scene of which something was kept, into ``folder/3d``: all methods and runs together.

    Raises StoreError when the disk refuses, DependencyError without viser.
    """
    from lingbot_eval.viewing.layers import LayeredScene
    from lingbot_eval.viewing.page import write_page

    kept: dict[tuple[str, str], list[tuple[str, Reconstruction]]] = {}
    for run in runs:
        for unit in run.results.units:
            if unit.file(CLOUD_FILE) is not None:
                label = unit.record.method + (f" · {run.label}" if len(runs) > 1 else "")
                kept.setdefault((unit.record.dataset, unit.record.scene), []).append((label, unit.reconstruction))
    found = []
    for number, (names, there) in enumerate(kept.items(), start=1):
        label = " / ".join(names)
        file = Path(SPACES) / f"{'-'.join([f'{number:03d}', *(slug(name) for name in names)])}.html"
        try:
            scene = LayeredScene.stored(label, there)
        except LingbotEvalError:
            # What is damaged is among the failures already: nothing of it was drawn, either.
            continue
        with writing(folder):
            (folder / SPACES).mkdir(exist_ok=True)
        write_page(folder / file, scene)
        found.append(Space(label, file))
    return tuple(found)


def slug(name: str) -> str:
    """A name as a part of a file name that is safe and readable everywhere; not unique."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40] or "unnamed"


def _figures(data: UnitData, title: str) -> Iterator[tuple[str, Figure]]:
    draw: Mapping[str, Callable[[], Figure | None]] = {
        "error": lambda: error_figure(data.columns, title) if data.columns is not None else None,
        "drift": lambda: drift_figure(data.drift, title) if data.drift is not None else None,
        "depth": lambda: depth_figure(data.panels, title) if data.panels is not None else None,
        "cost": lambda: cost_figure(data.columns, title) if data.columns is not None else None,
    }
    for kind, make in draw.items():
        figure = make()
        if figure is not None:
            yield kind, figure


def _save(figures: Iterator[tuple[str, Figure]], label: str, folder: Path, stem: str) -> tuple[Drawn, ...]:
    saved = []
    for kind, figure in figures:
        file = Path(FOLDER) / f"{stem}-{kind}.png"
        save(figure, folder / file)
        saved.append(Drawn(kind, label, file))
    return tuple(saved)


def _scene(
    number: int, names: tuple[str, str], units: Sequence[tuple[str, UnitData]], clouds: Sequence[Drawn], folder: Path
) -> UnitFigures:
    """What all methods and runs did on one scene."""
    label = " / ".join(names)
    stem = "-".join([f"{number:03d}", *(slug(name) for name in names)])
    title = label if len(units) > 1 else f"{label} · {units[0][0]}"
    drawn = _save(_scene_figures(units, title), title, folder, stem)
    # The paths, then what was built along them.
    return UnitFigures(label, (*drawn[:1], *clouds, *drawn[1:]), ())


def _cloud_figure(data: UnitData, title: str) -> Iterator[tuple[str, Figure]]:
    if data.kept is not None:
        yield "cloud", cloud_figure(data.kept, data.paths, title)


def _scene_figures(units: Sequence[tuple[str, UnitData]], title: str) -> Iterator[tuple[str, Figure]]:
    paths = [(label, unit.paths) for label, unit in units if unit.paths is not None]
    if paths:
        yield "trajectory", trajectory_figure(paths, title)
    there = [(label, unit) for label, unit in units if unit.columns is not None or unit.drift is not None]
    figure = together_figure(there, title) if len(there) > 1 else None
    if figure is not None:
        yield "together", figure
