"""What can be evaluated: anything that turns frames into predictions, and the settings that describe it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self, TypeVar

from pydantic import BaseModel, Field, create_model

from lingbot_eval.errors import ConfigError, StreamError, one_line
from lingbot_eval.registry import Registry, check_name, check_subclass, place_in_plugin
from lingbot_eval.settings import StrictModel
from lingbot_eval.types import Frame, FrameSequence, Measurement, Prediction


class Method(Protocol):
    """One method, opened for one sequence after the other.

    The runner calls, for each sequence in this order: ``open``, ``warm_up`` with the first frame when
    ``needs_images``, ``predict``, ``resources`` after the last prediction; and ``close`` at the end or after a failure.
    """

    @property
    def name(self) -> str: ...

    @property
    def needs_images(self) -> bool: ...

    def describe(self) -> Mapping[str, Any]:
        """What the record must say of it: configuration, checkpoint or "untrained", backend, precision, device.

        ``found``, where there is any: what was counted or read on the way. Results, not settings: two runs that differ
        in it can still be compared.
        """
        ...

    def open(self, sequence: FrameSequence) -> None:
        """Bind to a scene (reads saved trajectories, resolves ``auto`` settings). Raises DataError or ConfigError."""
        ...

    def warm_up(self, frame: Frame) -> float:
        """Compile and touch everything once on a throw-away stream; returns the seconds it took."""
        ...

    def predict(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        """Predictions in frame order, as they are ready; frames without a prediction are simply left out."""
        ...

    def resources(self) -> tuple[Measurement, ...]:
        """Device-side memory (weights, cache, peaks) of the last ``predict``."""
        ...

    def files(self) -> Mapping[str, Path]:
        """Files worth keeping beside the result, such as a log: plain name → where the file is until ``close``.

        Asked for after the predictions, and after a failure.
        """
        ...

    def close(self) -> None:
        """Free device memory and files."""
        ...


class SavesStreams(Protocol):
    """What a method offers besides whose settings say `MethodSettings.saves_streams`."""

    def predict(self, frames: Iterable[Frame | None]) -> Iterator[Prediction]:
        """As `Method.predict`; at None all the predictions leave that there are."""
        ...

    def stream_state(self) -> Any:
        """The stream as it is, once all predictions that there are were taken; None where it cannot be left here.

        Plain values, nested, with the stream's own tensors among them: the next step changes those.
        """
        ...

    def go_on_from(self, state: Any) -> None:
        """Have the next ``predict`` go on from a state of the same settings, with the frames that come after it.

        In place of each tensor it has a function that reads its bytes: (N,) uint8.
        """
        ...


@dataclass(frozen=True)
class WeightFile:
    """Which weights a method will have. sha256: of the checkpoint file, None for untrained weights."""

    label: str
    sha256: str | None


class MethodSettings(StrictModel):
    """A method as an experiment file writes it. Each kind answers for itself what a plan must know before it is built.

    kind: which method. name: under which its results are filed; each method of an experiment has its own.
    """

    kind: str
    name: Annotated[str, Field(min_length=1)] = ""

    def create(self) -> Method:
        """The method, not opened yet. Raises ConfigError for a device that is not there."""
        raise NotImplementedError

    def create_from(self, last: Method) -> Method | None:
        """The method with what ``last`` has loaded, which is closed then; None where it needs something else."""
        return None

    def on_this_machine(self) -> Self:
        """These settings with what depends on the machine resolved (device ``auto``), since numbers depend on it.

        Raises ConfigError for a device that is not there.
        """
        return self

    def weights(self) -> WeightFile | None:
        """Which weights the method will have; None for a method without any.

        Raises CheckpointError or DependencyError when the checkpoint is not there.
        """
        return None

    @property
    def runs_command(self) -> str | None:
        """The command line that the method runs, for the user to allow; None for a method that runs none."""
        return None

    @property
    def saves_streams(self) -> bool:
        """Whether a stream can be left in its middle and gone on with in another process; see `SavesStreams`."""
        return False

    @property
    def when_memory_lacks(self) -> str:
        """What a reason says more where memory was lacking: what to do."""
        return ""

    @property
    def repeatable(self) -> bool:
        """Whether the settings tell all that decides the result; else a finished unit is run again."""
        return True

    @property
    def needs_images(self) -> bool:
        """Whether the method looks at images, so that its time means something."""
        return True

    @property
    def gives_depth(self) -> bool:
        """Whether predictions will carry depth, so that reference depth is worth decoding."""
        return True

    @property
    def motionless(self) -> bool:
        """Whether the poses stand still by design: a floor, whose errors are defined though its alignment is not."""
        return False

    @property
    def leaves_the_cpu_free(self) -> bool:
        """Whether the method computes elsewhere, so that the cores may decode, score and store meanwhile."""
        return False

    def stream_key(self, frames: int) -> tuple[object, ...] | None:
        """What sets a stream of so many frames apart from longer ones of the same scene, before its end.

        Where it is the same for two lengths, the shorter stream is the beginning of the longer one, and is not streamed
        again. None: each length is, as predictions rest on later frames, or nobody knows.
        """
        return None

    def check(self, sequence: FrameSequence) -> None:
        """Raises what a unit on this scene would fail with, where looking costs little; a dry run asks."""
        return

    def input_files(self, dataset: str, scene: str) -> Iterable[Path]:
        """Files that the method reads for a scene, besides the dataset's: a changed one makes the result stale."""
        return ()


class Settings(StrictModel):
    """Settings of a plugin's own: fixed once made, unknown keys refused."""


class BaseMethod:
    """What a method of a plugin inherits: everything but ``predict``.

    Attributes:
        Settings: a pydantic model of the method's own settings, written beside ``kind`` and ``name`` in an experiment.
        needs_images: False for a method that reads no image; nothing is decoded for it then.
        gives_depth: whether predictions carry depth.
        causal: whether each prediction rests on the frames up to its own alone, however many will come: one stream then
            gives the results of all ``lengths``.
        settings: the settings of this instance.
    """

    Settings: ClassVar[type[BaseModel]] = Settings
    needs_images: bool = True
    gives_depth: ClassVar[bool] = True
    causal: ClassVar[bool] = False

    def __init__(self, settings: MethodSettings) -> None:
        self.settings: Any = settings
        self.sequence: FrameSequence | None = None

    @property
    def name(self) -> str:
        """As in the experiment file."""
        return str(self.settings.name)

    def describe(self) -> Mapping[str, Any]:
        """The settings."""
        described: dict[str, Any] = self.settings.model_dump(mode="json")
        return described

    def open(self, sequence: FrameSequence) -> None:
        """Remember the scene."""
        self.sequence = sequence

    def warm_up(self, frame: Frame) -> float:
        """Nothing to warm up."""
        return 0.0

    def predict(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        """Predictions in frame order; frames without one are left out.

        Args:
            frames: the scene's, prepared to the size that the experiment names.
        """
        raise NotImplementedError(f"{type(self).__name__}.predict(frames) gives the method's predictions")

    def resources(self) -> tuple[Measurement, ...]:
        """Nothing measured."""
        return ()

    def files(self) -> Mapping[str, Path]:
        """None."""
        return {}

    def close(self) -> None:
        """Nothing to free."""


METHODS: Registry[type[MethodSettings]] = Registry(
    "kind of method",
    {
        "lingbot": "lingbot_eval.methods.lingbot_config:LingbotConfig",
        "external": "lingbot_eval.methods.external_config:ExternalConfig",
        "replay": "lingbot_eval.methods.replay:ReplayConfig",
        "vo": "lingbot_eval.methods.baselines:VoConfig",
        "sfm": "lingbot_eval.methods.baselines:SfmConfig",
        "motionless": "lingbot_eval.methods.baselines:MotionlessConfig",
        "constant_velocity": "lingbot_eval.methods.baselines:ConstantVelocityConfig",
    },
)

MethodT = TypeVar("MethodT", bound=type[BaseMethod])


def method(kind: str) -> Callable[[MethodT], MethodT]:
    """Register a class as a kind of method.

    Args:
        kind: what an experiment's ``methods`` entry gives as its ``kind``.

    Returns:
        A decorator for a subclass of `BaseMethod`; the class itself is unchanged.

    Raises:
        ConfigError: the kind is taken, or the class is no `BaseMethod`.
    """

    check_name(kind, "method")

    def register(cls: MethodT) -> MethodT:
        check_subclass(cls, BaseMethod, "Method", f"method {kind!r}")
        check_subclass(cls.Settings, BaseModel, "Settings", f"Settings of method {kind!r}")
        METHODS.add(kind, _settings_type(kind, cls), cls)
        return cls

    return register


def _settings_type(kind: str, cls: type[BaseMethod]) -> type[MethodSettings]:
    """The class's own settings beside ``kind`` and ``name``, answering for the class."""

    class PluginSettings(MethodSettings):
        def create(self) -> Method:
            return cls(self)

        @property
        def needs_images(self) -> bool:
            # Where only an instance knows, it may.
            return cls.needs_images is not False

        @property
        def gives_depth(self) -> bool:
            return cls.gives_depth

        def stream_key(self, frames: int) -> tuple[object, ...] | None:
            return () if cls.causal else None

    fields: dict[str, Any] = {
        name: (field.annotation, field) for name, field in cls.Settings.model_fields.items() if name != "name"
    }
    taken = {"kind", *dir(MethodSettings)} & set(fields)
    if taken:
        raise ConfigError(f"method {kind!r}: a setting cannot be called {sorted(taken)[0]!r}; rename it")
    kind_type: Any = Literal[kind]
    made: type[MethodSettings] = create_model(
        f"{cls.__name__}Settings",
        __base__=PluginSettings,
        __module__=cls.__module__,
        __doc__=cls.Settings.__doc__,
        kind=(kind_type, kind),
        name=(Annotated[str, Field(min_length=1)], kind),
        **fields,
    )
    return made


class OpenMethod:
    """Keeps the method used last, so that its weights serve scene after scene; never two at once."""

    def __init__(self) -> None:
        self._held: tuple[MethodSettings, Method] | None = None

    def get(self, settings: MethodSettings) -> Method:
        """The method of these settings; another one that is held is closed first. Raises as `MethodSettings.create`."""
        if self._held is None or self._held[0] != settings:
            taken_over = self._held and settings.create_from(self._held[1])
            self.close()
            self._held = (settings, taken_over or settings.create())
        return self._held[1]

    def close(self) -> None:
        """Let go of the method and of what it left on the device.

        Raises:
            StreamError: The method failed while it was closed; it is let go of all the same.
        """
        held, self._held = self._held, None
        try:
            if held is not None:
                held[1].close()
        except (Exception, SystemExit) as error:
            raise StreamError(
                f"method '{held[0].name if held else ''}' failed to close: {one_line(error)}{place_in_plugin(error)}"
            ) from error
        finally:
            free_device_memory()


def free_device_memory() -> None:
    """Give back what a failed method left on the device, once nothing refers to it any more."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
