"""Visits to the admin's pages by users of different rights."""

import re

from django.contrib.auth.models import Permission, User
from django.test import Client

LIST, DATA, PAGE = (
    "/admin/scaleplug/pool/",
    "/admin/scaleplug/pool/data/",
    "/admin/scaleplug/pool/shop.solo/change/",
)
CHANGE = {"min_containers": 0, "max_containers": 3, "buffer_containers": 0, "scaledown_window": 60}


def visit() -> dict[str, object]:
    """Return what each user sees and may do."""
    told: dict[str, object] = {}
    nobody = Client()
    told["nobody"] = [nobody.get(url).status_code for url in (LIST, DATA, PAGE)]
    for name, rights in {"clerk": [], "viewer": ["view_pool"], "keeper": ["view_pool", "change_pool"]}.items():
        user = User.objects.create_user(name, is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=rights))
        client = Client()
        client.force_login(user)
        told[name] = [client.get(url).status_code for url in (LIST, DATA, PAGE)] + [
            client.post(PAGE, CHANGE).status_code
        ]
    page = client.get(LIST).content.decode()
    told["listed"] = [name in page for name in ("shop.solo", "stock.count", "django-tasks.shop-tasks-add")]
    told["changed"] = told_of(client)
    told["refused"] = [
        error
        for wrong in ({"min_containers": 4}, {"scaledown_window": 1}, {"max_containers": "x"})
        for error in re.findall(r"errorlist[^>]*><li>([^<]*)", client.post(PAGE, CHANGE | wrong).content.decode())
    ]
    client.post(PAGE, {"_reset": "1"})
    told["reset"] = told_of(client)
    told["history"] = User.objects.get(username="keeper").logentry_set.count()
    told["none"] = client.get("/admin/scaleplug/pool/shop.none/change/").status_code
    careful = Client(enforce_csrf_checks=True)
    careful.force_login(user)
    told["without a token"] = careful.post(PAGE, CHANGE).status_code
    token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', careful.get(PAGE).content.decode())[1]
    told["with it"] = careful.post(PAGE, CHANGE | {"csrfmiddlewaretoken": token}).status_code
    other = Client()
    other.force_login(User.objects.create_superuser("root"))
    told["moved"] = other.post("/admin/scaleplug/pool/shop.label_5Fof/change/", CHANGE).url
    pages = re.findall(r'href="(/admin/scaleplug[^"]*change/)"', other.get("/admin/").content.decode())
    told["recent"] = [[page, other.get(page).status_code] for page in pages]
    told["get"] = client.get(PAGE, {"_reset": "1"}).status_code == 200 and told_of(client)
    return told


def told_of(client: Client) -> object:
    """Return the settings of a function as the page's data has them, and which were changed."""
    functions = client.get(DATA).json()["functions"]
    (found,) = [each for each in functions if each["function"] == "shop.solo"]
    return [found["settings"]["max_containers"], found["overridden"]]
