"""From a dataset's name, root and options to its adapter."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from lingbot_eval.adapters.protocol import Adapter
from lingbot_eval.errors import ConfigError
from lingbot_eval.resources import expanded
from lingbot_eval.validation import nearest, validated

# name -> (module, adapter class, options model). Modules are loaded when they are asked for: some need PyAV or SciPy.
_ADAPTERS = {
    "synthetic": ("synthetic.adapter", "SyntheticAdapter", "SyntheticOptions"),
    "seven_scenes": ("seven_scenes", "SevenScenesAdapter", "SevenScenesOptions"),
    "tum": ("tum", "TumAdapter", "TumOptions"),
    "kitti": ("kitti", "KittiAdapter", "KittiOptions"),
    "neural_rgbd": ("neural_rgbd", "NeuralRgbdAdapter", "NeuralRgbdOptions"),
    "eth3d": ("eth3d", "Eth3dAdapter", "Eth3dOptions"),
    "oxford_spires": ("oxford_spires", "OxfordSpiresAdapter", "OxfordSpiresOptions"),
    "tanks_and_temples": ("tanks_and_temples", "TanksAndTemplesAdapter", "TanksAndTemplesOptions"),
    "vbr": ("vbr", "VbrAdapter", "VbrOptions"),
    "droid_w": ("droid_w", "DroidWAdapter", "DroidWOptions"),
    "folder": ("folder", "FolderAdapter", "FolderOptions"),
    "video": ("video", "VideoAdapter", "VideoOptions"),
}


def adapter_names() -> tuple[str, ...]:
    """The datasets that can be opened."""
    return tuple(_ADAPTERS)


def open_adapter(name: str, root: Path | None, options: Mapping[str, Any]) -> Adapter:
    """The adapter called ``name`` over ``root`` (``~`` expanded; None where nothing is read).

    Raises ConfigError for an unknown name or option, naming the nearest known one, and for a root that is missing
    from the settings or not wanted. The root itself is looked at by ``scenes()`` and ``open()``.
    """
    if name not in _ADAPTERS:
        raise ConfigError(f"unknown dataset {name!r}{nearest(name, _ADAPTERS)}; there are: {', '.join(_ADAPTERS)}")
    module_name, adapter_name, options_name = _ADAPTERS[name]
    module = importlib.import_module(f"lingbot_eval.adapters.{module_name}")
    checked = validated(getattr(module, options_name), dict(options), f"options of dataset {name}")
    if root is None and name != "synthetic":
        raise ConfigError(f"dataset {name} is read from disk: expected a root, found none; give the folder or file")
    return cast(Adapter, getattr(module, adapter_name)(None if root is None else expanded(root), checked))
