"""``lingbot-eval run EXPERIMENT``: the main job, from an experiment file to scored tables."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingbot_eval.cli import output
from lingbot_eval.errors import ConfigError

if TYPE_CHECKING:
    from lingbot_eval.cli.progress import Progress
    from lingbot_eval.cli.run_check import UnitCheck
    from lingbot_eval.reports.reading import Run
    from lingbot_eval.runs.execute import Parallel
    from lingbot_eval.runs.plan import Plan
    from lingbot_eval.stored.records import UnitRecord
    from lingbot_eval.stored.store import Outcome
    from lingbot_eval.streaming.estimate import Fit
    from lingbot_eval.types import Measurement

DONE, SOME_FAILED, BAD_INPUT = 0, 1, 2
RUNS = Path("runs")


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.set_defaults(do=run)
    parser.add_argument("experiment", help="an experiment file (YAML), or the name of a shipped one such as smoke")
    add_study_options(parser, "datasets.0.selection.count=50")
    parser.add_argument("--root", metavar="PATH", help="the folder or file of the first dataset: --set datasets.0.root")
    parser.add_argument(
        "--checkpoint",
        metavar="WEIGHTS",
        help="weights of every model: shipped, lingbot-map, lingbot-map-long, hf://owner/repo/file, or a file; any but"
        " the shipped ones are of config full and see frames at the size of the dataset's card",
    )
    parser.add_argument(
        "--fit",
        metavar="SIZE",
        help="choose precision of the cache, window and interval so that the model's streams fit into a card of this"
        " size, such as 8GB; --dry-run shows the choices and what each is known to cost",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be run, the memory it would take and what may be wrong; run nothing",
    )
    parser.add_argument(
        "--allow-commands",
        action="store_true",
        help="let methods of kind external run the commands that the experiment names, as you, with your rights",
    )
    parser.add_argument(
        "--report",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write tables and plots into the run directory afterwards",
    )


def run(args: argparse.Namespace) -> int:
    """Plan, execute, summarise.

    0 all done; 1 some units failed, or the run's record was gone; 2 some failed on bad input.
    """
    from lingbot_eval.api import fit, plan_run
    from lingbot_eval.api import report as write_report
    from lingbot_eval.api import run as run_experiment
    from lingbot_eval.cli.progress import Progress
    from lingbot_eval.cli.run_check import check_units, fit_line, refused_units

    overrides = _overrides(args)
    fits = {} if args.fit is None else fit(args.experiment, args.fit, overrides)
    overrides += [
        f"{at}.{name}={json.dumps(value)}" for at, each in fits.items() for name, value in each.changes().items()
    ]
    if args.dry_run:
        plan = plan_run(args.experiment, overrides)
        checks = (*check_units(plan), *refused_units(plan))
        _print_dry_run(plan, checks, fits, args)
        return BAD_INPUT if any(check.refused for check in checks) else DONE
    for at, each in fits.items():
        output.note(fit_line(at, each))
    parallel = parallel_of(args)
    progress = Progress(quiet=args.json, announce=_announce, parallel=parallel)
    done = run_experiment(
        args.experiment,
        set=overrides,
        out=args.out,
        allow_commands=args.allow_commands,
        command=_command(args),
        observer=progress,
        parallel=parallel,
    )
    outcome = done.outcome
    if outcome is None:
        raise TypeError("a run that ran has an outcome")
    for reason in done.results.left_out:
        output.note(f"error: left out: {reason}")
    if outcome.lost_record is not None:
        output.note(f"error: {outcome.lost_record}")
    for line in _weight_notes(done, outcome.record.weights):
        output.note(line)
    if not args.json:
        _print_summary(outcome, done)
    report = list(write_report(done).files) if args.report and not outcome.pending else None
    if args.json:
        output.as_json(_document(outcome, done, report))
    elif outcome.pending:
        output.line(f"{outcome.pending} units have no result yet: whoever ends last writes the report")
    elif report is None:
        output.line(f"tables and plots: lingbot-eval report {shlex.quote(str(outcome.path))}")
    else:
        output.line(f"report: {report[0]}")
    if not outcome.failed:
        return DONE if outcome.lost_record is None else SOME_FAILED
    return BAD_INPUT if outcome.bad_input else SOME_FAILED


def _overrides(args: argparse.Namespace) -> list[str]:
    """``--set`` with what ``--root`` and ``--checkpoint`` stand for; what is set by its key wins."""
    from lingbot_eval.resources import SHIPPED
    from lingbot_eval.runs.experiment import settings_document

    words = [] if args.root is None else [f"datasets.0.root={json.dumps(args.root)}"]
    if args.checkpoint is not None and args.checkpoint != SHIPPED:
        document, _ = settings_document(args.experiment, [*words, *args.overrides])
        for number, method in enumerate(document.get("methods", ())):
            if isinstance(method, dict) and method.get("kind") == "lingbot":
                words.append(f"methods.{number}.model.checkpoint={json.dumps(args.checkpoint)}")
                words.append(f"methods.{number}.model.config=full")
        # The size of a file that is made for the small weights is not that of the others.
        words += [f"datasets.{number}.size=null" for number, _ in enumerate(document.get("datasets", ()))]
    elif args.checkpoint is not None:
        words.append(f"methods.0.model={{config: ci, checkpoint: {SHIPPED}}}")
    return [*words, *args.overrides]


def _announce(progress: Progress, plan: Plan) -> None:
    """The plan, and what may be wrong with it, before anything is written."""
    from lingbot_eval.cli.run_check import check_units, scene_notes, warning_lines

    checks = check_units(plan)
    if not progress.quiet:
        _print_plan(plan)
    for warning in warning_lines(checks):
        output.note(warning)
    spread, timed = progress.parallel, any(method.needs_images for method in plan.experiment.methods)
    if spread is not None and spread.workers > 1 and timed and not spread.share_host:
        progress.say(
            "timed units run one at a time on a host; --share-host lets them run together, and marks their times"
        )
    for note in scene_notes(plan):
        progress.say(note)


def headline(measurements: Sequence[Measurement]) -> str:
    """The few numbers that say how a unit went, or the reason where there is none."""
    from lingbot_eval.declarations import declarations

    found = {(m.family, m.name, m.variant): m for m in measurements}
    parts = []
    for family, declared in declarations():
        measurement = found.get((family, declared.name, declared.variant or ""))
        if measurement is None or not declared.line:
            continue
        if measurement.value is None:
            parts.append(f"{declared.line}: {measurement.reason}")
        else:
            unit = "" if measurement.unit == "1" else f" {measurement.unit}"
            parts.append(f"{declared.line} {measurement.value:.4g}{unit}")
    return ", ".join(parts)


def _command(args: argparse.Namespace) -> str:
    """The command line that repeats this run, with the environment variables that the experiment asks for."""
    from lingbot_eval.runs.experiment import repeated

    words = ["lingbot-eval", "run", args.experiment]
    words += [
        word
        for name in ("root", "checkpoint", "fit")
        if (given := getattr(args, name))
        for word in (f"--{name}", given)
    ]
    words += study_words(args)
    words += ["--allow-commands"] if args.allow_commands else []
    return repeated(words, args.experiment, args.overrides)


def _print_dry_run(plan: Plan, checks: Sequence[UnitCheck], fits: Mapping[str, Fit], args: argparse.Namespace) -> None:
    from lingbot_eval.cli.run_check import checks_data, fit_data, print_checks, print_fit, scene_notes, warning_lines

    notes = scene_notes(plan)
    if not args.json:
        _print_plan(plan)
        for at, each in fits.items():
            print_fit(at, each)
        print_checks(checks)
        for note in notes:
            output.line(f"note: {note}")
        return
    output.as_json(
        {
            "name": plan.experiment.name,
            "key": plan.key,
            "units": [list(unit.names) for unit in plan.units],
            "weights": plan.weights,
            "commands": plan.commands,
            "predicted": checks_data(checks),
            "fit": {at: fit_data(each) for at, each in fits.items()},
            "warnings": warning_lines(checks),
            "notes": list(notes),
        }
    )


def _print_plan(plan: Plan) -> None:
    count = len(plan.units)
    output.line(f"{plan.experiment.name}: {count} unit{'s' * (count != 1)}, key {plan.key[:12]}")
    for dataset, scene, method in (unit.names for unit in plan.units):
        weights = plan.weights.get(method)
        output.line(f"  {dataset}/{scene} with {method}{f' ({weights})' if weights else ''}")
    for method, line in plan.commands.items():
        output.line(f"  command of {method} (runs with --allow-commands): {line}")


def _document(outcome: Outcome, done: Run, report: list[Path] | None) -> dict[str, Any]:
    return {
        "run": str(outcome.path),
        "key": outcome.record.key,
        "status": outcome.record.status,
        "done_before": outcome.skipped,
        "units": [unit.record.model_dump(mode="json") for unit in done.results.units],
        "left_out": list(done.results.left_out),
        "report": None if report is None else [str(path) for path in report],
    }


def _print_summary(outcome: Outcome, done: Run) -> None:
    from lingbot_eval.stored.records import is_untrained

    output.line()
    untrained = any(is_untrained(label) for label in outcome.record.weights.values())
    output.line(f"Results{' (untrained weights: the numbers say nothing of the method)' if untrained else ''}")
    for unit in done.results.units:
        record = unit.record
        output.line(f"  {record.dataset}/{record.scene} with {record.method}")
        output.line(f"    {_result(record)}")
        for note in record.notes:
            output.line(f"    note: {note}")
    output.line()
    output.line(f"{outcome.record.status}: {outcome.done} done, {outcome.skipped} done before, {outcome.failed} failed")
    output.line(f"run: {outcome.path}")


def _weight_notes(done: Run, weights: Mapping[str, str]) -> list[str]:
    """What loading each method's weights left out or changed, once a method; one without weights has none."""
    records = [unit.record for unit in done.results.units if unit.record.method in weights]
    found = [(record.method, record.method_facts.get("notes") or ()) for record in records]
    return list(dict.fromkeys(f"note: weights of {method}: {text}" for method, notes in found for text in notes))


def _result(record: UnitRecord) -> str:
    if record.status == "ok":
        return headline(record.measurements)
    where = f" at frame {record.failed_at_frame}" if record.failed_at_frame is not None else ""
    return f"FAILED ({record.stage}{where}): {record.reason}"


# What a study has, too


def add_study_options(parser: argparse.ArgumentParser, example: str) -> None:
    """``--set``, ``--out`` and how units are spread; example: an override worth showing."""
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY.PATH=VALUE",
        action="append",
        default=[],
        help=f"override a setting, e.g. {example} (may be given again)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="do units in so many processes of this machine, one a GPU where there are several; the same command may"
        " run several times, on other hosts, too, that share the folder",
    )
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="do the I-th of N shares (from 1), as one task of a job array",
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="have the workers of a Dask cluster do the units")
    parser.add_argument(
        "--share-host",
        action="store_true",
        help="with one of these: let timed units run beside others; their times are marked, and no gate takes them",
    )
    parser.add_argument("--out", type=Path, default=RUNS, metavar="DIR", help=f"where run directories go ({RUNS})")


def study_words(args: argparse.Namespace) -> list[str]:
    """The words that give these options again; what is as it is without them is left out."""
    words = [word for override in args.overrides for word in ("--set", override)]
    words += [word for plugin in args.plugin for word in ("--plugin", plugin)]
    return words if args.out == RUNS else [*words, "--out", str(args.out)]


def parallel_of(args: argparse.Namespace) -> Parallel | None:
    """How the options spread the units; None for one after the other in this process. Raises ConfigError."""
    from lingbot_eval.runs.execute import Parallel

    if args.workers is None and args.shard is None and args.scheduler is None:
        if args.share_host:
            raise ConfigError("--share-host has no meaning without --workers, --shard or --scheduler")
        return None
    shard = None
    if args.shard is not None:
        words = args.shard.split("/")
        if len(words) != 2 or not all(word.isascii() and word.isdecimal() for word in words):
            raise ConfigError(f"--shard: expected I/N such as 1/8, found {args.shard!r}")
        shard = int(words[0]), int(words[1])
    return Parallel(1 if args.workers is None else args.workers, shard, args.scheduler, args.share_host)
