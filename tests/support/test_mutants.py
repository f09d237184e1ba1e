"""The driver that plants faults: one change at a time, in a copy, and what it says of the tests is true."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

from tests.support import mutants
from tests.support.mutants import Fault, campaign, chosen, copy_tree, faults_of, listed, main

SOURCE = '''\
"""A docstring that says 3 < 4, and not more."""

import numpy as np


def score(truth: list[float], found: list[float], limit: float = 2.5) -> tuple[str, float]:
    """µ comes before the change: columns are counted in bytes, text in characters."""
    if not found or len(found) < 3 and limit != 1000:
        raise ValueError("expected 3, found 4")
    label = "µs" if limit > 7 else "ms"
    print("left", "right", sep="")
    return label, float(np.mean(np.subtract(truth, found))) * 100 + {"a": 1, "b": True}["a"]
'''

# Kind -> what one line of SOURCE becomes.
EXPECTED = {
    "boundary": "len(found) <= 3 and limit",
    "comparison": "and limit == 1000:",
    "and for or": "if not found and len(found)",
    "not removed": "if found or len(found)",
    "one more": "len(found) < 4 and",
    "one less": "len(found) < 2 and",
    "another constant": "limit: float = 5.0)",
    "unit": "limit != 1:",
    "mean for median, min for max": "np.median(np.subtract",
    "swapped arguments": "np.subtract(found, truth)",
    "swapped elements": "return float(np.mean(np.subtract(truth, found))) * 100 + {",
    "swapped keys": '{"b": 1, "a": True}',
    "swapped branches": 'label = "ms" if limit > 7 else "µs"',
    "true for false": '"b": False}',
    "arithmetic": "/ 100 +",
    "call left out": "    pass\n    return",
    "argument not handed on": 'print("left", "right", )',
}


@pytest.mark.parametrize(("kind", "line"), EXPECTED.items())
def test_each_kind_changes_one_place(kind: str, line: str) -> None:
    planted = {fault.planted(SOURCE): fault for fault in faults_of("p", SOURCE) if fault.kind == kind}
    (text,) = [text for text in planted if line in text]
    fault = planted[text]
    assert text[: fault.start] == SOURCE[: fault.start]
    assert text[fault.start + len(fault.text) :] == SOURCE[fault.end :]
    ast.parse(text)


def test_nothing_is_planted_where_nobody_looks() -> None:
    for fault in faults_of("p", SOURCE):
        text = fault.planted(SOURCE)
        for untouched in ("A docstring that says 3 < 4, and not more.", "import numpy as np", "expected 3, found 4"):
            assert untouched in text
        assert "truth: list[float], found: list[float]" in text


def test_the_choice_is_of_all_kinds_and_repeats_itself() -> None:
    faults = faults_of("p", SOURCE)
    kinds = {fault.kind for fault in faults}
    taken = chosen(faults, len(kinds), 3, {"p": SOURCE})
    assert {fault.kind for fault in taken} == kinds
    assert chosen(faults, len(kinds), 3, {"p": SOURCE}) == taken != chosen(faults, len(kinds), 4, {"p": SOURCE})
    every = chosen(faults, 10_000, 0, {"p": SOURCE})
    assert len(set(every)) == len(every) > len(kinds)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of one room of two functions, of which its test looks at one; one file is not committed."""
    root = tmp_path_factory.mktemp("checkout")
    for name, text in {
        "lingbot_eval/__init__.py": "",
        "lingbot_eval/metrics/__init__.py": "",
        "lingbot_eval/metrics/two.py": "def seen(a):\n    return a < 3\n\n\ndef unseen(a):\n    return a < 4\n",
        "tests/metrics/test_two.py": (
            "from lingbot_eval.metrics.two import seen\n\n\n"
            "def test_seen():\n    assert [seen(2), seen(3)] == [True, False]\n"
        ),
        ".gitignore": "ignored\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    subprocess.run(["git", "-C", str(root), "add", "."], check=True)
    (root / "new.py").write_text("new = 1\n")
    (root / "ignored").write_text("")
    return root


def contents(root: Path) -> dict[str, bytes]:
    files = [file for file in root.rglob("*") if file.is_file() and ".git" not in file.parts]
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in files}


def test_the_copy_is_the_checkout_as_it_is_now(checkout: Path, tmp_path: Path) -> None:
    copy_tree(checkout, tmp_path)
    assert contents(tmp_path) == {name: data for name, data in contents(checkout).items() if name != "ignored"}


def test_a_campaign_tells_killed_from_survived_and_leaves_the_checkout_alone(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(checkout)
    assert main(["metrics", "--count", "2", "--workers", "2", "--seed", "1"], checkout) == 1
    assert contents(checkout) == before
    printed = capsys.readouterr().out
    path = "lingbot_eval/metrics/two.py"
    faults = chosen(faults_of(path, before[path].decode()), 2, 1, {path: before[path].decode()})
    assert {fault.start > before[path].index(b"unseen") for fault in faults} == {True, False}, "the seed picks one each"
    assert "killed by FAILED tests/metrics/test_two.py::test_seen" in printed
    assert printed.count("SURVIVED") == 1
    assert "metrics: 1 of 2 killed" in printed
    assert "-    return a < 4\n+    return" in printed
    assert "-    return a < 3" not in printed


def test_tests_that_fail_without_any_fault_end_the_campaign(checkout: Path, tmp_path: Path) -> None:
    copy_tree(checkout, tmp_path)
    (tmp_path / "tests/metrics/test_two.py").write_text("def test_no():\n    assert False\n")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    fault = Fault("lingbot_eval/metrics/two.py", "boundary", 0, 0, "")
    with pytest.raises(SystemExit, match=r"fail without any fault: FAILED tests/metrics/test_two\.py::test_no"):
        campaign(tmp_path, [fault])


def test_a_room_that_is_none_is_refused_with_those_there_are(checkout: Path) -> None:
    with pytest.raises(SystemExit, match="no room 'matrics'; there are: metrics"):
        main(["matrics"], checkout)


def test_those_written_by_hand_are_planted_where_they_say() -> None:
    """Whoever changes such a line plants the fault into what came of it, or takes it off the list."""
    faults, stale = listed(mutants.ROOT)
    assert not stale, "\n".join(stale)
    assert faults
    for fault in faults:
        source = (mutants.ROOT / fault.path).read_text(encoding="utf-8")
        ast.parse(fault.planted(source))
        assert fault.planted(source) != source
    assert {fault.room for fault in listed(mutants.ROOT, ["reports"])[0]} == {"reports"}


def test_a_line_that_is_gone_is_said(tmp_path: Path) -> None:
    faults, stale = listed(tmp_path)
    assert faults == ()
    assert all("expected one place that reads" in line and "found 0" in line for line in stale)
    assert stale
