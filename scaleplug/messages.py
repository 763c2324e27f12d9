"""Build the messages of many inputs at once, byte for byte what Celery's ``apply_async`` would have sent.

(But for when they were sent, which the transport adds to Celery's own too.)
One message is published through Celery for real, into a recording channel; the others are made from it by exchanging
what differs. Where somebody listens to ``before_task_publish`` each message goes the long way, since a listener may
change it.
"""

from __future__ import annotations

import json
import re
from binascii import b2a_base64
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from secrets import token_hex
from typing import Any

from celery import Task
from celery.signals import after_task_publish, before_task_publish
from kombu import Connection

from scaleplug.blobs import LARGE, Drafts, check_size, weigh_call
from scaleplug.packing import join, pack_id
from scaleplug.serializer import EMBED, INPUT, Keyring, input_context, pickle_call
from scaleplug.transport import Channel, PlainProducer, Transport

_CALL, _ID, _BODY, _TAG = "@scaleplug-call@", "@scaleplug-id@", "@scaleplug-body@", "@scaleplug-tag@"
_INDEX, _KEEP, _PACK, _SENT = 8_765_432_101, 8_765_432_102, 8_765_432_103, 8_765_432_104
_MARKS = {
    _CALL: "call", _ID: "id", _BODY: "body", _TAG: "tag",
    str(_INDEX): "index", str(_KEEP): "keep", str(_PACK): "pack", str(_SENT): "sent",
}  # fmt: skip


class _RecordingChannel(Channel):
    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:  # noqa: ARG002
        self.connection.recorded.append(message)


class _RecordingTransport(Transport):
    Channel = _RecordingChannel

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        self.recorded: list[dict[str, Any]] = client.transport_options["recorded"]


def record(task: Task, task_id: str, options: Mapping[str, Any], args: Any = (), kwargs: Any = None) -> dict[str, Any]:
    """Return the message that ``apply_async`` would put on the queue, without putting it there."""
    recorded: list[dict[str, Any]] = []
    carried = {"recorded": recorded, "store": None, "most_pending": 0}
    connection = Connection(transport=_RecordingTransport, transport_options=carried)
    producer = PlainProducer(connection)
    unchecked = object.__new__(type(task))  # copy.copy would return the task itself
    unchecked.__dict__.update(task.__dict__, typing=False, recording=True)
    unchecked.apply_async(args, kwargs or {}, task_id=task_id, producer=producer, argsrepr="", kwargsrepr="", **options)
    return recorded[0]


class _Template:
    """A text with places to fill, in less time than formatting it takes."""

    def __init__(self, text: str, marks: Mapping[str, str]) -> None:
        parts = re.split(f"({'|'.join(map(re.escape, marks))})", text)
        self._parts, self._values_of = parts, itemgetter(*(marks[mark] for mark in parts[1::2]))

    def fill(self, values: Mapping[str, str]) -> str:
        """Return the text with the value of each place."""
        parts = self._parts.copy()
        parts[1::2] = self._values_of(values)
        return "".join(parts)


class MessageFactory:
    """Makes the messages of one function's calls in one calling context."""

    def __init__(self, task: Task, keyring: Keyring, caller: str, pool: str, version: str = "") -> None:
        self.task, self.keyring, self.caller, self.pool, self.version = task, keyring, caller, pool, version
        self.clock: Callable[[], float] = float
        """Returns Redis's time, 0 while it isn't known: when an input was sent, for the histogram of waits."""
        self._templates: dict[tuple[bool, bool, bool, str, str], _Template] = {}

    def make(
        self,
        call: str,
        inputs: Sequence[tuple[int, tuple[Any, ...], Mapping[str, Any]]],
        *,
        many: bool,
        keep: int,
        drafts: Drafts | None = None,
    ) -> list[str]:
        """Return one message per (index, args, kwargs); ``drafts`` keeps large arguments apart."""
        made: list[str] = []
        check = getattr(self.task, "__header__", None) if self.task.typing else None
        template, tag = self._template(many, keep) if self.unheard else None, token_hex(12)
        values = self._values(call, keep)
        for count, (index, args, kwargs) in enumerate(inputs):
            if check is not None:
                check(*args, **kwargs)  # the TypeError of a plain call, here and not in a container
            input_id = f"{call}:{index}" if many else call
            body = self._body(count, input_id, (args, dict(kwargs), EMBED), drafts)
            if template is None:
                made.append(self._long_way(call, index, input_id, body, many, keep))
                continue
            values["id"], values["body"], values["index"] = input_id, body, str(index)
            values["tag"] = f"{tag}{count:012x}"
            made.append(template.fill(values))
        return made

    def make_one(
        self, call: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, keep: int, limit: int
    ) -> str | bytes | None:
        """Return the message of a call with one input of at most ``limit`` bytes.

        It is ``None`` where :meth:`make` has to make it: its arguments are large, or somebody listens. Those that turn
        out large when they have been pickled are returned so.
        """
        if not self.unheard or weigh_call(args, kwargs) >= LARGE:
            return None
        if self.task.typing:
            self.task.__header__(*args, **kwargs)
        payload = pickle_call(self.task.name, args, dict(kwargs), EMBED)
        if len(payload) >= LARGE:
            return payload
        check_size(f"an argument of {self.task.name}", len(payload), limit)
        values = self._values(call, keep)
        values["id"] = values["tag"] = call
        values["index"], values["body"] = "0", self._sealed(call, payload)
        return self._template(False, keep).fill(values)

    @property
    def unheard(self) -> bool:
        """Whether nobody listens to Celery's signals, who would have to be told of each input by itself."""
        return not before_task_publish.receivers and not after_task_publish.receivers

    def parts(self, inputs: Sequence[tuple[int, tuple[Any, ...], Mapping[str, Any]]]) -> list[bytes]:
        """Return each input as a part of a pack."""
        check = getattr(self.task, "__header__", None) if self.task.typing else None
        made: list[bytes] = []
        for _, args, kwargs in inputs:
            if check is not None:
                check(*args, **kwargs)
            made.append(pickle_call(self.task.name, args, dict(kwargs), EMBED))
        return made

    def make_single(self, call: str, index: int, part: bytes) -> str:
        """Return the message of one input of a map, as it is outside of a pack."""
        input_id = f"{call}:{index}"
        body, tag = self._sealed(input_id, part), token_hex(18)
        return self._template(True, 0).fill(
            {**self._values(call, 0), "id": input_id, "index": str(index), "body": body, "tag": tag}
        )

    def make_pack(self, call: str, first: int, parts: Sequence[bytes]) -> str:
        """Return one message for inputs of a map that follow each other."""
        new, tag, pack = pack_id(call, first, len(parts)), token_hex(18), str(len(parts))
        body = self._sealed(new, join(parts))
        return self._template(True, 0, packed=True).fill(
            {**self._values(call, 0), "id": new, "index": str(first), "pack": pack, "body": body, "tag": tag}
        )

    def _body(self, position: int, input_id: str, value: tuple[Any, ...], drafts: Drafts | None) -> str:
        payload = pickle_call(self.task.name, *value) if drafts is None else drafts.pack(position, input_id, value)
        return self._sealed(input_id, payload)

    def _sealed(self, input_id: str, payload: bytes) -> str:
        sealed = self.keyring.seal(INPUT, input_context(self.task.name, input_id, self.pool), payload)
        return b2a_base64(sealed, newline=False).decode()

    def _values(self, call: str, keep: int) -> dict[str, str]:
        """Return what the messages of a call have in common."""
        return {"call": call, "keep": str(keep), "sent": f"{self.clock():.3f}"}

    def _template(self, many: bool, keep: int, packed: bool = False) -> _Template:
        """Return what the messages of such a call look like."""
        current = self.task.app.current_task
        parent = current.request if current else None
        root, parent_id = (parent.root_id or "", parent.id or "") if parent else ("", "")
        which = (many, keep > 0, packed, root, parent_id)
        template = self._templates.get(which)
        if template is None:
            if len(self._templates) > 64:
                self._templates.clear()
            template = self._templates[which] = self._make_template(many, _KEEP if keep else 0, packed)
        return template

    def _options(self, call: str, index: int, many: bool, keep: int, packed: bool = False) -> dict[str, Any]:
        # A spawned input outlives its caller: who waits for it says so later.
        reply = {"call": call, "index": index, "caller": "" if keep else self.caller, "keep": keep}
        if packed:
            reply["pack"] = _PACK
        if self.version:
            reply["version"] = self.version
        options: dict[str, Any] = {"headers": {"scaleplug": reply}, "ignore_result": True}
        if many:
            options.update(group_id=call, group_index=index)
        return options

    def _make_template(self, many: bool, keep: int, packed: bool) -> _Template:
        message = record(self.task, _ID, self._options(_CALL, _INDEX, many, keep, packed))
        message["body"] = _BODY
        message["properties"].update(delivery_tag=_TAG, sent=_SENT)
        return _Template(json.dumps(message), _MARKS)

    def _long_way(self, call: str, index: int, input_id: str, body: str, many: bool, keep: int) -> str:
        message = record(self.task, input_id, self._options(call, index, many, keep))
        message["body"] = body
        message["properties"]["sent"] = _SENT
        return json.dumps(message).replace(str(_SENT), f"{self.clock():.3f}")
