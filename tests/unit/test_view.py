"""What the controller remembers of one function."""

from __future__ import annotations

from dataclasses import replace

from scaleplug.registry import Registration, Source
from scaleplug.settings import FunctionSettings
from scaleplug.store import FunctionState
from scaleplug.view import Known, View


def test_starts_of_the_old_version_do_not_hurry_the_new_one() -> None:
    old = Registration("app.f", "app", Source("none"), serialized=False, settings=FunctionSettings(), version="1")
    view = View(old, old.settings, containers={"a": Known(1, 0.0, version="1")})
    view.learn(state("a"), 0.0)
    view.update(replace(old, version="2"), old.settings, retiring=False)
    view.failures = 4
    view.containers["b"] = Known(2, 0.0, version="1")
    view.learn(state("a", "b"), 0.0)
    assert (view.failures, view.proving) == (4, True)
    view.containers["c"] = Known(3, 0.0, version="2")
    view.learn(state("a", "b", "c"), 0.0)
    assert (view.failures, view.proving) == (0, False)


def state(*ready: str) -> FunctionState:
    """Return a state in which these containers are ready."""
    return FunctionState(0, 0, None, (), tuple((container, 1.0) for container in ready), 0, 0)


def test_when_inputs_that_come_leave_nothing_to_decide() -> None:
    settings = FunctionSettings(max_containers=2)
    made = Registration("app.f", "app", Source("none"), serialized=False, settings=settings, version="1")
    view = View(made, settings)
    assert view.rest == ""
    view.containers["a"] = Known(1, 0.0, version="1", ready=True)
    assert view.rest == "idle"
    view.containers["b"] = Known(2, 0.0, version="1")
    assert view.rest == "idle"  # one that starts may fail
    view.containers["b"].ready = True
    assert view.rest == "full"
    view.containers["b"].draining = True
    assert view.rest == "idle"


def test_a_full_function_that_changes_is_decided_about_as_inputs_come() -> None:
    settings = FunctionSettings(max_containers=1)
    made = Registration("app.f", "app", Source("none"), serialized=False, settings=settings, version="1")
    view = View(made, settings, containers={"a": Known(1, 0.0, version="1", ready=True)})
    assert view.rest == "full"
    view.retiring = True
    assert view.rest == ""
    view.retiring, view.settings = False, replace(settings, max_containers=3, buffer_containers=1)
    assert view.rest == ""
    view.settings = replace(settings, max_inputs=2)
    assert view.rest == ""
