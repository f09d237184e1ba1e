"""Published numbers beside ours, with the difference where both were computed alike, else with why they were not.

Everything comes from the stored run: its card's published rows and protocol as they were when it ran.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lingbot_eval.metrics.declarations import published_as
from lingbot_eval.reports.tables import RunResults, Table
from lingbot_eval.tables import number_text

_THE_MODEL = "LingBot-Map"


@dataclass(frozen=True)
class PublishedRow:
    """One published number beside ours.

    ours: the average over scenes, None where there is none. scored: (n, m) scenes in it. reason: why the two cannot
    be compared; None exactly when ``delta`` means something. whose: the method that the number was published for.
    """

    dataset: str
    method: str
    metric: str
    source: str
    published: float
    ours: float | None
    unit: str
    scored: tuple[int, int] | None
    reason: str | None
    whose: str = ""

    @property
    def delta(self) -> float | None:
        """Ours less the published number, in its unit."""
        return None if self.reason is not None or self.ours is None else self.ours - self.published


def published_rows(results: RunResults, tables: tuple[Table, ...], *, others: bool = False) -> tuple[PublishedRow, ...]:
    """Every published number of the run's datasets for the methods that ran; () for runs stored without cards.

    The streaming model is set beside rows of LingBot-Map, another method beside rows of its own name.
    others: those of other methods instead, as far as they can be compared, each beside every method that ran.
    """
    experiment = results.record.experiment
    cards, datasets = experiment.get("cards", {}), experiment.get("datasets", [])
    methods = experiment.get("methods", [])
    rows: list[PublishedRow] = []
    for dataset in datasets:
        card = cards.get(dataset.get("name"), {})
        for method in methods:
            for published in card.get("published", []):
                if _is_of(published["method"], method) != others:
                    rows += _rows(results, tables, _Setting(dataset, card, method, published))
    return tuple(row for row in rows if not others or row.delta is not None)


def delta_text(row: PublishedRow) -> str:
    """The difference with its sign, or why there is none."""
    if row.delta is None:
        return f"not comparable: {row.reason}"
    text = number_text(row.delta, row.unit)
    return text if row.delta <= 0 else f"+{text}"


@dataclass(frozen=True)
class _Setting:
    """A dataset as it was run, its card, a method's settings and one published row, as stored."""

    dataset: Mapping[str, Any]
    card: Mapping[str, Any]
    method: Mapping[str, Any]
    published: Mapping[str, Any]


def _is_of(published: str, method: Mapping[str, Any]) -> bool:
    if method.get("kind") == "lingbot":
        return published.startswith(_THE_MODEL)
    return published.lower() == str(method.get("name", "")).lower()


def _rows(results: RunResults, tables: tuple[Table, ...], setting: _Setting) -> Iterator[PublishedRow]:
    dataset = setting.dataset.get("label") or setting.dataset.get("name", "")
    method = setting.method.get("name", "")
    for metric, value in setting.published["values"].items():
        ours, scored, unit = _average(tables, dataset, method, metric)
        reason = _not_alike(results, setting, metric)
        if ours is None or scored is None:
            reason = reason or "this run did not measure it"
        else:
            reason = reason or _not_all(scored, setting.published.get("scenes"))
        source = setting.published["source"]
        whose = setting.published["method"]
        yield PublishedRow(dataset, method, metric, source, value, ours, unit, scored, reason, whose)


def _average(
    tables: tuple[Table, ...], dataset: str, method: str, metric: str
) -> tuple[float | None, tuple[int, int] | None, str]:
    """Our average over scenes, how many are in it, and its unit."""
    declared = published_as(metric)
    if declared is None:
        return None, None, "1"
    key, average = declared
    for table in tables:
        wanted = [c for c in table.columns if (c.family, c.name, c.variant) == key]
        own = [row for row in table.rows if (row.dataset, row.method) == (dataset, method)]
        if not wanted or not own:
            continue
        position = table.columns.index(wanted[0])
        scenes = [row for row in own if row.kind == "scene"]
        # A single scene has no row of means: it is its own.
        chosen = [row for row in own if row.kind == average] or (scenes if len(scenes) == 1 else [])
        if chosen:
            cell = chosen[0].cells[position]
            scored = cell.scored or ((1, 1) if cell.value is not None else (0, 1))
            return cell.value, scored, wanted[0].unit
    return None, None, "1"


def _not_alike(results: RunResults, setting: _Setting, metric: str) -> str | None:
    """Why a published number was computed on something else than ours; None where both are alike."""
    method, dataset, protocol = setting.method, setting.dataset, setting.card.get("protocol", {})
    if method.get("name") in results.untrained:
        return "the weights are untrained"
    config = method.get("model", {}).get("config", "full")
    if config != "full":
        return f"the model is '{config}', the published one 'full'"
    declared = published_as(metric)
    if declared is None:
        return "this run has no metric of this name"
    if metric.endswith("_fps"):
        return "speed of another machine"
    wanted = setting.published.get("selection") or {"start": 0, "stride": protocol.get("stride"), "count": None}
    selection = dataset.get("selection", {})
    for key in ("stride", "count", "start"):
        here, there = selection.get(key), wanted.get(key)
        if here != there:
            words = {"count": "every frame" if there is None else f"{there} frames"}
            return f"the published {key} is {words.get(key, there)}, this run has {here or 'all'}"
    expected = set(setting.published.get("scene_names") or setting.card.get("expected_scenes", {}))
    if expected and expected != set(dataset.get("scenes", ())):
        return "other scenes than the protocol's"
    if dataset.get("size") != protocol.get("size"):
        return "frames were prepared to another size than the protocol's"
    trajectory = results.record.experiment.get("metrics", {}).get("trajectory") or {}
    if metric.startswith("rpe") and trajectory.get("rpe_delta_frames", 1) != 1:
        return f"RPE over {trajectory['rpe_delta_frames']} frames, the published one over 1"
    if "not known" in (setting.published.get("conventions") or "not known"):
        return "the source's conventions are not known"
    if declared[0][0] == "points":
        return _other_points(results.record.experiment, protocol.get("thresholds", {}))
    return None


def _other_points(experiment: Mapping[str, Any], thresholds: Mapping[str, float]) -> str | None:
    """Why clouds were compared otherwise than the card says; None where alike."""
    used = experiment.get("metrics", {}).get("points")
    if used is None:
        return None  # not measured at all, which is said elsewhere
    for setting, name in (("voxel_m", "voxel_m"), ("icp_m", "icp_m"), ("threshold_m", "f1_m")):
        if used.get(setting) != thresholds.get(name):
            return f"{setting} is {used.get(setting)}, the protocol's {thresholds.get(name)}"
    return None


def _not_all(scored: tuple[int, int], published_scenes: int | None) -> str | None:
    if scored[0] < scored[1]:
        return f"only {scored[0]} of {scored[1]} scenes were scored"
    if published_scenes is None:
        return "the source does not say how many scenes"
    if scored[1] != published_scenes:
        return f"mean of {scored[1]} scenes, the published one of {published_scenes}"
    return None
