"""Functions may stand here too."""

import scaleplug
from project.celery import celery

app = scaleplug.App("stock", celery=celery)


@app.function()
def count() -> int:
    return 3
