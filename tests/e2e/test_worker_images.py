"""The images as they are built: small, without root, with one process that gets the signals."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine import Engine
from tests.engine_base import BASE_IMAGE

pytestmark = pytest.mark.docker


@pytest.fixture
def client(engine: Engine) -> Iterator[Any]:
    with contextlib.closing(engine.client()) as found:
        yield found


def size(client: Any, name: str) -> int:
    found: int = client.images.get(name).attrs["Size"]
    return found


def test_the_worker_image_adds_150_mib_at_most(client: Any, worker_image: str) -> None:
    assert size(client, worker_image) - size(client, BASE_IMAGE) <= 150 << 20
