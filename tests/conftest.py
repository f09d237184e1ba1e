"""The suite tests the checkout that it lies in, from whichever folder it is started, in processes of its own as well.

``pythonpath`` in pyproject.toml sees to pytest's own process.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pytest_configure() -> None:
    """Programs that tests start find the checkout before what is installed."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
