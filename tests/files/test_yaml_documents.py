"""Strict YAML: what is refused, and that the line is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lingbot_eval.errors import ConfigError
from lingbot_eval.files.yaml_documents import load_mapping, parse_value


def write(folder: Path, text: str) -> Path:
    path = folder / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_a_mapping(tmp_path: Path) -> None:
    assert load_mapping(write(tmp_path, "a: 1\nb: {c: [x, 2.5]}\n")) == {"a": 1, "b": {"c": ["x", 2.5]}}


def test_merge_keys_work(tmp_path: Path) -> None:
    text = "base: &base {a: 1, b: 2}\nmore: {<<: *base, b: 3}\n"
    assert load_mapping(write(tmp_path, text))["more"] == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", "file.yaml:3: key 'a' is given twice"),
        ("x:\n  a: 1\n  a: 1\n", "file.yaml:3: key 'a' is given twice"),
        ("a: 1\n1: 2\n", "file.yaml:2: key 1 is not text"),
        ("a: [1, 2\nb: 3\n", "file.yaml:2: not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", "file.yaml:1: could not determine a constructor"),
        ("- a\n- b\n", "expected settings as 'key: value' lines, found a list"),
        ("", "found nothing"),
        ("just words\n", "found a str"),
        ("a: 1\n---\nb: 2\n", "file.yaml:2: not valid YAML"),
        ("a: !!int many\n", "file.yaml:1: expected a value of type int, found 'many'"),
        ("a: !!bool maybe\n", "file.yaml:1: expected a value of type bool"),
        ("a: !!timestamp soon\n", "file.yaml:1: expected a value of type timestamp"),
        (f"a: {'9' * 5000}\n", "file.yaml:1: expected a value of type int, found '9999"),
        ("a: &a [*a]\n", "unfold"),
    ],
)
def test_refuses_with_the_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_mapping(write(tmp_path, text))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_refuses_what_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_mapping(path)


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_mapping(tmp_path / "file.yaml")


def test_refuses_what_unfolds_without_end(tmp_path: Path) -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{new}: &{new} [{','.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
    )
    with pytest.raises(ConfigError, match="unfold"):
        load_mapping(write(tmp_path, bomb))


def test_refuses_endless_nesting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_mapping(write(tmp_path, "a: " + "[" * 1500))


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("[a, b]", ["a", "b"]), ("null", None), ("", None), ("x y", "x y"), ("2026-13-45", "2026-13-45")]
    # Numbers are what people write; YAML 1.1 would make 10, 8, 90, 16 and 10.5 of these.
    + [(text, text) for text in ("1_0", "010", "1:30", "0x10", "1_0.5", "１０")]
    + [("-7", -7), ("1.5e3", 1500.0), (".5", 0.5), (".inf", float("inf"))],
)
def test_single_values(text: str, value: object) -> None:
    assert parse_value(text) == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1, 2", "not a YAML value"),
        ("'1_0", "not a YAML value"),
        ("[" * 1500, "nested too deeply"),
        ("&a [*a]", "unfolding"),
    ],
)
def test_a_broken_single_value(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_value(text)


def test_refuses_what_nests_deeper_than_settings_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nested too deeply"):
        load_mapping(write(tmp_path, "a: " + "[" * 70 + "]" * 70))


def test_a_file_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="it is a device, expected a file"):
        load_mapping(Path("/dev/zero"))


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
documents = st.dictionaries(
    st.text(), st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
)


@settings(max_examples=60)
@given(documents)
def test_what_another_library_wrote_reads_back(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, object]
) -> None:
    path = write(tmp_path_factory.mktemp("yaml"), yaml.safe_dump(document))
    assert load_mapping(path) == document
