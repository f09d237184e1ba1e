"""The viewer's page in a real browser: points are where they must be, time moves, filters act, nothing leaves."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import viser
import zstandard
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from websockets.sync.client import connect

from lingbot_eval.types import Frame, Prediction
from lingbot_eval.viewing.cloud import VoxelCloud
from lingbot_eval.viewing.layers import Layer, LayeredScene
from lingbot_eval.viewing.live import LiveScene, LiveViewer
from lingbot_eval.viewing.page import Viewer, write_page
from tests.support.browser import Browser, browser

FRAMES = 10
RED, YELLOW, BLUE, GREEN = (255, 0, 0), (255, 255, 0), (0, 0, 255), (0, 255, 0)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def bands(label: str, sure: tuple[int, int, int], unsure: tuple[int, int, int], above: float) -> Layer:
    """A wall in bands, one a frame; of each band 30 % are less sure, and far away a few green points."""
    layer = Layer(label, VoxelCloud(100_000, 0.05), length=FRAMES, complete=True)
    for index in range(FRAMES):
        pose = np.eye(4)
        pose[:3, 3] = index * 0.4, np.sin(index) * 0.3, np.cos(index) * 0.2
        layer.add(Frame(index, index / 10, None, ""), Prediction(index, index / 10, pose))
        x, y = np.meshgrid(np.arange(0, 0.4, 0.04), np.arange(0, 2, 0.04))
        points = np.stack([x + 0.4 * index, y + above, np.full(x.shape, 4.0)], axis=-1).reshape(-1, 3)
        less = np.arange(len(points)) % 10 < 3
        colours = np.where(less[:, None], unsure, sure)
        far = np.arange(len(points)) % 20 == 19
        points[far] += (0, 0, 3)
        colours[far] = GREEN
        confidence = np.where(less, 1.0, 5.0) + 0.001 * np.arange(len(points))
        layer.cloud.add(points.astype(np.float32), colours.astype(np.uint8), confidence.astype(np.float32), index)
    return layer


def two() -> LayeredScene:
    return LayeredScene("two walls", [bands("red", RED, YELLOW, -2), bands("blue</b>", BLUE, BLUE, 0.2)])


@pytest.fixture
def viewer() -> Iterator[Viewer]:
    found = Viewer("two walls", {"a": two, "b": lambda: LayeredScene("one", [bands("red", RED, RED, 0)])}, port=0)
    yield found
    found.stop()


def check_quiet(chromium: Browser) -> None:
    assert chromium.asked_outside() == []
    assert chromium.complaints() == []


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_shows_and_the_controls_act(chromium: Browser, viewer: Viewer, width: int) -> None:
    chromium.open(viewer.address, width)
    chromium.until(lambda: f"frame {FRAMES - 1} of {FRAMES - 1}" in chromium.text(), "the panel")
    chromium.until(lambda: chromium.count(RED) > 300 and chromium.count(BLUE) > 300, "both walls")
    # Nothing sticks out at the side.
    assert chromium.driver.execute_script("return document.documentElement.scrollWidth") <= width
    whole = chromium.count(RED)

    # Time: at the second frame only a part of the wall is there.
    field = chromium.driver.find_element(By.XPATH, "//label[.='frame']/following::input[@type='text'][1]")
    chromium.enter(field, "1")
    chromium.until(lambda: f"frame 1 of {FRAMES - 1}" in chromium.text(), "the first frames")
    chromium.until(lambda: 0 < chromium.count(RED) < 0.5 * whole, "a part of the wall")
    chromium.click(chromium.box("play"))
    chromium.until(lambda: "frame 1 of" not in chromium.text(), "playing")
    chromium.click(chromium.box("play"))
    chromium.enter(field, "9")
    chromium.until(lambda: chromium.count(RED) > 0.9 * whole, "the whole wall again")

    # A method goes and comes; the other stays. On a narrow screen what is not the time is folded away.
    narrow = width < 576
    if narrow:
        folded = chromium.driver.find_element(By.XPATH, "//*[normalize-space(text())='show']")
        chromium.click(folded)
        chromium.until(lambda: chromium.box("red") is not None, "the controls")
    chromium.click(chromium.box("red"))
    chromium.until(lambda: chromium.count(RED) == 0, "no red wall")
    assert narrow or chromium.count(BLUE) > 300
    chromium.click(chromium.box("red"))
    if narrow:
        chromium.click(folded)
    chromium.until(lambda: chromium.count(RED) > 0.9 * whole, "the red wall again")
    check_quiet(chromium)


def test_filters_show_and_hide_without_sending_points(chromium: Browser, viewer: Viewer) -> None:
    chromium.open(viewer.address)
    chromium.until(lambda: chromium.count(RED) > 300, "the wall")
    chromium.click(chromium.box("pictures"))
    chromium.click(chromium.box("path"))
    assert chromium.count(YELLOW) == 0
    assert chromium.count(GREEN) > 0
    sent = points_sent(viewer)

    # Least sure points are hidden until they are asked for.
    choose(chromium, "confidence", "all")
    chromium.until(lambda: chromium.count(YELLOW) > 20, "points of little confidence")

    # The farthest class of depth goes with its slider's upper thumb.
    least, most = chromium.driver.find_elements(By.CLASS_NAME, "multi-slider-thumb")
    quarter = (most.rect["x"] - least.rect["x"]) / 4
    ActionChains(chromium.driver).drag_and_drop_by_offset(most, -round(quarter), 0).perform()
    chromium.until(lambda: chromium.count(GREEN) == 0, "no far points")
    assert chromium.count(RED) > 300
    assert points_sent(viewer) == sent
    check_quiet(chromium)


def options(chromium: Browser, text: str) -> list[object]:
    return chromium.driver.find_elements(By.XPATH, f"//*[@role='option' and normalize-space()='{text}']")  # type: ignore[return-value]


def points_sent(viewer: Viewer) -> list[int]:
    """Numbers of the messages that carry points: each one sent has one of its own."""
    buffer = viewer._server._websock_server._broadcast_buffer
    return [number for number, message in buffer.message_from_id.items() if "PointCloud" in type(message).__name__]


def test_distances_colours_and_other_scenes(chromium: Browser, viewer: Viewer) -> None:
    chromium.open(viewer.address)
    chromium.until(lambda: chromium.count(RED) > 300 and chromium.count(BLUE) > 300, "the walls")

    # Between two points of the wall that is looked at from the front, and between two frames.
    chromium.click(chromium.driver.find_element(By.XPATH, "//button[normalize-space()='front']"))
    chromium.click(chromium.box("click two points"))
    chromium.until(lambda: viewer._controls.measure.value, "the mode")
    picture = chromium.picture()
    rows, columns = np.nonzero(np.abs(picture - RED).max(axis=2) < 40)
    canvas = chromium.driver.find_element(By.TAG_NAME, "canvas")
    at = canvas.rect
    for pick in (np.argmin(columns), np.argmax(columns)):
        x, y = columns[pick] - at["x"] - at["width"] / 2, rows[pick] - at["y"] - at["height"] / 2
        ActionChains(chromium.driver).move_to_element_with_offset(canvas, int(x), int(y)).click().perform()
    chromium.until(lambda: bool(viewer._measured), "a line between two points")
    length = float(np.linalg.norm(viewer._clicked[1] - viewer._clicked[0]))
    assert 3 < length < 5  # the wall's width is 4
    chromium.until(lambda: f"{length:.4g} units of the model" in chromium.text(), "the line's length")
    chromium.click(chromium.driver.find_element(By.XPATH, "//button[normalize-space()='between these frames']"))
    chromium.until(lambda: "along the path" in chromium.text(), "a distance")

    choose(chromium, "colour", "method")
    chromium.until(lambda: chromium.count(BLUE) == 0 and chromium.count((31, 119, 180)) > 300, "colours of methods")
    choose(chromium, "scene", "b")
    chromium.until(lambda: chromium.box("blue</b>") is None, "the other scene")
    check_quiet(chromium)


def growing(more: threading.Event) -> Iterator[tuple[Frame, Prediction]]:
    """Five walls beside each other, red, in part less sure, under a blue sky; ``more`` lets go on after two."""
    height, width = 150, 200
    matrix = np.array([[100.0, 0, 100], [0, 100.0, 75], [0, 0, 1]])
    image = np.full((height, width, 3), RED, np.uint8)
    depth, sure = np.full((height, width), 4, np.float32), np.full((height, width), 5, np.float32)
    image[:, ::4], sure[:, ::4] = YELLOW, 1  # of a pixel's width: among so many confident points
    image[:2], depth[:2] = BLUE, 6
    for index in range(5):
        if index == 2:
            more.wait(60)
        pose = np.eye(4)
        pose[0, 3] = 8 * index
        yield Frame(index, index / 10, image, ""), Prediction(index, index / 10, pose, depth, sure, matrix)


@contextmanager
def points_of(address: str) -> Iterator[list[str]]:
    """Names of the nodes of points that the server sends, each time it does."""
    names: list[str] = []
    protocol: Any = f"viser-v{viser.__version__}"
    with connect(address.replace("http", "ws"), subprotocols=[protocol], max_size=None) as socket:

        def read() -> None:
            for found in socket:
                size = int.from_bytes(found[8:16], "little")
                inner = zstandard.ZstdDecompressor().decompress(
                    found[16 : 16 + size], max_output_size=int.from_bytes(found[:8], "little")
                )
                said = msgspec.msgpack.decode(inner)["messages"]
                names.extend(each["name"] for each in said if each["type"] == "PointCloudMessage")

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        yield names
    reader.join(20)


def test_a_stream_grows_on_the_page_and_the_controls_act_meanwhile(chromium: Browser) -> None:
    more = threading.Event()
    viewer = LiveViewer(LiveScene("a walk", "m", length=5), growing(more), port=0)
    try:
        with points_of(viewer.address) as sent:
            chromium.open(viewer.address)
            chromium.until(lambda: "live: 2 of 5 frames" in chromium.text(), "the first frames")
            chromium.until(lambda: chromium.count(RED) > 300, "the first walls")
            before = shown(chromium)
            chromium.click(chromium.box("pictures"))
            choose(chromium, "confidence", "all")
            chromium.until(lambda: shown(chromium)[0] > 1.2 * before[0], "points of little confidence")
            assert shown(chromium)[1] == before[1]
            more.set()
            chromium.until(lambda: "5 frames, complete" in chromium.text(), "the last frame")
            chromium.until(lambda: shown(chromium)[1] > 2.4 * before[1], "all points")
            assert "frame 4 of 4" in chromium.text()
            assert len(sent) == len(set(sent)) > 0
            complete = list(sent)

            # A browser that came at the beginning sees all of it from where it likes.
            chromium.click(chromium.driver.find_element(By.XPATH, "//button[normalize-space()='overview']"))
            chromium.until(lambda: chromium.count(BLUE) > 20, "the sky")
            chromium.click(chromium.box("sky"))
            chromium.until(lambda: chromium.count(BLUE) == 0, "no sky")
            every, red = shown(chromium), chromium.count(RED)
            choose(chromium, "points at most", "100,000")
            chromium.until(lambda: shown(chromium)[0] <= 100_000 < every[0], "fewer points")
            field = chromium.driver.find_element(By.XPATH, "//label[.='frame']/following::input[@type='text'][1]")
            chromium.enter(field, "1")
            chromium.until(lambda: "frame 1 of 4" in chromium.text(), "the first two")
            chromium.until(lambda: 0 < chromium.count(RED) < 0.8 * red, "two of the walls")
            assert sent == complete
            check_quiet(chromium)
    finally:
        more.set()
        viewer.stop()


def shown(chromium: Browser) -> tuple[int, int]:
    """Points that are seen, and that are there, in the page's own words."""
    found = re.search(r"([0-9,]+) of ([0-9,]+) points", chromium.text())
    return (0, 0) if found is None else (int(found[1].replace(",", "")), int(found[2].replace(",", "")))


def choose(chromium: Browser, label: str, text: str) -> None:
    """One of the choices of a widget."""
    choice = chromium.box(label)
    chromium.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", choice)
    choice.click()
    chromium.until(lambda: bool(options(chromium, text)), "the choices")
    chromium.click(options(chromium, text)[0])


def test_an_html_page_opens_from_a_file_and_plays(chromium: Browser, tmp_path: Path) -> None:
    page = tmp_path / "a page.html"
    write_page(page, two())
    chromium.open(page.as_uri())
    chromium.until(lambda: "two walls · red, blue</b> · colour: picture" in chromium.text(), "the caption")
    field = chromium.driver.find_element(By.XPATH, "(//input[@type='text'])[1]")
    chromium.until(lambda: float(field.get_attribute("value") or 0) > 0, "playing")
    chromium.enter(field, "4")
    chromium.until(lambda: chromium.count(RED) > 300 and chromium.count(BLUE) > 300, "both walls at the end")
    whole = chromium.count(RED)
    chromium.enter(field, "0.3")
    chromium.until(lambda: 0 < chromium.count(RED) < 0.5 * whole, "a part of the wall at the beginning")
    assert chromium.count(YELLOW) == 0
    check_quiet(chromium)
