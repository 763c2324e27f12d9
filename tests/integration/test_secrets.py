"""Secrets show up nowhere: not in logs, not in ps, not in events; and arguments don't where they are masked."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from celery import Celery

from scaleplug.server import celery_url
from tests.commands import ROOT, python, scaleplug, told
from tests.controllers import Controller
from tests.helpers import wait_until
from tests.integration.secretive import ARGUMENT
from tests.redis_server import free_port, program, started

PROGRAM = ROOT / "tests" / "integration" / "secretive.py"
PASSWORD, SECRET = "the-redis-password-nobody-sees", "the-signing-secret-nobody-sees-0123456789"


@pytest.fixture(scope="module")
def redis_with_password(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    url = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
    with started(program(), tmp_path_factory.mktemp("redis"), f"port {port}\nrequirepass {PASSWORD}", url, {}):
        yield url


@contextlib.contextmanager
def events_of(url: str) -> Iterator[list[dict[str, Any]]]:
    """Listen to Celery's events, as Flower does."""
    celery, found, stop = Celery("watcher", broker=celery_url(url), set_as_current=False), [], threading.Event()

    def listen() -> None:
        with celery.connection() as connection:
            receiver = celery.events.Receiver(connection, handlers={"*": found.append})
            while not stop.is_set():
                with contextlib.suppress(socket.timeout, TimeoutError):
                    receiver.capture(limit=None, timeout=0.5, wakeup=False)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join(10)


def seen(url: str, *, shown: str) -> tuple[str, list[dict[str, Any]]]:
    """Run the program beside a controller; return all that others can see, and Celery's events."""
    environ = {"SCALEPLUG_REDIS_URL": url, "SCALEPLUG_SECRET": SECRET, "SCALEPLUG_SHOW_ARGUMENTS": shown}
    environ["SCALEPLUG_NAMESPACE"] = f"shown-{shown}"
    words: list[str] = []
    with events_of(url) as events:
        controller = Controller(ROOT, **environ)
        try:
            controller.says("ready")
            done = python(str(PROGRAM), cwd=ROOT, **environ)
            assert done.returncode == 0, told(done)
            family = psutil.Process(controller.process.pid).children(recursive=True)
            words += [" ".join([*process.cmdline(), process.name()]) for process in family]
            words += [done.stdout, done.stderr]
            for command in (["ps"], ["apps"], ["logs"], ["why", "secretive.hide"], ["scale", "secretive.hide"]):
                looked = scaleplug(*command, cwd=ROOT, **environ)
                assert looked.returncode == 0, told(looked)
                words += [looked.stdout, looked.stderr]
            wait_until(lambda: sum(e["type"] == "task-succeeded" for e in events) >= 2, 10, "events come")
            controller.end(signal.SIGTERM)
        finally:
            controller.kill()
        words += controller.said
    words.append(json.dumps(events, default=repr))
    assert len(words) > 8
    return "\n".join(words), events


def test_secrets_show_up_nowhere_and_arguments_shortly(redis_with_password: str) -> None:
    words, events = seen(redis_with_password, shown="1")
    assert PASSWORD not in words
    assert SECRET not in words
    received = [event for event in events if event["type"] == "task-received"]
    assert any(ARGUMENT in event["args"] for event in received)
    assert all(len(event["args"]) <= 100 for event in received)


def test_arguments_can_be_masked(redis_with_password: str) -> None:
    words, events = seen(redis_with_password, shown="0")
    assert PASSWORD not in words
    assert SECRET not in words
    assert ARGUMENT not in words
    assert "..." in {event.get("args") for event in events}


def test_no_message_shows_masked_arguments_but_its_body(redis_with_password: str) -> None:
    environ = {"SCALEPLUG_REDIS_URL": redis_with_password, "SCALEPLUG_SECRET": SECRET, "SCALEPLUG_NAMESPACE": "queue"}
    code = "from tests.integration.secretive import *; hide.spawn(ARGUMENT); hide.delay(ARGUMENT)"
    for shown, there in (("1", 1), ("0", 0)):
        done = python("-c", code, cwd=ROOT, SCALEPLUG_SHOW_ARGUMENTS=shown, **environ)
        assert done.returncode == 0, told(done)
        with contextlib.closing(redis.Redis.from_url(redis_with_password)) as client:
            key = "scaleplug:queue:queue:secretive.hide"
            messages = client.lrange(key, 0, -1)
            client.delete(key)
        assert len(messages) == 2
        assert sum(ARGUMENT.encode() in message for message in messages) == there


@pytest.mark.parametrize("command", ["ps", "apps", "logs", "controller"])
def test_a_redis_that_is_not_there_is_told_without_its_password(command: str, tmp_path: Path) -> None:
    url = f"redis://:{PASSWORD}@127.0.0.1:1/0"
    done = scaleplug(command, cwd=tmp_path, SCALEPLUG_REDIS_URL=url, SCALEPLUG_SECRET=SECRET)
    assert done.returncode == 2, told(done)
    assert "redis://:***@127.0.0.1:1/0" in done.stderr or "redis://127.0.0.1:1/0" in done.stderr, done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_a_call_without_a_redis_is_told_without_its_password() -> None:
    url = f"redis://:{PASSWORD}@127.0.0.1:1/0"
    done: subprocess.CompletedProcess[str] = python(
        str(PROGRAM), cwd=ROOT, SCALEPLUG_REDIS_URL=url, SCALEPLUG_SECRET=SECRET
    )
    assert done.returncode != 0
    assert PASSWORD not in done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
