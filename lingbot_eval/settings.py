"""Settings: what they are; those from outside become pydantic models, or one clear line that names the key and the
nearest known one; nested ones, opened into dotted names, and where two of them differ.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from lingbot_eval.errors import ConfigError

ModelT = TypeVar("ModelT", bound=BaseModel)
Key = str | int
_UNKNOWN_KIND: Literal["unknown_kind"] = "unknown_kind"
LONGEST = 100


def _each_once(given: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(given)) < len(given):
        raise ValueError(f"each once, found {', '.join(map(str, given))}")
    return given


EACH_ONCE = AfterValidator(_each_once)
"""Of a tuple of settings: what is asked for twice would be measured twice, under one name."""


class StrictModel(BaseModel):
    """Settings or a record: nothing in it changes once it is made, and a key that it does not know is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def nearest(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'stride'?)"``, or "" when no known name is near."""
    names = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return f" (did you mean {names[matches[0]]!r}?)" if matches else ""


def several(names: Iterable[str]) -> tuple[str, ...]:
    """The names; a text alone is one name, and not as many as it has letters."""
    return (names,) if isinstance(names, str) else tuple(names)


def validated(model: type[ModelT], data: Any, where: str) -> ModelT:
    """``data`` as ``model``.

    Raises ConfigError, one line: where, then each wrong key as a dotted path with what was expected and found.
    """
    try:
        made = model.model_validate(data)
    except ValidationError as error:
        raise _refusal(model, data, where, error.errors(include_url=False)) from error
    # Pydantic reads the text 1_0 as the number 10. Where it wants a number it must not be given such text.
    if (other := _without_odd_numbers(data)) != data:
        try:
            model.model_validate(other)
        except ValidationError as error:
            odd = [detail for detail in error.errors(include_url=False) if detail["type"] in _NO_NUMBER]
            for detail in odd:
                detail["input"] = str(detail["input"]).strip("'")
            if odd:
                raise _refusal(model, data, where, odd) from None
    return made


_NO_NUMBER = ("int_parsing", "float_parsing")
_ODD_NUMBER = re.compile(r"\s*[-+]?[\d_]*\d_\d[\d_.eE+-]*\s*")


def _refusal(model: type[BaseModel], data: Any, where: str, details: Iterable[ErrorDetails]) -> ConfigError:
    problems: dict[str, list[str]] = {}
    for detail in details:
        key, text = _explain(model, data, detail)
        problems.setdefault(key, []).append(text)
    # A union complains once more at its own key about what one of its members found further down.
    deepest = {key: texts for key, texts in problems.items() if not any(k.startswith(f"{key}.") for k in problems)}
    lines = [f"{key}: {_as_one(texts)}" if key else _as_one(texts) for key, texts in deepest.items()]
    return ConfigError(f"{where}: {'; '.join(lines)}")


def _without_odd_numbers(data: Any) -> Any:
    """``data`` with text that is a number to nobody but a programmer (1_0) in a form that is none to anybody."""
    if isinstance(data, Mapping):
        return {key: _without_odd_numbers(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_without_odd_numbers(value) for value in data]
    return f"'{data}'" if isinstance(data, str) and _ODD_NUMBER.fullmatch(data) else data


@dataclass(frozen=True)
class OneOf:
    """Annotates a field whose ``kind`` says which of several models it holds; new kinds may come while we run.

    members: the models, each with a literal ``kind``; asked for whenever a value is checked. others: where further
    kinds come from, in words, for whoever names one that is not there.
    """

    members: Callable[[], tuple[type[BaseModel], ...]]
    others: str = ""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validated,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value, info: value.model_dump(mode=info.mode), info_arg=True
            ),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(_union_of(self.members()).core_schema)

    def _validated(self, value: Any) -> Any:
        kind = value.get("kind") if isinstance(value, Mapping) else None
        known = [name for model in self.members() for name in get_args(model.model_fields["kind"].annotation)]
        if isinstance(kind, str) and kind not in known:
            text = f"expected {', '.join(map(repr, known))}, found {kind!r}{nearest(kind, known)}{self.others}"
            raise PydanticCustomError(_UNKNOWN_KIND, "{text}", {"text": text})
        return _union_of(self.members()).validate_python(value)


@cache
def _union_of(members: tuple[type[BaseModel], ...]) -> TypeAdapter[Any]:
    if len(members) == 1:
        return TypeAdapter(members[0])
    union: Any = Annotated[Union[members], Field(discriminator="kind")]  # noqa: UP007 - built while we run
    return TypeAdapter(union)


def _explain(model: type[BaseModel], data: Any, detail: ErrorDetails) -> tuple[str, str]:
    """Dotted key and text of one pydantic complaint; ``expected …`` texts for one key can be joined with "or"."""
    path = _data_path(data, detail["loc"], missing=detail["type"] == "missing")
    dotted = ".".join(str(part) for part in path)
    kind, found = detail["type"], _found(detail["input"])
    if kind == "extra_forbidden":
        known = _names_at(model, data, path[:-1])
        listing = f"; known keys: {', '.join(known)}" if known else ""
        return dotted, f"unknown key {str(path[-1])!r}{nearest(str(path[-1]), known)}{listing}"
    if kind == "missing":
        return dotted, "is required"
    if kind == "union_tag_not_found":
        return dotted, f"needs {_bare(detail['ctx']['discriminator'])}"
    if kind == "union_tag_invalid":
        return f"{dotted}.{_bare(detail['ctx']['discriminator'])}", (
            f"expected {detail['ctx']['expected_tags']}, found '{detail['ctx']['tag']}'"
            f"{nearest(str(detail['ctx']['tag']), _quoted(detail['ctx']['expected_tags']))}"
        )
    if kind == _UNKNOWN_KIND:
        return f"{dotted}.kind", detail["msg"]
    if kind == "value_error":
        return dotted, detail["msg"].removeprefix("Value error, ")
    message = detail["msg"].partition(", unable to")[0].replace("Tuple", "list").replace("valid tuple", "list")
    if not message.startswith("Input should be "):
        return dotted, f"{message}, found {found}"
    expected = message.removeprefix("Input should be ")
    hint = "; put it in quotes" if kind == "string_type" and isinstance(detail["input"], int | float | bool) else ""
    if kind == "literal_error" and isinstance(detail["input"], str):
        hint = nearest(detail["input"], _quoted(expected))
    return dotted, f"expected {expected}, found {found}{hint}"


def _found(value: Any) -> str:
    """A value from outside, short enough for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _quoted(listing: str) -> list[str]:
    """The names in pydantic's ``'a', 'b' or 'c'``."""
    return re.findall(r"'([^']*)'", listing)


def _bare(name: Any) -> str:
    return str(name).strip("'")


def _as_one(texts: list[str]) -> str:
    """Alternatives of a union arrive as one complaint each: say them as one."""
    split = [text.removeprefix("expected ").rsplit(", found ", 1) for text in texts]
    if len(texts) == 1 or not all(text.startswith("expected ") and ", found " in text for text in texts):
        return ", ".join(texts)
    return f"expected {' or '.join(parts[0] for parts in split)}, found {split[0][1]}"


def _data_path(data: Any, loc: tuple[Key, ...], *, missing: bool) -> list[Key]:
    """``loc`` without the names of union members, which pydantic weaves in but the file does not have."""
    path: list[Key] = []
    for position, part in enumerate(loc):
        in_mapping = isinstance(data, Mapping) and part in data
        if in_mapping or (isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)):
            path.append(part)
            data = data[part]
        elif missing and position == len(loc) - 1:
            path.append(part)
    return path


def _names_at(model: type[BaseModel], data: Any, path: list[Key]) -> tuple[str, ...]:
    """Field names that exist where ``path`` leads, in their order."""
    annotations: list[Any] = [model]
    for part in path:
        inner: list[Any] = []
        for annotation in _members(annotations, data):
            if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
                inner.extend(get_args(annotation))
            elif part in annotation.model_fields:
                inner.append(annotation.model_fields[str(part)].annotation)
        annotations, data = inner, data[part]
    models = [m for m in _members(annotations, data) if isinstance(m, type) and issubclass(m, BaseModel)]
    return tuple(dict.fromkeys(name for model in models for name in model.model_fields))


def _members(annotations: list[Any], data: Any) -> Iterator[Any]:
    """Annotations with Annotated and unions opened; of a tagged union only the member that ``data`` names."""
    for annotation in annotations:
        origin = get_origin(annotation)
        chosen = [part for part in get_args(annotation)[1:] if isinstance(part, OneOf)] if origin is Annotated else []
        if chosen:
            yield from _members(list(chosen[0].members()), data)
        elif origin is Annotated:
            yield from _members([get_args(annotation)[0]], data)
        elif origin in (Union, UnionType):
            yield from _members(list(get_args(annotation)), data)
        elif not _other_tag(annotation, data):
            yield annotation


def _other_tag(annotation: Any, data: Any) -> bool:
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel) and isinstance(data, Mapping)):
        return False
    field = annotation.model_fields.get("kind")
    if field is None or get_origin(field.annotation) is not Literal or "kind" not in data:
        return False
    return data["kind"] not in get_args(field.annotation)


def flattened(facts: Mapping[str, Any], *, lists: bool = False) -> dict[str, Any]:
    """The leaves of nested mappings by dotted name, as ``--set`` takes them; an empty mapping is a leaf.

    lists: whether lists of mappings are opened, too, by number.
    """
    return dict(_leaves(facts, "", lists=lists))


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Both values by dotted name where they differ; None for what one of the two lacks (and for a value of None)."""
    one, other = flattened(a), flattened(b)
    pairs = {key: (one.get(key), other.get(key)) for key in dict.fromkeys((*one, *other))}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def differing_in_both(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """As `differing`, of the names that both have."""
    shared = flattened(a).keys() & flattened(b).keys()
    return {key: pair for key, pair in differing(a, b).items() if key in shared}


def short(value: Any, longest: int | None = LONGEST) -> str:
    """A value as JSON in one line of at most ``longest`` characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if longest is None or len(text) <= longest else text[: longest - 1] + "…"


def _leaves(value: Any, name: str, *, lists: bool) -> Iterator[tuple[str, Any]]:
    inner: Mapping[Any, Any] = {}
    if isinstance(value, Mapping):
        inner = value
    elif lists and isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        inner = dict(enumerate(value))
    if inner:
        for key, item in inner.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key), lists=lists)
    elif name:
        # A tuple in memory is a list in a file.
        yield name, list(value) if isinstance(value, tuple) else value
