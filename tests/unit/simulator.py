"""A discrete-event simulation of one function: the real policy, everything around it pretended.

Time is a whole number of microseconds, so that nothing drifts; the policy is shown seconds like Unix time. A decision
is made when something rings, at most every ``gap`` seconds, or at the last ``next_check``; there is no other tick. A
container's first input takes ``cold`` seconds more, so it teaches nothing unless it was long; what the others teach is
known ``lag`` seconds after they end.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from scaleplug.policy import LEAST_START_TIME, Containers, Decision, Idle, Load, Starting, decide, learn
from scaleplug.settings import FunctionSettings

EPOCH = 1_700_000_000.0
EXIT_SECONDS = 0.01


def ticks(seconds: float) -> int:
    return round(seconds * 1_000_000)


@dataclass
class Box:
    """A container."""

    name: str
    requested: int
    ready: int | None = None
    idle_since: int = 0
    draining: bool = False
    gone: int | None = None
    running: int = 0
    ran: int = 0


@dataclass
class Simulator:
    """Run ``settings``' function on containers that take ``start_time(number, starting)`` seconds to get ready."""

    settings: FunctionSettings
    start_time: Callable[[int, int], float | None]
    service_time: float | None = None
    learned_start: float | None = None
    gap: float = 0.02
    lag: float = 0.0
    cold: float = 0.0
    hold_until: float = 0.0

    now: int = 0
    pending: deque[tuple[int, int]] = field(default_factory=deque)
    running: dict[int, int] = field(default_factory=dict)
    boxes: dict[str, Box] = field(default_factory=dict)
    takers: deque[str] = field(default_factory=deque)
    waits: list[float] = field(default_factory=list)
    finished: list[float] = field(default_factory=list)
    decisions: list[tuple[float, Decision]] = field(default_factory=list)
    peak: int = 0

    def __post_init__(self) -> None:
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._decide_at: int | None = None
        self._decided = -ticks(self.gap)

    # what a test says and asks

    def publish(self, at: float, seconds: Iterable[float]) -> None:
        """Publish inputs that run for ``seconds`` each."""
        inputs = [ticks(s) for s in seconds]
        self._at(ticks(at), lambda: self._published(inputs))

    def run(self, until: float) -> Simulator:
        while self._events and self._events[0][0] <= ticks(until):
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = ticks(until)
        return self

    @property
    def started(self) -> int:
        return len(self.boxes)

    @property
    def alive(self) -> int:
        return sum(box.gone is None for box in self.boxes.values())

    @property
    def makespan(self) -> float:
        return max(self.finished)

    @property
    def container_seconds(self) -> float:
        return sum((self.now if b.gone is None else b.gone) - b.requested for b in self.boxes.values()) / 1e6

    def started_by(self, seconds: float) -> int:
        return sum(box.requested <= ticks(seconds) for box in self.boxes.values())

    def wait(self, share: float) -> float:
        """Return the wait from publish to take that ``share`` of the inputs stayed below."""
        return sorted(self.waits)[min(len(self.waits) - 1, int(share * len(self.waits)))]

    # what happens

    def _at(self, tick: int, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (tick, self._count, event))

    def _published(self, inputs: list[int]) -> None:
        self.pending.extend((self.now, duration) for duration in inputs)
        self._serve()
        self._ring()

    def _serve(self) -> None:
        """Hand pending inputs to who has waited longest for one, as Redis does."""
        while self.pending and self.takers:
            box = self.boxes[self.takers.popleft()]
            if box.draining or box.gone is not None:
                continue
            published, duration = self.pending.popleft()
            duration += 0 if box.ran or box.running else ticks(self.cold)
            self.waits.append((self.now - published) / 1e6)
            box.running += 1
            self._count += 1
            key = self._count
            self.running[key] = self.now
            self._at(self.now + duration, lambda box=box, key=key, duration=duration: self._end(box, key, duration))

    def _end(self, box: Box, key: int, duration: int) -> None:
        del self.running[key]
        box.running -= 1
        box.ran += 1
        self.finished.append(self.now / 1e6)
        if box.ran > 1 or duration >= ticks(max(LEAST_START_TIME, self.learned_start or 0.0)):
            self._at(self.now + ticks(self.lag), lambda: self._learn(duration / 1e6))
        self.takers.append(box.name)
        self._serve()
        if not box.running:
            box.idle_since = self.now
            self._ring()

    def _learn(self, sample: float) -> None:
        self.service_time = learn(self.service_time, sample)

    def _ready(self, box: Box) -> None:
        if box.gone is not None:
            return
        box.ready = box.idle_since = self.now
        self.learned_start = learn(self.learned_start, (self.now - box.requested) / 1e6)
        self.takers.extend([box.name] * self.settings.target_inputs)
        self._serve()
        self._ring()

    def _gone(self, box: Box) -> None:
        assert not box.running
        box.gone = self.now
        self._ring()

    # the controller

    def _ring(self) -> None:
        self._wake(max(self.now, self._decided + ticks(self.gap)))

    def _wake(self, at: int) -> None:
        if self._decide_at is None or at < self._decide_at:
            self._decide_at = at
            self._at(at, lambda: self._decide() if self._decide_at == at else None)

    def _decide(self) -> None:
        self._decide_at, self._decided = None, self.now
        now = EPOCH + self.now / 1e6
        oldest = min(self.running.values(), default=None)
        load = Load(
            pending=len(self.pending),
            running=len(self.running),
            oldest_running=None if oldest is None else (self.now - oldest) / 1e6,
            service_time=self.service_time,
            start_time=self.learned_start,
        )
        decision = decide(self.settings, load, self._containers(), now, hold_until=EPOCH + self.hold_until)
        self.decisions.append((self.now / 1e6, decision))
        assert not (decision.start and decision.stop)
        for name in decision.give_up:
            self._gone(self.boxes[name])
        for name in decision.stop:
            box = self.boxes[name]
            assert box.ready is not None, "only what is idle may be stopped"
            assert not box.running
            assert not box.draining
            box.draining = True
            self._at(self.now + ticks(EXIT_SECONDS), lambda box=box: self._gone(box))
        self._start(decision.start)
        if decision.next_check is not None:
            assert decision.next_check > now
            at = -int(-(decision.next_check - EPOCH) * 1e6 // 1)  # rounded up: not before it
            self._wake(max(at, self.now + 1))

    def _start(self, count: int) -> None:
        for _ in range(count):
            box = Box(f"c{self.started:05}", self.now)
            starting = sum(b.ready is None and b.gone is None for b in self.boxes.values())
            seconds = self.start_time(self.started, starting)
            self.boxes[box.name] = box
            if seconds is not None:
                self._at(self.now + ticks(seconds), lambda box=box: self._ready(box))
        self.peak = max(self.peak, self.alive)

    def _containers(self) -> Containers:
        here = [box for box in self.boxes.values() if box.gone is None]
        live = [box for box in here if not box.draining]
        return Containers(
            starting=tuple(
                Starting(container=b.name, requested_at=EPOCH + b.requested / 1e6) for b in live if b.ready is None
            ),
            idle=tuple(
                Idle(container=b.name, idle_since=EPOCH + b.idle_since / 1e6)
                for b in live
                if b.ready is not None and not b.running
            ),
            busy=sum(b.running > 0 for b in live),
            draining=len(here) - len(live),
        )
