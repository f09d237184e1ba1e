"""What is left out of a cloud: sky by a network or the heuristic, masks of the user's; each is said."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pictures

from lingbot_eval.errors import ConfigError, DataError
from lingbot_eval.settings import validated
from lingbot_eval.types import Frame, Prediction
from lingbot_eval.viewing import masks
from lingbot_eval.viewing.kept import SKY_FILE, Keeper, KeepSettings, Reconstruction
from lingbot_eval.viewing.masks import LeftOut, MaskFolder, heuristic_sky, open_sky

HEIGHT, WIDTH = 24, 32
K = np.array([[30.0, 0, 15.5], [0, 30.0, 11.5], [0, 0, 1]])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    masks._open_network.cache_clear()
    return tmp_path / "cache"


def network(
    path: Path, *, bias: float = -1.0, side: int | tuple[int, int] | None = 16, channels: int = 3, outputs: int = 1
) -> Path:
    """One layer: the sum of the normalised channels, plus a bias; blue images score high, black ones low."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    sides: list[object] = ["height", "width"] if side is None else [*side] if isinstance(side, tuple) else [side, side]
    weights = np.zeros((outputs, channels, 1, 1), np.float32)
    weights[:, -1] = 1
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weights", "bias"], ["score"])],
        "sky",
        [helper.make_tensor_value_info("image", kind, [1, channels, *sides])],
        [helper.make_tensor_value_info("score", kind, [1, outputs, *sides])],
        [
            helper.make_tensor("weights", kind, weights.shape, weights.ravel()),
            helper.make_tensor("bias", kind, [outputs], [bias] * outputs),
        ],
        doc_string="x" * 1000,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def half_blue() -> np.ndarray:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[: HEIGHT // 2, :, 2] = 255
    return image


DEPTH = np.full((HEIGHT, WIDTH), 2.0, np.float32)


def keep(folder: Path, **settings: object) -> tuple[Reconstruction, tuple[str, ...]]:
    folder.mkdir()
    keeper = Keeper(validated(KeepSettings, {"depth": "all", **settings}, "keep"), folder.joinpath, 1)
    keeper.add(Frame(0, 0.0, half_blue(), "photos/0001.jpg"), Prediction(0, 0.0, np.eye(4), DEPTH, intrinsics=K))
    notes = keeper.finish()
    return Reconstruction(folder, [file.name for file in folder.iterdir()]), notes


@pytest.mark.parametrize("side", [16, (12, 20), None])
def test_a_networks_sky_is_in_neither_cloud_nor_depth(tmp_path: Path, side: int | tuple[int, int] | None) -> None:
    sky = network(tmp_path / "sky.onnx", side=side)
    kept, notes = keep(tmp_path / "kept", sky=str(sky))
    depth = kept.depth_frame(0).depth
    # Bilinear on the way there and back: the border may move by a pixel or two of the network's.
    assert (depth[: HEIGHT // 2 - 3] == 0).all()
    assert (depth[HEIGHT // 2 + 3 :] == 2).all()
    cloud = kept.cloud()
    assert cloud is not None
    assert (cloud.positions[:, 1] > -0.25).all()  # nothing above the middle, but for that border
    # The page alone shows what was left out: every pixel is in one of both.
    above = kept.cloud(SKY_FILE)
    assert above is not None
    assert (above.positions[:, 1] < 0.25).all()
    assert (len(cloud), len(above)) == ((depth > 0).sum(), (depth == 0).sum())
    predicted = KeepSettings(sky=str(sky)).predicted_bytes(WIDTH, HEIGHT, 1, 1)["cloud"]
    assert predicted - KeepSettings().predicted_bytes(WIDTH, HEIGHT, 1, 1)["cloud"] >= 31 * HEIGHT * WIDTH
    assert len(notes) == 1
    assert notes[0].endswith("raw score above 0.5); scores take all pixels")
    assert "by sky.onnx (SHA-256 " in notes[0]
    share = float(notes[0].split("%")[0]) / 100
    assert share == pytest.approx((depth == 0).mean(), abs=1e-3)


def test_masks_are_cached_by_network_and_image(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sky = open_sky(str(network(tmp_path / "sky.onnx")))
    first = sky.mask(half_blue(), DEPTH, None)
    (file,) = cache.rglob("*.png")
    assert file.parent.name.startswith("v1-")
    with Pictures.open(file) as picture:
        assert np.array_equal(
            np.asarray(picture) == 255, first
        )  # 255 is sky: the second run reads what the first meant

    def never(self: object, image: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(masks._Network, "_score", never)
    assert np.array_equal(open_sky(str(tmp_path / "sky.onnx")).mask(half_blue(), DEPTH, None), first)
    with pytest.raises(AssertionError, match="asked again"):
        sky.mask(half_blue()[::-1].copy(), DEPTH, None)
    # Another network, though it lies where the first one lay.
    masks._open_network.cache_clear()
    network(tmp_path / "sky.onnx", bias=-2.0)
    with pytest.raises(AssertionError, match="asked again"):
        open_sky(str(tmp_path / "sky.onnx")).mask(half_blue(), DEPTH, None)
    file.write_bytes(b"damaged")
    with pytest.raises(AssertionError, match="asked again"):
        sky.mask(half_blue(), DEPTH, None)


def test_a_network_sees_a_picture_as_imagenets_and_all_of_its_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channels red, green, blue, less their means, over their deviations; scores of the first of a batch count."""
    sky: Any = open_sky(str(network(tmp_path / "sky.onnx", side=(12, 16))))
    given: list[np.ndarray] = []

    def run(_: None, batch: dict[str, np.ndarray]) -> list[np.ndarray]:
        given.extend(batch.values())
        return [np.stack([np.full((1, 12, 16), score, np.float32) for score in (0.51, 0.0)])]

    monkeypatch.setattr(sky, "_session", SimpleNamespace(run=run))
    monkeypatch.setattr(sky, "_batch", 2)
    image = np.full((HEIGHT, WIDTH, 3), (255, 102, 0), np.uint8)
    assert sky.mask(image, DEPTH, None).all()
    (batch,) = given
    assert (batch.shape, batch.dtype) == ((2, 3, 12, 16), np.float32)
    assert batch[1, :, 5, 7] == pytest.approx([0.515 / 0.229, -0.056 / 0.224, -0.406 / 0.225], abs=1e-5)


@pytest.mark.parametrize("other", [np.zeros((2, 2), np.uint8), np.full((HEIGHT, WIDTH), 100, np.uint8)])
def test_a_cached_picture_that_is_no_mask_of_the_image_is_made_again(
    tmp_path: Path, cache: Path, other: np.ndarray
) -> None:
    sky = open_sky(str(network(tmp_path / "sky.onnx")))
    first = sky.mask(half_blue(), DEPTH, None)
    assert first.any()
    (file,) = cache.rglob("*.png")
    Pictures.fromarray(other).save(file)
    np.testing.assert_array_equal(sky.mask(half_blue(), DEPTH, None), first)


def test_masks_and_pictures_of_another_size_than_the_depth_leave_nothing_out(tmp_path: Path) -> None:
    left_out = LeftOut(str(network(tmp_path / "sky.onnx")), None)
    prediction = Prediction(0, 0.0, np.eye(4), DEPTH[::2, ::2], intrinsics=K)
    found = left_out.mask(Frame(0, 0.0, half_blue(), "a.jpg", left_out=np.ones((HEIGHT, WIDTH), bool)), prediction)
    assert found is not None
    assert (found.shape, found.any()) == ((HEIGHT // 2, WIDTH // 2), False)
    assert left_out.sky(prediction) is None
    assert "the dataset's masks" not in left_out.words()
    assert left_out.notes("kept")[0].startswith("0.0% of the pixels are left out of cloud and kept depth by sky.onnx (")
    assert left_out.notes("kept")[0].endswith("; scores take kept pixels alone")


def test_a_cache_that_cannot_be_written_costs_no_result(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    sky = open_sky(str(network(tmp_path / "sky.onnx", side=None)))
    assert sky.mask(half_blue(), DEPTH, None).any()
    assert sky._size == (320, 320)  # type: ignore[attr-defined]  # as the published ones, where a network takes any


def test_a_full_disk_under_the_cache_costs_no_result(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is there, and the file in it cannot be written."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    sky = open_sky(str(network(tmp_path / "sky.onnx")))
    monkeypatch.setattr(Pictures.Image, "save", full)
    assert sky.mask(half_blue(), DEPTH, None).any()
    assert not list(cache.rglob("*.png"))


def test_the_heuristic_takes_what_is_far_and_hangs_at_the_top() -> None:
    depth = np.full((20, 20), 2.0, np.float32)
    depth[:4] = np.inf  # nothing measured above
    depth[10:12, 5:7] = 50  # a far hole in the middle stays
    mask = heuristic_sky(depth, None)
    assert mask[:4].all()
    assert not mask[4:].any()
    depth[:4] = 0  # as others say it
    assert np.array_equal(heuristic_sky(depth, None), mask)
    ramp = np.arange(400, dtype=np.float32).reshape(20, 20).T
    flat = np.full((20, 20), 2.0, np.float32)
    assert np.array_equal(heuristic_sky(flat, ramp), ramp < 40)  # a tenth of it
    unsure = np.full((20, 20), 5.0, np.float32)
    unsure[:2, 3:9] = 1
    mask = heuristic_sky(np.linspace(2, 2.001, 400, dtype=np.float32).reshape(20, 20)[::-1], unsure)
    assert mask[:2, 3:9].all()
    assert mask.mean() < 0.1
    assert not heuristic_sky(np.zeros((4, 4), np.float32), None).any()
    unsure = ramp.T[::-1].copy()  # the lower edge is what is least sure: it does not hang at the top
    assert not heuristic_sky(flat, unsure).any()
    unsure[:3, :7] = np.nan  # nobody is sure of what no confidence was given for
    assert np.array_equal(np.argwhere(heuristic_sky(flat, unsure)), np.argwhere(np.isnan(unsure)))


def test_the_heuristic_is_named_so(tmp_path: Path) -> None:
    _, notes = keep(tmp_path / "kept", sky="heuristic")
    assert "by the heuristic (" in notes[0]


def test_masks_of_the_users_go_by_the_images_name(tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    mask = np.zeros((2 * HEIGHT, 2 * WIDTH), np.uint8)
    mask[:, : WIDTH // 2] = 1  # any value but 0 is left out
    Pictures.fromarray(mask).save(folder / "0001.png")
    kept, notes = keep(tmp_path / "kept", masks=str(folder))
    depth = kept.depth_frame(0).depth
    assert (depth[:, : WIDTH // 4] == 0).all()
    assert (depth[:, WIDTH // 4 :] == 2).all()
    assert notes == (
        f"25.0% of the pixels are left out of cloud and kept depth by masks of {folder}; scores take all pixels",
    )
    both, _ = keep(tmp_path / "both", masks=str(folder), sky=str(network(tmp_path / "sky.onnx")))
    above = both.cloud(SKY_FILE)
    assert above is not None
    assert (above.positions[:, 0] > (WIDTH // 4 - 0.5 - 15.5) / 30 * 2).all()  # people before the sky are no sky
    assert kept.cloud(SKY_FILE) is None
    (folder / "0001.png").rename(folder / "0001.PNG")
    assert (keep(tmp_path / "capitals", masks=str(folder))[0].depth_frame(0).depth == depth).all()
    (folder / "0001.PNG").rename(folder / "0002.png")
    kept, notes = keep(tmp_path / "again", masks=str(folder))
    assert (kept.depth_frame(0).depth == 2).all()
    assert notes[1] == "1 frames have no mask of their own; all of them is kept"


def test_what_a_dataset_leaves_out_is_no_sky(tmp_path: Path) -> None:
    left_out = np.zeros((HEIGHT, WIDTH), bool)
    left_out[:, : WIDTH // 4] = True
    keeper = Keeper(KeepSettings(sky=str(network(tmp_path / "sky.onnx"))), tmp_path.joinpath, 1)
    frame = Frame(0, 0.0, half_blue(), "photos/0001.jpg", left_out=left_out)
    keeper.add(frame, Prediction(0, 0.0, np.eye(4), DEPTH, intrinsics=K))
    (note,) = keeper.finish()
    assert "and the dataset's masks;" in note
    above = Reconstruction(tmp_path, [SKY_FILE]).cloud(SKY_FILE)
    assert above is not None
    assert (above.positions[:, 0] > (WIDTH // 4 - 0.5 - 15.5) / 30 * 2).all()
    # A frame without an image has no sky, whatever the one before it had.
    predictions = [Prediction(index, index / 10, np.eye(4), DEPTH, intrinsics=K) for index in range(2)]
    for prediction, image in zip(predictions, (half_blue(), None), strict=True):
        keeper.left_out.found(Frame(prediction.index, prediction.timestamp, image, "1.jpg"), prediction)
        assert (keeper.left_out.sky(prediction) is None) == (image is None)


def test_a_mask_of_another_shape_or_none_at_all_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    with pytest.raises(ConfigError, match="masks: expected a folder of images, found none at"):
        MaskFolder(folder)
    folder.mkdir()
    with pytest.raises(ConfigError, match=r"masks: expected images in .*, found none"):
        MaskFolder(folder)
    Pictures.new("L", (WIDTH, WIDTH)).save(folder / "0001.png")
    with pytest.raises(DataError, match="expected the shape of the image as the method sees it, 32x24, found 32x32"):
        keep(tmp_path / "kept", masks=str(folder))
    (folder / "0001.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"mask .*0001\.png cannot be read: expected an image, found a file of"):
        keep(tmp_path / "again", masks=str(folder))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 175997079\n", "found a Git LFS pointer"),
        (b"<!DOCTYPE html><html>" + b" " * 2000, "expected a network in ONNX, found"),
        (b"short", "found a file of 5 bytes"),
        (bytes(range(256)) * 8, "expected a network in ONNX, found a damaged or other file"),
    ],
)
def test_what_is_no_network_is_called_what_it_is(tmp_path: Path, content: bytes, words: str) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "sky.onnx").write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        LeftOut(str(tmp_path / "sky.onnx"), None)
    assert "\n" not in str(caught.value)


def test_a_network_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected one input of an image \(1, 3, H, W\) in float32, found image"):
        open_sky(str(network(tmp_path / "grey.onnx", channels=1)))
    two = open_sky(str(network(tmp_path / "two.onnx", outputs=2)))
    with pytest.raises(DataError, match=r"expected a finite score for each pixel, found shape \(2, 16, 16\)"):
        two.mask(half_blue(), DEPTH, None)
    with pytest.raises(ConfigError, match=r"sky: expected heuristic or an ONNX file, found .*nowhere"):
        open_sky(str(tmp_path / "nowhere"))


def test_a_run_says_before_it_starts_what_it_cannot_use(tmp_path: Path) -> None:
    import lingbot_eval as lb

    with pytest.raises(ConfigError, match="sky: expected heuristic or an ONNX file"):
        lb.plan_run("smoke", {"keep.sky": str(tmp_path / "none.onnx")})
