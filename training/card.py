"""``python -m training.card``: the model card, every number of it read from what training and evaluation
left: the weights' own note, the log, a run of benchmarks/experiments/ci_heldout.yaml, runs elsewhere, the ablations."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors

from lingbot_eval.errors import CheckpointError, ConfigError
from lingbot_eval.files.atomic import write_text
from lingbot_eval.stored.records import UnitRecord, is_untrained
from lingbot_eval.stored.store import RunStore
from lingbot_eval.types import Measurement
from training import reported
from training.ablations import Scores, markdown, read_scores
from training.recipe import RECIPES
from training.scene_jobs import training_jobs


@dataclass(frozen=True)
class Target:
    """A measurement of the run, in percent, that a checkpoint is held to. better: ``lower`` or ``higher``."""

    family: str
    name: str
    variant: str
    words: str
    limit: float
    better: str


TARGETS = (
    Target("trajectory", "ate_share_of_motionless", "sim3", "ATE / ATE of a motionless estimate", 25.0, "lower"),
    Target("trajectory", "ate_share_of_path", "sim3", "ATE / path length", 5.0, "lower"),
    Target("auc", "auc_30", "", "AUC@30", 50.0, "higher"),
    Target("depth", "delta_1_25", "sequence_scale", "depth δ < 1.25, one scale a sequence", 85.0, "higher"),
)
ABOUT_ABLATIONS = """\
Medians over scenes of the masked forward with one part taken away. In brackets, and in the last column for any of the
four: in how many scenes the gate, with its default tolerances, calls the value worse than as trained. Depth is that of
16 frames a scene here, of all of them above."""
LIMITS = """\
- It knows synthetic rooms and corridors alone: upright textured rectangles, soft fixed light, a camera carried at eye
  height by a walker, a horizontal field of view of {low:.0f}° to {high:.0f}°. Nothing that moves, no outdoors, no blur,
  no real sensor.
- It saw clips of at most {frames} frames; how longer streams fare is in the tables above.
- Lengths are in units of what the first frames see: it gives no metres.
- It is small and was trained for minutes: good for telling whether cache, rotary clock and heads work, not for use.
"""


PICTURES = (
    ("../docs/images/ci_training_curve.png", "Loss terms and validation against the minutes of training"),
    (
        "../docs/images/ci_drift.png",
        "Growing error along 1,500 frames, every frame kept or one in five, one stream or windows",
    ),
)
"""Relative to the card, shown where they are."""


@dataclass(frozen=True)
class Evaluation:
    """A run that is over: how it is repeated, and its units."""

    command: str
    units: Sequence[UnitRecord]


@dataclass(frozen=True)
class Sources:
    """What a card is made of. about: the note in the weights. log: of training. held_out: the run that targets are for.
    others: runs elsewhere. found: scores of the ablations, None where they were not run."""

    about: Mapping[str, str]
    weights_bytes: int
    log: pd.DataFrame
    held_out: Evaluation
    others: Sequence[Evaluation]
    found: Scores | None


def model_card(sources: Sources, pictures: Sequence[tuple[str, str]] = ()) -> str:
    """The card in Markdown. pictures: (address, what is to be seen)."""
    about, last = sources.about, sources.log.iloc[-1]
    low, high = training_jobs(1, 1, 0).fovs
    frames = max(diet.frames for phase in RECIPES[about["recipe"]].phases for _, diet in phase.diets)
    rows = [
        ("weights", f"{sources.weights_bytes / 1e6:.1f} MB, safetensors, half precision, averaged over steps"),
        ("configuration", about["config"]),
        ("licence", about["licence"]),
        ("data", about["data"]),
        ("scenes", about["scenes"]),
        ("steps", f"{about['steps']} in {about['runs']} run(s), recipe {about['recipe']}, seed {about['seed']}"),
        ("minutes of training", about["minutes"]),
        ("steps skipped for a gradient that is not finite", f"{sources.log['skipped'].sum():.0f}"),
        ("hardware", about["device"]),
        ("torch", about["torch"]),
        ("loss at the end", f"{last['loss']:.3g}"),
    ]
    parts = [
        f"# Checkpoint `{about['config']}`",
        "Made by `python -m training.card` from the records of training and evaluation; not edited.",
        "## Training",
        _table(("", ""), rows),
        "## On places it was not trained on",
        f"{_code(sources.held_out.command)}: {len(sources.held_out.units)} scenes, streamed. Over the scenes:",
        _table(
            ("", "median", "worst", "target for the median", ""), [_row(t, sources.held_out.units) for t in TARGETS]
        ),
    ]
    if sources.others:
        parts.append("## Elsewhere, as it is")
    for other in sources.others:
        parts += [
            f"{_code(other.command)}:",
            _table(
                ("scene", "method", "frames", *(t.words for t in TARGETS)), [_scene_row(unit) for unit in other.units]
            ),
        ]
    if sources.found is not None:
        parts += ["## What each part is worth", ABOUT_ABLATIONS, markdown(sources.found).rstrip()]
    parts += [f"![{words}]({address})" for address, words in pictures]
    return "\n\n".join([*parts, "## Limits", LIMITS.format(low=low, high=high, frames=frames)])


def _row(target: Target, units: Sequence[UnitRecord]) -> tuple[str, ...]:
    found = [_value(target, unit.measurements) for unit in units]
    values = [value for value in found if value is not None]
    missing = f"; no value for {len(found) - len(values)} of {len(found)} scenes" if len(values) < len(found) else ""
    limit = f"{'at most' if target.better == 'lower' else 'at least'} {target.limit:g} %"
    if not values:
        return target.words, "–", "–", limit, f"not measured{missing}"
    median = float(np.median(values))
    worst = max(values) if target.better == "lower" else min(values)
    met = median <= target.limit if target.better == "lower" else median >= target.limit
    return target.words, f"{median:.1f} %", f"{worst:.1f} %", limit, ("met" if met else "not met") + missing


def _scene_row(unit: UnitRecord) -> tuple[str, ...]:
    """What was measured of a scene, or why it was not."""
    cells = []
    for target in TARGETS:
        found = _measurement(target, unit.measurements)
        if unit.status == "failed":
            cells.append(f"failed: {unit.reason}")
        elif found is None:
            cells.append("not asked for")
        else:
            cells.append(found.reason or "no value" if found.value is None else f"{found.value:.1f} %")
    return (f"{unit.dataset}/{unit.scene}", unit.method, str(unit.frames), *cells)


def _value(target: Target, measurements: Sequence[Measurement]) -> float | None:
    found = _measurement(target, measurements)
    return None if found is None else found.value


def _measurement(target: Target, measurements: Sequence[Measurement]) -> Measurement | None:
    wanted = (target.family, target.name, target.variant)
    return next((m for m in measurements if (m.family, m.name, m.variant) == wanted), None)


def _code(text: str) -> str:
    """As a Markdown code span, whatever is in it."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    # What a weights file says of itself is somebody else's text: it stays in its cell.
    return "\n".join(f"| {' | '.join(str(c).replace('|', '/').replace('<', '&lt;') for c in row)} |" for row in lines)


def read_sources(weights: Path, log: Path, run: Path, others: Sequence[Path], found: Path | None) -> Sources:
    """Raises CheckpointError, ConfigError and StoreError for what cannot be read or is not of a trained network."""
    try:
        with safetensors.safe_open(weights, "np") as file:
            about = dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{weights}: not weights ({error})") from error
    needed = ("config", "licence", "data", "scenes", "steps", "runs", "recipe", "seed", "minutes", "device", "torch")
    if lacking := [key for key in needed if key not in about]:
        raise CheckpointError(f"{weights}: says nothing of its {lacking[0]}; expected weights as training leaves them")
    if about["recipe"] not in RECIPES:
        raise CheckpointError(f"{weights}: its recipe is {about['recipe']!r}; expected one of {', '.join(RECIPES)}")
    held_out, *more = [_evaluation(path) for path in (run, *others)]
    try:
        table = pd.read_csv(log)
        if table.empty or not {"loss", "skipped"} <= set(table.columns):
            raise ConfigError(f"{log}: no training log; expected rows with loss and skipped")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {log}: {error}") from error
    scores = None if found is None else read_scores(found)
    return Sources(about, weights.stat().st_size, table, held_out, more, scores)


def _evaluation(run: Path) -> Evaluation:
    """Raises ConfigError, StoreError."""
    store = RunStore.open(run)
    record = store.read_run()
    if any(is_untrained(words) for words in record.weights.values()):
        raise ConfigError(f"{run}: its weights are untrained; run it again with methods.0.model.checkpoint set")
    stored = store.read_units()
    if stored.missing:
        raise ConfigError(f"{run}: {len(stored.missing)} scenes have no result; run it again to go on")
    try:
        command = _anywhere(record.command)
    except ValueError as error:
        raise ConfigError(f"{run}: its record holds no command that a shell would read ({error})") from error
    return Evaluation(command, [unit.record for unit in stored.units])


def _anywhere(command: str) -> str:
    """A command without what is of the machine and not of the result: the folder that its results went to, and the
    places of datasets, in variables before it and in settings. Raises ValueError for quotes that do not close."""
    words = shlex.split(command)
    start = next((i for i, word in enumerate(words) if not re.match(r"[A-Z_0-9]+=", word)), 0)
    places = [word.partition("=")[0] + "=FOLDER" for word in words[:start]]
    kept: list[str] = []
    rest = iter(words[start:])
    for word in rest:
        if word == "--out":
            next(rest, None)
        elif not word.startswith("--out="):
            kept.append(re.sub(r"^((?:--set=)?[\w.]+\.root)=.*", r"\1=FOLDER", word))
    return " ".join([*places, shlex.join(kept)])


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m training.card", description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="safetensors that training left")
    parser.add_argument("--log", type=Path, required=True, help="training_log.csv")
    parser.add_argument("--run", type=Path, required=True, help="run directory of ci_heldout")
    parser.add_argument("--other", type=Path, action="append", default=[], help="run directory of another experiment")
    parser.add_argument("--ablations", type=Path, help="what training.ablations wrote with --json")
    parser.add_argument("--out", type=Path, default=Path("reports/ci_checkpoint.md"))
    given = parser.parse_args(arguments)

    def work() -> str:
        sources = read_sources(given.weights, given.log, given.run, given.other, given.ablations)
        pictures = [(address, words) for address, words in PICTURES if (given.out.parent / address).is_file()]
        write_text(given.out, model_card(sources, pictures))
        return f"card: {given.out}"

    return reported(work)


if __name__ == "__main__":
    sys.exit(main())
