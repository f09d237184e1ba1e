"""Runs reference cases through the shipped model and session, and yields the verdicts on their arrays as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lingbot_eval.geometry.alignment import Sim3
from lingbot_eval.model.build import empty_model, fill_by_formula, ready
from lingbot_eval.model.config import CONFIGS
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.streaming.session import FrameOutput
from lingbot_eval.streaming.settings import Backend, FlowSettings, StreamSettings, WindowedSettings
from lingbot_eval.streaming.windowed import WindowedSession, open_session
from lingbot_eval.verification.cases import Case, CaseSet, Unsupported
from lingbot_eval.verification.compare import Comparison, compare, other_keyframes

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Setup:
    """On what the cases are run. cache_precision: as in the settings of a stream."""

    backend: Backend
    precision: str
    device: torch.device
    cache_precision: Literal[8] | None = None

    @property
    def exact(self) -> bool:
        """Whether all is computed and kept in float32."""
        return self.precision == "float32" and self.cache_precision is None


def formula_image(frame: int, case: Case) -> Tensor:
    """(3, H, W) float32 reference image of a frame (docs/reference-cases.md, "Images by formula")."""
    channel = np.arange(3)[:, None, None]
    y, x = np.arange(case.height)[:, None], np.arange(case.width)
    angle = 0.13 * (x + 3 * frame) + 0.29 * y * (1 + 0.3 * channel) + 0.7 * frame + channel + case.image_phase
    return torch.from_numpy((0.5 + 0.5 * np.sin(angle)).astype(np.float32))


def reference_model(case: Case, setup: Setup) -> GeometricContextTransformer:
    """The case's network with weights by formula. Built in float32 on the CPU, cast, then moved."""
    model = empty_model(CONFIGS[case.model], point_head=case.point_head)
    fill_by_formula(model)
    return ready(model, setup.device, setup.precision)


def reproduce(case: Case, setup: Setup, model: GeometricContextTransformer) -> Arrays:
    """The arrays of a case, named and shaped as in its reference file."""
    return _stages(case, setup, model) if case.kind == "stages" else _stream(case, setup, model)


def _settings(case: Case, setup: Setup) -> StreamSettings:
    flow = None
    if case.flow_threshold:
        gap = {} if case.max_non_keyframe_gap is None else {"max_gap": case.max_non_keyframe_gap}
        flow = FlowSettings(threshold=case.flow_threshold, **gap)
    windowed = None
    if case.kind == "windowed":
        size = {} if case.window_size is None else {"size": case.window_size}
        windowed = WindowedSettings(overlap_size=case.overlap_size, overlap_keyframes=case.overlap_keyframes, **size)
    return StreamSettings(
        scale_frames=case.scale_frames,
        window=case.window,
        keyframe_interval=case.keyframe_interval,
        flow=flow,
        windowed=windowed,
        backend=setup.backend,
        cache_precision=setup.cache_precision,
    )


def _stream(case: Case, setup: Setup, model: GeometricContextTransformer) -> Arrays:
    settings = _settings(case, setup)
    session = open_session(model, settings, frames=case.frames, camera_iterations=case.camera_iterations)
    rows = range(case.frames or 0) if case.rows is None else case.rows
    taken: dict[int, Arrays] = {}

    def take(outputs: Sequence[FrameOutput]) -> None:
        taken.update({out.index: _frame_arrays(out) for out in outputs if out.index in rows})

    for frame in range(case.frames or 0):
        take(session.step(formula_image(frame, case)))
    take(session.finish())
    if isinstance(session, WindowedSession) and session.windows == 1 and settings.flow:
        # A flow window knows only at the end that it was the only one, which the reference returns as the network
        # gave it; the session had to decide earlier and normalised the quaternions. One window is one stream.
        return _stream(case.model_copy(update={"kind": "streaming"}), setup, model)
    arrays = {name: np.stack([taken[row][name] for row in rows]) for name in taken[rows[0]]}
    return arrays | (_join_arrays(session.joins) if isinstance(session, WindowedSession) else {})


def _join_arrays(joins: Sequence[Sim3]) -> Arrays:
    transforms = np.tile(np.eye(4), (len(joins), 1, 1))
    for matrix, join in zip(transforms, joins, strict=True):
        matrix[:3, :3], matrix[:3, 3] = join.rotation, join.translation
    return {"chunk_scales": np.array([join.scale for join in joins]), "chunk_transforms": transforms}


def _frame_arrays(out: FrameOutput) -> Arrays:
    arrays = {
        "pose_enc": _numpy(out.pose),
        "depth": _numpy(out.depth)[..., None],
        "depth_conf": _numpy(out.depth_confidence),
        "frame_type": np.array(out.frame_type, dtype=np.uint8),
        "flow_pixels": np.array(np.nan if out.flow_pixels is None else out.flow_pixels),
    }
    if out.points is not None and out.points_confidence is not None:
        arrays |= {"world_points": _numpy(out.points), "world_points_conf": _numpy(out.points_confidence)}
    return arrays


def _stages(case: Case, setup: Setup, model: GeometricContextTransformer) -> Arrays:
    """The scale phase, then one kept step, with what the parts of the network put out on the way."""
    seen: Arrays = {}
    settings = _settings(case, setup)
    session = open_session(model, settings, frames=None, camera_iterations=case.camera_iterations)
    parts: dict[str, nn.Module] = {"patch_tokens": model.aggregator.patch_embed}
    for group in range(model.config.groups):
        parts[f"frame_block_{group}"] = model.aggregator.frame_blocks[group]
        parts[f"global_block_{group}"] = model.aggregator.global_blocks[group]
    handles = [part.register_forward_hook(_recorder(seen, name)) for name, part in parts.items()]
    handles.append(model.camera_head.register_forward_hook(_pose_recorder(seen)))
    arrays: Arrays = {}
    try:
        for suffix, frames in (
            ("scale", range(case.scale_frames)),
            ("step", range(case.scale_frames, case.scale_frames + 1)),
        ):
            outputs = [out for frame in frames for out in session.step(formula_image(frame, case))]
            arrays |= {f"{name}_{suffix}": value for name, value in seen.items()}
            arrays[f"depth_{suffix}"] = np.stack([_numpy(out.depth)[..., None] for out in outputs])
            points = [out.points for out in outputs if out.points is not None]
            if points:
                arrays[f"world_points_{suffix}"] = np.stack([_numpy(value) for value in points])
    finally:
        for handle in handles:
            handle.remove()
    return arrays


def _recorder(seen: Arrays, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
    def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
        # Block outputs are compared as rows of tokens; backbone tokens keep their frame axis.
        seen[name] = _numpy(output if name == "patch_tokens" else output.reshape(-1, output.shape[-1]))

    return record


def _pose_recorder(seen: Arrays) -> Callable[[nn.Module, Any, list[Tensor]], None]:
    def record(module: nn.Module, inputs: Any, output: list[Tensor]) -> None:
        for iteration, pose in enumerate(output):
            seen[f"pose_iter_{iteration}"] = _numpy(pose)

    return record


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return tensor.float().cpu().numpy()


def verify(cases: CaseSet, setup: Setup) -> Iterator[Comparison]:
    """One comparison an array and case; a case that cannot be run is one comparison that says so.

    Raises DataError for a reference file that cannot be read.
    """
    model: GeometricContextTransformer | None = None
    built_for: tuple[str, bool] | None = None
    for name, case in cases.cases.items():
        if isinstance(case, Unsupported):
            yield Comparison(name, "", None, None, "unsupported", case.reason)
            continue
        wanted = cases.reference(name)
        if model is None or built_for != _network(case):
            model, built_for = None, _network(case)  # the old one goes before the new one is built
            model = reference_model(case, setup)
        found = reproduce(case, setup, model)
        other = other_keyframes(found, wanted) if case.flow_threshold and not setup.exact else ""
        if other:
            yield Comparison(name, "", None, None, "incomparable", other)
            continue
        for array, reference in wanted.items():
            yield compare(
                name,
                array,
                found.get(array),
                reference,
                setup.precision,
                cache_precision=setup.cache_precision,
                one_stream=case.kind != "windowed",
            )


def _network(case: Case) -> tuple[str, bool]:
    return case.model, case.point_head
