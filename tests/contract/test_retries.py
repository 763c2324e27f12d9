"""Retries, cancelling what resists, and what code may ask: the same over the twin and over containers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import scaleplug
from scaleplug import FunctionCall
from scaleplug.errors import FunctionTimeoutError, InputCancelledError, ResourceExhausted, SerializationError
from tests.contract import functions as f
from tests.contract.sides import Side, limits, settle
from tests.helpers import wait_until

SOON = 20.0


def attempts(folder: Path) -> int:
    """Return how often an input has begun."""
    return len(list(folder.glob("attempt-*")))


CALLS: dict[str, Callable[..., Any]] = {
    "remote": lambda function, *args: function.remote(*args),
    "spawn": lambda function, *args: function.spawn(*args).get(timeout=SOON),
    "map": lambda function, *args: next(iter(function.starmap([args]))),
    "delay": lambda function, *args: function.delay(*args).get(timeout=SOON),
}


# -- retries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", CALLS)
def test_a_failed_input_runs_again(side: Side, tmp_path: Path, way: str) -> None:
    assert CALLS[way](f.fail_first, tmp_path, 2) == 2
    assert attempts(tmp_path) == 3
    settle(side, f.fail_first)


@pytest.mark.parametrize("way", CALLS)
def test_the_last_exception_arrives_when_the_retries_are_used_up(side: Side, tmp_path: Path, way: str) -> None:
    with pytest.raises(f.OddError, match="attempt 2") as caught:
        CALLS[way](f.fail_first, tmp_path, 9)
    assert attempts(tmp_path) == 3
    if way != "delay":  # Celery rebuilds exceptions in its own way
        assert caught.value.code == 2
        assert caught.value.__notes__ == ["It was tried 3 times: its retries are used up."]
    settle(side, f.fail_first)


def test_a_variant_has_retries_of_its_own(side: Side, tmp_path: Path) -> None:
    once = f.fail_first.with_options(retries=scaleplug.Retries(max_retries=1, initial_delay=0))
    with pytest.raises(f.OddError, match="attempt 1"):
        once.remote(tmp_path, 2)
    assert attempts(tmp_path) == 2


@pytest.mark.parametrize("way", ["remote", "map"])
def test_a_method_runs_again(side: Side, tmp_path: Path, way: str) -> None:
    assert CALLS[way](f.Flaky(start=5).fail_first, tmp_path, 2) == 7


def test_an_async_function_runs_again(side: Side, tmp_path: Path) -> None:
    assert f.async_fail_first.remote(tmp_path, 2) == 2


def test_what_would_end_a_process_is_a_failure_too(side: Side, tmp_path: Path) -> None:
    assert f.leave_first.remote(tmp_path) == 2


def test_only_the_failed_input_of_a_map_runs_again(side: Side, tmp_path: Path) -> None:
    folders = [tmp_path / str(x) for x in range(5)]
    for folder in folders:
        folder.mkdir()
    assert list(f.fail_first.starmap((folder, x % 3) for x, folder in enumerate(folders))) == [0, 1, 2, 0, 1]
    assert [attempts(folder) for folder in folders] == [1, 2, 3, 1, 2]


def test_a_number_of_retries_means_a_second_between_them(side: Side, tmp_path: Path) -> None:
    assert 0.9 < f.fail_once.remote(tmp_path) < 3


def test_a_timeout_is_a_failure_and_each_attempt_has_all_its_time(side: Side, tmp_path: Path) -> None:
    assert f.too_long_first.remote(tmp_path, 1) == 1
    settle(side, f.too_long_first)


def test_the_timeout_arrives_when_the_retries_are_used_up(side: Side, tmp_path: Path) -> None:
    text = r"contract\.too_long_first ran longer than its timeout of 1 s"
    with pytest.raises(FunctionTimeoutError, match=text) as caught:
        f.too_long_first.remote(tmp_path, 9)
    assert attempts(tmp_path) == 2
    assert caught.value.__notes__ == ["It was tried 2 times: its retries are used up."]


def test_a_result_that_cannot_be_pickled_is_no_failure_of_the_function(side: Side, tmp_path: Path) -> None:
    with pytest.raises(SerializationError, match=r"return_a_lock returned, a _thread\.lock \(<unlocked.*Return plain"):
        f.return_a_lock.remote(tmp_path)
    assert attempts(tmp_path) == 1


def test_what_waits_for_a_retry_counts_as_pending(side: Side, tmp_path: Path) -> None:
    call = f.fail_for_now.spawn(tmp_path)
    wait_until(lambda: side.load(f.fail_for_now) == (1, 0) and attempts(tmp_path) == 1)
    with limits(max_pending=1), pytest.raises(ResourceExhausted, match="has 1 inputs pending, and 1 are allowed"):
        f.fail_for_now.remote(tmp_path)
    call.cancel()
    settle(side, f.fail_for_now)


def test_cancelling_ends_what_waits_for_a_retry(side: Side, tmp_path: Path) -> None:
    call = f.fail_for_now.spawn(tmp_path)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(call.get)
        wait_until(lambda: side.load(f.fail_for_now) == (1, 0) and attempts(tmp_path) == 1)
        call.cancel()
        with pytest.raises(InputCancelledError, match=call.object_id):
            waiting.result(timeout=SOON)
    with pytest.raises(InputCancelledError):
        call.get(timeout=0)
    assert side.load(f.fail_for_now) == (0, 0)


def test_leaving_a_map_ends_what_waits_for_a_retry(side: Side, tmp_path: Path) -> None:
    def inputs() -> Any:
        yield tmp_path
        wait_until(lambda: side.load(f.fail_for_now) == (1, 0) and attempts(tmp_path) == 1)
        raise LookupError("no more")

    with pytest.raises(LookupError):
        list(f.fail_for_now.map(inputs()))
    settle(side, f.fail_for_now)


def test_a_cancelled_input_is_never_retried(side: Side, tmp_path: Path) -> None:
    call = f.hold_and_retry.spawn(tmp_path)
    wait_until(lambda: attempts(tmp_path) == 1)
    call.cancel()
    with pytest.raises(InputCancelledError):
        call.get(timeout=SOON)
    settle(side, f.hold_and_retry)
    assert attempts(tmp_path) == 1


# -- cancelling what resists ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [f.swallow, f.async_swallow])
def test_a_function_that_swallows_the_interruption_is_cancelled_all_the_same(
    side: Side, tmp_path: Path, function: Any
) -> None:
    call: FunctionCall[int] = function.spawn(tmp_path)
    wait_until((tmp_path / "begun-0").exists)
    call.cancel()
    wait_until((tmp_path / "interrupted-0").exists)
    for _ in range(2):
        with pytest.raises(InputCancelledError):
            call.get(timeout=SOON)
    settle(side, function)


def test_a_function_that_resists_is_cancelled_all_the_same(side: Side, tmp_path: Path) -> None:
    with limits(cancel_grace=0.3):
        call = f.resist.spawn(tmp_path, 0)
        wait_until((tmp_path / "begun-0").exists)
        call.cancel()
        with pytest.raises(InputCancelledError, match=call.object_id):
            call.get(timeout=SOON)
        settle(side, f.resist)
        after = f.resist.spawn(tmp_path, 1)  # there is one container at most
        wait_until((tmp_path / "begun-1").exists)
        (tmp_path / "go").touch()
        assert after.get(timeout=SOON) == 1


def test_a_function_stuck_in_c_is_cancelled_all_the_same(side: Side, tmp_path: Path) -> None:
    with limits(cancel_grace=0.3):
        call = f.stuck_in_c.spawn(tmp_path, 20.0 if side.name == "real" else 2.0)
        wait_until((tmp_path / "begun-0").exists)
        started = time.monotonic()
        call.cancel()
        with pytest.raises(InputCancelledError):
            call.get(timeout=SOON)
        assert f.stuck_in_c.remote(tmp_path, 0.0) == 0.0
        assert time.monotonic() - started < 10


def test_leaving_a_map_ends_what_resists(side: Side, tmp_path: Path) -> None:
    (tmp_path / "free").mkdir()
    (tmp_path / "free" / "go").touch()
    with limits(cancel_grace=0.3):
        for result in f.resist.starmap([(tmp_path / "free", 0), (tmp_path, 1), (tmp_path, 2)]):
            assert result == 0
            wait_until((tmp_path / "begun-1").exists)
            break
        settle(side, f.resist)
    (tmp_path / "go").touch()
    assert not (tmp_path / "begun-2").exists()


# -- arguments that can't travel -----------------------------------------------------------------------------------


def test_an_argument_that_cannot_be_pickled_is_named(side: Side) -> None:
    lock = threading.Lock()
    text = r"argument {} of contract\.add, a {} \(.*\), can't be pickled: TypeError: .*lock.*Pass plain data"
    for call in (f.add.remote, f.add.spawn, f.add.delay):
        with pytest.raises(SerializationError, match=text.format("2", r"_thread\.lock")):
            call(1, lock)
        with pytest.raises(SerializationError, match=text.format("'scale'", "dict")):
            call(1, 2, scale={"deep": [lock]})
    with pytest.raises(SerializationError, match=text.format("'scale'", "dict")):
        list(f.add.map([1], kwargs={"scale": {"deep": [lock]}}))
    settle(side, f.add)


# -- where it runs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [f.where, f.async_where])
def test_an_input_knows_its_id_and_its_call(side: Side, function: Any) -> None:
    call = function.spawn()
    assert call.get(timeout=SOON) == (call.object_id, call.object_id, False)
    inputs = list(function.map(range(3)))
    (map_call,) = {call for _, call, _ in inputs}
    assert [input_id for input_id, _, _ in inputs] == [f"{map_call}:{index}" for index in range(3)]
    sent = function.delay()
    assert sent.get(timeout=SOON)[0] == sent.id


def test_nothing_of_it_is_true_outside(side: Side) -> None:
    f.where.remote()
    assert scaleplug.current_input_id() is None
    assert scaleplug.current_function_call_id() is None
    assert scaleplug.is_local()
    assert f.where.local() == (None, None, True)


def test_containers_of_a_single_use(side: Side) -> None:
    results = list(f.once.map(range(6)))
    assert [x for x, _ in results] == list(range(6))
    assert len({pid for _, pid in results}) == (6 if side.name == "real" else 1)
    settle(side, f.once)
