"""The contrastive loss is small for features that know their match, and that of guessing for those that do not."""

from __future__ import annotations

import numpy as np
import torch

from training.losses import LAGS, Displacements, matching_loss

ROWS, COLUMNS, FRAMES = 4, 6, 3
PATCHES = ROWS * COLUMNS


def shifted(step: int) -> tuple[torch.Tensor, Displacements]:
    """A wide picture of distinct columns of patches that moves ``step`` patches to the left with every frame."""
    world = torch.randn(ROWS, COLUMNS + step * FRAMES, 32, generator=torch.Generator().manual_seed(0))
    features = torch.stack([world[:, step * f : step * f + COLUMNS] for f in range(FRAMES)]).flatten(1, 2)[None]
    patches = torch.zeros(1, FRAMES, PATCHES, len(LAGS), 2)
    patches[..., 0] = step * torch.tensor(LAGS, dtype=torch.float32)
    seen = torch.zeros(1, FRAMES, PATCHES, len(LAGS), dtype=torch.bool)
    column = torch.arange(PATCHES) % COLUMNS
    seen[:, 1:, :, 0] = column + step < COLUMNS
    return features, Displacements(patches, seen)


def test_features_that_know_their_match_cost_little_and_others_as_much_as_guessing() -> None:
    for step in (0, 1, 2):
        features, truth = shifted(step)
        right = float(matching_loss(features, truth, (ROWS, COLUMNS)))
        assert right < 0.05
        same = float(matching_loss(torch.ones_like(features), truth, (ROWS, COLUMNS)))
        np.testing.assert_allclose(same, np.log(PATCHES), rtol=1e-4)
        mirrored = Displacements(-truth.patches, truth.seen)
        if step:
            assert float(matching_loss(features, mirrored, (ROWS, COLUMNS))) > 1.0


def test_a_match_between_patches_is_shared() -> None:
    features, truth = shifted(0)
    between = Displacements(
        truth.patches + torch.tensor([0.5, 0.0]), truth.seen & (torch.arange(PATCHES) % 6 < 5)[:, None]
    )
    halves = torch.nn.functional.normalize(features, dim=-1)
    # Features half way between two neighbours see both alike: one bit is left open.
    late = halves[:, 1:] + halves[:, 1:].unflatten(2, (ROWS, COLUMNS)).roll(-1, 3).flatten(2, 3)
    found = float(
        matching_loss(
            torch.cat([halves[:, :1], late], dim=1)[:, :2],
            Displacements(between.patches[:, :2], between.seen[:, :2]),
            (ROWS, COLUMNS),
        )
    )
    np.testing.assert_allclose(found, np.log(2), atol=0.1)


def test_nothing_in_view_costs_nothing_and_gradients_are_finite() -> None:
    features, truth = shifted(1)
    features.requires_grad_()
    hidden = Displacements(truth.patches + 1e6, torch.zeros_like(truth.seen))
    loss = matching_loss(features, hidden, (ROWS, COLUMNS))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
