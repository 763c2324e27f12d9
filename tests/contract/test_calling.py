"""What a caller sees: the same over the twin and over Redis, a controller and containers."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import gc
import itertools
import logging
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import chain, chord, group

from scaleplug import FunctionCall
from scaleplug.errors import (
    ContainerCrashError,
    FunctionTimeoutError,
    InputCancelledError,
    InvalidError,
    NotFoundError,
    OutputExpiredError,
    RemoteError,
    ResourceExhausted,
    SerializationError,
    UserCodeException,
)
from tests.contract import functions as f
from tests.contract.sides import Side, limits, settle
from tests.helpers import wait_until

SOON = 15.0
"""Seconds in which anything must have happened."""


def begun(folder: Path) -> set[str]:
    """Return the inputs of ``hold`` and its like that have begun."""
    return {file.name.removeprefix("begun-") for file in folder.glob("begun-*")}


@pytest.fixture
def held(side: Side, tmp_path: Path) -> Iterator[Callable[[int], FunctionCall[int]]]:
    """Give a way to spawn inputs that hold their container, one after the other, until the test is over."""
    calls = []

    def spawn(x: int) -> FunctionCall[int]:
        calls.append(f.hold.spawn(tmp_path, x))
        return calls[-1]

    yield spawn
    (tmp_path / "go").touch()
    settle(side, f.hold)


# -- remote, local -------------------------------------------------------------------------------------------------


def test_remote_returns_the_result(side: Side) -> None:
    assert f.square.remote(3) == 9


def test_remote_takes_positional_keyword_and_default_arguments(side: Side) -> None:
    assert f.add.remote(1) == 11
    assert f.add.remote(1, 2) == 3
    assert f.add.remote(b=1, a=2, scale=5) == 15


def test_local_runs_here(side: Side) -> None:
    assert f.square.local(3) == 9
    assert asyncio.run(f.async_double.local(3)) == 6
    assert side.load(f.square) == (0, 0)


@pytest.mark.parametrize("args", [(), (1, 2)])
def test_wrong_arguments_are_the_type_error_of_a_plain_call_at_once(side: Side, args: tuple[int, ...]) -> None:
    for call in (f.square.remote, f.square.spawn, f.square.delay):
        with pytest.raises(TypeError, match="argument"):
            call(*args)
    with pytest.raises(TypeError, match="argument"):
        list(f.square.starmap([args]))
    assert side.load(f.square) == (0, 0)


def test_a_function_is_not_callable_and_says_what_to_do(side: Side) -> None:
    with pytest.raises(TypeError, match=r"contract\.square can't be called .*\.remote\(.*\.map\(.*\.local\("):
        f.square(3)


# -- spawn ---------------------------------------------------------------------------------------------------------


def test_spawn_gives_a_call_to_wait_for(side: Side) -> None:
    call = f.square.spawn(4)
    assert isinstance(call, FunctionCall)
    assert call.object_id.startswith("fc-")
    assert call.get(timeout=SOON) == 16
    assert call.get() == 16  # as often as one likes
    assert call.get(timeout=0) == 16


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_get_raises_the_builtin_timeout_error_while_there_is_no_result(
    side: Side, held: Callable[[int], FunctionCall[int]], timeout: float
) -> None:
    call = held(1)
    started = time.monotonic()
    with pytest.raises(builtins.TimeoutError, match=call.object_id):
        call.get(timeout=timeout)
    with pytest.raises(builtins.TimeoutError):
        asyncio.run(call.get.aio(timeout=timeout))
    assert time.monotonic() - started < 5


def test_get_raises_the_functions_error_every_time(side: Side) -> None:
    call = f.fail.spawn("plain", "spawned")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^spawned$"):
            call.get(timeout=SOON)


def test_from_id_finds_a_call_again(side: Side) -> None:
    call = f.square.spawn(5)
    again = FunctionCall.from_id(call.object_id)
    assert again.get(timeout=SOON) == 25
    assert again.object_id == call.object_id
    assert call.object_id in repr(again)


def test_a_call_from_id_can_be_cancelled(side: Side, held: Callable[[int], FunctionCall[int]], tmp_path: Path) -> None:
    held(0)
    wait_until(lambda: begun(tmp_path) == {"0"})
    pending = held(1)
    FunctionCall.from_id(pending.object_id).cancel()
    with pytest.raises(InputCancelledError):
        pending.get(timeout=SOON)


def test_an_unknown_call_is_told(side: Side) -> None:
    unknown = FunctionCall.from_id(f"fc-{uuid4().hex}")
    with pytest.raises(OutputExpiredError, match=unknown.object_id):
        unknown.get()
    with pytest.raises(NotFoundError, match=unknown.object_id):
        unknown.cancel()


@pytest.mark.parametrize("wrong", [None, "", 7])
def test_an_id_must_be_an_id(side: Side, wrong: Any) -> None:
    with pytest.raises(InvalidError, match="function_call_id"):
        FunctionCall.from_id(wrong)


def test_gather_gives_results_in_the_order_of_the_calls(side: Side) -> None:
    assert FunctionCall.gather(*[f.square.spawn(x) for x in (3, 1, 2)]) == [9, 1, 4]
    assert FunctionCall.gather() == []


def test_gather_raises_the_first_failure_and_leaves_the_others(side: Side) -> None:
    calls = [f.square.spawn(1), f.fail.spawn("plain"), f.square.spawn(2)]
    with pytest.raises(ValueError, match="oh no"):
        FunctionCall.gather(*calls)
    assert calls[2].get(timeout=SOON) == 4


def test_gather_takes_calls_not_a_list(side: Side) -> None:
    with pytest.raises(InvalidError, match=r"gather\(\*calls\)"):
        FunctionCall.gather([])  # type: ignore[arg-type]


# -- cancel --------------------------------------------------------------------------------------------------------


def test_a_cancelled_pending_input_vanishes(
    side: Side, held: Callable[[int], FunctionCall[int]], tmp_path: Path
) -> None:
    running = held(0)
    wait_until(lambda: begun(tmp_path) == {"0"})
    pending = held(1)
    wait_until(lambda: side.load(f.hold) == (1, 1))
    pending.cancel()
    wait_until(lambda: side.load(f.hold) == (0, 1))
    with pytest.raises(InputCancelledError, match=pending.object_id):
        pending.get(timeout=SOON)
    with pytest.raises(InputCancelledError):
        pending.get(timeout=0)
    (tmp_path / "go").touch()
    assert running.get(timeout=SOON) == 0
    assert begun(tmp_path) == {"0"}


def test_a_cancelled_running_input_is_interrupted(
    side: Side, held: Callable[[int], FunctionCall[int]], tmp_path: Path
) -> None:
    call = held(0)
    wait_until(lambda: begun(tmp_path) == {"0"})
    call.cancel()
    with pytest.raises(InputCancelledError, match=call.object_id):
        call.get(timeout=SOON)
    wait_until((tmp_path / "interrupted-0").exists)
    wait_until(lambda: side.load(f.hold) == (0, 0))


def test_a_cancelled_running_async_input_is_interrupted(side: Side, tmp_path: Path) -> None:
    call = f.async_hold.spawn(tmp_path, 0)
    wait_until(lambda: begun(tmp_path) == {"0"})
    call.cancel()
    with pytest.raises(InputCancelledError, match=call.object_id):
        call.get(timeout=SOON)
    wait_until((tmp_path / "interrupted-0").exists)
    (tmp_path / "go").touch()
    assert f.async_hold.remote(tmp_path, 1) == 1  # and the next one runs as if nothing had been


def test_somebody_who_waits_is_told_of_the_cancellation(
    side: Side, held: Callable[[int], FunctionCall[int]], tmp_path: Path
) -> None:
    held(0)
    wait_until(lambda: begun(tmp_path) == {"0"})
    pending = held(1)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pending.get)
        wait_until(waiting.running)
        pending.cancel()
        with pytest.raises(InputCancelledError):
            waiting.result(timeout=SOON)


def test_cancelling_a_finished_call_changes_nothing(side: Side) -> None:
    call = f.square.spawn(6)
    assert call.get(timeout=SOON) == 36
    call.cancel()
    asyncio.run(call.cancel.aio())
    assert call.get(timeout=0) == 36


# -- map -----------------------------------------------------------------------------------------------------------


def test_map_gives_results_in_the_order_of_the_inputs(side: Side) -> None:
    assert list(f.square.map(range(100))) == [x * x for x in range(100)]
    assert list(f.square.map([])) == []


def test_map_takes_one_iterator_per_argument_and_the_shortest_wins(side: Side) -> None:
    assert list(f.add.map([1, 2, 3], itertools.count())) == [1, 3, 5]
    assert list(f.add.map(itertools.repeat(1), range(3))) == [1, 2, 3]


def test_map_takes_the_same_keyword_arguments_for_all_inputs(side: Side) -> None:
    assert list(f.add.map([1, 2], kwargs={"b": 1, "scale": 10})) == [20, 30]
    with pytest.raises(InvalidError, match="kwargs must be a mapping"):
        f.add.map([1], kwargs=[("b", 1)])


def test_map_of_an_async_function(side: Side) -> None:
    assert list(f.async_double.map(range(10))) == [x * 2 for x in range(10)]


def test_unordered_results_come_as_they_are_ready(side: Side, tmp_path: Path) -> None:
    def inputs() -> Iterator[tuple[Path, int]]:
        yield tmp_path / "held", 0
        for x in range(1, 10):
            yield tmp_path, x

    (tmp_path / "held").mkdir()
    (tmp_path / "go").touch()
    with limits(map_window=10):
        results = iter(f.hold_some.starmap(inputs(), order_outputs=False))
        first = [next(results) for _ in range(9)]
        (tmp_path / "held" / "go").touch()
        assert sorted(first) == list(range(1, 10))
        assert list(results) == [0]


def test_starmap_spreads_each_input(side: Side) -> None:
    assert list(f.add.starmap([(1, 2), [3, 4], (5,)])) == [3, 7, 15]
    assert list(f.add.starmap([(1, 2)], kwargs={"scale": 2})) == [6]
    with pytest.raises(InvalidError, match=r"each input of contract\.add\.starmap"):
        list(f.add.starmap([1]))  # type: ignore[list-item]


def test_for_each_waits_for_all_and_returns_nothing(side: Side, tmp_path: Path) -> None:
    assert f.note.for_each([tmp_path] * 5, range(5)) is None
    assert len(list(tmp_path.glob("done-*"))) == 5
    assert asyncio.run(f.note.for_each.aio([tmp_path] * 7, range(7))) is None
    assert len(list(tmp_path.glob("done-*"))) == 7


def test_for_each_raises_an_error_or_goes_on(side: Side) -> None:
    with pytest.raises(ValueError, match="two"):
        f.may_fail.for_each(range(4))
    settle(side, f.may_fail)
    assert f.may_fail.for_each(range(4), ignore_exceptions=True) is None


def test_a_map_without_iterators_is_an_error(side: Side) -> None:
    for call in (f.square.map, f.square.for_each):
        with pytest.raises(InvalidError, match="at least one iterator"):
            call()


def test_what_is_not_iterable_is_told_by_position(side: Side) -> None:
    with pytest.raises(InvalidError, match=r"input 2 of contract\.add\.map\(\) must be iterable, not int"):
        f.add.map([1], 2)
    with pytest.raises(InvalidError, match=r"contract\.add\.starmap\(\) must be iterable"):
        f.add.starmap(5)  # type: ignore[arg-type]


def test_a_map_sends_nothing_until_it_is_iterated(side: Side) -> None:
    read = []
    results = f.square.map(x for x in range(3) if not read.append(x))  # type: ignore[func-returns-value]
    assert read == []
    assert list(results) == [0, 1, 4]


def test_infinite_iterators_are_read_no_more_than_the_window_ahead(side: Side) -> None:
    read = itertools.count()
    results = iter(f.square.map(next(read) for _ in itertools.count()))
    given = 0
    for expected in range(30):
        assert next(results) == expected * expected
        given += 1
    assert next(read) <= 1_000 + given
    results.close()  # type: ignore[attr-defined]
    settle(side, f.square)


def test_the_window_can_be_set(side: Side) -> None:
    read, most = 0, 0

    def inputs() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    with limits(map_window=7):
        for given, _ in enumerate(f.square.map(inputs())):
            most = max(most, read - given)
            if given == 50:
                break
    assert 1 < most <= 7 + 1
    settle(side, f.square)


def test_next_works_on_a_map(side: Side) -> None:
    results = f.square.map([3, 4])
    assert next(results) == 9
    assert next(results) == 16
    with pytest.raises(StopIteration):
        next(results)


def test_a_map_can_be_iterated_once(side: Side) -> None:
    results = f.square.map([3])
    assert list(results) == [9]
    with pytest.raises(InvalidError, match=r"iterated once.*list\("):
        list(results)

    async def again() -> None:
        async for _ in results:
            pytest.fail("it has been iterated")

    with pytest.raises(InvalidError, match="iterated once"):
        asyncio.run(again())


@pytest.mark.parametrize("make", [lambda: f.square.map([1]), lambda: f.square.map.aio([1]), lambda: f.add.starmap([])])
def test_a_map_that_was_never_iterated_warns_once(side: Side, make: Callable[[], Any]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = make()
        del results
        gc.collect()
    assert [str(w.message).partition("()")[0].rpartition(".")[0] for w in caught if w.category is RuntimeWarning] in (
        ["contract.square"],
        ["contract.add"],
    )


def test_an_error_of_the_input_iterator_reaches_the_caller(side: Side) -> None:
    def inputs() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(f.square.map(inputs()))
    settle(side, f.square)


def test_input_iterators_run_in_the_callers_thread(side: Side) -> None:
    threads = set()

    def inputs() -> Iterator[int]:
        for x in range(20):
            threads.add(threading.get_ident())
            yield x

    assert len(list(f.square.map(inputs()))) == 20
    assert threads == {threading.get_ident()}


# -- map: slow iterators -------------------------------------------------------------------------------------------


def slow_inputs(folder: Path, results: list[int]) -> Iterator[tuple[Path, int]]:
    """Give one input now and then until three results are there: they must not wait for the end of this."""
    yield folder, 0
    # Whoever asked for this input is blocked meanwhile; the one before is on its way all the same.
    wait_until((folder / "done-0").exists, message="the first input was sent")
    deadline = time.monotonic() + SOON
    for x in itertools.count(1):
        if len(results) >= 3:
            return
        assert time.monotonic() < deadline, "results wait for the iterator"
        slow_until = time.monotonic() + 0.02
        wait_until(lambda: time.monotonic() >= slow_until)  # noqa: B023  # it is called in this round
        yield folder, x


def test_a_slow_iterator_holds_back_neither_sent_inputs_nor_results(side: Side, tmp_path: Path) -> None:
    results: list[int] = []
    for result in f.note.starmap(slow_inputs(tmp_path, results)):
        results.append(result)  # noqa: PERF402  # the iterator watches it grow
    assert results == list(range(len(results)))


def test_a_slow_iterator_of_an_async_map_holds_back_nothing_either(side: Side, tmp_path: Path) -> None:
    results: list[int] = []

    async def run() -> None:
        async for result in f.note.starmap.aio(slow_inputs(tmp_path, results)):
            results.append(result)  # noqa: PERF401

    asyncio.run(run())
    assert results == list(range(len(results)))


# -- map: errors and early ends ------------------------------------------------------------------------------------


def test_an_ordered_map_raises_at_the_place_of_the_failed_input(side: Side) -> None:
    results: list[int] = []
    with pytest.raises(ValueError, match=r"^two$"):
        results.extend(f.may_fail.map(range(5)))
    assert results == [0, 1]
    settle(side, f.may_fail)


def test_a_failed_map_cancels_the_rest(side: Side, tmp_path: Path) -> None:
    count = 200
    with pytest.raises(ValueError, match="3 is wrong"):
        list(f.note_or_fail.map([tmp_path] * count, range(count), [3] * count))
    settle(side, f.note_or_fail)
    assert len(begun(tmp_path)) <= count / 2  # some follow within the moment until the container is told


def test_leaving_a_map_early_cancels_what_is_left(side: Side, tmp_path: Path) -> None:
    (tmp_path / "free").mkdir()
    (tmp_path / "free" / "go").touch()
    inputs = [(tmp_path / "free", 0), *((tmp_path, x) for x in range(1, 50))]
    for result in f.hold.starmap(inputs):
        assert result == 0
        wait_until(lambda: begun(tmp_path) == {"1"})
        break
    wait_until(lambda: side.load(f.hold) == (0, 0), message="the rest is cancelled")
    wait_until((tmp_path / "interrupted-1").exists)
    assert begun(tmp_path) == {"1"}


@pytest.mark.parametrize("closing", [True, False])
def test_leaving_an_async_map_early_cancels_what_is_left(side: Side, tmp_path: Path, closing: bool) -> None:
    (tmp_path / "free").mkdir()
    (tmp_path / "free" / "go").touch()
    inputs = [(tmp_path / "free", 0), *((tmp_path, x) for x in range(1, 50))]

    async def run() -> None:
        if closing:
            async with contextlib.aclosing(f.hold.starmap.aio(inputs)) as results:
                assert await anext(results) == 0
        else:
            async for result in f.hold.starmap(inputs):
                assert result == 0
                break

    asyncio.run(run())
    wait_until(lambda: side.load(f.hold) == (0, 0), message="the rest is cancelled")
    assert begun(tmp_path) <= {"1"}


def test_a_map_dropped_after_next_is_left_too(side: Side, tmp_path: Path) -> None:
    (tmp_path / "free").mkdir()
    (tmp_path / "free" / "go").touch()
    assert next(f.hold.starmap([(tmp_path / "free", 0), (tmp_path, 1), (tmp_path, 2)])) == 0
    gc.collect()
    wait_until(lambda: side.load(f.hold) == (0, 0), message="the rest is cancelled")


def test_exceptions_as_results(side: Side) -> None:
    results = list(f.may_fail.map(range(4), return_exceptions=True))
    assert results[:2] + results[3:] == [0, 1, 9]
    assert type(results[2]) is ValueError
    assert str(results[2]) == "two"


@pytest.mark.parametrize("wrap", [None, False])
def test_returned_exceptions_are_raw_by_default(side: Side, wrap: bool | None) -> None:
    results = list(f.may_fail.map([2], return_exceptions=True, wrap_returned_exceptions=wrap))
    assert [type(result) for result in results] == [ValueError]


def test_returned_exceptions_can_be_wrapped(side: Side) -> None:
    (result,) = f.may_fail.starmap([(2,)], return_exceptions=True, wrap_returned_exceptions=True)
    assert isinstance(result, UserCodeException)
    assert isinstance(result.__cause__, ValueError)
    assert isinstance(result.exc, ValueError)
    assert str(result) == "two"


# -- async ---------------------------------------------------------------------------------------------------------


def test_aio_variants(side: Side) -> None:
    async def run() -> None:
        assert await f.square.remote.aio(3) == 9
        call = await f.square.spawn.aio(4)
        assert await call.get.aio(timeout=SOON) == 16
        assert await FunctionCall.gather.aio(call, call) == [16, 16]
        assert [x async for x in f.square.map(range(4))] == [0, 1, 4, 9]
        assert [x async for x in f.square.map.aio(range(4))] == [0, 1, 4, 9]
        assert [x async for x in f.add.starmap.aio([(1, 1)])] == [2]
        with pytest.raises(ValueError, match="two"):
            await f.may_fail.remote.aio(2)
        with pytest.raises(ValueError, match="two"):
            [x async for x in f.may_fail.map.aio([2])]

    asyncio.run(run())


def test_a_hundred_awaited_calls(side: Side) -> None:
    async def run() -> list[int]:
        return await asyncio.gather(*[f.async_double.remote.aio(i) for i in range(100)])

    assert asyncio.run(run()) == [2 * i for i in range(100)]


def test_waiting_does_not_block_the_loop(side: Side, tmp_path: Path) -> None:
    async def run() -> int:
        waiting = asyncio.create_task(f.hold.remote.aio(tmp_path, 5))
        await asyncio.to_thread(wait_until, lambda: begun(tmp_path))
        (tmp_path / "go").touch()
        return await waiting

    assert asyncio.run(asyncio.wait_for(run(), SOON)) == 5


def test_a_cancelled_await_cancels_its_input(
    side: Side, held: Callable[[int], FunctionCall[int]], tmp_path: Path
) -> None:
    held(0)
    wait_until(lambda: begun(tmp_path) == {"0"})

    async def run() -> None:
        waiting = asyncio.create_task(f.hold.remote.aio(tmp_path, 1))
        await asyncio.to_thread(wait_until, lambda: side.load(f.hold) == (1, 1))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(asyncio.wait_for(run(), SOON))
    wait_until(lambda: side.load(f.hold) == (0, 1))


# -- exceptions ----------------------------------------------------------------------------------------------------


def test_an_exception_keeps_all_that_belongs_to_it(side: Side) -> None:
    with pytest.raises(f.OddError) as caught:
        f.fail.remote("odd")
    error = caught.value
    assert str(error) == "oh no"
    assert type(error) is f.OddError
    assert error.args == ("oh no",)
    assert error.code == 7
    assert error.__notes__ == ["noted where it was raised"]
    assert type(error.__cause__) is KeyError
    assert error.__cause__.args == ("the cause",)


def test_an_exception_shows_where_it_was_raised(side: Side) -> None:
    with pytest.raises(f.OddError) as caught:
        f.fail.remote("odd")
    frames = traceback.extract_tb(caught.value.__traceback__)
    remote = [frame.name for frame in frames if frame.filename == f.__file__]
    assert remote == ["fail", "_deeper"]
    assert frames[0].name == "test_an_exception_shows_where_it_was_raised"
    inside = [frame.filename for frame in frames[frames.index(next(x for x in frames if x.name == "fail")) :]]
    assert set(inside) == {f.__file__}


def test_an_exception_group_keeps_its_parts(side: Side) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        f.fail.remote("group")
    odd = caught.value.subgroup(f.OddError)
    assert odd is not None
    assert [error.code for error in odd.exceptions if isinstance(error, f.OddError)] == [2]
    assert [type(error) for error in caught.value.exceptions] == [ValueError, f.OddError]


def test_an_exception_whose_class_wants_other_arguments_travels_too(side: Side) -> None:
    with pytest.raises(f.PickyError, match=r"^this and that$"):
        f.fail.remote("picky")


@pytest.mark.parametrize(
    ("kind", "text"), [("unloadable", "UnloadableError: it is so"), ("locked", "LockedError: it is so")]
)
def test_an_exception_that_cannot_travel_is_told_in_words(side: Side, kind: str, text: str) -> None:
    with pytest.raises(RemoteError, match=text) as caught:
        f.fail.remote(kind, "it is so")
    assert "in fail" in caught.value.__notes__[0]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, MemoryError, GeneratorExit])
def test_what_would_end_a_process_reaches_the_caller_and_the_container_lives(
    side: Side, error: type[BaseException]
) -> None:
    process = f.leave.remote("")
    with pytest.raises(error):
        f.leave.remote(error.__name__)
    with pytest.raises(error):
        f.leave.spawn(error.__name__).get(timeout=SOON)
    assert f.leave.remote("") == process


@pytest.mark.parametrize("kind", ["Ignore", "Reject"])
def test_celerys_own_signals_reach_the_caller_too(side: Side, kind: str) -> None:
    with pytest.raises(Exception, match=r"never mind|not me"):
        f.leave.spawn(kind).get(timeout=SOON)


# -- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 0, "", b"\0\xff", "é\U0001f600", [1, {"a": (2, None)}], f.Point(3), ...])
def test_values_travel_there_and_back(side: Side, value: Any) -> None:
    assert f.echo.remote(value) == value


def test_a_value_is_a_copy(side: Side) -> None:
    value = [1]
    assert f.echo.remote(value) is not value


def test_none_is_a_result(side: Side) -> None:
    assert f.make.remote("none") is None
    assert list(f.echo.map([None, None])) == [None, None]
    assert f.make.spawn("none").get(timeout=SOON) is None


def test_functions_travel_by_value(side: Side) -> None:
    offset = 5
    assert f.echo.remote(lambda x: x + offset)(1) == 6
    assert f.make.remote("lambda")(1) == 2


def test_big_values(side: Side) -> None:
    assert f.length.remote(bytes(5_000_000)) == 5_000_000
    assert len(f.make.remote("megabytes")) == 5_000_000


def test_an_argument_that_cannot_be_pickled_names_the_function(side: Side) -> None:
    lock = threading.Lock()
    text = r"argument 1 of contract\.echo, a _thread\.lock \(<unlocked .*\), can't be pickled: TypeError: .*lock"
    for call in (f.echo.remote, f.echo.spawn, f.echo.delay):
        with pytest.raises(SerializationError, match=text):
            call(lock)
    with pytest.raises(SerializationError, match=text):
        list(f.echo.map([1, lock]))
    with pytest.raises(SerializationError, match=text):
        asyncio.run(f.echo.remote.aio(lock))
    settle(side, f.echo)


@pytest.mark.parametrize("kind", ["lock", "generator"])
def test_a_result_that_cannot_be_pickled_names_the_function(side: Side, kind: str) -> None:
    with pytest.raises(SerializationError, match=rf"what contract\.make returned, a .*{kind}.*, can't be pickled"):
        f.make.remote(kind)


def test_an_argument_that_cannot_be_unpickled_is_told(side: Side) -> None:
    text = r"an argument of contract\.echo can't be unpickled.*not to be loaded"
    for _ in range(2):
        with pytest.raises(SerializationError, match=text):
            f.echo.spawn(f.Unloadable()).get(timeout=SOON)
    assert f.echo.remote(1) == 1


def test_a_result_that_cannot_be_unpickled_is_told(side: Side) -> None:
    with pytest.raises(Exception, match="could not be unpickled here: RuntimeError: not to be loaded"):
        f.make.remote("unloadable")


# -- functions and functions ---------------------------------------------------------------------------------------


def test_a_function_calls_another(side: Side) -> None:
    assert f.sum_of_squares.remote(5) == 30
    assert list(f.sum_of_squares.map([1, 2, 3, 4])) == [0, 1, 5, 14]
    assert f.countdown.remote(3) == [3, 2]


def test_an_async_function_awaits_another(side: Side) -> None:
    assert f.async_sum_of_squares.remote(5) == 30


def test_a_function_travels_as_an_argument(side: Side) -> None:
    assert f.call_it.remote(f.square, 7) == 49
    assert f.echo.remote(f.square) is f.square


def test_a_call_travels(side: Side) -> None:
    assert f.spawn_it.remote(8).get(timeout=SOON) == 64
    assert f.wait_for_it.remote(f.square.spawn(9)) == 81


def test_many_callers_that_wait_for_others_do_not_stop_each_other(side: Side) -> None:
    assert list(f.call_it.starmap([(f.sum_of_squares, n) for n in range(30)])) == [
        sum(x * x for x in range(n)) for n in range(30)
    ]


def test_a_nested_function_is_pickled(side: Side) -> None:
    offset = 100

    @f.app.function(name=f"nested-{uuid4().hex[:8]}", serialized=True, max_containers=1)
    def nested(x: int) -> int:
        return x + offset

    assert nested.remote(1) == 101
    assert list(nested.map(range(3))) == [100, 101, 102]
    assert f.call_it.remote(f.square, 2) == 4


def test_a_nested_async_function_is_pickled(side: Side) -> None:
    @f.app.function(name=f"nested-{uuid4().hex[:8]}", serialized=True, max_containers=1)
    async def nested(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    assert nested.remote(1) == 2


@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("way", ["remote", "map", "spawn", "delay"])
def test_a_nested_function_made_again_runs_its_new_code(side: Side, way: str, most: int) -> None:
    name = f"again-{uuid4().hex[:8]}"
    for version in range(4):

        @f.app.function(name=name, serialized=True, max_containers=most)
        def again(version: int = version) -> int:
            return version

        if way == "map":
            assert list(again.map([version] * 5)) == [version] * 5
            assert list(again.starmap([()] * 5)) == [version] * 5
        else:
            call = getattr(again, way)()
            assert (call if way == "remote" else call.get(timeout=SOON)) == version


def test_two_versions_of_a_nested_function_go_on_side_by_side(side: Side) -> None:
    """What runs is one of them: which one is only sure for the one that was registered last."""
    name, made = f"again-{uuid4().hex[:8]}", []
    for version in range(2):

        @f.app.function(name=name, serialized=True, max_containers=2)
        def again(version: int = version) -> int:
            return version

        made.append(again)
        assert again.remote() == version
    for _ in range(5):
        assert made[0].remote() in (0, 1)
        assert made[1].remote() == 1


def test_a_nested_function_that_cannot_be_pickled_is_told(side: Side) -> None:
    lock = threading.Lock()

    @f.app.function(name=f"nested-{uuid4().hex[:8]}", serialized=True)
    def nested() -> bool:
        return lock.locked()

    with pytest.raises(SerializationError, match=rf"the code of contract\.{nested.name} can't be pickled"):
        nested.remote()


# -- time, crashes, limits -----------------------------------------------------------------------------------------


def test_a_function_that_runs_too_long_is_ended(side: Side, tmp_path: Path) -> None:
    with pytest.raises(FunctionTimeoutError, match=r"contract\.too_long ran longer than its timeout of 1 s"):
        f.too_long.remote(tmp_path)
    settle(side, f.too_long)


def test_an_async_function_that_runs_too_long_is_ended(side: Side) -> None:
    with pytest.raises(FunctionTimeoutError, match=r"contract\.async_too_long ran longer than its timeout of 1 s"):
        f.async_too_long.remote()
    settle(side, f.async_too_long)


def test_an_input_that_takes_its_containers_down_fails_in_the_end(side: Side) -> None:
    side.crash(f.die, 3)
    with pytest.raises(ContainerCrashError, match=r"its container of contract\.die down 3 times .*killed by SIGKILL"):
        f.die.remote()


@pytest.mark.parametrize(("limit", "most"), [("max_pending", 1), ("max_total", 2)])
def test_a_call_above_the_limits_fails_at_once(
    side: Side, held: Callable[[int], FunctionCall[int]], tmp_path: Path, limit: str, most: int
) -> None:
    held(0)
    wait_until(lambda: begun(tmp_path) == {"0"})
    pending = held(1)
    text = rf"contract\.hold has .* are allowed \(SCALEPLUG_{limit.upper()}\)"
    with limits(**{limit: most}):
        with pytest.raises(ResourceExhausted, match=text):
            f.hold.remote(tmp_path, 2)
        with pytest.raises(ResourceExhausted):
            asyncio.run(f.hold.remote.aio(tmp_path, 2))
        held(3)  # spawned ones have a limit of their own
    assert side.load(f.hold) == (2, 1)
    pending.cancel()


def test_a_spawn_above_its_limit_fails_at_once(
    side: Side, held: Callable[[int], FunctionCall[int]], tmp_path: Path
) -> None:
    held(0)
    wait_until(lambda: begun(tmp_path) == {"0"})
    with limits(max_spawned=2):
        held(1)
        held(2)
        with pytest.raises(ResourceExhausted, match=r"2 inputs pending, and 2 are allowed \(SCALEPLUG_MAX_SPAWNED\)"):
            held(3)


def test_a_map_above_the_limits_waits_and_says_so_once(
    side: Side, held: Callable[[int], FunctionCall[int]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held(100)
    wait_until(lambda: begun(tmp_path) == {"100"})
    with limits(max_pending=3), caplog.at_level(logging.WARNING, "scaleplug"), ThreadPoolExecutor(1) as threads:
        results = threads.submit(lambda: list(f.hold.map([tmp_path] * 20, range(20))))
        wait_until(lambda: side.load(f.hold) == (3, 1))
        wait_until(lambda: "waits" in caplog.text)
        (tmp_path / "go").touch()
        assert results.result(timeout=SOON) == list(range(20))
    assert caplog.text.count("the map of contract.hold waits") == 1


# -- Celery's own calls --------------------------------------------------------------------------------------------


def test_celerys_own_calls(side: Side) -> None:
    assert f.square.delay(3).get(timeout=SOON) == 9
    assert f.add.apply_async((1,), {"b": 2}).get(timeout=SOON) == 3
    assert f.async_double.delay(2).get(timeout=SOON) == 4
    with pytest.raises(ValueError, match="oh no"):
        f.fail.delay("plain").get(timeout=SOON)


def test_celerys_canvases(side: Side) -> None:
    assert f.square.s(3).apply_async().get(timeout=SOON) == 9
    assert chain(f.square.s(2), f.square.s(), f.add.s(1))().get(timeout=SOON) == 17
    assert group(f.square.s(x) for x in range(4))().get(timeout=SOON) == [0, 1, 4, 9]
    assert chord([f.square.s(x) for x in range(3)], f.echo.s())().get(timeout=SOON) == [0, 1, 4]
    assert chain(f.square.si(2), f.square.si(3))().get(timeout=SOON) == 9
    assert f.add.signature((1,), {"scale": 2}).apply_async().get(timeout=SOON) == 22
