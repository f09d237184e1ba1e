"""Experiment files: what is run, on what, and what is measured, as checked settings."""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.errors import ConfigError
from lingbot_eval.files.yaml_documents import load_mapping, parse_value
from lingbot_eval.methods.base import METHODS, MethodSettings
from lingbot_eval.metrics.base import FAMILIES
from lingbot_eval.metrics.depth import DepthSettings
from lingbot_eval.metrics.drift import DriftSettings
from lingbot_eval.metrics.pair_auc import PairAucSettings
from lingbot_eval.metrics.points import PointSettings
from lingbot_eval.metrics.probes import ProbeSettings
from lingbot_eval.metrics.trajectory import TrajectorySettings
from lingbot_eval.prepare import SizeSettings
from lingbot_eval.registry import HOW_TO_ADD, load_plugins, required
from lingbot_eval.resources import shared_file
from lingbot_eval.settings import OneOf, nearest, validated
from lingbot_eval.viewing.kept import KeepSettings

Name = Annotated[str, Field(min_length=1)]
Positive = Annotated[int, Field(ge=1)]
MethodConfig = Annotated[
    MethodSettings, OneOf(lambda: tuple(METHODS.get(kind) for kind in METHODS.names()), HOW_TO_ADD)
]

Place = tuple[str | int, ...]
"""Keys and positions that lead to a value."""

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_KEPT = {"name", "label", "scenes", "root", "card", "trajectory", "depth", "checkpoint"}
"""Settings of which a record keeps what a variable held: what results are filed under, and paths that were read."""


class StrictSettings(BaseModel):
    """A section of a settings file: nothing unknown, nothing changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetConfig(StrictSettings):
    """One dataset and what of it is used.

    name: of the adapter and of its card. card: a card of the user's own (a file, or a folder with NAME.yaml) in place
    of the one that comes with the dataset. root: folder (or video file), ``~`` expanded, relative to the current
    directory. scenes: ``all``, or names. options: the adapter's own. selection: which frames; without ``stride``
    that of the card. size: what the method sees; without it that of the card. depth_range: metres (min, max) between
    which reference depth is scored; without it that of ``metrics.depth`` where given there, else of the card.
    label: what its results are filed under, its name unless given. lengths, strides: instead of one selection several,
    each with results of its own: the first so many frames of what is selected (all of them where a scene has fewer),
    and every so many frames.
    """

    name: Name
    label: Name | None = None
    card: Name | None = None
    root: Name | None = None
    scenes: Literal["all"] | Annotated[tuple[Name, ...], Field(min_length=1)] = "all"
    options: dict[str, Any] = {}
    selection: Selection = Selection()
    size: SizeSettings | None = None
    depth_range: tuple[float, float] | None = None
    lengths: tuple[Positive, ...] = ()
    strides: tuple[Positive, ...] = ()

    @property
    def filed_as(self) -> str:
        """What its results are filed under."""
        return self.label or self.name

    def parts(self) -> tuple[DatasetConfig, ...]:
        """One dataset for each length and stride; itself where it has none."""
        if not (self.lengths or self.strides):
            return (self,)
        found = []
        for stride, length in itertools.product(self.strides or (None,), self.lengths or (None,)):
            asked = {key: value for key, value in (("stride", stride), ("count", length)) if value is not None}
            words = [*([f"stride {stride}"] if stride else []), *([f"{length} frames"] if length else [])]
            changes = {"selection": self.selection.model_copy(update=asked), "lengths": (), "strides": ()}
            found.append(self.model_copy(update={**changes, "label": ", ".join([self.filed_as, *words])}))
        return tuple(found)

    @field_validator("lengths", "strides")
    @classmethod
    def _rising(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if list(values) != sorted(set(values)):
            raise ValueError(f"expected rising numbers, found {', '.join(map(str, values))}")
        return values

    @model_validator(mode="after")
    def _selected_once(self) -> DatasetConfig:
        for several, one in (("lengths", "count"), ("strides", "stride")):
            if getattr(self, several) and one in self.selection.model_fields_set:
                raise ValueError(f"{several}: cannot be given together with selection.{one}; keep one")
        return self

    @field_validator("scenes")
    @classmethod
    def _scenes_once(cls, scenes: Literal["all"] | tuple[str, ...]) -> Literal["all"] | tuple[str, ...]:
        if scenes != "all" and len(set(scenes)) < len(scenes):
            raise ValueError(f"each scene once, found {', '.join(scenes)}")
        return scenes

    @field_validator("depth_range")
    @classmethod
    def _range_in_order(cls, limits: tuple[float, float] | None) -> tuple[float, float] | None:
        if limits is not None and not 0 <= limits[0] < limits[1] < math.inf:
            raise ValueError(f"expected [min, max] in metres with 0 <= min < max, found {list(limits)}")
        return limits


class MetricsConfig(BaseModel):
    """What is scored, by family; ``null`` switches a family off. A plugin's family has its settings under its name.

    ``points`` is off unless asked for: it keeps up to 10 million points a scene, 240 MB, and takes up to a minute and
    2 GB to compare them. So is ``probes``, of what few sequences have.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    trajectory: TrajectorySettings | None = TrajectorySettings()
    drift: DriftSettings | None = DriftSettings()
    auc: PairAucSettings | None = PairAucSettings()
    depth: DepthSettings | None = DepthSettings()
    points: PointSettings | None = None
    probes: ProbeSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _families_of_plugins(cls, given: Any) -> Any:
        """Settings of plugins' families, checked by the families themselves; what is on by itself is filled in."""
        if not isinstance(given, Mapping):
            return given
        values = dict(given)
        for name, family in FAMILIES.added():
            if name not in values:
                if family.on:
                    values[name] = family.Settings()
            elif values[name] is not None:
                values[name] = family.Settings.model_validate(values[name])
        unknown = [name for name in values if name not in FAMILIES.names()]
        if unknown:
            known = FAMILIES.names()
            raise ValueError(
                f"unknown key {unknown[0]!r}{nearest(unknown[0], known)}; known keys: {', '.join(known)}{HOW_TO_ADD}"
            )
        return values

    def of(self, family: str) -> BaseModel | None:
        """The settings of a family; None where it is switched off."""
        settings: BaseModel | None = getattr(self, family, None)
        return settings


class Experiment(StrictSettings):
    """A whole experiment file. Every method runs on every scene of every dataset.

    plugins: those that it needs, by name; they are never loaded from here, the user allows them (see registry.py).
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
    plugins: tuple[Name, ...] = ()
    datasets: Annotated[tuple[DatasetConfig, ...], Field(min_length=1)]
    methods: Annotated[tuple[MethodConfig, ...], Field(min_length=1)]
    metrics: Annotated[MetricsConfig, Field(default_factory=lambda: MetricsConfig.model_validate({}))]
    keep: KeepSettings = KeepSettings()
    _variables: dict[Place, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _names_differ(self) -> Experiment:
        # Results are filed under these names.
        for what, names in (
            ("datasets", [part.filed_as for dataset in self.datasets for part in dataset.parts()]),
            ("methods", [method.name for method in self.methods]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                words = "name of its own, or a label" if what == "datasets" else "name of its own"
                raise ValueError(f"{what}: each needs a {words}, found '{twice[0]}' more than once")
        return self

    def in_parts(self) -> Experiment:
        """The experiment with a dataset for each length and stride."""
        parts = [dataset.parts() for dataset in self.datasets]
        numbers = iter(range(sum(map(len, parts))))
        places = [[next(numbers) for _ in those] for those in parts]
        made = self.model_copy(update={"datasets": tuple(itertools.chain.from_iterable(parts))})
        made._variables = {}
        for place, text in self._variables.items():
            position = place[1] if place[0] == "datasets" else None
            for number in places[position] if isinstance(position, int) else (position,):
                made._variables[place if number is None else (place[0], number, *place[2:])] = text
        return made

    def as_stored(self) -> dict[str, Any]:
        """The settings as a record keeps them, as plain JSON values.

        Text that came from an environment variable stays the variable's name: a record travels, and what is in an
        environment is often meant for nobody else. Kept are the paths that were read, and the names of results.
        """
        document = self.model_dump(mode="json")
        for place, text in self._variables.items():
            if not _KEPT.isdisjoint(place):
                continue
            try:
                holder = _holder(document, place)
                if isinstance(holder[place[-1]], str):
                    holder[place[-1]] = text
            except (KeyError, IndexError, TypeError):
                continue  # settings of a plugin that are put elsewhere when they are read
        return document


Source = str | os.PathLike[str] | Mapping[str, Any]
"""A settings file's path, the name of a shipped one, or the settings themselves."""
Overrides = Sequence[str] | Mapping[str, Any]
"""``key.path=value`` each, or values by dotted key."""


def load_experiment(source: Source, overrides: Overrides = ()) -> Experiment:
    """An experiment file, with ``overrides`` put in its place before it is checked.

    source: a path, the name of a shipped experiment, or the settings themselves. In values, ``${NAME}`` is the
    environment variable NAME.
    Raises ConfigError, one line with file and dotted key, for anything that cannot be used.
    """
    document, where = settings_document(source, overrides)
    load_plugins()
    asked = document.get("plugins")
    if isinstance(asked, list):
        required((str(name) for name in asked), where)
    experiment = validated(Experiment, document, where)
    experiment._variables = variables_in(source, overrides)
    return experiment


def settings_document(source: Source, overrides: Overrides = ()) -> tuple[dict[str, Any], str]:
    """The plain values of a settings file with ``overrides`` and variables put in, and how errors name it.

    Raises ConfigError for a file that cannot be read, an override that has no place, a variable that is not set.
    """
    document, where = _as_written(source, overrides)
    for place, text in list(_asking(document)):
        _holder(document, place)[place[-1]] = _expanded(text, ".".join(map(str, place)), where)
    return document, where


def variables_in(source: Source, overrides: Overrides = ()) -> dict[Place, str]:
    """Where the values of a settings file ask for environment variables: place, and the text as it is written.

    Raises ConfigError as :func:`settings_document` does.
    """
    return dict(_asking(_as_written(source, overrides)[0]))


def repeated(words: Sequence[str], source: Source, overrides: Overrides = ()) -> str:
    """A command line that gives ``words`` again, with the variables that the settings ask for, by name."""
    texts = variables_in(source, overrides).values()
    names = dict.fromkeys(name for text in texts for name in _VARIABLE.findall(text))
    return " ".join([*(f'{name}="${name}"' for name in names), shlex.join(words)])


def _as_written(source: Source, overrides: Overrides) -> tuple[dict[str, Any], str]:
    if isinstance(source, Mapping):
        where = str(source.get("name", "the experiment"))
        document = copy.deepcopy(dict(source))
    else:
        path = experiment_path(os.fspath(source))
        where, document = str(path), load_mapping(path)
    if isinstance(overrides, Mapping):
        for dotted, value in overrides.items():
            _put(document, dotted, value, f"set {dotted}")
    else:
        for override in overrides:
            dotted, equals, text = override.partition("=")
            if not equals:
                raise ConfigError(f"--set {override}: expected KEY.PATH=VALUE, such as datasets.0.selection.stride=2")
            _put(document, dotted, parse_value(text), f"--set {override}")
    return document, " ".join([where, *(f"--set {word}" for word in override_words(overrides))])


def experiment_path(source: str) -> Path:
    """The file that ``source`` means: a path when it looks like one or exists, else a shipped experiment's name."""
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1 or path.is_file():
        return path
    return shared_file("experiments", source)


def override_words(overrides: Overrides) -> list[str]:
    """The overrides as ``--set`` takes them."""
    if not isinstance(overrides, Mapping):
        return list(overrides)
    return [f"{dotted}={json.dumps(value, default=str)}" for dotted, value in overrides.items()]


def _put(document: dict[str, Any], dotted: str, value: Any, where: str) -> None:
    """Apply ``a.0.b = value``; sections that the file leaves to their defaults are made on the way."""
    parts = dotted.split(".")
    if not all(parts):
        raise ConfigError(f"{where}: expected KEY.PATH=VALUE, such as datasets.0.selection.stride=2")
    holder: Any = document
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        here = ".".join(parts[:depth]) or "the experiment"
        key: str | int = part
        if isinstance(holder, list):
            key = _position(part, len(holder), where, here)
        elif not isinstance(holder, dict):
            raise ConfigError(f"{where}: {here} is a value ({holder!r}), not a section; set {here} itself")
        if last:
            holder[key] = value
        else:
            if isinstance(holder, dict) and holder.get(part) is None:
                holder[part] = {}
            holder = holder[key]


def _position(part: str, length: int, where: str, here: str) -> int:
    if not (part.isascii() and part.isdecimal()) or int(part) >= length:
        raise ConfigError(f"{where}: {here} is a list; expected a position 0…{length - 1}, found '{part}'")
    return int(part)


def _asking(value: Any, place: Place = ()) -> Iterator[tuple[Place, str]]:
    """Values that name a variable; keys never do, and comments are not there any more."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _asking(inner, (*place, key))
    elif isinstance(value, str) and "${" in value:
        yield place, value


def _holder(document: Any, place: Place) -> Any:
    """The mapping or list around a place."""
    for part in place[:-1]:
        document = document[part]
    return document


def _expanded(text: str, dotted: str, where: str) -> str:
    odd = _VARIABLE.sub("", text)
    if "${" in odd:
        found = "${" + odd.partition("${")[2].partition("}")[0]
        raise ConfigError(
            f"{where}: {dotted}: {found[:60]}}} is not understood: of a shell's ways to name an environment variable"
            " only ${NAME} is, without default; set the variable, or give the value with"
            f" --set {dotted}=VALUE"
        )
    for name in _VARIABLE.findall(text):
        if name not in os.environ:
            raise ConfigError(
                f"{where}: {dotted}: the environment variable {name} is not set; "
                f"set it, or give the value with --set {dotted}=VALUE"
            )
    return _VARIABLE.sub(lambda match: os.environ[match[1]], text)
