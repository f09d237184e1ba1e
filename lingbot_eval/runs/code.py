"""Which code decides a result: the parsed sources of the rooms that compute, without comments and docstrings."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

import lingbot_eval
from lingbot_eval.resources import remember, remembered

# They show, judge or examine what was computed, or compute something else: a change there makes no result stale.
_NOT_OF_A_RUN = frozenset(
    {
        *("cli", "comparison", "datasets/check", "datasets/convert.py", "gating", "reports", "scaling", "verification"),
        *("viewing", "tables.py", "plots.py", "settings.py"),
        *("runs/claims.py", "runs/cluster.py", "runs/host.py", "runs/lock.py", "runs/workers.py"),
    }
)
_KEEPS = frozenset({"viewing/cloud.py", "viewing/kept.py", "viewing/masks.py"})
"""Of the viewing what decides the content of a run."""
_MOST_REMEMBERED = 2000
# A study's own room computes; how it is drawn does not.
_NOT_OF_A_STUDY = (_NOT_OF_A_RUN - {"scaling"}) | {"scaling/figure.py", "scaling/page.py"}


@functools.cache
def code_digest(*, of_study: bool = False) -> str:
    """SHA-256 over what the sources say to do.

    Args:
        of_study: whether a scaling study is keyed, rather than a run.

    Returns:
        Hex digest; a comment, a docstring, a line break or a blank changes nothing.
    """
    package = Path(lingbot_eval.__file__).parent
    left_out = _NOT_OF_A_STUDY if of_study else _NOT_OF_A_RUN
    digest = hashlib.sha256()
    # Parsing all sources takes over a second, of which a start has ten: digests are kept by the hash of the source, and
    # by that of this file, which says how to parse.
    way = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:32]
    kept = remembered("code", way)
    before = {key: each for key, each in kept.items() if isinstance(each, str) and len(each) == 64}
    now: dict[str, str] = {}
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package)
        places = {name.as_posix(), *(parent.as_posix() for parent in name.parents)}
        if left_out & places and not _KEEPS & places:
            continue
        content = path.read_bytes()
        key = hashlib.sha256(content).hexdigest()
        now[key] = before.get(key) or parsed_digest(content)
        digest.update(f"{name.as_posix()}\0{now[key]}\0".encode())
    if not now.keys() <= before.keys():
        remember("code", way, before | now if len(before) < _MOST_REMEMBERED else now)
    return digest.hexdigest()


def parsed_digest(source: bytes) -> str:
    """SHA-256 over a file's syntax tree without its strings that stand alone (docstrings)."""
    return hashlib.sha256("".join(_words(ast.parse(source))).encode()).hexdigest()


def _words(node: object) -> Iterator[str]:
    """The tree in words of its own: ``ast.dump`` says one tree differently in different versions of Python."""
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for name, value in ast.iter_fields(node):
            # Fields that later versions add are empty in code that does not use them.
            if value is not None and value != []:
                yield f" {name}="
                yield from _words(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for inner in node:
            if not _stands_alone(inner):
                yield from _words(inner)
        yield "]"
    else:
        yield repr(node)


def _stands_alone(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
