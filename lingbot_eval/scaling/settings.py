"""A scaling study as a file: what grows, under which settings, in which scenario. Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from lingbot_eval.errors import ConfigError
from lingbot_eval.methods.base import MethodSettings
from lingbot_eval.methods.lingbot_config import ModelSettings
from lingbot_eval.runs.experiment import DatasetConfig, MethodConfig, StrictSettings, override_words, settings_document
from lingbot_eval.settings import validated
from lingbot_eval.streaming.settings import Backend, StreamSettings

Positive = Annotated[int, Field(ge=1)]
Length = Annotated[int, Field(ge=1, le=10_000_000)]
Side = Annotated[int, Field(ge=14, le=8192, multiple_of=14)]
Scenario = Literal["single_stream", "offline", "camera"]
SCENARIOS: Mapping[Scenario, str] = {
    "single_stream": "the next frame is given when the outputs of the last are on the host",
    "offline": "frames are given as fast as they are taken, one step in flight while the next is prepared",
    "camera": "frames arrive at a fixed rate in wall-clock time, wait in a queue without limit and are never dropped",
}
"""After MLPerf's."""
Precision = Literal["float32", "bfloat16", "float16"]
Interval = Positive | Literal["auto"]
OF_THE_MODEL = ("backend", "keyframe_interval", "window", "precision", "cache_precision")
"""What cases set that another method does not have."""


class Case(StrictSettings):
    """One stream.

    frames: its length. scenario: ``single_stream`` gives the next frame when the last one's outputs are there
    (latency), ``offline`` as fast as they are taken, everything overlapped (throughput), ``camera`` at ``camera_hz``
    in wall-clock time, queued and never dropped. window: None is the configuration's own. cache_precision: of keys and
    values, None as they come. size: width and height in pixels, multiples of 14. limit_s: seconds after which a stream
    ends early, which its record says; None = no limit.
    """

    frames: Length = 10_000
    scenario: Scenario = "offline"
    backend: Backend = "auto"
    keyframe_interval: Interval = "auto"
    window: Positive | None = None
    precision: Precision = "float32"
    cache_precision: Literal[8] | None = None
    size: tuple[Side, Side] = (518, 378)
    camera_hz: Annotated[float, Field(gt=0, le=10_000)] = 30.0
    limit_s: Annotated[float, Field(gt=0)] | None = None
    _method: str = PrivateAttr(default="")

    def of(self, method: MethodSettings | None) -> Self:
        """The case as one of a study of ``method``, which its name then has; None: of the streaming model."""
        case = self.model_copy()
        case._method = "" if method is None else method.name
        return case

    @property
    def name(self) -> str:
        """All that cases of a study differ in."""
        hertz = f"{self.camera_hz:g}hz" if self.scenario == "camera" else ""
        window = "" if self.window is None else f"-window{self.window}"
        cache = "" if self.cache_precision is None else f"-cache{self.cache_precision}"
        model = f"interval-{self.keyframe_interval}{window}-{self.backend}-{self.precision}{cache}"
        limit = "" if self.limit_s is None else f"-limit{self.limit_s:g}s"
        of = self._method or model
        return f"{self.scenario.replace('_', '-')}{hertz}-{self.frames}-{of}-{self.size[0]}x{self.size[1]}{limit}"

    @property
    def names(self) -> tuple[str]:
        """Under these its result is filed."""
        return (self.name,)


class Sweep(StrictSettings):
    """Lists of values; every combination is run. An axis that is left out stays as the case has it."""

    frames: Annotated[tuple[Length, ...], Field(min_length=1)] | None = None
    scenario: Annotated[tuple[Scenario, ...], Field(min_length=1)] | None = None
    backend: Annotated[tuple[Backend, ...], Field(min_length=1)] | None = None
    keyframe_interval: Annotated[tuple[Interval, ...], Field(min_length=1)] | None = None
    window: Annotated[tuple[Positive | None, ...], Field(min_length=1)] | None = None
    precision: Annotated[tuple[Precision, ...], Field(min_length=1)] | None = None
    cache_precision: Annotated[tuple[Literal[8] | None, ...], Field(min_length=1)] | None = None
    size: Annotated[tuple[tuple[Side, Side], ...], Field(min_length=1)] | None = None

    def axes(self) -> dict[str, tuple[Any, ...]]:
        """The lists that are given, by axis."""
        return {name: values for name in type(self).model_fields if (values := getattr(self, name)) is not None}


class SyntheticInput(StrictSettings):
    """A walk through a made-up place, rendered at each case's size.

    pool: frames that are rendered, before the clock starts; they are played forward, backward, forward …, and so are
    their true poses. seed, step, exposure_variation: of the generator (`datasets.synthetic.adapter.SyntheticOptions`).
    """

    kind: Literal["synthetic"]
    scene: Annotated[str, Field(min_length=1)] = "room"
    pool: Annotated[int, Field(ge=2, le=100_000)] = 128
    seed: Annotated[int, Field(ge=0, lt=10**9)] = 0
    step: Annotated[float, Field(gt=0, le=10)] = 0.05


class NoiseInput(StrictSettings):
    """Random pixels, different in every frame of the pool; no poses, so nothing is said of accuracy."""

    kind: Literal["noise"]
    pool: Annotated[int, Field(ge=2, le=100_000)] = 64
    seed: Annotated[int, Field(ge=0)] = 0


class DatasetInput(StrictSettings):
    """One scene of a dataset, as an experiment names it; frames are cut and scaled to cover each case's size.

    pool: the first so many frames are decoded before the clock starts and played forward and backward, for cases
    longer than the scene; None streams the scene from its files, and no case may be longer than it.
    """

    kind: Literal["dataset"]
    dataset: DatasetConfig
    pool: Annotated[int, Field(ge=2, le=100_000)] | None = None

    @model_validator(mode="after")
    def _one_scene(self) -> DatasetInput:
        if self.dataset.scenes == "all" or len(self.dataset.scenes) != 1:
            raise ValueError("dataset.scenes: expected a list of one scene")
        if self.dataset.size is not None:
            raise ValueError("dataset.size: the cases say the size; leave it out")
        if self.dataset.lengths or self.dataset.strides:
            raise ValueError(
                "dataset.lengths, dataset.strides: a study has checkpoints along one stream; leave them out"
            )
        return self


Input = Annotated[SyntheticInput | NoiseInput | DatasetInput, Field(discriminator="kind")]


class Study(StrictSettings):
    """A whole study file.

    method: of any kind, as an experiment writes it, in place of the streaming model; model and device are the latter's,
    and so are streaming and the axes OF_THE_MODEL. streaming: what no case changes (scale_frames, flow, windowed).
    defaults: of all cases. cases: each names what it has differently; sweep: each of them with every combination of
    these. checkpoints: frame counts at which errors and memory are stated, those beyond a case's length apart.
    sample_every: frames between two looks at what is dear to ask: reserved, driver's and process memory.
    """

    kind: Literal["scale"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
    method: MethodConfig | None = None
    model: ModelSettings = ModelSettings()
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    streaming: StreamSettings = StreamSettings()
    input: Input = SyntheticInput(kind="synthetic")
    defaults: Case = Case()
    cases: Annotated[tuple[Case, ...], Field(min_length=1)] = (Case(),)
    sweep: Sweep = Sweep()
    checkpoints: tuple[Positive, ...] = (100, 320, 1_000, 3_840, 10_000, 25_000)
    sample_every: Positive = 20

    @field_validator("streaming")
    @classmethod
    def _nothing_twice(cls, streaming: StreamSettings) -> StreamSettings:
        twice = sorted(streaming.model_fields_set & Case.model_fields.keys())
        if twice:
            raise ValueError(f"{twice[0]} belongs into defaults, cases or sweep, found under streaming")
        return streaming

    @field_validator("checkpoints")
    @classmethod
    def _rising(cls, checkpoints: tuple[int, ...]) -> tuple[int, ...]:
        if list(checkpoints) != sorted(set(checkpoints)):
            raise ValueError(f"checkpoints: expected rising numbers, found {list(checkpoints)}")
        return checkpoints

    @model_validator(mode="after")
    def _one_method(self) -> Study:
        if self.method is None:
            return self
        if self.method.kind == "lingbot":
            raise ValueError("method: the streaming model is what a study streams without one: give model and device")
        parts = {"": self, "defaults.": self.defaults, "sweep.": self.sweep}
        parts |= {f"cases.{position}.": case for position, case in enumerate(self.cases)}
        ours = {"model", "device", "streaming", *OF_THE_MODEL}
        given = [f"{where}{name}" for where, part in parts.items() for name in sorted(part.model_fields_set & ours)]
        if given:
            raise ValueError(
                f"{given[0]}: is the streaming model's, and the study streams {self.method.name!r}: leave it out"
            )
        return self

    @model_validator(mode="after")
    def _cases_differ(self) -> Study:
        swept = self.sweep.axes()
        for position, case in enumerate(self.cases):
            both = sorted(swept.keys() & case.model_fields_set)
            if both:
                raise ValueError(f"cases.{position}.{both[0]}: the sweep sets it, too; keep one of them")
        for case in self.all_cases():
            StreamSettings(backend=case.backend, cache_precision=case.cache_precision)  # which go together
        names = [case.name for case in self.all_cases()]
        again = sorted({name for name in names if names.count(name) > 1})
        if again:
            raise ValueError(f"cases: {again[0]} is there more than once; leave one out")
        return self

    def all_cases(self) -> Iterator[Case]:
        """Every stream, in the order in which they are run."""
        swept = self.sweep.axes()
        for case in self.cases:
            changed = {name: getattr(case, name) for name in case.model_fields_set}
            for values in itertools.product(*swept.values()):
                combination = dict(zip(swept, values, strict=True))
                yield self.defaults.model_copy(update={**changed, **combination}).of(self.method)


def load_study(source: str, overrides: Sequence[str] = ()) -> Study:
    """A study file or the shipped study of that name, with ``overrides`` (``key.path=value``) put in.

    Raises ConfigError, one line with file and dotted key, for anything that cannot be used, and for an override of a
    default that no case takes: it would change nothing.
    """
    study = validated(Study, *settings_document(source, overrides))
    swept = study.sweep.axes()
    for override in override_words(overrides):
        key = override.partition("=")[0].strip()
        name = key.removeprefix("defaults.").partition(".")[0]
        if not key.startswith("defaults.") or name not in Case.model_fields:
            continue
        if name in swept:
            raise ConfigError(f"--set {override}: changes nothing, as the sweep sets {name}; use --set sweep.{name}=…")
        if all(name in case.model_fields_set for case in study.cases):
            ways = " ".join(f"--set cases.{position}.{name}=…" for position in range(len(study.cases)))
            raise ConfigError(f"--set {override}: changes nothing, as every case sets {name}; use {ways}")
    return study
