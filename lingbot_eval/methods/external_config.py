"""Settings of the ``external`` method as an experiment file writes them."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator

from lingbot_eval.errors import ConfigError, reason
from lingbot_eval.files.reading import open_file
from lingbot_eval.methods.base import Method, MethodSettings, WeightFile
from lingbot_eval.resources import expanded

UNKNOWN = "unknown"
Word = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ExternalConfig(MethodSettings):
    """A program in any environment or language that speaks the protocol of docs/external.md, one process a unit.

    It runs only where the user allows it (``--allow-commands``), as the user, in the current directory, with the
    user's rights.

    command: program and arguments; no shell reads them. env: variables besides those that are set. mode: ``pipe``
    (frame by frame: latency and pace are measured) or ``job`` (a folder of files, all frames at once).
    timeout_s: of a whole unit, the program's start included; frame_timeout_s: of one answer over the pipe.
    version: of the program, as the user knows it; while it is ``unknown`` nothing tells one program from the next,
    and finished units run again each time. files: whose content counts as the program's: the wrapper, the weights.
    gpu: how many the program uses; with 0 none is shown to it. causal: whether each pose is to come from the frames up
    to its own. depth: whether the program gives depth, so that reference depth is worth decoding.
    """

    kind: Literal["external"]
    name: Annotated[str, Field(min_length=1)] = "external"
    command: Annotated[tuple[Word, ...], Field(min_length=1)]
    env: dict[Annotated[str, Field(pattern=r"^[^=\x00]+$")], Annotated[str, Field(pattern=r"^[^\x00]*$")]] = Field(
        default_factory=dict
    )
    mode: Literal["pipe", "job"] = "pipe"
    timeout_s: Seconds = 3600.0
    frame_timeout_s: Seconds = 60.0
    version: Annotated[str, Field(min_length=1)] = UNKNOWN
    files: tuple[Word, ...] = ()
    gpu: Annotated[int, Field(ge=0)] = 1
    causal: bool = True
    depth: bool = True

    @field_validator("command", mode="before")
    @classmethod
    def _a_list(cls, command: object) -> object:
        if isinstance(command, str):
            raise ValueError(
                f"expected a list of words, as no shell reads it, found {command!r}: [program, argument, …]"
            )
        return command

    def create(self) -> Method:
        from lingbot_eval.methods.external import ExternalMethod

        return ExternalMethod(self)

    def on_this_machine(self) -> Self:
        """Raises ConfigError where the program is not there."""
        program = self.command[0]
        if shutil.which(program, path=self.env.get("PATH", os.environ.get("PATH"))) is None:
            raise ConfigError(
                f"method '{self.name}': no program {program!r} that can be run; give its path, or set PATH in env"
            )
        return self

    def weights(self) -> WeightFile:
        """What tells this program from another: its version and the content of its files. Raises ConfigError."""
        said = "version unknown" if self.version == UNKNOWN else f"version {self.version}"
        if not self.files:
            return WeightFile(said, None)
        digest = hashlib.sha256()
        for name in self.files:
            try:
                with open_file(expanded(name)) as stream:
                    content = hashlib.file_digest(stream, "sha256")
            except OSError as error:
                raise ConfigError(
                    f"method '{self.name}': files: {name}: {reason(error)}; list files that are there"
                ) from error
            digest.update(f"{name}\0{content.hexdigest()}\0".encode())
        return WeightFile(f"{said}, files {digest.hexdigest()[:12]}", digest.hexdigest())

    @property
    def runs_command(self) -> str:
        return shlex.join(self.command)

    @property
    def repeatable(self) -> bool:
        return self.version != UNKNOWN

    @property
    def gives_depth(self) -> bool:
        return self.depth

    @property
    def leaves_the_cpu_free(self) -> bool:
        return self.gpu > 0
