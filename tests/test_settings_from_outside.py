"""Settings that do not fit: one line that names the key, what was expected, what was found."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from lingbot_eval.errors import ConfigError
from lingbot_eval.settings import nearest, validated


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Wheel(Strict):
    radius: float = 1.0


class Car(Strict):
    kind: Literal["car"]
    wheels: tuple[Wheel, ...] = ()
    gear: int | Literal["auto"] = "auto"


class Boat(Strict):
    kind: Literal["boat"]
    sails: int = 1


class Fleet(Strict):
    name: str
    vehicles: Annotated[tuple[Annotated[Car | Boat, Field(discriminator="kind")], ...], Field(min_length=1)]
    spare: Wheel | None = None
    routes: Literal["all"] | tuple[str, ...] = "all"


def refusal(**changes: Any) -> str:
    good: dict[str, Any] = {"name": "x", "vehicles": [{"kind": "car"}]}
    with pytest.raises(ConfigError) as refused:
        validated(Fleet, {**good, **changes}, "fleet.yaml")
    text = str(refused.value)
    assert "\n" not in text
    assert text.startswith("fleet.yaml: ")
    return text.removeprefix("fleet.yaml: ")


def test_fitting_settings_pass() -> None:
    fleet = validated(Fleet, {"name": "x", "vehicles": [{"kind": "boat", "sails": 3}]}, "here")
    assert fleet.vehicles[0] == Boat(kind="boat", sails=3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"nam": "y"}, "nam: unknown key 'nam' (did you mean 'name'?); known keys: name, vehicles, spare, routes"),
        ({"spare": {"radus": 1}}, "spare.radus: unknown key 'radus' (did you mean 'radius'?); known keys: radius"),
        # Through a tagged union: the tag is not part of the key, and only the named member's keys are suggested.
        (
            {"vehicles": [{"kind": "car"}, {"kind": "boat", "sail": 2}]},
            "vehicles.1.sail: unknown key 'sail' (did you mean 'sails'?); known keys: kind, sails",
        ),
        (
            {"vehicles": [{"kind": "car", "wheels": [{"radius": "wide"}]}]},
            "vehicles.0.wheels.0.radius: expected a valid number, found 'wide'",
        ),
        ({"vehicles": [{"kind": "train"}]}, "vehicles.0.kind: expected 'car', 'boat', found 'train'"),
        (
            {"vehicles": [{"kind": "bot"}]},
            "vehicles.0.kind: expected 'car', 'boat', found 'bot' (did you mean 'boat'?)",
        ),
        ({"vehicles": [{}]}, "vehicles.0: needs kind"),
        ({"vehicles": []}, "vehicles: list should have at least 1 item after validation, not 0, found a list of 0"),
        (
            {"vehicles": [{"kind": "car", "gear": "fast"}]},
            "vehicles.0.gear: expected a valid integer or 'auto', found 'fast'",
        ),
        ({"routes": [1]}, "routes.0: expected a valid string, found 1; put it in quotes"),
        ({"routes": 5}, "routes: expected 'all' or a list, found 5"),
        ({"routes": "al"}, "routes: expected 'all' or a list, found 'al' (did you mean 'all'?)"),
        ({"name": None}, "name: expected a valid string, found nothing"),
        ({"name": True}, "name: expected a valid string, found True; put it in quotes"),
        ({"name": {"a": 1}}, "name: expected a valid string, found a mapping"),
        ({"name": {}}, "name: expected a valid string, found an empty mapping"),
        ({"name": ["a", "b"]}, "name: expected a valid string, found a list of 2"),
        ({"spare": {"radius": "x" * 58}}, f"spare.radius: expected a valid number, found '{'x' * 58}'"),
        ({"spare": {"radius": "x" * 59}}, f"spare.radius: expected a valid number, found '{'x' * 56}..."),
    ],
)
def test_one_line_names_the_key(changes: dict[str, Any], says: str) -> None:
    assert refusal(**changes) == says


def test_every_wrong_key_is_named() -> None:
    assert refusal(name=3, spare=4) == (
        "name: expected a valid string, found 3; put it in quotes; "
        "spare: expected a valid dictionary or instance of Wheel, found 4"
    )


def test_a_wrong_key_hides_none_whose_name_goes_on() -> None:
    class Door(Strict):
        width: int = 1
        width_m: float = 1.0

    with pytest.raises(ConfigError) as refused:
        validated(Door, {"width": "wide", "width_m": "far"}, "door.yaml")
    assert [part.split(": ")[0] for part in str(refused.value).removeprefix("door.yaml: ").split("; ")] == [
        "width",
        "width_m",
    ]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"vehicles": [{"kind": "boat", "sails": "1_0"}]}, "vehicles.0.sails"),
        ({"vehicles": [{"kind": "car", "wheels": [{"radius": "1_0.5"}]}]}, "vehicles.0.wheels.0.radius"),
        ({"spare": {"radius": "1_0"}}, "spare.radius"),
    ],
)
def test_text_that_only_programmers_take_for_a_number_is_none(changes: dict[str, Any], key: str) -> None:
    """In a mapping and in a list, however deep."""
    text = refusal(**changes)
    assert text.startswith(f"{key}: expected a valid ")
    assert text.endswith(("found '1_0'", "found '1_0.5'"))
    # Where text is wanted it is text.
    fleet = validated(Fleet, {"name": "1_0", "vehicles": [{"kind": "car"}], "routes": ["2_0"]}, "fleet.yaml")
    assert (fleet.name, fleet.routes) == ("1_0", ("2_0",))


def test_a_required_key() -> None:
    with pytest.raises(ConfigError, match=r"^here: vehicles: is required$"):
        validated(Fleet, {"name": "x"}, "here")


def test_nearest() -> None:
    assert nearest("selecton", ["size", "selection"]) == " (did you mean 'selection'?)"
    assert nearest("qqq", ["size", "selection"]) == ""
    # Capitals are no difference; what shares fewer letters than not is another word.
    assert nearest("STRIDE", ["size", "stride"]) == " (did you mean 'stride'?)"
    assert nearest("kiti", ["KITTI"]) == " (did you mean 'KITTI'?)"
    assert [nearest(word, ["frames"]) for word in ("frm", "fr")] == [" (did you mean 'frames'?)", ""]
