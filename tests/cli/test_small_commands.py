"""What ``run``, ``report``, ``export``, ``render`` and checks print of results that are known, and how they end."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lingbot_eval.api as api
from lingbot_eval.cli import main as cli
from lingbot_eval.cli.main import main
from lingbot_eval.datasets.check import check as check_module
from lingbot_eval.datasets.check import convention as convention_module
from lingbot_eval.datasets.check.check import DatasetCheck, SceneCheck
from lingbot_eval.datasets.check.convention import EXPECTED, ConventionVerdict, Fit
from lingbot_eval.datasets.check.scene_checks import Finding
from lingbot_eval.errors import ConfigError, DataError
from lingbot_eval.reports import two_runs
from lingbot_eval.verification.wrapper import WrapperCheck
from lingbot_eval.viewing.export import Exported
from lingbot_eval.viewing.film import Films
from tests.stored.store_records import make_unit_record


def test_export_lists_four_files_of_each_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = (*(Path("o/a") / f"{n}.ply" for n in range(4)), *(Path("o/b") / f"{n}.tum" for n in range(6)))
    files = (*files, *(Path("o/c") / f"{n}.glb" for n in range(5)))
    left_out: list[str] = []
    monkeypatch.setattr(
        api,
        "export",
        lambda *given, **settings: Exported(files, ("one scene has no cloud", *left_out), tuple(left_out)),
    )
    assert main(["export", "r", "-o", "o"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "o/a: 0.ply, 1.ply, 2.ply, 3.ply",
        "o/b: 0.tum, 1.tum, 2.tum, 3.tum and 2 more",
        "o/c: 0.glb, 1.glb, 2.glb, 3.glb and 1 more",
    ]
    assert said.err == "note: one scene has no cloud\n"
    assert main(["export", "r", "-o", "o", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {
        "schema_version": 1,
        "out": "o",
        "files": [str(file) for file in files],
        "notes": ["one scene has no cloud"],
    }
    # What was asked for and is not there is an error beside the notes.
    left_out.append("no depth was kept")
    assert main(["export", "r", "-o", "o"]) == 1
    assert capsys.readouterr().err.splitlines() == ["note: one scene has no cloud", "error: no depth was kept"]
    assert main(["export", "r", "-o", "o", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["notes"] == ["one scene has no cloud", "no depth was kept"]


@pytest.mark.parametrize(
    ("words", "scale"),
    [
        ("2.5", 2.5),
        ("-1e-3", -1e-3),
        ("truth", "truth"),
        ("0,1,2:3,4,5=6.5", ((0.0, 1.0, 2.0), (3.0, 4.0, 5.0), 6.5)),
    ],
)
def test_a_scale_in_words(words: str, scale: object, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def export(*given: object, **settings: Any) -> Exported:
        asked.append(settings)
        return Exported((), ())

    monkeypatch.setattr(api, "export", export)
    assert main(["export", "r", "-o", "o", f"--scale={words}"]) == 0
    assert [settings["scale"] for settings in asked] == [scale]
    for wrong in (
        "",
        "1_0",
        "inf",
        "0,1:3,4=6",
        "1,2,3:4,5,6",
        "truths",
        "0,0,0:1,0,0=2cm",
        "2cm",
        "٣",
        "٣,0,0:1,0,0=2",
    ):
        assert main(["export", "r", "-o", "o", f"--scale={wrong}"]) == 2
    assert len(asked) == 1


def test_of_several_runs_each_has_its_folder_and_one_that_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def render(run: Path, out: Path, *given: object, **settings: object) -> Films:
        if run.name == "b":
            raise ConfigError("nothing kept")
        return Films((out / "film.mp4",), ("left out: s: no cloud",) if run.name == "c" else ())

    monkeypatch.setattr(api, "render", render)
    assert main(["render", "x/a", "-o", "o"]) == 0
    assert capsys.readouterr().out == "o/film.mp4\n"
    assert main(["render", "x/b", "-o", "o"]) == 2
    assert capsys.readouterr().err == "error: nothing kept\n"
    assert main(["render", "x/a", "x/b", "x/c", "-o", "o"]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == ["o/a/film.mp4", "o/c/film.mp4"]
    notes = ["left out: x/b: nothing kept", "left out: s: no cloud"]
    assert said.err.splitlines() == [f"error: {note}" for note in notes]
    assert main(["render", "x/a", "x/b", "x/c", "-o", "o", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["files"], document["notes"]) == (["o/a/film.mp4", "o/c/film.mp4"], notes)
    # A run has its name wherever one stands.
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert main(["render", ".", "../other/../d", "-o", "o"]) == 0
    assert capsys.readouterr().out.splitlines() == ["o/mine/film.mp4", "o/d/film.mp4"]


RUN_ENDS: list[tuple[dict[str, Any], list[str], int, str, bool]] = [
    ({}, [], 0, "report: R/report.md", True),
    ({}, ["--no-report"], 0, "tables and plots: lingbot-eval report 'a run'", False),
    ({"pending": 2}, [], 0, "2 units have no result yet: whoever ends last writes the report", False),
    ({"failed": 1}, [], 1, "report: R/report.md", True),
    ({"failed": 1, "bad_input": True}, [], 2, "report: R/report.md", True),
    ({"lost_record": "run.json was not there"}, [], 1, "report: R/report.md", True),
]


@pytest.mark.parametrize(("changes", "words", "code", "last", "reported"), RUN_ENDS)
def test_how_a_run_ends(
    changes: dict[str, Any],
    words: list[str],
    code: int,
    last: str,
    reported: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its exit code, its last line, and whether there is a report: not while others are still at work."""
    record = SimpleNamespace(weights={}, status="complete", key="k")
    facts = {"pending": 0, "failed": 0, "bad_input": False, "lost_record": None, "done": 3, "skipped": 1} | changes
    outcome = SimpleNamespace(path=Path("a run"), record=record, **facts)
    done = SimpleNamespace(outcome=outcome, results=SimpleNamespace(left_out=("x is damaged",), units=()))
    asked: list[object] = []
    monkeypatch.setattr(api, "run", lambda *given, **settings: done)
    monkeypatch.setattr(api, "report", lambda run: asked.append(run) or SimpleNamespace(files=(Path("R/report.md"),)))
    assert main(["run", "smoke", *words]) == code
    said = capsys.readouterr()
    assert said.out.splitlines()[-3:] == [
        f"complete: 3 done, 1 done before, {facts['failed']} failed",
        "run: a run",
        last,
    ]
    lost = [] if facts["lost_record"] is None else [f"error: {facts['lost_record']}"]
    assert said.err.splitlines() == ["error: left out: x is damaged", *lost]
    assert asked == [done] * reported
    assert main(["run", "smoke", *words, "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["report"] == (["R/report.md"] if reported else None)
    assert (document["run"], document["left_out"], document["done_before"]) == ("a run", ["x is damaged"], 1)


NOT_ALONE = "--share-host has no meaning without --workers, --shard or --scheduler"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--share-host"], NOT_ALONE),
        *(
            (["--shard", given], f"--shard: expected I/N such as 1/8, found {given!r}")
            for given in ("3", "1/2/3", "²/3", "٣/4")
        ),
    ],
)
def test_shares_that_are_none(
    words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*given: object, **settings: object) -> None:
        raise ConfigError("it was taken for a share")

    monkeypatch.setattr(api, "run", run)
    assert main(["run", "smoke", *words]) == 2
    assert capsys.readouterr().err == f"error: {says}\n"


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (
            ["--checkpoint", "lingbot-map", "--root", 'a "b"', "--set", "methods.3.kind=lingbot"],
            [
                'datasets.0.root="a \\"b\\""',
                'methods.1.model.checkpoint="lingbot-map"',
                "methods.1.model.config=full",
                'methods.3.model.checkpoint="lingbot-map"',
                "methods.3.model.config=full",
                "datasets.0.size=null",
                "datasets.1.size=null",
                "methods.3.kind=lingbot",
            ],
        ),
        (
            ["--checkpoint", "shipped", "--set", "name=x"],
            ["methods.0.model={config: ci, checkpoint: shipped}", "name=x"],
        ),
    ],
)
def test_one_option_names_the_weights_of_every_model(
    words: list[str], settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What replays has none, and what is set by its key comes last; every dataset is seen at its card's size."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\ndatasets: [{name: synthetic}, {name: synthetic, label: b}]\n"
        "methods: [{kind: replay, name: a}, {kind: lingbot, name: b},"
        " {kind: replay, name: c}, {kind: replay, name: d}]\n"
    )
    asked: list[Any] = []

    def run(*given: object, set: list[str], **more: object) -> None:
        asked.append(set)
        raise ConfigError("as far as this")

    monkeypatch.setattr(api, "run", run)
    assert main(["run", str(path), *words]) == 2
    assert asked == [settings]


@pytest.mark.parametrize("command", ["run", "scale"])
@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--set", "name=a b", "--set", "name=c"],
        ["--plugin", "one.py", "--plugin", "two.py", "--out", "my runs"],
        ["--allow-commands"],
    ],
)
def test_the_command_in_the_record_has_what_makes_the_run(
    command: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every word as it was given, so that the same plugins are loaded and the same settings made."""
    asked: list[str] = []

    def run(*given: Any, **settings: Any) -> None:
        asked.append(settings["command"] if command == "run" else given[2])
        raise ConfigError("as far as this")

    monkeypatch.setattr(cli, "load_plugins", lambda given: ())
    monkeypatch.setattr(api, "fit", lambda *given: {})
    monkeypatch.setattr(api, "run", run)
    monkeypatch.setattr("lingbot_eval.scaling.execute.execute", run)
    own = ["--root", "R S", "--checkpoint", "shipped", "--fit", "8GB"] if command == "run" else []
    assert main([command, "smoke" if command == "run" else "scaling", *own, *words]) == 2
    assert [shlex.split(text) for text in asked] == [
        ["lingbot-eval", command, "smoke" if command == "run" else "scaling", *own, *words]
    ]


@pytest.mark.parametrize(
    ("words", "timed", "said"),
    [
        (["--workers", "2"], True, True),
        (["--workers", "1"], True, False),
        (["--workers", "2", "--share-host"], True, False),
        (["--workers", "2"], False, False),
        ([], True, False),
    ],
)
def test_a_plan_line_by_line(
    words: list[str], timed: bool, said: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each unit with its weights, each command, and that times are not taken side by side where somebody may wait."""
    units = [SimpleNamespace(names=("tum", scene, name), method=None) for scene in ("desk", "floor") for name in "ab"]
    methods = [SimpleNamespace(needs_images=False), SimpleNamespace(needs_images=timed)]
    plan = SimpleNamespace(
        experiment=SimpleNamespace(name="mine", methods=methods, keep=None),
        units=units,
        key="0123456789abcdef",
        weights={"a": "w.pt"},
        commands={"b": "python b.py", "c": "./c"},
    )

    def opened(unit: object) -> None:
        raise DataError("not there")

    def run(*given: object, observer: Any, **more: object) -> None:
        observer.planned(plan)
        raise ConfigError("as far as this")

    monkeypatch.setattr("lingbot_eval.runs.plan.open_scene", opened)
    monkeypatch.setattr("lingbot_eval.cli.run_check.warning_lines", lambda checks: ["warning: slow"])
    monkeypatch.setattr(api, "run", run)
    assert main(["run", "smoke", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "mine: 4 units, key 0123456789ab",
        "  tum/desk with a (w.pt)",
        "  tum/desk with b",
        "  tum/floor with a (w.pt)",
        "  tum/floor with b",
        "  command of b (runs with --allow-commands): python b.py",
        "  command of c (runs with --allow-commands): ./c",
    ]
    note = "timed units run one at a time on a host; --share-host lets them run together, and marks their times"
    told = ["warning: slow", *[f"note: {note}"] * said]
    assert printed.err.splitlines() == [*told, "error: as far as this"]
    assert main(["run", "smoke", *words, "--json"]) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"] == "as far as this"
    assert printed.err.splitlines()[: len(told)] == told


@pytest.mark.parametrize(
    ("weights", "marked"),
    [
        ({}, False),
        ({"a": "untrained (seed 0)"}, True),
        ({"a": "ci.safetensors, SHA-256 0", "b": "untrained (seed 0)"}, True),
        ({"a": "ci.safetensors, SHA-256 0"}, False),
        ({"a": "not-untrained.pt, SHA-256 0"}, False),
    ],
)
def test_numbers_of_untrained_weights_are_marked(
    weights: dict[str, str], marked: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One method of several is enough; a run without weights has none that are untrained."""
    record = SimpleNamespace(weights=weights, status="complete", key="k")
    facts = {"pending": 0, "failed": 0, "bad_input": False, "lost_record": None, "done": 1, "skipped": 0}
    outcome = SimpleNamespace(path=Path("r"), record=record, **facts)
    done = SimpleNamespace(outcome=outcome, results=SimpleNamespace(left_out=(), units=()))
    monkeypatch.setattr(api, "run", lambda *given, **settings: done)
    assert main(["run", "smoke", "--no-report"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Results")]
    assert line == "Results" + " (untrained weights: the numbers say nothing of the method)" * marked


def test_what_came_of_each_unit_line_by_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers and what to know of them, or where it failed; what loading weights changed, once a method."""
    facts: dict[str, Any] = {"method_facts": {"notes": ["2 of them are left out"]}}
    failed: dict[str, Any] = {"status": "failed", "measurements": [], **facts}
    records = [
        make_unit_record(notes=["few matches", "short"], **facts),
        make_unit_record(("tum", "hall", "lingbot"), stage="stream", failed_at_frame=0, reason="no room", **failed),
        make_unit_record(("tum", "hall", "saved"), stage="open", reason="not there", **failed),
    ]
    record = SimpleNamespace(weights={"lingbot": "ci.safetensors"}, status="incomplete", key="k")
    ends = {"pending": 0, "failed": 2, "bad_input": False, "lost_record": None, "done": 3, "skipped": 0}
    outcome = SimpleNamespace(path=Path("r"), record=record, **ends)
    results = SimpleNamespace(left_out=(), units=[SimpleNamespace(record=each) for each in records])
    monkeypatch.setattr(api, "run", lambda *given, **settings: SimpleNamespace(outcome=outcome, results=results))
    assert main(["run", "smoke", "--no-report"]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines()[1:9] == [
        "Results",
        "  tum/desk with lingbot",
        "    ATE 0.25 m",
        "    note: few matches",
        "    note: short",
        "  tum/hall with lingbot",
        "    FAILED (stream at frame 0): no room",
        "  tum/hall with saved",
    ]
    assert said.out.splitlines()[9:11] == ["    FAILED (open): not there", ""]
    assert said.err == "note: weights of lingbot: 2 of them are left out\n"
    assert main(["run", "smoke", "--no-report", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["units"] == [each.model_dump(mode="json") for each in records]
    assert (document["status"], document["key"], document["done_before"]) == ("incomplete", "k", 0)


def test_what_fits_is_set_and_said_before_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    chosen = SimpleNamespace(changes=lambda: {"streaming.window": 3, "streaming.cache": "int8"})

    def run(*given: object, set: list[str], **settings: object) -> None:
        asked.append(set)
        raise ConfigError("as far as this")

    def fit(experiment: str, size: str, overrides: list[str]) -> dict[str, Any]:
        asked.append((experiment, size, list(overrides)))
        return {"methods.0": chosen, "methods.1": chosen}

    monkeypatch.setattr(api, "fit", fit)
    monkeypatch.setattr("lingbot_eval.cli.run_check.fit_line", lambda at, each: f"{at} fits")
    monkeypatch.setattr(api, "run", run)
    assert main(["run", "smoke", "--fit", "8GB", "--set", "name=x"]) == 2
    made = [f"methods.{n}.streaming.{word}" for n in range(2) for word in ("window=3", 'cache="int8"')]
    assert asked == [("smoke", "8GB", ["name=x"]), ["name=x", *made]]
    assert capsys.readouterr().err.splitlines() == ["methods.0 fits", "methods.1 fits", "error: as far as this"]


def test_reports_of_other_runs_go_to_other_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs of one experiment have folders of the same name under each ``--out``; a report of one is inside it."""
    monkeypatch.chdir(tmp_path)
    for name in ("first/tiny", "second/tiny", "third/tiny", "caf\udce9/tiny"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").touch()
    asked: list[Path] = []

    def report(runs: list[Path], out: Path, **settings: object) -> None:
        asked.append(out)
        raise ConfigError("as far as this")

    monkeypatch.setattr(api, "report", report)
    one, two, three = "first/tiny", "second/tiny", "third/tiny"
    for runs in (
        *([one, two], [one, three], [two, one], [one, "caf\udce9/tiny"]),
        *([str(tmp_path / one), f"third/../{two}"], [one]),
    ):
        assert main(["report", *runs]) == 2
    assert len(set(asked[:4])) == 4
    assert all(out.name.startswith("report-2-runs-") and out.parent == Path() for out in asked[:5])
    assert asked[4:] == [asked[0], Path(one) / "report"]


class Bar:
    """What a bar of tqdm is told."""

    def __init__(self, **made: Any) -> None:
        self.made, self.n, self.closed, self.total = made, made.get("initial", 0), False, made["total"]
        BARS.append(self)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def update(self, count: int = 1) -> None:
        self.n += count

    def close(self) -> None:
        self.closed = True


BARS: list[Bar] = []


@pytest.mark.parametrize(("words", "disabled"), [([], None), (["--json"], True)])
def test_a_bar_shows_how_far_each_thing_is(
    words: list[str], disabled: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told how much is done, not how much is new; a thing that goes on where it was cut off begins there."""

    def render(*given: object, on_frame: Any, **settings: object) -> Films:
        for label, done in (("a", 0), ("a", 2), ("a", 3), ("b", 4), ("b", 6)):
            on_frame(label, done, 7)
        return Films((), ())

    BARS.clear()
    monkeypatch.setattr(api, "render", render)
    monkeypatch.setattr("tqdm.tqdm", Bar)
    assert main(["render", "r", "-o", "o", *words]) == 0
    told = [(bar.made["desc"], bar.made["total"], bar.made["initial"], bar.n, bar.closed) for bar in BARS]
    assert told == [("a", 7, 0, 3, True), ("b", 7, 4, 6, True)]
    assert [(bar.made["unit"], bar.made["disable"], bar.made["leave"]) for bar in BARS] == 2 * [
        ("frame", disabled, False)
    ]


@pytest.mark.parametrize(
    ("facts", "left_out", "code"),
    [
        ({}, (), 0),
        ({"incomplete": "1 of 3"}, (), 1),
        ({"incomplete": "still being written", "writer": "process 7"}, (), 0),
        ({"incomplete": "of an old version", "planned": 0}, (), 0),
        ({}, ("x is damaged",), 1),
    ],
)
def test_what_a_report_says_of_its_runs(
    facts: dict[str, Any],
    left_out: tuple[str, ...],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """1 where something is missing that nobody writes any more; of many remarks the first twenty."""
    run = {"label": "mine", "planned": 3, "incomplete": None, "writer": None} | facts
    old = SimpleNamespace(unchecked="an older version")
    content = SimpleNamespace(
        left_out=left_out,
        runs=[SimpleNamespace(results=old, **run)],
        tables=(),
        notes=[f"remark {number}" for number in range(23)],
    )
    written = SimpleNamespace(content=content, files=[Path("o/report.md"), Path("o/a"), Path("o/b")])
    monkeypatch.setattr(api, "report", lambda *given, **settings: written)
    (tmp_path / "run.json").touch()
    assert main(["report", str(tmp_path)]) == code
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        *(f"note: remark {number}" for number in range(20)),
        "note: 3 more remarks are on the page",
        "report: o/report.md (2 more files beside it)",
    ]
    assert said.err.splitlines() == [
        *(f"error: left out: {reason}" for reason in left_out),
        "note: mine could not be checked for damage: an older version",
        *([f"mine is incomplete: {run['incomplete']}"] if run["incomplete"] else []),
    ]
    assert main(["report", str(tmp_path), "--json"]) == code
    assert json.loads(capsys.readouterr().out) == {
        "schema_version": 1,
        "runs": [str(tmp_path)],
        "files": ["o/report.md", "o/a", "o/b"],
        "incomplete": {"mine": run["incomplete"]} if run["incomplete"] else {},
        "left_out": list(left_out),
        "notes": content.notes,
        "tables": [],
    }


def test_a_folder_that_is_no_run_is_answered_with_the_runs_near_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder of all runs, the name of an experiment or its file, a run's name with an end that is not there."""
    monkeypatch.chdir(tmp_path)
    for name in ("runs/smoke-1", "runs/smoke-2", "runs/other-1", "away/smoke-3"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").touch()
    (tmp_path / "smoke.yaml").touch()
    (tmp_path / "empty").mkdir()
    ours = "runs/smoke-1, runs/smoke-2"
    for given, found, hint in (
        ("runs", "a folder without it", f"give one of: runs/other-1, {ours}"),
        ("smoke", "no such folder", f"give one of: {ours}"),
        ("smoke.yaml", "a file", f"give one of: {ours}"),
        ("runs/smoke", "no such folder", f"give one of: {ours}"),
        ("away/smoke", "no such folder", f"give one of: away/smoke-3, {ours}"),
        ("empty", "a folder without it", "start one with: lingbot-eval run"),
    ):
        assert main(["report", given]) == 2
        said = f"expected a run directory (with run.json), found {found}: {given}; {hint}"
        assert capsys.readouterr().err == f"error: {said}\n"
    monkeypatch.chdir(tmp_path / "empty")
    assert main(["report"]) == 2
    said = "found none: name one, or start one with: lingbot-eval run"
    assert capsys.readouterr().err == (
        f"error: expected a run directory, or runs under runs/ to take the latest of; {said}\n"
    )


@pytest.mark.parametrize(
    ("names", "folder"),
    [
        (("a/run 1", "b/run-2"), "compare-run-1-run-2"),
        (("é", "x" * 70), f"compare-unnamed-{'x' * 60}"),
        (("-a_1.", "b.2"), "compare-a_1-b.2"),
    ],
)
@pytest.mark.parametrize("failures", [(), ("x is damaged", "y is missing")])
def test_two_runs_compared_line_by_line(
    names: tuple[str, str],
    folder: str,
    failures: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every table, every file and every remark; 1 where something could not be compared."""
    monkeypatch.chdir(tmp_path)
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").touch()
    given: list[Any] = []
    monkeypatch.setattr(api, "compare", lambda *runs: given.append(runs) or SimpleNamespace(failures=failures))
    for what, value in {
        "title": "B against A",
        "tables": tuple(SimpleNamespace(markdown=lambda n=n: f"table {n}") for n in range(2)),
        "remarks": ("of two hosts", "of two days"),
        "document": {"units": [7]},
    }.items():
        monkeypatch.setattr(two_runs, what, lambda found, value=value: value)
    monkeypatch.setattr(two_runs, "write_runs", lambda found, out: (out / "compare.md", out / "a.png"))
    words = ["compare", "--", *names]
    assert main(words) == bool(failures)
    said = capsys.readouterr()
    files = [f"{folder}/compare.md", f"{folder}/a.png"]
    assert said.out.splitlines() == ["B against A", "", "table 0", "table 1", f"written: {', '.join(files)}"]
    notes = ["note: of two hosts", "note: of two days", *(f"error: {text}" for text in failures)]
    assert said.err.splitlines() == notes
    assert main([*words[:1], "--json", *words[1:]]) == bool(failures)
    said = capsys.readouterr()
    assert json.loads(said.out) == {"schema_version": 1, "units": [7], "files": files}
    assert said.err.splitlines() == notes
    assert given == 2 * [names]


def test_a_comparison_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """How many frames there will be is known when the first is there."""
    monkeypatch.chdir(tmp_path)

    def compared(*sides: str, each_frame: Any, **settings: object) -> None:
        for _ in range(3):
            each_frame(9)
        raise ConfigError("as far as this")

    BARS.clear()
    monkeypatch.setattr(api, "compare_backends", compared)
    monkeypatch.setattr("tqdm.tqdm", Bar)
    for words, disabled in (([], None), (["--json"], True)):
        assert main(["compare", "sdpa", "paged", *words]) == 2
        bar = BARS.pop()
        assert (bar.total, bar.n, bar.closed, bar.made["disable"]) == (9, 3, True, disabled)


def test_a_check_of_a_wrapper_line_by_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    log = tuple(f"line {number}" for number in range(12))
    checks = [
        WrapperCheck("pipe", 10, 8, ("2 frames have no pose",), (), log),
        WrapperCheck("job", 10, 10, (), ("one metre is 2 of the units",), log),
    ]
    monkeypatch.setattr(api, "check_wrapper", lambda words, **settings: iter(checks))
    assert main(["external", "check", "it"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "pipe: PROBLEMS: 8 of 10 frames have a pose",
        "  PROBLEM 2 frames have no pose",
        "  its log ends:",
        *(f"    line {number}" for number in range(2, 12)),
        "job: fine: 10 of 10 frames have a pose",
        "          one metre is 2 of the units",
    ]
    monkeypatch.setattr(api, "check_wrapper", lambda words, **settings: iter(checks[1:]))
    assert main(["external", "check", "it", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["command"] == ["it"]
    assert document["checks"][0]["poses"] == 10
    monkeypatch.setattr(api, "check_wrapper", lambda words, **settings: iter(checks))
    assert main(["external", "check", "it", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)["checks"]
    assert [(each["mode"], each["poses"], each["problems"], each["log"]) for each in told] == [
        ("pipe", 8, ["2 frames have no pose"], list(log)),
        ("job", 10, [], list(log)),
    ]


@pytest.mark.parametrize("problems", [0, 1, 2])
def test_a_check_of_a_dataset_line_by_line(
    problems: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [Finding("problem", "poses", f"wrong {number}") for number in range(problems)]
    scenes = (
        SceneCheck("a", 3000, tuple(wrong), 2.0),
        SceneCheck("b", None, (Finding("warning", "images", "odd"), Finding("note", "depth", "none")), 0.0),
        SceneCheck("c", 5, (), 0.0),  # too quick for the clock
    )
    found = DatasetCheck("folder", str(tmp_path), (Finding("note", "layout", "as said"),), scenes)
    monkeypatch.setattr(check_module, "examine", lambda *given: found)
    assert main(["datasets", "check", "folder", "--root", str(tmp_path)]) == (1 if problems else 0)
    words = {0: "no problems", 1: "1 problem", 2: "2 problems"}[problems]
    assert capsys.readouterr().out.splitlines() == [
        f"folder in {tmp_path}",
        "          layout: as said",
        "a: 3000 frames, metadata checked at 1,500 images/s",
        *(f"  PROBLEM poses: wrong {number}" for number in range(problems)),
        "b: not readable",
        "  warning images: odd",
        "          depth: none",
        "c: 5 frames",
        f"3 scenes, {words}",
    ]
    assert main(["datasets", "check", "folder", "--root", str(tmp_path), "--json"]) == (1 if problems else 0)
    document = json.loads(capsys.readouterr().out)
    assert (document["problems"], document["dataset"], document["root"]) == (problems, "folder", str(tmp_path))
    assert [(scene["scene"], scene["frames"], scene["metadata_seconds"]) for scene in document["scenes"]] == [
        ("a", 3000, 2.0),
        ("b", None, 0.0),
        ("c", 5, 0.0),
    ]
    assert document["findings"] == [{"level": "note", "check": "layout", "text": "as said"}]
    assert [len(scene["findings"]) for scene in document["scenes"]] == [problems, 2, 0]
    assert document["scenes"][1]["findings"][0] == {"level": "warning", "check": "images", "text": "odd"}
    assert [scene["convention"] for scene in document["scenes"]] == [None] * 3
    assert document["figures"] == []


@pytest.mark.parametrize(("clear", "best", "expected"), [(True, 1, False), (False, 0, True)])
def test_the_verdict_of_a_check_is_in_its_document(
    clear: bool,
    best: int,
    expected: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And a picture of each scene that has one, named by dataset and scene; nothing for the scene that has none."""
    fits = [Fit(*EXPECTED, 0.9), Fit("world-to-camera", "OpenGL", 0.25)]
    fits = [fits[best], fits[1 - best]]
    verdict = ConventionVerdict(tuple(fits), (fits[1],), clear, 7, 500.0, 510.0, fitted_focal=520.0, depth_factor=0.001)
    scenes = (SceneCheck("a/left", 9, (), 1.0, verdict), SceneCheck("b", 9, (), 1.0))
    found = DatasetCheck("folder", str(tmp_path), (), scenes)
    drawn: list[tuple[Any, ...]] = []
    monkeypatch.setattr(check_module, "examine", lambda *given: found)
    monkeypatch.setattr(convention_module, "write_convention_figure", lambda *given: drawn.append(given))
    figures = tmp_path / "figures"
    words = ["datasets", "check", "folder", "--root", str(tmp_path), "--figures", str(figures)]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    told = [{"direction": fit.direction, "axes": fit.axes, "share": fit.share} for fit in fits]
    assert document["scenes"][0]["convention"] == {
        "clear": clear,
        "as_expected": expected,
        "ties": told[1:],
        "fits": told,
        "pairs": 7,
        "declared_focal_px": 500.0,
        "image_focal_px": 510.0,
        "fitted_focal_px": 520.0,
        "depth_factor": 0.001,
    }
    assert document["scenes"][1]["convention"] is None
    path = figures / "folder-a-left-convention.png"
    assert document["figures"] == [str(path)]
    assert drawn == [(path, "folder / a/left", verdict)]
    assert figures.is_dir()
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"figure: {path}"


def test_a_raw_scene_that_cannot_be_prepared_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import lingbot_eval.datasets.convert as convert

    def prepare(raw: Path, scene: str, out: Path, each: object) -> int:
        if scene == "b":
            raise DataError("no poses")
        return 7

    monkeypatch.setattr(convert, "scenes_in", lambda raw: ("a", "b", "c"))
    monkeypatch.setattr(convert, "prepare_scene", prepare)
    words = ["datasets", "prepare", "oxford_spires", str(tmp_path), "out"]
    assert main(words) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == ["a: 7 images in out/a", "c: 7 images in out/c"]
    assert "error: b: no poses" in said.err
    assert main([*words, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["prepared"], document["failed"], document["out"]) == ({"a": 7, "c": 7}, {"b": "no poses"}, "out")
    assert main(["datasets", "prepare", "tum", str(tmp_path), "out"]) == 2
    assert "only oxford_spires has something to prepare, found 'tum'" in capsys.readouterr().err
