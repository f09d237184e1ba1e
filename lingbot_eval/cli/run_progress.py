"""Progress of a run on standard error: a bar on a terminal, one line a unit anywhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from lingbot_eval.api import Observer
from lingbot_eval.cli import output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lingbot_eval.runs.execute import Parallel
    from lingbot_eval.runs.plan import Plan, Unit
    from lingbot_eval.runs.records import UnitRecord


class Progress(Observer):
    """For people; ``quiet`` leaves only failures."""

    def __init__(
        self, *, quiet: bool, announce: Callable[[Progress, Plan], None], parallel: Parallel | None = None
    ) -> None:
        """``announce``: says what the plan is and what may be wrong with it. parallel: how units run at the same time,
        then under one bar."""
        self._announce = announce
        self._units = 0
        self.quiet = quiet
        self.parallel = parallel
        self._together = parallel is not None
        self._shares = 1 if parallel is None or parallel.shard is None else parallel.shard[1]
        self._seen = 0
        self._frames = 0
        self._said: set[str] = set()
        self._bar: tqdm[Any] | None = None

    def planned(self, plan: Plan) -> None:
        """The plan and its warnings."""
        self._units = len(plan.units)
        self._announce(self, plan)
        if self._together:
            self._units = -(-self._units // self._shares)
            self._bar = self._new_bar(self._units, "units", "unit")

    def started(self, unit: Unit, frames: int | None) -> None:
        """A bar for the unit's frames."""
        if not self._together:
            self._seen += 1
            self._bar = self._new_bar(frames, output.printable(self._label(unit)), "frame")

    def frame(self) -> None:
        """One frame further."""
        if self._bar is not None and self._together:
            self._frames += 1
            self._bar.set_postfix_str(f"{self._frames} frames", refresh=False)
            self._bar.update(0)
        elif self._bar is not None:
            self._bar.update()

    def finished(self, unit: Unit, record: UnitRecord) -> None:
        """The unit's result in a line."""
        self._end_unit()
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
        if self._together:
            self._end_unit()
        else:
            self._seen += 1
        if not self.quiet:
            output.note(f"{self._label(unit)}: done before")

    def left_out(self, unit: Unit, reason: str) -> None:
        """Damage is an error; that the unit begins anew mends it."""
        output.note(f"error: {'/'.join(unit.names)} begins anew: {reason}")

    def _end_unit(self) -> None:
        if self._together:
            self._seen += 1
            if self._bar is not None:
                self._bar.update()
                if self._seen == self._units:
                    self._bar.close()
        elif self._bar is not None:
            self._bar.close()

    def _new_bar(self, total: int | None, label: str, what: str) -> tqdm[Any]:
        # disable=None: tqdm shows itself on a terminal only.
        disable = True if self.quiet else None
        return tqdm(total=total, desc=label, unit=what, file=sys.stderr, leave=False, disable=disable)

    def _label(self, unit: Unit) -> str:
        return f"[{self._seen}/{self._units}] {'/'.join(unit.names)}"


def waited(wait_s: Mapping[str, float]) -> str:
    """A wait in words: the total, then its parts from a tenth of a second on."""
    parts = ", ".join(
        f"{name} {seconds:.1f}" for name, seconds in wait_s.items() if name != "total" and seconds >= 0.05
    )
    return f"{wait_s['total']:.1f} s ({parts})"
