"""The written report: complete files, links that lead somewhere, and a page that survives damage."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from fake_run import DESK, HOSTILE_SCENE, LINGBOT, OFFICE, REPLAY, build_failures, build_run, panels, walk
from PIL import Image

from lingbot_eval import plots
from lingbot_eval.cli.main import main
from lingbot_eval.errors import StoreError
from lingbot_eval.reports import drawing
from lingbot_eval.reports.figures import cost_figure, depth_figure, error_figure
from lingbot_eval.reports.reading import Paths, open_runs, read_unit_data
from lingbot_eval.reports.report import write_report
from lingbot_eval.reports.scene_figures import trajectory_figure
from lingbot_eval.reports.tables import FewOfMany
from lingbot_eval.stored.records import FRAME_COLUMNS
from lingbot_eval.stored.store import RunStore
from lingbot_eval.stored.unit_files import DepthPanels


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return build_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def written(store: RunStore) -> list[Path]:
    """The Markdown page first, which these tests read."""
    return pages_of(store, store.path / "report")


def pages_of(store: RunStore, out: Path) -> list[Path]:
    files = write_report([store.path], out, html=False).files
    assert files[0].name == "report.md"
    assert list(files[1:]) == sorted(files[1:])
    return list(files)


def test_every_link_of_the_page_leads_to_a_file_and_every_figure_is_linked(written: list[Path]) -> None:
    page = written[0]
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    targets = {(page.parent / unquote(link)).resolve() for link in links}
    assert all(target.is_file() for target in targets)
    pictures = {file.resolve() for file in written if file.suffix == ".png"}
    # Paths of three scenes. Three for each of lingbot's two scenes; replay has no depth and no times, and no error
    # where it is unscorable. Both have an error on one scene, which is drawn side by side.
    assert len(pictures) == 3 + 3 + 3 + 1 + 1 + 1
    assert pictures <= targets
    for picture in pictures:
        with Image.open(picture) as image:
            image.load()
            assert 800 <= image.width <= 1400


def test_the_page_says_what_a_reader_must_know(written: list[Path]) -> None:
    text = written[0].read_text()
    assert text.startswith("# fake — untrained weights\n")
    assert "lingbot-eval run fake.yaml --set 'datasets.0.selection.stride=2'" in text
    assert "5 of 6 pairs of scene and method scored, 2026-01-01, on made up\n" in text.partition("## Results")[0]
    assert "indoor / desk / lingbot: failed in stage stream at frame 812: CUDA out of memory" in text
    assert "<script" not in re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert "| cpu_model | made up |" in text


def test_tables_are_read_back_by_pandas(written: list[Path]) -> None:
    files = {file.name: file for file in written}
    assert {"measurements.csv", "summary.csv", "tables.tex"} <= files.keys()
    long = pd.read_csv(files["measurements.csv"])
    wide = pd.read_csv(files["summary.csv"])
    one = long[(long["scene"] == "office") & (long["name"] == "ate_rmse") & (long["variant"] == "sim3")]
    expected = one.set_index("method")["value"]
    shown = wide[(wide["scene"] == "office")].set_index("method")["ate_rmse sim3 (m)"]
    assert shown[LINGBOT] == expected[LINGBOT]
    assert shown[REPLAY] == expected[REPLAY]


def test_a_fence_cannot_be_closed_from_inside(tmp_path: Path) -> None:
    store = build_failures(tmp_path)
    store.write_run(store.read_run().model_copy(update={"command": "run `x`\n````\n<script>"}))
    text = pages_of(store, tmp_path / "out")[0].read_text()
    assert "`````sh\nrun `x`\n````\n<script>\n`````\n" in text


def test_damage_in_one_unit_leaves_the_rest_and_is_told(tmp_path: Path) -> None:
    store = build_run(tmp_path, frames=30)
    unit = store.read_unit(*OFFICE, LINGBOT)
    (unit.folder / "frames.csv").write_text("index\n")
    (unit.folder / "panels.npz").write_bytes(b"")
    (unit.folder / "estimate.tum").write_text("0 1 2\n")
    files = pages_of(store, tmp_path / "out")
    text = files[0].read_text()
    for name in ("frames.csv", "panels.npz", "estimate.tum"):
        assert f"{name}" in text.partition("## Results")[0]
    assert not any("office-lingbot" in file.name for file in files)
    assert any("script-lingbot" in file.name for file in files)
    assert any("office-trajectory" in file.name for file in files)  # of the other method


def test_an_out_directory_that_cannot_be_made_is_one_line(store: RunStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        pages_of(store, tmp_path / "file" / "report")


def test_a_full_disk_while_drawing_is_not_taken_for_damage(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_keywords: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plots, "painted", refuse)
    with pytest.raises(StoreError, match="No space left"):
        pages_of(store, tmp_path / "out")


# Figures


def frames(count: int, **columns: np.ndarray) -> dict[str, np.ndarray]:
    table = {name: np.full(count, np.nan) for name in FRAME_COLUMNS}
    table["index"] = np.arange(count)
    table["frame_type"] = np.full(count, "", object)
    return table | columns


def test_each_unit_is_drawn_under_its_number_or_of_very_many_those_asked_for(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[str] = []
    ticks: list[None] = []

    def save(figures: object, label: str, folder: Path, stem: str) -> tuple[()]:
        saved.append(stem)
        return ()

    monkeypatch.setattr(drawing, "_save", save)
    runs = open_runs([store.path, store.path], labels=("a", "b"))
    there = [unit.record.names for unit in runs[0].results.units]
    few = FewOfMany(frozenset({(*there[-1], "b")}), "the one")
    for asked, drawn, first in ((None, 2 * len(there), "01-001-indoor-office-"), (few, 1, "02-")):
        ticks.clear()
        saved.clear()
        _, units, _ = drawing.draw_units(runs, tmp_path, lambda: ticks.append(None), asked)
        assert len(ticks) == len(units) == drawn
        # Numbered by run and plan, where there are several runs.
        assert saved[0].startswith(first)
        assert any(stem.startswith("01-") for stem in saved) == (asked is None)


@pytest.mark.parametrize(
    ("name", "part"), [("a b/c", "a-b-c"), ("--a_b--", "a-b"), ("日本", "unnamed"), ("x" * 50, "x" * 40)]
)
def test_a_name_as_a_part_of_a_file(name: str, part: str) -> None:
    assert drawing.slug(name) == part


def test_a_damaged_cloud_leaves_the_others_their_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stored(label: str, there: object) -> str:
        if label == "d / b":
            raise StoreError("damaged")
        return label

    monkeypatch.setattr("lingbot_eval.viewing.layers.LayeredScene.stored", stored)
    monkeypatch.setattr("lingbot_eval.viewing.page.write_page", lambda path, scene: path.write_text(scene))
    units = [
        SimpleNamespace(
            file=lambda name: Path(name),
            record=SimpleNamespace(dataset="d", scene=scene, method="m"),
            reconstruction=scene,
        )
        for scene in "abc"
    ]
    run: Any = SimpleNamespace(label="r", results=SimpleNamespace(units=units))
    found = drawing.write_spaces([run], tmp_path)
    assert [(space.label, space.file.as_posix()) for space in found] == [
        ("d / a", "3d/001-d-a.html"),
        ("d / c", "3d/003-d-c.html"),
    ]
    assert [(tmp_path / space.file).read_text() for space in found] == ["d / a", "d / c"]


def test_a_path_that_misses_its_reference_is_drawn_alone_and_that_is_said(store: RunStore) -> None:
    data = read_unit_data(store, store.read_unit(*HOSTILE_SCENE, REPLAY))
    assert data.problems == ("trajectory drawn without the reference: only 2 frames have both poses",)
    assert data.damaged == ()
    assert data.paths is not None
    assert (len(data.paths.estimate), data.paths.reference, data.paths.alignment) == (2, None, "")


def test_the_view_from_above_is_the_plane_of_the_largest_extents() -> None:
    positions = walk(50, 0).positions  # x and z are wide, y is flat
    for order, (across, up) in {(0, 1, 2): "xz", (0, 2, 1): "xy", (1, 0, 2): "yz"}.items():
        turned = positions[:, order]
        figure = trajectory_figure([("m", Paths(turned, turned, "Sim(3)-aligned"))], "t")
        above = figure.axes[0]
        assert above.get_xlabel() == f"{across} [m]"
        assert above.get_ylabel() == f"{up} [m]"
        assert above.get_aspect() == 1


def test_a_trajectory_without_reference_claims_no_metres() -> None:
    figure = trajectory_figure([("m", Paths(walk(5, 0).positions, None))], "t")
    assert "own unit" in figure.axes[0].get_xlabel()
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert "ground truth" not in labels


def test_series_that_were_not_measured_are_not_drawn() -> None:
    assert error_figure(frames(5), "t") is None
    assert cost_figure(frames(5), "t") is None
    figure = error_figure(frames(5, rotation_error_deg=np.arange(5.0)), "t")
    assert figure is not None
    assert len(figure.axes) == 1


def test_no_spike_is_lost_in_a_long_sequence(tmp_path: Path) -> None:
    errors = np.full(50_000, 0.1)
    errors[33_333] = 0.14
    figure = error_figure(frames(50_000, position_error_m=errors), "t")
    assert figure is not None
    (band,) = figure.axes[0].collections
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(0.14)
    assert sum(len(line.get_xdata()) for line in figure.axes[0].lines) < 5000
    plots.save(figure, tmp_path / "x.png")


def test_values_above_the_axis_are_counted() -> None:
    values = np.ones(200)
    values[[3, 5]] = 50.0
    figure = cost_figure(frames(200, forward_ms=values), "t")
    assert figure is not None
    (note,) = [text.get_text() for text in figure.axes[0].texts]
    assert note == "2 of 200 values above the axis, largest 50 ms"


def test_depth_panels_without_any_depth_are_drawn_all_the_same(tmp_path: Path) -> None:
    kept = panels(10)
    empty = DepthPanels(kept.index[:1], kept.image[:1], np.zeros_like(kept.truth[:1]), kept.prediction[:1] * 0)
    figure = depth_figure(empty, "t")
    assert figure is not None
    plots.save(figure, tmp_path / "x.png")
    none = DepthPanels(kept.index[:0], kept.image[:0], kept.truth[:0], kept.prediction[:0])
    assert depth_figure(none, "t") is None


@pytest.mark.parametrize("title", ["$x_1$", "日本", "a\nb\x1b[31m", "$" * 500])
def test_any_title_is_taken_as_text(tmp_path: Path, title: str) -> None:
    figure = error_figure(frames(5, position_error_m=np.arange(5.0)), title)
    assert figure is not None
    plots.save(figure, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_the_drawn_estimate_lies_where_its_stored_errors_say(store: RunStore) -> None:
    unit = store.read_unit(*OFFICE, LINGBOT)
    data = read_unit_data(store, unit)
    assert data.problems == ()
    assert data.paths is not None
    assert data.frames is not None
    assert data.paths.reference is not None
    distance = np.linalg.norm(data.paths.estimate - data.paths.reference, axis=1)
    np.testing.assert_allclose(distance, data.frames["position_error_m"], atol=1e-9)


# Command


def test_the_command_writes_beside_the_run_and_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = build_failures(tmp_path).path
    assert main(["report", str(path), "--json"]) == 1  # results are missing, and nobody writes them any more
    printed = json.loads(capsys.readouterr().out)
    assert printed["files"][0] == str(path / "report" / "report.html")
    assert all(Path(file).is_file() for file in printed["files"])
    assert printed["tables"][0]["key"] == "summary"
    assert "untrained" in printed["tables"][0]["title"]


def test_the_command_shows_the_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = build_failures(tmp_path).path
    assert main(["report", str(path), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().out
    assert "untrained weights" in printed
    assert str(tmp_path / "out" / "report.html") in printed
    assert printed.count("CUDA out of memory") == 1
    assert printed.count("not run yet") == 5


@pytest.mark.parametrize("given", ["", "fake", "nowhere/fake"])
def test_something_else_than_a_run_is_refused_with_the_runs_there_are(
    store: RunStore, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    assert main(["report", str(store.path.parent / given)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert (str(store.path) in error) == (given != "nowhere/fake")


def test_failed_units_keep_no_figures(written: list[Path]) -> None:
    assert not any(f"{DESK[1]}-{LINGBOT}" in file.name for file in written)
