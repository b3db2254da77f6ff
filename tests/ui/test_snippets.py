"""Numbers in the page's HTML: the width of the progress bar, the milliseconds of a search."""

import re

import pytest

from xattn.service.search import Status
from xattn.ui import snippets


@pytest.mark.parametrize(
    ("done", "total", "width", "value"),
    [(0, 8, "0.0%", "0"), (1, 8, "12.5%", "12"), (3, 7, "42.9%", "43"), (8, 8, "100.0%", "100")],
)
def test_the_progress_bar_is_as_wide_as_the_share_done(
    done: int, total: int, width: str, value: str
) -> None:
    html = snippets.status(Status("indexing", "Reading", done, total))
    assert re.findall(r"width:([^\"]*)", html) == [width]
    assert re.findall(r'aria-valuenow="([^"]*)"', html) == [value]
    assert f"{done} of {total}" in html
    assert "xa-unknown" not in html


def test_progress_without_a_total_is_unknown() -> None:
    html = snippets.status(Status("loading", "Loading"))
    assert "xa-unknown" in html
    assert " of " not in html


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0614, "61 ms"), (0.0616, "62 ms"), (0.0004, "0 ms"), (1.5, "1500 ms")]
)
@pytest.mark.parametrize("probability", [0.9, 0.01])
def test_the_time_of_a_search_is_shown_in_milliseconds(
    seconds: float, shown: str, probability: float
) -> None:
    html = snippets.summary("a dog", [probability], 3, seconds, nothing_below=0.1)
    assert re.findall(r"\((\d+ ms)\)", html) == [shown]
