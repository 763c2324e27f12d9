"""Run a batched function once for several inputs that came one by one."""

from __future__ import annotations

import base64
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery.exceptions import Ignore
from kombu.serialization import loads

from scaleplug.errors import InputCancellation, InvalidError
from scaleplug.worker.holding import Claim


@dataclass(frozen=True, slots=True)
class Member:
    """One input of a batch; ``arguments`` by parameter name."""

    claim: Claim
    arguments: dict[str, Any]


def read(message: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments in a message that has been verified; raises what unpickling them does."""
    body = message["body"]
    content = base64.b64decode(body) if message["properties"].get("body_encoding") == "base64" else body
    content_type = message["content-type"]
    args, kwargs, _ = loads(content, content_type, message["content-encoding"], accept={content_type})
    return tuple(args), dict(kwargs)


def member(raw: Callable[..., Any], claim: Claim, args: Sequence[Any], kwargs: dict[str, Any]) -> Member:
    """Return an input as a member of a batch; raises the TypeError of a plain call."""
    return Member(claim, by_name(raw, args, kwargs))


def by_name(raw: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by parameter name; raises TypeError."""
    return dict(inspect.signature(raw).bind(*args, **kwargs).arguments)


def lists(calls: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return a list for every parameter, in the order of the calls."""
    return {name: [call[name] for call in calls] for name in calls[0]}


def check_results(task: str, results: Any, size: int) -> list[Any]:
    """Return the results of a batch, one for each input; raises InvalidError."""
    if not isinstance(results, list) or len(results) != size:
        found = f"a list of {len(results)}" if isinstance(results, list) else f"a {type(results).__name__}"
        raise InvalidError(f"{task} is batched: for {size} inputs it must return a list of {size} results, not {found}")
    return results


def blameless(exc: BaseException) -> bool:
    """Return whether the inputs beside the one that ended the batch so should run again."""
    return isinstance(exc, InputCancellation | Ignore)
