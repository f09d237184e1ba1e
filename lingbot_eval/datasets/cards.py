"""A dataset as a whole: its card (what it is, licence, layout, protocol, published numbers), and its scenes by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from lingbot_eval.datasets.registry import DATASETS, open_adapter
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.errors import ConfigError
from lingbot_eval.files.archives import ARCHIVES, ArchiveKind, inner_path
from lingbot_eval.files.yaml_documents import load_mapping
from lingbot_eval.prepare import SizeSettings
from lingbot_eval.resources import shared_file, shared_names
from lingbot_eval.settings import StrictModel, validated
from lingbot_eval.tables import markdown_grid
from lingbot_eval.types import FloatArray, Frame, FrameSequence, Trajectory

Text = Annotated[str, Field(min_length=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Metres = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
PART = "{part}"
"""Stands for a part's name in addresses and paths of a card's download section."""


def _below_the_root(path: str) -> str:
    inner_path(path)  # ValueError for one that leads elsewhere
    return path


BelowRoot = Annotated[Text, AfterValidator(_below_the_root)]
Size = Annotated[int, Field(ge=1)]
Checksum = Annotated[str, Field(pattern="^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})$")]


class Source(StrictModel):
    """Where the dataset comes from. url: None for what is made or brought by the user."""

    url: Text | None = None
    licence: Text
    citation: Text | None = None


class DownloadFile(StrictModel):
    """A file at its official address, or one a part where ``{part}`` stands for the part's name.

    url: http, https or hf://datasets/owner/repository[@revision]/file. parts: folders under the root that need it.
    size: bytes, where the server or the page states them exactly; by part where there is a file a part. checksum:
    ``sha256:…`` or ``md5:…`` as published by whoever publishes the file; likewise. archive: as the address ends if
    None; ``none`` for a file that is taken as it is. inside: a folder of the archive that is left out of the paths in
    it, where it is there. into: where under the root they begin. without: pattern of paths under the root that are
    left out. inner: pattern of those of archives inside it, which are unpacked as well, each into its folder.
    """

    url: Annotated[str, Field(pattern="^(https?|hf)://")]
    parts: Annotated[tuple[BelowRoot, ...], Field(min_length=1)]
    size: Size | dict[str, Size] | None = None
    checksum: Checksum | dict[str, Checksum] | None = None
    archive: ArchiveKind | Literal["none"] | None = None
    inside: BelowRoot | None = None
    into: BelowRoot | None = None
    without: Text | None = None
    inner: Text | None = None

    @property
    def kind(self) -> ArchiveKind | None:
        """How it is packed; None for a file that is taken as it is."""
        if self.archive is None:
            path = urlsplit(self.url).path.lower()
            return next((kind for ending, kind in ARCHIVES.items() if path.endswith(ending)), None)
        return None if self.archive == "none" else self.archive

    @model_validator(mode="after")
    def _named_by_part(self) -> DownloadFile:
        for name in ("size", "checksum"):
            values = getattr(self, name)
            if isinstance(values, dict) != (PART in self.url) and values is not None:
                raise ValueError(f"{name} is by part where the address has {PART}, and one value where it has not")
            if isinstance(values, dict) and (unknown := sorted(set(values) - set(self.parts))):
                raise ValueError(f"{name}: {unknown[0]} is not among the parts")
        return self


class Download(StrictModel):
    """How one gets the dataset. page: the official page that offers it.

    files: what ``datasets fetch`` fetches. A part is a folder under the root that appears when all its files are
    there; a scene belongs to the part of its name, or that its name begins with. hosts: those that the addresses may
    redirect to besides their own. steps: what a person does where a login, a form or a program of theirs is needed.
    """

    page: Annotated[str, Field(pattern="^https?://")]
    files: tuple[DownloadFile, ...] = ()
    hosts: tuple[Text, ...] = ()
    steps: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _one_way_at_least(self) -> Download:
        if not self.files and not self.steps:
            raise ValueError("expected files, or steps for a person to follow")
        return self


class Protocol(StrictModel):
    """How it is evaluated unless an experiment says otherwise (protocol.md section 2).

    split: a word for the record; the adapter's options choose it. stride: every so many frames. size: what the
    method sees. min_depth, max_depth: metres, reference depth strictly between them is scored.
    metrics: families. thresholds: by metric name, unit in the name. notes: what one must know to compare.
    """

    split: Text | None = None
    stride: Annotated[int, Field(ge=1)] = 1
    size: SizeSettings = SizeSettings()
    min_depth: Metres = 0.0
    max_depth: Metres = 80.0
    metrics: tuple[Text, ...] = ()
    thresholds: dict[str, Number] = Field(default_factory=dict)
    notes: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _range_in_order(self) -> Protocol:
        if self.min_depth >= self.max_depth:
            raise ValueError(f"min_depth {self.min_depth:g} must be less than max_depth {self.max_depth:g}")
        return self


class Published(StrictModel):
    """Numbers that somebody reported. source: who and where. scenes: how many they are the mean of; scene_names: which,
    where they are not all of the protocol.

    selection: the frames they were computed on; None = the protocol's stride and every frame. values: by metric name,
    with the unit in the name where it has one. conventions: how they were computed, as far as the source tells.
    """

    method: Text
    source: Text
    scenes: Annotated[int, Field(ge=1)] | None = None
    scene_names: tuple[Text, ...] = ()
    selection: Selection | None = None
    values: Annotated[dict[str, Number], Field(min_length=1)]
    conventions: Text | None = None


class Card(StrictModel):
    """One dataset.

    layout: how it must lie under the root. download: None for what is made, or brought by the user.
    expected_scenes: scenes of the protocol with the frames that the release has (null: not known).
    scenes_left_out, views_left_out: by name, with the reason.
    """

    name: Text
    title: Text
    description: Text
    source: Source
    layout: Text
    download: Download | None = None
    scenes: Text
    expected_scenes: dict[str, Annotated[int, Field(ge=1)] | None] = Field(default_factory=dict)
    scenes_left_out: dict[str, Text] = Field(default_factory=dict)
    views_left_out: dict[str, Text] = Field(default_factory=dict)
    protocol: Protocol
    published: tuple[Published, ...] = ()


def card_names() -> tuple[str, ...]:
    """Names of the shipped cards, then of the plugins' datasets."""
    return (*shared_names("datasets"), *(name for name, _ in DATASETS.added()))


def load_card(name: str, file: Path | None = None) -> Card:
    """The card of dataset ``name``.

    Args:
        name: of a built-in dataset, or of a plugin's, whose class carries its card.
        file: a card of the user's own, which wins; or the folder that holds it as ``NAME.yaml``.

    Raises:
        ConfigError: for an unknown name, a file that is not there and, with its key, a bad card.
    """
    if file is None and DATASETS.plugin(name) is not None:
        kind = DATASETS.get(name)
        own = dict(kind.card)
        known = {
            "name": name,
            "title": name,
            "description": " ".join((kind.__doc__ or name).split()),
            "layout": kind.layout,
            "scenes": "any",
            **own,
            "source": {"licence": "not stated", **own.get("source", {})},
            "protocol": own.get("protocol", {"metrics": ["trajectory", "auc", "depth"]}),
        }
        return validated(Card, known, f"card of dataset {name}")
    path = shared_file("datasets", name) if file is None else file / f"{name}.yaml" if file.is_dir() else file
    document: dict[str, Any] = load_mapping(path)
    card = validated(Card, document, str(path))
    if card.name != name:
        raise ConfigError(f"{path}: name: expected '{name}' as the dataset, found '{card.name}'")
    return card


def markdown_table() -> str:
    """All shipped cards, one row each, as a Markdown table that ends with a line break."""
    header = ("dataset", "name", "scenes", "protocol", "metrics", "download", "licence")
    rows = [header, *(_row(load_card(name)) for name in card_names())]
    return "".join(f"{line}\n" for line in markdown_grid(rows, ["left"] * len(header), padded=False))


def size_in_words(size: SizeSettings) -> str:
    """What frames are resized to, in a few words: ``width 518``, ``cover 504×280``."""
    words = f"width {size.width}" if size.mode == "width" else f"{size.mode} {size.width}×{size.height}"
    return words if size.filter == "bicubic" else f"{words}, {size.filter.capitalize()}"


def download_word(card: Card) -> str | None:
    """``fetch`` for what a command downloads, ``by hand`` for what takes a person, None for what is made or brought."""
    if card.download is None:
        return None
    return "fetch" if card.download.files else "by hand"


def _row(card: Card) -> tuple[str, ...]:
    title = f"[{card.title}]({card.source.url})" if card.source.url else card.title
    protocol = card.protocol
    words = [f"stride {protocol.stride}", size_in_words(protocol.size)]
    cells = (
        title,
        f"`{card.name}`",
        _scenes(card),
        ", ".join([*([protocol.split] if protocol.split else []), *words]),
        ", ".join(protocol.metrics) or "–",
        download_word(card) or "–",
        card.source.licence,
    )
    return tuple(cell.replace("|", "\\|") for cell in cells)


def _scenes(card: Card) -> str:
    """How many scenes the protocol has: those listed, else as many as its published rows are the mean of."""
    published = max((row.scenes or 0 for row in card.published), default=0)
    count = len(card.expected_scenes) or published
    return str(count) if count else "any"


class Scene:
    """The selected frames of one scene, in order; iterating decodes them one by one.

    Attributes:
        name: of the scene.
        sequence: what a run reads: loaders, facts, fingerprint.
    """

    def __init__(self, sequence: FrameSequence) -> None:
        self.sequence = sequence
        self.name = sequence.scene

    def __iter__(self) -> Iterator[Frame]:
        return self.sequence.frames()

    def __length_hint__(self) -> int:
        return self.sequence.length or 0

    @property
    def length(self) -> int | None:
        """Number of frames; None where only decoding tells."""
        return self.sequence.length

    def reference(self) -> Trajectory | None:
        """Reference poses, camera-to-world in metres, of the frames that have one; None where none has."""
        return self.sequence.reference()

    def timestamps(self) -> FloatArray | None:
        """(length,) seconds; None where only decoding tells."""
        return self.sequence.timestamps()

    def facts(self) -> Mapping[str, Any]:
        """Conventions: where poses, depth and intrinsics come from, units, licence."""
        return self.sequence.facts()


class Dataset:
    """A dataset on disk (or made up). Iterating it gives the frames of its only scene.

    Attributes:
        name: of the dataset.
        card: source, licence, layout, protocol, published numbers.
    """

    def __init__(self, name: str, root: Path | None, card: Path | None, options: Mapping[str, Any]) -> None:
        """Users call `open_dataset`."""
        self.name = name
        self._adapter = open_adapter(name, root, options)
        self.card: Card = load_card(name, card)

    @property
    def scenes(self) -> tuple[str, ...]:
        """Names of the scenes under the root, in order. Raises DataError where the root is not as the layout says."""
        return self._adapter.scenes()

    def scene(
        self, name: str | None = None, *, start: int = 0, stride: int | None = None, count: int | None = None
    ) -> Scene:
        """The frames of one scene.

        Args:
            name: which; may be left out where there is one alone.
            start: first frame, from 0.
            stride: every so many frames; that of the card's protocol if left out.
            count: at most so many.

        Raises:
            ConfigError: no name where there are several scenes; a selection that cannot be.
            DataError: an unknown scene, or one that cannot be read.
        """
        if name is None:
            scenes = self.scenes
            if len(scenes) != 1:
                raise ConfigError(f"dataset {self.name}: expected the name of a scene; there are: {', '.join(scenes)}")
            name = scenes[0]
        stride = self.card.protocol.stride if stride is None else stride
        selection = validated(Selection, {"start": start, "stride": stride, "count": count}, f"scene {name}")
        return Scene(self._adapter.open(name, selection))

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.scene())

    def __length_hint__(self) -> int:
        return self.scene().length or 0


def open_dataset(
    name: str, root: str | Path | None = None, *, card: str | Path | None = None, **options: Any
) -> Dataset:
    """Open a dataset.

    Args:
        name: ``folder``, ``video``, ``tum``, ``synthetic`` …, or a plugin's (``lingbot-eval datasets list``).
        root: the folder, or the video file; None for what is made up.
        card: a card of your own in place of the one that comes with the dataset.
        options: the dataset's own, as an experiment's ``options``.

    Returns:
        The dataset; nothing is decoded yet.

    Raises:
        ConfigError: an unknown name or option, or a root that is missing.
    """
    given = None if card is None else Path(card)
    return Dataset(name, None if root is None else Path(root), given, options)
