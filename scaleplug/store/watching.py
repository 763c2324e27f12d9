"""The store's part for charts and metrics: what functions had, and how long things took."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from redis.exceptions import OutOfMemoryError

from scaleplug.store.scripts import Scripts, as_text
from scaleplug.store.states import Census

EDGES: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""The upper edges of the histograms' buckets, in seconds; ``lua/prelude.lua`` has the same ones."""
POINTS_KEPT: Final = 900
"""Of a function's history: a quarter of an hour where something changes every second, else more."""
SERIES: Final = ("pending", "running", "starting", "idle", "busy", "draining", "desired")
"""What a point of a function's history holds, after its time."""


@dataclass(frozen=True, slots=True)
class Overview:
    """What a function has at one moment, for whoever watches all of them."""

    census: Census
    retried: int
    starts: int
    """Containers that were started for it, ever."""
    desired: int


@dataclass(frozen=True, slots=True)
class Times:
    """A histogram: how many took no longer than each of ``EDGES`` and more than the one before, then the others."""

    counts: tuple[int, ...]
    seconds: float
    """All together."""


class Watching(Scripts):
    """What the controller keeps for those who look on, and what they read."""

    def note(self, token: str, desired: Mapping[str, int], most: int = POINTS_KEPT) -> bool:
        """Add a point to the history of functions, where something has changed; False without the lease."""
        with contextlib.suppress(OutOfMemoryError):
            return bool(self._run("note", token, most, *(value for row in desired.items() for value in row)))
        return True

    def overview(self, functions: Sequence[str] = ()) -> tuple[float, dict[str, Overview]]:
        """Return the time, and what each function has now (of all that are registered), in one command."""
        now, *rows = self._run("overview", *functions)
        return float(now), {
            as_text(row[0]): Overview(
                Census(*(int(n) for n in row[1:11])), int(row[11]), int(row[12]), _desired(as_text(row[13]))
            )
            for row in rows
        }

    def histories(self, functions: Sequence[str], last: int = POINTS_KEPT) -> dict[str, list[list[float]]]:
        """Return the points of functions' histories, the oldest first; see ``SERIES``."""
        pipe = self.client.pipeline(transaction=False)
        for function in functions:
            pipe.lrange(self.keys.of("history", function), 0, last - 1)
        found = zip(functions, pipe.execute() if functions else (), strict=True)
        return {function: [p for p in map(_point, reversed(lines)) if p] for function, lines in found}

    def times(self, functions: Sequence[str]) -> dict[str, dict[str, Times]]:
        """Return the histograms of functions: ``wait`` and ``run`` of inputs, ``start`` of containers."""
        pipe = self.client.pipeline(transaction=False)
        for function in functions:
            pipe.hgetall(self.keys.of("times", function))
            pipe.hget(self.keys.of("stats", function), "microseconds")
        found = pipe.execute() if functions else []
        return {f: _times(table, run) for f, table, run in zip(functions, found[::2], found[1::2], strict=True)}


def _desired(point: str) -> int:
    found = _point(point)
    return int(found[-1]) if found else 0


def _point(line: bytes | str) -> list[float]:
    """Return a point's numbers, none where somebody else has written it."""
    with contextlib.suppress(ValueError):
        numbers = [float(word) for word in as_text(line).split()]
        if len(numbers) == 1 + len(SERIES) and all(map(math.isfinite, numbers)):
            return numbers
    return []


def _times(table: Mapping[bytes, bytes], run: bytes | None) -> dict[str, Times]:
    known = {as_text(name): int(value) for name, value in table.items()} | {"run": int(run or 0)}
    return {
        kind: Times(tuple(known.get(f"{kind}{n}", 0) for n in range(1, len(EDGES) + 2)), known.get(kind, 0) / 1e6)
        for kind in ("wait", "run", "start")
    }
