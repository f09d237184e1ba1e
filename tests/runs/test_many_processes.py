"""Forty units by every way, and fifty kills at random moments: the same results, nothing twice, nobody blamed."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import psutil
import pytest

from tests.support.processes import children, cluster, command, ended, results, statuses, write_staged

pytestmark = pytest.mark.slow
pytest.importorskip("distributed")

MOMENTS = 50
LONG_S = 3.0  # what a run of the units below takes, its start left out


def test_forty_units_by_every_way_are_the_same(tmp_path: Path) -> None:
    write_staged(tmp_path, methods=20)
    assert ended(command(tmp_path, "serial"), within_s=600)[0][0] == 0
    assert ended(command(tmp_path, "workers", "--workers", "2"), within_s=600)[0][0] == 0
    shares = [command(tmp_path, "shares", "--shard", f"{number}/2") for number in (1, 2)]
    assert [code for code, _ in ended(*shares, within_s=600)] == [0, 0]
    together = [command(tmp_path, "together", "--workers", "1") for _ in range(2)]
    assert [code for code, _ in ended(*together, within_s=600)] == [0, 0]
    with cluster(tmp_path / "dask") as made:
        assert ended(command(tmp_path, "cluster", "--scheduler", made.address), within_s=600)[0][0] == 0
    whole = results(tmp_path / "serial")
    assert len(statuses(tmp_path / "serial")) == 40
    for way in ("workers", "shares", "together", "cluster"):
        assert results(tmp_path / way) == whole, way


def test_a_full_disk_costs_a_process_and_no_unit(tmp_path: Path) -> None:
    write_staged(tmp_path, methods=4, seconds=0.05)
    limited = ("bash", "-c", 'ulimit -f 8; exec "$@"', "limited")  # KiB of a file
    both = command(tmp_path, "runs", "--workers", "1"), command(tmp_path, "runs", "--workers", "1", before=limited)
    (code, said), (full, refused) = ended(*both)
    assert code == 0, said
    assert full == 2, refused
    assert "error: cannot write" in refused
    assert {status for status, _ in statuses(tmp_path / "runs").values()} == {"ok"}
    assert len(statuses(tmp_path / "runs")) == 8


def test_kills_at_random_moments(tmp_path: Path) -> None:
    """SIGKILL of a worker, of a child, of the scheduler, of the client; then the same commands again."""
    write_staged(tmp_path, methods=2, seconds=0.1)
    assert ended(command(tmp_path, "whole"))[0][0] == 0
    whole, draw, killed, again = results(tmp_path / "whole"), random.Random(0), Counter[str](), 0
    with cluster(tmp_path / "dask") as made:

        def commands(way: str, out: str) -> list[Popen[str]]:
            if way == "workers":
                return [command(tmp_path, out, "--workers", "2")]
            if way == "shares":
                return [command(tmp_path, out, "--shard", f"{number}/2") for number in (1, 2)]
            return [command(tmp_path, out, "--scheduler", made.address)]

        for number in range(MOMENTS):
            way = ("workers", "shares", "cluster")[number % 3]
            out = f"killed-{number}"
            made.restart_dead()
            running = commands(way, out)
            until = time.monotonic() + 60
            while not list((tmp_path / out).glob("*/.claims/unit-*")) and time.monotonic() < until:
                time.sleep(0.05)
            time.sleep(draw.uniform(0, LONG_S))
            victims: dict[str, Callable[[], list[psutil.Process]]] = {
                "client": lambda running=running: [psutil.Process(running[0].pid)],  # type: ignore[misc]
                "child": lambda running=running: [c for p in (*running, *made.workers) for c in children(p)][:1],  # type: ignore[misc]
            }
            if way == "cluster":
                victims["scheduler"] = lambda: [psutil.Process(made.scheduler.pid)]
                # The nanny would start it again: it is killed with its worker.
                victims["worker"] = lambda: [
                    psutil.Process(made.workers[0].pid),
                    *(p for p in psutil.Process(made.workers[0].pid).children() if "lingbot" not in str(p.cmdline())),
                ]
            victim = draw.choice(sorted(victims))
            try:
                for process in victims[victim]():
                    process.kill()
                    killed[f"{victim} of {way}"] += 1
            except psutil.NoSuchProcess:
                killed["too late"] += 1
            ends = ended(*running, within_s=180)
            while any(code != 0 for code, _ in ends):
                again += 1
                assert again < 2 * MOMENTS, ends
                made.restart_dead()
                ends = ended(*commands(way, out), within_s=180)
            found = statuses(tmp_path / out)
            assert {status for status, _ in found.values()} == {"ok"}, (number, way, victim, found)
            now = results(tmp_path / out)
            left = [name for name in now if Path(name).name.startswith(".") and not name.endswith(".lock")]
            assert now == whole, (
                number,
                way,
                victim,
                sorted(name for name in whole if now.get(name) != whole[name]),
                left,
            )
            print(number, way, victim, f"{again} further calls", flush=True)  # noqa: T201 - a long test
    print(dict(killed))  # noqa: T201
    assert killed.total() >= MOMENTS
