"""Weights: fit a checkpoint to a network exactly, or draw untrained ones from a seed."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lingbot_eval.errors import CheckpointError, ConfigError, DataError, DependencyError, is_out_of_memory
from lingbot_eval.files import downloads
from lingbot_eval.model.checkpoint_files import (
    INDEX_SUFFIX,
    SUFFIXES,
    Content,
    Load,
    read_shards,
    shard_files,
    shard_names,
    shown,
)
from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.resources import PUBLIC, SHIPPED, expanded, shipped_weights
from lingbot_eval.validation import nearest

OPTIONAL_HEADS = ("point_head.",)
LISTED_KEYS = 8

_WRAPPERS = ("module", "_orig_mod")
"""Words that torch's parallel and compiled modules put into names."""


@dataclass(frozen=True)
class WeightSource:
    """Where a network's numbers came from, as the record states it.

    name: "untrained (seed N)", or the checkpoint as it was asked for. sha256: of the file, None when untrained; of a
    checkpoint in several files, over their names and hashes.
    notes: a line each: where in the file the weights were found, what was left out, a head that is switched off.
    """

    name: str
    sha256: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def trained(self) -> bool:
        """Whether the weights were read from a checkpoint."""
        return self.sha256 is not None


def resolve_checkpoint(checkpoint: str) -> Path:
    """The local file of what an experiment writes: ``shipped``, a public name, ``hf://…``, a file, index or folder.

    What the hub has is downloaded once to its cache; of a public name (`lingbot_eval.resources.PUBLIC`) size and
    SHA-256 are checked.

    Args:
        checkpoint: ``shipped``, ``lingbot-map``, ``hf://owner/repo[@revision]/file`` or a local path.

    Raises:
        CheckpointError: The file is not there, cannot be fetched or is not the published one.
        DependencyError: The hub library is not installed.
        ConfigError: The installation lacks its weights.
    """
    if checkpoint == SHIPPED:
        return shipped_weights()
    if checkpoint in _models():
        return fetch(checkpoint)
    if checkpoint.startswith("hf://"):
        return _download(checkpoint)
    path = expanded(checkpoint)
    if not path.exists() and path.is_symlink():
        raise CheckpointError(f"{path} is a link to {path.readlink()}, which does not exist; mend it")
    if not path.exists():
        raise CheckpointError(
            f"{path}: no such checkpoint file{nearest(checkpoint, _offered(path))}; give a file, a folder, an index, "
            f"hf://owner/repo/file, or one of {', '.join((SHIPPED, *_models()))}"
        )
    shard_files(path)
    return path


def _offered(path: Path) -> tuple[str, ...]:
    """Names that a mistyped one may have meant: the known ones, and the files beside it."""
    beside = []
    if path.parent.is_dir():
        beside = [str(path.with_name(file.name)) for file in path.parent.iterdir() if file.name.endswith(SUFFIXES)]
    return (SHIPPED, *_models(), *beside)


def _models() -> tuple[str, ...]:
    return tuple(name for name, file in PUBLIC.items() if file.config is not None)


def checkpoint_sha256(path: Path) -> str:
    """Hex SHA-256 of a checkpoint: of its file, or over names and hashes of its files where it has several."""
    files = shard_files(path)
    if files == (path,):
        return file_sha256(path)
    lines = "".join(f"{file_sha256(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces; once a process, as long as its size and modification time stay.

    Raises:
        CheckpointError: The file cannot be read.
    """
    try:
        return downloads.file_sha256(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


def load_checkpoint(model: GeometricContextTransformer, checkpoint: str) -> WeightSource:
    """Fill ``model`` (on the CPU) from a checkpoint whose keys and shapes match exactly, wherever they lie in the file.

    Nothing that a file holds is run (`lingbot_eval.model.checkpoint_files`); objects that are no tensors are left out,
    with a note. So are weights of a head that the model does not have.

    Raises:
        CheckpointError: Missing, unknown or misshaped keys, weights that are not finite, a damaged or foreign file.
        DependencyError: The machine has too little memory.
    """
    path = resolve_checkpoint(checkpoint)
    try:
        loads, notes = fitting(model, path)
        state = {name: load() for name, load in loads.items()}
        _check_finite(path, state)
        model.load_state_dict(state)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise DependencyError(f"{path}: this machine has too little memory to load it; free some") from error
    return WeightSource(checkpoint, checkpoint_sha256(path), notes)


def fitting(model: nn.Module, path: Path) -> tuple[dict[str, Load], tuple[str, ...]]:
    """The tensors of a local checkpoint that fill ``model`` (on any device), by its names, and notes on the others.

    Headers alone are read. Raises CheckpointError for a damaged or foreign file and for keys or shapes that do not fit.
    """
    content = read_shards(path)
    if not content.tensors:
        raise CheckpointError(
            f"{path}: expected a state dict of tensors, found none{''.join(f'; {note}' for note in _left_out(content))}"
        )
    expected = dict(model.state_dict())
    chosen = _choose(expected, content)
    loads, skipped = _without_absent_heads(expected, chosen.loads)
    _check_fit(path, expected, loads)
    return loads, (*chosen.notes, *skipped)


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


@dataclass(frozen=True)
class _Chosen:
    """The network's tensors among those of a file, by the network's names, with unknown ones that stand beside them.

    notes: what was taken off the names and what was left unread.
    """

    loads: dict[str, Load]
    notes: tuple[str, ...]


def _choose(expected: Iterable[str], content: Content) -> _Chosen:
    """Find the network's tensors, wherever in the file they lie and whatever stands before their names.

    Containers and wrappers are alike here: both put words before a name (``state_dict.model.``, ``module.``). The words
    that most of the network's names stand behind are taken off; words of wrappers further inside go, too.
    """
    wanted = set(expected)
    found: dict[str, dict[str, str]] = {}  # prefix → expected name → full name
    for full in content.tensors:
        for prefix, name in _readings(full, wanted):
            found.setdefault(prefix, {}).setdefault(name, full)
    if not found:
        return _Chosen(dict(content.tensors), _left_out(content))
    prefix = min(found, key=lambda words: (-len(found[words]), _is_average(words)))
    taken = found[prefix]
    used, folders = set(taken.values()), {content.folders[full] for full in taken.values()}
    others = [full for full in content.tensors if full not in used]
    # In the same container and behind the same words, but of no name that the network knows.
    unknown = {full for full in others if full.startswith(prefix) and content.folders[full] in folders}
    notes = []
    if prefix:
        notes.append(f"the weights' names stand behind '{shown(prefix)}' in the file, which is taken off")
    wrapped = sum(full != prefix + name for name, full in taken.items())
    if wrapped:
        notes.append(f"{' or '.join(_WRAPPERS)} is taken out of the names of {wrapped} weights")
    rivals = [words for words in found if words != prefix and len(found[words]) == len(taken)]
    notes += [f"as many weights stand behind '{shown(words)}', which are not read" for words in rivals]
    unread = [full for full in others if full not in unknown]
    if unread:
        notes.append(f"{len(unread)} tensors elsewhere in the file are not read, such as {shown(unread[0])}")
    loads = {name: content.tensors[full] for name, full in taken.items()}
    loads |= {full.removeprefix(prefix): content.tensors[full] for full in content.tensors if full in unknown}
    return _Chosen(loads, (*notes, *_left_out(content)))


def _readings(full: str, wanted: set[str]) -> Iterator[tuple[str, str]]:
    """The ways to take a full name as words before one that the network has."""
    parts = full.split(".")
    for start, part in enumerate(parts):
        name = ".".join(word for word in parts[start:] if word not in _WRAPPERS)
        if part not in _WRAPPERS and name in wanted:
            yield "".join(f"{word}." for word in parts[:start]), name


def _is_average(prefix: str) -> bool:
    """Whether words say that these are weights averaged over training, which come second to the weights themselves."""
    return any(word in prefix.lower() for word in ("ema", "average", "avg", "swa", "teacher"))


def _left_out(content: Content) -> tuple[str, ...]:
    if not content.left_out:
        return ()
    names = [name for name, _ in content.left_out.most_common()]
    count = content.left_out.total()
    return (f"{count} object{'s' * (count != 1)} of other kinds left out, none of their code was run: {_some(names)}",)


def _check_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError naming the weights that are NaN or infinite, as the network would have them."""
    bad = {}
    for name, tensor in state.items():
        values = tensor.float()
        # A sum shows NaN and infinity in one pass without a mask; float64 has room for all of float32's.
        if not math.isfinite(float(values.sum(dtype=torch.float64))):
            bad[name] = int((~torch.isfinite(values)).sum())
    if bad:
        words = _some([f"{name} ({count} of {state[name].numel()})" for name, count in bad.items()])
        raise CheckpointError(
            f"{path}: {sum(bad.values())} weights in {len(bad)} of {len(state)} tensors are NaN or infinite: {words}; "
            "its training diverged or the file is damaged: fetch it again or take an earlier one"
        )


def _without_absent_heads(expected: Iterable[str], loads: dict[str, Load]) -> tuple[dict[str, Load], tuple[str, ...]]:
    present = tuple(expected)
    notes = []
    for prefix in OPTIONAL_HEADS:
        extra = [key for key in loads if key.startswith(prefix)]
        if extra and not any(key.startswith(prefix) for key in present):
            loads = {key: value for key, value in loads.items() if not key.startswith(prefix)}
            notes.append(f"{prefix.rstrip('.')} is switched off: {len(extra)} of its weights skipped")
    return loads, tuple(notes)


def _check_fit(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Load]) -> None:
    faults = {
        "missing": [key for key in expected if key not in found],
        "unknown": [key for key in found if key not in expected],
        "misshaped": [
            f"{key} (expected {tuple(expected[key].shape)}, found {found[key].shape})"
            for key in expected
            if key in found and tuple(expected[key].shape) != found[key].shape
        ],
        "not floating point": [key for key in found if key in expected and not found[key].floating],
    }
    parts = [f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in faults.items() if keys]
    if parts:
        raise CheckpointError(
            f"{path}: not a checkpoint of this configuration; {'; '.join(parts)}. "
            "Choose the configuration it was made with (model.config), or its heads (model.point_head)"
        )


def _some(keys: list[str]) -> str:
    more = len(keys) - LISTED_KEYS
    return ", ".join(map(shown, keys[:LISTED_KEYS])) + (f" and {more} more" if more > 0 else "")


def fetch(name: str) -> Path:
    """A published file, downloaded once into the hub's cache; what was cut off goes on.

    Args:
        name: ``lingbot-map``, ``lingbot-map-long``, or a sky model: ``skyseg``, ``skyseg-batch``.

    Returns:
        The local file, of the pinned revision, whose size and SHA-256 are those of
        `lingbot_eval.resources.PUBLIC`.

    Raises:
        ConfigError: an unknown name.
        CheckpointError: it cannot be fetched, or is not the published one.
        DependencyError: the hub library (extra ``hub``) is not installed.
    """
    if name not in PUBLIC:
        raise ConfigError(
            f"nothing called {name!r} is published{nearest(name, PUBLIC)}; there are: {', '.join(PUBLIC)}"
        )
    file = PUBLIC[name]
    path = _download(file.address)
    try:
        downloads.check_file(path, file.address, file.size, file.sha256)
    except DataError as error:
        raise CheckpointError(f"{name}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    return path


def _download(address: str) -> Path:
    """The local copy of ``hf://owner/repo[@revision]/file``; of an index, its files come along."""
    try:
        path = downloads.from_hub(address)
        if address.endswith(INDEX_SUFFIX):
            for part in shard_names(path):
                downloads.from_hub(f"{address.rpartition('/')[0]}/{part}")
    except DataError as error:
        raise CheckpointError(str(error)) from error
    return path
