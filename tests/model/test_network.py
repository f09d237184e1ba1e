"""The network's outside: key names, precision, and what does not depend on the past."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from lingbot_eval.errors import ConfigError
from lingbot_eval.model.build import build_model, choose_device, ready
from lingbot_eval.model.config import CONFIGS, ModelConfig
from lingbot_eval.model.network import GeometricContextTransformer, HeadPrecision, ResidualUnit, position_map
from tests.streaming.networks import TINY, tiny_network

KEYS = Path(__file__).parents[1] / "data" / "full_state_dict.json"


def test_keys_and_shapes_of_the_public_checkpoints() -> None:
    with torch.device("meta"):
        model = GeometricContextTransformer(CONFIGS["full"])
    expected = json.loads(KEYS.read_text(encoding="utf-8"))
    assert len(expected) == 1342
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == expected


def test_point_head_is_named_like_the_depth_head() -> None:
    with torch.device("meta"):
        model = GeometricContextTransformer(CONFIGS["full"], point_head=True)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    for key, shape in shapes.items():
        if key.startswith("depth_head."):
            twin = shapes[key.replace("depth_head.", "point_head.")]
            assert twin == ((4, *shape[1:]) if "output_conv2.2." in key else shape)


def test_position_embedding_is_untouched_on_its_own_grid() -> None:
    backbone = tiny_network().aggregator.patch_embed
    assert backbone.position_embedding(3, 3) is backbone.pos_embed
    # As many patches in a row are another grid.
    assert not torch.allclose(backbone.position_embedding(1, 9), backbone.pos_embed)
    assert backbone.position_embedding(2, 5).shape == (1, 11, TINY.embed_dim)
    assert torch.equal(backbone.position_embedding(2, 5)[:, :1], backbone.pos_embed[:, :1])


def test_norms_add_what_they_were_trained_with() -> None:
    """Where a variance is small it decides the outcome; the backbone has ten times less of it."""
    norms = {name: module for name, module in tiny_network().named_modules() if isinstance(module, torch.nn.LayerNorm)}
    backbone = [norm.eps for name, norm in norms.items() if name.startswith("aggregator.patch_embed.")]
    others = [norm.eps for name, norm in norms.items() if not name.startswith("aggregator.patch_embed.")]
    assert backbone == [1e-6] * 3
    # Two and two of each block of aggregator and one of the camera head, its two more, and the dense head's.
    assert others == [1e-5] * (4 * 2 * 4 + 2 + 2 + 1)


@pytest.mark.parametrize(("count", "clock"), [(1, 0), (3, 0), (1, 1), (2, 7)])
def test_the_first_frame_of_a_stream_and_its_scale_phase_have_tokens_of_their_own(count: int, clock: int) -> None:
    """The camera token and the registers by the frame, the scale token by the phase, whose frames come at once."""
    aggregator = tiny_network().aggregator
    found = aggregator.place(torch.rand(count, 3, 28, 28), clock).special
    assert found.shape == (count, 6, TINY.embed_dim)
    for frame, tokens in enumerate(found):
        later = int(clock > 0 or frame > 0)
        assert torch.equal(tokens[0], aggregator.camera_token[0, later, 0])
        assert torch.equal(tokens[1:5], aggregator.register_token[0, later])
        assert torch.equal(tokens[5], aggregator.scale_token[0, int(clock > 0), 0])


def test_new_weights_are_not_answered_from_old_constants() -> None:
    """The resized position map is remembered between passes; loading weights must forget it."""
    model, _ = build_model(
        "mini", checkpoint=None, seed=0, point_head=False, device=torch.device("cpu"), precision="float32"
    )
    before = model.aggregator.constants(28, 42).positions.clone()
    state = {key: value + 1 for key, value in model.state_dict().items()}
    model.load_state_dict(state)
    assert not torch.equal(model.aggregator.constants(28, 42).positions, before)


def test_another_shape_of_as_many_patches_has_constants_of_its_own() -> None:
    """Upright photographs after lying ones."""
    aggregator = copy.deepcopy(tiny_network()).aggregator
    lying, upright = aggregator.constants(28, 56).positions, aggregator.constants(56, 28).positions
    assert torch.equal(lying, aggregator.patch_embed.position_embedding(2, 4))
    assert torch.equal(upright, aggregator.patch_embed.position_embedding(4, 2))
    assert not torch.equal(lying, upright)
    again = aggregator.constants(28, 56)
    assert aggregator.constants(28, 56) is again
    aggregator.constants(56, 28)
    assert aggregator.constants(28, 56) is not again, "constants of many sizes pile up"


def test_a_network_in_training_sees_its_weights_as_they_are_now() -> None:
    aggregator = copy.deepcopy(tiny_network()).aggregator.requires_grad_()
    kept = aggregator.constants(28, 42).positions
    assert not kept.requires_grad
    aggregator.train()
    assert aggregator.constants(28, 42).positions.requires_grad
    with torch.no_grad():
        aggregator.patch_embed.pos_embed.add_(1)
    assert torch.allclose(aggregator.constants(28, 42).positions, kept + 1, atol=1e-5)
    assert torch.allclose(aggregator.eval().constants(28, 42).positions, kept + 1, atol=1e-5)


def test_position_maps_of_an_upright_image_are_not_those_of_a_lying_one() -> None:
    head = copy.deepcopy(tiny_network()).depth_head

    def sides(height: int, width: int) -> list[tuple[int, int]]:
        return [(down.shape[-2], across.shape[-1]) for across, down in head.positions(height, width)]

    lying, upright = sides(28, 56), sides(56, 28)
    assert (lying[0], lying[-1]) == ((2, 4), (28, 56))
    assert upright == [(rows, columns) for columns, rows in lying]
    of_one_size = 2 * len(lying)
    for patches in range(1, 8):
        head.positions(14 * patches, 14)
        assert 0 < len(head.position_maps()) <= 2 * of_one_size, "sizes pile up"


def test_residual_skip_is_the_rectified_input() -> None:
    unit = ResidualUnit(2).requires_grad_(requires_grad=False)
    for parameter in unit.parameters():
        parameter.zero_()
    x = torch.tensor([-1.0, 2.0]).view(1, 2, 1, 1)
    assert torch.equal(unit(x).flatten(), torch.tensor([0.0, 2.0]))


def test_position_map_is_the_formula() -> None:
    across, down = position_map(8, 3, 4, aspect=1.5)
    found = torch.cat([across.expand(-1, -1, 3, -1), down.expand(-1, -1, -1, 4)], 1)[0]
    span_x, span_y = 1.5 / 3.25**0.5, 1 / 3.25**0.5
    for k, omega in enumerate((1.0, 100.0**-0.5)):
        for row in range(3):
            for column in range(4):
                u = torch.tensor(-span_x * 3 / 4 + column * (2 * span_x * 3 / 4) / 3)
                v = torch.tensor(-span_y * 2 / 3 + row * (2 * span_y * 2 / 3) / 2)
                wanted = torch.stack([(u * omega).sin(), (u * omega).cos(), (v * omega).sin(), (v * omega).cos()])
                torch.testing.assert_close(found[k::2, row, column], 0.1 * wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_is_the_trunk_s_products_alone(precision: str) -> None:
    model, _ = build_model(
        "mini", checkpoint=None, seed=0, point_head=False, device=torch.device("cpu"), precision=precision
    )
    low = getattr(torch, precision)
    assert model.trunk_dtype is low
    for name, parameter in model.named_parameters():
        product = name.startswith("aggregator.") and parameter.ndim >= 2 and name.endswith(".weight")
        head = not name.startswith("aggregator.")
        if product:
            assert parameter.dtype is low, name
        elif head or ".norm" in name or name.endswith(("gamma", "token")):
            assert parameter.dtype is torch.float32, name


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in {"cpu", "cuda"}
    with pytest.raises(ConfigError, match="device cuda:63: this machine has"):
        choose_device("cuda:63")


@pytest.mark.parametrize(
    ("name", "device"),
    [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:0", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu")],
)
def test_of_two_gpus_each_can_be_had_and_no_third(monkeypatch: pytest.MonkeyPatch, name: str, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device(name) == torch.device(device)
    with pytest.raises(ConfigError, match="device cuda:2: this machine has 2 CUDA devices; use device auto or cpu"):
        choose_device("cuda:2")
    for other in ("gpu", "cpu0", "cuda:1x", "cuda:", "autocpu", "cuda:0001"):
        with pytest.raises(ConfigError, match=f"device {other}: expected auto, cpu, cuda or cuda:N"):
            choose_device(other)
    # A driver that counts GPUs and cannot use them.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="this machine has 0 CUDA devices"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        *(
            ({"output_groups": groups}, re.escape(f"output_groups {groups} must rise within 0…3"))
            for groups in ((0, 1, 2, 4), (0, 0, 1, 2), (1, 0, 2, 3), (-1, 0, 1, 2))
        ),
        ({"groups": 3}, r"output_groups \(0, 1, 2, 3\) must rise within 0…2"),
        ({"camera_heads": 3}, "camera_heads 3 must divide 2·embed_dim = 128"),
        *(
            ({"embed_dim": 100}, "multiple of 64"),
            ({"embed_dim": 0}, "greater than or equal to 64"),
            ({"window": 0}, "window"),
        ),
        *(({"dpt_channels": (4, 4, 4, 6)}, "multiple of 4"), ({"dpt_features": 12}, "multiple of 8")),
        *(({name: 0}, name) for name in ("dpt_features", "groups", "backbone_blocks", "trained_grid", "camera_blocks")),
    ],
)
def test_sizes_that_cannot_work(change: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ModelConfig.model_validate(TINY.model_dump() | change)


@pytest.mark.parametrize("change", [{"camera_heads": 128}, {"groups": 5}, {"window": 1}, {"dpt_features": 8}])
def test_sizes_that_just_work(change: dict[str, object]) -> None:
    found = ModelConfig.model_validate(TINY.model_dump() | change)
    with torch.device("meta"):
        GeometricContextTransformer(found)
    assert found.model_dump().items() >= change.items()


def test_dense_heads_lie_as_tokens_come_and_tell_what_they_keep() -> None:
    model = ready(GeometricContextTransformer(TINY, point_head=True), torch.device("cpu"), "float32")
    assert model.point_head is not None
    for head in (model.depth_head, model.point_head):
        weight = head.scratch.output_conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert not weight.is_contiguous()
        head.positions(28, 42)
    # Of each head two halves of four levels and of the image.
    grid, *maps = model.constants(28, 42)
    assert grid is model.aggregator.constants(28, 42)
    assert [len(kept) for kept in maps if isinstance(kept, tuple)] == [10, 10]


def test_the_named_sizes_are_those_that_weights_were_trained_in() -> None:
    """Shapes do not show them all: other heads, groups or windows would load the same file and give other numbers."""
    named = {name: (c.heads, c.camera_heads, c.camera_blocks, c.output_groups, c.window) for name, c in CONFIGS.items()}
    assert named == {
        "full": (16, 16, 4, (4, 11, 17, 23), 64),
        "mini": (2, 16, 4, (0, 1, 2, 3), 8),
        "ci": (3, 6, 2, (0, 1, 2, 3), 16),
    }


@pytest.mark.parametrize(
    ("heads", "trunk", "rounds"),
    [
        ("auto", torch.float32, False),
        ("auto", torch.bfloat16, True),
        ("float32", torch.bfloat16, False),
        ("tf32", torch.float32, True),
    ],
)
def test_heads_round_beside_a_trunk_in_half_precision(heads: HeadPrecision, trunk: torch.dtype, rounds: bool) -> None:
    model = copy.deepcopy(tiny_network())
    model.set_trunk_dtype(trunk)
    model.choose_heads(heads)
    assert model.tf32_heads is rounds
