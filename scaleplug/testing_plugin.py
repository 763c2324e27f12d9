"""Fixtures for pytest. It imports this at its start, wherever scaleplug is installed: the rest is imported late."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from scaleplug.settings import Config
    from scaleplug.testing import LocalRun


@pytest.fixture
def scaleplug_local() -> Iterator[LocalRun]:
    """Run all calls in threads of this process, without Redis: see ``scaleplug.testing.local``."""
    from scaleplug.testing import local  # noqa: PLC0415

    with local() as run:
        yield run


@pytest.fixture(scope="module")
def scaleplug_run() -> Iterator[Config]:
    """Run calls for real, in containers on this machine: a private Redis and a controller for the tests of one module.

    With ``SCALEPLUG_REDIS_URL`` and ``SCALEPLUG_SECRET`` set, that Redis is used, under a namespace of its own.
    """
    from scaleplug.runtime import Run  # noqa: PLC0415
    from scaleplug.settings import Config  # noqa: PLC0415

    run = Run(Config.from_environ(os.environ), title="pytest")
    try:
        yield run.start()
    finally:
        run.stop()
