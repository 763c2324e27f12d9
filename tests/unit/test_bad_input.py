# ruff: noqa: E501, PLW0108, DTZ001  # a row is a line, a lambda, and wrong
"""What people get wrong at the public interface, and what they are told: the argument, its value and the way out."""

from __future__ import annotations

import datetime
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner

import scaleplug
from scaleplug import testing
from scaleplug.cli.main import cli
from scaleplug.errors import (
    ConfigurationError,
    ExecutionError,
    InvalidError,
    NotFoundError,
    PayloadTooLargeError,
    SerializationError,
)
from scaleplug.serializer import Keyring
from scaleplug.server import connect
from scaleplug.settings import Config
from tests.commands import ROOT, SECRET

Row = tuple[str, Callable[[], object], type[Exception], str]
app = scaleplug.App("shop")


@app.function()
def double(x: int, times: int = 1) -> int:
    return 2 * x * times


@app.function()
def numbers(n: int) -> Iterator[int]:
    yield from range(n)


@app.function()
def grow(text: str) -> str:
    return text * 10_000_000


@app.function()
@scaleplug.batched(max_batch_size=2, wait_ms=10)
def batch(xs: list[int]) -> Any:
    return xs[0] if xs[0] < 0 else xs


@app.cls()
class Model:
    """A class with parameters."""

    size: str = scaleplug.parameter()
    depth: int = scaleplug.parameter(default=1)

    @scaleplug.method()
    def run(self, x: int) -> int:
        return x

    @scaleplug.method()
    def items(self, n: int) -> Iterator[int]:
        yield from range(n)


def plain(x: int = 1) -> int:
    return x


def decorated(**options: Any) -> Callable[[], object]:
    """Return a try to decorate a function so."""
    return lambda: scaleplug.App("bad").function(serialized=True, **options)(plain)


def decorated_class(**options: Any) -> Callable[[], object]:
    return lambda: scaleplug.App("bad").cls(serialized=True, **options)(type("Plain", (), {}))


def in_class(**members: Any) -> Callable[[], object]:
    annotations = {name: int for name in members if name.startswith("p_")}
    return lambda: scaleplug.App("bad").cls(serialized=True)(type("K", (), {"__annotations__": annotations, **members}))


def environ(**values: str) -> Callable[[], object]:
    return lambda: Config.from_environ({f"SCALEPLUG_{name}": value for name, value in values.items()})


def drained(iterable: Any) -> list[Any]:
    return list(iterable)


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("not this one")

    def __repr__(self) -> str:
        return "<the unpicklable>"


DECORATORS: list[Row] = [
    ("no parentheses", lambda: app.function(plain), InvalidError, r"@app\.function needs parentheses.*'plain'"),
    ("a number", lambda: app.function(5), InvalidError, r"takes arguments by name, as in max_containers=5, not 5"),
    ("a class", lambda: app.function()(Model.__class__), TypeError, r"goes on a function, not on <class"),
    ("a string", lambda: app.function()("plain"), TypeError, r"goes on a function, not on 'plain'"),
    ("a builtin", lambda: app.function()(len), InvalidError, r"made with def, which <built-in function len> is not"),
    ("a lambda", lambda: app.function()(lambda: 1), InvalidError, r"made with def, which <function .*<lambda>"),
    ("twice", lambda: app.function()(double), InvalidError, r"shop\.double is a Function already: put .* on it once"),
    ("nested", lambda: app.function()(typed(int)), InvalidError, r"takes.*serialized=True"),
    ("name with a space", decorated(name="a b"), InvalidError, r"the function's name 'a b' is not valid: use 1 to 64"),
    ("an empty name", decorated(name=""), InvalidError, r"the function's name '' is not valid: use 1 to 64 letters"),
    ("a long name", decorated(name="x" * 65), InvalidError, r"the function's name 'x+' is not valid: use 1 to 64"),
    ("a number as name", decorated(name=5), InvalidError, r"the function's name must be a string, not int \(5\)"),
    ("a name with ~", decorated(name="a~b"), InvalidError, r"the function's name 'a~b' is not valid: use"),
    ("serialized", lambda: app.function(serialized="yes"), InvalidError, r"serialized must be True or False, not 'yes'"),
    ("unknown option", lambda: app.function(region="eu"), TypeError, r"region"),
    ("min below 0", decorated(min_containers=-1), InvalidError, r"min_containers must be 0 or more, not -1"),
    ("min a float", decorated(min_containers=1.5), InvalidError, r"min_containers must be a whole number, not 1\.5"),
    ("min a string", decorated(min_containers="2"), InvalidError, r"min_containers must be a whole number, not '2'"),
    ("min a bool", decorated(min_containers=True), InvalidError, r"min_containers must be a whole number, not True"),
    ("max of 0", decorated(max_containers=0), InvalidError, r"max_containers must be 1 or more, not 0"),
    ("max a list", decorated(max_containers=[3]), InvalidError, r"max_containers must be a whole number, not \[3\]"),
    ("max infinite", decorated(max_containers=math.inf), InvalidError, r"max_containers must be a whole number, not inf"),
    ("min above max", decorated(min_containers=3, max_containers=2), InvalidError, r"min_containers \(3\) must not be more than max_containers \(2\): lower one"),
    ("buffer below 0", decorated(buffer_containers=-2), InvalidError, r"buffer_containers must be 0 or more, not -2"),
    ("window of 1", decorated(scaledown_window=1), InvalidError, r"scaledown_window must be between 2 and 3600 seconds, not 1"),
    ("window too long", decorated(scaledown_window=3601), InvalidError, r"scaledown_window must be between 2 and 3600 seconds, not 3601"),
    ("window NaN", decorated(scaledown_window=math.nan), InvalidError, r"scaledown_window must be between 2 and 3600 seconds, not nan"),
    ("timeout of 0", decorated(timeout=0), InvalidError, r"timeout must be between 1 and 86400 seconds, not 0"),
    ("timeout None", decorated(timeout=None), InvalidError, r"timeout must be a number of seconds between 1 and 86400, not None"),
    ("timeout a timedelta", decorated(timeout=datetime.timedelta(hours=1)), InvalidError, r"timeout must be a number of seconds .*, not datetime\.timedelta\(seconds=3600\)"),
    ("timeout a bool", decorated(timeout=True), InvalidError, r"timeout must be a number of seconds .*, not True"),
    ("startup_timeout", decorated(startup_timeout=0.5), InvalidError, r"startup_timeout must be between 1 and 86400 seconds, not 0\.5"),
    ("retries below 0", decorated(retries=-1), InvalidError, r"retries must be 0 or more, not -1"),
    ("retries a float", decorated(retries=1.5), InvalidError, r"retries must be a whole number or scaleplug\.Retries\(.*, not 1\.5"),
    ("retries a bool", decorated(retries=True), InvalidError, r"retries must be a whole number or scaleplug\.Retries\(.*, not True"),
    ("retries unknown key", decorated(retries={"max_retries": 1, "jitter": 2}), InvalidError, r"retries must be a whole number or scaleplug\.Retries\(.*, not \{'max_retries': 1, 'jitter': 2\}"),
    ("retries without max", decorated(retries={"max_delay": 2}), InvalidError, r"retries must be .* scaleplug\.Retries\(max_retries=\.\.\.\), not \{'max_delay': 2\}"),
    ("single use", decorated(single_use_containers=1), InvalidError, r"single_use_containers must be True or False, not 1"),
    ("schedule a string", decorated(schedule="0 6 * * *"), InvalidError, r"schedule must be a Cron or a Period, as in Cron\('0 6 \* \* \*'\), not '0 6"),
    ("both names", decorated(max_containers=1, concurrency_limit=2), InvalidError, r"concurrency_limit=2 is the older name of max_containers, and max_containers=1 was given too: keep max_containers"),
    ("both warm names", decorated(min_containers=1, keep_warm=2), InvalidError, r"keep_warm=2 is the older name of min_containers"),
    ("both windows", decorated(scaledown_window=5, container_idle_timeout=9), InvalidError, r"container_idle_timeout=9 is the older name"),
    ("scheduled arguments", lambda: scaleplug.App("bad").function(serialized=True, schedule=scaleplug.Period(hours=1))(double.raw), InvalidError, r"'?x'?"),
    ("a generator with retries", lambda: scaleplug.App("bad").function(retries=2)(numbers.raw), InvalidError, r"bad\.numbers is a generator function, which can't have retries: leave retries out"),
    ("two of a name", lambda: app.function(name="double", serialized=True)(plain), InvalidError, r"the app 'shop' has a function 'double' already .*use name= for one"),
    ("class without parentheses", lambda: app.cls(Model), InvalidError, r"@app\.cls needs parentheses: write @app\.cls\(\) above"),
    ("cls on a function", lambda: app.cls()(plain), TypeError, r"@app\.cls\(\) goes on a class, not on <function plain"),
    ("cls unknown option", lambda: app.cls(enable_memory_snapshot=True), TypeError, r"enable_memory_snapshot"),
    ("cls min below 0", decorated_class(min_containers=-1), InvalidError, r"min_containers must be 0 or more, not -1"),
    ("cls timeout", decorated_class(timeout="1h"), InvalidError, r"timeout must be a number of seconds .*, not '1h'"),
    ("entrypoint without parentheses", lambda: app.local_entrypoint(plain), InvalidError, r"@app\.local_entrypoint needs parentheses"),
    ("entrypoint on a class", lambda: app.local_entrypoint()(Model), InvalidError, r"goes on a function made with def, which .* is not"),
    ("entrypoint generator", lambda: app.local_entrypoint()(numbers.raw), InvalidError, r"'numbers' is a generator function, .*return a list"),
    ("entrypoint *args", lambda: app.local_entrypoint()(lambda_args()), InvalidError, r"can't take \*rest: 'int' from a command line: use arguments with names"),
    ("entrypoint type", lambda: app.local_entrypoint()(typed(dict)), InvalidError, r"the argument 'value' of .* has the type <class 'dict'>.*use str, int, float"),
    ("entrypoint name", lambda: app.local_entrypoint(name="a b")(plain), InvalidError, r"the local entrypoint's name 'a b' is not valid"),
]  # fmt: skip


def lambda_args() -> Callable[..., Any]:
    def many(*rest: int) -> None: ...

    return many


def typed(kind: Any) -> Callable[..., Any]:
    def takes(value: Any) -> None: ...

    takes.__annotations__["value"] = kind
    return takes


APPS: list[Row] = [
    ("a number as name", lambda: scaleplug.App(5), InvalidError, r"the App's name must be a string, not int \(5\)"),
    ("a slash", lambda: scaleplug.App("a/b"), InvalidError, r"the App's name 'a/b' is not valid: use 1 to 64 letters"),
    ("an empty name", lambda: scaleplug.App(""), InvalidError, r"the App's name '' is not valid: use"),
    ("celery a string", lambda: scaleplug.App("a", celery="proj"), InvalidError, r"celery must be a celery\.Celery app, not 'proj'"),
    ("celery by place", lambda: scaleplug.App("a", Celery("x")), TypeError, r"positional"),
    ("a URL without scheme", lambda: scaleplug.App("a", redis_url="localhost:6379"), ConfigurationError, r"the Redis URL 'localhost:6379' is not one of redis://"),
    ("a number as URL", lambda: scaleplug.App("a", redis_url=6379), InvalidError, r"redis_url must be a URL such as redis://.*, not 6379"),
    ("http", lambda: scaleplug.App("a", redis_url="http://u:topsecret@h"), ConfigurationError, r"'http://u:\*\*\*@h' is not one of redis://.*write it like"),
    ("no such name", lambda: scaleplug.functoin, AttributeError, r"module 'scaleplug' has no attribute 'functoin'"),
    ("deploy of nothing", lambda: scaleplug.App("empty").deploy(), ExecutionError, r"can't be deployed in a test twin"),
]  # fmt: skip

CONCURRENCY: list[Row] = [
    ("max_inputs 0", lambda: scaleplug.concurrent(max_inputs=0), InvalidError, r"max_inputs must be 1 or more, not 0"),
    ("max_inputs a string", lambda: scaleplug.concurrent(max_inputs="4"), InvalidError, r"max_inputs must be a whole number, not '4'"),
    ("target above max", lambda: scaleplug.concurrent(max_inputs=2, target_inputs=3), InvalidError, r"target_inputs \(3\) must not be more than max_inputs \(2\)"),
    ("target 0", lambda: scaleplug.concurrent(max_inputs=2, target_inputs=0), InvalidError, r"target_inputs must be 1 or more, not 0"),
    ("no max", lambda: scaleplug.concurrent(), TypeError, r"max_inputs"),
    ("a pool", lambda: scaleplug.concurrent(max_inputs=2, pool="gevent"), InvalidError, r"pool must be 'threads' or 'eventlet', not 'gevent'"),
    ("by place", lambda: scaleplug.concurrent(5), TypeError, r"positional"),
    ("concurrent alone", lambda: scaleplug.concurrent(max_inputs=2)(plain)(), InvalidError, r"plain is under @scaleplug\.concurrent\(\.\.\.\) alone: put @app\.function\(\) above it"),
    ("concurrent above", lambda: scaleplug.concurrent(max_inputs=2)(double), InvalidError, r"@scaleplug\.concurrent\(\.\.\.\)"),
    ("batch of 0", lambda: scaleplug.batched(max_batch_size=0, wait_ms=1), InvalidError, r"max_batch_size must be .*not 0"),
    ("batch too large", lambda: scaleplug.batched(max_batch_size=1001, wait_ms=1), InvalidError, r"max_batch_size must be .*1,?000.*1001"),
    ("wait below 0", lambda: scaleplug.batched(max_batch_size=2, wait_ms=-1), InvalidError, r"wait_ms must be .*not -1"),
    ("wait a float", lambda: scaleplug.batched(max_batch_size=2, wait_ms=0.5), InvalidError, r"wait_ms must be a whole number, not 0\.5"),
    ("batched without wait", lambda: scaleplug.batched(max_batch_size=2), TypeError, r"wait_ms"),
    ("batched generator", lambda: scaleplug.batched(max_batch_size=2, wait_ms=1)(numbers.raw), InvalidError, r"goes on a function that returns a list, which <function numbers .* is not"),
    ("single use and concurrent", lambda: scaleplug.App("bad").function(serialized=True, single_use_containers=True)(scaleplug.concurrent(max_inputs=2)(plain)), InvalidError, r"single_use_containers=True .*@concurrent up to 2: take one of them away"),
    ("with_concurrency 0", lambda: double.with_concurrency(max_inputs=0), InvalidError, r"max_inputs must be 1 or more, not 0"),
    ("with_batching 0", lambda: grow.with_batching(max_batch_size=0, wait_ms=1), InvalidError, r"max_batch_size must be .*not 0"),
    ("with_batching of a generator", lambda: numbers.with_batching(max_batch_size=2, wait_ms=1), InvalidError, r"goes on a function that returns a list, which <function numbers"),
]  # fmt: skip

RETRIES: list[Row] = [
    ("nothing", lambda: scaleplug.Retries(), TypeError, r"max_retries"),
    ("by place", lambda: scaleplug.Retries(3), TypeError, r"positional"),
    ("below 0", lambda: scaleplug.Retries(max_retries=-1), InvalidError, r"max_retries must be 0 or more, not -1"),
    ("a string", lambda: scaleplug.Retries(max_retries="3"), InvalidError, r"max_retries must be a whole number, not '3'"),
    ("coefficient", lambda: scaleplug.Retries(max_retries=1, backoff_coefficient=0.5), InvalidError, r"backoff_coefficient must be a number between 1 and 10, not 0\.5"),
    ("coefficient a string", lambda: scaleplug.Retries(max_retries=1, backoff_coefficient="2"), InvalidError, r"backoff_coefficient must be a number between 1 and 10, not '2'"),
    ("initial", lambda: scaleplug.Retries(max_retries=1, initial_delay=61), InvalidError, r"initial_delay must be between 0 and 60 seconds, not 61"),
    ("max_delay", lambda: scaleplug.Retries(max_retries=1, max_delay=0.5), InvalidError, r"max_delay must be between 1 and 60 seconds, not 0\.5"),
    ("max_delay NaN", lambda: scaleplug.Retries(max_retries=1, max_delay=math.nan), InvalidError, r"max_delay must be between 1 and 60 seconds, not nan"),
]  # fmt: skip

SCHEDULES: list[Row] = [
    ("four fields", lambda: scaleplug.Cron("0 6 * *"), InvalidError, r"cron_string '0 6 \* \*' needs five fields: minute hour"),
    ("six fields", lambda: scaleplug.Cron("0 0 6 * * *"), InvalidError, r"cron_string '0 0 6 \* \* \*' needs five fields"),
    ("empty", lambda: scaleplug.Cron(""), InvalidError, r"cron_string '' needs five fields"),
    ("minute 60", lambda: scaleplug.Cron("60 * * * *"), InvalidError, r"cron_string '60 \* \* \* \*' is not a cron expression: Bad minute"),
    ("a word", lambda: scaleplug.Cron("x * * * *"), InvalidError, r"cron_string 'x \* \* \* \*' is not a cron expression"),
    ("None", lambda: scaleplug.Cron(None), InvalidError, r"cron_string must be .*, not None"),
    ("a list", lambda: scaleplug.Cron(["0", "6", "*", "*", "*"]), InvalidError, r"cron_string must be .*, not \['0'"),
    ("@daily", lambda: scaleplug.Cron("@daily"), InvalidError, r"cron_string '@daily' needs five fields"),
    ("a zone", lambda: scaleplug.Cron("0 6 * * *", "Europe/Pariss"), InvalidError, r"timezone 'Europe/Pariss' is not an IANA time zone.*did you mean .*Europe/Paris"),
    ("a zone object", lambda: scaleplug.Cron("0 6 * * *", datetime.UTC), InvalidError, r"timezone must be a string such as 'Europe/Paris', not datetime"),
    ("a zone list", lambda: scaleplug.Cron("0 6 * * *", []), InvalidError, r"timezone must be a string such as 'Europe/Paris', not \[\]"),
    ("never", lambda: scaleplug.Cron("0 0 31 2 *").next_after(datetime.datetime.now(datetime.UTC)), InvalidError, r"cron_string '0 0 31 2 \*' .*(no time|not a cron)"),
    ("a naive moment", lambda: scaleplug.Period(hours=1).next_after(datetime.datetime(2026, 1, 1)), InvalidError, r"the moment 2026-01-01 00:00:00 has no time zone: use datetime\.now\(UTC\)"),
    ("no period", lambda: scaleplug.Period(), InvalidError, r"a Period must be a second or longer, as in Period\(hours=1\)"),
    ("too short", lambda: scaleplug.Period(seconds=0.5), InvalidError, r"a Period must be a second or longer"),
    ("below 0", lambda: scaleplug.Period(hours=-1), InvalidError, r"hours must be a number of 0 or more, not -1"),
    ("a string", lambda: scaleplug.Period(days="1"), InvalidError, r"days must be a number of 0 or more, not '1'"),
    ("NaN", lambda: scaleplug.Period(seconds=math.nan), InvalidError, r"seconds must be a number of 0 or more, not nan"),
    ("infinite", lambda: scaleplug.Period(seconds=math.inf), InvalidError, r"seconds must be .*not inf"),
    ("too long", lambda: scaleplug.Period(years=10**9), InvalidError, r"years=1000000000.* is too long: a Period may have up to"),
    ("by place", lambda: scaleplug.Period(5), TypeError, r"positional"),
    ("unknown unit", lambda: scaleplug.Period(fortnights=1), TypeError, r"fortnights"),
]  # fmt: skip

CLASSES: list[Row] = [
    ("method without parentheses", lambda: scaleplug.method(plain), InvalidError, r"@scaleplug\.method needs parentheses: write @scaleplug\.method\(\) above 'plain'"),
    ("enter without parentheses", lambda: scaleplug.enter(plain), InvalidError, r"@scaleplug\.enter needs parentheses: write @scaleplug\.enter\(\) above 'plain'"),
    ("exit without parentheses", lambda: scaleplug.exit(plain), InvalidError, r"@scaleplug\.exit needs parentheses: write @scaleplug\.exit\(\) above 'plain'"),
    ("parameter by place", lambda: scaleplug.parameter("small"), TypeError, r"positional"),
    ("method on a class", lambda: scaleplug.method()(Unpicklable), InvalidError, r"@scaleplug\.method\(\) goes on a method made with def, which <class"),
    ("two marks", lambda: scaleplug.enter()(scaleplug.method()(plain)), InvalidError, r"@scaleplug\.enter\(\) can't be combined with another mark on 'plain': use two methods"),
    ("enter with arguments", lambda: scaleplug.enter()(double.raw), InvalidError, r"@scaleplug\.enter\(\) goes on a method without arguments but self, which double is not"),
    ("a parameter's type", lambda: scaleplug.App("bad").cls(serialized=True)(type("K", (), {"__annotations__": {"f": float}, "f": scaleplug.parameter()})), InvalidError, r"the parameter 'f' of K is annotated with <class 'float'>: use int, str, bytes or bool"),
    ("no annotation", lambda: scaleplug.App("bad").cls(serialized=True)(type("K", (), {"f": scaleplug.parameter()})), InvalidError, r"the parameter 'f' of K has no annotation: use int"),
    ("a default's type", in_class(p_n=scaleplug.parameter(default="x")), InvalidError, r"the default of 'p_n' must be int, not 'x'"),
    ("a constructor", in_class(__init__=lambda self, x: None), InvalidError, r"K"),
    ("no such parameter", lambda: Model(sise="x"), InvalidError, r"shop\.Model has no parameter 'sise': did you mean size"),
    ("a parameter is missing", lambda: Model().run.remote(1), InvalidError, r"shop\.Model needs its parameter 'size': Model\(size=\.\.\.\)"),
    ("by place", lambda: Model("x"), InvalidError, r"shop\.Model takes its parameters .*size.*, not \('x',\)"),
    ("a parameter's kind", lambda: Model(size=5).run.remote(1), TypeError, r"the parameter 'size' of shop\.Model must be str, not int \(5\)"),
    ("a bool for an int", lambda: Model(size="s", depth=True).run.remote(1), TypeError, r"the parameter 'depth' of shop\.Model must be int, not bool \(True\)"),
    ("no such method", lambda: Model(size="s").runn, AttributeError, r"shop\.Model has no method or attribute 'runn': did you mean run"),
    ("a method of the class", lambda: Model.run.remote(1), AttributeError, r"shop\.Model\.run needs an object|has a pool for each object|no attribute"),
    ("a generator method by remote", lambda: Model(size="s").items.remote(1), InvalidError, r"items is a generator function, and \.remote\(\) .*use \.remote_gen"),
    ("options of a method", lambda: Model(size="s").run.with_options(timeout=5), InvalidError, r"run is a method: use with_options and its kind on the class"),
    ("with_options", lambda: Model.with_options(timeout=0), InvalidError, r"timeout must be between 1 and 86400 seconds, not 0"),
    ("with_options min", lambda: Model.with_options(min_containers=1), TypeError, r"min_containers"),
    ("from_name", lambda: scaleplug.Cls.from_name("shop", 5), InvalidError, r"name must be a string, not int \(5\)"),
    ("from_name dotted app", lambda: scaleplug.Cls.from_name("a b", "C"), InvalidError, r"app_name 'a b' is not valid: use"),
]  # fmt: skip

CALLS: list[Row] = [
    ("called", lambda: double(1), TypeError, r"shop\.double can't be called like a plain function: use \.remote\(\.\.\.\)"),
    ("too few", lambda: double.remote(), TypeError, r"missing 1 required positional argument: 'x'"),
    ("too many", lambda: double.remote(1, 2, 3), TypeError, r"takes from 1 to 2 positional arguments but 3"),
    ("unknown keyword", lambda: double.remote(1, tims=2), TypeError, r"unexpected keyword argument 'tims'"),
    ("spawn too few", lambda: double.spawn(), TypeError, r"missing 1 required positional argument: 'x'"),
    ("delay too few", lambda: double.delay(), TypeError, r"missing 1 required positional argument: 'x'"),
    ("unpicklable", lambda: double.remote(Unpicklable()), SerializationError, r"argument 1 of shop\.double, a .*Unpicklable \(<the unpicklable>\), can't be pickled: TypeError: not this one\. Pass plain data"),
    ("an unpicklable keyword", lambda: double.remote(1, times=Unpicklable()), SerializationError, r"argument 'times' of shop\.double, a .*Unpicklable"),
    ("an unpicklable spawned", lambda: double.spawn(Unpicklable()), SerializationError, r"argument 1 of shop\.double"),
    ("an open file", lambda: double.remote(i for i in ()), SerializationError, r"argument 1 of shop\.double, a generator .*can't be pickled"),
    ("an unpicklable in a map", lambda: drained(double.map([Unpicklable()])), SerializationError, r"argument 1 of shop\.double"),
    ("a huge result", lambda: grow.remote("x" * 60), PayloadTooLargeError, r"what shop\.grow returned takes 600,000,\d+ bytes, and 536,870,912 are allowed \(SCALEPLUG_MAX_PAYLOAD\): pass a path"),
    ("a generator by remote", lambda: numbers.remote(3), InvalidError, r"shop\.numbers is a generator function, and \.remote\(\) would give one result: use \.remote_gen"),
    ("a generator by map", lambda: numbers.map([3]), InvalidError, r"generator function, and \.map\(\), .*use \.remote_gen"),
    ("a generator by spawn", lambda: numbers.spawn(3), InvalidError, r"generator function, and \.spawn\(\)"),
    ("a generator by spawn_map", lambda: numbers.spawn_map([3]), InvalidError, r"generator function, and \.spawn_map\(\)"),
    ("a generator by delay", lambda: numbers.delay(3), InvalidError, r"generator function, and delay\(\)"),
    ("remote_gen of a function", lambda: double.remote_gen(1), InvalidError, r"shop\.double is no generator function: call it with \.remote"),
    ("remote_gen too few", lambda: numbers.remote_gen(), TypeError, r"missing 1 required positional argument: 'n'"),
    ("no inputs", lambda: double.map(), InvalidError, r"shop\.double\.map\(\) needs at least one iterator of inputs"),
    ("a number as inputs", lambda: double.map(5), InvalidError, r"shop\.double\.map.*5"),
    ("None as inputs", lambda: double.map(None), InvalidError, r"shop\.double\.map.*None"),
    ("a second input", lambda: double.map([1], 5), InvalidError, r"shop\.double\.map.*5"),
    ("starmap of numbers", lambda: drained(double.starmap([1, 2])), InvalidError, r"each input of shop\.double\.starmap\(\) must hold the arguments, as \(a, b\) does, not 1"),
    ("starmap of a number", lambda: double.starmap(5), InvalidError, r"shop\.double\.starmap.*5"),
    ("kwargs a list", lambda: double.map([1], kwargs=[("times", 2)]), InvalidError, r"kwargs must be a mapping of argument names, not \[\('times', 2\)\]"),
    ("kwargs numbers", lambda: double.map([1], kwargs={1: 2}), InvalidError, r"kwargs must be a mapping of argument names, not \{1: 2\}"),
    ("kwargs unknown", lambda: drained(double.map([1], kwargs={"tims": 2})), TypeError, r"unexpected keyword argument 'tims'"),
    ("map unknown option", lambda: double.map([1], ordered=False), TypeError, r"ordered"),
    ("order_outputs", lambda: double.map([1], order_outputs="no"), InvalidError, r"order_outputs must be True or False, not 'no'"),
    ("return_exceptions", lambda: double.map([1], return_exceptions=1), InvalidError, r"return_exceptions must be True or False, not 1"),
    ("for_each of nothing", lambda: double.for_each(), InvalidError, r"needs at least one iterator of inputs"),
    ("for_each ignore", lambda: double.for_each([1], ignore_exceptions="yes"), InvalidError, r"ignore_exceptions must be True or False, not 'yes'"),
    ("spawn_map of nothing", lambda: double.spawn_map(), InvalidError, r"shop\.double\.spawn_map\(\) needs at least one iterator"),
    ("spawn_map of a number", lambda: double.spawn_map(5), InvalidError, r"shop\.double\.spawn_map.*5"),
    ("spawn_map kwargs", lambda: double.spawn_map([1], kwargs="x"), InvalidError, r"kwargs must be a mapping of argument names, not 'x'"),
    ("a batch's results", lambda: batch.remote(-1), InvalidError, r"shop\.batch is batched: for 1 inputs? it must return a list of 1 results?, not a int"),
    ("apply_async args", lambda: double.apply_async(args="ab"), InvalidError, r"args must be .*, not 'ab'"),
    ("apply_async args a number", lambda: double.apply_async(args=5), InvalidError, r"args must be .*, not 5"),
    ("apply_async kwargs", lambda: double.apply_async(kwargs=[1]), InvalidError, r"kwargs must be .*, not \[1\]"),
    ("apply_async task_id", lambda: double.apply_async((1,), task_id=5), InvalidError, r"task_id must be .*, not 5"),
    ("apply_async long task_id", lambda: double.apply_async((1,), task_id="x" * 70_000), InvalidError, r"task_id must be .*, not 'x+"),
]  # fmt: skip

VARIANTS: list[Row] = [
    ("timeout", lambda: double.with_options(timeout=-1), InvalidError, r"timeout must be between 1 and 86400 seconds, not -1"),
    ("max", lambda: double.with_options(max_containers=0), InvalidError, r"max_containers must be 1 or more, not 0"),
    ("window", lambda: double.with_options(scaledown_window="x"), InvalidError, r"scaledown_window must be a number of seconds .*, not 'x'"),
    ("retries", lambda: double.with_options(retries="3"), InvalidError, r"retries must be a whole number or scaleplug\.Retries.*, not '3'"),
    ("unknown", lambda: double.with_options(memory=512), TypeError, r"memory"),
    ("by place", lambda: double.with_options(5), TypeError, r"positional"),
    ("update min", lambda: double.update_autoscaler(min_containers=-1), InvalidError, r"min_containers must be 0 or more, not -1"),
    ("update max", lambda: double.update_autoscaler(max_containers="9"), InvalidError, r"max_containers must be a whole number, not '9'"),
    ("update min above max", lambda: double.update_autoscaler(min_containers=5, max_containers=2), InvalidError, r"min_containers \(5\) must not be more than max_containers \(2\)"),
    ("update window", lambda: double.update_autoscaler(scaledown_window=0), InvalidError, r"scaledown_window must be between 2 and 3600 seconds, not 0"),
    ("update unknown", lambda: double.update_autoscaler(timeout=5), TypeError, r"timeout"),
]  # fmt: skip

LOOKUPS: list[Row] = [
    ("id None", lambda: scaleplug.FunctionCall.from_id(None), InvalidError, r"function_call_id must be an id such as 'fc-\.\.\.', not None"),
    ("id a number", lambda: scaleplug.FunctionCall.from_id(5), InvalidError, r"function_call_id must be an id such as 'fc-\.\.\.', not 5"),
    ("id empty", lambda: scaleplug.FunctionCall.from_id(""), InvalidError, r"function_call_id must be an id such as 'fc-\.\.\.', not ''"),
    ("id unknown", lambda: scaleplug.FunctionCall.from_id("fc-nobody").get(timeout=0), scaleplug.Error, r"nothing is known of fc-nobody: its result is no longer kept, or it never was"),
    ("cancel unknown", lambda: scaleplug.FunctionCall.from_id("fc-nobody").cancel(), NotFoundError, r"nothing is known of fc-nobody: it can't be cancelled"),
    ("terminate", lambda: double.spawn(1).cancel(terminate_containers=True), InvalidError, r"terminate_containers must be False, not True: running inputs are interrupted"),
    ("index", lambda: double.spawn(1).get(index=-1), InvalidError, r"index must be 0 or more, not -1"),
    ("index a string", lambda: double.spawn(1).get(index="0"), InvalidError, r"index must be a whole number, not '0'"),
    ("index too high", lambda: double.spawn(1).get(index=1), InvalidError, r"index 1 is none of fc-.*num_inputs\(\) is 1, and the first index is 0"),
    ("a timeout", lambda: double.spawn(1).get(timeout="5"), InvalidError, r"timeout must be a number of seconds.*, not '5'"),
    ("a timeout below 0", lambda: double.spawn(1).get(timeout=-1), InvalidError, r"timeout must be .*not -1"),
    ("a timeout NaN", lambda: double.spawn(1).get(timeout=math.nan), InvalidError, r"timeout must be .*not nan"),
    ("iter start", lambda: drained(double.spawn_map([1, 2]).iter(start=5)), InvalidError, r"5 to 2 is no range of the inputs of fc-.*num_inputs\(\) is 2, so use 0 <= start"),
    ("iter end", lambda: drained(double.spawn_map([1, 2]).iter(end=3)), InvalidError, r"0 to 3 is no range of the inputs"),
    ("gather", lambda: scaleplug.FunctionCall.gather([double.spawn(1)]), InvalidError, r"gather takes FunctionCalls, not \[.*use gather\(\*calls\)"),
    ("function of no app", lambda: scaleplug.Function.from_name("a b", "f"), InvalidError, r"app_name 'a b' is not valid: use"),
    ("function a number", lambda: scaleplug.Function.from_name("shop", 5), InvalidError, r"name must be a string, not int \(5\)"),
    ("a method's name", lambda: scaleplug.Function.from_name("shop", "Model.run"), InvalidError, r"'Model\.run' is a method: use Cls\.from_name\('shop', 'Model'\), and \.run of its object"),
    ("unknown function", lambda: scaleplug.Function.from_name("shop", "doubble").remote(1), NotFoundError, r"the app 'shop' has no function or class 'doubble': did you mean "),
    ("unknown app", lambda: scaleplug.Function.from_name("shopp", "double").remote(1), NotFoundError, r"nobody has registered an app 'shopp' here: did you mean shop"),
    ("a class as a function", lambda: scaleplug.Function.from_name("shop", "Model").remote(1), ExecutionError, r"shop\.Model is a class: use Cls\.from_name for it"),
    ("local of another", lambda: scaleplug.Function.from_name("shop", "double").local(1), ExecutionError, r"the code of shop\.double isn't in this process, so it can't run here: use \.remote"),
]  # fmt: skip

ENVIRONMENT: list[Row] = [
    *((f"{name} {value}", environ(**{name: value}), InvalidError, rf"SCALEPLUG_{name} must be a whole number, not '{re.escape(value)}'")
      for name, value in (("MAX_PENDING", "many"), ("MAX_TOTAL", "1.5"), ("MAX_SPAWNED", "1e6"), ("MAP_WINDOW", "x"), ("MAX_ATTEMPTS", "3 times"), ("MAX_PAYLOAD", "512MB"), ("MAX_CONTAINERS", "auto"), ("ALLOW_EVICTION", "yes"), ("SHOW_ARGUMENTS", "no"))),
    *((f"{name} {value}", environ(**{name: value}), InvalidError, rf"SCALEPLUG_{name} must be {low} or more, not {value}")
      for name, value, low in (("MAX_PENDING", "0", 1), ("MAX_TOTAL", "-1", 1), ("MAX_SPAWNED", "0", 1), ("MAP_WINDOW", "0", 1), ("MAX_ATTEMPTS", "0", 1), ("MAX_PAYLOAD", "0", 1), ("MAX_CONTAINERS", "0", 1), ("ALLOW_EVICTION", "-1", 0), ("SHOW_ARGUMENTS", "-1", 0))),
    *((f"{name} {value}", environ(**{name: value}), InvalidError, rf"SCALEPLUG_{name} must be a number of seconds, not '{re.escape(value)}'")
      for name, value in (("RESULT_TTL", "7d"), ("CALLER_TTL", "soon"), ("STOP_GRACE", "30s"), ("CANCEL_GRACE", "x"), ("RECONNECT_TIMEOUT", "1m"))),
    *((f"{name} {value}", environ(**{name: value}), InvalidError, rf"SCALEPLUG_{name} must be between \d+ and [\de+.]+ seconds, not {re.escape(value)}")
      for name, value in (("RESULT_TTL", "0.0"), ("CALLER_TTL", "1.0"), ("STOP_GRACE", "-1.0"), ("CANCEL_GRACE", "inf"), ("RECONNECT_TIMEOUT", "nan"))),
    ("a namespace", environ(NAMESPACE="a:b"), InvalidError, r"SCALEPLUG_NAMESPACE 'a:b' is not valid: use 1 to 64"),
    ("a pattern as namespace", environ(NAMESPACE="*"), InvalidError, r"SCALEPLUG_NAMESPACE '\*' is not valid"),
    ("no secret", lambda: Keyring(None), ConfigurationError, r"SCALEPLUG_SECRET is not set.*make one with: python -c"),
    ("a short secret", lambda: Keyring("short"), ConfigurationError, r"SCALEPLUG_SECRET is too short: .* at least 32 characters; make one with"),
    ("a short old secret", lambda: Keyring(f"{SECRET},old"), ConfigurationError, r"SCALEPLUG_SECRET is too short: each secret"),
    ("a comma too many", lambda: Keyring(f"{SECRET},"), ConfigurationError, r"SCALEPLUG_SECRET is too short"),
    ("a URL's port", lambda: connect("redis://:topsecret@localhost:port/0"), ConfigurationError, r"the Redis URL 'redis://:\*\*\*@localhost:port/0' is not valid"),
    ("a URL's option", lambda: connect("redis://localhost/0?sockt_timeout=5"), ConfigurationError, r"sockt_timeout"),
    ("a URL's database", lambda: connect("redis://localhost/zero"), ConfigurationError, r"the Redis URL 'redis://localhost/zero' is not valid"),
    ("an empty URL", lambda: connect(""), ConfigurationError, r"the Redis URL '' is not one of redis://.*write it like"),
    ("an amqp URL", lambda: connect("amqp://guest:topsecret@h//"), ConfigurationError, r"'amqp://guest:\*\*\*@h//' is not one of redis://"),
]  # fmt: skip

TABLES = {
    "decorators": DECORATORS, "apps": APPS, "concurrency": CONCURRENCY, "retries": RETRIES, "schedules": SCHEDULES,
    "classes": CLASSES, "calls": CALLS, "variants": VARIANTS, "lookups": LOOKUPS, "environment": ENVIRONMENT,
}  # fmt: skip
ROWS = [pytest.param(*row[1:], id=f"{area}: {row[0]}") for area, rows in TABLES.items() for row in rows]


@pytest.mark.parametrize(("attempt", "kind", "told"), ROWS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_bad_input_is_told(attempt: Callable[[], object], kind: type[Exception], told: str) -> None:
    with testing.local(), pytest.raises(kind) as caught:
        attempt()
    text = str(caught.value)
    assert re.search(told, text, re.DOTALL), text
    assert "topsecret" not in text
    assert len(text) < 1_000


# -- the command line ----------------------------------------------------------------------------------------------

JOB = """
import datetime
import scaleplug
app = scaleplug.App("job")
@app.function()
def double(x: int): ...
@app.local_entrypoint()
def main(n: int, when: datetime.datetime = None, fast: bool = False): ...
@app.local_entrypoint()
def other(): ...
"""
FILES = {
    "job.py": JOB, "notes.txt": "", "broken.py": "def f(:\n", "raises.py": "raise ValueError('as it must')\n", "ends.py": "exit(3)\n",
    "empty.py": "x = 1\n", "celery_only.py": "import celery\nproj = celery.Celery('proj')\n", "missing.py": "import nosuchthing\n",
    "two.py": "import scaleplug\na = scaleplug.App('a')\n@a.function(timeout=0)\ndef f(): ...\n", "folder/x.txt": "",
    "urls.py": "import scaleplug\na = scaleplug.App('a', redis_url='localhost')\n",
}  # fmt: skip
HERE = {"SCALEPLUG_REDIS_URL": "redis://:topsecret@127.0.0.1:1/0", "SCALEPLUG_SECRET": SECRET}
COMMANDS: list[tuple[str, dict[str, str], str]] = [
    ("psx", {}, r"there is no command 'psx': did you mean ps"),
    ("--versoin", {}, r"No such option '?--versoin"),
    ("run", {}, r"Missing argument"),
    ("run nothere.py", {}, r"there is no file nothere\.py"),
    ("run jobb.py", {}, r"there is no file jobb\.py: did you mean job\.py"),
    ("run notes.txt", {}, r"notes\.txt is not a Python file: its name must end in \.py"),
    ("run folder", {}, r"folder is a folder: name a Python file in it"),
    ("run no-module", {}, r"there is no file 'no-module', and a module can't have that name"),
    ("run nomodule", {}, r"there is no file and no module 'nomodule' here"),
    ("run job.py::", {}, r"'job\.py::' names no entrypoint after '::': write one, or leave"),
    ("run job.py", {}, r"job\.py has 2 local entrypoints, main and other: choose one, as in: scaleplug run job\.py::main"),
    ("run job.py::mian", {}, r"job\.py has no entrypoint and no function 'mian': did you mean main"),
    ("run job.py::main", {}, r"Missing option '--n'"),
    ("run job.py::main --n many", {}, r"'many' is not a valid integer"),
    ("run job.py::main --n 1 --when soon", {}, r"'soon' is not an ISO date such as 2026-01-31"),
    ("run job.py::main --n 1 --fsat", {}, r"No such option '?--fsat"),
    ("run job.py::main --n 1 extra", {}, r"unexpected extra argument"),
    ("run job.py::double --x a", {}, r"'a' is not a valid integer"),
    ("run broken.py", {}, r"broken\.py can't be imported: .*\(broken\.py, line 1\)"),
    ("run raises.py", {}, r"raises\.py can't be imported: ValueError: as it must"),
    ("run ends.py", {}, r"ends\.py ended itself while it was imported.*if __name__ == '__main__'"),
    ("run missing.py", {}, r"there is no module 'nosuchthing' .*install its package, or correct the name"),
    ("run empty.py", {}, r"empty\.py .*App"),
    ("run celery_only.py", {}, r"has a Celery app \(proj\) and no App: add app = scaleplug\.App\('proj', celery=proj\)"),
    ("run two.py", {}, r"two\.py, line 3: timeout must be between 1 and 86400 seconds, not 0"),
    ("run urls.py", {}, r"the Redis URL 'localhost' is not one of redis://"),
    ("run job.py::main --n 1", {"SCALEPLUG_MAX_PENDING": "lots"}, r"SCALEPLUG_MAX_PENDING must be a whole number, not 'lots'"),
    ("run job.py::main --n 1", {"SCALEPLUG_REDIS_URL": "redis://:topsecret@h:x"}, r"'redis://:\*\*\*@h:x' is not valid|SCALEPLUG_SECRET is not set"),
    ("controller", {}, r"no Redis is configured: set SCALEPLUG_REDIS_URL, or give --redis-url"),
    ("controller", {"SCALEPLUG_REDIS_URL": "redis://127.0.0.1:1/0"}, r"SCALEPLUG_SECRET is not set.*make one with"),
    ("controller", {**HERE, "SCALEPLUG_SECRET": "short"}, r"SCALEPLUG_SECRET is too short"),
    ("controller --max-containers 0", HERE, r"(?i)max.containers.*(0|1 or more)"),
    ("controller --max-containers many", HERE, r"'many' is not a valid integer"),
    ("controller", HERE, r"Redis at redis://.*127\.0\.0\.1:1/0 can't be reached .*correct SCALEPLUG_REDIS_URL"),
    ("controller nothere.py", HERE, r"there is no file nothere\.py"),
    ("deploy", HERE, r"(?i)Missing argument|name"),
    ("deploy job.py", {}, r"SCALEPLUG_REDIS_URL"),
    ("deploy job.py", {"SCALEPLUG_REDIS_URL": "redis://127.0.0.1:1/0"}, r"SCALEPLUG_SECRET is not set"),
    ("deploy job.py", HERE, r"Redis at redis://:\*\*\*@127\.0\.0\.1:1/0 can't be used \(.*\): start it, correct its URL"),
    ("ps", {}, r"there is nothing to look at: no 'scaleplug run' of yours is under way, and SCALEPLUG_REDIS_URL is unset: start one"),
    ("ps", HERE, r"Redis at redis://.*127\.0\.0\.1:1/0 can't be reached"),
    ("ps --redis-url localhost:6379", {}, r"the Redis URL 'localhost:6379' is not one of redis://"),
    ("ps --redis-url rediss://h/0?ssl_cert_reqs=maybe", {}, r"(?i)maybe|rediss://h/0"),
    ("ps --run nobody", {}, r"no 'scaleplug run' of yours is under way|no run 'nobody'"),
    ("why", HERE, r"Missing argument"),
    ("why f --last x", HERE, r"'x' is not a valid integer"),
    ("why f --last 0", HERE, r"0 is not in the range|last"),
    ("logs --last x", HERE, r"'x' is not a valid integer"),
    ("logs --last -1", HERE, r"-1 is not in the range|last"),
    ("scale", HERE, r"Missing argument"),
    ("scale f --min x", HERE, r"(?i)no such option|not a valid integer"),
    ("stop", HERE, r"Missing argument"),
    ("apps", {**HERE, "SCALEPLUG_NAMESPACE": "a b"}, r"SCALEPLUG_NAMESPACE 'a b' is not valid: use"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "environ", "said"), COMMANDS, ids=[f"{line} {n}" for n, (line, *_) in enumerate(COMMANDS)])  # fmt: skip
def test_a_bad_command_is_told(
    line: str, environ: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("scaleplug.cli.place.find_instances", lambda _environ: [])
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    before = set(sys.modules)
    done = CliRunner().invoke(cli, line.split(), prog_name="scaleplug")
    for name in set(sys.modules) - before:
        if name.removesuffix(".py") + ".py" in FILES or name.startswith("scaleplug_file_"):
            del sys.modules[name]
    text = " ".join(done.output.replace("│", " ").split())
    assert done.exit_code == 2, f"{done.exit_code} {text} {done.exc_info}"
    assert re.search(said, text, re.DOTALL), text
    assert "topsecret" not in text
