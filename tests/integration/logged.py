"""Functions that log."""

from __future__ import annotations

import logging
import os

import scaleplug

app = scaleplug.App("logged")
logger = logging.getLogger("logged.own")


@app.function(max_containers=1)
def tells(text: str) -> tuple[str | None, str | None]:
    """Log something, and return the ids that the line should have."""
    try:
        raise ValueError(text)
    except ValueError:
        logger.warning("it said %s", text, exc_info=True, extra={"colour": "blue", "function": os.getpid()})
    return scaleplug.current_input_id(), scaleplug.current_function_call_id()
