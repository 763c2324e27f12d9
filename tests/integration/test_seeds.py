"""The calling part of the interface, in the shapes in which people write it, each in its own file, run for real."""

from __future__ import annotations

import textwrap
from pathlib import Path

from tests.commands import scaleplug, told

HEAD = "import scaleplug\n\napp = scaleplug.App()\n\n"


def run(tmp_path: Path, name: str, text: str, *arguments: str, warn: str = "ignore") -> list[str]:
    """Write a snippet into a file, run it, and return what it printed."""
    (tmp_path / name).write_text(HEAD + textwrap.dedent(text))
    done = scaleplug("run", name, *arguments, cwd=tmp_path, PYTHONWARNINGS=warn)
    assert done.returncode == 0, told(done)
    return [*done.stdout.splitlines(), *(line for line in done.stderr.splitlines() if "Warning" in line)]


def test_map_over_a_hundred_inputs_in_an_app_without_a_name(tmp_path: Path):
    printed = run(
        tmp_path,
        "hundred.py",
        """
        @app.function()
        def evaluate_model(x):
            return x ** 2

        @app.local_entrypoint()
        def main():
            inputs = list(range(100))
            # many at a time, in containers
            for result in evaluate_model.map(inputs):
                print(result)
            print(app.name)
        """,
    )
    assert printed == [*(str(x**2) for x in range(100)), "hundred"]


def test_starmap_and_exceptions_as_results(tmp_path: Path):
    printed = run(
        tmp_path,
        "pairs.py",
        """
        @app.function()
        def add(a, b):
            return a + b

        @app.function()
        def may_fail(a):
            if a == 2:
                raise Exception("error")
            return a ** 2

        @app.local_entrypoint()
        def main():
            results = list(add.starmap([(1, 2), (3, 4)]))
            print(results)
            assert list(add.starmap([(1, 2), (3, 4)])) == [3, 7]
            assert list(add.map([1, 3], [2, 4])) == [3, 7]

            print(list(may_fail.map(range(3), return_exceptions=True, wrap_returned_exceptions=False)))
            print(list(may_fail.map(range(3), return_exceptions=True)))
            wrapped = list(may_fail.map(range(3), return_exceptions=True, wrap_returned_exceptions=True))[2]
            print(type(wrapped).__name__, repr(wrapped.__cause__))
            try:
                list(may_fail.map(range(3)))
            except Exception as error:
                print("propagated", error)
        """,
    )
    results = "[0, 1, Exception('error')]"
    assert printed == ["[3, 7]", results, results, "UserCodeException Exception('error')", "propagated error"]


def test_wrong_usages_tell_the_right_one(tmp_path: Path):
    printed = run(
        tmp_path,
        "wrong.py",
        """
        @app.function()
        def evaluate_model(x):
            return x

        @app.local_entrypoint()
        def main():
            inputs = [1, 2]
            wrong = (
                lambda: evaluate_model(inputs).map(),
                lambda: list(map(evaluate_model, inputs)),
                lambda: list(evaluate_model.map()),
                lambda: list(evaluate_model.map(3)),
                lambda: list(evaluate_model.starmap([1])),
                lambda: app.function(min_containers=5, max_containers=2),
                lambda: app.function(scaledown_window=0),
                lambda: app.function(max_containers="5"),
                lambda: app.function(lambda: None),
            )
            for usage in wrong:
                try:
                    usage()
                except (TypeError, scaleplug.InvalidError) as error:
                    print(error)
        """,
    )
    said = (
        ".map(...) for many inputs",
        ".map(...) for many inputs",
        "at least one iterator",
        "must be iterable",
        "as (a, b) does",
        "must not be more than",
        "between 2 and 3600",
        "a whole number",
        "parentheses",
    )
    assert len(printed) == len(said)
    for line, part in zip(printed, said, strict=True):
        assert part in line


def test_all_the_autoscaler_s_settings_and_the_oldest_name_of_one(tmp_path: Path):
    printed = run(
        tmp_path,
        "settings.py",
        """
        @app.function(
            max_containers=100,      # never more
            min_containers=2,        # kept while nothing is to do
            buffer_containers=5,     # kept beyond the need while something is
            scaledown_window=60,     # the longest one may be idle (seconds)
        )
        def my_function():
            return "done"

        @app.function(concurrency_limit=5)
        def limited(x):
            return x

        @app.local_entrypoint()
        def main():
            print(my_function.remote())
            print(limited.settings.max_containers, sum(limited.map(range(20))))
        """,
        warn="default::DeprecationWarning",
    )
    assert printed[:2] == ["done", "5 190"]
    warnings = [line for line in printed[2:] if "concurrency_limit" in line]
    assert warnings
    assert all("DeprecationWarning" in line and "max_containers=5" in line for line in warnings)


def test_async_gather(tmp_path: Path):
    printed = run(
        tmp_path,
        "loop.py",
        """
        import asyncio

        @app.function()
        async def async_task(x):
            await asyncio.sleep(0.01)
            return x * 2

        @app.local_entrypoint()
        async def main(count: int = 100):
            tasks = [async_task.remote.aio(i) for i in range(count)]
            results = await asyncio.gather(*tasks)
            print(sum(results))
            print([result async for result in async_task.map.aio(range(3))])
        """,
    )
    assert printed == ["9900", "[0, 2, 4]"]
