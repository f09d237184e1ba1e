"""``lingbot-eval scale STUDY``: speed, memory and error against the length of the stream."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingbot_eval.cli import output
from lingbot_eval.cli.run_command import add_study_options, parallel_of, study_words

if TYPE_CHECKING:
    from lingbot_eval.cli.run_check import UnitCheck
    from lingbot_eval.scaling.records import CaseRecord
    from lingbot_eval.scaling.settings import Case, Study

DONE, SOME_FAILED, BAD_INPUT = 0, 1, 2
STUDY = "scaling"


def scale_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.set_defaults(do=run)
    parser.add_argument(
        "study",
        nargs="?",
        default=STUDY,
        help=f"a study file (YAML), or the name of a shipped one ({STUDY}, scaling_full)",
    )
    add_study_options(parser, "defaults.frames=2000 or sweep.backend='[sdpa, paged]'")
    parser.add_argument(
        "--allow-commands",
        action="store_true",
        help="let a method of kind external run the command that the study names, as you, with your rights",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the cases and the memory they would take")


def run(args: argparse.Namespace) -> int:
    """0 all cases done; 1 some failed (memory, too), or the study's record was gone; 2 some failed on bad input."""
    from lingbot_eval.cli.progress import Progress
    from lingbot_eval.cli.run_check import checks_data, print_checks, warning_lines
    from lingbot_eval.scaling.execute import execute, in_order, write_scaling
    from lingbot_eval.scaling.page import growth_statement, remarks, tables, title
    from lingbot_eval.scaling.settings import load_study

    study = load_study(args.study, args.overrides)
    cases = in_order(study)
    checks = [_check(study, case) for case in cases]
    if args.dry_run:
        if args.json:
            output.as_json({"name": study.name, "predicted": checks_data(checks), "warnings": warning_lines(checks)})
        else:
            output.line(f"{study.name}: {len(cases)} case{'s' * (len(cases) != 1)}")
            if study.method is not None and study.method.runs_command is not None:
                output.line(f"command of {study.method.name} (runs with --allow-commands): {study.method.runs_command}")
            print_checks(checks)
        return DONE
    for warning in warning_lines(checks):
        output.note(warning)
    parallel = parallel_of(args)
    progress = Progress(quiet=args.json, parallel=parallel)
    progress.expect(len(cases))
    outcome = execute(study, args.out, _command(args), progress, parallel, allow_commands=args.allow_commands)
    for left in outcome.units.left_out:
        output.note(f"left out: {left.reason}")
    records = outcome.records
    files = () if outcome.pending else write_scaling(outcome.path)
    if args.json:
        output.as_json(_document(outcome.path, outcome.record.status, records, files))
    else:
        output.line(title(outcome.record))
        output.line()
        for table in tables(records):
            output.line(table.markdown())
        for record in records:
            output.line(f"{record.name}: {growth_statement(record)} a kept frame")
        missing = f"{outcome.pending} cases have no result yet: whoever ends last writes the page"
        output.line(f"written: {', '.join(str(file) for file in files)}" if files else missing)
    for line in remarks(records):
        output.note(f"note: {line}")
    if outcome.lost_record is not None:
        output.note(f"error: {outcome.lost_record}")
    if not outcome.failed:
        return DONE if outcome.lost_record is None else SOME_FAILED
    output.note(f"{outcome.failed} of {len(cases)} cases failed; the same command tries them again")
    return BAD_INPUT if outcome.bad_input else SOME_FAILED


def _check(study: Study, case: Case) -> UnitCheck:
    from lingbot_eval.cli.run_check import UnitCheck, predicted
    from lingbot_eval.errors import LingbotEvalError
    from lingbot_eval.scaling.execute import model_of

    if study.method is not None:
        return UnitCheck((study.name, case.name, study.method.name))
    names = (study.name, case.name, study.model.config)
    try:
        return predicted(names, model_of(study, case), case.size, case.frames)
    except LingbotEvalError as error:
        # The case itself will record it as its failure, and the others run.
        return UnitCheck(names, reason=str(error))


def _command(args: argparse.Namespace) -> str:
    from lingbot_eval.runs.experiment import repeated

    words = ["lingbot-eval", "scale", args.study]
    words += [*study_words(args), *(["--allow-commands"] if args.allow_commands else [])]
    return repeated(words, args.study, args.overrides)


def _document(path: Path, status: str, cases: tuple[CaseRecord, ...], files: tuple[Path, ...]) -> dict[str, Any]:
    return {
        "run": str(path),
        "status": status,
        "cases": [case.model_dump(mode="json") for case in cases],
        "files": [str(file) for file in files],
    }
