"""What must be right before a command runs: the encoding of names, and the working directory."""

from __future__ import annotations

import os
import sys

from xattn.errors import XattnError


def ensure_utf8_names() -> None:
    """Starts this program anew in Python's UTF-8 mode where the locale is POSIX, as in cron and services.

    There Python takes names of files and arguments for ASCII, so that a name in UTF-8 looks invalid.
    """
    is_ascii = sys.getfilesystemencoding().lower() in ("ascii", "us-ascii", "ansi_x3.4-1968")
    if is_ascii and not sys.flags.utf8_mode and sys.executable:
        # Arguments are encoded as they were decoded: they reach the new process byte by byte.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def check_working_directory() -> None:
    """Raises XattnError if the working directory is gone, where libraries would end the process."""
    try:
        os.getcwd()
    except OSError as error:
        raise XattnError(
            "the working directory no longer exists: go to another folder (cd) and give the command again"
        ) from error
