"""Decorators: what they make, and what they say to every mistake; calling is in tests/contract/test_calling.py."""

from __future__ import annotations

import asyncio
import datetime
import functools
import inspect
import itertools
import math
import pickle
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import click
import pytest
from celery import Celery
from click.testing import CliRunner

from scaleplug import App, Function
from scaleplug.errors import ConfigurationError, Error, ExecutionError, InvalidError
from scaleplug.here import known_functions
from scaleplug.settings import FunctionSettings

if TYPE_CHECKING:
    from collections import OrderedDict

numbers = itertools.count()


@pytest.fixture
def app() -> App:
    return App(f"unit-{next(numbers)}")


def plain(x: int, y: int = 2) -> int:
    """Add."""
    return x + y


async def plain_async(x: int) -> int:
    return x


def other(x: int) -> int:
    return x


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class Class:
    def method(self) -> None: ...

    @staticmethod
    def static() -> None: ...

    @classmethod
    def of_class(cls) -> None: ...


def make_nested() -> Callable[[], None]:
    def nested() -> None: ...

    return nested


# -- what it makes -------------------------------------------------------------------------------------------------


def test_a_function_has_the_name_and_the_words_of_its_callable(app: App) -> None:
    function = app.function()(plain)
    assert isinstance(function, Function)
    assert (function.name, function.full_name) == ("plain", f"{app.name}.plain")
    assert (function.__name__, function.__doc__, function.__module__) == ("plain", "Add.", __name__)
    assert inspect.signature(function) == inspect.signature(plain)
    assert repr(function) == f"<Function {app.name}.plain>"
    assert app.functions == {"plain": function}
    assert function in known_functions()


def test_it_has_a_celery_task_on_a_queue_of_its_own(app: App) -> None:
    function = app.function()(plain)
    assert app.celery.tasks[function.full_name] is function.task
    assert function.queue.endswith(f"queue:{function.full_name}")
    signature = function.s(1, y=3)
    assert (signature.task, signature.args, signature.kwargs) == (function.full_name, (1,), {"y": 3})
    assert function.si(1).immutable
    assert function.signature((1,), countdown=3).options["countdown"] == 3


def test_defaults(app: App) -> None:
    assert app.function()(plain).settings == FunctionSettings(
        min_containers=0, max_containers=None, buffer_containers=0, scaledown_window=60.0, timeout=300.0,
        startup_timeout=None, target_inputs=1, max_inputs=1,
    )  # fmt: skip


def test_all_settings_of_the_decorator(app: App) -> None:
    function = app.function(
        min_containers=1, max_containers=5, buffer_containers=2, scaledown_window=30, timeout=10, startup_timeout=20,
        name="renamed",
    )(plain)  # fmt: skip
    settings = function.settings
    assert (settings.min_containers, settings.max_containers, settings.buffer_containers) == (1, 5, 2)
    assert (settings.scaledown_window, settings.timeout, settings.startup_timeout) == (30.0, 10.0, 20.0)
    assert function.full_name == f"{app.name}.renamed"
    assert function.settings.start_limit == 20
    assert app.function(timeout=9, name="b")(other).settings.start_limit == 9


def test_local_is_the_callable_itself(app: App) -> None:
    assert app.function()(plain).local is plain
    assert app.function()(plain_async).local is plain_async


def test_a_function_can_be_pickled_and_is_found_again(app: App) -> None:
    function = app.function()(plain)
    data = pickle.dumps(function)
    assert pickle.loads(data) is function
    variant = function.with_options(max_containers=3)
    assert pickle.loads(pickle.dumps(variant)).full_name == variant.full_name != function.full_name
    app.functions.clear()
    elsewhere = pickle.loads(data)  # as in a process that doesn't have its code
    assert (elsewhere.full_name, elsewhere.raw) == (function.full_name, None)
    with pytest.raises(ExecutionError, match=r"the code of .*\.plain isn't in this process.*use \.remote"):
        elsewhere.local(1)


def test_a_reloaded_module_replaces_its_functions(app: App) -> None:
    first = app.function()(plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = app.function(max_containers=3)(plain)
    assert app.functions == {"plain": second}
    assert app.celery.tasks[second.full_name] is second.task
    assert second.task is not first.task


def test_a_nested_function_can_be_pickled_instead(app: App) -> None:
    assert app.function(serialized=True)(make_nested()).serialized
    assert app.function(serialized=True, name="method")(Class.method).serialized


def test_an_app_takes_the_name_of_its_file() -> None:
    assert App().name == "test_function"


def test_an_app_can_be_plugged_into_a_celery_app() -> None:
    celery = Celery("theirs", set_as_current=False, broker="memory://")

    @celery.task
    def theirs() -> None: ...

    plugged = App("plugged", celery=celery)
    function = plugged.function()(plain)
    assert plugged.celery is celery
    assert celery.tasks["plugged.plain"] is function.task
    assert celery.conf.broker_url == "memory://"
    assert theirs.name in celery.tasks


def test_without_redis_a_call_says_how_to_get_one(app: App) -> None:
    function = app.function()(plain)
    ways: list[Callable[[], Any]] = [
        lambda: function.remote(1),
        lambda: function.spawn(1),
        lambda: list(function.map([1])),
        lambda: function.for_each([1]),
        lambda: function.delay(1),
        lambda: asyncio.run(function.remote.aio(1)),
    ]
    for way in ways:
        with pytest.raises(ConfigurationError, match=r"scaleplug run FILE.*SCALEPLUG_REDIS_URL"):
            way()


@pytest.mark.parametrize("call", [lambda f: f(1), lambda f: f(), lambda f: f(1, y=2)])
def test_calling_it_says_what_to_do(app: App, call: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"\.remote\(\.\.\.\).*\.map\(\.\.\.\).*\.local\(\.\.\.\)"):
        call(app.function()(plain))


# -- Celery's own calls in this process ----------------------------------------------------------------------------


def test_an_eager_task_runs_here_without_redis_or_a_secret(app: App) -> None:
    app.celery.conf.task_always_eager = True
    function, awaited = app.function()(plain), app.function()(plain_async)
    assert function.delay(1).get() == 3
    assert awaited.delay(4).get() == 4
    assert function.task(1) == 3
    with pytest.raises(TypeError, match="argument"):
        function.delay()

    async def in_a_loop() -> int:
        return int(awaited.delay(5).get())

    assert asyncio.run(in_a_loop()) == 5


def test_an_eager_celery_app_runs_every_call_here(app: App) -> None:
    app.celery.conf.task_always_eager = True
    function, awaited = app.function()(plain), app.function()(plain_async)
    assert function.remote(1) == function.spawn(1).get() == 3
    assert list(function.map([1, 2])) == [3, 4]
    assert awaited.remote(4) == 4
    with pytest.raises(TypeError, match="argument"):
        function.remote()


# -- mistakes ------------------------------------------------------------------------------------------------------

COUNT, SECONDS = "must be a whole number", "must be a number of seconds between"
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"min_containers": -1}, "min_containers must be 0 or more, not -1"),
    ({"min_containers": 1.5}, f"min_containers {COUNT}, not 1.5"),
    ({"min_containers": "2"}, f"min_containers {COUNT}, not '2'"),
    ({"min_containers": True}, f"min_containers {COUNT}, not True"),
    ({"max_containers": 0}, "max_containers must be 1 or more, not 0"),
    ({"max_containers": -1}, "max_containers must be 1 or more, not -1"),
    ({"max_containers": 2.0}, f"max_containers {COUNT}, not 2.0"),
    ({"max_containers": "2"}, f"max_containers {COUNT}, not '2'"),
    ({"max_containers": False}, f"max_containers {COUNT}, not False"),
    ({"buffer_containers": -1}, "buffer_containers must be 0 or more, not -1"),
    ({"buffer_containers": 0.5}, f"buffer_containers {COUNT}, not 0.5"),
    ({"buffer_containers": "a"}, f"buffer_containers {COUNT}, not 'a'"),
    ({"buffer_containers": True}, f"buffer_containers {COUNT}, not True"),
    (
        {"min_containers": 5, "max_containers": 2},
        "min_containers (5) must not be more than max_containers (2): lower one or raise the other",
    ),
    ({"scaledown_window": 0}, "scaledown_window must be between 2 and 3600 seconds, not 0"),
    ({"scaledown_window": 1.99}, "scaledown_window must be between 2 and 3600 seconds, not 1.99"),
    ({"scaledown_window": 3601}, "scaledown_window must be between 2 and 3600 seconds, not 3601"),
    ({"scaledown_window": -5}, "scaledown_window must be between 2 and 3600 seconds, not -5"),
    ({"scaledown_window": math.nan}, "scaledown_window must be between 2 and 3600 seconds, not nan"),
    ({"scaledown_window": math.inf}, "scaledown_window must be between 2 and 3600 seconds, not inf"),
    ({"scaledown_window": "60"}, f"scaledown_window {SECONDS} 2 and 3600, not '60'"),
    ({"scaledown_window": True}, f"scaledown_window {SECONDS} 2 and 3600, not True"),
    ({"timeout": None}, f"timeout {SECONDS} 1 and 86400, not None"),
    ({"timeout": 0}, "timeout must be between 1 and 86400 seconds, not 0"),
    ({"timeout": -1}, "timeout must be between 1 and 86400 seconds, not -1"),
    ({"timeout": 86_401}, "timeout must be between 1 and 86400 seconds, not 86401"),
    ({"timeout": "9"}, f"timeout {SECONDS} 1 and 86400, not '9'"),
    ({"timeout": True}, f"timeout {SECONDS} 1 and 86400, not True"),
    ({"startup_timeout": 0}, "startup_timeout must be between 1 and 86400 seconds, not 0"),
    ({"startup_timeout": "9"}, f"startup_timeout {SECONDS} 1 and 86400, not '9'"),
    ({"name": ""}, "the function's name '' is not valid: use 1 to 64 letters, digits, '-', '_' and '.'"),
    ({"name": "a b"}, "the function's name 'a b' is not valid"),
    ({"name": "x" * 65}, "is not valid: use 1 to 64 letters"),
    ({"name": "é"}, "the function's name 'é' is not valid"),
    ({"name": 7}, "the function's name must be a string, not int (7)"),
]


@pytest.mark.parametrize(("options", "text"), MISTAKES, ids=[str(options) for options, _ in MISTAKES])
def test_a_wrong_option_is_told_where_it_is_written(app: App, options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        app.function(**options)(plain)
    assert text in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, Error)
    assert app.functions == {}


@pytest.mark.parametrize(
    "options",
    [
        {"min_containers": 2, "max_containers": 2},
        {"scaledown_window": 2},
        {"scaledown_window": 3600},
        {"timeout": 1},
        {"timeout": 86_400},
        {"buffer_containers": 3, "max_containers": 2},
        {"name": "A-b_c.9"},
    ],
    ids=str,
)
def test_what_is_just_allowed(app: App, options: dict[str, Any]) -> None:
    assert app.function(**options)(plain).settings


NOT_FUNCTIONS: list[tuple[Any, type[Exception], str]] = [
    (Class, TypeError, r"goes on a function, not on <class '.*Class'>"),
    (3, TypeError, "goes on a function, not on 3"),
    (len, InvalidError, "made with def, which <built-in function len> is not"),
    (lambda: None, InvalidError, "made with def, which <function <lambda> .*> is not"),
    (functools.partial(plain, 1), InvalidError, "made with def, which functools.partial"),
    (Class.of_class, InvalidError, "made with def, which <bound method Class.of_class"),
    (make_nested(), InvalidError, r"nested is not at the top level of its module.*serialized=True"),
    (Class.method, InvalidError, r"Class\.method is not at the top level of its module.*serialized=True"),
    (Class.static, InvalidError, r"Class\.static is not at the top level of its module.*serialized=True"),
]


@pytest.mark.parametrize(("raw", "error", "text"), NOT_FUNCTIONS, ids=[repr(n[0])[:30] for n in NOT_FUNCTIONS])
def test_what_cannot_be_a_function_is_told(app: App, raw: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        app.function()(raw)
    assert app.functions == {}


def test_missing_parentheses_are_told(app: App) -> None:
    with pytest.raises(InvalidError, match=r"@app\.function needs parentheses: write @app\.function\(\) above 'plain'"):
        app.function(plain)  # type: ignore[arg-type]
    with pytest.raises(InvalidError, match=r"needs parentheses: write @app\.local_entrypoint\(\)"):
        app.local_entrypoint(plain)


def test_arguments_without_a_name_are_told(app: App) -> None:
    with pytest.raises(InvalidError, match="takes arguments by name, as in max_containers=5, not 5"):
        app.function(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["region", "max_container"])
def test_an_unknown_argument_is_told_by_name(app: App, option: str) -> None:
    with pytest.raises(TypeError, match=f"'{option}'"):
        app.function(**{option: 1})


def test_a_function_is_decorated_once(app: App) -> None:
    function = app.function()(plain)
    with pytest.raises(InvalidError, match=rf"{function.full_name} is a Function already"):
        app.function()(function)  # type: ignore[arg-type]


def test_two_functions_of_one_name_are_told(app: App) -> None:
    app.function()(plain)
    with pytest.raises(InvalidError, match=rf"has a function 'plain' already \({__name__}\): use name="):
        app.function(name="plain")(other)
    assert app.functions["plain"].raw is plain


def test_concurrency_limit_is_the_older_name_of_max_containers(app: App) -> None:
    older = r"concurrency_limit is the older name of max_containers: write max_containers"
    with pytest.warns(DeprecationWarning, match=older + "=5") as w:
        function = app.function(concurrency_limit=5)(plain)
    assert function.settings.max_containers == 5
    assert w[0].filename == __file__
    with pytest.raises(InvalidError, match=r"concurrency_limit=5 is the older name of .* keep max_containers"):
        app.function(concurrency_limit=5, max_containers=6)
    wrong = "max_containers must be 1 or more, not 0"
    with pytest.warns(DeprecationWarning, match=older), pytest.raises(InvalidError, match=wrong):
        app.function(concurrency_limit=0)


@pytest.mark.parametrize(
    ("older", "name"), [("keep_warm", "min_containers"), ("container_idle_timeout", "scaledown_window")]
)
def test_other_older_names_work_too(app: App, older: str, name: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{older} is the older name of {name}: write {name}=5"):
        function = app.function(**{older: 5})(plain)
    assert getattr(function.settings, name) == 5
    with pytest.raises(InvalidError, match=f"keep {name}"):
        app.function(**{older: 5, name: 6})


@pytest.mark.parametrize("name", ["", "a b", 3, "x" * 65])
def test_an_apps_name_is_checked(name: Any) -> None:
    with pytest.raises(InvalidError, match="the App's name"):
        App(name)


def test_celery_must_be_a_celery_app() -> None:
    with pytest.raises(InvalidError, match=r"celery must be a celery\.Celery app, not 3"):
        App("wrong", celery=3)  # type: ignore[arg-type]


# -- local entrypoints ---------------------------------------------------------------------------------------------


def every_type(
    text: str, whole: int, real: float, yes: bool, day: datetime.datetime, maybe: int | None = None, untyped="x"
) -> None:
    """Say it."""
    click.echo(f"{text} {whole} {real} {yes} {day:%Y} {maybe} {untyped}")


def test_an_entrypoints_arguments_become_options(app: App) -> None:
    command = app.local_entrypoint()(every_type).command()
    arguments = ["--text=a", "--whole=2", "--real=1.5", "--no-yes", "--day=2026-01-31", "--untyped=b"]
    result = CliRunner().invoke(command, arguments)
    assert result.output == "a 2 1.5 False 2026 None b\n"
    assert "Missing option" in CliRunner().invoke(command, []).output
    assert "not an ISO date" in CliRunner().invoke(command, [*arguments, "--day", "soon"]).output
    assert "Say it." in CliRunner().invoke(command, ["--help"]).output


def test_an_entrypoint_can_be_called_and_may_be_async(app: App) -> None:
    assert app.local_entrypoint()(plain)(1) == 3
    assert app.local_entrypoint(name="second")(plain_async)(4) == 4
    assert list(app.entrypoints) == ["plain", "second"]


def takes_list(a: list[int]) -> None: ...


def takes_either(a: int | str) -> None: ...


def takes_more(*args: int) -> None: ...


def takes_any_name(**kwargs: int) -> None: ...


def takes_by_position(a: int, /) -> None: ...


def takes_unknown(a: OrderedDict[str, int]) -> None: ...


ENTRYPOINT_MISTAKES: list[tuple[Any, str]] = [
    (takes_list, r"argument 'a' of the local entrypoint 'takes_list' has the type list\[int\].*: use str, int, float,"),
    (takes_either, r"argument 'a' .* has the type int \| str"),
    (takes_more, r"the local entrypoint 'takes_more' can't take \*args.*: use arguments with names and types"),
    (takes_any_name, r"the local entrypoint 'takes_any_name' can't take \*\*kwargs"),
    (takes_by_position, r"the local entrypoint 'takes_by_position' can't take a"),
    (takes_unknown, r"the types of the local entrypoint 'takes_unknown''s arguments can't be read .*OrderedDict"),
    (generator, "the local entrypoint 'generator' is a generator function"),
    (async_generator, "the local entrypoint 'async_generator' is a generator function, .*: return a list instead"),
    (Class, "goes on a function made with def, which <class '.*Class'> is not"),
    (3, "goes on a function made with def, which 3 is not"),
]


@pytest.mark.parametrize(("raw", "text"), ENTRYPOINT_MISTAKES, ids=[repr(m[0])[:30] for m in ENTRYPOINT_MISTAKES])
def test_what_cannot_be_an_entrypoint_is_told(app: App, raw: Any, text: str) -> None:
    with pytest.raises(InvalidError, match=text):
        app.local_entrypoint()(raw)
    assert app.entrypoints == {}


def test_an_entrypoint_is_no_function(app: App) -> None:
    with pytest.raises(InvalidError, match=r"made with def, which <Function .*plain> is not"):
        app.local_entrypoint()(app.function()(plain))


@pytest.mark.parametrize("name", ["", "a b", 5])
def test_an_entrypoints_name_is_checked(app: App, name: Any) -> None:
    with pytest.raises(InvalidError, match="the local entrypoint's name"):
        app.local_entrypoint(name=name)(plain)


def test_two_entrypoints_of_one_name_are_told(app: App) -> None:
    app.local_entrypoint(name="main")(plain)
    with pytest.raises(InvalidError, match="has a local entrypoint 'main' already: names must differ"):
        app.local_entrypoint(name="main")(other)
    assert app.entrypoints["main"].raw is plain
