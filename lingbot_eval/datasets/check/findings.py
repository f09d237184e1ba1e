"""What the doctor says: findings of a scene, of a dataset, and how many of one kind become one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from lingbot_eval.datasets.check.convention import ConventionVerdict
from lingbot_eval.datasets.listing import and_more

Level = Literal["problem", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One line. level: ``problem`` makes numbers wrong or impossible, ``warning`` may, ``note`` is for the record.

    check: its kind in a word, e.g. ``images``, ``poses``, ``convention``.
    """

    level: Level
    check: str
    text: str


@dataclass(frozen=True)
class SceneCheck:
    """Everything found about one scene. frames: None when it could not be opened. seconds: of the metadata checks."""

    scene: str
    frames: int | None
    findings: tuple[Finding, ...]
    seconds: float
    convention: ConventionVerdict | None = None


@dataclass(frozen=True)
class DatasetCheck:
    """Everything found about a dataset under one root. findings: of the dataset as a whole."""

    dataset: str
    root: str
    findings: tuple[Finding, ...]
    scenes: tuple[SceneCheck, ...]

    @property
    def problems(self) -> int:
        """How many findings are problems."""
        every = [*self.findings, *(finding for scene in self.scenes for finding in scene.findings)]
        return sum(finding.level == "problem" for finding in every)


class Watcher(Protocol):
    """Hears of the progress of decoding."""

    def scene(self, name: str, frames: int | None) -> None:
        """A scene with so many frames begins; None where only decoding tells."""
        ...

    def frame(self) -> None:
        """One frame was decoded."""
        ...

    def done(self) -> None:
        """The scene is over."""
        ...


def gathered(level: Level, check: str, texts: Sequence[str]) -> list[Finding]:
    """One finding for many of a kind: the first, and how many more there are; none for none."""
    if not texts:
        return []
    return [Finding(level, check, texts[0] + and_more(len(texts) - 1))]
