"""The report as one HTML file that loads nothing: style, script, figures and the table of all numbers are inside it."""

from __future__ import annotations

import base64
import hashlib
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import lingbot_eval
from lingbot_eval.reports.content import Content, pretty, warnings
from lingbot_eval.reports.html_sections import SECTIONS, Section
from lingbot_eval.reports.published import delta_text
from lingbot_eval.reports.rendering import legend, method_label, title_of
from lingbot_eval.reports.tables import Cell, Column, Row, Table
from lingbot_eval.tables import MISSING, number_text, plain

_TEMPLATES = Path(__file__).parent / "templates"


def html_page(content: Content, measurements: str, folder: Path) -> str:
    """The page. measurements: CSV text of every number, offered for download from inside the page. folder: the
    report's, where the figures are read from.

    Every text from a run is escaped by the template engine, and the page's security policy lets nothing be loaded
    and no script or style run but the page's own two.
    """
    environment = _environment(folder)
    sections = [section for make in SECTIONS if (section := make(content)) is not None]
    style, script = (_asset(name) for name in ("page.css", "page.js"))
    return environment.get_template("page.html.j2").render(
        content=content,
        warnings=tuple(warnings(content)),
        sections=[(section, _rendered(environment, section, content)) for section in sections],
        style=style,
        script=script,
        policy=(
            f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
            "base-uri 'none'; form-action 'none'"
        ),
        measurements=data_uri(measurements.encode(errors="backslashreplace"), "text/csv;charset=utf-8"),
        version=lingbot_eval.__version__,
    )


def data_uri(data: bytes, kind: str) -> str:
    """Bytes as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        # For every template whatever its name: scenes and methods are called what their authors liked.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "plain": plain,
        "breakable": _breakable,
        "pretty": pretty,
        "cell_text": _cell_text,
        "by_dataset": _by_dataset,
        "legend": legend,
        "table_title": title_of,
        "delta": delta_text,
        "number": number_text,
        "picture": lambda file: data_uri((folder / file).read_bytes(), "image/png"),
        "method": _method,
    }
    return environment


def _rendered(environment: Environment, section: Section, content: Content) -> Markup:
    template = environment.get_template(f"sections/{section.template}.html.j2")
    # Not escaped again: it is what a template with escaping on has made.
    return Markup(template.render(content=content, section=section, **section.values))


def _asset(name: str) -> Markup:
    """The page's own style or script, shipped with the package."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    """How a security policy names an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _breakable(name: str) -> Markup:
    """A long stored name that may go on in a second line after an underscore."""
    return Markup("_<wbr>").join(name.split("_"))


def _cell_text(cell: Cell, column: Column) -> str:
    return MISSING if cell.value is None else number_text(cell.value, column.unit)


def _by_dataset(table: Table) -> list[tuple[str, list[Row]]]:
    return [(dataset, list(rows)) for dataset, rows in groupby(table.rows, key=lambda row: row.dataset)]


def _method(row: Row) -> str:
    return method_label(row.method, (row.method,) if row.untrained else ())
