"""The table of a measured step: each stage beside its floor."""

from __future__ import annotations

import pandas as pd

from benchmarks.stages.measure import StageTimes
from benchmarks.stages.rates import Rates
from benchmarks.stages.work import STAGES, Work
from lingbot_eval.tables import Align, markdown_grid

MILLI, GIGA = 1e3, 1e9


def floor_seconds(work: Work, rates: Rates) -> tuple[float, str]:
    """The longer of counted operations over the measured matrix rate and counted bytes over the copy rate."""
    computing = work.flops / rates.flops[work.arithmetic]
    moving = work.bytes / rates.copy_bytes
    return max((computing, "operations"), (moving, "bytes"))


def stage_table(times: StageTimes) -> pd.DataFrame:
    """One row a stage, then their sum; milliseconds, 10⁹ operations and bytes."""
    rows = []
    for name in STAGES:
        work = times.work[name]
        floor, bound = floor_seconds(work, times.rates)
        rows.append(
            {
                "stage": name,
                "measured_ms": MILLI * times.stages[name],
                "floor_ms": MILLI * floor,
                "floor_over_measured": floor / times.stages[name],
                "bound_by": bound,
                "gigaflops": work.flops / GIGA,
                "gigabytes": work.bytes / GIGA,
                "arithmetic": work.arithmetic,
            }
        )
    table = pd.DataFrame(rows)
    total = table[["measured_ms", "floor_ms", "gigaflops", "gigabytes"]].sum()
    last = {"stage": "sum", **total, "floor_over_measured": total["floor_ms"] / total["measured_ms"]}
    return pd.concat([table, pd.DataFrame([last])], ignore_index=True)


def markdown(times: StageTimes) -> str:
    """The table and the whole step, for a terminal and for docs/measurements.md."""
    rows = [["stage", "measured ms", "floor ms", "floor / measured", "bound by", "10⁹ operations", "GB"]]
    for row in stage_table(times).to_dict("records"):
        bound = row["bound_by"] if isinstance(row["bound_by"], str) else ""
        times_ms = [f"{row['measured_ms']:.2f}", f"{row['floor_ms']:.2f}", f"{row['floor_over_measured']:.0%}"]
        rows.append([row["stage"], *times_ms, bound, count(row["gigaflops"]), f"{row['gigabytes']:.3g}"])
    pass_ms = "not captured" if times.device is None else f"{MILLI * times.device:.2f} ms on the device"
    rates = ", ".join(f"{kind} {rate / 1e12:.3g} TFLOP/s" for kind, rate in times.rates.flops.items())
    aligns: list[Align] = ["left", "right", "right", "right", "right", "right", "right"]
    lines = [
        *markdown_grid(rows, aligns, padded=False),
        "",
        f"Whole step, heads side by side: {pass_ms}; waited for {MILLI * times.step:.2f} ms "
        f"({1 / times.step:.1f} frames/s); one after the other {MILLI * times.pace:.2f} ms ({1 / times.pace:.1f} "
        "frames/s).",
        f"Rates of this machine: {rates}, copy {times.rates.copy_bytes / 1e12:.3g} TB/s.",
    ]
    return "\n".join(lines)


def count(value: float) -> str:
    """Four digits, whole numbers from a thousand on: large counts have no exponent."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
