"""Redis users with the rights of ``config/users.acl``, and TLS, as the documentation has them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.exceptions import ResponseError

from scaleplug.contrib.flower.board import Board
from scaleplug.metrics import Metrics
from scaleplug.registry import Registration, Source
from scaleplug.serializer import Keyring
from scaleplug.settings import Config, FunctionSettings
from tests.commands import ROOT, SECRET, python, scaleplug, told
from tests.controllers import Controller
from tests.helpers import wait_until
from tests.integration import guarded
from tests.pages import blocks
from tests.redis_server import free_port, program, started

PROGRAM = ROOT / "tests" / "integration" / "guarded.py"
ROLES = ("caller", "container", "controller", "reader")
PAGE = ROOT / "docs" / "security.md"


def acl_lines() -> str:
    """Return the users of the sample, with passwords; the default one stays, for the test to look on."""
    text = (ROOT / "config" / "users.acl").read_text()
    for role in ROLES:
        hashed = hashlib.sha256(f"password of {role}".encode()).hexdigest()
        text = text.replace(f"#HASH_OF_{role.upper()}", f"#{hashed}")
    lines = [line for line in text.splitlines() if line.startswith("user ")]
    assert lines.pop(0) == "user default off"
    assert len(lines) == len(ROLES)
    return "\n".join(lines)


class Guarded:
    """A server whose users are those of the sample."""

    def __init__(self, admin: redis.Redis, scheme: str, place: str) -> None:
        self.admin: Any = admin
        self.scheme, self.place = scheme, place

    def url(self, role: str) -> str:
        """Return the URL of a role's user."""
        return f"{self.scheme}://scaleplug-{role}:password%20of%20{role}@{self.place}"

    def client(self, role: str) -> redis.Redis:
        """Return a client with a role's rights."""
        return redis.Redis.from_url(self.url(role))

    def environ(self, role: str) -> dict[str, str]:
        """Return the environment of a process in that role."""
        return {"SCALEPLUG_REDIS_URL": self.url(role), "SCALEPLUG_SECRET": SECRET}

    def denied(self) -> list[str]:
        """Return what was refused so far, for the message of a failed assertion."""
        rows = [(row["username"], row["context"], row["object"]) for row in self.admin.acl_log()]
        # What redis-py, and the check of a server, ask of any user and do without.
        unneeded = {("scaleplug-caller", "config|get"), ("scaleplug-container", "config|get")}
        return [" ".join(row) for row in rows if (row[0], row[2]) not in unneeded and row[2] != "client|setinfo"]


@pytest.fixture(scope="module")
def guarded_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder, port = tmp_path_factory.mktemp("acl"), free_port()
    place = f"127.0.0.1:{port}/0"
    with started(program(), folder, f"port {port}\n{acl_lines()}", f"redis://{place}", {}) as admin:
        yield Guarded(admin, "redis", place)


def run_everything(server: Guarded) -> None:
    """Run a controller, its containers and a caller that uses everything, each as its own user."""
    controller = Controller(ROOT, **server.environ("controller"), SCALEPLUG_CONTAINER_REDIS_URL=server.url("container"))
    try:
        controller.says("ready")
        done = python(str(PROGRAM), cwd=ROOT, **server.environ("caller"))
        assert done.returncode == 0, told(done) + str(server.denied()) + "\n".join(controller.said)
        assert json.loads(done.stdout) == guarded.WANTED
        deployed = scaleplug("deploy", str(PROGRAM), cwd=ROOT, **server.environ("caller"))
        assert deployed.returncode == 0, told(deployed) + str(server.denied())
        users = {row["user"] for row in server.admin.client_list()}
        assert {"scaleplug-controller", "scaleplug-container"} <= users
        ran = ("scaleplug:default:stats:guarded.each_second", "finished")
        wait_until(lambda: server.admin.hget(*ran) or server.denied(), 30, "a scheduled call")
        for command in (["ps"], ["apps"], ["why", "guarded.square"], ["logs"], ["schedules"]):
            shown = scaleplug(*command, cwd=ROOT, **server.environ("reader"))
            assert shown.returncode == 0, told(shown) + str(server.denied())
        paused = scaleplug("schedules", "pause", "each_second", cwd=ROOT, **server.environ("caller"))
        assert paused.returncode == 0, told(paused) + str(server.denied())
        assert scaleplug("stop", "guarded", cwd=ROOT, **server.environ("caller")).returncode == 0
        assert controller.end(signal.SIGTERM) == 0, "\n".join(controller.said)
    finally:
        controller.kill()
    assert server.denied() == []


def test_every_part_gets_by_with_its_user_s_rights(guarded_redis: Guarded):
    guarded_redis.admin.acl_log_reset()
    run_everything(guarded_redis)


def test_flower_looks_as_a_reader_and_changes_settings_as_a_caller(guarded_redis: Guarded):
    def board(role: str) -> Board:
        environ = guarded_redis.environ(role)
        return Board(Config(redis_url=environ["SCALEPLUG_REDIS_URL"], secret=environ["SCALEPLUG_SECRET"]))

    name = "guarded.square"
    app = Registration(name, "guarded", Source("none"), True, FunctionSettings(), callables={"": "function"})
    sealed = {name: app.seal(Keyring(guarded_redis.environ("caller")["SCALEPLUG_SECRET"]))}
    board("caller").store.put_functions(sealed)
    guarded_redis.admin.acl_log_reset()
    looks = board("reader")
    assert [row[0] for row in looks.changes(0)["rows"]] == [name]
    assert looks.trends()["rows"] == {}
    assert looks.function(name, points=True)["points"] == []
    with pytest.raises(ResponseError, match="can't run this command"):
        looks.change(name, {"min_containers": 1})
    changes = board("caller")
    changes.change(name, {"min_containers": 1})
    changes.change(name, {}, reset=True)
    changes.changes(0)
    assert {row.rpartition(" ")[2] for row in guarded_redis.denied()} <= {"scan", "hset", "hdel", "sadd", "lpush"}
    guarded_redis.admin.acl_log_reset()
    metrics = Metrics(board("controller").store, lambda: True)
    assert "scaleplug_pending_inputs" in {family.name for family in metrics.collect()}
    assert guarded_redis.denied() == []


@pytest.mark.parametrize(
    ("part", "role"),
    [("callers", "caller"), ("containers", "container"), ("control", "controller"), ("watching", "controller")],
)
def test_what_a_script_calls_is_allowed_to_whoever_runs_it(part: str, role: str):
    """Also what is only called when something has gone wrong."""
    package = ROOT / "scaleplug"
    scripts = re.findall(r'_(?:run|admit|run_many)\(\s*"(\w+)"', (package / "store" / f"{part}.py").read_text())
    (line,) = [line for line in acl_lines().splitlines() if f"scaleplug-{role} " in line]
    allowed = {rule[1:] for rule in line.split() if rule.startswith("+")}
    assert len(scripts) > 1
    for script in set(scripts) - OTHERS:
        called = re.findall(r"redis\.call\('(\w+)'", (package / "lua" / f"{script}.lua").read_text())
        assert {name.lower() for name in called} <= allowed, script


OTHERS = {"take", "overview", "census", "quiet"}  # of another part than the file they are called in
REFUSED: list[tuple[str, Callable[[Any], object]]] = [
    ("caller", lambda c: c.set("other", "1")),
    ("caller", lambda c: c.hgetall("scaleplug:another:functions")),
    ("caller", lambda c: c.lpush("scaleplug:another:queue:shop.f", "x")),
    ("caller", lambda c: c.eval("return redis.call('GET', 'other')", 0)),
    ("caller", lambda c: c.flushall()),
    ("caller", lambda c: c.keys("*")),
    ("caller", lambda c: c.config_get("requirepass")),
    ("caller", lambda c: c.client_list()),
    ("caller", lambda c: c.blmove("scaleplug:default:queue:f", "scaleplug:default:transit:x:1", 1)),
    ("container", lambda c: c.config_get("*")),
    ("container", lambda c: c.set("other", "1")),
    ("container", lambda c: c.acl_users()),
    ("container", lambda c: c.flushdb()),
    ("controller", lambda c: c.get("celery-task-meta-x")),
    ("controller", lambda c: c.config_set("maxmemory", 1)),
    ("controller", lambda c: c.get("other")),
    ("reader", lambda c: c.hset("scaleplug:default:functions", "f", "x")),
    ("reader", lambda c: c.lpush("scaleplug:default:queue:f", "x")),
    ("reader", lambda c: c.delete("scaleplug:default:queue:f")),
    ("reader", lambda c: c.evalsha(c.script_load("return redis.call('DEL', KEYS[1] .. 'x')"), 1, "scaleplug:default:")),
    ("reader", lambda c: c.get("celery-task-meta-x")),
]


@pytest.mark.parametrize(("role", "attempt"), REFUSED, ids=[f"{n}-{role}" for n, (role, _) in enumerate(REFUSED)])
def test_a_user_has_no_other_rights(guarded_redis: Guarded, role: str, attempt: Callable[[Any], object]):
    client = guarded_redis.client(role)
    try:
        with pytest.raises(
            redis.exceptions.ResponseError, match=r"(?i)no permissions|NOPERM|can't run this command|ACL"
        ):
            attempt(client)
    finally:
        client.close()


def test_a_wrong_password_is_told_without_it(guarded_redis: Guarded):
    url = guarded_redis.url("caller").replace("password%20of%20caller", "s3cr3t-and-wrong")
    done = scaleplug("ps", cwd=ROOT, SCALEPLUG_REDIS_URL=url, SCALEPLUG_SECRET=SECRET)
    assert done.returncode == 2
    assert "refused the user or the password" in done.stderr
    assert "s3cr3t" not in done.stderr + done.stdout


def test_a_user_without_rights_is_told_so(guarded_redis: Guarded):
    guarded_redis.admin.flushdb()
    done = python(str(PROGRAM), cwd=ROOT, **guarded_redis.environ("reader"))
    assert done.returncode != 0
    assert "password of" not in done.stderr
    assert re.search(r"(?i)permission", done.stderr), told(done)


# -- TLS -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    server = program()
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with: apt install openssl")
    folder, port = tmp_path_factory.mktemp("tls"), free_port()
    (commands,) = [b.text for b in blocks(PAGE, "sh") if "openssl" in b.text]
    made = subprocess.run(["sh", "-euc", commands], cwd=folder, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    (lines,) = [b.text for b in blocks(PAGE, "conf") if "tls-port" in b.text]
    lines = lines.replace("tls-port 6379", f"tls-port {port}").replace("/etc/redis/tls", str(folder))
    (query,) = re.findall(r'rediss://\S+?\?([^\s"]+)', PAGE.read_text())
    place = f"localhost:{port}/0?{query.replace('/etc/redis/tls', str(folder))}"
    with started(server, folder, f"{lines}\n{acl_lines()}", f"rediss://{place}", {}) as admin:
        yield Guarded(admin, "rediss", place)


def test_everything_works_through_tls(tls_redis: Guarded):
    tls_redis.admin.acl_log_reset()
    run_everything(tls_redis)


@pytest.mark.parametrize(
    ("change", "told_as"),
    [
        (("rediss://", "redis://"), r"hung up|reset|closed|can't be reached"),
        (("&ssl_certfile=client.crt&ssl_keyfile=client.key", ""), r"certificate|hung up|closed|reset|can't be"),
        (("ca.crt", "client.crt"), r"(?i)certificate"),
    ],
    ids=["without-tls", "without-a-client-certificate", "with-another-authority"],
)
def test_a_connection_that_is_not_trusted_is_told(tls_redis: Guarded, change: tuple[str, str], told_as: str):
    url, (old, new) = tls_redis.url("caller"), change
    if old.startswith("rediss"):
        url = url.partition("?")[0]
    url = re.sub(r"&ssl_(certfile|keyfile)=[^&]*", "", url) if old.startswith("&") else url.replace(old, new)
    done = scaleplug("ps", cwd=ROOT, SCALEPLUG_REDIS_URL=url, SCALEPLUG_SECRET=SECRET)
    assert done.returncode == 2, told(done)
    assert re.search(told_as, done.stderr), told(done)
    assert "password of" not in done.stderr
    assert "Traceback" not in done.stderr
