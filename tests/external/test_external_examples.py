"""``examples/external``: wrappers in environments of their own give what they should."""

from __future__ import annotations

import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from guests import unit

import lingbot_eval as lb
from lingbot_eval.files.trajectories import read_tum

EXAMPLES = Path(__file__).parents[2] / "examples" / "external"
FRAMES = 14


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of another environment, which finds the packages of this one by a path file."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    found = [*site.getsitepackages(), str(Path(lb.__file__).parents[1])]
    (packages / "those_of_the_tests.pth").write_text("".join(f"{path}\n" for path in found))
    python = folder / "bin" / "python"
    prefix = subprocess.run([python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True)
    assert prefix.stdout.strip() == str(folder) != sys.prefix
    return python


def guests() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((EXAMPLES / "guests.yaml").read_text())
    document["datasets"][0]["options"] = {"frames": FRAMES, "width": 112, "height": 84}
    document["datasets"][0]["size"] = {"mode": "exact", "width": 112, "height": 84}
    document["methods"][0]["device"] = "cpu"
    return document


@pytest.mark.slow
def test_our_model_as_an_outside_program_gives_the_same_trajectory(other_python: Path, tmp_path: Path) -> None:
    document = guests()
    built_in, wrapped, _ = document["methods"]
    wrapped |= {"command": [str(other_python), str(EXAMPLES / "wrap_lingbot.py")], "gpu": 0, "files": []}
    document["methods"] = [built_in, wrapped, {**wrapped, "name": "job", "mode": "job"}]
    run = lb.run(document, out=tmp_path, allow_commands=True)
    paths = {name: run.path / "units" / "synthetic" / "room" / name for name in ("lingbot", "wrapped", "job")}
    assert {name: unit(run, name).reason for name in paths} == dict.fromkeys(paths)
    ours, pipe, job = (read_tum(path / "estimate.tum").camera_to_world for path in paths.values())
    assert len(ours) == FRAMES
    np.testing.assert_array_equal(ours, pipe)
    np.testing.assert_allclose(ours, job, atol=1e-6)
    depth = [
        [m.value for m in unit(run, name).measurements if (m.name, m.variant) == ("abs_rel", "scale_only")]
        for name in paths
    ]
    assert depth[0] == depth[1] == depth[2]
    # The same clock: frames are of the same kinds, so the same of them are steps, and each was timed.
    steps = [
        [m.samples for m in unit(run, name).measurements if (m.name, m.variant) == ("forward_latency", "p50")]
        for name in ("lingbot", "wrapped")
    ]
    assert steps[0] == steps[1] == [FRAMES - 8]
    (overhead,) = [m for m in unit(run, "wrapped").measurements if (m.name, m.variant) == ("pipe_overhead", "p50")]
    assert overhead.samples == FRAMES


@pytest.fixture(scope="module")
def compass(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc)")
    program = tmp_path_factory.mktemp("compass") / "compass"
    words = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(EXAMPLES / "compass.c"), "-lm"]
    subprocess.run(words, check=True, timeout=120)
    return program


def test_a_method_in_c_passes_the_check(compass: Path) -> None:
    (check,) = lb.check_wrapper([str(compass)], mode="pipe", timeout_s=60)
    assert (check.problems, check.poses) == ((), 10)


def test_a_method_in_c_finds_its_way(compass: Path, tmp_path: Path) -> None:
    document = guests()
    method = {**document["methods"][2], "command": [str(compass)], "files": [str(compass)]}
    still = {**document, "methods": [method]}
    record = unit(lb.run(still, out=tmp_path, allow_commands=True), "compass")
    values = {(m.name, m.variant): m for m in record.measurements}
    assert values["coverage", ""].value == 100.0
    assert (values["ate_rmse", "sim3"].value or 1) < 0.05  # metres, of a path of 0.65 m
    assert values["abs_rel", "scale_only"].reason == "the method gives no depth"
    assert record.method_facts["program"] == {"name": "compass", "version": "1"}
