"""Cards: the shipped ones hold what they must, wrong ones are named by file and key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lingbot_eval import resources
from lingbot_eval.datasets.cards import (
    Card,
    DownloadFile,
    card_names,
    download_word,
    load_card,
    markdown_table,
    open_dataset,
)
from lingbot_eval.datasets.eth3d import VIEWS_LEFT_OUT
from lingbot_eval.datasets.registry import DATASETS
from lingbot_eval.errors import ConfigError
from lingbot_eval.runs.experiment import Experiment
from lingbot_eval.runs.plan import plan_key


def test_every_adapter_has_a_card_and_every_card_an_adapter() -> None:
    assert set(card_names()) == set(DATASETS.names())


@pytest.mark.parametrize("name", card_names())
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


SIZES = {
    "seven_scenes": ("width", 5),
    "tum": ("width", 1),
    "kitti": ("cover", 1),
    "neural_rgbd": ("width", 5),
    "eth3d": ("width", 1),
    "oxford_spires": ("width", 12),
    "tanks_and_temples": ("width", 1),
    "vbr": ("cover", 1),
    "droid_w": ("width", 1),
}


@pytest.mark.parametrize("name", SIZES)
def test_size_and_stride_of_the_field(name: str) -> None:
    """protocol.md section 2."""
    protocol = load_card(name).protocol
    size = protocol.size
    assert (size.mode, protocol.stride) == SIZES[name]
    assert (size.width, size.height) == ((504, 280) if size.mode == "cover" else (518, None))
    assert size.filter == ("lanczos" if name == "oxford_spires" else "bicubic")
    assert size.mode == "cover" or size.height_rounding == ("pixel_floor" if name == "droid_w" else "floor")


def test_scenes_and_views_that_are_left_out() -> None:
    """protocol.md section 2."""
    assert len(load_card("kitti").expected_scenes) == 11
    assert set(load_card("oxford_spires").scenes_left_out) == {
        "blenheim-palace-01",
        "blenheim-palace-02",
        "blenheim-palace-05",
        "christ-church-01",
    }
    eth3d = load_card("eth3d")
    assert set(eth3d.scenes_left_out) == {"meadow", "terrace"}
    assert set(eth3d.views_left_out) == set(VIEWS_LEFT_OUT)
    for scene, views in VIEWS_LEFT_OUT.items():
        first, last = (
            re.findall(r"\d+", eth3d.views_left_out[scene])[0],
            re.findall(r"\d+", eth3d.views_left_out[scene])[-1],
        )
        assert (min(views), max(views)) == (int(first), int(last))
    assert len(eth3d.expected_scenes) == 11


def test_published_rows_of_the_official_page() -> None:
    """protocol.md section 3: ATE, RPE of translation and rotation, scenes."""
    expected = {
        "eth3d": (0.439, 0.493, 3.339, 11),
        "neural_rgbd": (0.056, 0.019, 0.257, 9),
        "oxford_spires": (5.374, 0.930, 3.694, 10),
        "kitti": (24.046, 2.861, 0.696, 11),
        "vbr": (31.204, 2.717, 4.564, 7),
        "droid_w": (0.909, 0.184, 6.115, 7),
        "tanks_and_temples": (0.210, 0.087, 0.572, 6),
    }
    for name, numbers in expected.items():
        row = load_card(name).published[0]
        assert "official" in row.source
        values = row.values
        assert (values["ate_m"], values["rpe_translation_m"], values["rpe_rotation_deg"], row.scenes) == numbers
    paper = [row for row in load_card("oxford_spires").published if "second-hand" in row.source]
    assert len(paper) == 18 + 6
    ours = next(row for row in paper if row.method == "LingBot-Map" and row.selection and row.selection.count == 320)
    assert list(ours.values.values()) == [61.64, 75.16, 6.42, 1.01, 3.70]


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


def test_the_table_counts_the_protocols_scenes_before_those_published(folder: Path) -> None:
    published = "published: [" + ", ".join(
        f"{{method: M, source: S, scenes: {scenes}, values: {{ate_m: 1.0}}}}" for scenes in (2, 3, "null", 1)
    )
    published += "]\n"
    (folder / "mine.yaml").write_text(GOOD + "expected_scenes: {a: 10, b: null}\n" + published)
    (folder / "other.yaml").write_text(GOOD.replace("mine", "other") + published)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown_table().splitlines()]
    scenes = rows[0].index("scenes")
    assert [(row[1], row[scenes]) for row in rows[2:]] == [("`mine`", "2"), ("`other`", "3")]


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
        ("stride: 2", "min_depth: 80", r"min_depth 80 must be less than max_depth 80"),
        ("stride: 2", "min_depth: 90", r"min_depth 90 must be less than max_depth 80"),
        ("name: mine", "name: yours", r"mine\.yaml: name: expected 'mine' as the dataset, found 'yours'"),
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
    with pytest.raises(
        ConfigError, match="bonn, capture, droid_w, eth3d, euroc, folder, kitti, kitti_depth, kitti_raw, long3d, "
    ):
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


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("{url: 'https://a.org/x.zip', parts: [../x]}", "below the folder"),
        ("{url: 'https://a.org/x.zip', parts: [x], size: {x: 5}}", "size is by part where the address has {part}"),
        ("{url: 'https://a.org/{part}.zip', parts: [x], size: {y: 5}}", "size: y is not among the parts"),
        ("{url: 'https://a.org/x.zip', parts: [x], checksum: 'sha256:abc'}", "checksum"),
        ("{url: 'file:///etc/passwd', parts: [x]}", "url"),
    ],
)
def test_a_wrong_download_section_is_one_line(tmp_path: Path, file: str, found: str) -> None:
    card = tmp_path / "synthetic.yaml"
    text = (resources.shared_folder("datasets") / "synthetic.yaml").read_text()
    card.write_text(f"{text}\ndownload: {{page: 'https://a.org', files: [{file}]}}\n")
    with pytest.raises(ConfigError, match=re.escape(found)) as refusal:
        load_card("synthetic", card)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "archive", "kind"),
    [
        ("https://a.org/X.ZIP?raw=1", None, "zip"),
        ("https://a.org/x.tar.gz", None, "tar"),
        ("https://a.org/x.7z#top", None, "7z"),
        ("https://a.org/x.gz", None, None),
        ("https://a.org/get?file=x.zip", None, None),
        ("https://a.org/get?file=x", "zip", "zip"),
        ("https://a.org/x.zip", "none", None),
        ("https://a.org/x.zip", "tar", "tar"),
    ],
)
def test_how_a_file_is_packed_is_in_its_name_unless_the_card_says_it(
    url: str, archive: str | None, kind: str | None
) -> None:
    assert DownloadFile.model_validate({"url": url, "parts": ["x"], "archive": archive}).kind == kind


@pytest.mark.parametrize(
    ("files", "steps", "word"),
    [(1, 0, "fetch"), (1, 1, "fetch"), (0, 1, "by hand"), (0, 0, "expected files, or steps")],
)
def test_a_dataset_is_fetched_or_got_by_hand(files: int, steps: int, word: str) -> None:
    file = {"url": "https://a.org/x.zip", "parts": ["x"]}
    download = {"page": "https://a.org", "files": [file] * files, "steps": ["Ask."] * steps}
    card = load_card("synthetic").model_dump(mode="json") | {"download": download}
    if files or steps:
        assert download_word(Card.model_validate(card)) == word
        return
    with pytest.raises(ValueError, match=word):
        Card.model_validate(card)


def test_of_several_scenes_one_has_to_be_named(tmp_path: Path) -> None:
    """Its frames are then every so many as the card's protocol has it, unless that is said."""
    (tmp_path / "synthetic.yaml").write_text(GOOD.replace("mine", "synthetic").replace("stride: 2", "stride: 7"))
    dataset = open_dataset("synthetic", card=tmp_path, frames=40, width=32, height=24)
    with pytest.raises(ConfigError, match=r"^dataset synthetic: expected the name of a scene; there are: room, corri"):
        dataset.scene()
    with pytest.raises(ConfigError, match="expected the name of a scene"):
        iter(dataset)
    assert dataset.scene("room").length == 6
    assert dataset.scene("room", stride=1).length == 40
    assert dataset.scene("room", start=10, stride=3, count=4).timestamps() == pytest.approx(
        [1 / 3, 13 / 30, 16 / 30, 19 / 30]
    )


def test_a_download_changes_no_key() -> None:
    card = load_card("tum")
    assert card.download is not None
    without = card.model_copy(update={"download": None})
    keys = [plan_key(Experiment.model_construct(), [each], {}) for each in (card, without)]
    assert keys[0] == keys[1]
