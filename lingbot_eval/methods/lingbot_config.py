"""Settings of the ``lingbot`` method as an experiment file writes them. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lingbot_eval.machine.wait import WAIT
from lingbot_eval.methods.base import Method, MethodSettings, WeightFile
from lingbot_eval.model.config import ConfigName
from lingbot_eval.resources import PUBLIC, SHIPPED, SHIPPED_CONFIG
from lingbot_eval.settings import StrictModel
from lingbot_eval.streaming.settings import StreamSettings, stream_interval

Precision = Literal["float32", "bfloat16", "float16", "auto"]


class ModelSettings(StrictModel):
    """Which network and weights.

    checkpoint: a file as ``torch.save`` or safetensors write it, whatever its name, the ``.index.json`` of several or
    their folder; ``hf://owner/repo[@revision]/file``; ``lingbot-map`` or ``lingbot-map-long``, which the hub has,
    pinned; or ``shipped`` for the small weights of configuration ``ci`` that come with the package. None leaves the
    weights untrained, drawn from ``seed``, and everything written says so.
    camera_iterations: refinement passes of the camera head.
    """

    config: ConfigName = "full"
    checkpoint: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    camera_iterations: Annotated[int, Field(ge=1)] = 4
    point_head: bool = False

    @model_validator(mode="after")
    def _weights_fit(self) -> ModelSettings:
        """Names say of which network their weights are, before gigabytes are fetched and found to be of another."""
        public = PUBLIC.get(self.checkpoint or "")
        config = SHIPPED_CONFIG if self.checkpoint == SHIPPED else public.config if public else None
        if config is not None and (self.config != config or self.point_head):
            raise ValueError(
                f"checkpoint '{self.checkpoint}' is of config '{config}' without a point head, found config"
                f" '{self.config}' with point_head {str(self.point_head).lower()}; give checkpoint a file, or null for"
                " untrained weights"
            )
        return self


class LingbotConfig(MethodSettings):
    """The streaming model as a method.

    device: ``auto`` takes a GPU where there is one. precision: of the trunk's matrix products and, unless
    ``streaming.cache_precision`` says otherwise, of the K/V cache. ``auto`` is the nearest to float32 that costs at
    most 3 % more than the fastest: float16 on a GPU. A stream stops where a value leaves float16's range; with ``auto``
    it goes on in bfloat16, and the record says from which frame.
    heads: the heads stay in float32 (model.md section 5); ``tf32`` lets their convolutions round products to 10 bits of
    mantissa on a GPU, and ``auto`` does so beside a trunk in half precision, which rounds to 7 or 10 bits.
    memory_gb: of a GPU, CUDA's own part included; what wants more fails, as on a card of that size. None: all of it.
    """

    kind: Literal["lingbot"]
    name: Annotated[str, Field(min_length=1)] = "lingbot"
    model: ModelSettings = ModelSettings()
    streaming: StreamSettings = StreamSettings()
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    precision: Precision = "float32"
    heads: Literal["auto", "float32", "tf32"] = "auto"
    memory_gb: Annotated[float, Field(gt=0.7, allow_inf_nan=False)] | None = None

    def create(self) -> Method:
        from lingbot_eval.methods.model import LingbotMethod

        return LingbotMethod(self)

    def create_from(self, last: Method) -> Method | None:
        from lingbot_eval.methods.model import LingbotMethod

        return last.with_settings(self) if isinstance(last, LingbotMethod) else None

    @property
    def overlapped(self) -> bool:
        """Whether a GPU may compute one frame while the next one is prepared."""
        return True

    def on_this_machine(self) -> Self:
        if self.device == "cpu":
            return self
        with WAIT.part("import torch"):
            from lingbot_eval.model.build import choose_device
        with WAIT.part("find device"):
            return self.model_copy(update={"device": str(choose_device(self.device))})

    @property
    def saves_streams(self) -> bool:
        # Windows hold outputs back until they are joined.
        return self.streaming.windowed is None

    @property
    def when_memory_lacks(self) -> str:
        if not self.device.startswith("cuda"):
            return ""
        import torch

        from lingbot_eval.streaming.estimate import smaller_preset

        there = self.memory_gb and int(self.memory_gb * 1e9)
        smaller = smaller_preset(there or torch.cuda.get_device_properties(self.device).total_memory)
        return f"; try --fit {smaller}" if smaller else "; no smaller preset is known: use smaller images or windows"

    def weights(self) -> WeightFile:
        if self.model.checkpoint is None:
            return WeightFile(f"untrained (seed {self.model.seed})", None)
        with WAIT.part("import torch"):
            from lingbot_eval.model.build import check_checkpoint
            from lingbot_eval.model.weights import checkpoint_sha256, resolve_checkpoint

        path = resolve_checkpoint(self.model.checkpoint)
        with WAIT.part("check weights"):
            # What is no checkpoint of this network is called so before anything is written.
            check_checkpoint(self.model.config, path, point_head=self.model.point_head)
        digest = checkpoint_sha256(path)
        return WeightFile(f"{path.name}, SHA-256 {digest}", digest)

    def stream_key(self, frames: int) -> tuple[object, ...] | None:
        # Windows are joined with what comes later; ``auto`` keeps fewer frames of a longer stream.
        if self.streaming.windowed is not None:
            return None
        return stream_interval(self.streaming, frames), min(frames, self.streaming.scale_frames)

    @property
    def leaves_the_cpu_free(self) -> bool:
        return self.device.startswith("cuda")
