"""Every argument of a public function reaches what does the work: none is ignored, no two change places."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

import lingbot_eval as lb
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.errors import ConfigError
from lingbot_eval.gating.sides import FAMILIES
from lingbot_eval.runs.execute import Observer
from lingbot_eval.streaming.settings import FlowSettings, StreamSettings, WindowedSettings


class Case(NamedTuple):
    """call: the function's arguments by name. function: ``module:name`` where they must arrive, as given (positions as
    a list, names as a mapping). stand_ins: what is not to be done on the way, by ``module:name``."""

    call: dict[str, Any]
    function: str
    given: tuple[list[Any], Mapping[str, Any]]
    stand_ins: Mapping[str, Any] = {}
    own: frozenset[str] = frozenset()


def arguments(*given: Any) -> tuple[Any, ...]:
    return given


UNIT = SimpleNamespace(reconstruction="kept", record=SimpleNamespace(dataset="d", scene="s", method="m"))
OPENED = {
    "lingbot_eval.stored.store:RunStore": SimpleNamespace(open=lambda path: SimpleNamespace(path=path, read_run=dict)),
    "lingbot_eval.api:_results_like": lambda store, pattern: ({f"{store.path} {pattern}": UNIT}, []),
}
CASES: dict[str, Case] = {
    "run": Case(
        {"experiment": "E", "set": ["a=1"], "out": "O", "allow_commands": True, "command": "C", "parallel": "P"},
        "lingbot_eval.runs.execute:execute",
        ([("E", ["a=1"]), Path("O"), "C"], {"allow_commands": True, "parallel": "P"}),
        {"lingbot_eval.api:plan_run": arguments},
        frozenset({"plugins", "observer"}),
    ),
    "fetch_dataset": Case(
        {"name": "N", "root": "R", "scenes": ["a"], "card": "K"},
        "lingbot_eval.datasets.fetch:plan_fetch",
        ([("N", Path("K")), Path("R"), ("a",)], {}),
        {"lingbot_eval.datasets.cards:load_card": arguments},
        frozenset({"agree", "progress"}),
    ),
    "report": Case(
        {"runs": ["A", "B"], "out": "O", "labels": ["a", "b"], "html": False, "notebook": True, "interactive": True},
        "lingbot_eval.reports.report:write_report",
        (
            [[Path("A"), Path("B")], Path("O"), ("a", "b")],
            {"html": False, "notebook": True, "notebook_page": False, "interactive": True},
        ),
        {},
        frozenset({"notebook_page", "drawn"}),
    ),
    "report as a page of a notebook": Case(
        {"runs": "A", "notebook_page": True},
        "lingbot_eval.reports.report:write_report",
        (
            [[Path("A")], Path("A/report"), ()],
            {"html": True, "notebook": False, "notebook_page": True, "interactive": False},
        ),
        {},
        frozenset({"out", "labels", "html", "notebook", "interactive", "drawn"}),
    ),
    "export": Case(
        {"run": "A", "out": "O", "formats": ["ply"], "units": "*", "scale": 2.0, "poses": "P", "share": 0.3},
        "lingbot_eval.viewing.scaled:make_scaled",
        (["kept", "A *"], {"scale": 2.0, "poses": (Path("P"),), "images": "images", "share": 0.3}),
        {
            **OPENED,
            "lingbot_eval.files.trajectories:read_trajectory": arguments,
            "lingbot_eval.runs.plan:opened_images": lambda *_: "images",
        },
        frozenset({"written"}),
    ),
    "export of no voxel, which is for what makes it to refuse": Case(
        {"run": "A", "out": "O", "share": 0.0},
        "lingbot_eval.viewing.scaled:make_scaled",
        (["kept", "A *"], {"scale": None, "poses": None, "images": None, "share": 0.0}),
        OPENED,
        frozenset({"formats", "units", "scale", "poses", "written"}),
    ),
    "export as usual": Case(
        {"run": "A", "out": "O"},
        "lingbot_eval.viewing.scaled:make_scaled",
        (["kept", "A *"], {"scale": None, "poses": None, "images": None, "share": 0.7}),
        OPENED,
        frozenset({"formats", "units", "scale", "poses", "share", "written"}),
    ),
    "render": Case(
        {
            "run": "A",
            "out": "O",
            "settings": "indoor",
            "set": ["fps=9"],
            "units": "u",
            "device": "cuda",
            "on_frame": lambda *_: None,
        },
        "lingbot_eval.viewing.film:render_film",
        (["kept", Path("O/A%20u.mp4"), (9, (43, 43, 43))], {"device": "cuda:0"}),
        {**OPENED, "lingbot_eval.model.build:choose_device": lambda name: f"{name}:0"},
        frozenset({"still"}),
    ),
    "render a still": Case(
        {"run": "A", "out": "O.png", "settings": {"fps": 8}, "still": 3, "device": "cuda"},
        "lingbot_eval.viewing.film:Renderer",
        (["kept", (8, (0, 0, 0)), "cuda:0"], {}),
        {**OPENED, "lingbot_eval.model.build:choose_device": lambda name: f"{name}:0"},
        frozenset({"set", "units", "on_frame"}),
    ),
    "gate": Case(
        {"runs": ["A", "B"], "baseline": "F", "require": ["speed", "accuracy"]},
        "lingbot_eval.gating.judge:judge",
        (
            [("side", "F"), [Path("A"), Path("B")], "the file's", tuple(f for f in FAMILIES if f != "memory")],
            {},
        ),
        {
            "lingbot_eval.gating.sides:run_directories": lambda paths: paths,
            "lingbot_eval.gating.sides:read_runs": lambda paths: paths,
            "lingbot_eval.gating.baseline:load_baseline": lambda path: SimpleNamespace(
                name=str(path), tolerances="the file's"
            ),
            "lingbot_eval.gating.baseline:side_of": lambda kept: ("side", kept.name),
        },
        frozenset({"against"}),
    ),
    "gate live": Case(
        {"runs": "A", "against": ["B", "C"]},
        "lingbot_eval.gating.judge:judge",
        ([[Path("B"), Path("C")], [Path("A")], "default", None], {}),
        {
            "lingbot_eval.gating.sides:run_directories": lambda paths: paths,
            "lingbot_eval.gating.sides:read_runs": lambda paths: paths,
            "lingbot_eval.gating.judge:default_tolerances": lambda: "default",
        },
        frozenset({"baseline", "require"}),
    ),
    "update_baseline": Case(
        {"runs": "A", "baseline": "/nowhere/F", "reason": "why", "who": "me"},
        "lingbot_eval.gating.baseline:updated",
        ([None, SimpleNamespace(problems=()), "me", "why"], {}),
        {
            "lingbot_eval.gating.sides:run_directories": lambda paths: paths,
            "lingbot_eval.gating.sides:read_runs": lambda paths: SimpleNamespace(problems=()),
        },
        frozenset({"left_out"}),
    ),
    "compare": Case({"a": "A", "b": "B"}, "lingbot_eval.reports.two_runs:compare_runs", ([Path("A"), Path("B")], {})),
    "compare_backends": Case(
        {
            "a": "sdpa",
            "b": "paged",
            "experiment": "E",
            "set": ["x=1"],
            "scene": "S",
            "frames": 5,
            "rounds": 2,
            "with_reference": False,
        },
        "lingbot_eval.comparison.backends:compare_backends",
        (["sdpa", "paged", (("E", ["x=1"]), "S", 5), "unit of S"], {"rounds": 2, "with_reference": False}),
        {
            "lingbot_eval.runs.experiment:load_experiment": arguments,
            "lingbot_eval.comparison.contenders:select": lambda *given: SimpleNamespace(unit="unit of S", given=given),
            "lingbot_eval.comparison.contenders:PreparedFrames": lambda unit: SimpleNamespace(
                unit=unit, sequence=SimpleNamespace(length=5)
            ),
        },
        frozenset({"prepared", "each_frame"}),
    ),
    "verify": Case(
        {
            "folder": "D",
            "cases": ["c"],
            "backend": "paged",
            "dtype": "bfloat16",
            "cache_precision": 8,
            "device": "cpu",
        },
        "lingbot_eval.verification.reproduce:verify",
        ([(Path("D"), ("c",)), ("paged", "bfloat16", "cpu", 8)], {}),
        {"lingbot_eval.verification.cases:load_cases": arguments},
    ),
    "check_wrapper": Case(
        {"command": ["x"], "mode": "job", "timeout_s": 7.0},
        "lingbot_eval.verification.wrapper:check_wrapper",
        ([["x"], ("job",), 7.0], {}),
    ),
}


def plain(value: Any) -> Any:
    """What is given on, in a form that can be compared."""
    if hasattr(value, "fps") and hasattr(value, "background"):
        return value.fps, tuple(value.background)
    if hasattr(value, "given"):
        return value.given
    if hasattr(value, "sequence"):
        return value.unit
    if hasattr(value, "precision") and hasattr(value, "backend"):
        return value.backend, value.precision, str(value.device), value.cache_precision
    return value


@pytest.mark.parametrize("name", CASES)
def test_every_argument_is_passed_on(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    public: Callable[..., Any] = getattr(lb, name.split()[0])
    assert set(inspect.signature(public).parameters) == set(case.call) | case.own, "an argument is not in its case"
    seen: list[tuple[list[Any], dict[str, Any]]] = []

    def reached(*args: Any, **kwargs: Any) -> None:
        seen.append(([plain(arg) for arg in args], kwargs))
        raise ConfigError("as far as this")

    for place, stand_in in {**case.stand_ins, case.function: reached}.items():
        module, _, attribute = place.partition(":")
        monkeypatch.setattr(importlib.import_module(module), attribute, stand_in)
    with pytest.raises(ConfigError, match="as far as this"):
        list(public(**case.call) or ())
    ((args, kwargs),) = seen
    args = [arg for arg in args if not callable(arg) and not isinstance(arg, Observer)]
    assert (args, {key: value for key, value in kwargs.items() if not callable(value)}) == case.given


HOME: dict[str, tuple[dict[str, Any], Callable[[Path], list[Any]]]] = {
    "fetch_dataset": ({"root": "~/R", "card": "~/K"}, lambda home: [("N", home / "K"), home / "R", ("a",)]),
    "report as a page of a notebook": ({"runs": "~/A"}, lambda home: [[home / "A"], home / "A/report", ()]),
    "export": ({"run": "~/A", "poses": "~/P", "out": "~/O"}, lambda home: ["kept", f"{home}/A *", (home / "P",)]),
    "render": ({"run": "~/A", "out": "~/O.mp4"}, lambda home: ["kept", home / "O.mp4", (9, (43, 43, 43))]),
    "gate live": (
        {"runs": ["~/A", Path("~/B")], "against": "~/C"},
        lambda home: [[home / "C"], [home / "A", home / "B"], "default", None],
    ),
    "compare": ({"a": "~/A", "b": Path("~/B")}, lambda home: [home / "A", home / "B"]),
}


@pytest.mark.parametrize("name", HOME)
def test_paths_may_be_in_the_users_home(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    seen: Told = []

    def reached(*args: Any, **kwargs: Any) -> None:
        seen.extend([*map(plain, args), *([kwargs["poses"]] if "poses" in kwargs else [])])
        raise ConfigError("as far as this")

    with pytest.raises(ConfigError, match="as far as this"):
        watched(monkeypatch, name, CASES[name].function, reached, **HOME[name][0])
    assert seen == HOME[name][1](tmp_path)


Told = list[Any]


def watched(
    monkeypatch: pytest.MonkeyPatch, name: str, function: str, at_work: Callable[..., Any], **more: Any
) -> None:
    """Calls the function as its case says, with ``at_work`` where the work is done, and ``more`` of its arguments."""
    case = CASES[name]
    for place, stand_in in {**case.stand_ins, function: at_work}.items():
        module, _, attribute = place.partition(":")
        monkeypatch.setattr(importlib.import_module(module), attribute, stand_in)
    getattr(lb, name.split()[0])(**{**case.call, **more})


def test_who_watches_a_report_a_film_or_an_export_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told: Told = []
    write_report, film, formats = (
        "lingbot_eval.reports.report:write_report",
        "lingbot_eval.viewing.film:render_film",
        "lingbot_eval.viewing.export:write_formats",
    )
    watched(monkeypatch, "report", write_report, lambda *_, drawn, **__: drawn(), drawn=lambda: told.append("drawn"))
    watched(
        monkeypatch,
        "render",
        film,
        lambda *_, on_frame, **__: on_frame(3, 7),
        on_frame=lambda *given: told.append(given),
    )
    monkeypatch.setattr("lingbot_eval.viewing.scaled.make_scaled", lambda *_, **__: SimpleNamespace(notes=["n"]))

    def write(scene: object, folder: Path, asked: object, written: Callable[[str], object]) -> dict[str, Any]:
        folder.mkdir(exist_ok=True, parents=True)
        (folder / "cloud.ply").touch()
        written("ply")
        return {"glb": "no cloud"}

    watched(monkeypatch, "export", formats, write, written=told.append)
    assert told == ["drawn", ("A u", 3, 7), "A *: ply"]
    assert (tmp_path / "O" / "cloud.ply").is_file()


@pytest.mark.parametrize("agreed", [True, False])
def test_nothing_is_fetched_without_a_yes(monkeypatch: pytest.MonkeyPatch, agreed: bool) -> None:
    told: Told = []

    def agree(plan: Any) -> bool:
        told.append(plan)
        return agreed

    def progress(what: str, done: int, total: int | None) -> None:
        told.append((what, done, total))

    monkeypatch.setattr("lingbot_eval.datasets.fetch.fetch", lambda plan, said: said(plan, 1, None))
    watched(
        monkeypatch,
        "fetch_dataset",
        "lingbot_eval.datasets.fetch:plan_fetch",
        lambda *_: "P",
        agree=agree,
        progress=progress,
    )
    assert told == ["P", ("P", 1, None)][: 1 + agreed]


@pytest.mark.parametrize("scenes", ["room", ["room"], ("room",)])
def test_one_scene_to_fetch_may_be_named_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scenes: Any) -> None:
    monkeypatch.setattr("lingbot_eval.datasets.fetch.plan_fetch", lambda card, root, scenes: scenes)
    assert lb.fetch_dataset("tum", tmp_path, scenes, agree=lambda _: False) == ("room",)


@pytest.mark.parametrize("labels", ["mine", ["mine"], ("mine",)])
def test_one_label_of_a_report_may_be_given_alone(monkeypatch: pytest.MonkeyPatch, labels: Any) -> None:
    monkeypatch.setattr("lingbot_eval.reports.report.write_report", lambda runs, out, labels, **_: labels)
    assert lb.report("A", labels=labels) == ("mine",)


@pytest.mark.parametrize(("length", "total"), [(5, 25), (None, None)])
def test_a_comparison_of_backends_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, length: int | None, total: int | None
) -> None:
    """Two rounds of two sides and a pass of all together, each of five frames."""
    told: Told = []
    frames = "lingbot_eval.comparison.contenders:PreparedFrames"
    opened = SimpleNamespace(unit="unit of S", sequence=SimpleNamespace(length=length))
    monkeypatch.setattr("lingbot_eval.comparison.backends.compare_backends", lambda *given, **_: given[4]())
    watched(
        monkeypatch,
        "compare_backends",
        frames,
        lambda unit: opened,
        prepared=lambda: told.append("prepared"),
        each_frame=told.append,
    )
    assert told == ["prepared", total]


def test_a_run_loads_its_plugins_and_tells_its_observer(monkeypatch: pytest.MonkeyPatch) -> None:
    told: Told = []

    class Mine(Observer):
        def planned(self, plan: Any) -> None:
            told.append(plan)

    def execute(plan: Any, out: Path, command: str, observer: Observer, **_: Any) -> None:
        told.append(observer)
        raise ConfigError("as far as this")

    monkeypatch.setattr("lingbot_eval.api.load_plugins", told.append)
    observer = Mine()
    with pytest.raises(ConfigError, match="as far as this"):
        watched(monkeypatch, "run", "lingbot_eval.runs.execute:execute", execute, plugins=["p.py"], observer=observer)
    assert told == [["p.py"], ("E", ["a=1"]), observer]


def test_an_update_of_a_baseline_names_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what it was and what it is; a file that is there is what it was."""
    told: Told = []
    side = SimpleNamespace(problems=("damaged: a", "damaged: b"))
    file = tmp_path / "baseline.yaml"
    file.touch()
    monkeypatch.setattr("lingbot_eval.gating.baseline.load_baseline", lambda path: ("read", path))
    monkeypatch.setattr("lingbot_eval.gating.baseline.updated", lambda old, *_: ("after", old))
    monkeypatch.setattr("lingbot_eval.gating.baseline.save_baseline", lambda path, new: told.append((path, new)))
    monkeypatch.setattr("lingbot_eval.gating.sides.run_directories", lambda paths: paths)
    monkeypatch.setattr("lingbot_eval.gating.sides.read_runs", lambda paths: side)
    found = lb.update_baseline("A", file, reason="why", who="me", left_out=told.append)
    assert found == (("read", file), ("after", ("read", file)))
    assert told == ["damaged: a", "damaged: b", (file, found[1])]


def test_what_fits_is_asked_of_each_method_that_streams_and_of_each_size_of_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the place of the method in the experiment; frames are as high and wide as they are prepared."""
    from lingbot_eval.methods.lingbot_config import LingbotConfig
    from lingbot_eval.model.config import CONFIGS
    from lingbot_eval.streaming.estimate import NetworkSize, Stream

    head = {"config": "ci", "camera_iterations": 2, "point_head": True}
    small, full = (
        LingbotConfig.model_validate(
            {"kind": "lingbot", "name": name, "device": device, "precision": precision, **more}
        )
        for name, device, precision, more in (
            ("small", "cpu", "bfloat16", {"model": head, "streaming": {"window": 5}}),
            ("full", "cuda:1", "float16", {"model": {"config": "full"}}),
        )
    )
    other = SimpleNamespace(name="replay")
    lengths = {"a": 10, "b": 10, "c": None, "d": 20}
    units = [SimpleNamespace(method=method, scene=scene) for method in (other, small, full) for scene in lengths]
    units.remove(SimpleNamespace(method=full, scene="d"))
    plan = SimpleNamespace(experiment=SimpleNamespace(methods=(other, small, full)), units=units)
    monkeypatch.setattr("lingbot_eval.api.plan_run", lambda *given: plan if given == ("E", ["a=1"]) else None)
    monkeypatch.setattr("lingbot_eval.model.build.choose_device", lambda name: f"chosen {name}")
    opened = "lingbot_eval.runs.plan.open_scene"
    monkeypatch.setattr(opened, lambda unit: SimpleNamespace(length=lengths[unit.scene]))
    monkeypatch.setattr("lingbot_eval.runs.plan.prepared_size", lambda unit, sequence: (56, 42))
    monkeypatch.setattr("lingbot_eval.streaming.estimate.fit", arguments)
    gigabyte = 10**9
    assert lb.fit("E", "8GB", ["a=1"]) == {
        "methods.1": (
            NetworkSize(CONFIGS["ci"], "bfloat16", 2, True),
            small.streaming,
            (Stream(42, 56, 10), Stream(42, 56, 20)),
            8 * gigabyte,
            "chosen cpu",
        ),
        "methods.2": (
            NetworkSize(CONFIGS["full"], "float16", 4, False),
            full.streaming,
            (Stream(42, 56, 10),),
            8 * gigabyte,
            "chosen cuda:1",
        ),
    }
    monkeypatch.setattr(opened, lambda unit: SimpleNamespace(length=None))
    with pytest.raises(ConfigError, match=r"--fit 8GB: the length of no stream is known; set datasets\.0\.sel"):
        lb.fit("E", "8GB", ["a=1"])


EXPERIMENT_FILE = "benchmarks/experiments/smoke.yaml"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"experiment": {"name": "e"}, "set": ["a=1"]}, "lingbot_eval.run({…}) of a script: the settings are in this"),
        ({"experiment": EXPERIMENT_FILE}, f"lingbot-eval run {EXPERIMENT_FILE}"),
        (
            {"experiment": Path(EXPERIMENT_FILE), "set": {"name": "x y", "a.0": [1]}, "out": "my runs"},
            f"lingbot-eval run {EXPERIMENT_FILE} --set 'name=\"x y\"' --set 'a.0=[1]' --out 'my runs'",
        ),
        (
            {"experiment": EXPERIMENT_FILE, "set": ["a=1", "b=2"]},
            f"lingbot-eval run {EXPERIMENT_FILE} --set a=1 --set b=2",
        ),
        ({"experiment": EXPERIMENT_FILE, "out": "runs", "command": "as I said"}, "as I said"),
    ],
)
def test_a_record_says_how_the_run_of_a_script_is_repeated(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], words: str
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    commands: list[str] = []

    def execute(plan: Any, out: Path, command: str, *_: Any, **__: Any) -> None:
        commands.append(command)
        raise ConfigError("as far as this")

    monkeypatch.setattr("lingbot_eval.runs.execute.execute", execute)
    monkeypatch.setattr("lingbot_eval.api.plan_run", arguments)
    with pytest.raises(ConfigError, match="as far as this"):
        lb.run(**given)
    assert [command[: len(words)] for command in commands] == [words]
    assert "\n" not in commands[0]
    assert commands[0] == words or words.startswith("lingbot_eval.run(")


USUAL: dict[str, dict[str, Any]] = {
    "load_model": {"weights": "shipped", "config": None, "device": "auto", "precision": "float32", "backend": "auto"}
    | {"cache_precision": None, "seed": 0},
    "open_dataset": {"root": None, "card": None},
    "read_trajectory": {"format": "auto", "time_scale": None, "time_offset": 0.0},
    "score": {"align": "sim3", "anchor_frames": 8, "max_difference": 0.01, "without": (), "progress": None},
    "plan_run": {"set": ()},
    "fit": {"set": ()},
    "run": {"set": (), "out": Path("runs"), "plugins": (), "allow_commands": False, "command": None}
    | {"observer": None, "parallel": None},
    "report": {"out": None, "labels": (), "html": True, "notebook": False, "notebook_page": False}
    | {"interactive": False},
    "gate": {"baseline": None, "against": None, "require": None},
    "compare_backends": {"experiment": "smoke", "set": (), "scene": None, "frames": None, "rounds": 5}
    | {"with_reference": True},
    "verify": {"folder": None, "cases": (), "backend": "sdpa", "dtype": "float32", "cache_precision": None}
    | {"device": "cpu"},
    "check_wrapper": {"mode": None, "timeout_s": 600},
    "export": {"formats": ("ply", "tum"), "units": "*", "scale": None, "poses": None, "share": None},
    "fetch_dataset": {"scenes": (), "card": None},
    "render": {"settings": "default", "set": (), "units": "*", "still": None, "device": "cpu"},
    "view": {"root": None, "model": "shipped", "config": None, "device": "auto", "frames": None, "stride": None}
    | {"sky": "heuristic", "html": None, "colour": "picture", "points": None, "port": 8080},
    "open_runs": {"labels": ()},
    "listed": {"pattern": "*"},
    "metric": {"better": None, "name": None, "align": None, "headline": True},
    "load_plugins": {"sources": ()},
    "Dataset.scene": {"name": None, "start": 0, "stride": None, "count": None},
    "Model.session": {"window": None, "keyframe_interval": "auto", "scale_frames": 8, "flow": None, "windowed": None}
    | {"frames": None, "size": None},
    "Session.step": {"timestamp": None},
    "Run.report": {"out": None},
}
"""What stands where nothing is asked, as the documentation has it."""


def test_where_nothing_is_asked_the_usual_is_done() -> None:
    functions = {name: getattr(lb, name) for name in lb._PUBLIC if inspect.isfunction(getattr(lb, name))}
    methods = (lb.Dataset.scene, lb.Model.session, lb.Session.step, lb.Run.report)
    functions |= {method.__qualname__: method for method in methods}
    found = {
        name: {
            parameter.name: parameter.default
            for parameter in inspect.signature(function).parameters.values()
            if parameter.default is not parameter.empty and not callable(parameter.default)
        }
        for name, function in functions.items()
    }
    assert {name: usual for name, usual in found.items() if usual} == USUAL


def test_every_public_function_that_does_something_is_here() -> None:
    """`view` streams or shows, `plan_run` and `fit` are what `run` does first: they are asked elsewhere."""
    known = {name.split()[0] for name in CASES} | {"view", "plan_run", "fit"}
    functions = {name for name, (module, _) in lb._PUBLIC.items() if module == "lingbot_eval.api"}
    assert functions == known


def test_a_session_streams_as_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of a session of a model, one by one, and what stands where nothing is asked."""
    from lingbot_eval.methods import model as model_module

    asked: list[Any] = []

    def opened(
        network: object, streaming: StreamSettings, *, frames: int | None, camera_iterations: int, checks_late: bool
    ) -> None:
        assert checks_late
        asked.append((streaming, frames, camera_iterations))
        raise ConfigError("as far as this")

    monkeypatch.setattr(model_module, "open_session", opened)
    model = lb.load_model(None, config="ci", device="cpu", backend="paged", cache_precision=8, seed=3)
    cases: dict[str, tuple[Any, Any]] = {
        "window": (5, 5),
        "keyframe_interval": (4, 4),
        "scale_frames": (3, 3),
        "flow": ({"threshold": 9.0}, FlowSettings(threshold=9.0)),
        "windowed": ({"size": 20}, WindowedSettings(size=20)),
    }
    for name, (given, found) in cases.items():
        with pytest.raises(ConfigError, match="as far"):
            model.session(**{name: given})
        streaming, frames, _ = asked.pop()
        plain_settings = StreamSettings(keyframe_interval=1, backend="paged", cache_precision=8)
        assert streaming == plain_settings.model_copy(update={name: found}), name
        assert frames is None
    with pytest.raises(ConfigError, match="as far"):
        model.session(frames=700)
    assert asked.pop()[:2] == (StreamSettings(backend="paged", cache_precision=8), 700)
    known = set(inspect.signature(lb.Model.session).parameters) - {"self", "frames", "size"}
    assert known == set(cases), "a setting of a session is not asked for here"


def test_a_scene_is_selected_as_it_is_asked_for() -> None:
    dataset = lb.open_dataset("synthetic", frames=20, width=28, height=28)
    scene = dataset.scene("room", start=3, stride=4, count=2)
    assert [frame.timestamp for frame in scene] == pytest.approx([3 / 30, 7 / 30])
    assert set(inspect.signature(lb.Dataset.scene).parameters) == {"self", "name", "start", "stride", "count"}
    assert set(Selection.model_fields) == {"start", "stride", "count"}
