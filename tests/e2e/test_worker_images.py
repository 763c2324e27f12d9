"""The images as they are built: small, without root, with one process that gets the signals."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.commands import scaleplug, told
from tests.engine import Engine
from tests.engine_base import BASE_IMAGE
from tests.helpers import wait_until
from tests.images import build

pytestmark = pytest.mark.docker
ALIVE = "/run/scaleplug/alive"


@pytest.fixture
def client(engine: Engine) -> Iterator[Any]:
    with contextlib.closing(engine.client()) as found:
        yield found


@contextlib.contextmanager
def started(client: Any, image: str, command: list[str], **options: Any) -> Iterator[Any]:
    container = client.containers.run(image, command, network_mode="host", detach=True, **options)
    try:
        yield container
    finally:
        container.remove(force=True)


def run(client: Any, image: str, code: str, **options: Any) -> str:
    """Return what Python code prints in a container of an image."""
    said: bytes = client.containers.run(image, ["python3", "-c", code], network_mode="host", remove=True, **options)
    return said.decode().strip()


def size(client: Any, name: str) -> int:
    found: int = client.images.get(name).attrs["Size"]
    return found


def test_the_image_of_the_first_command_in_the_contract_has_no_extras(
    client: Any, engine: Engine, pip_arguments: Mapping[str, str]
) -> None:
    build(engine, "worker_images/base/Dockerfile", "scaleplug-plain", {**pip_arguments, "BASE_IMAGE": BASE_IMAGE})
    found = "from importlib.util import find_spec; print(find_spec('docker'), find_spec('celery').name)"
    assert run(client, "scaleplug-plain", found) == "None celery"


def test_the_worker_image_adds_150_mib_at_most_and_needs_no_root(
    client: Any, worker_image: str, pip_arguments: Mapping[str, str]
) -> None:
    assert size(client, worker_image) - size(client, BASE_IMAGE) <= 150 << 20
    assert pip_arguments["PIP_FIND_LINKS"] not in json.dumps(client.api.history(worker_image))
    config = client.images.get(worker_image).attrs["Config"]
    assert config["User"] == "10001:10001"
    code = "import os, json, sys, scaleplug; print(json.dumps([os.getuid(), os.getpid(), os.access('/app', os.W_OK)]))"
    hard = {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges"], "read_only": True}
    assert json.loads(run(client, worker_image, code, **hard)) == [10001, 1, False]


def test_the_entry_point_becomes_the_command(client: Any, worker_image: str) -> None:
    said = client.containers.run(worker_image, ["--version"], network_mode="host", remove=True)
    assert said.startswith(b"scaleplug ")

    deaf = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('on'); signal.pause()"
    with started(client, worker_image, ["python3", "-c", deaf]) as container:
        wait_until(lambda: b"on" in container.logs(), 10, "it runs")
        container.kill("SIGTERM")
        assert container.wait(timeout=10)["StatusCode"] == 7


def test_healthy_is_who_makes_progress(client: Any, worker_image: str) -> None:
    with started(client, worker_image, ["sleep", "60"]) as container:

        def healthy(prepare: str) -> tuple[int, str]:
            done = container.exec_run(["sh", "-c", f"{prepare} scaleplug-healthy"])
            return done.exit_code, done.output.decode().strip()

        assert healthy("") == (1, "no progress yet")
        assert healthy("touch /run/scaleplug/standing-by;") == (0, "")
        assert healthy(f"touch {ALIVE};") == (0, "")
        assert healthy(f"touch -d '3 minutes ago' {ALIVE};") == (1, "no progress for a minute or more")


@pytest.mark.parametrize(
    ("kind", "code", "found"),
    [
        ("threads", "import os, scaleplug; print(os.environ['MALLOC_ARENA_MAX'])", "2"),
        ("eventlet", "import eventlet, scaleplug; print(eventlet.__file__.split('/')[2])", "app"),
        ("gpu", "import os, scaleplug; print(os.environ['NVIDIA_VISIBLE_DEVICES'], os.getuid())", "all 10001"),
    ],
)
def test_the_other_images_build_and_are_no_larger(
    engine: Engine, client: Any, worker_image: str, pip_arguments: Mapping[str, str], kind: str, code: str, found: str
) -> None:
    on = {"CUDA_IMAGE": BASE_IMAGE} if kind == "gpu" else {"WORKER_IMAGE": worker_image}
    tag = f"scaleplug-worker:{kind}"
    folder = "." if kind == "gpu" else "worker_images"
    dockerfile = f"worker_images/{kind}/Dockerfile" if kind == "gpu" else f"{kind}/Dockerfile"
    build(engine, dockerfile, tag, {**pip_arguments, **on}, folder=folder)
    assert run(client, tag, code) == found
    assert size(client, tag) - size(client, BASE_IMAGE) <= 150 << 20
    client.images.remove(tag)


def test_an_image_has_the_users_code_and_what_it_requires(
    engine: Engine, client: Any, worker_image: str, pip_arguments: Mapping[str, str], tmp_path: Path
) -> None:
    (tmp_path / "prices.py").write_text("import humanize\n\ndef told(n):\n    return humanize.intcomma(n)\n")
    (tmp_path / "requirements.txt").write_text("humanize\ncelery\n")
    options = [f"--build-arg={name}={value}" for name, value in pip_arguments.items()]
    command = ("image", "build", str(tmp_path), "--tag", "prices:1", "--network", "host", *options)
    done = scaleplug(*command, cwd=tmp_path, DOCKER_HOST=engine.url)
    assert done.returncode == 0, told(done)
    assert done.stdout == "prices:1\n"
    assert run(client, "prices:1", "import prices; print(prices.told(12345))") == "12,345"
    assert size(client, "prices:1") - size(client, worker_image) < 5 << 20  # celery was there
    history = json.dumps(client.api.history("prices:1"))
    assert pip_arguments["PIP_FIND_LINKS"] not in history
    client.images.remove("prices:1")

    (tmp_path / "requirements.txt").write_text("there-is-no-such-package\n")
    failed = scaleplug(*command, "--quiet", cwd=tmp_path, DOCKER_HOST=engine.url)
    assert failed.returncode == 2
    assert "the image could not be built" in failed.stderr
    assert "No matching distribution found for there-is-no-such-package" in failed.stderr
    nowhere = scaleplug("image", "build", ".", "--base", "no-such-image", cwd=tmp_path, DOCKER_HOST=engine.url)
    assert "the engine has no image no-such-image: name one that it has with --base" in nowhere.stderr, told(nowhere)


def test_an_engine_that_does_not_answer_is_told(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("")
    done = scaleplug("image", "build", "shop.py", cwd=tmp_path, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert done.returncode == 2
    assert done.stderr.startswith(f"scaleplug: no Docker engine answers at unix://{tmp_path}/none.sock"), told(done)
    assert "Traceback" not in done.stderr
