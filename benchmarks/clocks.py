"""Functions that tell when they ran: to be called once each."""

from __future__ import annotations

import os
import time

import scaleplug

PARTS = ("send", "doorbell", "decision", "fork", "connect", "take", "run", "result")
"""From the call to the queue, to the controller's wake, to its order, to the new process, to its registration in Redis,
to the function's first line, to its last, to the caller's hands."""

app = scaleplug.App("clocks")
_forked = [0.0]
os.register_at_fork(after_in_child=lambda: _forked.__setitem__(0, time.time()))


def tell() -> tuple[float, float, float]:
    """Return when this process was forked, and when this began and ended."""
    began = time.time()
    return _forked[0], began, time.time()


clocks = [app.function(name=f"clock_{n}", scaledown_window=2)(tell) for n in range(120)]
