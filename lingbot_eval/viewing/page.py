"""The interactive viewer: a server on this machine alone, the controls of its page, and the same as one HTML file."""

from __future__ import annotations

import html
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from lingbot_eval.errors import DependencyError, LingbotEvalError
from lingbot_eval.files.atomic import write_text
from lingbot_eval.types import FloatArray, Image
from lingbot_eval.viewing.cloud import MAX_VOXELS
from lingbot_eval.viewing.layers import (
    SURENESS,
    Colouring,
    Layer,
    LayeredScene,
    Placed,
    Surroundings,
    coarser,
    depth_picture,
    worst_of,
)
from lingbot_eval.viewing.page_controls import IMAGE_PIXELS, Controls, plain, set_value
from lingbot_eval.viewing.page_nodes import Look, Nodes

if TYPE_CHECKING:
    import viser

HOST = "127.0.0.1"
PORT = 8080

_TICK_S = 0.5  # between two looks at a scene that grows, or at where it is looked at from
_RESTS = 20, 2  # of a scene that grows: at least so many times the CPU time and the time that its last drawing took
_BUDGETS = (100_000, 300_000, 1_000_000)  # points of a layer that are offered
_PAGE_SECONDS = 20.0  # an HTML page plays a scene in so long, where it has enough frames
_PAGE_FPS = 20.0

OpenScene = Callable[[], LayeredScene]


class Viewer:
    """A page that shows scenes; made by `lingbot_eval.view`.

    Everything that is drawn is drawn by one thread, so that whoever fills a layer never waits for a browser: it takes
    the layer's lock for as long as a copy of new points takes.

    Attributes:
        address: of the page.
        moved: the port that was asked for, where another program has it.
        filling: None: nothing is streamed in this process (see `lingbot_eval.viewing.live.LiveViewer`).
    """

    filling = None

    def __init__(
        self,
        title: str,
        scenes: Mapping[str, OpenScene],
        *,
        port: int = PORT,
        colouring: Colouring = "picture",
        points: int = MAX_VOXELS,
    ) -> None:
        """Start the server and show the first scene.

        Args:
            title: of the page.
            scenes: by name; each is opened when it is chosen.
            port: to listen at; the next free one where another program has it.
            colouring: of points, to begin with.
            points: of each layer at most; a cloud of more is shown with larger voxels.

        Raises:
            DependencyError: viser is not installed (extra ``view``).
            StoreError, DataError: the first scene cannot be opened.
        """
        self._scenes = scenes
        self._points = points
        first = next(iter(scenes))
        scene = scenes[first]()
        self._server = _serve(port, title)
        found = self._server.get_port()
        self.address = f"http://{HOST}:{found}"
        self.moved = port if found != port and port else None
        self._wake = threading.Event()
        self._asked: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._ended = threading.Event()
        self._fault: BaseException | None = None
        self._clicked: list[FloatArray] = []
        self._measured: list[Any] = []
        self._shown_picture: tuple[str, int] | None = None
        self._seen_before = 0  # points of the scene
        self._played = time.monotonic()
        self._rest = _TICK_S
        budgets = tuple(sorted({points, *(each for each in _BUDGETS if each < points)}))
        self._controls = Controls(self._server, title, tuple(scenes), colouring, budgets, self._changed)
        self._buttons()
        self._show(scene)
        self._step()
        self._thread = threading.Thread(target=self._work, name="viewer", daemon=True)
        self._thread.start()
        self._server.on_client_connect(lambda _: self._changed())

    def stop(self) -> None:
        """End the server; the page stays in the browser as it is."""
        self._ended.set()
        self._wake.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(10)
        with _quiet():
            self._server.stop()

    def wait(self, seconds: float | None = None) -> bool:
        """Until `stop`, or so many seconds. Returns whether it ended. Raises what ended the page's thread."""
        ended = self._ended.wait(seconds)
        if self._fault is not None:
            raise self._fault
        return ended

    @property
    def clients(self) -> int:
        """Browsers that look at it now."""
        return len(self._server.get_clients())

    def _changed(self) -> None:
        self._wake.set()

    def _ask(self, what: Callable[[], None]) -> None:
        """Have the page's thread do something."""
        self._asked.put(what)
        self._wake.set()

    def _work(self) -> None:
        try:
            while not self._ended.is_set():
                self._wake.wait(self._pause())
                self._look()
        except Exception as error:  # noqa: BLE001  # of a thread: `wait` raises it where it can be told
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """End it: `wait` raises this."""
        self._fault = error
        self._ended.set()

    def _pause(self) -> float | None:
        if self._controls.play.value:
            return 1 / self._controls.speed.value
        if self._whole:
            return _TICK_S if self.clients else None
        return self._rest

    def _look(self) -> None:
        """Draw what somebody asked for, and what has grown. While nobody looks nothing is drawn; who comes later wakes
        the thread."""
        asked = self._wake.is_set() or self._controls.play.value
        self._wake.clear()
        if not self.clients:
            return
        if asked or not self._whole:
            began = time.thread_time(), time.monotonic()
            self._step()
            # Where cores are few the time is longer than the CPU time: points come in between two drawings.
            cost = time.thread_time() - began[0], time.monotonic() - began[1]
            self._rest = max(_TICK_S, *(times * took for times, took in zip(_RESTS, cost, strict=True)))
        elif self._nodes.eyes != self._eyes():
            # Somebody looks from elsewhere: there are many such moves a second, and a tick sees to all of them.
            with self._server.atomic():
                self._nodes.look_from(self._eyes())

    def _step(self) -> None:
        """Bring the page up to its controls, and to what has grown."""
        while not self._asked.empty():
            self._asked.get()()
        # Before it is looked at: the last look at a scene that grew must see all of it.
        self._whole = self._nodes.scene.complete
        controls = self._controls
        now = time.monotonic()
        newest = self._last_frame()
        if newest > controls.frame.max:
            at_the_end = controls.frame.value >= controls.frame.max
            controls.frame.max = newest
            if at_the_end:
                set_value(controls.frame, newest)
        elif controls.play.value and now - self._played >= 0.9 / controls.speed.value:
            set_value(controls.frame, controls.frame.value + 1 if controls.frame.value < newest else 0)
            self._played = now
        look = controls.look(self._labels)
        with self._server.atomic():
            self._nodes.draw(look, eyes=self._eyes())
            self._describe(look)
        if self._nodes.surroundings is not self._surveyed:
            # Whoever looked at a scene before there was anything of it gets a view of it, later nobody is moved.
            first = self._seen_before == 0 and self._nodes.points > 0
            self._look_around()
            if first:
                for client in self._server.get_clients().values():
                    self._fly("overview", client)
        self._seen_before = self._nodes.points
        if controls.follow.value:
            self._follow(look.now)

    def _show(self, scene: LayeredScene) -> None:
        for layer in scene.layers:
            if not scene.live:
                layer.cloud = coarser(layer.cloud, self._points)
        self._nodes = Nodes(self._server.scene, scene)
        self._whole = False
        self._labels = [layer.label for layer in scene.layers]
        self._shown_picture = None
        self._seen_before = 0
        self._clear_measure()
        last = self._last_frame()
        # Where a run or a network left the sky out somebody asked for that.
        self._controls.choose(self._labels, scene.truth is not None, max(last, 1), sky=scene.shows_sky)
        with self._server.atomic():
            self._nodes.draw(self._controls.look(self._labels), eyes=self._eyes())
        self._look_around()

    def _eyes(self) -> list[tuple[float, ...]]:
        """Where everybody who looks is."""
        return [tuple(client.camera.position) for client in self._server.get_clients().values()]

    def _look_around(self) -> None:
        """Begin with an overview of what is there."""
        self._surveyed = self._nodes.surroundings
        self._server.scene.set_up_direction(self._surveyed.up)
        _begin_with(self._server, self._surveyed)

    def _last_frame(self) -> int:
        """The last frame of any layer, or of the points of one without poses."""
        last = 0
        for layer in self._nodes.scene.layers:
            if len(layer.index):
                last = max(last, layer.index[-1])
            if len(layer.cloud):
                last = max(last, int(layer.cloud.first_frame[-1]))
        return last

    def _describe(self, look: Look) -> None:
        """Words, pictures and plot of the current frame."""
        nodes, controls = self._nodes, self._controls
        lines = []
        for placed in nodes.placed:
            at = int(np.searchsorted(placed.index, look.now, side="right")) - 1
            error = placed.error[at] if at >= 0 else math.nan
            if math.isfinite(error):
                lines.append(f"{plain(placed.layer.label)}: {100 * error:.1f} cm from the truth")
            for note in (
                placed.layer.status,
                *placed.layer.notes,
                *([f"not aligned: {placed.why}"] if placed.why else []),
            ):
                if note:
                    lines.append(f"{plain(placed.layer.label)}: {plain(note)}")
        controls.say(look, self._last_frame(), lines, nodes, _legend(look.colouring, nodes.placed))
        controls.plot(nodes.placed, look.now)
        self._show_picture(look.now)

    def _show_picture(self, now: int) -> None:
        layer = self._chosen()
        if layer is None:
            return
        image, depth, index = _pictures(layer, now)
        if self._shown_picture == (layer.label, index):
            return
        self._shown_picture = (layer.label, index)
        self._controls.picture(self._controls.image, image)
        # What is not shown needs no colours.
        step = 1 if depth is None else max(1, depth.shape[0] // IMAGE_PIXELS)
        self._controls.picture(self._controls.depth, None if depth is None else depth_picture(depth[::step, ::step]))

    def _chosen(self) -> Layer | None:
        """The layer that picture, following and the worst frame are of: the first that is shown."""
        hidden = self._controls.look(self._labels).hidden
        layers = self._nodes.scene.layers
        return next((layer for layer in layers if layer.label not in hidden), layers[0] if layers else None)

    def _buttons(self) -> None:
        controls = self._controls
        controls.scene.on_update(lambda _: self._ask(self._change_scene))
        controls.worst.on_click(lambda _: self._ask(self._to_the_worst))
        controls.up.on_click(lambda _: self._ask(self._reset_up))
        controls.views.on_click(lambda event: self._ask(lambda: self._fly(controls.views.value, event.client)))
        controls.measure.on_update(lambda _: self._ask(self._measure_changed))
        controls.between.on_click(lambda _: self._ask(self._measure_frames))

    def _change_scene(self) -> None:
        try:
            scene = self._scenes[self._controls.scene.value]()
        except LingbotEvalError as error:
            self._controls.problem(str(error))
            return
        self._controls.problem(None)
        self._nodes.remove()
        self._show(scene)
        for client in self._server.get_clients().values():
            self._fly("overview", client)

    def _to_the_worst(self) -> None:
        chosen = self._chosen()
        for placed in self._nodes.placed:
            if placed.layer is chosen and np.isfinite(placed.error).any():
                set_value(self._controls.frame, int(placed.index[int(np.nanargmax(placed.error))]))

    def _reset_up(self) -> None:
        up = self._nodes.surroundings.up
        self._server.scene.set_up_direction(up)
        for client in self._server.get_clients().values():
            client.camera.up_direction = up

    def _fly(self, name: str, client: viser.ClientHandle | None) -> None:
        if client is None:
            return
        around = self._nodes.surroundings
        first = next((p for p in self._nodes.placed if len(p.positions) and p.layer.oriented), None)
        with client.atomic():
            client.camera.up_direction = around.up
            if name == "first camera" and first is not None:
                ahead = first.rotations[0][:, 2]
                client.camera.position = first.positions[0] - 0.1 * around.extent * ahead
                client.camera.look_at = first.positions[0] + 0.5 * around.extent * ahead
            else:
                client.camera.position = _view_from(around, name)
                client.camera.look_at = around.centre

    def _follow(self, now: int) -> None:
        """Behind the current camera, a little above, its path smoothed over five frames."""
        chosen = self._chosen()
        placed = next((p for p in self._nodes.placed if p.layer is chosen), None)
        if placed is None or not len(placed.index):
            return
        around = self._nodes.surroundings
        at = max(0, int(np.searchsorted(placed.index, now, side="right")) - 1)
        near = slice(max(0, at - 2), at + 3)
        position, ahead = placed.positions[near].mean(axis=0), placed.rotations[near][:, :, 2].mean(axis=0)
        if not placed.layer.oriented:
            ahead = around.forward
        eye = position - 0.15 * around.extent * ahead + 0.05 * around.extent * around.up
        for client in self._server.get_clients().values():
            with client.atomic():
                client.camera.up_direction = around.up
                client.camera.position = eye
                client.camera.look_at = position + 0.2 * around.extent * ahead

    def _measure_changed(self) -> None:
        self._clear_measure()
        api = self._server.scene
        if not self._controls.measure.value:
            api.remove_click_callback()
            return

        @api.on_click()
        def _(event: viser.SceneClickEvent) -> None:
            ray = np.array(event.ray_origin), np.array(event.ray_direction)
            self._ask(lambda: self._measure_point(*ray))

    def _measure_point(self, origin: FloatArray, direction: FloatArray) -> None:
        point = self._nodes.nearest(origin, direction / np.linalg.norm(direction))
        if point is None:
            return
        if len(self._clicked) == 2:
            self._clear_measure()
        self._clicked.append(point)
        if len(self._clicked) == 2:
            self._draw_measure(self._clicked[0], self._clicked[1], "")

    def _measure_frames(self) -> None:
        chosen = self._chosen()
        placed = next((p for p in self._nodes.placed if p.layer is chosen), None)
        if placed is None or not len(placed.index):
            return
        frames = sorted(int(value) for value in self._controls.frames.value)
        ends = np.searchsorted(placed.index, frames).clip(max=len(placed.index) - 1)
        path = placed.positions[ends[0] : ends[1] + 1]
        along = float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
        self._clear_measure()
        self._draw_measure(path[0], path[-1], f", {along:.4g} along the path")

    def _draw_measure(self, a: FloatArray, b: FloatArray, more: str) -> None:
        text = f"{np.linalg.norm(b - a):.4g} {self._nodes.scene.unit}{more}"
        api = self._server.scene
        line = api.add_line_segments(
            "/measure", np.stack([a, b])[None], (230, 30, 30), thickness=3, thickness_units="screen"
        )
        self._measured = [line, api.add_label("/measure/label", text, position=(a + b) / 2)]
        self._controls.measured(text)

    def _clear_measure(self) -> None:
        for handle in self._measured[:1]:
            handle.remove()
        self._measured, self._clicked = [], []
        self._controls.measured(None)


def write_page(path: Path, scene: LayeredScene, *, colouring: Colouring = "picture", points: int = MAX_VOXELS) -> None:
    """Write one HTML file that shows a scene, with its timeline, and asks nothing of any network.

    Args:
        path: of the file, written whole or not at all.
        scene: whole.
        colouring: of points.
        points: of each layer at most.

    Raises:
        DependencyError: viser is not installed (extra ``view``).
        StoreError: the disk refuses.
    """
    for layer in scene.layers:
        layer.cloud = coarser(layer.cloud, points)
    server = _serve(0, scene.title)
    try:
        server.gui.configure_theme(show_logo=False, show_share_button=False)
        nodes = Nodes(server.scene, scene)
        frames = sorted({index for layer in scene.layers for index in layer.index} | _seen(scene)) or [0]
        look = Look(frames[0], colouring=colouring, size=1.5, sky=scene.shows_sky)
        with server.atomic():
            nodes.draw(look)
        server.scene.set_up_direction(nodes.surroundings.up)
        _begin_with(server, nodes.surroundings)
        recording = server.get_scene_serializer()
        # A long scene is shown by every k-th frame, a short one slowly.
        step = max(1, math.ceil(len(frames) / (_PAGE_SECONDS * _PAGE_FPS)))
        pause = max(1 / _PAGE_FPS, min(0.25, 5 / len(frames)))
        with server.atomic():  # nobody is told of each change: there is nobody
            for now in [*frames[1::step], frames[-1]]:
                recording.insert_sleep(pause)
                nodes.draw(replace(look, now=now))
        recording.insert_sleep(2.0)  # the end stays before it begins again
        page = recording.as_html()
    finally:
        with _quiet():
            server.stop()
    write_text(path, _captioned(page, scene, colouring, _legend(colouring, nodes.placed)))


def _seen(scene: LayeredScene) -> set[int]:
    return {int(frame) for layer in scene.layers for frame in np.unique(layer.cloud.first_frame)}


def _legend(colouring: Colouring, placed: Sequence[Placed]) -> str:
    """What the colours of points mean."""
    if colouring == "error" and not any(np.isfinite(each.error).any() for each in placed):
        return "grey: no distance from the truth is known"
    return {
        "picture": "colours of the pictures",
        "error": f"blue 0 to red {100 * worst_of(placed):.1f} cm: distance from the truth, after"
        " Sim(3), of the frame that saw a point first",
        "confidence": "blue least to yellow most sure, by rank in the run",
        "height": "blue low to red high",
        "frame": "violet first to yellow last frame that brought a point",
        "method": "a colour for each method",
    }[colouring]


def _captioned(page: str, scene: LayeredScene, colouring: Colouring, legend: str) -> str:
    """The page with its own title and a line that says what is seen."""
    names = ", ".join(layer.label for layer in scene.layers)
    hidden = f"the {100 * SURENESS[2]:.0f} % of points with the least confidence in the run are hidden (scene tree)"
    text = html.escape(f"{scene.title} · {names} · colour: {colouring} · {scene.unit} · {hidden} · {legend}")
    style = (
        "position:fixed;left:8px;bottom:52px;z-index:9;max-width:min(34em,80vw);padding:4px 8px;font:12px sans-serif;"
        "color:#333;background:rgba(255,255,255,.8);border-radius:4px;pointer-events:none"
    )
    page = page.replace("<title>Viser</title>", f"<title>{html.escape(scene.title)}</title>", 1)
    return page.replace("</body>", f'<div id="caption" style="{style}">{text}</div></body>', 1)


def _pictures(layer: Layer, now: int) -> tuple[Image | None, Any, int]:
    """Picture and depth of a frame, or the nearest before it, and its index."""
    newest = layer.newest
    if newest is not None and now >= newest.index:
        return newest.image, newest.depth, newest.index
    before = [index for index in layer.pictures if index <= now]
    depth = None
    kept = layer.reconstruction
    index = max(before) if before else -1
    if kept is not None:
        depths = [each for each in kept.depth_indices() if each <= now]
        if depths:
            depth = kept.depth_frame(depths[-1]).depth
            index = max(index, depths[-1])
    return (layer.pictures[max(before)] if before else None), depth, index


def _begin_with(server: viser.ViserServer, around: Surroundings) -> None:
    """What a browser sees that comes now."""
    initial = server.initial_camera
    initial.position, initial.look_at = tuple(_view_from(around, "overview")), tuple(around.centre)
    initial.up = tuple(around.up)
    initial.near, initial.far = around.extent / 500, around.extent * 50


def _view_from(around: Surroundings, name: str) -> FloatArray:
    """(3,) where to look at the centre from."""
    up, ahead, right = around.up, around.forward, around.right
    # Straight down has no level direction: a little aside of it.
    direction = {
        "front": -ahead,
        "back": ahead,
        "left": -right,
        "right": right,
        "top": up - 1e-3 * ahead,
    }.get(name, -0.6 * ahead + 0.5 * right + 0.6 * up)
    return np.asarray(around.centre + 0.75 * around.extent * direction / np.linalg.norm(direction))


def need_viser() -> None:
    """Raises DependencyError without the extra ``view``."""
    if find_spec("viser") is None:
        raise DependencyError(
            "the viewer needs viser: pip install 'lingbot-eval[view]' (films and exports need it not)"
        )


def _serve(port: int, title: str) -> viser.ViserServer:
    """A server for this machine, and for its own page alone. Raises DependencyError without viser."""
    need_viser()
    import viser
    import websockets.asyncio.server as websockets

    class Server(viser.ViserServer):
        """Without the way to the outside that any page could ask for."""

        def request_share_url(self, verbose: bool = True) -> None:
            """Refuse."""

    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    guarded, serve = False, websockets.serve

    def serve_guarded(*given: Any, process_request: Callable[..., Any], **options: Any) -> Any:
        nonlocal guarded
        guarded = True

        def checked(connection: Any, request: Any) -> Any:
            if not _is_own(request.headers.get_all("Host"), request.headers.get_all("Origin")):
                return connection.respond(403, "this page is for browsers at 127.0.0.1 or localhost\n")
            return process_request(connection, request)

        return serve(*given, process_request=checked, **options)

    # viser lets nobody look at a handshake: it is given another function while it starts.
    websockets.serve = serve_guarded  # type: ignore[misc,assignment]
    try:
        with _quiet():
            server = Server(host=HOST, port=port, label=title, verbose=False)
    finally:
        websockets.serve = serve  # type: ignore[misc]
    if not guarded:
        server.stop()
        raise DependencyError(f"viser {viser.__version__} does not let requests be checked; install viser 1.1")
    return server


def _is_own(hosts: list[str], origins: list[str]) -> bool:
    """Whether a request is by this server's own page, or by a program that is no browser (and gives no origin): a page
    from elsewhere has an origin of its own, and one whose name was turned to this machine has that name as host. The
    port may be any: that of a tunnel."""
    if len(hosts) != 1 or urlsplit(f"//{hosts[0]}").hostname not in ("127.0.0.1", "localhost"):
        return False
    return not origins or origins == [f"http://{hosts[0]}"]


@contextmanager
def _quiet() -> Iterator[None]:
    """viser greets and says goodbye on standard output, whatever it is told."""
    import rich

    console = rich.get_console()
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before
