"""Docker containers that stand by: started, with the imports done, waiting for the line that makes them containers.

Each can become a container of any function that shares its image, resources and file or module. One waits no longer
than its controller lives: its input ends with that. The same kind of container tells, after a deployment, whether the
new version's code can be imported.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from signal import Signals

from scaleplug.backends.engine import Engine
from scaleplug.backends.output import Output
from scaleplug.backends.recipe import PREFIX, Kind, kind_of
from scaleplug.registry import Registration

logger = logging.getLogger("scaleplug")

BACK_OFF = (1.0, 60.0)
FRESH_SECONDS = 5.0
ENDED_BY_ENGINE = 128 + Signals.SIGTERM
KILLED = 128 + Signals.SIGKILL
PROBES_AT_ONCE = 2
PREPARED_AHEAD = 200
"""So many functions one that stands by prepares; others it prepares when it is told to be their container."""


@dataclass(slots=True)
class Standby:
    """One container that stands by, or is about to."""

    kind: Kind
    engine: Engine
    name: str
    id: str = ""
    output: Output | None = None
    ready: bool = False
    dismissed: bool = False
    born: float = field(default_factory=time.monotonic)
    probe: bool = False
    """Whether it is only to tell whether the code can be imported."""


@dataclass(slots=True)
class _Known:
    """What is known of one kind."""

    registrations: dict[str, Registration] = field(default_factory=dict)
    problem: str | None = None
    """Why it can't be prepared, empty if it could, ``None`` while that isn't known."""
    asked: bool = False
    """Whether somebody wants to know that."""
    failures: int = 0
    next_at: float = 0.0


class Standbys:
    """All that stand by, of one controller. ``make`` starts one: it may block, and raises what goes wrong."""

    def __init__(
        self,
        wanted: int,
        *,
        make: Callable[[Standby, list[Registration]], object],
        remove: Callable[[Standby], object],
        do: Callable[..., object],
        told: Callable[[], object],
    ) -> None:
        self.wanted = wanted
        self._make, self._remove, self._do, self._told = make, remove, do, told
        self._kinds: dict[Kind, _Known] = {}
        self._all: dict[str, Standby] = {}
        self._lock = threading.RLock()
        self._ended = False

    def know(self, registration: Registration) -> None:
        """Take note of a function whose containers may be wanted."""
        with self._lock:
            known = self._kinds.setdefault(kind_of(registration), _Known())
            known.registrations[registration.function] = registration

    def forget_others(self, registrations: Iterable[Registration]) -> None:
        """Let go of what none of these functions needs."""
        kept = {(kind_of(r), r.function) for r in registrations}
        with self._lock:
            for kind, known in list(self._kinds.items()):
                for function in [f for f in known.registrations if (kind, f) not in kept]:
                    del known.registrations[function]
                if not known.registrations:
                    del self._kinds[kind]
            for standby in [s for s in self._all.values() if s.kind not in self._kinds]:
                self._dismiss(standby)

    def problem(self, registration: Registration) -> str | None:
        """Return why a function's code can't be imported, empty if it could; ``None`` while that is found out."""
        with self._lock:
            known = self._kinds.get(kind_of(registration))
            if known is None:
                return None
            known.asked = True
            return known.problem

    def works(self, registration: Registration) -> None:
        """Take note that a container of it runs."""
        with self._lock:
            known = self._kinds.get(kind_of(registration))
            if known is not None and known.problem is None:
                known.problem = ""

    def count(self, engine: Engine) -> int:
        """Return how many there are on an engine, those that are about to be included."""
        with self._lock:
            return sum(1 for s in self._all.values() if s.engine is engine)

    def holds(self, identity: str, name: str) -> bool:
        """Return whether a container is one of them; of one that is just being made only the name is known."""
        with self._lock:
            return name in self._all or any(s.id == identity for s in self._all.values())

    def reconcile(self, engine: Engine, alive: set[str]) -> None:
        """Take note of those that an engine has no more."""
        with self._lock:
            before = time.monotonic() - FRESH_SECONDS  # a younger one may be missing in a list that was made meanwhile
            mine = [s for s in self._all.values() if s.engine is engine and s.id and s.id not in alive]
            gone = [s for s in mine if s.ready or s.born < before]
            for standby in gone:
                standby.dismissed = True  # it went with its engine, and nobody is to blame
        for standby in gone:
            self._do(self._bury, standby, 0)

    def on_pause(self, paused: set[str]) -> None:
        """Let those go that somebody has paused: they would take an order, and do nothing."""
        with self._lock:
            for standby in [s for s in self._all.values() if s.id in paused and not s.dismissed]:
                self._dismiss(standby)

    def take(self, registration: Registration, engines: Iterable[Engine]) -> Standby | None:
        """Take one that is ready to be a container of the function, on one of the engines."""
        kind, usable = kind_of(registration), set(engines)
        with self._lock:
            for standby in self._all.values():
                if standby.ready and standby.kind == kind and standby.engine in usable and not standby.dismissed:
                    del self._all[standby.name]
                    return standby
        return None

    def make_room(self, engine: Engine) -> bool:
        """Let one go that takes the place of a container; return whether there was one."""
        with self._lock:
            for standby in self._all.values():
                if standby.engine is engine and not standby.dismissed:
                    self._dismiss(standby)
                    return True
        return False

    def tend(self, room: Mapping[Engine, int]) -> None:
        """Start what is missing, where there is room: so many more containers fit onto each engine."""
        now, left = time.monotonic(), dict(room)
        with self._lock:
            if self._ended:
                return
            for kind, known in self._kinds.items():
                if now < known.next_at:
                    continue
                for engine in room:
                    have = sum(1 for s in self._all.values() if s.kind == kind and s.engine is engine)
                    for _ in range(self.wanted - have):
                        if left[engine] > 0:
                            left[engine] -= 1
                            self._begin(kind, engine, probe=False)
                if known.asked and known.problem is None and not any(s.kind == kind for s in self._all.values()):
                    probes = sum(1 for s in self._all.values() if s.probe)
                    if probes < PROBES_AT_ONCE and room:
                        self._begin(kind, max(room, key=lambda engine: left[engine]), probe=True)

    def _begin(self, kind: Kind, engine: Engine, *, probe: bool) -> None:
        standby = Standby(kind, engine, f"{PREFIX}standby-{secrets.token_hex(4)}", probe=probe)
        self._all[standby.name] = standby
        self._do(self._bring_up, standby)

    def _bring_up(self, standby: Standby) -> None:
        with self._lock:
            known = self._kinds.get(standby.kind)
            if known is None or self._ended:
                self._all.pop(standby.name, None)
                return
            registrations = list(known.registrations.values())[:PREPARED_AHEAD]
        try:
            self._make(standby, registrations)
        except Exception as exc:  # noqa: BLE001  # whatever it is, it is told
            self._failed(standby, str(exc))
            self._do(self._remove, standby)

    def on_ready(self, standby: Standby) -> None:
        """Take note that one waits now."""
        with self._lock:
            standby.ready = True
            known = self._kinds.get(standby.kind)
            if known is not None:
                known.problem, known.failures = "", 0
            if standby.probe or self._ended:
                self._dismiss(standby)
        self._told()

    def on_end(self, identity: str, exit_code: int) -> bool:
        """Take note of the end of a container; return whether it was one that stood by."""
        with self._lock:
            standby = next((s for s in self._all.values() if s.id == identity), None)
        if standby is None:
            return False
        self._do(self._bury, standby, exit_code)
        return True

    def _bury(self, standby: Standby, exit_code: int) -> None:
        if standby.output is not None:
            standby.output.finish(1.0)
        if standby.dismissed or (standby.ready and exit_code == 0) or exit_code == ENDED_BY_ENGINE:
            with self._lock:
                self._all.pop(standby.name, None)
        else:
            lines = list(standby.output.last) if standby.output is not None else []
            killed = "it was killed by SIGKILL: does it need more memory than it may use (memory=)?"
            why = killed if exit_code == KILLED else f"it exited with status {exit_code}"
            self._failed(standby, "\n".join(lines) or why)
        self._remove(standby)

    def _failed(self, standby: Standby, why: str) -> None:
        low, high = BACK_OFF
        with self._lock:
            self._all.pop(standby.name, None)
            known = self._kinds.get(standby.kind)
            if known is None or standby.dismissed:
                return
            known.next_at = time.monotonic() + min(high, low * 2**known.failures)
            known.failures += 1
            if known.problem is None:
                known.problem = why
            if known.failures == 1 and not standby.probe:
                logger.warning("a container that should stand by did not start:\n%s", why)
        self._told()

    def _dismiss(self, standby: Standby) -> None:
        standby.dismissed, standby.ready = True, False
        if standby.output is not None:
            standby.output.line.close()  # it reads the end of its input, and ends
        if standby.id:
            self._do(self._remove, standby)

    def end(self) -> None:
        """Let all go, for good."""
        with self._lock:
            self._ended = True
            for standby in list(self._all.values()):
                self._dismiss(standby)

    def drop(self) -> None:
        """Forget all: their lines are gone, or somebody else removes them."""
        with self._lock:
            self._all.clear()

    def left(self) -> bool:
        """Return whether any is there, as far as engines answer."""
        with self._lock:
            return any(standby.engine.reachable for standby in self._all.values())
