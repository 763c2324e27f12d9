"""Functions of every kind that look something up, and plain tasks beside them."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from celery import current_task, shared_task
from django.conf import settings
from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone

import scaleplug
import scaleplug.testing
from project.celery import celery
from scaleplug import client
from shop.counting import open_files
from shop.models import Order
from shop.visits import visit

try:
    from django.tasks import task
except ImportError:  # Django 5.2
    from django_tasks import task

app = scaleplug.App(settings.SHOP_NAME, celery=celery)


def looked() -> list[int]:
    """Return the files of the database that were open before it was used, and while it was."""
    before = open_files()
    Order.objects.count()
    return [before, open_files()]


@app.function(max_containers=1)
def solo(_: int = 0) -> list[object]:
    return [*looked(), current_task.request.properties["delivery_tag"]]


@app.function(max_containers=1)
@scaleplug.concurrent(max_inputs=4)
def threads(_: int = 0) -> list[int]:
    return looked()


@app.function(max_containers=1)
@scaleplug.concurrent(max_inputs=4)
async def loop(_: int = 0) -> list[int]:
    before = open_files()
    await Order.objects.acount()
    return [before, open_files()]


@app.function(max_containers=1)
@scaleplug.concurrent(max_inputs=4)
async def together(_: int = 0) -> int:
    """Read rows in pieces while others end: nobody may close this one's connection."""
    labels = [order.label async for order in Order.objects.all().aiterator(chunk_size=1)]
    await asyncio.sleep(0)
    return len(labels)


@app.function(max_containers=1)
async def alone(_: int = 0) -> list[int]:
    before = open_files()
    await Order.objects.acount()
    return [before, open_files()]


@app.function(max_containers=1)
@scaleplug.concurrent(max_inputs=4, pool="eventlet")
def green(_: int = 0) -> list[int]:
    return looked()


@app.function(max_containers=1)
def breaks(fails: bool) -> list[int]:
    found = looked()
    if fails:
        raise ValueError("broken")
    return found


@app.function(max_containers=1)
def label_of(pk: int) -> str:
    return Order.objects.get(pk=pk).label


@app.cls(max_containers=1)
class Shelf:
    @scaleplug.method()
    def look(self) -> list[int]:
        return looked()


@app.cls(max_containers=1)
@scaleplug.concurrent(max_inputs=2)
class Stock:
    @scaleplug.enter()
    def count(self) -> None:
        self.found = looked()

    @scaleplug.enter()
    async def count_async(self) -> None:
        await Order.objects.acount()

    @scaleplug.method()
    def look(self) -> list[int]:
        return [*self.found, *looked()]


@shared_task
def plain() -> str:
    return "plain"


@app.local_entrypoint()
def report(out: str) -> None:
    """Call everything, and write down what came of it."""
    call_command("migrate", verbosity=0)
    Order.objects.bulk_create(Order(label=f"order {number}") for number in range(20))
    told: dict[str, object] = {}
    for function in (solo, threads, loop, alone, green):
        told[function.name] = [function.remote() for _ in range(4)]
    client.size_for = lambda *_: 5  # type: ignore[attr-defined]  # short enough, however slow this machine is
    for _ in range(20):  # the first map tells how long they take
        told["packed"] = found = list(solo.map(range(400)))
        if len({tag for _, _, tag in found}) < len(found):
            break
    told["together"] = list(together.map(range(40)))
    told["method"] = [Shelf().look.remote() for _ in range(3)]
    told["entered"] = [Stock().look.remote() for _ in range(2)]
    told["breaks"] = [str(each) for each in breaks.map([True, False] * 40, return_exceptions=True)]
    told["commit"] = on_commit()
    told["sources"] = [app.source().kind, app.source().where]
    connection.close()
    with scaleplug.testing.local():
        found = [*threads.map(range(8)), *loop.map(range(8))]
    told["twin"] = [all(during for _, during in found), open_files()]
    Path(out).write_text(json.dumps(told))


def on_commit() -> dict[str, object]:
    """Spawn in transactions that commit, and in one that doesn't."""
    with transaction.atomic():
        order = Order.objects.create(label="committed")
        call = label_of.spawn_on_commit(order.pk)
        many = label_of.map_on_commit(pk for pk in [order.pk] * 3)
        label_of.delay_on_commit(order.pk)
        label_of.task.delay_on_commit(order.pk)
        try:
            call.get(timeout=0)
        except scaleplug.Error as error:
            early = type(error).__name__
    try:
        with transaction.atomic():
            lost = label_of.spawn_on_commit(1)
            raise LookupError
    except LookupError:
        pass
    try:
        lost.get(timeout=0)
    except scaleplug.Error as error:
        never = type(error).__name__
    try:
        with transaction.atomic():
            label_of.spawn_on_commit(1, 2)
    except TypeError:
        wrong = "refused at once"
    same = scaleplug.FunctionCall.from_id(call.object_id).get(timeout=20)
    return {"early": early, "never": never, "wrong": wrong, "one": same, "many": list(many.iter())}


# -- Django's own tasks --------------------------------------------------------------------------------------------


@task
def add(a: int, b: int = 1) -> int:
    return a + b


@task(queue_name="mail")
def mail(number: int) -> list[int]:
    return [*looked(), number]


@task(takes_context=True)
def described(context, word: str) -> list[object]:
    return [word, context.attempt, context.task_result.status == "RUNNING", context.task_result.args]


@task
async def awaited(pk: int) -> str:
    return (await Order.objects.aget(pk=pk)).label


@task
def fails() -> None:
    raise ValueError("no use")


@app.local_entrypoint()
def queue(out: str) -> None:
    """Send Django's tasks, and write down what came of them."""
    call_command("migrate", verbosity=0)
    Order.objects.create(pk=1, label="first")
    told: dict[str, object] = {}
    first = add.enqueue(2, b=3)
    told["sent"] = [first.status, first.args, first.kwargs, first.enqueued_at is not None]
    told["result"] = ended(first).return_value
    again = add.get_result(first.id)
    times = (again.enqueued_at, again.started_at, again.finished_at)
    told["times"] = all(times) and sorted(times) == list(times)
    told["attempts"] = [again.attempts, len(again.worker_ids)]
    told["mail"] = ended(mail.enqueue(7)).return_value
    told["queue"] = mail.get_result(mail.enqueue(8).id).task.queue_name
    told["context"] = ended(described.enqueue("word")).return_value
    told["awaited"] = ended(awaited.enqueue(1)).return_value
    failed = ended(fails.enqueue())
    told["failed"] = [failed.status, failed.errors[0].exception_class.__name__, "no use" in failed.errors[0].traceback]
    began = time.time()
    told["later"] = ended(add.using(run_after=timezone.now() + timedelta(seconds=1)).enqueue(1)).return_value
    told["waited"] = time.time() - began
    told["thread"] = in_thread(lambda: ended(add.enqueue(5)).return_value)
    told["aio"] = asyncio.run(sent_from_a_loop())
    for name, wrong in {
        "arguments": lambda: add.enqueue(1, 2, 3),
        "queue name": lambda: add.using(queue_name="nowhere"),
        "unknown": lambda: add.get_result("fc-unknown"),
        "mismatch": lambda: add.get_result(failed.id),
        "no JSON": lambda: add.enqueue(object()),
        "priority": lambda: add.using(priority=5),
    }.items():
        try:
            wrong()
        except Exception as error:  # noqa: BLE001  # its kind is what is asked for
            told[name] = type(error).__name__.removesuffix("Error")
    with scaleplug.testing.local():
        told["twin"] = [ended(add.enqueue(10)).return_value, ended(fails.enqueue()).status]
        soon = timezone.now() + timedelta(seconds=0.2)
        told["twin"].append(ended(add.using(run_after=soon).enqueue(20)).return_value)
    Path(out).write_text(json.dumps(told))


async def sent_from_a_loop() -> object:
    result = await add.aenqueue(1, 1)
    while not result.is_finished:
        await asyncio.sleep(0.01)
        await result.arefresh()
    return result.return_value


def ended(result):
    deadline = time.monotonic() + 20
    while not result.is_finished:
        if time.monotonic() > deadline:
            raise TimeoutError(result)
        time.sleep(0.01)
        result.refresh()
    return result


def in_thread(run):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


@app.local_entrypoint()
def admin(out: str) -> None:
    """Visit the admin's pages."""
    call_command("migrate", verbosity=0)
    solo.remote()
    Path(out).write_text(json.dumps(visit()))
