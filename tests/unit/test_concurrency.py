"""The marks and their mistakes, the number of slots in force, and the loop's watch; no server."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from scaleplug import App, InvalidError, batched, concurrent, method
from scaleplug.policy import Containers, Idle, Load, Starting, slots
from scaleplug.settings import FunctionSettings
from scaleplug.worker.event_loop import EventLoop
from tests.helpers import wait_until

app = App("marks")


def plain(x: int) -> int:
    return x


async def coroutine(x: int) -> int:
    return x


# -- mistakes ------------------------------------------------------------------------------------------------------


def on_method_above() -> None:
    class _A:
        @concurrent(max_inputs=3)
        @method()
        def f(self) -> None: ...


def on_method_below() -> None:
    class _A:
        @method()
        @concurrent(max_inputs=3)
        def f(self) -> None: ...


def twice() -> None:
    concurrent(max_inputs=3)(concurrent(max_inputs=4)(plain))


def above_function() -> None:
    concurrent(max_inputs=3)(app.function(serialized=True, name="above")(plain))


def above_class() -> None:
    @concurrent(max_inputs=3)
    @app.cls(serialized=True)
    class _Above:
        @method()
        def f(self) -> None: ...


def with_batched() -> None:
    concurrent(max_inputs=3)(batched(max_batch_size=3, wait_ms=1)(plain))


def single_use() -> None:
    app.function(serialized=True, single_use_containers=True)(concurrent(max_inputs=3)(plain))


def pool_of_async() -> None:
    concurrent(max_inputs=3, pool="threads")(coroutine)


def pool_of_async_method() -> None:
    @concurrent(max_inputs=3, pool="eventlet")
    class _A:
        @method()
        async def f(self) -> None: ...


def batched_with_others() -> None:
    @app.cls(serialized=True)
    class _Two:
        @batched(max_batch_size=3, wait_ms=1)
        @method()
        def f(self, x: int) -> None: ...

        @method()
        def g(self) -> None: ...


def of(**options: Any) -> Callable[[], Any]:
    return lambda: concurrent(**options)


def batches(raw: Any = plain, **options: Any) -> Callable[[], Any]:
    return lambda: batched(**{"max_batch_size": 3, "wait_ms": 1, **options})(raw)


f = app.function(serialized=True, name="f")(plain)


@pytest.mark.parametrize(
    ("mistake", "text"),
    [
        (of(max_inputs=5, target_inputs=9), r"target_inputs \(9\) must not be more than max_inputs \(5\)"),
        (of(max_inputs=0), "max_inputs must be 1 or more, not 0"),
        (of(max_inputs=-1), "max_inputs must be 1 or more, not -1"),
        (of(max_inputs=1.5), "max_inputs must be a whole number, not 1.5"),
        (of(max_inputs=True), "max_inputs must be a whole number, not True"),
        (of(max_inputs=9, target_inputs=0), "target_inputs must be 1 or more, not 0"),
        (of(max_inputs=9, pool="prefork"), "pool must be 'threads' or 'eventlet', not 'prefork'"),
        (on_method_above, "goes on the class, not on its method 'f'"),
        (on_method_below, "goes on the class, not on its method 'on_method_below"),
        (twice, r"plain is under @scaleplug.concurrent\(...\) twice"),
        (above_function, r"must stand below @app.function\(\) or @app.cls\(\)"),
        (above_class, r"must stand below @app.function\(\) or @app.cls\(\)"),
        (with_batched, "one batch at a time, keep one"),
        (single_use, "single_use_containers=True lets a container run one input, and @concurrent up to 3"),
        (pool_of_async, "coroutine is async: it runs as a task of the container's event loop"),
        (pool_of_async_method, "pool='eventlet' is for sync functions, and f is async"),
        (lambda: concurrent(max_inputs=3)(plain)(1), r"is under @scaleplug.concurrent\(...\) alone: put @app.function"),
        (batches(max_batch_size=0), "max_batch_size must be 1 or more, not 0"),
        (batches(max_batch_size=1_001), "max_batch_size must be between 1 and 1,000, not 1001"),
        (batches(wait_ms=-1), "wait_ms must be 0 or more, not -1"),
        (batches(wait_ms=600_001), "wait_ms must be between 0 and 600,000, not 600001"),
        (batches(lambda *a: list(a)), r"can't take \*a: give its arguments names"),
        (batches(lambda: plain(1)), "needs an argument"),
        (batches(lambda x, y=1: [x, y]), "the argument 'y' of the batched function <lambda> has a default"),
        (batched_with_others, r"has several methods \(f, g\): a batched one must be alone"),
        (lambda: f.with_concurrency(max_inputs=2, target_inputs=3), "must not be more than max_inputs"),
        (lambda: f.with_batching(max_batch_size=0, wait_ms=1), "max_batch_size must be 1 or more"),
        (
            lambda: f.with_batching(max_batch_size=2, wait_ms=1).with_concurrency(max_inputs=3),
            "either concurrent or batched",
        ),
    ],
)
def test_a_mistake_is_told_at_its_line(mistake: Callable[[], Any], text: str) -> None:
    with pytest.raises(InvalidError, match=text) as caught:
        mistake()
    assert any(frame.filename == __file__ for frame in traceback.extract_tb(caught.value.__traceback__)[1:])


def test_a_mark_alone_tells_what_is_missing_above_it() -> None:
    with pytest.raises(AttributeError, match=r"put @app.function\(\) above it"):
        concurrent(max_inputs=3)(plain).remote(1)


def test_marks_become_settings() -> None:
    assert app.function(serialized=True, name="a")(concurrent(max_inputs=9)(plain)).settings.target_inputs == 9
    made = app.function(serialized=True, name="b")(concurrent(max_inputs=9, target_inputs=4, pool="eventlet")(plain))
    assert (made.settings.max_inputs, made.settings.target_inputs, made.settings.green) == (9, 4, True)
    made = app.function(serialized=True, name="c")(batched(max_batch_size=7, wait_ms=20)(plain))
    assert (made.settings.max_batch_size, made.settings.wait_ms, made.settings.concurrent) == (7, 20, False)
    assert not FunctionSettings(pool="eventlet").green


# -- slots ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pending", "running", "ready", "starting", "desired", "most", "expected"),
    [
        (0, 0, 0, 0, 0, None, 4),  # nothing
        (0, 3, 1, 0, 1, None, 4),  # enough
        (9, 4, 1, 2, 3, None, 10),  # while it is scaled up
        (9, 4, 1, 0, 3, None, 10),  # and where the host has no room
        (0, 12, 3, 0, 3, None, 4),  # the new ones are ready
        (1, 4, 1, 0, 1, 1, 10),  # no more are allowed
        (0, 7, 1, 0, 1, 1, 10),  # and it goes on until it is down
        (0, 4, 1, 0, 1, 1, 4),
        (5, 4, 1, 0, 1, 3, 4),  # the policy sees no need of more
    ],
)
def test_the_slots_in_force(  # the numbers of a row
    pending: int, running: int, ready: int, starting: int, desired: int, most: int | None, expected: int
) -> None:
    settings = FunctionSettings(max_inputs=10, target_inputs=4, max_containers=most)
    load = Load(pending=pending, running=running, oldest_running=None, service_time=None, start_time=None)
    containers = Containers(
        starting=tuple(Starting(container=f"s{n}", requested_at=0) for n in range(starting)),
        idle=(Idle(container="i", idle_since=0),) if ready and not running else (),
        busy=ready if running else 0,
    )
    assert slots(settings, load, containers, desired) == expected


# -- the loop ------------------------------------------------------------------------------------------------------


def test_a_stalled_loop_is_told_once_with_its_stack(caplog: pytest.LogCaptureFixture) -> None:
    loop, release = EventLoop("a.f"), threading.Event()

    async def blocks_here() -> None:
        release.wait(10)

    future = asyncio.run_coroutine_threadsafe(blocks_here(), loop.loop)

    def told() -> bool:
        loop.check()
        return "has blocked its event loop" in caplog.text

    with caplog.at_level(logging.WARNING):
        began = time.monotonic()
        wait_until(told, 5)
        assert time.monotonic() - began > 1.0
        assert "blocks_here" in caplog.text
        told()
        assert caplog.text.count("has blocked its event loop") == 1
    release.set()
    future.result(5)
    loop.close()
