"""What a controller tells Prometheus, and that the dashboard asks for nothing else."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from scaleplug.errors import ConfigurationError, InvalidError
from scaleplug.metrics import Metrics, parse_place
from tests.commands import SECRET, python, scaleplug, told
from tests.controllers import Controller
from tests.helpers import wait_until

if TYPE_CHECKING:
    from scaleplug.store import Store

ROOT = Path(__file__).parents[2]
PROGRAM = """
import time
import scaleplug

app = scaleplug.App("shop")

@app.function(max_containers=2)
def nap(seconds):
    time.sleep(seconds)
    if not seconds:
        raise ValueError("no nap")
"""
CALL = "import shop; print(list(shop.nap.map([0.02, 0.02, 0.02, 0], return_exceptions=True)))"


@pytest.fixture
def environ(redis_url: str) -> dict[str, str]:
    return {"SCALEPLUG_REDIS_URL": redis_url, "SCALEPLUG_SECRET": SECRET}


@pytest.fixture
def controller(tmp_path: Path, environ: dict[str, str]) -> Iterator[Controller]:
    (tmp_path / "shop.py").write_text(PROGRAM)
    made = Controller(tmp_path, "shop.py", "--metrics", "0", **environ)
    yield made
    made.kill()


def scraped(controller: Controller) -> dict[str, Any]:
    """Return each metric family by its name; a counter's is without ``_total``."""
    found = re.search(r"http://127\.0\.0\.1:\d+/metrics", controller.says("metrics on"))
    assert found
    with urllib.request.urlopen(found.group()) as answer:
        text = answer.read().decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(families: dict[str, Any], sample: str, **labels: str) -> float:
    for family in families.values():
        for each in family.samples:
            if each.name == sample and labels.items() <= each.labels.items():
                return float(each.value)
    return -1.0


def test_functions_and_the_controller_are_told_of(controller: Controller, environ: dict[str, str], tmp_path: Path):
    controller.says("ready")
    called = python("-c", CALL, cwd=tmp_path, **environ)
    assert called.returncode == 0, told(called)
    wait_until(lambda: value(scraped(controller), "scaleplug_inputs_finished_total", function="shop.nap") == 4)
    families = scraped(controller)
    for name, wanted in (("inputs_failed_total", 1), ("pending_inputs", 0), ("running_inputs", 0)):
        assert value(families, f"scaleplug_{name}", function="shop.nap") == wanted, name
    starts = value(families, "scaleplug_container_starts_total", function="shop.nap")
    assert 1 <= starts <= 2
    assert value(families, "scaleplug_controller_lease") == 1
    assert value(families, "scaleplug_redis_up") == 1
    assert value(families, "scaleplug_controller_round_seconds_count") > 0
    assert value(families, "scaleplug_input_wait_seconds_count", function="shop.nap") == 4
    assert 4 - starts <= value(families, "scaleplug_input_run_seconds_count", function="shop.nap") <= 4
    assert value(families, "scaleplug_input_run_seconds_sum", function="shop.nap") >= 0.02
    assert value(families, "scaleplug_input_wait_seconds_sum", function="shop.nap") > 0
    assert value(families, "scaleplug_container_start_seconds_count", function="shop.nap") >= 1
    names = {name for family in families.values() for sample in family.samples for name in sample.labels}
    assert names <= {"function", "state", "le", "implementation", "major", "minor", "patchlevel", "version"}
    assert controller.end(signal.SIGTERM) == 0


def test_a_standby_tells_of_itself_only(controller: Controller, environ: dict[str, str], tmp_path: Path):
    controller.says("acts now")
    second = Controller(tmp_path, "--metrics", "127.0.0.1:0", **environ)
    try:
        second.says("standing by")
        families = scraped(second)
        assert value(families, "scaleplug_controller_lease") == 0
        assert "scaleplug_pending_inputs" not in families
        wait_until(lambda: "scaleplug_pending_inputs" in scraped(controller))
    finally:
        second.kill()


def test_the_dashboard_queries_what_there_is(controller: Controller):
    controller.says("acts now")
    wait_until(lambda: "scaleplug_pending_inputs" in scraped(controller))
    families = scraped(controller)
    known = {sample.name for family in families.values() for sample in family.samples}
    labels = {name for family in families.values() for sample in family.samples for name in sample.labels} | {
        "instance"
    }
    board = json.loads((ROOT / "config" / "grafana" / "scaleplug.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [each["query"]["query"] for each in board["templating"]["list"] if each["type"] == "query"]
    asked = {name for query in queries for name in re.findall(r"scaleplug_\w+", query)}
    assert asked <= known
    assert {
        name for query in queries for group in re.findall(r"by \(([\w, ]+)\)", query) for name in group.split(", ")
    } <= labels
    own = {
        name for name in known if name.startswith("scaleplug_") and not name.endswith(("_created", "_sum", "_count"))
    }
    assert own == asked, "the dashboard leaves something out"


@pytest.mark.parametrize(
    ("text", "place"), [("9650", ("127.0.0.1", 9650)), ("0.0.0.0:1", ("0.0.0.0", 1)), ("[::1]:80", ("::1", 80))]
)
def test_a_place_to_serve(text: str, place: tuple[str, int]):
    assert parse_place(text) == place


@pytest.mark.parametrize("text", ["", "x", "host:", "1:x", "99999"])
def test_no_place_to_serve(text: str):
    with pytest.raises(InvalidError, match="--metrics must be a port, or HOST:PORT"):
        parse_place(text)


def test_what_is_no_name_of_a_host_is_told():
    metrics = Metrics(cast("Store", None), lambda: False)
    with pytest.raises(ConfigurationError, match=r"--metrics can't use a\.\.b:0: .* an address of this host"):
        metrics.serve("a..b", 0)


def test_a_port_in_use_is_told(controller: Controller, environ: dict[str, str], tmp_path: Path):
    line = controller.says("metrics on")
    port = line.rpartition(":")[2].partition("/")[0]
    done = scaleplug("controller", "--metrics", port, cwd=tmp_path, **environ)
    assert done.returncode == 2, told(done)
    assert "choose another port" in done.stderr
