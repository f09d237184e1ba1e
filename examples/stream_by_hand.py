"""Stream the images of a folder, one by one: python examples/stream_by_hand.py my_photos

The loop may be a camera's just as well: any image goes in, and predictions come out as they are ready.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import lingbot_eval as lb

if len(sys.argv) != 2:
    print("usage: python stream_by_hand.py FOLDER", file=sys.stderr)
    sys.exit(2)
images = sorted(Path(sys.argv[1]).glob("*.png"))
model = lb.load_model("shipped", device="cpu")
session = model.session(keyframe_interval=2, frames=len(images))

poses = []


def take(ready):
    """Camera-to-world poses in OpenCV axes, and depth of the resized image, in the model's own scale."""
    for prediction in ready:
        depth = prediction.depth
        poses.append(prediction.camera_to_world)
        print(prediction.index, poses[-1][:3, 3].round(3), f"depth {np.median(depth):.2f}, {depth.shape}")


for number, path in enumerate(images):
    # Nothing comes while the first eight gather: they enter together.
    take(session.step(Image.open(path), timestamp=number / 30))
take(session.finish())

np.save("poses.npy", np.stack(poses))
