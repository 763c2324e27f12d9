"""``map``: send inputs as fast as they can be taken, give back results in order, hold a bounded number of both."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import uuid4

from scaleplug.abc import Caller, Event, FunctionRef, Input
from scaleplug.blobs import LARGE, weigh
from scaleplug.call import Outcomes
from scaleplug.errors import ExecutionError, InvalidError, UserCodeException

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
        inputs: Iterator[tuple[tuple[Any, ...], dict[str, Any]]],
        total: int | None,
        options: MapOptions,
    ) -> None:
        self.function, self.options = function, options
        self.progress = Progress(function.full_name, total)
        self.call = f"fc-{uuid4().hex}"
        self._make_caller, self._inputs = caller, inputs
        self._sized = total is not None
        self._started = False
        self._iterator: Iterator[R] | None = None
        self._chunk: list[Input] = []
        self._chunk_since = 0.0
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._exhausted = False
        self._read = 0  # inputs read from the iterators
        self._given = 0  # results given back
        self._next = 0  # the lowest index whose result has not been given back
        self._ahead: set[int] = set()  # indices above it that have (unordered maps)
        self._ready: dict[int, Event] = {}
        self._weights: dict[int, int] = {}  # of large inputs whose results have not been given back
        self._bytes = 0  # their sum
        self._pause, self._retry_at, self._warned = 0.05, 0.0, False
        self._caller: Caller | None = None

    # -- for, next -------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[R]:
        if self._iterator is not None:
            return self._iterator
        self._begin()
        return self._run()  # not kept here, so that leaving a for-loop ends the map at once

    def __next__(self) -> R:
        if self._iterator is None:
            self._iterator = iter(self)
        return next(self._iterator)

    def __del__(self) -> None:
        if not getattr(self, "_started", True):
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
            while True:
                if not self._has_ready():  # what is ready must not wait for an input that is long in coming
                    self._read_inputs()
                self._flush()
                while (event := outcomes.get(0)) is not None:
                    self._accept(event)
                yield from self._take_ready()
                if self._complete():
                    complete = True
                    return
                if not self._has_ready() and not self._may_read():
                    event = outcomes.get(self._wait_seconds())
                    if event is not None:
                        self._accept(event)
        finally:
            self._end(complete)
            outcomes.close()

    # -- async for -------------------------------------------------------------------------------------------------

    async def __aiter__(self) -> AsyncIterator[R]:
        self._begin()
        outcomes = await Outcomes.open(await asyncio.to_thread(self._open_caller), self.call)
        complete = False
        try:
            while True:
                self._read_inputs()
                if self._chunk:
                    await asyncio.to_thread(self._flush)
                while self._has_ready():
                    ready = self._pop_ready()
                    yield await asyncio.to_thread(self._value, ready) if ready.large else self._value(ready)
                if self._complete():
                    complete = True
                    return
                while (event := outcomes.get(0)) is not None:
                    self._accept(event)
                if not self._has_ready() and not self._may_read():
                    event = await outcomes.get_async(self._wait_seconds())
                    if event is not None:
                        self._accept(event)
                else:
                    await asyncio.sleep(0)
        finally:
            await asyncio.shield(asyncio.to_thread(self._end, complete))
            outcomes.close()

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

    def _read_inputs(self) -> None:
        """Read inputs until the chunk or the window is full, the iterators end, or they have become slow."""
        timer: threading.Timer | None = None
        until = time.monotonic() + LINGER
        try:
            most = min(WINDOW_BYTES, self._bytes + CHUNK_BYTES)
            while len(self._chunk) < CHUNK and self._has_window() and self._bytes < most and time.monotonic() < until:
                args, kwargs = next(self._inputs)
                weight = weigh((args, kwargs))
                with self._lock:
                    if weight >= LARGE:
                        self._weights[self._read] = weight
                        self._bytes += weight
                    self._chunk.append((self._read, args, kwargs))
                    self._read += 1
                    alone = len(self._chunk) == 1
                if alone and not self._sized:
                    # The next input may be long in coming, and those already read must not wait for it.
                    timer = threading.Timer(LINGER, self._flush_early)
                    timer.daemon = True
                    timer.start()
        except StopIteration:
            self._exhausted = True
        finally:
            if timer is not None:
                timer.cancel()

    def _flush(self) -> None:
        with self._lock:
            if self._error is not None:
                raise self._error
            if not self._chunk or time.monotonic() < self._retry_at:
                return
            try:
                accepted = self._open_caller().send(self.function, self.call, self._chunk, kind="map")
            except Exception as exc:
                self._error = exc  # a timer's thread may be the one that met it
                raise
            del self._chunk[:accepted]
            self.progress.sent += accepted
            if self._chunk:
                self._retry_at = time.monotonic() + self._pause
                self._pause = min(self._pause * 2, 1.0)
                self.progress.waiting = True
                if not self._warned:
                    self._warned = True
                    logger.warning(
                        "the map of %s waits: the function has as many inputs as its limits allow",
                        self.function.full_name,
                    )
            else:
                self._pause, self.progress.waiting = 0.05, False

    def _flush_early(self) -> None:
        with contextlib.suppress(Exception):  # the caller's thread meets it again
            self._flush()

    # -- results ---------------------------------------------------------------------------------------------------

    def _accept(self, event: Event) -> None:
        if event.index < 0:
            ok, error = self._open_caller().read(self.call, event)
            raise error if not ok else ExecutionError("the map was ended")
        if event.index < self._next or event.index in self._ready or event.index in self._ahead:
            return  # an input that ran twice: its first end counts
        self._ready[event.index] = event
        self.progress.done += 1

    def _has_ready(self) -> bool:
        return bool(self._ready) and (not self.options.order_outputs or self._next in self._ready)

    def _take_ready(self) -> Iterator[R]:
        while self._has_ready():
            yield self._value(self._pop_ready())

    def _pop_ready(self) -> Event:
        index = self._next if self.options.order_outputs else next(iter(self._ready))
        event = self._ready.pop(index)
        self._given += 1
        self._bytes -= self._weights.pop(index, 0)
        self._ahead.add(index)
        while self._next in self._ahead:
            self._ahead.remove(self._next)
            self._next += 1
        return event

    def _value(self, event: Event) -> R:
        ok, value = self._open_caller().read(self.call, event)
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

    def _end(self, complete: bool) -> None:
        self.progress.finished = True
        for event in self._ready.values():
            if event.large:
                self._open_caller().drop(event)
        active.discard(self)
        if watch is not None:
            watch(self.progress)
        if not complete and self.progress.sent and self._caller is not None:
            try:
                self._caller.cancel(self.function.full_name, self.call, tell=False)
            except Exception as exc:  # noqa: BLE001  # the reason for leaving matters more than this
                logger.warning("what is left of a map of %s could not be cancelled: %s", self.function.full_name, exc)
