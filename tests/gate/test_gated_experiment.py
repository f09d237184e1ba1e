"""What CI gates is the smoke run that users get, and no other."""

from __future__ import annotations

from lingbot_eval.runs.experiment import load_experiment


def test_the_gate_runs_the_smoke_run() -> None:
    smoke, gated = load_experiment("smoke"), load_experiment("ci_gate")
    (method,) = smoke.methods
    assert gated.datasets == smoke.datasets
    assert gated.metrics == smoke.metrics
    # On a CPU: where there is a GPU, the baseline's numbers would be another device's.
    assert method.model_copy(update={"device": "cpu"}) in gated.methods
