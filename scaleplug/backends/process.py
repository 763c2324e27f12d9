"""Containers as processes of this host, forked by a zygote per app.

A zygote listens on a Unix socket in ``folder``, named after its source; a controller that restarts finds the sockets,
connects, and so finds its containers again. The protocol is in ``worker/zygote.py``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from scaleplug.abc import BackendContainer, ContainerExit, StartRequest
from scaleplug.errors import ConfigurationError
from scaleplug.registry import Registration
from scaleplug.resources import Ignored
from scaleplug.settings import Config

logger = logging.getLogger("scaleplug")

HELLO_SECONDS = 10.0
_TOLD = {f.name for f in fields(BackendContainer)}
"""What is taken of what a zygote tells, which may be of another version."""
CONTAINERS_PER_CORE = 128
BYTES_PER_CONTAINER = 24 << 20
"""What one more container may come to need, as a first guess; what is really free is looked up before every start."""
MEMORY_KEPT_FREE = 0.1


class _ZygoteLink:
    """The connection to one zygote, with the thread that reads it."""

    def __init__(self, path: Path, connection: socket.socket, process: subprocess.Popen[bytes] | None) -> None:
        self.path, self.connection, self.process = path, connection, process
        self.pid = process.pid if process is not None else 0
        self.containers: dict[str, BackendContainer] = {}
        self.greeted = threading.Event()
        self.loaded_at: float | None = None
        self.known: dict[str, Registration] = {}
        self.error: str | None = None
        self.dismissed = False
        self.stopped_since: float | None = None
        self.lock = threading.Lock()

    def tell(self, order: dict[str, Any]) -> None:
        """Send one order; raises OSError."""
        with self.lock:
            self.connection.sendall(json.dumps(order).encode() + b"\n")

    def alive(self) -> bool:
        """Return whether the zygote's process runs; one that has ended and waits to be reaped does not."""
        if self.process is not None:
            return self.process.poll() is None
        return self.pid > 0 and process_runs(self.pid)


class ProcessBackend:
    """See :class:`scaleplug.abc.ContainerBackend`."""

    name = "process"

    def __init__(
        self,
        config: Config,
        folder: Path,
        *,
        find: Callable[[str, str], Registration],
        on_exit: Callable[[str], object],
        on_lines: Callable[[list[tuple[str, str, str]]], object],
        lifeline: int | None = None,
    ) -> None:
        self.config, self.folder, self.lifeline = config, folder, lifeline
        self.host = socket.gethostname()
        self._find, self._on_exit, self._on_lines = find, on_exit, on_lines
        self._zygotes: dict[Path, _ZygoteLink] = {}
        self._exits: list[ContainerExit] = []
        self._frozen: set[str] = set()
        self._looked = 0.0
        self._lock = threading.RLock()
        self._closed = self._ending = False
        self._ignored = Ignored("on containers that are processes: set SCALEPLUG_BACKEND=docker")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _containers_config(self) -> dict[str, Any]:
        values = {f.name: getattr(self.config, f.name) for f in fields(self.config)}
        return values | {"redis_url": self.config.container_redis_url or self.config.redis_url}

    # -- zygotes ---------------------------------------------------------------------------------------------------

    def adopt(self, *, rest: bool = False) -> bool:  # noqa: ARG002  # all is seen at once
        """Connect to the zygotes that a controller before this one has left."""
        for path in sorted(self.folder.glob("*.sock")):
            link = self._connect(path, None)
            if link is None:
                path.unlink(missing_ok=True)  # its zygote is gone
            elif not link.greeted.wait(HELLO_SECONDS):
                logger.warning("a zygote does not answer: %s", path.name)
        return True

    def warm(self, registrations: Iterable[Registration]) -> None:
        """Start the zygotes of functions ahead of their first container, and let them prepare it."""
        by_zygote: dict[Path, list[Registration]] = {}
        for registration in registrations:
            self._ignored.tell(registration.shown, registration.settings.resources)
            by_zygote.setdefault(self._path(registration), []).append(registration)
        for known in by_zygote.values():
            link = self._zygote(known[0])
            news = self._news(link, known)
            if news:
                with contextlib.suppress(OSError):
                    link.tell({"op": "prepare", "functions": news})

    def prepared_at(self, registration: Registration) -> float:
        """Return when the function's zygote had imported its code; now, while it has not."""
        link = self._zygotes.get(self._path(registration))
        return time.time() if link is None or link.loaded_at is None else link.loaded_at

    def problem(self, registration: Registration) -> str | None:
        """Return why the function's code can't be imported: empty if it could, ``None`` while that isn't known."""
        link = self._zygotes.get(self._path(registration))
        return None if link is None or link.loaded_at is None else link.error or ""

    def can_start(self, registration: Registration) -> bool:
        """Return whether the zygote of this version lives: a new one would import the code as it is now."""
        return self._path(registration) in self._zygotes

    def tidy(self, registrations: Iterable[Registration]) -> None:
        """End the zygotes that none of these functions and no container needs any more."""
        needed = {self._path(registration) for registration in registrations}
        with self._lock:
            links = [z for p, z in self._zygotes.items() if p not in needed and not z.containers and not z.dismissed]
        for link in links:
            link.dismissed = True
            with contextlib.suppress(OSError):
                link.tell({"op": "end", "grace": 0.0})

    def _path(self, registration: Registration) -> Path:
        # A zygote imports once, so every version has its own; pickled code is loaded by each container for itself.
        source, version = registration.source, registration.version
        key = repr(source) + (f" {version}" if version and source.kind != "none" else "")
        key += " green" if registration.settings.green else ""
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:12]}.sock"

    def _zygote(self, registration: Registration) -> _ZygoteLink:
        path = self._path(registration)
        with self._lock:
            link = self._zygotes.get(path)
            if link is None or link.dismissed:
                path.unlink(missing_ok=True)
                link = self._start_zygote(path, registration)
            return link

    def _start_zygote(self, path: Path, registration: Registration) -> _ZygoteLink:
        source, kind = registration.source, "green" if registration.settings.green else "zygote"
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(str(path))
            listener.listen(8)
            inherited = [listener.fileno(), *([self.lifeline] if self.lifeline is not None else [])]
            with (self.folder / f"{path.stem}.log").open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", f"scaleplug.worker.{kind}"],
                    stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=inherited, start_new_session=True,
                )  # fmt: skip
            options = {
                "config": self._containers_config(),
                "source": [source.kind, source.where, source.folder],
                "listener": listener.fileno(),
                "lifeline": self.lifeline,
            }
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(json.dumps(options).encode() + b"\n")
        finally:
            listener.close()
        link = self._connect(path, process)
        if link is None:
            raise ConfigurationError(f"the zygote of {source.where or 'pickled functions'} could not be started")
        return link

    def _connect(self, path: Path, process: subprocess.Popen[bytes] | None) -> _ZygoteLink | None:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            return None
        link = _ZygoteLink(path, connection, process)
        with self._lock:
            self._zygotes[path] = link
        threading.Thread(target=self._read, args=(link,), daemon=True, name=f"zygote-{path.stem}").start()
        return link

    def _read(self, link: _ZygoteLink) -> None:
        with contextlib.suppress(OSError, ValueError), link.connection.makefile("rb") as lines:
            for line in lines:
                self._hear(link, json.loads(line))
        link.connection.close()
        if not self._closed:
            self._lost(link)

    def _hear(self, link: _ZygoteLink, event: dict[str, Any]) -> None:
        if event["ev"] == "hello":
            link.pid, link.error, link.loaded_at = event["pid"], event["error"], event["loaded_at"]
            with self._lock:
                for known in event["containers"]:
                    container = BackendContainer(**{k: v for k, v in known.items() if k in _TOLD})
                    link.containers[container.container] = container
            link.greeted.set()
            self._on_exit("*")
        elif event["ev"] == "started":
            with self._lock:
                known_as = link.containers.get(event["container"])
                if known_as is not None:
                    link.containers[event["container"]] = replace(known_as, pid=event["pid"])
        elif event["ev"] == "exit":
            exit_ = ContainerExit(
                container=event["container"],
                function=event["function"],
                exit_code=event["code"],
                reason=event["reason"],
                last_lines=tuple(event["lines"]),
                asked=event["asked"],
            )
            self._end(link, [exit_])
        elif event["ev"] == "frozen":
            with self._lock:
                (self._frozen.add if event["frozen"] else self._frozen.discard)(event["container"])
            self._on_exit("*")
        elif event["ev"] == "log":
            self._on_lines([(f, c, line) for f, c, line in event["lines"]])

    def _end(self, link: _ZygoteLink, exits: Sequence[ContainerExit]) -> None:
        with self._lock:
            for exit_ in exits:
                link.containers.pop(exit_.container, None)
                self._frozen.discard(exit_.container)
            self._exits.extend(exits)
        for exit_ in exits:
            self._on_exit(exit_.function)

    def _lost(self, link: _ZygoteLink) -> None:
        deadline = time.monotonic() + 1.0
        while link.alive() and time.monotonic() < deadline:
            time.sleep(0.02)  # the socket closes a moment before the process is gone
        if link.alive():
            return  # another controller has taken it over
        with self._lock:
            if self._zygotes.get(link.path) is link:
                del self._zygotes[link.path]
                link.path.unlink(missing_ok=True)
            left = list(link.containers.values())
        for container in left:
            if container.pid:
                with contextlib.suppress(OSError):  # they die with their zygote; this ends what they had started
                    os.killpg(container.pid, signal.SIGKILL)
        lines = last_lines(link.path.with_suffix(".log"))
        if not (self._ending or link.dismissed):
            said = "".join(f"\n{line}" for line in lines)
            logger.warning("a zygote died, and its %d containers with it%s", len(left), said and f". It said:{said}")
        reason = "killed with its zygote"
        self._end(link, [
            ContainerExit(
                container=c.container, function=c.function, exit_code=-9, reason=reason, last_lines=lines,
                bystander=link.loaded_at is not None,  # else it may have died of the import
            )
            for c in left
        ])  # fmt: skip

    # -- the port --------------------------------------------------------------------------------------------------

    def containers(self) -> list[BackendContainer] | None:
        """See :class:`scaleplug.abc.ContainerBackend`."""
        with self._lock:
            return [c for link in self._zygotes.values() for c in link.containers.values()]

    def start(self, requests: Sequence[StartRequest]) -> None:
        """See :class:`scaleplug.abc.ContainerBackend`."""
        by_zygote: dict[Path, tuple[_ZygoteLink, list[StartRequest]]] = {}
        for request in requests:
            link = self._zygote(self._find(request.function, request.version))
            by_zygote.setdefault(link.path, (link, []))[1].append(request)
        for link, wanted in by_zygote.values():
            self._start_in(link, wanted)

    def _start_in(self, link: _ZygoteLink, requests: list[StartRequest]) -> None:
        wanted = {(r.function, r.version) for r in requests}
        if len({function for function, _ in wanted}) < len(wanted):  # two versions of pickled code, one after the other
            for version in {version for _, version in wanted}:
                self._start_in(link, [r for r in requests if r.version == version])
            return
        news, now = self._news(link, [self._find(*each) for each in wanted]), time.time()
        with self._lock:
            for request in requests:
                container = BackendContainer(**asdict(request), started_at=now)
                link.containers[request.container] = container
        try:
            link.tell({"op": "start", "functions": news, "containers": [asdict(r) for r in requests]})
        except OSError:
            self._lost(link)

    def _news(self, link: _ZygoteLink, registrations: Iterable[Registration]) -> Sequence[dict[str, Any]]:
        """Return the registrations that a zygote doesn't know yet, or knows otherwise."""
        news = []
        for registration in registrations:
            if link.known.get(registration.function) != registration:
                link.known[registration.function] = registration
                news.append(registration.to_dict())
        return news

    def stop(self, container: str, *, grace: float) -> None:
        """See :class:`scaleplug.abc.ContainerBackend`."""
        self._order(container, {"op": "stop", "container": container, "grace": grace})

    def kill(self, container: str) -> None:
        """See :class:`scaleplug.abc.ContainerBackend`."""
        self._order(container, {"op": "kill", "container": container})

    def _order(self, container: str, order: dict[str, Any]) -> None:
        with self._lock:
            links = [link for link in self._zygotes.values() if container in link.containers]
        for link in links:
            with contextlib.suppress(OSError):
                link.tell(order)

    def exits(self) -> list[ContainerExit]:
        """See :class:`scaleplug.abc.ContainerBackend`."""
        with self._lock:
            exits, self._exits = self._exits, []
        return exits

    def frozen(self) -> set[str]:
        """See :class:`scaleplug.abc.ContainerBackend`."""
        self._wake_zygotes()
        with self._lock:
            return set(self._frozen)

    def _wake_zygotes(self) -> None:
        """Let zygotes that have been stopped for too long go on: nobody else could tell of their containers."""
        now = time.monotonic()
        if now - self._looked < 1.0:
            return
        self._looked = now
        with self._lock:
            links = list(self._zygotes.values())
        for link in links:
            if not link.pid or not is_stopped(link.pid):
                link.stopped_since = None
            elif now - (link.stopped_since or now) >= self.config.freeze_timeout:
                logger.warning("a zygote has been stopped for %g s: it is made to go on", self.config.freeze_timeout)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(link.pid, signal.SIGCONT)
            else:
                link.stopped_since = link.stopped_since or now

    def capacity(self) -> int | None:
        """See :class:`scaleplug.abc.ContainerBackend`."""
        existing = len(self.containers() or ())
        cap = self.config.max_containers
        if cap is None:
            cap = CONTAINERS_PER_CORE * (os.cpu_count() or 1)
        free = free_memory()
        by_memory = cap if free is None else max(0, int(free // BYTES_PER_CONTAINER))
        return max(0, min(cap - existing, by_memory))

    def end(self, grace: float) -> None:
        """Drain every container, then end the zygotes."""
        self._ending = True
        with self._lock:
            links = list(self._zygotes.values())
        for link in links:
            with contextlib.suppress(OSError):
                link.tell({"op": "end", "grace": grace})

    def ended(self) -> bool:
        """Return whether every zygote is gone and all it had to say has been heard."""
        with self._lock:
            return not self._zygotes

    def close(self) -> None:
        """See :class:`scaleplug.abc.ContainerBackend`."""
        self._closed = True
        with self._lock:
            links, self._zygotes = list(self._zygotes.values()), {}
        for link in links:
            link.connection.close()


def process_runs(pid: int) -> bool:
    """Return whether a process that needn't be a child of this one runs: a zombie does not."""
    if not hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            os.kill(pid, 0)
            return True
        return False
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        return not select.select([handle], [], [], 0)[0]  # it becomes readable when the process ends
    finally:
        os.close(handle)


def is_stopped(pid: int) -> bool:
    """Return whether a process was stopped (SIGSTOP); False where that can't be known."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False


def last_lines(path: Path, most: int = 10) -> Sequence[str]:
    """Return the last lines of a file, none if it can't be read."""
    try:
        return tuple(path.read_text(errors="replace").splitlines()[-most:])
    except OSError:
        return ()


def free_memory() -> float | None:
    """Return the bytes that more containers may use: what is available, less a reserve; ``None`` where unknown."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in text.splitlines() if len(line.split()) > 1}
    total, available = values.get("MemTotal"), values.get("MemAvailable")
    if total is None or available is None:
        return None
    with contextlib.suppress(OSError, ValueError):  # inside a container of some kind the limit is its own
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        total, available = min(total, limit), min(available, limit - used)
    return available - total * MEMORY_KEPT_FREE
