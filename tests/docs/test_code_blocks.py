"""Every code block of the README and of ``docs/``: a page is read from top to bottom, and what it says is done.

A page has a folder of its own with the small files of conftest.py. A block with ``title="FILE"`` is written there;
other python blocks are executed, one after the other with one set of names. Lines of sh blocks that call
``lingbot-eval`` are run, and the exit code is 0 unless the line ends with ``# exit code N``. A comment before a block
changes that: ``<!-- block: parsed, REASON -->`` has its command lines read by the real parser and does not run them,
``<!-- block: shown, REASON -->`` leaves the block alone.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import lingbot_eval
from lingbot_eval.cli.main import build_parser, main
from lingbot_eval.registry import load_plugins
from lingbot_eval.runs.experiment import load_experiment

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples/README.md", *(ROOT / "docs").rglob("*.md")]
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGE = ROOT / "lingbot_eval"
# Source files cite pages by section: ``model.md section 6``, ``model.md sections 3 and 4``.
_CITED = re.compile(r"\b((?:model|protocol)\.md),? sections? (\d(?:(?:, | and | to )\d)*)")
SOURCES = [
    file
    for folder in ("lingbot_eval", "benchmarks", "training", "datasets")
    for file in sorted((ROOT / folder).rglob("*"))
    if file.suffix in (".py", ".yaml") and _CITED.search(file.read_text(encoding="utf-8"))
]
EXTRAS = PROJECT["optional-dependencies"]
SESSIONS = set(re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(encoding="utf-8"), re.M)) | {"eval"}

_BLOCK = re.compile(
    r"(?:<!-- block: (?P<how>parsed|shown), (?P<reason>[^>]+?) -->\n+)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w+)(?P<rest>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.M | re.S,
)
_TITLE = re.compile(r'title="([^"]+)"')
_EXIT_CODE = re.compile(r"# exit code (\d+)")
# Programs that the documents call besides ours, and that a test has no business to run.
_OTHER_PROGRAMS = ("git", "cd", "cat", "python", "pytest", "uv", "source", "export", "eval")


@dataclass(frozen=True)
class Block:
    """One fenced block. how: ``run``, ``parsed`` or ``shown``. title: the file that it is, or nothing."""

    language: str
    text: str
    line: int
    how: str
    title: str | None


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        title = _TITLE.search(match["rest"])
        indent = len(match["indent"])
        lines = [line[indent:] for line in match["text"].splitlines()]
        found.append(
            Block(
                match["language"],
                "\n".join(lines) + "\n",
                text.count("\n", 0, match.start("text")),
                match["how"] or "run",
                title[1] if title else None,
            )
        )
    return found


def commands_of(text: str) -> list[tuple[list[str], int]]:
    """The words of each command line, and the exit code that it says."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r" && |; ", line.partition(" #")[0] if "#" in line else line):
            words = shlex.split(part, comments=True)
            if words:
                code = _EXIT_CODE.search(line)
                found.append((words, int(code[1]) if code else 0))
    return found


def check_command(words: list[str], code: int, how: str, where: str) -> None:
    program, *rest = words
    if program == "lingbot-eval":
        if how == "parsed":
            build_parser().parse_args(rest)
        else:
            if rest[0] == "report":
                build_parser().parse_args(rest)  # takes longer than all else here; the quickstart's python writes one
                return
            spared = ["--no-report"] if rest[0] == "run" and "--dry-run" not in rest else []
            assert main([*rest, *spared]) == code, f"{where}: {shlex.join(words)}"
    elif program == "pip":
        for extra in re.findall(r"\[([\w,]+)\]", shlex.join(rest)):
            assert set(extra.split(",")) <= set(EXTRAS), f"{where}: no extra {extra}"
    elif program == "nox":
        named = [word for word in rest[1 : rest.index("--") if "--" in rest else None] if not word.startswith("-")]
        assert set(named) <= SESSIONS, f"{where}: no session among {named}"
    else:
        assert program in _OTHER_PROGRAMS, f"{where}: {program} is no program that the documents may call"


def check_settings(text: str, where: str) -> None:
    """YAML that is an experiment, a study or a workflow is one that its reader takes."""
    document: Any = yaml.safe_load(text)
    assert document is not None, where
    if isinstance(document, dict) and {"datasets", "methods"} <= document.keys():
        plugins = {name for name in document.get("plugins", ()) if Path(f"{name}.py").is_file()}
        load_plugins([f"{name}.py" for name in plugins])
        load_experiment(document)
    for job in document.get("jobs", {}).values() if isinstance(document, dict) else ():
        for step in job["steps"]:
            for words, code in commands_of(step.get("run", "")):
                check_command(words, code, "run", where)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.usefixtures("own_registry")
def test_what_a_page_says_is_so(
    page: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks_of(page):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        if block.how == "shown":
            continue
        if block.title is not None:
            file = tmp_path / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
        if block.language == "sh":
            for words, code in commands_of(block.text):
                check_command(words, code, block.how, where)
                capsys.readouterr()
        elif block.language == "python":
            compiled = compile(block.text, str(tmp_path / (block.title or where)), "exec")
            if block.title is None and block.how == "run":
                exec(compiled, names)  # the documents' own code is what is tested
        elif block.language == "yaml" and block.how == "run":
            check_settings(block.text, where)
        elif block.language == "json":
            json.loads(block.text)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target and not target.startswith("mailto:"):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_the_api_page_has_every_public_name() -> None:
    listed = set(re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.M))
    assert listed == {f"{module}.{name}" for module, name in lingbot_eval._PUBLIC.values()}


def test_the_architecture_names_every_room() -> None:
    said = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")))
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms - {"__init__"} <= said


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for name in re.findall(r"`((?:\w+/)+[a-z]\w*\.(?:py|yaml|md))`", text):
        assert any((folder / name).exists() for folder in (ROOT, PACKAGE)), name


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sections_that_sources_cite_are_there(source: Path) -> None:
    for page, numbers in _CITED.findall(source.read_text(encoding="utf-8")):
        headings = (ROOT / "docs" / page).read_text(encoding="utf-8")
        for number in re.findall(r"\d+", numbers):
            assert re.search(rf"^## {number}\. ", headings, re.M), f"{page} has no section {number}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 9000
