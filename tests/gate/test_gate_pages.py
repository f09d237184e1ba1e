"""What the gate writes: JUnit that CI reads, Markdown for pull requests, JSON; names from elsewhere stay text."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree as Xml

import pytest

from lingbot_eval.gating.judge import Finding, Status, Verdict, default_tolerances, judge
from lingbot_eval.gating.sides import FAMILIES, Family, Meaning, Side
from lingbot_eval.gating.summary import document, junit_xml, markdown
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


def test_a_message_says_what_it_is_and_both_numbers() -> None:
    (regression,) = [case for case in suites(verdict())["accuracy"] if case.get("name") == ATE]
    (failed,) = [case for case in suites(verdict())["memory"] if case.get("name") == "scene"]
    for case, words in (
        (regression, "REGRESSION: baseline 0.5, run 0.6 m; may be worse by 1 %"),
        (failed, "REGRESSION: <b>crash</b> & ?"),
    ):
        assert case.findall("failure")[0].get("message") == words
    (shown,) = [case for case in suites(verdict(("memory",)))["accuracy"] if case.get("name") == ATE]
    assert shown.findall("skipped")[0].get("message", "").startswith("REGRESSION: baseline 0.5, run 0.6 m")
    # A family of which there is nothing, and which nobody asked for, is not there at all.
    nothing = judge(side({NAMES: unit({ATE: 1.0})}), side({NAMES: unit({ATE: 1.0})}), default_tolerances())
    assert list(suites(nothing)) == ["accuracy"]


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
    assert markdown(judge(side(), side({}), default_tolerances())).startswith("## Gate: could not be judged\n")


def test_the_page_shows_forty_rows_and_six_names_of_many() -> None:
    """And counts the rest; the JSON has all."""

    def many(count: int, factor: float, **changes: Any) -> Side:
        values = {f"trajectory/made_up_{number:02}": factor for number in range(count)}
        meanings = {metric: Meaning("m", "c", "lower") for metric in values}
        return side({NAMES: unit(values, meanings=meanings, rounds={}), HOSTILE: unit(rounds={})}, **changes)

    def lines(count: int, factor: float, **changes: Any) -> list[str]:
        return markdown(judge(many(count, 1.0), many(count, factor, **changes), default_tolerances())).splitlines()

    for factor in (2.0, 0.5):
        for count, more in ((40, []), (42, ["… and 2 more; `--json` has all of them."])):
            page = lines(count, factor)
            assert [line for line in page if line.startswith("…")] == more
            assert sum(line.startswith("| tum/desk/lingbot") for line in page) == 40
    other = MACHINE | {"torch": MACHINE["torch"] | {"float32_matmul_precision": "high"}}
    for count, more in ((6, ""), (8, " and 2 more")):
        (line,) = [line for line in lines(count, 1.0, environment=other) if line.startswith("- tum/desk/lingbot: ")]
        names = ", ".join(f"trajectory/made_up_{number:02}" for number in range(6))
        assert line.startswith(f"- tum/desk/lingbot: {names}{more}: different arithmetic")


def test_the_page_has_a_line_for_what_is_new_and_every_note() -> None:
    run = side({NAMES: unit(VALUES | {ATE: 0.4, "depth/abs_rel/lstsq": 0.1}), HOSTILE: unit()}, problems=("one", "two"))
    page = markdown(judge(side(), run, default_tolerances())).splitlines()
    new = page[page.index("### New") + 2 :][:2]
    assert new[0] == "- tum/desk/lingbot: depth/abs_rel/lstsq: not in the baseline"
    assert new[1].startswith("- out door/")
    assert page[page.index("### Notes") + 2 :] == ["- one", "- two"]
    improved = "An improvement becomes the new standard with `--update --reason …`."
    assert improved in page
    assert improved not in markdown(judge(side(), side(), default_tolerances())).splitlines()
    decides = {
        line.split("|")[1].strip(): line.split("|")[3].strip()
        for line in markdown(verdict(("speed",))).splitlines()
        if line.startswith(("| acc", "| spe", "| mem"))
    }
    assert decides == {"accuracy": "no", "speed": "yes", "memory": "no"}


def test_the_document_is_plain_json() -> None:
    found = json.loads(json.dumps(document(verdict()), allow_nan=False))
    assert (found["verdict"], found["exit_code"]) == ("regression", 1)
    assert found["families"] == {"accuracy": "regression", "speed": "regression", "memory": "regression"}
    assert len(found["findings"]) == len(verdict().findings)
    assert (found["run"], found["baseline"], found["required"]) == ("runs/<x>", "made up", list(FAMILIES))
    assert document(verdict(("speed", "memory")))["required"] == ["speed", "memory"]
    assert found["notes"] == list(verdict().notes)
    (worse,) = [each for each in found["findings"] if each["metric"] == ATE]
    assert worse == {
        **dict(zip(("dataset", "scene", "method"), NAMES, strict=True)),
        "family": "accuracy",
        "metric": ATE,
        "unit": "m",
        "status": "regression",
        "baseline": 0.5,
        "run": 0.6,
        "reason": "may be worse by 1 %",
    }


def found(
    metric: str,
    status: Status,
    baseline: float | None,
    run: float | None,
    reason: str = "why",
    unit_of_it: str = "m",
    scene: str = "desk",
) -> Finding:
    family: Family = "memory" if metric.startswith("memory") else "accuracy"
    return Finding(("tum", scene, "lingbot"), family, metric, unit_of_it, status, baseline, run, reason)


MADE_UP = Verdict(
    "runs/now",
    "before.yaml",
    (
        found("trajectory/a", "regression", 0.5, 0.6, "may be worse by 1 %"),
        found("trajectory/b", "better", 0.5, 0.4, "may be worse by 2 %"),
        found("auc/c", "held", 60.0, 61.0, unit_of_it="%"),
        found("scene", "incomparable", None, None, "there is no result", "", "floor"),
        found("depth/d", "new", None, 0.25, "not in the baseline", "1"),
        found("depth/e", "shown", 0.0, 2.0, "not judged", "1"),
        found("depth/f", "shown", 3.0, None, "not judged", "1"),
        found("memory/g", "regression", 0.0, 24.0, "may be worse by 0.1 %", "MiB"),
        found("memory/h", "held", 900.0, 901.0, unit_of_it="MiB"),
        found("memory/i", "incomparable", 900.0, 901.0, "different hardware: x", "MiB"),
        found("memory/j", "incomparable", 900.0, 901.0, "different hardware: x", "MiB"),
    ),
    ("accuracy", "speed"),
    ("a note", "another"),
)
"""Every status, two families that decide, of one of which there is nothing."""
PAGE = [
    "## Gate: regression",
    "Run runs/now against baseline before.yaml.",
    "### Verdicts",
    "| family | verdict | decides | held | better | regression | could not be judged | new | not judged |",
    "| accuracy | REGRESSION | yes | 1 | 1 | 1 | 1 | 1 | 2 |",
    "| speed | not judged | yes | 0 | 0 | 0 | 0 | 0 | 0 |",
    "| memory | REGRESSION | no | 1 | 0 | 1 | 2 | 0 | 0 |",
    "### Regressions",
    "| scene | metric | baseline | run | change | why |",
    "| tum/desk/lingbot | trajectory/a | 0.5000 m | 0.6000 m | +20.00% | may be worse by 1 % |",
    "| tum/desk/lingbot | memory/g | 0 MiB | 24.00 MiB | | may be worse by 0.1 % |",
    "### Better than the baseline",
    "| scene | metric | baseline | run | change | why |",
    "| tum/desk/lingbot | trajectory/b | 0.5000 m | 0.4000 m | -20.00% | may be worse by 2 % |",
    "### Could not be judged",
    "- tum/floor/lingbot: scene: there is no result",
    "- tum/desk/lingbot: memory/i, memory/j: different hardware: x",
    "### New",
    "- tum/desk/lingbot: depth/d: not in the baseline",
    "An improvement becomes the new standard with `--update --reason …`.",
    "### Notes",
    "- a note",
    "- another",
]


def test_every_line_of_the_page() -> None:
    lines = [re.sub(" +", " ", line) for line in markdown(MADE_UP).splitlines()]
    assert [line for line in lines if line and not line.startswith("| -")] == PAGE


def test_every_case_of_the_file_for_ci() -> None:
    text = junit_xml(MADE_UP)
    assert text.startswith('<?xml version="1.0" encoding="utf-8"?>\n<testsuites name="lingbot-eval gate">\n')
    assert text.endswith("</testsuites>\n")
    root = Xml.fromstring(text)
    assert (root.tag, root.get("name")) == ("testsuites", "lingbot-eval gate")
    counts = ("name", "tests", "failures", "errors", "skipped")
    assert [tuple(suite.get(count) for count in counts) for suite in root] == [
        ("accuracy", "7", "1", "1", "3"),
        ("speed", "1", "0", "1", "0"),
        ("memory", "4", "0", "0", "3"),
    ]
    cases = [
        (case.get("classname"), case.get("name"), case.get("time"), *((tag.tag, tag.get("message")) for tag in case))
        for suite in root
        for case in suite
    ]
    desk = "tum.desk.lingbot"
    other = "could not be judged: baseline 900.0, run 901.0 MiB; different hardware: x"
    assert cases == [
        (
            f"accuracy.{desk}",
            "trajectory/a",
            "0",
            ("failure", "REGRESSION: baseline 0.5, run 0.6 m; may be worse by 1 %"),
        ),
        (f"accuracy.{desk}", "trajectory/b", "0"),
        (f"accuracy.{desk}", "auc/c", "0"),
        ("accuracy.tum.floor.lingbot", "scene", "0", ("error", "could not be judged: there is no result")),
        (f"accuracy.{desk}", "depth/d", "0", ("skipped", "new: baseline None, run 0.25 1; not in the baseline")),
        (f"accuracy.{desk}", "depth/e", "0", ("skipped", "not judged: baseline 0.0, run 2.0 1; not judged")),
        (f"accuracy.{desk}", "depth/f", "0", ("skipped", "not judged: baseline 3.0, run None 1; not judged")),
        (
            *("speed.speed.any.any", "verdict", "0"),
            ("error", "could not be judged: nothing of speed is in the baseline"),
        ),
        (
            *(f"memory.{desk}", "memory/g", "0"),
            ("skipped", "REGRESSION: baseline 0.0, run 24.0 MiB; may be worse by 0.1 %"),
        ),
        (f"memory.{desk}", "memory/h", "0"),
        (f"memory.{desk}", "memory/i", "0", ("skipped", other)),
        (f"memory.{desk}", "memory/j", "0", ("skipped", other)),
    ]
