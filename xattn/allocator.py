"""What a program tells the system's allocator before it starts to work."""

from __future__ import annotations

import ctypes

TOP_PAD = 64 * 2**20
"""Bytes by which the heap grows at least, so that it rarely has to."""


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory: pictures are encoded faster, and training takes half the time.

    By default it returns large blocks to the system when they are freed, so that each new tensor is made of
    new pages, which the system fills with zeros first. The process then stays as large as it ever was. For
    programs to call when they start, not for the library; elsewhere than on glibc nothing is done.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # from glibc's malloc.h
    largest = 2**31 - 1
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return
    mallopt(trim_threshold, largest)
    mallopt(top_pad, TOP_PAD)
    mallopt(mmap_max, 0)
