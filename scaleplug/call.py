"""A spawned call: wait for it, cancel it, find it again from another process."""

from __future__ import annotations

import asyncio
import builtins
import queue
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from functools import partial
from importlib import import_module
from typing import Any, Generic, ParamSpec, TypeVar

from scaleplug.abc import Caller, Event, Look
from scaleplug.errors import InputCancelledError, InvalidError, NotFoundError, OutputExpiredError
from scaleplug.loops import Wakeups, wakeups, warn_if_blocking
from scaleplug.settings import check_count

R = TypeVar("R")
P = ParamSpec("P")
T = TypeVar("T")
BATCH = 500
"""Most results that an iterator over a call holds."""
LINGER = 0.005
"""Seconds from one look of such an iterator to the next, unless there is more than it holds."""
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


class IterMethod(Generic[P, T]):
    """A method that gives an iterator, with its asynchronous one at ``.aio``."""

    def __init__(self, blocking: Callable[P, Iterator[T]], aio: Callable[P, AsyncIterator[T]]) -> None:
        self._blocking = blocking
        self.aio = aio
        self.__doc__ = blocking.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        """Return the iterator; it blocks where it waits."""
        return self._blocking(*args, **kwargs)


class Outcomes:
    """The events of one call, for a thread or for an event loop to wait on.

    One that is ``led`` has one event, and :meth:`lead` waits for it.
    """

    def __init__(self, caller: Caller, call: str, *, led: bool = False) -> None:
        self.caller, self.call = caller, call
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._wakeups: Wakeups | None = None
        self._waiting: asyncio.Future[None] | None = None
        caller.open(call, self._put, led=led)

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
            if timeout is not None and timeout <= 0:
                return self._events.get_nowait()
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def lead(self) -> Event:
        """Return the event, which this thread fetches itself if no other does so already."""
        self.caller.lead(self.call, self._events.empty)
        return self._events.get()

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
        while not self._events.empty():
            event = self.get(0)
            if event is not None and event.large:
                self.caller.drop(event)


async def read_async(caller: Caller, call: str, event: Event) -> tuple[bool, Any]:
    """Do what ``Caller.read`` does; a large outcome is read off the event loop."""
    if event.large:  # one takes seconds, and what else is to be sent must not wait for it
        return await asyncio.to_thread(caller.read, call, event)
    if event.outcome is not None and len(event.outcome) > LARGE:
        return await caller.soon(partial(caller.read, call, event))
    return caller.read(call, event)


async def finish_cancelling(cancelling: asyncio.Future[None]) -> None:
    """Wait until a call is cancelled, but not for a Redis that doesn't answer."""
    cancelling.add_done_callback(lambda future: future.cancelled() or future.exception())  # that under way says more
    await asyncio.wait([cancelling], timeout=CANCEL_SECONDS)


class FunctionCall(Generic[R]):
    """A call made with ``spawn`` or ``spawn_map``; its results are kept for ``SCALEPLUG_RESULT_TTL`` seconds."""

    def __init__(
        self, call_id: str, caller: Callable[[], Caller], function: str = "", inputs: int | None = None
    ) -> None:
        self.object_id = call_id
        self._caller, self._function, self._inputs = caller, function, inputs

    # Made when they are asked for: what is spawned by the thousand holds no circle that only the collector can break.

    @property
    def get(self) -> Method[..., R]:
        """Wait for an input's result and return it, or raise its exception."""
        return Method(self._get, self._get_aio)

    @property
    def iter(self) -> IterMethod[..., R]:
        """Give the results of the inputs in their order, as they come."""
        return IterMethod(self._iter, self._iter_aio)

    @property
    def num_inputs(self) -> Method[[], int]:
        """Return how many inputs the call has."""
        return Method(self._num_inputs, self._num_inputs_aio)

    @property
    def cancel(self) -> Method[..., None]:
        """Cancel the call: what is pending vanishes, what runs is interrupted."""
        return Method(self._cancel, self._cancel_aio)

    def __repr__(self) -> str:
        return f"FunctionCall.from_id({self.object_id!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_id, (self.object_id,)

    @staticmethod
    def from_id(function_call_id: str) -> FunctionCall[Any]:
        """Return the call with this id, from any process that shares the Redis and the secret; asks nothing yet."""
        return _from_id(function_call_id)

    # -- results ---------------------------------------------------------------------------------------------------

    def _get(self, timeout: float | None = None, *, index: int = 0) -> R:
        """Return an input's result, raise its exception, or raise the builtin TimeoutError after ``timeout`` seconds.

        ``timeout=0`` looks once. Raises OutputExpiredError when the result is no longer kept, or nothing is known of
        the call.
        """
        check_count("index", index, 0)
        _check_timeout(timeout)
        outcomes = Outcomes(self._caller(), self.object_id)
        try:
            (event,) = self._wait(outcomes, index, 1, timeout)
        finally:
            outcomes.close()
        return self._value(outcomes.caller.read(self.object_id, event))

    async def _get_aio(self, timeout: float | None = None, *, index: int = 0) -> R:
        check_count("index", index, 0)
        _check_timeout(timeout)
        outcomes = await Outcomes.open(self._caller(), self.object_id)
        try:
            (event,) = await self._wait_aio(outcomes, index, 1, timeout)
        finally:
            outcomes.close()
        return self._value(await read_async(outcomes.caller, self.object_id, event))

    def _iter(self, *, start: int = 0, end: int | None = None) -> Iterator[R]:
        """Give the results of the inputs ``start`` to ``end`` (not included) in their order, as they come.

        An input's exception is raised in its place, and ends the iterator: another one may begin after it.
        """
        return self._results(*self._range(start, end, self._num_inputs()))

    def _results(self, start: int, end: int) -> Iterator[R]:
        warn_if_blocking("iter", 3, iterated=True)  # the frame that asks for the first result
        outcomes = Outcomes(self._caller(), self.object_id)
        try:
            while start < end:
                looked, most = time.monotonic(), min(BATCH, end - start)
                events = self._wait(outcomes, start, most)
                for event in events:
                    start += 1
                    yield self._value(outcomes.caller.read(self.object_id, event))
                if len(events) < most:  # so that those that come one by one are read in batches
                    time.sleep(max(0.0, looked + LINGER - time.monotonic()))
        finally:
            outcomes.close()

    async def _iter_aio(self, *, start: int = 0, end: int | None = None) -> AsyncIterator[R]:
        start, end = self._range(start, end, await self._num_inputs_aio())
        outcomes = await Outcomes.open(self._caller(), self.object_id)
        try:
            while start < end:
                looked, most = time.monotonic(), min(BATCH, end - start)
                events = await self._wait_aio(outcomes, start, most)
                for event in events:
                    start += 1
                    yield self._value(await read_async(outcomes.caller, self.object_id, event))
                if len(events) < most:
                    await asyncio.sleep(max(0.0, looked + LINGER - time.monotonic()))
        finally:
            outcomes.close()

    def _range(self, start: int, end: int | None, inputs: int) -> tuple[int, int]:
        check_count("start", start, 0)
        last = inputs if end is None else check_count("end", end, 0)
        if not start <= last <= inputs:
            raise InvalidError(
                f"{start} to {last} is no range of the inputs of {self.object_id}: "
                f"num_inputs() is {inputs}, so use 0 <= start <= end <= {inputs}"
            )
        return start, last

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _wait(self, outcomes: Outcomes, index: int, most: int, timeout: float | None = None) -> Sequence[Event]:
        """Return the ends of inputs from ``index`` on: at least one, and no more than are there."""
        deadline = None if timeout is None else time.monotonic() + timeout
        events = self._look(outcomes.caller, index, most, watch=timeout != 0, patience=timeout)
        while not events:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise self._not_yet(index, timeout)
            event = outcomes.get(_slice(left))
            if event is None:
                events = self._look(outcomes.caller, index, most, watch=True, patience=left)
            elif event.index in (index, -1):  # others in this process may wait for other inputs
                events = (event,)
        return events

    async def _wait_aio(
        self, outcomes: Outcomes, index: int, most: int, timeout: float | None = None
    ) -> Sequence[Event]:
        deadline = None if timeout is None else time.monotonic() + timeout
        caller = outcomes.caller
        events = await caller.soon(partial(self._look, caller, index, most, watch=timeout != 0, patience=timeout))
        while not events:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise self._not_yet(index, timeout)
            event = await outcomes.get_async(_slice(left))
            if event is None:
                events = await caller.soon(partial(self._look, caller, index, most, watch=True, patience=left))
            elif event.index in (index, -1):
                events = (event,)
        return events

    def _look(
        self, caller: Caller, index: int, most: int, *, watch: bool, patience: float | None = None
    ) -> Sequence[Event]:
        look = caller.look(self.object_id, watch=watch, index=index, most=most, patience=patience)
        if look.events:
            return look.events
        if look.function and index >= look.inputs:
            raise InvalidError(
                f"index {index} is none of {self.object_id}: num_inputs() is {look.inputs}, and the first index is 0"
            )
        if look.cancelled and not look.over:
            raise InputCancelledError(f"{self.object_id} was cancelled")
        if not look.function or look.over:
            raise self._expired(look)
        return ()

    def _expired(self, look: Look) -> OutputExpiredError:
        if look.function:
            return OutputExpiredError(
                f"what came of {self.object_id} is no longer kept: SCALEPLUG_RESULT_TTL says for how long it is"
            )
        return OutputExpiredError(
            f"nothing is known of {self.object_id}: its result is no longer kept, or it never was"
        )

    def _not_yet(self, index: int, timeout: float | None) -> builtins.TimeoutError:
        which = f"input {index} of {self.object_id}" if index else self.object_id
        return builtins.TimeoutError(f"{which} has no result yet after {timeout:g} s")

    def _value(self, found: tuple[bool, Any]) -> R:
        ok, value = found
        if not ok:
            raise value
        return value  # type: ignore[no-any-return]

    # -- the call ----------------------------------------------------------------------------------------------------

    def _num_inputs(self) -> int:
        """Return how many inputs the call has: 1 of ``spawn``."""
        if self._inputs is not None:
            return self._inputs
        look = self._caller().look(self.object_id, watch=False)
        if not look.function:
            raise self._expired(look)
        return look.inputs

    async def _num_inputs_aio(self) -> int:
        return await self._caller().soon(self._num_inputs) if self._inputs is None else self._inputs

    def _cancel(self, terminate_containers: bool = False) -> None:
        """Cancel the call: pending inputs vanish, running ones are interrupted; finished ones stay as they are.

        Containers live on: ``terminate_containers`` may only be False.
        """
        if terminate_containers is not False:
            raise InvalidError(
                f"terminate_containers must be False, not {terminate_containers!r}: running inputs are interrupted, "
                "and the function's timeout ends what resists"
            )
        caller = self._caller()
        look = caller.look(self.object_id, watch=False)
        if look.over or look.cancelled:
            return
        function = look.function or self._function
        if not function:
            raise NotFoundError(f"nothing is known of {self.object_id}: it can't be cancelled")
        caller.cancel(function, self.object_id, tell=True)

    async def _cancel_aio(self, terminate_containers: bool = False) -> None:
        await self._caller().soon(partial(self._cancel, terminate_containers))

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


def _check_timeout(timeout: object) -> None:
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0):
        raise InvalidError(
            f"timeout must be a number of seconds, 0 to look once or None to wait as long as it takes, not {timeout!r}"
        )


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
