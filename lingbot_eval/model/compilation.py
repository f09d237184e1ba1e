"""What became of compiled heads, as plain numbers: loads neither torch nor its compiler."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Compilation:
    """What became of compiled heads so far.

    programs: made; seconds: of the calls that made one or tried to. calls: of heads; plain_calls: those in which one
    ran as it is; reason: why the last of these did.
    """

    programs: int = 0
    seconds: float = 0.0
    calls: int = 0
    plain_calls: int = 0
    reason: str | None = None

    def since(self, before: Compilation) -> Compilation:
        """What came after ``before``, an earlier state of the same heads."""
        plain = self.plain_calls - before.plain_calls
        return Compilation(
            self.programs - before.programs,
            self.seconds - before.seconds,
            self.calls - before.calls,
            plain,
            self.reason if plain else None,
        )


def together(found: Iterable[Compilation]) -> Compilation:
    """Of all heads of a network; the reason is of the first that has one."""
    found = tuple(found)
    return Compilation(
        sum(each.programs for each in found),
        sum(each.seconds for each in found),
        sum(each.calls for each in found),
        sum(each.plain_calls for each in found),
        next((each.reason for each in found if each.reason is not None), None),
    )
