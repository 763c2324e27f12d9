"""The fixtures of the contract tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from scaleplug.errors import ConfigurationError
from scaleplug.runtime import Run
from scaleplug.settings import Config, use_config
from tests.contract import functions, sides
from tests.dockers import docker_config, ours
from tests.engine import Engine

IN_DOCKER = {
    "test_remote_returns_the_result",
    "test_spawn_gives_a_call_to_wait_for",
    "test_a_cancelled_running_input_is_interrupted",
    "test_a_cancelled_running_async_input_is_interrupted",
    "test_map_gives_results_in_the_order_of_the_inputs",
    "test_map_of_an_async_function",
    "test_leaving_a_map_early_cancels_what_is_left",
    "test_an_exception_keeps_all_that_belongs_to_it",
    "test_what_would_end_a_process_reaches_the_caller_and_the_container_lives",
    "test_functions_travel_by_value",
    "test_big_values",
    "test_a_function_calls_another",
    "test_a_nested_function_is_pickled",
    "test_a_function_that_runs_too_long_is_ended",
    "test_an_input_that_takes_its_containers_down_fails_in_the_end",
    "test_celerys_own_calls",
    "test_one_container_runs_several_inputs_each_with_its_own_context",
    "test_methods_share_a_container_that_was_entered_once",
    "test_a_batch_holds_what_is_there_and_no_more_than_its_size",
    "test_methods_are_called_like_functions",
    "test_parameters_reach_the_object",
    "test_exit_runs_when_a_container_leaves",
    "test_a_function_stuck_in_c_is_cancelled_all_the_same",
    "test_an_input_that_kills_its_container_is_found",
    "test_a_function_and_its_variants_run_side_by_side",
}
"""The tests of which a container in Docker could have another result than a process."""


@pytest.fixture(scope="module")
def real_run() -> Iterator[Run]:
    """Start a Redis and a controller for the session; no test sees them that doesn't ask."""
    run = Run(Config(), title="contract tests")
    try:
        try:
            run.start()
        except ConfigurationError as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(error))
        use_config(None)
        yield run
    finally:
        run.stop()


@pytest.fixture(scope="module")
def docker_run(engine: Engine, tests_image: str) -> Iterator[Run]:
    """Start a Redis and a controller whose containers are Docker's."""
    run = Run(docker_config(engine, tests_image, secret=None), title="contract tests with Docker")
    try:
        run.start()
        use_config(None)
        yield run
    finally:
        run.stop()
    assert ours(engine, label="scaleplug.role") == []


@pytest.fixture(params=["twin", "real", pytest.param("docker", marks=pytest.mark.docker)])
def side(request: pytest.FixtureRequest) -> Iterator[sides.Side]:
    """Give all sides: the test runs once on each, on Docker if it is among those of ``IN_DOCKER``."""
    if request.param == "twin":
        with sides.twin() as twin:
            yield twin
    else:
        run = request.getfixturevalue("real_run" if request.param == "real" else "docker_run")
        with sides.real(run, functions.app) as real:
            yield real


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what would only tell once more, and slowly, what processes have told."""

    def wanted(item: pytest.Item) -> bool:
        call = getattr(item, "callspec", None)
        on_docker = call is not None and call.params.get("side") == "docker"
        return not on_docker or getattr(item, "originalname", "") in IN_DOCKER

    left_out = [item for item in items if not wanted(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if wanted(item)]
