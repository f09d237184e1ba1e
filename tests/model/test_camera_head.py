"""The camera head's refinement (model.md section 5): what an iteration starts from and what it gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lingbot_eval.model.network import POSE_NUMBERS, CameraHead
from tests.streaming.networks import TINY


class Alone:
    """A cache in which every token sees itself alone; counts the layers."""

    def __init__(self) -> None:
        self.layers: list[int] = []

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.layers.append(layer)
        return value


class Deltas(nn.Module):
    """In place of the pose branch: one chosen change of the encoding an iteration."""

    def __init__(self, *rows: list[float]) -> None:
        super().__init__()
        self.rows = [torch.tensor(row) for row in rows]

    def forward(self, x: Tensor) -> Tensor:
        return self.rows.pop(0).expand(len(x), -1)


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_fields_of_view_are_rectified_in_what_leaves_and_not_in_what_is_refined(iterations: int) -> None:
    """-1 then +3 is 2: an iteration goes on from the encoding as it is, of which only the output is cut at 0."""
    pose = [0.5, -0.5, 0.25, 0.0, 0.0, 0.0, -1.0]
    head = CameraHead(TINY)
    head.pose_branch = Deltas([*pose, -1.0, 0.5], [*pose, 3.0, -2.0], [*pose, -4.0, 4.0])  # type: ignore[assignment]  # a stand-in
    cache = Alone()
    with torch.no_grad():
        outputs = head(torch.ones(2, TINY.token_dim), iterations, cache)
    fields = [[0.0, 0.5], [2.0, 0.0], [0.0, 2.5]][:iterations]
    assert len(outputs) == iterations
    for number, (output, fov) in enumerate(zip(outputs, fields, strict=True), start=1):
        expected = torch.tensor([*(number * value for value in pose), *fov])
        assert torch.equal(output, expected.expand(2, POSE_NUMBERS))
    assert cache.layers == list(range(iterations * TINY.camera_blocks))
