"""A container: one Celery worker for one function's queue.

:class:`Container` is made before the fork, with everything that needs no connection; :meth:`Container.run` is what
the forked process does until it is told to leave.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

from celery import Celery, signals, states
from celery.app.trace import build_tracer, setup_worker_optimizations
from celery.utils.nodenames import nodename
from celery.worker import WorkController, loops, state
from celery.worker.consumer import Consumer
from kombu import Connection
from kombu.exceptions import ContentDisallowed, DecodeError
from redis.exceptions import RedisError

from scaleplug.abc import EXIT_OUTDATED, StartRequest
from scaleplug.cls import Cls, ObjectPool
from scaleplug.errors import Error, InputRefusedError, SerializationError
from scaleplug.function import Function
from scaleplug.loglines import carry, write_json
from scaleplug.pools import unpack
from scaleplug.registry import Registration
from scaleplug.serializer import NAME, SHORT, Keyring, shows_arguments, use_large_arguments
from scaleplug.settings import Config, FunctionSettings
from scaleplug.store import Store
from scaleplug.task import plain_queue
from scaleplug.transport import Transport
from scaleplug.worker.copies import mark_copy
from scaleplug.worker.event_loop import EventLoop
from scaleplug.worker.fast import Fast
from scaleplug.worker.holding import EXIT_NO_REDIS, EXIT_NOT_WANTED, LOST, NotWantedError
from scaleplug.worker.intake import Intake
from scaleplug.worker.leaving import Deadline, Leaving
from scaleplug.worker.pools import ConcurrentPool, SoloPool
from scaleplug.worker.presence import Presence
from scaleplug.worker.runner import Body, Runner
from scaleplug.worker.spares import Boot
from scaleplug.worker.turns import Turns
from scaleplug.worker.watchdog import Watchdog

logger = logging.getLogger(__name__)

OUR_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
CONNECTIONS = 32
ORDER_SECONDS = 5
"""How long one wait for orders blocks in the server; less than ``server.ANSWER_SECONDS``."""
ORDERS_AFTER = 0.02
"""Seconds after which a new container hears orders, which are kept for it: until then its first input comes first."""


class _Consumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """A consumer whose connection for reading is scaleplug's, whatever broker the app uses otherwise."""

    def connection_for_read(self, heartbeat: float | None = None) -> Connection:  # noqa: ARG002
        return Connection(transport=Transport, transport_options=self.controller.transport_options)

    def update_strategies(self) -> None:
        """Do nothing: Celery would set up every task of the app, for each function again; this one's come later."""

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        # Celery would only drop the input, and its caller would wait for ever.
        wrapped = exc.args[0] if exc.args else exc
        function = message.headers["task"]
        error: Error = SerializationError(
            f"an argument of {function} can't be unpickled: {type(wrapped).__name__}: {wrapped}"
        )
        if isinstance(wrapped, SerializationError):  # it could not even be verified
            error = InputRefusedError(f"the container refused an argument of {function}: {wrapped}")
        self.fail(message, error)
        super().on_decode_error(message, exc)

    def fail(self, message: Any, error: Error) -> None:
        """Settle that an input fails without having run."""
        told = self.connection.transport.intake.fail(message.delivery_tag, error)
        if not told and not message.headers.get("ignore_result"):
            self.app.backend.store_result(message.headers["id"], error, states.FAILURE)

    def start(self) -> None:
        # Once, and only as far as the loop: the loop itself begins after the fork. The transport reconnects by itself.
        self.loop = lambda *_: None
        self.blueprint.start(self)


class _Worker(WorkController):  # type: ignore[misc]
    """A Celery worker that takes its options from code, and leaves pid files, signals and logging alone."""

    transport_options: dict[str, Any]

    def on_before_init(self, **_: Any) -> None:
        # What Celery's own worker program does here, as far as a container needs it.
        self.app.finalize()


def _guarded(strategy: Callable[..., Any], intake: Intake | None, runner: Runner, consumer: Any) -> Callable[..., Any]:
    """Let an input fail that Celery can't take, or that has had all its attempts: it would end containers for ever."""

    def receive(message: Any, *args: Any, **kwargs: Any) -> Any:
        claim = intake.claims.get(message.delivery_tag) if intake is not None else None
        spent = runner.spent(claim) if claim is not None else None
        if spent is not None:  # before Celery unpickles it, which may be what took the containers down
            consumer.fail(message, spent)
            message.ack()
            return None
        try:
            return strategy(message, *args, **kwargs)
        except (DecodeError, ContentDisallowed, RedisError, OSError):
            raise
        except Exception as exc:
            if intake is None or message.delivery_tag not in intake.claims:
                raise  # it has ended: the fault is not the input's
            raise DecodeError(SerializationError(f"Celery can't run it: {type(exc).__name__}: {exc}")) from exc

    return receive


def _pool_of(settings: FunctionSettings) -> Any:
    if settings.green:
        return import_module("scaleplug.worker.green_pool").GreenPool
    return ConcurrentPool if settings.concurrent else SoloPool


class Container:
    """The worker of one function, started as far as it goes without a connection."""

    def __init__(
        self, served: Function[Any, Any] | Cls[Any], registration: Registration, config: Config, store: Store
    ) -> None:
        self.served, self.registration, self.config = served, registration, config
        self.keyring = Keyring(config.secret)
        self.store, self.keys = store, store.keys
        self.runner = Runner(registration.settings, max_attempts=config.max_attempts)
        self.runner.title = registration.shown
        served.app.prepare()
        app: Celery = served.app.celery
        names = [served.title] if isinstance(served, Function) else [task.name for task in served.tasks.values()]
        self.tasks = {name: app.tasks[name] for name in names}
        app.set_current()
        app.set_default()
        # The app of this process only; its other tasks don't run here.
        app.conf.worker_enable_remote_control = app.conf.worker_direct = False
        app.amqp.queues.add(plain_queue(self.keys.queue(registration.function)))  # it may take no unknown ones
        app.conf.accept_content = sorted({*app.conf.accept_content, NAME, "json"})
        self.sends_events = bool(app.conf.worker_send_task_events)
        self.worker = _Worker(
            app=app,
            hostname="scaleplug@container",  # the real one comes after the fork
            queues=[self.keys.queue(registration.function)],
            pool=_pool_of(registration.settings),
            concurrency=registration.settings.max_inputs,
            prefetch_multiplier=1,
            consumer_cls=_Consumer,
            use_eventloop=False,
            without_mingle=True,
            without_gossip=True,
            without_heartbeat=True,
            task_events=self.sends_events,
            loglevel="WARNING",
        )
        if registration.settings.concurrent:
            self.worker.pool.runner = self.runner
            self.runner.loop = None if registration.settings.green else EventLoop(registration.shown)
        self.worker.transport_options = {"store": self.store, "most_pending": config.max_spawned}
        if not self.sends_events:  # events need a connection of their own
            self.worker.blueprint.start(self.worker)
        for task in self.tasks.values():
            _ = task.backend  # made on first use, which would be in the first input
        self.intake: Intake | None = None
        self._leaving: Leaving | None = None
        self._presence: Presence | None = None
        self.boot: Boot | None = None
        """What it had opened as a spare, if it was one."""
        self.forked = 0.0
        """When its process was forked, or stopped being a spare; monotonic."""

    def run(self, request: StartRequest, deadline: Deadline) -> int:
        """Consume until told to leave; return the exit status."""
        settings, intake = self.registration.settings, self._make_intake(request)
        carry(self.registration.shown, request.container)
        if self.config.log_format == "json":
            write_json()
        if settings.single_use_containers:
            intake.on_idle = self._on_stop
        self._leaving = Leaving(deadline, self.config.stop_grace, self._give_up)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for whoever started us
        os.register_at_fork(before=_hold_signals, after_in_parent=_let_signals_in, after_in_child=_forget_container)
        self._name_worker(request)
        signals.worker_process_init.send(sender=self.worker.hostname)
        instance = self._enter()
        try:
            intake.connect()
        except NotWantedError:
            self._exit(instance)
            return EXIT_NOT_WANTED
        except LOST as exc:
            logger.critical("the container can't reach Redis: %s", exc)
            return EXIT_NO_REDIS
        threading.Thread(target=self._hear_orders, args=(request.container,), daemon=True).start()
        if self._consume(intake):
            self._exit(instance)
            intake.leave("left in good order")
        return self.worker.exitcode or (EXIT_OUTDATED if intake.outdated else 0)

    def rehearse(self, request: StartRequest, inputs: int) -> None:
        """Do what :meth:`run` does for so many inputs, but for what reaches others."""
        intake, left = self._make_intake(request), [None] * inputs

        def count() -> None:
            left.pop()
            if not left:
                state.should_stop = 0

        intake.on_idle = count
        self._name_worker(request)
        self._enter()
        intake.connect()
        consumer = self.worker.consumer
        consumer.connection.transport.intake = intake
        with contextlib.suppress(SystemExit):
            loops.synloop(*consumer.loop_args())
        state.should_stop = None

    def _make_intake(self, request: StartRequest) -> Intake:
        settings, kwargs = self.registration.settings, self.store.client.connection_pool.connection_kwargs
        kwargs["client_name"] = request.container
        intake = self.intake = Intake(
            self.store, self.keyring, container=request.container, function=request.function, tasks=self.tasks,
            slots=settings.target_inputs if settings.concurrent else settings.max_inputs,
            timeout=settings.timeout + settings.wait_ms / 1000,  # a batch's first input waits for the others
            give_up=self.config.reconnect_timeout, version=self.registration.version,
        )  # fmt: skip
        intake.boot, intake.forked = self.boot, self.forked
        intake.on_outdated = self._on_stop
        intake.bulk, intake.most_slots = settings.concurrent, settings.max_inputs
        if settings.concurrent and self.config.max_attempts > 1:
            intake.last_attempt = self.config.max_attempts
        pool = self.store.client.connection_pool
        pool.max_connections = max(pool.max_connections, 2 * settings.max_inputs + CONNECTIONS)  # a stream takes two
        self.runner.attach(intake, self.keyring)
        intake.payloads.blobs.limit = self.config.max_payload
        use_large_arguments(intake.payloads.take)
        return intake

    def _enter(self) -> Any:
        """Make the object whose methods are called; what its hooks raise is a failed start."""
        if isinstance(self.served, Function):
            self.runner.bodies[self.served.title] = Body(self.served.app.surround(self.served.local))
            return None
        cls = self.served
        instance = ObjectPool(cls, unpack(self.registration.parameters)).make_instance()
        for name, mark in cls.methods.items():
            method = mark.raw.__get__(instance, type(instance))
            self.runner.bodies[cls.tasks[name].name] = Body(cls.app.surround(method))
        for hook in cls.hooks:
            if hook.kind == "enter":
                self.runner.run_hook(cls.app.surround_hook(hook.raw.__get__(instance, type(instance))))
        return instance

    def _exit(self, instance: Any) -> None:
        for hook in self.served.hooks if isinstance(self.served, Cls) else ():
            if hook.kind == "exit":
                try:
                    method = hook.raw.__get__(instance, type(instance))
                    self.runner.run_hook(self.served.app.surround_hook(method))
                except Exception:
                    logger.exception("%s of %s failed", hook.__name__, self.registration.shown)

    def _name_worker(self, request: StartRequest) -> None:
        worker, app = self.worker, self.served.app.celery
        worker.hostname = nodename(f"{request.function}-{request.slot}", socket.gethostname())
        if self.sends_events:
            worker.consumer.hostname = worker.hostname
            app.amqp.queues.select([self.keys.queue(request.function)])  # another function was prepared after this one
            worker.blueprint.start(worker)
        consumer = worker.consumer
        consumer.hostname, consumer.pid = worker.hostname, os.getpid()
        # What Celery's worker program does, and what the zygote did for another app of the file perhaps.
        app.set_current()
        app.set_default()
        setup_worker_optimizations(app, worker.hostname)
        for task in self.tasks.values():
            task.resultrepr_maxsize = SHORT if shows_arguments() else 0  # what Flower and logs may see of it
            task.run = self.runner  # here, and not before the fork: a function and its variants share their task
            task.__trace__ = build_tracer(task.name, task, app.loader, worker.hostname, app=app)
            consumer.strategies[task.name] = _guarded(
                task.start_strategy(app, consumer), self.intake, self.runner, consumer
            )

    def _consume(self, intake: Intake) -> bool:
        """Consume until told to leave; return whether it ended in good order: an input it ended over counts a crash."""
        worker, consumer = self.worker, self.worker.consumer
        transport = consumer.connection.transport
        transport.intake = intake
        if not self.registration.settings.concurrent and self.registration.settings.max_batch_size is None:
            turns = Turns(intake, self.runner, Fast(self.tasks, self.runner, consumer), transport.deliver)
            # One that is to take one input, or may crash only once, has nothing beside it.
            turns.lists = self.config.max_attempts > 1 and not self.registration.settings.single_use_containers
            turns.fast.packed_events = bool(self.config.packed_events)
            intake.runs_packs, transport.go = turns.lists, turns.go
            intake.ahead.on = True
        if self.sends_events:
            self._presence = Presence(consumer.event_dispatcher, intake, packed=bool(self.config.packed_events))
            self.runner.on_cancelled = self._presence.cancelled
        try:
            with self._presence or contextlib.nullcontext():
                loops.synloop(*consumer.loop_args())
        except SystemExit as exc:  # WorkerShutdown
            intake.stop_taking()
            worker.stop(exitcode=exc.code)
        except Exception:
            logger.critical("the container can't go on", exc_info=True)
            worker.stop(exitcode=1)
            return False
        return True

    def _on_stop(self, *_: Any) -> None:
        # Celery's loop sees it between two inputs: a running one finishes first.
        state.should_stop = 0
        if self.intake is not None:
            self.intake.draining = True
            self.intake.wake()

    def _on_sigterm(self, *_: Any) -> None:
        assert self._leaving is not None
        self._on_stop()
        self._leaving.on_signal()

    def _give_up(self) -> None:
        """Put back what is still running, and end: the time to finish it is up."""
        assert self.intake is not None
        held = len(self.intake.claims)
        if held:
            logger.warning("the container's time is up: %d inputs that it runs are put back", held)
        self.intake.leave("its time to leave was up")
        if self._presence is not None:
            self._presence.end()
        leave_process(0)

    def _hear_orders(self, container: str) -> None:
        threading.Event().wait(ORDERS_AFTER)
        store, key = self.store, self.keys.of("control", container)
        assert self.intake is not None
        watchdog = Watchdog(self.intake)
        while True:
            try:
                found = store.client.blpop(key, timeout=ORDER_SECONDS)
                watchdog.look()
                self.intake.ahead.make_sure()
            except (*LOST, RedisError):
                threading.Event().wait(1.0)
                continue
            if found is None:
                continue
            order, _, subject = found[1].decode(errors="replace").partition(" ")
            if order == "cancel":
                self.runner.cancel(*subject.split("\n"))
            elif order == "slots" and subject.isdecimal() and len(subject) < 10:
                self.intake.set_slots(int(subject))


# A process that the user's code forks is an ordinary one: the container's signals are not its. None may come while it
# still has the container's handlers.


def _hold_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, OUR_SIGNALS)


def _let_signals_in() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OUR_SIGNALS)


def _forget_container() -> None:
    mark_copy()
    for sig in OUR_SIGNALS:
        signal.signal(sig, signal.SIG_IGN if sig == signal.SIGUSR1 else signal.SIG_DFL)
    _let_signals_in()


def leave_process(status: int) -> None:
    """End a forked container without the exit hooks it inherited."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)
