"""What Redis knows of a function: where its code is and what its settings are, signed, and read without unpickling."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from scaleplug import __version__
from scaleplug.errors import ExecutionError, NotFoundError, SerializationError, did_you_mean
from scaleplug.serializer import REGISTRY, Keyring
from scaleplug.settings import FunctionSettings
from scaleplug.store import Store

PROJECTS = {"django": "scaleplug.contrib.django.project", "flask": "scaleplug.contrib.flask_project"}
"""Kinds of sources that a web framework sets up, and the modules whose ``load_project`` does so."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where an app's code is: a file, a module, or nowhere (its functions are pickled)."""

    kind: str
    """``file``, ``module``, ``none``, or one of ``PROJECTS``."""
    where: str = ""
    """The file's absolute path, the module's dotted name, or what the project's loader takes."""
    folder: str = ""
    """What to put at the front of ``sys.path`` for a module."""

    def load(self) -> ModuleType | None:
        """Import the code; the module of a file is named like the file."""
        if self.kind == "none":
            return None
        if self.kind == "file":
            return load_file(Path(self.where))
        if self.folder and self.folder not in sys.path:
            sys.path.insert(0, self.folder)
        if self.kind == "module":
            return importlib.import_module(self.where)
        project: ModuleType = importlib.import_module(PROJECTS[self.kind]).load_project(self.where)
        return project


def load_file(path: Path) -> ModuleType:
    """Import a Python file as the module that ``import STEM`` would give next to it."""
    name = path.stem
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    if not name.isidentifier() or (known is not None):
        name = "scaleplug_file_" + "".join(c if c.isalnum() else "_" for c in name)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ExecutionError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


@dataclass(frozen=True, slots=True)
class Registration:
    """One pool of containers as the controller and a container need it: a function's, a class's, or a variant's."""

    function: str
    """Full name of the pool, which is its queue's: ``app.f``, ``app.Cls``, ``app.Cls~1f3a...`` for a parameter set."""
    app: str
    source: Source
    serialized: bool
    settings: FunctionSettings
    version: str = ""
    """Of the code: the deployment's number, or a digest of pickled code; empty where nobody deployed it."""
    deployed: bool = False
    base: str = ""
    """Name of the function or class in its app, where ``function`` is a pool of its own for one of its variants."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What ``with_options`` and its kind changed of the base's settings."""
    parameters: str = ""
    """Constructor arguments of a class, pickled, in base64; empty for its defaults."""
    schema: str = ""
    """A class's parameters with types and defaults, pickled, in base64."""
    callables: Mapping[str, str] = field(default_factory=dict)
    """``function`` or ``generator`` by method name; the name is empty for a function."""
    schedule: Mapping[str, Any] = field(default_factory=dict)
    """When it is called by itself; see :func:`scaleplug.schedules.schedule_from`."""
    autoscaler: Sequence[Mapping[str, Any]] = ()
    """When which of its autoscaler's settings change; see :func:`scaleplug.schedules.rules_from`."""
    template: bool = False
    """Whether it only describes a class whose parameters have no defaults: it has no containers itself."""
    label: str = ""
    """How people read the name, such as ``app.Cls(model='3.5')``."""

    @property
    def shown(self) -> str:
        """How people read it."""
        return self.label or self.function

    @property
    def name(self) -> str:
        """Name of the function or class in its app."""
        return self.base or self.function.removeprefix(self.app + ".")

    @property
    def is_class(self) -> bool:
        """Whether its inputs are calls of a class's methods."""
        return "" not in self.callables and bool(self.callables)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        source = [self.source.kind, self.source.where, self.source.folder]
        return values | {"source": source, "settings": self.settings.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Registration:
        """Return what :meth:`to_dict` gave; fields this version doesn't know are left out."""
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        known["autoscaler"] = tuple(known.get("autoscaler", ()))
        read = {"source": Source(*values["source"][:3]), "settings": FunctionSettings.from_dict(values["settings"])}
        return cls(**(known | read))

    def seal(self, keyring: Keyring) -> bytes:
        """Return it signed."""
        return keyring.seal(REGISTRY, self.function, json.dumps(self.to_dict(), sort_keys=True).encode())

    @classmethod
    def unseal(cls, keyring: Keyring, function: str, sealed: bytes) -> Registration:
        """Return what was signed; raises SerializationError."""
        text = keyring.unseal(REGISTRY, function, sealed)
        try:
            return cls.from_dict(json.loads(text) | {"function": function})
        except (KeyError, TypeError, ValueError) as exc:  # it is genuine
            raise unreadable(exc) from None


def unreadable(exc: Exception) -> SerializationError:
    """Return the error for something signed that this version makes no sense of."""
    return SerializationError(
        f"it was written by another version of scaleplug, and this one ({__version__}) can't read it "
        f"({type(exc).__name__}: {exc}): install the same version everywhere"
    )


def registrations(sealed: Mapping[str, bytes], keyring: Keyring) -> dict[str, Registration]:
    """Return those that can be read of sealed registrations, by the names of their pools."""
    found = {}
    for function, each in sealed.items():
        with contextlib.suppress(SerializationError):  # signed with another secret, or by a version to come
            found[function] = Registration.unseal(keyring, function, each)
    return found


def seal_override(keyring: Keyring, function: str, override: Mapping[str, Any]) -> bytes:
    """Return the settings laid over a function's by ``update_autoscaler``, signed."""
    return keyring.seal(REGISTRY, f"{function}|override", json.dumps(override, sort_keys=True).encode())


def open_override(keyring: Keyring, function: str, sealed: bytes | None) -> dict[str, Any]:
    """Return the settings laid over a function's; raises SerializationError."""
    if sealed is None:
        return {}
    values: dict[str, Any] = json.loads(keyring.unseal(REGISTRY, f"{function}|override", sealed))
    return values


def lookup(store: Store, keyring: Keyring, app: str, name: str) -> Registration:
    """Return the registration of a function or class; raises NotFoundError that lists near misses."""
    function = f"{app}.{name}"
    sealed = store.function(function)
    if sealed is not None:
        return Registration.unseal(keyring, function, sealed)
    known = [n for n in store.functions() if "~" not in n]
    ours = [n.removeprefix(f"{app}.") for n in known if n.startswith(f"{app}.")]
    raise not_found(app, name, ours, {n.partition(".")[0] for n in known} | store.apps().keys())


def not_found(app: str, name: str, ours: Collection[str], apps: Collection[str]) -> NotFoundError:
    """Return the error for a function or class nobody knows; ``ours`` are those of its app, ``apps`` all there are."""
    if ours:
        return NotFoundError(f"the app {app!r} has no function or class {name!r}{did_you_mean(name, ours)}")
    if app in apps:
        return NotFoundError(f"the app {app!r} has nothing that can be called: 'scaleplug deploy' brings it back")
    near = did_you_mean(app, sorted(apps)) or ": 'scaleplug deploy FILE' registers one"
    return NotFoundError(f"nobody has registered an app {app!r} here{near}")
