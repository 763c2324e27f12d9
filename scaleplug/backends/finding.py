"""Finding what engines have: each is asked on a thread of its own, so that one that says nothing holds up nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence

from scaleplug.backends.engine import Engine, EngineError, Seen

PATIENCE_SECONDS = 2.0
"""So long all engines together may take to answer before those that have are gone on with: less than a lease."""


class _Look:
    """One question to one engine, and its answer."""

    def __init__(self, engine: Engine) -> None:
        self.seen: Sequence[Seen] | None = None
        self.answered = threading.Event()
        self._engine = engine
        threading.Thread(target=self._ask, daemon=True, name="docker-look").start()

    def _ask(self) -> None:
        try:
            if self._engine.open():
                self.seen = self._engine.list()
        except EngineError as exc:
            self._engine.lost(exc)
        finally:
            self.answered.set()


class Finding:
    """What was found on the engines since a controller acts; each is listed once."""

    def __init__(self, engines: Iterable[Engine]) -> None:
        self._engines = list(engines)
        self._looks: dict[Engine, _Look | None] = {}

    def begin(self) -> None:
        """Begin anew: lists from before don't count."""
        self._looks = dict.fromkeys(self._engines)

    @property
    def complete(self) -> bool:
        """Whether every engine was listed."""
        return not self._looks

    def take(self) -> list[tuple[Engine, Sequence[Seen]]]:
        """Return the lists that have come; who does not answer is asked again with the next call."""
        new = [engine for engine, look in self._looks.items() if look is None]
        for engine in new:
            self._looks[engine] = _Look(engine)
        deadline = time.monotonic() + (PATIENCE_SECONDS if new else 0.0)
        found = []
        for engine, look in list(self._looks.items()):
            if look is None:
                continue
            if not look.answered.wait(max(0.0, deadline - time.monotonic())):
                if engine in new:
                    engine.lost(f"the Docker engine {engine.shown} does not answer")
                continue
            if look.seen is None:
                self._looks[engine] = None
            else:
                del self._looks[engine]
                found.append((engine, look.seen))
        return found
