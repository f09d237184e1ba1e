"""Read a stored run into pandas: python examples/read_a_run.py runs/smoke-…"""

import sys

import lingbot_eval as lb

if len(sys.argv) != 2:
    print("usage: python read_a_run.py RUN", file=sys.stderr)
    sys.exit(2)
run = lb.open_run(sys.argv[1])
print(run.label, run.state)

table = run.measurements()  # one row a measurement: value or reason, unit, convention
headline = table[table["name"].isin(["ate_rmse", "forward_fps", "auc_30"])]
print(headline.pivot_table(index=["scene", "method"], columns=["name", "variant"], values="value"))

for reason in table.loc[table["value"].isna(), "reason"].unique():
    print("no value:", reason)

for dataset, scene, method in table[["dataset", "scene", "method"]].drop_duplicates().itertuples(index=False):
    frames = run.frames(dataset, scene, method)  # one row a frame
    print(scene, method, "median ms between predictions:", frames["interval_ms"].median())
