"""What functions had over time, for charts: the controller looks once a second and keeps what has changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from scaleplug.store import Store
from scaleplug.view import View


class History:
    """Writes the histories of the functions of one controller."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._busy: frozenset[str] = frozenset()

    def note(self, token: str, views: Mapping[str, View], busy: Collection[str]) -> None:
        """Keep what the functions have in which something goes on, and those where it has just ended."""
        functions = sorted((self._busy | frozenset(busy)) & views.keys())
        if functions and self.store.note(token, {function: views[function].desired for function in functions}):
            self._busy = frozenset(busy)
