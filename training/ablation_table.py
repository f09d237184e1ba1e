"""The table of ablations: medians over scenes, and what the gate says of every ablated score.

The verdict is the gate's own (`lingbot_eval.gating.judge`), with its default tolerances, every ablation held as a run
against the weights as trained as a baseline. It is made with the table; scores alone are stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, RootModel, model_validator

from lingbot_eval.errors import ConfigError
from lingbot_eval.gating.judge import Finding, default_tolerances, judge
from lingbot_eval.gating.sides import Meaning, Side, SideUnit, metric_id
from lingbot_eval.validation import validated

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
