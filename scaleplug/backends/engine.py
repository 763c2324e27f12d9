"""One Docker engine, through the ``docker`` SDK: what the backend asks of it, and what it tells by itself.

Everything the SDK raises becomes an :class:`EngineError`. Lists are one request with a filter on labels; what happens
comes as events, over a connection of its own that is opened again whenever it breaks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from scaleplug.errors import ConfigurationError, Error

try:
    import docker
    import requests
    from docker.errors import (
        APIError,
        DockerException,
        ImageNotFound,
        InvalidArgument,
        InvalidVersion,
        NotFound,
    )
    from docker.utils import parse_repository_tag
    from urllib3.exceptions import HTTPError
except ImportError as missing:
    raise ConfigurationError(
        "the docker backend needs the docker SDK where the controller runs: pip install 'scaleplug[docker]'"
    ) from missing

logger = logging.getLogger("scaleplug")

TIMEOUT = 60
CONNECTIONS = 32
RETRY_SECONDS = (0.1, 2.0)
RESYNC_SECONDS = 30.0
WATCHED = ("die", "destroy", "pause", "unpause", "oom")
HEALTH_SECONDS = 300
"""Between two runs of an image's health check, each of which is a process: the controller hears of ends without it."""
HEADER = 8
"""Bytes before each piece of output: the stream it is of, and its length."""


class EngineError(Error):
    """The engine refused something."""


class UnreachableError(EngineError):
    """The engine did not answer, so it isn't known what it did."""


class NoImageError(EngineError):
    """There is no such image."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A container of ours, as a list shows it."""

    id: str
    name: str
    state: str
    """``created``, ``running``, ``paused``, ``exited``, ..."""
    labels: Mapping[str, str]
    image: str
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """A container to be made: what the engine needs to know, and nothing that nobody may see."""

    name: str
    image: str
    command: Sequence[str]
    labels: Mapping[str, str]
    env: Mapping[str, str]
    stop_timeout: int
    host: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the SDK's host configuration: limits, mounts, network."""


class Line:
    """The connection to a container's input and output."""

    def __init__(self, raw: Any, pieces: Any = None) -> None:
        self._raw, self._pieces = raw, pieces
        self._socket = getattr(raw, "_sock", raw)
        if self._socket is not None:
            self._socket.settimeout(None)

    def send(self, data: bytes) -> None:
        """Write to the container's input; raises OSError."""
        self._socket.sendall(data)

    def pieces(self) -> Iterator[bytes]:
        """Yield what it prints, until it ends or the connection does."""
        if self._pieces is not None:
            with contextlib.suppress(OSError, HTTPError, requests.RequestException, ValueError):
                yield from self._pieces
            return
        data = b""
        while True:
            try:
                more = self._socket.recv(65_536)
            except OSError:
                return
            if not more:
                return
            data += more
            while len(data) >= HEADER:
                end = HEADER + int.from_bytes(data[4:HEADER], "big")
                if len(data) < end:
                    break
                yield data[HEADER:end]
                data = data[end:]

    def close(self) -> None:
        """Close it: a container that reads its input finds the end of it."""
        if self._pieces is not None:
            with contextlib.suppress(OSError, DockerException, AttributeError):
                self._pieces.close()
            return
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        for end in (self._raw, self._socket):
            with contextlib.suppress(OSError):
                end.close()


@contextlib.contextmanager
def _told(what: str, where: str) -> Iterator[None]:
    """Turn what the SDK raises into our errors."""
    try:
        yield
    except ImageNotFound as exc:
        raise NoImageError(str(exc.explanation or exc)) from exc
    except APIError as exc:
        raise EngineError(f"the Docker engine {where} refused to {what}: {exc.explanation or exc}") from exc
    except (InvalidArgument, InvalidVersion) as exc:
        raise EngineError(f"the Docker engine {where} can't be asked to {what}: {exc}") from exc
    except (requests.RequestException, HTTPError, DockerException, OSError) as exc:
        raise UnreachableError(f"the Docker engine {where} can't be reached to {what}: {exc}") from exc


def check_url(url: str | None) -> None:
    """Raise ConfigurationError for an address that can't be one: nobody should wait for that to answer."""
    name, given = ("SCALEPLUG_DOCKER_HOSTS", url) if url else ("DOCKER_HOST", os.environ.get("DOCKER_HOST"))
    if not given:
        return
    try:
        docker.utils.parse_host(given)
    except (DockerException, ValueError) as exc:
        raise ConfigurationError(
            f"{name} names the engine {given!r} ({exc}): use unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST"
        ) from None
    if given.startswith("ssh:") and find_spec("paramiko") is None:
        raise ConfigurationError(f"{name} names the engine {given!r}, which needs paramiko: pip install 'docker[ssh]'")


class Engine:
    """One engine. ``on_event`` gets (action, id, attributes); ``on_back`` is called whenever it answers again."""

    def __init__(
        self,
        url: str | None,
        label: str,
        *,
        on_event: Callable[[str, str, Mapping[str, str]], object],
        on_back: Callable[[Engine], object],
    ) -> None:
        check_url(url)
        self.url, self.label = url, label
        self.shown = url or "of this host"
        self._on_event, self._on_back = on_event, on_back
        self._client: Any = None
        self._events: Any = None
        self._lock = threading.Lock()
        self._pulling: dict[str, threading.Lock] = {}
        self.reachable = False
        self.cores, self.memory = 1, 0
        self._watching: threading.Thread | None = None
        self._closed = threading.Event()

    # -- the connection --------------------------------------------------------------------------------------------

    def open(self) -> bool:
        """Look whether it answers; say so when that has changed."""
        try:
            with _told("say what it is", self.shown):
                info = self.client.info()
        except EngineError as exc:
            self.lost(exc)
            return False
        self.cores, self.memory = int(info["NCPU"]), int(info["MemTotal"])
        self.reachable = True
        return True

    def lost(self, why: object) -> None:
        """Take note that it doesn't answer."""
        if self.reachable or self._watching is None:
            logger.warning("its containers are held as they are: %s", why)
        self.reachable = False
        with contextlib.suppress(Exception):
            self._events.close()  # it may be as open as ever: who listens there finds out when it answers again

    @property
    def client(self) -> Any:
        """The SDK's client; raises its errors."""
        with self._lock:
            if self._client is None:
                environ = {**os.environ, **({} if self.url is None else {"DOCKER_HOST": self.url})}
                options = docker.utils.kwargs_from_env(environment=environ)  # certificates, too
                self._client = docker.APIClient(
                    **options, version="auto", timeout=TIMEOUT, max_pool_size=CONNECTIONS, num_pools=CONNECTIONS
                )
            return self._client

    def watch(self) -> None:
        """Hear of what happens, from now on, on a thread of its own."""
        if self._watching is None:
            self._watching = threading.Thread(target=self._watch, daemon=True, name="docker-events")
            self._watching.start()

    def _watch(self) -> None:
        low, high = RETRY_SECONDS
        pause = low
        while not self._closed.is_set():
            was_reachable = self.reachable
            try:
                with _told("tell what happens", self.shown):
                    filters = {"type": "container", "label": self.label, "event": list(WATCHED)}
                    self._events = self.client.events(decode=True, filters=filters)
                if self.open():
                    if not was_reachable:
                        logger.info("the Docker engine %s answers again", self.shown)
                    self._on_back(self)
                    pause = low
                    self._hear()
                why: object = f"the Docker engine {self.shown} has ended the connection"
            except EngineError as exc:
                why = exc
            except Exception as exc:  # whatever a broken stream gives
                logger.debug("the events of the Docker engine broke", exc_info=True)
                why = f"the events of the Docker engine {self.shown} broke: {exc}"
            finally:
                with contextlib.suppress(Exception):
                    self._events.close()
            if self._closed.is_set():
                return
            self.lost(why)
            self._closed.wait(pause)
            pause = min(high, 2 * pause)

    def _hear(self) -> None:
        with _told("tell what happens", self.shown):
            for event in self._events:
                actor = event.get("Actor") or {}
                if event.get("Action") in WATCHED and actor.get("ID"):
                    self._on_event(event["Action"], actor["ID"], actor.get("Attributes") or {})

    def close(self) -> None:
        """Let go of it."""
        self._closed.set()
        with contextlib.suppress(Exception):
            self._events.close()
        if self._client is not None:
            self._client.close()

    # -- containers ------------------------------------------------------------------------------------------------

    def list(self) -> list[Seen]:
        """Return our containers, also those that have ended: one request, however many there are."""
        with _told("list containers", self.shown):
            rows = self.client.containers(all=True, filters={"label": self.label})
        return [
            Seen(
                row["Id"], (row.get("Names") or ["/"])[0].lstrip("/"), row["State"], row.get("Labels") or {},
                row.get("ImageID", ""), float(row["Created"]),
            )
            for row in rows
        ]  # fmt: skip

    def create(self, making: Making) -> str:
        """Make a container; return its id."""
        with _told(f"make the container {making.name}", self.shown):
            host = self.client.create_host_config(**making.host)
            made = self.client.create_container(
                making.image, list(making.command), name=making.name, labels=dict(making.labels),
                environment=dict(making.env), stdin_open=True, host_config=host, stop_timeout=making.stop_timeout,
                healthcheck={"interval": HEALTH_SECONDS * 10**9},
            )  # fmt: skip
            return str(made["Id"])

    def attach(self, container: str) -> Line:
        """Return the line to a container that has not been started yet."""
        with _told("attach to a container", self.shown):
            params = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            return Line(self.client.attach_socket(container, params=params))

    def follow(self, container: str, since: float) -> Line:
        """Return the output of a container that runs already, from a moment on."""
        with _told("follow a container's output", self.shown):
            return Line(None, self.client.logs(container, stream=True, follow=True, since=since))

    def last_lines(self, container: str, most: int) -> Sequence[str]:
        """Return the last lines that a container has printed, none if they can't be had."""
        with contextlib.suppress(EngineError), _told("show a container's output", self.shown):
            raw = self.client.logs(container, tail=most)
            return tuple(raw.decode(errors="replace").splitlines())
        return ()

    def start(self, container: str) -> None:
        """Start a container."""
        with _told("start a container", self.shown):
            self.client.start(container)

    def signal(self, container: str, name: str) -> bool:
        """Signal a container; return whether it was there and ran."""
        try:
            with _told("signal a container", self.shown):
                self.client.kill(container, signal=name)
        except UnreachableError:
            raise
        except EngineError:
            return False
        return True

    def rename(self, container: str, name: str) -> None:
        """Give a container another name."""
        with _told("rename a container", self.shown):
            self.client.rename(container, name)

    def remove(self, container: str) -> None:
        """Remove a container with all it has written, whether it runs or not; one that is gone already is no error."""
        try:
            with _told("remove a container", self.shown):
                self.client.remove_container(container, v=True, force=True)
        except UnreachableError:
            raise
        except EngineError as exc:
            cause = exc.__cause__
            gone = isinstance(cause, NotFound) or getattr(cause, "status_code", None) == 409  # its removal is under way
            if not gone:
                raise

    def state(self, container: str) -> Mapping[str, Any]:
        """Return what the engine knows of a container's state; empty when it is gone."""
        try:
            with _told("look at a container", self.shown):
                found: dict[str, Any] = self.client.inspect_container(container)["State"]
        except UnreachableError:
            raise
        except EngineError:
            return {}
        return found

    # -- images ----------------------------------------------------------------------------------------------------

    def image(self, name: str) -> str | None:
        """Return the id of an image, ``None`` if it isn't there."""
        try:
            with _told("look at an image", self.shown):
                return str(self.client.inspect_image(name)["Id"])
        except NoImageError:
            return None

    def pull(self, name: str) -> None:
        """Pull an image; raises NoImageError with the registry's reason. Those who want the same at once wait."""
        with self._lock:
            mine = self._pulling.setdefault(name, threading.Lock())
        began = time.monotonic()
        with mine:
            if time.monotonic() - began > 1.0 and self.image(name) is not None:
                return  # somebody else has just pulled it
            repository, tag = parse_repository_tag(name)
            logger.info("pulling %s onto the Docker engine %s", name, self.shown)
            try:
                with _told(f"pull {name}", self.shown):
                    for step in self.client.pull(repository, tag=tag or "latest", stream=True, decode=True):
                        if "error" in step:
                            raise NoImageError(str(step["error"]))
            except UnreachableError:
                raise
            except EngineError as exc:
                raise NoImageError(f"{exc}") from exc
