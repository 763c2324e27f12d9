"""A program whose arguments, results and parameters nobody should see."""

from __future__ import annotations

import scaleplug

app = scaleplug.App("secretive")
app.celery.conf.worker_send_task_events = True
app.celery.conf.task_send_sent_event = True
ARGUMENT = "the-argument-nobody-sees"


@app.function(max_containers=1)
def hide(text: str) -> str:
    """Return what it got."""
    return text[::-1][::-1]


@app.function(max_containers=1, retries=1)
def fail(text: str) -> None:
    """Fail with what it got."""
    raise ValueError(text)


@app.cls(max_containers=1)
class Vault:
    """A class with a parameter."""

    key: str = scaleplug.parameter()

    @scaleplug.method()
    def size(self) -> int:
        """Return its size."""
        return len(self.key)


if __name__ == "__main__":
    assert hide.remote(ARGUMENT) == ARGUMENT
    assert hide.delay(ARGUMENT).get(timeout=20) == ARGUMENT
    assert hide.apply_async(kwargs={"text": ARGUMENT}).get(timeout=20) == ARGUMENT
    assert list(hide.map([ARGUMENT])) == [ARGUMENT]
    assert Vault(key=ARGUMENT).size.remote() == len(ARGUMENT)
