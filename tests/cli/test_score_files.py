"""``score`` on the files that people have: what it took them for, what it left out, and what it refuses in one line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lingbot_eval.cli.main import main
from lingbot_eval.cli.score_command import _FORMATS
from lingbot_eval.files.trajectories import FORMATS, write_tum
from lingbot_eval.geometry.poses import pose_matrix
from lingbot_eval.types import Trajectory

START = 1_400_000_000
COUNT = 40


def poses(noise: float = 0.0) -> np.ndarray:
    """A circle of 5 m that looks inwards and bobs."""
    angle = np.arange(COUNT) * 0.125
    turns = Rotation.from_euler("zx", np.stack([angle, 0.2 * np.sin(angle)], axis=1))
    places = np.stack([5 * np.cos(angle), 5 * np.sin(angle), np.sin(2 * angle)], axis=1)
    return pose_matrix(turns.as_matrix(), places + noise * np.random.default_rng(0).normal(size=(COUNT, 3)))


def rows(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines() if not line.startswith("#")]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    stamps = START + 0.5 * np.arange(COUNT)
    for name, noise in (("gt.txt", 0.0), ("est.txt", 0.01)):
        write_tum(tmp_path / name, Trajectory(np.arange(COUNT), stamps, poses(noise)))
    return tmp_path / "gt.txt", tmp_path / "est.txt"


def scored(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert main(["score", "--gt", str(pair[0]), "--est", str(pair[1]), "--json", *more]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def ate(found: dict[str, Any]) -> float:
    (value,) = [m["value"] for m in found["measurements"] if (m["name"], m["variant"]) == ("ate_rmse", "sim3")]
    return float(value)


def refused(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert main(["score", "--gt", str(pair[0]), "--est", str(pair[1]), *more]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_the_command_offers_the_readers_formats() -> None:
    assert _FORMATS == FORMATS


def test_it_says_what_it_took(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    expected = ate(scored(pair, capsys))
    euroc = [
        f"{START * 10**9 + 500_000_000 * i},{','.join([*r[1:4], r[7], *r[4:7]])}," for i, r in enumerate(rows(pair[1]))
    ]
    pair[1].write_bytes(gzip.compress("\n".join(euroc).encode()))
    found = scored(pair, capsys)
    assert (found["reference"]["format"], found["reference"]["time_unit"]) == ("tum", "s")
    assert (found["estimate"]["format"], found["estimate"]["time_unit"]) == ("euroc", "ns")
    assert found["reference"]["notes"] == found["estimate"]["notes"] == []
    assert ate(found) == pytest.approx(expected, rel=1e-12)
    assert main(["score", "--gt", str(pair[0]), "--est", str(pair[1])]) == 0
    assert "(euroc, 40 poses, stamps in ns)" in capsys.readouterr().out


def repeat(table: list[list[str]]) -> None:
    table.insert(12, [table[11][0], "9", "9", "9", "0", "0", "0", "1"])
    table.insert(30, list(table[29]))


def lose(table: list[list[str]]) -> None:
    table[5][1:] = ["nan"] * 7
    table[9][4:] = ["0"] * 4


@pytest.mark.parametrize(("which", "role"), [(0, "reference"), (1, "estimate")])
@pytest.mark.parametrize(
    ("change", "key", "matched", "says"),
    [(repeat, "repeated_stamps", 40, "2 of 42 poses"), (lose, "lost_poses", 38, "2 of 40 poses")],
)
def test_rows_that_are_left_out_are_counted_and_said(
    pair: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    change: Callable[[list[list[str]]], None],
    key: str,
    matched: int,
    says: str,
    which: int,
    role: str,
) -> None:
    expected = ate(scored(pair, capsys))
    table = rows(pair[which])
    change(table)
    pair[which].write_text("\n".join(" ".join(row) for row in table))
    found = scored(pair, capsys)
    # Of a reference the first row of a time is taken; of an estimate another pose of that time is scored, too.
    other = change is repeat and role == "estimate"
    assert (found[role][key], found["pairing"]["matched"]) == (2, matched + other)
    assert says in found[role]["notes"][0]
    if other:
        assert ate(found) > 3 * expected
    else:
        assert ate(found) == pytest.approx(expected, rel=1e-12 if change is repeat else 0.1)
    assert main(["score", "--gt", str(pair[0]), "--est", str(pair[1])]) == 0
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(("format", "unit"), [("tum", 10**9), ("auto", 10**9), ("auto", 10**6), ("auto", 10**3)])
def test_another_clock_is_refused_with_the_option_that_reads_it(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], format: str, unit: int
) -> None:
    expected = ate(scored(pair, capsys))
    stamps = [START * unit + i * unit // 2 for i in range(COUNT)]
    pair[1].write_text("\n".join(" ".join([str(s), *r[1:]]) for s, r in zip(stamps, rows(pair[1]), strict=True)))
    said = refused(pair, capsys, "--format", format)
    for part in ("from 1400000000.000 to 1400000019.500 s", "factor", f"--time-scale {1 / unit:g}"):
        assert part in said
    assert ate(scored(pair, capsys, "--time-scale", f"{1 / unit:g}")) == pytest.approx(expected, rel=1e-12)


def test_a_clock_that_begins_with_the_recording(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    expected = ate(scored(pair, capsys))
    pair[1].write_text("\n".join(" ".join([str(0.5 * i), *r[1:]]) for i, r in enumerate(rows(pair[1]))))
    assert f"--time-offset {START}" in refused(pair, capsys)
    assert ate(scored(pair, capsys, "--time-offset", str(START))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shift", [0, 400])
@pytest.mark.parametrize("unit", ["s", "ns"])
def test_columns_of_euroc_in_seconds(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], unit: str, shift: int
) -> None:
    """Sampled 0.2 s later nothing pairs, whatever the unit: a unit believed by the format's name paired them all."""
    expected = ate(scored(pair, capsys))
    for path, late in ((pair[0], 0), (pair[1], shift // 2)):
        lines = ["#timestamp,x,y,z,qw,qx,qy,qz"]
        for i, r in enumerate(rows(path)):
            ms = START * 1000 + 500 * i + late
            stamp = f"{ms // 1000}.{ms % 1000:03d}" if unit == "s" else str(ms * 10**6)
            lines.append(",".join([stamp, *r[1:4], r[7], *r[4:7]]))
        path.write_text("\n".join(lines))
    if not shift:
        found = scored(pair, capsys, "--format", "euroc")
        assert ate(found) == pytest.approx(expected, rel=1e-12)
        assert bool(found["reference"]["notes"]) == (unit == "s")
        return
    said = refused(pair, capsys, "--format", "euroc")
    assert "none of 40 poses" in said
    assert "nearest stamps are 0.2 s apart" in said
    assert ("stamps of gt.txt are read as s (nanoseconds have no fractions)" in said) == (unit == "s")


def test_positions_alone_say_so(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    pair[1].write_text("\n".join(" ".join(row[:4]) for row in rows(pair[1])))
    found = scored(pair, capsys)
    assert not found["estimate"]["has_orientation"]
    assert found["reference"]["has_orientation"]
    assert ate(found) < 0.03


def test_the_factor_that_pairs_is_named_where_the_unit_of_stamps_misleads(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Seconds from 1000 on as nanoseconds look like a date in milliseconds."""
    for path in pair:
        path.write_text("\n".join(" ".join([f"{1000 + i / 2:.4f}", *row[1:]]) for i, row in enumerate(rows(path))))
    nanoseconds = [" ".join([str(10**12 + i * 5 * 10**8), *row[1:]]) for i, row in enumerate(rows(pair[1]))]
    pair[1].write_text("\n".join(nanoseconds))
    assert "--time-scale 1e-09" in refused(pair, capsys)
