"""Names as people write and read them."""

from __future__ import annotations

import pytest

from scaleplug.cli.names import COLOURS, Palette, counted, find_function, short_names
from scaleplug.errors import NotFoundError, did_you_mean, listed

FUNCTIONS = ["shop.train", "shop.evaluate", "blog.train", "shop.Model.predict"]


def test_near_misses_are_told():
    assert did_you_mean("trian", ["train", "evaluate"]) == ": did you mean train?"
    assert did_you_mean("zzz", ["train", "evaluate"]) == ": there is train and evaluate"
    assert did_you_mean("zzz", [str(n) for n in range(20)]) == ""
    assert did_you_mean("zzz", []) == ""


def test_lists_are_told_as_people_do():
    assert listed([]) == "nothing"
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"], "or") == "a, b or c"
    assert listed([str(n) for n in range(9)]) == "0, 1, 2, 3, 4, 5 and 3 more"
    assert (counted(1, "input"), counted(1000, "input")) == ("1 input", "1,000 inputs")


def test_short_names_are_without_the_app_where_that_is_clear():
    assert short_names(FUNCTIONS) == {
        "shop.train": "shop.train",
        "blog.train": "blog.train",
        "shop.evaluate": "evaluate",
        "shop.Model.predict": "Model.predict",
    }


def test_pools_have_the_names_that_people_read():
    pool, other = "shop.Model~1f3a", "shop.Model~9b2c"
    shown = {pool: "shop.Model(size='large')", other: "shop.Model(rate=0.5)"}
    assert short_names([*FUNCTIONS, pool, other], shown)[pool] == "Model(size='large')"
    assert short_names([pool, other], shown)[other] == "Model(rate=0.5)"
    assert short_names([pool]) == {pool: "Model~1f3a"}
    assert find_function("Model(rate=0.5)", shown.values()) == "shop.Model(rate=0.5)"


@pytest.mark.parametrize("wanted", ["shop.evaluate", "evaluate"])
def test_a_function_is_found_by_its_short_name(wanted: str):
    assert find_function(wanted, FUNCTIONS) == "shop.evaluate"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("train", "'train' could be blog.train or shop.train: write the app's name too"),
        ("evalate", "there is no function 'evalate': did you mean evaluate?"),
        ("shop.trian", r"there is no function 'shop.trian': did you mean shop.train\b"),
    ],
)
def test_a_function_that_is_not_clear_is_refused_with_the_way_out(wanted: str, message: str):
    with pytest.raises(NotFoundError, match=message):
        find_function(wanted, FUNCTIONS)


def test_without_any_function_it_is_said_that_there_is_none():
    with pytest.raises(NotFoundError, match="none is registered"):
        find_function("f", [])


def test_colours_are_stable_and_differ_while_there_are_enough():
    names = [f"function{n}" for n in range(len(COLOURS))]
    first, again = Palette(), Palette()
    assert [first[name] for name in names] == [again[name] for name in names]
    assert len({first[name] for name in names}) == len(COLOURS)
    assert Palette()["square"] == Palette()["square"]
    assert first["one more"] in COLOURS
