"""The short way from a message to the function, where nobody can tell it from Celery's.

It is open to inputs that came from this package's own calls, of tasks whose class changes nothing about how Celery runs
them. What Celery does for all of these is done here too: ``current_task.request``, the signals that somebody hears,
task events, the log of failures. Everything else takes Celery's own way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from celery import Task, signals, states
from celery._state import _task_stack
from celery.app.task import Context
from celery.app.trace import TraceInfo
from celery.app.trace import logger as trace_logger
from celery.exceptions import Ignore, Reject, Retry
from celery.loaders.base import BaseLoader
from celery.utils.saferepr import saferepr
from celery.worker.strategy import logger as strategy_logger

from scaleplug.serializer import MASKED, shortly, shows_arguments
from scaleplug.worker.holding import Claim
from scaleplug.worker.runner import Body, Runner

CUSTOM = ("__call__", "before_start", "on_success", "on_failure", "on_retry", "after_return")
EVENTS_AT_ONCE = 1_000
OWN = frozenset({*Context.__dict__, "lang", "task", "argsrepr", "kwargsrepr", "compression"})
"""The headers that are no custom ones, as Celery sees it."""


class Fast:
    """Runs inputs of the tasks of one container."""

    def __init__(self, tasks: Mapping[str, Task], runner: Runner, consumer: Any) -> None:
        self.runner, self.consumer, self.hostname = runner, consumer, consumer.hostname
        loader = consumer.app.loader
        told = trace_logger.isEnabledFor(logging.INFO) or strategy_logger.isEnabledFor(logging.INFO)
        celerys = told or type(loader).on_task_init is not BaseLoader.on_task_init
        self.tasks = {} if celerys else {name: task for name, task in tasks.items() if _is_plain(task)}
        dispatcher = consumer.event_dispatcher
        self.events: Any = dispatcher if dispatcher is not None and dispatcher.enabled else None
        self.packed_events = False
        """Whether task events are sent of every input of a pack."""

    def takes(self, claim: Claim, headers: Mapping[str, Any]) -> Body | None:
        """Return what runs an input, ``None`` if it is to go Celery's way."""
        body = self.runner.bodies.get(claim.task)
        if body is None or body.is_generator or claim.task not in self.tasks or not claim.reply or claim.large:
            return None
        limits = headers.get("timelimit")
        if headers.get("expires") or (limits and any(limits)) or signals.task_received.receivers:
            return None
        return body

    def request(self, claim: Claim, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return what ``current_task.request`` holds for an input, but for its arguments."""
        headers, properties = message["headers"], message["properties"]
        info = properties["delivery_info"]
        return {
            **headers,
            "headers": {k: v for k, v in headers.items() if k not in OWN} or None,
            "called_directly": False,
            "properties": properties,
            "reply_to": properties.get("reply_to"),
            "correlation_id": properties.get("correlation_id"),
            "hostname": self.hostname,
            "delivery_info": {
                "exchange": info.get("exchange"), "routing_key": info.get("routing_key"),
                "priority": properties.get("priority"), "redelivered": claim.attempt > 1,
            },
        }  # fmt: skip

    def run(self, claim: Claim, body: Body, values: Mapping[str, Any], args: Any, kwargs: Any) -> bool:
        """Run an input and settle its end; False if it is to be put back instead."""
        task = self.tasks[claim.task]
        request = Context.__new__(Context)
        request.__dict__.update(values, args=args, kwargs=kwargs)
        _task_stack.push(task)
        task.request_stack.push(request)
        value, state, kept = None, states.SUCCESS, True
        began = time.monotonic()
        try:
            self.before(task, request)
            try:
                value = self.runner.run(claim, body, args, kwargs)
            except BaseException as exc:  # noqa: BLE001  # the runner has made an Exception of whatever it was
                value, state, kept = self.failed(task, request, exc)
            else:
                self.succeeded(task, request, value, began)
        finally:
            self.after(task, request, value, state)
            task.request_stack.pop()
            _task_stack.pop()
        return kept

    def before(self, task: Task, request: Context, *, packed: bool = False) -> None:
        """Tell that an input begins."""
        if signals.task_prerun.receivers:
            signals.task_prerun.send(
                sender=task, task_id=request.id, task=task, args=request.args, kwargs=request.kwargs
            )
        if self._tells(task, packed):
            self.events.send(
                "task-received", uuid=request.id, name=request.shadow or task.name,
                args=_shown(request.argsrepr, request.args), kwargs=_shown(request.kwargsrepr, request.kwargs),
                root_id=request.root_id, parent_id=request.parent_id, retries=request.retries, eta=None, expires=None,
            )  # fmt: skip
            self.events.send("task-started", uuid=request.id)

    def succeeded(self, task: Task, request: Context, value: Any, began: float, *, packed: bool = False) -> None:
        """Tell that an input has ended well."""
        seconds = time.monotonic() - began
        if signals.task_success.receivers:
            signals.task_success.send(sender=task, result=value, runtime=seconds)
        if self._tells(task, packed):
            shown = saferepr(value, task.resultrepr_maxsize)
            self.events.send("task-succeeded", uuid=request.id, result=shown, runtime=seconds)

    def failed(
        self, task: Task, request: Context, exc: BaseException, *, packed: bool = False
    ) -> tuple[Any, str, bool]:
        """Tell what an input has raised; return what Celery gives its receivers, and False if it is to be put back."""
        if isinstance(exc, Reject):
            TraceInfo(states.REJECTED, exc).handle_reject(task, request)
            return exc, states.REJECTED, not exc.requeue
        if isinstance(exc, Ignore):
            TraceInfo(states.IGNORED, exc).handle_ignore(task, request)
            return exc, states.IGNORED, True
        state = states.RETRY if isinstance(exc, Retry) else states.FAILURE
        told = TraceInfo(state, exc).handle_error_state(task, request, call_errbacks=False)
        if self._tells(task, packed):
            kind = "task-retried" if state == states.RETRY else "task-failed"
            shown = exc.exc if isinstance(exc, Retry) else exc
            self.events.send(kind, uuid=request.id, exception=saferepr(shown), traceback=told.traceback)
        return exc, state, True

    def after(self, task: Task, request: Context, value: Any, state: str) -> None:
        """Tell that an input is over."""
        if signals.task_postrun.receivers:
            signals.task_postrun.send(
                sender=task, task_id=request.id, task=task, args=request.args, kwargs=request.kwargs,
                retval=value, state=state,
            )  # fmt: skip

    def bulk_events(self, on: bool) -> None:
        """Collect task events, or send those collected in one message, and each at once from now on."""
        if self.events is not None:
            self.events.buffer_group = frozenset({"task"} if on else ())
            self.events.buffer_limit = EVENTS_AT_ONCE
            if not on:
                self.events.flush()

    # -- packs in Flower -------------------------------------------------------------------------------------------

    def _tells(self, task: Task, packed: bool) -> bool:
        """Return whether task events are sent of an input."""
        return self.events is not None and task.send_events and (self.packed_events or not packed)

    def pack_begins(self, task: Task, values: Mapping[str, Any], inputs: int) -> None:
        """Tell that a pack begins, as one task, where its inputs aren't told one by one."""
        if self._tells(task, False) and not self.packed_events:
            self.events.send(
                "task-received", uuid=values["id"], name=task.name, args=f"({inputs} inputs)", kwargs="{}",
                root_id=values["root_id"], parent_id=values["parent_id"], retries=0, eta=None, expires=None,
            )  # fmt: skip
            self.events.send("task-started", uuid=values["id"])

    def pack_ends(self, task: Task, values: Mapping[str, Any], ran: str, seconds: float) -> None:
        """Tell that it has ended."""
        if self._tells(task, False) and not self.packed_events:
            self.events.send("task-succeeded", uuid=values["id"], result=ran, runtime=seconds)


def _shown(told: str | None, values: Any) -> str:
    """Return what watchers see of arguments: as the caller has told, which this package's own calls don't."""
    return told or (shortly(values) if shows_arguments() else MASKED)


def _is_plain(task: Task) -> bool:
    """Return whether a task's class leaves everything to Celery that Celery does for every task."""
    for kind in type(task).__mro__:
        if kind is Task:  # celery.app.task.Task, which Celery itself patches in a worker
            break
        if any(name in vars(kind) for name in CUSTOM):
            return False
    return task.rate_limit is None and not task.track_started and not task.store_errors_even_if_ignored
