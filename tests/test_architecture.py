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
    "prepare",
    "resources",
    "registry",
    "declarations",
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
    # Copied beside other people's code: it stands alone.
    "external": set(),
    "tables": set(),
    "settings": {"errors"},
    "registry": {"errors", "settings"},
    "declarations": {"types", "registry"},
    "statistics": {"errors", "types"},
    # Asks torch about the GPU and Linux about the CPU, for whoever chooses a kernel or states a record.
    "machine": {"errors"},
    "geometry": {"errors", "types"},
    "files": {"errors", "types", "geometry"},
    # What is prepared are frames; whose they are nobody asks.
    "prepare": {"errors", "types", "geometry", "settings"},
    "resources": {"errors", "settings", "files"},
    "plots": {"errors", "types", "tables", "files"},
    "datasets": COMMON,
    "metrics": COMMON,
    # What is looked at. It knows no run: runs fill its clouds, and give back what they kept.
    "viewing": COMMON,
    "profiling": COMMON | {"machine"},
    "model": COMMON | {"machine"},
    "streaming": COMMON | {"machine", "model"},
    "methods": COMMON | {"machine", "external", "streaming", "model", "profiling"},
    # A wrapper is examined on made-up frames.
    "verification": COMMON | {"streaming", "model", "datasets", "methods", "metrics"},
    # Records and the folders that they lie in; nothing that runs anything.
    "stored": COMMON | {"viewing"},
    "runs": COMMON | {"machine", "datasets", "methods", "metrics", "profiling", "viewing", "stored"},
    # Reports and the gate read what is stored, and nothing else.
    "reports": COMMON | {"machine", "viewing", "stored"},
    "gating": COMMON | {"machine", "stored"},
    "comparison": COMMON
    | {"machine", "metrics", "datasets", "profiling", "model", "streaming", "methods", "runs", "stored", "reports"},
    # Streams through the method's own stepper, and stores as runs do.
    "scaling": COMMON
    | {"machine", "datasets", "metrics", "profiling", "model", "streaming", "methods", "runs", "stored"},
    # What the commands do, as functions: each puts rooms together that do not know each other.
    "api": COMMON
    | {"datasets", "methods", "runs", "stored", "reports", "comparison", "gating", "verification", "model", "streaming"}
    | {"viewing"},
    "cli": COMMON
    | {"api"}
    | {"datasets", "metrics", "profiling", "machine", "model", "streaming"}
    | {"methods", "verification", "runs", "stored", "reports", "comparison", "gating", "scaling", "viewing"},
}
# viewing draws on a GPU, through torch, when it is asked to; without that it loads none.
WITHOUT_TORCH = COMMON | {"datasets", "metrics", "stored", "runs", "reports", "gating"}


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
        assert other in allowed, f"{path}:{line}: {room} imports {module}"


def test_nobody_imports_who_imports_it() -> None:
    """As the rules have it: every room stands above all that it may import."""
    standing: set[str] = set()
    while left := MAY_IMPORT.keys() - standing:
        next_floor = {room for room in left if MAY_IMPORT[room] - {room} <= standing}
        assert next_floor, f"in a circle: {sorted(left)}"
        standing |= next_floor


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


def test_rooms_without_torch_load_none() -> None:
    """Whatever they import of others, of the machine too."""
    modules = [name_of(path) for path in MODULES if room_of(path) in WITHOUT_TORCH]
    assert "torch" not in loaded_by(f"import {', '.join(modules)}")


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
