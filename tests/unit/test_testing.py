"""What ``scaleplug.testing`` gives beyond the contract: what a test can ask and tell, and that it leaves no trace."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery import Celery

import scaleplug
from scaleplug import App, InputCancellation, here
from scaleplug import function as function_module
from scaleplug.abc import StartRequest
from scaleplug.errors import (
    ConfigurationError,
    ContainerCrashError,
    ExecutionError,
    FunctionTimeoutError,
    InputCancelledError,
    InvalidError,
    NotFoundError,
)
from scaleplug.registry import Registration, Source
from scaleplug.settings import FunctionSettings
from scaleplug.testing import FakeBackend, LocalRun, SentInput, local
from tests.helpers import wait_until

pytest_plugins = ["pytester"]

app = App("tested")
ran: list[Any] = []
opened = threading.Event()
interrupted = threading.Event()


@app.function()
def double(x: int, *, plus: int = 0) -> int:
    ran.append(x)
    return 2 * x + plus


@app.function()
async def async_double(x: int) -> int:
    ran.append(x)
    return 2 * x


@app.function()
def append(values: list[int]) -> list[int]:
    values.append(0)
    return values


@app.function()
def wait(x: int) -> int:
    """Wait, so that it can be interrupted."""
    try:
        ran.append(x)
        while not opened.wait(0.005):
            pass
    except InputCancellation:
        interrupted.set()
        raise
    return x


@app.function(max_containers=2)
def wait_two(x: int) -> int:
    while not opened.wait(0.005):
        pass
    return x


@app.function(max_containers=1)
def blocked(x: int) -> int:
    """Block in C: nothing can interrupt it."""
    if x == 0:
        opened.wait(30)
    return x


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Begin with nothing run, and end with nothing waiting."""
    ran.clear()
    opened.clear()
    interrupted.clear()
    yield
    opened.set()


@pytest.fixture
def run() -> Iterator[LocalRun]:
    with local() as run:
        yield run


# -- counting ------------------------------------------------------------------------------------------------------


def test_calls_are_the_inputs_in_order(run: LocalRun) -> None:
    double.remote(1)
    double.remote(2, plus=3)
    double.spawn(4).get()
    list(double.map([5, 6]))
    double.delay(7)
    assert run.calls("double") == [
        SentInput((1,), {}, runs=1),
        SentInput((2,), {"plus": 3}, runs=1),
        SentInput((4,), {}, runs=1),
        SentInput((5,), {}, runs=1),
        SentInput((6,), {}, runs=1),
        SentInput((7,), {}, runs=1),
    ]
    assert run.calls(async_double) == []


@pytest.mark.parametrize("name", ["double", "tested.double", double])
def test_a_function_may_be_named(run: LocalRun, name: Any) -> None:
    double.remote(1)
    assert [call.args for call in run.calls(name)] == [(1,)]


def test_an_unknown_name_is_an_error_not_an_empty_list(run: LocalRun) -> None:
    with pytest.raises(NotFoundError, match="no function 'doubel'"):
        run.calls("doubel")
    with pytest.raises(NotFoundError):
        run.crash("other.double")


def test_a_name_in_two_apps_must_be_full(run: LocalRun) -> None:
    apps = [App("first"), App("second")]
    for each in apps:
        each.function(name="same")(double.raw)
    with pytest.raises(InvalidError, match=r"'same' may be any of first\.same, second\.same: use the full name"):
        run.calls("same")
    assert run.calls("second.same") == []


def test_calls_are_as_they_were_sent(run: LocalRun) -> None:
    values = [1]
    assert append.remote(values) == [1, 0]
    assert values == [1]
    assert run.calls("append")[0].args == ([1],)


def test_inputs_wait_and_run(run: LocalRun) -> None:
    calls = [wait_two.spawn(x) for x in range(5)]
    wait_until(lambda: run.running("wait_two") == 2)
    assert run.pending("wait_two") == 3
    assert [call.runs for call in run.calls("wait_two")] == [1, 1, 0, 0, 0]
    opened.set()
    run.join()
    assert (run.pending("wait_two"), run.running("wait_two")) == (0, 0)
    assert [call.get(timeout=0) for call in calls] == list(range(5))


def test_join_says_what_has_not_ended(run: LocalRun) -> None:
    wait.spawn(1)
    with pytest.raises(TimeoutError, match=r"inputs of tested\.wait have not ended after 0\.01 s"):
        run.join(timeout=0.01)


def test_no_more_than_so_many_run_at_once() -> None:
    with local(threads=3) as run:
        calls = [wait.spawn(x) for x in range(10)]
        wait_until(lambda: run.running("tested.wait") == 3)
        assert run.pending("tested.wait") == 7
        opened.set()
        assert [call.get() for call in calls] == list(range(10))
    assert sorted(ran) == list(range(10))


def test_the_oldest_inputs_come_first_whatever_their_function() -> None:
    with local(threads=1) as run:
        first = wait.spawn(0)
        wait_until(lambda: ran == [0])
        for x in range(1, 7):
            (double if x % 2 else async_double).spawn(x)
        opened.set()
        first.get()
        run.join()
    assert ran == list(range(7))


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_threads_are_checked(threads: Any) -> None:
    with pytest.raises(InvalidError, match="threads"), local(threads=threads):
        pass


# -- making things go wrong ----------------------------------------------------------------------------------------


def test_a_function_can_be_replaced(run: LocalRun) -> None:
    run.replace("double", lambda x, plus=0: f"{x} and {plus}")
    assert double.remote(1, plus=2) == "1 and 2"
    assert double.delay(1).get() == "1 and 0"
    assert list(double.map([3])) == ["3 and 0"]
    assert ran == []


def test_the_replacement_may_be_async(run: LocalRun) -> None:
    async def stub(x: int) -> str:
        await asyncio.sleep(0)
        return f"stub {x}"

    run.replace(double, stub)
    run.replace(async_double, stub)
    assert (double.remote(1), async_double.remote(2)) == ("stub 1", "stub 2")
    with pytest.raises(InvalidError, match="stub must be callable, not 3"):
        run.replace(double, 3)  # type: ignore[arg-type]


def test_a_function_can_be_made_to_fail(run: LocalRun) -> None:
    run.fail("double", ValueError("made up"))
    for call in (double.remote, lambda x: double.delay(x).get()):
        with pytest.raises(ValueError, match=r"^made up$"):
            call(1)
    assert list(map(type, double.map([1, 2], return_exceptions=True))) == [ValueError, ValueError]
    assert ran == []


def test_a_function_can_be_made_to_fail_so_often(run: LocalRun) -> None:
    run.fail(double, KeyError, times=2)
    results = [call.get if call is None else call for call in double.map([1, 1, 1], return_exceptions=True)]
    assert sorted(type(result).__name__ for result in results) == ["KeyError", "KeyError", "int"]
    assert double.remote(3) == 6


def test_a_lost_container_runs_the_input_again(run: LocalRun) -> None:
    run.crash("double")
    assert double.remote(4) == 8
    assert ran == [4, 4]
    assert run.calls("double")[0].runs == 2
    assert double.remote(5) == 10
    assert ran == [4, 4, 5]


def test_an_input_is_not_tried_for_ever(run: LocalRun) -> None:
    run.crash("double", times=4)
    with pytest.raises(ContainerCrashError, match="down 3 times"):
        double.remote(4)
    assert double.remote(5) == 10
    assert ran == [4, 4, 4, 5, 5]


def test_celerys_calls_lose_containers_too(run: LocalRun) -> None:
    run.crash(double, times=4)
    with pytest.raises(ContainerCrashError, match="down 3 times"):
        double.delay(1).get()
    assert double.delay(2).get() == 4
    assert ran == [1, 1, 1, 2, 2]


def test_the_number_of_attempts_is_a_setting(run: LocalRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEPLUG_MAX_ATTEMPTS", "1")
    run.crash(double)
    with pytest.raises(ContainerCrashError, match="down 1 times"):
        double.remote(1)


def test_a_function_can_be_delayed(run: LocalRun) -> None:
    run.delay("double", 3600)
    call = double.spawn(1)
    with pytest.raises(TimeoutError):
        call.get(timeout=0.01)
    wait_until(lambda: run.running(double) == 1)
    call.cancel()
    with pytest.raises(InputCancelledError):
        call.get(timeout=10)
    assert ran == []
    run.delay("double", 0.001)
    assert double.remote(1) == 2


@pytest.mark.parametrize(
    ("tell", "text"),
    [
        (lambda run: run.fail(double, "no"), "error must be an exception or a class of exceptions, not 'no'"),
        (lambda run: run.fail(double, int), "error must be an exception"),
        (lambda run: run.fail(double, ValueError, times=0), "times must be 1 or more, not 0"),
        (lambda run: run.crash(double, times=-1), "times must be 1 or more, not -1"),
        (lambda run: run.crash(double, times=True), "times must be a whole number, not True"),
        (lambda run: run.delay(double, -1), "seconds must be between 0 and 3600 seconds, not -1"),
        (lambda run: run.delay(double, "1"), "seconds must be a number of seconds"),
    ],
)
def test_what_it_is_told_is_checked(run: LocalRun, tell: Callable[[LocalRun], None], text: str) -> None:
    with pytest.raises(InvalidError, match=text):
        tell(run)


# -- time ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient() -> Iterator[None]:
    """Lower a timeout below what a decorator allows, for the speed of the tests."""
    object.__setattr__(blocked.settings, "timeout", 0.05)
    yield
    object.__setattr__(blocked.settings, "timeout", 300.0)


@pytest.mark.usefixtures("impatient")
def test_code_that_cannot_be_interrupted_is_left_behind(run: LocalRun) -> None:
    with pytest.raises(FunctionTimeoutError, match=r"tested\.blocked ran longer than its timeout of 0\.05 s"):
        blocked.remote(0)
    assert run.running(blocked) == 0
    assert blocked.remote(1) == 1  # its place is free
    opened.set()
    assert blocked.spawn(2).get(timeout=10) == 2  # and what it does in the end changes nothing


@pytest.mark.usefixtures("impatient")
def test_an_early_timeout_is_noticed_among_late_ones(run: LocalRun) -> None:
    wait.spawn(1)
    wait_until(lambda: run.running(wait) == 1)
    with pytest.raises(FunctionTimeoutError):
        blocked.remote(0)


# -- leaving no trace ----------------------------------------------------------------------------------------------


def test_everything_is_as_before_afterwards() -> None:
    before = threading.active_count()
    with local():
        assert double.remote(1) == 2
        assert app.celery.conf.task_always_eager is True
    assert app.celery.conf.task_always_eager is False
    assert here.twin() is None
    assert function_module.run_here is function_module.run_raw
    with pytest.raises(ConfigurationError):
        double.remote(1)
    wait_until(lambda: threading.active_count() <= before, message="no thread is left")


def test_everything_is_as_before_after_an_error_too() -> None:
    with pytest.raises(LookupError), local():
        raise LookupError
    assert app.celery.conf.task_always_eager is False
    assert here.twin() is None


def test_apps_that_share_a_celery_app_are_restored() -> None:
    celery = Celery("shared", set_as_current=False, broker="memory://")
    one, two = App("one", celery=celery), App("two", celery=celery)
    eager = Celery("eager", set_as_current=False, broker="memory://", task_always_eager=True)
    three = App("three", celery=eager)
    with local():
        assert celery.conf.task_always_eager is True
    assert celery.conf.task_always_eager is False
    assert eager.conf.task_always_eager is True
    assert [one.name, two.name, three.name] == ["one", "two", "three"]


def test_apps_made_inside_belong_to_it() -> None:
    with local() as run:
        inside = App("inside")
        function = inside.function(name="inner")(double.raw)
        assert function.remote(1) == 2
        assert function.delay(2).get() == 4
        assert len(run.calls("inner")) == 2
    assert inside.celery.conf.task_always_eager is False


def test_the_inner_run_counts() -> None:
    with local() as outer:
        with local() as inner:
            assert double.remote(1) == 2
            assert double.delay(1).get() == 2
        assert (len(inner.calls("double")), len(outer.calls("double"))) == (2, 0)
        assert double.remote(1) == 2
        assert double.delay(1).get() == 2
        assert len(outer.calls("double")) == 2


def test_the_end_cancels_what_is_left() -> None:
    with ThreadPoolExecutor(2) as threads:
        with local(threads=1) as run:
            waiting = [threads.submit(wait.remote, x) for x in (0, 1)]
            wait_until(lambda: (run.pending(wait), len(ran)) == (1, 1))
        for future in waiting:
            with pytest.raises(InputCancelledError):
                future.result(timeout=10)
    assert interrupted.wait(10)
    assert len(ran) == 1
    with pytest.raises(ExecutionError, match=r"tested\.double can't be called any more: the local run is over"):
        run.send(double, "fc-1", [(0, (1,), {})], kind="remote")


def test_interruptions_leave_nothing_locked(run: LocalRun) -> None:
    for _ in range(20):
        results = iter(double.map(itertools.count()))
        assert [next(results), next(results)] == [0, 2]
        results.close()  # type: ignore[attr-defined]
    run.join()


def test_the_package_does_not_need_it() -> None:
    assert "testing" not in scaleplug.__all__


# -- the pytest plugin ---------------------------------------------------------------------------------------------


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Give a project of somebody who uses scaleplug."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(
        shop="""
        import scaleplug

        app = scaleplug.App("shop")

        @app.function()
        def price(net: float) -> float:
            return net * 2
        """
    )
    return pytester


def test_the_fixture_for_local_runs(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        from shop import price
        from scaleplug.errors import ConfigurationError

        def test_inside(scaleplug_local):
            assert price.remote(2) == 4
            assert [call.args for call in scaleplug_local.calls("price")] == [(2,)]

        def test_outside():
            with pytest.raises(ConfigurationError):
                price.remote(2)
        """
    )
    result = project.runpytest_subprocess("-p", "scaleplug.testing_plugin", "-W", "error")
    result.assert_outcomes(passed=2)


def test_the_fixture_for_real_runs(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import os
        import scaleplug
        from shop import app, price

        @app.function(serialized=True)
        def process():
            return os.getpid()

        here = scaleplug.App("here")

        @here.function()
        def process_here():
            return os.getpid()

        def test_inside(scaleplug_run):
            assert price.remote(2) == 4
            assert process.remote() != os.getpid()
            assert process_here.remote() != os.getpid()

        def test_inside_again(scaleplug_run):
            assert list(price.map([1, 2])) == [2, 4]
        """
    )
    result = project.runpytest_subprocess("-p", "scaleplug.testing_plugin", "-W", "error")
    result.assert_outcomes(passed=2)


def test_the_plugin_is_light(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import sys

        def test_it():
            assert "scaleplug.testing_plugin" in sys.modules
            assert "scaleplug.testing" not in sys.modules
            assert "scaleplug.runtime" not in sys.modules
        """
    )
    result = project.runpytest_subprocess("-p", "scaleplug.testing_plugin")
    result.assert_outcomes(passed=1)


# -- the backend's twin --------------------------------------------------------------------------------------------


def asked_for(slot: int, function: str = "app.f") -> StartRequest:
    return StartRequest(container=f"{function}-{slot}", app="app", function=function, slot=slot)


def test_an_unreachable_backend_knows_nothing() -> None:
    backend = FakeBackend()
    backend.start([asked_for(1)])
    backend.known = False
    assert backend.containers() is None
    assert backend.capacity() is None
    backend.known = True
    assert len(backend.containers() or ()) == 1


def test_a_backend_lives_by_its_clock() -> None:
    now = [1_000.0]
    backend = FakeBackend(clock=lambda: now[0])
    backend.start([asked_for(1)])
    (container,) = backend.containers() or ()
    assert container.started_at == 1_000.0
    backend.set_busy(container.container)
    backend.stop(container.container, grace=30)
    now[0] += 29
    assert len(backend.containers() or ()) == 1
    now[0] += 1
    assert backend.containers() == []
    (exit_,) = backend.exits()
    assert (exit_.exit_code, exit_.asked) == (0, True)


def test_a_backend_remembers_what_it_was_asked_for() -> None:
    told: list[str] = []
    backend = FakeBackend(limit=1, on_exit=told.append)
    backend.warm([Registration("app.f", "app", Source("none"), serialized=False, settings=FunctionSettings())])
    backend.start([asked_for(1), asked_for(2)])
    assert [request.slot for request in backend.started] == [1, 2]
    assert backend.capacity() == 0
    assert backend.warmed == {"app.f"}
    backend.crash("app.f-1", exit_code=3, last_lines=["oh no"])
    (exit_,) = backend.exits()
    assert (exit_.reason, exit_.last_lines, told) == ("exited with status 3", ("oh no",), ["app.f"])


def test_starts_fail_until_they_are_mended() -> None:
    backend = FakeBackend()
    backend.fail_starts("app.f", "it is broken")
    backend.start([asked_for(1), asked_for(1, "app.g")])
    assert [container.function for container in backend.containers() or ()] == ["app.g"]
    assert [exit_.last_lines for exit_ in backend.exits()] == [("it is broken",)]
    backend.mend_starts("app.f")
    backend.start([asked_for(2)])
    assert len(backend.containers() or ()) == 2
