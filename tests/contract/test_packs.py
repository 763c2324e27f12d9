"""Short inputs, which travel in packs: each is what it would be by itself, as in the twin, which has no packs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaleplug.client import RedisCaller
from scaleplug.errors import ContainerCrashError, FunctionTimeoutError, SerializationError
from scaleplug.function import Function
from scaleplug.packing import LEAST, Pace
from tests.contract import pack_functions as p
from tests.contract.sides import Real, Side, limits, settle
from tests.helpers import wait_until

COUNT = 400


class Short(Pace):
    """A pace that stays what it is, however slow the machine that runs the tests."""

    def note(self, _: Any) -> None:
        self.service = 0.0005


def warm(side: Side, function: Function[..., Any], *row: Any) -> None:
    """Call a function, and let its inputs be known to be short: from then on they are packed."""
    list(function.starmap([row] * 20))
    if isinstance(side, Real):
        caller = p.app.caller()
        assert isinstance(caller, RedisCaller)
        pace = caller._paces[function.full_name] = Short()
        pace.note(None)
        assert caller.pack_size(function, COUNT, 1_000) >= LEAST


def test_a_caller_learns_that_inputs_are_short(side: Side) -> None:
    if not isinstance(side, Real):
        pytest.skip("the twin has no packs")
    caller = p.app.caller()
    assert isinstance(caller, RedisCaller)
    caller._paces.clear()
    assert caller.pack_size(p.echo, COUNT, 1_000) == 1
    wait_until(lambda: not any(p.echo.map([0] * 40)) and caller.pack_size(p.echo, COUNT, 1_000) >= LEAST, 30)


def no_trace(side: Side, function: Function[..., Any]) -> None:
    """Wait until nothing is left of a function's inputs, nor of what is counted of packs."""
    settle(side, function)
    if isinstance(side, Real):
        store = side.app.store
        keys = [
            store.keys.of(kind, function.full_name) for kind in ("packed", "queue", "running", "crashes", "verdicts")
        ]
        wait_until(lambda: not store.client.exists(*keys), message="nothing is left")


def test_packed_inputs_are_themselves(side: Side) -> None:
    warm(side, p.told, 0)
    results = list(p.told.map(range(COUNT)))
    assert [x for x, *_ in results] == list(range(COUNT))
    call = results[0][2]
    assert [(input_id, of) for _, input_id, of, _, _ in results] == [(f"{call}:{x}", call) for x in range(COUNT)]
    if isinstance(side, Real):
        assert [(request, index) for *_, request, index in results] == [(f"{call}:{x}", x) for x in range(COUNT)]
    assert sorted(x for x, *_ in p.told.map(range(COUNT), order_outputs=False)) == list(range(COUNT))
    no_trace(side, p.told)


def test_async_maps_and_functions(side: Side) -> None:
    async def mapped() -> list[int]:
        return [x async for x, *_ in p.told_async.map(range(COUNT))]

    warm(side, p.told_async, 0)
    assert asyncio.run(mapped()) == list(range(COUNT))
    results = list(p.told_async.map(range(COUNT)))
    assert [input_id.rpartition(":")[2] for _, input_id in results if input_id] == [str(x) for x in range(COUNT)]


def test_exceptions(side: Side) -> None:
    warm(side, p.may_fail, 0)
    results = list(p.may_fail.map(range(COUNT), return_exceptions=True))
    for x, result in enumerate(results):
        assert isinstance(result, ValueError) and str(result) == f"{x} is wrong" if x % 7 == 3 else result == x
    with pytest.raises(ValueError, match="3 is wrong") as caught:
        list(p.may_fail.map(range(COUNT)))
    assert [frame.name for frame in caught.traceback][-1] == "may_fail"
    no_trace(side, p.may_fail)


def test_failed_inputs_are_retried_by_themselves(side: Side, tmp_path: Path) -> None:
    warm(side, p.flaky, tmp_path, 0)
    results = list(p.flaky.starmap([(tmp_path, x) for x in range(60)], return_exceptions=True))
    assert isinstance(results[15], ValueError)
    assert "tried 3 times" in results[15].__notes__[0]
    results[15] = 15
    assert results == list(range(60))
    assert Counter(int(path.name.split("-")[0]) for path in tmp_path.iterdir()) == {5: 1, 15: 3, 25: 1, 45: 1}
    no_trace(side, p.flaky)


def test_a_slow_input_holds_up_nobody(side: Side, tmp_path: Path) -> None:
    warm(side, p.sometimes, tmp_path, 0, -1)
    waits = 30
    results = iter(p.sometimes.starmap([(tmp_path, x, waits) for x in range(COUNT)], order_outputs=False))
    got = {next(results) for _ in range(COUNT - 1)}  # a second container takes what was behind it
    assert got == set(range(COUNT)) - {waits}
    (tmp_path / "go").touch()
    assert list(results) == [waits]
    no_trace(side, p.sometimes)


def test_a_timeout_is_that_of_one_input(side: Side) -> None:
    warm(side, p.too_long, 0, -1)
    results = list(p.too_long.starmap([(x, 20) for x in range(60)], return_exceptions=True))
    assert isinstance(results[20], FunctionTimeoutError)
    results[20] = 20
    assert results == list(range(60))
    no_trace(side, p.too_long)


def test_an_input_that_kills_its_container_is_found(side: Side) -> None:
    if not isinstance(side, Real):
        pytest.skip("os._exit would end the tests")
    warm(side, p.deadly, 0, -1)
    results = list(p.deadly.starmap([(x, 20) for x in range(60)], return_exceptions=True))
    assert isinstance(results[20], ContainerCrashError)
    results[20] = 20
    assert results == list(range(60))
    no_trace(side, p.deadly)


def test_inputs_share_nothing(side: Side) -> None:
    shared: list[int] = []
    warm(side, p.keep, shared)
    assert set(p.keep.map([shared] * COUNT)) == {1}


def test_large_values_leave_the_pack(side: Side) -> None:
    warm(side, p.sized, 1)
    sizes = [1_000_000 if x == 40 else x for x in range(100)]
    assert [len(value) for value in p.sized.map(sizes)] == sizes
    assert [len(value) for value in p.sized.map([100_000] * 40)] == [100_000] * 40
    no_trace(side, p.sized)


def test_what_cannot_be_pickled_fails_alone(side: Side) -> None:
    warm(side, p.opened, 1)
    inputs: list[Any] = [*range(20), p.Sealed(), *range(21, 40), "generator", *range(41, 60)]
    results = list(p.opened.map(inputs, return_exceptions=True))
    assert isinstance(results[20], SerializationError)
    assert "it stays shut" in str(results[20])
    assert isinstance(results[40], SerializationError)
    assert "can't be pickled" in str(results[40])
    results[20], inputs[20], results[40], inputs[40] = 0, 0, 0, 0
    assert results == inputs
    no_trace(side, p.opened)


def test_a_process_that_an_input_forks_runs_no_others(side: Side, tmp_path: Path) -> None:
    if not isinstance(side, Real):
        pytest.skip("it would fork the tests")
    warm(side, p.forking, tmp_path, -1, -2)
    assert list(p.forking.starmap([(tmp_path, x, 20) for x in range(60)])) == list(range(60))
    counts = Counter(path.name.split("-")[0] for path in tmp_path.iterdir() if not path.name.startswith("-"))
    assert counts == {str(x): 1 for x in range(60)}
    no_trace(side, p.forking)


@pytest.mark.parametrize("slow", [20, 21])
def test_an_answer_that_is_lost_loses_nothing(side: Side, slow: int) -> None:
    if not isinstance(side, Real):
        pytest.skip("the twin has no packs")
    warm(side, p.unanswered, 0, -1)
    assert list(p.unanswered.starmap([(x, slow) for x in range(60)])) == list(range(60))
    no_trace(side, p.unanswered)


@pytest.mark.parametrize("packed", [True, False])
def test_pickles_that_end_the_process_fail_alone(side: Side, packed: bool) -> None:
    if not isinstance(side, Real):
        pytest.skip("it would end the tests")
    warm(side, p.opened, 1)
    inputs: list[Any] = [*range(20), p.Hostile("exit"), *range(21, 40), p.Hostile("die"), *range(41, 50), "hostile"]
    if packed:
        results = list(p.opened.map([*inputs, *range(51, 60)], return_exceptions=True))
        assert results[51:] == list(range(51, 60))
    else:
        results = [*inputs]
        for at in (20, 40, 50):
            results[at : at + 1] = p.opened.map([inputs[at]], return_exceptions=True)
    assert isinstance(results[20], SerializationError)
    assert "SystemExit: 3" in str(results[20])
    assert isinstance(results[40], ContainerCrashError)
    assert isinstance(results[50], SerializationError)
    assert "SystemExit: 3" in str(results[50])
    assert [x for at, x in enumerate(results[:50]) if at not in (20, 40)] == [x for x in range(50) if x not in (20, 40)]
    no_trace(side, p.opened)


def test_large_arguments_go_with_small_ones(side: Side) -> None:
    warm(side, p.opened, 1)
    inputs = [bytes(600_000) if x == 30 else x for x in range(100)]
    assert list(p.opened.map(inputs)) == inputs


@pytest.mark.parametrize("close", [True, False])
def test_leaving_midway_leaves_nothing(side: Side, tmp_path: Path, close: bool) -> None:
    warm(side, p.sometimes, tmp_path, 0, -1)
    results = iter(p.sometimes.starmap([(tmp_path, x, 60) for x in range(COUNT)]))
    assert [next(results) for _ in range(20)] == list(range(20))
    if close:
        results.close()  # type: ignore[attr-defined]
    else:
        del results
    no_trace(side, p.sometimes)


def test_limits_count_inputs(side: Side, tmp_path: Path) -> None:
    warm(side, p.noted, tmp_path, -1)
    with limits(max_pending=20):
        assert list(p.noted.starmap([(tmp_path, x) for x in range(100)])) == list(range(100))
    no_trace(side, p.noted)


def test_a_container_that_runs_no_packs_takes_them_apart(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RedisCaller, "pack_size", lambda *_: 10)  # as a caller with an older version of the code would
    results = list(p.several.map(range(55)))
    assert [x for x, _ in results] == list(range(55))
    assert [str(input_id).rpartition(":")[2] for _, input_id in results] == [str(x) for x in range(55)]
    no_trace(side, p.several)


def in_background(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    return thread, found


def test_a_container_that_leaves_loses_and_repeats_nothing(side: Side, tmp_path: Path) -> None:
    warm(side, p.noted, tmp_path, -1)
    thread, found = in_background(lambda: list(p.noted.starmap([(tmp_path, x) for x in range(1_500)])))
    if isinstance(side, Real):
        store = side.app.store
        for share in (100, 500, 900):
            wait_until(lambda: p.runs(tmp_path, share) > 0 or not thread.is_alive())  # noqa: B023
            for record in store.containers(p.noted.full_name).values():
                if record.get("state") == "ready":
                    _ask_to_leave(int(record["pid"]))
    thread.join(60)
    assert found == [list(range(1_500))]
    counts = Counter(int(path.name.split("-")[0]) for path in tmp_path.iterdir() if not path.name.startswith("-"))
    assert set(counts) == set(range(1_500))
    assert max(counts.values()) == 1
    no_trace(side, p.noted)


def _ask_to_leave(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
