"""A Redis, and ``scaleplug controller`` as processes of their own: what a scenario does harm to."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from scaleplug.embedded import EmbeddedRedis
from scaleplug.here import forget_callers
from scaleplug.registry import Source
from scaleplug.settings import Config, use_config
from scaleplug.store import Store
from tests.chaos import functions
from tests.chaos.harness import Fault
from tests.commands import ROOT, environment
from tests.helpers import runs, wait_until

SOURCE = Source("module", "tests.chaos.functions", str(ROOT))


class Site:
    """One namespace; with ``redis_url`` the Redis is somebody else's. All it starts is gone when the block ends."""

    def __init__(self, *, redis_url: str | None = None, **settings: Any) -> None:
        self.redis = None if redis_url else EmbeddedRedis().start()
        self.config = Config(
            redis_url=redis_url or (self.redis.url if self.redis else None), secret=secrets.token_urlsafe(32),
            namespace=f"chaos-{secrets.token_hex(4)}", **settings,
        )  # fmt: skip
        self.controllers: list[subprocess.Popen[bytes]] = []
        self.chance = random.Random(7)
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        use_config(self.config)
        functions.app.set_source(SOURCE)
        caller: Any = functions.app.caller()
        self.store: Store = caller.store
        functions.app.register()

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- controllers -----------------------------------------------------------------------------------------------

    def controller(self) -> subprocess.Popen[bytes]:
        """Start one; what it says goes to ``controller.log`` in :attr:`folder`."""
        with (self.folder / "controller.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "scaleplug.cli.main", "controller"], stdin=subprocess.DEVNULL, stderr=log,
                env=environment(**self.config.to_environ()), start_new_session=True,
            )  # fmt: skip
        self.controllers.append(process)
        return process

    def lead(self, after: bytes | None = None) -> bytes:
        """Wait until a controller acts, another one than that of the token ``after``; return its token."""

        def leads() -> bytes | None:
            token: bytes | None = self.store.client.get(self.store.keys.lease)
            return None if token == after else token

        return wait_until(leads, 20, "a controller acts") or b""

    @property
    def said(self) -> str:
        """What the controllers have said."""
        path = self.folder / "controller.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # -- containers ------------------------------------------------------------------------------------------------

    def containers(self, function: Any) -> dict[str, dict[str, str]]:
        """Return the records of a function's containers, by their names."""
        return self.store.containers(function.full_name)

    def pids(self, function: Any) -> list[int]:
        """Return the processes of those that have been ready."""
        return sorted(int(r["pid"]) for r in self.containers(function).values() if r.get("pid"))

    def busy(self, function: Any) -> list[int]:
        """Return the processes of those that run something."""
        rows = self.store.client.zrange(self.store.keys.of("idle", function.full_name), 0, -1)
        idle = {row.decode() for row in rows}
        found = self.containers(function).items()
        return sorted(int(r["pid"]) for c, r in found if r.get("pid") and c not in idle)

    def zygotes(self) -> list[psutil.Process]:
        """Return the processes from which containers are forked."""
        family = [p for p in self.processes() if "scaleplug.worker" in " ".join(p.cmdline())]
        pids = {process.pid for process in family}
        return [process for process in family if process.ppid() not in pids]

    def processes(self) -> list[psutil.Process]:
        """Return every process of this site that does anything: controllers, zygotes, containers."""
        return [each for each in psutil.process_iter() if self._is_ours(each) and runs(each)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            found: str | None = process.environ().get("SCALEPLUG_NAMESPACE")
        except (psutil.Error, OSError):
            return False
        return found == self.config.namespace and process.pid != os.getpid()

    def wait_for_containers(self, function: Any, count: int) -> list[int]:
        """Wait until so many are there; return their processes."""
        return wait_until(lambda: len(p := self.pids(function)) >= count and p, 30, f"{count} containers") or []

    def signal_one(self, function: Any, sig: signal.Signals = signal.SIGKILL) -> Fault | None:
        """Signal one of a function's containers at random, busy or idle."""
        pids = self.pids(function)
        if not pids:
            return None
        fault = Fault(time.time(), sig.name, self.chance.choice(pids))
        try:
            os.kill(fault.pid or 0, sig)
        except ProcessLookupError:
            return None
        return fault

    # -- the end ---------------------------------------------------------------------------------------------------

    def settled(self, function: Any) -> bool:
        """Whether nothing of a function is pending, held or counted."""
        client, keys, name = self.store.client, self.store.keys, function.full_name
        kinds = {"queue": client.llen, "running": client.zcard, "attempts": client.hlen, "crashes": client.hlen}
        if any(count(keys.of(kind, name)) for kind, count in kinds.items()):
            return False
        return not any(client.keys(f"{keys.prefix}{kind}:{name}-*") for kind in ("transit", "claims"))

    def end(self) -> list[psutil.Process]:
        """Ask all controllers to end, one after the other; return what is still there afterwards: orphans."""
        for process in self.controllers:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.controllers:
            process.wait(60)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.processes(), 3)
        return self.processes()

    def close(self) -> None:
        """End everything, in whatever state it is."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for controller in self.controllers:
            controller.kill()
            controller.wait()
        forget_callers(self.config.redis_url)
        use_config(None)
        if self.redis is not None:
            self.redis.close()
        shutil.rmtree(self.folder, ignore_errors=True)
