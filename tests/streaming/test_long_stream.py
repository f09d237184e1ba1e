"""3,000 frames through the real run: memory is flat but for the trajectory memory, which follows its formula."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lingbot_eval.cli.main import main

FRAMES, EARLY = 3000, 500


@pytest.mark.slow
def test_process_memory_is_flat(tmp_path: Path) -> None:
    overrides = [f"datasets.0.options.frames={FRAMES}", "methods.0.streaming.keyframe_interval=1"]
    arguments = [word for override in overrides for word in ("--set", override)]
    assert main(["run", "smoke", "--out", str(tmp_path), "--no-report", *arguments]) == 0
    (table,) = tmp_path.glob("smoke-*/units/*/*/*/frames.csv")
    frames = pd.read_csv(table)
    grown = frames["cache_memory_bytes"] + frames["cache_camera_head_bytes"]
    rest = frames["process_bytes"] - grown
    assert rest.iloc[-1] <= 1.1 * rest.iloc[EARLY]
    # Configuration ci: 4 global layers of 2 heads, 16 camera layers of 4 heads, heads of 64, float32, keys and values.
    memory_frames = FRAMES - 8 - 16
    assert frames["cache_memory_bytes"].iloc[-1] == memory_frames * 6 * 2 * 4 * 2 * 64 * 4
    assert frames["cache_camera_head_bytes"].iloc[-1] == FRAMES * 2 * 16 * 4 * 64 * 4
