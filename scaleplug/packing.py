"""Packs: many short inputs in one message, and their outcomes in one entry of the caller's inbox.

Each input, and each outcome, is pickled by itself, so that nothing is shared between them and one that can't be read
fails alone; what they travel in is signed once. A pack's id is that of its first input and how many they are:
``CALL:FIRST+COUNT``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from scaleplug.errors import SerializationError

PACK: Final = b"\1"
"""Begins the payload of a pack; no pickle begins so."""
SECONDS: Final = 0.010
"""So much work goes into a pack, and so much is taken at once by a container that runs inputs one after the other."""
MOST: Final = 1_000
LEAST: Final = 4
"""Fewer inputs are not worth a pack."""
SHORT: Final = 0.005
"""Inputs that take as long as this are never packed."""
PACK_BYTES: Final = 256 * 1024
ENOUGH: Final = 5
"""So many inputs must have ended for their time to say something."""
PER_CONTAINER: Final = 4
"""So many packs are to be there for every container, as far as inputs are."""


def pack_id(call: str, first: int, count: int) -> str:
    """Return the id of a pack."""
    return f"{call}:{first}+{count}"


def join(parts: Sequence[bytes], numbers: Sequence[int] = ()) -> bytes:
    """Return the payload that holds ``parts``, with a number for each where they have any."""
    head = struct.pack(f">I{len(parts)}I{len(numbers)}I", len(parts), *map(len, parts), *numbers)
    return b"".join((PACK, head, *parts))


def take_apart(payload: bytes, *, numbered: bool = False) -> tuple[list[bytes], Sequence[int]]:
    """Return the parts of a verified payload and their numbers; raises SerializationError."""
    try:
        (count,) = struct.unpack_from(">I", payload, 1)
        lengths = struct.unpack_from(f">{count}I", payload, 5)
        numbers = struct.unpack_from(f">{count}I", payload, 5 + 4 * count) if numbered else ()
    except struct.error:
        raise SerializationError("it is no whole pack") from None
    at, parts = 5 + 4 * count + 4 * len(numbers), []
    for length in lengths:
        parts.append(payload[at : at + length])
        at += length
    if at != len(payload):
        raise SerializationError("it is no whole pack")
    return parts, numbers


def indices_of(sealed: bytes, head: int) -> Sequence[int]:
    """Return the indices in sealed outcomes that travel together, whose seal's head has ``head`` bytes; unverified."""
    begin = head + int.from_bytes(sealed[head - 2 : head], "big") + 1
    try:
        (count,) = struct.unpack_from(">I", sealed, begin)
        return struct.unpack_from(f">{min(count, MOST)}I", sealed, begin + 4 + 4 * count)
    except struct.error:
        return ()


def outcomes_context(call: str) -> str:
    """Return the context under which outcomes that travel together are signed; which they are is inside."""
    return f"{call}|pack"


def single(message: Mapping[str, Any], index: int, body: str) -> tuple[str, dict[str, Any]]:
    """Return the id and the message of one input of a pack; ``body`` is its own, sealed for that id."""
    headers = dict(message["headers"])
    reply = {k: v for k, v in headers["scaleplug"].items() if k != "pack"} | {"index": index}
    input_id = f"{reply['call']}:{index}"
    return input_id, _changed(message, headers, input_id, reply, body)


def smaller(message: Mapping[str, Any], first: int, count: int, body: str) -> tuple[str, dict[str, Any]]:
    """Return the id and the message of a pack of some of a pack's inputs."""
    headers = dict(message["headers"])
    known = headers["scaleplug"]
    reply = {name: known[name] for name in ("call", "index", "caller", "keep")} | {"index": first, "pack": count}
    if "version" in known:
        reply["version"] = known["version"]
    new = pack_id(reply["call"], first, count)
    return new, _changed(message, headers, new, reply, body)


def _changed(
    message: Mapping[str, Any], headers: dict[str, Any], new: str, reply: dict[str, Any], body: str
) -> dict[str, Any]:
    headers.update(id=new, scaleplug=reply, group_index=reply["index"])
    if headers.get("root_id") == message["headers"]["id"]:
        headers["root_id"] = new
    properties = {**message["properties"], "correlation_id": new, "delivery_tag": new}
    return {**{k: message[k] for k in ("content-encoding", "content-type")}, "headers": headers,
            "properties": properties, "body": body}  # fmt: skip


class Counts(Protocol):
    """What is known of a function's inputs: how many were timed, how long they took, and its containers."""

    @property
    def timed(self) -> int:
        """Inputs that were timed."""

    @property
    def microseconds(self) -> int:
        """What they took together."""

    @property
    def containers(self) -> int:
        """Containers that are there or start."""


class Pace:
    """How long a function's inputs take, as a caller sees it."""

    def __init__(self) -> None:
        self.service: float | None = None
        """Seconds, of the last ones; ``None`` while too few have ended."""
        self.containers = 1
        self._timed = self._microseconds = 0

    def note(self, counts: Counts) -> None:
        """Learn from what Redis has just answered."""
        self.containers = max(1, counts.containers)
        ended = counts.timed - self._timed
        if ended < 0:  # another Redis, or one without its data
            self._timed = self._microseconds = 0
            self.service = None
        elif ended >= ENOUGH:
            took = (counts.microseconds - self._microseconds) / ended / 1e6
            self.service = took if self.service is None else (self.service + took) / 2
            self._timed, self._microseconds = counts.timed, counts.microseconds


def size_for(service: float | None, containers: int, left: int | None, window: int) -> int:
    """Return how many inputs to put into a pack, 1 for none.

    ``service`` is what an input takes, in seconds; ``left`` how many inputs are still to be sent, if that is known.
    """
    if service is None or service >= SHORT:
        return 1
    most = min(window, left) if left is not None else window
    share = most // (PER_CONTAINER * max(1, containers))
    size = min(MOST, int(SECONDS / max(service, 1e-7)), share)
    return size if size >= LEAST else 1
