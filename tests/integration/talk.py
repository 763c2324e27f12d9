"""Functions that print, for the tests of what people are shown."""

from __future__ import annotations

import scaleplug

app = scaleplug.App("talk")


@app.function(max_containers=2)
def loud(x: int) -> int:
    """Say which input this is."""
    print("loud", x)  # noqa: T201  # that is what it is for
    return x


@app.function()
def never_called() -> None:
    """Have nothing to do."""
