"""Celery functions whose worker containers scale themselves, from zero and back."""

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
    "InputCancellation",
    "InvalidError",
    "RemoteError",
    "ResourceExhausted",
    "UserCodeException",
    "__version__",
]
