"""Packs: what goes into one, and how many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleplug.errors import SerializationError
from scaleplug.packing import LEAST, MOST, PER_CONTAINER, SECONDS, SHORT, Pace, join, size_for, take_apart
from scaleplug.store import Admission


@given(st.lists(st.tuples(st.binary(max_size=50), st.integers(0, 2**32 - 1)), max_size=40))
def test_what_is_joined_comes_apart(items: list[tuple[bytes, int]]) -> None:
    parts, numbers = [part for part, _ in items], [number for _, number in items]
    assert take_apart(join(parts)) == (parts, ())
    assert take_apart(join(parts, numbers), numbered=True) == (parts, tuple(numbers))


@pytest.mark.parametrize("payload", [b"", b"\1", join([b"abc"])[:-1], join([b"abc"]) + b"x", b"\1\xff\xff\xff\xff"])
def test_a_torn_pack_is_told(payload: bytes) -> None:
    with pytest.raises(SerializationError, match="no whole pack"):
        take_apart(payload)


@given(st.floats(1e-7, 10.0), st.integers(1, 100), st.one_of(st.none(), st.integers(1, 10**6)), st.integers(1, 5_000))
def test_a_pack_is_short_and_leaves_some_for_every_container(
    service: float, containers: int, left: int | None, window: int
) -> None:
    size = size_for(service, containers, left, window)
    assert 1 <= size <= MOST
    if size > 1:
        assert size >= LEAST
        assert service < SHORT
        assert size * service <= SECONDS * 1.000001
        assert size * PER_CONTAINER * containers <= (window if left is None else min(window, left))


def test_nothing_is_packed_before_the_service_time_is_known() -> None:
    assert size_for(None, 1, None, 1_000) == 1


def test_the_pace_is_that_of_the_last_inputs() -> None:
    pace = Pace()
    pace.note(Admission(1, 0, 0, timed=4, microseconds=4, containers=0))
    assert (pace.service, pace.containers) == (None, 1)
    pace.note(Admission(1, 0, 0, timed=100, microseconds=100_000_000, containers=3))
    assert (pace.service, pace.containers) == (1.0, 3)
    for timed in range(200, 2_200, 100):
        pace.note(Admission(1, 0, 0, timed=timed, microseconds=100_000_000 + timed, containers=3))
    assert pace.service is not None
    assert pace.service < 0.001
    pace.note(Admission(1, 0, 0))
    assert pace.service is None
