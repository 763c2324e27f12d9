"""Several inputs in one container, and batches: on the twin and for real."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from scaleplug.errors import FunctionTimeoutError, InputCancelledError, InvalidError
from tests.contract import concurrency_functions as functions
from tests.contract.concurrency_functions import AT_ONCE
from tests.contract.sides import Side, settle
from tests.helpers import wait_until


def begun(folder: Path) -> int:
    """Return how many inputs have begun."""
    return len(list(folder.glob("begun-*")))


def go(folder: Path) -> None:
    """Let them go on."""
    folder.joinpath("go").touch()


@pytest.mark.parametrize("function", [functions.in_threads, functions.in_a_loop], ids=["threads", "loop"])
def test_one_container_runs_several_inputs_each_with_its_own_context(side: Side, tmp_path: Path, function: Any) -> None:
    calls = [function.spawn(str(tmp_path), x) for x in range(AT_ONCE + 2)]
    wait_until(lambda: begun(tmp_path) == AT_ONCE, 20, "all that fit are there")
    assert side.load(function) == (2, AT_ONCE)
    go(tmp_path)
    results = [call.get(timeout=20) for call in calls]
    assert [x for x, _, _ in results] == list(range(AT_ONCE + 2))
    assert [found for _, found, _ in results] == [call.object_id for call in calls]


def test_sync_inputs_have_threads_of_their_own(side: Side, tmp_path: Path) -> None:
    calls = [functions.in_threads.spawn(str(tmp_path), x) for x in range(AT_ONCE)]
    wait_until(lambda: begun(tmp_path) == AT_ONCE, 20)
    go(tmp_path)
    assert len({call.get(timeout=20)[2] for call in calls}) == AT_ONCE


def test_an_async_function_without_concurrency_runs_one_input_at_a_time(side: Side, tmp_path: Path) -> None:
    assert list(functions.one_at_a_time.map([str(tmp_path)] * 6, range(6))) == [0] * 6


@pytest.mark.parametrize("function", [functions.in_threads, functions.in_a_loop], ids=["threads", "loop"])
def test_cancelling_one_input_leaves_the_others_alone(side: Side, tmp_path: Path, function: Any) -> None:
    calls = [function.spawn(str(tmp_path), x) for x in range(AT_ONCE)]
    wait_until(lambda: begun(tmp_path) == AT_ONCE, 20)
    calls[2].cancel()
    with pytest.raises(InputCancelledError):
        calls[2].get(timeout=5)
    wait_until(lambda: side.load(function)[1] == AT_ONCE - 1, 5, "it has ended")
    go(tmp_path)
    others = [call for x, call in enumerate(calls) if x != 2]
    assert [call.get(timeout=20)[0] for call in others] == [0, 1, 3, 4]
    settle(side, function)


@pytest.mark.parametrize("function", [functions.may_be_late, functions.may_be_late_async], ids=["threads", "loop"])
def test_an_input_that_yields_ends_alone_at_its_timeout(side: Side, tmp_path: Path, function: Any) -> None:
    inputs = [(str(tmp_path), x, 20.0 if x == 1 else 0.5) for x in range(4)]
    results = list(function.starmap(inputs, return_exceptions=True))
    assert isinstance(results.pop(1), FunctionTimeoutError)
    assert results == [0, 2, 3]
    wait_until((tmp_path / "interrupted-1").exists, 5, "it was interrupted")
    assert len(list(tmp_path.glob("interrupted-*"))) == 1


@pytest.mark.parametrize("function", [functions.tries_again, functions.tries_again_async], ids=["threads", "loop"])
def test_each_failed_input_is_retried(side: Side, tmp_path: Path, function: Any) -> None:
    inputs = [(str(tmp_path), x) for x in range(8)]
    assert list(function.starmap(inputs)) == list(range(8))


@pytest.mark.parametrize("function", [functions.stream, functions.async_stream], ids=["threads", "loop"])
def test_several_streams_at_once(side: Side, tmp_path: Path, function: Any) -> None:
    streams = [function.remote_gen(str(tmp_path), x) for x in range(AT_ONCE)]
    assert [next(stream) for stream in streams] == list(range(AT_ONCE))
    wait_until(lambda: begun(tmp_path) == AT_ONCE, 20, "all are under way")
    go(tmp_path)
    assert [list(stream) for stream in streams] == [[0, 1, 2]] * AT_ONCE


def test_methods_share_a_container_that_was_entered_once(side: Side, tmp_path: Path) -> None:
    shared = functions.Shared()
    waits = [shared.waits.spawn(str(tmp_path), x) for x in range(2)]
    blocks = [shared.blocks.spawn(str(tmp_path), x + 2) for x in range(2)]
    wait_until(lambda: begun(tmp_path) == 4, 20, "both kinds run at once")
    go(tmp_path)
    assert [call.get(timeout=20) for call in waits] == [(1, 2)] * 2
    assert {call.get(timeout=20)[0] for call in blocks} == {1}


@pytest.mark.parametrize("function", [functions.in_threads, functions.in_a_loop], ids=["threads", "loop"])
def test_celerys_own_call_runs_in_it_too(side: Side, tmp_path: Path, function: Any) -> None:
    go(tmp_path)
    assert function.delay(str(tmp_path), 7).get(timeout=20)[0] == 7


# -- batches -------------------------------------------------------------------------------------------------------


def test_a_batch_holds_what_is_there_and_no_more_than_its_size(side: Side) -> None:
    results = list(functions.add.map(range(10), itertools.repeat(1)))
    assert [x for x, _ in results] == list(range(1, 11))
    assert max(size for _, size in results) == 4


def test_a_batch_that_is_not_full_waits_and_then_runs(side: Side) -> None:
    functions.add.remote(1, 1)  # a container is there
    began = time.monotonic()
    assert functions.add.remote(1, b=2) == (3, 1)
    assert 0.29 < time.monotonic() - began < 5


def test_async_batches(side: Side) -> None:
    assert list(functions.add_async.map(range(9))) == list(range(1, 10))


def test_an_exception_fails_the_whole_batch(side: Side) -> None:
    results = list(functions.add.map([13, 14, 15, 16], [0] * 4, return_exceptions=True))
    assert [type(each) for each in results] == [ValueError] * 4


def test_a_wrong_number_of_results_is_told(side: Side) -> None:
    results = list(functions.too_few.map(range(3), return_exceptions=True))
    assert all(isinstance(each, InvalidError) for each in results)
    assert "3 inputs it must return a list of 3 results, not a list of 2" in str(results[0])


def test_a_plain_calls_arguments_are_checked(side: Side) -> None:
    with pytest.raises(TypeError, match="missing"):
        functions.add.remote(1)


def test_cancelling_one_of_a_batch_leaves_the_others_alone(side: Side, tmp_path: Path) -> None:
    calls = [functions.slow.spawn(str(tmp_path), x) for x in range(3)]
    wait_until(lambda: begun(tmp_path), 20)
    for call in calls[:2]:
        call.cancel()
        with pytest.raises(InputCancelledError):
            call.get(timeout=3)
    go(tmp_path)
    assert calls[2].get(timeout=10) == (2, 3)
    settle(side, functions.slow)


def test_a_batch_of_which_nobody_wants_a_result_is_interrupted(side: Side, tmp_path: Path) -> None:
    calls = [functions.slow.spawn(str(tmp_path), x) for x in range(3)]
    wait_until(lambda: begun(tmp_path), 20)
    for call in calls:
        call.cancel()
    settle(side, functions.slow)
    for call in calls:
        with pytest.raises(InputCancelledError):
            call.get(timeout=3)


def test_the_inputs_of_a_failed_batch_are_retried(side: Side, tmp_path: Path) -> None:
    assert list(functions.fails_once.map([str(tmp_path)] * 3, range(3))) == [0, 1, 2]


def test_a_batch_that_takes_too_long_times_out(side: Side) -> None:
    results = list(functions.late.map(range(3), return_exceptions=True))
    assert [type(each) for each in results] == [FunctionTimeoutError] * 3
    assert "timeout of 1 s" in str(results[0])


def test_a_method_may_be_batched(side: Side) -> None:
    results = list(functions.Model().predict.map(range(5)))
    assert [x for x, _ in results] == [0, 2, 4, 6, 8]
    assert max(size for _, size in results) > 1


def test_a_variant_may_be_batched(side: Side) -> None:
    sizes = list(functions.plain.with_batching(max_batch_size=5, wait_ms=200).map(range(5)))
    assert max(sizes) > 1


def test_celerys_own_call_is_a_batch_of_one(side: Side) -> None:
    assert functions.add.delay(1, 2).get(timeout=20) == (3, 1)
