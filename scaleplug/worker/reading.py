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
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise RefusedError(f"it is not a Celery message: {type(exc).__name__}: {exc}") from None
    if not isinstance(input_id, str) or not input_id or not isinstance(properties, dict):
        raise RefusedError("it has no valid id")
    if task not in tasks:
        raise RefusedError(f"it is for the task {task!r}, and this is the queue of {function!r}")
    if content_type == CONTENT_TYPE:
        try:
            sealed = body if isinstance(body, bytes) else body.encode()
            payload = keyring.unseal(INPUT, input_context(task, input_id, function), sealed)
            if payload[:1] == APART:
                message["large"] = payload
            message["payload"] = payload
        except SerializationError as exc:
            raise RefusedError(str(exc)) from None
        reply = reply_of(message)
        if reply and input_id not in _ids(reply, packed=payload[:1] == PACK):
            raise RefusedError(f"its outcome is asked for under {reply['call']!r}, and it was signed for {input_id!r}")
    elif content_type in JSON_TYPES:
        headers.pop("scaleplug", None)  # unsigned: its result is Celery's to store, and nobody's outcome
    else:
        raise RefusedError(f"its content type {content_type!r} is neither scaleplug's nor JSON")
    return _complete(message)


def _ids(reply: dict[str, Any], *, packed: bool) -> tuple[str, ...]:
    """Return the ids that an input may have been signed for."""
    call, index, count = reply["call"], reply["index"], reply.get("pack", 0)
    if packed != bool(count):
        return ()
    return (pack_id(call, index, count),) if packed else (call, f"{call}:{index}")


def _complete(message: dict[str, Any]) -> dict[str, Any]:
    properties = message["properties"]
    if not isinstance(properties.get("delivery_tag"), str):
        properties["delivery_tag"] = message["headers"]["id"]
    info = properties.setdefault("delivery_info", {})
    if not isinstance(info, dict):
        raise RefusedError("its delivery_info is not a table")
    message["headers"]["eta"] = None  # whatever waited has waited
    return message


def reply_of(message: Any) -> dict[str, Any]:
    """Return the part of the headers that says who waits for the outcome; {} when Celery stores it."""
    headers = message.get("headers") if isinstance(message, dict) else None
    reply = headers.get("scaleplug") if isinstance(headers, dict) else None
    if not isinstance(reply, dict) or "call" not in reply:
        return {}
    return {
        "call": str(reply.get("call", "")),
        "caller": str(reply.get("caller", "")),
        "index": reply["index"] if isinstance(reply.get("index"), int) else 0,
        "keep": reply["keep"] if isinstance(reply.get("keep"), int) else 0,
        **({"pack": reply["pack"]} if isinstance(reply.get("pack"), int) else {}),
    }


def version_of(message: Any) -> str:
    """Return the version of the code that an input asks for; empty for any. It decides only where it runs."""
    headers = message.get("headers") if isinstance(message, dict) else None
    reply = headers.get("scaleplug") if isinstance(headers, dict) else None
    return str(reply.get("version", "")) if isinstance(reply, dict) else ""
