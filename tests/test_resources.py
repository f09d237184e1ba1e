"""Where things are: in a wheel, in a checkout, in the user's folders; and the plain objects' own rules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lingbot_eval
from lingbot_eval.errors import ConfigError
from lingbot_eval.resources import (
    PUBLIC,
    PublicFile,
    expanded,
    python_child,
    remember,
    remembered,
    shared_file,
    shared_folder,
    shared_names,
    shipped_weights,
    user_cache,
)
from lingbot_eval.types import Declaration, Measurement


def test_a_public_file_is_addressed_as_an_experiment_writes_it() -> None:
    assert PublicFile("o/r", "f.pt", "ab", revision="12").address == "hf://o/r@12/f.pt"
    assert PublicFile("o/r", "d/f.pt", "ab").address == "hf://o/r/d/f.pt"
    pinned = "hf://robbyant/lingbot-map@204754b72bb24f561f8d7e7e1e4e4cd9e809adf9"
    assert {name: (file.address, file.sha256[:8], file.size) for name, file in PUBLIC.items()} == {
        "lingbot-map": (f"{pinned}/lingbot-map.pt", "ee665103", None),
        "lingbot-map-long": (f"{pinned}/lingbot-map-long.pt", "832bc82c", 4_632_303_465),
        "skyseg": ("hf://JianyuanWang/skyseg/skyseg.onnx", "ab9c34c6", 175_997_079),
        "skyseg-batch": (f"{pinned}/skyseg_batch.onnx", "b09c0f6c", None),
    }
    # Weights of the network are of its full configuration; the others are none.
    assert {name for name, file in PUBLIC.items() if file.config == "full"} == {"lingbot-map", "lingbot-map-long"}
    assert len({file.sha256 for file in PUBLIC.values()}) == len(PUBLIC)
    assert all(len(file.sha256) == 64 for file in PUBLIC.values())


def test_what_is_kept_for_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "~/mine")
    assert user_cache("weights") == tmp_path / "mine" / "lingbot-eval" / "weights"
    for nothing in ("", None):
        monkeypatch.delenv("XDG_CACHE_HOME") if nothing is None else monkeypatch.setenv("XDG_CACHE_HOME", nothing)
        assert user_cache("weights") == tmp_path / ".cache" / "lingbot-eval" / "weights"
    assert expanded("~/a") == tmp_path / "a"
    assert expanded("~nobody-of-this-name/a") == Path("~nobody-of-this-name/a")


def test_what_is_remembered_is_found_again_or_nothing_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert remembered("hashes", "a") == {}
    remember("hashes", "a", {"b": [1, "ü"]})
    assert remembered("hashes", "a") == {"b": [1, "ü"]}
    assert remembered("code", "a") == remembered("hashes", "b") == {}
    file = tmp_path / "lingbot-eval" / "hashes" / "a.json"
    for damaged in (b"", b"{", b"[1]", b"\xff"):
        file.write_bytes(damaged)
        assert remembered("hashes", "a") == {}
    (tmp_path / "lingbot-eval" / "hashes" / "b.json").mkdir()  # no file can be written there
    remember("hashes", "b", {"b": 1})
    assert remembered("hashes", "b") == {}
    (tmp_path / "lingbot-eval" / "code").touch()  # no folder can be made there
    remember("code", "a", {"b": 1})
    assert remembered("code", "a") == {}


def test_files_of_a_wheel_go_before_those_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "lingbot_eval"
    package.mkdir()
    monkeypatch.setattr(lingbot_eval, "__file__", str(package / "__init__.py"))
    for folder in ("datasets", "benchmarks/experiments", "reports"):
        (tmp_path / folder).mkdir(parents=True)
    # Beside a package in site-packages such folders are somebody else's.
    for kind in ("datasets", "experiments", "reports"):
        with pytest.raises(ConfigError, match=f"the shipped {kind} are not in .*install it again"):
            shared_folder(kind)
    (tmp_path / "pyproject.toml").touch()
    assert shared_folder("datasets") == tmp_path / "datasets"
    assert shared_folder("experiments") == tmp_path / "benchmarks" / "experiments"
    (package / "share" / "datasets").mkdir(parents=True)
    assert shared_folder("datasets") == package / "share" / "datasets"
    for name in ("b.yaml", "a.yaml", "c.txt"):
        (package / "share" / "datasets" / name).touch()
    assert shared_names("datasets") == ("a", "b")
    assert shared_file("datasets", "a") == package / "share" / "datasets" / "a.yaml"
    for name in ("c", "../datasets/a", ""):
        with pytest.raises(ConfigError, match=r"no dataset called .* is shipped.*there are: a, b"):
            shared_file("datasets", name)
    with pytest.raises(ConfigError, match=r"shipped weights are not at .*ci\.safetensors"):
        shipped_weights()
    (package / "weights").mkdir()
    (package / "weights" / "ci.safetensors").touch()
    assert shipped_weights() == package / "weights" / "ci.safetensors"


@pytest.mark.parametrize(
    ("declared", "name", "variant", "fits"),
    [
        (Declaration("a", None), "a", "x", True),
        (Declaration("a", None, "x"), "a", "y", False),
        (Declaration("a", None, ""), "a", "", True),
        (Declaration("a_*", None), "a_b", "", True),
        (Declaration("a_*", None), "b_a", "", False),
        (Declaration("A", None), "a", "", False),
    ],
)
def test_what_a_declaration_is_of(declared: Declaration, name: str, variant: str, fits: bool) -> None:
    assert declared.fits(name, variant) is fits


@pytest.mark.parametrize(
    ("value", "reason", "words"),
    [
        (None, None, "give a value or a reason, not both or neither"),
        (1.0, "why", "give a value or a reason, not both or neither"),
        (float("nan"), None, "nan is not a result; give a reason"),
        (float("-inf"), None, "-inf is not a result; give a reason"),
    ],
)
def test_a_measurement_is_a_number_or_its_reason(value: Any, reason: str | None, words: str) -> None:
    with pytest.raises(ValueError, match=f"measurement a/b: {words}"):
        Measurement("a", "b", "", value, "m", "c", reason=reason)


def test_a_child_imports_from_where_its_parent_does_and_the_users_folder_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("added", "here"):
        (tmp_path / folder).mkdir()
    (tmp_path / "added" / "child.py").write_text("import json, mine, sys; print(__name__, sys.argv[1:], sys.path)")
    for name in ("json", "child"):
        (tmp_path / "here" / f"{name}.py").write_text("raise ImportError('no library')")
    (tmp_path / "here" / "mine.py").touch()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")  # as of another environment
    paths = [str(tmp_path / "added"), *filter(None, sys.path)]
    monkeypatch.setattr(sys, "path", ["../added", "", *paths])
    done = subprocess.run(python_child("child"), capture_output=True, text=True, check=True)
    assert done.stdout == f"__main__ [] {[*dict.fromkeys(paths), str(tmp_path / 'here')]}\n"
