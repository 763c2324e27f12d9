"""The Celery pools of containers: one input at a time, or several in threads and as tasks of one event loop."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import signals, states
from celery.concurrency import solo
from celery.concurrency import thread as threads
from celery.utils.saferepr import saferepr
from kombu.serialization import loads

from scaleplug.errors import PayloadTooLargeError
from scaleplug.worker.holding import Claim
from scaleplug.worker.runner import Body, Runner

logger = logging.getLogger(__name__)

ENDS_AT_ONCE = 200
"""So many inputs are handed back in one step."""
LOOK_SECONDS = 0.2


def watch(runner: Runner, work: threading.Event) -> None:
    """Interrupt what has run too long, and look whether the loop gets on; idle until ``work`` is set.

    What resists is ended from outside, with its container.
    """
    while True:
        work.wait()
        work.clear()
        while runs := list(runner.runs.values()):
            now = time.monotonic()
            for run in runs:
                if run.deadline is not None and run.deadline <= now:
                    run.interrupt("overdue")
            if runner.loop is not None:
                runner.loop.check()
            time.sleep(LOOK_SECONDS)


class SoloPool(solo.TaskPool):  # type: ignore[misc]  # Celery has no types
    """The solo pool; it tells of its process after the fork, as Celery's prefork pool does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        receivers, signals.worker_process_init.receivers = signals.worker_process_init.receivers, []
        try:
            super().__init__(*args, **kwargs)
        finally:
            signals.worker_process_init.receivers = receivers


@dataclass(slots=True)
class _End:
    """An async input that has ended and is to be handed back."""

    claim: Claim
    value: Any
    error: BaseException | None
    callback: Callable[[tuple[int, Any, float]], object]
    seconds: float


class ConcurrentPool(threads.TaskPool):  # type: ignore[misc]
    """Celery's thread pool; inputs of async functions don't need a thread each, but are tasks of one event loop.

    Those that Celery's own calls sent take the way of any Celery task, through a thread that waits for the loop.
    """

    runner: Runner
    """Set when the container has made it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ended: queue.SimpleQueue[_End] = queue.SimpleQueue()
        self._under_way = 0
        self._changed = threading.Condition()
        self._started = False
        self._work = threading.Event()
        self._tasks: set[Any] = set()

    def on_apply(
        self,
        target: Any,
        args: Any = None,
        kwargs: Any = None,
        callback: Any = None,
        accept_callback: Any = None,
        **options: Any,
    ) -> Any:
        """Run one input."""
        self._start_threads()
        _, input_id, request, body, content_type, encoding = args
        intake, runner = self.runner.intake, self.runner
        claim = intake.by_id.get(input_id) if intake is not None else None
        function = runner.bodies.get(request["task"])
        if claim is None or not claim.reply or function is None or not function.is_async or function.is_generator:
            return super().on_apply(target, args, kwargs, callback, accept_callback, **options)
        payload = (body, content_type, encoding, request)
        with self._changed:
            self._under_way += 1
        assert runner.loop is not None
        runner.loop.loop.call_soon_threadsafe(self._begin, claim, function, payload, accept_callback, callback)
        return None

    def _begin(self, claim: Claim, body: Body, payload: Any, accepted: Any, callback: Any) -> None:
        accepted(os.getpid(), time.monotonic())
        assert self.runner.loop is not None
        task = self.runner.loop.loop.create_task(self._run(claim, body, payload, callback))
        self._tasks.add(task)  # a loop keeps weak references only
        task.add_done_callback(self._tasks.discard)

    async def _run(self, claim: Claim, body: Body, payload: Any, callback: Any) -> None:
        begun = time.monotonic()
        value: Any = None
        error: BaseException | None = None
        try:
            self.runner.check_verdict(claim, claim.task)  # unpickling it may be what took its containers down
            content, content_type, encoding, _ = payload
            args, kwargs, _ = loads(content, content_type, encoding, accept={content_type})
            self._tell(signals.task_prerun, claim, payload[3], args=args, kwargs=kwargs)
            value = await self.runner.run_async(claim, body, args, kwargs)
        except BaseException as exc:  # noqa: BLE001  # whatever it is, it goes to the caller
            error = exc
        state = states.SUCCESS if error is None else states.FAILURE
        self._tell(signals.task_postrun, claim, payload[3], args=(), kwargs={}, retval=value, state=state)
        self._ended.put(_End(claim, value, error, callback, time.monotonic() - begun))

    # -- handing back ----------------------------------------------------------------------------------------------

    def _start_threads(self) -> None:
        if not self._started:
            self._started = True
            threading.Thread(target=self._hand_back_all, daemon=True, name="scaleplug-ends").start()
            threading.Thread(target=watch, args=(self.runner, self._work), daemon=True, name="scaleplug-watch").start()
            self.runner.on_run = self._work.set

    def _hand_back_all(self) -> None:
        while True:
            ends = [self._ended.get()]
            while len(ends) < ENDS_AT_ONCE:
                try:
                    ends.append(self._ended.get_nowait())
                except queue.Empty:
                    break
            self._hand_back(ends)
            with self._changed:
                self._under_way -= len(ends)
                self._changed.notify_all()

    def _hand_back(self, ends: Sequence[_End]) -> None:
        told: list[BaseException | None] = []
        for end in ends:
            try:
                if end.error is None:
                    self.runner.succeed(end.claim, end.value)
                told.append(end.error and self.runner.fail(end.claim, end.error))
            except PayloadTooLargeError as exc:  # that is its outcome now
                told.append(exc)
        assert self.runner.intake is not None
        self.runner.intake.finish_many([end.claim for end in ends])
        for end, error in zip(ends, told, strict=True):
            try:
                end.callback((0, self._shown(end), end.seconds) if error is None else (1, _raised(error), end.seconds))
            except Exception:  # a receiver of Celery's signals, say
                logger.exception("Celery could not be told how input %s ended", end.claim.id)
                self.runner.intake.finish(end.claim.tag)

    def _shown(self, end: _End) -> str | None:
        """Return what watchers see of a result, ``None`` where nobody is told."""
        if not self.app.conf.worker_send_task_events:
            return None
        shown: str = saferepr(end.value, self.app.tasks[end.claim.task].resultrepr_maxsize)
        return shown

    def _tell(self, signal: Any, claim: Claim, request: Any, **values: Any) -> None:
        """Send one of the signals that Celery sends around each task, if anybody hears it.

        Who hears it finds ``task.request``, as with any task, and not longer: the next task of the loop has another.
        """
        if signal.receivers:
            task = self.app.tasks[claim.task]
            task.push_request(request, args=values["args"], kwargs=values["kwargs"], called_directly=False)
            try:
                signal.send(sender=task, task_id=claim.id, task=task, **values)
            finally:
                task.pop_request()

    def on_stop(self) -> None:
        """Wait for what is under way; the container's grace limits that from outside."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way)
        super().on_stop()


def _raised(error: BaseException) -> ExceptionInfo:
    try:
        raise error
    except BaseException:  # noqa: BLE001  # it has a traceback now
        return ExceptionInfo()
