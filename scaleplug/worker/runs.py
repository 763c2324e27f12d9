"""Inputs under way in a container, and how each of them is interrupted from another thread."""

from __future__ import annotations

import asyncio
import ctypes
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from scaleplug.errors import InputCancellation
from scaleplug.worker.holding import Claim

FLUSH_STEPS = 1_000
"""Steps in which an interruption that was sent reaches its thread: the next one that looks for it, in fact."""


@dataclass(slots=True, eq=False)
class Run:
    """One input under way: in the main thread, in a thread of a pool, or as a task of an event loop."""

    claim: Claim
    is_async: bool
    thread: int = field(default_factory=threading.get_ident)
    task: asyncio.Task[Any] | None = None
    deadline: float | None = None
    """Monotonic time at which it is interrupted from inside; ``None`` where it is only killed from outside."""
    input_id: str = ""
    """Which input of a pack it is just now."""
    kill: Callable[[], object] | None = None
    """What interrupts it in a green thread."""
    _gate: threading.Lock = field(default_factory=threading.Lock)
    _open: bool = True
    _sent: bool = False

    @property
    def in_main_thread(self) -> bool:
        """Whether a signal interrupts it."""
        return self.thread == threading.main_thread().ident

    def interrupt(self, verdict: str) -> None:
        """Let it end with ``verdict``; the first one counts."""
        with self._gate:
            if not self._open or self.claim.verdict in ("cancel", "overdue"):
                return
            self.claim.verdict = verdict
            if self.task is not None:
                self.task.get_loop().call_soon_threadsafe(self.task.cancel)
            elif self.is_async:
                return  # its task is about to begin, and looks at the verdict
            elif self.kill is not None:
                self.kill()
            elif self.in_main_thread:
                signal.pthread_kill(self.thread, signal.SIGUSR1)
            else:
                self._sent = True
                raised = ctypes.py_object(InputCancellation)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread), raised)

    def close(self) -> None:
        """End: an interruption that is on its way to this thread arrives here, and not in its next input."""
        with self._gate:
            self._open = False
        if self._sent:
            try:
                for _ in range(FLUSH_STEPS):
                    pass
            except InputCancellation:
                pass

    @property
    def interrupted(self) -> bool:
        """Whether somebody has asked it to end."""
        return self.claim.verdict in ("cancel", "overdue")
