"""The verdict as Markdown for a pull request (which also reads well in a terminal), as a JSON document, as JUnit XML.

JUnit XML is shown by every CI system: one test case a metric and scene, one suite a family. A regression is a
``failure``. What could not be judged is an ``error``: CI systems count errors as red, as the exit code 2 is, where
``skipped`` would look as if all were well. In a family that does not decide (``--require``) both are ``skipped`` with
their reason, so the file is red exactly when the gate is. Metrics that are only shown, and new ones, are skipped as
well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree import ElementTree as Xml

from lingbot_eval.gating.judge import JUDGED, Finding, Status, Verdict
from lingbot_eval.gating.sides import FAMILIES, Family
from lingbot_eval.tables import Table, columns, markdown_text, plain, quantity

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
        found = Counter(finding.status for finding in verdict.findings if finding.family == family)
        rows.append(
            (
                family,
                WORDS[verdict.of(family)],
                "yes" if family in verdict.required else "no",
                *(str(found[status]) for status in (*JUDGED, "new", "shown")),
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


def junit_xml(verdict: Verdict) -> str:
    """The document. Text from elsewhere is escaped, and characters that XML cannot carry are left out."""
    root = Xml.Element("testsuites", name="lingbot-eval gate")
    for family in FAMILIES:
        found = [finding for finding in verdict.findings if finding.family == family]
        if not found and family in verdict.required:
            found = [_nothing(family)]
        if found:
            root.append(_suite(family, found, decides=family in verdict.required))
    Xml.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + Xml.tostring(root, encoding="unicode") + "\n"


def _suite(family: Family, findings: list[Finding], *, decides: bool) -> Xml.Element:
    suite = Xml.Element("testsuite", name=family)
    tags = []
    for finding in findings:
        case = Xml.SubElement(
            suite,
            "testcase",
            classname=_text(f"{family}.{'.'.join(finding.names)}"),
            name=_text(finding.metric),
            time="0",
        )
        tag = _tag(finding, decides=decides)
        tags.append(tag)
        if tag is not None:
            Xml.SubElement(case, tag, message=_text(_message(finding)))
    suite.set("tests", str(len(findings)))
    for tag, name in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(name, str(tags.count(tag)))
    return suite


def _tag(finding: Finding, *, decides: bool) -> str | None:
    if finding.status in ("held", "better"):
        return None
    if decides and finding.status == "regression":
        return "failure"
    if decides and finding.status == "incomparable":
        return "error"
    return "skipped"


def _message(finding: Finding) -> str:
    numbers = ""
    if finding.baseline is not None or finding.run is not None:
        numbers = f"baseline {finding.baseline!r}, run {finding.run!r} {finding.unit}; "
    return f"{WORDS[finding.status]}: {numbers}{finding.reason}"


def _nothing(family: Family) -> Finding:
    """A family that must decide and of which nothing is judged."""
    reason = f"nothing of {family} is in the baseline"
    return Finding((family, "any", "any"), family, "verdict", "", "incomparable", None, None, reason)


def _text(text: str) -> str:
    return plain(text.encode("utf-8", "replace").decode("utf-8"))
