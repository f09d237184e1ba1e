"""The HTML page: one file that loads nothing, in which names stay text and every number has its convention."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import re
from pathlib import Path

import pandas as pd
import pytest
from fake_run import (
    DESK,
    HOSTILE,
    HOSTILE_SCENE,
    LINGBOT,
    REPLAY,
    build_failures,
    build_run,
    run_record,
    unit_record,
)
from page_reader import PageReader, read_page
from PIL import Image

from lingbot_eval.reports.pages import html_page
from lingbot_eval.reports.reading import open_run
from lingbot_eval.reports.rendering import legend, pieces
from lingbot_eval.reports.report import WrittenReport, write_report
from lingbot_eval.reports.sections import MOST_COLUMNS
from lingbot_eval.stored.records import HostRecord
from lingbot_eval.stored.store import RunStore
from lingbot_eval.types import Measurement

pytestmark = pytest.mark.usefixtures("coarse_pictures")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return build_run(tmp_path_factory.mktemp("runs"), frames=60)


@pytest.fixture(scope="module")
def written(store: RunStore, tmp_path_factory: pytest.TempPathFactory) -> WrittenReport:
    return write_report([store.path], tmp_path_factory.mktemp("out") / "report")


@pytest.fixture(scope="module")
def page(written: WrittenReport) -> PageReader:
    assert written.files[0].name == "report.html"
    return read_page(written.files[0])


def test_nothing_is_loaded(page: PageReader) -> None:
    assert page.loads() == []
    assert len(page.fetched) > 5  # the figures, or this test sees nothing


def test_what_would_be_loaded_is_seen() -> None:
    bad = (
        '<link href="https://a/x.css"><img src="b.png"><img src="data:image/png;base64,AA"><form action="c"></form>'
        '<style>@import "d"; p { background: url(e.png) } q { fill: url(#inside) }</style><p style="x: url(//f)"></p>'
    )
    assert PageReader(bad).loads() == ["https://a/x.css", "b.png", "c", '"d"', "e.png", "//f"]


def test_the_policy_lets_the_pages_own_script_and_style_run_and_nothing_else(page: PageReader) -> None:
    (policy,) = [
        attributes["content"] or ""
        for tag, attributes in page.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for kind, own in (("script-src", page.scripts), ("style-src", page.styles)):
        (text,) = own
        assert rules[kind] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert page.handlers == []


def test_a_scene_called_script_stays_text(page: PageReader) -> None:
    assert HOSTILE in page.text
    assert len(page.scripts) == 1
    assert "alert" not in page.scripts[0]
    pictures = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert any(HOSTILE in (text or "") for text in pictures)


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", '" onmouseover="alert(1)', "</style><b>", "{{ 7 * 7 }}", "a\nb\x1b[31m"]
)
def test_names_from_anywhere_are_text_in_every_output(tmp_path: Path, name: str) -> None:
    store = build_failures(tmp_path)
    record = store.read_run()
    units = [[name, name, name], *record.units]
    changed = {"units": units, "name": name, "command": f"run {name}", "experiment": {name: name}}
    store.write_run(record.model_copy(update=changed | {"environment": {name: name}, "weights": {name: name}}))
    files = {file.name: file for file in write_report([store.path], tmp_path / "out").files}
    read = read_page(files["report.html"])
    assert (len(read.scripts), read.handlers, read.loads()) == (1, [], [])
    assert not [tag for tag, _ in read.tags if tag == "b"]
    assert " ".join("".join(c if c.isprintable() else " " for c in name).split()) in read.text
    outside_code = re.sub(r"```.*?```", "", files["report.md"].read_text(), flags=re.DOTALL)
    assert "<script" not in outside_code
    assert "</style>" not in outside_code
    assert "<script" not in files["tables.tex"].read_text()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", file.name) for file in files.values())


def test_file_names_are_harmless(written: WrittenReport) -> None:
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", file.name) for file in written.files)
    assert any("script-alert-1-script" in file.name for file in written.files)


def test_every_picture_is_inside_and_says_what_it_shows(written: WrittenReport, page: PageReader) -> None:
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    drawn = [file.read_bytes() for file in written.files if file.suffix == ".png"]
    inside = [base64.b64decode((attributes["src"] or "").partition(",")[2]) for attributes in pictures]
    assert sorted(inside) == sorted(drawn)
    Image.open(io.BytesIO(inside[0])).verify()
    assert all(len(attributes["alt"] or "") > 60 for attributes in pictures)


def test_every_convention_and_reason_is_visible(written: WrittenReport, page: PageReader) -> None:
    seen = " ".join(page.text.split())
    for table in written.content.tables:
        for part in pieces(table, MOST_COLUMNS):
            for text in (*legend(part), *part.notes):
                assert " ".join(text.split()) in seen
    assert "failed in stage stream at frame 812: CUDA out of memory" in seen
    assert "Untrained weights: lingbot." in seen


def test_links_inside_the_page_lead_somewhere(page: PageReader) -> None:
    inside = [link for link in page.links if link.startswith("#")]
    assert {link.removeprefix("#") for link in inside} <= page.anchors
    assert {"#results", "#environment", "#repeat", "#failures"} <= set(inside)
    assert all(link.startswith("data:text/csv") for link in page.links if not link.startswith("#"))


def test_the_numbers_are_inside_at_full_precision(written: WrittenReport, page: PageReader) -> None:
    (link,) = [link for link in page.links if link.startswith("data:text/csv")]
    inside = base64.b64decode(link.partition(",")[2]).decode()
    (beside,) = [file for file in written.files if file.name == "measurements.csv"]
    assert inside == beside.read_text()
    values = (
        pd.read_csv(io.StringIO(inside), dtype={"value": str})
        .query("name == 'ate_rmse' and variant == 'sim3'")["value"]
        .dropna()
    )
    cells = {attributes["data-value"] for tag, attributes in page.tags if tag == "td" and "data-value" in attributes}
    assert len(values) == 4
    assert {repr(float(value)) for value in values} <= cells


def test_headers_say_what_they_head_and_headings_skip_no_level(page: PageReader) -> None:
    heads = [attributes for tag, attributes in page.tags if tag == "th"]
    assert heads
    assert all(attributes.get("scope") in ("col", "row", "rowgroup") for attributes in heads)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert page.unclosed == []


def test_wide_things_scroll_inside_themselves(page: PageReader) -> None:
    tags = [(tag, attributes.get("class") or "") for tag, attributes in page.tags]
    for position, (tag, _) in enumerate(tags):
        if tag in ("table", "img"):
            assert tags[position - 1] == ("div", "scroll")


def test_means_are_not_sorted_among_the_scenes(written: WrittenReport) -> None:
    """A scene with the best number of several is still a scene."""
    text = written.files[0].read_text()
    averages = "mean", "median", "micro"
    rows = re.findall(r'<tr class="([a-z ]+)">\s*<th scope="row">(.*?)</th>(.*?)</tr>', text, re.DOTALL)
    assert {"scene", "mean", "scene failed", "mean failed"} == {kind for kind, _, _ in rows}
    assert all(kind.startswith("mean") == (name in averages) for kind, name, _ in rows)
    # Of the means one is over survivors: none is the best.
    assert {kind for kind, _, cells in rows if 'class="number best"' in cells} == {"scene"}
    assert '<tr class="group">' in text


def test_published_numbers_have_their_difference_or_the_reason(tmp_path: Path) -> None:
    store = build_run(tmp_path, frames=30)
    size = {"mode": "exact", "width": 8, "height": 8}
    selection = {"start": 0, "stride": 1, "count": None}
    published = {
        "source": "the <paper>",
        "scenes": 2,
        "values": {"ate_m": 0.01, "chamfer_m": 0.5},
        "conventions": "as here",
    }
    card = {
        "protocol": {"stride": 1, "size": size},
        "published": [published | {"method": REPLAY}],
    }
    experiment = {
        "cards": {"indoor": card},
        "datasets": [{"name": "indoor", "selection": selection, "size": size, "scenes": []}],
        "methods": [{"name": REPLAY, "kind": "replay"}],
    }
    store.write_run(store.read_run().model_copy(update={"experiment": experiment}))
    files = {file.name: file for file in write_report([store.path], tmp_path / "out").files}
    page = read_page(files["report.html"])
    assert "not comparable: this run did not measure it" in page.text
    assert "the <paper>" in page.text
    (row,) = [
        line for line in files["report.md"].read_text().splitlines() if "| ate\\_m |" in line or "| ate_m |" in line
    ]
    assert re.search(r"\| 0\.01 \| \+0\.\d+ \|", row)
    (delta,) = re.findall(r"\+0\.\d+", row)
    assert delta in page.text
    # What is a text has no number to be sorted by.
    assert not {delta, "0.01", ""} & {attributes.get("data-value") for _, attributes in page.tags}


def test_a_page_can_be_left_out(store: RunStore, tmp_path: Path) -> None:
    names = {file.name for file in write_report([store.path], tmp_path, html=False).files}
    assert "report.html" not in names
    assert "report.md" in names


def test_the_same_run_gives_the_same_bytes(written: WrittenReport, store: RunStore) -> None:
    folder = written.files[0].parent
    csv = (folder / "tables" / "measurements.csv").read_text()
    assert html_page(written.content, csv, folder) == written.files[0].read_text()
    assert open_run(store.path).results == written.content.results[0]


def test_the_failed_scene_has_its_reason_in_its_row(written: WrittenReport) -> None:
    text = written.files[0].read_text()
    row = re.findall(r'<tr class="scene failed">.*?</tr>', text, re.DOTALL)[0]
    assert DESK[1] in row
    assert LINGBOT in row
    assert 'class="reason"' in row
    assert HOSTILE_SCENE[1] not in text


def test_a_reason_takes_the_place_of_numbers_only_where_there_are_none(tmp_path: Path) -> None:
    """Times of a unit beside which others ran all carry one note, and are told; so are those of a row with a gap."""
    scenes = {"c": (None, None), "a": (10.0, 20.0), "b": (30.0, None)}
    record = run_record().model_copy(update={"units": [["d", scene, "m"] for scene in scenes], "weights": {"m": "w"}})
    store = RunStore.create(tmp_path, record)
    for scene, values in scenes.items():
        measured = [
            Measurement("throughput", name, "", value, "fps", "c", reason=None if value else f"{scene} was not timed")
            for name, value in zip(("forward_fps", "end_to_end_fps"), values, strict=True)
        ]
        unit = unit_record(("d", scene), "m", 5, measured)
        with store.unit_writer("d", scene, "m") as writer:
            writer.finish(unit.model_copy(update={"host": HostRecord(name="h", beside=int(scene == "a"))}))
    text = write_report([store.path], tmp_path / "out").files[0].read_text()
    _, _, throughput = text[: text.index('id="facts"')].rpartition("<table")
    rows = dict(re.findall(r'<tr class="scene[ a-z]*">\s*<th scope="row">(\w)</th>(.*?)</tr>', throughput, re.DOTALL))
    assert {scene: re.findall(r'data-value="([^"]*)"', row) for scene, row in rows.items()} == {
        "a": ["10.0", "20.0"],
        "b": ["30.0"],
        "c": [],
    }
    # A number of which something is to be said is no gap.
    assert {scene: row.count('class="number missing"') for scene, row in rows.items()} == {"a": 0, "b": 1, "c": 0}
    notes = dict(re.findall(r'<li id="[^"]*" value="(\d)">(.*?)</li>', throughput))
    said = {scene: [notes[number] for number in re.findall(r'">(\d)</a></sup>', row)] for scene, row in rows.items()}
    beside = "measured while other units ran on the host"
    assert said == {"a": [beside, beside], "b": ["b was not timed"], "c": []}
    assert re.findall(r'<td class="reason" colspan="2">(.*?)</td>', rows["c"]) == ["c was not timed"]
    assert set(notes.values()) == {beside, "b was not timed"}, "what stands in its row is not said again"
