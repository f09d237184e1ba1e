"""Makes the notebook of a report from ``reports/template.py``, runs it, and shows it as a page that loads nothing."""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingbot_eval.errors import DependencyError, StoreError
from lingbot_eval.files.atomic import write_text, writing
from lingbot_eval.reports.reading import Run
from lingbot_eval.resources import shared_folder

if TYPE_CHECKING:
    from nbformat import NotebookNode

_LIBRARIES = ("nbformat", "nbconvert", "ipykernel")
_CELL_SECONDS = 600
_MARK = re.compile(r"# %%(?: \[(?P<name>\w+)\])?\s*")
_RUNS_CELL = "runs"


@dataclass(frozen=True)
class Cell:
    """One cell of the template: "markdown", or "code" with the name that its mark gives it."""

    kind: str
    name: str
    text: str


def require() -> None:
    """Raises DependencyError that says what to install, unless notebooks can be made here."""
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise DependencyError(
            f"a notebook needs {', '.join(missing)}, not installed here: pip install 'lingbot-eval[notebook]'; "
            "the report without --notebook needs none of it"
        )


def write_notebook(runs: Sequence[Run], path: Path, page: Path | None) -> None:
    """Write the notebook on these runs to ``path``, executed, and to ``page`` as HTML when one is wanted.

    Raises DependencyError without its libraries, StoreError when a cell fails or the disk refuses.
    """
    require()
    import nbformat

    notebook = _notebook(cells(template().read_text(encoding="utf-8")), runs)
    _execute(notebook, path)
    write_text(path, nbformat.writes(notebook) + "\n")  # type: ignore[no-untyped-call]
    if page is not None:
        write_text(page, _page(notebook))


def template() -> Path:
    """The shipped template: a Python script in cells, each begun by a line ``# %%``."""
    return shared_folder("reports") / "template.py"


def cells(script: str) -> Iterator[Cell]:
    """The cells of a script in the percent format; what comes before its first mark is no cell."""
    kind, name, lines = "", "", list[str]()
    for line in [*script.splitlines(), "# %%"]:
        mark = _MARK.fullmatch(line)
        if mark is None:
            lines.append(line)
            continue
        if kind:
            text = "\n".join(re.sub(r"^# ?", "", line) if kind == "markdown" else line for line in lines)
            yield Cell(kind, name, text.strip("\n"))
        name, lines = mark["name"] or "", []
        kind = "markdown" if name == "markdown" else "code"


def _notebook(given: Iterator[Cell], runs: Sequence[Run]) -> NotebookNode:
    import nbformat.v4 as build

    made = []
    for number, cell in enumerate(given):
        text = _with_runs(cell.text, runs) if cell.name == _RUNS_CELL else cell.text
        new = build.new_markdown_cell if cell.kind == "markdown" else build.new_code_cell
        # Numbered, where the library would draw lots: the same runs give the same notebook.
        made.append(new(text, id=f"cell-{number:02d}"))  # type: ignore[no-untyped-call]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return build.new_notebook(cells=made, metadata={"kernelspec": kernel})  # type: ignore[no-untyped-call, no-any-return]


def _with_runs(text: str, runs: Sequence[Run]) -> str:
    """The cell with the paths and labels of these runs as Python literals, whatever is in their names."""
    values = {"RUNS": [str(run.store.path.resolve()) for run in runs], "LABELS": [run.label for run in runs]}
    lines = text.splitlines()
    for name, value in values.items():
        (place,) = (number for number, line in enumerate(lines) if line.startswith(f"{name} = "))
        lines[place] = f"{name} = {value!r}"
    return "\n".join(lines)


def _execute(notebook: NotebookNode, path: Path) -> None:
    """Run all cells in this interpreter's own kernel, without the user's IPython profile and history."""
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from nbconvert.preprocessors import ExecutePreprocessor

    with writing(path), tempfile.TemporaryDirectory(prefix="lingbot-eval-") as scratch:
        run = ExecutePreprocessor(  # type: ignore[no-untyped-call]
            timeout=_CELL_SECONDS,
            record_timing=False,
            kernel_manager_class=_kernel_manager(Path(scratch)),
            extra_arguments=[f"--ipython-dir={scratch}", "--HistoryManager.enabled=False"],
        )
        try:
            run.preprocess(notebook, {"metadata": {"path": scratch}})
        except CellExecutionError as error:
            # Its text is the whole traceback, in colours.
            raise StoreError(f"the notebook stopped: {error.ename}: {' '.join(error.evalue.split())}") from error
        except (CellTimeoutError, DeadKernelError) as error:
            raise StoreError(f"the notebook stopped: {' '.join(str(error).split())}") from error


def _kernel_manager(scratch: Path) -> type[Any]:
    """Starts this very interpreter, where a kernel called "python3" may be any, and talks to it through ``scratch``."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class ThisInterpreter(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            return KernelSpec(resource_dir=str(scratch), **get_kernel_dict())

    class OwnKernel(AsyncKernelManager):
        def __init__(self, **given: Any) -> None:
            # Sockets in a folder of our own: nobody else on this machine can talk to the kernel, or listen.
            place = {"transport": "ipc", "ip": str(scratch / "kernel"), "connection_file": str(scratch / "kernel.json")}
            super().__init__(kernel_spec_manager=ThisInterpreter(), **place, **given)

    return OwnKernel


# Of the exporter's own page, all that would be fetched is cut out, and the policy forbids it once more.
_PAGE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; font-src data:;
 style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="color-scheme" content="light">
{% endblock %}
{% block jupyter_widgets %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block html_head_css %}<style>
body.jp-Notebook { max-width: 76rem; margin: 0 auto; padding: 1rem; }
.jp-OutputArea-output { overflow-x: auto; }
@media (max-width: 40rem) { .jp-InputPrompt, .jp-OutputPrompt { display: none; } body.jp-Notebook { padding: .25rem; }
 .jp-RenderedImage img { min-width: 44rem; } }
</style>{% endblock %}
"""


def _page(notebook: NotebookNode) -> str:
    from nbconvert.exporters import HTMLExporter

    exporter = HTMLExporter(raw_template=_PAGE, embed_images=True)  # type: ignore[no-untyped-call]
    text, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": "lingbot_eval report"}})
    return str(text)
