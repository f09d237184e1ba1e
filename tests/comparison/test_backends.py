"""Backends compared on real streams: what must agree does, what differs is seen, and lack of memory is a result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lingbot_eval import api
from lingbot_eval.comparison import backends as backends_module
from lingbot_eval.comparison import contenders as frames_module
from lingbot_eval.comparison import page as write_module
from lingbot_eval.comparison.backends import (
    BackendComparison,
    OutOfMemory,
    Pair,
    Ratio,
    Side,
    compare_backends,
    depth_difference,
    lockstep,
    memory_guarded,
    race,
    time_ratio,
)
from lingbot_eval.comparison.contenders import (
    Bench,
    Contender,
    PreparedFrames,
    parse_contender,
    reference_contender,
    select,
)
from lingbot_eval.comparison.page import document, failures, page, prepare_folder, tables, title, write_backends
from lingbot_eval.errors import ConfigError, DataError, DependencyError, StoreError
from lingbot_eval.methods import stepper as stepper_module
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.methods.model import Model
from lingbot_eval.methods.stepper import Stepper
from lingbot_eval.model.config import CONFIGS
from lingbot_eval.reports.agreement import Differences
from lingbot_eval.runs.experiment import Experiment
from lingbot_eval.streaming.estimate import NetworkSize, weights_bytes
from lingbot_eval.streaming.session import FrameOutput
from lingbot_eval.streaming.settings import StreamSettings
from lingbot_eval.streaming.windowed import Session
from lingbot_eval.types import Frame, Prediction
from tests.comparison.fakes import FRAMES, compared, experiment, selected
from tests.support.figure_reader import axes_titled, curve

CPU = torch.device("cpu")
SDPA, PAGED = Contender("A", "sdpa", "float32"), Contender("B", "paged", "float32")


def bench(**streaming: object) -> Bench:
    return Bench(selected(**streaming).method, CPU, FRAMES)


def test_sdpa_and_paged_agree_and_bfloat16_does_not() -> None:
    found = compared("sdpa:bfloat16", "paged")
    (ab, a_reference, b_reference) = found.pairs
    assert [(p.first.name, p.second.name) for p in found.pairs] == [("A", "B"), ("A", "reference"), ("B", "reference")]
    for pair in found.pairs:
        assert pair.differences.indices.tolist() == list(range(FRAMES))
        assert pair.ended is None
    for summary in b_reference.differences.summaries():
        assert summary.largest is not None
        assert summary.largest < 1e-3
    for rounded in (ab, a_reference):
        for low, exact in zip(rounded.differences.summaries(), b_reference.differences.summaries(), strict=True):
            assert low.median is not None
            assert exact.median is not None
            assert low.median > 20 * exact.median
    assert (found.frames, found.size, found.untrained) == (FRAMES, (28, 28), True)
    model = selected().method.model
    sizes = [NetworkSize(CONFIGS[model.config], precision) for precision in ("bfloat16", "float32")]
    assert [side.weights_bytes for side in found.sides] == [weights_bytes(size) for size in sizes]


def test_a_float32_sdpa_side_is_the_reference_itself() -> None:
    found = compared("sdpa", "paged")
    assert [(pair.first.label, pair.second.label) for pair in found.pairs] == [("A sdpa float32", "B paged float32")]
    assert len(compared("paged", "paged", with_reference=False).pairs) == 1


def test_the_reference_is_one_of_the_sides_whichever_it_is() -> None:
    assert backends_module._drawn(PAGED, SDPA, with_reference=True) == ([PAGED, SDPA], [(PAGED, SDPA)])
    assert backends_module._drawn(SDPA, PAGED, with_reference=True) == ([SDPA, PAGED], [(SDPA, PAGED)])
    reference = reference_contender()
    for other in ({"precision": "bfloat16"}, {"cache_precision": 8}, {"tf32_heads": True}):
        side = replace(SDPA, **other)  # type: ignore[arg-type]
        pairs = [(side, PAGED), (side, reference), (PAGED, reference)]
        assert backends_module._drawn(side, PAGED, with_reference=True) == ([side, PAGED, reference], pairs)


def test_a_size_is_width_by_height() -> None:
    chosen = select(experiment(4, width=42, keyframe_interval="auto"), None, None)  # whose length is known
    found = compare_backends(
        "sdpa", "paged", chosen, PreparedFrames(chosen.unit), lambda: None, rounds=1, with_reference=False
    )
    assert (found.size, found.frames, found.scene, found.dataset) == ((42, 28), 4, "room", "synthetic")
    assert (found.model, found.weights, found.device) == ("ci", "untrained (seed 0)", "cpu")
    assert (found.rounds, found.scale_frames, found.streaming["window"]) == (1, 3, 4)
    # What the sides differ in is no setting of the stream.
    assert not {"backend", "cache_precision"} & set(found.streaming)


@pytest.mark.parametrize(("sides", "own"), [(("sdpa", "sdpa:8"), None), (("sdpa:16", "sdpa"), 8)])
def test_a_side_keeps_a_cache_as_narrow_as_its_name_says(sides: tuple[str, str], own: int | None) -> None:
    found = compared(*sides, with_reference=False, frames=6, cache_precision=own)
    whole, narrow = (side.cache_bytes["window"] for side in found.sides)
    assert 0.2 < narrow / whole < 0.4


def test_equal_sides_are_equal_to_the_last_bit() -> None:
    (pair,) = compared("sdpa", "sdpa", frames=40).pairs
    for summary in pair.differences.summaries():
        assert summary.largest == 0
        assert summary.growth is not None
        assert not summary.growth.grows


def test_speed_and_memory_of_each_side() -> None:
    found = compared("sdpa", "paged", rounds=3)
    sizes, iterations = CONFIGS["ci"], 1
    # Keys and values in float32: bytes of a token in all global blocks, of a frame in the camera head.
    blocks = 2 * sizes.groups * sizes.embed_dim * 4
    camera = 2 * sizes.camera_blocks * iterations * sizes.token_dim * 4
    tokens = 6 + 2 * 2
    for side in found.sides:
        assert [len(step_ms) for step_ms in side.step_ms] == [FRAMES] * 3
        for step_ms in side.step_ms:
            assert (step_ms > 0).all()
            assert len(set(step_ms[:3].tolist())) == 1  # scale frames share one pass
        assert side.cache_bytes == {
            "anchor": 3 * tokens * blocks,
            "window": 4 * tokens * blocks,
            "memory": (FRAMES - 7) * 6 * blocks,
            "camera_head": FRAMES * camera,
        }
        assert side.cache_allocated is not None
        assert side.cache_allocated >= sum(side.cache_bytes.values())
        assert side.warm_up_s is not None
        assert side.device_bytes is None
    assert found.rounds == 3
    assert isinstance(found.ratio, Ratio)
    first, second = ([float(np.median(step_ms[3:])) for step_ms in side.step_ms] for side in found.sides)
    assert found.ratio.value == pytest.approx(np.median([b / a for a, b in zip(first, second, strict=True)]))
    assert found.ratio.reason == f"{FRAMES - 3} timed frames a round, at least 32 are needed"


def test_rounds_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    open_stream = Bench.open

    def recorded(self: Bench, contender: Contender) -> Stepper:
        opened.append(contender.name)
        return open_stream(self, contender)

    monkeypatch.setattr(Bench, "open", recorded)
    chosen = selected(6)
    race(Bench(chosen.method, CPU, 6), [Side(SDPA), Side(PAGED)], PreparedFrames(chosen.unit), 3, lambda: None)
    assert "".join(opened) == "AB" + "AB" + "BA" + "AB"


def test_the_cache_is_stated_where_it_is_fullest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream in windows drops its cache now and then: what is left at the end is not what it needed."""
    held: list[dict[str, int]] = []
    open_stream = Bench.open

    def opened(self: Bench, contender: Contender) -> Stepper:
        stepper = open_stream(self, contender)
        stepper.session = Emptying(stepper.session, held)
        return stepper

    monkeypatch.setattr(Bench, "open", opened)
    chosen = selected(FRAMES)
    raced = Side(SDPA)
    race(Bench(chosen.method, CPU, FRAMES), [raced], PreparedFrames(chosen.unit), 1, lambda: None)
    sizes = [sum(each.values()) for each in held]
    assert max(sizes) > sizes[-1]
    assert raced.cache_bytes == held[sizes.index(max(sizes))]
    # What is held for it, likewise: the stand-in says a hundred bytes for each that is in view.
    assert raced.cache_allocated == 100 * max(sizes)


class Emptying:
    """A stream that says it holds less and less from the ninth frame on; notes what it said."""

    def __init__(self, inner: Session, said: list[dict[str, int]]) -> None:
        self.interval = inner.interval
        self.bfloat16_from = inner.bfloat16_from
        self._inner, self._said, self._frames = inner, said, 0

    def step(self, image: Tensor) -> tuple[FrameOutput, ...]:
        self._frames += 1
        return self._inner.step(image)

    def settle(self) -> bool:
        return False

    def finish(self) -> tuple[FrameOutput, ...]:
        return self._inner.finish()

    def used_bytes(self) -> dict[str, int]:
        used = self._inner.used_bytes()
        self._said.append({kind: size // max(1, self._frames - 8) for kind, size in used.items()})
        return self._said[-1]

    def allocated_bytes(self) -> int:
        return 100 * sum(self._said[-1].values()) if self._said else 0


def made_up(*sides: Side) -> BackendComparison:
    """A comparison of two sides of which everything is known, three frames entering together."""
    return BackendComparison(
        dataset="made up",
        scene="room",
        frames=5,
        size=(28, 28),
        model="ci",
        weights="trained",
        untrained=False,
        streaming={},
        device="cuda:0",
        rounds=3,
        scale_frames=3,
        sides=(sides[0], sides[1]),
        pairs=(),
        ratio=time_ratio(sides[0], sides[1], 3),
        environment={"torch": {"gpus": [{"name": "a GPU"}]}},
    )


def column(found: BackendComparison, title: str, name: str) -> list[str]:
    """A column of a table of the page, by the headings of both."""
    (table,) = [table for table in tables(found) if table.title == title]
    return [row[[column.title for column in table.columns].index(name)] for row in table.rows]


def test_the_page_says_each_number_under_its_heading() -> None:
    # Rounds of 200, 300 and 1000 ms in all: no two of first, last, mean and median are alike.
    a = side(
        SDPA, [[30.0, 30.0, 30.0, 50.0, 60.0], [40.0, 40.0, 40.0, 80.0, 100.0], [100.0, 100.0, 100.0, 300.0, 400.0]]
    )
    b = side(PAGED, [[10.0, 10.0, 10.0, 10.0, 10.0]] * 3)
    mib = 2**20
    for each, factor in ((a, 1), (b, 100)):
        each.cache_bytes = {
            kind: factor * size * mib
            for kind, size in zip(("anchor", "window", "memory", "camera_head"), (1, 2, 3, 5), strict=True)
        }
        each.cache_allocated, each.weights_bytes, each.device_bytes = 13 * factor * mib, 17 * mib, 19 * factor * mib
        each.warm_up_s = 2.5 * factor
    found = made_up(a, b)
    assert column(found, "Speed", "side") == ["A sdpa float32", "B paged float32"]
    assert column(found, "Speed", "time of a frame") == ["90.00 ms", "10.00 ms"]
    # Five frames in the middle round's 300 ms, scale frames and all.
    assert column(found, "Speed", "forward alone") == ["16.67 fps", "100.0 fps"]
    assert column(found, "Speed", "warm-up") == ["2.500 s", "250.0 s"]
    for name, cells in {
        "anchor": (1, 100),
        "window": (2, 200),
        "memory": (3, 300),
        "camera head": (5, 500),
        "in view": (11, 1100),
        "allocated": (13, 1300),
        "weights": (17, 17),
        "device peak": (19, 1900),
    }.items():
        assert [float(cell) for cell in column(found, "Memory", name)] == list(cells), name


def test_the_drawn_time_of_a_frame_is_the_median_of_its_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = side(SDPA, [[4.0, 4.0, 4.0, 1.0, 30.0], [5.0, 5.0, 5.0, 2.0, 40.0], [9.0, 9.0, 9.0, 9.0, 50.0]])
    b = side(PAGED, [[7.0] * 5] * 3)
    drawn: list[Figure] = []
    monkeypatch.setattr(write_module, "save", lambda figure, path: (drawn.append(figure), path.touch()))
    write_backends(made_up(a, b), prepare_folder(tmp_path))
    title = "Time of each frame, median of 3 rounds; the first 3 enter in one pass and share its time"
    times = axes_titled(drawn[0], title)
    assert curve(times, "A sdpa float32") == pytest.approx(np.column_stack([range(5), [5.0, 5.0, 5.0, 2.0, 40.0]]))
    assert curve(times, "B paged float32")[:, 1] == pytest.approx([7.0] * 5)


def test_a_page_that_cannot_be_written_leaves_the_old_one_with_its_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("no space left")

    old = dict.fromkeys(("compare.md", "compare.json", "compare.png"), b"old")
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(write_module, "write_text", full)
    with pytest.raises(StoreError, match="no space left"):
        write_backends(known(), tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == old


def known() -> BackendComparison:
    """Two sides, of two rounds on a GPU, no two of whose numbers are alike; B fails beside A."""
    a = side(SDPA, [[30.0, 30.0, 30.0, 50.0, 70.0], [40.0, 40.0, 40.0, 80.0, 100.0]])
    b = side(replace(PAGED, precision="bfloat16", cache_precision=8), [[10.0, 10.0, 10.0, 12.0, 14.0]] * 2)
    a.cache_bytes, a.cache_allocated, a.weights_bytes, a.device_bytes = {"anchor": 3, "window": 5}, 11, 13, 17
    a.warm_up_s = 2.5
    ended = OutOfMemory("together", 4, "no room")
    differences = Differences(np.arange(3), *(np.arange(3) + first for first in (0.25, 1.5, 3.75)))
    pair = Pair(a.contender, b.contender, differences, 2, ended)
    return replace(made_up(a, b), streaming={"window": 6}, rounds=2, pairs=(pair,), weights="w.pt, SHA-256 ab")


def test_the_document_says_each_number_under_its_name() -> None:
    found = document(known())
    a, b = found.pop("sides")
    assert a == {
        "name": "A",
        "backend": "sdpa",
        "precision": "float32",
        "tf32_heads": False,
        "cache_precision": None,
        "attention": "torch",
        "weights_bytes": 13,
        "warm_up_s": 2.5,
        "step_ms": 75.0,
        "step_ms_by_round": [60.0, 90.0],
        # Of both rounds' 210 and 300 ms.
        "forward_fps": pytest.approx((5 / 0.21 + 5 / 0.3) / 2),
        "cache_bytes": {"anchor": 3, "window": 5},
        "cache_allocated_bytes": 11,
        "device_peak_bytes": 17,
        "failure": None,
    }
    assert b["attention"] == "paged"
    assert (b["backend"], b["precision"], b["cache_precision"], b["step_ms"]) == ("paged", "bfloat16", 8, 13.0)
    (pair,) = found.pop("pairs")
    assert (pair["pair"], pair["keyframes_differ"]) == ("A–B", 2)
    assert pair["ended"] == {"stage": "together", "frame": 4, "reason": "no room"}
    medians = {entry["name"]: (entry["median"], entry["largest"]) for entry in pair["differences"]}
    assert medians == {"rotation": (1.25, 2.25), "position": (2.5, 3.5), "depth": (4.75, 5.75)}
    ratio = found.pop("time_ratio")
    assert ratio == {
        "value": pytest.approx((13 / 60 + 13 / 90) / 2),
        "low": None,
        "high": None,
        "verdict": None,
        "reason": "an interval needs 3 rounds, there are 2",
    }
    assert found == {
        "title": "A sdpa float32 against B paged bfloat16 float32 heads 8-bit cache",
        "dataset": "made up",
        "scene": "room",
        "frames": 5,
        "size": [28, 28],
        "model": "ci",
        "weights": "w.pt, SHA-256 ab",
        "untrained_weights": False,
        "streaming": {"window": 6},
        "device": "cuda:0",
        "rounds": 2,
        "environment": {"torch": {"gpus": [{"name": "a GPU"}]}},
    }


def test_the_document_says_whose_attention_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU that multiplies bfloat16 products of it are another arithmetic than torch's."""
    monkeypatch.setattr("lingbot_eval.streaming.contiguous.multiplies_bfloat16", lambda: True)
    sides = side(SDPA, [[1.0] * 5]), side(replace(SDPA, name="B", precision="bfloat16"), [[1.0] * 5])
    for device, attention in (("cpu", ["torch", "products"]), ("cuda:0", ["torch", "torch"])):
        found = document(replace(made_up(*sides), device=device))
        assert [each["attention"] for each in found["sides"]] == attention


def test_a_side_that_failed_is_named_with_what_it_had() -> None:
    gone = OutOfMemory("alone", 3, "no room")
    partial = [[30.0, 30.0, 30.0, 60.0, np.nan]]
    b = replace(side(PAGED, partial), failure=gone, warm_up_s=None)
    a = side(SDPA, [[30.0, 30.0, 30.0, 50.0, 60.0]])
    (pair,) = known().pairs
    found = replace(made_up(a, b), pairs=(replace(pair, second=b.contender),))
    words = "B paged float32: out of device memory at frame 3, on its own: no room"
    assert failures(found) == (words, "A–B: out of device memory at frame 4, beside the others: no room")
    numbers = document(found)
    assert numbers["time_ratio"] == {"value": None, "reason": words}
    assert [each["failure"] for each in numbers["sides"]] == [
        None,
        {"stage": "alone", "frame": 3, "reason": "no room"},
    ]
    # Frames of which it is known how long they took, and no rate of what did not end.
    assert [(each["step_ms"], each["forward_fps"]) for each in numbers["sides"]] == [(55.0, 25.0), (60.0, None)]
    assert column(found, "Speed", "forward alone") == ["25.00 fps", "n/a"]
    assert column(found, "Memory", "in view") == ["n/a", "n/a"]
    text = page(found, "x.png")
    assert f"- **{words}**" in text
    environment = text.partition("```json\n")[2].partition("\n```")[0]
    assert json.loads(environment) == found.environment
    assert "- n/a: a trend needs 32 frames, there are 3 (A–B rotation, A–B position, A–B depth)" in text


def test_the_reference_is_explained_once_for_both_sides() -> None:
    (pair,) = known().pairs
    reference = reference_contender()
    both = tuple(
        replace(pair, first=each, second=reference, ended=None, keyframes_differ=differ)
        for each, differ in ((SDPA, 0), (PAGED, 7))
    )
    (table,) = [each for each in tables(replace(known(), pairs=both)) if each.title == "Agreement"]
    said = [line for line in table.legend if line.startswith("reference ")]
    assert said == ["reference sdpa float32: torch's attention in float32, on the same device"]
    assert [row[0] for row in table.rows] == ["A–reference"] * 3 + ["B–reference"] * 3
    # Keyframes that differ are told of the pair that has them, be it the last.
    told = [line.partition(";")[0] for line in table.legend if " kept " in line]
    assert told == ["B–reference: one side kept 7 frames that the other did not"]
    assert [each.align for each in table.columns[:3]] == ["left", "left", "right"]


def test_the_folder_of_a_page_is_made_with_those_above_it(tmp_path: Path) -> None:
    assert prepare_folder(tmp_path / "a" / "b").is_dir()
    assert prepare_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (OutOfMemory("warm-up", None, "x"), "out of device memory while loading the network, in the warm-up: x"),
        (OutOfMemory("warm-up", 0, "x"), "out of device memory at frame 0, in the warm-up: x"),
        (OutOfMemory("alone", 7, "x"), "out of device memory at frame 7, on its own: x"),
        (OutOfMemory("together", 7, "x"), "out of device memory at frame 7, beside the others: x"),
    ],
)
def test_a_failure_says_where(failure: OutOfMemory, words: str) -> None:
    assert failure.text() == words


def test_of_what_the_device_says_the_first_sentence_is_kept() -> None:
    failing = Side(SDPA)
    with memory_guarded(failing, "alone", lambda: 5):
        raise torch.OutOfMemoryError("Tried to allocate 2.10 GiB\n of 3.5. GPU 0 has less")
    assert failing.failure == OutOfMemory("alone", 5, "Tried to allocate 2.10 GiB of 3.5")


def test_a_network_that_does_not_fit_is_in_no_round(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Bench, contender: Contender) -> Model:
        raise torch.OutOfMemoryError("no room")

    def never(self: Bench, contender: Contender) -> Stepper:
        raise AssertionError("opened")

    monkeypatch.setattr(Bench, "model", full)
    monkeypatch.setattr(Bench, "open", never)
    chosen = selected(3)
    raced = Side(SDPA)
    race(Bench(chosen.method, CPU, 3), [raced], PreparedFrames(chosen.unit), 2, lambda: None)
    assert (raced.failure, raced.step_ms) == (OutOfMemory("warm-up", None, "no room"), [])


def test_the_head_of_the_page_and_its_legends() -> None:
    on_gpu = known()
    on_cpu = replace(
        on_gpu, device="cpu", untrained=True, environment={"cpu_model": "a CPU", "torch": {"threads": 3, "gpus": []}}
    )
    lines = [set(page(each, "x.png").splitlines()) for each in (on_gpu, on_cpu)]
    both = {
        "- input: made up / room, 5 frames at 28×28",
        '- stream: `{"window": 6}`',
        "- **A–B: out of device memory at frame 4, beside the others: no room**",
        "![Agreement and time along the sequence](x.png)",
        "- A–B: one side kept 2 frames that the other did not; from the first of them on the two see different pasts",
    }
    assert both <= lines[0]
    assert both <= lines[1]
    assert {
        "- model: configuration ci, w.pt, SHA-256 ab",
        "- machine: cuda:0, a GPU",
        "- device peak: largest sum of live tensors while the side ran alone, without weights",
    } <= lines[0]
    assert {
        "- model: configuration ci, w.pt, SHA-256 ab; the outputs say nothing about the trained model",
        "- machine: cpu, a CPU, 3 threads",
        "- device peak n/a: ran on the CPU",
        "### Speed (untrained weights)",
    } <= lines[1]
    measured = "- measured before: bfloat16, keys and values in 8 bits: "
    assert sum(line.startswith(measured) for line in lines[0]) == 1


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        ("A: gone", "time of B / time of A n/a: A: gone"),
        (Ratio(1.5, reason="too few"), "time of B / time of A: 1.500 (too few)"),
        (Ratio(2.0, 1.5, 3.0, "slower"), "2.000 (1.500 to 3.000 by chance, 1% beyond either end): B is slower"),
        (Ratio(0.5, 0.25, 0.75, "faster"), "0.5000 (0.2500 to 0.7500 by chance, 1% beyond either end): B is faster"),
        (Ratio(1.0, 0.9, 1.1, "no difference"), "1.000 (0.9000 to 1.100 by chance, 1% beyond either end): no diff"),
        (Ratio(1.0, 0.5, 2.0, None, "restless"), "1.000 (0.5000 to 2.000 by chance, 1% beyond either end): restless"),
    ],
)
def test_the_ratio_in_words(ratio: Ratio | str, words: str) -> None:
    (speed,) = [table for table in tables(replace(known(), ratio=ratio)) if table.title == "Speed"]
    assert words in speed.legend[0]


def test_memory_of_a_pass_is_what_came_on_top_of_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several passes the fullest; peaks are counted anew for each."""
    before, peaks, resets = iter([100, 150]), iter([400, 300]), list[str]()
    monkeypatch.setattr(backends_module, "_allocated", lambda device: next(before))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: next(peaks))
    monkeypatch.setattr(backends_module, "reset_peaks", resets.append)
    chosen = selected(4)
    raced = Side(SDPA)
    ticks: list[None] = []
    race(Bench(chosen.method, CPU, 4), [raced], PreparedFrames(chosen.unit), 2, lambda: ticks.append(None))
    assert (raced.device_bytes, resets, len(ticks)) == (300, ["cpu", "cpu"], 8)
    network = Bench(chosen.method, CPU, 4).model(SDPA).network
    assert raced.weights_bytes == sum(p.numel() * p.element_size() for p in network.parameters())


@pytest.mark.parametrize(
    ("rounds", "frames", "words"),
    [(1, 5, "median of 1 round; the first 3 enter"), (2, 2, "median of 2 rounds; the first 2 enter")],
)
def test_the_figure_says_how_many_rounds_and_frames(
    rounds: int, frames: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(write_module, "save", lambda figure, path: (drawn.append(figure), path.touch()))
    files = write_backends(replace(known(), rounds=rounds, frames=frames), prepare_folder(tmp_path))
    assert [file.name for file in files] == ["compare.md", "compare.png", "compare.json"]
    assert any(words in axes.get_title(loc="left") for axes in drawn[0].axes)
    # A round that ended early is out where it has nothing.
    early = side(SDPA, [[4.0, 6.0], [8.0, np.nan, np.nan]])
    gone = replace(side(PAGED, []), failure=OutOfMemory("warm-up", 0, "no room"))
    write_backends(made_up(early, gone), tmp_path)
    times = next(axes for axes in drawn[1].axes if axes.get_title(loc="left").startswith("Time of each frame"))
    assert curve(times, "A sdpa float32").tolist() == [[0, 6], [1, 6]]
    assert [line.get_label() for line in times.lines if str(line.get_label()).startswith("B")] == []


@pytest.mark.parametrize(("length", "total"), [(7, 7 * (2 * 3 + 1)), (None, None)])
def test_progress_knows_the_frames_of_all_passes(
    length: int | None, total: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three rounds each side has three passes, and both one in lockstep; of a video nobody knows."""
    told: list[int | None] = []
    asked: list[tuple[str, str, int, bool]] = []

    def compare(
        a: str,
        b: str,
        selected: object,
        frames: PreparedFrames,
        each_frame: Callable[[], None],
        *,
        rounds: int,
        with_reference: bool,
    ) -> str:
        asked.append((a, b, rounds, with_reference))
        each_frame()
        return "found"

    monkeypatch.setattr(backends_module, "compare_backends", compare)
    monkeypatch.setattr(frames_module, "open_scene", lambda unit: SimpleNamespace(length=length))
    settings = experiment().model_dump(mode="json", exclude_unset=True)
    found = api.compare_backends("sdpa", "paged", experiment=settings, rounds=3, each_frame=told.append)
    assert (found, told, asked) == ("found", [total], [("sdpa", "paged", 3, True)])


def test_the_first_streaming_model_of_an_experiment_is_compared() -> None:
    model = experiment().methods[0]
    replayed = {"kind": "replay", "name": "saved", "trajectory": "x/{scene}.tum"}
    given = experiment().model_dump(mode="json", exclude_unset=True)
    methods = [replayed, given["methods"][0] | {"name": "one"}, given["methods"][0] | {"name": "other"}]
    chosen = select(Experiment.model_validate(given | {"methods": methods}), None, None)
    assert (chosen.method.name, chosen.method.streaming, chosen.unit.scene) == ("one", model.streaming, "room")
    assert select(experiment(), "corridor", None).unit.scene == "corridor"
    with pytest.raises(ConfigError, match=r"no scene 'roo' \(did you mean 'room'\?\); there are: room, corridor"):
        select(experiment(), "roo", None)  # a beginning is no name
    with pytest.raises(ConfigError, match="experiment tiny: comparing backends needs a method of kind lingbot, found"):
        select(Experiment.model_validate(given | {"methods": [replayed]}), None, None)


def test_scale_frames_share_the_time_of_their_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three frames that enter together the first two wait for the third: 1 + 2 + 6 ms are three each."""
    clock = iter([*[50.0] * (3 + stepper_module.WARM_UP_STEPS), 1.0, 2.0, 6.0, 8.0, 0.5])

    def span(device: str) -> SimpleNamespace:
        seconds = next(clock) / 1e3
        return SimpleNamespace(stop=lambda: None, seconds=lambda: seconds)

    def timed(work: Callable[[], object], device: str) -> float:
        work()
        return 0.1

    monkeypatch.setattr(stepper_module, "begin_span", span)
    monkeypatch.setattr(stepper_module, "timed", timed)
    chosen = selected(4)
    raced = Side(SDPA)
    race(Bench(chosen.method, CPU, 4), [raced], PreparedFrames(chosen.unit), 1, lambda: None)
    assert raced.step_ms[0] == pytest.approx([3.0, 3.0, 3.0, 8.0])
    assert raced.warm_up_s == 0.1


def test_windows_hold_back_and_still_pair_by_index() -> None:
    found = compared("sdpa", "paged", windowed={"size": 6, "overlap_size": 4})
    (pair,) = found.pairs
    assert pair.differences.indices.tolist() == list(range(FRAMES))
    assert max(summary.largest or 0 for summary in pair.differences.summaries()) < 1e-3


class Forgetful:
    """A stream whose device refuses memory at one frame."""

    def __init__(self, inner: Session, frame: int) -> None:
        self.interval = inner.interval
        self.bfloat16_from = inner.bfloat16_from
        self._inner, self._left = inner, frame

    def step(self, image: Tensor) -> tuple[FrameOutput, ...]:
        if self._left == 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.10 GiB.\nGPU 0 has …")
        self._left -= 1
        return self._inner.step(image)

    def settle(self) -> bool:
        return False

    def finish(self) -> tuple[FrameOutput, ...]:
        return self._inner.finish()

    def used_bytes(self) -> dict[str, int]:
        return self._inner.used_bytes()

    def allocated_bytes(self) -> int:
        return self._inner.allocated_bytes()


def forgetful(monkeypatch: pytest.MonkeyPatch, backend: str, frame: int) -> None:
    """Every stream of ``backend`` runs out of memory at ``frame``."""
    open_stream = Bench.open

    def opened(self: Bench, contender: Contender) -> Stepper:
        stepper = open_stream(self, contender)
        if contender.backend == backend:
            stepper.session = Forgetful(stepper.session, frame)
        return stepper

    monkeypatch.setattr(Bench, "open", opened)


def test_running_out_of_memory_is_a_result_with_its_frame(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forgetful(monkeypatch, "paged", 11)
    found = compared("sdpa:bfloat16", "paged", rounds=2)
    a, b = found.sides
    assert a.failure is None
    assert len(a.step_ms) == 2
    assert b.failure == OutOfMemory("alone", 11, "CUDA out of memory")
    (partial,) = b.step_ms
    assert np.isfinite(partial).tolist() == [True] * 11 + [False]
    assert isinstance(found.ratio, str)
    assert "frame 11" in found.ratio
    ab, a_reference, b_reference = found.pairs
    assert ab.differences.indices.tolist() == b_reference.differences.indices.tolist() == list(range(11))
    assert a_reference.differences.indices.tolist() == list(range(FRAMES))
    together = OutOfMemory("together", 11, "CUDA out of memory")
    assert [pair.ended for pair in found.pairs] == [together, None, together]
    assert len(failures(found)) == 3
    assert found.frames == FRAMES  # of the side that went on
    files = write_backends(found, prepare_folder(tmp_path / "out"))
    assert all(file.stat().st_size for file in files)
    text = files[0].read_text(encoding="utf-8")
    assert "out of device memory at frame 11, on its own: CUDA out of memory" in text
    numbers = json.loads((tmp_path / "out" / "compare.json").read_text(encoding="utf-8"))
    assert numbers["sides"][1]["failure"]["frame"] == 11
    assert numbers["time_ratio"]["value"] is None


def test_networks_that_do_not_fit_beside_each_other_end_their_pairs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Bench, contender: Contender) -> Stepper:
        raise torch.OutOfMemoryError(f"no room for {contender.name}")

    monkeypatch.setattr(Bench, "open", full)
    chosen = selected(3)
    frames = PreparedFrames(chosen.unit)
    (pair,) = lockstep(Bench(chosen.method, CPU, 3), [SDPA, PAGED], [(SDPA, PAGED)], frames, lambda: None)
    assert pair.ended == OutOfMemory("together", None, "no room for A")
    assert len(pair.differences.indices) == 0


def test_out_of_memory_in_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    forgetful(monkeypatch, "paged", 2)
    found = compared("sdpa", "paged")
    assert found.sides[1].failure is not None
    assert (found.sides[1].failure.stage, found.sides[1].failure.frame) == ("warm-up", 2)
    (pair,) = found.pairs
    assert len(pair.differences.indices) == 0
    assert all(summary.reason == "no frame could be compared" for summary in pair.differences.summaries())
    assert title(found) in page(found, "compare.png")
    json.dumps(document(found), allow_nan=False)


def test_two_sides_that_do_not_fit_are_a_result_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forgetful(monkeypatch, "sdpa", 0)
    found = compared("sdpa", "sdpa")
    words = "out of device memory at frame 0"
    assert (found.frames, found.ratio) == (0, f"A sdpa float32: {words}, in the warm-up: CUDA out of memory")
    assert len(failures(found)) == 3
    text = write_backends(found, tmp_path)[0].read_text(encoding="utf-8")
    for side in "AB":
        assert f"- **{side} sdpa float32: {words}, in the warm-up: CUDA out of memory**" in text


def test_other_failures_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Bench, contender: Contender) -> Stepper:
        raise RuntimeError("a fault")

    monkeypatch.setattr(Bench, "open", broken)
    with pytest.raises(RuntimeError, match="a fault"):
        compared("sdpa", "paged")


def test_keyframes_that_differ_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One side keeps every frame, the other every third."""
    chosen = selected(15)
    work = Bench(chosen.method, CPU, 15)
    open_stream = Bench.open

    def opened(self: Bench, contender: Contender) -> Stepper:
        if contender is not PAGED:
            return open_stream(self, contender)
        streaming = self.method.streaming.model_copy(update={"keyframe_interval": 3})
        other = Bench(self.method.model_copy(update={"streaming": streaming}), self.device, self.frames, self._models)
        return open_stream(other, contender)

    monkeypatch.setattr(Bench, "open", opened)
    told: list[tuple[np.ndarray, np.ndarray]] = []
    differences = backends_module.pose_differences  # type: ignore[attr-defined]

    def noted(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        told.append((first, second))
        return differences(first, second)  # type: ignore[no-any-return]

    monkeypatch.setattr(backends_module, "pose_differences", noted)
    ways, ticks = [(SDPA, PAGED), (PAGED, SDPA), (PAGED, PAGED)], list[None]()
    frames = PreparedFrames(chosen.unit)
    found = lockstep(work, [SDPA, PAGED], ways, frames, lambda: ticks.append(None))
    # Of the twelve step frames 3 … 14 four are kept by both, as are the three scale frames.
    assert [pair.keyframes_differ for pair in found] == [8, 8, 0]
    assert len(ticks) == 15
    # The second of each pair is the one whose extent the positions are relative to.
    (_, paged), (first, _), (same, _) = told
    assert np.array_equal(paged, same)
    assert np.array_equal(first, same)


def test_depth_is_relative_to_the_second_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of streams of which everything is known: A sees 3 m, B 2 m, and a frame of A's has no depth."""

    def opened(self: Bench, contender: Contender) -> SimpleNamespace:
        def step(frame: Frame) -> list[Prediction]:
            depth = np.full((2, 2), 3.0 if contender is SDPA else 2.0, np.float32)
            absent = contender is SDPA and frame.index == 1
            return [Prediction(frame.index, frame.timestamp, np.eye(4), depth=None if absent else depth)]

        return SimpleNamespace(given=0, step=step, finish=list)

    monkeypatch.setattr(Bench, "open", opened)
    ways = [(SDPA, PAGED), (PAGED, SDPA)]
    frames = PreparedFrames(selected(3).unit)
    found = [pair.differences.depth for pair in lockstep(bench(), [SDPA, PAGED], ways, frames, lambda: None)]
    assert found[0] == pytest.approx([1 / 2, np.nan, 1 / 2], nan_ok=True)
    assert found[1] == pytest.approx([1 / 3, np.nan, 1 / 3], nan_ok=True)


@pytest.mark.parametrize("given", [0, 3])
def test_memory_that_lacks_at_the_end_is_told_of_the_last_frame(monkeypatch: pytest.MonkeyPatch, given: int) -> None:
    def finish() -> list[Prediction]:
        raise torch.OutOfMemoryError("no room")

    stream = SimpleNamespace(given=given, step=lambda frame: [], finish=finish)
    monkeypatch.setattr(Bench, "open", lambda self, contender: stream)
    frames = PreparedFrames(selected(3).unit)
    (pair,) = lockstep(bench(), [SDPA], [(SDPA, SDPA)], frames, lambda: None)
    assert pair.ended == OutOfMemory("together", max(0, given - 1), "no room")


def side(contender: Contender, rounds: list[list[float]]) -> Side:
    return Side(contender, step_ms=[np.array(step_ms) for step_ms in rounds])


def test_the_ratio_of_known_times() -> None:
    # A load that comes and goes meets both sides of a round; the start is not timed, and one frame decides nothing.
    loads = (1.0, 3.0, 1.5, 7.0, 2.0, 1.0, 4.0)
    frames = [90.0, *([10.0, 12.0] * 19), 1.0]
    a = side(SDPA, [[500.0, 500.0, *(load * ms for ms in frames)] for load in loads])
    for slower, verdict in ((2.0, "slower"), (0.5, "faster"), (1.0, "no difference")):
        factors = [slower * each for each in (0.97, 1.0, 1.03, 1.0, 0.97, 1.03, 1.0)]
        rounds = zip(loads, factors, strict=True)
        b = side(PAGED, [[1.0, 1.0, *(load * factor * ms for ms in frames)] for load, factor in rounds])
        found = time_ratio(a, b, scale_frames=2)
        assert isinstance(found, Ratio)
        assert found.value == pytest.approx(slower, rel=0.01)
        assert (found.low, found.high) == (pytest.approx(0.97 * slower), pytest.approx(1.03 * slower))
        assert (found.verdict, found.reason) == (verdict, None)
    # Rounds that tell nothing are no difference, and why is said.
    a = side(SDPA, [[500.0, *[10.0] * 40]] * 7)
    b = side(PAGED, [[500.0, *[10.0 * factor] * 40] for factor in (0.3, 3.0, 0.5, 2.0, 1.0, 4.0, 0.25)])
    wild = time_ratio(a, b, scale_frames=1)
    assert isinstance(wild, Ratio)
    assert (wild.value, wild.verdict) == (pytest.approx(1.0), None)
    assert wild.reason is not None
    assert "too restless to tell 8%; repeat on a quieter machine" in wild.reason
    few = time_ratio(side(SDPA, [[1.0, 2.0]]), side(PAGED, [[1.0, 3.0]]), scale_frames=1)
    assert few == Ratio(1.5, reason="an interval needs 3 rounds, there are 1")
    for lengths in ((1, 1), (2, 1), (1, 2)):
        one, other = (side(each, [[1.0] * length]) for each, length in zip((SDPA, PAGED), lengths, strict=True))
        assert time_ratio(one, other, scale_frames=1) == (
            "the stream ends with its scale phase: there is no step to time"
        )
    # Of three rounds of few frames the median, whatever the third one does; enough rounds, too few frames.
    rounds = time_ratio(side(SDPA, [[9.0, 1.0]] * 3), side(PAGED, [[9.0, b] for b in (2.0, 1.0, 6.0)]), scale_frames=1)
    assert rounds == Ratio(2.0, reason="1 timed frames a round, at least 32 are needed")
    for lost in ((0,), (1,), (0, 1)):
        sides = [side(SDPA, [[1.0, 2.0]]), side(PAGED, [[1.0, 3.0]])]
        for position in lost:
            sides[position].failure = OutOfMemory("alone", 1, "no room")
        assert str(time_ratio(*sides, scale_frames=1)).startswith(("A sdpa", "B paged")[lost[0]])


def test_depth_differences_are_relative_medians() -> None:
    second = np.array([[1.0, 2.0, 4.0, np.inf], [0.0, np.nan, 8.0, 9.0]], np.float32)
    first = np.array([[1.1, 2.0, 5.0, 2.0], [3.0, 1.0, np.inf, np.nan]], np.float32)
    assert depth_difference(first, second) == pytest.approx(0.1)  # of 0.1, 0 and 0.25
    assert depth_difference(first[:, :2], second[:, :2]) == pytest.approx(0)  # of 0 and 0.1 the lower one
    assert np.isnan(depth_difference(first, np.zeros((2, 4), np.float32)))
    assert depth_difference(first, -second) == pytest.approx(2.1)  # of 2.1, 2 and 2.25
    assert np.isnan([depth_difference(None, second), depth_difference(first, None)]).all()


def test_frames_are_decoded_once_while_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = PreparedFrames(selected(5).unit)
    first = list(frames.frames())
    assert all(one is other for one, other in zip(first, frames.frames(), strict=True))
    nbytes = 28 * 28 * 3
    monkeypatch.setattr(frames_module, "MAX_BYTES_KEPT", 5 * nbytes)
    whole = PreparedFrames(selected(5).unit)
    assert all(one is other for one, other in zip(list(whole.frames()), whole.frames(), strict=True))
    # Of a pass that was left early nothing is kept: the next one has all.
    early = PreparedFrames(selected(5).unit)
    early.first()
    assert [frame.index for frame in early.frames()] == list(range(5))
    monkeypatch.setattr(frames_module, "MAX_BYTES_KEPT", 3 * nbytes)
    again = PreparedFrames(selected(5).unit)
    passes = [list(again.frames()) for _ in range(2)]
    assert passes[0][0] is not passes[1][0]
    for frames_of_pass in passes:
        for one, other in zip(frames_of_pass, first, strict=True):
            np.testing.assert_array_equal(one.image, other.image)


def test_a_scene_without_frames_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = SimpleNamespace(dataset="tum", scene="desk", frames=lambda *, depth: iter(()))
    monkeypatch.setattr(frames_module, "open_scene", lambda unit: scene)
    frames = PreparedFrames(selected(3).unit)
    for _ in range(2):
        with pytest.raises(DataError, match=r"^tum/desk: expected frames, found none$"):
            frames.first()


def test_a_selection_is_cut_and_scenes_are_found_by_name() -> None:
    chosen = select(experiment(), "corridor", 7)
    assert chosen.unit.scene == "corridor"
    assert PreparedFrames(chosen.unit).sequence.length == 7
    assert chosen.weights == "untrained (seed 0)"
    few = experiment()
    cut = few.datasets[0].model_copy(update={"selection": few.datasets[0].selection.model_copy(update={"count": 5})})
    few = few.model_copy(update={"datasets": (cut,)})
    assert PreparedFrames(select(few, None, 7).unit).sequence.length == 5, "what the experiment leaves out stays out"
    assert PreparedFrames(select(few, None, 3).unit).sequence.length == 3, "fewer of them may be asked for"
    assert PreparedFrames(select(experiment(), None, 10**6).unit).sequence.length == FRAMES
    with pytest.raises(ConfigError, match=r"no scene 'corridr' \(did you mean 'corridor'\?\); there are: room, corr"):
        select(experiment(), "corridr", None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sdpaa", r"A: no backend 'sdpaa' \(did you mean 'sdpa'\?\)"),
        ("sdpa:bfloat", r"A: expected float32, .* behind sdpa, found 'bfloat' \(did you mean 'bfloat16'\?\)"),
        ("sdpa:", "A: expected float32, bfloat16, float16, 8, 16 behind sdpa, found ''"),
        (
            "sdpa:float32:float32",
            "A: expected one precision at most and one of keys and values, found 'sdpa:float32:flo",
        ),
        ("sdpa:8:16", "A: expected one precision at most and one of keys and values, found 'sdpa:8:16'"),
    ],
)
def test_unknown_sides(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_contender("A", text, method(), CPU)


def test_sides_are_resolved() -> None:
    expected = Contender("A", "sdpa", "bfloat16", tf32_heads=True)
    assert parse_contender("A", "auto", method(precision="bfloat16"), CPU) == expected
    assert parse_contender("B", "paged:float16", method(), CPU).label == "B paged float16"
    narrow = method().model_copy(update={"streaming": StreamSettings(cache_precision=8)})
    assert parse_contender("A", "sdpa", narrow, CPU).cache_precision == 8
    assert parse_contender("A", "sdpa:16", narrow, CPU).cache_precision is None
    assert parse_contender("B", "paged:8", method(), CPU).label == "B paged float32 8-bit cache"
    assert parse_contender("B", "paged:8:float16", method(), CPU).label == "B paged float16 8-bit cache"
    with pytest.raises(ConfigError, match="B: FlashInfer reads no 8-bit numbers"):
        parse_contender("B", "flashinfer:float16:8", method(), CPU)


@pytest.mark.parametrize(
    ("heads", "precision", "rounds", "label"),
    [
        ("auto", "bfloat16", True, "A sdpa bfloat16"),
        ("auto", "float32", False, "A sdpa float32"),
        ("float32", "bfloat16", False, "A sdpa bfloat16 float32 heads"),
        ("tf32", "float32", True, "A sdpa float32 tf32 heads"),
    ],
)
def test_heads_round_as_the_method_says(heads: str, precision: str, rounds: bool, label: str) -> None:
    side = parse_contender("A", f"sdpa:{precision}", method(heads=heads), CPU)
    found = Bench(method(heads=heads), CPU, FRAMES)
    assert found.model(side).network.tf32_heads is rounds
    assert side.label == label
    assert side.is_reference is (precision == "float32" and not rounds)
    assert not found.model(reference_contender()).network.tf32_heads
    other = replace(side, name="B", backend="paged", cache_precision=8)
    assert found.model(other) is found.model(side), "weights are there once"


def method(**settings: object) -> LingbotConfig:
    return selected().method.model_copy(update=settings)


def test_a_backend_that_cannot_be_had_is_one_clear_line() -> None:
    chosen = selected(4)
    images = PreparedFrames(chosen.unit)
    with pytest.raises(DependencyError, match="backend sdpa works meanwhile"):
        compare_backends("sdpa", "flashinfer:bfloat16", chosen, images, print, rounds=1, with_reference=False)
