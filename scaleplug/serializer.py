"""Sign, verify and pickle what travels through Redis.

A sealed value is ``b"sp1" | purpose | python major, minor | context length | context | payload | HMAC-SHA256``. The
key is derived from the secret for each purpose, and the context says what the value is for (``task|id`` for an input,
``call|index`` for an outcome), so that a genuine value can't be passed off as another. Nothing is unpickled before
its signature, its context and its Python version have been checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import reprlib
import struct
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from pickle import Pickler, PicklingError, dumps
from types import TracebackType
from typing import Any, Final

import cloudpickle
from kombu.serialization import register
from tblib import pickling_support

from scaleplug import __version__
from scaleplug.errors import ConfigurationError, Error, ExecutionError, RemoteError, SerializationError
from scaleplug.packing import PACK, indices_of, outcomes_context, take_apart
from scaleplug.settings import process_config

CONTENT_TYPE = "application/x-scaleplug"
NAME = "scaleplug"

INPUT, OUTPUT, REGISTRY, CODE, VALUE = b"i", b"o", b"r", b"c", b"v"
APART = b"\0"
"""Begins a payload that only tells where a large value is kept (``blobs.py``); no pickle begins so."""

_MAGIC = b"sp1"
_HEAD = struct.Struct(">3scBBH")
_MAC = hashlib.sha256().digest_size
_PYTHON = sys.version_info[:2]
MIN_SECRET = 32
SHORT = 80
MASKED = "..."
"""Stands where an argument would be shown."""
MOST_FRAMES = 100
"""Frames of an exception that travel at least; of more, the pickler may run out of stack."""
_short = reprlib.Repr()
_short.maxstring = _short.maxother = SHORT


class Keyring:
    """The keys made from ``SCALEPLUG_SECRET``: the first signs, all verify."""

    def __init__(self, secret: str | None) -> None:
        if not secret:
            raise ConfigurationError(
                "SCALEPLUG_SECRET is not set: payloads are signed with it. Set the same value for every caller, "
                'controller and container; make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        secrets = [part.strip() for part in secret.split(",")]
        if any(len(part) < MIN_SECRET for part in secrets):
            raise ConfigurationError(
                f"SCALEPLUG_SECRET is too short: each secret needs at least {MIN_SECRET} characters; "
                'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        # Copying a prepared one is cheaper than keying one for every payload.
        self._prepared = [
            {
                p: hmac.new(hmac.digest(part.encode(), b"scaleplug/1/" + p, "sha256"), digestmod="sha256")
                for p in (INPUT, OUTPUT, REGISTRY, CODE, VALUE)
            }
            for part in secrets
        ]

    def seal(self, purpose: bytes, context: str, payload: bytes) -> bytes:
        """Return ``payload`` signed for ``purpose`` and ``context``."""
        where = context.encode()
        head = _HEAD.pack(_MAGIC, purpose, _PYTHON[0], _PYTHON[1], len(where)) + where
        mac = self._prepared[0][purpose].copy()
        mac.update(head)
        mac.update(payload)
        return b"".join((head, payload, mac.digest()))

    def unseal(self, purpose: bytes, context: str | None, sealed: bytes) -> bytes:
        """Return the payload, or raise SerializationError that tells what does not hold."""
        payload, found = self._verify(purpose, sealed)
        if context is not None and found != context:
            raise SerializationError(f"it was signed for {found!r}, not for {context!r}")
        return payload

    def _verify(self, purpose: bytes, sealed: bytes) -> tuple[bytes, str]:
        if sealed[:2] == _MAGIC[:2] and sealed[2:3].isdigit() and sealed[:3] != _MAGIC:
            raise SerializationError(
                f"it is in the format {bytes(sealed[2:3]).decode()} of another version of scaleplug, and this one"
                f" ({__version__}) knows the format {_MAGIC[2:].decode()}: install the same version everywhere"
            )
        if len(sealed) < _HEAD.size + _MAC or sealed[:3] != _MAGIC:
            raise SerializationError("it is not a signed scaleplug payload")
        _, marked, major, minor, length = _HEAD.unpack_from(sealed)
        body, mac = memoryview(sealed)[:-_MAC], sealed[-_MAC:]
        same = [hmac.compare_digest(_mac_of(prepared[purpose], body), mac) for prepared in self._prepared]
        if marked != purpose or not any(same):
            raise SerializationError("its signature does not verify: is SCALEPLUG_SECRET the same everywhere?")
        if (major, minor) != _PYTHON and purpose != REGISTRY:  # a registration is JSON
            raise SerializationError(
                f"it was pickled by Python {major}.{minor}, and this is Python {_PYTHON[0]}.{_PYTHON[1]}: "
                "run callers and containers with the same minor version"
            )
        end = _HEAD.size + length
        return bytes(body[end:]), bytes(body[_HEAD.size : end]).decode()

    def __repr__(self) -> str:
        return f"<Keyring of {len(self._prepared)}>"


def _mac_of(prepared: hmac.HMAC, body: memoryview) -> bytes:
    mac = prepared.copy()
    mac.update(body)
    return mac.digest()


class _NotPlainError(Exception):
    """What is pickled holds more than builtin data."""


EMBED: Final[dict[str, Any]] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
"""What Celery sends beside the arguments of a call that is part of nothing else."""
_PLAIN: Final = frozenset((int, float, bool, type(None), str, bytes))


class _PlainPickler(Pickler):
    """Pickles builtin data as cloudpickle does, byte for byte, in half the time; anything else is left to that."""

    def reducer_override(self, _: Any) -> Any:
        raise _NotPlainError


def pickle_plain(value: Any) -> bytes:
    """Return ``value`` pickled, as cloudpickle does it; raises what that does."""
    buffer = io.BytesIO()
    try:
        _PlainPickler(buffer, cloudpickle.DEFAULT_PROTOCOL).dump(value)
    except _NotPlainError:
        return bytes(cloudpickle.dumps(value))
    return buffer.getvalue()


PASS = "Pass plain data, or make the object inside the function"
RETURN = "Return plain data, or what is needed to make the object again"


def shows_arguments() -> bool:
    """Return whether people may see what functions are called with (``SCALEPLUG_SHOW_ARGUMENTS``)."""
    try:
        return bool(process_config().show_arguments)
    except Error:  # something else in the environment is wrong, and told where it matters
        return False


def shortly(value: Any) -> str:
    """Return a value's repr cut to one short line, whatever it does when it is asked for one."""
    try:
        text = " ".join(_short.repr(value).split())
    except Exception:  # noqa: BLE001  # whatever a class's own __repr__ does
        return f"<{type(value).__qualname__}>"
    return text if len(text) <= SHORT else f"{text[:SHORT]}..."


def pickle(value: Any, what: str, *, advice: str = PASS) -> bytes:
    """Return ``value`` pickled; the error names ``what`` it was."""
    try:
        return pickle_plain(value)
    except Exception as exc:
        raise unpicklable(what, value, exc, advice=advice) from exc


def pickle_call(function: str, args: Sequence[Any], kwargs: Mapping[str, Any], *rest: Any) -> bytes:
    """Return ``(args, kwargs, *rest)`` pickled; the error names the function and the argument."""
    try:
        bare = type(args) is tuple and type(kwargs) is dict and not kwargs  # others' classes may have no name elsewhere
        if bare and rest == (EMBED,) and _PLAIN.issuperset(map(type, args)):
            return dumps((args, kwargs, EMBED), cloudpickle.DEFAULT_PROTOCOL)  # the same bytes, at once
        return pickle_plain((args, kwargs, *rest))
    except Exception as exc:
        raise unpicklable_call(function, args, kwargs, exc) from exc


def unpicklable(what: str, value: Any, exc: BaseException, *, advice: str) -> SerializationError:
    """Return the error for a value that can't be pickled for the reason ``exc``."""
    if advice == RETURN:
        what += f", {_told(value)},"
    return SerializationError(f"{what} can't be pickled: {type(exc).__name__}: {exc}. {advice}")


def unpicklable_call(
    function: str, args: Sequence[Any], kwargs: Mapping[str, Any], exc: Exception
) -> SerializationError:
    """Return the error for a call that can't be pickled for the reason ``exc``: it names the argument."""
    named = [(str(position), value) for position, value in enumerate(args, 1)]
    for name, value in [*named, *((repr(name), value) for name, value in kwargs.items())]:
        try:
            cloudpickle.dumps(value)
        except Exception as own:  # noqa: BLE001  # whatever a class's own pickling does
            return unpicklable(f"argument {name} of {function}, {_told(value)},", value, own, advice=PASS)
    return unpicklable(f"an argument of {function}", None, exc, advice=PASS)


def _told(value: Any) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"a {name} ({shortly(value)})" if shows_arguments() else f"a {name}"


def is_apart(sealed: bytes) -> bool:
    """Return whether a sealed payload says that it only stands for a large value; nothing is verified here."""
    begin = _HEAD.size + int.from_bytes(sealed[_HEAD.size - 2 : _HEAD.size], "big")
    return sealed[begin : begin + 1] == APART


def is_packed(sealed: bytes) -> bool:
    """Return whether a sealed payload says that it holds several; nothing is verified here."""
    begin = _HEAD.size + int.from_bytes(sealed[_HEAD.size - 2 : _HEAD.size], "big")
    return sealed[begin : begin + 1] == PACK


def packed_indices(sealed: bytes) -> Sequence[int]:
    """Return the indices of the inputs that ended together; nothing is verified here."""
    return indices_of(sealed, _HEAD.size)


# -- the kombu serializer: inputs sent through Celery's own calls --------------------------------------------------

Fetch = Callable[[bytes], tuple[Any, list[Any]]]
"""Returns the pickle and the buffers of the large value for which a payload stands."""

Pack = Callable[[Any], bytes]
"""Returns the payload of an input's arguments."""

_keyring: Keyring | None = None
_take: Callable[[bytes], Any] | None = None
_sealing: ContextVar[tuple[str, Pack] | None] = ContextVar("scaleplug_sealing", default=None)


def use_keyring(keyring: Keyring) -> None:
    """Let this process's kombu serializer sign and verify with ``keyring``."""
    global _keyring  # noqa: PLW0603  # kombu's registry of serializers is one per process too
    _keyring = keyring


def use_large_arguments(take: Callable[[bytes], Any]) -> None:
    """Let this process read inputs whose arguments are kept apart: ``take`` returns those of a reference."""
    global _take  # noqa: PLW0603  # as above
    _take = take


def input_context(task: str, input_id: str, pool: str) -> str:
    """Return the context under which an input is signed: for one task, on the queue of one pool."""
    return f"{task}|{input_id}" if pool == task else f"{task} on {pool}|{input_id}"


def _pack(task: str, value: Any) -> bytes:
    args, kwargs, *rest = value  # the body of Celery's messages
    return pickle_call(task, args, kwargs, *rest)


@contextlib.contextmanager
def sealing(task: str, input_id: str, pool: str, pack: Pack | None = None) -> Iterator[None]:
    """Sign what kombu serializes inside as the body of one input; ``pack`` stands in for pickling it."""
    token = _sealing.set((input_context(task, input_id, pool), pack or partial(_pack, task)))
    try:
        yield
    finally:
        _sealing.reset(token)


def _need_keyring() -> Keyring:
    if _keyring is None:
        raise ConfigurationError(
            "this process has no SCALEPLUG_SECRET: it can neither sign nor verify scaleplug payloads"
        )
    return _keyring


def _dumps(value: Any) -> bytes:
    sealing_now = _sealing.get()
    if sealing_now is None:
        return _need_keyring().seal(VALUE, "", pickle(value, "the value", advice=RETURN))
    context, pack = sealing_now
    return _need_keyring().seal(INPUT, context, pack(value))


def _loads(sealed: Any) -> Any:
    data = bytes(sealed) if not isinstance(sealed, str) else sealed.encode()
    purpose = INPUT if data[3:4] == INPUT else VALUE
    payload = _need_keyring().unseal(purpose, None, data)
    try:
        if payload[:1] != APART:
            return cloudpickle.loads(payload)
        if _take is not None:
            return _take(payload)
    except SystemExit as exc:  # such as that of a script which is imported for it: it would end the process
        raise PicklingError(f"SystemExit: {exc}") from exc
    raise SerializationError("it stands for a large value, which only a container of the function can fetch")


register(NAME, _dumps, _loads, content_type=CONTENT_TYPE, content_encoding="binary")


# -- outcomes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception on its way: pickled where that works, and as text in any case."""

    pickled: bytes | None
    type_name: str
    message: str
    traceback: str
    problem: str = ""
    """Why it isn't pickled."""

    @classmethod
    def of(cls, exc: BaseException) -> Failure:
        """Return ``exc`` ready to travel, with its frames, cause and attributes where they can be pickled."""
        text = "".join(traceback.format_exception(exc))
        name = type(exc).__qualname__
        if type(exc).__module__ != "builtins":
            name = f"{type(exc).__module__}.{name}"
        pickled, problem = _pickled_exception(exc)
        try:
            message = str(exc)
        except Exception:  # noqa: BLE001  # whatever a class's own __str__ does
            message = "(its text can't be shown)"
        return cls(pickled, name, message, text, problem)

    def exception(self) -> BaseException:
        """Return the exception itself, or a RemoteError with its type, text and traceback."""
        what = f"It could not be pickled in its container ({getattr(self, 'problem', '')})"  # '' of an older scaleplug
        if self.pickled is not None:
            try:
                exc = cloudpickle.loads(self.pickled)
            except Exception as problem:  # noqa: BLE001  # whatever a class's own unpickling does
                what = f"It could not be unpickled here ({_text_of(problem)})"
            else:
                if isinstance(exc, BaseException):
                    return exc
        error = RemoteError(f"{self.type_name}: {self.message}")
        error.add_note(f"{what}, so its type, text and traceback are told instead:\n{self.traceback}")
        return error


def _pickled_exception(exc: BaseException) -> tuple[bytes | None, str]:
    """Return an exception pickled, or ``None`` and why it can't be."""
    try:
        pickling_support.install(exc)
        try:
            pickled = bytes(cloudpickle.dumps(exc))
        except (RecursionError, PicklingError):  # each frame of a traceback costs the pickler several
            if not _shorten(exc.__traceback__):
                raise
            pickled = bytes(cloudpickle.dumps(exc))
        cloudpickle.loads(pickled)  # some classes pickle and then can't be built again
    except Exception as problem:  # noqa: BLE001  # whatever a class's own pickling does
        return None, _text_of(problem)
    return pickled, ""


def _shorten(frames: TracebackType | None) -> bool:
    """Cut a long traceback off; return whether it was long."""
    for _ in range(MOST_FRAMES):
        if frames is None:
            return False
        frames = frames.tb_next
    if frames is None or frames.tb_next is None:
        return False
    frames.tb_next = None
    return True


def _text_of(exc: BaseException) -> str:
    try:
        return f"{type(exc).__name__}: {exc}"
    except Exception:  # noqa: BLE001  # whatever a class's own __str__ does
        return type(exc).__name__


def seal_value(keyring: Keyring, context: str, value: Any, function: str) -> bytes:
    """Return the sealed outcome of an input that returned ``value``; an unpicklable value becomes a failure.

    It is in one piece, however large it is; a container's outcomes are sealed in ``worker/payloads.py``.
    """
    try:
        payload = b"+" + pickle(value, f"what {function} returned", advice=RETURN)
    except SerializationError as exc:
        return seal_failure(keyring, context, exc)
    return keyring.seal(OUTPUT, context, payload)


def seal_failure(keyring: Keyring, context: str, exc: BaseException) -> bytes:
    """Return the sealed outcome of an input that raised ``exc``."""
    return keyring.seal(OUTPUT, context, b"-" + pickle_failure(exc))


def pickle_failure(exc: BaseException, most: int | None = None) -> bytes:
    """Return an exception as it travels; what would take more than ``most`` bytes travels as text."""
    failure = Failure.of(exc)
    if most is not None and failure.pickled is not None and len(failure.pickled) > most:
        failure = replace(failure, pickled=None)
    return bytes(cloudpickle.dumps(failure))


def open_outcome(keyring: Keyring, context: str, sealed: bytes, fetch: Fetch | None = None) -> tuple[bool, Any]:
    """Return ``(True, value)`` or ``(False, exception)`` of a sealed outcome; ``fetch`` finds large ones."""
    buffers: list[Any] = []
    try:
        payload = keyring.unseal(OUTPUT, context, sealed)
        mark, pickled = payload[:1], payload[1:]
        if mark == APART and fetch is not None:
            mark = payload[1:2]
            pickled, buffers = fetch(payload)
    except SerializationError as exc:
        return False, ExecutionError(f"the result could not be read: {exc}")
    return _open(mark, pickled, buffers)


def _open(mark: bytes, pickled: Any, buffers: Sequence[Any] = ()) -> tuple[bool, Any]:
    try:
        value = cloudpickle.loads(pickled, buffers=buffers)
    except Exception as exc:  # noqa: BLE001  # whatever a class's own unpickling does
        error = ExecutionError(f"the result could not be unpickled here: {type(exc).__name__}: {exc}")
        error.__cause__ = exc
        return False, error
    if mark == b"-":
        return False, value.exception() if isinstance(value, Failure) else RemoteError(repr(value))
    return True, value


def open_outcomes(keyring: Keyring, call: str, sealed: bytes) -> list[tuple[int, bytes]]:
    """Return the index and the outcome of each input of a call that ended together; raises SerializationError."""
    parts, indices = take_apart(keyring.unseal(OUTPUT, outcomes_context(call), sealed), numbered=True)
    return list(zip(indices, parts, strict=True))


def open_part(outcome: bytes) -> tuple[bool, Any]:
    """Return ``(True, value)`` or ``(False, exception)`` of one of them."""
    return _open(outcome[:1], memoryview(outcome)[1:])
