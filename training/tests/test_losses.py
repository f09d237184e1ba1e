"""What a clip says is true, what fits the truth costs nothing, and the contrastive loss knows a match from a guess."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation as Reference

from lingbot_eval.model.config import PATCH_SIZE
from training.clips import (
    Bank,
    Clips,
    conjugate,
    draw_clips,
    product,
    quaternion_of,
    rotate_back,
    turned,
)
from training.forward import ClipOutput
from training.losses import (
    LAGS,
    MATCH_DIM,
    Auxiliary,
    Displacements,
    LossWeights,
    losses,
    matching_loss,
    true_displacements,
)
from training.scene_jobs import (
    TEST_SEEDS,
    TRAINING_SEEDS,
    VALIDATION_SEEDS,
    build_job,
    training_jobs,
    validation_jobs,
)

FRAMES, SIZE = 16, (56, 84)


@cache
def clips(size: tuple[int, int] = SIZE) -> Clips:
    bank = Bank(2, 20, SIZE, torch.device("cpu"))
    for number in (0, 3):
        bank.add(build_job(training_jobs(20, 1, 0), number))
    # Four of two sequences: some are mirrored, some are not.
    return draw_clips(
        bank, torch.Generator().manual_seed(3), clips=4, frames=FRAMES, size=size, strides=(1, 1), anchor=8
    )


def rotation_of(quaternions: torch.Tensor) -> torch.Tensor:
    found = Reference.from_quat(quaternions.double().reshape(-1, 4).numpy()).as_matrix()
    return torch.from_numpy(found).view(*quaternions.shape[:-1], 3, 3)


def test_quaternions_are_scipy_s() -> None:
    reference = Reference.random(200, random_state=0)
    quaternions = quaternion_of(torch.from_numpy(reference.as_matrix()))
    np.testing.assert_allclose(quaternions.numpy(), reference.as_quat(canonical=True), atol=1e-12)
    other = quaternions.roll(1, 0)
    both = (reference * Reference.from_quat(other.numpy())).as_matrix()
    np.testing.assert_allclose(rotation_of(product(quaternions, other)), both, atol=1e-12)
    vectors = torch.randn(200, 3, dtype=torch.float64)
    back = reference.inv().apply(vectors.numpy())
    np.testing.assert_allclose(rotate_back(quaternions, vectors).numpy(), back, atol=1e-12)
    np.testing.assert_allclose(turned(rotation_of(conjugate(quaternions)), vectors[:, None])[:, 0], back, atol=1e-12)


@pytest.mark.parametrize("size", [SIZE, (28, 42)])
def test_a_clip_starts_at_the_identity_in_units_of_what_its_anchor_sees(size: tuple[int, int]) -> None:
    found = clips(size)
    torch.testing.assert_close(found.poses[:, 0], torch.eye(4).expand(4, 4, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        rotation_of(found.encoding[..., 3:7]).float(), found.poses[..., :3, :3], atol=1e-5, rtol=0
    )
    # The patches of the anchor frames are a sample of what the scale was taken from.
    assert found.points[:, :8].norm(dim=-1).mean() == pytest.approx(1.0, abs=0.05)


def test_displacements_land_on_the_same_surface() -> None:
    """Reading the earlier frame's picture where a displacement points to finds the same colours."""
    found = clips()
    truth = true_displacements(found)
    rows, columns = SIZE[0] // PATCH_SIZE, SIZE[1] // PATCH_SIZE
    grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(-1) * PATCH_SIZE + PATCH_SIZE // 2
    for number, lag in enumerate(LAGS[:2]):
        seen = truth.seen[:, lag:, :, number]
        assert seen.float().mean() > 0.5
        at = (grid + truth.patches[:, lag:, :, number] * PATCH_SIZE).round().long()
        u, v = at[..., 0].clamp(0, SIZE[1] - 1), at[..., 1].clamp(0, SIZE[0] - 1)
        earlier = found.log_depth[:, :-lag].flatten(2).gather(2, v * SIZE[1] + u)
        # The surface there has the depth that the point has from there, and mostly the colour that it has here.
        gray = found.images.mean(dim=2)
        here = gray[:, lag:, grid[:, 1], grid[:, 0]]
        there = gray[:, :-lag].flatten(2).gather(2, v * SIZE[1] + u)
        matched = (here - there).abs()[seen].median()
        shuffled = (here - there[:, :, torch.randperm(rows * columns)]).abs()[seen].median()
        assert matched < 0.5 * shuffled
        assert torch.isfinite(earlier[seen]).all()


def perfect(found: Clips) -> tuple[ClipOutput, Auxiliary]:
    log_depth = found.log_depth.flatten(0, 1)
    output = ClipOutput([], [found.encoding, found.encoding.clone()], log_depth, torch.ones_like(log_depth))
    points = found.points.flatten(0, 1)
    features = torch.ones(*points.shape[:2], MATCH_DIM)
    return output, Auxiliary(points, true_displacements(found).patches.flatten(0, 1), features)


def costs(output: ClipOutput, auxiliary: Auxiliary, found: Clips) -> dict[str, float]:
    """Every term but that of matching, for which features have no truth (see below)."""
    every = torch.arange(len(output.log_depth))
    terms = losses(output, auxiliary, found, every, LossWeights())
    return {name: float(term) for name, term in terms.items() if name != "matching"}


def test_the_truth_costs_nothing_and_every_error_something() -> None:
    found = clips()
    output, auxiliary = perfect(found)
    assert sum(costs(output, auxiliary, found).values()) < 1e-4
    # A quaternion of the other sign is the same rotation.
    sign = torch.ones(9)
    sign[3:7] = -1
    flipped = replace(output, poses=[pose * sign for pose in output.poses])
    assert sum(costs(flipped, auxiliary, found).values()) < 1e-4
    noise = torch.randn(found.encoding.shape, generator=torch.Generator().manual_seed(0)) * 0.1
    wrong = replace(output, poses=[pose + noise for pose in output.poses], log_depth=output.log_depth + 0.1)
    wrong_auxiliary = replace(auxiliary, points=auxiliary.points + 0.1, flow=auxiliary.flow + 0.1)
    for name, term in costs(wrong, wrong_auxiliary, found).items():
        if name != "gradient":  # a constant factor has none
            assert term > 1e-3, name


def test_training_never_sees_a_test_scene() -> None:
    jobs = [training_jobs(2, 1, seed) for seed in (0, 1, 799)]
    seeds = [job.first_seed + number for job in jobs for number in (0, 999_999)] + [validation_jobs(2).first_seed]
    assert not set(seeds) & set(TEST_SEEDS)
    assert all(seed in TRAINING_SEEDS for seed in seeds[:-1])
    assert seeds[-1] in VALIDATION_SEEDS
    assert not set(TEST_SEEDS) & set(VALIDATION_SEEDS)
    assert VALIDATION_SEEDS.stop <= TRAINING_SEEDS.start


ROWS, COLUMNS, PICTURES = 4, 6, 3
PATCHES = ROWS * COLUMNS


def shifted(step: int) -> tuple[torch.Tensor, Displacements]:
    """A wide picture of distinct columns of patches that moves ``step`` patches to the left with every frame."""
    world = torch.randn(ROWS, COLUMNS + step * PICTURES, 32, generator=torch.Generator().manual_seed(0))
    features = torch.stack([world[:, step * f : step * f + COLUMNS] for f in range(PICTURES)]).flatten(1, 2)[None]
    patches = torch.zeros(1, PICTURES, PATCHES, len(LAGS), 2)
    patches[..., 0] = step * torch.tensor(LAGS, dtype=torch.float32)
    seen = torch.zeros(1, PICTURES, PATCHES, len(LAGS), dtype=torch.bool)
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
