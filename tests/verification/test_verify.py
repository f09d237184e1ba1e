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
from lingbot_eval.errors import DataError
from lingbot_eval.streaming.windowed import WindowedSession
from lingbot_eval.verification import reproduce as reproduce_module
from lingbot_eval.verification import run as run_module
from lingbot_eval.verification.cases import Case, Unsupported, load_cases, shipped_cases
from lingbot_eval.verification.compare import compare, other_keyframes
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
    content["other"] = content["stream_short"] | change
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
    assert "found none" in message(str(one_case))
    for content, text in {
        "{": "not readable as JSON",
        "[" * 100_000: "not readable as JSON",
        "{}": "expected cases named",
        "[1]": "expected an object",
        '{"../x": {}}': "expected cases named in letters",
    }.items():
        (one_case / "cases.json").write_text(content, encoding="utf-8")
        assert text in message(str(one_case))
    assert "this machine has" in message("--device", "cuda:63")
    assert "expected auto, cpu, cuda or cuda:N" in message("--device", "banana")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"frames": None}, "expected frames, found none"),
        ({"frames": -1}, "frames: input should be greater than or equal to 1, found -1"),
        ({"frames": "x"}, "frames: "),
        ({"rows": [0, 99]}, "expected rows among its 3 frames"),
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


@pytest.mark.parametrize(("precision", "verdict"), [("bfloat16", "incomparable"), ("float32", "fail")])
def test_other_keyframes_are_forgiven_in_low_precision_alone(
    one_case: Path, monkeypatch: pytest.MonkeyPatch, precision: str, verdict: str
) -> None:
    edit(one_case, flow_threshold=5.0)
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


def test_verdicts() -> None:
    wanted = np.linspace(1, 2, 40, dtype=np.float32).reshape(20, 2)
    assert compare("c", "a", wanted + 5e-5, wanted, "float32").verdict == "pass"
    assert compare("c", "a", wanted + 2e-4, wanted, "float32").verdict == "fail"
    assert compare("c", "a", wanted[:3], wanted, "float32").verdict == "fail"
    assert compare("c", "a", np.where(wanted > 1.9, np.nan, wanted), wanted, "float32").verdict == "fail"
    assert compare("c", "a", wanted * 1.005, wanted, "bfloat16").verdict == "pass"
    # A few pixels far off are no fault of low precision: the median decides, and is what is shown.
    odd = wanted * 1.005
    odd.flat[0] = 1e3
    found = compare("c", "a", odd, wanted, "bfloat16")
    assert found.verdict == "pass"
    assert found.median_relative == pytest.approx(0.005, rel=0.5)
    assert compare("c", "a", wanted * 1.05, wanted, "bfloat16").verdict == "fail"
    growing = wanted * (1 + np.linspace(1e-4, 9e-3, 20)[:, None])
    assert "grows" in compare("c", "depth", growing, wanted, "bfloat16").reason
    assert compare("c", "patch_tokens_scale", growing, wanted, "bfloat16").verdict == "pass"  # rows are no frames
    holes = np.where(wanted > 1.9, np.nan, wanted)
    assert compare("c", "a", holes, holes, "float32").verdict == "pass"
    types = np.array([0, 1, 2], dtype=np.uint8)
    assert compare("c", "a", types, types, "bfloat16").verdict == "pass"
    assert compare("c", "a", types, types[::-1], "bfloat16").verdict == "fail"
