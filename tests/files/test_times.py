"""What a time is: the unit from the stamps, digits that are kept, and one line where two clocks do not meet."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lingbot_eval.errors import ConfigError, DataError
from lingbot_eval.files.times import EXPONENT, Clock, associate, evident_unit, pair_times, read_stamps
from lingbot_eval.files.trajectories import Pairing, TrajectoryFile, pair_trajectories, read_trajectory

DATE = 1_400_000_000
UNITS = ("s", "ms", "us", "ns")


def grid(count: int = 20, step: float = 0.5, start: float = DATE) -> np.ndarray:
    return start + step * np.arange(count)


def file_of(folder: Path, name: str, stamps: list[str], separator: str = " ") -> Path:
    """A helix with identity turns; commas: EuRoC's columns."""
    rows = ["#timestamp,x,y,z,qw,qx,qy,qz"] if separator == "," else []
    for row, stamp in enumerate(stamps):
        turn = ["1", "0", "0", "0"] if separator == "," else ["0", "0", "0", "1"]
        position = [f"{np.cos(row / 5):.6f}", f"{np.sin(row / 5):.6f}", f"{row / 10:.6f}"]
        rows.append(separator.join([stamp, *position, *turn]))
    path = folder / name
    path.write_text("\n".join(rows) + "\n")
    return path


def stamp(seconds: float, unit: str) -> str:
    """Whole milliseconds written in a unit, without a rounding of float64."""
    milliseconds = round(seconds * 1000)
    return f"{milliseconds / 1000:.3f}" if unit == "s" else str(milliseconds * 10 ** (EXPONENT[unit] - 3))  # type: ignore[index]


@pytest.mark.parametrize("usual", ["s", "ns"])
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("step", [0.005, 0.033, 0.5])
def test_dates_say_their_unit(unit: str, usual: str, step: float) -> None:
    words = [stamp(DATE + step * row, unit) for row in range(30)]
    seconds, said, why = read_stamps(words, usual)  # type: ignore[arg-type]
    assert said == unit
    assert (why is None) == (unit == usual)
    np.testing.assert_allclose(seconds, grid(30, step), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("values", "usual", "unit"),
    [
        (np.arange(0, 20e9, 5e7), "s", "ns"),  # nanoseconds from the start of a recording, in TUM's columns
        (np.arange(0, 20e9, 5e7), "ns", "ns"),
        (np.arange(0, 20, 0.05), "ns", "s"),
        (np.arange(0, 100.0), "ns", "s"),  # whole seconds
        (np.arange(0, 100.0), "s", "s"),  # numbers of frames
        (np.arange(0, 600e6, 33_333), "s", "us"),
        (np.arange(0, 20e3, 33), "s", "s"),  # may be photographs: only the other file can tell
        (np.array([5e8, 1.9e9]), "ns", "ns"),
        (np.array([1.4e18]), "s", "ns"),
        (np.array([0.0]), "ns", "ns"),
        (np.array([0.0, 1e-6, 2e-6]), "s", "s"),
        (grid(10, 86_400.0), "s", "s"),  # a picture a day
    ],
)
def test_times_from_the_start(values: np.ndarray, usual: str, unit: str) -> None:
    assert evident_unit(values, usual)[0] == unit  # type: ignore[arg-type]


def test_nanoseconds_keep_the_digits_that_pair_them() -> None:
    """The same moments as EuRoC and as TUM write them are the same float64."""
    words = [f"{DATE + row}{(row * 123_456_789) % 10**9:09d}" for row in range(100)]
    ns, _, _ = read_stamps(words, "ns")
    s = read_stamps([f"{word[:-9]}.{word[-9:]}" for word in words], "s")[0]
    np.testing.assert_array_equal(ns, s)


@pytest.mark.parametrize("first", [18_295_873_486_192_640, 2**60])
def test_digits_that_do_not_fit_are_said(tmp_path: Path, first: int) -> None:
    path = file_of(tmp_path, "a.txt", [str(first + row) for row in range(5)])
    with pytest.raises(DataError, match=r"a\.txt:2: the stamps \d+ and \d+ \(line 1\) differ, .* digits do not fit"):
        read_trajectory(path)


@pytest.mark.parametrize("word", ["5e-324403636579813555584", "1e-999999", "0." + "0" * 380 + "1"])
def test_numbers_that_round_to_nothing(tmp_path: Path, word: str) -> None:
    path = file_of(tmp_path, "a.txt", [word, "1400000000000000000", "1400000000500000000"], ",")
    assert read_trajectory(path).timestamps.tolist() == [0, 1.4e9, 1.4e9 + 0.5]
    with pytest.raises(DataError, match=r"a\.txt:3: the time 1400000000000000000 in seconds is beyond float64"):
        read_trajectory(path, time_scale=1e300)


def test_scale_and_offset(tmp_path: Path) -> None:
    path = file_of(tmp_path, "a.txt", ["0", "33", "66"])
    found = read_trajectory(path, time_scale=1e-3, time_offset=100.0)
    np.testing.assert_allclose(found.timestamps, [100, 100.033, 100.066])
    assert found.notes == ()
    # Without a scale, too, where the unit is concluded.
    for stamps, start in ((["0", "33", "66"], 0), (["1400000000000", "1400000033000", "1400000066000"], 1.4e9)):
        of_seconds = read_trajectory(file_of(tmp_path, "b.txt", stamps), time_offset=100.0)
        np.testing.assert_allclose(of_seconds.timestamps, start + 100.0 + np.array([0, 33, 66]), rtol=1e-12)
    for wrong in ({"time_scale": 0.0}, {"time_scale": float("nan")}, {"time_offset": float("inf")}):
        with pytest.raises(DataError, match="time"):
            read_trajectory(path, **wrong)  # type: ignore[arg-type]
    (tmp_path / "k.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n")
    with pytest.raises(DataError, match="has no times"):
        read_trajectory(tmp_path / "k.txt", time_offset=1.0)


def refused(reference: Clock, estimate: Clock, advice: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        pair_times(reference, estimate, 0.02, advice)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("factor", [1e-9, 1e-6, 1e-3, 1e3, 1e6, 1e9])
def test_a_factor_is_found_and_helps(factor: float) -> None:
    """Times from the start of a recording; the estimate covers half of it."""
    truth, guess = grid(400, 0.05, 0.0), grid(100, 0.1, 5.0)
    said = refused(Clock("gt", truth), Clock("est", guess / factor))
    assert "gt: 400 poses from 0.000 to 19.950 s" in said
    option = re.search(r"--time-scale (\S+) \(in an experiment time_scale: (\S+)\)", said)
    assert option is not None
    assert float(option[1]) == float(option[2]) == pytest.approx(factor)
    assert len(pair_times(Clock("gt", truth), Clock("est", guess / factor * float(option[1])), 0.02)[0]) == 100
    assert "--time-scale" not in refused(Clock("gt", truth), Clock("est", guess / factor), "look at it")


def test_a_few_chance_pairs_do_not_hide_the_factor() -> None:
    """Milliseconds from 0 meet seconds from 0 at the first stamp."""
    said = refused(Clock("gt", grid(100, 0.05, 0.0)), Clock("est", grid(100, 50.0, 0.0)))
    assert said.startswith("only 1 of 100 poses of est lies within 0.02 s")
    assert "--time-scale 0.001" in said


@pytest.mark.parametrize("factor", [1.0, 1e-3, 1e-9, 0.5])
@pytest.mark.parametrize("offset", [-DATE, 3600.0, 18_000.25])
def test_an_offset_is_suggested_where_both_last_as_long(factor: float, offset: float) -> None:
    truth = grid()
    guess = (truth - offset - truth[0] * (offset != -DATE)) / factor if factor != 1.0 else truth - offset
    said = refused(Clock("gt", truth), Clock("est", guess))
    found = re.search(r"--time-offset (\S+)", said)
    scale = re.search(r"--time-scale (\S+)", said)
    assert found is not None
    assert (scale is not None) == (factor != 1.0)
    times = "" if factor == 1.0 else f" times {factor:g}"
    assert f"both last as long{times}; if they begin together" in said
    moved = guess * (float(scale[1]) if scale else 1.0) + float(found[1])
    np.testing.assert_allclose(moved, truth, atol=1e-3)


def test_a_clock_of_half_the_pace_is_seen_where_both_last_as_long() -> None:
    said = refused(Clock("gt", grid()), Clock("est", (grid() - DATE) / 2))
    assert "both last as long times 2; if they begin together, the estimate's clock is 1400000000 s behind" in said
    assert "--time-scale 2 (in an experiment time_scale: 2) and --time-offset 1400000000 " in said


@pytest.mark.parametrize(
    ("guess", "says"),
    [
        (grid() + 0.25, "the two nearest stamps are 0.25 s apart: they were sampled at other moments"),
        (grid() + 0.125, "the two nearest stamps are 0.125 s apart"),
        (grid() + 0.375, "the two nearest stamps are 0.125 s apart"),
        (grid(7, 0.9, DATE + 5000), "the spans are 4990.500 s apart"),
        (grid(7, 0.9, DATE - 5000), "the spans are 4994.600 s apart"),
    ],
)
def test_nothing_is_suggested_without_evidence(guess: np.ndarray, says: str) -> None:
    said = refused(Clock("gt", grid()), Clock("est", guess))
    assert says in said
    assert "--time" not in said


@pytest.mark.parametrize("odd", ["reference", "estimate"])
def test_what_did_not_meet_is_called_what_it_is_in_its_own_unit(odd: str) -> None:
    """A user said how to read the estimate, so the unit is no question: still it is told."""
    units: dict[str, Any] = {"reference": {}, "estimate": {}, odd: {"unit": "ms", "why": "a reason"}}
    said = refused(
        Clock("scene", grid(), "frames", **units["reference"]),
        Clock("est", grid(7, 0.9, DATE + 5000), told=True, **units["estimate"]),
    )
    assert "none of 7 poses of est lies within 0.02 s of a frame of scene; scene: 20 frames from " in said
    name = {"reference": "scene", "estimate": "est"}[odd]
    assert f": stamps of {name} are read as ms (a reason); the spans are 4990.500 s apart" in said
    assert said.count("are read as") == 1


def test_few_pairs_are_left_to_the_scorer() -> None:
    truth = grid()
    guess = np.concatenate([truth[:1], truth[1:] + 5000])
    assert len(pair_times(Clock("gt", truth), Clock("est", guess), 0.02)[0]) == 1


series = st.lists(st.floats(-1e12, 1e12), max_size=12, unique=True).map(lambda xs: np.array(sorted(xs)))


@given(series, series, st.sampled_from([None, "is it right?"]))
def test_any_two_clocks_pair_or_are_refused_in_a_line(a: np.ndarray, b: np.ndarray, advice: str | None) -> None:
    try:
        in_a, in_b = pair_times(Clock("a", a), Clock("b", b), 0.02, advice)
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert (np.abs(a[in_a] - b[in_b]) <= 0.02).all()


def both(folder: Path, reference: tuple[str, str], estimate: tuple[str, str]) -> tuple[TrajectoryFile, TrajectoryFile]:
    """Files of the same moments; each (unit, separator)."""
    return tuple(  # type: ignore[return-value]
        read_trajectory(file_of(folder, name, [stamp(t, unit) for t in grid()], separator))
        for name, (unit, separator) in (("gt.txt", reference), ("est.txt", estimate))
    )


TUM, TUM_NS, EUROC, EUROC_S = ("s", " "), ("ns", " "), ("ns", ","), ("s", ",")


@pytest.mark.parametrize(
    ("reference", "estimate"),
    [(EUROC, TUM), (TUM, EUROC), (EUROC, TUM_NS), (TUM_NS, TUM_NS), (EUROC_S, TUM), (EUROC_S, EUROC_S)],
)
def test_each_file_has_its_own_format_and_unit(
    tmp_path: Path, reference: tuple[str, str], estimate: tuple[str, str]
) -> None:
    """V102 of EuRoC: a TUM estimate in seconds against ground truth in nanoseconds."""
    truth, guess, pairing = pair_trajectories(*both(tmp_path, reference, estimate))
    assert pairing.matched == len(truth) == len(guess) == 20
    np.testing.assert_allclose(truth.camera_to_world, guess.camera_to_world, atol=1e-12)


@pytest.mark.parametrize(
    ("reference", "estimate", "scale", "odd", "factor"),
    [
        (TUM, TUM_NS, 1e-9, "stamps of est.txt are in ns (", "1e+09"),
        (TUM, ("ms", " "), 1e-3, "stamps of est.txt are in ms (", "1000"),
        (TUM_NS, TUM, 1, "stamps of gt.txt are in ns (", "1e+09"),
        (EUROC, EUROC_S, 1, "stamps of est.txt are in s (", "1e-09"),
        (EUROC_S, EUROC, 1e-9, "stamps of gt.txt are in s (", "1e-09"),
    ],
)
def test_a_unit_that_its_format_does_not_have_is_asked_about(
    tmp_path: Path, reference: tuple[str, str], estimate: tuple[str, str], scale: float, odd: str, factor: str
) -> None:
    """factor: the stamps of the file that is told first are so many times those of the other."""
    files = both(tmp_path, reference, estimate)
    with pytest.raises(DataError, match=f"the clocks differ: .*--time-scale {scale:g} ") as caught:
        pair_trajectories(*files)
    parts = ("gt.txt: 20 poses from 1400000000.000 to 1400000009.500 s", "est.txt: 20 poses", odd)
    for part in (*parts, f"a likely factor of {factor} between them"):
        assert part in str(caught.value)
    told = read_trajectory(tmp_path / "est.txt", time_scale=scale)
    assert pair_trajectories(files[0], told)[2].matched == 20


def test_files_without_times(tmp_path: Path) -> None:
    row = "1 0 0 {} 0 1 0 0 0 0 1 0"
    (tmp_path / "a.txt").write_text("\n".join(row.format(i) for i in range(5)))
    (tmp_path / "b.txt").write_text("\n".join(row.format("nan" if i == 2 else i) for i in range(5)))
    truth, guess, pairing = pair_trajectories(read_trajectory(tmp_path / "a.txt"), read_trajectory(tmp_path / "b.txt"))
    assert (pairing.matched, pairing.estimate_poses, guess.indices.tolist()) == (4, 4, [0, 1, 3, 4])
    # A lost pose is one of the file: otherwise row i would meet another row.
    (tmp_path / "b.txt").write_text("\n".join(row.format("nan" if i == 1 else i) for i in range(6)))
    for first, second, counts in (
        ("a", "b", r"5 poses in .*a\.txt and 6 in"),
        ("b", "a", r"6 poses in .*b\.txt and 5"),
    ):
        with pytest.raises(DataError, match=counts):
            pair_trajectories(*(read_trajectory(tmp_path / f"{name}.txt") for name in (first, second)))
    (tmp_path / "b.txt").write_text(row.format(0))
    with pytest.raises(ConfigError, match="one has timestamps"):
        pair_trajectories(
            truth_file := read_trajectory(file_of(tmp_path, "t.txt", ["0"])), read_trajectory(tmp_path / "b.txt")
        )
    assert len(truth_file) == 1
    assert len(truth) == 5


def test_images_pair_by_their_names(tmp_path: Path) -> None:
    head = "{} 1 0 0 0 {} 0 0 1 {}\n\n"
    (tmp_path / "a.txt").write_text("".join(head.format(i, i, f"left/{n}.jpg") for i, n in enumerate("abcde")))
    (tmp_path / "b.txt").write_text("".join(head.format(i, i, f"{n}.png") for i, n in enumerate("eca")))
    truth, guess, pairing = pair_trajectories(read_trajectory(tmp_path / "a.txt"), read_trajectory(tmp_path / "b.txt"))
    assert pairing.matched == 3
    assert truth.positions[:, 0].tolist() == [0, -2, -4]
    assert guess.positions[:, 0].tolist() == [-2, -1, 0]
    (tmp_path / "b.txt").write_text(head.format(0, 0, "z.png"))
    with pytest.raises(DataError, match=r"no image of .*names such as 'z\.png'"):
        pair_trajectories(read_trajectory(tmp_path / "a.txt"), read_trajectory(tmp_path / "b.txt"))


@pytest.mark.parametrize("every", [1, 5])
def test_frame_numbers_in_place_of_seconds_are_named(every: int) -> None:
    """Every twentieth second is a frame number, too: a twentieth of the poses pair by chance."""
    truth, guess = grid(400, 0.05, 0.0), np.arange(0.0, 400.0, every)
    said = refused(Clock("gt", truth), Clock("est", guess))
    assert re.match(rf"only \d+ of {len(guess)} poses of est lies within 0.02 s", said)
    assert f"times 0.05, {len(guess)} of them would pair: --time-scale 0.05 " in said


def test_chance_pairs_of_long_recordings_do_not_hide_the_factor() -> None:
    """Whole seconds among milliseconds: many poses pair by chance, and still few of all."""
    truth, guess = grid(4000, 0.025, 0.0), grid(4000, 25.0, 0.0)
    assert len(associate(truth, guess, 0.02)[0]) >= 3
    assert "times 0.001, 4000 of them would pair: --time-scale 0.001 " in refused(
        Clock("gt", truth), Clock("est", guess)
    )


def test_a_pairing_counts_what_met_and_says_how_much_was_covered(tmp_path: Path) -> None:
    """Ten poses from 0 to 9 s; the estimate has 2.0, 2.3, 3.0 … 6.0 s: of six poses five meet one of five inside."""
    truth = read_trajectory(file_of(tmp_path, "gt.txt", [f"{t}.0" for t in range(10)]))
    guess = read_trajectory(file_of(tmp_path, "est.txt", ["2.0", "2.3", "3.0", "4.0", "5.0", "6.0"]))
    met, whole, found = pair_trajectories(truth, guess, 0.25)
    assert (found.rule, found.reference_poses, found.estimate_poses, found.matched, found.repeated) == (
        "one to one by nearest timestamp within 0.25 s",
        10,
        6,
        5,
        0,
    )
    assert found.reference_poses_in_estimate_span == 5
    assert (found.reference_span_s, found.estimate_span_s) == ((0.0, 9.0), (2.0, 6.0))
    assert found.matched_percent == pytest.approx(500 / 6)
    assert found.span_covered_percent == pytest.approx(400 / 9)
    # Frame numbers are the estimate's rows, times and poses the reference's.
    assert (met.indices.tolist(), met.timestamps.tolist()) == ([0, 2, 3, 4, 5], [2.0, 3.0, 4.0, 5.0, 6.0])
    np.testing.assert_array_equal(met.camera_to_world, truth.camera_to_world[2:7])
    assert whole.indices.tolist() == [0, 1, 2, 3, 4, 5]
    late = read_trajectory(file_of(tmp_path, "late.txt", ["2.125", "3.125", "12.0"]))
    met, _, found = pair_trajectories(truth, late, 0.25)
    assert (met.indices.tolist(), met.timestamps.tolist()) == ([0, 1], [2.0, 3.0])
    apart = replace(found, estimate_span_s=(20.0, 30.0))
    assert apart.span_covered_percent == 0.0
    assert replace(found, reference_span_s=(3.0, 3.0)).span_covered_percent is None
    assert replace(found, estimate_span_s=None).span_covered_percent is None


def test_poses_with_one_time_are_counted_apart(tmp_path: Path) -> None:
    truth = read_trajectory(file_of(tmp_path, "gt.txt", [f"{t}.0" for t in range(10)]))
    guess = read_trajectory(file_of(tmp_path, "est.txt", ["2.0", "3.0", "3.0", "4.0", "4.5"]))
    met, whole, found = pair_trajectories(truth, guess, 0.25)
    assert (found.reference_poses, found.estimate_poses, found.matched, found.repeated) == (10, 5, 4, 1)
    assert (found.reference_poses_in_estimate_span, found.estimate_span_s) == (3, (2.0, 4.5))
    assert met.indices.tolist() == [0, 1, 2, 3]
    assert met.timestamps.tolist() == [2.0, 3.0, 3.0, 4.0]
    assert whole.timestamps.tolist() == [2.0, 3.0, 3.0, 4.0, 4.5]
    # One that met nothing has no second pose that met it, either.
    guess = read_trajectory(file_of(tmp_path, "est.txt", ["2.0", "3.0", "3.0", "4.5", "4.5"]))
    found = pair_trajectories(truth, guess, 0.25)[2]
    assert (found.estimate_poses, found.matched, found.repeated) == (5, 3, 1)


@pytest.mark.parametrize("oriented", ["gt", "est"])
def test_each_side_of_a_pairing_keeps_its_orientation_or_none(tmp_path: Path, oriented: str) -> None:
    for name in ("gt", "est"):
        turn = " 0 0 0 1" if name == oriented else ""
        for again in ("", "2 9 9 9" + turn + "\n"):  # a second pose of one time goes another way
            lines = "".join(f"{t} {t} 0 0{turn}\n" + (again if t == 2 else "") for t in range(5))
            (tmp_path / f"{name}{'' if not again else '2'}.txt").write_text(lines)
    for estimate in ("est.txt", "est2.txt"):
        truth, guess, found = pair_trajectories(
            read_trajectory(tmp_path / "gt.txt"), read_trajectory(tmp_path / estimate)
        )
        assert (truth.has_orientation, guess.has_orientation) == (oriented == "gt", oriented == "est")
        assert found.repeated == (estimate == "est2.txt")


def test_counts_where_names_or_rows_pair(tmp_path: Path) -> None:
    head = "{} 1 0 0 0 {} 0 0 1 {}\n\n"
    (tmp_path / "a.txt").write_text("".join(head.format(i, i, f"{n}.jpg") for i, n in enumerate("abcde")))
    (tmp_path / "b.txt").write_text("".join(head.format(i, i, f"{n}.png") for i, n in enumerate("ecz")))
    files = read_trajectory(tmp_path / "a.txt"), read_trajectory(tmp_path / "b.txt")
    met, whole, found = pair_trajectories(*files)
    assert found == Pairing("by the images' names", 5, 3, 2)
    # Frame numbers and times are the estimate's, which has c, e and z; poses are the reference's.
    assert (met.indices.tolist(), met.timestamps.tolist()) == ([0, 1], [0.0, 1.0])
    assert met.positions[:, 0].tolist() == [-2, -4]
    assert whole.positions[:, 0].tolist() == [-1, 0, -2]
    assert found.matched_percent == pytest.approx(200 / 3)
    assert found.span_covered_percent is None
    row = "1 0 0 {} 0 1 0 0 0 0 1 0"
    for name, lost in (("c.txt", 0), ("d.txt", 2)):
        (tmp_path / name).write_text("\n".join(row.format("nan" if i == lost else i) for i in range(4)))
    truth, guess = read_trajectory(tmp_path / "c.txt"), read_trajectory(tmp_path / "d.txt")
    assert pair_trajectories(truth, guess)[2] == Pairing("row i with row i", 3, 3, 2)


def test_two_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for folder, start in (("a", 0), ("b", 1000)):
        (tmp_path / folder).mkdir()
        file_of(tmp_path / folder, "poses.txt", [f"{start + t}.25" for t in range(7)])
    file_of(tmp_path, "other.txt", [f"{2000 + 3 * t}.5" for t in range(9)])
    first = read_trajectory(tmp_path / "a" / "poses.txt")
    for second, named in (("b/poses.txt", str(tmp_path / "b" / "poses.txt")), ("other.txt", "other.txt")):
        with pytest.raises(DataError) as refusal:
            pair_trajectories(first, read_trajectory(tmp_path / second))
        assert f" poses of {named} lies within" in str(refusal.value)


@pytest.mark.parametrize(("ahead", "word"), [(3600.0, "3600 s ahead"), (-3600.0, "3600 s behind")])
def test_the_sign_of_an_offset_is_said(ahead: float, word: str) -> None:
    said = refused(Clock("gt", grid()), Clock("est", grid() + ahead))
    assert f"the estimate's clock is {word}: --time-offset {-ahead:.12g} " in said


@pytest.mark.parametrize(
    ("unit", "seconds"), [("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("0.5 s", 0.5), ("1e-09 s", 1e-9)]
)
def test_a_suggested_scale_reads_the_stamps_of_the_file(unit: str, seconds: float) -> None:
    """What the reader has already turned to seconds is not scaled twice."""
    said = refused(Clock("gt", grid(100, 0.05, 0.0)), Clock("est", grid(100, 0.05, 0.0) * 1e6, unit=unit, told=True))
    assert f"times 1e-06, 100 of them would pair: --time-scale {seconds * 1e-6:.12g} " in said


def test_half_of_a_series_must_pair_before_a_factor_is_named() -> None:
    truth = grid(100, 0.05, 0.0)
    others = 7000.0 + 77.7 * np.arange(100)
    enough, few = (
        np.concatenate([truth[:60] * 1e6, others[:40] * 1e6]),
        np.concatenate([truth[:40] * 1e6, others[:60] * 1e6]),
    )
    assert "times 1e-06, 60 of them would pair" in refused(Clock("gt", truth), Clock("est", enough + 1e5))
    assert "would pair" not in refused(Clock("gt", truth), Clock("est", few + 1e5))


def test_what_a_file_says_of_its_stamps(tmp_path: Path) -> None:
    path = file_of(tmp_path, "a.txt", ["0", "2", "4"])
    found = read_trajectory(path, time_scale=0.5)
    assert (found.time_unit, found.told_scale, found.clock().told) == ("0.5 s", True, True)
    for offset in (0.0, 2.5):  # which leaves the question of the unit
        found = read_trajectory(path, time_offset=offset)
        assert (found.time_unit, found.told_scale, found.clock().told) == ("s", False, False)
    assert (found.clock().name, found.clock("another").name, found.clock().what) == ("a.txt", "another", "poses")
    found = read_trajectory(file_of(tmp_path, "b.txt", [str(DATE * 1000 + row) for row in range(3)]))
    assert (found.time_unit, found.clock().unit, found.clock().why) == ("ms", "ms", found.why_unit)
    assert found.why_unit is not None


@pytest.mark.parametrize("empty", ["gt", "est"])
def test_a_clock_without_stamps_pairs_nothing_and_says_so(empty: str) -> None:
    none = Clock(empty, np.empty(0), "frames")
    assert none.span() == f"{empty}: no frames"
    clocks = (none, Clock("est", grid())) if empty == "gt" else (Clock("gt", grid()), none)
    found = pair_times(*clocks, 0.02)
    assert [len(each) for each in found] == [0, 0]


def test_the_span_names_the_unit_of_the_file_where_it_is_another() -> None:
    assert Clock("a.txt", grid(3, 0.5, 1.0)).span() == "a.txt: 3 poses from 1.000 to 2.000 s"
    assert (
        Clock("a.txt", grid(3, 0.5, 1.0), "frames", "ms")
        .span()
        .endswith("3 frames from 1.000 to 2.000 s (stamps in ms)")
    )


def test_files_that_last_as_long_need_not_be_of_one_path() -> None:
    """The same duration, other moments: beginning together pairs the two ends alone."""
    truth = grid(50, 0.5)
    guess = np.concatenate(
        [[0.0], np.sort(np.random.default_rng(0).choice(np.arange(0.25, 24, 0.5), 40, False)), [24.5]]
    )
    said = refused(Clock("gt", truth), Clock("est", guess))
    assert "last as long" not in said
    assert "are both of one recording and one clock?" in said
