"""What a unit has gathered, taken as plain values and put into a new owner."""

from __future__ import annotations

import io
import json
import math
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lingbot_eval.errors import StoreError
from lingbot_eval.stored import saved
from lingbot_eval.stored.saved import Contents, SavedState, put_back, taken
from lingbot_eval.types import FrameType


class Item:
    """Stands in lists, where a new owner has none yet."""

    def __init__(self, number: int) -> None:
        self.number = number


@dataclass(frozen=True)
class Settings:
    """Frozen: of the new owner."""

    size: int = 1


@dataclass
class Inner:
    """Changes while a unit goes on."""

    count: int = 0


@dataclass
class Owner:
    """Something of each kind that is gathered, and something of each that is not."""

    settings: Settings = field(default_factory=Settings)
    path: Path = Path("new")
    function: Any = None
    inner: Inner = field(default_factory=Inner)
    numbers: list[float] = field(default_factory=list)
    pair: tuple[int, ...] = ()
    by_key: dict[Any, Any] = field(default_factory=dict)
    typed: array[float] = field(default_factory=lambda: array("d"))
    growing: bytearray = field(default_factory=bytearray)
    fixed: bytes = b""
    values: Any = None
    items: list[Item] = field(default_factory=list)
    text: str = ""
    flag: bool = False
    kind: FrameType = FrameType.SCALE
    nothing: int | None = 0


for kind in (Item, Settings, Inner, Owner):
    kind.__module__ = "lingbot_eval.of_this_test"  # objects of ours are told by their module


def again(value: Any, into: Any) -> Any:
    """By way of JSON and of arrays, as a saved unit is."""
    contents: Contents = []
    tree = json.loads(json.dumps(taken(value, contents, {"item": Item}), allow_nan=False))
    arrays = [make() for make in contents]
    return put_back(tree, into, lambda number: arrays[number], {"item": Item})


def test_everything_gathered_comes_into_the_new_owner_and_nothing_else() -> None:
    old = Owner(
        settings=Settings(2),
        path=Path("old"),
        function=len,
        inner=Inner(3),
        numbers=[1.5, math.inf, -math.inf, 2],
        pair=(1, 2),
        by_key={1: "one", "two": [2]},
        typed=array("d", [0.5, 0.25]),
        growing=bytearray(b"abc"),
        fixed=b"xyz",
        values=np.arange(6, dtype=np.float32).reshape(2, 3),
        items=[Item(7), Item(8)],
        text="said",
        flag=True,
        kind=FrameType.KEPT,
        nothing=None,
    )
    new = Owner()
    inner, by_key = new.inner, new.by_key
    assert again(old, new) is new
    assert (new.settings, new.path, new.function, new.kind) == (Settings(1), Path("new"), None, FrameType.SCALE)
    assert new.inner is inner  # others may hold them already
    assert new.by_key is by_key
    assert inner.count == 3
    assert new.numbers == [1.5, math.inf, -math.inf, 2]
    assert new.pair == (1, 2)
    assert by_key == {1: "one", "two": [2]}
    assert (type(new.typed), new.typed.typecode, list(new.typed)) == (array, "d", [0.5, 0.25])
    assert (type(new.growing), new.growing) == (bytearray, b"abc")
    assert (type(new.fixed), new.fixed) == (bytes, b"xyz")
    np.testing.assert_array_equal(new.values, old.values)
    assert new.values.dtype == np.float32
    assert [(type(item), item.number) for item in new.items] == [(Item, 7), (Item, 8)]
    assert (new.text, new.flag, new.nothing) == ("said", True, None)


def test_numbers_that_json_does_not_have() -> None:
    assert math.isnan(again(math.nan, None))
    assert again([math.inf, -math.inf], None) == [math.inf, -math.inf]
    assert again(np.float64(1.5), None) == 1.5
    found = again(np.int32(4), None)
    assert (found, type(found)) == (4, int)
    assert again(True, None) is True


def test_objects_in_lists_stay_those_of_the_new_owner() -> None:
    there = [Inner(), Inner()]
    first, second = there
    assert again([Inner(1), Inner(2)], there) == [Inner(1), Inner(2)]
    assert (first.count, second.count) == (1, 2)
    assert again((Inner(4),), (first,)) == (first,)
    assert first.count == 4
    known = {"a": first, "left": second}
    assert again({"a": Inner(9)}, known) is known
    assert (first.count, known["left"]) == (9, second)


def test_what_cannot_be_put_back_is_refused() -> None:
    for held in ([Settings()], (len,), {"a": Path("x")}):
        with pytest.raises(TypeError, match="expected gathered values, found"):
            taken(held, [], {})
    with pytest.raises(TypeError, match="expected an object to put gathered values into, found none"):
        again([Inner(1), Inner(2)], [Inner()])


def test_a_state_is_due_every_ten_minutes_and_is_one_of_its_run_unit_and_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(saved, "time", SimpleNamespace(monotonic=lambda: now[0]))
    folder, of = tmp_path / "states" / "method", ("key", ("tum", "desk", "method"), "input")
    state = SavedState(folder, *of)
    assert state.load() is None
    now[0] += 599.9
    assert not state.due()
    now[0] += 0.2
    assert state.due()
    # What a kill left of the last attempt is no part of this one.
    left = folder.with_name(".partial-method")
    left.mkdir(parents=True)
    (left / "content-7.npy").write_bytes(b"torn")
    (tmp_path / "frames.csv").write_text("index\n0\n")
    state.save(3, 1.5, {"a": 1}, [lambda: np.arange(4)], [tmp_path / "frames.csv"])
    assert not state.due(), "of this one on"
    record = state.load()
    assert record is not None
    assert (record.frames, record.seconds, record.values) == (3, 1.5, {"a": 1})
    assert set(record.files) == {"content-0.npy", "files-frames.csv"}
    assert state.content(0).tolist() == [0, 1, 2, 3]
    assert {name: path.read_text() for name, path in state.files(record).items()} == {"frames.csv": "index\n0\n"}
    assert [path.name for path in folder.parent.iterdir()] == ["method"]
    for other in (("other", *of[1:]), (of[0], ("tum", "desk", "other"), of[2]), (*of[:2], "other")):
        assert SavedState(folder, *other).load() is None
    (folder / "content-0.npy").write_bytes(b"damaged")
    with pytest.raises(StoreError, match=r"content-0\.npy is damaged"):
        state.load()
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}]), allow_pickle=True)  # which would run code of whoever wrote it
    for content in (b"damaged", b"", pickled.getvalue()):
        (folder / "content-0.npy").write_bytes(content)
        with pytest.raises(StoreError, match=r"content-0\.npy cannot be read: "):
            state.content(0)
    with pytest.raises(StoreError, match=r"content-1\.npy cannot be read: No such file"):
        state.content(1)
    state.remove()
    assert not folder.exists()
