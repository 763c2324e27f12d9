"""docker-compose.yml as a team uses it, brought up once: calls from outside, a kill, a new image, the end."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ROOT, environment, scaleplug, told
from tests.e2e.stack import REDIS, REDIS_IMAGE, Stack
from tests.engine import Engine
from tests.helpers import wait_until

pytestmark = pytest.mark.docker
SERVICES = {"redis", "controller", "beat", "flower", "app"}
BELOW, PART = 2_000_000, 20_000
PRIMES = 148_933
"""Below two millions."""
CALLER = f"""
from scaleplug import Function

count = Function.from_name("shop", "count_primes")
total = 0
for found in count.starmap((first, first + {PART}) for first in range(0, {BELOW}, {PART})):
    total += found
    print(total, flush=True)
"""
PATIENT = """
import sys
from scaleplug import Function

count = Function.from_name("shop", "count_primes")
for line in sys.stdin:
    print(list(count.starmap([(0, 100), (100, 200)])), flush=True)
"""


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[Any]:
    with contextlib.closing(engine.client()) as found:
        yield found


@pytest.fixture(scope="module")
def stack(
    engine: Engine, client: Any, worker_image: str, pip_arguments: Mapping[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:  # fmt: skip
    client.images.build(fileobj=io.BytesIO(REDIS.encode()), tag=REDIS_IMAGE)
    made = Stack(engine, tmp_path_factory.mktemp("compose"), pip_arguments)
    try:
        made.compose("up", "--detach", "--build")
        made.wait_healthy(client, *SERVICES)
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "20")


def containers(client: Any) -> list[Any]:
    """Return the containers of functions, also those that have ended and are still there."""
    found: list[Any] = client.containers.list(all=True, ignore_removed=True, filters={"label": "scaleplug.namespace"})
    return found


@contextlib.contextmanager
def calling(stack: Stack, code: str) -> Iterator[subprocess.Popen[str]]:
    """Run a caller outside of all containers, which knows the Redis and the secret and nothing of the code."""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=stack.folder, env=environment(**stack.outside), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as caller:  # fmt: skip
        try:
            yield caller
        finally:
            caller.kill()


def test_a_map_from_outside_scales_from_zero_and_back_and_survives_a_kill(stack: Stack, client: Any) -> None:
    assert not containers(client)
    with calling(stack, CALLER) as caller:
        assert caller.stdout is not None
        first = caller.stdout.readline()
        running = [each for each in containers(client) if each.status == "running"]
        assert running, f"no container runs, and yet there is {first!r}"
        running[0].kill()
        rest, errors = caller.communicate(timeout=100)
    totals = rest.split()
    assert (len(totals), totals[-1:]) == (99, [str(PRIMES)]), errors
    wait_until(lambda: not containers(client), 40, "all containers have left, and were removed")


def test_the_app_in_its_container_calls_too(stack: Stack) -> None:
    url = f"http://127.0.0.1:{stack.app_port}/?below=10000"
    with urllib.request.urlopen(url, timeout=60) as page:
        assert page.read() == b"There are 1229 primes below 10000.\n"


def test_flower_and_the_controllers_metrics_answer(stack: Stack, client: Any) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.environ['FLOWER_PORT']}/autoscaler", timeout=60) as page:
        assert b"Autoscaler" in page.read()
    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9808/metrics').read().decode())"
    told = stack.services(client)["controller"].exec_run(["python3", "-c", ask])
    assert told.exit_code == 0, told.output
    assert b'scaleplug_pending_inputs{function="shop.count_primes"}' in told.output


def test_a_container_is_healthy_while_it_gets_on(stack: Stack, client: Any) -> None:
    stack.compose("exec", "-T", "app", "scaleplug", "scale", "count_primes", "--min", "1")
    (container,) = wait_until(lambda: containers(client), 20, "a container runs without any input")
    healthy = ["scaleplug-healthy"]
    wait_until(lambda: container.exec_run(healthy).exit_code == 0, 30, "it gives a sign of life")
    said = container.exec_run(["sh", "-c", "touch -d '2 minutes ago' /run/scaleplug/alive; scaleplug-healthy"])
    assert said.exit_code == 1, "a sign that is old is none"
    wait_until(lambda: container.exec_run(healthy).exit_code == 0, 30, "it gives the next one")
    stack.compose("exec", "-T", "app", "scaleplug", "scale", "count_primes", "--min", "0")


def test_no_secret_is_seen_from_outside(stack: Stack, client: Any) -> None:
    found = stack.services(client)
    assert set(found) == SERVICES
    shown = json.dumps([each.attrs for each in [*found.values(), *containers(client)]]) + stack.compose("logs")
    for name in ("redis_password", "scaleplug_secret"):
        assert stack.secret(name) not in shown
    users = {name: each.attrs["Config"]["User"] for name, each in found.items()}
    others = dict.fromkeys(SERVICES - {"redis", "controller"}, "10001:10001")
    assert users == {"redis": "redis", "controller": "0:0"} | others
    assert found["controller"].attrs["HostConfig"]["CapDrop"] == ["ALL"]


def test_a_new_image_takes_over_and_no_call_fails(stack: Stack, client: Any, tmp_path: Path) -> None:
    for name in ("shop.py", "web.py"):
        text = (ROOT / "examples" / "compose" / name).read_text()
        (tmp_path / name).write_text(text.replace("return sum(is_prime", "return -sum(is_prime"))
    build = ("image", "build", ".", "--tag", "shop:2", "--base", "scaleplug-example:1", "--quiet")
    done = scaleplug(*build, cwd=tmp_path, DOCKER_HOST=stack.engine.url)
    assert done.returncode == 0, told(done)

    with calling(stack, PATIENT) as caller:
        assert caller.stdin is not None
        assert caller.stdout is not None

        def ask() -> str:
            caller.stdin.write("\n")
            caller.stdin.flush()
            return caller.stdout.readline().strip()

        assert ask() == "[25, 21]"
        stack.compose("up", "--detach", "--no-build", APP_IMAGE="shop:2")
        said = [ask()]
        wait_until(lambda: said.append(ask()) or said[-1] == "[-25, -21]", 60, "the new code answers")
        caller.stdin.close()
        assert caller.wait(10) == 0, caller.stderr and caller.stderr.read()
    assert set(said) <= {"[25, 21]", "[-25, -21]", "[25, -21]", "[-25, 21]"}
    of_old = [each for each in containers(client) if "shop:2" not in each.image.tags]
    wait_until(lambda: not [each for each in of_old if each in containers(client)], 40, "the old containers have left")
