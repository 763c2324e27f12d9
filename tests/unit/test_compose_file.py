"""docker-compose.yml and what it mounts, looked at; tests/e2e/test_compose.py brings it up."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
MAKE_SECRETS = ROOT / "config" / "make-secrets.sh"


def test_what_is_mounted_is_there() -> None:
    mounted = re.findall(r"^      - \./(\S+?):/\S+:ro$", TEXT, re.MULTILINE)
    assert {"config/redis.conf", "config/compose/prometheus.yml"} <= set(mounted)
    assert [name for name in mounted if not (ROOT / name).exists()] == []


def test_ports_are_open_on_this_host_alone() -> None:
    ports = re.findall(r"^    ports:\n((?:      - .+\n)+)", TEXT, re.MULTILINE)
    assert len(ports) == 5
    assert all(port.strip().startswith('- "${') and "_ADDRESS:-127.0.0.1}:" in port for port in ports)


def test_every_service_comes_back_and_has_a_health_check() -> None:
    services = TEXT.partition("\nservices:\n")[2].partition("\nnetworks:\n")[0]
    each = re.split(r"^  (?=\w+:$)", services, flags=re.MULTILINE)[1:]
    assert len(each) == 7
    for service in each:
        assert "<<: *scaleplug" in service or "restart: unless-stopped" in service, service
        assert "healthcheck:" in service, service


def test_the_page_names_every_variable() -> None:
    page = (ROOT / "docs" / "compose.md").read_text()
    named = set(re.findall(r"(?<!\$)\$\{(\w+):-", TEXT))
    told = {name for name in named if not name.endswith(("_ADDRESS", "_IMAGE")) and name != "BUILD_NETWORK"}
    assert [name for name in sorted(told | {"APP_IMAGE"}) if name not in page] == []


def test_secrets_are_made_once_and_for_their_owner(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    environ = {"PATH": os.environ["PATH"], "REDIS_AT": "here:7000"}
    subprocess.run([MAKE_SECRETS, folder], check=True, env=environ)
    made = {path.name: path.read_text() for path in folder.iterdir()}
    assert made.keys() == {"redis_password", "redis_url", "scaleplug_secret", "grafana_password"}
    assert made["redis_url"] == f"redis://:{made['redis_password']}@here:7000/0"
    random = [made[name] for name in ("redis_password", "scaleplug_secret", "grafana_password")]
    assert [len(text) for text in random] == [43, 43, 43]
    assert len(set(random)) == 3
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o444}
    (folder / "grafana_password").unlink()
    subprocess.run([MAKE_SECRETS, folder], check=True, env=environ)
    again = {path.name: path.read_text() for path in folder.iterdir()}
    assert again.pop("grafana_password") != made.pop("grafana_password")
    assert again == made


@pytest.mark.parametrize("name", ["base", "gpu", "threads", "eventlet"])
def test_images_default_to_official_ones_and_end_without_root(name: str) -> None:
    text = (ROOT / "worker_images" / name / "Dockerfile").read_text()
    assert re.search(r"^ARG (BASE|CUDA|WORKER)_IMAGE=\S+$", text, re.MULTILINE)
    users = re.findall(r"^USER (\S+)$", text.rpartition("\nFROM ")[2], re.MULTILINE)
    assert users == (["10001:10001"] if name in ("base", "gpu") else [])
