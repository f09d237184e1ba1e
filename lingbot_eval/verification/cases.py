"""Reference cases on disk: ``cases.json`` with the settings, ``NAME.npz`` with the arrays to reproduce."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lingbot_eval.errors import ConfigError, DataError, reason
from lingbot_eval.files.arrays import read_npz
from lingbot_eval.files.json_documents import read_json

CASE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
Positive = Annotated[int, Field(ge=1)]


class Case(BaseModel):
    """Settings of one reference case (docs/reference-cases.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["streaming", "windowed", "stages"]
    model: Literal["mini", "full"] = "mini"
    frames: Positive | None = None
    height: Positive
    width: Positive
    image_phase: float = 0.0
    scale_frames: Positive
    window: Positive
    keyframe_interval: Positive | Literal["auto"] = 1
    camera_iterations: Positive = 4
    point_head: bool = False
    flow_threshold: Annotated[float, Field(ge=0)] | None = None
    max_non_keyframe_gap: Positive | None = None
    window_size: Positive | None = None
    overlap_size: Positive | None = None
    overlap_keyframes: Positive | None = None
    rows: tuple[Annotated[int, Field(ge=0)], ...] | None = None


@dataclass(frozen=True)
class Unsupported:
    """A case that this version cannot run, and why."""

    reason: str


@dataclass(frozen=True)
class CaseSet:
    """A folder of reference cases."""

    folder: Path
    cases: dict[str, Case | Unsupported]

    def reference(self, name: str) -> dict[str, NDArray[Any]]:
        """The arrays of one case. Raises DataError for a file that is missing or damaged."""
        path = self.folder / f"{name}.npz"
        try:
            arrays = read_npz(path)
        except FileNotFoundError as error:
            raise DataError(f"{path}: not there, though cases.json names case '{name}'") from error
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: not a readable .npz of plain arrays ({reason(error)}); make or fetch it again"
            ) from error
        if not arrays:
            raise DataError(f"{path}: expected the arrays of case '{name}', found none")
        return arrays


def shipped_cases() -> Path:
    """The small set that comes with the package."""
    return Path(str(resources.files("lingbot_eval.verification"))) / "reference"


def load_cases(folder: Path, names: tuple[str, ...] = ()) -> CaseSet:
    """The cases of a folder, or those of ``names``. Raises DataError or ConfigError."""
    path = folder / "cases.json"
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; give a folder with cases.json and NAME.npz files") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({reason(error)})") from error
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise DataError(f"{path}: expected an object of case name → settings")
    odd = next((name for name in content if not CASE_NAME.fullmatch(name)), None)
    if not content or odd is not None:
        found = "none" if odd is None else repr(odd)
        raise DataError(f"{path}: expected cases named in letters, digits, '_', '-' and '.', found {found}")
    unknown = [name for name in names if name not in content]
    if unknown:
        raise ConfigError(f"{path}: no case {', '.join(unknown)}; there are {', '.join(sorted(content))}")
    return CaseSet(folder, {name: _parse(f"{path}: case {name}", content[name]) for name in (names or content)})


def _parse(where: str, settings: dict[str, Any]) -> Case | Unsupported:
    """A case of a kind, or with a setting, that this version does not know is not supported; the rest is an error."""
    try:
        case = Case.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        setting = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden" or setting in ("kind", "model"):
            return Unsupported(f"{setting} = {first.get('input')!r} is not supported")
        raise DataError(f"{where}: {setting}: {first['msg'].lower()}, found {first.get('input')!r}") from error
    if case.kind != "stages" and case.frames is None:
        raise DataError(f"{where}: expected frames, found none; a {case.kind} case needs their number")
    if case.rows is not None and (not case.rows or max(case.rows) >= (case.frames or 0)):
        raise DataError(f"{where}: expected rows among its {case.frames} frames, found {list(case.rows)}")
    return case
