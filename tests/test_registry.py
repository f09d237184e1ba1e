"""Names that are added from outside, and the plugins that bring them: files, modules and notebooks."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from lingbot_eval import registry
from lingbot_eval.errors import ConfigError
from lingbot_eval.registry import Plugin, Registry, load_plugins, place_in_plugin, plugins, required

MINE = """\
from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path

@dataclass
class Own:
    number: int = 1

with Path(__file__).with_name("loaded.txt").open("a") as log:
    log.write(f"{Own().number}")

def inner():
    raise ValueError("deep")

def outer():
    inner()
"""


@pytest.fixture(autouse=True)
def _none_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_PLUGINS", {})


@pytest.fixture
def known() -> Registry[object]:
    return Registry("thing", {"theirs": "math:pi", "other": "math:e"})


def cell(text: str = "def thing(): pass") -> Callable[[], None]:
    """A function as a notebook's cell makes it: of no file."""
    names: dict[str, Callable[[], None]] = {}
    exec(compile(text, "<cell>", "exec"), {"__name__": "__main__"}, names)
    return names["thing"]


def test_built_in_names_come_first_and_each_is_what_it_stands_for(known: Registry[object]) -> None:
    known.add("mine_2-b", 5, cell())
    known.add("A", 6, cell())
    assert known.names() == ("theirs", "other", "mine_2-b", "A")
    assert [round(float(str(known.get(name))), 3) for name in known.names()] == [3.142, 2.718, 5, 6]
    assert list(known.added()) == [("mine_2-b", 5), ("A", 6)]
    assert [plugin and plugin.name for plugin in map(known.plugin, ("theirs", "A", "nobody's"))] == [
        None,
        "__main__",
        None,
    ]
    with pytest.raises(
        ConfigError, match=r"^unknown thing 'Theirs' \(did you mean 'theirs'\?\); there are: theirs, oth"
    ):
        known.get("Theirs")


@pytest.mark.parametrize("name", ["", "a b", "ü", "a/b", "a.b", "_", "../a"])
def test_a_name_is_one_word_that_can_be_part_of_a_path(known: Registry[object], name: str) -> None:
    with pytest.raises(ConfigError, match="a name has letters, digits, '_' and '-' alone"):
        known.add(name, 5, cell())
    assert name not in known.names()


def test_a_cell_may_be_run_again_and_nobody_takes_anothers_name(known: Registry[object]) -> None:
    known.add("mine", 1, cell())
    first = known.plugin("mine")
    known.add("mine", 2, cell("def thing(): return 2"))
    second = known.plugin("mine")
    assert known.get("mine") == 2
    # What a cell held is not known: nothing that was done with it before is taken for its work.
    assert first is not None
    assert second is not None
    assert (first.source, first.sha256 != second.sha256) == (second.source, True)
    with pytest.raises(ConfigError, match=rf"plugin {__name__}: thing 'mine' is taken by plugin __main__;"):
        known.add("mine", 3, test_a_cell_may_be_run_again_and_nobody_takes_anothers_name)
    with pytest.raises(ConfigError, match="thing 'theirs' is taken by lingbot_eval itself"):
        known.add("theirs", 3, cell())
    assert (known.get("mine"), len(plugins())) == (2, 1)


def test_a_file_is_loaded_once_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again when it has changed; it is a module in its own right, under a name that is nobody else's."""
    file, log = tmp_path / "numpy.py", tmp_path / "loaded.txt"
    file.write_text(MINE)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("numpy.py", "~/numpy.py", str(file)):
        assert load_plugins([name]) == (Plugin("numpy", hashlib.sha256(file.read_bytes()).hexdigest(), str(file)),)
    assert log.read_text() == "1"
    # In the same second, and as long as before: compiled code of the first would pass for it.
    before = file.stat()
    file.write_text(MINE.replace("= 1", "= 2"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    load_plugins(str(file))
    assert log.read_text() == "12"
    assert [plugin.sha256 for plugin in plugins()] == [hashlib.sha256(file.read_bytes()).hexdigest()]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere_at_all", "--plugin nowhere_at_all: expected a Python file or an importable module, found neither"),
        ("nowhere.at.all", "--plugin nowhere.at.all: expected a Python file or an importable module, found neither"),
        ("json.nowhere", "plugin json.nowhere: expected an importable module, found none"),
        ("nowhere.py", "--plugin nowhere.py: no such file; give a Python file or an importable module"),
        ("notes.txt", "--plugin notes.txt: expected a Python file (.py), found notes.txt"),
    ],
)
def test_what_is_no_plugin_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("x = 1\n")
    with pytest.raises(ConfigError) as refused:
        load_plugins([source])
    assert str(refused.value) == says
    assert plugins() == ()


def test_the_digest_of_a_package_is_of_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And that of one of its modules is of that file alone."""
    monkeypatch.syspath_prepend(tmp_path)
    inner = tmp_path / "a_package_of_mine" / "inner"
    inner.mkdir(parents=True)
    for number, folder in enumerate((inner.parent, inner)):
        (folder / "__init__.py").write_text(f"x = {number}\n")
    (inner / "deep.py").write_text("y = 1\n")
    found = []
    for text in ("y = 1\n", "y = 2\n"):
        (inner / "deep.py").write_text(text)
        monkeypatch.setattr(registry, "_PLUGINS", {})
        load_plugins(["a_package_of_mine", "a_package_of_mine.inner.deep"])
        found.append({plugin.name: plugin.sha256 for plugin in plugins()})
    assert [list(each) for each in found] == [["a_package_of_mine", "a_package_of_mine.inner.deep"]] * 2
    assert found[0]["a_package_of_mine"] != found[1]["a_package_of_mine"]
    assert found[1]["a_package_of_mine.inner.deep"] == hashlib.sha256(b"y = 2\n").hexdigest()


def test_what_a_file_registers_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: Registry[object]
) -> None:
    """Even what it takes from elsewhere; of one that loads another, each has its own, and none has what comes later."""
    monkeypatch.setattr(registry, "known", known, raising=False)
    add = "from lingbot_eval import registry\nregistry.known.add('{0}', '{0}', registry.Plugin)\n"
    (tmp_path / "inside.py").write_text(add.format("one"))
    inside = str(tmp_path / "inside.py")
    (tmp_path / "around.py").write_text(
        f"{add.format('two')}registry.load_plugins([{inside!r}])\n{add.format('three')}"
    )
    (tmp_path / "broken.py").write_text(f"{add.format('four')}1 / 0\n")
    load_plugins([str(tmp_path / "around.py")])
    # Whoever names it again is told again, though it registered something before it failed.
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"broken\.py cannot be loaded: ZeroDivisionError: .* \(broken\.py:3\)$"):
            load_plugins([str(tmp_path / "broken.py")])
    assert {plugin.name for plugin in plugins()} == {"inside", "around"}
    known.add("five", 5, cell())
    owners = {name: plugin and plugin.name for name in known.names()[2:] if (plugin := known.plugin(name))}
    assert owners == {"two": "around", "one": "inside", "three": "around", "four": "broken", "five": "__main__"}


@pytest.mark.parametrize(("module", "name"), [("__main__", "script"), ("pack.mine", "pack.mine")])
def test_what_a_script_or_a_module_registers_is_its_own(
    tmp_path: Path, known: Registry[object], module: str, name: str
) -> None:
    file = tmp_path / "script.py"
    file.write_text("def thing(): pass\n")
    names: dict[str, object] = {"__name__": module}
    exec(compile(file.read_text(), str(file), "exec"), names)
    known.add("mine", 5, names["thing"])
    assert known.plugin("mine") == Plugin(name, hashlib.sha256(file.read_bytes()).hexdigest(), str(file))


def test_what_a_plugin_imports_names_the_place_where_its_words_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "words_that_are_none.py").write_text("x = 1\ny = = 2\n")
    file = tmp_path / "mine.py"
    file.write_text("\n\nimport words_that_are_none\n")
    with pytest.raises(ConfigError, match=r"cannot be loaded: SyntaxError: .* \(words_that_are_none\.py, line 2\)$"):
        load_plugins([str(file)])


def test_an_installed_plugin_runs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    log = tmp_path / "asked.txt"
    (tmp_path / "that_is_installed.py").write_text(
        f"def __getattr__(name):\n    with open({str(log)!r}, 'a') as log:\n        log.write(name)\n"
    )
    point = EntryPoint("mine", "that_is_installed:start", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "installed", lambda: (point,))
    monkeypatch.setattr(registry, "_INSTALLED", [])
    for _ in range(2):
        assert [plugin.name for plugin in load_plugins()] == ["that_is_installed"]
    assert log.read_text() == "start"


def test_a_fault_is_where_it_was_raised(tmp_path: Path) -> None:
    """In the innermost of the plugin's own lines; the project's own errors say themselves what is wrong."""
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    load_plugins([str(file)])
    (module,) = (found for found in list(sys.modules.values()) if getattr(found, "__file__", None) == str(file))
    outer = module.outer
    with pytest.raises(ValueError, match="deep") as raised:
        outer()
    line = 1 + MINE.splitlines().index('    raise ValueError("deep")')
    assert place_in_plugin(raised.value) == f" (mine.py:{line})"
    assert place_in_plugin(ValueError("of nobody's")) == ""
    own = ConfigError("says it all").with_traceback(raised.value.__traceback__)
    assert place_in_plugin(own) == ""


def test_a_fault_of_a_module_is_in_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "faulty_module.py").write_text("def fail():\n    raise ValueError('deep')\n")
    load_plugins("faulty_module")
    with pytest.raises(ValueError, match="deep") as raised:
        sys.modules["faulty_module"].fail()
    assert place_in_plugin(raised.value) == " (faulty_module.py:2)"


def test_a_plugin_that_is_asked_for_is_known_by_its_name_or_its_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("")
    load_plugins([str(file)])
    required(["mine", "mine.py", "elsewhere/mine.py", str(file)], "e.yaml")
    for name in ("yours", "yours.py"):
        with pytest.raises(ConfigError, match=rf"^e\.yaml: asks for plugin '{name}', .* --plugin yours\.py$"):
            required(["mine", name], "e.yaml")
