"""What is left out of clouds is left out of scores when that is asked for, and each number says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FRAMES, SIDE, FakeMethod, Quiet, World, experiment
from PIL import Image as Pictures

from lingbot_eval.runs.execute import execute
from lingbot_eval.runs.plan import make_plan
from lingbot_eval.stored.store import RunStore
from lingbot_eval.types import Frame, Measurement, Prediction
from lingbot_eval.viewing.masks import Mask, MaskFolder


class HalfWrong(FakeMethod):
    """Depth is exact in the right half, and five times too far in the left half."""

    def predict(self, frames: Any) -> Iterator[Prediction]:
        for frame in frames:
            depth = frame.depth.copy()
            depth[:, : SIDE // 2] *= 5
            yield Prediction(frame.index, frame.timestamp, frame.camera_to_world, depth, intrinsics=frame.intrinsics)


def run(
    out: Path, keep: dict[str, Any], **metrics: dict[str, Any] | None
) -> tuple[dict[tuple[str, str], Measurement], list[str]]:
    plan = make_plan(experiment(keep=keep, metrics=metrics, dataset={"scenes": ["one"]}))
    outcome = execute(plan, out, "lingbot-eval run fake", Quiet())
    (unit,) = RunStore.open(outcome.path).read_units().units
    assert unit.record.status == "ok", unit.record.reason
    return {(m.name, m.variant): m for m in unit.record.measurements}, unit.record.notes


def test_masks_leave_pixels_out_of_scores_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.install(monkeypatch)
    monkeypatch.setattr(world, "create_method", lambda settings: HalfWrong(settings.name))
    masks = tmp_path / "masks"
    masks.mkdir()
    left = np.zeros((SIDE, SIDE), np.uint8)
    left[:, : SIDE // 2] = 255
    for index in range(FRAMES):
        Pictures.fromarray(left).save(masks / f"{index:06d}.png")

    found, notes = run(tmp_path / "all", {"masks": str(masks)})
    assert found["abs_rel", "none"].value == pytest.approx(2.0)  # half of the pixels are off by 400 %
    assert found["abs_rel", "none"].samples == FRAMES * SIDE * SIDE
    assert "leave out" not in found["abs_rel", "none"].convention
    assert any(note.endswith("scores take all pixels") for note in notes)

    asked: list[int] = []
    read = MaskFolder.mask

    def counted(folder: MaskFolder, frame: Frame, size: tuple[int, int]) -> Mask | None:
        asked.append(frame.index)
        return read(folder, frame, size)

    monkeypatch.setattr(MaskFolder, "mask", counted)
    found, notes = run(tmp_path / "kept", {"masks": str(masks), "scored": "kept"})
    assert asked == list(range(FRAMES)), "once for scores and cloud together"
    assert any(note.startswith("50.0% of the pixels are left out of cloud and kept depth") for note in notes)
    assert found["abs_rel", "none"].value == pytest.approx(0.0, abs=1e-6)
    assert found["abs_rel", "none"].samples == FRAMES * SIDE * SIDE // 2
    assert found["abs_rel", "none"].convention.endswith(f"; without the pixels that masks of {masks} leave out")
    assert found["ate_rmse", "sim3"].convention.find("leave out") == -1
    assert any(note.endswith("scores take kept pixels alone") for note in notes)


def test_masks_of_the_dataset_are_left_out_as_those_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Masked(HalfWrong):
        """Frames come with a mask that leaves their left half out."""

        def predict(self, frames: Any) -> Iterator[Prediction]:
            left = np.tile(np.arange(SIDE) < SIDE // 2, (SIDE, 1))
            for frame in frames:
                object.__setattr__(frame, "left_out", left)
                yield from super().predict([frame])

    world = World()
    world.install(monkeypatch)
    monkeypatch.setattr(world, "create_method", lambda settings: Masked(settings.name))
    found, notes = run(tmp_path / "all", {})
    assert found["abs_rel", "none"].value == pytest.approx(2.0)
    said = "50.0% of the pixels are left out of cloud and kept depth by the dataset's masks; scores take"
    assert f"{said} all pixels" in notes
    found, notes = run(tmp_path / "kept", {"scored": "kept"})
    assert found["abs_rel", "none"].value == pytest.approx(0.0, abs=1e-6)
    assert found["abs_rel", "none"].samples == FRAMES * SIDE * SIDE // 2
    assert found["abs_rel", "none"].convention.endswith("; without the pixels that the dataset's masks leave out")
    assert f"{said} kept pixels alone" in notes


def test_nothing_to_leave_out_changes_no_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    World().install(monkeypatch)
    found, _ = run(tmp_path, {"scored": "kept"})
    assert not [m for m in found.values() if "leave out" in m.convention]


def test_clouds_that_are_compared_lack_the_pixels_on_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the truth of what was left out would count as not found."""
    world = World()
    world.install(monkeypatch)
    monkeypatch.setattr(world, "create_method", lambda settings: HalfWrong(settings.name))
    left = np.zeros((SIDE, SIDE), np.uint8)
    left[:, : SIDE // 2] = 255
    (tmp_path / "masks").mkdir()
    for index in range(FRAMES):
        Pictures.fromarray(left).save(tmp_path / "masks" / f"{index:06d}.png")
    points = {"icp_m": None, "normal_neighbours": None, "voxel_m": None}
    keep = {"masks": str(tmp_path / "masks"), "scored": "kept"}
    found, _ = run(tmp_path / "kept", keep, points=points, depth=None, auc=None, drift=None)
    for name in ("accuracy", "completeness"):
        assert found[name, ""].value == pytest.approx(0.0, abs=1e-5)
        assert found[name, ""].convention.endswith("leave out")
