"""The fixtures of the contract tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from scaleplug.errors import ConfigurationError
from scaleplug.runtime import Run
from scaleplug.settings import Config, use_config
from tests.contract import functions, sides


@pytest.fixture(scope="module")
def real_run() -> Iterator[Run]:
    """Start a Redis and a controller for the session; no test sees them that doesn't ask."""
    run = Run(Config(), title="contract tests")
    try:
        try:
            run.start()
        except ConfigurationError as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(error))
        use_config(None)
        yield run
    finally:
        run.stop()


@pytest.fixture(params=["twin", "real"])
def side(request: pytest.FixtureRequest) -> Iterator[sides.Side]:
    """Give both sides: the test runs once on each."""
    if request.param == "twin":
        with sides.twin() as twin:
            yield twin
    else:
        with sides.real(request.getfixturevalue("real_run"), functions.app) as real:
            yield real
