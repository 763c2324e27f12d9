"""A Redis server of a test's own, started from the lines of a configuration."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import redis

from tests.helpers import wait_until


def program() -> str:
    """Return the Redis server on PATH, which users would have; the test is left out where there is none."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        pytest.skip("no redis-server on PATH: ACL users and TLS are tested with one that users would have")
    return found


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def started(server: str, folder: Path, lines: str, url: str, options: Mapping[str, object]) -> Iterator[redis.Redis]:
    """Run a server with these lines as its configuration; give a client for ``url`` once it answers."""
    common = f'save ""\nappendonly no\nbind 127.0.0.1\ndir {folder}\nloglevel warning\n'
    (folder / "redis.conf").write_text(f"{common}{lines}\n")
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen([server, "redis.conf"], cwd=folder, stdout=log, stderr=log)
    client = redis.Redis.from_url(url, **options)

    def answers() -> bool:
        if process.poll() is not None:
            why = (folder / "redis.log").read_text()
            if "finding TLS support" in why or ("tls" in why and "Bad directive" in why):
                pytest.skip(f"{server} was built without TLS: apt install redis-server has one with it")
            raise AssertionError(why)
        with contextlib.suppress(redis.exceptions.ConnectionError):
            return bool(client.ping())
        return False

    try:
        wait_until(answers, 10, "the server answers")
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(10)
