"""Large arguments and results: the same over the twin and over Redis, a controller and containers."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from scaleplug.errors import PayloadTooLargeError
from tests.contract import functions as f
from tests.contract import sides
from tests.contract.sides import Side, limits, settle

MB = 1_000_000


def noise(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(size)


@pytest.mark.parametrize("size", [256 * 1024 - 100, 256 * 1024, 5 * MB, 40 * MB])
def test_large_bytes_come_back_as_they_were(side: Side, size: int) -> None:
    value = noise(size)
    assert f.echo.remote(value) == value


@pytest.mark.parametrize("size", [5 * MB, 40 * MB])
def test_a_large_array_comes_back_as_it_was(side: Side, size: int) -> None:
    value = np.frombuffer(noise(size), dtype=np.float32).reshape(100, -1).copy()
    result = f.echo.remote(value)
    assert (result.dtype, result.shape, result.flags.writeable) == (value.dtype, value.shape, True)
    assert result.tobytes() == value.tobytes()


VALUES: dict[str, Any] = {
    "text": "long \u20ac " * MB,
    "a list of numbers": list(range(MB)),
    "a bytearray": bytearray(noise(3 * MB)),
    "many pieces": [noise(100_000, seed) for seed in range(50)],
    "small and large": {"a": 1, "b": noise(MB), "c": [noise(300_000), "x", noise(10)]},
}


@pytest.mark.parametrize("name", VALUES)
def test_large_values_of_other_kinds_come_back_as_they_were(side: Side, name: str) -> None:
    result = f.echo.remote(VALUES[name])
    assert result == VALUES[name]
    assert type(result) is type(VALUES[name])


def test_arrays_keep_their_order_and_may_be_read_only(side: Side) -> None:
    fortran = np.asfortranarray(np.arange(600_000.0).reshape(1000, 600))
    fixed = np.frombuffer(noise(MB), dtype=np.uint8)
    view = np.arange(2_000_000)[::2]
    result = f.echo.remote([fortran, fixed, view, {"deep": [(fortran, fixed)]}])
    assert result[0].flags.f_contiguous
    assert not result[1].flags.writeable
    for got, sent in zip(result, [fortran, fixed, view], strict=False):
        np.testing.assert_array_equal(got, sent)
    assert result[3]["deep"][0][0] is result[0]  # one object, as it was


def test_large_values_in_maps_spawns_and_async_calls(side: Side) -> None:
    values = [noise(MB, seed) for seed in range(8)]
    assert list(f.echo.map(values)) == values
    assert {bytes(v) for v in f.echo.map(values, order_outputs=False)} == set(values)
    call = f.echo.spawn(values[0])
    assert [call.get(timeout=20), call.get(timeout=20)] == [values[0], values[0]]

    async def others() -> list[Any]:
        mapped = [result async for result in f.echo.map(values[:2])]
        spawned = await f.echo.spawn.aio(values[2])
        return [*mapped, await spawned.get.aio(), await f.echo.remote.aio(values[3])]

    assert asyncio.run(others()) == values[:4]
    assert f.echo.delay(values[0]).get(timeout=20) == values[0]


def test_an_argument_above_the_limit_is_refused_before_anything_is_sent(side: Side) -> None:
    text = r"an argument of contract\.echo takes 2,000,\d+ bytes, and 1,000,000 are allowed \(SCALEPLUG_MAX_PAYLOAD\)"
    with limits(max_payload=MB):
        for call in (f.echo.remote, f.echo.spawn):
            with pytest.raises(PayloadTooLargeError, match=text):
                call(bytes(2 * MB))
        with pytest.raises(PayloadTooLargeError, match=text):
            asyncio.run(f.echo.remote.aio(bytes(2 * MB)))
        with pytest.raises(PayloadTooLargeError, match=text):
            list(f.echo.map([1, bytes(2 * MB)]))
        value = noise(MB)
        assert f.echo.remote(value) == value  # what is exactly as large as is allowed
    settle(side, f.echo)


def test_small_arguments_have_the_limit_too(side: Side) -> None:
    with limits(max_payload=10_000), pytest.raises(PayloadTooLargeError, match="echo takes"):
        f.echo.remote(bytes(20_000))


def test_a_result_above_the_limit_fails_in_the_twin() -> None:
    # For the real side see tests/integration/test_large_values.py: the limit is the container's.
    with sides.twin(), limits(max_payload=MB):
        with pytest.raises(PayloadTooLargeError, match=r"what contract\.make returned takes 5,000,\d+ bytes"):
            f.make.remote("megabytes")
        assert f.square.remote(3) == 9
