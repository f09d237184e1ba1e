"""Files for other programs: clouds (PLY, GLB), cameras (COLMAP, transforms.json), trajectories, depth.

Every file that can states axes, handedness, unit, scale and confidence rule. Formats are written into a folder that the
caller moves into place.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from lingbot_eval.errors import ConfigError, DataError, DependencyError, StoreError, reason
from lingbot_eval.geometry.poses import nearest_rotation, quaternion_from_rotation
from lingbot_eval.settings import nearest
from lingbot_eval.types import DepthMap, FloatArray, Image
from lingbot_eval.viewing.export_colmap import write_colmap_binary, write_colmap_text, write_images
from lingbot_eval.viewing.scaled import ScaledScene, numbers, stated


@dataclass(frozen=True)
class Exported:
    """What was written: files, and what a user should know of them, a line each.

    left_out: those of the notes that say what was asked for and could not be written.
    """

    files: tuple[Path, ...]
    notes: tuple[str, ...]
    left_out: tuple[str, ...] = ()


_PLY_POINT = np.dtype(
    [
        *((axis, "<f4") for axis in "xyz"),
        *((colour, "u1") for colour in ("red", "green", "blue")),
        ("confidence", "<f4"),
        ("first_frame", "<i4"),
    ]
)
_LARGEST_PIXEL = 65535
_EXR_MAGIC, _EXR_VERSION = 20000630, 2
_PLY_WORDS = {"<f4": "float", "u1": "uchar", "|u1": "uchar", "<i4": "int"}


def write_ply(scene: ScaledScene, folder: Path) -> None:
    """``cloud.ply``: binary, little-endian, one vertex a voxel, conventions as comments."""
    _write_ply(scene, folder / "cloud.ply")


def _write_ply(scene: ScaledScene, path: Path) -> None:
    positions, colours, confidence, first_frame = scene.points()
    vertices = np.empty(len(positions), _PLY_POINT)
    for column, axis in enumerate("xyz"):
        vertices[axis] = positions[:, column]
    for column, colour in enumerate(("red", "green", "blue")):
        vertices[colour] = colours[:, column]
    vertices["confidence"], vertices["first_frame"] = confidence, first_frame
    header = ["ply", "format binary_little_endian 1.0"]
    header += stated(scene.conventions(), "comment ")
    header.append(f"element vertex {len(vertices)}")
    header += [f"property {_PLY_WORDS[_PLY_POINT[name].str]} {name}" for name in _PLY_POINT.names or ()]
    with path.open("wb") as stream:
        stream.write("\n".join([*header, "end_header", ""]).encode("ascii", "backslashreplace"))
        stream.write(vertices.data)


def write_glb(scene: ScaledScene, folder: Path) -> None:
    """``cloud.glb``: points alone, turned to glTF's axes (y up, z towards the viewer). Raises DependencyError."""
    try:
        import trimesh
    except ImportError as error:
        raise DependencyError("format glb needs trimesh; install it: pip install 'lingbot-eval[view]'") from error
    positions, colours, _, _ = scene.points()
    axes = "world: x right, y up, z backward (glTF): y and z of the method's world turned round"
    facts = scene.conventions(axes)

    def state(tree: dict[str, Any]) -> None:
        tree["asset"]["extras"] = facts

    library: Any = trimesh  # its functions have no types
    points = library.PointCloud(positions * np.array([1, -1, -1], np.float32), colors=colours)
    content = library.exchange.gltf.export_glb(library.Scene([points]), tree_postprocessor=state)
    (folder / "cloud.glb").write_bytes(content)


def write_tum(scene: ScaledScene, folder: Path) -> None:
    """``trajectory.tum``: time x y z qx qy qz qw, seconds, conventions as comments."""
    rows = [numbers(row) for row in np.column_stack(_times_positions_quaternions(scene)).tolist()]
    comments = stated(scene.conventions())
    _write_lines(folder / "trajectory.tum", [*comments, "# timestamp tx ty tz qx qy qz qw", *rows])


def write_kitti(scene: ScaledScene, folder: Path) -> None:
    """``trajectory_kitti.txt``: twelve numbers a line (KITTI knows no comments), its frames and times beside it."""
    poses = _finite_poses(scene)
    rows = scene.poses.camera_to_world[poses][:, :3].reshape(-1, 12).tolist()
    _write_lines(folder / "trajectory_kitti.txt", [numbers(row) for row in rows])
    comments = stated(scene.conventions())
    frames = zip(scene.poses.indices[poses].tolist(), scene.poses.timestamps[poses].tolist(), strict=True)
    lines = [*comments, "# frame timestamp, line by line of trajectory_kitti.txt"]
    _write_lines(folder / "trajectory_kitti_frames.txt", [*lines, *(f"{index} {time!r}" for index, time in frames)])


def write_euroc(scene: ScaledScene, folder: Path) -> None:
    """``trajectory_euroc.csv``: nanoseconds, position, quaternion with the scalar first, conventions as comments."""
    times, positions, quaternions = _times_positions_quaternions(scene)
    comments = stated(scene.conventions(), "#")
    lines = [*comments, "#timestamp [ns], p_x, p_y, p_z, q_w, q_x, q_y, q_z"]
    ordered = np.column_stack([positions, quaternions[:, 3:], quaternions[:, :3]]).tolist()
    for time, row in zip(times[:, 0].tolist(), ordered, strict=True):
        lines.append(", ".join([str(round(time * 1e9)), *map(repr, row)]))
    _write_lines(folder / "trajectory_euroc.csv", lines)


def write_nerfstudio(scene: ScaledScene, folder: Path) -> None:
    """``nerfstudio/transforms.json`` with its points and images, where they can be had; also read by 3DGS trainers."""
    cameras = scene.need_cameras()
    home = folder / "nerfstudio"
    home.mkdir()
    names = write_images(scene, home)
    has_points = scene.cloud is not None and len(scene.cloud) > 0
    if has_points:
        _write_ply(scene, home / "points.ply")
    row_of = {int(index): row for row, index in enumerate(cameras.index)}
    frames = []
    for index, pose in zip(scene.poses.indices.tolist(), scene.poses.camera_to_world, strict=True):
        row = row_of.get(index)
        if row is None or not np.isfinite(pose).all():
            continue
        matrix = pose.copy()
        matrix[:3, :3] = nearest_rotation(pose[:3, :3]) * [1, -1, -1]  # OpenGL: y up, z backward
        intrinsics = cameras.intrinsics[row]
        frames.append(
            {
                "file_path": names(index),
                "w": int(cameras.size[row, 0]),
                "h": int(cameras.size[row, 1]),
                "fl_x": float(intrinsics[0, 0]),
                "fl_y": float(intrinsics[1, 1]),
                # There the first pixel's centre is at (0.5, 0.5), here at (0, 0).
                "cx": float(intrinsics[0, 2] + 0.5),
                "cy": float(intrinsics[1, 2] + 0.5),
                "transform_matrix": matrix.tolist(),
            }
        )
    axes = "camera: x right, y up, z backward (OpenGL); world: that of the method (OpenCV axes of a camera, as a rule)"
    document: dict[str, object] = {
        "camera_model": "PINHOLE",
        "conventions": {**scene.conventions(axes), "pixels": "centre of the first at (0.5, 0.5)"},
        "frames": frames,
    }
    if has_points:
        document["ply_file_path"] = "points.ply"
    (home / "transforms.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def write_rerun(scene: ScaledScene, folder: Path) -> None:
    """``scene.rrd``: points, cameras by frame and the path. Raises DependencyError without rerun-sdk."""
    try:
        import rerun as rr
    except ImportError as error:
        raise DependencyError("format rerun needs rerun-sdk; install it: pip install rerun-sdk") from error
    positions, colours, _, _ = scene.points()
    recording = rr.RecordingStream("lingbot_eval")
    recording.save(str(folder / "scene.rrd"))
    words = "\n".join(f"{key}: {value}" for key, value in scene.conventions().items())
    recording.log("conventions", rr.TextDocument(words), static=True)
    recording.log("world", rr.ViewCoordinates.RDF, static=True)
    recording.log("world/points", rr.Points3D(positions, colors=colours), static=True)
    recording.log("world/path", rr.LineStrips3D([scene.poses.positions]), static=True)
    cameras = scene.cameras
    row_of = {} if cameras is None else {int(index): row for row, index in enumerate(cameras.index)}
    for index, pose in zip(scene.poses.indices.tolist(), scene.poses.camera_to_world, strict=True):
        if not np.isfinite(pose).all():
            continue
        recording.set_time("frame", sequence=index)
        recording.log("world/camera", rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
        if cameras is not None and index in row_of:
            row = row_of[index]
            recording.log(
                "world/camera", rr.Pinhole(image_from_camera=cameras.intrinsics[row], resolution=cameras.size[row])
            )
    recording.disconnect()


def write_depth_png(scene: ScaledScene, folder: Path) -> None:
    """``depth_png/NNNNNN.png``: 16 bits, 0 = none, divided by the factor in ``depth.json`` (and in each file's text).

    The factor is 1000 a metre, else a power of ten that the farthest depth of all frames allows.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    home = folder / "depth_png"
    home.mkdir()
    farthest = max((float(depth.max(initial=0)) for _, depth in _depth_maps(scene)), default=0.0)
    factor = 10.0 ** math.floor(math.log10(_LARGEST_PIXEL / farthest)) if farthest > 0 else 1.0
    if scene.unit == "metre":
        factor = min(factor, 1000.0)
    facts = {**_depth_facts(scene), "factor": repr(factor), "depth": "pixel / factor, along z; 0 = none"}
    for index, depth in _depth_maps(scene):
        text = PngInfo()
        for key, value in facts.items():
            text.add_itxt(key, value)
        pixels = np.rint(depth.astype(np.float64) * factor).astype(np.uint16)
        Image.fromarray(pixels).save(home / f"{index:06d}.png", pnginfo=text)
    _state_depth(home, {**facts, "factor": factor})


def write_depth_exr(scene: ScaledScene, folder: Path) -> None:
    """``depth_exr/NNNNNN.exr``: one float32 channel Z, not compressed, 0 = none, conventions in the header."""
    home = folder / "depth_exr"
    home.mkdir()
    facts = {**_depth_facts(scene), "depth": "channel Z, along z; 0 = none"}
    comments = "; ".join(f"{key}: {value}" for key, value in facts.items())
    for index, depth in _depth_maps(scene):
        (home / f"{index:06d}.exr").write_bytes(exr_bytes(depth, comments))
    _state_depth(home, facts)


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


def _depth_maps(scene: ScaledScene) -> Iterator[tuple[int, DepthMap]]:
    """Frames and their depth, what is none as 0."""
    for frame in scene.need_depth():
        yield frame.index, np.where(np.isfinite(frame.depth) & (frame.depth > 0), frame.depth, np.float32(0))


def _depth_facts(scene: ScaledScene) -> dict[str, str]:
    facts = scene.conventions()
    # Depth is whole: the rule is of clouds.
    facts.pop("voxel_size", None)
    return {**facts, "confidence": "not filtered"}


def _state_depth(home: Path, facts: Mapping[str, object]) -> None:
    (home / "depth.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


FORMATS: Mapping[str, Callable[[ScaledScene, Path], object]] = MappingProxyType(
    {
        "ply": write_ply,
        "glb": write_glb,
        "colmap": write_colmap_text,
        "colmap-binary": write_colmap_binary,
        "nerfstudio": write_nerfstudio,
        "tum": write_tum,
        "kitti": write_kitti,
        "euroc": write_euroc,
        "depth-png": write_depth_png,
        "depth-exr": write_depth_exr,
        "rerun": write_rerun,
    }
)
"""What can be written, by the name that a user gives."""


def known_formats(names: Iterable[str]) -> tuple[str, ...]:
    """The formats asked for, each once. Raises ConfigError for one that there is not."""
    asked = tuple(dict.fromkeys(names))
    for name in asked:
        if name not in FORMATS:
            raise ConfigError(f"unknown format {name!r}{nearest(name, FORMATS)}; there are: {', '.join(FORMATS)}")
    if not asked:
        raise ConfigError(f"expected a format at least; there are: {', '.join(FORMATS)}")
    return asked


def _finite_poses(scene: ScaledScene) -> Image:
    return np.asarray(np.isfinite(scene.poses.camera_to_world).all(axis=(1, 2)))


def _times_positions_quaternions(scene: ScaledScene) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(N, 1) seconds, (N, 3), (N, 4) scalar last, of the poses that are finite."""
    finite = _finite_poses(scene)
    poses = scene.poses.camera_to_world[finite]
    quaternions = quaternion_from_rotation(nearest_rotation(poses[:, :3, :3]))
    return scene.poses.timestamps[finite, None], poses[:, :3, 3], quaternions


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", errors="backslashreplace")


def write_formats(
    scene: ScaledScene, folder: Path, formats: Iterable[str], done: Callable[[str], object]
) -> dict[str, DataError]:
    """Write a scene in each of the formats into a folder.

    Args:
        scene: it.
        folder: made where it is not there; the caller moves what is whole into place.
        formats: names, see `FORMATS`.
        done: called with each name when it is written.

    Returns:
        What the scene lacks, by the names of the formats that need it: nothing of them is written.

    Raises:
        DependencyError: a format needs a library that is not there.
        StoreError: the disk refuses.
    """
    lacking: dict[str, DataError] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in formats:
            part = folder / f".{name}"
            part.mkdir()
            try:
                FORMATS[name](scene, part)
            except DataError as error:
                lacking[name] = error
                shutil.rmtree(part)
                continue
            for path in part.iterdir():
                path.rename(folder / path.name)
            part.rmdir()
            done(name)
    except OSError as error:
        raise StoreError(
            f"cannot write the export: {reason(error)}; free space or choose another folder, then export again"
        ) from error
    return lacking
