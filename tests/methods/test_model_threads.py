"""What loading a model leaves behind in the process that asked for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ASKS = '''
import os
import time
import torch
from lingbot_eval.methods.lingbot_config import LingbotConfig
from lingbot_eval.methods.model import Model

def threads():
    """All but those that CUDA's driver, where there is one, keeps for itself."""
    found = 0
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/comm") as name:
                found += not name.read().startswith("cuda")
        except OSError:
            pass  # it ended
    return found

before = threads()
Model(LingbotConfig(kind="lingbot", model={"config": "ci", "checkpoint": "shipped"}, device="cpu"))
until = time.monotonic() + 10  # the system takes a moment to end a thread
while threads() > before and time.monotonic() < until:
    time.sleep(0.02)
print(before, threads())
'''


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="only Linux tells a process's threads")
def test_a_model_that_was_loaded_leaves_no_thread() -> None:
    """With OpenMP's of the loading thread beside those of a stream elsewhere, there are more than cores: all sleep."""
    done = subprocess.run(
        [sys.executable, "-c", ASKS],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    before, after = map(int, done.stdout.split())
    assert after == before
