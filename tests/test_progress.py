"""The pace that progress tells: not of what was done before, and not of the first moment."""

from __future__ import annotations

import pytest

from xattn.terminal import _Pace


def test_what_was_done_before_is_not_counted() -> None:
    pace = _Pace()
    burst = [pace.at(done, 0.0001 * done) for done in range(1, 3000)]  # kept by an earlier run
    assert set(burst) == {None}
    told = [pace.at(3000 + step, 0.3 + 0.5 * step) for step in range(1, 21)]
    assert told[0] is None, "nothing is known yet"
    assert told[-1] == pytest.approx(2.0, rel=0.1)
    assert max(value for value in told if value is not None) < 2.5


def test_the_pace_is_that_of_late() -> None:
    pace = _Pace()
    for second in range(100):
        pace.at(10 * second, float(second))
    found = [pace.at(1000 + step, 100.0 + step) for step in range(60)]
    assert found[-1] == pytest.approx(1.0, rel=0.05)
