"""Depth maps for other programs: 16-bit PNG with a factor, OpenEXR in the export's own unit."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from lingbot_eval.types import DepthMap
from lingbot_eval.viewing.scaled import ScaledScene

_LARGEST = 65535
_EXR_MAGIC, _EXR_VERSION = 20000630, 2


def write_depth_png(scene: ScaledScene, folder: Path) -> None:
    """``depth_png/NNNNNN.png``: 16 bits, 0 = none, divided by the factor in ``depth.json`` (and in each file's text).

    The factor is 1000 a metre, else a power of ten that the farthest depth of all frames allows.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    home = folder / "depth_png"
    home.mkdir()
    farthest = max((float(depth.max(initial=0)) for _, depth in _maps(scene)), default=0.0)
    factor = 10.0 ** math.floor(math.log10(_LARGEST / farthest)) if farthest > 0 else 1.0
    if scene.unit == "metre":
        factor = min(factor, 1000.0)
    facts = {**_facts(scene), "factor": repr(factor), "depth": "pixel / factor, along z; 0 = none"}
    for index, depth in _maps(scene):
        text = PngInfo()
        for key, value in facts.items():
            text.add_itxt(key, value)
        pixels = np.rint(depth.astype(np.float64) * factor).astype(np.uint16)
        Image.fromarray(pixels).save(home / f"{index:06d}.png", pnginfo=text)
    _state(home, {**facts, "factor": factor})


def write_depth_exr(scene: ScaledScene, folder: Path) -> None:
    """``depth_exr/NNNNNN.exr``: one float32 channel Z, not compressed, 0 = none, conventions in the header."""
    home = folder / "depth_exr"
    home.mkdir()
    facts = {**_facts(scene), "depth": "channel Z, along z; 0 = none"}
    comments = "; ".join(f"{key}: {value}" for key, value in facts.items())
    for index, depth in _maps(scene):
        (home / f"{index:06d}.exr").write_bytes(exr_bytes(depth, comments))
    _state(home, facts)


def exr_bytes(depth: DepthMap, comments: str) -> bytes:
    """An OpenEXR file of one float32 channel Z, in scan lines, not compressed (OpenEXR's file layout, version 2)."""
    height, width = depth.shape
    box = struct.pack("<4i", 0, 0, width - 1, height - 1)
    channels = b"Z\0" + struct.pack("<i4B2i", 2, 0, 0, 0, 0, 1, 1) + b"\0"
    attributes = (
        ("channels", "chlist", channels),
        ("comments", "string", comments.encode("utf-8", "backslashreplace")),
        ("compression", "compression", b"\0"),
        ("dataWindow", "box2i", box),
        ("displayWindow", "box2i", box),
        ("lineOrder", "lineOrder", b"\0"),
        ("pixelAspectRatio", "float", struct.pack("<f", 1.0)),
        ("screenWindowCenter", "v2f", struct.pack("<2f", 0.0, 0.0)),
        ("screenWindowWidth", "float", struct.pack("<f", 1.0)),
    )
    header = struct.pack("<2i", _EXR_MAGIC, _EXR_VERSION)
    for name, kind, value in attributes:
        header += name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<i", len(value)) + value
    header += b"\0"
    line = np.dtype([("y", "<i4"), ("bytes", "<i4"), ("z", "<f4", (width,))])
    lines = np.empty(height, line)
    lines["y"], lines["bytes"], lines["z"] = np.arange(height), 4 * width, depth
    places = len(header) + 8 * height + line.itemsize * np.arange(height, dtype="<u8")
    return b"".join([header, places.astype("<u8").tobytes(), lines.tobytes()])


def _maps(scene: ScaledScene) -> Iterator[tuple[int, DepthMap]]:
    """Frames and their depth, what is none as 0."""
    for frame in scene.need_depth():
        yield frame.index, np.where(np.isfinite(frame.depth) & (frame.depth > 0), frame.depth, np.float32(0))


def _facts(scene: ScaledScene) -> dict[str, str]:
    facts = scene.conventions()
    # Depth is whole: the rule is of clouds.
    facts.pop("voxel_size", None)
    return {**facts, "confidence": "not filtered"}


def _state(home: Path, facts: Mapping[str, object]) -> None:
    (home / "depth.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
