"""Units in processes of their own: the same results as without, and what dies takes nobody with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import lingbot_eval as lb
from lingbot_eval.errors import ConfigError
from lingbot_eval.runs.claims import CLAIMS
from lingbot_eval.runs.execute import Parallel
from tests.support.processes import children, command, ended, environment, results, statuses, write_staged
from tests.support.tiny import run_folder, write_experiment


def test_two_workers_store_what_one_process_does(tmp_path: Path) -> None:
    file = write_experiment(tmp_path)
    serial = lb.run(file, out=tmp_path / "serial")
    parallel = lb.run(file, out=tmp_path / "parallel", parallel=Parallel(workers=2))
    assert results(tmp_path / "parallel") == results(tmp_path / "serial")
    outcome = parallel.outcome
    assert outcome is not None
    assert (outcome.done, outcome.skipped, outcome.failed, outcome.pending) == (2, 0, 0, 0)
    hosts = [unit.record.host for unit in parallel.results.units]
    assert [host.differs for host in hosts if host is not None] == [[], []]
    assert [unit.record.host for unit in serial.results.units] == [None, None]
    assert sorted(path.name for path in parallel.path.iterdir()) == [".lock", "run.json", "units"]


def test_a_unit_that_dies_is_a_failure_with_its_exit_code(tmp_path: Path) -> None:
    write_staged(tmp_path, methods=2, dies_in="corridor")
    ((code, said),) = ended(command(tmp_path, "runs", "--workers", "1"))
    assert code == 1, said
    found = statuses(tmp_path / "runs")
    assert {names[1:]: status for names, (status, _) in found.items()} == {
        ("room", "staged0"): "ok",
        ("corridor", "staged0"): "failed",
        ("room", "staged1"): "ok",
        ("corridor", "staged1"): "failed",
    }
    reason = found["synthetic", "corridor", "staged0"][1]
    assert reason is not None
    assert reason.startswith("its process ended with exit code 9 after 1 or more predictions, twice")
    run = run_folder(tmp_path / "runs")
    (log, _) = sorted((run / "logs").iterdir())
    assert f"see logs/{log.name}" in reason
    assert log.read_text() == "last words\n"
    assert not list(run.rglob(".partial-*"))
    assert not (run / CLAIMS).exists()
    assert "its process ended with exit code 9: once more, in a new one" in said


def test_shares_are_done_apart_and_whoever_ends_last_ends_the_run(tmp_path: Path) -> None:
    file = write_experiment(tmp_path)
    whole = lb.run(file, out=tmp_path / "whole")
    first = lb.run(file, out=tmp_path / "shares", parallel=Parallel(shard=(2, 2))).outcome
    assert first is not None
    assert (first.done, first.failed, first.pending, first.record.status) == (1, 0, 1, "incomplete")
    assert [names[1] for names in statuses(tmp_path / "shares")] == ["corridor"]
    second = lb.run(file, out=tmp_path / "shares", parallel=Parallel(shard=(1, 2))).outcome
    assert second is not None
    assert (second.done, second.failed, second.pending, second.record.status) == (1, 0, 0, "complete")
    assert results(tmp_path / "shares") == results(tmp_path / "whole")
    assert whole.outcome is not None


def test_an_interruption_ends_the_children_and_gives_the_claims_back(tmp_path: Path) -> None:
    write_staged(tmp_path, methods=1, seconds=60)
    running = command(tmp_path, "runs", "--workers", "1")
    until = time.monotonic() + 60
    while not list(tmp_path.glob("runs/*/units/*/*/.partial-*")):  # it is at work
        assert time.monotonic() < until
        time.sleep(0.1)
    (child,) = children(running)
    running.send_signal(signal.SIGINT)
    ((code, said),) = ended(running)
    assert code == 130, said
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    run = run_folder(tmp_path / "runs")
    assert not (run / CLAIMS).exists()
    assert not list(run.rglob(".partial-*"))
    assert '"status": "incomplete"' in (run / "run.json").read_text()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"workers": 0}, "workers: expected at least 1, found 0"),
        ({"shard": (3, 2)}, "shard: expected i/n with i from 1 to n, found 3/2"),
        ({"shard": (0, 2)}, "shard: expected i/n with i from 1 to n, found 0/2"),
        ({"workers": 2, "scheduler": "tcp://127.0.0.1:1"}, "scheduler: its workers do the units"),
    ],
)
def test_what_cannot_be_spread_is_refused(changes: dict[str, object], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        Parallel(**changes)  # type: ignore[arg-type]


def test_a_worker_of_other_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lingbot_eval.runs import workers

    monkeypatch.setattr(workers, "fingerprint", lambda: "0" * 64)
    with pytest.raises(ConfigError, match=r"has other code \([0-9a-f]{12}\) than the run \(000000000000\)"):
        lb.run(write_experiment(tmp_path), out=tmp_path / "runs", parallel=Parallel())
    assert statuses(tmp_path / "runs") == {}


def test_without_the_options_nothing_of_it_is_loaded(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    script = (
        "import sys; from lingbot_eval.cli.main import main\n"
        "code = main(['run', 'tiny.yaml', '--no-report', '--out', 'runs'])\n"
        "loaded = {'dask', 'distributed', 'lingbot_eval.runs.workers', 'lingbot_eval.runs.host'} & set(sys.modules)\n"
        "sys.exit(code or len(loaded))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_gpus_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from lingbot_eval.runs import workers

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-abc")
    assert workers.gpus() == ["3", "GPU-abc"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert workers.gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(workers, "device_count", lambda: 2)
    assert workers.gpus() == ["0", "1"]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
