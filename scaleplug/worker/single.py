"""A container that is a process by itself, without a zygote: the main process of a Docker container.

``python3 -m scaleplug.worker.single`` reads one line of JSON from standard input: ``config``, ``secrets``, ``source``,
``green``, ``registrations``, and the ``order`` (``container``, ``registration``). Without an order it stands by: it
prepares all that it can, says so with the line ``abc.READY``, and reads its order from a second line; the end of the
input is the end of it. Nothing of this is in its environment, its arguments or on a disk, so no inspection shows it.

Nothing but the standard library may be imported before :func:`main` has patched it for green threads.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
from typing import Any

LINE_BYTES = 65_536
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


def read_line(fd: int) -> tuple[dict[str, Any] | None, bytes]:
    """Return what the first line says, and what has been read beyond it; ``None`` where there is no line."""
    data = b""
    while b"\n" not in data:
        more = os.read(fd, LINE_BYTES)
        if not more:
            return None, b""
        data += more
    line, _, rest = data.partition(b"\n")
    return dict(json.loads(line)), rest


def main() -> None:
    """Be a container, or stand by to be one; where this is the first process of all, a child is that."""
    if os.getpid() == 1:
        mind()
    gc.disable()  # until everything is imported: it would only look through what stays
    for sig in FORWARDED:
        signal.signal(sig, signal.SIG_DFL)
    told, heard = read_line(0)
    if told is None:
        return  # nobody wants anything of it
    problem = importlib.import_module("scaleplug.worker.green").patch() if told.get("green") else None
    importlib.import_module("scaleplug.worker.serving").main(told, heard, problem)


def mind() -> None:
    """Fork; return in the child. The parent passes signals on, reaps what is left behind, and ends as the child does.

    The kernel keeps signals without a handler from a first process, also those it sends itself: a function that means
    to end its process would go on.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        return

    def pass_on(number: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(child, number)

    for sig in FORWARDED:
        signal.signal(sig, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    for fd in (0, 1, 2):
        os.close(fd)  # what the child does with them is its own
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
