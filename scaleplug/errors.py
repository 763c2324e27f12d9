"""The exception tree.

    Error
    ├── InvalidError            an argument, a setting or a name is not valid (also a ValueError)
    ├── ConfigurationError      the environment is not: Redis, the secret, a missing program
    │   └── ServerError         the Redis server can't be used, with the way out
    ├── NotFoundError           an app, a function or a call nobody knows
    ├── ExecutionError          a call can't be made or its outcome can't be read here
    │   ├── PayloadTooLargeError  an argument or a result is larger than is allowed
    │   └── SerializationError  a value can't be pickled or unpickled
    ├── RemoteError             the input failed for a reason that is not the function's own exception
    │   ├── ContainerCrashError its containers died under it, too often
    │   ├── ContainerStartError no container could be started for it
    │   ├── InputCancelledError it was cancelled
    │   ├── InputRefusedError   its container could not verify or read it
    │   └── StateLostError      Redis lost what was waited for
    ├── ResourceExhausted       a limit on inputs was reached: retry later
    ├── TimeoutError
    │   ├── FunctionTimeoutError  the function ran longer than its ``timeout``
    │   └── OutputExpiredError    the result is no longer kept
    └── UserCodeException       wraps an exception of the function, where that was asked for

    InputCancellation (BaseException)   raised inside a function whose input is cancelled
    AsyncUsageWarning (UserWarning)     a blocking method was called in an event loop, which stands still meanwhile

``FunctionCall.get(timeout=...)`` raises the builtin ``TimeoutError`` while the result isn't there yet.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Collection, Iterable


class Error(Exception):
    """Root of every error that scaleplug raises."""


class InvalidError(Error, ValueError):
    """An argument, a setting or a name is not valid; the text names it, its value and what is allowed."""


class ConfigurationError(Error):
    """The environment does not allow what was asked; the text tells the way out."""


class ServerError(ConfigurationError):
    """The Redis server can't be used safely; the text tells why and the way out."""


class NotFoundError(Error):
    """No such app, function or call."""


class ExecutionError(Error):
    """A call can't be made, or its outcome can't be read here."""


class PayloadTooLargeError(ExecutionError):
    """An argument or a result is larger than ``SCALEPLUG_MAX_PAYLOAD`` allows."""


class SerializationError(ExecutionError):
    """A value can't be pickled, verified or unpickled."""


class RemoteError(Error):
    """An input failed for a reason that is not the function's own exception."""


class ContainerCrashError(RemoteError):
    """The containers that ran the input died under it, as often as is allowed, or once when it had begun a stream."""


class ContainerStartError(RemoteError):
    """No container of the function could be started."""


class InputCancelledError(RemoteError):
    """The input was cancelled before it had a result."""


class InputRefusedError(RemoteError):
    """A container could not verify or read the input and has set it aside."""


class StateLostError(RemoteError):
    """Redis no longer knows the call: it was restarted without its data, or emptied."""


class ResourceExhausted(Error):
    """A function has as many inputs as its limits allow; retry later."""


ResourceExhaustedError = ResourceExhausted


class TimeoutError(Error):
    """Root of scaleplug's own time-outs (not the builtin of the same name)."""


class FunctionTimeoutError(TimeoutError):
    """The function ran longer than its ``timeout``."""


class OutputExpiredError(TimeoutError):
    """The result is no longer kept, or never existed."""


class UserCodeException(Error):
    """Wraps an exception that a function raised; the original is its ``__cause__`` and ``.exc``."""

    def __init__(self, exc: BaseException) -> None:
        super().__init__(exc)
        self.exc = exc
        self.__cause__ = exc


class InputCancellation(BaseException):
    """Raised inside a running function when its input is cancelled; let it pass."""


class AsyncUsageWarning(UserWarning):
    """A blocking method was called in an event loop, which stands still meanwhile: await its ``.aio`` instead."""


def did_you_mean(name: str, names: Iterable[str], cutoff: float = 0.5) -> str:
    """Return `: did you mean ...?` with the names that are near, or else all of a few."""
    names = list(names)
    near = difflib.get_close_matches(name, names, n=3, cutoff=cutoff)
    if near:
        return f": did you mean {listed(near, 'or')}?"
    return f": there is {listed(names)}" if 0 < len(names) <= 6 else ""


def listed(names: Collection[str], word: str = "and", most: int = 6) -> str:
    """Return names as they are said: `a, b and c`."""
    said = list(names)
    if len(said) > most:
        return f"{', '.join(said[:most])} {word} {len(said) - most} more"
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} {word} {said[-1]}" if said else "nothing"


def note_attempts(exc: BaseException, attempts: int) -> None:
    """Write on the last exception of an input how often it was tried."""
    note = f"It was tried {attempts} times: its retries are used up."
    if attempts > 1 and note not in getattr(exc, "__notes__", ()):  # the same object may be raised again and again
        with contextlib.suppress(Exception):  # whatever a class makes of its notes
            exc.add_note(note)
