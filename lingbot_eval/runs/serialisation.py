"""Records to JSON files and back: strict on both ways, so that no NaN, no unknown key and no changed byte passes."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from lingbot_eval.errors import StoreError, reason
from lingbot_eval.files.atomic import write_text
from lingbot_eval.files.json_documents import MAX_BYTES, parse_json
from lingbot_eval.files.reading import read_file
from lingbot_eval.runs.records import SCHEMA_VERSION

RecordT = TypeVar("RecordT", bound=BaseModel)

CHECKSUM = "sha256"
_END = re.compile(rb',"sha256":"([0-9a-f]{64})"\}\n\Z')


def write_record(path: Path, record: BaseModel, *, indent: int | None = None) -> None:
    """Write a record and its checksum, whole or not at all.

    Args:
        path: The file.
        record: What to write.
        indent: Blanks a level, for a file that people read; None writes one line, which is read five times as fast.

    Raises:
        StoreError: the disk refuses, or a value is not JSON (NaN).
    """
    try:
        # Pydantic's own JSON mode would turn NaN into null in silence; json refuses it.
        content = parse_json(json.dumps(record.model_dump(), allow_nan=False).encode())
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreError(
            f"cannot store {path.name}: expected plain JSON values, found {reason(error)}; "
            "give a reason in place of a number that does not exist"
        ) from error
    text = canonical_json(content)
    digest = hashlib.sha256(text.encode()).hexdigest()
    if indent is None:
        text = f'{text[:-1]},"{CHECKSUM}":"{digest}"}}'
    else:
        text = json.dumps(content | {CHECKSUM: digest}, indent=indent, ensure_ascii=False)
    write_text(path, text + "\n")


def read_record(path: Path, kind: type[RecordT]) -> RecordT:
    """Read a record. Raises StoreError naming the file when it is missing, damaged, changed or of another version."""
    try:
        data = read_file(path, MAX_BYTES, links=False)
        value = _as_written(data)
        proven = value is not None
        value = value or parse_json(data)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {reason(error)}; is this a run directory?") from error
    except ValueError as error:
        raise _damaged(path, f"text that is not JSON ({reason(error)})") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if isinstance(version, int) and not 1 <= version <= SCHEMA_VERSION:
        raise StoreError(
            f"{path}: expected a record of schema version 1 to {SCHEMA_VERSION}, found {version}; "
            "read it with the lingbot_eval that wrote it, or run again"
        )
    if isinstance(value, dict) and not proven and version != 1 and value.pop(CHECKSUM, None) != _checksum(value):
        raise _damaged(path, "a content that its checksum is not of: it was changed after it was written")
    try:
        return kind.model_validate(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _damaged(path, f"{place + ': ' if place else ''}{reason(ValueError(first['msg']))}") from error


def _as_written(data: bytes) -> dict[str, Any] | None:
    """The content of a file in one line whose bytes are those that its checksum is of; None for any other.

    That proves what `parse_json` looks for; of ten thousand units it is half a minute.
    """
    end = _END.search(data, max(0, len(data) - 100))
    if end is None:
        return None
    content = data[: end.start()] + b"}"
    if hashlib.sha256(content).hexdigest().encode() != end[1]:
        return None
    try:
        value = from_json(content, allow_inf_nan=False)
    except ValueError:
        # A file name that is not UTF-8 is in it with lone surrogates.
        return None
    return value if isinstance(value, dict) else None


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def canonical_json(content: Any) -> str:
    """One text for one content: keys sorted, no spaces."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _damaged(path: Path, found: str) -> StoreError:
    return StoreError(f"{path} is damaged: expected a stored record, found {found}; remove it and run again")
