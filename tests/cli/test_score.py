"""The ``score`` command as a user meets it: text, JSON, exit codes, pictures, and evo's own figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lingbot_eval.cli.main import main
from lingbot_eval.formats.trajectories import write_kitti, write_tum
from lingbot_eval.geometry.poses import pose_matrix
from lingbot_eval.types import Trajectory

FIGURES = json.loads((Path(__file__).parents[1] / "data" / "metrics_figures.json").read_text())
REAL = Path(__file__).parents[3] / "shared" / "data" / "trajectories"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real trajectories are not beside this checkout")

# evo_ape / evo_rpe (1.38) tum GT EST -as --t_max_diff 0.02: ATE rmse, mean, median, max; RPE translation, rotation
FREIBURG = {
    "rgbdslam": (786, 788, (0.013394, 0.011993, 0.011125, 0.034810), 0.005800, 0.352827),
    "rgbdslam_drift": (786, 788, (0.013394, 0.011993, 0.011125, 0.034810), 0.005800, 0.352828),
    "ORB_kf_mono": (32, 32, (0.009755, 0.008219, 0.007909, 0.027924), 0.013835, 0.884849),
}


def path_of(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    turns = Rotation.from_rotvec(np.cumsum(0.05 * rng.normal(size=(count, 3)), axis=0))
    return pose_matrix(turns.as_matrix(), np.cumsum(rng.normal(size=(count, 3)), axis=0))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A reference at 100 Hz over 2 s; every tenth pose of it from 0.5 s on, disturbed and half a millisecond late."""
    truth = path_of(200)
    estimate = truth[50::10].copy()
    estimate[:, :3, 3] += np.random.default_rng(1).normal(size=(15, 3)) * 0.1
    stamps = np.arange(200) / 100
    write_tum(tmp_path / "gt.txt", Trajectory(np.arange(200), stamps, truth))
    write_tum(tmp_path / "est.txt", Trajectory(np.arange(15), stamps[50::10] + 0.0005, estimate))
    return tmp_path / "gt.txt", tmp_path / "est.txt"


def score(pair: tuple[Path, Path], *more: str, format: str = "tum") -> int:
    return main(["score", "--gt", str(pair[0]), "--est", str(pair[1]), "--format", format, *more])


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def values(found: dict[str, Any]) -> dict[tuple[str, str], float]:
    return {(m["name"], m["variant"]): m["value"] for m in found["measurements"] if m["value"] is not None}


def test_text(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert score(pair) == 0
    text = capsys.readouterr().out
    assert "15 of 15 estimate poses (100.0 %)" in text
    assert "within 0.02 s" in text
    assert "140 of 200 reference poses" in text
    rows = [line.split()[:2] for line in text.splitlines()]
    assert rows.index(["ate_rmse", "sim3"]) < rows.index(["ate_rmse", "se3"]), "the chosen alignment comes first"
    assert "Sim(3) Umeyama" in text


def test_json(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert score(pair, "--align", "none", "--json") == 0
    found = document(capsys)
    assert found["measurements"][0]["name"] == "ate_rmse"
    assert found["measurements"][0]["variant"] == "none"
    moved = 0.1 * np.random.default_rng(1).normal(size=(15, 3))  # as the fixture disturbs them
    assert found["measurements"][0]["value"] == pytest.approx(np.sqrt(np.mean(np.sum(moved**2, axis=1))), rel=1e-6)
    assert found["pairing"]["matched"] == 15
    # From 0.5005 s to 1.9005 s of 0 to 1.99 s.
    assert found["pairing"]["reference_span_covered_percent"] == pytest.approx(100 * 1.4 / 1.99, rel=1e-6)
    assert found["estimate_to_reference"] == np.eye(4).tolist()
    assert found["reason"] is None


def test_kitti_and_unequal_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_kitti(tmp_path / "gt.txt", path_of(30))
    write_kitti(tmp_path / "est.txt", path_of(30))
    pair = tmp_path / "gt.txt", tmp_path / "est.txt"
    assert score(pair, "--json", format="kitti") == 0
    assert values(document(capsys))["ate_rmse", "sim3"] == pytest.approx(0, abs=1e-9)
    write_kitti(tmp_path / "est.txt", path_of(29))
    assert score(pair, format="kitti") == 2
    error = capsys.readouterr().err
    assert "30 poses" in error
    assert "29" in error
    assert error.count("\n") == 1


def test_reference_in_another_format(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The same reference as EuRoC CSV: scalar first, nanoseconds."""
    rows = np.loadtxt(pair[0])
    csv = pair[0].with_suffix(".csv")
    lines = [
        ",".join([str(round(row[0] * 1e9)), *(repr(float(x)) for x in (*row[1:4], row[7], *row[4:7]))]) for row in rows
    ]
    csv.write_text("#header\n" + "\n".join(lines) + "\n")
    score(pair, "--json")
    expected = values(document(capsys))
    assert score((csv, pair[1]), "--gt-format", "euroc", "--json") == 0
    assert values(document(capsys)) == pytest.approx(expected, rel=1e-9)
    write_kitti(pair[0], path_of(15))
    assert score(pair, "--gt-format", "kitti") == 2
    assert "one has timestamps" in capsys.readouterr().err


@pytest.mark.parametrize("as_json", [False, True])
def test_unscorable_prints_the_reason_and_exits_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    write_tum(tmp_path / "gt.txt", Trajectory(np.arange(9), np.arange(9.0), path_of(9)))
    write_tum(tmp_path / "est.txt", Trajectory(np.arange(9), np.arange(9.0) + 7, path_of(9)))
    assert score((tmp_path / "gt.txt", tmp_path / "est.txt"), *(["--json"] if as_json else [])) == 1
    text = capsys.readouterr().out
    assert "only 2 matched frames" in text
    if as_json:
        found = json.loads(text)
        assert found["measurements"][0]["value"] is None
        assert found["estimate_to_reference"] is None
    else:
        assert "reference from 0.000 to 8.000 s" in text


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (("--max-diff", "-1"), "--max-diff"),
        (("--max-diff", "nan"), "--max-diff"),
        (("--anchor-frames", "2"), "--anchor-frames"),
        (("--plot", "picture.gif"), ".png"),
    ],
)
def test_wrong_options_exit_2_with_one_line(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], more: tuple[str, ...], part: str
) -> None:
    assert score(pair, *more) == 2
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1


def test_malformed_and_missing_files_exit_2(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    with pair[1].open("a") as stream:
        stream.write("9 1 2\n")
    assert score(pair) == 2
    assert "est.txt:17: expected" in capsys.readouterr().err
    pair[1].unlink()
    assert score(pair, "--json") == 2
    captured = capsys.readouterr()
    assert "does not exist" in captured.err
    assert json.loads(captured.out)["kind"] == "DataError"


def test_picture(pair: tuple[Path, Path], tmp_path: Path) -> None:
    from PIL import Image

    target = tmp_path / "plot.png"
    assert score(pair, "--align", "anchor", "--plot", str(target)) == 0
    with Image.open(target) as image:
        colours = np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)
        assert image.width > 1000
    assert len(colours) > 20, "something is drawn"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["est.txt", "gt.txt", "plot.png"]


@needs_real
def test_kitti_reference_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert score((REAL / "KITTI_00_gt.txt", REAL / "KITTI_00_ORB.txt"), "--json", format="kitti") == 0
    found = document(capsys)
    figures = FIGURES["kitti00_orb"]
    assert values(found)["ate_rmse", "sim3"] == pytest.approx(figures["ate"], rel=1e-6)
    assert values(found)["rpe_translation_rmse", "sim3"] == pytest.approx(figures["rpe_trans"], rel=1e-4)
    assert values(found)["rpe_rotation_rmse", "sim3"] == pytest.approx(figures["rpe_rot"], rel=1e-4)
    np.testing.assert_allclose(found["estimate_to_reference"], figures["alignment"], rtol=1e-6, atol=1e-9)


@needs_real
@pytest.mark.parametrize("name", FREIBURG)
def test_freiburg_as_evo_has_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    matched, poses, absolute, translation, rotation = FREIBURG[name]
    pair = REAL / "freiburg1_xyz-groundtruth.txt", REAL / f"freiburg1_xyz-{name}.txt"
    assert score(pair, "--json") == 0
    found = document(capsys)
    assert (found["pairing"]["matched"], found["pairing"]["estimate_poses"]) == (matched, poses)
    measured = values(found)
    for statistic, expected in zip(("rmse", "mean", "median", "max"), absolute, strict=True):
        assert measured[f"ate_{statistic}", "sim3"] == pytest.approx(expected, abs=6e-7)
    assert measured["rpe_translation_rmse", "sim3"] == pytest.approx(translation, abs=6e-7)
    assert measured["rpe_rotation_rmse", "sim3"] == pytest.approx(rotation, abs=6e-7)


@pytest.mark.parametrize(("alignment", "scale"), [("sim3", True), ("se3", False)])
def test_made_up_files_as_evo_has_them(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], alignment: str, scale: bool
) -> None:
    """evo's own reading, association, alignment and statistics (evo_ape, evo_rpe tum GT EST -a [-s])."""
    from evo.core import metrics, sync
    from evo.tools import file_interface

    assert score(pair, "--align", alignment, "--json") == 0
    found = document(capsys)
    measured = values(found)
    reference, estimate = sync.associate_trajectories(
        *(file_interface.read_tum_trajectory_file(str(path)) for path in pair), max_diff=0.02
    )
    estimate.align(reference, correct_scale=scale)
    absolute = metrics.APE(metrics.PoseRelation.translation_part)
    absolute.process_data((reference, estimate))
    for statistic in ("rmse", "mean", "median", "max"):
        expected = absolute.get_statistic(metrics.StatisticsType[statistic])
        assert measured[f"ate_{statistic}", alignment] == pytest.approx(expected, rel=1e-6)
    for name, relation in (
        ("rpe_translation_rmse", metrics.PoseRelation.translation_part),
        ("rpe_rotation_rmse", metrics.PoseRelation.rotation_angle_deg),
    ):
        error = metrics.RPE(relation, delta=1, delta_unit=metrics.Unit.frames)
        error.process_data((reference, estimate))
        expected = error.get_statistic(metrics.StatisticsType.rmse)
        assert measured[name, alignment] == pytest.approx(expected, rel=1e-6)
