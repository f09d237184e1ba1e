"""``lingbot-eval score``: accuracy of a trajectory file against a reference trajectory file."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingbot_eval.cli import output
from lingbot_eval.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lingbot_eval.formats.trajectories import TrajectoryFile
    from lingbot_eval.metrics.trajectory import TrajectoryScore
    from lingbot_eval.types import Measurement, Trajectory

_FORMATS = ("tum", "kitti", "euroc")
_ALIGNMENTS = ("sim3", "se3", "anchor", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``score``."""
    parser.add_argument("--gt", type=Path, required=True, metavar="FILE", help="reference trajectory")
    parser.add_argument("--est", type=Path, required=True, metavar="FILE", help="estimated trajectory")
    parser.add_argument("--format", choices=_FORMATS, required=True, help="format of both files")
    parser.add_argument("--gt-format", choices=_FORMATS, help="format of the reference, where it differs")
    parser.add_argument("--align", choices=_ALIGNMENTS, default="sim3", help="alignment shown first (default: sim3)")
    parser.add_argument(
        "--max-diff", type=float, default=0.02, metavar="S", help="largest time difference of a pair, in s (0.02)"
    )
    parser.add_argument(
        "--anchor-frames", type=int, default=8, metavar="N", help="poses that 'anchor' aligns on (default: 8)"
    )
    parser.add_argument("--drift-plot", type=Path, metavar="FILE", help="draw drift along the sequence (.png)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw path and error (.png, .pdf or .svg)")


@dataclass(frozen=True)
class _Pairing:
    """How the poses of the two files met. Spans in seconds; None for formats without timestamps."""

    rule: str
    reference_poses: int
    estimate_poses: int
    matched: int
    reference_poses_in_estimate_span: int | None = None
    reference_span_s: tuple[float, float] | None = None
    estimate_span_s: tuple[float, float] | None = None

    @property
    def matched_percent(self) -> float:
        """Share of the estimate's poses that found a reference pose."""
        return 100.0 * self.matched / self.estimate_poses

    @property
    def span_covered_percent(self) -> float | None:
        """Share of the reference's duration that lies inside the estimate's time span."""
        if self.reference_span_s is None or self.estimate_span_s is None:
            return None
        (first, last), (start, end) = self.reference_span_s, self.estimate_span_s
        return 100.0 * max(0.0, min(last, end) - max(first, start)) / (last - first) if last > first else None


def run(args: argparse.Namespace) -> int:
    """0 when the chosen alignment could be scored, 1 with the reason when not; bad input raises."""
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
    estimate = read_trajectory(args.est, args.format)
    paired_reference, paired_estimate, pairing = _pair(reference, estimate, args.max_diff)
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
        output.as_json(_document(args, pairing, score, shown))
    else:
        _print(args, pairing, shown)
    return 0 if reason is None else 1


def _pair(
    reference: TrajectoryFile, estimate: TrajectoryFile, max_difference: float
) -> tuple[Trajectory, Trajectory, _Pairing]:
    """Both trajectories under common frame numbers: the rows of the estimate."""
    import numpy as np

    from lingbot_eval.formats.association import associate
    from lingbot_eval.types import Trajectory

    times, reference_times = estimate.timestamps, reference.timestamps
    if (times is None) != (reference_times is None):
        raise ConfigError(
            f"{reference.path} and {estimate.path}: one has timestamps and the other has none (KITTI), so their poses"
            " cannot be paired; convert one of them"
        )
    rows = np.arange(len(estimate), dtype=np.int64)
    if times is None or reference_times is None:
        if len(reference) != len(estimate):
            raise DataError(
                f"KITTI trajectories are paired row by row: expected equal counts, found {len(reference)} poses in"
                f" {reference.path} and {len(estimate)} in {estimate.path}; cut both to the same frames, or use TUM"
            )
        pairing = _Pairing("row i with row i", len(reference), len(estimate), len(estimate))
        stamps = rows.astype(np.float64)
        return (
            Trajectory(rows, stamps, reference.camera_to_world, reference.has_orientation),
            Trajectory(rows, stamps, estimate.camera_to_world, estimate.has_orientation),
            pairing,
        )
    in_reference, in_estimate = associate(reference_times, times, max_difference)
    in_span = (reference_times >= times[0]) & (reference_times <= times[-1])
    pairing = _Pairing(
        f"one to one by nearest timestamp within {max_difference:g} s",
        len(reference),
        len(estimate),
        len(in_estimate),
        int(np.count_nonzero(in_span)),
        (float(reference_times[0]), float(reference_times[-1])),
        (float(times[0]), float(times[-1])),
    )
    return (
        Trajectory(
            in_estimate,
            reference_times[in_reference],
            reference.camera_to_world[in_reference],
            reference.has_orientation,
        ),
        Trajectory(rows, times, estimate.camera_to_world, estimate.has_orientation),
        pairing,
    )


def _document(
    args: argparse.Namespace, pairing: _Pairing, score: TrajectoryScore, shown: list[Measurement]
) -> dict[str, Any]:
    transform = score.alignments.get(args.align)
    return {
        "reference": {"file": str(args.gt), "format": args.gt_format or args.format},
        "estimate": {"file": str(args.est), "format": args.format},
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


def _print(args: argparse.Namespace, pairing: _Pairing, shown: list[Measurement]) -> None:
    line = output.line
    line(f"reference  {args.gt}  ({args.gt_format or args.format}, {pairing.reference_poses} poses)")
    line(f"estimate   {args.est}  ({args.format}, {pairing.estimate_poses} poses)")
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
