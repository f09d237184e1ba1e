"""Turning a computed number, or the failure to compute it, into a Measurement."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lingbot_eval.errors import UnscorableError
from lingbot_eval.types import Measurement


@dataclass(frozen=True)
class Quantity:
    """What is measured, apart from how it came out: the fields of Measurement that do not depend on the data."""

    family: str
    name: str
    variant: str
    unit: str
    convention: str

    def value(self, value: float, samples: int | None = None) -> Measurement:
        """A result; a number that left float64's range becomes a reason instead."""
        if not math.isfinite(value):
            return self.failed("the numbers are too large for float64: the result is not finite", samples)
        return Measurement(
            self.family, self.name, self.variant, float(value), self.unit, self.convention, samples=samples
        )

    def failed(self, reason: str, samples: int | None = None) -> Measurement:
        """No result, with the reason."""
        return Measurement(
            self.family, self.name, self.variant, None, self.unit, self.convention, samples=samples, reason=reason
        )

    def attempt(self, compute: Callable[[], float], samples: int | None = None) -> Measurement:
        """The result of ``compute``, or the reason of the UnscorableError that it raises."""
        try:
            return self.value(compute(), samples)
        except UnscorableError as error:
            return self.failed(str(error), samples)
