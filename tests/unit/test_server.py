"""What is told of a Redis by its URL."""

from __future__ import annotations

import pytest

from scaleplug.server import redis_of_broker


@pytest.mark.parametrize(
    ("broker", "url"),
    [
        ("redis://h/0", "redis://h/0"),
        ("redis://h/0;redis://other/0", "redis://h/0"),
        (["rediss://h/0", "redis://other/0"], "rediss://h/0"),
        ("amqp://h", None),
        ("memory://", None),
        (None, None),
    ],
)
def test_the_redis_of_a_broker_is_the_first_that_celery_tries(broker: object, url: str | None) -> None:
    assert redis_of_broker(broker) == url
