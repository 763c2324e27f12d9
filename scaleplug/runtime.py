"""What runs beside a caller: the controller's process, and for ``scaleplug run`` a private Redis too.

``python -m scaleplug.runtime`` is the controller of a run; it reads its options from standard input. Everything a run
starts holds the reading end of one pipe, the lifeline, whose writing end is the run's alone: when the run is gone,
however it went, they end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from scaleplug.backends import Backend
from scaleplug.backends.process import ProcessBackend
from scaleplug.controller import Controller
from scaleplug.embedded import EmbeddedRedis
from scaleplug.errors import ConfigurationError
from scaleplug.here import forget_callers
from scaleplug.keys import Keys
from scaleplug.loglines import write_logs
from scaleplug.metrics import Metrics
from scaleplug.registry import Registration
from scaleplug.serializer import Keyring
from scaleplug.server import check_server, connect
from scaleplug.settings import Config, use_config
from scaleplug.store import Store, require_url
from scaleplug.timetable import Timetable
from scaleplug.worker.parent import die_with_parent

logger = logging.getLogger("scaleplug")

EX_CONFIG = 2
LOOK_SECONDS = 0.5
"""A controller looks so often whether there is anything on the timetable."""


def control(
    config: Config, folder: Path, *, lifeline: int | None, grace: float, ready: Callable[[], object] = lambda: None,
    metrics: tuple[str, int] | None = None,
) -> None:  # fmt: skip
    """Be a controller until SIGTERM or SIGINT; a second signal hurries.

    ``metrics`` is the host and port on which it tells Prometheus of itself.
    """
    client = connect(require_url(config.redis_url), name=f"scaleplug-controller-{os.getpid()}")
    for warning in check_server(client, config=config, embedded=lifeline is not None):
        logger.warning("%s", warning)
    keyring = Keyring(config.secret)
    store = Store(client, Keys(config.namespace))
    backend = make_backend(
        config,
        folder,
        store=store,
        find=lambda function, version: controller.roster.registration(function, version),  # noqa: PLW0108
        on_lines=lambda lines: controller.log.add(lines),  # noqa: PLW0108  # the controller is made below
        lifeline=lifeline,
    )
    controller = Controller(store, backend, keyring, config, fail_fast=lifeline is not None)
    end_metrics = None if metrics is None else _serve_metrics(controller, config, *metrics)
    stop, hurry = threading.Event(), threading.Event()

    def on_signal(*_: Any) -> None:
        (hurry if stop.is_set() else stop).set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    threading.Thread(target=_ring_at, args=(stop, store), daemon=True, name="scaleplug-stop").start()
    beat = threading.Thread(target=_keep_time, args=(config, store, stop), daemon=True, name="scaleplug-beat")
    if config.beat:
        beat.start()
    ready()
    controller.run(stop)
    if config.beat:
        beat.join(2.0)  # it lets another one act
    logger.info("ending: running inputs get %g s, a second signal ends them at once", grace)
    backend.end(grace)
    hurried = False
    deadline = time.monotonic() + grace + 5.0

    def waiting() -> bool:
        nonlocal hurried
        if hurry.is_set() and not hurried:
            hurried = True
            backend.end(0.0)
        return not backend.ended() and time.monotonic() < deadline

    controller.finish(waiting)
    backend.close()
    if end_metrics is not None:
        end_metrics()


def _serve_metrics(controller: Controller, config: Config, host: str, port: int) -> Callable[[], None]:
    # A connection of its own: what is asked there must not hold up the loop.
    client = connect(require_url(config.redis_url), name=f"scaleplug-metrics-{os.getpid()}", retry=False)
    metrics = Metrics(Store(client, Keys(config.namespace)), lambda: controller.leading)
    controller.on_round = metrics.note_round
    return metrics.serve(host, port)


def make_backend(
    config: Config,
    folder: Path,
    *,
    store: Store,
    find: Callable[[str, str], Registration],
    on_lines: Callable[[list[tuple[str, str, str]]], object],
    lifeline: int | None,
) -> Backend:
    """Return the backend that is configured; raises ConfigurationError."""

    def on_exit(function: str) -> None:
        _ring(store, function)

    if config.backend == "docker":
        from scaleplug.backends.docker import DockerBackend  # noqa: PLC0415  # its SDK is an extra

        return DockerBackend(
            config, find=find, find_record=store.container_record, on_exit=on_exit, on_lines=on_lines,
            logged_until=store.logged_until, ephemeral=lifeline is not None,
        )  # fmt: skip
    return ProcessBackend(config, folder, find=find, on_exit=on_exit, on_lines=on_lines, lifeline=lifeline)


def _ring_at(stop: threading.Event, store: Store) -> None:
    stop.wait()
    _ring(store, "*")  # the controller may be waiting for the doorbell


def _keep_time(config: Config, store: Store, stop: threading.Event) -> None:
    """Be a beat from the first entry of the timetable on: until then nothing of that is loaded."""
    due = Timetable(store).due
    while not stop.wait(LOOK_SECONDS):
        with contextlib.suppress(RedisError, OSError):
            if store.client.exists(due):
                use_config(config)
                import_module("scaleplug.beat").serve(config, stop)


def _ring(store: Store, function: str) -> None:
    with contextlib.suppress(Exception):  # the tick looks too
        store.ring(function)


def controller_folder(config: Config) -> Path:
    """Return the folder in which controllers of one Redis and namespace on this host keep their zygotes' sockets."""
    digest = hashlib.sha256(f"{config.redis_url}|{config.namespace}".encode()).hexdigest()[:10]
    base = Path(tempfile.gettempdir()) / f"scaleplug-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    if base.stat().st_uid != os.getuid():
        raise ConfigurationError(f"{base} belongs to somebody else: set TMPDIR to a folder of your own")
    base.chmod(0o700)
    return base / f"ctl-{digest}"


class Run:
    """The surroundings of one ``scaleplug run``: a Redis, a controller, and their end."""

    def __init__(
        self, config: Config, title: str, *, stderr: int | None = None, log_level: int = logging.WARNING
    ) -> None:
        self.asked, self.title = config, title
        self.stderr, self.log_level = stderr, log_level  # the controller's
        self.config = config
        self.redis: EmbeddedRedis | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._controller: subprocess.Popen[bytes] | None = None
        self._lifeline: tuple[int, int] = (-1, -1)
        self._ending = threading.Event()
        self._pid = os.getpid()

    def start(self) -> Config:
        """Start everything; return the configuration that callers in this process use."""
        secret = self.asked.secret or secrets.token_urlsafe(48)
        if self.asked.redis_url is None:
            self.redis = EmbeddedRedis().start()
            self.redis.announce(secret=secret, namespace="default", title=self.title)
            self.config = replace(self.asked, redis_url=self.redis.url, secret=secret, namespace="default")
        else:
            Keyring(self.asked.secret)  # a shared Redis needs a secret of its users' own
            # A run's functions live as long as the run: a namespace of its own keeps them from deployed ones.
            self.config = replace(self.asked, namespace=f"run-{secrets.token_hex(4)}")
            for warning in check_server(connect(require_url(self.asked.redis_url)), config=self.asked):
                logger.warning("%s", warning)
        use_config(self.config)
        self._lifeline = os.pipe()
        os.register_at_fork(after_in_child=self._let_go_in_child)
        self._folder = tempfile.TemporaryDirectory(prefix="scaleplug-")
        self._start_controller()
        threading.Thread(target=self._supervise, daemon=True, name="scaleplug-supervisor").start()
        if self.redis is not None:
            threading.Thread(target=self._watch_redis, daemon=True, name="scaleplug-redis-watch").start()
        return self.config

    def _let_go_in_child(self) -> None:
        # A process that the job forks must not keep the run's containers alive when the run is gone.
        if not self._ending.is_set() and self._lifeline[1] >= 0:
            with contextlib.suppress(OSError):
                os.close(self._lifeline[1])
            self._lifeline = (self._lifeline[0], -1)

    def _start_controller(self) -> None:
        assert self._folder is not None
        options = {
            "config": {f.name: getattr(self.config, f.name) for f in fields(self.config)},
            "folder": self._folder.name,
            "lifeline": self._lifeline[0],
            "parent": os.getpid(),
            "log_level": self.log_level,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "scaleplug.runtime"],
            stdin=subprocess.PIPE, stderr=self.stderr, pass_fds=[self._lifeline[0]], start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None
        with process.stdin:
            process.stdin.write(json.dumps(options).encode() + b"\n")
        self._controller = process

    def _supervise(self) -> None:
        """Start the controller again whenever it ends: the next one adopts the containers."""
        failures = 0
        while True:
            controller, since = self._controller, time.monotonic()
            assert controller is not None
            controller.wait()
            if self._ending.is_set():
                return
            if controller.returncode == EX_CONFIG:
                forget_callers(self.config.redis_url, lost="the controller could not start; it has said why")
                return
            failures = failures + 1 if time.monotonic() - since < 5 else 0
            logger.warning("the controller ended with status %s: starting it again", controller.returncode)
            if self._ending.wait(min(0.1 * 2**failures, 5.0) if failures else 0.0):
                return
            self._drop_lease()
            self._start_controller()

    def _watch_redis(self) -> None:
        """Let calls fail when the private Redis has died, instead of waiting for ever: what it knew is lost."""
        while self.redis is not None and self.redis.running:
            if self._ending.wait(0.5):
                return
        if not self._ending.is_set():
            logger.error("the private Redis of this run has died, and what it knew is lost")
            forget_callers(self.config.redis_url, lost="the private Redis of this run has died")

    def _drop_lease(self) -> None:
        # Its holder is known to be dead, and nobody else has a controller in this namespace; so is that of its beat.
        keys = Keys(self.config.namespace)
        with contextlib.suppress(Exception):
            connect(require_url(self.config.redis_url)).delete(keys.lease, f"{keys.beat}:lock")

    def stop(self, drained: Callable[[], object] = lambda: None) -> None:
        """End everything that was started; ``drained`` is called while Redis still has all that containers printed."""
        if self._ending.is_set() or os.getpid() != self._pid:
            return
        self._ending.set()
        controller = self._controller
        if controller is not None and controller.poll() is None:
            controller.terminate()
            try:
                controller.wait(self.config.run_grace + 3.0)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                controller.kill()
                controller.wait()
        drained()
        self._cut_lifeline()
        forget_callers(self.config.redis_url)
        use_config(None)
        if self.redis is not None:
            self.redis.close()
        self._leave_nothing()

    def kill(self) -> None:
        """End everything that was started at once; safe in any thread, also while :meth:`stop` is under way."""
        self._ending.set()
        if self._controller is not None:
            self._controller.kill()
        self._cut_lifeline()
        if self.redis is not None and self.redis.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.redis.pid, signal.SIGKILL)
            shutil.rmtree(self.redis.directory, ignore_errors=True)
        self._leave_nothing()

    def _cut_lifeline(self) -> None:
        ends, self._lifeline = self._lifeline, (-1, -1)
        for fd in ends:
            if fd >= 0:
                os.close(fd)  # whatever is left of the run ends now

    def _leave_nothing(self) -> None:
        if self.redis is None and self.config.namespace != self.asked.namespace:
            with contextlib.suppress(Exception):
                drop_namespace(self.config)
        if self._folder is not None:
            self._folder.cleanup()


def drop_namespace(config: Config) -> None:
    """Delete every key of a namespace."""
    client: Any = connect(require_url(config.redis_url))
    keys = list(client.scan_iter(match=Keys(config.namespace).prefix + "*", count=1_000))
    for first in range(0, len(keys), 500):
        client.unlink(*keys[first : first + 500])


def _watch_lifeline(fd: int) -> None:
    os.read(fd, 1)  # nothing is ever written: this returns when the run is gone
    os._exit(0)


def main() -> None:
    """Be the controller of a run."""
    options = json.loads(sys.stdin.readline())
    die_with_parent(signal.SIGKILL)
    if os.getppid() != options["parent"]:
        return
    config = Config(**options["config"])
    write_logs(config.log_format, level=options["log_level"], text="scaleplug: %(message)s")
    threading.Thread(target=_watch_lifeline, args=(options["lifeline"],), daemon=True).start()
    try:
        control(config, Path(options["folder"]), lifeline=options["lifeline"], grace=config.run_grace)
    except ConfigurationError as exc:
        print(f"scaleplug: {exc}", file=sys.stderr)  # noqa: T201
        sys.exit(EX_CONFIG)


if __name__ == "__main__":
    main()
