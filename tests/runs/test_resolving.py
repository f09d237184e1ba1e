"""What an experiment says goes before what the card says, setting by setting; and which scenes stop a plan."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fakes import World, experiment

from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.errors import DataError, UnknownSceneError
from lingbot_eval.metrics.depth import DepthSettings
from lingbot_eval.runs.plan import _depth_range, _open_each, make_plan


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (0.5, 20.0)),
        ({"min_depth": 1.0}, (1.0, 20.0)),
        ({"max_depth": 9.0}, (0.5, 9.0)),
        ({"min_depth": 1.0, "max_depth": 9.0}, (1.0, 9.0)),
        (None, None),
    ],
)
def test_each_limit_of_depth_is_the_experiments_where_it_gives_one(
    given: dict[str, float] | None, expected: tuple[float, float] | None
) -> None:
    card: Any = SimpleNamespace(protocol=SimpleNamespace(min_depth=0.5, max_depth=20.0))
    assert _depth_range(card, None if given is None else DepthSettings.model_validate(given)) == expected


@pytest.mark.parametrize(
    ("broken", "raised"), [(set(), None), ({"a"}, None), ({"b", "c"}, None), ({"a", "b", "c"}, "a is broken")]
)
def test_a_broken_scene_stops_a_plan_where_no_other_can_be_opened(broken: set[str], raised: str | None) -> None:
    def open_scene(scene: str, selection: Selection) -> None:
        if scene in broken:
            raise DataError(f"{scene} is broken")

    adapter: Any = SimpleNamespace(open=open_scene)
    if raised is None:
        _open_each(adapter, "abc", Selection())
        return
    with pytest.raises(DataError, match=f"^{raised}$"):
        _open_each(adapter, "abc", Selection())


def test_a_scene_that_is_not_there_stops_it_at_once() -> None:
    def open_scene(scene: str, selection: Selection) -> None:
        if scene == "b":
            raise UnknownSceneError("no b")

    with pytest.raises(UnknownSceneError, match="no b"):
        _open_each(SimpleNamespace(open=open_scene), "abc", Selection())  # type: ignore[arg-type]


def test_the_size_that_a_dataset_is_given_goes_before_its_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    World().install(monkeypatch)
    given = make_plan(experiment()).experiment.datasets[0].size
    assert given is not None
    assert (given.mode, given.width, given.height) == ("exact", 28, 28)
    of_card = make_plan(experiment(dataset={"size": None})).experiment.datasets[0].size
    assert of_card is not None
    assert of_card != given
