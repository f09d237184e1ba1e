"""From an experiment file to the numbers that a reader sees, on a walk whose every value is known beforehand.

The expected values are closed forms (the alignment, see tests/support/walker.py) or the definitions of
docs and conventions written out once more, one pair of frames at a time.
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from scipy.stats import spearmanr

import lingbot_eval
from lingbot_eval import plots
from lingbot_eval.cli.main import main
from lingbot_eval.reports.drawing import unit_figures
from lingbot_eval.reports.reading import open_run
from lingbot_eval.stored.records import RunRecord, read_record, write_record
from lingbot_eval.tables import number_text
from tests.support import walker
from tests.support.figure_reader import axes_titled, curve, curves, layers, pictures
from tests.support.walker import (
    BANDS,
    EARLY_END,
    FRAMES,
    GAIN,
    HEIGHT_ERROR,
    POSITIONS,
    RATIOS,
    SCALE_FRAMES,
    SCENE,
    STEP_MS,
    TOO_FAR,
    WIDTH,
    WORSE,
    YAW,
    YAW_ERROR_DEG,
)

Key = tuple[str, str, str]  # family, name, variant

pytestmark = pytest.mark.usefixtures("painted_pictures")

WALKER = Path(walker.__file__)
BROKEN_LINE = WALKER.read_text(encoding="utf-8").split("the walker lost its way")[0].count("\n") + 1
LOST = f"ArithmeticError: the walker lost its way ({WALKER.name}:{BROKEN_LINE})"  # of others' code the place is told
MEASURED = 12  # of the clock or of this process: no value of them is known beforehand
METHODS = {
    "whole": {},
    "early": {"does": "stops_early"},
    "silent": {"does": "no_cost"},
    "patchy": {"does": "some_cost"},
    "broken": {"does": "breaks", "while_there": "FLAG"},
}


@dataclass(frozen=True)
class Walk:
    """A run that failed in one unit, as it stood then, and the same run after it was gone on with.

    first, then: run.json and result.json by method. codes: what both commands returned. printed: by the first.
    """

    folder: Path
    first: dict[str, dict[str, Any]]
    then: dict[str, dict[str, Any]]
    codes: tuple[int, int]
    report: Path

    def values(self, method: str) -> dict[Key, float | None]:
        """Of the run that was gone on with."""
        return {(m["family"], m["name"], m["variant"]): m["value"] for m in self.then[method]["measurements"]}

    def reasons(self, method: str) -> dict[Key, str]:
        """Why there is no value, where there is none."""
        found = self.then[method]["measurements"]
        return {(m["family"], m["name"], m["variant"]): m["reason"] for m in found if m["value"] is None}


def stored(folder: Path) -> dict[str, dict[str, Any]]:
    units = folder / "units" / "tum" / SCENE
    records = {name: json.loads((units / name / "result.json").read_text()) for name in METHODS}
    return {"run": json.loads((folder / "run.json").read_text()), **records}


def write_experiment(folder: Path, methods: dict[str, dict[str, str]]) -> Path:
    flag = folder / "trouble"
    settings = {
        name: {key: str(flag) if value == "FLAG" else value for key, value in given.items()}
        for name, given in methods.items()
    }
    path = folder / "walk.yaml"
    path.write_text(yaml.safe_dump(walker.experiment(folder / "tum", settings)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    folder = tmp_path_factory.mktemp("walk")
    walker.write_room(folder / "tum")
    (folder / "trouble").touch()
    words = ["run", str(write_experiment(folder, METHODS)), "--out", str(folder / "runs"), "--no-report"]
    failed = main(words)
    (run,) = (folder / "runs").iterdir()
    # An earlier day, so that what is kept differs from what is written anew.
    record = read_record(run / "run.json", RunRecord)
    write_record(run / "run.json", record.model_copy(update={"started": "2026-01-02T03:04:05+00:00"}))
    first = stored(run)
    with pytest.MonkeyPatch.context() as patch:
        # The curves are asked for below; painting them would take most of the time.
        patch.setattr(plots, "save", lambda figure, path: Image.new("RGB", (1, 1)).save(path))
        assert main(["report", str(run), "--out", str(folder / "report")]) == 0
    (folder / "trouble").unlink()
    went_on = main(words)
    return Walk(run, first, stored(run), (failed, went_on), folder / "report")


# What is expected


def shrunk(count: int, worse: float = 1.0) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale of the least-squares fit of the estimate (in metres, upright) to the truth; both, about their means.

    The errors are orthogonal to everything linear, so that the fit turns nothing: Σ p·q / Σ q·q with Σ p·e = 0.
    """
    truth = np.column_stack([POSITIONS, np.zeros(FRAMES)])
    guess = truth + np.column_stack([np.zeros((FRAMES, 2)), worse * HEIGHT_ERROR])
    truth, guess = truth - truth[:count].mean(axis=0), guess - guess[:count].mean(axis=0)
    return float((truth[:count] ** 2).sum() / (guess[:count] ** 2).sum()), truth, guess


def rms(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def length(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors, axis=-1)


def turned(angle: float, vector: np.ndarray) -> np.ndarray:
    return walker.about_z(angle) @ vector


def pair_error(scale: float, i: int, j: int) -> tuple[float, float]:
    """Metres and degrees between the true and the estimated step from camera i to camera j."""
    _, truth, guess = shrunk(FRAMES)
    yaw_error = np.radians(YAW_ERROR_DEG)
    seen = turned(-YAW[i], truth[j] - truth[i])
    thought = turned(-YAW[i] - yaw_error[i], scale * (guess[j] - guess[i]))
    return float(length(thought - seen)), abs(YAW_ERROR_DEG[j] - YAW_ERROR_DEG[i])


def moved_estimate() -> dict[str, tuple[float, np.ndarray]]:
    """Scale of the estimate's metres under each alignment, and where it and the truth are apart, (FRAMES, 3)."""
    scale, truth, guess = shrunk(FRAMES)
    scale_8, truth_8, guess_8 = shrunk(8)
    raw = walker.estimated_poses()[:, :3, 3] - walker.true_poses()[:, :3, 3]
    return {
        "sim3": (scale, scale * guess - truth),
        "se3": (GAIN, GAIN * guess - truth),
        "anchor": (scale_8, scale_8 * guess_8 - truth_8),
        "none": (GAIN, raw),
    }


def expected_trajectory() -> dict[Key, float]:
    _, truth, _ = shrunk(FRAMES)
    found: dict[Key, float] = {
        ("trajectory", "path_length", ""): 11.0,
        ("trajectory", "coverage", ""): 100.0,
        ("trajectory", "matched_frames", ""): 12.0,
        ("trajectory", "unmatched_frames", "no_estimate"): 0.0,
    }
    for name, (scale, apart) in moved_estimate().items():
        errors = length(apart)
        steps = [pair_error(scale, k, k + 1)[0] for k in range(FRAMES - 1)]
        values = {
            "ate_rmse": rms(errors),
            "ate_mean": float(np.mean(errors)),
            "ate_median": float(np.median(errors)),
            "ate_max": float(np.max(errors)),
            "rpe_translation_rmse": rms(steps),
            "rpe_rotation_rmse": float(np.sqrt((1.3**2 + 3.4**2 + 7.7**2) / 11)),
            "ate_share_of_motionless": 100 * rms(errors) / rms(length(truth)),
            "ate_share_of_path": 100 * rms(errors) / 11,
        }
        if name in ("sim3", "anchor"):
            values["scale"] = scale / GAIN
        found |= {("trajectory", key, name): value for key, value in values.items()}
    return found


def expected_drift() -> dict[Key, float]:
    """Steps are a metre each, so that metres of path are frames."""
    moved = moved_estimate()
    found: dict[Key, float] = {
        ("drift", "anchored_final_error", "sim3"): float(length(moved["anchor"][1])[-1]),
    }
    for name, (scale, _) in moved.items():
        # Paths of 11 m have segments of 1 to 8 m; one ends at the first frame that lies further than its length.
        segments = [
            (pair_error(scale, start, start + metres + 1), metres)
            for metres in range(1, 9)
            for start in range(0, FRAMES, 3)
            if start + metres + 1 < FRAMES
        ]
        steps = [pair_error(scale, k, k + 1)[0] for k in range(FRAMES - 1)]
        values = {
            "segment_translation": float(np.mean([100 * error / metres for (error, _), metres in segments])),
            "segment_rotation": float(np.mean([turn / metres for (_, turn), metres in segments])),
            "jumps": 0.0,
            "largest_step_error": max(steps),
            "largest_step_error_frame": float(np.argmax(steps) + 1),
            "collapsed": 0.0,
        }
        found |= {("drift", key, name): value for key, value in values.items()}
        for variant, apart in (("1 frames", 1), ("4 frames", 4), ("2 m", 2)):
            pairs = [pair_error(scale, k, k + apart) for k in range(FRAMES - apart)]
            variant += "" if name == "sim3" else f" {name}"
            found["drift", "rpe_translation_rmse", variant] = rms([metres for metres, _ in pairs])
            found["drift", "rpe_rotation_rmse", variant] = rms([turn for _, turn in pairs])
    return found


def expected_auc() -> dict[Key, float]:
    """Both definitions, pair by pair, from 4×4 matrices."""
    truth, guess = walker.true_poses(), walker.estimated_poses()
    found: dict[Key, float] = {}
    for suffix in ("", "_first_camera"):
        turns, directions = [], []
        for i, j in combinations(range(FRAMES), 2):
            rows = []
            for poses in (truth, guess):
                world_to_camera = [np.linalg.inv(np.linalg.inv(poses[0]) @ pose) for pose in poses]
                a, b = world_to_camera[i], world_to_camera[j]
                rows.append(a @ np.linalg.inv(b) if not suffix else np.linalg.inv(a) @ b)
            relative = rows[0][:3, :3].T @ rows[1][:3, :3]
            turns.append(np.degrees(np.arccos(np.clip((np.trace(relative) - 1) / 2, -1, 1))))
            a, b = rows[0][:3, 3], rows[1][:3, 3]
            directions.append(np.degrees(np.arccos(min(1.0, abs(a @ b) / (length(a) * length(b))))))
        turns, directions = np.array(turns), np.array(directions)
        worst = np.maximum(turns, directions)
        for limit in (3, 5, 15, 30):
            shares = [np.mean(worst < edge) for edge in range(1, limit + 1)]
            found["auc", f"auc{suffix}_{limit}", ""] = 100 * float(np.mean(shares))
            found["auc", f"racc{suffix}_{limit}", ""] = 100 * float(np.mean(turns < limit))
            found["auc", f"tacc{suffix}_{limit}", ""] = 100 * float(np.mean(directions < limit))
    return found


def expected_depth() -> dict[Key, float]:
    """Every band of every frame, weighted by its rows: all columns that count are alike."""
    trajectory_scale = shrunk(FRAMES)[0] / GAIN
    rows = len(BANDS)
    truth = np.tile(BANDS, FRAMES)
    guess = np.concatenate([ratio * BANDS * np.where(BANDS == 4, TOO_FAR, 1) for ratio in RATIOS])
    of_frames = [slice(rows * k, rows * (k + 1)) for k in range(FRAMES)]
    moved = {
        "none": guess,
        "scale_only": np.concatenate([guess[f] / ratio for f, ratio in zip(of_frames, RATIOS, strict=True)]),
        "lstsq": np.concatenate([np.polyval(np.polyfit(guess[f], truth[f], 1), guess[f]) for f in of_frames]),
        "sequence_scale": guess * np.median(truth) / np.median(guess),
        "sequence_lstsq": np.polyval(np.polyfit(guess, truth, 1), guess),
        "trajectory_scale": guess * trajectory_scale,
    }
    found: dict[Key, float] = {}
    for variant, depth in moved.items():
        error, ratio = np.abs(depth - truth), np.maximum(depth / truth, truth / depth)
        for name, value in (
            ("abs_rel", np.mean(error / truth)),
            ("sq_rel", np.mean(error**2 / truth)),
            ("rmse", rms(error)),
            ("log_rmse", rms(np.log(ratio))),
            ("delta_1_25", 100 * np.mean(ratio < 1.25)),
            ("delta_1_25_2", 100 * np.mean(ratio < 1.25**2)),
            ("delta_1_25_3", 100 * np.mean(ratio < 1.25**3)),
        ):
            found["depth", name, variant] = float(value)
    for variant, value in (("1…2 m", 0.0), ("2…4 m", 0.0), ("4…8 m", TOO_FAR - 1)):
        found["depth", "abs_rel_at_distance", variant] = value
    # The least confident pixels are those that are wrong: 10 of 42 rows, two tenths and part of the third.
    columns = WIDTH - 3
    sizes = [len(part) for part in np.array_split(np.arange(FRAMES * rows * columns), 10)]
    wrong = FRAMES * 10 * columns
    for number, size in enumerate(sizes):
        share = min(max((wrong - sum(sizes[:number])) / size, 0.0), 1.0)
        found["depth", "abs_rel_by_confidence", f"tenth {number + 1}"] = share * (TOO_FAR - 1)
    counted = np.delete(walker.confidence(), [walker.NO_TRUTH, walker.NO_PREDICTION, walker.TOO_DEEP], axis=1)
    relative = np.repeat(np.where(BANDS == 4, TOO_FAR - 1, 0.0)[:, None], columns, axis=1)
    correlation = spearmanr(counted.ravel(), relative.ravel()).statistic
    return found | {
        ("depth", "confidence_rank_correlation", ""): float(correlation),
        ("depth", "frames_scored", ""): 12.0,
        ("depth", "frames_skipped", "no_truth"): 0.0,
        ("depth", "unpredicted_pixels", ""): 100 / (WIDTH - 2),
    }


def expected_cost() -> dict[Key, float]:
    return {
        ("throughput", "forward_fps", ""): FRAMES / (STEP_MS.sum() / 1000),
        ("throughput", "forward_latency", "p50"): float(np.median(STEP_MS[SCALE_FRAMES:])),
        ("throughput", "warm_up", ""): 1500.0,
        ("memory", "weights", ""): 24.0,
    }


FAMILIES = (expected_trajectory, expected_drift, expected_auc, expected_depth, expected_cost)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_value_of_the_walk_is_the_one_worked_out(walk: Walk, family: Callable[[], dict[Key, float]]) -> None:
    found, expected = walk.values("whole"), family()
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_nothing_of_the_walk_is_left_unchecked(walk: Walk) -> None:
    """What has a value and is worked out by none of the above is of the clock, of the process, or counts zero."""
    known = {key for family in FAMILIES for key in family()}
    rest = {key: value for key, value in walk.values("whole").items() if value and key not in known}
    assert {family for family, _, _ in rest} <= {"throughput", "memory"}, rest
    assert len(rest) <= MEASURED, rest


def test_means_medians_and_neighbours_differ_in_the_walk() -> None:
    """Otherwise the values above could be swapped unnoticed."""
    expected = {key: value for family in FAMILIES for key, value in family().items()}
    for names in (
        [("trajectory", f"ate_{name}", "sim3") for name in ("rmse", "mean", "median", "max")],
        [("trajectory", "ate_rmse", name) for name in ("sim3", "se3", "anchor", "none")],
        [("depth", "abs_rel", name) for name in ("none", "scale_only", "lstsq", "sequence_scale", "sequence_lstsq")],
        [("auc", f"auc_{limit}", "") for limit in (3, 5, 15, 30)],
        [("auc", f"{name}_5", "") for name in ("auc", "racc", "tacc", "auc_first_camera", "tacc_first_camera")],
    ):
        assert len({round(expected[name], 6) for name in names}) == len(names)
    assert np.median(STEP_MS[SCALE_FRAMES:]) != pytest.approx(np.mean(STEP_MS[SCALE_FRAMES:]), rel=0.1)


# Failures, and going on


def test_a_failed_unit_says_where_and_decides_the_exit_code(walk: Walk) -> None:
    assert walk.codes == (1, 0)
    broken = walk.first["broken"]
    assert (broken["status"], broken["stage"], broken["failed_at_frame"]) == ("failed", "stream", walker.BROKEN_AT)
    assert broken["reason"] == LOST
    assert (broken["predictions"], broken["measurements"]) == (walker.BROKEN_AT, [])
    assert walk.first["run"]["status"] == "incomplete"


def test_going_on_does_what_failed_and_keeps_the_rest(walk: Walk) -> None:
    assert walk.then["run"]["status"] == "complete"
    assert walk.then["run"]["started"] == walk.first["run"]["started"] == "2026-01-02T03:04:05+00:00"
    assert walk.then["run"]["finished"] > walk.then["run"]["started"]
    for done in ("whole", "early", "silent", "patchy"):
        assert walk.then[done] == walk.first[done]
    timeless = {key: value for key, value in walk.values("whole").items() if key[0] not in ("throughput", "memory")}
    assert {key: walk.values("broken")[key] for key in timeless} == timeless


def test_stopping_early_costs_coverage(walk: Walk) -> None:
    early = walk.then["early"]
    assert (early["status"], early["frames"], early["predictions"]) == ("ok", FRAMES, EARLY_END)
    found = walk.values("early")
    assert found["trajectory", "coverage", ""] == 100 * EARLY_END / FRAMES
    assert found["trajectory", "matched_frames", ""] == EARLY_END
    assert found["trajectory", "unmatched_frames", "no_estimate"] == FRAMES - EARLY_END
    assert found["depth", "frames_scored", ""] == EARLY_END
    assert found["throughput", "forward_fps", ""] == pytest.approx(EARLY_END / (STEP_MS[:EARLY_END].sum() / 1000))


@pytest.mark.parametrize("method", ["silent", "patchy"])
def test_a_method_without_cost_has_the_reason_and_all_else(walk: Walk, method: str) -> None:
    """Nor are the times of some frames taken for those of all."""
    reasons, whole = walk.reasons(method), walk.values("whole")
    lacking = set(reasons) - set(walk.reasons("whole"))
    assert lacking == {
        ("throughput", "forward_fps", ""),
        ("throughput", "forward_latency", "p50"),
        ("throughput", "harness_overhead", ""),
    }
    assert {reasons[key] for key in lacking} == {"the method does not report its time on the device"}
    same = {key: value for key, value in whole.items() if key[0] not in ("throughput", "memory")}
    assert {key: walk.values(method)[key] for key in same} == same
    assert walk.values(method)["throughput", "end_to_end_fps", ""] > 0


# Tables: a number by its column's header and its row's method, in every form that a reader opens


@dataclass
class Page:
    """tables: by title, rows as dictionaries of header → text."""

    tables: dict[str, list[dict[str, str]]]


class _Html(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self._title = self._name = ""
        self._heading = self._cell = self._unit = False
        self._row: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("h2", "h3"):
            self._title, self._heading = "", True
        elif tag == "table":
            # Of a wide table the parts stand under one heading.
            part = sum(1 for name in self.tables if name.split(" / ")[0] == self._title)
            self._name = self._title if not part else f"{self._title} / {part + 1}"
            self.tables[self._name] = []
        elif tag == "tr":
            self._row = []
        elif tag in ("th", "td"):
            self._row.append("")
            self._cell = True
        elif tag == "span" and self._cell and ("class", "unit") in attrs:
            self._unit = True
            self._row[-1] += "("

    def handle_endtag(self, tag: str) -> None:
        if tag in ("h2", "h3"):
            self._heading = False
        elif tag in ("th", "td"):
            self._cell = False
        elif tag == "span" and self._unit:
            self._unit = False
            self._row[-1] += ")"
        elif tag == "tr" and self._name in self.tables:
            self.tables[self._name].append(self._row)

    def handle_data(self, data: str) -> None:
        if self._heading:
            self._title += data
        elif self._cell and self._row:
            self._row[-1] += data


def html_tables(text: str) -> dict[str, list[dict[str, str]]]:
    reader = _Html()
    reader.feed(text)
    found = {}
    for title, (header, *rows) in ((title, rows) for title, rows in reader.tables.items() if rows):
        names = [" ".join(name.split()) for name in header]
        found[title] = [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]
    return found


def markdown_tables(text: str) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    title, name, header = "", "", None
    for line in text.splitlines():
        if line.startswith("#"):
            title, header = line.lstrip("# "), None
        elif line.startswith("| "):
            cells = [cell.strip().replace("\\", "") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if header is None:
                header = cells
                # Of a wide table the parts stand under one heading.
                part = sum(1 for known in found if known.split(" / ")[0] == title)
                name = title if not part else f"{title} / {part + 1}"
                found[name] = []
            else:
                found[name].append(dict(zip(header, cells, strict=True)))
        elif not line:
            header = None
    return found


def latex_tables(text: str) -> dict[str, list[dict[str, str]]]:
    found = {}
    for part in text.split(r"\begin{table}")[1:]:
        (title,) = re.findall(r"\\caption\{(.*)\}", part)
        lines = [line.removesuffix(r" \\") for line in part.splitlines() if line.endswith(r" \\")]
        rows = [[_plain(cell) for cell in re.split(r" & ", line)] for line in lines]
        found[_plain(title)] = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    return found


def _plain(latex: str) -> str:
    for written, meant in ((r"\ldots{}", "…"), (r"$-$", "−")):
        latex = latex.replace(written, meant)
    return re.sub(r"\\([_%#&{}$])", r"\1", latex)


def csv_tables(folder: Path) -> dict[str, list[dict[str, str]]]:
    return {file.stem: list(csv.DictReader(file.open(encoding="utf-8"))) for file in folder.glob("*.csv")}


def columns_of(walk: Walk, method: str) -> dict[str, tuple[float | None, str]]:
    """Value and unit of each measurement by the header of its column."""
    found = {}
    for m in walk.first[method]["measurements"]:
        unit = "" if m["unit"] == "1" else f" ({m['unit']})"
        found[f"{m['name']} {m['variant']}".strip() + unit] = (m["value"], m["unit"])
    return found


@pytest.mark.parametrize("form", ["html", "markdown", "latex", "csv"])
def test_every_number_of_every_table_stands_under_its_header(walk: Walk, form: str) -> None:
    if form == "csv":
        tables = csv_tables(walk.report / "tables")
        tables.pop("measurements")
    elif form == "latex":
        tables = latex_tables((walk.report / "tables" / "tables.tex").read_text(encoding="utf-8"))
    elif form == "markdown":
        tables = markdown_tables((walk.report / "report.md").read_text(encoding="utf-8"))
    else:
        tables = html_tables((walk.report / "report.html").read_text(encoding="utf-8"))
    for method in ("whole", "early", "silent"):
        expected = columns_of(walk, method)
        seen = set()
        for rows in tables.values():
            for row in rows:
                if row.get("method") != method:
                    continue
                for header in expected.keys() & row.keys():
                    value, unit = expected[header]
                    seen.add(header)
                    text = re.sub(r" ?(<sup>\d+</sup>|\\textsuperscript\{\d+\})", "", row[header]).strip("*")
                    if value is None:
                        assert text.rstrip("0123456789 ") == "n/a", f"{header}: {text}"
                    elif form == "csv":
                        assert float(text) == value, header
                    else:
                        assert _plain(text) == number_text(value, unit), header
        assert seen == set(expected), f"in no table: {sorted(set(expected) - seen)}"


def test_the_long_table_and_the_stored_records_agree(walk: Walk) -> None:
    table = pd.read_csv(walk.report / "tables" / "measurements.csv", dtype={"value": str})
    table["value"] = table["value"].map(float)  # pandas' own parser is off in the last digit
    for method in ("whole", "early", "silent"):
        rows = table[table["method"] == method]
        stored_rows = walk.first[method]["measurements"]
        assert rows["name"].tolist() == [m["name"] for m in stored_rows]
        assert rows["variant"].fillna("").tolist() == [m["variant"] for m in stored_rows]
        assert rows["unit"].astype(str).tolist() == [m["unit"] for m in stored_rows]
        assert [None if pd.isna(v) else v for v in rows["value"]] == [m["value"] for m in stored_rows]
        assert [None if pd.isna(v) else v for v in rows["samples"]] == [m["samples"] for m in stored_rows]
        assert [None if pd.isna(v) else v for v in rows["reason"]] == [m["reason"] for m in stored_rows]
    (failure,) = table[table["method"] == "broken"]["reason"]
    assert failure == f"failed in stage stream at frame {walker.BROKEN_AT}: {LOST}"


# Figures: a curve by its label


def test_every_curve_of_the_walk_is_the_one_worked_out(walk: Walk) -> None:
    run = open_run(walk.folder)
    figures = unit_figures(run, ("tum", SCENE, "whole"))
    assert set(figures) == {"trajectory", "cloud", "error", "drift", "depth", "cost"}
    index = np.arange(FRAMES, dtype=np.float64)
    scale, truth, guess = shrunk(FRAMES)

    def along(values: Any) -> Any:
        return pytest.approx(np.column_stack([index, values]), rel=1e-5, abs=1e-6)

    errors = figures["error"]
    position = axes_titled(errors, "Distance to the reference after Sim(3) alignment")
    assert curve(position, "each frame") == along(length(scale * guess - truth))
    rotation = axes_titled(errors, "Angle to the reference after Sim(3) alignment")
    assert curve(rotation, "each frame") == along(YAW_ERROR_DEG)
    depth = axes_titled(errors, "Depth error of each frame alone, scale_only alignment")
    assert curve(depth, "each frame") == along(np.full(FRAMES, (TOO_FAR - 1) * 10 / 42))

    cost = figures["cost"]
    times = axes_titled(cost, "Time of each frame")
    assert curve(times, "forward on the device") == along(STEP_MS)
    stored_ms = pd.read_csv(walk.folder / "units" / "tum" / SCENE / "whole" / "frames.csv")["interval_ms"]
    assert curve(times, "end to end") == along(stored_ms)
    cache = layers(axes_titled(cost, "Key/value cache in use, stacked"))
    for name, start, more in (("anchor", 1, 0), ("window", 2, 1), ("memory", 20, 2), ("camera head", 50, 3)):
        assert cache[name] == along(start + more * index)
    assert curve(axes_titled(cost, "Memory after each frame"), "device (allocated)") == along(500 + 5 * index)

    above = axes_titled(figures["trajectory"], "From above (longest extents): x–y plane")
    centre = POSITIONS.mean(axis=0)
    assert curve(above, "ground truth") == pytest.approx(POSITIONS, abs=1e-6)
    assert curve(above, "estimate, Sim(3)-aligned") == pytest.approx(scale * (POSITIONS - centre) + centre, abs=1e-5)

    steps = [pair_error(scale, k, k + 1)[0] for k in range(FRAMES - 1)]
    drawn = curve(axes_titled(figures["drift"], "Translation error of each step"), "each step")
    assert drawn == pytest.approx(np.column_stack([index[1:], steps]), rel=1e-5)

    assert len(pictures(figures["depth"], "truth")) == len(pictures(figures["depth"], "prediction (scale_only)")) > 0
    with np.load(walk.folder / "units" / "tum" / SCENE / "whole" / "panels.npz") as panels:
        assert panels["truth"][0, -1, WIDTH // 2] == pytest.approx(4.0, rel=1e-3)
        assert panels["prediction"][0, -1, WIDTH // 2] == pytest.approx(4.0 * TOO_FAR, rel=1e-3)


def test_what_has_no_cost_has_no_curve_of_it(walk: Walk) -> None:
    cost = unit_figures(open_run(walk.folder), ("tum", SCENE, "silent"))["cost"]
    assert set(curves(axes_titled(cost, "Time of each frame"))) == {"end to end"}
    assert set(curves(axes_titled(cost, "Memory after each frame"))) == {"process (resident)"}


# The gate


def test_the_gate_holds_the_walk_and_sees_it_get_worse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    walker.write_room(tmp_path / "tum")
    words = ["run", str(write_experiment(tmp_path, {"sometimes": {"does": "is_worse", "while_there": "FLAG"}}))]
    baseline = ["--baseline", str(tmp_path / "baseline.yaml")]
    assert main([*words, "--no-report", "--out", str(tmp_path / "good")]) == 0
    assert main(["gate", str(tmp_path / "good"), *baseline, "--update", "--reason", "first"]) == 0
    (tmp_path / "trouble").touch()
    assert main([*words, "--no-report", "--out", str(tmp_path / "bad")]) == 0
    accuracy = ["--require", "accuracy", "--json"]
    capsys.readouterr()
    assert main(["gate", str(tmp_path / "good"), *baseline, *accuracy]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "held"
    assert main(["gate", str(tmp_path / "bad"), *baseline, *accuracy]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["families"]["accuracy"] == "regression"
    found = {finding["metric"]: finding for finding in document["findings"]}
    before, after = (shrunk(FRAMES, worse) for worse in (1.0, WORSE))
    finding = found["trajectory/ate_rmse/sim3"]
    assert finding["status"] == "regression"
    assert finding["baseline"] == pytest.approx(rms(length(before[0] * before[2] - before[1])), rel=1e-5)
    assert finding["run"] == pytest.approx(rms(length(after[0] * after[2] - after[1])), rel=1e-5)
    # Rotations are as they were.
    assert found["trajectory/rpe_rotation_rmse/sim3"]["status"] == "held"


# The suite tests the checkout


def test_what_is_tested_is_this_checkout(tmp_path: Path) -> None:
    """Here, and in the processes that tests start, from wherever."""
    root = Path(__file__).parents[1]
    assert Path(lingbot_eval.__file__).is_relative_to(root)
    words = [sys.executable, "-c", "import lingbot_eval; print(lingbot_eval.__file__)"]
    found = subprocess.run(words, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    assert Path(found.strip()).is_relative_to(root)
