"""The ports: what starts and stops containers, and what carries calls. Each has a twin in ``scaleplug.testing``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """One container to start: a Celery worker for one queue."""

    container: str
    """Unique id, e.g. ``square-3-9f2c1a``; also the name of its Redis connections."""
    app: str
    function: str
    """Full name, ``app.function``."""
    slot: int
    """Stable number among the function's containers, from 1: makes the Celery node name ``app.function-3@host``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendContainer:
    """A container that exists, as its backend knows it."""

    container: str
    app: str
    function: str
    slot: int
    started_at: float
    """Unix time."""
    pid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerExit:
    """A container is gone: ``reason`` is one line for people, such as ``killed by SIGKILL``."""

    container: str
    function: str
    exit_code: int
    """Exit status; ``-n`` when signal ``n`` ended it."""
    reason: str
    last_lines: Sequence[str] = ()
    """The last lines it printed, for telling why a start failed."""
    asked: bool = False
    """Whether it had been asked to leave."""


class ContainerBackend(Protocol):
    """Starts and stops containers and knows, not guesses, when one is gone."""

    def containers(self) -> list[BackendContainer] | None:
        """Return the containers that exist; ``None`` when that can't be known now."""

    def start(self, requests: Sequence[StartRequest]) -> None:
        """Ask for containers; one that can't be started is told by :meth:`exits`."""

    def stop(self, container: str, *, grace: float) -> None:
        """Ask a container to drain: finish what it runs, leave; after ``grace`` seconds it is killed."""

    def kill(self, container: str) -> None:
        """End a container at once."""

    def exits(self) -> list[ContainerExit]:
        """Return the exits since the last call, each once; never blocks."""

    def capacity(self) -> int | None:
        """Return how many more containers the host bears now; ``None`` when that can't be known."""

    def close(self) -> None:
        """Let go of the backend without touching its containers."""


@dataclass(frozen=True, slots=True)
class Event:
    """The end of one input, as it reaches its caller: a sealed outcome, or a plain reason without one."""

    index: int
    outcome: bytes | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of a spawned call now."""

    function: str
    """Full name; empty when nothing is known of the call."""
    inputs: int
    over: bool
    """All inputs have ended; those without an event are no longer kept."""
    cancelled: bool
    events: Sequence[Event] = ()
    """The ends of inputs, from the one asked for on, up to the first that runs still."""


@dataclass(frozen=True, slots=True)
class FunctionStats:
    """What a function has at one moment."""

    backlog: int
    """Inputs that no container has taken: pending, and waiting for their time."""
    num_total_runners: int
    """Containers: starting, idle and busy."""
    num_running_inputs: int
    input_headroom: int
    """Inputs that the containers which are ready could take at once."""


class Caller(Protocol):
    """Sends the inputs of calls and brings back their ends: through Redis, or in this process for tests."""

    def open(self, call: str, put: Callable[[Event], object]) -> None:
        """Give the ends of a call's inputs to ``put``, which must not block; it may run on another thread."""

    def close(self, call: str) -> None:
        """Stop giving them."""

    def send(self, function: FunctionRef, call: str, inputs: Sequence[Input], *, kind: CallKind) -> int:
        """Send inputs and return how many were accepted: all or ResourceExhausted, or as many as fit for a map.

        Those of a ``spawn_map`` are numbered from 0 over all its sends, and :meth:`complete` comes last.
        """

    def cancel(self, function: str, call: str, *, tell: bool) -> None:
        """Cancel what is left of a call; ``tell`` those who wait for it."""

    def complete(self, function: FunctionRef, call: str, inputs: int) -> None:
        """Say that a ``spawn_map`` call has all its ``inputs``."""

    def look(self, call: str, *, watch: bool, index: int = 0, most: int = 1) -> Look:
        """Return what is known of a spawned call and of ``most`` inputs from ``index`` on.

        ``watch`` asks to be told of the end of the input ``index``, if that is not there yet.
        """

    def stats(self, function: str, *, max_inputs: int) -> FunctionStats:
        """Return what a function has now, each of whose containers runs up to ``max_inputs`` at once."""

    def read(self, call: str, event: Event) -> tuple[bool, Any]:
        """Return ``(True, value)`` or ``(False, exception)``."""


Input = tuple[int, tuple[Any, ...], Mapping[str, Any]]
"""Index, positional and keyword arguments of one input."""

CallKind = Literal["remote", "map", "spawn", "spawn_map"]


class FunctionRef(Protocol):
    """As much of a function as a caller needs."""

    @property
    def full_name(self) -> str:
        """``app.function``."""
