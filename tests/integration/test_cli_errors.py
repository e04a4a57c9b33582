"""Each error that a user can make or meet: the exit code, and a message that says what to do."""

import io
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from transformers import BertConfig

from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings, Role, User, hashed
from cloud_worker.__main__ import main as cloud
from edge_node.cli.main import main as edge
from lab.testbed.process import Process
from tests.integration.processes import ended, silent_port, start, start_worker, status
from tests.models.tiny_checkpoints import byte_fallback_tokenizer, save, tiny_llama

CONTEXT = 2048


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A draft with another tokenizer; the model is the same."""
    return save(
        tmp_path_factory.mktemp("stranger"),
        tiny_llama(max_position_embeddings=CONTEXT, head_dim=16),
        byte_fallback_tokenizer(),
    )


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    BertConfig(hidden_size=16, num_hidden_layers=1, architectures=["BertForMaskedLM"]).save_pretrained(folder)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny_worker(mosquitto: PrivateBroker, tiny: Path) -> AsyncIterator[Process]:
    worker = await start_worker(mosquitto, "tiny", "--target", str(tiny), "--version", "tiny")
    await worker.event()
    yield worker
    await worker.kill()


def at(broker: PrivateBroker) -> list[str]:
    return ["--broker", f"{broker.host}:{broker.port}"]


def refused(capsys: pytest.CaptureFixture[str], code: int, expected: int, *words: str) -> None:
    said = capsys.readouterr()
    assert code == expected, said.err
    assert "Traceback" not in said.err
    error = said.err[said.err.index("error: ") :]
    for word in (*words, "hint: "):
        assert word in error, error


# Errors that are found before a broker is asked


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ask", " \n"], ["the prompt is empty", "hint: "]),
        (["ask", "caf\udce9"], ["not UTF-8", "0xe9 at offset 3", "hint: ", "iconv"]),
        (["ask", "hi", "--max-tokens", "0"], ["limit of 0 tokens", "hint: "]),
        (["ask", "hi", "--broker", "nowhere:"], ["not host:port", "hint: ", "127.0.0.1:1883"]),
        (["ask", "hi", "--edge", "a/b"], ["cannot stand in a topic", "hint: "]),
        (["ask", "hi", "--tls-key", "k"], ["--tls-key needs --tls-cert", "hint: "]),
        (["ask", "hi", "--temperature", "-1"], ["temperature -1.0 is not >= 0.0"]),
        (["ask", "hi", "--top-p", "0"], ["top_p 0.0 is not > 0.0"]),
        (["ask", "hi", "--timeout", "0"], ["a timeout of 0.0 s is over before it begins"]),
        (["ask", "hi", "--timeout", "nan"], ["a timeout of nan s"]),
        (["ask", "hi", "--ahead", "-1"], ["ahead -1 is not between 0 and"]),
        (["ask", "hi", "--give-up-after", "0"], ["give_up_after 0.0 is not above 0 seconds"]),
        (["ask", "hi", "--give-up-after", "nan"], ["give_up_after nan"]),
    ],
)
def test_edge_usage(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert edge(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert [word for word in words if word not in error] == []


def test_a_prompt_from_a_pipe_that_is_not_utf8_or_closed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9 au lait")))
    refused(capsys, edge(["ask"]), 2, "standard input is not UTF-8", "0xe9 at offset 3")
    monkeypatch.setattr(sys, "stdin", None)
    refused(capsys, edge(["ask"]), 2, "the prompt is empty")


def test_models_that_are_none(capsys: pytest.CaptureFixture[str], bert: Path, tmp_path: Path) -> None:
    for run, flag in ((cloud, ["--target"]), (edge, ["ask", "hi", "--draft"])):
        refused(capsys, run([*flag, "/no/such/folder"]), 3, "there is no folder", "default")
        refused(capsys, run([*flag, str(tmp_path)]), 3, "no config.json")
        refused(capsys, run([*flag, str(bert)]), 3, "no causal language model but BertForMaskedLM")
    code = cloud(["--target", str(bert), "--dtype", "int3"])
    refused(capsys, code, 3, "unknown dtype 'int3'", "bfloat16")


def test_a_workers_draft_and_family_are_looked_at_before_its_target_is_loaded(
    capsys: pytest.CaptureFixture[str], tiny: Path, stranger: Path, bert: Path, tmp_path: Path
) -> None:
    (tmp_path / "smol.catalogue").write_bytes(b"damaged")
    family = ("--family", "smol", "--state-dir", str(tmp_path), "--root-key")
    vocabulary = f"the draft {stranger} has another vocabulary than the target {tiny}"
    for flags, code, words in (
        (("--draft", "/no/such/folder"), 3, "error: there is no folder /no/such/folder"),
        (("--draft", str(bert)), 3, "no causal language model but BertForMaskedLM"),
        (("--draft", str(stranger)), 2, vocabulary),
        ((*family, "ab" * 32), 1, "smol.catalogue is damaged"),
    ):
        assert cloud(["--target", str(tiny), *flags, "--prove"]) == code
        said = capsys.readouterr().err
        assert words in said
        assert "proving" not in said


# The broker


def test_a_broker_that_is_not_there(capsys: pytest.CaptureFixture[str], tiny: Path) -> None:
    with silent_port() as port:
        where = ["--broker", f"127.0.0.1:{port}", "--give-up-after", "0.4"]
        for run, flags in ((edge, ["ask", "hi", "--draft"]), (cloud, ["--target"])):
            code = run([*flags, str(tiny), *where])
            refused(capsys, code, 4, "gave up after 0.4 s", str(port), "flexspec-broker run")


@pytest.mark.parametrize(("wait", "patience"), [("0", "1"), ("0.5", "0.5")])
def test_a_command_that_answers_and_stops_gives_up_as_soon_as_the_api_would(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny: Path, wait: str, patience: str
) -> None:
    monkeypatch.setattr("flexspec_mq.waiting.UNLINKED", 1.0)
    with silent_port() as port:
        asked = edge(["ask", "hi", "--draft", str(tiny), "--broker", f"127.0.0.1:{port}", "--wait", wait])
    said = capsys.readouterr()
    where = f"nothing listens at 127.0.0.1:{port}"
    *_, loading, connecting, error, hint = said.err.splitlines()
    assert (asked, loading.partition(" ")[0]) == (4, "loading")
    assert connecting == f"connecting to the broker at 127.0.0.1:{port}: {where}"
    assert error == f"error: gave up after {patience} s: {where}"
    assert hint.startswith("  hint: is the broker running")


def test_a_broker_that_refuses(capsys: pytest.CaptureFixture[str], tiny: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not the password\n")
    users = (User("phone", Role.EDGE, hashed("right")),)
    with PrivateBroker(BrokerSettings(port=0, users=users)) as broker:
        for who in ([], ["--username", "phone", "--password-file", str(wrong)]):
            for run, flags in ((edge, ["ask", "hi", "--draft"]), (cloud, ["--target"])):
                refused(capsys, run([*flags, str(tiny), *at(broker), *who]), 4, "refuse", f"{broker.port}")


def test_a_port_for_tls_that_is_asked_without(
    capsys: pytest.CaptureFixture[str], tiny: Path, tls_mosquitto: PrivateBroker
) -> None:
    """People are told in words, and no library logs its own beside them."""
    asked = edge(["ask", "hi", "--draft", str(tiny), *at(tls_mosquitto), "--give-up-after", "1"])
    said = capsys.readouterr()
    assert asked == 4
    lines = said.err.splitlines()
    assert [
        line for line in lines if "speaks TLS, and we were told to connect without; give --tls-ca" in line
    ]
    assert lines[-2].startswith("error: gave up after 1 s: ")
    assert not [line for line in lines if line.startswith("{")]


# The worker


def test_nobody_is_waited_for_unless_that_is_asked_for(
    capsys: pytest.CaptureFixture[str], tiny: Path, mosquitto: PrivateBroker
) -> None:
    """Long before the default patience is over, which is two minutes."""
    ask = ["ask", "hi", "--draft", str(tiny), *at(mosquitto), "--version", "nobodys", "--events"]
    for wait in (None, 2.5):
        code = edge(ask if wait is None else [*ask, "--wait", str(wait)])
        said = capsys.readouterr()
        assert code == 5
        assert "error: no worker serves nobodys\n  hint: start one; " in said.err
        events = [json.loads(line) for line in said.out.splitlines()]
        assert (events[-1]["type"], events[-1]["reason"]) == ("finish", "failed")
        assert events[-1]["error"] == "no worker serves nobodys"
        told = [event["for"] for event in events if event["type"] == "waiting"]
        assert told == ([] if wait is None else ["a worker of nobodys (versions online: none)"])
        assert ("waiting for a worker of nobodys" in said.err) == (wait is not None)
        assert (wait or 0.0) < events[-1]["stats"]["seconds"] < 60.0


def test_a_prompt_longer_than_the_context(
    capsys: pytest.CaptureFixture[str], tiny: Path, mosquitto: PrivateBroker
) -> None:
    code = edge(["ask", "x" * CONTEXT, "--draft", str(tiny), *at(mosquitto), "--version", "nobodys"])
    refused(capsys, code, 2, f"{CONTEXT} tokens and the model's context {CONTEXT}", "shorten the prompt")


async def streaming(broker: PrivateBroker, draft: Path, **environment: str) -> Process:
    """An answer of which the first text has come."""
    flags = ("--draft", str(draft), "--version", "tiny", "--ignore-eos", "--max-tokens", "2000", "--events")
    more = ("--draft-length", "0", *at(broker))
    asked = await start("edge_node", "ask", "hi", *flags, *more, **environment)
    await asked.event(lambda event: event["type"] == "text")
    return asked


@pytest.mark.asyncio(loop_scope="module")
async def test_ctrl_c_ends_an_answer_and_tells_the_worker(
    tiny_worker: Process, mosquitto: PrivateBroker, tiny: Path
) -> None:
    asked = await streaming(mosquitto, tiny)
    await status(mosquitto, "tiny", lambda found: found.load == 1)
    asked.send_signal(signal.SIGINT)
    code, said = await ended(asked)
    assert code == 130
    assert "error: stopped by the user" in said
    assert "Traceback" not in said
    await status(mosquitto, "tiny", lambda found: found.load == 0)
    assert tiny_worker.runs


@pytest.mark.asyncio(loop_scope="module")
async def test_a_worker_that_goes_in_mid_answer(
    tiny_worker: Process, mosquitto: PrivateBroker, tiny: Path
) -> None:
    """The last test of this module: the worker is gone after it."""
    asked = await streaming(mosquitto, tiny, FLEXSPEC_EDGE_WAIT="1")
    await tiny_worker.kill()
    finish = await asked.event(lambda event: event["type"] == "finish")
    assert finish["reason"] == "failed"
    assert 0 < len(finish["tokens"]) < 2000
    code, said = await ended(asked)
    assert code == 5
    assert "error: no worker serves tiny\n  hint: start one" in said
    assert (await status(mosquitto, "tiny", lambda _: True)).state == "gone"
