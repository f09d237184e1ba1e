"""``lingbot-eval env``: the environment block as runs, baselines and pytest-benchmark results store it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from lingbot_eval.cli import output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(args: argparse.Namespace) -> int:
    """Print it."""
    from lingbot_eval.machine.environment import environment

    block = environment()
    if args.json:
        output.as_json(block)
        return 0
    rows = list(_rows(block))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        output.line(f"{name:{width}}  {value}")
    return 0


def _rows(block: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and their values, inner mappings and lists of mappings opened."""
    for name, value in block.items():
        if isinstance(value, Mapping) and value:
            yield from _rows(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
            for position, entry in enumerate(value):
                yield from _rows(entry, f"{prefix}{name}.{position}.")
        else:
            yield f"{prefix}{name}", "none" if value in ([], {}, None) else str(value)
