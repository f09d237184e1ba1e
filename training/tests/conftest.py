"""Scenes are built once for all tests: walls and textures take most of a second, and nothing changes them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

from lingbot_eval.datasets.synthetic import scene
from training import scene_jobs


@pytest.fixture(scope="session", autouse=True)
def _each_scene_is_built_once() -> Iterator[None]:
    once = cache(scene.build_scene)
    with pytest.MonkeyPatch.context() as patch:
        for module in (scene, scene_jobs):
            patch.setattr(module, "build_scene", once)
        yield
