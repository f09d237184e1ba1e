"""What is said of a scene's input before anything is computed, in the same words by run, dry run and doctor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingbot_eval.datasets.prepare.resize import SizeSettings, crop_notes
from lingbot_eval.errors import DataError


def input_notes(facts: Mapping[str, Any], size: SizeSettings) -> list[str]:
    """A line for each thing that the user must know of the frames: what was left out of them, what is cut off.

    facts: of the sequence; its ``notes`` are lines, its ``image_sizes`` [width, height, images] of each size.
    """
    return [*facts.get("notes", ()), *crop_notes(facts.get("image_sizes", ()), size)]


def refuse_faulty_images(facts: Mapping[str, Any]) -> None:
    """Raises DataError where a method that sees the images could not reach the end (``image_faults`` of the facts)."""
    faults = facts.get("image_faults", ())
    if faults:
        raise DataError("; ".join(faults))
