"""What the measurements share: rounds, their summary, and the rows of the table."""

from __future__ import annotations

import contextlib
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How thorough a measurement is to be."""

    quick: bool = False
    hurried: bool = False
    """Whether it is for a first look and no page: what others stand for may be left out."""

    def rounds(self, thorough: int, quick: int) -> int:
        """Return the number that applies."""
        return quick if self.quick else thorough


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Samples in short; ``spread`` is the middle half's width as a share of the median."""

    unit: str
    count: int
    p50: float
    p95: float
    p99: float
    low: float
    high: float
    spread: float

    @classmethod
    def of(cls, samples: Sequence[float], unit: str) -> Summary:
        """Summarise samples (at least one), which are in ``unit``."""
        cuts = statistics.quantiles(samples, n=100, method="inclusive") if len(samples) > 1 else [samples[0]] * 99
        p50 = statistics.median(samples)
        return cls(
            unit=unit, count=len(samples), p50=p50, p95=cuts[94], p99=cuts[98], low=min(samples), high=max(samples),
            spread=(cuts[74] - cuts[24]) / p50 if p50 else 0.0,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure beside its peer's, and its bounds; ``peer_least``: the peer's was not measured to its end."""

    what: str
    unit: str
    ours: float
    peer: float | None
    peer_is: str
    most: float | None = None
    least: float | None = None
    least_ratio: float | None = None
    more_is_better: bool = False
    peer_least: bool = False

    @property
    def ratio(self) -> float | None:
        """How many times better ours is; ``None`` where there is nothing to divide."""
        if not self.peer or not self.ours:
            return None
        return self.ours / self.peer if self.more_is_better else self.peer / self.ours

    @property
    def met(self) -> bool | None:
        """Whether all targets are met; ``None`` if there are none."""
        checks = []
        if self.most is not None:
            checks.append(self.ours <= self.most)
        if self.least is not None:
            checks.append(self.ours >= self.least)
        if self.least_ratio is not None:
            checks.append((self.ratio or 0.0) >= self.least_ratio)
        return all(checks) if checks else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one measurement found; ``unfair`` tells what is in our favour, ``remarks`` what else to know."""

    name: str
    rows: tuple[Row, ...]
    samples: dict[str, Summary] = field(default_factory=dict)
    unfair: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def wait_until(condition: Callable[[], T], what: str, timeout: float = 30.0, pause: float = 0.005) -> T:
    """Return what ``condition`` gives as soon as it is true; raises TimeoutError."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s: {what}")
        time.sleep(pause)
    return value


def seconds(action: Callable[[], object]) -> float:
    """Return how long ``action`` takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


@contextlib.contextmanager
def time_limit(limit: float) -> Iterator[None]:
    """Raise TimeoutError in the block when it takes longer than ``limit`` seconds; for the main thread."""

    def on_alarm(*_: object) -> None:
        raise TimeoutError(f"the measurement took longer than {limit:g} s")

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
