"""Run the user's callable for one input and keep its outcome, whatever it does."""

from __future__ import annotations

import asyncio
import inspect
import logging
import signal
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from celery import current_task
from celery.exceptions import Ignore, Reject, Retry

from scaleplug.context import running
from scaleplug.errors import (
    ContainerCrashError,
    FunctionTimeoutError,
    InputCancellation,
    InputCancelledError,
    InvalidError,
    PayloadTooLargeError,
    note_attempts,
)
from scaleplug.pools import is_generator
from scaleplug.serializer import Keyring, shortly
from scaleplug.settings import FunctionSettings
from scaleplug.streams import broken
from scaleplug.worker import streams
from scaleplug.worker.intake import Claim, Intake

logger = logging.getLogger(__name__)

CELERYS_OWN = (Ignore, Reject, Retry)
OWN_FILES = (__file__, streams.__file__)
ORDERS_KEPT = 100
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
        self._loop: asyncio.Runner | None = None
        self._main_claim: Claim | None = None
        self._main_task: asyncio.Task[Any] | None = None
        self._main_async = False
        self._cancelled: deque[str] = deque(maxlen=ORDERS_KEPT)
        self.__name__ = self.title = "function"

    def attach(self, intake: Intake, keyring: Keyring) -> None:
        """Connect to the intake that holds the claims; cancelling needs the main thread."""
        self.intake, self.keyring = intake, keyring
        signal.signal(signal.SIGUSR1, self._on_cancel_signal)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run one input."""
        claim = self._current_claim()
        if claim is None:  # Celery called it in this process (eager)
            return self._call(args, kwargs)
        try:
            self._check_verdict(claim)
            value = self._attempt(claim, args, kwargs)
        except CELERYS_OWN as exc:
            if claim.reply and not isinstance(exc, Retry):
                self._fail(claim, exc)  # Celery stores nothing then, and somebody waits
            raise
        except InputCancellation:
            self._fail(claim, InputCancelledError(f"{claim.id} was cancelled while it ran"))
            raise Ignore from None
        except BaseException as exc:
            plain = isinstance(exc, Exception) and not isinstance(exc, MemoryError)
            told = exc if plain else FunctionExitError(f"{type(exc).__name__}: {exc}")
            if self._put_off(claim, exc):
                raise Retry(exc=told, when=claim.retry_in) from exc  # Celery tells, and then hands the input back
            if not self._crashed(claim):
                note_attempts(exc, claim.retried + 1)
            self._fail(claim, exc)
            if plain:
                raise
            raise told from exc
        self._succeed(claim, value)
        return value

    def _attempt(self, claim: Claim, args: Any, kwargs: Any) -> Any:
        """Run the function; whatever it makes of being cancelled, then it was cancelled."""
        self._main_claim = claim
        try:
            if claim.id in self._cancelled:
                raise InputCancellation
            with _running(claim):
                value = self._call(args, kwargs)
        except BaseException:
            if claim.verdict == "cancel":
                raise InputCancellation from None
            raise
        finally:
            self._main_claim = None
        if claim.verdict == "cancel":
            raise InputCancellation
        return value

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
            self.intake.function, shortly(exc), claim.retried + 1, most, delay,
        )  # fmt: skip
        return True

    def run_hook(self, hook: Callable[[], Any]) -> None:
        """Run a method that prepares or ends an object; an async one on the loop of its inputs."""
        value = hook()
        if inspect.iscoroutine(value):
            self._runner().run(value)

    def _runner(self) -> asyncio.Runner:
        if self._loop is None:
            self._loop = asyncio.Runner()
        return self._loop

    def _call(self, args: Any, kwargs: Any) -> Any:
        body = self.bodies[current_task.name]
        run = partial(self._stream, body) if body.is_generator else body.raw
        self._main_async = body.is_async
        if not body.is_async:
            return run(*args, **kwargs)
        claim = self._main_claim
        try:
            return self._runner().run(self._hold(claim, run(*args, **kwargs)))
        except asyncio.CancelledError:
            if claim is not None and claim.verdict == "cancel":
                raise InputCancellation from None
            raise

    def _stream(self, body: Body, *args: Any, **kwargs: Any) -> Any:
        """Run a generator function and send its items; return how many there were, a coroutine if it is async."""
        claim, generator = self._main_claim, body.raw(*args, **kwargs)
        if claim is None or not claim.reply or self.intake is None or self.keyring is None:
            raise InvalidError(f"{current_task.name} is a generator function: call it with .remote_gen(...)")
        outgoing = streams.Outgoing(self.intake, self.keyring, claim, self.cancel)
        return outgoing.run_async(generator) if body.is_async else outgoing.run(generator)

    async def _hold(self, claim: Claim | None, coroutine: Any) -> Any:
        """Await the function so that it can be cancelled as asyncio does it: a signal would only break its loop."""
        self._main_task = asyncio.current_task()
        try:
            if claim is None:
                return await coroutine
            if claim.verdict == "cancel":
                coroutine.close()
                raise InputCancellation
            with _running(claim):  # again: asyncio's runner keeps the context of its first input
                return await coroutine
        finally:
            self._main_task = None

    def _current_claim(self) -> Claim | None:
        request = current_task.request if current_task else None
        if self.intake is None or request is None or request.is_eager:
            return None
        return self.intake.by_id.get(request.id)

    def _check_verdict(self, claim: Claim) -> None:
        name = current_task.name
        if claim.verdict == "timeout":
            raise FunctionTimeoutError(f"{name} ran longer than its timeout of {self.settings.timeout:g} s")
        if claim.verdict.startswith("streamed:"):
            raise broken(name, int(claim.verdict.split(":")[1]), claim.crash)
        if self._crashed(claim):
            raise ContainerCrashError(
                f"the input took its container of {name} down {self.max_attempts} times"
                f" (the last time: {claim.crash or 'unknown'}): it is not tried again"
            )

    def _crashed(self, claim: Claim) -> bool:
        return claim.verdict != "timeout" and claim.attempt > self.max_attempts

    def _succeed(self, claim: Claim, value: Any) -> None:
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
            exc.__traceback__ = _own_frames_off(exc)
            payloads = self.intake.payloads
            self.intake.insist(lambda: payloads.settle_failure(claim, context, exc))
        elif not self.intake.owns(claim):
            raise Ignore from None

    # -- cancelling ------------------------------------------------------------------------------------------------

    def cancel(self, input_id: str) -> None:
        """Interrupt an input if it runs now, or when it is about to; for the thread that hears orders."""
        self._cancelled.append(input_id)  # first: the order may come before the input, which Redis has given already
        claim = self._main_claim
        if claim is not None and claim.id == input_id and claim.verdict != "cancel":
            claim.verdict = "cancel"
            task, main = self._main_task, threading.main_thread().ident
            if task is not None:
                task.get_loop().call_soon_threadsafe(task.cancel)
            elif main is not None and not self._main_async:
                signal.pthread_kill(main, signal.SIGUSR1)

    def _on_cancel_signal(self, *_: Any) -> None:
        claim = self._main_claim
        if claim is not None and claim.verdict == "cancel":
            raise InputCancellation


def _running(claim: Claim) -> AbstractContextManager[None]:
    return running(claim.id, claim.reply.get("call") or claim.id)


def _own_frames_off(exc: BaseException) -> Any:
    """Return the traceback without this file's frames at its outer end."""
    traceback = exc.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        if traceback.tb_frame.f_code.co_filename not in OWN_FILES:
            break
        traceback = traceback.tb_next
    return traceback
