"""The twin of what carries calls: inputs run in threads of this process, and end as they would in containers.

Values go through the same pickling and signing as on their way through Redis. What one process can't give: module-level
state is shared between the caller and the functions, ``os._exit`` ends the tests, and a thread that blocks in C can't
be interrupted. Its caller gets the error in time all the same, and the thread is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import inspect
import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import cloudpickle
from celery import current_task

from scaleplug import function as function_module
from scaleplug.abc import CallKind, Event, FunctionRef, FunctionStats, Input, Look
from scaleplug.app import App
from scaleplug.blobs import check_size
from scaleplug.client import reason_error
from scaleplug.cls import BoundMethod, Cls
from scaleplug.context import running
from scaleplug.errors import (
    ExecutionError,
    FunctionTimeoutError,
    InputCancellation,
    InputCancelledError,
    InvalidError,
    NotFoundError,
    PayloadTooLargeError,
)
from scaleplug.function import Function, run_coroutine
from scaleplug.here import known_functions, known_methods, use_twin
from scaleplug.loops import done_now
from scaleplug.resources import Ignored
from scaleplug.serializer import Keyring, open_outcome, pickle, seal_failure, seal_value
from scaleplug.settings import FunctionSettings, check_count, check_seconds, override, process_config
from scaleplug.store import Admission
from scaleplug.streams import broken
from scaleplug.testing import batches
from scaleplug.testing.inputs import (
    AnyFunction,
    CrashError,
    LocalInput,
    Orders,
    Plan,
    SentInput,
    Spawned,
    again,
    crashed,
    current,
    full_name,
    loads,
    make,
    noted,
    own_frames_off,
    retry_delay,
)
from scaleplug.testing.objects import Objects
from scaleplug.testing.schedules import pass_time
from scaleplug.testing.streams import LocalStream
from scaleplug.transport import exhausted
from scaleplug.worker.batches import check_results

T = TypeVar("T")

SWALLOWED_SECONDS = 1.0
"""After this an input that still runs is interrupted again: what is raised in a destructor goes no further."""
LEAVE_SECONDS = 1.0
"""How long the end of a run waits for interrupted inputs to leave."""


class LocalRun:
    """Runs inputs in this process: at most ``threads`` at once, of one function no more than its containers would."""

    def __init__(self, *, threads: int = 8) -> None:
        self.threads = check_count("threads", threads, 1)
        self.keyring = Keyring(secrets.token_urlsafe(48))
        # A plain lock and no condition's: an interruption can't come between taking it and the block it guards.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._done: queue.SimpleQueue[tuple[LocalInput, bytes | None] | None] = queue.SimpleQueue()
        self._open: dict[str, list[tuple[Callable[[Event], object], LocalInput | None]]] = {}
        self._queues: dict[AnyFunction, deque[LocalInput]] = {}
        self._running: list[LocalInput] = []
        self._waiting: list[tuple[float, LocalInput]] = []  # failed ones, with the time at which they run again
        self._made: list[LocalInput] = []
        self._spawned: dict[str, Spawned] = {}
        self._cancelled: set[str] = set()
        self._plans: dict[str, Plan] = {}
        self._code: dict[AnyFunction, Callable[..., Any]] = {}
        self._finisher: threading.Thread | None = None
        self._next_deadline: float | None = None
        self._overrides: dict[str, dict[str, Any]] = {}
        self._interrupted: list[tuple[float, LocalInput]] = []
        """Inputs that were interrupted, by the time at which those that still run are interrupted again."""
        self._ended = False
        self.met: dict[str, Any] = {}
        self._ignored = Ignored("in a test twin, which starts nothing")
        self._known: dict[Any, AnyFunction] = {}
        self._objects = Objects(self._load_class)

    # -- what a test asks and tells --------------------------------------------------------------------------------

    def calls(self, function: AnyFunction | str) -> list[SentInput]:
        """Return the inputs sent to a function so far, oldest first; a name may be ``"f"`` or ``"app.f"``."""
        name = self._name(function)
        with self._lock:
            made = [(item.payload, item.runs) for item in self._made if item.function.input_name == name]
        return [SentInput(args, kwargs, runs) for payload, runs in made for args, kwargs in [loads(name, payload)]]

    def pending(self, function: AnyFunction | str) -> int:
        """Return how many inputs of a function wait for a thread, or for a retry."""
        name = self._name(function)
        with self._lock:
            return sum(1 for item in self._not_begun() if item.function.input_name == name)

    def running(self, function: AnyFunction | str) -> int:
        """Return how many inputs of a function run."""
        name = self._name(function)
        with self._lock:
            return sum(1 for item in self._running if item.function.input_name == name)

    def replace(self, function: AnyFunction | str, stub: Callable[..., Any]) -> None:
        """Run ``stub`` in place of a function's own code; it may be async."""
        if not callable(stub):
            raise InvalidError(f"stub must be callable, not {stub!r}")
        self._plan(function).stub = stub

    def fail(
        self, function: AnyFunction | str, error: BaseException | type[BaseException], *, times: int | None = None
    ) -> None:
        """Let the next ``times`` inputs of a function raise ``error`` instead of running; all of them for ``None``."""
        if not issubclass(error if isinstance(error, type) else type(error), BaseException):
            raise InvalidError(f"error must be an exception or a class of exceptions, not {error!r}")
        plan = self._plan(function)
        plan.error, plan.errors = error, None if times is None else check_count("times", times, 1)

    def crash(self, function: AnyFunction | str, *, times: int = 1) -> None:
        """Let the container die at the end of the next ``times`` runs: the work is done, its result is not stored yet.

        The input runs again then; when that has happened as often as ``SCALEPLUG_MAX_ATTEMPTS`` allows (3), it fails
        with ContainerCrashError.
        """
        self._plan(function).crashes = check_count("times", times, 1)

    def delay(self, function: AnyFunction | str, seconds: float) -> None:
        """Let every input of a function take ``seconds`` longer."""
        self._plan(function).delay = check_seconds("seconds", seconds, 0, 3600)

    def join(self, timeout: float = 10.0) -> None:
        """Wait until every input has ended; raises the builtin TimeoutError after ``timeout`` seconds."""
        with self._lock:
            if not self._changed.wait_for(lambda: not self._left(), timeout):
                names = sorted({item.function.full_name for item in self._left()})
                raise TimeoutError(f"inputs of {', '.join(names)} have not ended after {timeout:g} s")

    def pass_time(self, app: App, begin: datetime, end: datetime) -> list[tuple[datetime, str]]:
        """Call what an app's schedules start after ``begin`` and up to ``end``, and change what its profiles change.

        Each call is waited for before the next; returns when was what, in order.
        """
        return pass_time(self, app.functions.values(), begin, end)

    def _left(self) -> list[LocalInput]:
        return [*self._running, *self._not_begun()]

    def _not_begun(self) -> list[LocalInput]:
        return [*(item for queue in self._queues.values() for item in queue), *(item for _, item in self._waiting)]

    def _plan(self, function: AnyFunction | str) -> Plan:
        return self._plans.setdefault(self._name(function), Plan())

    def _name(self, function: AnyFunction | str) -> str:
        return full_name(function, (*known_functions(), *known_methods(), *self._queues))

    # -- the port --------------------------------------------------------------------------------------------------

    def open(self, call: str, put: Callable[[Event], object], *, led: bool = False) -> None:  # noqa: ARG002  # as below
        """See :class:`scaleplug.abc.Caller`."""
        owner = current.get()
        with self._lock:
            self._open.setdefault(call, []).append((put, owner))
            if owner is not None:
                owner.waits += 1  # others may run meanwhile: else functions that call functions would wait for ever
                self._start_pending()

    def close(self, call: str) -> None:
        """See :class:`scaleplug.abc.Caller`."""
        with self._lock:
            waiting, owner = self._open.get(call, []), current.get()
            if waiting:
                own = [place for place, (_, who) in enumerate(waiting) if who is owner]
                _, who = waiting.pop(own[-1] if own else -1)
                if who is not None:
                    who.waits -= 1
            if not waiting:
                self._open.pop(call, None)

    def lead(self, call: str, waits: Callable[[], bool]) -> None:
        """See :class:`scaleplug.abc.Caller`: here the threads that run inputs bring in their ends."""

    def pack_size(self, function: FunctionRef, left: int | None, window: int) -> int:  # noqa: ARG002  # no messages
        """See :class:`scaleplug.abc.Caller`."""
        return 1

    def send(
        self,
        function: FunctionRef,
        call: str,
        inputs: Sequence[Input],
        *,
        kind: CallKind,
        pack: int = 1,  # noqa: ARG002  # each runs by itself here
    ) -> int:
        """See :class:`scaleplug.abc.Caller`."""
        assert isinstance(function, Function)
        function = self._here(function)
        self._ignored.tell(function.full_name, function.pool_settings.resources)
        self._load_code(function)
        made = [make(function, call, kind, *given) for given in inputs]
        config, name, spawned = process_config(), function.full_name, kind in ("spawn", "spawn_map")
        most, total = (config.max_spawned, 0) if spawned else (config.max_pending, config.max_total)
        with self._lock:
            if self._ended:
                raise ExecutionError(f"{name} can't be called any more: the local run is over")
            waiting = self._queues.setdefault(function, deque())
            running, pending = self._running_of(function), len(waiting) + self._delayed_of(function)
            room = min(most - pending, total - pending - running if total else most)
            if len(made) > room:
                if kind not in ("map", "spawn_map"):
                    raise exhausted(name, Admission(0, pending, running), most, total)
                del made[max(0, room) :]
            if spawned:
                known = self._spawned.setdefault(call, Spawned(name, open=kind == "spawn_map"))
                known.inputs += len(made)
            for item in made:
                self._record(item)
            if call not in self._cancelled:  # a map may have been left while it sent this
                waiting.extend(made)
            self._start_pending()
        return len(made)

    def spawn_at(self, function: FunctionRef, call: str, given: Input, due: float) -> None:
        """See :class:`scaleplug.abc.Caller`."""
        assert isinstance(function, Function)
        function = self._here(function)
        self._load_code(function)
        item, when = make(function, call, "spawn", *given), time.monotonic() + due - time.time()
        with self._lock:
            self._queues.setdefault(function, deque())
            self._spawned.setdefault(call, Spawned(function.full_name)).inputs += 1
            self._record(item)
            self._waiting.append((when, item))
            self._wake_by(when)

    def override(self, function: str, changes: Mapping[str, Any]) -> FunctionSettings:
        """See :class:`scaleplug.abc.Caller`."""
        with self._lock:
            laid_over = self._overrides.get(function, {}) | dict(changes)
            settings = override(self._settings_of(function), laid_over)
            self._overrides[function] = laid_over
            self._start_pending()
        return settings

    def _settings_of(self, pool: str) -> FunctionSettings:
        owner = self.met.get(pool)
        for function in (*([owner] if owner is not None else ()), *known_functions()):
            if function.full_name == pool:
                settings: FunctionSettings = function.here().pool_settings
                return settings
        raise NotFoundError(f"this process has no function {pool!r}: import the module that defines it")

    def _in_force(self, function: AnyFunction) -> FunctionSettings:
        changes, settings = self._overrides.get(function.full_name), function.pool_settings
        return override(settings, changes) if changes else settings

    def send_soon(
        self, function: FunctionRef, call: str, inputs: Sequence[Input], *, kind: CallKind
    ) -> asyncio.Future[int]:
        """See :class:`scaleplug.abc.Caller`."""
        return done_now(partial(self.send, function, call, inputs, kind=kind))

    def soon(self, run: Callable[[], T]) -> asyncio.Future[T]:
        """See :class:`scaleplug.abc.Caller`; nothing blocks here."""
        return done_now(run)

    def cancel(self, function: str, call: str, *, tell: bool) -> None:  # noqa: ARG002  # the call says it all
        """See :class:`scaleplug.abc.Caller`."""
        with self._lock:
            gone: list[LocalInput] = []
            for queue in self._queues.values():
                left = [item for item in queue if item.call != call]
                if len(left) < len(queue):
                    gone += (item for item in queue if item.call == call)
                    queue.clear()
                    queue.extend(left)
            gone += (item for _, item in self._waiting if item.call == call)
            self._waiting = [(due, item) for due, item in self._waiting if item.call != call]
            self._cancelled.add(call)
            spawned, running = self._spawned.get(call), [item for item in self._running if item.call == call]
            if spawned is not None:
                spawned.cancelled = True
            for item in running:
                self._give_up(item, InputCancelledError(f"{item.id} was cancelled while it ran"))
            for item in gone if tell else ():
                self._tell(call, Event(item.index, None, "cancelled"))
            self._changed.notify_all()

    def cancel_soon(self, function: str, call: str) -> asyncio.Future[None]:
        """See :class:`scaleplug.abc.Caller`; nothing blocks here."""
        return done_now(partial(self.cancel, function, call, tell=False))

    def _tell(self, call: str, event: Event) -> None:
        """Keep the end of an input, and tell who waits for it; the lock is held."""
        if call in self._spawned:
            self._spawned[call].put(event)
        for put, _ in self._open.get(call, ()):
            put(event)

    def complete(self, function: FunctionRef, call: str, inputs: int) -> None:
        """See :class:`scaleplug.abc.Caller`."""
        with self._lock:
            spawned = self._spawned.setdefault(call, Spawned(function.full_name))
            spawned.inputs, spawned.open = inputs, False
            spawned.settle()

    def look(self, call: str, *, watch: bool, index: int = 0, most: int = 1, patience: float | None = None) -> Look:  # noqa: ARG002  # all are told, and nothing can be away
        """See :class:`scaleplug.abc.Caller`."""
        with self._lock:
            spawned = self._spawned.get(call)
            if spawned is None:
                return Look("", 0, False, False)
            return spawned.look(index, most, process_config().result_ttl)

    def stats(self, function: str, *, max_inputs: int) -> FunctionStats:
        """See :class:`scaleplug.abc.Caller`; the containers are as many as the running inputs need."""
        with self._lock:
            pending = sum(item.function.full_name == function for item in self._not_begun())
            running = sum(item.function.full_name == function for item in self._running)
        containers = -(-running // max_inputs)
        return FunctionStats(pending, containers, running, containers * max_inputs - running)

    def open_pack(self, call: str, event: Event) -> list[tuple[int, bytes]]:
        """See :class:`scaleplug.abc.Caller`; nothing comes packed here."""
        raise ExecutionError(f"a packed end of {call} in a local run: {event.index}")

    def read(self, call: str, event: Event) -> tuple[bool, Any]:
        """See :class:`scaleplug.abc.Caller`."""
        if event.outcome is None:
            return False, reason_error(event.reason, call)
        return open_outcome(self.keyring, event.context(call), event.outcome)

    def grant(self, call: str, part: int | None) -> bool:
        """See :class:`scaleplug.abc.Caller`."""
        if part is not None:
            with self._lock:
                windows = [item.window for item in self._running if item.call == call and item.window is not None]
            for window in windows:
                window.grant(part)
        return True

    def pass_on(self, item: LocalInput, event: Event) -> None:
        """Give a part of a stream to who waits for it; nobody does when the input has ended."""
        with self._lock:
            for put, _ in () if item.ended else self._open.get(item.call, ()):
                put(event)

    def drop(self, event: Event) -> None:
        """See :class:`scaleplug.abc.Caller`: here nothing is kept anywhere else."""

    # -- running ---------------------------------------------------------------------------------------------------

    def _here(self, function: AnyFunction) -> AnyFunction:
        """Return a function with its code, always the same for one pool; raises NotFoundError."""
        function = function.here()
        return self._known.setdefault((function.input_name, function.raw, function.made_of), function)

    def _load_class(self, cls: Cls[Any]) -> type:
        raw: type | None = cls.raw
        if cls.serialized:
            raw = cloudpickle.loads(pickle(cls.raw, f"the code of {cls.full_name}"))
        assert raw is not None  # it was looked for when it was called
        return raw

    def _load_code(self, function: AnyFunction) -> None:
        if function.serialized and not isinstance(function, BoundMethod) and function not in self._code:
            self._code[function] = cloudpickle.loads(pickle(function.raw, f"the code of {function.full_name}"))

    def _record(self, item: LocalInput) -> None:
        item.number = len(self._made)
        self._made.append(item)

    def _running_of(self, function: AnyFunction) -> int:
        return sum(1 for item in self._running if item.function.full_name == function.full_name)

    def _delayed_of(self, function: AnyFunction) -> int:
        return sum(1 for _, item in self._waiting if item.function is function)

    def _start_pending(self) -> None:
        """Start what there is room for, oldest first; the lock is held."""
        while not self._ended and batches.in_use(item for item in self._running if not item.waits) < self.threads:
            waiting = [queue for function, queue in self._queues.items() if queue and self._has_room(function)]
            now = time.monotonic()
            ready = [queue for queue in waiting if batches.due_at(queue) <= now]
            if not ready:
                self._wake_by(min(map(batches.due_at, waiting), default=None))
                return
            batch = batches.take(min(ready, key=lambda queue: queue[0].number))
            item = batch[0]
            work = self._work if item.batch is None else self._work_batch
            thread = threading.Thread(target=work, args=(item,), daemon=True, name=f"scaleplug-{item.id}")
            deadline = now + self._in_force(item.function).timeout
            self._begin(item)
            for each in batch:
                each.deadline, each.thread = deadline, thread
                if each is not item:
                    each.runs, each.attempts, each.orders = each.runs + 1, each.attempts + 1, item.orders
            self._running.extend(batch)
            thread.start()
            self._wake_by(deadline)

    def _wake_by(self, when: float | None) -> None:
        """Let the finisher look at a monotonic time at the latest; the lock is held."""
        if when is None:
            return
        if self._finisher is None:
            self._finisher = threading.Thread(target=self._finish_all, daemon=True, name="scaleplug-finisher")
            self._finisher.start()
        if self._next_deadline is None or when < self._next_deadline:
            self._done.put(None)

    def _begin(self, item: LocalInput) -> None:
        """Count a run and settle what is to happen in it; the lock is held."""
        item.runs += 1
        item.attempts += 1
        plan = self._plans.get(item.function.input_name)
        item.orders = Orders() if plan is None else plan.next_orders()

    def _has_room(self, function: AnyFunction) -> bool:
        settings = self._in_force(function)
        if settings.max_containers is None:
            return True
        if settings.max_batch_size is None:
            return self._running_of(function) < settings.max_containers * settings.max_inputs
        running = (item for item in self._running if item.function.full_name == function.full_name)
        return batches.in_use(running) < settings.max_containers

    def _work_batch(self, first: LocalInput) -> None:
        current.set(first)
        assert first.batch is not None
        try:
            first.interruptible = threading.get_ident()
            try:
                ends = batches.run(
                    first.batch, self._body_of(first), partial(self._run, first, ()),
                    seal=lambda item, value: self._seal(
                        item.function.full_name, f"{item.call}|{item.index}", value
                    ),
                    fail=self._failed,
                )  # fmt: skip
            finally:
                with first.gate:
                    first.interruptible = None
            for end in ends:
                self._done.put(end)
        except InputCancellation:  # it came when the function was done with the batch
            pass

    def _failed(self, item: LocalInput, exc: BaseException, begun: bool) -> bytes:
        """Return how an input ends that raised ``exc``, and note whether it runs again."""
        if isinstance(exc, InputCancellation):
            return self._failure(item, InputCancelledError(f"{item.id} was cancelled while it ran"))
        exc.__traceback__ = own_frames_off(exc)
        item.retry_in = retry_delay(item, exc) if begun else None
        return seal_failure(self.keyring, f"{item.call}|{item.index}", exc)

    def _body_of(self, item: LocalInput) -> Callable[..., Any]:
        return item.function.app.surround(item.orders.stub or self._code_of(item.function))

    def _work(self, item: LocalInput) -> None:
        current.set(item)
        try:
            item.interruptible = threading.get_ident()
            try:
                outcome = None if item.given_up.is_set() else self._outcome(item)
            finally:
                with item.gate:
                    item.interruptible = None
            self._done.put((item, outcome))
        except InputCancellation:  # it came when the function was done with the input
            pass

    def _outcome(self, item: LocalInput) -> bytes | None:
        name, context, begun = item.function.full_name, f"{item.call}|{item.index}", False
        try:
            args, kwargs = loads(name, item.payload)
            begun = True
            value = self._run(item, args, kwargs)
        except CrashError:
            return None
        except BaseException as exc:  # noqa: BLE001  # whatever it is, it goes to the caller
            return self._failed(item, exc, begun)
        return self._seal(name, context, value)

    def _seal(self, name: str, context: str, value: Any) -> bytes:
        sealed = seal_value(self.keyring, context, value, name)
        try:
            check_size(f"what {name} returned", len(sealed), process_config().max_payload)
        except PayloadTooLargeError as exc:
            return seal_failure(self.keyring, context, exc)
        return sealed

    def _run(self, item: LocalInput, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        orders = item.orders
        if orders.delay and item.given_up.wait(orders.delay):
            raise InputCancellation
        if orders.error is not None:
            raise orders.error
        code = self._body_of(item)
        with running(item.id, item.call):
            value = code(*args, **kwargs)
            if item.function.is_generator:
                value = LocalStream(item, self.keyring, self.pass_on).run(value)
            if inspect.iscoroutine(value) and (item.function.is_async or orders.stub):
                value = run_coroutine(noted(item, value))
        if orders.crash:
            raise CrashError
        return value

    def _code_of(self, function: AnyFunction) -> Callable[..., Any]:
        if isinstance(function, BoundMethod):
            return self._objects.bind(function)
        return self._code.get(function) or function.local

    def run_here(self, function: AnyFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run an input of Celery's own calls in this thread, as Celery does when its tasks are always eager."""
        function = self._here(function)
        self._load_code(function)
        request = current_task.request if current_task else None
        call = (request.id if request else None) or f"fc-{secrets.token_hex(16)}"
        item = make(function, call, "remote", 0, args, kwargs)
        with self._lock:
            self._record(item)
        while True:
            with self._lock:
                self._begin(item)
            try:
                if function.pool_settings.max_batch_size is None:
                    return self._run(item, args, kwargs)
                values = self._run(item, (), batches.alone(self._body_of(item), args, kwargs))
                return check_results(function.full_name, values, 1)[0]
            except CrashError:
                if item.attempts >= process_config().max_attempts:
                    raise crashed(item) from None
            except BaseException as exc:
                if retry_delay(item, exc) is None:
                    raise
                item.retried, item.attempts = item.retried + 1, 0  # at once: Celery's eager tasks wait for nothing

    # -- ends ------------------------------------------------------------------------------------------------------

    def _finish_all(self) -> None:
        """Take what the threads have done, and end what has run too long; this thread is never interrupted."""
        while not self._ended:
            left = None if self._next_deadline is None else max(0.0, self._next_deadline - time.monotonic())
            with contextlib.suppress(queue.Empty):
                done = self._done.get(timeout=left)
                if done is not None:
                    self._finish(*done)
            with self._lock:
                self._enforce_timeouts()

    def _finish(self, item: LocalInput, outcome: bytes | None) -> None:
        with self._lock:
            if item.retry_in is not None:
                self._put_off(item, item.retry_in)
            elif outcome is not None:
                self._end_input(item, outcome)
            elif item.window is not None and item.window.items:
                error = broken(item.function.full_name, item.window.items, "killed by SIGKILL")
                self._end_input(item, self._failure(item, error))
            elif item.attempts >= process_config().max_attempts:
                self._end_input(item, self._failure(item, crashed(item)))
            elif not item.ended:
                self._running.remove(item)
                self._queues[item.function].appendleft(item)
                self._start_pending()

    def _enforce_timeouts(self) -> None:
        now = time.monotonic()
        for item in [item for item in self._running if item.deadline <= now]:
            name, limit = item.function.full_name, self._in_force(item.function).timeout
            error = FunctionTimeoutError(f"{name} ran longer than its timeout of {limit:g} s")
            delay = retry_delay(item, error)
            if delay is None:
                self._give_up(item, error)
            else:
                self._put_off(item, delay)
                self._interrupt(item)
        self._queue_due(now)
        for due, item in self._interrupted:
            if due <= now:
                _raise_in(item)
                if item.window is not None:
                    item.window.wake()  # it waits again, if what was raised went no further
        self._interrupted = [(due, item) for due, item in self._interrupted if due > now and item.interruptible]
        times = [
            *(due for due, _ in self._interrupted),
            *(item.deadline for item in self._running),
            *(due for due, _ in self._waiting),
        ]
        times += [due for due in map(batches.due_at, filter(None, self._queues.values())) if due > now]
        self._next_deadline = min(times, default=None)

    def _put_off(self, item: LocalInput, delay: float) -> None:
        """Let a failed input wait for its retry; the lock is held."""
        if item.ended:
            return
        item.ended = True
        self._running.remove(item)
        waiting = self._made[item.number] = again(item)
        self._waiting.append((time.monotonic() + delay, waiting))
        self._start_pending()

    def _queue_due(self, now: float) -> None:
        for due, item in sorted(self._waiting, key=lambda waiting: waiting[0]):
            if due <= now:
                self._queues[item.function].append(item)
        self._waiting = [(due, item) for due, item in self._waiting if due > now]
        self._start_pending()

    def _failure(self, item: LocalInput, error: Exception) -> bytes:
        return seal_failure(self.keyring, f"{item.call}|{item.index}", error)

    def _end_input(self, item: LocalInput, outcome: bytes) -> None:
        if item.ended:
            return
        item.ended = True
        self._running.remove(item)
        self._tell(item.call, Event(item.index, outcome))
        self._start_pending()
        self._changed.notify_all()

    def _give_up(self, item: LocalInput, error: Exception) -> None:
        """End an input for its caller, and interrupt what runs it; the lock is held."""
        self._end_input(item, self._failure(item, error))
        self._interrupt(item)

    def _interrupt(self, item: LocalInput) -> None:
        if item.batch is not None:
            if not all(each.ended for each in item.batch):
                return  # the others go on
            item = item.batch[0]
        item.given_up.set()
        for call, waiting in self._open.items():
            for put, owner in waiting:
                if owner is item:
                    put(Event(-1, None, f"cancelled: {call}"))
        if item.task is not None:
            with contextlib.suppress(RuntimeError):  # its loop has just ended
                item.task.get_loop().call_soon_threadsafe(item.task.cancel)
        elif not item.function.is_async:
            _raise_in(item)
            self._interrupted.append((time.monotonic() + SWALLOWED_SECONDS, item))
            self._done.put(None)
            if item.window is not None:
                item.window.wake()

    def end(self) -> None:
        """Cancel what is left and interrupt what runs."""
        with self._lock:
            self._ended = True
            left = list(self._running)
            for queue in self._queues.values():
                queue.clear()
            self._waiting.clear()
            for item in left:
                self._give_up(item, InputCancelledError(f"{item.id} was cancelled: the local run is over"))
            for put, _ in chain.from_iterable(self._open.values()):
                put(Event(-1, None, "cancelled"))
            self._changed.notify_all()
            self._done.put(None)
        deadline = time.monotonic() + LEAVE_SECONDS
        for item in left:
            if item.thread is not None and item.thread is not threading.current_thread():
                item.thread.join(max(0.0, deadline - time.monotonic()))
        self._objects.end()


def _raise_in(item: LocalInput) -> None:
    """Interrupt the thread that runs an input, unless it is done with it."""
    with item.gate:  # the thread can't end meanwhile, and leave its number to another one
        if item.interruptible is not None:
            thread = ctypes.c_ulong(item.interruptible)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(InputCancellation))


@contextlib.contextmanager
def local(*, threads: int = 8) -> Iterator[LocalRun]:
    """Run all calls of this process in its own threads, at most ``threads`` inputs at once, without Redis or a secret.

    Celery's own calls (``delay``, ``apply_async``, canvases) run at once in the caller's thread, those of plain tasks
    in the same Celery app too (``task_always_eager``). Everything is as before at the end of the block.
    """
    run = LocalRun(threads=threads)
    run_here, twin = function_module.run_here, use_twin(run)
    function_module.run_here = run.run_here
    try:
        yield run
    finally:
        function_module.run_here = run_here
        use_twin(twin)
        run.end()
