"""``task_always_eager``: every call runs in the caller's thread, without Redis."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

import scaleplug
from scaleplug import App, FunctionCall
from scaleplug.errors import InvalidError
from scaleplug.here import forget_app

celery = Celery("eager", broker="memory://", backend="cache+memory://", set_as_current=False, task_always_eager=True)
app = App("eager", celery=celery)
tried: list[int] = []


@app.function()
def where(x: int) -> tuple[int, int]:
    return x, threading.get_ident()


@app.function()
async def later(x: int) -> int:
    await asyncio.sleep(0)
    return x * 2


@app.function()
def count(n: int) -> Iterator[int]:
    yield from range(n)


@app.function(retries=2)
def fails_twice() -> int:
    tried.append(1)
    if len(tried) < 3:
        raise ValueError("not yet")
    return len(tried)


@app.function()
def fails() -> None:
    raise KeyError("as it must")


@app.function()
@scaleplug.batched(max_batch_size=4, wait_ms=10)
def increased(xs: list[int]) -> list[int]:
    return [x + 1 for x in xs]


@app.cls()
class Shop:
    size: int = scaleplug.parameter(default=1)

    @scaleplug.enter()
    def open(self) -> None:
        self.opened = 10

    @scaleplug.method()
    def sum(self, x: int) -> int:
        return self.size + self.opened + x


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    yield
    forget_app(app)


def test_every_way_to_call_runs_in_this_thread():
    me = threading.get_ident()
    assert where.remote(1) == (1, me)
    assert list(where.map(range(3))) == [(0, me), (1, me), (2, me)]
    assert list(where.starmap([(4,)])) == [(4, me)]
    where.for_each([1])
    assert where.delay(2).get() == (2, me)


def test_spawned_calls_keep_their_results():
    call = where.spawn(4)
    assert call.get()[0] == FunctionCall.from_id(call.object_id).get()[0] == 4
    many = where.spawn_map([5, 6])
    assert [many.get(index=index)[0] for index in range(many.num_inputs())] == [5, 6]


def test_streams_batches_coroutines_classes_and_retries():
    assert list(count.remote_gen(5_000)) == list(range(5_000))
    assert list(increased.map(range(6))) == [1, 2, 3, 4, 5, 6]
    assert list(later.map([1, 2])) == [2, 4]
    shop: Any = Shop
    assert (shop().sum.remote(1), shop(size=3).sum.remote(1)) == (12, 14)
    assert fails_twice.remote() == 3


def test_errors_are_those_of_the_function():
    with pytest.raises(KeyError, match="as it must"):
        fails.remote()
    with pytest.raises(KeyError, match="as it must"):
        list(fails.map([])) or fails.spawn().get()
    wrong: Any = where
    with pytest.raises(TypeError, match="missing 1 required"):
        wrong.remote()
    with pytest.raises(InvalidError, match="generator"):
        wrong = count.remote(1)


def test_it_works_in_an_event_loop():
    async def main() -> None:
        me = threading.get_ident()
        assert await where.remote.aio(1) == (1, me)
        assert await later.remote.aio(3) == 6
        assert [x async for x in later.map([1, 2])] == [2, 4]
        assert await asyncio.gather(*(later.remote.aio(i) for i in range(3))) == [0, 2, 4]

    asyncio.run(main())


def test_its_autoscaler_can_be_told_things():
    assert where.update_autoscaler(min_containers=2).min_containers == 2
    assert where.autoscaler.settings().min_containers == 2
    assert where.get_current_stats().num_total_runners == 0
