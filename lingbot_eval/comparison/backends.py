"""Compares two backends on the same frames: each alone against the clock, then all together frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lingbot_eval.comparison.contenders import Bench, Contender, parse_contender, reference_contender
from lingbot_eval.comparison.frames import PreparedFrames, Selected
from lingbot_eval.comparison.lockstep import lockstep
from lingbot_eval.comparison.outcome import Pair, Ratio, Side, time_ratio
from lingbot_eval.comparison.race import race
from lingbot_eval.machine.environment import environment
from lingbot_eval.model.build import choose_device


@dataclass(frozen=True)
class Request:
    """What is asked for. a, b: ``BACKEND[:PRECISION]``. rounds: timed passes of each side.

    with_reference: whether both are also held against float32.
    """

    a: str
    b: str
    rounds: int
    with_reference: bool


@dataclass(frozen=True, eq=False)
class BackendComparison:
    """Everything found out. untrained: whether the outputs are those of untrained weights.

    sides: A and B. pairs: A–B, and each of them against the reference unless it is one itself. ratio: time of B / time
    of A, or why it cannot be said. scale_frames: those at the beginning that enter together.
    """

    dataset: str
    scene: str
    frames: int
    size: tuple[int, int]
    model: str
    weights: str
    untrained: bool
    streaming: Mapping[str, Any]
    device: str
    rounds: int
    scale_frames: int
    sides: tuple[Side, Side]
    pairs: tuple[Pair, ...]
    ratio: Ratio | str
    environment: Mapping[str, Any]


def compare_backends(
    request: Request, selected: Selected, frames: PreparedFrames, each_frame: Callable[[], None]
) -> BackendComparison:
    """Race the two, then hold their outputs against each other and against a float32 reference.

    each_frame: called after every frame of every timed pass and of the pass in lockstep. Running out of device memory
    becomes a result. Raises ConfigError for a backend or precision that there is not, DependencyError or ConfigError
    for one that cannot be had here, DataError for frames that cannot be read.
    """
    device = choose_device(selected.method.device)
    bench = Bench(selected.method, device, frames.sequence.length)
    a, b = (parse_contender(*given, selected.method, device) for given in (("A", request.a), ("B", request.b)))
    sides = [Side(a), Side(b)]
    race(bench, sides, frames, request.rounds, each_frame)
    # Built after the race: its weights are not on the device while the others' memory is measured.
    pairs = lockstep(bench, *_drawn(a, b, with_reference=request.with_reference), frames, each_frame)
    image = frames.first()
    scale_frames = selected.method.streaming.scale_frames
    return BackendComparison(
        dataset=frames.sequence.dataset,
        scene=frames.sequence.scene,
        frames=max(len(step_ms) for side in sides for step_ms in side.step_ms),
        size=(image.shape[1], image.shape[0]),
        model=selected.method.model.config,
        weights=selected.weights,
        untrained=selected.method.model.checkpoint is None,
        streaming=selected.method.streaming.model_dump(mode="json", exclude={"backend"}),
        device=str(device),
        rounds=request.rounds,
        scale_frames=scale_frames,
        sides=(sides[0], sides[1]),
        pairs=pairs,
        ratio=time_ratio(sides[0], sides[1], scale_frames),
        environment=environment(),
    )


def _drawn(
    a: Contender, b: Contender, *, with_reference: bool
) -> tuple[list[Contender], list[tuple[Contender, Contender]]]:
    """Who streams and which pairs are compared; a side that computes what the reference does needs no other one."""
    if not with_reference or a.is_reference or b.is_reference:
        return [a, b], [(a, b)]
    reference = reference_contender()
    return [a, b, reference], [(a, b), (a, reference), (b, reference)]
