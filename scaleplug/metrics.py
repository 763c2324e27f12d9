"""What a controller tells Prometheus: ``scaleplug controller --metrics [HOST:]PORT``.

What functions have is read from Redis when somebody asks, so the controller's loop has no part in it. Only the
controller that acts tells of functions: of several, each would tell the same. No label names a container, since
Prometheus would keep each of them for ever.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, Final

from redis.exceptions import RedisError

from scaleplug.errors import ConfigurationError, InvalidError
from scaleplug.store import EDGES, Overview, Store, Times

logger = logging.getLogger("scaleplug")

STATES: Final = ("starting", "idle", "busy", "draining")
TIMES: Final = (
    ("wait", "scaleplug_input_wait_seconds", "Time that inputs have waited until a container claimed them"),
    (
        "run",
        "scaleplug_input_run_seconds",
        "Run time of inputs (of a pack its mean, without a container's first short one)",
    ),
    ("start", "scaleplug_container_start_seconds", "Time from the order to start a container until it was ready"),
)
LOOP_EDGES: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


def parse_place(text: str) -> tuple[str, int]:
    """Return the host and the port of ``[HOST:]PORT``; this machine alone without a host. Raises InvalidError."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise InvalidError(f"--metrics must be a port, or HOST:PORT, not {text!r}")
    return host.strip("[]") or "127.0.0.1", int(port)


class Metrics:
    """The metrics of one controller; a collector of prometheus_client."""

    def __init__(self, store: Store, leads: Callable[[], bool]) -> None:
        self.store, self.leads = store, leads
        self._families: Any = _prometheus("prometheus_client.core")
        self._lock = threading.Lock()
        self._rounds = [0] * (len(LOOP_EDGES) + 1)
        self._seconds = 0.0
        self._last = time.monotonic()

    def note_round(self, seconds: float) -> None:
        """Count a round of the controller's loop."""
        place = next((n for n, edge in enumerate(LOOP_EDGES) if seconds <= edge), len(LOOP_EDGES))
        with self._lock:
            self._rounds[place] += 1
            self._seconds += seconds
            self._last = time.monotonic()

    def serve(self, host: str, port: int) -> Callable[[], None]:
        """Serve ``/metrics`` on a thread of its own; what is returned ends that."""
        client: Any = _prometheus("prometheus_client")
        registry = client.CollectorRegistry()
        registry.register(self)
        client.ProcessCollector(registry=registry)
        client.PlatformCollector(registry=registry)
        try:
            server, thread = client.start_http_server(port, addr=host, registry=registry)
        except (OSError, UnicodeError) as exc:  # the latter of what can't be a name of a host
            raise ConfigurationError(
                f"--metrics can't use {host}:{port}: {exc}: choose another port, or an address of this host"
            ) from None
        logger.info("metrics on http://%s:%d/metrics", host, server.server_address[1])

        def end() -> None:
            server.shutdown()
            server.server_close()
            thread.join(2.0)

        return end

    def describe(self) -> list[Any]:
        """Name nothing beforehand: Redis need not be there yet."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield all metrics, as prometheus_client asks for them."""
        leads = self.leads()
        yield self._gauge("scaleplug_controller_lease", "1 while this controller holds the lease and acts", leads)
        with self._lock:
            rounds, seconds, idle = list(self._rounds), self._seconds, time.monotonic() - self._last
        yield self._gauge("scaleplug_controller_idle_seconds", "Time since the loop's last round ended", idle)
        name, text = "scaleplug_controller_round_seconds", "Time that a round took: so long a ring may have to wait"
        yield self._histogram(name, text, [((), Times(tuple(rounds), seconds))], (), LOOP_EDGES)
        reached = 1
        if leads:
            try:
                yield from self._functions()
            except (RedisError, OSError) as exc:
                logger.warning("metrics without functions: %s: %s", type(exc).__name__, exc)
                reached = 0
        yield self._gauge("scaleplug_redis_up", "1 if Redis has answered what these metrics asked", reached)

    def _functions(self) -> Iterator[Any]:
        _, found = self.store.overview()
        names = sorted(found)
        times = self.store.times(names)
        for metric, text, value in _GAUGES:
            yield self._many(self._families.GaugeMetricFamily, metric, text, found, value)
        containers = self._families.GaugeMetricFamily(
            "scaleplug_containers", "Containers of a function by their state", labels=("function", "state")
        )
        for name in names:
            for state in STATES:
                containers.add_metric((name, state), getattr(found[name].census, state))
        yield containers
        for metric, text, value in _COUNTERS:
            yield self._many(self._families.CounterMetricFamily, metric, text, found, value)
        for kind, metric, text in TIMES:
            yield self._histogram(metric, text, [((n,), times[n][kind]) for n in names], ("function",), EDGES)

    def _gauge(self, name: str, text: str, value: float) -> Any:
        return self._families.GaugeMetricFamily(name, text, value=float(value))

    def _many(
        self, family: Any, name: str, text: str, found: dict[str, Overview], value: Callable[[Overview], int]
    ) -> Any:
        made = family(name, text, labels=("function",))
        for function in sorted(found):
            made.add_metric((function,), value(found[function]))
        return made

    def _histogram(
        self, name: str, text: str, rows: Sequence[tuple[tuple[str, ...], Times]], labels: tuple[str, ...],
        edges: Sequence[float],
    ) -> Any:  # fmt: skip
        made = self._families.HistogramMetricFamily(name, text, labels=labels)
        for values, times in rows:
            total, buckets = 0, []
            for edge, count in zip((*(repr(edge) for edge in edges), "+Inf"), times.counts, strict=True):
                total += count
                buckets.append((edge, total))
            made.add_metric(values, buckets, sum_value=times.seconds)
        return made


_GAUGES: Final[tuple[tuple[str, str, Callable[[Overview], int]], ...]] = (
    ("scaleplug_pending_inputs", "Inputs on a function's queue: the backlog", lambda o: o.census.pending),
    ("scaleplug_delayed_inputs", "Inputs that wait for their time, or for a retry", lambda o: o.census.delayed),
    ("scaleplug_running_inputs", "Inputs that containers have taken and not finished", lambda o: o.census.running),
    ("scaleplug_desired_containers", "Containers that the policy wants", lambda o: o.desired),
)
_COUNTERS: Final[tuple[tuple[str, str, Callable[[Overview], int]], ...]] = (
    ("scaleplug_inputs_finished", "Inputs that have come to an end, failed ones too", lambda o: o.census.finished),
    ("scaleplug_inputs_failed", "Inputs that have failed", lambda o: o.census.failed),
    ("scaleplug_inputs_refused", "Messages that were set aside, since they made no sense", lambda o: o.census.refused),
    ("scaleplug_inputs_retried", "Retries of inputs that had failed", lambda o: o.retried),
    ("scaleplug_container_starts", "Containers that were started", lambda o: o.starts),
)


def _prometheus(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise ConfigurationError("--metrics needs prometheus_client: pip install 'scaleplug[metrics]'") from None
