"""Test code that uses scaleplug, without Redis and containers: ``with scaleplug.testing.local() as run: ...``."""

from scaleplug.testing.backend import FakeBackend
from scaleplug.testing.inputs import SentInput
from scaleplug.testing.local import LocalRun, local

__all__ = ["FakeBackend", "LocalRun", "SentInput", "local"]
