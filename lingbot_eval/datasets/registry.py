"""From a dataset's name, root and options to its adapter; built-in datasets and those of plugins alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel

from lingbot_eval.datasets.file_dataset import FileDataset
from lingbot_eval.datasets.listing import refuse_impossible
from lingbot_eval.datasets.sequence import Adapter
from lingbot_eval.errors import ConfigError
from lingbot_eval.registry import Registry, check_name, check_subclass
from lingbot_eval.resources import expanded
from lingbot_eval.settings import validated

_ROOM = "lingbot_eval.datasets"

# An entry is a class with ``name``, ``Options`` (a pydantic model) and ``__init__(root, options)``: an Adapter.
DATASETS: Registry[type[Any]] = Registry(
    "dataset",
    {
        "synthetic": f"{_ROOM}.synthetic.adapter:SyntheticAdapter",
        "seven_scenes": f"{_ROOM}.indoor:SevenScenesAdapter",
        "tum": f"{_ROOM}.tum:TumAdapter",
        "kitti": f"{_ROOM}.driving:KittiAdapter",
        "neural_rgbd": f"{_ROOM}.rendered:NeuralRgbdAdapter",
        "eth3d": f"{_ROOM}.eth3d:Eth3dAdapter",
        "oxford_spires": f"{_ROOM}.walks:OxfordSpiresAdapter",
        "tanks_and_temples": f"{_ROOM}.capture:TanksAndTemplesAdapter",
        "vbr": f"{_ROOM}.walks:VbrAdapter",
        "droid_w": f"{_ROOM}.walks:DroidWAdapter",
        "tum_dynamics": f"{_ROOM}.tum:TumDynamicsAdapter",
        "bonn": f"{_ROOM}.tum:BonnAdapter",
        "sintel": f"{_ROOM}.rendered:SintelAdapter",
        "scannet": f"{_ROOM}.indoor:ScanNetAdapter",
        "scannetpp": f"{_ROOM}.indoor:ScanNetPPAdapter",
        "euroc": f"{_ROOM}.walks:EurocAdapter",
        "kitti_raw": f"{_ROOM}.driving:KittiRawAdapter",
        "kitti_depth": f"{_ROOM}.driving:KittiDepthAdapter",
        "vkitti2": f"{_ROOM}.rendered:VirtualKitti2Adapter",
        "replica": f"{_ROOM}.rendered:ReplicaAdapter",
        "tartanair": f"{_ROOM}.rendered:TartanAirAdapter",
        "long3d": f"{_ROOM}.walks:Long3dAdapter",
        "waymo": f"{_ROOM}.driving:WaymoAdapter",
        "vbr_full": f"{_ROOM}.walks:VbrFullAdapter",
        "capture": f"{_ROOM}.capture:CaptureAdapter",
        "folder": f"{_ROOM}.folder:FolderAdapter",
        "video": f"{_ROOM}.video:VideoAdapter",
    },
)

# Of the built-in ones; every other dataset is read from disk.
_MADE_UP = ("synthetic",)

DatasetT = TypeVar("DatasetT", bound=type[FileDataset])


def dataset(name: str) -> Callable[[DatasetT], DatasetT]:
    """Register a class as a dataset.

    Args:
        name: what an experiment's ``datasets`` entry gives as its ``name``.

    Returns:
        A decorator for a subclass of `FileDataset`; it gives the class its ``name``.

    Raises:
        ConfigError: the name is taken, or the class is no `FileDataset`.
    """

    check_name(name, "dataset")

    def register(cls: DatasetT) -> DatasetT:
        check_subclass(cls, FileDataset, "FileDataset", f"dataset {name!r}")
        check_subclass(cls.Options, BaseModel, "Settings", f"Options of dataset {name!r}")
        cls.name = name
        DATASETS.add(name, cls, cls)
        return cls

    return register


def open_adapter(name: str, root: Path | None, options: Mapping[str, Any]) -> Adapter:
    """The adapter called ``name`` over ``root`` (``~`` expanded; None where nothing is read).

    Raises ConfigError for an unknown name or option, naming the nearest known one, and for a root that is missing
    from the settings or not wanted, DataError for a root that the system cannot look at. Otherwise the root is
    looked at by ``scenes()`` and ``open()``.
    """
    kind = DATASETS.get(name)
    checked = validated(kind.Options, dict(options), f"options of dataset {name}")
    if root is None and name not in _MADE_UP:
        raise ConfigError(
            f"dataset {name} is read from disk: expected a root, found none; give the folder or file"
            " (--root PATH, or root: in the experiment)"
        )
    if root is None:
        return cast(Adapter, kind(None, checked))
    refuse_impossible(expanded(root), f"root of dataset {name}")
    return cast(Adapter, kind(expanded(root), checked))
