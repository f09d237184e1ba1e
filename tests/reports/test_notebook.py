"""The notebook: made of the template's cells, executed on stored runs, and shown without loading anything."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest
from fake_run import HOSTILE, build_failures, build_run, run_record
from page_reader import PageReader

from lingbot_eval.cli.main import main
from lingbot_eval.errors import StoreError
from lingbot_eval.reports import notebook as maker
from lingbot_eval.reports.notebook import Cell, cells, template, write_notebook
from lingbot_eval.reports.reading import open_run, open_runs
from lingbot_eval.stored.store import RunStore


def text_of(notebook: nbformat.NotebookNode) -> str:
    """All that the cells printed or show, as plain text."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("text") or str(output.get("data", {}).get("text/plain")) for output in outputs)


def test_cells_begin_at_their_marks() -> None:
    markdown = "# %% [markdown]\n# # Title\n#\n# text # here\n\n"
    script = f"# only for readers of the file\n{markdown}# %% [runs]\nx = 1\n\n# %%\n\n\ny\n"
    assert list(cells(script)) == [
        Cell("markdown", "markdown", "# Title\n\ntext # here"),
        Cell("code", "runs", "x = 1"),
        Cell("code", "", "y"),
    ]


def test_the_template_is_made_of_such_cells() -> None:
    found = list(cells(template().read_text(encoding="utf-8")))
    assert [cell.kind for cell in found].count("markdown") >= 4
    assert [cell.name for cell in found].count("runs") == 1
    for cell in found:
        if cell.kind == "code":
            compile(cell.text, "cell", "exec")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[nbformat.NotebookNode, str]:
    """Notebook and page of one run, twice: side by side with itself under a label that is code."""
    root = tmp_path_factory.mktemp("notebook")
    path = build_run(root / 'it\'s "here"', frames=30).path
    runs = open_runs([path, path], ["one", "');1/0#"])
    write_notebook(runs, root / "report.ipynb", root / "notebook.html")
    assert sorted(file.name for file in root.iterdir() if file.is_file()) == ["notebook.html", "report.ipynb"]
    return nbformat.read(root / "report.ipynb", as_version=4), (root / "notebook.html").read_text(encoding="utf-8")


def test_it_is_a_valid_notebook_and_every_cell_ran(made: tuple[nbformat.NotebookNode, str]) -> None:
    notebook, _ = made
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {kind for cell in code for output in cell.outputs for kind in output.get("data", {})}
    assert {"text/html", "image/png"} <= kinds
    assert not any(output.get("name") == "stderr" for cell in code for output in cell.outputs)


def test_it_shows_failures_and_conventions(made: tuple[nbformat.NotebookNode, str]) -> None:
    text = text_of(made[0])
    assert "CUDA out of memory" in text
    assert "ate_rmse: RMSE of the position errors" in text
    assert "');1/0#" in text


def test_its_page_loads_nothing_and_names_stay_text(made: tuple[nbformat.NotebookNode, str]) -> None:
    page = PageReader(made[1], strict=False)
    assert page.loads() == []
    assert page.scripts == []
    assert [attributes for tag, attributes in page.tags if tag == "meta" and "http-equiv" in attributes]
    assert HOSTILE in page.text
    html = "".join(
        str(output.data.get("text/html", ""))
        for cell in made[0].cells
        for output in cell.get("outputs", [])
        if "data" in output
    )
    assert "<script" not in html
    assert "&lt;script&gt;" in html


@pytest.mark.parametrize("planned", [0, 6])
def test_it_runs_on_a_run_without_results(tmp_path: Path, planned: int) -> None:
    record = run_record()
    store = RunStore.create(tmp_path, record.model_copy(update={"units": record.units[:planned]}))
    write_notebook([open_run(store.path)], tmp_path / "n.ipynb", None)
    assert nbformat.read(tmp_path / "n.ipynb", as_version=4).cells[-1].outputs


def test_the_command_writes_it_beside_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run that is named from here, while its cells run elsewhere."""
    path = build_failures(tmp_path).path
    monkeypatch.chdir(tmp_path)
    assert (
        main(["report", str(path.relative_to(tmp_path)), "--notebook-html", "--json"]) == 1
    )  # of the six results of this made-up run one is there
    names = {file.name for file in (path / "report").iterdir()}
    assert {"report.html", "report.md", "report.ipynb", "notebook.html"} <= names


def test_a_cell_that_fails_is_one_line_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "template.py"
    script.write_text("# %% [runs]\nRUNS = []\nLABELS = []\n# %%\nraise ValueError('first\\nsecond')\n")
    monkeypatch.setattr(maker, "template", lambda: script)
    path = build_failures(tmp_path).path
    assert main(["report", str(path), "--notebook"]) == 2
    error = capsys.readouterr().err
    assert "error: the notebook stopped: ValueError: first second\n" in error
    assert not (path / "report").exists()


def test_a_kernel_that_dies_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "template.py"
    script.write_text("# %% [runs]\nRUNS = []\nLABELS = []\n# %%\nimport os\nos._exit(9)\n")
    monkeypatch.setattr(maker, "template", lambda: script)
    with pytest.raises(StoreError, match="the notebook stopped: Kernel died"):
        write_notebook([open_run(build_failures(tmp_path).path)], tmp_path / "n.ipynb", None)
    assert not (tmp_path / "n.ipynb").exists()


def test_without_its_libraries_it_says_what_to_install_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "nbconvert", None)
    path = build_failures(tmp_path).path
    assert main(["report", str(path), "--notebook"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "a notebook needs nbconvert, not installed here: pip install 'lingbot-eval[notebook]'" in error
    assert not (path / "report").exists()
    assert main(["report", str(path)]) == 1
