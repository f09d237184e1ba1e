"""``env``, ``schema``, ``completion``, ``verify``, ``external``: the machine and the tools around an evaluation."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingbot_eval.cli import output
from lingbot_eval.errors import DataError
from lingbot_eval.streaming.settings import BACKENDS

if TYPE_CHECKING:
    from lingbot_eval.verification.compare import Comparison
    from lingbot_eval.verification.wrapper import WrapperCheck

DONE, SOME_WRONG = 0, 1
VERDICTS = ("pass", "fail", "unsupported", "incomparable")
_SHOWN_LINES = 10  # of a wrapper's log


def env_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""
    parser.set_defaults(do=env)


def env(args: argparse.Namespace) -> int:
    """Print it."""
    from lingbot_eval.machine.environment import environment

    block = environment()
    if args.json:
        output.as_json(block)
        return 0
    rows = list(_env_rows(block))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        output.line(f"{name:{width}}  {value}")
    return 0


def _env_rows(block: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and their values, inner mappings and lists of mappings opened."""
    for name, value in block.items():
        if isinstance(value, Mapping) and value:
            yield from _env_rows(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
            for position, entry in enumerate(value):
                yield from _env_rows(entry, f"{prefix}{name}.{position}.")
        else:
            yield f"{prefix}{name}", "none" if value in ([], {}, None) else str(value)


def schema_arguments(parser: argparse.ArgumentParser) -> None:
    """What is described."""
    parser.set_defaults(do=schema)
    parser.add_argument(
        "what", nargs="?", choices=("experiment", "study", "card"), default="experiment", help="default: experiment"
    )


def schema(args: argparse.Namespace) -> int:
    """Print it; plugins that are loaded are in it."""
    from lingbot_eval.registry import load_plugins

    load_plugins()
    found: dict[str, Any]
    if args.what == "study":
        from lingbot_eval.scaling.settings import Study

        found = Study.model_json_schema()
    elif args.what == "card":
        from lingbot_eval.datasets.cards import Card

        found = Card.model_json_schema()
    else:
        from lingbot_eval.runs.experiment import Experiment

        found = Experiment.model_json_schema()
    # A schema is a document of another standard: it carries no version of ours.
    output.plain_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **found})
    return 0


def completion_arguments(parser: argparse.ArgumentParser) -> None:
    """The shell."""
    parser.set_defaults(do=completion)
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help='as in: eval "$(lingbot-eval completion bash)"')


def completion(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    from lingbot_eval.cli.main import build_parser

    output.line(shtab.complete(build_parser(), args.shell))
    return 0


def verify_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.set_defaults(do=verify)
    parser.add_argument(
        "folder", nargs="?", type=Path, metavar="DIR", help="cases.json and NAME.npz (default: the shipped small set)"
    )
    parser.add_argument("--case", action="append", default=[], metavar="NAME", help="only this case (may be repeated)")
    parser.add_argument("--backend", choices=BACKENDS, default="sdpa", help="where keys and values live")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--cache-precision", type=int, choices=(8,), help="keys and values in 8 bits")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N (default: cpu)")


def verify(args: argparse.Namespace) -> int:
    """0 when every supported case holds, 1 when one fails."""
    from lingbot_eval.api import verify as compared
    from lingbot_eval.model.build import choose_device

    device = choose_device(args.device)
    found = compared(
        args.folder,
        cases=args.case,
        backend=args.backend,
        dtype=args.dtype,
        cache_precision=args.cache_precision,
        device=str(device),
    )
    started = time.perf_counter()
    results: list[Comparison] = []
    if not args.json:
        cache = "" if args.cache_precision is None else f", keys and values in {args.cache_precision} bits"
        output.line(f"backend {args.backend}, {args.dtype}{cache}, {device}")
        output.line(f"{'case':<24} {'array':<22} {'largest':>10} {'median rel':>11}  verdict")
    for result in found:
        results.append(result)
        if not args.json:
            output.line(_verify_row(result))
    counts = {verdict: sum(r.verdict == verdict for r in results) for verdict in VERDICTS}
    if args.json:
        output.as_json(
            {"backend": args.backend, "dtype": args.dtype, "cache_precision": args.cache_precision,
             "device": str(device), "counts": counts, "results": [asdict(result) for result in results]}
        )  # fmt: skip
    else:
        passed = len({r.case for r in results}) - len({r.case for r in results if r.verdict != "pass"})
        output.line(
            f"{passed} cases hold ({counts['pass']} arrays), {counts['fail']} arrays failed, "
            f"{counts['unsupported']} cases not supported, {counts['incomparable']} not comparable; "
            f"{time.perf_counter() - started:.0f} s"
        )
    if not counts["pass"] + counts["fail"]:
        raise DataError("expected cases to compare, found none that could be; see the reasons above")
    return 1 if counts["fail"] else 0


def _verify_row(result: Comparison) -> str:
    largest = "" if result.largest is None else f"{result.largest:.2e}"
    median = "" if result.median_relative is None else f"{result.median_relative:.2e}"
    reason = f" ({result.reason})" if result.reason else ""
    return f"{result.case:<24} {result.array:<22} {largest:>10} {median:>11}  {result.verdict}{reason}"


def external_arguments(parser: argparse.ArgumentParser) -> None:
    """Sub-commands and their options."""
    parser.set_defaults(do=external)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check", help="run a wrapper on ten made-up frames and say what is wrong: poses, scale, times, messages"
    )
    check.add_argument(
        "words",
        metavar="COMMAND",
        nargs="+",
        help="program and arguments, as under 'command' of the experiment; put -- before it where it has options",
    )
    check.add_argument("--mode", choices=("pipe", "job"), help="only this way of talking to it (default: both)")
    check.add_argument(
        "--timeout", type=float, default=600, metavar="SECONDS", help="what it may take, loading included (600)"
    )
    check.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON document")


def external(args: argparse.Namespace) -> int:
    """0 nothing wrong, 1 problems; a program that is not there is bad input."""
    from lingbot_eval.api import check_wrapper

    checks = []
    for check in check_wrapper(args.words, mode=args.mode, timeout_s=args.timeout):
        checks.append(check)
        if not args.json:
            _print_check(check)
    if args.json:
        output.as_json({"command": args.words, "checks": [asdict(check) for check in checks]})
    return SOME_WRONG if any(check.problems for check in checks) else DONE


def _print_check(check: WrapperCheck) -> None:
    verdict = "PROBLEMS" if check.problems else "fine"
    output.line(f"{check.mode}: {verdict}: {check.poses} of {check.frames} frames have a pose")
    for problem in check.problems:
        output.line(f"  PROBLEM {problem}")
    for note in check.notes:
        output.line(f"          {note}")
    if check.problems and check.log:
        output.line("  its log ends:")
        for line in check.log[-_SHOWN_LINES:]:
            output.line(f"    {line}")
