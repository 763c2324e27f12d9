"""Run the user's callable for one input and keep its outcome, whatever it does."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from celery import current_task
from celery.exceptions import Ignore, Reject, Retry

from scaleplug import around
from scaleplug.context import running
from scaleplug.errors import (
    ContainerCrashError,
    Error,
    FunctionTimeoutError,
    InputCancellation,
    InputCancelledError,
    InvalidError,
    PayloadTooLargeError,
    note_attempts,
)
from scaleplug.pools import is_generator
from scaleplug.serializer import Keyring, shortly, shows_arguments
from scaleplug.settings import FunctionSettings
from scaleplug.streams import broken
from scaleplug.worker import batches, streams
from scaleplug.worker.copies import leave_copy
from scaleplug.worker.event_loop import EventLoop
from scaleplug.worker.holding import Claim
from scaleplug.worker.intake import Intake
from scaleplug.worker.runs import Run

logger = logging.getLogger(__name__)

CELERYS_OWN = (Ignore, Reject, Retry)
OWN_FILES = (__file__, streams.__file__, around.__file__, str(Path(__file__).with_name("packed.py")))
ORDERS_KEPT = 1_000
"""Orders to cancel that are kept for inputs still on their way through Celery."""


class FunctionExitError(Exception):
    """Stands in Celery's eyes for an exception that would have ended the worker, such as SystemExit."""


class Body:
    """A callable and what kind it is of."""

    def __init__(self, raw: Callable[..., Any]) -> None:
        self.raw = raw
        self.is_async = inspect.iscoroutinefunction(raw) or inspect.isasyncgenfunction(raw)
        self.is_generator = is_generator(raw)


class Runner:
    """The body of the Celery tasks of a container: one for a function, one for each method of a class."""

    def __init__(self, settings: FunctionSettings, *, max_attempts: int) -> None:
        self.settings, self.max_attempts = settings, max_attempts
        self.bodies: dict[str, Body] = {}
        """What each task runs, by its name."""
        self.intake: Intake | None = None
        self.keyring: Keyring | None = None
        self.loop: EventLoop | None = None
        """The event loop that all inputs share, where a container runs several at once."""
        self.runs: dict[str, Run] = {}
        self.on_run: Callable[[], object] = lambda: None
        """Called when an input has begun."""
        self.on_cancelled: Callable[[Claim, str], object] = lambda _claim, _input_id: None
        """Called when an input is cancelled that has begun; with its id where it is one of a pack."""
        self.killer: Callable[[], Callable[[], object]] | None = None
        """Returns what interrupts the current green thread, where inputs run in such."""
        self._own_loop: asyncio.Runner | None = None
        self._cancelled: dict[str, None] = {}
        self._orders_kept = ORDERS_KEPT + 2 * settings.max_inputs
        self._batch: dict[str, Claim] = {}
        """The inputs of the batch that runs, but for those that were cancelled."""
        self.main_run: Run | None = None
        """What the signal to cancel interrupts."""
        self.__name__ = self.title = "function"

    def attach(self, intake: Intake, keyring: Keyring) -> None:
        """Connect to the intake that holds the claims; cancelling needs the main thread."""
        self.intake, self.keyring = intake, keyring
        signal.signal(signal.SIGUSR1, self._on_cancel_signal)

    # -- one input, as the body of its Celery task -----------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run one input."""
        claim, body = self._current_claim(), self.bodies[current_task.name]
        if claim is None:  # Celery called it in this process (eager)
            return self.call(None, body, args, kwargs)
        return self.run(claim, body, args, kwargs)

    def run(self, claim: Claim, body: Body, args: Any, kwargs: Any) -> Any:
        """Run one input that this container holds, and settle how it ends; raises what Celery is to be told."""
        try:
            self.check_verdict(claim, claim.task)
            if self.settings.max_batch_size is not None:
                value = self._attempt_batch(claim, body, args, kwargs)
            else:
                value = self._attempt(claim, body, args, kwargs)
        except BaseException as exc:
            told = self.fail(claim, exc)
            if told is exc:
                raise
            raise told from (exc if isinstance(told, FunctionExitError | Retry) else None)
        self.succeed(claim, value)
        return value

    def _current_claim(self) -> Claim | None:
        request = current_task.request if current_task else None
        if self.intake is None or request is None or request.is_eager:
            return None
        return self.intake.by_id.get(request.id)

    def _attempt(self, claim: Claim, body: Body, args: Any, kwargs: Any) -> Any:
        """Run the function; whatever it makes of being interrupted, then it was interrupted."""
        run = self.open_run(claim, body)
        try:
            if run.in_main_thread:
                self.main_run = run
            if self.was_cancelled(claim.id):
                raise InputCancellation
            with _running(claim):
                value = self.call(run, body, args, kwargs)
        except BaseException:
            self.check_interrupted(run)
            raise
        finally:
            self.main_run = None
            self.close_run(run)
        self.check_interrupted(run)
        return value

    def _attempt_batch(self, first: Claim, body: Body, args: Any, kwargs: Any) -> Any:
        """Run the function for an input and those that come in time to go with it; return the first one's result."""
        assert self.intake is not None
        members = [batches.member(body.raw, first, args, kwargs), *self._gather(first, body)]
        try:
            self._batch = {each.claim.id: each.claim for each in members}
            results = self._attempt(first, body, (), batches.lists([each.arguments for each in members]))
            results = batches.check_results(first.task, results, len(members))
        except BaseException as exc:
            self._batch = {}
            for each in members[1:]:
                if batches.blameless(exc):
                    self.intake.requeue(each.claim.tag)
                    continue
                self.fail(each.claim, exc)
                self.intake.finish(each.claim.tag)
            raise
        self._batch = {}
        for each, result in zip(members[1:], results[1:], strict=True):
            if self.was_cancelled(each.claim.id):
                self.fail(each.claim, InputCancellation())
            else:
                with contextlib.suppress(PayloadTooLargeError):  # that is its outcome now
                    self.succeed(each.claim, result)
            self.intake.finish(each.claim.tag)
        return results[0]

    def _gather(self, first: Claim, body: Body) -> list[batches.Member]:
        """Return the inputs that come in time to go with the first one; one that a crash is known of goes alone."""
        assert self.intake is not None
        if first.attempt > 1:
            return []
        members: list[batches.Member] = []
        until = first.taken + self.settings.wait_ms / 1000
        for message in self.intake.take_batch((self.settings.max_batch_size or 1) - 1, until):
            claim = self.intake.by_id[message["headers"]["id"]]
            # Where Celery stores the result it goes Celery's way, in a batch of its own; after a crash, too.
            if not claim.reply or claim.attempt > 1 or claim.task != first.task:
                self.intake.requeue(claim.tag)
                continue
            try:
                if self.was_cancelled(claim.id):
                    raise InputCancellation
                self.check_verdict(claim, claim.task)
                members.append(batches.member(body.raw, claim, *batches.read(message)))
            except (Exception, InputCancellation) as exc:  # noqa: BLE001  # whatever unpickling does
                self.fail(claim, exc)
                self.intake.finish(claim.tag)
        return members

    def open_run(self, claim: Claim, body: Body) -> Run:
        """Begin an input, or a pack of them: from here on it can be interrupted."""
        run = Run(claim, body.is_async, kill=self.killer() if self.killer is not None else None)
        if not run.in_main_thread:  # one of several in this container: the others should not have to go with it
            run.deadline = claim.taken + self.settings.timeout
        self.runs[claim.id] = run
        self.on_run()
        return run

    def close_run(self, run: Run) -> None:
        """End it."""
        leave_copy()
        run.close()
        self.runs.pop(run.claim.id, None)

    def check_interrupted(self, run: Run) -> None:
        """Raise what an interrupted input ends with."""
        if run.claim.verdict == "cancel":
            raise InputCancellation from None
        if run.claim.verdict == "overdue":
            raise self._overdue(run.claim.task) from None

    async def run_async(self, claim: Claim, body: Body, args: Any, kwargs: Any) -> Any:
        """Run an async function as a task of the loop that all inputs share."""
        self.check_verdict(claim, claim.task)
        run = self.open_run(claim, body)
        try:
            if self.was_cancelled(claim.id):
                raise InputCancellation
            value = await self.hold(run, body.raw(*args, **kwargs))
        except BaseException:
            self.check_interrupted(run)
            raise
        finally:
            self.close_run(run)
        self.check_interrupted(run)
        return value

    def call(self, run: Run | None, body: Body, args: Any, kwargs: Any) -> Any:
        """Call the function, whatever kind it is of."""
        function = partial(self._stream, run, body) if body.is_generator else body.raw
        if not body.is_async:
            return function(*args, **kwargs)
        if self.loop is not None:
            return self.loop.wait_for(self.hold(run, function(*args, **kwargs)))
        return self._runner().run(self.hold(run, function(*args, **kwargs)))

    async def hold(self, run: Run | None, coroutine: Any) -> Any:
        """Await the function so that it can be cancelled as asyncio does it: a signal would only break its loop."""
        if run is None:
            return await coroutine
        run.task = asyncio.current_task()
        try:
            if run.interrupted:
                coroutine.close()
                raise InputCancellation
            with _running(run.claim, run.input_id):  # here too: asyncio's runner keeps the context of its first input
                return await coroutine
        finally:
            run.task = None

    def _stream(self, run: Run | None, body: Body, *args: Any, **kwargs: Any) -> Any:
        """Run a generator function and send its items; return how many there were, a coroutine if it is async."""
        if run is None or not run.claim.reply or self.intake is None or self.keyring is None:
            raise InvalidError(f"{current_task.name} is a generator function: call it with .remote_gen(...)")
        generator = body.raw(*args, **kwargs)
        outgoing = streams.Outgoing(self.intake, self.keyring, run.claim, self.cancel)
        return outgoing.run_async(generator) if body.is_async else outgoing.run(generator)

    def run_hook(self, hook: Callable[[], Any]) -> None:
        """Run a method that prepares or ends an object; an async one on the loop of its inputs."""
        try:
            value = hook()
            if inspect.iscoroutine(value):
                self._runner().run(value) if self.loop is None else self.loop.wait_for(value)
        finally:
            leave_copy()

    def _runner(self) -> asyncio.Runner:
        if self._own_loop is None:
            self._own_loop = asyncio.Runner()
        return self._own_loop

    # -- what becomes of it ----------------------------------------------------------------------------------------

    def check_verdict(self, claim: Claim, name: str) -> None:
        """Raise what an input must fail with instead of running."""
        if claim.verdict == "timeout":
            raise self._overdue(name)
        if claim.verdict.startswith("streamed:"):
            raise broken(name, int(claim.verdict.split(":")[1]), claim.crash)
        if self._crashed(claim):
            raise ContainerCrashError(
                f"the input took its container of {name} down {self.max_attempts} times"
                f" (the last time: {claim.crash or 'unknown'}): it is not tried again"
            )

    def spent(self, claim: Claim) -> Error | None:
        """Return what an input must fail with that has had all its attempts, ``None`` if it has some left."""
        if claim.attempt > self.max_attempts:
            try:
                self.check_verdict(claim, claim.task)
            except Error as error:
                return error
        return None

    def _crashed(self, claim: Claim) -> bool:
        return claim.verdict != "timeout" and claim.attempt > self.max_attempts

    def _overdue(self, name: str) -> FunctionTimeoutError:
        return FunctionTimeoutError(f"{name} ran longer than its timeout of {self.settings.timeout:g} s")

    def fail(self, claim: Claim, exc: BaseException) -> Any:
        """Settle how an input ends that raised ``exc``, and return the exception that Celery is to be told."""
        if isinstance(exc, CELERYS_OWN):
            if claim.reply and not isinstance(exc, Retry):
                self._fail(claim, exc)  # Celery stores nothing then, and somebody waits
            return exc
        if isinstance(exc, InputCancellation):
            self._fail(claim, InputCancelledError(f"{claim.id} was cancelled while it ran"))
            if claim.verdict != "cancel" and self.settings.max_batch_size is None:  # else it was told, or never shown
                self.on_cancelled(claim, "")
            return Ignore()
        plain = isinstance(exc, Exception) and not isinstance(exc, MemoryError)
        told = exc if plain else FunctionExitError(f"{type(exc).__name__}: {exc}")
        if self._put_off(claim, exc):
            return Retry(exc=told, when=claim.retry_in)  # Celery tells, and then hands the input back
        if not self._crashed(claim):
            note_attempts(exc, claim.retried + 1)
        self._fail(claim, exc)
        return told

    def _put_off(self, claim: Claim, exc: BaseException) -> bool:
        """Settle that a failed input runs again later, if it has retries left; crashes have their own count."""
        assert self.intake is not None
        delay = self.settings.retry_delay(claim.retried)
        if delay is None or self._crashed(claim):
            return False
        if not claim.reply and not self.intake.owns(claim):
            raise Ignore from None  # Celery must not store the state of an input that runs elsewhere now
        claim.retry_in = delay
        most = self.settings.retries.max_retries if self.settings.retries else 0
        logger.warning(
            "an input of %s failed with %s: retry %d of %d in %g s",
            claim.task, shortly(exc) if shows_arguments() else type(exc).__name__, claim.retried + 1, most, delay,
        )  # fmt: skip
        return True

    def succeed(self, claim: Claim, value: Any) -> None:
        """Settle that an input ends with ``value``."""
        assert self.intake is not None and self.keyring is not None
        intake = self.intake
        if claim.reply:
            context = f"{claim.reply['call']}|{claim.reply['index']}"
            try:
                intake.insist(lambda: intake.payloads.settle(claim, context, value, intake.function))
            except PayloadTooLargeError as exc:
                self._fail(claim, exc)
                raise
        elif not self.intake.owns(claim):
            raise Ignore  # Celery must not store the result of an input that runs elsewhere now

    def _fail(self, claim: Claim, exc: BaseException) -> None:
        assert self.intake is not None and self.keyring is not None
        claim.failed = True
        if claim.reply:
            context = f"{claim.reply['call']}|{claim.reply['index']}"
            exc.__traceback__ = own_frames_off(exc)
            payloads = self.intake.payloads
            self.intake.insist(lambda: payloads.settle_failure(claim, context, exc))
        elif not self.intake.owns(claim):
            raise Ignore from None

    # -- cancelling ------------------------------------------------------------------------------------------------

    def cancel(self, *input_ids: str) -> None:
        """Interrupt inputs that run now, or when they are about to; for the thread that hears orders."""
        # First: the order may come before the input, which Redis has given already.
        self._cancelled.update(dict.fromkeys(input_ids))
        while len(self._cancelled) > self._orders_kept:
            del self._cancelled[next(iter(self._cancelled))]
        told = []
        for input_id in input_ids:
            run = self._leave_batch(input_id) if input_id in self._batch else self.runs.get(input_id)
            if run is not None:
                run.interrupt("cancel")
                told += [run] if run.claim.verdict == "cancel" else []
        for run in told:  # now: one that resists is killed before it can tell
            self.on_cancelled(run.claim, run.input_id)

    def _leave_batch(self, input_id: str) -> Run | None:
        """Take an input out of the batch that runs, and return the run if nobody is left who wants a result."""
        claim, run = self._batch.pop(input_id, None), self.main_run
        if claim is None or run is None or not self._batch:
            return run
        assert self.intake is not None
        self._fail(claim, InputCancelledError(f"{claim.id} was cancelled while its batch ran"))
        self.intake.finish(claim.tag)
        return None

    def was_cancelled(self, input_id: str) -> bool:
        """Return whether the order to cancel an input has come already."""
        return input_id in self._cancelled

    def _on_cancel_signal(self, *_: Any) -> None:
        run = self.main_run
        if run is not None and run.interrupted:
            raise InputCancellation


def _running(claim: Claim, input_id: str = "") -> AbstractContextManager[None]:
    return running(input_id or claim.id, claim.reply.get("call") or claim.id)


def own_frames_off(exc: BaseException) -> Any:
    """Return the traceback without this package's frames at its outer end."""
    traceback = exc.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        if traceback.tb_frame.f_code.co_filename not in OWN_FILES:
            break
        traceback = traceback.tb_next
    return traceback
