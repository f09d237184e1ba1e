"""The verdict as Markdown for a pull request (which also reads well in a terminal) and as a JSON document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lingbot_eval.gating.judge import JUDGED, Finding, Verdict, counts
from lingbot_eval.gating.sides import FAMILIES
from lingbot_eval.gating.tolerances import Status
from lingbot_eval.tables import Table, columns, markdown_text, quantity

WORDS: dict[Status, str] = {
    "held": "held",
    "better": "better",
    "regression": "REGRESSION",
    "incomparable": "could not be judged",
    "new": "new",
    "shown": "not judged",
}
EXIT_WORDS = {0: "held", 1: "regression", 2: "could not be judged"}
_MOST_NAMES = 6
_EXAMPLE_ROWS = 40


def markdown(verdict: Verdict) -> str:
    """Headline, verdict by family, regressions, what could not be judged with its reasons, improvements, notes."""
    lines = [
        f"## Gate: {EXIT_WORDS[verdict.exit_code]}",
        "",
        f"Run {markdown_text(verdict.run)} against baseline {markdown_text(verdict.baseline)}.",
        "",
        _families(verdict).markdown(),
    ]
    for status, title in (("regression", "Regressions"), ("better", "Better than the baseline")):
        found = [finding for finding in verdict.findings if finding.status == status]
        if found:
            lines.append(_table(title, found).markdown())
            if len(found) > _EXAMPLE_ROWS:
                lines += [f"… and {len(found) - _EXAMPLE_ROWS} more; `--json` has all of them.", ""]
    lines += _grouped("Could not be judged", (f for f in verdict.findings if f.status == "incomparable"))
    lines += _grouped("New", (f for f in verdict.findings if f.status == "new"))
    if any(finding.status == "better" for finding in verdict.findings):
        lines += ["An improvement becomes the new standard with `--update --reason …`.", ""]
    if verdict.notes:
        lines += ["### Notes", "", *(f"- {markdown_text(note)}" for note in verdict.notes), ""]
    return "\n".join(lines)


def document(verdict: Verdict) -> dict[str, Any]:
    """The verdict as plain JSON values."""
    return {
        "verdict": EXIT_WORDS[verdict.exit_code],
        "exit_code": verdict.exit_code,
        "run": verdict.run,
        "baseline": verdict.baseline,
        "required": list(verdict.required),
        "families": {family: verdict.of(family) for family in FAMILIES},
        "findings": [
            {
                "dataset": finding.names[0],
                "scene": finding.names[1],
                "method": finding.names[2],
                "family": finding.family,
                "metric": finding.metric,
                "unit": finding.unit,
                "status": finding.status,
                "baseline": finding.baseline,
                "run": finding.run,
                "reason": finding.reason,
            }
            for finding in verdict.findings
        ],
        "notes": list(verdict.notes),
    }


def _families(verdict: Verdict) -> Table:
    rows = []
    for family in FAMILIES:
        found = counts(finding for finding in verdict.findings if finding.family == family)
        rows.append(
            (
                family,
                WORDS[verdict.of(family)],
                "yes" if family in verdict.required else "no",
                *(str(found.get(status, 0)) for status in (*JUDGED, "new", "shown")),
            )
        )
    header = ("family", "verdict", "decides", *(WORDS[status].lower() for status in (*JUDGED, "new", "shown")))
    return Table("Verdicts", columns(header, left=3), rows)


def _table(title: str, findings: Sequence[Finding]) -> Table:
    rows = [
        (
            finding.scene,
            finding.metric,
            quantity(finding.baseline, finding.unit),
            quantity(finding.run, finding.unit),
            "" if finding.change is None else f"{finding.change:+.2%}",
            finding.reason,
        )
        for finding in findings[:_EXAMPLE_ROWS]
    ]
    return Table(title, columns(("scene", "metric", "baseline", "run", "change", "why"), left=2), rows)


def _grouped(title: str, findings: Iterable[Finding]) -> list[str]:
    """One line a reason and scene: other hardware makes every time of a scene incomparable, which is one fact."""
    groups: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        groups.setdefault((finding.scene, finding.reason), []).append(finding.metric)
    if not groups:
        return []
    lines = [f"### {title}", ""]
    for (scene, reason), metrics in groups.items():
        more = f" and {len(metrics) - _MOST_NAMES} more" if len(metrics) > _MOST_NAMES else ""
        names = ", ".join(metrics[:_MOST_NAMES]) + more
        lines.append(f"- {markdown_text(scene)}: {markdown_text(names)}: {markdown_text(reason)}")
    return [*lines, ""]
