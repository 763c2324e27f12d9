"""Maps, over a caller that does what a test says; what they do for a user is in tests/contract/test_calling.py."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleplug import mapping
from scaleplug.abc import Event, FunctionRef, FunctionStats, Input, Look
from scaleplug.errors import InvalidError, StateLostError
from scaleplug.loops import done_now
from scaleplug.mapping import CHUNK, Map, MapOptions, length
from tests.helpers import wait_until


class Named:
    full_name = "app.f"


class ScriptedCaller:
    """Answers as it is told: ``answer`` gives the events that follow an input, ``room`` what each send accepts."""

    def __init__(
        self,
        answer: Callable[[int, Any], Sequence[Event]] = lambda index, x: [Event(index, b"+" + str(x).encode())],
        room: Sequence[int] = (),
    ) -> None:
        self.answer, self.room = answer, list(room)
        self.put: Callable[[Event], object] | None = None
        self.sends: list[list[int]] = []
        self.cancelled: list[str] = []
        self.outstanding = self.most_outstanding = 0

    def pack_size(self, function: FunctionRef, left: int | None, window: int) -> int:
        return 1

    def open(self, call: str, put: Callable[[Event], object], *, led: bool = False) -> None:
        self.put = put

    def close(self, call: str) -> None:
        self.put = None

    def send(self, function: FunctionRef, call: str, inputs: Sequence[Input], *, kind: str) -> int:
        assert kind == "map"
        accepted = min(len(inputs), self.room.pop(0)) if self.room else len(inputs)
        self.sends.append([args[0] for _, args, _ in inputs[:accepted]])
        for index, args, kwargs in inputs[:accepted]:
            for event in self.answer(index, args[0] if not kwargs else (args[0], dict(kwargs))):
                assert self.put is not None
                self.put(event)
        return accepted

    def soon(self, run: Callable[[], Any]) -> asyncio.Future[Any]:
        return done_now(run)

    def cancel(self, function: str, call: str, *, tell: bool) -> None:
        assert not tell
        self.cancelled.append(call)

    def look(self, call: str, *, watch: bool, index: int = 0, most: int = 1) -> Look:
        raise AssertionError("a map does not look")

    def complete(self, function: FunctionRef, call: str, inputs: int) -> None:
        raise AssertionError("a map has no end that it tells")

    def stats(self, function: str, *, max_inputs: int) -> FunctionStats:
        raise AssertionError("a map does not look")

    def read(self, call: str, event: Event) -> tuple[bool, Any]:
        if event.outcome is None:
            return False, StateLostError(event.reason)
        value = event.outcome[1:].decode()
        return (True, value) if event.outcome[:1] == b"+" else (False, ValueError(value))


def make(
    caller: ScriptedCaller, inputs: Any, *, total: int | None = None, kwargs: Mapping[str, Any] = {}, **options: Any
) -> Map[Any]:
    pairs = (((x,), dict(kwargs)) for x in inputs)
    return Map(Named(), lambda: caller, pairs, total, MapOptions(**options))


def fails_for(*wrong: int) -> Callable[[int, Any], Sequence[Event]]:
    return lambda index, x: [Event(index, (b"-" if x in wrong else b"+") + str(x).encode())]


# -- order ---------------------------------------------------------------------------------------------------------


def shuffled(order: Sequence[int]) -> Callable[[int, Any], Sequence[Event]]:
    """Answer nothing until all inputs are there, then in this order."""
    seen: list[int] = []

    def answer(index: int, x: Any) -> Sequence[Event]:
        seen.append(index)
        return [Event(i, b"+%d" % i) for i in order] if len(seen) == len(order) else []

    return answer


@given(st.permutations(range(12)))
def test_ordered_results_come_in_the_order_of_the_inputs(order: list[int]) -> None:
    caller = ScriptedCaller(shuffled(order))
    assert list(make(caller, range(12), total=12)) == [str(i) for i in range(12)]
    assert caller.cancelled == []


@given(st.permutations(range(12)))
def test_unordered_results_come_as_they_end(order: list[int]) -> None:
    caller = ScriptedCaller(shuffled(order))
    assert list(make(caller, range(12), total=12, order_outputs=False)) == [str(i) for i in order]


@pytest.mark.parametrize("ordered", [True, False])
@given(ends=st.lists(st.integers(0, 4), min_size=5, max_size=20))
def test_the_first_end_of_an_input_counts(ordered: bool, ends: list[int]) -> None:
    def answer(index: int, x: Any) -> Sequence[Event]:
        if index < 4:
            return []
        twice = [Event(i, b"+%d" % i) for i in ends]
        return [*twice, *(Event(i, b"+%d" % i) for i in range(5))]

    results = list(make(ScriptedCaller(answer), range(5), order_outputs=ordered))
    assert sorted(results) == [str(i) for i in range(5)]


# -- sending -------------------------------------------------------------------------------------------------------


def test_inputs_travel_in_chunks() -> None:
    caller = ScriptedCaller()
    assert len(list(make(caller, range(1_000), total=1_000))) == 1_000
    assert list(itertools.chain(*caller.sends)) == list(range(1_000))
    assert max(map(len, caller.sends)) <= CHUNK
    assert len(caller.sends) < 200


@pytest.mark.parametrize("window", [1, 2, 7, 100, 1_000])
@pytest.mark.parametrize("ordered", [True, False])
def test_no_more_than_the_window_is_outstanding(window: int, ordered: bool) -> None:
    read = given_back = most = 0

    def inputs() -> Iterator[int]:
        nonlocal read, most
        for x in itertools.count():
            read += 1
            most = max(most, read - given_back)
            yield x

    results = iter(make(ScriptedCaller(), inputs(), window=window, order_outputs=ordered))
    for _ in range(50):
        next(results)
        given_back += 1
    results.close()  # type: ignore[attr-defined]
    assert 1 <= most <= window + 1  # the one just handed out counts as given back when the next is asked for


def test_kwargs_are_sent_with_every_input() -> None:
    caller = ScriptedCaller()
    assert list(make(caller, [1, 2], kwargs={"a": 3})) == ["(1, {'a': 3})", "(2, {'a': 3})"]


def test_a_rejected_rest_is_sent_again_in_order(caplog: pytest.LogCaptureFixture) -> None:
    caller = ScriptedCaller(room=[0, 3, 0, 0, 2])
    with caplog.at_level(logging.WARNING, "scaleplug"):
        results = make(caller, range(10), total=10)
        assert list(results) == [str(x) for x in range(10)]
    assert list(itertools.chain(*caller.sends)) == list(range(10))
    assert caplog.text.count("the map of app.f waits") == 1
    assert results.progress.waiting is False


def test_an_error_of_sending_reaches_the_caller_even_when_the_iterator_is_slow() -> None:
    class Broken(ScriptedCaller):
        met = threading.Event()

        def send(self, function: FunctionRef, call: str, inputs: Sequence[Input], *, kind: str) -> int:
            self.met.set()
            raise ConnectionError("no way")

    caller = Broken()

    def inputs() -> Iterator[int]:
        yield 1
        assert caller.met.wait(10), "the first input was sent while this waited"
        yield 2

    with pytest.raises(ConnectionError, match="no way"):
        list(make(caller, inputs()))


def test_an_error_of_the_iterator_cancels_what_was_sent() -> None:
    caller = ScriptedCaller(lambda index, x: [])

    def inputs() -> Iterator[int]:
        yield 1
        wait_until(lambda: caller.sends == [[1]])
        raise LookupError("no more")

    results = make(caller, inputs())
    with pytest.raises(LookupError, match="no more"):
        list(results)
    assert caller.cancelled == [results.call]


# -- errors and early ends -----------------------------------------------------------------------------------------


def test_an_error_comes_at_its_own_place_and_ends_the_map() -> None:
    caller = ScriptedCaller(fails_for(3))
    results, collected = make(caller, range(10), total=10), []
    with pytest.raises(ValueError, match=r"^3$"):
        collected.extend(results)
    assert collected == ["0", "1", "2"]
    assert caller.cancelled == [results.call]
    assert caller.put is None


def test_errors_as_results_do_not_end_it() -> None:
    caller = ScriptedCaller(fails_for(1, 3))
    results = list(make(caller, range(5), total=5, return_exceptions=True))
    assert [type(result) for result in results] == [str, ValueError, str, ValueError, str]
    assert caller.cancelled == []


def test_leaving_the_loop_cancels_and_finishing_it_does_not() -> None:
    caller = ScriptedCaller()
    results = make(caller, range(3), total=3)
    for _ in results:
        break
    assert caller.cancelled == [results.call]
    finished = ScriptedCaller()
    assert len(list(make(finished, range(3), total=3))) == 3
    assert finished.cancelled == []


def test_leaving_before_anything_was_sent_cancels_nothing() -> None:
    caller = ScriptedCaller(room=[0])
    results = make(caller, [], total=0)
    assert list(results) == []
    assert caller.cancelled == []


def test_an_error_of_the_whole_call_ends_the_map() -> None:
    caller = ScriptedCaller(lambda index, x: [Event(-1, None, "lost")])
    with pytest.raises(StateLostError, match="lost"):
        list(make(caller, [1]))


# -- async ---------------------------------------------------------------------------------------------------------


@given(st.permutations(range(6)))
def test_async_results_come_in_the_order_of_the_inputs(order: list[int]) -> None:
    async def run() -> list[Any]:
        return [x async for x in make(ScriptedCaller(shuffled(order)), range(6), total=6)]

    assert asyncio.run(run()) == [str(i) for i in range(6)]


def test_a_failed_async_map_cancels_the_rest() -> None:
    caller = ScriptedCaller(fails_for(0))

    async def run() -> None:
        async for _ in make(caller, range(3)):
            pass

    with pytest.raises(ValueError, match=r"^0$"):
        asyncio.run(run())
    assert len(caller.cancelled) == 1


def test_a_rejected_rest_of_an_async_map_is_sent_again() -> None:
    caller = ScriptedCaller(room=[0, 1, 0])

    async def run() -> list[Any]:
        return [x async for x in make(caller, range(4), total=4)]

    assert asyncio.run(run()) == ["0", "1", "2", "3"]


# -- progress ------------------------------------------------------------------------------------------------------


def test_progress_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, bool]] = []
    monkeypatch.setattr(mapping, "watch", lambda progress: told.append((progress.done, progress.finished)))
    results = make(ScriptedCaller(fails_for(1)), range(4), total=4, return_exceptions=True)
    assert results not in mapping.active
    iterator = iter(results)
    next(iterator)
    assert results in mapping.active
    assert (results.progress.total, results.progress.sent, results.progress.done) == (4, 4, 4)
    assert len(list(iterator)) == 3
    assert (results.progress.failed, results.progress.finished) == (1, True)
    assert results not in mapping.active
    assert told[0] == (0, False)


@pytest.mark.parametrize(
    ("iterators", "expected"),
    [(([1, 2],), 2), (([1, 2], range(5)), 2), (([1], itertools.count()), None), ((iter([1]),), None), ((), None)],
)
def test_length_is_told_where_all_iterators_tell(iterators: tuple[Any, ...], expected: int | None) -> None:
    assert length(iterators) == expected


def test_a_map_is_iterated_once_whichever_way() -> None:
    results = make(ScriptedCaller(), range(2), total=2)
    assert next(results) == "0"
    assert list(results) == ["1"]  # what is left
    with pytest.raises(StopIteration):
        next(results)
    for _ in (left := make(ScriptedCaller(), range(2), total=2)):
        break
    with pytest.raises(InvalidError, match="iterated once"):
        iter(left)
