"""Many functions that do nothing, in an app of their own: to be called once each, or to be idle."""

from __future__ import annotations

import scaleplug

app = scaleplug.App("probes")


def nothing() -> None:
    pass


probes = [app.function(name=f"probe_{n}", scaledown_window=2)(nothing) for n in range(1_000)]
