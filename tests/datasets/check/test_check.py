"""``datasets check`` on small trees: each fault has its one line, and the sound scenes are checked all the same."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lingbot_eval.datasets.cards import load_card
from lingbot_eval.datasets.check.check import DatasetCheck, DecodingProgress, examine
from lingbot_eval.datasets.check.scene_checks import Finding, check_depth_range, check_files, check_poses, check_times
from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import FileSequence, FrameFiles, Selection
from lingbot_eval.files.depth_maps import png_depth

sys.path.insert(0, str(Path(__file__).parents[1]))
import dataset_trees
import field_trees

SCENE = "redkitchen/seq-01"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return dataset_trees.write_seven_scenes(tmp_path / "7scenes")


def check(
    root: Path, name: str = "seven_scenes", decoding: DecodingProgress | None = None, *scenes: str
) -> DatasetCheck:
    return examine(load_card(name), open_adapter(name, root, {}), root, scenes, decoding)


def found(checked: DatasetCheck, check: str, level: str = "problem", scene: str | None = SCENE) -> list[str]:
    findings: tuple[Finding, ...] = checked.findings
    if scene is not None:
        (one,) = [s for s in checked.scenes if s.scene == scene]
        findings = one.findings
    return [finding.text for finding in findings if (finding.check, finding.level) == (check, level)]


def test_depth_beyond_what_the_protocol_scores_is_doubted(root: Path) -> None:
    assert load_card("seven_scenes").protocol.max_depth < 60
    for path in (root / SCENE).glob("*.depth.png"):
        Image.fromarray(np.full((dataset_trees.HEIGHT, dataset_trees.WIDTH), 60_000, np.uint16)).save(path)
    (said,) = found(check(root, "seven_scenes", None, SCENE), "depth", "warning")
    assert said.startswith("half of the depth is farther than 60 m: its unit is not the one")


def test_scenes_that_the_protocol_leaves_out_are_looked_at_by_name_alone(root: Path) -> None:
    card = load_card("seven_scenes").model_copy(update={"scenes_left_out": {SCENE: "a reason"}})
    adapter = open_adapter("seven_scenes", root, {})
    assert not found(check(root, "seven_scenes", None, SCENE), "scenes", "warning", None)
    looked_at = [[scene.scene for scene in examine(card, adapter, root, names).scenes] for names in ((), (SCENE,))]
    assert looked_at == [["chess/seq-01", "redkitchen/seq-03"], [SCENE]]


def test_a_sound_tree_and_what_its_card_misses(root: Path) -> None:
    checked = check(root)
    assert [scene.scene for scene in checked.scenes] == ["chess/seq-01", SCENE, "redkitchen/seq-03"]
    assert found(checked, "disk", "note", None)
    (missing, further) = found(checked, "scenes", "warning", None)
    assert missing.startswith("17 of the protocol's 18 scenes are not there: chess/seq-03")
    assert "chess/seq-01, redkitchen/seq-01" in further
    assert found(checked, "count", "warning", "redkitchen/seq-03") == [
        "4 frames, the release has 1000: the card's stride is meant for the whole sequence"
    ]
    assert not [
        f
        for scene in checked.scenes
        for f in scene.findings
        if f.check in ("images", "poses", "depth") and f.level != "note"
    ]


def test_faults_of_a_scene_each_have_a_line_and_the_others_go_on(root: Path, tmp_path: Path) -> None:
    stem = str(root / SCENE / "frame-00000")
    Path(f"{stem}0.color.png").write_bytes(b"")
    Image.fromarray(np.zeros((31, 40, 3), np.uint8)).save(f"{stem}2.color.png")
    Path(f"{stem}1.depth.png").write_bytes(b"")
    Path(f"{stem}2.depth.png").unlink()
    Path(f"{stem}1.pose.txt").write_text("9 9 9 9\n" * 4)
    Path(f"{stem}5.pose.txt").unlink()
    Path(f"{stem}5.color.png").rename(f"{stem}5.color.JPG")
    shutil.rmtree(root / "chess" / "seq-01")
    (root / "chess" / "seq-01").mkdir()
    checked = check(root)
    assert "frame-000000.color.png" in found(checked, "images")[0]
    assert found(checked, "images")[1].endswith("has 40x31 pixels, the first image 40x30")
    assert "frame-000001.depth.png is empty (0 bytes)" in found(checked, "depth")[0]
    assert found(checked, "depth", "warning")[0].startswith("1 of 4 frames have no depth map, in 1 gaps")
    assert "frame-000001.pose.txt" in found(checked, "poses")[0]
    assert found(checked, "poses", "warning")[0].endswith("the longest has 1 frames from frame 3")
    assert found(checked, "images", "warning") == ["images of several kinds: 3 .png, 1 .JPG; were two copies mixed?"]
    assert "has no frames" in found(checked, "layout", scene="chess/seq-01")[0]
    assert not [f for f in checked.scenes[-1].findings if f.level == "problem"]
    assert checked.problems >= 6


@pytest.mark.parametrize("what", ["pose", "depth map"])
@pytest.mark.parametrize(
    ("missing", "words"), [("_xx_x", "2 frames from frame 1"), ("x_xx_xxx", "3 frames from frame 5")]
)
def test_the_longest_gap_is_named_wherever_it_lies(tmp_path: Path, what: str, missing: str, words: str) -> None:
    dataset_trees.write_seven_scenes(tmp_path, numbers=tuple(range(len(missing))))
    for number, mark in enumerate(missing):
        kind = "pose.txt" if what == "pose" else "depth.png"
        if mark == "x":
            (tmp_path / SCENE / f"frame-{number:06d}.{kind}").unlink()
    (line,) = found(check(tmp_path, "seven_scenes", None, SCENE), "poses" if what == "pose" else "depth", "warning")
    assert line.startswith(f"{missing.count('x')} of {len(missing)} frames have no {what}, in ")
    assert line.endswith(f"the longest has {words}")


def test_links_out_of_the_root_are_named(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere.png"
    shutil.copy(root / SCENE / "frame-000001.color.png", outside)
    link = root / SCENE / "frame-000001.color.png"
    link.unlink()
    link.symlink_to(outside)
    shutil.move(root / "redkitchen" / "seq-03", tmp_path / "other-disk")
    (root / "redkitchen" / "seq-03").symlink_to(tmp_path / "other-disk")
    dangling = root / SCENE / "frame-000002.color.png"
    dangling.unlink()
    dangling.symlink_to(root / "nothing.png")
    checked = check(root)
    assert found(checked, "links") == [f"{link} is a link that leads out of the root, to {outside}; copy the file"]
    assert "lies outside the root" in found(checked, "links", "warning", "redkitchen/seq-03")[0]
    assert "does not exist" in found(checked, "images")[0]


def test_decoding_finds_what_headers_do_not_tell(root: Path) -> None:
    path = root / SCENE / "frame-000001.color.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 16] = bytes(16)
    path.write_bytes(content)
    assert not found(check(root, "seven_scenes", None, SCENE), "images")
    heard: list[tuple[str, int, int | None]] = []
    checked = check(root, "seven_scenes", lambda *told: heard.append(told), SCENE)
    (line,) = found(checked, "decode")
    assert f"image {path} is damaged" in line
    assert found(checked, "decode", "note") == ["3 frames decoded"]
    assert heard == [(SCENE, done, 4) for done in (1, 2, 3, 4)]


@pytest.mark.parametrize(("damaged", "more"), [(1, ""), (2, " (and 1 more like it)"), (3, " (and 2 more like it)")])
def test_findings_of_a_kind_are_one_line_with_the_count_of_the_others(root: Path, damaged: int, more: str) -> None:
    for path in sorted((root / SCENE).glob("*.color.png"))[:damaged]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    checked = check(root, "seven_scenes", lambda *told: None, SCENE)
    for kind in ("images", "decode"):  # cut off: seen without decoding, too
        (line,) = found(checked, kind)
        assert "frame 0: image" in line
        assert line.endswith(more)
        assert ("more like it" in line) is (damaged > 1)
    assert found(checked, "decode", "note") == [f"{4 - damaged} frames decoded"]
    for path in sorted((root / SCENE).glob("*.depth.png"))[:damaged]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (line,) = found(check(root, "seven_scenes", None, SCENE), "depth")
    assert re.search(r"^frame 0: depth map .* is cut off", line)
    assert line.endswith(more)


def test_a_first_image_that_nothing_can_be_asked_of_is_one_fault(root: Path) -> None:
    (root / SCENE / "frame-000000.color.png").write_bytes(b"")
    (line,) = found(check(root, "seven_scenes", lambda *told: None, SCENE), "decode")
    assert "frame-000000.color.png is empty" in line
    assert "more like it" not in line


@pytest.mark.parametrize(("free", "level"), [((1 << 30) - 1, "warning"), (1 << 30, "note")])
def test_less_than_a_gibibyte_of_disk_is_a_warning(
    root: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert found(check(root), "disk", level, None) == ["1.0 GiB free where the dataset lies"]


def test_a_root_that_is_wrong_is_one_problem(root: Path) -> None:
    checked = check(root / "redkitchen")
    assert checked.scenes == ()
    assert "one level too low" in found(checked, "layout", scene=None)[0]
    assert checked.problems == 1
    assert "does not exist" in found(check(root / "nowhere"), "layout", scene=None)[0]


def test_a_far_background_is_no_reason_to_doubt_the_unit_of_depth(tmp_path: Path) -> None:
    """55 of 100 pixels at 5 m, the rest at 40 m: half of the depth is near, though the mean is beyond 8 m."""
    image, depth = tmp_path / "0.png", tmp_path / "depth.png"
    Image.new("RGB", (10, 10)).save(image)
    for near, warned in ((55, False), (45, True)):
        millimetres = np.full(100, 40_000, np.uint16)
        millimetres[:near] = 5_000
        Image.fromarray(millimetres.reshape(10, 10)).save(depth)
        files = [FrameFiles(image, 0.0, depth=depth)]
        reader = png_depth(1000)
        sequence = FileSequence("tum", "s", tmp_path, files, None, {}, depth_reader=reader, depth_scale=1000)
        assert bool(check_depth_range(sequence)) is warned


def test_times_and_rotations(tmp_path: Path) -> None:
    field_trees.write_kitti(tmp_path)
    times = "\n".join(f"{t}" for t in (0, 0.1, 2.2, 7.0, 7.1, 7.2))
    (tmp_path / "sequences/00/times.txt").write_text(times)
    poses = np.stack([field_trees.pose(k)[:3] for k in range(6)])
    poses[4, :, :3] *= 1.015
    (tmp_path / "poses/00.txt").write_text("\n".join(field_trees.numbers(pose) for pose in poses))
    sequence = open_adapter("kitti", tmp_path, {}).open("00", Selection())
    assert isinstance(sequence, FileSequence)
    (hole,) = check_times(sequence)
    assert "the longest, 4.8 s, is after frame 2" in hole.text
    assert found(check(tmp_path, "kitti", None, "00"), "timestamps", "warning", "00") == [hole.text]
    (warning,) = [finding for finding in check_poses(sequence) if finding.level == "warning"]
    assert "1 rotation matrices are off by more than 0.01" in warning.text
    assert "(pose 4)" in warning.text


def made_up(folder: Path, *files: FrameFiles, **more: object) -> FileSequence:
    return FileSequence("tum", "s", folder, files, None, {"poses": "made up"}, **more)  # type: ignore[arg-type]


def test_what_images_are_there_is_counted_the_most_usual_first(tmp_path: Path) -> None:
    sizes = {"0.jpg": (12, 10), "1.png": (16, 8), "2.png": (16, 8), "3.png": (8, 16), "4.png": (16, 8)}
    files = []
    for number, (name, size) in enumerate(sizes.items()):
        Image.new("RGB", size).save(tmp_path / name)
        depth = tmp_path / f"depth{number}.png" if number in (1, 4) else None
        if depth is not None:
            Image.fromarray(np.full((8, 16), 900, np.uint16)).save(depth)
        files.append(FrameFiles(tmp_path / name, float(number), depth=depth))
    kinds, gaps, note = check_files(made_up(tmp_path, *files, one_size=False))
    assert kinds.text == "images of several kinds: 4 .png, 1 .jpg; were two copies mixed?"
    assert gaps.text == "3 of 5 frames have no depth map, in 2 gaps; the longest has 2 frames from frame 2"
    assert (note.level, note.text) == ("note", "16x8 and 2 other sizes, 2 with depth")
    assert check_files(made_up(tmp_path, files[2]))[0].text == "16x8, no depth"


def test_a_link_to_a_folder_whose_name_begins_alike_leads_out(tmp_path: Path) -> None:
    for name in ("data", "data-old"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "data/0.png")
    Image.fromarray(np.ones((8, 8), np.uint16)).save(tmp_path / "data-old/depth.png")
    (tmp_path / "data/depth.png").symlink_to(tmp_path / "data-old/depth.png")
    file = FrameFiles(tmp_path / "data/0.png", 0.0, depth=tmp_path / "data/depth.png")
    (line, _) = check_files(made_up(tmp_path / "data", file))
    assert line.text.startswith(
        f"{tmp_path}/data/depth.png is a link that leads out of the root, to {tmp_path}/data-old"
    )
    np.savetxt(tmp_path / "data-old/pose.txt", np.eye(4))
    (tmp_path / "data/pose.txt").symlink_to(tmp_path / "data-old/pose.txt")
    (line, _) = check_files(made_up(tmp_path / "data", FrameFiles(file.image, 0.0, tmp_path / "data/pose.txt")))
    assert line.text.startswith(f"{tmp_path}/data/pose.txt is a link that leads out")


def of_poses(folder: Path, poses: Sequence[np.ndarray]) -> list[Finding]:
    files = [FrameFiles(folder / f"{number}.png", float(number), pose=pose) for number, pose in enumerate(poses)]
    return check_poses(made_up(folder, *files))


def shifted(metres: float, off: float = 0.0) -> np.ndarray:
    pose = np.eye(4)
    pose[0, 0] += off
    pose[0, 3] = metres
    return pose


def test_poses_are_counted_measured_and_held_to_be_rotations(tmp_path: Path) -> None:
    (note,) = of_poses(tmp_path, [shifted(0), shifted(3), shifted(2)])
    assert note.text == "3 poses, path 4 long, rotations orthogonal to 0.0e+00"
    (note, warning) = of_poses(tmp_path, [shifted(0), shifted(1, 0.01), shifted(2, 0.06), shifted(3, 0.02), shifted(4)])
    assert note.text == "5 poses, path 4 long, rotations orthogonal to 1.2e-01"
    assert warning.text == "3 rotation matrices are off by more than 0.01, the worst by 0.124 (pose 2)"


@pytest.mark.parametrize(("times", "said"), [(9, False), (10, True)])
def test_ten_poses_alike_in_a_row_are_said(tmp_path: Path, times: int, said: bool) -> None:
    """The longest stretch is named, and all that repeat the one before are counted."""
    stands = [0, 1, 1, 1, 2, *[3] * times, 4, 4, 5]
    texts = [finding.text for finding in of_poses(tmp_path, [shifted(metres) for metres in stands])]
    line = (
        "the pose is exactly the same 10 times from pose 5 on (12 in all repeat the one before): was tracking lost, and"
        " the last pose kept?"
    )
    assert (line in texts) is said
    assert len(texts) == 1 + said


@pytest.mark.parametrize(("hole", "said"), [(0.99, False), (1.01, True)])
def test_a_hole_is_more_than_ten_intervals(tmp_path: Path, hole: float, said: bool) -> None:
    times = np.cumsum([0, 0.1, 0.1, 0.1, hole, 0.1, 0.1, 0.1])
    found = check_times(made_up(tmp_path, *(FrameFiles(tmp_path / "0.png", float(time)) for time in times)))
    line = "1 holes of more than 10 times the usual 0.1 s; the longest, 1.01 s, is after frame 3: are frames missing?"
    assert [finding.text for finding in found] == ([line] if said else [])


def test_of_several_holes_the_longest_is_named(tmp_path: Path) -> None:
    times = np.cumsum([0, 0.1, 1.5, 0.1, 0.1, 2.5, 0.1, 0.1, 0.1, 1.2])
    (found,) = check_times(made_up(tmp_path, *(FrameFiles(tmp_path / "0.png", float(time)) for time in times)))
    assert found.level == "warning"
    assert found.text == (
        "3 holes of more than 10 times the usual 0.1 s; the longest, 2.5 s, is after frame 4: are frames missing?"
    )


NEAR = "half of the depth is nearer than {} m"
FAR = "half of the depth is farther than {} m"


@pytest.mark.parametrize(
    ("scale", "metres", "says"),
    [
        (5000.0, 0.69, f"{NEAR.format('0.69')}, read at 5000 units a metre: depth looks like millimetres;"),
        (5000.0, 0.71, None),
        (1000.0, 0.5, None),  # millimetres already
        (1000.0, 7.9, None),
        (1000.0, 8.1, f"{FAR.format('8.1')}, read at 1000 units a metre: depth looks like TUM's own 5000 a metre;"),
        (5000.0, 8.1, None),  # TUM's own already
        (None, 0.09, f"{NEAR.format('0.09')}: its unit is not the one"),
        (None, 0.11, None),
        (None, 19.0, None),
        (None, 21.0, f"{FAR.format('21')}: its unit is not the one"),
    ],
)
def test_where_depth_is_doubted(tmp_path: Path, scale: float | None, metres: float, says: str | None) -> None:
    """The middle of seven maps is looked at, too, and what is not measured counts for nothing."""
    units = scale or 1000.0
    Image.new("RGB", (10, 10)).save(tmp_path / "0.png")
    files = []
    for number in range(7):
        depth = np.zeros((10, 10), np.uint16)
        depth[:3] = round((metres if number else 2.0) * units)
        Image.fromarray(depth).save(tmp_path / f"depth{number}.png")
        files.append(FrameFiles(tmp_path / "0.png", float(number), depth=tmp_path / f"depth{number}.png"))
    sequence = made_up(tmp_path, *files, depth_reader=png_depth(units), depth_scale=scale)
    found = [finding.text for finding in check_depth_range(sequence, 20.0)]
    assert len(found) == (says is not None)
    assert says is None or found[0].startswith(says)


def test_depth_that_only_the_last_frames_have_is_looked_at(tmp_path: Path) -> None:
    Image.new("RGB", (10, 10)).save(tmp_path / "0.png")
    Image.fromarray(np.full((10, 10), 30_000, np.uint16)).save(tmp_path / "depth.png")
    files = [
        FrameFiles(tmp_path / "0.png", float(n), depth=tmp_path / "depth.png" if n > 6 else None) for n in range(8)
    ]
    sequence = made_up(tmp_path, *files, depth_reader=png_depth(1000.0))
    (found,) = check_depth_range(sequence, 20.0)
    assert found.text.startswith("half of the depth is farther than 30 m: ")
    (tmp_path / "depth.png").write_bytes(b"")
    (broken,) = check_depth_range(sequence, 20.0)
    assert (broken.level, broken.check) == ("problem", "depth")


def test_metadata_is_checked_at_two_thousand_images_a_second(tmp_path: Path) -> None:
    """The limit here is a quarter of that, and of this process's time: the machine has other work, too."""
    dataset_trees.write_seven_scenes(tmp_path / "data")
    folder = tmp_path / "data" / SCENE
    for number in range(10, 1010):
        for kind in ("color.png", "depth.png", "pose.txt"):
            os.link(folder / f"frame-000000.{kind}", folder / f"frame-{number:06d}.{kind}")
    started = time.process_time()
    sequence = open_adapter("seven_scenes", tmp_path / "data", {}).open(SCENE, Selection())
    assert isinstance(sequence, FileSequence)
    findings = check_files(sequence) + check_poses(sequence) + check_times(sequence)
    rate = sequence.length / (time.process_time() - started)
    assert all(finding.level != "problem" for finding in findings)
    assert rate > 500


def test_mirror_images_and_repeated_poses_are_told_apart(tmp_path: Path) -> None:
    """Determinant −1 is a problem however orthogonal the matrix is."""

    def findings(poses: np.ndarray) -> list[Finding]:
        files = [FrameFiles(tmp_path / f"{number}.png", float(number), pose=pose) for number, pose in enumerate(poses)]
        return check_poses(FileSequence("tum", "s", tmp_path, files, None, {}))

    poses = np.stack([field_trees.pose(number) for number in range(6)])
    assert [finding.level for finding in findings(poses)] == ["note"]
    mirrored = poses.copy()
    mirrored[[1, 4], :3, 0] *= -1
    (problem,) = [finding for finding in findings(mirrored) if finding.level == "problem"]
    assert (problem.check, problem.text) == ("poses", "2 rotation matrices are mirror images (determinant -1)")
    (problem,) = [finding for finding in findings(poses[[2] * 6]) if finding.level == "problem"]
    assert problem.text == "all 6 poses are the same: is this the trajectory?"
