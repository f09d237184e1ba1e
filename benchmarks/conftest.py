"""pytest-benchmark results say what they were measured on with the same block as a run's record."""

from __future__ import annotations

from typing import Any

from lingbot_eval.machine.environment import environment


def pytest_benchmark_update_machine_info(config: object, machine_info: dict[str, Any]) -> None:
    """Called by pytest-benchmark once per session; the key is that of the block, beside what the plugin finds."""
    machine_info["lingbot_eval"] = environment()
