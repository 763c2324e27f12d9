"""The kombu transport of functions' queues.

A caller publishes through it (one script checks the limits, queues the input and rings the controller); a container
consumes through it. It is synchronous, so that a Celery worker drives it with its plain blocking loop. Consuming is
done by an :class:`Intake` (``worker/intake.py``): this file only fits it into kombu's shapes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from kombu import Producer
from kombu.transport import virtual

from scaleplug.blobs import submission
from scaleplug.errors import ResourceExhausted
from scaleplug.store import Admission, Store

_ID = re.compile(rb'"id": "([^"]*)"')


class Intake(Protocol):
    """What a consuming transport needs: messages in, acknowledgements out."""

    def take(self, timeout: float) -> dict[str, Any] | None:
        """Return the next claimed message, or ``None`` after ``timeout`` seconds or a signal."""

    def finish(self, tag: str) -> None:
        """Acknowledge a message and store its outcome."""

    def requeue(self, tag: str) -> None:
        """Put a message back at the head of its queue."""


def exhausted(function: str, admission: Admission, most_pending: int, most_total: int) -> ResourceExhausted:
    """Return the error that tells which limit a function has reached."""
    if most_total and admission.pending < most_pending:
        what = f"{admission.pending + admission.running} inputs pending and running, and {most_total} are allowed"
        return ResourceExhausted(f"{function} has {what} (SCALEPLUG_MAX_TOTAL): retry later")
    which = "SCALEPLUG_MAX_PENDING" if most_total else "SCALEPLUG_MAX_SPAWNED"
    return ResourceExhausted(
        f"{function} has {admission.pending} inputs pending, and {most_pending} are allowed ({which}): retry later"
    )


class PlainProducer(Producer):  # type: ignore[misc]
    """Leaves bodies as they were signed, also where a project compresses those of all its tasks."""

    def publish(self, body: Any, *args: Any, compression: Any = None, **options: Any) -> Any:  # noqa: ARG002
        """Publish a message."""
        return super().publish(body, *args, **options)


class QoS(virtual.QoS):  # type: ignore[misc]  # kombu has no types
    """Acknowledge through the intake; nothing is kept here to be restored."""

    restore_at_shutdown = False

    def ack(self, delivery_tag: str) -> None:
        """Finish the input."""
        self.channel.connection.intake.finish(delivery_tag)
        self._let_go(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Requeue the input, or finish it without an outcome."""
        intake = self.channel.connection.intake
        intake.requeue(delivery_tag) if requeue else intake.finish(delivery_tag)
        self._let_go(delivery_tag)

    def _let_go(self, delivery_tag: str) -> None:
        super().ack(delivery_tag)
        self._flush()  # at once: kombu would keep the message, and its arguments, until the next one comes


class Channel(virtual.Channel):  # type: ignore[misc]
    """A channel to functions' queues."""

    QoS = QoS
    do_restore = False

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        transport = self.connection
        store, function = transport.store, queue.removeprefix(transport.store.keys.queue(""))
        drafts = sent.keys() if (sent := submission.get()) is not None else ()
        headers = message.get("headers") or {}
        eta, raw = headers.get("eta"), None
        if eta:
            # It waits in Redis, not in a worker's memory; the container sees it when it is due, without an ETA.
            due = datetime.fromisoformat(eta)
            due = due if due.tzinfo is not None else due.replace(tzinfo=UTC)  # as Celery takes it, wherever this runs
            raw = json.dumps({**message, "headers": {**headers, "eta": None}})
            admission = store.delay(function, raw, due.timestamp(), most_pending=transport.most_pending, drafts=drafts)
        else:
            raw = json.dumps({**message, "properties": {**message["properties"], "sent": round(store.now(), 3)}})
            admission = store.submit(function, [raw], most_pending=transport.most_pending, drafts=drafts)
        if not admission.accepted:
            raise exhausted(function, admission, transport.most_pending, 0)

    def _size(self, queue: str) -> int:  # noqa: ARG002
        return 0  # what kombu asks when it declares a queue; nobody looks at the answer

    def _purge(self, queue: str) -> int:
        store = self.connection.store
        pipe = store.client.pipeline()
        pipe.lrange(queue, 0, -1)
        pipe.delete(queue)
        messages = pipe.execute()[0]
        ids = [found[1].decode(errors="replace") for message in messages if (found := _ID.search(message))]
        for first in range(0, len(ids), 1_000):
            store.client.unlink(*(store.keys.of("argument", input_id) for input_id in ids[first : first + 1_000]))
        return len(messages)

    def _has_queue(self, queue: str, **_: Any) -> bool:  # noqa: ARG002
        return True

    def _new_queue(self, queue: str, **_: Any) -> None:
        """Create nothing: a Redis list exists while it holds something."""


class Transport(virtual.Transport):  # type: ignore[misc]
    """The transport; ``transport_options`` carry the store, the limit and, in a container, the intake."""

    Channel = Channel
    driver_type = "scaleplug"
    driver_name = "scaleplug"
    polling_interval = None

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        self.store: Store = client.transport_options["store"]
        self.most_pending: int = client.transport_options["most_pending"]
        self.intake: Intake | None = client.transport_options.get("intake")
        self.go: Callable[[float], bool] | None = None
        """What takes and runs inputs in place of Celery, where a container has that; see ``worker/turns.py``."""

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:  # noqa: ARG002
        """Deliver one message, or raise ``socket.timeout``."""
        if self.intake is None:
            raise TimeoutError
        if self.go is not None:
            if not self.go(1.0 if timeout is None else timeout):
                raise TimeoutError
            return
        message = self.intake.take(1.0 if timeout is None else timeout)
        if message is None:
            raise TimeoutError
        self.deliver(message)

    def deliver(self, message: dict[str, Any]) -> None:
        """Let Celery have a message."""
        self._deliver(message, message["properties"]["delivery_info"]["routing_key"])

    def driver_version(self) -> str:
        """Return the version of the driver."""
        return "1"
