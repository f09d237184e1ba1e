"""Files that are none, and JSON that nobody should have written."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from lingbot_eval.errors import ConfigError, DataError, LingbotEvalError, StoreError
from lingbot_eval.files.depth_maps import read_depth_map
from lingbot_eval.files.json_documents import read_json
from lingbot_eval.files.reading import open_file, parse_number, read_text
from lingbot_eval.files.yaml_documents import load_mapping
from lingbot_eval.scaling.records import SCALE_LAYOUT
from lingbot_eval.stored.records import RunRecord, read_record
from lingbot_eval.stored.unit_files import load_drift, read_table
from lingbot_eval.verification.cases import load_cases


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def device(path: Path) -> Path:
    path.symlink_to("/dev/zero")
    return path


def listening(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))
    return path


KINDS = ((pipe, "named pipe"), (device, "device|symbolic link"), (listening, "socket"))


@pytest.mark.parametrize(("make", "says"), KINDS)
@pytest.mark.parametrize(
    ("name", "read", "error"),
    [
        ("poses.txt", lambda path: read_text(path, "trajectory"), DataError),
        ("experiment.yaml", load_mapping, ConfigError),
        ("run.json", lambda path: read_record(path, RunRecord), StoreError),
        ("drift.npz", load_drift, StoreError),
        ("samples.csv", lambda path: read_table(path, SCALE_LAYOUT), StoreError),
        ("0.npy", lambda path: read_depth_map(path, 1.0), DataError),
        ("0.png", lambda path: read_depth_map(path, 1.0), DataError),
        ("cases.json", lambda path: load_cases(path.parent), DataError),
    ],
)
def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path,
    make: Callable[[Path], Path],
    says: str,
    name: str,
    read: Callable[[Path], object],
    error: type[LingbotEvalError],
) -> None:
    with pytest.raises(error, match=says) as refused:
        read(make(tmp_path / name))
    assert name in str(refused.value)


def test_links_to_files_are_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with open_file(tmp_path / "link") as stream:
        assert stream.read() == b"x"


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "", "folder"])
def test_paths_that_open_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r".+"):
        open_file(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "beyond float64"),
        (b'{"a": 9223372036854775808}', "beyond 64 bits"),
        (b'{"a": ' + b"9" * 5000 + b"}", "beyond 64 bits"),
        (b'{"a": 1, "b": {"d": 1, "c": 1, "c": 2}}', "the key 'c' is given twice"),
        (b'{"a": -9223372036854775809}', "beyond 64 bits"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 65 + b"]" * 65, "nested more than 64 deep"),
        (b"\xff{}", "utf-8"),
        (b'{"a": "\0"}', "control character"),
        (b"", "Expecting value"),
        (b'{"a": 1_0}', "delimiter"),
    ],
)
def test_json_that_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says) as refused:
        read_json(path)
    assert len(str(refused.value)) <= 200
    assert str(refused.value).isprintable()


def test_json_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, -2.5, 9223372036854775807], "b": null}')
    assert read_json(path) == {"a": [1, -2.5, 2**63 - 1], "b": None}
    path.write_bytes(b"[" * 63 + b"-9223372036854775808" + b"]" * 63)  # with the number 64 deep
    assert str(read_json(path)) == "[" * 63 + str(-(2**63)) + "]" * 63


@pytest.mark.parametrize("word", ["1_0", "１０", "٣", "", "1,5", "0x1"])
def test_words_that_are_no_numbers(word: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_number(word)


def test_words_that_are_numbers() -> None:
    assert [parse_number(word) for word in ("1", "-2.5e-3", "+.5", "010")] == [1, -0.0025, 0.5, 10]
