"""What the store's scripts take and answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Claimed:
    """What :meth:`Store.begin` says: ``status`` is ok, none, stale, parked, cancelled or outdated."""

    status: str
    attempt: int = 0
    verdict: str = ""
    crash: str = ""
    retried: int = 0


@dataclass(frozen=True, slots=True)
class End:
    """How an input has ended: under which epoch it was held, and what :meth:`Store.finish` takes."""

    epoch: int
    id: str
    seconds: float | None
    failed: bool
    reply: Mapping[str, Any]
    outcome: bytes | None
    draft: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """What :meth:`Store.turn` hands back: an input, or a pack of ``inputs`` of which some ``failed``."""

    id: str
    seconds: float | None
    failed: int
    reply: Mapping[str, Any]
    outcome: bytes | None
    inputs: int = 1


@dataclass(frozen=True, slots=True)
class Turned:
    """What :meth:`Store.turn` says: which inputs were the container's still, and what it has claimed.

    ``stale``: it has been let go, or its connection has begun a new epoch.
    """

    owned: Sequence[bool]
    stale: bool
    claimed: Sequence[tuple[bytes, Claimed]]


@dataclass(frozen=True, slots=True)
class Rest:
    """An input of a pack that is taken apart, or a smaller pack: attempts it has had, how its container died."""

    id: str
    message: bytes
    attempts: int = 0
    crash: str = ""


@dataclass(frozen=True, slots=True)
class Split:
    """What :meth:`Store.split` does with a pack: the inputs that have ended, the one that runs, the others."""

    ended: Ended
    """Those that have ended; its id is the pack's."""
    running: Rest | None = None
    seconds_left: float = 0.0
    """Of the timeout of the one that runs."""
    rest: Sequence[Rest] = ()


class Admission(NamedTuple):
    """What :meth:`Store.submit` says: inputs accepted, and what was pending and running before.

    And what is known of the function: inputs that were timed, the microseconds they took, its containers.
    """

    accepted: int
    pending: int
    running: int
    timed: int = 0
    microseconds: int = 0
    containers: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """Items of a stream: which run of the input sends them, their part's number, and all items up to its end."""

    attempt: int
    number: int
    items: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """What :meth:`Store.submit` is to write down of a spawned call."""

    call: str
    """Its id; several, with a space between them, are calls of one message each."""
    keep: float
    """Seconds that its results are kept."""
    before: int = 0
    """Inputs that it had before."""
    more: bool = False
    """Whether it gets others, until :meth:`Store.complete`."""

    def arguments(self) -> tuple[str, int, int, int]:
        """Return the script's arguments."""
        return self.call, int(self.keep), self.before, int(self.more)


@dataclass(frozen=True, slots=True)
class Watched:
    """What :meth:`Store.watch` says; an end is ``+`` and the outcome, or ``-`` and the reason why there is none."""

    function: str
    inputs: int
    over: bool
    cancelled: bool
    ends: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class FunctionState:
    """One function's numbers at one moment; times are Unix seconds of the Redis server."""

    pending: int
    running: int
    first_deadline: float | None
    idle: tuple[tuple[str, float], ...]
    ready: tuple[tuple[str, float], ...]
    timed: int
    microseconds: int
    first_cancel: float | None = None

    def first_kill(self, grace: float) -> float | None:
        """Return the earliest time at which an input must have ended: cancelled, or ``grace`` after its timeout."""
        deadline = None if self.first_deadline is None else self.first_deadline + grace
        return min((t for t in (deadline, self.first_cancel) if t is not None), default=None)


@dataclass(frozen=True, slots=True)
class Census:
    """What a function has at one moment: inputs, containers by state, and inputs that came to an end."""

    pending: int
    delayed: int
    running: int
    starting: int
    idle: int
    busy: int
    draining: int
    finished: int
    failed: int
    refused: int

    @property
    def containers(self) -> int:
        """Containers in any state."""
        return self.starting + self.idle + self.busy + self.draining
