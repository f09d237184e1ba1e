"""The wait for the first prediction: parts with names, and what has none."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from lingbot_eval.machine import wait as wait_module
from lingbot_eval.machine.wait import Wait, process_age_s


def test_parts_add_up_to_the_wait() -> None:
    wait = Wait()
    wait.begin("start", 2.0)
    with wait.part("read"):
        time.sleep(0.02)
    time.sleep(0.02)
    with pytest.raises(ValueError, match="broken"), wait.part("read"):
        raise ValueError("broken")
    found = wait.end("first prediction")
    assert list(found) == ["start", "read", "first prediction", "other", "total"]
    assert found["start"] == 2.0
    assert found["read"] >= 0.02
    assert found["other"] >= 0.02
    assert sum(found.values()) - found["total"] == pytest.approx(found["total"], abs=0.003)


def test_a_wait_begins_with_its_first_part_and_ends_once() -> None:
    wait = Wait()
    assert wait.end("nothing") == {}
    with wait.part("open scene"):
        pass
    assert list(wait.end("first prediction")) == ["open scene", "first prediction", "other", "total"]
    assert wait.end("first prediction") == {}


def test_each_second_is_of_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a part that comes twice it is the sum, the last one's included; a second wait knows nothing of the first."""
    moments = iter([100.0, 101.0, 104.0, 110.0, 114.0, 120.0, 200.0, 205.0, 206.0005])
    monkeypatch.setattr(wait_module, "time", SimpleNamespace(perf_counter=lambda: next(moments)))
    wait = Wait()
    wait.begin("start", 2.0)
    for name in ("read", "load"):
        with wait.part(name):
            pass
    assert wait.end("read") == {"start": 2.0, "read": 9.0, "load": 4.0, "other": 7.0, "total": 22.0}
    with wait.part("open"):
        pass
    assert wait.end("first") == {"open": 5.0, "first": pytest.approx(1.0, abs=1e-3), "other": 0.0, "total": 6.0}


def test_the_age_of_a_process_counts_from_its_start() -> None:
    code = "import time; time.sleep(0.2); from lingbot_eval.machine.wait import process_age_s; print(process_age_s())"
    begun = time.perf_counter()
    age = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0.2 <= age <= time.perf_counter() - begun + 0.02
    assert process_age_s() > 0
