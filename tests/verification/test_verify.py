"""The shipped reference cases hold, and verify notices what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lingbot_eval.cli.main import main
from lingbot_eval.errors import ConfigError, DataError
from lingbot_eval.geometry.alignment import Sim3
from lingbot_eval.streaming.session import FrameOutput
from lingbot_eval.streaming.settings import FlowSettings, WindowedSettings
from lingbot_eval.streaming.windowed import WindowedSession
from lingbot_eval.types import FrameType
from lingbot_eval.verification import reproduce as reproduce_module
from lingbot_eval.verification import reproduce as run_module
from lingbot_eval.verification.cases import Case, Unsupported, load_cases, shipped_cases
from lingbot_eval.verification.compare import Comparison, compare, other_keyframes
from lingbot_eval.verification.reproduce import Setup, formula_image, reference_model, reproduce

FULL_SET = Path(__file__).parents[3] / "shared" / "conformance"


def test_the_shipped_cases_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["counts"] == {"pass": 44, "fail": 0, "unsupported": 0, "incomparable": 0}
    assert max(result["largest"] for result in report["results"]) < 2e-5


@pytest.mark.slow
@pytest.mark.skipif(not FULL_SET.is_dir(), reason="the full reference set is not beside the checkout")
def test_the_full_set_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(FULL_SET), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    held = {result["case"] for result in report["results"] if result["verdict"] == "pass"}
    assert {"stages", "full_size", "stream_clock_1060", "stream_basic"} <= held


@pytest.fixture
def one_case(tmp_path: Path) -> Path:
    """A folder with the smallest shipped case alone."""
    shipped = shipped_cases()
    settings = json.loads((shipped / "cases.json").read_text(encoding="utf-8"))["stream_short"]
    (tmp_path / "cases.json").write_text(json.dumps({"stream_short": settings}), encoding="utf-8")
    shutil.copy(shipped / "stream_short.npz", tmp_path)
    return tmp_path


def edit(folder: Path, **settings: object) -> None:
    path = folder / "cases.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["stream_short"] |= settings
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_wrong_number_fails_with_code_1(one_case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = dict(np.load(one_case / "stream_short.npz"))
    arrays["depth"][1, 2, 3] += 1e-3
    np.savez(one_case / "stream_short.npz", **arrays)
    assert main(["verify", str(one_case)]) == 1
    failed = [row for row in capsys.readouterr().out.splitlines() if "fail (" in row]
    assert len(failed) == 1
    assert failed[0].split()[:2] == ["stream_short", "depth"]


def test_an_array_that_is_not_produced_fails(one_case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = dict(np.load(one_case / "stream_short.npz"))
    np.savez(one_case / "stream_short.npz", **arrays, normals=np.zeros(3))
    assert main(["verify", str(one_case)]) == 1
    assert "no array of this name is produced" in capsys.readouterr().out


def test_a_wrong_setting_is_noticed(one_case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(one_case, image_phase=0.5)
    assert main(["verify", str(one_case)]) == 1
    assert "largest difference above" in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"kind": "backwards"}, {"brand_new": 3}])
def test_what_is_not_supported_is_listed_not_passed(
    one_case: Path, change: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((one_case / "cases.json").read_text(encoding="utf-8"))
    content = {"other": content["stream_short"] | change, **content}  # the one that comes first stops no other
    (one_case / "cases.json").write_text(json.dumps(content), encoding="utf-8")
    assert main(["verify", str(one_case)]) == 0
    out = capsys.readouterr().out
    assert "unsupported" in out
    assert "1 cases hold" in out
    # Nothing compared is not a pass.
    assert main(["verify", str(one_case), "--case", "other"]) == 2
    assert "none that could be" in capsys.readouterr().err


def test_bad_folders_are_one_line(one_case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def message(*arguments: str) -> str:
        assert main(["verify", *arguments]) == 2
        text = capsys.readouterr().err.strip()
        assert "\n" not in text
        return text

    assert "give a folder with cases.json" in message(str(tmp_path / "none"))
    assert "no case absent; there are stream_short" in message(str(one_case), "--case", "absent")
    (one_case / "stream_short.npz").write_bytes(b"PK\x03\x04 not a zip")
    assert "not a readable .npz" in message(str(one_case))
    (one_case / "stream_short.npz").unlink()
    assert "not there, though cases.json names" in message(str(one_case))
    (one_case / "stream_short.npz").write_bytes(b"")
    assert "not a readable .npz" in message(str(one_case))
    np.savez(one_case / "stream_short.npz")
    assert "expected the arrays of case 'stream_short', found none" in message(str(one_case))
    for content, text in {
        "{": "not readable as JSON",
        "[" * 100_000: "not readable as JSON",
        "{}": "expected cases named in letters, digits, '_', '-' and '.', found none",
        "[1]": "expected an object",
        '{"a": {}, "b": 1}': "expected an object",
        '{".x": {}}': "expected cases named in letters, digits, '_', '-' and '.', found '.x'",
        '{"a/../../x": {}}': "expected cases named in letters, digits, '_', '-' and '.', found 'a/../../x'",
        '{"../x": {}}': "expected cases named in letters, digits, '_', '-' and '.', found '../x'",
    }.items():
        (one_case / "cases.json").write_text(content, encoding="utf-8")
        assert text in message(str(one_case))
    assert "this machine has" in message("--device", "cuda:63")
    assert "expected auto, cpu, cuda or cuda:N" in message("--device", "banana")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"frames": None}, "expected frames, found none; a streaming case needs their number"),
        ({"frames": None, "kind": "windowed"}, "expected frames, found none; a windowed case needs their number"),
        ({"frames": -1}, "frames: input should be greater than or equal to 1, found -1"),
        ({"frames": "x"}, "frames: "),
        ({"rows": [0, 99]}, "expected rows among its 3 frames"),
        ({"rows": [3]}, r"expected rows among its 3 frames, found \[3\]"),
        ({"rows": [-1]}, "rows.0: "),
        ({"rows": []}, "expected rows among its 3 frames"),
    ],
)
def test_wrong_settings_are_refused(one_case: Path, change: dict[str, object], text: str) -> None:
    edit(one_case, **change)
    with pytest.raises(DataError, match=f"case stream_short: {text}"):
        load_cases(one_case)


def test_cases_parse(one_case: Path) -> None:
    assert isinstance(load_cases(one_case).cases["stream_short"], Case)
    edit(one_case, kind="backwards")
    assert isinstance(load_cases(one_case).cases["stream_short"], Unsupported)


def test_formula_image_is_the_formula() -> None:
    case = Case(kind="streaming", height=14, width=28, scale_frames=1, window=1, image_phase=0.3)
    image = formula_image(5, case)
    wanted = 0.5 + 0.5 * np.sin(0.13 * (11 + 15) + 0.29 * 7 * (1 + 0.6) + 3.5 + 2 + 0.3)
    assert image.shape == (3, 14, 28)
    assert image.dtype is torch.float32
    assert float(image[2, 7, 11]) == pytest.approx(wanted, abs=1e-7)


def test_other_keyframes_are_told_apart_from_wrong_numbers() -> None:
    wanted = {"frame_type": np.array([0, 1, 2, 1], dtype=np.uint8)}
    assert other_keyframes(wanted, wanted) == ""
    found = {"frame_type": np.array([0, 1, 1, 2], dtype=np.uint8)}
    assert other_keyframes(found, wanted) == "low precision chose other keyframes, first at row 2"


@pytest.mark.parametrize(
    ("precision", "threshold", "verdict"),
    [("bfloat16", 5.0, "incomparable"), ("float32", 5.0, "fail"), ("bfloat16", None, "fail"), ("float16", 0, "fail")],
)
def test_other_keyframes_by_flow_are_forgiven_in_low_precision_alone(
    one_case: Path, monkeypatch: pytest.MonkeyPatch, precision: str, threshold: float | None, verdict: str
) -> None:
    edit(one_case, flow_threshold=threshold)
    cases = load_cases(one_case)
    found = cases.reference("stream_short")
    found["frame_type"] = found["frame_type"][::-1] + np.uint8(1)
    monkeypatch.setattr(run_module, "reference_model", lambda case, setup: None)
    monkeypatch.setattr(run_module, "reproduce", lambda case, setup, model: found)
    results = list(run_module.verify(cases, Setup("sdpa", precision, torch.device("cpu"))))
    assert {(r.array, r.verdict) for r in results if r.verdict != "pass"} == {
        ("frame_type" if verdict == "fail" else "", verdict)
    }


def test_joins_of_windows_are_told_as_they_were_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[WindowedSession] = []
    whole = reproduce_module.open_session

    def opened(*args: Any, **settings: Any) -> WindowedSession:
        session = whole(*args, **settings)
        assert isinstance(session, WindowedSession)
        sessions.append(session)
        return session

    monkeypatch.setattr(reproduce_module, "open_session", opened)
    sizes = {
        "frames": 9,
        "height": 28,
        "width": 28,
        "scale_frames": 2,
        "window": 4,
        "window_size": 5,
        "overlap_size": 2,
    }
    case = Case.model_validate({"kind": "windowed", "camera_iterations": 1, **sizes})
    setup = Setup("sdpa", "float32", torch.device("cpu"))
    arrays = reproduce(case, setup, reference_model(case, setup))
    (session,) = sessions
    assert len(session.joins) > 2
    assert session.joins[-1].scale != pytest.approx(1, abs=1e-3)
    assert arrays["chunk_scales"].tolist() == [join.scale for join in session.joins]
    for matrix, join in zip(arrays["chunk_transforms"], session.joins, strict=True):
        assert np.array_equal(matrix[:3, :3], join.rotation)
        assert np.array_equal(matrix[:3, 3], join.translation)


WANTED = np.linspace(1, 2, 40, dtype=np.float32).reshape(20, 2)
MEDIAN = 1.5
"""Of WANTED: what is smaller counts against it, so that a number near zero does not blow up."""
HOLES = np.where(WANTED > 1.9, np.nan, WANTED)
FAR = np.where(WANTED > 1.9, np.inf, WANTED)
TYPES = np.array([0, 1, 2, 2], dtype=np.uint8)
ONES = np.ones((20, 2))
GROWING = ONES + np.linspace(1e-4, 9e-3, 20)[:, None]
STEADY = ONES + np.linspace(4e-3, 7e-3, 20)[:, None]
SMALL = ONES + np.linspace(1e-5, 9e-4, 20)[:, None]
GROWS = "difference grows along the frames: 1.0e-03 in the first quarter, 8.1e-03 in the last"
EIGHT = [0, 1, 8, 9, 10, 11, 18, 19]
MOSTLY_NONE = np.where(np.arange(20)[:, None] < 15, np.nan, WANTED)


@pytest.mark.parametrize(
    ("name", "found", "wanted", "precision", "settings", "verdict", "reason"),
    [
        ("a", WANTED + 5e-5, WANTED, "float32", {}, "pass", ""),
        ("a", WANTED + 2e-4, WANTED, "float32", {}, "fail", "largest difference above 0.0001"),
        ("a", None, WANTED, "float32", {}, "fail", "no array of this name is produced"),
        ("a", WANTED[:3], WANTED, "float32", {}, "fail", "shape (3, 2), reference (20, 2)"),
        ("a", HOLES, WANTED, "float32", {}, "fail", "not finite where the reference is, or the other way round"),
        ("a", WANTED, HOLES, "float32", {}, "fail", "not finite where the reference is, or the other way round"),
        ("a", HOLES, HOLES, "float32", {}, "pass", ""),
        ("a", WANTED, FAR, "float32", {}, "fail", "not finite where the reference is, or the other way round"),
        ("a", FAR, WANTED, "bfloat16", {}, "fail", "not finite where the reference is, or the other way round"),
        ("a", np.full(3, np.nan), np.full(3, np.nan), "float32", {}, "pass", ""),
        ("a", np.full(3, np.nan), np.full(3, np.nan), "bfloat16", {}, "pass", ""),
        # Entries that neither side has say nothing of how far the others are off.
        ("a", MOSTLY_NONE * 1.02, MOSTLY_NONE, "bfloat16", {}, "fail", "median relative difference above 0.01"),
        ("a", WANTED * 1.009, WANTED, "bfloat16", {}, "pass", ""),
        ("a", WANTED * 1.011, WANTED, "float16", {}, "fail", "median relative difference above 0.01"),
        # 8-bit caches are looser than float32 and tighter than half precision, whose tolerance holds for both.
        ("a", WANTED * 1.0019, WANTED, "float32", {"cache_precision": 8}, "pass", ""),
        (
            *("a", WANTED * 1.0021, WANTED, "float32", {"cache_precision": 8}, "fail"),
            "median relative difference above 0.002",
        ),
        ("a", WANTED * 1.009, WANTED, "bfloat16", {"cache_precision": 8}, "pass", ""),
        ("flow_pixels", WANTED * 1.045, WANTED, "bfloat16", {}, "pass", ""),
        ("flow_pixels", WANTED * 1.055, WANTED, "bfloat16", {}, "fail", "median relative difference above 0.05"),
        ("flow_pixels", WANTED * 1.045, WANTED, "float32", {}, "fail", "largest difference above 0.0001"),
        ("flow_pixels", WANTED * 1.045, WANTED, "float32", {"cache_precision": 8}, "pass", ""),
        *(
            (name, GROWING, ONES, "bfloat16", {}, "fail", GROWS)
            for name in ("pose_enc", "depth", "depth_conf", "world_points", "world_points_conf")
        ),
        ("patch_tokens_scale", GROWING, ONES, "bfloat16", {}, "pass", ""),  # rows are no frames
        ("depth", GROWING, ONES, "bfloat16", {"one_stream": False}, "pass", ""),
        ("depth", STEADY, ONES, "bfloat16", {}, "pass", ""),  # less than twice as much
        ("depth", SMALL, ONES, "bfloat16", {}, "pass", ""),  # a tenth of the tolerance at most
        ("depth", ONES + 1.3 * (SMALL - ONES), ONES, "bfloat16", {}, "fail", "difference grows"),
        ("depth", ONES + 1.3 * (SMALL - ONES), ONES, "float32", {"cache_precision": 8}, "fail", "difference grows"),
        ("depth", GROWING[::3], ONES[::3], "bfloat16", {}, "pass", ""),  # of 7 frames nothing is said
        ("depth", GROWING[EIGHT], ONES[EIGHT], "bfloat16", {}, "fail", "difference grows"),
        ("a", TYPES, TYPES, "bfloat16", {}, "pass", ""),
        ("a", TYPES[::-1], TYPES, "bfloat16", {}, "fail", "4 entries differ"),
    ],
)
def test_verdicts(
    name: str,
    found: Any,
    wanted: np.ndarray,
    precision: str,
    settings: dict[str, Any],
    verdict: str,
    reason: str,
) -> None:
    result = compare("c", name, found, wanted, precision, **settings)
    assert (result.case, result.array, result.verdict) == ("c", name, verdict)
    assert result.reason.startswith(reason) if reason else not result.reason


@pytest.mark.parametrize("where", [(slice(15, None), 0), 17])
def test_one_far_pixel_of_each_frame_or_one_far_frame_is_no_growth(where: Any) -> None:
    odd = np.ones((20, 3))
    odd[where] += 1
    assert compare("c", "depth", odd, np.ones((20, 3)), "bfloat16").verdict == "pass"
    odd[15:] += 2e-3
    assert compare("c", "depth", odd, np.ones((20, 3)), "bfloat16").verdict == "fail"
    # Frames that differ at first, and less and less.
    assert compare("c", "depth", GROWING[::-1], ONES, "bfloat16").verdict == "pass"


def test_both_numbers_of_a_comparison() -> None:
    """A few pixels far off are no fault of low precision: the median decides, and both are shown."""
    odd = WANTED * 1.005
    odd.flat[0] = 1e3
    found = compare("c", "a", odd, WANTED, "bfloat16")
    assert (found.verdict, found.largest) == ("pass", pytest.approx(999, rel=1e-6))
    # Below the median of the reference the difference counts against that: 0.005 of it at most.
    relative = 0.005 * WANTED / np.maximum(WANTED, MEDIAN)
    relative.flat[0] = 999 / MEDIAN
    assert found.median_relative == pytest.approx(float(np.median(relative)), rel=1e-3)
    negative = compare("c", "a", -odd, -WANTED, "bfloat16")
    assert negative.median_relative == pytest.approx(found.median_relative)
    nothing = compare("c", "a", np.full(3, 0.25), np.zeros(3), "bfloat16")
    assert (nothing.largest, nothing.median_relative) == (0.25, 0.25)
    unsigned = compare("c", "a", np.array([1, 9], np.uint8), np.array([4, 9], np.uint8), "float32")
    assert (unsigned.largest, unsigned.median_relative, unsigned.reason) == (3.0, None, "1 entries differ")


CASE: dict[str, Any] = {
    "kind": "windowed",
    "frames": 30,
    "height": 28,
    "width": 42,
    "scale_frames": 5,
    "window": 6,
    "keyframe_interval": 7,
    "camera_iterations": 3,
    "flow_threshold": 1.5,
    "max_non_keyframe_gap": 9,
    "window_size": 11,
    "overlap_size": 8,
}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (
            {**CASE, "kind": "streaming", "keyframe_interval": "auto"},
            {"flow": {"threshold": 1.5, "max_gap": 9}, "windowed": None, "keyframe_interval": "auto"},
        ),
        # A threshold of nothing is no flow.
        *(
            (
                {**CASE, "flow_threshold": threshold},
                {"flow": None, "windowed": {"size": 11, "overlap_size": 8, "overlap_keyframes": None}},
            )
            for threshold in (None, 0)
        ),
        (
            {**CASE, "overlap_size": None, "overlap_keyframes": 2, "window_size": None, "max_non_keyframe_gap": None},
            {
                "flow": {"threshold": 1.5, "max_gap": FlowSettings(threshold=1.0).max_gap},
                "windowed": {"size": WindowedSettings().size, "overlap_size": None, "overlap_keyframes": 2},
            },
        ),
    ],
)
def test_every_setting_of_a_case_reaches_its_stream(
    monkeypatch: pytest.MonkeyPatch, case: dict[str, Any], expected: dict[str, Any]
) -> None:
    told: list[tuple[Any, dict[str, Any]]] = []

    def opened(model: Any, settings: Any, **given: Any) -> None:
        told.append((settings, given))
        raise InterruptedError

    monkeypatch.setattr(reproduce_module, "open_session", opened)
    known = Case.model_validate(case)
    setup = Setup("paged", "float32", torch.device("cpu"), 8)
    with pytest.raises(InterruptedError):
        reproduce(known, setup, None)  # type: ignore[arg-type]
    with pytest.raises(InterruptedError):
        reproduce(known.model_copy(update={"kind": "stages"}), setup, None)  # type: ignore[arg-type]
    (settings, given), (_, of_stages) = told
    common = {"scale_frames": 5, "window": 6, "keyframe_interval": 7, "backend": "paged", "cache_precision": 8}
    assert settings.model_dump(mode="json") == common | expected
    assert given == {"frames": 30, "camera_iterations": 3}
    assert of_stages == {"frames": None, "camera_iterations": 3}


def test_settings_that_a_case_leaves_out() -> None:
    case = Case(kind="stages", height=14, width=14, scale_frames=1, window=1)
    told = case.model_dump(exclude={"kind", "height", "width", "scale_frames", "window"})
    nothing = dict.fromkeys(told)
    assert told == nothing | {
        "model": "mini",
        "image_phase": 0.0,
        "keyframe_interval": 1,
        "camera_iterations": 4,
        "point_head": False,
    }


def test_a_network_is_built_once_for_the_cases_that_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the verdict on each array is asked for as its case and the setup say."""
    cases = {
        "a": {"point_head": False},
        "b": {"point_head": False},
        "c": {"point_head": True},
        "d": {"point_head": True, "model": "full"},
        "e": {"kind": "windowed"},
    }
    usual = {"kind": "streaming", "frames": 1, "height": 14, "width": 14, "scale_frames": 1, "window": 1}
    (tmp_path / "cases.json").write_text(json.dumps({name: usual | changes for name, changes in cases.items()}))
    for name in cases:
        np.savez(tmp_path / f"{name}.npz", depth=np.zeros(1), pose_enc=np.ones(1))
    built: list[Case] = []
    compared: list[tuple[str, str, str, int | None, bool]] = []

    def build(case: Case, setup: Setup) -> Case:
        built.append(case)
        return case

    def looked_at(case: str, name: str, found: Any, wanted: Any, precision: str, **settings: Any) -> Comparison:
        compared.append((case, name, precision, settings["cache_precision"], settings["one_stream"]))
        assert found is not wanted
        return Comparison(case, name, None, None, "pass")

    monkeypatch.setattr(run_module, "reference_model", build)
    monkeypatch.setattr(run_module, "reproduce", lambda case, setup, model: {"depth": np.zeros(1), "network": model})
    monkeypatch.setattr(run_module, "compare", looked_at)
    list(run_module.verify(load_cases(tmp_path), Setup("sdpa", "bfloat16", torch.device("cpu"), 8)))
    assert [(case.model, case.point_head) for case in built] == [
        ("mini", False),
        ("mini", True),
        ("full", True),
        ("mini", False),
    ]
    assert compared == [(name, array, "bfloat16", 8, name != "e") for name in cases for array in ("depth", "pose_enc")]


def test_the_printed_table_and_its_last_line(
    one_case: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [
        Comparison("one", "depth", 1.25e-5, None, "pass"),
        Comparison("one", "pose_enc", None, 2.5e-3, "pass"),
        Comparison("two", "depth", 1.0, 0.5, "fail", "largest difference above 0.0001"),
        Comparison("two", "pose_enc", 0.0, 0.0, "pass"),
        Comparison("three", "", None, None, "unsupported", "kind = 'x' is not supported"),
        Comparison("four", "", None, None, "incomparable", "other keyframes"),
        Comparison("five", "depth", 0.0, 0.0, "pass"),
    ]
    monkeypatch.setattr(run_module, "verify", lambda cases, setup: iter(told))
    words = ["verify", str(one_case), "--backend", "paged", "--dtype", "bfloat16", "--cache-precision", "8"]
    assert main(words) == 1
    head, columns, *rows, last = capsys.readouterr().out.splitlines()
    assert head == "backend paged, bfloat16, keys and values in 8 bits, cpu"
    assert columns.split() == ["case", "array", "largest", "median", "rel", "verdict"]
    assert rows[0] == f"{'one':<24} {'depth':<22} {'1.25e-05':>10} {'':>11}  pass"
    assert rows[1] == f"{'one':<24} {'pose_enc':<22} {'':>10} {'2.50e-03':>11}  pass"
    assert rows[2].endswith("1.00e+00    5.00e-01  fail (largest difference above 0.0001)")
    words_of_it = "2 cases hold (4 arrays), 1 arrays failed, 1 cases not supported, 1 not comparable; "
    assert last.startswith(words_of_it)
    assert main([*words, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert {key: document[key] for key in ("backend", "dtype", "cache_precision", "device", "counts")} == {
        "backend": "paged",
        "dtype": "bfloat16",
        "cache_precision": 8,
        "device": "cpu",
        "counts": {"pass": 4, "fail": 1, "unsupported": 1, "incomparable": 1},
    }
    assert document["results"][2] == {
        "case": "two",
        "array": "depth",
        "largest": 1.0,
        "median_relative": 0.5,
        "verdict": "fail",
        "reason": "largest difference above 0.0001",
    }
    # What failed was compared, also where nothing else was.
    for kept, code in ((told[2:3], 1), (told[2:3] + told[4:6], 1), (told[4:5] + told[6:], 0), (told[4:6], 2)):
        monkeypatch.setattr(run_module, "verify", lambda cases, setup, kept=kept: iter(kept))
        assert main([*words, "--json"]) == code


def test_chosen_cases_come_in_the_order_in_which_they_were_asked_for(one_case: Path) -> None:
    path = one_case / "cases.json"
    settings = json.loads(path.read_text())["stream_short"]
    path.write_text(json.dumps(dict.fromkeys(("b", "a", "c"), settings)))
    assert list(load_cases(one_case).cases) == ["b", "a", "c"]
    assert list(load_cases(one_case, ("c", "b")).cases) == ["c", "b"]
    with pytest.raises(ConfigError, match="no case x, y; there are a, b, c"):
        load_cases(one_case, ("x", "a", "y"))


def made_up(index: int, kind: FrameType, *, points: bool, flow: float | None = None) -> FrameOutput:
    """Values that tell the frame and what they are."""
    image = torch.full((4, 6), float(index))
    return FrameOutput(
        index,
        kind,
        torch.arange(9.0) + 10 * index,
        image + 0.1,
        image + 0.2,
        points=torch.full((4, 6, 3), index + 0.3) if points else None,
        points_confidence=image + 0.4 if points else None,
        flow_pixels=flow,
    )


class Late:
    """A session whose outputs come two frames late, the last ones at the end; every second one judged by flow."""

    def __init__(self, points: bool) -> None:
        self.points, self.seen = points, 0
        self.held: list[FrameOutput] = []
        self.images: list[torch.Tensor] = []

    def step(self, image: torch.Tensor) -> list[FrameOutput]:
        self.images.append(image)
        kind = (FrameType.SCALE, FrameType.KEPT, FrameType.UNKEPT)[min(self.seen, 1 + self.seen % 2)]
        flow = 0.5 * self.seen if self.seen % 2 else None
        self.held.append(made_up(self.seen, kind, points=self.points, flow=flow))
        self.seen += 1
        return [self.held.pop(0)] if len(self.held) > 2 else []

    def finish(self) -> list[FrameOutput]:
        return self.held


class LateWindows(Late, WindowedSession):
    """The same, said to have been cut into windows."""

    def __init__(self, joins: list[Sim3]) -> None:
        Late.__init__(self, points=False)
        self.joins = joins

    @property
    def windows(self) -> int:
        return len(self.joins)


@pytest.mark.parametrize(("rows", "points"), [(None, False), ((0, 3, 4), True), ((2,), False)])
def test_arrays_of_a_stream_are_those_of_its_rows(
    monkeypatch: pytest.MonkeyPatch, rows: tuple[int, ...] | None, points: bool
) -> None:
    session = Late(points)
    monkeypatch.setattr(reproduce_module, "open_session", lambda *args, **settings: session)
    case = Case(kind="streaming", frames=6, height=14, width=28, scale_frames=1, window=1, rows=rows, image_phase=0.3)
    arrays = reproduce(case, Setup("sdpa", "float32", torch.device("cpu")), None)  # type: ignore[arg-type]
    taken = list(range(6) if rows is None else rows)
    assert [torch.equal(image, formula_image(frame, case)) for frame, image in enumerate(session.images)] == [True] * 6
    shapes = {"pose_enc": (9,), "depth": (4, 6, 1), "depth_conf": (4, 6), "frame_type": (), "flow_pixels": ()}
    shapes |= {"world_points": (4, 6, 3), "world_points_conf": (4, 6)} if points else {}
    assert {name: array.shape for name, array in arrays.items()} == {
        name: (len(taken), *shape) for name, shape in shapes.items()
    }
    offsets = {"depth": 0.1, "depth_conf": 0.2} | ({"world_points": 0.3, "world_points_conf": 0.4} if points else {})
    for name, offset in offsets.items():
        assert arrays[name].reshape(len(taken), -1)[:, 0] == pytest.approx([row + offset for row in taken]), name
    assert arrays["pose_enc"].tolist() == [[number + 10.0 * row for number in range(9)] for row in taken]
    assert arrays["frame_type"].dtype == np.uint8
    kinds = (FrameType.SCALE, FrameType.KEPT, FrameType.UNKEPT)
    assert arrays["frame_type"].tolist() == [int(kinds[min(row, 1 + row % 2)]) for row in taken]
    np.testing.assert_array_equal(arrays["flow_pixels"], [0.5 * row if row % 2 else np.nan for row in taken])


JOINS = [Sim3.identity(), Sim3(2.5, np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([3.0, 4, 5]))]


@pytest.mark.parametrize(
    ("joins", "flow", "again"), [(JOINS, 5.0, False), (JOINS[:1], 5.0, True), (JOINS[:1], None, False)]
)
def test_one_flow_window_is_a_stream(
    monkeypatch: pytest.MonkeyPatch, joins: list[Sim3], flow: float | None, again: bool
) -> None:
    """Which the reference returns as the network gave it, without joins; several windows have theirs."""
    told: list[Any] = []

    def opened(model: Any, settings: Any, **given: Any) -> Late:
        told.append(settings.windowed)
        return Late(points=False) if settings.windowed is None else LateWindows(joins)

    monkeypatch.setattr(reproduce_module, "open_session", opened)
    sizes = {"frames": 6, "height": 14, "width": 14, "scale_frames": 2, "window": 4, "window_size": 5}
    case = Case.model_validate({"kind": "windowed", "overlap_size": 2, "flow_threshold": flow, **sizes})
    arrays = reproduce(case, Setup("sdpa", "float32", torch.device("cpu")), None)  # type: ignore[arg-type]
    assert [windowed is None for windowed in told] == ([False, True] if again else [False])
    if again:
        assert not {"chunk_scales", "chunk_transforms"} & arrays.keys()
        return
    assert arrays["chunk_scales"].tolist() == [join.scale for join in joins]
    wanted = [np.eye(4), [[0, -1, 0, 3], [1, 0, 0, 4], [0, 0, 1, 5], [0, 0, 0, 1]]][: len(joins)]
    np.testing.assert_array_equal(arrays["chunk_transforms"], wanted)


def test_a_difference_at_its_tolerance_is_near_enough() -> None:
    exact = compare("c", "a", np.array([1 + 1e-4, 2.0]) - 1, np.array([0.0, 1.0]), "float32")
    assert exact.largest == pytest.approx(1e-4)
    for precision, cache, tolerance in (("bfloat16", None, 1e-2), ("float32", 8, 2e-3), ("float16", 8, 1e-2)):
        for factor, verdict in ((0.999, "pass"), (1.001, "fail")):
            found = compare("c", "a", np.full(3, 1 + factor * tolerance), np.ones(3), precision, cache_precision=cache)
            assert (found.verdict, found.median_relative) == (verdict, pytest.approx(factor * tolerance))


@pytest.mark.parametrize(("cache_precision", "verdict"), [(8, "incomparable"), (None, "fail")])
def test_a_cache_in_8_bits_is_low_precision(
    one_case: Path, monkeypatch: pytest.MonkeyPatch, cache_precision: Any, verdict: str
) -> None:
    edit(one_case, flow_threshold=5.0)
    cases = load_cases(one_case)
    found = cases.reference("stream_short")
    found["frame_type"] = found["frame_type"] + np.uint8(1)
    monkeypatch.setattr(run_module, "reference_model", lambda case, setup: None)
    monkeypatch.setattr(run_module, "reproduce", lambda case, setup, model: found)
    results = list(run_module.verify(cases, Setup("sdpa", "float32", torch.device("cpu"), cache_precision)))
    (other,) = [(r.array, r.verdict, r.reason) for r in results if r.verdict != "pass"]
    assert other == (
        ("", "incomparable", "low precision chose other keyframes, first at row 0")
        if verdict == "incomparable"
        else ("frame_type", "fail", "3 entries differ")
    )
    # A number of frames of its own is no other choice of keyframes, and a case without flow has none to choose.
    assert other_keyframes({"frame_type": np.zeros(2)}, {"frame_type": np.ones(3)}) == ""
    assert other_keyframes({}, {"frame_type": np.ones(3)}) == other_keyframes({"frame_type": np.ones(3)}, {}) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "backwards"}, "kind = 'backwards' is not supported"),
        ({"model": "huge"}, "model = 'huge' is not supported"),
        ({"brand_new": 3}, "brand_new = 3 is not supported"),
    ],
)
def test_why_a_case_is_not_supported(
    one_case: Path, change: dict[str, object], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(one_case, **change)
    assert main(["verify", str(one_case)]) == 2
    printed = capsys.readouterr()
    _, _, row, last = printed.out.splitlines()
    assert row == f"{'stream_short':<24} {'':<22} {'':>10} {'':>11}  unsupported ({reason})"
    assert last.startswith("0 cases hold (0 arrays), 0 arrays failed, 1 cases not supported, 0 not comparable; ")
    said = "error: expected cases to compare, found none that could be; see the reasons above"
    assert printed.err.splitlines() == [said]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in ("frames", "height", "width", "scale_frames", "window", "keyframe_interval")),
        *((name, 0) for name in ("camera_iterations", "max_non_keyframe_gap", "window_size")),
        *((name, 0) for name in ("overlap_size", "overlap_keyframes")),
        ("flow_threshold", -0.1),
    ],
)
def test_numbers_that_no_case_may_have(one_case: Path, name: str, value: float) -> None:
    edit(one_case, **{name: value})
    with pytest.raises(DataError, match=rf"case stream_short: {name}.*, found {value}$"):
        load_cases(one_case)
    edit(one_case, **{name: 1})
    assert isinstance(load_cases(one_case).cases["stream_short"], Case)


def test_what_is_asked_of_the_command_is_what_is_run(
    one_case: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Path, list[str], Setup]] = []

    def verified(cases: Any, setup: Setup) -> Any:
        asked.append((cases.folder, list(cases.cases), setup))
        return iter([Comparison("a", "depth", 0.0, None, "pass")])

    monkeypatch.setattr(run_module, "verify", verified)
    cpu = torch.device("cpu")
    words = ["verify", "--case", "stream_short", "--case", "stages", "--dtype", "float16", "--backend", "paged"]
    assert main([*words, "--cache-precision", "8", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["dtype"], document["backend"], document["cache_precision"]) == ("float16", "paged", 8)
    assert main(["verify", str(one_case)]) == 0
    head, _, _, last = capsys.readouterr().out.splitlines()
    assert head == "backend sdpa, float32, cpu"
    assert last.startswith("1 cases hold (1 arrays), 0 arrays failed, 0 cases not supported, 0 not comparable; 0 s")
    assert asked == [
        (shipped_cases(), ["stream_short", "stages"], Setup("paged", "float16", cpu, 8)),
        (one_case, ["stream_short"], Setup("sdpa", "float32", cpu)),
    ]
