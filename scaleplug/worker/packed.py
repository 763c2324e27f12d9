"""Run the inputs of a pack, each as the input that it is.

What ends well, or fails for good, is handed back with the others. Everything else leaves the pack and goes on as any
input does: one that is to be retried, whose result is large, or that runs when the pack has taken too long.
"""

from __future__ import annotations

import logging
import pickle
import time
from typing import TYPE_CHECKING, Any

from celery._state import _task_stack
from celery.app.task import Context

from scaleplug.blobs import LARGE, weigh
from scaleplug.context import running
from scaleplug.errors import InputCancellation, SerializationError
from scaleplug.packing import PACK_BYTES
from scaleplug.serializer import RETURN, pickle_failure, pickle_plain, unpicklable
from scaleplug.store import Rest, Split
from scaleplug.worker.copies import leave_copy
from scaleplug.worker.holding import Claim
from scaleplug.worker.packs import Pack, as_bytes, break_up, split_off
from scaleplug.worker.runner import CELERYS_OWN, Body, own_frames_off
from scaleplug.worker.runs import Run

if TYPE_CHECKING:
    from scaleplug.worker.turns import Turns

logger = logging.getLogger(__name__)


class Packed:
    """A pack under way."""

    def __init__(self, turns: Turns, claim: Claim, message: dict[str, Any]) -> None:
        self.turns, self.claim, self.message = turns, claim, message
        self.intake, self.runner, self.fast = turns.intake, turns.runner, turns.fast
        self.keyring = self.intake.keyring
        self.began = time.monotonic()
        self.single: Claim | None = None
        """The claim of the input that runs, once it has left the pack."""
        self.gone = False
        """Whether nothing of the pack is here any more."""
        self.doubted = False
        """Whether it may have been taken apart already, for the answer was lost."""
        self.run_: Run | None = None

    def run(self) -> int:
        """Run the inputs; return how many."""
        body = self.fast.takes(self.claim, self.message["headers"])
        if body is None:
            break_up(self.intake, self.claim, self.message)
            return 0
        self.pack = Pack(self.claim, self.message, self.intake.function)
        self.values = self.fast.request(self.claim, self.message)
        self.task = self.fast.tasks[self.claim.task]
        self.retried = self.runner.settings.retries is not None
        run = self.run_ = self.runner.open_run(self.claim, body)
        self.runner.main_run = run
        _task_stack.push(self.task)
        self.fast.pack_begins(self.task, self.values, len(self.pack.parts))
        try:
            if self.runner.was_cancelled(self.claim.id):
                run.claim.verdict = "cancel"
            while self._next(run):
                self._run_one(run, body)
        except InputCancellation:
            run.claim.verdict = "cancel"  # it came between two inputs
        finally:
            self.runner.main_run = None
            self.runner.close_run(run)
            _task_stack.pop()
            with self.turns.lock:
                self.turns.packed = None
        self._end(run)
        ran = self.pack.at + 1
        self.fast.pack_ends(self.task, self.values, f"{ran} inputs ran", time.monotonic() - self.began)
        return ran

    def _next(self, run: Run) -> bool:
        pack = self.pack
        with self.turns.lock:
            if self.gone or run.interrupted or pack.at + 1 == len(pack.parts):
                return False
            if self.intake.draining or pack.bytes > PACK_BYTES:
                return False
            pack.at += 1
            pack.begun, pack.running = time.monotonic(), True
            self.turns.packed = self
        return True

    def _end(self, run: Run) -> None:
        """Hand back the pack; what was not begun goes back to the queue."""
        if self.gone:
            return
        ended = self.pack.ended(self.keyring, time.monotonic() - self.began)
        rest = self.pack.others(self.keyring)
        if not rest or run.interrupted:
            self.turns.end(self.claim, ended)
        else:
            split_off(self.intake, self.claim, Split(ended, rest=rest))
            self.intake.drop(self.claim)

    # -- one input -------------------------------------------------------------------------------------------------

    def _run_one(self, run: Run, body: Body) -> None:
        pack, call = self.pack, self.claim.reply["call"]
        index = pack.first + pack.at
        request = self._request(call, index)
        self.task.request_stack.push(request)
        try:
            try:
                request.args, request.kwargs, _ = pickle.loads(pack.parts[pack.at])  # it is verified
            except (Exception, SystemExit) as exc:  # noqa: BLE001  # whatever a class's own unpickling does
                text = f"an argument of {self.claim.task} can't be unpickled: {type(exc).__name__}: {exc}"
                self._failed(run, request, SerializationError(text))
                return
            run.input_id = request.id
            with running(request.id, call):
                self._call(run, body, request)
        finally:
            self.task.request_stack.pop()

    def _call(self, run: Run, body: Body, request: Context) -> None:
        self.fast.before(self.task, request, packed=True)
        value: Any = None
        state = "SUCCESS"
        try:
            try:
                try:
                    value = self.runner.call(run, body, request.args, request.kwargs)
                finally:
                    leave_copy()  # it must not run the rest of the pack too
                self.runner.check_interrupted(run)
                outcome = self._pickled(value)
            except BaseException as exc:  # noqa: BLE001  # whatever the user's code raises
                value, state = self._failed(run, request, exc)
            else:
                self._succeeded(request, value, outcome)
        finally:
            self.fast.after(self.task, request, value, state)

    def _request(self, call: str, index: int) -> Context:
        values, input_id = self.values, f"{call}:{index}"
        reply = {**values["scaleplug"], "index": index}
        reply.pop("pack", None)
        request = Context.__new__(Context)
        request.__dict__.update(
            values, id=input_id, correlation_id=input_id, group_index=index, scaleplug=reply,
            headers={**values["headers"], "scaleplug": reply},
        )  # fmt: skip
        if values["root_id"] == values["id"]:
            request.root_id = input_id
        return request

    # -- what becomes of it ----------------------------------------------------------------------------------------

    def _pickled(self, value: Any) -> bytes | None:
        """Return a result as it travels, ``None`` if it is too large for that."""
        if weigh(value) >= LARGE:
            return None
        try:
            pickled = pickle_plain(value)
        except (Exception, SystemExit) as exc:
            what = f"what {self.intake.function} returned"
            raise unpicklable(what, value, exc, advice=RETURN) from exc
        return b"+" + pickled if len(pickled) < LARGE else None

    def _succeeded(self, request: Context, value: Any, outcome: bytes | None) -> None:
        if outcome is None or not self._keep(outcome, failed=False):
            single = self._own_claim()
            if single is None:
                return
            self.runner.succeed(single, value)
            self.intake.finish(single.tag)
        self.fast.succeeded(self.task, request, value, self.pack.begun, packed=True)

    def _failed(self, run: Run, request: Context, exc: BaseException) -> tuple[Any, str]:
        """Settle that an input has raised; return what Celery gives its receivers."""
        if run.interrupted and self.single is None:
            return exc, "IGNORED"  # the call is cancelled: nobody waits for any of the pack
        outcome = self._failure(exc)
        if outcome is not None and self._keep(outcome, failed=True):
            return self.fast.failed(self.task, request, exc, packed=True)[:2]
        single = self._own_claim()
        if single is None:
            return exc, "IGNORED"
        told = self.runner.fail(single, exc)
        value, state, kept = self.fast.failed(self.task, request, told, packed=True)
        self.intake.finish(single.tag) if kept else self.intake.requeue(single.tag)
        return value, state

    def _failure(self, exc: BaseException) -> bytes | None:
        """Return a failure as it travels with others, ``None`` if it is more than a plain one."""
        plain = isinstance(exc, Exception) and not isinstance(exc, (MemoryError, *CELERYS_OWN))
        if not plain or self.retried:
            return None
        exc.__traceback__ = own_frames_off(exc)
        pickled = pickle_failure(exc, self.intake.payloads.blobs.limit)
        return b"-" + pickled if len(pickled) < LARGE else None

    def _keep(self, outcome: bytes, *, failed: bool) -> bool:
        """Note how the input has ended; False if it has left the pack meanwhile, or may have."""
        with self.turns.lock:
            if self.gone or self.doubted:
                return False
            self.pack.end(outcome, failed=failed)
            return True

    # -- leaving the pack ------------------------------------------------------------------------------------------

    def _own_claim(self) -> Claim | None:
        """Return the claim of the input that runs: it leaves the pack. ``None`` if the pack isn't this container's."""
        with self.turns.lock:
            self.turns.packed = None
            if self.gone:
                return self.single
        split, single = self.split(self.intake.timeout)
        if split_off(self.intake, self.claim, split):
            self.leave(single)
        else:
            self.gone = True
            self.intake.drop(self.claim)
        return self.single

    def split(self, timeout: float) -> tuple[Split, Claim]:
        """Return what is to be done to take the pack apart, and the claim that the input that runs will have."""
        pack, claim = self.pack, self.claim
        input_id, message = pack.one(self.keyring, pack.at)
        reply = {k: v for k, v in claim.reply.items() if k != "pack"} | {"index": pack.first + pack.at}
        single = Claim(
            input_id, f"{input_id}/0.{claim.attempt}", claim.epoch, claim.attempt, "", "", reply,
            task=claim.task, begun=pack.begun,
        )  # fmt: skip
        left = timeout - (time.monotonic() - pack.begun)
        ended = pack.ended(self.keyring, pack.begun - self.began)
        return Split(ended, Rest(input_id, as_bytes(message)), left, pack.others(self.keyring)), single

    def leave(self, single: Claim) -> None:
        """Note that the pack has been taken apart: the input that runs has a claim of its own."""
        single.epoch = self.intake.epoch
        self.intake.claims[single.tag] = self.intake.by_id[single.id] = single
        if self.run_ is not None:
            self.runner.runs.pop(self.claim.id, None)
            self.run_.claim = single
            self.runner.runs[single.id] = self.run_
        self.single, self.gone = single, True
        self.intake.forget(self.claim)
