"""``python -m training.ablations WEIGHTS``: what each part of streaming is worth to trained weights.

Every ablation changes what the masked forward of whole sequences sees (`training.forward.Visibility`), which without a
change is streaming; the path of the evaluation knows nothing of it. The table shows medians over scenes, and what the
gate says of every ablated score: the verdict is the gate's own (`lingbot_eval.gating.judge`), with its default
tolerances, every ablation held as a run against the weights as trained as a baseline. It is made with the table; scores
alone are stored.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, RootModel, model_validator
from torch import Tensor

from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.datasets.synthetic.adapter import SyntheticAdapter, SyntheticOptions
from lingbot_eval.errors import ConfigError
from lingbot_eval.files.atomic import write_text
from lingbot_eval.gating.judge import Finding, default_tolerances, judge
from lingbot_eval.gating.sides import Meaning, Side, SideUnit, metric_id
from lingbot_eval.model.build import build_model, choose_device
from lingbot_eval.model.config import ConfigName
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.settings import validated
from training import reported
from training.clips import Clips, Sequences, true_clips
from training.forward import (
    HIDDEN,
    SPECIALS,
    Ablated,
    ClipOutput,
    ClipPlan,
    StreamShape,
    Visibility,
    run_clips,
    unchanged,
)
from training.recipe import ITERATIONS, SCALE_FRAMES
from training.scene_jobs import TEST_FOV, TEST_STEP
from training.validation import delta_125, pose_scores

AS_TRAINED = "as trained"
METRICS: Mapping[str, str] = {
    "ate_share_of_motionless": metric_id("trajectory", "ate_share_of_motionless", "sim3"),
    "ate_share_of_path": metric_id("trajectory", "ate_share_of_path", "sim3"),
    "auc_30": metric_id("auc", "auc_30", ""),
    "delta_125": metric_id("depth", "delta_1_25", "sequence_scale"),
}
"""Scores (shares of 1), and the measurement of the evaluation (in percent) whose tolerance judges each."""

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By ablation, scene and METRICS."""
_Share = Annotated[float, Field(allow_inf_nan=False)]


class _Scores(RootModel[dict[str, dict[str, dict[str, _Share]]]]):
    @model_validator(mode="after")
    def _whole(self) -> _Scores:
        scenes = set(self.root.get(AS_TRAINED, {}))
        if not scenes:
            raise ValueError(f"expected scores of scenes under '{AS_TRAINED}', found none")
        for name, found in self.root.items():
            if not name.replace(" ", "").isalnum():
                raise ValueError(f"expected the name of an ablation, found {name[:60]!r}")
            if set(found) != scenes:
                raise ValueError(f"expected '{name}' to have the scenes of '{AS_TRAINED}'")
            for scene, scores in found.items():
                if set(scores) != set(METRICS):
                    raise ValueError(f"expected {', '.join(METRICS)} of '{name}', {scene}, found {', '.join(scores)}")
        return self


def read_scores(path: Path) -> Scores:
    """Scores as `training.ablations` wrote them with --json. Raises ConfigError for anything else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read scores of ablations from {path}: {error}") from error
    return validated(_Scores, document, str(path)).root


def regressions(scores: Scores, ablation: str) -> tuple[Finding, ...]:
    """What the gate calls worse than as trained, a finding for each scene and metric."""
    verdict = judge(_side(scores, AS_TRAINED), _side(scores, ablation), default_tolerances())
    return tuple(finding for finding in verdict.findings if finding.status == "regression")


def markdown(scores: Scores) -> str:
    """Medians over scenes in percent, in how many scenes the gate calls each worse than as trained, and in how many it
    calls anything so."""
    lines = [f"| | {' | '.join(METRICS)} | caught by the gate |", "|---" * (len(METRICS) + 2) + "|"]
    for name, scenes in scores.items():
        worse = regressions(scores, name)
        cells = [name]
        for metric, measured in METRICS.items():
            median = 100 * float(np.median([found[metric] for found in scenes.values()]))
            count = sum(finding.metric == measured for finding in worse)
            cells.append(f"{median:.1f} %" + ("" if name == AS_TRAINED else f" (worse in {count} of {len(scenes)})"))
        caught = len({finding.scene for finding in worse})
        cells.append("–" if name == AS_TRAINED else f"in {caught} of {len(scenes)} scenes")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _side(scores: Scores, ablation: str) -> Side:
    """An ablation as the gate sees a run: nothing differs from the others but values."""
    units = {
        ("synthetic", scene, "masked forward"): SideUnit(
            failure=None,
            values={METRICS[metric]: 100 * value for metric, value in found.items()},
            meanings={METRICS[metric]: Meaning("%", "") for metric in found},
        )
        for scene, found in scores[ablation].items()
    }
    return Side(name=ablation, units=units, gaps={}, environment={}, code={})


FIRST_SEED = 100
"""As in benchmarks/experiments/ci_heldout.yaml."""
DEPTH_FRAMES = 16
"""Of a sequence, spread evenly, whose depth is scored here."""


@dataclass(frozen=True)
class Ablation:
    """window: frames, None for the configuration's. iterations: of the camera head. change: of what is seen.
    shuffled: frames after the first enter in random order, and are scored each against its own truth."""

    window: int | None = None
    iterations: int = ITERATIONS
    change: Ablated = unchanged
    shuffled: bool = False


def without_anchor(seen: Visibility) -> Visibility:
    """Frames after the scale phase do not see it."""
    matrix, opening = seen.seen.copy(), seen.shape.scale_frames
    matrix[opening:, :opening] = HIDDEN
    return replace(seen, seen=matrix)


def without_memory(seen: Visibility) -> Visibility:
    """Frames that left the window are forgotten, special tokens and all."""
    return replace(seen, seen=np.where(seen.seen == SPECIALS, HIDDEN, seen.seen).astype(np.uint8))


def frozen_clock(seen: Visibility) -> Visibility:
    """The keyframe clock of every frame is that of the first."""
    return replace(seen, clocks=np.zeros_like(seen.clocks))


ABLATIONS: Mapping[str, Ablation] = {
    AS_TRAINED: Ablation(),
    "window of 1": Ablation(window=1),
    "no anchor frames": Ablation(change=without_anchor),
    "no trajectory memory": Ablation(change=without_memory),
    "frozen rotary clock": Ablation(change=frozen_clock),
    "shuffled frames": Ablation(shuffled=True),
    "one refinement iteration": Ablation(iterations=1),
}


@torch.no_grad()
def run_ablation(model: GeometricContextTransformer, clips: Clips, ablation: Ablation) -> tuple[ClipOutput, Tensor]:
    """One clip of F frames under an ablation: outputs in true order, and the frames whose depth they hold."""
    frames = clips.images.shape[1]
    size = (clips.images.shape[3], clips.images.shape[4])
    shape = StreamShape(frames, min(SCALE_FRAMES, frames), ablation.window or model.config.window, 1)
    plan = ClipPlan(shape, size, clips.images[:0], ablation.change)
    order = torch.arange(frames)
    if ablation.shuffled:
        order[1:] = 1 + torch.randperm(frames - 1, generator=torch.Generator().manual_seed(0))
    place = order.argsort()  # where each frame went
    scored = torch.linspace(0, frames - 1, min(DEPTH_FRAMES, frames)).long()
    out = run_clips(model, clips.images[:, order], plan, ablation.iterations, place[scored])
    return replace(out, poses=[pose[:, place] for pose in out.poses]), scored


def held_out(count: int, frames: int, size: tuple[int, int]) -> Iterator[tuple[str, Clips]]:
    """The first ``count`` scenes of the experiment ci_heldout, kinds taking turns. size: (height, width)."""
    height, width = size
    options = SyntheticOptions(frames=frames, width=width, height=height, fov=TEST_FOV, step=TEST_STEP, seed=FIRST_SEED)
    adapter = SyntheticAdapter(None, options)
    kinds = adapter.scenes()
    for number in range(count):
        scene = f"{kinds[number % len(kinds)]}-{FIRST_SEED + number // len(kinds)}"
        sequence = adapter.open(scene, Selection())
        images, depths, poses = [], [], []
        for frame in sequence.frames():
            images.append(np.asarray(frame.image))
            depths.append(np.asarray(frame.depth))
            poses.append(np.asarray(frame.camera_to_world))
        whole = Sequences(
            images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)[None],
            depths=torch.from_numpy(np.stack(depths))[None],
            poses=torch.from_numpy(np.stack(poses))[None],
            focals=torch.tensor([float(sequence.intrinsics[0, 0])], dtype=torch.float64),
        )
        yield scene, true_clips(whole, size, SCALE_FRAMES)


def score_ablations(
    model: GeometricContextTransformer, scenes: Iterator[tuple[str, Clips]]
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores by ablation, scene and metric (`training.ablations.METRICS`), shares of 1."""
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in ABLATIONS}
    for scene, clips in scenes:
        for name, ablation in ABLATIONS.items():
            out, scored = run_ablation(model, clips, ablation)
            found[name][scene] = pose_scores(out.poses[-1][0], clips.poses[0]) | {
                "delta_125": delta_125(out.log_depth, clips.log_depth[0, scored])
            }
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m training.ablations", description=__doc__)
    parser.add_argument("weights", type=Path, help="safetensors of a trained network")
    parser.add_argument("--config", default="ci", choices=("ci", "mini"))
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--size", type=int, nargs=2, default=(168, 224), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="also write every score here, for the model card")
    given = parser.parse_args(arguments)

    def work() -> str:
        found = _measured(given)
        if given.json is not None:
            write_text(given.json, json.dumps(found, indent=1) + "\n")
        return markdown(found).rstrip("\n")

    return reported(work)


def _measured(given: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    if given.scenes < 1 or given.frames < SCALE_FRAMES + 1:
        raise ConfigError(
            f"expected at least 1 scene of {SCALE_FRAMES + 1} frames, found {given.scenes} of {given.frames}"
        )
    config: ConfigName = given.config
    device = choose_device(given.device)
    model, _ = build_model(
        config, checkpoint=str(given.weights), seed=0, point_head=False, device=device, precision="float32"
    )
    scenes = held_out(given.scenes, given.frames, tuple(given.size))
    return score_ablations(model, ((scene, clips.each(lambda part: part.to(device))) for scene, clips in scenes))


if __name__ == "__main__":
    sys.exit(main())
