"""A package of somebody else, installed beside this one: its dataset, method and metric are there without an option."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.api.test_plugins import EXPERIMENT, FRAMES, PLUGIN, ROOT, measured, write_scenes

pytestmark = pytest.mark.slow

INFO = "outside-1.0.dist-info"
WHEEL = {
    f"{INFO}/METADATA": "Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n",
    f"{INFO}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{INFO}/entry_points.txt": "[lingbot_eval.plugins]\noutside = outside\n",
}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a fresh environment in which pip has installed the package; nothing is downloaded."""
    base = tmp_path_factory.mktemp("outside")
    wheel = base / "outside-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(PLUGIN, "outside.py")
        for name, text in WHEEL.items():
            archive.writestr(name, text)
        archive.writestr(f"{INFO}/RECORD", "".join(f"{name},,\n" for name in ("outside.py", *WHEEL, f"{INFO}/RECORD")))
    venv.create(base / "venv", with_pip=True)
    python = base / "venv" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True, capture_output=True
    )
    # lingbot_eval and what it needs are those of this environment and checkout.
    shared = sysconfig.get_paths(vars={"base": str(base / "venv"), "platbase": str(base / "venv")})["purelib"]
    (Path(shared) / "shared.pth").write_text("\n".join([str(ROOT), *site.getsitepackages()]))
    return python


def command(python: Path | str, folder: Path, *words: str, code: int = 0) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, "-m", "lingbot_eval.cli.main", *words],
        cwd=folder,
        env=environment if python != sys.executable else environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == code, done.stderr
    return done.stderr if code == 2 else done.stdout


def test_the_package_is_one_short_file() -> None:
    assert len(PLUGIN.read_text().splitlines()) <= 60


def test_it_runs_resumes_gates_and_reports(python: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "data")
    experiment = (EXPERIMENT % (tmp_path / "data")).replace("plugin_mine", "outside")
    (tmp_path / "mine.yaml").write_text(experiment)
    run = ("run", "mine.yaml", "--json", "--no-report", "--out", "runs")

    first: dict[str, Any] = json.loads(command(python, tmp_path, *run))
    assert [unit["status"] for unit in first["units"]] == ["ok", "ok"]
    assert measured(first, "depth_gap")["samples"] == FRAMES

    (yard,) = Path(first["run"] if Path(first["run"]).is_absolute() else tmp_path / first["run"]).glob("units/*/yard")
    shutil.rmtree(yard)
    again = json.loads(command(python, tmp_path, *run))
    assert (again["key"], again["done_before"], len(again["units"])) == (first["key"], 1, 2)
    assert measured(again, "final_gap", "yard") == measured(first, "final_gap", "yard")

    command(python, tmp_path, "report", first["run"], "--out", "page")
    assert "distance of the last positions" in (tmp_path / "page" / "report.html").read_text()

    gate = ("gate", first["run"], "--baseline", "base.yaml")
    command(python, tmp_path, *gate, "--update", "--reason", "first")
    command(python, tmp_path, *gate, "--require", "accuracy")
    value = f"trajectory/final_gap: {measured(first, 'final_gap')['value']}"
    text = (tmp_path / "base.yaml").read_text()
    (tmp_path / "base.yaml").write_text(text.replace(value, "trajectory/final_gap: 1.0"))
    judged = json.loads(command(python, tmp_path, *gate, "--require", "accuracy", "--json", code=1))
    worse = {finding["metric"] for finding in judged["findings"] if finding["status"] == "regression"}
    assert worse == {"trajectory/final_gap"}

    assert "mine" in command(python, tmp_path, "datasets", "list")
    # Where it is not installed, one line says so and how it would be known.
    said = command(sys.executable, tmp_path, "run", "mine.yaml", code=2)
    assert "asks for plugin 'outside'" in said
    (tmp_path / "mine.yaml").write_text(experiment.replace("plugins: [outside]\n", ""))
    said = command(sys.executable, tmp_path, "run", "mine.yaml", code=2)
    assert "kind: expected 'lingbot', 'replay'" in said
    assert "--plugin FILE" in said
