"""Functions whose containers write down the spans of OpenTelemetry's instrumentation of Celery."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celery.signals import worker_process_init
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

import scaleplug

app = scaleplug.App("traced")


class Lines(SpanExporter):
    """Appends a line for each span to the file of this process."""

    def __init__(self, folder: str) -> None:
        self.path = Path(folder, f"{os.getpid()}.jsonl")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write spans."""
        with self.path.open("a") as file:
            for span in spans:
                context: Any = span.context
                parent = f"{span.parent.span_id:x}" if span.parent is not None else ""
                row = {
                    "trace": f"{context.trace_id:x}",
                    "span": f"{context.span_id:x}",
                    "parent": parent,
                    "name": span.name,
                }
                file.write(json.dumps(row) + "\n")
        return SpanExportResult.SUCCESS


def instrument() -> None:
    """Trace this process."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Lines(os.environ["TRACED_SPANS"])))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()


@worker_process_init.connect(weak=False)  # type: ignore[untyped-decorator]
def begin(**_: Any) -> None:
    """Trace the container, once it is a process of its own."""
    instrument()


@app.function(max_containers=2)
def followed(x: int) -> int:
    """Do something that shows up in the trace."""
    with trace.get_tracer(__name__).start_as_current_span("inside"):
        return x * 2


@app.function(max_containers=1)
@scaleplug.concurrent(max_inputs=5)
async def later(x: int) -> int:
    """Run beside others."""
    await asyncio.sleep(0.01)
    return x + 1
