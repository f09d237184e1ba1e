"""Does what ``--fit`` chooses fit? Streams of noise under the limit of a card: settings, peaks, frames a second.

python -m benchmarks.fit_card 8GB:2000:1 8GB:10000:auto 6GB:2000:1 --checkpoint FILE

Each case is CARD:FRAMES:INTERVAL. Torch may take no more of the GPU than the card would leave it, loading included; in
use is what the driver says of the whole GPU, so nothing else may run there.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

from lingbot_eval.methods.base import free_device_memory
from lingbot_eval.methods.lingbot_config import LingbotConfig, ModelSettings
from lingbot_eval.methods.model import Model
from lingbot_eval.model.config import CONFIGS
from lingbot_eval.streaming.estimate import NetworkSize, Stream, fit, limit_memory, memory_bytes
from lingbot_eval.streaming.settings import StreamSettings
from lingbot_eval.types import Frame

_POOL = 16


def main() -> None:
    """Print a row a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", metavar="CARD:FRAMES:INTERVAL")
    parser.add_argument("--config", choices=CONFIGS, default="full")
    parser.add_argument("--size", default="518x378")
    parser.add_argument("--checkpoint")
    parser.add_argument("--within", type=float, default=1e9, help="seconds after which no further case begins")
    args = parser.parse_args()
    width, height = (int(side) for side in args.size.split("x"))
    device = torch.device("cuda:0")
    cases = [tuple(case.split(":")) for case in args.cases]
    images = torch.randint(0, 256, (_POOL, height, width, 3), dtype=torch.uint8).numpy()
    begun = time.perf_counter()
    columns = [
        "card",
        "frames",
        "interval",
        "chosen",
        "predicted, GB",
        "with reserve",
        "allocated",
        "reserved",
        "in use",
    ]
    sys.stdout.write(f"| {' | '.join(columns)} | frames/s |\n|---|---:|---|---|{'---:|' * 6}\n")
    for card, count, interval in cases:
        if time.perf_counter() - begun > args.within:
            break
        memory, frames = memory_bytes(card), int(count)
        asked = StreamSettings(keyframe_interval="auto" if interval == "auto" else int(interval))
        network = NetworkSize(CONFIGS[args.config], "float32")
        chosen = fit(network, asked, [Stream(height, width, frames)], memory, device).chosen
        free_device_memory()  # of a case that failed, too
        torch.cuda.reset_peak_memory_stats(device)
        limit_memory(device, memory)
        model = Model(
            LingbotConfig(
                kind="lingbot",
                model=ModelSettings(config=args.config, checkpoint=args.checkpoint),
                precision=chosen.precision,  # type: ignore[arg-type]  # checked there
                memory_gb=memory / 1e9,
                device="cuda",
            )
        )
        words = ", ".join(f"{name} {value}" for name, value in chosen.changed.items())
        stepper, done, used, problem = model.open(chosen.settings, frames), 0, 0, ""
        start = time.perf_counter()
        try:
            for index in range(frames):
                done += len(stepper.step(Frame(index, float(index), images[index % _POOL], "noise")))
                if index % 50 == 0:
                    free, total = torch.cuda.mem_get_info(device)
                    used = max(used, total - free)
            done += len(stepper.finish())
        except torch.OutOfMemoryError as error:
            problem = f" out of memory at frame {done}: {str(error).partition('. ')[0]}"
        rate = done / (time.perf_counter() - start)
        peaks = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device), used
        sizes = " | ".join(
            f"{size / 1e9:.2f}" for size in (chosen.estimate.peak_bytes, chosen.estimate.reserved_bytes, *peaks)
        )
        sys.stdout.write(f"| {card} | {done} of {frames} | {interval} | {words} | {sizes} | {rate:.1f} |{problem}\n")
        sys.stdout.flush()
        del stepper, model


if __name__ == "__main__":
    main()
