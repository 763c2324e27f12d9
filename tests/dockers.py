"""What tests of the docker backend share: an image whose user may read the tests' folders, and a configuration."""

from __future__ import annotations

import contextlib
import io
import tempfile
from typing import Any

import pytest

from scaleplug.settings import Config
from tests.commands import ROOT
from tests.engine import Engine

TESTS_IMAGE = "scaleplug-tests"


@pytest.fixture(scope="session")
def tests_image(engine: Engine, worker_image: str) -> str:
    """Derive an image whose user is root: the tests' folders are root's; return its name."""
    dockerfile = io.BytesIO(f"FROM {worker_image}\nUSER root\n".encode())
    with contextlib.closing(engine.client()) as client:
        client.images.build(fileobj=dockerfile, tag=TESTS_IMAGE, rm=True, forcerm=True)
    return TESTS_IMAGE


def docker_config(engine: Engine, image: str, **values: Any) -> Config:
    """Return a configuration for containers that see this checkout, the tests' folders and the Redis on loopback."""
    seen = tempfile.gettempdir()
    return Config(
        **{
            "backend": "docker",
            "docker_hosts": engine.url,
            "docker_image": image,
            "docker_network": "host",
            "docker_volumes": f"{ROOT}:{ROOT}:ro,{seen}:{seen}",
            "docker_pull": "never",
            "secret": "x" * 32,
            **values,
        }
    )


def ours(engine: Engine, **filters: str) -> list[Any]:
    """Return the containers on an engine, whatever has become of them; close nothing of the engine's."""
    with contextlib.closing(engine.client()) as client:
        found: list[Any] = client.api.containers(all=True, filters=filters)
        return found
