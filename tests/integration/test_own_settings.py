"""A Celery app whose settings would lead functions' messages astray, if they were heard."""

from __future__ import annotations

import json
from pathlib import Path

from scaleplug.embedded import EmbeddedRedis
from scaleplug.server import connect
from tests.commands import scaleplug, told

PROJECT = """
import json, os
from celery import Celery, group, signals
import scaleplug

celery = Celery("project", broker="memory://", backend=os.environ["BACKEND"])
celery.conf.update(
    task_serializer="json", result_serializer="json", accept_content=["json"], result_accept_content=["json"],
    task_routes={"*": {"queue": "own", "exchange": "own", "routing_key": "own.key", "priority": 3}},
    task_create_missing_queues=False, task_default_queue="own", task_default_exchange_type="topic", worker_direct=True,
    task_compression="gzip", task_annotations={"*": {"rate_limit": "10/s"}}, task_acks_late=False, task_time_limit=1,
    task_soft_time_limit=1, task_send_sent_event=True, task_track_started=True,
)
published = []

@signals.before_task_publish.connect
def note(sender=None, **_):
    published.append(sender)

@signals.task_prerun.connect
def begin(task=None, **_):
    os.environ["BEGUN"] = task.name

app = scaleplug.App("own", celery=celery)

@app.function(max_containers=2)
def double(x):
    return x * 2, os.environ.get("BEGUN")

@app.local_entrypoint()
def main():
    found = {
        "remote": double.remote(2), "map": list(double.map(range(3)))[1], "spawn": double.spawn(3).get(),
        "delay": double.delay(4).get(timeout=20), "group": group(double.s(1), double.s(2))().get(timeout=20),
        "eta": double.apply_async((5,), countdown=0.1, priority=5).get(timeout=20), "published": len(published),
    }
    print(json.dumps(found))
"""


def test_routes_queues_compression_and_serializers_of_a_project_are_its_own_tasks(tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text(PROJECT)
    with EmbeddedRedis(tcp=True) as server:
        done = scaleplug("run", "project.py", cwd=tmp_path, BACKEND=server.url)
        assert done.returncode == 0, told(done)
        found = json.loads(done.stdout)
        client = connect(server.url)
        stored = [json.loads(client.get(key)) for key in client.keys("celery-task-meta-*")]  # type: ignore[union-attr]
        client.close()
    assert found.pop("published") == 9
    assert found.pop("group") == [[2, "own.double"], [4, "own.double"]]
    expected = {"remote": 4, "map": 2, "spawn": 6, "delay": 8, "eta": 10}
    assert found == {name: [value, "own.double"] for name, value in expected.items()}
    assert sorted(each["result"][0] for each in stored) == [2, 4, 8, 10]  # as JSON
