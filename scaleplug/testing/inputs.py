"""What a local run knows of each input, and what a test wants to happen to it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import cloudpickle
from celery.exceptions import TaskPredicate

from scaleplug import around
from scaleplug.abc import CallKind, Event, Look
from scaleplug.blobs import check_size
from scaleplug.errors import (
    ContainerCrashError,
    InputCancellation,
    InvalidError,
    NotFoundError,
    SerializationError,
    note_attempts,
)
from scaleplug.function import Function
from scaleplug.pools import with_options
from scaleplug.serializer import pickle_call
from scaleplug.settings import FunctionSettings, process_config
from scaleplug.streams import Window

AnyFunction = Function[Any, Any]


@dataclass(frozen=True, slots=True)
class SentInput:
    """One input as it was sent; ``runs`` counts how often it was begun: 0 when it never was."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    runs: int


@dataclass(frozen=True, slots=True)
class Orders:
    """What is to happen in one run of an input."""

    delay: float = 0.0
    error: BaseException | type[BaseException] | None = None
    crash: bool = False
    stub: Callable[..., Any] | None = None


@dataclass(slots=True)
class Plan:
    """What a test wants to happen to a function's inputs; the counts say how often still, ``None`` for always."""

    delay: float = 0.0
    error: BaseException | type[BaseException] | None = None
    errors: int | None = 0
    crashes: int = 0
    stub: Callable[..., Any] | None = None

    def next_orders(self) -> Orders:
        """Return what is to happen in the next run."""
        error = None if self.errors == 0 else self.error
        crash = error is None and self.crashes > 0
        if error is not None and self.errors is not None:
            self.errors -= 1
        if crash:
            self.crashes -= 1
        return Orders(self.delay, error, crash, self.stub)


@dataclass(slots=True, eq=False)
class LocalInput:
    """One input."""

    function: AnyFunction
    call: str
    index: int
    payload: bytes
    id: str = ""
    number: int = 0  # its place among all inputs
    runs: int = 0
    attempts: int = 0  # those of its runs that count for crashes: since it was last retried
    retried: int = 0
    retry_in: float | None = None  # seconds after which it runs again instead of ending
    waits: int = 0  # calls of its own that it waits for
    deadline: float = 0.0
    ended: bool = False
    given_up: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    interruptible: int | None = None  # its thread's number, while that runs the function
    gate: threading.Lock = field(default_factory=threading.Lock)  # held while that changes or is used
    orders: Orders = field(default_factory=Orders)
    task: asyncio.Task[Any] | None = None  # runs it, when it is async
    window: Window | None = None  # of a generator function
    made_at: float = field(default_factory=time.monotonic)
    batch: list[LocalInput] | None = None  # those it runs with


@dataclass(slots=True)
class Spawned:
    """What is known of a spawned call."""

    function: str
    inputs: int = 0
    open: bool = False  # more inputs may come
    cancelled: bool = False
    events: dict[int, Event] = field(default_factory=dict)
    over_at: float | None = None  # when the last of its inputs had ended

    def put(self, event: Event) -> None:
        """Note the end of an input."""
        self.events.setdefault(event.index, event)
        self.settle()

    def settle(self) -> None:
        """Note when all inputs have ended."""
        if self.over_at is None and not self.open and len(self.events) >= self.inputs:
            self.over_at = time.monotonic()

    def look(self, index: int, most: int, keep: float) -> Look:
        """Return what is known, results for ``keep`` seconds after the last end."""
        if self.over_at is not None and time.monotonic() > self.over_at + keep:
            self.events.clear()
        ends: list[Event] = []
        while len(ends) < most and index + len(ends) in self.events:
            ends.append(self.events[index + len(ends)])
        return Look(self.function, self.inputs, self.over_at is not None, self.cancelled, ends)


class CrashError(BaseException):
    """Stands for the death of a container."""


current: ContextVar[LocalInput | None] = ContextVar("scaleplug_testing_input", default=None)


def full_name(function: AnyFunction | str, known: Iterable[AnyFunction]) -> str:
    """Return the full name of a Function, or of the one in ``known`` that is called so; raises NotFoundError."""
    if isinstance(function, Function):
        return function.here().input_name
    found = sorted({each.title for each in known if function in (each.name, each.title)})
    if not found:
        raise NotFoundError(f"this process has no function {function!r}: import the module that defines it")
    if len(found) > 1:
        raise InvalidError(f"{function!r} may be any of {', '.join(found)}: use the full name")
    return found[0]


def make(
    function: AnyFunction, call: str, kind: CallKind, index: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> LocalInput:
    """Return the input of a call; raises the TypeError of a plain call, and SerializationError."""
    if function.task.typing:
        function.task.__header__(*args, **kwargs)
    payload = pickle_call(function.full_name, args, dict(kwargs))
    check_size(f"an argument of {function.full_name}", len(payload), process_config().max_payload)
    return LocalInput(function, call, index, payload, id=f"{call}:{index}" if kind in ("map", "spawn_map") else call)


def settings_of(function: AnyFunction) -> FunctionSettings:
    """Return a function's settings with the options of the variant that it is."""
    return with_options(function.settings, function.options) if function.options else function.settings


def again(item: LocalInput) -> LocalInput:
    """Return the input as it waits for a retry; what still runs of the old one changes nothing."""
    return LocalInput(
        item.function, item.call, item.index, item.payload, id=item.id, number=item.number, runs=item.runs,
        retried=item.retried + 1,
    )  # fmt: skip


def retry_delay(item: LocalInput, exc: BaseException) -> float | None:
    """Return the seconds until a failed input runs again, ``None`` when it does not: then its error tells so."""
    own = isinstance(exc, (TaskPredicate, InputCancellation))  # no failures
    delay = None if own else settings_of(item.function).retry_delay(item.retried)
    if delay is None and not own:
        note_attempts(exc, item.retried + 1)
    return delay


def loads(name: str, payload: bytes) -> Any:
    """Return an input's ``(args, kwargs)``; raises SerializationError."""
    try:
        return cloudpickle.loads(payload)
    except Exception as exc:
        raise SerializationError(f"an argument of {name} can't be unpickled: {type(exc).__name__}: {exc}") from exc


async def noted(item: LocalInput, coroutine: Any) -> Any:
    """Run an async input so that it can be interrupted."""
    item.task = asyncio.current_task()
    if item.ended:
        coroutine.close()
        raise InputCancellation
    return await coroutine


def crashed(item: LocalInput) -> ContainerCrashError:
    """Return the error of an input that took too many containers down."""
    return ContainerCrashError(
        f"the input took its container of {item.function.full_name} down {item.attempts} times"
        " (the last time: killed by SIGKILL): it is not tried again"
    )


def own_frames_off(exc: BaseException) -> TracebackType | None:
    """Return the traceback without this package's frames at its outer end."""
    traceback, here = exc.__traceback__, (str(Path(__file__).parent), around.__file__, contextlib.__file__)
    while traceback is not None and traceback.tb_next is not None:
        if not traceback.tb_frame.f_code.co_filename.startswith(here):
            break
        traceback = traceback.tb_next
    return traceback
