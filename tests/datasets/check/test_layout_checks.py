"""The doctor over the field's layouts: nothing wrong with sound trees, and each common fault found."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lingbot_eval.datasets.cards import load_card
from lingbot_eval.datasets.check import convention
from lingbot_eval.datasets.check.check import convention_findings, examine
from lingbot_eval.datasets.check.convention import ConventionVerdict, convention_of
from lingbot_eval.datasets.check.scene_checks import Finding, check_step
from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import Adapter, FileSequence, FrameFiles, Selection
from lingbot_eval.files.pose_tables import read_pose

sys.path.insert(0, str(Path(__file__).parents[1]))
import layout_trees as trees

# Of the others only a corner of the picture is written, whose walls are too few to tell conventions apart.
WHOLE = [name for name in trees.LAYOUTS if not name.startswith(("tum", "bonn", "tartanair"))]


def written(name: str, root: Path) -> Path:
    trees.LAYOUTS[name].write(root, trees.LAYOUTS[name].view)
    return root


def findings(name: str, root: Path) -> tuple[Finding, ...]:
    layout = trees.LAYOUTS[name]
    adapter = open_adapter(layout.dataset, root, layout.options)
    (scene,) = examine(load_card(layout.dataset), adapter, root, (layout.scene,)).scenes
    return scene.findings


def texts(found: tuple[Finding, ...], level: str, check: str) -> list[str]:
    return [finding.text for finding in found if (finding.level, finding.check) == (level, check)]


@pytest.mark.parametrize("name", WHOLE)
def test_a_sound_tree_has_no_problem(name: str, tmp_path: Path) -> None:
    found = findings(name, written(name, tmp_path / "data"))
    assert not [finding for finding in found if finding.level == "problem"]
    if name in ("sintel", "scannet", "vkitti2", "replica"):
        (text,) = texts(found, "note", "convention")
        assert text.startswith("poses are camera-to-world, OpenCV axes")


FAULTS: dict[str, tuple[str, str]] = {
    "inverted": ("convention", "poses are world-to-camera, OpenCV axes"),
    "opengl": ("convention", "poses are camera-to-world, OpenGL axes (y and z flipped)"),
    "near": ("depth", "depth fits the poses when it is 5 times what is read"),
    "constant": ("poses", "all 9 poses are the same"),
}


class Changed:
    """An adapter whose scenes have a fault."""

    def __init__(self, adapter: Adapter, fault: str) -> None:
        self._adapter, self._fault = adapter, fault

    def scenes(self) -> Sequence[str]:
        return self._adapter.scenes()

    def open(self, scene: str, selection: Selection) -> FileSequence:
        sequence = self._adapter.open(scene, selection)
        assert isinstance(sequence, FileSequence)
        if self._fault == "near":
            read = sequence.depth_reader
            return replace(sequence, depth_reader=lambda *of: read(*of) / np.float32(5))
        known = [read_pose(f.pose) if isinstance(f.pose, Path) else f.pose for f in sequence.files]
        first = next(pose for pose in known if pose is not None)
        change = {"inverted": np.linalg.inv, "opengl": lambda pose: pose @ trees.OPENGL, "constant": lambda pose: first}
        files = [
            replace(file, pose=first if pose is None else change[self._fault](pose))
            for file, pose in zip(sequence.files, known, strict=True)
        ]
        return replace(sequence, files=files)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["sintel", "scannetpp", "vkitti2", "replica"])
def test_each_fault_is_found_in_layouts_with_depth_and_poses(
    name: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "FRAMES", 9)
    layout, root = trees.LAYOUTS[name], written(name, tmp_path / "data")
    changed = Changed(open_adapter(layout.dataset, root, layout.options), fault)
    (scene,) = examine(load_card(layout.dataset), changed, root, (layout.scene,)).scenes
    check, says = FAULTS[fault]
    (text,) = texts(scene.findings, "problem", check)
    assert text.startswith(says)


@pytest.fixture
def ten_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileSequence:
    """A whole room, its focal length declared as 80.4 pixels where it is 80."""
    monkeypatch.setattr(trees, "FRAMES", 10)
    layout, root = trees.LAYOUTS["replica"], written("replica", tmp_path / "data")
    path = root / "Replica/cam_params.json"
    path.write_text(path.read_text().replace('"fx": 80.0, "fy": 82.0', '"fx": 80.4, "fy": 82.41'))
    sequence = open_adapter("replica", root, {}).open(layout.scene, Selection())
    assert isinstance(sequence, FileSequence)
    return sequence


def test_a_right_focal_length_is_found_to_a_hundredth(ten_frames: FileSequence) -> None:
    """Of a whole room it was found to 4 to 5 %, where 5 % is a problem."""
    verdict = convention_of(ten_frames)
    assert isinstance(verdict, ConventionVerdict)
    assert verdict.declared_focal == 80.4
    # A quarter of a step of the sweep beside what is declared, and to that side.
    assert verdict.fitted_focal == pytest.approx(80.0, rel=0.003)


def test_poses_that_may_be_the_expected_ones_are_not_called_wrong(
    ten_frames: FileSequence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a world whose y is flipped a camera that stays level moves much as it does here."""
    monkeypatch.setattr(convention, "PAIRS", 4)
    flip = np.diag([1.0, -1.0, 1.0, 1.0])
    flipped = [replace(file, pose=flip @ np.asarray(file.pose) @ flip) for file in ten_frames.files]
    verdict = convention_of(replace(ten_frames, files=flipped))
    assert isinstance(verdict, ConventionVerdict)
    assert verdict.best.name == "camera-to-world, y flipped"
    assert "camera-to-world, OpenCV axes" in [fit.name for fit in verdict.ties]
    assert not verdict.clear
    (finding,) = convention_findings(verdict)
    assert finding.level == "warning"


def test_depth_five_times_too_far_is_found_by_the_poses(tmp_path: Path) -> None:
    root = written("replica", tmp_path / "data")
    path = root / "Replica/cam_params.json"
    path.write_text(path.read_text().replace("6553.5", "1310.7"))
    (text,) = texts(findings("replica", root), "problem", "depth")
    assert text.startswith("depth fits the poses when it is 0.2 times what is read: its unit is not the one")


def test_depth_a_thousand_times_too_far_is_found_without_poses(tmp_path: Path) -> None:
    root = written("sintel", tmp_path / "data")
    shutil.rmtree(root / "training/camdata_left")
    for path in root.rglob("*.dpt"):
        data = path.read_bytes()
        path.write_bytes(data[:12] + (1000 * np.frombuffer(data[12:], "<f4")).tobytes())
    (text,) = texts(findings("sintel", root), "warning", "depth")
    assert "half of the depth is farther than" in text
    assert "its unit is not the one that this dataset is read in" in text


def test_depth_of_eight_bits_is_found_without_decoding_all(tmp_path: Path) -> None:
    root = written("kitti_depth", tmp_path / "data")
    for path in (root / "depth_selection/val_selection_cropped/groundtruth_depth").iterdir():
        Image.fromarray((np.asarray(Image.open(path)) // 256).astype(np.uint8)).save(path)
    (text,) = texts(findings("kitti_depth", root), "problem", "depth")
    assert "expected a 16-bit grey PNG, found 8-bit PNG of colour type 0 (and 4 more like it)" in text


@pytest.mark.parametrize(("first", "last", "said"), [(0, 40, "all 40 poses are the same"), (20, 32, "same 12 times")])
def test_poses_that_stand_still_are_said(tmp_path: Path, first: int, last: int, said: str) -> None:
    root = written("replica", tmp_path / "data")
    folder = root / "Replica/room0"
    for index in range(trees.FRAMES, 40):
        for kind, suffix in (("frame", "jpg"), ("depth", "png")):
            source = folder / f"results/{kind}{index % trees.FRAMES:06d}.{suffix}"
            (folder / f"results/{kind}{index:06d}.{suffix}").hardlink_to(source)
    poses = [trees.pose(first if first <= index < last else index) for index in range(40)]
    (folder / "traj.txt").write_text("".join(f"{trees.row(pose)}\n" for pose in poses))
    found = findings("replica", root)
    assert said in " ".join(texts(found, "problem", "poses") + texts(found, "warning", "poses"))
    poses = [trees.pose(index) for index in range(40)]
    (folder / "traj.txt").write_text("".join(f"{trees.row(pose)}\n" for pose in poses))
    assert "same" not in " ".join(finding.text for finding in findings("replica", root) if finding.check == "poses")


def test_lost_poses_of_scannet_do_not_stop_the_convention_test(tmp_path: Path) -> None:
    root = written("scannet", tmp_path / "data")
    assert texts(findings("scannet", root), "warning", "poses") == [
        "1 poses are not finite: lost frames, which are not scored"
    ]


def test_a_capture_says_what_it_lacks(tmp_path: Path) -> None:
    root = written("capture", tmp_path / "data")
    assert "1 of 6 entries have no file, such as images/frame_00099.png" in texts(
        findings("capture", root), "warning", "scene"
    )
    path = root / "garden/transforms.json"
    document = json.loads(path.read_text())
    document["frames"] = document["frames"][:5]
    path.write_text(json.dumps(document))
    assert not [text for text in texts(findings("capture", root), "warning", "scene") if "no file" in text]


@pytest.mark.parametrize("shift", [0, 4, -6])
def test_poses_out_of_step_are_found_without_depth(tmp_path: Path, shift: int) -> None:
    """A walk that slows down and speeds up; image k has the pose of moment k + shift."""
    speed = 0.15 + 0.12 * np.sin(np.arange(120) / 5.0) + 0.05 * np.sin(np.arange(120) / 1.7)
    moments = np.cumsum(speed)
    view = trees.View(np.diag([0.5, 0.5, 1]) @ trees.CAMERA, (48, 36))
    files = []
    for k in range(10, 100):
        path = tmp_path / f"{k}.png"
        Image.fromarray(trees.paint(trees.hit(trees.pose(moments[k]), trees.rays(view.camera, view.size))[1])).save(
            path
        )
        files.append(FrameFiles(path, k / 20, trees.pose(moments[k + shift])))
    found = check_step(FileSequence("euroc", "s", tmp_path, files, None, {}))
    if not shift:
        assert not found
        return
    (finding,) = found
    side = "later" if shift < 0 else "earlier"
    assert f"pictures change as the poses of {abs(shift)} frames {side} ({abs(shift) / 20:.3g} s) move" in finding.text
