"""A dataset in a user's hands: its scenes by name, and the frames of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lingbot_eval.datasets.cards import Card, load_card
from lingbot_eval.datasets.protocol import Selection
from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.errors import ConfigError
from lingbot_eval.types import FloatArray, Frame, FrameSequence, Trajectory
from lingbot_eval.validation import validated


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
