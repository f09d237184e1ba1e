"""Records to JSON files and back: strict on both ways, so that no NaN, no unknown key and no changed byte passes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from lingbot_eval.errors import StoreError, reason
from lingbot_eval.files.atomic import write_text
from lingbot_eval.files.json_documents import parse_json, read_json
from lingbot_eval.runs.records import SCHEMA_VERSION

RecordT = TypeVar("RecordT", bound=BaseModel)

CHECKSUM = "sha256"


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record and its checksum, whole or not at all.

    Raises StoreError when the disk refuses or a value is not JSON (NaN).
    """
    try:
        # Pydantic's own JSON mode would turn NaN into null in silence; json refuses it.
        content = parse_json(json.dumps(record.model_dump(), allow_nan=False).encode())
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreError(
            f"cannot store {path.name}: expected plain JSON values, found {reason(error)}; "
            "give a reason in place of a number that does not exist"
        ) from error
    text = json.dumps(content | {CHECKSUM: _checksum(content)}, indent=2, ensure_ascii=False)
    write_text(path, text + "\n")


def read_record(path: Path, kind: type[RecordT]) -> RecordT:
    """Read a record. Raises StoreError naming the file when it is missing, damaged, changed or of another version."""
    try:
        value = read_json(path, links=False)
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
    if isinstance(value, dict) and version != 1 and value.pop(CHECKSUM, None) != _checksum(value):
        raise _damaged(path, "a content that its checksum is not of: it was changed after it was written")
    try:
        return kind.model_validate(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _damaged(path, f"{place + ': ' if place else ''}{reason(ValueError(first['msg']))}") from error


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def canonical_json(content: Any) -> str:
    """One text for one content: keys sorted, no spaces."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _damaged(path: Path, found: str) -> StoreError:
    return StoreError(f"{path} is damaged: expected a stored record, found {found}; remove it and run again")
