"""Every option of every command reaches what does the work: none is accepted and ignored."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lingbot_eval.cli.main import build_parser, main
from lingbot_eval.errors import ConfigError
from lingbot_eval.runs.execute import Parallel


class Case(NamedTuple):
    """function: ``module:name`` that is called. given: what it must be given, callables aside. own: options that the
    command answers itself, with tests of their own."""

    words: str
    function: str
    given: tuple[list[Any], dict[str, Any]]
    own: frozenset[str] = frozenset()


API = "lingbot_eval.api:"
WORDS = ("root", "config", "device", "frames", "stride", "sky", "html", "colour", "points", "port", "open")
VIEW = frozenset(f"--{word}" for word in WORDS)
"""Options of ``view``, but for the one that names weights."""
VIEWED: dict[str, Any] = {
    "root": None,
    "model": "shipped",
    "config": None,
    "device": "auto",
    "frames": None,
    "stride": None,
    "sky": "heuristic",
    "html": None,
    "colour": "picture",
    "points": None,
    "port": 8080,
}
"""What a scene is viewed with where nothing is said."""
CASES = {
    "run": Case(
        "run smoke --root R --checkpoint lingbot-map --set name=x --out O --allow-commands --workers 3 --shard 2/4"
        " --share-host",
        f"{API}run",
        (
            ["smoke"],
            {
                "set": [
                    'datasets.0.root="R"',
                    'methods.0.model.checkpoint="lingbot-map"',
                    "methods.0.model.config=full",
                    "datasets.0.size=null",
                    "name=x",
                ],
                "out": Path("O"),
                "allow_commands": True,
                "command": "lingbot-eval run smoke --root R --checkpoint lingbot-map --set name=x --out O"
                " --allow-commands",
                "parallel": Parallel(3, (2, 4), None, True),
            },
        ),
        # A cluster's scheduler excludes the other two; what fits is found by a function of its own.
        frozenset({"--dry-run", "--report", "--scheduler", "--fit"}),
    ),
    "report": Case(
        "report A B --out O --label a --label b --no-html --notebook --notebook-html --interactive",
        f"{API}report",
        (
            [["A", "B"], "O"],
            {"labels": ["a", "b"], "html": False, "notebook": True, "notebook_page": True, "interactive": True},
        ),
    ),
    "report (the notebook alone)": Case(
        "report A --notebook",
        f"{API}report",
        (
            [["A"], "A/report"],
            {"labels": [], "html": True, "notebook": True, "notebook_page": False, "interactive": False},
        ),
        frozenset({"--out", "--label", "--html", "--notebook-html", "--interactive"}),
    ),
    "render": Case(
        "render A -o O.png --settings indoor --set fps=9 --units */a/* --still 3 --device cuda",
        f"{API}render",
        (
            [Path("A"), Path("O.png"), "indoor"],
            {"set": ["fps=9"], "units": "*/a/*", "still": 3, "device": "cuda"},
        ),
    ),
    "export": Case(
        "export A -o O --format ply tum --format glb --units */a/* --scale 2.5 --poses P --share 0.25",
        f"{API}export",
        (
            [Path("A"), Path("O"), ["ply", "tum", "glb"]],
            {"units": "*/a/*", "scale": 2.5, "poses": Path("P"), "share": 0.25},
        ),
    ),
    "export (two points)": Case(
        "export A -o O --scale 1,2,3:4,5,-6e1=7",
        f"{API}export",
        (
            [Path("A"), Path("O"), ("ply", "tum")],
            {"units": "*", "scale": ((1.0, 2.0, 3.0), (4.0, 5.0, -60.0), 7.0), "poses": None, "share": None},
        ),
        frozenset({"--format", "--units", "--poses", "--share"}),
    ),
    "view": Case(
        "view A --root R --checkpoint C --config mini --device cpu --frames 100 --stride 5 --sky S --html H"
        " --colour frame --points 7000 --port 81",
        f"{API}view",
        (
            ["A"],
            {
                "root": Path("R"),
                "model": "C",
                "config": "mini",
                "device": "cpu",
                "frames": 100,
                "stride": 5,
                "sky": "S",
                "html": Path("H"),
                "colour": "frame",
                "points": 7000,
                "port": 81,
            },
        ),
        frozenset({"--open"}),
    ),
    "view (images alone, without weights)": Case(
        "view A --checkpoint none",
        f"{API}view",
        (
            ["A"],
            VIEWED | {"model": None},
        ),
        VIEW,
    ),
    "view (nothing said)": Case(
        "view A",
        f"{API}view",
        (
            ["A"],
            VIEWED,
        ),
        frozenset({"--checkpoint", *VIEW}),
    ),
    "scale": Case(
        "scale scaling --set name=x --set device=cpu --out O --scheduler S --share-host --allow-commands",
        "lingbot_eval.scaling.execute:execute",
        (
            [
                Path("O"),
                "lingbot-eval scale scaling --set name=x --set device=cpu --out O --allow-commands",
                Parallel(1, None, "S", True),
            ],
            {"allow_commands": True},
        ),
        frozenset({"--dry-run", "--workers", "--shard"}),
    ),
    "compare": Case(
        "compare sdpa paged:bfloat16 --out O --experiment E --scene S --frames 3 --rounds 4 --set a=1 --no-reference",
        f"{API}compare_backends",
        (
            ["sdpa", "paged:bfloat16"],
            {"experiment": "E", "set": ["a=1"], "scene": "S", "frames": 3, "rounds": 4, "with_reference": False},
        ),
        frozenset({"--out"}),
    ),
    "compare (nothing said)": Case(
        "compare sdpa paged",
        f"{API}compare_backends",
        (
            ["sdpa", "paged"],
            {"experiment": "smoke", "set": (), "scene": None, "frames": None, "rounds": 5, "with_reference": True},
        ),
        frozenset({"--out", "--experiment", "--scene", "--frames", "--rounds", "--set", "--no-reference"}),
    ),
    "gate": Case(
        "gate A B --baseline F --require speed accuracy",
        f"{API}gate",
        ([[Path("A"), Path("B")]], {"baseline": Path("F"), "against": None, "require": ["speed", "accuracy"]}),
        frozenset({"--against", "--update", "--reason", "--who", "--junit", "--markdown"}),
    ),
    "gate (live)": Case(
        "gate A --against B C",
        f"{API}gate",
        ([[Path("A")]], {"baseline": None, "against": [Path("B"), Path("C")], "require": None}),
        frozenset({"--baseline", "--require", "--update", "--reason", "--who", "--junit", "--markdown"}),
    ),
    "gate (update)": Case(
        "gate A --baseline F --update --reason why --who me",
        f"{API}update_baseline",
        ([[Path("A")], Path("F")], {"reason": "why", "who": "me"}),
        frozenset({"--against", "--require", "--junit", "--markdown"}),
    ),
    "verify": Case(
        "verify D --case a --case b --backend paged --dtype bfloat16 --cache-precision 8 --device cpu",
        f"{API}verify",
        (
            [Path("D")],
            {"cases": ["a", "b"], "backend": "paged", "dtype": "bfloat16", "cache_precision": 8, "device": "cpu"},
        ),
    ),
    "verify (the shipped set)": Case(
        "verify",
        f"{API}verify",
        (
            [None],
            {"cases": [], "backend": "sdpa", "dtype": "float32", "cache_precision": None, "device": "cpu"},
        ),
        frozenset({"--case", "--backend", "--dtype", "--cache-precision", "--device"}),
    ),
    "external check (both ways)": Case(
        "external check wrap",
        f"{API}check_wrapper",
        ([["wrap"]], {"mode": None, "timeout_s": 600}),
        frozenset({"--mode", "--timeout"}),
    ),
    "render (the default film)": Case(
        "render A -o O",
        f"{API}render",
        ([Path("A"), Path("O"), "default"], {"set": [], "units": "*", "still": None, "device": "cpu"}),
        frozenset({"--settings", "--set", "--units", "--still", "--device"}),
    ),
    "external check": Case(
        "external check --mode job --timeout 9 python wrap.py",
        f"{API}check_wrapper",
        ([["python", "wrap.py"]], {"mode": "job", "timeout_s": 9.0}),
    ),
    "datasets check": Case(
        "datasets check seven_scenes --root R --scene a --scene b --option split=a=b --option n=3 --decode",
        "lingbot_eval.datasets.check.check:examine",
        (["seven_scenes", Path("R"), {"split": "a=b", "n": 3}, Path("R"), ("a", "b"), "decoded"], {}),
        frozenset({"--figures"}),
    ),
}


def options(words: list[str]) -> set[str]:
    """The longest name of each option of the command that the words begin with, those of all commands aside."""
    parser: argparse.ArgumentParser = build_parser()
    for word in words:
        inner = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if not inner or word not in inner[0]:
            break
        parser = inner[0][word]
    actions = [action for action in parser._actions if action.option_strings]
    return {action.option_strings[1 if len(action.option_strings[0]) == 2 else 0] for action in actions} - {
        *("--help", "--json", "--plugin", "-h")
    }


@pytest.mark.parametrize("name", CASES)
def test_every_option_is_passed_on(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run in "AB":
        (tmp_path / run).mkdir()
        (tmp_path / run / "run.json").touch()
    monkeypatch.chdir(tmp_path)
    case = CASES[name]
    words = case.words.split()
    named = {"--out" if word == "-o" else word.replace("--no-html", "--html") for word in words if word.startswith("-")}
    assert options(words) == named | case.own, "an option of the command is not in its case"
    seen: list[tuple[list[Any], Mapping[str, Any]]] = []

    def reached(*args: Any, **kwargs: Any) -> None:
        seen.append((list(args), kwargs))
        raise ConfigError("as far as this")

    # What opens a dataset is one of those that are asked.
    name_of_module, _, function = case.function.partition(":")
    module = importlib.import_module(name_of_module)  # before what it imports is another
    monkeypatch.setattr("lingbot_eval.datasets.registry.open_adapter", lambda *given: given)
    monkeypatch.setattr(module, function, reached)
    assert main(words) == 2
    ((args, kwargs),) = seen
    kwargs = {key: value for key, value in kwargs.items() if not callable(value) and key != "observer"}
    if name == "scale":
        study, *args = [arg for arg in args if not hasattr(arg, "frame")]
        assert (study.name, study.device) == ("x", "cpu")
    if name == "datasets check":
        card, (*opened,), root, scenes, watcher = args
        assert card.name == "seven_scenes"
        args = [*opened, root, scenes, None if watcher is None else "decoded"]
    if name.startswith("report"):
        args = [[str(each) for each in args[0]], str(args[1])]
    assert (args, kwargs) == case.given


def test_every_command_with_options_is_here() -> None:
    """Those of `score` and of the lists are asked for where their results are."""
    parser = build_parser()
    (commands,) = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    with_options = {name for name in commands if options([name])}
    assert {name.split()[0] for name in CASES} | {"score"} >= with_options
