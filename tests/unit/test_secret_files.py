"""Secrets that are in files: what Compose and Kubernetes mount."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaleplug.errors import ConfigurationError
from scaleplug.settings import Config


def test_secrets_come_from_files_unless_they_are_given(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a secret with $(signs) that is long enough\n")
    (tmp_path / "url").write_text("redis://:hush@redis:6379/0")
    environ = {"SCALEPLUG_SECRET_FILE": f"{tmp_path}/secret", "SCALEPLUG_REDIS_URL_FILE": f"{tmp_path}/url"}
    config = Config.from_environ(environ)
    assert (config.secret, config.redis_url) == (
        "a secret with $(signs) that is long enough",
        "redis://:hush@redis:6379/0",
    )
    assert Config.from_environ(environ, redis_url="redis://other").redis_url == "redis://other"
    assert Config.from_environ(environ | {"SCALEPLUG_SECRET": "x" * 32}).secret == "x" * 32


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"SCALEPLUG_SECRET_FILE names /nowhere, .* \(No such file"):
        Config.from_environ({"SCALEPLUG_SECRET_FILE": "/nowhere"})
    (tmp_path / "noise").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="it is no text"):
        Config.from_environ({"SCALEPLUG_REDIS_URL_FILE": f"{tmp_path}/noise"})
