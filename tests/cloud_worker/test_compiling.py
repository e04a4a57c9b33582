"""Grammars of opens: one after the other, devices in turns, and each pays."""

import asyncio
from typing import Any

import msgspec

from cloud_worker.admission import MessageAdmission
from cloud_worker.compiling import GrammarCompiler, OpenRefused
from cloud_worker.settings import QuotaSettings
from flexspec_mq.errors import GrammarError
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.reader import engine_name
from schemas.messages import ErrorCode, Open
from tests.hostile import opening


class Compiled:
    def __init__(self, ms: float) -> None:
        self.ms = ms


class Grammars:
    """As many milliseconds as a grammar's regular expression has letters; capital ones are errors."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def compile(self, grammar: Grammar) -> Compiled:
        if "lark" not in grammar.source:  # at the start
            return Compiled(0.0)
        regex = grammar.source.split("/")[1]
        self.done.append(regex)
        if regex.isupper():
            raise GrammarError("wrong", ms=float(len(regex)))
        return Compiled(float(len(regex)))

    def close(self) -> None:
        """Nothing was begun for them."""


def an_open(regex: str) -> Open:
    grammar, plain = Grammar.from_regex(regex), opening()
    identity = msgspec.structs.replace(plain.identity, grammar=grammar.digest(engine_name()))
    return msgspec.structs.replace(plain, identity=identity, grammar=grammar.pack())


def made(grammars: Any, clock: list[float]) -> tuple[GrammarCompiler, MessageAdmission]:
    admission = MessageAdmission(QuotaSettings(), "w1", lambda _: None, lambda: clock[0])
    return GrammarCompiler(grammars, admission), admission


async def outcome(compiler: GrammarCompiler, edge: str, message: Open) -> ErrorCode | None:
    try:
        await compiler.compile(edge, message)
    except OpenRefused as refused:
        return refused.code
    return None


async def test_devices_take_turns_and_one_has_only_so_many_waiting() -> None:
    grammars = Grammars()
    compiler, _ = made(grammars, [0.0])
    greedy = [outcome(compiler, "greedy", an_open("a" * (1 + n))) for n in range(20)]
    others = [outcome(compiler, edge, an_open(edge)) for edge in ("b", "c")]
    codes = await asyncio.gather(*greedy, *others)
    compiler.close()
    assert codes == [None] * 17 + [ErrorCode.BUSY] * 3 + [None] * 2
    assert grammars.done[:4] == ["a", "aa", "b", "c"]
    assert len(grammars.done) == 19


async def test_a_device_pays_for_its_grammars_and_is_refused_until_that_has_come_back() -> None:
    grammars, clock = Grammars(), [0.0]
    compiler, admission = made(grammars, clock)
    assert await outcome(compiler, "evil", an_open("A" * 500)) is ErrorCode.GRAMMAR
    assert not admission.solvent("evil")
    assert await outcome(compiler, "evil", an_open("b")) is ErrorCode.BUSY
    assert await outcome(compiler, "other", an_open("c")) is None
    clock[0] += 9.0  # 25 ms come back each second
    assert await outcome(compiler, "evil", an_open("d")) is None
    compiler.close()
    assert grammars.done == ["A" * 500, "c", "d"]


async def test_what_cannot_be_compiled_is_told_by_its_code() -> None:
    compiler, _ = made(Grammars(), [0.0])
    known = an_open("a")
    assert await outcome(compiler, "e", msgspec.structs.replace(known, grammar=b"")) is ErrorCode.NEED_PREFIX
    assert await outcome(compiler, "e", msgspec.structs.replace(known, grammar=b"x")) is ErrorCode.MALFORMED
    other = an_open("b").grammar
    assert await outcome(compiler, "e", msgspec.structs.replace(known, grammar=other)) is ErrorCode.BUSY
    assert await outcome(made(None, [0.0])[0], "e", known) is ErrorCode.BUSY
    compiler.close()
