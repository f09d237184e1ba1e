"""Progress of a run on standard error: a bar on a terminal, one line a unit anywhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from lingbot_eval.cli import output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lingbot_eval.runs.plan import Plan, Unit
    from lingbot_eval.runs.records import UnitRecord


class Progress:
    """A `lingbot_eval.api.Observer` for people; ``quiet`` leaves only failures."""

    def __init__(self, *, quiet: bool, announce: Callable[[Progress, Plan], None]) -> None:
        """``announce``: says what the plan is and what may be wrong with it."""
        self._announce = announce
        self._units = 0
        self.quiet = quiet
        self._seen = 0
        self._said: set[str] = set()
        self._bar: tqdm[Any] | None = None

    def planned(self, plan: Plan) -> None:
        """The plan and its warnings."""
        self._units = len(plan.units)
        self._announce(self, plan)

    def started(self, unit: Unit, frames: int | None) -> None:
        """A bar for the unit's frames."""
        self._seen += 1
        # disable=None: tqdm shows itself on a terminal only.
        self._bar = tqdm(
            total=frames,
            desc=output.printable(self._label(unit)),
            unit="frame",
            file=sys.stderr,
            leave=False,
            disable=True if self.quiet else None,
        )

    def frame(self) -> None:
        """One frame further."""
        if self._bar is not None:
            self._bar.update()

    def finished(self, unit: Unit, record: UnitRecord) -> None:
        """The unit's result in a line."""
        if self._bar is not None:
            self._bar.close()
        if record.status == "failed":
            output.note(f"error: {'/'.join(unit.names)}: {record.reason}")
        elif not self.quiet:
            output.note(
                f"{self._label(unit)}: {record.predictions} of {record.frames} frames in {record.seconds:.1f} s"
            )
            if record.wait_s:
                output.note(f"{self._label(unit)}: first prediction after {waited(record.wait_s)}")
        of_scene = record.sequence.get("notes") or ()
        for text in record.remarks:
            place = f"{unit.names[0]}/{unit.names[1]}"
            self.say(f"{place if text in of_scene else f'{place} with {unit.names[2]}'}: {text}")

    def say(self, note: str) -> None:
        """A note on a scene, once, whoever finds it first and however many methods see the scene."""
        if note not in self._said:
            self._said.add(note)
            output.note(f"note: {note}")

    def skipped(self, unit: Unit) -> None:
        """Said, so that nobody wonders why it was so quick."""
        self._seen += 1
        if not self.quiet:
            output.note(f"{self._label(unit)}: done before")

    def left_out(self, unit: Unit, reason: str) -> None:
        """Damage is an error; that the unit begins anew mends it."""
        output.note(f"error: {'/'.join(unit.names)} begins anew: {reason}")

    def _label(self, unit: Unit) -> str:
        return f"[{self._seen}/{self._units}] {'/'.join(unit.names)}"


def waited(wait_s: Mapping[str, float]) -> str:
    """A wait in words: the total, then its parts from a tenth of a second on."""
    parts = ", ".join(
        f"{name} {seconds:.1f}" for name, seconds in wait_s.items() if name != "total" and seconds >= 0.05
    )
    return f"{wait_s['total']:.1f} s ({parts})"
