"""Calls of many inputs that nobody waits for: the same over the twin and over Redis, a controller and containers."""

from __future__ import annotations

import asyncio
import builtins
import itertools
import logging
import pickle
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from scaleplug import FunctionCall, FunctionStats, client, spawnmap
from scaleplug.errors import InputCancelledError, InvalidError, OutputExpiredError
from tests.contract import functions as f
from tests.contract import objects as o
from tests.contract.sides import Side, limits, settle
from tests.helpers import wait_until

SOON = 15.0
"""Seconds in which anything must have happened."""


def begun(folder: Path) -> set[str]:
    """Return the inputs of ``hold`` and its like that have begun."""
    return {file.name.removeprefix("begun-") for file in folder.glob("begun-*")}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few hundred inputs take several sends, and a send several parts."""
    monkeypatch.setattr(spawnmap, "CHUNK", 400)
    monkeypatch.setattr(client, "PART", 150)


# -- one call, many inputs -----------------------------------------------------------------------------------------


def test_one_call_holds_all_inputs(side: Side) -> None:
    call = f.square.spawn_map(range(7))
    assert isinstance(call, FunctionCall)
    assert call.num_inputs() == 7
    assert [call.get(SOON, index=index) for index in (6, 0, 3)] == [36, 0, 9]
    assert call.get(timeout=SOON) == 0
    for _ in range(2):  # as often as you like
        assert list(call.iter()) == [x * x for x in range(7)]
    assert list(call.iter(start=2, end=5)) == [4, 9, 16]
    assert list(call.iter(start=5)) == [25, 36]
    assert list(call.iter(start=7)) == []


def test_inputs_are_zipped_and_share_keyword_arguments(side: Side) -> None:
    call = f.add.spawn_map([1, 2], itertools.count(10), kwargs={"scale": 2})
    assert list(call.iter()) == [22, 26]


def test_a_call_without_inputs(side: Side) -> None:
    call = f.square.spawn_map([])
    assert call.num_inputs() == 0
    assert list(call.iter()) == []
    with pytest.raises(InvalidError, match=r"index 0 .* num_inputs\(\) is 0"):
        call.get(timeout=SOON)


def test_a_spawned_call_has_one_input(side: Side) -> None:
    call = f.square.spawn(3)
    assert call.num_inputs() == 1
    assert list(call.iter()) == [9]
    assert FunctionCall.from_id(call.object_id).num_inputs() == 1


def test_more_than_one_chunk(side: Side) -> None:
    count = 1_203
    call = f.square.spawn_map(x for x in range(count))
    assert call.num_inputs() == count
    assert list(call.iter()) == [x * x for x in range(count)]


def test_from_id_finds_the_whole_call(side: Side) -> None:
    made = f.square.spawn_map(range(3))
    for call in (FunctionCall.from_id(made.object_id), pickle.loads(pickle.dumps(made))):
        assert call.num_inputs() == 3
        assert call.get(SOON, index=2) == 4
        assert list(call.iter()) == [0, 1, 4]


def test_results_come_while_others_run_still(side: Side, tmp_path: Path) -> None:
    (tmp_path / "free").mkdir()
    (tmp_path / "free" / "go").touch()
    call = f.hold.spawn_map([tmp_path / "free", tmp_path / "free", tmp_path], range(3))
    results = call.iter()
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(builtins.TimeoutError, match=r"input 2 of fc-.* has no result yet after 0 s"):
        call.get(timeout=0, index=2)
    with ThreadPoolExecutor(2) as threads:
        last, same = threads.submit(next, results), threads.submit(call.get, SOON, index=2)
        wait_until(lambda: begun(tmp_path) == {"2"})
        (tmp_path / "go").touch()
        assert last.result(SOON) == same.result(SOON) == 2


def test_somebody_may_ask_for_one_input_while_iterating(side: Side) -> None:
    call = f.square.spawn_map(range(5))
    assert [(result, call.get(SOON, index=index)) for index, result in enumerate(call.iter())] == [
        (x * x, x * x) for x in range(5)
    ]


def test_an_exception_is_raised_in_its_place(side: Side) -> None:
    call = f.may_fail.spawn_map(range(4))
    results = call.iter()
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert list(call.iter(start=3)) == [9]
    with pytest.raises(ValueError, match="two"):
        call.get(index=2)
    assert call.get(index=3) == 9


@pytest.mark.parametrize(("start", "end"), [(2, 9), (4, None), (2, 1)])
def test_a_range_must_be_one_of_the_call(side: Side, start: int, end: int | None) -> None:
    call = f.square.spawn_map(range(3))
    with pytest.raises(ValueError, match=rf"{start} to {end or 3} is no range .*num_inputs\(\) is 3") as caught:
        call.iter(start=start, end=end)
    assert isinstance(caught.value, InvalidError)


def test_an_index_must_be_one_of_the_call(side: Side) -> None:
    call = f.square.spawn_map(range(3))
    with pytest.raises(InvalidError, match=r"index 3 .*num_inputs\(\) is 3"):
        call.get(index=3)
    with pytest.raises(InvalidError, match="index must be 0 or more, not -1"):
        call.get(index=-1)
    with pytest.raises(InvalidError, match="start must be 0 or more, not -2"):
        call.iter(start=-2)


def test_aio(side: Side) -> None:
    async def run() -> None:
        call = await f.square.spawn_map.aio(range(300))
        assert await call.num_inputs.aio() == 300
        assert await call.get.aio(SOON, index=17) == 289
        assert [x async for x in call.iter.aio()] == [x * x for x in range(300)]
        same = FunctionCall.from_id(call.object_id)
        assert await same.num_inputs.aio() == 300
        assert [x async for x in same.iter.aio(start=1, end=3)] == [1, 4]
        with pytest.raises(InvalidError, match="no range"):
            [x async for x in call.iter.aio(end=301)]
        assert isinstance(await f.square.get_current_stats.aio(), FunctionStats)

    asyncio.run(run())


def test_asynchronous_inputs(side: Side) -> None:
    async def numbers() -> AsyncIterator[int]:
        for x in range(250):
            await asyncio.sleep(0)
            yield x

    async def run() -> list[int]:
        call = await f.square.spawn_map.aio(numbers())
        return [x async for x in call.iter.aio()]

    assert asyncio.run(run()) == [x * x for x in range(250)]
    with pytest.raises(InvalidError, match="only an event loop can read"):
        f.square.spawn_map(numbers())


# -- sending -------------------------------------------------------------------------------------------------------


def test_what_is_not_iterable_is_told(side: Side) -> None:
    with pytest.raises(InvalidError, match=r"contract\.square\.spawn_map\(\) needs at least one iterator"):
        f.square.spawn_map()
    with pytest.raises(InvalidError, match=r"input 2 of contract\.add\.spawn_map\(\) must be iterable, not int"):
        f.add.spawn_map([1], 2)
    with pytest.raises(InvalidError, match="kwargs must be a mapping"):
        f.square.spawn_map([1], kwargs=[1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="argument"):
        f.square.spawn_map([1], [2])
    settle(side, f.square)


@pytest.mark.parametrize("aio", [False, True])
def test_an_error_of_the_input_iterator_cancels_what_was_sent(side: Side, tmp_path: Path, aio: bool) -> None:
    def inputs() -> Iterator[Path]:
        for _ in range(600):
            yield tmp_path
        raise OSError("no more")

    def send() -> None:
        if aio:
            asyncio.run(f.hold.spawn_map.aio(inputs(), itertools.count()))
        else:
            f.hold.spawn_map(inputs(), itertools.count())

    with pytest.raises(OSError, match="no more"):
        send()
    settle(side, f.hold)
    assert len(begun(tmp_path)) <= 1


def test_input_iterators_run_in_the_callers_thread(side: Side) -> None:
    def inputs() -> Iterator[int]:
        threads.add(threading.get_ident())
        yield 1

    threads: set[int] = set()
    f.square.spawn_map(inputs())
    asyncio.run(f.square.spawn_map.aio(inputs()))
    assert threads == {threading.get_ident()}


def test_it_waits_for_room_and_says_so_once(side: Side, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read: list[int] = []

    def inputs() -> Iterator[int]:
        for x in range(600):
            read.append(x)
            yield x

    with limits(max_spawned=50), caplog.at_level(logging.WARNING, "scaleplug"), ThreadPoolExecutor(1) as threads:
        call = threads.submit(f.hold_some.spawn_map, itertools.repeat(tmp_path, 600), inputs())
        wait_until(lambda: "waits" in caplog.text)
        wait_until(lambda: side.load(f.hold_some)[0] == 50)
        assert len(read) < 600  # they are not piled up here
        (tmp_path / "go").touch()
        assert call.result(SOON).num_inputs() == 600
    assert list(call.result().iter()) == list(range(600))
    assert caplog.text.count("spawn_map of contract.hold_some waits") == 1


# -- cancelling, expiry --------------------------------------------------------------------------------------------


def test_cancelling_cancels_all_inputs(side: Side, tmp_path: Path) -> None:
    (tmp_path / "free").mkdir()
    (tmp_path / "free" / "go").touch()
    call = f.hold.spawn_map([tmp_path / "free", *[tmp_path] * 4], range(5))
    assert call.get(SOON) == 0
    wait_until(lambda: begun(tmp_path) == {"1"})
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(call.get, index=index) for index in (1, 4)]
        call.cancel(terminate_containers=False)
        for waits in waiting:
            with pytest.raises(InputCancelledError):
                waits.result(SOON)
    settle(side, f.hold)
    assert begun(tmp_path) == {"1"}
    wait_until((tmp_path / "interrupted-1").exists)
    assert call.get() == 0  # it had ended
    for index in range(1, 5):
        with pytest.raises(InputCancelledError):
            call.get(index=index)
    results = call.iter()
    assert next(results) == 0
    with pytest.raises(InputCancelledError):
        next(results)
    call.cancel()


def test_containers_are_not_terminated(side: Side) -> None:
    with pytest.raises(InvalidError, match="terminate_containers must be False, not True"):
        f.square.spawn_map([1]).cancel(terminate_containers=True)


def test_a_result_is_no_longer_kept(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    with limits(result_ttl=1):
        calls: list[FunctionCall[Any]] = [f.square.spawn(1), f.square.spawn_map([1, 2])]
        assert [list(call.iter()) for call in calls] == [[1], [1, 4]]
        for call in calls:
            wait_until(lambda call=call: gone(call))  # type: ignore[misc]
            with pytest.raises(OutputExpiredError, match=r"no longer kept: SCALEPLUG_RESULT_TTL"):
                call.get()  # and doesn't wait
            with pytest.raises(OutputExpiredError):
                list(call.iter())
        assert calls[1].num_inputs() == 2


def test_what_is_pending_does_not_expire(side: Side, tmp_path: Path) -> None:
    with limits(result_ttl=1):
        (tmp_path / "free").mkdir()
        (tmp_path / "free" / "go").touch()
        held = f.hold.spawn_map([tmp_path / "free", tmp_path], [0, 1])
        ended = f.square.spawn(1)
        assert (ended.get(SOON), held.get(SOON)) == (1, 0)
        wait_until(lambda: gone(ended))  # so the second is over
        for call in (held, FunctionCall.from_id(held.object_id)):
            with pytest.raises(builtins.TimeoutError):
                call.get(timeout=0, index=1)
            assert call.get(timeout=0) == 0  # with the others
        (tmp_path / "go").touch()
        assert held.get(SOON, index=1) == 1


def test_nothing_is_known_of_it(side: Side) -> None:
    call = FunctionCall.from_id("fc-nobody")
    for ask in (call.get, call.num_inputs, lambda: list(call.iter())):
        with pytest.raises(OutputExpiredError, match="nothing is known of fc-nobody"):
            ask()


def gone(call: FunctionCall[Any]) -> bool:
    """Tell whether a result is no longer there."""
    try:
        call.get(timeout=0)
    except OutputExpiredError:
        return True
    return False


# -- what a function has now ---------------------------------------------------------------------------------------


def test_current_stats(side: Side, tmp_path: Path) -> None:
    call = f.hold.spawn_map([tmp_path] * 4, range(4))
    wait_until(lambda: begun(tmp_path) == {"0"})
    stats = f.hold.get_current_stats()
    assert stats == FunctionStats(backlog=3, num_total_runners=1, num_running_inputs=1, input_headroom=0)
    (tmp_path / "go").touch()
    assert list(call.iter()) == list(range(4))
    settle(side, f.hold)
    stats = f.hold.get_current_stats()
    assert (stats.backlog, stats.num_running_inputs) == (0, 0)
    assert stats.num_total_runners == stats.input_headroom


def test_current_stats_of_an_object(side: Side) -> None:
    greeter = o.Greeter()
    assert list(greeter.greet.spawn_map(["a", "b"]).iter()) == ["hello a!", "hello b!"]
    stats = greeter.get_current_stats()
    assert (stats.backlog, stats.num_running_inputs) == (0, 0)
    with pytest.raises(InvalidError, match="is a method: get_current_stats is that of the object"):
        greeter.greet.get_current_stats()
