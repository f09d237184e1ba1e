"""The plain objects that travel between the rooms: frames in, predictions and measurements out.

Conventions, everywhere: poses are camera-to-world 4×4 matrices in OpenCV camera axes (x right, y down,
z forward); depth is along z in metres with 0 where there is none; images are RGB uint8; pixel (0, 0) is
the centre of the top left pixel in intrinsics of the datasets' own calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from fnmatch import fnmatchcase
from sys import intern
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, ConfigDict, Field

FloatArray = NDArray[np.float64]
DepthMap = NDArray[np.float32]
Image = NDArray[np.uint8]
Direction = Literal["lower", "higher"]
LARGEST_VALUE = 1e300
"""Of a measurement, so that a sum over scenes stays a number."""


class FrameType(IntEnum):
    """What a frame became in the stream (model.md section 6, reference cases, ``frame_type``)."""

    SCALE = 0
    KEPT = 1
    UNKEPT = 2


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame as its dataset has it (or, after preparation, at the size the method sees).

    index: position in the sequence after stride, from 0. timestamp: seconds.
    image: (H, W, 3) uint8 RGB, or None when the images were not asked for.
    source: the image's file (or a description) for error messages.
    camera_to_world: (4, 4) float64 in metres, or None for a frame without a reference pose.
    depth: (H, W) float32 metres along z, 0 = no measurement; or None.
    intrinsics: (3, 3) float64 pinhole matrix of the image, in pixels; or None.
    depth_intrinsics: (3, 3) of the depth map where it is not registered to the image; None = as the image's.
    left_out: (H, W) bool of the image, True where the dataset's mask says that nothing is to be kept; or None.
    """

    index: int
    timestamp: float
    image: Image | None
    source: str
    camera_to_world: FloatArray | None = None
    depth: DepthMap | None = None
    intrinsics: FloatArray | None = None
    depth_intrinsics: FloatArray | None = None
    left_out: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Poses of some frames of a sequence.

    indices: (N,) int64 frame indices, strictly increasing. timestamps: (N,) float64 seconds.
    camera_to_world: (N, 4, 4) float64. Units: metres for a reference, the method's own for an estimate.
    has_orientation: False where only positions are known: rotations are identities that mean nothing, and what needs
    an orientation cannot be computed.
    computed_by: what computed a reference that nobody measured; it is no ground truth, and in a unit of its own.
    """

    indices: NDArray[np.int64]
    timestamps: FloatArray
    camera_to_world: FloatArray
    has_orientation: bool = True
    computed_by: str | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def positions(self) -> FloatArray:
        """(N, 3) camera centres in world coordinates."""
        return self.camera_to_world[:, :3, 3]


CACHE_KINDS = ("anchor", "window", "memory", "camera_head")
"""What keys and values are kept for."""


@dataclass(frozen=True)
class StepCost:
    """What one frame cost on the device.

    forward_s: seconds of the streaming step on its device, between CUDA events, on a CPU by the wall clock. Scale
    frames enter together: each carries an equal share of that one pass. cache_bytes: in use after the step, by kind
    (`CACHE_KINDS`); cache_allocated: held for them, headroom included, None where the method does not tell.
    device_bytes: allocated on the device after the step, None on a CPU.
    """

    forward_s: float
    cache_bytes: Mapping[str, int] = field(default_factory=dict)
    device_bytes: int | None = None
    cache_allocated: int | None = None


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a method says of one frame.

    index, timestamp: of the frame. camera_to_world: (4, 4) float64 in the method's own scale and world.
    depth: (H, W) float32 along z at the prepared size, in the method's scale. depth_confidence: (H, W) float32,
    larger is surer. intrinsics: (3, 3) float64 pixels of the prepared image.
    points: (H, W, 3) float32 world coordinates, points_confidence: (H, W). None for what a method does not give.
    has_orientation: False where camera_to_world holds a position only (see :class:`Trajectory`).
    """

    index: int
    timestamp: float
    camera_to_world: FloatArray | None = None
    depth: DepthMap | None = None
    depth_confidence: DepthMap | None = None
    intrinsics: FloatArray | None = None
    points: NDArray[np.float32] | None = None
    points_confidence: NDArray[np.float32] | None = None
    frame_type: FrameType | None = None
    cost: StepCost | None = None
    has_orientation: bool = True


@dataclass(frozen=True, eq=False)
class DriftSeries:
    """How the error of one trajectory grows along its sequence; metres of the reference, NaN where not defined.

    frame: (M,) int64, the matched frames; step_error_m, local_scale, anchored_error_m: (M,) along them. A step is from
    the matched frame before (the first has none); local_scale is 1 where the estimate has its overall scale.
    prefix_frame (K,) int64, prefix_ate_m (K,): RMSE after Sim(3) alignment on the frames up to and with that one.
    segment_frame (S,) int64: where a segment starts; segment_length_m, segment_translation (%),
    segment_rotation (deg/m): (S,). jump_frame (J,) int64: frames whose step is a jump. collapse_frame: (0,) or (1,)
    int64. What each means exactly: metrics/drift.py.
    """

    frame: NDArray[np.int64]
    step_error_m: FloatArray
    local_scale: FloatArray
    anchored_error_m: FloatArray
    prefix_frame: NDArray[np.int64]
    prefix_ate_m: FloatArray
    segment_frame: NDArray[np.int64]
    segment_length_m: FloatArray
    segment_translation: FloatArray
    segment_rotation: FloatArray
    jump_frame: NDArray[np.int64]
    collapse_frame: NDArray[np.int64]


@dataclass(frozen=True)
class Declaration:
    """What a built-in metric says of itself, whatever it is measured on; it stands in its family's file.

    name, variant: of the measurements that it is of, ``*`` and ``?`` as in file names; a variant of None is any.
    better: whether lower or higher values are; None where neither is. headline: its place in a report's first table,
    from 1; 0 for what is not in it. line: what the one line of a unit calls it, "" for what is not in it. title: what
    the first table of a report's page calls it, "" for its own name. published: what cards call it, ``*`` as in name;
    "" for what nobody publishes. tolerance: how much worse the gate lets it become, as a baseline's file writes it;
    None: as the next declaration that fits says, else as for everything.
    """

    name: str
    better: Direction | None
    variant: str | None = None
    headline: int = 0
    line: str = ""
    title: str = ""
    published: str = ""
    tolerance: Mapping[str, str | float] | None = None

    def fits(self, name: str, variant: str) -> bool:
        """Whether it is of a measurement of this name and variant."""
        return fnmatchcase(name, self.name) and self.variant in (None, variant)


def _averageable(value: float) -> float:
    if not abs(value) < LARGEST_VALUE:
        raise ValueError(f"expected a finite number below {LARGEST_VALUE:g}")
    return value


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number with everything that is needed to read it: a result is this or a reason, never a bare 0 or NaN.

    It is stored as it is, and read strictly.

    family: ``trajectory``, ``drift``, ``auc``, ``depth``, ``points``, ``probes``, ``throughput`` or ``memory``. name:
    e.g. ``ate_rmse``.
    variant: the convention in a word, e.g. ``sim3``, ``scale_only``; "" where there is only one.
    better: whether lower or higher values are; None where neither is. headline: whether it belongs into a report's
    first table. What a built-in metric declares of the two (declarations.py) is filled in when it is stored.
    value: None exactly when reason says why it could not be computed. unit: ``m``, ``deg``, ``deg/m``, ``m/frame``,
    ``deg/frame``, ``%``, ``1``, ``fps``, ``ms``, ``MiB``, ``frames``. convention: one sentence. samples: how many
    frames, poses, pairs or pixels it rests on.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    family: str
    name: str
    variant: str
    value: Annotated[float, Field(strict=True), AfterValidator(_averageable)] | None
    unit: str
    convention: Annotated[str, AfterValidator(intern)]  # of ten thousand units in memory, once
    samples: Annotated[int, Field(strict=True, ge=0, lt=2**53)] | None = None
    reason: str | None = None
    better: Direction | None = None
    headline: Annotated[bool, Field(strict=True)] = False

    def __post_init__(self) -> None:
        if (self.value is None) == (self.reason is None):
            raise ValueError(f"measurement {self.family}/{self.name}: give a value or a reason, not both or neither")
        if self.value is not None and not np.isfinite(self.value):
            raise ValueError(f"measurement {self.family}/{self.name}: {self.value} is not a result; give a reason")


class FrameSequence(Protocol):
    """One scene of a dataset with its selection (stride, first, count) applied; opening it reads no image."""

    @property
    def dataset(self) -> str: ...

    @property
    def scene(self) -> str: ...

    @property
    def length(self) -> int | None:
        """Number of frames after selection; None only where the source cannot tell."""
        ...

    def frames(self, *, images: bool = True, depth: bool = True) -> Iterator[Frame]:
        """Frames in order, decoded as they are asked for; ``images=False`` or ``depth=False`` skips that decoding."""
        ...

    def loaders(self, *, images: bool = True, depth: bool = True) -> Iterator[Callable[[], Frame]]:
        """The same frames in order, each decoded by calling it; several may be called at a time, in any thread."""
        ...

    def reference(self) -> Trajectory | None:
        """Reference poses of the frames that have one, without decoding any image; None where there are none."""
        ...

    def timestamps(self) -> FloatArray | None:
        """(length,) seconds, without decoding; None where only decoding tells."""
        ...

    def fingerprint(self) -> str:
        """Hex digest over names, sizes and modification times of the files read (or over the generator's settings)."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """Conventions for the record: units, source of poses, depth and intrinsics, association counts, licence.

        ``notes``, where there are any: one line each on what a reader of the numbers must know of this scene, such as
        frames left out or damaged; run, dry run and doctor print them. What only decoding shows is in them after a
        pass over the frames. ``intrinsics_source``: ``nominal`` where the intrinsics are a data sheet's, so that
        methods may estimate them; left out where they were calibrated or there are none. ``found``: what was counted
        on the way, such as poses in the file; runs that differ in it can still be compared.
        """
        ...
