"""What scenarios are made of: a load whose inputs write down where they ran, faults, and a report.

with Site() as site, tempfile.TemporaryDirectory() as folder:   # tests/chaos/site.py
    site.controller()
    load = Load(functions.solo, inputs=1_000, seconds=0.02, folder=Path(folder)).start()
    with Faults(lambda: site.kill_one(functions.solo), every=2.0) as faults:
        load.wait(60)
    print(load.report("containers die", faults.done).line())
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

HELD_SECONDS = 0.5
"""An input that ended so shortly before its container was killed may not have been acknowledged yet."""
NOTED_SECONDS = 0.1
"""A fault is done so much later than it is noted, at most."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done, and when (Unix time); ``pid`` is the container's it was done to, if it was one."""

    at: float
    what: str
    pid: int | None = None


@dataclass(slots=True)
class Run:
    """One run of an input: where, when it started, when it ended if it did."""

    pid: int
    start: float
    end: float | None = None

    def at(self, when: float) -> bool:
        """Whether it was under way."""
        return self.start <= when and (self.end is None or self.end > when)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of a load under faults."""

    scenario: str
    submitted: int
    completed: int
    failed: int
    """Inputs whose caller got an exception."""
    lost: int
    """Inputs of which the caller heard nothing."""
    repeated: int
    """Runs beyond an input's first."""
    unexplained: int
    """Those of them whose run before was not cut off by a fault to its container."""
    faults: int
    seconds: float
    recoveries: tuple[float, ...] = ()
    """Seconds from a fault until what it had stopped went on."""
    remarks: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    """What else should have been, and was not."""

    @property
    def p50(self) -> float:
        """The median of the recoveries."""
        return statistics.median(self.recoveries) if self.recoveries else 0.0

    @property
    def p99(self) -> float:
        """The 99th percentile of the recoveries."""
        if len(self.recoveries) < 2:
            return max(self.recoveries, default=0.0)
        return statistics.quantiles(self.recoveries, n=100, method="inclusive")[98]

    @property
    def whole(self) -> bool:
        """Whether every input has its result, and ran again only where a fault had cut it off."""
        return self.completed == self.submitted and not (self.lost or self.failed or self.unexplained or self.missed)

    def none_twice(self) -> Report:
        """Return the report where no input may have run twice: the fault gives no reason to."""
        return replace(self, missed=(*self.missed, "run once each")) if self.repeated else self

    def line(self) -> str:
        """Return it as one line."""
        recovered = f"p50 {self.p50:.3f}, p99 {self.p99:.3f}, max {max(self.recoveries, default=0.0):.3f} s"
        return (
            f"{self.scenario:<34} submitted {self.submitted:>6}, completed {self.completed:>6}, "
            f"duplicated {self.repeated:>3} (unexplained {self.unexplained}), lost {self.lost}, failed {self.failed}, "
            f"faults {self.faults:>3}, recovery {recovered if self.recoveries else '-'} "
            f"({self.seconds:.1f} s){''.join('; ' + remark for remark in self.remarks)}"
            f"{''.join('; NOT ' + miss for miss in self.missed)}"
        )


def summary(
    scenario: str, inputs: int, began: float, *, faults: int = 0, recoveries: Sequence[float] = (),
    remarks: Sequence[str] = (),
) -> Report:  # fmt: skip
    """Return the report of a scenario that has looked itself that everything came through, since ``began``."""
    return Report(
        scenario=scenario, submitted=inputs, completed=inputs, failed=0, lost=0, repeated=0, unexplained=0,
        faults=faults, seconds=time.time() - began, recoveries=tuple(recoveries), remarks=tuple(remarks),
    )  # fmt: skip


@dataclass(slots=True)
class Load:
    """A map over a function of ``tests/chaos/functions.py``, on a thread of its own."""

    function: Any
    inputs: int
    seconds: float
    folder: Path
    results: list[Any] = field(default_factory=list)
    """In the order in which they came."""
    error: BaseException | None = None
    submitted: int = 0
    enough: threading.Event = field(default_factory=threading.Event)
    """Set to end it before it has come to :attr:`inputs`."""
    began: float = 0.0
    ended: float = 0.0
    _thread: threading.Thread | None = None

    def start(self) -> Load:
        """Begin to call."""
        self.began = time.time()
        self._thread = threading.Thread(target=self._call, daemon=True, name="chaos-load")
        self._thread.start()
        return self

    def _call(self) -> None:
        try:
            for result in self.function.starmap(self._arguments(), order_outputs=False, return_exceptions=True):
                self.results.append(result)
        except BaseException as exc:  # noqa: BLE001  # the report tells
            self.error = exc
        self.ended = time.time()

    def _arguments(self) -> Iterator[tuple[str, int, float]]:
        for number in range(self.inputs):
            if self.enough.is_set():
                return
            self.submitted += 1
            yield str(self.folder), number, self.seconds

    @property
    def over(self) -> bool:
        """Whether it has come to its end."""
        return self._thread is not None and not self._thread.is_alive()

    def wait(self, seconds: float) -> Load:
        """Wait for the end, but no longer than some seconds: what is missing then is lost."""
        assert self._thread is not None
        self._thread.join(seconds)
        return self

    # -- what the inputs have written down -------------------------------------------------------------------------

    def runs(self) -> dict[int, list[Run]]:
        """Return the runs of each input, the first one first."""
        path = self.folder / "notes"
        runs: dict[int, list[Run]] = {}
        for line in path.read_text().splitlines(keepends=True) if path.exists() else ():
            if not line.endswith("\n"):
                continue  # it is just being written
            what, number, pid, at = line.split()
            known = runs.setdefault(int(number), [])
            if what == "start":
                known.append(Run(int(pid), float(at)))
            else:
                next(run for run in reversed(known) if run.pid == int(pid)).end = float(at)
        for known in runs.values():
            known.sort(key=lambda run: run.start)
        return runs

    def resumed(self, after: float) -> float | None:
        """Return the seconds from ``after`` until an input that started later has ended, ``None`` if none has."""
        ends = [r.end for runs in self.runs().values() for r in runs if r.start >= after and r.end is not None]
        return min(ends) - after if ends else None

    def report(
        self, scenario: str, faults: Sequence[Fault], *, recoveries: Sequence[float] | None = None,
        remarks: Sequence[str] = (), missed: Sequence[str] = (),
    ) -> Report:  # fmt: skip
        """Return what became of it; ``recoveries`` are those of cut-off inputs where none are given."""
        runs = self.runs()
        completed = sum(1 for result in self.results if not isinstance(result, BaseException))
        failed = len(self.results) - completed
        kills: dict[int, list[float]] = {}
        for fault in faults:
            if fault.pid is not None:
                kills.setdefault(fault.pid, []).append(fault.at)
        pairs = [pair for known in runs.values() for pair in itertools.pairwise(known)]
        return Report(
            scenario=scenario,
            submitted=self.submitted,
            completed=completed,
            failed=failed + (self.error is not None),
            lost=self.submitted - len(self.results),
            repeated=len(pairs),
            unexplained=sum(1 for run, _ in pairs if not _cut_off(run, kills)),
            faults=len(faults),
            seconds=(self.ended or time.time()) - self.began,
            recoveries=tuple(_recoveries(pairs, kills) if recoveries is None else recoveries),
            missed=tuple(missed),
            remarks=(*remarks, *([f"the map failed: {self.error!r}"] if self.error is not None else [])),
        )


def _cut_off(run: Run, kills: dict[int, list[float]]) -> float | None:
    """Return when the run's container was killed while it held the input."""
    faults = (at for at in kills.get(run.pid, ()) if run.start < at + NOTED_SECONDS)
    return next((at for at in faults if run.end is None or run.end + HELD_SECONDS > at), None)


def _recoveries(pairs: Sequence[tuple[Run, Run]], kills: dict[int, list[float]]) -> list[float]:
    cuts = [(_cut_off(run, kills), again) for run, again in pairs]
    return [again.start - at for at, again in cuts if at is not None]


class Faults:
    """Does something bad now and then until the block ends; ``act`` returns what it did, ``None`` for nothing."""

    def __init__(
        self, act: Callable[[], Fault | Sequence[Fault] | None], *, every: float, most: int | None = None
    ) -> None:
        self.act, self.every, self.most = act, every, most
        self.done: list[Fault] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="chaos-faults")
        self._error: BaseException | None = None

    def _run(self) -> None:
        try:
            while not self._over.wait(self.every) and (self.most is None or len(self.done) < self.most):
                fault = self.act()
                if fault is not None:
                    self.done.extend([fault] if isinstance(fault, Fault) else fault)
        except BaseException as exc:  # noqa: BLE001  # raised where the block ends
            self._error = exc

    def __enter__(self) -> Faults:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
