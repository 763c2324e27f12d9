"""What a container without a zygote does: import, prepare, perhaps stand by, and run to its end."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from scaleplug import health
from scaleplug.abc import READY, StartRequest
from scaleplug.context import mark_container
from scaleplug.here import importing, serve
from scaleplug.keys import Keys
from scaleplug.registry import Registration, Source
from scaleplug.serializer import Keyring, use_keyring
from scaleplug.server import connect
from scaleplug.settings import Config, use_config
from scaleplug.store import Store, require_url
from scaleplug.worker.container import Container, leave_process
from scaleplug.worker.leaving import Deadline
from scaleplug.worker.loading import imported, unpickled
from scaleplug.worker.rehearsal import prepare_rehearsal
from scaleplug.worker.spares import Boot, registration_of

WITHOUT_END = 10 * 365 * 86_400.0
"""Seconds: whoever asks it to drain as long as it takes, ends it himself."""
WAYS_OUT = (
    "A container imports its code from its image: put it there (scaleplug image build), mount it (volumes= or "
    "SCALEPLUG_DOCKER_VOLUMES), or let the function travel pickled (serialized=True)."
)


class Serving:
    """One container's process."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        known = {f.name for f in fields(Config)}
        self.config = Config(**{k: v for k, v in told["config"].items() if k in known})
        self.source = Source(*told["source"])
        self.store = Store(connect(require_url(self.config.redis_url)), Keys(self.config.namespace))
        self.prepared: dict[str, Container] = {}
        self.deadline = Deadline()
        self.began = time.monotonic()

    def load(self) -> None:
        """Import the user's code, which is in the image or mounted."""
        source = found_here(self.source)
        try:
            with importing():
                source.load()
        except ModuleNotFoundError as exc:
            if exc.name is not None and f"{source.where}.".startswith(f"{exc.name}."):
                exc.add_note(f"The image has no module {exc.name}. {WAYS_OUT}")
            raise
        self.source = source

    def container(self, registration: Registration) -> Container:
        """Return the container of a function."""
        prepared = self.prepared.get(registration.function)
        if prepared is not None and prepared.registration == registration:
            return prepared
        if registration.serialized:
            return unpickled(registration, self.config, self.store)
        return imported(registration, self.source, self.config, self.store)

    def run(self, order: Mapping[str, Any], boot: Boot | None) -> int:
        """Be the container that was ordered, to its end; return the exit status."""
        request, registration = StartRequest(**order["container"]), registration_of(dict(order))
        if boot is not None:
            self.began = time.monotonic()
            boot.name(request.container)
        serve(request.app)
        container = self.container(registration)
        container.boot, container.forked = boot, self.began
        gc.freeze()
        gc.enable()
        signal.signal(signal.SIGUSR2, self._drain)
        os.register_at_fork(after_in_child=_forget_draining)
        return container.run(request, self.deadline)

    def stand_by(self, registrations: list[dict[str, Any]], heard: bytes) -> int:
        """Prepare everything, wait for an order and be that container; return the exit status."""
        boot = Boot(self.store)
        for known in registrations:
            registration = Registration.from_dict(known)
            if not registration.serialized:
                self.prepared[registration.function] = imported(registration, self.source, self.config, self.store)
        line = os.dup(0)
        _close_input()
        boot.open()
        rehearsal = prepare_rehearsal(self.config)
        if rehearsal is not None:
            rehearsal.run()
        health.stand_by()
        print(READY, flush=True)  # noqa: T201  # for whoever started it
        order = boot.wait(line, heard=heard, answer=False)
        return 0 if order is None else self.run(order, boot)

    def _drain(self, *_: object) -> None:
        self.deadline.set(time.monotonic() + WITHOUT_END)
        signal.raise_signal(signal.SIGTERM)


def main(told: Mapping[str, Any], heard: bytes, problem: str | None) -> None:
    """Be a container as it was told, or only tell the ``problem``; never returns."""
    status = 1
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        if problem is not None:
            sys.stderr.write(problem)
        else:
            status = _serve(told, heard)
    except SystemExit as exc:  # of the user's code, as it was imported
        print(f"the code ended its process with {exc.code!r} as it was imported", file=sys.stderr)  # noqa: T201
    except BaseException:  # noqa: BLE001  # whatever the user's code raises is why it did not start
        traceback.print_exc()
    finally:
        leave_process(status)


def _serve(told: Mapping[str, Any], heard: bytes) -> int:
    os.environ.update(told["secrets"])
    mark_container()
    serving = Serving(told)
    use_config(serving.config)
    use_keyring(Keyring(serving.config.secret))
    serving.store.prepare_scripts()
    serving.load()
    if told.get("order") is None:
        return serving.stand_by(told["registrations"], heard)
    _close_input()
    return serving.run(told["order"], None)


def _close_input() -> None:
    """Let the user's code read nothing from the controller's line."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _forget_draining() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)


def found_here(source: Source) -> Source:
    """Return where a source's file is in this image: at its own path, or at the end of it below the working folder.

    Raises FileNotFoundError that tells the ways out.
    """
    path = Path(source.where)
    if source.kind != "file" or path.exists():
        return source
    here = Path.cwd()
    for first in range(1, len(path.parts)):
        candidate = here.joinpath(*path.parts[first:])
        if candidate.is_file():
            return Source("file", str(candidate), source.folder)
    raise FileNotFoundError(f"the image has neither {path} nor {here / path.name}. {WAYS_OUT}")
