"""Plans: defaults filled in, missing things found before anything runs, and a key for everything that counts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from fakes import FakeAdapter, FakeSequence, World, experiment
from safetensors.torch import load_file

import lingbot_eval
from lingbot_eval import registry
from lingbot_eval.datasets.cards import load_card
from lingbot_eval.datasets.registry import DATASETS
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.errors import CheckpointError, ConfigError, DataError
from lingbot_eval.methods.base import METHODS, WeightFile
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.metrics.base import FAMILIES, METRICS
from lingbot_eval.model import weights as weight_files
from lingbot_eval.registry import load_plugins
from lingbot_eval.resources import shipped_weights
from lingbot_eval.runs import plan as plan_module
from lingbot_eval.runs.experiment import Experiment
from lingbot_eval.runs.plan import code_digest, input_fingerprint, make_plan, open_scene, opened_images
from tests.stored.store_records import make_run_record, make_unit_record


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    made.install(monkeypatch)
    return made


def test_defaults_come_from_the_card() -> None:
    card = load_card("synthetic")
    (dataset,) = make_plan(experiment(dataset={"size": None})).experiment.datasets
    assert dataset.selection.stride == card.protocol.stride
    assert dataset.size == card.protocol.size
    assert dataset.scenes == ("one", "two")
    assert dataset.depth_range == (card.protocol.min_depth, card.protocol.max_depth)


def test_what_the_experiment_says_wins() -> None:
    given = {"selection": {"stride": 4}, "depth_range": [1, 2], "scenes": ["two"], "root": "some/where"}
    plan = make_plan(experiment(dataset=given))
    (dataset,) = plan.experiment.datasets
    assert dataset.selection.stride == 4
    assert dataset.depth_range == (1, 2)
    assert dataset.root == str(Path.cwd() / "some/where")
    assert [unit.names for unit in plan.units] == [("synthetic", "two", "good")]
    (dataset,) = make_plan(experiment(metrics={"depth": {"max_depth": 7}})).experiment.datasets
    assert dataset.depth_range == (load_card("synthetic").protocol.min_depth, 7)


@pytest.mark.parametrize(
    ("selection", "depth", "stride", "limits"),
    [
        ({}, {}, 3, (0.5, 9.0)),
        ({"count": 5}, {"min_valid_pixels": 7}, 3, (0.5, 9.0)),
        ({"stride": 1}, {"min_depth": 0.0}, 1, (0.0, 9.0)),
        ({}, {"max_depth": 80.0}, 3, (0.5, 80.0)),
    ],
)
def test_what_is_given_wins_over_the_card_though_it_is_what_stands_without_one(
    tmp_path: Path, selection: dict[str, int], depth: dict[str, Any], stride: int, limits: tuple[float, float]
) -> None:
    card = load_card("synthetic").model_dump(mode="json", exclude_none=True)
    card["protocol"] |= {"stride": 3, "min_depth": 0.5, "max_depth": 9.0}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
    given = {"card": str(tmp_path / "mine.yaml"), "selection": selection}
    (dataset,) = make_plan(experiment(dataset=given, metrics={"depth": depth})).experiment.datasets
    assert (dataset.selection.stride, dataset.depth_range) == (stride, limits)


def test_a_root_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    (dataset,) = make_plan(experiment(dataset={"root": "~/data"})).experiment.datasets
    assert dataset.root == "/home/somebody/data"


def test_a_card_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    card = load_card("synthetic").model_dump(mode="json", exclude_none=True)
    card["protocol"]["stride"] = 5
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
    (dataset,) = make_plan(experiment(dataset={"card": "~/mine.yaml"})).experiment.datasets
    assert dataset.selection.stride == 5


def test_masks_that_are_not_there_are_told_with_the_plan(world: World) -> None:
    with pytest.raises(ConfigError, match="/nowhere"):
        make_plan(experiment(keep={"masks": "/nowhere"}))
    assert world.adapter.opened == []


def test_units_in_order() -> None:
    document = experiment("a", "b").model_dump(mode="json")
    document["datasets"] = [{"name": "synthetic", "label": label, "scenes": ["two", "one"]} for label in "yx"]
    names = [unit.names for unit in make_plan(Experiment.model_validate(document)).units]
    assert names == [(label, scene, method) for method in "ab" for label in "yx" for scene in ("two", "one")]
    names = [unit.names for unit in make_plan(experiment("a", "b")).units]
    assert names == [("synthetic", scene, method) for method in ("a", "b") for scene in ("one", "two")]


def test_an_unknown_scene_is_found_before_anything_runs() -> None:
    with pytest.raises(DataError, match="no scene 'tow'; there are: one, two"):
        make_plan(experiment(dataset={"scenes": ["one", "tow"]}))


def test_a_dataset_without_scenes(world: World) -> None:
    world.adapter.scenes_there = {}
    words = "^dataset synthetic: no scene to run under /nowhere, found nothing; check root and scenes$"
    with pytest.raises(DataError, match=words):
        make_plan(experiment(dataset={"root": "/nowhere"}))


def test_scenes_that_the_protocol_leaves_out_run_only_when_they_are_named(tmp_path: Path) -> None:
    card = load_card("synthetic").model_dump(mode="json") | {"scenes_left_out": {"one": "it has no depth"}}
    (tmp_path / "synthetic.yaml").write_text(yaml.safe_dump(card))
    for scenes, found in (("all", ("two",)), (["one", "two"], ("one", "two"))):
        (dataset,) = make_plan(experiment(dataset={"card": str(tmp_path), "scenes": scenes})).experiment.datasets
        assert dataset.scenes == found
    card["scenes_left_out"]["two"] = "nor has it"
    (tmp_path / "synthetic.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(DataError, match="found one, two, which the protocol leaves out"):
        make_plan(experiment(dataset={"card": str(tmp_path)}))


@pytest.mark.parametrize("whole", [False, True], ids=["file", "package"])
def test_the_key_follows_every_file_of_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    """A package with its subpackages; the plugin brings the metric."""
    text = "import lingbot_eval as lb\n@lb.metric('depth', unit='m', convention='c')\ndef own(t, p): return 0.0\n"
    package = tmp_path / f"stale_plugin_{whole}"
    (package / "inner").mkdir(parents=True)
    files = [package / "__init__.py", package / "inner" / "__init__.py", package / "inner" / "deep.py"]
    for file in files:
        file.write_text(text if file is files[0] else "")
    monkeypatch.syspath_prepend(str(tmp_path))
    keys = []
    for file in [None, *(files if whole else files[:1]), None]:
        if file is not None:
            file.write_text(file.read_text() + "one = 1\n")
        for name in [name for name in sys.modules if name.startswith("stale_plugin")]:
            del sys.modules[name]
        with monkeypatch.context() as registries:
            registries.setattr(registry, "_PLUGINS", dict(registry._PLUGINS))
            for known in (DATASETS, METHODS, METRICS, FAMILIES):
                registries.setattr(known, "_added", dict(known._added))
            load_plugins([package.name if whole else str(files[0])])
            keys.append(make_plan(experiment()).key)
    assert len(set(keys)) == len(keys) - 1, "each change is another key"
    assert keys[-1] == keys[-2], "no change is none"


@pytest.mark.parametrize("brings", ["DATASETS", "METHODS", "METRICS", "FAMILIES"])
def test_the_key_follows_a_plugin_whatever_it_brings(monkeypatch: pytest.MonkeyPatch, brings: str) -> None:
    keys = {make_plan(experiment()).key}
    for plugin in (registry.Plugin("mine", "a", "mine.py"), registry.Plugin("mine", "b", "mine.py")):
        made = SimpleNamespace(plugin=lambda name, plugin=plugin: plugin, names=lambda: ["own"])
        monkeypatch.setattr(plan_module, brings, made)
        keys.add(make_plan(experiment()).key)
    assert len(keys) == 3


def test_every_scene_is_opened_once(world: World) -> None:
    make_plan(experiment("a", "b", "c"))
    assert world.adapter.opened == ["one", "two"]


def test_units_of_a_dataset_share_it_and_have_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two datasets of one name, with other roots and other options."""
    opened: list[tuple[object, ...]] = []

    def open_adapter(name: str, root: Path | None, options: dict[str, Any]) -> FakeAdapter:
        opened.append((name, root, options))
        return FakeAdapter({scene: {"version": f"{root} {options}"} for scene in ("one", "two")})

    monkeypatch.setattr(plan_module, "open_adapter", open_adapter)
    document = experiment().model_dump(mode="json")
    given = [{"root": "/a"}, {"label": "b", "root": "/b"}, {"label": "c", "root": "/b", "options": {"seed": 1}}]
    document["datasets"] = [{"name": "synthetic", **each} for each in given]
    units = make_plan(Experiment.model_validate(document)).units
    opened.clear()
    adapters: dict[int, Any] = {}
    found = [open_scene(unit, adapters) for unit in units]
    assert [(each.scene, getattr(each, "version", None)) for each in found] == [
        (scene, version) for version in ("/a {}", "/b {}", "/b {'seed': 1}") for scene in ("one", "two")
    ]
    assert opened == [
        ("synthetic", Path(root), options) for root, options in (("/a", {}), ("/b", {}), ("/b", {"seed": 1}))
    ]


def test_a_missing_checkpoint_and_device() -> None:
    method: dict[str, Any] = {"kind": "lingbot", "device": "cpu", "model": {"checkpoint": "nowhere/weights.pt"}}
    with pytest.raises(CheckpointError, match=r"nowhere/weights\.pt"):
        make_plan(experiment(methods=[method]))
    with pytest.raises(ConfigError, match="cuda:99"):
        make_plan(experiment(methods=[{"kind": "lingbot", "device": "cuda:99"}]))


def test_auto_device_is_resolved() -> None:
    (method,) = make_plan(experiment(methods=[{"kind": "lingbot", "device": "auto"}])).experiment.methods
    assert getattr(method, "device", None) in ("cpu", "cuda:0")


def test_the_key_stays_and_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(*methods: str, **changes: Any) -> str:
        return make_plan(experiment(*methods, **changes)).key

    keys = [
        key(),
        key("other"),
        key(dataset={"selection": {"stride": 2}}),
        key(dataset={"scenes": ["one"]}),
        key(dataset={"options": {"seed": 1}}),
        key(dataset={"depth_range": [0.5, 5]}),
        key(metrics={"trajectory": {"rpe_delta_frames": 2}}),
        key(methods=[{"kind": "lingbot", "name": "good", "device": "cpu", "streaming": {"window": 3}}]),
        key(methods=[{"kind": "lingbot", "name": "good", "device": "cpu", "model": {"seed": 1}}]),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]
    # Saying a default changes nothing.
    assert key(dataset={"scenes": ["one", "two"], "options": {}}) == keys[0]
    for file in (WeightFile("w.pt", "a" * 64), WeightFile("w.pt", "b" * 64), WeightFile("v.pt", "b" * 64)):
        with monkeypatch.context() as others:
            others.setattr(LingbotConfig, "weights", lambda self, file=file: file)
            keys.append(key())
    assert len(set(keys)) == len(keys), "weights of one name may be others"
    monkeypatch.setattr(lingbot_eval, "__version__", "another")
    assert key() != keys[0]
    monkeypatch.undo()
    monkeypatch.setattr(plan_module, "code_digest", lambda *, of_study=False: "other code")
    assert key() != keys[0]


def test_the_key_follows_the_card_that_travels_with_the_results(tmp_path: Path) -> None:
    """Also what decides no number, as reports show it; how the data are had is of no result."""
    file = tmp_path / "mine.yaml"
    card = load_card("synthetic").model_dump(mode="json", exclude_none=True)

    def key() -> str:
        file.write_text(yaml.safe_dump(card), encoding="utf-8")
        return make_plan(experiment(dataset={"card": str(file)})).key

    first = key()
    card["download"] = {"page": "https://example.org", "steps": ["ask them"]}
    assert key() == first
    card["protocol"]["notes"] = ["other words"]
    assert key() != first


def test_what_a_unit_is_made_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scene's files and the method's own; of a method that cannot tell whether it changed never the same."""
    unit = make_plan(experiment(dataset={"label": "mine"})).units[0]
    file = tmp_path / "poses.txt"
    asked: list[tuple[str, str]] = []

    def input_files(settings: object, dataset: str, scene: str) -> tuple[Path, ...]:
        asked.append((dataset, scene))
        return (file,)

    def found(version: str = "1") -> str:
        return input_fingerprint(unit, FakeSequence("one", Selection(), version=version))

    monkeypatch.setattr(type(unit.method), "input_files", input_files)
    file.write_text("0 0")
    first = found()
    assert found() == first != found("2")
    assert set(asked) == {("synthetic", "one")}, "whatever its results are filed under"
    file.write_text("0 1")
    changed = found()
    assert changed != first
    file.unlink()
    assert found() not in (first, changed)
    monkeypatch.setattr(type(unit.method), "repeatable", False)
    assert found() != found()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("synthetic", "one", "other"), "its experiment has no synthetic with other"),
        (("tum", "one", "good"), "its experiment has no tum with good"),
    ],
)
def test_images_of_what_is_not_of_a_run_are_not_opened(names: tuple[str, str, str], found: str) -> None:
    run = make_run_record(experiment={**make_plan(experiment()).experiment.as_stored(), "cards": {}})
    with pytest.raises(ConfigError, match=f"^run smoke: {found}$"):
        opened_images(run, make_unit_record(names))


@pytest.mark.parametrize("repeatable", [True, False])
def test_images_of_a_run_are_those_that_its_method_saw(monkeypatch: pytest.MonkeyPatch, repeatable: bool) -> None:
    """Of the selection, at the size, as often as they are asked for; a method that cannot tell itself again may show
    them, too."""
    size = {"mode": "exact", "width": 14, "height": 28}
    plan = make_plan(experiment(dataset={"label": "mine", "selection": {"start": 1, "stride": 5}, "size": size}))
    unit = plan.units[1]
    monkeypatch.setattr(type(unit.method), "repeatable", repeatable)
    record = make_unit_record(
        unit.names, input_fingerprint=input_fingerprint(unit, FakeSequence("two", unit.dataset.selection))
    )
    images = opened_images(make_run_record(experiment={**plan.experiment.as_stored(), "cards": {}}), record)
    for _ in range(2):
        found = [(index, image.shape, int(image[0, 0, 0])) for index, image in images()]
        assert found == [(index, (28, 14, 3), 1 + 5 * index) for index in range(5)]


def test_the_key_follows_the_masks_that_decide_what_is_kept(tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    keys = []
    for name, content in (("0.png", b"a"), ("0.png", b"ab"), ("1.png", b"a")):
        (masks / name).write_bytes(content)
        os.utime(masks / name, ns=(1, 1))
        keys += [make_plan(experiment(keep={"masks": str(masks)})).key for _ in range(2)]
    assert keys[::2] == keys[1::2]
    assert len(set(keys)) == 3


def test_the_key_follows_the_checkpoint_content(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    state = load_file(shipped_weights())
    torch.save(state, weights)
    method = {"kind": "lingbot", "device": "cpu", "model": {"config": "ci", "checkpoint": str(weights)}}
    hashed: list[int] = []

    def key() -> str:
        plan = make_plan(experiment(methods=[method]))
        hashed.append(weight_files._sha256.cache_info().misses)
        assert "weights.pt, SHA-256 " in plan.weights["lingbot"]
        return plan.key

    first = key()
    assert key() == first
    assert hashed[0] == hashed[1], "hashed again although nothing changed"
    next(iter(state.values())).add_(1)
    torch.save(state, weights)
    os.utime(weights, ns=(1, 1))
    assert key() != first


def test_what_is_no_checkpoint_is_refused_with_the_plan(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    method = {"kind": "lingbot", "device": "cpu", "model": {"checkpoint": str(tmp_path / "weights.pt")}}
    with pytest.raises(CheckpointError, match="a Git LFS pointer in place of the weights"):
        make_plan(experiment(methods=[method]))


def test_the_key_is_the_same_in_another_process() -> None:
    code = (
        "from lingbot_eval.runs.experiment import load_experiment\n"
        "from lingbot_eval.runs.plan import make_plan\n"
        "import sys; sys.stdout.write(make_plan(load_experiment('smoke', ['methods.0.device=cpu'])).key)"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(keys) == 1


def test_remembered_digests_of_sources_change_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # A few of the sources: they are parsed five times.
    package = Path(lingbot_eval.__file__).parent
    for name in ("__init__.py", "types.py", "metrics/depth.py", "runs/attempt.py"):
        (tmp_path / "package" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(package / name, tmp_path / "package" / name)
    monkeypatch.setattr(lingbot_eval, "__file__", str(tmp_path / "package" / "__init__.py"))

    def of_new_process() -> str:
        code_digest.cache_clear()
        return code_digest()

    first = of_new_process()
    (kept,) = tmp_path.glob("lingbot-eval/code/*.json")
    with monkeypatch.context() as once:
        once.setattr(plan_module, "parsed_digest", lambda content: pytest.fail("parsed again"))
        assert of_new_process() == first
    sources = json.loads(kept.read_text())
    of_the_sources = [json.dumps(dict.fromkeys(sources, value)) for value in (1, "0")]
    for damaged in ("", "[]", '{"a": 1}', '{"a": "0"}', *of_the_sources):
        kept.write_text(damaged)
        assert of_new_process() == first
    code_digest.cache_clear()


SOURCES = {
    # Whether a run, and whether a study, is another one when it changes.
    "metrics/depth.py": (True, True),
    "runs/attempt.py": (True, True),
    "datasets/tum.py": (True, True),
    "prepare.py": (True, True),
    "streaming/policy.py": (True, True),
    "viewing/kept.py": (True, True),
    "viewing/cloud.py": (True, True),
    "viewing/masks.py": (True, True),
    "types.py": (True, True),
    "scaling/execute.py": (False, True),
    "scaling/page.py": (False, False),
    "viewing/page.py": (False, False),
    "reports/tables.py": (False, False),
    "gating/judge.py": (False, False),
    "comparison/backends.py": (False, False),
    "verification/reproduce.py": (False, False),
    "cli/main.py": (False, False),
    "datasets/check/check.py": (False, False),
    "datasets/convert.py": (False, False),
    "runs/workers.py": (False, False),
    "stored/lock.py": (False, False),
    "tables.py": (False, False),
    "plots.py": (False, False),
    "settings.py": (True, True),
}


def test_code_that_computes_decides_the_key_and_code_that_shows_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    package, real = tmp_path / "lingbot_eval", Path(lingbot_eval.__file__).parent
    for path in ("__init__.py", *SOURCES):
        assert (real / path).is_file(), path
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text("'What it is.'\nONE = 1\n")
    monkeypatch.setattr(lingbot_eval, "__file__", str(package / "__init__.py"))

    def digests() -> tuple[str, str]:
        code_digest.cache_clear()
        return code_digest(), code_digest(of_study=True)

    found = {}
    for path in SOURCES:
        before = digests()
        (package / path).write_text("# a comment\n'Other words.'\nONE   = 1\n")
        assert digests() == before, f"{path}: words decide nothing"
        (package / path).write_text("ONE = 2\n")
        found[path] = tuple(old != new for old, new in zip(before, digests(), strict=True))
    before = digests()
    (package / "types.py").rename(package / "kinds.py")
    assert digests() != before, "code under another name is other code"
    code_digest.cache_clear()
    assert found == SOURCES
