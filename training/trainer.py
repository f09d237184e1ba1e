"""The training loop: draws clips, steps, logs, validates, saves; stops in time and goes on from where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import chain, count, islice
from pathlib import Path

import torch
from torch import Tensor

from lingbot_eval.errors import ConfigError
from lingbot_eval.machine.gpu import tf32_products
from lingbot_eval.model.config import CONFIGS, ConfigName
from training.clips import Bank
from training.learner import Learner, SkipLimit
from training.recipe import RECIPES, BatchMaker
from training.scene_jobs import JobSupply, Order, training_jobs, validation_jobs
from training.state import (
    WEIGHTS,
    Journal,
    Origin,
    Progress,
    about_run,
    export,
    export_weights,
    load_state,
    read_start,
    save_state,
)
from training.validation import Validator

GENERATOR_KEY = "generator"
ENDING_SECONDS = 10.0
"""Kept for the last validation, state, curve and export of a run that has to end in time."""
Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class TrainingSettings:
    """One run. Its whole length, which the schedule is laid over, is exactly one of: minutes, over all calls and
    without preparation; steps; within_minutes, of this call with everything.

    start_from: weights of an earlier run, a file or what it exported. export: folder for what travels to the next
    machine. learning_rate: peak, None for the recipe's. call_minutes: stop this call after so many minutes, saved, the
    run to be resumed. workers: processes that build scenes. log_seconds,
    save_seconds: how often.
    """

    out: Path
    config: ConfigName = "ci"
    recipe: str = "gpu"
    seed: int = 0
    minutes: float | None = None
    steps: int | None = None
    within_minutes: float | None = None
    start_from: Path | None = None
    export: Path | None = None
    learning_rate: float | None = None
    call_minutes: float | None = None
    workers: int = 0
    log_seconds: float = 30.0
    save_seconds: float = 120.0

    def plan(self) -> dict[str, str | int | float | None]:
        """What a resumed run must share with the one that it resumes."""
        whole = asdict(self)
        kept = ("config", "recipe", "seed", "minutes", "steps", "within_minutes", "learning_rate")
        return {key: whole[key] for key in kept}


def train(settings: TrainingSettings, device: torch.device, report: Report) -> Path:
    """Train, or go on training, until the planned length or this call's time; returns the exported weights.

    Raises ConfigError for settings that contradict themselves or the state in the folder, CheckpointError for weights
    to start from that cannot be read or do not fit, TrainingError when too many gradients are not finite, StoreError
    when a folder cannot be written.
    """
    lengths = (settings.minutes, settings.steps, settings.within_minutes)
    if sum(length is not None for length in lengths) != 1:
        raise ConfigError("give the length of the run in minutes, in steps or within minutes, one of them")
    settings.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # On a GPU's matrix units: the truth is computed without them (rigid.turned).
        stack.enter_context(tf32_products(allowed=device.type == "cuda"))
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
        self._journal = Journal(settings.out)
        self._limit = SkipLimit()
        self._steps, self._trained_before, self._jobs = 0, 0.0, 0
        self._length = 0.0
        self._origin = Origin()
        self._begin()
        self._supply = stack.enter_context(JobSupply(self._orders(), settings.workers))
        self._bank = self._new_bank(self._recipe.bank_capacity, self._recipe.bank_frames)
        self._batches = BatchMaker(self._bank, self._learner.precision)
        self._taken = 0

    def go(self, report: Report) -> Path:
        for _ in range(self._recipe.opening_jobs):
            self._add_scene()
        self._validator = self._held_out()
        self._synchronise()
        rendered = time.perf_counter()
        self._rehearse()
        self._synchronise()
        prepared = {"scenes_seconds": rendered - self._started, "rehearsal_seconds": time.perf_counter() - rendered}
        report({**prepared, "sequences": float(len(self._bank)), **self._memory()})
        self._clock = time.perf_counter()
        self._length = self._planned_seconds()
        logged = saved = self._clock
        sums: dict[str, Tensor] = {}
        logged_steps = self._steps
        while not self._done():
            terms = self._step()
            sums = {name: value + sums[name] if sums else value for name, value in terms.items()}
            now = time.perf_counter()
            if now - logged >= self._settings.log_seconds or self._done():
                self._log(sums, self._steps - logged_steps, now - logged, report)
                logged, logged_steps, sums = time.perf_counter(), self._steps, {}
            if now - saved >= self._settings.save_seconds:
                self._save()
                saved = time.perf_counter()
        about = self._save()
        self._journal.draw()
        if self._settings.export is not None:
            export(self._settings.out, self._settings.export, self._learner.exported(), about)
        return self._settings.out / WEIGHTS

    def _planned_seconds(self) -> float:
        """Length of the run in seconds of training, over all calls; infinite where it is given in steps."""
        if self._settings.within_minutes is not None and self._length > 0:
            return self._length  # as the first call planned it: the schedule lies over it
        if self._settings.within_minutes is not None:
            left = 60 * self._settings.within_minutes - (self._clock - self._started) - ENDING_SECONDS
            return self._trained_before + max(left, 1.0)
        return 60 * self._settings.minutes if self._settings.minutes is not None else float("inf")

    def _seconds(self) -> float:
        """Trained so far, over all calls; preparing is not training."""
        return self._trained_before + time.perf_counter() - self._clock

    def _share(self) -> float:
        """How far the run has come, in [0, 1]."""
        if self._settings.steps is not None:
            return self._steps / self._settings.steps
        return self._seconds() / self._length

    def _done(self) -> bool:
        called = (time.perf_counter() - self._started) / 60
        return self._share() >= 1 or (self._settings.call_minutes is not None and called >= self._settings.call_minutes)

    def _step(self) -> dict[str, Tensor]:
        due = self._steps > 0 and self._steps % self._recipe.job_every == 0
        # While the bank fills, what is there is taken, and nothing is waited for.
        if due or (self._taken < self._recipe.first_jobs and self._supply.ready()):
            self._add_scene()
        share = self._share()
        batch = self._batches.draw(self._recipe.phase_at(share), self._generator)
        terms = self._learner.learn(*batch, self._recipe.learning_rate_at(share))
        self._steps += 1
        self._learner.average(self._steps)
        return terms

    def _rehearse(self) -> None:
        """One batch of every diet at its widest, before the clock starts: no surprise of memory or time comes later."""
        generator = torch.Generator().manual_seed(self._settings.seed)
        for diet in {diet for phase in self._recipe.phases for _, diet in phase.diets}:
            self._learner.rehearse(*self._batches.widest(diet, generator))

    def _orders(self) -> Iterator[Order]:
        """Scenes of the opening, then the held-out ones, then all further ones."""
        settings = training_jobs(self._recipe.bank_frames, self._recipe.walks, self._settings.seed)
        training = ((settings, number) for number in count(self._origin.scenes + self._jobs))
        held_out = validation_jobs(self._recipe.validation_frames)
        validation = ((held_out, number) for number in range(self._recipe.validation_scenes))
        return chain(islice(training, self._recipe.opening_jobs), validation, training)

    def _add_scene(self) -> None:
        self._bank.add(next(self._supply))
        self._jobs += 1
        self._taken += 1

    def _new_bank(self, capacity: int, frames: int) -> Bank:
        return Bank(capacity, frames, self._recipe.bank_size, self._device)

    def _held_out(self) -> Validator:
        frames = self._recipe.validation_frames
        bank = self._new_bank(self._recipe.validation_scenes, frames)
        for _ in range(self._recipe.validation_scenes):
            bank.add(next(self._supply))
        return Validator(bank, CONFIGS[self._settings.config].window)

    def _log(self, sums: dict[str, Tensor], steps: int, seconds: float, report: Report) -> None:
        """A row about the last ``steps`` steps. Raises TrainingError where too many of them were skipped."""
        skips = self._learner.skips.read()
        learned = steps - skips.skipped
        share = self._share()
        # Early phases see small images: what they have learned shows at that size.
        size = self._recipe.phase_at(share).diets[0][1].size
        row = {
            "run": float(self._origin.runs),
            "step": float(self._origin.steps + self._steps),
            "minutes": self._origin.minutes + self._seconds() / 60,
            "share": share,
            "learning_rate": self._recipe.learning_rate_at(share),
            "steps_per_second": steps / seconds,
            "skipped": float(skips.skipped),
            "sequences_seen": float((self._origin.scenes + self._jobs) * self._recipe.walks),
            "sequences_refused": float(self._bank.refused),
            **({name: float(value) / learned for name, value in sums.items()} if learned else {}),
            **self._validator(self._learner.averaged, self._learner.precision, size),
            "height": float(size[0]),
            **self._memory(),
        }
        self._journal.add(row)
        report(row)
        self._limit.check(int(row["step"]), steps, skips)

    def _memory(self) -> dict[str, float]:
        on_gpu = self._device.type == "cuda"
        return {"peak_gb": torch.cuda.max_memory_allocated(self._device) / 1e9} if on_gpu else {}

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _save(self) -> dict[str, str]:
        """State and weights; returns what the weights say of themselves."""
        tensors = self._learner.tensors() | {GENERATOR_KEY: self._generator.get_state()}
        plan, origin = self._settings.plan(), asdict(self._origin)
        progress = Progress(self._steps, self._seconds(), self._jobs, plan, origin, self._length)
        save_state(self._settings.out, progress, tensors)
        about = self._about()
        export_weights(self._settings.out / WEIGHTS, self._learner.averaged, about)
        return about

    def _about(self) -> dict[str, str]:
        """What exported weights say of themselves; counts are over all runs."""
        origin = self._origin
        whole = Origin(
            runs=origin.runs + 1,
            steps=origin.steps + self._steps,
            minutes=round(origin.minutes + self._seconds() / 60, 2),
            scenes=origin.scenes + self._jobs,
        )
        on_gpu = self._device.type == "cuda"
        return about_run(
            whole,
            licence="Apache-2.0",
            data="synthetic scenes of lingbot_eval, seeds of training/scene_jobs.py",
            seed=self._settings.seed,
            recipe=self._settings.recipe,
            config=self._settings.config,
            device=torch.cuda.get_device_name(self._device) if on_gpu else "cpu",
            torch=torch.__version__,
        )

    def _begin(self) -> None:
        """Where this call begins: at the state in its folder, at another run's weights, or at a draw."""
        found = load_state(self._settings.out)
        if found is None and self._settings.start_from is not None:
            start = read_start(self._settings.start_from)
            self._learner.begin_with(start)
            self._origin = start.origin
            folder = self._settings.start_from
            self._journal.follow(folder if folder.is_dir() else folder.parent)
        # Another run of the same seed sees other clips.
        self._generator = torch.Generator().manual_seed(self._settings.seed + 1_000 * self._origin.runs)
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
        self._origin = Origin(**progress.origin)
        self._steps, self._trained_before, self._jobs = progress.steps, progress.seconds, progress.jobs
        self._length = progress.length
        self._journal.forget_after(self._origin.steps + self._steps)
