"""Large values: kept beside the messages in chunks, and found by a signed reference in their place.

A value whose pickle has ``LARGE`` bytes or more is written to a hash of its own. What travels instead of it is a
*reference*: the key, the sizes of the pickle's parts and the SHA-256 of every chunk, sealed like any value. So the
chunks need no signature: one that was changed, moved, left out or taken from elsewhere is not the one that was signed
for its place, and nothing is unpickled before all have been checked.

What is written is a *draft*, which expires. It becomes the argument or the outcome in the same step in which its input
is accepted or its outcome is stored.

Large buffers, such as arrays', are not copied on their way out, and are received into one block of memory.
"""

from __future__ import annotations

import contextlib
import json
import pickle as stdlib_pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from types import FunctionType, ModuleType
from typing import Any, Final
from uuid import uuid4

import cloudpickle
from redis.exceptions import OutOfMemoryError

from scaleplug.errors import PayloadTooLargeError, ResourceExhausted, SerializationError
from scaleplug.serializer import APART, OUTPUT, Keyring, is_apart, pickle_call, pickle_plain, unpicklable_call
from scaleplug.store import Admission, Store

LARGE: Final = 256 * 1024
"""Values from this size on, pickled, are kept apart."""
CHUNK: Final = 4 * 1024 * 1024
DRAFT_SECONDS: Final = 3_600
OVERHEAD: Final = 4_096
"""What pickling may add to a value that is as large as is allowed."""
MIB: Final = 1024 * 1024
HEAVY: Final = 64_000
"""What weighs more is pickled off the event loop."""
SAMPLE: Final = 12
"""How many items of a collection are looked at to guess its size."""
_SCALARS = frozenset((int, float, bool, type(None)))
_LIGHT = _SCALARS | {type, FunctionType, ModuleType}
_SIZED = frozenset((bytes, bytearray, str))
_LISTS = (tuple, list, set, frozenset)


# -- sizes ---------------------------------------------------------------------------------------------------------


def check_size(what: str, size: int, limit: int) -> None:
    """Refuse a payload of more than ``limit`` bytes."""
    if size > limit + OVERHEAD:
        raise PayloadTooLargeError(
            f"{what} takes {size:,} bytes, and {limit:,} are allowed (SCALEPLUG_MAX_PAYLOAD): "
            "pass a path or a key to where it lies, or split it"
        )


def weigh(value: Any, depth: int = 4) -> int:
    """Return about how many bytes a value holds, as far as can be told without pickling it."""
    kind = type(value)
    if kind in _LIGHT:
        return 8
    if kind in _SIZED:
        return len(value)
    if depth and (kind is tuple or kind is dict) and len(value) <= SAMPLE:  # the arguments of every call: be quick
        total = 0
        for item in value if kind is tuple else value.values():
            total += 8 if type(item) in _LIGHT else weigh(item, depth - 1)
        return total
    try:
        if hasattr(kind, "nbytes"):  # arrays, tensors, memoryviews
            return int(value.nbytes)
        if hasattr(kind, "memory_usage"):  # data frames
            return int(sum(value.memory_usage()))
        if not depth:
            return 8
        items = value if kind in _LISTS else (value if kind is dict else vars(value)).values()
        return _weigh_items(items, len(items), depth - 1)
    except Exception:  # noqa: BLE001  # whatever a class does: it is only a guess
        return 8


def weigh_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Return the same of the arguments of a call."""
    if kwargs or len(args) > SAMPLE:
        return weigh((args, dict(kwargs)))
    total = 0
    for item in args:  # what most calls have
        total += 8 if type(item) in _LIGHT else weigh(item, 2)
    return total


def looks_large(inputs: Iterable[tuple[int, tuple[Any, ...], Mapping[str, Any]]]) -> bool:
    """Tell whether pickling the arguments may hold up an event loop; never asks much of them."""
    return sum(weigh_call(args, kwargs) for _, args, kwargs in inputs) > HEAVY


def _weigh_items(items: Iterable[Any], count: int, depth: int) -> int:
    total = sum(weigh(item, depth) for item in islice(items, SAMPLE))
    return total if count <= SAMPLE else total * count // SAMPLE


# -- pickling without copies ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pickled:
    """A pickle in pieces that still lie where they lay, and the buffers that are no part of it."""

    stream: tuple[memoryview, ...]
    buffers: tuple[memoryview, ...] = ()

    @property
    def sizes(self) -> list[int]:
        """The bytes of the pickle and of each buffer."""
        return [sum(piece.nbytes for piece in self.stream), *(buffer.nbytes for buffer in self.buffers)]

    @property
    def size(self) -> int:
        """The bytes in all."""
        return sum(self.sizes)

    def joined(self) -> bytes:
        """Return it in one piece; it has no buffers apart."""
        whole = self.stream[0].obj
        return whole if len(self.stream) == 1 and isinstance(whole, bytes) else b"".join(self.stream)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """Give the bytes in pieces that are neither tiny nor much longer than ``CHUNK``."""
        small: list[memoryview] = []
        for piece in (*self.stream, *self.buffers):
            if piece.nbytes < LARGE:
                small.append(piece)
            if small and (piece.nbytes >= LARGE or sum(each.nbytes for each in small) >= LARGE):
                yield b"".join(small)
                small.clear()
            if piece.nbytes >= LARGE:
                yield from (piece[at : at + CHUNK] for at in range(0, piece.nbytes, CHUNK))
        if small:
            yield b"".join(small)


class _Pieces(list[memoryview]):
    """What a pickler writes into: large objects arrive as they are, and nothing is copied."""

    def write(self, data: Any) -> None:
        raw = data.raw() if isinstance(data, stdlib_pickle.PickleBuffer) else memoryview(data).cast("B")
        self.append(raw)


def pickle_in_pieces(value: Any, explain: Callable[[Exception], SerializationError]) -> Pickled:
    """Return ``value`` pickled; ``explain`` makes the error of it that says what it was."""
    if type(value) in _SCALARS or (type(value) is str and len(value) < LARGE):  # as the others pickle it, but sooner
        return Pickled((memoryview(stdlib_pickle.dumps(value, cloudpickle.DEFAULT_PROTOCOL)),))
    pieces, buffers = _Pieces(), []

    def keep_apart(buffer: stdlib_pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < LARGE:
            return True  # in the pickle
        buffers.append(raw)
        return False

    try:
        if weigh(value) < LARGE:
            return Pickled((memoryview(pickle_plain(value)),))
        cloudpickle.Pickler(pieces, buffer_callback=keep_apart).dump(value)
    except Exception as exc:
        raise explain(exc) from exc
    return Pickled(tuple(pieces), tuple(buffers))


# -- references ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a large value is and what it must be; ``keep``: reading it doesn't use it up."""

    key: str
    sizes: list[int]
    digests: list[str]
    keep: bool = False

    def pack(self, mark: bytes) -> bytes:
        """Return it as the payload that stands for the value."""
        return APART + mark + json.dumps([self.key, self.sizes, self.digests, self.keep]).encode()

    @classmethod
    def unpack(cls, payload: bytes) -> Reference:
        """Return what :meth:`pack` packed; the payload's signature has been verified."""
        return cls(*json.loads(payload[2:]))


class GoneError(SerializationError):
    """Nothing is there of a large value."""


Parts = tuple[memoryview, list[memoryview]]
"""A pickle and its buffers."""


class Blobs:
    """Writes, reads and drops the large values of one namespace; safe to use from several threads."""

    def __init__(self, store: Store, keyring: Keyring, limit: int) -> None:
        self.store, self.keyring, self.limit = store, keyring, limit

    def write(self, key: str, pickled: Pickled, *, mark: bytes = b"=", keep: bool = False) -> bytes:
        """Write a draft of ``key`` and return the reference; raises redis-py's errors, and leaves nothing then."""
        draft, client = self.store.keys.of("draft", key), self.store.client
        digests = []
        try:
            with ThreadPoolExecutor(1) as hasher:  # hashing and writing hold no lock that the other needs
                for position, chunk in enumerate(pickled.chunks()):
                    digests.append(hasher.submit(_digest, chunk))
                    pipe = client.pipeline(transaction=False)
                    pipe.hset(draft, str(position), chunk)  # may be repeated when its reply is lost
                    pipe.expire(draft, DRAFT_SECONDS)
                    pipe.execute()
        except BaseException:
            with contextlib.suppress(Exception):
                client.unlink(draft)
            raise
        return Reference(key, pickled.sizes, [each.result() for each in digests], keep).pack(mark)

    def read(self, payload: bytes) -> Parts:
        """Return the parts of the value that a verified reference stands for; raises SerializationError."""
        reference = Reference.unpack(payload)
        key, whole = self.store.keys.prefix + reference.key, memoryview(bytearray(sum(reference.sizes)))
        at, checks = 0, deque[Future[None]]()
        with ThreadPoolExecutor(1) as hasher:
            for position, digest in enumerate(reference.digests):
                chunk = self.store.client.hget(key, str(position))
                what = f"chunk {position + 1} of {len(reference.digests)} of {reference.key}"
                if chunk is None and position == 0:
                    raise GoneError(f"{reference.key} is gone: it has expired, or was deleted")
                if chunk is None:
                    raise SerializationError(f"{what} is missing")
                end = at + len(chunk)
                checks.append(hasher.submit(_receive, chunk, digest, whole[at:end], what))
                at = end
                if len(checks) > 2:  # no more chunks in memory than that
                    checks.popleft().result()
            for check in checks:
                check.result()
        parts, begin = [], 0
        for size in reference.sizes:
            parts.append(whole[begin : begin + size])
            begin += size
        return parts[0], parts[1:]

    def drop(self, *keys: str) -> None:
        """Delete drafts or values."""
        self.store.client.unlink(*(self.store.keys.prefix + key for key in keys))

    def renew(self, sealed: Iterable[bytes]) -> None:
        """Let large outcomes that are about to expire live for another hour, but for those that are kept anyway."""
        pipe = self.store.client.pipeline(transaction=False)
        for each in sealed:
            with contextlib.suppress(SerializationError):  # whoever reads it is told
                reference = self._reference(each)
                if not reference.keep:
                    pipe.expire(self.store.keys.prefix + reference.key, DRAFT_SECONDS)
        pipe.execute()

    def _reference(self, sealed: bytes) -> Reference:
        return Reference.unpack(self.keyring.unseal(OUTPUT, None, sealed))

    def drop_outcome(self, sealed: bytes | None) -> None:
        """Delete the large outcome that a sealed one stands for, if it does and nobody else may read it."""
        if sealed is not None and is_apart(sealed):
            reference = self._reference(sealed)
            if not reference.keep:
                self.drop(reference.key)


def _digest(chunk: bytes | memoryview) -> str:
    return sha256(chunk).hexdigest()


def _receive(chunk: bytes, digest: str, place: memoryview, what: str) -> None:
    """Put a chunk into its place if it is the right one."""
    if _digest(chunk) != digest or len(place) != len(chunk):
        raise SerializationError(f"{what} is not the one that was signed for its place")
    place[:] = chunk


def argument_key(input_id: str) -> str:
    """Return the name of an input's large arguments, without the namespace's prefix; the scripts know it too."""
    return f"argument:{input_id}"


def outcome_key(call: str, index: int) -> str:
    """Return a new name for a large outcome: two containers that run an input must not write the same."""
    return f"outcome:{call}:{index}:{uuid4().hex[:12]}"


# -- the caller's side ---------------------------------------------------------------------------------------------


class NoRoomError(Exception):
    """The function has as many inputs as its limits allow: nothing large is written for it."""

    def __init__(self, admission: Admission) -> None:
        super().__init__(admission)
        self.admission = admission


submission: ContextVar[Drafts | None] = ContextVar("scaleplug_submission", default=None)
"""The drafts of what this thread is about to send through Celery."""


class Drafts:
    """The large arguments of one submission, from their writing until it is accepted; a context that tidies up."""

    def __init__(self, blobs: Blobs, function: str, need_room: Callable[[], object]) -> None:
        self.blobs, self.function = blobs, function
        self._need_room = need_room
        """Called before the first large argument is written; what it raises keeps that from happening."""
        self._keys: dict[int, str] = {}
        self.pickled: bytes | None = None
        """The pickle of its one input, where that has been made: it may take long, and be done only once."""

    def pack(self, position: int, input_id: str, value: Any) -> bytes:
        """Return the payload of the ``position``-th input of the submission: its pickle, or a reference.

        ``value`` is the body of a message: positional and keyword arguments, and what else Celery puts there.
        """
        what = f"an argument of {self.function}"
        if weigh_call(value[0], value[1]) < LARGE:
            payload = pickle_call(self.function, *value) if self.pickled is None else self.pickled
            if len(payload) < LARGE:
                check_size(what, len(payload), self.blobs.limit)
                return payload
            pickled = Pickled((memoryview(payload),))
        else:
            pickled = pickle_in_pieces(value, lambda exc: unpicklable_call(self.function, value[0], value[1], exc))
        check_size(what, pickled.size, self.blobs.limit)
        if pickled.size < LARGE:
            return pickled.joined()
        if not self._keys:
            self._need_room()
        key = self._keys[position] = argument_key(input_id)
        try:
            return self.blobs.write(key, pickled)
        except OutOfMemoryError:
            raise ResourceExhausted(
                f"Redis is out of memory: {what}, {pickled.size / MIB:.4g} MiB, can't be kept. "
                "Retry later, raise its maxmemory, or pass less at once"
            ) from None

    def keys(self) -> list[str]:
        """Return what ``Store.submit`` takes: the name of the draft of each input, '' for none, as far as needed."""
        return [self._keys.get(position, "") for position in range(max(self._keys, default=-1) + 1)]

    def __enter__(self) -> Drafts:
        return self

    def __exit__(self, *_: object) -> None:
        if self._keys:
            with contextlib.suppress(Exception):  # they expire
                self.blobs.drop(*(f"draft:{key}" for key in self._keys.values()))
