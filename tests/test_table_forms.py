"""One table in each of its forms, with gaps, shares and texts that mean something to the form."""

from __future__ import annotations

import csv
import io

import pytest

from lingbot_eval.tables import (
    Cell,
    Column,
    Table,
    columns,
    fenced,
    footnote,
    latex_text,
    markdown_grid,
    markdown_text,
    mebibytes,
    plain,
    quantity,
    reasons,
    spreadsheet_text,
)

TABLE = Table(
    "A|B",
    (Column("scene", "left"), Column("ate_rmse (m)")),
    (
        ("=1+1", Cell(0.123456789, "m")),
        ("desk_2", Cell(None, "m", note=1)),
        (Cell("mean", strong=True), Cell(0.123456789, "m", share="1 of 2")),
    ),
    notes=("lost <it>",),
    legend=("m: 100 % metres",),
)


def test_markdown_in_line() -> None:
    assert TABLE.markdown().split("\n") == [
        "### A\\|B",
        "",
        "| scene    |     ate_rmse (m) |",
        "| -------- | ---------------: |",
        "| =1+1     |           0.1235 |",
        "| desk_2   | n/a <sup>1</sup> |",
        "| **mean** |  0.1235 (1 of 2) |",
        "",
        "1\\. lost &lt;it&gt;  ",
        "",
        "- m: 100 % metres",
        "",
    ]


def test_markdown_without_padding() -> None:
    lines = TABLE.markdown(padded=False).splitlines()[2:6]
    assert lines == [
        "| scene | ate_rmse (m) |",
        "|---|---:|",
        "| =1+1 | 0.1235 |",
        "| desk_2 | n/a <sup>1</sup> |",
    ]


def test_csv_has_all_digits_and_no_formula() -> None:
    rows = list(csv.reader(io.StringIO(TABLE.csv())))
    assert rows == [
        ["scene", "ate_rmse (m)"],
        ["'=1+1", "0.123456789"],
        ["desk_2", "n/a"],
        ["mean", "0.123456789"],
    ]


def test_latex_has_a_rule_before_what_stands_out() -> None:
    lines = TABLE.latex().splitlines()
    assert r"\caption{A\textbar{}B}" in lines
    assert r"\begin{tabular}{lr}" in lines
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert body == [
        r"=1+1 & 0.1235 \\",
        r"desk\_2 & n/a\textsuperscript{1} \\",
        r"\midrule",
        r"mean & 0.1235 (1 of 2) \\",
    ]
    assert r"\textsuperscript{1} lost \textless{}it\textgreater{}\par" in lines


def test_latex_has_a_rule_after_what_stands_out_and_none_within() -> None:
    strong, usual = ((Cell("it", strong=standing), Cell(0.0, "m")) for standing in (True, False))
    lines = Table("t", columns("ab"), (strong, strong, usual, usual, strong)).latex().splitlines()
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert body == [*[r"it & 0 \\"] * 2, r"\midrule", *[r"it & 0 \\"] * 2, r"\midrule", r"it & 0 \\"]


def test_nothing_and_no_number_are_two() -> None:
    rows = Table("t", columns("abc"), ((Cell("", note=2), Cell(0.0, "m"), Cell(None)),))
    assert rows.csv() == "a,b,c\n,0.0,n/a\n"
    assert rows.markdown(padded=False).splitlines()[4] == "|  <sup>2</sup> | 0 | n/a |"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("≤ ≥", r"$\le$ $\ge$"),
        ("< > |", r"\textless{} \textgreater{} \textbar{}"),
        ("× ° δ −", r"$\times$ $^\circ$ $\delta$ $-$"),
        ("– …", r"-- \ldots{}"),
        ("~ ^ \\", r"\textasciitilde{} \textasciicircum{} \textbackslash{}"),
        ("{$&#_%}", r"\{\$\&\#\_\%\}"),
        ('"', r"\textquotedbl{}"),
    ],
)
def test_a_sign_is_itself_in_latex(text: str, written: str) -> None:
    assert latex_text(text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a_b _c_ d_", r"a_b \_c\_ d\_"),
        ("*a* `b` [c] ~d~ #e $f$", r"\*a\* \`b\` \[c\] \~d\~ \#e \$f\$"),
        ("a\\|b", r"a\\\|b"),
        ("&lt; <b>", "&amp;lt; &lt;b&gt;"),
    ],
)
def test_a_sign_is_itself_in_markdown(text: str, written: str) -> None:
    assert markdown_text(text) == written


@pytest.mark.parametrize("sign", "=+-@＝＋－＠")
def test_no_sign_begins_a_formula(sign: str) -> None:
    assert [spreadsheet_text(text) for text in (f" {sign}a", f"a{sign}")] == [f"'{sign}a", f"a{sign}"]


def test_text_for_a_terminal() -> None:
    assert TABLE.text().splitlines() == [
        "scene      ate_rmse (m)",
        "=1+1             0.1235",
        "desk_2              n/a",
        "mean    0.1235 (1 of 2)",
    ]


def test_columns_and_grid() -> None:
    assert [column.align for column in columns("abc", left=2)] == ["left", "left", "right"]
    assert [column.align for column in columns("abc")] == ["left", "right", "right"]
    assert markdown_grid([["a", "b"], ["long cell", "1"]], ["left", "right"]) == [
        "| a         |   b |",
        "| --------- | --: |",
        "| long cell |   1 |",
    ]


def test_numbers_with_their_units() -> None:
    assert [quantity(value, unit) for value, unit in ((2.0, "m"), (0.5, "1"), (None, "m"))] == [
        "2.000 m",
        "0.5000",
        "n/a",
    ]
    assert [mebibytes(size) for size in (3 * 2**20, 0, None)] == ["3.000", "0", "n/a"]


def test_only_frames_are_whole() -> None:
    units = ("frames", "1", "%", "MiB")
    assert [quantity(5.0, unit) for unit in units] == ["5 frames", "5.000", "5.000 %", "5.000 MiB"]
    for value in (float("inf"), float("-inf"), float("nan")):
        with pytest.raises(ValueError, match="is not a result"):
            quantity(value, "frames")


def test_a_text_as_long_as_there_is_room_stays_whole() -> None:
    assert [plain("a\tb  cd", longest) for longest in (None, 6, 5)] == ["a b cd", "a b cd", "a b …"]


def test_no_text_ends_its_block_of_code() -> None:
    assert fenced("a", "yaml") == ["```yaml", "a", "```", ""]
    assert fenced("``\n````\x1b[1m", "") == ["`````", "``", "```` [1m", "`````", ""]


def test_footnotes_are_numbered_by_text() -> None:
    notes: dict[str, int] = {}
    assert [footnote(notes, text) for text in ("a", None, "b", "a")] == [1, None, 2, 1]


def test_each_reason_once() -> None:
    assert reasons([("a", "lost"), ("b", None), ("c", "lost")]) == {"lost": ["a", "c"]}
