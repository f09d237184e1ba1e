"""Are poses and images in step, where no depth tells? Pictures change most where the camera moves most."""

from __future__ import annotations

import numpy as np
from PIL import Image as PillowImage

from lingbot_eval.datasets.check.findings import Finding
from lingbot_eval.datasets.sequence import FileSequence
from lingbot_eval.errors import DataError
from lingbot_eval.geometry.poses import orthogonalised, relative, rotation_angle
from lingbot_eval.types import FloatArray

_FRAMES = 160  # looked at, in a row
_FEWEST = 60  # of which something can be concluded
_LATEST = 15  # frames by which poses are tried
_THUMBNAIL = (48, 36)
_MOST_PIXELS = 4_000_000  # of an image: larger ones take too long
_CLEAR, _LEAD = 0.6, 0.2  # correlation of the best shift, and how far ahead of none it is


def check_step(sequence: FileSequence) -> list[Finding]:
    """Poses some frames later or earlier than the images, by how fast both change. Raises nothing.

    Motion that is even tells nothing, and nothing is said of it.
    """
    try:
        # Poses that come later would be computed, which takes as long as a run does.
        reference = None if sequence.poses_come_later else sequence.reference()
        first = None if reference is None else _liveliest(reference.camera_to_world, np.diff(reference.indices) == 1)
        sizes = sequence.headers.sizes
        if reference is None or first is None or any(width * height > _MOST_PIXELS for width, height in sizes):
            return []
        rows = slice(first, first + _FRAMES)
        moved = _speeds(reference.camera_to_world[rows])
        changed = _changes(sequence, reference.indices[rows].tolist())
    except DataError:
        return []  # found elsewhere
    shifts = range(-_LATEST, _LATEST + 1)
    fits = [_correlation(moved, changed, shift) for shift in shifts]
    best = int(np.argmax(fits))
    if fits[best] < _CLEAR or fits[best] < fits[_LATEST] + _LEAD:
        return []
    shift = shifts[best]
    seconds = abs(shift) * float(np.median(np.diff(sequence.timestamps())))
    text = (
        f"poses and images look out of step: pictures change as the poses of {abs(shift)} frames"
        f" {'later' if shift > 0 else 'earlier'} ({seconds:.3g} s) move (correlation {fits[best]:.2f}, as they are"
        f" {fits[_LATEST]:.2f}); check which pose is of which image"
    )
    return [Finding("warning", "poses", text)]


def _liveliest(poses: FloatArray, next_to: FloatArray) -> int | None:
    """Where the stretch of frames begins whose speed varies most; None where none is long enough."""
    length = min(_FRAMES, len(poses))
    if length < _FEWEST:
        return None
    speeds = _speeds(poses)
    starts = [s for s in range(0, len(poses) - length + 1, max(1, length // 2)) if next_to[s : s + length - 1].all()]
    return max(starts, key=lambda start: float(np.std(speeds[start : start + length - 1])), default=None)


def _speeds(poses: FloatArray) -> FloatArray:
    """(N - 1,) how much each pose differs from the one before: angle and distance, each by its mean."""
    found = np.zeros(len(poses) - 1)
    rigid = orthogonalised(poses)
    distances = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    for steps in (rotation_angle(relative(rigid[:-1], rigid[1:])), distances):
        mean = float(steps.mean())
        found += steps / mean if mean > 0 else 0.0
    return found


def _changes(sequence: FileSequence, indices: list[int]) -> FloatArray:
    """(N - 1,) mean difference of the pictures of frames, small and grey, their brightness taken off."""
    small = []
    for index in indices:
        image = sequence.frame(index).image
        assert image is not None
        grey = np.asarray(PillowImage.fromarray(image).convert("L").resize(_THUMBNAIL, PillowImage.Resampling.BOX))
        small.append(grey - float(grey.mean()))
    return np.asarray(np.abs(np.diff(np.stack(small), axis=0)).mean(axis=(1, 2)), np.float64)


def _correlation(moved: FloatArray, changed: FloatArray, shift: int) -> float:
    """Pearson's, of the changes with the speeds ``shift`` steps later."""
    a = moved[max(0, shift) : len(moved) + min(0, shift)]
    b = changed[max(0, -shift) : len(changed) + min(0, -shift)]
    spread = float(a.std() * b.std())
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 0 else 0.0
