"""The house rules that a reader relies on, held by reading the sources: who imports whom, and what no file does."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import lingbot_eval

PACKAGE = Path(lingbot_eval.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "share" not in path.relative_to(PACKAGE).parts)

COMMON = {
    "errors",
    "types",
    "geometry",
    "files",
    "validation",
    "resources",
    "registry",
    "tables",
    "plots",
    "statistics",
    "settings",
}
# Room (or top-level module) -> rooms that it may import besides itself and its own protocols.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "types": set(),
    "validation": {"errors"},
    "resources": {"errors", "validation", "files"},
    "registry": {"errors", "validation"},
    # Copied beside other people's code: it stands alone.
    "external": set(),
    "tables": set(),
    "statistics": {"errors", "types"},
    "settings": set(),
    "plots": {"errors", "types", "tables", "files"},
    "geometry": {"errors", "types"},
    "files": {"errors", "types", "geometry"},
    "datasets": COMMON,
    "metrics": COMMON,
    # What is looked at. It knows no run: runs fill its clouds, and give back what they kept.
    "viewing": COMMON,
    "profiling": COMMON | {"machine"},
    # Asks torch about the GPU and Linux about the CPU, for whoever chooses a kernel or states a record.
    "machine": {"errors"},
    "model": COMMON | {"machine"},
    "streaming": COMMON | {"machine", "model"},
    "methods": COMMON | {"machine", "external", "streaming", "model", "profiling", "datasets"},
    # A wrapper is examined on made-up frames.
    "verification": COMMON | {"streaming", "model", "datasets", "methods", "metrics"},
    "runs": COMMON | {"machine", "datasets", "methods", "metrics", "profiling", "viewing"},
    "reports": COMMON | {"machine", "runs", "viewing", "metrics"},
    "comparison": COMMON
    | {"machine", "metrics", "datasets", "profiling", "model", "streaming", "methods", "runs", "reports"},
    # Streams through the method's own stepper, stores as runs do, and looks like a report and a comparison.
    "scaling": COMMON
    | {
        "machine",
        "datasets",
        "metrics",
        "profiling",
        "model",
        "streaming",
        "methods",
        "runs",
    },
    # Reads what runs stored, as reports do, and what metrics declare of themselves.
    "gating": COMMON | {"machine", "runs", "metrics"},
    # What the commands do, as functions: each puts rooms together that do not know each other.
    "api": COMMON
    | {
        "datasets",
        "methods",
        "runs",
        "reports",
        "comparison",
        "gating",
        "verification",
        "model",
        "streaming",
        "viewing",
    },
    "cli": COMMON
    | {"api"}
    | {"datasets", "metrics", "profiling", "machine", "model", "streaming"}
    | {"methods", "verification", "runs", "reports", "comparison", "gating", "scaling", "viewing"},
}
# What a room may take of another where that is less than everything.
ONLY: dict[tuple[str, str], set[str]] = {
    # Rooms without torch read the environment of a record; that part of the machine asks torch only when it makes one.
    ("runs", "machine"): {
        "lingbot_eval.machine.environment",
        "lingbot_eval.machine.wait",
    },
    ("gating", "machine"): {"lingbot_eval.machine.environment"},
    # A figure is written whole or not at all, as every file.
    ("plots", "files"): {"lingbot_eval.files.atomic"},
    # So is what is kept for the user's next process.
    ("resources", "files"): {"lingbot_eval.files.atomic", "lingbot_eval.files.json_documents"},
    # A method prepares images; it never asks whose they are.
    ("methods", "datasets"): {"lingbot_eval.datasets.prepare"},
    # Reports read what runs stored; nothing that runs anything.
    ("reports", "runs"): {
        "lingbot_eval.runs.store",
        "lingbot_eval.runs.lock",  # for who is writing now, and who does which unit
        "lingbot_eval.runs.records",
        "lingbot_eval.runs.unit_files",
        "lingbot_eval.runs.disk",
        "lingbot_eval.runs.execute",  # a name for those who read types
    },
    # The gate judges stored records and reports show them; of metrics they take what these declare of themselves.
    ("gating", "metrics"): {"lingbot_eval.metrics.declarations"},
    ("reports", "metrics"): {"lingbot_eval.metrics.declarations"},
    ("gating", "runs"): {
        "lingbot_eval.runs.store",
        "lingbot_eval.runs.records",
        "lingbot_eval.runs.disk",
        "lingbot_eval.runs.lock",
    },
    ("comparison", "reports"): {
        "lingbot_eval.reports.agreement",
        "lingbot_eval.reports.staging",
        "lingbot_eval.reports.two_runs",
    },
}
# viewing draws on a GPU, through torch, when it is asked to; without that it loads none.
WITHOUT_TORCH = COMMON | {"datasets", "metrics", "runs", "reports", "gating"}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(("lingbot_eval", *(part for part in parts if part != "__init__")))


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module imported anywhere in a file, lazily or not, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            for alias in node.names:
                # ``from package import module`` imports the module.
                inner = PACKAGE.parent / Path(*module.split("."), alias.name)
                is_module = module.startswith("lingbot_eval") and (inner.with_suffix(".py").is_file() or inner.is_dir())
                yield node.lineno, f"{module}.{alias.name}" if is_module else module


def test_test_modules_have_names_of_their_own() -> None:
    # Test folders are no packages: pytest imports a module by its bare name, and refuses a second one of that name.
    root = PACKAGE.parent
    folders = ("tests", "training/tests", "benchmarks/stages/tests")
    counts = Counter(path.name for folder in folders for path in (root / folder).rglob("test_*.py"))
    assert len(counts) > 100
    assert [name for name, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(path)
    allowed = MAY_IMPORT.get(room)
    assert allowed is not None, f"{room} is a new room: say in MAY_IMPORT what it may import"
    for line, module in imports(path):
        # The face names everything, and imports it only for those who read types.
        if room == "__init__" or not module.startswith("lingbot_eval."):
            continue
        other = module.split(".")[1]
        if other == room:
            continue
        if (room, other) in ONLY:
            assert module in ONLY[room, other], f"{path}:{line}: {room} imports {module}"
        else:
            assert other in allowed, f"{path}:{line}: {room} imports {module}"


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if room_of(path) in WITHOUT_TORCH],
    ids=name_of,
)
def test_rooms_without_torch_import_none(path: Path) -> None:
    for line, module in imports(path):
        assert module.split(".")[0] != "torch", f"{path}:{line}: imports torch"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nobody_probes_or_prints(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("hasattr", "print"), f"{path}:{node.lineno}: calls {node.func.id}"


def loaded_by(code: str) -> set[str]:
    """Modules in a fresh interpreter after ``code``."""
    listing = f"{code}\nimport sys\nsys.stdout.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


def test_the_command_line_starts_without_what_is_heavy() -> None:
    loaded = loaded_by("from lingbot_eval.cli.main import build_parser; build_parser()")
    assert "lingbot_eval.cli.run_command" in loaded
    assert not loaded & {"torch", "matplotlib", "evo", "pandas", "av", "scipy"}


def test_the_package_itself_imports_nothing_of_its_own() -> None:
    loaded = loaded_by("import lingbot_eval")
    assert {name for name in loaded if name.startswith("lingbot_eval")} == {"lingbot_eval"}
    assert not loaded & {"torch", "numpy", "pydantic"}


def test_every_public_name_is_there_and_listed() -> None:
    assert sorted(lingbot_eval.__all__) == sorted(["__version__", *lingbot_eval._PUBLIC])
    assert set(lingbot_eval.__all__) <= set(dir(lingbot_eval))
    for name in lingbot_eval.__all__:
        assert getattr(lingbot_eval, name) is not None


def test_planning_a_run_needs_no_torch() -> None:
    loaded = loaded_by("import lingbot_eval.runs.experiment, lingbot_eval.runs.plan, lingbot_eval.runs.execute")
    assert "torch" not in loaded


def test_the_reader_of_imports_sees_lazy_and_nested_ones(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        "import numpy as np\n"
        "from lingbot_eval import errors\n"
        "from lingbot_eval.cli import output\n"
        "from lingbot_eval.types import Frame\n"
        "def work():\n"
        "    from torch import nn\n"
    )
    assert list(imports(file)) == [
        (1, "numpy"),
        (2, "lingbot_eval.errors"),
        (3, "lingbot_eval.cli.output"),
        (4, "lingbot_eval.types"),
        (6, "torch"),
    ]
