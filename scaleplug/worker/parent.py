"""What Linux does for processes whose parent ends; elsewhere nothing happens."""

from __future__ import annotations

import ctypes
import sys

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def die_with_parent(sig: int) -> None:
    """Ask the kernel for a signal when the parent is gone."""
    _prctl(PR_SET_PDEATHSIG, sig)


def adopt_orphans() -> None:
    """Become the parent of what children have started and left behind."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value)
