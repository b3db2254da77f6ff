"""Whether the hub that models come from can be reached.

Its client tries each file for about half a minute before it says that there is no network.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import huggingface_hub
from huggingface_hub import constants

ANSWER_SECONDS = 4.0
"""How long the hub has to answer before it counts as out of reach."""


@contextmanager
def reachable_hub() -> Iterator[bool]:
    """Gives whether the hub answers. If not, its client reads only files of this machine meanwhile."""
    was_offline = constants.HF_HUB_OFFLINE
    reachable = not was_offline and _answers()
    constants.HF_HUB_OFFLINE = not reachable
    try:
        yield reachable
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def _answers() -> bool:
    answered = threading.Event()

    def ask() -> None:
        try:
            huggingface_hub.get_session().head(constants.ENDPOINT, timeout=ANSWER_SECONDS)
        except Exception:  # of whichever library the client is built on
            return
        answered.set()

    # On a thread, because no timeout bounds the search for an address.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return answered.is_set()
