"""For mypy, which overlooks what a class decorator returns: the class under ``@app.cls()`` keeps its typed methods.

Switch it on with ``plugins = ["scaleplug.mypy_plugin"]`` in mypy's configuration. Type checkers that follow class
decorators need nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from mypy.nodes import CallExpr, ClassDef, Decorator, Expression, MemberExpr, NameExpr, TypeInfo
from mypy.plugin import ClassDefContext, Plugin
from mypy.types import Instance

OBJECT = "scaleplug.autoscaling.ObjectTypes"
MARKS = ("method", "enter", "exit")


class ScaleplugPlugin(Plugin):
    """Gives the classes under ``@app.cls()`` what their objects have: parameters, ``update_autoscaler``."""

    def get_customize_class_mro_hook(self, fullname: str) -> Callable[[ClassDefContext], None] | None:
        """Return what is done with every class when its bases are known."""
        return None if fullname.startswith(("builtins.", "typing.", "scaleplug.")) else _add_object


def _add_object(context: ClassDefContext) -> None:
    found = context.api.lookup_fully_qualified_or_none(OBJECT) if _is_decorated(context.cls) else None
    info = context.cls.info
    if found is None or not isinstance(found.node, TypeInfo) or found.node in info.mro:
        return
    info.bases.append(Instance(found.node, []))
    info.mro.insert(-1, found.node)
    info.fallback_to_any = True  # its parameters, and with_options and its kind on the class


def _is_decorated(cls: ClassDef) -> bool:
    """Tell whether a class is under ``@app.cls()``: by its looks, since what ``app`` is isn't known yet."""
    marked = [statement for statement in cls.defs.body if isinstance(statement, Decorator)]
    below = [decorator for statement in marked for decorator in statement.original_decorators]
    inherits = bool(cls.base_type_exprs)
    return any(_name(d) == "cls" for d in cls.decorators) and (inherits or any(_name(d) in MARKS for d in below))


def _name(decorator: Expression) -> str:
    callee = decorator.callee if isinstance(decorator, CallExpr) else None
    return callee.name if isinstance(callee, MemberExpr | NameExpr) else ""


def plugin(_version: str) -> type[Plugin]:
    """Return the plugin: mypy's entry point."""
    return ScaleplugPlugin
