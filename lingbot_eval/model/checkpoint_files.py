"""Tensors of a checkpoint file: what kind of file it is, and its pickle read by a machine of our own that runs nothing.

``torch.save`` writes a pickle, and a pickle may name any function of Python to be called. Public checkpoints are read
with that switched on everywhere, so they may hold objects of all kinds beside their weights. Here the pickle's opcodes
are walked one by one (``pickletools``, which only parses): tensors, numbers, strings and containers become values, and
everything else becomes a `_LeftOut`, a name. No name is ever looked up in a module, nothing is called but the few
functions below, and no attribute is set on anything.
"""

from __future__ import annotations

import functools
import io
import json
import math
import mmap
import pickletools
import struct
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import safetensors
import torch
from torch import Tensor

from lingbot_eval.errors import CheckpointError

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
"""Names that weights go by, most trusted first. What a file is, its content says."""
INDEX_SUFFIX = ".index.json"
"""Of the file beside the parts of a checkpoint that says which tensor is in which."""

_HEAD = 4096
_DEEPEST, _LONGEST_NAME = 8, 500  # of containers in one another, and of a tensor's dotted name
_MOST_ELEMENTS = 2**62
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")

_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
_DTYPES = {
    str(dtype): dtype
    for dtype in (
        *_STORAGES.values(),
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
    )
}
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
_DICTIONARIES = {"collections.OrderedDict", "collections.defaultdict", "collections.Counter"}
# Written for plain values that a state dict may carry along; they hold no tensor and are no objects of anybody's.
_BUILTINS = (
    "set",
    "frozenset",
    "complex",
    "bytearray",
    "slice",
    "range",
    "list",
    "tuple",
    "dict",
    "str",
    "int",
    "float",
)
_PLAIN = {
    "torch.Size",
    "torch.device",
    "torch.serialization._get_layout",
    "_codecs.encode",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _BUILTINS),
}
_PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
_TENSORS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
_TENSOR_WITH_DTYPE, _TENSOR_OF_TYPE = "torch._utils._rebuild_tensor_v3", "torch._tensor._rebuild_from_type_v2"
_RECONSTRUCTORS = {"copyreg._reconstructor", "copy_reg._reconstructor"}
_KNOWN = {
    *_DICTIONARIES,
    *_PLAIN,
    *_PARAMETERS,
    *_TENSORS,
    *_RECONSTRUCTORS,
    _TENSOR_WITH_DTYPE,
    _TENSOR_OF_TYPE,
    *("torch._tensor.Tensor", "torch.Tensor", "torch.nn.parameter.Parameter"),
}

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


@dataclass(frozen=True, eq=False)
class Load:
    """A tensor of a file as its header describes it; calling it reads the numbers.

    shape: of the tensor. floating: whether it has a floating-point type. path: the file, for messages. forget: lets go
    of the memory that its bytes take; a tensor that is read over them reads them again.
    """

    shape: tuple[int, ...]
    floating: bool
    read: Callable[[], Tensor]
    path: Path
    forget: Callable[[], None]

    def __call__(self) -> Tensor:
        """The tensor, over the mapped file. Raises CheckpointError where its bytes are damaged."""
        try:
            return self.read()
        except _DAMAGES as error:
            raise damaged(self.path, error) from error


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


class _DamageError(ValueError):
    """Bytes that contradict each other; becomes a CheckpointError with the file's name."""


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
    tree: dict[str, _Stored] = {}
    for name, described in header.items():
        if name == "__metadata__":
            continue
        dtype, size = described["dtype"], tuple(described["shape"])
        start, end = described["data_offsets"]
        parts[name] = _Part(name, 8 + length + start, end - start, None)
        known = _SAFETENSORS.get(dtype)
        count = (end - start) // known.itemsize if known else 0
        stride = tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))
        tree[name] = _Stored(_Storage(name, known or torch.uint8, count), known or torch.uint8, 0, size, stride)
    return _content(tree, Counter(), whole, lambda storage: parts[storage.key], path)


@dataclass(frozen=True)
class _Part:
    """Bytes of one storage in the mapped file. crc: None where its writer left none."""

    name: str
    offset: int
    size: int
    crc: int | None


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
            raise _DamageError(f"it lacks {shown(base + name)}")
        return _part_of(whole, entry)

    order = entries.get(f"{base}byteorder")
    if order is not None and bytes(_bytes(whole, _part_of(whole, order))) != b"little":
        raise CheckpointError(f"{path}: written on a machine of the other byte order; save it again as safetensors")
    machine = _Machine()
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
        raise _DamageError(f"{shown(entry.filename)} is compressed or encrypted, which torch.save never does")
    at = entry.header_offset
    if at < 0 or at + _LOCAL_HEADER.size > len(whole):
        raise _DamageError(f"{shown(entry.filename)} lies outside the file")
    signature, *_, name_length, extra_length = _LOCAL_HEADER.unpack_from(whole, at)
    start = at + _LOCAL_HEADER.size + name_length + extra_length
    if signature != b"PK\x03\x04" or start + entry.file_size > len(whole):
        raise _DamageError(f"{shown(entry.filename)} lies outside the file")
    return _Part(entry.filename, start, entry.file_size, entry.CRC or None)


def _bytes(whole: mmap.mmap, part: _Part) -> memoryview:
    """The bytes of an entry, once their checksum is as the archive says."""
    found = memoryview(whole)[part.offset : part.offset + part.size]
    if part.crc is not None and zlib.crc32(found) != part.crc:
        raise _DamageError(f"the checksum of {shown(part.name)} is another")
    return found


def _read_legacy(path: Path, whole: mmap.mmap) -> Content:
    """A file of torch.save before 1.6: pickles one after the other, then the storages."""
    machine = _Machine()
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
        raise _DamageError("its list of storages is none")
    storages = {storage.key: storage for storage in machine.storages}
    parts: dict[str, _Part] = {}
    at = whole.tell()
    for key in map(str, keys):
        if key not in storages or at + 8 > len(whole):
            raise _DamageError(f"storage {shown(key)} lies outside the file")
        (count,) = struct.unpack_from("<q", whole, at)
        size = count * storages[key].dtype.itemsize
        if count < 0 or at + 8 + size > len(whole):
            raise _DamageError(f"storage {shown(key)} lies outside the file")
        parts[key] = _Part(key, at + 8, size, None)
        at += 8 + size

    def part_of(storage: _Storage) -> _Part:
        part = parts.get(storage.key)
        if part is None:
            raise _DamageError(f"it lacks storage {shown(storage.key)}")
        return part

    return _content(tree, machine.left_out(), whole, part_of, path)


def _little_endian(facts: Any) -> bool:
    return not isinstance(facts, dict) or facts.get("little_endian") is not False


@dataclass(frozen=True)
class _Named:
    """A class or function that the file names; never looked up."""

    name: str


@dataclass(frozen=True, eq=False)
class _LeftOut:
    """An object of another class than a tensor's: a name, and nothing that could run."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """Numbers in the file that tensors are views of."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True, eq=False)
class _Stored:
    """A tensor as the file describes it."""

    storage: _Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def load(self, whole: mmap.mmap, part_of: Callable[[_Storage], _Part]) -> Tensor:
        """The tensor, over the mapped bytes. Raises ValueError for one that reaches beyond its storage."""
        content = _bytes(whole, part_of(self.storage))
        width = self.dtype.itemsize
        there = len(content) // width
        # The storage's own count is what its writer believed; the bytes that are there decide.
        if self.storage.count * self.storage.dtype.itemsize > len(content):
            raise _DamageError(f"storage {shown(self.storage.key)} is shorter than its tensors say")
        if 0 in self.size:
            return torch.empty(self.size, dtype=self.dtype)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        if last >= there:
            raise _DamageError(f"a tensor of {self.size} reaches beyond its storage {shown(self.storage.key)}")
        flat = torch.frombuffer(content, dtype=torch.uint8, count=there * width)
        if flat.data_ptr() % width:
            flat = flat.clone()  # written without alignment, which kernels expect
        return flat.view(self.dtype).as_strided(self.size, self.stride, self.offset)

    def forget(self, whole: mmap.mmap, part_of: Callable[[_Storage], _Part]) -> None:
        """Let go of the pages that hold the storage, where the system knows how to."""
        part = part_of(self.storage)
        if sys.platform == "linux" and part.size:
            start = part.offset - part.offset % mmap.PAGESIZE
            whole.madvise(mmap.MADV_DONTNEED, start, part.offset + part.size - start)


def _content(
    tree: Any, left_out: Counter[str], whole: mmap.mmap, part_of: Callable[[_Storage], _Part], path: Path
) -> Content:
    found = Content(left_out=left_out)
    for name, folder, stored in _tensors_in(tree):
        read = functools.partial(stored.load, whole, part_of)
        forget = functools.partial(stored.forget, whole, part_of)
        found.tensors.setdefault(name, Load(stored.size, stored.dtype.is_floating_point, read, path, forget))
        found.folders.setdefault(name, folder)
    return found


def _tensors_in(tree: Any) -> Iterator[tuple[str, str, _Stored]]:
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
            if isinstance(value, _Stored):
                yield name, folder, value
            elif isinstance(value, dict | list | tuple):
                waiting.append((f"{name}.", depth + 1, value))


class _Machine:
    """Walks the opcodes of a pickle (protocols 0 to 5) and builds values that run nothing."""

    def __init__(self) -> None:
        self.storages: list[_Storage] = []
        self._built: Counter[str] = Counter()
        self._names: set[str] = set()
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def left_out(self) -> Counter[str]:
        """Class or function → objects of it that became a name; one that is only mentioned counts once."""
        return Counter({name: max(1, self._built[name]) for name in self._names | self._built.keys()})

    def run(self, stream: Any) -> Any:
        """The value of the next pickle of a stream.

        Raises:
            ValueError, KeyError, IndexError: The bytes are no pickle, or one that contradicts itself.
        """
        self._stack, self._marked, self._memo = [], [], {}
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, argument)
        raise _DamageError("its pickle has no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "PROTO" | "FRAME" | "READONLY_BUFFER":
                pass
            case "MARK":
                self._marked.append(stack)
                self._stack = []
            case "POP":
                self._pop()
            case "POP_MARK":
                self._to_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(name == "NEWTRUE")
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                if len(stack) < count:
                    raise _DamageError("its pickle takes more than is there")
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE":
                items = self._to_mark()
                self._stack.append(tuple(items))
            case "LIST" | "FROZENSET":
                items = self._to_mark()
                self._stack.append(items)
            case "DICT":
                items = self._to_mark()
                self._stack.append({})
                self._set_items(items)
            case "APPEND":
                self._extend([stack.pop()])
            case "APPENDS" | "ADDITEMS":
                self._extend(self._to_mark())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set_items([key, value])
            case "SETITEMS":
                self._set_items(self._to_mark())
            case "GLOBAL":
                stack.append(self._named(*str(argument).partition(" ")[::2]))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(self._named(module, attribute))
            case "EXT1" | "EXT2" | "EXT4":
                stack.append(self._named("copyreg", f"extension {argument}"))
            case "NEXT_BUFFER":
                stack.append(self._left_out("pickle.PickleBuffer"))
            case "REDUCE" | "NEWOBJ":
                arguments, target = stack.pop(), stack.pop()
                stack.append(self._made(target, arguments))
            case "NEWOBJ_EX":
                _, arguments, target = stack.pop(), stack.pop(), stack.pop()
                stack.append(self._made(target, arguments))
            case "INST":
                arguments = self._to_mark()
                self._stack.append(self._made(self._named(*str(argument).partition(" ")[::2]), tuple(arguments)))
            case "OBJ":
                target, *arguments = self._to_mark()
                self._stack.append(self._made(target, tuple(arguments)))
            case "BUILD":
                # An object's state. It is a name here and has none; a tensor's or a container's attributes matter not.
                if len(stack) < 2:
                    raise _DamageError("its pickle gives a state to nothing")
                stack.pop()
            case "PERSID":
                stack.append(self._left_out("a persistent reference"))
            case "BINPERSID":
                stack.append(self._persistent(stack.pop()))
            case _:
                # What remains are numbers, strings and bytes, which pickletools has parsed; anything else is new.
                if not isinstance(argument, bool | int | float | str | bytes | bytearray):
                    raise _DamageError(f"its pickle has an opcode {name} that this version does not know")
                stack.append(argument)

    def _pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._to_mark()  # as Python's own: an empty stack above a mark gives the mark back

    def _to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if len(items) % 2:
            raise _DamageError("its pickle has a key without a value")
        if isinstance(target, dict):
            _fill(target, zip(items[::2], items[1::2], strict=True))

    def _named(self, module: Any, attribute: Any) -> Any:
        if not (isinstance(module, str) and isinstance(attribute, str)):
            raise _DamageError("its pickle names no class where one is due")
        name = f"{module}.{attribute}"
        if module in ("torch", "torch.cuda", "torch.storage") and attribute in _STORAGES:
            return _STORAGES[attribute]
        if name in _DTYPES:
            return _DTYPES[name]
        if name not in _KNOWN:
            self._names.add(shown(name))
        return _Named(name)

    def _made(self, target: Any, arguments: Any) -> Any:
        """What calling ``target`` would give: a tensor or a container where we know it, else a name."""
        given = arguments if isinstance(arguments, tuple) else ()
        name = target.name if isinstance(target, _Named | _LeftOut) else type(target).__name__
        if name in _DICTIONARIES:
            return _dictionary(given)
        if name in _PLAIN:
            return None
        if name == _TENSOR_OF_TYPE and len(given) == 4:
            return self._made(given[0], given[2])
        if name in _PARAMETERS and given:
            return given[0]
        if name in _TENSORS and len(given) >= 4:
            return _stored(given[:4], None) or self._left_out(name)
        if name == _TENSOR_WITH_DTYPE and len(given) >= 7:
            return _stored(given[:4], given[6]) or self._left_out(name)
        if name in _RECONSTRUCTORS and given and isinstance(given[0], _Named):
            name = given[0].name
        return self._left_out(name)

    def _left_out(self, name: str) -> _LeftOut:
        self._built[shown(name)] += 1
        return _LeftOut(name)

    def _persistent(self, reference: Any) -> Any:
        match reference:
            case ("storage", torch.dtype() as dtype, key, _, int(count), *_) if (
                isinstance(key, str | int) and count >= 0
            ):
                storage = _Storage(str(key), dtype, count)
                self.storages.append(storage)
                return storage
            case ("module", content, *_):
                return content
        return self._left_out("a persistent reference")


def _stored(described: tuple[Any, ...], dtype: Any) -> _Stored | None:
    """A tensor from its storage, offset, size and stride, or None where they are none."""
    storage, offset, size, stride = described
    numbers = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)
    if not numbers or not isinstance(storage, _Storage):
        return None
    if not all(isinstance(n, int) and 0 <= n < _MOST_ELEMENTS for n in (offset, *size, *stride)):
        raise _DamageError("a tensor's size is no number")
    return _Stored(storage, dtype if isinstance(dtype, torch.dtype) else storage.dtype, offset, size, stride)


def _dictionary(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """An ordered or default dictionary, whose first contents may come as pairs."""
    found: dict[Any, Any] = {}
    for argument in arguments:
        if isinstance(argument, Mapping):
            _fill(found, argument.items())
        elif isinstance(argument, list | tuple):
            _fill(found, (pair for pair in argument if isinstance(pair, list | tuple) and len(pair) == 2))
    return found


def _fill(target: dict[Any, Any], pairs: Any) -> None:
    for key, value in pairs:
        # Other keys name no weights, and hashing what a file made up (tuples a million deep) is not safe.
        if isinstance(key, str | int):
            target[key] = value


def shown(name: str) -> str:
    """A name out of a file, fit for one line."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)
    return plain if len(plain) <= 80 else plain[:79] + "…"
