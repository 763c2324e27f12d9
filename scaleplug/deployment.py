"""Deployments: an app's functions and classes as of one moment, registered in one step and numbered."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from redis.lock import Lock

from scaleplug.errors import ConfigurationError, InvalidError, NotFoundError, SerializationError, did_you_mean
from scaleplug.pools import Owner, rebased
from scaleplug.registry import Registration
from scaleplug.serializer import CODE, REGISTRY, Keyring, pickle
from scaleplug.store import Store

LOCK_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What is known of an app's last deployment; ``at`` is Unix time."""

    app: str
    version: int
    at: float
    source: str
    functions: tuple[str, ...]
    """Names of its functions and classes."""
    stopped: bool = False

    def seal(self, keyring: Keyring) -> bytes:
        """Return it signed."""
        return keyring.seal(REGISTRY, f"{self.app}|app", json.dumps(asdict(self), sort_keys=True).encode())

    @classmethod
    def unseal(cls, keyring: Keyring, app: str, sealed: bytes) -> Deployment:
        """Return what was signed; raises SerializationError."""
        values = json.loads(keyring.unseal(REGISTRY, f"{app}|app", sealed))
        return cls(**values | {"functions": tuple(values["functions"])})


def find(store: Store, keyring: Keyring, app: str) -> Deployment | None:
    """Return an app's deployment; ``None`` where it never was deployed. Raises ConfigurationError."""
    sealed = store.app(app)
    if sealed is None:
        return None
    try:
        return Deployment.unseal(keyring, app, sealed)
    except SerializationError as exc:
        raise ConfigurationError(f"the deployment of {app!r} can't be read: {exc}") from None


def deploy(store: Store, keyring: Keyring, app: str, owners: Iterable[Owner]) -> Deployment:
    """Register what an app consists of now; what it consisted of before and isn't among it retires.

    Containers of the version before are replaced once one of the new version is ready. Overrides of settings end.
    """
    with Lock(store.client, store.keys.of("deploying", app), timeout=LOCK_SECONDS):
        try:
            before = find(store, keyring, app)
        except ConfigurationError:
            before = None  # of a secret that is no longer used
        number = before.version + 1 if before else 1
        made, codes = _registrations(keyring, owners, number)
        pools, gone = _pools(store, keyring, app, made)
        for name, (version, sealed) in codes.items():
            put_code(store, name, version, sealed)
        source = next((r.source.where for r in made.values() if r.source.where), "")
        deployment = Deployment(
            app=app, version=number, at=time.time(), source=source, functions=tuple(r.name for r in made.values())
        )
        every = made | pools
        store.deploy(
            app, deployment.seal(keyring), {n: r.seal(keyring) for n, r in every.items()},
            {n: r.version for n, r in every.items()}, gone,
        )  # fmt: skip
    return deployment


def _registrations(
    keyring: Keyring, owners: Iterable[Owner], number: int
) -> tuple[dict[str, Registration], dict[str, tuple[str, bytes]]]:
    made, codes = {}, {}
    for owner in owners:
        registration = owner.registration()
        if registration is None:
            raise InvalidError(
                f"the code of {owner.full_name} isn't in this process, so it can't be deployed from here"
            )
        version = str(number)
        if registration.serialized:
            version, sealed = seal_code(keyring, owner)
            codes[owner.full_name] = (version, sealed)
        made[owner.full_name] = replace(registration, version=version, deployed=True)
    return made, codes


def _pools(
    store: Store, keyring: Keyring, app: str, made: dict[str, Registration]
) -> tuple[dict[str, Registration], list[str]]:
    """Return what the variants of the functions become, and which functions and variants are gone."""
    pools, gone = {}, []
    for name, sealed in store.functions().items():
        if not name.startswith(f"{app}.") or name in made:
            continue
        try:
            known = Registration.unseal(keyring, name, sealed)
        except SerializationError:
            gone.append(name)
            continue
        base = made.get(f"{app}.{known.base}") if known.base else None
        if known.app != app:
            continue
        try:
            if base is None or base.is_class != known.is_class:
                raise InvalidError("its function is gone")
            pools[name] = rebased(known, base)
        except InvalidError:
            gone.append(name)
    return pools, gone


def seal_code(keyring: Keyring, owner: Owner) -> tuple[str, bytes]:
    """Return a digest of the code that travels pickled, and the code, sealed."""
    pickled = pickle(owner.code(), f"the code of {owner.base_name}")
    return hashlib.sha256(pickled).hexdigest()[:12], keyring.seal(CODE, owner.base_name, pickled)


def put_code(store: Store, name: str, version: str, sealed: bytes) -> None:
    """Register pickled code; the version before it stays as long as it may still be started."""
    before = store.version(name)
    store.put_code(name, version, sealed)
    store.drop_code(name, keep={version, before})


def stop(store: Store, keyring: Keyring, app: str) -> list[str]:
    """Let everything of an app retire: inputs that are there are run, new ones refused. Returns what retires."""
    deployment = find(store, keyring, app)
    names = [name for name, owner in _owners(store, keyring).items() if owner == app]
    if deployment is None and not names:
        known = sorted({*store.apps(), *_owners(store, keyring).values()})
        raise NotFoundError(f"no app {app!r} is deployed here{did_you_mean(app, known)}")
    if deployment is None:
        deployment = Deployment(app=app, version=0, at=time.time(), source="", functions=())
    store.deploy(app, replace(deployment, stopped=True).seal(keyring), {}, {}, names)
    return names


def _owners(store: Store, keyring: Keyring) -> dict[str, str]:
    """Return the app of every registered function that can be read."""
    found: dict[str, Any] = {}
    for name, sealed in store.functions().items():
        try:
            found[name] = Registration.unseal(keyring, name, sealed).app
        except SerializationError:
            continue
    return found
