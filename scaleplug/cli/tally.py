"""What is known of a run: its maps, and the inputs and containers of its functions. Numbers and times in, no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil

from scaleplug.cli.names import counted
from scaleplug.mapping import Progress
from scaleplug.store import Census

RATE_SECONDS = 5.0
"""How far back the rate of a map under way looks."""
LEAST_RATE_SECONDS = 0.7
"""How long inputs must have been done before it is told how long the rest will take."""


@dataclass(slots=True)
class MapRecord:
    """One map: when it began and ended, and the containers its function has had meanwhile."""

    progress: Progress
    began: float
    ended: float | None = None
    containers: int = 0
    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=64))

    def sample(self, now: float) -> None:
        """Note how far it is; until the first input is done, nothing tells how fast it will be."""
        if self.samples and not self.progress.done:
            self.samples.clear()
        self.samples.append((now, self.progress.done))
        while len(self.samples) > 2 and now - self.samples[0][0] > RATE_SECONDS:
            self.samples.popleft()

    @property
    def rate(self) -> float | None:
        """Inputs done per second: lately while it runs, in all once it has ended."""
        if self.ended is not None:
            return self.progress.done / max(self.ended - self.began, 1e-3)
        if len(self.samples) < 2:
            return None
        (then, before), (now, done) = self.samples[0], self.samples[-1]
        return (done - before) / (now - then) if now > then else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until it is done, at that rate, once that rate is known."""
        if (
            self.progress.total is None
            or not self.rate
            or self.samples[-1][0] - self.samples[0][0] < LEAST_RATE_SECONDS
        ):
            return None
        return (self.progress.total - self.progress.done) / self.rate


@dataclass(slots=True)
class Done:
    """The maps of one function that have ended."""

    maps: int = 0
    inputs: int = 0
    missing: int = 0
    failed: int = 0
    seconds: float = 0.0


class Tally:
    """The numbers of one run."""

    def __init__(self) -> None:
        self.maps: list[MapRecord] = []
        self.done: dict[str, Done] = {}
        self.functions: dict[str, Census] = {}
        self.shown: Mapping[str, str] = {}
        """What people read in place of the names of pools."""
        self.containers = 0
        """The most there have been at once."""

    def map_began(self, progress: Progress, now: float) -> None:
        """Take note of a new map."""
        record = MapRecord(progress, now)
        record.sample(now)
        self.maps.append(record)

    def map_ended(self, progress: Progress, now: float) -> MapRecord | None:
        """Take note of a map's end; return its record."""
        record = next((r for r in self.maps if r.progress is progress), None)
        if record is None:
            return None
        self.maps.remove(record)
        record.ended = now
        done = self.done.setdefault(progress.function, Done())
        done.maps += 1
        done.inputs += progress.done
        done.missing += max(0, (progress.total or 0) - progress.done)
        done.failed += progress.failed
        done.seconds += now - record.began
        return record

    def see(self, functions: Mapping[str, Census], now: float) -> None:
        """Take in what Redis says."""
        self.functions = dict(functions)
        self.containers = max(self.containers, sum(census.containers for census in functions.values()))
        for record in self.maps:
            record.sample(now)
            census = functions.get(record.progress.function)
            if census is not None:
                record.containers = max(record.containers, census.containers)

    @property
    def active(self) -> dict[str, Census]:
        """The functions that have, or have had, something to do."""
        return {name: c for name, c in self.functions.items() if c.pending or c.running or c.containers or c.finished}

    def summary(self, seconds: float) -> str:
        """Return the line that ends a run."""
        inputs = sum(census.finished for census in self.functions.values())
        failed = sum(census.failed for census in self.functions.values())
        parts = [counted(inputs, "input"), *([f"{failed:,} failed"] if failed else [])]
        if self.containers:
            parts.append(f"{counted(self.containers, 'container')} at most")
        return ", ".join([*parts, f"{seconds:.1f} s"])


def map_line(record: MapRecord, name: str) -> str:
    """Return the line that tells of a map that has ended."""
    progress, seconds = record.progress, (record.ended or record.began) - record.began
    inputs = counted(progress.done, "input")
    if progress.total is not None and progress.done < progress.total:
        inputs = f"ended after {progress.done:,} of {counted(progress.total, 'input')}"
    failed = f", {progress.failed:,} failed" if progress.failed else ""
    containers = f", {counted(record.containers, 'container')} at most" if record.containers else ""
    rate = f", {told_rate(record.rate)}" if progress.done else ""
    return f"map of {name}: {inputs} in {seconds:.1f} s{rate}{failed}{containers}"


def told_rate(rate: float | None) -> str:
    """Return a rate with as many digits as mean something."""
    if rate is None:
        return ""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"


def told_seconds(seconds: float) -> str:
    """Return a duration as people say it, rounded up: 4 s, 3:07, 2:00:00."""
    whole = max(1, ceil(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
