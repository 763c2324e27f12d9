"""Ctrl-C and its kin: the first one cancels the job in good order, a second one ends everything at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

FORGOTTEN_AFTER = 10.0
"""Seconds after which one more Ctrl-C counts as a first one: the job has lived through the one before."""
SAME_WITHIN = 0.2
"""Seconds in which two of a kind count as one: some senders mean a process and its group, and so reach it twice."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While it is entered, signals raise KeyboardInterrupt in the job, and a second one calls ``on_second``.

    Python runs signal handlers between two steps of the main thread, which may hang. So a thread counts the signals
    that arrive, and ``on_second`` is called there. Ctrl-C keeps Python's own handler, for asyncio looks for it.
    """

    def __init__(self, on_first: Callable[[], object], on_second: Callable[[], object]) -> None:
        self.on_first, self.on_second = on_first, on_second
        self.last_signal = signal.SIGINT
        self._ending = self._interrupted = False
        self._count = 0
        self._last_heard: signal.Signals | None = None
        self._last_at = -FORGOTTEN_AFTER
        self._before: dict[signal.Signals, Any] = {}
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)

    @property
    def exit_code(self) -> int:
        """The status of a process that the last signal has ended: 0 after one SIGTERM that it obeyed."""
        orderly = self.last_signal == signal.SIGTERM and self._count <= 1
        return 0 if orderly else 128 + self.last_signal

    @property
    def heard(self) -> bool:
        """Whether a signal has come."""
        return self._count > 0

    def __enter__(self) -> Interrupts:
        self._before = {sig: signal.getsignal(sig) for sig in SIGNALS}
        for sig in SIGNALS[1:]:
            if self._before[sig] is signal.SIG_DFL:
                signal.signal(sig, self._interrupt)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, daemon=True, name="scaleplug-signals").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(-1)
        os.write(self._writer, b"\0")  # the thread ends
        for sig, handler in self._before.items():
            signal.signal(sig, handler)

    def ending(self, *, interrupted: bool) -> None:
        """Raise nothing from here on; the next signal hurries, or the one after the first if ``interrupted``."""
        self._ending, self._interrupted = True, interrupted
        for sig in SIGNALS:
            if signal.getsignal(sig) is not signal.SIG_IGN:
                signal.signal(sig, lambda *_: None)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.last_signal = signal.Signals(number)
        handler = signal.getsignal(signal.SIGINT)  # asyncio puts its own there
        if callable(handler):
            handler(signal.SIGINT, frame)
        else:
            raise KeyboardInterrupt

    def _watch(self) -> None:
        while True:
            for number in os.read(self._reader, 64):
                if number == 0:
                    os.close(self._reader)
                    os.close(self._writer)
                    return
                if number in SIGNALS:
                    self._arrived(signal.Signals(number))

    def _arrived(self, sig: signal.Signals) -> None:
        self.last_signal, now = sig, time.monotonic()
        since, before = now - self._last_at, self._last_heard
        if sig == before and since < SAME_WITHIN:
            return
        self._last_heard, self._last_at = sig, now
        if since > FORGOTTEN_AFTER and not self._ending:
            self._count = 0
        self._count += 1
        if self._count > 1 or (self._ending and not self._interrupted):
            self.on_second()
        else:
            self.on_first()
