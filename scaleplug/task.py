"""The Celery task of a Function: every call of it goes to the function's queue, signed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import cloudpickle
from celery import Celery
from celery.result import AsyncResult, EagerResult, denied_join_result
from kombu import Exchange, Queue
from kombu.exceptions import EncodeError

from scaleplug.abc import Caller
from scaleplug.blobs import NoRoomError, submission
from scaleplug.client import RedisCaller
from scaleplug.errors import (
    Error,
    ExecutionError,
    InvalidError,
)
from scaleplug.pools import code_version
from scaleplug.serializer import MASKED, NAME, pickle_call, sealing, shortly, shows_arguments
from scaleplug.store import Store
from scaleplug.transport import exhausted

if TYPE_CHECKING:
    from celery import Task as _Task

    from scaleplug.function import Function
else:
    _Task = object  # a mixin: what it stands on is the Celery app's own Task class

LONGEST_ID = 255
POOL = "scaleplug_pool"
"""The option of a Celery signature that names the pool of a variant, or of an object with parameters."""


class FunctionTask(_Task):  # type: ignore[misc]  # Celery has no types
    """What makes the app's own Task class the task of a Function: every call goes to the function's queue, signed."""

    abstract = True
    serializer = NAME
    acks_late = True
    acks_on_failure_or_timeout = True
    reject_on_worker_lost = True
    function: Function[Any, Any]
    recording = False

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
        _check_call(args, kwargs, task_id)
        pool, again, task_id = options.pop(POOL, None), task_id is not None, task_id or str(uuid4())
        function = self.function if pool is None else self.function.in_pool(pool)
        if "scaleplug" not in (options.get("headers") or ()):  # it is in the calls that don't come from Celery
            function.needs_one_result("delay() and Celery's other calls")
        if function.app.celery.conf.task_always_eager:
            options[POOL] = pool
            return self._apply_eagerly(args or (), kwargs or {}, task_id, link=link, link_error=link_error, **options)
        queue = options.get("queue") or options.get("routing_key")  # a retry goes where it was
        name, caller = function.full_name if pool else function.pool_of_queue(queue), None
        if not self.recording:  # what is recorded is sent, and made known, later
            own = name == function.full_name
            caller = function.app.ready_for_calls(function.owner) if own else function.app.caller()
        options["queue"], options["router"] = function.app.keys.queue(name), _ROUTER
        shown = shows_arguments()  # by those who watch Celery's events
        options.setdefault("argsrepr", shortly(tuple(args or ())) if shown else MASKED)
        options.setdefault("kwargsrepr", shortly(dict(kwargs or {})) if shown else MASKED)
        version = code_version(function.owner)
        if version and "scaleplug" not in (options.get("headers") or {}):
            options["headers"] = {**(options.get("headers") or {}), "scaleplug": {"version": version}}
        for other in ("exchange", "routing_key", "connection"):
            options.pop(other, None)
        if isinstance(caller, RedisCaller):
            _count_from(caller.store, options)
        try:
            with _sending(None if again else caller, self.name, task_id, name):
                return super().apply_async(
                    args, kwargs, task_id=task_id, producer=self._producer(producer),
                    link=link, link_error=link_error, shadow=shadow, **options,
                )  # fmt: skip
        except EncodeError as exc:  # kombu's wrapping
            wrapped = exc.args[0] if exc.args else None
            if isinstance(wrapped, NoRoomError):
                wrapped = exhausted(name, wrapped.admission, function.app.config.max_spawned, 0)
            raise wrapped if isinstance(wrapped, Error) else exc from None

    def _producer(self, given: Any) -> Any:
        # A group or a beat brings one of the Celery app's own broker, which may be another one.
        return given if self.recording else self.function.producer()

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> EagerResult:
        """Run it in this process, as Celery does for ``task_always_eager``."""
        pool = options.pop(POOL, None)
        with running_as(self.function if pool is None else self.function.in_pool(pool)):
            return super().apply(args, kwargs, **options)

    def _apply_eagerly(self, args: Any, kwargs: Any, task_id: str, **options: Any) -> EagerResult:
        # As Celery does it, but nothing is sent, so neither a broker nor a secret is needed.
        if self.typing:
            self.__header__(*args, **kwargs)
        args, kwargs = cloudpickle.loads(pickle_call(self.name, args, kwargs))
        with denied_join_result():
            return self.apply(args, kwargs, task_id=task_id, **options)


def _check_call(args: Any, kwargs: Any, task_id: Any) -> None:
    """Refuse what Celery would pass on, to fail in a container."""
    if not isinstance(args, list | tuple | None):
        raise InvalidError(f"args must be a list or a tuple of the arguments, as in args=(1,), not {shortly(args)}")
    if not isinstance(kwargs, Mapping | None):
        raise InvalidError(f"kwargs must be a mapping of argument names, not {shortly(kwargs)}")
    if task_id is not None and not (isinstance(task_id, str) and 0 < len(task_id) <= LONGEST_ID):
        raise InvalidError(f"task_id must be a string of 1 to {LONGEST_ID} characters, not {shortly(task_id)}")


def plain_queue(name: str) -> Queue:
    """Return a queue that a project's settings don't know, and say nothing about."""
    return Queue(name, Exchange(name, type="direct"), routing_key=name)


class _Router:
    """Sends to the queue that is named, whatever a project's ``task_routes`` and ``task_queues`` say of all tasks."""

    def route(self, options: dict[str, Any], *_: Any) -> dict[str, Any]:
        """Return the options with the queue itself in place of its name."""
        return options | {"queue": plain_queue(options["queue"])}


_ROUTER = _Router()
eager: ContextVar[Function[Any, Any] | None] = ContextVar("scaleplug_eager", default=None)


@contextlib.contextmanager
def running_as(function: Function[Any, Any]) -> Iterator[None]:
    """Let Celery run a variant, or a method of one object: it knows tasks by their names only."""
    token = eager.set(function)
    try:
        yield
    finally:
        eager.reset(token)


def make_task(celery: Celery, name: str, raw: Callable[..., Any] | None, *, bound: bool = False) -> Any:
    """Return a Celery task whose calls go to a function's queue; without ``raw`` its arguments aren't checked here."""
    options: dict[str, Any] = {"name": name, "base": _task_class(celery), "shared": False, "lazy": False, "bind": bound}
    return celery.task(**options, **({} if raw else {"typing": False}))(raw or _elsewhere)


def _elsewhere() -> None:
    raise ExecutionError("the code of this function isn't in this process")


def _count_from(store: Store, options: dict[str, Any]) -> None:
    """Turn seconds from now into moments by Redis's clock, by which inputs are due: this machine's may be wrong."""
    for given, wanted in (("countdown", "eta"), ("expires", "expires")):
        seconds = options.get(given)
        if isinstance(seconds, int | float) and not isinstance(seconds, bool):
            options[given] = None
            options[wanted] = datetime.fromtimestamp(store.now() + seconds, UTC)


@contextlib.contextmanager
def _sending(caller: Caller | None, name: str, task_id: str, pool: str) -> Iterator[None]:
    """Sign what Celery sends here.

    With a caller large arguments are kept apart, under the id, so it must be a new one.
    """
    if not isinstance(caller, RedisCaller):
        with sealing(name, task_id, pool):
            yield
        return
    with caller.drafts(name, pool, caller.config.max_spawned) as drafts:
        token = submission.set(drafts)
        try:
            with sealing(name, task_id, pool, partial(drafts.pack, 0, task_id)):
                yield
        finally:
            submission.reset(token)


def _task_class(celery: Celery) -> type:
    # On top of the app's own class, which may open a context around every task, as Flask's pattern does.
    return type("FunctionTask", (FunctionTask, celery.Task), {"abstract": True, "__module__": __name__})
