"""A Docker Engine of the tests' own, which nobody else on the machine notices, and the base of the images they build.

It lives in namespaces of its own: whatever happens to the tests, the kernel ends every process in them and takes every
mount back as soon as this process is gone. It pulls no image and has no network but the host's.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.engine_base import BASE_IMAGE, base_archive
from tests.helpers import wait_until

PROGRAMS = {
    "dockerd": "docker.io", "docker-init": "docker.io", "debootstrap": "debootstrap",
    "unshare": "util-linux", "nsenter": "util-linux",
}  # fmt: skip
"""What the tests need, and the Debian package that has it."""
MOST_DATA = 3 << 30
"""Bytes that images and containers of a session may take in memory."""


def why_not() -> str | None:
    """Return why there can be no engine here; ``None`` if there can."""
    if sys.platform != "linux":
        return "a Docker Engine of the tests' own needs Linux"
    if os.geteuid() != 0:
        return "a Docker Engine of the tests' own needs root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        packages = sorted({PROGRAMS[name] for name in missing})
        return f"{' and '.join(missing)} not found: apt install {' '.join(packages)}"
    return None


class Engine:
    """One ``dockerd``, which can be stopped, killed and started again; what it keeps goes with :meth:`close`."""

    def __init__(self) -> None:
        self._name = f"scaleplug-{secrets.token_hex(4)}"  # containerd takes no "_"
        self.folder = Path(tempfile.mkdtemp(prefix="scaleplug-engine-"))
        self.socket = self.folder / "docker.sock"
        self.url = f"unix://{self.socket}"
        self.log = self.folder / "log"
        (self.folder / "daemon.json").write_text("{}")  # not the one of the machine's own engine
        (self.folder / "data").mkdir()
        # Its standard input is the lifeline: when the last who holds the other end is gone, all in the namespaces is.
        self._world = subprocess.Popen(
            [
                "unshare", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child", "docker-init", "--",
                "sh", "-euc", f"{_mount(self.folder / 'data')}; echo ready; exec cat >/dev/null",
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._world.stdout is not None
        with self._world.stdout as ready:
            assert ready.readline() == b"ready\n", "the namespaces can't be made"
        self._entrance: subprocess.Popen[bytes] | None = None

    def start(self) -> Engine:
        """Start it, and wait until it answers."""
        (init,) = psutil.Process(self._world.pid).children()
        keep = self.folder
        with self.log.open("ab") as log:
            self._entrance = subprocess.Popen(
                [
                    "nsenter", f"--target={init.pid}", "--pid", "--mount", "--",
                    "dockerd", f"--host={self.url}", f"--data-root={keep}/data", f"--exec-root={keep}/exec",
                    f"--pidfile={keep}/pid", f"--config-file={keep}/daemon.json",
                    f"--containerd-namespace={self._name}", f"--containerd-plugins-namespace={self._name}-plugins",
                    "--bridge=none", "--iptables=false", "--ip6tables=false",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        wait_until(self._answers, 30, "the engine answers")
        return self

    def _answers(self) -> bool:
        assert self._entrance is not None
        if self._entrance.poll() is not None:
            pytest.fail(f"dockerd ended with {self._entrance.returncode}\n{self.log.read_text()[-3000:]}")
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as plain:  # the SDK leaves such sockets open
            plain.settimeout(5)
            plain.connect(str(self.socket))
            plain.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in plain.recv(1024)
        return False

    def client(self) -> Any:
        """Return a client of the ``docker`` SDK; whoever asks closes it."""
        import docker  # an extra, and slow to import

        return docker.DockerClient(base_url=self.url, timeout=60)

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End the engine: SIGTERM takes its containers along, SIGKILL leaves them running without it."""
        entrance, self._entrance = self._entrance, None
        if entrance is None:
            return
        for process in psutil.Process(entrance.pid).children() if entrance.poll() is None else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(how)
        entrance.wait(30)

    def restart(self, how: int = signal.SIGTERM) -> None:
        """Stop it and start it again."""
        self.stop(how)
        (self.folder / "pid").unlink(missing_ok=True)
        self.start()

    def close(self) -> None:
        """End everything and leave nothing behind; without a last word to the containers, who are the tests' own."""
        assert self._world.stdin is not None
        self._world.stdin.close()
        self._world.wait(10)
        if self._entrance is not None:
            self._entrance.wait(10)
        shutil.rmtree(self.folder)


def _mount(data: Path) -> str:
    """Return the command that puts the engine's data into memory, where there is plenty: a disk takes minutes."""
    if psutil.virtual_memory().available < 4 * MOST_DATA:
        return "true"
    return f"mount -t tmpfs -o size={MOST_DATA},mode=711 scaleplug {data}"


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Start the engine of this session, which has the image ``BASE_IMAGE`` and nothing else."""
    problem = why_not()
    if problem and os.environ.get("CI"):
        pytest.fail(problem)
    if problem:
        pytest.skip(problem)
    archive = base_archive()
    started = Engine()
    try:
        started.start()
        with contextlib.closing(started.client()) as client, archive.open("rb") as data:
            client.api.import_image_from_data(data, repository=BASE_IMAGE, tag="latest", changes=['CMD ["python3"]'])
        yield started
    finally:
        started.close()
