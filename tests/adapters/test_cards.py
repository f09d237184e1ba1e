"""Cards: the shipped ones hold what they must, wrong ones are named by file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from lingbot_eval import resources
from lingbot_eval.adapters.cards import card_names, load_card
from lingbot_eval.adapters.registry import adapter_names
from lingbot_eval.errors import ConfigError


def test_every_adapter_has_a_card_and_every_card_an_adapter() -> None:
    assert set(card_names()) == set(adapter_names())


@pytest.mark.parametrize("name", ["synthetic", "seven_scenes", "tum", "folder", "video"])
def test_cards_are_complete(name: str) -> None:
    card = load_card(name)
    assert card.name == name
    assert card.source.licence
    assert card.layout
    for published in card.published:
        assert published.source


def test_protocol_of_the_benchmarks() -> None:
    """protocol.md section 2."""
    seven, tum = load_card("seven_scenes"), load_card("tum")
    assert (seven.protocol.split, seven.protocol.stride) == ("test", 5)
    assert (tum.protocol.stride, tum.protocol.size.width, tum.protocol.size.height_rounding) == (1, 518, "floor")
    # protocol.md section 3, the official page
    assert seven.published[0].values == {"ate_m": 0.079, "rpe_translation_m": 0.020, "rpe_rotation_deg": 0.579}
    assert (seven.published[0].scenes, tum.published[0].scenes) == (18, 9)
    assert tum.published[0].values["ate_m"] == 0.045


GOOD = """
name: mine
title: T
description: D
source: {licence: L}
layout: flat
scenes: one
protocol: {stride: 2, size: {mode: width, width: 280}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(resources, "shared_folder", lambda kind: tmp_path)
    return tmp_path


def test_a_card_is_read(folder: Path) -> None:
    (folder / "mine.yaml").write_text(GOOD)
    card = load_card("mine")
    assert (card.protocol.stride, card.protocol.size.width, card.protocol.max_depth) == (2, 280, 80.0)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("title: T", "titel: T", r"mine\.yaml: .*'titel'.*did you mean 'title'"),
        ("stride: 2", "strid: 2", r"mine\.yaml: .*'strid'.*did you mean 'stride'"),
        ("width: 280", "width: 281", r"mine\.yaml: .*use 280 or 294"),
        ("stride: 2", "stride: 0", r"mine\.yaml: protocol\.stride"),
        ("stride: 2", "min_depth: 90", r"min_depth 90 must be less than max_depth 80"),
        ("name: mine", "name: yours", r"mine\.yaml: name: expected 'mine' as the file, found 'yours'"),
        ("title: T\n", "", r"mine\.yaml: title"),
        ("title: T", "title: [", r"mine\.yaml:\d+"),
        ("title: T", "title: T\ntitle: U", r"mine\.yaml:\d+.*title"),
    ],
)
def test_wrong_cards_are_named(folder: Path, old: str, new: str, says: str) -> None:
    (folder / "mine.yaml").write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError, match=says) as caught:
        load_card("mine")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["synthetik", "../datasets/tum", "", "tum.yaml"])
def test_unknown_cards_list_the_known(name: str) -> None:
    with pytest.raises(ConfigError, match="folder, seven_scenes, synthetic, tum, video"):
        load_card(name)


def test_shipped_files_are_found_in_a_wheel_and_in_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "lingbot_eval"
    package.mkdir(parents=True)
    monkeypatch.setattr(resources.lingbot_eval, "__file__", str(package / "__init__.py"))
    # Somebody else's library called "datasets" lies beside an installed package.
    (package.parent / "datasets").mkdir()
    with pytest.raises(ConfigError, match="installation is incomplete"):
        resources.shared_folder("datasets")
    (package.parent / "pyproject.toml").touch()
    assert resources.shared_folder("datasets") == package.parent / "datasets"
    (package / "share" / "datasets").mkdir(parents=True)
    assert resources.shared_folder("datasets") == package / "share" / "datasets"
