"""What a stream's consumer accepts, and how far its producer may go."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from scaleplug.abc import Event
from scaleplug.errors import ExecutionError, StateLostError
from scaleplug.serializer import OUTPUT, Keyring, open_outcome, seal_value
from scaleplug.streams import PART_ITEMS, WINDOW_BYTES, WINDOW_ITEMS, Window, drain, dump, receive
from scaleplug.worker.holding import Claim
from scaleplug.worker.streams import Outgoing

KEYRING = Keyring("a secret that is long enough for a test")


class Wire:
    """A caller that gets what a test says."""

    full_name = "app.f"

    def __init__(self) -> None:
        self.call, self.events, self.grants, self.cancelled = "", list[Event](), list[int | None](), 0
        self.reachable = True

    def receive(self) -> Any:
        return receive(self, lambda: self, (), {})  # type: ignore[arg-type,return-value]

    def open(self, call: str, put: Callable[[Event], object], *, led: bool = False) -> None:
        self.call, self.put = call, put

    def close(self, call: str) -> None:
        self.call = ""

    def send(self, function: Any, call: str, inputs: Any, *, kind: str) -> int:
        for event in self.events:
            self.put(event)
        return 1

    def cancel(self, function: str, call: str, *, tell: bool) -> None:
        self.cancelled += 1

    def grant(self, call: str, part: int | None) -> bool:
        if self.reachable:
            self.grants.append(part)
        return self.reachable

    def read(self, call: str, event: Event) -> tuple[bool, Any]:
        if event.outcome is None:
            return False, StateLostError(event.reason)
        return open_outcome(KEYRING, event.context("fc"), event.outcome)


def part(number: int, items: Iterable[Any], attempt: int = 1) -> Event:
    context = Event(0, None, "", number, attempt).context("fc")
    payload = b"+" + pickle.dumps([dump(item, "app.f") for item in items])
    return Event(0, KEYRING.seal(OUTPUT, context, payload), "", number, attempt)


def end(items: int, returned: Any = None) -> Event:
    return Event(0, seal_value(KEYRING, "fc|0", (items, returned), "app.f"))


def test_parts_in_order_are_the_items() -> None:
    wire = Wire()
    wire.events = [part(0, [1, 2]), part(1, [3]), end(3)]
    assert list(wire.receive()) == [1, 2, 3]
    assert (wire.call, wire.cancelled, wire.grants) == ("", 0, [])


def test_a_part_that_comes_twice_counts_once() -> None:
    wire = Wire()
    wire.events = [part(0, [1]), part(0, [1]), part(1, [2]), part(0, [1]), end(2)]
    assert list(wire.receive()) == [1, 2]


MISTAKES = {
    "a part is missing": ([part(0, [1]), part(2, [3])], "part 1 of the stream of app.f is missing"),
    "the last part is missing": ([part(0, [1]), end(2)], "1 of 2 items"),
    "another run": ([part(0, [1]), part(1, [2], attempt=2)], "began anew after 1 items"),
    "another part's signature": ([part(0, [1]), Event(0, part(2, [3]).outcome, "", 1, 1)], "signed for"),
    "another run's signature": ([Event(0, part(0, [1]).outcome, "", 0, 2)], "signed for"),
    "a part as the end": ([Event(0, part(0, [1]).outcome)], "signed for"),
    "an end as a part": ([Event(0, end(1).outcome, "", 0, 1)], "signed for"),
}


@pytest.mark.parametrize(("events", "text"), MISTAKES.values(), ids=MISTAKES.keys())
def test_what_does_not_fit_is_refused(events: list[Event], text: str) -> None:
    wire = Wire()
    wire.events = events
    with pytest.raises(ExecutionError, match=text):
        list(wire.receive())
    assert wire.call == ""


def test_a_caller_that_lost_its_redis_is_told() -> None:
    wire = Wire()
    wire.events = [part(0, [1]), Event(-1, None, "lost")]
    items = wire.receive()
    assert next(items) == 1
    with pytest.raises(StateLostError):
        next(items)
    assert wire.cancelled == 1


def test_leaving_cancels_and_takes_the_grant_back() -> None:
    wire = Wire()
    wire.events = [part(0, range(PART_ITEMS))]
    items = wire.receive()
    next(items)
    items.close()
    assert (wire.cancelled, wire.grants, wire.call) == (1, [0, None], "")


def test_a_grant_that_cannot_be_said_is_said_later() -> None:
    wire = Wire()
    wire.reachable = False
    wire.events = [part(0, range(PART_ITEMS))]
    items = wire.receive()
    for _ in range(PART_ITEMS):
        next(items)
    wire.reachable = True
    timer = threading.Timer(1.5, lambda: wire.put(end(PART_ITEMS)))
    timer.start()
    assert list(items) == []
    timer.join()
    assert wire.grants == [0, None]


def test_an_item_that_cannot_be_unpickled_is_told_at_its_place() -> None:
    wire = Wire()
    payload = b"+" + pickle.dumps([dump(1, "app.f"), b"no pickle"])
    wire.events = [Event(0, KEYRING.seal(OUTPUT, "fc|0|1|0", payload), "", 0, 1)]
    items = wire.receive()
    assert next(items) == 1
    with pytest.raises(ExecutionError, match=r"an item of the stream of app\.f could not be unpickled here"):
        next(items)


def test_a_window_is_full_of_items_or_of_bytes() -> None:
    window = Window()
    for _ in range(WINDOW_ITEMS - 1):
        window.add(1)
    assert not window.full
    window.sent(0, WINDOW_ITEMS - 1, WINDOW_ITEMS - 1)
    window.add(1)
    assert window.full
    window.grant(0)
    assert not window.full
    window.add(WINDOW_BYTES)
    assert window.full


def test_a_producer_waits_until_there_is_room() -> None:
    window = Window()
    window.sent(0, 1, WINDOW_BYTES)
    window.add(WINDOW_BYTES)
    waiting = threading.Thread(target=window.wait)
    waiting.start()
    window.wake()  # for nothing
    waiting.join(0.05)
    assert waiting.is_alive()
    window.grant(0)
    waiting.join(5)
    assert not waiting.is_alive()


def test_a_generator_is_closed_when_its_items_can_not_be_put() -> None:
    closed = []

    def generator() -> Any:
        try:
            yield 1
        finally:
            closed.append(True)

    def refuse(_: Any) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        drain(generator(), refuse)
    assert closed


def test_a_sender_does_not_wait_for_room_while_it_has_something_to_send() -> None:
    claim = Claim("fc", "fc/1", 1, 1, "", "", {"call": "fc", "caller": "p", "index": 0, "keep": 0})
    unused: Any = None
    outgoing = Outgoing(unused, KEYRING, claim, lambda _: None)
    outgoing.window.add(WINDOW_BYTES)
    outgoing._orders.put(b"an item")
    outgoing._await_room()  # the order to wait is older than the item
