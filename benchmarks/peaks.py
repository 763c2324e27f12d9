"""The most memory that processes and Redis have had in a while."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Any

import psutil

from scaleplug.server import connect

EACH = 0.1
"""Seconds between two looks."""
MIB = 1024 * 1024


class Peaks:
    """Looks in a thread while its block runs; ``most`` and ``before``: MiB of ``caller``, ``containers``, ``redis``."""

    def __init__(self, url: str, containers: list[int]) -> None:
        self._client: Any = connect(url, name="benchmarks-peaks")
        self._caller = psutil.Process(os.getpid())
        self._containers = [psutil.Process(pid) for pid in containers]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.before = self._look()
        self.most = dict(self.before)

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self._client.close()

    def _watch(self) -> None:
        while not self._over.wait(EACH):
            for name, value in self._look().items():
                self.most[name] = max(self.most[name], value)

    def _look(self) -> dict[str, float]:
        return {
            "caller": self._caller.memory_info().rss / MIB,
            "containers": sum(process.memory_info().rss for process in self._containers) / MIB,
            "redis": int(self._client.info("memory")["used_memory"]) / MIB,
        }
