"""Plants faults into a room, one at a time, and prints which of them the room's tests let pass: ``nox -s mutants``.

::

    nox -s mutants -- metrics                          # 20 faults, chosen by seed 0
    nox -s mutants -- reports gating --count 40 --seed 1
    nox -s mutants -- --listed                         # those written by hand, in planted_faults.toml
    nox -s mutants -- scaling --tests tests/scaling/test_growth.py

Why none of the tools that are there: the faults that hurt a harness are swapped ones (two labels, two columns, two
arguments, truth and prediction), a unit off by a thousand, a mean for a median, the last for the first. Neither mutmut
nor cosmic-ray has an operator for any of these. mutmut asks the whole suite first which test runs which function, which
takes as long as the suite; cosmic-ray writes its mutants over the checkout that somebody is working in. What is taken
over from both is the small change in the syntax tree, and the sentence that a survivor is a question, not a verdict:
some faults change nothing that anybody sees.

Every fault is planted into a copy of the tree, never into the checkout, and one at a time. The room's tests run until
the first fails. A fault that takes three times as long as the tests without any is killed as well.
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import difflib
import itertools
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "lingbot_eval"
LISTED = Path(__file__).with_name("planted_faults.toml")
ROOT = Path(__file__).parents[2]

# Tests beside those of the room's own folder that look at what the room does.
ALSO = {
    "metrics": ["tests/cli/test_score.py"],
    "files": ["tests/cli/test_score.py"],
    "geometry": ["tests/metrics", "tests/files"],
    "runs": ["tests/stored", "tests/cli/test_run.py", "tests/cli/test_run_check.py"],
    "stored": ["tests/runs/test_execute.py", "tests/runs/test_saved.py", "tests/cli/test_stored_results.py"],
    "gating": ["tests/gate", "tests/cli/test_gate.py", "tests/golden"],
    "comparison": ["tests/cli/test_compare.py"],
    "scaling": ["tests/cli/test_scale.py", "tests/golden"],
    "datasets": ["tests/cli/test_datasets.py"],
    "model": ["tests/streaming", "tests/verification"],
    "verification": ["tests/external/test_wrapper_check.py", "tests/cli"],
}
EVERYWHERE = ["tests/test_end_to_end.py"]
ROOMLESS = ["tests/test_settings_from_outside.py", "tests/datasets/test_resize.py", "tests/datasets/test_prefetch.py"]
ROOMLESS += ["tests/cli/test_main.py"]

_COMPARISONS: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
_ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
}
_NAMES = {
    "mean": "median",
    "fmean": "median",
    "nanmean": "nanmedian",
    "median": "mean",
    "nanmedian": "nanmean",
    "min": "max",
    "max": "min",
    "nanmin": "nanmax",
    "nanmax": "nanmin",
    "minimum": "maximum",
    "maximum": "minimum",
    "argmin": "argmax",
    "argmax": "argmin",
    "any": "all",
    "all": "any",
    "floor": "ceil",
    "ceil": "floor",
    "expm1": "exp",
    "sin": "cos",
    "cos": "sin",
}
# Keyword arguments that change a look, or how bytes become text: nothing that a value test should pin.
_LOOKS = {"alpha", "color", "colors", "encoding", "errors", "fontsize", "frameon", "linestyle", "linewidth", "loc"}
_LOOKS |= {
    "markersize",
    "markeredgewidth",
    "ncols",
    "pad",
    "zorder",
    "dpi",
    "labelsize",
    "cmap",
    "help",
    "metavar",
    "ha",
    "va",
    "sharex",
}
_LOOKS |= {"strict"}  # of zip: a guard against what the line before already rules out
# What one unit is of another: leaving it out, or taking the wrong one, is off by that much.
_UNITS = {1000, 1024, 1e6, 2**20, 1e9, 2**30, 60, 3600, 100}


@dataclass(frozen=True)
class Fault:
    """One change of one file. path: below the tree. start, end: characters of the source replaced by ``text``."""

    path: str
    kind: str
    start: int
    end: int
    text: str

    @property
    def room(self) -> str:
        """The room it lies in; "" for a module that lies beside the rooms."""
        parts = Path(self.path).parts
        return parts[1] if len(parts) > 2 else ""

    def planted(self, source: str) -> str:
        """The file with the fault in it."""
        return source[: self.start] + self.text + source[self.end :]

    def difference(self, source: str) -> str:
        """The lines that change, as in a patch."""
        before, after = source.splitlines(), self.planted(source).splitlines()
        lines = difflib.unified_diff(before, after, self.path, self.path, lineterm="", n=0)
        return "\n".join(line for line in lines if not line.startswith("---"))


@dataclass(frozen=True)
class Outcome:
    """What became of a fault. by: the test that failed, or how else it was killed; None when it survived."""

    fault: Fault
    by: str | None


def faults_of(path: str, source: str) -> tuple[Fault, ...]:
    """Every fault of the known kinds that a file can be given, in the order of the file; each changes one thing."""
    place = _Places(source)
    found: list[Fault] = []
    for node in _judged(ast.parse(source)):
        for kind, start, end, text in _changes(node, place, source):
            if text != source[start:end]:
                found.append(Fault(path, kind, start, end, text))
    return tuple(dict.fromkeys(sorted(found, key=lambda fault: (fault.start, fault.end, fault.text))))


def chosen(faults: Sequence[Fault], count: int, seed: int, sources: Mapping[str, str]) -> tuple[Fault, ...]:
    """``count`` of them, every kind as often as any other, as there are hundreds of constants for each median.

    sources: text by path. What leaves the file's meaning as it was, or no file of Python, is passed over.
    """
    generator = random.Random(seed)
    by_kind: dict[str, list[Fault]] = {}
    for fault in faults:
        by_kind.setdefault(fault.kind, []).append(fault)
    for members in by_kind.values():
        generator.shuffle(members)
    kinds = sorted(by_kind)
    generator.shuffle(kinds)
    taken: list[Fault] = []
    while kinds and len(taken) < count:
        for kind in tuple(kinds):
            while by_kind[kind] and len(taken) < count:
                fault = by_kind[kind].pop()
                if _is_another_program(sources[fault.path], fault.planted(sources[fault.path])):
                    taken.append(fault)
                    break
            if not by_kind[kind]:
                kinds.remove(kind)
    return tuple(taken)


def listed(root: Path, rooms: Sequence[str] = ()) -> tuple[tuple[Fault, ...], tuple[str, ...]]:
    """Faults written by hand, of ``rooms`` or of all, and a line for each whose place is no longer there."""
    faults, stale = [], []
    for entry in tomllib.loads(LISTED.read_text(encoding="utf-8"))["fault"]:
        path, old, what = entry["file"], entry["old"], entry["what"]
        file = root / path
        source = file.read_text(encoding="utf-8") if file.is_file() else ""
        start = source.find(old)
        fault = Fault(path, what, start, start + len(old), entry["new"])
        if rooms and fault.room not in rooms:
            continue
        if source.count(old) == 1:
            faults.append(fault)
        else:
            stale.append(f"{path}: {what}: expected one place that reads {old!r}, found {source.count(old)}")
    return tuple(faults), tuple(stale)


def copy_tree(root: Path, target: Path) -> None:
    """What git knows or would know of the checkout, as it is now, changes that are not committed included."""
    words = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)


def tests_of(room: str, tree: Path) -> list[str]:
    """Which tests look at a room: its own folder first, as they are the likeliest to fail."""
    own = [f"tests/{room}"] if room else ROOMLESS
    wanted = dict.fromkeys([*own, *ALSO.get(room, []), *EVERYWHERE])
    return [name for name in wanted if (tree / name).exists()]


def run_tests(tree: Path, tests: Sequence[str], limit_s: float) -> str | None:
    """None when all pass, else the test that failed first, or what else went wrong."""
    words = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=no", "-p", "no:randomly", "-p", "no:cacheprovider"]
    # One thread each: workers that wait for each other's threads would be taken for endless loops. No compiled files:
    # a mutant of the same size written in the same second would be passed over.
    env = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run([*words, *tests], cwd=tree, env=env, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return f"out of time after {limit_s:.0f} s"
    if done.returncode == 0:
        return None
    failed = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0] if failed else f"pytest ended with {done.returncode}"


def judge(trees: queue.SimpleQueue[Path], fault: Fault, tests: Sequence[str], limit_s: float) -> Outcome:
    """Plant one fault into a tree that nobody uses, run its tests, and take it out again."""
    tree = trees.get()
    file = tree / fault.path
    source = file.read_text(encoding="utf-8")
    try:
        file.write_text(fault.planted(source), encoding="utf-8")
        return Outcome(fault, run_tests(tree, tests, limit_s))
    finally:
        file.write_text(source, encoding="utf-8")
        trees.put(tree)


def campaign(
    root: Path,
    faults: Sequence[Fault],
    workers: int = 1,
    tests: Sequence[str] = (),
    say: Callable[[Outcome], object] = lambda outcome: None,
) -> tuple[Outcome, ...]:
    """What became of each fault. tests: run these instead of those of the fault's room.

    Raises SystemExit when tests fail without any fault: nothing could be said of the others.
    """
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(workers):
            copy_tree(root, Path(folder) / str(number))
            trees.put(Path(folder) / str(number))
        first = Path(folder) / "0"
        wanted = {room: list(tests) or tests_of(room, first) for room in {fault.room for fault in faults}}
        limits: dict[str, float] = {}
        for room, names in wanted.items():
            begin = time.monotonic()
            failed = run_tests(first, names, 3600)
            if failed is not None:
                raise SystemExit(f"the tests of {room or 'the top level'} fail without any fault: {failed}")
            # Workers share the machine, and so may somebody else.
            limits[room] = 30 + 3 * workers * (time.monotonic() - begin)
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            jobs = [pool.submit(judge, trees, fault, wanted[fault.room], limits[fault.room]) for fault in faults]
            for job in concurrent.futures.as_completed(jobs):
                say(job.result())
        return tuple(job.result() for job in jobs)


class _Places:
    """Where a node lies, counted in characters: the tree counts in lines and bytes."""

    def __init__(self, source: str) -> None:
        self._lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def of(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._at(node.lineno, node.col_offset), self._at(node.end_lineno, node.end_col_offset)

    def _at(self, line: int, column: int) -> int:
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())


_Change = tuple[str, int, int, str]  # kind, start, end, text


def _judged(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes whose change a user could see: no annotations, docstrings, messages, imports or what only types need."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list", "type_params", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_not_judged(child):
                continue
            yield child
            yield from _judged(child)


def _is_not_judged(node: ast.AST) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom | ast.Raise | ast.Assert | ast.JoinedStr):
        return True
    if isinstance(node, ast.keyword) and node.arg in _LOOKS:
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _changes(node: ast.AST, place: _Places, source: str) -> Iterator[_Change]:
    if isinstance(node, ast.Compare):
        yield from _comparison(node, place, source)
    elif isinstance(node, ast.BoolOp):
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield from _between(place.of(left)[1], place.of(right)[0], old, new, "and for or", source)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        start, end = place.of(node)
        yield "not removed", start, end, source[slice(*place.of(node.operand))]
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        old, new = _ARITHMETIC[type(node.op)]
        yield from _between(place.of(node.left)[1], place.of(node.right)[0], old, new, "arithmetic", source)
    elif isinstance(node, ast.Constant):
        yield from _constant(node, place)
    elif isinstance(node, ast.Name | ast.Attribute):
        name = node.id if isinstance(node, ast.Name) else node.attr
        if name in _NAMES:
            _, end = place.of(node)
            yield "mean for median, min for max", end - len(name), end, _NAMES[name]
    elif isinstance(node, ast.Call):
        yield from _swapped(node.args, place, source, "swapped arguments")
        yield from _dropped(node, place, source)
    elif isinstance(node, ast.Tuple | ast.List):
        strings = all(isinstance(element, ast.Constant) for element in node.elts)
        yield from _swapped(node.elts, place, source, "swapped labels" if strings else "swapped elements")
    elif isinstance(node, ast.Dict):
        kept = [key for key in node.keys if key is not None]
        yield from _swapped(kept, place, source, "swapped keys")
    elif isinstance(node, ast.IfExp):
        yield from _swapped([node.body, node.orelse], place, source, "swapped branches")
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "call left out", *place.of(node), "pass"


def _comparison(node: ast.Compare, place: _Places, source: str) -> Iterator[_Change]:
    sides = [node.left, *node.comparators]
    for operator, left, right in zip(node.ops, sides, sides[1:], strict=False):
        old, new = _COMPARISONS[type(operator)]
        for number, text in enumerate(new):
            kind = "boundary" if len(new) > 1 and number == 0 else "comparison"
            yield from _between(place.of(left)[1], place.of(right)[0], old, text, kind, source)


def _between(start: int, end: int, old: str, new: str, kind: str, source: str) -> Iterator[_Change]:
    """An operator between two operands; parentheses, line breaks and comments may lie around it."""
    gap = source[start:end]
    if gap.count(old) == 1 and "#" not in gap:
        at = start + gap.index(old)
        yield kind, at, at + len(old), new


def _constant(node: ast.Constant, place: _Places) -> Iterator[_Change]:
    start, end = place.of(node)
    value = node.value
    if isinstance(value, bool):
        yield "true for false", start, end, str(not value)
    elif isinstance(value, int | float):
        if value in _UNITS:
            yield "unit", start, end, "1"
        elif isinstance(value, int):
            yield "one more", start, end, str(value + 1)
            if value:
                yield "one less", start, end, str(value - 1)
        else:
            yield "another constant", start, end, repr(value * 2 if value else 1.0)


def _swapped(nodes: Sequence[ast.expr], place: _Places, source: str, kind: str) -> Iterator[_Change]:
    """Two neighbours the wrong way round."""
    for left, right in itertools.pairwise(nodes):
        if isinstance(left, ast.Starred) or isinstance(right, ast.Starred):
            continue
        (start, middle), (other, end) = place.of(left), place.of(right)
        yield kind, start, end, source[other:end] + source[middle:other] + source[start:middle]


def _dropped(node: ast.Call, place: _Places, source: str) -> Iterator[_Change]:
    """A keyword argument that is not handed on: its default is taken instead."""
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in _LOOKS:
            continue
        start, end = place.of(keyword)
        rest = source[end:]
        if rest.lstrip().startswith(","):
            end += rest.index(",") + 1
        yield "argument not handed on", start, end, ""


def _is_another_program(before: str, after: str) -> bool:
    try:
        return ast.dump(ast.parse(after)) != ast.dump(ast.parse(before))
    except SyntaxError:
        return False


def sources(root: Path, rooms: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Path and text of every module of the rooms, or of single modules; SystemExit names a room that is none."""
    for room in rooms:
        place = root / PACKAGE / room
        if not place.exists():
            there = sorted(each.name for each in (root / PACKAGE).iterdir() if (each / "__init__.py").is_file())
            raise SystemExit(f"no room {room!r}; there are: {', '.join(there)}")
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            yield file.relative_to(root).as_posix(), file.read_text(encoding="utf-8")


def main(words: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run a campaign and print it: 0 when every fault was noticed, 1 when some survived or have no place."""
    parser = argparse.ArgumentParser(prog="nox -s mutants --", description=(__doc__ or "").splitlines()[0])
    words_of_rooms = "folders of the package, such as metrics, or modules, such as metrics/drift.py"
    parser.add_argument("rooms", nargs="*", help=words_of_rooms)
    parser.add_argument("--count", type=int, default=20, help="faults in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which of them (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="copies tested at a time (default: %(default)s)")
    parser.add_argument("--tests", nargs="+", default=[], help="run these instead of the room's")
    parser.add_argument("--listed", action="store_true", help="plant those written by hand instead")
    given = parser.parse_args(words)
    if not given.rooms and not given.listed:
        parser.error("name a room, or give --listed")
    stale: tuple[str, ...] = ()
    if given.listed:
        faults, stale = listed(root, given.rooms)
    else:
        texts = dict(sources(root, given.rooms))
        every = [fault for path, source in texts.items() for fault in faults_of(path, source)]
        faults = chosen(every, given.count, given.seed, texts)

    # As they are now: somebody goes on working in the checkout.
    before = {fault.path: (root / fault.path).read_text(encoding="utf-8") for fault in faults}

    def say(outcome: Outcome) -> None:
        what = f"killed by {outcome.by}" if outcome.by else "SURVIVED"
        line = before[outcome.fault.path][: outcome.fault.start].count("\n") + 1
        print(f"{outcome.fault.path}:{line}  {outcome.fault.kind}: {what}", flush=True)

    outcomes = campaign(root, faults, given.workers, given.tests, say)
    for line in stale:
        print(f"not planted: {line}")
    print()
    for room in sorted({outcome.fault.room for outcome in outcomes}):
        own = [outcome for outcome in outcomes if outcome.fault.room == room]
        killed = sum(outcome.by is not None for outcome in own)
        print(f"{room or 'top level'}: {killed} of {len(own)} killed")
    survivors = [outcome.fault for outcome in outcomes if outcome.by is None]
    for fault in survivors:
        print(f"\n{fault.kind}\n{fault.difference(before[fault.path])}")
    return 1 if survivors or stale else 0


if __name__ == "__main__":
    sys.exit(main())
