"""Seeded damage: what disks, editors and unkind people do to a file, as a stream of variants of a sound one."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    10**30,
    1e308,
    "",
    "\0\x1b[31m\u202e\n<script>|=1+1",
    "\ud800",
    "1_0",
    "１０",
    [],
    [[1, [2, {}]]],
    {},
    {"": {"name": []}},
)
"""What a key of a record may hold after somebody's script went over it: other kinds, extremes, foreign characters."""


_TEXTS = (b"\xff", b"\0", b"\xef\xbb\xbf", b"nan", b"1e999", b"-", b'"', b"\r", b",", b"9" * 400, b"\xed\xa0\x80")


def damaged(content: bytes, seed: int) -> bytes:
    """``content`` after one to three mishaps; the same for the same seed."""
    chance = random.Random(seed)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        content = chance.choice(_MISHAPS)(content, chance)
    return content


def odd(document: Any, seed: int) -> Any:
    """A copy of a JSON document in which one to three places hold something else, or are gone, or are there twice."""
    chance = random.Random(seed)
    document = copy.deepcopy(document)
    for _ in range(chance.choice((1, 1, 2, 3))):
        places = list(_places(document))
        if not places:
            return document
        holder, key = chance.choice(places)
        deed = chance.randrange(4)
        if deed == 0:
            del holder[key]
        elif deed == 1 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif deed == 1:
            holder[chance.choice(("", "extra", "name", "\u202e"))] = copy.deepcopy(holder[key])
        elif deed == 2:
            holder[key] = [copy.deepcopy(holder[key])]
        else:
            holder[key] = copy.deepcopy(chance.choice(ODD_VALUES))
    return document


def odd_json(content: bytes, seed: int) -> bytes:
    """A JSON file of odd structure; every third one is damaged as bytes instead."""
    if seed % 3 == 0:
        return damaged(content, seed)
    return json.dumps(odd(json.loads(content), seed)).encode()


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every (mapping or list, key) of a document, outermost first."""
    waiting = [document]
    while waiting:
        holder = waiting.pop(0)
        keys: Any = holder if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            yield holder, key
            waiting.append(holder[key])


def _flipped(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 4, 32))):
        if changed:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _spliced(content: bytes, chance: random.Random) -> bytes:
    """A stretch of the file once more, somewhere else: over what was there, or between."""
    start = chance.randrange(len(content) + 1)
    piece = content[start : start + chance.randrange(1, 200)]
    place = chance.randrange(len(content) + 1)
    return content[:place] + piece + content[place + (len(piece) if chance.random() < 0.5 else 0) :]


def _removed(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content) + 1)
    return content[:place] + content[place + chance.randrange(1, 200) :]


def _blanked(content: bytes, chance: random.Random) -> bytes:
    """A sector that never reached the disk."""
    place, length = chance.randrange(len(content) + 1), chance.choice((8, 64, 512))
    return content[:place] + bytes(len(content[place : place + length])) + content[place + length :]


def _odd_number(content: bytes, chance: random.Random) -> bytes:
    """A length, an offset or a count of 1 to 8 bytes that says something else."""
    size, code = chance.choice(((1, "B"), (2, "H"), (4, "I"), (8, "Q")))
    most = (1 << (8 * size)) - 1
    number = struct.pack(chance.choice("<>") + code, chance.choice((0, 1, most, most >> 1, most - 1, 1 << (4 * size))))
    # Headers hold the lengths: most mishaps go there.
    reach = len(content) if chance.random() < 0.5 else min(len(content), 200)
    place = chance.randrange(reach + 1)
    return content[:place] + number + content[place + size :]


def _odd_text(content: bytes, chance: random.Random) -> bytes:
    piece = chance.choice(_TEXTS)
    place = chance.randrange(len(content) + 1)
    return content[:place] + piece + content[place + chance.choice((0, 1, len(piece))) :]


_MISHAPS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flipped,
    _flipped,
    _cut,
    _spliced,
    _removed,
    _blanked,
    _odd_number,
    _odd_number,
    _odd_text,
)
