"""Generator functions: the same over the twin and over Redis, a controller and containers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scaleplug.errors import FunctionTimeoutError, InvalidError, SerializationError
from scaleplug.streams import PART_ITEMS, WINDOW_ITEMS
from tests.contract import functions
from tests.contract import stream_functions as s
from tests.contract.functions import OddError
from tests.contract.sides import Side, settle
from tests.helpers import wait_until

SOON = 15.0
GENERATORS: list[Any] = [s.numbers, s.async_numbers]


async def collected(stream: Any) -> list[Any]:
    return [item async for item in stream]


# -- items ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 5_000])
@pytest.mark.parametrize("function", GENERATORS, ids=["sync", "async"])
def test_all_items_come_in_order(side: Side, function: Any, n: int) -> None:
    assert list(function.remote_gen(n)) == list(range(n))
    assert asyncio.run(collected(function.remote_gen.aio(n))) == list(range(n))


def test_arguments_are_passed_and_checked_at_once(side: Side) -> None:
    assert list(s.numbers.remote_gen(2, first=5)) == [5, 6]
    for call in (s.numbers.remote_gen, s.numbers.remote_gen.aio):
        with pytest.raises(TypeError, match="argument"):
            call()


def test_what_it_returns_is_the_end_of_the_generator(side: Side) -> None:
    def outer() -> Iterator[Any]:
        yield (yield from s.numbers.remote_gen(3))

    assert list(outer()) == [0, 1, 2, "3 in all"]


def test_an_item_is_taken_as_it_was_when_it_was_yielded(side: Side) -> None:
    first, second, nothing, large, add_one = s.values.remote_gen()
    assert (first, second, nothing, large, add_one(1)) == ([1], [1, 2], None, bytes(3_000_000), 2)


def test_an_item_comes_while_the_next_one_is_made(side: Side, tmp_path: Path) -> None:
    items = s.stepwise.remote_gen(tmp_path, 4)
    for x in range(4):
        (tmp_path / f"go-{x}").touch()  # the function waits for it, after the item before
        assert next(items) == x
    assert list(items) == []


def test_items_come_to_an_event_loop_while_the_next_one_is_made(side: Side, tmp_path: Path) -> None:
    async def main() -> None:
        items = s.stepwise.remote_gen.aio(tmp_path, 4)
        for x in range(4):
            (tmp_path / f"go-{x}").touch()
            assert await anext(items) == x
        assert [item async for item in items] == []

    asyncio.run(main())


def test_nothing_is_sent_before_the_first_item_is_asked_for(side: Side, tmp_path: Path) -> None:
    s.endless.remote_gen(tmp_path)
    assert side.load(s.endless) == (0, 0)


def test_many_streams_at_once(side: Side) -> None:
    streams = [s.numbers.remote_gen(2_000, first=1_000 * k) for k in range(2)]
    for pair in zip(*streams, strict=True):
        assert pair[1] - pair[0] == 1_000


def test_a_stream_of_a_stream(side: Side) -> None:
    assert list(s.squares_of.remote_gen(4)) == [0, 1, 4, 9]


def test_local_is_the_generator_itself(side: Side) -> None:
    assert list(s.numbers.local(3)) == [0, 1, 2]
    assert asyncio.run(collected(s.async_numbers.local(3))) == [0, 1, 2]


# -- ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [s.fails_after, s.async_fails_after], ids=["sync", "async"])
def test_an_exception_comes_after_all_items_before_it(side: Side, function: Any) -> None:
    seen: list[int] = []
    with pytest.raises(OddError, match="the end") as caught:
        seen.extend(iter_into(function.remote_gen(700), seen))
    assert seen == list(range(700))
    assert caught.value.code == 700
    assert f'in {function.name}\n    raise OddError("the end"' in "".join(traceback.format_exception(caught.value))


def iter_into(items: Iterator[int], seen: list[int]) -> list[int]:
    """Append what comes before the exception."""
    for item in items:
        seen.append(item)  # noqa: PERF402  # extend would lose them
    return []


def test_an_item_that_cannot_be_pickled_ends_the_stream_at_its_place(side: Side) -> None:
    items = s.locks.remote_gen()
    assert next(items) == 1
    with pytest.raises(SerializationError, match=r"an item that streams\.locks yielded can't be pickled"):
        next(items)


def test_a_timeout_comes_after_the_items_before_it(side: Side) -> None:
    items = s.too_long.remote_gen()
    assert list(itertools.islice(items, 3)) == [0, 1, 2]
    with pytest.raises(FunctionTimeoutError, match="timeout of 1 s"):
        next(items)


# -- leaving early -------------------------------------------------------------------------------------------------


def leave_by_break(folder: Path) -> None:
    for item in s.endless.remote_gen(folder):
        if item == 10:
            break


def leave_by_exception(folder: Path) -> None:
    with contextlib.suppress(KeyError):
        for _ in s.endless.remote_gen(folder):
            raise KeyError


def leave_by_close(folder: Path) -> None:
    items: Any = s.endless.remote_gen(folder)
    next(items)
    items.close()


def leave_as_garbage(folder: Path) -> None:
    items = s.endless.remote_gen(folder)
    next(items)
    del items


def leave_async_for(folder: Path) -> None:
    async def main() -> None:
        async for item in s.async_endless.remote_gen.aio(folder):
            if item == 10:
                break

    asyncio.run(main())


def leave_by_cancelling_the_task(folder: Path) -> None:
    async def read() -> None:
        async for _ in s.busy.remote_gen.aio(folder):
            first.set()

    async def main() -> None:
        task = asyncio.create_task(read())
        await first.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    first = asyncio.Event()
    asyncio.run(main())


def leave_while_it_computes(folder: Path) -> None:
    for _ in s.busy.remote_gen(folder):
        break


WAYS = [
    leave_by_break,
    leave_by_exception,
    leave_by_close,
    leave_as_garbage,
    leave_async_for,
    leave_by_cancelling_the_task,
    leave_while_it_computes,
]


@pytest.mark.parametrize("leave", WAYS, ids=[way.__name__ for way in WAYS])
def test_leaving_early_closes_the_generator(side: Side, tmp_path: Path, leave: Callable[[Path], None]) -> None:
    leave(tmp_path)
    wait_until((tmp_path / "closed").exists, 5, "its finally has run")
    for function in (s.endless, s.async_endless, s.busy):
        settle(side, function)


# -- the window ----------------------------------------------------------------------------------------------------


def made(folder: Path) -> int:
    """Return how many items have been begun."""
    text = (folder / "made").read_text() if (folder / "made").exists() else ""
    return int(text or 0)


def stands(folder: Path, most: int) -> int:
    """Return how many items were made when the producer stands still."""
    deadline = time.monotonic() + SOON
    before = -1
    while before != made(folder) or before < most // 2:
        assert time.monotonic() < deadline
        before = made(folder)
        time.sleep(0.2)  # what stands still can only be seen by looking twice
    return before


@pytest.mark.parametrize("function", [s.endless, s.async_endless], ids=["sync", "async"])
def test_a_producer_waits_for_a_slow_consumer(side: Side, tmp_path: Path, function: Any) -> None:
    items = function.remote_gen(tmp_path)
    assert next(items) == 0
    most = WINDOW_ITEMS + PART_ITEMS + 1
    assert WINDOW_ITEMS // 2 < stands(tmp_path, WINDOW_ITEMS) <= most
    if function is s.async_endless:
        beat = (tmp_path / "beat").read_text()
        wait_until(lambda: (tmp_path / "beat").read_text() != beat, 5, "its loop goes on")
    assert list(itertools.islice(items, 5_000)) == list(range(1, 5_001))
    assert stands(tmp_path, 5_000 + WINDOW_ITEMS // 2) <= 5_000 + most
    items.close()
    wait_until((tmp_path / "closed").exists, 5, "it is closed while it waits")
    settle(side, function)


def test_large_items_pass_one_at_a_time(side: Side, tmp_path: Path) -> None:
    items = s.endless.remote_gen(tmp_path, size=3_000_000)
    for _ in range(5):
        assert len(next(items)) == 3_000_000
    assert stands(tmp_path, 4) <= 8
    items.close()
    wait_until((tmp_path / "closed").exists, 5, "it is closed")
    settle(side, s.endless)


# -- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", GENERATORS, ids=["sync", "async"])
def test_other_calls_of_a_generator_function_say_what_to_use(side: Side, function: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: function.remote(3),
        lambda: function.spawn(3),
        lambda: list(function.map([3])),
        lambda: list(function.starmap([(3,)])),
        lambda: function.for_each([3]),
        lambda: function.delay(3),
        lambda: function.apply_async((3,)),
        lambda: function.s(3).apply_async(),
        lambda: function.task(3),
        lambda: asyncio.run(function.remote.aio(3)),
        lambda: asyncio.run(function.spawn.aio(3)),
        lambda: function.spawn_map([3]),
        lambda: asyncio.run(function.spawn_map.aio([3])),
        lambda: asyncio.run(collected(function.map.aio([3]))),
        lambda: asyncio.run(function.for_each.aio([3])),
    ]
    for call in calls:
        with pytest.raises(
            InvalidError, match=rf"streams\.{function.name} is a generator .*use \.remote_gen\(\.\.\.\)"
        ):
            call()
    assert side.load(function) == (0, 0)


def test_a_function_that_is_no_generator_says_what_to_use(side: Side) -> None:
    for call in (functions.square.remote_gen, functions.square.remote_gen.aio):
        with pytest.raises(InvalidError, match=r"contract\.square is no generator function: call it with \.remote\("):
            call(3)
