"""The Autoscaler tab over HTTP, in a stock Flower that Celery starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from scaleplug.embedded import EmbeddedRedis
from scaleplug.keys import Keys
from scaleplug.registry import Registration, open_override
from scaleplug.serializer import Keyring
from scaleplug.server import connect
from scaleplug.store import Store
from tests.commands import SECRET, scaleplug, told
from tests.crowd import Crowd
from tests.flowers import USER, Flower, first
from tests.helpers import wait_until

START = ["-m", "celery", "-A", "project", "flower", "--port=0", "--address=127.0.0.1"]
PROJECT = """
import os
from celery import Celery
app = Celery("project", broker=os.environ["BROKER"])
app.conf.broker_connection_retry_on_startup = True
"""
NAME = "shop.resize_images"
PATH = f"/autoscaler/function/{NAME}"


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tcp=True) as made:
        yield made


@pytest.fixture(scope="module")
def crowd(server: EmbeddedRedis) -> Crowd:
    made = Crowd(Store(connect(server.url), Keys("default")), Keyring(SECRET), 12)
    made.settle()
    made.backfill(60)
    made.step()
    return made


@pytest.fixture(scope="module")
def start(
    server: EmbeddedRedis, crowd: Crowd, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Flower]]:
    """Give a function that starts Flower as Celery's command."""
    started = []
    folder = tmp_path_factory.mktemp("flower")
    (folder / "project.py").write_text(PROJECT)

    def start(*options: str, command: list[str] = START, **environ: str) -> Flower:
        known = {"SCALEPLUG_REDIS_URL": server.url, "SCALEPLUG_SECRET": SECRET, "BROKER": server.url}
        started.append(Flower([*command, *options], folder, **{**known, **environ}))
        return started[-1]

    yield start
    for flower in started:
        flower.end()


@pytest.fixture(scope="module")
def flower(start: Callable[..., Flower]) -> Flower:
    """Start one where people log in."""
    return start(FLOWER_BASIC_AUTH=USER)


def test_stock_flower_has_the_tab(flower: Flower):
    _, workers, _ = flower.ask("/workers")
    assert 'href="/autoscaler"' in workers
    status, page, _ = flower.ask("/autoscaler")
    assert status == 200
    data = first(page)
    assert (data["whyNot"], data["error"]) == ("", "")
    assert data["data"]["leader"] == "worker-1:default"
    assert {row[0] for row in data["data"]["rows"]} >= {NAME}
    for name in ("uPlot.iife.min.js", "autoscaler.js", "detail.js", "autoscaler.css"):
        assert f"/autoscaler/static/{name}?v=" in page
        assert flower.ask(f"/autoscaler/static/{name}")[0] == 200


def test_nobody_sees_anything_without_the_login(flower: Flower):
    for path in ("/autoscaler", "/autoscaler/changes", "/autoscaler/trends", PATH):
        assert flower.ask(path, user="")[0] == 401, path
        assert flower.ask(path, user="ann:wrong")[0] == 401, path
    assert flower.ask(PATH, {"changes": {"min_containers": 1}}, user="")[0] == 401


def test_only_what_has_changed_is_sent(flower: Flower, crowd: Crowd):
    whole = flower.json("/autoscaler/changes?since=0")
    place = {name: n for n, name in enumerate(whole["columns"])}
    assert len(whole["rows"]) == 12
    idle = next(row for row in whole["rows"] if not any(row[2:10]))
    wait_until(lambda: flower.json(f"/autoscaler/changes?since={whole['number']}")["number"] > whole["number"])
    crowd.store.client.hincrby(crowd.store.keys.of("stats", idle[0]), "failed", 3)

    def changed() -> Any:
        later = flower.json(f"/autoscaler/changes?since={whole['number']}")
        assert "columns" not in later
        return [row for row in later["rows"] if row[place["failed"]] == 3]

    (row,) = wait_until(changed)
    assert row[0] == idle[0]
    for another in (1, 10**15):  # the number is of a Flower before this one, or of another one
        assert flower.json(f"/autoscaler/changes?since={another}")["columns"]


def test_a_queue_without_a_consumer_is_seen(flower: Flower, crowd: Crowd):
    client, name = crowd.store.client, crowd.names[5]
    client.delete(*(crowd.store.keys.of(kind, name) for kind in ("containers", "ready", "idle")))
    client.lpush(crowd.store.keys.queue(name), "x")
    wait_until(lambda: [r for r in flower.json("/autoscaler/changes?since=0")["rows"] if r[0] == name and r[-1]], 15)
    client.delete(crowd.store.keys.queue(name))


def test_a_function_in_detail(flower: Flower):
    found = flower.json(PATH)
    assert found["series"][0] == "pending"
    assert all(len(point) == 1 + len(found["series"]) for point in found["points"])
    assert found["points"]
    assert found["decisions"][0]["reason"].startswith("inputs of 0.84 s")
    origins = {row["name"]: (row["value"], row["origin"]) for row in found["settings"]}
    assert origins["max_containers"] == (10, "code")
    assert origins["min_containers"] == (0, "default")
    assert found["version"] == "7"
    assert "points" not in flower.json(PATH + "?points=0")
    assert flower.ask("/autoscaler/function/shop.none")[0] == 404
    rows = flower.json("/autoscaler/trends")["rows"]
    assert {len(values) for row in rows.values() for values in row} == {60}


def test_settings_are_changed_and_put_back(flower: Flower, crowd: Crowd):
    token = flower.token()
    status, text, _ = flower.ask(PATH, {"changes": {"min_containers": 2, "max_containers": None}}, headers=token)
    assert status == 200, text
    rows = {row["name"]: row for row in json.loads(text)["settings"]}
    assert (rows["min_containers"]["value"], rows["min_containers"]["origin"]) == (2, "changed")
    assert (rows["max_containers"]["value"], rows["max_containers"]["code"]) == (None, 10)
    sealed = crowd.store.function_and_override(NAME)[1]
    assert open_override(crowd.keyring, NAME, sealed) == {"min_containers": 2, "max_containers": None}
    status, text, _ = flower.ask(PATH, {"changes": {"min_containers": -1}}, headers=token)
    assert status == 400
    assert "min_containers" in json.loads(text)["error"]
    assert flower.ask(PATH, {"changes": {"timeout": 1}}, headers=token)[0] == 400
    assert flower.ask(PATH, b"[", headers=token)[0] == 400
    assert flower.ask(PATH, {"reset": True}, headers=token)[0] == 200
    assert crowd.store.function_and_override(NAME)[1] is None


@pytest.mark.parametrize(
    "change",
    [
        lambda token: {},
        lambda token: {"Cookie": token["Cookie"]},
        lambda token: {"X-XSRFToken": token["X-XSRFToken"]},
        lambda token: {**token, "X-XSRFToken": "2|00000000|00000000000000000000000000000000|1"},
        lambda token: {**token, "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_another_site_can_change_nothing(
    flower: Flower, crowd: Crowd, change: Callable[[dict[str, str]], dict[str, str]]
):
    status, text, _ = flower.ask(PATH, {"changes": {"min_containers": 3}}, headers=change(flower.token()))
    assert status == 403, text
    assert crowd.store.function_and_override(NAME)[1] is None


def test_without_a_login_nothing_can_be_changed(start: Callable[..., Flower], crowd: Crowd):
    flower = start("--url_prefix=flower", FLOWER_UNAUTHENTICATED_API="true")
    status, page, cookies = flower.ask("/autoscaler", user="")  # its URL has the prefix
    assert status == 200
    assert 'href="/flower/autoscaler"' in page
    assert "/flower/autoscaler/static/autoscaler.js" in page
    assert "Start it with --basic_auth" in first(page)["whyNot"]
    assert flower.ask("/autoscaler/static/autoscaler.js", user="")[0] == 200
    token = {"X-XSRFToken": first(page)["token"], "Cookie": f"_xsrf={cookies['_xsrf']}"}
    status, text, _ = flower.ask(PATH, {"changes": {"min_containers": 1}}, user="", headers=token)
    assert status == 403
    assert "runs without a login" in text
    assert crowd.store.function_and_override(NAME)[1] is None


def test_scaleplug_flower_and_no_secret(start: Callable[..., Flower], server: EmbeddedRedis):
    command = ["-m", "scaleplug.cli.main", "flower", "--port", "0", "--read_only=True"]
    flower = start(command=command, FLOWER_BASIC_AUTH=USER, SCALEPLUG_SECRET="")
    page = first(flower.ask("/autoscaler")[1])
    assert page["whyNot"].startswith("Flower runs with --read_only")
    assert flower.json(PATH)["settings"] == []
    assert flower.ask(PATH, {"changes": {"min_containers": 1}}, headers=flower.token())[0] == 403
    words = psutil.Process(flower.process.pid).cmdline()
    assert {"--purge_offline_workers=120", "--persistent=False", "--address=127.0.0.1"} <= set(words)


def test_who_may_change_settings_may_so_when_redis_is_back(start: Callable[..., Flower]):
    flower = start(FLOWER_BASIC_AUTH=USER, SCALEPLUG_REDIS_URL="redis://127.0.0.1:1/0")
    _, page, _ = flower.ask("/autoscaler")
    assert first(page)["error"].startswith("Redis does not answer")
    assert first(page)["whyNot"] == ""


def test_a_secret_that_is_none_is_told(start: Callable[..., Flower]):
    flower = start(FLOWER_BASIC_AUTH=USER, SCALEPLUG_SECRET="short")
    status, page, cookies = flower.ask("/autoscaler")
    assert (status, "SCALEPLUG_SECRET is too short" in first(page)["error"]) == (200, True)
    headers = {"X-XSRFToken": first(page)["token"], "Cookie": f"_xsrf={cookies['_xsrf']}"}
    status, text, _ = flower.ask(PATH, {"reset": True}, headers=headers)
    assert (status, "SCALEPLUG_SECRET is too short" in text) == (403, True)


def test_no_redis_is_told(start: Callable[..., Flower]):
    flower = start(SCALEPLUG_REDIS_URL="", BROKER="memory://", FLOWER_BASIC_AUTH=USER)
    status, page, _ = flower.ask("/autoscaler")
    assert status == 200
    assert "set SCALEPLUG_REDIS_URL" in first(page)["error"]
    assert flower.ask("/autoscaler/changes")[0] == 400


def test_a_registration_signed_with_another_secret_is_shown_without_settings(flower: Flower, crowd: Crowd):
    other = Keyring("another secret that is long enough too")
    made = Registration.unseal(crowd.keyring, NAME, crowd.store.function(NAME) or b"")
    crowd.store.client.hset(crowd.store.keys.functions, "shop.foreign", made.seal(other))
    found = flower.json("/autoscaler/function/shop.foreign")
    assert found["settings"] == []
    assert found["unreadable"]
    crowd.store.client.hdel(crowd.store.keys.functions, "shop.foreign")


def test_scaleplug_flower_tells_of_a_redis_that_is_missing(tmp_path: Path):
    done = scaleplug("flower", cwd=tmp_path, SCALEPLUG_REDIS_URL="redis://127.0.0.1:1/0")
    assert done.returncode == 2, told(done)
    assert "127.0.0.1:1" in done.stderr
