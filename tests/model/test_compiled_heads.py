"""Dense heads through torch.compile: the same maps, one program a size, and plain heads where compiling fails."""

from __future__ import annotations

import gc
import re
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from lingbot_eval.hardware import is_out_of_memory
from lingbot_eval.methods.network import compilation_measurements, dense_heads
from lingbot_eval.model import compiled_heads
from lingbot_eval.model.compilation import Compilation
from lingbot_eval.model.config import PATCH_SIZE
from lingbot_eval.model.dense_head import SIZES_KEPT
from lingbot_eval.model.formula import fill_by_formula
from lingbot_eval.model.network import DenseOutput, GeometricContextTransformer
from tests.model.compilers import broken, full, full_driver, full_host, full_memory, use
from tests.streaming.networks import TINY

# Levels of different widths, so that their position maps are not of one shape.
CONFIG = TINY.model_copy(update={"dpt_channels": (4, 8, 12, 16)})
SIZES = ((2, 3), (3, 4), (3, 2))


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@torch.no_grad()
def network(*, point_head: bool = False) -> GeometricContextTransformer:
    model = GeometricContextTransformer(CONFIG, point_head=point_head)
    fill_by_formula(model)
    return model.requires_grad_(requires_grad=False).eval()


@torch.inference_mode()
def maps(model: GeometricContextTransformer, rows: int, columns: int, frames: int = 2) -> DenseOutput:
    generator = torch.Generator().manual_seed(rows)
    tokens = [torch.randn(frames, 6 + rows * columns, CONFIG.token_dim, generator=generator) for _ in range(4)]
    return model.maps(tokens, PATCH_SIZE * rows, PATCH_SIZE * columns)


def compilation(model: GeometricContextTransformer) -> Compilation:
    found = model.head_compilation
    assert found is not None
    return found


def test_every_size_is_one_program_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when more sizes take turns than position maps are kept of."""
    assert len(SIZES) > SIZES_KEPT
    use(monkeypatch, "eager")
    plain = network(point_head=True)
    compiled = plain.with_compiled_heads()
    for rows, columns in (*SIZES, *SIZES, *SIZES):
        expected, found = maps(plain, rows, columns), maps(compiled, rows, columns)
        for one, other in ((expected.depth, found.depth), (expected.points, found.points)):
            assert one is not None
            assert other is not None
            assert torch.equal(one, other)
    found = compilation(compiled)
    assert (found.programs, found.plain_calls, found.reason) == (2 * len(SIZES), 0, None)
    assert found.calls == 2 * 2 * 3 * len(SIZES)  # both heads, frame by frame


def test_a_program_that_is_made_anew_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch makes a program of its own for another mode of gradients, in a call like every other."""
    use(monkeypatch, "eager")
    model = network().with_compiled_heads()
    maps(model, 2, 3)
    first = compilation(model)
    assert first.seconds > 0
    maps(model, 2, 3)
    assert compilation(model).since(first).seconds == 0
    with torch.no_grad():
        model.maps([torch.randn(1, 12, CONFIG.token_dim) for _ in range(4)], 28, 42)
    again = compilation(model)
    assert again.programs == first.programs + 1
    assert again.seconds > first.seconds


def test_the_network_that_it_is_made_of_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, broken)
    plain = network()
    twin = plain.with_compiled_heads()
    assert plain.head_compilation is None
    assert compilation_measurements(plain, None) == ()
    assert all(one is other for one, other in zip(plain.parameters(), twin.parameters(), strict=True))
    twin.choose_heads("tf32")
    assert not plain.tf32_heads
    assert twin.state_dict().keys() == plain.state_dict().keys()
    head = plain.camera_head
    twin.camera_head = type(head)(CONFIG)
    assert plain.camera_head is head


def test_heads_that_cannot_be_compiled_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def counted(graph: Any, inputs: Any) -> Any:
        nonlocal asked
        asked += 1
        return broken(graph, inputs)

    use(monkeypatch, counted)
    plain = network(point_head=True)
    model = plain.with_compiled_heads()
    for size in SIZES[:2]:
        assert torch.equal(maps(model, *size).depth, maps(plain, *size).depth)
    assert asked == 2 * 2  # once a head and size, and nobody tries twice
    (measured,) = compilation_measurements(model, None)
    assert measured.value is None
    assert measured.reason is not None
    assert re.fullmatch(
        r"the depth head ran as it was at 56×42: BackendCompilerFailed: backend='counted' raised: RuntimeError: "
        r"no compiler here \([0-9.]+ s of compiling\)",
        measured.reason,
    )


def test_a_size_that_cannot_be_compiled_leaves_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever order they come in."""

    def not_three_rows(graph: Any, inputs: Any) -> Any:
        time.sleep(0.05)
        return broken(graph, inputs) if any(6 + 3 * 4 in each.shape for each in inputs) else graph.forward

    use(monkeypatch, not_three_rows)
    model = network().with_compiled_heads()
    for size, plain in ((SIZES[0], 0), (SIZES[1], 2), (SIZES[2], 0), (SIZES[0], 0), (SIZES[1], 2)):
        before = compilation(model)
        maps(model, *size)
        found = compilation(model).since(before)
        assert (found.calls, found.plain_calls) == (2, plain)
        assert (found.reason is None) is (plain == 0)
    assert compilation(model).programs == 2
    assert compilation(model).seconds > 3 * 0.05  # those of the one that failed, too


def test_a_compiler_that_is_switched_off_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch runs the function as it is then, and in some versions says nothing."""
    use(monkeypatch, "eager")
    model = network().with_compiled_heads()
    with torch.compiler.set_stance("force_eager"):
        assert torch.equal(maps(model, 2, 3).depth, maps(network(), 2, 3).depth)
    found = compilation(model)
    assert (found.programs, found.plain_calls) == (0, 2)
    assert found.reason is not None
    assert "the depth head ran as it was at 42×28: " in found.reason


def test_a_program_that_is_passed_over_later_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "eager")
    model = network().with_compiled_heads()
    maps(model, 2, 3)
    before = compilation(model)
    with torch.compiler.set_stance("force_eager"):
        maps(model, 2, 3)
    assert compilation(model).since(before).plain_calls == 2


def test_one_head_may_fail_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_four_maps(graph: Any, inputs: Any) -> Any:
        outputs = next(node for node in graph.graph.nodes if node.op == "output").args[0]
        return broken(graph, inputs) if outputs[0].meta["example_value"].shape[1] == 4 else graph.forward

    use(monkeypatch, no_four_maps)
    plain = network(point_head=True)
    model = plain.with_compiled_heads()
    assert torch.equal(maps(model, 2, 3).depth, maps(plain, 2, 3).depth)
    assert compilation(model).programs == 1
    assert compilation(model).reason is not None
    assert str(compilation(model).reason).startswith("the point head ran as it was at 42×28: ")
    assert dense_heads(model, None) == "plain"


@pytest.mark.parametrize("compiler", [full, full_driver, full_host, full_memory])
def test_memory_that_runs_out_is_no_failure_of_the_compiler(monkeypatch: pytest.MonkeyPatch, compiler: Any) -> None:
    """It is a data point of a study, not a reason to try again without the compiler."""
    use(monkeypatch, compiler)
    model = network().with_compiled_heads()
    expected = {full: torch.OutOfMemoryError, full_memory: MemoryError}.get(compiler, RuntimeError)
    with pytest.raises(expected, match=r"allocate|out of memory") as raised:
        maps(model, 2, 3)
    assert type(raised.value) is expected
    assert is_out_of_memory(raised.value)
    assert compilation(model).reason is None
    assert compilation(model).seconds > 0


def test_memory_that_the_compiler_could_do_without_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    def gave_up(graph: Any, inputs: Any) -> Any:
        try:
            full(graph, inputs)
        except torch.OutOfMemoryError:
            raise ValueError("nothing fits") from None

    use(monkeypatch, gave_up)
    model = network().with_compiled_heads()
    maps(model, 2, 3)
    assert "ValueError: nothing fits" in str(compilation(model).reason)


def test_the_time_of_a_program_whose_first_run_fails_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(graph: Any, inputs: Any) -> Any:
        time.sleep(0.05)
        return lambda *arguments: full(graph, inputs)

    use(monkeypatch, slow)
    model = network().with_compiled_heads()
    with pytest.raises(torch.OutOfMemoryError):
        maps(model, 2, 3)
    assert compilation(model).programs == 1
    assert compilation(model).seconds > 0.05


def test_an_error_of_the_program_itself_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: Any, inputs: Any) -> Any:
        def run(*arguments: Any) -> Any:
            raise ZeroDivisionError("in the program")

        return run

    use(monkeypatch, wrong)
    with pytest.raises(ZeroDivisionError, match="in the program"):
        maps(network().with_compiled_heads(), 2, 3)


def test_more_programs_than_torch_makes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its limit torch runs a function as it is, and says so in a log alone."""
    use(monkeypatch, "eager")
    monkeypatch.setattr(compiled_heads, "MOST_PROGRAMS", 2)
    plain = network()
    model = plain.with_compiled_heads()
    for size in SIZES:
        assert torch.equal(maps(model, *size).depth, maps(plain, *size).depth)
    assert compilation(model).programs == 2
    assert compilation(model).reason == (
        "the depth head ran as it was at 28×42: this process has compiled dense heads 2 times, for different sizes or "
        "settings"
    )


def test_a_compiled_head_is_not_kept_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "eager")

    def weights() -> weakref.ref[Any]:
        model = network().with_compiled_heads()
        maps(model, 2, 3)
        return weakref.ref(model.depth_head.norm.weight)

    found = weights()
    gc.collect()
    assert found() is None


def test_a_measurement_says_what_one_stream_took(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "eager")
    model = network().with_compiled_heads()
    (unused,) = compilation_measurements(model, model.head_compilation)
    assert (unused.value, unused.reason) == (None, "no frame has reached the heads")
    maps(model, 2, 3)
    (whole,) = compilation_measurements(model, None)
    assert whole.value == pytest.approx(1e3 * compilation(model).seconds)
    assert (whole.unit, whole.samples) == ("ms", 1)
    before = model.head_compilation
    maps(model, 2, 3)
    (nothing,) = compilation_measurements(model, before)
    assert (nothing.value, nothing.samples) == (0, 0)
    maps(model, 3, 4)
    (second,) = compilation_measurements(model, before)
    assert second.value is not None
    assert second.value > 0
    assert second.samples == 1


def test_position_maps_lie_as_tokens_come() -> None:
    """Else the sum of the two would be turned round at every level."""
    for known in network().depth_head.positions(28, 42):
        assert known.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_the_real_compiler() -> None:
    plain = network(point_head=True)
    model = plain.with_compiled_heads()
    for size in SIZES[:2]:
        torch.testing.assert_close(maps(model, *size).depth, maps(plain, *size).depth)
    assert compilation(model).reason is None
    assert compilation(model).programs == 4
