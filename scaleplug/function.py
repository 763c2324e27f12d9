"""A Function: a decorated callable that is a Celery task on a queue of its own, and the ways to call it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar
from uuid import uuid4

import cloudpickle
from celery import Celery
from celery.result import AsyncResult, EagerResult, denied_join_result
from kombu import Connection, Producer
from kombu.exceptions import EncodeError

from scaleplug.abc import Caller, FunctionStats
from scaleplug.call import FunctionCall, Method, Outcomes
from scaleplug.errors import InvalidError, SerializationError
from scaleplug.mapping import Map, MapOptions, length
from scaleplug.serializer import NAME, pickle, sealing
from scaleplug.settings import FunctionSettings
from scaleplug.spawnmap import Inputs, SpawnMap
from scaleplug.transport import Transport

if TYPE_CHECKING:
    from celery import Task as _Task

    from scaleplug.app import App
else:
    _Task = object  # a mixin: what it stands on is the Celery app's own Task class

P = ParamSpec("P")
R = TypeVar("R")


class FunctionTask(_Task):  # type: ignore[misc]  # Celery has no types
    """What makes the app's own Task class the task of a Function: every call goes to the function's queue, signed."""

    abstract = True
    serializer = NAME
    acks_late = True
    acks_on_failure_or_timeout = True
    reject_on_worker_lost = True
    function: Function[Any, Any]

    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> AsyncResult:
        """Send the task as Celery does, to the function's own queue on scaleplug's Redis."""
        function, task_id = self.function, task_id or str(uuid4())
        if function.app.celery.conf.task_always_eager:
            return self._apply_eagerly(args or (), kwargs or {}, task_id, link=link, link_error=link_error, **options)
        function.app.ready_for_calls(function)
        options["queue"] = function.queue
        for name in ("exchange", "routing_key", "connection"):
            options.pop(name, None)
        try:
            with sealing(self.name, task_id):
                return super().apply_async(
                    args, kwargs, task_id=task_id, producer=producer or function.producer(),
                    link=link, link_error=link_error, shadow=shadow, **options,
                )  # fmt: skip
        except EncodeError as exc:  # kombu's wrapping
            wrapped = exc.args[0] if exc.args else None
            raise wrapped if isinstance(wrapped, SerializationError) else exc from None

    def _apply_eagerly(self, args: Any, kwargs: Any, task_id: str, **options: Any) -> EagerResult:
        # As Celery does it, but nothing is sent, so neither a broker nor a secret is needed.
        if self.typing:
            self.__header__(*args, **kwargs)
        args, kwargs = cloudpickle.loads(pickle((args, kwargs), f"an argument of {self.name}"))
        with denied_join_result():
            return self.apply(args, kwargs, task_id=task_id, **options)


def _task_class(celery: Celery) -> type:
    # On top of the app's own class, which may open a context around every task, as Flask's pattern does.
    return type("FunctionTask", (FunctionTask, celery.Task), {"abstract": True, "__module__": __name__})


class Function(Generic[P, R]):
    """What ``@app.function()`` makes of a callable.

    ``remote`` runs it in a container and waits; ``spawn`` doesn't wait; ``map``, ``starmap`` and ``for_each`` run it
    for many inputs, ``spawn_map`` without waiting; ``local`` runs it here. ``delay``, ``apply_async``, ``s``, ``si``
    and ``signature`` are those of its Celery ``task``.
    """

    def __init__(
        self, app: App, raw: Callable[P, R], name: str, settings: FunctionSettings, *, serialized: bool
    ) -> None:
        self.app, self.raw, self.name, self.settings, self.serialized = app, raw, name, settings, serialized
        self.full_name = f"{app.name}.{name}"
        self.is_async = inspect.iscoroutinefunction(raw)
        self.__doc__, self.__name__ = raw.__doc__, getattr(raw, "__name__", name)
        self.__module__, self.__qualname__ = raw.__module__, getattr(raw, "__qualname__", name)
        self.__wrapped__ = raw
        self._local = threading.local()
        self.task: Any = app.celery.task(name=self.full_name, base=_task_class(app.celery), shared=False, lazy=False)(
            raw
        )
        self.task.function = self
        self.task.run = self._run_here  # until a container puts its own in this place
        self.remote: Method[P, R] = Method(self._remote, self._remote_aio)
        self.spawn: Method[P, FunctionCall[R]] = Method(self._spawn, self._spawn_aio)
        self.map = _MapMethod(self._map)
        self.starmap = _MapMethod(self._starmap)
        self.for_each: Method[..., None] = Method(self._for_each, self._for_each_aio)
        self.spawn_map: Method[..., FunctionCall[R]] = Method(self._spawn_map, self._spawn_map_aio)
        self.get_current_stats: Method[[], FunctionStats] = Method(self._stats, self._stats_aio)

    def _run_here(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a Celery task in this process: ``task_always_eager``, or the task was called like a function."""
        return run_here(self, args, kwargs)

    def __repr__(self) -> str:
        return f"<Function {self.full_name}>"

    def __call__(self, *_: Any, **__: Any) -> Any:
        """Refuse: it would be unclear where the call should run."""
        raise TypeError(
            f"{self.full_name} can't be called like a plain function: use .remote(...) to run it in a container, "
            ".map(...) for many inputs, or .local(...) to run it here"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        find_function = import_module("scaleplug.app").find_function  # this process's apps stand above this module
        return find_function, (self.app.name, self.name)

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
        return self.task.s(*args, **kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Any:
        """Return an immutable Celery signature."""
        return self.task.si(*args, **kwargs)

    def signature(self, *args: Any, **kwargs: Any) -> Any:
        """Return a Celery signature with options."""
        return self.task.signature(*args, **kwargs)

    def producer(self) -> Producer:
        """Return this thread's producer to the function's queue."""
        store, made = self.app.store, getattr(self._local, "made", None)
        if made is None or made[0] is not store:
            options = {"store": store, "most_pending": self.app.config.max_spawned}
            made = self._local.made = (store, Producer(Connection(transport=Transport, transport_options=options)))
        return made[1]

    # -- one input -------------------------------------------------------------------------------------------------

    @property
    def local(self) -> Callable[P, R]:
        """The callable itself: runs here, without container, limits or timeout."""
        return self.raw

    def _remote(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run in a container and return the result, or raise its exception."""
        caller, call = self._caller(), _new_call()
        outcomes = Outcomes(caller, call)
        try:
            caller.send(self, call, [(0, args, kwargs)], kind="remote")
            event = outcomes.get()
        except BaseException:
            # Somebody pressed Ctrl-C, or sending failed: nobody waits for the input any more.
            _try_cancel(caller, self.full_name, call)
            raise
        finally:
            outcomes.close()
        return _value(caller, call, event)  # type: ignore[no-any-return]

    async def _remote_aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        caller, call = await asyncio.to_thread(self._caller), _new_call()
        outcomes = await Outcomes.open(caller, call)
        try:
            await asyncio.to_thread(caller.send, self, call, [(0, args, kwargs)], kind="remote")
            event = await outcomes.get_async()
        except BaseException:
            await asyncio.shield(asyncio.to_thread(_try_cancel, caller, self.full_name, call))
            raise
        finally:
            outcomes.close()
        return _value(caller, call, event)  # type: ignore[no-any-return]

    def _spawn(self, *args: P.args, **kwargs: P.kwargs) -> FunctionCall[R]:
        """Send one input and return at once; the result is kept for ``SCALEPLUG_RESULT_TTL`` seconds."""
        caller, call = self._caller(), _new_call()
        caller.send(self, call, [(0, args, kwargs)], kind="spawn")
        return FunctionCall(call, self._caller, self.full_name, 1)

    async def _spawn_aio(self, *args: P.args, **kwargs: P.kwargs) -> FunctionCall[R]:
        return await asyncio.to_thread(self._spawn, *args, **kwargs)

    # -- many inputs -----------------------------------------------------------------------------------------------

    def _map(
        self,
        *input_iterators: Iterable[Any],
        kwargs: Mapping[str, Any] = {},  # never changed
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> Map[R]:
        """Run for every input, one iterator per argument (the shortest wins); results come in input order.

        ``kwargs`` are the same for all inputs. ``order_outputs=False`` gives results as they come. With
        ``return_exceptions=True`` exceptions are results (``wrap_returned_exceptions=True``: in a UserCodeException);
        otherwise the first one is raised at its input's place and what is left is cancelled.
        """
        if not input_iterators:
            raise InvalidError(f"{self.full_name}.map() needs at least one iterator of inputs")
        for position, iterator in enumerate(input_iterators):
            _check_iterable(f"input {position + 1} of {self.full_name}.map()", iterator)
        inputs = ((args, kwargs) for args in zip(*input_iterators, strict=False))
        return self._start_map(
            inputs, length(input_iterators), kwargs, order_outputs, return_exceptions, wrap_returned_exceptions
        )

    def _starmap(
        self,
        input_iterator: Iterable[Iterable[Any]],
        *,
        kwargs: Mapping[str, Any] = {},
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> Map[R]:
        """Run for every item of one iterator, spread over the arguments; otherwise like ``map``."""
        _check_iterable(f"the input of {self.full_name}.starmap()", input_iterator)
        inputs = ((_spread(self.full_name, item), kwargs) for item in input_iterator)
        return self._start_map(
            inputs, length((input_iterator,)), kwargs, order_outputs, return_exceptions, wrap_returned_exceptions
        )

    def _start_map(
        self, inputs: Iterator[Any], total: int | None, kwargs: Any, order: bool, exceptions: bool, wrap: bool | None
    ) -> Map[R]:
        _check_kwargs(kwargs)
        options = MapOptions(
            order_outputs=order,
            return_exceptions=exceptions,
            wrap_returned_exceptions=wrap,
            window=self.app.config.map_window,
        )
        return Map(self, self._caller, inputs, total, options)

    def _for_each(
        self,
        *input_iterators: Iterable[Any],
        kwargs: Mapping[str, Any] = {},
        ignore_exceptions: bool = False,
    ) -> None:
        """Run for every input and wait for all, without results."""
        for _ in self._map(*input_iterators, kwargs=kwargs, order_outputs=False, return_exceptions=ignore_exceptions):
            pass

    async def _for_each_aio(
        self,
        *input_iterators: Iterable[Any],
        kwargs: Mapping[str, Any] = {},
        ignore_exceptions: bool = False,
    ) -> None:
        async for _ in self._map(
            *input_iterators, kwargs=kwargs, order_outputs=False, return_exceptions=ignore_exceptions
        ):
            pass

    def _spawn_map(self, *input_iterators: Iterable[Any], kwargs: Mapping[str, Any] = {}) -> FunctionCall[R]:
        """Send all inputs, one iterator per argument, and return one call that holds them, without waiting for results.

        ``get(index=...)`` and ``iter()`` of the call give the results. While the function has as many pending inputs
        as it may, this waits. If an iterator fails, what was sent is cancelled.
        """
        inputs, caller, call = self._zipped(input_iterators, kwargs), self._caller(), _new_call()
        count = SpawnMap(self, caller, call, inputs).run()
        return FunctionCall(call, self._caller, self.full_name, count)

    async def _spawn_map_aio(self, *input_iterators: Iterable[Any], kwargs: Mapping[str, Any] = {}) -> FunctionCall[R]:
        inputs, caller, call = self._zipped(input_iterators, kwargs), await asyncio.to_thread(self._caller), _new_call()
        count = await SpawnMap(self, caller, call, inputs).run_aio()
        return FunctionCall(call, self._caller, self.full_name, count)

    def _zipped(self, input_iterators: tuple[Iterable[Any], ...], kwargs: Mapping[str, Any]) -> Inputs:
        if not input_iterators:
            raise InvalidError(f"{self.full_name}.spawn_map() needs at least one iterator of inputs")
        for position, iterator in enumerate(input_iterators):
            _check_iterable(f"input {position + 1} of {self.full_name}.spawn_map()", iterator)
        _check_kwargs(kwargs)
        return ((args, kwargs) for args in zip(*input_iterators, strict=False))

    # -- what it has now -------------------------------------------------------------------------------------------

    def _stats(self) -> FunctionStats:
        """Return how many inputs wait and run, and what containers there are for them, now."""
        return self.app.caller().stats(self.full_name, max_inputs=self.settings.max_inputs)

    async def _stats_aio(self) -> FunctionStats:
        return await asyncio.to_thread(self._stats)

    def _caller(self) -> Caller:
        return self.app.ready_for_calls(self)


def run_raw(function: Function[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run the callable in this thread, in an event loop if it is async."""
    value = function.raw(*args, **kwargs)
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


def _new_call() -> str:
    return f"fc-{uuid4().hex}"


def _value(caller: Caller, call: str, event: Any) -> Any:
    ok, value = caller.read(call, event)
    if not ok:
        raise value
    return value


def _try_cancel(caller: Caller, function: str, call: str) -> None:
    with contextlib.suppress(Exception):  # the exception under way says more
        caller.cancel(function, call, tell=False)


def _check_iterable(what: str, value: Any) -> None:
    if not isinstance(value, Iterable):
        raise InvalidError(
            f"{what} must be iterable, not {type(value).__name__} ({value!r}): pass a list, range or generator"
        )


def _check_kwargs(kwargs: Any) -> None:
    if not isinstance(kwargs, Mapping) or not all(isinstance(k, str) for k in kwargs):
        raise InvalidError(f"kwargs must be a mapping of argument names, not {kwargs!r}")


def _spread(name: str, item: Any) -> tuple[Any, ...]:
    if not isinstance(item, Iterable):
        raise InvalidError(f"each input of {name}.starmap() must hold the arguments, as (a, b) does, not {item!r}")
    return tuple(item)


def check_signature(name: str, raw: Callable[..., Any]) -> None:
    """Refuse what can't be a Function."""
    if inspect.isgeneratorfunction(raw) or inspect.isasyncgenfunction(raw):
        raise InvalidError(
            f"{name} is a generator function, which can't be called for one result: return a list instead"
        )
