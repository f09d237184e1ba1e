"""One coloured cloud of a whole stream, in bounded memory: a grid of voxels that doubles its edge when it is full.

Coordinates are the method's own world (OpenCV axes of its first camera, as a rule) in the method's own unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.files.arrays import load_arrays
from lingbot_eval.files.atomic import atomic_open
from lingbot_eval.types import DepthMap, Image

MAX_VOXELS = 2_000_000
"""Voxels of a cloud unless told otherwise: 140 MB while it grows, 62 MB stored."""

LEAST_VOXELS = 1000

CONFIDENT_SHARE = 0.7
"""Share of a cloud's voxels that is shown and exported unless told otherwise: those of highest mean confidence. The
benchmark viewer of LingBot-Map leaves out the same 30 % (viewers differ: by value 1.5, or half of all)."""

_FIRST_DIAGONAL = 512  # voxels along the diagonal of the first frame's box: about two pixels of a 518×378 image each
_MIDDLE = (5.0, 95.0)  # percentiles of the box: single far points do not decide
_BITS = 21  # of a cell's number along one axis
_HALF = 1 << (_BITS - 1)
_LEAST_SLOTS = 1 << 12

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


class VoxelCloud:
    """Mean position, colour and confidence of all points in each voxel, and the frame that saw it first.

    Voxels are in the order in which they were first seen, so that ``first_frame`` never falls: the cloud as it was at a
    frame is a front part of every array. Adding costs the same at any number of voxels (a hash table, no sorting of
    what is there); doubling, which happens a few times in a stream, costs a sort of all.

    Args:
        limit: voxels at most. Once there would be more, the edge doubles and voxels are merged, weighted by their
            points.
        voxel_size: edge in units of the world; None chooses 1/512 of the diagonal of the box around the middle 90 % of
            the first frame's points, so the first frames' depth decides.
    """

    def __init__(self, limit: int = MAX_VOXELS, voxel_size: float | None = None) -> None:
        if limit < LEAST_VOXELS:
            raise ValueError(f"expected a limit of at least {LEAST_VOXELS} voxels, found {limit}")
        if voxel_size is not None and not 0 < voxel_size < np.inf:
            raise ValueError(f"expected a voxel size above 0, found {voxel_size}")
        self.limit = limit
        self._voxel_size = voxel_size
        self._generation = 0
        self._count = 0
        self._cells = np.empty(0, np.int64)  # a voxel's place in the grid, three numbers in one
        self._means = np.empty((0, 7), np.float32)  # x, y, z, red, green, blue, confidence
        self._counts = np.empty(0, np.int64)
        self._first_frame = np.empty(0, np.int32)
        self._slots = np.full(_LEAST_SLOTS, -1, np.int32)  # the hash table: numbers of voxels, -1 = free

    def __len__(self) -> int:
        """Voxels."""
        return self._count

    @property
    def voxel_size(self) -> float | None:
        """Edge of a voxel now; None before the first point where it is to be chosen."""
        return self._voxel_size

    @property
    def generation(self) -> int:
        """Rises each time the voxels double: numbers of voxels from before mean others now."""
        return self._generation

    @property
    def positions(self) -> DepthMap:
        """(M, 3) float32, the mean of each voxel's points."""
        return self._means[: self._count, :3]

    @property
    def colours(self) -> Image:
        """(M, 3) uint8 RGB, likewise."""
        return np.rint(self._means[: self._count, 3:6]).astype(np.uint8)

    def colours_at(self, voxels: Indices) -> Image:
        """(n, 3) of ``colours``: of these voxels alone."""
        return np.rint(self._means[voxels, 3:6]).astype(np.uint8)

    @property
    def confidence(self) -> DepthMap:
        """(M,) float32, likewise."""
        return self._means[: self._count, 6]

    @property
    def counts(self) -> Indices:
        """(M,) int64: points in each voxel."""
        return self._counts[: self._count]

    @property
    def first_frame(self) -> NDArray[np.int32]:
        """(M,) int32: index of the frame that saw each voxel first; never falls."""
        return self._first_frame[: self._count]

    def cells(self, voxels: Indices, doublings: int) -> Indices:
        """(n,) the cells of voxels in the grid whose edge was doubled so often, three numbers in one."""
        cells = self._cells[voxels]
        for _ in range(doublings):
            cells = _halved(cells)
        return cells

    def confident(self, share: float = CONFIDENT_SHARE) -> Mask:
        """(M,) the upper ``share`` of the voxels by confidence: the quantile of the whole run decides.

        Voxels as confident as the last of them are in it, so that a method without confidence keeps everything.
        """
        if not self._count:
            return np.zeros(0, dtype=bool)
        return np.asarray(self.confidence >= np.quantile(self.confidence, 1 - share, method="lower"))

    def add(self, points: DepthMap, colours: Image, confidence: DepthMap, frame: int) -> Indices:
        """Take a frame's points.

        Args:
            points: (N, 3) in the world. What is not finite, or a million voxels from the origin, is left out.
            colours: (N, 3) uint8 RGB.
            confidence: (N,) larger is surer.
            frame: index of the frame, not below that of the points before.

        Returns:
            Numbers of the voxels that are new, ascending. Where ``generation`` rose all numbers are other ones.

        Raises:
            ValueError: a frame before the last one.
        """
        if self._count and frame < self._first_frame[self._count - 1]:
            raise ValueError(f"frame {frame} after frame {self._first_frame[self._count - 1]}")
        usable = np.isfinite(points).all(axis=1) & np.isfinite(confidence)
        if not usable.all():
            points, colours, confidence = points[usable], colours[usable], confidence[usable]
        if not len(points):
            return np.empty(0, np.int64)
        if self._voxel_size is None:
            self._voxel_size = _first_voxel_size(points)
        values = np.empty((len(points), 7), np.float32)
        values[:, :3], values[:, 3:6], values[:, 6] = points, colours, confidence
        cells = self._cells_of(points)
        # A stream that left the grid needs a coarser one; single points out there are outliers of depth.
        while np.count_nonzero(cells < 0) > len(cells) / 2:
            self._double()
            cells = self._cells_of(points)
        inside = cells >= 0
        cells, means, counts = _grouped(cells[inside], values[inside], np.ones(np.count_nonzero(inside), np.int64))
        voxels = self._find(cells)
        while self._count + np.count_nonzero(voxels < 0) > self.limit:
            self._double()
            cells, means, counts = _grouped(_halved(cells), means, counts)
            voxels = self._find(cells)
        there = voxels >= 0
        self._merge(voxels[there], means[there], counts[there])
        return self._append(cells[~there], means[~there], counts[~there], frame)

    def save(self, path: Path) -> None:
        """Write an ``.npz`` file, whole or not at all. Raises StoreError."""
        with atomic_open(path, "wb") as stream:
            np.savez(
                stream,
                allow_pickle=False,
                positions=self.positions,
                colours=self.colours,
                confidence=self.confidence,
                first_frame=self.first_frame,
                counts=self.counts,
                voxel_size=np.float64(np.nan if self._voxel_size is None else self._voxel_size),
                limit=np.int64(self.limit),
                generation=np.int64(self._generation),
            )

    @classmethod
    def load(cls, path: Path) -> VoxelCloud:
        """Read what `save` wrote. Raises StoreError naming the file when it is damaged or something else."""
        return load_arrays(path, _ARRAYS, "cloud of voxels", cls._loaded)

    @classmethod
    def _loaded(cls, arrays: Mapping[str, NDArray[Any]]) -> VoxelCloud:
        count = len(arrays["positions"]) if arrays["positions"].ndim else 0
        for name, (kind, shape) in _ARRAYS.items():
            found = arrays[name]
            expected = tuple(count if side is None else side for side in shape)
            if found.dtype != np.dtype(kind) or found.shape != expected:
                raise ValueError(f"{name} of {found.dtype}, shape {found.shape}; expected {kind}, {expected}")
        first, size = arrays["first_frame"], float(arrays["voxel_size"])
        sound = {
            "positions": np.isfinite(arrays["positions"]).all(),
            "confidence": np.isfinite(arrays["confidence"]).all(),
            "first_frame": (np.diff(first) >= 0).all() and (first >= 0).all(),
            "counts": (arrays["counts"] > 0).all(),
            "voxel_size": 0 < size < np.inf or (not count and np.isnan(size)),
            "limit": max(LEAST_VOXELS, count) <= arrays["limit"] < 2**31,
            "generation": arrays["generation"] >= 0,
        }
        wrong = [name for name, holds in sound.items() if not holds]
        if wrong:
            raise ValueError(f"values of {', '.join(wrong)} that no cloud has")
        cloud = cls(int(arrays["limit"]), size if count else None)
        cloud._generation = int(arrays["generation"])
        means = np.concatenate(
            [arrays["positions"], arrays["colours"].astype(np.float32), arrays["confidence"][:, None]], axis=1
        )
        cells = cloud._cells_of(means[:, :3]) if count else np.empty(0, np.int64)
        cloud._put(cells, means, arrays["counts"], first)
        return cloud

    def _cells_of(self, points: DepthMap) -> Indices:
        """(N,) the cell of each point; -1 for one outside the grid."""
        assert self._voxel_size is not None
        with np.errstate(over="ignore"):
            numbers = np.floor(points / np.float64(self._voxel_size)) + _HALF
        inside = np.asarray(((numbers >= 0) & (numbers < 2 * _HALF)).all(axis=1))
        whole = np.where(inside[:, None], numbers, 0).astype(np.int64)
        return np.where(inside, (whole[:, 0] << 2 * _BITS) | (whole[:, 1] << _BITS) | whole[:, 2], -1)

    def _find(self, cells: Indices) -> Indices:
        """(K,) numbers of the voxels in these cells; -1 where there is none yet."""
        if not len(self._slots):
            self._slots = np.full(_slots_for(self._count), -1, np.int32)
            self._enter(np.arange(self._count))
        last = len(self._slots) - 1
        slots = _hashed(cells) & last
        found = np.full(len(cells), -1, np.int64)
        asking = np.arange(len(cells)) if self._count else np.empty(0, np.int64)
        while len(asking):
            voxels = self._slots[slots[asking]]
            taken = voxels >= 0
            asking, voxels = asking[taken], voxels[taken]
            same = self._cells[voxels] == cells[asking]
            found[asking[same]] = voxels[same]
            asking = asking[~same]
            slots[asking] = (slots[asking] + 1) & last
        return found

    def _enter(self, voxels: Indices) -> None:
        """Put voxels into the hash table: each takes the first free slot from its own on."""
        last = len(self._slots) - 1
        slots = _hashed(self._cells[voxels]) & last
        while len(voxels):
            free = self._slots[slots] < 0
            self._slots[slots[free]] = voxels[free]
            # Of several that claim one slot one has it now; the others go on.
            open_ = self._slots[slots] != voxels
            voxels, slots = voxels[open_], (slots[open_] + 1) & last

    def _merge(self, voxels: Indices, means: DepthMap, counts: Indices) -> None:
        total = self._counts[voxels] + counts
        self._counts[voxels] = total
        old = self._means[voxels]
        self._means[voxels] = old + (means - old) * (counts / total).astype(np.float32)[:, None]

    def _append(self, cells: Indices, means: DepthMap, counts: Indices, frame: int) -> Indices:
        start, end = self._count, self._count + len(cells)
        if end > len(self._cells):
            room = min(max(2 * end, _LEAST_SLOTS), self.limit)
            for name in ("_cells", "_means", "_counts", "_first_frame"):
                old = getattr(self, name)
                larger = np.empty((room, *old.shape[1:]), old.dtype)
                larger[:start] = old[:start]
                setattr(self, name, larger)
        self._cells[start:end], self._means[start:end] = cells, means
        self._counts[start:end], self._first_frame[start:end] = counts, frame
        self._count = end
        new = np.arange(start, end)
        if 2 * end > len(self._slots):
            self._slots = np.full(_slots_for(end), -1, np.int32)
            self._enter(np.arange(end))
        else:
            self._enter(new)
        return new

    def _double(self) -> None:
        assert self._voxel_size is not None
        self._voxel_size *= 2
        self._generation += 1
        count = self._count
        cells = _halved(self._cells[:count])
        _, first, group = np.unique(cells, return_index=True, return_inverse=True)
        # Of voxels that become one the oldest comes first: keep them in that order.
        order = np.argsort(first)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        group = rank[group]
        counts = np.bincount(group, self._counts[:count], len(order))
        means = np.empty((len(order), 7), np.float32)
        for column in range(7):
            sums = np.bincount(group, self._means[:count, column] * self._counts[:count], len(order))
            means[:, column] = sums / counts
        first = first[order]
        self._put(cells[first], means, counts.astype(np.int64), self._first_frame[first])

    def _put(self, cells: Indices, means: DepthMap, counts: Indices, first_frame: NDArray[np.int32]) -> None:
        """These voxels and no others."""
        self._cells, self._means, self._counts, self._first_frame = cells, means, counts, first_frame
        self._count = len(cells)
        # Filled when a cell is looked for: a cloud that is only looked at needs none.
        self._slots = np.empty(0, np.int32)


_ARRAYS: dict[str, tuple[str, tuple[int | None, ...]]] = {
    "positions": ("float32", (None, 3)),
    "colours": ("uint8", (None, 3)),
    "confidence": ("float32", (None,)),
    "first_frame": ("int32", (None,)),
    "counts": ("int64", (None,)),
    "voxel_size": ("float64", ()),
    "limit": ("int64", ()),
    "generation": ("int64", ()),
}


def confidence_words(share: float) -> str:
    """The confidence rule as files state it."""
    if share >= 1:
        return "all voxels, whatever their confidence"
    return f"the {100 * share:g} % of the run's voxels with the highest mean confidence"


def _first_voxel_size(points: DepthMap) -> float:
    low, high = np.percentile(points.astype(np.float64), _MIDDLE, axis=0)
    diagonal = float(np.linalg.norm(high - low))
    # All points in one place: any edge above 0 does.
    return diagonal / _FIRST_DIAGONAL or max(float(np.abs(points).max()), 1.0) / _FIRST_DIAGONAL


def _grouped(cells: Indices, means: DepthMap, counts: Indices) -> tuple[Indices, DepthMap, Indices]:
    """Cells that occur, each once, with the weighted means and the sums of what is in them."""
    if not len(cells):
        return cells, means, counts
    order = np.argsort(cells)
    cells, weights = cells[order], counts[order]
    starts = np.flatnonzero(np.concatenate([[True], cells[1:] != cells[:-1]]))
    total = np.add.reduceat(weights, starts)
    sums = np.add.reduceat(means[order] * weights.astype(np.float32)[:, None], starts, axis=0)
    return cells[starts], np.asarray(sums / total.astype(np.float32)[:, None], np.float32), total


def _halved(cells: Indices) -> Indices:
    """Cells of the grid of twice the edge around the same origin."""
    ones = (1 << _BITS) - 1
    parts = [((cells >> shift & ones) + _HALF) >> 1 for shift in (2 * _BITS, _BITS, 0)]
    return (parts[0] << 2 * _BITS) | (parts[1] << _BITS) | parts[2]


def _hashed(cells: Indices) -> Indices:
    """Numbers that look random: neighbours in space must not be neighbours in the table (the end of splitmix64)."""
    mixed = cells.astype(np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def _slots_for(voxels: int) -> int:
    """A power of two of which so many voxels, and as many again, fill at most half."""
    return max(_LEAST_SLOTS, 1 << (4 * max(voxels, 1) - 1).bit_length())
