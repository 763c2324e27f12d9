"""OpenTelemetry's instrumentation of Celery sees one trace from the caller to the containers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor

from scaleplug.registry import Source
from tests.helpers import wait_until
from tests.integration import traced
from tests.integration.conftest import Surroundings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spans")


@pytest.fixture(scope="module", autouse=True)
def tracing(folder: Path, start_run: Callable[..., Surroundings]) -> Iterator[None]:
    """Start containers that trace, and trace this process for as long as this module runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACED_SPANS", str(folder))
        start_run()
        traced.app.set_source(Source("module", "tests.integration.traced", str(Path(__file__).parents[2])))
        traced.app.register()
        traced.instrument()
        yield
        CeleryInstrumentor().uninstrument()


def spans(folder: Path, trace_id: str) -> list[dict[str, Any]]:
    """Return the spans of a trace that are written by now."""
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines(keepends=True)]
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row for row in rows if row["trace"] == trace_id]


@pytest.mark.parametrize(
    ("call", "task", "inputs"),
    [
        (lambda: traced.followed.remote(1), "traced.followed", 1),
        (lambda: traced.followed.spawn(1).get(timeout=30), "traced.followed", 1),
        (lambda: traced.followed.delay(1), "traced.followed", 1),
        (lambda: list(traced.followed.map(range(40))), "traced.followed", 40),
        (lambda: list(traced.later.map(range(10))), "traced.later", 10),
    ],
    ids=["remote", "spawn", "delay", "map", "async map"],
)
def test_there_is_one_trace(folder: Path, call: Callable[[], object], task: str, inputs: int):
    with trace.get_tracer(__name__).start_as_current_span("caller") as span:
        call()
    trace_id = f"{span.get_span_context().trace_id:x}"

    def complete() -> list[dict[str, Any]]:
        found = spans(folder, trace_id)
        return found if sum(row["name"] == f"run/{task}" for row in found) >= inputs else []

    found = wait_until(complete, 20, "the spans of the containers")
    by_id = {row["span"]: row for row in found}
    runs = [row for row in found if row["name"] == f"run/{task}"]
    assert len(runs) == inputs
    sent = [by_id[row["parent"]] for row in runs]
    assert {row["name"] for row in sent} == {f"apply_async/{task}"}
    assert len({row["span"] for row in sent}) == inputs
    assert {by_id[row["parent"]]["name"] for row in sent} == {"caller"}
    inside = [row for row in found if row["name"] == "inside"]
    assert {by_id[row["parent"]]["name"] for row in inside} <= {f"run/{task}"}
