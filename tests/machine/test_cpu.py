"""How threads share a machine: what is chosen in the user's place, and what the record says of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lingbot_eval
from lingbot_eval.machine import environment as processor
from lingbot_eval.machine.environment import SPIN_COUNT, chosen_variables, threads_that_share, usable_cores

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "KMP_LIBRARY")
NAMES += ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A process that has not loaded torch, a user who has set nothing, a machine without a quota."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(processor, "GROUPS", tmp_path)
    monkeypatch.setattr(processor, "_chosen", {})
    return tmp_path


def set_within() -> dict[str, str]:
    """What the environment has more within the block; and the same as before after it."""
    before = dict(os.environ)
    with threads_that_share():
        found = {name: value for name, value in os.environ.items() if before.get(name) != value}
        assert chosen_variables() == found
    assert dict(os.environ) == before
    return found


@pytest.mark.usefixtures("fresh")
def test_waiting_threads_soon_sleep() -> None:
    assert set_within() == {"GOMP_SPINCOUNT": "3000"}
    assert chosen_variables() == {}  # torch was not loaded within: nothing has read them


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "KMP_LIBRARY"])
def test_the_users_own_words_win(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "ACTIVE")
    assert set_within() == {}


@pytest.mark.usefixtures("fresh")
def test_it_is_too_late_when_torch_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", processor)
    assert set_within() == {}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu.max": "1600000 100000"}, 8),
        ({"cpu.max": "nonsense"}, None),
    ],
)
def test_no_more_threads_than_a_container_has_cores(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int | None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    for name, text in files.items():
        (fresh / name).parent.mkdir(exist_ok=True)
        (fresh / name).write_text(text + "\n")
    assert usable_cores() == (8 if cores is None else cores)
    assert set_within().get("OMP_NUM_THREADS") == (None if cores is None else str(cores))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC"):
        with monkeypatch.context() as users:
            users.setenv(name, "5")
            assert "OMP_NUM_THREADS" not in set_within(), name


@pytest.mark.parametrize("user", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_the_record_says_who_chose(user: dict[str, str]) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in NAMES} | user
    environment["PYTHONPATH"] = str(Path(lingbot_eval.__file__).parents[1])
    command = [sys.executable, "-m", "lingbot_eval.cli.main", "env", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout)
    assert {name: found["variables"].get(name) for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")} == {
        "OMP_WAIT_POLICY": user.get("OMP_WAIT_POLICY"),
        "GOMP_SPINCOUNT": None,
    }
    chosen = f"GOMP_SPINCOUNT={SPIN_COUNT}, chosen by lingbot-eval"
    assert (chosen in found["torch"]["threads_wait"]) == (not user)
