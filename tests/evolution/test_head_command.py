"""``flexspec head`` against a real Mosquitto."""

import asyncio
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from broker.launcher import PrivateBroker
from flexspec_mq import topics
from flexspec_mq.catalogue import editing
from flexspec_mq.catalogue.signing import PrivateKey, opened, seal
from flexspec_mq.catalogue.store import Store
from flexspec_mq.cli import main
from flexspec_mq.codec import Codec
from flexspec_mq.daemon.dated import DAY, LIFETIME
from flexspec_mq.daemon.tasks import running
from flexspec_mq.errors import LinkError, UsageError
from flexspec_mq.evolution.analysis import DEFAULT_RULE, LEAST, PROMOTE_AFTER
from flexspec_mq.evolution.catalogue_client import LostRace, catalogue_client
from flexspec_mq.evolution.evidence import Evidence
from flexspec_mq.evolution.overview import Statuses
from flexspec_mq.evolution.settings import HeadConfig, HeadOptions
from flexspec_mq.evolution.watch import Judge, Watcher
from flexspec_mq.heads.manifest import MANIFEST, Canary, Manifest, file_entry
from flexspec_mq.transport.arguments import LinkOptions
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.mqtt import mqtt_link
from schemas.catalogue import Catalogue, KeySet, VersionState
from schemas.status import VersionStatus, WorkerStatus

pytest.importorskip("transformers")

import torch
from safetensors.torch import save_file

from flexspec_mq.models.head_files import ADAPTER, CONFIG
from tests.broker.deployments import as_client, good, made
from tests.broker.deployments import running as broker_running
from tests.evolution.statuses import edge_status, figures
from tests.families import simple
from tests.models.tiny_checkpoints import TEMPLATE, byte_level_tokenizer, save, tiny_llama

LAYER_6 = "base_model.model.model.layers.6.self_attn.q_proj"
_numbers = itertools.count()
Run = Callable[..., tuple[int, str, str]]


@dataclass
class Site:
    """A family of its own at the broker, keys on disk, and a place for heads."""

    folder: Path
    mosquitto: PrivateBroker
    family: str
    root: str
    online: str

    @property
    def heads(self) -> Path:
        return self.folder / "heads"

    def key(self, name: str = "online") -> Path:
        return self.folder / f"{name}.pem"

    def signer(self) -> PrivateKey:
        return PrivateKey.load(self.key())

    def config(self, state: str = "state") -> HeadConfig:
        link = LinkOptions(broker=f"{self.mosquitto.host}:{self.mosquitto.port}")
        return HeadConfig(link=link, head=HeadOptions(family=self.family, state_dir=self.folder / state))

    def head(self, name: str, change: Callable[[dict[str, torch.Tensor]], object] = id, **facts: Any) -> Path:
        """A LoRA head of one layer for a base that nobody has, with a scale that depends on its name.

        `change` edits its tensors; `facts` are fields of its manifest.
        """
        folder = self.folder / name
        folder.mkdir()
        alpha = int.from_bytes(name.encode()) % 2**20
        places = {"target_modules": ["q_proj"], "layers_to_transform": [6]}
        (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": alpha, **places}))
        tensors = {f"{LAYER_6}.lora_A.weight": torch.ones(1, 4), f"{LAYER_6}.lora_B.weight": torch.ones(4, 1)}
        change(tensors)
        save_file(tensors, folder / ADAPTER)
        files = (file_entry(folder / CONFIG), file_entry(folder / ADAPTER))
        usual: dict[str, Any] = simple(canaries=(Canary((1,), (2,)),))
        manifest = Manifest(**{"dtype": "float32", "files": files, **usual, **facts})
        (folder / MANIFEST).write_bytes(manifest.encode())
        return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker is on this machine."""
    monkeypatch.setattr("flexspec_mq.waiting.RETAINED", 0.4)
    monkeypatch.setattr("flexspec_mq.waiting.ANSWER", 0.2)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str | Path) -> tuple[int, str, str]:
        if words[0] == "publish" and "--base" not in words:
            words = (*words, "--base", "none", "--unserved")
        code = main(["head", *map(str, words)])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def ok(run: Run, *words: object) -> str:
    """Standard output of a command that must succeed."""
    code, out, err = run(*words)
    assert code == 0, err
    return out


def refused(run: Run, says: str, *words: object, code: int = 2) -> str:
    """Standard error of a command that must end with this exit code and message."""
    ended, _, err = run(*words)
    assert ended == code, (words, err)
    assert says in err, (words, err)
    return err


@pytest.fixture
def site(tmp_path: Path, mosquitto: PrivateBroker, run: Run, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Commands are told of it by the environment."""
    keys = [ok(run, "keygen", tmp_path / f"{name}.pem").strip() for name in ("root", "online")]
    site = Site(tmp_path, mosquitto, f"commanded{next(_numbers)}", *keys)
    for name, value in (
        ("BROKER", f"{mosquitto.host}:{mosquitto.port}"),
        ("FAMILY", site.family),
        ("STATE_DIR", tmp_path / "state"),
        ("ROOT_KEY", site.root),
        ("KEY", site.key()),
    ):
        monkeypatch.setenv(f"FLEXSPEC_HEAD_{name}", str(value))
    return site


@pytest.fixture
def begun(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> Site:
    """With a key set and a stable version, for which all wait from now on, however late they come."""
    ok(run, "trust", "--root", site.key("root"), "--signer", site.online, "--serial", "1")
    ok(run, "publish", site.head("one"), "--name", "v1", "--first", "--heads", site.heads)
    monkeypatch.setattr("flexspec_mq.waiting.RETAINED", 30.0)
    return site


def reader(site: Site) -> LinkSettings:
    """Settings of a separate link to the site's broker."""
    return LinkSettings(
        host=site.mosquitto.host, port=site.mosquitto.port, client_id=f"reader-{next(_numbers)}"
    )


async def cleared(site: Site, *cleared: str) -> None:
    """Nothing is kept on these topics; other tests share the broker."""
    async with mqtt_link(reader(site)) as link:
        await link.wait_up(60)
        for topic in cleared:
            await link.publish(topic, b"", qos=1, retain=True)


async def retained(site: Site | LinkSettings, topic: str, *publish: bytes) -> bytes:
    """Payload that the broker retains on a topic, after these were published there."""
    async with mqtt_link(reader(site) if isinstance(site, Site) else site) as link:
        await link.wait_up(60)
        for payload in publish:
            await link.publish(topic, payload, qos=1, retain=True)
        await link.subscribe(topic)
        async with asyncio.timeout(60):
            async for event in link.events():
                if getattr(event, "topic", "") == topic:
                    return bytes(event.payload)  # type: ignore[union-attr]
    raise AssertionError(topic)


def at_broker(site: Site) -> Catalogue:
    payload = asyncio.run(retained(site, topics.catalogue_topic(site.family)))
    return opened(payload, Catalogue, site.family).body


def states(catalogue: Catalogue) -> dict[str, tuple[VersionState, int]]:
    return {version.name: (version.state, version.share) for version in catalogue.versions}


STABLE, CANARY, DRAINING = (VersionState.STABLE, 0), VersionState.CANARY, (VersionState.DRAINING, 0)
RETIRED = (VersionState.RETIRED, 0)
EDITS: dict[tuple[str, ...], dict[str, object]] = {
    ("promote", "v2"): {"v1": DRAINING, "v2": STABLE},
    ("rollback", "v1"): {"v1": STABLE, "v2": DRAINING},
    ("retire", "v2"): {"v1": STABLE, "v2": RETIRED},
}
"""Edits of a stable v1 and its canary v2, one after the other, with the states after each."""


def test_a_life_of_versions(begun: Site, run: Run) -> None:
    out = ok(run, "publish", begun.head("two"), "--name", "v2", "--share", "20")
    assert "copied" in out
    assert "does not say when it is on its disk" in out
    first = at_broker(begun)
    assert states(first) == {"v1": STABLE, "v2": (CANARY, 20)}
    lies = begun.heads / first.versions[1].digest.hex()
    assert {path.name for path in lies.iterdir()} == {MANIFEST, CONFIG, ADAPTER}
    for words, after in (*EDITS.items(), (("renew",), {"v1": STABLE, "v2": RETIRED})):
        ok(run, *words)
        catalogue = at_broker(begun)
        assert states(catalogue) == after
        assert catalogue.epoch > first.epoch
        first = catalogue


def test_what_cannot_be_done_says_so_and_changes_nothing(
    begun: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = at_broker(begun)
    two = begun.head("two")
    (begun.folder / "blocked").write_text("no folder")
    other = ok(run, "keygen", begun.key("other")).strip()
    first = ("--first", "--heads", begun.heads)
    cases: list[tuple[tuple[str | Path, ...], str]] = [
        (("promote", "v9"), "no version"),
        (("publish", two, "--name", "a/b"), "cannot stand in a topic"),
        (("publish", two, "--name", "v2", "--share", "101"), "between 1 and 100"),
        (("publish", two, "--name", "v2", "--key", begun.key("other")), "asks for 1"),
        (("publish", two, "--name", "v2", "--upload", begun.folder / "blocked"), "copy the files"),
        (("publish", two, "--name", "v2", "--heads", begun.heads), "goes with --first"),
        (("publish", two, "--name", "v2", "--first"), "needs --heads"),
        (("publish", two, "--name", "v2", *first), "a catalogue already"),
        (("publish", begun.folder, "--name", "v2"), "cannot be read"),
        (("keygen", begun.key()), "there already"),
        (("promote", "v1", "--root-key", other), "root"),
    ]
    for words, message in cases:
        code, _, err = run(*words)
        assert code, words
        assert message in err, (words, err)
    monkeypatch.delenv("FLEXSPEC_HEAD_KEY")
    refused(run, "--key", "publish", two, "--name", "v2")
    assert at_broker(begun) == before


def test_a_head_whose_files_are_others_is_not_published(begun: Site, run: Run) -> None:
    two = begun.head("two")
    (two / ADAPTER).write_text("not two")
    refused(run, "not the file", "publish", two, "--name", "v2", code=3)
    assert len(list(begun.heads.iterdir())) == 1


BAD_HEADS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], dict[str, Any], str]] = {
    "a weight that is no number": (
        lambda t: t[f"{LAYER_6}.lora_B.weight"].fill_(torch.nan),
        {},
        "not finite",
    ),
    "a layer of the backbone, which its manifest allows": (
        lambda t: t.update({name.replace("6", "5"): tensor.clone() for name, tensor in t.items()}),
        {"floor": 5},
        "make it with --floor 6",
    ),
}


@pytest.mark.parametrize("bad", BAD_HEADS)
def test_what_no_worker_should_hold_is_not_published_though_its_base_is_elsewhere(
    begun: Site, run: Run, bad: str
) -> None:
    before = at_broker(begun)
    change, facts, says = BAD_HEADS[bad]
    head = begun.head("bad", change, **facts)
    refused(run, says, "publish", head, "--name", "v2", code=3)
    assert at_broker(begun) == before
    assert len(list(begun.heads.iterdir())) == 1, "nothing was copied"


def test_a_head_is_checked_with_its_base(site: Site, run: Run) -> None:
    tiny = tiny_llama(num_hidden_layers=8, max_position_embeddings=128)
    base = save(site.folder / "tiny", tiny, byte_level_tokenizer(template=TEMPLATE))
    ok(run, "trust", "--root", site.key("root"), "--signer", site.online, "--serial", "1")
    ok(run, "base", "--base", base, "--out", site.folder / "first", "--dtype", "float32")
    first = ("--first", "--heads", site.heads)
    out = ok(run, "publish", site.folder / "first", "--name", "v1", "--base", base, *first)
    assert "without its base" not in out
    before, like = at_broker(site), json.loads((site.folder / "first" / MANIFEST).read_text())
    of_base = {"base": like["base"], "tokenizer": like["tokenizer"], "layers": 8}
    fits = lambda t: t.update(  # noqa: E731
        {f"{LAYER_6}.lora_A.weight": torch.ones(1, 16), f"{LAYER_6}.lora_B.weight": torch.ones(16, 1)}
    )
    head = site.head("other texts", fits, canaries=(Canary((1,), (5,) * 9),), **of_base)
    refused(run, "of the canaries' tokens", "publish", head, "--name", "v2", "--base", base, code=3)
    assert at_broker(site) == before
    assert "checked without its base" in ok(run, "publish", head, "--name", "v2")
    trained = lambda t: t.update(  # noqa: E731
        {f"{LAYER_6}.lora_A.weight": torch.randn(1, 16), f"{LAYER_6}.lora_B.weight": torch.randn(16, 1)}
    )
    (adapter := site.head("as peft saves it", trained)).joinpath(MANIFEST).unlink()
    refused(run, "`import` makes one", "publish", adapter, "--name", "v3", "--base", base, code=3)
    ok(run, "import", adapter, "--base", base, "--out", site.folder / "imported")
    ok(run, "publish", site.folder / "imported", "--name", "v3", "--base", base)


def test_a_url_to_which_no_worker_goes_is_not_announced(begun: Site, run: Run) -> None:
    """Which these are is tested in tests/heads."""
    url, says = "reference:///srv/heads", "its scheme is reference"
    before = at_broker(begun)
    refused(run, says, "renew", "--heads", url)
    refused(run, says, "publish", begun.head("two"), "--name", "v2", "--first", "--heads", url)
    assert at_broker(begun) == before
    # A URL that an earlier release announced is not gone to.
    old = msgspec.structs.replace(editing.renewed(before, time.time()), heads=url)
    asyncio.run(retained(begun, topics.catalogue_topic(begun.family), seal(old, [begun.signer()])))
    refused(run, says, "publish", begun.folder / "two", "--name", "v2")
    ok(run, "renew", "--heads", begun.heads)
    ok(run, "publish", begun.folder / "two", "--name", "v2")


def test_http_is_for_workers_that_are_told_so(begun: Site, run: Run) -> None:
    out = ok(run, "renew", "--heads", "http://127.0.0.1:9/heads")
    assert "have this URL as their own --heads" in out
    words = ("publish", begun.head("two"), "--name", "v2")
    refused(run, "nobody here has named that host", *words)
    ok(run, *words, "--upload", begun.heads)


def test_a_version_of_another_base_is_published_where_it_speaks_the_familys_tokens(
    begun: Site, run: Run
) -> None:
    base = "0123abcd" * 4
    other, third = begun.head("other", base=base), begun.head("third", base=base)
    out = ok(run, "publish", other, "--name", "w1", "--share", "20")
    assert "another base" in out
    ok(run, "promote", "w1")
    ok(run, "publish", third, "--name", "w2")
    ok(run, "publish", begun.head("two"), "--name", "v2")
    bases = {version.name: version.base.hex() for version in at_broker(begun).versions}
    assert bases == {"v1": "", "w1": base[:8], "w2": base[:8], "v2": ""}
    listed = json.loads(run("list", "--json", "--wait", "0.1")[1])["versions"]
    assert [version["draft"] for version in listed] == ["shared", "independent", "independent", "shared"]
    before = at_broker(begun)
    strange = begun.head("strange", base=base, tokenizer="2" * 32)
    assert "--first" in refused(run, "tokenizer", "publish", strange, "--name", "x1", code=3)
    # Nobody knows any more which base the family has.
    away = begun.folder / "away"
    away.mkdir()
    for version in before.versions:
        if not version.base:
            (begun.heads / version.digest.hex()).rename(away / version.digest.hex())
    refused(run, "which base", "publish", begun.head("four"), "--name", "v4")
    assert at_broker(begun) == before
    ok(run, "publish", begun.folder / "two", "--name", "v2")
    ok(run, "publish", begun.folder / "four", "--name", "v4")
    assert not at_broker(begun).versions[-1].base


def test_what_nobody_could_look_at_or_serve_is_published_only_if_that_is_said(
    begun: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its base a head is looked at by workers that have it, as their statuses tell."""
    before, codec, unseen = at_broker(begun), Codec(), ("--base", "none")
    names = [f"{name}-{begun.family}" for name in ("family", "other", "gone")]

    def told(worker: str, version: str, state: Literal["ready", "refused"], online: bool = True) -> None:
        held = {one.name: one.digest.hex()[:16] for one in at_broker(begun).versions}
        said = VersionStatus(name=version, digest=held[version], state=state)
        status = WorkerStatus(
            state="online" if online else "gone", epoch=1, at=0.0, worker=worker, versions=(said,)
        )
        asyncio.run(retained(begun, topics.worker_status_topic(worker), codec.encode_status(status)))

    own = ("publish", begun.head("two"), "--name", "v2", *unseen)
    other = ("publish", begun.head("other", base="0123abcd" * 4), "--name", "w1", *unseen)
    monkeypatch.setattr("flexspec_mq.waiting.RETAINED", 3.0)
    assert "--unserved" in refused(run, "no worker is there that serves a version of the family's base", *own)
    told(names[2], "v1", "ready", online=False)
    told(names[1], "v1", "refused")  # as a worker of another base does
    refused(run, "of the family's base", *own)
    told(names[0], "v1", "ready")
    refused(run, "of the base 0123abcd", *other)
    assert at_broker(begun) == before
    assert len(list(begun.heads.iterdir())) == 1, "nothing was copied"
    monkeypatch.setattr("flexspec_mq.waiting.RETAINED", 30.0)
    ok(run, *own)
    ok(run, *other, "--unserved")
    ok(run, *other)  # it is out, and may have to be copied again
    told(names[1], "w1", "ready")
    ok(run, "publish", begun.head("more", base="0123abcd" * 4), "--name", "w2", "--share", "5", *unseen)
    assert set(states(at_broker(begun))) == {"v1", "v2", "w1", "w2"}
    asyncio.run(cleared(begun, *map(topics.worker_status_topic, names)))


def test_a_damaged_head_at_the_url_is_copied_again(begun: Site, run: Run) -> None:
    (lies,) = begun.heads.iterdir()
    (lies / ADAPTER).write_text("spoilt")
    assert "copied" in ok(run, "publish", begun.folder / "one", "--name", "v1", "--state", "stable")
    assert (lies / ADAPTER).read_bytes() == (begun.folder / "one" / ADAPTER).read_bytes()


def test_key_sets_by_way_of_a_machine_without_a_network(begun: Site, run: Run) -> None:
    second = ok(run, "keygen", begun.key("second")).strip()
    out = begun.folder / "keys.signed"
    offline = ("trust", "--root", begun.key("root"), "--out", out)
    both = ("--signer", begun.online, "--signer", second, "--threshold", "2")
    refused(run, "needs --serial", *offline, *both)
    ok(run, *offline, *both, "--serial", "2")
    said = ok(run, "send", out)
    assert "renew" in said
    refused(run, "asks for 2 signatures", "renew")
    ok(run, "renew", "--key", begun.key(), "--key", begun.key("second"))
    assert at_broker(begun).key_set == 2
    refused(run, "signature", "send", out, "--root-key", begun.online)
    payload = out.read_bytes()
    out.write_bytes(payload[:-1] + bytes([payload[-1] ^ 1]))
    assert run("send", out)[0] == 2


@pytest.fixture
def of_two(begun: Site, run: Run) -> Site:
    """Two keys must sign; the second lies on another machine."""
    second = ok(run, "keygen", begun.key("second")).strip()
    both = ("--signer", begun.online, "--signer", second, "--threshold", "2")
    ok(run, "trust", "--root", begun.key("root"), *both)
    out = begun.folder / "renewed"
    ok(run, "renew", "--out", out)
    ok(run, "sign", out, "--key", begun.key("second"))
    ok(run, "send", out)
    return begun


def test_signers_on_different_machines(of_two: Site, run: Run) -> None:
    """Each edit is signed by one, then by the other, and is sent by somebody who holds no key."""
    site = of_two
    assert at_broker(site).key_set == 2
    elsewhere = ("--state-dir", site.folder / "elsewhere")
    ok(run, "keygen", site.key("stranger"))
    publish = ("publish", str(site.head("two")), "--name", "v2")
    edits = {publish: {"v1": STABLE, "v2": (CANARY, 10)}, **EDITS}
    for number, (words, after) in enumerate(edits.items()):
        before, file = at_broker(site), site.folder / f"change{number}"
        assert "wrote" in ok(run, *words, "--out", file)
        for name in ("online", "stranger"):
            ok(run, "sign", file, "--key", site.key(name))
            refused(run, "the change has 1 of them", "send", file, *elsewhere)
        assert at_broker(site) == before
        assert "v1" in ok(run, "sign", file, "--key", site.key("second"))
        ok(run, "send", file, *elsewhere)
        assert states(at_broker(site)) == after
        refused(run, "published already", "send", file, *elsewhere)


def test_a_change_that_comes_too_late_is_not_sent(of_two: Site, run: Run) -> None:
    site = of_two
    both = ("--key", site.key(), "--key", site.key("second"))
    first, second = site.folder / "first", site.folder / "second"
    ok(run, "publish", site.head("two"), "--name", "v2", *both, "--out", first)
    ok(run, "publish", site.head("three"), "--name", "v3", *both, "--out", second)
    ok(run, "send", first)
    # Made of the same catalogue, newer, and signed by all: it would undo the first.
    refused(run, "the newest catalogue", "send", second)
    assert set(states(at_broker(site))) == {"v1", "v2"}
    fresh = site.folder / "fresh"
    said = ok(run, "renew", *both, "--out", fresh, "--lifetime", "0.00002")
    # Edits of one second have epochs that run ahead of the clock.
    epoch = re.search(r"epoch (\d+)", said)
    assert epoch is not None
    time.sleep(max(0.0, int(epoch[1]) + 2 - time.time()))
    refused(run, "holds for 1 s", "send", fresh)
    third = site.folder / "third"
    ok(run, "promote", "v2", *both, "--out", third)
    refused(run, "is there already", "promote", "v2", *both, "--out", third)
    ok(run, "trust", "--root", site.key("root"), "--signer", site.online)
    refused(run, "key set 3 counts now", "send", third)
    third.write_bytes(b"noise")
    refused(run, "holds no change", "send", third)
    ok(run, "promote", "v2")


def test_the_first_key_set_must_be_said_to_be_the_first(site: Site, run: Run) -> None:
    words = ("trust", "--root", site.key("root"), "--signer", site.online)
    refused(run, "--serial", *words)
    ok(run, *words, "--serial", "1")
    assert "key set 2" in run(*words)[1]


def test_a_key_set_holds_for_half_a_year_and_is_renewed_by_the_root_key_alone(begun: Site, run: Run) -> None:
    """It is told from 30 days before on; once it is over nothing is published under it."""

    def listed() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(ok(run, "list", "--json"))["key_set"]
        return found

    first = listed()
    assert time.time() + LIFETIME - 300 < first["expires"] <= time.time() + LIFETIME
    root, topic = PrivateKey.load(begun.key("root")), topics.keys_topic(begun.family)
    words = "expires on", "expired on"
    for serial, days, told in ((2, 31, ()), (3, 25, words[:1]), (4, -1, words[1:])):
        keys = tuple(map(bytes.fromhex, first["keys"]))
        body = KeySet(1, begun.family, serial, 1, keys, expires=int(time.time() + days * DAY))
        asyncio.run(retained(begun, topic, seal(body, [root])))
        said = run("list")[2]
        assert tuple(word for word in words if f"key set {serial} of {begun.family} {word}" in said) == told
    refused(run, "nobody takes up a catalogue under it", "renew")
    assert "until" in ok(run, "trust", "--root", begun.key("root"))
    after = listed()
    assert (after["serial"], after["keys"], after["threshold"]) == (5, first["keys"], first["threshold"])
    assert after["expires"] >= first["expires"]
    ok(run, "renew")


def test_a_cleared_or_replayed_catalogue_is_not_edited_and_renew_brings_it_back(
    begun: Site, run: Run
) -> None:
    topic = topics.catalogue_topic(begun.family)
    old = asyncio.run(retained(begun, topic))
    ok(run, "publish", begun.head("two"), "--name", "v2")
    newest = at_broker(begun)
    asyncio.run(retained(begun, topic, old))
    assert "renew" in refused(run, "adopted before", "promote", "v2")
    ok(run, "renew")
    assert at_broker(begun).versions == newest.versions


def test_an_expired_catalogue_is_shown_and_renewed(begun: Site, run: Run) -> None:
    catalogue = at_broker(begun)
    past = Catalogue(1, begun.family, catalogue.epoch + 1, 1, 1, catalogue.heads, catalogue.versions)
    asyncio.run(retained(begun, topics.catalogue_topic(begun.family), seal(past, [begun.signer()])))
    assert "EXPIRED" in ok(run, "list", "--wait", "2.1", "--state-dir", begun.folder / "new")
    ok(run, "renew", "--lifetime", "1")
    assert at_broker(begun).lifetime == 86_400


def test_list_joins_catalogue_workers_and_edges(begun: Site, run: Run) -> None:
    digest, codec = at_broker(begun).versions[0].digest.hex(), Codec()
    worker, edge = f"w-{begun.family}", f"e-{begun.family}"
    ready = VersionStatus(name="v1", digest=digest[:16], state="ready", exactness="exact")
    held = WorkerStatus(state="online", epoch=1, at=0.0, worker=worker, versions=(ready,))
    told = edge_status(figures("v1", bytes.fromhex(digest), 9, 1, 60, 100), edge=edge, family=begun.family)
    asyncio.run(retained(begun, topics.worker_status_topic(worker), codec.encode_status(held)))
    asyncio.run(retained(begun, topics.edge_status_topic(edge), codec.encode_status(told)))
    out = ok(run, "list", "--json", "--wait", "0.3")
    text = ok(run, "list", "--wait", "0.3")
    asyncio.run(cleared(begun, topics.worker_status_topic(worker), topics.edge_status_topic(edge)))
    (version,) = json.loads(out)["versions"]
    assert (version["name"], version["state"], version["digest"]) == ("v1", "stable", digest)
    assert version["workers"] == [{"worker": worker, "state": "ready", "why": ""}]
    assert (version["answers"], version["errors"], version["acceptance"][1]) == (9, 1, 0.6)
    lines = text.splitlines()
    assert lines[2].split()[:5] == ["version", "state", "share", "digest", "draft"]
    assert lines[3].split()[:5] == ["v1", "stable", digest[:16], "shared", worker]


async def published(site: Site, number: int, both_read: asyncio.Barrier) -> None:
    """Read, wait until others have read, and then write."""
    async with catalogue_client(site.config(f"state{number}"), bytes.fromhex(site.root)) as client:
        await client.look()
        digest = bytes([number]) * 32
        edited = editing.publish(client.catalogue(), client.clock(), name=f"n{number}", digest=digest)
        await both_read.wait()
        await client.publish(edited, [site.signer()])


def test_two_publishers_at_once_are_both_told(begun: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either write may be lost, so neither publisher may think that all is well."""
    monkeypatch.setattr("flexspec_mq.waiting.ANSWER", 2.0)

    async def publish(*numbers: int) -> list[BaseException | None]:
        barrier = asyncio.Barrier(len(numbers))
        writers = (published(begun, number, barrier) for number in numbers)
        return await asyncio.gather(*writers, return_exceptions=True)

    for failure in asyncio.run(publish(1, 2)):
        assert isinstance(failure, LostRace | UsageError)
        assert "list" in failure.hint
    assert asyncio.run(publish(3)) == [None]
    assert "n3" in states(at_broker(begun))


@asynccontextmanager
async def watching(
    site: Site, say: Callable[[str], None], clock: Callable[[], float] = time.time
) -> AsyncIterator[Watcher]:
    root = bytes.fromhex(site.root)
    async with catalogue_client(site.config(), root, clock=clock) as client:
        await client.look()
        yield Watcher(client, [site.signer()], Judge(DEFAULT_RULE, Statuses(Evidence(site.family))), say)


@pytest.mark.parametrize(
    ("accepted", "after"),
    [(30, {"v1": DRAINING, "v2": STABLE}), (15, {"v1": STABLE, "v2": DRAINING})],
    ids=["good", "half the acceptance"],
)
def test_watch_promotes_or_aborts_by_the_statuses_of_edges(
    begun: Site, run: Run, accepted: int, after: dict[str, Any]
) -> None:
    ok(run, "publish", begun.head("two"), "--name", "v2")
    one, two = (version.digest for version in at_broker(begun).versions)
    said: list[str] = []

    async def watch() -> int:
        async with watching(begun, said.append) as watcher:
            for answers in range(1, 120):
                sums = (
                    figures(name, digest, answers, 0, answers * taken, answers * 50, answers * 60)
                    for name, digest, taken in (("v1", one, 30), ("v2", two, accepted))
                )
                watcher.judge.statuses.evidence.take(edge_status(*sums, family=begun.family))
                if await watcher.act():
                    return answers
        return 0

    answers = asyncio.run(watch())
    assert LEAST <= answers <= PROMOTE_AFTER
    assert states(at_broker(begun)) == after
    assert said[-1].startswith("promoted v2" if accepted == 30 else "aborted v2"), said


def test_watch_signs_anew_before_the_expiry_and_after_a_new_key_set(begun: Site, run: Run) -> None:
    first, said = at_broker(begun), list[str]()
    now = first.epoch + first.lifetime * 0.6

    async def steps(*moments: float) -> list[bool]:
        nonlocal now
        async with watching(begun, said.append, clock=lambda: now) as watcher:
            taken = []
            for now in moments:  # noqa: B007
                taken.append(await watcher.act())
            return taken

    late = first.epoch + first.lifetime * 0.7
    assert asyncio.run(steps(now, late, late)) == [False, True, False]
    assert at_broker(begun).epoch == int(late)
    ok(run, "trust", "--root", begun.key("root"), "--signer", begun.online)
    assert asyncio.run(steps(late)) == [True]
    assert at_broker(begun).key_set == 2
    assert len(said) == 2


def test_watch_brings_a_catalogue_back_that_somebody_cleared(begun: Site) -> None:
    before = at_broker(begun)

    async def watch() -> None:
        async with (
            watching(begun, list[str]().append) as watcher,
            running(watcher.run(pause=0.05), "watch") as task,
        ):
            await asyncio.sleep(0.1)
            await cleared(begun, topics.catalogue_topic(begun.family))
            await asyncio.sleep(1.0)
            assert not task.done()

    asyncio.run(watch())
    assert at_broker(begun).versions == before.versions


@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGTERM])
def test_to_end_watch_is_no_error(begun: Site, ends: signal.Signals) -> None:
    command = [sys.executable, "-m", "flexspec_mq.cli", "head", "watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        assert watch.stdout.readline().startswith(f"watching {begun.family}")
        watch.send_signal(ends)
        assert watch.communicate(timeout=60) == ("", "")
    assert watch.returncode == 0


@pytest.mark.usefixtures("begun")
def test_a_broker_that_is_not_there_is_an_error_of_the_link(run: Run) -> None:
    gone = ("--broker", "127.0.0.1:1", "--give-up-after", "0.2")
    refused(run, "127.0.0.1:1", "list", *gone, code=LinkError.exit_code)


def test_what_was_called_done_survives_a_kill_of_the_broker(
    site: Site, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a deployment as `init` makes it: Mosquitto and what runs it are killed as soon as a command has returned."""
    directory = made(tmp_path / "deployment", "--keys")
    good("add-publisher", directory, "release")
    link = as_client(directory / "hand-out" / "publisher" / "release")
    monkeypatch.delenv("FLEXSPEC_HEAD_BROKER")
    monkeypatch.setenv(
        "FLEXSPEC_HEAD_CONFIG", str(directory / "hand-out" / "publisher" / "release" / "head.toml")
    )
    commands = (
        ("trust", "--root", site.key("root"), "--signer", site.online, "--serial", "1"),
        ("publish", site.head("one"), "--name", "v1", "--first", "--heads", site.heads),
        ("publish", site.head("two"), "--name", "v2"),
        ("promote", "v2"),
        ("renew",),
    )
    record = None
    for words in (*commands, None):
        with broker_running(directory, tmp_path / "log") as (process, ready):
            if record is not None:
                assert asyncio.run(retained(link, topics.keys_topic(site.family))) == record.keys
                if record.catalogue:
                    kept = asyncio.run(retained(link, topics.catalogue_topic(site.family)))
                    assert kept == record.catalogue
            if words is None:
                monkeypatch.setattr("flexspec_mq.waiting.CONNECT", 1.5)
                (directory / "run" / "data" / "mosquitto.db.new").mkdir()  # so it cannot be written
                refused(run, "has not written it to its disk", "renew", code=LinkError.exit_code)
                break
            assert "does not say when it is on its disk" not in ok(run, *words)
            for pid in (ready["pid"], process.pid):
                os.kill(pid, signal.SIGKILL)
        record = Store(tmp_path / "state", site.family).load()
        assert record is not None
