"""A backend for Django's tasks: each task is a Function, with a queue and containers of its own.

``TASKS = {"default": {"BACKEND": "scaleplug.contrib.django.backend.ScalePlugBackend"}}``. The tasks are those of
``django.tasks`` (Django 6), or of its backport ``django-tasks`` where there is none.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import socket
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from django.utils.module_loading import import_string

from scaleplug.app import App
from scaleplug.call import FunctionCall
from scaleplug.commit import new_call
from scaleplug.context import current_function_call_id
from scaleplug.contrib.django import conf
from scaleplug.contrib.django.results import Results
from scaleplug.errors import InvalidError
from scaleplug.function import Function


def _of_tasks(*modules: str) -> Any:
    """Return Django's own module, or that of the backport."""
    for name in modules:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImproperlyConfigured(
        "scaleplug.contrib.django.backend needs django.tasks: use Django 6, or pip install django-tasks"
    )


tasks = _of_tasks("django.tasks.base", "django_tasks.base")
backends = _of_tasks("django.tasks.backends.base", "django_tasks.backends.base")
problems = _of_tasks("django.tasks.exceptions", "django_tasks.exceptions")
signals = _of_tasks("django.tasks.signals", "django_tasks.signals")

_Base: Any = backends.BaseTaskBackend
BACKEND = "app"
"""The option that names the App; all others are arguments of ``@app.function()``."""
OF_ONE = frozenset({"name", "serialized", "schedule"})
"""Options of one function, which tasks can't share."""
LONGEST = 64
_MADE: dict[str, tuple[dict[str, Any], App, dict[str, Function[..., Any]], Results]] = {}
"""Of each backend its options, its App, its functions by their tasks' paths, and the records of their runs."""


class ScalePlugBackend(_Base):  # type: ignore[misc]  # Django has no types
    """Runs tasks in containers that scale themselves.

    ``OPTIONS`` are those of ``@app.function()`` for every task (``max_containers``, ``timeout``, ...), and ``app``: the
    name of the App that they belong to. Queues named by tasks are checked and otherwise change nothing.
    """

    supports_async_task = True
    supports_get_result = True
    supports_defer = True
    supports_priority = False

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        given = dict(self.options)
        name = given.pop(BACKEND, "django-tasks" if alias == "default" else f"django-tasks-{alias}")
        self.settings = given = {name: value for name, value in given.items() if name not in OF_ONE}
        known = _MADE.get(alias)  # Django makes a backend for each thread
        if known is None or known[0] != self.options:
            try:
                app = App(name, celery=conf.celery_app())
                app.function(**given)
            except (InvalidError, TypeError) as exc:
                raise ImproperlyConfigured(f"OPTIONS of the task backend {alias!r}: {exc}") from exc
            known = _MADE[alias] = (dict(self.options), app, {}, Results(app))
        _, self.app, self.functions, self.results = known

    def validate_task(self, task: Any) -> None:
        """Make the Function of a task, which happens when it is defined: so containers have it too."""
        super().validate_task(task)
        self._function(task)

    def _function(self, task: Any) -> Function[..., Any]:
        known = self.functions.get(task.module_path)
        if known is None or getattr(known.raw, "__wrapped__", None) is not task.func:
            known = self.app.function(name=_name(task.module_path), **self.settings)(self._body(task))
            self.functions[task.module_path] = known
        return known

    def _body(self, task: Any) -> Callable[..., Any]:
        """Return what a container runs: the task's function, with the context and the signals of Django's tasks."""
        if inspect.iscoroutinefunction(task.func):

            @functools.wraps(task.func)
            async def run_async(*args: Any, **kwargs: Any) -> Any:
                with self._running(task, args, kwargs) as context:
                    return _json(await task.func(*context, *args, **kwargs))

            return _without_context(run_async, task)

        @functools.wraps(task.func)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self._running(task, args, kwargs) as context:
                return _json(task.func(*context, *args, **kwargs))

        return _without_context(run, task)

    @contextmanager
    def _running(self, task: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Iterator[list[Any]]:
        call = current_function_call_id()
        assert call is not None  # it runs as an input
        self.results.begins(call, socket.gethostname())
        result = self._known(call) or self._result(task, call, args, kwargs)
        signals.task_started.send(sender=type(self), task_result=result)
        try:
            yield [tasks.TaskContext(task_result=result)] if task.takes_context else []
        except BaseException as exc:
            self._ends(result, tasks.TaskResultStatus.FAILED, _error(exc))
            raise
        self._ends(result, tasks.TaskResultStatus.SUCCESSFUL)

    def _ends(self, result: Any, status: Any, *errors: Any) -> None:
        self.results.ends(result.id)
        _set(result, status=status, finished_at=timezone.now(), errors=[*errors])
        signals.task_finished.send(sender=type(self), task_result=result)

    # -- Django's interface ----------------------------------------------------------------------------------------

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Send a task; its arguments and its result are values of JSON, as Django wants it."""
        self.validate_task(task)
        if self.options.keys() & OF_ONE:
            raise ImproperlyConfigured(refusals()[self.alias])
        function = self._function(task)
        result = self._result(task, "", args, kwargs)
        inspect.signature(function.local).bind(*result.args, **result.kwargs)  # the TypeError of a plain call
        sent = {"task": task.module_path, "queue_name": task.queue_name, "args": result.args, "kwargs": result.kwargs}
        call = new_call()
        self.results.sent(call, sent)  # first, so that its container finds it
        caller, given = self.app.caller(), (0, tuple(result.args), result.kwargs)
        if task.run_after is None:
            caller.send(function, call, [given], kind="spawn")
        else:
            caller.spawn_at(function, call, given, task.run_after.timestamp())
        _set(result, id=call, enqueued_at=timezone.now())
        signals.task_enqueued.send(sender=type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> Any:
        """Return what is known of a task that was sent; raises TaskResultDoesNotExist."""
        result = self._known(result_id)
        if result is None:
            raise problems.TaskResultDoesNotExist(result_id)
        try:
            value: Any = FunctionCall.from_id(result_id).get(timeout=0)
        except TimeoutError:
            return result
        except BaseException as exc:  # noqa: BLE001  # whatever the task has raised, or why it could not run
            ended = self.results.ended(result_id)
            _set(result, status=tasks.TaskResultStatus.FAILED, finished_at=ended, errors=[_error(exc)])
            return result
        status = tasks.TaskResultStatus.SUCCESSFUL
        _set(result, status=status, finished_at=self.results.ended(result_id), _return_value=value)
        return result

    def _known(self, call: str) -> Any:
        """Return a result as it is recorded: ready, or running."""
        found = self.results.read(call)
        if found is None:
            return None
        task = import_string(found.sent["task"])
        if task.queue_name != found.sent["queue_name"]:
            task = task.using(queue_name=found.sent["queue_name"])
        result = self._result(task, call, found.sent["args"], found.sent["kwargs"])
        status = tasks.TaskResultStatus.RUNNING if found.begun else tasks.TaskResultStatus.READY
        _set(result, status=status, enqueued_at=found.enqueued_at)
        if found.begun:
            (first, _), (last, _) = found.begun[0], found.begun[-1]
            _set(result, started_at=first, last_attempted_at=last, worker_ids=[worker for _, worker in found.begun])
        return result

    def _result(self, task: Any, call: str, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
        return tasks.TaskResult(
            task=task, id=call, status=tasks.TaskResultStatus.READY, enqueued_at=None, started_at=None,
            last_attempted_at=None, finished_at=None, args=list(args), kwargs=dict(kwargs), backend=self.alias,
            errors=[], worker_ids=[],
        )  # fmt: skip


def refusals() -> dict[str, str]:
    """Return what is wrong with the options of backends, by their aliases."""
    wrong = {alias: sorted(options.keys() & OF_ONE) for alias, (options, *_) in _MADE.items()}
    said = {alias: " and ".join(names) for alias, names in wrong.items() if names}
    return {alias: f"OPTIONS of the task backend {alias!r} can't have {names}" for alias, names in said.items()}


def _set(result: Any, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(result, name, value)  # it is frozen for its users


def _error(exc: BaseException) -> Any:
    path = f"{type(exc).__module__}.{type(exc).__qualname__}"
    return tasks.TaskError(exception_class_path=path, traceback="".join(traceback.format_exception(exc)))


def _json(value: Any) -> Any:
    return tasks.normalize_json(value)


def _name(path: str) -> str:
    """Return a function's name for a task's path: dots would make it a method."""
    name = path.replace(".", "-")
    if len(name) > LONGEST:
        name = f"{name[-LONGEST + 9 :]}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"
    return name


def _without_context(body: Callable[..., Any], task: Any) -> Callable[..., Any]:
    """Let callers be checked against the arguments that they give."""
    if task.takes_context:
        signature = inspect.signature(task.func)
        body.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    return body
