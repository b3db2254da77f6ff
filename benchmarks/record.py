"""How a benchmark is run from the command line and written down.

Every result names its command, commit, device and date, so that it can be repeated, and how much of the
processor other programs used meanwhile, so that a figure from a busy machine is not taken for the truth.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from xattn.allocator import keep_freed_memory
from xattn.engine import Engine, open_index
from xattn.model import XAttnModel
from xattn.service.samples import PROJECT_DIR, Samples

RESULTS = PROJECT_DIR / "benchmarks" / "results"
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")]
QUIET = 0.05
"""Share of the processor that other programs may use before a result says that it should be repeated."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. at_most, at_least: what it is meant to reach, in the same unit."""

    name: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def target(self) -> str:
        bounds = (("≤", self.at_most), ("≥", self.at_least))
        return " ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)

    @property
    def met(self) -> bool | None:
        """None where there is no target."""
        if self.at_most is None and self.at_least is None:
            return None
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"name": self.name, "value": _rounded(self.value), "unit": self.unit}
        return found if self.met is None else {**found, "target": self.target, "met": self.met}


@dataclass(frozen=True, slots=True)
class Result:
    """figures: in the order they are shown; setting: what else a reader has to know to repeat them."""

    figures: Sequence[Figure]
    setting: dict[str, Any] = field(default_factory=dict)


def main(name: str, summary: str, measure: Callable[[Path], Result]) -> None:
    """Runs a benchmark: takes --out, measures, prints the table, writes NAME.json.

    measure: is given the folder for results, which exists.
    """
    keep_freed_memory()  # as all programs of xattn do

    def run(out: Out = RESULTS) -> None:
        out.mkdir(parents=True, exist_ok=True)
        commit = current_commit()
        others = OtherPrograms()
        result = measure(out)
        busy = others.share()
        figures = [figure.as_json() for figure in result.figures]
        keep(name, {"other_programs": busy, **result.setting, "figures": figures}, out, commit)
        show(name, result.figures, busy)

    run.__doc__ = summary
    typer.run(run)


def keep(
    name: str,
    found: Mapping[str, Any],
    out: Path = RESULTS,
    commit: str | None = None,
    script: str | None = None,
) -> None:
    """Writes NAME.json: what was found, with command, commit, date and device.

    commit: else the latest; script: the one that was run, else the one of that name
    """
    record = {
        "benchmark": name,
        "command": shlex.join(["python", "-m", f"benchmarks.{script or name}", *sys.argv[1:]]),
        "commit": commit or current_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device(),
        **found,
    }
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (out / f"{name}.json").write_text(text, encoding="utf-8")


def show(name: str, figures: Sequence[Figure], busy: float | None) -> None:
    """Prints the table."""
    table = Table("figure", "measured", "target", title=name)
    table.columns[1].justify = "right"
    for figure in figures:
        verdict = {None: "", True: "  met", False: "  MISSED"}[figure.met]
        table.add_row(figure.name, f"{_rounded(figure.value):g} {figure.unit}", figure.target + verdict)
    console = Console()
    console.print(table)
    if busy is not None and busy > QUIET:
        console.print(f"Other programs used {busy:.0%} of the processor: repeat this on a quiet machine.")


def device() -> dict[str, Any]:
    """What the figures depend on, apart from the code."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux has it
        cores = os.cpu_count() or 1
    return {
        "cpu": _cpu_name(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def about(model: XAttnModel) -> dict[str, str]:
    """Which model was measured, for `Result.setting`."""
    return {"model": model.name, "fingerprint": model.fingerprint}


@contextmanager
def indexed_samples(model: XAttnModel, folder: Path) -> Iterator[Engine]:
    """The sample photos, indexed in `folder`, which is empty or does not exist yet."""
    with open_index(folder, model) as engine:
        engine.add(Samples().photos)
        yield engine


class OtherPrograms:
    """Measures, from when it is made, what share of the processor other programs used. Linux only."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._before = self._others()

    def share(self) -> float | None:
        before, after = self._before, self._others()
        if before is None or after is None:
            return None
        seconds = (time.monotonic() - self._started) * (os.cpu_count() or 1)
        return round(max(0.0, after - before) / seconds, 3)

    @staticmethod
    def _others() -> float | None:
        """Processor seconds of all programs but this one and those it started."""
        try:
            with open("/proc/stat", encoding="ascii") as file:
                user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
        except (OSError, ValueError):
            return None
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return busy - sum(os.times()[:4])


def current_commit() -> str | None:
    """None outside a git repository; "-dirty" if files differ from it, results apart."""
    status = ["status", "--porcelain", "--", ".", ":!benchmarks/results"]
    try:
        commit, changed = (
            subprocess.run(
                ["git", *arguments], cwd=PROJECT_DIR, capture_output=True, text=True, check=True
            ).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], status)
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("-dirty" if changed else "")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _rounded(value: float) -> float:
    """To four significant digits: more than any of them is worth."""
    return float(f"{value:.4g}")
