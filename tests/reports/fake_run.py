"""Builds a realistic run without any model: drifting trajectories, a failure, gaps, a hostile scene name."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lingbot_eval.files.trajectories import write_tum
from lingbot_eval.metrics.trajectory import score_trajectory
from lingbot_eval.profiling.memory import mebibytes
from lingbot_eval.profiling.timing import throughput_measurements
from lingbot_eval.stored.records import RunRecord, UnitRecord
from lingbot_eval.stored.store import RunStore
from lingbot_eval.stored.unit_files import PANELS_FILE, DepthPanels, save_panels
from lingbot_eval.types import FrameType, Measurement, Trajectory

HOSTILE = "<script>alert(1)</script>|_&$"
LINGBOT, REPLAY = "lingbot", "orb_slam (replay)"
OFFICE, DESK, HOSTILE_SCENE = ("indoor", "office"), ("indoor", "desk"), ("outdoor", HOSTILE)


def run_record() -> RunRecord:
    units = [[*scene, method] for scene in (OFFICE, DESK, HOSTILE_SCENE) for method in (LINGBOT, REPLAY)]
    return RunRecord(
        key="5f0c2d7e91ab4433",
        name="fake",
        command="lingbot-eval run fake.yaml --set 'datasets.0.selection.stride=2'",
        experiment={"name": "fake"},
        units=units,
        weights={LINGBOT: "untrained (seed 0)", REPLAY: "none"},
        environment={"python": "3.11", "cpu_model": "made up"},
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T01:00:00+00:00",
        status="incomplete",
    )


def walk(frames: int, seed: int) -> Trajectory:
    """A loop through a hall with a little bobbing, z forward and y down; metres."""
    generator = np.random.default_rng(seed)
    t = np.linspace(0, 2 * np.pi, frames)
    positions = np.stack([8 * np.sin(t), -0.15 * np.sin(9 * t), 5 * (1 - np.cos(t)) + 0.8 * np.sin(3 * t)], axis=1)
    positions += generator.normal(scale=0.002, size=positions.shape)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    cos, sin = np.cos(t), np.sin(t)
    poses[:, 0, 0], poses[:, 0, 2], poses[:, 2, 0], poses[:, 2, 2] = cos, sin, -sin, cos
    poses[:, :3, 3] = positions
    return Trajectory(np.arange(frames), np.arange(frames) / 30, poses)


def drifted(reference: Trajectory, every: int, seed: int) -> Trajectory:
    """An estimate of every ``every``-th pose, in another world and at 0.37 of the scale, with a slow drift."""
    generator = np.random.default_rng(seed)
    poses = reference.camera_to_world[::every].copy()
    steps = generator.normal(scale=0.012 * np.sqrt(every), size=(len(poses), 3))
    poses[:, :3, 3] = 0.37 * (poses[:, :3, 3] + np.cumsum(steps, axis=0)) + [10, -3, 2]
    return Trajectory(reference.indices[::every], reference.timestamps[::every], poses)


def panels(frames: int) -> DepthPanels:
    generator = np.random.default_rng(1)
    rows, columns = np.mgrid[0:84, 0:112] / 84
    truth = np.stack([2 + 3 * rows + np.sin(6 * columns + k) for k in range(4)]).astype(np.float32)
    prediction = truth * (1 + 0.05 * generator.normal(size=truth.shape)).astype(np.float32)
    truth[:, 20:30, 40:70] = 0
    prediction[2, :8] = 0
    image = np.stack([np.stack([rows * 160, columns * 150, 60 + 40 * np.sin(9 * columns)], axis=-1)] * 4)
    return DepthPanels(np.linspace(0, frames - 1, 4).astype(np.int64), image.astype(np.uint8), truth, prediction)


def depth_measurements() -> list[Measurement]:
    return [
        Measurement("depth", name, variant, value, unit, f"{name} convention; all frames pooled", samples=10_000)
        for variant, factor in (("scale_only", 1.0), ("lstsq", 0.9))
        for name, value, unit in (("abs_rel", 0.04321, "1"), ("rmse", 0.31234, "m"), ("delta_1_25", 97.123, "%"))
        for value in (value * factor,)
    ]


def write_lingbot(store: RunStore, scene: tuple[str, str], frames: int, seed: int) -> None:
    reference = walk(frames, seed)
    estimate = drifted(reference, 1, seed + 1)
    score = score_trajectory(reference, estimate, frames)
    generator = np.random.default_rng(seed)
    types = [FrameType.SCALE] * 8 + [FrameType.KEPT if k % 4 == 0 else FrameType.UNKEPT for k in range(8, frames)]
    forward = 0.045 + 0.004 * generator.gamma(2.0, size=frames)
    interval = forward + 0.005 + 0.003 * generator.gamma(1.0, size=frames)
    interval[0], interval[1:8] = 0.9, 1e-5
    forward[[frames // 2, frames // 2 + 1]] = 0.6
    with store.unit_writer(*scene, LINGBOT) as writer:
        for k in range(frames):
            writer.append_row(
                {
                    "index": k,
                    "timestamp": k / 30,
                    "frame_type": types[k],
                    "forward_ms": 1e3 * forward[k],
                    "interval_ms": 1e3 * interval[k],
                    "depth_abs_rel": None if k % 50 == 49 else 0.04 + 0.01 * generator.random(),
                    "cache_anchor_bytes": 8 * 900_000,
                    "cache_window_bytes": min(max(k - 8, 0), 64) * 900_000,
                    "cache_memory_bytes": max(k - 72, 0) * 20_000,
                    "cache_camera_head_bytes": min(k, 64) * 30_000,
                    "process_bytes": 900_000_000 + max(k - 72, 0) * 21_000 + 1_000_000 * generator.random(),
                }
            )
        errors = dict(zip(score.indices.tolist(), score.position_error_m.tolist(), strict=True))
        angles = dict(zip(score.indices.tolist(), score.rotation_error_deg.tolist(), strict=True))
        writer.fill_columns({"position_error_m": errors, "rotation_error_deg": angles})
        write_tum(writer.path("estimate.tum"), estimate)
        write_tum(writer.path("reference.tum"), reference)
        save_panels(writer.path(PANELS_FILE), panels(frames))
        measurements = [
            *score.measurements,
            *depth_measurements(),
            *throughput_measurements(forward.tolist(), types, interval.tolist(), 2.5),
            mebibytes("process_peak_rss", 1_100_000_000, "largest resident set size"),
            mebibytes("device_peak_allocated", None, "largest sum of live tensors", "ran on the CPU"),
        ]
        writer.finish(unit_record(scene, LINGBOT, frames, measurements))


def write_replay(store: RunStore, scene: tuple[str, str], frames: int, every: int) -> None:
    """Keyframe poses only: no depth, no times. Unscorable on the hostile scene, whose reference it misses."""
    reference = walk(frames, 3)
    estimate = drifted(reference, every, 4)
    if scene == HOSTILE_SCENE:
        estimate = Trajectory(estimate.indices[:2], estimate.timestamps[:2], estimate.camera_to_world[:2])
    score = score_trajectory(reference, estimate, frames)
    with store.unit_writer(*scene, REPLAY) as writer:
        for index, timestamp in zip(estimate.indices.tolist(), estimate.timestamps.tolist(), strict=True):
            writer.append_row({"index": index, "timestamp": timestamp})
        if len(score.position_error_m):
            errors = dict(zip(score.indices.tolist(), score.position_error_m.tolist(), strict=True))
            writer.fill_columns({"position_error_m": errors})
        write_tum(writer.path("estimate.tum"), estimate)
        write_tum(writer.path("reference.tum"), reference)
        writer.finish(unit_record(scene, REPLAY, frames, list(score.measurements), predictions=len(estimate)))


def unit_record(
    scene: tuple[str, str], method: str, frames: int, measurements: list[Measurement], predictions: int | None = None
) -> UnitRecord:
    return UnitRecord(
        dataset=scene[0],
        scene=scene[1],
        method=method,
        status="ok",
        frames=frames,
        predictions=frames if predictions is None else predictions,
        input_fingerprint="f",
        sequence={},
        method_facts={},
        measurements=list(measurements),
        started="2026-01-01T00:00:00+00:00",
        seconds=12.0,
    )


def write_failed(store: RunStore, scene: tuple[str, str], method: str) -> None:
    with store.unit_writer(*scene, method) as writer:
        writer.append_row({"index": 0, "timestamp": 0.0})
        writer.finish(
            unit_record(scene, method, 10, []).model_copy(
                update={
                    "status": "failed",
                    "stage": "stream",
                    "failed_at_frame": 812,
                    "reason": "CUDA out of memory: 2.1 GiB wanted",
                }
            )
        )


def build_failures(root: Path) -> RunStore:
    """The same run stopped early: one failed unit, the others not run; quick, as there is nothing to draw."""
    store = RunStore.create(root, run_record())
    with store.lock():
        write_failed(store, DESK, LINGBOT)
    return store


def build_run(root: Path, frames: int = 120) -> RunStore:
    """2 datasets, 3 scenes, 2 methods; lingbot fails on the desk, replay cannot be scored on the hostile scene."""
    store = RunStore.create(root, run_record())
    with store.lock():
        write_lingbot(store, OFFICE, frames, 1)
        write_failed(store, DESK, LINGBOT)
        write_lingbot(store, HOSTILE_SCENE, frames, 2)
        for scene, every in ((OFFICE, 7), (DESK, 3), (HOSTILE_SCENE, 1)):
            write_replay(store, scene, frames, every)
    return store
