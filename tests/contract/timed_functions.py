"""Functions of the contract tests that something starts by itself."""

from __future__ import annotations

import scaleplug

app = scaleplug.App("timed")


@app.function(schedule=scaleplug.Period(seconds=1), max_containers=1)
def each_second() -> None:
    """Be called."""


@app.function(max_containers=3)
def ruled() -> str:
    """Have rules."""
    return "done"


app.schedule_autoscaler(ruled, "* * * * *", max_containers=2)
