"""``lingbot-eval score``: accuracy of a trajectory file against a reference trajectory file."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingbot_eval.cli import output
from lingbot_eval.errors import ConfigError

if TYPE_CHECKING:
    from lingbot_eval.formats.pairing import Pairing
    from lingbot_eval.formats.trajectories import TrajectoryFile
    from lingbot_eval.metrics.trajectory import TrajectoryScore
    from lingbot_eval.types import Measurement

_FORMATS = ("auto", "tum", "kitti", "euroc", "colmap", "nerfstudio", "log", "numpy")
_ALIGNMENTS = ("sim3", "se3", "anchor", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``score``."""
    parser.add_argument("--gt", type=Path, required=True, metavar="FILE", help="reference trajectory")
    parser.add_argument("--est", type=Path, required=True, metavar="FILE", help="estimated trajectory")
    parser.add_argument(
        "--format", choices=_FORMATS, default="auto", help="format of both files (default: found from their content)"
    )
    parser.add_argument("--gt-format", choices=_FORMATS, help="format of the reference, where it differs")
    parser.add_argument("--align", choices=_ALIGNMENTS, default="sim3", help="alignment shown first (default: sim3)")
    parser.add_argument(
        "--max-diff", type=float, default=0.02, metavar="S", help="largest time difference of a pair, in s (0.02)"
    )
    parser.add_argument(
        "--time-scale", type=float, metavar="X", help="seconds to one unit of the estimate's stamps (found from them)"
    )
    parser.add_argument(
        "--time-offset", type=float, default=0.0, metavar="S", help="seconds added to the estimate's times (0)"
    )
    parser.add_argument(
        "--anchor-frames", type=int, default=8, metavar="N", help="poses that 'anchor' aligns on (default: 8)"
    )
    parser.add_argument("--drift-plot", type=Path, metavar="FILE", help="draw drift along the sequence (.png)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw path and error (.png, .pdf or .svg)")


def run(args: argparse.Namespace) -> int:
    """0 when the chosen alignment could be scored, 1 with the reason when not; bad input raises."""
    from lingbot_eval.formats.pairing import pair_trajectories
    from lingbot_eval.formats.trajectories import read_trajectory
    from lingbot_eval.metrics.drift import score_drift
    from lingbot_eval.metrics.pair_auc import pair_measurements
    from lingbot_eval.metrics.trajectory import TrajectorySettings, score_trajectory
    from lingbot_eval.validation import validated

    if not 0 <= args.max_diff < float("inf"):
        raise ConfigError(f"--max-diff: expected seconds, 0 or more, found {args.max_diff}")
    alignments = tuple(dict.fromkeys((args.align, *_ALIGNMENTS)))
    settings = validated(
        TrajectorySettings, {"alignments": alignments, "anchor_frames": args.anchor_frames}, "--anchor-frames"
    )
    reference = read_trajectory(args.gt, args.gt_format or args.format)
    estimate = read_trajectory(args.est, args.format, time_scale=args.time_scale, time_offset=args.time_offset)
    paired_reference, paired_estimate, pairing = pair_trajectories(reference, estimate, args.max_diff)
    score = score_trajectory(paired_reference, paired_estimate, len(estimate), settings)
    drift = score_drift(paired_reference, paired_estimate)
    pairs = pair_measurements(paired_reference, paired_estimate)
    # Counts of score_trajectory are about frames of a sequence; here the pairing says what met what.
    shown = [m for m in score.measurements if m.name.startswith(("ate_", "rpe_")) or m.name in ("scale", "path_length")]
    shown += [*drift.measurements, *pairs]
    reason = shown[0].reason
    if args.plot is not None:
        from lingbot_eval.cli.score_plot import draw

        if reason is None:
            draw(args.plot, score, paired_estimate, args.align)
        else:
            output.note(f"{args.plot} is not drawn: there is nothing to show under {args.align}")
    if args.drift_plot is not None:
        from lingbot_eval.cli.score_plot import draw_drift

        if drift.series is not None:
            draw_drift(args.drift_plot, drift.series, f"{args.est.name} against {args.gt.name}")
        else:
            output.note(f"{args.drift_plot} is not drawn: {drift.measurements[0].reason}")
    if args.json:
        output.as_json(_document(args, (reference, estimate), pairing, score, shown))
    else:
        _print(args, (reference, estimate), pairing, shown)
    return 0 if reason is None else 1


def _file_facts(file: TrajectoryFile) -> dict[str, Any]:
    """What the reader found, for JSON."""
    return {
        "file": str(file.path),
        "format": file.format,
        "time_unit": file.time_unit if file.timed else None,
        "has_orientation": file.has_orientation,
        "poses": len(file),
        "lost_poses": file.lost,
        "repeated_stamps": file.repeated,
        "notes": list(file.notes),
    }


def _document(
    args: argparse.Namespace,
    files: tuple[TrajectoryFile, TrajectoryFile],
    pairing: Pairing,
    score: TrajectoryScore,
    shown: list[Measurement],
) -> dict[str, Any]:
    transform = score.alignments.get(args.align)
    return {
        "reference": _file_facts(files[0]),
        "estimate": _file_facts(files[1]),
        "pairing": {
            **asdict(pairing),
            "matched_percent_of_estimate_poses": pairing.matched_percent,
            "reference_span_covered_percent": pairing.span_covered_percent,
        },
        "alignment": args.align,
        "estimate_to_reference": None if transform is None else transform.matrix().tolist(),
        "measurements": [asdict(m) for m in shown],
        "reason": shown[0].reason,
    }


def _print(
    args: argparse.Namespace,
    files: tuple[TrajectoryFile, TrajectoryFile],
    pairing: Pairing,
    shown: list[Measurement],
) -> None:
    line = output.line
    for role, file in zip(("reference", "estimate"), files, strict=True):
        what = "poses" if file.has_orientation else "positions without orientation"
        unit = f", stamps in {file.time_unit}" if file.timed else ""
        line(f"{role:<9}  {file.path}  ({file.format}, {len(file)} {what}{unit})")
        for note in file.notes:
            line(f"note       {note}")
    line(
        f"matched    {pairing.matched} of {pairing.estimate_poses} estimate poses ({pairing.matched_percent:.1f} %),"
        f" {pairing.rule}"
    )
    if pairing.estimate_span_s is not None and pairing.reference_span_s is not None:
        for what, (first, last) in (("reference", pairing.reference_span_s), ("estimate", pairing.estimate_span_s)):
            line(f"           {what} from {first:.3f} to {last:.3f} s")
        if pairing.span_covered_percent is not None:
            line(
                f"coverage   {pairing.span_covered_percent:.1f} % of the reference duration lies in the estimate's"
                f" span, with {pairing.reference_poses_in_estimate_span} of {pairing.reference_poses} reference poses"
            )
    line()
    line(f"{'measurement':<24} {'variant':<10} {'value':>14} unit   samples")
    for m in shown:
        value = "n/a" if m.value is None else f"{m.value:.6f}"
        line(f"{m.name:<24} {m.variant:<10} {value:>14} {m.unit:<6} {'' if m.samples is None else m.samples}")
    _print_reasons(shown)
    line()
    line("conventions (a frame is a pose of the estimate; matched: paired with a pose of the reference)")
    for m in shown:
        if m.name not in ("ate_mean", "ate_median", "ate_max"):  # as ate_rmse, but for the statistic in their name
            line(f"  {m.name} {m.variant}: {m.convention}" if m.variant else f"  {m.name}: {m.convention}")


def _print_reasons(shown: list[Measurement]) -> None:
    """One line a reason, with everything that it stands in the way of."""
    names: dict[str, list[str]] = {}
    for m in shown:
        if m.reason is not None:
            names.setdefault(m.reason, []).append(f"{m.name} {m.variant}".strip())
    if names:
        output.line()
    for reason, wanting in names.items():
        output.line(f"n/a: {reason} ({', '.join(wanting)})")
