"""The controls of the viewer's page: widgets, what they ask for together, words, pictures and the plot beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from lingbot_eval.types import Image
from lingbot_eval.viewing.kept import shrunk
from lingbot_eval.viewing.layers import COLOURINGS, METHOD_COLOURS, RANGES, SURENESS, Colouring
from lingbot_eval.viewing.page_nodes import NOW_COLOUR, Look, Nodes

if TYPE_CHECKING:
    import viser

_PLOT_POINTS = 300
IMAGE_PIXELS = 240  # height
_NO_DOTS: Any = {"show": False}


class Controls:
    """The panel: widgets, what they say together, and the words and pictures beside them."""

    def __init__(
        self,
        server: viser.ViserServer,
        title: str,
        scenes: tuple[str, ...],
        colouring: Colouring,
        budgets: tuple[int, ...],
        changed: Callable[[], None],
    ) -> None:
        gui = self._gui = server.gui
        self._changed = changed
        gui.configure_theme(show_logo=False, show_share_button=False, control_width="medium")
        gui.set_panel_label(title)
        self.scene = gui.add_dropdown("scene", scenes, initial_value=scenes[0], visible=len(scenes) > 1)
        self._problem = gui.add_markdown("", visible=False)
        self._words = gui.add_markdown("")
        self.frame = gui.add_slider("frame", 0, 1, 1, 1)
        self.play = gui.add_checkbox("play", False)
        # On a narrow screen the time stays below the scene, and this is folded away until somebody asks for it.
        panel = gui.add_panel()
        panel.dock_right()
        gui.main_panel.float(x=15, y=-15, width=320)
        with panel.add_tab("show"):
            self.image = gui.add_image(np.zeros((2, 2, 3), np.uint8), label="picture", visible=False)
            self.depth = gui.add_image(np.zeros((2, 2, 3), np.uint8), label="depth: red near, blue far", visible=False)
            self._plot: viser.GuiUplotHandle | None = None
            self._plot_folder = gui.add_folder("distance from the truth, cm", visible=False)
            self.worst = gui.add_button("go to the worst frame", visible=False)
            self._methods = gui.add_folder("methods")
            self._shown: dict[str, Any] = {}
            with gui.add_folder("points"):
                self.colouring = gui.add_dropdown("colour", COLOURINGS, initial_value=colouring)
                self._legend = gui.add_markdown("")
                self.size = gui.add_slider("size", 0.25, 6.0, 0.25, 1.5, hint="in voxels")
                shown = [f"{each:,}" for each in budgets]
                self.budget = gui.add_dropdown(
                    "points at most",
                    shown,
                    initial_value=shown[-1],
                    hint="that are drawn; fewer are larger, and those near by come first",
                )
                self.sureness = gui.add_dropdown(
                    "confidence",
                    [_percent(share) for share in SURENESS],
                    initial_value=_percent(SURENESS[2]),
                    hint="share of points that is hidden: those of least confidence in the whole run",
                )
                ends = [*RANGES, 1.0]
                self.ranges = gui.add_multi_slider(
                    "depth",
                    0,
                    len(RANGES),
                    1,
                    (0, len(RANGES)),
                    min_range=1,
                    marks=tuple((place, f"{100 * share:.0f}") for place, share in enumerate(ends)),
                    hint="per cent of points by distance from the camera that saw them first",
                )
                self.sky = gui.add_checkbox("sky", True, visible=False, hint="what was taken for sky")
            with gui.add_folder("time"):
                self.speed = gui.add_slider("frames a second", 1.0, 60.0, 1.0, 20.0)
                self.history = gui.add_slider("history", 0, 200, 5, 0, hint="frames that are shown; 0 shows all")
                self.follow = gui.add_checkbox("follow the camera", False)
            with gui.add_folder("cameras"):
                self.trail = gui.add_checkbox("path", True)
                self.frusta = gui.add_checkbox("pictures", True)
                self.frustum = gui.add_slider(
                    "camera size", 0.005, 0.15, 0.005, 0.03, hint="share of the scene's extent"
                )
            with gui.add_folder("view"):
                self.views = gui.add_button_group(
                    "from", ("overview", "front", "back", "top", "left", "right", "first camera")
                )
                self.up = gui.add_button("reset up")
            with gui.add_folder("measure"):
                self.measure = gui.add_checkbox("click two points", False)
                self.frames = gui.add_vector2("frames", (0.0, 1.0), step=1.0)
                self.between = gui.add_button("between these frames")
                self._measured = gui.add_markdown("", visible=False)
        for handle in (
            *(self.frame, self.play, self.colouring, self.size, self.sureness, self.ranges, self.speed, self.history),
            *(self.follow, self.trail, self.frusta, self.frustum, self.budget, self.sky),
        ):
            # A frame that the viewer itself set is drawn already.
            handle.on_update(lambda event: changed() if event.client is not None else None)

    def choose(self, labels: list[str], truth: bool, last: int, sky: bool) -> None:
        """Widgets for the layers of a scene, at its last frame. sky: whether it is shown at first."""
        set_value(self.sky, sky)
        for handle in self._shown.values():
            handle.remove()
        self._shown = {}
        with self._methods:
            for label in [*labels, *([""] if truth else [])]:
                box = self._shown[label] = self._gui.add_checkbox(label or "ground truth", True)
                box.on_update(lambda _: self._changed())
        set_value(self.frame, 0)
        self.frame.max = last
        set_value(self.frame, last)
        set_value(self.frames, (0.0, float(last)))
        if self._plot is not None:
            self._plot.remove()
            self._plot = None

    def look(self, labels: list[str]) -> Look:
        """What the widgets ask for."""
        return Look(
            now=int(self.frame.value),
            history=int(self.history.value),
            colouring=self.colouring.value,
            sureness=[_percent(share) for share in SURENESS].index(self.sureness.value),
            ranges=(int(self.ranges.value[0]), int(self.ranges.value[1]) - 1),
            sky=self.sky.value,
            budget=int(self.budget.value.replace(",", "")),
            size=float(self.size.value),
            frustum=float(self.frustum.value),
            trail=self.trail.value,
            frusta=self.frusta.value,
            hidden=frozenset(label for label, box in self._shown.items() if not box.value),
        )

    def say(self, look: Look, last: int, lines: list[str], nodes: Nodes, legend: str) -> None:
        """Words of the current frame."""
        text = f"**frame {look.now} of {last}** · {nodes.shown:,} of {nodes.points:,} points"
        self.sky.visible = nodes.has_sky
        self._words.content = "\n\n".join([text, *lines])
        self._legend.content = legend

    def problem(self, text: str | None) -> None:
        """One line of what went wrong; None clears it."""
        self._problem.visible = text is not None
        self._problem.content = f"**{plain(text or '')}**"

    def measured(self, text: str | None) -> None:
        """The distance that was measured last."""
        self._measured.visible = text is not None
        self._measured.content = f"**{text}**"

    def picture(self, handle: viser.GuiImageHandle, image: Image | None) -> None:
        """A picture of the current frame, or none."""
        handle.visible = image is not None
        if image is not None:
            handle.image = shrunk(image, IMAGE_PIXELS)

    def plot(self, placed: Any, now: int) -> None:
        """Error along the frames, and where the current one is."""
        known = [p for p in placed if np.isfinite(p.error).any()]
        self._plot_folder.visible = self.worst.visible = bool(known)
        if not known:
            return
        every = np.unique(np.concatenate([p.index for p in known]))
        frames = every[:: max(1, len(every) // _PLOT_POINTS)]
        curves = [100 * np.interp(frames, p.index, p.error) for p in known]
        top = max(float(np.nanmax(curve)) for curve in curves)
        # A peak from 0 to the top at the current frame is the mark of the time.
        x = np.concatenate([frames, [now - 1e-3, now, now + 1e-3]]).astype(np.float64)
        order = np.argsort(x, kind="stable")
        mark = np.concatenate([np.zeros(len(frames) + 1), [top], [0.0]])[order]
        data = (x[order], mark, *(np.interp(x[order], frames, curve) for curve in curves))
        if self._plot is not None:
            self._plot.data = data
            return
        from viser import uplot

        with self._plot_folder:
            self._plot = self._gui.add_uplot(
                data,
                (
                    uplot.Series(label="frame"),
                    uplot.Series(label="now", stroke=_hex(NOW_COLOUR), width=1, points=_NO_DOTS),
                    *(
                        uplot.Series(
                            label=p.layer.label[:20],
                            stroke=_hex(METHOD_COLOURS[number % len(METHOD_COLOURS)]),
                            width=2,
                            points=_NO_DOTS,
                        )
                        for number, p in enumerate(known)
                    ),
                ),
                scales={"x": uplot.Scale(time=False)},
                legend=uplot.Legend(show=False),
                height=110,
            )


def set_value(handle: Any, value: Any) -> None:
    """Give a widget a value: viser's types say that it cannot be given."""
    handle.value = value


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _percent(share: float) -> str:
    return "all" if not share else f"hide the least sure {100 * share:.0f} %"


def plain(text: str) -> str:
    """Text from anywhere inside Markdown that may hold HTML: shown as it is."""
    return "".join(c if c.isalnum() or c in " .,:;-/()%" else f"&#{ord(c)};" for c in text)
