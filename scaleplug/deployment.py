"""Deployments: an app's functions and classes as of one moment, registered in one step and numbered."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

from redis.lock import Lock

from scaleplug.errors import ConfigurationError, InvalidError, NotFoundError, SerializationError, did_you_mean
from scaleplug.pools import Owner, code_version, pickled_code, rebased
from scaleplug.registry import Registration, lookup, unreadable
from scaleplug.serializer import CODE, REGISTRY, Keyring
from scaleplug.store import Store
from scaleplug.timetable import Timetable, check_rules, present_overrides

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
    gone: tuple[str, ...] = ()
    """Names of those that the version before had and this one hasn't."""

    def seal(self, keyring: Keyring) -> bytes:
        """Return it signed."""
        return keyring.seal(REGISTRY, f"{self.app}|app", json.dumps(asdict(self), sort_keys=True).encode())

    @classmethod
    def unseal(cls, keyring: Keyring, app: str, sealed: bytes) -> Deployment:
        """Return what was signed; raises SerializationError."""
        text = keyring.unseal(REGISTRY, f"{app}|app", sealed)
        try:
            values = json.loads(text)
            known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
            return cls(**known | {name: tuple(known.get(name, ())) for name in ("functions", "gone")})
        except (KeyError, TypeError, ValueError) as exc:
            raise unreadable(exc) from None


def find(store: Store, keyring: Keyring, app: str) -> Deployment | None:
    """Return an app's deployment; ``None`` where it never was deployed. Raises ConfigurationError."""
    sealed = store.app(app)
    if sealed is None:
        return None
    try:
        return Deployment.unseal(keyring, app, sealed)
    except SerializationError as exc:
        raise ConfigurationError(f"the deployment of {app!r} can't be read: {exc}") from None


# -- what callers register -----------------------------------------------------------------------------------------


def make_known(store: Store, keyring: Keyring, app: str, owner: Owner, *, inside: bool) -> None:
    """Register a pool that the registry doesn't know as it is here; raises NotFoundError.

    What was deployed stays as it is; of what nobody deployed, the last one to come knows best. ``inside`` is a
    container of the app: what it runs is still to call what goes.
    """
    rows = store.registry({owner.base_name, owner.full_name})
    if inside and owner.full_name in rows and owner.base_name in rows and rows[owner.full_name][2]:
        return
    base = _known_base(store, keyring, app, owner, rows.get(owner.base_name))
    wanted, known = owner.variant(base), rows.get(owner.full_name)
    with contextlib.suppress(SerializationError):
        if known and not known[2] and Registration.unseal(keyring, owner.full_name, known[0]) == wanted:
            return
    if wanted is not base:
        store.put_functions({owner.full_name: wanted.seal(keyring)}, {owner.full_name: wanted.version})


def _known_base(
    store: Store, keyring: Keyring, app: str, owner: Owner, row: tuple[bytes, bytes | None, bool] | None
) -> Registration:
    """Return what an owner's function or class is registered as, after registering it where it isn't."""
    known: Registration | None = None
    deployment = find(store, keyring, app)
    if deployment is not None and deployment.stopped:
        raise NotFoundError(f"the app {app!r} was stopped: 'scaleplug deploy' brings it back")
    with contextlib.suppress(SerializationError):  # of another secret, or of a version to come
        known = Registration.unseal(keyring, owner.base_name, row[0]) if row and not row[2] else None
    mine, name = owner.registration(), owner.base_name.removeprefix(f"{app}.")
    if mine is None or (known is not None and known.deployed):
        return known or lookup(store, keyring, app, name)
    if known is None and deployment is not None and deployment.functions and not mine.serialized:
        near = did_you_mean(name, deployment.functions)
        raise NotFoundError(
            f"the app {app!r} as it was deployed (version {deployment.version}) has no {name!r}{near}. "
            "'scaleplug deploy' deploys it as it is now"
        )
    if mine.serialized:
        version, sealed = seal_code(keyring, owner)
        mine = replace(mine, version=version)
        if known != mine:
            put_code(store, owner.base_name, version, sealed)
    if known != mine:
        made = {mine.function: mine}
        made |= _pools(store, keyring, app, made)[0] if known is not None else {}
        store.put_functions({n: r.seal(keyring) for n, r in made.items()}, {n: r.version for n, r in made.items()})
    return mine


def revive(store: Store, keyring: Keyring, app: str) -> bool:
    """Make an app that was stopped one that callers may register; return whether they may: not while it is deployed."""
    deployment = find(store, keyring, app)
    if deployment is None:
        return True
    if deployment.stopped:
        store.put_app(app, replace(deployment, stopped=False, functions=()).seal(keyring))
    return deployment.stopped or not deployment.functions


# -- deployments ---------------------------------------------------------------------------------------------------


def deploy(store: Store, keyring: Keyring, app: str, owners: Iterable[Owner]) -> Deployment:
    """Register what an app consists of now; what it consisted of before and isn't among it retires.

    Containers of the version before are replaced once one of the new version is ready. Overrides of settings end, but
    for those that the rules of the autoscalers make.
    """
    with Lock(store.client, store.keys.of("deploying", app), timeout=LOCK_SECONDS):
        try:
            before = find(store, keyring, app)
        except ConfigurationError:
            before = None  # of a secret that is no longer used
        number = before.version + 1 if before else 1
        made, codes = _registrations(keyring, owners, number)
        now = datetime.now(UTC)
        check_rules(made.values(), now)
        pools, gone = _pools(store, keyring, app, made)
        for name, (version, sealed) in codes.items():
            put_code(store, name, version, sealed)
        source = next((r.source.where for r in made.values() if r.source.where), "")
        deployment = Deployment(
            app=app, version=number, at=time.time(), source=source, functions=tuple(r.name for r in made.values()),
            gone=tuple(sorted(n.removeprefix(f"{app}.") for n in gone if "~" not in n)),
        )  # fmt: skip
        every, timetable = made | pools, Timetable(store)
        store.deploy(
            app, deployment.seal(keyring), {n: r.seal(keyring) for n, r in every.items()},
            {n: r.version for n, r in every.items()}, gone,
            present_overrides(keyring, made.values(), timetable.paused(app), now),
        )  # fmt: skip
        timetable.put(app, made.values(), now)
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
            pickled_code(owner, anew=True)
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
    """Return the version of code that travels pickled, and the code, sealed."""
    pickled, version = pickled_code(owner), code_version(owner)
    return version, keyring.seal(CODE, f"{owner.base_name}@{version}", pickled)


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
    Timetable(store).drop(app)
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
