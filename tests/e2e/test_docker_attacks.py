"""What is done to engines, images and stand-bys on purpose."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from scaleplug.backends.engine import Engine as Client
from tests.e2e import docker_jobs as jobs
from tests.e2e.boxes import Site, site
from tests.e2e.test_docker_backend import standing_by
from tests.engine import Engine
from tests.helpers import wait_until

pytestmark = pytest.mark.docker


@pytest.fixture
def place(engine: Engine, tests_image: str, redis_url: str, tmp_path: Path) -> Iterator[Site]:
    with site(engine, tests_image, redis_url, tmp_path) as made:
        yield made


def test_an_engine_that_says_nothing_leaves_the_others_alone(place: Site, tmp_path: Path) -> None:
    path = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen(50)  # who connects is accepted, and never answered
        said = place.controller(SCALEPLUG_DOCKER_HOSTS=f"unix://{path},{place.engine.url}")
        call = jobs.square.spawn(6)
        assert call.get(20) == 36
        assert list(jobs.stay.map([0.1] * 10)) == [0.1] * 10
        said.says(f"the Docker engine unix://{path} does not answer")


def test_one_that_stands_by_and_is_paused_is_not_used(place: Site) -> None:
    place.controller(SCALEPLUG_STANDBY_CONTAINERS="1", SCALEPLUG_FREEZE_TIMEOUT="2")
    jobs.square.remote(0)
    (kept,) = wait_until(lambda: standing_by(place, 1), 30, "one stands by")
    place.client.api.pause(kept)
    assert jobs.stay.spawn(0.1).get(20) == 0.1
    wait_until(lambda: kept not in {box["Id"] for box in place.boxes(role="standby")}, 20, "it is removed")


def test_an_engine_whose_events_go_on_is_used_again_after_a_request_that_failed(engine: Engine) -> None:
    backs: list[Client] = []
    client = Client(engine.url, "scaleplug.site=nobodys", on_event=lambda *_: None, on_back=backs.append)
    try:
        client.watch()
        wait_until(lambda: backs, 20, "it answers")
        client.lost("a request took too long")
        wait_until(lambda: client.reachable and len(backs) == 2, 20, "it answers again")
    finally:
        client.close()
