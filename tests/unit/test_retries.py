"""Retries as a setting, and what code may ask about the place it runs in."""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import FrozenInstanceError
from itertools import count
from typing import Any

import pytest

from scaleplug import App, Retries, context, current_function_call_id, current_input_id, is_local, serializer
from scaleplug.errors import InvalidError, SerializationError, note_attempts
from scaleplug.function import check_retries
from scaleplug.policy import Containers, Load, decide
from scaleplug.settings import FunctionSettings
from scaleplug.testing import local

numbers = count()


def function() -> None: ...


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


# -- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "delays"),
    [
        ({"max_retries": 0}, [None]),
        ({"max_retries": 3}, [1, 2, 4, None]),
        ({"max_retries": 3, "backoff_coefficient": 1.0}, [1, 1, 1, None]),
        ({"max_retries": 4, "backoff_coefficient": 3.0, "initial_delay": 10, "max_delay": 20}, [10, 20, 20, 20, None]),
        ({"max_retries": 2, "initial_delay": 0}, [0, 0, None]),
        ({"max_retries": 1, "initial_delay": 60, "max_delay": 1}, [1, None]),
    ],
)
def test_delays_grow_up_to_the_longest(values: dict[str, Any], delays: list[float | None]) -> None:
    retries = Retries(**values)
    assert [retries.next_delay(retried) for retried in range(len(delays))] == delays


def test_delays_have_no_end() -> None:
    retries = Retries(max_retries=1_000_000, backoff_coefficient=10)
    assert retries.next_delay(999_999) == 60


def test_a_number_means_so_many_a_second_apart() -> None:
    settings = App(f"retries-{next(numbers)}").function(serialized=True, retries=2)(function).settings
    assert settings.retries == Retries(max_retries=2, backoff_coefficient=1.0, initial_delay=1.0)
    assert [settings.retry_delay(retried) for retried in range(3)] == [1, 1, None]
    assert FunctionSettings().retry_delay(0) is None
    assert FunctionSettings(retries=Retries(max_retries=0)).retry_delay(0) is None


def test_they_are_frozen_and_by_name() -> None:
    with pytest.raises(FrozenInstanceError):
        Retries(max_retries=1).max_retries = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        Retries(3)  # type: ignore[misc]


@pytest.mark.parametrize("retries", [None, Retries(max_retries=4, initial_delay=0.5), Retries(max_retries=0)])
def test_settings_travel_as_json(retries: Retries | None) -> None:
    settings = FunctionSettings(retries=retries, single_use_containers=True)
    values = json.loads(json.dumps(settings.to_dict()))
    assert FunctionSettings.from_dict(values) == settings
    if retries is not None:
        values["retries"]["unknown_here"] = 1  # of a later version
        assert FunctionSettings.from_dict(values) == settings


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"max_retries": -1}, "max_retries must be 0 or more, not -1"),
        ({"max_retries": 1.5}, "max_retries must be a whole number, not 1.5"),
        ({"max_retries": 1, "backoff_coefficient": 0.5}, "backoff_coefficient must be a number between 1 and 10, not"),
        ({"max_retries": 1, "backoff_coefficient": 11}, "backoff_coefficient must be a number between 1 and 10, not"),
        ({"max_retries": 1, "backoff_coefficient": "2"}, "backoff_coefficient must be a number between 1 and 10, not"),
        ({"max_retries": 1, "initial_delay": -1}, "initial_delay must be between 0 and 60 seconds, not -1"),
        ({"max_retries": 1, "initial_delay": 61}, "initial_delay must be between 0 and 60 seconds, not 61"),
        ({"max_retries": 1, "max_delay": 0.5}, "max_delay must be between 1 and 60 seconds, not 0.5"),
        ({"max_retries": 1, "max_delay": float("nan")}, "max_delay must be between 1 and 60 seconds, not nan"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidError, match=text):
        Retries(**values)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"retries": -1}, "retries must be 0 or more, not -1"),
        ({"retries": "a"}, r"retries must be a whole number or scaleplug.Retries\(max_retries=...\), not 'a'"),
        ({"retries": True}, "retries must be a whole number or"),
        ({"retries": 1.0}, "retries must be a whole number or"),
        ({"single_use_containers": 1}, "single_use_containers must be True or False, not 1"),
        ({"memory": 0}, "memory must be 1 or more, not 0"),
        ({"memory": "1 GiB"}, "memory must be a whole number, not '1 GiB'"),
    ],
)
def test_wrong_arguments_of_the_decorator_are_named(values: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidError, match=text):
        App(f"retries-{next(numbers)}").function(**values)


def test_single_use_and_several_inputs_contradict_each_other() -> None:
    with pytest.raises(InvalidError, match="lets a container run one input, and @concurrent up to 2"):
        FunctionSettings(single_use_containers=True, max_inputs=2)


@pytest.mark.parametrize("raw", [generator, async_generator])
def test_generators_have_no_retries(raw: Any) -> None:
    with pytest.raises(InvalidError, match=r"a\.f is a generator function, which can't have retries"):
        check_retries("a.f", raw, FunctionSettings(retries=Retries(max_retries=1)))
    check_retries("a.f", raw, FunctionSettings(retries=Retries(max_retries=0)))
    check_retries("a.f", function, FunctionSettings(retries=Retries(max_retries=1)))


def test_a_container_of_a_single_use_for_every_input() -> None:
    load = Load(pending=7, running=2, oldest_running=0.0, service_time=0.001, start_time=0.05)
    assert decide(FunctionSettings(), load, Containers(busy=2), 0.0).start == 0
    decision = decide(FunctionSettings(single_use_containers=True), load, Containers(busy=2), 0.0)
    assert (decision.start, decision.desired) == (7, 9)
    assert "single use" in decision.reason


# -- the note on the last exception --------------------------------------------------------------------------------


def test_the_note_is_written_once_and_only_after_retries() -> None:
    error = ValueError("no")
    note_attempts(error, 1)
    assert not hasattr(error, "__notes__")
    for _ in range(2):
        note_attempts(error, 3)
    assert error.__notes__ == ["It was tried 3 times: its retries are used up."]


def test_an_exception_that_takes_no_notes_is_left_as_it_is() -> None:
    error = ValueError("no")
    error.__notes__ = ()  # type: ignore[assignment]
    note_attempts(error, 3)
    assert error.__notes__ == ()


# -- errors about values -------------------------------------------------------------------------------------------


class Shy:
    """Can neither be pickled nor shown."""

    def __repr__(self) -> str:
        raise RuntimeError("not to be shown")

    def __reduce__(self) -> str:
        raise RuntimeError("not to be pickled")


def test_a_value_that_cannot_be_shown_is_named_all_the_same() -> None:
    text = r"argument 1 of a\.f, a .*Shy \(<Shy.*>\), can't be pickled: RuntimeError: not to be pickled\. Pass"
    with pytest.raises(SerializationError, match=text):
        serializer.pickle_call("a.f", (Shy(),), {})


def test_a_long_value_is_cut() -> None:
    assert len(serializer.shortly("x" * 10_000)) < 100
    assert len(serializer.shortly({f"key {x}" * 20: list(range(100)) for x in range(100)})) < 100
    assert "\n" not in serializer.shortly("a\nb")


# -- where it runs -------------------------------------------------------------------------------------------------


def ids() -> tuple[str | None, str | None]:
    return current_input_id(), current_function_call_id()


def test_each_thread_and_task_has_its_own_input() -> None:
    async def ask(name: str) -> tuple[str | None, str | None]:
        with context.running(name, "call"):
            await asyncio.sleep(0)
            return ids()

    async def run() -> list[Any]:
        return await asyncio.gather(ask("a"), ask("b"))

    with context.running("here", "call"):
        others: list[Any] = []
        thread = threading.Thread(target=lambda: others.append(contextvars.Context().run(ids)))
        thread.start()
        thread.join()
        assert others == [(None, None)]
        assert ids() == ("here", "call")
    assert ids() == (None, None)
    assert asyncio.run(run()) == [("a", "call"), ("b", "call")]


def test_the_process_of_a_container_is_not_local(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_local()
    monkeypatch.setattr(context, "_in_container", False)  # put back at the end
    context.mark_container()
    assert not is_local()


# -- the twin ------------------------------------------------------------------------------------------------------


def test_the_twins_orders_count_runs() -> None:
    app = App(f"retries-{next(numbers)}")
    flaky = app.function(serialized=True, retries=Retries(max_retries=2, initial_delay=0))(plain)
    with local() as run:
        run.fail(flaky, ConnectionError("no network"), times=2)
        assert flaky.remote(3) == 3
        assert [call.runs for call in run.calls(flaky)] == [3]
        run.fail(flaky, ConnectionError("no network"), times=3)
        with pytest.raises(ConnectionError):
            flaky.remote(4)
        run.crash(flaky, times=2)
        assert flaky.remote(5) == 5
        assert run.calls(flaky)[-1].runs == 3


def test_the_twin_ends_with_inputs_that_wait_for_a_retry() -> None:
    app = App(f"retries-{next(numbers)}")
    flaky = app.function(serialized=True, retries=Retries(max_retries=2, initial_delay=60))(plain)
    with local() as run:
        run.fail(flaky, ConnectionError)
        flaky.spawn(1)
        with pytest.raises(TimeoutError, match="have not ended"):
            run.join(timeout=0.2)
        assert (run.pending(flaky), run.running(flaky)) == (1, 0)


def plain(x: int) -> int:
    return x
