"""Hundreds of functions in Redis whose load comes and goes, without anything that runs: for looking at them."""

from __future__ import annotations

import json
import math
import time

from scaleplug.registry import Registration, Source
from scaleplug.serializer import Keyring
from scaleplug.settings import FunctionSettings
from scaleplug.store import Store

APPS = ("shop", "media", "reports", "ml", "mail", "search", "billing", "geo", "ingest", "ops")
VERBS = ("resize", "render", "fetch", "score", "index", "send", "export", "merge", "parse", "train", "embed", "sync",
         "charge", "geocode", "notify", "convert", "check", "import", "rank", "clean")  # fmt: skip
NOUNS = ("images", "orders", "invoices", "videos", "users", "pages", "documents", "events", "tiles", "messages")


class Crowd:
    """So many functions in one namespace."""

    def __init__(self, store: Store, keyring: Keyring, count: int) -> None:
        self.store, self.keyring = store, keyring
        every = [f"{app}.{verb}_{NOUNS[(n + m) % len(NOUNS)]}" for m, verb in enumerate(VERBS)
                 for n, app in enumerate(APPS)]  # fmt: skip
        self.names = every[:count]

    def settle(self) -> None:
        """Register them, with a controller that seems to act."""
        settings = [FunctionSettings(max_containers=most, scaledown_window=60.0) for most in (10, 24, 40)]
        sealed, versions = {}, {}
        for number, name in enumerate(self.names):
            app = name.partition(".")[0]
            source = Source("module", f"project.{app}", "/srv/project")
            made = Registration(
                name, app, source, False, settings[number % 3], version="7", deployed=True, callables={"": "function"}
            )
            sealed[name], versions[name] = made.seal(self.keyring), "7"
        self.store.put_functions(sealed, versions)
        self.store.take_lease("crowd", 3_600)
        self.store.show_leader("worker-1:default", 3_600)
        for name in self.names[::9]:
            self.store.learn(name, service_time=0.84, start_time=0.052)

    def load_at(self, number: int, moment: float) -> tuple[int, int, int, int, int, int]:
        """Return pending, running, starting, idle, busy, draining of one function at one moment."""
        if number % 7 > 2 and number > 8:
            return (0, 0, 0, 0, 0, 0)
        period = 90 + 37 * (number % 11)
        phase = (moment / period + number * 0.37) % 1.0
        wave = max(0.0, math.sin(2 * math.pi * phase)) ** 1.5
        most = (10, 24, 40)[number % 3]
        busy = round(most * wave * (0.4 + 0.6 * ((number * 7) % 10) / 10))
        pending = round(busy * 9 * max(0.0, math.sin(2 * math.pi * (phase + 0.08)))) if phase < 0.3 else 0
        starting = min(most - busy, round(busy * 0.4)) if phase < 0.2 else 0
        idle = round(most * 0.3 * (1 - wave)) if 0.3 < phase < 0.65 else 0
        draining = 1 if 0.6 < phase < 0.66 else 0
        return (pending, busy, starting, idle, busy, draining)

    def backfill(self, seconds: int) -> None:
        """Write what they had."""
        now = self.store.now()
        pipe = self.store.client.pipeline(transaction=False)
        for number, name in enumerate(self.names):
            last = ""
            for moment in range(int(now) - seconds, int(now)):
                pending, running, starting, idle, busy, draining = self.load_at(number, moment)
                desired = starting + idle + busy
                point = f"{pending} {running} {starting} {idle} {busy} {draining} {desired}"
                if point != last:
                    pipe.lpush(self.store.keys.of("history", name), f"{moment}.00 {point}")
                    last = point
            pipe.ltrim(self.store.keys.of("history", name), 0, 899)
            for back in range(40, 0, -8):
                p, r, s, i, b, _ = self.load_at(number, now - back)
                reason = f"inputs of 0.84 s at 1 each: {p} pending + {r} running; at most {(10, 24, 40)[number % 3]}"
                decision = {
                    "at": now - back, "desired": s + i + b, "start": s, "stop": ["x"] * (back % 3), "give_up": [],
                    "pending": p, "running": r, "reason": f"{reason} -> start {s}",
                }  # fmt: skip
                pipe.lpush(self.store.keys.of("decisions", name), json.dumps(decision))
        pipe.execute()

    def step(self) -> None:
        """Let them have what they have now."""
        now = self.store.now()
        pipe = self.store.client.pipeline(transaction=False)
        key, desired = self.store.keys.of, {}
        for number, name in enumerate(self.names):
            pending, running, starting, idle, busy, draining = self.load_at(number, now)
            containers = [f"{name}-{slot}" for slot in range(starting + idle + busy + draining)]
            pipe.delete(*(key(kind, name) for kind in ("queue", "running", "ready", "idle", "containers")))
            if pending:
                pipe.lpush(key("queue", name), *["x"] * pending)
            if running:
                pipe.zadd(key("running", name), {str(n): now + 300 for n in range(running)})
            if containers:
                pipe.sadd(key("containers", name), *containers)
                for place, container in enumerate(containers):
                    state = "starting" if place < starting else "released" if place < starting + draining else "ready"
                    pipe.hset(key("container", container), "state", state)
                ready = containers[starting + draining :]
                if ready:
                    pipe.zadd(key("ready", name), dict.fromkeys(ready, now))
                if ready[:idle]:
                    pipe.zadd(key("idle", name), dict.fromkeys(ready[:idle], now))
            if busy:
                pipe.hincrby(key("stats", name), "finished", busy)
            desired[name] = starting + idle + busy
        pipe.execute()
        self.store.note("crowd", desired)

    def live(self, seconds: float, every: float = 1.0) -> None:
        """Let time go by."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.monotonic()
            self.step()
            time.sleep(max(0.0, every - (time.monotonic() - began)))
