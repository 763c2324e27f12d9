"""What carries calls where Celery's ``task_always_eager`` is on: each input runs at once, in the caller's thread."""

from __future__ import annotations

import atexit
import functools
from collections.abc import Sequence
from typing import Any

from scaleplug.abc import CallKind, Event, FunctionRef, Input
from scaleplug.function import Function
from scaleplug.serializer import seal_failure
from scaleplug.testing import batches
from scaleplug.testing.inputs import LocalInput, Spawned, loads, make, own_frames_off, retry_delay
from scaleplug.testing.local import LocalRun
from scaleplug.worker.batches import check_results

MOST_SPAWNED = 10_000
"""Of so many spawned calls the results are kept."""


class EagerRun(LocalRun):
    """Runs every input while it is sent: there is nothing to wait for, and no timeout."""

    def send(
        self,
        function: FunctionRef,
        call: str,
        inputs: Sequence[Input],
        *,
        kind: CallKind,
        pack: int = 1,  # noqa: ARG002  # each runs by itself here
    ) -> int:
        """See :class:`scaleplug.abc.Caller`."""
        assert isinstance(function, Function)
        function = self._here(function)
        self._load_code(function)
        made = [make(function, call, kind, *given) for given in inputs]
        if kind in ("spawn", "spawn_map"):
            known = self._spawned.setdefault(call, Spawned(function.full_name, open=kind == "spawn_map"))
            known.inputs += len(made)
            while len(self._spawned) > MOST_SPAWNED:
                del self._spawned[next(iter(self._spawned))]
        for item in made:
            event = Event(item.index, self._end(item))
            with self._lock:
                self._tell(call, event)
        return len(made)

    def spawn_at(self, function: FunctionRef, call: str, given: Input, due: float) -> None:  # noqa: ARG002
        """See :class:`scaleplug.abc.Caller`; nothing waits for its time here, as with Celery's own calls."""
        self.send(function, call, [given], kind="spawn")

    def _end(self, item: LocalInput) -> bytes:
        """Run an input to its end, again at once where it is to be retried; return its outcome."""
        name, context = item.function.full_name, f"{item.call}|{item.index}"
        while True:
            item.runs += 1
            try:
                return self._seal(name, context, self._value(item))
            except KeyboardInterrupt:
                raise
            except BaseException as exc:  # noqa: BLE001  # whatever it is, it goes to the caller
                if retry_delay(item, exc) is None:
                    exc.__traceback__ = own_frames_off(exc)
                    return seal_failure(self.keyring, context, exc)
                item.retried += 1

    def _value(self, item: LocalInput) -> Any:
        args, kwargs = loads(item.function.full_name, item.payload)
        if item.function.pool_settings.max_batch_size is None:
            return self._run(item, args, kwargs)
        values = self._run(item, (), batches.alone(self._body_of(item), args, kwargs))
        return check_results(item.function.full_name, values, 1)[0]

    def pass_on(self, item: LocalInput, event: Event) -> None:
        """Keep a part of a stream for its reader, who comes when all are there."""
        super().pass_on(item, event)
        if item.window is not None and event.part is not None:
            item.window.grant(event.part)


@functools.cache
def caller() -> EagerRun:
    """Return what carries this process's calls."""
    run = EagerRun()
    atexit.register(run.end)
    return run
