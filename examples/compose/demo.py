"""Give the containers work, and tell how many there are: ``make compose-demo`` runs it."""

import sys
import threading
import time

from shop import count_primes

BELOW, PART = 4_000_000, 40_000


def watch(done: threading.Event) -> None:
    """Tell each half second what has changed; return when there are no containers any more."""
    told = ""
    while True:
        now = count_primes.get_current_stats()
        text = f"{now.num_total_runners:3} containers, {now.backlog:3} inputs wait, {now.num_running_inputs:3} run"
        if text != told:
            print(text, flush=True)
        told = text
        if done.is_set() and not now.num_total_runners:
            return
        time.sleep(0.5)


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
