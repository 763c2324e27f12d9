"""Threads that do what may block, and what is to be done at its time."""

from __future__ import annotations

import heapq
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

logger = logging.getLogger("scaleplug")

Job = tuple[Callable[..., object], tuple[Any, ...]]


class Crew:
    """A few daemon threads, made when there is work: nobody waits for them at the end of a process."""

    def __init__(self, name: str, most: int) -> None:
        self.name, self.most = name, most
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._open = self._idle = 0

    @property
    def busy(self) -> bool:
        """Whether anything is to be done, or under way."""
        return self._open > 0

    def do(self, job: Callable[..., object], *args: Any) -> None:
        """Let somebody do it."""
        with self._lock:
            self._open += 1
            if self._open > len(self._threads) and len(self._threads) < self.most:
                thread = threading.Thread(target=self._work, daemon=True, name=f"{self.name}-{len(self._threads)}")
                self._threads.append(thread)
                thread.start()
        self._jobs.put((job, args))

    def _work(self) -> None:
        while (found := self._jobs.get()) is not None:
            job, args = found
            try:
                job(*args)
            except Exception:
                logger.exception("something the docker backend had to do failed")
            finally:
                with self._lock:
                    self._open -= 1

    def close(self) -> None:
        """Let the threads go when they have done what they do now."""
        with self._lock:
            for _ in self._threads:
                self._jobs.put(None)


class Crews:
    """A crew for each engine, so that one that hangs keeps no hand from the others."""

    def __init__(self, name: str, most: int) -> None:
        self.name, self.most = name, most
        self._crews: dict[Hashable, Crew] = {}
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether anything is to be done, or under way."""
        return any(crew.busy for crew in list(self._crews.values()))

    def do(self, engine: Hashable, job: Callable[..., object], *args: Any) -> None:
        """Let somebody of an engine's crew do it."""
        with self._lock:
            crew = self._crews.setdefault(engine, Crew(self.name, self.most))
        crew.do(job, *args)

    def close(self) -> None:
        """Let the threads go when they have done what they do now."""
        for crew in list(self._crews.values()):
            crew.close()


class Timers:
    """Calls jobs at their times, on one daemon thread; jobs must not block."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._due: list[tuple[float, int, Job]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def after(self, seconds: float, job: Callable[..., object], *args: Any) -> None:
        """Call ``job`` after so many seconds."""
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), (job, args)))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name=self.name)
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (not self._due or self._due[0][0] > time.monotonic()):
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                if self._closed:
                    return
                _, _, (job, args) = heapq.heappop(self._due)
            try:
                job(*args)
            except Exception:
                logger.exception("something the docker backend had to do failed")

    def close(self) -> None:
        """Call nothing any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
