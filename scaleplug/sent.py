"""The inputs of this process whose ends have not come yet, to be sent again if Redis comes back without them.

A Redis that was killed may lose what it had accepted in the last moment, or since its last snapshot. Who waits for
such an input would wait for ever. What is kept is bounded as the inputs under way are: by the window of each map.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from scaleplug.store import Store

logger = logging.getLogger("scaleplug")

ALL_AT_ONCE = 1_000_000
"""What was accepted before is accepted again, whatever the limits say now."""


@dataclass(slots=True)
class _Call:
    function: str
    messages: dict[int, str | Callable[[], str]] = field(default_factory=dict)
    """Those of packed inputs are made when they are needed."""
    many: bool = False


class Sent:
    """The messages of calls that are open, by call and index; the calls' threads add, the inbox's takes away."""

    def __init__(self, store: Store, caller: str) -> None:
        self._store, self._caller = store, caller
        self._calls: dict[str, _Call] = {}

    def note(self, function: str, call: str, messages: Mapping[int, str | Callable[[], str]], *, many: bool) -> None:
        """Keep messages that are about to be sent, by index."""
        known = self._calls.get(call)
        if known is None:
            known = self._calls[call] = _Call(function, many=many)
        known.messages.update(messages)

    def ended(self, call: str, *indices: int) -> None:
        """Forget inputs that have ended, or were not accepted."""
        known = self._calls.get(call)
        if known is not None:
            for index in indices:
                known.messages.pop(index, None)

    def forget(self, call: str) -> None:
        """Forget a call that nobody waits for any more."""
        self._calls.pop(call, None)

    def find_missing(self) -> list[tuple[str, int]]:
        """Return (call, index) of inputs that Redis doesn't hold: their ends are in the inbox, or they are lost."""
        ids: dict[str, dict[str, tuple[str, int]]] = {}
        for name, call in list(self._calls.items()):
            named = {(f"{name}:{index}" if call.many else name): (name, index) for index in list(call.messages)}
            ids.setdefault(call.function, {}).update(named)
        found: list[tuple[str, int]] = []
        for function, named in ids.items():
            if named:
                found += [named[each] for each in self._store.missing(function, self._caller, list(named))]
        return found

    def send_again(self, inputs: Iterable[tuple[str, int]]) -> None:
        """Send inputs that were missing, but for those whose ends have come since."""
        messages: dict[str, list[str]] = {}
        for name, index in inputs:
            call = self._calls.get(name)
            message = call.messages.get(index) if call is not None else None
            if call is not None and message is not None:
                messages.setdefault(call.function, []).append(message if isinstance(message, str) else message())
        for function, lost in messages.items():
            logger.warning("Redis came back without %d inputs of %s: they are sent again", len(lost), function)
            self._store.submit(function, lost, most_pending=ALL_AT_ONCE)
