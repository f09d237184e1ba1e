"""The model by hand: any image goes in, the predictions are those of a run, and what is wrong is one line."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lingbot_eval as lb
from lingbot_eval.errors import CheckpointError, ConfigError, DataError, StreamError
from lingbot_eval.methods import model as model_module
from lingbot_eval.methods.model import as_image
from lingbot_eval.prepare import SizeSettings
from lingbot_eval.streaming.settings import StreamSettings

OPTIONS = {"frames": 6, "width": 84, "height": 56}
SESSION = {"size": {"mode": "exact", "width": 84, "height": 56}, "scale_frames": 2}


@pytest.fixture(scope="module")
def model() -> lb.Model:
    return lb.load_model("shipped", device="cpu")


@pytest.fixture(scope="module")
def images() -> list[Any]:
    return [frame.image for frame in lb.open_dataset("synthetic", **OPTIONS).scene("room")]


@pytest.fixture(scope="module")
def expected(model: lb.Model, images: list[Any]) -> list[lb.Prediction]:
    return list(lb.stream(model, images, **SESSION))


def same(one: list[lb.Prediction], other: list[lb.Prediction]) -> bool:
    return [p.index for p in one] == [p.index for p in other] and all(
        np.array_equal(a.camera_to_world, b.camera_to_world) and np.array_equal(a.depth, b.depth)
        for a, b in zip(one, other, strict=True)
    )


def test_a_run_of_the_same_frames_gives_the_same_poses(expected: list[lb.Prediction], tmp_path: Path) -> None:
    from lingbot_eval.cli.main import main
    from lingbot_eval.files.trajectories import read_tum
    from lingbot_eval.stored.store import find_runs

    (tmp_path / "e.yaml").write_text(
        f"name: e\ndatasets: [{{name: synthetic, scenes: [room], options: {OPTIONS}, size: {SESSION['size']}}}]\n"
        "methods: [{kind: lingbot, device: cpu, model: {config: ci, checkpoint: shipped},"
        " streaming: {scale_frames: 2}}]\n"
    )
    assert main(["run", str(tmp_path / "e.yaml"), "--out", str(tmp_path / "runs"), "--no-report", "--json"]) == 0
    (run,) = find_runs(tmp_path / "runs")
    stored = read_tum(next(run.rglob("estimate.tum"))).camera_to_world
    np.testing.assert_allclose(np.stack([p.camera_to_world for p in expected]), stored, atol=1e-6)


@pytest.mark.parametrize(
    "turned",
    [
        pytest.param(lambda image: image.astype(np.float64) / 255, id="floats"),
        pytest.param(Image.fromarray, id="PIL"),
        pytest.param(torch.from_numpy, id="tensor, H W 3"),
        pytest.param(lambda image: torch.from_numpy(image).permute(2, 0, 1).float() / 255, id="tensor, 3 H W"),
        pytest.param(lambda image: np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]), id="RGBA"),
        pytest.param(lambda image: image[:, ::-1][:, ::-1], id="not contiguous"),
    ],
)
def test_any_image_goes_in(
    model: lb.Model, images: list[Any], expected: list[lb.Prediction], turned: Callable[[Any], Any]
) -> None:
    assert same(list(lb.stream(model, [turned(image) for image in images], **SESSION)), expected)


def test_frame_by_frame_predictions_come_as_they_are_ready(
    model: lb.Model, images: list[Any], expected: list[lb.Prediction]
) -> None:
    session = model.session(window=16, keyframe_interval="auto", **SESSION)
    ready = [session.step(image) for image in images]
    assert [len(found) for found in ready] == [0, 2, 1, 1, 1, 1]
    assert session.finish() == ()
    assert same([p for found in ready for p in found], expected)
    assert [p.timestamp for p in expected] == [0, 1, 2, 3, 4, 5], "where nobody says when"


def test_the_camera_is_that_of_an_image_wider_than_high(expected: list[lb.Prediction]) -> None:
    for prediction in expected:
        matrix = prediction.intrinsics
        assert matrix is not None
        assert matrix[:2, 2].tolist() == [42, 28]
        assert matrix[0, 0] == pytest.approx(matrix[1, 1], rel=0.3)  # pixels are square, and it knows


def test_a_scene_and_a_dataset_stream_like_their_images(model: lb.Model, expected: list[lb.Prediction]) -> None:
    scene = lb.open_dataset("synthetic", **OPTIONS).scene("room")
    assert same(list(lb.stream(model, scene, **SESSION)), expected)
    assert scene.length == 6
    assert scene.reference().camera_to_world.shape == (6, 4, 4)
    assert [p.timestamp for p in lb.stream(model, scene, **SESSION)] == pytest.approx(scene.timestamps().tolist())


def test_a_scene_is_taken_at_its_cards_stride_unless_another_is_asked_for(tmp_path: Path) -> None:
    card = tmp_path / "synthetic.yaml"
    about = "title: T\ndescription: D\nsource: {licence: L}\nlayout: none\nscenes: five\n"
    card.write_text(f"name: synthetic\n{about}protocol: {{stride: 3}}\n")
    dataset = lb.open_dataset("synthetic", card=card, frames=10)
    assert [dataset.scene("room").length, dataset.scene("room", stride=1).length] == [4, 10]
    part = dataset.scene("room", start=2, count=2)
    assert part.timestamps().tolist() == pytest.approx([2 / 30, 5 / 30])
    assert [operator.length_hint(each) for each in (part, dataset.scene("room"))] == [2, 4]


def test_a_dataset_of_one_scene_is_that_scene(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(np.full((16, 16, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    dataset = lb.open_dataset("folder", str(tmp_path))
    assert operator.length_hint(dataset) == 3
    assert [int(frame.image[0, 0, 0]) for frame in dataset] == [0, 40, 80]
    assert dataset.scene().name == tmp_path.name


def test_images_of_any_size_are_resized_to_the_weights_own_width(model: lb.Model) -> None:
    session = model.session(scale_frames=1)
    (prediction,) = session.step(np.zeros((300, 400), np.uint8), timestamp=7.5)
    assert prediction.depth is not None
    assert prediction.depth.shape == (168, 224)
    assert prediction.timestamp == 7.5
    with pytest.raises(StreamError, match=r"224×168, found 224×"):
        session.step(np.zeros((200, 400), np.uint8))


def test_a_short_stream_ends_with_all_it_held_back(model: lb.Model, images: list[Any]) -> None:
    session = model.session(size=SESSION["size"])
    assert [session.step(image) for image in images] == [()] * 6
    assert [p.index for p in session.finish()] == list(range(6))


def test_floats_are_the_nearest_of_the_256_levels() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    for kind in (np.float32, np.float64):
        assert np.array_equal(as_image(levels.astype(kind) / 255, 0), levels)
    assert as_image(np.full((1, 1, 3), 0.999), 0).max() == 255


GREY = np.arange(30, dtype=np.uint8).reshape(5, 6)


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(GREY, id="H W"),
        pytest.param(GREY[..., None], id="H W 1"),
        pytest.param(torch.from_numpy(GREY)[None], id="tensor, 1 H W"),
        pytest.param(Image.fromarray(GREY), id="PIL, grey"),
        pytest.param(Image.fromarray(GREY).convert("RGBA"), id="PIL, RGBA"),
    ],
)
def test_a_grey_image_is_as_grey_in_colour(image: Any) -> None:
    found = as_image(image, 0)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.stack([GREY] * 3, axis=2))


def test_of_a_tensor_colours_come_last_where_they_could_be_either() -> None:
    for shape, found in (
        ((3, 6, 5), (6, 5, 3)),
        ((3, 6, 4), (3, 6, 3)),
        ((3, 6, 3), (3, 6, 3)),
        ((1, 6, 7), (6, 7, 3)),
    ):
        assert as_image(torch.zeros(shape, dtype=torch.uint8), 0).shape == found


class Given:
    """Stands where a stream would: gives back the frames as they would be seen."""

    def step(self, frame: lb.Frame) -> tuple[lb.Frame, ...]:
        return (frame,)


@pytest.mark.parametrize(
    ("config", "size", "shape"),
    [
        ("ci", None, (168, 224)),
        ("mini", None, (168, 224)),
        ("full", None, (392, 518)),
        ("full", SizeSettings(mode="exact", width=70, height=42), (42, 70)),
        ("ci", {"width": 112, "max_height": 56}, (56, 112)),
    ],
)
def test_images_have_the_width_of_the_weights_or_the_size_that_is_asked_for(
    model: lb.Model, monkeypatch: pytest.MonkeyPatch, config: str, size: Any, shape: tuple[int, int]
) -> None:
    monkeypatch.setattr(model, "config", config)
    monkeypatch.setattr(lb.Model, "open", lambda *_: Given())
    session: Any = model.session(size=size)
    for number in range(3):
        # A frame of a scene counts as one, and knows its time.
        mine = lb.Frame(1, 0.5, np.zeros((300, 400, 3), np.uint8), "mine")
        (frame,) = session.step(mine if number == 1 else mine.image)
        assert frame.image.shape == (*shape, 3)
        assert (frame.index, frame.timestamp) == (number, 0.5 if number == 1 else number)
    for number, seconds in ((3, 0.0), (4, 7.25)):
        (frame,) = session.step(mine.image, seconds)
        assert (frame.index, frame.timestamp) == (number, seconds)
    with pytest.raises(DataError, match=r"^frame 5: "):
        session.step("photo.jpg")


def test_a_stream_knows_how_many_frames_will_come_where_that_can_be_known() -> None:
    asked: list[dict[str, Any]] = []

    def session(**settings: Any) -> Any:
        asked.append(settings)
        return SimpleNamespace(with_frames=lambda frames: ((None, frame) for frame in frames))

    model: Any = SimpleNamespace(session=session)
    assert list(lb.stream(model, [7, 8, 9], window=5)) == [7, 8, 9]
    assert list(lb.stream(model, (number for number in (7, 8)))) == [7, 8]
    assert asked == [{"window": 5, "frames": 3}, {"frames": None}]


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.full((20, 20, 3), -0.01), r"found -0\.01 to -0\.01"),
        (np.full((20, 20, 3), 1.01), r"found 1\.01 to 1\.01"),
        (np.zeros((20, 20, 3), bool), "found bool"),
        (np.full((20, 20, 3), 255.0), r"floats in \[0, 1\].*divide by 255"),
        (np.full((20, 20, 3), np.nan), r"floats in \[0, 1\]"),
        (np.zeros((20, 20, 3), np.int64), "int64"),
        (np.zeros((20, 20, 5), np.uint8), r"\(20, 20, 5\)"),
        (np.zeros((0, 20, 3), np.uint8), r"\(0, 20, 3\)"),
        ("photo.jpg", "expected an image"),
    ],
)
def test_what_is_no_image_is_said(model: lb.Model, image: object, says: str) -> None:
    with pytest.raises(DataError, match=says):
        model.session().step(image)


def test_sessions_have_what_the_model_was_loaded_for(model: lb.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[StreamSettings] = []
    monkeypatch.setattr(lb.Model, "open", lambda model, streaming, frames: opened.append(streaming))
    monkeypatch.setattr(model_module, "Session", lambda stream, size: None)
    lb.load_model("shipped", device="cpu", backend="paged", cache_precision=8).session()
    model.session()
    assert [(each.backend, each.cache_precision) for each in opened] == [("paged", 8), ("auto", None)]


def test_wrong_settings_are_one_line(model: lb.Model) -> None:
    with pytest.raises(ConfigError, match="session: window"):
        model.session(window=0)
    with pytest.raises(ConfigError, match="load_model: precision"):
        lb.load_model("shipped", precision="int4")
    with pytest.raises(CheckpointError, match=r"nowhere\.pt"):
        lb.load_model("nowhere.pt", config="ci", device="cpu")
    with pytest.raises(ConfigError, match="did you mean 'synthetic'"):
        lb.open_dataset("syntetic")
    with pytest.raises(ConfigError, match="there are: room, corridor"):
        lb.open_dataset("synthetic").scene()
