"""A run on a Dask cluster: a real scheduler and real workers, on this machine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

import lingbot_eval as lb
from lingbot_eval.errors import ConfigError
from lingbot_eval.runs.execute import Parallel
from tests.support.processes import Cluster, cluster, command, ended, results, statuses, write_staged
from tests.support.tiny import write_experiment

pytest.importorskip("distributed")


def test_a_cluster_stores_what_one_process_does(tmp_path: Path) -> None:
    file = write_experiment(tmp_path)
    lb.run(file, out=tmp_path / "serial")
    with cluster(tmp_path / "dask") as made:
        run = lb.run(file, out=tmp_path / "cluster", parallel=Parallel(scheduler=made.address))
    assert results(tmp_path / "cluster") == results(tmp_path / "serial")
    assert run.outcome is not None
    assert (run.outcome.done, run.outcome.failed, run.outcome.pending) == (2, 0, 0)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nowhere://127.0.0.1:1", "tcp://127.0.0.1:many"])
def test_without_a_scheduler_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    from lingbot_eval.runs import cluster as module

    monkeypatch.setattr(module, "CONNECT_S", 1)
    with pytest.raises(ConfigError) as refused:
        lb.run(write_experiment(tmp_path), out=tmp_path / "runs", parallel=Parallel(scheduler=address))
    words = str(refused.value)
    assert words.startswith(f"no Dask scheduler at {address}: ")
    assert words.endswith("; start one with: dask scheduler --host 127.0.0.1")
    assert "\n" not in words


def test_a_run_that_ends_stops_its_own_units_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from lingbot_eval.runs import cluster as module
    from lingbot_eval.runs.worker import Job

    stopped: list[str] = []
    slots = {
        Job(run, ("m:f", ""), (), "/", "code", 0, False): SimpleNamespace(interrupt=lambda run=run: stopped.append(run))
        for run in ("/runs/a", "/runs/b")
    }
    monkeypatch.setattr(module, "_SLOTS", slots)
    module.stop_units("/runs/a")
    assert (stopped, [job.run for job in slots]) == (["/runs/a"], ["/runs/b"])


@pytest.mark.slow
def test_a_worker_whose_disk_is_full_is_left_out(tmp_path: Path) -> None:
    write_staged(tmp_path, methods=3, seconds=0.05)
    made = Cluster(tmp_path / "dask")
    try:
        # No file of that one may be larger than 8 KiB.
        made.workers.append(made.start_worker("bash", "-c", 'ulimit -f 8; exec "$@"', "limited"))
        ((code, said),) = ended(command(tmp_path, "runs", "--scheduler", made.address))
    finally:
        made.close()
    assert code == 0, said
    assert "is left out: cannot write" in said
    assert {status for status, _ in statuses(tmp_path / "runs").values()} == {"ok"}


@pytest.mark.slow
def test_a_unit_that_dies_takes_no_worker_along(tmp_path: Path) -> None:
    write_staged(tmp_path, methods=3, dies_in="corridor")
    with cluster(tmp_path / "dask") as made:
        ((code, said),) = ended(command(tmp_path, "runs", "--scheduler", made.address))
        assert all(worker.poll() is None for worker in made.workers)
    assert code == 1, said
    for (_, scene, _), (status, reason) in statuses(tmp_path / "runs").items():
        assert status == ("failed" if scene == "corridor" else "ok")
        assert reason is None or "ended with exit code 9" in reason
