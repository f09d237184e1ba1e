"""Numbers as a reader wants them: as many digits as they deserve, never more."""

from __future__ import annotations

import math

_SIGNIFICANT = {"m": 4, "deg": 4, "1": 4, "%": 4, "fps": 4, "ms": 4, "MiB": 4}


def number_text(value: float, unit: str) -> str:
    """``value`` with the significant digits of its unit; whole counts stay whole.

    Digits left of the point are always all there; very small and very large numbers are in scientific notation.
    Raises ValueError for a number that is not finite: there is a reason to show in its place.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a result")
    if unit == "frames" and value == round(value):
        return str(round(value))
    if value == 0:
        return "0"
    digits = _SIGNIFICANT.get(unit, 4)
    # Rounded first, so that 9.9999 counts as the 10.00 that it is shown as.
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    if not -4 <= exponent < 7:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - exponent)}f}"
