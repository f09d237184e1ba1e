"""What a stored unit was made from, opened again: its images, where they are still there and the same."""

from __future__ import annotations

from collections.abc import Iterator

from lingbot_eval.datasets.prepare import prepare
from lingbot_eval.errors import ConfigError, DataError
from lingbot_eval.runs.experiment import Experiment
from lingbot_eval.runs.plan import Unit, input_fingerprint, open_scene
from lingbot_eval.runs.records import RunRecord, UnitRecord
from lingbot_eval.types import Image
from lingbot_eval.validation import validated


class Source:
    """The frames that a unit's method saw.

    Args:
        run: the run's record, which has the settings.
        record: the unit's.

    Raises:
        DataError: the scene is not there any more, or not as it was.
        ConfigError: settings that this version, or this machine without a plugin, cannot read.
    """

    def __init__(self, run: RunRecord, record: UnitRecord) -> None:
        settings = {key: value for key, value in run.experiment.items() if key != "cards"}
        experiment = validated(Experiment, settings, f"the experiment of run {run.name}")
        datasets = {dataset.filed_as: dataset for dataset in experiment.datasets}
        methods = {method.name: method for method in experiment.methods}
        if record.dataset not in datasets or record.method not in methods:
            raise ConfigError(f"run {run.name}: its experiment has no {record.dataset} with {record.method}")
        self._unit = Unit(datasets[record.dataset], record.scene, methods[record.method])
        self._sequence = open_scene(self._unit)
        if self._unit.method.repeatable and input_fingerprint(self._unit, self._sequence) != record.input_fingerprint:
            raise DataError(f"{record.dataset}/{record.scene}: the files are not those that were streamed")

    def images(self) -> Iterator[tuple[int, Image]]:
        """Index and image of each frame, at the size that the method saw. Raises DataError for one that is damaged."""
        for frame in self._sequence.frames(depth=False):
            image = prepare(frame, self._unit.size).image
            if image is not None:
                yield frame.index, image
