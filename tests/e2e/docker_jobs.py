"""Functions that Docker containers in tests import; nothing but scaleplug is there beside them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import scaleplug

app = scaleplug.App("boxes")


def wait_for(path: Path, seconds: float = 60.0) -> None:
    """Wait until somebody makes a file."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(str(path))
        time.sleep(0.01)


@app.function(max_containers=8)
def square(x: int) -> int:
    """Return the square, and print."""
    print(f"squaring {x}", flush=True)  # noqa: T201
    return x * x


@app.function(max_containers=2)
def note(folder: Path, x: int) -> int:
    """Write down that it was begun, wait for ``go``, and return x."""
    with (folder / "begun").open("a") as notes:
        notes.write(f"{time.time()}\n")
    wait_for(folder / "go")
    return x


@app.function(max_containers=1, memory=64)
def hog(mib: int) -> int:
    """Use memory."""
    block = bytearray(mib << 20)
    block[::4096] = b"x" * len(block[::4096])
    return len(block)


@app.function(max_containers=1, image="scaleplug-e2e:late")
def late() -> str:
    """Run in an image that is not there at first."""
    return os.environ.get("EDITION", "")


@app.function(max_containers=1, image="scaleplug-test-base")
def bare() -> None:
    """Run in an image that doesn't have scaleplug."""


@app.function(max_containers=1, secrets=["NO_SUCH_SECRET"])
def untold() -> None:
    """Need a secret that isn't there."""


@app.function(max_containers=1, volumes={"/data": "/no/such/folder"})
def unmounted() -> None:
    """Need a folder of the host that isn't there."""


@app.function(max_containers=20)
def stay(seconds: float) -> float:
    """Take its time."""
    time.sleep(seconds)
    return seconds
