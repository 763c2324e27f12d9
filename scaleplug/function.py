"""A Function: a decorated callable that is a Celery task on a queue of its own, and the ways to call it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from celery.result import AsyncResult
from kombu import Connection

from scaleplug.abc import Caller, CallKind, FunctionStats
from scaleplug.autoscaling import Autoscaled
from scaleplug.call import FunctionCall, Method, Outcomes, finish_cancelling, read_async
from scaleplug.commit import OnCommit
from scaleplug.commit import new_call as _new_call
from scaleplug.concurrency import batching, check_apart, check_batched, concurrency
from scaleplug.errors import (
    ExecutionError,
    InvalidError,
    PayloadTooLargeError,
    ResourceExhausted,
    SerializationError,
)
from scaleplug.inputs import Inputs
from scaleplug.loops import in_event_loop
from scaleplug.mapping import Map, MapOptions, length
from scaleplug.pools import Owner, digest, is_generator, kind_of, variant, with_options
from scaleplug.registry import Registration
from scaleplug.schedules import Rule, Schedule
from scaleplug.settings import AutoscalerSettings, FunctionSettings, Retries, as_retries, check_flag, check_name
from scaleplug.spawnmap import SpawnMap
from scaleplug.streams import StreamMethod
from scaleplug.task import POOL, eager
from scaleplug.transport import PlainProducer, Transport

if TYPE_CHECKING:
    from scaleplug.app import App

P = ParamSpec("P")
R = TypeVar("R")

NOTHING_SENT = (ResourceExhausted, PayloadTooLargeError, SerializationError, TypeError)
"""What refuses a call before or when it is sent: then there is nothing to be cancelled."""


def _told(options: Mapping[str, Any]) -> str:
    return f"({', '.join(f'{name}={value!r}' for name, value in options.items())})"


class Function(Autoscaled, OnCommit[P, R], Generic[P, R]):
    """What ``@app.function()`` makes of a callable.

    ``remote`` runs it in a container and waits; ``spawn`` doesn't wait; ``map``, ``starmap`` and ``for_each`` run it
    for many inputs, ``spawn_map`` without waiting; ``remote_gen`` gives the items of a generator function; ``local``
    runs it here. ``delay``, ``apply_async``, ``s``, ``si`` and ``signature`` are those of its Celery ``task``.
    """

    def __init__(  # noqa: PLR0913  # what the decorators of functions and classes know
        self, app: App, raw: Callable[P, R] | None, name: str, settings: FunctionSettings, *, serialized: bool = False,
        task: Any = None, owner: Owner | None = None, options: Mapping[str, Any] | None = None,
        schedule: Schedule | None = None, rules: tuple[Rule, ...] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.app, self.raw, self.name, self.settings, self.serialized = app, raw, name, settings, serialized
        self.options, self.schedule, self.rules = dict(options or {}), schedule, rules
        self.title = f"{app.name}.{name}"
        self.owner: Owner = owner or self
        self._generates = None if raw is None else is_generator(raw)
        self.is_async = inspect.iscoroutinefunction(raw) or inspect.isasyncgenfunction(raw)
        self.__name__ = getattr(raw, "__name__", name)
        self.__qualname__ = getattr(raw, "__qualname__", name)
        if raw is not None:
            self.__doc__, self.__module__, self.__wrapped__ = raw.__doc__, raw.__module__, raw
        self._local = threading.local()
        if task is None:
            self.task: Any = app.make_task(self.title, raw)
            self.task.function = self
            self.task.run = self._run_here  # until a container puts its own in this place
        else:  # a task of the same name with a queue of its own
            self.task = object.__new__(type(task))
            self.task.__dict__.update(task.__dict__, function=self, run=self._run_here)
        self.remote: Method[P, R] = Method(self._remote, self._remote_aio)
        self.spawn: Method[P, FunctionCall[R]] = Method(self._spawn, self._spawn_aio)
        self.map = _MapMethod(self._map)
        self.starmap = _MapMethod(self._starmap)
        self.for_each: Method[..., None] = Method(self._for_each, self._for_each_aio)
        self.remote_gen: StreamMethod[P, R] = StreamMethod(self, self._caller, self._check_stream)
        self.spawn_map: Method[..., FunctionCall[R]] = Method(self._spawn_map, self._spawn_map_aio)

    def _run_here(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a Celery task in this process: ``task_always_eager``, or the task was called like a function."""
        self.needs_one_result("a Celery task")
        wanted = eager.get()
        if wanted is None or wanted.title != self.title:
            return run_here(self, args, kwargs)
        token = eager.set(None)  # what it calls itself is another call
        try:
            return run_here(wanted, args, kwargs)
        finally:
            eager.reset(token)

    def __repr__(self) -> str:
        return f"<Function {self.title}>"

    def __call__(self, *_: Any, **__: Any) -> Any:
        """Refuse: it would be unclear where the call should run."""
        raise TypeError(
            f"{self.title} can't be called like a plain function: use .remote(...) to run it in a container, "
            ".map(...) for many inputs, or .local(...) to run it here"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        find_function = import_module("scaleplug.app").find_function  # this process's apps stand above this module
        return find_function, (self.app.name, self.name, self.options)

    @staticmethod
    def from_name(app_name: str, name: str) -> Function[..., Any]:
        """Return a function of an app that is registered; nothing is asked before its first use.

        Any process that has the Redis URL and the secret can call it; the function's code need not be there. Its first
        use raises NotFoundError, with near misses, where there is none of that name.
        """
        if "." in str(name):
            cls, _, method = name.partition(".")
            raise InvalidError(
                f"{name!r} is a method: use Cls.from_name({app_name!r}, {cls!r}), and .{method} of its object"
            )
        app = import_module("scaleplug.app").deployed_app(check_name("app_name", app_name))
        return Function(app, None, check_name("name", name), FunctionSettings())

    # -- its pool of containers ------------------------------------------------------------------------------------

    @property
    def full_name(self) -> str:  # type: ignore[override]  # that of the object, for a method
        """Name of its pool of containers, which is its queue's and its registration's."""
        if self.owner is not self:
            return self.owner.full_name
        return f"{self.title}~{digest(self.options)}" if self.options else self.title

    @property
    def shown(self) -> str:
        """The name of its pool as people read it."""
        return f"{self.title}{_told(self.options)}" if self.options else self.full_name

    @property
    def input_name(self) -> str:
        """Whose inputs these are: the function's or variant's; a method's has its pool in it."""
        return self.full_name

    def here(self) -> Function[P, R]:
        """Return it with its code, which this process must have; raises NotFoundError."""
        if self.raw is not None:
            return self
        made = self.app.find_here(self.name)
        if not isinstance(made, Function):
            raise ExecutionError(f"{self.title} is a class: use Cls.from_name for it")
        return made.in_pool(self.pool())

    @property
    def base_name(self) -> str:
        """Full name of the function, whatever variant of it this is."""
        return self.title

    def registration(self) -> Registration | None:
        """Return what the function is registered as; ``None`` where its code isn't in this process."""
        if self.raw is None:
            return None
        return Registration(
            self.title, self.app.name, self.app.source_of(serialized=self.serialized), self.serialized, self.settings,
            callables={"": kind_of(self.raw)}, schedule=self.schedule.to_dict() if self.schedule else {},
            autoscaler=tuple(rule.to_dict() for rule in self.rules),
        )  # fmt: skip

    def variant(self, base: Registration) -> Registration:
        """Return what this variant of the function is registered as."""
        if base.is_class:
            raise ExecutionError(f"{self.title} is a class: use Cls.from_name for it")
        self.learn(base.callables)
        if not self.options:
            return base
        return variant(base, self.full_name, self.options, "", self.shown)

    def code(self) -> Any:
        """Return the callable."""
        return self.raw

    @property
    def made_of(self) -> tuple[Any, ...]:
        """What it is made of here."""
        return self.raw, self.settings, self.schedule, self.rules, self.serialized

    @property
    def pool_settings(self) -> FunctionSettings:
        """Return the settings that its decorator and its options make."""
        return with_options(self.settings, self.options) if self.options else self.settings

    def pool(self) -> dict[str, Any]:
        """Return what :meth:`in_pool` needs; empty for the pool of the function itself."""
        return {"options": self.options} if self.options else {}

    def in_pool(self, pool: Mapping[str, Any]) -> Function[P, R]:
        """Return the variant of this function that a signature names."""
        return self._with(dict(pool["options"])) if pool.get("options") else self

    def pool_of_queue(self, queue: object) -> str:
        """Return the pool whose queue Celery's options name, if it is one of this function; else its own."""
        name = str(queue or "").removeprefix(self.app.keys.queue(""))
        base = self.owner.base_name
        return name if name == base or name.startswith(f"{base}~") else self.full_name

    def with_options(
        self,
        *,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: float | None = None,
        timeout: float | None = None,
        startup_timeout: float | None = None,
        retries: int | Retries | None = None,
    ) -> Function[P, R]:
        """Return the function with other settings and containers of its own; ``None`` leaves a setting as it is."""
        return self._with(
            pool_options(max_containers, buffer_containers, scaledown_window, timeout, startup_timeout, retries)
        )

    def with_concurrency(self, *, max_inputs: int, target_inputs: int | None = None) -> Function[P, R]:
        """Return the function with other input concurrency and containers of its own."""
        options = concurrency(max_inputs, target_inputs)
        check_apart(with_options(self.settings, self.options), options)
        return self._with(options)

    def with_batching(self, *, max_batch_size: int, wait_ms: int) -> Function[P, R]:
        """Return the function with other batching and containers of its own."""
        check_batched(self.raw)
        options = batching(max_batch_size, wait_ms)
        check_apart(with_options(self.settings, self.options), options)
        return self._with(options)

    def _with(self, options: dict[str, Any]) -> Function[P, R]:
        if self.owner is not self:
            raise InvalidError(f"{self.title} is a method: use with_options and its kind on the class")
        merged = self.options | options
        with_options(self.settings, merged)  # what doesn't fit is told here
        return Function(
            self.app, self.raw, self.name, self.settings, serialized=self.serialized, task=self.task, options=merged
        )

    def change(self, changes: Mapping[str, Any]) -> AutoscalerSettings:
        """See :class:`Autoscaled`."""
        if self.owner is not self:
            raise InvalidError(f"{self.title} is a method: the autoscaler is that of the object it belongs to")
        self.make_known(self._caller())  # there is nothing to be changed before
        return super().change(changes)

    def _stats(self) -> FunctionStats:
        if self.owner is not self:
            raise InvalidError(f"{self.title} is a method: get_current_stats is that of the object it belongs to")
        return super()._stats()

    # -- Celery's own calls ----------------------------------------------------------------------------------------

    @property
    def queue(self) -> str:
        """The name of the function's Celery queue."""
        return self.app.keys.queue(self.full_name)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult:
        """Call through Celery; the result is in the Celery app's result backend."""
        return self.task.delay(*args, **kwargs)

    def apply_async(self, *args: Any, **options: Any) -> AsyncResult:
        """Call through Celery with its options (``countdown``, ``link``, ``expires``, ...)."""
        return self.task.apply_async(*args, **options)

    def s(self, *args: Any, **kwargs: Any) -> Any:
        """Return a Celery signature, for chains, groups and chords."""
        return self._on_queue(self.task.s(*args, **kwargs))

    def si(self, *args: Any, **kwargs: Any) -> Any:
        """Return an immutable Celery signature."""
        return self._on_queue(self.task.si(*args, **kwargs))

    def signature(self, *args: Any, **kwargs: Any) -> Any:
        """Return a Celery signature with options."""
        return self._on_queue(self.task.signature(*args, **kwargs))

    def _on_queue(self, signature: Any) -> Any:
        # A signature that travels in a message knows its task by name only, and that of a variant is its base's.
        pool = self.pool()
        return signature.set(queue=self.queue, **{POOL: pool}) if pool else signature

    def producer(self) -> PlainProducer:
        """Return this thread's producer to the function's queue."""
        store, made = self.app.store, getattr(self._local, "made", None)
        if made is None or made[0] is not store:
            options = {"store": store, "most_pending": self.app.config.max_spawned}
            made = self._local.made = (store, PlainProducer(Connection(transport=Transport, transport_options=options)))
        return made[1]

    # -- one input -------------------------------------------------------------------------------------------------

    @property
    def local(self) -> Callable[P, R]:
        """The callable itself: runs here, without container, limits or timeout."""
        if self.raw is None:
            raise ExecutionError(f"the code of {self.title} isn't in this process, so it can't run here: use .remote")
        return self.raw

    def _remote(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run in a container and return the result, or raise its exception."""
        self.needs_one_result(".remote()")
        caller, call = self._caller(), _new_call()
        outcomes = Outcomes(caller, call, led=True)
        try:
            caller.send(self, call, [(0, args, kwargs)], kind="remote")
            event = outcomes.lead()
        except NOTHING_SENT:
            raise
        except BaseException:
            # Somebody pressed Ctrl-C, or sending failed: nobody waits for the input any more.
            _try_cancel(caller, self.full_name, call)
            raise
        finally:
            outcomes.close()
        return _value(caller.read(call, event))  # type: ignore[no-any-return]

    async def _remote_aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        self.needs_one_result(".remote()")
        caller, call = self._caller(), _new_call()
        outcomes = await Outcomes.open(caller, call)
        try:
            await caller.send_soon(self, call, [(0, args, kwargs)], kind="remote")
            event = await outcomes.get_async()
        except NOTHING_SENT:
            raise
        except BaseException:
            await finish_cancelling(caller.cancel_soon(self.full_name, call))
            raise
        finally:
            outcomes.close()
        assert event is not None
        return _value(await read_async(caller, call, event))  # type: ignore[no-any-return]

    def _spawn(self, *args: P.args, **kwargs: P.kwargs) -> FunctionCall[R]:
        """Send one input and return at once; the result is kept for ``SCALEPLUG_RESULT_TTL`` seconds."""
        self.needs_one_result(".spawn()")
        caller, call = self._caller(), _new_call()
        caller.send(self, call, [(0, args, kwargs)], kind="spawn")
        return FunctionCall(call, self._caller, self.full_name, 1)

    async def _spawn_aio(self, *args: P.args, **kwargs: P.kwargs) -> FunctionCall[R]:
        self.needs_one_result(".spawn()")
        caller, call = self._caller(), _new_call()
        await caller.send_soon(self, call, [(0, args, kwargs)], kind="spawn")
        return FunctionCall(call, self._caller, self.full_name, 1)

    # -- streams ---------------------------------------------------------------------------------------------------

    def _check_stream(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self._kind_here() is False:
            raise InvalidError(f"{self.title} is no generator function: call it with .remote(...)")
        if self.task.typing:
            self.task.__header__(*args, **kwargs)  # the TypeError of a plain call, before the first item

    @property
    def is_generator(self) -> bool | None:
        """Whether calling it gives a generator; ``None`` while that isn't known of a function of another process."""
        return self._generates

    def _kind_here(self) -> bool | None:
        """Return the same, after asking what is registered, where this thread may wait for that."""
        if self.is_generator is None and not in_event_loop():
            self.app.ready_for_calls(self.owner)
        return self.is_generator

    @property
    def callables(self) -> Mapping[str, str] | None:
        """Its kind, as it is registered; ``None`` while it isn't known."""
        return None if self._generates is None else {"": "generator" if self._generates else "function"}

    def learn(self, registered: Mapping[str, str]) -> None:
        """Take what kind of function is registered, where its code isn't in this process."""
        if self.raw is None:
            self._generates = registered.get("") == "generator"

    def needs_kind(self, kind: CallKind) -> None:
        """Refuse a call of another kind than the function's, once that is known."""
        if kind == "stream" and self.is_generator is False:
            raise InvalidError(f"{self.title} is no generator function: call it with .remote(...)")
        if kind != "stream":
            self.needs_one_result(f".{kind}()")

    def needs_one_result(self, how: str) -> None:
        """Refuse a way to call that gives one result for each input."""
        if self._kind_here():
            raise InvalidError(
                f"{self.title} is a generator function, and {how} would give one result: "
                "use .remote_gen(...) for its items"
            )

    # -- many inputs -----------------------------------------------------------------------------------------------

    def _map(
        self,
        *input_iterators: Iterable[Any] | AsyncIterable[Any],
        kwargs: Mapping[str, Any] = {},  # never changed
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> Map[R]:
        """Run for every input, one iterator per argument (the shortest wins); results come in input order.

        Iterate with ``for``, or with ``async for``, where the iterators may be asynchronous too.
        ``kwargs`` are the same for all inputs. ``order_outputs=False`` gives results as they come. With
        ``return_exceptions=True`` exceptions are results (``wrap_returned_exceptions=True``: in a UserCodeException);
        otherwise the first one is raised at its input's place and what is left is cancelled.
        """
        if not input_iterators:
            raise InvalidError(f"{self.full_name}.map() needs at least one iterator of inputs")
        inputs = Inputs(f"{self.full_name}.map", input_iterators, kwargs)
        return self._start_map(inputs, order_outputs, return_exceptions, wrap_returned_exceptions)

    def _starmap(
        self,
        input_iterator: Iterable[Iterable[Any]] | AsyncIterable[Iterable[Any]],
        *,
        kwargs: Mapping[str, Any] = {},
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> Map[R]:
        """Run for every item of one iterator, spread over the arguments; otherwise like ``map``."""
        inputs = Inputs(f"{self.full_name}.starmap", (input_iterator,), kwargs, partial(_spread, self.full_name))
        return self._start_map(inputs, order_outputs, return_exceptions, wrap_returned_exceptions)

    def _start_map(self, inputs: Inputs, order: bool, exceptions: bool, wrap: bool | None) -> Map[R]:
        self.needs_one_result(".map(), .starmap() and .for_each()")
        _check_kwargs(inputs.kwargs)
        check_flag("order_outputs", order)
        check_flag("return_exceptions", exceptions)
        if wrap is not None:
            check_flag("wrap_returned_exceptions", wrap)
        options = MapOptions(
            order_outputs=order,
            return_exceptions=exceptions,
            wrap_returned_exceptions=wrap,
            window=self.app.config.map_window,
        )
        return Map(self, self._caller, inputs, length(inputs.iterables), options)

    def _for_each(
        self,
        *input_iterators: Iterable[Any],
        kwargs: Mapping[str, Any] = {},
        ignore_exceptions: bool = False,
    ) -> None:
        """Run for every input and wait for all, without results."""
        check_flag("ignore_exceptions", ignore_exceptions)
        options = {"order_outputs": False, "return_exceptions": ignore_exceptions}
        for _ in self._map(*input_iterators, kwargs=kwargs, **options).blocking():
            pass

    async def _for_each_aio(
        self,
        *input_iterators: Iterable[Any] | AsyncIterable[Any],
        kwargs: Mapping[str, Any] = {},
        ignore_exceptions: bool = False,
    ) -> None:
        check_flag("ignore_exceptions", ignore_exceptions)
        async for _ in self._map(
            *input_iterators, kwargs=kwargs, order_outputs=False, return_exceptions=ignore_exceptions
        ):
            pass

    def _spawn_map(self, *input_iterators: Iterable[Any], kwargs: Mapping[str, Any] = {}) -> FunctionCall[R]:
        """Send all inputs, one iterator per argument, and return one call that holds them, without waiting for results.

        ``get(index=...)`` and ``iter()`` of the call give the results. While the function has as many pending inputs
        as it may, this waits. If an iterator fails, what was sent is cancelled.
        """
        inputs, caller, call = self._inputs_to_spawn(input_iterators, kwargs), self._caller(), _new_call()
        if not inputs.plain:
            raise InvalidError(f"{inputs.name}() has inputs that only an event loop can read: use spawn_map.aio(...)")
        count = SpawnMap(self, caller, call, inputs).run()
        return FunctionCall(call, self._caller, self.full_name, count)

    async def _spawn_map_aio(
        self, *input_iterators: Iterable[Any] | AsyncIterable[Any], kwargs: Mapping[str, Any] = {}
    ) -> FunctionCall[R]:
        inputs, caller, call = self._inputs_to_spawn(input_iterators, kwargs), self._caller(), _new_call()
        count = await SpawnMap(self, caller, call, inputs).run_aio()
        return FunctionCall(call, self._caller, self.full_name, count)

    def _inputs_to_spawn(self, input_iterators: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Inputs:
        self.needs_one_result(".spawn_map()")
        if not input_iterators:
            raise InvalidError(f"{self.full_name}.spawn_map() needs at least one iterator of inputs")
        _check_kwargs(kwargs)
        return Inputs(f"{self.full_name}.spawn_map", input_iterators, kwargs)

    def _caller(self) -> Caller:
        return self.app.caller()

    def known_caller(self) -> Caller:
        """Return what carries its calls, after making sure that the registry knows it."""
        return self.app.ready_for_calls(self.owner)

    def make_known(self, caller: Caller) -> None:
        """Make sure that a controller knows the function; may block."""
        self.app.make_known(caller, self.owner)


def pool_options(*values: Any) -> dict[str, Any]:
    """Return those options of a variant that are given; raises InvalidError."""
    names = ("max_containers", "buffer_containers", "scaledown_window", "timeout", "startup_timeout", "retries")
    given = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    if "retries" in given:
        wanted = as_retries(given["retries"])
        given["retries"] = None if wanted is None else asdict(wanted)
    return given


def run_raw(function: Function[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run the callable in this thread, in an event loop if it is async."""
    value = function.app.surround(function.local)(*args, **kwargs)
    return run_coroutine(value) if function.is_async else value


def run_coroutine(coroutine: Any) -> Any:
    """Run a coroutine to its end, in a thread of its own where a loop runs already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(contextvars.copy_context().run, asyncio.run, coroutine).result()


run_here: Callable[[Function[Any, Any], tuple[Any, ...], Mapping[str, Any]], Any] = run_raw
"""What runs a Celery call that is to run in this process; ``scaleplug.testing`` puts its own here."""


class _MapMethod:
    """``f.map(...)``: the result works with ``for`` and ``async for``; ``.aio`` is there for those who look for it."""

    def __init__(self, make: Callable[..., Map[Any]]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Map[Any]:
        """Return the map; it starts when it is iterated."""
        return self._make(*args, **kwargs)

    def aio(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Return the map for ``async for``."""
        return aiter(self._make(*args, **kwargs))


def _value(found: tuple[bool, Any]) -> Any:
    ok, value = found
    if not ok:
        raise value
    return value


def _try_cancel(caller: Caller, function: str, call: str) -> None:
    with contextlib.suppress(Exception):  # the exception under way says more
        caller.cancel(function, call, tell=False)


def _check_kwargs(kwargs: Any) -> None:
    if not isinstance(kwargs, Mapping) or not all(isinstance(k, str) for k in kwargs):
        raise InvalidError(f"kwargs must be a mapping of argument names, not {kwargs!r}")


def _spread(name: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
    (item,) = row
    if not isinstance(item, Iterable):
        raise InvalidError(f"each input of {name}.starmap() must hold the arguments, as (a, b) does, not {item!r}")
    return tuple(item)


def check_signature(name: str, raw: Callable[..., Any]) -> None:
    """Refuse what can't be a local entrypoint."""
    if is_generator(raw):
        raise InvalidError(
            f"{name} is a generator function, which can't be called for one result: return a list instead"
        )


def check_retries(name: str, raw: Callable[..., Any], settings: FunctionSettings) -> None:
    """Refuse retries of what can't be run again: the items of a generator that somebody has can't be taken back."""
    retried = settings.retries is not None and settings.retries.max_retries > 0
    if retried and (inspect.isgeneratorfunction(raw) or inspect.isasyncgenfunction(raw)):
        raise InvalidError(f"{name} is a generator function, which can't have retries: leave retries out")
