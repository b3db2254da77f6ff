"""Keeps a measured result: figures with the command, commit, device and date they belong to."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

PROJECT_DIR = Path(__file__).resolve().parents[1]
RESULTS = PROJECT_DIR / "benchmarks" / "results"


def record(name: str, figures: object) -> None:
    """Prints the figures and writes them to results/NAME.json."""
    module = sys.modules["__main__"].__spec__
    command = " ".join(["python -m", module.name if module else sys.argv[0], *sys.argv[1:]])
    entry = {
        "command": command,
        "commit": commit(),
        "device": device(),
        "date": datetime.date.today().isoformat(),
        "figures": figures,
    }
    text = json.dumps(entry, indent=2, ensure_ascii=False)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def commit() -> str:
    """Hash of the commit measured, with "+" where tracked files differ from it."""

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", *args], cwd=PROJECT_DIR, capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = git(
        "status", "--porcelain", "--untracked-files=no", "--", "xattn", "training", "benchmarks/*.py"
    )
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


def device() -> str:
    """Processor, threads and PyTorch's version."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__.split('+')[0]}"


def interleaved(
    actions: dict[str, Callable[[], object]], rounds: int, warmups: int = 2
) -> dict[str, list[float]]:
    """Seconds of each action in each round. They take turns, so that a slow moment hits all of them."""
    for _ in range(warmups):
        for action in actions.values():
            action()
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and least of some times."""
    ordered = sorted(seconds)
    return {
        "median_ms": round(1000 * statistics.median(ordered), 2),
        "p95_ms": round(1000 * ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 2),
        "least_ms": round(1000 * ordered[0], 2),
    }
