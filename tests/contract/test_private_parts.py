# ruff: noqa: E501  # a sentence is a line
"""The private parts of Celery, kombu and redis-py that scaleplug relies on, each with what stands on it.

When one of these fails after an update, the bounds in ``pyproject.toml`` are too wide: the sentence tells what broke.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import redbeat.schedulers
import redis
from celery import Celery, Task, beat
from celery.app import trace
from celery.concurrency import solo
from celery.concurrency import thread as threads
from celery.worker import WorkController, consumer, loops, request, state, strategy
from kombu import Producer, serialization
from kombu.transport import virtual
from kombu.utils import json as kombu_json
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def parameters(function: Callable[..., object]) -> set[str]:
    return set(inspect.signature(function).parameters)


def source(thing: object) -> str:
    return inspect.getsource(thing)  # type: ignore[arg-type]


def eager_names() -> set[str]:
    celery = Celery(set_as_current=False)
    assert celery.conf.task_always_eager is False
    asked: set[str] = set()

    class Asked(dict[str, object]):
        def __getitem__(self, name: str) -> object:
            asked.add(name)
            return super().__getitem__(name)

    celery.conf.maps.insert(0, Asked())
    assert celery.conf.task_always_eager is False
    assert asked == {"task_always_eager", "CELERY_ALWAYS_EAGER"}
    celery.conf.maps[0]["CELERY_ALWAYS_EAGER"] = True
    assert celery.conf.task_always_eager is True
    return asked


PARTS: list[tuple[str, Callable[[], object]]] = [
    # kombu
    ("kombu's virtual Channel has _put, _size, _purge, _has_queue and _new_queue, which scaleplug's replaces",
     lambda: all(hasattr(virtual.Channel, n) for n in ("_put", "_size", "_purge", "_has_queue", "_new_queue"))),
    ("kombu's virtual Transport delivers a message with _deliver(message, queue)",
     lambda: {"message", "queue"} <= parameters(virtual.Transport._deliver)),
    ("kombu's virtual Transport takes drain_events(connection, timeout)",
     lambda: {"connection", "timeout"} <= parameters(virtual.Transport.drain_events)),
    ("kombu's QoS has ack, reject(delivery_tag, requeue), _flush and restore_at_shutdown",
     lambda: hasattr(virtual.QoS, "_flush") and hasattr(virtual.QoS, "restore_at_shutdown")
     and {"delivery_tag", "requeue"} <= parameters(virtual.QoS.reject) and hasattr(virtual.QoS, "ack")),
    ("kombu's loads takes the content types it accepts", lambda: "accept" in parameters(serialization.loads)),
    ("kombu's loads refuses a content type that isn't accepted",
     lambda: "ContentDisallowed" in source(serialization.SerializerRegistry.loads)),
    ("kombu's JSON makes no objects but of types that are registered", lambda: "_decoders" in source(kombu_json)),
    # Celery's settings
    ("Celery's settings have a prefix, and maps of which the first that has a setting counts, under its old name too",
     lambda: "CELERY_ALWAYS_EAGER" in eager_names() and not Celery().conf.prefix),
    # Celery's worker
    ("Celery's synloop(*consumer.loop_args()) drains events until should_stop is set",
     lambda: "drain_events" in source(loops.synloop) and "should_stop" in source(state)
     and hasattr(consumer.Consumer, "loop_args")),
    ("Celery's consumer has strategies, on_decode_error, connection_for_read and its blueprint",
     lambda: all(hasattr(consumer.Consumer, n) for n in ("on_decode_error", "connection_for_read", "Blueprint"))
     and "self.strategies" in source(consumer.Consumer)),
    ("Celery's consumer asks on_decode_error about a DecodeError of a strategy",
     lambda: re.search(r"except DecodeError as exc:\s+return self\.on_decode_error", source(consumer.Consumer))),
    ("Celery's WorkController has on_before_init, blueprint, consumer, pool and exitcode",
     lambda: hasattr(WorkController, "on_before_init") and "self.blueprint" in source(WorkController)
     and "exitcode" in source(WorkController)),
    ("Celery's Task.start_strategy(app, consumer) returns what takes a message",
     lambda: {"app", "consumer"} <= parameters(Task.start_strategy) and hasattr(strategy, "default")),
    ("Celery's build_tracer(name, task, loader, hostname, app) makes task.__trace__",
     lambda: {"name", "task", "loader", "hostname", "app"} <= parameters(trace.build_tracer)
     and "__trace__" in source(trace)),
    ("Celery's build_tracer reads task.resultrepr_maxsize, by which results are kept out of events",
     lambda: "resultrepr_maxsize = task.resultrepr_maxsize" in source(trace.build_tracer)),
    ("Celery's setup_worker_optimizations(app, hostname) is there",
     lambda: {"app", "hostname"} <= parameters(trace.setup_worker_optimizations)),
    ("Celery's solo pool sends worker_process_init when it is made",
     lambda: "worker_process_init" in source(solo.TaskPool.__init__)),
    ("Celery's thread pool has on_apply and on_start", lambda: hasattr(threads.TaskPool, "on_apply")),
    ("Celery's Request acknowledges late ones after their result is stored", lambda: hasattr(request.Request, "on_success")),
    ("Celery's messages of protocol 2 hold (args, kwargs, embed)",
     lambda: "self._request_dict['kwargs'], _ = self.__payload" in source(request.Request.__init__)),
    ("a Celery app has _after_fork, _backend_cache and _local.backend, which change with its Redis",
     lambda: hasattr(Celery("x", set_as_current=False), "_after_fork")
     and hasattr(Celery("x", set_as_current=False), "_backend_cache")
     and "_local" in source(Celery)),
    ("a Celery task checks its arguments with __header__", lambda: "__header__" in source(Task.apply_async)),
    ("Celery's send_task takes a router with route(options, name, args, kwargs)",
     lambda: "router" in parameters(Celery.send_task) and "options = router.route(" in source(Celery.send_task)),
    ("kombu's Producer.publish takes compression", lambda: "compression" in parameters(Producer.publish)),
    # celery-redbeat
    ("redbeat's scheduler loads entries with self.Entry.from_key, and skips one that raises KeyError",
     lambda: "self.Entry.from_key(key, app=self.app)" in source(redbeat.schedulers.RedBeatScheduler)),
    ("redbeat's scheduler extends self.lock at each tick, and starts entries with maybe_due",
     lambda: "self.lock.extend(int(self.lock_timeout))" in source(redbeat.schedulers.RedBeatScheduler.tick)
     and "self.maybe_due(entry, **self._maybe_due_kwargs)" in source(redbeat.schedulers.RedBeatScheduler.tick)),
    ("redbeat takes the client that an app has as redbeat_redis",
     lambda: redbeat.schedulers.REDBEAT_REDIS_KEY == "redbeat_redis" and "hasattr" in source(redbeat.schedulers.get_redis)),
    ("redbeat finds its JSON classes in redbeat.schedulers",
     lambda: all(hasattr(redbeat.schedulers, n) for n in ("RedBeatJSONDecoder", "RedBeatJSONEncoder", "LUA_EXTEND_TO_SCRIPT"))),
    ("Celery's beat sends a task that its process doesn't have with self.send_task",
     lambda: "return self.send_task(entry.task" in source(beat.Scheduler.apply_async)),
    # redis-py
    ("redis-py's connections have _sock, send_command and read_response(disable_decoding)",
     lambda: "self._sock" in source(redis.connection.Connection) + source(redis.connection.AbstractConnection)
     and "disable_decoding" in parameters(redis.connection.AbstractConnection.read_response)),
    ("redis-py's connections take a command_packer, and it has one that packs with hiredis",
     lambda: "command_packer" in parameters(redis.connection.AbstractConnection.__init__)
     and hasattr(redis.connection.HiredisRespSerializer, "pack")),
    ("redis-py's pools have connection_class, connection_kwargs and max_connections",
     lambda: all(hasattr(redis.ConnectionPool(), n) for n in ("connection_class", "connection_kwargs", "max_connections"))),
    ("redis-py's Redis.client() gives a client with one connection of its own", lambda: hasattr(redis.Redis, "client")),
    ("redis-py's Script has sha and script", lambda: hasattr(redis.Redis().register_script("return 1"), "sha")),
    ("redis-py shows no password in the repr of a client",
     lambda: "topsecret" not in repr(redis.Redis.from_url("redis://:topsecret@h"))),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "holds"), PARTS, ids=[sentence[:60] for sentence, _ in PARTS])
def test_a_private_part_is_as_it_was(sentence: str, holds: Callable[[], object]) -> None:
    try:
        found = holds()
    except Exception as exc:  # noqa: BLE001  # whatever is missing
        found, sentence = None, f"{sentence} ({type(exc).__name__}: {exc})"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("celery", "kombu", "redis"))
    assert found, f"no longer true with {versions}: {sentence}. Mend scaleplug, or lower the bound in pyproject.toml"


@pytest.mark.parametrize("name", ["celery", "kombu", "redis", "cloudpickle", "tblib", "cronsim", "celery-redbeat"])
def test_what_private_parts_are_used_of_has_an_upper_bound(name: str) -> None:
    found = [Requirement(text) for text in metadata.requires("scaleplug") or ()]
    text = (ROOT / "pyproject.toml").read_text()
    (line,) = re.findall(rf'^    "({name}[\[<>=][^"]*)"', text, re.MULTILINE)
    bounds = [spec for spec in Requirement(line).specifier if spec.operator == "<"]
    assert bounds, f"{line} has no upper bound in pyproject.toml"
    assert Requirement(line).specifier.contains(metadata.version(name)), f"{name} {metadata.version(name)} is installed"
    assert found
