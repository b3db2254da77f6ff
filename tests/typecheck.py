"""The type checker that tests put on xattn: a function of its own, so that jaxtyping can name it."""

from typing import Any

from beartype import BeartypeConf, beartype

EXEMPT = ("xattn.cli.train", "xattn.training")
"""Rooms that were not checked before they came into the package."""

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(given: Any) -> Any:
    """`given`, checked at run time unless its module is exempt."""
    module = getattr(given, "__module__", "") or ""
    return given if module.startswith(EXEMPT) else _check(given)
