"""How far the image has moved since the last kept frame, in pixels (model.md section 6, "Flow keyframes")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lingbot_eval.geometry.poses import decode_camera_to_world, decode_intrinsics
from lingbot_eval.types import FloatArray

STRIDE = 8
NEAREST = 1e-6


@dataclass(frozen=True, eq=False)
class Viewpoint:
    """The camera of one frame: (4, 4) camera-to-world in the model's scale, (3, 3) intrinsics in pixels."""

    camera_to_world: FloatArray
    intrinsics: FloatArray


def viewpoint(pose: Tensor, height: int, width: int) -> Viewpoint:
    """The camera of a (9,) pose encoding of an H×W image."""
    encoding = pose.double().cpu().numpy()
    return Viewpoint(decode_camera_to_world(encoding), decode_intrinsics(encoding, height, width))


def mean_displacement(depth: Tensor, here: Viewpoint, there: Viewpoint) -> float:
    """Mean Euclidean displacement in pixels of every 8th pixel of (H, W) ``depth`` seen from ``there``.

    Over points with depth > 1e-6 in both cameras; 0 when there is none.
    """
    z = depth[::STRIDE, ::STRIDE].double().cpu().numpy()
    v, u = np.mgrid[0 : depth.shape[0] : STRIDE, 0 : depth.shape[1] : STRIDE].astype(np.float64)
    # A collapsed field of view (infinite focal length) gives NaN here, which keeps nothing: the gap rule decides.
    with np.errstate(invalid="ignore", over="ignore"):
        rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(here.intrinsics).T
        points = rays * z[..., None]
        world = points @ here.camera_to_world[:3, :3].T + here.camera_to_world[:3, 3]
        seen = (world - there.camera_to_world[:3, 3]) @ there.camera_to_world[:3, :3]
        pixels = seen @ there.intrinsics.T
        projected = pixels[..., :2] / np.maximum(pixels[..., 2:], NEAREST)
        distance = np.hypot(projected[..., 0] - u, projected[..., 1] - v)
    valid = (z > NEAREST) & (seen[..., 2] > NEAREST)
    return float(distance[valid].mean()) if valid.any() else 0.0
