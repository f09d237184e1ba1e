"""Running, reading, judging and comparing from Python: what the commands do, as values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lingbot_eval as lb
from lingbot_eval.errors import ConfigError, StoreError

FRAMES = 8


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A replay, twice as large as the truth and one metre aside: ATE 0 after Sim(3), 1 m where only moved."""
    folder = tmp_path_factory.mktemp("replay")
    scene = lb.open_dataset("synthetic", frames=FRAMES).scene("room")
    truth = scene.reference().camera_to_world
    rows = np.concatenate([truth[:, :3, :3], 2 * truth[:, :3, 3:] + 1], axis=2).reshape(FRAMES, 12)
    np.savetxt(folder / "poses.txt", rows)
    return {
        "name": "api",
        "datasets": [{"name": "synthetic", "scenes": ["room"], "options": {"frames": FRAMES}}],
        "methods": [{"kind": "replay", "trajectory": str(folder / "poses.txt"), "format": "kitti"}],
    }


@pytest.fixture(scope="module")
def ran(settings: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> lb.Run:
    return lb.run(settings, out=tmp_path_factory.mktemp("runs"))


def value(run: lb.Run, name: str, variant: str) -> float:
    table = run.measurements()
    (found,) = table[(table["name"] == name) & (table["variant"] == variant)]["value"]
    return float(found)


def test_a_run_from_settings_gives_its_measurements(ran: lb.Run) -> None:
    assert (ran.outcome.done, ran.outcome.skipped, ran.outcome.failed) == (1, 0, 0)
    assert value(ran, "ate_rmse", "sim3") == pytest.approx(0, abs=1e-9)
    assert value(ran, "scale", "sim3") == pytest.approx(0.5)
    frames = ran.frames("synthetic", "room", "replay")
    assert frames["index"].tolist() == list(range(FRAMES))


def test_what_is_done_is_not_done_again_and_settings_can_be_set(settings: dict[str, object], ran: lb.Run) -> None:
    again = lb.run(settings, out=ran.path.parent)
    assert (again.path, again.outcome.skipped) == (ran.path, 1)
    key = lb.plan_run(settings).key
    assert lb.plan_run(settings, {"datasets.0.selection.count": 4}).key != key
    assert lb.plan_run(settings, ["datasets.0.selection.count=4"]).key != key
    assert settings["datasets"][0].get("selection") is None
    with pytest.raises(ConfigError, match=r"parallel: expected Parallel\(workers=N\), found 2"):
        lb.run(settings, out=ran.path.parent, parallel=2)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"set datasets\.0\.selection\.: expected"):
        lb.plan_run(settings, {"datasets.0.selection.": 4})
    with pytest.raises(ConfigError, match=r"'counts' .did you mean 'count'"):
        lb.plan_run(settings, {"datasets.0.selection.counts": 4})


def test_a_stored_run_is_opened_reported_judged_and_compared(ran: lb.Run, tmp_path: Path) -> None:
    opened = lb.open_run(ran.path)
    assert opened.measurements().equals(ran.measurements())
    page = opened.report(tmp_path / "report")
    assert page.name == "report.html"
    assert page.is_file()
    assert lb.report([ran, ran.path], tmp_path / "both", labels=["a", "b"]).files[0].is_file()
    with pytest.raises(ConfigError, match="2 runs needs a folder"):
        lb.report([ran, ran])
    lb.update_baseline(ran, tmp_path / "base.yaml", reason="first", who="me")
    verdict = lb.gate(ran, baseline=tmp_path / "base.yaml", require=["accuracy"])
    assert (verdict.of("accuracy"), verdict.exit_code) == ("held", 0)
    assert verdict.required == ("accuracy",)
    both = lb.gate(ran, baseline=tmp_path / "base.yaml", require=["memory", "accuracy"])
    assert both.required == ("accuracy", "memory")
    live = lb.gate(ran, against=[ran.path])
    assert (live.run, live.baseline, live.of("accuracy")) == (str(ran.path), str(ran.path), "held")
    with pytest.raises(ConfigError, match="one of the two"):
        lb.gate(ran)
    with pytest.raises(ConfigError, match="one of the two"):
        lb.gate(ran, baseline=tmp_path / "base.yaml", against=ran)
    for asked in (["precision"], ["accuracy", "precision"]):
        with pytest.raises(ConfigError, match="expected some of accuracy, speed, memory, found 'precision'"):
            lb.gate(ran, baseline=tmp_path / "base.yaml", require=asked)
    (unit,) = lb.compare(ran, ran.path).units
    assert {pair.difference for pair in unit.measurements if pair.difference is not None} == {0}
    with pytest.raises(StoreError, match="nowhere"):
        lb.open_run(tmp_path / "nowhere")
    with pytest.raises(StoreError, match=f"give one of: .*{ran.path.name}"):
        lb.open_run(ran.path.parent)
    assert lb.gate(ran, baseline=tmp_path / "base.yaml", require="accuracy").required == ("accuracy",)
    with pytest.raises(ConfigError, match="command: expected its words"):
        lb.check_wrapper("python wrap.py")
    with pytest.raises(ConfigError, match=r"nowhere\.py: no such file"):
        lb.load_plugins("nowhere.py")


def test_a_case_of_the_reference_holds() -> None:
    found = list(lb.verify(cases=["stream_short"]))
    assert found
    assert {comparison.verdict for comparison in found} == {"pass"}


def test_a_failed_unit_is_a_result(settings: dict[str, object], tmp_path: Path) -> None:
    run = lb.run(settings, set={"methods.0.trajectory": str(tmp_path / "none.txt")}, out=tmp_path)
    assert (run.outcome.done, run.outcome.failed, run.outcome.bad_input) == (0, 1, True)
    assert "none.txt" in str(run.results.failure(("synthetic", "room", "replay")))


def test_two_files_are_scored(tmp_path: Path) -> None:
    """An estimate of a line, 10 % too long and bent by a known amount at its end."""
    rows = [[t, t, 0.0, 0.1 * t * t, 0.0, 0.0, 0.0, 1.0] for t in range(6)]
    (tmp_path / "truth.txt").write_text("\n".join(" ".join(map(str, row)) for row in rows))
    for row in rows:
        row[1:4] = [2 * value + 3 for value in row[1:4]]
    (tmp_path / "mine.txt").write_text("\n".join(" ".join(map(str, row)) for row in rows))
    score = lb.score(lb.read_trajectory(tmp_path / "truth.txt"), lb.read_trajectory(tmp_path / "mine.txt"), align="se3")
    assert score["ate_rmse", "sim3"].value == pytest.approx(0, abs=1e-9)
    positions = np.array([[t, 0.0, 0.1 * t * t] for t in range(6)])
    spread = np.linalg.norm(positions - positions.mean(axis=0), axis=1)
    # Twice as large about its centre: each position is off by its own distance from there.
    assert score["ate_rmse"].value == pytest.approx(np.sqrt(np.mean(spread**2)))
    assert "SE(3)" in score["ate_rmse"].convention
    table = score.to_pandas()
    (found,) = table[(table["name"] == "ate_rmse") & (table["variant"] == "none")]["value"]
    moved = np.linalg.norm(positions + 3, axis=1)
    assert found == pytest.approx(np.sqrt(np.mean(moved**2)))
