"""A container: one Celery worker for one function's queue.

:class:`Container` is made before the fork, with everything that needs no connection; :meth:`Container.run` is what the forked
process does until it is told to leave.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from typing import Any

from celery import Celery
from celery.utils.nodenames import nodename
from celery.worker import WorkController, state
from celery.worker.consumer import Consumer
from kombu import Connection

from scaleplug.abc import StartRequest
from scaleplug.function import Function
from scaleplug.keys import Keys
from scaleplug.serializer import NAME, Keyring
from scaleplug.server import connect
from scaleplug.settings import Config
from scaleplug.store import Store, require_url
from scaleplug.transport import Transport
from scaleplug.worker.intake import EXIT_NO_REDIS, EXIT_NOT_WANTED, LOST, Intake, NotWantedError
from scaleplug.worker.runner import Runner

logger = logging.getLogger(__name__)

ORDER_SECONDS = 10
"""How long one wait for orders blocks in the server."""
SCRIPTS = ("connect", "begin", "finish", "owns", "gone")


class _Consumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """A consumer whose connection for reading is scaleplug's, whatever broker the app uses otherwise."""

    def connection_for_read(self, heartbeat: float | None = None) -> Connection:
        return Connection(transport=Transport, transport_options=self.controller.transport_options)


class _Worker(WorkController):  # type: ignore[misc]
    """A Celery worker that takes its options from code, and leaves pid files, signals and logging alone."""

    transport_options: dict[str, Any]

    def on_before_init(self, **_: Any) -> None:
        # What Celery's own worker program does here, as far as a container needs it.
        self.app.finalize()


class Container:
    """The worker of one function, ready to be connected."""

    def __init__(self, function: Function[Any, Any], config: Config) -> None:
        self.function, self.config = function, config
        self.keyring = Keyring(config.secret)
        self.keys = Keys(config.namespace)
        self.runner = Runner(
            function.raw, function.settings, is_async=function.is_async, max_attempts=config.max_attempts
        )
        function.task.run = self.runner
        app: Celery = function.app.celery
        app.set_current()
        app.set_default()
        # The app of this process only; its other tasks don't run here.
        app.conf.worker_enable_remote_control = False
        app.conf.accept_content = sorted({*app.conf.accept_content, NAME, "json"})
        self.worker = _Worker(
            app=app, hostname="scaleplug@container", queues=[self.keys.queue(function.full_name)], pool="solo", concurrency=1,
            consumer_cls=_Consumer, prefetch_multiplier=1, use_eventloop=False, without_mingle=True, without_gossip=True,
            without_heartbeat=True, task_events=bool(app.conf.worker_send_task_events), optimization=None, loglevel="WARNING",
        )  # fmt: skip
        self.intake: Intake | None = None

    def run(self, request: StartRequest) -> int:
        """Consume until told to leave; return the exit status."""
        self._name_worker(request)
        client = connect(require_url(self.config.redis_url), name=request.container)
        store = Store(client, self.keys)
        settings = self.function.settings
        intake = self.intake = Intake(
            store, self.keyring, container=request.container, function=request.function, slots=settings.max_inputs,
            timeout=settings.timeout, give_up=self.config.reconnect_timeout,
        )  # fmt: skip
        self.runner.attach(intake, self.keyring)
        self.worker.transport_options = {"store": store, "most_pending": self.config.max_spawned, "intake": intake}
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for whoever started us
        try:
            intake.connect()
        except NotWantedError:
            return EXIT_NOT_WANTED
        except LOST as exc:
            print(f"scaleplug: the container can't reach Redis: {exc}", file=sys.stderr, flush=True)
            return EXIT_NO_REDIS
        threading.Thread(target=self._hear_orders, args=(store, request.container), daemon=True).start()
        self.worker.start()
        intake.leave("left in good order")
        return self.worker.exitcode or 0

    def _name_worker(self, request: StartRequest) -> None:
        name = nodename(f"{request.function}-{request.slot}", socket.gethostname())
        self.worker.hostname = name
        consumer = self.worker.consumer
        consumer.hostname, consumer.pid = name, os.getpid()

    def _on_stop(self, *_: Any) -> None:
        # Celery's loop sees it between two inputs: a running one finishes first.
        state.should_stop = 0
        if self.intake is not None:
            self.intake.draining = True
            self.intake.wake()

    def _hear_orders(self, store: Store, container: str) -> None:
        key = self.keys.of("control", container)
        while True:
            try:
                found = store.client.blpop(key, timeout=ORDER_SECONDS - 1)
            except LOST:
                threading.Event().wait(1.0)
                continue
            if found is None:
                continue
            order, _, subject = found[1].decode().partition(" ")
            if order == "cancel":
                self.runner.cancel(subject)


def leave_process(status: int) -> None:
    """End a forked container without the exit hooks it inherited."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)
