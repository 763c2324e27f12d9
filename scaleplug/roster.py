"""The functions that the controller looks after, as the registry has them."""

from __future__ import annotations

import logging
from collections.abc import Collection

from scaleplug.errors import InvalidError, SerializationError
from scaleplug.memory import Memory
from scaleplug.registry import Registration, open_override
from scaleplug.serializer import Keyring
from scaleplug.settings import FunctionSettings, override
from scaleplug.store import Store
from scaleplug.view import View

logger = logging.getLogger("scaleplug")

UNUSED_SECONDS = 60.0
"""How long a variant or a parameter set without containers stays registered, or its scale-down window if longer."""


class Roster:
    """The views of all registered functions."""

    def __init__(self, store: Store, keyring: Keyring) -> None:
        self.store, self.keyring = store, keyring
        self.views: dict[str, View] = {}
        self.memory = Memory(store)
        self.retiring_templates: dict[str, Registration] = {}
        """Classes without containers of their own that are to go."""
        self.unused_seconds = UNUSED_SECONDS

    def read(self, functions: Collection[str] | None = None) -> list[Registration]:
        """Read the registry, or only what it says of some functions; return what is registered and doesn't retire.

        A function that is registered no longer keeps its view while it has containers; see :attr:`View.missing`.
        """
        found, known = [], list[Registration]()
        rows = self.store.registry(functions)
        for function in (self.views.keys() if functions is None else set(functions)) - rows.keys():
            if function in self.views:
                self.views[function].missing = True
        for function, (sealed, laid_over, retiring) in rows.items():
            try:
                registration = Registration.unseal(self.keyring, function, sealed)
            except SerializationError as exc:
                logger.error("the registration of %s is ignored: %s", function, exc)
                if function in self.views:
                    self.views[function].missing = True
                continue
            known.append(registration)
            self.retiring_templates.pop(function, None)
            if registration.template:
                if retiring:
                    self.retiring_templates[function] = registration
                continue
            self._update(registration, self._settings(registration, laid_over), retiring=retiring)
            if not retiring:
                found.append(registration)
        self.memory.note(rows, known, functions)
        return found

    def _update(self, registration: Registration, settings: FunctionSettings, *, retiring: bool) -> None:
        function = registration.function
        view = self.views.get(function)
        if view is None:
            learned = self.store.learned(function)
            view = self.views[function] = View(
                registration, settings,
                service_time=learned.get("service_time"), start_time=learned.get("start_time"),
            )  # fmt: skip
        view.update(registration, settings, retiring=retiring)

    def _settings(self, registration: Registration, sealed: bytes | None) -> FunctionSettings:
        """Return the settings in force; an override that can't be read, or doesn't fit any more, is ignored."""
        try:
            return override(registration.settings, open_override(self.keyring, registration.function, sealed))
        except (SerializationError, InvalidError) as exc:
            logger.error("the override of the settings of %s is ignored: %s", registration.shown, exc)
            return registration.settings

    def registration(self, function: str, version: str) -> Registration:
        """Return the registration of which a container is to be started."""
        view = self.views[function]
        return view.proven if view.proven is not None and view.proven.version == version else view.registration

    def in_use(self) -> list[Registration]:
        """Return every registration of which containers run or may be started."""
        proven = (v.proven for v in self.views.values() if v.proven is not None and v.proving)
        return [*(v.registration for v in self.views.values()), *proven]

    def retire(self, token: str, now: float) -> bool:
        """Forget functions that have nothing left and retire; let variants and parameter sets retire that nobody uses.

        Returns whether any was forgotten.
        """
        missing = {function for function, view in self.views.items() if view.missing and not view.containers}
        gone = [*missing]
        for group in self._retiring():
            if self.store.retire(token, group):
                gone += group
        for function, view in self.views.items():
            if view.containers:
                view.unused_since = 0.0
            elif view.registration.base and not view.retiring and not view.settings.min_containers:
                view.unused_since = view.unused_since or now
                if now - view.unused_since > max(self.unused_seconds, view.settings.scaledown_window):
                    view.unused_since = now
                    if self.store.let_be(token, function):
                        view.update(view.registration, view.settings, retiring=True)
        for function in gone:
            self.views.pop(function, None)
            if function not in missing:  # those it has forgotten, unless Redis has lost them together with all
                self.memory.forget(function)
            self.retiring_templates.pop(function, None)
        return bool(gone)

    def _retiring(self) -> list[list[str]]:
        """Return what retires: unused variants one by one, what a deployment has dropped of an app together.

        As long as old code of an app runs, it may call what its new code doesn't have.
        """
        old = {v.registration.app for v in self.views.values() if v.containers and (v.retiring or v.old_code)}
        alone, apps = [], {registration.app: [f] for f, registration in self.retiring_templates.items()}
        for function, view in self.views.items():
            if not view.retiring or view.missing:
                continue
            base = f"{view.registration.app}.{view.registration.base}"
            dropped = base in self.retiring_templates or (base in self.views and self.views[base].retiring)
            if view.registration.base and not dropped:
                alone.append([function])
            else:
                apps.setdefault(view.registration.app, []).append(function)
        return [
            *(g for g in alone if not self.views[g[0]].containers),
            *(g for app, g in apps.items() if app not in old),
        ]
