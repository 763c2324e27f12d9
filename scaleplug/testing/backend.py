"""The twin of what starts and stops containers: a list in memory that a test plays with."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from signal import Signals

from scaleplug.abc import BackendContainer, ContainerExit, StartRequest
from scaleplug.registry import Registration


@dataclass(slots=True)
class _State:
    request: StartRequest
    started_at: float
    pid: int
    busy: bool = False
    frozen: bool = False
    leave_by: float | None = None  # set when it was asked to leave


class FakeBackend:
    """See :class:`scaleplug.abc.ContainerBackend`; nothing runs in its containers.

    A test says what happens inside them: :meth:`set_busy`, :meth:`crash`, :meth:`fail_starts`; and outside: ``known =
    False`` makes the backend unreachable, ``limit`` is what the host bears. ``clock`` gives Unix time, ``on_exit`` is
    told the function of every container that is gone.
    """

    name = "fake"
    host = socket.gethostname()

    def __init__(
        self,
        *,
        limit: int = 100,
        clock: Callable[[], float] = time.time,
        on_exit: Callable[[str], object] = lambda _function: None,
    ) -> None:
        self.limit, self.known = limit, True
        self.started: list[StartRequest] = []
        self.warmed: set[str] = set()
        self._clock, self._on_exit = clock, on_exit
        self._containers: dict[str, _State] = {}
        self._exits: list[ContainerExit] = []
        self._start_failures: dict[str, Sequence[str]] = {}
        self._pids = itertools.count(1_000_000)

    # -- what a test tells -----------------------------------------------------------------------------------------

    def set_busy(self, container: str, busy: bool = True) -> None:
        """Let a container run an input, or be done with it: one that was asked to leave goes then."""
        state = self._containers[container]
        state.busy = busy
        if not busy and state.leave_by is not None:
            self._end(container, 0)

    def crash(self, container: str, exit_code: int = -9, last_lines: Sequence[str] = ()) -> None:
        """Let a container die by itself."""
        self._end(container, exit_code, last_lines)

    def freeze(self, container: str, frozen: bool = True) -> None:
        """Let a container stand still, or go on."""
        self._containers[container].frozen = frozen

    def fail_starts(self, function: str, *last_lines: str) -> None:
        """Let every start of a function's containers fail from now on, after printing these lines."""
        self._start_failures[function] = last_lines

    def mend_starts(self, function: str) -> None:
        """Let a function's containers start again."""
        self._start_failures.pop(function, None)

    # -- the port --------------------------------------------------------------------------------------------------

    def containers(self) -> list[BackendContainer] | None:
        """See :class:`scaleplug.abc.ContainerBackend`."""
        if not self.known:
            return None
        self._enforce()
        return [
            BackendContainer(
                container=name, app=state.request.app, function=state.request.function, slot=state.request.slot,
                version=state.request.version, started_at=state.started_at, pid=state.pid,
            )
            for name, state in self._containers.items()
        ]  # fmt: skip

    def start(self, requests: Sequence[StartRequest]) -> None:
        """See :class:`scaleplug.abc.ContainerBackend`."""
        for request in requests:
            self.started.append(request)
            self._containers[request.container] = _State(request, self._clock(), next(self._pids))
            if request.function in self._start_failures:
                self._end(request.container, 1, self._start_failures[request.function])

    def stop(self, container: str, *, grace: float) -> None:
        """See :class:`scaleplug.abc.ContainerBackend`."""
        state = self._containers.get(container)
        if state is not None:
            state.leave_by = self._clock() + grace
            if not state.busy:
                self._end(container, 0)

    def kill(self, container: str) -> None:
        """See :class:`scaleplug.abc.ContainerBackend`."""
        if container in self._containers:
            self._end(container, -9)

    def exits(self) -> list[ContainerExit]:
        """See :class:`scaleplug.abc.ContainerBackend`."""
        self._enforce()
        exits, self._exits = self._exits, []
        return exits

    def frozen(self) -> set[str]:
        """See :class:`scaleplug.abc.ContainerBackend`."""
        return {name for name, state in self._containers.items() if state.frozen}

    def capacity(self) -> int | None:
        """See :class:`scaleplug.abc.ContainerBackend`."""
        return max(0, self.limit - len(self._containers)) if self.known else None

    def close(self) -> None:
        """See :class:`scaleplug.abc.ContainerBackend`."""

    # -- what the controller needs beyond it -----------------------------------------------------------------------

    def adopt(self, *, rest: bool = False) -> bool:  # noqa: ARG002  # nothing is far away
        """Find what is there already: it is all in this object."""
        return self.known

    def prepared_at(self, registration: Registration) -> float:  # noqa: ARG002  # there is nothing to prepare
        """Return the Unix time from which on containers of the function could be started."""
        return 0.0

    def warm(self, registrations: Iterable[Registration]) -> None:
        """Write down the functions that are to be ready."""
        self.warmed |= {registration.function for registration in registrations}

    def problem(self, registration: Registration) -> str | None:  # noqa: ARG002  # nothing is imported
        """Return why the function's code can't be imported: never."""
        return ""

    def can_start(self, registration: Registration) -> bool:  # noqa: ARG002  # nothing is imported
        """Return whether containers of a version that is registered no longer can still be started."""
        return True

    def tidy(self, registrations: Iterable[Registration]) -> None:
        """Forget what is not among the functions any more."""
        self.warmed &= {registration.function for registration in registrations}

    def end(self, grace: float) -> None:
        """Drain every container."""
        for container in list(self._containers):
            self.stop(container, grace=grace)

    def ended(self) -> bool:
        """Return whether no container is left."""
        return not self._containers

    # -- ends ------------------------------------------------------------------------------------------------------

    def _enforce(self) -> None:
        now = self._clock()
        for container, state in list(self._containers.items()):
            if state.leave_by is not None and now >= state.leave_by:
                self._end(container, 0)

    def _end(self, container: str, exit_code: int, last_lines: Sequence[str] = ()) -> None:
        state = self._containers.pop(container)
        reason = f"exited with status {exit_code}" if exit_code >= 0 else f"killed by {Signals(-exit_code).name}"
        self._exits.append(
            ContainerExit(
                container=container, function=state.request.function, exit_code=exit_code, reason=reason,
                last_lines=tuple(last_lines), asked=state.leave_by is not None,
            )
        )  # fmt: skip
        self._on_exit(state.request.function)
