"""Decides how many containers a function needs: numbers and time in, a decision out.

With s = target_inputs, m = service time, C = start time, W = LATENCY_TARGET, D = pending + running::

    m >= C             need = ceil(D / s)            it takes longer to run one than to start one: a slot each
    m < C              need = ceil(left * m / (s W)) Little's law on what is left of pending when a start can help
    m < C, but stale   need = busy + what is behind  the oldest input runs on and on: busy ones count as taken
    m unknown          need = 1, then 2 * ready      until a first input has ended or has run for C
    single use         need = D                      a container for each input

    desired = clamp(max(max(need, 1) + buffer_containers, in use) if D > 0 else 0, min_containers, max_containers)

The ``reason`` of a decision tells which line it came from, with every number.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import ceil, inf, isfinite

from scaleplug.settings import FunctionSettings

LATENCY_TARGET = 1.0  # seconds in which pending short inputs should be done once a new container could help
LEAST_START_TIME = 0.1  # seconds, also while no start has been seen; less is what a busy machine does to any input
RAMP_BACKLOG = 100  # pending inputs per ready slot above which the ramp doubles; fewer can wait for the first sample
STALE_FACTOR = 10.0  # an input that runs this many service times shows that the service time is no guide
EARLY_SECONDS = 5.0  # nothing leaves sooner (nor sooner than two start times), unless scaledown_window is shorter
EARLY_SPARE = 4  # so many idle ones beyond desired are no substantial surplus: they stay for scaledown_window
EARLY_SHARE = 0.5  # the same as a share of desired; the larger counts
OUTLIER = 10.0  # a sample counts for at most this many times what was learned before
RESOLUTION = 0.001  # seconds: checks of an age are this much late, so that rounding can't leave it just short


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a function has to do; times in seconds, ``None`` while unknown."""

    pending: int
    running: int
    oldest_running: float | None  # age of the input that has been running longest
    service_time: float | None  # learned: how long an input occupies its slot
    start_time: float | None  # learned: from the request of a container until it is ready


@dataclass(frozen=True, slots=True, kw_only=True)
class Starting:
    """A container that was asked for and isn't ready yet."""

    container: str
    requested_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """A ready container that runs no input."""

    container: str
    idle_since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Containers:
    """The containers a function has; ``busy`` ones are ready and run at least one input."""

    starting: tuple[Starting, ...] = ()
    idle: tuple[Idle, ...] = ()
    busy: int = 0
    draining: int = 0

    @property
    def ready(self) -> int:
        """Containers that take inputs now."""
        return len(self.idle) + self.busy

    @property
    def capacity(self) -> int:
        """Containers that take inputs now or soon."""
        return self.ready + len(self.starting)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do about a function's containers, and why."""

    start: int
    stop: tuple[str, ...]  # idle ones to drain, the longest idle first
    give_up: tuple[str, ...]  # starting ones to kill: past startup_timeout
    desired: int
    reason: str  # one line
    next_check: float | None  # when to decide again even if nothing happens


@dataclass(frozen=True, slots=True)
class _Need:
    count: int
    why: str
    check_in: float = inf  # seconds; never


def decide(
    settings: FunctionSettings, load: Load | None, containers: Containers | None, now: float, *, hold_until: float = 0.0
) -> Decision:
    """Decide what to start and what to stop.

    ``None`` stands for what can't be known now: everything holds still. Before ``hold_until`` nothing is stopped but
    what is above ``max_containers``. The same snapshot gives the same decision, however often it is asked for; once
    the containers to start are listed as starting, no more are.
    """
    blind = _blind(load, containers)
    if blind or load is None or containers is None:
        held = settings.min_containers if containers is None else containers.capacity
        return Decision(start=0, stop=(), give_up=(), desired=held, reason=f"hold: {blind}", next_check=None)

    limit = settings.start_limit
    late = tuple(c.container for c in containers.starting if now >= c.requested_at + limit)
    live = replace(containers, starting=tuple(c for c in containers.starting if c.container not in late))
    start_time = max(LEAST_START_TIME, _learned(load.start_time) or 0.0)
    case = _Case(settings, load, live, settings.target_inputs, start_time, now)

    need = _need(case)
    desired = _desired(case, need.count)
    most = inf if settings.max_containers is None else settings.max_containers
    room = max(0, most - live.capacity - live.draining - len(late))
    start = int(min(max(0, desired - live.capacity), room))
    stop, leaves_at = _leave(case, desired, hold_until)

    due = min(leaves_at, now + need.check_in + RESOLUTION, *(c.requested_at + limit for c in live.starting))
    check = due if due < inf else None
    reason = f"{need.why}; {case.terms(desired)} -> start {start}, stop {len(stop)}, give up {len(late)}"
    return Decision(start=start, stop=stop, give_up=late, desired=desired, reason=reason, next_check=check)


def slots(settings: FunctionSettings, load: Load, containers: Containers, desired: int) -> int:
    """Return how many inputs each container may run at once now: ``target_inputs``, or ``max_inputs`` for a while.

    The while is until the containers that are ``desired`` are ready; where no more may be started, as long as there is
    more to do than ``target_inputs`` in each.
    """
    most = settings.max_containers
    at_most = most is not None and containers.ready >= most
    more = load.pending + load.running > settings.target_inputs * containers.ready
    return settings.max_inputs if desired > containers.ready or (at_most and more) else settings.target_inputs


def _blind(load: Load | None, containers: Containers | None) -> str:
    """Tell which reading is missing or impossible; empty if none is."""
    if load is None or containers is None:
        return "the load is unknown" if load is None else "the containers are unknown"
    negative = min(load.pending, load.running, containers.busy, containers.draining) < 0
    return "a count is negative" if negative else ""


def _learned(seconds: float | None) -> float | None:
    """Return a learned time, or ``None`` if it is none: a broken one must not stop a function for good."""
    return seconds if seconds is not None and isfinite(seconds) and seconds >= 0 else None


@dataclass(frozen=True, slots=True)
class _Case:
    """One function at one moment."""

    settings: FunctionSettings
    load: Load
    containers: Containers
    slots: int
    start_time: float
    now: float

    @property
    def running(self) -> int:
        """Running inputs but for those in draining containers, which don't count as capacity either."""
        most = self.containers.busy * self.settings.max_inputs
        return min(self.load.running, most) if self.containers.draining else self.load.running

    @property
    def everyone(self) -> int:
        """Containers that give every input a slot at once."""
        return ceil((self.load.pending + self.running) / self.slots)

    @property
    def buffer(self) -> int:
        return self.settings.buffer_containers if self.load.pending + self.load.running else 0

    def little(self, pending: int, ready: int, m: float) -> tuple[int, float]:
        """Return the containers for ``pending`` short inputs that ``ready`` ones work on, and the inputs they leave."""
        # a starting one helps from when it is ready: of the next start time it works as long as it has waited by now
        waited = (min(self.start_time, max(0.0, self.now - c.requested_at)) for c in self.containers.starting)
        left = max(0.0, pending - self.slots * (ready * self.start_time + sum(waited)) / m)
        each = min(m / LATENCY_TARGET, 1.0) / self.slots  # of a container; rounded, for 3.0000000000000004 are 3
        return ceil(round(left * each, 9)), left

    def terms(self, desired: int) -> str:
        """Write down the numbers that every decision rests on."""
        f, load, c = self.settings, self.load, self.containers
        return (
            f"buffer {self.buffer}, min {f.min_containers}, max {f.max_containers} -> desired {desired};"
            f" pending {load.pending}, running {load.running}, target_inputs {self.slots};"
            f" starting {len(c.starting)}, idle {len(c.idle)}, busy {c.busy}, draining {c.draining}"
        )


def _need(case: _Case) -> _Need:
    """Return the containers that the inputs need, buffer and bounds apart."""
    load, start_time = case.load, case.start_time
    if case.settings.single_use_containers:
        return _Need(case.everyone, f"need {case.everyone}: containers of a single use")
    m, age = _learned(load.service_time), load.oldest_running or 0.0
    known_at, stale_at = min(start_time, LATENCY_TARGET), inf
    if m is not None:
        m = max(m, 1e-6)  # it divides
        stale_at = max(start_time, STALE_FACTOR * m)
    elif age >= known_at:
        m, stale_at = age, start_time  # an input that hasn't ended yet takes at least as long as it has run

    if m is None:
        return _ramp(case, known_at)
    if m >= start_time:
        return _Need(case.everyone, f"need {case.everyone}: service {m:.3g} s >= start {start_time:.3g} s")
    if age >= stale_at:
        return _behind(case, m, age)
    count, left = case.little(load.pending, case.containers.ready, m)
    why = f"need {count}: {left:.6g} left after {start_time:.3g} s x {m:.3g} s / ({case.slots} x {LATENCY_TARGET:g} s)"
    return _Need(count, why, stale_at - age if load.pending and load.running else inf)


def _ramp(case: _Case, known_at: float) -> _Need:
    """Double per start time while nothing is known of the service time.

    It counts ready containers, not calls, so it can be asked any number of times. A small backlog waits for what the
    first input tells: either it ends and the service time is known, or it has run for a start time.
    """
    ready, age = case.containers.ready, case.load.oldest_running
    large = case.load.pending > RAMP_BACKLOG * case.slots * ready
    count = min(case.everyone, max(1, 2 * ready if large else ready))
    why = f"need {count} of {case.everyone}: service unknown, {ready} ready, start {case.start_time:.3g} s"
    check_in = case.start_time if age is None else known_at - age
    return _Need(count, why, check_in if count < case.everyone else inf)


def _behind(case: _Case, m: float, age: float) -> _Need:
    """Return the containers for a function of short inputs of which some turn out long.

    How many of the busy containers hold a long input isn't known, so all count as taken, but for their free slots.
    What is pending behind them gets what it takes if it is short, or as many again as are busy if that is more:
    doubling per start time gets there when it is long as well.
    """
    busy = case.containers.busy
    behind = max(0, case.load.pending - max(0, busy * case.slots - case.running))
    short, _ = case.little(behind, len(case.containers.idle), m)
    others = max(short, min(ceil(behind / case.slots), busy))
    why = f"need {busy} busy + {others}: {behind} wait behind an input that has run for {age:.3g} s"
    return _Need(busy + others, f"{why}, service {m:.3g} s, start {case.start_time:.3g} s")


def _desired(case: _Case, need: int) -> int:
    settings, load, containers = case.settings, case.load, case.containers
    least = 1 if load.pending + load.running else 0
    # what runs or is about to take an input is in use; not under the buffer, or a buffer of short inputs would creep up
    takers = min(ceil(load.pending / case.slots), containers.capacity - containers.busy)
    desired = max(max(need, least) + case.buffer, containers.busy + takers, settings.min_containers)
    return desired if settings.max_containers is None else min(desired, settings.max_containers)


def _leave(case: _Case, desired: int, hold_until: float) -> tuple[tuple[str, ...], float]:
    """Return the idle containers that leave now, and when the next one does.

    Only ready containers count as surplus: one that starts is no reason to let a ready one go.
    """
    containers, most = case.containers, case.settings.max_containers
    idle = sorted(containers.idle, key=lambda c: (c.idle_since, c.container))
    above = 0 if most is None else max(0, containers.capacity - most)
    stop = [c.container for c in idle[:above]]
    for candidate in idle[above:]:
        surplus = containers.ready - len(stop) - desired
        if surplus <= 0:
            break
        leaves_at = max(hold_until, candidate.idle_since + _patience(case, surplus, desired))
        if case.now < leaves_at:
            return tuple(stop), leaves_at
        stop.append(candidate.container)
    return tuple(stop), inf


def _patience(case: _Case, surplus: int, desired: int) -> float:
    """Return how long the longest idle container may be idle.

    That is the window, up to a spare few; beyond, it shrinks as the surplus grows, so that a surplus of any size wastes
    about as much as the spare few do. As containers leave it grows again: a few stay for the whole window.
    """
    window = case.settings.scaledown_window
    spare = max(EARLY_SPARE, EARLY_SHARE * desired)
    return min(window, max(window * spare / surplus, EARLY_SECONDS, 2 * case.start_time))


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """The containers a function has on the host, draining ones included, and how many more it asks for."""

    have: int
    start: int


def share(wants: Mapping[str, Want], capacity: int) -> dict[str, int]:
    """Share out the ``capacity`` more containers that the host bears: who has fewest gets the next, ties by name."""
    granted = dict.fromkeys(wants, 0)
    queue = [(want.have, name) for name, want in wants.items() if want.start > 0]
    heapq.heapify(queue)
    for _ in range(capacity):
        if not queue:
            break
        have, name = heapq.heappop(queue)
        granted[name] += 1
        if granted[name] < wants[name].start:
            heapq.heappush(queue, (have + 1, name))
    return granted


@dataclass(frozen=True, slots=True, kw_only=True)
class Yield:
    """What functions above their fair share give up for those that have nothing."""

    stop: tuple[str, ...]  # idle containers to drain
    drain: dict[str, int]  # by function: how many busy ones to drain after what they run; never killed


def yield_for(hungry: Collection[str], containers: Mapping[str, Containers]) -> Yield:
    """Choose the containers that make room on a full host for functions with load and without a container.

    ``hungry`` are the functions whose start :func:`share` didn't grant, ``containers`` all there are on the host. Each
    function that has none gets room for one, less the room that draining containers are about to leave. A fair share
    is the host's containers by its functions. The longest idle container of those above theirs goes first; if none is
    idle, a busy one of the function with the most.
    """
    have = dict.fromkeys(hungry, 0) | {name: c.capacity for name, c in containers.items() if c.capacity}
    fair = sum(have.values()) / len(have) if have else 0
    missing = sum(count == 0 for count in have.values()) - sum(c.draining for c in containers.values())
    stop: list[str] = []
    drain: dict[str, int] = {}
    for _, container, name in sorted((i.idle_since, i.container, n) for n, c in containers.items() for i in c.idle):
        if len(stop) < missing and have[name] > fair:
            stop.append(container)
            have[name] -= 1
    for _ in range(missing - len(stop)):
        givers = [name for name, c in containers.items() if c.busy > drain.get(name, 0) and have[name] > fair]
        if not givers:
            break
        most = min(givers, key=lambda name: (-have[name], name))
        drain[most] = drain.get(most, 0) + 1
        have[most] -= 1
    return Yield(stop=tuple(stop), drain=drain)


def learn(old: float | None, sample: float, weight: float = 0.3) -> float:
    """Return the moving average of ``old`` and ``sample``.

    A sample counts for at most ``OUTLIER`` times ``old``: one input of a minute among thousands of a millisecond must
    not make them all look long. A lasting change gets through in a few samples, each up to 3.7 times the last average.
    """
    sample = max(0.0, sample)
    if old is None:
        return sample
    return old + weight * (min(sample, max(OUTLIER * old, RESOLUTION)) - old)
