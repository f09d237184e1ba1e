"""The ``external`` method: frames to a program of any environment, poses back, everything checked on arrival."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lingbot_eval.errors import DataError, StreamError, reason, shortened
from lingbot_eval.external import JOB_VARIABLE, PROTOCOL, ProtocolError, pack, unpack, write_png
from lingbot_eval.files.depth_maps import read_depth_map
from lingbot_eval.files.json_documents import parse_json
from lingbot_eval.files.reading import read_file
from lingbot_eval.files.trajectories import read_trajectory
from lingbot_eval.geometry.poses import not_rigid
from lingbot_eval.methods.base import BaseMethod
from lingbot_eval.methods.child import GRACE_S, Child
from lingbot_eval.methods.external_config import UNKNOWN, ExternalConfig
from lingbot_eval.profiling.timing import summarise
from lingbot_eval.types import DepthMap, FloatArray, Frame, FrameSequence, FrameType, Measurement, Prediction, StepCost

LOG_FILE = "log.txt"

_MOST_OF_A_MESSAGE = 64 << 10
"""Bytes of an answer besides the depth and confidence maps that it may bring."""

_MOST_OF_A_FILE = 64 << 20
_SAME_TIME_S = 1e-3
"""What a time that a program wrote may differ from its frame's: three decimals are usual."""

_TYPES = {kind.name.lower(): kind for kind in FrameType}
_TEXT = 200


class ExternalMethod(BaseMethod):
    """Runs the program once for each scene."""

    def __init__(self, config: ExternalConfig) -> None:
        super().__init__(config)
        self._config = config
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._child: Child | None = None
        self._program: dict[str, Any] = {}
        self._given: dict[int, Frame] = {}
        self._overheads: list[float] = []

    def describe(self) -> Mapping[str, Any]:
        """The settings but the command and its variables, which the run's record has, and how the program did."""
        config = self._config
        facts: dict[str, Any] = {
            **config.model_dump(mode="json", exclude={"command", "env"}),
            "protocol": PROTOCOL,
            "program": self._program,
            "scale": "as the program gives it",
            "pose": "camera-to-world, OpenCV axes",
            "depth": "along z" if config.depth else None,
        }
        notes = []
        if config.version == UNKNOWN:
            notes.append("the program's version is not declared: its finished units run again each time")
        if config.mode == "job":
            notes.append(
                "job folder: end-to-end times have the writing of all frames and the program's start in them; forward"
                " times are between the events that the program wrote"
            )
        if self._child is not None:
            facts["found"] = found = self._child.facts()
            if found["left_running"]:
                notes.append(f"the program left processes running, which were ended: {found['left_running']}")
        return {**facts, "notes": notes}

    def open(self, sequence: FrameSequence) -> None:
        """Forget the last scene's program, and make a folder for this one's."""
        super().open(sequence)
        self.close()
        self._folder = tempfile.TemporaryDirectory(prefix="lingbot-eval-")

    def warm_up(self, frame: Frame) -> float:
        """Start the program, let it load, and show it the first frame; 0 for a job, which starts when all is there."""
        if self._config.mode == "job":
            return 0.0
        begun = time.perf_counter()
        self._start_pipe(frame)
        answer = self._ask({"type": "warm_up", **_said(frame)}, "the warm-up", self._config.timeout_s, 0)
        if answer.get("type") != "poses" or answer.get("poses"):
            raise self._refused(f"expected an answer without poses to the warm-up, found {_shown(answer)}")
        return time.perf_counter() - begun

    def predict(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        """Poses as the program gives them. Raises StreamError or DataError, with what the program did, in one line."""
        try:
            yield from self._through_folder(frames) if self._config.mode == "job" else self._through_pipe(frames)
        finally:
            if self._child is not None:
                self._child.stop()

    def resources(self) -> tuple[Measurement, ...]:
        """Memory of the program with its children; over the pipe, what the way there and back took."""
        if self._child is None:
            return ()
        if not self._overheads:
            return self._child.memory()
        convention = (
            "from the frame's way into the pipe to the answer out of it, without the time that the program says it took"
        )
        return (*self._child.memory(), *summarise("pipe_overhead", 1e3 * np.array(self._overheads), convention))

    def files(self) -> Mapping[str, Path]:
        """The program's log."""
        if self._folder is None or self._child is None:
            return {}
        self._child.stop()
        return {LOG_FILE: Path(self._folder.name, LOG_FILE)}

    def close(self) -> None:
        """End the program, and all that it started; remove its folder."""
        if self._child is not None:
            self._child.stop()
        if self._folder is not None:
            self._folder.cleanup()
        self._child, self._folder, self._program = None, None, {}
        self._given, self._overheads = {}, []

    def _start(self, env: Mapping[str, str]) -> Child:
        if self._folder is None:
            raise RuntimeError("open() must come before predict()")
        config = self._config
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if config.gpu == 0 else {}
        self._child = Child(
            config.command,
            {**hidden, **config.env, **env},
            Path(self._folder.name, LOG_FILE),
            pipe=config.mode == "pipe",
            with_gpu=config.gpu > 0,
        )
        return self._child

    def _scene(self, height: int, width: int) -> dict[str, Any]:
        """What a program is told before its first frame."""
        if self.sequence is None:
            raise RuntimeError("open() must come before predict()")
        return {
            "protocol": PROTOCOL,
            "dataset": self.sequence.dataset,
            "scene": self.sequence.scene,
            "causal": self._config.causal,
            "width": width,
            "height": height,
        }

    def _refused(self, text: str) -> StreamError:
        """The error for what the program did: how it ended, and the last line of its log, are in it."""
        if self._child is None:
            return StreamError(text)
        # That a job which is refused ended well is no news.
        told = self._child.exit_code is not None and (self._config.mode == "pipe" or self._child.exit_code != 0)
        self._child.stop()
        parts = [text, *([self._child.ending()] if told else [])]
        if line := self._child.last_line():
            parts.append(f"last line of its log: {line}")
        return StreamError(shortened("; ".join(parts)))

    # --- the pipe ---

    def _through_pipe(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        waiting = 0.0
        for frame in frames:
            if self._child is None:
                self._start_pipe(frame)
            self._given[frame.index] = _without_pixels(frame, self._given)
            begun = time.perf_counter()
            answer = self._ask(
                {"type": "frame", **_said(frame)}, f"frame {frame.index}", self._config.frame_timeout_s, 1
            )
            took = time.perf_counter() - begun
            seconds = answer.get("seconds")
            if isinstance(seconds, float) and 0 <= seconds <= took:
                self._overheads.append(took - seconds)
            waiting += took
            for prediction in self._answered(answer, waiting):
                waiting = 0.0
                yield prediction
        if self._child is None:
            return
        begun = time.perf_counter()
        answer = self._ask({"type": "finish"}, "the end of the frames", self._config.timeout_s, 1)
        yield from self._answered(answer, waiting + time.perf_counter() - begun)
        self._child.close_input()
        if self._child.wait(GRACE_S) and self._child.exit_code != 0:
            raise self._refused("the program answered all frames")

    def _start_pipe(self, frame: Frame) -> None:
        height, width = _size(frame)
        length = None if self.sequence is None else self.sequence.length
        self._start({})
        hello = {"type": "hello", "length": length, **self._scene(height, width)}
        ready = self._ask(hello, "the greeting", self._config.timeout_s, 0)
        if ready.get("type") != "ready" or ready.get("protocol") != PROTOCOL:
            raise self._refused(f"expected ready with protocol {PROTOCOL}, found {_shown(ready)}; renew the wrapper")
        self._keep_program(ready)

    def _keep_program(self, said: Mapping[str, Any]) -> None:
        """What the program says of itself. Raises StreamError for a version that is not the experiment's."""
        self._program = {
            key: value[:_TEXT] for key in ("name", "version") if isinstance(value := said.get(key), str) and value
        }
        version, declared = self._program.get("version"), self._config.version
        if version is not None and declared not in (UNKNOWN, version):
            raise self._refused(f"expected version {declared!r}, as the experiment says, found {version!r}; correct it")

    def _ask(self, message: dict[str, Any], what: str, seconds: float, maps: int) -> dict[str, Any]:
        """Send a message and take the answer.

        what: it is about, for errors. seconds: to wait for it, within the unit's time. maps: whether the answer may
        bring depth and confidence of the frames that are unanswered.
        """
        child = self._child
        if child is None:
            raise RuntimeError("no program runs")
        whole = child.started + self._config.timeout_s
        deadline = min(whole, time.monotonic() + seconds)
        most = _MOST_OF_A_MESSAGE
        if maps:
            height, width = _size(next(iter(self._given.values()))) if self._given else (0, 0)
            most += len(self._given) * (1024 + 8 * height * width)
        try:
            child.send(pack(message), deadline)
            answer = unpack(child.receive(most, deadline))
        except TimeoutError as error:
            name = "timeout_s" if deadline == whole else "frame_timeout_s"
            limit = self._config.timeout_s if deadline == whole else self._config.frame_timeout_s
            raise self._refused(f"no answer to {what} within {limit:g} s ({name}){error}") from None
        except (OSError, EOFError, ProtocolError) as error:
            # Whoever dies closes the pipe first, and has an exit code a moment later.
            child.wait(1.0)
            text = "the program went away" if isinstance(error, OSError) else str(error)
            raise self._refused(f"no answer to {what}: {text}") from error
        if not isinstance(answer, dict):
            raise self._refused(f"expected a dict in answer to {what}, found {_shown(answer)}")
        if answer.get("type") == "error":
            child.wait(1.0)
            raise self._refused(f"the program failed at {what}: {_shown(answer.get('reason'))}")
        return answer

    def _answered(self, answer: Mapping[str, Any], seconds: float) -> Iterator[Prediction]:
        """Predictions of one answer; frames that were answered together share its time."""
        poses = answer.get("poses")
        if answer.get("type") != "poses" or not isinstance(poses, list):
            raise self._refused(f"expected poses, found {_shown(answer)}")
        for said in poses:
            if not isinstance(said, dict):
                raise self._refused(f"expected a dict for each pose, found {_shown(said)}")
            index = said.get("frame")
            frame = self._given.pop(index, None) if isinstance(index, int) else None
            if frame is None:
                raise self._refused(
                    f"a pose is of frame {_shown(index)}, which was not given or is answered already;"
                    " answer each frame once, by its index"
                )
            numbers = said.get("camera_to_world")
            if not (
                isinstance(numbers, list) and len(numbers) == 16 and all(isinstance(n, float | int) for n in numbers)
            ):
                raise self._refused(f"frame {index}: expected 16 numbers as camera_to_world, found {_shown(numbers)}")
            depth, confidence = (self._map(said.get(name), frame, name) for name in ("depth", "confidence"))
            yield self._prediction(
                frame,
                np.array(numbers, dtype=np.float64).reshape(4, 4),
                depth,
                confidence,
                seconds / len(poses),
                _TYPES.get(str(said.get("frame_type"))),
            )

    def _map(self, content: object, frame: Frame, name: str) -> DepthMap | None:
        if content is None:
            return None
        height, width = _size(frame)
        if not isinstance(content, bytes) or len(content) != 4 * height * width:
            found = f"{len(content)} bytes" if isinstance(content, bytes) else _shown(content)
            raise self._refused(
                f"frame {frame.index}: expected {name} as {height} · {width} float32, {4 * height * width} bytes, found"
                f" {found}"
            )
        return np.frombuffer(content, "<f4").astype(np.float32).reshape(height, width)

    def _prediction(
        self,
        frame: Frame,
        pose: FloatArray,
        depth: DepthMap | None,
        confidence: DepthMap | None,
        seconds: float | None,
        kind: FrameType | None = None,
    ) -> Prediction:
        """Raises StreamError for a pose that is none, or depth that is not finite."""
        wrong = "it is not finite; leave out a frame that has no pose" if not np.isfinite(pose).all() else None
        wrong = wrong or not_rigid(pose)
        if wrong is not None:
            raise self._refused(f"frame {frame.index}: expected a camera-to-world pose: {wrong}")
        for name, found in (("depth", depth), ("confidence", confidence)):
            if found is not None and not np.isfinite(found).all():
                raise self._refused(
                    f"frame {frame.index}: {name} is not finite everywhere; write 0 where there is none"
                )
        return Prediction(
            index=frame.index,
            timestamp=frame.timestamp,
            camera_to_world=pose,
            depth=depth if self._config.depth else None,
            depth_confidence=confidence if self._config.depth else None,
            frame_type=kind,
            cost=None if seconds is None else StepCost(seconds),
        )

    # --- the job folder ---

    def _through_folder(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        if self._folder is None:
            raise RuntimeError("open() must come before predict()")
        folder = Path(self._folder.name, "job")
        given = self._write_job(folder, frames)
        if not given:
            return
        child = self._start({JOB_VARIABLE: str(folder)})
        if not child.wait(self._config.timeout_s):
            raise self._refused(f"the job was not done within {self._config.timeout_s:g} s (timeout_s)")
        child.stop()  # and what it left: nobody writes here any more
        output = folder / "output"
        refuse_odd_files(output)
        status = self._status(output / "status.json")
        if status.get("status") != "ok" or child.exit_code != 0:
            why = _shown(status["reason"]) if "reason" in status else "status.json does not say that it is ok"
            raise self._refused(f"the program failed: {why}")
        if status.get("protocol") != PROTOCOL:
            raise self._refused(
                f"expected protocol {PROTOCOL}, found {_shown(status.get('protocol'))}; renew the wrapper"
            )
        self._keep_program(status)
        poses = self._poses(output / "trajectory.tum", given)
        seconds = self._seconds(output / "events.jsonl", given)
        for index, pose in sorted(poses.items()):
            depth, confidence = (
                self._file(output / name / f"{index:06d}.npy", given[index]) for name in ("depth", "confidence")
            )
            yield self._prediction(given[index], pose, depth, confidence, seconds.get(index))
        shutil.rmtree(folder)

    def _write_job(self, folder: Path, frames: Iterable[Frame]) -> dict[int, Frame]:
        """Images and ``job.json``; returns the frames without their pixels."""
        given: dict[int, Frame] = {}
        said, size = [], (0, 0)
        for name in ("frames", "output/depth", "output/confidence"):
            (folder / name).mkdir(parents=True)
        for frame in frames:
            size = height, width = _size(frame)
            image = f"frames/{frame.index:06d}.png"
            entry = _said(frame)
            write_png(folder / image, entry["image"], width, height)
            said.append({**entry, "image": image})
            given[frame.index] = _without_pixels(frame, given)
        output = {
            "trajectory": "output/trajectory.tum",
            "depth": "output/depth/%06d.npy",
            "confidence": "output/confidence/%06d.npy",
            "events": "output/events.jsonl",
            "status": "output/status.json",
        }
        job = {**self._scene(*size), "frames": said, "output": output}
        (folder / "job.json").write_text(json.dumps(job, indent=1), encoding="utf-8")
        return given

    def _status(self, path: Path) -> dict[str, Any]:
        try:
            status = parse_json(read_file(path, _MOST_OF_A_MESSAGE, links=False))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise self._refused(f"{path.name} cannot be read: {reason(error)}") from error
        return status if isinstance(status, dict) else {}

    def _poses(self, path: Path, given: Mapping[int, Frame]) -> dict[int, FloatArray]:
        try:
            found = read_trajectory(path, "tum", time_scale=1.0)
        except DataError as error:
            raise self._refused(str(error).replace(f"{path.parent}/", "")) from error
        if found.lost or found.repeated or not found.has_orientation:
            first = min(set(range(found.rows)) - set(found.indices.tolist()), default=0)
            raise self._refused(
                f"{path.name}: {found.lost} of {found.rows} poses are not finite or have no rotation, {found.repeated}"
                f" have the time of another (first: row {first}); leave out frames that have no pose"
            )
        indices = np.array(list(given), dtype=np.int64)
        times = np.array([frame.timestamp for frame in given.values()])
        nearest = np.abs(times[:, None] - found.timestamps[None, :]).argmin(axis=0)
        far = np.abs(times[nearest] - found.timestamps)
        if far.max(initial=0.0) > _SAME_TIME_S:
            row = int((far > _SAME_TIME_S).argmax())
            raise self._refused(
                f"{path.name}: line {found.lines[row]} has the time {found.timestamps[row]:.6f} s, which no frame has"
                f" (the nearest: {times[nearest[row]]:.6f} s); give each pose its frame's time from job.json"
            )
        return dict(zip(indices[nearest].tolist(), found.camera_to_world, strict=True))

    def _seconds(self, path: Path, given: Mapping[int, Frame]) -> dict[int, float]:
        """Frame → seconds from the event before; {} where the program wrote none."""
        try:
            lines = read_file(path, _MOST_OF_A_FILE, links=False).splitlines()
            events = [parse_json(line) for line in lines if line.strip()]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise self._refused(f"{path.name} cannot be read: {reason(error)}") from error
        seconds: dict[int, float] = {}
        last: float | None = None
        for number, event in enumerate(events, start=1):
            now = event.get("t") if isinstance(event, dict) else None
            if not isinstance(now, float | int) or not np.isfinite(now) or (last is not None and now < last):
                raise self._refused(
                    f"{path.name}:{number}: expected t in seconds that never decreases, found {_shown(event)}"
                )
            frame = event.get("frame")
            known = isinstance(frame, int | float) and frame in given
            if event.get("event") == "pose" and last is not None and known:
                seconds[int(frame)] = now - last
            last = now
        return seconds

    def _file(self, path: Path, frame: Frame) -> DepthMap | None:
        if not path.exists():
            return None
        try:
            found = read_depth_map(path, 1.0)
        except DataError as error:
            raise self._refused(str(error).replace(f"{path.parent.parent}/", "")) from error
        if found.shape != _size(frame):
            raise self._refused(f"{path.parent.name}/{path.name}: expected shape {_size(frame)}, found {found.shape}")
        return found


def refuse_odd_files(folder: Path) -> None:
    """Raises StreamError where a job's ``folder``, or anything in it, is no plain file or folder: a link leads out."""
    inside = (Path(root, name) for root, folders, files in os.walk(folder) for name in (*folders, *files))
    for path in itertools.chain((folder.parent, folder), inside):
        try:
            found = path.lstat()
        except OSError as error:
            raise StreamError(
                f"{path.relative_to(folder.parent.parent)}: expected a folder of results, found none: {reason(error)}"
            ) from error
        plain = stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1)
        if not plain:
            raise StreamError(
                f"{path.relative_to(folder.parent.parent)}: expected plain files in the job folder, found a link or a"
                " device, which may lead out of it; write the file itself"
            )


def _said(frame: Frame) -> dict[str, Any]:
    """A frame as a message."""
    if frame.image is None:
        raise DataError(f"{frame.source}: frame {frame.index} came without its image, which the program needs")
    return {
        "index": frame.index,
        "time": frame.timestamp,
        "image": np.ascontiguousarray(frame.image).tobytes(),
        "intrinsics": None if frame.intrinsics is None else frame.intrinsics.tolist(),
    }


def _size(frame: Frame) -> tuple[int, int]:
    """Height and width."""
    if frame.image is None:
        raise DataError(f"{frame.source}: frame {frame.index} came without its image, which the program needs")
    return frame.image.shape[0], frame.image.shape[1]


def _without_pixels(frame: Frame, others: Mapping[int, Frame]) -> Frame:
    """What is kept of a frame until its pose comes: an image of its size that takes no memory.

    Raises StreamError for a size that is not that of the others.
    """
    height, width = _size(frame)
    for other in others.values():
        if _size(other) != (height, width):
            raise StreamError(
                f"frame {frame.index}: expected {_size(other)[1]}x{_size(other)[0]} pixels as before, found"
                f" {width}x{height}; a scene has one size: set the dataset's size"
            )
        break
    nothing = np.broadcast_to(np.uint8(0), (height, width, 3))
    return Frame(frame.index, frame.timestamp, nothing, frame.source)


def _shown(value: object) -> str:
    """What a program sent, for a message: short, on one line."""
    text = repr(value)
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…"
