"""Commands killed at random moments: what is there is old or new, and the next call ends as if undisturbed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.killing import kill


@pytest.mark.parametrize(
    ("moments", "with_scale"), [(6, False), pytest.param(200, True, marks=pytest.mark.slow, id="200 and scale")]
)
def test_a_kill_costs_time_and_nothing_else(tmp_path: Path, moments: int, *, with_scale: bool) -> None:
    found = kill(moments, tmp_path, with_scale=with_scale)
    assert found.wrong == []
    assert found.killed.total() > moments // 2
