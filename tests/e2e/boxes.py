"""A Redis, an engine and controllers with the docker backend, as tests of it have them."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from scaleplug.here import forget_callers
from scaleplug.settings import Config, use_config
from scaleplug.store import Store
from tests.controllers import Controller
from tests.dockers import docker_config
from tests.e2e import docker_jobs as jobs
from tests.engine import Engine
from tests.helpers import wait_until


class Site:
    """One namespace, with its controllers."""

    def __init__(self, engine: Engine, config: Config, folder: Path) -> None:
        self.engine, self.config, self.folder = engine, config, folder
        self.client: Any = engine.client()
        self.controllers: list[Controller] = []
        use_config(config)
        caller: Any = jobs.app.caller()
        self.store: Store = caller.store

    def controller(self, **environ: str) -> Controller:
        """Start a controller; it acts, or stands by."""
        started = Controller(self.folder, **self.config.to_environ() | environ)
        self.controllers.append(started)
        started.says("ready; functions known")
        return started

    def boxes(self, function: Any = None, *, role: str = "container") -> list[Any]:
        """Return the containers on the engine, whatever has become of them."""
        labels = [f"scaleplug.namespace={self.config.namespace}", f"scaleplug.role={role}"]
        if function is not None:
            labels.append(f"scaleplug.function={function.full_name}")
        found: list[Any] = self.client.api.containers(all=True, filters={"label": labels})
        return found

    def busy(self, function: Any, folder: Path, count: int = 1) -> Any:
        """Let a container run an input of ``note``; return the call once it does."""
        call = function.spawn(folder, 7)
        wait_until(lambda: len(self.begun(folder)) >= count, 30, "the input runs")
        return call

    def begun(self, folder: Path) -> list[float]:
        """Return when an input of ``note`` was begun, each time."""
        notes = folder / "begun"
        return [float(line) for line in notes.read_text().splitlines()] if notes.exists() else []

    def empty(self) -> bool:
        """Return whether nothing of it is left on the engine."""
        return not self.boxes() and not self.boxes(role="standby")

    def close(self) -> None:
        """End everything; nothing may be left on the engine."""
        for controller in self.controllers:
            if controller.process.poll() is None:
                controller.process.send_signal(signal.SIGTERM)
        for controller in self.controllers:
            controller.process.wait(30)
            controller._reader.join(5)
        forget_callers(self.config.redis_url)
        use_config(None)
        left = [*self.boxes(), *self.boxes(role="standby")]
        for each in left:
            self.client.api.remove_container(each["Id"], force=True)
        self.client.close()
        assert left == [], "\n".join(line for c in self.controllers for line in c.said)


@contextmanager
def site(engine: Engine, image: str, redis_url: str, folder: Path, **values: Any) -> Iterator[Site]:
    """Give a site without a controller yet."""
    namespace = f"t{secrets.token_hex(3)}"
    config = docker_config(engine, image, redis_url=redis_url, namespace=namespace, stop_grace=5.0, **values)
    made = Site(engine, config, folder)
    try:
        yield made
    finally:
        made.close()


def kill(controller: Controller) -> None:
    """Let a controller die at once, without its containers."""
    psutil.Process(controller.process.pid).kill()
    controller.process.wait(10)
