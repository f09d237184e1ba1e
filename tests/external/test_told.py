"""What a program is told of its scene and by when it must have answered; no program is started."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from lingbot_eval.errors import StreamError
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
        pose = {"camera_to_world": np.eye(4).ravel().tolist()}
        if kind == "hello":
            return pack({"type": "ready", "protocol": PROTOCOL})
        # The first two are answered together, the others by themselves.
        poses = {1: [0, 1], 2: [2], 3: [3]}.get(index, []) if kind == "frame" else []
        seconds = {} if index == 3 else {"seconds": 0.75}
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
