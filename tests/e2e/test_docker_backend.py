"""Containers in Docker: what they are made of, how they start and end, and who finds them again."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scaleplug.abc import READY
from scaleplug.embedded import find_server
from scaleplug.errors import ContainerCrashError
from tests.commands import scaleplug
from tests.e2e import docker_jobs as jobs
from tests.e2e.boxes import Site, kill, site
from tests.engine import Engine
from tests.helpers import wait_until
from tests.redis_server import free_port, started

pytestmark = pytest.mark.docker
PASSWORD = "nobody-may-see-this"


@pytest.fixture
def place(engine: Engine, tests_image: str, redis_url: str, tmp_path: Path) -> Iterator[Site]:
    with site(engine, tests_image, redis_url, tmp_path) as made:
        yield made


def test_zero_to_n_to_zero_leaves_nothing_behind(place: Site) -> None:
    said = place.controller()
    before = place.client.df()
    for _ in range(2):
        assert list(jobs.square.with_options(scaledown_window=2.0).map(range(20))) == [x * x for x in range(20)]
        wait_until(place.empty, 30, "all containers are gone")
    after = place.client.df()
    for kind in ("Containers", "Volumes"):
        assert len(after[kind] or ()) == len(before[kind] or ()), kind
    assert {image["Id"] for image in after["Images"]} == {image["Id"] for image in before["Images"]}
    assert not [line for line in said.said if "left behind" in line]


def test_what_is_printed_is_shown(place: Site, tmp_path: Path) -> None:
    place.controller()
    assert jobs.square.remote(12) == 144

    def shown() -> str:
        done = scaleplug("logs", "boxes.square", cwd=tmp_path, **place.config.to_environ())
        return done.stdout if "squaring 12" in done.stdout else ""

    wait_until(shown, 20, "scaleplug logs shows it")
    (box,) = place.boxes(jobs.square)
    assert b"squaring 12" in place.client.api.logs(box["Id"])


@pytest.fixture
def tcp_redis(tmp_path: Path) -> Iterator[str]:
    """Start a Redis that other users of this machine reach too, with a password; give its URL."""
    port = free_port()
    url = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
    with started(find_server(os.environ).path, tmp_path, f"port {port}\nrequirepass {PASSWORD}", url, {}):
        yield url


def test_inspection_shows_limits_and_no_secret(
    engine: Engine, worker_image: str, tcp_redis: str, tmp_path: Path
) -> None:
    (tmp_path / "DB_PASSWORD").write_text(f"{PASSWORD} of the database\n")
    values = {"secrets_folder": str(tmp_path), "docker_volumes": None}
    with site(engine, worker_image, tcp_redis, tmp_path, **values) as place:
        place.controller()
        assert boxed().remote() == {
            "GREETING": "hello", "DB_PASSWORD": f"{PASSWORD} of the database", "SCALEPLUG_SECRET": "", "user": "10001",
        }  # fmt: skip
        (box,) = place.boxes()
        told = place.client.api.inspect_container(box["Id"])
        text = json.dumps(told)
        assert PASSWORD not in text
        assert str(place.config.secret) not in text
        host, config = told["HostConfig"], told["Config"]
        assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (200 << 20, 200 << 20, 500_000_000)
        assert host["LogConfig"] == {"Type": "local", "Config": {"max-file": "3", "max-size": "10m"}}
        assert (host["CapDrop"], host["SecurityOpt"], host["NetworkMode"]) == (["ALL"], ["no-new-privileges"], "host")
        assert host["Binds"] == ["scaleplug-e2e:/mnt/data:ro"]
        assert (config["User"], "GREETING=hello" in config["Env"]) == ("10001:10001", True)
    with contextlib.closing(engine.client()) as client:
        client.api.remove_volume("scaleplug-e2e")


def boxed() -> Any:
    """Return a function that travels pickled: the image's user reads no file of this checkout."""

    @jobs.app.function(
        name="boxed", serialized=True, memory=200, cpu=0.5, env={"GREETING": "hello"}, secrets=["DB_PASSWORD"],
        volumes={"/mnt/data": "scaleplug-e2e:ro"}, network="host",
    )  # fmt: skip
    def look() -> dict[str, str]:
        found = {name: os.environ.get(name, "") for name in ("GREETING", "DB_PASSWORD", "SCALEPLUG_SECRET")}
        return found | {"user": str(os.getuid())}

    return look


def test_a_kill_is_known_at_once_and_the_input_runs_elsewhere(place: Site, tmp_path: Path) -> None:
    place.controller()
    call = place.busy(jobs.note, tmp_path)
    (box,) = place.boxes(jobs.note)
    killed = time.time()
    place.client.api.kill(box["Id"])
    wait_until(lambda: len(place.begun(tmp_path)) == 2, 10, "the input runs again")
    assert place.begun(tmp_path)[1] - killed < 10  # 2 s on an idle machine: see the benchmark
    (tmp_path / "go").touch()
    assert call.get(20) == 7


def test_a_container_that_is_removed_by_hand_is_replaced(place: Site, tmp_path: Path) -> None:
    place.controller()
    call = place.busy(jobs.note, tmp_path)
    (box,) = place.boxes(jobs.note)
    place.client.api.remove_container(box["Id"], force=True)
    wait_until(lambda: len(place.begun(tmp_path)) == 2, 20, "the input runs again")
    (tmp_path / "go").touch()
    assert call.get(20) == 7


def test_running_out_of_memory_is_told_as_such(place: Site) -> None:
    place.controller()
    with pytest.raises(ContainerCrashError, match="it ran out of memory: it may use 64 MiB"):
        jobs.hog.remote(500)
    assert jobs.hog.remote(1) == 1 << 20


def trouble(place: Site, function: Any) -> dict[str, Any]:
    """Wait until a start has failed; return why."""
    name = function.full_name
    found: dict[str, Any] = wait_until(lambda: place.store.troubles([name]).get(name), 20, "a start has failed")
    return found


def test_a_missing_image_is_one_clear_error_until_it_is_there(place: Site, tests_image: str) -> None:
    said = place.controller()
    call = jobs.late.spawn()
    reason = trouble(place, jobs.late)["reason"]
    assert reason.startswith(f"there is no image scaleplug-e2e:late on the Docker engine {place.engine.url}")
    assert "SCALEPLUG_DOCKER_PULL=never" in reason
    said.says("a container of boxes.late did not start .*next try in 1 s")
    assert jobs.square.remote(3) == 9  # the others go on
    place.client.images.get(tests_image).tag("scaleplug-e2e", "late")
    assert call.get(30) == ""
    wait_until(lambda: not place.store.troubles([jobs.late.full_name]), message="nothing is wrong any more")
    place.client.api.remove_image("scaleplug-e2e:late", force=True)


def test_an_image_without_scaleplug_a_missing_secret_and_a_missing_folder_are_told(place: Site) -> None:
    place.controller()
    calls = [jobs.bare.spawn(), jobs.untold.spawn(), jobs.unmounted.spawn()]
    found = trouble(place, jobs.bare)
    assert found["reason"] == "exited with status 1"
    assert any("No module named" in line for line in found["lines"]), found
    assert "the secret NO_SUCH_SECRET can't be read from" in trouble(place, jobs.untold)["reason"]
    assert "path does not exist: /no/such/folder" in trouble(place, jobs.unmounted)["reason"]
    for call in calls:
        call.cancel()


def test_the_next_controller_finds_the_containers_of_one_that_died(place: Site, tmp_path: Path) -> None:
    first = place.controller()
    call = place.busy(jobs.note, tmp_path)
    (box,) = place.boxes(jobs.note)
    kill(first)
    second = place.controller()
    second.says("this controller acts now")
    (tmp_path / "go").touch()
    assert call.get(20) == 7
    assert len(place.begun(tmp_path)) == 1
    assert [found["Id"] for found in place.boxes(jobs.note)] == [box["Id"]]
    place.client.api.kill(box["Id"])  # it hears of its end, too
    wait_until(lambda: not place.boxes(jobs.note), 20, "it is buried")


def test_what_ended_while_no_controller_looked_is_given_back(place: Site, tmp_path: Path) -> None:
    first = place.controller()
    call = place.busy(jobs.note, tmp_path)
    (box,) = place.boxes(jobs.note)
    kill(first)
    place.client.api.kill(box["Id"])
    place.controller()
    wait_until(lambda: len(place.begun(tmp_path)) == 2, 30, "the input runs again")
    (tmp_path / "go").touch()
    assert call.get(20) == 7


def test_of_two_controllers_one_acts_and_the_other_takes_over(place: Site, tmp_path: Path) -> None:
    first, second = place.controller(), place.controller()
    second.says("standing by")
    call = place.busy(jobs.note, tmp_path)
    (box,) = place.boxes(jobs.note)
    kill(first)
    second.says("this controller acts now")
    (tmp_path / "go").touch()
    assert call.get(20) == 7
    assert [found["Id"] for found in place.boxes(jobs.note)] == [box["Id"]]
    assert jobs.square.remote(4) == 16


@pytest.mark.parametrize("how", [15, 9], ids=["stopped", "killed"])
def test_an_engine_that_is_away_is_waited_for(place: Site, tmp_path: Path, how: int) -> None:
    said = place.controller()
    call = place.busy(jobs.note, tmp_path)
    place.engine.stop(how)
    try:
        said.says("its containers are held as they are: .*Docker engine")
        waiting = jobs.square.spawn(5)
    finally:
        place.engine.start()
    said.says("the Docker engine .* answers again")
    (tmp_path / "go").touch()
    assert call.get(60) == 7
    assert waiting.get(60) == 25


def test_an_engine_that_does_not_answer_leaves_the_others_alone(place: Site) -> None:
    nowhere = f"unix://{place.folder}/none.sock"
    said = place.controller(SCALEPLUG_DOCKER_HOSTS=f"{nowhere},{place.engine.url}")
    said.says(f"its containers are held as they are: the Docker engine {nowhere} can't be reached")
    assert jobs.square.remote(6) == 36


def test_a_controller_finds_out_when_the_engine_comes(place: Site) -> None:
    place.engine.stop()
    try:
        said = place.controller()
        said.says("can't be reached")
        call = jobs.square.spawn(7)
    finally:
        place.engine.start()
    assert call.get(60) == 49


# -- stand-bys -----------------------------------------------------------------------------------------------------


def test_one_that_stands_by_becomes_a_container_and_another_takes_its_place(place: Site) -> None:
    said = place.controller(SCALEPLUG_STANDBY_CONTAINERS="1", SCALEPLUG_MAX_CONTAINERS="3")
    jobs.square.remote(0)  # the app is known from here on
    (kept,) = wait_until(lambda: standing_by(place, 1), 30, "one stands by")
    call = jobs.stay.spawn(1.0)
    assert call.get(20) == 1.0
    name = wait_until(lambda: renamed(place, kept), 20, "it is shown as what it is")
    assert name.startswith("scaleplug-boxes.stay-1-")
    (record,) = place.store.containers(jobs.stay.full_name).values()
    assert record["state"] == "ready"
    (other,) = wait_until(lambda: [i for i in standing_by(place, 1) if i != kept], 30, "another one stands by")
    list(jobs.stay.map([0.3] * 4))  # the host bears three: it gives way
    assert len(place.boxes()) + len(standing_by(place, 0)) <= 3
    kill(said)
    wait_until(lambda: other not in standing_by(place, 0), 30, "it ends with its controller")
    after = place.controller()
    after.says("acts now")
    wait_until(lambda: place.store.containers(jobs.stay.full_name), 10)
    assert jobs.stay.remote(0.1) == 0.1
    assert renamed(place, kept) == name  # it was found again


def renamed(place: Site, identity: str) -> str:
    """Return the name of a container that stood by, once it is another."""
    name = str(place.client.api.inspect_container(identity)["Name"]).lstrip("/")
    return "" if "standby" in name else name


def standing_by(place: Site, least: int) -> list[str]:
    """Return the ids of containers that are ready and still bear the name of one that stands by."""
    boxes = [b for b in place.boxes(role="standby") if b["State"] == "running" and "standby" in b["Names"][0]]
    boxes = [b for b in boxes if READY.encode() in place.client.api.logs(b["Id"])]
    return [box["Id"] for box in boxes] if len(boxes) >= least else []


# -- deployments ---------------------------------------------------------------------------------------------------

APP = """\
import scaleplug
app = scaleplug.App("edition")

@app.function(image="scaleplug-e2e:{tag}", scaledown_window=2.0)
def which() -> str:
    import os
    return os.environ["EDITION"]
{more}
"""


def test_a_deployment_brings_a_new_image_and_one_that_does_not_start_changes_nothing(
    place: Site, tests_image: str, tmp_path: Path
) -> None:
    for tag in ("1", "2"):
        dockerfile = f"FROM {tests_image}\nENV EDITION={tag}\n"
        (tmp_path / tag).mkdir()
        (tmp_path / tag / "Dockerfile").write_text(dockerfile)
        place.client.images.build(path=str(tmp_path / tag), tag=f"scaleplug-e2e:{tag}", rm=True, forcerm=True)
    place.controller()
    file = tmp_path / "edition.py"

    def deploy(tag: str, more: str = "") -> Any:
        file.write_text(APP.format(tag=tag, more=more))
        environ = place.config.to_environ() | {"PYTHONDONTWRITEBYTECODE": "1"}  # it is written twice in one second
        return scaleplug("deploy", "--wait", "edition.py", cwd=tmp_path, **environ)

    from scaleplug import Function

    which = Function.from_name("edition", "which")
    assert deploy("1").returncode == 0
    assert which.remote() == "1"
    assert deploy("2").returncode == 0
    assert which.remote() == "2"
    failed = deploy("3")
    assert failed.returncode != 0
    assert "there is no image scaleplug-e2e:3" in failed.stdout + failed.stderr
    broken = deploy("2", "import no_such_module")
    assert broken.returncode != 0
    for tag in ("1", "2"):
        place.client.api.remove_image(f"scaleplug-e2e:{tag}", force=True)
