"""How a container leaves that was asked to: it finishes what it runs, or puts it back when its time is up."""

from __future__ import annotations

import _thread
import mmap
import struct
import time
from collections.abc import Callable

LOOK_SECONDS = 0.05


class Deadline:
    """A page of memory that a zygote shares with one container: until when (monotonic time) that may take to leave."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def set(self, when: float) -> None:
        """Write it down, before the signal is sent."""
        self._page[:8] = struct.pack("d", when)

    def get(self) -> float | None:
        """Return it, ``None`` where the zygote hasn't asked."""
        when: float = struct.unpack("d", self._page[:8])[0]
        return when or None

    def close(self) -> None:
        """Let go of the page."""
        self._page.close()


class Leaving:
    """The end of a container, from the first signal on."""

    def __init__(self, deadline: Deadline, grace: float, give_up: Callable[[], object]) -> None:
        """``grace`` is for signals that don't come from the zygote; ``give_up`` ends the process."""
        self._deadline, self._grace, self._give_up = deadline, grace, give_up
        self._told: float | None = None
        self._by: float | None = None

    def on_signal(self) -> None:
        """Drain; a second signal hurries. For a signal handler: whatever it interrupts, it waits for no lock."""
        told, begun = self._deadline.get(), self._by is not None
        if told != self._told:
            self._told = self._by = told
        else:  # somebody else's signal, or the terminal's
            self._by = time.monotonic() + (0.0 if begun else self._grace)
        if not begun:
            _thread.start_new_thread(self._wait, ())

    def _wait(self) -> None:
        while self._by is None or time.monotonic() < self._by:
            time.sleep(LOOK_SECONDS)
        self._give_up()
