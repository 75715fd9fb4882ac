"""Which of the package's files a run depends on: those that its network and its training import."""

import ast
import hashlib
from functools import cache
from pathlib import Path

from torch import nn

PACKAGE = Path(__file__).resolve().parent.parent
ROOMS = ("data", "language", "layers", "makers", "models", "training")
"""Folders whose code decides what a run computes; the others fetch, measure, convert and print."""


def used_code(*parts: nn.Module | str | object) -> dict[str, str]:
    """The files of :data:`ROOMS` that some parts of a run import when they are loaded, directly or by way of others.

    An import inside a function is not followed: it is for what only some runs use, and those pass it as a part.

    Args:
        *parts: A network (the classes of all its modules count), the name of a module, or any other object (its class
            counts).

    Returns:
        sha256 by path within the package, sorted.
    """
    waiting = set()
    for part in parts:
        objects = part.modules() if isinstance(part, nn.Module) else (part,)
        names = [part] if isinstance(part, str) else [cls.__module__ for x in objects for cls in type(x).__mro__]
        waiting |= {name for name in names if name.startswith("zoo.")}
    found: dict[str, str] = {}
    while waiting:
        file = _file(waiting.pop())
        path = file.relative_to(PACKAGE).as_posix() if file else ""
        if path.split("/")[0] in ROOMS and path not in found:
            found[path] = hashlib.sha256(file.read_bytes()).hexdigest()
            waiting |= {module for module, _ in _imports(file).values()}
    return dict(sorted(found.items()))


@cache
def _imports(file: Path) -> dict[str, tuple[str, str]]:
    """What a file imports from the package at its top level: by its name there, module and name in that module."""
    package = ["zoo", *file.relative_to(PACKAGE).parts[:-1]]
    found = {}
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "zoo"):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                found[alias.asname or alias.name] = _home(base, alias.name)
    return found


def _home(module: str, name: str) -> tuple[str, str]:
    """The module that defines a name, where a package's ``__init__.py`` may only pass it on."""
    if _file(f"{module}.{name}"):
        return f"{module}.{name}", ""
    file = _file(module)
    passed_on = _imports(file) if file and file.name == "__init__.py" else {}
    return passed_on.get(name, (module, name))


def _file(module: str) -> Path | None:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
