# %% [markdown]
# # Stored runs, read again
#
# Made by `lingbot-eval report --notebook` from `reports/template.py`; go on from here. Everything comes from the run
# directories through `lingbot_eval.reports.reading`, so every cell can be run again while a run goes on.

# %% [setup]
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display

from lingbot_eval.reports.drawing import unit_figures
from lingbot_eval.reports.reading import environments, failures, measurements, open_runs, overview, series, settings

# Names of scenes are shown as they are, never as formulas.
pd.set_option("display.html.use_mathjax", False, "display.max_colwidth", None, "display.max_rows", 100)
pd.set_option("display.float_format", "{:.6g}".format)

# %% [runs]
RUNS = ["runs/smoke-0123456789ab"]
LABELS = None

runs = open_runs(RUNS, LABELS or ())
overview(runs).set_index("run").T

# %% [markdown]
# ## What failed, and why

# %%
failures(runs)

# %% [markdown]
# ## Results
#
# `table` holds every stored number, one a row: `value` in `unit`, computed as `convention` says, from `samples`; where
# there is no value, `reason` says why. Weights that are `untrained` say nothing about the trained model.

# %%
table = measurements(runs)
table.drop(columns=["convention", "weights"]).fillna({"reason": ""}).head(20)

# %%
headlines = [
    ("trajectory", "ate_rmse", "sim3"),
    ("depth", "abs_rel", "scale_only"),
    ("throughput", "end_to_end_fps", ""),
]
chosen = table[table.set_index(["family", "name", "variant"]).index.isin(headlines)]
chosen.set_index(["dataset", "scene", "method", "run", "name", "unit"])["value"].unstack(["name", "unit"])

# %% [markdown]
# How each of them was computed:

# %%
for name, group in chosen.groupby("name"):
    for convention in group["convention"].unique():
        print(f"{name}: {convention}")

# %% [markdown]
# ## Along the sequence
#
# The frame table of each scene and method, drawn over each other. `series` also gives `paths`, `drift` and `panels`.

# %%
figure, (errors, times) = plt.subplots(2, 1, figsize=(9, 5.5), sharex=True, layout="constrained")
for run in runs:
    for unit in run.results.units:
        names = (unit.record.dataset, unit.record.scene, unit.record.method)
        frames = series(run, *names).frames
        if frames is None:
            continue
        label = f"{run.unit_label(names)}, {run.label}".replace("$", r"\$")
        errors.plot(frames["index"], frames["position_error_m"], linewidth=1, label=label)
        times.plot(frames["index"], frames["forward_ms"].rolling(15, center=True, min_periods=1).median(), linewidth=1)
errors.set(ylabel="m", title="Distance to the reference after Sim(3) alignment")
times.set(ylabel="ms", xlabel="frame", title="Forward time, rolling median of 15 frames")
for axes in (errors, times):
    axes.grid(alpha=0.3)
if errors.get_legend_handles_labels()[0]:
    figure.legend(loc="outside lower center", fontsize=8, frameon=False)
plt.show()

# %% [markdown]
# ## The report's figures of one scene
#
# The first that went well; change `names` for another.

# %%
done = [
    (run, (unit.record.dataset, unit.record.scene, unit.record.method))
    for run in runs
    for unit in run.results.units
    if unit.record.status == "ok"
]
for run, names in done[:1]:
    for drawn in unit_figures(run, names).values():
        display(drawn)

# %% [markdown]
# ## Settings and machines
#
# All of one run; where there are several, those in which they differ.

# %%
rows = [*settings([run.results for run in runs]), *environments([run.results for run in runs])]
shown = [row for row in rows if row.differs or len(runs) == 1]
pd.DataFrame([row.values for row in shown], index=[row.name for row in shown], columns=[run.label for run in runs])
