"""What a reader sees first: the numbers under their usual names, the paths, what failed; no more than can be read."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fake_run import DESK, LINGBOT, OFFICE, REPLAY, build_run, run_record, unit_record, walk, write_lingbot

from lingbot_eval.declarations import titles
from lingbot_eval.files.trajectories import write_tum
from lingbot_eval.reports.headline import Headline, PublishedRow, headline
from lingbot_eval.reports.reading import open_runs, tables
from lingbot_eval.reports.rendering import pieces
from lingbot_eval.reports.report import WrittenReport, write_report
from lingbot_eval.reports.sections import MOST_COLUMNS, sections
from lingbot_eval.reports.tables import Cell, Column, Row, Table
from lingbot_eval.stored.store import RunStore
from lingbot_eval.types import Measurement
from lingbot_eval.viewing.cloud import VoxelCloud
from lingbot_eval.viewing.layers import LayeredScene
from tests.support.browser import browser


class Seen(HTMLParser):
    """The words of a page that are seen before anything is unfolded, tags in their order, cells of each table row."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []
        self.order: list[str] = []
        self.columns: list[int] = []
        self._folded: list[bool] = []
        self._silent = 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._silent += tag in ("script", "style", "title")
        if tag == "details":
            self._folded.append(True)
        elif tag == "summary":
            self._folded[-1] = False
        elif tag == "section":
            self.order.append(given["id"] or "")
        elif tag == "img" and not any(self._folded):
            self.order.append("picture")
        elif tag == "tr":
            self.columns.append(0)
        elif tag in ("td", "th"):
            self.columns[-1] += int(given.get("colspan") or 1)

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("script", "style", "title")
        if tag == "details":
            self._folded.pop()
        elif tag == "summary":
            self._folded[-1] = True

    def handle_data(self, data: str) -> None:
        if not self._silent and not any(self._folded):
            self.words += data.split()


def store_of(
    root: Path, values: dict[tuple[str, str], Sequence[Measurement] | None], better: dict[str, str] | None = None
) -> RunStore:
    """One dataset; scenes and methods with these measurements, None for one that failed."""
    methods = dict.fromkeys(method for _, method in values)
    units = [["d", scene, method] for scene, method in values]
    record = run_record().model_copy(update={"units": units, "weights": dict.fromkeys(methods, "none")})
    store = RunStore.create(root, record)
    for (scene, method), measurements in values.items():
        with store.unit_writer("d", scene, method) as writer:
            found = unit_record(("d", scene), method, 5, list(measurements or ()))
            if measurements is None:
                found = found.model_copy(update={"status": "failed", "stage": "stream", "reason": "it broke"})
            writer.finish(found)
    return store


def measured(ate: float, fps: float | None = None) -> list[Measurement]:
    speed = [] if fps is None else [Measurement("throughput", "forward_fps", "", fps, "fps", "frames a second")]
    memory = Measurement("memory", "process_peak_rss", "", 2000.0, "MiB", "largest resident set")
    return [Measurement("trajectory", "ate_rmse", "sim3", ate, "m", "RMSE"), *speed, memory]


def first_table(*stores: RunStore, published: Sequence[tuple[str, PublishedRow]] = ()) -> Headline:
    return headline(tables(open_runs([store.path for store in stores])), published)


def texts(found: Headline) -> list[list[str]]:
    return [[cell.text for cell in row] for row in found.table.cells]


def strong(found: Headline) -> set[tuple[str, ...]]:
    """Scene, method and column of what stands out among the numbers."""
    titles = [column.title for column in found.table.columns]
    return {
        (row[1].text, row[2].text, titles[position])
        for row in found.table.cells
        for position, cell in enumerate(row)
        if cell.strong and position > 2
    }


def test_usual_names_and_units(tmp_path: Path) -> None:
    found = first_table(store_of(tmp_path, {("s", "m"): measured(0.5, 12.0)}))
    assert [column.title for column in found.table.columns] == [
        "dataset",
        "scene",
        "method",
        "ATE (m)",
        "FPS",
        "RAM (GB)",
    ]
    assert texts(found) == [["d", "s", "m", "0.5000", "12.00", "2.097"]]  # 2000 MiB
    assert found.table.legend[0] == "ATE (m): ate_rmse sim3; RMSE"


def test_more_columns_than_a_page_has_room_for_make_more_tables(tmp_path: Path) -> None:
    """Headlines stay; what was asked for besides follows, each table with its own footnotes."""
    usual = [Measurement(*key, 1.0, "1", "words") for key in titles()]
    (found,) = [first_table(store_of(tmp_path, {("s", "m"): usual}))]
    first, *more = ([column.title for column in table.columns][3:] for table in (found.table, *found.more))
    assert first == [
        *("ATE (m)", "coverage (%)", "RPE (m)", "RPE (°)", "drift (%)", "AUC@30 (%)"),
        *("AbsRel", "δ<1.25 (%)", "FPS", "FPS end to end", "RAM (GB)", "GPU (GB)"),
    ]
    assert more[0][:2] == ["AbsRel, metric", "δ<1.25, metric (%)"]
    assert {"Acc (m)", "Comp (m)", "NC", "F1 (%)"} <= {title for each in more for title in each}
    assert all(len(each) <= 12 for each in more)
    few = first_table(store_of(tmp_path / "few", {("s", "m"): [*usual[:8], usual[-1]]}))
    assert few.more == ()
    depth = [each for each in usual if each.family == "depth"]
    among = first_table(store_of(tmp_path / "depth", {("s", "m"): depth}))
    assert [column.title for column in among.table.columns][3:6] == ["AbsRel", "δ<1.25 (%)", "AbsRel, metric"]
    asked = [each for each in usual if each.name != "auc_first_camera_30"]
    for count, parts in ((12, 0), (13, 1)):
        found = first_table(store_of(tmp_path / str(count), {("s", "m"): asked[:count]}))
        assert len(found.more) == parts


def test_the_best_of_a_scene_is_of_its_own_dataset() -> None:
    column = Column("trajectory", "ate_rmse", "sim3", "m", ("RMSE",), headline=True, better="lower")
    values = {("d", "a"): 0.5, ("d", "b"): 0.2, ("e", "a"): 0.1, ("e", "b"): 0.3}
    rows = [Row(dataset, "s", method, "scene", (Cell(ate),)) for (dataset, method), ate in values.items()]
    found = headline([Table("summary", "Summary", (column,), tuple(rows), ())], ())
    assert {(row[0].text, row[2].text) for row in found.table.cells if row[3].strong} == {("d", "b"), ("e", "a")}
    # Of what is neither better nor worse none is the best.
    neither = replace(column, better=None)
    found = headline([Table("summary", "Summary", (neither,), tuple(rows), ())], ())
    assert not any(row[3].strong for row in found.table.cells)


def test_the_best_of_each_scene_stands_out_and_a_tie_does_not(tmp_path: Path) -> None:
    values = {
        ("s", "a"): measured(0.5, 10.0),
        ("s", "b"): measured(0.2, 4.0),
        ("t", "a"): measured(0.1, 10.0),
        ("t", "b"): measured(0.3, 10.0),
    }
    found = first_table(store_of(tmp_path, values))
    assert strong(found) == {
        ("s", "b", "ATE (m)"),
        ("s", "a", "FPS"),
        ("t", "a", "ATE (m)"),
        ("mean", "b", "ATE (m)"),
        ("mean", "a", "FPS"),
    }


def test_means_come_first_and_those_of_survivors_are_not_compared(tmp_path: Path) -> None:
    values = {
        ("s", "a"): measured(0.5),
        ("t", "a"): None,
        ("s", "b"): measured(0.6),
        ("t", "b"): measured(0.8),
    }
    found = first_table(store_of(tmp_path, values))
    assert [row[1:4] for row in texts(found)] == [
        ["mean", "a", "0.5000 (1 of 2)"],
        ["mean", "b", "0.7000"],
        ["s", "a", "0.5000"],
        ["t", "a", "n/a"],
        ["s", "b", "0.6000"],
        ["t", "b", "0.8000"],
    ]
    assert strong(found) == {("s", "a", "ATE (m)")}
    failed = found.table.cells[3]
    assert {found.table.notes[(cell.note or 0) - 1] for cell in failed[3:]} == {"failed in stage stream: it broke"}


def test_published_numbers_stand_below_the_mean_of_their_method(tmp_path: Path) -> None:
    store = store_of(tmp_path, {("s", "a"): measured(0.5, 10.0), ("t", "a"): measured(0.7, 10.0)})

    def row(metric: str, value: float, reason: str | None) -> tuple[str, PublishedRow]:
        return "", PublishedRow("d", "a", metric, "the paper", value, 0.6, "m", (2, 2), reason)

    found = first_table(store, published=[row("ate_m", 0.55, None), row("forward_fps", 20.3, "another machine")])
    assert texts(found)[:2] == [
        ["d", "mean", "a", "0.6000", "10.00", "2.097"],
        ["d", "published", "the paper", "0.55", "20.3", ""],
    ]
    assert [row[1] for row in texts(found)] == ["mean", "published", "s", "t"]
    assert [row[1].strong for row in found.table.cells] == [True, False, False, False]
    assert found.table.cells[1][3].note is None
    assert found.table.notes[(found.table.cells[1][4].note or 0) - 1] == "not comparable: another machine"


def test_each_source_has_a_line_of_its_own_below_the_run_that_it_is_of() -> None:
    column = Column("trajectory", "ate_rmse", "sim3", "m", ("RMSE", "RMSE of a part"), headline=True, better="lower")
    given = [Row("d", "s", "m", "scene", (Cell(ate),), run=run) for run, ate in (("x", 0.25), ("y", 0.5))]

    def published(run: str, source: str, ate: float) -> tuple[str, PublishedRow]:
        return run, PublishedRow("d", "m", "ate_m", source, ate, 0.25, "m", (1, 1), None)

    beside = [published("y", "one", 0.75), published("y", "other", 1.5), published("x", "one", 3.0)]
    found = headline([Table("summary", "Summary", (column,), tuple(given), ())], beside)
    assert texts(found) == [
        ["d", "s", "m", "x", "0.2500"],
        ["d", "published", "one", "x", "3"],
        ["d", "s", "m", "y", "0.5000"],
        ["d", "published", "one", "y", "0.75"],
        ["d", "published", "other", "y", "1.5"],
    ]
    assert [each.title for each in found.table.columns] == ["dataset", "scene", "method", "run", "ATE (m)"]
    assert found.table.legend[0] == "ATE (m): ate_rmse sim3; RMSE; or RMSE of a part"


@pytest.mark.parametrize(("scenes", "rows"), [(29, 60), (30, 2)])
def test_of_very_many_scenes_the_means_alone_are_seen(tmp_path: Path, scenes: int, rows: int) -> None:
    """Sixty rows at most, means of two methods among them; a method of one scene keeps it, as it has no mean."""
    values = {(f"s{number}", method): measured(1.0 + number) for number in range(scenes) for method in "ab"}
    assert len(texts(first_table(store_of(tmp_path / "two", values)))) == rows
    found = texts(first_table(store_of(tmp_path / "more", {**values, ("s0", "c"): measured(1.0), ("s1", "c"): None})))
    assert len(found) == 3
    alone = {(f"s{number}", f"m{number}"): measured(1.0) for number in range(61)}
    assert len(texts(first_table(store_of(tmp_path / "alone", alone)))) == 61


def test_published_numbers_of_other_averages_stand_elsewhere(tmp_path: Path) -> None:
    """Beside a mean a published mean alone; of one scene below that scene."""
    auc = [Measurement("auc", "auc_30", "", 50.0, "%", "words"), *measured(0.5)]
    store = store_of(tmp_path, {("s", "a"): auc})

    def row(metric: str, value: float, method: str = "a", run: str = "") -> tuple[str, PublishedRow]:
        return run, PublishedRow("d", method, metric, "the paper", value, 0.6, "m", (1, 1), None)

    given = [row("ate_m", 0.55), row("auc_30_micro", 60.0), row("ate_m", 9.0, "b"), row("ate_m", 8.0, "a", "else")]
    found = texts(first_table(store, published=given))
    assert [line[:3] for line in found] == [["d", "s", "a"], ["d", "published", "the paper"]]
    assert sorted(cell for cell in found[1][3:] if cell) == ["0.55"]
    assert texts(first_table(store, published=given[::-1])) == found


def test_pairs_with_the_first_camera_are_seen_where_they_were_published(tmp_path: Path) -> None:
    auc = [Measurement("auc", "auc_first_camera_30", "", 50.0, "%", "words"), *measured(0.5)]
    store = store_of(tmp_path, {("s", "a"): auc})
    title = titles()["auc", "auc_first_camera_30", ""]
    row = PublishedRow("d", "a", "auc_first_camera_30_macro", "the paper", 60.0, 50.0, "%", (1, 1), None)
    other = PublishedRow("d", "a", "ate_m", "the paper", 0.6, 0.5, "m", (1, 1), None)
    for given, there in (((), False), ([("", other)], False), ([("", other), ("", row)], True)):
        seen = [column.title for column in first_table(store, published=given).table.columns]
        assert (title in seen) is there


def test_a_metric_without_any_number_is_a_line_with_its_reason(tmp_path: Path) -> None:
    names = ("ate_rmse", "rpe_translation_rmse")
    gaps = [Measurement("trajectory", name, "sim3", None, "m", "RMSE", reason="no reference poses") for name in names]
    found = first_table(store_of(tmp_path, {("s", "m"): [*gaps, *measured(1.0, 9.0)[1:]], ("t", "m"): None}))
    assert found.missing == ("ATE (m), RPE (m): no reference poses",)
    assert "ATE (m)" not in [column.title for column in found.table.columns]


def test_a_run_of_failures_has_a_row_for_each(tmp_path: Path) -> None:
    found = first_table(store_of(tmp_path, {("s", "m"): None, ("t", "m"): None}))
    assert [row[1:] for row in texts(found)][-2:] == [["s", "m", "n/a"], ["t", "m", "n/a"]]
    assert "failed in stage stream: it broke" in found.table.notes


def test_a_metric_of_a_plugin_that_asks_for_it_is_there(tmp_path: Path) -> None:
    own = Measurement("mine", "wobble", "", 3.0, "deg", "mine", better="lower", headline=True)
    found = first_table(store_of(tmp_path, {("s", "m"): [own, *measured(1.0)]}))
    assert "wobble (deg)" in [column.title for column in found.table.columns]


# The page


@pytest.fixture(scope="module")
def one_scene(tmp_path_factory: pytest.TempPathFactory) -> WrittenReport:
    record = run_record().model_copy(update={"units": [[*OFFICE, LINGBOT]]})
    store = RunStore.create(tmp_path_factory.mktemp("one"), record)
    write_lingbot(store, OFFICE, 60, 1)
    return write_report([store.path], tmp_path_factory.mktemp("out") / "report")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> WrittenReport:
    store = build_run(tmp_path_factory.mktemp("several"), frames=40)
    return write_report([store.path], tmp_path_factory.mktemp("out") / "report")


def test_of_one_scene_at_most_1500_words_are_seen(one_scene: WrittenReport) -> None:
    seen = Seen(one_scene.files[0].read_text())
    assert 40 < len(seen.words) <= 1500
    assert {"ATE", "RPE", "AbsRel", "FPS"} <= set(seen.words)


def test_numbers_then_paths_then_failures_and_what_identifies_a_run_last(several: WrittenReport) -> None:
    seen = Seen(several.files[0].read_text())
    assert seen.order == [
        *("results", "paths", "picture", "picture", "failures"),
        *("figures", "tables", "facts", "runs", "settings", "environment", "repeat"),
    ]
    words = " ".join(seen.words)
    assert "CUDA out of memory" in words
    assert "5f0c2d7e91ab4433" not in words  # the key


def test_both_pages_are_made_of_one_list_of_sections(several: WrittenReport) -> None:
    page, markdown = (several.files[position].read_text() for position in (0, 1))
    titles = [section.title for section in sections(several.content)]
    assert re.findall(r'<h2 id="[a-z]+-heading">(.*?)</h2>', page) == titles
    assert re.findall(r"^## (.*)$", markdown, re.MULTILINE) == titles
    assert page.count("<details") == markdown.count("<details>")
    for number in ("0.04321", "97.12"):
        assert number in page
        assert number in markdown


def test_no_table_has_more_columns_than_fit_beside_each_other(several: WrittenReport) -> None:
    """At 1280 pixels: four names of 4 rem at least, and numbers of some 70 pixels."""
    widths = Seen(several.files[0].read_text()).columns
    assert max(widths) <= 4 + MOST_COLUMNS + 3
    for table in several.content.tables:
        parts = pieces(table, MOST_COLUMNS)
        assert [column for part in parts for column in part.columns] == list(table.columns)
        for part in parts:
            assert len(part.columns) <= MOST_COLUMNS
            assert {cell.note for row in part.rows for cell in row.cells} - {None} <= set(range(1, len(part.notes) + 1))


def test_nothing_that_is_seen_is_cut_off_or_lies_to_the_side(several: WrittenReport, tmp_path: Path) -> None:
    page = several.files[0].read_text().replace("<pre><code>", f"<pre><code>{'--set a=b ' * 40}")
    assert "a=b" in page
    (tmp_path / "page.html").write_text(page)
    with browser(tmp_path / "profile") as seen:
        for width in (1280, 400):
            seen.open((tmp_path / "page.html").as_uri(), width)
            beyond = seen.driver.execute_script(
                "return [...document.querySelectorAll('html, body *')].filter(e => e.checkVisibility() &&"
                " (e.getBoundingClientRect().right > innerWidth + 1 ||"
                " (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'visible')))"
                ".map(e => `${e.tagName} ${e.innerText}`)"
            )
            assert beyond == [], width


def test_scenes_in_three_dimensions_are_pages_beside_that_the_report_shows_and_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lingbot_eval.viewing import page as viewing

    shown: list[LayeredScene] = []

    def write_page(path: Path, scene: LayeredScene) -> None:
        shown.append(scene)
        path.write_text("points")

    monkeypatch.setattr(viewing, "need_viser", lambda: None)
    monkeypatch.setattr(viewing, "write_page", write_page)
    stores = [build_kept(tmp_path / name) for name in "xy"]
    out = tmp_path / "out"
    written = write_report([store.path for store in stores], out, interactive=True, labels=("one", "two"))
    page, markdown = (written.files[position].read_text() for position in (0, 1))
    assert [(scene.title, [layer.label for layer in scene.layers]) for scene in shown] == [
        ("indoor / office", [f"{LINGBOT} · one", f"{LINGBOT} · two"])
    ]
    assert (out / "3d" / "001-indoor-office.html").read_text() == "points"
    assert 'src="3d/001-indoor-office.html" loading="lazy"' in page
    assert "frame-src 'self' file:" in html.unescape(page)
    assert "[indoor / office](3d/001-indoor-office.html)" in markdown
    plain = write_report([stores[0].path], tmp_path / "plain")
    page = plain.files[0].read_text()
    assert "iframe" not in page.partition("</style>")[2]
    assert "frame-src" not in page
    assert "lingbot-eval view RUN" in page
    assert [file.name for file in plain.files if file.name.endswith("-cloud.png")] == [
        "001-indoor-office-lingbot-cloud.png"
    ]


def build_kept(root: Path) -> RunStore:
    """One scene with a cloud."""
    store = RunStore.create(root, run_record().model_copy(update={"units": [[*OFFICE, LINGBOT]]}))
    with store.unit_writer(*OFFICE, LINGBOT) as writer:
        estimate = walk(12, 1)
        write_tum(writer.path("estimate.tum"), estimate)
        cloud = VoxelCloud()
        points = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32) * 5
        cloud.add(points, np.zeros((500, 3), np.uint8), np.ones(500, np.float32), 0)
        cloud.save(writer.path("cloud.npz"))
        writer.finish(unit_record(OFFICE, LINGBOT, 12, []))
    return store


def test_a_piece_keeps_the_reason_of_each_gap(several: WrittenReport) -> None:
    for table in several.content.tables:
        whole = [[cell.note and table.notes[cell.note - 1] for cell in row.cells] for row in table.rows]
        parts = pieces(table, 3)
        joined = [
            [cell.note and part.notes[cell.note - 1] for part in parts for cell in part.rows[number].cells]
            for number in range(len(table.rows))
        ]
        assert joined == whole
        for row in table.rows:  # of one that failed it is the row's
            alone = table.cut([row])
            assert [each.note and alone.notes[each.note - 1] for each in alone.rows] == [
                row.note and table.notes[row.note - 1]
            ]
    assert {DESK[1], REPLAY} <= {row.scene for row in table.rows} | {row.method for row in table.rows}
