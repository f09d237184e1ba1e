"""Weights: fit a checkpoint to a network exactly, or draw untrained ones from a seed."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import time
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lingbot_eval.errors import CheckpointError, ConfigError, DataError, DependencyError, is_out_of_memory
from lingbot_eval.files import downloads
from lingbot_eval.machine.wait import WAIT
from lingbot_eval.model.checkpoint_files import (
    INDEX_SUFFIX,
    SUFFIXES,
    Content,
    Load,
    read_shards,
    shard_files,
    shard_names,
)
from lingbot_eval.model.pickles import shown
from lingbot_eval.resources import PUBLIC, SHIPPED, expanded, remember, remembered, shipped_weights
from lingbot_eval.settings import nearest

CPU = torch.device("cpu")
READERS, AHEAD = 4, 8
"""Threads that read weights, and tensors that they may have in hand: 16 MB each in the largest configuration."""
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
    """Hex SHA-256 of a file, read in pieces; once as long as the file stays as it is (`_State`).

    Of a large file the user's cache remembers it for the next process (``hashes``, safe to remove).

    Raises:
        CheckpointError: The file cannot be read.
    """
    try:
        return _sha256(path.resolve(), _state(path))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error


_State = tuple[int, int, int, int, int]
"""Bytes, times of the last change of content and of anything in nanoseconds, inode and device of a file.

No program sets the time of the last change of anything; so another content is another state, unless it was written
within the grain of the clock, see `_SETTLED_NS`."""
_SETTLED_NS = 2_000_000_000
_REMEMBERED_FROM = 1 << 26  # bytes: smaller files take less than a tenth of a second


def _state(path: Path) -> _State:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, state: _State) -> str:
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    entry = {"path": str(path), "state": list(state)}
    if state[0] >= _REMEMBERED_FROM:
        found = remembered("hashes", name)
        if {**found, **entry} == found and len(str(found.get("sha256"))) == 64:
            return str(found["sha256"])
    with WAIT.part("hash weights"), path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    settled = time.time_ns() - max(state[1:3]) > _SETTLED_NS and _state(path) == state
    if state[0] >= _REMEMBERED_FROM and settled:
        remember("hashes", name, {**entry, "sha256": digest})
    return digest


def load_checkpoint(model: nn.Module, checkpoint: str, device: torch.device = CPU) -> WeightSource:
    """Give ``model`` the weights of a checkpoint whose keys and shapes match exactly, wherever they lie in the file.

    They come in the types of the model's own parameters, which may be on torch's meta device: tensor by tensor from the
    file to ``device``, with no second copy of the whole on either side. Nothing that a file holds is run
    (`lingbot_eval.model.checkpoint_files`); objects that are no tensors are left out, with a note. So are weights of a
    head that the model does not have.

    Raises:
        CheckpointError: Missing, unknown or misshaped keys, weights that are not finite, a damaged or foreign file.
        DependencyError: The machine has too little memory.
    """
    path = resolve_checkpoint(checkpoint)
    digest = checkpoint_sha256(path)
    try:
        loads, notes = fitting(model, path)
        model.load_state_dict(_placed(path, loads, model.state_dict(), device), assign=True)
    except (MemoryError, RuntimeError) as error:
        # What a GPU lacks is told by whoever streams on it: other settings may fit.
        if not is_out_of_memory(error) or device.type != "cpu":
            raise
        raise DependencyError(f"{path}: this machine has too little memory to load it; free some") from error
    return WeightSource(checkpoint, digest, notes)


def _placed(
    path: Path, loads: Mapping[str, Load], like: Mapping[str, Tensor], device: torch.device
) -> dict[str, Tensor]:
    """The tensors on ``device`` in the types of those that they are for. Raises CheckpointError as `load_checkpoint`.

    Threads read ahead and hold the bytes against their checksums; what is placed is let go of on the host.
    """
    names = [name for name in like if name in loads]
    state: dict[str, Tensor] = {}
    sums: list[Tensor] = []
    with ThreadPoolExecutor(READERS, thread_name_prefix="weights") as readers:
        waiting = deque(readers.submit(loads[name]) for name in names[:AHEAD])
        for number, name in enumerate(names):
            with WAIT.part("read weights"):
                read = waiting.popleft().result()
            if number + AHEAD < len(names):
                waiting.append(readers.submit(loads[names[number + AHEAD]]))
            with WAIT.part("weights to device"):
                moved = read.to(device).contiguous()
                # As the network would have them in float32: a sum shows NaN and infinity in one pass without a mask,
                # and float64 has room for all of float32's.
                sums.append(moved.float().sum(dtype=torch.float64))
                # A copy on a CPU, too: the file may change under a view of it.
                state[name] = moved.to(like[name].dtype, copy=moved.data_ptr() == read.data_ptr())
                del read, moved
                loads[name].forget()
    finite = torch.isfinite(torch.stack(sums)).tolist()
    if not all(finite):
        bad = {name: loads[name] for name, fine in zip(names, finite, strict=True) if not fine}
        raise _not_finite(path, bad, len(names))
    return state


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
    chosen, notes = _choose(expected, content)
    loads, skipped = _without_absent_heads(expected, chosen)
    _check_fit(path, expected, loads)
    return loads, (*notes, *skipped)


def draw_untrained(model: nn.Module, seed: int, device: torch.device = CPU) -> WeightSource:
    """Give ``model`` weights that have learned nothing, each parameter from its own name and the seed.

    Independent of construction order and of torch's global generator, so a seed means the same network everywhere. The
    parameters may be on torch's meta device; their types stay.
    """
    with WAIT.part("draw weights"):
        state = {
            name: _drawn(name, parameter.shape, seed).to(device, parameter.dtype)
            for name, parameter in model.named_parameters()
        }
    model.load_state_dict(state, assign=True)
    return WeightSource(f"untrained (seed {seed})")


def _drawn(name: str, shape: torch.Size, seed: int) -> Tensor:
    """One untrained parameter in float32."""
    if name.endswith(".gamma"):
        return torch.full(shape, 0.1)
    if name.endswith(".bias"):
        return torch.zeros(shape)
    if name.endswith(".weight") and len(shape) == 1:
        return torch.ones(shape)
    # Seed and name in one 32-bit number: torch's generator on a CPU ignores the upper half of a longer one.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
    spread = 1 / math.sqrt(math.prod(shape[1:])) if name.endswith(".weight") else 0.02
    return torch.randn(shape, generator=generator).mul_(spread)


def _choose(expected: Iterable[str], content: Content) -> tuple[dict[str, Load], tuple[str, ...]]:
    """The network's tensors among those of a file, wherever they lie and whatever stands before their names.

    By the network's names, with unknown ones that stand beside them; and notes: what was taken off the names and what
    was left unread.

    Containers and wrappers are alike here: both put words before a name (``state_dict.model.``, ``module.``). The words
    that most of the network's names stand behind are taken off; words of wrappers further inside go, too.
    """
    wanted = set(expected)
    found: dict[str, dict[str, str]] = {}  # prefix → expected name → full name
    for full in content.tensors:
        for prefix, name in _readings(full, wanted):
            found.setdefault(prefix, {}).setdefault(name, full)
    if not found:
        return dict(content.tensors), _left_out(content)
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
    return loads, (*notes, *_left_out(content))


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


def _not_finite(path: Path, bad: Mapping[str, Load], tensors: int) -> CheckpointError:
    """The one line that names the weights that are NaN or infinite, as the network would have them."""
    counts = {name: int((~torch.isfinite(load().float())).sum()) for name, load in bad.items()}
    words = _some([f"{name} ({count} of {math.prod(bad[name].shape)})" for name, count in counts.items()])
    return CheckpointError(
        f"{path}: {sum(counts.values())} weights in {len(bad)} of {tensors} tensors are NaN or infinite: {words}; "
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
        downloads.check_file(path, file.address, file.size, f"sha256:{file.sha256}", file_sha256)
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
