"""Keeps one method open at a time, and gives back what it left on the device."""

from __future__ import annotations

import gc
import sys

from lingbot_eval.errors import StreamError, one_line
from lingbot_eval.methods.base import Method, MethodSettings


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
            raise StreamError(f"method '{held[0].name if held else ''}' failed to close: {one_line(error)}") from error
        finally:
            free_device_memory()


def free_device_memory() -> None:
    """Give back what a failed method left on the device, once nothing refers to it any more."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
