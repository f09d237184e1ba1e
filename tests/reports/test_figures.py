"""What lies under which label: every curve of a unit's figures is asked for by the words that a reader sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps

from lingbot_eval.files.trajectories import write_tum
from lingbot_eval.geometry.alignment import Sim3
from lingbot_eval.plots import save
from lingbot_eval.reports.figures import cost_figure, depth_figure, drift_figure, error_figure
from lingbot_eval.reports.reading import KeptScene, Paths, UnitData, _paths, _positions
from lingbot_eval.reports.scene_figures import cloud_figure, together_figure, trajectory_figure
from lingbot_eval.stored.records import FRAME_COLUMNS
from lingbot_eval.stored.unit_files import DepthPanels
from lingbot_eval.types import CACHE_KINDS, DriftSeries, Trajectory
from lingbot_eval.viewing.film import ShownVoxels
from tests.support.figure_reader import axes_titled, curve, curves, layers, pictures, ticks

pytestmark = pytest.mark.usefixtures("painted_pictures")

MIB = 2**20
FRAMES = np.arange(2.0, 14.0, 2.0)  # neither from 0 nor by 1: a number is not its position


def table(**columns: np.ndarray) -> dict[str, np.ndarray]:
    """A frame table of the frames FRAMES: the first two are scale frames."""
    frames = {name: np.full(len(FRAMES), np.nan) for name in FRAME_COLUMNS}
    frames["index"] = FRAMES.astype(np.int64)
    frames["frame_type"] = np.array(["scale", "scale", "kept", "unkept", "kept", "unkept"], object)
    return frames | columns


def values(first: float) -> np.ndarray:
    """A series unlike any other and unlike its own reverse."""
    return first + np.array([0.0, 1.0, 3.0, 4.0, 9.0, 7.0])


def drift() -> DriftSeries:
    """Every series another one; two segments start at frame 4, with means 20 % and 2 deg/m."""
    return DriftSeries(
        frame=FRAMES.astype(np.int64),
        step_error_m=values(0.1),
        local_scale=np.array([0.9, 1.0, 1.1, 1.2, 0.8, 1.3]),
        anchored_error_m=values(0.5),
        prefix_frame=np.array([6, 12]),
        prefix_ate_m=np.array([0.25, 0.75]),
        segment_frame=np.array([4, 4, 8]),
        segment_length_m=np.array([1.0, 2.0, 1.0]),
        segment_translation=np.array([10.0, 30.0, 50.0]),
        segment_rotation=np.array([1.0, 3.0, 7.0]),
        jump_frame=np.array([10], dtype=np.int64),
        collapse_frame=np.array([12], dtype=np.int64),
    )


@pytest.mark.parametrize(
    ("column", "panel", "axis"),
    [
        ("position_error_m", "Distance to the reference after Sim(3) alignment", "position error [m]"),
        ("rotation_error_deg", "Angle to the reference after Sim(3) alignment", "rotation error [deg]"),
        ("depth_abs_rel", "Depth error of each frame alone, scale_only alignment", "abs_rel"),
    ],
)
def test_each_error_is_drawn_in_the_panel_of_its_name(column: str, panel: str, axis: str) -> None:
    series = {"position_error_m": values(1), "rotation_error_deg": values(100), "depth_abs_rel": values(1000)}
    figure = error_figure(table(**series), "t")
    axes = axes_titled(figure, panel)
    assert axes.get_ylabel() == axis
    assert curves(axes) == {"each frame": pytest.approx(np.column_stack([FRAMES, series[column]]))}


def test_costs_are_drawn_under_their_names_in_their_units() -> None:
    caches = {"anchor": 1.0, "window": 10.0, "memory": 100.0, "camera_head": 1000.0}
    figure = cost_figure(
        table(
            forward_ms=values(20),
            interval_ms=values(50),
            process_bytes=values(300) * MIB,
            device_bytes=values(700) * MIB,
            **{f"cache_{kind}_bytes": values(first) * MIB for kind, first in caches.items()},
        ),
        "t",
    )
    times = axes_titled(figure, "Time of each frame")
    assert times.get_ylabel() == "ms"
    assert curve(times, "end to end") == pytest.approx(np.column_stack([FRAMES, values(50)]))
    assert curve(times, "forward on the device") == pytest.approx(np.column_stack([FRAMES, values(20)]))
    (scale,) = [patch for patch in times.patches if patch.get_label() == "scale frames"]
    assert scale.get_extents().transformed(times.transData.inverted()).intervalx == pytest.approx([1.5, 4.5])

    cache = axes_titled(figure, "Key/value cache in use, stacked")
    assert cache.get_ylabel() == "MiB"
    drawn = layers(cache)
    assert list(drawn) == [kind.replace("_", " ") for kind in caches]
    for kind, first in caches.items():
        assert drawn[kind.replace("_", " ")] == pytest.approx(np.column_stack([FRAMES, values(first)]))

    memory = axes_titled(figure, "Memory after each frame")
    assert memory.get_ylabel() == "MiB"
    assert curve(memory, "process (resident)") == pytest.approx(np.column_stack([FRAMES, values(300)]))
    assert curve(memory, "device (allocated)") == pytest.approx(np.column_stack([FRAMES, values(700)]))


def test_axes_hold_what_is_drawn_and_the_last_one_counts_frames() -> None:
    figure = cost_figure(
        table(forward_ms=values(1), process_bytes=values(900) * MIB, device_bytes=values(300) * MIB), "t"
    )
    assert axes_titled(figure, "Memory after each frame").get_ylim() == (0, pytest.approx(1.08 * 909))
    assert [axes.get_xlabel() for axes in (figure.axes if figure else [])] == ["", "frame"]
    errors = {
        "position_error_m": values(1),
        "rotation_error_deg": np.r_[values(1)[:5], np.nan],
        "depth_abs_rel": values(1),
    }
    figure = error_figure(table(**errors), "t")
    assert [axes.get_xlabel() for axes in (figure.axes if figure else [])] == ["", "", "frame"]
    series = drift()
    figure = drift_figure(series, "t")
    for title, top in (
        ("Translation error of each step", 1.08 * 9.1),
        ("Position error after alignment on the first frames alone", None),
        ("Drift of the segments that start here", None),
        ("ATE of growing prefixes, each aligned on itself", None),
    ):
        low, high = axes_titled(figure, title).get_ylim()
        assert low == 0
        assert top is None or high == pytest.approx(top)
    (turns,) = [axes for axes in (figure.axes if figure else []) if axes.get_ylabel() == "rotation [deg/m]"]
    assert turns.get_ylim()[0] == 0


def test_values_above_an_axis_of_errors_have_its_unit() -> None:
    count = 200
    frames = {name: np.full(count, np.nan) for name in FRAME_COLUMNS}
    frames |= {"index": np.arange(count), "frame_type": np.full(count, "kept", object)}
    high = np.where(np.arange(count) < 2, 50.0, 1.0)
    figure = error_figure(frames | dict.fromkeys(("position_error_m", "rotation_error_deg"), high), "t")
    said = [text.get_text() for axes in (figure.axes if figure else []) for text in axes.texts]
    assert said == [f"2 of 200 values above the axis, largest 50 {unit}" for unit in ("m", "deg")]


def test_what_is_missing_of_a_cache_or_a_prefix_is_nothing_of_it() -> None:
    held = values(10) * MIB
    held[1] = np.nan
    figure = cost_figure(table(cache_anchor_bytes=values(1) * MIB, cache_window_bytes=held), "t")
    drawn = layers(axes_titled(figure, "Key/value cache in use, stacked"))
    assert drawn["window"][:, 1] == pytest.approx(np.nan_to_num(held) / MIB)
    # A kind has its colour whichever others are there.
    colours = []
    for kinds in (CACHE_KINDS, CACHE_KINDS[1::2]):
        columns = {f"cache_{kind}_bytes": values(1) * MIB for kind in kinds}
        axes = axes_titled(cost_figure(table(**columns), "t"), "Key/value cache in use, stacked")
        colours.append({each.get_label(): tuple(each.get_facecolor()[0]) for each in axes.collections})
    assert colours[1] == {kind: colours[0][kind] for kind in ("window", "camera head")}
    series = drift()
    series.prefix_ate_m[0] = np.nan
    growth = axes_titled(drift_figure(series, "t"), "ATE of growing prefixes, each aligned on itself")
    assert curve(growth, "prefix up to here") == pytest.approx(np.array([[12, 0.75]]))
    alone = replace(
        series,
        **{name: getattr(series, name)[:1] for name in ("segment_frame", "segment_translation", "segment_rotation")},
        segment_length_m=np.array([1.0]),
    )
    segments = axes_titled(drift_figure(alone, "t"), "Drift of the segments that start here")
    assert curve(segments, "translation, mean of 1…1 m") == pytest.approx(np.array([[4, 10]]))


def test_every_jump_is_marked_and_named_once() -> None:
    series = replace(drift(), jump_frame=np.array([4, 8, 10]))
    figure = drift_figure(series, "t")
    for title, named in (
        ("Translation error of each step", True),
        ("ATE of growing prefixes, each aligned on itself", False),
    ):
        axes = axes_titled(figure, title)
        dotted = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
        assert dotted == [4, 8, 10]
        assert [name for name in curves(axes) if "jump" in name or "collapse" in name] == (
            ["jumps (3)", "collapse (frame 12)"] if named else []
        )


def test_of_what_was_measured_alone_the_axis_is_and_no_scale_frames_where_there_are_none() -> None:
    kept = np.full(len(FRAMES), "kept", object)
    (times,) = cost_figure(table(interval_ms=values(50), frame_type=kept), "t").axes
    assert set(curves(times)) == {"end to end"}
    assert not times.patches
    for column, label in (("device_bytes", "device (allocated)"), ("process_bytes", "process (resident)")):
        (memory,) = cost_figure(table(**{column: values(5) * MIB}), "t").axes
        assert set(curves(memory)) == {label}
        assert memory.get_ylim() == (0, pytest.approx(1.08 * 14))


def test_a_path_without_segments_says_so_and_a_drift_without_frames_is_not_drawn() -> None:
    none = {
        name: getattr(drift(), name)[:0]
        for name in ("segment_frame", "segment_length_m", "segment_translation", "segment_rotation")
    }
    figure = drift_figure(replace(drift(), **none), "t")
    axes = axes_titled(figure, "Drift of the segments that start here")
    assert [text.get_text() for text in axes.texts] == ["the path is shorter than every segment"]
    assert "rotation [deg/m]" not in [each.get_ylabel() for each in figure.axes]
    assert drift_figure(replace(drift(), frame=np.empty(0, np.int64)), "t") is None


def test_errors_of_no_prefix_are_not_side_by_side_with_others() -> None:
    one, other = drift(), drift()
    other.prefix_ate_m[:] = np.nan
    lines = [(name, UnitData(drift=each)) for name, each in (("a", one), ("b", other))]
    assert together_figure(lines, "t") is None
    other.prefix_ate_m[1] = 0.5
    (axes,) = together_figure(lines, "t").axes
    assert set(curves(axes)) == {"a", "b"}


def test_of_very_many_jumps_the_first_are_marked_and_all_are_counted() -> None:
    figure = drift_figure(replace(drift(), jump_frame=np.arange(1000, 1250)), "t")
    axes = axes_titled(figure, "Translation error of each step")
    dotted = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
    assert dotted == list(range(1000, 1200))
    assert [name for name in curves(axes) if "jump" in name] == ["jumps (250)"]


def test_the_axis_of_milliseconds_holds_both_curves() -> None:
    figure = cost_figure(table(forward_ms=values(20), interval_ms=values(50)), "t")
    low, high = axes_titled(figure, "Time of each frame").get_ylim()
    assert low == 0
    assert 59 < high < 70


def test_paths_are_drawn_under_their_names_with_start_and_end() -> None:
    reference = np.array([[0.0, 0, 0], [4, 0.5, 1], [8, 1, 3], [9, 0, 6]])
    estimate = reference + np.array([0.1, 0.2, -0.3])
    figure = trajectory_figure([("m", Paths(estimate, reference, "Sim(3)-aligned"))], "t")
    above, side = figure.axes
    for axes, plane in ((above, [0, 2]), (side, [0, 1])):
        assert curve(axes, "ground truth") == pytest.approx(reference[:, plane])
        assert curve(axes, "estimate, Sim(3)-aligned") == pytest.approx(estimate[:, plane])
        assert curve(axes, "start") == pytest.approx(estimate[:1, plane])
        assert curve(axes, "end") == pytest.approx(estimate[-1:, plane])
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == set(curves(above))
    assert [axes.get_title(loc="left").split(": ")[1] for axes in (above, side)] == ["x–z plane", "x–y plane"]
    alone = trajectory_figure([("m", Paths(estimate, reference))], "t").axes[0]
    assert (alone.get_xlabel(), alone.get_ylabel()) == ("x [m]", "z [m]")
    assert curve(alone, "estimate, not aligned") == pytest.approx(estimate[:, [0, 2]])


def test_depth_panels_hold_what_their_titles_say() -> None:
    rows, columns = np.mgrid[0:6, 0:8].astype(np.float32)
    truth = np.stack([1 + columns, 2 + rows, 3 + rows + columns, 5 + columns, 7 + rows])
    truth += 0.01 * (8 * rows + columns)  # no two alike, so that every percentile is another
    prediction = 1.5 * truth + 0.25
    truth[0, 0, 0] = 0
    prediction[0, 1, 1] = 0
    image = np.random.default_rng(0).integers(0, 255, (5, 6, 8, 3)).astype(np.uint8)
    figure = depth_figure(DepthPanels(np.array([3, 10, 11, 40, 50]), image, truth, prediction), "t")
    assert figure is not None
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert [text for text in texts if text.startswith("frame")] == [f"frame {index}" for index in (3, 10, 11, 40)]
    names = ("image", "truth", "prediction (scale_only)", "|prediction − truth|")
    shown = {name: pictures(figure, name) for name in names}
    for row in range(4):
        # Both depths share the scale of the truth's middle 96 %; the error has its own, from 0.
        lacks_truth, lacks_prediction = truth[row] == 0, prediction[row] == 0
        depths = np.percentile(truth[row][~lacks_truth], [2, 98])
        error = np.abs(prediction[row] - truth[row])
        errors = (0, np.percentile(error[~lacks_truth & ~lacks_prediction], 98))
        for name, expected in (
            ("image", image[row]),
            ("truth", coloured("viridis", truth[row], depths, lacks_truth)),
            ("prediction (scale_only)", coloured("viridis", prediction[row], depths, lacks_prediction)),
            ("|prediction − truth|", coloured("magma", error, errors, lacks_truth | lacks_prediction)),
        ):
            high, wide, _ = shown[name][row].shape
            drawn = shown[name][row][
                (high * (2 * rows + 1) / 12).astype(int), (wide * (2 * columns + 1) / 16).astype(int)
            ]
            assert np.abs(drawn.astype(int) - expected).max() <= 3, (name, row)


def coloured(name: str, values: np.ndarray, limits: tuple[float, float], lacking: np.ndarray) -> np.ndarray:
    shades = colormaps[name]((values - limits[0]) / (limits[1] - limits[0]), bytes=True)[..., :3].astype(int)
    shades[lacking] = 200
    return shades


@pytest.mark.parametrize("high", [9.0, 9000.0])
def test_a_number_beside_a_colour_bar_stands_at_its_colour(high: float) -> None:
    truth = np.linspace(high / 9, high, 48, dtype=np.float32).reshape(1, 6, 8)
    figure = depth_figure(DepthPanels(np.array([0]), np.zeros((1, 6, 8, 3), np.uint8), truth, 1.25 * truth), "t")
    found = ticks(figure, 0, 9)
    assert_colours(found[:4], "viridis", *np.percentile(truth, [2, 98]))
    assert_colours(found[4:], "magma", 0, float(np.percentile(truth / 4, 98)))


def assert_colours(numbers: list[tuple[float, list[int]]], name: str, low: float, most: float) -> None:
    assert len(numbers) > 2
    for value, pixel in numbers:
        expected = [255 * each for each in colormaps[name]((value - low) / (most - low))[:3]]
        assert np.abs(np.subtract(pixel, expected)).max() <= 6, (value, pixel, expected)


def test_every_curve_of_the_drift_lies_under_its_name() -> None:
    series = drift()
    figure = drift_figure(series, "t")
    expected = {
        ("ATE of growing prefixes, each aligned on itself", "m", "prefix up to here"): [[6, 0.25], [12, 0.75]],
        (
            "Position error after alignment on the first frames alone",
            "m",
            "each frame",
        ): np.column_stack([FRAMES, series.anchored_error_m]),
        (
            "Drift of the segments that start here",
            "translation [%]",
            "translation, mean of 1…2 m",
        ): [[4, 20], [8, 50]],
        (
            "Local scale: median ratio of step lengths, whole sequence = 1",
            "ratio",
            "estimate / reference",
        ): np.column_stack([FRAMES, series.local_scale]),
        ("Translation error of each step", "m", "each step"): np.column_stack([FRAMES, series.step_error_m]),
    }
    for (title, unit, label), points in expected.items():
        axes = axes_titled(figure, title)
        assert axes.get_ylabel() == unit
        assert curve(axes, label) == pytest.approx(np.asarray(points, dtype=np.float64))

    (turns,) = [axes for axes in figure.axes if axes.get_ylabel() == "rotation [deg/m]"]
    (rotation,) = [line for line in turns.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "--"]
    assert np.asarray(rotation.get_xydata()) == pytest.approx(np.array([[4.0, 2.0], [8.0, 7.0]]))
    legend = axes_titled(figure, "Drift of the segments that start here").get_legend()
    assert legend is not None
    looks = {text.get_text(): line for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)}
    assert (looks["rotation (right)"].get_linestyle(), looks["rotation (right)"].get_color()) == (
        rotation.get_linestyle(),
        rotation.get_color(),
    )

    steps = axes_titled(figure, "Translation error of each step")
    assert curve(steps, "jumps (1)")[:, 0] == pytest.approx([10, 10])
    assert curve(steps, "collapse (frame 12)")[:, 0] == pytest.approx([12, 12])


def test_lines_side_by_side_keep_their_names() -> None:
    one, other = drift(), drift()
    other.prefix_ate_m[:] = [1.25, 1.75]
    tables = [
        table(position_error_m=values(first), depth_abs_rel=values(10 + first), forward_ms=values(100 + first))
        for first in (1, 2)
    ]
    figure = together_figure([("a", UnitData(tables[0], drift=one)), ("b", UnitData(tables[1], drift=other))], "t")
    growth = axes_titled(figure, "ATE of growing prefixes, each aligned on itself")
    assert curve(growth, "a") == pytest.approx(np.array([[6, 0.25], [12, 0.75]]))
    assert curve(growth, "b") == pytest.approx(np.array([[6, 1.25], [12, 1.75]]))
    for title, unit, start in (
        ("Distance to the reference after Sim(3) alignment", "m", 0),
        ("Depth error (abs_rel) of each frame alone, scale_only alignment", "", 10),
        ("Forward time on the device", "ms", 100),
    ):
        axes = axes_titled(figure, title)
        assert axes.get_ylabel() == unit
        for name, first in (("a", 1), ("b", 2)):
            assert curve(axes, name) == pytest.approx(np.column_stack([FRAMES, values(start + first)]))
    (legend,) = figure.legends
    for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True):
        (drawn,) = [found for found in growth.lines if found.get_label() == text.get_text()]
        assert (line.get_color(), line.get_linestyle()) == (drawn.get_color(), drawn.get_linestyle())


def test_the_names_of_many_lines_take_no_room_from_their_panels() -> None:
    heights = []
    for count in (2, 12, 100):
        lines = [(f"line {number}", UnitData(table(forward_ms=values(number)))) for number in range(count)]
        figure = together_figure(lines, "t")
        panel = axes_titled(figure, "Forward time on the device").get_window_extent()
        legend = figure.legends[0].get_window_extent()
        heights.append(panel.height)
        assert 0 < legend.y1 < panel.y0, "the names stand below the panel"
    assert heights == pytest.approx([heights[0]] * 3)


def test_a_line_that_lacks_a_column_leaves_the_others_their_names() -> None:
    tables = [table(position_error_m=values(first), forward_ms=values(first)) for first in (1, 2, 3)]
    tables[0]["forward_ms"][:] = np.nan
    figure = together_figure([(name, UnitData(one)) for name, one in zip("abc", tables, strict=True)], "t")
    times = axes_titled(figure, "Forward time on the device")
    assert set(curves(times)) == {"b", "c"}
    for name, first in (("b", 2), ("c", 3)):
        assert curve(times, name) == pytest.approx(np.column_stack([FRAMES, values(first)]))
    # One alone is not side by side with anything.
    tables[1]["forward_ms"][:] = np.nan
    figure = together_figure([(name, UnitData(one)) for name, one in zip("abc", tables, strict=True)], "t")
    (errors,) = figure.axes if figure else []
    assert set(curves(errors)) == {"a", "b", "c"}
    assert errors.get_ylim() == (0, pytest.approx(1.08 * 12))


def test_no_two_of_many_lines_look_alike() -> None:
    lines = [(f"line {number}", UnitData(table(forward_ms=values(number)))) for number in range(28)]
    figure = together_figure(lines, "t")
    (axes,) = figure.axes if figure else []
    looks = [(line.get_color(), line.get_linestyle()) for line in axes.lines]
    assert len(set(looks)) == 28
    assert len({style for _, style in looks[:7]}) == 1


def test_a_long_series_is_drawn_with_its_rolling_median() -> None:
    index = np.arange(1000)
    frames = {name: np.full(1000, np.nan) for name in FRAME_COLUMNS}
    frames |= {"index": index, "frame_type": np.full(1000, "kept", object)}
    slow = index / 10 + 40.0 * (index % 7 == 0)  # a mean would be drawn 6 above the median
    axes = axes_titled(cost_figure(frames | {"forward_ms": slow}, "t"), "Time of each frame")
    assert curve(axes, "forward on the device")[:, 1] == pytest.approx(slow)
    median = curve(axes, "median of 9")
    assert median[:, 1] == pytest.approx(median[:, 0] / 10, abs=0.15)


@pytest.mark.parametrize(
    ("down", "above", "side", "turned"),
    [
        ((0.0, 0.98, 0.1), "x–z", "z–y", True),  # OpenCV: y is down
        ((0.0, -0.98, 0.1), "z–x", "z–y", False),
        ((0.1, 0.0, -0.95), "x–y", "y–z", False),  # a world whose z is up
        ((0.1, 0.0, 0.95), "y–x", "y–z", True),
    ],
)
def test_a_path_without_reference_is_seen_from_above_as_its_cameras_stand(
    down: tuple[float, ...], above: str, side: str, turned: bool
) -> None:
    # The longest extents are those of a walk that climbs: they must not decide.
    path = np.array([[0.0, 0, 0], [0.2, 4, 3], [0.1, 9, 5]])
    figure = trajectory_figure([("m", Paths(path, None, down=np.array(down)))], "t")
    first, second = figure.axes
    assert first.get_title(loc="left") == f"From above: {above} plane"
    assert curve(first, "estimate, not aligned") == pytest.approx(path[:, ["xyz".index(name) for name in above[::2]]])
    assert not first.yaxis_inverted()
    assert second.get_title(loc="left").startswith("From the side: ")
    assert second.get_title(loc="left").split(": ")[1][2] == side[2]
    assert second.yaxis_inverted() == turned
    assert second.get_ylabel() == f"{side[2]} [method's own unit{', pointing down' if turned else ''}]"


def test_the_reference_decides_the_planes_and_the_longest_extent_the_side() -> None:
    """The estimate has one pose far off in y; the reference is longest along z."""
    reference = np.array([[0.0, 0, 0], [1, 0.5, 4], [3, 1, 8], [6, 0, 9]])
    estimate = reference + np.array([[0.0, 90, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    figure = trajectory_figure([("m", Paths(estimate, reference, "Sim(3)-aligned"))], "t")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["From above (longest extents): x–z plane", "From the side: z–y plane"]


def test_a_piece_has_the_colour_of_its_worse_end_up_to_the_bulk_of_the_errors() -> None:
    path = np.stack([np.arange(100.0), np.zeros(100), np.sin(np.arange(100.0))], axis=1)
    error = np.arange(100.0)[::-1].copy()
    error[[10, 11, 50]] = np.nan
    figure = trajectory_figure([("m", Paths(path, path, "Sim(3)-aligned", error))], "t")
    (pieces,) = figure.axes[0].collections
    expected = np.fmax(error[:-1], error[1:])
    np.testing.assert_array_equal(pieces.get_array().filled(-1), np.where(np.isnan(expected), -1, expected))
    assert pieces.norm.vmax == pytest.approx(np.percentile(error[np.isfinite(error)], 98))
    assert pieces.norm.vmin == 0
    none = trajectory_figure([("m", Paths(path, path, "Sim(3)-aligned", np.zeros(100)))], "t").axes[0].collections[0]
    assert none.norm.vmax == 1


def test_errors_along_a_long_path_stand_at_their_poses() -> None:
    path = np.stack([np.arange(9000.0), np.zeros(9000), np.sin(np.arange(9000.0))], axis=1)
    paths = [("a", Paths(path, path, "Sim(3)-aligned", np.arange(9000.0))), ("b", Paths(path, None))]
    along = trajectory_figure(paths, "t", along=True).axes[-1]
    assert list(curves(along)) == ["a"]
    drawn = curve(along, "a")
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert drawn[-1, 0] == 8999


def test_names_of_estimates_are_drawn_as_they_are(tmp_path: Path) -> None:
    """Matplotlib hides names that begin with an underscore, and takes what stands between dollars for a formula."""
    path = np.stack([np.arange(5.0), np.zeros(5), np.sin(np.arange(5.0))], axis=1)
    of = Paths(path, path, "Sim(3)-aligned", np.arange(5.0))
    figure = trajectory_figure([("_trial", of), (r"a$\x$", of)], "t", along=True)
    legend = figure.axes[-1].get_legend()
    assert legend is not None
    assert [entry.get_text().strip() for entry in legend.get_texts()] == ["_trial", r"a$\x$"]
    save(figure, tmp_path / "a.png")


def test_no_view_is_called_above_where_the_cameras_do_not_say() -> None:
    path = np.array([[0.0, 0, 0], [0.2, 4, 3], [0.1, 9, 5]])
    for down in (None, np.array([0.4, 0.4, 0.4])):
        figure = trajectory_figure([("m", Paths(path, None, down=down))], "t")
        assert figure.axes[0].get_title(loc="left") == "The two longest extents: y–z plane"


def test_the_cameras_mean_down_comes_from_the_stored_poses(tmp_path: Path) -> None:
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, :3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]  # the camera's y is the world's -z
    poses[:, :3, 3] = np.arange(12).reshape(4, 3)
    write_tum(tmp_path / "estimate.txt", Trajectory(np.arange(4), np.arange(4.0), poses))
    paths = _paths(_positions(tmp_path / "estimate.txt") or pytest.fail("no file"), None)
    assert paths.down == pytest.approx([0, 0, -1])
    assert paths.estimate == pytest.approx(poses[:, :3, 3])


def test_long_lines_side_by_side_are_rolling_medians_and_say_so() -> None:
    def long(first: float, count: int) -> dict[str, np.ndarray]:
        index = np.arange(count)
        frames = {name: np.full(count, np.nan) for name in FRAME_COLUMNS}
        # Every seventh is far off: a mean would be drawn 6 above the median.
        return frames | {"index": index, "position_error_m": first + index / 10 + 40.0 * (index % 7 == 0)}

    lines = [("a", UnitData(long(1, 301))), ("b", UnitData(long(2, 4000)))]
    title = "Distance to the reference after Sim(3) alignment, rolling median of up to 20 frames"
    axes = axes_titled(together_figure(lines, "t"), title)
    for name, first in (("a", 1), ("b", 2)):
        drawn = curve(axes, name)
        assert drawn[:, 1] == pytest.approx(first + drawn[:, 0] / 10, abs=0.2)
    assert axes_titled(together_figure(lines[::-1], "t"), title)  # whichever of them comes first
    shorter = together_figure([("a", UnitData(long(1, 300))), ("b", UnitData(long(2, 300)))], "t")
    axes = axes_titled(shorter, "Distance to the reference after Sim(3) alignment")
    assert len(curve(axes, "a")) == 300


@pytest.mark.parametrize(
    ("label", "shown"), [("x" * 60, "x" * 60), ("x" * 61, "x" * 59 + "…"), ("_hidden", " _hidden"), ("a\nb", "a b")]
)
def test_a_line_is_called_what_it_is_in_one_short_line(label: str, shown: str) -> None:
    frames = table(forward_ms=values(1))
    figure = together_figure([(label, UnitData(frames)), ("other", UnitData(frames))], "t")
    assert figure is not None
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [shown, "other"]


def test_the_axis_of_the_local_scale_lies_around_one() -> None:
    series = drift()
    axes = axes_titled(drift_figure(series, "t"), "Local scale: median ratio of step lengths, whole sequence = 1")
    low, high = np.percentile(series.local_scale, [1, 99])
    reach = 1.4 * max(high - 1, 1 - low)
    assert axes.get_ylim() == pytest.approx((1 - reach, 1 + reach))
    for lowest, shown in ((0.5, (0.3, 1.7)), (0.1, (0.0, 2.26))):  # the lower side is farther off, and 0 is the end
        series.local_scale[:] = [lowest, lowest, 1, 1, 1, 1]
        axes = axes_titled(drift_figure(series, "t"), "Local scale: median ratio of step lengths, whole sequence = 1")
        assert axes.get_ylim() == pytest.approx(shown)
    series.local_scale[:] = 1.001
    axes = axes_titled(drift_figure(series, "t"), "Local scale: median ratio of step lengths, whole sequence = 1")
    assert axes.get_ylim() == pytest.approx((0.98, 1.02))


def test_a_row_without_truth_has_the_scale_of_the_prediction_and_without_both_that_of_a_metre() -> None:
    prediction = np.stack([2 + np.arange(48, dtype=np.float32).reshape(6, 8), np.zeros((6, 8), np.float32)])
    prediction = prediction[[0, 0, 1]]
    truth = np.zeros_like(prediction)
    truth[0] = 5
    image = np.zeros((3, 6, 8, 3), np.uint8)
    figure = depth_figure(DepthPanels(np.array([0, 1, 2]), image, truth, prediction), "t")
    assert figure is not None
    second, third = (ticks(figure, 0.66 + row * 2.07, 0.66 + (row + 1) * 2.07) for row in (1, 2))
    assert_colours([each for each in second if each[0] > 1], "viridis", *np.percentile(prediction[0], [2, 98]))
    assert_colours(third[:6], "viridis", 0, 1)
    assert_colours(third[6:], "magma", 0, 1)


def test_a_prediction_without_error_has_the_colour_of_none_and_a_later_row_may_have_the_truth() -> None:
    prediction = 2 + np.arange(96, dtype=np.float32).reshape(2, 6, 8)
    truth = prediction.copy()
    truth[0] = 0
    figure = depth_figure(DepthPanels(np.array([0, 1]), np.zeros((2, 6, 8, 3), np.uint8), truth, prediction), "t")
    first, second = pictures(figure, "|prediction − truth|")
    assert (first == 200).all()
    assert np.unique(second.reshape(-1, 3), axis=0).tolist() == [list(colormaps["magma"](0.0, bytes=True)[:3])]


def test_without_any_truth_there_are_image_and_prediction_on_one_scale() -> None:
    prediction = np.stack([np.full((6, 8), depth, np.float32) for depth in (2.0, 4.0)])
    image = np.zeros((2, 6, 8, 3), np.uint8)
    figure = depth_figure(DepthPanels(np.array([3, 9]), image, np.zeros_like(prediction), prediction), "t")
    assert figure is not None
    for name, colour in (("frame 3", 0.0), ("frame 9", 1.0)):
        image, depth = pictures(figure, name)
        assert not image.any()
        assert np.unique(depth.reshape(-1, 3), axis=0).tolist() == [list(colormaps["viridis"](colour, bytes=True)[:3])]
    assert_colours(ticks(figure, 0, 9), "viridis", 2, 4)
    assert "depth [method's own unit]" in [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize(
    ("down", "above", "side"),
    [
        ((0.0, 1, 0), "From above: x–z plane", "From the side: x–y plane"),
        ((0.0, -1, 0), "From above: z–x plane", "From the side: x–y plane"),
        ((0.0, 0, -0.8), "From above: x–y plane", "From the side: x–z plane"),
        ((0.6, 0.6, 0.5), "The two longest extents: x–z plane", "From the side: x–y plane"),
    ],
)
def test_without_a_reference_the_cameras_say_which_way_is_down(
    down: tuple[float, float, float], above: str, side: str
) -> None:
    estimate = np.array([[0.0, 0, 0], [9, 0.5, 1], [8, 1, 3], [9, 0, 6]])
    figure = trajectory_figure([("m", Paths(estimate, None, down=np.array(down)))], "t")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [above, side]
    across, up = ("xyz".index(letter) for letter in above.split(": ")[1].split(" ")[0].split("–"))
    assert curve(figure.axes[0], "estimate, not aligned") == pytest.approx(estimate[:, [across, up]])
    assert figure.axes[1].yaxis_inverted() == (down[1] == 1)
    assert ("pointing down" in figure.axes[1].get_ylabel()) == (down[1] == 1)


def seen_from_above() -> tuple[KeptScene, Paths]:
    """Red floor 2 below the cameras, blue ceiling 1 above them, y down; a method's world at half of the scale."""
    x, z = (part.reshape(-1) for part in np.meshgrid(np.linspace(-4, 4, 161), np.linspace(-3, 3, 121)))
    floor, ceiling = (np.stack([x, np.full_like(x, y), z], axis=1) for y in (2.0, -1.0))
    positions = np.concatenate([floor, ceiling]).astype(np.float32)
    colours = np.repeat(np.array([[200, 0, 0], [0, 0, 200]], np.uint8), len(x), axis=0)
    voxels = ShownVoxels(positions, colours, np.zeros(len(positions), np.int32), 0.06)
    poses = np.tile(np.eye(4), (9, 1, 1))
    poses[:, 0, 3] = np.linspace(-2, 2, 9)
    move = Sim3(2.0, np.eye(3), np.array([5.0, 0, 0]))
    reference = move.apply_points(poses[:, :3, 3] + np.array([0, 0, 0.25]))
    error = np.full(9, 0.5)
    error[4] = np.nan
    return KeptScene(voxels, poses), Paths(move.apply_points(poses[:, :3, 3]), reference, "", error, move)


def test_from_above_the_floor_is_seen_and_no_ceiling_and_the_path_lies_on_it() -> None:
    kept, paths = seen_from_above()
    axes = cloud_figure(kept, paths, "t").axes[0]
    picture = axes.images[0].get_array()
    red, green, blue = (int(value) for value in picture[picture.shape[0] // 2, picture.shape[1] // 2])
    assert red > 150
    assert blue == green < 80  # as pale as everything, and nothing of the ceiling
    way, true = curve(axes, "way of the camera"), curve(axes, "ground truth")
    middle = (np.array(picture.shape[1::-1]) - 1) / 2
    assert way[4] == pytest.approx(middle, abs=1)
    steps = np.diff(way[:, 0])
    assert steps == pytest.approx(np.full(8, steps[0]))
    # Half a metre of the reference's world is a quarter of the method's: half of the step between cameras.
    assert np.linalg.norm(way - true, axis=1) == pytest.approx(np.full(9, abs(steps[0]) / 2))
    (pieces,) = axes.collections
    np.testing.assert_array_equal(pieces.get_array().filled(-1), np.full(8, 0.5))
    assert curve(axes, "start") == pytest.approx(way[:1])


@pytest.mark.parametrize("only", [False, True])
def test_what_is_below_the_highest_camera_is_seen_and_all_where_nothing_is(only: bool) -> None:
    kept, _ = seen_from_above()
    blue = kept.voxels.colours[:, 2] > 0
    if only:  # a ceiling above all cameras, and nothing else
        part = {name: getattr(kept.voxels, name)[blue] for name in ("positions", "colours", "first_frame")}
        kept = replace(kept, voxels=replace(kept.voxels, **part))
    else:
        kept.camera_to_world[1, 1, 3] = -1.5  # one camera looks over the ceiling
    picture = cloud_figure(kept, None, "t").axes[0].images[0].get_array()
    red, _, over = (int(value) for value in picture[picture.shape[0] // 2, picture.shape[1] // 2])
    assert over > 150
    assert red < 80


def test_from_above_without_a_reference_the_path_has_no_error() -> None:
    kept, _ = seen_from_above()
    figure = cloud_figure(kept, None, "t")
    assert len(figure.axes) == 1
    assert not figure.axes[0].collections


def test_of_four_estimates_three_stand_in_a_row_and_their_errors_below_all() -> None:
    path = np.stack([np.arange(50.0), np.zeros(50), np.sin(np.arange(50.0))], axis=1)
    paths = [(name, Paths(path, path, "Sim(3)-aligned", np.full(50, 0.5))) for name in "abc"]
    figure = trajectory_figure([*paths, ("d", Paths(path, None))], "t", along=True)
    panels, along = figure.axes[:4], figure.axes[-1]
    assert [axes.get_title(loc="left")[0] for axes in panels] == ["a", "b", "c", "d"]
    assert [axes.get_xlabel() for axes in panels] == ["x [m]", "x [m]", "x [m]", "x [method's own unit]"]
    places = [axes.get_subplotspec() for axes in (*panels, along)]
    spans = [(place.rowspan.start, place.colspan.start, place.colspan.stop) for place in places if place is not None]
    assert spans == [(0, 0, 1), (0, 1, 2), (0, 2, 3), (1, 0, 1), (2, 0, 3)]
    assert list(curves(along)) == ["a", "b", "c"]
    # Each has a colour of its own, whoever before it has no error.
    colours = {line.get_label(): line.get_color() for line in along.lines}
    assert len(set(colours.values())) == 3
    other = trajectory_figure([("d", Paths(path, None)), *paths], "t", along=True).axes[-1]
    assert list(curves(other)) == ["a", "b", "c"]
    assert [axes.get_ylabel() for axes in figure.axes[4:]] == ["distance to the reference [m]", "position error [m]"]
    # Where nobody has an error there is neither.
    assert len(trajectory_figure([("d", Paths(path, None)), ("e", Paths(path, path))], "t", along=True).axes) == 2


def test_estimates_beside_each_other_share_the_colours_of_their_errors() -> None:
    path = np.stack([np.arange(50.0), np.zeros(50), np.sin(np.arange(50.0))], axis=1)
    paths = [
        (name, Paths(path, path, "Sim(3)-aligned", np.full(50, error))) for name, error in (("a", 0.1), ("$b$", 0.4))
    ]
    figure = trajectory_figure(paths, "t", along=True)
    panels, along = figure.axes[:2], figure.axes[-1]
    assert [axes.get_title(loc="left") for axes in panels] == ["a, x–z plane", "$b$, x–z plane"]
    assert all(axes.collections[0].norm.vmax == pytest.approx(0.4) for axes in panels)
    assert [line.get_ydata()[0] for line in along.lines] == [0.1, 0.4]
