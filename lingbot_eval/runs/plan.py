"""From an experiment to a plan: every default filled in, every scene found and opened once, and the run's key.

In the key is which code decides a result: the parsed sources of the rooms that compute, without comments and
docstrings.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lingbot_eval
from lingbot_eval.datasets.cards import Card, load_card
from lingbot_eval.datasets.registry import DATASETS, open_adapter
from lingbot_eval.datasets.sequence import Adapter, Selection
from lingbot_eval.errors import ConfigError, DataError, UnknownSceneError
from lingbot_eval.files.reading import file_state
from lingbot_eval.methods.base import METHODS, MethodSettings, WeightFile
from lingbot_eval.metrics.base import FAMILIES, METRICS
from lingbot_eval.metrics.depth import DepthSettings
from lingbot_eval.prepare import SizeSettings, prepare
from lingbot_eval.registry import Plugin
from lingbot_eval.resources import expanded, remember, remembered
from lingbot_eval.runs.experiment import DatasetConfig, Experiment
from lingbot_eval.settings import validated
from lingbot_eval.stored.records import RunRecord, UnitRecord, canonical_json
from lingbot_eval.types import FrameSequence, Image

# They show, judge or examine what was computed, or compute something else: a change there makes no result stale.
_NOT_OF_A_RUN = frozenset(
    {
        *("cli", "comparison", "datasets/check", "datasets/convert.py", "gating", "reports", "scaling", "verification"),
        *("viewing", "tables.py", "plots.py"),
        *("runs/cluster.py", "runs/worker.py", "runs/workers.py", "stored/lock.py"),
    }
)
_KEEPS = frozenset({"viewing/cloud.py", "viewing/kept.py", "viewing/masks.py"})
"""Of the viewing what decides the content of a run."""
_MOST_REMEMBERED = 2000
# A study's own room computes; how it is drawn does not.
_NOT_OF_A_STUDY = (_NOT_OF_A_RUN - {"scaling"}) | {"scaling/page.py"}


@functools.cache
def code_digest(*, of_study: bool = False) -> str:
    """SHA-256 over what the sources say to do.

    Args:
        of_study: whether a scaling study is keyed, rather than a run.

    Returns:
        Hex digest; a comment, a docstring, a line break or a blank changes nothing.
    """
    package = Path(lingbot_eval.__file__).parent
    left_out = _NOT_OF_A_STUDY if of_study else _NOT_OF_A_RUN
    digest = hashlib.sha256()
    # Parsing all sources takes over a second, of which a start has ten: digests are kept by the hash of the source, and
    # by that of this file, which says how to parse.
    way = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:32]
    kept = remembered("code", way)
    before = {key: each for key, each in kept.items() if isinstance(each, str) and len(each) == 64}
    now: dict[str, str] = {}
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package)
        places = {name.as_posix(), *(parent.as_posix() for parent in name.parents)}
        if left_out & places and not _KEEPS & places:
            continue
        content = path.read_bytes()
        key = hashlib.sha256(content).hexdigest()
        now[key] = before.get(key) or parsed_digest(content)
        digest.update(f"{name.as_posix()}\0{now[key]}\0".encode())
    if not now.keys() <= before.keys():
        remember("code", way, before | now if len(before) < _MOST_REMEMBERED else now)
    return digest.hexdigest()


def parsed_digest(source: bytes) -> str:
    """SHA-256 over a file's syntax tree without its strings that stand alone (docstrings)."""
    return hashlib.sha256("".join(_words(ast.parse(source))).encode()).hexdigest()


def _words(node: object) -> Iterator[str]:
    """The tree in words of its own: ``ast.dump`` says one tree differently in different versions of Python."""
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for name, value in ast.iter_fields(node):
            # Fields that later versions add are empty in code that does not use them.
            if value is not None and value != []:
                yield f" {name}="
                yield from _words(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for inner in node:
            if not _stands_alone(inner):
                yield from _words(inner)
        yield "]"
    else:
        yield repr(node)


def _stands_alone(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@dataclass(frozen=True)
class Unit:
    """One method on one scene; ``dataset`` has its card's defaults filled in."""

    dataset: DatasetConfig
    scene: str
    method: MethodSettings

    @property
    def names(self) -> tuple[str, str, str]:
        """Dataset, scene and method: under these its result is filed."""
        return self.dataset.filed_as, self.scene, self.method.name

    @property
    def size(self) -> SizeSettings:
        """What the frames are resized to."""
        return self.dataset.size or SizeSettings()


@dataclass(frozen=True)
class Plan:
    """Everything decided. key: hex digest over all that decides the numbers but the input files (see plan_key)."""

    experiment: Experiment
    units: tuple[Unit, ...]
    weights: dict[str, str]
    key: str
    cards: tuple[Card, ...] = ()

    @property
    def commands(self) -> dict[str, str]:
        """Method → the command line that it runs; each needs the user's word."""
        methods = self.experiment.methods
        return {method.name: line for method in methods if (line := method.runs_command) is not None}


def make_plan(experiment: Experiment) -> Plan:
    """Resolve ``experiment`` on this machine; nothing is streamed and nothing written.

    Masks and sky networks are opened once, so that what cannot be used is said now.

    Raises DataError for a root, scene or index file that is not there or not what it should be, CheckpointError for
    a missing checkpoint, ConfigError for options, masks or a device that do not exist.
    """
    experiment.keep.left_out()
    cards = {
        dataset.name: load_card(dataset.name, None if dataset.card is None else expanded(dataset.card))
        for dataset in experiment.datasets
    }
    datasets = tuple(_resolved(dataset, cards[dataset.name], experiment) for dataset in experiment.datasets)
    methods = tuple(method.on_this_machine() for method in experiment.methods)
    weights = {method.name: found for method in methods if (found := method.weights()) is not None}
    resolved = experiment.model_copy(update={"datasets": datasets, "methods": methods}).in_parts()
    used = _plugins_of(resolved)
    return Plan(
        experiment=resolved,
        # Method by method, so that each one's weights are loaded once.
        units=tuple(
            Unit(dataset, scene, method)
            for method in methods
            for dataset in resolved.datasets
            for scene in dataset.scenes
        ),
        weights={name: found.label for name, found in weights.items()},
        key=plan_key(resolved, cards.values(), weights, used),
        cards=tuple(cards.values()),
    )


def adapter_of(dataset: DatasetConfig) -> Adapter:
    """The dataset, opened. Raises ConfigError for its options, DataError for its root."""
    return open_adapter(dataset.name, None if dataset.root is None else Path(dataset.root), dataset.options)


def open_scene(unit: Unit, adapters: dict[int, Adapter] | None = None) -> FrameSequence:
    """The unit's frames. Raises DataError when the scene is not there or not what it should be.

    adapters: of datasets that were opened for units before it, by identity.
    """
    known = {} if adapters is None else adapters
    if id(unit.dataset) not in known:
        known[id(unit.dataset)] = adapter_of(unit.dataset)
    return known[id(unit.dataset)].open(unit.scene, unit.dataset.selection)


def prepared_size(unit: Unit, sequence: FrameSequence) -> tuple[int, int]:
    """Width and height of the unit's frames as the method sees them; one is decoded. Raises DataError."""
    for frame in sequence.frames(depth=False):
        image = prepare(frame, unit.size).image
        if image is not None:
            return image.shape[1], image.shape[0]
    raise DataError(f"{sequence.dataset}/{sequence.scene}: expected frames, found none; check the selection")


def input_fingerprint(unit: Unit, sequence: FrameSequence) -> str:
    """Hex digest over the scene's files and, for a replayed method, over what its saved predictions hold.

    The settings are not in it: they are in the run's key. Of a method that cannot tell whether it changed it is another
    one each time.
    """
    digest = hashlib.sha256(sequence.fingerprint().encode())
    paths = unit.method.input_files(unit.dataset.name, unit.scene)
    files = "\n".join(f"{path}: {file_state(path)}" for path in paths)
    digest.update(os.fsencode(files))
    if not unit.method.repeatable:
        digest.update(uuid.uuid4().bytes)
    return digest.hexdigest()


def _plugins_of(experiment: Experiment) -> tuple[Plugin, ...]:
    """The plugins that decide something of the experiment: those of its datasets, methods and metrics, by name."""
    found = {DATASETS.plugin(dataset.name) for dataset in experiment.datasets}
    found |= {METHODS.plugin(method.kind) for method in experiment.methods}
    found |= {METRICS.plugin(name) for name in METRICS.names()}
    found |= {FAMILIES.plugin(name) for name in FAMILIES.names()}
    return tuple(sorted((plugin for plugin in found if plugin is not None), key=lambda plugin: plugin.name))


def plan_key(
    experiment: Experiment, cards: Iterable[Card], weights: dict[str, WeightFile], used: Iterable[Plugin] = ()
) -> str:
    """SHA-256 over the resolved experiment, cards, plugins, the code that computes and the weights, as canonical JSON.

    Input files are not in it: each unit's record carries a fingerprint of its own.
    """
    return content_key(
        {
            "experiment": experiment.model_dump(mode="json"),
            "cards": [card.model_dump(mode="json", exclude={"download"}) for card in cards],
            "weights": {name: [found.label, found.sha256] for name, found in weights.items()},
            "plugins": [[plugin.name, plugin.sha256] for plugin in used],
            "left_out": [[path.name, file_state(path)] for path in experiment.keep.input_files()],
        }
    )


def content_key(content: dict[str, Any], *, of_study: bool = False) -> str:
    """SHA-256 over plain JSON values and the code that computes, as canonical JSON: what a result is filed under."""
    code = {"version": lingbot_eval.__version__, "sources": code_digest(of_study=of_study)}
    return hashlib.sha256(canonical_json({**content, "code": code}).encode()).hexdigest()


def _resolved(dataset: DatasetConfig, card: Card, experiment: Experiment) -> DatasetConfig:
    """``dataset`` with the card's defaults, its root absolute and its scenes by name; each scene is opened once."""
    selection = dataset.selection
    if "stride" not in selection.model_fields_set:
        selection = selection.model_copy(update={"stride": card.protocol.stride})
    resolved = dataset.model_copy(
        update={
            "root": None if dataset.root is None else str(expanded(dataset.root).absolute()),
            "selection": selection,
            "size": dataset.size or card.protocol.size,
            "depth_range": dataset.depth_range or _depth_range(card, experiment.metrics.depth),
        }
    )
    adapter = adapter_of(resolved)
    scenes = _scenes(resolved, card, adapter)
    _open_each(adapter, scenes, selection)
    return resolved.model_copy(update={"scenes": scenes})


def _open_each(adapter: Adapter, scenes: Iterable[str], selection: Selection) -> None:
    """Raises DataError for a scene that is not there, and where no scene can be opened.

    A scene that is there and broken does not stop the others: its unit will fail with this reason.
    """
    broken: list[DataError] = []
    opened = 0
    for scene in scenes:
        try:
            adapter.open(scene, selection)
            opened += 1
        except UnknownSceneError:
            raise
        except DataError as error:
            broken.append(error)
    if broken and not opened:
        raise broken[0]


def _depth_range(card: Card, settings: DepthSettings | None) -> tuple[float, float] | None:
    """Limits in metres: what the experiment says wins over the card."""
    if settings is None:
        return None
    given = settings.model_fields_set
    return (
        settings.min_depth if "min_depth" in given else card.protocol.min_depth,
        settings.max_depth if "max_depth" in given else card.protocol.max_depth,
    )


def _scenes(dataset: DatasetConfig, card: Card, adapter: Adapter) -> tuple[str, ...]:
    """The scenes named, or all that are there but those that the protocol leaves out (the card says why)."""
    if dataset.scenes != "all":
        return dataset.scenes
    there = adapter.scenes()
    found = tuple(scene for scene in there if scene not in card.scenes_left_out)
    if not found:
        raise DataError(
            f"dataset {dataset.name}: no scene to run under {dataset.root}, found "
            f"{', '.join(there) + ', which the protocol leaves out' if there else 'nothing'}; check root and scenes"
        )
    return found


def opened_images(run: RunRecord, record: UnitRecord) -> Callable[[], Iterator[tuple[int, Image]]]:
    """What a stored unit was made from, opened again: its images, where they are still there and the same.

    Args:
        run: the run's record, which has the settings.
        record: the unit's.

    Returns:
        Begins a pass: index and image of each frame, at the size that the method saw. It raises DataError for an image
        that is damaged.

    Raises:
        DataError: the scene is not there any more, or not as it was.
        ConfigError: settings that this version, or this machine without a plugin, cannot read.
    """
    settings = {key: value for key, value in run.experiment.items() if key != "cards"}
    experiment = validated(Experiment, settings, f"the experiment of run {run.name}")
    datasets = {dataset.filed_as: dataset for dataset in experiment.datasets}
    methods = {method.name: method for method in experiment.methods}
    if record.dataset not in datasets or record.method not in methods:
        raise ConfigError(f"run {run.name}: its experiment has no {record.dataset} with {record.method}")
    unit = Unit(datasets[record.dataset], record.scene, methods[record.method])
    sequence = open_scene(unit)
    if unit.method.repeatable and input_fingerprint(unit, sequence) != record.input_fingerprint:
        raise DataError(f"{record.dataset}/{record.scene}: the files are not those that were streamed")

    def images() -> Iterator[tuple[int, Image]]:
        for frame in sequence.frames(depth=False):
            image = prepare(frame, unit.size).image
            if image is not None:
                yield frame.index, image

    return images
