"""A program that a method runs: in a process group of its own, watched, and ended with all that it started."""

from __future__ import annotations

import fcntl
import itertools
import os
import select
import shlex
import signal
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import psutil

from lingbot_eval.errors import ConfigError, DependencyError, reason
from lingbot_eval.external import ProtocolError
from lingbot_eval.machine.environment import processes_bytes
from lingbot_eval.profiling.memory import mebibytes
from lingbot_eval.types import Measurement

GRACE_S = 5.0
"""What a process is given to end by itself, and again after SIGTERM, before SIGKILL."""

MOST_LOG_BYTES = 16 << 20
"""Of a log; of what comes after it the last lines are kept."""

LAST_LINES = 40

_TAIL_BYTES = 32 << 10
_LONGEST_LINE = 300
_SAMPLES_S, _FIRST_SAMPLE_S = 0.1, 0.004
_SAMPLES_TO_ONE_OF_THE_GPU = 10


class Child:
    """One running program.

    Its standard error, and standard output where that is no pipe, go to a log. Every process that it starts inherits a
    mark in the environment, and the log: what leaves the process group, or outlives the program, is found by one of
    them.
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], log: Path, *, pipe: bool, with_gpu: bool = True
    ) -> None:
        """Start the program in the current directory.

        Args:
            command: program and arguments; no shell reads them.
            env: variables besides those of this process.
            log: file to write.
            pipe: whether messages go to its standard input and come from its standard output.
            with_gpu: whether GPU memory is looked at.

        Raises:
            ConfigError: it cannot be started.
        """
        # A name of its own, which a program that starts programs likewise does not replace.
        self._mark = f"LINGBOT_EVAL_CHILD_{uuid.uuid4().hex}"
        reading, writing = os.pipe()
        try:
            self._process = subprocess.Popen(
                list(command),
                env={**os.environ, **env, self._mark: "1"},
                stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else writing,
                stderr=writing,
                bufsize=0,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            os.close(reading)
            raise ConfigError(
                f"cannot start {shlex.quote(command[0])}: {reason(error)}; check the command's first word, and PATH"
            ) from error
        finally:
            os.close(writing)
        self.started = time.monotonic()
        self._pipe = _end_of_pipe("self", reading)
        self._log = _Log(reading, log)
        self._memory = _Memory(self._process.pid, with_gpu)
        self._left_running = 0
        self._stopped = False
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                if sys.platform == "linux":
                    # A frame in one go rather than in pieces of 64 KiB, each with a switch of processes; where the
                    # system grants no more, pieces do.
                    with suppress(OSError):
                        fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)

    def send(self, data: bytes, deadline: float) -> None:
        """Write a message, its length in 4 bytes before it, to the program's standard input.

        Args:
            data: the message.
            deadline: until when the program must have taken it, of `time.monotonic`.

        Raises:
            TimeoutError: it did not.
            OSError: nobody reads there any more.
            ProtocolError: there is something from the program that nobody has asked for.
        """
        if self.has_said_more():
            raise ProtocolError("the program had sent more than one answer before; give each message one")
        descriptor = _there(self._process.stdin)
        left = memoryview(struct.pack(">I", len(data)) + data)
        total = len(left)
        while left:
            _await(
                descriptor, select.POLLOUT, deadline, f": it took {total - len(left)} of {total} bytes of the message"
            )
            left = left[os.write(descriptor, left) :]

    def receive(self, most: int, deadline: float) -> bytearray:
        """Read a message from the program's standard output.

        Args:
            most: bytes that it may have.
            deadline: until when it must be whole, of `time.monotonic`.

        Raises:
            TimeoutError: it was not.
            EOFError: the output ended, perhaps in the middle of a message.
            ProtocolError: it is larger.
        """
        (size,) = struct.unpack(">I", self._exactly(4, deadline))
        if size > most:
            raise ProtocolError(
                f"expected a message of at most {most} bytes, found the beginning of one of {size}; nothing but"
                " messages may go to standard output"
            )
        return self._exactly(size, deadline)

    def has_said_more(self) -> bool:
        """Whether something unread is there."""
        poll = select.poll()
        poll.register(_there(self._process.stdout), select.POLLIN)
        return any(event & select.POLLIN for _, event in poll.poll(0))

    def close_input(self) -> None:
        """Tell the program that nothing comes any more."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    @property
    def exit_code(self) -> int | None:
        """As of `subprocess`: the negative number of the signal that ended it; None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> bool:
        """Whether it ended within that time."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, seconds))
            return True
        return False

    def stop(self) -> None:
        """End it, and every process that it left: SIGTERM, after some seconds SIGKILL. Then the log is whole."""
        if self._stopped:
            return
        self._stopped = True
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        ended_by_itself = self.exit_code is not None
        left = self._living()
        self._left_running = len(left) if ended_by_itself else 0
        self._end(left)
        self._process.wait()
        self._memory.stop()
        self._log.stop()

    def ending(self) -> str:
        """How it ended, in words."""
        code = self.exit_code
        if code is None:
            return "it runs still"
        if code >= 0:
            return f"it ended with exit code {code}"
        names = {number.value: number.name for number in signal.Signals}
        return f"it was ended by {names.get(-code, f'signal {-code}')}"

    def last_line(self) -> str:
        """The last line of the log that says something, shortened; "" where there is none."""
        return next((line for line in reversed(self._log.last_lines()) if line.strip()), "").strip()

    def facts(self) -> dict[str, Any]:
        """How it ended, and the last lines of its log."""
        code = self.exit_code
        return {
            "exit_code": code if code is not None and code >= 0 else None,
            "signal": -code if code is not None and code < 0 else None,
            "left_running": self._left_running,
            "log_bytes": self._log.bytes,
            "log_tail": self._log.last_lines(),
        }

    def memory(self) -> tuple[Measurement, ...]:
        """The largest memory of the program with all its children: of the host, of GPUs."""
        return (
            mebibytes(
                "command_peak_rss",
                self._memory.peak_resident or None,
                "largest sum of the resident set sizes of the program and its children, looked at every 0.1 s; pages"
                " that they share count in each",
                "it ended before it was looked at",
            ),
            mebibytes(
                "command_peak_gpu",
                self._memory.peak_gpu,
                "largest sum that the driver books for the program and its children on all GPUs (NVML), looked at every"
                " second",
                self._memory.no_gpu,
            ),
        )

    def _exactly(self, size: int, deadline: float) -> bytearray:
        descriptor = _there(self._process.stdout)
        data = bytearray(size)
        view, got = memoryview(data), 0
        while got < size:
            _await(descriptor, select.POLLIN, deadline, f": half a message, {got} of {size} bytes" if got else "")
            count = os.readv(descriptor, [view[got:]])
            if count == 0:
                cut = f" in the middle of a message, after {got} of {size} bytes" if got or size != 4 else ""
                raise EOFError(f"the program's output ended{cut}")
            got += count
        return data

    def _end(self, left: list[psutil.Process]) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + GRACE_S
            told: set[psutil.Process] = set()
            while left and time.monotonic() < deadline:
                # Who is told to end may start another meanwhile.
                for process in set(left) - told:
                    with suppress(psutil.Error):
                        process.send_signal(number)
                    told.add(process)
                time.sleep(0.02)
                self._process.poll()  # reaps it
                left = self._living()

    def _living(self) -> list[psutil.Process]:
        """Every process of the group, with the mark or with the log's pipe that has not ended."""
        found = []
        for process in psutil.process_iter():
            if process.pid == os.getpid():
                continue  # started without a standard input, it has the log's pipe in that place
            # A process of somebody else, or one that ends right now, is none of these.
            with suppress(psutil.Error, OSError):
                ours = os.getpgid(process.pid) == self._process.pid or self._mark in process.environ()
                ours = ours or self._pipe in {_end_of_pipe(process.pid, number) for number in range(3)} - {""}
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


def _end_of_pipe(pid: int | str, descriptor: int) -> str:
    """The name of what a process has open; "" where that cannot be told."""
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")  # noqa: PTH115 - a string that is no path
    except OSError:
        return ""


def _there(stream: IO[bytes] | None) -> int:
    if stream is None:
        raise RuntimeError("this program was started without a pipe")
    return stream.fileno()


def _await(descriptor: int, event: int, deadline: float, state: str) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, 1e3 * (deadline - time.monotonic()))):
        raise TimeoutError(state)


class _Log:
    """Takes what the program writes, as fast as it comes: a full pipe would stop the program."""

    def __init__(self, reading: int, path: Path) -> None:
        self.bytes = 0
        self._reading = reading
        self._tail = b""
        self._path = path
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def last_lines(self) -> list[str]:
        lines = self._tail.decode("utf-8", "replace").replace("\r", "\n").splitlines()[-LAST_LINES:]
        return [line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 1]}…" for line in lines]

    def stop(self) -> None:
        # What hides from the signals might keep the pipe open for ever.
        self._thread.join(GRACE_S)

    def _run(self) -> None:
        with self._path.open("wb") as stream, os.fdopen(self._reading, "rb", buffering=0) as source:
            while chunk := source.read(1 << 16):
                if self.bytes < MOST_LOG_BYTES:
                    stream.write(chunk[: MOST_LOG_BYTES - self.bytes])
                    stream.flush()
                self.bytes += len(chunk)
                self._tail = (self._tail + chunk)[-_TAIL_BYTES:]
            if self.bytes > MOST_LOG_BYTES:
                left_out = max(0, self.bytes - MOST_LOG_BYTES - len(self._tail))
                stream.write(f"\n[{left_out} bytes are left out here]\n".encode() + self._tail)


def _children(pid: int) -> list[int]:
    """Processes that a process has started.

    The kernel's own list, where it keeps one: psutil reads every process of the machine, which ten times a second takes
    a share of a core from what is measured.
    """
    threads = Path(f"/proc/{pid}/task")
    try:
        return [int(child) for thread in threads.iterdir() for child in (thread / "children").read_bytes().split()]
    except OSError:
        return [child.pid for child in psutil.Process(pid).children()]


class _Memory:
    """Looks at the program and its children from time to time."""

    def __init__(self, pid: int, with_gpu: bool) -> None:
        self.peak_resident = 0
        self.peak_gpu: int | None = None
        self.no_gpu = "it ended before it was looked at" if with_gpu else "gpu: 0, no GPU is shown to it"
        self._asks_gpu = with_gpu
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        for number in itertools.count():
            sizes = dict(self._sizes())
            self.peak_resident = max(self.peak_resident, sum(sizes.values()))
            if self._asks_gpu and sizes and number % _SAMPLES_TO_ONE_OF_THE_GPU == 0:
                self._look_at_gpu(sizes)
            # A program of a few hundredths of a second is looked at as well, and after its first page.
            if self._ended.wait(min(_SAMPLES_S, _FIRST_SAMPLE_S * 2 ** min(number, 10))):
                return

    def _sizes(self) -> Iterator[tuple[int, int]]:
        """Process id and resident bytes of each."""
        waiting = [self._pid]
        while waiting:
            pid = waiting.pop()
            with suppress(psutil.Error, OSError):
                waiting += _children(pid)
                yield pid, psutil.Process(pid).memory_info().rss

    def _look_at_gpu(self, pids: Mapping[int, int]) -> None:
        try:
            self.peak_gpu = max(self.peak_gpu or 0, processes_bytes(set(pids)))
        except DependencyError as error:
            # No driver now is no driver later.
            self._asks_gpu, self.no_gpu = False, str(error)
