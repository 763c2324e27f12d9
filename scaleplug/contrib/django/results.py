"""What Django's tasks want to know of a task beside its result: what was sent, and when it ran."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

from scaleplug.app import App
from scaleplug.client import RedisCaller
from scaleplug.errors import SerializationError
from scaleplug.serializer import REGISTRY

LONGEST = 30 * 86_400
"""Seconds that a task which never ends is known."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is recorded of a task: what was sent, and the times and hosts of its runs."""

    sent: Mapping[str, Any]
    enqueued_at: datetime
    begun: tuple[tuple[datetime, str], ...]


class Results:
    """The records of one backend, in Redis; in a test twin they are in this process."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._here: dict[str, dict[str, bytes]] = {}

    def sent(self, call: str, values: Mapping[str, Any]) -> None:
        """Record what is about to be sent."""
        self._write(call, "sent", {**values, "at": _now()}, LONGEST)

    def begins(self, call: str, worker: str) -> None:
        """Record that a run begins."""
        self._write(call, f"begun {_now()}", {"at": _now(), "worker": worker})

    def ends(self, call: str) -> None:
        """Record that it has ended."""
        self._write(call, "ended", {"at": _now()}, int(self.app.config.result_ttl))

    def ended(self, call: str) -> datetime | None:
        """Return when the last run has ended."""
        found = self._open(call, self._fields(call)).get("ended")
        return None if found is None else datetime.fromisoformat(found["at"])

    def read(self, call: str) -> Known | None:
        """Return what is known of a call; ``None`` for nothing, or nothing that was signed here."""
        fields = self._open(call, self._fields(call))
        sent = fields.get("sent")
        if sent is None:
            return None
        runs = [value for name, value in sorted(fields.items()) if name.startswith("begun ")]
        begun = tuple((datetime.fromisoformat(run["at"]), str(run["worker"])) for run in runs)
        return Known(sent, datetime.fromisoformat(sent["at"]), begun)

    def _open(self, call: str, fields: Mapping[str, bytes]) -> dict[str, Any]:
        caller, found = self.app.caller(), {}
        for name, value in fields.items():
            if not isinstance(caller, RedisCaller):
                found[name] = json.loads(value)
                continue
            try:
                found[name] = json.loads(caller.keyring.unseal(REGISTRY, f"{call}|{name}", value))
            except SerializationError:
                continue
        return found

    def _fields(self, call: str) -> dict[str, bytes]:
        caller = self.app.caller()
        if not isinstance(caller, RedisCaller):
            return self._here.get(call, {})
        found: Mapping[bytes, bytes] = caller.store.client.hgetall(caller.store.keys.of("task", call))
        return {name.decode(errors="replace"): value for name, value in found.items()}

    def _write(self, call: str, name: str, values: Mapping[str, Any], seconds: int | None = None) -> None:
        caller, text = self.app.caller(), json.dumps(values, cls=DjangoJSONEncoder).encode()
        if not isinstance(caller, RedisCaller):
            self._here.setdefault(call, {})[name] = text
            return
        key = caller.store.keys.of("task", call)
        pipe = caller.store.client.pipeline(transaction=True)
        pipe.hset(key, name, caller.keyring.seal(REGISTRY, f"{call}|{name}", text))
        if seconds is not None:
            pipe.expire(key, seconds)
        pipe.execute()


def _now() -> str:
    return datetime.now(UTC).isoformat()
