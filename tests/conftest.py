"""A real Mosquitto for the tests that need one, and the order of all tests."""

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from broker.deployment.certificates import make_certificates
from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings

# Several processes share the cores, and other programs may: torch computes on one thread in each, as in a worker, and
# how long an example takes says nothing about the code.
os.environ.setdefault("OMP_NUM_THREADS", "1")
hypothesis.settings.register_profile("many properties", deadline=None, max_examples=50)
hypothesis.settings.load_profile("many properties")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a real model or a bound of their own first: the longest would else end beside nothing."""
    long = {
        item.path for item in items if any(item.iter_markers("model")) or any(item.iter_markers("timeout"))
    }
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """Torch goes on with one thread where a test before has given it more, as a worker does."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_settings_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide the user's own settings for daemons from the tests: environment variables and configuration folder."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(
                ("FLEXSPEC_EDGE_", "FLEXSPEC_CLOUD_", "FLEXSPEC_BROKER_", "FLEXSPEC_CHAT_", "FLEXSPEC_HEAD_")
            ):
                patch.delenv(name)
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        # Else nodes of tests would keep requests and answers where the user's own nodes of these names keep theirs.
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.setenv("FLEXSPEC_EDGE_REMEMBER", "false")
        yield


@pytest.fixture(scope="session")
def mosquitto() -> Iterator[PrivateBroker]:
    """A broker on a free loopback port for the whole run. Use names of your own; do not stop it."""
    with PrivateBroker() as broker:
        yield broker


@pytest.fixture(scope="module")
def module_mosquitto() -> Iterator[PrivateBroker]:
    """A broker for the tests of one file, which may kill it if they start it again."""
    with PrivateBroker() as broker:
        yield broker


@pytest.fixture(scope="module")
def tls_mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateBroker]:
    """A broker with TLS for the tests of one file, whose certificate is for 127.0.0.1."""
    tls = make_certificates(tmp_path_factory.mktemp("tls"), ["127.0.0.1"])
    with PrivateBroker(BrokerSettings(port=0, tls=tls)) as broker:
        yield broker


@pytest.fixture
def own_mosquitto() -> Iterator[PrivateBroker]:
    """A broker for one test, which may kill it."""
    with PrivateBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder: a model of two layers, a context of 2,048 and a tokenizer of bytes."""
    pytest.importorskip("transformers")
    from tests.models.tiny_checkpoints import byte_level_tokenizer, save, tiny_llama

    model = tiny_llama(max_position_embeddings=2048, head_dim=16)
    return save(tmp_path_factory.mktemp("tiny"), model, byte_level_tokenizer())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four megabytes."""
    where = tmp_path / "disk"
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", where], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk of its own can be made here: {mounted.stderr.strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", where], check=True)


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home folder, as some services run, and nothing that says where to keep things instead."""

    def nobody(_uid: int) -> None:
        raise KeyError("no such user")

    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
