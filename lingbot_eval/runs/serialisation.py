"""Records to JSON files and back: strict on both ways, so that no NaN and no unknown key passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from lingbot_eval.errors import StoreError, reason
from lingbot_eval.formats.atomic import write_text
from lingbot_eval.formats.json_documents import read_json
from lingbot_eval.runs.records import SCHEMA_VERSION

RecordT = TypeVar("RecordT", bound=BaseModel)


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record, whole or not at all. Raises StoreError when the disk refuses or a value is not JSON (NaN)."""
    try:
        # Pydantic's own JSON mode would turn NaN into null in silence; json refuses it.
        text = json.dumps(record.model_dump(), indent=2, allow_nan=False, ensure_ascii=False)
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"cannot store {path.name}: expected plain JSON values, found {reason(error)}; "
            "give a reason in place of a number that does not exist"
        ) from error
    write_text(path, text + "\n")


def read_record(path: Path, kind: type[RecordT]) -> RecordT:
    """Read a record. Raises StoreError naming the file when it is missing, damaged or of another version."""
    try:
        value = read_json(path)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {reason(error)}; is this a run directory?") from error
    except ValueError as error:
        raise _damaged(path, f"text that is not JSON ({reason(error)})") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise StoreError(
            f"{path}: expected a record of schema version {SCHEMA_VERSION}, found {version}; "
            "read it with the lingbot_eval that wrote it, or run again"
        )
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _damaged(path, f"{place + ': ' if place else ''}{reason(ValueError(first['msg']))}") from error


def _damaged(path: Path, found: str) -> StoreError:
    return StoreError(f"{path}: expected a stored record, found {found}; remove it and run again")
