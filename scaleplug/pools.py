"""What a pool of containers is registered as: a function's, a class's, or one of their variants'."""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import sys
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import cloudpickle

from scaleplug.errors import InvalidError, SerializationError
from scaleplug.registry import Registration
from scaleplug.serializer import pickle
from scaleplug.settings import FunctionSettings

PARAMETER_BYTES = 16_384
_PYTHON = ".".join(map(str, sys.version_info[:2]))
NO_VARIANT = ("min_containers",)


class Owner(Protocol):
    """Something with a queue and containers of its own: a Function, or an object of a class."""

    @property
    def full_name(self) -> str:
        """Name of its queue and its registration."""

    @property
    def base_name(self) -> str:
        """Full name of the function or class it is a pool of; its own, where it is no variant."""

    def registration(self) -> Registration | None:
        """Return what the function or class is registered as; ``None`` where its code isn't in this process."""

    def variant(self, base: Registration) -> Registration:
        """Return what the pool is registered as, given what its function or class is."""

    @property
    def callables(self) -> Mapping[str, str] | None:
        """The kinds of its callables by name, as far as they are known."""

    def learn(self, registered: Mapping[str, str]) -> None:
        """Take the kinds of its callables as they are registered, where the code isn't in this process."""

    def code(self) -> Any:
        """Return the callable or class that travels pickled; ``None`` where it isn't in this process."""

    @property
    def serialized(self) -> bool:
        """Whether it travels pickled."""

    @property
    def made_of(self) -> tuple[Any, ...]:
        """What it is made of here: two owners of one pool with the same are registered as the same."""


_pickled: weakref.WeakKeyDictionary[Any, bytes] = weakref.WeakKeyDictionary()


def pickled_code(owner: Owner, *, anew: bool = False) -> bytes:
    """Return an owner's code pickled: as it was when that was done first, or ``anew``."""
    code = owner.code()
    pickled = None if anew else _pickled.get(code)
    if pickled is None:
        pickled = _pickled[code] = pickle(code, f"the code of {owner.base_name}")
    return pickled


def code_version(owner: Owner) -> str:
    """Return a digest of code that travels pickled from here; empty for other code."""
    if not owner.serialized or owner.code() is None:
        return ""
    return hashlib.sha256(pickled_code(owner)).hexdigest()[:12]


def digest(values: Any) -> str:
    """Return a short name for values that JSON can write."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=repr).encode()).hexdigest()[:12]


def variant(base: Registration, name: str, options: Mapping[str, Any], parameters: str, label: str) -> Registration:
    """Return the registration of a pool of its own for a function or class with other options or parameters."""
    settings = with_options(base.settings, options)
    if parameters and "min_containers" not in options:
        # Kept warm are the class's defaults; a parameter set is asked for by name, with update_autoscaler.
        settings = replace(settings, min_containers=0)
    return replace(
        base, function=name, base=base.name, options=dict(options), parameters=parameters, settings=settings,
        template=False, label=label,
    )  # fmt: skip


def with_options(settings: FunctionSettings, options: Mapping[str, Any]) -> FunctionSettings:
    """Return settings with some replaced; raises InvalidError."""
    return FunctionSettings.from_dict(settings.to_dict() | dict(options))


def rebased(pool: Registration, base: Registration) -> Registration:
    """Return a variant's registration after its function or class has been registered anew."""
    return variant(base, pool.function, pool.options, pool.parameters, pool.label)


def pack(values: Mapping[str, Any], what: str) -> str:
    """Return constructor arguments as they stand in a registration; raises InvalidError."""
    packed = f"{_PYTHON}|{base64.b64encode(cloudpickle.dumps(dict(values))).decode()}"
    if len(packed) > PARAMETER_BYTES * 4 // 3:
        raise InvalidError(f"the parameters of {what} take more than {PARAMETER_BYTES:,} bytes: pass a key to the data")
    return packed


def unpack(packed: str) -> dict[str, Any]:
    """Return what :func:`pack` was given; only for registrations whose signature has been verified."""
    python, _, pickled = packed.rpartition("|")
    if packed and python != _PYTHON:
        raise SerializationError(
            f"the parameters of a class were pickled by Python {python}, and this is Python {_PYTHON}: "
            "run callers and containers with the same minor version"
        )
    values: dict[str, Any] = cloudpickle.loads(base64.b64decode(pickled)) if packed else {}
    return values


def is_generator(raw: Callable[..., Any]) -> bool:
    """Return whether calling it gives a generator."""
    return inspect.isgeneratorfunction(raw) or inspect.isasyncgenfunction(raw)


def kind_of(raw: Callable[..., Any]) -> str:
    """Return ``generator`` or ``function``."""
    return "generator" if is_generator(raw) else "function"
