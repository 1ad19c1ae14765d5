"""A few dozen seeds of simulated networks; ``make simulate`` runs a thousand."""

from __future__ import annotations

import pytest

from negd.testing.simulation import Simulation


@pytest.mark.parametrize("seed", range(30))
def test_after_quiet_all_are_equal_or_the_ledger_says_why(seed: int) -> None:
    assert Simulation(seed).run() == []


def test_a_network_that_stays_parted_is_found_out() -> None:
    simulation = Simulation(3)
    simulation._heal = lambda: None  # type: ignore[method-assign]
    simulation._crash = lambda: None  # type: ignore[method-assign]
    simulation.groups = list(range(len(simulation.places)))
    simulation._route()
    simulation._part = simulation._cut  # type: ignore[method-assign]
    assert simulation.run() != []
