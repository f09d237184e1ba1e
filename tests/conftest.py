"""The suite tests the checkout that it lies in, from whichever folder it is started, in processes of its own as well.

``pythonpath`` in pyproject.toml sees to pytest's own process.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings

from tests.support.pictures import LAYOUT, PAINTED, blank, pictures_by

ROOT = Path(__file__).parents[1]
MODULES = pytest.StashKey[int]()
"""How many modules there were when all that there was was last set apart."""


def pytest_configure() -> None:
    """Programs that tests start find the checkout before what is installed; no example has a time limit."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Nothing of the suite stays in the user's cache, nor does a result rest on it.
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="lingbot-eval-cache-")
    # A machine that has other work, too, is slow: that is no fault of an example, nor of how it was made.
    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")
    # What a power cut would take no test can see: it waits for no disk. Tests of what is written through, and when,
    # put their own in this one's place.
    mock.patch("os.fsync", at_once).start()
    gc.disable()


def at_once(descriptor: int) -> None:
    """In place of ``os.fsync``."""


def pytest_collection_finish() -> None:
    """What is imported and collected stays, and no collection of garbage looks at it: neither now nor later.

    Methods collect whenever they are closed; over the objects of 7,000 tests each collection takes a second.
    """
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """What a test was the first to import stays as well: torch alone is more than all that was collected."""
    if len(sys.modules) > item.session.stash.get(MODULES, 0) + 50:
        gc.collect()
        gc.freeze()
        item.session.stash[MODULES] = len(sys.modules)


def pytest_unconfigure() -> None:
    """The cache goes with the suite."""
    shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def unpainted_pictures() -> Iterator[None]:
    """Figures are made and written whole, on paper that stays white: painting is half of the work of a report."""
    with pictures_by(blank):
        yield


@pytest.fixture(scope="module")
def painted_pictures(unpainted_pictures: None) -> Iterator[None]:
    """For what is asked of a picture itself, and for odd numbers, which may fail only when they are painted."""
    with pictures_by(PAINTED, LAYOUT):
        yield
