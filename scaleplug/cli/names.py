"""Names as people write and read them: near misses, short names, a colour for each."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Collection, Mapping

from scaleplug.errors import NotFoundError, SerializationError, did_you_mean, listed
from scaleplug.registry import Registration
from scaleplug.serializer import Keyring
from scaleplug.store import Store

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_red", "bright_cyan", "bright_magenta", "bright_green")


def counted(count: int, noun: str) -> str:
    """Return `1 input`, `2 inputs`, `1,000 inputs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def short_names(functions: Collection[str], shown: Mapping[str, str] = {}) -> dict[str, str]:
    """Return each full name without its app, or the full name where two apps have a function of that name.

    ``shown`` has what people read in place of the names of pools.
    """
    last = {name: shown.get(name, name).partition(".")[2] or name for name in functions}
    shared = list(last.values())
    return {name: part if shared.count(part) == 1 else shown.get(name, name) for name, part in last.items()}


class Labels(dict[str, str]):
    """What people read in place of the names of pools, as far as it was looked up."""

    def __init__(self, store: Store, keyring: Keyring) -> None:
        super().__init__()
        self.store, self.keyring = store, keyring

    def learn(self, functions: Collection[str]) -> Labels:
        """Look up the pools among these functions that aren't known yet."""
        for function in functions:
            if "~" in function and function not in self:
                sealed = self.store.function(function)
                with contextlib.suppress(SerializationError):
                    self[function] = Registration.unseal(self.keyring, function, sealed).shown if sealed else function
        return self


def find_function(wanted: str, functions: Collection[str]) -> str:
    """Return the full name that ``wanted`` stands for; raises NotFoundError."""
    if wanted in functions:
        return wanted
    found = [name for name in functions if name.endswith(f".{wanted}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise NotFoundError(f"{wanted!r} could be {listed(sorted(found), 'or')}: write the app's name too")
    if not functions:
        raise NotFoundError(f"there is no function {wanted!r}: none is registered here")
    names = functions if "." in wanted else short_names(functions).values()
    raise NotFoundError(f"there is no function {wanted!r}{did_you_mean(wanted, names)}")


class Palette:
    """Gives each name a colour: the same one in every run, and different ones while there are enough."""

    def __init__(self) -> None:
        self._given: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        if name not in self._given:
            first = zlib.crc32(name.encode()) % len(COLOURS)
            order = COLOURS[first:] + COLOURS[:first]
            self._given[name] = next((c for c in order if c not in self._given.values()), order[0])
        return self._given[name]
