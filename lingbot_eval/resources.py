"""Where things are: cards, experiment files and the notebook's template in a wheel or a checkout, the weights in the
package, paths that users write with ``~``, and for a child process what Python imports.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lingbot_eval
from lingbot_eval.errors import ConfigError, StoreError
from lingbot_eval.files.atomic import write_text
from lingbot_eval.files.json_documents import read_json
from lingbot_eval.settings import nearest

Kind = Literal["datasets", "experiments", "reports"]
SHIPPED = "shipped"
"""What an experiment writes in a checkpoint's place for the weights that come with the package."""
SHIPPED_CONFIG: Literal["ci"] = "ci"
"""The one configuration that they are of."""


@dataclass(frozen=True)
class PublicFile:
    """A file on the hub that everybody knows by a name, pinned.

    revision: of the repository; None where nobody has pinned one. size: bytes, None where it is not known.
    config: the configuration of the network that the weights are of; None where the file is no checkpoint of ours.
    """

    repository: str
    file: str
    sha256: str
    revision: str | None = None
    size: int | None = None
    config: Literal["full"] | None = None

    @property
    def address(self) -> str:
        """As an experiment would write it."""
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repository}{revision}/{self.file}"


_LINGBOT_MAP = ("robbyant/lingbot-map", "204754b72bb24f561f8d7e7e1e4e4cd9e809adf9")
PUBLIC: dict[str, PublicFile] = {
    "lingbot-map": PublicFile(
        _LINGBOT_MAP[0],
        "lingbot-map.pt",
        "ee665103348e07e6b826d529b8e61de8f413d5432a4f2e84970d6c8fd2e1cd72",
        revision=_LINGBOT_MAP[1],
        config="full",
    ),
    "lingbot-map-long": PublicFile(
        _LINGBOT_MAP[0],
        "lingbot-map-long.pt",
        "832bc82cbae0bc9bbe946ef5ee1f7226abd8c0e183ccf8beddbb3d133576f409",
        revision=_LINGBOT_MAP[1],
        size=4_632_303_465,
        config="full",
    ),
    "skyseg": PublicFile(
        "JianyuanWang/skyseg",
        "skyseg.onnx",
        "ab9c34c64c3d821220a2886a4a06da4642ffa14d5b30e8d5339056a089aa1d39",
        size=175_997_079,
    ),
    "skyseg-batch": PublicFile(
        _LINGBOT_MAP[0],
        "skyseg_batch.onnx",
        "b09c0f6cf79e1caa2591b946b659487bd7c8208caddd3f80680cbb169617e378",
        revision=_LINGBOT_MAP[1],
    ),
}
"""The published files by the names that an experiment may write in a checkpoint's place."""


def user_cache(kind: str) -> Path:
    """Folder of what is computed once and kept for the user, made by who writes: ``kind`` under ``XDG_CACHE_HOME``."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "lingbot-eval" / kind


def remembered(kind: str, name: str) -> dict[str, Any]:
    """What `remember` kept; nothing where there is none, or no whole one."""
    with suppress(OSError, ValueError):
        found = read_json(user_cache(kind) / f"{name}.json")
        if isinstance(found, dict):
            return found
    return {}


def remember(kind: str, name: str, found: Mapping[str, Any]) -> None:
    """Keep for the user's next process what took time to find out; a cache that cannot be written costs time alone.

    Args:
        kind: Folder of the user's cache.
        name: Of the file there, without its ending.
        found: Plain JSON values.
    """
    file = user_cache(kind) / f"{name}.json"
    with suppress(OSError, StoreError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(found))


def shared_folder(kind: Kind) -> Path:
    """Folder of the shipped cards (``datasets``), experiment files (``experiments``) or the notebook's template
    (``reports``). Raises ConfigError."""
    package = Path(lingbot_eval.__file__).parent
    installed = package / "share" / kind
    if installed.is_dir():
        return installed
    # Beside an installed package lies site-packages, where a folder of this name may be somebody else's library:
    # only a checkout has the project file next to it.
    checkout = package.parent
    folder = checkout / "benchmarks" / kind if kind == "experiments" else checkout / kind
    if (checkout / "pyproject.toml").is_file() and folder.is_dir():
        return folder
    raise ConfigError(f"the shipped {kind} are not in {installed}; the installation is incomplete: install it again")


def shared_names(kind: Kind) -> tuple[str, ...]:
    """Names of the shipped YAML files of a kind, without suffix, sorted."""
    return tuple(sorted(path.stem for path in shared_folder(kind).glob("*.yaml")))


def shared_file(kind: Kind, name: str) -> Path:
    """The shipped ``name.yaml`` of a kind. Raises ConfigError that lists the names there are."""
    names = shared_names(kind)
    # A look-up among the names found, so that a name such as "../x" cannot leave the folder.
    if name not in names:
        raise ConfigError(
            f"no {kind[:-1]} called {name!r} is shipped{nearest(name, names)}; there are: {', '.join(names)}"
        )
    return shared_folder(kind) / f"{name}.yaml"


def shipped_weights() -> Path:
    """The weights that come with the package (reports/ci_checkpoint.md). Raises ConfigError."""
    path = Path(lingbot_eval.__file__).parent / "weights" / f"{SHIPPED_CONFIG}.safetensors"
    if not path.is_file():
        raise ConfigError(f"the shipped weights are not at {path}; the installation is incomplete: install it again")
    return path


_CHILD = (
    "import runpy, sys; module, sys.path[:] = sys.argv[1], sys.argv[2:]; del sys.argv[1:];"
    " runpy.run_module(module, run_name='__main__', alter_sys=True)"
)


def python_child(module: str) -> list[str]:
    """The command of a Python process that runs a module, and imports from where this process does, in that order.

    Only the folder in which the user stands, where a prompt or a notebook looks first, comes last: a plugin there is
    found, and no module there stands in a library's place. The environment has no part in it: programs of other
    environments that the process starts are not told of this one's libraries.

    Args:
        module: as after ``python -m``.
    """
    given = [each for each in sys.path if isinstance(each, str)]
    folders = [each for each in given if each] + [each for each in given if not each]
    return [sys.executable, "-P", "-c", _CHILD, module, *dict.fromkeys(map(os.path.abspath, folders))]


def expanded(path: str | Path) -> Path:
    """``path`` with ``~`` and ``~user`` replaced; of a user that nobody knows it stays, and is not found then."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises RuntimeError for an unknown user
