"""A dataset, a method and a metric of a user's own: one file, and every command knows them."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lingbot_eval import registry
from lingbot_eval.cli.main import main
from lingbot_eval.datasets.registry import DATASETS
from lingbot_eval.methods.base import METHODS
from lingbot_eval.metrics.base import FAMILIES, METRICS

ROOT = Path(__file__).parents[2]
PLUGIN = Path(__file__).with_name("plugin_mine.py")
FRAMES = 12

LINE = 1 + next(n for n, line in enumerate(PLUGIN.read_text().splitlines()) if "yield lb.Prediction" in line)
"""Where the plugin's code fails that a test breaks."""

EXPERIMENT = """\
name: mine
plugins: [plugin_mine]
datasets:
  - {name: mine, root: "%s", size: {mode: exact, width: 42, height: 28}}
methods:
  - {kind: droid, step: 2.0}
"""


def write_scenes(root: Path) -> None:
    """Two scenes of FRAMES pictures; the camera moves one metre a frame along x, everything is 2 m away.

    But for the last frame, 6 m, and for seven rows of each, which lie at 20 m: beyond what the card's protocol scores.
    """
    for scene in ("hall", "yard"):
        for name in ("rgb", "depth"):
            (root / scene / name).mkdir(parents=True)
        poses = np.tile(np.eye(4), (FRAMES, 1, 1))
        poses[:, 0, 3] = np.arange(FRAMES)
        np.savetxt(root / scene / "poses.txt", poses.reshape(FRAMES, 16))
        for index in range(FRAMES):
            Image.fromarray(np.full((28, 42, 3), 20 * index, np.uint8)).save(root / scene / "rgb" / f"{index}.png")
            depth = np.full((28, 42), 6000 if index == FRAMES - 1 else 2000, np.uint16)
            depth[:7] = 20000
            Image.fromarray(depth).save(root / scene / "depth" / f"{index}.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment and its data, in a folder with a copy of the plugin."""
    base = tmp_path_factory.mktemp("plugins")
    write_scenes(base / "data")
    (base / "mine.yaml").write_text(EXPERIMENT % (base / "data"))
    (base / "plugin_mine.py").write_text(PLUGIN.read_text())
    return base


def forget_plugins(patch: pytest.MonkeyPatch) -> None:
    """What is registered until ``patch`` is undone is gone after it, and what was registered before is not there."""
    patch.setattr(registry, "_PLUGINS", {})
    for known in (DATASETS, METHODS, METRICS, FAMILIES):
        patch.setattr(known, "_added", {})


def command(folder: Path, *words: str, code: int = 0) -> str:
    """What a command says that knows nothing of those before it: standard output or, where it refuses (2), error."""
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
    ):
        patch.chdir(folder)
        forget_plugins(patch)
        assert main(words) == code, err.getvalue()
    return err.getvalue() if code == 2 else out.getvalue()


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers in this process is gone after it."""
    forget_plugins(monkeypatch)


@pytest.fixture(scope="module")
def ran(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        command(folder, "run", "mine.yaml", "--plugin", "plugin_mine.py", "--json", "--out", "runs")
    )
    return document


def measured(document: dict[str, Any], name: str, scene: str = "hall") -> dict[str, Any]:
    (unit,) = [unit for unit in document["units"] if unit["scene"] == scene]
    (found,) = [m for m in unit["measurements"] if m["name"] == name]
    return dict(found)


def test_they_run_and_their_numbers_are_those_worked_out_by_hand(ran: dict[str, Any]) -> None:
    assert [(unit["scene"], unit["method"], unit["status"]) for unit in ran["units"]] == [
        ("hall", "droid", "ok"),
        ("yard", "droid", "ok"),
    ]
    gap = measured(ran, "final_gap")
    # At frame 11 the estimate is at (22, 12.1), the truth at (11, 0).
    assert gap["value"] == pytest.approx(np.hypot(11, 12.1))
    assert (gap["unit"], gap["convention"], gap["better"]) == ("m", "distance of the last positions", "lower")
    # The estimate says 3 m: a metre off in all frames but the last, where it is three; the mean over frames.
    assert measured(ran, "depth_gap")["value"] == pytest.approx((FRAMES - 1 + 3) / FRAMES)
    assert measured(ran, "depth_gap")["samples"] == FRAMES


def test_a_second_run_does_nothing_again_and_a_changed_plugin_does(folder: Path, ran: dict[str, Any]) -> None:
    again = json.loads(
        command(folder, "run", "mine.yaml", "--plugin", "plugin_mine.py", "--json", "--no-report", "--out", "runs")
    )
    assert (again["key"], again["done_before"]) == (ran["key"], 2)
    (folder / "changed").mkdir()
    (folder / "changed" / "plugin_mine.py").write_text(PLUGIN.read_text().replace("0.1 *", "0.2 *"))
    plan = command(folder, "run", "mine.yaml", "--plugin", "changed/plugin_mine.py", "--dry-run", "--json")
    assert json.loads(plan)["key"] != ran["key"]


def test_report_and_gate_know_them_without_the_plugin(folder: Path, ran: dict[str, Any]) -> None:
    command(folder, "report", ran["run"], "--out", "page")
    page = next((folder / "page").glob("*.html")).read_text()
    assert "final_gap" in page
    assert "distance of the last positions" in page
    baseline = ["gate", ran["run"], "--baseline", "base.yaml"]
    command(folder, *baseline, "--update", "--reason", "first")
    command(folder, *baseline, "--require", "accuracy")
    text = (folder / "base.yaml").read_text()
    value = measured(ran, "final_gap")["value"]
    assert f"trajectory/final_gap: {value}" in text
    line = f"trajectory/final_gap: {value}"
    (folder / "base.yaml").write_text(text.replace(line, f"trajectory/final_gap: {value / 2}"))
    judged = json.loads(command(folder, *baseline, "--require", "accuracy", "--json", code=1))
    worse = {finding["metric"] for finding in judged["findings"] if finding["status"] == "regression"}
    assert worse == {"trajectory/final_gap"}


def test_lists_and_checks_show_them(folder: Path, ran: dict[str, Any]) -> None:
    assert "mine" in command(folder, "datasets", "list", "--plugin", "plugin_mine.py")
    assert "CC0" in command(folder, "datasets", "show", "mine", "--plugin", "plugin_mine.py")
    command(folder, "datasets", "check", "mine", "--root", "data", "--plugin", "plugin_mine.py")


def test_an_experiment_from_elsewhere_loads_nothing(folder: Path) -> None:
    said = command(folder, "run", "mine.yaml", code=2)
    assert "--plugin plugin_mine.py" in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import nothing_like_it\n", "nothing_like_it"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("def broken(:\n", "SyntaxError"),
        ("import lingbot_eval as lb\n@lb.dataset('kitti')\nclass A(lb.FileDataset): pass\n", "'kitti' is taken"),
        *(
            (
                f"import lingbot_eval as lb\n@lb.{name}('x')\nclass A: pass\n",
                f"{name.replace('_', ' ')} 'x': expected a subclass of lingbot_eval.{base}, found <class ",
            )
            for name, base in (("method", "Method"), ("dataset", "FileDataset"), ("metric_family", "MetricFamily"))
        ),
        ("import lingbot_eval as lb\n@lb.metric('sound', unit='dB', convention='')\ndef f(): pass\n", "'sound'"),
        ("import sys\nsys.exit(4)\n", "sys.exit(4)"),
        # Without brackets a decorator is given the class, and would register nothing.
        *(
            (f"import lingbot_eval as lb\n@lb.{name}\nclass A(lb.{base}): pass\n", f'@{name}("mine")')
            for name, base in (("method", "Method"), ("dataset", "FileDataset"), ("metric_family", "MetricFamily"))
        ),
        *(
            (
                f"import lingbot_eval as lb\n@lb.{name}('x')\nclass A(lb.{base}):\n  class {own}: pass\n",
                f"{own} of {name.replace('_', ' ')} 'x': expected a subclass of lingbot_eval.Settings, found <class ",
            )
            for name, base, own in (
                ("method", "Method", "Settings"),
                ("dataset", "FileDataset", "Options"),
                ("metric_family", "MetricFamily", "Settings"),
            )
        ),
        (
            "import lingbot_eval as lb\n@lb.metric('trajectory', unit='m', convention='')\ndef ate_rmse(a, b): pass\n",
            "'ate_rmse' is taken by lingbot_eval itself",
        ),
    ],
)
@pytest.mark.usefixtures("own_registry")
def test_a_broken_plugin_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, says: str
) -> None:
    (tmp_path / "broken.py").write_text(source)
    assert main(["datasets", "list", "--plugin", str(tmp_path / "broken.py")]) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert says in said
    assert "broken.py" in said


def test_a_wrong_setting_of_theirs_is_named(folder: Path) -> None:
    words = ("run", "mine.yaml", "--plugin", "plugin_mine.py", "--set", "methods.0.stpe=1", "--dry-run")
    said = command(folder, *words, code=2)
    assert "unknown key 'stpe' (did you mean 'step'?)" in said


def test_what_they_do_wrong_is_the_units_failure(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "plugin_mine.py").write_text(PLUGIN.read_text().replace("height, width = ", "height, width = None, "))
    words = ("run", str(folder / "mine.yaml"), "--plugin", "plugin_mine.py", "--json", "--no-report", "--out", "runs")
    document = json.loads(command(tmp_path, *words, code=1))
    assert {unit["status"] for unit in document["units"]} == {"failed"}
    assert all(unit["reason"].endswith(f" (plugin_mine.py:{LINE})") for unit in document["units"])


SHARED = "    def intrinsics(self, scene):\n        return [500, 500, 320, 240]\n\n    def frames("


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (
            "images = lb",
            "1 / 0; images = lb",
            "code of a plugin failed: ZeroDivisionError: division by zero (plugin_mine",
        ),
        ("return [\n", "return [\n] and [\n", "has no frames"),
        ("return [\n", "return None and [\n", "to list FrameFiles, found NoneType"),
        ("FrameFiles(image,", "FrameFiles(str(image),", "frame 0: expected its image as a pathlib.Path, found str"),
        ("FrameFiles(image,", "FrameFiles(None,", "expected its image as a pathlib.Path, found NoneType"),
        ("depth=depth", "depth=str(depth)", "expected its depth as a pathlib.Path, found str"),
        ("depth=depth", "mask=0", "expected its mask as a pathlib.Path, found int"),
        (" pose, depth=depth", " pose[:3], depth=depth", "expected its pose as a numpy array (4, 4), found (3, 4)"),
        (" pose, depth=depth", " pose.tolist()", "expected its pose as a numpy array (4, 4), found list"),
        ("depth=depth", "intrinsics=pose", "expected its intrinsics as a numpy array (3, 3), found (4, 4)"),
        ("depth=depth", "depth_intrinsics=image", "depth_intrinsics as a numpy array (3, 3), found PosixPath"),
        ("    def frames(", SHARED, "mine: hall: expected its intrinsics as a numpy array (3, 3), found list"),
    ],
)
def test_what_a_dataset_does_wrong_is_one_line(
    folder: Path, tmp_path: Path, before: str, after: str, says: str
) -> None:
    source = PLUGIN.read_text()
    assert before in source
    (tmp_path / "plugin_mine.py").write_text(source.replace(before, after, 1))
    said = command(tmp_path, "run", str(folder / "mine.yaml"), "--plugin", "plugin_mine.py", "--dry-run", code=2)
    assert says in said
    assert len(said.strip().splitlines()) == 1


METRICS_OF_ALL_KINDS = """
import sys
import lingbot_eval as lb

def metric(**more):
    return lb.metric("trajectory", unit="m", convention="as I count", **more)

@metric()
def shown(reference, estimate):
    return 2.5

@metric(headline=False)
def aside(reference, estimate):
    return 3.5

@metric()
def leaves(reference, estimate):
    sys.exit(3)
"""


def test_score_shows_them_among_the_first_and_outlives_their_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poses = np.tile(np.eye(4), (20, 1, 1))
    poses[:, :3, 3] = np.random.default_rng(0).normal(size=(20, 3))
    np.save(tmp_path / "poses.npy", poses)
    (tmp_path / "metrics.py").write_text(METRICS_OF_ALL_KINDS)
    line = 1 + METRICS_OF_ALL_KINDS.splitlines().index("    sys.exit(3)")
    words = ("score", "--gt", "poses.npy", "--est", "poses.npy", "--plugin", "metrics.py")
    said = command(tmp_path, *words)
    assert "2.500000 m" in said
    assert "3.5" not in said
    assert f"the metric failed: it ended the program: sys.exit(3) (metrics.py:{line})" in said
    found = {m["name"]: m for m in json.loads(command(tmp_path, *words, "--json"))["measurements"]}
    assert (found["aside"]["value"], found["leaves"]["value"]) == (3.5, None)
    # Those of a package that is installed need not be named.
    (tmp_path / "metrics.py").rename(tmp_path / "installed_metrics.py")
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("mine", "installed_metrics", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "installed", lambda: (point,))
    monkeypatch.setattr(registry, "_INSTALLED", [])
    assert "2.500000 m" in command(tmp_path, *words[:-2])
    # One of ours that no declaration names in full.
    (tmp_path / "metrics.py").write_text(METRICS_OF_ALL_KINDS.replace("def shown", "def ate_mean"))
    assert "trajectory/ate_mean/sim3 is measured twice" in command(tmp_path, *words, code=2)


FAMILY = """
import lingbot_eval as lb

@lb.metric_family("hops")
class Hops(lb.MetricFamily):
    class Settings(lb.Settings):
        longest: float = 1.0

    def __init__(self, settings, context):
        super().__init__(settings, context)
        self.frames = 0

    def add(self, frame, prediction):
        self.frames += 1
        return {}

    def compute(self, scene):
        steps = (scene.estimate.positions[1:] - scene.estimate.positions[:-1])[:, 0]
        long = int((steps > self.settings.longest).sum())
        yield lb.Measurement("hops", "long_steps", "", float(long), "frames", f"steps beyond {self.settings.longest} m",
                             samples=self.frames, better="lower", headline=True)
"""


def test_a_family_of_ones_own_has_settings_and_is_measured(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "hops.py").write_text(FAMILY)
    words = ["run", str(folder / "mine.yaml"), "--plugin", str(folder / "plugin_mine.py"), "--plugin", "hops.py"]
    words += ["--json", "--no-report", "--out", "runs"]
    document = json.loads(command(tmp_path, *words, "--set", "metrics.hops.longest=1.5"))
    assert (measured(document, "long_steps")["value"], measured(document, "long_steps")["samples"]) == (11, FRAMES)
    assert json.loads(command(tmp_path, *words))["key"] != document["key"]
    document = json.loads(command(tmp_path, *words, "--set", "metrics.hops.longest=2.5"))
    assert measured(document, "long_steps")["value"] == 0
    off = json.loads(command(tmp_path, *words, "--set", "metrics.hops=null"))
    assert all(m["family"] != "hops" for unit in off["units"] for m in unit["measurements"])
    said = command(tmp_path, *words, "--set", "metrics.hops.lngest=1", code=2)
    assert "unknown key 'lngest'" in said or "lngest" in said
    said = command(tmp_path, *words, "--set", "metrics.hobs={}", code=2)
    assert "unknown key 'hobs' (did you mean 'hops'?)" in said
    bare = FAMILY.replace("    class Settings(lb.Settings):\n        longest: float = 1.0\n", "")
    (tmp_path / "hops.py").write_text(bare.replace("self.settings.longest", "1.5"))
    document = json.loads(command(tmp_path, *words))
    assert measured(document, "long_steps")["value"] == 11
