"""A comparison of backends as a Markdown page, its numbers as JSON, its figure as PNG, written whole or not at all."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lingbot_eval.comparison.backends import BackendComparison, Pair, Ratio, Side, step_median
from lingbot_eval.files.atomic import staged, write_text, writing
from lingbot_eval.machine.environment import machine_name
from lingbot_eval.model.build import PRECISIONS
from lingbot_eval.plots import save
from lingbot_eval.reports.agreement import (
    AGREEMENT_HEADER,
    AGREEMENT_LEGEND,
    TimeSeries,
    agreement_row,
    comparison_figure,
    missing,
)
from lingbot_eval.reports.two_runs import NUMBERS, PAGE
from lingbot_eval.statistics import ALPHA
from lingbot_eval.streaming.estimate import distance
from lingbot_eval.streaming.stores import attention_name
from lingbot_eval.tables import MISSING, Table, columns, markdown_text, mebibytes, number_text, quantity
from lingbot_eval.types import CACHE_KINDS, FloatArray


def title(found: BackendComparison) -> str:
    """What was compared, with a word on untrained weights."""
    a, b = (side.contender.label for side in found.sides)
    return f"{a} against {b}{_untrained(found)}"


def tables(found: BackendComparison) -> tuple[Table, ...]:
    """Agreement, speed and memory."""
    return _agreement(found), _speed(found), _memory(found)


def page(found: BackendComparison, figure: str) -> str:
    """The whole page; ``figure``: file name of the picture beside it."""
    lines = [
        f"# {markdown_text(title(found))}",
        "",
        f"- input: {markdown_text(found.dataset)} / {markdown_text(found.scene)}, {found.frames} frames "
        f"at {found.size[0]}×{found.size[1]}",
        f"- model: configuration {found.model}, {markdown_text(found.weights)}"
        + ("; the outputs say nothing about the trained model" if found.untrained else ""),
        f"- stream: `{json.dumps(dict(found.streaming))}`",
        f"- machine: {markdown_text(_machine(found))}",
        *(f"- **{markdown_text(line)}**" for line in failures(found)),
        "",
        f"![Agreement and time along the sequence]({figure})",
        "",
        *(table.markdown() for table in tables(found)),
        "### Environment",
        "",
        "```json",
        json.dumps(dict(found.environment), indent=2),
        "```",
        "",
    ]
    return "\n".join(lines)


def document(found: BackendComparison) -> dict[str, Any]:
    """Everything but the per-frame series, as plain JSON values."""
    return {
        "title": title(found),
        "dataset": found.dataset,
        "scene": found.scene,
        "frames": found.frames,
        "size": list(found.size),
        "model": found.model,
        "weights": found.weights,
        "untrained_weights": found.untrained,
        "streaming": dict(found.streaming),
        "device": found.device,
        "rounds": found.rounds,
        "sides": [_side_data(side, found) for side in found.sides],
        "time_ratio": asdict(found.ratio) if isinstance(found.ratio, Ratio) else {"value": None, "reason": found.ratio},
        "pairs": [_pair_data(pair) for pair in found.pairs],
        "environment": dict(found.environment),
    }


def failures(found: BackendComparison) -> tuple[str, ...]:
    """What ran out of memory, and where."""
    alone = [f"{side.contender.label}: {side.failure.text()}" for side in found.sides if side.failure is not None]
    together = [f"{pair_label(pair)}: {pair.ended.text()}" for pair in found.pairs if pair.ended is not None]
    return (*alone, *together)


def pair_label(pair: Pair) -> str:
    """``A–reference``."""
    return f"{pair.first.name}–{pair.second.name}"


def _machine(found: BackendComparison) -> str:
    threads = "" if found.device.startswith("cuda") else f", {found.environment['torch']['threads']} threads"
    return f"{found.device}, {machine_name(found.environment)}{threads}"


def _agreement(found: BackendComparison) -> Table:
    summaries = [(pair_label(pair), summary) for pair in found.pairs for summary in pair.differences.summaries()]
    labels = [pair.second.label for pair in found.pairs if pair.second.name == "reference"][:1]
    differ = [
        f"{pair_label(pair)}: one side kept {pair.keyframes_differ} frames that the other did not; from the first of "
        "them on the two see different pasts"
        for pair in found.pairs
        if pair.keyframes_differ
    ]
    contenders = [side.contender for side in found.sides]
    known = dict.fromkeys(distance(each.precision, each.cache_precision) for each in contenders)
    legend = (
        *(f"{name}: torch's attention in float32, on the same device" for name in labels),
        *AGREEMENT_LEGEND,
        "position is relative to the extent of the second trajectory, depth the median over pixels "
        "of the absolute difference / the second depth",
        *differ,
        *(f"measured before: {text}" for text in known if text is not None),
        *missing(summaries),
    )
    rows = [agreement_row(pair, summary) for pair, summary in summaries]
    return Table(f"Agreement{_untrained(found)}", columns(AGREEMENT_HEADER, left=2), rows, legend=legend)


def _speed(found: BackendComparison) -> Table:
    header: tuple[str, ...] = ("side", "time of a frame", "forward alone", "warm-up")
    rows: list[tuple[str, ...]] = []
    for side in found.sides:
        milliseconds, rate = _pace(side, found.scale_frames)
        rows.append(
            (side.contender.label, quantity(milliseconds, "ms"), quantity(rate, "fps"), quantity(side.warm_up_s, "s"))
        )
    legend = [
        _ratio_text(found.ratio),
        f"{found.rounds} rounds over the same frames in turn, in one process, each frame waited for; time of the step "
        "on its device, between CUDA events, on a CPU wall clock; medians over rounds; time of a frame without the "
        "scale phase, forward alone with it",
        "warm-up: the first stream of a few frames, compilation included, in no frame's time",
    ]
    return Table(f"Speed{_untrained(found)}", columns(header), rows, legend=legend)


def _memory(found: BackendComparison) -> Table:
    rows = [
        (
            side.contender.label,
            *(mebibytes(side.cache_bytes.get(kind)) for kind in CACHE_KINDS),
            mebibytes(sum(side.cache_bytes.values()) if side.cache_bytes else None),
            mebibytes(side.cache_allocated),
            mebibytes(side.weights_bytes),
            mebibytes(side.device_bytes),
        )
        for side in found.sides
    ]
    kinds = (kind.replace("_", " ") for kind in CACHE_KINDS)
    header = ("side", *kinds, "in view", "allocated", "weights", "device peak")
    legend = [
        "MiB; keys and values in view when they are most, by kind and in all; allocated: held for them, with headroom",
        "device peak: largest sum of live tensors while the side ran alone, without weights"
        if found.device.startswith("cuda")
        else f"device peak {MISSING}: ran on the CPU",
    ]
    return Table(f"Memory{_untrained(found)}", columns(header), rows, legend=legend)


def _pace(side: Side, scale_frames: int) -> tuple[float | None, float | None]:
    """Median milliseconds of a step frame, and frames a second of the whole stream."""
    medians = [found for step_ms in side.step_ms if (found := step_median(step_ms, scale_frames)) is not None]
    rates = [
        1e3 * len(step_ms) / step_ms.sum() for step_ms in side.step_ms if np.isfinite(step_ms).all() and len(step_ms)
    ]
    return (
        float(np.median(medians)) if medians else None,
        float(np.median(rates)) if rates else None,
    )


def _ratio_text(ratio: Ratio | str) -> str:
    if isinstance(ratio, str):
        return f"time of B / time of A {MISSING}: {ratio}"
    value = number_text(ratio.value, "1")
    if ratio.low is None or ratio.high is None:
        return f"time of B / time of A: {value} ({ratio.reason})"
    low, high = number_text(ratio.low, "1"), number_text(ratio.high, "1")
    words = ratio.reason or f"B is {ratio.verdict}" if ratio.verdict != "no difference" else "no difference told"
    return f"time of B / time of A: {value} ({low} to {high} by chance, {ALPHA:.0%} beyond either end): {words}"


def _untrained(found: BackendComparison) -> str:
    return " (untrained weights)" if found.untrained else ""


def _side_data(side: Side, found: BackendComparison) -> dict[str, Any]:
    scale_frames, contender = found.scale_frames, side.contender
    milliseconds, rate = _pace(side, scale_frames)
    return {
        **asdict(contender),
        "attention": attention_name(contender.backend, PRECISIONS[contender.precision], torch.device(found.device)),
        "weights_bytes": side.weights_bytes,
        "warm_up_s": side.warm_up_s,
        "step_ms": milliseconds,
        "step_ms_by_round": [step_median(step_ms, scale_frames) for step_ms in side.step_ms],
        "forward_fps": rate,
        "cache_bytes": side.cache_bytes,
        "cache_allocated_bytes": side.cache_allocated,
        "device_peak_bytes": side.device_bytes,
        "failure": None if side.failure is None else asdict(side.failure),
    }


def _pair_data(pair: Pair) -> dict[str, Any]:
    return {
        "pair": pair_label(pair),
        "differences": [asdict(summary) for summary in pair.differences.summaries()],
        "keyframes_differ": pair.keyframes_differ,
        "ended": None if pair.ended is None else asdict(pair.ended),
    }


FIGURE = "compare.png"


def prepare_folder(out: Path) -> Path:
    """``out``, made when missing, before hours are spent on what goes there. Raises StoreError."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    return out


def write_backends(found: BackendComparison, out: Path) -> tuple[Path, ...]:
    """Page, numbers and figure in ``out``; returns the files, page first. Raises StoreError."""
    figure = comparison_figure(
        title(found),
        [(pair_label(pair), pair.differences) for pair in found.pairs],
        [series for side in found.sides if (series := _times(side)) is not None],
        f"Time of each frame, median of {found.rounds} round{'s' * (found.rounds > 1)}; "
        f"the first {min(found.scale_frames, found.frames)} enter in one pass and share its time",
    )
    with staged(out) as stage:
        save(figure, stage / FIGURE)
        write_text(stage / NUMBERS, json.dumps(document(found), indent=2, allow_nan=False) + "\n")
        write_text(stage / PAGE, page(found, FIGURE))
    return out / PAGE, out / FIGURE, out / NUMBERS


def _times(side: Side) -> TimeSeries | None:
    """Median over rounds of each frame; a round that ended early is out where it has nothing."""
    length = max((len(step_ms) for step_ms in side.step_ms), default=0)
    if not length:
        return None
    padded = [np.pad(ms, (0, length - len(ms)), constant_values=np.nan) for ms in side.step_ms]
    reached = np.isfinite(padded).any(axis=0)
    milliseconds: FloatArray = np.full(length, np.nan)
    milliseconds[reached] = np.nanmedian(np.array(padded)[:, reached], axis=0)
    return TimeSeries(side.contender.label, np.arange(length, dtype=np.float64), milliseconds)
