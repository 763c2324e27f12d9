"""Packs in a container: read, taken apart, and their outcomes put together."""

from __future__ import annotations

import json
import logging
from binascii import b2a_base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scaleplug.errors import SerializationError
from scaleplug.packing import join, outcomes_context, pack_id, single, smaller, take_apart
from scaleplug.serializer import INPUT, OUTPUT, Keyring, input_context
from scaleplug.store import Ended, Rest, Split

if TYPE_CHECKING:
    from scaleplug.worker.holding import Claim
    from scaleplug.worker.intake import Intake

logger = logging.getLogger(__name__)


class Pack:
    """A pack that a container holds: what has ended of it, what runs, and what has not begun."""

    def __init__(self, claim: Claim, message: Mapping[str, Any], function: str) -> None:
        self.claim, self.message, self.function = claim, message, function
        self.first: int = claim.reply["index"]
        self.parts, _ = take_apart(claim.payload)
        if len(self.parts) != claim.reply["pack"]:
            raise SerializationError(f"it says that it holds {claim.reply['pack']} inputs, and holds {len(self.parts)}")
        self.at = -1
        """The place of the input that runs, or ran last."""
        self.outcomes: list[bytes] = []
        self.indices: list[int] = []
        self.bytes = self.failed = 0
        self.seconds = 0.0
        """What the inputs took that have ended."""
        self.running = False
        self.begun = 0.0
        """When the one that runs began."""

    def end(self, outcome: bytes, *, failed: bool) -> None:
        """Note how the input that runs has ended."""
        self.running = False
        self.outcomes.append(outcome)
        self.indices.append(self.first + self.at)
        self.bytes += len(outcome)
        self.failed += failed

    def ended(self, keyring: Keyring, seconds: float | None) -> Ended:
        """Return what is to be handed back for those that have ended."""
        reply = self.claim.reply
        sealed = b""
        if self.outcomes:
            payload = join(self.outcomes, self.indices)
            sealed = keyring.seal(OUTPUT, outcomes_context(reply["call"]), payload)
        return Ended(self.claim.id, seconds, self.failed, reply, sealed, len(self.outcomes))

    def one(self, keyring: Keyring, place: int) -> tuple[str, dict[str, Any]]:
        """Return the id and the message of one of its inputs."""
        index = self.first + place
        task, input_id = self.claim.task, f"{self.claim.reply['call']}:{index}"
        body = _body(keyring, input_context(task, input_id, self.function), self.parts[place])
        return single(self.message, index, body)

    def others(self, keyring: Keyring) -> list[Rest]:
        """Return what has not begun: a smaller pack."""
        parts = self.parts[self.at + 1 :]
        if not parts:
            return []
        if len(parts) == 1:
            return self.singles(keyring, self.at + 1)
        first = self.first + self.at + 1
        new = pack_id(self.claim.reply["call"], first, len(parts))
        body = _body(keyring, input_context(self.claim.task, new, self.function), join(parts))
        _, message = smaller(self.message, first, len(parts), body)
        return [Rest(new, as_bytes(message))]

    def singles(self, keyring: Keyring, start: int = 0, attempts: int = 0, crash: str = "") -> list[Rest]:
        """Return the inputs from one on, each as a message of its own."""
        made = (self.one(keyring, place) for place in range(start, len(self.parts)))
        return [Rest(input_id, as_bytes(message), attempts, crash) for input_id, message in made]


def as_bytes(message: Mapping[str, Any]) -> bytes:
    """Return a message as it lies on the queue."""
    return json.dumps(message).encode()


def _body(keyring: Keyring, context: str, payload: bytes) -> str:
    return b2a_base64(keyring.seal(INPUT, context, payload), newline=False).decode()


def break_up(intake: Intake, claim: Claim, message: Mapping[str, Any]) -> None:
    """Make every input of a pack a message of its own, at the head of the queue.

    Each runs alone from there on, so that the one which takes its containers down is found.
    """
    attempts = min(claim.attempt - 1, 1) if intake.runs_packs else 0  # where none is run, none is to blame
    try:
        made = Pack(claim, message, intake.function).singles(intake.keyring, 0, attempts, claim.crash)
    except SerializationError as exc:
        logger.error("a pack of %s can't be read: %s", intake.function, exc)
        intake.fail(claim.tag, exc)
        intake.finish(claim.tag)
        return
    split_off(intake, claim, Split(Ended(claim.id, None, 0, claim.reply, None, 0), rest=made))
    intake.drop(claim)


def split_off(intake: Intake, claim: Claim, split: Split) -> bool:
    """Take a pack apart in Redis; False when this container doesn't hold it any more."""
    found: list[bool] = []

    def act() -> None:
        found.append(
            intake.under_epoch(
                claim, lambda e: intake.store.split(intake.container, e, intake.function, split), lambda done: not done
            )
        )

    intake.insist(act)
    return found[-1]
