"""Where a run stands: the batch forward, which is streaming, over whole walks through scenes held out from training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lingbot_eval.errors import UnscorableError
from lingbot_eval.geometry.alignment import umeyama
from lingbot_eval.geometry.poses import decode_camera_to_world, path_length
from lingbot_eval.metrics.pair_auc import count_pairs
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.types import FloatArray
from training.clips import Bank, true_clips
from training.forward import ClipPlan, StreamShape, run_clips
from training.recipe import ITERATIONS, SCALE_FRAMES

DELTA = float(np.log(1.25))


class Validator:
    """Medians over held-out walks of one length, streamed at interval 1."""

    def __init__(self, bank: Bank, window: int) -> None:
        self._bank = bank
        self._shape = StreamShape(bank.frames, SCALE_FRAMES, window, 1)
        self._plan: ClipPlan | None = None

    @torch.no_grad()
    def __call__(
        self, model: GeometricContextTransformer, precision: torch.dtype, size: tuple[int, int]
    ) -> dict[str, float]:
        """At ``size`` (height, width): ATE after Sim(3) as a share of a motionless estimate's and of the path, AUC@30
        and δ < 1.25 as shares of 1."""
        device = self._bank.device
        if self._plan is None or self._plan.size != size:
            self._plan = ClipPlan(self._shape, size, torch.empty(0, dtype=precision, device=device))
        frames = torch.arange(self._bank.frames, device=device)[None]
        found: list[dict[str, float]] = []
        for number in range(len(self._bank)):
            sequence = self._bank.take(torch.tensor([number], device=device), frames)
            clips = true_clips(sequence, size, SCALE_FRAMES)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
                out = run_clips(model, clips.images, self._plan, ITERATIONS, frames[0])
            found.append(
                pose_scores(out.poses[-1][0], clips.poses[0])
                | {"delta_125": delta_125(out.log_depth, clips.log_depth[0])}
            )
        return {name: float(np.median([scores[name] for scores in found])) for name in found[0]}


def delta_125(guess: Tensor, truth: Tensor) -> float:
    """Share of pixels within a factor 1.25 after one scale for the sequence; (F, H, W) logarithms of depth."""
    off = guess - truth
    return float(((off - off.median()).abs() < DELTA).float().mean())


def pose_scores(encoding: Tensor, poses: Tensor) -> dict[str, float]:
    """Of (F, 9) encodings against (F, 4, 4) true poses: ATE after Sim(3) as shares, AUC@30 as a share of 1."""
    guess = decode_camera_to_world(encoding.double().cpu().numpy())
    truth = poses.double().cpu().numpy()
    centres = truth[:, :3, 3]
    motionless = _rms(centres - centres.mean(axis=0))
    try:
        ate = _rms(umeyama(guess[:, :3, 3], centres, with_scale=True).apply_points(guess[:, :3, 3]) - centres)
        auc = count_pairs(truth, guess).area(30) / 100
    except UnscorableError:
        ate, auc = motionless, 0.0  # an estimate that does not move is the motionless one
    return {"ate_share_of_motionless": ate / motionless, "ate_share_of_path": ate / path_length(centres), "auc_30": auc}


def _rms(difference: FloatArray) -> float:
    return float(np.sqrt((difference**2).sum(axis=1).mean()))
