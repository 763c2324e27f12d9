"""What blocks, done for event loops by one thread: sends, cancels, looks, in the order in which they were asked for.

While the thread waits for Redis, more inputs come together, and those of one function then travel in one step. So a
thousand awaited calls cost a few steps and no thread of their own.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from scaleplug.abc import CallKind, FunctionRef
from scaleplug.loops import Answer

T = TypeVar("T")

ITEMS = 500
"""How much of what was asked for is done at once."""
BYTES = 4_000_000
"""How large one step of sending may get: Redis does nothing else meanwhile."""


@dataclass(slots=True, eq=False)
class Parcel:
    """The one input of a call, which may travel with others of its function and kind."""

    deliver: Callable[[Sequence[Parcel]], object]
    function: FunctionRef
    kind: CallKind
    call: str
    message: str
    answer: Answer[int] = field(default_factory=Answer)


@dataclass(slots=True, eq=False)
class Cancel:
    """A call to be cancelled, perhaps with others of its function."""

    cancel: Callable[[str, Sequence[str]], object]
    function: str
    call: str
    answer: Answer[None] = field(default_factory=Answer)


@dataclass(slots=True, eq=False)
class _Job:
    run: Callable[[], Any]
    answer: Answer[Any] = field(default_factory=Answer)

    def do(self) -> None:
        try:
            self.answer.give(self.run())
        except BaseException as exc:  # noqa: BLE001  # it belongs to whoever waits, and the thread must live on
            self.answer.fail(exc)


_Item: TypeAlias = Parcel | Cancel | _Job
_Queue: TypeAlias = "queue.SimpleQueue[_Item | None]"


class Sender:
    """The thread, which begins with the first thing to do and ends with this object."""

    def __init__(self) -> None:
        self._queue: _Queue = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def soon(self, run: Callable[[], T]) -> asyncio.Future[T]:
        """Do a job after what was asked for before; return its result as a future of the running loop."""
        job = _Job(run)
        self._put(job)
        return job.answer.future

    def send(self, parcel: Parcel) -> asyncio.Future[int]:
        """Send an input after what was asked for before, or with it."""
        self._put(parcel)
        return parcel.answer.future

    def cancel(self, cancel: Cancel) -> asyncio.Future[None]:
        """Cancel a call after what was asked for before, or with others that come one after the other."""
        self._put(cancel)
        return cancel.answer.future

    def _put(self, item: _Item) -> None:
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    weakref.finalize(self, self._queue.put, None)
                    self._thread = threading.Thread(
                        target=_work, args=(self._queue,), daemon=True, name="scaleplug-sender"
                    )
                    self._thread.start()
        self._queue.put(item)


def _work(todo: _Queue) -> None:
    # It knows the queue only, so that what the queue serves can go.
    while (item := todo.get()) is not None:
        items: list[_Item] = [item]
        end = False
        while len(items) < ITEMS and not end:
            try:
                more = todo.get_nowait()
            except queue.Empty:
                break
            if more is None:
                end = True
            else:
                items.append(more)
        _do(items)
        if end:
            return
        del item, items


def _do(items: Sequence[_Item]) -> None:
    for kind, group in itertools.groupby(items, type):  # in their order: a cancel must not overtake what it cancels
        if kind is Parcel:
            _send(list(group))  # type: ignore[arg-type]  # the kind says it
        elif kind is Cancel:
            _cancel(list(group))  # type: ignore[arg-type]
        else:
            for item in group:
                item.do()  # type: ignore[union-attr]


def _cancel(cancels: Sequence[Cancel]) -> None:
    """Cancel calls, those of one function together."""
    together: dict[str, list[Cancel]] = {}
    for each in cancels:
        together.setdefault(each.function, []).append(each)
    for function, group in together.items():
        try:
            group[0].cancel(function, [each.call for each in group])
        except BaseException as exc:  # noqa: BLE001  # it belongs to those who wait, and the thread must live on
            for each in group:
                each.answer.fail(exc)
        else:
            for each in group:
                each.answer.give(None)


def _send(parcels: Sequence[Parcel]) -> None:
    """Send inputs, those of one function and kind together."""
    together: dict[tuple[int, CallKind], list[Parcel]] = {}
    for parcel in parcels:
        if not parcel.answer.future.cancelled():  # whoever asked has been cancelled meanwhile
            together.setdefault((id(parcel.function), parcel.kind), []).append(parcel)
    for group in together.values():
        size, first = 0, 0
        for at, parcel in enumerate(group):
            size += len(parcel.message)
            if size > BYTES and at > first:
                _deliver(group[first:at])
                size, first = len(parcel.message), at
        _deliver(group[first:])


def _deliver(parcels: Sequence[Parcel]) -> None:
    try:
        parcels[0].deliver(parcels)
    except BaseException as exc:  # noqa: BLE001  # it belongs to those who wait, and the thread must live on
        for parcel in parcels:
            parcel.answer.fail(exc)
