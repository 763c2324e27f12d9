"""Make a container of what is registered: from code that was imported here, or from code that travels pickled."""

from __future__ import annotations

import cloudpickle

from scaleplug.app import App
from scaleplug.here import find_app
from scaleplug.registry import Registration, Source
from scaleplug.serializer import CODE, Keyring
from scaleplug.settings import Config
from scaleplug.store import Store
from scaleplug.worker.container import Container


def imported(registration: Registration, source: Source, config: Config, store: Store) -> Container:
    """Return the container of a function whose file or module has been imported here."""
    app = find_app(registration.app)
    served = None if app is None else app.named(registration.name)
    if served is None:
        kind = "class" if registration.is_class else "function"
        raise RuntimeError(f"{source.where} defines no {kind} {registration.name!r} in an app {registration.app!r}")
    return Container(served, registration, config, store)


def unpickled(registration: Registration, config: Config, store: Store) -> Container:
    """Return the container of a function that travels pickled: fetched from the registry, and verified."""
    app = find_app(registration.app) or App(registration.app)
    base = f"{app.name}.{registration.name}"
    sealed = app.store.code(base, registration.version)
    if sealed is None:
        raise RuntimeError(f"the code of {base} (version {registration.version}) is not in the registry")
    raw = cloudpickle.loads(Keyring(config.secret).unseal(CODE, f"{base}@{registration.version}", sealed))
    return Container(app.adopt(registration, raw), registration, config, store)
