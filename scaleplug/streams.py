"""Streams: the items of a generator function reach its caller while it runs, in order, a bounded number ahead of it.

Items travel in *parts*: what has gathered while the part before was sent. A producer may be a window ahead of its
consumer, who grants the parts it has begun to read. The end comes as the outcome of the input, and says how many items
there were, so that none can be missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle as plain_pickle
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from queue import SimpleQueue
from typing import Any, Final, Generic, ParamSpec, TypeVar
from uuid import uuid4

from scaleplug.abc import Caller, Event, FunctionRef
from scaleplug.call import Outcomes
from scaleplug.errors import ContainerCrashError, ExecutionError
from scaleplug.loops import warn_if_blocking
from scaleplug.serializer import pickle

P = ParamSpec("P")
R = TypeVar("R")

WINDOW_ITEMS: Final = 1_000
WINDOW_BYTES: Final = 1 << 20
"""A producer waits when it is this far ahead; the item that crosses the line still goes out."""
PART_ITEMS: Final = WINDOW_ITEMS // 4
PART_BYTES: Final = WINDOW_BYTES // 4
GRANT_SECONDS: Final = 1.0
"""How long a grant that could not be sent waits for the next try."""
_PLAIN: Final = frozenset({int, float, bool, str, bytes, type(None)})


class StreamMethod(Generic[P, R]):
    """``f.remote_gen(...)``: run a generator function in a container, and get its items while it runs.

    The call is sent when the first item is asked for; leaving the generator early cancels it.
    """

    def __init__(
        self,
        function: FunctionRef,
        caller: Callable[[], Caller],
        check: Callable[[tuple[Any, ...], Mapping[str, Any]], None],
    ) -> None:
        self._function, self._caller, self._check = function, caller, check

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return a generator of the items."""
        self._check(args, kwargs)
        return receive(self._function, self._caller, args, kwargs)  # type: ignore[return-value]  # R yields the items

    def aio(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Any]:
        """Return an async generator of the items."""
        self._check(args, kwargs)
        return receive_async(self._function, self._caller, args, kwargs)


# -- the caller's side ---------------------------------------------------------------------------------------------


class _Arrivals:
    """What has come of one stream, checked and counted."""

    def __init__(self, caller: Caller, function: str, call: str) -> None:
        self.caller, self.function, self.call = caller, function, call
        self.ended = False
        self.returned: Any = None
        self._next, self._attempt, self._items = 0, 0, 0
        self._unsaid_items = self._unsaid_bytes = 0
        self._granted = False

    def open(self, event: Event | None) -> list[bytes]:
        """Return the pickled items of a part; raises what ended the stream."""
        if event is None:
            return []
        if event.part is None:
            self._end(event)
            return []
        if self._next and event.attempt != self._attempt:
            raise ExecutionError(f"the stream of {self.function} began anew after {self._items:,} items")
        if event.part < self._next:
            return []  # its sender could not know that it had arrived
        if event.part > self._next:
            raise ExecutionError(f"part {self._next} of the stream of {self.function} is missing")
        ok, items = self.caller.read(self.call, event)
        if not ok:
            raise items
        self._next, self._attempt = self._next + 1, event.attempt
        self._items += len(items)
        self._unsaid_items += len(items)
        self._unsaid_bytes += sum(map(len, items))
        return items  # type: ignore[no-any-return]

    def _end(self, event: Event) -> None:
        ok, value = self.caller.read(self.call, event)
        # What isn't a container's own word may be wrong, and the input may still run: then it is cancelled.
        self.ended = event.outcome is not None and not isinstance(value, ExecutionError)
        if not ok:
            raise value
        items, self.returned = value
        if items != self._items:
            raise ExecutionError(f"{self._items:,} of {items:,} items of the stream of {self.function} have arrived")

    @property
    def owes(self) -> bool:
        """Whether the producer should hear now how far this is."""
        return self._unsaid_items >= PART_ITEMS or self._unsaid_bytes >= PART_BYTES

    @property
    def patience(self) -> float | None:
        """Seconds to wait for the next event."""
        return GRANT_SECONDS if self.owes else None

    def grant(self) -> None:
        """Let the producer go on; what can't be said now stays to be said."""
        if self.caller.grant(self.call, self._next - 1):
            self._granted = True
            self._unsaid_items = self._unsaid_bytes = 0

    def leave(self) -> None:
        """Cancel what is left."""
        with contextlib.suppress(Exception):  # the reason for leaving says more
            if not self.ended:
                self.caller.cancel(self.function, self.call, tell=False)
            if self._granted:
                self.caller.grant(self.call, None)


def receive(
    function: FunctionRef, make_caller: Callable[[], Caller], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Generator[Any, None, Any]:
    """Call a generator function and yield its items as they come."""
    warn_if_blocking("remote_gen", 3, iterated=True)  # the frame that asks for the first item
    caller, call = make_caller(), f"fc-{uuid4().hex}"
    outcomes, arrivals = Outcomes(caller, call), _Arrivals(caller, function.full_name, call)
    try:
        caller.send(function, call, [(0, args, kwargs)], kind="stream")
        while not arrivals.ended:
            items = arrivals.open(outcomes.get(arrivals.patience))
            if arrivals.owes:
                arrivals.grant()
            for item in items:
                yield _load(item, function.full_name)
        return arrivals.returned
    finally:
        arrivals.leave()
        outcomes.close()


async def receive_async(
    function: FunctionRef, make_caller: Callable[[], Caller], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> AsyncIterator[Any]:
    """Do the same for an event loop."""
    caller, call = await asyncio.to_thread(make_caller), f"fc-{uuid4().hex}"
    outcomes, arrivals = await Outcomes.open(caller, call), _Arrivals(caller, function.full_name, call)
    try:
        await asyncio.to_thread(caller.send, function, call, [(0, args, kwargs)], kind="stream")
        while not arrivals.ended:
            event = await outcomes.get_async(arrivals.patience)
            large = event is not None and event.large  # what a generator returned at its end
            items = await asyncio.to_thread(arrivals.open, event) if large else arrivals.open(event)
            if arrivals.owes:
                await asyncio.to_thread(arrivals.grant)
            for item in items:
                yield _load(item, function.full_name)
    finally:
        await asyncio.shield(asyncio.to_thread(arrivals.leave))
        outcomes.close()


def _load(item: bytes, function: str) -> Any:
    try:
        return plain_pickle.loads(item)
    except Exception as exc:
        raise ExecutionError(
            f"an item of the stream of {function} could not be unpickled here: {type(exc).__name__}: {exc}"
        ) from exc


# -- the producer's side: a container, or its twin -----------------------------------------------------------------


def dump(item: Any, function: str) -> bytes:
    """Return an item pickled, so that the function may go on to change it."""
    if type(item) in _PLAIN:
        return plain_pickle.dumps(item, plain_pickle.HIGHEST_PROTOCOL)  # twenty times as fast
    return pickle(item, f"an item that {function} yielded")


def drain(generator: Any, put: Callable[[Any], None]) -> Any:
    """Give every item of a generator to ``put``, close it in any case, and return what it returns."""
    items = iter(generator)
    try:
        while True:
            try:
                item = next(items)
            except StopIteration as stop:
                return stop.value
            put(item)
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


async def drain_async(generator: Any, put: Callable[[Any], Awaitable[None]]) -> None:
    """Do the same with an async generator."""
    async with contextlib.aclosing(generator) as items:
        async for item in items:
            await put(item)


def broken(function: str, items: int, why: str) -> ContainerCrashError:
    """Return the error of a stream whose container died under it."""
    return ContainerCrashError(
        f"the container of {function} died ({why or 'unknown'}) when {items:,} items of its stream had been sent:"
        " they can't be taken back, so it is not run again"
    )


class Window:
    """How far a producer is ahead of its consumer. One thread adds and waits; others may grant and wake it.

    The thread that waits may be interrupted by an exception at any moment, so there is no lock that it could leave
    locked.
    """

    def __init__(self) -> None:
        self.items = 0
        """Items added so far."""
        self._bytes = self._granted_items = self._granted_bytes = 0
        self._parts: deque[tuple[int, int, int]] = deque()
        self._waits = False
        self._tokens: SimpleQueue[None] = SimpleQueue()
        self._room: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    @property
    def full(self) -> bool:
        """Whether the producer has to wait."""
        ahead, size = self.items - self._granted_items, self._bytes - self._granted_bytes
        return ahead >= WINDOW_ITEMS or size >= WINDOW_BYTES

    def add(self, size: int) -> None:
        """Count an item."""
        self.items += 1
        self._bytes += size

    def sent(self, part: int, items: int, size: int) -> None:
        """Note what a part holds, before it can be granted."""
        self._parts.append((part, items, size))

    def grant(self, part: int) -> None:
        """Count everything up to ``part`` as read."""
        while self._parts and self._parts[0][0] <= part:
            _, items, size = self._parts.popleft()
            self._granted_items += items
            self._granted_bytes += size
        self.wake()

    def wake(self) -> None:
        """Let the producer look again."""
        if not self._waits:
            return
        self._waits = False
        if self._room is None:
            self._tokens.put(None)
            return
        loop, room = self._room
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(room.set)

    def wait(self) -> None:
        """Return when there is room."""
        while self.full:
            self._waits = True
            if self.full:  # it may have changed before anybody could know that somebody waits
                self._tokens.get()

    async def wait_async(self) -> None:
        """Return when there is room; the loop goes on meanwhile."""
        _, room = self._room = (asyncio.get_running_loop(), asyncio.Event())
        while self.full:
            room.clear()
            self._waits = True
            if self.full:
                await room.wait()
