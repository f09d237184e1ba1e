"""Score a trajectory against a reference: python examples/score_two_files.py gt.txt mine.txt"""

import sys

import lingbot_eval as lb

if len(sys.argv) != 3:
    print("usage: python score_two_files.py GT MINE", file=sys.stderr)
    sys.exit(2)
reference, estimate = (lb.read_trajectory(path) for path in sys.argv[1:3])
score = lb.score(reference, estimate, align="sim3")

for name in ("ate_rmse", "rpe_translation_rmse", "rpe_rotation_rmse", "auc_30"):
    measured = score[name]
    # A measurement has a value or a reason, exactly one of them.
    print(f"{name:22}", measured.reason if measured.value is None else f"{measured.value:.4f} {measured.unit}")
    print(" " * 22, measured.convention)
for alignment in ("sim3", "se3", "anchor", "none"):
    print("ATE under", alignment, score["ate_rmse", alignment].value)
for note in score.notes:
    print("note:", note)

score.to_pandas().to_csv("score.csv", index=False)
