"""What a container is made of: checked where it is written, and kept as it was meant."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from scaleplug import App
from scaleplug.errors import InvalidError
from scaleplug.resources import Ignored, Resources
from scaleplug.settings import FunctionSettings

ALL: dict[str, Any] = {
    "image": "shop:12", "cpu": 2, "gpu": 1, "env": {"B": "2", "A": "1"}, "secrets": ["DB", "KEY=key.txt"],
    "volumes": {"/data": "shop-data", "/code": "/srv/code:ro"}, "network": "host",
}  # fmt: skip


def test_they_are_uniform_and_outlive_json() -> None:
    made = Resources(**ALL)
    assert (made.cpu, made.gpu, made.env) == (2.0, "1", (("A", "1"), ("B", "2")))
    settings = FunctionSettings(resources=made, memory=64)
    assert FunctionSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert FunctionSettings.from_dict(json.loads(json.dumps(FunctionSettings().to_dict()))) == FunctionSettings()
    assert hash(settings) == hash(FunctionSettings(resources=Resources(**ALL), memory=64))
    assert FunctionSettings.from_dict({"resources": {"image": "a", "of_later": 1}}).resources == Resources(image="a")


@pytest.mark.parametrize("decorator", ["function", "cls"])
def test_decorators_take_them(decorator: str) -> None:
    app = App("resources")

    def raw() -> None: ...

    if decorator == "function":
        assert app.function(serialized=True, **ALL)(raw).settings.resources == Resources(**ALL)
        assert not app.function(serialized=True, name="plain")(raw).settings.resources
    else:
        from scaleplug import method

        class Shop:
            @method()
            def sell(self) -> None: ...

        assert app.cls(serialized=True, **ALL)(Shop).settings.resources == Resources(**ALL)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("image", "", "image must be the name of a container image"),
        ("image", 3, "not 3"),
        ("image", "shop 12", "not 'shop 12'"),
        ("image", "Shop:12", "not 'Shop:12'"),
        ("image", "shop:12:13", "not 'shop:12:13'"),
        ("image", "-shop", "not '-shop'"),
        ("network", "none", "network must be one on which containers reach Redis, not 'none'"),
        ("network", "a b", "not 'a b'"),
        ("env", {"A": "\ud800"}, "env sets A to '\\ud800': use text that is valid UTF-8"),
        ("secrets", ["KEY=.."], "secrets names 'KEY=..'"),
        ("secrets", ["KEY", "KEY=key.txt"], "env and secrets set the variable KEY twice"),
        ("volumes", {"//": "data"}, "volumes mounts at '/': use an absolute path"),
        ("volumes", {"/data": "x"}, "volumes mounts 'x' at /data"),
        ("volumes", {"/data": "shop", "/data/": "store"}, "volumes mounts at '/data' twice"),
        ("network", " host", "network must be the name of a network"),
        ("cpu", 0, "cpu must be a number of cores from 0.01 on"),
        ("cpu", True, "not True"),
        ("cpu", float("inf"), "not inf"),
        ("gpu", 0, "gpu must be a number of devices from 1 on, 'all' or 'device=ID,ID', not 0"),
        ("gpu", "some", "not 'some'"),
        ("env", {"A-B": "1"}, "env names a variable 'A-B'"),
        ("env", {"SCALEPLUG_SECRET": "x"}, "env sets SCALEPLUG_SECRET"),
        ("env", {"A": 1}, "env must be a dict of strings"),
        ("env", "A=1", "env must be a dict of strings"),
        ("secrets", "DB", "secrets must be a list of names"),
        ("secrets", ["../etc/passwd"], "secrets names '../etc/passwd'"),
        ("secrets", ["SCALEPLUG_SECRET"], "secrets names 'SCALEPLUG_SECRET'"),
        ("volumes", {"data": "x"}, "volumes mounts at 'data': use an absolute path"),
        ("volumes", {"/a/../b": "x"}, "use an absolute path"),
        ("volumes", {"/data": "a:b"}, "volumes mounts 'a:b' at /data"),
        ("volumes", {"/data": "../x"}, "use a volume's name or an absolute folder"),
    ],
)
def test_what_is_wrong_is_told(option: str, value: Any, told: str) -> None:
    with pytest.raises(InvalidError) as caught:
        App("resources").function(serialized=True, **{option: value})
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "image",
    [
        "shop",
        "shop:12",
        "team/shop:v1.2_x",
        "localhost:5000/a/b__c:1",
        "ghcr.io/a-b/c.d@sha256:" + "0" * 64,
        "sha256:" + "ab" * 32,
    ],
)
def test_names_of_images(image: str) -> None:
    assert Resources(image=image).image == image


def test_a_variable_has_one_value() -> None:
    with pytest.raises(InvalidError, match="env and secrets set the variable KEY twice: name each only once"):
        Resources(env={"KEY": "1"}, secrets=["KEY"])


def test_what_has_no_effect_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    ignored = Ignored("here")
    with caplog.at_level(logging.WARNING, "scaleplug"):
        ignored.tell("a.plain", Resources())
        ignored.tell("a.f", Resources(image="x", cpu=1))
        ignored.tell("a.g", Resources(image="x", network="host"))
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "image= and cpu= of a.f, and wherever else, has no effect here",
        "network= of a.g, and wherever else, has no effect here",
    ]
