"""Metrics as declared objects: a function, and beside it all that a reader, a report and a gate must know of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
from pydantic import BaseModel

from lingbot_eval.errors import ConfigError, UnscorableError, one_line
from lingbot_eval.metrics.matching import MatchedPoses
from lingbot_eval.registry import Registry, check_name, check_subclass, place_in_plugin
from lingbot_eval.settings import StrictModel
from lingbot_eval.types import (
    DepthMap,
    Direction,
    DriftSeries,
    FloatArray,
    Frame,
    Measurement,
    Prediction,
    Trajectory,
)

if TYPE_CHECKING:
    from lingbot_eval.metrics.trajectory import TrajectoryScore


Family = Literal["trajectory", "depth"]
MIN_PIXELS = 100

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
DataT = TypeVar("DataT")


@dataclass(frozen=True)
class Metric:
    """One metric of a plugin.

    family: ``trajectory`` (called once a scene with the matched reference and estimate) or ``depth`` (called for
    each frame with its valid pixels). align: how the estimate was moved, or depth scaled, before. headline: whether
    the report's first table shows it. The rest is as in `Measurement`.
    """

    family: Family
    name: str
    unit: str
    better: Direction | None
    convention: str
    align: str
    headline: bool
    function: Callable[..., float]

    def measured(self, compute: Callable[[], float], samples: int) -> Measurement:
        """The function's result as a measurement; whatever it raises, and what is not finite, becomes the reason."""
        value: float | None = None
        reason: str | None = None
        try:
            value = float(compute())
        except UnscorableError as error:
            reason = str(error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code: it raises anything, and exits
            reason = f"the metric failed: {one_line(error)}{place_in_plugin(error)}"
        if value is not None and not np.isfinite(value):
            value, reason = None, f"the metric gave {value}, which is no result"
        return Measurement(
            family=self.family,
            name=self.name,
            variant="" if self.align == "none" else self.align,
            value=value,
            unit=self.unit,
            convention=self.convention,
            samples=samples,
            reason=reason,
            better=self.better,
            headline=self.headline,
        )


METRICS: Registry[Metric] = Registry("metric", {})


@dataclass(frozen=True)
class SceneContext:
    """What a family must know of a scene before it begins.

    depth_limits: metres strictly between which true depth counts. gives_depth: whether the method predicts depth.
    motionless: whether its poses stand still by design.
    """

    depth_limits: tuple[float, float] = (0.0, 80.0)
    gives_depth: bool = True
    motionless: bool = False


@dataclass
class ScoredScene:
    """A scene after its last frame, and what one family leaves for those behind it.

    reference: poses of the frames that have one, camera-to-world in metres; None where none has. estimate: all
    predicted poses. total_frames: of the sequence. trajectory, drift: set by the families of these names.
    """

    reference: Trajectory | None
    estimate: Trajectory
    total_frames: int
    trajectory: TrajectoryScore | None = None
    drift: DriftSeries | None = None

    @property
    def truth(self) -> Trajectory:
        """The reference, empty where there is none."""
        if self.reference is not None and len(self.reference):
            return self.reference
        return Trajectory(np.empty(0, dtype=np.int64), np.empty(0), np.empty((0, 4, 4)))

    def explained(self, measurements: Iterable[Measurement]) -> list[Measurement]:
        """Measurements of poses; without a reference that is the reason, rather than what follows from it. A reference
        that was computed is in every convention.
        """
        if not self.reference:
            return because(measurements, "no reference poses")
        maker = self.reference.computed_by
        if maker is None:
            return list(measurements)
        words = f"; reference: {maker}, scale free, not ground truth: lengths are in its own unit"
        return [replace(m, convention=m.convention + words) for m in measurements]


class MetricFamily:
    """Measurements that are computed together, from one set of settings; an instance takes one scene.

    Attributes:
        Settings: a pydantic model; an experiment gives it under ``metrics`` by the family's name. None of its own
            unless a family says so.
        on: whether it is measured unless an experiment switches it off (``null``), or only where one asks for it.
    """

    Settings: ClassVar[type[BaseModel]] = StrictModel
    on: ClassVar[bool] = True

    def __init__(self, settings: Any, context: SceneContext) -> None:
        self.settings = settings
        self.context = context

    def add(self, frame: Frame, prediction: Prediction) -> Mapping[str, float | None]:
        """Take one output. Returns what belongs into the frame's row of ``frames.csv``, by column."""
        return {}

    def compute(self, scene: ScoredScene) -> Iterable[Measurement]:
        """Everything measured, each a value or a reason."""
        raise NotImplementedError(f"{type(self).__name__}.compute(scene) gives the family's measurements")


_ROOM = "lingbot_eval.metrics"
# In the order in which they are computed: depth asks the trajectory for its scale.
FAMILIES: Registry[type[MetricFamily]] = Registry(
    "family of metrics",
    {
        "trajectory": f"{_ROOM}.trajectory:TrajectoryFamily",
        "drift": f"{_ROOM}.drift:DriftFamily",
        "auc": f"{_ROOM}.pair_auc:PairAucFamily",
        "depth": f"{_ROOM}.depth:DepthFamily",
        "points": f"{_ROOM}.points:PointFamily",
        "probes": f"{_ROOM}.probes:ProbeFamily",
    },
)

FamilyT = TypeVar("FamilyT", bound=type[MetricFamily])


def metric_family(name: str) -> Callable[[FamilyT], FamilyT]:
    """Register a class as a family of metrics.

    Args:
        name: under which an experiment's ``metrics`` gives its settings, and the ``family`` of its measurements.

    Returns:
        A decorator for a subclass of `MetricFamily`; the class itself is unchanged.

    Raises:
        ConfigError: the name is taken, or the class is no `MetricFamily`.
    """

    check_name(name, "metric_family")

    def register(cls: FamilyT) -> FamilyT:
        check_subclass(cls, MetricFamily, "MetricFamily", f"metric family {name!r}")
        check_subclass(cls.Settings, BaseModel, "Settings", f"Settings of metric family {name!r}")
        FAMILIES.add(name, cls, cls)
        return cls

    return register


def told_apart(measurements: Iterable[Measurement]) -> list[Measurement]:
    """The measurements of a scene. Raises ConfigError where two have one name: nobody could tell whose value it is."""
    found: dict[tuple[str, str, str], Measurement] = {}
    for measured in measurements:
        key = (measured.family, measured.name, measured.variant)
        if key in found:
            words = "/".join(filter(None, key))
            raise ConfigError(f"{words} is measured twice; give the plugin's measurement another name")
        found[key] = measured
    return list(found.values())


def because(measurements: Iterable[Measurement], reason: str) -> list[Measurement]:
    """The same measurements, those without a value for this one reason instead of what follows from it."""
    return [found if found.reason is None else replace(found, reason=reason) for found in measurements]


_ALIGNMENTS: dict[str, tuple[str, ...]] = {
    "trajectory": ("sim3", "se3", "anchor", "none"),
    "depth": ("scale_only", "none"),
}


def metric(
    family: Family,
    *,
    unit: str,
    convention: str,
    better: Direction | None = None,
    name: str | None = None,
    align: str | None = None,
    headline: bool = True,
) -> Callable[[FunctionT], FunctionT]:
    """Register a function as a metric; it is measured wherever its family is.

    Args:
        family: ``trajectory`` calls ``function(reference, estimate)`` once a scene, with two `Trajectory` of the
            matched frames; ``depth`` calls ``function(truth, prediction)`` for each frame, with two (P,) arrays of
            the valid pixels in metres, and the mean over the frames is the result.
        unit: ``m``, ``deg``, ``%``, ``1`` …
        convention: one sentence that says what is computed.
        better: ``lower`` or ``higher``, for the gate; None where neither is better.
        name: the function's own name if left out.
        align: what is done to the estimate before: ``sim3`` (default), ``se3``, ``anchor``, ``none``; of depth
            ``scale_only`` (default: median of truth over median of prediction, each frame) or ``none``.
        headline: whether the report's first table shows it.

    Returns:
        A decorator; the function itself is unchanged. It returns a float, or raises `UnscorableError` with the
        reason why it is not defined on the data.

    Raises:
        ConfigError: an unknown family or alignment, or a name that is taken.
    """
    from lingbot_eval.declarations import declarations  # it asks the families, which are built on this file

    if family not in _ALIGNMENTS:
        raise ConfigError(f"metric family {family!r}: expected one of {', '.join(_ALIGNMENTS)}")
    alignment = align if align is not None else _ALIGNMENTS[family][0]
    if alignment not in _ALIGNMENTS[family]:
        raise ConfigError(f"align {alignment!r}: a {family} metric takes {', '.join(_ALIGNMENTS[family])}")
    if better not in ("lower", "higher", None):
        raise ConfigError(f"better {better!r}: expected 'lower', 'higher' or None")

    def register(function: FunctionT) -> FunctionT:
        chosen = name or function.__name__
        if any(found.name == chosen for of, found in declarations() if of == family):
            raise ConfigError(f"metric {chosen!r} is taken by lingbot_eval itself; choose another name")
        declared = Metric(family, chosen, unit, better, convention, alignment, headline, function)
        METRICS.add(chosen, declared, function)
        return function

    return register


def declared(family: Family) -> tuple[Metric, ...]:
    """The plugins' metrics of a family."""
    return tuple(metric for _, metric in METRICS.added() if metric.family == family)


def trajectory_metrics(
    matched: MatchedPoses, times: FloatArray, aligned: Callable[[Any], FloatArray]
) -> Iterator[Measurement]:
    """Plugins' metrics of one scene.

    Args:
        matched: frames with a usable reference and a usable estimate.
        times: (M,) seconds of those frames.
        aligned: by alignment, the (M, 4, 4) poses of the estimate moved onto the reference; raises UnscorableError.
    """
    reference = Trajectory(matched.indices, times, matched.reference)
    for found in declared("trajectory"):

        def compute(found: Metric = found) -> float:
            return found.function(reference, Trajectory(matched.indices, times, aligned(found.align)))

        yield found.measured(compute, len(matched))


class DepthMetrics:
    """Plugins' depth metrics of one scene, frame by frame."""

    def __init__(self, limits: tuple[float, float]) -> None:
        """``limits``: metres strictly between which true depth counts."""
        self._limits = limits
        self._metrics = declared("depth")
        self._values: list[list[float]] = [[] for _ in self._metrics]
        self._reasons: list[str | None] = [None for _ in self._metrics]

    def add(self, truth: DepthMap | None, prediction: DepthMap | None) -> None:
        """Take a frame: (H, W) each, metres; frames without enough valid pixels are left out."""
        if not self._metrics or truth is None or prediction is None or truth.shape != prediction.shape:
            return
        nearest, farthest = self._limits
        valid = (truth > nearest) & (truth < farthest) & np.isfinite(prediction) & (prediction > 0)
        if np.count_nonzero(valid) < MIN_PIXELS:
            return
        right, guess = truth[valid].astype(np.float64), prediction[valid].astype(np.float64)
        scaled = guess * (np.median(right) / np.median(guess))
        for position, found in enumerate(self._metrics):
            measured = found.measured(lambda f=found: f.function(right, scaled if f.align != "none" else guess), 1)  # type: ignore[misc]
            if measured.value is None:
                self._reasons[position] = self._reasons[position] or measured.reason
            else:
                self._values[position].append(measured.value)

    def measurements(self, why_none: str | None) -> Iterator[Measurement]:
        """Means over the frames; ``why_none``: why there is no depth at all, where there is none."""
        for found, values, reason in zip(self._metrics, self._values, self._reasons, strict=True):

            def compute(values: list[float] = values, reason: str | None = reason) -> float:
                if not values:
                    raise UnscorableError(why_none or reason or "no frame has true and predicted depth")
                return float(np.mean(values))

            yield found.measured(compute, len(values))


@dataclass(frozen=True)
class Quantity:
    """What is measured, apart from how it came out: the fields of Measurement that do not depend on the data."""

    family: str
    name: str
    variant: str
    unit: str
    convention: str

    def value(self, value: float, samples: int | None = None) -> Measurement:
        """A result; a number that left float64's range becomes a reason instead."""
        if not math.isfinite(value):
            return self.failed("the numbers are too large for float64: the result is not finite", samples)
        return Measurement(
            self.family, self.name, self.variant, float(value), self.unit, self.convention, samples=samples
        )

    def failed(self, reason: str, samples: int | None = None) -> Measurement:
        """No result, with the reason."""
        return Measurement(
            self.family, self.name, self.variant, None, self.unit, self.convention, samples=samples, reason=reason
        )

    def of(self, data: DataT | str, compute: Callable[[DataT], float], samples: int | None = None) -> Measurement:
        """The result of ``compute`` on the data, or the reason why there are none."""
        return self.failed(data, samples) if isinstance(data, str) else self.value(compute(data), samples)

    def attempt(self, compute: Callable[[], float], samples: int | None = None) -> Measurement:
        """The result of ``compute``, or the reason of the UnscorableError that it raises."""
        try:
            return self.value(compute(), samples)
        except UnscorableError as error:
            return self.failed(str(error), samples)
