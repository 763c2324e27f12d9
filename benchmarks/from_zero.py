"""From zero containers to the first result, without and with a spare, in parts; beside the start of a Celery worker."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from benchmarks.clocks import PARTS
from benchmarks.contest import contest
from benchmarks.entrants import SCALEPLUG, unknown_settings
from benchmarks.harness import Plan, Result, Row, Summary, seconds
from benchmarks.workers import LEAN, Peer
from scaleplug.embedded import EmbeddedRedis

BARE, SPARED = "without a spare", "with a spare"
ENTRANTS = tuple(
    replace(SCALEPLUG, name=name, module="benchmarks.starting", environ=(("SCALEPLUG_SPARES", spares),))
    for name, spares in ((BARE, "0"), (SPARED, "1"))
)
MOST = {BARE: 50.0, SPARED: 20.0}


def measure(plan: Plan) -> Result:
    took: dict[str, list[float]] = defaultdict(list)
    parts: dict[str, list[dict[str, float]]] = defaultdict(list)
    with EmbeddedRedis() as redis, contest(ENTRANTS, redis.url, workers=0, warm=False) as found:
        peer = Peer(redis.url)
        peer_starts(peer, took, ())
        took.clear()  # the first one has read files that nobody had read
        for number in range(plan.rounds(8, 1)):
            for name in found.names:
                took[name] += [1000 * s for s in found.turn(name, "starts", count=8) or ()]
                parts[name] += found.turn(name, "parts", count=4) or ()
            for options in (LEAN, ()) if number % 2 == 0 else (LEAN,):
                peer_starts(peer, took, options)
    samples = {name: Summary.of(values, "ms") for name, values in took.items()}
    samples |= _parts(parts)
    lean, defaults = samples["celery worker, lean"], samples["celery worker, defaults"]
    rows = [_row(samples[name], name, lean, "celery worker -P solo, lean", MOST[name]) for name in MOST if name in took]
    if SPARED in took:
        rows.append(_row(samples[SPARED], "by default", defaults, "celery worker, its defaults", None))
    return Result(
        name="from_zero",
        rows=tuple(rows),
        samples=samples,
        unfair=(
            "Ours forks a process that has imported the app and set up its worker; Celery's starts an interpreter.",
            "Without a container ours still has a controller and a zygote in memory, and a spare; Celery has nothing.",
        ),
        remarks=(
            *(f"Parts {name}, medians: {told}." for name in MOST if (told := _told(samples, name))),
            "The parts are of other starts than the totals: Redis's MONITOR, which tells some of them, costs time.",
            *unknown_settings(ENTRANTS),
            *found.missing,
        ),
    )


def peer_starts(peer: Peer, took: dict[str, list[float]], options: tuple[str, ...]) -> None:
    """Start a Celery worker, and note the milliseconds until its first result."""

    def first_result() -> None:
        with peer.worker(*(("--pool", "solo", *options) if options else ())):
            peer.call("nothing")

    took[f"celery worker, {'lean' if options else 'defaults'}"].append(1000 * seconds(first_result))


def _parts(found: dict[str, list[dict[str, float]]]) -> dict[str, Summary]:
    return {
        f"{name}: {part}": Summary.of([1000 * one[part] for one in some], "ms")
        for name, some in found.items()
        for part in PARTS
        if some
    }


def _told(samples: dict[str, Summary], name: str) -> str:
    """Return the parts in words; empty where there are none."""
    return ", ".join(f"{part} {samples[key].p50:.1f} ms" for part in PARTS if (key := f"{name}: {part}") in samples)


def _row(mine: Summary, how: str, peer: Summary, peer_is: str, most: float | None) -> Row:
    what = f"zero containers to the first result, {how}, p50"
    return Row(what=what, unit="ms", ours=mine.p50, peer=peer.p50, peer_is=peer_is, most=most)
