"""docker-compose.yml, brought up for real on the tests' engine: the file as it is, beside images made here."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ROOT
from tests.engine import Engine
from tests.engine_base import BASE_IMAGE
from tests.helpers import wait_until
from tests.redis_server import free_port

REDIS_IMAGE = "scaleplug-test-redis"
REDIS = f"""\
FROM {BASE_IMAGE}
RUN install --directory --owner=redis --group=redis /data
"""


def program() -> list[str]:
    """Return Compose, whichever this machine has; a skip without one."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if asked.returncode == 0:
        return ["docker", "compose"]
    problem = "no Compose: apt install docker-compose"
    if os.environ.get("CI"):
        pytest.fail(problem)
    pytest.skip(problem)


class Stack:
    """One project of Compose, on a network of its own where the engine can make one, else on the host's."""

    def __init__(self, engine: Engine, folder: Path, arguments: Mapping[str, str]) -> None:
        self.engine, self.folder = engine, folder
        self.redis_port, self.app_port = free_port(), free_port()
        self.file = ROOT / "docker-compose.yml"
        self.environ = {
            **os.environ,
            **arguments,
            "DOCKER_HOST": engine.url,
            "DOCKER_BUILDKIT": "0",
            "COMPOSE_DOCKER_CLI_BUILD": "0",  # its own builder, whichever docker command there is
            "COMPOSE_PROJECT_NAME": "scaleplug-test",
            "DOCKER_SOCKET": str(engine.socket),
            "SECRETS": str(folder / "secrets"),
            "NETWORK": "scaleplug-test",
            "BASE_IMAGE": BASE_IMAGE,
            "BUILD_NETWORK": "host",
            "REDIS_IMAGE": REDIS_IMAGE,
            "REDIS_PORT": str(self.redis_port),
            "APP_PORT": str(self.app_port),
            "FLOWER_PORT": str(free_port()),
            "APP_IMAGE": "scaleplug-example:1",
        }
        secrets = {}
        if not _has_bridges(engine):
            self._use_the_hosts_network()
            secrets["REDIS_AT"] = f"127.0.0.1:{self.redis_port}"
        made = [str(ROOT / "config" / "make-secrets.sh"), str(folder / "secrets")]
        subprocess.run(made, env={**os.environ, **secrets}, check=True)

    def _use_the_hosts_network(self) -> None:
        text = re.sub(r"    ports:\n(      - .*\n)+", "", self.file.read_text())
        text = text.replace("    restart: unless-stopped\n", "    restart: unless-stopped\n    network_mode: host\n")
        text = text.replace(
            "  restart: unless-stopped\n  depends_on:", "  restart: unless-stopped\n  network_mode: host\n  depends_on:"
        )
        text = text.replace("redis-cli ping", f"redis-cli -p {self.redis_port} ping")
        text = text.replace("./config/", f"{ROOT}/config/").replace("context: .", f"context: {ROOT}")
        self.file = self.folder / "docker-compose.yml"
        self.file.write_text(text)
        self.environ |= {"NETWORK": "host", "REDIS_OPTIONS": f"--port {self.redis_port}"}

    def compose(self, *arguments: str, timeout: float = 100, **environ: str) -> str:
        """Run Compose to its end; return what it printed."""
        done = subprocess.run(
            [*program(), "--file", str(self.file), "--project-directory", str(ROOT), *arguments],
            env={**self.environ, **environ}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments} ended with {done.returncode}\n{done.stdout[-6000:]}"
        return done.stdout

    @property
    def outside(self) -> dict[str, str]:
        """What a caller outside needs in its environment."""
        password, secret = (self.secret(name) for name in ("redis_password", "scaleplug_secret"))
        return {
            "SCALEPLUG_REDIS_URL": f"redis://:{password}@127.0.0.1:{self.redis_port}/0",
            "SCALEPLUG_SECRET": secret,
        }

    def secret(self, name: str) -> str:
        """Return what is in one of the files."""
        return (self.folder / "secrets" / name).read_text()

    def services(self, client: Any) -> dict[str, Any]:
        """Return the containers that Compose has made, by their service."""
        label = "com.docker.compose.service"
        found = client.containers.list(
            all=True, ignore_removed=True, filters={"label": "com.docker.compose.project=scaleplug-test"}
        )
        return {container.labels[label]: container for container in found}

    def wait_healthy(self, client: Any, *services: str) -> None:
        """Wait until services have had a health check that went well."""

        def sick() -> list[str]:
            states = {name: c.attrs["State"] for name, c in self.services(client).items()}
            return [name for name in services if states[name].get("Health", {}).get("Status") != "healthy"]

        with contextlib.suppress(AssertionError):
            wait_until(lambda: not sick(), 60)
        if sick():
            pytest.fail(f"not healthy: {sick()}\n{self.compose('logs', '--tail=40')}\n{self.compose('ps')}")


def _has_bridges(engine: Engine) -> bool:
    from docker.errors import APIError

    with contextlib.closing(engine.client()) as client:
        try:
            client.networks.create("scaleplug-try", driver="bridge").remove()
        except APIError:
            return False
    return True
