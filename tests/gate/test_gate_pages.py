"""What the gate writes: JUnit that CI reads, Markdown for pull requests, JSON; names from elsewhere stay text."""

from __future__ import annotations

import json
from xml.etree import ElementTree as Xml

import pytest

from lingbot_eval.gating.judge import Verdict, judge
from lingbot_eval.gating.junit import junit_xml
from lingbot_eval.gating.sides import FAMILIES, Family
from lingbot_eval.gating.summary import document, markdown
from lingbot_eval.gating.tolerances import default_tolerances
from tests.gate.sides import ATE, LATENCY, MACHINE, NAMES, VALUES, rounds, side, unit

HOSTILE = ("out door", "<script>alert(1)</script> & \x00\x1b[31m \"|'", "a]]>b")


def verdict(required: tuple[Family, ...] | None = None) -> Verdict:
    """One regression of accuracy, speed on another machine, a hostile scene that failed."""
    units = {NAMES: unit(rounds={LATENCY: rounds(5, 0)}), HOSTILE: unit()}
    worse = {NAMES: unit(VALUES | {ATE: 0.6}), HOSTILE: unit({}, failure="<b>crash</b> & \ud800")}
    run = side(worse, environment=MACHINE | {"cpu_model": "<i>other</i>"}, name="runs/<x>")
    return judge(side(units), run, default_tolerances(), required)


def suites(found: Verdict) -> dict[str, Xml.Element]:
    return {suite.get("name", ""): suite for suite in Xml.fromstring(junit_xml(found))}


def test_one_case_a_metric_and_scene() -> None:
    found = verdict()
    cases = [case for suite in suites(found).values() for case in suite]
    assert len(cases) == len(found.findings)
    assert len({(case.get("classname"), case.get("name")) for case in cases}) == len(cases)
    for suite in suites(found).values():
        assert int(suite.get("tests", "")) == len(suite)
        for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(name, "")) == len(suite.findall(f"testcase/{tag}"))


def test_regressions_fail_and_what_cannot_be_judged_is_an_error() -> None:
    accuracy, speed = (suites(verdict())[family] for family in ("accuracy", "speed"))
    assert [case.get("name") for case in accuracy if case.find("failure") is not None] == [ATE, "scene"]
    assert [case.get("name") for case in speed if case.find("error") is not None] == [LATENCY]
    message = accuracy.findall("testcase/failure")[0].get("message", "")
    assert "0.5" in message
    assert "0.6 m" in message


@pytest.mark.parametrize("required", [("accuracy",), ("speed",), ("memory",), FAMILIES, None])
def test_the_file_is_red_exactly_when_the_gate_is(required: tuple[Family, ...] | None) -> None:
    for found in (verdict(required), judge(side(), side(), default_tolerances(), required)):
        red = sum(int(suite.get("failures", "")) + int(suite.get("errors", "")) for suite in suites(found).values())
        assert (red > 0) == (found.exit_code != 0)


def test_a_required_family_of_which_nothing_is_judged_is_red() -> None:
    found = judge(side({NAMES: unit({ATE: 1.0})}), side({NAMES: unit({ATE: 1.0})}), default_tolerances(), ["speed"])
    assert found.exit_code == 2
    assert suites(found)["speed"].get("errors") == "1"
    assert judge(side({}), side({}), default_tolerances()).exit_code == 2, "what judged nothing has not held"


def test_names_stay_text() -> None:
    text = junit_xml(verdict())
    assert "<script>" not in text
    assert "<b>" not in text
    page = markdown(verdict())
    assert "<script>" not in page
    assert "<b>" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page + text
    # Through the parser the name is itself again, less what XML cannot carry.
    (case,) = [each for each in suites(verdict())["accuracy"] if each.get("name") == "scene"]
    assert "<script>alert(1)</script> & [31m" in case.get("classname", "")


def test_the_page_says_the_verdict_first_and_groups_reasons() -> None:
    page = markdown(verdict())
    assert page.startswith("## Gate: regression\n")
    assert "+20.00%" in page
    assert page.count("different hardware") == 1
    assert markdown(judge(side(), side(), default_tolerances())).startswith("## Gate: held\n")


def test_the_document_is_plain_json() -> None:
    found = json.loads(json.dumps(document(verdict()), allow_nan=False))
    assert (found["verdict"], found["exit_code"]) == ("regression", 1)
    assert found["families"] == {"accuracy": "regression", "speed": "regression", "memory": "regression"}
    assert len(found["findings"]) == len(verdict().findings)
