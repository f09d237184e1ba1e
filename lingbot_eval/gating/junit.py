"""The verdict as JUnit XML, which every CI system shows: one test case a metric and scene, one suite a family.

A regression is a ``failure``. What could not be judged is an ``error``: CI systems count errors as red, as the exit
code 2 is, where ``skipped`` would look as if all were well. In a family that does not decide (``--require``) both are
``skipped`` with their reason, so the file is red exactly when the gate is. Metrics that are only shown, and new ones,
are skipped as well.
"""

from __future__ import annotations

from xml.etree import ElementTree as Xml

from lingbot_eval.gating.judge import Finding, Verdict
from lingbot_eval.gating.sides import FAMILIES, Family
from lingbot_eval.gating.summary import WORDS
from lingbot_eval.tables import plain


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
