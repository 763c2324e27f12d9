"""The zygote of functions that run in green threads: it patches sockets, threads and sleeps before all else.

``python -m scaleplug.worker.green`` stands in for the zygote's own module. Nothing but the standard library may be
imported before :func:`main` has patched it: a module that took a lock or a socket from it earlier keeps the plain one.
"""

from __future__ import annotations

import importlib
import traceback

MISSING = """\
pool="eventlet" needs eventlet where the containers run: pip install 'scaleplug[eventlet]'
"""


def patch() -> str | None:
    """Patch the standard library; return why that can't be."""
    try:
        import eventlet  # noqa: PLC0415  # an extra, of this kind of container only
    except ImportError:
        return traceback.format_exc() + MISSING
    eventlet.hubs.use_hub("poll")  # a fork would share an epoll's file descriptor
    eventlet.monkey_patch(os=False)  # the zygote's own pipes must not block
    return None


def main() -> None:
    """Patch, then be a zygote; without eventlet it only tells every container that is to start."""
    problem = patch()
    importlib.import_module("scaleplug.worker.zygote").main(problem)


if __name__ == "__main__":
    main()
