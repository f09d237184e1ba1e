"""Run an experiment, make it the baseline, and hold a second run against it: python examples/gate_in_a_script.py"""

import sys

import lingbot_eval as lb

EXPERIMENT = {
    "name": "gated",
    "datasets": [
        {
            "name": "synthetic",
            "scenes": ["room"],
            "options": {"frames": 12, "width": 112, "height": 84},
            "size": {"mode": "exact", "width": 112, "height": 84},
        }
    ],
    "methods": [{"kind": "lingbot", "model": {"config": "ci", "checkpoint": "shipped"}, "device": "cpu"}],
}

good = lb.run(EXPERIMENT, out="runs/good")
lb.update_baseline(good, "baseline.yaml", reason="first", who="me")

new = lb.run(EXPERIMENT, out="runs/new")
verdict = lb.gate(new, baseline="baseline.yaml", require=["accuracy"])
for finding in verdict.findings:
    if finding.status == "regression":
        print(finding.metric, finding.baseline, "->", finding.run)
sys.exit(verdict.exit_code)
