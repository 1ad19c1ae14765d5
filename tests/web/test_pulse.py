"""What the daemon says of its own lateness."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from negd.web.pulse import Pulse


def test_the_worst_delay_of_the_last_minute_is_told() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    pulse.start()
    clock.pump([0.05] * 40)
    assert pulse.worst == pytest.approx(0, abs=1e-6)
    clock.advance(0.05 + 0.3)  # one turn of the reactor took 0.3 s
    clock.pump([0.05] * 20)
    clock.advance(0.05 + 0.2)
    assert pulse.worst == pytest.approx(0.3)
    clock.pump([0.05] * 20 * 59)
    assert pulse.worst == pytest.approx(0.2)
    clock.pump([0.05] * 20 * 3)
    assert pulse.worst == pytest.approx(0, abs=1e-6)
    pulse.stop()
    assert clock.getDelayedCalls() == []
