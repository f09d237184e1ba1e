"""Weights: read a checkpoint and fit it to a network exactly, or draw untrained ones from a seed."""

from __future__ import annotations

import functools
import hashlib
import math
import pickle
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lingbot_eval.errors import CheckpointError, DependencyError
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.resources import SHIPPED, expanded, shipped_weights

OPTIONAL_HEADS = ("point_head.",)
SUFFIXES = (".pt", ".safetensors")
LISTED_KEYS = 8


@dataclass(frozen=True)
class WeightSource:
    """Where a network's numbers came from, as the record states it.

    name: "untrained (seed N)", or the checkpoint as it was asked for. sha256: of the file, None when untrained.
    notes: a line each, e.g. weights of a head that is switched off.
    """

    name: str
    sha256: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def trained(self) -> bool:
        """Whether the weights were read from a checkpoint."""
        return self.sha256 is not None


def resolve_checkpoint(checkpoint: str) -> Path:
    """The local file of a path, of ``shipped``, or of ``hf://owner/repo/file`` (downloaded once to the hub's cache).

    Raises CheckpointError for a file that is not there or of another kind, DependencyError without the hub library,
    ConfigError for an installation without its weights.
    """
    if checkpoint == SHIPPED:
        return shipped_weights()
    if checkpoint.startswith("hf://"):
        return _download(checkpoint)
    path = expanded(checkpoint)
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path}: expected a {' or '.join(SUFFIXES)} file, found '{path.suffix or path.name}'")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file; give a local file or hf://owner/repo/file")
    return path


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces; once a process, as long as its size and modification time stay."""
    stat = path.stat()
    return _sha256(path.resolve(), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    """``size`` and ``modified_ns`` make a changed file another entry."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_checkpoint(model: GeometricContextTransformer, checkpoint: str) -> WeightSource:
    """Fill ``model`` (on the CPU) from a checkpoint whose keys and shapes match exactly.

    ``.pt`` holds a state dict, or one under ``model``; it is read with ``weights_only=True``, so a file that carries
    code is refused. Weights of a head that the model does not have are skipped, with a note.
    Raises CheckpointError listing missing, unknown or misshaped keys.
    """
    path = resolve_checkpoint(checkpoint)
    state, notes = _without_absent_heads(model, _read(path))
    _check_fit(path, dict(model.state_dict()), state)
    model.load_state_dict(state)
    return WeightSource(checkpoint, file_sha256(path), notes)


@torch.no_grad()
def draw_untrained(model: nn.Module, seed: int) -> WeightSource:
    """Fill ``model`` with weights that have learned nothing, each parameter from its own name and the seed.

    Independent of construction order and of torch's global generator, so a seed means the same network everywhere.
    """
    for name, parameter in model.named_parameters():
        # Seed and name in one 32-bit number: torch's generator on a CPU ignores the upper half of a longer one.
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
        if name.endswith(".gamma"):
            parameter.fill_(0.1)
        elif name.endswith(".bias"):
            parameter.zero_()
        elif name.endswith(".weight") and parameter.ndim == 1:
            parameter.fill_(1.0)
        elif name.endswith(".weight"):
            spread = 1 / math.sqrt(math.prod(parameter.shape[1:]))
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
        else:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return WeightSource(f"untrained (seed {seed})")


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path, device="cpu")
        with warnings.catch_warnings():
            # torch warns of unusual pickles before it refuses or reads them; what comes of it is reported below.
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, it holds more than tensors (loading it could run code); "
            "ask its author for a .safetensors file or a plain state dict"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged or truncated checkpoint ({reason}); fetch it again") from error
    return _state_dict(path, content)


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    inner = content.get("model") if isinstance(content, Mapping) else None
    state = inner if isinstance(inner, Mapping) else content
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path}: expected a state dict, or one under 'model', found {type(content).__name__}")
    return {str(key): value for key, value in state.items()}


def _without_absent_heads(
    model: GeometricContextTransformer, state: dict[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    present = model.state_dict().keys()
    notes = []
    for prefix in OPTIONAL_HEADS:
        extra = [key for key in state if key.startswith(prefix)]
        if extra and not any(key.startswith(prefix) for key in present):
            state = {key: value for key, value in state.items() if not key.startswith(prefix)}
            notes.append(f"{prefix.rstrip('.')} is switched off: {len(extra)} of its weights skipped")
    return state, tuple(notes)


def _check_fit(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    faults = {
        "missing": [key for key in expected if key not in found],
        "unknown": [key for key in found if key not in expected],
        "misshaped": [
            f"{key} (expected {tuple(expected[key].shape)}, found {tuple(found[key].shape)})"
            for key in expected
            if key in found and expected[key].shape != found[key].shape
        ],
        "not floating point": [key for key in found if key in expected and not found[key].is_floating_point()],
    }
    parts = [f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in faults.items() if keys]
    if parts:
        raise CheckpointError(
            f"{path}: not a checkpoint of this configuration; {'; '.join(parts)}. "
            "Choose the configuration it was made with (model.config), or its heads (model.point_head)"
        )


def _some(keys: list[str]) -> str:
    more = len(keys) - LISTED_KEYS
    return ", ".join(keys[:LISTED_KEYS]) + (f" and {more} more" if more > 0 else "")


def _download(address: str) -> Path:
    owner, _, rest = address.removeprefix("hf://").partition("/")
    repository, _, name = rest.partition("/")
    if not (owner and repository and name):
        raise CheckpointError(f"{address}: expected hf://owner/repo/file")
    if not name.endswith(SUFFIXES):
        raise CheckpointError(f"{address}: expected a {' or '.join(SUFFIXES)} file")
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise DependencyError(
            f"{address}: needs huggingface_hub; pip install 'lingbot-eval[hub]', or give a local file"
        ) from error
    try:
        return Path(huggingface_hub.hf_hub_download(f"{owner}/{repository}", name))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{address}: could not be fetched ({reason})") from error
