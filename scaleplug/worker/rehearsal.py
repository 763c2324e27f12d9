"""A rehearsal: a spare runs an input of its own, without Redis and without anything of the user's.

What runs for the first time after a fork is slow: every page that it writes to is copied then, and that is several
times what the input itself takes. A spare does it while it waits. It is the container's own code that runs here, with
an app, a function and a connection that nobody else knows; Celery's signals reach nobody meanwhile.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import redis
from celery import signals
from celery.utils.dispatch import Signal
from celery.worker import state

from scaleplug.abc import StartRequest
from scaleplug.app import App
from scaleplug.here import forget_app
from scaleplug.keys import Keys
from scaleplug.links import Links
from scaleplug.messages import MessageFactory
from scaleplug.registry import Registration, Source
from scaleplug.serializer import Keyring
from scaleplug.settings import Config, FunctionSettings
from scaleplug.store import Store
from scaleplug.worker.container import Container

APP, FUNCTION, CALL = "scaleplug-rehearsal", "nothing", "fc-rehearsal"
NODE = StartRequest(container="rehearsal", app=APP, function=f"{APP}.{FUNCTION}", slot=1)
TWICE = 2

logger = logging.getLogger(__name__)


class Rehearsal:
    """Made before the fork; :meth:`run` is for the forked process."""

    def __init__(self, config: Config) -> None:
        self.client: Any = redis.Redis.from_pool(Links())
        self.stage = _Stage()
        pool = self.client.connection_pool
        pool.connection_class, pool.connection_kwargs = _Connection, {"stage": self.stage, "client_name": None}
        store = Store(self.client, Keys(config.namespace))
        app = App(APP)
        forget_app(app)
        function = app.function()(nothing)
        registration = Registration(
            function.full_name, APP, Source("none", ""), serialized=False, settings=FunctionSettings()
        )
        with silence():
            store.prepare_scripts()
            self.stage.scripts = store.scripts()
            self.container = Container(function, registration, config, store)
            factory = MessageFactory(function.task, Keyring(config.secret), "nobody", function.full_name)
            self.stage.message = factory.make(CALL, [(0, (), {})], many=False, keep=0)[0].encode()

    def run(self) -> bool:
        """Run an input, a few times; return whether that worked: a spare is none the worse for it if it didn't."""
        counted = state.total_count.copy(), state.all_total_count[:]
        try:
            with silence():
                self.container.rehearse(NODE, TWICE)
        except Exception:
            logger.debug("the rehearsal failed", exc_info=True)
            return False
        finally:
            state.total_count.clear()
            state.total_count.update(counted[0])
            state.all_total_count[:] = counted[1]
        return True


def prepare_rehearsal(config: Config) -> Rehearsal | None:
    """Return a rehearsal for spares; ``None`` where it can't be made."""
    try:
        return Rehearsal(config)
    except Exception:
        logger.debug("no rehearsal could be made", exc_info=True)
        return None


def nothing() -> None:
    """Do nothing."""


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Let nobody hear Celery's signals, or its log, in the block."""
    disabled = logging.root.manager.disable
    logging.disable()
    heard = [(s, s.receivers) for _, s in inspect.getmembers(signals, lambda value: isinstance(value, Signal))]
    try:
        for signal, _ in heard:
            signal.receivers = []
        yield
    finally:
        logging.disable(disabled)
        for signal, receivers in heard:
            signal.receivers = receivers


class _Stage:
    """What stands in for Redis: it has an answer to all that a first input asks."""

    def __init__(self) -> None:
        self.scripts: dict[str, str] = {}
        self.message = b""

    def answer(self, command: Sequence[Any]) -> bytes:
        """Return what a connection reads after a command."""
        name = str(command[0])
        if name == "EVALSHA":
            return ANSWERS.get(self.scripts.get(command[1], ""), b":1\r\n")
        if name == "BLMOVE":
            return b"$%d\r\n%b\r\n" % (len(self.message), self.message)
        if name == "INFO":
            return b"$19\r\nredis_version:7.0.0\r\n"
        return b":1\r\n" if list(command) == ["CLIENT", "ID"] else b"+OK\r\n"


ANSWERS = {"begin": b"*5\r\n+ok\r\n:1\r\n$0\r\n\r\n$0\r\n\r\n:0\r\n"}


class _Connection(redis.Connection):
    """A connection that leads nowhere: what was sent has been answered before it is read."""

    def __init__(self, *, stage: _Stage, client_name: str | None = None) -> None:
        super().__init__(client_name=client_name, protocol=2)  # type: ignore[no-untyped-call]  # redis-py's
        self.stage = stage
        self._answers: socket.socket | None = None

    def _connect(self) -> socket.socket:
        ours, self._answers = socket.socketpair()
        return ours

    def _say(self, command: Sequence[Any]) -> None:
        assert self._answers is not None
        self._answers.sendall(self.stage.answer(command))
        self._answers.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            self._answers.recv(65_536)  # nobody reads the commands themselves

    def send_command(self, *args: Any, **options: Any) -> None:
        if self._sock is None:
            self.connect()  # type: ignore[no-untyped-call]
        self._say(args)
        super().send_command(*args, **options)  # type: ignore[no-untyped-call]

    def pack_commands(self, commands: Iterable[Sequence[Any]]) -> Any:
        found = list(commands)
        for command in found:
            self._say(command)
        return super().pack_commands(found)  # type: ignore[no-untyped-call]
