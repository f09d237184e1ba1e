"""The stored form of a run: what is in run.json and in each unit's result.json (schema version below).

Layout of a run directory::

    RUN/run.json                          the run's record (RunRecord)
    RUN/units/DATASET/SCENE/METHOD/
        result.json                       UnitRecord; its presence means the unit is done
        frames.csv                        one row a frame (columns: FRAME_COLUMNS)
        estimate.tum  reference.tum       trajectories (TUM lines: time tx ty tz qx qy qz qw, camera-to-world)
        drift.npz                         how the error grows along the sequence (types.DriftSeries)
        panels.npz                        a few frames kept for the depth panels
    RUN/.lock                             held while a process writes here

DATASET, SCENE and METHOD are percent-encoded so that any name is one path component. Each record ends with the SHA-256
of its own content (stored/records.py); a unit's record has that of its other files, and the key of its run.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Required, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic_core import from_json
from typing_extensions import TypedDict

from lingbot_eval.declarations import with_declaration
from lingbot_eval.errors import StoreError, reason
from lingbot_eval.files.atomic import write_text
from lingbot_eval.files.json_documents import MAX_BYTES, parse_json
from lingbot_eval.files.reading import read_file
from lingbot_eval.types import CACHE_KINDS, Measurement

SCHEMA_VERSION = 2
"""1 had no checksums and no key in a unit's record: it is read still, and cannot be checked."""

FRAME_COLUMNS = (
    "index",
    "timestamp",
    "frame_type",  # scale, kept, unkept; empty for methods without a cache
    "forward_ms",  # the step on its device: between CUDA events, on a CPU wall clock
    "interval_ms",  # wall time since the previous prediction left: end to end
    "position_error_m",  # after the Sim(3) alignment of the whole sequence; empty without a reference pose
    "rotation_error_deg",  # likewise
    "depth_abs_rel",  # this frame alone, scale_only alignment; empty where it cannot be scored
    *(f"cache_{kind}_bytes" for kind in CACHE_KINDS),
    "device_bytes",
    "process_bytes",  # resident set size of the process
)


def utc_now() -> str:
    """The time as records state it: ISO 8601, whole seconds, ``2026-01-31T12:00:00+00:00``."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def is_untrained(weights: str) -> bool:
    """Whether a record's words on a method's weights say that there are no trained ones."""
    return weights.startswith("untrained")


Names = tuple[str, ...]
"""Of a unit: dataset, scene and method; of a study's, the name of the case."""
Count = Annotated[int, Field(ge=0, lt=2**53)]


class StoredRecord(BaseModel):
    """What is stored is read strictly: nothing unknown, nothing changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StoredFile(StoredRecord):
    """Size and content of a file as it was written. sha256: hex; None in records of schema 1, which had sizes alone."""

    bytes: Count
    sha256: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _size_alone(cls, given: Any) -> Any:
        return {"bytes": given} if isinstance(given, int) else given


_MEASUREMENTS = TypeAdapter(list[Measurement])


class HostRecord(StoredRecord):
    """Where a unit of a shared run was done. beside: other units at work on that host meanwhile. differs: hardware that
    is not what the run's record states, a line each."""

    name: str
    gpu: str | None = None  # CUDA_VISIBLE_DEVICES
    beside: Count = 0
    differs: list[str] = []


class ResultRecord(StoredRecord):
    """What the result of every unit says, of a run's and of a study's (a case)."""

    schema_version: int = SCHEMA_VERSION
    status: Literal["ok", "failed"]
    reason: str | None = None  # for failed: one line
    stage: str | None = None  # for failed: a `lingbot_eval.runs.attempt.Stage`
    failed_at_frame: Count | None = None
    frames: Count  # frames that the sequence gave
    predictions: Count  # frames that got a prediction
    measurements: list[Measurement]
    started: str  # ISO 8601, UTC
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    # From the command, of later units from their beginning, to the first prediction: seconds by part, and the total.
    wait_s: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}
    # Frames at which it went on from a saved state, after it was cut off; seconds and wait_s are of the last start.
    went_on_at: list[Count] = []
    # Filled in when all is written: the key of the run that the unit is of, and its other files by name.
    run_key: str = ""
    # Of a run that several processes share: where it ran, and what tells its times from those of an undisturbed one.
    host: HostRecord | None = None
    files: dict[Annotated[str, Field(pattern=r"^[^/.\x00][^/\x00]*$")], StoredFile] = {}

    @field_validator("measurements", mode="before")
    @classmethod
    def _declared(cls, given: Any) -> Any:
        # Strict reading takes instances alone; the fields of a Measurement are strict themselves.
        return [with_declaration(measured) for measured in _MEASUREMENTS.validate_python(given)]

    @property
    def names(self) -> Names:
        """Under which it is stored."""
        raise NotImplementedError

    @property
    def disturbed(self) -> str | None:
        """Why times and memory of this unit are not to be held against others; None where nothing is known of it."""
        if self.host is None:
            return None
        if self.host.differs:
            return f"measured on other hardware than the run's record states: {'; '.join(self.host.differs)}"
        return "measured while other units ran on the host" if self.host.beside else None

    @property
    def placed_remarks(self) -> tuple[str, ...]:
        """What a reader of the numbers must know, with what it is on; of a case its page has it."""
        return ()


class UnitRecord(ResultRecord):
    """The result of one method on one scene: scores, or the reason there are none."""

    dataset: str
    scene: str
    method: str
    input_fingerprint: str
    sequence: dict[str, Any]  # FrameSequence.facts() and the preparation
    method_facts: dict[str, Any]  # Method.describe()
    # Of the longer stream that it is the beginning of, as whose part it was scored; None: it was streamed by itself.
    stream_frames: Count | None = None
    notes: list[str] = []  # on the numbers: poses that look inverse, few matches; a sentence each

    @property
    def names(self) -> Names:
        return self.dataset, self.scene, self.method

    @property
    def remarks(self) -> tuple[str, ...]:
        """Everything that a reader of the numbers must know: notes of the scene, of the method, of the scores."""
        told = (self.sequence.get("notes"), self.method_facts.get("notes"), self.notes)
        # Of what computes nothing no time is told.
        timed = any(each.family == "throughput" and each.value is not None for each in self.measurements)
        mark = self.disturbed if timed else None
        found = [str(note) for notes in told if isinstance(notes, list) for note in notes]
        return tuple(dict.fromkeys([*found, *([f"times and memory were {mark}"] if mark else [])]))

    @property
    def placed_remarks(self) -> tuple[str, ...]:
        """Each with its scene, and with the method unless it is on the scene alone."""
        of_scene = self.sequence.get("notes") or ()
        place = f"{self.dataset}/{self.scene}"
        return tuple(f"{place if text in of_scene else f'{place} with {self.method}'}: {text}" for text in self.remarks)


# What is read of a stored experiment: of these types where it is there. The rest of it is shown as it is.
class _Published(TypedDict, total=False):
    method: Required[str]
    source: Required[str]
    values: Required[dict[str, Annotated[float, Field(allow_inf_nan=False)]]]
    scenes: int | None
    scene_names: list[str]
    conventions: str | None
    selection: dict[str, Any] | None


class _Protocol(TypedDict, total=False):
    thresholds: dict[str, Any]


class _Card(TypedDict, total=False):
    published: list[_Published]
    protocol: _Protocol
    expected_scenes: dict[str, Any]


class _Dataset(TypedDict, total=False):
    name: str
    label: str | None
    selection: dict[str, Any]
    scenes: list[str] | str


class _Method(TypedDict, total=False):
    name: str
    model: dict[str, Any]


class _Experiment(TypedDict, total=False):
    cards: dict[str, _Card]
    datasets: list[_Dataset]
    methods: list[_Method]
    metrics: dict[str, dict[str, Any] | None]


_EXPERIMENT = TypeAdapter(_Experiment)


class JobRecord(StoredRecord):
    """What every run states, a study's too: where, with what, and how to repeat it."""

    schema_version: int = SCHEMA_VERSION
    key: str  # hex digest of everything that decides the numbers
    name: str
    command: str  # repeats the run
    environment: dict[str, Any]
    started: str
    finished: str | None = None
    status: Literal["running", "complete", "incomplete"] = "running"

    @property
    def planned(self) -> tuple[Names, ...]:
        """The names of all units, in order."""
        raise NotImplementedError


class RunRecord(JobRecord):
    """An experiment that was run."""

    experiment: dict[str, Any]  # resolved, defaults filled in
    units: list[Annotated[list[str], Field(min_length=3, max_length=3)]]  # planned [dataset, scene, method] in order
    weights: dict[str, str]  # method -> "untrained (seed 0)", or file name and SHA-256

    @property
    def planned(self) -> tuple[Names, ...]:
        return tuple(map(tuple, self.units))

    @field_validator("experiment")
    @classmethod
    def _readable(cls, experiment: dict[str, Any]) -> dict[str, Any]:
        try:
            _EXPERIMENT.validate_python(experiment)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
        return experiment


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
