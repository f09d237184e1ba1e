"""The convention test: named right on a made-up room, whatever was done to its poses or depth, and on real frames."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lingbot_eval.cli.main import main
from lingbot_eval.datasets.cards import load_card
from lingbot_eval.datasets.check import convention
from lingbot_eval.datasets.check.check import convention_findings, examine
from lingbot_eval.datasets.check.convention import (
    AXES,
    ConventionVerdict,
    Fit,
    Pair,
    convention_of,
    write_convention_figure,
)
from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import FileSequence, Selection
from lingbot_eval.geometry.poses import inverse, quaternion_from_rotation
from lingbot_eval.types import Frame

SCENE = "redkitchen/seq-01"
REAL = Path(__file__).parents[4] / "shared" / "data" / "7scenes"


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of the project's own renderer in the layout of 7-Scenes, depth as of the sensor's own view (585)."""
    root = tmp_path_factory.mktemp("rooms")
    options = {"frames": 40, "width": 320, "height": 240, "seed": 3, "laps": 1}
    frames = open_adapter("synthetic", None, options).open("room", Selection()).frames()
    folder = root / SCENE
    folder.mkdir(parents=True)
    for frame in frames:
        assert frame.image is not None
        assert frame.depth is not None
        assert frame.intrinsics is not None
        assert frame.camera_to_world is not None
        stem = folder / f"frame-{frame.index:06d}"
        u, v = np.meshgrid(np.arange(640), np.arange(480))
        # The renderer's camera looked up along the rays of the sensor's: nearest pixel.
        column = np.rint((u - 320) / 585 * frame.intrinsics[0, 0] + frame.intrinsics[0, 2]).astype(int)
        row = np.rint((v - 240) / 585 * frame.intrinsics[1, 1] + frame.intrinsics[1, 2]).astype(int)
        inside = (column >= 0) & (column < 320) & (row >= 0) & (row < 240)
        depth = np.where(inside, frame.depth[row.clip(0, 239), column.clip(0, 319)], 0)
        Image.fromarray(frame.image).resize((640, 480)).save(f"{stem}.color.jpg")
        Image.fromarray(np.round(1000 * depth).astype(np.uint16)).save(f"{stem}.depth.png", compress_level=1)
        np.savetxt(f"{stem}.pose.txt", frame.camera_to_world)
    (root / "redkitchen" / "TestSplit.txt").write_text("sequence1\n")
    return root


def verdict_of(root: Path) -> ConventionVerdict:
    sequence = open_adapter("seven_scenes", root, {"split": "all"}).open(SCENE, Selection())
    assert isinstance(sequence, FileSequence)
    verdict = convention_of(sequence)
    assert isinstance(verdict, ConventionVerdict)
    return verdict


def changed(root: Path, target: Path, invert: bool, axes: str) -> Path:
    """A copy whose poses are of another convention."""
    shutil.copytree(root, target)
    for path in target.rglob("*.pose.txt"):
        pose = np.loadtxt(path) @ np.linalg.inv(AXES[axes])
        mirrored = np.linalg.det(pose[:3, :3]) < 0
        if mirrored:  # a world of the other hand too, as whoever flips one axis has
            pose = np.diag([1.0, -1, 1, 1]) @ pose
        np.savetxt(path, inverse(pose) if invert else pose)
    return target


EXPECTED = ("camera-to-world", "OpenCV axes")


@pytest.mark.usefixtures("painted_pictures")
def test_a_room_as_it_is(room: Path, tmp_path: Path) -> None:
    verdict = verdict_of(room)
    assert verdict.clear
    assert (verdict.best.direction, verdict.best.axes) == EXPECTED
    assert verdict.fitted_focal == pytest.approx(585, rel=0.03)
    assert [finding.level for finding in convention_findings(verdict)] == ["note", "note"]
    assert "not registered to the image, read as such" in convention_findings(verdict)[1].text
    picture = tmp_path / "convention.png"
    write_convention_figure(picture, "a room", verdict)
    with Image.open(picture) as image:
        assert image.size == (1430, 946)
        assert len(np.unique(np.asarray(image))) > 100


@pytest.mark.parametrize(
    ("invert", "axes"),
    [
        (True, "OpenCV axes"),
        (False, "OpenGL axes (y and z flipped)"),
        (True, "OpenGL axes (y and z flipped)"),
        (False, "robot axes (x forward, z up)"),
    ],
)
def test_poses_of_another_convention_are_named(room: Path, tmp_path: Path, invert: bool, axes: str) -> None:
    verdict = verdict_of(changed(room, tmp_path / "copy", invert, axes))
    assert verdict.clear
    # The camera stays level here: it moves the same way in a world with y flipped.
    named = [(fit.direction, fit.axes) for fit in (verdict.best, *verdict.ties)]
    assert ("world-to-camera" if invert else "camera-to-world", axes) in named
    assert len(named) <= 2
    (finding,) = convention_findings(verdict)
    assert finding.level == "problem"
    assert "expected camera-to-world, OpenCV axes" in finding.text


def test_depth_that_only_claims_to_be_registered_is_found_out(room: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(room, copy)
    for path in copy.rglob("*.depth.png"):
        path.rename(path.with_name(path.name.replace(".depth.png", ".depth.proj.png")))
    verdict = verdict_of(copy)
    assert verdict.declared_focal == 525
    assert verdict.fitted_focal == pytest.approx(585, rel=0.03)
    poses, registration = convention_findings(verdict)
    assert (poses.level, registration.level, registration.check) == ("note", "problem", "registration")
    assert "not 525 as it is read" in registration.text


def test_poses_of_another_scene_fit_nothing(room: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(room, copy)
    generator = np.random.default_rng(0)
    for path in copy.rglob("*.pose.txt"):
        pose = np.loadtxt(path)
        pose[:3, 3] += generator.normal(scale=2.0, size=3)
        np.savetxt(path, pose)
    verdict = verdict_of(copy)
    assert not verdict.clear
    assert convention_findings(verdict)[0].level in ("problem", "warning")
    write_convention_figure(tmp_path / "unclear.png", "nothing fits", verdict)


@pytest.mark.parametrize(("shift", "said"), [(2, "earlier"), (-3, "later")])
def test_poses_out_of_step_with_the_images_are_found(room: Path, tmp_path: Path, shift: int, said: str) -> None:
    """Frame k has the pose of frame k + shift, as when a clock or a count is off."""
    target = tmp_path / "shifted"
    shutil.copytree(room, target)
    paths = sorted((room / SCENE).glob("*.pose.txt"))
    for index, path in enumerate(paths):
        moved = target / SCENE / path.name
        if 0 <= index + shift < len(paths):
            shutil.copy(paths[index + shift], moved)
        else:
            moved.unlink()
    verdict = verdict_of(target)
    assert verdict.shift == -shift
    lines = [
        finding.text
        for scene in examine(load_card("seven_scenes"), open_adapter("seven_scenes", target, {}), target).scenes
        for finding in scene.findings
        if finding.level == "problem"
    ]
    (line,) = [text for text in lines if text.startswith("poses and images are out of step")]
    assert f"with the poses of {abs(shift)} frames {said} ({abs(shift) / 30:.3g} s)" in line
    assert verdict_of(room).shift == 0


def test_without_depth_or_motion_the_reason_is_given(room: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(room, copy)
    for path in copy.rglob("*.pose.txt"):
        np.savetxt(path, np.eye(4))
    sequence = open_adapter("seven_scenes", copy, {}).open(SCENE, Selection())
    assert isinstance(sequence, FileSequence)
    assert "between which the camera moves" in str(convention_of(sequence))
    for path in copy.rglob("*.depth.png"):
        path.unlink()
    sequence = open_adapter("seven_scenes", copy, {}).open(SCENE, Selection())
    assert isinstance(sequence, FileSequence)
    assert "both a pose and a depth map" in str(convention_of(sequence))


def test_pairs_are_chosen_among_the_frames_with_depth(room: Path, tmp_path: Path) -> None:
    """The first half stands still and has no depth; the other half, which moves, is as good as the whole."""
    copy = tmp_path / "copy"
    shutil.copytree(room, copy)
    depths, poses = (sorted((copy / SCENE).glob(f"*.{kind}")) for kind in ("depth.png", "pose.txt"))
    for depth, pose in zip(depths[:20], poses[:20], strict=True):
        depth.unlink()
        shutil.copy(poses[0], pose) if pose != poses[0] else None
    verdict = verdict_of(copy)
    assert verdict.clear
    assert verdict.pairs > 8
    assert verdict.shown is not None
    assert 20 <= verdict.shown.first.index < verdict.shown.second.index


def test_the_focal_sweep_finds_the_focal_length_that_depth_was_made_with(room: Path, tmp_path: Path) -> None:
    """Depth as of 585 px; what is declared goes up to 15 % off it, to either side."""
    sequence = open_adapter("seven_scenes", room, {"split": "all"}).open(SCENE, Selection())
    assert isinstance(sequence, FileSequence)
    for declared in (510.0, 560.0, 585.0, 660.0):
        camera = np.array([[declared, 0, 320], [0, declared, 240], [0, 0, 1.0]])
        files = [dataclasses.replace(file, depth_intrinsics=camera) for file in sequence.files]
        verdict = convention_of(dataclasses.replace(sequence, files=files))
        assert isinstance(verdict, ConventionVerdict)
        assert verdict.declared_focal == declared
        assert verdict.image_focal == 525
        assert verdict.fitted_focal == pytest.approx(585, rel=0.02)
        assert verdict.focal_agrees == (declared in (560.0, 585.0))
        scales = np.array(verdict.focal_scales)
        assert (scales[0], scales[12], scales[-1]) == pytest.approx((0.787, 1.0, 1.271), abs=0.001)
        best = scales[int(np.argmax(verdict.focal_shares))]
        assert best * declared == pytest.approx(585, rel=0.03)


def test_what_counts_as_the_same_surface_is_relative_to_its_depth(room: Path, tmp_path: Path) -> None:
    """A world eight times as large, camera path and all, has the same shares."""
    copy = tmp_path / "copy"
    shutil.copytree(room, copy)
    for path in copy.rglob("*.pose.txt"):
        pose = np.loadtxt(path)
        pose[:3, 3] *= 8
        np.savetxt(path, pose)
    for path in copy.rglob("*.depth.png"):
        depth = np.asarray(Image.open(path)).astype(np.uint16)
        assert depth.max() < 8000
        Image.fromarray(depth * np.uint16(8)).save(path, compress_level=1)
    small, large = verdict_of(room), verdict_of(copy)
    shares = {fit.name: fit.share for fit in small.fits}
    assert {fit.name: fit.share for fit in large.fits} == pytest.approx(shares, abs=0.002)
    assert small.best.share > 0.5


FITS = (
    Fit(*EXPECTED, 0.62),
    Fit("camera-to-world", "y flipped", 0.5),
    Fit("world-to-camera", "OpenCV axes", 0.21),
    *(Fit("world-to-camera", axes, share / 100) for share, axes in enumerate(reversed(AXES)) if axes != EXPECTED[1]),
)
VERDICT = ConventionVerdict(FITS, FITS[1:2], True, 7, 525.0, 520.0, (0.8, 1.0, 1.25), (0.1, 0.6, 0.2), 530.0)


@pytest.mark.parametrize(
    ("changes", "level", "text"),
    [
        (
            {},
            "note",
            "depth fits a focal length of 530 px (read with 525, image 520): not registered to the image, read as such",
        ),
        (
            {"image_focal": 525.0},
            "note",
            "depth fits a focal length of 530 px (read with 525, image 525): registered to the image",
        ),
        (
            {"declared_focal": 500.0, "fitted_focal": 526.0},
            "problem",
            "depth fits a focal length of 526 px, not 500 as it is read: is it registered to the image? are the"
            " intrinsics right?",
        ),
        ({"declared_focal": 500.0, "fitted_focal": 476.0}, "note", None),
        ({"declared_focal": 500.0, "fitted_focal": 474.0}, "problem", None),
        ({"fitted_focal": None}, "note", None),
        (
            {"clear": False},
            "warning",
            "no convention stands out: best fit camera-to-world, OpenCV axes with 62% of the pixels, camera-to-world, y"
            " flipped with 50%; are depth and poses of this scene?",
        ),
    ],
)
def test_a_verdict_in_words(changes: dict[str, Any], level: str, text: str | None) -> None:
    found = convention_findings(dataclasses.replace(VERDICT, **changes))
    assert found[-1].level == level
    assert text is None or found[-1].text == text
    if changes.get("clear", True):
        assert found[0].text == (
            "poses are camera-to-world, OpenCV axes (62% of the pixels fit, the runner-up (world-to-camera, OpenCV"
            " axes) 21%; this motion cannot tell it from: camera-to-world, y flipped)"
        )
    assert len(found) == (2 if changes.get("clear", True) and changes.get("fitted_focal", 1.0) else 1)


def test_the_figure_shows_the_shares_and_the_focal_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(convention, "save", lambda figure, path: drawn.append(figure))
    flat = np.full((6, 8), 2.0, np.float32)
    camera = np.array([[8.0, 0, 3.5], [0, 8.0, 2.5], [0, 0, 1]])
    # Half a metre down: pixels at 2 m come two rows higher, and two rows lower where y is taken as flipped.
    down = np.eye(4)
    down[1, 3] = 0.5
    first, second = (
        Frame(number, 0.0, np.zeros((6, 8, 3), np.uint8), "", pose, flat, camera)
        for number, pose in ((4, np.eye(4)), (9, down))
    )
    v, u = np.indices((6, 8)).reshape(2, -1)
    pair = Pair(first, second, np.stack([(u - 3.5) / 8, (v - 2.5) / 8, np.ones(48)]), np.repeat([2.0, 2.5], [36, 12]))
    far = Fit(*EXPECTED, 0.001)
    for fits in (FITS, (*FITS[1:], far)):
        verdict = dataclasses.replace(VERDICT, fits=fits, ties=(), shown=pair)
        write_convention_figure(tmp_path / "x.png", "a room", verdict)
        bars, focal, as_read, as_best = drawn.pop().axes
        shown = list(fits[:8]) if fits is FITS else [*fits[:7], far]
        assert [bar.get_width() for bar in bars.patches] == pytest.approx([100 * fit.share for fit in shown[::-1]])
        labels = bars.get_yticklabels()
        assert [label.get_text() for label in labels] == [fit.name for fit in shown[::-1]]
        bold = [label.get_text() for label in labels if label.get_fontweight() == "bold"]
        assert bold == ["camera-to-world, OpenCV axes"]
        assert "(%), 7 pairs of frames" in bars.get_xlabel()
        curve, *lines = focal.lines
        np.testing.assert_allclose(curve.get_xydata(), [[420, 10], [525, 60], [656.25, 20]])
        assert {line.get_label(): line.get_xdata()[0] for line in lines} == {
            "as read: 525": 525.0,
            "image: 520": 520.0,
            "fits best: 530": 530.0,
        }
        points = [
            {dots.get_label(): len(dots.get_offsets()) for dots in axes.collections} for axes in (as_read, as_best)
        ]
        assert points == [{"elsewhere": 12, "on a surface": 20}, {"elsewhere": 4, "on a surface": 32}]
        assert as_read.get_title(loc="left").endswith("OpenCV axes\nframe 4 carried into frame 9: 42% fit")
        other = "runner-up: camera-to-world, y flipped" if fits is FITS else "best fit: camera-to-world, y flipped"
        assert as_best.get_title(loc="left").startswith(other)
        assert (as_read.get_xlim(), as_read.get_ylim()) == ((-0.5, 7.5), (5.5, -0.5))


def in_tum_layout(room: Path, root: Path, units: float) -> Path:
    """The room as somebody's own recording: registered depth in ``units`` a metre, at 30 Hz."""
    folder = root / "my_room"
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    colour, depth, truth = "", "", ""
    for number, path in enumerate(sorted((room / SCENE).glob("*.pose.txt"))):
        stem, pose = str(path).removesuffix(".pose.txt"), np.loadtxt(path)
        time = f"{1000 + number / 30:.6f}"
        with Image.open(f"{stem}.color.jpg") as image:
            image.resize((320, 240)).save(folder / "rgb" / f"{time}.png", compress_level=1)
        metres = np.asarray(Image.open(f"{stem}.depth.png"))[::2, ::2] / 1000
        Image.fromarray(np.round(units * metres).astype(np.uint16)).save(folder / "depth" / f"{time}.png")
        x, y, z, w = quaternion_from_rotation(pose[:3, :3])
        truth += f"{time} {pose[0, 3]} {pose[1, 3]} {pose[2, 3]} {x} {y} {z} {w}\n"
        colour += f"{time} rgb/{time}.png\n"
        depth += f"{time} depth/{time}.png\n"
    (folder / "rgb.txt").write_text(colour)
    (folder / "depth.txt").write_text(depth)
    (folder / "groundtruth.txt").write_text(truth)
    return root


def doctor(capsys: pytest.CaptureFixture[str], root: Path, *options: str) -> tuple[int, list[str]]:
    words = [
        word for option in ("intrinsics=[292.5, 292.5, 159.75, 119.75]", *options) for word in ("--option", option)
    ]
    code = main(["datasets", "check", "tum", "--root", str(root), *words])
    return code, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("units", "factor", "looks"), [(1000, 5, "depth looks like millimetres: "), (2500, 2, "")])
def test_depth_of_another_unit_is_found_by_the_poses(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], units: int, factor: int, looks: str
) -> None:
    root = in_tum_layout(room, tmp_path, units)
    code, lines = doctor(capsys, root)
    assert code == 1
    assert (
        f"  PROBLEM depth: {looks}depth fits the poses when it is {factor} times what is read at 5000 units a metre;"
        f" set options.depth_scale to {units}"
    ) in lines
    code, lines = doctor(capsys, root, f"depth_scale={units}")
    assert code == 0
    assert any("poses are camera-to-world, OpenCV axes" in line for line in lines)


def test_depth_of_another_unit_without_poses_is_found_by_what_cameras_measure(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = in_tum_layout(room, tmp_path, 1000)
    (root / "my_room" / "groundtruth.txt").unlink()
    _, lines = doctor(capsys, root)
    (line,) = [line for line in lines if "warning depth: " in line]
    assert line.endswith(
        " m, read at 5000 units a metre: depth looks like millimetres; if so, set options.depth_scale to 1000"
    )
    _, lines = doctor(capsys, root, "depth_scale=1000")
    assert not [line for line in lines if "warning depth: " in line]
    _, lines = doctor(capsys, root, "depth_scale=200")
    (line,) = [line for line in lines if "warning depth: " in line]
    assert "half of the depth is farther than" in line
    assert line.endswith("depth looks like TUM's own 5000 a metre; if so, set options.depth_scale to 5000")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real sample of 7-Scenes is not beside the checkout")
def test_real_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def checked(root: Path) -> tuple[int, dict[str, object]]:
        code = main(["datasets", "check", "seven_scenes", "--root", str(root), "--scene", SCENE, "--json"])
        (scene,) = json.loads(capsys.readouterr().out)["scenes"]
        return code, scene["convention"]

    code, verdict = checked(REAL)
    assert code == 0
    assert verdict["clear"]
    assert verdict["as_expected"]
    assert verdict["fitted_focal_px"] == pytest.approx(585, rel=0.02)
    for invert, axes in ((True, "OpenCV axes"), (False, "OpenGL axes (y and z flipped)")):
        code, verdict = checked(changed(REAL, tmp_path / f"{invert}", invert, axes))
        assert code == 1
        assert not verdict["as_expected"]
        assert verdict["fits"][0]["axes"] == axes
        assert verdict["fits"][0]["direction"] == ("world-to-camera" if invert else "camera-to-world")
    registered = tmp_path / "registered"
    shutil.copytree(REAL, registered)
    for path in registered.rglob("*.depth.png"):
        path.rename(path.with_name(path.name.replace(".depth.png", ".depth.proj.png")))
    code, verdict = checked(registered)
    assert code == 1
    assert verdict["as_expected"]
    assert verdict["fitted_focal_px"] == pytest.approx(585, rel=0.02)
