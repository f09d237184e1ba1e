"""Experiment files: what they may say, how they are overridden, and the one line each mistake gets."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import yaml

from lingbot_eval.errors import ConfigError
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.methods.replay import ReplayConfig
from lingbot_eval.resources import shared_names
from lingbot_eval.runs.experiment import experiment_path, load_experiment, repeated

SMALL = """
name: small
datasets:
  - name: synthetic
    options: {frames: 20}
methods:
  - kind: lingbot
    model: {config: ci}
"""

WHOLE = """
name: whole-thing_1.0
datasets:
  - name: synthetic
    root: null
    scenes: [room, corridor]
    options: {frames: 150, width: 224, height: 168, seed: 0}
    selection: {start: 3, stride: 2, count: 40}
    size: {mode: exact, width: 224, height: 168}
    depth_range: [0.001, 80.0]
  - name: folder
    root: ~/somewhere
methods:
  - kind: lingbot
    name: model
    model: {config: ci, checkpoint: null, seed: 0, camera_iterations: 4, point_head: false}
    streaming: {scale_frames: 8, window: 64, keyframe_interval: auto, backend: sdpa}
    device: auto
    precision: float32
  - kind: replay
    name: orb
    trajectory: "estimates/{scene}.txt"
    format: tum
metrics:
  trajectory: {alignments: [sim3]}
  depth: null
"""


def write(folder: Path, text: str) -> str:
    path = folder / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def refusal(source: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as refused:
        load_experiment(source, overrides)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_whole_file_reads(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path, WHOLE))
    assert experiment.name == "whole-thing_1.0"
    room, folder = experiment.datasets
    assert room.scenes == ("room", "corridor")
    assert (room.selection.start, room.selection.stride, room.selection.count) == (3, 2, 40)
    assert room.depth_range == (0.001, 80.0)
    assert folder.scenes == "all"
    model, orb = experiment.methods
    assert isinstance(model, LingbotConfig)
    assert model.streaming.window == 64
    assert isinstance(orb, ReplayConfig)
    assert orb.trajectory == "estimates/{scene}.txt"
    assert experiment.metrics.trajectory is not None
    assert experiment.metrics.trajectory.alignments == ("sim3",)
    assert experiment.metrics.depth is None


def test_what_is_left_out_has_defaults(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path, SMALL))
    assert experiment.metrics.trajectory is not None
    assert experiment.metrics.depth is not None
    assert experiment.methods[0].name == "lingbot"
    assert "stride" not in experiment.datasets[0].selection.model_fields_set


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("options:", "selecton: {stride: 2}\n    options:", "unknown key 'selecton' (did you mean 'selection'?)"),
        ("kind: lingbot", "kind: lingbo", "methods.0.kind: expected 'lingbot', 'external', 'replay'"),
        ("kind: lingbot", "kind: droid", "found 'droid'; one of a plugin is known with --plugin FILE"),
        ("kind: lingbot", "kind: lingbo", "'lingbo' (did you mean 'lingbot'?); one of a plugin is known with --plugin"),
        ("config: ci", "config: ci, sed: 1", "methods.0.model.sed: unknown key 'sed' (did you mean 'seed'?)"),
        ("config: ci", "config: tiny", "methods.0.model.config: expected 'full', 'mini' or 'ci', found 'tiny'"),
        ("name: small", "name: ../small", "name: String should match pattern"),
        ("name: small", "name: small talk", "name: String should match pattern"),
        ("name: small", f"name: {81 * 'a'}", "name: String should have at most 80 characters"),
        ("options:", "depth_range: [3, 2]\n    options:", "0.depth_range: expected [min, max] in metres"),
        ("options:", "depth_range: [2, 2]\n    options:", "0.depth_range: expected [min, max] in metres"),
        ("options:", "depth_range: [-1, 2]\n    options:", "0.depth_range: expected [min, max] in metres"),
        ("options:", "lengths: [9]\n    selection: {count: 9}\n    options:", "lengths: cannot be given together with"),
        ("options:", "depth_range: [0, .inf]\n    options:", "datasets.0.depth_range: expected [min, max]"),
        ("options:", "scenes: [a, a]\n    options:", "datasets.0.scenes: each scene once"),
        ("options:", "scenes: []\n    options:", "datasets.0.scenes: "),
        ("options:", "scenes: [0]\n    options:", "scenes.0: expected a valid string, found 0; put it in quotes"),
        ("options:", "selection: {stride: 1_0}\n    options:", "stride: expected a valid integer, found '1_0'"),
        ("options:", "selection: {stride: '1_0'}\n    options:", "stride: expected a valid integer, found '1_0'"),
        ("options:", "selection: {stride: １０}\n    options:", "stride: expected a valid integer, found '１０'"),
        ("options:", "size: {mode: exact, width: 225, height: 168}\n    options:", "use 224 or 238"),
        ("name: small", "name: small\nname: other", "experiment.yaml:3: key 'name' is given twice"),
        ("name: small", "name: small\nmetrics: {dept: null}", "metrics: unknown key 'dept' (did you mean 'depth'?)"),
        ("methods:", "methods: []\nmethod:", "methods: list should have at least 1 item"),
    ],
)  # fmt: skip
def test_each_mistake_gets_one_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = refusal(write(tmp_path, SMALL.replace(old, new, 1)))
    assert says in text
    assert "experiment.yaml" in text


def test_equal_names_are_refused(tmp_path: Path) -> None:
    twice = SMALL + "  - kind: lingbot\n"
    assert "methods: each needs a name of its own, found 'lingbot' more than once" in refusal(write(tmp_path, twice))
    twice = SMALL.replace("methods:", "  - name: synthetic\nmethods:")
    assert "datasets: each needs a name of its own, or a label, found 'synthetic'" in refusal(write(tmp_path, twice))


def test_overrides(tmp_path: Path) -> None:
    experiment = load_experiment(
        write(tmp_path, SMALL),
        [
            "name=other",
            "datasets.0.scenes=[a, b]",
            "datasets.0.selection.stride=3",  # a section that the file does not have
            "methods.0.streaming.window=5",
            "methods.0.model.checkpoint=some=thing.pt",
            "metrics.depth=null",
        ],
    )
    assert experiment.name == "other"
    assert experiment.datasets[0].scenes == ("a", "b")
    assert experiment.datasets[0].selection.stride == 3
    assert experiment.datasets[0].options == {"frames": 20}
    method = experiment.methods[0]
    assert isinstance(method, LingbotConfig)
    assert method.streaming.window == 5
    assert method.model.checkpoint == "some=thing.pt"
    assert experiment.metrics.depth is None


def test_a_section_that_is_null_is_made_by_what_is_put_into_it(tmp_path: Path) -> None:
    source = write(tmp_path, SMALL.replace("options:", "size: null\n    depth_range: [0, 2]\n    options:"))
    (dataset,) = load_experiment(source, ["datasets.0.size.width=224"]).datasets
    assert dataset.size is not None
    assert (dataset.size.width, dataset.depth_range) == (224, (0, 2))


def test_settings_that_are_given_as_values_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hunter3")
    given = yaml.safe_load(SMALL.replace("frames: 20", "token: '${TOKEN}'"))
    before = copy.deepcopy(given)
    changes = {"name": "other", "datasets.0.scenes": ["a", "b"], "datasets.0.selection.stride": 3}
    experiment = load_experiment(given, changes)
    assert (experiment.name, experiment.datasets[0].scenes) == ("other", ("a", "b"))
    assert (experiment.datasets[0].selection.stride, experiment.datasets[0].options) == (3, {"token": "hunter3"})
    assert given == before
    # A mistake names them as the command line would take them.
    with pytest.raises(ConfigError, match=r'--set datasets\.0\.rot=\["x"\]: datasets\.0\.rot: unknown key'):
        load_experiment(given, {"datasets.0.rot": ["x"]})
    with pytest.raises(
        ConfigError, match=r"^set datasets\.1\.root: datasets is a list; expected a position 0…0, found"
    ):
        load_experiment(given, {"datasets.1.root": "x"})


def test_what_a_variable_hands_to_a_program_is_in_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hunter3")
    monkeypatch.setenv("WEIGHTS", str(tmp_path))
    given = yaml.safe_load(SMALL)
    model = {"config": "ci", "checkpoint": "${WEIGHTS}/w.pt"}
    given["methods"] = [
        {"kind": "external", "name": "guest", "command": ["prog", "--token", "${TOKEN}"], "env": {"KEY": "${TOKEN}"}},
        {"kind": "lingbot", "name": "ours", "model": model},
    ]
    guest, ours = load_experiment(given).as_stored()["methods"]
    assert (guest["command"], guest["env"]) == (["prog", "--token", "${TOKEN}"], {"KEY": "${TOKEN}"})
    # Paths that were read are kept.
    assert ours["model"]["checkpoint"] == f"{tmp_path}/w.pt"


def test_what_results_are_filed_under_is_kept_as_it_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a scene in a list."""
    monkeypatch.setenv("WHICH", "room")
    given = yaml.safe_load(SMALL)
    given["datasets"] = [{"name": "synthetic", "label": "my ${WHICH}", "scenes": ["corridor", "${WHICH}"]}]
    given["methods"][0]["name"] = "in ${WHICH}"
    stored = load_experiment(given).as_stored()
    dataset, method = stored["datasets"][0], stored["methods"][0]
    assert (dataset["label"], dataset["scenes"], method["name"]) == ("my room", ["corridor", "room"], "in room")


def test_a_variable_stays_with_the_parts_of_its_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths make several datasets of one, and shift those that come after it."""
    monkeypatch.setenv("TOKEN", "hunter3")
    one = "  - {name: synthetic, label: one, lengths: [5, 9], options: {token: '${TOKEN} 1'}}\n"
    other = "  - {name: synthetic, label: other, options: {token: '${TOKEN} 2'}}\n"
    text = SMALL.replace("  - name: synthetic\n    options: {frames: 20}\n", one + other)
    experiment = load_experiment(write(tmp_path, text)).in_parts()
    assert [dataset.filed_as for dataset in experiment.datasets] == ["one, 5 frames", "one, 9 frames", "other"]
    tokens = [each["options"]["token"] for each in experiment.as_stored()["datasets"]]
    assert tokens == ["${TOKEN} 1", "${TOKEN} 1", "${TOKEN} 2"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("datasets.1.root=x", "--set datasets.1.root=x: datasets is a list; expected a position 0…0, found '1'"),
        ("datasets.first.root=x", "expected a position 0…0, found 'first'"),
        ("datasets.0.name.x=1", "--set datasets.0.name.x=1: datasets.0.name is a value ('synthetic'), not a section"),
        ("datasets.0.rot=x", "datasets.0.rot: unknown key 'rot' (did you mean 'root'?)"),
        ("metics.depth=null", "metics: unknown key 'metics' (did you mean 'metrics'?)"),
        ("methods.0.streaming.window=many", "window=many: methods.0.streaming.window: expected"),
        ("no-equals-sign", "expected KEY.PATH=VALUE"),
        ("=3", "expected KEY.PATH=VALUE"),
        ("a..b=3", "expected KEY.PATH=VALUE"),
        ("name=[1", "not a YAML value"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_named(tmp_path: Path, override: str, says: str) -> None:
    assert says in refusal(write(tmp_path, SMALL), override)


def test_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path, SMALL.replace("options:", "root: ${SOME_ROOT}/data\n    options:"))
    monkeypatch.delenv("SOME_ROOT", raising=False)
    text = refusal(source)
    assert "datasets.0.root: the environment variable SOME_ROOT is not set" in text
    assert "--set datasets.0.root=VALUE" in text
    # An override takes the place of the value before its variables are looked up.
    assert load_experiment(source, ["datasets.0.root=/x"]).datasets[0].root == "/x"
    monkeypatch.setenv("SOME_ROOT", "/here")
    assert load_experiment(source).datasets[0].root == "/here/data"


def test_a_record_has_the_names_of_variables_and_of_paths_the_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record travels; what is in an environment is often meant for nobody else."""
    text = "# export PASSWORD first: ${PASSWORD}\n" + SMALL.replace("options:", "root: ${SOME_ROOT}/data\n    options:")
    source = write(tmp_path, text)
    for name, value in (("SOME_ROOT", "/here"), ("PASSWORD", "hunter2"), ("${K}", "no"), ("TOKEN", "hunter3")):
        monkeypatch.setenv(name, value)
    overrides = ["datasets.0.options.token=${TOKEN} x", "datasets.0.options.list=[1, '${TOKEN}']"]
    experiment = load_experiment(source, overrides)
    dataset = experiment.datasets[0]
    assert dataset.options["token"] == "hunter3 x"
    assert dataset.options["list"] == [1, "hunter3"]
    stored = experiment.as_stored()["datasets"][0]
    assert stored["root"] == "/here/data"
    assert stored["options"]["token"] == "${TOKEN} x"
    assert stored["options"]["list"] == [1, "${TOKEN}"]
    # A comment asks for nothing.
    assert repeated(["lingbot-eval", "run", "x y"], source, overrides) == (
        'SOME_ROOT="$SOME_ROOT" TOKEN="$TOKEN" lingbot-eval run \'x y\''
    )
    # Each variable once, however often it is asked for.
    asked = ["datasets.0.options.token=${TOKEN}${SOME_ROOT}", "datasets.0.options.other=${TOKEN}"]
    assert repeated(["run"], source, asked) == 'SOME_ROOT="$SOME_ROOT" TOKEN="$TOKEN" run'
    # What was decided on later (resolved roots, scenes) keeps the names.
    copied = experiment.model_copy(update={"name": "other"})
    assert copied.as_stored()["datasets"][0]["options"]["token"] == "${TOKEN} x"


def test_shipped_experiments_load_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [experiment_path(name).read_text(encoding="utf-8") for name in shared_names("experiments")]
    for variable in {name for text in texts for name in re.findall(r"\$\{(\w+)\}", text)}:
        monkeypatch.setenv(variable, "/data")
    assert {"smoke", "seven_scenes"} <= set(shared_names("experiments"))
    for name in shared_names("experiments"):
        if not name.startswith("scaling"):  # a study, see tests/scaling/test_settings.py
            assert load_experiment(name).methods


def test_an_unknown_name_lists_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = refusal("smok")
    assert "did you mean 'smoke'?" in text
    assert "seven_scenes" in text


def test_a_file_wins_over_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smoke").write_text(SMALL, encoding="utf-8")
    assert experiment_path("smoke") == Path("smoke")
    assert load_experiment("smoke").name == "small"
    assert "No such file" in refusal("missing.yaml")
    assert "No such file" in refusal("missing.yml")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("${DATA:-/data}/x", "${DATA:-/data}"),
        ("${DATA", "${DATA}"),
        ("${}/x", "${}"),
        ("${A B}", "${A B}"),
        ("${DATA}/${A-b}/${DATA}/${C-d}", "${A-b}"),
        (f"${{{100 * '-'}}}", f"${{{58 * '-'}}}"),
    ],
)
def test_other_ways_of_a_shell_to_write_a_variable_are_refused(
    text: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA", "/somewhere")
    words = rf"datasets\.0\.root: {re.escape(shown)} is not understood.*only \$\{{NAME\}} is"
    with pytest.raises(ConfigError, match=words):
        load_experiment("smoke", [f"datasets.0.root='{text}'"])
