"""What the controller remembers of one function between two rounds, and what it makes of it for the policy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from scaleplug import policy
from scaleplug.registry import Registration
from scaleplug.settings import FunctionSettings
from scaleplug.store import FunctionState

STALL_SECONDS = 5.0


@dataclass(slots=True)
class Known:
    """A container as the controller sees it."""

    slot: int
    requested_at: float
    ready: bool = False
    draining: bool = False
    blameless: bool = False
    version: str = ""
    killed_at: float | None = None
    """When its end was ordered, which it can't resist."""
    fenced: bool = False
    """Whether what it held was given back already, though it isn't gone."""
    slots: int | None = None
    """How many inputs it was last told to run at once; ``None`` where an earlier controller has told it."""

    def kill(self, now: float) -> None:
        """Note that its end is ordered; ``now`` is monotonic time."""
        self.draining, self.killed_at = True, self.killed_at or now


@dataclass(slots=True)
class View:
    """What the controller remembers of one function between two rounds."""

    registration: Registration
    settings: FunctionSettings
    """The settings in force."""
    retiring: bool = False
    """Whether it goes as soon as nothing of it is left."""
    missing: bool = False
    """Whether the registry doesn't have it any more."""
    proven: Registration | None = None
    """The registration that stands until a container of a newer one has been ready, and once one has, that."""
    unused_since: float = 0.0
    containers: dict[str, Known] = field(default_factory=dict)
    service_time: float | None = None
    start_time: float | None = None
    timed: int | None = None
    microseconds: int = 0
    next_check: float | None = None
    failures: int = 0
    back_off_until: float = 0.0
    desired: int = 0
    ignoring: dict[str, float] = field(default_factory=dict)
    """Idle containers by the time since when they have ignored an input."""
    learned: bool = False
    calm: str = ""
    """What was last said of its :attr:`rest`."""
    prepared: str | None = None
    """The version of the code for which it is known whether it can be imported."""
    works: bool = False
    """Whether a container of the registered code has been ready."""
    troubled: bool = True
    """Whether a failed start may stand in Redis."""

    @property
    def hot(self) -> bool:
        """Whether it must be looked at every tick."""
        return bool(self.containers) or self.retiring or self.settings.min_containers > 0

    @property
    def rest(self) -> str:
        """When inputs that come leave nothing to decide: "idle", while idle ones take them; "full", always; or "".

        Their timeout is at least a second, so that a tick sees it before.
        """
        settings = self.settings
        if self.retiring or self.missing or self.proving or self.old_code or settings.max_inputs > 1:
            return ""
        most, there = settings.max_containers, [known for known in self.containers.values() if not known.draining]
        if most is not None and len(there) == len(self.containers) == most and all(known.ready for known in there):
            return "full"
        return "idle" if self.containers and not settings.buffer_containers else ""

    # -- redeployment ----------------------------------------------------------------------------------------------

    @property
    def stale(self) -> list[str]:
        """Containers that run other code than the registered one and have not been asked to leave, idle or not."""
        return [c for c, k in self.containers.items() if not k.draining and k.version != self.registration.version]

    @property
    def old_code(self) -> bool:
        """Whether other code than the registered one still runs; it may be about to leave."""
        return any(known.version != self.registration.version for known in self.containers.values())

    @property
    def fresh(self) -> bool:
        """Whether a container of the registered code is there or starts."""
        return any(not k.draining and k.version == self.registration.version for k in self.containers.values())

    @property
    def proving(self) -> bool:
        """Whether containers of an older version serve, and none of the new one has been ready yet."""
        return self.proven is not None and self.proven.version != self.registration.version

    def starts(self, version: str) -> bool:
        """Return whether more containers of a version may be started."""
        return version == self.registration.version or (self.proven is not None and version == self.proven.version)

    def update(self, registration: Registration, settings: FunctionSettings, *, retiring: bool) -> None:
        """Take what is registered now; the code before it goes on until a container of the new one is ready."""
        if retiring:
            settings = replace(settings, min_containers=0, buffer_containers=0, scaledown_window=2.0)
        self.settings, self.retiring, self.missing = settings, retiring, False
        if registration.version != self.registration.version:
            if not self.proving:
                stands = self.containers or (self.registration.deployed and not self.failures)
                self.proven = self.registration if stands else None
            self.failures, self.back_off_until, self.works = 0, 0.0, False
        self.registration = registration

    def learn(self, state: FunctionState, prepared_at: float) -> None:
        """Learn start times and service times from what has happened since the last state.

        A container that had to wait until the backend was prepared, at ``prepared_at``, only began to start then.
        """
        for container, at in state.ready:
            known = self.containers.get(container)
            if known is not None and not known.ready:
                known.ready = True
                self.learned = True
                if known.version == self.registration.version:
                    self.proven, self.works, self.failures = self.registration, True, 0
                self.start_time = policy.learn(self.start_time, max(0.0, at - max(known.requested_at, prepared_at)))
        if self.timed is not None and state.timed > self.timed:
            count = state.timed - self.timed
            self.service_time = policy.learn(self.service_time, (state.microseconds - self.microseconds) / count / 1e6)
            self.learned = True
        self.timed, self.microseconds = state.timed, state.microseconds

    def load(self, state: FunctionState, now: float) -> policy.Load:
        """Return the load as the policy takes it."""
        oldest = None
        if state.first_deadline is not None:
            oldest = max(0.0, now - (state.first_deadline - self.settings.timeout))
        return policy.Load(
            pending=state.pending,
            running=state.running,
            oldest_running=oldest,
            service_time=self.service_time,
            start_time=self.start_time,
        )

    def snapshot(self, state: FunctionState) -> policy.Containers:
        """Return the containers as the policy takes them."""
        live = {c: k for c, k in self.containers.items() if not k.draining}
        idle = {c: since for c, since in state.idle if c in live and live[c].ready}
        starting = ((c, k.requested_at) for c, k in live.items() if not k.ready)
        return policy.Containers(
            starting=tuple(policy.Starting(container=c, requested_at=at) for c, at in starting),
            idle=tuple(policy.Idle(container=c, idle_since=since) for c, since in idle.items()),
            busy=sum(1 for c, k in live.items() if k.ready and c not in idle),
            draining=len(self.containers) - len(live),
        )

    def stalled(self, state: FunctionState, taking: set[str], now: float) -> list[str]:
        """Return idle containers that have ignored an input for too long: frozen, or deaf.

        A healthy one takes a pending input, or claims one it was given, within milliseconds: progress is what counts as
        life.
        """
        ignoring = {c for c, _ in state.idle if c in self.containers and (state.pending or c in taking)}
        self.ignoring = {c: self.ignoring.get(c, now) for c in ignoring}
        return [c for c, since in self.ignoring.items() if now - since >= STALL_SECONDS]

    def check_by(self, when: float) -> None:
        """Look again no later than ``when``."""
        self.next_check = when if self.next_check is None else min(self.next_check, when)
