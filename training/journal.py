"""The log of a training run: one CSV, rewritten whole, and its curves as a picture."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lingbot_eval.files.atomic import atomic_path, write_text

CSV, CURVE = "training_log.csv", "training_curve.png"
POSE_TERMS = ("translation", "rotation", "relative_translation", "relative_rotation")
OTHER_TERMS = ("depth", "gradient", "points", "flow", "matching", "fov")
VALIDATION = {
    "ate_share_of_motionless": "ATE / ATE of a motionless estimate (target 0.25)",
    "ate_share_of_path": "ATE / path length (target 0.05)",
    "auc_30": "AUC@30 / 100 (target 0.5)",
    "delta_125": "share of pixels δ < 1.25 (target 0.85)",
}


class Journal:
    """Rows of numbers, some of which also carry validation; a resumed run goes on with the rows it finds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.rows = _rows(folder / CSV)

    def follow(self, earlier: Path) -> None:
        """Begin with the rows of the run in another folder that this one goes on with, if it has any."""
        self.rows = _rows(earlier / CSV)

    def forget_after(self, step: int) -> None:
        """Drop rows of steps that the state a run resumes from has not seen."""
        self.rows = [row for row in self.rows if row["step"] <= step]

    def add(self, row: dict[str, float]) -> None:
        """Append and write. Raises StoreError."""
        self.rows.append(row)
        write_text(self._folder / CSV, pd.DataFrame(self.rows).to_csv(index=False, float_format="%.6g"))

    def draw(self) -> None:
        """Loss terms and validation over minutes. Raises StoreError."""
        if not self.rows:
            return
        table = pd.DataFrame(self.rows)
        figure = Figure(figsize=(12, 4), dpi=110, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 3)
        for axes, terms, title in zip(
            panels,
            (POSE_TERMS, OTHER_TERMS, tuple(VALIDATION)),
            ("pose terms", "other terms", "validation"),
            strict=True,
        ):
            for term in terms:
                known = table[["minutes", term]].dropna() if term in table else None
                if known is not None and len(known):
                    axes.plot(known["minutes"], known[term], label=VALIDATION.get(term, term), marker=".", markersize=3)
            axes.set_title(title, fontsize=10, loc="left")
            axes.set_xlabel("minutes", fontsize=9)
            axes.grid(True, color="#DDDDDD", linewidth=0.6)
            if axes.get_legend_handles_labels()[0]:
                # Below, where it hides no data; the names of what is validated are long.
                columns = 1 if title == "validation" else 2
                axes.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns)
            if title == "validation":
                axes.set_ylim(0, 1.2)
            elif (table[[t for t in terms if t in table]] > 0).all(axis=None):
                axes.set_yscale("log")
        with atomic_path(self._folder / CURVE) as temporary:
            figure.savefig(temporary)


def _rows(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    return [{str(k): float(v) for k, v in row.dropna().items()} for _, row in pd.read_csv(path).iterrows()]
