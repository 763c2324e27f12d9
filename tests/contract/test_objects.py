"""What a caller sees of classes, variants and names: the same over the twin and over containers."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import chain, chord, group

import scaleplug
from scaleplug import Cls, Function
from scaleplug.errors import ContainerStartError, ExecutionError, InvalidError, NotFoundError
from tests.contract import objects as o
from tests.contract.sides import Side
from tests.helpers import wait_until

SOON = 15.0


# -- methods -------------------------------------------------------------------------------------------------------


def test_methods_are_called_like_functions(side: Side) -> None:
    greeter = o.Greeter()
    assert greeter.greet.remote("you") == "hello you!"
    assert greeter.greet.remote("you", end="?") == "hello you!?"
    assert list(greeter.greet.map(["a", "b"])) == ["hello a!", "hello b!"]
    assert list(greeter.greet.starmap([("a", "1")])) == ["hello a!1"]
    assert greeter.greet.spawn("you").get(timeout=SOON) == "hello you!"
    assert asyncio.run(greeter.greet.remote.aio("you")) == "hello you!"
    assert greeter.greet_later.remote("you") == "hello you!"
    with pytest.raises(TypeError, match="argument"):
        greeter.greet.remote()


def test_local_runs_on_an_object_of_this_process(side: Side) -> None:
    greeter = o.Greeter(greeting="hi")
    assert greeter.greet.local("you") == "hi you!"
    assert greeter.greet("you") == "hi you!"
    assert greeter.prepared == "hi"
    assert greeter.helper() == "helped by hi"


def test_a_method_calls_others_of_its_object(side: Side) -> None:
    assert o.Greeter(greeting="hi").greet_all.remote(["a", "b", "c"]) == ["hi a!", "hi b!", "hi c!"]


def test_the_object_is_made_once_in_each_container(side: Side) -> None:
    above = o.Above(folder=f"/nowhere-{uuid4().hex}")
    assert [above.count.remote() for _ in range(3)] == [1, 2, 3]


def test_hooks_run_in_order_those_of_base_classes_first(side: Side) -> None:
    above = o.Above()
    assert above.inherited.remote() == ["first", "second", "third"]
    assert above.overridden.remote() == "above"


def test_what_an_object_holds_need_not_be_pickled(side: Side) -> None:
    assert o.Locked().get.remote() is True


# -- parameters ----------------------------------------------------------------------------------------------------


def test_parameters_reach_the_object(side: Side) -> None:
    loud = o.Greeter(greeting="hey", times=2, loud=True, mark=b"?!")
    assert loud.greet.remote("you") == "HEY HEY YOU?!"
    assert loud.others.remote() == ("hey", 2, True, b"?!", 7, "helped by hey")
    assert o.Greeter().others.remote() == ("hello", 1, False, b"!", 7, "helped by hello")
    assert o.Needy(size=3).get.remote() == 3


def test_parameters_are_checked_at_once(side: Side) -> None:
    with pytest.raises(InvalidError, match=r"objects\.Greeter has no parameter 'greetin': did you mean greeting"):
        o.Greeter(greetin="x")
    with pytest.raises(InvalidError, match=r"objects\.Needy needs its parameter 'size': Needy\(size=\.\.\.\)"):
        o.Needy()
    for wrong in ("3", 3.0, True):
        with pytest.raises(TypeError, match=r"'size' of objects\.Needy must be int, not"):
            o.Needy(size=wrong)
    with pytest.raises(InvalidError, match=r"takes its parameters by name \(size\), not \(3,\)"):
        o.Needy(3)
    with pytest.raises(InvalidError, match="16,384 bytes"):
        _ = o.Greeter(greeting="x" * 20_000).greet.full_name
    with pytest.raises(AttributeError, match=r"objects\.Greeter\.greet needs an object: Greeter\(\)\.greet\.remote"):
        _ = o.Greeter.greet


def test_each_set_of_parameters_has_a_pool_and_the_defaults_are_the_classes_own(side: Side) -> None:
    default, named, other = o.Greeter(), o.Greeter(greeting="hello", times=1), o.Greeter(times=2)
    assert default.greet.full_name == "objects.Greeter"
    assert named.greet.full_name == o.Greeter(times=1, greeting="hello").greet.full_name != default.greet.full_name
    assert other.greet.full_name == o.Greeter(times=2).greet.full_name != "objects.Greeter"
    assert other.greet.full_name.startswith("objects.Greeter~")
    assert default.greet.full_name == default.others.full_name


# -- settings ------------------------------------------------------------------------------------------------------


def test_the_autoscaler_of_one_object_is_its_own(side: Side) -> None:
    one, other = o.Greeter(greeting=f"one-{uuid4().hex[:6]}"), o.Greeter(greeting=f"two-{uuid4().hex[:6]}")
    settings = one.update_autoscaler(max_containers=5, buffer_containers=1)
    assert (settings.min_containers, settings.max_containers, settings.buffer_containers) == (0, 5, 1)
    assert one.autoscaler.settings() == settings
    assert other.autoscaler.settings().max_containers == 2
    assert asyncio.run(one.update_autoscaler.aio(max_containers=3)).max_containers == 3
    assert one.autoscaler.update(max_containers=None, buffer_containers=None).max_containers is None
    with pytest.raises(InvalidError, match=r"Greeter\.greet is a method: the autoscaler is that of the object"):
        one.greet.update_autoscaler(max_containers=3)
    with pytest.raises(InvalidError, match="is a method"):
        one.greet.autoscaler.update(max_containers=3)
    with pytest.raises(InvalidError, match=r"min_containers \(9\) must not be more than max_containers \(4\)"):
        one.update_autoscaler(min_containers=9, max_containers=4)
    one.autoscaler.update(buffer_containers=0)


def test_a_functions_autoscaler_merges_what_is_given(side: Side) -> None:
    varied = o.shout.with_options(scaledown_window=30 + uuid4().int % 1000)
    assert varied.update_autoscaler(max_containers=7).max_containers == 7
    assert varied.update_autoscaler(buffer_containers=1).max_containers == 7
    assert varied.autoscaler.settings().buffer_containers == 1
    assert o.shout.autoscaler.settings().max_containers == 2
    assert varied.remote("a") == "A"
    varied.autoscaler.update(buffer_containers=0)
    with pytest.raises(InvalidError, match="min_containers"):
        varied.update_autoscaler(min_containers=-1)


def test_variants_of_classes_have_pools_of_their_own(side: Side) -> None:
    fast = o.Greeter.with_options(max_containers=3, timeout=20)
    assert fast().greet.remote("you") == "hello you!"
    assert fast(times=2).greet.remote("you") == "hello hello you!"
    names = {c().greet.full_name for c in (o.Greeter, fast, fast.with_options(timeout=30))}
    assert len(names) == 3
    with pytest.raises(InvalidError, match="on the class"):
        o.Greeter().greet.with_options(timeout=3)


# -- as arguments, in canvases -------------------------------------------------------------------------------------


def test_classes_objects_and_methods_can_be_arguments(side: Side) -> None:
    hi = o.Greeter(greeting="hi")
    assert o.call_method.remote(hi.greet, "you") == "hi you!"
    assert o.greet_with.remote(hi, "you") == "hi you!"
    assert o.greet_with.remote(o.Greeter, "you") == "salut you!"
    assert o.greet_with.remote(o.Greeter.with_options(timeout=50), "you") == "salut you!"
    for thing in (o.Greeter, hi, hi.greet, o.Greeter.with_options(timeout=50)(greeting="hi")):
        again = pickle.loads(pickle.dumps(thing))
        assert repr(again) == repr(thing)


def test_celerys_own_calls_of_methods_and_variants(side: Side) -> None:
    plain, hi, loud = o.Greeter(), o.Greeter(greeting=f"hi{uuid4().hex[:4]}"), o.Greeter(loud=True, greeting="ho")
    assert plain.greet.delay("you").get(timeout=SOON) == "hello you!"
    assert hi.greet.delay("you").get(timeout=SOON) == f"{hi.greeting} you!"
    assert hi.greet.apply_async(("you",), countdown=0.1).get(timeout=SOON) == f"{hi.greeting} you!"
    varied = o.shout.with_options(scaledown_window=30 + uuid4().int % 1000)
    assert varied.delay("a").get(timeout=SOON) == "A"
    links = chain(plain.greet.s("a"), loud.greet.s(), varied.s(), hi.greet.s("."))
    assert links.apply_async().get(timeout=SOON) == f"{hi.greeting} HO HELLO A!!!."
    both = group(hi.greet.s("a"), loud.greet.s("b"), varied.s("c"))
    assert both.apply_async().get(timeout=SOON) == [f"{hi.greeting} a!", "HO B!", "C"]
    total = chord([loud.greet.s("a"), varied.s("b")], o.Greeter(greeting=f"sum{uuid4().hex[:4]}").others.si())
    assert total.apply_async().get(timeout=SOON)[0].startswith("sum")


# -- start and end -------------------------------------------------------------------------------------------------


def test_an_enter_that_fails_is_told(side: Side) -> None:
    with pytest.raises(ContainerStartError, match=r"(?s)no container of objects\.Broken could be started.*no weights"):
        o.Broken().get.remote()
    with pytest.raises(ContainerStartError, match=r"(?s)objects\.Broken\(why='no luck'\) could be started.*no luck"):
        o.Broken(why="no luck").get.remote()


def test_a_serialized_class_travels(side: Side) -> None:
    offset = 10
    cls = make_class(offset)
    assert cls(step=2).add.remote(1) == 13
    assert cls().add.remote(1) == 12
    assert list(cls().add.map([1, 2])) == [12, 13]
    again = make_class(100)
    assert again().add.remote(1) == 102


def make_class(offset: int) -> Cls[Any]:
    @o.app.cls(serialized=True, max_containers=1)
    class Adder:
        step: int = scaleplug.parameter(default=1)

        @scaleplug.enter()
        def prepare(self) -> None:
            self.offset = offset

        @scaleplug.method()
        def add(self, x: int) -> int:
            return self.offset + self.step + x

    return Adder


# -- by name -------------------------------------------------------------------------------------------------------


def test_functions_and_classes_are_found_by_name(side: Side) -> None:
    o.shout.remote("known")
    o.Greeter().greet.remote("known")
    shout = Function.from_name("objects", "shout")
    assert shout.remote("a") == "A"
    assert list(shout.map("abc")) == ["A", "B", "C"]
    assert shout.spawn("b").get(timeout=SOON) == "B"
    assert asyncio.run(shout.remote.aio("c")) == "C"
    assert shout.with_options(timeout=40).remote("d") == "D"
    assert shout.autoscaler.settings().max_containers == 2
    greeter = Cls.from_name("objects", "Greeter")
    assert greeter().greet.remote("you") == "hello you!"
    assert greeter(greeting="hi").greet.remote("you") == "hi you!"
    assert list(greeter(greeting="hi").greet.map(["a"])) == ["hi a!"]
    assert greeter.with_options(timeout=45)(greeting="hi").greet.remote("you") == "hi you!"
    assert greeter(greeting="hi").autoscaler.settings().max_containers == 2
    assert o.call_method.remote(greeter().greet, "you") == "hello you!"
    assert o.call_method.remote(shout, "x") == "X"


def test_wrong_names_are_told_with_near_misses(side: Side) -> None:
    o.shout.remote("known")
    o.Greeter().greet.remote("known")
    with pytest.raises(NotFoundError, match=r"the app 'objects' has no function or class 'shoot': did you mean shout"):
        Function.from_name("objects", "shoot").remote("a")
    with pytest.raises(NotFoundError, match=r"nobody has registered an app 'object' here: did you mean .*objects"):
        Function.from_name("object", "shout").remote("a")
    with pytest.raises(NotFoundError, match=r"no function or class 'Greater': did you mean Greeter"):
        Cls.from_name("objects", "Greater")().greet.remote("a")
    with pytest.raises(AttributeError, match=r"objects\.Greeter has no method 'great': did you mean greet"):
        Cls.from_name("objects", "Greeter")().great.remote("a")
    with pytest.raises(InvalidError, match=r"objects\.Greeter has no parameter 'greetin': did you mean greeting"):
        Cls.from_name("objects", "Greeter")(greetin="x").greet.remote("a")
    with pytest.raises(TypeError, match=r"'times' of objects\.Greeter must be int, not str"):
        Cls.from_name("objects", "Greeter")(times="x").greet.remote("a")
    with pytest.raises(ExecutionError, match=r"objects\.shout is a function: use Function\.from_name"):
        Cls.from_name("objects", "shout")().greet.remote("a")
    with pytest.raises(ExecutionError, match=r"objects\.Greeter is a class: use Cls\.from_name"):
        Function.from_name("objects", "Greeter").remote("a")
    with pytest.raises(InvalidError, match=r"'Greeter\.greet' is a method: use Cls\.from_name\('objects', 'Greeter'\)"):
        Function.from_name("objects", "Greeter.greet")
    with pytest.raises(ExecutionError, match=r"use \.remote"):
        Function.from_name("objects", "shout").local("a")


# -- the end of a container ----------------------------------------------------------------------------------------


def test_exit_runs_when_a_container_leaves(side: Side, tmp_path: Path) -> None:
    above = o.Above(folder=str(tmp_path))
    assert above.inherited.remote() == ["first", "second", "third"]
    if side.name == "twin":
        side.run.end()
    (left,) = wait_until(lambda: list(tmp_path.glob("left-*")), timeout=15)
    wait_until(lambda: left.read_text() == "leave_below leave_above ")
