"""Begin an input while its claim is still on its way: a trip less before the user's code runs.

``look.lua`` is sent behind the take, so that Redis runs it in the moment in which the take is through. It changes
nothing, and says whether the message would be claimed for the first time. If so, its claim is only sent, before the
user's code runs, and its answer read when the outcome is handed back. Until it is claimed it lies in transit, and
whatever ends the container then gives it back blamelessly.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, ResponseError

from scaleplug.store import Claimed

if TYPE_CHECKING:
    from scaleplug.worker.intake import Intake

logger = logging.getLogger(__name__)

FRESH_SECONDS = 0.2
"""A look counts for so long: who reads its answer later was frozen, and may have been given up meanwhile."""
LONG_SECONDS = 1.0
"""What runs for so long is looked after: see :meth:`Ahead.make_sure`."""
MARK = b"@scaleplug-id@"


class Ahead:
    """What an intake knows of the message it has just taken; for the consumer's thread."""

    def __init__(self, intake: Intake) -> None:
        self.intake, self.store = intake, intake.store
        self.on = False
        """Whether to look at all: where one input runs at a time."""
        self._looked = b""
        self._sent = ""
        """The id of the input whose claim has been sent, and may not have been heard."""
        self._sure = ""
        """The id of the last one of those that another thread has seen to."""
        self._unread = False
        """Whether the answer to that is still to come on the link."""
        self._ends: tuple[bytes, bytes] | None = None
        """What a claim is sent as, before and behind the input's id."""

    def reset(self) -> None:
        """Begin with a new link: nothing more comes on the old one."""
        self._looked, self._sent, self._unread, self._ends = b"", "", False, None

    def command(self) -> tuple[Any, ...]:
        """Return what is sent behind a take."""
        intake = self.intake
        return self.store.look(intake.container, intake.epoch, intake.function, intake.version)

    def read(self) -> None:
        """Read the answer to that, which follows the take's."""
        self._looked = b""
        try:
            self._looked = bytes(self.intake.read())
        except NoScriptError:
            self.store.know_scripts(["look", "begun"])
        except ResponseError as exc:
            logger.debug("a message that was taken could not be looked at: %s", exc)

    def claim(self, message: dict[str, Any]) -> Claimed | None:
        """Send the claim of the message just taken; ``None`` if its answer must be waited for.

        Only this link knows of the claim until :meth:`settle`.
        """
        looked, self._looked = self._looked, b""
        if not looked or "large" in message:
            return None
        at, _, found = looked.partition(b" ")
        input_id, intake = message["headers"]["id"], self.intake
        if found != input_id.encode() or not self._is_fresh(float(at)):
            return None
        intake.send(self._command_for(input_id.encode()))
        self._sent, self._unread = input_id, True
        return Claimed("ok", 1)

    def _command_for(self, input_id: bytes) -> bytes:
        """Return the packed command that claims an input: packing it each time would cost as much as sending it."""
        if self._ends is None:
            intake = self.intake
            where = (intake.container, intake.epoch, intake.function, MARK, intake.timeout)
            head, tail = intake.pack(*self.store.begun(*where)).split(_bulk(MARK))
            self._ends = head, tail
        return self._ends[0] + _bulk(input_id) + self._ends[1]

    def _is_fresh(self, at: float) -> bool:
        now = self.store.known_now()
        if now and abs(now - at) > FRESH_SECONDS:  # or the clocks have drifted
            self.store.forget_clock()
            now = self.store.now()
        return abs(now - at) <= FRESH_SECONDS

    def settle(self) -> None:
        """See to it that the claim has been heard, before anything on another connection needs it."""
        if self._unread:
            self._unread = False
            with contextlib.suppress(ResponseError):
                self.intake.read()
                self._sent = ""
        if self._sent:
            intake = self.intake
            self.store.begin(intake.container, intake.epoch, intake.function, self._sent, intake.timeout, {})
            self._sent = ""

    def make_sure(self) -> None:
        """Claim an input that runs for long if its claim got lost with the link, which nobody reads; on another thread.

        Without that its timeout would not count. Where it is claimed, or has ended, this changes nothing.
        """
        intake, sent = self.intake, self._sent
        claim = intake.by_id.get(sent)
        if claim is None or sent == self._sure:
            return
        ran = time.monotonic() - claim.taken
        if ran > LONG_SECONDS:
            left = max(0.0, intake.timeout - ran)
            self.store.begin(intake.container, claim.epoch, intake.function, sent, left, {})
            self._sure = sent

    def pass_on(self) -> bool:
        """Return whether the claim's answer is still to come, and leave it to who asks: an outcome needs no claim."""
        unread, self._unread, self._sent = self._unread, False, ""
        return unread


def _bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)
