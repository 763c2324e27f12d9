"""A forked container, as its zygote sees it."""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from scaleplug.abc import StartRequest
from scaleplug.worker.leaving import Deadline

LINES_KEPT = 20
LINE_BYTES = 16_384
READ_BYTES = 65_536


@dataclass(slots=True)
class Child:
    """One child: its process, the pipe it prints into, and what was asked of it."""

    request: StartRequest
    pid: int
    started_at: float
    output: int
    """The reading end of its output, -1 when that is closed."""
    deadline: Deadline
    """What it reads when it is asked to leave."""
    stop_by: float | None = None
    """Monotonic time at which it is killed if it has not left."""
    frozen_since: float | None = None
    """Monotonic time since when it has been stopped (SIGSTOP)."""
    memory: int | None = None
    """MiB that it may use."""
    killed_for: str = ""
    """Why its zygote has killed it, for people."""
    told_frozen: bool = False
    """Whether the controller has been told that."""
    asked: bool = False
    at_end: bool = False
    tail: bytes = b""
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES_KEPT))

    def read_lines(self) -> list[str] | None:
        """Return some of the lines it has printed, ``None`` when there are none now; sets ``at_end`` after the last."""
        try:
            data = os.read(self.output, READ_BYTES)
        except BlockingIOError:
            return None
        *whole, self.tail = (self.tail + data).split(b"\n")
        self.at_end = not data
        if self.tail and (self.at_end or len(self.tail) > LINE_BYTES):
            whole, self.tail = [*whole, self.tail], b""
        return [self._line(line) for line in whole]

    def _line(self, raw: bytes) -> str:
        text = raw[:LINE_BYTES].decode(errors="replace").rstrip("\r")
        self.last_lines.append(text)
        return text

    def close_output(self) -> None:
        """Stop reading."""
        os.close(self.output)
        self.output = -1

    def too_large(self) -> bool:
        """Look whether it uses more memory than it may, and note it; False where that can't be known."""
        used = None if self.memory is None else resident(self.pid)
        if used is None or self.memory is None or used <= self.memory << 20:
            return False
        self.killed_for = f"it used {used >> 20} MiB of memory and may use {self.memory}"
        return True

    def note_stop(self, status: int) -> None:
        """Note that it was stopped, or goes on; ``status`` is what waiting for it returned."""
        self.frozen_since = time.monotonic() if os.WIFSTOPPED(status) else None


def resident(pid: int) -> int | None:
    """Return the bytes of memory that a process uses, ``None`` where that can't be known."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * mmap.PAGESIZE
    except (OSError, IndexError, ValueError):
        return None


def exit_reason(code: int) -> str:
    """Return an exit status in words."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
