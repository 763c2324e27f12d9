"""Run the user's callable for one input and keep its outcome, whatever it does."""

from __future__ import annotations

import asyncio
import inspect
import signal
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from celery import current_task
from celery.exceptions import Ignore, Reject, Retry

from scaleplug.errors import ContainerCrashError, FunctionTimeoutError, InputCancellation, InputCancelledError
from scaleplug.serializer import Keyring, seal_failure, seal_value
from scaleplug.settings import FunctionSettings
from scaleplug.worker.intake import Claim, Intake

CELERYS_OWN = (Ignore, Reject, Retry)
ORDERS_KEPT = 100
"""Orders to cancel that are kept for inputs still on their way through Celery."""


class FunctionExitError(Exception):
    """Stands in Celery's eyes for an exception that would have ended the worker, such as SystemExit."""


class Runner:
    """The body of the Celery tasks of a container: one for a function, one for each method of a class."""

    def __init__(self, settings: FunctionSettings, *, max_attempts: int) -> None:
        self.settings, self.max_attempts = settings, max_attempts
        self.bodies: dict[str, Callable[..., Any]] = {}
        """The callable of each task by its name."""
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
            self._main_claim = claim
            try:
                if claim.id in self._cancelled:
                    raise InputCancellation
                value = self._call(args, kwargs)
            finally:
                self._main_claim = None
        except CELERYS_OWN as exc:
            if claim.reply and not isinstance(exc, Retry):
                self._fail(claim, exc)  # Celery stores nothing then, and somebody waits
            raise
        except InputCancellation:
            self._fail(claim, InputCancelledError(f"{claim.id} was cancelled while it ran"))
            raise Ignore from None
        except BaseException as exc:
            self._fail(claim, exc)
            if isinstance(exc, Exception) and not isinstance(exc, MemoryError):
                raise
            raise FunctionExitError(f"{type(exc).__name__}: {exc}") from exc
        self._succeed(claim, value)
        return value

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
        raw = self.bodies[current_task.name]
        self._main_async = inspect.iscoroutinefunction(raw)
        if not self._main_async:
            return raw(*args, **kwargs)
        claim = self._main_claim
        try:
            return self._runner().run(self._hold(raw(*args, **kwargs)))
        except asyncio.CancelledError:
            if claim is not None and claim.verdict == "cancel":
                raise InputCancellation from None
            raise

    async def _hold(self, coroutine: Any) -> Any:
        """Await the function so that it can be cancelled as asyncio does it: a signal would only break its loop."""
        self._main_task = asyncio.current_task()
        try:
            if self._main_claim is not None and self._main_claim.verdict == "cancel":
                coroutine.close()
                raise InputCancellation
            return await coroutine
        finally:
            self._main_task = None

    def _current_claim(self) -> Claim | None:
        request = current_task.request if current_task else None
        if self.intake is None or request is None or request.is_eager:
            return None
        return self.intake.by_id.get(request.id)

    def _check_verdict(self, claim: Claim) -> None:
        name = self.title
        if claim.verdict == "timeout":
            raise FunctionTimeoutError(f"{name} ran longer than its timeout of {self.settings.timeout:g} s")
        if claim.attempt > self.max_attempts:
            raise ContainerCrashError(
                f"the input took its container of {name} down {self.max_attempts} times"
                f" (the last time: {claim.crash or 'unknown'}): it is not tried again"
            )

    def _succeed(self, claim: Claim, value: Any) -> None:
        assert self.intake is not None and self.keyring is not None
        if claim.reply:
            context = f"{claim.reply['call']}|{claim.reply['index']}"
            claim.outcome = seal_value(self.keyring, context, value, self.intake.function)
        elif not self.intake.owns(claim):
            raise Ignore  # Celery must not store the result of an input that runs elsewhere now

    def _fail(self, claim: Claim, exc: BaseException) -> None:
        assert self.intake is not None and self.keyring is not None
        claim.failed = True
        if claim.reply:
            context = f"{claim.reply['call']}|{claim.reply['index']}"
            exc.__traceback__ = _own_frames_off(exc)
            claim.outcome = seal_failure(self.keyring, context, exc)
        elif not self.intake.owns(claim):
            raise Ignore from None

    # -- cancelling ------------------------------------------------------------------------------------------------

    def cancel(self, input_id: str) -> None:
        """Interrupt an input if it runs now, or when it is about to; for the thread that hears orders."""
        self._cancelled.append(input_id)  # first: the order may come before the input, which Redis has given already
        claim = self._main_claim
        if claim is not None and claim.id == input_id:
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


def _own_frames_off(exc: BaseException) -> Any:
    """Return the traceback without this file's frames at its outer end."""
    traceback = exc.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__ and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback
