"""Containers on Docker engines, one Celery worker in each.

A container is started with its input open: the first line tells it what it is, with the secrets, which are thereby on
no disk and in nothing that ``docker inspect`` shows. Labels tell a controller that comes later what it finds. An engine
that doesn't answer is waited for: what is known of its containers stands until it does.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from scaleplug.abc import READY, BackendContainer, ContainerExit, StartRequest
from scaleplug.backends import recipe
from scaleplug.backends.crew import Crews, Timers
from scaleplug.backends.ends import ALIVE, FRESH_SECONDS, Ends, Held
from scaleplug.backends.engine import (
    RESYNC_SECONDS,
    Engine,
    EngineError,
    Line,
    Making,
    NoImageError,
    Seen,
    UnreachableError,
)
from scaleplug.backends.finding import Finding
from scaleplug.backends.images import Images
from scaleplug.backends.output import Output
from scaleplug.backends.standby import Standby, Standbys
from scaleplug.errors import Error
from scaleplug.registry import Registration
from scaleplug.settings import Config

logger = logging.getLogger("scaleplug")

HANDS = 8
"""So many requests to an engine are under way at once, of starts and of everything else each."""
HELD_BYTES = 32_768
"""So much of a line surely fits into what lies between, while nobody reads it; more waits until its reader runs."""
CONTAINERS_PER_CORE = 32
MEMORY_GUESS = 64
"""MiB that a container may come to need that has no limit."""
MEMORY_KEPT_FREE = 0.1
LEAVE_SECONDS = 2.0
"""How long putting back what it runs may take a container whose time is up; then it is killed."""


class DockerBackend:
    """See :class:`scaleplug.backends.Backend`."""

    name = "docker"

    def __init__(
        self,
        config: Config,
        *,
        find: Callable[[str, str], Registration],
        find_record: Callable[[str], Mapping[str, str]],
        on_exit: Callable[[str], object],
        on_lines: Callable[[list[tuple[str, str, str]]], object],
        logged_until: Callable[[], float] = time.time,
        ephemeral: bool = False,
    ) -> None:
        """``find_record`` returns what Redis has of a container; ``ephemeral`` ones are removed by the engine.

        ``logged_until`` returns the Unix time of the last line that some controller has passed on.
        """
        self.config, self.ephemeral = config, ephemeral
        self._logged_until = logged_until
        self._find, self._find_record, self._on_exit, self._on_lines = find, find_record, on_exit, on_lines
        urls = list(dict.fromkeys(url.strip() for url in (config.docker_hosts or "").split(",") if url.strip()))
        self.host = host_name(urls)
        self.engines = [
            Engine(url or None, recipe.label(config), on_event=self._on_event, on_back=self._on_back)
            for url in urls or [""]
        ]
        self._doubtful: set[str] = set()
        """Names of containers that an engine may have made or not, since its answer was lost."""
        self._unremoved: set[tuple[Engine, str]] = set()
        self._starts, self._orders = Crews("docker-start", HANDS), Crews("docker-order", HANDS)
        self._timers = Timers("docker-timers")
        self._finding = Finding(self.engines)
        self._ends = Ends(self._orders, on_exit)
        self._images = Images(config)
        self._standbys = Standbys(
            config.standby_containers, make=self._make_standby, remove=self._remove_standby,
            do=lambda job, standby, *rest: self._starts.do(standby.engine, job, standby, *rest),
            told=lambda: self._on_exit("*"),
        )  # fmt: skip
        self._ending = self._resyncing = self._said = False

    # -- what the controller needs beyond the port -----------------------------------------------------------------

    def adopt(self, *, rest: bool = False) -> bool:
        """Find what an earlier controller has left; False while an engine can't say: the ``rest`` is asked again."""
        if not rest:
            self._finding.begin()
        for engine, seen in self._finding.take():
            self._adopt(engine, seen)
        for engine in self.engines:
            engine.watch()
        if not self._resyncing:
            self._resyncing = True
            self._timers.after(RESYNC_SECONDS, self._resync_soon)
        return self._finding.complete

    def _adopt(self, engine: Engine, seen: Sequence[Seen]) -> None:
        for each in seen:
            if self._ends.knows(each.id) or self._standbys.holds(each.id, each.name):
                continue
            request = self._recognize(each)
            if request is not None and request.container in self._ends.held:
                continue  # it is just being made, and its id not known yet
            if request is None or each.state == "created":
                self._orders.do(engine, self._remove, engine, each.id)  # a stand-by, or one that was never started
                continue
            held = Held(request, engine, each.created, MEMORY_GUESS, id=each.id, adopted=True, limited=True)
            self._ends.hold(held)
            self._images.note(engine, request, each.image)
            if each.state in ALIVE:
                held.frozen_since = time.monotonic() if each.state == "paused" else None
                self._orders.do(held.engine, self._follow, held)
            else:
                self._ends.end_soon(held, None)

    def _recognize(self, seen: Seen) -> StartRequest | None:
        """Return what a container is, ``None`` for one that stands by: an engine can rename it, but not label it."""
        request = recipe.request_of(seen.labels)
        if request is not None:
            return request
        container = recipe.container_named(seen.name)
        record = self._find_record(container)
        if not record.get("fn") or not record.get("slot", "").isdecimal():
            return None
        return StartRequest(
            container=container, app="", function=record["fn"], slot=int(record["slot"]),
            version=record.get("version", ""),
        )  # fmt: skip

    def _follow(self, held: Held) -> None:
        with contextlib.suppress(EngineError):
            line = held.engine.follow(held.id, self._logged_until())
            held.output = Output(line, self._on_lines).start(held.request.function, held.request.container)

    def warm(self, registrations: Iterable[Registration]) -> None:
        """Get ready for the first container of these functions: fetch their images, and let containers stand by."""
        for registration in registrations:
            self._say_what_is_odd(registration)
            self._standbys.know(registration)
            for engine in self.engines:
                if engine.reachable and self._images.missing(engine, registration):
                    self._orders.do(engine, self._fetch, engine, registration)
        self._tend()

    def _fetch(self, engine: Engine, registration: Registration) -> None:
        with contextlib.suppress(Error):  # the first start meets it again, and tells
            self._images.name(engine, registration)

    def _say_what_is_odd(self, registration: Registration) -> None:
        network = recipe.network_of(registration.settings.resources, self.config)
        url = self.config.container_redis_url or self.config.redis_url
        if network != "host" and recipe.loopback(url) and not self._said:
            self._said = True
            logger.warning(
                "containers that aren't on the host's network can't reach a Redis on its loopback: set "
                "SCALEPLUG_CONTAINER_REDIS_URL to what they reach it by, or SCALEPLUG_DOCKER_NETWORK=host"
            )

    def prepared_at(self, registration: Registration) -> float:
        """Return when a container of the function could have been started: always, unless its image is fetched now."""
        return time.time() if self._images.fetching(registration) else 0.0

    def problem(self, registration: Registration) -> str | None:
        """Return why the function's code can't be imported: empty if it could, ``None`` while that isn't known."""
        function, version = registration.function, registration.version
        with self._ends.lock:
            found = [h.request for h in self._ends.held.values() if h.adopted]
        if any(request.function == function and request.version == version for request in found):
            self._standbys.works(registration)
        return self._standbys.problem(registration)

    def can_start(self, registration: Registration) -> bool:
        """Return whether the image of this version is known; mounted code is another one by now."""
        resources = registration.settings.resources
        mounted = bool(recipe.binds(resources, self.config) or resources.volumes) and not registration.serialized
        return not mounted and self._images.known(registration)

    def tidy(self, registrations: Iterable[Registration]) -> None:
        """Let go of what none of these functions needs any more."""
        needed = list(registrations)
        self._standbys.forget_others(needed)
        self._images.forget_others(needed)

    # -- the port --------------------------------------------------------------------------------------------------

    def containers(self) -> list[BackendContainer] | None:
        """See :class:`scaleplug.abc.ContainerBackend`; those of an engine that doesn't answer are held to be there."""
        with self._ends.lock:
            return [held.container() for held in self._ends.held.values()]

    def start(self, requests: Sequence[StartRequest]) -> None:
        """See :class:`scaleplug.abc.ContainerBackend`."""
        for request in requests:
            registration = self._find(request.function, request.version)
            usable = [engine for engine in self.engines if engine.reachable]
            standby = self._standbys.take(registration, usable)
            engine = standby.engine if standby is not None else self._least_loaded(usable)
            limit = registration.settings.memory
            held = Held(
                request, engine or self.engines[0], time.time(), limit or MEMORY_GUESS, limited=limit is not None
            )
            self._ends.hold(held)
            if engine is None:
                self._ends.tell(held, 1, "no Docker engine answers", (), bystander=True)
            elif standby is None or not self._hand_over(standby, held, registration):
                self._starts.do(held.engine, self._create, held, registration)
        self._tend()

    def _least_loaded(self, engines: Iterable[Engine]) -> Engine | None:
        engines = list(engines)
        if not engines:
            return None
        best = max(engines, key=lambda engine: (self._room(engine), engine.cores))
        if self._room(best) - self._standbys.count(best) <= 0:
            self._standbys.make_room(best)
        return best

    def _create(self, held: Held, registration: Registration) -> None:
        """Make and start a container; whatever is in the way is told as its end."""
        request, engine = held.request, held.engine
        try:
            line = recipe.first_line([registration], self.config, recipe.order(request, registration))
            labels = recipe.labels(self.config, recipe.CONTAINER, request)
            output = self._bring_up(
                engine, self._making(engine, registration, recipe.engine_name(request.container), labels), line,
                on_made=lambda identity: self._made(held, identity),
                listen=lambda found: Output(found, self._on_lines).start(request.function, request.container),
            )  # fmt: skip
        except UnreachableError as exc:
            engine.lost(exc)
            self._doubtful.add(recipe.engine_name(request.container))
            self._ends.tell(held, 1, str(exc), (), bystander=True)
        except NoImageError as exc:
            self._images.forget(engine, registration)
            self._ends.tell(held, 1, str(exc), ())
        except Error as exc:
            self._ends.tell(held, 1, str(exc), ())
        except Exception as exc:  # what nobody has thought of must not keep its place for ever
            logger.exception("the container %s can't be made", request.container)
            self._ends.tell(held, 1, f"it can't be made: {type(exc).__name__}: {exc}", ())
        else:
            held.output = output
            if held.killed:
                self._send(held, "SIGKILL")
            elif held.asked:
                self._send(held, "SIGTERM")

    def _making(self, engine: Engine, registration: Registration, name: str, labels: Mapping[str, str]) -> Making:
        host = recipe.host_options(registration, self.config)
        if self.ephemeral:
            host["auto_remove"] = True
        return Making(
            name=name, image=self._images.name(engine, registration), command=recipe.COMMAND, labels=labels,
            env=dict(registration.settings.resources.env), host=host,
            stop_timeout=int(self.config.stop_grace) + recipe.STOP_EXTRA,
        )  # fmt: skip

    def _bring_up(
        self, engine: Engine, making: Making, line: bytes, *,
        on_made: Callable[[str], object], listen: Callable[..., Output],
    ) -> Output:  # fmt: skip
        """Make a container, tell it what it is, and start it."""
        identity = engine.create(making)
        on_made(identity)
        try:
            found = engine.attach(identity)
            output = listen(found)
            early, late = (line, b"") if len(line) <= HELD_BYTES else (b"", line)
            found.send(early)
            engine.start(identity)
            with contextlib.suppress(OSError):  # it has ended before it has read that, and its end tells why
                found.send(late)
        except OSError as exc:
            self._orders.do(engine, self._remove, engine, identity)
            raise UnreachableError(f"the Docker engine {engine.shown} has ended a container's line: {exc}") from exc
        except EngineError:
            self._orders.do(engine, self._remove, engine, identity)
            raise
        return output

    def _made(self, held: Held, identity: str) -> None:
        held.id = identity
        self._ends.hold(held)

    def stop(self, container: str, *, grace: float) -> None:
        """See :class:`scaleplug.abc.ContainerBackend`."""
        held = self._ends.held.get(container)
        if held is None:
            return
        held.asked = True
        self._orders.do(held.engine, self._send, held, "SIGUSR2" if grace > 0 else "SIGTERM")
        self._timers.after(grace, self._orders.do, held.engine, self._hurry, held)
        self._timers.after(grace + LEAVE_SECONDS, self._orders.do, held.engine, self._send, held, "SIGKILL")

    def _hurry(self, held: Held) -> None:
        for _ in range(2):  # the second one hurries, whichever came first
            self._send(held, "SIGTERM")

    def kill(self, container: str) -> None:
        """See :class:`scaleplug.abc.ContainerBackend`."""
        held = self._ends.held.get(container)
        if held is not None:
            held.killed = True
            self._orders.do(held.engine, self._send, held, "SIGKILL")

    def _send(self, held: Held, signal: str) -> None:
        if not held.id or held.ending or held.request.container not in self._ends.held:
            return  # it will be told when it is there, or is gone
        try:
            held.engine.signal(held.id, signal)
        except UnreachableError as exc:
            held.engine.lost(exc)
            held.unsent = signal  # until the engine is back
        if signal == "SIGKILL":
            held.killed = True

    def exits(self) -> list[ContainerExit]:
        """See :class:`scaleplug.abc.ContainerBackend`."""
        exits, told = self._ends.take()
        for engine, identity in told:
            self._orders.do(engine, self._remove, engine, identity)
        self._tend()
        return exits

    def frozen(self) -> set[str]:
        """See :class:`scaleplug.abc.ContainerBackend`: those that are paused."""
        before = time.monotonic() - self.config.freeze_timeout
        with self._ends.lock:
            return {c for c, h in self._ends.held.items() if h.frozen_since is not None and h.frozen_since <= before}

    def capacity(self) -> int | None:
        """See :class:`scaleplug.abc.ContainerBackend`; those that stand by make room."""
        usable = [engine for engine in self.engines if engine.reachable]
        return sum(max(0, self._room(engine)) for engine in usable) if usable else None

    def _room(self, engine: Engine) -> int:
        held = self._ends.on(engine)
        cap = self.config.max_containers or CONTAINERS_PER_CORE * engine.cores
        free = (engine.memory >> 20) * (1 - MEMORY_KEPT_FREE) - sum(h.memory for h in held)
        return min(cap - len(held), int(free // MEMORY_GUESS))

    # -- stand-bys -------------------------------------------------------------------------------------------------

    def _make_standby(self, standby: Standby, registrations: list[Registration]) -> None:
        def made(identity: str) -> None:
            standby.id = identity

        def listen(line: Line) -> Output:
            standby.output = Output(
                line, self._on_lines, marker=READY, on_marker=lambda: self._standbys.on_ready(standby)
            )
            return standby.output.start()

        labels = recipe.labels(self.config, recipe.STANDBY)
        line = recipe.first_line(registrations, self.config, None)
        making = self._making(standby.engine, registrations[0], standby.name, labels)
        try:
            self._bring_up(standby.engine, making, line, on_made=made, listen=listen)
        except UnreachableError as exc:
            standby.engine.lost(exc)
            self._doubtful.add(standby.name)
            standby.dismissed = True  # nobody's code is to blame
            raise
        if standby.dismissed:
            self._remove_standby(standby)

    def _remove_standby(self, standby: Standby) -> None:
        if standby.id:
            self._remove(standby.engine, standby.id)

    def _hand_over(self, standby: Standby, held: Held, registration: Registration) -> bool:
        """Let one that stands by be a container; False if its line is broken."""
        assert standby.output is not None
        output, request = standby.output, held.request
        output.function, output.container = request.function, request.container
        held.output = output
        self._made(held, standby.id)
        try:
            output.line.send(recipe.order(request, registration))
        except OSError:
            self._orders.do(standby.engine, self._remove, standby.engine, standby.id)
            held.output = None
            self._ends.release(held)
            return False
        self._orders.do(held.engine, self._rename, held)
        return True

    def _rename(self, held: Held) -> None:
        with contextlib.suppress(EngineError):  # it is gone, and its end is told
            held.engine.rename(held.id, recipe.engine_name(held.request.container))

    def _tend(self) -> None:
        if self._ending:
            return
        usable = [engine for engine in self.engines if engine.reachable]
        self._standbys.tend({engine: self._room(engine) - self._standbys.count(engine) for engine in usable})

    # -- what engines tell -----------------------------------------------------------------------------------------

    def _on_event(self, action: str, identity: str, attributes: Mapping[str, str]) -> None:
        if self._ends.on_event(action, identity, attributes):
            return
        if action in ("die", "destroy"):
            self._standbys.on_end(identity, int(attributes.get("exitCode", "1")))
        elif action == "pause":
            self._standbys.on_pause({identity})

    def _on_back(self, engine: Engine) -> None:
        """Find what has happened while an engine did not answer."""
        self._resync(engine)
        # Once more, for those that were new just now.
        self._timers.after(FRESH_SECONDS + 1, self._orders.do, engine, self._resync, engine)
        self._on_exit("*")

    def _resync_soon(self) -> None:
        for engine in self.engines:
            if engine.reachable:
                self._orders.do(engine, self._resync, engine)
        self._timers.after(RESYNC_SECONDS, self._resync_soon)

    def _resync(self, engine: Engine) -> None:
        try:
            seen = {each.id: each for each in engine.list()}
        except EngineError as exc:
            engine.lost(exc)
            return
        self._ends.reconcile(engine, seen)
        for left in [left for left in self._unremoved if left[0] is engine]:
            self._unremoved.discard(left)
            self._orders.do(engine, self._remove, *left)
        self._standbys.reconcile(engine, {i for i, each in seen.items() if each.state in ALIVE})
        self._standbys.on_pause({i for i, each in seen.items() if each.state == "paused"})
        for each in seen.values():
            if each.name in self._doubtful and not self._ends.knows(each.id):
                self._doubtful.discard(each.name)
                self._orders.do(engine, self._remove, engine, each.id)
        for held in self._ends.on(engine):
            if held.unsent:
                signal, held.unsent = held.unsent, ""
                self._orders.do(held.engine, self._send, held, signal)

    def _remove(self, engine: Engine, identity: str) -> None:
        try:
            engine.remove(identity)
        except UnreachableError as exc:
            engine.lost(exc)
            self._unremoved.add((engine, identity))
        except EngineError as exc:
            logger.warning("a container that has ended is left behind: %s", exc)

    # -- the end ---------------------------------------------------------------------------------------------------

    def end(self, grace: float) -> None:
        """Drain every container; those that stand by leave at once."""
        self._ending = True
        self._standbys.end()
        for container in list(self._ends.held):
            self.stop(container, grace=grace)

    def ended(self) -> bool:
        """Return whether everything is gone that engines which answer have of ours."""
        waits = any(held.engine.reachable for held in list(self._ends.held.values()))
        return not waits and self._ends.all_told() and not self._standbys.left() and not self._orders.busy

    def close(self) -> None:
        """See :class:`scaleplug.abc.ContainerBackend`."""
        self._ending = True
        self._timers.close()
        for engine in self.engines:
            engine.close()
        for held in list(self._ends.held.values()):
            if held.output is not None:
                held.output.line.close()
        self._starts.close()
        self._orders.close()


def host_name(urls: Sequence[str]) -> str:
    """Return the name under which containers are booked: this host's, or that of a list of engines reached by network.

    Controllers on several hosts that have the same list know the same containers.
    """
    if all(url.startswith("unix:") for url in urls):
        return socket.gethostname()
    return "docker-" + hashlib.sha256(",".join(sorted(urls)).encode()).hexdigest()[:8]
