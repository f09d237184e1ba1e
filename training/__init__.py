"""Trains the small checkpoint of configuration ``ci`` on the synthetic generator; the evaluation never imports it."""

from __future__ import annotations

import sys
from collections.abc import Callable

from lingbot_eval.errors import LingbotEvalError


def reported(work: Callable[[], str]) -> int:
    """How the commands of this room end. Imports no torch: worker processes import their command's file.

    Args:
        work: a command's; what it returns is printed.

    Returns:
        0 done, 2 bad input, which is one line on standard error.
    """
    try:
        text = work()
    except LingbotEvalError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{text}\n")
    return 0
