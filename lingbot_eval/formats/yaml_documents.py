"""YAML files that people write, read safely and strictly: no code, no key given twice, errors with their line."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from lingbot_eval.errors import ConfigError, at

MAX_BYTES = 1_000_000
MAX_NODES = 100_000
"""Far beyond any real file; YAML aliases can make a few lines unfold into billions of values."""


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, of which YAML would silently keep the last."""

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


def parse_value(text: str) -> Any:
    """A single YAML value, such as the right side of ``--set key=value``. Raises ConfigError."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"'{text}' is not a YAML value ({_problem(error)})") from None


def load_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, keys all text and none given twice.

    Raises ConfigError with file and line for anything else: a missing, binary or oversized file, broken YAML,
    a duplicate key, a document that is not a mapping.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: expected a YAML file of at most {MAX_BYTES} bytes, found {path.stat().st_size}")
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected a YAML file in UTF-8, found other bytes") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply for a settings file") from None
    except yaml.YAMLError as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        line = mark.line + 1 if mark is not None else None
        raise ConfigError(f"{at(path, line)}: {_problem(error)}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected settings as 'key: value' lines, found {_kind(document)}")
    _refuse_unfolding(document, path)
    return document


def _kind(document: Any) -> str:
    return "nothing" if document is None else f"a {type(document).__name__}"


def _problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.constructor.ConstructorError) and error.problem:
        return error.problem
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        return f"not valid YAML: {error.problem}"
    return f"not valid YAML: {' '.join(str(error).split())}"


def _refuse_unfolding(document: Any, path: Path) -> None:
    stack, nodes = [document], 0
    while stack:
        value = stack.pop()
        nodes += 1
        if nodes > MAX_NODES:
            raise ConfigError(f"{path}: unfolds into more than {MAX_NODES} values; write it without nested aliases")
        if isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
