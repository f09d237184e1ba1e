"""Progress of a run or a study on standard error: a bar on a terminal, one line a unit anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lingbot_eval.cli import output
from lingbot_eval.runs.execute import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tqdm import tqdm

    from lingbot_eval.runs.execute import Parallel
    from lingbot_eval.runs.plan import Plan, Unit
    from lingbot_eval.scaling.settings import Case
    from lingbot_eval.stored.records import ResultRecord


class Progress(Observer):
    """For people."""

    def __init__(
        self,
        *,
        quiet: bool,
        parallel: Parallel | None = None,
        announce: Callable[[Progress, Plan], None] = lambda progress, plan: None,
    ) -> None:
        """quiet: leave only failures. parallel: how units run at the same time, then under one bar. announce: says what
        the plan of a run is and what may be wrong with it."""
        self.quiet = quiet
        self.parallel = parallel
        self._announce = announce
        self._units = 0
        self._seen = 0
        self._frames = 0
        self._said: set[str] = set()
        self._bar: tqdm[Any] | None = None

    def planned(self, plan: Plan) -> None:
        """The plan and its warnings."""
        self._announce(self, plan)
        self.expect(len(plan.units))

    def expect(self, units: int) -> None:
        """So many units are to come, of which this process may have a share."""
        shares = 1 if self.parallel is None or self.parallel.shard is None else self.parallel.shard[1]
        self._units = -(-units // shares)
        if self.parallel is not None:
            self._open(self._units, "units", "unit")

    def preparing(self, case: Case, frames: int | None) -> None:
        """A bar for the frames of a study that are made ready."""
        self._open(frames, f"frames of {case.size[0]}×{case.size[1]}", "frame")

    def started(self, unit: Unit | Case, frames: int | None) -> None:
        """A bar for the unit's frames."""
        if self.parallel is None:
            self._seen += 1
            self._open(frames, self._label(unit), "frame")

    def frame(self) -> None:
        """One frame further."""
        if self._bar is not None and self.parallel is not None:
            self._frames += 1
            self._bar.set_postfix_str(f"{self._frames} frames", refresh=False)
            self._bar.update(0)
        elif self._bar is not None:
            self._bar.update()

    def finished(self, unit: Unit | Case, record: ResultRecord) -> None:
        """The unit's result in a line."""
        self._end_unit()
        if record.status == "failed":
            output.note(f"error: {'/'.join(unit.names)}: {record.reason}")
        elif not self.quiet:
            label = self._label(unit)
            output.note(f"{label}: {record.predictions} of {record.frames} frames in {record.seconds:.1f} s")
            if record.wait_s:
                output.note(f"{label}: first prediction after {waited(record.wait_s)}")
        for text in record.placed_remarks:
            self.say(text)

    def say(self, note: str) -> None:
        """A note on a scene, once, whoever finds it first and however many methods see the scene."""
        if note not in self._said:
            self._said.add(note)
            output.note(f"note: {note}")

    def skipped(self, unit: Unit | Case) -> None:
        """Said, so that nobody wonders why it was so quick."""
        if self.parallel is None:
            self._seen += 1
        else:
            self._end_unit()
        if not self.quiet:
            output.note(f"{self._label(unit)}: done before")

    def left_out(self, unit: Unit | Case, reason: str) -> None:
        """Damage is an error; that the unit begins anew mends it."""
        output.note(f"error: {'/'.join(unit.names)} begins anew: {reason}")

    def _end_unit(self) -> None:
        if self.parallel is not None:
            self._seen += 1
            if self._bar is not None:
                self._bar.update()
        if self._bar is not None and (self.parallel is None or self._seen == self._units):
            self._bar.close()

    def _open(self, total: int | None, label: str, what: str) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = output.bar(total, label, what, quiet=self.quiet)

    def _label(self, unit: Unit | Case) -> str:
        return f"[{self._seen}/{self._units}] {'/'.join(unit.names)}"


def waited(wait_s: Mapping[str, float]) -> str:
    """A wait in words: the total, then its parts from a tenth of a second on."""
    parts = ", ".join(
        f"{name} {seconds:.1f}" for name, seconds in wait_s.items() if name != "total" and seconds >= 0.05
    )
    return f"{wait_s['total']:.1f} s" + (f" ({parts})" if parts else "")
