"""What `import xattn` offers, exactly: a name that comes or goes is a decision, not an accident."""

import subprocess
import sys

import pytest

import xattn

NAMES = {
    # functions
    "attention_weights",
    "ground",
    "load_model",
    "open",
    # classes
    "Engine",
    "IndexInfo",
    "XAttnModel",
    # values
    "AddReport",
    "Box",
    "Grounding",
    "Hit",
    "Phrase",
    "Progress",
    "RegionGrid",
    "ScoredBox",
    "Skipped",
    # errors
    "CheckpointError",
    "DataError",
    "ImageError",
    "IndexBusy",
    "IndexMismatch",
    "MissingExtra",
    "ModelNotFound",
    "QueryError",
    "StoreError",
    "TrainingStopped",
    "XattnError",
    "__version__",
}


def test_names():
    assert set(xattn.__all__) == NAMES
    assert set(dir(xattn)) >= NAMES


@pytest.mark.parametrize("name", sorted(NAMES - {"__version__"}))
def test_every_name_resolves(name):
    value = getattr(xattn, name)
    assert value.__module__.startswith("xattn.")
    assert value.__name__ == {"open": "open_index"}.get(name, name)


def test_every_error_is_offered():
    from xattn import errors

    raised = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert raised <= NAMES


def test_unknown_name():
    with pytest.raises(AttributeError, match="has no attribute 'serach'"):
        xattn.serach  # noqa: B018


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_is_cheap():
    heavy = {"torch", "numpy", "PIL", "faiss", "gradio", "transformers", "typer", "rich", "textblob"}
    loaded = run_python("import sys, xattn; print(*sys.modules)").split()
    assert "xattn" in loaded
    assert not heavy & set(loaded)


def test_star_import_gives_every_name():
    assert set(run_python("from xattn import *; print(*dir())").split()) >= NAMES
