"""What those who watch Celery's events are told of a container: that it is there, how much it runs, that it leaves.

Celery's own heartbeat tells how many inputs run by a count that inputs which don't go Celery's way are not in.
"""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Any

from celery.utils.sysinfo import load_average
from celery.worker.state import SOFTWARE_INFO
from kombu.transport.redis import Channel
from kombu.utils.json import dumps

from scaleplug.worker.holding import Claim
from scaleplug.worker.intake import Intake

logger = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
"""A sign of life comes so often; who misses two takes the container for gone."""
LOOK_SECONDS = 1.0
"""How often it is looked whether it runs more or fewer inputs than was told."""
START_SECONDS = 0.02
"""A container's first input comes first."""
LEAVE_SECONDS = 0.5
"""A broker that doesn't answer holds up no end for longer."""


class Presence:
    """Tells of one container while its block runs."""

    def __init__(self, dispatcher: Any, intake: Intake, *, packed: bool) -> None:
        """``packed``: the inputs of packs are told one by one."""
        self._dispatcher, self._intake, self._packed = dispatcher, intake, packed
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True, name="scaleplug-presence")

    def __enter__(self) -> Presence:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.end()

    def end(self) -> None:
        """Tell that the container leaves."""
        self._over.set()
        self._thread.join(LEAVE_SECONDS)

    def cancelled(self, claim: Claim, input_id: str) -> None:
        """Tell that an input was cancelled that has begun; of a pack it is told how many have run."""
        if (input_id and self._packed) or not (input_id or "pack" in claim.reply):
            uuid = input_id or claim.id
            self._send("task-revoked", uuid=uuid, terminated=True, signum=None, expired=False)

    def _tell(self) -> None:
        """Send signs of life, from this thread: the others must not wait for a broker."""
        self._over.wait(START_SECONDS)
        self._leave_will()
        looks, told = 0, self._send_sign("worker-online", self._running())
        while not self._over.wait(LOOK_SECONDS):
            looks += 1
            running = self._running()
            if running != told or looks * LOOK_SECONDS >= BEAT_SECONDS:
                looks, told = 0, self._send_sign("worker-heartbeat", running)
        self._send_sign("worker-offline", 0)

    def _running(self) -> int:
        """Return how many inputs run: of those that were taken at once only so many do."""
        return min(len(self._intake.claims), self._intake.slots)

    def _send_sign(self, event: str, running: int) -> int:
        self._send(event, **self._sign(running))
        return running

    def _sign(self, running: int) -> dict[str, Any]:
        return {"freq": BEAT_SECONDS, "active": running, "loadavg": load_average(), **SOFTWARE_INFO}

    def _leave_will(self) -> None:
        """Let Redis tell that the container is gone, should it come to no end of its own."""
        try:
            published = _published(self._dispatcher, "worker-offline", self._sign(0))
            if published is not None:
                self._intake.store.leave_will(self._intake.container, *published)
        except Exception:  # whatever the broker's transport raises
            logger.debug("no last will could be left", exc_info=True)

    def _send(self, event: str, **fields: Any) -> None:
        try:
            self._dispatcher.send(event, retry=False, **fields)
        except Exception:  # whatever the broker's transport raises
            logger.debug("%s could not be sent", event, exc_info=True)


def _published(dispatcher: Any, event: str, fields: dict[str, Any]) -> tuple[str, str] | None:
    """Return topic and text of an event as Celery would publish it, without doing so; ``None`` on another broker."""
    kept: list[tuple[str, str]] = []
    with dispatcher.mutex:  # nothing else is published meanwhile
        producer = dispatcher.producer
        channel = producer.channel
        if not isinstance(channel, Channel):
            return None

        def keep(exchange: str, message: Any, routing_key: str, **_: Any) -> None:
            topic = channel._get_publish_topic(exchange, routing_key)  # noqa: SLF001  # kombu shows it nowhere else
            kept.append((topic, dumps(message)))

        channel._put_fanout = keep  # noqa: SLF001  # in place of kombu's own, which publishes it
        try:
            producer.publish(
                dispatcher._prepare_event(event, fields),  # noqa: SLF001  # nor does Celery
                routing_key=event.replace("-", "."), exchange=dispatcher.exchange.name,
                serializer=dispatcher.serializer, headers=dispatcher.headers, delivery_mode=dispatcher.delivery_mode,
            )  # fmt: skip
        finally:
            del channel._put_fanout  # noqa: SLF001
    return kept[-1] if kept else None
