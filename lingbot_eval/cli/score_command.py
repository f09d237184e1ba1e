"""``lingbot-eval score``: accuracy of a trajectory file against a reference trajectory file."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingbot_eval.cli import output
from lingbot_eval.errors import ConfigError
from lingbot_eval.registry import load_plugins

if TYPE_CHECKING:
    from lingbot_eval.files.trajectories import Pairing, TrajectoryFile
    from lingbot_eval.geometry.pose_reading import PoseReading
    from lingbot_eval.metrics.scoring import PoseScore
    from lingbot_eval.metrics.trajectory import TrajectoryScore
    from lingbot_eval.reports.reading import Paths
    from lingbot_eval.types import Measurement, Trajectory

_FORMATS = ("auto", "tum", "kitti", "euroc", "colmap", "nerfstudio", "log", "numpy")
# Alignments, and how a picture says them.
_ALIGNED = {"sim3": "Sim(3)-aligned", "se3": "SE(3)-aligned", "anchor": "aligned on its first poses", "none": ""}
MANY_POSES = 20_000  # from here on the pairs of auc take so long that their progress is shown


def score_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``score``."""
    parser.set_defaults(do=run)
    parser.add_argument("--gt", type=Path, required=True, metavar="FILE", help="reference trajectory")
    parser.add_argument(
        "--est",
        type=Path,
        required=True,
        nargs="+",
        metavar="FILE",
        help="estimated trajectories, each scored by itself",
    )
    parser.add_argument(
        "--format", choices=_FORMATS, default="auto", help="format of both files (default: found from their content)"
    )
    parser.add_argument("--gt-format", choices=_FORMATS, help="format of the reference, where it differs")
    parser.add_argument(
        "--align", choices=tuple(_ALIGNED), default="sim3", help="alignment shown first (default: sim3)"
    )
    parser.add_argument(
        "--max-diff", type=float, default=0.01, metavar="S", help="largest time difference of a pair, in s (0.01)"
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
    for side, what in (("est", "estimate"), ("gt", "reference")):
        add_reading_options(parser, side, what)
    parser.add_argument(
        "--without",
        action="append",
        choices=("drift", "auc"),
        default=[],
        help="leave out a family; the pairs of 'auc' grow with the square of the number of poses",
    )
    parser.add_argument("--all", action="store_true", help="print every measurement and what each means")
    parser.add_argument("--drift-plot", type=Path, metavar="FILE", help="draw drift of one estimate (.png, .pdf, .svg)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw paths coloured by error (.png, .pdf, .svg)")


def add_reading_options(parser: argparse.ArgumentParser, side: str, what: str) -> None:
    """What the poses of one file mean, where they are not the camera-to-world poses of its format."""
    group = parser.add_argument_group(f"what the poses of the {what} mean")
    group.add_argument(
        f"--{side}-poses",
        choices=("camera-to-world", "world-to-camera", "world-to-camera-rotations"),
        help="inverse poses, or camera positions with inverse rotations (default: camera-to-world)",
    )
    group.add_argument(
        f"--{side}-quaternion", choices=("xyzw", "wxyz"), help="order of the quaternions (default: that of the format)"
    )
    group.add_argument(f"--{side}-handedness", choices=("right", "left"), help="left: poses are mirror images")
    group.add_argument(
        f"--{side}-to-camera",
        metavar="POSE",
        help="pose of the camera in the frame that the poses are of: opengl, 'x y z qx qy qz qw', or a file with 7"
        " numbers or a 4x4 matrix",
    )


def run(args: argparse.Namespace) -> int:
    """0 when every estimate could be scored under the chosen alignment, 1 when not; bad input raises."""
    from lingbot_eval.files.trajectories import read_trajectory

    load_plugins()
    if not 0 <= args.max_diff < float("inf"):
        raise ConfigError(f"--max-diff: expected seconds, 0 or more, found {args.max_diff}")
    if args.anchor_frames < 3:
        raise ConfigError(f"--anchor-frames: expected 3 or more, found {args.anchor_frames}")
    if args.drift_plot is not None and len(args.est) > 1:
        raise ConfigError(f"--drift-plot draws one estimate, found {len(args.est)}; call score once for each")
    readings = {side: _reading(args, side) for side in ("gt", "est")}
    reference = read_trajectory(args.gt, args.gt_format or args.format)
    files = [
        read_trajectory(path, args.format, time_scale=args.time_scale, time_offset=args.time_offset)
        for path in args.est
    ]
    found = [(file, _scored(args, reference, file, readings)) for file in files]
    _draw(args, found)
    if args.json:
        documents = [_document(args, (reference, file), readings, scored) for file, scored in found]
        output.as_json(documents[0] if len(documents) == 1 else {"estimates": documents})
    else:
        for number, (file, scored) in enumerate(found):
            if number:
                output.line()
            _print(args, (reference, file), scored)
    return 0 if all(scored["ate_rmse"].value is not None for _, scored in found) else 1


def _scored(
    args: argparse.Namespace, reference: TrajectoryFile, estimate: TrajectoryFile, readings: Mapping[str, PoseReading]
) -> PoseScore:
    from lingbot_eval.metrics.scoring import score

    with _progress(len(estimate), quiet=args.json) as progress:
        return score(
            _read_so(reference, readings["gt"], "gt"),
            _read_so(estimate, readings["est"], "est"),
            align=args.align,
            anchor_frames=args.anchor_frames,
            max_difference=args.max_diff,
            without=args.without,
            progress=progress,
        )


def _reading(args: argparse.Namespace, side: str) -> PoseReading:
    """What the options say of one file's poses. Raises ConfigError for a camera that is none."""
    from lingbot_eval.files.reading import read_text
    from lingbot_eval.geometry.pose_reading import PoseReading
    from lingbot_eval.settings import validated

    given = {name: getattr(args, f"{side}_{name}") for name in ("poses", "quaternion", "handedness", "to_camera")}
    camera = given["to_camera"]
    if camera is not None and Path(camera).is_file():
        given["to_camera"] = read_text(Path(camera), "pose of a camera")
    return validated(PoseReading, {name: value for name, value in given.items() if value is not None}, f"--{side}-…")


def _read_so(file: TrajectoryFile, reading: PoseReading, side: str) -> TrajectoryFile:
    try:
        return reading.of(file, file.format)
    except ConfigError as error:
        raise ConfigError(f"{file.path}: --{side}-… {error}") from error


@contextmanager
def _progress(poses: int, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Shows how far pair AUC is, where it takes long and somebody looks."""
    if poses <= MANY_POSES or quiet:
        yield None
        return
    with output.bar(None, "pairs of auc", "pair", unit_scale=True) as bar:

        def show(done: int, there_are: int) -> None:
            bar.total = there_are
            bar.update(done - bar.n)

        yield show


def _told_apart(paths: Sequence[Path]) -> list[str]:
    """Names of files, with as many of their folders as tell them apart: those of a run are all called the same."""
    names = [path.name for path in paths]
    for parts in range(2, max(len(path.parts) for path in paths) + 1):
        if len(set(names)) == len(set(paths)):
            break
        names = ["/".join(path.parts[-parts:]) for path in paths]
    return names


def _draw(args: argparse.Namespace, found: Sequence[tuple[TrajectoryFile, PoseScore]]) -> None:
    """The pictures that are asked for, or why there is none."""
    if args.plot is not None:
        from lingbot_eval.plots import check_ending, save
        from lingbot_eval.reports.scene_figures import trajectory_figure

        paths = []
        for name, (file, scored) in zip(_told_apart([file.path for file, _ in found]), found, strict=True):
            if scored["ate_rmse"].value is not None and scored.trajectory is not None and scored.estimate is not None:
                paths.append((name, _paths(scored.trajectory, scored.estimate, args.align)))
            else:
                output.note(f"{file.path} is not drawn: there is nothing to show under {args.align}")
        if paths:
            check_ending(args.plot, "--plot")
            title = f"{', '.join(name for name, _ in paths)} against {args.gt.name}"
            save(trajectory_figure(paths, title, along=True), args.plot)
        else:
            output.note(f"{args.plot} is not written")
    if args.drift_plot is not None:
        from lingbot_eval.plots import check_ending, save
        from lingbot_eval.reports.figures import drift_figure

        ((file, scored),) = found
        if scored.drift is not None:
            check_ending(args.drift_plot, "--drift-plot")
            figure = drift_figure(scored.drift, f"{file.path.name} against {args.gt.name}")
            if figure is not None:
                save(figure, args.drift_plot)
        else:
            why = "drift is left out" if "drift" in args.without else scored["ate_rmse", "sim3"].reason
            output.note(f"{args.drift_plot} is not drawn: {why}")


def _paths(score: TrajectoryScore, estimate: Trajectory, alignment: str) -> Paths:
    """Where a scored estimate went. alignment: a name in ``score.alignments``."""
    import numpy as np

    from lingbot_eval.reports.reading import Paths

    move = score.alignments[alignment]
    rows = np.searchsorted(estimate.indices, score.indices)
    moved = move.apply_points(estimate.positions)
    error = np.full(len(moved), np.nan)
    error[rows] = np.linalg.norm(moved[rows] - score.reference_positions, axis=1)
    return Paths(moved, score.reference_positions, _ALIGNED[alignment], error, move)


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
    readings: Mapping[str, PoseReading],
    scored: PoseScore,
) -> dict[str, Any]:
    transform = scored.trajectory.alignments.get(args.align) if scored.trajectory is not None else None
    pairing = scored.pairing
    return {
        "reference": _file_facts(files[0]) | {"read_as": readings["gt"].changes},
        "estimate": _file_facts(files[1]) | {"read_as": readings["est"].changes},
        "pairing": None
        if pairing is None
        else {
            **asdict(pairing),
            "matched_percent_of_estimate_poses": pairing.matched_percent,
            "reference_span_covered_percent": pairing.span_covered_percent,
        },
        "alignment": args.align,
        "estimate_to_reference": None if transform is None else transform.matrix().tolist(),
        "notes": list(scored.notes),
        "measurements": [asdict(m) for m in scored.measurements],
        "reason": scored["ate_rmse"].reason,
    }


def _print(args: argparse.Namespace, files: tuple[TrajectoryFile, TrajectoryFile], scored: PoseScore) -> None:
    line = output.line
    for role, file in zip(("reference", "estimate"), files, strict=True):
        what = "poses" if file.has_orientation else "positions without orientation"
        unit = f", stamps in {file.time_unit}" if file.timed else ""
        line(f"{role:<9}  {file.path}  ({file.format}, {len(file)} {what}{unit})")
        for note in file.notes:
            line(f"note       {note}")
    _print_pairing(scored.pairing, spans=args.all)
    line()
    shown = list(scored.measurements) if args.all else _headlines(args.align, scored)
    width = max(len(m.variant) for m in shown)
    line(f"{'measurement':<24} {'variant':<{width}} {'value':>14} unit   samples")
    for m in shown:
        value = "n/a" if m.value is None else f"{m.value:.6f}"
        row = f"{m.name:<24} {m.variant:<{width}} {value:>14} {m.unit:<6} {'' if m.samples is None else m.samples}"
        line((row + _segments(m, scored)).rstrip())
    if not args.all:
        line(_by_alignment(scored))
    _print_reasons(shown)
    for note in scored.notes:
        line(f"note       {note}")
    line()
    if not args.all:
        line(f"{len(scored.measurements)} measurements under every alignment, and what each means: --all")
        return
    line("conventions (a frame is a pose of the estimate; matched: paired with a pose of the reference)")
    for m in shown:
        if m.name not in ("ate_mean", "ate_median", "ate_max"):  # as ate_rmse, but for the statistic in their name
            line(f"  {m.name} {m.variant}: {m.convention}" if m.variant else f"  {m.name}: {m.convention}")


def _print_pairing(pairing: Pairing | None, *, spans: bool) -> None:
    if pairing is None:
        return
    output.line(
        f"matched    {pairing.matched} of {pairing.estimate_poses} estimate poses ({pairing.matched_percent:.1f} %),"
        f" {pairing.rule}"
    )
    if pairing.estimate_span_s is None or pairing.reference_span_s is None:
        return
    if spans:
        for what, (first, last) in (("reference", pairing.reference_span_s), ("estimate", pairing.estimate_span_s)):
            output.line(f"           {what} from {first:.3f} to {last:.3f} s")
    if pairing.span_covered_percent is not None:
        output.line(
            f"coverage   {pairing.span_covered_percent:.1f} % of the reference duration lies in the estimate's"
            f" span, with {pairing.reference_poses_in_estimate_span} of {pairing.reference_poses} reference poses"
        )


def _headlines(align: str, scored: PoseScore) -> list[Measurement]:
    """The few that are asked for first, under the chosen alignment; the scale of a Sim(3) says what it took.

    Those of plugins come behind them, under the alignment that each has.
    """
    from lingbot_eval.declarations import headlines
    from lingbot_eval.metrics.base import declared

    wanted = [(first.name, align if first.variant == "sim3" else "") for first in headlines()]
    # KITTI's two figures belong together.
    wanted.insert(wanted.index(("segment_translation", align)) + 1, ("segment_rotation", align))
    wanted.append(("scale", "anchor" if align == "anchor" else "sim3"))
    found = {(m.name, m.variant): m for m in scored.measurements}
    own = [(metric.name, "" if metric.align == "none" else metric.align) for metric in declared("trajectory")]
    wanted += [key for key in own if key in found and found[key].headline]
    return [found[key] for key in wanted if key in found]


def _by_alignment(scored: PoseScore) -> str:
    """ATE under each alignment in a line: an alignment is part of every number."""
    parts = [
        f"{m.variant} {'n/a' if m.value is None else f'{m.value:.4g}'}"
        for m in scored.measurements
        if m.name == "ate_rmse"
    ]
    return f"ate_rmse by alignment: {', '.join(parts)} m"


def _segments(measured: Measurement, scored: PoseScore) -> str:
    """Which segments a number of segments is of: KITTI's own on a long path, shorter ones on a short path."""
    if not measured.name.startswith("segment_") or scored.drift is None or not len(scored.drift.segment_length_m):
        return ""
    lengths = scored.drift.segment_length_m
    return f" segments of {lengths.min():g} to {lengths.max():g} m"


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
