"""The page without a browser: each control does what its label says, and the words are of the frame that is shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_view_nodes import FRAMES, LAST, Page, layer

from lingbot_eval.errors import StoreError
from lingbot_eval.types import Trajectory
from lingbot_eval.viewing import page as page_module
from lingbot_eval.viewing.layers import Layer, LayeredScene
from lingbot_eval.viewing.page import Viewer, write_page


class Folder:
    """A folder of widgets; a context."""

    visible = True

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class Panel:
    """Takes widgets by label, as viser's panel does."""

    def __init__(self) -> None:
        self.widgets: dict[str, Any] = {}
        self.words: list[Any] = []

    def _add(self, label: str, value: object = None, **properties: Any) -> Any:
        widget = SimpleNamespace(label=label, value=value, visible=True, **properties)
        widget.on_update = widget.on_click = lambda do: setattr(widget, "do", do)
        widget.remove = lambda: self.widgets.pop(label, None)
        self.widgets[label] = widget
        return widget

    def add_dropdown(self, label: str, options: Any, *, initial_value: Any, **_: Any) -> Any:
        return self._add(label, initial_value, options=tuple(options))

    def add_slider(self, label: str, low: float, high: float, step: float, value: float, **_: Any) -> Any:
        return self._add(label, value, min=low, max=high)

    def add_multi_slider(self, label: str, low: int, high: int, step: int, value: Any, **_: Any) -> Any:
        return self._add(label, value)

    def add_checkbox(self, label: str, value: bool, **_: Any) -> Any:
        return self._add(label, value)

    def add_vector2(self, label: str, value: Any, **_: Any) -> Any:
        return self._add(label, value)

    def add_button(self, label: str, **_: Any) -> Any:
        return self._add(label)

    def add_button_group(self, label: str, options: Any) -> Any:
        return self._add(label, options[0], options=options)

    def add_image(self, image: Any, *, label: str, visible: bool) -> Any:
        return self._add(label, image=image)

    def add_uplot(self, data: Any, series: Any, **_: Any) -> Any:
        return self._add("plot", data=data, series=series)

    def add_markdown(self, content: str, **_: Any) -> Any:
        self.words.append(SimpleNamespace(content=content, visible=True))
        return self.words[-1]

    def add_folder(self, label: str, **_: Any) -> Any:
        return Folder()

    def add_panel(self) -> Any:
        return SimpleNamespace(add_tab=lambda _: Folder(), dock_right=lambda: None)

    main_panel = SimpleNamespace(float=lambda **_: None)

    def configure_theme(self, **_: Any) -> None: ...

    def set_panel_label(self, title: str) -> None:
        self.title = title


class Scene(Page):
    """Nodes, and what else a scene is told."""

    def set_up_direction(self, up: Any) -> None:
        self.up = up

    def add_label(self, name: str, text: str, **properties: Any) -> Any:
        return self._add(name, text=text, **properties)

    clicked: Any = None

    def on_click(self) -> Any:
        return lambda do: setattr(self, "clicked", do)

    def remove_click_callback(self) -> None:
        self.clicked = None


class Server:
    """Stands where viser's server would; ``steps``: points that are seen at each pause of a recording."""

    def __init__(self, port: int, title: str) -> None:
        self.gui, self.scene, self.initial_camera = Panel(), Scene(), SimpleNamespace()
        self.port, self.title = port, title
        self.steps: list[tuple[float, int]] = []

    @contextmanager
    def atomic(self) -> Iterator[None]:
        yield

    def get_port(self) -> int:
        return self.port

    def get_clients(self) -> dict[int, Any]:
        return {}

    def on_client_connect(self, _: object) -> None: ...

    def stop(self) -> None: ...

    def get_scene_serializer(self) -> Any:
        def pause(seconds: float) -> None:
            self.steps.append((seconds, len(self.scene.points())))

        html = "<html><title>Viser</title><body></body></html>"
        return SimpleNamespace(insert_sleep=pause, as_html=lambda: html)


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> list[Server]:
    made: list[Server] = []

    def serve(port: int, title: str) -> Server:
        made.append(Server(port, title))
        return made[-1]

    monkeypatch.setattr(page_module, "_serve", serve)
    return made


def bent(label: str, error: float = 0.0) -> Layer:
    """Off the line, for an alignment; frame 7 is ``error`` metres off."""
    made = layer(label)
    for index in range(FRAMES):
        made.poses[16 * index + 3] = np.sin(index)
        made.poses[16 * index + 11] = np.cos(2 * index)
    made.poses[16 * 7 + 3] += error
    return made


class Shown:
    """A viewer and its stand-in, whose thread takes no part: `step` does what it would do."""

    def __init__(self, servers: list[Server], monkeypatch: pytest.MonkeyPatch, **scenes: Any) -> None:
        monkeypatch.setattr(Viewer, "_work", lambda self: None)
        self.viewer = Viewer("the title", scenes, port=80)
        (self.server,) = servers
        self.widgets, self.scene = self.server.gui.widgets, self.server.scene

    def set(self, label: str, value: object) -> None:
        assert hasattr(self.widgets[label], "do"), f"nobody listens to {label}"
        self.widgets[label].value = value
        self.widgets[label].do(SimpleNamespace(client=None))
        self.viewer._step()

    def press(self, label: str) -> None:
        self.set(label, self.widgets[label].value)

    @property
    def said(self) -> str:
        return "\n".join(words.content for words in self.server.gui.words if words.visible)


@pytest.fixture
def shown(servers: list[Server], monkeypatch: pytest.MonkeyPatch) -> Shown:
    truth = bent("a").trajectory()
    true = Trajectory(truth.indices, truth.timestamps, truth.camera_to_world)

    def broken() -> LayeredScene:
        raise StoreError("<b>its cloud is damaged</b>")

    return Shown(
        servers,
        monkeypatch,
        first=lambda: LayeredScene("first", [bent("a", error=3.0), bent("bb")], true),
        second=lambda: LayeredScene("second", [layer("one")]),
        broken=broken,
    )


def frames_seen(shown: Shown) -> set[int]:
    return set(np.floor(shown.scene.points()[:, 1]).astype(int).tolist())


def test_it_begins_with_all_of_the_first_scene(shown: Shown) -> None:
    assert (shown.server.title, shown.server.port) == ("the title", 80)
    assert shown.viewer.address == "http://127.0.0.1:80"
    assert shown.widgets["scene"].options == ("first", "second", "broken")
    assert (shown.widgets["frame"].value, shown.widgets["frame"].max) == (LAST, LAST)
    assert f"**frame {LAST} of {LAST}**" in shown.said
    assert shown.widgets["confidence"].value == "hide the least sure 30 %"
    assert {"a", "bb", "ground truth"} <= set(shown.widgets)


def test_controls_begin_where_everything_of_the_first_look_is_seen(shown: Shown) -> None:
    begin = {label: widget.value for label, widget in shown.widgets.items() if widget.value is not None}
    assert begin == {
        "scene": "first",
        "frame": LAST,
        "play": False,
        "colour": "picture",
        "size": 1.5,
        "points at most": "2,000,000",
        "confidence": "hide the least sure 30 %",
        "depth": (0, 4),
        "sky": False,
        "frames a second": 20.0,
        "history": 0,
        "follow the camera": False,
        "path": True,
        "pictures": True,
        "camera size": 0.03,
        "from": "overview",
        "click two points": False,
        "frames": (0.0, float(LAST)),
        **dict.fromkeys(("a", "bb", "ground truth"), True),
    }


def somebody(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Who looks at the page from now on."""
    client = SimpleNamespace(camera=SimpleNamespace(position=np.zeros(3)), atomic=shown.server.atomic)
    monkeypatch.setattr(shown.server, "get_clients", lambda: {0: client})
    return client


@pytest.mark.parametrize(
    ("name", "towards"),
    [
        ("front", (0, 0, -1)),
        ("back", (0, 0, 1)),
        ("left", (-1, 0, 0)),
        ("right", (1, 0, 0)),
        ("top", (0, -1, -1e-3)),
        ("overview", (0.5, -0.6, -0.6)),
    ],
)
def test_a_view_is_from_the_side_of_its_name(
    shown: Shown, monkeypatch: pytest.MonkeyPatch, name: str, towards: tuple[float, float, float]
) -> None:
    """The first camera stands upright and looks along z: left is against x, up is against y."""
    client, around = somebody(shown, monkeypatch), shown.viewer._nodes.surroundings
    shown.widgets["from"].value = name
    shown.widgets["from"].do(SimpleNamespace(client=client))
    shown.viewer._step()
    away = 0.75 * around.extent * np.array(towards) / np.linalg.norm(towards)
    assert client.camera.position == pytest.approx(around.centre + away)
    assert client.camera.look_at == pytest.approx(around.centre)
    assert client.camera.up_direction == pytest.approx([0, -1, 0])
    if name == "overview":  # as whoever comes begins, and where nothing near or far is cut off
        first = shown.server.initial_camera
        assert first.position == pytest.approx(client.camera.position)
        assert (first.look_at, first.up) == (pytest.approx(around.centre), pytest.approx([0, -1, 0]))
        assert (first.near, first.far) == (pytest.approx(around.extent / 500), pytest.approx(around.extent * 50))
    assert shown.scene.up == pytest.approx([0, -1, 0])


def test_the_view_goes_to_the_first_camera_or_behind_that_of_the_frame(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown.set("a", False)  # the other method is where the truth is
    client, extent = somebody(shown, monkeypatch), shown.viewer._nodes.surroundings.extent
    first = shown.viewer._nodes.placed[0]
    shown.widgets["from"].value = "first camera"
    shown.widgets["from"].do(SimpleNamespace(client=client))
    shown.viewer._step()
    assert client.camera.position == pytest.approx(first.positions[0] - 0.1 * extent * first.rotations[0][:, 2])
    assert client.camera.look_at == pytest.approx(first.positions[0] + 0.5 * extent * first.rotations[0][:, 2])
    ahead, up = np.array([0.0, 0, 1]), np.array([0.0, -1, 0])
    way = np.stack([[np.sin(i), i, np.cos(2 * i)] for i in range(FRAMES)])
    shown.set("follow the camera", True)
    for frame, near in ((6, slice(4, 9)), (1, slice(0, 4)), (LAST, slice(LAST - 2, None))):
        shown.set("frame", frame)
        middle = way[near].mean(axis=0)
        assert client.camera.position == pytest.approx(middle - 0.15 * extent * ahead + 0.05 * extent * up)
        assert client.camera.look_at == pytest.approx(middle + 0.2 * extent * ahead)
    client.camera.up_direction = None
    shown.press("reset up")
    assert client.camera.up_direction == pytest.approx(up)


def test_the_distance_of_two_points_that_were_clicked(shown: Shown) -> None:
    assert shown.scene.clicked is None
    shown.set("click two points", True)

    def click(x: float, y: float) -> np.ndarray:
        """At the point of the clouds next to these, from a little before it."""
        points = shown.scene.points()
        point = points[np.argmin(np.hypot(points[:, 0] - x, points[:, 1] - y))]
        shown.scene.clicked(SimpleNamespace(ray_origin=tuple(point - [0, 0, 0.02]), ray_direction=(0.0, 0.0, 2.0)))
        shown.viewer._step()
        return point

    first = click(0, 2)
    assert "/measure" not in shown.scene.nodes
    second = click(0, 7)
    text = f"{np.linalg.norm(second - first):.4g} m"
    assert f"**{text}**" in shown.said
    label = shown.scene.nodes["/measure/label"]
    assert (label.text, label.position) == (text, pytest.approx((first + second) / 2, abs=0.05))
    assert np.asarray(shown.scene.nodes["/measure"].points)[0] == pytest.approx(np.stack([first, second]), abs=0.05)
    click(0, 3)  # a third one is the first of the next two
    assert "/measure" not in shown.scene.nodes
    assert text not in shown.said
    shown.set("click two points", False)
    assert shown.scene.clicked is None


def test_how_long_the_page_rests(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown.viewer._pause() is None  # nobody looks, and nothing grows
    shown.widgets["play"].value = True
    assert shown.viewer._pause() == pytest.approx(1 / 20)
    shown.widgets["frames a second"].value = 4.0
    assert shown.viewer._pause() == pytest.approx(0.25)


def test_without_a_truth_there_is_neither_plot_nor_worst_frame(shown: Shown) -> None:
    assert shown.widgets["go to the worst frame"].visible
    assert "plot" in shown.widgets
    shown.set("scene", "second")
    assert not shown.widgets["go to the worst frame"].visible
    assert "plot" not in shown.widgets
    assert shown.widgets["frames"].value == (0.0, float(LAST))
    assert "/measure" not in shown.scene.nodes


def test_depth_is_that_of_the_frame_or_the_newest_that_was_kept(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, asked = layer("a"), list[int]()

    def depth_frame(index: int) -> Any:
        asked.append(index)
        return SimpleNamespace(depth=np.ones((6, 8), np.float32))

    made.newest = None
    made.reconstruction = SimpleNamespace(depth_indices=lambda: (2, 5, 9), depth_frame=depth_frame)  # type: ignore[assignment]
    shown = Shown(servers, monkeypatch, first=lambda: LayeredScene("first", [made]))
    depth = shown.widgets["depth: red near, blue far"]
    for frame, newest in ((7, [5]), (5, [5]), (1, []), (LAST, [9])):
        asked.clear()
        shown.set("frame", frame)
        assert asked == newest
        assert depth.visible is bool(newest)
        assert (np.asarray(shown.widgets["picture"].image) == frame).all()


CONTROLS: dict[str, tuple[object, Any]] = {
    "frame": (4, lambda shown: frames_seen(shown) == {0, 1, 2, 3, 4} and "**frame 4 of 11**" in shown.said),
    "history": (5, lambda shown: len(shown.scene.seen("/0 a/cameras/")) == 5),
    "colour": ("method", lambda shown: len(np.unique(shown.scene.seen("/0 a/cloud")[-1].colors, axis=0)) == 1),
    "confidence": ("hide the least sure 70 %", lambda shown: len(shown.scene.points()) == pytest.approx(1440, abs=60)),
    "depth": ((1, 3), lambda shown: len(shown.scene.points()) == pytest.approx(0.65 * 0.7 * 4800, abs=120)),
    "path": (False, lambda shown: not shown.scene.seen("/path/")),
    "pictures": (False, lambda shown: not shown.scene.seen("/cameras/")),
    "a": (False, lambda shown: not shown.scene.seen("/0 a") and bool(shown.scene.seen("/1 bb/cloud"))),
    "bb": (False, lambda shown: not shown.scene.seen("/1 bb") and bool(shown.scene.seen("/0 a/cloud"))),
    "ground truth": (False, lambda shown: not shown.scene.seen("/ground truth")),
}


@pytest.mark.parametrize("label", CONTROLS)
def test_a_control_does_what_its_label_says(shown: Shown, label: str) -> None:
    value, holds = CONTROLS[label]
    assert not holds(shown)
    shown.set(label, value)
    assert holds(shown)


def test_sizes_are_those_of_their_sliders(shown: Shown) -> None:
    def sizes() -> tuple[float, float]:
        return shown.scene.seen("/block ")[0].point_size, shown.scene.seen("/0 a/cameras/3")[0].scale

    before = sizes()
    shown.set("size", 3.0)  # of 1.5
    assert sizes() == pytest.approx((2 * before[0], before[1]))
    shown.set("camera size", 0.09)  # of 0.03
    assert sizes() == pytest.approx((2 * before[0], 3 * before[1]))


def test_what_is_said_of_a_frame_is_of_that_frame(shown: Shown) -> None:
    """Frame 7 of method a is 3 m off; its alignment takes a part of that."""
    errors = {}
    for frame in range(FRAMES):
        shown.set("frame", frame)
        errors[frame] = float(re.findall(r"^a: ([0-9.]+) cm from the truth", shown.said, re.MULTILINE)[0])
    assert max(errors, key=lambda frame: errors[frame]) == 7
    assert 100 < errors[7] < 300
    assert "bb: 0.0 cm from the truth" in shown.said
    shown.set("frame", 2)
    shown.press("go to the worst frame")
    assert shown.widgets["frame"].value == 7
    shown.set("colour", "error")
    assert f"blue 0 to red {errors[7]:.1f} cm" in shown.said
    x, mark, first, second = shown.widgets["plot"].data
    assert first.max() == pytest.approx(errors[7], abs=0.1)
    assert x[int(np.argmax(mark))] == 7
    assert second.max() == pytest.approx(0, abs=1e-6)


def test_the_picture_is_the_frames_own_or_the_newest_before_it(shown: Shown) -> None:
    for frame in (3, LAST, 0):
        shown.set("frame", frame)
        assert (np.asarray(shown.widgets["picture"].image) == frame).all()


def test_the_picture_is_of_the_first_method_that_is_shown(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = layer("a"), layer("bb")
    newest = two.newest
    assert newest is not None
    two.newest = replace(newest, image=np.full((6, 8, 3), 200, np.uint8))
    shown = Shown(servers, monkeypatch, first=lambda: LayeredScene("first", [one, two]))

    def pictured() -> int:
        return int(np.asarray(shown.widgets["picture"].image)[0, 0, 0])

    assert pictured() == LAST
    shown.set("a", False)
    assert pictured() == 200
    shown.set("bb", False)
    assert pictured() == LAST, "where none is shown the first stands for all"


def test_another_scene_has_its_own_picture_though_methods_and_frames_have_one_name(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    def other() -> LayeredScene:
        made = layer("a")
        assert made.newest is not None
        made.newest = replace(made.newest, image=np.full((6, 8, 3), 200, np.uint8))
        return LayeredScene("other", [made])

    shown = Shown(servers, monkeypatch, first=lambda: LayeredScene("first", [layer("a")]), other=other)
    shown.set("scene", "other")
    assert (np.asarray(shown.widgets["picture"].image) == 200).all()


def test_the_worst_frame_is_of_the_first_method_that_is_shown(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = bent("a").trajectory()
    worse = bent("bb")
    worse.poses[16 * 4 + 3] += 2.0
    scene = LayeredScene("first", [bent("a", error=3.0), worse], truth)
    shown = Shown(servers, monkeypatch, first=lambda: scene)
    shown.press("go to the worst frame")
    assert shown.widgets["frame"].value == 7
    shown.set("a", False)
    shown.press("go to the worst frame")
    assert shown.widgets["frame"].value == 4


def test_the_worst_frame_is_told_by_its_number_where_frames_were_left_out(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bent("a", error=3.0)
    del made.index[1:3], made.timestamps[1:3], made.views[1:3], made.poses[16:48]
    scene = LayeredScene("first", [made], bent("a").trajectory())
    shown = Shown(servers, monkeypatch, first=lambda: scene)
    shown.press("go to the worst frame")
    assert shown.widgets["frame"].value == 7


def test_between_two_frames_the_straight_line_and_the_way_are_told(shown: Shown) -> None:
    shown.set("a", False)  # the other method is where the truth is
    shown.widgets["frames"].value = (5.0, 2.0)
    shown.press("between these frames")
    way = np.stack([[np.sin(i), i, np.cos(2 * i)] for i in range(2, 6)])
    straight, along = np.linalg.norm(way[-1] - way[0]), np.linalg.norm(np.diff(way, axis=0), axis=1).sum()
    assert f"**{straight:.4g} m, {along:.4g} along the path**" in shown.said


def test_another_scene_takes_the_place_of_the_first_and_a_broken_one_is_told(shown: Shown) -> None:
    shown.set("scene", "broken")
    assert "&#60;b&#62;its cloud is damaged" in shown.said
    assert shown.scene.seen("/1 bb")
    shown.set("scene", "second")
    assert "damaged" not in shown.said
    assert {node.name.split("/")[1] for node in shown.scene.seen("")} == {"0 one"}
    assert "one" in shown.widgets
    assert not {"a", "bb", "ground truth"} & set(shown.widgets)


def test_a_budget_bounds_the_points_of_all_methods_at_the_same_frame(shown: Shown) -> None:
    assert shown.widgets["points at most"].options == ("100,000", "300,000", "1,000,000", "2,000,000")
    shown.set("frame", 5)
    before, sent = len(shown.scene.points()), set(shown.scene.nodes)
    shown.set("points at most", "1,000")  # so that these few are too many
    assert f"**frame 5 of 11** · {len(shown.scene.points()):,} of 4,800 points" in shown.said
    assert 900 < len(shown.scene.points()) <= 1000
    shown.set("points at most", "2,000,000")
    assert len(shown.scene.points()) == before
    assert set(shown.scene.nodes) == sent


def test_detail_follows_whoever_looks_at_the_next_tick(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = SimpleNamespace(position=np.array([0.0, 0, 0]))
    monkeypatch.setattr(shown.server, "get_clients", lambda: {0: SimpleNamespace(camera=camera)})
    asked: list[Any] = []
    choose = shown.viewer._nodes._choose

    def counted(look: Any, eyes: Any) -> None:
        asked.append([list(eye) for eye in eyes])
        choose(look, eyes)

    monkeypatch.setattr(shown.viewer._nodes, "_choose", counted)
    shown.viewer._look()
    camera.position = np.array([0.0, 0, -7])
    assert shown.viewer._pause() == pytest.approx(0.5)
    for _ in range(3):
        shown.viewer._look()
    assert asked == [[[0, 0, 0]], [[0, 0, -7]]]


@pytest.mark.parametrize("live", [False, True])
def test_sky_is_shown_at_first_where_nobody_left_it_out(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch, live: bool
) -> None:
    def scene() -> LayeredScene:
        made = layer("a")
        made.sky.add(np.full((1, 3), 99, np.float32), np.zeros((1, 3), np.uint8), np.ones(1, np.float32), 0)
        return LayeredScene("first", [made], live=live)

    shown = Shown(servers, monkeypatch, first=scene, second=lambda: LayeredScene("second", [layer("b")]))
    assert shown.widgets["sky"].visible
    for asked in (live, not live, live):
        shown.set("sky", asked)
        assert (shown.scene.points()[:, 0].max() > 50) is np.bool_(asked)
    shown.set("scene", "second")
    assert not shown.widgets["sky"].visible


def test_playing_goes_on_frame_by_frame_and_begins_again(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [page_module.time.monotonic()]
    monkeypatch.setattr(page_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    shown.widgets["play"].value = True
    shown.widgets["frame"].value = LAST - 1
    seen = []
    for _ in range(4):
        now[0] += 1.0
        shown.viewer._step()
        seen.append(shown.widgets["frame"].value)
    assert seen == [LAST, 0, 1, 2]


def test_what_grows_is_drawn_for_somebody(servers: list[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    growing = layer("a")
    growing.complete = False
    shown = Shown(servers, monkeypatch, first=lambda: LayeredScene("first", [growing], live=True))
    shown.viewer._wake.clear()
    pose = growing.poses[-16:]
    growing.index.append(LAST + 1)
    growing.timestamps.append(9.0)
    growing.poses.extend(pose)
    for clients, last in ((0, LAST), (1, LAST + 1)):
        monkeypatch.setattr(Viewer, "clients", clients)
        shown.viewer._look()
        assert shown.widgets["frame"].value == last
    assert shown.viewer._pause() == pytest.approx(0.5)
    # A drawing that takes long, or long until it has a core, is followed by a longer rest.
    for cpu, seconds, pause in ((0.02, 0.02, 0.5), (0.1, 0.1, 2.0), (0.1, 3.0, 6.0)):
        clock = SimpleNamespace(thread_time=iter((0.0, cpu)).__next__, monotonic=iter((0.0, seconds)).__next__)
        with monkeypatch.context() as patched:
            patched.setattr(page_module, "time", clock)
            patched.setattr(Viewer, "_step", lambda self: None)
            shown.viewer._look()
        assert shown.viewer._pause() == pytest.approx(pause)


def test_a_long_scene_is_written_by_some_of_its_frames_and_each_method_within_the_points(
    servers: list[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert page_module._PAGE_SECONDS * page_module._PAGE_FPS == 400
    monkeypatch.setattr(page_module, "_PAGE_FPS", 10.0)
    monkeypatch.setattr(page_module, "_PAGE_SECONDS", 0.4)
    layers = [layer("a"), layer("bb")]
    write_page(tmp_path / "x.html", LayeredScene("s", layers), points=1000)
    (server,) = servers
    # Of twelve frames the first, every third from the second on, and the last.
    assert len(server.steps) == 1 + 4 + 1
    assert server.steps[-1][1] == len(server.scene.points())
    assert all(500 < len(each.cloud) <= 1000 for each in layers)


def test_a_written_page_plays_from_the_first_frame_to_the_last_and_escapes_its_names(
    servers: list[Server], tmp_path: Path
) -> None:
    path = tmp_path / "x.html"
    write_page(path, LayeredScene("</title><script>1", [layer("<b>a")]), colouring="frame")
    (server,) = servers
    counts = [count for _, count in server.steps]
    # The frame before each pause, the last one twice: a page stays at its end.
    assert len(counts) == FRAMES + 1
    assert counts == sorted(counts)
    assert counts[0] == pytest.approx(counts[-1] / FRAMES, rel=0.25)
    assert counts[-1] == len(server.scene.points()) == pytest.approx(0.7 * FRAMES * 200, rel=0.05)
    # A short scene is shown slowly, and its end stays.
    assert [seconds for seconds, _ in server.steps] == [0.25] * FRAMES + [2.0]
    text = path.read_text()
    assert "<script>" not in text
    assert "<b>" not in text
    assert "<title>&lt;/title&gt;&lt;script&gt;1</title>" in text
    assert "&lt;b&gt;a · colour: frame · units of the model · the 30 % of points" in text
