"""Messages, machines and worlds for the tests of both sides."""

import random
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from flexspec_mq import waiting
from flexspec_mq.controller.estimators.node import NodeEstimates
from flexspec_mq.controller.plan import FixedPolicy, Plan, Policy
from flexspec_mq.protocol import digest as chains
from flexspec_mq.protocol.edge.session import EdgeSession
from flexspec_mq.protocol.edge.types import DraftToken, EdgeState, SessionRequest
from flexspec_mq.protocol.effects import Commit, Effect, Reply, Send, WorkerEffect
from flexspec_mq.protocol.worker.machine import WorkerMachine
from flexspec_mq.protocol.worker.types import WorkerConfig, WorkItem
from lab.simulator.world import FakeTarget, Link, World, held, identity
from schemas.messages import Draft, Error, ErrorCode, Fin, Identity, Open, Poll, Verdict

PROMPT = (3, 1, 4)
CONFIG = WorkerConfig(worker="w", versions=("v",), facts=held(100), capacity=2, lease=30)


def digest(
    tokens: Sequence[int] = (),
    ident: Identity | None = None,
    prompt: Sequence[int] = PROMPT,
    version: str = "v",
) -> int:
    """Digest of a text, from its generated tokens."""
    chain = chains.chain_for(ident or identity(), version, prompt)
    chain.extend(tokens)
    return chain.digest(len(tokens))


# The worker


def opening(
    *,
    attempt: int = 1,
    committed: tuple[int, ...] = (),
    draft: tuple[int, ...] = (),
    ahead: int = 0,
    session: int = 1,
    ident: Identity | None = None,
    prompt: tuple[int, ...] = PROMPT,
    worker_draft: int = 0,
) -> Open:
    """An open of session 1."""
    message = Open(session, attempt, ident or identity(), prompt, committed, ahead, 1, draft)
    return replace(message, worker_draft=worker_draft)


def batch(
    prefix: Sequence[int],
    tokens: Sequence[int],
    *,
    have: int = 0,
    seq: int = 2,
    attempt: int = 1,
    ahead: int = 0,
    kind: type[Draft | Poll] = Draft,
) -> Draft | Poll:
    """Tokens of session 1, drafted after `prefix`."""
    return kind(1, attempt, seq, have, len(prefix) - have, digest(prefix), tuple(tokens), ahead)


def answer(effects: Iterable[WorkerEffect], edge: str = "e") -> Verdict | Error:
    """The last message that an edge is told."""
    return [effect.message for effect in effects if isinstance(effect, Reply) and effect.edge == edge][-1]


def code(effects: Iterable[WorkerEffect], edge: str = "e") -> ErrorCode | None:
    """Code of the error that an edge is told; None where its answer is a verdict."""
    message = answer(effects, edge)
    return message.code if isinstance(message, Error) else None


def verdicts(effects: Iterable[WorkerEffect]) -> list[Verdict]:
    """All verdicts that are sent."""
    return [e.message for e in effects if isinstance(e, Reply) and isinstance(e.message, Verdict)]


def opened(message: Open | None = None, config: WorkerConfig = CONFIG) -> WorkerMachine:
    """A worker at which edge `e` has opened a session at 0."""
    machine = WorkerMachine(config)
    machine.receive("e", message or opening(), 0.0)
    return machine


def item(machine: WorkerMachine, now: float = 0.1) -> WorkItem:
    """The one item that there is."""
    (work,) = machine.take_work(now, 9)
    return work


def decide(machine: WorkerMachine, *tokens: int, now: float = 0.2) -> list[WorkerEffect]:
    """Let the engine decide these tokens."""
    return machine.result(item(machine, now), tokens, 1, 2, now)


# The edge


def verdict(
    prefix: Sequence[int],
    tokens: Sequence[int],
    *,
    attempt: int = 1,
    worker: str | None = None,
    fin: Fin = Fin.NONE,
    end: int | None = None,
    ident: Identity | None = None,
    prompt: Sequence[int] = PROMPT,
) -> Verdict:
    """Tokens decided after `prefix`."""
    after = digest((*prefix, *tokens), ident, prompt) if end is None else end
    lease = 30 if worker else 0
    return Verdict(1, attempt, 0, len(prefix), tuple(tokens), after, fin, 0, 0, worker, lease)


def session(
    plan: Plan | None = None,
    estimates: NodeEstimates | None = None,
    *,
    others: bool = True,
    **changes: object,
) -> EdgeSession:
    """A session that has not begun; `others`: more than one worker may take it."""
    fields: dict[str, object] = {"session": 1, "version": "v", "identity": identity(), "prompt": PROMPT}
    request = SessionRequest(**(fields | changes))  # type: ignore[arg-type]
    policy = FixedPolicy(plan or Plan(2, 1))
    return EdgeSession(request, policy, random.Random(1), estimates, others=lambda _: others)


def started(plan: Plan | None = None, *, others: bool = True, **changes: object) -> EdgeSession:
    """Opened at 0 and adopted by `w` at 0.1 with no token decided."""
    machine = session(plan, others=others, **changes)  # type: ignore[arg-type]
    machine.start(0.0)
    machine.receive(verdict((), (), worker="w"), 0.1)
    assert machine.state is EdgeState.ACTIVE
    return machine


def give(machine: EdgeSession, *tokens: int | DraftToken, now: float = 0.2) -> list[Effect]:
    """Draft these tokens at the tip."""
    effects: list[Effect] = []
    for token in tokens:
        wanted = machine.draft_request()
        assert wanted is not None
        drafted = DraftToken(token) if isinstance(token, int) else token
        effects += machine.drafted(wanted.start, wanted.digest, drafted, now)
    return effects


def sent(effects: Iterable[Effect], kind: type = object) -> list[Send]:
    """Messages of a kind that are sent."""
    return [e for e in effects if isinstance(e, Send) and isinstance(e.message, kind)]


def batches(effects: Iterable[Effect]) -> list[tuple[int, tuple[int, ...]]]:
    """Start and tokens of the drafts that are sent."""
    drafts = [send.message for send in sent(effects, Draft)]
    return [(draft.start, draft.tokens) for draft in drafts if isinstance(draft, Draft)]


def committed(effects: Iterable[Effect]) -> tuple[int, ...]:
    """Tokens that are committed."""
    return sum((e.tokens for e in effects if isinstance(e, Commit)), ())


# Both


def clean_world(
    plan: Plan | Policy,
    accuracy: float,
    *,
    delay: float = 0.02,
    sessions: int = 1,
    limit: int = 120,
    doubts: bool = False,
    answer_timeout: float = waiting.ANSWER,
) -> World:
    """Sessions that one worker writes by a plan, over a link that loses and swaps nothing. It does not run yet."""
    rng = random.Random(7)
    config = WorkerConfig(worker="w", versions=("v",), facts=held(512))
    world = World(rng, FakeTarget(eos_every=10**9), Link(rng, delay=delay), 1, config)
    world.early_stops, world.doubts = 0.0, doubts
    policy = FixedPolicy(plan) if isinstance(plan, Plan) else plan
    for number in range(1, sessions + 1):
        request = SessionRequest(
            session=number,
            version="v",
            identity=identity(seed=number, limit=limit),
            prompt=(1, 2, number),
            answer_timeout=answer_timeout,
        )
        world.add(request, policy, accuracy)
    return world
