"""Frames of a study: pools played forward and backward with their poses, noise, and datasets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lingbot_eval.datasets.registry import open_adapter
from lingbot_eval.datasets.sequence import Selection
from lingbot_eval.errors import DataError
from lingbot_eval.scaling import inputs
from lingbot_eval.scaling.inputs import CaseFrames, FileFrames, PooledFrames, open_source, pool_position, selected
from lingbot_eval.scaling.settings import DatasetInput, Input, NoiseInput, SyntheticInput
from lingbot_eval.settings import validated
from lingbot_eval.types import Frame, FrameSequence

SIZE = (70, 56)


def nothing() -> None: ...


def opened(settings: Input) -> CaseFrames:
    return open_source(settings, SIZE, 0, nothing)


def test_forward_and_backward_by_hand() -> None:
    assert [pool_position(i, 4) for i in range(9)] == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert [pool_position(i, 2) for i in range(4)] == [0, 1, 0, 1]


@given(st.integers(0, 10**7), st.integers(2, 1000))
def test_neighbours_in_time_are_neighbours_in_the_pool(index: int, pool: int) -> None:
    here, there = pool_position(index, pool), pool_position(index + 1, pool)
    assert 0 <= here < pool
    assert abs(here - there) == 1


def test_a_synthetic_pool_and_its_poses() -> None:
    counted: list[None] = []
    source = open_source(SyntheticInput(kind="synthetic", pool=4), SIZE, 0, lambda: counted.append(None))
    assert len(counted) == 4
    frames = list(source.first(9).frames())
    assert [frame.index for frame in frames] == list(range(9))
    assert all(frame.image is not None and frame.image.shape == (56, 70, 3) for frame in frames)
    assert frames[2].image is frames[4].image
    assert frames[1].image is not frames[2].image
    truth = source.first(9).reference()
    assert truth is not None
    for frame, pose in zip(frames, truth.camera_to_world, strict=True):
        np.testing.assert_array_equal(frame.camera_to_world, pose)
    # 30 a second, whatever the scenario makes of them; the same for frames and poses, and no more than were asked for.
    assert truth.timestamps.tolist() == [frame.timestamp for frame in frames] == [index / 30 for index in range(9)]
    assert truth.indices.tolist() == list(range(9))
    options = {"frames": 4, "width": 70, "height": 56, "seed": 0, "step": 0.05}
    scene = open_adapter("synthetic", None, options).open("room", Selection())
    for frame, rendered in zip(frames, scene.frames(), strict=False):
        np.testing.assert_array_equal(frame.image, rendered.image)
    assert source.facts() == {
        **scene.facts(),
        "played": "pool of 4 frames in memory, played forward and backward",
    }
    assert np.linalg.norm(truth.positions[3] - truth.positions[0]) > 0.1


def test_poses_that_some_frames_of_a_pool_lack_are_those_of_the_others() -> None:
    pool = []
    for number in range(3):
        pose = np.eye(4)
        pose[0, 3] = number
        pool.append(Frame(number, 0.0, None, "", camera_to_world=None if number == 1 else pose))
    truth = PooledFrames({}, tuple(pool)).first(6).reference()
    assert truth is not None
    assert truth.indices.tolist() == [0, 2, 4]
    assert truth.timestamps.tolist() == [0, 2 / 30, 4 / 30]
    assert truth.positions[:, 0].tolist() == [0, 2, 0]
    assert PooledFrames({}, (pool[1], pool[1])).first(6).reference() is None


def first_of(document: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    """Pixels and poses of the first frames."""
    (kind,) = [each for each in (SyntheticInput, NoiseInput) if document["kind"] in str(each.model_fields["kind"])]
    return [
        (np.ascontiguousarray(frame.image).tobytes(), np.ascontiguousarray(frame.camera_to_world).tobytes())
        for frame in opened(validated(kind, document, "test")).first(4).frames()
    ]


@pytest.mark.parametrize(
    ("base", "setting", "value"),
    [
        ({"kind": "synthetic", "pool": 3}, "seed", 1),
        ({"kind": "synthetic", "pool": 3}, "step", 0.3),
        ({"kind": "synthetic", "pool": 3}, "scene", "corridor"),
        ({"kind": "synthetic", "pool": 3}, "pool", 2),
        ({"kind": "noise", "pool": 3}, "seed", 1),
        ({"kind": "noise", "pool": 3}, "pool", 2),
    ],
)
def test_every_setting_of_an_input_changes_its_frames(base: dict[str, Any], setting: str, value: object) -> None:
    assert first_of({**base, setting: value}) != first_of(base)
    for kind, known in ((SyntheticInput, {"scene", "pool", "seed", "step"}), (NoiseInput, {"pool", "seed"})):
        assert set(kind.model_fields) == {"kind", *known}, "a setting is not asked for here"


def test_noise_is_noise() -> None:
    source = opened(NoiseInput(kind="noise", pool=3))
    images = [frame.image for frame in source.first(3).frames()]
    assert all(image is not None and image.shape == (56, 70, 3) for image in images)
    assert all(50 < float(np.std(image)) < 90 for image in images if image is not None)
    assert not np.array_equal(images[0], images[1])
    stack = np.stack([image for image in images if image is not None])
    assert (stack.min(), stack.max()) == (0, 255), "of tens of thousands of pixels both ends are there"
    assert opened(NoiseInput(kind="noise", pool=2, seed=7)).facts()["source"] == "uniform random pixels, seed 7"
    assert source.first(3).reference() is None
    assert source.facts() == {
        "source": "uniform random pixels, seed 0",
        "poses": "none",
        "played": "pool of 3 frames in memory, played forward and backward",
    }
    again = next(opened(NoiseInput(kind="noise", pool=3)).first(1).frames())
    np.testing.assert_array_equal(again.image, images[0])


def folder_input(root: Path, **changes: object) -> DatasetInput:
    for number in range(6):
        Image.fromarray(np.full((90, 120, 3), 40 * number, np.uint8)).save(root / f"{number}.png")
    dataset = {"name": "folder", "root": str(root), "scenes": [root.name]}
    return validated(DatasetInput, {"kind": "dataset", "dataset": dataset, **changes}, "test")


@pytest.mark.parametrize("workers", [0, 3])
def test_a_dataset_streams_from_its_files(tmp_path: Path, workers: int) -> None:
    source = open_source(folder_input(tmp_path), SIZE, workers, nothing)
    assert isinstance(source, FileFrames)
    assert source.facts() == source.sequence.facts() != {}
    frames = list(source.first(5).frames())
    assert [frame.index for frame in frames] == list(range(5))
    assert [int(frame.image[0, 0, 0]) for frame in frames if frame.image is not None] == [0, 40, 80, 120, 160]
    assert len(list(source.first(6).frames())) == 6
    with pytest.raises(DataError, match=r"has 6 frames, the case wants 7.*input\.pool"):
        list(source.first(7).frames())


def test_poses_of_a_scene_are_those_of_the_frames_asked_for() -> None:
    dataset = {"name": "synthetic", "scenes": ["room"], "options": {"frames": 12, "width": 70, "height": 56}}

    def of(**changes: Any) -> CaseFrames:
        given = {"kind": "dataset", "dataset": dataset | changes.pop("dataset", {}), **changes}
        return opened(validated(DatasetInput, given, "test"))

    source = of()
    truth, frames = source.first(5).reference(), list(source.first(5).frames())
    assert truth is not None
    assert truth.indices.tolist() == [frame.index for frame in frames] == list(range(5))
    assert truth.timestamps.tolist() == [frame.timestamp for frame in frames]
    for frame, pose in zip(frames, truth.camera_to_world, strict=True):
        np.testing.assert_array_equal(frame.camera_to_world, pose)
    # A selection is the input's, as an experiment writes it.
    later = of(dataset={"selection": {"start": 3, "stride": 2}}).first(2).reference()
    assert later is not None
    whole = source.first(12).reference()
    assert whole is not None
    np.testing.assert_array_equal(later.camera_to_world, whole.camera_to_world[[3, 5]])
    with pytest.raises(DataError, match="synthetic/room: a pool needs 2 frames, found 1"):
        of(pool=4, dataset={"options": {"frames": 1, "width": 70, "height": 56}})


@pytest.mark.parametrize(
    ("selection", "card", "stride", "asked"),
    [
        ({}, None, 3, [("folder", None)]),
        ({"start": 1}, None, 3, [("folder", None)]),
        ({"start": 1}, "~/mine.yaml", 3, [("folder", Path.home() / "mine.yaml")]),
        ({"stride": 1}, None, 1, []),
        ({"stride": 2}, "~/mine.yaml", 2, []),
    ],
)
def test_a_dataset_s_card_says_the_stride_where_nobody_else_does(
    monkeypatch: pytest.MonkeyPatch, selection: dict[str, int], card: str | None, stride: int, asked: list[Any]
) -> None:
    loaded: list[Any] = []

    def load_card(*given: Any) -> Any:
        loaded.append(given)
        return SimpleNamespace(protocol=SimpleNamespace(stride=3))

    monkeypatch.setattr(inputs, "load_card", load_card)
    dataset = {"name": "folder", "root": "r", "scenes": ["s"], "selection": selection, "card": card}
    found = selected(validated(DatasetInput, {"kind": "dataset", "dataset": dataset, "pool": 4}, "test"))
    assert isinstance(found, DatasetInput)
    assert (found.dataset.selection.stride, found.dataset.selection.start) == (stride, selection.get("start", 0))
    assert (found.pool, found.dataset.scenes, loaded) == (4, ("s",), asked)
    assert selected(noise := NoiseInput(kind="noise")) is noise


def test_frames_are_cut_to_cover_the_size_of_the_case(tmp_path: Path) -> None:
    """Half of a picture is dark: what is left of it after scaling to 70×56 says where it was cut."""
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:, 100:] = 200
    Image.fromarray(picture).save(tmp_path / "0.png")
    dataset = {"name": "folder", "root": str(tmp_path), "scenes": [tmp_path.name]}
    source = opened(validated(DatasetInput, {"kind": "dataset", "dataset": dataset}, "test"))
    (frame,) = source.first(1).frames()
    assert frame.image is not None
    assert frame.image.shape == (56, 70, 3)
    # Squeezed as well, it would be half and half; of the 125 columns at height 56 the middle 70 are left.
    assert int(frame.image[28, 2, 0]) < 40
    assert int(frame.image[28, 67, 0]) > 160


class Unknown:
    """A scene whose length only decoding tells, as a video's."""

    length = None

    def __init__(self, sequence: FrameSequence) -> None:
        self._sequence = sequence

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sequence, name)


def test_a_scene_that_turns_out_too_short_is_no_whole_result(tmp_path: Path) -> None:
    source = opened(folder_input(tmp_path))
    assert isinstance(source, FileFrames)
    frames = replace(source, sequence=Unknown(source.sequence)).first(7).frames()  # type: ignore[arg-type]
    assert [next(frames).index for _ in range(6)] == list(range(6))
    with pytest.raises(DataError, match="has 6 frames, the case wants 7"):
        next(frames)
    assert len(list(replace(source, sequence=Unknown(source.sequence)).first(6).frames())) == 6  # type: ignore[arg-type]


def test_a_dataset_can_be_a_pool(tmp_path: Path) -> None:
    source = opened(folder_input(tmp_path, pool=3))
    shades = [int(frame.image[0, 0, 0]) for frame in source.first(7).frames() if frame.image is not None]
    assert shades == [0, 40, 80, 40, 0, 40, 80]
