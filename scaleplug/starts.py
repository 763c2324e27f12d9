"""How starts go: which code can be imported, which containers don't start and why, and when the next is tried."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from scaleplug.backends import Backend
from scaleplug.lease import Lease
from scaleplug.store import Store
from scaleplug.view import View

logger = logging.getLogger("scaleplug")

FAILURES_BEFORE_FAILING = 3
BACK_OFF = (0.5, 60.0)


class Starts:
    """What the controller knows, and tells, of containers that start."""

    def __init__(self, store: Store, lease: Lease, backend: Backend, *, fail_fast: bool) -> None:
        self.store, self.lease, self.backend, self.fail_fast = store, lease, backend, fail_fast

    def check_imports(self, views: Mapping[str, View]) -> None:
        """Write down which deployed code can be started, and tell of what can't be imported."""
        prepared, told = {}, set()
        for function, view in views.items():
            registration = view.registration
            if not registration.deployed or view.retiring or view.prepared == registration.version:
                continue
            problem = self.backend.problem(registration)
            if problem is None:
                continue
            view.prepared = registration.version
            if not problem:
                prepared[function] = registration.version
                continue
            self._note(view, "its code could not be imported", problem.splitlines(), registration.version)
            if (registration.app, registration.version) not in told:
                told.add((registration.app, registration.version))
                logger.error(
                    "version %s of the app %s can't be imported%s:\n%s",
                    registration.version, registration.app, _goes_on(view), problem.rstrip(),
                )  # fmt: skip
        self.store.put_prepared(prepared)

    def worked(self, view: View) -> None:
        """Forget what went wrong, once a container of the registered code has been ready."""
        if view.works and view.troubled:
            view.troubled = False
            self.store.put_trouble(view.registration.function, None)

    def failed(self, view: View, reason: str, lines: Sequence[str], version: str) -> None:
        """Put the next start off, and tell; inputs that would wait for ever fail.

        Code that has been deployed over meanwhile says nothing of what is started from now on.
        """
        if not view.starts(version):
            return
        self._note(view, reason, lines, version)
        shown, now = view.registration.shown, self.store.now()
        if now < view.back_off_until:
            return  # one of several that were started together
        view.failures += 1
        low, high = BACK_OFF
        view.back_off_until = now + min(high, low * 2 ** (view.failures - 1))
        tail = "\n".join(lines)
        printed = f". It printed:\n{tail}" if tail and view.failures == 1 else ""  # the same each time, mostly
        pause = view.back_off_until - now
        goes_on = _goes_on(view)
        logger.error(
            "a container of %s did not start (%s); next try in %g s%s%s", shown, reason, pause, goes_on, printed
        )
        if (self.fail_fast or view.retiring) and view.failures >= FAILURES_BEFORE_FAILING:
            text = f"no container of {shown} could be started: {reason}" + (f"\n{tail}" if tail else "")
            self.store.fail_pending(self.lease.token, view.registration.function, text)

    def _note(self, view: View, reason: str, lines: Sequence[str], version: str) -> None:
        trouble = {"at": self.store.now(), "version": version, "reason": reason, "lines": list(lines)}
        view.troubled = True
        self.store.put_trouble(view.registration.function, trouble)


def _goes_on(view: View) -> str:
    return f"; version {view.proven.version} goes on" if view.proving and view.proven is not None else ""
