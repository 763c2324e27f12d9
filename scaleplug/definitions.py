"""What a decorated function or class tells of itself: whether it may be decorated, and where a container imports it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from scaleplug.errors import ConfigurationError, InvalidError
from scaleplug.registry import Source


class Definition(Protocol):
    """A Function or a Cls."""

    serialized: bool

    @property
    def raw(self) -> Any:
        """The callable or class itself; ``None`` where its code isn't in this process."""

    @property
    def base_name(self) -> str:
        """Its full name."""


def name_of_caller(namespace: dict[str, Any]) -> str:
    """Return the name of an App that was given none: that of the file or module it is made in."""
    name = str(namespace.get("__name__", "app"))
    if name == "__main__" and namespace.get("__file__"):
        name = Path(str(namespace["__file__"])).stem
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name.rpartition(".")[2])[:64] or "app"


def same_place(one: Any, other: Any) -> bool:
    """Whether a module was merely loaded twice (a reload, a notebook's cell run again)."""
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def check_importable(raw: Any, decorator: str) -> None:
    """Refuse what a container couldn't import; raises InvalidError."""
    if "." in raw.__qualname__:
        raise InvalidError(
            f"{raw.__qualname__} is not at the top level of its module, so a container can't import it: "
            f"move it there, or use {decorator}(serialized=True)"
        )


def check_callable_alone(name: str, raw: Callable[..., Any]) -> None:
    """Refuse a function that nobody could call by itself: it needs arguments, or gives items; raises InvalidError."""
    if inspect.isgeneratorfunction(raw) or inspect.isasyncgenfunction(raw):
        raise InvalidError(f"{name} has a schedule, and nobody would read what it yields: make it no generator")
    required = [
        p.name
        for p in inspect.signature(raw).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if required:
        raise InvalidError(
            f"{name} has a schedule, so it must be callable without arguments: give {', '.join(required)} a default"
        )


def source_of(definitions: Iterable[Definition]) -> Source:
    """Return where a container imports an app from; raises ConfigurationError."""
    for made in definitions:
        if made.serialized or made.raw is None:
            continue
        module = sys.modules.get(made.raw.__module__)
        file = getattr(module, "__file__", None)
        if made.raw.__module__ == "__main__":
            if module is None or file is None:
                raise ConfigurationError(
                    f"{made.base_name} was defined interactively, so a container can't import it: "
                    "use serialized=True in its decorator"
                )
            # What comes back is of the module that containers know it as: here it is this one, not another copy.
            sys.modules.setdefault(Path(file).stem, module)
            return Source("file", str(Path(file).resolve()))
        return Source("module", made.raw.__module__, import_folder(made.raw.__module__, file))
    return Source("none")


def import_folder(module: str, file: str | None) -> str:
    """Return the folder from which a module is imported by its name."""
    if file is None:
        return str(Path.cwd())
    path = Path(file).resolve()
    depth = module.count(".") + (2 if path.name == "__init__.py" else 1)
    return str(path.parents[depth - 1])
