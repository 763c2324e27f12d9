"""What the controller would write again into a Redis that came back without its data: the registry."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime

from scaleplug.registry import Registration
from scaleplug.store import Store
from scaleplug.timetable import Timetable

logger = logging.getLogger("scaleplug")

Row = tuple[bytes, bytes | None, bool]


class Memory:
    """The registry as it was last read, sealed as it was, and the Redis in which it was read."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._incarnation = ""
        self._rows: dict[str, tuple[bytes, bytes | None, str]] = {}
        self._code: dict[tuple[str, str], bytes] = {}
        self._apps: dict[str, bytes] = {}
        self._timed: dict[str, Registration] = {}
        """Deployed functions about which something happens by itself."""

    def restore(self) -> bool:
        """Look which Redis this is; return whether it has lost its data, after writing the registry again."""
        incarnation = self._store.incarnation()
        before, self._incarnation = self._incarnation, incarnation
        if before in ("", incarnation):
            return False
        entries: list[tuple[str, str, str | bytes]] = []
        for function, (sealed, laid_over, version) in self._rows.items():
            entries += [("functions", function, sealed), ("versions", function, version)]
            if laid_over is not None:
                entries.append(("overrides", function, laid_over))
        entries += [("code", f"{function}@{version}", sealed) for (function, version), sealed in self._code.items()]
        entries += [("apps", app, record) for app, record in self._apps.items()]
        count = len(self._rows)
        logger.warning("Redis has lost its data, and all its inputs with it: registering %d functions again", count)
        try:
            self._store.restore(entries)
            for app in {registration.app for registration in self._timed.values()}:
                ours = [registration for registration in self._timed.values() if registration.app == app]
                Timetable(self._store).put(app, ours, datetime.now(UTC))
        except BaseException:
            self._incarnation = before  # to be tried again
            raise
        return True

    def note(self, rows: Mapping[str, Row], found: Iterable[Registration], asked: Collection[str] | None) -> None:
        """Remember what was read of the registry: of all there is, or only of the functions ``asked`` for.

        What is read of a Redis that has just lost everything says nothing: :meth:`restore` is about to find that out.
        """
        if self._incarnation and self._store.incarnation() != self._incarnation:
            return
        for function in list(self._rows) if asked is None else asked:
            if function not in rows or rows[function][2]:
                self.forget(function)
        for registration in found:
            sealed, laid_over, retiring = rows[registration.function]
            if retiring:
                continue
            known = self._rows.get(registration.function)
            self._rows[registration.function] = (sealed, laid_over, registration.version)
            if registration.deployed and (registration.schedule or registration.autoscaler):
                self._timed[registration.function] = registration
            else:
                self._timed.pop(registration.function, None)
            if registration.serialized and (known is None or known[2] != registration.version):
                self._note_code(registration)
        self._apps = self._store.apps()

    def _note_code(self, registration: Registration) -> None:
        function = f"{registration.app}.{registration.name}"
        for key in [key for key in self._code if key[0] == function]:
            del self._code[key]
        code = self._store.code(function, registration.version)
        if code is not None:
            self._code[function, registration.version] = code

    def forget(self, function: str) -> None:
        """Forget a function that has gone."""
        self._rows.pop(function, None)
        self._timed.pop(function, None)
        for key in [key for key in self._code if key[0] == function]:
            del self._code[key]
