"""Settings from outside become pydantic models, or one clear line that names the key and the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from lingbot_eval.errors import ConfigError

ModelT = TypeVar("ModelT", bound=BaseModel)


def nearest(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'stride'?)"``, or "" when no known name is near."""
    names = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return f" (did you mean {names[matches[0]]!r}?)" if matches else ""


def validated(model: type[ModelT], data: Any, where: str) -> ModelT:
    """``data`` as ``model``. Raises ConfigError with one line: where, key, what was expected, what was found."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        more = f" (and {len(others)} more)" if others else ""
        raise ConfigError(f"{where}: {_explain(model, first['loc'], first)}{more}") from error


def _explain(model: type[BaseModel], location: tuple[int | str, ...], error: Any) -> str:
    key = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        known = tuple(_known_keys(model, location[:-1]))
        listing = f"; known keys: {', '.join(known)}" if known else ""
        return f"unknown key {key!r}{nearest(str(location[-1]), known)}{listing}"
    if error["type"] == "missing":
        return f"key {key!r} is missing"
    message = error["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not location or error["type"] == "value_error":
        return f"{key}: {message}" if key else message
    found = repr(error["input"])
    return f"{key}: {message}, found {found if len(found) <= 80 else found[:77] + '...'}"


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> Iterator[str]:
    """Keys of the models that ``path`` may lead to; indices of lists and keys of mappings lead on to their values."""
    models = [model]
    for part in path:
        annotations = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        if annotations:
            models = [found for annotation in annotations for found in _models_in(annotation)]
        elif not isinstance(part, int):
            # A mapping's key or a union's tag: the candidates stay, narrowed to the tag where it is a model's name.
            models = [m for m in models if m.__name__ == part] or models
    for candidate in models:
        yield from candidate.model_fields


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
