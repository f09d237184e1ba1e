"""Replay of saved predictions: which row belongs to which frame, what is counted, what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from lingbot_eval.errors import ConfigError, DataError
from lingbot_eval.files.reading import WHOLE_BYTES, file_state
from lingbot_eval.files.trajectories import write_tum
from lingbot_eval.methods.base import Method
from lingbot_eval.methods.replay import ReplayConfig, ReplayMethod, scene_path
from lingbot_eval.metrics.trajectory import score_trajectory
from lingbot_eval.runs.experiment import load_experiment
from lingbot_eval.runs.plan import input_fingerprint, make_plan, open_scene
from lingbot_eval.types import Frame, FrameSequence, Prediction, Trajectory
from tests.support.pose_files import write_kitti


@dataclass(frozen=True)
class Recording:
    """Frames at 10 Hz without images; frame i has its reference camera at x = i."""

    length: int | None = 20
    times: bool = True
    shape: tuple[int, int] | None = None
    dataset: str = "somewhere"
    scene: str = "room/seq-01"
    asked: dict[str, bool] = field(default_factory=dict)

    def frames(self, *, images: bool = True, depth: bool = True) -> Iterator[Frame]:
        for i in range(self.length or 0):
            truth = None if self.shape is None else np.ones(self.shape, dtype=np.float32)
            yield Frame(i, i / 10, None, f"frame {i}", depth=truth)

    def loaders(self, *, images: bool = True, depth: bool = True) -> Iterator[Callable[[], Frame]]:
        return ((lambda frame=frame: frame) for frame in self.frames(images=images, depth=depth))

    def reference(self) -> Trajectory | None:
        return Trajectory(np.arange(20), np.arange(20) / 10, poses(20))

    def timestamps(self) -> np.ndarray | None:
        return np.arange(self.length or 0) / 10 if self.times else None

    def fingerprint(self) -> str:
        return "0"

    def facts(self) -> Mapping[str, Any]:
        return {}


def poses(count: int) -> np.ndarray:
    found = np.tile(np.eye(4), (count, 1, 1))
    found[:, 0, 3] = np.arange(count)
    found[:, 1, 3] = np.arange(count) % 3
    return found


def opened(sequence: FrameSequence, **settings: Any) -> ReplayMethod:
    method = ReplayMethod(ReplayConfig(kind="replay", **settings))
    method.open(sequence)
    return method


def predicted(method: ReplayMethod, sequence: FrameSequence) -> list[Prediction]:
    return list(method.predict(sequence.frames(images=False)))


def test_is_a_method(tmp_path: Path) -> None:
    method: Method = ReplayMethod(ReplayConfig(kind="replay", trajectory="x", format="tum", name="theirs"))
    assert (method.name, method.needs_images, method.resources()) == ("theirs", False, ())
    assert method.warm_up(Frame(0, 0.0, None, "")) == 0.0
    assert method.describe()["format"] == "tum"


def test_sparse_keyframes_by_time_both_ways_counted(tmp_path: Path) -> None:
    """Keyframes 3, 7, 11 and two poses that meet no frame: 3 predictions, the rest left out and counted."""
    stamps = np.array([0.301, 0.55, 0.69, 1.1, 7.0])
    (tmp_path / "room").mkdir()
    write_tum(tmp_path / "room" / "seq-01.txt", Trajectory(np.arange(5), stamps, poses(5)))
    sequence = Recording()
    method = opened(sequence, trajectory=f"{tmp_path}/{{scene}}.txt", format="tum")
    found = predicted(method, sequence)
    assert [p.index for p in found] == [3, 7, 11]
    assert [p.timestamp for p in found] == [0.3, 0.7, 1.1]
    assert [None if p.camera_to_world is None else p.camera_to_world[0, 3] for p in found] == [0, 2, 3]
    assert all(p.depth is None for p in found)
    assert "0.02 s" in method.describe()["association"]
    facts = method.describe()["found"]
    assert facts["poses_matched"] == 3
    assert facts["poses_without_frame"] == 2
    assert facts["frames_without_pose"] == 17
    assert facts["coverage_percent"] == 15.0
    reference = sequence.reference()
    assert reference is not None
    estimate = Trajectory(np.array([p.index for p in found]), np.zeros(3), np.array([p.camera_to_world for p in found]))
    measured = {(m.name, m.variant): m.value for m in score_trajectory(reference, estimate, 20).measurements}
    assert measured["coverage", ""] == 15.0
    assert measured["unmatched_frames", "no_estimate"] == 17


def test_the_record_says_all_that_the_file_had(tmp_path: Path) -> None:
    """A lost pose, a time that comes again, one that meets no frame: every count is another number."""
    stamps = [0, 100, 200, 300, 300, 400, 900, 900, 950, 1200]
    rows = [f"{stamp}000000,{row},0,0,{int(stamp != 200)},0,0,0" for row, stamp in enumerate(stamps)]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    sequence = Recording()
    facts = opened(sequence, trajectory=f"{tmp_path}/a.csv", format="euroc").describe()
    found = dict(facts["found"])
    assert found.pop("coverage_percent") == pytest.approx(30.0)
    assert found == {
        "trajectory_file": f"{tmp_path}/a.csv",
        "format": "euroc",
        "time_unit": "ns",
        "poses_in_file": 10,
        "lost_poses": 1,
        "repeated_stamps": 2,
        "poses_matched": 6,
        "poses_without_frame": 1,
        "frames": 20,
        "frames_without_pose": 14,
    }
    assert [note.partition(": ")[2].partition(" (")[0] for note in facts["notes"]] == ["1 of 10 poses", "2 of 10 poses"]
    assert facts["association"] == "one to one by nearest timestamp within 0.02 s"
    write_kitti(tmp_path / "k.txt", poses(20))
    (tmp_path / "depth").mkdir()
    np.save(tmp_path / "depth" / "3.npy", np.ones((3, 4)))
    facts = opened(sequence, trajectory=f"{tmp_path}/k.txt", depth=f"{tmp_path}/depth").describe()
    assert facts["association"] == "row i belongs to frame i of the selection"
    assert facts["found"]["time_unit"] is None
    assert (facts["found"]["depth_maps_matched"], facts["found"]["depth_maps_without_frame"]) == (1, 0)
    assert "notes" not in facts


def test_positions_alone_are_replayed_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("0 1 2 3\n0.1 4 5 6\n")
    write_tum(tmp_path / "b.txt", Trajectory(np.arange(2), np.array([0.0, 0.1]), poses(2)))
    for name, has_orientation in (("a", False), ("b", True)):
        method = opened(Recording(), trajectory=f"{tmp_path}/{name}.txt")
        assert {p.has_orientation for p in predicted(method, Recording())} == {has_orientation}


def test_time_limit_is_a_setting(tmp_path: Path) -> None:
    write_tum(tmp_path / "a.txt", Trajectory(np.arange(2), np.array([0.0, 0.54]), poses(2)))
    sequence = Recording()
    for limit, count in ((0.02, 1), (0.05, 2)):
        method = opened(sequence, trajectory=f"{tmp_path}/a.txt", format="tum", max_time_difference_s=limit)
        assert len(predicted(method, sequence)) == count


def test_euroc_nanoseconds(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("#t\n500000000,5,0,0,1,0,0,0\n1900000000,6,0,0,1,0,0,0\n")
    sequence = Recording()
    found = predicted(opened(sequence, trajectory=f"{tmp_path}/a.csv", format="euroc"), sequence)
    assert [(p.index, p.camera_to_world[0, 3]) for p in found if p.camera_to_world is not None] == [(5, 5.0), (19, 6.0)]


def test_kitti_row_for_frame(tmp_path: Path) -> None:
    write_kitti(tmp_path / "a.txt", poses(20))
    sequence = Recording()
    method = opened(sequence, trajectory=f"{tmp_path}/a.txt", format="kitti")
    for _ in range(2):
        found = predicted(method, sequence)
        assert [p.camera_to_world[0, 3] for p in found if p.camera_to_world is not None] == list(range(20))
        found[3].camera_to_world[0, 3] = 7  # what somebody does with a prediction stays with it


def test_kitti_of_the_whole_recording_needs_the_selection(tmp_path: Path) -> None:
    write_kitti(tmp_path / "a.txt", poses(103))
    sequence = Recording()
    settings = {"trajectory": f"{tmp_path}/a.txt", "format": "kitti"}
    with pytest.raises(DataError, match=r"20 selected frames.*103 rows.*frame_numbers"):
        opened(sequence, **settings)
    method = opened(sequence, **settings, frame_numbers={"start": 2, "stride": 5})
    found = predicted(method, sequence)
    assert [p.camera_to_world[0, 3] for p in found if p.camera_to_world is not None] == list(range(2, 102, 5))
    assert method.describe()["association"] == "row 2 + 5·i belongs to frame i of the selection"
    with pytest.raises(DataError, match=r"need 117 rows.*found 103"):
        opened(sequence, **settings, frame_numbers={"start": 2, "stride": 6})
    # The last row that is needed is row 97: of 98 rows all are there, of 97 one is not.
    for count in (98, 97):
        write_kitti(tmp_path / "b.txt", poses(count))
        given = {"trajectory": f"{tmp_path}/b.txt", "format": "kitti", "frame_numbers": {"start": 2, "stride": 5}}
        if count == 98:
            assert len(predicted(opened(sequence, **given), sequence)) == 20
        else:
            with pytest.raises(DataError, match=r"need 98 rows.*found 97"):
                opened(sequence, **given)


def test_a_lost_row_takes_the_place_of_no_other(tmp_path: Path) -> None:
    """Rows 1 and 4 of a KITTI file are no poses: their frames have none, and the others keep their own."""
    saved = poses(20)
    saved[[1, 4]] = np.nan
    write_kitti(tmp_path / "a.txt", saved)
    method = opened(Recording(), trajectory=f"{tmp_path}/a.txt", format="kitti")
    found = [
        (p.index, p.camera_to_world[0, 3]) for p in predicted(method, Recording()) if p.camera_to_world is not None
    ]
    assert found == [(index, float(index)) for index in range(20) if index not in (1, 4)]
    assert method.describe()["found"]["frames_without_pose"] == 2


class Unmeasured(Recording):
    """It knows when its frames were taken, but not how many will come."""

    def timestamps(self) -> np.ndarray:
        return np.arange(20) / 10


def test_of_frames_that_nobody_counted_there_is_no_share(tmp_path: Path) -> None:
    write_tum(tmp_path / "a.txt", Trajectory(np.arange(2), np.array([0.0, 0.3]), poses(2)))
    (tmp_path / "depth").mkdir()
    np.save(tmp_path / "depth" / "500.npy", np.ones((3, 4)))
    method = opened(Unmeasured(length=None), trajectory=f"{tmp_path}/a.txt", depth=f"{tmp_path}/depth")
    found = method.describe()["found"]
    assert (found["frames"], found["frames_without_pose"], found["coverage_percent"]) == (None, None, None)
    assert (found["poses_matched"], found["format"]) == (2, "tum")
    assert (found["depth_maps_matched"], found["depth_maps_without_frame"]) == (1, 0), "any may come"


def test_settings_of_a_replay_say_what_it_gives_and_reads(tmp_path: Path) -> None:
    poses_alone = ReplayConfig(kind="replay", trajectory="{dataset}-{scene}.txt")
    both = ReplayConfig(kind="replay", trajectory="{scene}.txt", depth=f"{tmp_path}/{{dataset}}")
    assert (poses_alone.gives_depth, both.gives_depth) == (False, True)
    assert (poses_alone.needs_images, both.needs_images) == (False, False)
    assert list(poses_alone.input_files("d", "s")) == [Path("d-s.txt")]
    assert list(both.input_files("d", "s")) == [Path("s.txt")], "the folder may come later"


@pytest.mark.parametrize(
    ("sequence", "format", "text", "match"),
    [
        (Recording(times=False), "tum", "0 0 0 0 0 0 0 1\n", "no timestamps before it is decoded"),
        (Recording(length=None), "kitti", "1 0 0 0 0 1 0 0 0 0 1 0\n", "cannot tell how many frames"),
        (Recording(), "tum", "1305031098.5 0 0 0 0 0 0 1\n", "none of 1 poses.*0.000 to 1.900 s.*1305031098.5"),
        (Recording(), "tum", "0 0 0 0 0 0 0\n", "a.txt:1: expected"),
    ],
)
def test_what_cannot_be_matched_is_refused(
    tmp_path: Path, sequence: Recording, format: str, text: str, match: str
) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(DataError, match=match) as caught:
        opened(sequence, trajectory=f"{tmp_path}/a.txt", format=format)
    assert "\n" not in str(caught.value)


def test_missing_trajectory_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "room-seq-01.txt").write_text("")
    with pytest.raises(DataError, match=r"does not exist; .*room-seq-01\.txt"):
        opened(Recording(), trajectory=f"{tmp_path}/{{dataset}}.txt", format="tum")


def test_depth_maps(tmp_path: Path) -> None:
    write_kitti(tmp_path / "a.txt", poses(20))
    (tmp_path / "depth").mkdir()
    for number in (0, 4, 19, 30):
        np.save(tmp_path / "depth" / f"{number:06d}.npy", np.full((3, 4), number + 0.5))
    (tmp_path / "depth" / "about.txt").write_text("no map")
    sequence = Recording(shape=(3, 4))
    settings = {"trajectory": f"{tmp_path}/a.txt", "format": "kitti", "depth": f"{tmp_path}/depth"}
    method = opened(sequence, **settings)
    found = {p.index: p.depth for p in predicted(method, sequence)}
    assert {index for index, depth in found.items() if depth is not None} == {0, 4, 19}
    assert found[4] is not None
    assert found[4].dtype == np.float32
    assert (found[4] == 4.5).all()
    assert method.describe()["found"]["depth_maps_matched"] == 3
    assert method.describe()["found"]["depth_maps_without_frame"] == 1
    with pytest.raises(DataError, match=r"000000\.npy of frame 0 has shape \(3, 4\).*\(6, 8\)"):
        predicted(opened(Recording(shape=(6, 8)), **settings), Recording(shape=(6, 8)))


@pytest.mark.parametrize("outside", [0, 3, 9, 11, 13, 50, 52])
def test_depth_maps_of_frames_that_the_selection_leaves_out_are_counted(tmp_path: Path, outside: int) -> None:
    """Frames 10, 12 … 48 of a recording: those before it are no frames −5 to −1, and those between and after none."""
    write_tum(tmp_path / "a.txt", Trajectory(np.arange(1), np.array([0.5]), poses(1)))
    (tmp_path / "depth").mkdir()
    for number in (10, 14, 48, outside):
        np.save(tmp_path / "depth" / f"{number:06d}.npy", np.full((3, 4), number, np.float32))
    sequence = Recording()
    method = opened(
        sequence,
        trajectory=f"{tmp_path}/a.txt",
        format="tum",
        depth=f"{tmp_path}/depth",
        frame_numbers={"start": 10, "stride": 2},
    )
    found = {p.index: float(p.depth[0, 0]) for p in predicted(method, sequence) if p.depth is not None}
    assert found == {0: 10, 2: 14, 19: 48}
    facts = method.describe()["found"]
    assert (facts["depth_maps_matched"], facts["depth_maps_without_frame"]) == (3, 1)


def test_depth_alone_is_a_prediction_too(tmp_path: Path) -> None:
    write_tum(tmp_path / "a.txt", Trajectory(np.arange(1), np.array([0.5]), poses(1)))
    (tmp_path / "depth").mkdir()
    np.save(tmp_path / "depth" / "7.npy", np.ones((3, 4)))
    sequence = Recording()
    method = opened(sequence, trajectory=f"{tmp_path}/a.txt", format="tum", depth=f"{tmp_path}/depth")
    assert [(p.index, p.camera_to_world is None, p.depth is None) for p in predicted(method, sequence)] == [
        (5, False, True),
        (7, True, False),
    ]


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ((), "is empty"),
        (("frame3.npy",), "number as its name"),
        (("3.npy", "003.npy"), "are of one frame"),
        (None, "expected a folder of depth maps"),
    ],
)
def test_depth_folders_that_are_refused(tmp_path: Path, names: tuple[str, ...] | None, match: str) -> None:
    write_kitti(tmp_path / "a.txt", poses(20))
    if names is not None:
        (tmp_path / "depth").mkdir()
        for name in names:
            np.save(tmp_path / "depth" / name, np.ones((3, 4)))
    with pytest.raises(DataError, match=match):
        opened(Recording(), trajectory=f"{tmp_path}/a.txt", format="kitti", depth=f"{tmp_path}/depth")


def test_a_selection_of_no_frames_needs_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * 2)
    method = opened(Recording(length=0), trajectory=f"{tmp_path}/a.txt", frame_numbers={"start": 7, "stride": 2})
    assert predicted(method, Recording(length=0)) == []
    found = method.describe()["found"]
    assert (found["frames"], found["poses_without_frame"], found["coverage_percent"]) == (0, 2, None)


@pytest.mark.parametrize("scene", ["../../etc", "/etc", "a/../../b"])
def test_scene_names_do_not_lead_out_of_the_folder(scene: str) -> None:
    with pytest.raises(ConfigError, match="leads out"):
        scene_path("estimates/{scene}.txt", "d", scene)
    with pytest.raises(ConfigError, match="leads out"):
        scene_path("estimates/{dataset}.txt", scene, "s")


def test_a_pattern_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert scene_path("~/{dataset}/{scene}.txt", "d", "s") == Path("/home/somebody/d/s.txt")


def test_pattern_is_text_not_a_format_string() -> None:
    assert scene_path("e/{dataset}/{scene}.txt", "tum", "fr1/xyz") == Path("e/tum/fr1/xyz.txt")
    for pattern in ("{scene.__class__}", "{0}", "{}", "{seq}"):
        with pytest.raises(ValidationError, match="unknown placeholder"):
            ReplayConfig(kind="replay", trajectory=pattern, format="tum")


def test_opening_another_scene_forgets_the_first(tmp_path: Path) -> None:
    write_kitti(tmp_path / "one.txt", poses(20))
    method = ReplayMethod(ReplayConfig(kind="replay", trajectory=f"{tmp_path}/{{scene}}.txt", format="kitti"))
    method.open(Recording(scene="one"))
    with pytest.raises(DataError):
        method.open(Recording(scene="two"))
    assert "found" not in method.describe()


def test_what_was_saved_decides_whether_a_unit_is_done(tmp_path: Path) -> None:
    """Trajectory and depth maps by their content: a file copied over another with its size and times is another."""
    write_kitti(tmp_path / "a.txt", poses(3))
    (tmp_path / "depth").mkdir()
    for number in range(3):
        np.save(tmp_path / "depth" / f"{number}.npy", np.full((3, 4), 1.0 + number))
    config = ReplayConfig(kind="replay", trajectory=f"{tmp_path}/a.txt", depth=f"{tmp_path}/depth")
    names = [path.name for path in config.input_files("d", "s")]
    assert names == ["a.txt", "0.npy", "1.npy", "2.npy"]
    for path in (tmp_path / "depth" / "1.npy", tmp_path / "a.txt"):
        before, times = file_state(path), path.stat()
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(bytes(content))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert file_state(path) != before


def test_the_state_of_a_large_file_is_that_of_its_ends(tmp_path: Path) -> None:
    path = tmp_path / "large"
    states = []
    for byte in (b"a", b"b"):
        with path.open("wb") as stream:
            stream.truncate(WHOLE_BYTES + 10)
            stream.seek(WHOLE_BYTES)
            stream.write(byte)
        os.utime(path, ns=(0, 0))
        states.append(file_state(path))
    assert states[0] != states[1]
    assert states[1].startswith(f"{WHOLE_BYTES + 10} bytes, 0, ")
    # What lies between the ends is not read: there the time of change tells.
    os.utime(path, ns=(0, 5))
    assert file_state(path) == states[1].replace("bytes, 0, ", "bytes, 5, ")
    with path.open("r+b") as stream:
        stream.write(b"c")
    os.utime(path, ns=(0, 0))
    assert file_state(path) not in states
    assert file_state(tmp_path) == "no file"
    assert file_state(tmp_path / "none") == "none"


def test_a_replayed_file_that_is_replaced_is_other_input_whatever_its_dataset_is_called(tmp_path: Path) -> None:
    """The pattern names the dataset itself, as the method finds the file by; the label is where results are filed."""
    file = tmp_path / "synthetic" / "room.tum"
    file.parent.mkdir()
    document = {
        "name": "replayed",
        "datasets": [{"name": "synthetic", "label": "mine", "scenes": ["room"], "options": {"frames": 4}}],
        "methods": [{"kind": "replay", "name": "old", "trajectory": str(tmp_path / "{dataset}" / "{scene}.tum")}],
    }
    found = []
    for text in ("0 0 0 0 0 0 0 1\n", "0 1 0 0 0 0 0 1\n"):
        file.write_text(text)
        (unit,) = make_plan(load_experiment(document)).units
        found.append(input_fingerprint(unit, open_scene(unit)))
    assert found[0] != found[1]
