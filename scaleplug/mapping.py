"""``map``: send inputs as fast as they can be taken, give back results in order, hold a bounded number of both."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import uuid4

from scaleplug.abc import Caller, Event, FunctionRef, Input
from scaleplug.blobs import LARGE, weigh_call
from scaleplug.call import Outcomes, finish_cancelling, read_async
from scaleplug.errors import ExecutionError, InvalidError, UserCodeException
from scaleplug.inputs import Inputs, Row
from scaleplug.loops import blocks_loop
from scaleplug.serializer import open_part

logger = logging.getLogger("scaleplug")

R = TypeVar("R")
CHUNK = 100
CHUNK_BYTES, WINDOW_BYTES = 32 * 1024 * 1024, 256 * 1024 * 1024
"""No more input is read into a chunk, or into the window, that holds as much."""
LINGER = 0.005
"""Seconds an input may wait in the caller for others to travel with it."""

active: weakref.WeakSet[Map[Any]] = weakref.WeakSet()
"""The maps under way in this process, for whoever shows their progress."""
watch: Callable[[Progress], object] | None = None
"""Told of every map of this process when it begins and when it ends; set by whoever shows progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapOptions:
    """How a map gives back its results."""

    order_outputs: bool = True
    return_exceptions: bool = False
    wrap_returned_exceptions: bool | None = None
    window: int = 1_000


class Progress:
    """How far a map is: counts of inputs; ``total`` is ``None`` for iterators without a length."""

    __slots__ = ("done", "failed", "finished", "function", "sent", "started", "total", "waiting")

    def __init__(self, function: str, total: int | None) -> None:
        self.function, self.total = function, total
        self.sent = self.done = self.failed = 0
        self.started = time.monotonic()
        self.waiting = self.finished = False


def length(iterators: tuple[Any, ...]) -> int | None:
    """Return how many inputs the iterators hold, as far as they tell."""
    lengths = [len(i) for i in iterators if isinstance(i, Sized)]
    return min(lengths) if lengths and len(lengths) == len(iterators) else None


class Map(Generic[R]):
    """The results of a map: iterate over it once, with ``for`` or ``async for``."""

    def __init__(
        self,
        function: FunctionRef,
        caller: Callable[[], Caller],
        inputs: Iterable[Row],
        total: int | None,
        options: MapOptions,
    ) -> None:
        self.function, self.options = function, options
        self.progress = Progress(function.full_name, total)
        self.call = f"fc-{uuid4().hex}"
        self._make_caller, self._inputs = caller, inputs
        self._rows: Iterator[Row] = iter(())
        self._sized = total is not None
        self._started = self._refused = False
        self._iterator: Iterator[R] | None = None
        self._chunk: list[Input] = []
        self._chunk_since = 0.0
        self._lock = threading.Lock()
        self._sending = threading.Lock()  # held while a chunk is sent, so that one thread sends
        self._flushing = self._ended = False
        self._room = asyncio.Event()  # set when an asynchronous iterator may be read on
        self._error: BaseException | None = None
        self._exhausted = False
        self._read = 0  # inputs read from the iterators
        self._given = 0  # results given back
        self._next = 0  # the lowest index whose result has not been given back
        self._ahead: set[int] = set()  # indices above it that have (unordered maps)
        self._ready: dict[int, Event | bytes] = {}  # of packed ones only the outcome
        self._stride, self._pack = CHUNK, 1  # inputs that are sent at once, and in one message
        self._weights: dict[int, int] = {}  # of large inputs whose results have not been given back
        self._bytes = self._chunk_bytes = 0  # their sum, and that of those not sent yet
        self._pause, self._retry_at, self._warned = 0.05, 0.0, False
        self._caller: Caller | None = None

    # -- for, next -------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[R]:
        if self._iterator is not None:
            return self._iterator
        if blocks_loop():
            self._refused = True
            raise InvalidError(
                f"a map of {self.function.full_name} can't be iterated with a plain 'for' or list() in an event loop, "
                "which would stand still: write 'async for result in f.map(...)' "
                "or '[result async for result in f.map(...)]'"
            )
        return self.blocking()

    def blocking(self) -> Iterator[R]:
        """Iterate without asking whether an event loop stands still meanwhile."""
        if isinstance(self._inputs, Inputs) and not self._inputs.plain:
            self._refused = True
            raise InvalidError(
                f"{self._inputs.name}() has inputs that only an event loop can read: "
                "use 'async for' instead of 'for', and for_each.aio(...) instead of for_each(...)"
            )
        self._begin()
        self._rows = iter(self._inputs)
        return self._run()  # not kept here, so that leaving a for-loop ends the map at once

    def __next__(self) -> R:
        if self._iterator is None:
            self._iterator = iter(self)
        return next(self._iterator)

    def __del__(self) -> None:
        if not getattr(self, "_started", True) and not self._refused:
            warnings.warn(
                f"{self.function.full_name}.map() was never iterated, so nothing was called: "
                "use a for-loop, list(...) or for_each",
                RuntimeWarning,
                stacklevel=2,
            )

    def _begin(self) -> None:
        if self._started:
            raise InvalidError("a map can be iterated once: keep its results with list(...)")
        self._started = True
        active.add(self)
        if watch is not None:
            watch(self.progress)

    def _run(self) -> Iterator[R]:
        outcomes = Outcomes(self._open_caller(), self.call)
        complete = False
        try:
            self._pace()
            while True:
                if not self._has_ready():  # what is ready must not wait for an input that is long in coming
                    self._read_inputs()
                self._flush()
                self._accept_all(outcomes)
                yield from self._take_ready()
                if self._complete():
                    complete = True
                    return
                if not self._has_ready() and not self._may_read():
                    event = outcomes.get(self._wait_seconds())
                    if event is not None:
                        self._accept(event)
        finally:
            self._end()
            if not complete:
                self._cancel_rest()
            outcomes.close()

    # -- async for -------------------------------------------------------------------------------------------------

    async def __aiter__(self) -> AsyncIterator[R]:
        self._begin()
        outcomes = await Outcomes.open(self._open_caller(), self.call)
        reader: asyncio.Task[None] | None = None
        complete = False
        try:
            self._pace()
            reader = self._begin_reading(outcomes)
            while True:
                self._accept_all(outcomes)
                while self._has_ready():
                    end = self._pop_ready()
                    yield self._value(open_part(end)) if type(end) is bytes else await self._result_async(end)
                if reader is None:
                    self._read_inputs(outcomes)
                else:
                    self._room.set()
                self._flush_soon(outcomes)
                self._check_error()
                if self._complete():
                    complete = True
                    return
                # Nothing is awaited between these looks and the wait, so that nothing new can be missed.
                if reader is None and self._may_read_on():
                    await asyncio.sleep(0)
                else:
                    await outcomes.wait(self._retry_seconds())
        finally:
            self._end()
            if reader is not None:
                reader.cancel()
            if not complete:
                await finish_cancelling(outcomes.caller.soon(self._cancel_rest))
            outcomes.close()

    def _begin_reading(self, outcomes: Outcomes) -> asyncio.Task[None] | None:
        """Return the task that reads asynchronous inputs; plain ones are read when there is nothing else to do."""
        if isinstance(self._inputs, Inputs) and self._inputs.asynchronous:
            return asyncio.create_task(self._read_async(aiter(self._inputs), outcomes))
        self._rows = iter(self._inputs)
        return None

    async def _read_async(self, rows: AsyncIterator[Row], outcomes: Outcomes) -> None:
        """Read inputs as long as there is room for them."""
        try:
            while True:
                while not self._may_read_on():
                    self._room.clear()
                    await self._room.wait()
                self._take_in(*await anext(rows))
                self._flush_soon(outcomes)
                if self._read % CHUNK == 0:
                    await asyncio.sleep(0)  # an iterator that never waits must not have the loop for itself
        except StopAsyncIteration:
            self._exhausted = True
        except Exception as exc:  # noqa: BLE001  # it is raised where the results are taken
            self._error = exc
        finally:
            outcomes.wake()

    def _flush_soon(self, outcomes: Outcomes) -> None:
        """Send what has been read, off the loop, unless that is under way."""
        if self._chunk and not self._flushing and time.monotonic() >= self._retry_at:
            self._flushing, self._retry_at = True, 0.0
            self._open_caller().soon(lambda: self._flush_off_loop(outcomes))

    def _flush_off_loop(self, outcomes: Outcomes) -> None:
        self._flushing = False  # first: what is read from now on is sent anew
        self._flush_early()
        outcomes.wake()

    def _retry_seconds(self) -> float | None:
        # Without a time to try again, a send is under way and its end wakes the loop.
        return max(0.0, self._retry_at - time.monotonic()) if self._chunk and self._retry_at else None

    def _check_error(self) -> None:
        if self._error is not None:
            raise self._error

    async def _result_async(self, event: Event) -> R:
        self._room.set()
        return self._value(await read_async(self._open_caller(), self.call, event))

    # -- reading and sending inputs --------------------------------------------------------------------------------

    def _open_caller(self) -> Caller:
        if self._caller is None:
            self._caller = self._make_caller()
        return self._caller

    def _may_read(self) -> bool:
        return not self._exhausted and not self._chunk and self._has_window()

    def _has_window(self) -> bool:
        return self._outstanding() < self.options.window and self._bytes < WINDOW_BYTES

    def _outstanding(self) -> int:
        return self._read - self._given

    def _may_read_on(self) -> bool:
        full = len(self._chunk) >= self._stride or self._chunk_bytes >= CHUNK_BYTES
        return not self._exhausted and not full and self._has_window()

    def _read_inputs(self, outcomes: Outcomes | None = None) -> None:
        """Read inputs until the chunk or the window is full, the iterators end, or they have become slow.

        The next input may be long in coming, and those already read must not wait for it: a timer sends them, or,
        with ``outcomes``, the thread that sends for event loops.
        """
        timer: threading.Timer | None = None
        until = time.monotonic() + LINGER
        try:
            while self._may_read_on() and time.monotonic() < until:
                alone = self._take_in(*next(self._rows))
                if self._sized:
                    continue
                if outcomes is not None:
                    self._flush_soon(outcomes)
                elif alone:
                    timer = threading.Timer(LINGER, self._flush_early)
                    timer.daemon = True
                    timer.start()
        except StopIteration:
            self._exhausted = True
        finally:
            if timer is not None:
                timer.cancel()

    def _take_in(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Keep an input to be sent; return whether it is the only one."""
        weight = weigh_call(args, kwargs)
        with self._lock:
            if weight >= LARGE:
                self._weights[self._read] = weight
                self._bytes += weight
                self._chunk_bytes += weight
            self._chunk.append((self._read, args, kwargs))
            self._read += 1
            return len(self._chunk) == 1

    def _flush(self) -> None:
        with self._sending:
            with self._lock:
                self._check_error()
                inputs = self._chunk[: self._stride]
                weights = [self._weights.get(index, 0) for index, _, _ in inputs] if self._weights else []
            if not inputs or self._ended or time.monotonic() < self._retry_at:
                return
            try:
                accepted = self._send(inputs)
            except Exception as exc:
                self._error = exc  # another thread may be the one that met it
                raise
            with self._lock:
                del self._chunk[:accepted]
                self._chunk_bytes -= sum(weights[:accepted])
            self.progress.sent += accepted
            if accepted == len(inputs):
                self._pause, self._retry_at, self.progress.waiting = 0.05, 0.0, False
                self._pace()
                return
            self._retry_at = time.monotonic() + self._pause
            self._pause = 0.05 if accepted else min(self._pause * 2, 1.0)
            self.progress.waiting = True
            if not self._warned:
                self._warned = True
                logger.warning(
                    "the map of %s waits: the function has as many inputs as its limits allow", self.function.full_name
                )

    def _send(self, inputs: list[Input]) -> int:
        caller = self._open_caller()
        if self._pack > 1 and len(inputs) > 1 and not self._weights:
            return caller.send(self.function, self.call, inputs, kind="map", pack=self._pack)
        return caller.send(self.function, self.call, inputs, kind="map")

    def _pace(self) -> None:
        """Ask how many inputs may share a message, and read as many at once."""
        total = self.progress.total
        left = None if total is None else max(1, total - self._read)
        self._pack = self._open_caller().pack_size(self.function, left, self.options.window)
        self._stride = CHUNK if self._pack == 1 else self._pack * -(-CHUNK // self._pack)

    def _flush_early(self) -> None:
        with contextlib.suppress(Exception):  # the thread that takes the results meets it again
            self._flush()

    # -- results ---------------------------------------------------------------------------------------------------

    def _accept_all(self, outcomes: Outcomes) -> None:
        while (event := outcomes.get(0)) is not None:
            self._accept(event)

    def _accept(self, event: Event) -> None:
        if event.index < 0:
            ok, error = self._open_caller().read(self.call, event)
            raise error if not ok else ExecutionError("the map was ended")
        if event.packed:
            for index, outcome in self._open_caller().open_pack(self.call, event):
                self._accept_one(index, outcome)
        elif event.count > 1:
            for index in range(event.index, event.index + event.count):
                self._accept_one(index, Event(index, None, event.reason))
        else:
            self._accept_one(event.index, event)

    def _accept_one(self, index: int, end: Event | bytes) -> None:
        if index < self._next or index in self._ready or index in self._ahead:
            return  # an input that ran twice: its first end counts
        self._ready[index] = end
        self.progress.done += 1

    def _has_ready(self) -> bool:
        return bool(self._ready) and (not self.options.order_outputs or self._next in self._ready)

    def _take_ready(self) -> Iterator[R]:
        while self._has_ready():
            end = self._pop_ready()
            if type(end) is bytes:
                ok, value = open_part(end)
                yield value if ok else self._value((ok, value))
            else:
                yield self._value(self._open_caller().read(self.call, end))

    def _pop_ready(self) -> Any:
        index = self._next if self.options.order_outputs else next(iter(self._ready))
        event = self._ready.pop(index)
        self._given += 1
        if self._weights:
            self._bytes -= self._weights.pop(index, 0)
        if self.options.order_outputs:
            self._next += 1
            return event
        self._ahead.add(index)
        while self._next in self._ahead:
            self._ahead.remove(self._next)
            self._next += 1
        return event

    def _value(self, found: tuple[bool, Any]) -> R:
        ok, value = found
        if ok:
            return value  # type: ignore[no-any-return]
        self.progress.failed += 1
        if not self.options.return_exceptions:
            raise value
        return UserCodeException(value) if self.options.wrap_returned_exceptions else value  # type: ignore[return-value]

    def _complete(self) -> bool:
        return self._exhausted and not self._chunk and self._given == self._read

    def _wait_seconds(self) -> float | None:
        return max(0.0, self._retry_at - time.monotonic()) if self._chunk else None

    def _end(self) -> None:
        self._ended = True  # nothing is sent any more
        self.progress.finished = True
        for event in self._ready.values():
            if isinstance(event, Event) and event.large:
                self._open_caller().drop(event)
        active.discard(self)
        if watch is not None:
            watch(self.progress)

    def _cancel_rest(self) -> None:
        with self._sending:  # what another thread sends just now is to be cancelled too
            if not self.progress.sent or self._caller is None:
                return
        try:
            self._caller.cancel(self.function.full_name, self.call, tell=False)
        except Exception as exc:  # noqa: BLE001  # the reason for leaving matters more than this
            logger.warning("what is left of a map of %s could not be cancelled: %s", self.function.full_name, exc)
