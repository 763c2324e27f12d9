"""What a call's arguments are pickled to: the same in a short way and in the long one."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from enum import IntEnum
from typing import Any, NamedTuple

import cloudpickle
import pytest

from scaleplug.serializer import EMBED, pickle_call, pickle_plain


class Level(IntEnum):
    """A number with a name."""

    LOW = 1


class Text(str):
    """A text of a class of its own."""

    __slots__ = ()


SCALARS = [(), (1, 2.5, True, None, "a", b"b"), ("same",) * 3, ("callbacks", "\ud800\0\r\n%'\""), (-0.0, 10**4_000)]
OTHERS = [([1],), (Level.LOW,), (Text("a"),), ("x" * 70_000, b"y" * 70_000)]


@pytest.mark.parametrize("args", SCALARS + OTHERS, ids=range(len(SCALARS + OTHERS)))
@pytest.mark.parametrize("kwargs", [{}, {"a": 1}])
def test_the_short_way_makes_the_bytes_of_the_long_one(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    made = pickle_call("shop.f", args, kwargs, EMBED)
    assert made == pickle_plain((args, kwargs, EMBED)) == cloudpickle.dumps((args, kwargs, EMBED))


def test_arguments_in_a_class_that_only_cloudpickle_knows() -> None:
    class Pair(NamedTuple):
        x: int
        y: int

    assert cloudpickle.loads(pickle_call("shop.f", Pair(1, 2), {}, EMBED))[0] == (1, 2)
    for kwargs in (defaultdict(lambda: 0), OrderedDict[str, Any](), None):
        assert cloudpickle.loads(pickle_call("shop.f", (1,), kwargs, EMBED))[1] == kwargs  # type: ignore[arg-type]
    assert cloudpickle.loads(pickle_call("shop.f", [1], {}, EMBED))[0] == [1]
