"""Depth metrics: the reference figures, the definitions spelled out naively, and every way to skip a frame."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lingbot_eval.errors import DataError
from lingbot_eval.geometry.alignment import Sim3
from lingbot_eval.metrics.base import METRICS, DepthMetrics, SceneContext, ScoredScene, metric
from lingbot_eval.metrics.depth import DepthFamily, DepthScorer, DepthSettings
from lingbot_eval.metrics.trajectory import TrajectoryScore
from lingbot_eval.types import Frame, Measurement, Prediction, Trajectory

DATA = Path(__file__).parents[1] / "data"
FIGURES = json.loads((DATA / "metrics_figures.json").read_text())
ALIGNMENTS = ("scale_only", "lstsq", "none")


def by_name(scorer: DepthScorer) -> dict[tuple[str, str], Measurement]:
    return {(m.name, m.variant): m for m in scorer.compute()}


def value(scorer: DepthScorer, name: str, variant: str = "") -> float:
    measured = by_name(scorer)[name, variant]
    assert measured.value is not None, measured.reason
    return measured.value


def frames(count: int, seed: int = 0, shape: tuple[int, int] = (30, 40)) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        truth = rng.uniform(0.3, 9, shape).astype(np.float32)
        prediction = (0.4 * truth * np.exp(0.3 * rng.normal(size=shape)) + 0.1).astype(np.float32)
        truth[rng.random(shape) < 0.2] = 0
        prediction[rng.random(shape) < 0.05] = np.nan
        found.append((truth, prediction))
    return found


def naive(pairs: list[tuple[np.ndarray, np.ndarray]], variant: str, limits: tuple[float, float]) -> dict[str, float]:
    """protocol.md section 1, word by word."""
    truths, aligned = [], []
    for truth, prediction in pairs:
        valid = (truth > limits[0]) & (truth < limits[1]) & np.isfinite(truth) & np.isfinite(prediction)
        valid &= np.nan_to_num(prediction) > 0
        t, p = truth[valid].astype(float), prediction[valid].astype(float)
        if variant == "scale_only":
            p = p * np.median(t) / np.median(p)
        elif variant == "lstsq":
            (scale, shift), *_ = np.linalg.lstsq(np.column_stack([p, np.ones_like(p)]), t, rcond=None)
            p = scale * p + shift
        truths.append(t)
        aligned.append(p)
    t, p = np.concatenate(truths), np.concatenate(aligned)
    log = np.log(np.clip(p, 1e-5, None)) - np.log(np.clip(t, 1e-5, None))
    with np.errstate(divide="ignore"):
        ratio = np.where(p > 0, np.maximum(p / t, t / p), np.inf)
    return {
        "abs_rel": np.mean(np.abs(p - t) / t),
        "sq_rel": np.mean((p - t) ** 2 / t),
        "rmse": np.sqrt(np.mean((p - t) ** 2)),
        "log_rmse": np.sqrt(np.mean(log**2)),
        "delta_1_25": 100 * np.mean(ratio < 1.25),
        "delta_1_25_2": 100 * np.mean(ratio < 1.25**2),
        "delta_1_25_3": 100 * np.mean(ratio < 1.25**3),
    }


def test_reference_figures() -> None:
    scorer = DepthScorer(DepthSettings(min_depth=0, max_depth=80))
    with np.load(DATA / "depth_case.npz", allow_pickle=False) as case:
        for index, (truth, prediction) in enumerate(zip(case["gt"], case["pred"], strict=True)):
            assert scorer.update(index, truth, prediction) is not None
    for variant in ALIGNMENTS:
        for name, expected in FIGURES[f"depth_{variant}"].items():
            assert value(scorer, name, variant) == pytest.approx(expected, rel=1e-6), (name, variant)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(30, 40), (11, 13), (150, 150)]))
def test_equals_the_definitions(seed: int, shape: tuple[int, int]) -> None:
    """Sizes with odd and even numbers of valid pixels, and above one block."""
    pairs = frames(3, seed, shape)
    scorer = DepthScorer(DepthSettings(min_depth=0.5, max_depth=8, min_valid_pixels=50))
    for index, (truth, prediction) in enumerate(pairs):
        scorer.update(index, truth, prediction)
    for variant in ALIGNMENTS:
        for name, expected in naive(pairs, variant, (0.5, 8)).items():
            assert value(scorer, name, variant) == pytest.approx(expected, rel=1e-9), (name, variant)


def test_update_returns_the_frames_own_error_under_scale_only() -> None:
    pairs = frames(2)
    scorer = DepthScorer(DepthSettings(alignments=("none",), sequence_alignments=()))
    for index, pair in enumerate(pairs):
        found = scorer.update(index, *pair)
        assert found == pytest.approx(naive([pair], "scale_only", (0, 80))["abs_rel"], rel=1e-9)
    assert {m.variant for m in scorer.compute() if m.name == "rmse"} == {"none"}
    # Without an alignment of the sequence nothing of a sample is measured.
    names = {m.name for m in scorer.compute()}
    assert names.isdisjoint({"sampling_error", "abs_rel_at_distance", "abs_rel_by_confidence"})
    assert "confidence_rank_correlation" not in names


def test_a_plugins_metric_sees_depth_aligned_as_the_built_in_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """By medians, frame by frame, strictly between the limits; or not at all. A median of skewed depth is no mean."""
    monkeypatch.setattr(METRICS, "_added", dict(METRICS._added))
    for align in ("scale_only", "none"):

        def own_abs_rel(truth: np.ndarray, prediction: np.ndarray) -> float:
            return float(np.mean(np.abs(prediction - truth) / truth))

        own_abs_rel.__name__ = f"own_{align}"
        metric("depth", unit="1", better="lower", convention="as abs_rel", align=align)(own_abs_rel)
    own = DepthMetrics((0.5, 8))
    pairs = [(truth, prediction**3) for truth, prediction in frames(3)]
    for truth, prediction in pairs:
        own.add(truth, prediction)
    found = {m.name: m for m in own.measurements(None)}
    for align in ("scale_only", "none"):
        expected = [naive([pair], align, (0.5, 8))["abs_rel"] for pair in pairs]
        assert found[f"own_{align}"].value == pytest.approx(np.mean(expected))
        assert found[f"own_{align}"].samples == 3


def test_a_plugins_metric_sees_the_depths_that_the_scene_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the dataset's protocol, strictly between them, and a hundred pixels at least."""
    monkeypatch.setattr(METRICS, "_added", dict(METRICS._added))

    @metric("depth", unit="m", better=None, convention="largest truth", align="none")
    def largest_truth(truth: np.ndarray, prediction: np.ndarray) -> float:
        return float(truth.max() - truth.min())

    truth = np.linspace(0.5, 8.0, 151, dtype=np.float32)[None]  # 0.05 m apart
    for limits, expected in (((0.5, 8.0), 7.4), ((1.0, 6.05), 4.95), ((1.0, 6.0), None)):
        family = DepthFamily(DepthSettings(sequence_alignments=()), SceneContext(limits))
        family.add(Frame(0, 0.0, None, "made", None, truth, None), Prediction(0, 0.0, np.eye(4), truth))
        nothing = Trajectory(np.empty(0, np.int64), np.empty(0), np.empty((0, 4, 4)))
        found = {m.name: m for m in family.compute(ScoredScene(nothing, nothing, 1))}["largest_truth"]
        assert found.value == (None if expected is None else pytest.approx(expected, rel=1e-5))


def test_scale_only_and_lstsq_undo_what_they_can() -> None:
    truth = frames(1)[0][0]
    scorer = DepthScorer()
    scorer.update(0, truth, np.where(truth > 0, 0.5 * truth, 1).astype(np.float32))
    scorer.update(1, truth, np.where(truth > 0, 2 * truth + 3, 1).astype(np.float32))
    assert value(scorer, "rmse", "lstsq") < 1e-5
    assert value(scorer, "delta_1_25", "lstsq") == 100
    assert value(scorer, "rmse", "scale_only") > 0.1


def test_pixels_that_least_squares_makes_negative_are_outliers() -> None:
    """A prediction that runs against the truth: the fitted line goes below zero at its far end."""
    truth = np.full((20, 20), 1.0, dtype=np.float32)
    truth[:, 0] = 50.0
    prediction = np.full((20, 20), 1.0, dtype=np.float32)
    prediction[:, 0], prediction[:, 1] = 10.0, 0.01
    expected = naive([(truth, prediction)], "lstsq", (0, 80))
    moved = np.polyval(np.polyfit(prediction.ravel().astype(float), truth.ravel().astype(float), 1), 0.01)
    assert moved < 0, "the case must contain what it is about"
    scorer = DepthScorer(DepthSettings(alignments=("lstsq",)))
    scorer.update(0, truth, prediction)
    for name, figure in expected.items():
        assert value(scorer, name, "lstsq") == pytest.approx(figure, rel=1e-6), name
    assert value(scorer, "delta_1_25_3", "lstsq") <= 95


def test_depths_below_a_hundredth_of_a_millimetre_count_as_that() -> None:
    """In logarithms and ratios, on either side."""
    truth = np.full((20, 20), 1e-6, dtype=np.float32)
    for guess in (1e-5, 2e-6):
        scorer = DepthScorer(DepthSettings(alignments=("none",), sequence_alignments=()))
        scorer.update(0, truth, np.full((20, 20), guess, dtype=np.float32))
        assert value(scorer, "log_rmse", "none") == pytest.approx(0, abs=1e-6)
        assert value(scorer, "delta_1_25", "none") == 100


def test_ratio_of_exactly_the_threshold_is_outside() -> None:
    truth = np.full((20, 20), 4.0, dtype=np.float32)
    scorer = DepthScorer(DepthSettings(alignments=("none",), sequence_alignments=()))
    scorer.update(0, truth, np.full((20, 20), 5.0, dtype=np.float32))
    assert value(scorer, "delta_1_25", "none") == 0
    assert value(scorer, "delta_1_25_2", "none") == 100


def test_a_prediction_without_variation() -> None:
    truth = frames(1)[0][0]
    scorer = DepthScorer()
    assert scorer.update(0, truth, np.full(truth.shape, 7.0, dtype=np.float32)) is not None
    assert value(scorer, "rmse", "lstsq") == pytest.approx(np.std(truth[truth > 0].astype(float)), rel=1e-6)


def test_limits_are_open_and_infinity_is_no_truth() -> None:
    truth = np.array([[0.0, 1.0, 2.0, 3.0, 4.0, np.inf, np.nan]], dtype=np.float32)
    scorer = DepthScorer(DepthSettings(min_depth=1, max_depth=4, min_valid_pixels=2))
    scorer.update(0, truth, np.ones_like(truth))
    measured = by_name(scorer)["abs_rel", "none"]
    assert measured.samples == 2
    assert "pixels with 1 < truth < 4 m and prediction > 0" in measured.convention


def test_pixels_without_a_prediction_are_counted() -> None:
    truth = np.full((20, 20), 2.0, dtype=np.float32)
    prediction = truth.copy()
    prediction[0, :4] = [np.nan, np.inf, 0, -1]
    scorer = DepthScorer()
    scorer.update(0, truth, prediction)
    assert value(scorer, "unpredicted_pixels") == 1.0
    assert by_name(scorer)["unpredicted_pixels", ""].samples == 400
    assert value(scorer, "abs_rel", "none") == 0.0
    assert by_name(scorer)["abs_rel", "none"].samples == 396


def test_frames_that_cannot_be_scored_are_counted_by_reason() -> None:
    truth, prediction = frames(1)[0]
    sparse = np.zeros_like(truth)
    sparse.ravel()[:99] = 1.0
    good = np.full_like(truth, 2.0)
    scorer = DepthScorer()
    assert scorer.update(0, None, prediction) is None
    assert scorer.update(1, truth, None) is None
    assert scorer.update(2, sparse, good) is None
    assert scorer.update(3, sparse, -good) is None
    without = [m for m in scorer.compute(2.0) if m.value is None]
    assert {m.name for m in without} > {"abs_rel", "abs_rel_at_distance", "abs_rel_by_confidence", "sampling_error"}
    assert all("no frame could be scored" in (m.reason or "") and m.samples == 0 for m in without)
    assert by_name(scorer)["rmse", "none"].reason == (
        "no frame could be scored: 1 frames without true depth, 1 frames without predicted depth,"
        " 2 frames with too few valid pixels"
    )
    sparse.ravel()[99] = 1.0
    assert scorer.update(4, sparse, good) is not None, "100 valid pixels are enough"
    assert value(scorer, "frames_scored") == 1
    counts = [m.samples for m in scorer.compute() if m.name in ("frames_scored", "frames_skipped")]
    assert counts == [5, 5, 5, 5], "of so many frames"
    assert [value(scorer, "frames_skipped", v) for v in ("no_truth", "no_prediction", "few_valid_pixels")] == [1, 1, 2]
    # A frame whose every pixel lacks a prediction counts most among them.
    assert value(scorer, "unpredicted_pixels") == pytest.approx(100 * 99 / (99 + 99 + 100))


def test_nothing_given() -> None:
    """Not even the trajectory's scale, of which nobody knows yet."""
    found = by_name(DepthScorer())
    assert found["unpredicted_pixels", ""].reason == "no pixel with valid true depth"
    assert found["frames_scored", ""].value == 0
    others = {m.reason for m in found.values() if m.value is None and m.name != "unpredicted_pixels"}
    assert others == {"no frame was given"}


def test_a_frame_without_either_depth_lacks_the_truth() -> None:
    scorer = DepthScorer()
    assert scorer.update(0, None, None) is None
    assert [value(scorer, "frames_skipped", v) for v in ("no_truth", "no_prediction", "few_valid_pixels")] == [1, 0, 0]


def test_overflow_becomes_a_reason() -> None:
    truth = np.full((20, 20), 2.0, dtype=np.float32)
    prediction = np.full((20, 20), 1e300)
    scorer = DepthScorer(DepthSettings(alignments=("none",), sequence_alignments=()))
    scorer.update(0, truth, prediction)
    assert "not finite" in (by_name(scorer)["rmse", "none"].reason or "")
    assert value(scorer, "delta_1_25", "none") == 0


def test_shapes_that_differ_name_the_frame() -> None:
    with pytest.raises(DataError, match=r"frame 17: .*\(4, 5\).*\(5, 4\)"):
        DepthScorer().update(17, np.ones((5, 4), dtype=np.float32), np.ones((4, 5), dtype=np.float32))


def test_a_frame_without_predicted_depth_counts_in_the_family_as_in_the_scorer() -> None:
    """And its pixels count for nothing, as nobody knows whether they would have been predicted."""
    family = DepthFamily(DepthSettings(), SceneContext())
    truth, guess = frames(1)[0]
    rows = [
        family.add(Frame(index, 0.0, None, "made", None, truth, None), Prediction(index, 0.0, np.eye(4), depth))
        for index, depth in enumerate((None, guess))
    ]
    assert rows[0] == {"depth_abs_rel": None}
    assert rows[1]["depth_abs_rel"] is not None
    nothing = Trajectory(np.empty(0, np.int64), np.empty(0), np.empty((0, 4, 4)))
    found = {(m.name, m.variant): m for m in family.compute(ScoredScene(nothing, nothing, 2))}
    assert found["frames_skipped", "no_prediction"].value == 1
    assert found["unpredicted_pixels", ""].samples == np.count_nonzero(truth)


def test_inputs_are_left_alone() -> None:
    truth, prediction = frames(1)[0]
    before = truth.copy(), prediction.copy()
    DepthScorer().update(0, truth, prediction)
    np.testing.assert_array_equal(truth, before[0])
    np.testing.assert_array_equal(prediction, before[1])


def test_memory_does_not_grow_with_the_length() -> None:
    pairs = frames(1, shape=(200, 200))
    scorer = DepthScorer(DepthSettings(sample_pixels=1000))
    scorer.update(0, *pairs[0])
    tracemalloc.start()
    for index in range(1, 50):
        scorer.update(index, *pairs[0])
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 60_000  # one frame's pixels alone are 160,000 bytes


def test_settings_are_strict() -> None:
    for wrong in (
        {"max_depth": 0},
        {"max_depth": float("inf")},
        {"min_depth": -0.1},
        {"min_depth": 6, "max_depth": 5},
        {"alignments": ("median",)},
        {"alignments": ()},
        {"sequence_alignments": ("scale_only",)},
        {"sample_pixels": 999},
        {"sample_pixels": 50_000_001},
        {"min_valid_pixels": 1},
        {"maxdepth": 3},
    ):
        with pytest.raises(ValidationError):
            DepthSettings.model_validate(wrong)
    with pytest.raises(ValidationError, match=r"min_depth 5.0 must be smaller than max_depth 5.0"):
        DepthSettings(min_depth=5, max_depth=5)
    for name, twice in (("alignments", ["none", "lstsq", "none"]), ("sequence_alignments", ["video_scale"] * 2)):
        with pytest.raises(ValidationError, match=f"{name}\n.*each once, found {', '.join(twice)}"):
            DepthSettings.model_validate({name: twice})
    DepthSettings(sample_pixels=50_000_000, min_valid_pixels=2, min_depth=4.9, max_depth=5)


SEQUENCE = ("sequence_scale", "sequence_lstsq", "trajectory_scale")


def naive_sequence(pairs: list[tuple[np.ndarray, np.ndarray]], variant: str, scale: float) -> dict[str, float]:
    """One alignment of all pixels: the sequence as one tall frame."""
    tall = np.concatenate([t for t, _ in pairs]), np.concatenate([p for _, p in pairs])
    if variant == "trajectory_scale":
        return naive([(tall[0], scale * tall[1])], "none", (0, 80))
    return naive([tall], {"sequence_scale": "scale_only", "sequence_lstsq": "lstsq"}[variant], (0, 80))


def drifting_frames(count: int, shape: tuple[int, int] = (60, 80)) -> list[tuple[np.ndarray, np.ndarray]]:
    """The scale of the prediction grows by 2 % a frame."""
    return [(t, (p * 1.02**k).astype(np.float32)) for k, (t, p) in enumerate(frames(count, shape=shape))]


def test_alignments_of_the_sequence_are_exact_up_to_the_sample_size() -> None:
    pairs = drifting_frames(6)
    scorer = DepthScorer()
    for index, pair in enumerate(pairs):
        scorer.update(index, *pair)
    found = {(m.name, m.variant): m.value for m in scorer.compute(2.2)}
    for variant in SEQUENCE:
        for name, expected in naive_sequence(pairs, variant, 2.2).items():
            assert found[name, variant] == pytest.approx(expected, rel=1e-5), (name, variant)
    assert found["sampling_error", ""] == 0
    assert found["rmse", "sequence_scale"] > found["rmse", "scale_only"], "the drift shows only here"


def test_only_video_depth_is_clipped() -> None:
    """As its papers do; an alignment of ours lets a prediction be as far off as it is."""
    pairs = [(np.minimum(truth, 4.9), 4 * prediction**2) for truth, prediction in frames(3)]
    scorer = DepthScorer(DepthSettings(max_depth=5.0, sequence_alignments=("sequence_scale", "video_metric")))
    for index, pair in enumerate(pairs):
        scorer.update(index, *pair)
    found = {(m.name, m.variant): m for m in scorer.compute(3.0)}  # of the trajectory, in which these have no part
    tall = np.concatenate([t for t, _ in pairs]), np.concatenate([p for _, p in pairs])
    assert found["rmse", "sequence_scale"].value == pytest.approx(naive([tall], "scale_only", (0, 5))["rmse"], rel=1e-5)
    assert "clipped at 5 m" not in found["rmse", "sequence_scale"].convention
    assert "clipped at 5 m" in found["rmse", "video_metric"].convention
    clipped = naive([(tall[0], np.minimum(tall[1], 5.0))], "none", (0, 5))
    assert found["rmse", "video_metric"].value == pytest.approx(clipped["rmse"], rel=1e-5)


def test_scale_and_shift_are_sought_over_the_whole_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    """On few of its pixels, spread over it: of four frames one after the other is twice as deep as it seems."""
    pairs = [(truth, (truth / 2**k).astype(np.float32)) for k, (truth, _) in enumerate(frames(4))]
    scorer = DepthScorer(DepthSettings(sequence_alignments=("video_scale_shift",)))
    for index, pair in enumerate(pairs):
        scorer.update(index, *pair)
    whole = by_name(scorer)["abs_rel", "video_scale_shift"].value
    monkeypatch.setattr("lingbot_eval.metrics.depth_sample._WALKED_PIXELS", 500)
    assert by_name(scorer)["abs_rel", "video_scale_shift"].value == pytest.approx(whole, rel=0.05)


def relative_errors(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Of the valid pixels of a frame, under its own scale."""
    valid = (truth > 0) & np.isfinite(prediction)
    t, p = truth[valid].astype(float), prediction[valid].astype(float)
    return np.abs(p * np.median(t) / np.median(p) - t) / t


def test_a_sample_stays_within_its_stated_error() -> None:
    pairs = drifting_frames(20)
    scorer = DepthScorer(DepthSettings(sample_pixels=5000))
    for index, pair in enumerate(pairs):
        scorer.update(index, *pair)
    found = {(m.name, m.variant): m for m in scorer.compute(2.2)}
    bound = found["sampling_error", ""].value
    assert bound is not None
    # Standard errors of a mean of so many of so many pixels, whose spread is as theirs.
    kept, seen = found["sampling_error", ""].samples or 0, found["abs_rel", "scale_only"].samples or 0
    assert 2500 <= kept <= 5000 < seen
    errors = np.concatenate([relative_errors(*pair) for pair in pairs])
    assert bound == pytest.approx(1.96 * np.std(errors) * np.sqrt((1 - kept / seen) / kept), rel=0.1)
    for variant in SEQUENCE:
        measured = found["abs_rel", variant]
        assert 2500 <= (measured.samples or 0) <= 5000
        assert "sample of every" in measured.convention
        # Twice the bound: it holds for 95 % of samples, and under the alignment of single frames.
        assert measured.value == pytest.approx(naive_sequence(pairs, variant, 2.2)["abs_rel"], abs=2 * bound)


def test_of_half_the_pixels_the_other_half_is_in_doubt() -> None:
    """A sample of all of them is in no doubt: of every second pixel the bound is less than that of a few."""
    (pair,) = drifting_frames(1)
    scorer = DepthScorer(DepthSettings(sample_pixels=3000))
    scorer.update(0, *pair)
    found = {(m.name, m.variant): m for m in scorer.compute(2.2)}
    kept, seen = found["sampling_error", ""].samples or 0, found["abs_rel", "scale_only"].samples or 0
    assert kept / seen == pytest.approx(0.5, abs=0.02)
    bound = 1.96 * np.std(relative_errors(*pair)) * np.sqrt(0.5 / kept)
    assert found["sampling_error", ""].value == pytest.approx(bound, rel=0.05)


def test_a_first_frame_that_is_larger_than_the_sample_is_thinned_at_once() -> None:
    """Of 3,600 pixels or so in its one frame every fourth, as every second is too many."""
    scorer = DepthScorer(DepthSettings(sample_pixels=1000))
    scorer.update(0, *drifting_frames(1)[0])
    found = by_name(scorer)
    seen = found["abs_rel", "scale_only"].samples or 0
    assert 2000 < seen < 4000
    assert found["sampling_error", ""].samples == pytest.approx(seen / 4, abs=1)
    assert "a sample of every 4th valid pixel" in found["rmse", "sequence_scale"].convention


@pytest.mark.parametrize("seed", [113, 2520, 7])
@pytest.mark.parametrize("pixels", [1000, 1200])
def test_of_an_even_number_of_pixels_the_scale_is_between_the_two_middle_ones(seed: int, pixels: int) -> None:
    """For some orders of the pixels, of which these are, the lower middle one is not where a partition leaves it."""
    truth = np.random.default_rng(seed).uniform(0.3, 9, pixels).astype(np.float32)
    middle = np.sort(truth.astype(float))[pixels // 2 - 1 : pixels // 2 + 1].mean()
    found = DepthScorer().update(0, truth[None], np.full((1, pixels), 2, np.float32))
    assert found == pytest.approx(np.mean(np.abs(middle - truth) / truth), rel=1e-6)


def test_without_a_trajectory_its_scale_is_a_reason() -> None:
    scorer = DepthScorer()
    scorer.update(0, *frames(1)[0])
    found = by_name(scorer)
    assert "no Sim(3) alignment" in (found["rmse", "trajectory_scale"].reason or "")
    assert found["rmse", "sequence_scale"].value is not None


@pytest.mark.parametrize("scale", [2.5, None])
def test_the_family_takes_its_scale_from_the_trajectory(scale: float | None) -> None:
    """That by which the estimate's lengths are multiplied, and not the other way."""
    family = DepthFamily(DepthSettings(), SceneContext())
    pairs = frames(2)
    for index, (truth, guess) in enumerate(pairs):
        frame = Frame(index, 0.0, None, "made", None, truth, None)
        sure = Prediction(index, 0.0, np.eye(4), guess, depth_confidence=np.nan_to_num(guess))
        assert family.add(frame, sure)["depth_abs_rel"] is not None
    nothing = Trajectory(np.empty(0, np.int64), np.empty(0), np.empty((0, 4, 4)))
    # The scale of no other alignment stands in, whichever was asked for first.
    asked = {"se3": 1.0, "none": 3.0} | ({} if scale is None else {"sim3": scale}) | {"anchor": 5.0}
    moves = {name: Sim3(each, np.eye(3), np.zeros(3)) for name, each in asked.items()}
    score = TrajectoryScore((), np.empty(0, np.int64), np.empty((0, 3)), alignments=moves)
    found = {(m.name, m.variant): m for m in family.compute(ScoredScene(nothing, nothing, 2, trajectory=score))}
    assert found["confidence_rank_correlation", ""].value is not None, "of the confidence that the method gives"
    measured = found["abs_rel", "trajectory_scale"]
    if scale is None:
        assert "no Sim(3) alignment" in (measured.reason or "")
    else:
        expected = naive_sequence(pairs, "trajectory_scale", scale)["abs_rel"]
        assert measured.value == pytest.approx(expected, rel=1e-5)


def test_a_method_without_depth_says_so_of_every_figure() -> None:
    family = DepthFamily(DepthSettings(), SceneContext(gives_depth=False))
    truth = frames(1)[0][0]
    family.add(Frame(0, 0.0, None, "made", None, truth, None), Prediction(0, 0.0, np.eye(4), None))
    nothing = Trajectory(np.empty(0, np.int64), np.empty(0), np.empty((0, 4, 4)))
    found = family.compute(ScoredScene(nothing, nothing, 1))
    assert len(found) > 40
    reasons = {m.reason for m in found if m.value is None}
    assert reasons == {"the method gives no depth"}


def test_error_against_distance() -> None:
    """Exact below 4 m, 20 % off from there on; most pixels are near, so the scale is 1."""
    truth = np.full((40, 40), 1.5, dtype=np.float32)
    truth[:10], truth[10, :20] = 6.0, 4.0  # which is the first of its stretch
    truth[10, 20:25], truth[10, 25:32] = 64.0, 79.0
    scorer = DepthScorer()
    scorer.update(0, truth, np.where(truth >= 4, 1.2 * truth, truth).astype(np.float32))
    found = {m.variant: m for m in scorer.compute() if m.name == "abs_rel_at_distance"}
    assert found["1…2 m"].value == pytest.approx(0, abs=1e-7)
    assert found["4…8 m"].value == pytest.approx(0.2, rel=1e-5)
    assert found["4…8 m"].samples == 420
    assert found["above 64 m"].value == pytest.approx(0.2, rel=1e-5)
    assert found["above 64 m"].samples == 12
    assert found["32…64 m"].reason == "no pixel at this distance"


def test_calibration_of_the_confidence() -> None:
    rng = np.random.default_rng(0)
    truth = np.full((50, 50), 2.0, dtype=np.float32)
    error = rng.uniform(-0.3, 0.3, truth.shape).astype(np.float32)
    for confidence, correlation in ((1 - np.abs(error), -1.0), (np.abs(error), 1.0), (rng.random(truth.shape), 0.0)):
        scorer = DepthScorer(DepthSettings(alignments=("scale_only",)))
        scorer.update(0, truth, truth * (1 + error - np.median(error)), confidence.astype(np.float32))
        found = {(m.name, m.variant): m.value for m in scorer.compute()}
        assert found["confidence_rank_correlation", ""] == pytest.approx(correlation, abs=0.06)
    scorer = DepthScorer()
    scorer.update(0, truth, truth, np.ones_like(truth))
    for key in (("abs_rel_by_confidence", "tenth 1"), ("confidence_rank_correlation", "")):
        assert by_name(scorer)[key].reason == "the confidence is the same everywhere"
    with pytest.raises(DataError, match=r"frame 3: confidence of shape \(2, 2\) .* depth of shape \(50, 50\)"):
        scorer.update(3, truth, truth, np.ones((2, 2), dtype=np.float32))


@pytest.mark.parametrize(
    ("sure", "reason"), [(False, "the method gives no confidence"), (True, "the error is the same everywhere")]
)
def test_an_order_that_cannot_be_told_has_its_reason(sure: bool, reason: str) -> None:
    """Without confidence there are no tenths; of exact depth there are, and they are 0."""
    truth = np.full((20, 20), 2.0, dtype=np.float32)
    scorer = DepthScorer()
    scorer.update(0, truth, truth, np.arange(400, dtype=np.float32).reshape(20, 20) if sure else None)
    found = by_name(scorer)
    rank = found["confidence_rank_correlation", ""]
    assert (rank.value, rank.samples, rank.reason) == (None, 0, reason)
    tenth = found["abs_rel_by_confidence", "tenth 10"]
    assert (tenth.value, tenth.samples, tenth.reason) == ((0.0, 40, None) if sure else (None, 0, reason))


def test_tenths_of_the_confidence_go_from_least_to_most() -> None:
    """20 pixels a tenth, surest last and least wrong; six tenths are exact, so the scale is 1."""
    errors = [0.9, 0.8, 0.7, 0.6, 0, 0, 0, 0, 0, 0]
    truth = np.full((10, 20), 2.0, dtype=np.float32)
    prediction = truth * (1 + np.array(errors, dtype=np.float32)[:, None])
    confidence = np.repeat(np.arange(10, dtype=np.float32)[:, None], 20, axis=1)
    shuffled = np.random.default_rng(0).permutation(10)
    scorer = DepthScorer()
    scorer.update(0, truth, truth)  # of this one the method told no confidence
    # Pixels that do not count take their confidence with them: one without truth, one without a prediction.
    known, guess = (np.pad(each, ((0, 0), (2, 0)), constant_values=2.0) for each in (truth, prediction[shuffled]))
    known[:, 0], guess[:, 1] = 0.0, np.nan
    scorer.update(1, known, guess, np.pad(confidence[shuffled], ((0, 0), (2, 0)), constant_values=99.0))
    found = {m.variant: m for m in scorer.compute() if m.name == "abs_rel_by_confidence"}
    assert [found[f"tenth {k}"].value for k in range(1, 11)] == pytest.approx(errors, abs=1e-6)
    assert {m.samples for m in found.values()} == {20}
    assert "from least to most confident" in found["tenth 1"].convention


def test_pixels_of_one_confidence_stay_in_the_order_of_the_frames() -> None:
    """Of two frames the first is exact and the second is not; the method is as sure of both, but for one pixel."""
    truth = np.full((20, 20), 2.0, dtype=np.float32)
    off = truth.copy()
    off[:8] *= 1.5
    confidence = np.ones_like(truth)
    confidence[0, 0] = 2.0
    scorer = DepthScorer()
    scorer.update(0, truth, truth, np.ones_like(truth))
    scorer.update(1, truth, off, confidence)
    found = {m.variant: m.value for m in scorer.compute() if m.name == "abs_rel_by_confidence"}
    # 80 pixels a tenth: five tenths of the first frame, then 159 pixels that are half too far and the last of all.
    expected = [0, 0, 0, 0, 0, 0.5, 79 * 0.5 / 80, 0, 0, 0.5 / 80]
    assert [found[f"tenth {k}"] for k in range(1, 11)] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("pixels", "told"), [(9, False), (10, True)])
def test_ten_pixels_have_tenths_and_an_order(pixels: int, told: bool) -> None:
    truth = np.full((1, pixels), 2.0, dtype=np.float32)
    guess = truth * np.linspace(1, 2, pixels, dtype=np.float32)
    confidence = np.linspace(2, 1, pixels, dtype=np.float32)[None]
    scorer = DepthScorer(DepthSettings(min_valid_pixels=2))
    scorer.update(0, truth, guess, confidence)
    rank = by_name(scorer)["confidence_rank_correlation", ""]
    assert (rank.value is not None) is told
    assert rank.samples == (10 if told else 0)


def test_a_scale_of_video_depth_is_a_thousandth_at_least() -> None:
    truth = np.full((20, 20), 1.0, dtype=np.float32)
    scorer = DepthScorer(DepthSettings(sequence_alignments=("video_scale",)))
    scorer.update(0, truth, np.full((20, 20), 4000.0, dtype=np.float32))
    assert value(scorer, "abs_rel", "video_scale") == pytest.approx(3.0)


def test_a_full_sample_is_thinned_when_it_is_beyond_its_size() -> None:
    """1,000 pixels are all kept; of 1,010 every second one."""
    for pixels, kept in ((1000, 1000), (1010, 505)):
        scorer = DepthScorer(DepthSettings(sample_pixels=1000))
        scorer.update(0, np.full((10, pixels // 10), 2.0, np.float32), np.full((10, pixels // 10), 1.0, np.float32))
        found = by_name(scorer)
        assert found["sampling_error", ""].samples == kept
        words = (
            "all valid pixels of all frames" if kept == pixels else "a sample of every 2th valid pixel of each frame"
        )
        for key in (
            ("rmse", "sequence_scale"),
            ("abs_rel_at_distance", "2…4 m"),
            ("abs_rel_by_confidence", "tenth 1"),
            ("confidence_rank_correlation", ""),
        ):
            assert found[key].convention.endswith(words)


def test_a_sample_is_not_always_of_the_same_columns() -> None:
    """Every fourth column is half too far, and of a frame 20 pixels wide every sixteenth pixel may be one of them."""
    truth = np.full((20, 20), 2.0, dtype=np.float32)
    guess = truth.copy()
    guess[:, ::4] = 3.0
    scorer = DepthScorer(DepthSettings(sample_pixels=1000))
    for index in range(40):
        scorer.update(index, truth, guess)
    measured = by_name(scorer)["abs_rel", "sequence_scale"]
    assert "every 16th" in measured.convention
    assert measured.value == pytest.approx(0.125, abs=0.04)
