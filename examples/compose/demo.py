"""Give the containers work, and tell how many there are: ``make compose-demo`` runs it."""

import sys
import threading
import time

from shop import count_primes

BELOW, PART = 4_000_000, 40_000


def watch(done: threading.Event) -> None:
    """Tell how many containers there are whenever that changes; return when there are none any more."""
    told = None
    while True:
        stats = count_primes.get_current_stats()
        if stats.num_total_runners != told:
            told = stats.num_total_runners
            print(f"{told:3} containers, {stats.backlog:3} inputs wait, {stats.num_running_inputs:3} run", flush=True)
        if done.is_set() and not told:
            return
        time.sleep(0.1)


def main() -> None:
    """Count primes in parts, and watch until the last container has gone."""
    done = threading.Event()
    watcher = threading.Thread(target=watch, args=(done,))
    watcher.start()
    began = time.monotonic()
    try:
        found = sum(count_primes.starmap((first, first + PART) for first in range(0, BELOW, PART)))
        took = time.monotonic() - began
        print(f"There are {found} primes below {BELOW}: {BELOW // PART} inputs in {took:.1f} s", flush=True)
    finally:
        done.set()
    watcher.join()


if __name__ == "__main__":
    sys.exit(main())
