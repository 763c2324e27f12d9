"""Logs in JSON, of containers and of the controller."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scaleplug.errors import InvalidError
from scaleplug.loglines import JSONFormatter, carry
from scaleplug.registry import Source
from scaleplug.settings import Config
from tests.commands import SECRET
from tests.controllers import Controller
from tests.helpers import wait_until
from tests.integration import logged
from tests.integration.conftest import Surroundings


@pytest.fixture
def kept_factory() -> Iterator[None]:
    """Let what is done to logging be undone."""
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)


def test_a_container_logs_in_json(start_run: Callable[..., Surroundings]):
    surroundings = start_run(log_format="json")
    logged.app.set_source(Source("module", "tests.integration.logged", str(Path(__file__).parents[2])))
    logged.app.register()
    calls = [logged.tells.remote("one"), *logged.tells.map(["two", "three"])]

    def lines() -> list[dict[str, Any]]:
        found = [values for _, values in surroundings.store.read_logs()]
        rows = [json.loads(each["l"]) | {"from": each["c"]} for each in found if each["l"].startswith("{")]
        return [row for row in rows if row["logger"] == "logged.own"]

    rows = wait_until(lambda: len(lines()) == 3 and lines(), 20)
    assert [(row["input_id"], row["call_id"]) for row in rows] == calls
    for row in rows:
        assert (row["level"], row["colour"]) == ("warning", "blue")
        assert row["message"].startswith("it said ")
        assert row["container"] == row["from"]
        assert row["exception"].rpartition("\n")[2].startswith("ValueError: ")


def test_a_controller_logs_in_json(tmp_path: Path, redis_url: str):
    environ = {"SCALEPLUG_REDIS_URL": redis_url, "SCALEPLUG_SECRET": SECRET, "SCALEPLUG_LOG_FORMAT": "json"}
    controller = Controller(tmp_path, **environ)
    try:
        row = json.loads(controller.says("acts now"))
        assert row["level"] == "info"
        assert row["logger"] == "scaleplug"
        assert all(line.startswith("{") for line in controller.said)
    finally:
        controller.kill()


def test_records_tell_the_input_and_take_any_extra(kept_factory: None):
    carry("shop.f", "shop.f-1-abc")
    record = logging.getLogger("x").makeRecord(
        "x",
        logging.INFO,
        "f.py",
        1,
        "50 %% of %s",
        ("it",),
        None,
        extra={"container": "mine", "thing": {1, 2}.__class__},
    )
    line = json.loads(JSONFormatter().format(record))
    assert line["function"] == "shop.f"
    assert line["container"] == "shop.f-1-abc"
    assert line["message"] == "50 % of it"
    assert line["thing"] == "<class 'set'>"
    assert "input_id" not in line
    assert record.scaleplug_container == "shop.f-1-abc"  # type: ignore[attr-defined]


def test_another_format_is_refused():
    with pytest.raises(InvalidError, match="SCALEPLUG_LOG_FORMAT must be text or json, not 'xml'"):
        Config(log_format="xml")
