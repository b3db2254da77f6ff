"""The size of files and functions, and the absence of import cycles."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

import xattn

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
FILES = sorted(path for room in ("xattn", "training", "benchmarks") for path in (ROOT / room).rglob("*.py"))


def long_functions(source: str, limit: int) -> list[str]:
    """Functions with more than `limit` lines, decorators aside, as NAME: LINES."""
    lengths = {
        node.name: (node.end_lineno or node.lineno) - node.lineno + 1
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return [f"{name}: {length}" for name, length in lengths.items() if length > limit]


def test_files_are_short():
    assert len(FILES) > 100
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_functions_of_the_library_are_short():
    too_long = {
        str(path.relative_to(ROOT)): functions
        for path in FILES
        if path.is_relative_to(ROOT / "xattn")
        and (functions := long_functions(path.read_text("utf-8"), MAX_FUNCTION_LINES))
    }
    assert too_long == {}


def test_a_long_function_is_noticed():
    source = "def short():\n    pass\nclass A:\n    async def long(self):\n" + "        pass\n" * 4
    assert long_functions(source, 4) == ["long: 5"]


def test_no_import_cycle():
    graph = grimp.build_graph("xattn", cache_dir=None, exclude_type_checking_imports=True)
    # `xattn` itself imports nothing until one of its names is used.
    imports = {
        module: graph.find_modules_directly_imported_by(module) - {"xattn"}
        for module in graph.modules - {"xattn"}
    }
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the cycle


def test_the_citation_names_this_version():
    assert f"\nversion: {xattn.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
