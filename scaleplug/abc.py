"""The ports: what starts and stops containers, and what carries calls. Each has a twin in ``scaleplug.testing``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from scaleplug.settings import FunctionSettings

T = TypeVar("T")


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
    version: str = ""
    """Version of the code it is to run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendContainer:
    """A container that exists, as its backend knows it."""

    container: str
    app: str
    function: str
    slot: int
    started_at: float
    """Unix time."""
    version: str = ""
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
    bystander: bool = False
    """Whether it only went with something else that died: if it was starting, that is no failed start."""


EXIT_OUTDATED = 72
"""Exit status of a container that was asked for newer code than it has."""


READY = "\x1escaleplug: standing by"
"""What a container that has no zygote prints when it stands by; nobody but its backend sees it."""


class ContainerBackend(Protocol):
    """Starts and stops containers and knows, not guesses, when one is gone."""

    def containers(self) -> list[BackendContainer] | None:
        """Return the containers that exist; ``None`` when that can't be known now."""

    def start(self, requests: Sequence[StartRequest]) -> None:
        """Ask for containers; one that can't be started is told by :meth:`exits`."""

    def stop(self, container: str, *, grace: float) -> None:
        """Ask a container to drain: finish what it runs, leave; after ``grace`` seconds it puts that back."""

    def kill(self, container: str) -> None:
        """End a container at once."""

    def exits(self) -> list[ContainerExit]:
        """Return the exits since the last call, each once; never blocks."""

    def frozen(self) -> set[str]:
        """Return the containers whose process has been stopped for longer than ``SCALEPLUG_FREEZE_TIMEOUT``.

        Only what is known for sure: one that is busy, or slow, is none of them.
        """

    def capacity(self) -> int | None:
        """Return how many more containers the host bears now; ``None`` when that can't be known."""

    def close(self) -> None:
        """Let go of the backend without touching its containers."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Event:
    """What reaches the caller of an input: its end, sealed or a plain reason without that, or a part of a stream."""

    index: int
    outcome: bytes | None
    reason: str = ""
    part: int | None = None
    """The number of a part of a stream, from 0; ``None`` for the end of an input."""
    attempt: int = 0
    """The run of the input that sent the part."""
    large: bool = False
    """The outcome only tells where the value is: reading it takes a while, and is for a thread that may block."""
    packed: bool = False
    """The outcome is of several inputs, which are told inside."""
    count: int = 1
    """So many inputs ended for the reason, from the index on."""

    def context(self, call: str) -> str:
        """Return what the outcome must have been signed for."""
        end = f"{call}|{self.index}"
        return end if self.part is None else f"{end}|{self.attempt}|{self.part}"


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
    """Sends the inputs of calls and brings back their ends: through Redis, or in this process for tests.

    ``open``, ``close``, ``soon`` and ``send_soon`` never block; ``soon`` and ``send_soon`` need a running event loop,
    and what they are asked for is done in that order. The others may block.
    """

    met: dict[str, Any]
    """What was called through it and is known where it sends to, by the name of its pool."""

    def open(self, call: str, put: Callable[[Event], object], *, led: bool = False) -> None:
        """Give the ends of a call's inputs to ``put``, which must not block; it may run on another thread.

        A call of one input whose thread will :meth:`lead` is ``led``.
        """

    def lead(self, call: str, waits: Callable[[], bool]) -> None:
        """Bring in what comes for all calls while this one ``waits()``; return before that if others do so."""

    def close(self, call: str) -> None:
        """Stop giving them."""

    def send(self, function: FunctionRef, call: str, inputs: Sequence[Input], *, kind: CallKind, pack: int = 1) -> int:
        """Send inputs and return how many were accepted: all or ResourceExhausted, or as many as fit for a map.

        Those of a ``spawn_map`` are numbered from 0 over all its sends, and :meth:`complete` comes last. With ``pack``
        so many inputs of a map may go into one message.
        """

    def spawn_at(self, function: FunctionRef, call: str, given: Input, due: float) -> None:
        """Send the one input of a spawned call, which waits until the Unix time ``due``; or raise ResourceExhausted."""

    def pack_size(self, function: FunctionRef, left: int | None, window: int) -> int:
        """Return how many inputs of a map to send in one message: 1, unless they are known to be short.

        ``left`` are still to be sent, if that is known; ``window`` may be outstanding at once.
        """

    def override(self, function: str, changes: Mapping[str, Any]) -> FunctionSettings:
        """Lay changes over a function's settings (``None`` takes one away); return those in force."""

    def send_soon(
        self, function: FunctionRef, call: str, inputs: Sequence[Input], *, kind: CallKind
    ) -> asyncio.Future[int]:
        """Do the same without blocking. Arguments that can't be sent are errors at once."""

    def soon(self, run: Callable[[], T]) -> asyncio.Future[T]:
        """Run what may block, off the event loop."""

    def cancel(self, function: str, call: str, *, tell: bool) -> None:
        """Cancel what is left of a call; ``tell`` those who wait for it."""

    def cancel_soon(self, function: str, call: str) -> asyncio.Future[None]:
        """Cancel what is left of a call that nobody waits for; the future of the running loop is done when it is."""

    def complete(self, function: FunctionRef, call: str, inputs: int) -> None:
        """Say that a ``spawn_map`` call has all its ``inputs``."""

    def look(self, call: str, *, watch: bool, index: int = 0, most: int = 1, patience: float | None = None) -> Look:
        """Return what is known of a spawned call and of ``most`` inputs from ``index`` on.

        ``watch`` asks to be told of the end of the input ``index``, if that is not there yet.
        A Redis that is away is asked again for ``patience`` seconds, ``None`` for the usual time.
        """

    def stats(self, function: str, *, max_inputs: int) -> FunctionStats:
        """Return what a function has now, each of whose containers runs up to ``max_inputs`` at once."""

    def read(self, call: str, event: Event) -> tuple[bool, Any]:
        """Return ``(True, value)`` or ``(False, exception)``; the value of a part is the list of its pickled items."""

    def open_pack(self, call: str, event: Event) -> list[tuple[int, bytes]]:
        """Return index and outcome of each input of a packed event, for ``open_part``."""

    def grant(self, call: str, part: int | None) -> bool:
        """Tell a stream's producer that a part is read, ``None`` that nothing more is; False: it can't be told now."""

    def drop(self, event: Event) -> None:
        """Let go of a large outcome that nobody will read."""


Input = tuple[int, tuple[Any, ...], Mapping[str, Any]]
"""Index, positional and keyword arguments of one input."""

CallKind = Literal["remote", "map", "spawn", "spawn_map", "stream"]


class FunctionRef(Protocol):
    """As much of a function as a caller needs."""

    @property
    def full_name(self) -> str:
        """``app.function``."""

    def make_known(self, caller: Caller) -> None:
        """Make sure that a controller knows the function; may block."""

    def needs_kind(self, kind: CallKind) -> None:
        """Refuse a call of another kind than the function's; raises InvalidError."""
