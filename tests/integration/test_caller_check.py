"""A Redis that would lose inputs is refused by the first call of a process too: the controller is not its own."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import scaleplug
from scaleplug.errors import ServerError
from scaleplug.here import forget_callers
from scaleplug.settings import Config, use_config
from tests.chaos.server import Server

app = scaleplug.App("checked")


@app.function()
def square(x: int) -> int:
    return x * x


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a Redis with some options, and let this process's calls go there."""
    servers: list[Server] = []

    def start(**options: str) -> Server:
        servers.append(Server(tmp_path / "redis", **options).start())
        use_config(Config(redis_url=servers[-1].url, secret=secrets.token_urlsafe(32)))
        return servers[-1]

    yield start
    for server in servers:
        forget_callers(server.url)
        server.kill()
    use_config(None)


CALLS: dict[str, Any] = {
    "remote": lambda: square.remote(1),
    "map": lambda: list(square.map([1, 2])),
    "spawn": lambda: square.spawn(1),
    "delay": lambda: square.delay(1),
    "spawn_map": lambda: square.spawn_map([1, 2]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_evicting_one(serve: Callable[..., Server], call: Callable[[], object]) -> None:
    serve(maxmemory_policy="volatile-lru", maxmemory="100mb")
    with pytest.raises(ServerError, match=r"maxmemory-policy volatile-lru.*redis-cli CONFIG SET maxmemory-policy noev"):
        call()


def test_a_replica(serve: Callable[..., Server]) -> None:
    serve(replicaof="127.0.0.1 1")
    with pytest.raises(ServerError, match=r"read-only replica: put the address of its master"):
        square.remote(1)


def test_one_that_is_mended_is_taken(serve: Callable[..., Server]) -> None:
    server = serve(maxmemory_policy="allkeys-random")
    with pytest.raises(ServerError):
        square.spawn(1)
    server.client.config_set("maxmemory-policy", "noeviction")
    assert square.spawn(1).num_inputs() == 1


def test_one_that_is_away(serve: Callable[..., Server]) -> None:
    serve().kill()
    with pytest.raises(ServerError, match=r"can't be reached .*start it, correct SCALEPLUG_REDIS_URL"):
        square.remote(1)
