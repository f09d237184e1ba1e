"""Which frames every frame sees, in integers only: anchor, window, memory, and the keyframe clock.

Source: model.md section 6. Kept frames are counted by *ordinal*: 0, 1, 2 … in the order they were kept, scale frames
included, which is also their keyframe clock. What is visible is then three ranges of ordinals, however long the
stream. One policy object decides once a frame; every layer and every store is given its answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from lingbot_eval.errors import ConfigError, StreamError
from lingbot_eval.types import FrameType


@dataclass(frozen=True)
class View:
    """Ordinals of the kept frames that a pass sees, its own frames included where they are kept.

    anchor and window frames are seen with all their tokens, memory frames with their special tokens only. A frame
    that is not kept sees its own tokens on top, which no ordinal names.
    """

    anchor: range
    memory: range
    window: range

    @property
    def full_frames(self) -> int:
        """Kept frames seen with all their tokens."""
        return len(self.anchor) + len(self.window)

    def tokens(self, frame_tokens: int, special_tokens: int) -> int:
        """Cached tokens in view."""
        return self.full_frames * frame_tokens + len(self.memory) * special_tokens


EMPTY = View(range(0), range(0), range(0))


def view_of(scale: int, kept: int, window: int) -> View:
    """What a stream sees that has kept so many frames, the first ``scale`` of them in its scale phase."""
    first_in_window = max(scale, kept - window)
    return View(range(scale), range(scale, first_in_window), range(first_in_window, kept))


@dataclass(frozen=True)
class Step:
    """One pass of frames and what it sees.

    frame: index in the stream of its first frame; count: frames entering together (more than one only in the scale
    phase). clock: keyframe clock of the first. evicted: ordinal of the window frame that loses its patch tokens
    before attention runs, or None.
    """

    frame: int
    count: int
    frame_type: FrameType
    clock: int
    view: View
    evicted: int | None = None

    @property
    def kept(self) -> bool:
        """Whether its frames enter the cache."""
        return self.frame_type is not FrameType.UNKEPT


class CachePolicy:
    """The state of a stream in three integers: frames seen, frames kept, scale frames."""

    def __init__(self, window: int) -> None:
        if window < 1:
            raise ConfigError(f"window must be at least 1 frame, found {window}")
        self._window = window
        self._frames = 0
        self._kept = 0
        self._scale = 0
        self._pending = False

    @property
    def frames(self) -> int:
        """Frames seen so far."""
        return self._frames

    @property
    def kept(self) -> int:
        """Frames kept so far: the keyframe clock."""
        return self._kept

    def state(self) -> list[int]:
        """The whole of it, for :meth:`restore`."""
        return [self._frames, self._kept, self._scale, int(self._pending)]

    def restore(self, state: list[int]) -> None:
        """Go on from where another policy of the same window was."""
        self._frames, self._kept, self._scale, pending = state
        self._pending = bool(pending)

    def view(self) -> View:
        """What is visible now."""
        return view_of(self._scale, self._kept, self._window)

    def enter_scale(self, count: int) -> Step:
        """The scale phase: ``count`` frames enter together and see each other."""
        if self._frames:
            raise StreamError(f"the scale phase opens a stream, but {self._frames} frames have entered already")
        if count < 1:
            raise StreamError("the scale phase needs at least one frame, found none")
        self._frames = self._kept = self._scale = count
        return Step(0, count, FrameType.SCALE, 0, self.view())

    def keep(self) -> Step:
        """The next frame is kept: it enters, the oldest window frame beyond the window leaves for the memory."""
        self._require_scale()
        self._pending = False
        frame, clock = self._frames, self._kept
        self._frames += 1
        return self._append(frame, clock)

    def pass_by(self) -> Step:
        """The next frame is not kept: it sees what is there and itself, and leaves nothing behind."""
        self._require_scale()
        self._pending = True
        step = Step(self._frames, 1, FrameType.UNKEPT, self._kept, self.view())
        self._frames += 1
        return step

    def keep_last(self) -> Step:
        """Keep, after the fact, the frame that passed by last (flow keyframes decide on its own prediction)."""
        if not self._pending:
            raise StreamError("only the frame that passed by last can be kept after the fact")
        self._pending = False
        return self._append(self._frames - 1, self._kept)

    def _append(self, frame: int, clock: int) -> Step:
        before = self.view().window
        self._kept += 1
        view = self.view()
        evicted = before.start if view.window.start > before.start else None
        return Step(frame, 1, FrameType.KEPT, clock, view, evicted)

    def _require_scale(self) -> None:
        if not self._scale:
            raise StreamError("a stream opens with its scale phase; no frame has entered yet")


def kept_frames(steps: int, interval: int) -> int:
    """How many of the first ``steps`` frames behind the scale phase `is_keyframe` keeps."""
    return -(-steps // interval)


def is_keyframe(frame: int, scale_frames: int, interval: int) -> bool:
    """Fixed interval: whether step frame ``frame`` (index in the stream) is kept."""
    return (frame - scale_frames) % interval == 0
