"""Draws the rooms of xattn and the imports between them into docs/architecture.md: python docs/draw.py"""

from __future__ import annotations

import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
START, END = "<!-- drawn by docs/draw.py -->\n", "<!-- end -->\n"


def layers() -> list[list[str]]:
    """Rooms by layer, highest first, as import-linter checks them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    lines = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[room.strip() for room in line.split(":")] for line in lines]


def imports() -> dict[str, set[str]]:
    """Each room → the rooms that a module in it imports."""
    graph = grimp.build_graph("xattn", cache_dir=None)
    rooms: dict[str, set[str]] = {}
    for module in graph.modules:
        if "." not in module:
            continue
        room = module.split(".")[1]
        targets = {
            name.split(".")[1] for name in graph.find_modules_directly_imported_by(module) if "." in name
        }
        rooms.setdefault(room, set()).update(targets - {room})
    return rooms


def reduced(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The transitive reduction of an acyclic graph: edges that no longer path implies."""

    def reachable(room: str) -> set[str]:
        return edges[room].union(*(reachable(target) for target in edges[room]))

    return {
        room: {
            target
            for target in targets
            if not any(target in reachable(other) for other in targets - {target})
        }
        for room, targets in edges.items()
    }


def drawing() -> str:
    """A Mermaid flowchart: a box for each layer, an arrow from each room to what it imports."""
    lines = ["```mermaid", "flowchart TD"]
    for number, rooms in enumerate(layers(), 1):
        shown = [room for room in rooms if room != "__main__"]
        if shown:
            lines += [f'  subgraph layer{number}[" "]', *(f"    {room}" for room in shown), "  end"]
    edges = reduced(imports())
    lines += [
        f"  {room} --> {target}"
        for room in sorted(edges)
        for target in sorted(edges[room])
        if room != "__main__"
    ]
    return "\n".join([*lines, "```", ""])


if __name__ == "__main__":
    before, rest = PAGE.read_text("utf-8").split(START)
    _, after = rest.split(END)
    PAGE.write_text(before + START + drawing() + END + after, "utf-8")
