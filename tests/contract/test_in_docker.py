"""Containers in Docker are the third side: the tests of which one could have another result there than a process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scaleplug.runtime import Run
from scaleplug.settings import use_config
from tests.contract import functions, sides
from tests.contract.test_calling import (  # noqa: F401
    held,
    test_a_cancelled_running_async_input_is_interrupted,
    test_a_cancelled_running_input_is_interrupted,
    test_a_function_calls_another,
    test_a_function_that_runs_too_long_is_ended,
    test_a_nested_function_is_pickled,
    test_an_exception_keeps_all_that_belongs_to_it,
    test_an_input_that_takes_its_containers_down_fails_in_the_end,
    test_big_values,
    test_celerys_own_calls,
    test_functions_travel_by_value,
    test_leaving_a_map_early_cancels_what_is_left,
    test_map_gives_results_in_the_order_of_the_inputs,
    test_map_of_an_async_function,
    test_remote_returns_the_result,
    test_spawn_gives_a_call_to_wait_for,
    test_what_would_end_a_process_reaches_the_caller_and_the_container_lives,
)
from tests.contract.test_concurrency import (  # noqa: F401
    test_a_batch_holds_what_is_there_and_no_more_than_its_size,
    test_methods_share_a_container_that_was_entered_once,
    test_one_container_runs_several_inputs_each_with_its_own_context,
)
from tests.contract.test_objects import (  # noqa: F401
    test_exit_runs_when_a_container_leaves,
    test_methods_are_called_like_functions,
    test_parameters_reach_the_object,
)
from tests.contract.test_packs import (  # noqa: F401
    test_an_input_that_kills_its_container_is_found,
)
from tests.contract.test_retries import (  # noqa: F401
    test_a_function_stuck_in_c_is_cancelled_all_the_same,
)
from tests.contract.test_variants import (  # noqa: F401
    test_a_function_and_its_variants_run_side_by_side,
)
from tests.dockers import docker_config, ours
from tests.engine import Engine

pytestmark = pytest.mark.docker


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


@pytest.fixture
def side(docker_run: Run) -> Iterator[sides.Side]:
    """Give the side in Docker."""
    with sides.real(docker_run, functions.app) as real:
        yield real
