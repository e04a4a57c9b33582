"""``flexspec bench`` as a command: what it refuses, what it starts, a short real run, and other servers."""

import asyncio
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from edge_node.cli.main import build_parser
from edge_node.config import from_arguments
from flexspec_mq import cli
from flexspec_mq.controller.plan import Plan
from flexspec_mq.controller.policies import POLICIES
from flexspec_mq.demo.children import NO_FILE, python
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.models.onnx.write import write_onnx
from lab.bench import main as bench
from lab.bench import options
from lab.bench import testbed as other
from lab.bench.figures import Failed, Sample
from lab.bench.measuring import Answered
from lab.bench.meter import LinkBytes
from lab.bench.strategies import (
    ABOUT,
    DEFAULT,
    RATIONED,
    UNRATIONED,
    Devices,
    chosen,
    nodes,
    of_other_texts,
    schemes,
)
from lab.bench.testbed import start_server
from lab.benchmarks import answers
from lab.testbed.deployment import local_deployment
from schemas.messages import MAX_AHEAD
from tests.models.tiny_checkpoints import byte_level_tokenizer, save, tiny_llama


def test_every_strategy_is_either_an_edge_node_or_a_scheme() -> None:
    names = chosen(None)
    edges = nodes(names, Devices("d", "t", 4))
    assert set(edges) | set(schemes(names)) == set(names) == set(DEFAULT)
    assert not set(edges) & set(schemes(names))
    assert set(POLICIES) <= set(edges), "whatever policies there are"
    assert list(edges) == [name for name in ABOUT if name in edges]
    assert chosen(["streaming", "traditional"]) == ["traditional", "streaming"], "the order of tables"
    assert {name for name, node in edges.items() if node.version == UNRATIONED} == {"colocated"}
    assert of_other_texts(names, 0.0) == []
    assert of_other_texts(names, 0.7) == ["traditional"]


def test_edge_nodes_do_what_their_names_say() -> None:
    devices = Devices("d", "t", 3, ("--energy", "phone-4g", "--threads", "2"))
    for name, node in nodes(chosen(None), devices).items():
        config = from_arguments(build_parser().parse_args(["serve", *node.flags, *NO_FILE])).settings
        assert (config.node.energy, config.node.threads) == ("phone-4g", 2)
        if name in POLICIES:
            assert (config.plan.policy, config.node.draft) == (name, "d")
        else:
            assert (config.plan.policy, config.node.draft, config.node.tokenizer) == ("fixed", "none", "t")
            assert not config.node.lookup
            worker_draft = 3 if name == "colocated" else 0
            assert config.plan.plan() == Plan(0, 1, 1, MAX_AHEAD, worker_draft=worker_draft)
    assert nodes(["streaming"], devices)["streaming"].version == RATIONED


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--tokens", "0"], "--tokens 0"),
        (["--questions", "0"], "--questions 0"),
        (["--temperature", "-1"], "--temperature -1"),
        (["--delays-ms", "-1"], "--delays-ms -1"),
        (["--guesses", "0"], "--guesses 0"),
        (["--worker-draft", "65"], "--worker-draft 65"),
        (["--links", "4g", "4g"], "--links"),
        (["--links", "3g"], "3g"),
        (["--strategies", "magic"], "no strategy 'magic'"),
        (["--strategies", "streaming", "streaming"], "twice"),
        (["--draft", "none"], "without a draft"),
        (["--prompts", "/no/such/file"], "/no/such/file"),
        (["--links", "loopback", "--edge-flags", "'"], "quotation"),
        (["--links", "loopback", "--server", "'"], "quotation"),
        (["--links", "loopback", "--server", "no-such-program {port}"], "no program no-such-program"),
        (["--links", "loopback", "--server", "true"], "where to listen"),
        (["--links", "loopback", "--strategies", "server"], "--server"),
    ],
)
def test_bad_values_are_named(
    arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["bench", "--out", str(out), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert named in printed.err
    assert printed.out == ""
    assert not out.exists()


def test_without_root_another_way_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/proc/self/ns/net").exists():
        pytest.skip("no Linux")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli.main(["bench", "--out", str(tmp_path / "out"), "--links", "4g"]) == 2
    said = capsys.readouterr().err
    assert "need root" in said
    assert "--links loopback" in said
    assert "flexspec link proxy" in said


def test_quick_shortens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda _name: object())
    parsed = options.build_parser().parse_args(["--quick", "--links", "5g", "4g", "--delays-ms", "60", "0"])
    options.check(parsed)
    assert (parsed.questions, parsed.tokens) == (options.QUICK_QUESTIONS, options.QUICK_TOKENS)
    assert (parsed.links, parsed.delays_ms) == (["5g"], [60.0])


def asking_of_tiny_models(folder: Path) -> list[str]:
    """Flags of a run with two prompts, answers of eight tokens, and a model of random weights as target and draft."""
    network = tiny_llama(max_position_embeddings=512, head_dim=16).bfloat16()
    model = save(folder / "model", network, byte_level_tokenizer())
    draft = write_onnx(model, folder / "draft", "float32", 0)
    file = folder / "questions.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in ("Why?", "How?")), "utf-8")
    return ["--target", str(model), "--draft", str(draft), "--prompts", str(file), "--tokens", "8"]


@pytest.mark.usefixtures("in_checkout")
@pytest.mark.timeout(600)
def test_a_run_over_loopback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mosquitto, two targets, a device as usual and two edge nodes; its results are not written over."""
    asked, out = asking_of_tiny_models(tmp_path), tmp_path / "out"
    names = ["traditional", "traditional-ids", "streaming", "fixed"]
    asked += ["--seed", "5", "--links", "loopback", "--strategies", *names, "beside-server", "--guesses", "3"]
    asked += ["--out", str(out)]
    other = Path(__file__).with_name("other_server.py")
    asked += ["--server", f"{sys.executable} {other} {{host}} {{port}}"]
    assert cli.main(["bench", *asked]) == 0
    printed = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text("utf-8"))
    (channel,) = results["channels"]
    found = channel["strategies"]
    assert list(found) == [*names, "server", "beside-server"]
    assert channel["differ"] == []
    assert "server *" in printed, "writes a text of its own"
    other_server = found["server"]
    assert (other_server["answers"], other_server["tokens"]) == (2, 2)
    assert other_server["of_streaming"]["mean_s"] is not None
    assert found["beside-server"]["of_server"]["mean_s"] is not None
    for name in names:
        one = found[name]
        assert f"\n{name} " in printed
        assert one["answers"] == 2
        assert one["energy_j_per_100"][0] > 0
        assert one["ip_bytes"] is None, "loopback has none"
    # The target as its own draft: all is accepted but for rounding, and a forward decides several tokens.
    assert min(found[name]["acceptance"] for name in ("traditional", "fixed")) > 0.8
    assert cli.main(["bench", *asked]) == 2
    assert "holds the results" in capsys.readouterr().err


def test_a_run_in_which_every_answer_fails_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*measured: Any) -> None:
        measured[-1].append(Answered([], [Failed(0, name, "the prompt is too long") for name in names]))

    monkeypatch.setattr(bench, "_measure", fails)
    names = ["traditional-ids", "streaming"]
    flags = [
        "--questions",
        "1",
        "--links",
        "loopback",
        "--strategies",
        *names,
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.main(["bench", *flags]) == 1
    said = capsys.readouterr()
    assert "no answer came: all 2 failed" in said.err
    assert re.search(r"^traditional-ids +0 +1 ", said.out, re.MULTILINE)


@pytest.fixture
def flags_of_the_bench(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Flags that the bench gets, which measures nothing."""
    found: list[list[str]] = []

    def run(argv: Sequence[str]) -> int:
        found.append([*argv])
        return 0

    monkeypatch.setattr(bench, "run", run)
    return found


def test_the_server_of_llama_cpp_is_asked_where_it_is_there(
    flags_of_the_bench: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(answers, "_gguf", lambda _target, scratch: scratch / "target.gguf")
    assert answers.main([]) == 0
    command = flags_of_the_bench[0][flags_of_the_bench[0].index("--server") + 1]
    assert command.startswith("llama-server -m /")
    assert command.endswith("--host {host} --port {port}")


WORDS = (sys.executable, str(Path(__file__).with_name("other_server.py")), "{host}", "{port}")


async def answered(
    command: tuple[str, ...], questions: list[str], say: Callable[[str], None] = print
) -> list[tuple[dict[str, Any], LinkBytes]]:
    async with local_deployment() as here:
        client = await here.start("client", "device", python("lab.bench.client"))
        server = await start_server(here, command, client, say)
        return [
            await server.ask({"messages": [{"role": "user", "content": text}], "max_tokens": 9}, None)
            for text in questions
        ]


def test_another_server_is_asked_over_http() -> None:
    # It prints more than a pipe holds: it must not wait for somebody to read that.
    found = asyncio.run(answered(WORDS, ["one two three", "four"]))
    told = [Sample.of_answer(number, "server", *one) for number, one in enumerate(found)]
    assert [one.text for one in told] == ["one two three ", "four "]
    assert [one.tokens for one in told] == [3, 1]
    assert all(one.first is not None and 0 < one.first <= one.seconds for one in told)
    assert all((one.ip_up, one.rounds) == (None, 0) for one in told)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("sh", "-c", "echo no model here; exit 3"), "ended with code 3"),
        (("true",), "ended with code 0"),
        ((*WORDS, "page"), "lists no model at /v1/models"),
    ],
)
def test_one_that_ends_is_told_with_what_it_said(command: tuple[str, ...], said: str) -> None:
    with pytest.raises(FlexSpecError, match=said) as caught:
        asyncio.run(answered(command, []))
    assert ("no model here" in (caught.value.hint or "")) == (command[0] == "sh")


def test_what_is_waited_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other, "_TOLD_EACH", 0.3)
    said: list[str] = []
    ((found, _),) = asyncio.run(answered((*WORDS, "late"), ["one two"], said.append))
    assert found["text"] == "one two "
    assert len(said) >= 2
    assert all("lists no model yet" in line for line in said)


@pytest.mark.parametrize(
    ("way", "text", "why"),
    [("broken", "one ", ""), ("torn", "one ", ""), ("silent", "one two ", "how many tokens")],
)
def test_a_stream_that_breaks_off_or_is_of_untold_length_is_an_answer_that_failed(
    way: str, text: str, why: str
) -> None:
    ((answer, _),) = asyncio.run(answered((*WORDS, way), ["one two"]))
    assert answer["text"] == text
    assert answer["error"]
    assert why in answer["error"]
