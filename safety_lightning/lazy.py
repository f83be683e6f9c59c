"""Lets a package name what it offers without importing it: each name is imported when it is first used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def import_lazily(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """Makes the ``__getattr__`` of a package.

    Args:
        package: Its ``__name__``.
        places: The names it offers, separated by spaces, by the module of the package that holds them.

    Returns:
        A function that imports a name, and raises AttributeError for any other.
    """
    modules = {name: module for module, names in places.items() for name in names.split()}

    def import_name(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    return import_name


def list_names(places: Mapping[str, str]) -> list[str]:
    """Returns the names of all modules, for the ``__all__`` of a package."""
    return " ".join(places.values()).split()
