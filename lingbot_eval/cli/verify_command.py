"""``lingbot-eval verify``: run the reference cases of a folder and print the verdicts."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lingbot_eval.cli import output
from lingbot_eval.errors import DataError
from lingbot_eval.streaming.settings import BACKENDS

VERDICTS = ("pass", "fail", "unsupported", "incomparable")

if TYPE_CHECKING:
    from lingbot_eval.verification.compare import Comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "folder", nargs="?", type=Path, metavar="DIR", help="cases.json and NAME.npz (default: the shipped small set)"
    )
    parser.add_argument("--case", action="append", default=[], metavar="NAME", help="only this case (may be repeated)")
    parser.add_argument("--backend", choices=BACKENDS, default="sdpa", help="where keys and values live")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--cache-precision", type=int, choices=(8,), help="keys and values in 8 bits")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N (default: cpu)")


def run(args: argparse.Namespace) -> int:
    """0 when every supported case holds, 1 when one fails."""
    from lingbot_eval.api import verify
    from lingbot_eval.model.build import choose_device

    device = choose_device(args.device)
    found = verify(
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
            output.line(_row(result))
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


def _row(result: Comparison) -> str:
    largest = "" if result.largest is None else f"{result.largest:.2e}"
    median = "" if result.median_relative is None else f"{result.median_relative:.2e}"
    reason = f" ({result.reason})" if result.reason else ""
    return f"{result.case:<24} {result.array:<22} {largest:>10} {median:>11}  {result.verdict}{reason}"
