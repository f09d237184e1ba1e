"""Where things are: cards, experiment files and the notebook's template in a wheel or a checkout, the weights in the
package, and paths that users write with ``~``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import lingbot_eval
from lingbot_eval.errors import ConfigError
from lingbot_eval.validation import nearest

Kind = Literal["datasets", "benchmarks", "reports"]
SHIPPED = "shipped"
"""What an experiment writes in a checkpoint's place for the weights that come with the package."""
SHIPPED_CONFIG: Literal["ci"] = "ci"
"""The one configuration that they are of."""


def shared_folder(kind: Kind) -> Path:
    """Folder of the shipped cards (``datasets``), experiment files (``benchmarks``) or the notebook's template
    (``reports``). Raises ConfigError."""
    package = Path(lingbot_eval.__file__).parent
    installed = package / "share" / kind
    if installed.is_dir():
        return installed
    # Beside an installed package lies site-packages, where a folder of this name may be somebody else's library:
    # only a checkout has the project file next to it.
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / kind).is_dir():
        return checkout / kind
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


def expanded(path: str | Path) -> Path:
    """``path`` with ``~`` and ``~user`` replaced; of a user that nobody knows it stays, and is not found then."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises RuntimeError for an unknown user
