"""Imports every module of xattn: a name that a dependency lacks shows at once."""

from importlib import import_module
from pkgutil import walk_packages

import xattn


def reraise(name: str) -> None:
    """Ends the walk: by default a package that cannot be imported is skipped."""
    raise ImportError(f"{name} cannot be imported")


for module in walk_packages(xattn.__path__, "xattn.", onerror=reraise):
    if not module.name.endswith("__main__"):
        import_module(module.name)
