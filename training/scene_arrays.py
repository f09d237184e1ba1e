"""A synthetic scene as plain arrays, the form in which it travels from the process that builds it to the device."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lingbot_eval.datasets.synthetic.scene import Scene

SCENE_PARTS = (
    "origin", "right", "down", "size", "texture", "tiling", "tint", "light", "light_offset", "light_columns",
    "light_density", "texels", "level_offset",
)  # fmt: skip


def scene_arrays(scene: Scene) -> dict[str, NDArray[np.generic]]:
    """What the ray caster needs of a scene; keys are SCENE_PARTS."""
    faces, maps, textures = scene.faces, scene.light_maps, scene.textures
    return {
        "origin": faces.origin,
        "right": faces.right,
        "down": faces.down,
        "size": faces.size,
        "texture": faces.texture,
        "tiling": faces.tiling,
        "tint": faces.tint,
        "light": maps.values,
        "light_offset": maps.offset,
        "light_columns": maps.columns,
        "light_density": maps.density,
        "texels": textures.texels,
        "level_offset": textures.level_offset,
    }
