"""The claims of ``docs/security.md``, attacked one by one by somebody who has the Redis and not the secret."""

from __future__ import annotations

import base64
import gc
import json
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from scaleplug import FunctionCall
from scaleplug.deployment import Deployment, find, make_known
from scaleplug.errors import (
    ConfigurationError,
    ContainerStartError,
    ExecutionError,
    InputCancelledError,
    InputRefusedError,
    SerializationError,
)
from scaleplug.registry import Registration, Source, lookup, open_override, seal_override
from scaleplug.roster import Roster
from scaleplug.serializer import CODE, INPUT, OUTPUT, REGISTRY, VALUE, Keyring, seal_value
from tests.commands import scaleplug
from tests.helpers import wait_until
from tests.integration import jobs, pickling
from tests.integration.conftest import Surroundings

STRANGER = Keyring("a secret that somebody else has made up")


class Bomb:
    """Whoever unpickles it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


class Attacker:
    """Somebody who reads and writes Redis."""

    def __init__(self, surroundings: Surroundings, folder: Path) -> None:
        self.surroundings, self.store, self.caller = surroundings, surroundings.store, surroundings.caller
        self.client: Any = surroundings.store.client
        self.mark = folder / "unpickled"
        self.bomb = pickle.dumps(Bomb(self.mark))

    def seen(self, function: Any, call: str, *args: Any) -> dict[str, Any]:
        """Return an input as it was sent by somebody who has the secret."""
        (text,) = self.caller._make_small(function, call, [(0, args, {})], "spawn")
        message: dict[str, Any] = json.loads(text)
        return message

    def put(self, function: Any, message: dict[str, Any] | bytes) -> None:
        """Put an input on the queue of a function."""
        raw = message if isinstance(message, bytes) else json.dumps(message)
        self.client.lpush(self.store.keys.queue(function.full_name), raw)
        self.store.ring(function.full_name)

    def result(self, call: str) -> Any:
        """Return the result of an input that was put on a queue."""
        wait_until(lambda: self.client.exists(self.store.keys.of("results", call)), 20, "it has a result")
        return FunctionCall.from_id(call).get(timeout=0)

    def refused(self, function: Any) -> int:
        """Return how many inputs its containers have refused."""
        return self.store.counters(function.full_name).get("refused", 0)

    def reason(self, function: Any, message: dict[str, Any] | bytes) -> str:
        """Put an input on a queue; return why it was refused."""
        before = self.refused(function)
        self.put(function, message)
        wait_until(lambda: self.refused(function) > before, 20, "it is refused")
        return str(self.store.quarantined(function.full_name, 1)[0]["reason"])


@pytest.fixture
def attacker(surroundings: Surroundings, tmp_path: Path) -> Attacker:
    return Attacker(surroundings, tmp_path)


@pytest.fixture(autouse=True)
def nothing_was_unpickled(tmp_path: Path) -> Any:
    yield
    assert not (tmp_path / "unpickled").exists()


# -- inputs --------------------------------------------------------------------------------------------------------


def test_an_input_can_t_be_passed_to_another_function(attacker: Attacker) -> None:
    message = attacker.seen(jobs.square, "fc-replayed", 3)
    assert "it is for the task 'jobs.square'" in attacker.reason(jobs.single_pid, message)
    message["headers"]["task"] = jobs.single_pid.title
    assert "it was signed for 'jobs.square|fc-replayed'" in attacker.reason(jobs.single_pid, message)


def test_an_input_can_t_be_passed_to_another_queue_of_its_function(attacker: Attacker) -> None:
    variant = jobs.square.with_options(max_containers=1, timeout=77)
    assert variant.remote(2) == 4
    message = attacker.seen(jobs.square, "fc-elsewhere", 3)
    assert "not for 'jobs.square on jobs.square~" in attacker.reason(variant, message)


TAMPERED: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("another id", lambda m: m["headers"].update(id="fc-b"), "it was signed for"),
    ("another call", lambda m: m["headers"]["scaleplug"].update(call="fc-b"), "asked for under 'fc-b'"),
    ("another index", lambda m: m["headers"]["scaleplug"].update(index=1), "input 1, and it was signed"),
    ("another task", lambda m: m["headers"].update(task="jobs.add"), "it is for the task 'jobs.add'"),
    ("a pickle", lambda m: m.update({"content-type": "application/x-python-serialize"}), "neither scaleplug's nor"),
    ("yaml", lambda m: m.update({"content-type": "application/x-yaml"}), "neither scaleplug's nor JSON"),
    ("json", lambda m: m.update({"content-type": "application/json"}), "not [args, kwargs, {}] in JSON"),
    ("no type", lambda m: m.update({"content-type": None}), "neither scaleplug's nor JSON"),
    ("data", lambda m: m.update({"content-type": "application/data"}), "neither scaleplug's nor JSON"),
    ("a byte", lambda m: m.update(body=m["body"][:100] + "AAAA" + m["body"][104:]), "does not verify"),
    ("a shorter body", lambda m: m.update(body=m["body"][:-8]), "does not verify"),
    ("no body", lambda m: m.update(body=""), "not a signed scaleplug payload"),
]


@pytest.mark.parametrize(("tamper", "reason"), [row[1:] for row in TAMPERED], ids=[row[0] for row in TAMPERED])
def test_a_tampered_input_is_refused(
    attacker: Attacker, tamper: Callable[[dict[str, Any]], object], reason: str
) -> None:
    message = attacker.seen(jobs.square, "fc-a", 3)
    tamper(message)
    assert reason in attacker.reason(jobs.square, message)
    assert jobs.square.remote(5) == 25


HEADERS: dict[str, dict[str, Any]] = {
    "retries": {"retries": 10**9}, "time limits": {"timelimit": [0.001, 0.001]}, "a name": {"shadow": "jobs.crash"},
    "expiry": {"expires": "2001-01-01T00:00:00"}, "an ETA": {"eta": "2999-01-01T00:00:00"}, "a chord": {"chord": "x"},
    "callbacks": {"callbacks": [{"task": "jobs.crash"}], "chain": [{"task": "jobs.crash"}]}, "a group": {"group": "x"},
}  # fmt: skip


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS)
def test_headers_that_nobody_has_signed_change_nothing(attacker: Attacker, headers: dict[str, Any]) -> None:
    call = f"fc-{next(iter(headers))}"
    message = attacker.seen(jobs.square, call, 3)
    message["headers"].update(headers)
    attacker.put(jobs.square, message)
    assert attacker.result(call) == 9


@pytest.mark.parametrize("keep", [10**30, -5, True, 1.5, "x", None])
def test_how_long_a_result_is_kept_is_bounded(attacker: Attacker, keep: Any) -> None:
    message = attacker.seen(jobs.square, f"fc-keep-{keep}", 3)
    message["headers"]["scaleplug"]["keep"] = keep
    attacker.put(jobs.square, message)
    assert jobs.square.remote(5) == 25
    assert attacker.client.ttl(attacker.store.keys.of("results", f"fc-keep-{keep}")) <= 366 * 86_400


@pytest.mark.parametrize("purpose", [OUTPUT, REGISTRY, CODE, VALUE])
def test_what_was_signed_for_something_else_is_no_input(attacker: Attacker, purpose: bytes) -> None:
    message = attacker.seen(jobs.square, "fc-p", 3)
    sealed = attacker.caller.keyring.seal(purpose, "jobs.square|fc-p", attacker.bomb)
    for body in (sealed, sealed[:3] + INPUT + sealed[4:]):
        message["body"] = base64.b64encode(body).decode()
        assert "does not verify" in attacker.reason(jobs.square, message)


def test_an_unsigned_message_asks_for_one_call_and_nothing_else(attacker: Attacker) -> None:
    message = attacker.seen(jobs.square, "fc-plain", 3)
    message |= {"content-type": "application/json", "content-encoding": "utf-8"}
    del message["properties"]["body_encoding"]
    for wanted in ("callbacks", "errbacks", "chain", "chord"):
        message["body"] = json.dumps([[3], {}, {wanted: [{"task": "jobs.crash", "args": ["kill"]}]}])
        assert f"it is unsigned and asks for {wanted}" in attacker.reason(jobs.square, message)
    message["body"] = json.dumps([[3], {}, {"chain": None}])
    attacker.put(jobs.square, message)
    assert jobs.square.remote(5) == 25
    # Nobody gets it as an outcome: those are for who has the secret.
    assert attacker.client.hget(attacker.store.keys.of("results", "fc-plain"), "0").startswith(b"-refused: ")


def test_a_signed_input_can_be_sent_once_more(attacker: Attacker, tmp_path: Path) -> None:
    """This can't be prevented by signatures, and the page says so."""
    message = attacker.seen(jobs.note, "fc-twice", str(tmp_path), "again", 0)
    for number in (1, 2):
        attacker.put(jobs.note, message)
        wait_until(
            lambda n=number: (tmp_path / "again").exists() and (tmp_path / "again").read_text().count("end") == n,
            20,
            "it runs",
        )


# -- results -------------------------------------------------------------------------------------------------------


def forged_results(attacker: Attacker, call: str) -> dict[str, bytes]:
    """Return what somebody may put in the place of a result."""
    keyring = attacker.caller.keyring
    body = base64.b64decode(attacker.seen(jobs.square, call, 3)["body"])
    return {
        "a pickle": attacker.bomb,
        "a pickle with its mark": b"+" + attacker.bomb,
        "an input": body,
        "another call's": seal_value(keyring, "fc-other|0", 1, "f"),
        "another input's": seal_value(keyring, f"{call}|1", 1, "f"),
        "a stranger's": STRANGER.seal(OUTPUT, f"{call}|0", b"+" + attacker.bomb),
        "a registration": keyring.seal(REGISTRY, f"{call}|0", b"+" + attacker.bomb),
        "code": keyring.seal(CODE, f"{call}|0", b"+" + attacker.bomb),
        "nothing": b"",
    }


@pytest.mark.parametrize("kind", [
    "a pickle", "a pickle with its mark", "an input", "another call's", "another input's", "a stranger's",
    "a registration", "code", "nothing",
])  # fmt: skip
def test_a_forged_result_is_refused(attacker: Attacker, kind: str) -> None:
    call = jobs.square.spawn(3)
    assert call.get(timeout=20) == 9
    key = attacker.store.keys.of("results", call.object_id)
    attacker.client.hset(key, "0", b"+" + forged_results(attacker, call.object_id)[kind])
    with pytest.raises(ExecutionError, match=r"the result could not be read: its? "):
        call.get(timeout=20)


def test_a_forged_outcome_in_an_inbox_is_refused_and_the_next_one_is_read(attacker: Attacker) -> None:
    inbox = attacker.store.keys.of("inbox", attacker.caller.inbox.name)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(jobs.pid_after.remote, 1.5)
        running = wait_until(lambda: list(attacker.caller.inbox._calls), 5, "somebody waits")
        for entry in (
            {"x": "y"}, {"c": b"\xff"}, {"c": running[0]}, {"c": running[0], "i": "many"},
            {"c": running[0], "i": "0", "a": "none", "p": attacker.bomb},
        ):  # fmt: skip
            attacker.client.xadd(inbox, entry)
        assert isinstance(waiting.result(20), int)
        waiting = pool.submit(jobs.pid_after.remote, 1.5)
        running = wait_until(lambda: list(attacker.caller.inbox._calls), 5, "somebody waits")
        attacker.client.xadd(inbox, {"c": running[0], "i": "0", "p": attacker.bomb})
        with pytest.raises(ExecutionError, match="the result could not be read: it is not a signed"):
            waiting.result(20)


def test_a_result_of_celery_s_own_calls_is_signed_too(attacker: Attacker) -> None:
    result = jobs.square.delay(3)
    assert result.get(timeout=20) == 9
    key = f"celery-task-meta-{result.id}"
    meta = {"status": "SUCCESS", "result": 1, "traceback": None, "children": [], "task_id": result.id}
    for forged in (attacker.bomb, json.dumps(meta).encode(), STRANGER.seal(VALUE, "", attacker.bomb)):
        attacker.client.set(key, forged)
        again = jobs.app.celery.AsyncResult(result.id)
        with pytest.raises(Exception, match=r"signed|verify"):
            again.get(timeout=5)
        again.backend.remove_pending_result(again)  # Celery still waits for it
    del result, again
    gc.collect()  # while there is a Redis for Celery to tell


# -- the registry --------------------------------------------------------------------------------------------------


def forged_registrations(attacker: Attacker) -> dict[str, bytes]:
    """Return what somebody may put in the place of a registration."""
    genuine = attacker.client.hget(attacker.store.keys.functions, jobs.square.full_name)
    values = Registration.unseal(attacker.caller.keyring, jobs.square.full_name, genuine).to_dict()
    text = json.dumps(values | {"source": ["file", "/tmp/evil.py", ""]}).encode()
    return {
        "a pickle": attacker.bomb,
        "JSON": text,
        "another function's": attacker.client.hget(attacker.store.keys.functions, jobs.add.full_name),
        "a stranger's": STRANGER.seal(REGISTRY, jobs.square.full_name, text),
        "an override": seal_override(attacker.caller.keyring, jobs.square.full_name, {"max_containers": 1}),
        "an outcome": attacker.caller.keyring.seal(OUTPUT, jobs.square.full_name, text),
    }


@pytest.mark.parametrize(
    "kind", ["a pickle", "JSON", "another function's", "a stranger's", "an override", "an outcome"]
)
def test_a_forged_registration_is_ignored(attacker: Attacker, kind: str) -> None:
    jobs.add.remote(1, 2)
    name, keys, keyring = jobs.square.full_name, attacker.store.keys, attacker.caller.keyring
    forged, genuine = forged_registrations(attacker)[kind], attacker.client.hget(keys.functions, name)
    attacker.client.hset(keys.functions, name, forged)
    try:
        with pytest.raises(SerializationError):
            lookup(attacker.store, keyring, "jobs", "square")
        roster = Roster(attacker.store, keyring)
        assert name not in {registration.function for registration in roster.read()}
        assert name not in roster.views
    finally:
        attacker.client.hset(keys.functions, name, genuine)
    attacker.store.ring(f"={name}")
    assert jobs.square.remote(3) == 9


@pytest.mark.parametrize("kind", ["a pickle", "JSON", "another function's", "a stranger's", "a registration"])
def test_a_forged_override_is_ignored(attacker: Attacker, kind: str) -> None:
    name, keys, keyring = jobs.square.full_name, attacker.store.keys, attacker.caller.keyring
    jobs.square.remote(1)
    text = json.dumps({"max_containers": 999}).encode()
    forged = {
        "a pickle": attacker.bomb,
        "JSON": text,
        "another function's": seal_override(keyring, "jobs.add", {"max_containers": 999}),
        "a stranger's": seal_override(STRANGER, name, {"max_containers": 999}),
        "a registration": attacker.client.hget(keys.functions, name),
    }[kind]
    attacker.client.hset(keys.overrides, name, forged)
    try:
        with pytest.raises(SerializationError):
            open_override(keyring, name, forged)
        roster = Roster(attacker.store, keyring)
        roster.read()
        assert roster.views[name].settings.max_containers == 4
        with pytest.raises(SerializationError):
            jobs.square.update_autoscaler(min_containers=0)
    finally:
        attacker.client.hdel(keys.overrides, name)
    assert jobs.square.remote(3) == 9


def test_a_forged_deployment_is_told(attacker: Attacker) -> None:
    keyring, apps = attacker.caller.keyring, attacker.store.keys.apps
    record = Deployment(app="jobs", version=9, at=0.0, source="", functions=(), stopped=True)
    for forged in (attacker.bomb, b"{}", record.seal(STRANGER), replace(record, app="other").seal(keyring)):
        attacker.client.hset(apps, "jobs", forged)
        try:
            with pytest.raises(ConfigurationError, match=r"the deployment of 'jobs' can't be read: its? "):
                find(attacker.store, keyring, "jobs")
        finally:
            attacker.client.hdel(apps, "jobs")


def test_pickled_code_can_t_be_exchanged_for_other_or_older_code(attacker: Attacker) -> None:
    keys, keyring, caller = attacker.store.keys, attacker.caller.keyring, attacker.caller

    def old() -> str:
        return "old"

    def new() -> str:
        return "new"

    older = jobs.app.function(name="coded", serialized=True)(old)
    assert older.remote() == "old"
    (field,) = [f for f in attacker.client.hkeys(keys.code) if f.startswith(b"jobs.coded@")]
    first = attacker.client.hget(keys.code, field)
    jobs.app.functions.pop("coded")
    newer = jobs.app.function(name="coded", serialized=True)(new)
    caller.met.pop("jobs.coded", None)
    make_known(attacker.store, keyring, "jobs", newer, inside=False)
    version = attacker.store.version("jobs.coded")
    name = f"jobs.coded@{version}"
    assert name != field.decode()
    genuine = attacker.client.hget(keys.code, name)
    for forged in (first, attacker.bomb):
        attacker.client.hset(keys.code, name, forged)
        with pytest.raises(ContainerStartError, match=r"does not verify|it was signed for|not a signed"):
            newer.remote()
    attacker.client.hset(keys.code, name, genuine)
    assert newer.remote() == "new"


# -- every key -----------------------------------------------------------------------------------------------------


def test_no_key_is_ever_unpickled_unsigned(attacker: Attacker) -> None:
    """A bomb in each kind of value of keys.py that is read; then everything looks at it."""
    client, keys, bomb, name = attacker.client, attacker.store.keys, attacker.bomb, jobs.follow.full_name
    call = f"fc-{'0' * 32}"
    for kind in ("learned", "stats", "attempts", "verdicts", "crashes", "retries"):
        client.hset(keys.of(kind, name), "service_time", bomb)
    for kind in ("decisions", "quarantine"):
        client.lpush(keys.of(kind, name), bomb, bomb)
    client.set(keys.of("trouble", name), bomb)
    client.hset(keys.prepared, name, bomb)
    client.hset(keys.apps, b"\xff\xfe", bomb)
    client.hset(keys.functions, b"\xff\xfe", bomb)
    client.hset(keys.versions, "nobody", bomb)
    client.sadd(keys.prefix + "dirty", bomb)
    client.rpush(keys.of("parked", attacker.caller.inbox.name), bomb)
    client.hset(keys.of("call", call), mapping={"fn": bomb, "inputs": bomb})
    client.hset(keys.of("results", call), "0", bomb)
    client.xadd(keys.logs, {"f": bomb, "c": bomb, "l": bomb})
    client.hset(keys.of("argument", call), "0", bomb)
    try:
        attacker.store.revive(attacker.caller.inbox.name, 60)
        with pytest.raises(Exception, match=r".") as caught:
            FunctionCall.from_id(call).get(timeout=0)
        assert type(caught.value).__module__ in ("scaleplug.errors", "builtins")
        environ = {
            "SCALEPLUG_REDIS_URL": attacker.caller.config.redis_url,
            "SCALEPLUG_SECRET": attacker.caller.config.secret,
        }
        for command in (["ps"], ["apps"], ["logs"], ["why", name], ["scale", name]):
            shown = scaleplug(*command, cwd=Path(__file__).parents[2], **environ)
            assert "Traceback" not in shown.stderr, shown.stderr
        assert jobs.square.remote(3) == 9
        assert attacker.store.learned(name) == {}
    finally:
        client.hdel(keys.apps, b"\xff\xfe")
        client.hdel(keys.functions, b"\xff\xfe")
        for kind in ("stats", "learned", "trouble", "decisions", "quarantine"):
            client.delete(keys.of(kind, name))


# -- other ways in -------------------------------------------------------------------------------------------------


def test_remote_control_reaches_no_container(attacker: Attacker) -> None:
    pid = jobs.single_pid.remote()
    control = jobs.app.celery.control
    control.broadcast("shutdown")
    control.broadcast("pool_restart", arguments={"modules": ["os"]})
    assert control.inspect(timeout=1).ping() is None
    assert jobs.single_pid.remote() == pid


def test_orders_that_make_no_sense_leave_a_container_listening(attacker: Attacker) -> None:
    pid = jobs.pid_after.remote(0)
    (name,) = [n for n, r in attacker.surroundings.containers(jobs.pid_after).items() if r.get("pid") == str(pid)]
    orders = attacker.store.keys.of("control", name)
    for order in (attacker.bomb, b"\xff", b"slots many", b"slots " + b"9" * 5000, b"exec rm", b"cancel", b""):
        attacker.client.rpush(orders, order)
    wait_until(lambda: not attacker.client.exists(orders), 10, "they are read")
    attacker.client.hset(orders, "it is", "no list")
    attacker.client.delete(orders)
    call = jobs.pid_after.spawn(30)
    wait_until(lambda: attacker.client.zcard(attacker.surroundings.key("running", jobs.pid_after)), 10, "it runs")
    call.cancel()
    with pytest.raises(InputCancelledError):
        call.get(timeout=10)
    assert jobs.pid_after.remote(0) == pid


def test_an_app_that_accepts_pickles_gets_none_from_a_queue_of_ours(attacker: Attacker) -> None:
    pickling.app.set_source(Source("module", "tests.integration.pickling", str(Path(__file__).parents[2])))
    assert pickling.twofold.remote(4) == 8
    message = attacker.seen(pickling.twofold, "fc-pickle", 3)
    for content_type, encoding in (
        ("application/x-python-serialize", "binary"), ("application/x-yaml", "utf-8"), ("pickle", "binary"),
        ("application/x-scaleplug", "binary"), ("application/json", "binary"),
    ):  # fmt: skip
        message["body"] = base64.b64encode(attacker.bomb).decode()
        message |= {"content-type": content_type, "content-encoding": encoding}
        assert attacker.reason(pickling.twofold, message)
    assert pickling.twofold.remote(4) == 8


def test_what_a_removed_secret_has_signed_is_refused_with_the_reason(attacker: Attacker) -> None:
    old, new = "the old secret of at least 32 characters", "the new secret of at least 32 characters"
    before, both, after = Keyring(old), Keyring(f"{new},{old}"), Keyring(new)
    for purpose in (INPUT, OUTPUT, REGISTRY, CODE, VALUE):
        sealed = before.seal(purpose, "a", b"x")
        assert both.unseal(purpose, "a", sealed) == b"x"
        assert after.unseal(purpose, "a", both.seal(purpose, "a", b"y")) == b"y"
        with pytest.raises(SerializationError, match=r"does not verify: is SCALEPLUG_SECRET the same everywhere"):
            after.unseal(purpose, "a", sealed)
    call = jobs.square.spawn(2)
    assert call.get(timeout=20) == 4
    message = attacker.seen(jobs.square, "fc-old", 3)
    body = cloudpickle.dumps(((3,), {}, {}))
    message["body"] = base64.b64encode(before.seal(INPUT, "jobs.square|fc-old", body)).decode()
    attacker.put(jobs.square, message)
    with pytest.raises(InputRefusedError, match="is SCALEPLUG_SECRET the same everywhere"):
        attacker.result("fc-old")


def test_the_sockets_and_folders_of_a_run_are_its_user_s_alone(attacker: Attacker) -> None:
    redis = attacker.surroundings.run.redis
    assert redis is not None
    folders = [redis.directory, redis.directory.parent]
    assert [folder.stat().st_mode & 0o077 for folder in folders] == [0, 0]
    assert all(path.stat().st_uid == os.getuid() for path in folders)


def test_a_stranger_s_python_can_t_pass_the_check_of_the_version(attacker: Attacker) -> None:
    sealed = attacker.caller.keyring.seal(INPUT, "a", b"x")
    changed = sealed[:5] + bytes([sealed[5] ^ 1]) + sealed[6:]
    with pytest.raises(SerializationError, match="does not verify"):
        attacker.caller.keyring.unseal(INPUT, "a", changed)
