"""The classes of the contract tests; see ``functions.py``."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import scaleplug
from scaleplug import App

app = App("objects")


@app.cls(max_containers=2)
class Greeter:
    """Has a parameter of each type, all with defaults."""

    greeting: str = scaleplug.parameter(default="hello")
    times: int = scaleplug.parameter(default=1)
    loud: bool = scaleplug.parameter(default=False)
    mark: bytes = scaleplug.parameter(default=b"!")
    prepared: str = scaleplug.parameter(init=False)
    spare: int = scaleplug.parameter(default=7, init=False)

    @scaleplug.enter()
    def prepare(self) -> None:
        """Make what a model's weights would be."""
        self.prepared = " ".join([self.greeting] * self.times)

    @scaleplug.method()
    def greet(self, name: str, end: str = "") -> str:
        """Greet."""
        said = f"{self.prepared} {name}{self.mark.decode()}{end}"
        return said.upper() if self.loud else said

    @scaleplug.method()
    async def greet_later(self, name: str) -> str:
        """Greet after a moment."""
        await asyncio.sleep(0.01)
        return self.greet.local(name)

    @scaleplug.method()
    def greet_all(self, names: list[str]) -> list[str]:
        """Call another method of the same object, here and in containers."""
        return [self.greet(names[0]), *self.greet.map(names[1:])]

    @scaleplug.method()
    def others(self) -> Any:
        """Return the object's parameters, and what is no method."""
        return self.greeting, self.times, self.loud, self.mark, self.spare, self.helper()

    def helper(self) -> str:
        """Return something; not callable from outside by itself."""
        return f"helped by {self.greeting}"


@app.cls(max_containers=1)
class Needy:
    """Has a parameter that must be given."""

    size: int = scaleplug.parameter()

    @scaleplug.method()
    def get(self) -> int:
        """Return it."""
        return self.size


class Below:
    """A base class with hooks of its own."""

    folder: str = scaleplug.parameter(default="")

    @scaleplug.enter()
    def first(self) -> None:
        """Come first."""
        self.order = ["first"]

    @scaleplug.enter()
    def replaced(self) -> None:
        """Never run."""
        self.order.append("never")

    @scaleplug.method()
    def inherited(self) -> list[str]:
        """Return what has run."""
        return self.order

    @scaleplug.method()
    def overridden(self) -> str:
        """Return who it is."""
        return "below"

    @scaleplug.exit()
    def leave_below(self) -> None:
        """Write down what has run."""
        self._write("leave_below")

    def _write(self, text: str) -> None:
        if self.folder:
            with Path(self.folder, f"left-{os.getpid()}").open("a") as file:
                file.write(f"{text} ")


@app.cls(max_containers=1, scaledown_window=2)
class Above(Below):
    """Adds hooks, sync and async."""

    @scaleplug.enter()
    async def second(self) -> None:
        """Come second."""
        await asyncio.sleep(0)
        self.order.append("second")
        self.loop = asyncio.get_running_loop()

    @scaleplug.enter()
    def replaced(self) -> None:
        """Come third, in place of the base class's."""
        self.order.append("third")

    @scaleplug.method()
    def overridden(self) -> str:
        """Return who it is."""
        return "above"

    @scaleplug.method()
    def count(self) -> int:
        """Return how often it was called on this object."""
        self.calls = getattr(self, "calls", 0) + 1
        return self.calls

    @scaleplug.exit()
    async def leave_above(self) -> None:
        """Leave after the base class."""
        await asyncio.sleep(0)
        self._write("leave_above")


@app.cls(max_containers=1)
class Broken:
    """Can't be prepared."""

    why: str = scaleplug.parameter(default="no weights")

    @scaleplug.enter()
    def prepare(self) -> None:
        """Fail."""
        raise RuntimeError(self.why)

    @scaleplug.method()
    def get(self) -> int:
        """Never run."""
        return 1


@app.cls(max_containers=1)
class Locked:
    """Holds what can't be pickled."""

    @scaleplug.enter()
    def prepare(self) -> None:
        """Make a lock."""
        self.lock = threading.Lock()

    @scaleplug.method()
    def get(self) -> bool:
        """Use it."""
        with self.lock:
            return True


@app.function(max_containers=1)
def call_method(method: Any, *args: Any) -> Any:
    """Call a method that came as an argument."""
    return method.remote(*args)


@app.function(max_containers=1)
def greet_with(thing: Any, name: str) -> Any:
    """Use a class or an object that came as an argument."""
    obj = thing(greeting="salut") if isinstance(thing, scaleplug.Cls) else thing
    return obj.greet.remote(name)


@app.function(max_containers=2)
def shout(text: str) -> str:
    """Return it in capitals."""
    return text.upper()
