"""Changing and reading a pool's autoscaler while it runs: what functions and a class's objects have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from scaleplug.abc import Caller, FunctionStats
from scaleplug.call import Method
from scaleplug.settings import AUTOSCALER, AutoscalerSettings, FunctionSettings, autoscaler_settings


class Unset:
    """Stands for an argument that was not given, where ``None`` means something."""

    def __repr__(self) -> str:
        return "<unset>"


UNSET: Final = Unset()


class Autoscaler:
    """``f.autoscaler``: the settings of one pool of containers; ``None`` takes a bound away."""

    def __init__(self, pool: Autoscaled) -> None:
        self._pool = pool
        self.update = Method(self._update, self._update_aio)
        self.settings = Method(self._settings, self._settings_aio)

    def _update(
        self,
        *,
        min_containers: int | Unset | None = UNSET,
        max_containers: int | Unset | None = UNSET,
        buffer_containers: int | Unset | None = UNSET,
        scaledown_window: float | Unset | None = UNSET,
    ) -> AutoscalerSettings:
        """Change those that are given until the next deploy; ``None`` sets one back to nothing: no bound, no buffer."""
        given = (min_containers, max_containers, buffer_containers, scaledown_window)
        return self._pool.change({n: v for n, v in zip(_ORDER, given, strict=True) if not isinstance(v, Unset)})

    async def _update_aio(
        self,
        *,
        min_containers: int | Unset | None = UNSET,
        max_containers: int | Unset | None = UNSET,
        buffer_containers: int | Unset | None = UNSET,
        scaledown_window: float | Unset | None = UNSET,
    ) -> AutoscalerSettings:
        return await asyncio.to_thread(
            self._update, min_containers=min_containers, max_containers=max_containers,
            buffer_containers=buffer_containers, scaledown_window=scaledown_window,
        )  # fmt: skip

    def _settings(self) -> AutoscalerSettings:
        """Return the settings in force."""
        return self._pool.change({})

    async def _settings_aio(self) -> AutoscalerSettings:
        return await asyncio.to_thread(self._settings)


_ORDER = ("min_containers", "max_containers", "buffer_containers", "scaledown_window")
assert sorted(_ORDER) == sorted(AUTOSCALER)


class ObjectTypes:
    """What an object of a class has of its autoscaler, for type checkers; see :mod:`scaleplug.mypy_plugin`."""

    autoscaler: Autoscaler
    update_autoscaler: Method[..., AutoscalerSettings]


class Autoscaled:
    """Something with a pool of containers of its own."""

    full_name: str

    def __init__(self) -> None:
        self.autoscaler = Autoscaler(self)
        self.update_autoscaler = Method(self._update_autoscaler, self._update_autoscaler_aio)
        self.get_current_stats: Method[[], FunctionStats] = Method(self._get_current_stats, self._get_current_stats_aio)

    @property
    def pool_settings(self) -> FunctionSettings:
        """Return the settings of its containers, as they are defined here."""
        raise NotImplementedError

    def _get_current_stats(self) -> FunctionStats:
        """Return how many inputs wait and run, and what containers there are for them, now."""
        return self._stats()

    async def _get_current_stats_aio(self) -> FunctionStats:
        return await asyncio.to_thread(self._get_current_stats)

    def _stats(self) -> FunctionStats:
        return self.known_caller().stats(self.full_name, max_inputs=self.pool_settings.max_inputs)

    def known_caller(self) -> Caller:
        """Return what carries its calls, after making sure that the registry knows it."""
        raise NotImplementedError

    def change(self, changes: Mapping[str, Any]) -> AutoscalerSettings:
        """Lay ``changes`` over the settings and return those in force; raises InvalidError where they don't fit."""
        return autoscaler_settings(self.known_caller().override(self.full_name, changes))

    def _update_autoscaler(
        self,
        *,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: float | None = None,
    ) -> AutoscalerSettings:
        """Change the settings that are given, until the next deploy, and return those in force.

        ``None`` leaves a setting as it is; ``autoscaler.update`` can take one away. Raises InvalidError where what is
        given doesn't fit to what is in force, and NotFoundError.
        """
        given = (min_containers, max_containers, buffer_containers, scaledown_window)
        changes = {name: value for name, value in zip(_ORDER, given, strict=True) if value is not None}
        return self.change(changes)

    async def _update_autoscaler_aio(
        self,
        *,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: float | None = None,
    ) -> AutoscalerSettings:
        return await asyncio.to_thread(
            self._update_autoscaler, min_containers=min_containers, max_containers=max_containers,
            buffer_containers=buffer_containers, scaledown_window=scaledown_window,
        )  # fmt: skip
