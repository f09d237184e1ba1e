"""YAML files that people write, read safely and strictly: no code, no key given twice, errors with their line."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from lingbot_eval.errors import ConfigError, at, reason
from lingbot_eval.files.json_documents import MAX_DEPTH, depth
from lingbot_eval.files.reading import read_file

MAX_BYTES = 1_000_000
MAX_NODES = 100_000
"""Far beyond any real file; YAML aliases can make a few lines unfold into billions of values."""

_TIMESTAMP, _INT, _FLOAT = (f"tag:yaml.org,2002:{kind}" for kind in ("timestamp", "int", "float"))


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, of which YAML would silently keep the last; dates are text."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError) as error:
            # What Python says to 0x_, "!!int abc" or an integer of 5000 digits comes through PyYAML as it is.
            kind = node.tag.rpartition(":")[2]
            found = repr(str(node.value)[:40])
            raise yaml.constructor.ConstructorError(
                None, None, f"expected a value of type {kind}, found {found}; put text in quotes", node.start_mark
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is not text; put it in quotes", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key}' is given twice; keep one", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# No setting is a date, but a run may be called 2026-01-31. Numbers are what people write: to YAML 1.1 1_0 is 10, 010
# is 8 and 1:30 is 90, but a scene may be called 010; where a number is wanted, such text is refused or read as said.
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_TIMESTAMP, _INT, _FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(_INT, re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_StrictLoader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def parse_value(text: str) -> Any:
    """A single YAML value, such as the right side of ``--set key=value``. Raises ConfigError."""
    try:
        return _parsed(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"'{text[:60]}' is not a YAML value ({_problem(error)})") from None
    except ConfigError as error:
        raise ConfigError(f"'{text[:60]}' is not a setting: it is {error}") from None


def load_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, keys all text and none given twice.

    Raises ConfigError with file and line for anything else: a missing, binary or oversized file, broken YAML,
    a duplicate key, a document that is not a mapping.
    """
    try:
        document = _parsed(read_file(path, MAX_BYTES).decode("utf-8"))
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected a YAML file in UTF-8, found other bytes") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({reason(error)}); check the path") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        line = mark.line + 1 if mark is not None else None
        raise ConfigError(f"{at(path, line)}: {_problem(error)}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected settings as 'key: value' lines, found {_kind(document)}")
    return document


def _parsed(text: str) -> Any:
    """What YAML text means.

    Raises yaml.YAMLError, and ConfigError, whose text continues a sentence about the document, for depth or aliases
    beyond any settings.
    """
    try:
        document = yaml.load(text, Loader=_StrictLoader)
    except RecursionError:
        raise ConfigError("nested too deeply for a settings file") from None
    _refuse_unfolding(document)
    if depth(document) > MAX_DEPTH:
        raise ConfigError("nested too deeply for a settings file")
    return document


def _kind(document: Any) -> str:
    return "nothing" if document is None else f"a {type(document).__name__}"


def _problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.constructor.ConstructorError) and error.problem:
        return error.problem
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        return f"not valid YAML: {error.problem}"
    return f"not valid YAML: {' '.join(str(error).split())}"


def _refuse_unfolding(document: Any) -> None:
    stack, nodes = [document], 0
    while stack:
        value = stack.pop()
        nodes += 1
        if nodes > MAX_NODES:
            raise ConfigError(f"unfolding into more than {MAX_NODES} values; write it without nested aliases")
        if isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
