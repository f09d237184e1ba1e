"""Arrays of files: as NumPy has them, and none that takes more memory than it may."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lingbot_eval.errors import StoreError
from lingbot_eval.files import arrays
from lingbot_eval.files.arrays import load_arrays, npy_array, npz_arrays, read_npy, read_npz

SIX = np.arange(6).reshape(2, 3)


@pytest.mark.parametrize(
    "array",
    [
        SIX,
        np.asfortranarray(SIX.astype(np.float32)),
        SIX.astype(">i2"),
        np.array(7.5),
        np.empty((0, 3)),
        np.array([True, False]),
        np.array(["a", "bcd"]),
    ],
    ids=["rows", "columns", "big endian", "scalar", "empty", "truth", "text"],
)
def test_every_plain_array_is_read_as_numpy_reads_it(tmp_path: Path, array: NDArray[Any]) -> None:
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", a=array, b=SIX)
    np.savez_compressed(tmp_path / "c.npz", a=array, b=SIX)
    with (tmp_path / "two.npy").open("wb") as stream:
        np.lib.format.write_array(stream, array, version=(2, 0))
    for found in (
        read_npy(tmp_path / "a.npy"),
        read_npy(tmp_path / "two.npy"),
        npy_array(io.BytesIO((tmp_path / "a.npy").read_bytes())),
        read_npz(tmp_path / "a.npz")["a"],
        read_npz(tmp_path / "c.npz", ["a"])["a"],
    ):
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype
        assert found.flags.writeable
    assert list(read_npz(tmp_path / "a.npz")) == ["a", "b"]
    assert list(read_npz(tmp_path / "a.npz", ["b"])) == ["b"]


def test_limits_hold_to_the_byte(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", SIX)
    np.savez_compressed(tmp_path / "a.npz", a=SIX, b=np.zeros(1000))
    assert read_npy(tmp_path / "a.npy", SIX.nbytes).shape == (2, 3)
    with pytest.raises(ValueError, match=r"int64 of shape \(2, 3\) has 48 bytes, the file 48 of at most 47"):
        read_npy(tmp_path / "a.npy", SIX.nbytes - 1)
    whole = sum(entry.nbytes + 128 for entry in (SIX, np.zeros(1000)))
    assert read_npz(tmp_path / "a.npz", ["a"], whole)["a"].shape == (2, 3)
    # What is not asked for counts as well: the file as a whole is not what it should be.
    with pytest.raises(ValueError, match=f"2 arrays of {whole} bytes when unpacked"):
        read_npz(tmp_path / "a.npz", ["a"], whole - 1)


def test_a_file_of_too_many_arrays_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", a=SIX, b=SIX)
    monkeypatch.setattr(arrays, "_MOST_NAMES", 2)
    assert len(read_npz(tmp_path / "a.npz")) == 2
    monkeypatch.setattr(arrays, "_MOST_NAMES", 1)
    with pytest.raises(ValueError, match="2 arrays of"):
        npz_arrays(io.BytesIO((tmp_path / "a.npz").read_bytes()))


@pytest.mark.parametrize(
    ("array", "says"),
    [(np.array([{}]), "objects of shape"), (np.zeros(2, [("x", "f4")]), "expected plain numbers")],
)
def test_what_are_no_plain_numbers_is_refused(tmp_path: Path, array: NDArray[Any], says: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=says):
        read_npy(tmp_path / "a.npy")


def test_bytes_beyond_the_array_are_damage(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", SIX)
    content = (tmp_path / "a.npy").read_bytes()
    for damaged in (content + b"x", content[:-1]):
        with pytest.raises(ValueError, match=f"has 48 bytes, the file {48 + len(damaged) - len(content)} of at most"):
            npy_array(io.BytesIO(damaged))


def test_a_stored_file_names_itself_and_what_it_should_hold(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=SIX)
    assert load_arrays(path, ["a"], "numbers", lambda found: int(found["a"].sum())) == 15

    def refuse(found: dict[str, NDArray[Any]]) -> None:
        raise ValueError("they are odd")

    for names, make, why in ((["a", "b"], len, "no array b"), (["a"], refuse, "they are odd")):
        with pytest.raises(
            StoreError, match=rf"expected the numbers of a unit in .*a\.npz, found a damaged .*\({why}\)"
        ):
            load_arrays(path, names, "numbers", make)
