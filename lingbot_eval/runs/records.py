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
of its own content (runs/serialisation.py); a unit's record has that of its other files, and the key of its run.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from lingbot_eval.metrics.declarations import with_declaration
from lingbot_eval.types import Measurement

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
    "cache_anchor_bytes",
    "cache_window_bytes",
    "cache_memory_bytes",
    "cache_camera_head_bytes",
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

    def is_made_from(self, input_fingerprint: str) -> bool:
        """Whether it is of this input; a study's input is in its key."""
        return True


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

    def is_made_from(self, input_fingerprint: str) -> bool:
        return self.input_fingerprint == input_fingerprint

    @property
    def remarks(self) -> tuple[str, ...]:
        """Everything that a reader of the numbers must know: notes of the scene, of the method, of the scores."""
        told = (self.sequence.get("notes"), self.method_facts.get("notes"), self.notes)
        # Of what computes nothing no time is told.
        timed = any(each.family == "throughput" and each.value is not None for each in self.measurements)
        mark = self.disturbed if timed else None
        found = [str(note) for notes in told if isinstance(notes, list) for note in notes]
        return tuple(dict.fromkeys([*found, *([f"times and memory were {mark}"] if mark else [])]))


class _Part(BaseModel):
    """What is read of a stored experiment: of these types where it is there. The rest of it is shown as it is."""

    model_config = ConfigDict(extra="ignore")


class _Published(_Part):
    method: str
    source: str
    values: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    scenes: int | None = None
    scene_names: list[str] = []
    conventions: str | None = None
    selection: dict[str, Any] | None = None


class _Protocol(_Part):
    thresholds: dict[str, Any] = {}


class _Card(_Part):
    published: list[_Published] = []
    protocol: _Protocol = _Protocol()
    expected_scenes: dict[str, Any] = {}


class _Dataset(_Part):
    name: str = ""
    label: str | None = None
    selection: dict[str, Any] = {}
    scenes: list[str] | str = []


class _Method(_Part):
    name: str = ""
    model: dict[str, Any] = {}


class _Experiment(_Part):
    cards: dict[str, _Card] = {}
    datasets: list[_Dataset] = []
    methods: list[_Method] = []
    metrics: dict[str, dict[str, Any] | None] = {}


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
            _Experiment.model_validate(experiment)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
        return experiment
