"""Trajectory files: agreement with evo's readers, exact round trips, and one clear line for every fault."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lingbot_eval.errors import ConfigError, DataError, LingbotEvalError, StoreError
from lingbot_eval.files.reading import folder_contents
from lingbot_eval.files.trajectories import (
    TrajectoryFile,
    read_kitti,
    read_trajectory,
    read_tum,
    write_tum,
)
from lingbot_eval.types import FloatArray, Trajectory
from tests.support.pose_files import write_kitti

IDENTITY_ROW = "1 0 0 0 0 1 0 0 0 0 1 0"


def random_poses(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.random(count, random_state=seed).as_matrix()
    poses[:, :3, 3] = rng.normal(size=(count, 3)) * 10
    return poses


def written(folder: Path, text: str | bytes, name: str = "poses.txt") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(reader, path: Path, *parts: str) -> str:
    """The reader refuses with one line that holds all parts."""
    with pytest.raises(DataError) as caught:
        reader(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (path.name, *parts):
        assert part in message, message
    return message


class TestAgainstEvo:
    def test_tum(self, tmp_path: Path) -> None:
        from evo.tools.file_interface import read_tum_trajectory_file

        path = written(
            tmp_path,
            "# a comment\n1305031098.6659 1.3563 0.6305 1.6380 0.6132 0.5962 -0.3311 -0.3986\n"
            "1305031098.6758 1.3543 0.6306 1.6360 0.6129 0.5966 -0.3316 -0.3980\n",
        )
        ours, theirs = read_tum(path), read_tum_trajectory_file(str(path))
        np.testing.assert_array_equal(ours.timestamps, theirs.timestamps)
        np.testing.assert_allclose(ours.camera_to_world, np.array(theirs.poses_se3), atol=1e-14)
        assert ours.lines.tolist() == [2, 3]

    def test_kitti(self, tmp_path: Path) -> None:
        from evo.tools.file_interface import read_kitti_poses_file

        poses = random_poses(5)
        path = written(tmp_path, "".join(" ".join(f"{x:.6e}" for x in p[:3].ravel()) + "\n" for p in poses))
        ours = read_kitti(path)
        np.testing.assert_array_equal(ours.camera_to_world, np.array(read_kitti_poses_file(str(path)).poses_se3))
        assert not ours.timed

    def test_euroc(self, tmp_path: Path) -> None:
        from evo.tools.file_interface import read_euroc_csv_trajectory

        path = written(
            tmp_path,
            "#timestamp, p_RS_R_x [m], p_RS_R_y [m], p_RS_R_z [m], q_RS_w [], q_RS_x [], q_RS_y [], q_RS_z [], v\n"
            "1403636580838555648,4.688319,-1.786938,0.783338,0.534108,-0.153029,-0.827383,-0.082152,-0.027876\n"
            "1403636580843555328,4.688177,-1.786770,0.787350,0.534640,-0.152990,-0.826976,-0.082863,0.033272\n",
        )
        ours, theirs = read_trajectory(path, "euroc"), read_euroc_csv_trajectory(str(path))
        np.testing.assert_array_equal(ours.timestamps, theirs.timestamps)
        np.testing.assert_allclose(ours.camera_to_world, np.array(theirs.poses_se3), atol=1e-14)


def test_scalar_order_by_hand(tmp_path: Path) -> None:
    """A quarter turn about z: TUM says it with the scalar last, EuRoC with the scalar first."""
    turn = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    tum = read_tum(written(tmp_path, "0 0 0 0 0 0 0.5 0.5\n"))  # not normalised on purpose
    euroc = read_trajectory(written(tmp_path, "0,0,0,0,0.5,0,0,0.5\n"), "euroc")
    np.testing.assert_allclose(tum.camera_to_world[0, :3, :3], turn, atol=1e-15)
    np.testing.assert_allclose(euroc.camera_to_world[0, :3, :3], turn, atol=1e-15)


@pytest.mark.parametrize(
    "text",
    [
        "0 1 2 3 0 0 0 1\r\n1 1 2 3 0 0 0 1\r\n",
        "\ufeff0 1 2 3 0 0 0 1\n\n1 1 2 3 0 0 0 1",
        "0\t1 2  3 0 0 0 1 \n1 1 2 3 0 0 0 1\n",
    ],
    ids=["crlf", "byte order mark and blank line", "tabs and trailing space"],
)
def test_tolerated_variants(tmp_path: Path, text: str) -> None:
    trajectory = read_tum(written(tmp_path, text))
    assert trajectory.timestamps is not None
    assert trajectory.timestamps.tolist() == [0, 1]
    assert trajectory.camera_to_world[:, :3, 3].tolist() == [[1, 2, 3], [1, 2, 3]]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("0 0 0 0 0 0 0 1\n1 0 0 0 0 0 1\n", (":2", "found 7 fields")),
        ("# c\n0 0 0 0 0 0 0 1\n1 0 0 0 0 0 0 1\n2 0 0 0 0 0 1\n", (":4", "as in line 2", "found 7 fields")),
        ("0 0 0 0 0 0 0 1 5\n", (":1", "found 9 fields")),
        ("0 0 0 0 0 0 0 1_0\n", (":1", "column 8", "1_0")),
        ("0 0 0 0 0 0 0 \uff11\n", (":1", "column 8")),
        ("# c\n0 0 x 0 0 0 0 1\n", (":2", "column 3", "'x'")),
        ("0 0 nan 0 0 0 0 1\n", (":1", "finite", "no usable pose")),
        ("nan 0 0 0 0 0 0 1\n", (":1", "finite time", "nan")),
        ("0 0 0 0 0 0 0 1\n1e999 0 0 0 0 0 0 1\n", (":2", "finite time", "1e999")),
        ("0 0 0 1e999 0 0 0 1\n", (":1", "finite")),
        ("0 0 0 0 0 0 0 0\n", (":1", "no usable pose")),
        ("2 0 0 0 0 0 0 1\n1 0 0 0 0 0 0 1\n", (":2", "found one 1 s before", "line 1", "sort")),
        ("0 0 0 0 0 0 0 1\n5 0 0 0 0 0 0 1\n3 0 0 0 0 0 0 1\n", (":3", "found one 2 s before", "line 2")),
        ("", ("no poses",)),
        ("# only a header\n", ("no poses",)),
        (b"\x89PNG\r\n\x1a\n\x00\x00", (":3", "not text")),
        (b"0 0 0 0 0 0 0 1\n1 \xff 0\n", (":2", "not text")),
    ],
)
def test_malformed_tum_is_refused(tmp_path: Path, text: str | bytes, parts: tuple[str, ...]) -> None:
    refused(read_tum, written(tmp_path, text), *parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1,0,0,0,1,0,0\n", (":1", "found 7 fields")),
        ("1,0,0,0,1,0,0,0,9\n2,0,0,0,1,0,0,0\n", (":2", "found 8 fields")),
        ("2000000000,0,0,0,1,0,0,0\n1000000000,0,0,0,1,0,0,0\n", (":2", "1 s before")),
        ("1,0,0,0,0,0,0,0\n", (":1", "no usable pose")),
    ],
)
def test_malformed_euroc_is_refused(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    refused(partial(read_trajectory, format="euroc"), written(tmp_path, text), *parts)


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ("1 0 0 0 0 1 0 0 0 0 1", ("found 11 fields",)),
        ("0 " + IDENTITY_ROW, ("found 13 fields",)),
        ("2 0 0 0 0 2 0 0 0 0 2 0", ("rotation", "deviates", "by 3")),
        ("1 0 0 0 0 1 0 0 0 0 -1 0", ("rotation", "mirror")),
        ("1e200 0 0 0 0 1 0 0 0 0 1 0", ("rotation", "inf")),
    ],
)
def test_malformed_kitti_is_refused(tmp_path: Path, row: str, parts: tuple[str, ...]) -> None:
    refused(read_kitti, written(tmp_path, f"{IDENTITY_ROW}\n{row}\n"), ":2", *parts)


def test_a_last_row_of_another_kind_is_no_pose(tmp_path: Path) -> None:
    sound = f"{IDENTITY_ROW} 0 0 0 1\n"
    assert len(read_kitti(written(tmp_path, 2 * sound))) == 2
    for end in ("0 0 0 2", "0.5 0 0 1"):
        refused(read_kitti, written(tmp_path, f"{sound}{IDENTITY_ROW} {end}\n"), ":2: expected a rigid pose")


def test_kitti_keeps_slightly_non_orthogonal_rotations(tmp_path: Path) -> None:
    path = written(tmp_path, "1.003 0.001 0 5 0 1 0 6 0 0 0.999 7\n")
    np.testing.assert_array_equal(
        read_kitti(path).camera_to_world[0], [[1.003, 0.001, 0, 5], [0, 1, 0, 6], [0, 0, 0.999, 7], [0, 0, 0, 1]]
    )


def test_missing_file_says_what_is_there(tmp_path: Path) -> None:
    written(tmp_path, "", "estimate.txt")
    refused(read_tum, tmp_path / "estimated.txt", "does not exist", "estimate.txt")
    refused(read_tum, tmp_path / "nowhere" / "a.txt", "does not exist", "cannot be listed")
    refused(read_tum, tmp_path, "is a folder")


def test_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="auto, tum, kitti, euroc"):
        read_trajectory(tmp_path / "a.txt", "bundler")  # type: ignore[arg-type]


@given(
    st.lists(st.floats(-1e9, 1e9), min_size=3, max_size=3),
    st.floats(0, 2e9),
    st.integers(0, 2**32 - 1),
)
def test_tum_round_trip(
    tmp_path_factory: pytest.TempPathFactory, position: list[float], start: float, seed: int
) -> None:
    path = tmp_path_factory.mktemp("round") / "a.tum"
    poses = random_poses(3, seed)
    poses[1, :3, 3] = position
    stamps = start + np.array([0.0, 1 / 3, 2 / 3]) * 3
    write_tum(path, Trajectory(np.arange(3), stamps, poses))
    back = read_tum(path)
    assert back.timestamps is not None
    np.testing.assert_array_equal(back.timestamps, stamps)
    np.testing.assert_array_equal(back.camera_to_world[:, :3, 3], poses[:, :3, 3])
    np.testing.assert_allclose(back.camera_to_world, poses, atol=1e-14, rtol=0)


def test_files_without_times_or_turns_say_so(tmp_path: Path) -> None:
    for changed in ({"time_scale": 0.5}, {"time_offset": 2.0}):
        with pytest.raises(DataError, match="a time scale or offset has nothing to change: format kitti has no times"):
            read_trajectory(written(tmp_path, IDENTITY_ROW + "\n"), **changed)  # type: ignore[arg-type]
    poses = random_poses(2)
    for oriented, columns in (
        (True, "timestamp tx ty tz qx qy qz qw (camera-to-world)"),
        (False, "timestamp tx ty tz ("),
    ):
        write_tum(tmp_path / "out.txt", Trajectory(np.arange(2), np.arange(2.0), poses, oriented))
        head, *rows = (tmp_path / "out.txt").read_text().splitlines()
        assert head.startswith(f"# {columns}")
        assert {len(row.split()) for row in rows} == {8 if oriented else 4}


def test_kitti_round_trip_is_exact(tmp_path: Path) -> None:
    poses = random_poses(4)
    write_kitti(tmp_path / "a.txt", poses)
    np.testing.assert_array_equal(read_kitti(tmp_path / "a.txt").camera_to_world, poses)


def test_poses_that_are_not_finite(tmp_path: Path) -> None:
    poses = random_poses(4)
    poses[2, 0, 3] = np.nan
    trajectory = Trajectory(np.array([0, 5, 10, 15]), np.arange(4.0), poses)
    write_tum(tmp_path / "a.tum", trajectory)
    assert "left out, not finite: frames 10" in (tmp_path / "a.tum").read_text()
    timestamps = read_tum(tmp_path / "a.tum").timestamps
    assert timestamps is not None
    assert timestamps.tolist() == [0, 1, 3]
    write_tum(tmp_path / "none.tum", Trajectory(np.arange(1), np.zeros(1), np.full((1, 4, 4), np.nan)))
    refused(read_tum, tmp_path / "none.tum", "no poses")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_leaves_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError):
        write_tum(tmp_path / "a.tum", Trajectory(np.arange(1), np.zeros(1), np.eye(4)[None]))


def test_write_into_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot write"):
        write_tum(tmp_path / "no" / "a.tum", Trajectory(np.arange(1), np.zeros(1), np.eye(4)[None]))


@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_crash(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Whatever lies in the file, it is read or refused as an error of ours."""
    path = tmp_path_factory.mktemp("bytes") / "a.txt"
    path.write_bytes(data)
    for format in ("tum", "kitti", "euroc"):
        with contextlib.suppress(LingbotEvalError):
            read_trajectory(path, format)


def test_positions_have_no_orientation(tmp_path: Path) -> None:
    found = read_tum(written(tmp_path, "0 1 2 3\n1 4 5 6\n"))
    assert not found.has_orientation
    assert found.camera_to_world[:, :3, 3].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_an_archive_with_poses_and_times_has_both(tmp_path: Path) -> None:
    poses = np.tile(np.eye(4), (5, 1, 1))
    poses[:, 0, 3] = range(5)
    np.savez(tmp_path / "a.npz", poses=poses, timestamps=1e9 + 0.1 * np.arange(5), loss=np.ones(5))
    found = read_trajectory(tmp_path / "a.npz")
    assert found.timed
    np.testing.assert_allclose(found.timestamps, 1e9 + 0.1 * np.arange(5), rtol=0, atol=1e-6)
    assert any("'poses'" in note and "their times are its array 'timestamps'" in note for note in found.notes)
    np.savez(tmp_path / "b.npz", poses=poses, timestamps_ns=np.arange(5) * 100_000_000 + 10**18)
    assert read_trajectory(tmp_path / "b.npz").time_unit == "ns"
    np.savez(tmp_path / "c.npz", poses=poses, t=np.zeros((5, 3)))  # translations
    untimed = read_trajectory(tmp_path / "c.npz")
    assert not untimed.timed
    assert any("so they have none" in note for note in untimed.notes)


@pytest.mark.parametrize("times", [np.arange(4.0), np.full(5, np.nan), np.array(list("abcde"))])
def test_times_in_an_archive_that_fit_no_poses_are_refused(tmp_path: Path, times: FloatArray) -> None:
    np.savez(tmp_path / "a.npz", poses=np.tile(np.eye(4), (5, 1, 1)), times=times)
    with pytest.raises(DataError, match="expected one array of 5 finite times"):
        read_trajectory(tmp_path / "a.npz")


def test_of_two_arrays_of_times_none_is_taken(tmp_path: Path) -> None:
    poses = np.tile(np.eye(4), (5, 1, 1))
    np.savez(tmp_path / "a.npz", poses=poses, times=np.arange(5.0), stamps=np.arange(5.0) + 1)
    refused(read_trajectory, tmp_path / "a.npz", "expected one array of 5 finite times", "found times, stamps among")


def test_four_rows_of_a_time_and_a_place_are_no_matrix(tmp_path: Path) -> None:
    """One pose alone is told by its last row."""
    np.save(tmp_path / "a.npy", np.array([[t, 10 * t, 0.0, 0.0] for t in range(4)]))
    found = read_trajectory(tmp_path / "a.npy")
    assert (found.timestamps.tolist(), found.positions[:, 0].tolist()) == ([0, 1, 2, 3], [0, 10, 20, 30])
    assert not found.has_orientation
    pose = np.eye(4)
    pose[0, 3] = 5
    np.save(tmp_path / "a.npy", pose)
    assert read_trajectory(tmp_path / "a.npy").positions.tolist() == [[5, 0, 0]]


IMAGE = "{} 1 0 0 0 {} 0 0 1 {}\n\n"


def images(folder: Path, names: list[str]) -> TrajectoryFile:
    """images.txt of COLMAP; image i stands at x = −i."""
    return read_trajectory(written(folder, "".join(IMAGE.format(i, i, name) for i, name in enumerate(names))))


def test_numbers_in_names_are_frames_and_their_gaps_are_said(tmp_path: Path) -> None:
    found = images(tmp_path, ["img_0030.jpg", "img_0010.jpg", "img_0070.png", "img_0090.jpg"])
    assert found.names == ("img_0010.jpg", "img_0030.jpg", "img_0070.png", "img_0090.jpg")
    assert found.indices.tolist() == [0, 1, 3, 4]  # steps of 20, and 50 is missing
    assert found.lines.tolist() == [3, 1, 5, 7]
    assert found.positions[:, 0].tolist() == [-1, 0, -2, -3]
    assert found.timestamps.tolist() == [0, 1, 3, 4]
    assert (found.timed, found.rows, found.lost, len(found)) == (False, 5, 0, 4)
    (note,) = [note for note in found.notes if "missing" in note]
    assert note == "1 numbers are missing among the images' names: counted as frames without a pose"
    whole = images(tmp_path, ["a7.jpg", "a9.jpg", "a8.jpg"])
    assert not any("missing" in note for note in whole.notes)
    assert images(tmp_path, ["a7.jpg"]).indices.tolist() == [0]


def numbered_colmap(folder: Path, numbers: list[int]) -> TrajectoryFile:
    return images(folder, [f"a{number}.jpg" for number in numbers])


def numbered_nerfstudio(folder: Path, numbers: list[int]) -> TrajectoryFile:
    frames = [{"file_path": f"images/a{number}.png", "transform_matrix": np.eye(4).tolist()} for number in numbers]
    return read_trajectory(written(folder, json.dumps({"frames": frames}), "transforms.json"))


def numbered_log(folder: Path, numbers: list[int]) -> TrajectoryFile:
    matrix = "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"
    return read_trajectory(written(folder, "".join(f"{number} {number} 0\n{matrix}" for number in numbers)))


@pytest.mark.parametrize(
    ("numbers", "frames"),
    [
        ([3, 5, 8, 12], [0, 2, 5, 9]),  # no step divides the others: the numbers are the frames
        ([12, 3, 8, 5], [0, 2, 5, 9]),
        ([4, 10, 14, 24], [0, 3, 5, 10]),  # every second frame, though no two neighbours are there
        ([20, 26, 35], [0, 2, 5]),
    ],
)
@pytest.mark.parametrize("read", [numbered_colmap, numbered_nerfstudio, numbered_log])
def test_irregular_numbers_keep_their_distances(
    tmp_path: Path, read: Callable[[Path, list[int]], TrajectoryFile], numbers: list[int], frames: list[int]
) -> None:
    found = read(tmp_path, numbers)
    if read is numbered_log:  # its numbers are frames from 0 on, which names of images need not be
        frames = sorted(numbers)
    else:
        assert any(f"{frames[-1] + 1 - len(frames)} numbers are missing" in note for note in found.notes)
    assert found.indices.tolist() == found.timestamps.tolist() == frames
    assert found.rows == frames[-1] + 1


def test_names_without_numbers_are_in_the_order_that_people_count_in(tmp_path: Path) -> None:
    found = images(tmp_path, ["b10x.jpg", "b9x.jpg", "a2y.jpg", "b1x.jpg"])
    assert found.names == ("a2y.jpg", "b1x.jpg", "b9x.jpg", "b10x.jpg")
    assert found.indices.tolist() == [0, 1, 2, 3]
    # One number twice says nothing of frames.
    assert images(tmp_path, ["left/b10.jpg", "right/a10.jpg", "right/b9.jpg"]).names == (
        "right/a10.jpg",
        "right/b9.jpg",
        "left/b10.jpg",
    )


@pytest.mark.parametrize("folder", ["", "cam0/", "left\\cam0\\"])
def test_names_that_are_times_are_times(tmp_path: Path, folder: str) -> None:
    found = images(tmp_path, [f"{folder}1403636579813555456.png", f"{folder}1403636579763555584.png"])
    assert found.timed
    assert found.timestamps.tolist() == [1403636579.763555584, 1403636579.813555456]
    assert found.positions[:, 0].tolist() == [-1, 0]
    assert (found.time_unit, found.why_unit) == ("ns", None)
    # Of images in another order the one that is lost stays the one that is lost.
    names = [f"14036365798{n}3555456.png" for n in (2, 1, 3)]
    rows = [IMAGE.format(i, "nan" if i == 1 else i, name) for i, name in enumerate(names)]
    found = read_trajectory(written(tmp_path, "".join(rows)))
    assert found.timestamps.tolist() == [1403636579.823555456, 1403636579.833555456]
    assert (found.lost, found.positions[:, 0].tolist()) == (1, [0, -2])


def test_lost_and_repeated_rows_are_counted_and_named(tmp_path: Path) -> None:
    rows = ["0 0 0 0", "1 nan 0 0", "2 1 0 0", "2 5 0 0", "2 1 0 0", "3 2 0 0", "4 inf 0 0", "5 0 0 0"]
    found = read_tum(written(tmp_path, "# comment\n" + "\n".join(rows) + "\n"))
    assert (found.rows, found.lost, found.repeated, len(found)) == (8, 2, 2, 4)
    assert found.lines.tolist() == [2, 4, 7, 9]
    assert found.indices.tolist() == [0, 2, 5, 7]
    assert list(found.by_row()) == [0, 2, 5, 7]
    assert found.others is not None
    # Of the two that come again one goes another way.
    assert (found.others.indices.tolist(), found.others.timestamps.tolist()) == ([3], [2.0])
    assert found.others.positions.tolist() == [[5, 0, 0]]
    assert not found.others.has_orientation
    said = [
        "poses.txt: 2 of 8 poses (first: line 3) are not finite or have a quaternion of length 0: left out as lost"
        " frames",
        "poses.txt: 2 of 8 poses (first: line 5) have the time of the row before: of each time the first row is kept",
    ]
    assert [note for note in found.notes if "of 8 poses" in note] == said


@pytest.mark.parametrize(("repeated", "of"), [(2, 4), (3, 5)])
def test_stamps_of_which_most_are_one_have_lost_their_digits(tmp_path: Path, repeated: int, of: int) -> None:
    times = [1] * (repeated + 1) + list(range(2, of - repeated + 1))
    path = written(tmp_path, "".join(f"{time} {row} 0 0\n" for row, time in enumerate(times)))
    if 2 * repeated <= of:
        assert read_tum(path).repeated == repeated
    else:
        refused(read_tum, path, f"{repeated} of {of} poses have the time of the row before", "such as 1 s", "digits")


def test_of_stamps_that_have_lost_their_digits_one_that_comes_again_is_named(tmp_path: Path) -> None:
    """Not the first of the file, which may be of one row alone, nor one of lost frames."""
    rows = ["0.25 nan 0 0", "0.25 nan 0 0", "0.5 0 0 0", *(f"1 {row} 0 0" for row in range(4))]
    refused(read_tum, written(tmp_path, "\n".join(rows)), "3 of 5 poses have the time of the row before, such as 1 s:")


def test_a_folder_is_told_of_in_a_few_names(tmp_path: Path) -> None:
    assert folder_contents(tmp_path) == f"its folder {tmp_path} is empty"
    for name in "hgfedcba":
        written(tmp_path, "", name)
    assert folder_contents(tmp_path) == f"its folder {tmp_path} holds: a, b, c, d, e, f, g, h"
    (tmp_path / "b2").mkdir()
    assert folder_contents(tmp_path) == f"its folder {tmp_path} holds: a, b, b2/, c, d, e, f, g … (9 entries)"


@pytest.mark.parametrize(
    ("paths", "names"), [(["b.png", "a.png"], ("a.png", "b.png")), (["b.png", None], None), ([None, None], None)]
)
def test_frames_of_nerfstudio_are_named_where_all_are(
    tmp_path: Path, paths: list[str | None], names: tuple[str, ...] | None
) -> None:
    frames = [
        {"transform_matrix": np.eye(4).tolist()} | ({} if path is None else {"file_path": path}) for path in paths
    ]
    found = read_trajectory(written(tmp_path, json.dumps({"frames": frames}), "transforms.json"))
    assert (found.format, found.names, len(found)) == ("nerfstudio", names, 2)
