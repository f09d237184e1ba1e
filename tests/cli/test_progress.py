"""What is said while something runs: a line a unit, each note once, and nothing that nobody asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lingbot_eval.cli.progress import Progress, waited
from lingbot_eval.runs.execute import Parallel
from lingbot_eval.scaling.settings import Case
from lingbot_eval.stored.records import HostRecord
from lingbot_eval.types import Measurement
from tests.stored.store_records import make_unit_record

SIZE = {"size": (28, 42), "frames": 20, "backend": "sdpa", "keyframe_interval": 1}
NAME = "offline-20-interval-1-sdpa-float32-28x42"


class Bar:
    """Notes what a bar was told."""

    def __init__(self, **made: Any) -> None:
        self.made, self.steps, self.closed, self.text = made, 0, False, ""
        BARS.append(self)

    def update(self, count: int = 1) -> None:
        self.steps += count

    def set_postfix_str(self, text: str, refresh: bool) -> None:
        self.text = text

    def close(self) -> None:
        self.closed = True


BARS: list[Bar] = []


@pytest.fixture(autouse=True)
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    BARS.clear()
    monkeypatch.setattr("tqdm.tqdm", Bar)
    return BARS


def unit(scene: str) -> Any:
    return SimpleNamespace(names=("tum", scene, "lingbot"))


def progress(count: int, **settings: Any) -> Progress:
    found = Progress(quiet=settings.pop("quiet", False), **settings)
    found.planned(SimpleNamespace(units=[unit(str(n)) for n in range(count)]))  # type: ignore[arg-type]
    return found


def test_a_run_says_a_line_a_unit(bars: list[Bar], capsys: pytest.CaptureFixture[str]) -> None:
    told = progress(3)
    told.started(unit("desk"), 7)
    for _ in range(5):
        told.frame()
    facts = {"sequence": {"notes": ["of the scene"]}, "notes": ["of the score"], "frames": 7, "predictions": 5}
    facts |= {"method_facts": {"notes": ["of the weights"]}}
    told.finished(unit("desk"), make_unit_record(seconds=2.25, wait_s={"load": 1.04, "total": 1.5, "x": 0.04}, **facts))
    told.skipped(unit("floor"))
    told.started(unit("room"), None)
    failed = make_unit_record(scene="room", status="failed", reason="crash", measurements=[], **facts)
    told.finished(unit("room"), failed)
    told.left_out(unit("room"), "damaged")
    assert capsys.readouterr().err.splitlines() == [
        "[1/3] tum/desk/lingbot: 5 of 7 frames in 2.2 s",
        "[1/3] tum/desk/lingbot: first prediction after 1.5 s (load 1.0)",
        "note: tum/desk: of the scene",
        "note: tum/desk with lingbot: of the weights",
        "note: tum/desk with lingbot: of the score",
        "[2/3] tum/floor/lingbot: done before",
        "error: tum/room/lingbot: crash",
        "note: tum/room: of the scene",
        "note: tum/room with lingbot: of the weights",
        "note: tum/room with lingbot: of the score",
        "error: tum/room/lingbot begins anew: damaged",
    ]
    assert [(bar.made["total"], bar.made["desc"], bar.made["unit"], bar.steps, bar.closed) for bar in bars] == [
        (7, "[1/3] tum/desk/lingbot", "frame", 5, True),
        (None, "[3/3] tum/room/lingbot", "frame", 0, True),
    ]
    assert [bar.made["disable"] for bar in bars] == [None, None]


def test_a_quiet_run_tells_failures_and_notes_alone(bars: list[Bar], capsys: pytest.CaptureFixture[str]) -> None:
    told = progress(2, quiet=True)
    for reason, status in ((None, "ok"), ("crash", "failed")):
        told.started(unit("desk"), 7)
        told.finished(
            unit("desk"), make_unit_record(status=status, reason=reason, notes=["a", "b", "a"], wait_s={"total": 1})
        )
    told.skipped(unit("floor"))
    notes = [f"note: tum/desk with lingbot: {note}" for note in "ab"]
    assert capsys.readouterr().err.splitlines() == [*notes, "error: tum/desk/lingbot: crash"]
    assert all(bar.made["disable"] is True for bar in bars)


@pytest.mark.parametrize(
    ("host", "value", "said"),
    [
        ({"beside": 1, "differs": ["gpu: a, b", "cpu: c, d"]}, 9.0, "{hardware}: gpu: a, b; cpu: c, d"),
        ({"beside": 1}, 9.0, "measured while other units ran on the host"),
        ({"beside": 1}, None, None),
        ({}, 9.0, None),
    ],
)
def test_times_of_a_host_that_was_another_or_not_alone_are_marked(
    host: dict[str, Any], value: float | None, said: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there are any."""
    reason = "nothing was computed" if value is None else None
    fps = Measurement("throughput", "forward_fps", "", value, "fps", "frames by time", reason=reason)
    told = progress(1, quiet=True)
    told.finished(unit("desk"), make_unit_record(measurements=[fps], host=HostRecord(name="h", **host)))
    hardware = "measured on other hardware than the run's record states"
    lines = [] if said is None else [f"times and memory were {said.format(hardware=hardware)}"]
    assert capsys.readouterr().err.splitlines() == [f"note: tum/desk with lingbot: {line}" for line in lines]


def test_units_at_the_same_time_share_a_bar(bars: list[Bar], capsys: pytest.CaptureFixture[str]) -> None:
    """Of five units the second of two shares has three at most."""
    told = progress(5, parallel=Parallel(2, (2, 2)))
    (bar,) = bars
    assert (bar.made["total"], bar.made["desc"], bar.made["unit"]) == (3, "units", "unit")
    told.started(unit("desk"), 7)
    told.started(unit("floor"), 7)
    told.frame()
    told.frame()
    assert (bar.text, bar.steps, len(bars)) == ("2 frames", 0, 1)
    told.finished(unit("floor"), make_unit_record(frames=7, predictions=7, seconds=1.0))
    told.skipped(unit("room"))
    assert (bar.steps, bar.closed) == (2, False)
    told.finished(unit("desk"), make_unit_record(frames=7, predictions=7, seconds=1.0))
    assert (bar.steps, bar.closed) == (3, True)
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "[1/3] tum/floor/lingbot",
        "[2/3] tum/room/lingbot",
        "[3/3] tum/desk/lingbot",
    ]


def test_a_wait_in_words() -> None:
    parts = {"start": 0.06, "load": 0.049, "first prediction": 1.25, "other": 0.0, "total": 3.456}
    assert waited(parts) == "3.5 s (start 0.1, first prediction 1.2)"
    assert waited({"total": 0.04, "start": 0.04}) == "0.0 s"


def case_record(**told: Any) -> Any:
    return SimpleNamespace(status="ok", predictions=18, frames=20, seconds=3.14, wait_s={}, placed_remarks=(), **told)


def test_a_study_says_a_line_a_case(bars: list[Bar], capsys: pytest.CaptureFixture[str]) -> None:
    told = Progress(quiet=False)
    told.expect(3)
    case: Any = Case.model_validate(SIZE)
    told.preparing(case, 128)
    told.frame()
    told.started(case, 20)
    told.frame()
    told.frame()
    told.finished(case, case_record())
    told.skipped(case)
    told.started(case, 20)
    told.finished(case, SimpleNamespace(status="failed", reason="no room", placed_remarks=()))  # type: ignore[arg-type]
    told.left_out(case, "damaged")
    assert capsys.readouterr().err.splitlines() == [
        f"[1/3] {NAME}: 18 of 20 frames in 3.1 s",
        f"[2/3] {NAME}: done before",
        f"error: {NAME}: no room",
        f"error: {NAME} begins anew: damaged",
    ]
    assert [(bar.made["total"], bar.made["desc"], bar.steps, bar.closed) for bar in bars] == [
        (128, "frames of 28×42", 1, True),
        (20, f"[1/3] {NAME}", 2, True),
        (20, f"[3/3] {NAME}", 0, True),
    ]
    quiet = Progress(quiet=True)
    quiet.expect(1)
    quiet.started(case, 20)
    quiet.finished(case, case_record())
    quiet.skipped(case)
    assert capsys.readouterr().err == ""
    assert bars[-1].made["disable"] is True


def test_cases_at_the_same_time_share_a_bar(bars: list[Bar], capsys: pytest.CaptureFixture[str]) -> None:
    told = Progress(quiet=False, parallel=Parallel(2))
    told.expect(2)
    case: Any = Case.model_validate(SIZE)
    told.started(case, 20)
    told.started(case, 20)
    told.frame()
    told.finished(case, case_record())
    told.finished(case, case_record())
    (bar,) = bars
    assert (bar.made["total"], bar.made["desc"], bar.steps, bar.text, bar.closed) == (2, "units", 2, "1 frames", True)
    assert [line.partition(" ")[0] for line in capsys.readouterr().err.splitlines()] == ["[1/2]", "[2/2]"]
