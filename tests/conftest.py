"""What holds for every test: shapes are checked, the network is out of reach, nothing is downloaded."""

import multiprocessing
import os
import shutil
import socket

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  the hook looks its name up

# Helpers beside this file whose asserts must say what they compared, as those of tests do. Fixtures that
# several files share lie with the helpers, as NAME_fixture; a file imports those that it uses.
pytest.register_assert_rewrite("tests.cli_runs", "tests.engine_photos", "tests.stores")

# Before the first import of xattn: every annotated shape and type in it is then checked at run time.
install_import_hook("xattn", "tests.typecheck.checked")

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
# A person's own settings must not reach the tests.
for name in ("XATTN_INDEX", "XATTN_MODEL"):
    os.environ.pop(name, None)

# Processes that tests start are forked from one that has imported this, once for the whole run: a process
# that imports torch by itself takes seconds. There is one such server, so no test may ask for another.
multiprocessing.set_forkserver_preload(["tests.training.test_resume", "torch.distributed.fsdp"])

torch.set_num_threads(min(2, os.cpu_count() or 1))
# Times vary with the machine's load; a deadline would make tests fail for no fault of the code.
settings.register_profile("xattn", deadline=None)
settings.load_profile("xattn")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("browser") and missing:
            item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(missing)}"))


def _is_local(address: object) -> bool:
    """Whether a socket's address lies on this machine: a path, or a loopback host."""
    if not isinstance(address, tuple):
        return True
    host = str(address[0])
    return host in ("localhost", "::1", "0.0.0.0", "::", "") or host.startswith("127.")


@pytest.fixture(scope="session", autouse=True)
def _no_network():
    """Connections to other machines, and look-ups of their names, fail the test that tries."""

    def guarded(original, address_of):
        def call(*args, **kwargs):
            address = address_of(args)
            if not _is_local(address):
                raise AssertionError(f"a test tried to reach {address}: tests run without a network")
            return original(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            original = getattr(socket.socket, name)
            patch.setattr(socket.socket, name, guarded(original, lambda args: args[1]))
        looked_up = guarded(socket.getaddrinfo, lambda args: (args[0] or "",))
        patch.setattr(socket, "getaddrinfo", looked_up)
        yield
