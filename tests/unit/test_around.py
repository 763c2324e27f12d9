"""What is open around an input, whatever kind of function runs it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Iterator

import pytest

from scaleplug.around import Around, surrounded

seen: list[str] = []


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    """Forget what was seen."""
    seen.clear()


@contextlib.contextmanager
def plain(name: str) -> Iterator[None]:
    seen.append(f"open {name}")
    try:
        yield
    finally:
        seen.append(f"close {name}")


@contextlib.asynccontextmanager
async def awaited() -> AsyncIterator[None]:
    with plain("awaited"):
        yield


AROUNDS = [Around(plain=lambda: plain("first")), Around(plain=lambda: plain("second"), awaited=awaited)]
INSIDE = ["open first", "open second", "run", "close second", "close first"]


def run(x: int, *, fails: bool = False) -> int:
    seen.append("run")
    if fails:
        raise ValueError(x)
    return x


async def run_async(x: int) -> int:
    return run(x)


def items(x: int) -> Iterator[int]:
    run(x)
    yield from range(x)


async def items_async(x: int) -> AsyncIterator[int]:
    run(x)
    for number in range(x):
        yield number


def test_without_anything_the_body_is_itself():
    assert surrounded(run, []) is run


def test_a_function_runs_inside_of_all():
    assert surrounded(run, AROUNDS)(3) == 3
    assert seen == INSIDE


def test_all_is_closed_when_it_fails():
    with pytest.raises(ValueError, match="3"):
        surrounded(run, AROUNDS)(3, fails=True)
    assert seen == INSIDE


def test_an_async_function_runs_inside_of_those_for_it_too():
    assert asyncio.run(surrounded(run_async, AROUNDS)(3)) == 3
    assert seen == [
        "open first", "open second", "open awaited", "run", "close awaited", "close second", "close first"
    ]  # fmt: skip


def test_a_generator_runs_inside_from_its_first_to_its_last_item():
    assert list(surrounded(items, AROUNDS)(3)) == [0, 1, 2]
    assert seen == INSIDE


def test_a_generator_that_is_left_closes_what_was_open():
    given = surrounded(items, AROUNDS)(3)
    next(given)
    given.close()
    assert seen == INSIDE


def test_an_async_generator_runs_inside():
    async def read() -> list[int]:
        return [item async for item in surrounded(items_async, AROUNDS)(3)]

    assert asyncio.run(read()) == [0, 1, 2]
    assert seen[2:4] == ["open awaited", "run"]
    assert seen[-1] == "close first"


@pytest.mark.parametrize("body", [run, run_async, items, items_async])
def test_the_kind_and_the_signature_stay(body):
    made = surrounded(body, AROUNDS)
    for kind in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        assert kind(made) is kind(body)
    assert inspect.signature(made) == inspect.signature(body)
