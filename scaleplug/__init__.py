"""Celery functions whose worker containers scale themselves, from zero and back."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # type checkers take it for true; importing typing would double what `import scaleplug` takes
if TYPE_CHECKING:
    from scaleplug.abc import FunctionStats
    from scaleplug.app import App
    from scaleplug.call import FunctionCall
    from scaleplug.cls import Cls
    from scaleplug.concurrency import batched, concurrent
    from scaleplug.context import current_function_call_id, current_input_id, is_local
    from scaleplug.errors import (
        AsyncUsageWarning,
        Error,
        InputCancellation,
        InvalidError,
        RemoteError,
        ResourceExhausted,
        UserCodeException,
    )
    from scaleplug.function import Function
    from scaleplug.marks import enter, exit, method, parameter  # noqa: A004  # the field's word
    from scaleplug.schedules import Cron, Daily, Period
    from scaleplug.settings import AutoscalerSettings, Retries

__version__ = "0.1.0"

__all__ = [
    "App",
    "AsyncUsageWarning",
    "AutoscalerSettings",
    "Cls",
    "Cron",
    "Daily",
    "Error",
    "Function",
    "FunctionCall",
    "FunctionStats",
    "InputCancellation",
    "InvalidError",
    "Period",
    "RemoteError",
    "ResourceExhausted",
    "Retries",
    "UserCodeException",
    "__version__",
    "batched",
    "concurrent",
    "current_function_call_id",
    "current_input_id",
    "enter",
    "exit",
    "is_local",
    "method",
    "parameter",
]

if not TYPE_CHECKING:  # a type checker would take any name for one that is here
    _PLACES = {
        "App": "app",
        "AutoscalerSettings": "settings",
        "Cls": "cls",
        "Cron": "schedules",
        "Daily": "schedules",
        "Period": "schedules",
        "batched": "concurrency",
        "concurrent": "concurrency",
        **dict.fromkeys(("enter", "exit", "method", "parameter"), "marks"),
        "Function": "function",
        "FunctionCall": "call",
        "FunctionStats": "abc",
        "Retries": "settings",
        "current_function_call_id": "context",
        "current_input_id": "context",
        "is_local": "context",
    }

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used: the command line spares Celery's quarter of a second."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_PLACES.get(name, 'errors')}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
