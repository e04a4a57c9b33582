"""A deployment's keys, for each test its own."""

from pathlib import Path

import pytest

from broker.launcher import PrivateBroker
from lab.testbed.memory_broker import MemoryBroker
from tests.keys.deployments_of_keys import KeyedDeployment


@pytest.fixture
def keys(tmp_path: Path) -> KeyedDeployment:
    return KeyedDeployment(tmp_path)


@pytest.fixture
def memory() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def broker(own_mosquitto: PrivateBroker) -> PrivateBroker:
    """A broker that no worker of another deployment has left a status at."""
    return own_mosquitto
