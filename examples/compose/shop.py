"""Functions whose containers scale themselves; ``docker compose up`` deploys them."""

from math import isqrt

import scaleplug

app = scaleplug.App("shop")


@app.function(max_containers=10, scaledown_window=10)
def count_primes(first: int, beyond: int) -> int:
    """Return how many primes there are from ``first`` on, below ``beyond``."""
    return sum(is_prime(number) for number in range(first, beyond))


def is_prime(number: int) -> bool:
    """Divide by all that might divide it."""
    if number < 4 or number % 2 == 0:
        return number in (2, 3)
    return all(number % divisor for divisor in range(3, isqrt(number) + 1, 2))
