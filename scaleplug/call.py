"""A spawned call: wait for it, cancel it, find it again from another process."""

from __future__ import annotations

import asyncio
import builtins
import queue
import time
from collections.abc import Callable, Coroutine
from functools import partial
from importlib import import_module
from typing import Any, Generic, ParamSpec, TypeVar

from scaleplug.abc import Caller, Event
from scaleplug.errors import InputCancelledError, InvalidError, NotFoundError, OutputExpiredError
from scaleplug.loops import Wakeups, wakeups, warn_if_blocking

R = TypeVar("R")
P = ParamSpec("P")
T = TypeVar("T")

LARGE = 64_000
"""Outcomes of so many bytes are read off the event loop."""
CANCEL_SECONDS = 5.0
"""How long a cancelled task waits for its input to be cancelled too, which happens in any case."""


class Method(Generic[P, T]):
    """A blocking method with its coroutine at ``.aio``; an event loop that it would block is told so.

    ``_get`` makes a method that users know as ``get``.
    """

    def __init__(self, blocking: Callable[P, T], aio: Callable[P, Coroutine[Any, Any, T]]) -> None:
        self._blocking = blocking
        self.aio = aio
        self.__doc__ = blocking.__doc__
        self.__name__ = str(getattr(blocking, "__name__", "")).lstrip("_")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Block until it is done."""
        warn_if_blocking(self.__name__, 3)
        return self._blocking(*args, **kwargs)


class Outcomes:
    """The events of one call, for a thread or for an event loop to wait on."""

    def __init__(self, caller: Caller, call: str) -> None:
        self.caller, self.call = caller, call
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._wakeups: Wakeups | None = None
        self._waiting: asyncio.Future[None] | None = None
        caller.open(call, self._put)

    @classmethod
    async def open(cls, caller: Caller, call: str) -> Outcomes:
        """Return the events of a call for the running loop."""
        outcomes = cls(caller, call)
        outcomes._wakeups = wakeups()
        return outcomes

    def _put(self, event: Event) -> None:
        self._events.put(event)
        self.wake()

    def wake(self) -> None:
        """Let an event loop that waits look again; from any thread."""
        if self._wakeups is not None:
            self._wakeups.call(self._wake_here)

    def _wake_here(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def get(self, timeout: float | None = None) -> Event | None:
        """Return the next event, ``None`` after ``timeout`` seconds."""
        try:
            return self._events.get(timeout is None or timeout > 0, timeout)
        except queue.Empty:
            return None

    async def get_async(self, timeout: float | None = None) -> Event | None:
        """Return the next event without blocking the loop, ``None`` after ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (event := self.get(0)) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            await self.wait(left)
        return event

    async def wait(self, timeout: float | None = None) -> None:
        """Return when there is an event, when woken, or after ``timeout`` seconds; without blocking the loop."""
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        # From here on an event ends the wait; one that came before is there.
        timer = None if timeout is None else loop.call_later(timeout, self._wake_here)
        try:
            if self._events.empty():
                await self._waiting
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()

    def close(self) -> None:
        """Stop waiting."""
        self.caller.close(self.call)
        while (event := self.get(0)) is not None:
            if event.large:
                self.caller.drop(event)


async def read_async(caller: Caller, call: str, event: Event) -> tuple[bool, Any]:
    """Do what ``Caller.read`` does; a large outcome is read off the event loop."""
    if event.large:  # in a thread of its own: reading it takes long, and the others' calls must not wait for that
        return await asyncio.to_thread(caller.read, call, event)
    if event.outcome is not None and len(event.outcome) > LARGE:
        return await caller.soon(partial(caller.read, call, event))
    return caller.read(call, event)


async def finish_cancelling(cancelling: asyncio.Future[None]) -> None:
    """Wait until a call is cancelled, but not for a Redis that doesn't answer."""
    cancelling.add_done_callback(lambda future: future.cancelled() or future.exception())  # that under way says more
    await asyncio.wait([cancelling], timeout=CANCEL_SECONDS)


class FunctionCall(Generic[R]):
    """A call made with ``spawn``; its result is kept for ``SCALEPLUG_RESULT_TTL`` seconds."""

    def __init__(self, call_id: str, caller: Callable[[], Caller], function: str = "") -> None:
        self.object_id = call_id
        self._caller, self._function = caller, function
        self.get: Method[..., R] = Method(self._get, self._get_aio)
        self.cancel: Method[[], None] = Method(self._cancel, self._cancel_aio)

    def __repr__(self) -> str:
        return f"FunctionCall.from_id({self.object_id!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_id, (self.object_id,)

    @staticmethod
    def from_id(function_call_id: str) -> FunctionCall[Any]:
        """Return the call with this id, from any process that shares the Redis and the secret; asks nothing yet."""
        return _from_id(function_call_id)

    def _get(self, timeout: float | None = None) -> R:
        """Return the result, raise its exception, or raise the builtin TimeoutError after ``timeout`` seconds.

        ``timeout=0`` looks once. Raises OutputExpiredError when nothing is known of the call any more.
        """
        outcomes = Outcomes(self._caller(), self.object_id)
        try:
            deadline = None if timeout is None else time.monotonic() + timeout
            event = self._look(outcomes.caller, watch=timeout != 0)
            while event is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise self._not_yet(timeout)
                event = outcomes.get(_slice(left)) or self._look(outcomes.caller, watch=True)
        finally:
            outcomes.close()
        return self._value(outcomes.caller.read(self.object_id, event))

    async def _get_aio(self, timeout: float | None = None) -> R:
        outcomes = await Outcomes.open(self._caller(), self.object_id)
        try:
            deadline = None if timeout is None else time.monotonic() + timeout
            event = await outcomes.caller.soon(partial(self._look, outcomes.caller, watch=timeout != 0))
            while event is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise self._not_yet(timeout)
                event = await outcomes.get_async(_slice(left))
                if event is None:
                    event = await outcomes.caller.soon(partial(self._look, outcomes.caller, watch=True))
        finally:
            outcomes.close()
        return self._value(await read_async(outcomes.caller, self.object_id, event))

    def _look(self, caller: Caller, *, watch: bool) -> Event | None:
        look = caller.look(self.object_id, watch=watch)
        if look.event is not None:
            return look.event
        if look.cancelled:
            raise InputCancelledError(f"{self.object_id} was cancelled")
        if not look.function:
            raise OutputExpiredError(
                f"nothing is known of {self.object_id}: its result is no longer kept, or it never was"
            )
        return None

    def _not_yet(self, timeout: float | None) -> builtins.TimeoutError:
        return builtins.TimeoutError(f"{self.object_id} has no result yet after {timeout:g} s")

    def _value(self, found: tuple[bool, Any]) -> R:
        ok, value = found
        if not ok:
            raise value
        return value  # type: ignore[no-any-return]

    def _cancel(self) -> None:
        """Cancel the call: a pending input vanishes, a running one is interrupted; a finished one stays as it is."""
        caller = self._caller()
        look = caller.look(self.object_id, watch=False)
        if look.event is not None or look.cancelled:
            return
        function = self._function or look.function
        if not function:
            raise NotFoundError(f"nothing is known of {self.object_id}: it can't be cancelled")
        caller.cancel(function, self.object_id, tell=True)

    async def _cancel_aio(self) -> None:
        await self._caller().soon(self._cancel)

    @staticmethod
    def _gather(*calls: FunctionCall[Any]) -> list[Any]:
        """Return the results in the order of the calls; the first failure is raised, the others go on."""
        return [call._get() for call in _checked(calls)]  # noqa: SLF001  # its own

    @staticmethod
    async def _gather_aio(*calls: FunctionCall[Any]) -> list[Any]:
        waiting = [asyncio.ensure_future(call.get.aio()) for call in _checked(calls)]
        try:
            return list(await asyncio.gather(*waiting))
        finally:
            for task in waiting:
                task.cancel()  # nobody waits any more; the calls themselves go on

    gather = Method(_gather, _gather_aio)


def _slice(left: float | None) -> float:
    # The event is a hint and the look is the truth: look again now and then.
    return 10.0 if left is None else min(left, 10.0)


def _checked(calls: tuple[FunctionCall[Any], ...]) -> tuple[FunctionCall[Any], ...]:
    for call in calls:
        if not isinstance(call, FunctionCall):
            raise InvalidError(f"gather takes FunctionCalls, not {call!r}: use gather(*calls) for a list of them")
    return calls


def _from_id(call_id: str) -> FunctionCall[Any]:
    if not isinstance(call_id, str) or not call_id:  # type: ignore[redundant-expr]  # users needn't run a type checker
        raise InvalidError(f"function_call_id must be an id such as 'fc-...', not {call_id!r}")
    return FunctionCall(call_id, lambda: import_module("scaleplug.app").any_caller())
