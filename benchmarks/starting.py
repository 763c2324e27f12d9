"""Ours starts containers from zero, and tells where the time goes. The module for ``rivals/serve.py``."""

from __future__ import annotations

import atexit
import threading
import time
from contextlib import ExitStack, closing
from typing import Any

from benchmarks.clocks import PARTS, app, clocks
from benchmarks.surroundings import surroundings
from scaleplug.server import connect

PAUSE = 0.15
"""Seconds between two starts: what is kept ready is made again in the meantime."""
SCRIPTS = ("submit_one", "started", "connect")


class Caller:
    """Each start is that of another function, of which nothing was learned before."""

    def __init__(self) -> None:
        stack = ExitStack()
        atexit.register(stack.close)
        self.around = stack.enter_context(surroundings(app, *clocks))
        self.functions = iter(clocks)
        next(self.functions).remote()  # the zygote has imported the app
        self.script_of = {self.around.store._script(name).sha: name for name in SCRIPTS}  # noqa: SLF001  # told by MONITOR

    def call(self) -> None: ...

    def starts(self, count: int) -> list[float]:
        """Return the seconds from each call to its result."""
        took = []
        for _ in range(count):
            time.sleep(PAUSE)
            function = next(self.functions)
            began = time.perf_counter()
            function.remote()
            took.append(time.perf_counter() - began)
        return took

    def parts(self, count: int) -> list[dict[str, float]]:
        """Return the seconds of each part of some starts, while Redis tells what it is asked to do."""
        seen: list[tuple[float, str, str]] = []
        found = []
        with closing(connect(self.around.run.config.redis_url or "")) as client:
            threading.Thread(target=self._watch, args=(client, seen), daemon=True).start()
            time.sleep(2 * PAUSE)
            for _ in range(count):
                time.sleep(PAUSE)
                function = next(self.functions)
                seen.clear()
                asked = time.time()
                forked, began, ended = function.remote()
                got = time.time()
                time.sleep(PAUSE)
                times = _first(seen, function.full_name, asked)
                if times is not None:
                    found.append(_between([asked, *times, forked, began, ended, got]))
        return found

    def _watch(self, client: Any, seen: list[tuple[float, str, str]]) -> None:
        with client.monitor() as monitor:
            while True:
                try:
                    command = monitor.next_command()
                except Exception:  # noqa: BLE001  # the connection was closed: it is over
                    return
                words = command["command"].split(" ", 2)
                if words[0] == "EVALSHA" and words[1] in self.script_of:
                    seen.append((command["time"], self.script_of[words[1]], words[2]))
                elif words[0] == "SPOP":
                    seen.append((command["time"], "woken", ""))


def _first(seen: list[tuple[float, str, str]], function: str, asked: float) -> list[float] | None:
    """Return when the input was queued, the controller woken, the start ordered, and the container connected."""
    times = [asked]
    for what in ("submit_one", "woken", "started", "connect"):
        after = [
            at for at, name, text in seen if name == what and at >= times[-1] and (what == "woken" or function in text)
        ]
        if not after:
            return None
        times.append(after[0])
    return times[1:]


def _between(times: list[float]) -> dict[str, float]:
    """Return what lies between; a container that was forked before it was ordered takes no time for that."""
    asked, queued, woken, ordered, connected, forked, began, ended, got = times
    forked = min(max(forked, ordered), connected)
    marks = (asked, queued, woken, ordered, forked, connected, began, ended, got)
    return {part: max(0.0, end - start) for part, start, end in zip(PARTS, marks, marks[1:], strict=False)}
