"""The controller: observe, decide, act, whenever the doorbell rings and at least once a second.

What it knows can be read again from Redis and the backend, so a controller that restarts adopts what it finds, and
stops nothing for one scale-down window. Only the holder of the lease acts; every script that changes something checks
the lease's token.
"""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import asdict, replace

from redis.exceptions import RedisError, ResponseError

from scaleplug import policy, rollout
from scaleplug.abc import EXIT_OUTDATED, BackendContainer, ContainerExit, StartRequest
from scaleplug.backends import Backend
from scaleplug.health import SignOfLife
from scaleplug.history import History
from scaleplug.lease import Lease
from scaleplug.logs import LogShipper
from scaleplug.losses import Losses
from scaleplug.roster import Roster
from scaleplug.serializer import Keyring
from scaleplug.settings import Config
from scaleplug.starts import Starts
from scaleplug.store import FunctionState, Store
from scaleplug.view import Known, View

logger = logging.getLogger("scaleplug")

TICK = 1.0
"""Seconds between rounds when nothing rings: the backstop, and what serves producers that don't ring."""
PAUSE = 0.005
"""Least seconds between two rounds, so that a stream of rings can't keep the controller busy."""
ROOM_SECONDS = 0.25
"""How soon a host that was full is asked again."""
TIMEOUT_GRACE = 0.5
DUE = "@due"
"""What a ring is about when an input was put off: the time of the next one that is due may have changed."""
SAVE_SECONDS = 5.0
PARKED_AT_ONCE = 1_000


class Controller:
    """One controller of one namespace."""

    def __init__(
        self, store: Store, backend: Backend, keyring: Keyring, config: Config, *, fail_fast: bool = False
    ) -> None:
        self.store, self.backend, self.keyring, self.config = store, backend, keyring, config
        self.host = socket.gethostname()
        self.lease = Lease(store, f"{self.host}:{config.namespace}")
        self.roster = Roster(store, keyring)
        self.starts = Starts(store, self.lease, backend, fail_fast=fail_fast)
        self.history = History(store)
        self.losses = Losses(store, self.lease, backend, config, backend.host)
        self.hold_until = 0.0
        self._leading = self._standing_by = self._lost = False
        self._found_all = True
        self._next_due: float | None = None
        self._unburied: deque[ContainerExit] = deque()
        """Exits whose inputs have not been given back yet: Redis may fail in between."""
        self._last_tick = self._last_save = self._made_room = 0.0
        self._deaf = True
        """Whether a ring may have been lost, so that it must look what it was about unasked."""
        self._rang: float | None = None
        """When the doorbell woke it for this round."""
        self.log = LogShipper(store)
        self.on_round: Callable[[float], object] = lambda _seconds: None
        """Called after each round with the time that it took: so long a ring may have to wait."""
        self._sign = SignOfLife()

    @property
    def views(self) -> dict[str, View]:
        """The functions it looks after."""
        return self.roster.views

    @property
    def leading(self) -> bool:
        """Whether it acts, and does not stand by."""
        return self._leading

    # -- the loop --------------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Control until ``stop`` is set."""
        self.log.start()
        pause = 0.1
        while not stop.is_set():
            try:
                self._turn(stop)
                self._sign.renew()
                pause = 0.1
            except (RedisError, OSError) as exc:
                # Blind: hold still, and above all don't take "unknown" for "nothing to do".
                logger.warning("Redis does not answer: holding everything as it is. %s: %s", type(exc).__name__, exc)
                stop.wait(pause)
                pause = min(pause * 2, 2.0)
            except Exception:
                logger.exception("a round of the controller failed")
                stop.wait(0.5)

    def _turn(self, stop: threading.Event) -> None:
        self.losses.sign()
        if not self.lease.hold():
            if self._leading:
                logger.warning("this controller lost its lease: standing by")
                self._leading = False
                self._lost = self.roster.memory.restore()  # perhaps it lost it together with everything else
                if self._lost:
                    return  # nobody else has it, likely
            elif not self._standing_by:
                logger.info("standing by: another controller acts")
            self._standing_by = True
            stop.wait(TICK / 2)
            return
        if not self._leading:
            self._lead()
        # What is in the set has rung once: who heard it may have been another, or the answer got lost.
        deaf, self._deaf = self._deaf, True
        rang = self.store.wait_ring(0 if deaf else self._pause_seconds())
        self._rang = self.store.now() if rang else None
        began = time.monotonic()
        self.round(self.store.take_dirty() if rang or deaf else set())
        self._deaf = False
        self.on_round(time.monotonic() - began)
        if rang:
            time.sleep(PAUSE)

    def _pause_seconds(self) -> float:
        now = self.store.now()
        due = [t for t in (self._next_due, *(v.next_check for v in self.views.values())) if t is not None]
        return max(0.0, min([TICK, *(t - now for t in due)]))

    def _lead(self) -> None:
        """Take over: find what there is before deciding anything."""
        logger.info("this controller acts now")
        self.store.forget_clock()
        self.store.forget_calm()
        lost = self.roster.memory.restore() or self._lost
        self.views.clear()
        self._unburied.clear()
        self._found_all = self.backend.adopt()
        self._read_registry()
        now = self.store.now()
        self._take_in(lost=lost)
        windows = [v.settings.scaledown_window for v in self.views.values() if v.containers]
        self.hold_until = now + max(windows) if windows else 0.0
        self._leading, self._standing_by, self._lost, self._last_tick = True, False, False, 0.0
        self._deaf = True

    def _take_in(self, *, lost: bool) -> None:
        """Take the containers that the backend has found, and give back what those held that ended meanwhile."""
        now, found = self.store.now(), self.backend.containers() or []
        known_already = {c for view in self.views.values() for c in view.containers}
        for container in [c for c in found if c.container not in known_already]:
            view = self.views.get(container.function)
            if view is None:
                self.backend.stop(container.container, grace=self.config.stop_grace)
            else:
                # One that has to connect to a Redis that came back empty has all the time it takes to start.
                since = now if lost else self._by_redis(container.started_at)
                known = Known(container.slot, since, version=container.version)
                view.containers[container.container] = known
                if lost:
                    self._write_down(container)
                if known.version != view.registration.version:
                    view.proven = view.proven or replace(view.registration, version=known.version)
        if self._found_all:  # else some may live of which nothing can be known
            self._sweep({c.container for c in found})

    def _look_again(self) -> None:
        """Find the containers that the backend could not see when this controller took over."""
        if not self._found_all:
            self._found_all = self.backend.adopt(rest=True)
            self._take_in(lost=False)

    def _by_redis(self, moment: float) -> float:
        """Return a Unix time of this host's clock by Redis's, which may go differently."""
        return self.store.now() + (moment - time.time())

    def _write_down(self, container: BackendContainer) -> None:
        known = {
            "slot": str(container.slot), "backend": self.backend.name, "host": self.backend.host,
            "requested": repr(self._by_redis(container.started_at)), "version": container.version,
        }  # fmt: skip
        self.store.adopt(container.function, container.container, known)

    def _sweep(self, alive: set[str]) -> None:
        """Give back what containers of this host held that ended while nobody looked."""
        for function in self.views:
            for container, record in self.store.containers(function).items():
                ours = record.get("host") == self.backend.host and record.get("backend") == self.backend.name
                if (ours or not record) and container not in alive:
                    self.store.gone(self.lease.token, container, function, "ended while no controller ran")

    def round(self, dirty: set[str]) -> None:
        """Do one round for the functions in ``dirty`` and for all that need looking after."""
        now, lately = self.store.now(), time.monotonic()
        if "*" in dirty:
            self._read_registry()
            dirty |= self.views.keys()
        self._bury(self.backend.exits())
        self.losses.replace_frozen(self.views)
        tick = lately - self._last_tick >= TICK
        if tick or DUE in dirty or (self._next_due is not None and now >= self._next_due):
            dirty.discard(DUE)
            wait, moved = self.store.move_due()
            self._next_due = None if wait is None else now + wait
            dirty |= set(moved)
        changed = {f[1:] for f in dirty if f.startswith("=")}
        dirty = {f.removeprefix("=") for f in dirty}
        changed |= dirty - self.views.keys() - {"*"}
        if changed:
            self._read_registry(changed)
        hot = {f for f, v in self.views.items() if f in dirty or (v.next_check is not None and now >= v.next_check)}
        self.starts.check_imports(self.views)
        if tick:
            self._last_tick = lately
            self._look_again()
            self.losses.bury_undead(self.views, lately)
            self.losses.sweep_lost_hosts(self.views)
            inhabited = sorted(f for f, v in self.views.items() if v.containers)
            if inhabited:
                self._replace_stalled(inhabited)
            hot |= {f for f, v in self.views.items() if v.hot}
            if self.roster.retire(self.lease.token, lately):
                self.backend.tidy(self.roster.in_use())
            cold = [f for f in self.views if f not in hot]
            if self.store.any_pending(cold):
                hot |= set(cold)
        hot &= self.views.keys()  # some may have gone meanwhile
        if hot:
            self._decide(sorted(hot))
        self._keep_numbers(hot if tick else None, lately)

    def _read_registry(self, functions: Collection[str] | None = None) -> None:
        registrations = self.roster.read(functions)
        for view in self.views.values():
            if view.missing:
                for container in [c for c, known in view.containers.items() if not known.draining]:
                    self._stop(view, container)
        self.backend.warm(registrations)
        if functions is None:
            self.backend.tidy(self.roster.in_use())

    # -- decide ----------------------------------------------------------------------------------------------------

    def _decide(self, functions: list[str]) -> None:
        now, states = self.store.load(functions)
        wants: dict[str, policy.Want] = {}
        for function in functions:
            view, state = self.views[function], states[function]
            view.learn(state, self._by_redis(self.backend.prepared_at(view.registration)))
            self.starts.worked(view)
            self._enforce_timeouts(view, state, now)
            load = view.load(state, now)
            containers = view.snapshot(state)
            decision = policy.decide(view.settings, load, containers, now, hold_until=self.hold_until)
            view.next_check = decision.next_check
            self._set_slots(view, policy.slots(view.settings, load, containers, decision.desired))
            self._let_go(view, decision)
            start = decision.start + self._roll(view, state, decision.start)
            if now < view.back_off_until:
                start = decision.start if self._starting_version(view) != view.registration.version else 0
                view.check_by(view.back_off_until)
            if start and load.pending and self.store.park(self.lease.token, function, PARKED_AT_ONCE):
                view.next_check = 0.0  # of what is left the next round decides, at once
                continue
            if start:
                wants[function] = policy.Want(have=len(view.containers), start=start)
            self._keep(function, view, decision, load, now)
            first_kill = state.first_kill(TIMEOUT_GRACE)
            if first_kill is not None:
                view.check_by(first_kill)
        self._tell_calm(functions)
        if wants:
            self._start(wants, now, states)

    def _tell_calm(self, functions: list[str]) -> None:
        """Say of which of these functions the controller need not hear as inputs come."""
        changed = {f: rest for f in functions if (rest := self.views[f].rest) != self.views[f].calm}
        if not changed:
            return
        self.store.set_calm(self.lease.token, changed)
        for function, rest in changed.items():
            view = self.views[function]
            if view.calm == "full":
                view.next_check = 0.0  # what has come since it was looked at did not ring
            view.calm = rest

    def _set_slots(self, view: View, slots: int) -> None:
        """Tell the containers that go by another number; what they run goes on."""
        others = [c for c, known in view.containers.items() if known.ready and known.slots != slots]
        if others and self.store.set_slots(self.lease.token, others, slots):
            for container in others:
                view.containers[container].slots = slots

    def _roll(self, view: View, state: FunctionState, starting: int) -> int:
        """Let containers of older code make way; return how many must start for that."""
        idle = {c for c, _ in state.idle}
        step = rollout.next_step(view, idle, starting, self.store.now())
        for container in step.drain:  # idle ones leave now, busy ones when they have done what they run
            known, released = view.containers[container], False
            if container in idle or not known.ready:
                released = self.store.release(self.lease.token, container, view.registration.function)
            if released and not known.ready:  # it holds nothing, and may never get ready
                self._kill(view, container)
            else:
                self._stop(view, container, grace=view.settings.timeout + TIMEOUT_GRACE)
        return step.start

    def _starting_version(self, view: View) -> str:
        """Return the version of which more containers are started.

        While the new one isn't proven that is the old one: where containers of it are there, or the new one has failed.
        """
        old = view.proven if view.proving and (view.stale or view.failures) else None
        if old is not None and self.backend.can_start(old):
            return old.version
        return view.registration.version

    def _enforce_timeouts(self, view: View, state: FunctionState, now: float) -> None:
        """End containers whose input is past its timeout, or was cancelled and goes on: code stuck in C, too."""
        first_kill = state.first_kill(TIMEOUT_GRACE)
        if first_kill is None or now < first_kill:
            return
        function = view.registration.function
        for container, why in self.store.overdue(self.lease.token, function, TIMEOUT_GRACE, "timeout").items():
            known = view.containers.get(container)
            if known is None or not known.blameless:  # else it was told: the container is about to be gone
                did = "was cancelled and goes on" if why == "cancel" else "ran longer than its timeout"
                logger.warning("an input of %s %s: its container is replaced", function, did)
            if known is None:
                self.backend.kill(container)
                continue
            known.blameless = True
            self._kill(self.views[function], container)

    def _replace_stalled(self, functions: list[str]) -> None:
        now, states = self.store.load(functions)
        taking = self.store.taking(functions)
        for function, state in states.items():
            self._kill_stalled(self.views[function], self.views[function].stalled(state, taking, now))

    def _kill_stalled(self, view: View, containers: list[str]) -> None:
        for container in containers:
            view.containers[container].blameless = True
            shown = view.registration.shown
            logger.warning("a container of %s takes no inputs though some are pending: it is replaced", shown)
            self._kill(view, container)

    def _let_go(self, view: View, decision: policy.Decision) -> None:
        function = view.registration.function
        for container in decision.stop:
            if self.store.release(self.lease.token, container, function):
                self._stop(view, container)
        for container in decision.give_up:
            limit = view.settings.start_limit
            shown = view.registration.shown
            logger.warning("a container of %s was not ready within its startup_timeout of %g s", shown, limit)
            version = view.containers[container].version
            self.starts.failed(view, f"it was not ready within its startup_timeout of {limit:g} s", (), version)
            self._kill(view, container)

    def _kill(self, view: View, container: str) -> None:
        view.containers[container].kill(time.monotonic())
        self.backend.kill(container)

    def _stop(self, view: View, container: str, *, grace: float | None = None) -> None:
        view.containers[container].draining = True
        self.backend.stop(container, grace=self.config.stop_grace if grace is None else grace)

    def _keep(self, function: str, view: View, decision: policy.Decision, load: policy.Load, now: float) -> None:
        starts = decision.start and now >= view.back_off_until
        if not starts and not decision.stop and not decision.give_up and decision.desired == view.desired:
            return
        view.desired = decision.desired
        if decision.start or decision.stop or decision.give_up:
            shown = view.registration.shown
            logger.info("%s: %s", shown, decision.reason, extra={"scaleplug_function": shown})
        kept = {
            "at": now,
            "rang": self._rang,
            **asdict(decision),
            **asdict(load),
            "back_off_until": view.back_off_until,
        }
        self.store.decided(function, kept)

    # -- act -------------------------------------------------------------------------------------------------------

    def _start(self, wants: dict[str, policy.Want], now: float, states: dict[str, FunctionState]) -> None:
        capacity = self.backend.capacity()
        if capacity is None:
            return
        granted = policy.share(wants, capacity)
        requests = [r for function, count in sorted(granted.items()) for r in self._requests(function, count)]
        if requests:
            name, host = self.backend.name, self.backend.host
            rows = [(r.container, r.function, r.slot, name, host, now, r.version) for r in requests]
            if not self.store.started(self.lease.token, rows):
                return  # somebody else leads
            for request in requests:
                view = self.views[request.function]
                known = Known(request.slot, now, version=request.version, slots=view.settings.target_inputs)
                view.containers[request.container] = known
            self.backend.start(requests)
        hungry = [f for f in wants if not granted[f] and not self.views[f].containers]
        if hungry and time.monotonic() - self._made_room >= TICK:  # what was asked to leave needs time to
            self._made_room = time.monotonic()
            self._make_room(hungry, states)
        for function, want in wants.items():
            if granted[function] < want.start:
                self.views[function].check_by(now + ROOM_SECONDS)

    def _requests(self, function: str, count: int) -> list[StartRequest]:
        view = self.views[function]
        taken = {known.slot for known in view.containers.values()}
        app, current, version = view.registration.app, view.registration.version, self._starting_version(view)
        fresh = view.fresh
        requests: list[StartRequest] = []
        slot = 0
        while len(requests) < count:
            slot += 1
            if slot in taken:
                continue
            name = f"{function}-{slot}-{secrets.token_hex(3)}"
            canary = not fresh and self.store.now() >= view.back_off_until
            wanted, fresh = (current, True) if canary else (version, fresh)
            requests.append(StartRequest(container=name, app=app, function=function, slot=slot, version=wanted))
        return requests

    def _make_room(self, hungry: list[str], states: dict[str, FunctionState]) -> None:
        """Take containers from functions above their fair share, for those that have none on a full host."""
        others = [f for f, v in self.views.items() if v.containers and f not in states]
        if others:
            states = {**states, **self.store.load(others)[1]}
        containers = {f: v.snapshot(states[f]) for f, v in self.views.items() if v.containers and f in states}
        room = policy.yield_for(hungry, containers)
        for function, view in self.views.items():
            for container in room.stop:
                if container in view.containers and self.store.release(self.lease.token, container, function):
                    self._stop(view, container)
            busy = [c for c, k in view.containers.items() if k.ready and not k.draining]
            for container in busy[: room.drain.get(function, 0)]:  # they finish what they run, however long that takes
                self._stop(view, container, grace=view.settings.timeout + TIMEOUT_GRACE)

    def _bury(self, exits: list[ContainerExit]) -> None:
        """Give back what dead containers held."""
        self._unburied.extend(exits)
        for _ in range(len(self._unburied)):
            exit_ = self._unburied[0]
            view = self.views.get(exit_.function)
            known = view.containers.get(exit_.container) if view is not None else None
            blameless = exit_.asked or (known is not None and known.blameless)
            try:
                returned = self.store.gone(
                    self.lease.token, exit_.container, exit_.function, exit_.reason, blameless=blameless
                )
            except ResponseError as exc:  # its keys are broken: the others must not wait for it
                logger.error("what a container of %s held can't be given back yet: %s", exit_.function, exc)
                self._unburied.rotate(-1)
                continue
            if returned < 0:
                return  # somebody else leads, and sweeps
            self._unburied.popleft()
            if view is not None:
                view.containers.pop(exit_.container, None)
                if exit_.exit_code == EXIT_OUTDATED:
                    view.proven = None  # an input has asked for the new code: no more containers of the old one
                view.next_check = 0.0
                if view.proven is not None and view.proven.version != view.registration.version:
                    self.backend.tidy(self.roster.in_use())
            if returned > 0 and not exit_.asked:
                what = "its input goes" if returned == 1 else f"its {returned} inputs go"
                logger.warning(
                    "a container of %s was lost (%s): %s back to the queue",
                    exit_.function if view is None else view.registration.shown,
                    exit_.reason,
                    what,
                )
            single_use = view is not None and view.registration.settings.single_use_containers
            served = single_use and exit_.exit_code == 0  # perhaps faster than anybody saw it get ready
            if (
                view is not None
                and known is not None
                and not (known.ready or known.draining or exit_.asked or exit_.bystander or returned or served)
            ):
                self.starts.failed(view, exit_.reason, exit_.last_lines, known.version)

    def _keep_numbers(self, hot: set[str] | None, lately: float) -> None:
        if hot is not None:
            self.history.note(self.lease.token, self.views, hot)
        if lately - self._last_save > SAVE_SECONDS:
            self._save_learned()
            self._last_save = lately

    def _save_learned(self) -> None:
        for function, view in self.views.items():
            if view.learned:
                view.learned = False
                values = {"service_time": view.service_time, "start_time": view.start_time}
                self.store.learn(function, **{k: v for k, v in values.items() if v is not None})

    # -- the end ----------------------------------------------------------------------------------------------------

    def finish(self, wait: Callable[[], bool]) -> None:
        """Give back what is left while containers end; ``wait`` returns False when all have."""
        while wait():
            try:
                if self.lease.hold():
                    self._bury(self.backend.exits())
            except (RedisError, OSError):
                pass
            time.sleep(0.02)
        try:
            if self.lease.hold():
                self._bury(self.backend.exits())
                self._save_learned()
            self.log.flush()
            self.lease.release()
        except (RedisError, OSError):
            logger.warning("Redis can't be reached at the end: a later controller gives back what is left")
