"""The ``score`` command as a user meets it: text, JSON, exit codes, pictures, and evo's own figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lingbot_eval import plots
from lingbot_eval.cli.main import main
from lingbot_eval.errors import ConfigError
from lingbot_eval.files import trajectories
from lingbot_eval.files.trajectories import write_tum
from lingbot_eval.geometry.poses import pose_matrix
from lingbot_eval.metrics import scoring
from lingbot_eval.reports import figures as figures_module
from lingbot_eval.reports import scene_figures
from lingbot_eval.types import Trajectory
from tests.support.figure_reader import axes_titled, curve
from tests.support.pose_files import write_kitti

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


def test_text_is_a_dozen_lines(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert score(pair) == 0
    text = capsys.readouterr().out
    assert "15 of 15 estimate poses (100.0 %)" in text
    assert "within 0.01 s" in text
    assert "coverage   70.4 % of the reference duration" in text
    assert "140 of 200 reference poses" in text
    lines = text.splitlines()
    assert len(lines) <= 16
    shown = [line.split()[0] for line in lines if line.startswith(("ate_", "rpe_", "segment_", "auc_", "scale"))]
    assert shown == [
        "ate_rmse",
        "rpe_translation_rmse",
        "rpe_rotation_rmse",
        "segment_translation",
        "segment_rotation",
        "auc_30",
        "scale",
        "ate_rmse",
    ]
    assert lines[-1].endswith("measurements under every alignment, and what each means: --all")


def test_all_prints_every_measurement_with_its_meaning(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(pair, "--json") == 0
    measurements = document(capsys)["measurements"]
    assert score(pair, "--all") == 0
    text = capsys.readouterr().out
    rows = [words for line in text.splitlines() if (words := line.split())]
    assert [row[0] for row in rows].index("ate_rmse") < [row[:2] for row in rows].index(["ate_rmse", "se3"])
    for measured in measurements:
        variant = measured["variant"].split()
        assert any(row[: 1 + len(variant)] == [measured["name"], *variant] for row in rows)
        assert measured["convention"] in text or measured["name"] in ("ate_mean", "ate_median", "ate_max")
    lines = text.splitlines()
    spans = ["           reference from 0.000 to 1.990 s", "           estimate from 0.500 to 1.900 s"]
    assert lines[3:5] == spans
    told = lines.index("conventions (a frame is a pose of the estimate; matched: paired with a pose of the reference)")
    # Three are as the first, but for the statistic in their name.
    as_first = {"ate_mean", "ate_median", "ate_max"}
    assert lines[told + 1 :] == [
        f"  {measured['name']}{' ' * bool(measured['variant'])}{measured['variant']}: {measured['convention']}"
        for measured in measurements
        if measured["name"] not in as_first
    ]


@pytest.mark.parametrize("align", ["sim3", "se3", "anchor", "none"])
def test_align_moves_everything_that_can_move(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], align: str
) -> None:
    """The headline is that of the chosen alignment: the estimate is half as large as the truth, and elsewhere."""
    rows = np.loadtxt(pair[1])
    rows[:, 1:4] = 0.5 * rows[:, 1:4] + [5, 0, 0]
    np.savetxt(pair[1], rows)
    assert score(pair, "--align", align, "--json") == 0
    found = document(capsys)
    measured = values(found)
    first = found["measurements"][0]
    assert (first["name"], first["variant"]) == ("ate_rmse", align)
    assert score(pair, "--align", align) == 0
    printed = {line.split()[0]: line.split()[1:3] for line in reversed(capsys.readouterr().out.splitlines()) if line}
    for name in ("ate_rmse", "rpe_translation_rmse", "rpe_rotation_rmse", "segment_translation", "segment_rotation"):
        assert printed[name] == [align, f"{measured[name, align]:.6f}"]
    # What the estimate lacks in size is worth a line whatever is aligned.
    scaled = "anchor" if align == "anchor" else "sim3"
    assert printed["scale"] == [scaled, f"{measured['scale', scaled]:.6f}"]
    if align in ("se3", "none"):  # the own scale: every step is half of what it should be
        assert measured["segment_translation", align] > 40
    for name in ("ate_mean", "loop_gap", "jumps", "collapsed", "largest_step_error", "ate_share_of_path"):
        assert {m["variant"] for m in found["measurements"] if m["name"] == name} == {"sim3", "se3", "anchor", "none"}


def test_json(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert score(pair, "--align", "none", "--json") == 0
    found = document(capsys)
    assert found["measurements"][0]["name"] == "ate_rmse"
    assert found["measurements"][0]["variant"] == "none"
    noise = np.random.default_rng(1).normal(size=(15, 3)) * 0.1  # what the fixture moved the poses by
    assert values(found)["ate_rmse", "none"] == pytest.approx(np.sqrt(np.mean(np.sum(noise**2, axis=1))))
    assert values(found)["ate_max", "none"] == pytest.approx(np.linalg.norm(noise, axis=1).max())
    assert values(found)["ate_median", "none"] == pytest.approx(np.median(np.linalg.norm(noise, axis=1)))
    assert found["pairing"]["matched"] == 15
    assert found["pairing"]["reference_span_covered_percent"] == pytest.approx(100 * 1.4 / 1.99)
    assert values(found)["coverage", "matched"] == 100
    assert values(found)["coverage", "duration"] == pytest.approx(100 * 1.4 / 1.99)
    assert found["estimate_to_reference"] == np.eye(4).tolist()
    assert found["reason"] is None
    assert found["notes"] == []


@pytest.mark.parametrize("align", ["sim3", "anchor"])
def test_the_first_page_row_by_row(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], align: str) -> None:
    """Each number with its unit and samples, ATE under each alignment, and each reason with all that wants it."""
    np.savetxt(pair[1], np.loadtxt(pair[1])[:, :4])
    assert score(pair, "--align", align, "--json") == 0
    found = document(capsys)["measurements"]
    assert score(pair, "--align", align) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        f"reference  {pair[0]}  (tum, 200 poses, stamps in s)",
        f"estimate   {pair[1]}  (tum, 15 positions without orientation, stamps in s)",
        "matched    15 of 15 estimate poses (100.0 %), one to one by nearest timestamp within 0.01 s",
        "coverage   70.4 % of the reference duration lies in the estimate's span, with 140 of 200 reference poses",
    ]
    shown = {(m["name"], m["variant"]): m for m in found}
    names = ("rpe_translation_rmse", "rpe_rotation_rmse", "segment_translation", "segment_rotation")
    keys = [("ate_rmse", align), *((name, align) for name in names), ("auc_30", ""), ("scale", align)]
    rows = []
    for m in (shown[key] for key in keys):
        value = "n/a" if m["value"] is None else f"{m['value']:.6f}"
        samples = "" if m["samples"] is None else m["samples"]
        rows.append(f"{m['name']:<24} {m['variant']:<{len(align)}} {value:>14} {m['unit']:<6} {samples}".rstrip())
    begin = lines.index("") + 1
    assert lines[begin] == f"{'measurement':<24} {'variant':<{len(align)}} {'value':>14} unit   samples"
    assert lines[begin + 1 : begin + 8] == rows
    assert shown["ate_rmse", align]["samples"] == 15
    each = ", ".join(f"{name} {shown['ate_rmse', name]['value']:.4g}" for name in ("sim3", "se3", "anchor", "none"))
    by_alignment = lines[begin + 8]
    assert sorted(by_alignment.removeprefix("ate_rmse by alignment: ").removesuffix(" m").split(", ")) == sorted(
        each.split(", ")
    )
    wanting = [f"{name} {align}" for name in names] + ["auc_30"]
    reason = "the estimate has positions only: there is no orientation"
    assert [line for line in lines if line.startswith("n/a")] == [f"n/a: {reason} ({', '.join(wanting)})"]


def test_the_document_key_by_key(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Of a reference with a pose that is none, and an estimate at half the size and elsewhere."""
    truth, rows = np.loadtxt(pair[0]), np.loadtxt(pair[1])
    rows[:, 1:4] = 0.5 * truth[50::10, 1:4] + [5, 0, 0]
    np.savetxt(pair[1], rows)
    truth[3, 1:] = np.nan
    np.savetxt(pair[0], truth)
    assert score(pair, "--json") == 0
    found = document(capsys)
    facts = {"format": "tum", "time_unit": "s", "has_orientation": True, "repeated_stamps": 0}
    (note,) = found["reference"]["notes"]
    assert "1 of 200 poses" in note
    assert found["reference"] == {
        **facts,
        "file": str(pair[0]),
        "poses": 199,
        "lost_poses": 1,
        "notes": [note],
        "read_as": {},
    }
    assert found["estimate"] == {
        **facts,
        "file": str(pair[1]),
        "poses": 15,
        "lost_poses": 0,
        "notes": [],
        "read_as": {},
    }
    assert found["alignment"] == "sim3"
    # From the estimate's world to the reference's: twice as large, and 10 m back.
    moved = np.diag([2.0, 2, 2, 1])
    moved[0, 3] = -10
    np.testing.assert_allclose(found["estimate_to_reference"], moved, atol=1e-6)
    assert found["pairing"]["matched_percent_of_estimate_poses"] == 100
    assert found["reason"] is None
    # No pair of KITTI's has times, so nothing is covered.
    for path in pair:
        write_kitti(path, path_of(12))
    assert score(pair, "--align", "se3", "--json", format="kitti") == 0
    found = document(capsys)
    assert found["alignment"] == "se3"
    assert [found[role]["time_unit"] for role in ("reference", "estimate")] == [None, None]
    assert found["pairing"]["reference_span_covered_percent"] is None


@pytest.mark.parametrize(("align", "code"), [("none", 0), ("sim3", 1)])
def test_the_chosen_alignment_decides_whether_it_was_scored(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], align: str, code: int
) -> None:
    """An estimate that stands still can be held against the reference as it is, and be aligned in no way."""
    rows = np.loadtxt(pair[1])
    rows[:, 1:4] = 1.0
    np.savetxt(pair[1], rows)
    plots = ["--plot", str(tmp_path / "a.png"), "--drift-plot", str(tmp_path / "b.png")]
    assert score(pair, "--align", align, "--json", *plots[2:]) == code
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    reason = "degenerate covariance: the estimate does not move"
    assert found["reason"] == (reason if code else None)
    assert (found["estimate_to_reference"] is None) is bool(code)
    assert captured.err.splitlines() == [f"{tmp_path}/b.png is not drawn: {reason}"]
    if code:
        assert score(pair, "--align", align, *plots[:2]) == 1
        assert capsys.readouterr().err.splitlines() == [
            f"{pair[1]} is not drawn: there is nothing to show under sim3",
            f"{tmp_path}/a.png is not written",
        ]
    assert not list(tmp_path.glob("*.png"))


def test_an_estimate_that_cannot_be_drawn_leaves_the_others(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[tuple[Any, str]] = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append((figure, path.name)))
    short = tmp_path / "short.txt"
    short.write_text("\n".join(pair[1].read_text().splitlines()[:3]) + "\n")
    words = ["score", "--gt", str(pair[0]), "--est", str(short), str(pair[1]), "--without", "auc", "--json"]
    assert main([*words, "--plot", str(tmp_path / "a.png")]) == 1
    assert capsys.readouterr().err == f"{short} is not drawn: there is nothing to show under sim3\n"
    assert [name for _, name in drawn] == ["a.png"]
    # Drift was asked for: it is the poses that are too few.
    assert main([*words[:5], *words[6:], "--drift-plot", "d.png"]) == 1
    said = capsys.readouterr()
    assert said.err == f"d.png is not drawn: {json.loads(said.out)['reason']}\n"


def test_drift_is_drawn_of_the_estimate_along_its_frames(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[Any, Any]] = []
    titles: list[str] = []
    draw = figures_module.drift_figure
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append((figure, path)))
    monkeypatch.setattr(
        figures_module, "drift_figure", lambda series, title: titles.append(title) or draw(series, title)
    )
    target = tmp_path / "drift.png"
    assert score(pair, "--drift-plot", str(target), "--without", "auc") == 0
    ((figure, path),) = drawn
    assert path == target
    assert titles == ["est.txt against gt.txt"]
    (steps,) = axes_titled(figure, "Translation error of each step").lines
    assert steps.get_xdata().tolist() == list(range(1, 15))


@pytest.mark.parametrize(("option", "code"), [(("--max-diff", "0"), 0), (("--anchor-frames", "3"), 0)])
def test_the_least_that_an_option_takes(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], option: tuple[str, str], code: int
) -> None:
    rows = np.loadtxt(pair[1])
    rows[:, 0] -= 0.0005
    np.savetxt(pair[1], rows, fmt="%.9f")
    assert score(pair, *option, "--json") == code
    assert document(capsys)["pairing"]["matched"] == 15


def test_families_are_left_out(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert score(pair, "--without", "auc", "--without", "drift", "--json") == 0
    assert {m["family"] for m in document(capsys)["measurements"]} == {"trajectory"}
    assert score(pair, "--without", "auc") == 0
    text = capsys.readouterr().out
    assert "auc_30" not in text
    assert "segment_translation" in text
    assert score(pair, "--without", "drift", "--drift-plot", "x.png") == 0
    assert "drift is left out" in capsys.readouterr().err


def test_progress_of_long_pairs_is_shown_on_a_terminal_alone(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import lingbot_eval.cli.score_command as command

    command_limit = command.MANY_POSES
    monkeypatch.setattr(command, "MANY_POSES", 10)
    assert score(pair) == 0
    assert capsys.readouterr().err == ""
    seen: list[tuple[int, int]] = []

    class Bar:
        def __init__(self, **settings: object) -> None:
            assert settings["disable"] is None, "tqdm asks whether it is a terminal"
            self.total, self.n = 0, 0

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *error: object) -> None:
            return None

        def update(self, more: int) -> None:
            self.n += more
            seen.append((self.n, self.total))

    monkeypatch.setattr("tqdm.tqdm", Bar)
    assert command_limit == 20_000
    monkeypatch.setattr(command, "MANY_POSES", 15)
    assert score(pair) == 0
    assert not seen, "as many as that are quick"
    monkeypatch.setattr(command, "MANY_POSES", 14)
    assert score(pair) == 0
    assert seen[-1] == (2 * 105, 2 * 105), "15 poses have 105 pairs, under two definitions"
    assert len(seen) == 2 * 14
    seen.clear()
    assert score(pair, "--json") == 0
    assert not seen


def inverse_poses(path: Path) -> None:
    """The poses of a TUM file as world-to-camera poses."""
    rows = np.loadtxt(path)
    turns = Rotation.from_quat(rows[:, 4:]).inv()
    rows[:, 1:4] = -turns.apply(rows[:, 1:4])
    rows[:, 4:] = turns.as_quat()
    np.savetxt(path, rows)


def scalar_first(path: Path) -> None:
    rows = np.loadtxt(path)
    np.savetxt(path, rows[:, [0, 1, 2, 3, 7, 4, 5, 6]])


def opengl(path: Path) -> None:
    rows = np.loadtxt(path)
    rows[:, 4:] = (Rotation.from_quat(rows[:, 4:]) * Rotation.from_quat([1, 0, 0, 0])).as_quat()
    np.savetxt(path, rows)


@pytest.mark.parametrize(
    ("spoil", "option"),
    [
        (inverse_poses, ["poses", "world-to-camera"]),
        (scalar_first, ["quaternion", "wxyz"]),
        (opengl, ["to-camera", "opengl"]),
    ],
)
@pytest.mark.parametrize("side", ["est", "gt"])
def test_a_note_names_the_option_that_reads_the_poses_so(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], spoil: Any, option: list[str], side: str
) -> None:
    score(pair, "--json")
    right = values(document(capsys))
    spoil(pair[side == "est"])
    asked = f"--est-{option[0]} {option[1]}"
    assert score(pair) == 0
    text = capsys.readouterr().out
    if side == "est":
        assert f"{asked} (for saved poses in an experiment, {option[0].replace('-', '_')}: {option[1]})" in text
        assert score(pair, "--json") == 0
        (note,) = document(capsys)["notes"]
        assert note in text
    assert score(pair, f"--{side}-{option[0]}", option[1], "--json") == 0
    found = document(capsys)
    assert values(found) == pytest.approx(right, rel=1e-6, abs=1e-9)
    assert found["notes"] == []
    role = "estimate" if side == "est" else "reference"
    assert list(found[role]["read_as"]) == [option[0].replace("-", "_")]


def test_a_camera_in_a_body_comes_from_a_file_too(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score(pair, "--json")
    right = values(document(capsys))
    opengl(pair[1])
    camera = tmp_path / "camera.txt"
    camera.write_text("1 0 0 0\n0 -1 0 0\n0 0 -1 0\n0 0 0 1\n")
    for given in (str(camera), "0 0 0 1 0 0 0"):
        assert score(pair, "--est-to-camera", given, "--json") == 0
        assert values(document(capsys)) == pytest.approx(right, rel=1e-6, abs=1e-9)
    for wrong in ("nowhere.txt", "1 2 3"):
        assert score(pair, "--est-to-camera", wrong) == 2
        error = capsys.readouterr().err
        assert "expected opengl, 7 numbers" in error
        assert error.count("\n") == 1


def test_few_matches_are_noted(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.loadtxt(pair[1])
    rows[4:, 0] += 0.005  # between two stamps of the reference
    np.savetxt(pair[1], rows)
    assert score(pair, "--max-diff", "0.001", "--json") == 0
    found = document(capsys)
    assert values(found)["coverage", "matched"] == pytest.approx(100 * 4 / 15)
    assert found["notes"] == [
        "few poses match: 4 of 15 estimated and 200 reference poses are scored, and every number rests on these alone"
    ]
    assert score(pair, "--max-diff", "0.001") == 0
    text = capsys.readouterr().out
    assert "4 of 15 estimate poses (26.7 %)" in text
    assert "note       few poses match" in text


def test_a_short_estimate_is_noted(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.loadtxt(pair[0])
    np.savetxt(pair[1], rows[:60])
    assert score(pair, "--json") == 0
    assert document(capsys)["notes"] == [
        "the estimate covers 29.6 % of the reference's duration: the numbers say nothing of the rest"
    ]


NEED_ORIENTATION = ("rpe_", "auc_", "racc_", "tacc_", "segment_", "jumps", "largest_step", "collapse")


@pytest.mark.parametrize("columns", [4, 8])
@pytest.mark.parametrize("side", [0, 1])
def test_positions_have_no_rotation_errors(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], columns: int, side: int
) -> None:
    """Identity quaternions throughout, or none at all: positions are scored, orientation is nobody's."""
    score(pair, "--json")
    right = values(document(capsys))
    rows = np.loadtxt(pair[side])
    rows[:, 4:] = [0, 0, 0, 1]
    np.savetxt(pair[side], rows[:, :columns])
    assert score(pair, "--json") == 0
    measured = document(capsys)["measurements"]
    for m in measured:
        if m["name"].startswith(NEED_ORIENTATION):
            assert m["reason"], m
            assert "orientation" in m["reason"] or "anchors" in m["reason"]
        elif m["reason"] is None:
            assert m["value"] == pytest.approx(right[m["name"], m["variant"]], abs=1e-9)
    there = {m["name"] for m in measured if m["value"] is not None}
    assert there >= {"ate_rmse", "ate_max", "scale", "path_length", "anchored_final_error", "coverage"}


def test_positions_take_no_reading_of_orientation(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    np.savetxt(pair[1], np.loadtxt(pair[1])[:, :4])
    assert score(pair, "--est-poses", "world-to-camera") == 2
    error = capsys.readouterr().err
    assert "est.txt: --est-… poses: expected poses, found positions without orientation" in error
    assert score((pair[1], pair[0]), "--gt-poses", "world-to-camera") == 2
    assert "est.txt: --gt-… poses: expected poses" in capsys.readouterr().err
    assert score(pair, "--gt-to-camera", "1 2 3") == 2
    assert "--gt-…: to_camera: " in capsys.readouterr().err


def straight(step: float, count: int = 160) -> np.ndarray:
    """A path of ``count`` steps forward that winds a little, as matrices."""
    yaw = 0.6 * np.sin(np.arange(count) / 9)
    turns = Rotation.from_rotvec(yaw[:, None] * [0, 1.0, 0])
    return pose_matrix(turns.as_matrix(), np.cumsum(turns.apply([0, 0, step]), axis=0))


def test_segments_are_kittis_where_nothing_is_aligned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An estimate 5 % too long: 5 % of the straight line between the ends of each segment, and nothing after Sim(3)."""
    truth = straight(1.0)
    write_kitti(tmp_path / "gt.txt", truth)
    long = truth.copy()
    long[:, :3, 3] *= 1.05
    write_kitti(tmp_path / "est.txt", long)
    assert score((tmp_path / "gt.txt", tmp_path / "est.txt"), "--align", "none", "--json", format="kitti") == 0
    found = document(capsys)
    expected = []
    for first in range(0, 160, 10):
        for length in (10, 20, 30, 40, 50, 60, 70, 80):
            if (last := first + length + 1) < 160:  # the first pose that lies more than the length further along
                expected.append(5 * np.linalg.norm(truth[last, :3, 3] - truth[first, :3, 3]) / length)
    measured = values(found)
    assert measured["segment_translation", "none"] == pytest.approx(np.mean(expected))
    assert measured["segment_translation", "se3"] == pytest.approx(np.mean(expected))
    assert measured["segment_translation", "sim3"] == pytest.approx(0, abs=1e-9)
    (segments,) = [m for m in found["measurements"] if (m["name"], m["variant"]) == ("segment_translation", "none")]
    assert segments["samples"] == len(expected)
    assert "without alignment" in segments["convention"]
    assert score((tmp_path / "gt.txt", tmp_path / "est.txt"), format="kitti") == 0
    assert f"{len(expected)} segments of 10 to 80 m" in capsys.readouterr().out


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
        assert "2 of 9 estimate poses" in text


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (("--max-diff", "-1"), "--max-diff"),
        (("--max-diff", "nan"), "--max-diff: expected seconds, 0 or more, found nan"),
        (("--max-diff", "inf"), "--max-diff: expected seconds, 0 or more, found inf"),
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


def drawn_figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures, as they are written from now on."""
    drawn: list[Any] = []
    save = plots.save
    monkeypatch.setattr(plots, "save", lambda figure, path: (drawn.append(figure), save(figure, path)))
    return drawn


@pytest.mark.usefixtures("painted_pictures")
def test_picture(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    drawn = drawn_figures(monkeypatch)
    target = tmp_path / "plot.png"
    assert score(pair, "--align", "anchor", "--plot", str(target), "--json") == 0
    (figure,) = drawn
    error = axes_titled(figure, "Distance to the reference along the estimate").lines[0].get_ydata()
    assert np.sqrt(np.mean(np.square(error))) == pytest.approx(values(document(capsys))["ate_rmse", "anchor"])
    path = figure.axes[0]
    apart = curve(path, "estimate, aligned on its first poses") - curve(path, "ground truth")
    assert (np.linalg.norm(apart, axis=1) <= np.asarray(error) + 1e-9).all()
    (pieces,) = path.collections
    worse = np.maximum(error[:-1], error[1:])
    np.testing.assert_allclose(pieces.get_array(), worse, err_msg="colours are the errors")
    assert pieces.norm.vmax == pytest.approx(np.percentile(error, 98))
    with Image.open(target) as image:
        colours = np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)
        assert image.width > 800
    assert len(colours) > 20, "something is drawn"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["est.txt", "gt.txt", "plot.png"]


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_several_estimates_are_scored_and_drawn_beside_each_other(
    pair: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ending: str,
) -> None:
    drawn = drawn_figures(monkeypatch)
    other, target = tmp_path / "other" / pair[1].name, tmp_path / f"plot.{ending}"
    other.parent.mkdir()
    lines = pair[1].read_text().splitlines()[1:]
    other.write_text("\n".join(lines[::2]) + "\n")
    words = ["score", "--gt", str(pair[0]), "--est", str(pair[1]), str(other)]
    assert main([*words, "--plot", str(target), "--json", "--without", "auc"]) == 0
    first, second = json.loads(capsys.readouterr().out)["estimates"]
    assert first["estimate"]["poses"] > second["estimate"]["poses"] == len(lines[::2])
    assert target.stat().st_size > 5000
    # Of one name, as all estimates of a run are: folders tell them apart.
    titles = [axes.get_title(loc="left") for axes in drawn[0].axes[:2]]
    places = [f"{tmp_path.name}/{other.name}"[:47], f"other/{other.name}"]
    assert all(title.startswith(place) for title, place in zip(titles, places, strict=True)), titles
    assert main([*words, "--without", "auc"]) == 0
    assert capsys.readouterr().out.count("ate_rmse by alignment") == 2
    # One of them that cannot be scored is enough for 1, wherever it stands.
    short = tmp_path / "short.txt"
    short.write_text("\n".join(lines[:2]) + "\n")
    for estimates in ((pair[1], short), (short, pair[1]), (short, short)):
        given = ["score", "--gt", str(pair[0]), "--est", *map(str, estimates), "--without", "auc", "--json"]
        assert main(given) == 1
        assert len(json.loads(capsys.readouterr().out)["estimates"]) == 2
    assert main([*words, "--drift-plot", str(target)]) == 2
    assert "draws one estimate, found 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (("a/desk/est.txt", "b/desk/est.txt"), ["a/desk/est.txt", "b/desk/est.txt"]),
        (("est.txt", "b/desk/est.txt", "b/est.txt"), ["est.txt", "desk/est.txt", "b/est.txt"]),
        (("est.txt", "est.txt"), ["est.txt", "est.txt"]),
    ],
)
def test_as_many_folders_as_tell_them_apart_name_the_estimates_in_a_picture(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...], names: list[str]
) -> None:
    """The outermost one, too; one file given twice has one name."""
    monkeypatch.chdir(pair[0].parent)
    drawn: list[Any] = []
    monkeypatch.setattr(scene_figures, "trajectory_figure", lambda paths, title, **how: drawn.append((paths, title)))
    monkeypatch.setattr(plots, "save", lambda figure, path: None)
    for file in files:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_bytes(pair[1].read_bytes() + b"9000 1 2 3 0 0 0 1\n")
    words = ["--plot", "a.png", "--without", "auc", "--without", "drift", "--json"]
    assert main(["score", "--gt", "gt.txt", "--est", *files, *words]) == 0
    ((paths, title),) = drawn
    assert [name for name, _ in paths] == names
    # The last pose has none in the reference that it could be off.
    assert all(np.isnan(path.error).tolist() == 15 * [False] + [True] for _, path in paths)
    assert title == f"{', '.join(names)} against gt.txt"


def test_every_option_is_handed_on(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[tuple[Any, ...]] = []
    scored: list[dict[str, Any]] = []
    whole = trajectories.read_trajectory

    def read(path: Path, format: str = "auto", **given: Any) -> Any:
        files.append((path, format, given))
        return whole(path, "tum")

    def reached(reference: Any, estimate: Any, **given: Any) -> None:
        scored.append({"reference": reference.path, "estimate": estimate.path, **given})
        raise ConfigError("as far as this")

    monkeypatch.setattr(trajectories, "read_trajectory", read)
    monkeypatch.setattr(scoring, "score", reached)
    words = ["--max-diff", "0.5", "--anchor-frames", "5", "--align", "se3", "--without", "auc", "--without", "drift"]
    words += ["--gt-format", "kitti", "--time-scale", "0.25", "--time-offset", "-3"]
    assert score(pair, *words, format="euroc") == 2
    assert score(pair, format="auto") == 2
    timed = {"time_scale": 0.25, "time_offset": -3.0}
    untimed = {"time_scale": None, "time_offset": 0.0}
    assert files == [
        (pair[0], "kitti", {}),
        (pair[1], "euroc", timed),
        (pair[0], "auto", {}),
        (pair[1], "auto", untimed),
    ]
    both = {"reference": pair[0], "estimate": pair[1], "progress": None}
    assert scored == [
        {**both, "align": "se3", "anchor_frames": 5, "max_difference": 0.5, "without": ["auc", "drift"]},
        {**both, "align": "sim3", "anchor_frames": 8, "max_difference": 0.01, "without": []},
    ]


def test_one_estimate_that_cannot_be_scored_is_a_no(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = pair[1].read_text().splitlines()
    (tmp_path / "short.txt").write_text("\n".join(lines[:3]) + "\n")
    words = ["score", "--gt", str(pair[0]), "--est", str(pair[1]), str(tmp_path / "short.txt")]
    assert main(words) == 1
    assert main([*words, "--json"]) == 1
    documents = json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))["estimates"]
    assert [found["reason"] is None for found in documents] == [True, False]


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
    assert score(pair, "--json", "--max-diff", "0.02") == 0
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


@pytest.mark.parametrize(("seconds", "says"), [(0.0, False), (1.0, True), (-0.7, True)])
def test_a_clock_that_is_off_by_whole_intervals_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seconds: float, says: bool
) -> None:
    """Both at 10 Hz over 8 s: stamps pair as well when they are off by ten frames; only the path tells."""
    time = np.arange(80) / 10
    truth = pose_matrix(np.eye(3), np.stack([np.sin(time), np.cos(0.7 * time), 0.3 * time], axis=1))
    guess = truth.copy()
    guess[:, :3, 3] += 0.002 * np.random.default_rng(0).normal(size=(80, 3))
    write_tum(tmp_path / "gt.txt", Trajectory(np.arange(80), time, truth))
    write_tum(tmp_path / "est.txt", Trajectory(np.arange(80), time + seconds, guess))
    pair = tmp_path / "gt.txt", tmp_path / "est.txt"
    assert score(pair, "--json") == 0
    found = [note for note in document(capsys)["notes"] if "clocks" in note]
    assert len(found) == says
    if says:
        assert "if they begin together (80 pairs), ATE would be 0.00" in found[0]
        assert f"--time-offset {-seconds:g} (" in found[0]
        assert score(pair, "--json", f"--time-offset={-seconds}") == 0
        assert not [note for note in document(capsys)["notes"] if "clocks" in note]


@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.parametrize("begin", [0.0, 30.0])
def test_a_clock_at_half_or_twice_the_rate_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], factor: float, begin: float
) -> None:
    time = begin + np.arange(200) / 10
    truth = pose_matrix(np.eye(3), np.stack([np.sin(time), np.cos(0.7 * time), 0.3 * time], axis=1))
    guess = truth.copy()
    guess[:, :3, 3] += 0.002 * np.random.default_rng(0).normal(size=(200, 3))
    pair = tmp_path / "gt.txt", tmp_path / "est.txt"
    write_tum(pair[0], Trajectory(np.arange(200), time, truth))
    write_tum(pair[1], Trajectory(np.arange(200), begin + (time - begin) / factor, guess))
    assert score(pair, "--json") == 0
    (found,) = [note for note in document(capsys)["notes"] if "clocks" in note]
    assert f"{1 / factor:g} times the rate" in found
    options = found.partition("; ")[2].partition(" (in")[0].split()
    assert options[:2] == ["--time-scale", f"{factor:g}"]
    assert score(pair, "--json", *(f"{a}={b}" for a, b in zip(options[::2], options[1::2], strict=True))) == 0
    assert not [note for note in document(capsys)["notes"] if "clocks" in note]


def test_poses_of_one_time_are_scored_as_evo_scores_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of V102 of evo's test data 4 times come twice, with another pose each: 0.083841 m over 798 pairs."""
    from evo.core import metrics, sync
    from evo.tools import file_interface

    truth, time = path_of(120), np.arange(120) / 20
    guess = truth[::2].copy()
    guess[:, :3, 3] += 0.1 * np.random.default_rng(0).normal(size=(60, 3))
    files = tmp_path / "gt.txt", tmp_path / "est.txt"
    write_tum(files[0], Trajectory(np.arange(120), time, truth))
    write_tum(files[1], Trajectory(np.arange(60), time[::2], guess))
    lines = files[1].read_text().splitlines()
    words = lines[20].split()
    other = " ".join([words[0], str(float(words[1]) + 0.5), *words[2:]])
    files[1].write_text("\n".join([*lines[:21], other, lines[20], *lines[21:]]) + "\n")  # one other pose, one again
    assert score(files, "--json") == 0
    found = document(capsys)
    assert found["pairing"]["matched"] == 61
    assert any("1 of the 61 scored poses are others of a time" in note for note in found["notes"])
    files[1].write_text("\n".join([*lines[:21], other, *lines[21:]]) + "\n")
    theirs = sync.associate_trajectories(*(file_interface.read_tum_trajectory_file(str(file)) for file in files))
    theirs[1].align(theirs[0], correct_scale=True)
    error = metrics.APE(metrics.PoseRelation.translation_part)
    error.process_data(theirs)
    expected = error.get_statistic(metrics.StatisticsType.rmse)
    assert values(found)["ate_rmse", "sim3"] == pytest.approx(expected, rel=1e-6)
    files[0].write_text(files[1].read_text())  # of a reference's poses of one time the first is taken
    assert score(files, "--json") == 0
    assert document(capsys)["pairing"]["reference_poses"] == 60


def test_every_note_is_printed_that_the_document_has(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the file, whose rows are lost and come twice, and of the numbers, which rest on few poses of a short time."""
    lines = [line for line in pair[1].read_text().splitlines() if not line.startswith("#")]
    lost = f"{float(lines[4].split()[0]) + 0.05} nan nan nan nan nan nan nan"
    pair[1].write_text("\n".join([*lines[:3], lines[2], *lines[3:5], lost]) + "\n")
    assert score(pair, "--json") == 0
    found = document(capsys)
    assert score(pair) == 0
    printed = capsys.readouterr().out.splitlines()
    for notes in (found["estimate"]["notes"], found["notes"]):
        assert len(notes) > 1
        assert [line for line in printed if line in {f"note       {note}" for note in notes}] == [
            f"note       {note}" for note in notes
        ]
