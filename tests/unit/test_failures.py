"""Exceptions on their way from a container to its caller."""

from __future__ import annotations

import pickle
import threading

import pytest

from scaleplug.errors import RemoteError
from scaleplug.serializer import Failure


def raised(exc: BaseException) -> BaseException:
    """Return what arrives of an exception."""
    return Failure.of(exc).exception()


def test_what_cannot_be_pickled_is_told_with_the_reason() -> None:
    exc = ValueError("held")
    exc.lock = threading.Lock()  # type: ignore[attr-defined]
    arrived = raised(exc)
    assert isinstance(arrived, RemoteError)
    assert str(arrived) == "ValueError: held"
    assert (
        "could not be pickled in its container (TypeError: cannot pickle '_thread.lock' object)" in arrived.__notes__[0]
    )


def test_what_cannot_be_unpickled_here_is_told_with_the_reason() -> None:
    failure = Failure(b"cno_such_module\nOops\n.", "no_such_module.Oops", "neg", "Traceback: ...")
    arrived = failure.exception()
    assert str(arrived) == "no_such_module.Oops: neg"
    (note,) = arrived.__notes__
    assert note.startswith("It could not be unpickled here (ModuleNotFoundError: No module named 'no_such_module')")
    assert note.endswith("Traceback: ...")


def test_an_exception_from_deep_down_keeps_its_class() -> None:
    def down() -> None:
        down()

    with pytest.raises(RecursionError) as caught:
        down()
    arrived = raised(caught.value)
    assert type(arrived) is RecursionError
    assert arrived.__traceback__ is not None


def test_its_own_failing_text_is_no_obstacle() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise ValueError

        def __reduce__(self) -> str | tuple[object, ...]:
            raise Silent

    arrived = raised(Silent())
    assert "(its text can't be shown)" in str(arrived)
    assert pickle.dumps(Failure.of(Silent()))
