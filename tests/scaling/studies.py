"""Studies small enough for a test, and a session that costs nothing and misbehaves on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from lingbot_eval.runs.execute import Observer
from lingbot_eval.scaling.records import SCALE_LAYOUT, CaseRecord
from lingbot_eval.scaling.settings import Case, Study
from lingbot_eval.settings import validated
from lingbot_eval.stored.unit_files import UnitWriter, read_table
from lingbot_eval.streaming.policy import CachePolicy, is_keyframe
from lingbot_eval.streaming.session import FrameOutput
from lingbot_eval.types import FrameType

SIZE = (56, 42)


def study(**changes: Any) -> Study:
    """Noise through the small model, 40 frames."""
    document: dict[str, Any] = {
        "kind": "scale",
        "name": "small",
        "model": {"config": "ci"},
        "device": "cpu",
        "input": {"kind": "noise", "pool": 5},
        "defaults": {"frames": 40, "size": list(SIZE), "keyframe_interval": 1, "backend": "sdpa"},
        "checkpoints": [10, 30],
        "sample_every": 4,
    }
    for key, value in changes.items():
        document[key] = {**document[key], **value} if key == "defaults" else value
    return validated(Study, document, "test")


def case_record(name: str, **changes: Any) -> CaseRecord:
    """A case that went well and measured nothing."""
    nothing: dict[str, Any] = {key: {} for key in ("case", "facts", "input", "sampling")}
    nothing |= {key: [] for key in ("measurements", "growth", "checkpoints", "error_curve")}
    nothing |= {"status": "ok", "frames": 0, "predictions": 0, "started": "2026-01-01T00:00:00+00:00", "seconds": 1.0}
    return CaseRecord(name=name, **(nothing | changes))


def written(folder: Path, rows: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """The rows as a case stores them, read back."""
    writer = UnitWriter(folder / "case", ("chosen",), "key", SCALE_LAYOUT)
    for row in rows:
        writer.append_row(row)
    writer.finish(case_record("chosen"))
    return read_table(folder / "case" / SCALE_LAYOUT.table, SCALE_LAYOUT)


class Quiet(Observer):
    """An observer that only notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.frames = 0

    def preparing(self, case: Case, frames: int | None) -> None:
        self.lines.append(f"preparing {frames}")

    def started(self, unit: Case, frames: int | None) -> None:
        self.lines.append(f"started {unit.backend} {unit.keyframe_interval} {frames}")

    def frame(self) -> None:
        self.frames += 1

    def left_out(self, unit: Case, reason: str) -> None:
        self.lines.append(f"left out: {reason}")

    def skipped(self, unit: Case) -> None:
        self.lines.append(f"kept {unit.name}")

    def finished(self, unit: Case, record: CaseRecord) -> None:
        self.lines.append(f"{record.status} {record.name}")


class FakeSession:
    """Follows the cache policy and computes nothing; ``misbehave`` at each frame."""

    def __init__(self, misbehave: Callable[[int], None], scale: int = 8, window: int = 16, interval: int = 1) -> None:
        self.interval = interval
        self.bfloat16_from: int | None = None
        self._misbehave = misbehave
        self._scale = scale
        self._policy = CachePolicy(window)
        self._waiting = 0
        self._seen = 0

    def step(self, image: Tensor) -> tuple[FrameOutput, ...]:
        self._misbehave(self._seen)
        self._seen += 1
        if self._policy.frames:
            kept = is_keyframe(self._policy.frames, self._scale, self.interval)
            step = self._policy.keep() if kept else self._policy.pass_by()
            return (self._output(step.frame, step.frame_type),)
        self._waiting += 1
        return self.finish() if self._waiting == self._scale else ()

    def settle(self) -> bool:
        return False

    def finish(self) -> tuple[FrameOutput, ...]:
        if self._policy.frames or not self._waiting:
            return ()
        self._policy.enter_scale(self._waiting)
        return tuple(self._output(index, FrameType.SCALE) for index in range(self._waiting))

    def used_bytes(self) -> dict[str, int]:
        view = self._policy.view()
        sizes = (len(view.anchor) * 1000, len(view.window) * 1000, len(view.memory) * 10, self._policy.kept)
        return dict(zip(("anchor", "window", "memory", "camera_head"), sizes, strict=True))

    def allocated_bytes(self) -> int:
        return sum(self.used_bytes().values()) + 500

    def _output(self, index: int, kind: FrameType) -> FrameOutput:
        pose = torch.tensor([0.1 * index, 0.0, 0.01 * index**2, 0, 0, 0, 1, 1, 1])
        return FrameOutput(index, kind, pose, torch.full((4, 4), 1.0 + index), torch.ones(4, 4))
