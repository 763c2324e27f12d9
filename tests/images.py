"""The worker images, built for real on the tests' engine: without a network, from wheels of this machine's pip."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.server
import io
import shutil
import subprocess
import sys
import tarfile
import threading
import tomllib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ROOT
from tests.engine import Engine
from tests.engine_base import BASE_IMAGE, cache

WORKER_IMAGE = "scaleplug-worker"
EXTRAS = "docker,flower,metrics"
"""Those of docker-compose.yml, so that what is built for one is there for the other."""


def wheels() -> Path:
    """Return a folder with a wheel of all that images install; the first time pip fills it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    # The last is what redis needs on Debian's Python 3.11, and on no later one.
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"], "async-timeout"]
    extras = project["project"]["optional-dependencies"]
    for extra in ("docker", "eventlet", "flower", "metrics", "redbeat", "beat"):
        wanted += extras.get(extra, ())
    made_of = hashlib.sha256(repr((sys.version_info[:2], sorted(wanted))).encode()).hexdigest()[:12]
    folder = cache() / f"wheels-{made_of}"
    with (cache() / "wheels-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--only-binary=:all:",
                f"--dest={unfinished}",
            ]
            done = subprocess.run([*command, *wanted], capture_output=True, text=True, timeout=300, check=False)
            if done.returncode:
                pytest.fail(f"pip can't download what images need\n{done.stderr[-3000:]}")
            unfinished.rename(folder)
    return folder


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving_wheels() -> Iterator[dict[str, str]]:
    """Give the build arguments with which pip finds the wheels: on a server of the tests, on loopback.

    All of them, since Compose gives all: then what was built for others is in the engine's cache.
    """
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(wheels())))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    unused = dict.fromkeys(("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST"), "")
    yield {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": f"http://127.0.0.1:{server.server_port}/", **unused}
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture(scope="session")
def pip_arguments() -> Iterator[dict[str, str]]:
    """Give these arguments for a session."""
    with serving_wheels() as arguments:
        yield arguments


def build(engine: Engine, dockerfile: str, tag: str, arguments: Mapping[str, str], *, folder: str = ".") -> Any:
    """Build an image from a folder of this checkout, as ``docker build`` would, and return it."""
    said = []
    context = _context(ROOT / folder)
    with contextlib.closing(engine.client()) as client:
        for line in client.api.build(
            fileobj=context, custom_context=True, dockerfile=dockerfile, tag=tag, buildargs=dict(arguments),
            network_mode="host", rm=True, forcerm=True, decode=True,
        ):  # fmt: skip
            said.append(line.get("stream", line.get("error", "")))
            if "error" in line:
                raise RuntimeError(f"{dockerfile} can't be built\n{''.join(said)[-3000:]}")  # benchmarks build it too
        return client.images.get(tag)


def _context(folder: Path) -> io.BytesIO:
    """Return what .dockerignore leaves of a folder."""
    from docker.utils.build import exclude_paths

    ignored = folder / ".dockerignore"
    patterns = ignored.read_text().splitlines() if ignored.exists() else []
    patterns = [line for line in patterns if line and not line.startswith("#")]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in sorted(exclude_paths(str(folder), patterns)):
            archive.add(folder / name, name, recursive=False)
    packed.seek(0)
    return packed


@pytest.fixture(scope="session")
def worker_image(engine: Engine, pip_arguments: dict[str, str]) -> str:
    """Build the worker image of this checkout, with what a controller needs too; return its name."""
    arguments = {**pip_arguments, "BASE_IMAGE": BASE_IMAGE, "EXTRAS": EXTRAS}
    build(engine, "worker_images/base/Dockerfile", WORKER_IMAGE, arguments)
    return WORKER_IMAGE
