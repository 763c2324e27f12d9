"""Read the messages on a function's queue; nothing in them is unpickled here."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection
from typing import Any

from scaleplug.errors import SerializationError
from scaleplug.packing import PACK, pack_id
from scaleplug.serializer import APART, CONTENT_TYPE, INPUT, Keyring, input_context

JSON_TYPES = ("application/json", "application/x-json")
LONGEST_KEEP = 366 * 86_400
"""Seconds; what asks for more is cut: nobody has signed it."""
TEXTS = ("lang", "shadow", "group", "root_id", "parent_id", "argsrepr", "kwargsrepr", "origin")
NUMBERS = ("group_index", "replaced_task_nesting")
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


class RefusedError(Exception):
    """A message can't be verified or read."""


def read_message(raw: bytes, function: str, tasks: Collection[str], keyring: Keyring) -> dict[str, Any]:
    """Return the parsed message, or raise RefusedError; nothing in it is unpickled here."""
    try:
        message = json.loads(raw)
        for own in ("large", "payload"):  # what is there later has been verified
            message.pop(own, None)
        headers, properties = message["headers"], message["properties"]
        task, input_id, content_type = headers["task"], headers["id"], message["content-type"]
        body = base64.b64decode(message["body"]) if properties.get("body_encoding") == "base64" else message["body"]
        if b"\\u" in raw:  # half a character, which JSON can write and nothing else
            json.dumps(message, ensure_ascii=False).encode()
    except UNREADABLE as exc:
        raise RefusedError(f"it is not a Celery message: {type(exc).__name__}: {str(exc)[:200]}") from None
    if not isinstance(input_id, str) or not input_id or not isinstance(properties, dict):
        raise RefusedError("it has no valid id")
    if not isinstance(task, str) or task not in tasks:
        raise RefusedError(f"it is for the task {task!r}, and this is the queue of {function!r}")
    if not isinstance(body, bytes | str) or not isinstance(message.setdefault("content-encoding", None), str | None):
        raise RefusedError("its body is no text, or its encoding has no name")
    if content_type == CONTENT_TYPE:
        try:
            sealed = body if isinstance(body, bytes) else body.encode()
            payload = keyring.unseal(INPUT, input_context(task, input_id, function), sealed)
            if payload[:1] == APART:
                message["large"] = payload
            message["payload"] = payload
        except SerializationError as exc:
            raise RefusedError(str(exc)) from None
        _check_reply(reply_of(message), input_id, headers, packed=payload[:1] == PACK)
    elif content_type in JSON_TYPES:
        headers.pop("scaleplug", None)  # unsigned: its result is Celery's to store, and nobody's outcome
        _check_plain(body)
    else:
        raise RefusedError(f"its content type {content_type!r} is neither scaleplug's nor JSON")
    return _complete(message)


def _check_reply(reply: dict[str, Any], input_id: str, headers: dict[str, Any], *, packed: bool) -> None:
    """Refuse an outcome that is asked for under another name than the one that was signed."""
    if packed != ("pack" in reply):
        raise RefusedError("it is a pack and doesn't say so, or the other way round")
    if not reply:
        return
    alone = input_id == reply["call"] and reply["index"] == 0
    if packed:
        alone = input_id == pack_id(reply["call"], reply["index"], reply["pack"]) and not reply["keep"]
    if not alone and input_id != f"{reply['call']}:{reply['index']}":
        where = f"{reply['call']!r}, input {reply['index']}"
        raise RefusedError(f"its outcome is asked for under {where}, and it was signed for {input_id!r}")
    headers["expires"] = None  # no such call has an end, and its caller would wait for ever


def _check_plain(body: bytes | str) -> None:
    """Refuse a body in JSON that isn't the arguments of one call: who sent it is unknown, and asks for nothing else."""
    try:
        args, kwargs, embed = json.loads(body)
    except UNREADABLE as exc:
        raise RefusedError(f"its body is not [args, kwargs, {{}}] in JSON: {type(exc).__name__}") from None
    if not isinstance(args, list) or not isinstance(kwargs, dict) or not isinstance(embed, dict | None):
        raise RefusedError("its body is not [args, kwargs, {}] in JSON")
    if wanted := [name for name, value in (embed or {}).items() if value]:
        raise RefusedError(f"it is unsigned and asks for {', '.join(sorted(wanted))[:80]}: sign it, or leave that out")


def _complete(message: dict[str, Any]) -> dict[str, Any]:
    properties = message["properties"]
    if not isinstance(properties.get("delivery_tag"), str):
        properties["delivery_tag"] = message["headers"]["id"]
    info = properties.setdefault("delivery_info", {})
    if not isinstance(info, dict):
        raise RefusedError("its delivery_info is not a table")
    headers = message["headers"]
    headers["eta"] = None  # whatever waited has waited
    _mend(headers, properties)
    expires = headers.get("expires")
    if not isinstance(expires, str | None):
        raise RefusedError(f"it expires at {str(expires)[:40]!r}, which is no time")
    return message


def _mend(headers: dict[str, Any], properties: dict[str, Any]) -> None:
    """Leave out what nobody has signed and Celery would stumble over."""
    headers["timelimit"] = None  # not Celery's to enforce here
    retries = headers.get("retries")
    headers["retries"] = retries if isinstance(retries, int) and 0 <= retries < 1_000_000 else 0
    for table, names, kind in (
        (headers, TEXTS, str), (headers, NUMBERS, int), (properties, ("priority",), int),
        (properties, ("reply_to", "correlation_id"), str), (headers, ("ignore_result",), bool),
    ):  # fmt: skip
        for name in names:
            if name in table and not isinstance(table[name], kind):
                table[name] = None
    stamped, stamps = headers.get("stamped_headers"), headers.get("stamps")
    told = isinstance(stamped, list) and isinstance(stamps, dict) and all(isinstance(name, str) for name in stamped)
    if not told or not all(isinstance(value, str | list) for value in (stamps or {}).values()):
        headers["stamped_headers"], headers["stamps"] = None, {}


def reply_of(message: Any) -> dict[str, Any]:
    """Return the part of the headers that says who waits for the outcome; {} when Celery stores it."""
    headers = message.get("headers") if isinstance(message, dict) else None
    reply = headers.get("scaleplug") if isinstance(headers, dict) else None
    if not isinstance(reply, dict) or "call" not in reply:
        return {}
    return {
        "call": str(reply.get("call", "")),
        "caller": str(reply.get("caller", "")),
        "index": _within(reply.get("index"), 1 << 53),
        "keep": _within(reply.get("keep"), LONGEST_KEEP),
        **({"pack": reply["pack"]} if reply.get("pack") and isinstance(reply["pack"], int) else {}),
    }


def _within(number: object, most: int) -> int:
    """Return what a header says, as far as the scripts can take it."""
    return min(max(number, 0), most) if isinstance(number, int) else 0


def version_of(message: Any) -> str:
    """Return the version of the code that an input asks for; empty for any. It decides only where it runs."""
    headers = message.get("headers") if isinstance(message, dict) else None
    reply = headers.get("scaleplug") if isinstance(headers, dict) else None
    return str(reply.get("version", "")) if isinstance(reply, dict) else ""
