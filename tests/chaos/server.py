"""A Redis that keeps its data, and can be killed, stopped and started again on the same port."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import redis

from scaleplug.embedded import find_server
from tests.helpers import wait_until


class Server:
    """A Redis on a port and in a folder of its own, with fsync every second unless ``options`` say otherwise."""

    def __init__(self, folder: Path, **options: str) -> None:
        self.folder = folder
        self.options = {"appendonly": "yes", "appendfsync": "everysec", "save": '""'} | {
            name.replace("_", "-"): value for name, value in options.items()
        }
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def client(self) -> Any:
        """A client of its own, which gives up at once."""
        return redis.Redis.from_url(self.url, socket_timeout=5)

    def start(self) -> Server:
        """Start it and wait until it answers."""
        self.folder.mkdir(exist_ok=True)
        command = [
            find_server(os.environ).path,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self.folder),
        ]
        for name, value in self.options.items():
            command += [f"--{name}", *value.split(" ")] if value != '""' else [f"--{name}", ""]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_until(self._answers, 20, "Redis answers")
        return self

    def _answers(self) -> bool:
        with contextlib.suppress(redis.RedisError), contextlib.closing(self.client) as client:
            return bool(client.ping())
        return False

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def _end(self, sig: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(sig)
            self._process.wait(20)
            self._process = None

    def wipe(self) -> None:
        """Forget its data; it must not run."""
        assert self._process is None
        shutil.rmtree(self.folder)
