"""Tensors of a checkpoint file: what kind of file it is, where in it the numbers lie, and how they are read.

Nothing that a file holds is run: its pickle is read by `lingbot_eval.model.pickles`.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import struct
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import safetensors
import torch
from torch import Tensor

from lingbot_eval.errors import CheckpointError
from lingbot_eval.model.pickles import DamageError, Machine, Storage, Stored, shown

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
"""Names that weights go by, most trusted first. What a file is, its content says."""
INDEX_SUFFIX = ".index.json"
"""Of the file beside the parts of a checkpoint that says which tensor is in which."""

_HEAD = 4096
_DEEPEST, _LONGEST_NAME = 8, 500  # of containers in one another, and of a tensor's dotted name
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")

_SAFETENSORS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Types of weights as safetensors names them; a tensor of another is none of a network's."""
_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer in place of the weights; fetch them with 'git lfs pull'"),
    (b"/annex/objects/", "a git-annex pointer in place of the weights; fetch them with 'git annex get'"),
    (b"\x1f\x8b", "compressed (gzip); unpack it first"),
    (b"BZh", "compressed (bzip2); unpack it first"),
    (b"\xfd7zXZ\x00", "compressed (xz); unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd); unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"\x89HDF", "an HDF5 file; convert it to safetensors"),
    (b"GGUF", "a GGUF file; convert it to safetensors"),
    (b"\x93NUMPY", "a NumPy array; convert it to safetensors"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"%PDF", "a PDF document"),
)


@dataclass(frozen=True)
class _Part:
    """Bytes of one storage in the mapped file. crc: None where its writer left none."""

    name: str
    offset: int
    size: int
    crc: int | None


@dataclass(frozen=True, eq=False)
class Load:
    """A tensor of a file as its header describes it; calling it reads the numbers.

    path: the file, for messages. part: where the bytes of its storage are; raises DamageError where they are not.
    """

    path: Path
    stored: Stored
    whole: mmap.mmap
    part: Callable[[Storage], _Part]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.stored.size

    @property
    def floating(self) -> bool:
        """Whether it has a floating-point type."""
        return self.stored.dtype.is_floating_point

    def __call__(self) -> Tensor:
        """The tensor, over the mapped file. Raises CheckpointError where its bytes are damaged."""
        try:
            return self._read()
        except _DAMAGES as error:
            raise damaged(self.path, error) from error

    def forget(self) -> None:
        """Let go of the memory that its bytes take, where the system knows how to; read again, they come again."""
        part = self.part(self.stored.storage)
        if sys.platform == "linux" and part.size:
            start = part.offset - part.offset % mmap.PAGESIZE
            self.whole.madvise(mmap.MADV_DONTNEED, start, part.offset + part.size - start)

    def _read(self) -> Tensor:
        stored, storage = self.stored, self.stored.storage
        content = _bytes(self.whole, self.part(storage))
        width = stored.dtype.itemsize
        there = len(content) // width
        # The storage's own count is what its writer believed; the bytes that are there decide.
        if storage.count * storage.dtype.itemsize > len(content):
            raise DamageError(f"storage {shown(storage.key)} is shorter than its tensors say")
        if 0 in stored.size:
            return torch.empty(stored.size, dtype=stored.dtype)
        last = stored.offset + sum((n - 1) * step for n, step in zip(stored.size, stored.stride, strict=True))
        if last >= there:
            raise DamageError(f"a tensor of {stored.size} reaches beyond its storage {shown(storage.key)}")
        flat = torch.frombuffer(content, dtype=torch.uint8, count=there * width)
        if flat.data_ptr() % width:
            flat = flat.clone()  # written without alignment, which kernels expect
        return flat.view(stored.dtype).as_strided(stored.size, stored.stride, stored.offset)


@dataclass
class Content:
    """What a file holds: tensors by dotted name, each read when it is asked for, and what was left out.

    tensors: full name → how to read it; the containers that it lies in are part of the name (``model.head.weight``).
    folders: full name → the container's part of it. left_out: class or function → objects of it that became a name.
    """

    tensors: dict[str, Load] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)


def read_content(path: Path) -> Content:
    """The tensors of a checkpoint in one file, whatever its name. Nothing that the file holds is run.

    Raises:
        CheckpointError: The file is of another kind, damaged, truncated or cannot be read.
    """
    try:
        return _read(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _DAMAGES as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> CheckpointError:
    """The one line for a file that is of the right kind and broken."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyError | IndexError) or not text:
        text = f"its parts do not fit together: {type(error).__name__} {text}".rstrip()
    return CheckpointError(f"{path}: damaged or truncated checkpoint ({text[:200]}); fetch it again")


# What parsing a broken file raises: ours, and those of the parsers (zipfile, struct, pickletools, safetensors, torch).
_DAMAGES = (
    ValueError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    safetensors.SafetensorError,
)


def shard_files(path: Path) -> tuple[Path, ...]:
    """The files that a checkpoint consists of: itself, or the parts that an index or a folder names.

    Raises:
        CheckpointError: No such file, a folder without one checkpoint, or an index that leads elsewhere.
    """
    if path.is_dir():
        return shard_files(_in_folder(path))
    if not path.name.endswith(INDEX_SUFFIX):
        return (path,)
    names = shard_names(path)
    files = tuple(path.parent / name for name in names)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(f"{path}: {len(missing)} of its {len(names)} files are not beside it: {missing[0]}")
    return files


def shard_names(index: Path) -> tuple[str, ...]:
    """Files that an index (``*.index.json``) names, sorted. Raises CheckpointError for one that leads out of it."""
    return tuple(sorted(set(_weight_map(index).values())))


def read_shards(path: Path) -> Content:
    """The tensors of a checkpoint in one file, or in the files that an index or a folder names."""
    files = shard_files(path)
    if files == (path,):
        return read_content(path)
    whole = Content()
    for file in files:
        part = read_content(file)
        twice = next((name for name in part.tensors if name in whole.tensors), None)
        if twice is not None:
            raise CheckpointError(f"{file}: holds {shown(twice)} again, which another file of {path} holds")
        whole.tensors |= part.tensors
        whole.folders |= part.folders
        whole.left_out += part.left_out
    index = _in_folder(path) if path.is_dir() else path
    if index.name.endswith(INDEX_SUFFIX):
        absent = [name for name in _weight_map(index) if name not in whole.tensors]
        if absent:
            raise CheckpointError(f"{index}: lists {len(absent)} tensors that its files lack: {shown(absent[0])}")
    return whole


def _in_folder(folder: Path) -> Path:
    """The one checkpoint of a folder: its index, or its only file of weights."""
    try:
        files = sorted(file for file in folder.iterdir() if file.is_file())
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read ({error.strerror or error})") from error
    for suffix in (INDEX_SUFFIX, *SUFFIXES):
        found = [file for file in files if file.name.endswith(suffix)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(file.name for file in found[:4])
            raise CheckpointError(f"{folder}: holds {len(found)} checkpoints ({names} …); name the file")
    raise CheckpointError(f"{folder}: holds no checkpoint; expected one {', '.join(SUFFIXES)} or {INDEX_SUFFIX} file")


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{index}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{index}: not an index of a checkpoint's files: {_foreign(index) or 'not JSON'}"
        ) from error
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index}: expected an index with a weight_map of tensors to files, found another JSON")
    for name in names.values():
        parts = PurePosixPath(name).parts
        leaves = ".." in parts or PurePosixPath(name).is_absolute() or bool(PureWindowsPath(name).anchor)
        endless = len(name) > 1000 or any(len(part.encode(errors="replace")) > 255 for part in parts)
        if not parts or leaves or endless or "\\" in name or "\0" in name:
            raise CheckpointError(f"{index}: refused, it names {shown(name)}, which is not a file beside it")
    return names


def _read(path: Path) -> Content:
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a file, found {'something else' if path.exists() else 'none'}")
    size = path.stat().st_size
    if size == 0:
        raise CheckpointError(f"{path}: the file is empty; fetch it again")
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
        if head.startswith(b"PK"):
            return _read_zip(path, stream.fileno())
        if _is_safetensors(head):
            return _read_safetensors(path, stream.fileno())
        if head.startswith(b"\x80"):
            return _read_legacy(path, _mapped(stream.fileno()))
    foreign = _foreign(path)
    if foreign is None:
        raise CheckpointError(f"{path}: not a checkpoint (no safetensors and no torch.save file); fetch it again")
    raise CheckpointError(f"{path}: not a checkpoint but {foreign}")


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and int.from_bytes(head[:8], "little") < 100_000_000 and head[8:9] == b"{"


def _foreign(path: Path) -> str | None:
    """What a file is that is no checkpoint, with what to do; None where its first bytes do not say."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()
    for start, words in _FOREIGN:
        if head.startswith(start):
            return words
    if head[:1] == b"<" and b"\0" not in head:
        return "a web page (HTML or XML) in place of the weights; download the file itself"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    if head.startswith((b"{", b"[")):
        return f"JSON text in place of the weights: {shown(head[:80].decode('utf-8', 'replace'))}"
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return f"text: {shown(text[:80])}" if text and all(c.isprintable() or c.isspace() for c in text) else None


def _mapped(descriptor: int) -> mmap.mmap:
    # Private pages of the file: tensors over them cost no memory that the system could not take back.
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)


def _read_safetensors(path: Path, descriptor: int) -> Content:
    """The library holds the header against the file; the bytes are mapped here, where their pages can be let go of."""
    with safetensors.safe_open(path, framework="pt", device="cpu"):
        whole = _mapped(descriptor)
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    parts: dict[str, _Part] = {}
    tree: dict[str, Stored] = {}
    for name, described in header.items():
        if name == "__metadata__":
            continue
        dtype, size = described["dtype"], tuple(described["shape"])
        start, end = described["data_offsets"]
        parts[name] = _Part(name, 8 + length + start, end - start, None)
        known = _SAFETENSORS.get(dtype)
        count = (end - start) // known.itemsize if known else 0
        stride = tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))
        tree[name] = Stored(Storage(name, known or torch.uint8, count), known or torch.uint8, 0, size, stride)
    return _content(tree, Counter(), whole, lambda storage: parts[storage.key], path)


def _read_zip(path: Path, descriptor: int) -> Content:
    """A file of torch.save since 1.6: an archive of ``data.pkl`` and one uncompressed entry a storage."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if any(name.endswith("constants.pkl") for name in entries):
        raise CheckpointError(f"{path}: a TorchScript program, not weights; ask for its state dict")
    if len(pickles) != 1:
        raise CheckpointError(f"{path}: not a checkpoint but {_archive(list(entries))}")
    base = pickles[0].removesuffix("data.pkl")
    whole = _mapped(descriptor)

    def part(name: str) -> _Part:
        entry = entries.get(base + name)
        if entry is None:
            raise DamageError(f"it lacks {shown(base + name)}")
        return _part_of(whole, entry)

    order = entries.get(f"{base}byteorder")
    if order is not None and bytes(_bytes(whole, _part_of(whole, order))) != b"little":
        raise CheckpointError(f"{path}: written on a machine of the other byte order; save it again as safetensors")
    machine = Machine()
    tree = machine.run(io.BytesIO(_bytes(whole, part("data.pkl"))))

    return _content(tree, machine.left_out(), whole, lambda storage: part(f"data/{storage.key}"), path)


def _archive(names: Sequence[str]) -> str:
    if names and all(name.endswith(".npy") for name in names):
        return "a NumPy archive (.npz); convert it to safetensors"
    inside = next((name for name in names if name.endswith(SUFFIXES)), None)
    listed = f"; unpack it and give {shown(inside)}" if inside else f" ({shown(names[0])} …)" if names else ""
    return f"a zip archive of {len(names)} other files{listed}"


def _part_of(whole: mmap.mmap, entry: zipfile.ZipInfo) -> _Part:
    """Where an entry's bytes are. Its local header has a length of its own: writers pad it to align what follows."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise DamageError(f"{shown(entry.filename)} is compressed or encrypted, which torch.save never does")
    at = entry.header_offset
    if at < 0 or at + _LOCAL_HEADER.size > len(whole):
        raise DamageError(f"{shown(entry.filename)} lies outside the file")
    signature, *_, name_length, extra_length = _LOCAL_HEADER.unpack_from(whole, at)
    start = at + _LOCAL_HEADER.size + name_length + extra_length
    if signature != b"PK\x03\x04" or start + entry.file_size > len(whole):
        raise DamageError(f"{shown(entry.filename)} lies outside the file")
    return _Part(entry.filename, start, entry.file_size, entry.CRC or None)


def _bytes(whole: mmap.mmap, part: _Part) -> memoryview:
    """The bytes of an entry, once their checksum is as the archive says."""
    found = memoryview(whole)[part.offset : part.offset + part.size]
    if part.crc is not None and zlib.crc32(found) != part.crc:
        raise DamageError(f"the checksum of {shown(part.name)} is another")
    return found


def _read_legacy(path: Path, whole: mmap.mmap) -> Content:
    """A file of torch.save before 1.6: pickles one after the other, then the storages."""
    machine = Machine()
    if machine.run(whole) != _LEGACY_MAGIC:
        raise CheckpointError(
            f"{path}: a pickle that torch.save did not write; none of it was run; save its state dict as safetensors"
        )
    machine.run(whole)  # the protocol
    if not _little_endian(machine.run(whole)):
        raise CheckpointError(f"{path}: written on a machine of the other byte order; save it again as safetensors")
    tree = machine.run(whole)
    keys = machine.run(whole)
    if not isinstance(keys, list):
        raise DamageError("its list of storages is none")
    storages = {storage.key: storage for storage in machine.storages}
    parts: dict[str, _Part] = {}
    at = whole.tell()
    for key in map(str, keys):
        if key not in storages or at + 8 > len(whole):
            raise DamageError(f"storage {shown(key)} lies outside the file")
        (count,) = struct.unpack_from("<q", whole, at)
        size = count * storages[key].dtype.itemsize
        if count < 0 or at + 8 + size > len(whole):
            raise DamageError(f"storage {shown(key)} lies outside the file")
        parts[key] = _Part(key, at + 8, size, None)
        at += 8 + size

    def part_of(storage: Storage) -> _Part:
        part = parts.get(storage.key)
        if part is None:
            raise DamageError(f"it lacks storage {shown(storage.key)}")
        return part

    return _content(tree, machine.left_out(), whole, part_of, path)


def _little_endian(facts: Any) -> bool:
    return not isinstance(facts, dict) or facts.get("little_endian") is not False


def _content(
    tree: Any, left_out: Counter[str], whole: mmap.mmap, part_of: Callable[[Storage], _Part], path: Path
) -> Content:
    found = Content(left_out=left_out)
    for name, folder, stored in _tensors_in(tree):
        found.tensors.setdefault(name, Load(path, stored, whole, part_of))
        found.folders.setdefault(name, folder)
    return found


def _tensors_in(tree: Any) -> Iterator[tuple[str, str, Stored]]:
    """Every tensor in nested containers with its dotted name and its container's; each container once."""
    waiting: list[tuple[str, int, Any]] = [("", 0, tree)]
    seen: set[int] = set()
    while waiting:
        folder, depth, container = waiting.pop(0)
        if not isinstance(container, dict | list | tuple) or id(container) in seen or depth > _DEEPEST:
            continue
        seen.add(id(container))
        pairs = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in pairs:
            name = f"{folder}{key}"
            if len(name) > _LONGEST_NAME:
                continue
            if isinstance(value, Stored):
                yield name, folder, value
            elif isinstance(value, dict | list | tuple):
                waiting.append((f"{name}.", depth + 1, value))
