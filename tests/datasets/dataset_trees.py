"""Writes tiny datasets in the exact layout of the real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 40, 30


def picture(seed: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def millimetres(seed: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    raw = np.random.default_rng(100 + seed).integers(500, 4000, (height, width)).astype(np.uint16)
    raw[0, 0], raw[0, 1] = 0, 65535
    return raw


def pose(seed: int) -> np.ndarray:
    angle = 0.1 * seed
    matrix = np.eye(4)
    matrix[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    matrix[:3, 3] = (seed, 0.5 * seed, -seed)
    return matrix


def write_seven_scenes(root: Path, numbers: tuple[int, ...] = (0, 1, 2, 5)) -> Path:
    """Two places; redkitchen has seq-01 (test), seq-02 (train), seq-03 (test), chess seq-01 (test)."""
    layout = {"redkitchen": {"Test": (1, 3), "Train": (2,)}, "chess": {"Test": (1,), "Train": ()}}
    for place, splits in layout.items():
        for split, sequences in splits.items():
            folder = root / place
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{split}Split.txt").write_text("".join(f"sequence{n}\r\n" for n in sequences))
            for sequence in sequences:
                write_seven_scenes_sequence(folder / f"seq-{sequence:02d}", numbers)
    return root


def write_seven_scenes_sequence(folder: Path, numbers: tuple[int, ...]) -> None:
    folder.mkdir()
    for number in numbers:
        stem = folder / f"frame-{number:06d}"
        Image.fromarray(picture(number)).save(f"{stem}.color.png")
        Image.fromarray(millimetres(number)).save(f"{stem}.depth.png")
        rows = ["\t ".join(f"{value: .7e}" for value in row) + "\t \n" for row in pose(number)]
        Path(f"{stem}.pose.txt").write_text("".join(rows))


TUM_SCENE = "rgbd_dataset_freiburg1_desk"


def write_tum(root: Path, scene: str = TUM_SCENE, frames: int = 4) -> Path:
    """Images at 30 Hz; depth 5 ms later; poses at 100 Hz from 25 ms after the first image to before the last."""
    folder = root / scene
    (folder / "rgb").mkdir(parents=True)
    (folder / "depth").mkdir()
    header = "# color images\n# file: 'rgbd_dataset.bag'\n# timestamp filename\n"
    colour, depth, truth = [header], [header], ["# ground truth trajectory\n"]
    start = 1305031453.359684
    for number in range(frames):
        time, depth_time = start + number / 30, start + number / 30 + 0.005
        Image.fromarray(picture(number)).save(folder / "rgb" / f"{time:.6f}.png")
        Image.fromarray(millimetres(number)).save(folder / "depth" / f"{depth_time:.6f}.png")
        colour.append(f"{time:.6f} rgb/{time:.6f}.png\n")
        depth.append(f"{depth_time:.6f} depth/{depth_time:.6f}.png\n")
    for step in range(8):
        seconds = start + 0.025 + 0.01 * step
        half = 0.05 * step
        truth.append(f"{seconds:.4f} {step} 0 0 0 {np.sin(half):.6f} 0 {np.cos(half):.6f}\n")
    (folder / "rgb.txt").write_text("".join(colour))
    (folder / "depth.txt").write_text("".join(depth))
    (folder / "groundtruth.txt").write_text("".join(truth))
    return root
