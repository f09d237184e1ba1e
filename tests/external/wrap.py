"""A wrapper that knows the answer, and misbehaves on request: ``wrap.py FAULT`` (see the tests)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

from lingbot_eval import external
from lingbot_eval.external import Frame, Pose, Wrapper, pack, serve

AT = 4
"""The frame at which it misbehaves."""

SLEEPER = "import time; time.sleep(300)"


def truth(index: int) -> list[list[float]]:
    """The pose of frame ``index``, from the file that the test wrote."""
    poses: list[list[list[float]]] = json.loads(Path(os.environ["TRUTH"]).read_text())
    return poses[index]


class Known(Wrapper):
    name, version = "known", "1"

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def step(self, frame: Frame) -> Pose | list[Pose] | None:
        at = frame.index == AT
        pose = truth(frame.index)
        if self.fault in FAULTS and at:
            FAULTS[self.fault]()
        if self.fault == "raises" and at:
            raise KeyError("no such thing")
        if self.fault == "nan" and at:
            pose[0][3] = float("nan")
        if self.fault == "scaled" and at:
            pose[0] = [2 * number for number in pose[0][:3]] + pose[0][3:]
        if self.fault == "unknown_frame" and at:
            return Pose(frame.index + 100, pose)
        if self.fault == "inverse":
            pose = inverse(pose)
        if self.fault == "millimetres":
            pose = [[*row[:3], 1000 * row[3]] for row in pose[:3]] + pose[3:]
        if self.fault == "missing" and frame.index in (2, 7):
            return None
        if self.fault.startswith("depth_") and "DEPTH" in os.environ:
            return Pose(frame.index, pose, depth=depth_of(self.fault, frame))
        if self.fault == "depth_size" and at:
            import numpy as np

            return Pose(frame.index, pose, depth=np.ones((3, 3), np.float32))
        return Pose(frame.index, pose)


def depth_of(fault: str, frame: Frame) -> object:
    """The true depth, or what is often taken for it."""
    import numpy as np

    depth = np.load(os.environ["DEPTH"])[frame.index]
    if fault == "depth_millimetres":
        return 1000 * depth
    if fault == "depth_inverse":
        return 1 / depth
    if fault == "depth_ray":
        assert frame.intrinsics is not None
        (fx, _, cx), (_, fy, cy), _ = frame.intrinsics
        rows, columns = np.indices(depth.shape)
        return (depth * np.sqrt(1 + ((columns - cx) / fx) ** 2 + ((rows - cy) / fy) ** 2)).astype(np.float32)
    return depth


def inverse(pose: list[list[float]]) -> list[list[float]]:
    turned = [[pose[column][row] for column in range(3)] for row in range(3)]
    moved = [-sum(turned[row][k] * pose[k][3] for k in range(3)) for row in range(3)]
    return [[*turned[row], moved[row]] for row in range(3)] + [[0.0, 0.0, 0.0, 1.0]]


def dies() -> None:
    sys.stderr.write("about to give up\n")
    sys.stderr.flush()
    os._exit(3)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(300)


def floods() -> None:
    line = b"x" * 8191 + b"\n"
    for _ in range(4096):  # 32 MiB
        os.write(2, line)
    os.write(2, b"the flood is over\n")


def children() -> None:
    """One in the group, and two in sessions of their own whose parents are gone: a daemon with outputs of its own, and
    one without the environment.

    The first ignores being asked to end.
    """
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    subprocess.Popen([sys.executable, "-c", stubborn + SLEEPER])
    middle = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', {!r}], start_new_session=True{})"
    own = ", stdin=-3, stdout=-3, stderr=-3"  # subprocess.DEVNULL
    for env, outputs in ((None, own), ({}, "")):
        subprocess.run([sys.executable, "-c", middle.format(SLEEPER, outputs)], check=True, env=env)
    time.sleep(0.5)  # so that whoever looks at memory from time to time sees them


FAULTS = {"dies": dies, "killed": killed, "hangs": hangs, "floods": floods, "children": children}


def raw(fault: str) -> None:
    """Faults of the protocol itself, over the pipe."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer

    def answer(message: dict[str, object] | bytes) -> None:
        data = message if isinstance(message, bytes) else pack(message)
        sink.write(struct.pack(">I", len(data)) + data)
        sink.flush()

    number = 0
    while head := source.read(4):
        source.read(struct.unpack(">I", head)[0])
        number += 1
        if number == 1:
            answer({"type": "ready", "protocol": 99 if fault == "protocol" else external.PROTOCOL})
        elif number == 2:
            answer({"type": "poses", "poses": []})
        elif fault == "half":
            sink.write(struct.pack(">I", 1000) + b"half")
            sink.flush()
            return
        elif fault == "half_and_hangs":
            sink.write(struct.pack(">I", 1000) + b"half")
            sink.flush()
            time.sleep(300)
        elif fault == "huge":
            sink.write(struct.pack(">I", 2**32 - 1))
            sink.flush()
            time.sleep(300)
        elif fault == "bomb":
            answer(b"\xdd\xff\xff\xff\xff" + b"\xc0" * 100)
        elif fault == "garbage":
            answer(b"\xc1")
        elif fault == "two_answers":
            # In one go: the second must be there when the harness asks for the next frame.
            one = pack({"type": "poses", "poses": []})
            sink.write(2 * (struct.pack(">I", len(one)) + one))
            sink.flush()
        elif fault == "prints":
            sys.stdout.write("frame 0 done\n")
            sys.stdout.flush()


def spoil_job(fault: str) -> None:
    """Faults of the files, after a good job."""
    output = Path(os.environ[external.JOB_VARIABLE], "output")
    trajectory = output / "trajectory.tum"
    rows = [line.split() for line in trajectory.read_text().splitlines()]
    if fault == "times":
        rows = [[repr(float(row[0]) + 0.5), *row[1:]] for row in rows]
    elif fault == "nan_file":
        rows[AT][1] = "nan"
    elif fault == "no_rotation":
        rows[AT][4:] = ["0", "0", "0", "0"]
    trajectory.write_text("".join(" ".join(row) + "\n" for row in rows))
    if fault == "outside":
        trajectory.unlink()
        trajectory.symlink_to(os.environ["OUTSIDE"])
    elif fault == "outside_folder":
        (output / "depth").rmdir()
        (output / "depth").symlink_to(Path(os.environ["OUTSIDE"]).parent)
    elif fault == "outside_output":
        output.rename(output.with_name("mine"))
        output.symlink_to(output.with_name("mine"))
    elif fault == "no_output":
        shutil.rmtree(output)
    elif fault == "hard_link":
        os.link(output.parent / "frames" / "000000.png", output / "depth" / "000000.npy")
    elif fault == "huge_file":
        with (output / "events.jsonl").open("wb") as stream:
            stream.truncate(1 << 40)
    elif fault == "job_protocol":
        (output / "status.json").write_text('{"protocol": 99, "status": "ok"}')
    elif fault == "no_status":
        (output / "status.json").unlink()


if __name__ == "__main__":
    wanted = sys.argv[1]
    if wanted in ("protocol", "half", "half_and_hangs", "huge", "bomb", "garbage", "prints", "two_answers"):
        raw(wanted)
    else:
        serve(Known(wanted))
        if external.JOB_VARIABLE in os.environ:
            spoil_job(wanted)
