"""What a log record becomes a line of: JSON where ``SCALEPLUG_LOG_FORMAT`` says so, with the input it is about.

Every record of a container carries ``scaleplug_function``, ``scaleplug_container``, ``scaleplug_input`` and
``scaleplug_call``, for any formatter. The prefix keeps them off the names that ``extra=`` may have.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from scaleplug.context import current_function_call_id, current_input_id

OURS: Final = {
    "scaleplug_function": "function", "scaleplug_container": "container", "scaleplug_input": "input_id",
    "scaleplug_call": "call_id", "otelTraceID": "trace_id", "otelSpanID": "span_id",
}  # fmt: skip
"""Attributes of a record by the names that they have in a line."""
_STANDARD: Final = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


class JSONFormatter(logging.Formatter):
    """One JSON object to a line; what was given as ``extra=`` is in it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        attributes = vars(record)
        line |= {shown: attributes[name] for name, shown in OURS.items() if attributes.get(name)}
        line |= {
            name: value
            for name, value in attributes.items()
            if name not in _STANDARD and name not in OURS and name not in line and not name.startswith("otel")
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def write_logs(log_format: str, *, level: int, text: str, dates: str | None = None) -> None:
    """Let this process write its logs to standard error, as ``text`` says or in JSON, unless it does already."""
    logging.basicConfig(level=level, format=text, datefmt=dates, stream=sys.stderr)
    if log_format == "json":
        write_json()


def write_json(stream: TextIO | None = None) -> None:
    """Let what writes logs to a stream write JSON; where nothing does, records from INFO on go to standard error."""
    if not logging.root.handlers:
        logging.basicConfig(level=logging.INFO, stream=stream)
    for handler in logging.root.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setFormatter(JSONFormatter())


def carry(function: str, container: str) -> None:
    """Let every record of this process tell the function, the container, and the input that runs where it was made."""
    make = logging.getLogRecordFactory()

    def with_input(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.scaleplug_function, record.scaleplug_container = function, container
        record.scaleplug_input, record.scaleplug_call = current_input_id() or "", current_function_call_id() or ""
        return record

    logging.setLogRecordFactory(with_input)
