"""Programs that behave and programs that do not: what the record says of them, and that nothing is left of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import yaml
from guests import DATASET, FRAMES, WRAPPER, experiment, unit, wrapped, wrappers_alive

import lingbot_eval as lb
from lingbot_eval.cli.main import main
from lingbot_eval.errors import ConfigError, StreamError
from lingbot_eval.external import JOB_VARIABLE, PROTOCOL
from lingbot_eval.files.trajectories import read_tum
from lingbot_eval.methods import child as child_module
from lingbot_eval.methods import external as external_module
from lingbot_eval.methods.external_config import ExternalConfig
from lingbot_eval.runs.execute import Parallel
from lingbot_eval.settings import validated
from lingbot_eval.stored.records import UnitRecord
from lingbot_eval.types import Frame, Prediction

if TYPE_CHECKING:
    from conftest import RunWrapper

AT = 4


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a program did, none of it runs afterwards."""
    monkeypatch.setattr(child_module, "GRACE_S", 1.0)
    yield
    assert wrappers_alive() == []


def value(record: UnitRecord, name: str, variant: str = "") -> float | None:
    (found,) = [m for m in record.measurements if (m.name, m.variant) == (name, variant)]
    return found.value


@pytest.mark.parametrize("mode", ["pipe", "job"])
def test_a_wrapper_that_knows_the_answer_has_no_error(run_wrapper: RunWrapper, mode: str, tmp_path: Path) -> None:
    record = run_wrapper("none", mode=mode, version="1")
    assert (record.status, record.predictions) == ("ok", FRAMES)
    assert value(record, "ate_rmse", "none") == pytest.approx(0, abs=1e-9)
    assert value(record, "coverage") == 100.0
    assert value(record, "forward_latency", "p50") is not None
    peak = value(record, "command_peak_rss")
    assert peak is not None
    assert 5 < peak < 500
    # Of the way there and back alone, without what the program says it took.
    pipe = [m for m in record.measurements if (m.name, m.variant) == ("pipe_overhead", "p50")]
    assert [(m.samples, m.unit) for m in pipe] == ([(FRAMES, "ms")] if mode == "pipe" else [])
    assert all((m.value or 0) > 0 for m in pipe)
    (gpu,) = [m for m in record.measurements if m.name == "command_peak_gpu"]
    assert gpu.reason == "gpu: 0, no GPU is shown to it"
    facts = record.method_facts
    assert facts["program"] == {"name": "known", "version": "1"}
    assert (facts["found"]["exit_code"], facts["found"]["left_running"]) == (0, 0)
    assert "command" not in facts
    assert "TRUTH" not in json.dumps(facts)
    (log,) = tmp_path.glob("runs/*/units/synthetic/room/guest/log.txt")
    assert log.read_bytes() == b""
    assert "log.txt" in record.files


REFUSED = {
    "dies": "no answer to frame 4: the program's output ended; it ended with exit code 3; last line of its log: about",
    "killed": "no answer to frame 4: the program's output ended; it was ended by SIGSEGV",
    "raises": "the program failed at frame 4: \"KeyError: 'no such thing'\"; it ended with exit code 1",
    "nan": "frame 4: expected a camera-to-world pose: it is not finite",
    "scaled": "frame 4: expected a camera-to-world pose: R^T R deviates from the identity by 3",
    "unknown_frame": "a pose is of frame 104, which was not given",
    "depth_size": "frame 4: expected depth as 42 · 56 float32, 9408 bytes, found 36 bytes",
    "protocol": "expected ready with protocol 1, found {'type': 'ready', 'protocol': 99}; renew the wrapper",
    "half": "no answer to frame 0: the program's output ended in the middle of a message, after 4 of 1000 bytes",
    "huge": "found the beginning of one of 4294967295",
    "bomb": "promises 4294967295 more than it has",
    "garbage": "the kind 0xc1 of MessagePack",
    "two_answers": "no answer to frame 1: the program had sent more than one answer before; give each message one",
    "prints": "nothing but messages may go to standard output",
}


JOBS = {
    "times": "trajectory.tum: line 1 has the time 0.500000 s, which no frame has",
    "nan_file": "1 of 10 poses are not finite or have no rotation",
    "no_rotation": "(first: row 4)",
    "outside": "output/trajectory.tum: expected plain files in the job folder, found a link",
    "outside_folder": "output/depth: expected plain files in the job folder, found a link",
    "outside_output": "job/output: expected plain files in the job folder, found a link",
    "no_output": "job/output: expected a folder of results, found none: No such file or directory",
    "hard_link": "output/depth/000000.npy: expected plain files in the job folder, found a link",
    "huge_file": "events.jsonl cannot be read: it has 1099511627776 bytes",
    "job_protocol": "expected protocol 1, found 99",
    "no_status": "status.json does not say that it is ok",
    "dies": "it ended with exit code 3; last line of its log: about to give up",
    "raises": "the program failed: \"KeyError: 'no such thing'\"; it ended with exit code 1",
    "scaled": "the pose is no rigid motion",
}


@pytest.fixture(scope="module")
def refused(truth: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, UnitRecord]:
    """One run of every fault, and of a program without one behind them."""
    methods = [wrapped(truth, fault, name=fault) for fault in REFUSED]
    methods += [wrapped(truth, fault, name=f"job-{fault}", mode="job") for fault in JOBS]
    methods.append(wrapped(truth, name="none"))
    run = lb.run(experiment(*methods), out=tmp_path_factory.mktemp("runs"), allow_commands=True)
    return {found.record.method: found.record for found in run.results.units}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_fault_over_the_pipe_is_a_result_with_its_reason(refused: dict[str, UnitRecord], fault: str) -> None:
    record = refused[fault]
    assert record.status == "failed"
    assert REFUSED[fault] in (record.reason or "")
    assert "\n" not in (record.reason or "")
    if "frame 4" in REFUSED[fault]:
        assert record.failed_at_frame == AT
    found = record.method_facts["found"]
    assert (found["exit_code"] is None) != (found["signal"] is None)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("hangs", "no answer to frame 4 within 1 s (frame_timeout_s)"),
        ("half_and_hangs", "half a message, 4 of 1000 bytes"),
    ],
)
def test_a_program_that_hangs_is_ended(run_wrapper: RunWrapper, fault: str, words: str) -> None:
    begun = time.monotonic()
    record = run_wrapper(fault, frame_timeout_s=1, timeout_s=90)
    assert words in (record.reason or "")
    assert time.monotonic() - begun < 20
    # It does not listen to SIGTERM where it hangs in the wrapper.
    assert record.method_facts["found"]["signal"] == (9 if fault == "hangs" else 15)
    # Who is ended by us has left nothing running.
    assert record.method_facts["found"]["left_running"] == 0
    assert not any("left processes" in note for note in record.method_facts["notes"])


@pytest.mark.parametrize("mode", ["pipe", "job"])
def test_the_time_of_a_unit_is_limited(run_wrapper: RunWrapper, mode: str) -> None:
    record = run_wrapper("hangs", mode=mode, timeout_s=2)
    assert "within 2 s (timeout_s)" in (record.reason or "")


@pytest.mark.parametrize("fault", JOBS)
def test_a_fault_in_the_job_folder_is_a_result_with_its_reason(refused: dict[str, UnitRecord], fault: str) -> None:
    record = refused[f"job-{fault}"]
    assert record.status == "failed"
    assert JOBS[fault] in (record.reason or "")
    assert record.predictions == 0


def test_what_a_link_leads_to_is_not_read(refused: dict[str, UnitRecord], truth: Path) -> None:
    assert truth.read_text()[:20] not in json.dumps(refused["job-outside"].model_dump(mode="json"))


def test_a_flood_of_words_stops_nothing_and_fills_nothing(
    run_wrapper: RunWrapper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "MOST_LOG_BYTES", 1 << 20)
    record = run_wrapper("floods")
    assert record.status == "ok"
    found = record.method_facts["found"]
    assert found["log_bytes"] > 32 << 20
    assert found["log_tail"][-1] == "the flood is over"
    assert len(found["log_tail"]) <= child_module.LAST_LINES
    (log,) = tmp_path.glob("runs/*/units/synthetic/room/guest/log.txt")
    assert log.stat().st_size < 2 << 20
    words, kept = log.read_bytes()[1 << 20 :].split(b"]\n", 1)
    assert words == f"\n[{found['log_bytes'] - (1 << 20) - len(kept)} bytes are left out here".encode()
    assert kept.endswith(b"x\nthe flood is over\n")


@pytest.mark.parametrize("mode", ["pipe", "job"])
def test_children_that_outlive_the_program_are_ended_and_said(run_wrapper: RunWrapper, mode: str) -> None:
    record = run_wrapper("children", mode=mode)
    assert record.status == "ok"
    assert record.method_facts["found"]["left_running"] == 3
    assert "the program left processes running, which were ended: 3" in record.method_facts["notes"]


def test_the_memory_of_children_counts(run_wrapper: RunWrapper) -> None:
    alone, together = (value(run_wrapper(fault), "command_peak_rss") for fault in ("none", "children"))
    assert alone is not None
    assert together is not None
    assert together > alone + 5


def test_the_other_units_are_done(refused: dict[str, UnitRecord]) -> None:
    assert [name for name, record in refused.items() if record.status == "ok"] == ["none"]


def test_what_failed_is_tried_again_and_what_is_done_stays(truth: Path, tmp_path: Path) -> None:
    document = experiment(*(wrapped(truth, fault, name=fault, version="1") for fault in ("dies", "none")))
    lb.run(document, out=tmp_path / "runs", allow_commands=True)
    again = lb.run(document, out=tmp_path / "runs", allow_commands=True).outcome
    assert again is not None
    assert (again.skipped, again.failed) == (1, 1)
    estimate = read_tum(next(tmp_path.glob("runs/*/units/synthetic/room/none/estimate.tum")))
    assert len(estimate) == FRAMES


def test_frames_without_a_pose_are_coverage(run_wrapper: RunWrapper) -> None:
    record = run_wrapper("missing")
    assert (record.status, record.predictions) == ("ok", FRAMES - 2)
    assert value(record, "coverage") == 80.0


def test_more_frames_than_memory_may_hold_come_back_from_a_job(
    run_wrapper: RunWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lingbot_eval.runs import stream

    plain = run_wrapper("none", mode="job")
    monkeypatch.setattr(stream, "MAX_BYTES_IN_FLIGHT", 3 * 56 * 42 * 7)
    record = run_wrapper("none", mode="job")
    assert record.predictions == FRAMES
    assert value(record, "ate_rmse", "none") == value(plain, "ate_rmse", "none")


def test_each_answer_leaves_before_the_next_frame_is_asked_for(truth: Path) -> None:
    """One frame in flight: whoever gives frames at a camera's pace measures the program, not a queue."""
    scene = lb.open_dataset("synthetic", **DATASET["options"]).scene("room")
    method = validated(ExternalConfig, wrapped(truth), "test").create()
    order: list[tuple[str, int]] = []

    def camera() -> Iterator[Frame]:
        for frame in scene:
            order.append(("frame", frame.index))
            yield frame

    method.open(scene.sequence)
    for prediction in method.predict(camera()):
        order.append(("pose", prediction.index))
    method.close()
    assert order == [(what, index) for index in range(FRAMES) for what in ("frame", "pose")]


TOLD = """
import os, sys, time, numpy as np
from lingbot_eval.external import Pose, Wrapper, serve
class W(Wrapper):
    def start(self, scene):
        said = (scene.dataset, scene.name, scene.width, scene.height, scene.length, scene.causal)
        sys.stderr.write(repr(said) + "\\n")
    def step(self, frame):
        if frame.index == 0 and os.environ["LANGUAGE"] != "of the experiment":
            raise ValueError("env does not win")
        if frame.index < 2:
            sys.stderr.write(repr((frame.index, round(frame.time, 4), frame.intrinsics[0][0] > 30)) + "\\n")
        if frame.index % 2 == 0:
            return None
        time.sleep(0.05)
        depth = np.ones((frame.height, frame.width), np.float32)
        poses = []
        for index, kind in ((frame.index - 1, "kept"), (frame.index, "unkept")):
            pose = np.eye(4)
            pose[0, 3] = index
            poses.append(Pose(index, pose, depth, frame_type=kind))
        return poses
serve(W())
"""


@pytest.mark.parametrize(("mode", "causal"), [("pipe", False), ("job", True)])
def test_what_a_program_is_told_and_how_its_answers_are_filed(
    truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, causal: bool
) -> None:
    """Two frames an answer: they share its time; of the frames' kinds and of depth that is not wanted, too."""
    monkeypatch.setenv("LANGUAGE", "of the user")
    base = wrapped(truth)
    settings = {"command": [sys.executable, "-c", TOLD], "mode": mode, "causal": causal, "depth": False}
    settings["env"] = {**base["env"], "LANGUAGE": "of the experiment"}
    run = lb.run(experiment({**wrapped(truth), **settings}), out=tmp_path, allow_commands=True)
    record = unit(run, "external")
    assert record.status == "ok", record.reason
    first, *frames = record.method_facts["found"]["log_tail"]
    assert first == repr(("synthetic", "room", 56, 42, FRAMES, causal))
    warmed = [repr((0, 0.0, True))] if mode == "pipe" else []
    assert frames in (
        [repr((0, 0.0, True)), repr((1, 0.0333, True))],
        [*warmed, repr((0, 0.0, True)), repr((1, 0.0333, True))],
    )
    table = run.frames("synthetic", "room", "external")
    assert table["index"].tolist() == list(range(FRAMES))
    if mode == "pipe":
        assert table["frame_type"].tolist() == ["kept", "unkept"] * (FRAMES // 2)
        times = table["forward_ms"].to_numpy()
        assert times[::2] == pytest.approx(times[1::2])
        assert times.min() > 25
        # Nobody's time counts twice.
        assert times.sum() < table["interval_ms"].sum()
    assert {m.reason for m in record.measurements if m.name == "abs_rel"} == {"the method gives no depth"}
    assert not {"cloud.npz", "panels.npz"} & record.files.keys()
    estimate = read_tum(next(tmp_path.glob("*/units/synthetic/room/external/estimate.tum")))
    assert estimate.camera_to_world[:, 0, 3].tolist() == list(range(FRAMES))


# --- who may run what, and when it runs again ---


def test_commands_run_only_when_they_are_allowed(truth: Path, tmp_path: Path) -> None:
    document = experiment(wrapped(truth))
    for parallel in (None, Parallel(workers=2)):
        with pytest.raises(ConfigError, match=r"method 'external' runs the command .* pass --allow-commands"):
            lb.run(document, out=tmp_path / "runs", parallel=parallel)
    assert not (tmp_path / "runs").exists()
    lb.run(document, out=tmp_path / "runs", allow_commands=True)
    with pytest.raises(ConfigError, match="allow-commands"):  # neither on the way of a run that was allowed before
        lb.run(document, out=tmp_path / "runs")


def test_the_command_line_asks_and_shows(truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "guests.yaml"
    file.write_text(yaml.safe_dump(experiment(wrapped(truth, version="1"))))
    words = ["run", str(file), "--out", str(tmp_path / "runs"), "--no-report"]
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"command of external (runs with --allow-commands): {sys.executable} {WRAPPER} none" in said
    assert main([*words, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["commands"] == {"external": f"{sys.executable} {WRAPPER} none"}
    assert main(words) == 2
    refusal = capsys.readouterr().err.splitlines()[-1]
    assert "error: method 'external' runs the command" in refusal
    assert "--allow-commands" in refusal
    assert not (tmp_path / "runs").exists()
    assert main([*words, "--allow-commands"]) == 0
    (record,) = tmp_path.glob("runs/*/run.json")
    assert json.loads(record.read_text())["command"].endswith("--allow-commands")


def outcome(document: dict[str, Any], out: Path) -> tuple[int, int, Path]:
    found = lb.run(document, out=out, allow_commands=True).outcome
    assert found is not None
    return found.done, found.skipped, found.path


def test_the_key_knows_command_version_and_files(truth: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"one")
    settings = {"version": "1", "files": [str(weights)]}
    out = tmp_path / "runs"
    done, _, first = outcome(experiment(wrapped(truth, **settings)), out)
    assert done == 1
    assert outcome(experiment(wrapped(truth, **settings)), out) == (0, 1, first)
    weights.write_bytes(b"two")
    assert outcome(experiment(wrapped(truth, **settings)), out)[2] != first
    weights.write_bytes(b"one")
    assert lb.plan_run(experiment(wrapped(truth, "missing", **settings))).key not in first.name
    other = lb.plan_run(experiment(wrapped(truth, **{**settings, "version": "2"})))
    assert other.key[:12] not in first.name
    assert other.weights["external"].startswith("version 2, files ")


def test_a_program_of_unknown_version_runs_each_time(truth: Path, tmp_path: Path) -> None:
    document = experiment(wrapped(truth), wrapped(truth, name="known", version="1"))
    _, _, first = outcome(document, tmp_path / "runs")
    assert outcome(document, tmp_path / "runs") == (1, 1, first)


def test_a_version_that_is_not_the_programs_is_refused(run_wrapper: RunWrapper) -> None:
    for mode in ("pipe", "job"):
        record = run_wrapper("none", mode=mode, version="2")
        assert "expected version '2', as the experiment says, found '1'" in (record.reason or "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"command": "python wrap.py"}, "expected a list of words, as no shell reads it"),
        ({"command": []}, "command"),
        ({"command": ["no-such-program-here"]}, "no program 'no-such-program-here' that can be run"),
        ({"files": ["not/there.pt"]}, "files: not/there.pt"),
        ({"mode": "socket"}, "mode"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"env": {"A=B": "c"}}, "env"),
    ],
)
def test_settings_that_cannot_be_are_one_line(truth: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        lb.plan_run(experiment({**wrapped(truth), **changes}))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_without_a_gpu_none_is_shown(truth: Path, tmp_path: Path) -> None:
    show = "import os, sys; sys.stderr.write(repr(os.environ.get('CUDA_VISIBLE_DEVICES'))); sys.exit(1)"
    for gpu, shown in ((0, "''"), (1, repr(os.environ.get("CUDA_VISIBLE_DEVICES")))):
        method = {**wrapped(truth), "command": ["python", "-c", show], "gpu": gpu}
        record = unit(lb.run(experiment(method), out=tmp_path / "runs", allow_commands=True), "external")
        assert record.method_facts["found"]["log_tail"] == [shown]


def test_a_program_is_no_leader_of_ours(truth: Path, tmp_path: Path) -> None:
    """Its group is its own: what is sent to ours does not reach it, and what is sent to its does not reach us."""
    show = "import os, sys; sys.stderr.write(f'{os.getpid()} {os.getpgid(0)} {os.getsid(0)}'); sys.exit(1)"
    method = {**wrapped(truth), "command": ["python", "-c", show]}
    record = unit(lb.run(experiment(method), out=tmp_path / "runs", allow_commands=True), "external")
    pid, group, session = record.method_facts["found"]["log_tail"][0].split()
    assert pid == group == session
    assert not psutil.pid_exists(int(pid))


def test_no_folder_is_left(run_wrapper: RunWrapper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_module.tempfile, "tempdir", str(tmp_path))
    for fault in ("none", "dies"):
        run_wrapper(fault, mode="job")
    assert not list(tmp_path.glob("lingbot-eval-*"))


DEPTH = """
import numpy as np
from lingbot_eval.external import Pose, Wrapper, serve
class W(Wrapper):
    def step(self, frame):
        depth = np.full((frame.height, frame.width), frame.index + 1, np.float32)
        depth[0, 1] = 50
        return Pose(frame.index, np.eye(4), depth, depth / 4)
serve(W())
"""


WITHOUT_INPUT = """
import os, sys
from pathlib import Path
from lingbot_eval.methods.child import Child
os.close(0)  # the next file that is opened takes its number, as where a service starts a run
child = Child([sys.executable, "-c", "import time; time.sleep(60)"], {}, Path(sys.argv[1]), pipe=False, with_gpu=False)
child.stop()
print(child.facts()["signal"])
"""


def test_a_run_without_a_standard_input_ends_its_programs_and_not_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_INPUT, str(tmp_path / "log.txt")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "15", "")


@pytest.mark.parametrize("mode", ["pipe", "job"])
@pytest.mark.parametrize("wanted", [True, False])
def test_depth_and_its_confidence_come_back(truth: Path, mode: str, wanted: bool) -> None:
    settings = {"command": [sys.executable, "-c", DEPTH], "mode": mode, "depth": wanted}
    found = predicted(truth, settings)
    assert [p.index for p in found] == list(range(FRAMES))
    for p in found:
        maps = (p.depth, p.depth_confidence)
        if not wanted:
            assert maps == (None, None)
            continue
        expected = np.full((42, 56), p.index + 1, np.float32)
        expected[0, 1] = 50
        for values, map in zip((expected, expected / 4), maps, strict=True):
            assert map is not None
            np.testing.assert_array_equal(map, values)


JOB = """
import json, os
from pathlib import Path
folder = Path(os.environ["LINGBOT_EVAL_JOB"])
job = json.loads((folder / "job.json").read_text())
times = [frame["time"] for frame in job["frames"]]
assert [frame["index"] for frame in job["frames"]] == list(range(len(times)))
assert all((folder / frame["image"]).is_file() for frame in job["frames"])
events = [{"t": 10.0, "event": "start"}, {"t": 10.5, "event": "pose", "frame": 1}, {"t": 12.0, "event": "thinking"}]
events += [{"t": 13.25, "event": "pose", "frame": 4}, {"t": 13.25, "event": "pose", "frame": 99}]
lines = [f"{times[row]} {row} 0 0 0 0 0 1" for row in (1, 2, 4)]
(folder / job["output"]["trajectory"]).write_text("\\n".join(lines))
(folder / job["output"]["events"]).write_text("\\n".join(map(json.dumps, events)))
(folder / job["output"]["status"]).write_text(json.dumps({"status": "ok", "protocol": job["protocol"], "name": "n"}))
"""


def test_a_job_takes_as_long_as_its_events_say(truth: Path) -> None:
    """From the event before, whichever it is; a pose without an event has no time."""
    assert JOB_VARIABLE in JOB
    found = predicted(truth, {"command": [sys.executable, "-c", JOB], "mode": "job"})
    assert [(p.index, p.camera_to_world is not None and p.camera_to_world[0, 3]) for p in found] == [
        (1, 1),
        (2, 2),
        (4, 4),
    ]
    assert [p.cost and p.cost.forward_s for p in found] == [0.5, None, 1.25]


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (JOB + "raise SystemExit(5)\n", "the program failed: .*; it ended with exit code 5"),
        (JOB.replace('"status": "ok"', '"status": "stopped"'), "status.json does not say that it is ok"),
        (JOB.replace('"status": "ok"', '"status": "stopped", "reason": "no image"'), "the program failed: .?no image"),
    ],
)
def test_a_job_says_that_it_is_ok_and_ends_so(truth: Path, program: str, says: str) -> None:
    with pytest.raises(StreamError, match=says):
        predicted(truth, {"command": [sys.executable, "-c", program], "mode": "job"})


def predicted(truth: Path, settings: dict[str, Any]) -> list[Prediction]:
    """All that a program says of the scene."""
    scene = lb.open_dataset("synthetic", **DATASET["options"]).scene("room")
    method = validated(ExternalConfig, {**wrapped(truth), **settings}, "test").create()
    method.open(scene.sequence)
    try:
        return list(method.predict(iter(scene)))
    finally:
        method.close()


@pytest.mark.parametrize(
    ("settings", "notes"),
    [
        ({"version": "1"}, []),
        ({}, ["the program's version is not declared: its finished units run again each time"]),
        ({"version": "1", "mode": "job", "depth": False}, ["job folder"]),
    ],
)
def test_what_the_record_says_of_a_program(truth: Path, settings: dict[str, Any], notes: list[str]) -> None:
    config = validated(ExternalConfig, {**wrapped(truth), **settings}, "test")
    facts = dict(config.create().describe())
    assert [note.partition(": end")[0] for note in facts.pop("notes")] == notes
    plain = config.model_dump(mode="json", exclude={"command", "env"})
    depth = "along z" if config.depth else None
    assert facts == {
        **plain,
        "protocol": PROTOCOL,
        "program": {},
        "scale": "as the program gives it",
        "pose": "camera-to-world, OpenCV axes",
        "depth": depth,
    }
    assert config.gives_depth is config.depth
    assert config.repeatable is ("version" in settings)
