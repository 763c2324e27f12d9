"""The zygote: a process that has imported the user's app and forks ready containers from itself.

It is single-threaded and has no connection but its control socket, so that a fork copies nothing that could be in
use. It reads its configuration (with the secret) from standard input, listens on a Unix socket, serves one controller
at a time, and outlives it: a controller that restarts connects again and finds the containers it left. Messages are
lines of JSON:

    to the zygote       prepare (functions), start (functions, containers), stop (container, grace),
                        kill (container), end (grace)
    to the controller   hello (pid, error, loaded_at, containers), started (container, pid), log (lines),
                        exit (container, function, code, reason, lines, asked),
                        frozen (container, frozen)
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections import deque
from dataclasses import asdict, fields
from functools import partial
from typing import Any

from scaleplug.abc import StartRequest
from scaleplug.context import mark_container
from scaleplug.here import importing, serve
from scaleplug.keys import Keys
from scaleplug.registry import Registration, Source
from scaleplug.serializer import Keyring, use_keyring
from scaleplug.server import connect
from scaleplug.settings import Config, use_config
from scaleplug.store import Store, require_url
from scaleplug.worker.child import Child, exit_reason
from scaleplug.worker.container import Container, leave_process
from scaleplug.worker.leaving import Deadline
from scaleplug.worker.loading import imported, unpickled
from scaleplug.worker.parent import adopt_orphans, die_with_parent
from scaleplug.worker.rehearsal import Rehearsal, prepare_rehearsal
from scaleplug.worker.spares import Boot, Spare, Spares, pair, registration_of

ORPHAN_SECONDS = 60.0
"""How long containers go on without a controller before the zygote ends them in good order."""
_ASKED = {f.name for f in fields(StartRequest)}
"""What is taken of what a controller asks for, which may be of another version."""
BACKLOG_LINES = 5_000
WEIGH_SECONDS = 0.25
"""How often memory is looked at where it is limited."""
LEAVE_SECONDS = 0.5
"""How long putting back what it runs may take a container whose time is up; then it is killed."""
PREPARED_AHEAD = 200
"""So many functions are prepared before their first start: each takes about 2 ms and 50 KiB."""


class Zygote:
    """The process's state; :meth:`serve` is its loop."""

    def __init__(self, config: Config, source: Source, listener: socket.socket, lifeline: int | None) -> None:
        self.config, self.source, self.listener, self.lifeline = config, source, listener, lifeline
        self.pid = os.getpid()
        self.error: str | None = None
        self.loaded_at = 0.0
        self.children: dict[str, Child] = {}
        self.by_pid: dict[int, Child] = {}
        self.controller: socket.socket | None = None
        self.inbound = b""
        self.outbound = bytearray()
        self.log: deque[tuple[str, str, str]] = deque()
        self.held_up: list[Child] = []  # their output waits, because the controller doesn't keep up
        self.exits: list[dict[str, Any]] = []
        self.registrations: dict[str, Registration] = {}
        self.prepared: dict[str, Container] = {}
        self.to_prepare: dict[str, None] = {}
        """Functions to be prepared when there is nothing else to do."""
        self.spares = Spares(config.spares, self.fork_spare)
        self.rehearsal: Rehearsal | None = None
        self._store: Store | None = None
        self.alone_since = time.monotonic()
        self.ending = False
        self.weighed = 0.0
        self.selector = selectors.DefaultSelector()
        self.signals_reader, self.signals_writer = os.pipe()

    # -- set-up ----------------------------------------------------------------------------------------------------

    def load(self, problem: str | None = None) -> None:
        """Import the user's code, but for a ``problem``; what goes wrong is told to the controller."""
        self.error = problem
        try:
            if problem is not None:
                return
            with importing():
                self.source.load()
        except BaseException:  # noqa: BLE001  # user code may raise anything
            self.error = traceback.format_exc()
        finally:
            self.loaded_at = time.time()
            gc.collect()
            gc.freeze()

    def watch(self) -> None:
        """Listen to the socket, to signals and, when there is one, to the starter's lifeline."""
        for fd in (self.signals_reader, self.signals_writer):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self.signals_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self.end(0.0 if self.ending else self.config.stop_grace))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.selector.register(self.signals_reader, selectors.EVENT_READ, self.on_signal)
        self.selector.register(self.listener, selectors.EVENT_READ, self.on_connect)
        if self.lifeline is not None:
            self.selector.register(self.lifeline, selectors.EVENT_READ, self.on_lifeline)

    def serve(self) -> None:
        """Serve until ended."""
        while not (self.ending and not self.children and self.told_all()):
            ready = self.selector.select(self.next_pause())
            for key, _ in ready:
                key.data()
            if not ready:
                self.prepare_next()
            self.reap()
            self.enforce()
            self.spares.tend(dict(self.prepared))
            self.flush()
        self.selector.close()

    def next_pause(self) -> float:
        """Return the seconds until something falls due."""
        if self.to_prepare:
            return 0.0
        if self.outbound or (self.log and self.controller is not None):
            return 0.01
        soon = self.ending or any(c.stop_by or c.frozen_since for c in self.children.values())
        weighs = any(c.memory for c in self.children.values())
        return min(0.1 if soon else WEIGH_SECONDS if weighs else 1.0, self.spares.pause())

    # -- orders ----------------------------------------------------------------------------------------------------

    def on_connect(self) -> None:
        """Serve a new controller; the one before it has nothing to say any more."""
        connection, _ = self.listener.accept()
        self.hang_up()
        connection.setblocking(False)
        self.controller = connection
        self.selector.register(connection, selectors.EVENT_READ, self.on_orders)
        found = [{**asdict(c.request), "pid": c.pid, "started_at": c.started_at} for c in self.children.values()]
        self.tell(
            {"ev": "hello", "pid": self.pid, "error": self.error, "loaded_at": self.loaded_at, "containers": found}
        )
        for exit_ in self.exits:
            self.tell(exit_)
        self.exits.clear()

    def hang_up(self) -> None:
        """Forget the controller."""
        if self.controller is not None:
            self.selector.unregister(self.controller)
            self.controller.close()
        self.controller, self.inbound = None, b""
        self.outbound.clear()
        for child in self.children.values():
            child.told_frozen = False
        self.alone_since = time.monotonic()
        self.read_on()

    def on_orders(self) -> None:
        """Read what the controller wants."""
        assert self.controller is not None
        try:
            data = self.controller.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.hang_up()
            return
        *lines, self.inbound = (self.inbound + data).split(b"\n")
        for line in lines:
            self.obey(json.loads(line))

    def obey(self, order: dict[str, Any]) -> None:
        """Carry out one order."""
        for known in order.get("functions", ()):
            registration = Registration.from_dict(known)
            self.registrations[registration.function] = registration
            self.prepared.pop(registration.function, None)
        if order["op"] == "prepare":
            self.to_prepare.update(dict.fromkeys(known["function"] for known in order["functions"]))
        elif order["op"] == "start":
            for wanted in order["containers"]:
                self.start(StartRequest(**{k: v for k, v in wanted.items() if k in _ASKED}))
            self.spares.postpone()
        elif order["op"] == "stop":
            self.stop(order["container"], order["grace"])
        elif order["op"] == "kill":
            self.signal_child(order["container"], signal.SIGKILL)
        elif order["op"] == "end":
            self.end(order["grace"])

    def stop(self, container: str, grace: float) -> None:
        """Let a container drain; when ``grace`` seconds are over it puts back what it runs, or is killed."""
        child = self.children.get(container)
        if child is not None:
            leave_by = time.monotonic() + grace
            child.asked, child.stop_by = True, leave_by + LEAVE_SECONDS
            child.deadline.set(leave_by)
            os.kill(child.pid, signal.SIGTERM)

    def end(self, grace: float) -> None:
        """Drain all containers, then end."""
        self.ending = True
        self.spares.end()
        for container in list(self.children):
            self.stop(container, grace)

    def signal_child(self, container: str, sig: int) -> None:
        """Signal a container and whatever it has started."""
        child = self.children.get(container)
        if child is not None:
            try:
                os.killpg(child.pid, sig)
            except ProcessLookupError:
                os.kill(child.pid, sig)

    # -- forking ---------------------------------------------------------------------------------------------------

    def start(self, request: StartRequest) -> None:
        """Let a spare be the container, or fork one."""
        try:
            self.prepare(request.function)
        except Exception:  # noqa: BLE001  # what Celery or user code raises is the reason of a failed start
            lines = (self.error or traceback.format_exc()).splitlines()
            reason = "its code could not be imported" if self.error else "it could not be set up"
            self.report_exit(request, 1, reason, lines[-30:], asked=False)
            return
        registration, prepared = self.registrations[request.function], self.prepared.get(request.function)
        spare = self.spares.hand_over(request, registration, prepared)
        if spare is None:
            self.fork(request)
        else:
            self.take_on(request, spare.pid, spare.output, spare.deadline)

    def fork(self, request: StartRequest) -> None:
        """Fork one container."""
        (reader, writer), deadline = os.pipe(), Deadline()
        pid = os.fork()
        if pid == 0:
            self.become_container(request, deadline, reader, writer)
        self.take_on(request, pid, reader, deadline)
        os.close(writer)

    def fork_spare(self) -> Spare | None:
        """Fork a spare, if there is something that it could become."""
        if self.ending or self.error is not None or not self.registrations:
            return None
        self.rehearsal = self.rehearsal or prepare_rehearsal(self.config)
        (reader, writer), (line, its_end), deadline = os.pipe(), pair(), Deadline()
        knows: dict[str, object] = dict(self.prepared)
        pid = os.fork()
        if pid == 0:
            os.close(line)
            self.become_spare(deadline, its_end, reader, writer)
        for fd in (writer, its_end):
            os.close(fd)
        return Spare(pid, line, reader, deadline, knows)

    def take_on(self, request: StartRequest, pid: int, reader: int, deadline: Deadline) -> None:
        """Look after a child that is, or is about to be, a container."""
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # the child does it too: whoever comes first
        os.set_blocking(reader, False)
        child = Child(request, pid, time.time(), reader, deadline)
        child.memory = self.registrations[request.function].settings.memory
        self.children[request.container] = self.by_pid[pid] = child
        self.selector.register(reader, selectors.EVENT_READ, partial(self.on_output, child))
        self.tell({"ev": "started", "container": request.container, "pid": pid})

    def prepare_next(self) -> None:
        """Prepare one more function ahead of its first start."""
        if not self.to_prepare:
            return
        function = next(iter(self.to_prepare))
        del self.to_prepare[function]
        if len(self.prepared) < PREPARED_AHEAD:
            with contextlib.suppress(Exception):  # the first start meets it again, and tells
                self.prepare(function)
        self.spares.postpone()

    def prepare(self, function: str) -> None:
        """Build what a function's containers have in common, once, before the fork."""
        if self.error is not None:
            raise RuntimeError(self.error)
        registration = self.registrations[function]
        if registration.serialized or function in self.prepared:
            return  # pickled code is fetched, verified and unpickled in the container
        self.prepared[function] = imported(registration, self.source, self.config, self.store)
        gc.freeze()

    def become_container(self, request: StartRequest, deadline: Deadline, reader: int, writer: int) -> None:
        """Be the container from here on; never returns."""
        status = 1
        try:
            self.leave_zygote(reader, writer)
            status = self.run_container(request, deadline, None)
        except BaseException:  # noqa: BLE001  # a child must never go on as a second zygote
            traceback.print_exc()
        finally:
            leave_process(status)

    def become_spare(self, deadline: Deadline, line: int, reader: int, writer: int) -> None:
        """Be a spare from here on, and then a container; never returns."""
        status = 1
        try:
            self.leave_zygote(reader, writer)
            boot = Boot(self.store)
            boot.open()
            if self.rehearsal is not None:
                self.rehearsal.run()
            order = boot.wait(line)
            if order is None:
                status = 0
            else:
                registration = registration_of(order)
                self.registrations[registration.function] = registration
                status = self.run_container(StartRequest(**order["container"]), deadline, boot)
        except BaseException:  # noqa: BLE001  # as above
            traceback.print_exc()
        finally:
            leave_process(status)

    def leave_zygote(self, reader: int, writer: int) -> None:
        """Let go of what is the zygote's, in a child."""
        die_with_parent(signal.SIGKILL)
        if os.getppid() != self.pid:
            os._exit(1)  # the zygote was gone before the kernel had been asked
        for fd in (1, 2):
            os.dup2(writer, fd)
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for sig in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(sig, signal.SIG_DFL)
        self.selector.close()
        outputs = [c.output for c in self.children.values() if c.output >= 0]
        for fd in (reader, writer, self.signals_reader, self.signals_writer, *outputs, *self.spares.descriptors()):
            os.close(fd)
        self.listener.close()
        if self.controller is not None:
            self.controller.close()
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    def run_container(self, request: StartRequest, deadline: Deadline, boot: Boot | None) -> int:
        """Run a container to its end, with what it had as a spare."""
        forked = time.monotonic()
        if boot is not None:
            boot.name(request.container)
        serve(request.app)
        container = self.prepared.get(request.function) or self.unpickle(request)
        container.boot, container.forked = boot, forked
        return container.run(request, deadline)

    @property
    def store(self) -> Store:
        """The store of all containers: what is read once need not be read for each function."""
        if self._store is None:
            self._store = Store(connect(require_url(self.config.redis_url)), Keys(self.config.namespace))
            self._store.prepare_scripts()
        return self._store

    def unpickle(self, request: StartRequest) -> Container:
        """Return the container of a function that travels pickled."""
        return unpickled(self.registrations[request.function], self.config, self.store)

    # -- ends ------------------------------------------------------------------------------------------------------

    def on_signal(self) -> None:
        """Empty the pipe that a signal has written into."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.signals_reader, 4096)

    def reap(self) -> None:
        """Report every child that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self.by_pid.get(pid)
            if os.WIFSTOPPED(status) or os.WIFCONTINUED(status):
                if child is not None:
                    child.note_stop(status)
                continue
            unused, to_be_done = self.spares.left(pid)
            if unused or child is None:
                continue  # something a container had started and left behind
            del self.by_pid[pid]
            child.deadline.close()
            self.on_output(child, to_the_end=True)
            if child.output >= 0:
                self.close_output(child)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # what it had started goes with it
            del self.children[child.request.container]
            if to_be_done and not child.asked:  # it was a spare, and died before it knew
                self.fork(child.request)
                continue
            code = os.waitstatus_to_exitcode(status)
            self.report_exit(
                child.request, code, child.killed_for or exit_reason(code), list(child.last_lines), asked=child.asked
            )

    def report_exit(self, request: StartRequest, code: int, reason: str, lines: list[str], *, asked: bool) -> None:
        """Tell the controller, or keep it for the next one."""
        event = {"ev": "exit", "container": request.container, "function": request.function, "code": code,
                 "reason": reason, "lines": lines, "asked": asked}  # fmt: skip
        if self.controller is None:
            self.exits.append(event)
        else:
            self.tell(event)

    def enforce(self) -> None:
        """Kill what did not leave in time; end when nobody has cared for a while."""
        now = time.monotonic()
        for child in self.children.values():
            if child.stop_by is not None and now > child.stop_by:
                child.stop_by = None
                self.signal_child(child.request.container, signal.SIGKILL)
            self.tell_frozen(child, now)
        if now - self.weighed >= WEIGH_SECONDS:
            self.weighed = now
            for child in [c for c in self.children.values() if c.too_large()]:
                self.signal_child(child.request.container, signal.SIGKILL)
        if self.controller is None and not self.ending and now - self.alone_since > ORPHAN_SECONDS:
            self.end(self.config.stop_grace)

    def tell_frozen(self, child: Child, now: float) -> None:
        """Tell of a container that has been stopped for too long, and of one that goes on after that."""
        since = child.frozen_since
        frozen = since is not None and now - since >= self.config.freeze_timeout
        if frozen != child.told_frozen and self.controller is not None:
            child.told_frozen = frozen
            self.tell({"ev": "frozen", "container": child.request.container, "frozen": frozen})

    def on_lifeline(self) -> None:
        """End everything at once: whoever started us is gone, and Redis with it."""
        self.spares.end()
        for container in list(self.children):
            self.signal_child(container, signal.SIGKILL)
        os._exit(0)

    # -- telling the controller ------------------------------------------------------------------------------------

    def on_output(self, child: Child, *, to_the_end: bool = False) -> None:
        """Read what a container has printed; it must wait while the controller doesn't keep up."""
        while child.output >= 0:
            if self.controller is not None and len(self.log) >= BACKLOG_LINES and not to_the_end:
                self.selector.unregister(child.output)
                self.held_up.append(child)
                return
            lines = child.read_lines()
            if lines is None:
                return
            for line in lines:
                if self.controller is None and len(self.log) >= BACKLOG_LINES:
                    self.log.popleft()
                self.log.append((child.request.function, child.request.container, line))
            if child.at_end:
                self.close_output(child)

    def close_output(self, child: Child) -> None:
        """Stop reading a container's output."""
        if child in self.held_up:
            self.held_up.remove(child)
        else:
            self.selector.unregister(child.output)
        child.close_output()

    def read_on(self) -> None:
        """Read again what had to wait."""
        waiting, self.held_up = self.held_up, []
        for child in waiting:
            self.selector.register(child.output, selectors.EVENT_READ, partial(self.on_output, child))

    def tell(self, event: dict[str, Any]) -> None:
        """Queue an event for the controller, if there is one."""
        if self.controller is None:
            return
        self.outbound += json.dumps(event).encode() + b"\n"

    def told_all(self) -> bool:
        """Return whether the controller, if there is one, has been sent everything."""
        return self.controller is None or not (self.outbound or self.log)

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it; output waits until events are through."""
        if self.controller is None:
            return
        if self.log and len(self.outbound) < 262_144:
            lines = [self.log.popleft() for _ in range(min(len(self.log), 500))]
            self.tell({"ev": "log", "lines": lines})
            if self.held_up and len(self.log) < BACKLOG_LINES:
                self.read_on()
        while self.outbound:
            try:
                del self.outbound[: self.controller.send(self.outbound)]
            except BlockingIOError:
                return
            except OSError:
                self.hang_up()
                return


def main(problem: str | None = None) -> None:
    """Run a zygote with the configuration on standard input; with a ``problem`` it only tells that."""
    options = json.loads(sys.stdin.readline())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    adopt_orphans()
    config = Config(**options["config"])
    use_config(config)
    mark_container()
    use_keyring(Keyring(config.secret))
    listener = socket.socket(fileno=options["listener"])
    zygote = Zygote(config, Source(*options["source"]), listener, options.get("lifeline"))
    zygote.watch()
    zygote.load(problem)
    zygote.serve()


if __name__ == "__main__":
    main()
