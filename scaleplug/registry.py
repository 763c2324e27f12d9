"""What Redis knows of a function: where its code is and what its settings are, signed, and read without unpickling."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from scaleplug.errors import ExecutionError, NotFoundError
from scaleplug.serializer import REGISTRY, Keyring
from scaleplug.settings import FunctionSettings
from scaleplug.store import Store


@dataclass(frozen=True, slots=True)
class Source:
    """Where an app's code is: a file, a module, or nowhere (its functions are pickled)."""

    kind: str
    """``file``, ``module`` or ``none``."""
    where: str = ""
    """The file's absolute path, or the module's dotted name."""
    folder: str = ""
    """What to put at the front of ``sys.path`` for a module."""

    def load(self) -> ModuleType | None:
        """Import the code; the module of a file is named like the file."""
        if self.kind == "none":
            return None
        if self.kind == "module":
            if self.folder and self.folder not in sys.path:
                sys.path.insert(0, self.folder)
            return importlib.import_module(self.where)
        return load_file(Path(self.where))


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
    """One function as the controller and a container need it."""

    function: str
    app: str
    source: Source
    serialized: bool
    settings: FunctionSettings

    def seal(self, keyring: Keyring) -> bytes:
        """Return it signed."""
        values: dict[str, Any] = {
            "app": self.app,
            "source": [self.source.kind, self.source.where, self.source.folder],
            "serialized": self.serialized,
            "settings": self.settings.to_dict(),
        }
        return keyring.seal(REGISTRY, self.function, json.dumps(values, sort_keys=True).encode())

    @classmethod
    def unseal(cls, keyring: Keyring, function: str, sealed: bytes) -> Registration:
        """Return what was signed; raises SerializationError."""
        values = json.loads(keyring.unseal(REGISTRY, function, sealed))
        return cls(
            function=function,
            app=values["app"],
            source=Source(*values["source"]),
            serialized=values["serialized"],
            settings=FunctionSettings.from_dict(values["settings"]),
        )


def lookup(store: Store, keyring: Keyring, function: str) -> Registration:
    """Return a function's registration; raises NotFoundError."""
    sealed = store.function(function)
    if sealed is None:
        raise NotFoundError(f"no function {function!r} is registered")
    return Registration.unseal(keyring, function, sealed)
