"""Celery functions whose worker containers scale themselves, from zero and back."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scaleplug.abc import FunctionStats
    from scaleplug.app import App
    from scaleplug.call import FunctionCall
    from scaleplug.errors import (
        Error,
        InputCancellation,
        InvalidError,
        RemoteError,
        ResourceExhausted,
        UserCodeException,
    )
    from scaleplug.function import Function

__version__ = "0.1.0"

__all__ = [
    "App",
    "Error",
    "Function",
    "FunctionCall",
    "FunctionStats",
    "InputCancellation",
    "InvalidError",
    "RemoteError",
    "ResourceExhausted",
    "UserCodeException",
    "__version__",
]

if not TYPE_CHECKING:  # a type checker would take any name for one that is here
    _PLACES = {"App": "app", "Function": "function", "FunctionCall": "call", "FunctionStats": "abc"}

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used: the command line spares Celery's quarter of a second."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_PLACES.get(name, 'errors')}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
