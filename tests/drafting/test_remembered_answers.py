"""Remembered answers: what is kept and for whom, whatever happens to the files; and that texts stay the target's."""

import logging
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.launcher import PrivateBroker
from edge_node.cli.main import main
from flexspec_mq.controller.plan import Plan
from flexspec_mq.drafting import memory
from flexspec_mq.drafting.memory import ANSWERS, FILES, LEAD, TOKENS, AnswerMemory
from flexspec_mq.drafting.prompt_lookup import PromptLookupDrafter
from tests.edge_node.api.served import CONTEXT, alone, content, served

OWNERS = st.tuples(
    st.sampled_from(["v1", "v1.2"]),
    st.sampled_from(["", "aa"]),
    st.sampled_from([b"", b"a"]),
    st.sampled_from([b"t", b"u"]),
    st.sampled_from(["here", "there"]),
)
STEPS = st.one_of(
    st.tuples(st.just("add"), OWNERS, st.just(2), st.integers(1, ANSWERS + 2)),
    st.tuples(st.just("add"), OWNERS, st.integers(1, TOKENS + 9), st.integers(1, 3)),
    st.tuples(st.sampled_from(["forget", "damage", "restart", "keep"]), OWNERS, st.just(0), st.just(0)),
)


@settings(max_examples=40)
@given(st.lists(STEPS, max_size=12))
def test_each_user_of_each_version_has_the_newest_answers_and_nothing_else(steps: list[Any]) -> None:
    """By two nodes that share a folder, against lists in a dictionary."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "answers"

        def start() -> list[dict[str, AnswerMemory]]:
            return [{at: AnswerMemory(folder, at) for at in ("here", "there")} for _ in range(2)]

        nodes, known = start(), dict[Any, list[list[int]]]()
        serving = dict[str, tuple[str, str]]()
        for turn, (step, owner, size, times) in enumerate(steps):
            *who, at = owner
            answers = nodes[turn % 2][at].of(*who)
            for number in range(times):
                answer = [1, 2, 3, 4, number, *range(size)]
                answers.add((9, *answer[:LEAD]), answer[LEAD:])
                if serving.get(at, owner[:2]) != owner[:2]:
                    continue
                kept = known.setdefault(owner, [])
                kept.append(answer[:TOKENS])
                while len(kept) > ANSWERS or sum(map(len, kept)) > TOKENS:
                    kept.pop(0)
            if step == "forget":
                memory.forget(folder, who[0])
                assert not list(folder.glob("*.part"))
                known = {one: kept for one, kept in known.items() if one[0] != who[0]}
            elif step == "keep":
                serving[at] = owner[:2]
                for node in nodes:
                    node[at].keep({serving[at]})
                known = {one: kept for one, kept in known.items() if one[:2] == owner[:2] or one[4] != at}
            elif step == "damage" and owner in known:
                answers._path.write_bytes(answers._path.read_bytes()[:-1])
                answers._path.with_name(f".{answers._path.name}.1.part").write_bytes(b"a program was killed")
                del known[owner]
            elif step == "restart":
                nodes, serving = start(), {}
            for node in nodes:
                found = node[at].of(*who).recall()
                assert list(found._answers) == known.get(owner, [])
                assert len(found.lookup) == sum(len(answer) + 1 for answer in found._answers)
        assert {path.stat().st_mode & 0o777 for path, _ in memory.listed(folder)} <= {0o600}
        assert not folder.exists() or folder.stat().st_mode & 0o777 == 0o700


def test_files_are_few_and_go_with_time_and_a_full_disk_or_damage_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = AnswerMemory(tmp_path, "here")
    for user in range(FILES + 3):
        node.of("v", "", b"%d" % user, b"t").add((), (1, 2))
    assert len(memory.listed(tmp_path)) == FILES
    old, _ = memory.listed(tmp_path)[0]
    os.utime(old, (1e9, 1e9))
    AnswerMemory(tmp_path, "here")
    assert len(memory.listed(tmp_path)) == FILES - 1
    with caplog.at_level(logging.WARNING):
        AnswerMemory(Path("/proc/none"), "here").of("v", "", b"", b"t").add((), (1, 2))
        memory.listed(tmp_path)[0][0].write_bytes(b"x")
        assert memory.listed(tmp_path)[0][1] is None
    assert "answers are not kept" in caplog.text
    assert "cannot be read, and begin anew" in caplog.text


async def test_an_answer_that_is_remembered_comes_in_fewer_rounds_to_its_user_until_it_is_forgotten(
    mosquitto: PrivateBroker, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*more: str) -> str:
        assert main(["memory", *more, "--state-dir", str(tmp_path), "--config", os.devnull]) == 0
        return capsys.readouterr().out

    drafter = PromptLookupDrafter(max_context=CONTEXT)
    kept = AnswerMemory(tmp_path / "answers", "here")
    async with served(mosquitto, plan=Plan(8, 1, 1), drafter=drafter, memory=kept) as api:

        async def rounds(user: str) -> int:
            answer = await api.chat("hello", seed=4, max_tokens=60, ignore_eos=True, user=user)
            assert content(answer) == alone("hello", 4, 60, ignore_eos=True)
            found: int = answer.json()["usage"]["flexspec"]["rounds"]
            return found

        first, again, other = await rounds("a"), await rounds("a"), await rounds("b")
        assert again < 15 < min(first, other)
        assert f"{api.version}: 2 answers, {2 * (60 + LEAD)} tokens, by here" in command("show")
        shown = command("show", api.version, "--draft", "none", "--tokenizer", str(tiny))
        assert len(shown) > len(command("show")) + 120
        assert "forgot 2 files" in command("forget", api.version)
        assert await rounds("a") > 15
    assert main(["memory", "show", "other", "--state-dir", str(tmp_path), "--config", os.devnull]) == 2
