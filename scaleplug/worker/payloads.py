"""What a container reads and writes of large values: arguments before Celery unpickles them, outcomes at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cloudpickle

from scaleplug.blobs import LARGE, Blobs, Parts, Pickled, check_size, outcome_key, pickle_in_pieces
from scaleplug.errors import SerializationError
from scaleplug.serializer import OUTPUT, RETURN, pickle_failure, seal_failure, unpicklable

if TYPE_CHECKING:
    from scaleplug.worker.holding import Claim


class Payloads:
    """The large values of one container."""

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs
        self._fetched: dict[bytes, Parts | SerializationError] = {}
        self._taken: dict[bytes, Any] = {}

    def fetch(self, reference: bytes) -> None:
        """Read the arguments for which a verified reference stands, for :meth:`take`; raises Redis errors only."""
        try:
            self._fetched[reference] = self.blobs.read(reference)
        except SerializationError as exc:
            self._fetched[reference] = exc

    def take(self, reference: bytes) -> Any:
        """Return the arguments that were fetched, or raise SerializationError.

        They are unpickled once: Celery asks twice for the arguments of every input.
        """
        if reference not in self._taken:
            found = self._fetched.pop(reference, None)
            if not isinstance(found, tuple):
                raise found or SerializationError("its arguments are kept apart, and have not been fetched")
            self._taken[reference] = cloudpickle.loads(found[0], buffers=found[1])
        return self._taken[reference]

    def forget(self, reference: bytes) -> None:
        """Let go of the arguments of an input that has ended."""
        self._fetched.pop(reference, None)
        self._taken.pop(reference, None)

    def settle(self, claim: Claim, context: str, value: Any, function: str) -> None:
        """Settle that an input returned ``value``; raises PayloadTooLargeError, and Redis errors if it is large."""
        what = f"what {function} returned"
        try:
            pickled = pickle_in_pieces(value, lambda exc: unpicklable(what, value, exc, advice=RETURN))
        except (SerializationError, SystemExit) as exc:
            told = exc if isinstance(exc, SerializationError) else unpicklable(what, value, exc, advice=RETURN)
            claim.outcome = seal_failure(self.blobs.keyring, context, told)
            return
        check_size(what, pickled.size, self.blobs.limit)
        self._settle(claim, context, b"+", pickled)

    def settle_failure(self, claim: Claim, context: str, exc: BaseException) -> None:
        """Settle that an input raised ``exc``; raises Redis errors if that is large."""
        pickled = pickle_failure(exc, self.blobs.limit)
        self._settle(claim, context, b"-", Pickled((memoryview(pickled),)))

    def _settle(self, claim: Claim, context: str, mark: bytes, pickled: Pickled) -> None:
        if pickled.size < LARGE:
            payload = mark + pickled.joined()
        else:
            key, keep = outcome_key(claim.reply["call"], claim.reply["index"]), claim.reply["keep"] > 0
            payload = self.blobs.write(key, pickled, mark=mark, keep=keep)
            claim.draft = key
        claim.outcome = self.blobs.keyring.seal(OUTPUT, context, payload)
