"""What a pose file is, found from its content: every format round-trips, and what is something else is named."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lingbot_eval.errors import ConfigError, DataError, LingbotEvalError
from lingbot_eval.files import reading as text
from lingbot_eval.files.pose_documents import OPENGL_TO_OPENCV
from lingbot_eval.files.trajectories import FORMATS, TrajectoryFile, TrajectoryFormat, read_trajectory, write_tum
from lingbot_eval.geometry.pose_reading import PoseReading, QuaternionOrder
from lingbot_eval.geometry.poses import inverse, not_rigid
from lingbot_eval.types import Trajectory

Writer = Callable[[np.ndarray, list[int]], str | bytes]
START = 1_403_636_579_763_555_584  # nanoseconds, a stamp of EuRoC


def some_poses(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = np.tile(np.eye(4), (count, 1, 1))
    found[:, :3, :3] = Rotation.random(count, random_state=seed).as_matrix()
    found[:, :3, 3] = np.round(rng.normal(size=(count, 3)) * 10, 6)
    return found


def stamps(count: int) -> list[int]:
    """Nanoseconds, 50 ms apart."""
    return [START + 50_000_000 * row for row in range(count)]


def seconds(ns: int) -> str:
    return f"{ns // 10**9}.{ns % 10**9:09d}"


def rows(table: list[list[object]], separator: str = " ", header: str = "", end: str = "") -> str:
    return header + "".join(separator.join(map(str, row)) + end + "\n" for row in table)


def quaternions(poses: np.ndarray) -> list[list[float]]:
    return Rotation.from_matrix(poses[:, :3, :3]).as_quat().tolist()


def tum_rows(poses: np.ndarray, times: list[str]) -> list[list[object]]:
    return [[t, *p[:3, 3].tolist(), *q] for t, p, q in zip(times, poses, quaternions(poses), strict=True)]


def euroc_rows(poses: np.ndarray, times: list[str], more: int = 0) -> list[list[object]]:
    found = zip(times, poses, quaternions(poses), strict=True)
    return [[t, *p[:3, 3].tolist(), q[3], *q[:3], *[0.5] * more] for t, p, q in found]


def tum(poses: np.ndarray, ns: list[int], separator: str = " ", header: str = "") -> str:
    return rows(tum_rows(poses, list(map(seconds, ns))), separator, header)


def euroc(poses: np.ndarray, ns: list[int], more: int = 0, header: str = "", end: str = "") -> str:
    return rows(euroc_rows(poses, list(map(str, ns)), more), ",", header, end)


def kitti(poses: np.ndarray, ns: list[int], lines: int = 3, separator: str = " ") -> str:
    return rows([p[:lines].ravel().tolist() for p in poses], separator)


def colmap(poses: np.ndarray, ns: list[int], points: str = "1.5 2.5 -1 3 4 7\n", name: str = "image_{:04d}.jpg") -> str:
    world_to_camera = inverse(poses)
    lines = (
        "# Image list with two lines of data per image:\n#   IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME\n"
    )
    order = np.random.default_rng(0).permutation(len(poses)).tolist()
    turns = quaternions(world_to_camera)
    for row in order:
        q, t = turns[row], world_to_camera[row, :3, 3].tolist()
        lines += rows([[row + 1, q[3], *q[:3], *t, 1, name.format(row)]]) + points
    return lines


def nerfstudio(poses: np.ndarray, ns: list[int]) -> str:
    order = np.random.default_rng(1).permutation(len(poses)).tolist()
    opengl = poses @ OPENGL_TO_OPENCV
    frames = [{"file_path": f"images/frame_{r:05d}.png", "transform_matrix": opengl[r].tolist()} for r in order]
    return json.dumps({"camera_model": "OPENCV", "frames": frames})


def log(poses: np.ndarray, ns: list[int]) -> str:
    return "".join(f"{r} {r} 0\n" + rows(p.tolist()) for r, p in enumerate(poses))


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def table8(poses: np.ndarray, ns: list[int]) -> np.ndarray:
    return np.array([[float(x) for x in map(str, row)] for row in tum_rows(poses, list(map(seconds, ns)))])


EUROC_HEADER = (
    "#timestamp, p_RS_R_x [m], p_RS_R_y [m], p_RS_R_z [m], q_RS_w [], q_RS_x [], q_RS_y [], q_RS_z [],"
    " v_RS_R_x [m s^-1], v_RS_R_y [m s^-1], v_RS_R_z [m s^-1], b_w_RS_S_x [rad s^-1], b_w_RS_S_y [rad s^-1],"
    " b_w_RS_S_z [rad s^-1], b_a_RS_S_x [m s^-2], b_a_RS_S_y [m s^-2], b_a_RS_S_z [m s^-2]\n"
)

# name -> format found, whether it has times, what is written
VARIANTS: dict[str, tuple[str, bool, Writer]] = {
    "tum": ("tum", True, tum),
    "tum, header as comment": ("tum", True, lambda p, t: tum(p, t, header="# timestamp tx ty tz qx qy qz qw\n")),
    "tum, header without #": ("tum", True, lambda p, t: tum(p, t, header="timestamp tx ty tz qx qy qz qw\n")),
    "tum, commas": ("tum", True, lambda p, t: tum(p, t, ",")),
    "tum, commas and blanks, header": ("tum", True, lambda p, t: tum(p, t, ", ", "time,x,y,z,qx,qy,qz,qw\n")),
    "tum, semicolons": ("tum", True, lambda p, t: tum(p, t, ";")),
    "tum, tabs": ("tum", True, lambda p, t: tum(p, t, "\t")),
    "euroc, ground truth": ("euroc", True, lambda p, t: euroc(p, t, 9, EUROC_HEADER)),
    "euroc, estimate": ("euroc", True, lambda p, t: euroc(p, t, header="#timestamp,x,y,z,qw,qx,qy,qz\n")),
    "euroc, header without #": ("euroc", True, lambda p, t: euroc(p, t, header="timestamp,x,y,z,qw,qx,qy,qz\n")),
    "euroc, no header": ("euroc", True, euroc),
    "vins": ("euroc", True, lambda p, t: euroc(p, t, 3, end=",")),
    "vins fusion": ("euroc", True, lambda p, t: euroc(p, t, end=",")),
    "columns by name": (
        "euroc",
        True,
        lambda p, t: rows(
            [[*row[4:8], *row[:4]] for row in euroc_rows(p, list(map(str, t)))], ",", "qw,qx,qy,qz,time,x,y,z\n"
        ),
    ),
    "kitti": ("kitti", False, kitti),
    "kitti, 4x4": ("kitti", False, lambda p, t: kitti(p, t, 4)),
    "kitti, commas": ("kitti", False, lambda p, t: kitti(p, t, 3, ",")),
    "matrices of four lines": ("kitti", False, lambda p, t: "\n".join(rows(m.tolist()) for m in p)),
    "log": ("log", False, log),
    "colmap": ("colmap", False, colmap),
    "colmap, no points": ("colmap", False, lambda p, t: colmap(p, t, points="\n")),
    "colmap, no lines of points": ("colmap", False, lambda p, t: colmap(p, t, points="")),
    "colmap, names without ending": ("colmap", False, lambda p, t: colmap(p, t, name="cam 0/{:06d}")),
    "nerfstudio": ("nerfstudio", False, nerfstudio),
    "npy 4x4": ("numpy", False, lambda p, t: npy(p)),
    "npy 3x4": ("numpy", False, lambda p, t: npy(p[:, :3])),
    "npy 12": ("numpy", False, lambda p, t: npy(p[:, :3].reshape(-1, 12))),
    "npy 16": ("numpy", False, lambda p, t: npy(p.reshape(-1, 16))),
    "npy 8": ("numpy", True, lambda p, t: npy(table8(p, t))),
    "npz": ("numpy", False, lambda p, t: npz(poses=p, intrinsics=np.eye(3), ids=np.arange(len(p)))),
}


def saved(folder: Path, data: str | bytes, name: str = "poses.txt") -> Path:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def check(found: TrajectoryFile, poses: np.ndarray, ns: list[int], format: str, *, timed: bool) -> None:
    assert (found.format, found.timed, found.has_orientation) == (format, timed, True)
    np.testing.assert_allclose(found.camera_to_world, poses, atol=1e-9)
    assert found.indices.tolist() == list(range(len(poses)))
    assert (found.rows, found.lost, found.repeated) == (len(poses), 0, 0)
    if timed:
        np.testing.assert_allclose(found.timestamps, [float(seconds(t)) for t in ns], atol=0, rtol=0)


def test_a_matrix_of_four_lines_is_named_by_its_first(tmp_path: Path) -> None:
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[2, 0, 0] = 3.0
    with pytest.raises(DataError, match=r"poses\.txt:11: expected a rigid pose"):
        read_trajectory(saved(tmp_path, "\n".join(rows(pose.tolist()) for pose in poses)))


@pytest.mark.parametrize("write", [log, colmap, nerfstudio])
def test_entries_that_are_not_in_order_keep_their_own_poses(tmp_path: Path, write: Writer) -> None:
    """Of formats whose entries say which frame they are: the frame's number decides, not the place in the file."""
    poses, ns = some_poses(5), stamps(5)
    whole = read_trajectory(saved(tmp_path, write(poses, ns)))
    text = str(write(poses, ns))
    if write is log:
        lines = text.splitlines()
        entries = ["\n".join(lines[first : first + 5]) for first in range(0, len(lines), 5)]
        text = "\n".join(entries[number] for number in (3, 0, 4, 2, 1))
    elif write is nerfstudio:
        document = json.loads(text)
        document["frames"] = [document["frames"][number] for number in (3, 0, 4, 2, 1)]
        text = json.dumps(document)
    else:
        comments = [line for line in text.splitlines() if line.startswith("#")]
        rest = [line for line in text.splitlines() if not line.startswith("#")]
        pairs = [rest[first : first + 2] for first in range(0, len(rest), 2)]
        text = "\n".join([*comments, *(line for number in (3, 0, 4, 2, 1) for line in pairs[number])]) + "\n"
    found = read_trajectory(saved(tmp_path, text))
    np.testing.assert_allclose(found.camera_to_world, whole.camera_to_world, atol=1e-12)
    np.testing.assert_allclose(found.camera_to_world, poses, atol=1e-9)
    assert found.indices.tolist() == whole.indices.tolist()


def test_poses_of_a_log_that_is_not_in_order_are_named_by_their_own_lines(tmp_path: Path) -> None:
    unit = "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"
    entries = {number: f"{number} {number} 0\n{unit}" for number in range(5)}
    entries[2] = entries[2].replace("1 0 0 0", "nan 0 0 0")
    found = read_trajectory(saved(tmp_path, "".join(entries[number] for number in (3, 0, 4, 2, 1))))
    assert (found.indices.tolist(), found.lines.tolist()) == ([0, 1, 3, 4], [6, 21, 1, 11])
    (note,) = found.notes
    assert "1 of 5 poses (first: line 16) are not finite" in note


@pytest.mark.parametrize(
    ("write", "place"),
    [
        (kitti, "poses.txt:4"),
        (log, "poses.txt:16"),
        (lambda poses, ns: json.dumps({"frames": [{"transform_matrix": p.tolist()} for p in poses]}), "frame 3"),
        (lambda poses, ns: npy(poses), "poses.txt: pose 3"),
        (lambda poses, ns: npy(poses.reshape(-1, 16)), "poses.txt: pose 3"),
    ],
)
def test_a_matrix_that_is_no_pose_is_named_behind_lost_ones(tmp_path: Path, write: Writer, place: str) -> None:
    """With what is wrong with it, and not with a sound one before it."""
    poses = np.tile(np.eye(4), (5, 1, 1))
    poses[0, 0, 3] = poses[2, 0, 3] = np.nan
    poses[3, :3, :3] *= 3
    with pytest.raises(DataError) as refusal:
        read_trajectory(saved(tmp_path, write(poses, stamps(5))))
    fault = not_rigid(poses[3])
    assert f"{place}: expected a rigid pose" in str(refusal.value)
    assert fault is not None
    assert fault in str(refusal.value)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_format_is_found_and_read(tmp_path: Path, variant: str, packed: bool) -> None:
    format, timed, write = VARIANTS[variant]
    poses, ns = some_poses(7), stamps(7)
    data = write(poses, ns)
    raw = data if isinstance(data, bytes) else data.encode()
    path = saved(tmp_path, gzip.compress(raw) if packed else raw)
    found = read_trajectory(path)
    check(found, poses, ns, format, timed=timed)
    assert [note for note in found.notes if "array" not in note] == []
    named = read_trajectory(path, format)  # type: ignore[arg-type]
    np.testing.assert_array_equal(named.camera_to_world, found.camera_to_world)


@settings(max_examples=25)
@given(st.sampled_from(sorted(VARIANTS)), st.integers(3, 40), st.integers(0, 10_000))
def test_round_trips(tmp_path_factory: pytest.TempPathFactory, variant: str, count: int, seed: int) -> None:
    format, timed, write = VARIANTS[variant]
    poses, ns = some_poses(count, seed), stamps(count)
    check(read_trajectory(saved(tmp_path_factory.mktemp("r"), write(poses, ns))), poses, ns, format, timed=timed)


@pytest.mark.parametrize(
    "text",
    [
        "0 1 2 3\n0.5 4 5 6\n",
        "0,1,2,3\n0.5,4,5,6\n",
        "# time x y z\n0 1 2 3\n0.5 4 5 6\n",
        "t,x,y,z\n0,1,2,3\n.5,4,5,6\n",
    ],
)
def test_positions_without_orientation(tmp_path: Path, text: str) -> None:
    found = read_trajectory(saved(tmp_path, text))
    assert not found.has_orientation
    assert found.positions.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert found.timestamps.tolist() == [0, 0.5]
    write_tum(tmp_path / "again.txt", found)
    again = read_trajectory(tmp_path / "again.txt")
    assert not again.has_orientation
    assert again.positions.tolist() == found.positions.tolist()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", "a PNG image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
        (b"<!DOCTYPE html><html><body>Log in</body></html>", "an HTML page"),
        (b"\n <html>", "an HTML page"),
        (b"<?xml version='1.0'?><a/>", "an XML or HTML document"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer"),
        (b"#ROSBAG V2.0\n\0", "a ROS bag"),
        (b"\x89HDF\r\n\x1a\n\0", "an HDF5 file"),
        (b"PK\x03\x04 cut", "cannot be read as NumPy"),
        (b"ply\nformat binary_little_endian 1.0\n\0", "a PLY point cloud"),
        (b"\xff\xfe1\x000\x00", "UTF-16"),
        (b"\x1f\x8b\x08 cut", "damaged gzip"),
        (b"\x93NUMPY\x01\0 cut", "cannot be read as NumPy"),
        (bytes(range(256)), "binary data"),
        (b'{"frames": []}', "no frames"),
        (b'{"a": 1}', "other JSON"),
        (b"{", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"0.1\n0.2\n", "times without poses"),
        (b"1 2 3\n", "positions without times"),
        (b"0 0 0 0 0 0 1\n", "TartanAir"),
        (b"0 1 0 0 0 0 1 0 0 0 0 1 0\n", "KITTI's 12 numbers with a frame number before them"),
        (b"0 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1\n", "a 4x4 matrix with a frame number before it"),
        (b"0 1 2 3 4\n", "found 5 fields: no format that is known"),
        (b"0 1 2 3 0 0 0 0\n", "poses.txt:1: expected finite numbers and a rotation, found no usable pose in any of 1"),
        (b"hello\n", "no poses"),
        (b"a b c\nd e f\n", "expected a number in column 1"),
        (npy(np.zeros((4, 5))), "found float64 of shape (4, 5)"),
        (npy(np.array([["a"] * 8])), "expected poses as"),
        (npy(np.empty((0, 4, 4))), "expected poses as"),
        (npz(a=some_poses(3), b=some_poses(3)), "found 2 among: a (3, 4, 4), b (3, 4, 4)"),
        (npz(a=np.eye(3)), "found 0 among"),
        (npy(2 * some_poses(3)), "rigid"),
        (b"# timestamp tx ty tz qx qy qz qw\n", "no poses"),
    ],
)
def test_what_is_something_else_is_named(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(DataError) as caught:
        read_trajectory(saved(tmp_path, data))
    assert says in str(caught.value)
    assert "poses.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


BLOCKS = "1 0 0 5\n0 1 0 5\n0 0 1 5\n0 0 0 1\n1 0 0 6\n0 1 0 5\n"


@pytest.mark.parametrize(
    ("text", "format", "says"),
    [
        ("# timestamp tx ty tz qw qx qy qz\n0 0 0 0 1 0 0 0\n", "tum", "header puts qw first"),
        *(
            (BLOCKS, form, r"poses\.txt:6: expected 4 lines a pose, found 6 lines, .*cut off\?")
            for form in ("auto", "kitti")
        ),
        ("time,x,y,z,qx,qy,qz,qw\n0,0,0,0,0,0,0,1\n", "euroc", "header puts qw last"),
        (colmap(some_poses(3), []), "tum", "images.txt of COLMAP"),
        (nerfstudio(some_poses(3), []), "kitti", "JSON"),
        (kitti(some_poses(3), []), "tum", "found 12 fields"),
        (tum(some_poses(3), stamps(3)), "kitti", "found 8 fields"),
        (tum(some_poses(3), stamps(3)), "colmap", "IMAGE_ID"),
        (tum(some_poses(3), stamps(3)), "numpy", "expected a NumPy file"),
    ],
)
def test_a_file_that_is_not_of_the_named_format(tmp_path: Path, text: str, format: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_trajectory(saved(tmp_path, text), format)  # type: ignore[arg-type]


def test_of_repeated_times_the_first_row_is_kept(tmp_path: Path) -> None:
    path = saved(tmp_path, "0 1 0 0 0 0 0 1\n1 2 0 0 0 0 0 1\n1.0 9 0 0 0 0 0 1\n1 8 0 0 0 0 0 1\n2 3 0 0 0 0 0 1\n")
    found = read_trajectory(path)
    assert found.positions[:, 0].tolist() == [1, 2, 3]
    assert found.lines.tolist() == [1, 2, 5]
    assert (found.rows, found.repeated) == (5, 2)
    assert "2 of 5 poses (first: line 3)" in found.notes[0]


@pytest.mark.parametrize(
    "row", ["1 nan 0 0 0 0 0 1", "1 0 0 0 0 0 0 0", "1 0 0 0 inf 0 0 1", "1 0 1e999 0 0 0 0 1", "1 0 0 0 0 0 0 1e-7"]
)
def test_a_lost_frame_is_counted(tmp_path: Path, row: str) -> None:
    """Where the first of two rows with one time is lost, the second one is the pose of that time."""
    found = read_trajectory(saved(tmp_path, f"0 1 0 0 0 0 0 1\n{row}\n1 2 0 0 0 0 0 1\n2 3 0 0 0 0 0 1\n"))
    assert found.positions[:, 0].tolist() == [1, 2, 3]
    assert (found.rows, found.lost, found.repeated) == (4, 1, 0)
    assert "1 of 4 poses (first: line 2)" in found.notes[0]


def test_rows_keep_their_numbers_where_one_is_lost(tmp_path: Path) -> None:
    poses = some_poses(4)
    poses[1] = np.nan
    for data in (kitti(poses, []), npy(poses), kitti(poses, [], 4)):
        found = read_trajectory(saved(tmp_path, data))
        assert found.indices.tolist() == [0, 2, 3]
        assert (found.rows, found.lost) == (4, 1)


@pytest.mark.parametrize("lines", [3, 4])
@pytest.mark.parametrize("separator", [" ", ","])
def test_matrices_that_begin_with_a_lost_frame_are_matrices(tmp_path: Path, lines: int, separator: str) -> None:
    poses = some_poses(4)
    poses[0, :3] = np.nan
    found = read_trajectory(saved(tmp_path, kitti(poses, [], lines, separator)))
    assert (found.format, found.timed, found.lost, found.indices.tolist()) == ("kitti", False, 1, [1, 2, 3])
    np.testing.assert_allclose(found.camera_to_world, poses[1:], atol=1e-12)


@pytest.mark.parametrize("write", [colmap, nerfstudio])
def test_numbers_missing_among_the_names_shift_nothing(tmp_path: Path, write: Writer) -> None:
    """Frames that were not registered: the others keep the distance of their numbers."""
    text = write(some_poses(6), [])
    assert isinstance(text, str)
    if write is colmap:
        lines = text.split("\n")
        at = next(row for row, line in enumerate(lines) if "image_0003" in line)
        text = "\n".join(lines[:at] + lines[at + 2 :])
    else:
        document = json.loads(text)
        document["frames"] = [f for f in document["frames"] if "00003" not in f["file_path"]]
        text = json.dumps(document)
    found = read_trajectory(saved(tmp_path, text))
    assert found.indices.tolist() == [0, 1, 2, 4, 5]
    assert found.rows == 6
    assert "1 numbers are missing" in found.notes[0]
    np.testing.assert_allclose(found.camera_to_world, np.delete(some_poses(6), 3, axis=0), atol=1e-9)


def test_names_that_are_times(tmp_path: Path) -> None:
    ns = stamps(5)
    text = colmap(some_poses(5), ns, name="{}.png")
    for row, stamp in enumerate(ns):
        text = text.replace(f" {row}.png", f" {stamp}.png")
    found = read_trajectory(saved(tmp_path, text))
    assert found.timed
    assert found.notes == ()
    np.testing.assert_array_equal(found.timestamps, [float(seconds(t)) for t in ns])
    np.testing.assert_allclose(found.camera_to_world, some_poses(5), atol=1e-9)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_end_in_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = saved(tmp_path_factory.mktemp("b"), data)
    for format in FORMATS:
        with contextlib.suppress(LingbotEvalError):
            read_trajectory(path, format)


SEEDS = {name: write(some_poses(4), stamps(4)) for name, (_, _, write) in VARIANTS.items()}
WORDS = [b"nan", b"1e999", b"-1e-999999", b"9" * 400, b"1_0", b",", b"\n", b"#", b"\0", b"{", b"null", b"[[]]", b"\xff"]


@settings(max_examples=300)
@given(st.sampled_from(sorted(SEEDS)), st.data())
def test_mutated_files_end_in_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    seed = SEEDS[name]
    content = bytearray(seed if isinstance(seed, bytes) else seed.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(content) - 1, 0)))
        length = data.draw(st.integers(0, 30))
        content[at : at + length] = data.draw(st.sampled_from(WORDS) | st.binary(max_size=8))
    path = saved(tmp_path_factory.mktemp("m"), bytes(content))
    with contextlib.suppress(LingbotEvalError):
        found = read_trajectory(path)
        assert np.isfinite(found.camera_to_world).all()
        assert (np.diff(found.timestamps) > 0).all()


@pytest.mark.parametrize(
    "junk",
    [
        b"\n" * 2_000_000,
        b"#\n" * 1_000_000,
        b" " * 2_000_000,
        b"7" * 2_000_000,
        b"word " * 400_000,
        b"0 " * 1_000_000,
        b"a b\n" * 500_000,
        b"[" * 2_000_000,
        b"{" * 2_000_000,
        b"1,2\n" * 500_000,
    ],
    ids=["blank lines", "comments", "blanks", "digits", "words", "zeros", "rows of words", "[", "{", "pairs"],
)
def test_megabytes_of_junk_take_seconds(tmp_path: Path, junk: bytes) -> None:
    path = saved(tmp_path, junk)
    started = time.process_time()
    with pytest.raises(DataError, match=r"poses\.txt"):
        read_trajectory(path)
    assert time.process_time() - started < 1.2  # 100 MB in a minute at most


def test_a_trajectory_is_what_the_scorer_takes(tmp_path: Path) -> None:
    from lingbot_eval.metrics.trajectory import score_trajectory

    truth = read_trajectory(saved(tmp_path, kitti(some_poses(9), [])))
    assert isinstance(truth, Trajectory)
    values = {(m.name, m.variant): m.value for m in score_trajectory(truth, truth, len(truth)).measurements}
    assert values["ate_rmse", "sim3"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("header", "first", "order"),
    [
        ("header.stamp,pose.position.x,pose.position.y,pose.position.z,pose.orientation.x,pose.orientation.y,"
         "pose.orientation.z,pose.orientation.w", [], "xyzw"),
        ("when,x,y,z,qw,qx,qy,qz", [], "wxyz"),
        (",timestamp,tx,ty,tz,qx,qy,qz,qw", [0], "xyzw"),
        ("% when,x,y,z,qx,qy,qz,qw", [], "xyzw"),
        ("seq,header/stamp,x,y,z,qx,qy,qz,qw", [0], "xyzw"),
        ("time (ns),x (m),y (m),z (m),qx,qy,qz,qw", [], "xyzw"),
        ('"time","x [m]","y [m]","z [m]","q_x","q_y","q_z","q_w"', [], "xyzw"),
    ],
    ids=["a message of ROS", "a time of another name", "row numbers without a name", "a comment", "a topic", "units",
         "quotes"],
)  # fmt: skip
def test_a_header_decides_even_where_it_does_not_name_the_time(
    tmp_path: Path, header: str, first: list[int], order: str
) -> None:
    """Nanoseconds with commas and no header are EuRoC's, whose scalar is first."""
    poses, ns = some_poses(5), stamps(5)
    found = tum_rows(poses, list(map(str, ns))) if order == "xyzw" else euroc_rows(poses, list(map(str, ns)))
    read = read_trajectory(saved(tmp_path, rows([[*first, *row] for row in found], ",", header + "\n")))
    np.testing.assert_allclose(read.camera_to_world, poses, atol=1e-9)
    np.testing.assert_allclose(read.timestamps, [t / 1e9 for t in ns])


@pytest.mark.parametrize(("digits", "format"), [(13, "tum"), (15, "tum"), (16, "euroc")])
def test_whole_numbers_with_commas_are_of_euroc_from_sixteen_digits_on(
    tmp_path: Path, digits: int, format: str
) -> None:
    """Half a turn about x where the scalar is last: milliseconds are of a table as TUM's."""
    text = "".join(f"{10 ** (digits - 1) + row},0,0,0,1,0,0,0\n" for row in range(3))
    found = read_trajectory(saved(tmp_path, text))
    assert found.format == format
    assert found.camera_to_world[0, :3, :3].diagonal().tolist() == ([1, 1, 1] if format == "euroc" else [1, -1, -1])


@pytest.mark.parametrize("format", ["auto", "tum"])
def test_a_header_finds_the_pose_among_other_columns(tmp_path: Path, format: TrajectoryFormat) -> None:
    """Whether or not the format is named: of TUM's order of quaternions alone there are eight columns."""
    table = "err time x y z qx qy qz qw stamp px qz\n9 0 1 2 3 0 0 0 1 7 7 7\n8 1 4 5 6 0 0 1 0 6 7 7\n"
    path = saved(tmp_path, table)  # of columns of one name the first
    found = read_trajectory(path, format)
    assert (found.format, found.timestamps.tolist()) == ("tum", [0.0, 1.0])
    assert found.positions.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert found.camera_to_world[1, :3, :3].diagonal().tolist() == [-1, -1, 1]


@pytest.mark.parametrize("name", ["nsecs", "header.stamp.nanosec"])
def test_a_time_in_two_columns_is_refused(tmp_path: Path, name: str) -> None:
    text = f"secs,{name},x,y,z,qx,qy,qz,qw\n" + "".join(f"14,{i}00,{i},0,0,0,0,0,1\n" for i in range(9))
    with pytest.raises(DataError, match=rf"poses\.txt:2: expected a time in one column, found '{name}' beside"):
        read_trajectory(saved(tmp_path, text))


def test_decimal_commas_are_called_so(tmp_path: Path) -> None:
    text = "".join(f"1{i},5;0,25;{i},5;0,0;0,0;0,0;0,0;1,0\n" for i in range(9))
    with pytest.raises(DataError, match=r"poses\.txt:1: expected a point in decimal numbers, found commas and semic"):
        read_trajectory(saved(tmp_path, text))


@pytest.mark.parametrize("write", ["%.3g", "float32"])
def test_stamps_without_their_digits_are_refused(tmp_path: Path, write: str) -> None:
    """Most rows with the time of another row are no repeated row but lost digits."""
    poses, ns = some_poses(40), stamps(40)
    if write == "float32":
        path = saved(tmp_path, npy(table8(poses, ns).astype(np.float32)))
    else:
        path = saved(tmp_path, rows(tum_rows(poses, [write % (t / 1e9) for t in ns])))
    with pytest.raises(DataError, match=r"of 40 poses have the time of the row before.*the stamps have lost their dig"):
        read_trajectory(path)


def test_no_quaternion_at_all_is_a_file_of_positions(tmp_path: Path) -> None:
    poses, ns = some_poses(5), stamps(5)
    text = rows([[*row[:4], 0, 0, 0, 0] for row in tum_rows(poses, list(map(seconds, ns)))])
    found = read_trajectory(saved(tmp_path, text))
    assert (len(found), found.lost, found.has_orientation) == (5, 0, False)
    np.testing.assert_allclose(found.positions, poses[:, :3, 3], atol=1e-9)


@pytest.mark.parametrize(
    ("write", "order"), [(tum, "xyzw"), (euroc, "wxyz"), (colmap, "wxyz")], ids=["tum", "euroc", "colmap"]
)
def test_the_quaternion_order_of_a_format_changes_nothing(
    tmp_path: Path, write: Callable[[np.ndarray, list[int]], str], order: QuaternionOrder
) -> None:
    (tmp_path / "poses.txt").write_text(write(some_poses(6), stamps(6)))
    found = read_trajectory(tmp_path / "poses.txt")
    read = PoseReading(quaternion=order).of(found, found.format)
    np.testing.assert_array_equal(read.camera_to_world, found.camera_to_world)
    other = PoseReading(quaternion="wxyz" if order == "xyzw" else "xyzw").of(found, found.format)
    assert not np.allclose(other.camera_to_world, found.camera_to_world)


def test_a_colmap_file_with_the_scalar_last_is_read_so(tmp_path: Path) -> None:
    text = colmap(some_poses(6), stamps(6))
    (tmp_path / "sound.txt").write_text(text)
    lines = text.split("\n")
    for number, line in enumerate(lines):
        fields = line.split()
        if len(fields) == 10 and not line.startswith("#"):
            lines[number] = " ".join([fields[0], *fields[2:5], fields[1], *fields[5:]])
    (tmp_path / "turned.txt").write_text("\n".join(lines))
    sound, turned = (read_trajectory(tmp_path / name, "colmap") for name in ("sound.txt", "turned.txt"))
    read = PoseReading(quaternion="xyzw").of(turned, turned.format)
    np.testing.assert_allclose(read.camera_to_world, sound.camera_to_world, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 0 0\n1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n1 1 0\n1 0 0 0\n", ":7: expected 4 lines after"),
        (2 * "3 0 0\n1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", ":6: frame 3 is in line 1 already; keep one pose"),
    ],
)
def test_a_camera_log_that_is_cut_or_has_a_frame_twice(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.log").write_text(text)
    with pytest.raises(DataError) as refusal:
        read_trajectory(tmp_path / "a.log")
    assert says in str(refusal.value)


@pytest.mark.parametrize("columns", [4, 8, 12, 16])
def test_an_archive_with_one_table_of_poses(tmp_path: Path, columns: int) -> None:
    """Times in the first column, or matrices in rows without any."""
    poses = some_poses(5)
    times = 1.5 + np.arange(5)[:, None]
    table = {
        4: np.hstack([times, poses[:, :3, 3]]),
        8: np.hstack([times, poses[:, :3, 3], quaternions(poses)]),
        12: poses[:, :3].reshape(5, 12),
        16: poses.reshape(5, 16),
    }[columns]
    np.savez(tmp_path / "a.npz", poses=table, other=np.zeros(3))
    found = read_trajectory(tmp_path / "a.npz")
    assert found.timed is (columns < 12)
    assert found.timestamps.tolist() == (times[:, 0].tolist() if found.timed else [0, 1, 2, 3, 4])
    assert found.has_orientation is (columns != 4)
    np.testing.assert_allclose(found.positions, poses[:, :3, 3])
    if found.has_orientation:
        np.testing.assert_allclose(found.camera_to_world, poses, atol=1e-12)
    (note,) = found.notes
    assert note.startswith("a.npz: the poses are its array 'poses', taken as camera-to-world")
    assert ("so they have none" in note) is (columns > 8)
    if columns < 12:
        table[2, 0] = np.nan
        np.savez(tmp_path / "a.npz", poses=table)
        with pytest.raises(DataError, match="expected finite times in the first column, found some that are not"):
            read_trajectory(tmp_path / "a.npz")


def test_a_binary_model_of_colmap_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "images.bin").write_bytes(bytes(100))
    with pytest.raises(DataError, match=r"not text \(a binary model of COLMAP\?\); write it as images\.txt"):
        read_trajectory(tmp_path / "images.bin")


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        ({"poses": "world-to-camera", "quaternion": "wxyz"}, "poses, quaternion"),
        ({"poses": "world-to-camera-rotations"}, "poses"),
        ({"quaternion": "xyzw"}, "quaternion"),
        ({"to_camera": "opengl"}, "to_camera"),
    ],
)
def test_positions_can_be_mirrored_and_nothing_else(tmp_path: Path, asked: dict[str, str], refused: str) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{t} {t} 2 3\n" for t in range(4)))
    found = read_trajectory(tmp_path / "a.txt")
    assert PoseReading().of(found, "tum") is found
    assert PoseReading(handedness="left").of(found, "tum").positions[1].tolist() == [1, -2, 3]
    for more in ({}, {"handedness": "left"}):
        wrong = PoseReading.model_validate({**asked, **more})
        with pytest.raises(ConfigError, match=f"^{refused}: expected poses, found positions without orientation"):
            wrong.of(found, "tum")


def test_text_beyond_any_file_of_poses_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its size, or by what it unpacks to."""
    monkeypatch.setattr(text, "MAX_TEXT_BYTES", 3 << 20)
    (tmp_path / "a.txt").write_bytes(b"# \n" * (1 << 20))
    assert len(text.read_bytes(tmp_path / "a.txt", "trajectory")) == 3 << 20
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"# \n" * (1 << 20)))
    assert len(text.read_bytes(tmp_path / "a.gz", "trajectory")) == 3 << 20
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"# \n" * (1 << 20) + b"#"))
    with pytest.raises(DataError, match="has more than 3 MiB: expected a file of poses"):
        read_trajectory(tmp_path / "a.gz")
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(64 << 20)))
    tracemalloc.start()
    with pytest.raises(DataError, match="has more than 3 MiB: expected a file of poses"):
        read_trajectory(tmp_path / "bomb.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
    (tmp_path / "a.txt").write_bytes(b"# \n" * (1 << 20) + b"#")
    with pytest.raises(DataError, match="it has 3145729 bytes, expected at most 3145728"):
        read_trajectory(tmp_path / "a.txt")
