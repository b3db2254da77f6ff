"""Files that are written whole or not at all."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from pathlib import Path

import pytest

from xattn.files import replacing, write_bytes, write_text


def test_the_new_content_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old é")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_old_content_is_there_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def broken() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the ne")
            raise error

    with pytest.raises(error):
        broken()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "no" / "a.txt", "x")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments_the_old_or_the_new_content_is_there(tmp_path: Path) -> None:
    """What embeddings, overlays, figures and exported files are written with."""
    path, other = tmp_path / "a.npy", tmp_path / "a.jpg"
    contents = [bytes([number]) * 400_000 for number in range(250)]
    write_bytes(path, contents[0])
    other.write_bytes(b"a person's own")
    seen = set()
    for kill in range(50):
        written, writes = os.pipe()
        child = os.fork()
        if child == 0:
            for content in itertools.cycle(contents[1:]):
                write_bytes(path, content)
                os.write(writes, b".")
        os.close(writes)
        assert os.read(written, 1) == b"."  # on a slow disk the first write takes longer than any sleep
        os.close(written)
        time.sleep(random.Random(kill).uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        content = path.read_bytes()
        assert content in contents, f"kill {kill}: a part of a file"
        seen.add(content[0])
    assert len(seen) > 1, "no child came to write anything"
    assert other.read_bytes() == b"a person's own"
