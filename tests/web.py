"""A web site that a test starts, and its visitor."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.commands import environment
from tests.helpers import wait_until


def free_port() -> int:
    """Return a port that nobody has now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def site(command: Sequence[str], folder: Path, log: Path, **environ: str) -> Iterator[httpx.Client]:
    """Start a site with ``command`` and ``--port PORT``, visit it when it answers, and end it as Ctrl-C does."""
    port = free_port()
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=folder, env=environment(**environ), stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", follow_redirects=True, timeout=30) as client:

            def answers() -> bool:
                assert process.poll() is None, log.read_text()
                try:
                    return client.get("/").status_code > 0
                except httpx.TransportError:
                    return False

            wait_until(answers, 60, f"the site of {folder.name} answers")
            yield client
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGINT)
        process.wait(30)


def csrf_token(page: str) -> str:
    """Return the token in a page of Django."""
    found = re.search(r'csrfmiddlewaretoken" value="(\w+)"', page)
    assert found is not None, page
    return found[1]
