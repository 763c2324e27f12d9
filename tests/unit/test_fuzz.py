# strategies read better on a line
"""What reads bytes that anybody may have written, fed with anything: the errors it documents, and nothing unpickled.

The short form is part of the tests; ``make fuzz`` goes on for ten minutes, with other examples each time.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import click
import cloudpickle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scaleplug.blobs import Reference
from scaleplug.deployment import Deployment
from scaleplug.entrypoint import literal_options
from scaleplug.errors import Error, InvalidError, NotFoundError, SerializationError
from scaleplug.inbox import _event
from scaleplug.registry import Registration, open_override, registrations
from scaleplug.schedules import Cron
from scaleplug.serializer import (
    CODE,
    CONTENT_TYPE,
    INPUT,
    OUTPUT,
    REGISTRY,
    VALUE,
    Keyring,
    _loads,
    input_context,
    is_apart,
    open_outcome,
    use_keyring,
)
from scaleplug.server import client_url, connect, mask_url
from scaleplug.settings import Config
from scaleplug.store.control import _tables
from scaleplug.worker.reading import RefusedError, read_message, reply_of, version_of

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
"""How long all go on together; 0 for the short form."""
RING = Keyring("a secret of the tests that is long enough")
TASK = "shop.f"
PURPOSES = (INPUT, OUTPUT, REGISTRY, CODE, VALUE)
TARGETS: list[Callable[[], None]] = []

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800") | st.just(10**400)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
sealed = st.builds(
    RING.seal,
    st.sampled_from(PURPOSES), st.text(max_size=40), st.binary(max_size=80),
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Return bytes that begin like something sealed, more or less."""
    data = bytearray(genuine := draw(sealed))
    for _ in range(draw(st.integers(1, 4))):
        how, at = draw(st.sampled_from(["flip", "cut", "put"])), draw(st.integers(0, max(len(data) - 1, 0)))
        if how == "flip" and data:
            data[at] ^= draw(st.integers(1, 255))
        elif how == "cut":
            del data[at:]
        else:
            data[at:at] = draw(st.binary(max_size=8))
    return bytes(data) if data != genuine else bytes(data) + b"x"


odd_bytes = st.binary(max_size=200) | damaged() | st.just(pickle.dumps({"a": 1})) | st.just(b"")


@pytest.fixture
def nothing_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whatever this thread unpickles fail the test; others may end what earlier tests began."""
    me, genuine = threading.get_ident(), pickle.loads

    def loads(*args: Any, **options: Any) -> Any:
        if threading.get_ident() != me:
            return genuine(*args, **options)
        pytest.fail("unsigned bytes were unpickled", pytrace=True)

    for module in (pickle, cloudpickle):
        monkeypatch.setattr(module, "loads", loads)
    use_keyring(RING)


def fuzz(**given_as: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a body for many examples; in the long form for its share of the time."""

    def decorate(body: Callable[..., None]) -> Callable[..., None]:
        checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
        options: dict[str, Any] = {"max_examples": 2_000, "derandomize": False} if SECONDS else {"max_examples": 100}
        run = settings(deadline=None, suppress_health_check=checks, **options)(given(**given_as)(body))
        TARGETS.append(run)

        def test(nothing_unpickled: None) -> None:
            until = time.monotonic() + SECONDS / len(TARGETS)
            run()
            while time.monotonic() < until:
                run()

        test.__doc__ = body.__doc__
        return test

    return decorate


# -- what is sealed ------------------------------------------------------------------------------------------------


@fuzz(purpose=st.sampled_from(PURPOSES), context=st.none() | st.text(), data=odd_bytes)
def test_unseal(purpose: bytes, context: str | None, data: bytes) -> None:
    with contextlib.suppress(SerializationError):
        RING.unseal(purpose, context, data)
    is_apart(data)


@fuzz(purpose=st.sampled_from(PURPOSES), other=st.sampled_from(PURPOSES), context=st.text(), payload=st.binary())
def test_only_the_same_purpose_and_context_unseal(purpose: bytes, other: bytes, context: str, payload: bytes) -> None:
    data = RING.seal(purpose, context, payload)
    assert RING.unseal(purpose, context, data) == payload
    for wrong in ((other, context) if other != purpose else None, (purpose, context + "x")):
        if wrong is not None:
            with pytest.raises(SerializationError):
                RING.unseal(*wrong, data)


@fuzz(data=odd_bytes, context=st.text())
def test_an_outcome(data: bytes, context: str) -> None:
    ok, value = open_outcome(RING, context, data)
    assert not ok
    assert isinstance(value, Error)


@fuzz(data=odd_bytes | st.text().filter(lambda text: "\ud800" not in text))
def test_the_serializer_of_celery_s_own_calls(data: bytes | str) -> None:
    with pytest.raises((SerializationError, UnicodeEncodeError)):
        _loads(data)


@fuzz(rows=st.dictionaries(st.text(), odd_bytes))
def test_registrations(rows: dict[str, bytes]) -> None:
    assert registrations(rows, RING) == {}
    for name, data in rows.items():
        for read in (Registration.unseal, open_override, Deployment.unseal):
            with pytest.raises(SerializationError):
                read(RING, name, data)


@fuzz(values=anything)
def test_a_registration_of_a_version_to_come(values: Any) -> None:
    data = RING.seal(REGISTRY, TASK, json.dumps(values, ensure_ascii=True).encode())
    with contextlib.suppress(SerializationError):
        Registration.unseal(RING, TASK, data)


@fuzz(key=st.text(), sizes=st.lists(st.integers(0, 10)), digests=st.lists(st.text()))
def test_a_reference_comes_back(key: str, sizes: list[int], digests: list[str]) -> None:
    reference = Reference(key, sizes, digests)
    assert Reference.unpack(reference.pack(b"=")) == reference


# -- messages ------------------------------------------------------------------------------------------------------


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Return a message as it should be, but for some of its parts."""
    body = base64.b64encode(RING.seal(INPUT, input_context(TASK, "fc-1", TASK), b"x")).decode()
    message: dict[str, Any] = {
        "body": body, "content-type": CONTENT_TYPE, "content-encoding": "binary",
        "headers": {"task": TASK, "id": "fc-1", "scaleplug": {"call": "fc-1", "index": 0, "caller": "c", "keep": 0}},
        "properties": {"body_encoding": "base64", "delivery_info": {}, "delivery_tag": "t"},
    }  # fmt: skip
    places = [message, message["headers"], message["properties"], message["headers"]["scaleplug"]]
    names = [
        "body", "content-type", "content-encoding", "headers", "properties", "task", "id", "scaleplug", "call", "index",
        "caller", "keep", "version", "body_encoding", "delivery_info", "delivery_tag", "eta", "expires", "retries",
        "timelimit", "large",
    ]  # fmt: skip
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.sampled_from(places))
        name = draw(st.sampled_from([n for n in names if n in where] or names)) if draw(st.booleans()) else "x"
        where[draw(st.sampled_from(names)) if name == "x" else name] = draw(anything)
    return json.dumps(message).encode()


@fuzz(raw=st.binary(max_size=100) | messages() | anything.map(lambda value: json.dumps(value).encode()))
def test_a_message(raw: bytes) -> None:
    with contextlib.suppress(RefusedError):
        message = read_message(raw, TASK, [TASK], RING)
        # Whatever else is in it, it is the input that was signed, and its outcome goes where that says.
        assert message["headers"]["id"] == "fc-1"
        assert message["headers"]["task"] == TASK
        assert reply_of(message).get("call", "fc-1") == "fc-1"
        assert reply_of(message).get("index", 0) == 0
        assert 0 <= reply_of(message).get("keep", 0) <= 366 * 86_400
        message.pop("payload", None)  # what was signed, for this process only
        json.dumps(message, ensure_ascii=False).encode()


@fuzz(value=anything)
def test_what_a_message_says_of_its_caller(value: Any) -> None:
    for each in (
        value,
        {"headers": value},
        {"headers": {"scaleplug": value}},
        {"headers": {"scaleplug": {"call": value}}},
    ):
        reply = reply_of(each)
        assert reply == {} or (isinstance(reply["call"], str) and isinstance(reply["index"], int))
        assert isinstance(version_of(each), str)


@fuzz(body=anything.map(json.dumps) | st.text())
def test_an_unsigned_message(body: str) -> None:
    message = {
        "body": body, "content-type": "application/json", "content-encoding": "utf-8", "properties": {},
        "headers": {"task": TASK, "id": "1"},
    }  # fmt: skip
    with contextlib.suppress(RefusedError):
        found = read_message(json.dumps(message).encode(), TASK, [TASK], RING)
        args, kwargs, embed = json.loads(found["body"])
        assert isinstance(args, list)
        assert isinstance(kwargs, dict)
        assert not any((embed or {}).values())


@fuzz(entry=st.dictionaries(st.sampled_from([b"c", b"i", b"p", b"e", b"n", b"a"]), st.binary(max_size=20)))
def test_an_entry_of_an_inbox(entry: dict[bytes, bytes]) -> None:
    with contextlib.suppress(ValueError, KeyError):  # what the inbox leaves out
        _event(entry)


@fuzz(lines=st.lists(st.binary() | anything.map(lambda value: json.dumps(value).encode())))
def test_lines_for_people(lines: list[bytes]) -> None:
    assert all(isinstance(table, dict) for table in _tables(lines))


# -- the command line and the environment --------------------------------------------------------------------------


def tried(x, y: int = 1, *, flag: bool = False, when: float | None = None) -> None:  # type: ignore[no-untyped-def]
    ...


@fuzz(
    words=st.lists(
        st.text(max_size=12) | st.sampled_from(["--x", "--y", "--flag", "--no-flag", "--when", "--", "-", "--x="]),
        max_size=6,
    )
)
def test_arguments_of_a_function(words: list[str]) -> None:
    command = click.Command("tried", params=list(literal_options(tried, "tried")), callback=lambda **_: None)
    with contextlib.suppress(click.ClickException, click.exceptions.Exit):
        command.main(args=words, standalone_mode=False)


@fuzz(
    text=st.text(alphabet="([{'\"1ab,:}])#\\\n-+.e", max_size=40) | st.just("(" * 2_000) | st.just("-" * 20_000 + "1")
)
def test_a_value_of_unknown_type(text: str) -> None:
    (option,) = [o for o in literal_options(tried, "tried") if o.name == "x"]
    option.type.convert(text, option, None)


@fuzz(url=st.text() | st.from_regex(r"\A(redis|rediss|unix|redis\+socket|http)://[a-z:@/?=&%0-9\[\]]{0,30}\Z"))
def test_a_url(url: str) -> None:
    mask_url(url)
    for use in (client_url, connect):
        with contextlib.suppress(Error):
            use(url)


@fuzz(
    password=st.text(alphabet="abcXYZ019/?@:&=%#", min_size=12, max_size=30),
    place=st.sampled_from(["h:6379/0", "h", "/tmp/s"]),
)
def test_a_password_is_masked(password: str, place: str) -> None:
    for url in (f"redis://:{password}@{place}", f"redis://user:{password}@{place}", f"unix://:{password}@{place}"):
        assert password not in mask_url(url)
        said = []
        try:
            connect(url)
        except Error as error:
            said.append(str(error))
        assert password not in "".join(said)


@fuzz(values=st.dictionaries(st.sampled_from([k.variable for k in Config.knobs().values()]), st.text()))
def test_the_environment(values: dict[str, str]) -> None:
    with contextlib.suppress(InvalidError):
        Config.from_environ(values)


@fuzz(
    text=st.text(alphabet="0123456789*/,-L# JANMONSUN", max_size=30),
    zone=st.sampled_from(["UTC", "Europe/Paris"]) | st.text(),
)
def test_a_cron_string(text: str, zone: str) -> None:
    with contextlib.suppress(InvalidError, NotFoundError):
        Cron(text, zone)
