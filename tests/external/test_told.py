"""What a program is told of its scene and by when it must have answered; no program is started."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from lingbot_eval.errors import DataError, StreamError
from lingbot_eval.external import JOB_VARIABLE, PROTOCOL, pack, read_png, unpack
from lingbot_eval.methods import external as module
from lingbot_eval.methods.external_config import ExternalConfig
from lingbot_eval.settings import validated
from lingbot_eval.types import Frame

WIDTH, HEIGHT, COUNT = 7, 5, 4
K = np.array([[300.0, 0.5, 3.25], [0, 310.0, 2.75], [0, 0, 1]])
PIXELS = [np.random.default_rng(n).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8) for n in range(COUNT)]


def frames() -> list[Frame]:
    """The first one's camera is not known; one is a view into a larger picture, whose rows lie apart."""
    wide = np.zeros((HEIGHT, 2 * WIDTH, 3), np.uint8)
    wide[:, :WIDTH] = PIXELS[2]
    images = [*PIXELS[:2], wide[:, :WIDTH], PIXELS[3]]
    return [Frame(n, n / 8, image, "", intrinsics=K if n else None) for n, image in enumerate(images)]


class Program:
    """Stands where a process would: time passes while it is asked, and its answers are those of a table."""

    clock: ClassVar[float] = 100.0
    takes: ClassVar[float] = 1.0
    asked: ClassVar[list[tuple[dict[str, Any], float, int]]] = []
    worked: ClassVar[dict[int, object]] = {0: 0.75, 1: 0.75, 2: 0.75}
    answers: ClassVar[dict[int, list[int]]] = {1: [0, 1], 2: [2], 3: [3]}
    last: ClassVar[Program]

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path, **how: bool) -> None:
        self.command, self.env, self.how = tuple(command), dict(env), how
        self.started = Program.clock
        self.exit_code = 0
        Program.asked = []
        Program.last = self

    def send(self, data: bytes, deadline: float) -> None:
        self.message = unpack(data)
        self.until = deadline

    def receive(self, most: int, deadline: float) -> bytes:
        assert deadline == self.until
        Program.asked.append((self.message, deadline - Program.clock, most))
        Program.clock += Program.takes
        kind, index = self.message["type"], self.message.get("index", -1)
        # Whole numbers, as programs of other languages send them.
        pose = {"camera_to_world": np.eye(4, dtype=int).ravel().tolist()}
        if kind == "hello":
            return pack({"type": "ready", "protocol": PROTOCOL})
        # The first two are answered together, the others by themselves; -1 is the end.
        poses = Program.answers.get(index, []) if kind in ("frame", "finish") else []
        seconds = {"seconds": Program.worked[index]} if index in Program.worked else {}
        return pack({"type": "poses", "poses": [{"frame": n, **pose} for n in poses], **seconds})

    def close_input(self) -> None: ...

    def wait(self, seconds: float) -> bool:
        return True

    def stop(self) -> None: ...

    def memory(self) -> tuple[()]:
        return ()

    def ending(self) -> str:
        return "it ended"

    def last_line(self) -> str:
        return ""


class Scene:
    dataset, scene, length = "tum", "fr1/xyz", COUNT


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def now() -> float:
        return Program.clock

    monkeypatch.setattr(module, "Child", Program)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=now, perf_counter=now))
    monkeypatch.setattr(Program, "clock", 100.0)
    monkeypatch.setattr(Program, "takes", 1.0)


def opened(**settings: Any) -> Any:
    given = {"kind": "external", "command": ["a", "b"], "timeout_s": 60, "frame_timeout_s": 9, **settings}
    method = validated(ExternalConfig, given, "test").create()
    method.open(Scene())  # type: ignore[arg-type]
    return method


def said(index: int) -> dict[str, Any]:
    return {
        "index": index,
        "time": index / 8,
        "image": PIXELS[index].tobytes(),
        "intrinsics": K.tolist() if index else None,
    }


@pytest.mark.usefixtures("clock")
def test_what_goes_into_the_pipe_and_how_long_each_answer_may_take() -> None:
    """Loading and the end have the unit's time, a frame its own; frames that are answered together share a time."""
    method = opened(causal=False)
    assert method.warm_up(frames()[0]) == 2.0, "greeting and first frame, a second each"
    found = list(method.predict(iter(frames())))
    hello = {"type": "hello", "length": COUNT, "protocol": PROTOCOL, "dataset": "tum", "scene": "fr1/xyz"}
    messages = [
        hello | {"causal": False, "width": WIDTH, "height": HEIGHT},
        {"type": "warm_up", **said(0)},
        *({"type": "frame", **said(index)} for index in range(COUNT)),
        {"type": "finish"},
    ]
    assert [message for message, _, _ in Program.asked] == messages
    # What is left of the unit's minute at the greeting, the warm-up and the end; else a frame's nine seconds.
    assert [left for _, left, _ in Program.asked] == [60, 59, 9, 9, 9, 9, 54]
    # Two frames wait for the second answer: the maps of both may come with it.
    maps = 1024 + 8 * HEIGHT * WIDTH
    head = module._MOST_OF_A_MESSAGE
    assert [most - head for _, _, most in Program.asked] == [0, 0, maps, 2 * maps, maps, maps, 0]
    assert [p.index for p in found] == list(range(COUNT))
    assert [p.cost and p.cost.forward_s for p in found] == [1.0, 1.0, 1.0, 1.0]
    # Of the second that an answer took three quarters were its work; the last one did not say.
    overhead = {m.variant: (m.value, m.samples) for m in method.resources() if m.name == "pipe_overhead"}
    assert overhead["p50"] == (pytest.approx(250.0), 3)
    method.open(Scene())
    list(method.predict(iter(frames()[3:])))
    assert method.resources() == (), "the other scene's are forgotten"


@pytest.mark.usefixtures("clock")
def test_a_time_that_cannot_be_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the second that each answer took: more than that, less than nothing, no number; the whole of it, and half."""
    method = opened()
    for said, overheads in (
        ({0: 1.5, 1: -0.25, 2: "0.5", 3: 0.5}, [500.0]),
        ({0: 1.0, 1: 0.0}, [0.0, 1000.0]),
        ({}, []),
    ):
        monkeypatch.setattr(Program, "worked", said)
        method.open(Scene())
        list(method.predict(iter(frames())))
        found = [m for m in method.resources() if (m.name, m.variant) == ("pipe_overhead", "p50")]
        assert [(m.value, m.samples) for m in found] == (
            [(pytest.approx(np.mean(overheads)), len(overheads))] if overheads else []
        )


@pytest.mark.usefixtures("clock")
def test_poses_that_come_at_the_end_have_the_time_since_the_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second a message: that of frame 0, shared by nobody; then frames 1 to 3 and the end, for three poses."""
    monkeypatch.setattr(Program, "answers", {0: [0], -1: [1, 2, 3]})
    found = list(opened().predict(iter(frames())))
    assert [p.index for p in found] == list(range(COUNT))
    assert [p.cost and p.cost.forward_s for p in found] == [1.0, *[pytest.approx(4 / 3)] * 3]
    for p in found:
        np.testing.assert_array_equal(p.camera_to_world, np.eye(4))


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("said", "program"),
    [
        ({}, {}),
        ({"name": "", "version": None}, {}),
        ({"name": "n" * 300, "version": "3"}, {"name": "n" * 200, "version": "3"}),
        ({"name": 7, "version": 3}, {}),
    ],
)
def test_a_program_need_not_say_which_it_is(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], program: dict[str, str]
) -> None:
    monkeypatch.setattr(Program, "receive", lambda *_: pack({"type": "ready", "protocol": PROTOCOL, **said}))
    monkeypatch.setattr(Program, "facts", lambda _: {"left_running": 0}, raising=False)
    method = opened(version="3")
    with pytest.raises(StreamError, match="to the warm-up"):
        method.warm_up(frames()[0])
    assert method.describe()["program"] == program


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("found", ["1.20", "1", "1.2 "])
def test_a_version_is_the_experiments_to_the_letter(monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    said = {"type": "ready", "protocol": PROTOCOL, "version": found}
    monkeypatch.setattr(Program, "receive", lambda *_: pack(said))
    with pytest.raises(StreamError, match=f"^expected version '1.2', as the experiment says, found '{found}'; correct"):
        opened(version="1.2").warm_up(frames()[0])
    with pytest.raises(StreamError, match="to the warm-up"):  # whose version nobody declares is what it says
        opened().warm_up(frames()[0])


@pytest.mark.usefixtures("clock")
def test_a_program_that_reads_no_more_went_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def send(program: Program, data: bytes, deadline: float) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(Program, "send", send)
    with pytest.raises(StreamError, match=r"^no answer to the greeting: the program went away; it ended$"):
        list(opened().predict(iter(frames())))


@pytest.mark.usefixtures("clock")
def test_the_time_of_a_unit_ends_the_time_of_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Program, "takes", 10.0)
    method = opened(timeout_s=25)
    list(method.predict(iter(frames()[:1])))
    assert [left for _, left, _ in Program.asked] == [25, 9, 5]


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("settings", "env", "how"),
    [
        ({"gpu": 0}, {"CUDA_VISIBLE_DEVICES": "", "A": "b"}, {"pipe": True, "with_gpu": False}),
        ({"gpu": 1}, {"A": "b"}, {"pipe": True, "with_gpu": True}),
        ({"gpu": 2, "mode": "job"}, {"A": "b"}, {"pipe": False, "with_gpu": True}),
        ({"gpu": 0, "env": {"A": "b", "CUDA_VISIBLE_DEVICES": "3"}}, {"A": "b", "CUDA_VISIBLE_DEVICES": "3"}, {}),
    ],
)
def test_a_program_is_started_as_the_settings_say(
    settings: dict[str, Any], env: dict[str, str], how: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    method = opened(**{"env": {"A": "b"}, **settings})
    try:
        list(method.predict(iter(frames())))
    except StreamError:
        assert settings.get("mode") == "job", "nobody wrote any result"
    program = Program.last
    program.env.pop(JOB_VARIABLE, None)
    assert (program.command, program.env) == (("a", "b"), env)
    assert how.items() <= program.how.items()


def job(folder: Path, late: float) -> None:
    """Each pose has its frame's time, but for a little."""
    told = json.loads((folder / "job.json").read_text())
    assert told["frames"] == [{**said(n), "image": f"frames/{n:06d}.png"} for n in range(COUNT)]
    assert {name: told[name] for name in ("dataset", "scene", "width", "height", "causal")} == {
        "dataset": "tum",
        "scene": "fr1/xyz",
        "width": WIDTH,
        "height": HEIGHT,
        "causal": True,
    }
    for number, frame in enumerate(told["frames"]):
        assert read_png(folder / frame["image"], WIDTH, HEIGHT) == PIXELS[number].tobytes()
    rows = [f"{frame['time'] + late} {frame['index']} 0 0 0 0 0 1" for frame in told["frames"]]
    (folder / told["output"]["trajectory"]).write_text("\n".join(rows))
    (folder / told["output"]["status"]).write_text(json.dumps({"status": "ok", "protocol": PROTOCOL}))


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("late", "fits"), [(0.0009, True), (-0.0009, True), (0.0012, False), (-0.0012, False)])
def test_a_job_is_told_all_frames_and_its_poses_may_be_late_by_a_millisecond(
    monkeypatch: pytest.MonkeyPatch, late: float, fits: bool
) -> None:
    def wait(program: Program, seconds: float) -> bool:
        assert seconds == 60
        job(Path(program.env[JOB_VARIABLE]), late)
        return True

    monkeypatch.setattr(Program, "wait", wait)
    method = opened(mode="job")
    assert method.warm_up(frames()[0]) == 0.0
    if fits:
        found = list(method.predict(iter(frames())))
        assert [(p.index, p.camera_to_world[0, 3]) for p in found if p.camera_to_world is not None] == [
            (n, n) for n in range(COUNT)
        ]
        assert [p.cost for p in found] == [None] * COUNT
    else:
        with pytest.raises(StreamError, match="which no frame has"):
            list(method.predict(iter(frames())))
    method.close()


@pytest.mark.usefixtures("clock")
def test_events_of_a_job_count_from_the_second_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first event has none before it; what is no number of a frame is of none."""

    def wait(program: Program, _: float) -> bool:
        folder = Path(program.env[JOB_VARIABLE])
        job(folder, 0.0)
        rows = [f"{n / 8} {n} 0 0 0 0 0 1" for n in (0, 2, 3)]
        (folder / "output" / "trajectory.tum").write_text("\n".join(rows))
        events = [{"t": t, "event": "pose", "frame": n} for t, n in ((5, 2), (6, 0), (8, [3]), (8.5, 3), (9, 77))]
        (folder / "output" / "events.jsonl").write_text("\n\n".join(map(json.dumps, events)))
        return True

    monkeypatch.setattr(Program, "wait", wait)
    found = list(opened(mode="job").predict(iter(frames())))
    assert [(p.index, p.cost and p.cost.forward_s) for p in found] == [(0, 1.0), (2, None), (3, 0.5)]
    assert [p.camera_to_world[0, 3] for p in found if p.camera_to_world is not None] == [0, 2, 3]


EYE = np.eye(4).ravel().tolist()
NAN = np.full((HEIGHT, WIDTH), np.nan, "<f4").tobytes()


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("kind", "answer", "words"),
    [
        ("warm_up", {"type": "poses", "poses": [{"frame": 0}]}, "expected an answer without poses to the warm-up"),
        ("frame", [1], r"expected a dict in answer to frame 0, found \[1\]"),
        ("frame", {"type": "poses", "poses": 7}, "expected poses, found .*'poses': 7"),
        ("frame", {"type": "ready", "poses": []}, "expected poses, found .*'ready'"),
        ("frame", {"type": "poses", "poses": [7]}, "expected a dict for each pose, found 7"),
        *(
            ("frame", {"type": "poses", "poses": [{"frame": 0, "camera_to_world": EYE, **more}]}, words)
            for more, words in (
                ({"camera_to_world": EYE[:15]}, "frame 0: expected 16 numbers as camera_to_world, found"),
                ({"camera_to_world": [*EYE[:15], "1"]}, "frame 0: expected 16 numbers as camera_to_world, found"),
                ({"depth": NAN}, "frame 0: depth is not finite everywhere; write 0 where there is none"),
                ({"confidence": NAN}, "frame 0: confidence is not finite everywhere"),
                ({"confidence": b"1234"}, "frame 0: expected confidence as 5 · 7 float32, 140 bytes, found 4 bytes"),
                ({"depth": [7]}, r"frame 0: expected depth as 5 · 7 float32, 140 bytes, found \[7\]"),
                ({"frame": "0"}, "a pose is of frame '0', which was not given"),
            )
        ),
    ],
)
def test_an_answer_that_is_none_is_refused_by_what_it_was(
    monkeypatch: pytest.MonkeyPatch, kind: str, answer: object, words: str
) -> None:
    plain = Program.receive

    def receive(program: Program, most: int, deadline: float) -> bytes:
        usual = plain(program, most, deadline)
        return pack(answer) if program.message["type"] == kind else usual

    monkeypatch.setattr(Program, "receive", receive)
    method = opened()

    def streamed() -> None:
        method.warm_up(frames()[0])
        list(method.predict(iter(frames())))

    with pytest.raises(StreamError, match=f"^{words}.*; it ended$"):
        streamed()


@pytest.mark.usefixtures("clock")
def test_a_program_that_fails_after_its_last_answer_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Program, "close_input", lambda program: setattr(program, "exit_code", 3))
    with pytest.raises(StreamError, match=r"^the program answered all frames; it ended$"):
        list(opened().predict(iter(frames())))


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("mode", ["pipe", "job"])
def test_images_of_a_scene_are_there_and_of_one_size(mode: str) -> None:
    first, second = frames()[:2]
    turned = replace(second, image=np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    with pytest.raises(StreamError, match="frame 1: expected 7x5 pixels as before, found 5x7; a scene has one size"):
        list(opened(mode=mode).predict(iter([first, turned])))
    with pytest.raises(DataError, match="frame 1 came without its image, which the program needs"):
        list(opened(mode=mode).predict(iter([first, replace(second, image=None)])))


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "events.jsonl",
            b'{"t": 2}\n{"t": 1}',
            "events.jsonl:2: expected t in seconds that never decreases, found .*1}",
        ),
        ("events.jsonl", b'{"t": 2}\n{"t": "3"}', "events.jsonl:2: expected t in seconds"),
        ("events.jsonl", b"[2]", r"events.jsonl:1: expected t in seconds that never decreases, found \[2\]"),
        ("events.jsonl", b'{"t": 1}\n{"t": 1e999}', "events.jsonl cannot be read: "),
        ("events.jsonl", b"{", "events.jsonl cannot be read: "),
        ("status.json", b'[{"status": "ok"}]', "the program failed: status.json does not say that it is ok"),
        ("status.json", b"{", "status.json cannot be read: "),
        ("trajectory.tum", b"0 0 0 0 0 0 0 1\n" * 2, r"trajectory.tum: 0 of 2 poses .* 1 have the time of another"),
        ("trajectory.tum", b"1 0 0 0 0 0 0 1\n0 0 0 0 0 0 0 1", "trajectory.tum:2: expected increasing times"),
        (
            "trajectory.tum",
            b"# t\n0 0 0 0 0 0 0 1\n0.2 0 0 0 0 0 0 1\n",
            r"trajectory.tum: line 3 has the time 0.200000 s, which no frame has \(the nearest: 0.250000 s\)",
        ),
        ("trajectory.tum", b"0 0 0 0 0 0 0 1\n.125 nan 0 0 0 0 0 1\n", r"trajectory.tum: 1 of 2 .* \(first: row 1\)"),
        ("depth/000001.npy", b"no array", "depth map depth/000001.npy cannot be read as"),
        ("depth/000001.npy", (WIDTH, HEIGHT), r"depth/000001.npy: expected shape \(5, 7\), found \(7, 5\)"),
        ("depth/000003.npy", None, "job/output/depth/000003.npy: expected plain files in the job folder"),
        ("confidence/000002.npy", (1, 7), r"confidence/000002.npy: expected shape \(5, 7\), found \(1, 7\)"),
    ],
)
def test_a_file_of_a_job_that_cannot_be_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, content: Any, words: str
) -> None:
    def wait(program: Program, _: float) -> bool:
        folder = Path(program.env[JOB_VARIABLE])
        job(folder, 0.0)
        path = folder / "output" / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is None:
            os.mkfifo(path)
        else:
            np.save(path, np.ones(content, np.float32))
        return True

    monkeypatch.setattr(Program, "wait", wait)
    with pytest.raises(StreamError, match=f"^{words}") as refused:
        list(opened(mode="job").predict(iter(frames())))
    assert "it ended" not in str(refused.value), "that it ended well is no news"


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("mode", ["pipe", "job"])
def test_for_a_scene_without_frames_no_program_is_started(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setattr(module, "Child", lambda *_, **__: pytest.fail("started"))
    method = opened(mode=mode)
    assert list(method.predict(iter([]))) == []
    assert (method.resources(), method.files()) == ((), {})
    assert "found" not in method.describe()
