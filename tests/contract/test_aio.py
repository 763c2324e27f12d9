"""What asynchronous callers see: the same over the twin and over Redis, a controller and containers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.connection

from scaleplug import AsyncUsageWarning, FunctionCall
from scaleplug.errors import InvalidError, ResourceExhausted, SerializationError
from tests.contract import functions as f
from tests.contract.sides import Side, limits, settle
from tests.helpers import wait_until

SOON = 15.0


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 2 * SOON))


def begun(folder: Path) -> set[str]:
    return {file.name.removeprefix("begun-") for file in folder.glob("begun-*")}


async def numbers(upto: int | None, read: list[int] | None = None) -> AsyncIterator[int]:
    """Count, and say what has been read."""
    for x in itertools.count() if upto is None else range(upto):
        await asyncio.sleep(0)
        if read is not None:
            read.append(x)
        yield x


@pytest.fixture
def busy(side: Side, tmp_path: Path) -> Iterator[None]:
    """Let the one container of ``hold`` be busy until the test is over."""
    f.hold.spawn(tmp_path, 1000)
    wait_until(lambda: begun(tmp_path) == {"1000"})
    yield
    (tmp_path / "go").touch()
    settle(side, f.hold)


# -- calls ---------------------------------------------------------------------------------------------------------


def test_many_calls_at_once_need_no_thread_each_and_never_redis_on_the_loop(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops_thread, most = threading.get_ident(), 0
    send = redis.connection.AbstractConnection.send_packed_command

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        assert threading.get_ident() != loops_thread, "the event loop waits for Redis"
        return send(self, *args, **kwargs)

    async def one(x: int) -> int:
        nonlocal most
        result: int = await f.square.remote.aio(x)
        most = max(most, threading.active_count())
        return result

    async def many() -> None:
        calls = asyncio.gather(*(one(x) for x in range(400)))
        spawned = await asyncio.gather(*(f.square.spawn.aio(x) for x in range(100)))
        assert await calls == [x * x for x in range(400)]
        assert await FunctionCall.gather.aio(*spawned) == [x * x for x in range(100)]
        assert [x async for x in f.square.map(numbers(300), order_outputs=False)].__len__() == 300
        assert [x async for x in f.square.map(range(300))] == [x * x for x in range(300)]
        await spawned[0].cancel.aio()

    monkeypatch.setattr(redis.connection.AbstractConnection, "send_packed_command", watched)
    if side.name == "real":
        f.app.store.registered.clear()  # so that registering is seen too
    before = threading.active_count()
    run(many())
    assert most <= before + 12


def test_of_many_calls_those_above_the_limit_are_refused_each(side: Side, busy: None, tmp_path: Path) -> None:
    async def many() -> list[Any]:
        waiting = [asyncio.ensure_future(f.hold.remote.aio(tmp_path, x)) for x in range(8)]
        await asyncio.to_thread(wait_until, lambda: sum(task.done() for task in waiting) == 5)
        (tmp_path / "go").touch()
        return await asyncio.gather(*waiting, return_exceptions=True)

    with limits(max_pending=3):
        results = run(many())
    refused = [result for result in results if isinstance(result, ResourceExhausted)]
    assert len(refused) == 5
    assert len({id(error) for error in refused}) == 5
    assert all("3 inputs pending, and 3 are allowed" in str(error) for error in refused)
    assert [x for x, result in enumerate(results) if result == x] == [0, 1, 2]


def test_every_call_that_was_spawned_at_once_is_known(side: Side) -> None:
    async def many() -> None:
        calls = await asyncio.gather(*(f.add.spawn.aio(x, scale=2) for x in range(50)))
        assert len({call.object_id for call in calls}) == 50
        again = [FunctionCall.from_id(call.object_id) for call in calls]
        assert await asyncio.gather(*(call.get.aio(timeout=SOON) for call in again)) == [
            (x + 10) * 2 for x in range(50)
        ]

    run(many())


@pytest.mark.parametrize("large", [False, True])
def test_arguments_are_those_of_the_moment_of_the_call(side: Side, large: bool) -> None:
    async def call() -> Any:
        values = [0] * (1_000_000 if large else 1)
        waiting = asyncio.ensure_future(f.echo.remote.aio(values))
        await asyncio.sleep(0)
        if not large:
            values.append(1)
        return await waiting == values[: len(values) if large else 1]

    assert run(call())


def test_errors_of_sending_are_those_of_the_call(side: Side) -> None:
    async def calls() -> None:
        with pytest.raises(TypeError, match="argument"):
            await f.square.remote.aio()
        with pytest.raises(TypeError, match="argument"):
            await f.square.spawn.aio(1, 2)
        with pytest.raises(SerializationError, match=r"contract\.echo"):
            await f.echo.spawn.aio(threading.Lock())

    run(calls())
    assert side.load(f.square) == side.load(f.echo) == (0, 0)


def test_cancelled_calls_take_their_inputs_along(side: Side, busy: None, tmp_path: Path) -> None:
    async def calls() -> None:
        async with asyncio.timeout(SOON):
            waiting = [asyncio.ensure_future(f.hold.remote.aio(tmp_path, x)) for x in range(20)]
            await asyncio.to_thread(wait_until, lambda: side.load(f.hold) == (20, 1))
            for task in waiting:
                task.cancel()
            assert {type(result) for result in await asyncio.gather(*waiting, return_exceptions=True)} == {
                asyncio.CancelledError
            }

    run(calls())
    wait_until(lambda: side.load(f.hold) == (0, 1))
    assert begun(tmp_path) == {"1000"}


def test_a_call_that_is_cancelled_before_it_is_sent_leaves_nothing(side: Side, busy: None, tmp_path: Path) -> None:
    async def call() -> None:
        waiting = asyncio.ensure_future(f.hold.remote.aio(tmp_path, 1))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(call())
    wait_until(lambda: side.load(f.hold) == (0, 1))


def test_gathering_ends_with_the_first_failure(side: Side, busy: None, tmp_path: Path) -> None:
    async def calls() -> None:
        slow, failing = await f.hold.spawn.aio(tmp_path, 1), await f.fail.spawn.aio("plain")
        with pytest.raises(ValueError, match="oh no"):
            await FunctionCall.gather.aio(slow, failing)
        await until(lambda: len(asyncio.all_tasks()) <= 2)  # nobody waits for the slow one any more
        await slow.cancel.aio()

    run(calls())


def test_calls_work_in_one_loop_after_another(side: Side) -> None:
    for x in range(3):
        assert run(f.square.remote.aio(x)) == x * x


# -- blocking a loop -----------------------------------------------------------------------------------------------


def test_what_blocks_the_loop_is_told_with_the_line_to_write(side: Side) -> None:
    async def calls() -> None:
        with pytest.warns(
            AsyncUsageWarning, match=r"test_aio\.py:\d+ .*: write  assert await f\.square\.remote\.aio\(3\) == 9"
        ):
            assert f.square.remote(3) == 9
        with pytest.warns(AsyncUsageWarning, match=r"write  call = await f\.square\.spawn\.aio\(4\)") as caught:
            call = f.square.spawn(4)
        assert caught[0].filename == __file__
        with pytest.warns(AsyncUsageWarning, match=r"await call\.get\.aio\(timeout=SOON\)"):
            assert call.get(timeout=SOON) == 16
        with pytest.warns(AsyncUsageWarning, match=r"await FunctionCall\.gather\.aio\(call, call\)") as caught:
            assert FunctionCall.gather(call, call) == [16, 16]
        assert len(caught) == 1
        with pytest.warns(AsyncUsageWarning, match=r"write  await call\.cancel\.aio\(\)"):
            call.cancel()
        with pytest.warns(AsyncUsageWarning, match=r"write  await f\.square\.for_each\.aio\(range\(3\)\)"):
            f.square.for_each(range(3))

    run(calls())


def test_a_plain_loop_over_a_map_in_an_event_loop_is_an_error(side: Side) -> None:
    async def loops() -> None:
        for make in (lambda: f.square.map(range(3)), lambda: f.add.starmap([(1, 2)])):
            for iterate in (list, iter, next):
                with pytest.raises(InvalidError, match=r"async for result in f\.map"):
                    iterate(make())  # type: ignore[operator]
        results = f.square.map(range(3))
        with pytest.raises(InvalidError, match="async for"):
            list(results)
        assert [result async for result in results] == [0, 1, 4]  # nothing was lost

    run(loops())


def test_the_same_holds_inside_functions(side: Side) -> None:
    value, told = f.block_the_loop.remote(3)
    assert value == 9
    (text,) = told
    assert text.startswith("AsyncUsageWarning: functions.py:")
    assert text.endswith("write  value = await square.remote.aio(x)")
    assert f.block_no_loop.remote(3) == (9, [])
    with pytest.raises(InvalidError, match="async for"):
        f.iterate_plainly.remote(3)


def test_threads_beside_a_loop_may_block(side: Side) -> None:
    async def calls() -> None:
        assert await asyncio.to_thread(f.square.remote, 3) == 9
        assert await asyncio.to_thread(lambda: list(f.square.map(range(3)))) == [0, 1, 4]

    run(calls())


# -- maps ----------------------------------------------------------------------------------------------------------


def test_maps_take_asynchronous_inputs(side: Side) -> None:
    async def pairs() -> AsyncIterator[tuple[int, int]]:
        for x in range(3):
            yield x, x

    async def maps() -> None:
        assert [x async for x in f.square.map(numbers(3))] == [0, 1, 4]
        assert [x async for x in f.square.map.aio(numbers(3))] == [0, 1, 4]
        assert [x async for x in f.add.map(numbers(None), [10, 20])] == [10, 21]
        assert [x async for x in f.add.map([10, 20, 30], numbers(2))] == [10, 21]
        assert [x async for x in f.add.starmap(pairs(), kwargs={"scale": 2})] == [0, 4, 8]
        assert [x async for x in f.square.map(f.square.map(range(4)))] == [0, 1, 16, 81]
        assert [x async for x in f.square.map(numbers(0))] == []

    run(maps())


def test_for_each_takes_asynchronous_inputs(side: Side, tmp_path: Path) -> None:
    run(f.note.for_each.aio([tmp_path] * 5, numbers(5)))
    assert len(list(tmp_path.glob("done-*"))) == 5


def test_a_plain_loop_cannot_read_asynchronous_inputs(side: Side) -> None:
    for make in (lambda: list(f.square.map(numbers(3))), lambda: f.square.for_each(numbers(3))):
        with pytest.raises(InvalidError, match="only an event loop can read: use 'async for'"):
            make()
    with pytest.raises(InvalidError, match=r"must be iterable, not int"):
        f.square.map(3)


def test_an_error_of_an_asynchronous_input_reaches_the_caller(side: Side) -> None:
    async def inputs() -> AsyncIterator[int]:
        yield 1
        raise LookupError("no more")

    async def loop() -> None:
        async for _ in f.square.map(inputs()):
            pass

    with pytest.raises(LookupError, match="no more"):
        run(loop())
    settle(side, f.square)


def test_slow_asynchronous_inputs_hold_back_nothing(side: Side, tmp_path: Path) -> None:
    results: list[int] = []

    async def inputs() -> AsyncIterator[tuple[Path, int]]:
        for x in range(4):
            yield tmp_path, x
            # Its result comes before the next input is there.
            await asyncio.wait_for(until(lambda: len(results) == x + 1), SOON)  # noqa: B023  # awaited in this round

    async def loop() -> None:
        async for result in f.note.starmap(inputs()):
            results.append(result)  # noqa: PERF401  # the inputs watch it grow

    run(loop())
    assert results == [0, 1, 2, 3]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # it is the other side's, which sets no event
        await asyncio.sleep(0.005)


def test_asynchronous_inputs_are_read_no_further_than_the_window(side: Side, busy: None, tmp_path: Path) -> None:
    read: list[int] = []

    async def loop() -> None:
        async with contextlib.aclosing(f.hold.map.aio(itertools.repeat(tmp_path), numbers(None, read))) as results:
            waiting = asyncio.ensure_future(anext(results))
            await until(lambda: len(read) >= 7 and side.load(f.hold)[0] == 7)
            for _ in range(20):
                await asyncio.sleep(0)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting

    with limits(map_window=7):
        run(loop())
    assert len(read) == 7
    wait_until(lambda: side.load(f.hold) == (0, 1), message="what is left is cancelled")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_cancelled_task_cancels_its_map(side: Side, busy: None, tmp_path: Path, asynchronous: bool) -> None:
    async def loop() -> None:
        async for _ in f.hold.map(itertools.repeat(tmp_path), numbers(30) if asynchronous else range(30)):
            pass

    async def cancelled() -> None:
        task = asyncio.ensure_future(loop())
        await asyncio.to_thread(wait_until, lambda: side.load(f.hold) == (30, 1))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancelled())
    assert side.load(f.hold) == (0, 1)


def test_leaving_a_map_of_asynchronous_inputs_cancels_what_is_left(side: Side, tmp_path: Path) -> None:
    (tmp_path / "free").mkdir()
    (tmp_path / "free" / "go").touch()
    closed = []

    async def inputs() -> AsyncIterator[tuple[Path, int]]:
        try:
            yield tmp_path / "free", 0
            for x in itertools.count(1):
                yield tmp_path, x
        finally:
            closed.append(True)

    async def loop() -> None:
        async for result in f.hold.starmap(inputs()):
            assert result == 0
            break

    run(loop())
    wait_until(lambda: side.load(f.hold) == (0, 0), message="the rest is cancelled")
    assert closed == [True]


def test_an_async_map_above_the_limits_waits(side: Side, busy: None, tmp_path: Path) -> None:
    async def loop() -> list[int]:
        return [result async for result in f.hold.map(itertools.repeat(tmp_path), range(10))]

    async def both() -> list[int]:
        task = asyncio.ensure_future(loop())
        await asyncio.to_thread(wait_until, lambda: side.load(f.hold) == (3, 1))
        (tmp_path / "go").touch()
        return await task

    with limits(max_pending=3):
        assert run(both()) == list(range(10))
