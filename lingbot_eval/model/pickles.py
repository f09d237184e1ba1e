"""A pickle read by a machine of our own that runs nothing.

``torch.save`` writes a pickle, and a pickle may name any function of Python to be called. Public checkpoints are read
with that switched on everywhere, so they may hold objects of all kinds beside their weights. Here the pickle's opcodes
are walked one by one (``pickletools``, which only parses): tensors, numbers, strings and containers become values, and
everything else becomes a `Named`, a name. No name is ever looked up in a module, nothing is called but the few
functions below, and no attribute is set on anything.
"""

from __future__ import annotations

import pickletools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

_MOST_ELEMENTS = 2**62

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
    # As Python 3 writes range, int and str for Python 2, which torch asks it to.
    "xrange",
    "long",
    "unicode",
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


class DamageError(ValueError):
    """Bytes that contradict each other; becomes a CheckpointError with the file's name."""


@dataclass(frozen=True, eq=False)
class Named:
    """A class or function that the file names, or an object of one: a name, never looked up, that cannot run."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Numbers in the file that tensors are views of."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor as the file describes it."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Machine:
    """Walks the opcodes of a pickle (protocols 0 to 5) and builds values that run nothing."""

    def __init__(self) -> None:
        self.storages: list[Storage] = []
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
        raise DamageError("its pickle has no end")

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
                    raise DamageError("its pickle takes more than is there")
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
                    raise DamageError("its pickle gives a state to nothing")
                stack.pop()
            case "PERSID":
                stack.append(self._left_out("a persistent reference"))
            case "BINPERSID":
                stack.append(self._persistent(stack.pop()))
            case _:
                # What remains are numbers, strings and bytes, which pickletools has parsed; anything else is new.
                if not isinstance(argument, bool | int | float | str | bytes | bytearray):
                    raise DamageError(f"its pickle has an opcode {name} that this version does not know")
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
            raise DamageError("its pickle has a key without a value")
        if isinstance(target, dict):
            _fill(target, zip(items[::2], items[1::2], strict=True))

    def _named(self, module: Any, attribute: Any) -> Any:
        if not (isinstance(module, str) and isinstance(attribute, str)):
            raise DamageError("its pickle names no class where one is due")
        name = f"{module}.{attribute}"
        if module in ("torch", "torch.cuda", "torch.storage") and attribute in _STORAGES:
            return _STORAGES[attribute]
        if name in _DTYPES:
            return _DTYPES[name]
        if name not in _KNOWN:
            self._names.add(shown(name))
        return Named(name)

    def _made(self, target: Any, arguments: Any) -> Any:
        """What calling ``target`` would give: a tensor or a container where we know it, else a name."""
        given = arguments if isinstance(arguments, tuple) else ()
        name = target.name if isinstance(target, Named) else type(target).__name__
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
        if name in _RECONSTRUCTORS and given and isinstance(given[0], Named):
            name = given[0].name
        return self._left_out(name)

    def _left_out(self, name: str) -> Named:
        self._built[shown(name)] += 1
        return Named(name)

    def _persistent(self, reference: Any) -> Any:
        match reference:
            case ("storage", torch.dtype() as dtype, key, _, int(count), *_) if (
                isinstance(key, str | int) and count >= 0
            ):
                storage = Storage(str(key), dtype, count)
                self.storages.append(storage)
                return storage
            case ("module", content, *_):
                return content
        return self._left_out("a persistent reference")


def _stored(described: tuple[Any, ...], dtype: Any) -> Stored | None:
    """A tensor from its storage, offset, size and stride, or None where they are none."""
    storage, offset, size, stride = described
    numbers = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)
    if not numbers or not isinstance(storage, Storage):
        return None
    if not all(isinstance(n, int) and 0 <= n < _MOST_ELEMENTS for n in (offset, *size, *stride)):
        raise DamageError("a tensor's size is no number")
    return Stored(storage, dtype if isinstance(dtype, torch.dtype) else storage.dtype, offset, size, stride)


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
