"""The training loop: draws clips, steps, logs, validates, saves; stops in time and goes on from where it stopped."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lingbot_eval.errors import ConfigError, LingbotEvalError
from lingbot_eval.model.config import CONFIGS, ConfigName
from lingbot_eval.training.bank import Bank
from lingbot_eval.training.clips import Clips, ClipShape, draw_clips
from lingbot_eval.training.forward import ClipPlan
from lingbot_eval.training.journal import Journal
from lingbot_eval.training.learner import Learner
from lingbot_eval.training.recipe import RECIPES, SCALE_FRAMES, Diet
from lingbot_eval.training.scene_jobs import JobSupply, training_jobs, validation_jobs
from lingbot_eval.training.state import WEIGHTS, Progress, export_weights, load_state, save_state
from lingbot_eval.training.validation import Validator
from lingbot_eval.training.visibility import StreamShape

GENERATOR_KEY = "generator"
Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class TrainingSettings:
    """One run. minutes or steps: its whole length, over all calls, which the schedule is laid over; exactly one.
    learning_rate: peak, None for the recipe's.

    call_minutes: stop this call after so many minutes, saved, the run to be resumed. workers: processes that build
    scenes. compiled: torch.compile the blocks. log_seconds, save_seconds: how often.
    """

    out: Path
    config: ConfigName = "ci"
    recipe: str = "gpu"
    seed: int = 0
    minutes: float | None = None
    steps: int | None = None
    learning_rate: float | None = None
    call_minutes: float | None = None
    workers: int = 0
    compiled: bool = False
    log_seconds: float = 30.0
    save_seconds: float = 120.0

    def plan(self) -> dict[str, str | int | float | None]:
        """What a resumed run must share with the one that it resumes."""
        whole = asdict(self)
        return {key: whole[key] for key in ("config", "recipe", "seed", "minutes", "steps", "learning_rate")}


class TrainingError(LingbotEvalError):
    """Training that cannot go on: the loss is no longer a number."""


def train(settings: TrainingSettings, device: torch.device, report: Report) -> Path:
    """Train, or go on training, until the planned length or this call's time; returns the exported weights.

    Raises ConfigError for settings that contradict themselves or the state in the folder, TrainingError when the loss
    is not finite, StoreError when the folder cannot be written.
    """
    if (settings.minutes is None) == (settings.steps is None):
        raise ConfigError("give the length of the run in minutes or in steps, one of them")
    settings.out.mkdir(parents=True, exist_ok=True)
    # Products of float32 on the matrix units: the truth is computed without them (rigid.turned).
    torch.backends.cuda.matmul.allow_tf32 = device.type == "cuda"
    with ExitStack() as stack:
        return _Run(settings, device, stack).go(report)


class _Run:
    """One call's share of a run."""

    def __init__(self, settings: TrainingSettings, device: torch.device, stack: ExitStack) -> None:
        self._started = time.perf_counter()
        self._settings = settings
        recipe = RECIPES[settings.recipe]
        self._recipe = replace(recipe, learning_rate=settings.learning_rate or recipe.learning_rate)
        self._device = device
        self._learner = Learner(CONFIGS[settings.config], self._recipe, settings.seed, device)
        if settings.compiled:
            self._learner.compile()
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._journal = Journal(settings.out)
        self._steps, self._trained_before, self._jobs = 0, 0.0, 0
        self._resume()
        self._plans: dict[tuple[StreamShape, tuple[int, int]], ClipPlan] = {}
        jobs = training_jobs(self._recipe.bank_frames, self._recipe.walks, settings.seed)
        self._supply = stack.enter_context(JobSupply(jobs, settings.workers, first=self._jobs))
        self._bank = self._new_bank(self._recipe.bank_capacity, self._recipe.bank_frames)
        self._validator = self._held_out(settings.workers)

    def go(self, report: Report) -> Path:
        for _ in range(self._recipe.first_jobs):
            self._add_scene()
        self._synchronise()
        rendered = time.perf_counter()
        self._rehearse()
        self._synchronise()
        prepared = {"scenes_seconds": rendered - self._started, "rehearsal_seconds": time.perf_counter() - rendered}
        report({**prepared, "sequences": float(len(self._bank)), **self._memory()})
        self._clock = time.perf_counter()
        logged = saved = self._clock
        sums: dict[str, Tensor] = {}
        logged_steps, summed = self._steps, 0
        while not self._done():
            terms = self._step()
            sums = {name: value + sums[name] if sums else value for name, value in terms.items()}
            summed += 1
            now = time.perf_counter()
            if now - logged >= self._settings.log_seconds or self._done():
                means = {name: float(value) / summed for name, value in sums.items()}
                self._log(means, (self._steps - logged_steps) / (time.perf_counter() - logged), report)
                logged, logged_steps, sums, summed = time.perf_counter(), self._steps, {}, 0
            if now - saved >= self._settings.save_seconds:
                self._save()
                saved = time.perf_counter()
        self._save()
        self._journal.draw()
        return self._settings.out / WEIGHTS

    def _seconds(self) -> float:
        """Trained so far, over all calls; preparing is not training."""
        return self._trained_before + time.perf_counter() - self._clock

    def _share(self) -> float:
        """How far the run has come, in [0, 1]."""
        if self._settings.steps is not None:
            return self._steps / self._settings.steps
        return self._seconds() / (60 * (self._settings.minutes or 1.0))

    def _done(self) -> bool:
        called = (time.perf_counter() - self._started) / 60
        return self._share() >= 1 or (self._settings.call_minutes is not None and called >= self._settings.call_minutes)

    def _step(self) -> dict[str, Tensor]:
        if self._steps % self._recipe.job_every == 0 and self._steps:
            self._add_scene()
        share = self._share()
        phase = self._recipe.phase_at(share)
        dice = random.Random(int(torch.randint(2**62, (), generator=self._generator)))
        diet = dice.choices([d for _, d in phase.diets], [w for w, _ in phase.diets])[0]
        stream = StreamShape(diet.frames, SCALE_FRAMES, dice.choice(diet.windows), dice.choice(diet.intervals))
        batch = self._batch(diet, stream, self._generator)
        terms = self._learner.learn(*batch, self._recipe.learning_rate_at(share))
        self._steps += 1
        self._learner.average(self._steps)
        return terms

    def _rehearse(self) -> None:
        """One batch of every diet at its widest, before the clock starts: no surprise of memory or time comes later."""
        generator = torch.Generator().manual_seed(self._settings.seed)
        for diet in {diet for phase in self._recipe.phases for _, diet in phase.diets}:
            stream = StreamShape(diet.frames, SCALE_FRAMES, max(diet.windows), max(diet.intervals))
            self._learner.rehearse(*self._batch(diet, stream, generator))

    def _batch(self, diet: Diet, stream: StreamShape, generator: torch.Generator) -> tuple[Clips, ClipPlan, Tensor]:
        """Clips, their masks, and which of their frames have their depth supervised."""
        shape = ClipShape(diet.clips, diet.frames, diet.size, diet.strides, SCALE_FRAMES)
        clips = draw_clips(self._bank, self._recipe.bank_frames, shape, generator)
        order = torch.randperm(diet.clips * diet.frames, generator=generator)
        return clips, self._plan(stream, diet), order[: diet.depth_frames].sort().values.to(self._device)

    def _plan(self, stream: StreamShape, diet: Diet) -> ClipPlan:
        key = (stream, diet.size)
        if key not in self._plans:
            # Masks of the diets of earlier phases are not needed again.
            if len(self._plans) >= 16:
                self._plans.clear()
            like = torch.empty(0, dtype=self._learner.precision, device=self._device)
            self._plans[key] = ClipPlan(stream, diet.size, like)
        return self._plans[key]

    def _add_scene(self) -> None:
        self._bank.add(next(self._supply))
        self._jobs += 1

    def _new_bank(self, capacity: int, frames: int) -> Bank:
        return Bank(capacity, frames, self._recipe.bank_size, self._device)

    def _held_out(self, workers: int) -> Validator:
        count, frames = self._recipe.validation_scenes, self._recipe.validation_frames
        bank = self._new_bank(count, frames)
        with JobSupply(validation_jobs(frames), min(workers, count)) as supply:
            for _ in range(count):
                bank.add(next(supply))
        window = CONFIGS[self._settings.config].window
        return Validator(bank, frames, window)

    def _log(self, means: dict[str, float], steps_per_second: float, report: Report) -> None:
        if not means["loss"] < float("inf"):
            raise TrainingError(
                f"step {self._steps}: the loss is {means['loss']}; start again in another folder with a lower learning"
                " rate or another seed"
            )
        share = self._share()
        # Early phases see small images: what they have learned shows at that size.
        size = self._recipe.phase_at(share).diets[0][1].size
        row = {
            "step": float(self._steps),
            "minutes": self._seconds() / 60,
            "share": share,
            "learning_rate": self._recipe.learning_rate_at(share),
            "steps_per_second": steps_per_second,
            "sequences_seen": float(self._jobs * self._recipe.walks),
            **means,
            **self._validator(self._learner.averaged, self._learner.precision, size),
            "height": float(size[0]),
            **self._memory(),
        }
        self._journal.add(row)
        report(row)

    def _memory(self) -> dict[str, float]:
        on_gpu = self._device.type == "cuda"
        return {"peak_gb": torch.cuda.max_memory_allocated(self._device) / 1e9} if on_gpu else {}

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _save(self) -> None:
        seconds = self._seconds()
        tensors = self._learner.tensors() | {GENERATOR_KEY: self._generator.get_state()}
        save_state(self._settings.out, Progress(self._steps, seconds, self._jobs, self._settings.plan()), tensors)
        about = {
            "licence": "Apache-2.0",
            "data": "synthetic scenes of lingbot_eval, seeds of lingbot_eval/training/scene_jobs.py",
            "seed": self._settings.seed,
            "recipe": self._settings.recipe,
            "config": self._settings.config,
            "steps": self._steps,
            "training_minutes": round(seconds / 60, 2),
            "scenes": self._jobs,
            "device": torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu",
            "torch": torch.__version__,
        }
        export_weights(self._settings.out / WEIGHTS, self._learner.averaged, about)

    def _resume(self) -> None:
        found = load_state(self._settings.out)
        if found is None:
            return
        progress, tensors = found
        if progress.plan != self._settings.plan():
            raise ConfigError(
                f"{self._settings.out} holds a run of {progress.plan}, asked for is {self._settings.plan()};"
                " choose another folder, or the same settings to go on"
            )
        self._learner.restore(tensors)
        self._generator.set_state(tensors[GENERATOR_KEY])
        self._steps, self._trained_before, self._jobs = progress.steps, progress.seconds, progress.jobs
        self._journal.forget_after(self._steps)
