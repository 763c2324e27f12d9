"""Decides how containers of older code make way for those of newly registered code; pure, like the policy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from scaleplug.view import View


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now: containers to start beyond what the load asks for, and old ones to drain."""

    start: int = 0
    drain: tuple[str, ...] = ()


def next_step(view: View, idle: Collection[str], starting: int, now: float) -> Step:
    """Return the next step of a function's redeployment; ``starting`` are about to be started for the load.

    One container of the new code has to be ready before the old ones are asked to leave, so that code which can't
    start replaces nothing. Where ``max_containers`` leaves no room for it, one old container makes room.
    """
    stale = view.stale
    if not stale:
        return Step()
    if not view.proving:
        return Step(drain=tuple(stale))
    if view.fresh or now < view.back_off_until:
        return Step()
    most = view.settings.max_containers
    if most is None or len(view.containers) + starting < most:
        return Step(start=1)
    if len(stale) < len(view.containers):
        return Step()  # one has been asked to make room already
    return Step(drain=(next((c for c in stale if c in idle), stale[0]),))
