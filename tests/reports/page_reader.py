"""Reads an HTML page as a browser would look for things to fetch or run, for tests."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

# Attributes whose address a browser fetches by itself, or goes to when a form is sent.
_FETCHED = ("src", "srcset", "data", "poster", "background", "action", "formaction", "manifest", "ping", "xlink:href")
_VOID = {"meta", "link", "br", "img", "input", "hr", "wbr", "base", "col", "source"}


class PageReader(HTMLParser):
    """text: all that is visible. scripts, styles: inline ones. fetched: every address that would be loaded.

    strict: an element closed out of order, or an id given twice, fails the test.
    """

    def __init__(self, page: str, *, strict: bool = True) -> None:
        super().__init__(convert_charrefs=True)
        self._strict = strict
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.anchors: set[str] = set()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.unclosed: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag not in _VOID:
            self.unclosed.append(tag)
        for name, value in attrs:
            if name in _FETCHED or (name == "href" and tag != "a"):
                self.fetched.append(value or "")
            elif name == "href":
                self.links.append(value or "")
            elif name == "id":
                assert not self._strict or value not in self.anchors, f"id {value} twice"
                self.anchors.add(value or "")
            elif name == "style":
                self.styles.append(value or "")
            if name.startswith("on"):
                self.handlers.append(f"{tag} {name}")
        if tag == "meta" and (given.get("http-equiv") or "").lower() == "refresh":
            self.fetched.append(given.get("content") or "")

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        last = self.unclosed.pop() if self.unclosed else "nothing"
        assert not self._strict or last == tag, f"</{tag}> closes {last}"

    def handle_data(self, data: str) -> None:
        inside = self.unclosed[-1] if self.unclosed else ""
        {"script": self.scripts.append, "style": self.styles.append}.get(inside, self._add)(data)

    def _add(self, data: str) -> None:
        self.text += data

    def loads(self) -> list[str]:
        """Addresses that are not inside the page, wherever a browser would fetch them."""
        in_styles = [
            address
            for style in self.styles
            for found in re.findall(r"url\(\s*['\"]?([^'\")]*)|@import\s+([^;]*)", style)
            for address in found
            if address
        ]
        return [address for address in (*self.fetched, *in_styles) if not address.startswith(("data:", "#"))]


def read_page(path: Path) -> PageReader:
    """The page of a file; an element closed out of order fails the test."""
    return PageReader(path.read_text(encoding="utf-8"))
