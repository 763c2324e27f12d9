"""The ends of Docker containers: known from the engine's events, or found when it answers again; each told once."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from signal import Signals

from scaleplug.abc import BackendContainer, ContainerExit, StartRequest
from scaleplug.backends.crew import Crews
from scaleplug.backends.engine import Engine, EngineError, Seen
from scaleplug.backends.output import LINES_KEPT, Output

OUTPUT_SECONDS = 1.0
"""How long the last of what a container has printed may take to arrive."""
LOOKS, LOOK_SECONDS = 5, 0.05
"""So often the engine is asked whether a killed container had used up its memory: it may learn that later itself."""
SIGNALLED = 128
FRESH_SECONDS = 5.0
"""A container that is younger may be missing in a list that was made meanwhile."""
ALIVE = ("running", "paused", "restarting")


@dataclass(slots=True, eq=False)
class Held:
    """One container, from the wish for it until its end was told."""

    request: StartRequest
    engine: Engine
    started_at: float
    memory: int
    """MiB that it may use, or may come to use."""
    limited: bool = False
    id: str = ""
    """The engine's; empty while there is none."""
    output: Output | None = None
    asked: bool = False
    killed: bool = False
    unsent: str = ""
    """The last signal that its engine could not be told."""
    ending: bool = False
    out_of_memory: bool = False
    adopted: bool = False
    frozen_since: float | None = None

    def container(self) -> BackendContainer:
        """Return it as the port has it."""
        return BackendContainer(**asdict(self.request), started_at=self.started_at)


class Ends:
    """The containers of one controller's engines that have not ended, and the ends that were not told yet."""

    def __init__(self, crews: Crews, on_exit: Callable[[str], object]) -> None:
        self._crews, self._on_exit = crews, on_exit
        self.held: dict[str, Held] = {}
        self.lock = threading.RLock()
        self._by_id: dict[str, Held] = {}
        self._exits: list[ContainerExit] = []
        self._told: list[tuple[Engine, str]] = []
        """What is to be removed as soon as its end was dealt with."""

    def hold(self, held: Held) -> None:
        """Take note of a container, and perhaps of its id."""
        with self.lock:
            self.held[held.request.container] = held
            if held.id:
                self._by_id[held.id] = held

    def knows(self, identity: str) -> bool:
        """Return whether this is one of them, or one whose end was told."""
        with self.lock:
            return identity in self._by_id or any(identity == told for _, told in self._told)

    def on(self, engine: Engine) -> list[Held]:
        """Return those on an engine."""
        with self.lock:
            return [held for held in self.held.values() if held.engine is engine]

    # -- what engines tell -----------------------------------------------------------------------------------------

    def on_event(self, action: str, identity: str, attributes: Mapping[str, str]) -> bool:
        """Take note of an event; return whether it was about one of them."""
        with self.lock:
            held = self._by_id.get(identity)
        if held is None:
            return False
        if action == "die":
            self.end_soon(held, int(attributes.get("exitCode", "1")))
        elif action == "destroy":
            self.end_soon(held, None)
        elif action == "oom":
            held.out_of_memory = True
        elif action in ("pause", "unpause"):
            held.frozen_since = time.monotonic() if action == "pause" else None
            self._on_exit("*")
        return True

    def reconcile(self, engine: Engine, seen: Mapping[str, Seen]) -> None:
        """Find the ends, and what else has happened, that nobody has told of."""
        for held in self.on(engine):
            found = seen.get(held.id)
            if not held.id or held.ending or time.time() - held.started_at < FRESH_SECONDS:
                continue
            if found is None or found.state not in (*ALIVE, "created"):
                self.end_soon(held, None, bystander=True)
            elif (found.state == "paused") != (held.frozen_since is not None):
                held.frozen_since = time.monotonic() if found.state == "paused" else None

    def end_soon(self, held: Held, exit_code: int | None, *, bystander: bool = False) -> None:
        """Tell the end of a container, once its last words are read; a code of ``None`` is asked for."""
        with self.lock:
            if held.ending:
                return
            held.ending = True
        self._crews.do(held.engine, self._end, held, exit_code, bystander)

    def _end(self, held: Held, exit_code: int | None, bystander: bool) -> None:
        code, reason = exit_code, ""
        with contextlib.suppress(EngineError):
            state = held.engine.state(held.id) if exit_code is None or held.limited else {}
            code = exit_code if exit_code is not None else state.get("ExitCode")
            if held.limited and code == SIGNALLED + Signals.SIGKILL and not (held.killed or held.asked):
                self._look_for_memory(held, state)
        if code is None:
            code, reason = SIGNALLED + Signals.SIGKILL, "it was removed"
        if held.output is not None:
            held.output.finish(OUTPUT_SECONDS)
        lines: Sequence[str] = tuple(held.output.last) if held.output is not None else ()
        status = SIGNALLED - code if SIGNALLED < code <= SIGNALLED + max(Signals) else code
        if held.out_of_memory and status == -Signals.SIGKILL:
            reason = f"it ran out of memory: it may use {held.memory} MiB"
        lines = lines or (held.engine.last_lines(held.id, LINES_KEPT) if status and held.engine.reachable else ())
        self.tell(held, status, reason or exit_reason(status), lines, bystander=bystander)

    def _look_for_memory(self, held: Held, state: Mapping[str, object]) -> None:
        for _ in range(LOOKS):
            held.out_of_memory = held.out_of_memory or bool(state.get("OOMKilled"))
            if held.out_of_memory:
                return
            time.sleep(LOOK_SECONDS)
            state = held.engine.state(held.id)

    def tell(self, held: Held, exit_code: int, reason: str, lines: Sequence[str], *, bystander: bool = False) -> None:
        """Tell that a container is gone, or has never been there."""
        exit_ = ContainerExit(
            container=held.request.container, function=held.request.function, exit_code=exit_code, reason=reason,
            last_lines=tuple(lines), asked=held.asked, bystander=bystander,
        )  # fmt: skip
        with self.lock:
            if self.held.pop(held.request.container, None) is None:
                return  # it was told, for another reason
            self._exits.append(exit_)
            if held.id:
                self._told.append((held.engine, held.id))
                self._by_id.pop(held.id, None)
        self._on_exit(held.request.function)

    def take(self) -> tuple[list[ContainerExit], list[tuple[Engine, str]]]:
        """Return the ends since the last call, and what can be removed now: what was told before."""
        with self.lock:
            exits, self._exits = self._exits, []
            told, self._told = self._told, []
        return exits, told

    def release(self, held: Held) -> None:
        """Forget what was known of an engine's container: another one is made instead."""
        with self.lock:
            self._by_id.pop(held.id, None)
            held.id = ""

    def all_told(self) -> bool:
        """Return whether no end is left to be told, and nothing to be removed."""
        with self.lock:
            return not (self._exits or self._told)


def exit_reason(code: int) -> str:
    """Return an exit status in words."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"killed by {Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
