"""Speed and memory of each side on its own: warm-up apart, then rounds in turn over the same frames."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from lingbot_eval.comparison.contenders import Bench
from lingbot_eval.comparison.frames import PreparedFrames, on_device
from lingbot_eval.comparison.outcome import OutOfMemory, Side, memory_guarded
from lingbot_eval.profiling.memory import reset_peaks
from lingbot_eval.profiling.timing import timed
from lingbot_eval.streaming.open import Session
from lingbot_eval.types import FloatArray

WARM_UP_STEPS = 4
"""Frames after the scale phase: enough for kept and unkept ones, and for the second pass that a CUDA graph records."""


def race(bench: Bench, sides: list[Side], frames: PreparedFrames, rounds: int, each_frame: Callable[[], None]) -> None:
    """Warm every side up, then stream ``frames`` through each, ``rounds`` times in turn; results go into ``sides``.

    Every other round goes the other way about, so that a drift of the machine favours nobody. A side that runs out of
    device memory is out of the race, with its frame. each_frame: called after every timed frame.
    """
    for side in sides:
        _contained(side, partial(_warm_up, bench, side, frames))
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            if side.failure is None:
                _contained(side, partial(_one_pass, bench, side, frames, each_frame))


def release(device: torch.device) -> None:
    """Give the device back what no stream refers to any more, so that the next one starts as the first did."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def _contained(side: Side, work: Callable[[], None]) -> None:
    try:
        work()
    except OutOfMemory as out:
        side.failure = out.failure


def _warm_up(bench: Bench, side: Side, frames: PreparedFrames) -> None:
    with memory_guarded("warm-up", None):
        side.weights_bytes = bench.weights_bytes(side.contender)
    first = frames.first()
    with timed(str(bench.device)) as elapsed:
        with memory_guarded("warm-up", 0):
            image = on_device(first, bench.device)
            session = bench.open(side.contender)
        for frame in range(bench.method.streaming.scale_frames + WARM_UP_STEPS):
            with memory_guarded("warm-up", frame):
                session.step(image)
    side.warm_up_s = elapsed.seconds
    del session
    release(bench.device)


def _one_pass(bench: Bench, side: Side, frames: PreparedFrames, each_frame: Callable[[], None]) -> None:
    device = str(bench.device)
    reset_peaks(device)
    before = _allocated(bench.device)
    step_ms = array("d")
    try:
        _stream(bench, side, frames, step_ms, each_frame)
    finally:
        side.step_ms.append(_shared(step_ms, bench.method.streaming.scale_frames))
        if before is not None:
            side.device_bytes = max(side.device_bytes or 0, torch.cuda.max_memory_allocated(bench.device) - before)
        release(bench.device)


def _stream(
    bench: Bench, side: Side, frames: PreparedFrames, step_ms: array[float], each_frame: Callable[[], None]
) -> None:
    """All frames through a new stream; milliseconds go into ``step_ms``, NaN for the frame that cannot be taken."""
    device = str(bench.device)
    with memory_guarded("alone", 0):
        session = bench.open(side.contender)
    for frame, image in enumerate(frames.images()):
        step_ms.append(np.nan)
        with memory_guarded("alone", frame):
            pixels = on_device(image, bench.device)
            with timed(device) as elapsed:
                session.step(pixels)
        step_ms[-1] = 1e3 * elapsed.seconds
        _keep_fullest(side, session)
        each_frame()
    with memory_guarded("alone", max(0, len(step_ms) - 1)), timed(device) as elapsed:
        session.finish()
    if step_ms:
        step_ms[-1] += 1e3 * elapsed.seconds
    _keep_fullest(side, session)


def _allocated(device: torch.device) -> int | None:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else None


def _keep_fullest(side: Side, session: Session) -> None:
    used = session.used_bytes()
    if sum(used.values()) > sum(side.cache_bytes.values()):
        side.cache_bytes = used
    side.cache_allocated = max(side.cache_allocated or 0, session.allocated_bytes())


def _shared(step_ms: array[float], scale_frames: int) -> FloatArray:
    """Scale frames enter in one pass, at the last of them: each carries an equal share."""
    times = np.array(step_ms, dtype=np.float64)
    if len(times):
        times[:scale_frames] = times[:scale_frames].mean()
    return times
