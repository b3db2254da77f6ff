"""The command line, one module for each kind of work.

Nothing heavy is imported before a command runs, so that help and usage errors answer at once.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper

# isort: off
# Each defines its commands; help lists them in this order.
from xattn.cli import search, models, exchange, train, data  # noqa: F401
from xattn.cli.common import app
from xattn.cli.startup import ensure_utf8_names

# isort: on
from xattn.allocator import keep_freed_memory

__all__ = ["app", "main"]


def main() -> None:
    """The entry point of `xattn` and `python -m xattn`."""
    ensure_utf8_names()
    keep_freed_memory()
    if sys.stdout is None:  # closed by whoever started the program
        sys.exit("xattn: standard output is closed; send it to a file or to /dev/null")
    if isinstance(sys.stdout, TextIOWrapper):
        # What the output's encoding lacks, as in a file's name, is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    app(prog_name="xattn")
