"""A real Mosquitto for the tests that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker.launcher import PrivateBroker


@pytest.fixture(scope="session")
def mosquitto() -> Iterator[PrivateBroker]:
    """One broker on a free loopback port for the whole run. Use names of your own; do not stop it."""
    with PrivateBroker() as broker:
        yield broker


@pytest.fixture
def own_mosquitto() -> Iterator[PrivateBroker]:
    """A broker for one test, which may kill it."""
    with PrivateBroker() as broker:
        yield broker
