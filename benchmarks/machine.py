"""What the figures depend on: the machine and the versions."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata

import psutil

from scaleplug.embedded import find_server


def facts() -> dict[str, str]:
    """Return them by name, with the load of the machine at this moment."""
    server = find_server(os.environ)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "Redis server": ".".join(map(str, server.version)),
        "Celery": metadata.version("celery"),
        "kombu": metadata.version("kombu"),
        "redis-py": metadata.version("redis"),
        "load average before": f"{os.getloadavg()[0]:.1f}",
    }
