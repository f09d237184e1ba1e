"""What can be added from outside: datasets, methods and metrics by name, and the plugins that bring them.

Built-in entries go through the same registries as those of plugins. A plugin is one Python file or module; its code
runs only when the user names it (``--plugin``), has installed it (entry-point group ``lingbot_eval.plugins``), or
registers in a process of his own. An experiment file can ask for a plugin and never loads one.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from lingbot_eval.errors import ConfigError, LingbotEvalError, one_line
from lingbot_eval.settings import nearest, several

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "lingbot_eval.plugins"
HOW_TO_ADD = "; one of a plugin is known with --plugin FILE"
"""The end of a message about a name that is not there."""

EntryT = TypeVar("EntryT")


@dataclass(frozen=True)
class Plugin:
    """Where entries came from. name: the file's stem, or the module. sha256: of the source. source: file or module."""

    name: str
    sha256: str
    source: str


class Registry(Generic[EntryT]):
    """Names and what they stand for; built-in entries are imported when they are asked for."""

    def __init__(self, what: str, builtin: Mapping[str, str]) -> None:
        """Args:
        what: the word for messages, such as ``dataset``.
        builtin: name to ``module:attribute``.
        """
        self._what = what
        self._builtin = dict(builtin)
        self._added: dict[str, tuple[EntryT, Plugin]] = {}

    def names(self) -> tuple[str, ...]:
        """Every name, the built-in ones first."""
        return (*self._builtin, *self._added)

    def get(self, name: str) -> EntryT:
        """The entry called ``name``.

        Raises:
            ConfigError: no such name; the nearest is given.
        """
        if name in self._added:
            return self._added[name][0]
        if name not in self._builtin:
            names = self.names()
            raise ConfigError(
                f"unknown {self._what} {name!r}{nearest(name, names)}; there are: {', '.join(names)}{HOW_TO_ADD}"
            )
        module, _, attribute = self._builtin[name].partition(":")
        entry: EntryT = getattr(importlib.import_module(module), attribute)
        return entry

    def add(self, name: str, entry: EntryT, origin: object) -> None:
        """Register an entry of a plugin; the same plugin may register it again, as a notebook's cell does.

        Args:
            name: what users write.
            entry: what it stands for.
            origin: the decorated class or function; its file is the plugin unless one is being loaded.

        Raises:
            ConfigError: the name is built in, or another plugin's.
        """
        if not (name.isascii() and name.replace("_", "").replace("-", "").isalnum()):
            raise ConfigError(f"{self._what} {name!r}: a name has letters, digits, '_' and '-' alone; rename it")
        plugin = _LOADING[-1] if _LOADING else _plugin_of(origin)
        other = self._added.get(name)
        if name in self._builtin or (other is not None and other[1].source != plugin.source):
            owner = "lingbot_eval itself" if name in self._builtin or other is None else f"plugin {other[1].name}"
            raise ConfigError(f"plugin {plugin.name}: {self._what} {name!r} is taken by {owner}; choose another name")
        self._added[name] = (entry, plugin)
        if not _LOADING:  # else it is known once all of it has run: one that fails half way is tried again
            _PLUGINS[plugin.source] = plugin

    def plugin(self, name: str) -> Plugin | None:
        """The plugin that brought ``name``; None for what is built in or unknown."""
        added = self._added.get(name)
        return added[1] if added is not None else None

    def added(self) -> Iterator[tuple[str, EntryT]]:
        """Names and entries of plugins."""
        return ((name, entry) for name, (entry, _) in self._added.items())


def check_name(given: object, decorator: str) -> None:
    """Refuse a decorator without its brackets, which is given the class itself and would register nothing.

    Args:
        given: the decorator's argument.
        decorator: its public name, such as ``method``.

    Raises:
        ConfigError: ``given`` is no text.
    """
    if not isinstance(given, str):
        raise ConfigError(f'@{decorator}: expected a name, as in @{decorator}("mine"), found {given!r}')


def check_subclass(given: object, base: type, public: str, entry: str) -> None:
    """Refuse what a decorator cannot register.

    Args:
        given: what is decorated.
        base: what it must inherit from.
        public: the name by which ``lingbot_eval`` gives users ``base``.
        entry: what is being registered, for the message: ``dataset 'mine'``.

    Raises:
        ConfigError: ``given`` is no subclass.
    """
    if not (isinstance(given, type) and issubclass(given, base)):
        raise ConfigError(f"{entry}: expected a subclass of lingbot_eval.{public}, found {given!r}")


_PLUGINS: dict[str, Plugin] = {}
_LOADING: list[Plugin] = []
_INSTALLED: list[str] = []


def plugins() -> tuple[Plugin, ...]:
    """Those loaded so far."""
    return tuple(_PLUGINS.values())


def load_plugins(sources: Iterable[str] = ()) -> tuple[Plugin, ...]:
    """Run the plugins that the user has installed, and those that he names.

    Args:
        sources: Python files, or importable modules.

    Returns:
        Every plugin loaded so far in this process.

    Raises:
        ConfigError: a file or module that is not there, or whose code fails; one line with its name.
    """
    for point in installed():
        if point.value not in _INSTALLED:
            with _loading(_plugin_of_module(point.module), f"installed plugin {point.name}"):
                point.load()
            _INSTALLED.append(point.value)
    for source in several(sources):
        _load(source)
    return plugins()


@functools.cache
def installed() -> tuple[EntryPoint, ...]:
    """What installed packages bring; looked up once, since a process goes on with what it found first."""
    from importlib.metadata import entry_points  # slow to load

    return tuple(entry_points(group=ENTRY_POINTS))


def place_in_plugin(error: BaseException) -> str:
    """Where in a plugin's file a foreign error came from, for the end of a reason: `` (my_method.py:12)``.

    "" for the project's own errors, which say what is wrong, and for those that went through no plugin.
    """
    if isinstance(error, LingbotEvalError):
        return ""
    known = (*_PLUGINS.values(), *_LOADING)
    files = {str(getattr(sys.modules.get(plugin.source), "__file__", plugin.source)) for plugin in known}
    lines = [line for line in traceback.extract_tb(error.__traceback__) if line.filename in files]
    return f" ({Path(lines[-1].filename).name}:{lines[-1].lineno})" if lines else ""


def required(names: Iterable[str], where: str) -> None:
    """Refuse settings that ask for a plugin which the user has not allowed.

    Args:
        names: plugins by name or file, as an experiment lists them.
        where: what asks, for the message.

    Raises:
        ConfigError: with the option that allows it.
    """
    known = {plugin.name for plugin in plugins()} | {plugin.source for plugin in plugins()}
    for name in names:
        if name not in known and Path(name).stem not in known:
            raise ConfigError(
                f"{where}: asks for plugin {name!r}, which is not loaded: if you trust its code, install it or pass"
                f" --plugin {name if name.endswith('.py') else name + '.py'}"
            )


def _load(source: str) -> None:
    path = Path(source).expanduser()
    if path.suffix != ".py" and not path.is_file():
        if importlib.util.find_spec(source.partition(".")[0]) is None:
            raise ConfigError(f"--plugin {source}: expected a Python file or an importable module, found neither")
        with _loading(_plugin_of_module(source), f"plugin {source}"):
            importlib.import_module(source)
        return
    if not path.is_file():
        raise ConfigError(f"--plugin {source}: no such file; give a Python file or an importable module")
    path = path.resolve()
    text = path.read_bytes()
    plugin = Plugin(path.stem, _sha256(text), str(path))
    if _PLUGINS.get(plugin.source) == plugin:
        return
    # A name of its own: a plugin called "numpy.py" must not stand in numpy's place.
    name = f"lingbot_eval_plugin_{path.stem}_{plugin.sha256[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or path.suffix != ".py":
        raise ConfigError(f"--plugin {source}: expected a Python file (.py), found {path.name}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _loading(plugin, f"plugin {source}"):
        # What runs is what the digest is of: Python's own loader would take compiled code that lies beside the file, as
        # long as its size and the second of its change are the same.
        exec(compile(text, str(path), "exec", dont_inherit=True), module.__dict__)


@contextmanager
def _loading(plugin: Plugin, what: str) -> Iterator[None]:
    _LOADING.append(plugin)
    try:
        yield
    except LingbotEvalError as error:
        raise ConfigError(f"{what}: {error}") from error
    except (Exception, SystemExit) as error:  # a plugin is foreign code: it raises anything, and exits
        place = "" if isinstance(error, SyntaxError) else place_in_plugin(error)
        raise ConfigError(f"{what} cannot be loaded: {one_line(error)}{place}") from error
    finally:
        _LOADING.pop()
    _PLUGINS[plugin.source] = plugin


def _plugin_of(origin: object) -> Plugin:
    """The plugin of what is registered in a process of the user's own: his script, module or notebook."""
    module = str(getattr(origin, "__module__", "__main__"))
    file = inspect.getsourcefile(origin) if isinstance(origin, type) or callable(origin) else None
    if file is not None and Path(file).is_file():
        path = Path(file).resolve()
        name = path.stem if module == "__main__" else module
        return Plugin(name, _sha256(path.read_bytes()), str(path))
    # A notebook's cell or a prompt has no file: nothing tells whether it was changed, so no result is taken for its.
    return Plugin(module, uuid.uuid4().hex, module)


def _plugin_of_module(name: str) -> Plugin:
    try:
        spec = importlib.util.find_spec(name)
    except ImportError as error:
        raise ConfigError(f"plugin {name} cannot be loaded: {one_line(error)}") from error
    if spec is None or spec.origin is None:
        raise ConfigError(f"plugin {name}: expected an importable module, found none")
    folders = spec.submodule_search_locations
    files = sorted(Path(folders[0]).rglob("*.py")) if folders else [Path(spec.origin)]
    return Plugin(name, _sha256(b"\0".join(file.read_bytes() for file in files)), name)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
