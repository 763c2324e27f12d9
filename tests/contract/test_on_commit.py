"""Calls that wait for a transaction, or for their time: the same over the twin and over Redis and containers."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scaleplug import FunctionCall
from scaleplug.commit import new_call, use_on_commit
from scaleplug.errors import (
    ConfigurationError,
    InputCancelledError,
    InvalidError,
    OutputExpiredError,
    SerializationError,
)
from tests.contract import functions as f
from tests.contract import objects as o
from tests.contract.sides import Side

SOON = 15.0


class Transaction:
    """What a database does with callables that wait for a commit."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def commit(self) -> None:
        waiting, self.waiting = self.waiting, []
        for send in waiting:
            send()


@pytest.fixture
def transaction() -> Iterator[Transaction]:
    """Open a transaction."""
    made = Transaction()
    use_on_commit(made.waiting.append)
    yield made
    use_on_commit(None)


def test_a_call_is_sent_when_the_transaction_commits(side: Side, transaction: Transaction) -> None:
    call = f.square.spawn_on_commit(4)
    with pytest.raises(OutputExpiredError, match="nothing is known"):
        call.get(timeout=0)
    transaction.commit()
    assert call.get(timeout=SOON) == 16
    assert FunctionCall.from_id(call.object_id).get(timeout=SOON) == 16
    assert call.num_inputs() == 1


def test_what_is_rolled_back_is_never_sent(side: Side, transaction: Transaction) -> None:
    before = side.load(f.square)
    call = f.square.spawn_on_commit(4)
    transaction.waiting.clear()
    transaction.commit()
    assert side.load(f.square) == before
    with pytest.raises(OutputExpiredError):
        call.get(timeout=0)


def test_many_inputs_are_read_now_and_sent_then(side: Side, transaction: Transaction) -> None:
    numbers = [1, 2, 3]
    call = f.square.map_on_commit(numbers)
    zipped = f.add.map_on_commit([1, 2], itertools.count(10), kwargs={"scale": 2})
    none = f.square.map_on_commit([])
    numbers.append(4)
    transaction.commit()
    assert (call.num_inputs(), zipped.num_inputs(), none.num_inputs()) == (3, 2, 0)
    assert list(call.iter()) == [1, 4, 9]
    assert list(zipped.iter()) == [22, 26]
    assert list(none.iter()) == []


def test_inputs_are_sent_as_they_were(side: Side, transaction: Transaction) -> None:
    given = [2]
    call, many = f.echo.spawn_on_commit(given), f.echo.map_on_commit([given, given])
    given.append(3)
    transaction.commit()
    assert call.get(timeout=SOON) == [2]
    assert list(many.iter()) == [[2], [2]]


def test_methods_have_it_too(side: Side, transaction: Transaction) -> None:
    greeter = o.Greeter()
    call = greeter.greet.spawn_on_commit("you")
    transaction.commit()
    assert call.get(timeout=SOON) == greeter.greet.remote("you")


def test_wrong_calls_are_refused_at_once(side: Side, transaction: Transaction) -> None:
    with pytest.raises(TypeError):
        f.square.spawn_on_commit()  # type: ignore[call-arg]
    with pytest.raises(InvalidError, match="at least one iterator"):
        f.square.map_on_commit()
    with pytest.raises(InvalidError, match="must be iterable, not int"):
        f.square.map_on_commit(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        f.square.map_on_commit([1], kwargs={"wrong": 2})
    lock: Any = threading.Lock()
    with pytest.raises(SerializationError, match="can't be pickled"):
        f.square.spawn_on_commit(lock)
    with pytest.raises(SerializationError, match="can't be pickled"):
        f.square.map_on_commit([lock])
    assert transaction.waiting == []


def test_without_a_framework_the_error_tells_the_way_out() -> None:
    with pytest.raises(ConfigurationError, match=r"'scaleplug\.contrib\.django' into INSTALLED_APPS"):
        f.square.spawn_on_commit(1)


# -- later ---------------------------------------------------------------------------------------------------------


def later(seconds: float, x: int) -> FunctionCall[int]:
    """Spawn an input that waits so long."""
    caller, call = f.square.known_caller(), new_call()
    caller.spawn_at(f.square, call, (0, (x,), {}), time.time() + seconds)
    return FunctionCall.from_id(call)


def test_a_call_waits_for_its_time(side: Side) -> None:
    began = time.monotonic()
    call = later(1.0, 5)
    assert call.get(timeout=SOON) == 25
    assert time.monotonic() - began > 0.9


def test_one_whose_time_has_come_runs_at_once(side: Side) -> None:
    assert later(-10, 6).get(timeout=SOON) == 36


def test_one_that_waits_is_cancelled(side: Side) -> None:
    call = later(60, 7)
    with pytest.raises(TimeoutError):
        call.get(timeout=0)
    assert call.num_inputs() == 1
    call.cancel()
    with pytest.raises(InputCancelledError):
        call.get(timeout=SOON)
