"""Seconds until `xattn --help` answers, and until the default model is loaded, each in fresh processes."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.record import PROJECT_DIR, interleaved, milliseconds, record

ROUNDS = 7
LOAD = """
import time, torch, xattn.checkpoint
started = time.perf_counter()
xattn.checkpoint.load_model("default")
print(time.perf_counter() - started)
"""


def main() -> None:
    def python(*args: str) -> str:
        return subprocess.run(
            [sys.executable, *args], cwd=PROJECT_DIR, capture_output=True, text=True, check=True
        ).stdout

    loads: list[float] = []
    seconds = interleaved(
        {
            "help": lambda: python("-m", "xattn", "--help"),
            "load_process": lambda: loads.append(float(python("-c", LOAD))),
        },
        ROUNDS,
        warmups=1,
    )
    record(
        "startup",
        {
            "xattn --help": milliseconds(seconds["help"]),
            "load_model": milliseconds(loads[1:]),
            "process that imports and loads": milliseconds(seconds["load_process"]),
        },
    )


if __name__ == "__main__":
    main()
