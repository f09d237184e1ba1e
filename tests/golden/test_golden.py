"""Everything that the commands write says what it said: see README.md beside."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lingbot_eval.cli.main import main
from lingbot_eval.gating.judge import default_tolerances, tolerance_for
from lingbot_eval.reports.reading import open_run, tables
from tests.golden.conftest import HERE, NUMBER, STORED, Golden, PageText, differences, json_text, table_text

SHOWN = 2e-3  # the last of four digits may differ between versions of NumPy
STREAMED = 2e-2  # what a network gives on another CPU, through alignments that make it larger
OF_THE_CLOCK = ("forward_ms", "interval_ms", "device_bytes", "process_bytes")


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what is stored; commands run in it, so that no path of this machine is written."""
    shutil.copytree(STORED, tmp_path, dirs_exist_ok=True)
    shutil.copytree(HERE / "estimates", tmp_path / "estimates")
    for name in ("golden.yaml", "study.yaml"):
        shutil.copy(HERE / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def without_rates(text: str) -> str:
    """Printed lines without what the clock and the process said."""
    # Which parts of the wait are long enough to be named is the machine's.
    text = re.sub(r"(first prediction after [\d.]+ s) \(.*\)", r"\1 (…)", text)
    return re.sub(r"[\d.]+ (s|fps|ms|MiB)\b", r"# \1", re.sub(r"(golden-|key )[0-9a-f]{12}", r"\1KEY", text))


# What is made of stored records


def test_report_of_two_runs(
    there: Path, golden: Golden, figures: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "a", "b", "--out", "report"]) == 0
    out = there / "report"
    golden("report/printed.txt", capsys.readouterr().out, SHOWN)
    golden("report/files.txt", "".join(f"{path.relative_to(out)}\n" for path in sorted(out.rglob("*.*"))))
    golden("report/figures.txt", "".join(figures), SHOWN)
    golden("report/report.md", (out / "report.md").read_text(), SHOWN)
    golden("report/report.html.txt", PageText((out / "report.html").read_text()).text(), SHOWN)
    golden("report/tables.tex", (out / "tables" / "tables.tex").read_text(), SHOWN)
    golden("report/summary.csv", (out / "tables" / "summary.csv").read_text(), 1e-6)
    with (out / "tables" / "measurements.csv").open(newline="") as stream:
        rows = [[cell for name, cell in row.items() if name != "convention"] for row in csv.DictReader(stream)]
    golden("report/measurements.csv", table_text(rows), 1e-6)


def test_comparison_of_two_runs(
    there: Path, golden: Golden, figures: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "a", "b", "--out", "compare", "--json"]) == 0
    golden("compare/compare.json", json_text(json.loads(capsys.readouterr().out), ["convention"]), 1e-6)
    golden("compare/compare.md", (there / "compare" / "compare.md").read_text(), SHOWN)
    golden("compare/figures.txt", "".join(figures), SHOWN)


def test_gate_against_a_baseline(there: Path, golden: Golden, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["gate", "a", "--baseline", "baseline.yaml"]
    assert main([*words, "--markdown", "gate.md", "--junit", "gate.xml"]) == 1
    golden("gate/gate.md", (there / "gate.md").read_text(), SHOWN)
    golden("gate/gate.xml", (there / "gate.xml").read_text().replace("><", ">\n<"), SHOWN)
    capsys.readouterr()
    assert main([*words, "--json"]) == 1
    golden("gate/gate.json", json_text(json.loads(capsys.readouterr().out)), 1e-6)


def test_gate_of_other_settings(there: Path, golden: Golden, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", "b", "--baseline", "baseline.yaml"]) == 1
    golden("gate/other.md", capsys.readouterr().out, SHOWN)


def test_gate_of_two_runs(there: Path, golden: Golden, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", "a", "--against", "a"]) == 2
    golden("gate/live.md", capsys.readouterr().out, SHOWN)


def test_page_of_a_stored_study(there: Path, golden: Golden, figures: list[str]) -> None:
    from lingbot_eval.scaling.execute import write_scaling

    write_scaling(there / "study")
    golden("scale/scale.md", (there / "study" / "scale.md").read_text(), SHOWN)
    golden("scale/figures.txt", "".join(figures), SHOWN)


# What is run


def test_run(there: Path, golden: Golden, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "golden.yaml", "--out", "runs", "--no-report"]) == 0
    printed = capsys.readouterr()
    golden("run/printed.txt", without_rates(printed.err + printed.out), STREAMED)
    (run,) = (there / "runs").iterdir()
    of_the_day = ["started", "finished", "seconds", "wait_s", "environment", "sha256", "bytes"]
    of_the_day += ["key", "run_key", "command"]
    golden("run/run.json", json_text(json.loads((run / "run.json").read_text()), [*of_the_day, "cards"]))
    values: dict[tuple[str, ...], dict[str, str]] = {}
    declared: dict[tuple[str, ...], tuple[str, ...]] = {}
    for method in ("saved", "model"):
        unit = run / "units" / "synthetic" / "room" / method
        record = json.loads((unit / "result.json").read_text())
        golden(f"run/{method}.json", json_text(record, [*of_the_day, "measurements"]))
        golden(f"run/{method}.csv", frames_text(unit / "frames.csv"), STREAMED)
        for name in ("estimate.tum", "reference.tum"):
            golden(f"run/{method}-{name}", (unit / name).read_text(), STREAMED)
        # Another library of JPEG gives other bytes of a thumbnail.
        arrays = sorted(path for path in unit.glob("*.npz") if path.name != "thumbnails.npz")
        golden(f"run/{method}-arrays.txt", "".join(arrays_text(path) for path in arrays), STREAMED)
        for entry in record["measurements"]:
            key = tuple(entry[name] for name in ("family", "name", "variant"))
            values.setdefault(key, {})[method] = value_text(entry)
            said = declaration(entry)
            assert declared.setdefault(key, said) == said, f"{key}: two units say different things of it"
    first = {(column.family, column.name, column.variant) for column in tables([open_run(run)])[0].columns}
    columns = ["family", "name", "variant", "unit", "convention", "better", "tolerance", "headline"]
    listing = [(*key, *said, "yes" if key in first else "") for key, said in declared.items()]
    golden("measurements.csv", table_text([columns, *listing]))
    rows = [[*key, of.get("saved", ""), of.get("model", "")] for key, of in values.items()]
    golden("run/values.csv", table_text([["family", "name", "variant", "saved", "model"], *rows]), STREAMED)


def declaration(entry: dict[str, Any]) -> tuple[str, ...]:
    """What is said of a measurement whatever its value: unit, convention, direction, the gate's tolerance."""
    metric = "/".join(filter(None, (entry["family"], entry["name"], entry["variant"])))
    better = entry["better"] or ""
    tolerance = tolerance_for(metric, default_tolerances())
    assert tolerance is not None
    rule = tolerance.model_dump(exclude={"match", "better"})
    rest = " ".join(str(value) for value in rule.values())
    return entry["unit"], entry["convention"], better, rest


def value_text(entry: dict[str, Any]) -> str:
    if entry["value"] is None:
        return str(entry["reason"])
    of_the_process = ("throughput/", "memory/process_", "memory/device_", "memory/driver_", "memory/largest_")
    hidden = f"{entry['family']}/{entry['name']}".startswith(of_the_process)
    return "measured" if hidden else f"{entry['value']:.6g}"


def frames_text(path: Path) -> str:
    """frames.csv without what the clock and the process said."""
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    hidden = [position for position, name in enumerate(rows[0]) if name in OF_THE_CLOCK]
    for row in rows[1:]:
        for position in hidden:
            row[position] = "measured" if row[position] else ""
    return table_text(rows)


def arrays_text(path: Path) -> str:
    """Name, shape, type, mean and range of every array."""
    lines = []
    with np.load(path) as arrays:
        for name in sorted(arrays.files):
            array = arrays[name]
            text = f"{path.name} {name} {array.shape} {array.dtype.kind}"
            if array.dtype.kind in "iuf" and np.isfinite(array).any():
                mean, low, high = np.nanmean(array), np.nanmin(array), np.nanmax(array)
                text += f" mean {mean:.4g} from {low:.4g} to {high:.4g}"
            lines.append(text + "\n")
    return "".join(lines)


def test_comparison_of_backends(there: Path, golden: Golden, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = yaml.safe_load(Path("golden.yaml").read_text())
    experiment["methods"] = experiment["methods"][1:]
    Path("model.yaml").write_text(yaml.safe_dump(experiment))
    words = ["compare", "sdpa", "paged", "--experiment", "model.yaml", "--frames", "10", "--rounds", "1"]
    assert main([*words, "--out", "compare", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    hidden = {"warm_up_s", "step_ms", "step_ms_by_round", "forward_fps", "median", "largest", "value"}
    golden("backends/compare.json", json_text(document, ["environment"], hidden.__contains__))
    page = without_rates((there / "compare" / "compare.md").read_text().partition("### Environment")[0])
    page = re.sub(r"(?m)^\| A–B.*$", lambda row: NUMBER.sub("#", row[0]), page)
    page = re.sub(r"(time of A: )[\d.]+", r"\1#", re.sub(r"machine: .*", "machine: …", page))
    golden("backends/compare.md", re.sub(" +", " ", re.sub("-{2,}", "--", page)))


def test_scale(there: Path, golden: Golden, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scale", "study.yaml", "--out", "runs", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    for case in document["cases"]:
        case["measurements"] = [
            entry | {"value": value_text(entry), "convention": declaration(entry)[1]} for entry in case["measurements"]
        ]
        # Whether a slope can be told depends on how often the process grew.
        case["growth"] = [[entry["quantity"], entry["unit"], entry["expected"]] for entry in case["growth"]]
    of_the_day = ["started", "seconds", "wait_s", "files", "run", "run_key", "reason", "samples"]
    hidden = {"forward_ms", "interval_ms", "process_bytes"}
    golden("scale/cases.json", json_text(document, of_the_day, hidden.__contains__), STREAMED)


def test_a_change_is_seen() -> None:
    text = "| ATE | 0.1234 m |\n| --- | -------: |\n"
    assert differences(text, text, 0) == []
    assert differences(text, text.replace("0.1234", "0.12341"), 1e-3) == []
    assert differences(text, text.replace("0.1234", "0.1244"), 1e-3) == ["- | ATE | 0.1234 m |", "+ | ATE | 0.1244 m |"]
    assert differences(text, text.replace(" m ", " mm "), 1e-3) == ["- | ATE | 0.1234 m |", "+ | ATE | 0.1234 mm |"]
    assert differences(text, text + "more\n", 1) == ["+ more"]
    assert differences(text, text.replace("ATE |", "ATE  |"), 1) == ["- | ATE | 0.1234 m |", "+ | ATE  | 0.1234 m |"]
