"""Published numbers beside ours: the difference where both are alike, else the reason why there is none."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_run import unit_record

from lingbot_eval.datasets.cards import load_card
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.declarations import published_as
from lingbot_eval.reports.headline import PublishedRow, delta_text, published_rows
from lingbot_eval.reports.reading import Opened, Run
from lingbot_eval.reports.sections import make_content, sections
from lingbot_eval.reports.tables import Cell, Column, Row, RunResults, Table
from lingbot_eval.resources import shared_names
from lingbot_eval.runs.experiment import experiment_path, load_experiment
from lingbot_eval.stored.records import RunRecord
from lingbot_eval.stored.store import RunStore, StoredUnit
from lingbot_eval.types import Measurement

SCENES = ("a", "b")
SIZE = {"mode": "width", "width": 518}
COLUMNS = (
    Column("trajectory", "ate_rmse", "sim3", "m", ("c",)),
    Column("auc", "auc_first_camera_15", "", "%", ("c",)),
)


def settings(**changes: Any) -> dict[str, Any]:
    published = {
        "method": "LingBot-Map (lingbot-map.pt, streaming)",
        "source": "official page",
        "scenes": 2,
        "selection": None,
        "values": {"ate_m": 0.5, "auc_first_camera_15_micro": 60.0, "f1_percent": 80.0},
        "conventions": "RMSE",
    }
    other = published | {"method": "CUT3R", "values": {"ate_m": 18.0}}
    base: dict[str, Any] = {
        "datasets": [
            {"name": "d", "scenes": list(SCENES), "size": SIZE, "selection": {"start": 0, "stride": 5, "count": None}}
        ],
        "methods": [{"kind": "lingbot", "name": "ours", "model": {"config": "full"}}],
        "metrics": {"trajectory": {"rpe_delta_frames": 1}},
        "cards": {
            "d": {"protocol": {"stride": 5, "size": SIZE}, "expected_scenes": {}, "published": [published, other]}
        },
    }
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        place: Any = base
        for part in path:
            place = place[int(part) if part.isdecimal() else part]
        place[int(last) if last.isdecimal() else last] = value
    return base


def rows(
    experiment: dict[str, Any], weights: str = "lingbot-map.pt", values: tuple[Any, ...] = (0.4, 0.8)
) -> list[PublishedRow]:
    results, tables = run(experiment, weights, values)
    return list(published_rows(results, tables))


def run(experiment: dict[str, Any], weights: str, values: tuple[Any, ...]) -> tuple[RunResults, tuple[Table, ...]]:
    record = RunRecord(
        key="k",
        name="n",
        command="c",
        experiment=experiment,
        units=[["d", scene, "ours"] for scene in SCENES],
        weights={"ours": weights},
        environment={},
        started="s",
    )
    scored = [value for value in values if value is not None]
    share = (len(scored), len(values))
    scenes = [
        Row("d", s, "ours", "scene", (Cell(v, None if v is not None else 1), Cell(50.0)), weights=weights)
        for s, v in zip(SCENES, values, strict=True)
    ]
    means = [
        Row("d", kind, "ours", kind, (Cell(sum(scored) / len(scored), scored=share), Cell(auc, scored=(2, 2))))
        for kind, auc in (("mean", 50.0), ("micro", 55.0))
    ]
    table = Table("trajectory", "T", COLUMNS, (*scenes, *means), ("gone",))
    return RunResults(record, (), {}), (table,)


def test_alike_runs_have_a_difference() -> None:
    ate, auc, f1 = rows(settings())
    assert (ate.ours, ate.published, ate.reason) == (pytest.approx(0.6), 0.5, None)
    assert ate.delta == pytest.approx(0.1)
    assert (auc.ours, auc.delta) == (55.0, pytest.approx(-5.0))
    assert (f1.delta, f1.reason) == (None, "this run did not measure it")
    whole = settings(methods__0={"kind": "lingbot", "name": "ours"})  # of which nothing is said, and it is the full one
    assert rows(whole)[0].reason is None
    # Over how many frames relative errors were taken is nothing to the absolute one.
    assert rows(settings(metrics__trajectory={"rpe_delta_frames": 10}))[0].reason is None
    # Nor is it where nothing is said of it: one frame is what papers take.
    relative = {"cards__d__published__0__values": {"rpe_rotation_deg": 1.0}}
    for trajectory in (None, {}, {"rpe_delta_frames": 1}):
        assert rows(settings(metrics__trajectory=trajectory, **relative))[0].reason == "this run did not measure it"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"methods__0__model": {"config": "ci"}}, "the model is 'ci'"),
        (
            {"datasets__0__selection": {"start": 0, "stride": 1, "count": None}},
            "the published stride is 5, this run has 1",
        ),
        (
            {"datasets__0__selection": {"start": 3, "stride": 5, "count": None}},
            "the published start is 0, this run has 3",
        ),
        (
            {"datasets__0__selection": {"start": 0, "stride": 5, "count": 9}},
            "the published count is every frame, this run has 9",
        ),
        (
            {"cards__d__published__0__selection": {"start": 30, "stride": 5, "count": None}},
            "the published start is 30, this run has 0",
        ),
        (
            {"cards__d__published__0__selection": {"start": 0, "stride": 2, "count": 110}},
            "the published stride is 2, this run has 5",
        ),
        ({"datasets__0__size": {"mode": "exact"}}, "another size"),
        (
            {
                "metrics__trajectory": {"rpe_delta_frames": 10},
                "cards__d__published__0__values": {"rpe_rotation_deg": 1.0},
            },
            "RPE over 10 frames, the published one over 1",
        ),
        ({"cards__d__published__0__values": {"forward_fps": 30.0}}, "speed of another machine"),
        ({"cards__d__published__0__values": {"sharpness": 30.0}}, "no metric of this name"),
        ({"cards__d__expected_scenes": {"a": None, "c": None}}, "other scenes than the protocol's"),
        ({"cards__d__expected_scenes": {"a": None}}, "other scenes than the protocol's"),
        ({"cards__d__published__0__scenes": 3}, "mean of 2 scenes, the published one of 3"),
        ({"cards__d__published__0__scenes": 1}, "mean of 2 scenes, the published one of 1"),
        ({"cards__d__published__0__scenes": None}, "does not say how many scenes"),
        ({"cards__d__published__0__conventions": "not known to us"}, "conventions are not known"),
        ({"cards__d__published__0__conventions": ""}, "conventions are not known"),
        ({"cards__d__published__0__conventions": None}, "conventions are not known"),
        (
            {"cards__d__published__0__selection": {"start": 0, "stride": 5, "count": 320}},
            "the published count is 320 frames, this run has all",
        ),
    ],
)
def test_what_differs_is_said_instead(changes: dict[str, Any], says: str) -> None:
    ate = rows(settings(**changes))[0]
    assert ate.delta is None
    assert ate.reason is not None
    assert says in ate.reason


@pytest.mark.parametrize(
    ("delta", "reason", "text"),
    [(0.25, None, "+0.2500"), (-0.25, None, "-0.2500"), (0.0, None, "0"), (0.25, "why", "not comparable: why")],
)
def test_a_difference_with_its_sign(delta: float, reason: str | None, text: str) -> None:
    assert delta_text(PublishedRow("d", "m", "ate_m", "s", 1.0, 1.0 + delta, "m", (1, 1), reason)) == text


def test_a_single_scene_is_its_own_mean_and_of_several_without_one_there_is_none() -> None:
    results, (table,) = run(settings(cards__d__published__0__scenes=1), "lingbot-map.pt", (0.4, 0.8))
    for rows_of_it, ours, scored in (
        (table.rows[:1], 0.4, (1, 1)),
        (table.rows[:2], None, None),
        ((replace(table.rows[0], cells=(Cell(None, 1), Cell(50.0))),), None, (0, 1)),
    ):
        ate = published_rows(results, (replace(table, rows=rows_of_it),))[0]
        assert (ate.ours, ate.scored) == (ours, scored)
    assert published_rows(results, (replace(table, rows=table.rows[:1]),))[0].delta == pytest.approx(-0.1)


def test_untrained_weights_and_failed_scenes_are_not_compared() -> None:
    assert rows(settings(), weights="untrained (seed 0)")[0].reason == "the weights are untrained"
    assert rows(settings(), values=(0.4, None))[0].reason == "only 1 of 2 scenes were scored"


def test_every_published_number_is_set_beside_ours_of_its_name() -> None:
    """Ours are 1, 2, 3, … in this order: no two alike."""
    names = {
        ("trajectory", "ate_rmse", "sim3"): {"mean": "ate_m"},
        ("trajectory", "rpe_translation_rmse", "sim3"): {"mean": "rpe_translation_m"},
        ("trajectory", "rpe_rotation_rmse", "sim3"): {"mean": "rpe_rotation_deg"},
        **{
            ("points", name, ""): {"mean": published}
            for name, published in (
                ("accuracy", "accuracy_m"),
                ("completeness", "completeness_m"),
                ("chamfer", "chamfer_m"),
                ("precision", "precision_percent"),
                ("recall", "recall_percent"),
                ("f1", "f1_percent"),
            )
        },
        ("throughput", "forward_fps", ""): {"mean": "forward_fps"},
        **{
            ("auc", f"{name}_{threshold}", ""): {
                "mean": f"{name}_{threshold}_macro",
                "micro": f"{name}_{threshold}_micro",
            }
            for name in ("auc", "auc_first_camera")
            for threshold in (3, 5, 15, 30)
        },
    }
    expected = {
        published: (number + {"mean": 0.0, "median": 0.25, "micro": 0.5}[kind], f"unit of {column[1]}")
        for number, (column, average) in enumerate(names.items(), start=1)
        for kind, published in average.items()
    }
    columns = tuple(Column(*column, f"unit of {column[1]}", ("c",)) for column in names)
    table = Table(
        "all",
        "All",
        columns,
        tuple(
            Row("d", kind, "ours", kind, tuple(Cell(k + more, scored=(2, 2)) for k in range(1, len(columns) + 1)))
            for kind, more in (("median", 0.25), ("micro", 0.5), ("mean", 0.0))
        ),
        (),
    )
    results, _ = run(settings(cards__d__published__0__values=dict.fromkeys(expected, 0.0)), "w", (0.4, 0.8))
    found = {row.metric: (row.ours, row.unit) for row in published_rows(results, (table,))}
    assert found == expected


def test_another_method_is_set_beside_its_own_name() -> None:
    found = rows(settings(methods__0={"kind": "replay", "name": "ours"}))
    assert found == []
    experiment = settings(methods__0={"kind": "replay", "name": "ours"}, cards__d__published__1__method="OURS")
    (ate,) = rows(experiment)
    assert ate.published == 18.0
    for name, whose, there in (("CUT3R", "cut3r", 1), ("cut3r", "CUT3R", 1), ("cut3r", "CUT3R (online)", 0)):
        method = {"kind": "replay", "name": name}
        assert len(rows(settings(methods__0=method, cards__d__published__1__method=whose))) == there


def test_each_dataset_is_set_beside_the_numbers_of_its_own_card() -> None:
    """Of one without a card nothing was published."""
    experiment = settings()
    (dataset,) = experiment["datasets"]
    experiment["datasets"] += [{**dataset, "name": "bare"}, {**dataset, "name": "e"}]
    (published, _) = experiment["cards"]["d"]["published"]
    card = {"protocol": {"stride": 9, "size": SIZE}, "published": [published | {"values": {"ate_m": 0.25}}]}
    experiment["cards"]["e"] = card
    found = [(row.dataset, row.metric, row.published, row.ours, row.reason) for row in rows(experiment)]
    assert [each[:3] for each in found] == [
        ("d", "ate_m", 0.5),
        ("d", "auc_first_camera_15_micro", 60.0),
        ("d", "f1_percent", 80.0),
        ("e", "ate_m", 0.25),
    ]
    assert found[-1][3:] == (None, "the published stride is 9, this run has 5")


def test_numbers_of_other_methods_stand_beside_every_method_where_frames_are_the_same() -> None:
    results, tables = run(settings(), "lingbot-map.pt", (0.4, 0.8))
    (ate,) = published_rows(results, tables, others=True)
    assert (ate.whose, ate.method, ate.published) == ("CUT3R", "ours", 18.0)
    assert ate.delta == pytest.approx(0.6 - 18.0)
    results, tables = run(settings(cards__d__published__1__selection={"stride": 1}), "lingbot-map.pt", (0.4, 0.8))
    assert published_rows(results, tables, others=True) == ()


def test_scenes_that_are_named_are_those_to_compare_with() -> None:
    expected = {"a": None, "b": None, "c": None}
    assert rows(settings(cards__d__expected_scenes=expected))[0].reason == "other scenes than the protocol's"
    found = rows(settings(cards__d__expected_scenes=expected, cards__d__published__0__scene_names=["b", "a"]))
    assert found[0].reason is None


def test_a_part_of_a_dataset_is_found_under_its_label() -> None:
    experiment = settings(
        datasets__0__label="d, 9 frames", datasets__0__selection={"start": 0, "stride": 5, "count": 9}
    )
    results, _ = run(experiment, "lingbot-map.pt", (0.4, 0.8))
    scenes = tuple(Row("d, 9 frames", name, "ours", "scene", (Cell(0.25),)) for name in SCENES)
    mean = Row("d, 9 frames", "mean", "ours", "mean", (Cell(0.25, scored=(2, 2)),))
    whole = tuple(replace(row, dataset="d", cells=(Cell(0.75, scored=(2, 2)),)) for row in (*scenes, mean))
    (ate, *_) = published_rows(results, (Table("t", "T", COLUMNS[:1], (*whole, *scenes, mean), ()),))
    assert (ate.ours, ate.reason) == (0.25, "the published count is every frame, this run has 9")


@pytest.mark.parametrize("name", [name for name in shared_names("experiments") if name.startswith("cut3r_")])
def test_presets_take_the_frames_of_what_the_paper_printed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row of CUT3R on the card has a part of the preset with its selection and number of scenes, or all."""
    for variable in re.findall(r"\$\{(\w+)\}", experiment_path(name).read_text(encoding="utf-8")):
        monkeypatch.setenv(variable, "/data")
    experiment = load_experiment(name)
    card = load_card(name.removeprefix("cut3r_"))
    parts = [part for dataset in experiment.datasets for part in dataset.parts()]
    taken = {
        (
            part.selection.start,
            part.selection.stride if "stride" in part.selection.model_fields_set else card.protocol.stride,
            part.selection.count,
            frozenset() if part.scenes == "all" else frozenset(part.scenes),
        )
        for part in parts
    }
    rows_of_the_paper = [row for row in card.published if row.method == "CUT3R"]
    assert rows_of_the_paper
    for row in rows_of_the_paper:
        given = row.selection or Selection(stride=card.protocol.stride)
        names = frozenset(row.scene_names)
        if not names and name == "cut3r_bonn":
            names = frozenset(card.expected_scenes)
        assert (given.start, given.stride, given.count, names) in taken, row.values
        for metric in row.values:
            assert published_as(metric) is not None, metric


def test_a_difference_has_its_sign_or_its_reason() -> None:
    ate, auc, f1 = rows(settings())
    assert (delta_text(ate), delta_text(auc)) == ("+0.1000", "-5.000")
    assert delta_text(f1) == "not comparable: this run did not measure it"


def test_the_section_says_of_each_number_whose_it_is_and_what_it_differs_by(tmp_path: Path) -> None:
    """Of several runs each row says its run; the numbers of other methods say for which they were published."""
    results, _ = run(settings(), "lingbot-map.pt", (0.4, 0.8))
    units = tuple(
        StoredUnit(
            Path("nowhere"),
            unit_record(("d", scene), "ours", 5, [Measurement("trajectory", "ate_rmse", "sim3", ate, "m", "RMSE")]),
        )
        for scene, ate in (("a", 0.4), ("b", 0.8))
    )
    whole = replace(results, units=units)
    part = replace(results, units=units[:1], gaps={("d", "b", "ours"): "gone"})
    titles = ["metric", "source", "ours", "published", "delta"]
    rows = {
        "x": [
            ["ate_m", "official page", "0.6000 (2 of 2)", "0.5", "+0.1000", ""],
            ["auc_first_camera_15_micro", "official page", "n/a", "60", "n/a", "this run did not measure it"],
            ["f1_percent", "official page", "n/a", "80", "n/a", "this run did not measure it"],
        ],
        "y": [
            ["ate_m", "official page", "0.4000 (1 of 2)", "0.5", "n/a", "only 1 of 2 scenes were scored"],
            ["auc_first_camera_15_micro", "official page", "n/a", "60", "n/a", "this run did not measure it"],
            ["f1_percent", "official page", "n/a", "80", "n/a", "this run did not measure it"],
        ],
    }
    for labels, given in (("x", (whole,)), ("xy", (whole, part))):
        runs = tuple(Run(label, RunStore(tmp_path), each, None) for label, each in zip(labels, given, strict=True))
        content = make_content(Opened(runs, ()))
        (section,) = [section for section in sections(content) if section.key == "published"]
        blocks: tuple[Any, ...] = section.blocks
        own, others = blocks
        several = ["run"] if len(labels) > 1 else []
        assert own.summary == f"{3 * len(labels)} published numbers"
        table, text = own.blocks
        assert text.text == "Delta is ours less the published number, in the metric's unit."
        assert [column.title for column in table.columns] == ["dataset", "method", *several, *titles]
        assert [column.align for column in table.columns].count("left") == 4 + len(several)
        shown = [
            [cell.text for cell in row]
            + [table.notes[row[-1].note - 1].removeprefix("not comparable: ") if row[-1].note else ""]
            for row in table.cells
        ]
        assert shown == [["d", "ours", *([label] if several else []), *row] for label in labels for row in rows[label]]
        assert others.summary == "1 numbers of other methods on the same frames"
        ((row,),) = [others.blocks[0].cells]
        assert [column.title for column in others.blocks[0].columns] == [
            *("dataset", "method", *several, "published for"),
            *titles,
        ]
        assert [cell.text for cell in row] == [
            *("d", "ours", *(["x"] if several else []), "CUT3R"),
            *("ate_m", "official page", "0.6000 (2 of 2)", "18", "-17.40"),
        ]


def test_runs_stored_without_cards_have_none() -> None:
    assert published_rows(*run({"name": "old"}, "w", (0.4, 0.8))) == ()


@pytest.mark.parametrize(
    ("used", "reason"),
    [
        ({}, "this run did not measure it"),
        ({"threshold_m": 0.25}, "threshold_m is 0.25, the protocol's 0.05"),
        ({"icp_m": 0.2}, "icp_m is 0.2, the protocol's 0.1"),
        ({"voxel_m": 0.02}, "voxel_m is 0.02, the protocol's 0.0078125"),
    ],
)
def test_clouds_that_were_compared_otherwise_are_not_compared(used: dict[str, float], reason: str) -> None:
    thresholds = {"icp_m": 0.1, "f1_m": 0.05, "voxel_m": 0.0078125}
    points = {"icp_m": 0.1, "threshold_m": 0.05, "voxel_m": 0.0078125} | used
    f1 = rows(
        settings(cards__d__protocol={"stride": 5, "size": SIZE, "thresholds": thresholds}, metrics={"points": points})
    )
    assert f1[2].reason == reason
